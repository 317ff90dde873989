"""Simulation-based calibration: it passes where q is the posterior, shows each planted fault, and where resampling helps."""

from __future__ import annotations

import os
import sys

import numpy as np
import ppca
import pytest

from minivae import randomness
from minivae.architecture import Architecture
from minivae.data import checks
from minivae.evaluation import calibration, samples, scores
from minivae.evaluation.calibration import chi_square, p_values, ranks, smallest
from minivae.kernels import load
from minivae.network import Network
from minivae.parameters import views

stats = pytest.importorskip("scipy.stats", reason="the p-values are SciPy's")
TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
N, L = 2000, 19
BEST = ppca.Optimum(ppca.with_spectrum([4.0, 2.0, 1.0, 0.5, 0.3, 0.2, 0.1]), 3)


def judged(candidates, n=N, seed=0, **fault):
    found = ranks(BEST.network(load("numpy"), **fault), n, seed, L, candidates)
    assert found.shape == (n, 3) and found.min() >= 0 and found.max() <= L
    return found, p_values(found)


@pytest.mark.parametrize("candidates", (L, 60))
@pytest.mark.parametrize("seed", range(TRIALS))
def test_the_exact_posterior_of_a_linear_model_is_calibrated(candidates, seed):
    assert smallest(judged(candidates, seed=seed)[1]) > 0.01 / TRIALS


@pytest.mark.parametrize("candidates", (L, 60))
def test_a_sigma_of_half_the_size_has_its_ranks_at_the_ends_of_every_latent(candidates):
    found, p = judged(candidates, widen=0.5)
    assert p.max() < 1e-12
    assert (np.mean((found == 0) | (found == L), axis=0) > 1.5 * 2 / (L + 1)).all()


def test_a_sigma_too_large_has_them_in_the_middle_and_a_shifted_mu_on_one_side():
    wide, p = judged(L, widen=1.5)
    assert p.max() < 1e-6 and (np.mean((wide == 0) | (wide == L), axis=0) < 0.7 * 2 / (L + 1)).all()
    high, p = judged(L, shift=0.3)  # of q: so z lies below it
    assert p.max() < 1e-6 and (high.mean(axis=0) < L / 2 - 1).all()


@pytest.mark.parametrize("fault", ({"widen": 1.5}, {"shift": 0.3}), ids=str)
def test_importance_weights_make_up_for_a_q_that_covers_the_posterior(fault):
    assert judged(L, **fault)[1].max() < 1e-6
    assert smallest(judged(400, **fault)[1]) > 0.01


def test_ranks_are_those_of_z_among_the_draws_of_its_own_row():
    network, n = BEST.network(load("numpy"), widen=1e-6), 50
    z = samples.prior(n, 3, 4)
    mu = samples.observe(network, z, 4) @ BEST.encoder - BEST.mean @ BEST.encoder
    np.testing.assert_array_equal(ranks(network, n, 4), np.where(z > mu, L, 0))  # all draws lie where q has its mean


def test_ranks_belong_to_the_seed_and_not_to_how_many_rows_or_how_they_are_cut(monkeypatch):
    network, seen = BEST.network(load("numpy")), []
    found = ranks(network, 50, 3, L, 30, progress=seen.append)
    assert sum(seen) == 50 * 30
    np.testing.assert_array_equal(ranks(network, 20, 3, L, 30), found[:20])
    assert (ranks(network, 50, 4, L, 30) != found).mean() > 0.5
    monkeypatch.setattr(calibration, "CHUNK", 7)
    np.testing.assert_array_equal(ranks(network, 50, 3, L, 30), found)


def test_ranks_among_equal_numbers_are_uniform(monkeypatch):
    """Where all draws are z itself, as of a decoder that rounds, each rank is as likely."""
    network, z = BEST.network(load("numpy")), samples.prior(N, 3, 0)

    class Work:
        def get(self, name):
            return z

    def weights(network, examples, seed, eps):
        return ((slice(None), Work(), np.zeros(N)) for _ in eps)

    monkeypatch.setattr(calibration, "CHUNK", N)
    monkeypatch.setattr(scores, "log_weights", weights)
    assert smallest(p_values(ranks(network, N, 0))) > 0.01


def test_draws_without_a_weight_are_not_chosen(monkeypatch):
    """Those of a weight that is no number, or of none, unless there are too few others."""
    network, usual = BEST.network(load("numpy")), scores.log_weights

    def some(network, examples, seed, eps):
        for k, (piece, work, log_w) in enumerate(usual(network, examples, seed, eps)):
            yield piece, work, log_w if k < L else np.full_like(log_w, np.nan if k % 2 else -np.inf)

    alone = ranks(network, 100, 0, L, L)
    np.testing.assert_array_equal(ranks(network, 100, 0), alone)
    monkeypatch.setattr(calibration, "randomness", Same())
    alone = ranks(network, 100, 0, L, L)
    monkeypatch.setattr(scores, "log_weights", some)
    np.testing.assert_array_equal(ranks(network, 100, 0, L, 40), alone)


