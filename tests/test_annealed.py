"""The bounds of annealed importance sampling against truth: closed forms, an integral over one latent, exact draws."""

from __future__ import annotations

import math
import os
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from test_statistics import NOISE, LinearGaussian, all_of, standard_error

from minivae import VAE, randomness
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.evaluation import annealed, samples, scores
from minivae.kernels import load
from minivae.network import Network
from minivae.parameters import views

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))


def linear(n, seed=1, **worse):
    """A linear-Gaussian model with so many rows of its own making, those of sandwich(..., seed), and their log p(x)."""
    model = LinearGaussian(n=1)
    model.x = samples.observe(model.network, samples.prior(n, 2, seed), seed)
    covariance = model.W.T @ model.W + NOISE**2 * np.eye(5)
    model.log_p = stats.multivariate_normal(model.b, covariance).logpdf(model.x)
    return model.encode(**worse)


POOR = {"shrink": 0.8, "shift": 0.2, "widen": 1.6}
MILD = {"shrink": 0.9, "shift": 0.1, "widen": 0.7}  # weights and their reciprocals have a variance
N = 700 * TRIALS


def is_zero(values, errors=4):
    return abs(values.mean()) < errors * standard_error(values)


@pytest.mark.parametrize(("temperatures", "gain"), ((3, annealed.GAIN), (12, annealed.GAIN), (12, 2.0)))
def test_the_mean_weight_is_p_of_x_and_backwards_its_reciprocal(temperatures, gain, monkeypatch):
    """Of one chain, for any number of temperatures, any q and pilots that adapt wildly: what makes both bounds bounds."""
    monkeypatch.setattr(annealed, "GAIN", gain)
    model = linear(4 * N, **MILD)
    found = annealed.sandwich(model.network, 4 * N, 1, temperatures, chains=1)
    for ratio in (np.exp(found.lower - model.log_p), np.exp(model.log_p - found.upper)):
        assert is_zero(ratio - 1) and standard_error(ratio) < 0.1 / math.sqrt(TRIALS)
    assert not is_zero(found.lower - model.log_p) and not is_zero(found.upper - model.log_p)


def test_exact_log_p_lies_between_and_more_temperatures_and_chains_close_the_sandwich():
    model, gaps = linear(N, **POOR), []
    for temperatures, chains in ((2, 1), (10, 1), (40, 1), (40, 8)):
        found = annealed.sandwich(model.network, N, 1, temperatures, chains)
        for room in (model.log_p - found.lower, found.upper - model.log_p):
            assert room.mean() > -3 * standard_error(room)
        gaps.append(found.upper - found.lower)
        assert (found.gap, found.standard_error) == pytest.approx((gaps[-1].mean(), standard_error(gaps[-1])))
    for wide, narrow in pairwise(gaps):
        assert (wide - narrow).mean() > 4 * standard_error(wide - narrow)
    assert np.abs((model.log_p - found.lower).mean()) < 0.04 and np.abs((found.upper - model.log_p).mean()) < 0.04


def test_one_temperature_is_importance_sampling():
    model = linear(N, **POOR)
    assert is_zero(annealed.lower_bound(model.network, all_of(model.x), 1, 1, 1) - model.elbo())


def test_where_q_is_but_the_prior_it_needs_more_temperatures():
    model, blind = linear(200), linear(200, shrink=0)
    blind.network.named["encoder.0.b"][...] = 0
    near, far = (annealed.lower_bound(m.network, all_of(m.x), 1, 30, 4) for m in (model, blind))
    assert (model.log_p - far).mean() > 3 * abs((model.log_p - near).mean())
    many = annealed.lower_bound(blind.network, all_of(model.x), 1, 200, 4)
    assert abs((model.log_p - many).mean()) < 0.05


