"""The peers, in the only file that may import them: the step in PyTorch and in JAX; run alone, PyTorch's VAE example."""

# mypy: ignore-errors

import math
import os
import shutil
import sys
from typing import Any

import numpy as np

from minivae.architecture import decoder_layers, encoder_layers, parameter_layout
from minivae.bench.configs import LEARNING_RATE, Config, inputs
from minivae.bench.contenders import Contender, Unavailable
from minivae.data.datasets import load_dataset
from minivae.parameters import views

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def start(config: Config, activations: dict[str, Any]) -> tuple[Any, ...]:
    """Named parameters, x [S, B, D], eps [S, B, Z] or [S, B, K, Z]; the layers of encoder and decoder, each as (W, b, f)."""
    for word in (config.arch.activation, config.arch.likelihood):
        known = (*activations, "bernoulli", "gaussian")
        if word not in known[: -1 if config.samples > 1 else None]:
            raise Unavailable(f"no counterpart of {word} is written for PyTorch and JAX")
    flat, data, rows, eps = inputs(config)
    stacks = encoder_layers(config.arch), decoder_layers(config.arch)
    if config.samples > 1:
        eps = eps.reshape(*eps.shape[:2], config.samples, -1)
    layers = [[(f"{n.name}.W", f"{n.name}.b", activations[n.activation]) for n in stack] for stack in stacks]
    return views(flat, parameter_layout(config.arch)), data[rows], eps, *layers


