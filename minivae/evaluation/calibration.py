"""Simulation-based calibration (Talts et al. 2018): is q(z|x) the posterior, on rows of which it is known what made them?

    z ~ p(z),  x ~ p(x|z),  then L draws of the posterior of x:  z itself is another draw of it, so that the rank of z_j
    among the L others is uniform on 0 .. L.  Ranks at the ends: draws too narrow; in the middle: too wide; at one: shifted.

The draws are chosen from K of q(z|x) by their importance weights, without replacement: a candidate drawn twice would have
the ranks pile up at the ends whatever the posterior is. So with K = L all are taken, and q itself is judged; a larger K
judges what importance sampling makes of q, as in log_likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minivae import randomness
from minivae.data.checks import require_count
from minivae.data.files import Array
from minivae.evaluation import samples, scores
from minivae.evaluation.inference import CHUNK, Progress
from minivae.network import Network

DRAWS = BINS = 20  # L = DRAWS - 1, so that the ranks 0 .. L have BINS bins of one size
ENOUGH = 5  # rows expected in a bin, for the chi-square law to hold


def ranks(
    network: Network, n: int, seed: int, draws: int = DRAWS - 1, candidates: int = DRAWS - 1,
    side: Array | None = None, progress: Progress = lambda rows: None,
) -> Array:  # fmt: skip
    """The rank 0 .. draws of each z_j [n, Z] among so many draws chosen from `candidates` of q(z|x), a function of the seed.

    The rows are made by the model, told side [n, C]. Among equal numbers the rank is drawn; a weight that is no number is
    none. `progress` hears of the rows, once for each candidate.
    """
    Z, K, where = network.arch.latent_dim, candidates, (seed, randomness.CALIBRATE)
    require_count("draws", draws)
    require_count("candidates", K, 64 * Z)
    if candidates < draws:
        raise ValueError(f"candidates must be at least as many as the {draws} draws that are chosen, not {candidates}")
    z, made = samples.simulated(network, n, seed, side)
    chance, found = randomness.uniform((n, Z), *where), []
    for start in range(0, n, rows := max(1, min(CHUNK, 2**22 // (K * Z)))):
        at = np.arange(start, min(n, start + rows))
        some = replace(made, rows=at)
        eps = randomness.normal((len(at), K * Z), *where, 1, start).reshape(-1, K, Z).swapaxes(0, 1)
        drawn, log_w = np.empty((K, len(at), Z)), np.empty((K, len(at)))
        for i, (_, work, weight) in enumerate(scores.log_weights(network, some, seed, eps)):
            drawn[i], log_w[i] = work.get("z"), np.nan_to_num(weight, nan=-np.inf)
            progress(len(at))
        # the largest of log w + Gumbel noise are drawn by weight without replacement
        gumbel = -np.log(-np.log(randomness.uniform((len(at), K), *where, 2, start)))
        chosen = np.argsort(-(log_w + gumbel.T), axis=0, kind="stable")[:draws, :, None]
        posterior = np.take_along_axis(drawn, chosen, axis=0)
        below, equal = (posterior < z[at]).sum(axis=0), (posterior == z[at]).sum(axis=0)
        found.append(below + np.floor(chance[at] * (equal + 1)).astype(int))
    return np.concatenate(found)


def p_values(ranks: Array, draws: int = DRAWS - 1, bins: int = BINS) -> Array:
    """The chance of ranks [n, Z] at least as uneven over the bins, if they are uniform: p of a chi-square test [Z]."""
    n, Z = ranks.shape
    tail = chi_square(n, draws, bins)
    counts = np.stack([np.bincount(ranks[:, j] * bins // (draws + 1), minlength=bins) for j in range(Z)])
    distance = ((counts - n / bins) ** 2).sum(axis=1) / (n / bins)
    return np.asarray(tail((bins - 1) / 2, distance / 2))


def chi_square(n: int, draws: int = DRAWS - 1, bins: int = BINS) -> Callable[..., Any]:
    """The law's tail, of half its degrees of freedom and half a sum. Raises where n rows are too few or SciPy is absent."""
    if (draws + 1) % bins or bins < 2:
        raise ValueError(f"bins must share the {draws + 1} ranks out evenly, and {bins} do not")
    if n < ENOUGH * bins:
        raise ValueError(f"{bins} bins of ranks need at least {ENOUGH * bins} simulated rows, not {n}")
    try:
        from scipy.special import gammaincc
    except ImportError as error:
        raise ImportError("the p-values of a calibration need SciPy; run pip install scipy") from error
    return gammaincc  # type: ignore[no-any-return]


def smallest(p: Array) -> float:
    """Of p-values [Z] the smallest after Bonferroni: p of all latents together."""
    return float(min(1.0, len(p) * p.min()))
