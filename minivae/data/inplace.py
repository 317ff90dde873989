"""Data that a step cannot read where they lie: files of other types than a step's, and sparse matrices, read row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from minivae.data.opening import Array

STEPS = (np.float32, np.float64, np.uint8, np.bool_)  # what a step reads by itself


def dense_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What real numbers become: float16 and integers up to 16 bits float32, all but STEPS otherwise float64."""
    if dtype in STEPS:  # a foreign byte order is none of these
        return dtype
    small = dtype.itemsize <= 2 or dtype.newbyteorder("=") == np.float32
    return np.dtype(np.float32 if small else np.float64)


class InPlace:
    """A matrix [n, D] as a file or a sparse matrix holds it. What is asked for becomes dense, of the type that steps read.

    stored: a memory map, or a sparse matrix whose rows can be taken.
    """

    ndim = 2

    def __init__(self, stored: Any) -> None:
        self.stored, self.shape, self.dtype = stored, tuple(map(int, stored.shape)), dense_dtype(stored.dtype)
        self.nbytes = self.shape[0] * self.shape[1] * self.dtype.itemsize  # if it were dense

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        rows, *columns = key if isinstance(key, tuple) else (key,)
        found = self.stored[rows]
        dense = np.asarray(found.toarray() if hasattr(found, "toarray") else found).astype(self.dtype)
        if np.ndim(rows) == 0 and not isinstance(rows, slice):
            dense = dense.reshape(-1)  # of a sparse matrix one row is a matrix
            return dense[columns[0]] if columns else dense
        return dense[:, columns[0]] if columns else dense

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def __repr__(self) -> str:
        return f"{type(self.stored).__name__} of {self.stored.dtype} {self.shape}, read as {self.dtype}"
