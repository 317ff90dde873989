"""Scores that rank: what one row is worth, whatever rows stand beside it and however far from the data it lies.

Three numbers in nats: the ELBO, the importance-sampled log-likelihood and the reconstruction alone. All rows share the
same noise, so that a row's score does not depend on its place and two rows differ by what they are, not by what they
drew. A mean over rows is another question: its error shrinks with their number only if each draws its own (`bounds`).
Where a row's numbers do not fit into float32 it is evaluated again in float64.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from minivae import randomness
from minivae.data.batches import Examples
from minivae.data.checks import require_count
from minivae.evaluation.inference import CHUNK, Progress, finite_first, noise_call
from minivae.kernels import Call, load
from minivae.kernels.columns import CELLS
from minivae.likelihoods import ONE_HOT
from minivae.network import Network, Workspace, decode_program, encode_program, loss_program

Noise = np.ndarray | range  # eps [K, 1, Z] that all rows share, or range(K): K draws of each row's own
DRAWS = 32  # of z for each row: of the 15 strangest digits two seeds name 14 alike, and their mean ELBO differs by 0.1


def shared_noise(n_draws: int, latent_dim: int, seed: int, name: str = "n_samples") -> np.ndarray:
    """eps [n_draws, 1, Z] for all rows alike, each draw standard normal, together more even than independent draws.

    They come in pairs eps, -eps: what is odd in eps cancels. The sizes |eps_j| of the pairs lie one in each of so many
    equally likely intervals (a Latin hypercube, McKay et al. 1979): what is a sum over dimensions nearly cancels too. An
    error that all rows share would not vanish in their mean, so this is worth its lines.
    """
    require_count(name, n_draws, 64 * latent_dim)
    pairs = -(-n_draws // 2)
    order, place, sign = randomness.uniform((3 * pairs, latent_dim), seed, randomness.EVALUATE).reshape(3, pairs, -1)
    quantile = (np.argsort(order, axis=0) + place) / pairs
    size = np.array([NormalDist().inv_cdf((1 + q) / 2) for q in quantile.ravel()]).reshape(quantile.shape)
    eps = np.where(sign < 0.5, -size, size)
    return np.stack([eps, -eps], axis=1).reshape(-1, 1, latent_dim)[:n_draws]


def elbo_terms(network: Network, examples: Examples, seed: int, n_draws: int = DRAWS) -> tuple[np.ndarray, np.ndarray]:
    """recon [n], the mean of -log p(x|z) over n_draws draws of z from q(z|x), and kl [n], both in nats.

    The ELBO is -(recon + kl), the KL in closed form. Both are inf where float64 holds no number for the row.
    """
    eps = shared_noise(n_draws, network.arch.latent_dim, seed, "n_draws")

    def terms(network: Network, examples: Examples) -> np.ndarray:
        table = np.zeros((len(examples.rows), 2))
        for piece, work in _draws(network, examples, seed, eps):
            table[piece, 0] += _nll(work) / len(eps)
            table[piece, 1] = work.get("kl").sum(axis=1, dtype=np.float64)
        return table

    recon, kl = _finite_first(terms, network, examples).T
    return recon, kl


def divergence(network: Network, examples: Examples, seed: int) -> np.ndarray:
    """KL( q(z|x) || p(z) ) of each latent dimension [n, Z] in nats, whose sum over the dimensions is elbo_terms' kl."""
    Z = network.arch.latent_dim

    def terms(network: Network, examples: Examples) -> np.ndarray:
        table = np.zeros((len(examples.rows), Z))
        for piece, work in _draws(network, examples, seed, np.zeros((1, 1, Z))):
            table[piece] = work.get("kl")
        return table

    return _finite_first(terms, network, examples)


