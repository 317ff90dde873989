"""The book: every forward of a variational autoencoder with its gradient directly under it, in NumPy.

    B batch    I, O layer in/out    D data dimension    Z latent dimension    N all parameters
    x [B, D]  ->  encoder  ->  h = [mu | logvar] [B, 2Z]  ->  z = mu + sigma * eps  ->  decoder  ->  out  ->  nll [B]
    dy = dL/dy has the shape of y.    logvar = log sigma^2, so sigma = exp(logvar / 2).    eps ~ N(0, 1) is an argument.
    L = sum_b weight_b nll_b + beta sum_j kl_mean_j,   kl_mean_j = sum_b weight_b kl_bj,   weight_b = 1 / B,   in nats
    weight [B] is an example's share of the mean over the batch, and no layer's W.

This file is the definition. Faster backends repeat its names and are compared with it before they are ever timed.
Arrays that a kernel writes come first, then the arrays that it reads, then scalars; writes are `=`, never `+=`, and what
is read is left untouched unless the first lines say "consumed". Each kernel takes float32 or float64 and keeps it.

Reading order: activations, dense layer, sampling and KL, likelihoods, optimizers, batches; the noise is in philox.py, what
tables need (a likelihood for every column, missing cells) in columns.py, the second chapter, and bounds tighter than the
ELBO in bounds.py, the third. There an example has K samples of z: S = K B rows. Everywhere else K = 1.
"""

from __future__ import annotations

import math

import numpy as np

from minivae.kernels.bounds import importance_backward, importance_bound, repeat, weigh  # noqa: F401
from minivae.kernels.columns import (  # noqa: F401  (names of the interface)
    FEW,
    LOG_2PI,
    columns_loss,
    few_factorial,
    join,
    observe,
    split,
    stirling,
    sum_rows,
)
from minivae.kernels.philox import philox_normal, philox_uniform  # noqa: F401  (names of the interface)

# ---- Activations: y = f(a), element by element. Backward multiplies dy by f'(a) in place, so that dy becomes da.


def identity(y, a):
    """y = a"""
    if y is not a:
        y[...] = a


def identity_backward(dy, a, y):
    """f'(a) = 1"""


def relu(y, a):
    """y = max(a, 0)"""
    np.maximum(a, 0, out=y)


def relu_backward(dy, a, y):
    """f'(a) = 1 where a > 0, which is where y > 0; we take 0 at the kink."""
    dy *= y > 0


def leaky_relu(y, a):
    """y = a where a > 0, else a / 100, which is the larger of the two"""
    np.maximum(a, 0.01 * a, out=y)


def leaky_relu_backward(dy, a, y):
    """f'(a) = 1 where y > 0, else 1/100"""
    np.multiply(dy, 0.01, out=dy, where=y <= 0)


def tanh(y, a):
    """y = tanh a"""
    np.tanh(a, out=y)


def tanh_backward(dy, a, y):
    """f'(a) = 1 - tanh^2 a = 1 - y^2"""
    dy *= 1 - y * y


def sigmoid(y, a):
    """y = 1 / (1 + exp(-a)) = (1 + tanh(a / 2)) / 2, which cannot overflow"""
    np.multiply(a, 0.5, out=y)
    np.tanh(y, out=y)
    y += 1
    y *= 0.5


def sigmoid_backward(dy, a, y):
    """f'(a) = exp(-a) / (1 + exp(-a))^2 = y (1 - y)"""
    dy *= y * (1 - y)


def softplus(y, a):
    """y = log(1 + exp a) = max(a, 0) + log(1 + exp(-|a|)), which cannot overflow"""
    positive = np.maximum(a, 0)
    np.abs(a, out=y)
    np.negative(y, out=y)
    np.exp(y, out=y)
    np.log1p(y, out=y)
    y += positive


def softplus_backward(dy, a, y):
    """f'(a) = sigmoid a;  exp y = 1 + exp a  gives  sigmoid a = 1 - exp(-y)"""
    dy *= -np.expm1(-y)


def gelu(y, a):
    """y = a (1 + t) / 2,  t = tanh u,  u = c (a + k a^3): the tanh form of Hendrycks and Gimpel (2016), not the erf form"""
    t = np.tanh(GELU_C * a * (1 + GELU_K * a * a))
    t += 1
    t *= 0.5
    np.multiply(a, t, out=y)


