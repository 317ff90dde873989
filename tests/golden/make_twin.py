"""The same models in PyTorch, with its autograd and its optimizers, and the golden file `twin.npz` that they fill.

    PYTHONPATH=. python tests/golden/make_twin.py       in the root of the repository; needs torch, takes ten seconds

The file holds inputs, weights, noise, losses and gradients, so that the comparison needs no PyTorch afterwards. All of
it follows from the seeds below, and the same PyTorch writes the same bytes. Nothing of minivae is used but its noise
and its order of the examples, which are functions of a seed with published known answers (tests/test_randomness.py):
so the noise of 1,000 steps need not be stored.

Entries: "form/x", "form/eps", "form/parameters" (one flat vector), "form/layout" (JSON list of [name, shape], the order
in that vector); "form/activation/plain" and "form/activation/free_bits" (free_bits, loss, then the flat gradient); and
"training/...", see `training_entries`.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).with_name("twin.npz")
FORMS = ("bernoulli", "gaussian-fixed", "gaussian-learned", "gaussian-elementwise")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu")
DATA_DIM, LATENT_DIM, HIDDEN_DIMS, BATCH = 6, 2, (5, 4), 7
SIGMA = 0.8  # of the form gaussian-fixed
BETA = 0.7  # not 1, so that a beta in the wrong place shows
OBJECTIVES = ("plain", "free_bits")  # the second with a threshold between the kl_mean of the two dimensions

TRAINING = {"data_dim": 64, "hidden_dims": (32,), "latent_dim": 4, "examples": 256, "batch_size": 32}
STEPS, SEED = 1000, 12
OPTIMIZERS = {
    "adam": {"learning_rate": 1e-3},
    "sgd": {"learning_rate": 2e-3, "momentum": 0.9},
    "nesterov": {"learning_rate": 2e-3, "momentum": 0.9, "nesterov": True},
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.05},
}


# ---- Inputs: NumPy only, so that they can be drawn anew where PyTorch is missing


def layout(form, data_dim=DATA_DIM, latent_dim=LATENT_DIM, hidden_dims=HIDDEN_DIMS):
    """[(name, shape)] of every parameter; the names are minivae's."""
    outputs = data_dim * (2 if form == "gaussian-elementwise" else 1)
    parts = {
        "encoder": (data_dim, *hidden_dims, 2 * latent_dim),
        "decoder": (latent_dim, *reversed(hidden_dims), outputs),
    }
    result = []
    for part, widths in parts.items():
        for i, (inputs, units) in enumerate(itertools.pairwise(widths)):
            result += [(f"{part}.{i}.W", (inputs, units)), (f"{part}.{i}.b", (units,))]
    return result + ([("log_sigma", (1,))] if form == "gaussian-learned" else [])


def split(flat, names_and_shapes):
    """Name -> array, cut from the flat vector in this order."""
    arrays, start = {}, 0
    for name, shape in names_and_shapes:
        arrays[name] = flat[start : start + math.prod(shape)].reshape(shape)
        start += math.prod(shape)
    assert start == len(flat)
    return arrays


def inputs(form, seed=SEED):
    """x, eps and flat parameters: float64, the weights large enough to leave the linear part of the activations."""
    rng = np.random.default_rng([seed, FORMS.index(form)])
    x = rng.uniform(size=(BATCH, DATA_DIM)) if form == "bernoulli" else rng.normal(size=(BATCH, DATA_DIM))
    if form == "bernoulli":
        x[:2] = x[:2] > 0.5
    size = sum(math.prod(shape) for _, shape in layout(form))
    return x, rng.normal(size=(BATCH, LATENT_DIM)), 0.5 * rng.normal(size=size)


# ---- The model in PyTorch


def activation_function(name):
    import torch
    from torch.nn import functional as F

    functions = {
        "identity": lambda a: a,
        "relu": torch.relu,
        "leaky_relu": lambda a: F.leaky_relu(a, 0.01),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softplus": F.softplus,
        "gelu": lambda a: F.gelu(a, approximate="tanh"),
    }
    return functions[name]


def forward(form, activation, w, x, eps):
    """recon, a number, and kl_mean [Z], from tensors w by name: what a textbook would write down."""
    import torch
    from torch.distributions import Bernoulli, Normal, kl_divergence

    f = activation_function(activation)

    def stack(part, h):
        last = sum(name.startswith(part) for name in w) // 2 - 1
        for i in range(last + 1):
            h = h @ w[f"{part}.{i}.W"] + w[f"{part}.{i}.b"]
            h = h if i == last else f(h)
        return h

    mu, logvar = stack("encoder", x).chunk(2, dim=1)
    q = Normal(mu, torch.exp(0.5 * logvar), validate_args=False)
    out = stack("decoder", q.mean + q.stddev * eps)
    if form == "bernoulli":
        p = Bernoulli(logits=out, validate_args=False)
    elif form == "gaussian-elementwise":
        mean, out_logvar = out.chunk(2, dim=1)
        p = Normal(mean, torch.exp(0.5 * out_logvar))
    else:
        p = Normal(out, torch.exp(w["log_sigma"]) if form == "gaussian-learned" else torch.full_like(out, SIGMA))
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return -p.log_prob(x).sum(dim=1).mean(), kl_divergence(q, prior).mean(dim=0)


