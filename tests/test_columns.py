"""A likelihood for every column, and cells that are missing: laws, and tables as users have them."""

from __future__ import annotations

import column_cases
import numpy as np
import pytest
from scipy import integrate, special, stats

from minivae import VAE, DataError
from minivae.architecture import Architecture, initial_parameters, parameter_layout
from minivae.data.batches import Examples
from minivae.evaluation import imputation
from minivae.evaluation.inference import column_means
from minivae.kernels import availability, load, reference
from minivae.kernels.columns import CELLS, KINDS, LEAST, MEAN_SERIES, STIRLING, floored
from minivae.likelihoods import COUNTS, ONE_HOT, REAL, UNIT, domains, is_mixed, runs
from minivae.network import Network
from minivae.parameters import views

ROWS = 600


def table(rows=ROWS, holes=0.0, seed=0):
    """Numbers in units of their own, two counts and a category, all driven by one hidden number; holes as NaN."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(rows, 1))
    numbers = np.array([150.0, -3.0]) + u * [12.0, 0.02] + rng.normal(size=(rows, 2)) * [4.0, 0.01]
    counts = rng.poisson(np.exp([0.5, 2.0] + u * [0.7, -0.4]))
    logits = np.concatenate([1.5 * u, 0 * u, -1.5 * u], axis=1)
    category = np.eye(3)[(logits + rng.gumbel(size=(rows, 3))).argmax(axis=1)]
    X = np.concatenate([numbers, counts, category], axis=1)
    missing = rng.random((rows, 5)) < holes
    X[:, :4][missing[:, :4]] = np.nan
    X[missing[:, 4], 4:] = np.nan
    return X


MIXED = "gaussian*2, poisson*2, categorical*3"
SETTINGS = {"likelihood": MIXED, "hidden_dims": (32,), "latent_dim": 2, "random_state": 0, "learning_rate": 5e-3}


# ---- Cells


@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind not in ("categorical", "gaussian_elementwise")])
def test_a_cell_is_a_distribution(kind):
    """Its probabilities add up to 1."""
    for a, t in ((-3.0, 0.5), (0.0, -1.0), (2.5, 1.5)):

        def p(x, a=a, t=t):
            return np.exp(-CELLS[kind](np.full_like(x, a), x, np.array(t))[0])

        if kind == "bernoulli":
            total = p(np.array([[0.0, 1.0]])).sum()
        elif kind in ("poisson", "negative_binomial"):
            total = p(np.arange(3000.0)[None]).sum()
        else:
            low, high = (0, 1) if kind == "continuous_bernoulli" else (a - 50, a + 50)
            total = integrate.quad(
                lambda x: float(p(np.full((1, 1), x))[0, 0]), low, high, points=[0.5 * (low + high)]
            )[0]
        assert total == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("kind", ["bernoulli", "continuous_bernoulli", "gaussian", "poisson", "negative_binomial"])
def test_the_gradient_vanishes_where_the_mean_is_the_datas(kind):
    x = np.abs(column_cases.draw(kind, np.random.default_rng(1), (400, 1))) + (0.01 if "cont" in kind else 0)
    x = np.minimum(x, 1) if "bernoulli" in kind else x
    low, high, t = -30.0, 30.0, np.zeros(1)
    for _ in range(100):  # by bisection: the gradient's sum rises with a
        a = 0.5 * (low + high)
        low, high = (a, high) if CELLS[kind](np.full_like(x, a), x, t)[1].sum() < 0 else (low, a)
    mean = next(run for run in runs(kind, 1)).mean(np.full((1, 1), a))
    assert mean[0, 0] == pytest.approx(x.mean(), rel=1e-8)


def test_the_continuous_bernoulli_is_finite_far_out_and_smooth_through_zero():
    a = np.array([[-800.0, 800.0, 0.0, 1e-12, -1e-12, 0.2999999, 0.3000001]])
    cells, da, _ = CELLS["continuous_bernoulli"](a, np.full_like(a, 0.25), np.zeros(7))
    assert np.isfinite(cells).all() and np.isfinite(da).all()
    np.testing.assert_allclose(da[0, :5] + 0.25, [1 / 800, 1 - 1 / 800, 0.5, 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(cells[0, 2:5], 0, atol=1e-11)
    assert da[0, 6] - da[0, 5] == pytest.approx(2e-7 / 12, rel=0.02)


def test_a_category_is_finite_far_out_and_so_is_its_mean():
    a = np.array([[800.0, -800.0, 799.0], [-900.0, -900.0, -900.0]])
    cells, da, _ = CELLS["categorical"](a, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3))
    likely = 1 / (1 + np.exp(-1))
    p = np.array([[likely, 0.0, 1 - likely], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_allclose(cells[:, 0], [1600 - np.log(likely), np.log(3)], rtol=1e-12)
    np.testing.assert_allclose(da, p - [[0, 1, 0], [0, 0, 1]], rtol=1e-12)
    np.testing.assert_allclose(runs("categorical", 3)[0].mean(a), p, rtol=1e-12)


def test_the_negative_binomial_becomes_poisson_where_r_is_large():
    a, x = np.array([[0.3, 2.0, 4.0]]), np.array([[0.0, 5.0, 70.0]])
    found = CELLS["negative_binomial"](a, x, np.full(3, 14.9))
    expected = CELLS["poisson"](a, x, None)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-3)
    np.testing.assert_allclose(found[1], expected[1], atol=2e-3)
    beyond = CELLS["negative_binomial"](a, x, np.full(3, 40.0))  # as at the most that r may be, and no further
    assert (beyond[2] == 0).all()
    np.testing.assert_array_equal(beyond[0], CELLS["negative_binomial"](a, x, np.full(3, 15.0))[0])


def test_the_series_are_those_of_the_bernoulli_numbers():
    """log x! and the mean of the continuous bernoulli, 1 / (1 - e^-a) - 1/a = 1/2 + sum_k B_2k a^(2k-1) / (2k)!"""
    even = np.arange(2, 13, 2)
    B = special.bernoulli(12)[even]
    np.testing.assert_allclose(STIRLING[::-1], B / (even * (even - 1)), rtol=1e-11)
    np.testing.assert_allclose(MEAN_SERIES[::-1], (B / special.factorial(even))[:5], rtol=1e-11)


def test_sigma_stays_above_a_thousandth_and_is_exact_where_fixed():
    assert np.exp(floored(np.array(-50.0))[0]) == pytest.approx(1e-3)
    arch = Architecture(2, 1, (), "relu", "gaussian", 0.25, "ignore", ((0.0, 2.0), (5.0, 0.1)))
    np.testing.assert_allclose(np.exp(floored(arch.dispersion())[0]) * arch.column_units()[1], 0.25, rtol=1e-12)
    assert pytest.approx(np.log(1e-3)) == LEAST


@pytest.mark.parametrize("kind", ["bernoulli", "poisson"])
def test_columns_of_one_kind_are_what_its_own_kernel_computes(kind):
    rng = np.random.default_rng(3)
    B, D = 9, 6
    out, x, weight = rng.normal(size=(B, D)), column_cases.draw(kind, rng, (B, D)), rng.random(B)
    dout, dt, nll = np.empty_like(out), np.empty((B, D)), np.empty(B)
    table = np.array([[KINDS[kind], 0, 0, D]])
    reference.columns_loss(dout, dt, nll, out, x, np.ones((B, D)), np.zeros(D), np.zeros(D), table, weight)
    expected, right = np.empty_like(out), np.empty(B)
    getattr(reference, f"{kind}_loss")(expected, right, out, x, weight)
    np.testing.assert_allclose(nll, right, rtol=1e-12)
    np.testing.assert_allclose(dout, expected, rtol=1e-12)


# ---- Missing cells


@pytest.mark.parametrize("missing", ["ignore", "input"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_what_stands_in_a_missing_cell_teaches_nothing(missing, backend):
    """The loss and its gradient are those of the cells observed: any other number for the decoder to explain adds none."""
    if not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    X = table(20, 0.3)
    arch = Architecture(7, 2, (5,), "tanh", MIXED, "learned", missing, ((150.0, 12.0), (-3.0, 0.02), *[(0.0, 1.0)] * 5))
    network, eps = Network(arch, load(backend), "float64"), np.random.default_rng(0).normal(size=(20, 2))
    network.set_parameters(initial_parameters(arch, 0))
    _, gradient = network.loss_and_gradient(X, eps)
    bias = network.named["decoder.1.db"].copy()
    assert np.isfinite(gradient).all() and np.abs(bias).min() > 0
    X[:, 0] = np.nan  # a column without a cell has no gradient at all: of its bias, its weights, its sigma
    _, gradient = network.loss_and_gradient(X, eps)
    assert network.named["decoder.1.db"][0] == 0 and (network.named["decoder.1.dW"][:, 0] == 0).all()
    assert network.named["ddispersion"][0] == 0 and network.named["ddispersion"][1] != 0
    assert np.abs(network.named["decoder.1.db"][1:]).min() > 0  # the others still learn


def test_the_loss_is_that_of_the_observed_cells_in_the_tables_own_units():
    """Millimetres in place of metres add log 1000 for each cell observed, and change nothing else."""
    X = table(50, 0.2)
    losses = []
    for factor in (1.0, 1000.0):
        Y = X * np.where(np.arange(7) == 0, factor, 1)
        vae = VAE(**SETTINGS | {"epochs": 1, "learning_rate": 1e-30, "validation_fraction": 0.0}, missing="ignore").fit(
            Y
        )
        losses.append(vae.history_[-1]["recon"])
    seen = np.isfinite(X[:, 0]).sum() / len(X)
    assert losses[1] - losses[0] == pytest.approx(seen * np.log(1000), rel=1e-4)


def test_nan_is_an_error_unless_it_is_said_to_be_missing():
    X = table(60, 0.2)
    with pytest.raises(DataError, match="missing='ignore'"):
        VAE(**SETTINGS, epochs=1).fit(X)
    with pytest.raises(ValueError, match="binarize makes yes or no of a missing cell"):
        VAE(likelihood="bernoulli", missing="ignore", binarize="static", epochs=1).fit(X[:, 4:])
    X[:, 1] = np.nan
    with pytest.raises(DataError, match="no value in column 1"):
        VAE(**SETTINGS, missing="ignore", epochs=1).fit(X)


# ---- Tables


@pytest.mark.parametrize("missing, holes", [("error", 0.0), ("ignore", 0.2), ("input", 0.2)])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_mixed_table_is_fitted_better_than_column_by_column(missing, holes, backend, tmp_path):
    if not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    X, new = table(holes=holes), table(300, holes, seed=1)
    vae = VAE(**SETTINGS | {"epochs": 60}, missing=missing, backend=backend).fit(X)
    means, spread = np.nanmean(X, axis=0), np.nanstd(X, axis=0)
    alone = -stats.norm.logpdf(new[:, :2], means[:2], spread[:2])
    alone = np.concatenate([alone, -stats.poisson.logpmf(np.nan_to_num(new[:, 2:4]), means[2:4])], axis=1)
    alone = np.concatenate([alone, -(new[:, 4:] * np.log(means[4:])).sum(axis=1, keepdims=True)], axis=1)
    seen = np.isfinite(new[:, :5])
    independent = -np.where(seen, alone, 0).sum(axis=1).mean()
    assert vae.score(new) > independent + 0.2  # nats per row
    means_of = vae.inverse_transform(vae.transform(new))
    np.testing.assert_allclose(means_of[:, 4:].sum(axis=1), 1, rtol=1e-5)
    assert np.corrcoef(means_of[:, 0], means_of[:, 1])[0, 1] > 0.9
    assert abs(means_of[:, 0].mean() - 150) < 5 and abs(means_of[:, 1].mean() + 3) < 0.02
    vae.save(tmp_path / "table.npz")
    again = VAE.load(tmp_path / "table.npz", backend=backend)
    np.testing.assert_array_equal(again.transform(new), vae.transform(new))
    assert again.score(new) == pytest.approx(vae.score(new), rel=1e-6)


def test_a_constant_column_ends_at_a_finite_loss():
    X = table(200)
    X[:, 1] = 7.0
    vae = VAE(**SETTINGS | {"epochs": 80}).fit(X)
    assert np.isfinite(vae.history_[-1]["loss"]) and vae.history_[-1]["loss"] > -40
    assert vae.reconstruct(X)[:, 1] == pytest.approx(7.0, abs=0.05)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda X: X[:, :6], "describes 7 columns, and the data have 6"),
        (lambda X: X * [1, 1, 0.5, 1, 1, 1, 1], r"'poisson' needs counts.*column 2 holds"),
        (lambda X: X + [0, 0, 0, 0, 1, 0, 0], r"'categorical' needs one-hot.*column 4 reaches 2"),
        (lambda X: X * [1, 1, 1, 1, 1, 1, 0], r"sums to 0 at row \d+, columns 4 to 6"),
    ],
)
def test_a_table_that_does_not_fit_its_description_is_refused_with_the_column(change, words):
    with pytest.raises(ValueError, match=words):
        VAE(**SETTINGS, epochs=1).fit(change(table(80)))


@pytest.mark.parametrize("text", ["gaussian*4 cauchy", "gaussian*0", "gaussian*x poisson"])
def test_a_description_with_an_unknown_word_is_refused(text):
    with pytest.raises(ValueError, match=r"is not one of bernoulli.*; name columns as in"):
        runs(text, 5)


EVERY = "poisson gaussian*2, bernoulli*3 + categorical*2,continuous_bernoulli*3 negative_binomial"
EVERY_UNITS = ((0.0, 1.0), (150.0, 12.0), (-3.0, 0.02), *[(0.0, 1.0)] * 9)


def test_a_description_is_read_from_left_to_right_and_a_gaussian_may_have_two_outputs():
    words = [("poisson", 1), ("gaussian", 2), ("bernoulli", 3), ("categorical", 2), ("continuous_bernoulli", 3)]
    for elementwise in (False, True):
        found, column, output = runs(EVERY, 12, elementwise), 0, 0
        assert [(run.likelihood, run.count) for run in found] == [*words, ("negative_binomial", 1)]
        for run in found:
            outputs = 4 if run.likelihood == "gaussian" and elementwise else run.count
            assert (run.column, run.output, run.outputs) == (column, output, outputs)
            assert run.columns == slice(column, column + run.count)
            column, output = column + run.count, output + outputs
    assert [run.kind for run in runs(EVERY)] == [KINDS[run.likelihood] for run in runs(EVERY)]
    assert runs(EVERY, elementwise=True)[1].kind == KINDS["gaussian_elementwise"]
    assert [run.count for run in runs("poisson", 5)] == [5] and [run.count for run in runs("poisson*5", 5)] == [5]
    assert [run.count for run in runs("poisson poisson", 2)] == [1, 1]
    with pytest.raises(ValueError, match="'poisson\\*5' describes 5 columns, and the data have 6"):
        runs("poisson*5", 6)
    with pytest.raises(ValueError, match=r"'cauchy' is not one of [a-z_, ]+$"):  # one name for all needs no such help
        runs("cauchy", 5)
    with pytest.raises(ValueError, match=r"'cauchy\*5' is not one of [a-z_, ]+; name columns as in"):
        runs("cauchy*5", 5)
    assert domains(EVERY) == {UNIT, REAL, COUNTS, ONE_HOT} and domains("negative_binomial") == {COUNTS}
    assert is_mixed(EVERY) and is_mixed("poisson*5") and not is_mixed("poisson")


def test_the_means_of_a_table_are_read_where_its_outputs_stand_and_given_in_its_units():
    arch = Architecture(12, 1, (), likelihood=EVERY, sigma="elementwise", units=EVERY_UNITS)
    out = 2 * np.random.default_rng(6).normal(size=(4, 14))
    grey = out[:, 10:13]
    expected = [np.exp(out[:, :1]), [150.0, -3.0] + [12.0, 0.02] * out[:, 1:3], special.expit(out[:, 5:8])]
    expected += [special.softmax(out[:, 8:10], axis=1), 1 / -np.expm1(-grey) - 1 / grey, np.exp(out[:, 13:])]
    np.testing.assert_allclose(column_means(arch)(out), np.concatenate(expected, axis=1), rtol=1e-10)


def test_training_begins_where_the_mean_is_the_datas_but_for_the_ends():
    arch = Architecture(12, 1, (), likelihood=EVERY, sigma="elementwise", units=EVERY_UNITS)
    mean = np.array([0.0, 162.0, -3.04, 0.0, 0.25, 1.0, 0.0, 1.0, 0.0, 0.25, 1.0, 20.0])
    end = np.log(999)
    for choice, logits in (("auto", [0.0] * 3), ("data_mean", [-end, np.log(1 / 3), end])):
        bias = views(initial_parameters(arch, 0, "glorot", choice, mean), parameter_layout(arch))["decoder.0.b"]
        expected = [np.log(1e-3), 1, -2, 0, 0, *logits, np.log(1e-3), 0, *logits, np.log(20)]
        np.testing.assert_allclose(bias, expected, atol=1e-12)


def test_grey_values_are_better_described_by_the_continuous_bernoulli(digits):
    """A density of grey values: below 0 nats, where a Bernoulli's cross-entropy, which is none, cannot be."""
    settings = {"hidden_dims": (32,), "epochs": 15, "random_state": 0}
    X = np.clip(digits[0], 0.02, 0.98)
    vae = VAE(likelihood="continuous_bernoulli", **settings).fit(X)
    assert vae.score(X) > 0 > VAE(likelihood="bernoulli", **settings).fit(X).score(X)
    means = vae.reconstruct(X)
    assert means.min() > 0 and means.max() < 1


