"""The peers: the same training step in PyTorch and in JAX, and PyTorch's VAE example as a whole program.

The only file that may import them, and it does so where they are used. `python -m minivae.bench.peers 10` trains the
example for ten epochs and prints its test losses.
"""

# mypy: ignore-errors
# (what the frameworks say about their types changes from version to version, and they may not be installed)

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

import numpy as np

from minivae.architecture import Architecture, decoder_layers, encoder_layers, parameter_layout
from minivae.bench.configs import LEARNING_RATE, Config, inputs
from minivae.bench.contenders import Contender, Unavailable
from minivae.parameters import views

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


def create(name: str, config: Config) -> Contender:
    """PyTorch or JAX as a contender. Raises Unavailable where it is not installed or does not work."""
    package = name.split("-")[0]
    if config.arch.activation not in ("identity", "relu", "tanh", "sigmoid"):
        raise Unavailable(f"no counterpart of activation {config.arch.activation} is written for {package}")
    try:
        if name == "torch-cuda-graph":
            return TorchGraph(config)
        if package == "torch":
            return Torch(config, name.endswith("compile"), "cuda" if "cuda" in name else "cpu")
        return Jax(config, name == "jax-scan")
    except ImportError as error:
        raise Unavailable(f"{package} cannot be imported ({error}); run pip install {package}") from error


def starting_point(config: Config) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, list[str], list[str]]:
    """The named initial parameters, x [S, B, D], eps [S, B, Z], and the names of the encoder's and decoder's layers."""
    given = inputs(config)
    named = views(given.parameters, parameter_layout(config.arch))
    return named, given.x, given.eps, *layer_names(config.arch)


def layer_names(arch: Architecture) -> tuple[list[str], list[str]]:
    return [layer.name for layer in encoder_layers(arch)], [layer.name for layer in decoder_layers(arch)]


