"""Small models of every kind for the tests of formats, and data that they take."""

from __future__ import annotations

import numpy as np

from minivae import VAE

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(40, 3)).astype(np.float32) * 2
REAL = RNG.normal(3, 2, size=(40, 6)).astype(np.float32)
GREY, COUNTS = RNG.random((40, 6), np.float32), RNG.poisson(4, (40, 6)).astype(np.float32)
CATEGORY = np.eye(6, dtype=np.float32)[RNG.integers(6, size=40)]
MIXED = np.hstack(
    [REAL[:, :2], GREY[:, :1], GREY[:, 1:2].round(), COUNTS[:, :2], np.eye(3)[RNG.integers(3, size=40)]]
).astype(np.float32)
NAMES = "gaussian*2 continuous_bernoulli bernoulli poisson negative_binomial categorical*3"

LIKELIHOODS = [
    (GREY, {"likelihood": "bernoulli"}),
    (GREY, {"likelihood": "continuous_bernoulli"}),
    (REAL, {"likelihood": "gaussian"}),
    (REAL, {"likelihood": "gaussian", "sigma": 0.5, "dtype": "float64", "hidden_dims": ()}),
    (REAL, {"likelihood": "gaussian", "sigma": "elementwise"}),
    (REAL, {"likelihood": "gaussian", "standardize": True}),
    (REAL, {"likelihood": "gaussian", "divide_by": 7.0}),
    (COUNTS, {"likelihood": "poisson"}),
    (COUNTS, {"likelihood": "negative_binomial"}),
    (CATEGORY, {"likelihood": "categorical"}),
    (MIXED, {"likelihood": NAMES, "standardize": True, "sigma": "elementwise"}),
]


def wild(X, y=None, **parameters):
    """A model whose weights are far from 0, so that every activation and mean leaves its straight part."""
    parameters = {
        "latent_dim": 3,
        "hidden_dims": (7, 5),
        "epochs": 1,
        "random_state": 0,
        "backend": "numpy",
    } | parameters
    vae = VAE(**parameters, validation_fraction=0).fit(X, y)
    values = vae.network_.get_parameters()
    vae.network_.set_parameters(values + 0.4 * np.random.default_rng(1).normal(size=values.shape))
    return vae
