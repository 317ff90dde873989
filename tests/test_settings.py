"""Settings that cannot be: each is refused in one sentence that names it, before anything is allocated."""

from __future__ import annotations

import copy
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_finite import TRIALS, said

from minivae import VAE
from minivae.data import checks


@pytest.fixture(scope="module", autouse=True)
def little_memory():
    """So that no size between sound and absurd is tried out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "memory_limit", lambda: 2**27)
        yield


X = np.random.default_rng(0).random((20, 3)).astype(np.float32)
NAMES = [f.name for f in fields(VAE)]
LONG = 10**400
JUNK = st.sampled_from(
    [LONG, -LONG, 10**5000, 2**63, 2**64, -1, 0, 10**7, np.nan, np.inf, -np.inf, 1e38, 1e308, 1e-320, -0.5, 1.5, 3]
    + ["", "none", "gaussian*99999999999999999999999", "relu relu", "\0", "9" * 5000, b"relu", None, True, False, ...]
    + [
        [],
        (),
        [0],
        [-1],
        [LONG],
        [[1, 2], [3, 4]],
        {1: 2},
        np.zeros((2, 2)),
        np.array(3),
        np.float16(2),
        np.str_("adam"),
    ]
    + [
        object,
        object(),
        "float16",
        np.float16,
        3 + 4j,
        [3, "x"],
        lambda *_: None,
        "wörd",
        "\ud800",
        np.datetime64("2020"),
    ]
)
SOUND = {
    "latent_dim": st.integers(1, 3),
    "hidden_dims": st.sampled_from([4, (), (3, 2), [5]]),
    "activation": st.sampled_from(["relu", "tanh", "gelu"]),
    "likelihood": st.sampled_from(["bernoulli", "gaussian", "gaussian bernoulli gaussian", "continuous_bernoulli"]),
    "sigma": st.sampled_from(["learned", "elementwise", 0.1, 1e-3]),
    "learning_rate": st.sampled_from([1e-3, 1e3, 1e38, 1e39]),
    "optimizer": st.sampled_from(["sgd", "adam", "adamw"]),
    "schedule": st.sampled_from(["step", "cosine"]),
    "decay_every": st.sampled_from([0.5, 1e-300]),
    "decay_factor": st.sampled_from([0.5, 1e300]),
    "decay_growth": st.sampled_from([1.0, 3.0, 1e300]),
    "dtype": st.sampled_from(["float64", np.float32]),
    "epochs": st.integers(1, 2),
    "validation_fraction": st.sampled_from([0.0, 0.5]),
    "missing": st.sampled_from(["ignore", "input"]),
    "max_grad_norm": st.sampled_from([1.0, 1e-30, 1e300]),
}
ANY = st.dictionaries(st.sampled_from(sorted(SOUND)), st.none(), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({name: SOUND[name] for name in chosen})
)


@settings(max_examples=120 * TRIALS, deadline=None, derandomize=TRIALS == 1)
@given(ANY, st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=2), st.booleans())
def test_any_settings_make_a_model_of_numbers_or_a_sentence_that_names_one(sound, junk, strict):
    given = {"hidden_dims": 4, "epochs": 1, "backend": "numpy", "random_state": 0} | sound | junk
    if given["epochs"] is None or (isinstance(given["epochs"], int) and 2 < given["epochs"] < 2**53):
        given["epochs"] = 2
    names = []

    def fit():
        try:
            return VAE(**given).fit(X)
        except (ValueError, TypeError) as error:
            names.extend(name for name in NAMES if name in str(error))
            assert names or "data" in str(error) or "column" in str(error), f"{error} names none of {given}"
            raise

    with np.errstate(all="raise" if strict else "warn"), warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = said(fit)
        if vae is not None:
            assert np.isfinite(vae.network_.get_parameters()).all()
            assert all(np.isfinite(value).all() for record in vae.history_ for value in record.values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"hidden_dims": (10**7, 10**7)},
            r"a network 3-10000000-10000000-2 would take [\d,]{15,} bytes, .*lower hidden",
        ),
        ({"latent_dim": 10**9}, "latent_dim"),
        (
            {"batch_size": 2**64},
            r"batch_size must be a whole number between -2\^63 and 2\^64, not 18446744073709551616",
        ),
        ({"batch_size": 2**63}, r"batch_size must be below 2\^53"),
        ({"learning_rate": LONG}, r"learning_rate must be a number .* not 1000.*\.\.\. \(401 characters of type int\)"),
        ({"learning_rate": 10**5000}, "learning_rate must be .* not something of type int"),
        ({"dtype": "float61"}, "dtype must be 'float32' or 'float64', not 'float61'"),
        ({"dtype": 3}, "dtype must be 'float32' or 'float64', not 3"),
        ({"callbacks": 3}, r"callbacks must be a list of functions f\(vae, record\), not 3"),
        ({"callbacks": [print, "x"]}, "callbacks must be a list of functions"),
        ({"hidden_dims": [[1, 2]]}, r"hidden_dims must be a whole number, not \[1, 2\]"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(given, words):
    with pytest.raises((ValueError, TypeError), match=words):
        VAE(**{"backend": "numpy"} | given).fit(X)


@pytest.fixture(scope="module")
def fitted():
    return VAE(hidden_dims=4, epochs=1, backend="numpy", random_state=0).fit(X)


def test_more_than_memory_holds_is_refused_with_the_bytes(fitted, monkeypatch):
    for call in (
        lambda: fitted.sample(10**12),
        lambda: fitted.score_samples(X, n_samples=10**12),
    ):
        with pytest.raises(
            ValueError, match=r"n_samples=1000000000000 would take [\d,]+ bytes, and this process may use"
        ):
            call()
    with pytest.raises(ValueError, match=r"n_draws=1000000000000 would take [\d,]+ bytes"):
        fitted.anomaly_score(X, n_draws=10**12)
    monkeypatch.setattr(checks, "memory_limit", lambda: 86_000_000)
    with pytest.raises(
        ValueError, match=r"batch_size=18 would take [\d,]+ bytes, and this process may use 86,000,000; lower"
    ):
        VAE(hidden_dims=300_000, batch_size=128, epochs=1, backend="numpy").fit(X)


@pytest.mark.parametrize("path", [3, None, True, b"model.npz", [], "a\0b", Path("a\0b"), "\ud800"])
def test_what_is_no_path_is_not_opened(fitted, path):
    """A number would be a file that is open already: load(0) would wait for standard input."""
    for call in (fitted.save, VAE.load):
        with pytest.raises((TypeError, ValueError), match=r"^path "):
            call(path)


def test_records_packed_without_padding_are_read_as_their_copy(fitted):
    """Rows that lie 13 bytes apart are no whole number of float32 apart, which compiled kernels cannot step over."""
    table = np.zeros(20, dtype=[("x", "f4", (3,)), ("label", "u1")])
    table["x"] = X
    for backend in ("numpy", "numba"):
        try:
            vae = VAE(hidden_dims=4, epochs=2, backend=backend, random_state=0).fit(table["x"])
        except ImportError as error:
            pytest.skip(str(error))
        np.testing.assert_array_equal(vae.transform(table["x"]), copy.copy(vae).transform(X))


def test_a_likelihood_is_refused_before_the_training_where_its_file_could_not_be_read():
    for words in ("gaussian poisson " * 8000, "x" * 81):
        name = "likelihood" if " " in words else "optimizer"
        with pytest.raises(ValueError, match=f"{name} must be one of a few words, not .*characters of type str"):
            VAE(**{name: words}).fit(X)
