"""Truth from theory: a linear VAE is probabilistic PCA, whose optimum is known in closed form (see ppca.py)."""

from __future__ import annotations

import numpy as np
import ppca
import pytest

from minivae import VAE
from minivae.architecture import initial_parameters
from minivae.kernels import load
from minivae.network import Network
from minivae.parameters import views

SPECTRUM = np.array([4.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1])


@pytest.mark.parametrize("s2", (None, 0.7, 2.5))
def test_at_the_closed_form_optimum_the_elbo_is_log_p_and_the_gradient_vanishes(kernels, s2):
    best = ppca.Optimum(ppca.with_spectrum(SPECTRUM), 3, s2)
    network = best.network(kernels)
    loss_and_gradient, there = ppca.exact(network, best.x), network.get_parameters()
    loss, gradient = loss_and_gradient(there)
    assert -loss == pytest.approx(best.log_p, abs=1e-12)
    assert np.abs(gradient).max() < 1e-13
    assert ppca.density(best.x, best.W, best.mean, best.s2) == pytest.approx(best.log_p, abs=1e-12)
    for worse in ({"widen": 1.1}, {"widen": 0.9}, {"shift": 0.1}):
        assert loss_and_gradient(best.network(kernels, **worse).get_parameters())[0] > loss + 1e-3


def trained(best, seed):
    """The linear VAE from random parameters to where its exact gradient vanishes; nothing is drawn."""
    optimize = pytest.importorskip("scipy.optimize", reason="L-BFGS is SciPy's")
    threads = pytest.importorskip("threadpoolctl", reason="holds SciPy's BLAS to one thread")
    network = Network(best.architecture(), load("numpy"), "float64")

    start = initial_parameters(best.architecture(), seed)
    with threads.threadpool_limits(1):  # SciPy's BLAS would wait for its threads most of the time
        found = optimize.minimize(ppca.exact(network, best.x), start, jac=True, method="L-BFGS-B", options=OPTIONS)
    network.set_parameters(found.x)
    assert np.abs(found.jac).max() < 1e-6
    return network, -found.fun


OPTIONS = {"maxiter": 5000, "maxfun": 10000, "ftol": 0, "gtol": 1e-8}


@pytest.mark.parametrize("seed", range(3))
def test_from_random_starts_the_linear_vae_finds_log_p_sigma_and_the_principal_subspace(seed):
    best = ppca.Optimum(ppca.with_spectrum(SPECTRUM), 3)
    network, elbo = trained(best, seed)
    assert elbo == pytest.approx(best.log_p, abs=1e-9)
    assert np.exp(2 * network.named["log_sigma"][0]) == pytest.approx(best.s2, rel=1e-5)
    W = network.named["decoder.0.W"]
    outside = W - W @ best.U[:, :3] @ best.U[:, :3].T
    assert np.abs(outside).max() < 1e-4 and np.linalg.matrix_rank(W, tol=0.1) == 3
    np.testing.assert_allclose(
        W @ W.T, np.diag(np.diag(W @ W.T)), atol=1e-4
    )  # the very axes: the KL is a sum over latents


@pytest.mark.parametrize("s2", (3.0, 1.5, 0.75, 0.4, 0.25, 0.15))
def test_the_law_of_collapse_a_latent_is_used_exactly_where_its_eigenvalue_exceeds_sigma_squared(s2):
    """Not a failure of training but the optimum: 1/2 log(e_j / s^2) nats flow through latent j, and 0 where that is less."""
    best = ppca.Optimum(ppca.with_spectrum(SPECTRUM), 6, s2)
    network, elbo = trained(best, seed=1)
    assert elbo == pytest.approx(best.log_p, abs=1e-8)
    V, c = network.named["encoder.0.W"], network.named["encoder.0.b"]
    mu, logvar = np.split(best.x @ V + c, 2, axis=1)
    kl = np.sort(0.5 * np.mean(mu**2 + np.exp(logvar) - logvar - 1, axis=0))[::-1]
    assert np.sum(kl > 1e-3) == np.sum(SPECTRUM[:6] > s2) == best.used.sum()
    np.testing.assert_allclose(kl, best.kl, atol=1e-5)


def test_as_a_user_trains_it_a_linear_vae_is_probabilistic_pca_of_the_wines():
    wine = pytest.importorskip("sklearn.datasets", reason="its wine is the data").load_wine().data
    x = (wine - wine.mean(axis=0)) / wine.std(axis=0)
    best = ppca.Optimum(x, 3)
    assert best.log_p == pytest.approx(-15.7018, abs=1e-4)
    model = VAE(
        3, hidden_dims=(), activation="identity", likelihood="gaussian", epochs=600, batch_size=32, dtype="float64"
    )
    model.set_params(learning_rate=0.01, schedule="cosine", validation_fraction=0.0, random_state=0).fit(x)
    named = views(model.network_.get_parameters(), model.network_.layout)
    W, m = named["decoder.0.W"], named["decoder.0.b"]
    assert (
        best.log_p - 0.02 < ppca.density(x, W, m, model.sigma_**2) <= best.log_p
    )  # no other such Gaussian does better
    assert model.sigma_**2 == pytest.approx(best.s2, rel=0.01)
    within = np.linalg.svd(np.linalg.qr(W.T)[0].T @ best.U[:, :3])[1]  # cosines of the principal angles
    assert within.min() > 0.999
