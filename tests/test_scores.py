"""Scores rank: by what a row is, not by where it stands, and however far from the data it lies."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from minivae import VAE
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.evaluation import scores
from minivae.evaluation.scores import shared_noise
from minivae.kernels import availability, load
from minivae.network import Network

KINDS = {
    "elbo": lambda vae, X: -vae.score_samples(X),
    "log_likelihood": lambda vae, X: -vae.score_samples(X, n_samples=20),
    "anomaly": lambda vae, X: vae.anomaly_score(X),
    "column": lambda vae, X: vae.anomaly_score(X, per_column=True),
}


def table():
    return StandardScaler().fit_transform(load_breast_cancer().data)


def standardised_digits(digits):
    return (digits[0] - digits[0].mean(axis=0)) / np.maximum(digits[0].std(axis=0), 0.05)


@pytest.fixture(scope="module", params=["numpy", "numba"])
def models(request, digits):
    """By name: data, and a model of them."""
    if not availability(request.param)[0]:
        pytest.skip(f"backend {request.param}: {availability(request.param)[1]}")
    settings = {
        "likelihood": "gaussian",
        "hidden_dims": (32,),
        "epochs": 20,
        "random_state": 0,
        "backend": request.param,
    }
    found = {}
    for name, X in {"table": table(), "digits": standardised_digits(digits)}.items():
        for sigma in ("learned", "elementwise"):
            found[f"{name} {sigma}"] = X, VAE(4, sigma=sigma, **settings).fit(X)
    return found


WHICH = [f"{name} {sigma}" for name in ("table", "digits") for sigma in ("learned", "elementwise")]


@pytest.mark.parametrize("kind", ["elbo", "log_likelihood", "anomaly"])
@pytest.mark.parametrize("which", WHICH)
def test_every_outlier_ranks_behind_every_inlier_and_nothing_is_nan(models, which, kind):
    X, vae = models[which]
    rng = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(1, 13)
    direction = rng.choice([-1.0, 1.0], size=(len(sizes), X.shape[1]))
    outliers = sizes[:, None] * direction
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = KINDS[kind](vae, np.concatenate([outliers, X]))
    assert not np.isnan(score).any() and np.isfinite(score[12:]).all()
    assert score[:12].min() > score[12:].max()


@pytest.mark.parametrize("which", WHICH)
def test_one_wild_column_among_ordinary_ones_is_found_and_named(models, which):
    X, vae = models[which]
    wild = X[:12].copy()
    wild[:, 7] = 10.0 ** np.arange(2, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows, columns = vae.anomaly_score(wild), vae.anomaly_score(wild, per_column=True)
    assert rows.min() > np.quantile(vae.anomaly_score(X), 0.99)
    assert not np.isnan(columns).any()
    assert (columns[:, 7] > np.median(vae.anomaly_score(X, per_column=True)[:, 7])).all()


def test_numbers_that_no_float64_can_square_are_infinitely_strange_and_quiet(models):
    X, vae = models["table learned"]
    wild = np.concatenate([X[:3], [np.full(X.shape[1], 1e300)]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elbo, log_p, strange = vae.score_samples(wild), vae.score_samples(wild, n_samples=4), vae.anomaly_score(wild)
    assert elbo[3] == log_p[3] == -np.inf and strange[3] == np.inf
    np.testing.assert_allclose(elbo[:3], vae.score_samples(X[:3]), rtol=1e-5)


def test_where_float32_has_no_number_the_score_is_that_of_a_model_in_float64(models):
    X, vae = models["table learned"]
    single = copy.deepcopy(vae).network_
    single.named["encoder.1.W"][:, 4:] = 0  # sigma is the same for all x, and nothing but the squares overflows
    double = Network(single.arch, load("numpy"), "float64")
    double.set_parameters(single.get_parameters())
    examples = Examples(np.concatenate([X[:5], X[:5] * 1e25, X[5:7]]), np.arange(12))
    for score in (
        lambda network: sum(scores.elbo_terms(network, examples, seed=1)),
        lambda network: -scores.log_likelihood(network, examples, 6, seed=1),
        lambda network: scores.reconstruction(network, examples, seed=1),
    ):
        found, expected = score(single), score(double)
        assert (expected[5:10] > 1e39).all() and np.isfinite(expected).all()
        np.testing.assert_allclose(found[5:10], expected[5:10], rtol=1e-12)  # the same program in the same dtype
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    columns = [scores.reconstruction(network, examples, seed=1, per_column=True) for network in (single, double)]
    assert (columns[1][5:10] > 1e39).any(axis=1).all()
    np.testing.assert_allclose(columns[0].max(axis=1), columns[1].max(axis=1), rtol=1e-4)


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_score_depends_neither_on_the_order_nor_on_the_rows_beside_it(kind, binarize, digits):
    vae = VAE(hidden_dims=(32,), epochs=3, binarize=binarize, random_state=0).fit(digits[0])
    X, score = np.concatenate([digits[1]] * 4), KINDS[kind]  # 1188 rows: more than one chunk
    whole, order = score(vae, X), np.random.default_rng(1).permutation(len(X))
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(score(vae, X[order]), whole[order], **tolerance)
    np.testing.assert_allclose(score(vae, X[5:9]), whole[5:9], **tolerance)
    np.testing.assert_allclose(score(vae, X[-1:]), whole[-1:], **tolerance)
    assert np.std(whole[:297]) > 1e-3


def test_in_float64_it_holds_to_the_last_digits_and_in_float32_means_to_a_millionth(digits):
    vae = VAE(hidden_dims=(32,), epochs=3, dtype="float64", random_state=0).fit(digits[0])
    order = np.random.default_rng(1).permutation(297)
    np.testing.assert_allclose(vae.score_samples(digits[1][order]), vae.score_samples(digits[1])[order], rtol=1e-12)
    single = VAE(hidden_dims=(32,), epochs=3, random_state=0).fit(digits[0])
    assert single.score(digits[1][order]) == pytest.approx(single.score(digits[1]), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scikit_learns_checks_of_subsets_and_order(dtype):
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="runs scikit-learn's own checks")
    vae = VAE(hidden_dims=(8,), likelihood="gaussian", epochs=2, dtype=dtype, random_state=0)
    checks.check_methods_subset_invariance("VAE", vae)
    checks.check_methods_sample_order_invariance("VAE", vae)


def test_columns_add_up_to_the_row_for_every_likelihood(digits):
    counts = np.round(digits[0] * 16)
    forms = [("bernoulli", "learned", digits[0]), ("poisson", "learned", counts)]
    forms += [("gaussian", sigma, digits[0] * 3) for sigma in (0.5, "learned", "elementwise")]
    for likelihood, sigma, X in forms:
        vae = VAE(3, hidden_dims=(16,), likelihood=likelihood, sigma=sigma, epochs=2, random_state=0).fit(X)
        columns = vae.anomaly_score(X, per_column=True)
        assert columns.shape == X.shape
        np.testing.assert_allclose(columns.sum(axis=1), vae.anomaly_score(X), rtol=1e-4, atol=1e-3)


def test_a_column_is_worth_what_the_density_says():
    """Without a latent signal in the decoder, -log p(x|z) is the density around its bias, column by column."""
    X = np.random.default_rng(0).normal(size=(50, 3))
    vae = VAE(1, hidden_dims=(), activation="identity", likelihood="gaussian", sigma=0.7, epochs=1, random_state=0)
    vae.fit(X)
    vae.network_.named["decoder.0.W"][...], vae.network_.named["decoder.0.b"][...] = 0, [1.0, -2.0, 0.5]
    expected = -stats.norm([1.0, -2.0, 0.5], 0.7).logpdf(X)
    np.testing.assert_allclose(vae.anomaly_score(X, per_column=True), expected, rtol=1e-5, atol=1e-5)


def test_the_score_is_the_elbo_of_theory_on_average():
    """x = w z + b + s eps and q(z|x) = N(m x + c, v): E_q of -log p(x|z), and the KL, are known in closed form."""
    x = np.random.default_rng(0).normal(size=(40, 1))
    vae = VAE(1, hidden_dims=(), likelihood="gaussian", sigma=0.7, epochs=1, dtype="float64", random_state=0).fit(x)
    named, (w, b, m, c, v) = vae.network_.named, (1.3, 0.2, 0.5, -0.1, 0.4)
    named["decoder.0.W"][...], named["decoder.0.b"][...] = w, b
    named["encoder.0.W"][...], named["encoder.0.b"][...] = [[m, 0]], [c, np.log(v)]
    mu = m * x[:, 0] + c
    recon = ((x[:, 0] - w * mu - b) ** 2 + w**2 * v) / (2 * 0.7**2) + np.log(0.7) + 0.5 * np.log(2 * np.pi)
    kl = 0.5 * (mu**2 + v - 1 - np.log(v))
    for n_draws, error in ((32, 0.1), (4000, 0.002)):
        np.testing.assert_allclose(vae.anomaly_score(x, n_draws=n_draws), recon, atol=error)
        np.testing.assert_allclose(vae.score_samples(x, n_draws=n_draws), -(recon + kl), atol=error)
    log_p = stats.norm(b, np.hypot(w, 0.7)).logpdf(x[:, 0])
    np.testing.assert_allclose(vae.score_samples(x, n_samples=2000), log_p, atol=0.02)


@pytest.mark.parametrize("K, Z", [(64, 2), (64, 20), (7, 3), (1, 5)])
def test_shared_noise_is_standard_normal_in_pairs_that_cancel(K, Z):
    eps = shared_noise(K, Z, seed=3)
    assert eps.shape == (K, 1, Z)
    np.testing.assert_array_equal(eps[1::2], -eps[: 2 * (K // 2) : 2])
    if K == 64:
        assert np.abs(np.mean(eps**2, axis=0) - 1).mean() < 0.08  # of 32 independent draws it would be 0.2
        correlation = np.corrcoef(eps[:, 0].T) - np.eye(Z)
        assert np.abs(correlation).max() < 0.7 and np.abs(correlation).max() > 0
    many = np.stack([shared_noise(K, Z, seed)[0, 0] for seed in range(2000)])  # each draw alone, over the seeds
    assert stats.kstest(many.ravel(), stats.norm.cdf).pvalue > 0.001
    assert np.abs(np.cov(many.T) - np.eye(Z)).max() < 0.15


def test_two_seeds_rank_alike(trained, digits):
    found = []
    for seed in (1, 2):
        vae = copy.copy(trained)
        vae.seed_ = seed
        found.append(vae.anomaly_score(digits[1]))
    top = [set(np.argsort(-score)[:15]) for score in found]
    assert len(top[0] & top[1]) >= 13
    assert np.abs(found[0] - found[1]).mean() < 0.25 and (found[0] != found[1]).any()
    assert stats.spearmanr(*found).statistic > 0.99


def test_malignant_tumours_are_strange_to_a_model_of_the_benign():
    data = load_breast_cancer()
    benign, malignant = data.data[data.target == 1], data.data[data.target == 0]
    scaler = StandardScaler().fit(benign[:250])
    settings = {"likelihood": "gaussian", "sigma": "elementwise", "hidden_dims": (32,), "learning_rate": 3e-3}
    vae = VAE(4, epochs=100, random_state=0, **settings)
    vae.fit(scaler.transform(benign[:250]))
    X = scaler.transform(np.concatenate([benign[250:], malignant]))
    label = np.arange(len(X)) >= len(benign) - 250
    assert roc_auc_score(label, vae.anomaly_score(X)) > 0.94
    assert roc_auc_score(label, -vae.score_samples(X)) > 0.94  # scikit-learn's IsolationForest: 0.95 to 0.96


def test_wrong_numbers_of_draws_are_one_sentence(trained, digits):
    for call in (trained.score_samples, trained.anomaly_score):
        with pytest.raises(ValueError, match="n_draws must be at least 1, not 0"):
            call(digits[1], n_draws=0)
        with pytest.raises(TypeError, match=r"n_draws must be a whole number, not 2\.5"):
            call(digits[1], n_draws=2.5)
    with pytest.raises(ValueError, match="call fit"):
        VAE().anomaly_score(digits[1])


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_counts_beyond_all_that_were_seen_rank_behind_them_without_a_warning(backend):
    if not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    X = np.random.default_rng(0).poisson([3, 8, 1, 20], size=(300, 4)).astype(np.float64)
    vae = VAE(likelihood="poisson", hidden_dims=(16,), epochs=10, random_state=0, backend=backend).fit(X)
    wild = X[:8] + 10.0 ** np.arange(2, 10)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("elbo", "log_likelihood", "anomaly"):
            score = KINDS[kind](vae, np.concatenate([X, wild]))
            assert not np.isnan(score).any() and score[300:].min() > score[:300].max()


def test_columns_of_an_elementwise_network_add_up_to_its_rows():
    """A network made directly: VAE takes an elementwise sigma by columns."""
    arch, X = Architecture(4, 2, (5,), "tanh", "gaussian", "elementwise"), np.random.default_rng(0).normal(size=(9, 4))
    network, examples = Network(arch, load("numpy"), "float64"), Examples(X, np.arange(9))
    network.set_parameters(initial_parameters(arch, 0) + np.random.default_rng(1).normal(size=network.parameters.size))
    rows, cells = (scores.reconstruction(network, examples, 0, 8, per_column) for per_column in (False, True))
    np.testing.assert_allclose(cells.sum(axis=1), rows, rtol=1e-10)
