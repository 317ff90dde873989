"""Arrays as the libraries of this field write them, into .npz and .npy: what is read, under which name, in which shape."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minivae import DataError, load_dataset, processors
from minivae.app.cli import main
from minivae.app.runs import open_run

X, T = np.arange(60.0).reshape(10, 6), np.arange(24.0).reshape(4, 6)
Y, U = np.arange(10) % 3, np.arange(4) % 3
OBJECTS = np.array([{"a": 1}], object)
LAYOUTS = {  # what is written, what of it is the data, labels, test part and its labels
    "keras": (dict(x_train=X, y_train=Y, x_test=T, y_test=U), "x_train y_train x_test y_test"),
    "keras, other order": (dict(y_test=U, x_test=T, y_train=Y, x_train=X), "x_train y_train x_test y_test"),
    "tslearn": (dict(X_train=X[..., None], y_train=Y, X_test=T[..., None], y_test=U), "X_train y_train X_test y_test"),
    "medmnist": (
        dict(
            train_images=X, val_images=T, test_images=T,
            train_labels=Y[:, None], val_labels=U[:, None], test_labels=U[:, None],
        ), "train_images train_labels test_images test_labels",
    ),
    "no labels": (dict(train=X, test=T), "train - test -"),
    "run together": (dict(Xtrain=X, ytrain=Y, Xtest=T), "Xtrain ytrain Xtest -"),
    "positions": (dict(arr_0=X), "arr_0 - - -"),
    "positions, labelled": (dict(arr_0=X, arr_1=Y), "arr_0 arr_1 - -"),
    "positions, of something else": (dict(arr_0=X, arr_1=U), "arr_0 - - -"),
    "scikit-learn": (
        dict(data=X, target=Y, feature_names=np.array(list("abcdef")), DESCR=OBJECTS), "data target - -",
    ),
    "dSprites": (dict(imgs=X, latents_classes=np.zeros((10, 6)), metadata=OBJECTS), "imgs - - -"),
    "features": (dict(features=X, labels=Y.astype(str)), "features labels - -"),
    "bytes": (dict(inputs=X, targets=Y.astype("S")), "inputs targets - -"),
    "pictures beside their rows": (dict(data=T, images=X, label=Y), "images label - -"),
    "one table": (dict(z=X, ids=np.arange(10), names=OBJECTS), "z - - -"),
    "a test part of other columns": (dict(x_train=X, x_test=X[:, 1:]), "x_train - - -"),
    "the test part alone": (dict(x_test=X, y_test=Y), "x_test y_test - -"),
}  # fmt: skip


def refuses(path, words, **how):
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(path, **how)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def save(path, arrays):
    np.savez(path, allow_pickle=True, **arrays)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_usual_names(layout, tmp_path):
    arrays, names = LAYOUTS[layout]
    data = load_dataset(save(tmp_path / "x.npz", arrays))
    got = (data.train, data.train_labels, data.test, data.test_labels)
    for name, array in zip(names.split(), got, strict=True):
        if name == "-":
            assert array is None
        else:
            expected = arrays[name].astype(str) if arrays[name].dtype.kind == "S" else arrays[name]
            np.testing.assert_array_equal(array, expected.reshape(array.shape))
            assert len(array) == len(arrays[name]) and array.dtype.kind == expected.dtype.kind
    assert data.image_shape is None
    unread = set(arrays) - set(names.split())
    left = " ".join(data.notes)
    assert all(f"{name} " in left.partition("left out of x.npz: ")[2] for name in unread), left
    if len(arrays) > 1:
        assert f"the data are {names.split()[0]}" in left


def test_what_leaves_a_choice_is_listed_and_chosen_by_name(tmp_path):
    path = save(tmp_path / "x.npz", dict(a=X, b=T, c=OBJECTS))
    refuses(
        path, r"holds the arrays a \[10, 6\], b \[4, 6\], c \(no plain numbers\); choose the data with --array NAME"
    )
    for name, array in (("a", X), ("b", T)):
        data = load_dataset(path, array=name)
        np.testing.assert_array_equal(data.train, array)
        assert data.reading == {"array": name}
    refuses(path, r"no array 'd', but a \[10, 6\]", array="d")
    refuses(path, "Python objects", array="c")
    path = save(tmp_path / "y.npz", dict(x_train=X, y_train=Y, x_test=T, y_test=U))
    data = load_dataset(path, array="x_test")
    np.testing.assert_array_equal(data.train, T)
    np.testing.assert_array_equal(data.train_labels, U)
    assert data.test is None
    refuses(save(tmp_path / "z.npz", dict(y=Y, z=OBJECTS[:, None])), "Python objects")
    refuses(save(tmp_path / "v.npz", dict(X=X, y=OBJECTS)), "Python objects")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_one_hot_labels_are_what_they_say(dtype, tmp_path):
    path = save(tmp_path / "x.npz", dict(X=X, y=np.eye(3, dtype=dtype)[Y]))
    data = load_dataset(path)
    np.testing.assert_array_equal(data.train_labels, Y)
    assert any("y is one-hot" in note for note in data.notes)
    several = np.eye(3)[Y]
    several[0] = [1, 1, 0]
    for wrong in (several, 2 * np.eye(3)[Y]):
        data = load_dataset(save(path, dict(X=X, y=wrong)))
        assert data.train_labels is None and any(
            "y has more than one label for each row" in note for note in data.notes
        )
    refuses(save(path, dict(X=X, y=np.eye(3)[U])), r"labels y have shape \(4, 3\) but X has \(10, 6\)")


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize("make", ["matrix", "array"])
def test_sparse_matrices(form, make, tmp_path):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy writes sparse matrices")
    counts = np.random.default_rng(0).poisson(0.3, (20, 9))
    sparse.save_npz(tmp_path / "x.npz", getattr(sparse, f"{form}_{make}")(counts))
    data = load_dataset(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.train[:], counts)
    sparse.save_npz(tmp_path / "y.npz", sparse.dia_matrix(counts))
    refuses(tmp_path / "y.npz", "is a sparse matrix stored as dia; save its .tocsr.. instead")


def test_a_damaged_sparse_matrix_is_refused(tmp_path, monkeypatch):
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy writes sparse matrices")
    whole = sparse.csr_matrix(np.eye(4))
    parts = dict(data=whole.data, indices=whole.indices, indptr=whole.indptr, shape=np.array([4, 4]), format=b"csr")
    assert load_dataset(save(tmp_path / "x.npz", parts)).train.shape == (4, 4)
    for wrong in (
        {"indices": whole.indices + 1}, {"indices": -whole.indices}, {"indptr": whole.indptr * 2}, {"shape": np.array([4])},
        {"indptr": whole.indptr[::-1]}, {"data": OBJECTS}, {"shape": np.array([-4, 4])}, {"shape": np.array([2**40, 4])},
        {"format": b"csc", "shape": np.array([2**60, 4])}, {"data": whole.data[:2]}, {"format": b"bsr"},
    ):  # fmt: skip
        refuses(save(tmp_path / "x.npz", parts | wrong), "x.npz")
    monkeypatch.setattr(processors, "memory_limit", lambda: 2**26)
    for form, parts_of in (
        ("csc", {}),
        ("coo", {"row": whole.indices, "col": whole.indices}),
    ):  # rows that make an index
        much = parts | parts_of | {"format": form.encode(), "shape": np.array([2**23, 4])}
        refuses(save(tmp_path / "x.npz", much), "bytes, more than the 33,554,432 accepted")
    monkeypatch.setattr(processors, "memory_limit", lambda: 1000)
    refuses(save(tmp_path / "x.npz", parts), "bytes, more than the 500 accepted")


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((5, 8, 7), (8, 7)),
        ((5, 8, 7, 1), (8, 7)),
        ((5, 1, 8, 7), (8, 7)),
        ((5, 8, 7, 3), (8, 7, 3)),
        ((5, 3, 8, 7), (8, 7, 3)),
        ((5, 3, 8, 3), (3, 8, 3)),
        ((5, 3, 3, 3), (3, 3, 3)),
        ((5, 2, 8, 7), (2, 8, 7)),
        ((5, 9, 1), None),
        ((5, 1, 1, 1), None),
        ((1, 1, 8, 7), (8, 7)),
    ],
)
def test_shapes_of_pictures(ending, shape, drawn, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = tmp_path / f"x.{ending}"
    np.save(path, array) if ending == "npy" else np.savez(path, X=array)
    data = load_dataset(path)
    moved = drawn == (8, 7, 3) and shape[1] == 3
    assert data.image_shape == drawn and bool(data.notes) == moved
    expected = array.transpose(0, 2, 3, 1) if moved else array
    np.testing.assert_array_equal(data.train, expected.reshape(len(array), -1))
    assert isinstance(data.train, np.memmap) == (ending == "npy" and not moved)


def test_pictures_that_cannot_be_turned_in_memory_or_have_a_fourth_value(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((9, 3, 8, 7), np.uint8))
    monkeypatch.setattr(processors, "memory_limit", lambda: 3000)
    refuses(tmp_path / "x.npy", r"shape \(3, 8, 7\), too many for memory; save np.moveaxis\(X, 1, -1\)")
    np.save(tmp_path / "x.npy", np.zeros((9, 8, 7, 4), np.uint8))
    refuses(tmp_path / "x.npy", r"shape \(8, 7, 4\); if the fourth is how opaque they are, lay them on white")
    np.save(tmp_path / "x.npy", np.zeros((9, 8, 7, 4), np.float32))  # four bands of an instrument
    assert load_dataset(tmp_path / "x.npy").image_shape == (8, 7, 4)


def test_several_arrays_in_one_npy_are_not_cut_in_silence(tmp_path):
    with open(tmp_path / "x.npy", "wb") as file:
        np.save(file, X)
        np.save(file, Y)
    refuses(tmp_path / "x.npy", "more than one array was saved into it; np.savez")


def test_a_run_of_a_chosen_array_and_its_test_part(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unit = np.random.default_rng(0).random((40, 5))
    save(
        "x.npz",
        dict(x_train=unit, y_train=np.arange(40) % 2, x_test=unit[:9], y_test=np.arange(9) % 2, other=unit[:20]),
    )
    options = ["--epochs", "1", "--hidden-dims", "4", "--latent-dim", "1", "--no-figures"]
    assert main(["train", "x.npz", *options, "--out", "run"]) == 0
    told = capfd.readouterr().err
    assert "the data are x_train, their labels y_train" in told and "left out of x.npz: other [20, 5]" in told
    assert "the test part of 9 rows is measured" in told
    assert main(["train", "x.npz", "--array", "other", *options, "--out", "run2"]) == 0
    assert len(open_run("run2").dataset().train) == 20
    save("y.npz", dict(X=unit))
    with pytest.raises(DataError, match="holds no array 'other'"):
        open_run("run2").dataset("y.npz")
    assert os.path.exists("run2/model.npz")


def test_pictures_of_another_shape_are_refused(tmp_path, capsys, monkeypatch):
    """As many pixels, in other places."""
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).uniform(size=(30, 6, 8))
    for name, shape in {"a": (6, 8), "b": (8, 6), "c": (2, 4, 6), "flat": (48,)}.items():
        np.save(f"{name}.npy", X.reshape(-1, *shape))
    assert (
        main(["train", "a.npy", "--epochs", "1", "--hidden-dims", "4", "--no-figures", "--quiet", "--out", "run"]) == 0
    )
    for name in ("b", "c"):
        capsys.readouterr()
        assert main(["encode", "run", f"{name}.npy"]) == 1
        assert "and the model was trained on (6, 8)" in capsys.readouterr().err
    assert main(["encode", "run", "flat.npy"]) == main(["encode", "run", "a.npy"]) == 0


def test_an_array_is_no_name_of_one():
    with pytest.raises(DataError, match="a name or a path, or is a data frame, not ndarray"):
        load_dataset(np.eye(3))