def log_likelihood(
    network: Network, examples: Examples, n_samples: int, seed: int, progress: Progress = lambda rows: None
) -> np.ndarray:
    """log p(x) per example [n] in nats, estimated by log 1/K sum_k w_k with K = n_samples draws from q(z|x).

    log w = log p(x|z) + log p(z) - log q(z|x) and, with z = mu + sigma eps, log p(z) - log q(z|x) =
    1/2 sum_j (logvar + eps^2 - z^2). In expectation a lower bound that rises with K to log p(x) (Burda et al. 2016).
    -inf where float64 holds no number for the row.
    """
    eps = shared_noise(n_samples, network.arch.latent_dim, seed)

    def surprise(network: Network, examples: Examples) -> np.ndarray:
        total = np.full(len(examples.rows), -math.inf)
        for piece, _, log_w in log_weights(network, examples, seed, eps):
            total[piece] = np.logaddexp(total[piece], log_w)
            progress(len(log_w))
        return (math.log(len(eps)) - total)[:, None]

    return -_finite_first(surprise, network, examples)[:, 0]


def bounds(
    network: Network, examples: Examples, n_samples: int, seed: int, progress: Progress = lambda rows: None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """recon [n], kl [n] and log p(x) [n] as above, of which one takes means; and h [n, 2 Z], the q(z|x) they are of.

    Each row draws noise of its own, by its number in the data: the errors of rows are then independent, and the standard
    error of a mean over rows holds them. One draw at a time is in memory. recon is a mean over max(n_samples, DRAWS)
    draws; of the first n_samples of them comes log p(x).
    """
    require_count("n_samples", n_samples)
    eps = range(max(n_samples, DRAWS))

    def terms(network: Network, examples: Examples) -> np.ndarray:
        table = np.zeros((len(examples.rows), 3 + 2 * network.arch.latent_dim))
        table[:, 2] = -math.inf
        for i, (piece, work, log_w) in enumerate(log_weights(network, examples, seed, eps)):
            row = table[piece]
            row[:, 0] += _nll(work) / len(eps)
            if i % len(eps) < n_samples:
                row[:, 2] = np.logaddexp(row[:, 2], log_w)
            if i % len(eps) == 0:
                row[:, 1], row[:, 3:] = work.get("kl").sum(axis=1, dtype=np.float64), work.get("h")
            progress(len(log_w))
        table[:, 2] = math.log(n_samples) - table[:, 2]
        return table

    table = _finite_first(terms, network, examples)
    return table[:, 0], table[:, 1], -table[:, 2], table[:, 3:]


def log_weights(
    network: Network, examples: Examples, seed: int, eps: Noise
) -> Iterator[tuple[slice, Workspace, np.ndarray]]:
    """For every chunk of rows and each draw: its place, the workspace, and log w [rows] in float64."""
    Z = network.arch.latent_dim
    for piece, work in _draws(network, examples, seed, eps):
        logvar, z, e = (a.astype(np.float64) for a in (work.get("h")[:, Z:], work.get("z"), work.get("eps")))
        yield piece, work, 0.5 * (logvar + e**2 - z**2).sum(axis=1) - _nll(work)


def reconstruction(
    network: Network, examples: Examples, seed: int, n_draws: int = DRAWS, per_column: bool = False
) -> np.ndarray:
    """-log p(x|z) in nats, its mean over n_draws draws of z from q(z|x): [n], or [n, D] for each column alone.

    The negative "reconstruction probability" of An and Cho (2015). inf where float64 holds no number for it.
    """
    columns = network.arch.data_dim if per_column else 1
    eps = shared_noise(n_draws, network.arch.latent_dim, seed, "n_draws")

    def nll(network: Network, examples: Examples) -> np.ndarray:
        table = np.zeros((len(examples.rows), columns))
        cells = _by_column(network, min(CHUNK, len(table))) if per_column else lambda work: work.get("nll")[:, None]
        for piece, work in _draws(network, examples, seed, eps):
            table[piece] += _known(work, cells(work)) / len(eps)
        return table

    table = _finite_first(nll, network, examples)
    return table if per_column else table[:, 0]


# ---- How


def _draws(network: Network, examples: Examples, seed: int, eps: Noise) -> Iterator[tuple[slice, Workspace]]:
    """For every chunk of rows its place and, once for each draw, the workspace after z, out and nll were computed.

    Binarized pixels are drawn by what the row holds, not by where it stands: the checksum of its grey values takes the
    place of its number, so that rows that differ still draw independently.
    """
    arch, kernels, capacity = network.arch, network.kernels, min(CHUNK, len(examples.rows))
    program = examples.fixed().batch_program(seed)
    gather, binarize = [[call for call in program if (call.kernel == "gather") is read] for read in (True, False)]
    reading = network.workspace(gather, capacity, **examples.on(kernels))
    read = {name: array for name, array in reading.arrays.items() if name not in ("rows", "data", "side")}
    encoding = network.workspace([*binarize, *encode_program(arch)], capacity, **read)
    noise = [noise_call(seed, randomness.MEASURE)] if isinstance(eps, range) else []
    draw = [*noise, Call("sample_forward", ("z", "kl", "h", "eps")), *decode_program(arch), *loss_program(arch)]
    encoded = {name: encoding.arrays[name] for name in ("x", "c", "h", "observed") if name in encoding.arrays}
    drawing = network.workspace(draw, capacity, **encoded)
    for piece, rows in examples.chunks(CHUNK):
        n = len(rows)
        for work in (reading, encoding):
            examples.load(work, rows)
        if gather:
            reading.run(n)
        if binarize:
            grey = kernels.to_host(encoding.arrays["x"][:n]).astype(np.float32)
            encoding.put("rows", np.array([zlib.crc32(row.tobytes()) for row in grey], np.int64))
        encoding.run(n)
        if noise:
            drawing.put("rows", rows)
        for k, e in enumerate(eps):
            if not noise:
                drawing.put("eps", np.broadcast_to(e, (n, arch.latent_dim)))
            drawing.run(n, step=k)
            yield piece, drawing


def _nll(work: Workspace) -> np.ndarray:
    return _known(work, work.get("nll")[:, None])[:, 0]


def _known(work: Workspace, nll: np.ndarray) -> np.ndarray:
    """nll [n, C] in float64, NaN where z is not finite: a rectifier may turn what came of that into an ordinary number."""
    return np.where(np.isfinite(work.get("z")).all(axis=1, keepdims=True), nll.astype(np.float64), np.nan)


def _by_column(network: Network, capacity: int) -> Callable[[Workspace], np.ndarray]:
    """A function of a workspace after a draw that gives nll [n, D] in float64.

    A column alone is a data set of one column: the likelihood's own kernel says what each of them is worth.
    """
    if network.arch.by_columns:
        return _by_cells(network)
    arch, D = replace(network.arch, data_dim=1), network.arch.data_dim
    single = Network(arch, load("numpy"), "float64")
    if arch.learns_sigma:
        single.named["log_sigma"][...] = network.kernels.to_host(network.named["log_sigma"])

    alone = single.workspace(loss_program(arch), capacity * D)

    def nll(work: Workspace) -> np.ndarray:
        out, x = work.get("out"), work.get("x")
        alone.put("out", out.reshape(-1, 1))
        alone.put("x", x.reshape(-1, 1))
        alone.run(x.size)
        return alone.get("nll").reshape(x.shape)

    return nll


def _by_cells(network: Network) -> Callable[[Workspace], np.ndarray]:
    """The same where columns differ, 0 in cells that were not observed; the nll of a category stands where its 1 stands."""
    arch, kernels = network.arch, network.kernels
    t, log_scale = (kernels.to_host(network.named[name]).astype(np.float64) for name in ("dispersion", "log_scale"))

    def nll(work: Workspace) -> np.ndarray:
        out, x, observed = (work.get(name).astype(np.float64) for name in ("out", "x", "observed"))
        table = np.zeros_like(x)
        for run in arch.runs:
            a, cell = out[:, run.output :][:, : run.outputs], list(CELLS.values())[run.kind]
            cells = cell(a, x[:, run.columns], t[run.columns])[0] + log_scale[run.columns]
            table[:, run.columns] = cells * x[:, run.columns] if run.data == ONE_HOT else cells
        return np.where(observed > 0, table, 0)

    return nll


def _finite_first(score: Callable[[Network, Examples], np.ndarray], network: Network, examples: Examples) -> np.ndarray:
    """score(network, examples) [n, C], higher = worse; the rows without a finite number again in float64, by the book.

    What is no number there either is inf: nothing is worse. NumPy's warnings about such rows say nothing new.
    """
    table = finite_first(lambda network, which: score(network, replace(examples, rows=examples.rows[which])), network)
    table[np.isnan(table)] = math.inf
    return table
