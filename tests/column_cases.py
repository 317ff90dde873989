"""Cells of every kind with the loss and the derivatives that SciPy and complex numbers give, for tests of columns.py."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from minivae.kernels.columns import KINDS, LEAST


def continuous_bernoulli(a, x, t):
    """The normaliser is the integral of e^(a x) over [0, 1], here and its derivative by Gauss and Legendre."""
    nodes, shares = np.polynomial.legendre.leggauss(40)
    points, shares = 0.5 * (nodes + 1), 0.5 * shares
    powers = shares * np.exp(a[..., None] * points)
    normaliser = powers.sum(axis=-1)
    return np.log(normaliser) - x * a, (powers * points).sum(axis=-1) / normaliser - x, 0 * a


def gaussian(a, x, t):
    s = LEAST + np.logaddexp(0, t - LEAST) + 0 * a
    sigma = np.exp(s)
    return -stats.norm.logpdf(x, a, sigma), (a - x) / sigma**2, (1 - ((a - x) / sigma) ** 2) * special.expit(t - LEAST)


def negative_binomial(a, x, t):
    m, r = np.exp(a), np.exp(t) + 0 * a
    nll = -stats.nbinom.logpmf(x, r, r / (r + m))
    psi = special.digamma
    return nll, r * (m - x) / (r + m), r * (psi(r) - psi(x + r) + np.log(r + m) + (r + x) / (r + m) - t - 1)


def bernoulli(a, x, t):
    return -special.xlogy(x, special.expit(a)) - special.xlog1py(1 - x, -special.expit(a)), special.expit(a) - x, 0 * a


def poisson(a, x, t):
    return -stats.poisson.logpmf(x, np.exp(a)), np.exp(a) - x, 0 * a


CELLS = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "gaussian": gaussian,
    "poisson": poisson,
    "negative_binomial": negative_binomial,
}


def draw(kind, rng, shape):
    """Data that a kind takes."""
    if kind in ("gaussian", "gaussian_elementwise"):
        return rng.normal(size=shape)
    if kind in ("poisson", "negative_binomial"):
        return rng.poisson(rng.choice([0.3, 3, 40], shape)).astype(float)
    if kind == "categorical":
        return np.eye(shape[1])[rng.integers(shape[1], size=shape[0])]
    return rng.choice([0.0, 1.0, 0.3], shape)


def split_columns(D):
    """Runs [R, 4] that share out D columns among all kinds, and the width of the decoder's output."""
    runs, column, place = [], 0, 0
    for i in range(D):
        kind = list(KINDS)[(D + i) % len(KINDS)]
        n = min(1 + i % 3, D - column)
        if n:
            runs.append((KINDS[kind], column, place, n))
            column += n
            place += n * (2 if kind == "gaussian_elementwise" else 1)
    return np.array(runs, np.int64), place


def expected_loss(out, x, observed, t, log_scale, runs, weight):
    """nll, dout and dt as columns_loss says them, cell by cell from the formulas above."""
    names, (dout, dt), nll = list(KINDS), (np.zeros_like(out), np.zeros_like(x)), observed @ log_scale
    for kind, c, o, n in runs:
        name, seen = names[kind], observed[:, c : c + n]
        a, values = out[:, o : o + n], x[:, c : c + n]
        if name == "categorical":
            p = special.softmax(a, axis=1)
            nll += seen[:, 0] * (special.logsumexp(a, axis=1) - (a * values).sum(axis=1))
            dout[:, o : o + n] = seen[:, :1] * (p - values)
        elif name == "gaussian_elementwise":
            cells, da, ds = gaussian(a, values, out[:, o + n : o + 2 * n] / 2)
            nll += (seen * cells).sum(axis=1)
            dout[:, o : o + n], dout[:, o + n : o + 2 * n] = seen * da, seen * ds / 2
        else:
            cells, da, ds = CELLS[name](a, values, t[c : c + n])
            nll += (seen * cells).sum(axis=1)
            dout[:, o : o + n], dt[:, c : c + n] = seen * da, seen * ds
    return {"nll": nll, "dout": weight[:, None] * dout, "dt": weight[:, None] * dt}


def mask(rng, rows, D, runs):
    """Cells that were observed; a group of one-hot columns as a whole."""
    observed = (rng.random((rows, D)) < 0.7).astype(float)
    for kind, c, _, n in runs:
        if kind == KINDS["categorical"]:
            observed[:, c : c + n] = observed[:, c : c + 1]
    return observed
