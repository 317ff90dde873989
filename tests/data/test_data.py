"""Datasets, file readers and data checks: exact values, and one clear sentence for everything that is wrong."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minivae.data import checks as data_checks
from minivae.data import datasets
from minivae.data.batches import holdout
from minivae.data.checks import as_matrix, check_range, resolve_divisor, summarize
from minivae.data.datasets import load_dataset
from minivae.data.files import DataError, read_idx

# Where MNIST may lie, looked up before `empty_home` hides it.
MNIST_FOLDERS = [
    Path(root) / below
    for root in (os.environ.get("MINIVAE_DATA"), Path(__file__).resolve().parents[3] / "shared" / "data")
    if root
    for below in ("mnist", "")
]
IDX_CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}


def idx_bytes(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, IDX_CODES[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.fixture(autouse=True)
def empty_home(tmp_path, monkeypatch):
    """No test sees the real cache or data folder, unless it asks for it."""
    monkeypatch.delenv("MINIVAE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def refuses(pattern):
    return pytest.raises(DataError, match=pattern)


# ---- named datasets


def test_digits_equal_the_published_ones():
    sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the published digits")
    published = sklearn_datasets.load_digits()
    digits = load_dataset("digits")
    stretched = np.round(published.data * (255 / 16))  # from 0..16 to 0..255
    np.testing.assert_array_equal(np.concatenate([digits.train, digits.test]), stretched)
    np.testing.assert_array_equal(np.concatenate([digits.train_labels, digits.test_labels]), published.target)


def test_digits_split_and_scale():
    digits = load_dataset("digits")
    assert digits.train.shape == (1500, 64) and digits.test.shape == (297, 64)
    assert digits.train.dtype == digits.test_labels.dtype == np.uint8
    assert (digits.image_shape, digits.train.min(), digits.train.max()) == ((8, 8), 0, 255)
    check_range(summarize(digits.train), "bernoulli")


def test_mnist_is_the_published_one(monkeypatch):
    folder = next((f for f in MNIST_FOLDERS if any(f.glob("train-images-idx3-ubyte*"))), None)
    if folder is None:
        pytest.skip("MNIST is not here: set MINIVAE_DATA to the folder that holds its four files")
    monkeypatch.setenv("MINIVAE_DATA", str(folder))
    mnist = load_dataset("mnist")
    assert mnist.train.shape == (60000, 784) and mnist.test.shape == (10000, 784)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9] and mnist.test_labels[:3].tolist() == [7, 2, 1]
    assert mnist.image_shape == (28, 28)
    summary = summarize(mnist.train, divide_by=1)
    assert summary.mean.mean() == pytest.approx(33.318421449829934, rel=1e-13)
    assert mnist.train.mean() == pytest.approx(33.318421449829934, rel=1e-13)
    assert {row["name"]: row["available"] for row in datasets.dataset_status()}["mnist"]


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with refuses("no dataset or file named 'minst'; did you mean 'mnist'.*digits, mnist, fashion-mnist.*IDX.*npy"):
        load_dataset("minst")
    for wrong in ("", "  ", "a\0b", str(tmp_path / "nothing.npy")):
        with refuses("no dataset or file named"):
            load_dataset(wrong)


def test_names_win_over_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_dataset("digits").train.shape == (1500, 64)
    with refuses("holds no images"):
        load_dataset("./digits")


# ---- finding and downloading


@pytest.fixture
def tiny_set(tmp_path, monkeypatch):
    """A copy of "mnist" with four tiny files and two local mirrors: the first wrong, the second right."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((6, 2, 3), (6,), (4, 2, 3), (4,))]
    good, bad = tmp_path / "good", tmp_path / "bad"
    for mirror in (good, bad):
        mirror.mkdir()
    for file, array in zip(datasets._IDX_FILES, arrays, strict=True):
        (good / f"{file}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        (bad / f"{file}.gz").write_bytes(gzip.compress(idx_bytes(255 - array)))
    known = dataclasses.replace(
        datasets._KNOWN["mnist"],
        sha256=tuple(hashlib.sha256(idx_bytes(array)).hexdigest() for array in arrays),
        mirrors=(bad.as_uri() + "/", good.as_uri() + "/"),
    )
    monkeypatch.setitem(datasets._KNOWN, "mnist", known)
    return arrays, good, bad


def check_tiny(dataset, arrays):
    np.testing.assert_array_equal(dataset.train, arrays[0].reshape(6, 6))
    np.testing.assert_array_equal(dataset.train_labels, arrays[1])
    np.testing.assert_array_equal(dataset.test, arrays[2].reshape(4, 6))
    np.testing.assert_array_equal(dataset.test_labels, arrays[3])
    assert dataset.image_shape == (2, 3)


@pytest.mark.parametrize("below", ["", "mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_data_folder_may_hold_the_files_or_a_subfolder(tiny_set, tmp_path, monkeypatch, below, packed):
    arrays, _, _ = tiny_set
    folder = tmp_path / "mine" / below
    folder.mkdir(parents=True)
    for file, array in zip(datasets._IDX_FILES, arrays, strict=True):
        content = idx_bytes(array)
        (folder / (f"{file}.gz" if packed else file)).write_bytes(gzip.compress(content) if packed else content)
    monkeypatch.setenv("MINIVAE_DATA", str(tmp_path / "mine"))
    check_tiny(load_dataset("mnist"), arrays)
    status = {row["name"]: row for row in datasets.dataset_status()}
    assert status["mnist"]["available"] and status["mnist"]["where"] == str(folder)
    # The same files lie in a folder that is also searched for Fashion-MNIST: they must not be taken for it.
    assert not status["fashion-mnist"]["available"]
    assert set(status["mnist"]) == {
        "name", "available", "where", "rows", "test_rows", "columns", "licence", "source",
    }  # fmt: skip


def test_missing_says_where_and_how(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setenv("MINIVAE_DATA", str(tmp_path / "mine"))
    with refuses("minivae data mnist --download.*MINIVAE_DATA") as caught:
        load_dataset("mnist")
    for folder in (tmp_path / "mine", tmp_path / "mine" / "mnist", tmp_path / "cache" / "minivae" / "mnist"):
        assert str(folder) in str(caught.value)
    assert not (tmp_path / "cache").exists()  # looking changes nothing, and nothing is downloaded unasked


def test_wrong_content_is_named(tiny_set, monkeypatch):
    _, _, bad = tiny_set
    monkeypatch.setenv("MINIVAE_DATA", str(bad))
    with refuses("train-images-idx3-ubyte.gz is not the published file: the SHA-256"):
        load_dataset("mnist")


def test_download_tries_the_second_mirror_and_keeps_only_verified_files(tiny_set, tmp_path):
    arrays, good, _ = tiny_set
    check_tiny(load_dataset("mnist", download=True), arrays)
    cache = tmp_path / "cache" / "minivae" / "mnist"
    assert sorted(f.name for f in cache.iterdir()) == sorted(f"{file}.gz" for file in datasets._IDX_FILES)
    for file in cache.iterdir():
        assert file.read_bytes() == (good / file.name).read_bytes()
    for file in good.iterdir():
        file.unlink()
    check_tiny(load_dataset("mnist"), arrays)  # now from the cache


def test_download_of_wrong_bytes_leaves_no_file(tiny_set, tmp_path, monkeypatch):
    _, _, bad = tiny_set
    gone = (tmp_path / "gone").as_uri() + "/"
    mirrors = (gone, bad.as_uri() + "/")
    monkeypatch.setitem(datasets._KNOWN, "mnist", dataclasses.replace(datasets._KNOWN["mnist"], mirrors=mirrors))
    with refuses("could not download train-images-idx3-ubyte.gz") as caught:
        load_dataset("mnist", download=True)
    assert gone in str(caught.value) and "SHA-256" in str(caught.value)
    assert list((tmp_path / "cache" / "minivae" / "mnist").iterdir()) == []


class Response(io.BytesIO):
    """An answer that ends early with a network error, or never ends."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def read(self, size=-1):
        if self.error is None:
            return b"\0" * size
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"), [(None, "more than"), (TimeoutError("timed out"), "timed out"), (ConnectionResetError(), "")]
)
def test_endless_and_broken_downloads_leave_no_file(tiny_set, tmp_path, monkeypatch, error, words):
    timeouts = []

    def opener(request, timeout=None):
        timeouts.append(timeout)
        return Response(error)

    monkeypatch.setattr("urllib.request.urlopen", opener)
    monkeypatch.setattr(datasets, "_MAX_DOWNLOAD", 2**18)
    with refuses(f"could not download.*{words}"):
        load_dataset("mnist", download=True)
    assert len(timeouts) == 2 and all(timeouts)  # both mirrors, each with a timeout
    assert list((tmp_path / "cache" / "minivae" / "mnist").iterdir()) == []


def test_import_stays_light():
    code = (
        "import sys, minivae.data; "
        "print([m for m in ('urllib.request', 'gzip', 'csv', 'PIL', 'tempfile', 'importlib.resources') "
        "if m in sys.modules and m not in before])"
    )
    code = f"import sys, numpy; before = set(sys.modules); {code}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---- IDX


@pytest.mark.parametrize("dtype", sorted(IDX_CODES))
@pytest.mark.parametrize("packed", [False, True])
def test_idx_values(tmp_path, dtype, packed):
    array = np.arange(-12, 12).reshape(4, 3, 2).astype(dtype)
    path = tmp_path / "a-idx3"
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    back = read_idx(path)
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype and back.dtype.isnative
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.train, array.reshape(4, 6))
    assert dataset.image_shape == (3, 2) and dataset.test is None


@pytest.mark.parametrize("packed", [False, True])
def test_every_truncation_of_idx_is_refused(tmp_path, packed):
    content = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = gzip.compress(content) if packed else content
    path = tmp_path / "a-idx3"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(DataError):
            read_idx(path)
    path.write_bytes(content + b"x")
    with pytest.raises(DataError):
        read_idx(path)


@pytest.mark.parametrize("packed", [False, True])
def test_flipped_bits_of_idx_are_refused_or_harmless(tmp_path, packed):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    content = gzip.compress(idx_bytes(array)) if packed else idx_bytes(array)
    path = tmp_path / "a-idx3"
    for bit in range(8 * (len(content) if packed else 16)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            back = read_idx(path)
        except DataError:
            continue
        # gzip's own time stamp and the like mean nothing; uint8 becomes int8 by one bit, which only a SHA-256 can tell.
        np.testing.assert_array_equal(back, array)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), st.sampled_from([b"", b"\0\0\x08\x02", b"\0\0\x0e\x01", b"\x1f\x8b\x08"]))
def test_any_bytes_read_as_idx_or_raise_dataerror(tmp_path_factory, tail, head):
    path = tmp_path_factory.getbasetemp() / "any-idx"
    path.write_bytes(head + tail)
    with contextlib.suppress(DataError):
        read_idx(path)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 8, (60000, 2**20), (2**20, 2**10)])
def test_huge_declared_shapes_do_not_allocate(tmp_path, shape):
    path = tmp_path / "huge-idx"
    path.write_bytes(gzip.compress(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + b"payload"))
    tracemalloc.start()
    try:
        with refuses("huge-idx declares the shape"):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_idx_sentences(tmp_path):
    path = tmp_path / "a-idx"
    for content, words in [
        (b"", "not an IDX file: it begins with nothing"),
        (b"\x89PNG....", "not an IDX file"),
        (b"\0\0\x08\x00", "not an IDX file"),
        (b"\0\0\x0a\x01\0\0\0\x01a", "not an IDX file"),
        (b"\0\0\x08\x02\0\0", "cut short inside its IDX header"),
        (b"\0\0\x08\x02\0\0\0\0\0\0\0\x02", "holds no values"),
        (b"\0\0\x08\x01\0\0\0\x03ab", "3 bytes, but holds only 2; copy it again"),
        (b"\0\0\x08\x01\0\0\0\x03abcd", "holds more than that"),
    ]:
        path.write_bytes(content)
        with refuses(words):
            read_idx(path)
    path.write_bytes(idx_bytes(np.zeros((4, 4))))
    with refuses("more than the 100 accepted"):
        read_idx(path, max_bytes=100)
    path.write_bytes(idx_bytes(np.zeros(4)))
    with refuses(r"shape \(4,\); store at least one row and one column"):
        load_dataset(path)


# ---- .npy and .npz


def test_npy_stays_on_disk(tmp_path):
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.save(tmp_path / "x.npy", images)
    dataset = load_dataset(tmp_path / "x.npy")
    assert isinstance(dataset.train, np.memmap) and not dataset.train.flags.writeable
    assert isinstance(as_matrix(dataset.train), np.memmap)
    assert (dataset.name, dataset.image_shape, dataset.train.dtype) == ("x.npy", (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(dataset.train, images.reshape(2, 60))
    np.save(tmp_path / "x2.npy", images.reshape(2, 60))
    assert load_dataset(str(tmp_path / "x2.npy")).image_shape is None


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[1, "a"]], object), "Python objects"),
        (np.array([["1", "a"]]), "has dtype <U1, not real numbers"),
        (np.ones((2, 2), complex), "has dtype complex128"),
        (np.ones((2, 2), "datetime64[s]"), "has dtype datetime64"),
        (np.ones(3), r"shape \(3,\); store at least one row"),
        (np.array(3.0), r"shape \(\)"),
        (np.ones((3, 0)), r"shape \(3, 0\)|mmap"),
        (np.ones((0, 3)), r"shape \(0, 3\)|mmap"),
    ],
)
def test_unsuitable_arrays_are_refused(tmp_path, array, words):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with refuses(f"x.npy.*{words}"):
        load_dataset(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", X=array)
    with refuses("x.npz"):
        load_dataset(tmp_path / "x.npz")


def test_damaged_npy_and_npz_raise_only_dataerror(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(3, 4))
    np.savez_compressed(tmp_path / "x.npz", X=np.arange(12.0).reshape(3, 4), y=np.arange(3))
    rng = np.random.default_rng(1)
    for name in ("x.npy", "x.npz"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(DataError):
                load_dataset(tmp_path / name)
        for _ in range(300):
            damaged = bytearray(whole)
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(DataError):
                load_dataset(tmp_path / name)


def test_npz_arrays_by_name(tmp_path):
    path = tmp_path / "x.npz"
    X, y = np.arange(6.0).reshape(3, 2), np.array([2, 0, 1])
    for names in ({"X": X, "y": y}, {"x": X, "labels": y}, {"images": X, "y": y, "other": y}, {"anything": X, "y": y}):
        np.savez(path, **names)
        dataset = load_dataset(path)
        np.testing.assert_array_equal(dataset.train, X)
        np.testing.assert_array_equal(dataset.train_labels, y)
    np.savez(path, anything=X)
    assert load_dataset(path).train_labels is None
    np.savez(path, a=X, b=X)
    with refuses(r"holds the arrays a \[3, 2\], b \[3, 2\]; choose the data with --array"):
        load_dataset(path)
    np.savez(path, X=X, y=y[:2])
    with refuses(r"labels y have shape \(2,\) but X has \(3, 2\)"):
        load_dataset(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no arrays")
    with pytest.raises(DataError):
        load_dataset(path)


# ---- text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "1,2.5\n-3,4e2\n"),
        ("a.csv", "left,right\r\n1,2.5\r\n-3,4e2\r\n"),
        ("a.csv", '\ufeff"left","right"\n"1","2.5"\n\n-3 , 4e2'),
        ("a.csv", "\ufeff1,2.5\n-3,4e2\n"),
        ("a.csv", ";name\n1;2.5\n-3;4e2\n"),
        ("a.tsv", "l\tr\n1\t2.5\n-3\t4e2\n"),
        ("a.txt", "1  2.5\n -3 4e2\n"),
        ("a.txt", "1\t2.5\n-3\t4e2\n"),
        ("A.CSV", "\n\n1,2.5\n-3,4e2\n"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_tables(tmp_path, name, text, packed):
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    dataset = load_dataset(path)
    np.testing.assert_array_equal(dataset.train, [[1, 2.5], [-3, 400]])
    assert dataset.train.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2\n3,four\n", "a.csv, line 2, column 2: 'four' is not a number"),
        ("a,b\n\n1,2\n3,x4\n", "line 4, column 2: 'x4' is not a number"),
        ("a,b\n1,2\n1,2,3\n", "line 3 has 3 columns but line 2 has 2"),
        ("1,2\n3\n", "line 2 has 1 columns but line 1 has 2"),
        ("1,1_000\n", "column 2: '1_000' is not a number"),
        ("1,0x10\n", "column 2: '0x10' is not a number"),
        ("", "holds no rows"),
        ("\n \n", "holds no rows"),
        ("a,b\n", "header but no rows"),
        ("1,\0\n", "column 2"),
        ("label,3,7\n5,0,0\n", "line 1, column 1: 'label' is not a number"),
    ],
)
def test_bad_cells_are_located(tmp_path, text, words):
    for name in ("a.csv", "a.csv.gz"):
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        with refuses(words.replace("a.csv", name)):
            load_dataset(tmp_path / name)


def test_damaged_tables(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("1,2\n3,é\n".encode("latin-1"))
    with refuses("not UTF-8 text"):
        load_dataset(path)
    path.write_bytes(b"1,2\n" * 20000 + b"\xff\xfe")
    with refuses("not UTF-8 text"):
        load_dataset(path)
    whole = gzip.compress("".join(f"{i},{i * i}\n" for i in range(3000)).encode())
    for length in range(10, len(whole), 500):
        path.write_bytes(whole[:length])
        with refuses("damaged or cut short|cannot read"):
            load_dataset(path)


def test_nan_in_a_table_is_read_and_then_named(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,nan\n")
    with refuses("a.csv has NaN at row 1, column 1"):
        summarize(load_dataset(tmp_path / "a.csv").train, name="a.csv")


def test_unknown_kinds_are_refused(tmp_path):
    for name in ("a.xlsx", "a.npy.gz", "noending"):
        (tmp_path / name).write_bytes(b"x")
        with refuses("no kind that can be read; convert it to one of: IDX"):
            load_dataset(tmp_path / name)


@pytest.mark.skipif(os.name != "posix", reason="named pipes are a POSIX thing")
def test_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with refuses("not a file or folder"):
        load_dataset(tmp_path / "a.csv")


# ---- folders of images


def test_image_folders(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="Pillow reads image folders: pip install 'minivae[images]'")
    rng = np.random.default_rng(2)
    grey, colour = rng.integers(0, 256, (3, 4, 5), np.uint8), rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
    for folder in ("grey", "colour"):
        (tmp_path / folder).mkdir()
    for name, image in zip("cab", grey[[2, 0, 1]], strict=True):  # written out of order, read by name
        Image.fromarray(image).save(tmp_path / "grey" / f"{name}.png")
    (tmp_path / "grey" / "notes.md").write_text("not an image")
    for row, image in enumerate(colour):
        Image.fromarray(image).save(tmp_path / "colour" / f"{row}.PNG")
    dataset = load_dataset(tmp_path / "grey")
    np.testing.assert_array_equal(dataset.train, grey.reshape(3, 20))
    assert dataset.image_shape == (4, 5) and dataset.train.dtype == np.uint8
    dataset = load_dataset(tmp_path / "colour")
    np.testing.assert_array_equal(dataset.train, colour.reshape(2, 60))
    assert dataset.image_shape == (4, 5, 3)

    Image.fromarray(grey[0, :3]).save(tmp_path / "grey" / "d.png")
    with refuses("4 x 5 pixels: 3, 3 x 5 pixels: 1; see d.png"):
        load_dataset(tmp_path / "grey")
    Image.fromarray(grey[0].astype(np.uint16)).save(tmp_path / "grey" / "d.png")
    with refuses("16 bits of grey: 1; see d.png"):
        load_dataset(tmp_path / "grey")
    (tmp_path / "grey" / "d.png").write_bytes((tmp_path / "grey" / "a.png").read_bytes()[:50])
    with refuses("cannot read the image .*d.png"):
        load_dataset(tmp_path / "grey")


def test_image_folder_without_pillow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with refuses(r'needs Pillow: pip install "minivae\[images\]"'):
        load_dataset(tmp_path)


# ---- as_matrix


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool"])
def test_usable_arrays_are_not_copied(dtype):
    X = np.ones((3, 4), dtype)
    assert as_matrix(X) is X
    assert np.shares_memory(as_matrix(X[::2, ::-1]), X)


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        ("float16", "f4"),
        ("int8", "f4"),
        ("uint16", "f4"),
        ("int32", "f8"),
        ("int64", "f8"),
        (">f4", "f4"),
        (">f8", "f8"),
    ],
)
def test_other_numbers_are_converted(given_dtype, expected):
    X = np.array([[1, 2], [3, 127]]).astype(given_dtype)
    matrix = as_matrix(X)
    assert matrix.dtype == np.dtype(expected) and matrix.dtype.isnative
    np.testing.assert_array_equal(matrix, [[1, 2], [3, 127]])


def test_lists_and_subclasses():
    assert as_matrix([[0, 1], [2, 3]]).dtype == np.float64
    assert as_matrix([[True, False]]).dtype == np.bool_
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1.0, 2.0]])
    assert type(as_matrix(matrix)) is np.ndarray


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.zeros((100, 28, 28)), r"X has shape \(100, 28, 28\).* pass X.reshape\(len\(X\), -1\)"),
        (np.zeros(5), r"X has shape \(5,\).* Reshape your data: pass X.reshape\(1, -1\) if it is one example"),
        (3.0, r"X has shape \(\)"),
        (np.zeros((0, 3)), r"X has 0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1"),
        (np.zeros((3, 0)), r"X has 0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1"),
        ([[1, 2], [3]], "X cannot be made an array"),
        ([["a", "b"]], "X has dtype <U1, not real numbers"),
        (
            np.array([[1, "1.5"]], object),
            r"X holds '1.5' at \(0, 1\) \(counted from 0\), and each argument must be no string",
        ),
        (np.array([[1, None], [{}, "a"]]), r"X holds {} at \(1, 0\)"),
        (np.array([[1, 10**400]]), r"X holds 1000.*characters of type int\) at \(0, 1\)"),
        (np.ones((2, 2), complex), "X has dtype complex128"),
        (np.ma.masked_array(np.ones((2, 2)), mask=np.eye(2)), r"masked array; pass X.filled\(value\)"),
    ],
)
def test_unusable_X_gets_one_sentence(X, words):
    with refuses(words):
        as_matrix(X)
    with refuses(words.replace("X", "Y")):
        as_matrix(X, name="Y")


def test_objects_that_are_numbers_are_taken():
    X = np.array([[1, 2.5, None], [Decimal("0.5"), True, Fraction(1, 4)]], object)
    np.testing.assert_array_equal(as_matrix(X), [[1, 2.5, np.nan], [0.5, 1, 0.25]])


@pytest.mark.parametrize("protocol", ["__array__", "__dlpack__"])
def test_arrays_of_other_libraries_are_taken_by_their_protocol(protocol):
    X = np.arange(6.0).reshape(2, 3)

    class Tensor:
        __dlpack_device__ = X.__dlpack_device__

    setattr(Tensor, protocol, lambda self, *args, **kwargs: getattr(X, protocol)(**kwargs))
    np.testing.assert_array_equal(as_matrix(Tensor()), X)


# ---- summarize, check_range, resolve_divisor, holdout


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "bool"])
@pytest.mark.parametrize("chunk_values", [1, 7, 50, 2**22])
def test_summary_does_not_depend_on_the_chunks(monkeypatch, dtype, chunk_values):
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", chunk_values)
    X = (np.random.default_rng(3).random((37, 5)) * 200).astype(dtype)
    before = X.copy()
    summary = summarize(X, divide_by=8)
    scaled = X.astype(np.float64) / 8
    assert summary.rows == 37 and summary.mean.dtype == np.float64
    np.testing.assert_allclose(summary.mean, scaled.mean(0), rtol=1e-13)
    np.testing.assert_allclose(summary.variance, scaled.var(0), rtol=1e-12)
    np.testing.assert_array_equal(summary.minimum, scaled.min(0))
    np.testing.assert_array_equal(summary.maximum, scaled.max(0))
    np.testing.assert_array_equal(X, before)


@pytest.mark.filterwarnings("error")
def test_huge_values_give_no_nan():
    assert summarize(np.array([[0.0, 1e300]])).variance.tolist() == [0, 0]
    assert summarize(np.array([[-1e300], [1e300]])).variance.tolist() == [np.inf]


def test_variance_keeps_its_digits_on_a_large_mean(monkeypatch):
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", 30)
    X = np.random.default_rng(4).standard_normal((1000, 3)) + 1e8
    np.testing.assert_allclose(summarize(X).variance, X.var(0), rtol=1e-8)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "an infinite value"), (-np.inf, "an infinite")])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 2), (4, 0), (36, 4)])
def test_the_first_value_that_is_not_finite_is_located(monkeypatch, value, word, row, column):
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", 20)
    X = np.ones((37, 5), np.float32)
    X[row, column] = value
    X[row:, 4] = value
    with refuses(f"photos has {word}.* at row {row}, column {column} .*np.isfinite"):
        summarize(X, name="photos")


def test_summary_of_a_memory_map_holds_one_chunk_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", 2**14)
    np.save(tmp_path / "x.npy", np.ones((4000, 500), np.float32))
    X = load_dataset(tmp_path / "x.npy").train
    tracemalloc.start()
    try:
        assert summarize(X).mean.sum() == pytest.approx(500)
        assert tracemalloc.get_traced_memory()[1] < 4 * 8 * 2**14  # four chunks, a thirtieth of the data
    finally:
        tracemalloc.stop()


def test_range_for_bernoulli():
    X = np.zeros((4, 5))
    X[2, 3] = 16
    sentence = (
        r"likelihood 'bernoulli' needs data in \[0, 1\]; column 3 reaches 16; "
        r"scale the columns to \[0, 1\] \(standardize=True, --standardize\) or choose likelihood='gaussian', "
        "or 'poisson' for counts"
    )
    with refuses(f"^{sentence}$"):
        check_range(summarize(X), "bernoulli")
    with refuses("column 3 reaches 8 after division by 2; scale the columns"):
        check_range(summarize(X, 2), "bernoulli")
    check_range(summarize(X, 16), "bernoulli")
    check_range(summarize(X), "gaussian")
    X[1, 4] = -0.5
    with refuses(r"column 4 falls to -0.5 \(Negative values in data\); shift and scale the columns to \[0, 1\]"):
        check_range(summarize(X), "bernoulli")
    check_range(summarize(np.array([[-1e-7, 1 + 1e-7]])), "bernoulli")
    check_range(summarize(np.full((2, 2), 255, np.uint8)), "bernoulli")  # uint8 is divided by 255 unasked


@pytest.mark.parametrize(
    ("largest", "divisor"),
    [(250, 255), (255, 255), (1023, 1023), (3069, 4095), (40000, 65535), (65535, 65535)]
    + [(16, None), (100, None), (300, None), (200.5, None), (65536, None), (1.1, None), (1e300, None)],
)
def test_the_advice_holds_for_the_next_file_of_the_kind(largest, divisor):
    """Whole numbers that fill most of a type are divided by what it holds, not by what this file happens to reach."""
    X = np.array([[0.0, largest]])
    for divide_by in (None, 1.05):
        with refuses("needs data in") as caught:
            check_range(summarize(X, divide_by), "bernoulli")
        fix = (
            "scale the columns to [0, 1] (standardize=True"
            if divisor is None
            else f"divide by {divisor}, the most that"
        )
        assert fix in str(caught.value)
    if divisor is not None:
        check_range(summarize(X, divisor), "bernoulli")


def test_divisor(monkeypatch):
    assert resolve_divisor(np.full((3, 1), 2, np.uint8), None) == 255.0
    assert resolve_divisor(np.ones((3, 1), np.uint8), None) == 1.0  # yes and no, not grey values of 255
    late = np.zeros((5, 2), np.uint8)
    late[-1, 1] = 255
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", 2)  # found in the last chunk too
    assert resolve_divisor(late, None) == 255.0
    assert resolve_divisor(np.zeros((1, 1), np.float32), None) == 1.0
    assert resolve_divisor(np.zeros((1, 1), bool), None) == 1.0
    assert resolve_divisor(np.zeros((1, 1), np.uint8), 16) == 16.0
    for wrong in (0, -1, np.nan, np.inf, "many", [1, 2]):
        with refuses("divide_by=.* must be a positive finite number"):
            resolve_divisor(np.zeros((1, 1)), wrong)


def test_a_summary_of_some_rows_is_that_of_these_rows(monkeypatch):
    monkeypatch.setattr(data_checks, "_CHUNK_VALUES", 20)
    X, rows = np.random.default_rng(6).random((37, 5)), np.array([1, 4, 5, 30, 31, 36])
    some, alone = summarize(X, 2, rows=rows), summarize(X[rows], 2)
    np.testing.assert_allclose([some.mean, some.variance, some.maximum], [alone.mean, alone.variance, alone.maximum])
    assert some.rows == 6
    X[30, 2] = np.nan
    with refuses("NaN at row 30, column 2"):
        summarize(X, rows=rows)


def test_status_of_one_dataset_reads_its_files_once(tiny_set, tmp_path, monkeypatch):
    reads, read_idx = [], datasets.read_idx
    monkeypatch.setattr(datasets, "read_idx", lambda *a, **k: reads.append(a[0]) or read_idx(*a, **k))
    (row,) = datasets.dataset_status(["mnist"])
    assert not row["available"] and "not here" not in row["where"] and not reads
    (row,) = datasets.dataset_status(["mnist"], download=True)
    assert row["available"] and row["where"] == str(tmp_path / "cache" / "minivae" / "mnist")
    reads.clear()
    assert datasets.dataset_status(["mnist"]) == [row] and len(reads) == 4


def test_holdout():
    order = np.random.default_rng(5).permutation(50)
    train, held = holdout(50, 0.25, order)
    np.testing.assert_array_equal(held, np.sort(order[:12]))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(50))
    assert (np.diff(train) > 0).all() and train.dtype == held.dtype == np.int64
    for fraction, words in [(0.001, "none held out"), (0.999, "none to train on"), (0, "none"), (1, ""), (np.nan, "")]:
        with refuses(f"of 50 samples leaves {words}.*pass one from 0.02 to 0.98"):
            holdout(50, fraction, order)
    for wrong in (order[:-1], np.zeros(50, int), order + 1):
        with refuses("pass a permutation of range"):
            holdout(50, 0.25, wrong)
