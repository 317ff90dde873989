"""Never a silent NaN: a finite, right result, an infinity where that is the value, or one sentence."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from minivae import VAE, NotFinite
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
    arrays = dict(np.load(tmp_path / "good.npz"))
    arrays["decoder.0.W"][0, 0] = np.inf
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ModelFileError, match=r"bad.npz does not describe a model \(the parameter 'decoder.0.W' holds"):
        VAE.load(tmp_path / "bad.npz")