def test_spread_counts_prefer_the_negative_binomial():
    rng = np.random.default_rng(0)
    X = rng.negative_binomial(1.5, 1.5 / (1.5 + 20), size=(500, 8)).astype(float)
    settings = {"hidden_dims": (16,), "epochs": 80, "random_state": 0, "learning_rate": 1e-2}
    scores = {name: VAE(likelihood=name, **settings).fit(X).score(X) for name in ("poisson", "negative_binomial")}
    truth = stats.nbinom.logpmf(X, 1.5, 1.5 / 21.5).sum(axis=1).mean()
    assert scores["poisson"] + 10 < scores["negative_binomial"] < truth + 0.5
    assert scores["negative_binomial"] > truth - 1.5


# ---- Samples and scores


def test_noisy_samples_of_a_table_are_rows_of_such_a_table():
    X = table(2000)
    vae = VAE(**SETTINGS | {"epochs": 60}).fit(X)
    samples = vae.sample(4000, noise=True).astype(np.float64)
    assert (samples[:, 4:].sum(axis=1) == 1).all() and set(np.unique(samples[:, 4:])) == {0.0, 1.0}
    assert (samples[:, 2:4] == np.rint(samples[:, 2:4])).all() and samples[:, 2:4].min() == 0
    np.testing.assert_allclose((samples.mean(axis=0) - X.mean(axis=0)) / X.std(axis=0), 0, atol=0.15)
    np.testing.assert_allclose(samples.std(axis=0), X.std(axis=0), rtol=0.15)
    assert np.abs(np.corrcoef(samples.T) - np.corrcoef(X.T)).max() < 0.1
    np.testing.assert_allclose(vae.sigma_[:2], [4.0, 0.01], rtol=0.25)  # what the hidden number leaves
    assert np.isnan(vae.sigma_[2:]).all()


