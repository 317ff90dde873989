# /// script
# dependencies = ["numpy"]
# ///
"""A variational autoencoder on one page: the loss, every gradient by hand, Adam, training, and the gradient check.

    B batch    D data dimension    Z latent dimension    I, O inputs and outputs of a layer    eps ~ N(0, 1) [B, Z]
    x [B, D]  ->  encoder  ->  h = [mu | logvar] [B, 2Z]  ->  z = mu + sigma eps [B, Z]  ->  decoder  ->  logits [B, D]
    dy = dL/dy has the shape of y.    logvar = log sigma^2.    L = recon + kl, in nats per example (batch mean).

Prints a gradient check, then the loss as it falls: of the digits, or a data.npy. kernels/reference.py derives it all.
"""

import sys
from pathlib import Path

import numpy as np

ACTIVATIONS = {"relu": (lambda a: np.maximum(a, 0), lambda y: y > 0), "tanh": (np.tanh, lambda y: 1 - y * y)}


def mlp_forward(x, parameters, activation):
    """[x, y of the first layer, ..., y of the last] from [W, b, W, b, ...]:  y [B, O] = f(a),  a = x W + b."""
    f, outputs = ACTIVATIONS[activation][0], [x]
    for W, b in zip(parameters[0::2], parameters[1::2]):
        a = outputs[-1] @ W + b
        outputs.append(a if W is parameters[-2] else f(a))  # the last layer has no f
    return outputs


def mlp_backward(dy, outputs, parameters, activation, need_dx):
    """dx and [dW, db, dW, db, ...], from the last layer to the first, by  a_bo = sum_i x_bi W_io + b_o."""
    slope, gradients = ACTIVATIONS[activation][1], []  # f'(a), written in terms of y = f(a)
    for x, y, W in reversed([*zip(outputs, outputs[1:], parameters[0::2])]):
        da = dy if W is parameters[-2] else dy * slope(y)
        gradients = [x.T @ da, da.sum(axis=0)] + gradients  # dW_io = sum_b x_bi da_bo,  db_o = sum_b da_bo
        dy = da @ W.T if need_dx or x is not outputs[0] else None  # dx_bi = sum_o da_bo W_io, the next dy
    return dy, gradients


def loss_and_gradients(parameters, x, eps, activation):
    """[recon, kl], and the gradient of their sum for each parameter. The second half walks back through the first."""
    B, half = len(x), len(parameters) // 2
    encoder, decoder = parameters[:half], parameters[half:]
    encoded = mlp_forward(x, encoder, activation)
    mu, logvar = np.split(encoded[-1], 2, axis=1)
    sigma = np.exp(0.5 * logvar)
    kl = 0.5 * (mu**2 + sigma**2 - logvar - 1).sum() / B  # KL( N(mu, sigma^2) || N(0, 1) )
    z = mu + sigma * eps
    decoded = mlp_forward(z, decoder, activation)
    a = decoded[-1]  # -log p(x|z) = sum_d [ log(1 + exp a) - x a ],  in a form that cannot overflow:
    recon = (np.maximum(a, 0) + np.log(1 + np.exp(-np.abs(a))) - x * a).sum() / B

    da = (0.5 * (1 + np.tanh(0.5 * a)) - x) / B  # d/da log(1 + exp a) = 1 / (1 + exp(-a)) = (1 + tanh(a / 2)) / 2
    dz, ddecoder = mlp_backward(da, decoded, decoder, activation, need_dx=True)
    dmu = dz + mu / B  # dz/dmu = 1;  dkl/dmu = mu / B
    dlogvar = 0.5 * (dz * eps * sigma + (sigma**2 - 1) / B)  # dsigma/dlogvar = sigma / 2, as sigma = exp(logvar / 2)
    _, dencoder = mlp_backward(np.hstack([dmu, dlogvar]), encoded, encoder, activation, need_dx=False)  # x is data
    return np.array([recon, kl]), dencoder + ddecoder


