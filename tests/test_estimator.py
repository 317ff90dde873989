"""VAE(...): shapes, meanings, files, and what it says about wrong input."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
import subprocess
import sys

import numpy as np
import pytest
from attacks import forge
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from minivae import VAE, DataError
from minivae.evaluation.scores import log_likelihood
from minivae.storage.durable import write_atomically
from minivae.storage.modelfile import ModelFileError


def test_shapes_and_ranges(trained, digits):
    z = trained.transform(digits[1])
    assert z.shape == (297, 2) and trained.inverse_transform(z).shape == (297, 64)
    for images in (trained.sample(5), trained.reconstruct(digits[1][:5])):
        assert images.shape == (5, 64) and images.min() >= 0 and images.max() <= 1


def test_transform_is_the_posterior_mean_and_does_not_sample(trained, digits):
    np.testing.assert_array_equal(trained.transform(digits[1]), trained.transform(digits[1]))
    alone = trained.transform(digits[1][:1])
    np.testing.assert_allclose(alone, trained.transform(digits[1])[:1], rtol=1e-4, atol=1e-5)


def test_reconstruction_is_closer_than_the_mean_image(trained, digits):
    error = np.square(trained.reconstruct(digits[1]) - digits[1]).mean()
    assert error < 0.75 * np.square(digits[0].mean(axis=0) - digits[1]).mean()


def test_scores_are_lower_bounds_in_the_right_order(trained, digits):
    elbo = trained.score_samples(digits[1])
    assert elbo.shape == (297,) and trained.score(digits[1]) == pytest.approx(elbo.mean())
    l50 = trained.score_samples(digits[1], n_samples=50).mean()
    assert elbo.mean() < l50
    # of one draw it is the same bound with a sampled KL, on average over the noise that all rows share
    examples = trained.examples(digits[1])
    l1 = np.mean([log_likelihood(trained.network_, examples, 1, seed).mean() for seed in range(200)])
    assert l1 == pytest.approx(elbo.mean(), abs=0.3)


def test_sample_depends_on_its_seed_only(trained):
    once, again = trained.sample(3, random_state=0), trained.sample(3, random_state=0)
    np.testing.assert_array_equal(once, again)
    np.testing.assert_allclose(trained.sample(5, random_state=0)[:3], once, rtol=1e-5, atol=1e-6)
    assert np.abs(trained.sample(3, random_state=1) - once).max() > 0.01


def test_partial_fit_learns_from_pieces(digits):
    vae = VAE(hidden_dims=(32,), batch_size=32, random_state=0)
    scores = []
    for _ in range(6):
        for piece in np.array_split(digits[0], 3):
            vae.partial_fit(piece)
        scores.append(vae.score(digits[1]))
    assert len(vae.history_) == 18 and vae.history_[-1]["step"] == 18 * 16
    assert scores[-1] > scores[0] + 5


@pytest.mark.parametrize("sigma", [0.5, "learned", "elementwise"])
def test_gaussian_forms_train_on_data_outside_the_unit_interval(digits, sigma):
    data = 3 + 2 * digits[0].astype(np.float64)
    vae = VAE(hidden_dims=(32,), likelihood="gaussian", sigma=sigma, epochs=10, batch_size=32, random_state=0)
    vae.fit(data)
    losses = [record["val_loss"] for record in vae.history_]  # a variance for each pixel makes them jump
    assert min(losses[1:]) < losses[0]
    error = np.square(vae.reconstruct(data) - data).mean()
    assert error < data.var(axis=0).mean()


def test_learned_sigma_ends_near_the_residual_spread(digits):
    vae = VAE(
        4, hidden_dims=(64,), likelihood="gaussian", epochs=150, learning_rate=3e-3, batch_size=32, random_state=0
    )
    vae.fit(digits[0])
    sigma = float(np.exp(vae.network_.named["log_sigma"][0]))
    residual = np.sqrt(np.square(vae.reconstruct(digits[0]) - digits[0]).mean())
    # the optimum is the root mean squared error at sampled z, a little above the one at the posterior mean
    assert residual < sigma < 1.3 * residual


def test_save_and_load_give_the_same_model(trained, digits, tmp_path):
    trained.save(tmp_path / "model.npz")
    again = VAE.load(tmp_path / "model.npz")
    assert again.get_params() == trained.get_params() | {"backend": "auto"}
    assert again.history_ == json.loads(json.dumps(trained.history_))
    np.testing.assert_array_equal(again.transform(digits[1]), trained.transform(digits[1]))
    assert again.score(digits[1]) == trained.score(digits[1])
    np.testing.assert_array_equal(again.held_rows_, trained.held_rows_)
    again.partial_fit(digits[0])
    assert again.held_rows_.size == 0
    assert again.history_[-1]["epoch"] == trained.history_[-1]["epoch"] + 1


def test_model_file_opens_with_numpy_alone_and_holds_no_pickle(trained, tmp_path):
    trained.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["encoder.0.W"], trained.network_.named["encoder.0.W"])
        assert json.loads(archive["config.json"].tobytes())["format_version"] == 2


@pytest.mark.parametrize("damage", ["truncate", "not a model", "npy", "empty", "version", "missing array", "shape"])
def test_damaged_model_files_are_one_clear_error(trained, tmp_path, damage):
    path = tmp_path / "model.npz"
    trained.save(path)
    arrays, config = forge.entries(path), forge.config(path)
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "not a model":
        np.savez(path, a=np.zeros(3))
    elif damage == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        if damage == "version":
            config["format_version"] = 99
        elif damage == "missing array":
            del arrays["decoder.0.b"]
        else:
            arrays["decoder.0.b"] = np.zeros(3, np.float32)
        forge.model(path, arrays, config)
    with pytest.raises(ModelFileError, match=r"model\.npz"):
        VAE.load(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.npz"]


WRONG = [
    ({}, lambda x: x * 16, r"needs data in \[0, 1\]; column \d+ reaches 16; scale the columns"),
    ({}, lambda x: x - 1, r"column \d+ falls to -1"),
    ({}, lambda x: np.where(np.arange(64) == 5, np.nan, x), r"NaN at row 0, column 5"),
    (
        {"likelihood": "gaussian"},
        lambda x: np.where(np.arange(64) == 5, np.inf, x),
        r"infinite value at row 0, column 5",
    ),
    ({}, lambda x: x[:0], r"0 sample\(s\)"),
    ({}, lambda x: x[0], r"shape \(64,\)"),
    ({}, lambda x: x.reshape(-1, 8, 8), r"reshape\(len\(X\), -1\)"),
    ({}, lambda x: x.astype(str), r"not real numbers"),
    ({"validation_fraction": 0.1}, lambda x: x[:1], r"holding out .* leaves none held out; set validation_fraction=0"),
    ({"likelihood": "cauchy"}, lambda x: x, r"likelihood 'cauchy' is not one of bernoulli, "),
    ({"activation": "swish"}, lambda x: x, r"activation 'swish' is not one of"),
    ({"latent_dim": 0}, lambda x: x, r"latent_dim needs positive whole numbers, not 0"),
    ({"hidden_dims": (8, -1)}, lambda x: x, r"hidden_dims needs positive whole numbers, not -1"),
    ({"likelihood": "gaussian", "sigma": 0.0}, lambda x: x, r"sigma must be a positive number"),
    ({"optimizer": "adagrad"}, lambda x: x, r"optimizer 'adagrad' is not one of"),
    ({"learning_rate": -1.0}, lambda x: x, r"learning_rate must be a positive number, not -1"),
    ({"beta": -1.0}, lambda x: x, r"beta must be 0 or a positive number"),
    ({"batch_size": 0}, lambda x: x, r"batch_size must be at least 1"),
    ({"epochs": 0}, lambda x: x, r"epochs must be at least 1"),
    ({"binarize": "sometimes"}, lambda x: x, r"binarize 'sometimes' is not one of"),
    ({"dtype": "float16"}, lambda x: x, r"dtype must be 'float32' or 'float64'"),
    ({"init": "zeros"}, lambda x: x, r"init 'zeros' is not one of"),
    ({"output_bias": "one"}, lambda x: x, r"output_bias 'one' is not one of"),
    ({"backend": "tpu"}, lambda x: x, r"backend 'tpu' is not one of"),
    ({"random_state": -1}, lambda x: x, r"random_state must lie in"),
    ({"divide_by": 0}, lambda x: x, r"divide_by=0.0 must be a positive"),
    ({"validation_fraction": 1.5}, lambda x: x, r"validation_fraction must lie in \[0, 1\), not 1.5"),
]


@pytest.mark.parametrize(("settings", "change", "message"), WRONG, ids=[w[2][:30] for w in WRONG])
def test_wrong_input_is_one_sentence_and_the_fitted_model_stays(settings, change, message, digits):
    vae = VAE(hidden_dims=(8,), epochs=1, random_state=0).fit(digits[0])
    before = vae.network_.get_parameters()
    vae.set_params(**settings)
    with pytest.raises(ValueError, match=message) as caught:
        vae.fit(change(digits[0]))
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(vae.network_.get_parameters(), before)


def test_using_it_wrongly_says_how(trained, digits):
    with pytest.raises(ValueError, match=r"not fitted yet; call fit"):
        VAE().transform(digits[1])
    with pytest.raises(DataError, match="64"):
        trained.transform(digits[1][:, :10])
    with pytest.raises(DataError, match="latent_dim=2"):
        trained.inverse_transform(np.zeros((3, 5)))
    with pytest.raises(ValueError, match="no parameter 'latent_dims'"):
        trained.set_params(latent_dims=3)
    with pytest.raises(ValueError, match="give one of them"):
        VAE(validation_fraction=0.1).fit(digits[0], X_val=digits[1])
    with pytest.raises(TypeError, match="random_state must be a whole number"):
        VAE(random_state="seed").fit(digits[0])


def test_follows_scikit_learns_conventions(digits):
    vae = VAE(3, hidden_dims=(8,), likelihood="gaussian", epochs=2, random_state=0)
    assert clone(vae).get_params() == vae.get_params()
    assert repr(vae) == "VAE(latent_dim=3, hidden_dims=(8,), likelihood='gaussian', epochs=2, random_state=0)"
    z = make_pipeline(StandardScaler(), vae).fit_transform(digits[0])
    assert z.shape == (1500, 3)


def test_import_is_light():
    """No NumPy, no tqdm, nothing heavy at import: only what is used is loaded."""
    code = (
        "import sys, minivae; print([m for m in ('numpy', 'tqdm', 'scipy', 'matplotlib', 'numba') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_core_needs_only_numpy_and_tqdm(tmp_path):
    """Fit, score, save and load with every optional package made unimportable."""
    code = """
