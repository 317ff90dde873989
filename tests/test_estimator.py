"""VAE(...): shapes, meanings, files, and what it says about wrong input."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from minivae import VAE, DataError
from minivae.modelfile import ModelFileError, load, write_atomically


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
    l1, l50 = (trained.score_samples(digits[1], n_samples=k).mean() for k in (1, 50))
    assert l1 < l50 and elbo.mean() < l50
    assert l1 == pytest.approx(elbo.mean(), abs=0.5)  # the same bound, one with a sampled KL


def test_sample_depends_on_its_seed_only(trained):
    np.testing.assert_array_equal(trained.sample(3), trained.sample(3))
    np.testing.assert_allclose(trained.sample(5)[:3], trained.sample(3), rtol=1e-5, atol=1e-6)
    assert np.abs(trained.sample(3, random_state=1) - trained.sample(3)).max() > 0.01


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
    assert vae.history_[-1]["val_loss"] < vae.history_[0]["val_loss"]
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
    again.partial_fit(digits[0])
    assert again.history_[-1]["epoch"] == trained.history_[-1]["epoch"] + 1


def test_model_file_opens_with_numpy_alone_and_holds_no_pickle(trained, tmp_path):
    trained.save(tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["encoder.0.W"], trained.network_.named["encoder.0.W"])
        assert json.loads(archive["config.json"].tobytes())["format_version"] == 1


@pytest.mark.parametrize("damage", ["truncate", "not a model", "npy", "empty", "version", "missing array", "shape"])
def test_damaged_model_files_are_one_clear_error(trained, tmp_path, damage):
    path = tmp_path / "model.npz"
    trained.save(path)
    arrays, config = load(path)
    blob = json.dumps(config)
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
            blob = json.dumps(config | {"format_version": 99})
        elif damage == "missing array":
            del arrays["decoder.0.b"]
        else:
            arrays["decoder.0.b"] = np.zeros(3, np.float32)
        np.savez(path, **arrays, **{"config.json": np.frombuffer(blob.encode(), np.uint8)})
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
    ({}, lambda x: x * 16, r"needs data in \[0, 1\]; column \d+ reaches 16; divide by 16"),
    ({}, lambda x: x - 1, r"column \d+ falls to -1"),
    ({}, lambda x: np.where(np.arange(64) == 5, np.nan, x), r"NaN at row 0, column 5"),
    (
        {"likelihood": "gaussian"},
        lambda x: np.where(np.arange(64) == 5, np.inf, x),
        r"infinite value at row 0, column 5",
    ),
    ({}, lambda x: x[:0], r"0 rows"),
    ({}, lambda x: x[0], r"shape \(64,\)"),
    ({}, lambda x: x.reshape(-1, 8, 8), r"reshape\(len\(X\), -1\)"),
    ({}, lambda x: x.astype(str), r"not real numbers"),
    ({}, lambda x: x[:1], r"holding out"),
    ({"likelihood": "poisson"}, lambda x: x, r"likelihood 'poisson' is not one of bernoulli, gaussian"),
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
    ({"divide_by": 0}, lambda x: x, r"divide_by=0 must be a positive"),
    ({"validation_fraction": 1.5}, lambda x: x, r"holding out a fraction of 1.5"),
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
    with pytest.raises(TypeError, match="random_state must be an integer"):
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
