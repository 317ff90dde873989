"""Importance-weighted bounds against theory, where log p(x) is known; and as a user trains with them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from minivae import VAE
from minivae.architecture import Architecture
from minivae.kernels import availability, load
from minivae.kernels.reference import importance_bound
from minivae.network import ELBO, Bound, Network, backward_program, forward_program
from minivae.parameters import views
from minivae.training import OBJECTIVES, Objective

SIGMA, D, Z = 0.6, 4, 2


@pytest.fixture(params=("numpy", "numba"))
def kernels(request):
    """Those that draw thousands quickly; the contract of all backends is in kernels/test_contract.py."""
    if not availability(request.param)[0]:
        pytest.skip(availability(request.param)[1])
    return load(request.param)


def linear_model(kernels, missing="error"):
    """x = W z + b + sigma e, a q that is too wide and a little off, and an x whose log p(x), of what is seen, is known."""
    arch = Architecture(D, Z, (), "identity", "gaussian", SIGMA, missing)
    network, rng = Network(arch, kernels, "float64"), np.random.default_rng(0)
    W, b, x = rng.normal(size=(Z, D)), rng.normal(size=D), rng.normal(size=D)
    if missing != "error":
        x[1] = np.nan
    seen = ~np.isnan(x)
    precision = np.eye(Z) + W[:, seen] @ W[:, seen].T / SIGMA**2
    mean = np.linalg.solve(precision, W[:, seen] @ (x - b)[seen]) / SIGMA**2
    flat = np.zeros(network.parameters.size)
    named = views(flat, network.layout)
    named["decoder.0.W"][...], named["decoder.0.b"][...] = W, b
    named["encoder.0.b"][...] = np.concatenate([mean + 0.2, np.log(1.7 / np.diag(precision))])
    network.set_parameters(flat)
    covariance = W[:, seen].T @ W[:, seen] + SIGMA**2 * np.eye(seen.sum())
    return network, x, stats.multivariate_normal(b[seen], covariance).logpdf(x[seen])


def draw(network, x, bound, rows, beta=1.0):
    """The workspace after a forward and backward pass on so many copies of x, each with noise of its own."""
    work = network.workspace(
        forward_program(network.arch, bound) + backward_program(network.arch, bound), rows, bound.n_samples
    )
    work.put("x", np.tile(x, (rows, 1)))
    work.put("eps", np.random.default_rng(1).normal(size=(rows * bound.n_samples, Z)))
    work.run(rows, beta=beta)
    return work


def mean_and_error(values):
    return values.mean(axis=0), values.std(axis=0, ddof=1) / math.sqrt(len(values))


# ---- The bound


@pytest.mark.parametrize("missing", ("error", "ignore"), ids=("whole", "missing cells (MIWAE)"))
def test_the_bound_rises_with_samples_to_log_p(kernels, missing):
    network, x, log_p = linear_model(kernels, missing)
    found = {K: mean_and_error(-draw(network, x, Bound("iwae", K), 4000).get("bound")) for K in (1, 5, 50)}
    for K, more in ((1, 5), (5, 50)):
        (low, error), (high, other) = found[K], found[more]
        assert low + 5 * math.hypot(error, other) < high
    assert found[50][0] < log_p + 5 * found[50][1]
    assert found[50][0] == pytest.approx(log_p, abs=0.02)
    assert found[1][0] < log_p - 0.2  # of which the analytic ELBO is the mean, see below


def test_one_sample_with_its_own_kl_is_the_elbo_on_average(kernels):
    network, x, _ = linear_model(kernels)
    work = draw(network, x, Bound("iwae", 1), 20_000)
    kl = work.get("kl").sum(axis=1)
    assert np.ptp(kl) < 1e-12
    mean, error = mean_and_error(work.get("bound") - work.get("nll") - kl)  # KL drawn less KL in closed form
    assert abs(mean) < 5 * error
    assert error > 1e-3


def test_no_set_of_samples_is_worth_less_than_its_samples_one_by_one(kernels):
    # Jensen, for each set: -log mean w <= mean -log w; and equal where all weights are
    rng = np.random.default_rng(2)
    B, K = 50, 7
    h, eps, nll = rng.normal(size=(B, 2 * Z)), rng.normal(size=(B * K, Z)), rng.normal(size=B * K)
    z = np.repeat(h[:, :Z], K, axis=0) + np.exp(np.repeat(h[:, Z:], K, axis=0) / 2) * eps

    def bound(nll, z, h, eps):
        out, rows = np.empty(len(h)), len(nll)
        rest = np.ones((len(h), Z)), z, h, eps, np.full(len(h), 1 / len(h)), 1.0
        importance_bound(out, np.empty(rows), np.empty((len(h), Z + 1)), nll, *rest)
        return out

    together, alone = bound(nll, z, h, eps), bound(nll, z, np.repeat(h, K, axis=0), eps).reshape(B, K)
    assert (together < alone.mean(axis=1)).all()
    same = [np.repeat(a[::K], K, axis=0) for a in (nll, z, eps)]
    np.testing.assert_allclose(bound(same[0], same[1], h, same[2]), alone[:, 0], rtol=1e-12)


def test_a_weight_that_is_nothing_beside_the_largest_is_exactly_0(kernels):
    # times a gradient it would be a denormal number: a step of 50 samples took twice as long for them
    nll = np.array([0, 40, 50, 1000], np.float32)
    zeros = [np.zeros(shape, np.float32) for shape in ((1, Z), (4, Z), (1, 2 * Z), (4, Z))]
    bound, dnll, terms = np.empty(1, np.float32), np.empty(4, np.float32), np.empty((1, Z + 1), np.float32)
    kernels.importance_bound(bound, dnll, terms, nll, *zeros, np.ones(1, np.float32), 1.0)
    np.testing.assert_allclose(dnll[:2], [1, math.exp(-40)], rtol=1e-5)
    np.testing.assert_array_equal(dnll[2:], 0)


def test_a_sample_that_does_not_count_has_no_gradient_however_far_out_it_is(kernels):
    dout = np.array([[np.inf, 1.0], [2.0, 3.0]], np.float32)
    kernels.weigh(dout, np.array([0, 0.5], np.float32))
    np.testing.assert_array_equal(dout, [[0, 0], [1, 1.5]])


def test_a_very_narrow_q_has_a_gradient_in_float32(kernels):
    # 1 / sigma is infinite there, and no part of the plain derivative of the bound
    h = np.array([[0.3, -0.2, -180, -200]], np.float32)
    dz, z, eps = (np.ones((3, Z), np.float32) * part for part in (1, 0.5, 0.7))
    dh, weights = np.empty((1, 4), np.float32), (np.full(3, 1 / 3, np.float32), np.ones(1, np.float32))
    kernels.importance_backward(dh, dz, z, h, eps, *weights, 1.0, "iwae")
    np.testing.assert_allclose(dh, [[3.5, 3.5, -0.5, -0.5]], rtol=1e-5)


# ---- The estimators of the encoder's gradient


def gradients(kernels, estimator, K, rows=20_000, beta=1.0):
    """dh of each row, times rows: draws of the gradient with respect to mu and logvar; and that of the decoder's W."""
    network, x, _ = linear_model(kernels)
    work = draw(network, x, Bound(estimator, K), rows, beta)
    return work.get("dh") * rows, work.get("decoder.0.dW").copy()