import sys
for name in ("scipy", "matplotlib", "numba", "sklearn", "PIL", "torch", "cupy", "threadpoolctl"):
    sys.modules[name] = None
import minivae
data = minivae.load_dataset("digits")
vae = minivae.VAE(hidden_dims=(16,), epochs=1, random_state=0).fit(data.train)
vae.save(sys.argv[1])
print(minivae.VAE.load(sys.argv[1]).score(data.test))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.npz")], capture_output=True, text=True, check=True
    )
    assert -60 < float(result.stdout) < -20


# ---- What is decided in fit holds afterwards


def test_uint8_that_is_yes_and_no_is_not_divided(digits):
    bits = (digits[0] > 0.5).astype(np.uint8)
    vae = VAE(hidden_dims=(8,), epochs=2, random_state=0).fit(bits)
    as_floats = VAE(hidden_dims=(8,), epochs=2, random_state=0).fit(bits.astype(np.float32))
    assert vae.divide_by_ == 1
    np.testing.assert_array_equal(vae.network_.get_parameters(), as_floats.network_.get_parameters())


def test_the_divisor_is_decided_in_fit_and_saved(digits, tmp_path):
    pixels = np.round(digits[0] * 255).astype(np.uint8)
    VAE(hidden_dims=(8,), epochs=1, random_state=0).fit(pixels).save(tmp_path / "m.npz")
    vae = VAE.load(tmp_path / "m.npz")
    assert vae.divide_by_ == 255
    dark = np.minimum(pixels[:5], 1)  # holds only 0 and 1, but the model has learned that 255 is white
    np.testing.assert_array_equal(vae.transform(dark), vae.transform(dark / np.float32(255)))
    with pytest.raises(DataError, match="needs data in"):
        vae.transform(pixels.astype(np.float32))
    explicit = VAE(hidden_dims=(8,), epochs=1, random_state=0, divide_by=255).fit(pixels)
    np.testing.assert_array_equal(explicit.transform(pixels), explicit.transform(pixels.astype(np.float32)))


