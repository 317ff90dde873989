"""Never a silent NaN: a finite, right result, an infinity where that is the value, or one sentence."""

from __future__ import annotations

import copy
import functools
import os
import traceback
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivae import VAE, DataError, NotFinite
from minivae.kernels import availability
from minivae.modelfile import ModelFileError

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
        VAE(**SMALL, free_bits=1.5e308, backend="numpy").fit(X)


def test_a_model_made_non_finite_by_hand_is_neither_saved_nor_loaded_nor_used(fitted, tmp_path):
    fitted.save(tmp_path / "good.npz")
    broken = copy.copy(fitted)
    values = broken.network_.get_parameters()
    values[-1] = np.nan  # log_sigma, the last of all
    broken.network_.set_parameters(values)
    with pytest.raises(NotFinite, match="parameter 'log_sigma' holds a NaN or an infinity"):
        broken.save(tmp_path / "bad.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["good.npz"]
    parts = dict(np.load(tmp_path / "good.npz"))
    parts["decoder.0.W"][0, 0] = np.inf
    np.savez(tmp_path / "bad.npz", **parts)
    with pytest.raises(ModelFileError, match=r"bad.npz does not describe a model \(the parameter 'decoder.0.W' holds"):
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
