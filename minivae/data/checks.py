"""Is this data? A numeric matrix, finite, and in the range of the likelihood: one sentence for whatever it is not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivae.data import frames
from minivae.data.files import Array, DataError
from minivae.data.inplace import InPlace, dense_dtype
from minivae.likelihoods import COUNTS, ONE_HOT, REAL, UNIT, domains, is_mixed, runs
from minivae.processors import memory_limit

_CHUNK_VALUES = 2**20  # values per chunk of a pass over the data: 8 MiB of float64


def as_matrix(X: Any, name: str = "X") -> Array:
    """Turn array-like data into a numeric matrix, without a copy where its dtype can be used as it is.

    X is [N, D]: an array, rows of numbers, a frame of pandas, polars or pyarrow, or whatever has __array__ or __dlpack__.
    float32, float64, uint8 and bool, memory maps included, are returned as they are, unless their rows lie apart by no whole
    number of values, as in packed records; float16 and integers up to 16 bits become float32, all other real numbers
    float64, and so do objects that are numbers, None being NaN. Memory maps that would have to be copied and sparse matrices
    become `InPlace`, whose rows are made dense as they are used. Error messages call it `name`.

    Raises
    ------
    DataError : X is masked, not numeric, not 2-D, or has no rows or columns
    """
    if isinstance(X, InPlace):
        return X  # type: ignore[return-value]  # it has all of an array that is used
    sparse = hasattr(X, "tocsr") and hasattr(X, "nnz")
    if isinstance(X, np.ma.MaskedArray):
        raise DataError(f"{name} is a masked array; pass {name}.filled(value) with the value for the masked entries")
    try:
        if frames.library(X):
            X = frames.matrix(X, name)
        elif hasattr(X, "__dlpack__") and not hasattr(X, "__array__"):
            X = np.from_dlpack(X)
        kept = sparse or (isinstance(X, np.ndarray) and not isinstance(X, np.matrix))
        array: Array = X.tocsr() if sparse else X if kept else np.asarray(X)
    except DataError:
        raise
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        raise DataError(f"{name} cannot be made an array ({error}); pass rows of equal length, all numbers") from error
    if array.dtype == object and array.ndim:
        array = _from_objects(array, name)
    if array.dtype.kind not in "fiub":
        about = "Complex data not supported: " if array.dtype.kind == "c" else ""
        raise DataError(f"{about}{name} has dtype {array.dtype}, not real numbers; convert it to float32 first")
    if array.ndim != 2:
        how = f"{name}.reshape(len({name}), -1)"
        if array.ndim < 2:
            how = f"{name}.reshape(1, -1) if it is one example, {name}.reshape(-1, 1) if it is one column"
        raise DataError(f"{name} has shape {array.shape}, not rows and columns. Reshape your data: pass {how}")
    for count, what in zip(array.shape, ("sample", "feature")):
        if not count:
            raise DataError(
                f"{name} has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required; pass at least one"
            )
    whole = sparse or (array.flags.aligned and not any(stride % array.itemsize for stride in array.strides))
    if not sparse and whole and array.dtype == dense_dtype(array.dtype):
        return array
    if sparse or isinstance(array, np.memmap):
        return InPlace(array)  # type: ignore[return-value]
    return array.astype(dense_dtype(array.dtype))


class NoNumber(DataError, TypeError):
    """An object among the data that is no number: TypeError is what NumPy and scikit-learn say of it."""


def _from_objects(array: Array, name: str) -> Array:
    """Objects that are numbers as float64, None and pandas' NA as NaN. Raises NoNumber naming the first that is none."""
    flat, missing = array.ravel(), {kind for kind in map(type, array.flat) if kind.__name__ == "NAType"}
    if missing:
        flat = np.array([None if type(value) in missing else value for value in flat], object)
    with suppress(OverflowError):  # of a whole number beyond them all
        if frames.are_numbers(set(map(type, flat))):
            return flat.astype(np.float64).reshape(array.shape)
    wrong = (not frames.are_numbers({type(v)}) or (isinstance(v, int) and abs(v) >= 2**1023) for v in flat)
    place = next(i for i, is_wrong in enumerate(wrong) if is_wrong)
    raise NoNumber(
        f"{name} holds {shown(flat[place])} at {tuple(map(int, np.unravel_index(place, array.shape)))} (counted from 0), "
        "and each argument must be no string and no object but a number that float64 holds; convert or leave out that column"
    )


