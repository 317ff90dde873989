"""Never a silent NaN: a finite, right result, an infinity where that is the value, or one sentence."""

from __future__ import annotations

import copy
import functools
import json
import os
import traceback
import warnings

import numpy as np
import pytest
from attacks import forge
from hypothesis import given, settings
from hypothesis import strategies as st

from minivae import VAE, DataError, NotFinite
from minivae.app.cli import main
from minivae.kernels import availability
from minivae.parameters import views
from minivae.storage.modelfile import ModelFileError, json_text

X = np.random.default_rng(0).random((300, 8)).astype(np.float32)
BACKENDS = [name for name in ("numpy", "numba") if availability(name)[0]]
SMALL = {"hidden_dims": 16, "epochs": 1, "batch_size": 300, "validation_fraction": 0.0, "random_state": 0}


@pytest.fixture(scope="module", params=BACKENDS)
def fitted(request):
    return VAE(**SMALL | {"epochs": 3, "batch_size": 64}, likelihood="gaussian", backend=request.param).fit(X)


# ---- Training


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_update_is_looked_at_too(backend):
    """The loss of a step is taken before its update, so that of the last one only the parameters tell."""
    vae = VAE(**SMALL, learning_rate=1e38, backend=backend)
    with pytest.raises(
        NotFinite, match=r"step 1 \(epoch 1\): the first array .* is 'encoder.0.W'; lower learning_rate"
    ):
        vae.fit(X)
    assert np.isfinite(vae.network_.get_parameters()).all() and vae.history_ == []
    vae.set_params(learning_rate=1e-3).partial_fit(X)
    before = vae.network_.get_parameters()
    with pytest.raises(NotFinite):
        vae.set_params(learning_rate=1e38).partial_fit(X)
    np.testing.assert_array_equal(vae.network_.get_parameters(), before)
    assert len(vae.history_) == 1


def test_a_loss_beyond_float64_is_no_record():
    with pytest.raises(NotFinite, match="is 'the loss'"):
        VAE(**SMALL, free_bits=1.5e308, dtype="float64", backend="numpy").fit(X)