def test_a_gaussian_refuses_pixels_where_it_learned_numbers_and_the_reverse(digits):
    pixels = np.round(digits[0] * 255).astype(np.uint8)
    vae = VAE(hidden_dims=(8,), likelihood="gaussian", epochs=1, random_state=0)
    with pytest.raises(DataError, match=r"fitted on uint8 pixels divided by 255, and X is float32; pass uint8"):
        vae.fit(pixels).transform(digits[1])
    with pytest.raises(DataError, match=r"fitted on uint8 pixels divided by 255, and X_val is float32"):
        vae.fit(pixels, X_val=digits[1])
    with pytest.raises(DataError, match=r"fitted on numbers other than uint8 divided by 1, and X is uint8"):
        vae.fit(digits[0]).score(pixels)


def test_embeddings_see_grey_values_whatever_binarize_says(digits):
    vae = VAE(hidden_dims=(8,), epochs=1, binarize="static", random_state=0).fit(digits[0])
    mu = vae.transform(digits[1])
    np.testing.assert_allclose(vae.transform(digits[1][5:6]), mu[5:6], rtol=1e-4, atol=1e-6)  # a row has no noise
    vae.settings_["binarize"] = "none"
    np.testing.assert_array_equal(vae.transform(digits[1]), mu)


def test_a_fitted_model_does_not_follow_settings_changed_later(digits, tmp_path):
    vae = VAE(hidden_dims=(8,), epochs=1, binarize="dynamic", random_state=0).fit(digits[0])
    before = vae.sample(2, random_state=1), vae.transform(digits[1]), vae.score(digits[1])
    vae.set_params(latent_dim=5, hidden_dims=(3,), likelihood="gaussian", divide_by=7, binarize="none", dtype="float64")
    after = vae.sample(2, random_state=1), vae.transform(digits[1]), vae.score(digits[1])
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    vae.save(tmp_path / "m.npz")
    again = VAE.load(tmp_path / "m.npz")
    assert again.latent_dim == 2 and again.score(digits[1]) == before[2]


