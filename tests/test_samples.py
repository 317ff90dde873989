"""Samples with noise are data: spread as the data are, of the kind that the likelihood describes, and reproducible."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from minivae import VAE
from minivae.app.cli import main
from minivae.architecture import LIKELIHOODS, Architecture
from minivae.conventions import NotFittedError
from minivae.evaluation.samples import DRAW, observe
from minivae.kernels import load
from minivae.network import Network

N = 20_000


@pytest.fixture(scope="module")
def table():
    return StandardScaler().fit_transform(load_breast_cancer().data).astype(np.float32)


@pytest.fixture(scope="module")
def gaussian(table):
    return VAE(2, hidden_dims=(32,), likelihood="gaussian", epochs=100, learning_rate=3e-3, random_state=0).fit(table)


def decoder(likelihood, out, sigma=0.5, backend="numpy"):
    """A network whose decoder says `out` [D or 2D] whatever z is, and z [N, 1]."""
    D = len(out) // (2 if likelihood == "gaussian" and sigma == "elementwise" else 1)
    network = Network(Architecture(D, 1, (), "identity", likelihood, sigma), load(backend))
    network.named["decoder.0.b"][...] = out
    return network, np.zeros((N, 1))


def test_every_likelihood_has_a_draw():
    assert set(DRAW) == set(LIKELIHOODS)


def test_noisy_samples_of_standardised_data_have_their_variance_and_means_have_not():
    """Data of two factors and noise, of which a linear model knows how they are distributed."""
    rng = np.random.default_rng(0)
    X = StandardScaler().fit_transform(
        rng.normal(size=(4000, 2)) @ rng.normal(size=(2, 6)) + rng.normal(size=(4000, 6))
    )
    vae = VAE(2, hidden_dims=(), likelihood="gaussian", epochs=60, learning_rate=5e-3, random_state=0).fit(X)
    noisy, means = vae.sample(N, noise=True), vae.sample(N)
    assert means.var(axis=0).mean() < 0.8
    assert noisy.var(axis=0).mean() == pytest.approx(1, abs=0.06)
    np.testing.assert_allclose(
        noisy.var(axis=0) - means.var(axis=0), vae.sigma_**2, atol=0.06
    )  # independent: they add up
    assert noisy.dtype == means.dtype == np.float32
    assert np.corrcoef(np.corrcoef(noisy.T).ravel(), np.corrcoef(X.T).ravel())[0, 1] > 0.97


@pytest.mark.parametrize("sigma", [0.5, "learned", "elementwise"])
def test_a_gaussian_adds_sigma_times_a_standard_normal(sigma):
    mean, spread = np.array([-3.0, 0.0, 40.0]), np.full(3, 0.5)
    out = mean
    if sigma == "elementwise":
        spread = np.array([0.1, 1.0, 5.0])
        out = np.concatenate([mean, 2 * np.log(spread)])
    network, z = decoder("gaussian", out, sigma)
    if sigma == "learned":
        network.named["log_sigma"][...] = np.log(0.5)
    x = observe(network, z, seed=3)
    assert (np.abs(x.mean(axis=0) - mean) < 5 * spread / np.sqrt(N)).all()
    np.testing.assert_allclose(x.std(axis=0), spread, rtol=0.03)
    eps = (x - mean) / spread
    assert abs(np.mean(eps**4) - 3) < 0.2  # normal, not merely of this variance
    assert np.abs(np.corrcoef(eps.T) - np.eye(3)).max() < 0.04


def test_a_bernoulli_draws_yes_or_no_as_often_as_its_mean_says():
    p = np.array([0.001, 0.2, 0.5, 0.97])
    network, z = decoder("bernoulli", np.log(p / (1 - p)))
    x = observe(network, z, seed=3)
    assert set(np.unique(x)) == {0.0, 1.0}
    assert (np.abs(x.mean(axis=0) - p) < 5 * np.sqrt(p * (1 - p) / N)).all()


def test_a_poisson_draws_counts_whose_mean_and_variance_are_the_rate():
    rate = np.array([0.02, 1.0, 30.0, 5000.0])
    network, z = decoder("poisson", np.log(rate))
    x = observe(network, z, seed=3).astype(np.float64)
    assert (x >= 0).all() and (x == np.round(x)).all()
    assert (np.abs(x.mean(axis=0) - rate) < 5 * np.sqrt(rate / N)).all()
    np.testing.assert_allclose(x.var(axis=0), rate, rtol=0.2)
    wild, _ = decoder("poisson", np.array([500.0]))  # a rate that no generator takes
    assert np.isfinite(observe(wild, z[:3], seed=3)).all()


def test_backends_draw_the_same_noise(gaussian):
    pytest.importorskip("numba", reason="compares the numba backend with numpy")
    other = VAE(hidden_dims=(32,), likelihood="gaussian", backend="numba", epochs=1, random_state=0)
    other.fit(np.random.default_rng(0).random((20, 30)))
    other.network_.set_parameters(gaussian.network_.get_parameters())
    found = other.sample(7, noise=True, random_state=5)
    np.testing.assert_allclose(found, gaussian.sample(7, noise=True, random_state=5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("noise", [False, True])
def test_each_call_draws_other_rows_and_the_sequence_of_calls_comes_again(noise, table, tmp_path):
    def fitted():
        return VAE(hidden_dims=(8,), likelihood="gaussian", epochs=1, random_state=0).fit(table)

    vae, twin = fitted(), fitted()
    first, second = vae.sample(4, noise=noise), vae.sample(4, noise=noise)
    assert np.abs(first - second).max() > 0.01
    for expected in (first, second):
        np.testing.assert_array_equal(twin.sample(4, noise=noise), expected)
    for copied in (copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))):  # go on where the original stands
        np.testing.assert_array_equal(copied.sample(4, noise=noise), twin.sample(4, noise=noise))
        twin.sample_calls_ = 2
    vae.save(tmp_path / "m.npz")
    np.testing.assert_array_equal(VAE.load(tmp_path / "m.npz").sample(4, noise=noise), first)
    np.testing.assert_array_equal(vae.fit(table).sample(4, noise=noise), first)
    seeded = vae.sample(4, noise=noise, random_state=9)
    np.testing.assert_array_equal(vae.sample(4, noise=noise, random_state=9), seeded)
    np.testing.assert_array_equal(vae.sample(4, noise=noise), second)  # a seed of one's own counts no call
    assert clone(vae).fit(table).sample_calls_ == 0


def test_the_noise_of_x_is_not_that_of_z():
    network, _ = decoder("gaussian", np.zeros(1), sigma=1.0)
    network.named["decoder.0.W"][...] = 1.0
    vae = VAE(1, hidden_dims=(), activation="identity", likelihood="gaussian", sigma=1.0, epochs=1, random_state=0)
    vae.fit(np.arange(20.0)[:, None])
    vae.network_.set_parameters(network.get_parameters())
    noisy, means = (vae.sample(N, noise=kind, random_state=1)[:, 0] for kind in (True, False))
    assert abs(np.corrcoef(noisy - means, means)[0, 1]) < 0.04
    assert noisy.var() == pytest.approx(2, rel=0.05)  # x = z + eps


def test_sigma_is_there_for_a_gaussian_that_has_one(gaussian, trained, table):
    log_sigma = gaussian.network_.named["log_sigma"][0]
    assert gaussian.sigma_ == pytest.approx(float(np.exp(log_sigma)), rel=1e-6)
    residual = np.sqrt(np.square(gaussian.reconstruct(table) - table).mean())
    assert 0.8 * residual < gaussian.sigma_ < 1.3 * residual
    settings = {"hidden_dims": (4,), "likelihood": "gaussian", "epochs": 1, "random_state": 0}
    assert VAE(sigma=0.25, **settings).fit(table).sigma_ == 0.25
    with pytest.raises(AttributeError, match="there is no one sigma_"):
        _ = VAE(sigma="elementwise", **settings).fit(table).sigma_
    with pytest.raises(AttributeError, match="belongs to likelihood='gaussian', and this model has 'bernoulli'"):
        _ = trained.sigma_
    with pytest.raises(NotFittedError, match="call fit"):
        _ = VAE(likelihood="gaussian").sigma_


def test_the_command_line_draws_data_and_draws_them_again(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    VAE(hidden_dims=(8,), likelihood="gaussian", epochs=1, random_state=0).fit(table).save("m.npz")
    for name, options in {"a": ["--noise"], "b": ["--noise"], "c": [], "d": ["--noise", "--random-state", "3"]}.items():
        assert main(["sample", "m.npz", "-n", "6", *options, "--out", f"{name}.npy"]) == 0
    a, b, c, d = (np.load(f"{name}.npy") for name in "abcd")
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1 and np.abs(a - d).max() > 0.1
    np.testing.assert_array_equal(d, VAE.load("m.npz").sample(6, noise=True, random_state=3))


def test_noise_is_yes_or_no(digits):
    vae = VAE(hidden_dims=4, epochs=1, random_state=0).fit(digits[0][:50])
    with pytest.raises(TypeError, match="noise must be True or False, not 'no'"):
        vae.sample(3, noise="no")