GREY = "continuous_bernoulli"


@pytest.mark.parametrize("name, a", [(GREY, 3.0), (GREY, -40.0), ("negative_binomial", 1.2)])
def test_draws_of_a_cell_have_its_distribution(name, a):
    from minivae.evaluation.samples import DRAW, Chance

    outputs, r = np.full((40000, 1), a), np.array([1.5])
    drawn = DRAW[name](outputs, r, Chance(3, 0, outputs.shape), slice(0, 1))
    mean = next(iter(runs(name, 1))).mean(outputs[:1])[0, 0]
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    if name == "negative_binomial":
        assert drawn.var() == pytest.approx(mean + mean**2 / 1.5, rel=0.05)
    else:
        x = np.linspace(0.05, 0.95, 10)
        np.testing.assert_allclose((drawn < x).mean(axis=0), np.expm1(a * x) / np.expm1(a), atol=0.01)


@pytest.mark.parametrize("missing", ["error", "input"])
def test_an_anomaly_is_found_in_its_column_and_missing_cells_are_none(missing):
    X = table(holes=0.0 if missing == "error" else 0.2)
    vae = VAE(**SETTINGS | {"epochs": 40}, missing=missing).fit(X)
    new = table(50, 0.0 if missing == "error" else 0.2, seed=2)
    new[7, :4] = [150.0, -3.0 + 1.0, 1, 7]  # fifty times the spread of the second column
    rows, cells = vae.anomaly_score(new), vae.anomaly_score(new, per_column=True)
    np.testing.assert_allclose(cells.sum(axis=1), rows, rtol=1e-4, atol=1e-3)
    assert rows.argmax() == 7 and cells[:, 1].argmax() == 7
    assert (cells[np.isnan(new)] == 0).all()
    order = np.random.default_rng(0).permutation(50)
    np.testing.assert_allclose(vae.score_samples(new[order]), vae.score_samples(new)[order], rtol=1e-5)