@pytest.mark.parametrize("beta", (0.4, 1.0))
def test_a_move_leaves_the_density_as_it_is(beta):
    """f_b of a linear-Gaussian model is normal: who starts with exact draws has them after moves that were often refused."""
    model, S = linear(1, **POOR), 20_000
    encoded = annealed.Encoded(model.network, all_of(model.x), 0)
    log_weight, _, noise = encoded.chains(S, annealed.FORWARD)
    precision = np.linalg.inv(model.covariance)  # of z under p(z|x)
    sigma, mean = np.sqrt(model.variance), (model.x - model.b) @ model.gain - model.mu
    tempered = (1 - beta) * np.eye(2) + beta * sigma[:, None] * precision * sigma
    center = np.linalg.solve(tempered, beta * sigma * (precision @ mean[0]))
    exact = stats.multivariate_normal(center, np.linalg.inv(tempered), seed=0)
    u = exact.rvs(S)
    state, root, start = (u, *log_weight(u)), np.linalg.cholesky(tempered), u
    for t in range(1, 4):
        state, chance = annealed.move(log_weight, state, beta, np.full(S, 0.7), *noise(t))
    white = (state[0] - center) @ root
    assert 0.5 < chance.mean() < 0.95  # a move that is always accepted would test nothing of the acceptance
    assert np.abs(np.cov(white.T) - np.eye(2)).max() < 5 * math.sqrt(2 / S)
    assert all(stats.kstest(part, "norm").pvalue > 0.001 for part in white.T)
    assert abs(np.corrcoef(state[0][:, 0], start[:, 0])[0, 1]) < 0.5  # and it did move
    for kept, now in zip(state[1:], log_weight(state[0]), strict=True):
        np.testing.assert_array_equal(kept, now)


# ---- Every kind of model: log w and its gradient, and log p(x) by an integral over one latent

UNITS = tuple((float(i), 2.0) for i in range(4))
MODELS = {
    "bernoulli": Architecture(12, 1, (6,), "tanh"),
    "gaussian": Architecture(4, 1, (6,), "softplus", "gaussian", 0.7),
    "learned sigma": Architecture(4, 1, (6,), "gelu", "gaussian"),
    "elementwise": Architecture(4, 1, (6,), "tanh", "gaussian", "elementwise", units=UNITS),
    "poisson": Architecture(4, 1, (6,), "tanh", "poisson"),
    "columns": Architecture(
        6, 1, (6,), "tanh", "gaussian continuous_bernoulli negative_binomial categorical*3", missing="input"
    ),
    "conditional": Architecture(12, 1, (6,), "tanh", conditions=2),
}


def small(name, Z, kernels=None, dtype="float64", n=20, seed=3):
    """A random network of this kind, rows that it makes, and what it was told of them."""
    arch = Architecture(**{**vars(MODELS[name]), "latent_dim": Z})
    network = Network(arch, kernels or load("numpy"), dtype)
    values = 2 * initial_parameters(arch, 5) + 0.3 * np.random.default_rng(5).normal(size=network.parameters.size)
    for name, part in views(values, network.layout).items():
        part *= 0.1 if name.startswith("encoder.1") else 1  # q near the prior, so that no z lies far out of its reach
    network.set_parameters(values)
    side = np.eye(2)[np.arange(n) % 2].astype(dtype) if arch.conditions else None
    x = samples.observe(network, samples.prior(n, Z, seed), seed, side=side)
    return network, Examples(x, np.arange(n), side=side)


def with_holes(examples):
    x = examples.data.copy()
    x[::2, 0] = np.nan
    x[1::3, 3:] = np.nan
    return Examples(x, examples.rows, side=examples.side)