@pytest.mark.parametrize("hidden_dims", [12, np.int64(12), [12], np.array([12]), (np.int32(12),)])
def test_numpys_numbers_and_other_sequences_are_settings_too(hidden_dims, digits, tmp_path):
    vae = VAE(np.int64(3), hidden_dims=hidden_dims, beta=np.float32(0.5), epochs=np.int32(1), random_state=np.uint8(1))
    vae.set_params(nesterov=np.bool_(True), dtype=np.float64, sigma=np.float64(0.5), likelihood="gaussian")
    vae.fit(digits[0])
    repr(vae)
    vae.save(tmp_path / "m.npz")
    again = VAE.load(tmp_path / "m.npz")
    assert again.hidden_dims == (12,) and (again.latent_dim, again.beta, again.dtype) == (3, 0.5, "float64")
    np.testing.assert_array_equal(again.transform(digits[1]), vae.transform(digits[1]))


WRONG_TYPES = [
    ({"epochs": 2.5}, "epochs must be a whole number or None, not 2.5"),
    ({"batch_size": 32.0}, "batch_size must be a whole number or None, not 32.0"),
    ({"learning_rate": "0.1"}, "learning_rate must be a number, not '0.1'"),
    ({"beta": None}, "beta must be a number, not None"),
    ({"sigma": None, "likelihood": "gaussian"}, "sigma must be a number or a string, not None"),
    ({"latent_dim": "2"}, "latent_dim must be a whole number, not '2'"),
    ({"latent_dim": True}, "latent_dim must be a whole number, not True"),
    ({"hidden_dims": ("a",)}, "hidden_dims must be a whole number, not 'a'"),
    ({"activation": None}, "activation must be a string, not None"),
    ({"nesterov": "no"}, "nesterov must be True or False, not 'no'"),
    ({"patience": 0}, "patience must be at least 1, not 0"),
    ({"patience": 1.5}, "patience must be a whole number or None, not 1.5"),
    ({"validation_fraction": float("nan")}, r"validation_fraction must lie in \[0, 1\), not nan"),
    ({"validation_fraction": -0.1}, r"validation_fraction must lie in \[0, 1\), not -0.1"),
    ({"validation_fraction": 1}, r"validation_fraction must lie in \[0, 1\), not 1"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG_TYPES, ids=[w[1][:30] for w in WRONG_TYPES])
def test_a_setting_of_the_wrong_type_is_one_sentence_before_the_data_are_looked_at(settings, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        VAE(**settings).fit("no data")
    assert "\n" not in str(caught.value)


def test_counts_are_whole_numbers(trained, digits):
    for call in (trained.sample, lambda n: trained.score_samples(digits[1], n_samples=n)):
        with pytest.raises(TypeError, match=r"n_samples must be a whole number, not 2\.5"):
            call(2.5)
        with pytest.raises(ValueError, match="n_samples must be at least 1, not 0"):
            call(0)


def test_of_too_few_rows_none_is_held_out_unless_it_is_asked_for(digits):
    assert VAE(epochs=1).fit(digits[0][:4]).held_rows_.size == 0
    with pytest.raises(DataError, match=r"leaves none held out; pass one from 0.25 to 0.75, or validation_fraction=0$"):
        VAE(epochs=1, validation_fraction=0.1).fit(digits[0][:4])
    assert VAE(epochs=1, validation_fraction=0.25).fit(digits[0][:4]).held_rows_.size == 1
    with pytest.raises(ValueError, match="patience needs a held-out part to watch; pass X_val, or a validation_fract"):
        VAE(epochs=1, patience=1).fit(digits[0][:4])


def test_grid_search_works(digits):
    search = GridSearchCV(VAE(hidden_dims=(8,), epochs=2, random_state=0), {"latent_dim": [1, 3]}, cv=2)
    search.fit(digits[0][:200])
    assert search.best_params_["latent_dim"] in (1, 3) and np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.transform(digits[1]).shape == (297, search.best_params_["latent_dim"])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda vae: pickle.loads(pickle.dumps(vae))])
