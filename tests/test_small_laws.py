"""Laws that no larger test depends on: defaults, limits and last resorts. Most were found by generated mutants."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minivae import VAE, DataError, NotFinite, processors, randomness
from minivae.architecture import Architecture
from minivae.data import checks, files, pictures
from minivae.data.batches import Examples, holdout
from minivae.data.checks import summarize
from minivae.evaluation.inference import active_units
from minivae.kernels import bind, load
from minivae.parameters import size, views
from minivae.storage.durable import write_atomically


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
    X[5, 1] = np.nan
    with pytest.raises(DataError, match="NaN at row 5, column 1"):
        summarize(X, rows=np.array([2, 5, 7, 8]))


@pytest.mark.parametrize("fraction, which", [(0, "none held out"), (1, "none to train on"), (1.5, "none to train on")])
def test_a_fraction_that_leaves_one_side_empty_says_which(fraction, which):
    with pytest.raises(DataError, match=f"leaves {which};"):
        holdout(10, fraction, np.arange(10))


def test_rows_of_examples_are_rows_of_the_data():
    for mask in (np.array([True, False, True]), np.array([0.0, 1.0])):
        with pytest.raises(TypeError, match=r"np\.flatnonzero"):
            Examples(np.zeros((3, 2)), mask)
    for wrong, row in (([0, 3], 3), ([-1, 0], -1)):
        with pytest.raises(ValueError, match=f"row {row} is not among the 3 rows"):
            Examples(np.zeros((3, 2)), np.array(wrong))


@pytest.mark.parametrize("reach, advised", [(10.0, False), (10.5, True)])
def test_data_beyond_ten_are_advised_to_be_scaled(reach, advised):
    X = np.linspace(-reach, reach, 16).reshape(8, 2)
    with pytest.raises(NotFinite) as caught:
        settings = {"batch_size": 4, "epochs": 50, "random_state": 0, "validation_fraction": 0}
        VAE(likelihood="gaussian", learning_rate=1e30, **settings).fit(X)
    assert ("scale the data" in str(caught.value)) == advised


def test_a_pass_over_pixels_takes_one_piece_at_a_time(monkeypatch):
    """As many values as fit the limit, whatever the shape: a memory map may be larger than memory."""
    monkeypatch.setattr(checks, "_CHUNK_VALUES", 20)
    pieces = []

    class Spy(np.ndarray):
        def __getitem__(self, key):
            piece = super().__getitem__(key)
            pieces.append(piece.shape)
            return piece

    X = np.zeros((10, 6), np.uint8).view(Spy)
    assert checks.resolve_divisor(X, None) == 1.0 and max(rows * columns for rows, columns in pieces) <= 20


def test_a_header_beyond_the_limit_allocates_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "memory_limit", lambda: 2**35)
    (tmp_path / "x-ubyte").write_bytes(b"\0\0\x08\x02" + (2**17).to_bytes(4, "big") + (2**17 + 1).to_bytes(4, "big"))
    with pytest.raises(DataError, match="more than the 17,179,869,184 accepted"):
        files.read_idx(tmp_path / "x-ubyte")


def test_images_that_need_more_than_the_limit_are_refused_before_memory_is_taken(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for name in ("a.png", "b.png"):
        image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(processors, "memory_limit", lambda: 63)
    with pytest.raises(DataError, match="need 32 bytes, more than the 31 accepted"):
        pictures.read_pictures(tmp_path)
    monkeypatch.setattr(processors, "memory_limit", lambda: 64)
    assert pictures.read_pictures(tmp_path).array.shape == (2, 4, 4)


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
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "model.npz", lambda file: None)
    assert caught.value.filename == str(tmp_path / "model.npz")
