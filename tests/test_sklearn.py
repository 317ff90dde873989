"""VAE among scikit-learn's tools: its own checks, frames in and out, searches, pipelines, pickles."""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="runs scikit-learn's own checks")
from sklearn import config_context, exceptions
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV, KFold, RandomizedSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from minivae import VAE, DataError
from minivae.conventions import NotFittedError
from minivae.fitted import SLACK
from minivae.storage.modelfile import ModelFileError

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
WINE = load_wine()
X = StandardScaler().fit_transform(WINE.data)
SMALL = {"hidden_dims": (8,), "epochs": 2, "backend": "numpy"}
RANGE = "bernoulli wants data in [0, 1], and scikit-learn has a tag for values from 0 on alone"


def wine():
    pandas = pytest.importorskip("pandas", reason="makes a frame of the wines")
    return pandas.DataFrame(X, columns=WINE.feature_names)


@pytest.fixture(scope="module")
def fitted():
    return VAE(likelihood="gaussian", **SMALL, random_state=0).fit(X)


# ---- scikit-learn's own checks


no_base = pytest.mark.filterwarnings("ignore:Estimator VAE does not inherit:UserWarning")  # nor shall it


@no_base
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("given", [{"likelihood": "gaussian"}, {"likelihood": "bernoulli", "standardize": True}])
def test_every_check_of_scikit_learn_passes(given, backend):
    if not given.keys() <= set(inspect.signature(VAE).parameters):
        pytest.skip("this VAE has no standardize, without which bernoulli takes [0, 1] alone")
    if backend == "numba":
        pytest.importorskip("numba", reason="the backend under test")
    for _ in range(TRIALS):
        vae = VAE(**given, hidden_dims=(16,), epochs=3, backend=backend)
        results = estimator_checks.check_estimator(vae, on_skip=None, on_fail=None)
        assert len(results) >= 40
        failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
        skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
        assert not failed and skipped <= {"check_array_api_input"}  # which wants another variable and library


@no_base
def test_plain_bernoulli_fails_by_its_range_alone():
    results = estimator_checks.check_estimator(VAE(**SMALL), on_skip=None, on_fail=None)
    for result in results:
        if result["status"] == "failed":
            assert "needs data in [0, 1]; column" in str(result["exception"]), (result["check_name"], RANGE)
    assert sum(result["status"] == "passed" for result in results) >= 20
    negative = next(r for r in results if r["check_name"] == "check_positive_only_tag_during_fit")
    assert negative["status"] == "passed"


@pytest.mark.filterwarnings("ignore:X .*feature names, but VAE:UserWarning")  # they pass frames and arrays in turn
@pytest.mark.parametrize(
    "name",
    [
        "check_dataframe_column_names_consistency",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_get_feature_names_out_error",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
    ],
)
def test_checks_that_scikit_learn_keeps_for_its_own_estimators(name):
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this scikit-learn has no {name}")
    for module in ("pandas", "polars"):
        if module in name or "dataframe" in name:
            pytest.importorskip(module, reason="the frames of this check")
    check("VAE", VAE(likelihood="gaussian", **SMALL, random_state=0))