def test_a_model_made_non_finite_by_hand_is_neither_saved_nor_loaded_nor_used(fitted, tmp_path):
    fitted.save(tmp_path / "good.npz")
    broken = copy.copy(fitted)
    values = broken.network_.get_parameters()
    values[-1] = np.nan  # log_sigma, the last of all
    broken.network_.set_parameters(values)
    with pytest.raises(NotFinite, match="parameter 'log_sigma' holds a NaN or an infinity"):
        broken.save(tmp_path / "bad.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["good.npz"]
    with pytest.raises(NotFinite, match="parameter 'log_sigma'"):  # no score of -inf, as if the rows were strange
        broken.score(X)
    parts = forge.entries(tmp_path / "good.npz")
    parts["decoder.0.W"][0, 0] = np.inf
    forge.model(tmp_path / "bad.npz", parts, forge.config(tmp_path / "good.npz"))
    with pytest.raises(
        ModelFileError, match=r"bad.npz is not a model file \(decoder.0.W holds NaN or infinite values\)"
    ):
        VAE.load(tmp_path / "bad.npz")


# ---- Any call: hypothesis

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
OURS = (DataError, ValueError, TypeError, NotFinite)
EXTREME = [0.0, -0.0, 1.0, 0.5, 3.0, 255.0, 1e4, -1e4, 1e19, 1e30, -3e38, 1e39, 1e154, -1e200, 1.7e308, 5e-324, 1e-40]
NUMBERS = st.one_of(st.sampled_from(EXTREME), st.floats(), st.floats(0, 1), st.integers(0, 9).map(float))


def matrices(columns):
    """[1 .. 3, columns] of extreme numbers, NaN and infinity among them."""
    rows = st.lists(st.lists(NUMBERS, min_size=columns, max_size=columns), min_size=1, max_size=3)
    return st.builds(as_dtype, rows, st.sampled_from([np.float32, np.float64]))


@np.errstate(all="ignore")
def as_dtype(rows, dtype):
    return np.array(rows).astype(dtype)


def said(call):
    """What call() gives, or None where it was refused in a sentence of ours: by a line that raises, not by a library."""
    try:
        return call()
    except OURS as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        message = str(error)
        assert frame.line.startswith("raise") and "minivae" in frame.filename, f"{frame.line}: {message}"
        assert 20 < len(message) < 500 and "\n" not in message, message
        return None


TABLE = "gaussian negative_binomial categorical*2 continuous_bernoulli"
MODELS = [  # likelihood, further settings
    ("bernoulli", {}),
    ("bernoulli", {"binarize": "dynamic", "activation": "tanh"}),
    ("gaussian", {"dtype": "float64"}),
    ("gaussian", {"activation": "softplus"}),
    ("gaussian", {"sigma": "elementwise", "activation": "gelu"}),
    ("gaussian", {"missing": "input", "sigma": 1e-3}),
    ("poisson", {"activation": "leaky_relu"}),
    ("poisson", {"conditional": True}),
    (TABLE, {"missing": "ignore"}),
    (TABLE, {"sigma": "elementwise", "conditional": True}),
]


@functools.cache
def model(number, backend):
    likelihood, further = MODELS[number]
    rng = np.random.default_rng(0)
    table = np.column_stack(
        [rng.random(200), rng.integers(0, 5, 200), np.eye(2)[rng.integers(0, 2, 200)], rng.random(200)]
    )
    data = table if likelihood == TABLE else np.rint(3 * table) if likelihood == "poisson" else table.clip(0, 1)
    vae = VAE(**SMALL | {"epochs": 2, "batch_size": 50}, likelihood=likelihood, backend=backend, **further)
    return vae.fit(data, rng.standard_normal(200) if further.get("conditional") else None)


@settings(max_examples=150 * TRIALS, deadline=None, derandomize=TRIALS == 1)
@given(
    st.integers(0, len(MODELS) - 1), st.sampled_from(BACKENDS), matrices(5), matrices(2), NUMBERS, st.integers(0, 2**40)
)
def test_an_answer_is_a_number_or_a_sentence(number, backend, data, latent, y, seed):
    vae, wild = model(number, backend), {"all": "raise"} if seed % 2 else {}
    y = y if vae.conditional else None
    with np.errstate(**wild), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*likelihood '.*' needs data in", UserWarning)  # that is a sentence
        for call in (vae.transform, vae.reconstruct, vae.score, vae.score_samples, vae.anomaly_score, vae.impute):
            answer = said(lambda call=call: call(data, y=y))
            if answer is not None:
                assert not np.isnan(answer).any(), call
                assert np.isfinite(answer).all() or "score" in call.__name__, call
        per_column = said(lambda: vae.anomaly_score(data, y=y, per_column=True, n_draws=2))
        assert per_column is None or not np.isnan(per_column).any()
        likely = said(lambda: vae.score_samples(data, y=y, n_samples=3))
        assert likely is None or not np.isnan(likely).any()
        for means in (said(lambda: vae.inverse_transform(latent, y=y)), said(lambda: vae.sample(3, y=y, noise=True))):
            assert means is None or np.isfinite(means).all()


@settings(max_examples=60 * TRIALS, deadline=None, derandomize=TRIALS == 1)
@given(
    st.lists(matrices(3), min_size=1, max_size=4).map(np.concatenate),
    st.sampled_from([*BACKENDS, "numpy"]),
    st.sampled_from(["gaussian", "gaussian*2 poisson", "bernoulli", "continuous_bernoulli"]),
    st.sampled_from([{}, {"sigma": "elementwise"}, {"missing": "input"}, {"sigma": 1e-6, "dtype": "float64"}]),
    st.sampled_from([1e-3, 1e3, 1e38]),
    st.booleans(),
)
def test_a_fit_ends_with_numbers_or_a_sentence(data, backend, likelihood, further, rate, strict):
    """A constant column, values near the largest and the smallest number, learning rates without sense."""
    data = np.vstack([np.full((2, 3), 0.5), data]).astype(data.dtype)
    vae = VAE(hidden_dims=4, epochs=2, batch_size=4, backend=backend, random_state=0, validation_fraction=0.0)
    vae.set_params(likelihood=likelihood, learning_rate=rate, **further)
    with np.errstate(all="raise" if strict else "warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        if said(lambda: vae.fit(data)) is not None:
            assert all(np.isfinite(value).all() for record in vae.history_ for value in record.values())
        if hasattr(vae, "network_"):
            assert np.isfinite(vae.network_.get_parameters()).all() or not vae.history_


# ---- Values that are known


def twin_in_float64(vae, **changes):
    """The same model, computed in float64 by the book."""
    double = VAE(**vae.get_params() | {"dtype": "float64", "backend": "numpy"} | changes).fit(X)
    double.network_.set_parameters(vae.network_.get_parameters())
    return double


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_float32_cannot_hold_is_computed_in_float64(backend, activation):
    vae = VAE(**SMALL, likelihood="gaussian", backend=backend, activation=activation).fit(X)
    double, far = twin_in_float64(vae), X[:4].astype(np.float64)
    far[1], far[2], far[3] = 1e37, np.linspace(-3e38, 3e38, 8), np.linspace(-1e60, 2e60, 8)
    far = far if activation == "tanh" else far[:3]
    for ours, right in zip(vae.posterior(far), double.posterior(far)):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, right, rtol=2e-5, atol=1e-6)
    assert vae.score(far) == pytest.approx(double.score(far), rel=1e-5)
    latent = np.array([[0.5, -1], [1e37, 2e37], [3e38, -3e38], [1e60, -2e60]])[: None if activation == "tanh" else 2]
    np.testing.assert_allclose(vae.inverse_transform(latent), double.inverse_transform(latent), rtol=2e-5, atol=1e-6)


def test_rows_without_a_number_are_named(fitted):
    far = np.ones((5, 8))
    far[3] = 1e60
    for call in (fitted.transform, fitted.reconstruct):
        with pytest.raises(
            DataError, match=r"q\(z\|x\) of row 3 .* no finite number in float32; .* fit with dtype='float64'"
        ):
            call(far)
    assert fitted.score_samples(far)[3] == -np.inf and np.isfinite(fitted.score_samples(far)[:3]).all()
    with pytest.raises(
        DataError, match=r"the decoder's mean of row 1 \(counted from 0\) has no finite number in float32"
    ):
        fitted.inverse_transform([[0, 0], [1e60, 1e60]])
    with pytest.raises(DataError, match="Z holds nan at row 1, column 0"):
        fitted.inverse_transform([[0, 0], [np.nan, 0]])
    with pytest.raises(DataError, match="Z holds -inf at row 0, column 1"):
        fitted.inverse_transform([[0, -np.inf]])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("logvar", [-80, 80, 200])
def test_logits_of_1e4_and_logvar_of_80(backend, logvar):
    vae = VAE(**SMALL, backend=backend).fit(X)
    parameters = views(values := vae.network_.get_parameters(), vae.network_.layout)
    parameters["encoder.1.b"][2:] = logvar  # h = [mu | logvar]
    parameters["decoder.0.W"][:] = parameters["decoder.0.b"][:] = 0
    parameters["decoder.1.b"][:] = np.array([1e4, -1e4, 0, 1, 90, -90, 30, -30])
    vae.network_.set_parameters(values)
    double = twin_in_float64(vae)
    np.testing.assert_allclose(vae.inverse_transform([[0, 0]])[0, :4], [1, 0, 0.5, 1 / (1 + np.exp(-1))], rtol=1e-6)
    np.testing.assert_allclose(vae.posterior(X)[1], double.posterior(X)[1], rtol=1e-5)
    assert vae.score(X) == pytest.approx(double.score(X), rel=1e-5)
    assert vae.score(X) < -(np.exp(logvar) if logvar > 0 else 80) / 2


def test_gradient_norms_up_to_the_largest_number_are_alike_everywhere(kernels):
    signs = np.random.default_rng(0).standard_normal(1003)
    for size in (1e-35, 1e-22, 1e-3, 1e18, 1e19, 1e25, 5e36):
        g = (size * signs).astype(np.float32)
        norm = np.linalg.norm(g.astype(np.float64))
        for most in (np.inf, 2 * norm, norm / 3):
            found, clipped = kernels.to_device(np.zeros(1, np.float32)), kernels.to_device(g.copy())
            with np.errstate(over="ignore"):  # as where a program runs
                kernels.clip_global_norm(found, clipped, float(most))
            assert kernels.to_host(found)[0] == pytest.approx(norm, rel=1e-6)
            np.testing.assert_allclose(kernels.to_host(clipped), g * min(1, most / norm), rtol=1e-5)


def test_numpy_set_to_raise_changes_nothing():
    vae = VAE(**SMALL, likelihood="gaussian", backend="numpy").fit(X)
    far = np.vstack([np.linspace(1, 4, 8), np.linspace(-3, 3, 8)]) * 1e153  # whose scores have a sum beyond float64
    with np.errstate(all="raise"):
        loss, gradient = vae.network_.loss_and_gradient(np.full((2, 8), 1e30), np.ones((2, 2)))
        assert vae.score(far * 10) == -np.inf
    assert not np.isfinite(loss) and gradient.shape == (vae.n_parameters_,)


def test_json_has_no_nan():
    value = {"a": [np.nan, 1.0, -np.inf], "b": (np.float64("inf"), None), "c": {"d": float("nan"), "e": "NaN"}}
    assert json_text(value) == '{"a": [null, 1.0, null], "b": [null, null], "c": {"d": null, "e": "NaN"}}'


def test_the_command_line_takes_no_nan_and_prints_none(tmp_path, capsys):
    np.save(tmp_path / "data.npy", X)
    far = X.copy()
    far[0] = 1e38
    np.save(tmp_path / "far.npy", far.astype(np.float64) ** 5)
    train = ["train", str(tmp_path / "data.npy"), "--likelihood", "gaussian", "--epochs", "1", "--no-figures"]
    assert main([*train, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert (
        main(["evaluate", str(tmp_path / "run"), "--data", str(tmp_path / "far.npy"), "--n-samples", "2", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["log_likelihood"] is found["elbo"] is None and found["examples"] == 300
    for wrong in ("nan", "-0.5"):
        assert main(["train", "digits", "--validation-fraction", wrong, "--out", str(tmp_path / "new")]) == 1
        assert "validation_fraction must lie in [0, 1)" in capsys.readouterr().err