def torch(config: Config, library: str, device: str, compiled: bool = False, graph: bool = False) -> Contender:
    """PyTorch with fused Adam: eager, compiled, or the whole step as a CUDA graph. Weights lie [O, I], as in nn.Linear."""
    # The cache of compiled code does not tell thread counts apart, so code made for one thread could come back for all.
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    import torch
    import torch.nn.functional as F

    if device == "cuda" and not torch.cuda.is_available():
        raise Unavailable("this PyTorch finds no GPU")
    if compiled and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise Unavailable("torch.compile needs a C++ compiler, and none was found; install g++ or clang++")
    activations = {"identity": lambda a: a, "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    named, x, eps, encoder, decoder = start(config, activations)
    gaussian = config.arch.likelihood == "gaussian"
    initial = {name: torch.from_numpy(np.ascontiguousarray(value.T)).to(device) for name, value in named.items()}
    p = {name: torch.nn.Parameter(value.clone()) for name, value in initial.items()}
    adam = {"lr": LEARNING_RATE, "betas": (BETA1, BETA2), "eps": EPSILON, "fused": True, "capturable": graph}
    optimizer = torch.optim.Adam(p.values(), **adam)
    batches = list(zip(torch.from_numpy(x).to(device), torch.from_numpy(eps).to(device)))

    def dense(y: Any, layers: Any) -> Any:
        for W, b, activation in layers:
            y = activation(F.linear(y, p[W], p[b]))
        return y

    def loss(x: Any, eps: Any) -> Any:
        x = x[:, None] if config.samples > 1 else x  # eps is [B, K, Z] then
        mu, logvar = dense(x, encoder).chunk(2, dim=-1)
        z = mu + torch.exp(0.5 * logvar) * eps
        out = dense(z, decoder)
        if config.samples > 1:
            nll = F.binary_cross_entropy_with_logits(out, x.expand_as(out), reduction="none").sum(dim=2)
            log_w = 0.5 * (logvar + eps * eps - z * z).sum(dim=2) - nll
            return (math.log(config.samples) - torch.logsumexp(log_w, dim=1)).mean()
        if gaussian:
            recon = (0.5 * ((x - out) * torch.exp(-p["log_sigma"])) ** 2 + p["log_sigma"] + HALF_LOG_2PI).sum()
        else:
            recon = F.binary_cross_entropy_with_logits(out, x, reduction="sum")
        kl = -0.5 * (1 + logvar - mu * mu - logvar.exp()).sum()
        return (recon + kl) / config.batch

    def step(x: Any, eps: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        value = loss(x, eps)
        value.backward()
        optimizer.step()
        return value.detach()

    def reset() -> None:
        with torch.no_grad():
            for name, value in p.items():
                value.copy_(initial[name])
            for tensor in (tensor for state in optimizer.state.values() for tensor in state.values()):
                tensor.zero_()

    def block() -> Any:
        losses = []
        for batch in batches:
            value = step(*batch)
            losses.append(value.clone() if device == "cuda" else value)  # a graph writes all to the same place
            made.after_step()
        return losses

    def compile() -> None:  # after the threads: trying every number of them compiled would take too long
        nonlocal loss
        if compiled:
            loss = torch.compile(loss, mode="default" if device == "cpu" else "reduce-overhead")

    made = Contender(len(batches), block, reset, ", eager's" if compiled else "", device=device, compile=compile)
    if device == "cpu":
        made.set_threads = torch.set_num_threads
    else:
        made.note, made.wait = torch.cuda.get_device_name(), torch.cuda.synchronize
    if graph:
        eager, place = step, [part.clone() for part in batches[0]]
        side, recording = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager(*place)
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(recording):
            value = eager(*place)

        def step(*batch: Any) -> Any:
            for target, source in zip(place, batch):
                target.copy_(source)
            recording.replay()
            return value

    return made


def jax(config: Config, library: str, device: str, scan: bool = False) -> Contender:
    """JAX: one jitted step with donated buffers, called once a step or scanned over all ready batches in one call."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU it would round to TF32
    activations = {"identity": lambda a: a, "relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
    initial, x, eps, encoder, decoder = start(config, activations)
    gaussian = config.arch.likelihood == "gaussian"
    tree, ready, state = jax.tree_util.tree_map, (jnp.asarray(x), jnp.asarray(eps)), None
    batches = [ready] if scan else list(zip(*ready))

    def dense(p: Any, y: Any, layers: Any) -> Any:
        for W, b, activation in layers:
            y = activation(y @ p[W] + p[b])
        return y

    def loss(p: Any, x: Any, eps: Any) -> Any:
        x = x[:, None] if config.samples > 1 else x  # eps is [B, K, Z] then
        mu, logvar = jnp.split(dense(p, x, encoder), 2, axis=-1)
        z = mu + jnp.exp(0.5 * logvar) * eps
        a = dense(p, z, decoder)
        if gaussian:
            nll = 0.5 * ((x - a) * jnp.exp(-p["log_sigma"])) ** 2 + p["log_sigma"] + HALF_LOG_2PI
        else:
            nll = jnp.maximum(a, 0) - a * x + jnp.log1p(jnp.exp(-jnp.abs(a)))
        if config.samples > 1:
            log_w = 0.5 * jnp.sum(logvar + eps * eps - z * z, axis=2) - jnp.sum(nll, axis=2)
            return jnp.mean(math.log(config.samples) - jax.nn.logsumexp(log_w, axis=1))
        kl = -0.5 * jnp.sum(1 + logvar - mu * mu - jnp.exp(logvar))
        return (jnp.sum(nll) + kl) / config.batch

    def step(state: Any, batch: Any) -> Any:
        p, m, v, t = state
        value, g = jax.value_and_grad(loss)(p, *batch)
        t = t + 1
        m = tree(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
        v = tree(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
        size, root = LEARNING_RATE / (1 - BETA1**t), 1 / jnp.sqrt(1 - BETA2**t)
        p = tree(lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + EPSILON), p, m, v)
        return (p, m, v, t), value

    advance = jax.jit((lambda state, ready: jax.lax.scan(step, state, ready)) if scan else step, donate_argnums=0)

    def reset() -> None:
        nonlocal state
        p = tree(jnp.array, dict(initial))
        state = p, tree(jnp.zeros_like, p), tree(jnp.zeros_like, p), jnp.zeros((), jnp.float32)

    def block() -> Any:
        nonlocal state
        losses = []
        for batch in batches:
            state, value = advance(state, batch)
            losses.append(value)
            made.after_step()
        return losses[0] if scan else losses

    used = jax.devices()[0]  # XLA has no switch for its threads once it runs; on one core it was no faster
    note = "threads as XLA chooses" if used.platform == "cpu" else str(used.device_kind)
    made = Contender(len(x), block, reset, note, lambda: jax.block_until_ready(state), device=used.platform)
    return made


def example(epochs: int) -> None:
    """PyTorch's VAE example (the vae folder of its examples): 784-400-20, ReLU, Adam 1e-3, batch 128, grey MNIST.

    As published: a shuffled DataLoader, two heads, the loss read every step, a test pass (whose loss it prints) every epoch.
    Here a TensorDataset stands in for torchvision's MNIST, which would decode each image anew, and no samples are drawn.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(1)
    hidden, mean, logvariance = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
    decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())
    optimizer = torch.optim.Adam(nn.ModuleList([hidden, mean, logvariance, decoder]).parameters(), lr=LEARNING_RATE)

    def loss(x: Any) -> Any:
        h = F.relu(hidden(x))
        mu, logvar = mean(h), logvariance(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        recon = F.binary_cross_entropy(decoder(z), x, reduction="sum")
        return recon - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    mnist = load_dataset("mnist")
    train, test = (TensorDataset(torch.tensor(np.asarray(part)).float() / 255) for part in (mnist.train, mnist.test))
    for _ in range(epochs):
        for (x,) in DataLoader(train, 128, shuffle=True):
            optimizer.zero_grad()
            value = loss(x)
            value.backward()
            optimizer.step()
            value.item()
        with torch.no_grad():
            print(sum(loss(x).item() for (x,) in DataLoader(test, 128)) / len(test), flush=True)


if __name__ == "__main__":
    example(int(sys.argv[1]))