def test_scikit_learn_is_not_imported_until_asked():
    code = """
import sys, numpy, minivae
X = numpy.random.default_rng(0).normal(size=(40, 3))
vae = minivae.VAE(likelihood="gaussian", hidden_dims=(4,), epochs=1, backend="numpy").fit(X)
vae.transform(X), vae.get_params(), vae.get_feature_names_out(), repr(vae)
assert "sklearn" not in sys.modules
sys.modules["sklearn"] = None
assert vae._repr_html_().startswith("<pre>VAE(")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_an_embedding_does_not_depend_on_the_rows_beside_it(backend):
    """Bit for bit on Numba and in float32 but for a last digit on NumPy, whatever BLAS adds up first."""
    if backend == "numba":
        pytest.importorskip("numba", reason="the backend under test")
    rows = np.random.default_rng(0).normal(size=(150, 40))
    vae = VAE(likelihood="gaussian", hidden_dims=(64, 32), epochs=1, backend=backend, random_state=0).fit(rows)
    order, whole = np.random.default_rng(1).permutation(150), vae.transform(rows)
    for some in (vae.transform(rows[order])[np.argsort(order)], np.vstack([vae.transform(row[None]) for row in rows])):
        np.testing.assert_allclose(some, whole, rtol=3e-7, atol=0)


# ---- Names of columns, and frames that come back


def test_columns_in_another_order_are_an_error_and_unnamed_ones_a_warning(tmp_path):
    frame = wine()
    vae = VAE(likelihood="gaussian", **SMALL, random_state=0).fit(frame)
    assert vae.feature_names_in_.tolist() == list(frame.columns) and vae.feature_names_in_.dtype == object
    vae.save(tmp_path / "m.npz")
    for model in (vae, VAE.load(tmp_path / "m.npz"), pickle.loads(pickle.dumps(vae))):
        with pytest.raises(DataError, match="Feature names must be in the same order as they were in fit"):
            model.score(frame[frame.columns[::-1]])
        with pytest.raises(DataError, match="now missing:\n- alcohol"):
            model.transform(frame.rename(columns={"alcohol": "spirit"}))
        with pytest.warns(UserWarning, match="X does not have valid feature names, but VAE was fitted with"):
            model.transform(X)
    with pytest.raises(DataError, match="same order"):
        VAE(likelihood="gaussian", **SMALL).fit(frame, X_val=frame[frame.columns[::-1]])
    with pytest.warns(UserWarning, match="X has feature names, but VAE was fitted without"):
        vae.fit(X).transform(frame)
    assert not hasattr(vae, "feature_names_in_")


def test_a_failed_fit_keeps_the_names_of_the_model_that_is_there():
    frame = wine()
    vae = VAE(likelihood="gaussian", **SMALL, random_state=0).fit(frame)
    with pytest.raises(DataError, match="NaN"):
        vae.fit(frame.rename(columns={"alcohol": "spirit"}).assign(hue=np.nan))
    assert vae.feature_names_in_[0] == "alcohol" and vae.transform(frame).shape == (178, 2)
    with pytest.raises(TypeError, match="Feature names are only supported if all"):
        vae.fit(frame.rename(columns={"alcohol": 0}))


@pytest.mark.parametrize("names", [["a"] * 13, ["a"], "abc", [1] * 13, None])
def test_a_file_whose_names_are_none_is_refused(names, tmp_path, fitted):
    from minivae.storage import modelfile

    fitted.save(tmp_path / "m.npz")
    keep = modelfile.save

    def save(path, arrays, config):
        keep(path, arrays, config | {"feature_names": names})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modelfile, "save", save)
        fitted.save(tmp_path / "bad.npz")
    if names is None:  # as absent
        assert not hasattr(VAE.load(tmp_path / "bad.npz"), "feature_names_in_")
    else:
        with pytest.raises(ModelFileError, match="feature_names are not a list of 13 names"):
            VAE.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_set_output_gives_frames_and_keeps_the_index(kind, fitted):
    library = pytest.importorskip(kind, reason="the frames under test")
    vae = pickle.loads(pickle.dumps(fitted)).set_output(transform=kind)
    Z = vae.transform(X)
    assert isinstance(Z, library.DataFrame) and list(Z.columns) == ["vae0", "vae1"]
    np.testing.assert_array_equal(Z.to_numpy(), fitted.transform(X))
    np.testing.assert_array_equal(vae.inverse_transform(Z), fitted.inverse_transform(fitted.transform(X)))
    assert isinstance(clone(vae).fit_transform(X), library.DataFrame) and isinstance(vae.reconstruct(X), np.ndarray)
    assert isinstance(vae.set_output(transform="default").transform(X), np.ndarray)
    with config_context(transform_output=kind):
        assert isinstance(fitted.transform(X), library.DataFrame)
        assert isinstance(vae.transform(X), np.ndarray)  # its own word goes first
    with pytest.raises(ValueError, match="set_output knows"):
        vae.set_output(transform="table")
    if kind == "pandas":
        frame = wine().set_index(np.arange(178) * 3 + 1)
        Z = VAE(likelihood="gaussian", **SMALL).set_output(transform="pandas").fit_transform(frame)
        assert Z.index.equals(frame.index)


def test_column_transformer_and_pipeline():
    frame = wine()
    parts = ColumnTransformer(
        [("vae", make_pipeline(StandardScaler(), VAE(likelihood="gaussian", **SMALL)), ["alcohol", "hue", "ash"])],
        remainder="passthrough",
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    Z = parts.fit_transform(frame)
    assert list(Z.columns)[:2] == ["vae0", "vae1"] and Z.shape == (178, 12)
    pipe = make_pipeline(StandardScaler(), VAE(likelihood="gaussian", **SMALL, random_state=0)).fit(X)
    by_hand = pipe[0].inverse_transform(pipe[1].inverse_transform(pipe.transform(X)))
    np.testing.assert_array_equal(pipe.inverse_transform(pipe.transform(X)), by_hand)


# ---- Values that leave [0, 1] behind a scaler


def test_held_out_values_a_little_out_of_range_are_used_and_said():
    unit = MinMaxScaler().fit_transform(X).clip(0, 1)
    vae = VAE(**SMALL, random_state=0).fit(unit)
    beyond = unit.copy()
    beyond[3, 5], beyond[4, 7] = 1.02, -0.01
    words = r"column 5 reaches 1.02 and is used as it is; MinMaxScaler\(clip=True\)"
    for method in (vae.transform, vae.score, vae.score_samples, vae.anomaly_score, vae.reconstruct):
        with pytest.warns(UserWarning, match=words) as told:
            assert np.isfinite(method(beyond)).all()
        assert len(told) == 1
    with pytest.warns(UserWarning, match=f"X_val: .*{words}"):
        VAE(**SMALL).fit(unit, X_val=beyond)
    for far, how in ((1 + SLACK + 0.1, "reaches 2.1"), (-SLACK - 0.1, "falls to -1.1")):
        beyond[3, 5] = far
        with pytest.raises(DataError, match=f"column 5 {how}"):
            vae.score(beyond)
    beyond[3, 5] = 1.02
    for method in (vae.fit, vae.partial_fit):
        with pytest.raises(DataError, match="column"):
            method(beyond)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(vae.score(unit))


def test_searches_and_cross_validation():
    pipe = make_pipeline(MinMaxScaler(), VAE(**SMALL, random_state=0))
    folds = KFold(3, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X: likelihood 'bernoulli' needs")
        assert np.isfinite(cross_validate(pipe, X, cv=folds)["test_score"]).all()
        search = RandomizedSearchCV(pipe, {"vae__beta": [0.5, 1.0, 2.0]}, n_iter=2, cv=folds, random_state=0).fit(X)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_grid_search_in_two_processes_with_a_callback_that_pickle_cannot_take():
    vae = VAE(likelihood="gaussian", **SMALL, random_state=0, callbacks=[lambda vae, record: None])
    grid = {"latent_dim": [1, 2]}
    found = GridSearchCV(vae, grid, n_jobs=2, cv=2).fit(X).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(found, GridSearchCV(vae, grid, cv=2).fit(X).cv_results_["mean_test_score"])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(vae)
    kept = pickle.loads(pickle.dumps(vae.set_params(callbacks=[print])))
    assert kept.callbacks == [print]


# ---- Seeds, being fitted, how it looks


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_a_generator_gives_the_seed(kind, tmp_path):
    vae = VAE(likelihood="gaussian", **SMALL, random_state=kind(7)).fit(X)
    again = clone(VAE(likelihood="gaussian", **SMALL, random_state=kind(7))).fit(X)
    assert vae.seed_ == again.seed_ and vae.score(X) == again.score(X)
    assert vae.fit(X).seed_ != again.seed_  # the generator has moved on
    assert 0 <= vae.seed_ < 2**32
    vae.save(tmp_path / "m.npz")
    loaded = VAE.load(tmp_path / "m.npz")
    assert loaded.seed_ == vae.seed_ and loaded.random_state is None
    np.testing.assert_array_equal(vae.sample(3, random_state=kind(1)), vae.sample(3, random_state=kind(1)))
    state = kind(7)
    with pytest.raises(DataError):
        VAE(random_state=state, **SMALL).fit([[np.nan]])
    assert VAE(likelihood="gaussian", **SMALL, random_state=state).fit(X).seed_ == again.seed_  # nothing was drawn


def test_unfitted_models_say_so_in_scikit_learns_own_error(fitted):
    with pytest.raises(exceptions.NotFittedError, match="call fit") as caught:
        VAE().transform(X)
    assert type(pickle.loads(pickle.dumps(caught.value))) is NotFittedError and isinstance(caught.value, NotFittedError)
    with pytest.raises(exceptions.NotFittedError):
        check_is_fitted(VAE())
    check_is_fitted(fitted)


def test_a_notebook_shows_it_as_it_shows_estimators(fitted):
    assert "sk-estimator" in fitted._repr_html_() and "VAE" in fitted._repr_html_()
    assert "VAE" in make_pipeline(StandardScaler(), fitted)._repr_html_()