@pytest.mark.parametrize("name", MODELS)
def test_log_w_is_that_of_importance_sampling_and_its_gradient_its_derivative(name):
    network, examples = small(name, 3)
    examples = with_holes(examples) if name == "columns" else examples
    log_weight, u, _ = annealed.Encoded(network, examples, 0).chains(2, annealed.FORWARD)
    (log_w, slope), direction = log_weight(u), np.random.default_rng(0).normal(size=u.shape)
    for chain in (0, 1):
        (_, _, expected), *_ = scores.log_weights(network, examples, 0, u[None, chain::2])
        np.testing.assert_allclose(log_w[chain::2], expected, rtol=1e-12)
    plus, minus = (log_weight(u + step * direction)[0] for step in (1e-5, -1e-5))
    np.testing.assert_allclose((slope * direction).sum(axis=1), (plus - minus) / 2e-5, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_an_integral_over_one_latent_lies_in_the_sandwich(name):
    network, examples = small(name, 1, n=40)
    grid = np.linspace(-10, 10, 1001)
    log_w = np.array([log_w for _, _, log_w in scores.log_weights(network, examples, 0, grid[:, None, None])])
    exact = np.logaddexp.reduce(log_w + stats.norm.logpdf(grid)[:, None], axis=0) + math.log(grid[1] - grid[0])
    found = annealed.sandwich(network, 40, 3, 60, 4, side=examples.side)
    assert np.ptp(exact) > 0.5
    for error in (found.lower - exact, exact - found.upper):
        assert is_zero(np.exp(error) - 1) and -0.3 < error.mean() < 3 * standard_error(error)


@pytest.mark.parametrize("name", ("bernoulli", "columns", "conditional"))
def test_every_backend_finds_what_the_book_finds(name, kernels):
    for dtype, error in (("float64", 1e-7), ("float32", 0.05)):
        network, _ = small(name, 3, kernels, dtype)
        book, same = small(name, 3, None, "float64")
        found, expected = (annealed.lower_bound(model, same, 1, 4, 5) for model in (network, book))
        np.testing.assert_allclose(found, expected, rtol=0, atol=error)


def test_equal_rows_have_errors_of_their_own_as_their_standard_error_says():
    model = linear(1, **POOR)
    found = annealed.lower_bound(model.network, all_of(np.repeat(model.x, N, axis=0)), 1, 3, chains=1)
    assert is_zero(np.exp(found - model.log_p) - 1) and len(set(found)) == N


def test_a_bound_is_a_function_of_the_seed_and_of_the_row_and_not_of_the_rows_beside_it():
    network, examples = small("bernoulli", 3, n=100)
    whole = annealed.lower_bound(network, examples, 1, 3, 16)  # 100 rows of 16 chains: more than one chunk
    order = np.random.default_rng(0).permutation(100)
    moved = Examples(examples.data, order)
    np.testing.assert_allclose(annealed.lower_bound(network, moved, 1, 3, 16), whole[order], rtol=1e-12)
    assert (annealed.lower_bound(network, examples, 2, 3, 16) != whole).all()
    made = annealed.sandwich(network, 20, 3, 4, 5)  # seed 3 makes the rows of `small`, and is that of the chains
    np.testing.assert_array_equal(annealed.lower_bound(network, small("bernoulli", 3)[1], 3, 4, 5), made.lower)


def test_chains_backwards_make_the_moves_of_those_upwards_in_reverse(monkeypatch):
    """With the same step sizes: so none of the two adapted them, and every chain of a row has the pilots' in common."""
    made, real = [], annealed.move

    def remember(log_weight, state, beta, step, momentum, uniform):
        made.append((beta, step.tolist()))
        return real(log_weight, state, beta, step, momentum, uniform)

    monkeypatch.setattr(annealed, "move", remember)
    annealed.sandwich(small("bernoulli", 3)[0], 3, 1, 6, 2)
    assert len(made) == 15 and made[5:10] == made[:9:-1]
    assert all(step[::2] == step[1::2] for _, step in made[5:]) and made[5][1] != made[9][1]


def test_runs_do_not_share_their_noise(monkeypatch):
    """Pilot, forward and backward, each t of each, moves and their acceptance: nothing is drawn twice."""
    drawn, real = [], randomness.philox_normal

    def remember(out, examples, seed, purpose, step):
        drawn.append((purpose, step))
        real(out, examples, seed, purpose, step)

    network, _ = small("bernoulli", 3)
    monkeypatch.setattr(annealed, "philox_normal", remember)
    monkeypatch.setattr(annealed, "philox_uniform", remember)
    annealed.sandwich(network, 4, 1, 5, 2)
    assert len(drawn) == len(set(drawn)) == 2 * (3 * 4 + 2)  # four moves of three runs, and the start of two
    assert {purpose for purpose, _ in drawn} == {randomness.ANNEAL}


def test_rows_that_no_number_holds_are_minus_infinity_and_those_beside_them_as_they_were():
    X = np.random.default_rng(0).normal(size=(50, 3))
    vae = VAE(2, hidden_dims=(8,), likelihood="gaussian", epochs=2, random_state=0).fit(X)
    vae.network_.named["encoder.1.W"][:, 2:] = 0  # sigma is the same for all x, and nothing but the squares overflows
    wild = np.concatenate([X[:4], [[1e300, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0]], X[:2] * 1e25])
    found = annealed.lower_bound(vae.network_, all_of(wild), 1, 5, 4)
    assert (found[4:7] == -np.inf).all()
    np.testing.assert_allclose(found[:4], annealed.lower_bound(vae.network_, all_of(X[:4]), 1, 5, 4), rtol=1e-5)
    assert np.isfinite(found[7:]).all() and (found[7:] < -1e39).all()  # no float32, but a float64


def test_the_sandwich_of_a_digits_model_closes(trained):
    told = []
    found = annealed.sandwich(trained.network_, 60, 0, 30, 16, progress=told.append)
    assert -3 * found.standard_error < found.gap < 0.1
    assert found.standard_error < 0.03
    assert sum(told) == 3 * 30 * 60


def test_the_bound_is_above_that_of_importance_sampling_where_q_is_poor(trained, digits):
    examples = Examples((digits[1] > 0.5).astype(np.float32), np.arange(297))
    annealed_, sampled = (annealed.lower_bound(trained.network_, examples, 0, T, 1) for T in (60, 1))
    assert (annealed_ - sampled).mean() > 4 * standard_error(annealed_ - sampled)


@pytest.mark.parametrize("betas", ([0, 0.5, 1], [1, 0.5, 0]))
def test_upwards_a_chain_without_a_number_weighs_nothing_and_downwards_it_is_no_number(betas):
    """Two chains of one example: a weight that is no number is none, but a reciprocal of none bounds nothing."""

    def log_weight(u):
        return np.array([math.nan, 3.0]), np.zeros_like(u)

    def noise(t):
        return np.zeros((2, 1)), np.full((2, 2), 0.5)

    with np.errstate(invalid="ignore"):
        found = annealed.anneal(
            log_weight, np.zeros((2, 1)), noise, np.array(betas), np.ones((3, 1)), lambda rows: None
        )
    (
        np.testing.assert_allclose(found, 3 - math.log(2))
        if betas[-1]
        else np.testing.assert_array_equal(found, math.nan)
    )


def test_temperatures_rise_from_0_to_1_evenly_on_both_sides():
    for T in (1, 2, 7, 100):
        b = annealed.sigmoidal(T)
        assert len(b) == T + 1 and b[0] == 0 and b[-1] == 1 and (np.diff(b) > 0).all()
        np.testing.assert_allclose(b + b[::-1], 1)
    assert b[1] < 0.2 / 100 and np.diff(b).max() > 1.5 / 100


def test_pilot_chains_come_to_the_wanted_acceptance():
    model, chances = linear(100, **POOR), []
    log_weight, u, noise = annealed.Encoded(model.network, all_of(model.x), 0).chains(8, annealed.PILOT)
    steps = np.ones((101, 100))
    annealed.anneal(log_weight, u, noise, annealed.sigmoidal(100), steps, lambda rows: None, adapt=True)
    state = u, *log_weight(u)
    for t in range(200, 260):
        state, chance = annealed.move(log_weight, state, 1.0, np.repeat(steps[-1], 8), *noise(t))
        chances.append(chance.mean())
    assert np.mean(chances[10:]) == pytest.approx(annealed.ACCEPTED, abs=0.1)


def test_wrong_arguments_are_one_sentence():
    network, examples = small("bernoulli", 3)
    for arguments, message in {
        (0, 4): "temperatures must be at least 1, not 0",
        (4, 0): "chains must be at least 1, not 0",
        (4, 10**14): "chains=100000000000000 would take .* bytes, and this process may use .*; lower it",
        (10**11, 4): "temperatures=100000000000 would take .* bytes, and this process may use .*; lower it",
    }.items():
        with pytest.raises(ValueError, match=message):
            annealed.lower_bound(network, examples, 1, *arguments)
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        annealed.sandwich(network, 0, 1, 4)
    assert math.isnan(annealed.sandwich(network, 1, 1, 2, 2).standard_error)