def shown(value: Any) -> str:
    """What was given, for a message: cut where it is long. Python writes no number of 5,000 digits at all."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a stranger's repr raises
        text = f"something of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters of type {type(value).__name__})"


def require_count(name: str, value: Any, each: int = 0) -> None:
    """Raise unless value is a whole number from 1 on, and so many times `each` bytes fit into memory."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, not {shown(value)}")
    if not 1 <= value < 2**53:
        raise ValueError(f"{name} must be {'at least 1' if value < 1 else 'below 2^53'}, not {shown(int(value))}")
    if each:
        require_memory(f"{name}={value}", int(value) * each)


def require_memory(what: str, needed: int, fix: str = "lower it") -> None:
    """Raise ValueError where that takes more bytes than this process may have."""
    if needed > 2**26 and needed > (limit := memory_limit()):  # any machine has 64 MiB: no file need be read to know it
        raise ValueError(f"{what} would take {needed:,} bytes, and this process may use {limit:,}; {fix}")


def _chunks(X: Array, rows: Array | None = None) -> Iterator[tuple[Any, Array]]:
    """All rows of a matrix, or some, a chunk at a time: their numbers, and what they hold."""
    step = max(1, _CHUNK_VALUES // X.shape[1])
    places = range(len(X)) if rows is None else rows
    for start in range(0, len(places), step):
        piece = slice(start, start + step)
        yield places[piece], X[piece if rows is None else rows[piece]]


def resolve_divisor(X: Array, divide_by: float | None, likelihood: str = "bernoulli") -> float:
    """The number that batches of X are divided by: `divide_by`; when it is None, 255 for uint8 pixels and 1 otherwise.

    uint8 that holds nothing above 1 is no picture of 255 greys but yes and no, and stays as it is; so do counts. Raises
    DataError unless `divide_by` is a positive finite number.
    """
    if divide_by is None:
        if X.dtype != np.uint8 or is_mixed(likelihood) or domains(likelihood) & {COUNTS, ONE_HOT}:
            return 1.0
        return 255.0 if any((chunk > 1).any() for _, chunk in _chunks(X)) else 1.0
    try:
        divisor = float(divide_by)
    except (TypeError, ValueError, OverflowError):
        divisor = math.nan
    if not 0 < divisor < math.inf:
        raise DataError(f"divide_by={divide_by!r} must be a positive finite number; pass the largest value of the data")
    return divisor


@dataclass(frozen=True)
class Scale:
    """How a model scales what it reads, as decided on the data that it was fitted on.

    divide_by holds for every array if the user gave it, else for arrays of the kind fitted on: uint8 pixels, or not.
    """

    divide_by: float
    given: bool
    uint8: bool

    @classmethod
    def fitted(cls, X: Array, divide_by: float | None, likelihood: str, standardize: bool = False) -> Scale:
        if standardize and divide_by is None:  # the columns are brought to their units in any case
            divide_by = 1.0
        return cls(resolve_divisor(X, divide_by, likelihood), divide_by is not None, X.dtype == np.uint8)

    def divisor(self, X: Array, likelihood: str, name: str = "X") -> float:
        """What to divide X by. Raises DataError where X is of the other kind, and no range says what its values mean."""
        if self.given or self.uint8 == (X.dtype == np.uint8):
            return self.divide_by
        if domains(likelihood) != {REAL}:  # its range says what numbers of another type mean
            return resolve_divisor(X, None, likelihood)
        kinds = ("uint8 pixels", "uint8") if self.uint8 else ("numbers other than uint8", "float32")
        raise DataError(
            f"the model was fitted on {kinds[0]} divided by {self.divide_by:g}, and {name} is {X.dtype}; "
            f"pass {kinds[1]} on the scale of the fitted data, or set divide_by and fit again"
        )


@dataclass(frozen=True, eq=False)
class Summary:
    """Column statistics of the scaled data, X / divide_by: each [D] float64; the variance is that of the population.

    broken: a number that is not whole in each column, or NaN, where summarize was asked to look. seen: cells of each.
    """

    rows: int
    mean: Array
    variance: Array
    minimum: Array
    maximum: Array
    divide_by: float = 1.0
    broken: Array | None = None
    seen: Any = None

    def columns(self) -> tuple[Array, Array, Array, Array]:
        return self.mean, self.variance, self.minimum, self.maximum


@np.errstate(all="ignore")  # NaN and infinite values are named below, better than by a warning
def summarize(
    X: Any,
    divide_by: float | None = None,
    name: str = "data",
    rows: Array | None = None,
    whole: bool = False,
    missing: bool = False,
) -> Summary:
    """Mean, variance, minimum and maximum of every column of X / divide_by, in one pass over all or some rows.

    missing: NaN is a cell that was not observed; the statistics are those of the others. Of a column without any the minimum
    is infinite.

    The pass holds some 30 MB at a time, so X may be a memory map larger than memory. Chunks are merged as in Chan,
    Golub and LeVeque (1979), which loses no digits where the mean is large against the spread.

    Raises
    ------
    DataError : X is not a matrix (see `as_matrix`), or naming row and column of its first NaN or infinite value
    """
    X = as_matrix(X, name)
    divisor = resolve_divisor(X, divide_by)
    columns = X.shape[1]
    seen, mean, squares = np.zeros((3, columns))  # squares = sum (x - mean)^2 over the `seen` cells so far
    minimum, maximum = np.full(columns, np.inf), np.full(columns, -np.inf)
    broken = np.full(columns, np.nan) if whole else None

    def looked_at(chunk: Array, places: Any) -> tuple[Array, ...]:
        chunk = chunk / np.float64(divisor)
        here = ~np.isnan(chunk) if missing else np.ones(1, bool)
        low, high = np.where(here, chunk, np.inf).min(axis=0), np.where(here, chunk, -np.inf).max(axis=0)
        if np.isinf(chunk).any() or np.isnan(low).any() or np.isnan(high).any():  # NaN passes through min and max
            row, column = np.argwhere(np.isinf(chunk) | (np.isnan(chunk) & here))[0]
            after = f" after division by divide_by={divisor:g}" if np.isfinite(X[places[row], column]) else ""
            raise DataError(
                f"{name} has {'NaN' if np.isnan(chunk[row, column]) else 'an infinite value'} at row {places[row]}, "
                f"column {column} (counted from 0){after}; remove or fill such values, for example keep the rows "
                "X[np.isfinite(X).all(axis=1)], or say that NaN was not observed: missing='ignore'"
            )
        if broken is not None:
            np.fmax(broken, np.fmax.reduce(np.where(chunk == np.rint(chunk), np.nan, chunk), axis=0), out=broken)
        n = np.broadcast_to(here, chunk.shape).sum(axis=0)
        chunk_mean = np.where(here, chunk, 0).sum(axis=0) / np.maximum(n, 1)
        chunk = np.where(here, chunk - chunk_mean, 0)
        return n, low, high, chunk_mean, np.einsum("nd,nd->d", chunk, chunk)

    for places, chunk in _chunks(X, rows):
        bytes_ = chunk.dtype == np.uint8 and broken is None
        n, low, high, chunk_mean, chunk_squares = _of_bytes(chunk, divisor) if bytes_ else looked_at(chunk, places)
        delta = np.where(n > 0, chunk_mean - mean, 0)
        squares += chunk_squares + delta * (delta * (seen * n / np.maximum(seen + n, 1)))
        seen += n
        mean += delta * (n / np.maximum(seen, 1))
        np.minimum(minimum, low, out=minimum)
        np.maximum(maximum, high, out=maximum)
    count = len(X if rows is None else rows)
    return Summary(count, mean, squares / np.maximum(seen, 1), minimum, maximum, divisor, broken, seen)


def _of_bytes(chunk: Array, divisor: float) -> tuple[Any, ...]:
    """Cells, least, largest, mean and sum of squares about it of each column of whole numbers, which add up exactly."""
    n, wide = len(chunk), chunk.astype(np.float64)
    total = wide.sum(axis=0)
    squares = np.einsum("nd,nd->d", wide, wide) - total * total / n
    return n, chunk.min(axis=0) / divisor, chunk.max(axis=0) / divisor, total / n / divisor, squares / divisor**2


def check_range(summary: Summary, likelihood: str, units: Any = (), slack: float = 1e-6) -> str:
    """Raise DataError when the scaled data are not what the likelihood of their columns takes, see LIKELIHOODS.

    units: shift and scale of the columns of a model that standardizes them. Up to `slack` beyond [0, 1] is let pass: the
    usual 1e-6 for rounding; with more, the worst column is told in a sentence.
    """
    after, told, most = "" if summary.divide_by == 1 else f" after division by {summary.divide_by:g}", "", 1e-6
    for run in runs(likelihood, len(summary.mean)):
        low, high, first = summary.minimum[run.columns], summary.maximum[run.columns], run.column
        needs = f"likelihood {run.likelihood!r} needs {run.data}"
        where = after
        if run.data == UNIT and len(units):
            shift, scale = np.array(units[run.columns]).T
            low, high, where = (low - shift) / scale, (high - shift) / scale, " where 0 to 1 is the range of the fit"
        falls = f"column {first + low.argmin()} falls to {low.min():g}{where}"
        reaches = f"column {first + high.argmax()} reaches {high.max():g}{where}"
        if run.data in (COUNTS, ONE_HOT):
            if low.min() < 0:
                raise DataError(f"{needs}; {falls} (Negative values in data); choose likelihood='gaussian'")
            broken = np.full(1, np.nan) if summary.broken is None else summary.broken[run.columns]
            for column in np.flatnonzero(np.isfinite(broken))[:1]:
                fix = "set divide_by=1 (--divide-by 1) or choose" if after else "round the data or choose"
                raise DataError(
                    f"{needs}; column {first + column} holds {broken[column]:g}{after}; {fix} likelihood='gaussian'"
                )
        allowed = slack if run.data == UNIT else 1e-6
        anew = "fit anew on data that span it all" if len(units) else ""
        if run.data == UNIT and low.min() < -allowed:
            fix = anew or "shift and scale the columns to [0, 1] (standardize=True, --standardize)"
            raise DataError(f"{needs}; {falls} (Negative values in data); {fix} or choose likelihood='gaussian'")
        if run.data in (UNIT, ONE_HOT) and high.max() > 1 + allowed:
            counts = ", or 'poisson' for counts" * bool(low.min() >= 0)
            fix = f"{anew or divisor_for(high.max() * summary.divide_by)} or choose likelihood='gaussian'{counts}"
            if run.data == ONE_HOT:
                fix = "write a category as one column for each of its values"
            raise DataError(f"{needs}; {reaches}; {fix}")
        for excess, how in ((-low.min(), falls), (high.max() - 1, reaches)) if run.data == UNIT else ():
            if excess > most:
                cut = "" if len(units) else "; MinMaxScaler(clip=True) would cut it off"
                most, told = excess, f"{needs}; {how} and is used as it is{cut}"
    return told


def divisor_for(largest: float) -> str:
    """Advice for data that reach so far, which the next file of that kind must not prove wrong: never their own maximum.

    Whole numbers that use half of the range of 8, 10, 12 or 16 bits are divided by that range.
    """
    whole = abs(largest - round(largest)) < 1e-6 * largest
    for bits in (8, 10, 12, 16) if whole else ():
        full = 2**bits - 1
        if full / 2 <= largest <= full:
            return f"divide by {full}, the most that {bits} bits hold (divide_by={full}, --divide-by {full}),"
    return "scale the columns to [0, 1] (standardize=True, --standardize)"


def check_groups(X: Array, divide_by: float, name: str, likelihood: str, rows: Array | None) -> None:
    """Raise DataError where the columns of a category do not hold one 1 in a row, or a category is missing in part."""
    groups = [run for run in runs(likelihood, X.shape[1]) if run.data == ONE_HOT]
    for places, chunk in _chunks(X, rows) if groups else ():
        chunk = chunk / np.float64(divide_by)
        for run in groups:
            total, holes = chunk[:, run.columns].sum(axis=1), np.isnan(chunk[:, run.columns])
            wrong = np.flatnonzero(~((total == 1) | holes.all(axis=1)))
            if wrong.size:
                what = "is NaN in part" if holes[wrong[0]].any() else f"sums to {total[wrong[0]]:g}"
                raise DataError(
                    f"likelihood 'categorical' needs {ONE_HOT}; {name} {what} at row {places[wrong[0]]}, "
                    f"columns {run.column} to {run.column + run.count - 1}; write each category as one 1, "
                    "or as NaN in all of its columns"
                )
