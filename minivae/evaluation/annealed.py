"""log p(x) between two bounds: annealed importance sampling, and the same chains run backwards on simulated rows.

Annealed importance sampling (AIS: Neal 2001; of decoders, Wu et al. 2017) walks from q(z|x) to p(z|x) through the densities
f_b = q^(1-b) p(x,z)^b, b = 0 .. 1, so that a bad q costs time and not truth. In u = (z - mu) / sigma q is standard normal:

    log f_b(u) = -|u|^2 / 2 + b log w(u),    log w = log p(x|z) + log p(z) - log q(z|x)    the importance weight itself

A chain collects sum_t (b_t - b_t-1) log w(u_t-1), and at each b_t moves by Hamiltonian Monte Carlo (HMC), which leaves f_b
as it is. The weight's mean is p(x), so that its logarithm is a stochastic lower bound. Backwards, from a draw of p(z|x), the
mean is 1 / p(x), and the logarithm gives an upper one (bidirectional Monte Carlo, Grosse et al. 2015). Where x was simulated
such a draw is at hand: the z that it was made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minivae import randomness
from minivae.data.batches import Examples
from minivae.data.checks import require_count
from minivae.data.files import Array
from minivae.evaluation import measures, samples, scores
from minivae.evaluation.inference import CHUNK, Progress, finite_first
from minivae.kernels import Call
from minivae.kernels.philox import philox_normal, philox_uniform
from minivae.network import Network, decode_program, decoder_backward, k, loss_program

CHAINS, LEAPFROGS = 16, 5  # of an example; of a move
ACCEPTED, GAIN = 0.65, 0.2  # the best share of moves to accept (Neal 2011); what a share missed adds to log step
PILOT, FORWARD, BACKWARD = range(3)  # runs, whose noise is kept apart
State = tuple[Array, Array, Array]  # u [S, Z], log w [S] and its gradient [S, Z]
LogWeight = Callable[[Array], tuple[Array, Array]]  # u -> log w and its gradient
Noise = Callable[[int], tuple[Array, Array]]  # t -> normal [S, Z] and uniform [S, 2]


@dataclass(frozen=True)
class Sandwich:
    """lower [n] <= log p(x) <= upper [n] in the mean, in nats; gap, the mean of upper - lower, and its standard error."""

    lower: Array
    upper: Array
    gap: float
    standard_error: float  # NaN of a single row


def lower_bound(
    network: Network, examples: Examples, seed: int, temperatures: int, chains: int = CHAINS,
    progress: Progress = lambda rows: None,
) -> Array:  # fmt: skip
    """A stochastic lower bound of log p(x) [n] in nats: log of the mean weight, unbiased for p(x), of so many AIS chains.

    One temperature is importance sampling. A function of the seed, of the row and of its number in the data; -inf where
    float64 holds no number for it. `progress` hears of the rows at each temperature, twice: pilot chains find step sizes.
    """
    return _bounds(network, examples, seed, sigmoidal(temperatures), chains, progress)[:, 0]


def sandwich(
    network: Network, n: int, seed: int, temperatures: int, chains: int = CHAINS,
    side: Array | None = None, progress: Progress = lambda rows: None,
) -> Sandwich:  # fmt: skip
    """Both bounds for n rows that the model itself makes (told side [n, C]): the gap says how far lower_bound may be off."""
    z, examples = samples.simulated(network, n, seed, side)
    lower, upper = _bounds(network, examples, seed, sigmoidal(temperatures), chains, progress, z).T
    return Sandwich(lower, upper, *measures.mean_of(upper - lower))


def _bounds(
    network: Network, examples: Examples, seed: int, betas: Array, chains: int, progress: Progress, z: Any = None
) -> Array:
    """The lower bound of each example [n, 1] or, beside it, the upper one [n, 2] from the z [n, Z] that it was made of."""
    require_count("chains", chains, 32 * (network.arch.data_dim + network.arch.outputs + network.arch.latent_dim))

    def bounds(network: Network, which: Any) -> Array:
        some, table = replace(examples, rows=examples.rows[which]), []
        for place, rows in some.chunks(max(1, CHUNK // chains)):
            encoded, steps = Encoded(network, replace(some, rows=rows), seed), np.ones((len(betas), len(rows)))
            anneal(*encoded.chains(max(1, chains // 4), PILOT), betas, steps, progress, adapt=True)
            found = [anneal(*encoded.chains(chains, FORWARD), betas, steps, progress)]
            if z is not None:
                backward = encoded.chains(chains, BACKWARD, z[which][place])
                found.append(-anneal(*backward, betas[::-1], steps[::-1], progress))
            table.append(np.stack(found, axis=1))
        return np.concatenate(table)

    table = finite_first(bounds, network)
    return np.where(np.isfinite(table), table, [-math.inf, math.inf][: table.shape[1]])


def sigmoidal(temperatures: int) -> Array:
    """0 = b_0 < ... < b_T = 1 [T + 1], close at both ends: a sigmoid from -4 to 4, stretched (Wu et al. 2017)."""
    require_count("temperatures", temperatures, 16 * CHUNK)
    b = np.tanh(np.linspace(-2, 2, temperatures + 1))
    return np.asarray((1 + b / b[-1]) / 2)


class Encoded:
    """Some examples with their q(z|x), binarized as for log_likelihood; a row draws by its number, as in scores.bounds."""

    def __init__(self, network: Network, examples: Examples, seed: int) -> None:
        self.network, self.seed = network, seed
        _, work, _ = next(scores.log_weights(network, examples, seed, np.zeros((1, 1, network.arch.latent_dim))))
        self.arrays = {name: array for name, array in work.arrays.items() if name in ("x", "observed", "c")}
        self.h = work.get("h").astype(np.float64)
        self.words = examples.rows.astype(np.int64)  # equal rows have errors of their own, which their spread shows

    def chains(self, K: int, run: int, z: Array | None = None) -> tuple[LogWeight, Array, Noise]:
        """K chains an example, S = n K rows of a batch: log w, where they start (z [n, Z], or draws from q), their noise."""
        network, arch, n, arrays = self.network, self.network.arch, len(self.h), self.arrays
        program = [Call("repeat", (k(name, K), name)) for name in arrays if K > 1]
        program += [*decode_program(arch, K), *loss_program(arch, K, "one"), *decoder_backward(arch)]
        work = network.workspace(program, n, K, **arrays)
        mu, logvar = np.split(np.repeat(self.h, K, axis=0), 2, axis=1)
        sigma, words = np.exp(logvar / 2), (self.words[:, None] + 0x9E3779B9 * np.arange(K)).ravel() & 0xFFFFFFFF

        def log_weight(u: Array) -> tuple[Array, Array]:
            work.put("z", mu + sigma * u)
            work.run(n)
            z, nll, dz = (work.get(name).astype(np.float64) for name in ("z", "nll", "dz"))
            return 0.5 * (logvar + u * u - z * z).sum(axis=1) - nll, u - sigma * (z + dz)

        def noise(t: int) -> tuple[Array, Array]:
            normal, uniform, where = np.empty(mu.shape), np.empty((len(mu), 2)), (self.seed, randomness.ANNEAL)
            philox_normal(normal, words, *where, 2 * (3 * t + run))  # type: ignore[no-untyped-call]
            philox_uniform(uniform, words, *where, 2 * (3 * t + run) + 1)  # type: ignore[no-untyped-call]
            return normal, uniform

        return log_weight, noise(0)[0] if z is None else (np.repeat(z, K, axis=0) - mu) / sigma, noise


def anneal(
    log_weight: LogWeight, u: Array, noise: Noise, betas: Array, steps: Array, progress: Progress, adapt: bool = False
) -> Array:
    """Log of the mean weight [n] of chains from u [n K, Z] along betas [T + 1]; downwards, 1 .. 0, it is one of 1 / p(x).

    steps [T + 1, n], the size of each example's moves. Did it hang on a chain's own past, a move would not leave f_b as it
    is: so only the pilot's chains adapt it, and write it down for the others.
    """
    n, total = steps.shape[1], np.zeros(len(u))
    state = u, *log_weight(u)
    for t in range(1, len(betas)):
        total += (betas[t] - betas[t - 1]) * state[1]
        if t < len(betas) - 1:
            state, chance = move(log_weight, state, betas[t], np.repeat(steps[t], len(u) // n), *noise(t))
            if adapt:
                steps[t:] *= np.exp(GAIN * (chance.reshape(n, -1).mean(axis=1) - ACCEPTED))
        progress(n)
    if betas[-1] == 1:
        total[np.isnan(total)] = -math.inf  # upwards, a weight that is no number is none
    return np.asarray(np.logaddexp.reduce(total.reshape(n, -1), axis=1) - math.log(len(u) / n))


def move(
    log_weight: LogWeight, state: State, beta: float, step: Array, momentum: Array, uniform: Array
) -> tuple[State, Array]:
    """A move of HMC, which leaves f_b(u) as it is: the new state, and the chance [S] with which each chain was to move.

    H(u, p) = |u|^2 / 2 - b log w(u) + |p|^2 / 2;   leapfrog:  p -= s/2 dH/du,  u += s p,  p -= s/2 dH/du;   accepted with
    min(1, e^(H - H')). The step s varies by half around its size, lest all paths turn through the same part of a circle.
    """
    u, log_w, slope = state
    s = step[:, None] * (0.5 + uniform[:, 1:])
    p = momentum + s / 2 * (beta * slope - u)
    for i in range(LEAPFROGS):
        u = u + s * p
        log_w, slope = log_weight(u)
        p = p + (s if i < LEAPFROGS - 1 else s / 2) * (beta * slope - u)
    before = 0.5 * (state[0] ** 2 + momentum**2).sum(axis=1) - beta * state[1]
    after = 0.5 * (u**2 + p**2).sum(axis=1) - beta * log_w
    chance = np.nan_to_num(np.exp(np.minimum(before - after, 0)), nan=0.0)
    moved = uniform[:, 0] < chance
    u, slope = (np.where(moved[:, None], new, old) for new, old in ((u, state[0]), (slope, state[2])))
    return (u, np.where(moved, log_w, state[1]), slope), chance
