"""Data frames of pandas, polars and pyarrow, column by column, without importing any of them: known by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np

from minivae.data.dialects import MISSING
from minivae.data.opening import Array, DataError

LIBRARIES = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "Table"}


def library(X: Any) -> str:
    """Which library's frame X is, or a subclass of it; "" for anything else."""
    for kind in type(X).__mro__:
        root = kind.__module__.partition(".")[0]
        if LIBRARIES.get(root) == kind.__name__:
            return root
    return ""


def labels(X: Any) -> list[Any]:
    """The columns' labels as the frame has them, which may be no strings."""
    return list(X.column_names if library(X) == "pyarrow" else X.columns)


def names(X: Any) -> list[str]:
    """The columns' names as strings. Raises DataError where two are the same, or where they have several levels."""
    found = labels(X)
    if any(isinstance(label, tuple) for label in found):
        raise DataError("the frame's column names have several levels; join them: X.columns = X.columns.map('_'.join)")
    found = list(map(str, found))
    for name in (name for name in found if found.count(name) > 1) if len(set(found)) < len(found) else ():
        raise DataError(f"two columns of the frame are named {name!r}; rename one of them, or drop one")
    return found


def columns(X: Any) -> Iterator[tuple[str, Array]]:
    """Name and values [n] of each column: numbers as float64 with NaN where missing, or str | None.

    Numbers are those of any width, yes and no, nullable and decimal columns; text, categories (as text, whatever they are)
    and enums are object arrays, and so is anything else, such as dates and lists: as the text that it would be in a file.
    """
    for name, values, odd in _stored(X):
        if odd:
            texts = [str(value) for value in values]
            values = np.array([None if t in MISSING or t == "NaT" else t for t in texts], object)
        yield name, values if values.dtype == object else values.astype(np.float64, copy=False)


def matrix(X: Any, what: str = "X") -> Array:
    """All columns [n, D] of numbers: of one type as stored, where the library can without a copy, else of the common one.

    Raises DataError naming the first column that holds no numbers.
    """
    found: dict[str, Array] = {}
    for name, values, odd in _stored(X):
        found[name] = values
        if odd:
            dates = values.dtype.kind in "mM" or "date" in odd or odd in ("Timestamp", "Period", "time")
            fix = "days since the first" if dates else "a column for each part"
            raise DataError(f"column {name!r} holds values of type {odd}; write it as numbers, as {fix}, or drop it")
        if values.dtype == object:
            first = next(value for value in values if value is not None)
            raise DataError(
                f"column {name!r} of {what} holds text, such as {first[:40]!r}; leave it out, or pass what "
                "minivae.load_dataset(frame) makes of the frame: a column for each value"
            )
    kinds = {values.dtype for values in found.values()}
    if len(kinds) == 1 and hasattr(X, "to_numpy") and (whole := X.to_numpy()).dtype in kinds:
        return np.asarray(whole)
    return np.column_stack(list(found.values())) if found else np.empty((len(X), 0))


def are_numbers(kinds: Collection[type]) -> bool:
    """Whether values of these types are each a real number, or None for none."""
    compound = (np.ndarray, np.complexfloating)
    return all((hasattr(k, "__float__") and not issubclass(k, compound)) or k is type(None) for k in kinds)


def _stored(X: Any) -> Iterator[tuple[str, Array, str]]:
    """Name and values of each column: numbers as stored (float64 where some are missing), text as objects.

    With them the types of values that are neither, else "".
    """
    read = {"pandas": _pandas, "polars": _polars, "pyarrow": _pyarrow}[library(X)]
    for place, name in enumerate(names(X)):
        values = read(X, place)
        kinds = set(map(type, values)) if values.dtype == object else set()
        odd = " and ".join(sorted(k.__name__ for k in kinds - {type(None)})) or str(values.dtype)
        if values.ndim == 1 and values.dtype == object and are_numbers(kinds):
            values = values.astype(np.float64)
        if values.ndim == 1 and (values.dtype.kind in "fiub" or (kinds and kinds <= {str, type(None)})):
            odd = ""
        yield name, values, odd


def _pandas(X: Any, place: int) -> Array:
    column = X.iloc[:, place]
    if column.dtype.kind in "fiub":
        values = column.to_numpy()
        return np.asarray(column.to_numpy(np.float64, na_value=np.nan) if values.dtype == object else values)
    if hasattr(column, "cat"):
        words = [*map(str, column.cat.categories), None]  # code -1 is the last: none
        return np.fromiter((words[code] for code in column.cat.codes), object, len(column))
    return np.asarray(column) if column.dtype.kind in "mMc" else np.asarray(column.to_numpy(object, na_value=None))


def _polars(X: Any, place: int) -> Array:
    column = X.to_series(place)
    wide = column.dtype.is_integer() and "128" in str(column.dtype)  # NumPy has no such type
    return np.asarray((column.cast(float) if wide else column).to_numpy())


def _pyarrow(X: Any, place: int) -> Array:
    values = np.asarray(X.column(place).to_numpy())
    if values.dtype != object:
        return values
    return np.fromiter(X.column(place).to_pylist(), object, len(X))  # to_numpy fills a dictionary's holes
