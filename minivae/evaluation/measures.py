"""What a model is worth on a set of rows: numbers of which each has a standard error.

Nearly all are means over rows: a function gives one value for each row, [n], and `mean_of` their mean. The standard error is
that of rows drawn at random from all there could be; since each row has noise of its own, it holds the error of the noise.
What compares rows with rows takes so many of them, evenly spaced, that it stays a matter of seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from minivae import randomness
from minivae.data.batches import Examples
from minivae.data.files import Array
from minivae.evaluation import inference, scores
from minivae.likelihoods import BY_COLUMNS, LIKELIHOODS, ONE_HOT, REAL, UNIT
from minivae.network import Network

PAIRS = 10**8  # of rows that are compared at most
BLOCK = 2**21  # pairs in memory at a time
NEIGHBOURS = 5


class Estimate(NamedTuple):
    """A number and its standard error, NaN where one row, or a row of no number, leaves none."""

    value: float
    error: float


@dataclass(frozen=True)
class Measured:
    """What some rows [n] are worth to a network, in nats, with noise of each row's own; h [n, 2 Z] of q(z|x).

    mu [n, Z] are their embeddings: those of grey values, where h is of the pixels that were drawn from them.
    """

    examples: Examples
    recon: Array
    kl: Array
    log_p: Array
    h: Array
    mu: Array

    @classmethod
    def of(
        cls, network: Network, examples: Examples, seed: int, n_samples: int = 1,
        progress: inference.Progress = lambda rows: None,
    ) -> Measured:  # fmt: skip
        mu = inference.posterior(network, examples, np.float64)[0]
        return cls(examples, *scores.bounds(network, examples, n_samples, seed, progress), mu)

    @property
    def elbo(self) -> Array:
        return np.asarray(-(self.recon + self.kl))


def standard_error(values: Array) -> float:
    with np.errstate(invalid="ignore"):  # of rows that score -inf
        return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def mean_of(values: Array) -> Estimate:
    return Estimate(float(values.mean()), standard_error(values))


def median_of(values: Array) -> Estimate:
    """Its error is half of what lies between the two order statistics sqrt(n)/2 places below and above it."""
    away = 0.5 / math.sqrt(len(values))
    low, median, high = np.quantile(values, [max(0.0, 0.5 - away), 0.5, min(1.0, 0.5 + away)])
    return Estimate(float(median), float(high - low) / 2 if len(values) > 1 else math.nan)


def active_units(mu: Array) -> Estimate:
    """How many latents have Var_x( E_q[z_j | x] ) > 0.01, from mu [n, Z] (Burda et al. 2016); NaN for a single row.

    Its error: with p_j the chance that the variance of other rows, nearly normal, exceeds 0.01, a count of them varies by
    sum_j p_j (1 - p_j).
    """
    if len(mu) < 2:
        return Estimate(math.nan, math.nan)
    with np.errstate(all="ignore"):
        variance = mu.var(axis=0)
        error = np.sqrt((((mu - mu.mean(axis=0)) ** 4).mean(axis=0) - variance**2) / len(mu))
        p = np.array([NormalDist().cdf(t) for t in np.nan_to_num((variance - inference.THRESHOLD) / error)])
    return Estimate(int(inference.active_units(mu).sum()), float(np.sqrt((p * (1 - p)).sum())))


def spaced(n: int, most: int) -> Array:
    """So many of the numbers 0 to n - 1 at most, evenly spaced."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, max(1, most)).astype(np.int64)


