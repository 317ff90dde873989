"""What is measured: named configurations, and the weights, batches and noise that all contenders share."""

import math
import re
from typing import NamedTuple

import numpy as np

from minivae import randomness
from minivae.architecture import (
    Architecture,
    Layer,
    decoder_layers,
    encoder_layers,
    initial_parameters,
    parameter_layout,
)
from minivae.kernels import load
from minivae.likelihoods import LIKELIHOODS
from minivae.parameters import size

SEED, LEARNING_RATE = 0, 1e-3
CHECKED_STEPS, TOLERANCE = 20, 1e-4  # the first losses of a contender, and how far from the reference they may be
QUICK = ("784-400-20-relu-128", "64-64-2-relu-64")
DESIGN = (QUICK[0], "784-200-200-50-tanh-20", "784-200-200-50-tanh-100", "784-512-256-32-relu-1024", QUICK[1])
SETS = {"quick": QUICK, "design": DESIGN, "batches": tuple(f"784-500-20-relu-{batch}" for batch in (1, 16, 256, 4096))}
SETS["iwae"] = ("784-200-200-50-tanh-iwae5-20", "784-200-200-50-tanh-iwae50-20", "784-400-20-relu-iwae5-128")
SETS["gaussian"] = ("784-400-20-relu-gaussian-128", "64-64-2-relu-gaussian-64")


class Config(NamedTuple):
    """A VAE and a batch size. The name says all: data dimension, hidden widths, latents, activation, likelihood, batch.

    samples: K of the importance-weighted bound, 1 for the ELBO.
    """

    name: str
    arch: Architecture
    batch: int
    samples: int = 1

    @property
    def layers(self) -> list[Layer]:
        return encoder_layers(self.arch) + decoder_layers(self.arch)

    @property
    def flops(self) -> int:
        """Of the matrix products of one step: forward, dW, and dx except for the first layer, whose input is data."""
        encoder, decoder = (
            sum(n.inputs * n.outputs * (2 if n.x == "x" else 3) for n in half(self.arch))
            for half in (encoder_layers, decoder_layers)
        )
        return 2 * self.batch * (encoder + self.samples * decoder)

    @property
    def parameters(self) -> int:
        return size(parameter_layout(self.arch))

    @property
    def ready_steps(self) -> int:
        """How many batches lie ready, one block: 50, or fewer (at least 10) where a step takes long."""
        return int(min(50, max(10, 1e10 // self.flops)))


def parse(name: str) -> Config:
    """The configuration with this name: 784-400-20-relu-128, or 784-400-20-relu-gaussian-128; bernoulli where none is named.

    784-400-20-relu-iwae5-128 is the importance-weighted bound of 5 samples. Raises ValueError with the form of a name.
    """
    parts = re.fullmatch(
        rf"(\d+(?:-\d+)+)-([a-z_]+?)(?:-({'|'.join(LIKELIHOODS)}))?(?:-iwae([1-9]\d*))?-([1-9]\d*)", name
    )
    if parts is None:
        raise ValueError(f"{name!r} is not a configuration; write widths, activation and batch, as in {DESIGN[0]}")
    data_dim, *hidden, latent = map(int, parts[1].split("-"))
    try:
        arch = Architecture(data_dim, latent, tuple(hidden), parts[2], parts[3] or "bernoulli")
    except ValueError as error:
        raise ValueError(f"{name!r} is not a configuration: {error}; write it as {DESIGN[0]}") from error
    return Config(name, arch, int(parts[5]), int(parts[4] or 1))


def select(names: list[str]) -> list[Config]:
    """Configurations from names of sets and of configurations, each once."""
    return [parse(name) for name in dict.fromkeys(n for name in names for n in SETS.get(name, (name,)))]


def inputs(config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What all start from, float32: parameters [N], data [S B, D] in [0, 1], rows [S, B] as in an epoch, noise [S, B, K Z].

    Step i (from 0) trains on data[rows[i]] with noise[i], which minivae draws itself. Uniform x^4 is dark, as digits are.
    """
    arch, steps = config.arch, config.ready_steps
    data = np.random.default_rng(SEED).random((steps * config.batch, arch.data_dim), np.float32) ** 4
    rows = randomness.permutation(len(data), SEED, randomness.SHUFFLE).astype(np.int64).reshape(steps, config.batch)
    noise = np.empty((steps, config.batch, config.samples * arch.latent_dim), np.float32)
    for i in range(steps):
        load("numpy").philox_normal(noise[i], rows[i], SEED, randomness.TRAIN_NOISE, i + 1)
    return initial_parameters(arch, SEED).astype(np.float32), data, rows, noise


def deviation(losses: list[float], expected: list[float]) -> float:
    """The largest relative difference; infinite where there is nothing to compare or a loss is not finite."""
    if not losses or len(losses) != len(expected) or not all(map(math.isfinite, losses)):
        return math.inf
    return max(abs(a - b) / abs(b) for a, b in zip(losses, expected))