def gelu_backward(dy, a, y):
    """f'(a) = (1 + t) / 2 + a (1 - t^2) u' / 2,  u' = c (1 + 3 k a^2). Not a function of y, which is why a is kept."""
    square = a * a
    t = np.tanh(GELU_C * a * (1 + GELU_K * square))
    dy *= 0.5 * (1 + t) + 0.5 * a * (1 - t * t) * (GELU_C * (1 + 3 * GELU_K * square))


GELU_C, GELU_K = math.sqrt(2 / math.pi), 0.044715
ACTIVATIONS = {
    "identity": (identity, identity_backward),
    "relu": (relu, relu_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "tanh": (tanh, tanh_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
    "softplus": (softplus, softplus_backward),
    "gelu": (gelu, gelu_backward),
}


# ---- The dense layer


def dense_forward(y, a, x, W, b, activation):
    """y [B, O] = f(a),  a = x W + b,  from x [B, I], W [I, O], b [O].

    a may be the same array as y for every f but gelu, whose derivative cannot be written from y.
    """
    np.matmul(x, W, out=a)
    a += b
    ACTIVATIONS[activation][0](y, a)


def dense_backward(dx, dW, db, dy, x, a, y, W, activation):
    """dx [B, I], dW [I, O], db [O] from dy [B, O]. dy is consumed: it becomes da. dx is None when x is data.

    a_bo = sum_i x_bi W_io + b_o,   y = f(a)
    da_bo = dy_bo f'(a_bo)
    dW_io = sum_b x_bi da_bo        = (x^T da)_io      W_io meets every example b
    db_o  = sum_b da_bo                                so does b_o
    dx_bi = sum_o da_bo W_io        = (da W^T)_bi      x_bi feeds every unit o
    """
    ACTIVATIONS[activation][1](dy, a, y)
    np.matmul(x.T, dy, out=dW)
    np.add.reduce(dy, axis=0, out=db)
    if dx is not None:
        np.matmul(dy, W.T, out=dx)


# ---- The latent variable: sample by reparameterisation, and the KL of q(z|x) to the prior N(0, I)


def sample_forward(z, kl, h, eps):
    """z [S, Z] = mu + sigma eps  and  kl [B, Z] = KL( N(mu, sigma^2) || N(0, 1) ),  from h = [mu | logvar] [B, 2Z].

    KL = E_q[ log q(z) - log p(z) ] = 1/2 E_q[ -logvar - (z - mu)^2 / sigma^2 + z^2 ]
       = 1/2 ( -logvar - 1 + mu^2 + sigma^2 )         as E (z - mu)^2 = sigma^2  and  E z^2 = mu^2 + sigma^2
    """
    mu, logvar = np.split(h, 2, axis=1)
    sigma = np.exp(0.5 * logvar)
    z[...] = (sigma[:, None] * _by_example(eps, h) + mu[:, None]).reshape(z.shape)
    np.multiply(sigma, sigma, out=kl)
    kl += mu * mu
    kl -= logvar
    kl -= 1
    kl *= 0.5


def kl_loss(kl_mean, dkl_mean, kl, weight, beta, free_bits, capacity):
    """kl_mean [Z], the batch mean of kl [B, Z], and dkl_mean [Z] = dL/dkl_mean.

    L contains  beta | K - capacity |  with  K = sum_j max(free_bits, kl_mean_j)
    dkl_mean_j = beta sign(K - capacity), but 0 where kl_mean_j < free_bits
    Free bits (Kingma et al. 2016): the first so many nats of a latent dimension cost nothing. Capacity (Burgess et al.
    2018): K is drawn to so many nats from both sides, and left alone there. 0 and 0 are the plain KL. The number L itself
    is needed by no step; `total_loss` in network.py makes it of nll and kl_mean.
    """
    np.matmul(weight, kl, out=kl_mean)
    dkl_mean[...] = beta
    if free_bits > 0:
        dkl_mean[kl_mean < free_bits] = 0
    if capacity > 0:
        dkl_mean *= np.sign(np.maximum(kl_mean, free_bits).sum() - capacity)


def sample_backward(dh, dz, h, eps, dkl_mean, weight):
    """dh = [dmu | dlogvar] [B, 2Z] from dz [S, Z] and dkl_mean [Z]; of K samples for each example, the sum.

    kl_mean_j = sum_b weight_b kl_bj                gives  dkl_bj = weight_b dkl_mean_j
    z  = mu + exp(logvar / 2) eps                   gives  dz/dmu = 1,    dz/dlogvar = sigma eps / 2
    kl = (mu^2 + exp(logvar) - logvar - 1) / 2      gives  dkl/dmu = mu,  dkl/dlogvar = (sigma^2 - 1) / 2
    eps is the noise of the forward pass: other noise here would be the gradient of another sample.
    """
    mu, logvar = np.split(h, 2, axis=1)
    dmu, dlogvar = np.split(dh, 2, axis=1)
    dkl, sigma, dz = weight[:, None] * dkl_mean, np.exp(0.5 * logvar), _by_example(dz, h)
    np.multiply(dkl, mu, out=dmu)
    dmu += dz.sum(axis=1)
    np.einsum("bkz,bkz->bz", dz, _by_example(eps, h), out=dlogvar)
    dlogvar *= sigma
    dlogvar += dkl * (sigma * sigma - 1)
    dlogvar *= 0.5


def _by_example(samples, h):
    """[S, Z] as [B, K, Z]"""
    return samples.reshape(len(h), -1, samples.shape[1])


# ---- Likelihoods: nll_b = -log p(x_b | z_b), summed over D, with its gradient in the same pass


def bernoulli_loss(dlogits, nll, logits, x, weight):
    """nll [B] of x [B, D] in [0, 1] under Bernoulli(sigmoid(a)), a = logits [B, D], and dlogits [B, D].

    p = sigmoid(a);  log p = -softplus(-a) = a - softplus(a);  log(1 - p) = -softplus(a)
    -[ x log p + (1 - x) log(1 - p) ] = softplus(a) - x a             no logarithm of a rounded probability
    da = weight (sigmoid(a) - x)                                      as softplus' = sigmoid
    """
    terms = np.empty_like(logits)
    softplus(terms, logits)
    np.add.reduce(terms, axis=1, out=nll)
    nll -= np.einsum("bd,bd->b", x, logits)
    sigmoid(dlogits, logits)
    dlogits -= x
    dlogits *= weight[:, None]


def gaussian_loss(dmean, dlog_sigma, nll, mean, x, log_sigma, weight):
    """nll [B] of x [B, D] under N(mean, s^2) with one s = exp(log_sigma), log_sigma [1]; dmean [B, D], dlog_sigma [1].

    r = (mean - x) / s;   nll = sum_d [ r^2 / 2 + log s + log(2 pi) / 2 ]
    dmean = weight r / s
    dlog_sigma = sum_b weight_b ( D - sum_d r^2 )       zero where s^2 is the mean squared error (sigma-VAE, Rybkin 2021)
    For a fixed sigma, log_sigma is simply no parameter.
    """
    D = x.shape[1]
    inverse_sigma = np.exp(-log_sigma)
    np.subtract(mean, x, out=dmean)
    dmean *= inverse_sigma
    squares = np.einsum("bd,bd->b", dmean, dmean)
    np.multiply(squares, 0.5, out=nll)
    nll += D * (log_sigma + 0.5 * LOG_2PI)
    dlog_sigma[0] = np.dot(weight, D - squares)
    dmean *= weight[:, None] * inverse_sigma


def poisson_loss(dlog_rate, nll, log_rate, x, weight):
    """nll [B] of counts x [B, D] = 0, 1, 2, ... under Poisson(exp(a)), a = log_rate [B, D], and dlog_rate [B, D].

    p = rate^x exp(-rate) / x!;   -log p = exp(a) - x a + log x!       large numbers that cancel where x is large: there
    log x! = x log x - x + log(2 pi x) / 2 + S(x),   and with u = a - log x
    -log p = x ( exp(u) - 1 - u ) + log(2 pi x) / 2 + S(x)             no more than a few nats near the best a
    da = weight (exp(a) - x)
    """
    np.exp(log_rate, out=dlog_rate)
    n = np.maximum(x, FEW + 1)
    u = log_rate - np.log(n)
    many = n * (np.expm1(u) - u) + 0.5 * (LOG_2PI + np.log(n)) + stirling(n)
    few = dlog_rate - x * log_rate + np.log(few_factorial(x))
    np.add.reduce(np.where(x > FEW, many, few), axis=1, out=nll)
    dlog_rate -= x
    dlog_rate *= weight[:, None]


# ---- Optimizers on flat vectors [N]: parameters p, gradient g, moments m and v. All work in place.


def clip_global_norm(norm, g, max_norm):
    """norm [1] = ||g||_2 before clipping; g is scaled to norm max_norm where it is longer, else left. inf only measures."""
    squares = float(np.dot(g, g))
    if (
        not SMALLEST < squares < LARGEST
    ):  # the squares of a norm that float32 can hold may be more, or less, than it can
        squares = float(np.dot(g.astype(np.float64), g.astype(np.float64)))
    norm[0] = math.sqrt(squares)
    if norm[0] > max_norm:
        g *= max_norm / norm[0]


SMALLEST, LARGEST = 1e-30, 1e38


def sgd_step(p, m, g, learning_rate, momentum, nesterov):
    """m = momentum m + g;   p -= learning_rate m,   with Nesterov  p -= learning_rate (g + momentum m).  g is consumed."""
    m *= momentum
    m += g
    if nesterov:
        g *= learning_rate
        p -= g
        np.multiply(m, learning_rate * momentum, out=g)
    else:
        np.multiply(m, learning_rate, out=g)
    p -= g


def adam_step(p, m, v, g, learning_rate, beta1, beta2, epsilon, step, weight_decay):
    """Adam (Kingma and Ba 2014), and AdamW (Loshchilov and Hutter 2017) where weight_decay > 0; step counts from 1.

    m += (1 - beta1)(g - m);   v += (1 - beta2)(g^2 - v)                      running means of g and g^2, begun at 0
    m_hat = m / (1 - beta1^step);   v_hat = v / (1 - beta2^step)              which makes up for that beginning
    p = p (1 - learning_rate weight_decay) - learning_rate m_hat / ( sqrt(v_hat) + epsilon )
    Block by block, so that the dozen passes over a block find it in the cache; t is the only scratch.
    """
    step_size = learning_rate / (1 - beta1**step)
    root_correction = 1 / math.sqrt(1 - beta2**step)
    t = np.empty(min(p.size, ADAM_BLOCK), p.dtype)
    for start in range(0, p.size, ADAM_BLOCK):
        block = slice(start, start + ADAM_BLOCK)
        pb, mb, vb, gb = p[block], m[block], v[block], g[block]
        tb = t[: pb.size]
        if weight_decay:
            pb *= 1 - learning_rate * weight_decay
        np.subtract(gb, mb, out=tb)
        tb *= 1 - beta1
        mb += tb
        np.multiply(gb, gb, out=tb)
        tb -= vb
        tb *= 1 - beta2
        vb += tb
        np.sqrt(vb, out=tb)
        tb *= root_correction
        tb += epsilon
        np.divide(mb, tb, out=tb)
        tb *= step_size
        pb -= tb


ADAM_BLOCK = 32768


# ---- Batches


def gather(x, data, rows, divide_by):
    """x [B, D] = data[rows] / divide_by,  from data [n, D] of any real dtype (pixels stay uint8 in memory), rows [B]"""
    np.divide(data[rows], divide_by, out=x, dtype=x.dtype, casting="same_kind")


def binarize(x, u):
    """x [B, D] becomes 1 with probability x, else 0: 1 where u < x, with u [B, D] uniform."""
    np.less(u, x, out=x, casting="unsafe")


def record(trace, nll, kl_mean, norm, weight, index):
    """trace[index] = [mean nll, gradient norm, kl_mean_1 .. kl_mean_Z]: one row of the history kept where the step runs"""
    trace[index, 0] = np.dot(weight, nll)
    trace[index, 1] = norm[0]
    trace[index, 2:] = kl_mean


# ---- Memory: where a backend's arrays live. Here: where NumPy's do.


def empty(shape, dtype):
    return np.empty(shape, dtype)


def to_device(array):
    return np.asarray(array)


def to_host(array):
    return array


def synchronize():
    """Nothing runs ahead of Python here."""