class Same:
    """Noise by which the first candidates are the same however many there are."""

    CALIBRATE = 0

    def uniform(self, shape, *where):
        return np.random.default_rng(where[2:]).random(shape) * 0.5 + 0.25

    def normal(self, shape, *where):
        return (
            np.random.default_rng(0)
            .normal(size=(shape[1] // 3, 1, 3))
            .swapaxes(0, 1)
            .repeat(shape[0], 0)
            .reshape(shape)
        )


def test_columns_too_far_for_float32_are_calibrated_as_well():
    arch = Architecture(7, 3, (), "identity", "gaussian", 1.0, "ignore", ((3e9, 1.0),) * 7)
    near = Network(arch, load("numpy"), "float32")
    best = ppca.Optimum(BEST.x, 3, s2=1.0)
    same, flat = best.network(load("numpy")).get_parameters(), np.zeros(near.parameters.size)
    flat[: same.size] = same
    near.set_parameters(flat)
    assert smallest(p_values(ranks(near, N, 0))) > 0.01


def test_what_a_conditional_model_is_told_is_told_to_both_of_its_halves():
    told = np.random.default_rng(0).normal(size=(N, 2)) * 3
    network = Network(Architecture(7, 3, (), "identity", "gaussian", conditions=2), load("numpy"), "float64")
    effect, flat = np.random.default_rng(1).normal(size=(2, 7)), np.zeros(network.parameters.size)
    plain, named = BEST.network(load("numpy")).named, views(flat, network.layout)
    named["decoder.0.W"][...] = np.concatenate([plain["decoder.0.W"], effect])
    named["encoder.0.W"][...] = np.concatenate([plain["encoder.0.W"], -effect @ plain["encoder.0.W"]])
    for name in ("encoder.0.b", "decoder.0.b", "log_sigma"):
        named[name][...] = plain[name]
    network.set_parameters(flat)
    assert smallest(p_values(ranks(network, N, 0, side=told))) > 0.01


def test_p_values_are_those_of_a_chi_square_test_and_bonferroni_takes_the_smallest():
    rng = np.random.default_rng(0)
    found = rng.binomial(L, 0.5, (500, 2)) * (rng.random((500, 2)) < 0.1) + rng.integers(0, 1, (500, 2))
    found[:, 1] = rng.integers(0, L + 1, 500)
    for bins in (20, 10, 2):
        counts = [np.histogram(column, bins, (0, L + 1))[0] for column in found.T]
        np.testing.assert_allclose(p_values(found, L, bins), [stats.chisquare(c).pvalue for c in counts], rtol=1e-10)
    assert p_values(np.arange(100)[:, None] % 20)[0] == 1
    assert smallest(np.array([0.5, 0.01, 0.2])) == pytest.approx(0.03) and smallest(np.array([0.5, 0.9])) == 1


def test_no_two_kinds_of_noise_share_their_numbers(monkeypatch):
    drawn = []
    for name in ("normal", "uniform"):
        real = getattr(randomness, name)
        monkeypatch.setattr(
            randomness, name, lambda shape, seed, *where, real=real: drawn.append(where) or real(shape, seed, *where)
        )
    monkeypatch.setattr(calibration, "CHUNK", 6)
    ranks(BEST.network(load("numpy")), 10, 0)
    of_ranks = [where for where in drawn if where[0] == randomness.CALIBRATE]
    assert len(of_ranks) == len(set(of_ranks)) == 1 + 2 * 2  # the ties; candidates and their choice in two pieces


def test_what_cannot_be_tested_is_one_clear_sentence(monkeypatch):
    network = BEST.network(load("numpy"))
    with pytest.raises(ValueError, match="candidates must be at least as many as the 19 draws that are chosen, not 18"):
        ranks(network, 10, 0, 19, 18)
    for arguments, message in {
        (0, 0): "n must be at least 1, not 0",
        (10**14, 0): "n=100000000000000 would take",
        (100, 0, 19, 10**14): "candidates=100000000000000 would take",
    }.items():
        with pytest.raises(ValueError, match=message):
            ranks(network, *arguments)
    monkeypatch.setattr(checks, "memory_limit", lambda: 2**26)
    with pytest.raises(
        ValueError, match="candidates=500000 would take 96,000,000 bytes"
    ):  # 64 for each latent of three
        ranks(network, 1, 0, 19, 500_000)
    assert callable(chi_square(100)) and smallest(np.array([0.7, 0.9])) == 1
    with pytest.raises(ValueError, match="20 bins of ranks need at least 100 simulated rows, not 99"):
        p_values(np.zeros((99, 1), int))
    for bins in (3, 1):
        with pytest.raises(ValueError, match=f"bins must share the 20 ranks out evenly, and {bins} do not"):
            p_values(np.zeros((100, 1), int), L, bins)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(ImportError, match="the p-values of a calibration need SciPy; run pip install scipy"):
        p_values(np.zeros((100, 1), int))
