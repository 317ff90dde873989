"""Counts as sequencing makes them: which likelihood suits them, and how far the negative binomial's r gets.

500 cells of 3 kinds with 100 genes: negative binomial counts of one r around the kind's rates, times a library size of
each cell. Prints log P(x) per cell of 500 new cells, in nats: importance-sampled with 200 draws, beside the truth given
kind and size. A density and a probability do not compare, so a gaussian on log1p(x) is made a distribution of counts by its
probability between log1p(x - 1/2) and log1p(x + 1/2). "stopped": the loss was no number.

    PYTHONPATH=. python benchmarks/counts.py
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import nbinom

from minivae import VAE
from minivae.training import NotFinite

SETTINGS = ({}, {"epochs": 200, "patience": 40}, {"epochs": 200, "patience": 40, "learning_rate": 3e-3})


def cells(r, seed, n=500, genes=100):
    """Counts [n, genes], and the mean of log P(x | kind, size)."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    rates = fixed.normal(size=genes) + (fixed.random((3, genes)) < 0.2) * fixed.normal(0, 1.5, size=(3, genes))
    shares = np.exp(rates) / np.exp(rates).sum(axis=1, keepdims=True)
    kind, size = rng.integers(0, 3, n), np.exp(rng.normal(np.log(300), 0.4, size=(n, 1)))
    p = r / (r + size * shares[kind])
    x = rng.negative_binomial(r, p).astype(float)
    return x, nbinom.logpmf(x, r, p).sum(axis=1).mean()


def log_probability(vae, x, n_samples=200):
    """The mean of log P(x) of a gaussian VAE on log1p(x), its density integrated over the unit around each count."""
    mu, logvar = (part.astype(np.float64) for part in vae.posterior(np.log1p(x)))
    low, high = np.where(x > 0, np.log1p(np.maximum(x, 1) - 0.5), -np.inf), np.log1p(x + 0.5)
    total = np.full(len(x), -np.inf)
    for eps in np.random.default_rng(0).normal(size=(n_samples, *mu.shape)):
        z = mu + np.exp(logvar / 2) * eps
        mean = vae.inverse_transform(z).astype(np.float64)
        a, b = (low - mean) / vae.sigma_, (high - mean) / vae.sigma_
        a, b = np.where(a > 0, -b, a), np.where(a > 0, -a, b)  # the lower tail keeps its digits
        inside = log_ndtr(b) + np.log1p(-np.exp(np.minimum(log_ndtr(a) - log_ndtr(b), -1e-12)))
        total = np.logaddexp(total, inside.sum(axis=1) + 0.5 * (logvar + eps**2 - z**2).sum(axis=1))
    return np.mean(total) - np.log(n_samples)


def main() -> None:
    for r in (0.2, 2.0, 50.0):
        (train, _), (new, truth) = cells(r, seed=0), cells(r, seed=1)
        print(f"r = {r:g}: truth {truth:.1f}")
        for settings in SETTINGS:
            line = []
            for likelihood in ("poisson", "negative_binomial", "gaussian"):
                vae, gaussian = VAE(likelihood=likelihood, **settings, random_state=0), likelihood == "gaussian"
                try:
                    vae.fit(np.log1p(train) if gaussian else train)
                    found = log_probability(vae, new) if gaussian else vae.score_samples(new, n_samples=200).mean()
                    line.append(f"{likelihood} {found:.1f}")
                except NotFinite:
                    line.append(f"{likelihood} stopped")
                if likelihood == "negative_binomial":
                    line[-1] += f" (median r {np.exp(np.median(vae.network_.named['dispersion'])):.2f})"
            print(f"  {settings or 'defaults'}: " + ", ".join(line), flush=True)


if __name__ == "__main__":
    main()
