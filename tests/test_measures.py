"""What a model is worth on a set of rows: values that are known in closed form, and errors that say what they should."""

from __future__ import annotations

import math
import os
import tracemalloc
from statistics import NormalDist

import numpy as np
import pytest

from minivae import VAE, load_dataset, randomness
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.evaluation import inference, measures, scores
from minivae.evaluation.measures import Measured, information, mean_of, median_of
from minivae.kernels import load
from minivae.network import Network

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
SMALL = {"hidden_dims": (8,), "epochs": 3, "random_state": 0, "validation_fraction": 0, "backend": "numpy"}


def gaussians(mu, sigma):
    """h [n, 2 Z] of q(z|x) = N(mu, sigma^2)."""
    mu = np.asarray(mu, float)
    return np.hstack([mu, np.broadcast_to(2 * np.log(sigma), mu.shape)])


def kl_of(h):
    mu, logvar = np.split(h, 2, axis=1)
    return 0.5 * (mu**2 + np.exp(logvar) - logvar - 1).sum(axis=1)


# ---- The two parts of the KL


@pytest.mark.parametrize("sigma", [1e-3, 0.3, 1.0])
def test_rows_whose_q_are_alike_tell_nothing(sigma):
    h = gaussians(np.tile([[0.7, -2.0, 0.1]], (50, 1)), sigma)
    np.testing.assert_allclose(information(h, seed=1), 0, atol=1e-8)


@pytest.mark.parametrize("groups", [2, 5, 60])
def test_rows_far_apart_tell_their_group_and_that_is_log_n_at_most(groups):
    centres = np.arange(60) % groups * [[100.0], [-30.0]]
    for sigma in (1e-9 if groups == 60 else 0.1, 1.0):
        np.testing.assert_allclose(information(gaussians(centres.T, sigma), seed=1), math.log(groups), rtol=1e-8)


def test_no_value_exceeds_log_n():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        for spread in (0.1, 1, 30):
            h = np.hstack([spread * rng.normal(size=(n, 3)), rng.normal(size=(n, 3))])
            assert information(h, seed=n).max() <= math.log(n) + 1e-12


def test_information_is_the_integral_over_the_mixture():
    h = gaussians([[-1.0], [-0.4], [0.0], [0.9], [2.0]], np.array([[0.5], [0.2], [1.0], [0.7], [0.3]]))
    z, step = np.linspace(-12, 12, 200_001, retstep=True)
    q = np.exp(-0.5 * ((z - h[:, :1]) ** 2 / np.exp(h[:, 1:]) + h[:, 1:] + math.log(2 * math.pi)))
    mutual = (q * (np.log(q + 1e-300) - np.log(q.mean(axis=0) + 1e-300))).sum(axis=1) * step
    marginal = (q.mean(axis=0) * (np.log(q.mean(axis=0) + 1e-300) + 0.5 * (z**2 + math.log(2 * math.pi)))).sum() * step
    assert mutual.mean() + marginal == pytest.approx(kl_of(h).mean(), abs=1e-6)  # Hoffman and Johnson's identity
    found = np.array([information(h, seed) for seed in range(60 * TRIALS)])  # 32 draws each
    error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - mutual) < 4.5 * error).all() and error.max() < 0.03


def test_of_an_aggregate_posterior_that_is_the_prior_all_is_information(monkeypatch):
    """mu ~ N(0, 1 - s^2): q(z) is N(0, I), and the mutual information is -log s for each latent."""
    h = gaussians(0.8 * np.random.default_rng(3).normal(size=(3000, 2)), 0.6)
    monkeypatch.setattr(measures, "PAIRS", 3000 * 3000)
    values = information(h, seed=0)
    assert values.mean() == pytest.approx(-2 * math.log(0.6), abs=4 * mean_of(values).error)
    assert abs((kl_of(h) - values).mean()) < 4 * mean_of(kl_of(h) - values).error + 0.01
    monkeypatch.setattr(measures, "PAIRS", 3000 * 500)  # of many rows some draw, and the error says so
    some = information(h, seed=0)
    assert mean_of(some).error == pytest.approx(math.sqrt(6) * mean_of(values).error, rel=0.3)
    assert some.mean() == pytest.approx(values.mean(), abs=4 * mean_of(some).error)


# ---- Errors


@pytest.fixture(scope="module")
def loose():
    """A random network whose q(z|x) is wide: what z is drawn says more than what the row is."""
    arch = Architecture(data_dim=6, latent_dim=10, hidden_dims=(8,), activation="tanh", likelihood="gaussian")
    network = Network(arch, load("numpy"), "float32")
    network.set_parameters(2 * initial_parameters(arch, seed=3))
    return network


def rows_of(seed, n):
    return Examples(np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32), np.arange(n))


