"""Data that stay where they are: files of any number type, and sparse matrices, are trained on without a dense copy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.data.checks import as_matrix
from minivae.data.inplace import InPlace
from minivae.kernels import MODULES, availability

sparse = pytest.importorskip("scipy.sparse", reason="SciPy makes sparse matrices")
BACKENDS = [name for name in MODULES if availability(name)[0]]
SETTINGS = {"latent_dim": 2, "hidden_dims": (16,), "epochs": 3, "batch_size": 32, "random_state": 0}
COUNTS = np.random.default_rng(0).poisson(0.5, (150, 12))
MATRICES = {
    "csr_matrix": lambda X: sparse.csr_matrix(X.astype(np.float32)),
    "csc_array": lambda X: sparse.csc_array(X.astype(float)),
    "coo_array": lambda X: sparse.coo_array(X.astype(np.int64)),
    "uint8": lambda X: sparse.csr_array(X.astype(np.uint8)),
}


def same(a: VAE, A: object, b: VAE, B: np.ndarray) -> None:
    """Two models and the same data in two forms: every number alike."""
    assert [r["loss"] for r in a.history_] == [r["loss"] for r in b.history_]
    for ask in ("transform", "reconstruct", "score_samples", "anomaly_score"):
        np.testing.assert_array_equal(getattr(a, ask)(A), getattr(b, ask)(B), err_msg=ask)
    np.testing.assert_array_equal(a.score_samples(A, n_samples=5), b.score_samples(B, n_samples=5))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", MATRICES)
def test_a_sparse_matrix_trains_like_the_dense_one(kind, backend):
    A = MATRICES[kind](COUNTS)
    dense = COUNTS.astype(A.dtype if A.dtype.kind == "u" else float)
    one, other = (VAE(**SETTINGS, likelihood="poisson", backend=backend).fit(X) for X in (A, dense))
    same(one, A, other, dense)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float16", "uint16", ">f4", ">u2", "int64", ">f8", "int8"])
def test_a_file_of_any_number_type_is_read_where_it_lies(dtype, backend, tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.asarray(COUNTS.astype(dtype), order="F" if dtype == "float16" else "C"))
    data = load_dataset(path).train
    assert isinstance(data, InPlace) and isinstance(data.stored, np.memmap)
    dense = np.ascontiguousarray(COUNTS.astype(data.dtype))
    settings = SETTINGS | {"likelihood": "gaussian", "backend": backend}
    same(VAE(**settings).fit(data), data, VAE(**settings).fit(dense), dense)
    np.testing.assert_array_equal(data[3], dense[3])
    np.testing.assert_array_equal(data[[4, 1], 2], dense[[4, 1], 2])
    np.testing.assert_array_equal(np.asarray(data), dense)


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_pixels_are_drawn_alike(how):
    X = (COUNTS.clip(0, 4) / 4).astype(np.float32)
    A = sparse.csr_array(X)
    one, other = (VAE(**SETTINGS, binarize=how).fit(data) for data in (A, X))
    same(one, A, other, X)


def test_with_labels_and_held_out_rows_and_from_a_checkpoint(tmp_path):
    A, y, path = sparse.csr_array(COUNTS.astype(np.float32)), np.arange(150) % 3, tmp_path / "half.npz"
    settings = SETTINGS | {"likelihood": "poisson", "conditional": True, "validation_fraction": 0.2}

    def end(vae, record):
        if record["epoch"] == 2:
            vae.stop("enough")

    whole = VAE(**settings).fit(COUNTS.astype(np.float32), y)
    VAE(**settings, callbacks=[end]).fit(A, y, checkpoint=path)
    rest = VAE.load(path).fit(A, y, resume=True)
    assert (rest.network_.get_parameters() == whole.network_.get_parameters()).all()
    assert rest.history_[-1]["val_loss"] == whole.history_[-1]["val_loss"]


def test_nothing_of_it_is_copied_whole(tmp_path):
    path = tmp_path / "big.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float16, (40_000, 500))
    for start in range(0, 40_000, 4000):
        stored[start : start + 4000] = np.random.default_rng(start).random((4000, 500))
    del stored
    tracemalloc.start()
    try:
        data = load_dataset(path).train
        vae = VAE(latent_dim=2, hidden_dims=(16,), epochs=1, batch_size=1000, random_state=0, backend="numpy").fit(data)
        vae.transform(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000 * 500 * 2  # bytes in the file, where float32 has twice as many


def test_wrong_ones_are_named():
    with pytest.raises(ValueError, match=r"X has shape \(3,\)"):
        as_matrix(sparse.coo_array(np.ones(3)))
    with pytest.raises(ValueError, match="real numbers"):
        VAE().fit(sparse.csr_array(np.eye(3) * 1j))
    with pytest.raises(ValueError, match="row 1, column 2"):
        VAE(likelihood="gaussian").fit(sparse.csr_array(np.array([[1, 0, 0], [0, 0, np.nan]])))