# ---- Imputation


def test_imputation_approaches_the_conditional_mean_that_is_known():
    """Linear and Gaussian data of covariance S: E[x_mis | x_obs] = mu + S_mo S_oo^-1 (x_obs - mu)."""
    rng = np.random.default_rng(5)
    loadings, noise = rng.normal(size=(2, 6)), 0.3
    covariance = loadings.T @ loadings + noise**2 * np.eye(6)

    def draw(rows):
        X = rng.normal(size=(rows, 2)) @ loadings + noise * rng.normal(size=(rows, 6)) + 5.0
        holes = rng.random(X.shape) < 0.25
        return X, np.where(holes, np.nan, X)

    settings = {"hidden_dims": (32,), "activation": "tanh", "latent_dim": 2, "learning_rate": 5e-3, "batch_size": 64}
    vae = VAE(likelihood="gaussian", missing="input", epochs=150, random_state=0, **settings)
    vae.fit(draw(2000)[1])
    full, X = draw(200)
    exact = X.copy()
    for row in exact:
        o = np.isfinite(row)
        row[~o] = 5.0 + covariance[np.ix_(~o, o)] @ np.linalg.solve(covariance[np.ix_(o, o)], row[o] - 5.0)
    holes, found = np.isnan(X), vae.impute(X, n_samples=500)
    np.testing.assert_array_equal(found[~holes], X[~holes])
    off = np.sqrt(np.mean((found - exact)[holes] ** 2)) / np.sqrt(np.mean((exact - 5.0)[holes] ** 2))
    assert off < 0.15
    best = np.mean((exact - full)[holes] ** 2)
    assert np.mean((found - full)[holes] ** 2) < 1.15 * best < 0.5 * np.mean((5.0 - full)[holes] ** 2)


