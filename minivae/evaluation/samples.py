"""Samples that are data: x drawn from p(x|z), where a decoder's mean is smoother than any row of the data."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from minivae import randomness
from minivae.data.batches import Examples
from minivae.data.checks import require_count
from minivae.evaluation.inference import in_dtype, outputs
from minivae.kernels.columns import MOST as MOST_R
from minivae.kernels.columns import floored
from minivae.likelihoods import COUNTS, Run
from minivae.network import Network, decode_program

MOST = 1e18  # the highest rate of counts that NumPy's generator takes is a little above


def prior(n: int, latent_dim: int, seed: int, call: int = 0) -> np.ndarray:
    """z [n, Z] from N(0, I) in float64, a function of (seed, call); the first rows do not depend on n."""
    return randomness.normal((n, latent_dim), seed, randomness.PRIOR, call)


def observe(network: Network, z: np.ndarray, seed: int, call: int = 0, side: np.ndarray | None = None) -> np.ndarray:
    """x [n, D] drawn from p(x|z) at latent points z [n, Z] (and side [n, C]), a function of (seed, call)."""
    arch, x = network.arch, np.empty((len(z), network.arch.data_dim))
    out = in_dtype(outputs(network, decode_program(arch), z, side), np.float64, "the decoder's output")
    chance = Chance(seed, call, x.shape)
    for run in arch.runs:
        a = out[:, run.output : run.output + run.count]
        x[:, run.columns] = DRAW[run.likelihood](a, spread(network, run, out), chance, run.columns)
    shift, scale = arch.column_units()
    return in_dtype(shift + scale * x, np.float64 if arch.far else network.dtype, "the sample")


def simulated(network: Network, n: int, seed: int, side: np.ndarray | None = None) -> tuple[np.ndarray, Examples]:
    """n rows that the model makes, told side [n, C], and the z [n, Z] in float64 that they were made of."""
    require_count("n", n, 16 * (network.arch.data_dim + network.arch.outputs))
    z = prior(n, network.arch.latent_dim, seed)
    units = network.arch.column_units() if network.arch.far and network.dtype == np.float32 else None
    return z, Examples(observe(network, z, seed, side=side), np.arange(n), side=side, units=units)


class Chance:
    """The noise of one call as a function of (seed, call): uniform and normal numbers [n, D], and NumPy's generator."""

    def __init__(self, seed: int, call: int, shape: tuple[int, int]) -> None:
        self.where, self.shape = (seed, randomness.OBSERVE, call), shape

    @cached_property
    def uniform(self) -> np.ndarray:
        return randomness.uniform(self.shape, *self.where)

    @cached_property
    def normal(self) -> np.ndarray:
        return randomness.normal(self.shape, *self.where)

    @cached_property
    def generator(self) -> np.random.Generator:
        """For counts: the inverses of their distributions have no short formula."""
        return np.random.default_rng(self.where)


def spread(network: Network, run: Run, out: np.ndarray) -> Any:
    """Of these columns, in the units of the kernel, from the decoder's output out [n, P]: sigma, or r of spread counts."""
    if run.data == COUNTS:
        return np.exp(np.minimum(_dispersion(network)[run.columns], MOST_R)) if run.likelihood == SPREAD else None
    if run.likelihood != "gaussian":
        return None
    if run.outputs > run.count:
        log_sigma = 0.5 * out[:, run.output + run.count : run.output + run.outputs]
        return np.exp(floored(log_sigma)[0])
    return np.exp(floored(_dispersion(network)[run.columns])[0]) if network.arch.by_columns else sigma(network)


def _dispersion(network: Network) -> np.ndarray:
    return np.asarray(network.kernels.to_host(network.named["dispersion"]), np.float64)


def sigma(network: Network) -> Any:
    """The one sigma of a gaussian, fixed or learned; by columns one for each [D], NaN where a column is no gaussian.

    Raises AttributeError where there is none.
    """
    arch = network.arch
    gaussians = [run for run in arch.runs if run.likelihood == "gaussian"]
    if not gaussians:
        raise AttributeError(f"sigma_ belongs to likelihood='gaussian', and this model has {arch.likelihood!r}")
    if arch.sigma == "elementwise":
        raise AttributeError("sigma='elementwise' gives each row and column a sigma of its own; there is no one sigma_")
    if arch.by_columns:
        found = np.full(arch.data_dim, np.nan)
        for run in gaussians:
            found[run.columns] = np.exp(floored(_dispersion(network)[run.columns])[0])
        return found * arch.column_units()[1]
    if isinstance(arch.sigma, str):
        return float(np.exp(np.float64(network.kernels.to_host(network.named["log_sigma"])[0])))
    return float(arch.sigma)


# ---- By likelihood: x [n, count] from the decoder's output a [n, count], the spread, and the noise of these columns


def _bernoulli(a: np.ndarray, _: Any, chance: Chance, columns: slice) -> np.ndarray:
    """1 where u < sigmoid(a), which is where logit(u) < a: no exponential of a large logit."""
    u = chance.uniform[:, columns]
    return np.asarray(np.log(u) - np.log1p(-u) < a)


def _continuous_bernoulli(a: np.ndarray, _: Any, chance: Chance, columns: slice) -> np.ndarray:
    """The inverse of its distribution, log(1 + u (e^a - 1)) / a, taken from the end where e^a is small."""
    u, size = chance.uniform[:, columns], np.maximum(np.abs(a), 1e-12)
    from_end = -np.log1p(np.where(a > 0, 1 - u, u) * np.expm1(-size)) / size
    return np.asarray(np.where(a > 0, 1 - from_end, from_end))


def _gaussian(a: np.ndarray, sigma: Any, chance: Chance, columns: slice) -> np.ndarray:
    return np.asarray(a + sigma * chance.normal[:, columns])


def _poisson(a: np.ndarray, _: Any, chance: Chance, columns: slice) -> np.ndarray:
    return np.asarray(chance.generator.poisson(np.exp(np.minimum(a, np.log(MOST)))))


def _negative_binomial(a: np.ndarray, r: Any, chance: Chance, columns: slice) -> np.ndarray:
    """Poisson counts whose rate is drawn from a gamma distribution of mean e^a and shape r."""
    rates = np.exp(np.minimum(a, np.log(MOST))) * chance.generator.gamma(r, 1 / r, a.shape)
    return np.asarray(chance.generator.poisson(np.minimum(rates, MOST)))


def _categorical(a: np.ndarray, _: Any, chance: Chance, columns: slice) -> np.ndarray:
    """The largest logit after Gumbel noise, which is a draw from softmax(a)."""
    best = (a - np.log(-np.log(chance.uniform[:, columns]))).argmax(axis=1)
    return np.asarray(np.eye(a.shape[1])[best])


SPREAD = "negative_binomial"
DRAW: dict[str, Callable[[np.ndarray, Any, Chance, slice], np.ndarray]] = {
    "bernoulli": _bernoulli,
    "continuous_bernoulli": _continuous_bernoulli,
    "gaussian": _gaussian,
    "poisson": _poisson,
    SPREAD: _negative_binomial,
    "categorical": _categorical,
}