def free_bits_loss_gradient(form, activation, objective, x, eps, parameters):
    """[free_bits, loss, gradient ...] in float64."""
    import torch

    torch.set_num_threads(1)
    flat = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    recon, kl_mean = forward(form, activation, split(flat, layout(form)), torch.tensor(x), torch.tensor(eps))
    free_bits = 0.0 if objective == "plain" else kl_mean.detach().mean().item()
    loss = recon + BETA * torch.clamp(kl_mean, min=free_bits).sum()
    loss.backward()
    return np.concatenate([[free_bits, loss.item()], flat.grad.numpy()])


# ---- 1,000 steps of training


def training_inputs():
    """pixels [examples, data_dim] uint8 with some structure to learn, and flat float32 parameters."""
    t = TRAINING
    rng = np.random.default_rng(SEED)
    where = np.linspace(0, 2 * np.pi, t["data_dim"], endpoint=False)
    waves = np.cos(rng.integers(1, 4, (t["examples"], 1)) * where + rng.uniform(0, 2 * np.pi, (t["examples"], 1)))
    pixels = np.clip(np.round(127.5 * (1 + 1.3 * waves)), 0, 255).astype(np.uint8)
    shapes = layout("bernoulli", t["data_dim"], t["latent_dim"], t["hidden_dims"])
    pieces = [rng.normal(size=s) / math.sqrt(s[0]) if len(s) == 2 else np.zeros(s) for _, s in shapes]
    return pixels, np.concatenate([piece.reshape(-1) for piece in pieces]).astype(np.float32)


def batch_rows(step):
    """The rows of the batch of this step, counted from 1: minivae shuffles every epoch anew."""
    from minivae import randomness

    per_epoch = TRAINING["examples"] // TRAINING["batch_size"]
    epoch, index = divmod(step - 1, per_epoch)
    order = randomness.permutation(TRAINING["examples"], SEED, randomness.SHUFFLE, epoch)
    return order[index * TRAINING["batch_size"] :][: TRAINING["batch_size"]]


def training_losses(optimizer, dtype, pixels, parameters):
    """The losses [STEPS] of the tanh network, as PyTorch's autograd and optimizer reach them from these parameters."""
    import torch
    from torch.nn import functional as F

    from minivae import randomness
    from minivae.kernels.philox import philox_normal

    torch.set_num_threads(1)
    t = TRAINING
    shapes = layout("bernoulli", t["data_dim"], t["latent_dim"], t["hidden_dims"])
    w = {n: torch.tensor(a.astype(dtype), requires_grad=True) for n, a in split(parameters, shapes).items()}
    options = dict(OPTIMIZERS[optimizer])
    options["lr"] = options.pop("learning_rate")
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(optimizer, torch.optim.SGD)
    update = kind(w.values(), **options)
    data = torch.tensor(pixels.astype(dtype) / dtype(255))
    losses = np.empty(STEPS)
    for step in range(1, STEPS + 1):
        rows = batch_rows(step)
        eps = np.empty((len(rows), t["latent_dim"]), dtype)
        philox_normal(eps, rows, SEED, randomness.TRAIN_NOISE, step)  # in the dtype of the training
        x = data[torch.tensor(rows)]
        # `forward` in fewer operations, as torch.distributions would cost most of the time
        hidden = torch.tanh(x @ w["encoder.0.W"] + w["encoder.0.b"])
        mu, logvar = (hidden @ w["encoder.1.W"] + w["encoder.1.b"]).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * logvar) * torch.from_numpy(eps)
        logits = torch.tanh(z @ w["decoder.0.W"] + w["decoder.0.b"]) @ w["decoder.1.W"] + w["decoder.1.b"]
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * torch.sum(1 + logvar - mu**2 - logvar.exp())
        loss = (recon + kl) / len(rows)
        update.zero_grad()
        loss.backward()
        update.step()
        losses[step - 1] = loss.item()
    return losses


def training_entries():
    """training/pixels, training/parameters, and training/<optimizer>/<dtype>: the losses [STEPS]."""
    pixels, parameters = training_inputs()
    entries = {"training/pixels": pixels, "training/parameters": parameters}
    for optimizer in OPTIMIZERS:
        for dtype in (np.float32, np.float64):
            losses = training_losses(optimizer, dtype, pixels, parameters)
            entries[f"training/{optimizer}/{np.dtype(dtype)}"] = losses.astype(dtype)
    return entries


def gradient_entries(seed=SEED):
    entries = {}
    for form in FORMS:
        x, eps, parameters = inputs(form, seed)
        entries |= {f"{form}/x": x, f"{form}/eps": eps, f"{form}/parameters": parameters}
        entries[f"{form}/layout"] = np.array(json.dumps(layout(form)))
        for activation in ACTIVATIONS:
            for objective in OBJECTIVES:
                result = free_bits_loss_gradient(form, activation, objective, x, eps, parameters)
                entries[f"{form}/{activation}/{objective}"] = result
    return entries


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, **gradient_entries(), **training_entries())
    print(f"{GOLDEN.name}: {GOLDEN.stat().st_size:,} bytes")