def test_a_mixed_table_is_imputed_better_than_by_means_and_most_frequent_values():
    complete, X = table(1500, seed=3), table(1500, 0.2, seed=3)
    vae = VAE(**SETTINGS | {"epochs": 60}, missing="input").fit(X)
    filled, holes = vae.impute(X), np.isnan(X)
    assert np.isfinite(filled).all() and (filled[:, 4:].sum(axis=1) == 1).all()
    np.testing.assert_array_equal(filled[~holes], X[~holes])
    for d in range(4):
        errors = [np.mean((guess - complete[:, d])[holes[:, d]] ** 2) for guess in (filled[:, d], np.nanmean(X[:, d]))]
        assert errors[0] < 0.85 * errors[1], d
    hit = (filled[:, 4:] == complete[:, 4:]).all(axis=1)[holes[:, 4]].mean()
    assert hit > complete[holes[:, 4], 4:].mean(axis=0).max() + 0.05


class Drawn:
    """As much of a workspace after a draw as imputation asks for: the decoder's output."""

    def __init__(self, out):
        self.out = out

    def get(self, name):
        return {"out": self.out}[name]


def test_the_draws_of_a_row_count_by_their_weights_of_which_some_are_no_numbers(monkeypatch):
    """Every e^-1000 is 0, and a draw without a weight has no outputs either; the share of each is that of softmax."""
    log_w = np.array(
        [[-np.inf, -1000.0, 3.0], [np.nan, -1001.0, 2.0], [-1500.0, -999.0, np.nan], [-1501.0, np.nan, 900.0]]
    )
    log_w = np.concatenate([log_w, [[-1499.5, -np.inf, 901.0]]])
    out = np.where(np.isfinite(log_w)[..., None], np.random.default_rng(0).normal(size=(5, 3, 2)), np.nan)
    asked = {}

    def weights(network, examples, seed, eps):
        asked.update(seed=seed, eps=eps.shape)
        for piece in (slice(0, 2), slice(2, 3)):
            yield from ((piece, Drawn(out[k, piece]), log_w[k, piece]) for k in range(5))

    monkeypatch.setattr(imputation, "log_weights", weights)
    arch = Architecture(2, 3, (), likelihood="gaussian", missing="ignore", units=((10.0, 2.0), (0.0, 0.1)))
    examples = Examples(np.zeros((3, 2)), np.arange(3))
    found = imputation.impute(Network(arch, load("numpy"), "float64"), examples, 5, seed=4)
    share = special.softmax(np.nan_to_num(log_w, nan=-np.inf), axis=0)[..., None]
    expected = np.array([10.0, 0.0]) + np.array([2.0, 0.1]) * (share * np.nan_to_num(out)).sum(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert asked == {"seed": 4, "eps": (5, 1, 3)}


def test_only_nan_is_filled_and_a_category_with_the_likeliest_of_its_values():
    arch = Architecture(5, 1, (), likelihood="poisson, categorical*3, gaussian", missing="ignore")
    X = np.array([[2.0, 0, 1, 0, np.nan], [np.nan] * 4 + [3.0], [5.0, *[np.nan] * 3, 4.0]])
    expected = np.array([[9.0, 0.1, 0.2, 0.7, 0.5], [1.5, 0.5, 0.2, 0.3, 9.0], [9.0, 0.3, 0.3, 0.4, 9.0]])
    filled = imputation.fill(X, expected, Network(arch, load("numpy"), "float64"))
    np.testing.assert_array_equal(filled, [[2, 0, 1, 0, 0.5], [1.5, 1, 0, 0, 3], [5, 0, 0, 1, 4]])
    assert expected[1, 1] == 0.5  # what was asked is left as it was


def test_two_hundred_draws_fill_a_cell_unless_more_are_asked_for(monkeypatch):
    X, asked = table(80, 0.2), []
    vae = VAE(**SETTINGS, missing="ignore", epochs=1).fit(X)
    real = imputation.impute
    monkeypatch.setattr(imputation, "impute", lambda *of: asked.append(of[2:]) or real(*of))
    np.testing.assert_array_equal(vae.impute(X), vae.impute(X, n_samples=200))
    assert asked == [(200, vae.seed_)] * 2


def test_a_model_that_knows_no_missing_cells_imputes_none():
    X = table(100)
    with pytest.raises(ValueError, match="fit with missing='ignore' to impute"):
        VAE(**SETTINGS, epochs=1).fit(X).impute(X)


@pytest.mark.parametrize("sigma", ["elementwise", "learned"])
def test_constant_columns_end_at_a_finite_loss_or_at_one_sentence(sigma):
    """400 equal rows once ended at a loss of 148,169, and constant data at a score of -9e8."""
    rng = np.random.default_rng(0)
    equal, some = np.tile(rng.normal(size=5), (400, 1)), rng.normal(size=(400, 5))
    some[:, 2], some[:, 3] = 7, 2 * some[:, 1]
    settings = {"likelihood": "gaussian", "sigma": sigma, "epochs": 60, "random_state": 0}
    for X in (equal, some):
        if sigma == "learned" and X is equal:
            with pytest.raises(DataError, match=r"none of the 5 columns varies over 360 samples.*; give sigma a value"):
                VAE(**settings).fit(X)
            continue
        vae = VAE(**settings).fit(X)
        floor = 5 * (np.log(1e-3) + 0.92)  # of a column whose spread is 1
        assert floor < vae.history_[-1]["loss"] < 50 and floor < -vae.score(X) < 50
        np.testing.assert_allclose(vae.reconstruct(X)[:, 2], X[:, 2], atol=0.1)


def test_a_loss_below_zero_is_explained_where_a_user_meets_it(tmp_path, capsys):
    from minivae.app.cli import main

    options = ["--hidden-dims", "16", "--epochs", "3", "--no-figures", "--quiet"]
    for likelihood, explained in (("continuous_bernoulli", True), ("bernoulli", False)):
        assert main(["train", "digits", "--likelihood", likelihood, *options, "--out", str(tmp_path / likelihood)]) == 0
        assert ("a loss below 0 is no mistake" in capsys.readouterr().err) == explained


@pytest.mark.parametrize("backend", ["numpy", "numba", "cupy"])
def test_spread_counts_far_from_their_mean_are_finite(backend, request):
    """m = e^a and r / m overflow in float32 there; the loss and its gradient do not."""
    if backend == "cupy":
        request.getfixturevalue("cupy")
    elif not availability(backend)[0]:
        pytest.skip(f"backend {backend}: {availability(backend)[1]}")
    kernels = load(backend)
    out, x = np.array([[90.0, 200.0, -110.0, 0.0]], np.float32), np.array([[3.0, 0.0, 5.0, 1e6]], np.float32)
    arrays = [out, x, np.ones_like(x), np.array([0.5, -1, 2, 0], np.float32), np.zeros(4, np.float32)]
    arrays += [np.array([[KINDS["negative_binomial"], 0, 0, 4]]), np.ones(1, np.float32)]
    found = [kernels.empty(shape, np.float32) for shape in ((1, 4), (1, 4), (1,))]
    kernels.columns_loss(*found, *map(kernels.to_device, arrays))
    dout, dt, nll = (np.array(kernels.to_host(array)) for array in found)
    assert np.isfinite(nll).all() and np.isfinite(dout).all() and np.isfinite(dt).all()
    np.testing.assert_allclose(dout[0, :3], [np.exp(0.5), np.exp(-1), -5], rtol=1e-5)


def test_the_spread_of_counts_begins_at_their_moments():
    rng = np.random.default_rng(1)
    X = rng.negative_binomial(0.5, 0.5 / (0.5 + 4), size=(4000, 3)).astype(float)
    vae = VAE(likelihood="negative_binomial", epochs=1, learning_rate=1e-30, hidden_dims=(8,), random_state=0).fit(X)
    np.testing.assert_allclose(np.exp(vae.network_.named["dispersion"]), 0.5, rtol=0.15)


def test_one_row_whose_cell_is_missing_is_read_like_any_other():
    """Of a row alone, or a piece, a whole column may be missing: that is refused in fit only."""
    X = table(200, 0.2)
    vae = VAE(**SETTINGS | {"epochs": 5}, missing="input").fit(X)
    row = X[:1].copy()
    row[0, [1, 4, 5, 6]] = np.nan
    assert np.isfinite(vae.impute(row)).all() and np.isfinite(vae.transform(row)).all()
    together = np.concatenate([row, X[1:]])
    assert vae.score_samples(row)[0] == pytest.approx(vae.score_samples(together)[0], rel=1e-5)
    vae.partial_fit(np.repeat(row, 20, axis=0))


def test_a_row_far_from_all_data_is_imputed_with_a_number():
    X = table(200, 0.2)
    vae = VAE(**SETTINGS | {"epochs": 5}, missing="ignore").fit(X)
    far = X[:2].copy()
    far[0, 0], far[0, 1] = 1e6, np.nan
    assert np.isfinite(vae.impute(far)).all()


@pytest.mark.parametrize(
    "settings, change, words",
    [
        ({"sigma": 1e-6}, lambda X: X, r"sigma=1e-06 is too small for column 0"),
        ({"missing": "drop"}, lambda X: X * np.nan, r"missing 'drop' is not one of error, ignore, input"),
        (
            {"likelihood": "continuous_bernoulli*7", "binarize": "static"},
            lambda X: X,
            "likelihood='bernoulli' then; choose that",
        ),
    ],
)
def test_what_no_sigma_or_no_float_can_hold_is_refused(settings, change, words):
    with pytest.raises(ValueError, match=words):
        VAE(**SETTINGS | {"epochs": 1} | settings).fit(change(table(100)))