def test_a_fitted_model_can_be_pickled_and_copied(duplicate, digits):
    vae = VAE(hidden_dims=(8,), random_state=0).partial_fit(digits[0])
    again = duplicate(vae)
    np.testing.assert_array_equal(again.transform(digits[1]), vae.transform(digits[1]))
    before = vae.network_.get_parameters()
    again.history_ = list(again.history_)
    again.partial_fit(digits[0])
    np.testing.assert_array_equal(vae.network_.get_parameters(), before)  # the copy has its own
    vae.partial_fit(digits[0])  # and goes on as the original would: the moments are there
    np.testing.assert_array_equal(again.network_.get_parameters(), vae.network_.get_parameters())
    assert duplicate(VAE(3)).latent_dim == 3


def test_model_file_holds_named_arrays_and_nothing_else(trained, tmp_path):
    trained.save(tmp_path / "model.npz", include_optimizer=False)
    with np.load(tmp_path / "model.npz") as archive:
        names = {name for name, _ in trained.network_.layout}
        assert set(archive.files) == names | {"held_rows", "history", "units", "config.json", "sha256"}


def test_a_backend_that_is_not_there_is_not_the_files_fault(trained, tmp_path):
    trained.save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="backend 'numbaa' is not one of") as caught:
        VAE.load(tmp_path / "model.npz", backend="numbaa")
    assert not isinstance(caught.value, ModelFileError)


def test_shapes_are_checked_before_a_network_is_made(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "model.npz")
    config = forge.config(tmp_path / "model.npz") | {"data_dim": 2**31 - 1}  # would be terabytes
    forge.model(tmp_path / "model.npz", forge.entries(tmp_path / "model.npz"), config)
    with pytest.raises(ModelFileError, match=r"encoder.0.W has shape \(64, 64\)"):
        VAE.load(tmp_path / "model.npz")


def test_writing_where_nothing_can_be_written_names_the_path_only(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"where model.npz should go, is not a folder; create it first"):
        trained.save(tmp_path / "nowhere" / "model.npz")
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken") as caught:
        trained.save(tmp_path / "taken")
    assert ".minivae-" not in str(caught.value) and os.listdir(tmp_path) == ["taken"]


def test_a_fit_says_nothing_unless_asked(digits, capfd):
    VAE(hidden_dims=(8,), epochs=1, random_state=0, backend="numpy").fit(digits[0][:50])
    assert capfd.readouterr() == ("", "")
    VAE(hidden_dims=(8,), epochs=1, random_state=0, backend="numpy", verbose=1).fit(digits[0][:50])
    assert "epoch    1" in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="other systems have no file modes like these")
@pytest.mark.parametrize("umask, mode", [(0, 0o666), (0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_saved_file_is_as_readable_as_any_other_that_the_user_makes(trained, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        trained.save(tmp_path / "model.npz")
        assert os.umask(umask) == umask  # what saving looks up, it leaves as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.npz").stat().st_mode) == mode
