"""Laws that no larger test depends on: defaults, limits and last resorts. Most were found by generated mutants."""

from __future__ import annotations

import os
import tempfile

import numpy as np
import pytest

from minivae import VAE, DataError, randomness
from minivae.architecture import Architecture
from minivae.data import files
from minivae.data.batches import Examples, holdout
from minivae.data.checks import summarize
from minivae.evaluation import active_units
from minivae.kernels import bind, load
from minivae.modelfile import write_atomically
from minivae.parameters import size, views


def test_a_stream_begins_with_step_and_example_zero():
    for draw in (randomness.normal, randomness.uniform):
        np.testing.assert_array_equal(draw((3, 2), 5, 1), draw((3, 2), 5, 1, step=0, first_example=0))
    np.testing.assert_array_equal(randomness.permutation(9, 5, 1), randomness.permutation(9, 5, 1, step=0))


def test_static_pixels_are_those_of_step_zero():
    kernels, data = load("numpy"), np.full((6, 5), 0.5)
    arrays = {"data": data, "rows": np.array([4, 0, 2]), "x": np.empty((3, 5)), "u": np.empty((3, 5))}
    bind(kernels, Examples(data, np.arange(6), 1.0, "static").batch_program(seed=8), arrays)()
    u = randomness.uniform((6, 5), 8, randomness.BINARIZE_STATIC, step=0)
    np.testing.assert_array_equal(arrays["x"], u[[4, 0, 2]] < 0.5)


def test_active_units_are_counted_over_the_examples():
    mu = np.array([[0.0, 1.0, 5.0], [0.0, -1.0, 5.05], [0.0, 1.0, 5.0], [0.0, -1.0, 5.0]])
    assert active_units(mu).tolist() == [False, True, False]


def test_an_order_may_be_any_sequence():
    train, held = holdout(4, 0.5, [3, 1, 0, 2])
    assert train.tolist() == [0, 2] and held.tolist() == [1, 3]


def test_a_nan_among_chosen_rows_is_named_by_its_row_in_the_data():
    X = np.zeros((9, 3))
    X[7, 1] = np.nan
    with pytest.raises(DataError, match="NaN at row 7, column 1"):
        summarize(X, rows=np.array([2, 5, 7, 8]))


def test_images_that_need_more_than_the_limit_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for name in ("a.png", "b.png"):
        image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(files, "MAX_BYTES", 31)
    with pytest.raises(DataError, match="need more than 31 bytes"):
        files.read_image_folder(tmp_path)
    monkeypatch.setattr(files, "MAX_BYTES", 32)
    assert files.read_image_folder(tmp_path).shape == (2, 4, 4)


def test_a_flat_vector_of_another_length_is_no_parameters():
    layout = [("W", (2, 3)), ("b", (3,))]
    assert size(layout) == 9
    for wrong in (np.zeros(8), np.zeros(10), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="need a flat vector of 9 numbers"):
            views(wrong, layout)


def test_batches_of_one_and_held_out_rows_as_a_list_train(digits):
    X = digits[0][:6]
    vae = VAE(hidden_dims=(3,), epochs=1, batch_size=1, random_state=0).fit(X.tolist(), X_val=X.tolist())
    assert vae.history_[0]["step"] == 6 and "val_loss" in vae.history_[0]


def test_architecture_takes_one_column_and_one_latent():
    assert Architecture(1, 1, (1,)).data_dim == 1


# ---- Writing


def test_the_file_and_then_its_folder_are_brought_to_disk(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def kind(handle):
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", kind)
    monkeypatch.setattr(os, "replace", lambda *given: done.append("rename") or replace(*given))
    write_atomically(tmp_path / "x", lambda file: file.write(b"x"))
    if os.path.isdir("/proc/self/fd"):
        assert done == ["file", "rename", "folder"]


def test_a_folder_that_takes_no_file_is_an_error_with_the_path(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "model.npz", lambda file: None)
    assert caught.value.filename == str(tmp_path / "model.npz")