@pytest.mark.parametrize("beta", (1.0, 0.6))
def test_dreg_has_the_mean_of_iwae_and_far_less_variance(kernels, beta):
    (iwae, decoder), (dreg, same) = gradients(kernels, "iwae", 8, beta=beta), gradients(kernels, "dreg", 8, beta=beta)
    mean, error = mean_and_error(iwae - dreg)
    assert (np.abs(mean) < 4.5 * error).all()
    assert (dreg.var(axis=0) < iwae.var(axis=0) / 2).all()
    assert np.abs(dreg.mean(axis=0)).max() > 20 * mean_and_error(dreg)[1].max()  # no zero that anything would equal
    np.testing.assert_array_equal(decoder, same)


def test_stl_is_biased_for_many_samples_and_is_dreg_for_one(kernels):
    (iwae, _), (stl, _) = gradients(kernels, "iwae", 8), gradients(kernels, "stl", 8)
    mean, error = mean_and_error(stl - iwae)
    assert (np.abs(mean) > 10 * error).any()
    np.testing.assert_allclose(*(gradients(kernels, e, 1, 50)[0] for e in ("stl", "dreg")), rtol=1e-12)
    (iwae, _), (stl, _) = gradients(kernels, "iwae", 1), gradients(kernels, "stl", 1)
    mean, error = mean_and_error(stl - iwae)
    assert (np.abs(mean) < 4.5 * error).all()