def information(h: Array, seed: int) -> Array:
    """log q(z|x) - log q(z) [n] in nats at z ~ q(z|x), q(z) = 1/n sum_j q(z|x_j) over the rows of h [n, 2 Z].

    Its mean is the mutual information of rows and latents; what is left of the KL is KL( q(z) || p(z) ) (Hoffman and
    Johnson 2016). q(z|x) is one of the n terms of q(z), so no value exceeds log n: of few rows, one can learn little.
    Rows that draw no z, where there are many, have the mean, and the others' deviations stand for theirs.
    """
    mu, logvar = np.split(h, 2, axis=1)
    n, Z = mu.shape
    rows, draws = spaced(n, PAIRS // n), max(1, min(scores.DRAWS, PAIRS // n**2))
    found = np.zeros(len(rows))
    with np.errstate(all="ignore"):
        precision = np.exp(-logvar)
        # -1/2 sum (z - mu)^2 / sigma^2 - 1/2 sum logvar as one product of [z^2, z] and [n, 2 Z]
        terms, rest = np.hstack([-0.5 * precision, mu * precision]).T, -0.5 * (mu**2 * precision + logvar).sum(axis=1)
        for k in range(draws):
            eps = randomness.normal((n, Z), seed, randomness.INFORM, k)[rows]
            for start in range(0, len(rows), max(1, BLOCK // n)):
                piece = slice(start, start + max(1, BLOCK // n))
                i, e = rows[piece], eps[piece]
                z = mu[i] + np.exp(logvar[i] / 2) * e
                own = -0.5 * (e**2 + logvar[i]).sum(axis=1)
                log_q = np.hstack([z**2, z]) @ terms
                log_q += rest
                log_q[np.arange(len(i)), i] = own  # to the last digit, however narrow q(z|x) is
                log_q -= own[:, None]
                top = log_q.max(axis=1)
                log_q -= top[:, None]
                total = np.exp(log_q, out=log_q).sum(axis=1)
                found[piece] += (math.log(n) - top - np.log(total)) / draws
    values = np.full(n, found.mean())
    values[rows] += (found - found.mean()) * (n / len(rows))
    return values


def bits_per_dimension(log_p: Array, network: Network, examples: Examples) -> Estimate:
    """-log2 p(x) [n] of the values as they are stored, for each cell that was observed, a category being one cell.

    A density of x / divide_by is divide_by times as high as that of x in each cell; a probability has no units.
    """
    arch, D = network.arch, network.arch.data_dim
    cells, density = np.ones(D), np.zeros(D)
    for run in arch.runs:
        if run.data == ONE_HOT:
            cells[run.columns] = 1 / run.count
        density[run.columns] = run.data == REAL or (
            run.data == UNIT and LIKELIHOODS[run.likelihood].kernel == BY_COLUMNS
        )
    seen = np.ones((1, D)) if arch.missing == "error" else ~np.isnan(examples.data[examples.rows])
    bits = (seen @ density * math.log(examples.divide_by) - log_p) / math.log(2)
    count = np.broadcast_to(seen @ cells, len(bits))
    ratio = float(bits.sum() / count.sum())
    return Estimate(ratio, standard_error(bits - ratio * count) / float(count.mean()))


def nearest(X: Array, rows: Callable[[slice], Array], n: int, k: int) -> Array:
    """Which k [m, k] of n rows lie nearest to each of X [m, D], in no order; `rows` gives those of a slice [.., D]."""
    k, size = min(k, n), max(k, BLOCK // len(X))
    best, which = np.full((len(X), k), np.inf), np.zeros((len(X), k), np.int64)
    for start in range(0, n, size):
        some = np.asarray(rows(slice(start, start + size)), np.float64)
        squares = np.hstack([best, (some**2).sum(axis=1) - 2 * (X @ some.T)])  # and X^2, which all have alike
        order = np.argpartition(squares, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(squares, order, axis=1)
        which = np.where(order < k, np.take_along_axis(which, order % k, axis=1), start + order - k)
    return which


def neighbours(X: Array, network: Network, examples: Examples) -> tuple[Array, Array]:
    """The place [m] in examples of the row nearest to each of X [m, D], and its distance [m].

    Euclidean, of values divided by divide_by as X is, or of a standardized table in standard deviations of its columns.
    """
    shift, scale = network.arch.column_units()

    def rows(which: Any) -> Array:
        return np.asarray((examples.data[examples.rows[which]] / examples.divide_by - shift) / scale)

    X = (X - shift) / scale
    found = nearest(X, rows, len(examples.rows), 1)[:, 0]
    return found, np.sqrt(((X - rows(found)) ** 2).sum(axis=1))


def probe(mu: Array, labels: Array, known: Array, known_labels: Array) -> tuple[Array, Array]:
    """Whether the commonest label of the 5 nearest of known [n, Z] is the label [m] of mu [m, Z]; whether the commonest of

    all is. Of labels that are equally common the first in their order counts.
    """
    names, codes = np.unique(known_labels, return_inverse=True)
    near = codes[nearest(mu, lambda some: known[some], len(known), NEIGHBOURS)]
    votes = sum(vote[:, None] == np.arange(len(names)) for vote in near.T)
    return names[np.argmax(votes, axis=1)] == labels, names[np.bincount(codes).argmax()] == labels


def classes(labels: Array | None) -> Array | None:
    """Labels [n] as texts; None where they are numbers to measure by: fractions, or more than a hundred different."""
    if labels is None or labels.ndim > 1:
        return None
    values = np.unique(labels.astype(str))
    number = labels.dtype.kind in "iuf"
    return None if number and (len(values) > 100 or (labels != np.round(labels)).any()) else labels.astype(str)
