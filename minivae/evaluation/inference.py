"""What training asks of a model, in nats: the ELBO at one draw; embeddings, decoder means, and the active units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from minivae import randomness
from minivae.architecture import Architecture
from minivae.data.batches import Examples
from minivae.data.files import DataError
from minivae.kernels import Call, Var, load
from minivae.likelihoods import LIKELIHOODS
from minivae.network import ELBO, Bound, Network, Workspace, decode_program, encode_program, forward_program

THRESHOLD = 0.01  # of a variance, above which a latent is active
Progress = Callable[[int], Any]  # told how many more rows are done
CHUNK = 1024  # rows at a time outside training: enough for full speed, a few megabytes


def noise_call(seed: int, purpose: int) -> Call:
    """eps for the examples in rows, as a function of the variable step."""
    return Call("philox_normal", ("noise", "rows"), (seed, purpose, Var("step")))


def draws_for(examples: Examples) -> int:
    """How many draws a row: of few rows one would choose among hundreds of epochs the one that it happens to suit."""
    return max(1, min(16, 1024 // len(examples.rows)))


def elbo_of(
    network: Network, examples: Examples, seed: int, draws: int = 1, bound: Bound = ELBO, beta: float = 1.0
) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function of the draw's number, whose arrays are made once, for one who asks after every epoch. It answers

    recon [n] = -log p(x|z), its mean over so many draws of z from q(z|x), kl [n, Z], and the negative bound [n], all in
    nats: recon + beta sum_j kl, or what an importance-weighted bound makes of each draw's samples, in the mean over draws.
    z is sampled, not set to its mean: at the mean, recon + kl bounds nothing.
    """
    examples, Z = examples.fixed(), network.arch.latent_dim
    bound = replace(bound, free_bits=0.0, capacity=0.0)
    program = [
        *examples.batch_program(seed),
        noise_call(seed, randomness.EVALUATE),
        *forward_program(network.arch, bound),
    ]
    chunk = max(1, CHUNK // bound.n_samples)
    work = _workspace(network, program, examples, chunk, bound.n_samples)

    def terms(sample: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        recon, loss, kl = np.zeros(len(examples.rows)), np.zeros(len(examples.rows)), np.empty((len(examples.rows), Z))
        for piece, rows in examples.chunks(chunk):
            for draw in range(draws):
                examples.load(work, rows)  # again, for a program may consume them
                work.run(len(rows), step=sample * draws + draw, beta=beta)
                recon[piece] += work.get("nll").reshape(len(rows), -1).mean(axis=1)
                if bound.weighted:
                    loss[piece] += work.get("bound")
            kl[piece] = work.get("kl")
        return recon / draws, kl, loss / draws if bound.weighted else recon / draws + beta * kl.sum(axis=1)

    return terms


def posterior(network: Network, examples: Examples, dtype: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """mu [n, Z] and logvar [n, Z] of q(z|x). An embedding has no noise: x is never binarized, grey values go in as grey.

    In this dtype, or the network's. Raises DataError naming the row whose embedding has no finite number there. On NumPy
    it is computed in float64: BLAS adds up a row in an order that depends on the rows beside it.
    """
    exact = in_double(network) if network.kernels is load("numpy") else network

    def encoded(network: Network, which: Any) -> np.ndarray:
        some = replace(examples, binarize="none", rows=examples.rows[which])
        work = _workspace(network, [*some.batch_program(seed=0), *encode_program(network.arch)], some)
        h = np.empty((len(some.rows), 2 * network.arch.latent_dim), network.dtype)
        for piece, rows in some.chunks(CHUNK):
            some.load(work, rows)
            work.run(len(rows))
            h[piece] = work.get("h")
        return h

    h = in_dtype(finite_first(encoded, exact), dtype or network.dtype, "q(z|x)", examples.rows)
    mu, logvar = np.split(h, 2, axis=1)
    return mu, logvar


def finite_first(compute: Callable[[Network, Any], np.ndarray], network: Network) -> np.ndarray:
    """compute(network, all rows) [n, C]; the rows without a finite number again in float64, by the book.

    What is no number there either stays. Raises NotFinite where that is so because the parameters are none.
    """
    with np.errstate(all="ignore"):
        table = compute(network, slice(None))
        lost = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if lost.size:
            network.require_finite()
        if lost.size and network.dtype != np.float64:
            table = table.astype(np.float64)
            table[lost] = compute(in_double(network), lost)
    return table


def in_double(network: Network) -> Network:
    """The same network by the book, in float64."""
    if network.dtype == np.float64 and network.kernels is load("numpy"):
        return network
    double = Network(network.arch, load("numpy"), "float64")
    double.set_parameters(network.get_parameters())
    return double


def in_dtype(values: np.ndarray, dtype: Any, what: str, rows: np.ndarray | None = None) -> np.ndarray:
    """values [n, C] in this dtype. Raises DataError naming the first of these rows whose numbers are not all finite."""
    with np.errstate(all="ignore"):
        found = values.astype(dtype, copy=False)
    lost = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if lost.size:
        fits = np.isfinite(values[lost[0]]).all()
        raise DataError(
            f"{what} of row {lost[0] if rows is None else rows[lost[0]]} (counted from 0) has no finite number in "
            f"{np.dtype(dtype)}; bring that row nearer to the data of the fit"
            + (", or fit with dtype='float64'" if fits else "")
        )
    return found


def outputs(
    network: Network, program: list[Call], z: np.ndarray, side: np.ndarray | None, of: Callable[..., Any] = np.asarray
) -> np.ndarray:
    """What `of` makes of the decoder's output [n, P] at latent points z [n, Z] (and side [n, C]), by this program."""

    def found(network: Network, which: Any) -> np.ndarray:
        points, told = z[which], None if side is None else side[which]
        work = network.workspace(program, min(CHUNK, len(points)))
        out = np.empty((len(points), network.arch.outputs), network.dtype)
        for start in range(0, len(points), CHUNK):
            piece = slice(start, start + CHUNK)
            work.put("z", points[piece])
            if told is not None:
                work.put("c", told[piece])
            work.run(len(points[piece]))
            out[piece] = work.get("out")
        return np.asarray(of(out))

    return finite_first(found, network)


def decode(network: Network, z: np.ndarray, side: np.ndarray | None = None) -> np.ndarray:
    """The mean of p(x|z) [n, D] for latent points z [n, Z] (and side [n, C]), such as probabilities for bernoulli.

    In the network's dtype, or in float64 where a column lies too far from 0 for float32.
    """
    arch, program = network.arch, decode_program(network.arch)
    mean = column_means(arch) if arch.by_columns else LIKELIHOODS[arch.likelihood].mean
    if isinstance(mean, str):
        program[-1] = Call(program[-1].kernel, program[-1].arrays, (mean,))
    means = outputs(network, program, z, side, np.asarray if isinstance(mean, str) else mean)
    return in_dtype(means, np.float64 if arch.far else network.dtype, "the decoder's mean")


def column_means(arch: Architecture) -> Callable[[np.ndarray], np.ndarray]:
    """The means of all columns [n, D], in the table's own units, as a function of the decoder's output [n, P]."""
    shift, scale = arch.column_units()

    def means(out: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.asarray(shift + scale * np.concatenate([run.mean(out) for run in arch.runs], axis=1))

    return means


def active_units(mu: np.ndarray) -> np.ndarray:
    """Which latent dimensions [Z] are in use: Var_x( E_q[z_j | x] ) > 0.01 (Burda et al. 2016)."""
    with np.errstate(over="ignore"):
        return np.asarray(np.var(mu, axis=0, dtype=np.float64) > THRESHOLD)


def collapse(active: int, latent_dim: int, objective: str = "elbo") -> str:
    """A line that says posterior collapse with its remedies where fewer than a tenth of the latents, or none, are active."""
    if active >= max(1, latent_dim / 10):
        return ""
    verb = "is" if active == 1 else "are"
    bits = " or free_bits" * (objective == "elbo")
    return (
        f"posterior collapse: {active} of {latent_dim} latent dimensions {verb} active; raise kl_warmup{bits}, lower beta, "
        "or train a smaller decoder"
    )


def _workspace(
    network: Network, program: list[Call], examples: Examples, chunk: int = CHUNK, samples: int = 1
) -> Workspace:
    return network.workspace(program, min(chunk, len(examples.rows)), samples, **examples.on(network.kernels))
