"""What is measured: named configurations, and the weights, batches and noise that all contenders share."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from minivae import randomness
from minivae.architecture import Architecture, decoder_layers, encoder_layers, initial_parameters
from minivae.kernels import load

SEED, LEARNING_RATE = 0, 1e-3
CHECKED_STEPS, TOLERANCE = 20, 1e-4  # the first losses of a contender, and how far from the reference they may be

DESIGN = (
    "784-400-20-relu-128",
    "784-200-200-50-tanh-20",
    "784-200-200-50-tanh-100",
    "784-512-256-32-relu-1024",
    "64-64-2-relu-64",
)
BATCHES = tuple(f"784-500-20-relu-{batch}" for batch in (1, 16, 256, 4096))
QUICK = ("784-400-20-relu-128", "64-64-2-relu-64")
SETS = {"design": DESIGN, "batches": BATCHES, "quick": QUICK}


class Config(NamedTuple):
    """A bernoulli VAE and a batch size. The name says all: data dimension, hidden widths, latents, activation, batch."""

    name: str
    arch: Architecture
    batch: int

    @property
    def ready_steps(self) -> int:
        """How many batches lie ready, one block: 50, or fewer (at least 10) where a step takes long."""
        flops = sum(product.flops for product in matrix_products(self.arch, self.batch))
        return int(min(50, max(10, 1e10 // flops)))


def parse(name: str) -> Config:
    """The configuration with this name, "784-400-20-relu-128". Raises ValueError with the form of a name."""
    try:
        *widths, activation, batch = name.split("-")
        data_dim, *hidden, latent = map(int, widths)
        if int(batch) < 1:
            raise ValueError("the batch must be at least 1")
        return Config(name, Architecture(data_dim, latent, tuple(hidden), activation), int(batch))
    except ValueError as error:
        form = f"write widths, activation and batch, as in {DESIGN[0]}"
        raise ValueError(f"{name!r} is not a configuration ({error}); {form}") from error


def select(names: list[str]) -> list[Config]:
    """Configurations from names of sets and of configurations, each once."""
    return [parse(name) for name in dict.fromkeys(n for name in names for n in SETS.get(name, (name,)))]


class Product(NamedTuple):
    """C [m, n] = A [m, k] B [k, n]; of these "A", "B" or none ("") is stored transposed."""

    m: int
    k: int
    n: int
    transposed: str

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n


def matrix_products(arch: Architecture, batch: int) -> list[Product]:
    """Every matrix product of one training step: forward, dW, and dx except for the first layer, whose input is data."""
    layers = encoder_layers(arch) + decoder_layers(arch)
    forward = [Product(batch, layer.inputs, layer.outputs, "") for layer in layers]
    dW = [Product(layer.inputs, batch, layer.outputs, "A") for layer in layers]
    dx = [Product(batch, layer.outputs, layer.inputs, "B") for layer in layers[1:]]
    return forward + dW + dx


class Inputs(NamedTuple):
    """What all contenders start from, float32. Step i (from 0) trains on x[i], which is data[rows[i]], with eps[i]."""

    parameters: np.ndarray  # [N]
    data: np.ndarray  # [S B, D], in [0, 1]
    rows: np.ndarray  # [S, B], a random order, as in an epoch
    x: np.ndarray  # [S, B, D]
    eps: np.ndarray  # [S, B, Z], the noise that minivae draws itself at these steps


def inputs(config: Config) -> Inputs:
    """A function of the configuration alone. x^4 of uniform x is dark on the whole, as digits are."""
    arch, steps = config.arch, config.ready_steps
    data = np.random.default_rng(SEED).random((steps * config.batch, arch.data_dim), np.float32) ** 4
    rows = randomness.permutation(len(data), SEED, randomness.SHUFFLE).astype(np.int64).reshape(steps, config.batch)
    eps = np.empty((steps, config.batch, arch.latent_dim), np.float32)
    for i in range(steps):
        load("numpy").philox_normal(eps[i], rows[i], SEED, randomness.TRAIN_NOISE, i + 1)
    return Inputs(initial_parameters(arch, SEED).astype(np.float32), data, rows, data[rows], eps)


def deviation(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference; infinite where there is nothing to compare or a loss is not finite."""
    if not losses or len(losses) != len(expected) or not all(map(math.isfinite, losses)):
        return math.inf
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected))
