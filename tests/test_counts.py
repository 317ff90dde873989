"""A likelihood for counts as users meet it: what it fits, what it refuses, and where training begins."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from minivae import VAE, DataError
from minivae.kernels import availability
from minivae.likelihoods import COUNTS, LIKELIHOODS

NAME = next(name for name, likelihood in LIKELIHOODS.items() if likelihood.data == COUNTS)


def counts(rows=400, columns=6):
    """Rows of two kinds, whose rates differ: one latent dimension is worth having."""
    rng = np.random.default_rng(4)
    kinds = np.where(rng.random((rows, 1)) < 0.5, [[9, 1, 4, 0.5, 2, 20]], [[1, 9, 4, 3, 2, 5]])
    return rng.poisson(kinds).astype(np.uint8), kinds


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_counts_are_fitted_better_than_by_their_rates_alone(backend):
    if not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    X, kinds = counts()
    settings = {"hidden_dims": (16,), "latent_dim": 1, "epochs": 60, "batch_size": 40, "learning_rate": 5e-3}
    vae = VAE(likelihood=NAME, random_state=0, backend=backend, **settings).fit(X)
    assert vae.divide_by_ == 1  # uint8 that are counts are no pixels
    rates = X.mean(axis=0)
    alone = (X * np.log(rates) - rates - special.gammaln(X + 1.0)).sum(axis=1).mean()
    truth = (X * np.log(kinds) - kinds - special.gammaln(X + 1.0)).sum(axis=1).mean()  # knows the kind for nothing
    assert alone + 1 < vae.score(X) < truth
    means = vae.reconstruct(X)
    assert (means > 0).all() and np.corrcoef(means.ravel(), kinds.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(vae.reconstruct(X.astype(np.int64)), means, rtol=1e-6)  # counts are counts, of any type


@pytest.mark.parametrize(
    "change, settings, words",
    [
        (-1, {}, r"needs counts, .* column 2 falls to -1 .*; choose likelihood='gaussian'"),
        (0.5, {}, r"column 2 holds \d+\.5; round the data or choose likelihood='gaussian'"),
        (
            0,
            {"divide_by": 2},
            r"column \d holds \d*\.5 after division by 2; set divide_by=1 \(--divide-by 1\) or choose",
        ),
    ],
)
def test_what_is_no_count_is_refused_with_its_column_and_the_fix(change, settings, words):
    X = counts()[0].astype(np.float64)
    X[7, 2] = X[7, 2] * (change >= 0) + change
    with pytest.raises(DataError, match=words):
        VAE(likelihood=NAME, epochs=1, **settings).fit(X)


def test_training_on_counts_begins_at_their_mean():
    X, _ = counts()
    vae = VAE(likelihood=NAME, epochs=1, learning_rate=1e-30, random_state=0, hidden_dims=(8,)).fit(X)
    network = vae.network_
    trained_on = np.delete(X, vae.held_rows_, axis=0)
    np.testing.assert_allclose(np.exp(network.named["decoder.1.b"]), trained_on.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("factor", [1, 10, 100])
def test_counts_up_to_thousands_train_without_being_scaled(factor):
    X = counts()[0].astype(np.float64) * factor
    vae = VAE(likelihood=NAME, epochs=20, random_state=0).fit(X)
    assert vae.history_[-1]["val_loss"] < vae.history_[0]["val_loss"]


@pytest.mark.parametrize("size", [1e2, 1e5, 1e7])
def test_the_loss_of_large_counts_keeps_its_nats_in_float32(size):
    """exp(a), x a and log x! are millions there, and the loss a few nats."""
    from minivae.kernels import load

    x = np.floor(np.random.default_rng(2).normal(size, np.sqrt(size), (4, 10))).astype(np.float32)
    a, weight = np.full_like(x, np.log(size)), np.ones(4, np.float32)
    for name in ("numpy", "numba"):
        if not availability(name)[0]:
            continue
        found = {}
        for dtype in (np.float32, np.float64):
            out, nll = np.empty(x.shape, dtype), np.empty(4, dtype)
            getattr(load(name), LIKELIHOODS[NAME].kernel)(
                out, nll, a.astype(dtype), x.astype(dtype), weight.astype(dtype)
            )
            found[dtype] = nll
        np.testing.assert_allclose(found[np.float32], found[np.float64], rtol=2e-2)


def test_counts_are_not_binarized():
    with pytest.raises(ValueError, match="binarize makes yes or no of grey values, and"):
        VAE(likelihood=NAME, binarize="dynamic").fit(counts()[0])