def test_the_standard_error_covers_the_truth_as_often_as_it_should(loose):
    """Forty sets of fifty rows, against a long run; with noise that all rows share, it would cover it seldom."""
    seeds, K = range(1, 1 + 40 * TRIALS), 4
    truth = Measured.of(loose, rows_of(0, 20_000), 0, K)
    own = [Measured.of(loose, rows_of(seed, 50), seed, K) for seed in seeds]
    draws = scores.DRAWS
    shared = [-sum(scores.elbo_terms(loose, rows_of(seed, 50), seed, 2)) for seed in seeds]
    assert draws > K
    for name in ("elbo", "recon", "log_p"):
        found = [mean_of(getattr(measured, name)) for measured in own]
        far = np.array([(value - getattr(truth, name).mean()) / error for value, error in found])
        assert (np.abs(far) < 1.96).mean() >= 0.84, name
        assert 0.7 < far.std() < 1.4 and abs(far.mean()) < 0.6, name
    far = np.array([(s.mean() - truth.elbo.mean()) / mean_of(s).error for s in shared])
    assert (np.abs(far) < 1.96).mean() < 0.8


def test_many_draws_of_each_row_need_no_memory(loose):
    examples = rows_of(0, 2000)
    Measured.of(loose, examples, 0, 2)
    tracemalloc.start()
    Measured.of(loose, examples, 0, 200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6 < 200 * 2000 * 10 * 4  # a chunk's workspace, where all noise would be 16 MB


def test_the_log_likelihood_is_of_the_first_draws_and_the_elbo_of_more(loose):
    """L_K rises with K, for the same draws; the ELBO of 32 draws or more does not move by what K is."""
    few, many = (Measured.of(loose, rows_of(0, 500), 0, K) for K in (1, 64))
    assert np.abs(few.elbo - many.elbo).mean() < np.abs(few.log_p - many.log_p).mean()
    assert few.log_p.mean() < many.log_p.mean()
    gap = mean_of(few.log_p - few.elbo)  # L_1 is the ELBO
    assert abs(gap.value) < 4 * gap.error < 2
    np.testing.assert_array_equal(few.recon, Measured.of(loose, rows_of(0, 500), 0, 32).recon)
    np.testing.assert_allclose(few.kl, kl_of(few.h), rtol=1e-5)


def test_the_error_of_a_median_is_that_of_order_statistics():
    rng, n = np.random.default_rng(0), 400
    found = [median_of(rng.normal(size=n)) for _ in range(300 * TRIALS)]
    spread = np.std([value for value, _ in found])
    assert np.mean([error for _, error in found]) == pytest.approx(spread, rel=0.15)
    assert spread == pytest.approx(math.sqrt(math.pi / 2 / n), rel=0.15)
    assert median_of(np.ones(1))[0] == 1 and math.isnan(median_of(np.ones(1)).error)


def test_errors_of_known_values():
    assert mean_of(np.array([1.0, 2.0, 3.0, 6.0])) == pytest.approx((3, math.sqrt(14 / 3 / 4)))
    assert mean_of(np.ones(1)).value == 1 and math.isnan(mean_of(np.ones(1)).error)
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / 10_000) for i in range(10_000)])
    assert median_of(normal).error == pytest.approx(math.sqrt(math.pi / 2) / 100, rel=0.01)
    assert median_of(np.array([1.0, 3.0])) == pytest.approx((2, math.sqrt(0.5)))


def test_information_draws_noise_of_its_own_as_often_as_there_is_time(monkeypatch):
    drawn, real = [], randomness.normal
    monkeypatch.setattr(randomness, "normal", lambda shape, *where: drawn.append(where) or real(shape, *where))
    monkeypatch.setattr(measures, "PAIRS", 4 * 50**2 + 1)
    information(np.zeros((50, 4)), 9)
    assert drawn == [(9, randomness.INFORM, k) for k in range(4)]  # none that drew the ELBO


def test_active_units_err_by_the_latents_near_the_threshold():
    rng = np.random.default_rng(0)
    near = rng.normal(size=4000)
    near *= 0.1 / near.std()  # a variance of 0.01
    mu = np.stack([rng.normal(size=4000), 1e-4 * near, np.zeros(4000)], axis=1)
    assert measures.active_units(mu) == (1, 0)
    value, error = measures.active_units(np.column_stack([mu, near]))
    assert value in (1, 2) and error == pytest.approx(0.5, abs=1e-6)
    assert math.isnan(measures.active_units(mu[:1]).value)


# ---- Bits per dimension


def bits_of(vae, X):
    examples = vae.examples(X)
    return measures.bits_per_dimension(Measured.of(vae.network_, examples, 0, 5).log_p, vae.network_, examples)


@pytest.mark.parametrize("likelihood", ["gaussian", "continuous_bernoulli"])
def test_bits_are_of_the_values_as_they_are_stored(likelihood):
    X = np.random.default_rng(0).integers(0, 256, (60, 5), np.uint8)
    settings = SMALL | {"likelihood": likelihood, "latent_dim": 2}
    stored = bits_of(VAE(**settings, divide_by=255).fit(X), X)
    as_floats = X.astype(np.float32)
    same = bits_of(VAE(**settings, divide_by=255).fit(as_floats), as_floats)
    assert same == pytest.approx(stored, rel=1e-5)
    unit = bits_of(VAE(**settings, divide_by=1).fit(as_floats / 255), as_floats / 255)
    assert stored.value - unit.value == pytest.approx(math.log2(255), abs=1e-3)