def adam_step(p, m, v, g, step, learning_rate=1e-3, beta1=0.9, beta2=0.999, epsilon=1e-8):
    """m, v: running means of g and g^2, begun at 0; 1 - beta^step (step = 1, 2, ...) makes up for that. In place."""
    m += (1 - beta1) * (g - m)
    v += (1 - beta2) * (g * g - v)
    p -= learning_rate * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + epsilon)


def initial_parameters(data_dim, hidden_dims, latent_dim, rng):
    """[W, b, W, b, ...] of the encoder, then of the decoder, its mirror image: Glorot's uniform W [I, O], b [O] = 0."""
    ins = (data_dim, *hidden_dims, latent_dim, *reversed(hidden_dims))
    outs = (*hidden_dims, 2 * latent_dim, *reversed(hidden_dims), data_dim)
    return [p for I, O in zip(ins, outs) for p in (np.sqrt(6 / (I + O)) * rng.uniform(-1, 1, (I, O)), np.zeros(O))]


def check_gradients(activation, rng, s=1e-5):
    """The slope of L along a random direction v: <dL/dp, v>, against the difference (L(p + s v) - L(p - s v)) / 2s."""
    parameters, x, eps = initial_parameters(6, (5, 4), 3, rng), rng.random((7, 6)), rng.standard_normal((7, 3))
    v = [rng.standard_normal(p.shape) for p in parameters]
    moved = ([p + t * d for p, d in zip(parameters, v)] for t in (-s, 0, s))
    (below, _), (_, gradients), (above, _) = (loss_and_gradients(p, x, eps, activation) for p in moved)
    by_hand, numeric = sum((g * d).sum() for g, d in zip(gradients, v)), (above - below).sum() / (2 * s)
    print(f"gradient check, {activation}: {by_hand:.9f} by hand, {numeric:.9f} by central difference")
    if not abs(by_hand / numeric - 1) < 1e-6:
        sys.exit(f"a gradient of the {activation} network is wrong")


def train(data, rng, hidden_dims=(128,), latent_dim=8, activation="relu", epochs=50, batch_size=32):
    """The trained parameters. Prints the mean loss of the first and of every tenth epoch."""
    parameters = initial_parameters(data.shape[1], hidden_dims, latent_dim, rng)
    m, v, step = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters], 0
    for epoch in range(1, epochs + 1):
        total = np.zeros(2)
        for rows in np.split(rng.permutation(len(data)), range(batch_size, len(data), batch_size)):
            eps, step = rng.standard_normal((len(rows), latent_dim)), step + 1
            loss, gradients = loss_and_gradients(parameters, data[rows], eps, activation)
            for arrays in zip(parameters, m, v, gradients):
                adam_step(*arrays, step)
            total += loss * len(rows) / len(data)
        if epoch == 1 or epoch % 10 == 0:
            print(f"epoch {epoch:3}: loss {total.sum():.2f} = recon {total[0]:.2f} + kl {total[1]:.2f}")
    return parameters


def load_data(path=None):
    """Rows [N, D] within [0, 1], from a .npy file; or the digits, whose pixels are 0 .. 16."""
    try:
        digits = Path(__file__).resolve().parent.parent.glob("minivae/**/bundled/digits.npz")
        x = np.load(path) if path else np.load(next(digits))["images"] / 16
        x = x.astype(np.float64, casting="same_kind") / (255 if x.dtype == np.uint8 else 1)
        if x.ndim == 2 and x.min() >= 0 and x.max() <= 1:
            return x
    except Exception:  # NumPy raises many kinds for a file that it cannot read
        pass
    sys.exit(f"cannot use {path or 'the digits'}: pass a .npy file with a 2-D numeric array within [0, 1], or of uint8")


if __name__ == "__main__":
    for name in ACTIVATIONS:
        check_gradients(name, np.random.default_rng(0))
    train(load_data(*sys.argv[1:2]), np.random.default_rng(0))
