"""What a gradient check cannot see: whether the model and its bounds are the ones they claim to be.

A wrong standard deviation, a KL with a factor missing or a log-likelihood with a term too many has a gradient too, and
a gradient check finds it in order. Here draws are compared with distributions, densities are summed to one, and bounds
are held against models whose log p(x) is known exactly. The draws are fixed by seeds.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.evaluation.inference import decode, elbo_of
from minivae.evaluation.scores import bounds, log_likelihood
from minivae.kernels import load, reference
from minivae.network import Network, forward_program


def standard_error(values):
    return np.std(values, axis=0, ddof=1) / math.sqrt(len(values))


def all_of(data):
    return Examples(data, np.arange(len(data)))


def with_own_noise(model, n_samples, seed):
    """log_likelihood of a linear-Gaussian model, each row drawing for itself: errors of the rows are then independent."""
    return bounds(model.network, all_of(model.x), n_samples, seed)[2]


# ---- q(z|x): its samples and its KL

DRAWS = 40_000


@pytest.fixture(scope="module")
def posterior_draws():
    """mu [Z], logvar [Z], samples z [DRAWS, Z] of one x, and the closed KL per dimension [Z], from a random network."""
    arch = Architecture(data_dim=6, latent_dim=3, hidden_dims=(8,), activation="tanh")
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(2 * initial_parameters(arch, seed=3))
    x = np.tile(np.random.default_rng(0).uniform(size=6), (DRAWS, 1))
    work = network.workspace(forward_program(arch), DRAWS)
    work.put("x", x)
    eps = np.empty((DRAWS, 3))
    reference.philox_normal(eps, np.arange(DRAWS), 5, 7, 0)
    work.put("eps", eps)
    work.run(DRAWS, beta=1.0)
    mu, logvar = np.split(work.get("h")[0], 2)
    assert np.abs(logvar).min() > 0.05  # at logvar = 0 exp(logvar) and exp(logvar / 2) would be the same
    return mu, logvar, work.get("z").copy(), work.get("kl")[0].copy()


def test_samples_have_mean_mu_and_variance_exp_logvar(posterior_draws):
    mu, logvar, z, _ = posterior_draws
    variance = np.exp(logvar)
    assert (np.abs(z.mean(axis=0) - mu) < 5 * np.sqrt(variance / DRAWS)).all()
    assert (np.abs(z.var(axis=0, ddof=1) - variance) < 5 * variance * math.sqrt(2 / (DRAWS - 1))).all()


def test_samples_are_normal_and_independent_between_dimensions(posterior_draws):
    mu, logvar, z, _ = posterior_draws
    for j in range(3):
        assert stats.kstest(z[:, j], "norm", (mu[j], math.exp(logvar[j] / 2))).pvalue > 0.01
    off_diagonal = np.corrcoef(z.T)[np.triu_indices(3, 1)]
    assert (np.abs(off_diagonal) < 5 / math.sqrt(DRAWS)).all()


def test_closed_kl_is_the_mean_of_log_q_minus_log_p(posterior_draws):
    mu, logvar, z, kl = posterior_draws
    ratio = stats.norm.logpdf(z, mu, np.exp(logvar / 2)) - stats.norm.logpdf(z)
    assert (np.abs(ratio.mean(axis=0) - kl) < 5 * standard_error(ratio)).all()
    assert kl.min() > 5 * standard_error(ratio).max()  # else 0 would pass as well


def test_kl_is_zero_at_the_prior_and_positive_elsewhere():
    h = np.stack([grid.reshape(-1) for grid in np.meshgrid(np.linspace(-2, 2, 9), np.linspace(-2, 2, 9))], axis=1)
    z, kl = np.empty((81, 1)), np.empty((81, 1))
    reference.sample_forward(z, kl, h, np.zeros((81, 1)))
    at_prior = (h == 0).all(axis=1)
    assert at_prior.sum() == 1
    assert (kl[at_prior] == 0).all()
    assert (kl[~at_prior] > 0).all()


# ---- p(x|z): each likelihood is a distribution


@pytest.mark.parametrize("sigma", (0.3, 1.0, 2.5))
def test_gaussian_likelihood_integrates_to_one(sigma):
    x = np.linspace(-30, 30, 4001)[:, None]
    dmean, dlog_sigma, nll = np.empty_like(x), np.empty(1), np.empty(len(x))
    mean, log_sigma = np.full_like(x, 0.7), np.array([math.log(sigma)])
    reference.gaussian_loss(dmean, dlog_sigma, nll, mean, x, log_sigma, np.ones(len(x)))
    density = np.exp(-nll)
    assert integrate.trapezoid(density, x[:, 0]) == pytest.approx(1, abs=1e-10)
    assert integrate.trapezoid(density * x[:, 0], x[:, 0]) == pytest.approx(0.7, abs=1e-10)
    assert integrate.trapezoid(density * (x[:, 0] - 0.7) ** 2, x[:, 0]) == pytest.approx(sigma**2, rel=1e-9)


def test_bernoulli_likelihood_sums_to_one_over_all_binary_images():
    x = np.array(list(itertools.product((0.0, 1.0), repeat=4)))
    logits = np.tile([-3.0, 0.5, 0.0, 8.0], (16, 1))
    dlogits, nll = np.empty_like(x), np.empty(16)
    reference.bernoulli_loss(dlogits, nll, logits, x, np.ones(16))
    probability = np.exp(-nll)
    assert probability.sum() == pytest.approx(1, abs=1e-14)
    np.testing.assert_allclose(probability @ x, special.expit(logits[0]), rtol=1e-12)  # and has these means


# ---- The linear-Gaussian model: x = z W + b + s noise, so that x ~ N(b, W^T W + s^2 I) exactly

NOISE = 0.6


class LinearGaussian:
    """A network without hidden layers whose log p(x) and p(z|x) are known. orthogonal: p(z|x) has independent parts."""

    def __init__(self, D=5, Z=2, n=6000, orthogonal=False):
        rng = np.random.default_rng(D)
        W = rng.normal(size=(Z, D))
        if orthogonal:
            W = np.linalg.qr(W.T)[0].T * np.array([[1.3], [0.5]])[:Z]
        self.W, self.b = W, rng.normal(size=D)
        self.x = rng.normal(size=(n, Z)) @ W + self.b + NOISE * rng.normal(size=(n, D))
        self.log_p = stats.multivariate_normal(self.b, W.T @ W + NOISE**2 * np.eye(D)).logpdf(self.x)
        self.covariance = np.linalg.inv(np.eye(Z) + W @ W.T / NOISE**2)  # of p(z|x), the same for every x
        self.gain = W.T @ self.covariance / NOISE**2  # E[z|x] = (x - b) gain
        arch = Architecture(D, Z, (), "identity", "gaussian", NOISE)
        self.network = Network(arch, load("numpy"), "float64")
        self.network.named["decoder.0.W"][...], self.network.named["decoder.0.b"][...] = W, self.b

    def encode(self, shrink=1.0, shift=0.0, widen=1.0):
        """Set the encoder to the diagonal of the exact posterior, made worse; (1, 0, 1) leaves it as it is."""
        Z = len(self.W)
        weight, bias = self.network.named["encoder.0.W"], self.network.named["encoder.0.b"]
        weight[...] = 0
        weight[:, :Z] = shrink * self.gain
        bias[:Z] = shift - self.b @ weight[:, :Z]
        bias[Z:] = np.log(widen * np.diag(self.covariance))
        self.mu, self.variance = self.x @ weight[:, :Z] + bias[:Z], np.exp(bias[Z:])
        return self

    def elbo(self):
        """log p(x) - KL( q(z|x) || p(z|x) ) per example, the KL of two normal distributions in closed form."""
        precision = np.linalg.inv(self.covariance)
        gap = self.mu - (self.x - self.b) @ self.gain
        determinants = np.linalg.slogdet(self.covariance)[1] - np.log(self.variance).sum()
        trace = np.diag(precision) @ self.variance
        kl = 0.5 * (trace + np.einsum("ni,ij,nj->n", gap, precision, gap) - len(self.W) + determinants)
        return self.log_p - kl


@pytest.fixture(scope="module")
def imperfect():
    return LinearGaussian().encode(shrink=0.8, shift=0.2, widen=1.6)


def test_bounds_rise_with_samples_to_the_exact_log_likelihood(imperfect):
    L = {k: with_own_noise(imperfect, k, seed=1) for k in (1, 10, 100)}
    for lower, upper in ((L[1], L[10]), (L[10], L[100]), (L[100], imperfect.log_p)):
        assert (upper - lower).mean() > -3 * standard_error(upper - lower)
    assert (imperfect.log_p - L[1]).mean() > 0.3  # there was room below
    assert abs((imperfect.log_p - L[100]).mean()) < 0.02  # and none is left above


def test_elbo_is_log_p_minus_the_kl_to_the_true_posterior(imperfect):
    recon, kl, _ = elbo_of(imperfect.network, all_of(imperfect.x), seed=1)(0)
    error = -(recon + kl.sum(axis=1)) - imperfect.elbo()
    assert abs(error.mean()) < 5 * standard_error(error)
    assert (imperfect.log_p - imperfect.elbo()).mean() > 20 * standard_error(error)  # log p itself would not pass


def test_one_importance_sample_is_the_elbo_on_average(imperfect):
    error = with_own_noise(imperfect, 1, seed=2) - imperfect.elbo()
    assert abs(error.mean()) < 5 * standard_error(error)


def test_closed_kl_term_of_the_elbo_is_that_of_each_example(imperfect):
    _, kl, _ = elbo_of(imperfect.network, all_of(imperfect.x), seed=1)(0)
    expected = 0.5 * (imperfect.mu**2 + imperfect.variance - 1 - np.log(imperfect.variance))
    np.testing.assert_allclose(kl, expected, rtol=1e-12, atol=1e-12)


def test_importance_weights_have_mean_p_of_x():
    model = LinearGaussian(n=1).encode(shrink=0.9, shift=0.1, widen=1.5)
    model.x = np.tile(model.x, (20_000, 1))  # every row draws its own noise
    ratio = np.exp(with_own_noise(model, 1, seed=3) - model.log_p)
    assert abs(ratio.mean() - 1) < 5 * standard_error(ratio)
    assert standard_error(ratio) < 0.02


@pytest.mark.parametrize("n_samples", (1, 2, 7))
@pytest.mark.parametrize("Z", (1, 2))
def test_log_likelihood_is_exact_for_any_number_of_samples_when_the_encoder_is(Z, n_samples):
    # q(z|x) = p(z|x) makes every weight p(x) itself: no noise is left, so this holds to rounding.
    model = LinearGaussian(Z=Z, n=50, orthogonal=True).encode()
    for seed in (0, 1):
        L = log_likelihood(model.network, all_of(model.x), n_samples, seed)
        np.testing.assert_allclose(L, model.log_p, rtol=0, atol=1e-10)


def test_exact_posterior_closes_the_gap_of_the_elbo():
    model = LinearGaussian(orthogonal=True).encode()
    np.testing.assert_allclose(model.elbo(), model.log_p, rtol=0, atol=1e-10)
    recon, kl, _ = elbo_of(model.network, all_of(model.x), seed=4)(0)
    error = -(recon + kl.sum(axis=1)) - model.log_p
    assert abs(error.mean()) < 5 * standard_error(error)


@pytest.mark.parametrize("worse", ({"shrink": 0.5}, {"shift": 0.5}, {"widen": 3.0}, {"widen": 0.3}), ids=str)
def test_elbo_stays_below_log_p_for_every_wrong_encoder(worse):
    model = LinearGaussian(orthogonal=True).encode(**worse)
    recon, kl, _ = elbo_of(model.network, all_of(model.x), seed=5)(0)
    gap = model.log_p + recon + kl.sum(axis=1)
    assert gap.mean() > 5 * standard_error(gap)


@pytest.mark.parametrize("likelihood", ("bernoulli", "gaussian"))
def test_log_likelihood_agrees_with_quadrature_over_one_latent_dimension(likelihood):
    # A decoder with a hidden layer has no closed log p(x), but one integral over z is easily done on a grid.
    arch = Architecture(4, 1, (6,), "tanh", likelihood, 0.8)
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(1.5 * initial_parameters(arch, seed=8))
    for name in ("W", "b"):  # q close to the prior, so that no weight is large
        network.named[f"encoder.1.{name}"] *= 0.1
    network.named["encoder.1.b"][...] = [0.2, 0.3]
    x = (np.random.default_rng(2).uniform(size=(30, 4)) < 0.5).astype(float)
    grid = np.linspace(-9, 9, 2001)[:, None]
    w = network.named
    out = np.tanh(grid @ w["decoder.0.W"] + w["decoder.0.b"]) @ w["decoder.1.W"] + w["decoder.1.b"]
    if likelihood == "bernoulli":
        log_px_z = np.stack([stats.bernoulli.logpmf(row, special.expit(out)).sum(axis=1) for row in x])
    else:
        log_px_z = np.stack([stats.norm.logpdf(row, out, 0.8).sum(axis=1) for row in x])
    exact = np.log(integrate.trapezoid(np.exp(log_px_z + stats.norm.logpdf(grid[:, 0])), grid[:, 0], axis=1))
    estimate = log_likelihood(network, all_of(x), 4000, seed=1)
    np.testing.assert_allclose(estimate, exact, rtol=0, atol=0.03)
    assert abs((estimate - exact).mean()) < 0.01
    assert np.ptp(exact) > 0.1


# ---- Data


@pytest.mark.parametrize("binarize", ("static", "dynamic"))
def test_binarized_pixels_are_white_as_often_as_they_are_grey(binarize):
    grey = np.array([0, 1, 40, 128, 200, 254, 255], np.uint8)
    n = 20_000
    x = batches(grey, n, binarize, step=3)
    assert set(np.unique(x)) == {0.0, 1.0}
    p = grey / 255
    assert (np.abs(x.mean(axis=0) - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def batches(grey, n, binarize, step):
    """The batch of n examples that are all this row of pixels, as training would see it at this step."""
    network = Network(Architecture(len(grey), 1, ()), load("numpy"), "float64")
    examples = Examples(np.tile(grey, (n, 1)), np.arange(n), 255.0, binarize)
    work = network.workspace(examples.batch_program(seed=1), n, data=examples.data)
    work.put("rows", examples.rows)
    work.run(n, step=step)
    return work.get("x").copy()


def test_dynamic_binarization_draws_anew_at_every_step_and_static_never():
    grey = np.full(50, 128, np.uint8)
    static, dynamic = ([batches(grey, 100, kind, step) for step in (1, 2)] for kind in ("static", "dynamic"))
    np.testing.assert_array_equal(*static)
    assert abs((dynamic[0] != dynamic[1]).mean() - 0.5) < 0.05
    assert abs((static[0] != dynamic[0]).mean() - 0.5) < 0.05


# ---- Initial parameters


@pytest.mark.parametrize("sigma", (0.5, "learned"))
def test_data_mean_output_bias_of_a_gaussian_decodes_to_that_mean_with_the_spread_around_it(sigma):
    mean, variance = np.array([-3.0, 0.0, 250.0]), np.array([1.0, 4.0, 0.1])
    arch = Architecture(3, 2, (5,), "tanh", "gaussian", sigma)
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(initial_parameters(arch, 1, data_mean=mean, data_variance=variance))
    np.testing.assert_allclose(decode(network, np.zeros((1, 2)))[0], mean, rtol=1e-12)
    if sigma == "learned":
        assert math.exp(network.named["log_sigma"][0]) == pytest.approx(math.sqrt(variance.mean()))


def test_data_mean_output_bias_of_a_bernoulli_decodes_to_that_mean():
    mean = np.array([0.0, 0.3, 0.5, 0.92, 1.0])
    arch = Architecture(5, 2, (4,), "tanh")
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(initial_parameters(arch, 1, output_bias="data_mean", data_mean=mean))
    np.testing.assert_allclose(decode(network, np.zeros((1, 2)))[0], np.clip(mean, 0.001, 0.999), rtol=1e-12)
    network.set_parameters(initial_parameters(arch, 1, output_bias="zero", data_mean=mean))
    np.testing.assert_allclose(decode(network, np.zeros((1, 2)))[0], 0.5, rtol=1e-12)


@pytest.mark.parametrize(("init", "variance"), (("glorot", 2 / (300 + 200)), ("he", 2 / 300)))
def test_initial_weights_are_uniform_with_the_published_variance_and_biases_are_zero(init, variance):
    arch = Architecture(300, 2, (200,), "relu")
    network = Network(arch, load("numpy"), "float64")
    network.set_parameters(initial_parameters(arch, 1, init=init))
    W = network.named["encoder.0.W"].reshape(-1)
    limit = math.sqrt(3 * variance)
    assert stats.kstest(W, stats.uniform(-limit, 2 * limit).cdf).pvalue > 0.01
    assert W.var() == pytest.approx(variance, rel=0.02)
    assert all((network.named[name] == 0).all() for name, _ in network.layout if name.endswith(".b"))