def test_bits_of_probabilities_have_no_units_and_a_category_is_one_cell():
    rng = np.random.default_rng(0)
    X = np.hstack([rng.integers(0, 256, (60, 3)), 255 * np.eye(4)[rng.integers(0, 4, 60)]])
    for likelihood, cells in (("bernoulli", 7), ("bernoulli*3 categorical*4", 4)):
        vae = VAE(2, likelihood=likelihood, divide_by=255, **SMALL).fit(X)
        log_p = Measured.of(vae.network_, vae.examples(X), 0, 5).log_p
        assert bits_of(vae, X).value == pytest.approx(-log_p.mean() / cells / math.log(2))


def test_bits_are_for_each_cell_that_was_observed():
    X = np.random.default_rng(0).normal(size=(90, 4))
    X[np.arange(90), np.arange(90) % 4] = np.nan
    X[:45, 0] = np.nan
    vae = VAE(1, likelihood="gaussian", missing="ignore", divide_by=2, **SMALL).fit(X)
    log_p, seen = Measured.of(vae.network_, vae.examples(X), 0, 5).log_p, (~np.isnan(X)).sum(axis=1)
    found = bits_of(vae, X)
    assert found.value == pytest.approx((seen * math.log(2) - log_p).sum() / seen.sum() / math.log(2))
    again = np.random.default_rng(1).integers(0, 90, (400, 90))  # bootstrap
    spread = np.std([((seen * math.log(2) - log_p)[i].sum() / seen[i].sum()) / math.log(2) for i in again])
    assert found.error == pytest.approx(spread, rel=0.2)


# ---- Neighbours


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 300, 1), (40, 53, 5), (3, 4, 5)])
def test_the_nearest_are_those_of_all_distances(m, n, k, monkeypatch):
    monkeypatch.setattr(measures, "BLOCK", 90)  # a few rows at a time
    rng = np.random.default_rng(m)
    X, rows = rng.normal(size=(m, 3)) + 5, rng.normal(size=(n, 3)) + 5
    distance = ((X[:, None] - rows) ** 2).sum(axis=2)
    found = measures.nearest(X, lambda some: rows[some], n, k)
    np.testing.assert_array_equal(np.sort(found), np.sort(np.argsort(distance, axis=1)[:, :k]))


def test_a_training_row_is_nearest_to_itself_in_the_units_of_the_model():
    X = np.random.default_rng(0).normal(size=(80, 3)) * [1, 1000, 1e-3] + [0, 1e5, 0]
    vae = VAE(1, likelihood="gaussian", standardize=True, **SMALL).fit(X)
    known = vae.examples(X, np.arange(10, 80))
    place, distance = measures.neighbours(X[10:] + [0, 0, 1e-5], vae.network_, known)
    np.testing.assert_array_equal(place, np.arange(70))
    np.testing.assert_allclose(distance, 0.01, rtol=0.2)  # of a standard deviation


def test_rows_learned_by_heart_come_back_in_the_samples():
    """One latent for eight rows: samples are these rows or lie between two, and held-out digits are far from all."""
    X = load_dataset("digits").train
    distance = {}
    for epochs in (1, 400):
        settings = SMALL | {"epochs": epochs, "hidden_dims": (64,), "learning_rate": 0.01, "beta": 0.1}
        vae = VAE(1, **settings).fit(X[:8])
        known, samples = vae.examples(X[:8]), vae.sample(100, random_state=0)
        distance[epochs] = median_of(measures.neighbours(samples, vae.network_, known)[1]).value
        held = median_of(measures.neighbours(X[300:400] / 255, vae.network_, known)[1]).value
    assert distance[400] < 0.5 * held and distance[1] > 0.9 * held


def test_the_probe_is_the_classifier_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.neighbors", reason="its k-NN classifier is the truth")
    rng = np.random.default_rng(0)
    labels = np.array(["b", "a", "c"])[rng.integers(0, 3, 700)]
    mu = rng.normal(size=(700, 4)) + 1.5 * (labels == "a")[:, None]
    right, common = measures.probe(mu[:200], labels[:200], mu[200:], labels[200:])
    truth = sklearn.KNeighborsClassifier(5).fit(mu[200:], labels[200:]).predict(mu[:200])
    np.testing.assert_array_equal(right, truth == labels[:200])
    names, counts = np.unique(labels[200:], return_counts=True)
    np.testing.assert_array_equal(common, labels[:200] == names[counts.argmax()])


def test_numbers_of_many_values_are_no_classes():
    assert measures.classes(None) is measures.classes(np.array([0.5, 1])) is measures.classes(np.arange(101)) is None
    assert measures.classes(np.arange(100)).tolist() == [str(i) for i in range(100)]
    assert measures.classes(np.array(["x", None], object)).tolist() == ["x", "None"]


def test_the_table_of_active_units_has_evaluation_s_count(loose):
    mu = Measured.of(loose, rows_of(0, 300), 0).mu
    assert measures.active_units(mu).value == inference.active_units(mu).sum()