class Torch(Contender):
    """PyTorch eager with fused Adam, or the same with torch.compile. Weights lie [O, I], as nn.Linear has them."""

    def __init__(self, config: Config, compiled: bool, device: str = "cpu") -> None:
        # The cache of compiled code does not tell thread counts apart, so code made for one thread could come back for all.
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        import torch
        import torch.nn.functional as F

        if device == "cuda" and not torch.cuda.is_available():
            raise Unavailable("this PyTorch finds no GPU")
        if compiled and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise Unavailable("torch.compile needs a C++ compiler, and none was found; install g++ or clang++")
        named, x, eps, encoder, decoder = starting_point(config)
        self.initial = {
            name: torch.from_numpy(np.ascontiguousarray(value.T)).to(device) for name, value in named.items()
        }  # a bias is its own transpose
        parameters = {name: torch.nn.Parameter(value.clone()) for name, value in self.initial.items()}
        activation = {"identity": lambda a: a, "relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
        f, batch = activation[config.arch.activation], config.batch

        def dense(y: Any, names: list[str]) -> Any:
            for name in names[:-1]:
                y = f(F.linear(y, parameters[f"{name}.W"], parameters[f"{name}.b"]))
            return F.linear(y, parameters[f"{names[-1]}.W"], parameters[f"{names[-1]}.b"])

        def loss(x: Any, eps: Any) -> Any:
            mu, logvar = dense(x, encoder).chunk(2, dim=1)
            logits = dense(mu + torch.exp(0.5 * logvar) * eps, decoder)
            recon = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            kl = -0.5 * (1 + logvar - mu * mu - logvar.exp()).sum()
            return (recon + kl) / batch

        self.torch, self.parameters = torch, parameters
        self.loss = loss
        self.optimizer = torch.optim.Adam(
            parameters.values(), lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True
        )
        self.batches = list(zip(torch.from_numpy(x).to(device), torch.from_numpy(eps).to(device)))
        self.steps, self.device = len(self.batches), device
        if device == "cuda":
            self.note = torch.cuda.get_device_name()
            self.loss = torch.compile(loss, mode="reduce-overhead") if compiled else loss
            return
        self.choose_threads(torch.set_num_threads)
        if compiled:  # with the threads that serve eager best: compiling for each count would take too long
            self.loss = torch.compile(loss)
            self.note += ", as eager"

    def wait(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def reset(self) -> None:
        with self.torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(self.initial[name])
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()

    def block(self) -> list[Any]:
        losses = []
        for x, eps in self.batches:
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(x, eps)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach().clone() if self.device == "cuda" else loss.detach())
        return losses


class TorchGraph(Torch):
    """PyTorch on a GPU with the whole step, optimizer included, captured once as a CUDA graph."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, False, "cuda")
        torch = self.torch
        for group in self.optimizer.param_groups:
            group["capturable"] = True
        self.x, self.eps = (part.clone() for part in self.batches[0])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.value = self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.value = self._step()

    def _step(self) -> Any:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.x, self.eps)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def block(self) -> list[Any]:
        losses = []
        for x, eps in self.batches:
            self.x.copy_(x)
            self.eps.copy_(eps)
            self.graph.replay()
            losses.append(self.value.clone())
        return losses


class Jax(Contender):
    """JAX: one jitted step with donated buffers, called once a step or scanned over all ready batches in one call.

    XLA has no switch for its threads once it runs; held to one core, it was no faster even for the smallest model.
    """

    note = "threads as XLA chooses"

    def __init__(self, config: Config, scan: bool) -> None:
        import jax
        import jax.numpy as jnp

        jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU it would round to TF32
        device = jax.devices()[0]
        if device.platform != "cpu":
            self.note = str(device.device_kind)
        self.initial, x, eps, encoder, decoder = starting_point(config)
        activation = {"identity": lambda a: a, "relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
        f, batch, tree = activation[config.arch.activation], config.batch, jax.tree_util.tree_map

        def dense(p: Any, y: Any, names: list[str]) -> Any:
            for name in names[:-1]:
                y = f(y @ p[f"{name}.W"] + p[f"{name}.b"])
            return y @ p[f"{names[-1]}.W"] + p[f"{names[-1]}.b"]

        def loss(p: Any, x: Any, eps: Any) -> Any:
            mu, logvar = jnp.split(dense(p, x, encoder), 2, axis=1)
            a = dense(p, mu + jnp.exp(0.5 * logvar) * eps, decoder)
            recon = jnp.sum(jnp.maximum(a, 0) - a * x + jnp.log1p(jnp.exp(-jnp.abs(a))))
            kl = -0.5 * jnp.sum(1 + logvar - mu * mu - jnp.exp(logvar))
            return (recon + kl) / batch

        def step(state: Any, x: Any, eps: Any) -> Any:
            p, m, v, t = state
            value, g = jax.value_and_grad(loss)(p, x, eps)
            t = t + 1
            m = tree(lambda m, g: BETA1 * m + (1 - BETA1) * g, m, g)
            v = tree(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, v, g)
            size, root = LEARNING_RATE / (1 - BETA1**t), 1 / jnp.sqrt(1 - BETA2**t)
            p = tree(lambda p, m, v: p - size * m / (jnp.sqrt(v) * root + EPSILON), p, m, v)
            return (p, m, v, t), value

        self.jax, self.jnp, self.steps = jax, jnp, len(x)
        self.state: Any = None
        if scan:
            stacked = jnp.asarray(x), jnp.asarray(eps)
            whole = jax.jit(lambda state, xs: jax.lax.scan(lambda s, b: step(s, *b), state, xs), donate_argnums=0)
            self.advance = lambda state: whole(state, stacked)
        else:
            batches = [(jnp.asarray(xi), jnp.asarray(ei)) for xi, ei in zip(x, eps)]
            single = jax.jit(step, donate_argnums=0)

            def advance(state: Any) -> Any:
                losses = []
                for b in batches:
                    state, value = single(state, *b)
                    losses.append(value)
                return state, losses

            self.advance = advance

    def reset(self) -> None:
        p = {name: self.jnp.array(value) for name, value in self.initial.items()}
        m, v = ({name: self.jnp.zeros_like(value) for name, value in p.items()} for _ in range(2))
        self.state = (p, m, v, self.jnp.zeros((), self.jnp.float32))

    def block(self) -> Any:
        self.state, losses = self.advance(self.state)
        return losses

    def wait(self) -> None:
        self.jax.block_until_ready(self.state)


def example(epochs: int) -> None:
    """PyTorch's VAE example (the vae folder of its examples): 784-400-20, ReLU, Adam 1e-3, batch 128, grey MNIST.

    As published: a shuffled DataLoader, the two heads apart, the loss read every step, a test pass after every epoch.
    Here a TensorDataset stands in for torchvision's MNIST, which would decode each image anew, and no samples are drawn.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from minivae.data.datasets import load_dataset

    class Example(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.mu, self.logvar = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
            self.decoder = nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784), nn.Sigmoid())

        def forward(self, x: Any) -> Any:
            h = F.relu(self.hidden(x))
            mu, logvar = self.mu(h), self.logvar(h)
            std = torch.exp(0.5 * logvar)
            return self.decoder(mu + torch.randn_like(std) * std), mu, logvar

    def loss(model: Any, x: Any) -> Any:
        p, mu, logvar = model(x)
        return F.binary_cross_entropy(p, x, reduction="sum") - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    torch.manual_seed(1)
    mnist = load_dataset("mnist")
    parts = [TensorDataset(torch.tensor(np.asarray(part)).float() / 255) for part in (mnist.train, mnist.test)]
    train, test = DataLoader(parts[0], 128, shuffle=True), DataLoader(parts[1], 128)
    model = Example()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        model.train()
        total = 0.0
        for (x,) in train:
            optimizer.zero_grad()
            value = loss(model, x)
            value.backward()
            total += value.item()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            held = sum(loss(model, x).item() for (x,) in test)
        print(held / len(parts[1]), flush=True)


if __name__ == "__main__":
    example(int(sys.argv[1]))