def test_stl_and_dreg_vanish_where_q_is_the_posterior(kernels):
    # "sticking the landing": each draw is 0, and not only their mean. One latent, whose posterior q can be exactly.
    arch = Architecture(2, 1, (), "identity", "gaussian", 1.0)
    network = Network(arch, kernels, "float64")
    flat = np.zeros(network.parameters.size)
    named = views(flat, network.layout)
    named["decoder.0.W"][...] = [[2.0, 1.0]]
    named["encoder.0.W"][...] = [[2 / 6, 0], [1 / 6, 0]]  # 1 + 2^2 + 1^2 = 6 is the posterior's precision
    named["encoder.0.b"][1] = -math.log(6)
    network.set_parameters(flat)
    for estimator, K in (("iwae", 3), ("stl", 3), ("dreg", 3)):
        bound = Bound(estimator, K)
        work = network.workspace(forward_program(arch, bound) + backward_program(arch, bound), 50, K)
        work.put("x", np.random.default_rng(3).normal(size=(50, 2)))
        work.put("eps", np.random.default_rng(4).normal(size=(50 * K, 1)))
        work.run(50, beta=1.0)
        assert (np.abs(work.get("dh")).max() < 1e-15) == (estimator != "iwae")


def test_many_samples_of_the_elbo_are_the_mean_of_its_losses(kernels):
    network, rng, K = linear_model(kernels)[0], np.random.default_rng(5), 6
    X, eps = rng.normal(size=(3, D)), rng.normal(size=(3 * K, Z))
    loss, gradient = network.loss_and_gradient(X, eps, 0.7, bound=Bound(n_samples=K))
    parts = [network.loss_and_gradient(X, eps[k::K], 0.7, bound=ELBO) for k in range(K)]
    assert loss == pytest.approx(np.mean([part[0] for part in parts]), rel=1e-12)
    np.testing.assert_allclose(gradient, np.mean([part[1] for part in parts], axis=0), rtol=0, atol=1e-12)


# ---- As a user


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_training_records_its_bound_and_its_terms(digits, objective):
    X, X_val = digits[0][:300], digits[1][:100]
    vae = VAE(
        3,
        hidden_dims=16,
        objective=objective,
        n_samples=4,
        epochs=12,
        batch_size=32,
        learning_rate=3e-3,
        random_state=0,
    )
    vae.fit(X, X_val=X_val)
    first, last = vae.history_[0], vae.history_[-1]
    assert last["loss"] < first["loss"] - 3
    assert last["val_loss"] < first["val_loss"] - 3
    for name in ("", "val_"):
        whole = last[f"{name}recon"] + last[f"{name}kl"]
        if objective == "elbo":
            assert last[f"{name}loss"] == pytest.approx(whole, rel=1e-6)
        else:  # the bound is tighter than the ELBO of the same samples, but in the same region
            assert whole - 6 < last[f"{name}loss"] < whole - 0.1
    # the held-out loss is the negative of a bound of log p(x): no larger than a much tighter one, and its estimate
    log_p = vae.score_samples(X_val, n_samples=500).mean()
    assert -last["val_loss"] < log_p + 0.2 if vae.history_[-1]["kept"] else True


@pytest.mark.parametrize("objective", ("elbo", "dreg"))
def test_a_training_resumes_bit_for_bit(digits, tmp_path, objective):
    settings = {
        "hidden_dims": 8,
        "objective": objective,
        "n_samples": 3,
        "epochs": 3,
        "batch_size": 16,
        "random_state": 0,
    }
    whole = VAE(**settings).fit(digits[0][:200])
    stops = []

    def stop(vae, record):
        stops.append(record["epoch"])
        vae.stop("that is enough")

    path = tmp_path / "checkpoint.npz"
    VAE(**settings, callbacks=[stop]).fit(digits[0][:200], checkpoint=path)
    again = VAE.load(path)
    assert (again.objective, again.n_samples) == (objective, 3)
    again.fit(digits[0][:200], resume=True)
    np.testing.assert_array_equal(again.network_.get_parameters(), whole.network_.get_parameters())
    assert stops == [1]
    assert [r["loss"] for r in again.history_] == [r["loss"] for r in whole.history_]


@pytest.mark.parametrize(
    ("settings", "named"),
    (
        ({"objective": "vae"}, "objective 'vae' is not one of elbo, iwae, stl, dreg"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"objective": "iwae", "free_bits": 0.1}, "free_bits is for the KL of objective='elbo'"),
        ({"objective": "dreg", "capacity": 1.0}, "capacity is for the KL of objective='elbo'"),
    ),
    ids=str,
)
def test_what_does_not_go_together_is_said(settings, named, digits):
    with pytest.raises(ValueError, match=named):
        Objective(**settings)
    with pytest.raises(ValueError, match=named):
        VAE(**settings).fit(digits[0][:50])


def test_more_samples_than_memory_are_refused(digits):
    with pytest.raises(ValueError, match=r"batch_size=32 with n_samples=1000000000 would take .* lower one of them"):
        VAE(objective="iwae", n_samples=10**9, batch_size=32).fit(digits[0][:50])
