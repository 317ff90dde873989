"""Is this data? A numeric matrix, finite, and in the range of the likelihood: one sentence for whatever it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivae.data_files import Array, DataError

_CHUNK_VALUES = 2**22  # values per chunk of a pass over the data: 32 MiB of float64


def as_matrix(X: Any, name: str = "X") -> Array:
    """Turn array-like data into a numeric matrix, without a copy where its dtype can be used as it is.

    X is [N, D]. float32, float64, uint8 and bool, memory maps included, are returned as they are; float16 and integers
    up to 16 bits become float32, all other real numbers float64. Error messages call it `name`.

    Raises
    ------
    DataError : X is sparse, masked, not numeric, not 2-D, or has no rows or columns
    """
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise DataError(f"{name} is a sparse matrix; pass {name}.toarray()")
    if isinstance(X, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array; pass {name}.filled(value) with the value for the masked entries")
    try:
        array: Array = X if isinstance(X, np.ndarray) and not isinstance(X, np.matrix) else np.asarray(X)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{name} cannot be made an array ({error}); pass rows of equal length, all numbers") from error
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name} has dtype {array.dtype}, not real numbers; convert it to float32 or uint8 first")
    if array.ndim != 2:
        how = f"{name}.reshape(len({name}), -1)" if array.ndim > 2 else f"{name}.reshape(1, -1) if it is one example"
        raise DataError(f"{name} has shape {array.shape}; pass {how}")
    if array.size == 0:
        raise DataError(f"{name} has {array.shape[0]} rows and {array.shape[1]} columns; pass at least one of each")
    if array.dtype in (np.float32, np.float64, np.uint8, np.bool_):  # a foreign byte order is none of these
        return array
    small = array.dtype.itemsize <= 2 or array.dtype.newbyteorder("=") == np.float32
    return array.astype(np.float32 if small else np.float64)


def resolve_divisor(X: Array, divide_by: float | None) -> float:
    """The number that batches of X are divided by: `divide_by`, or 255 for uint8 and 1 otherwise when it is None.

    Raises DataError unless `divide_by` is a positive finite number.
    """
    if divide_by is None:
        return 255.0 if X.dtype == np.uint8 else 1.0
    try:
        divisor = float(divide_by)
    except (TypeError, ValueError, OverflowError):
        divisor = math.nan
    if not 0 < divisor < math.inf:
        raise DataError(f"divide_by={divide_by!r} must be a positive finite number; pass the largest value of the data")
    return divisor


@dataclass(frozen=True, eq=False)
class Summary:
    """Column statistics of the scaled data, X / divide_by: each [D] float64; the variance is that of the population."""

    rows: int
    mean: Array
    variance: Array
    minimum: Array
    maximum: Array
    divide_by: float = 1.0


@np.errstate(all="ignore")  # NaN and infinite values are named below, better than by a warning
def summarize(X: Any, divide_by: float | None = None, name: str = "data") -> Summary:
    """Mean, variance, minimum and maximum of every column of X / divide_by, in one pass.

    The pass holds about 32 MB at a time, so X may be a memory map larger than memory. Chunks are merged as in Chan,
    Golub and LeVeque (1979), which loses no digits where the mean is large against the spread.

    Raises
    ------
    DataError : X is not a matrix (see `as_matrix`), or naming row and column of its first NaN or infinite value
    """
    X = as_matrix(X, name)
    divisor = resolve_divisor(X, divide_by)
    columns = X.shape[1]
    mean, squares = np.zeros(columns), np.zeros(columns)  # squares = sum (x - mean)^2 over the rows so far
    minimum, maximum = np.full(columns, np.inf), np.full(columns, -np.inf)
    step = max(1, _CHUNK_VALUES // columns)
    for start in range(0, len(X), step):
        chunk = X[start : start + step] / np.float64(divisor)
        low, high = chunk.min(axis=0), chunk.max(axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):  # NaN passes through min and max
            row, column = np.argwhere(~np.isfinite(chunk))[0]
            raise DataError(
                f"{name} has {'NaN' if np.isnan(chunk[row, column]) else 'an infinite value'} at row {start + row}, "
                f"column {column} (counted from 0); remove or fill such values, for example keep the rows "
                "X[np.isfinite(X).all(axis=1)]"
            )
        n = len(chunk)
        chunk_mean = chunk.mean(axis=0)
        chunk -= chunk_mean
        delta = chunk_mean - mean
        squares += np.einsum("nd,nd->d", chunk, chunk) + delta * (delta * (start * n / (start + n)))
        mean += delta * (n / (start + n))
        np.minimum(minimum, low, out=minimum)
        np.maximum(maximum, high, out=maximum)
    return Summary(len(X), mean, squares / len(X), minimum, maximum, divisor)


def check_range(summary: Summary, likelihood: str) -> None:
    """Raise DataError when the scaled data do not suit the likelihood: "bernoulli" needs values in [0, 1].

    An excess of up to 1e-6, which rounding can cause, is let pass. Other likelihoods take any finite data.
    """
    if likelihood != "bernoulli":
        return
    needs, low, high = "likelihood 'bernoulli' needs data in [0, 1]", summary.minimum, summary.maximum
    after = "" if summary.divide_by == 1 else f" after division by {summary.divide_by:g}"
    if low.min() < -1e-6:
        raise DataError(
            f"{needs}; column {low.argmin()} falls to {low.min():g}{after}; "
            "shift and scale the data to [0, 1] or choose likelihood='gaussian'"
        )
    if high.max() > 1 + 1e-6:
        divisor = high.max() * summary.divide_by  # what divides the stored data, not the scaled ones
        short = f"{math.ceil(divisor - 1e-6)}" if divisor < 1e6 else repr(float(divisor))
        raise DataError(
            f"{needs}; column {high.argmax()} reaches {high.max():g}{after}; "
            f"divide by {short} (divide_by={short}, --divide-by {short}) or choose likelihood='gaussian'"
        )
