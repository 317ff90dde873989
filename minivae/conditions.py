"""What a conditional model is told beside the data: labels, or numbers, as an array [n, C] for encoder and decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minivae.data.files import Array, DataError


@dataclass(frozen=True)
class Condition:
    """How y becomes columns: labels one-hot by their classes, numbers standardised by shift and scale."""

    classes: tuple[Any, ...] = ()
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @classmethod
    def fitted(cls, y: Any) -> Condition:
        """Labels (strings, whole numbers, yes and no, in one dimension) or numbers [n] or [n, C].

        Raises DataError where y is neither, or has a NaN.
        """
        y = as_side(y)
        if y.dtype.kind != "f":
            return cls(classes=tuple(np.unique(y).tolist()))
        mean, spread = y.mean(axis=0), y.std(axis=0)
        if not np.isfinite(mean + spread).all():
            raise DataError(f"y reaches {np.abs(y).max():g}, whose square is no number; divide it by that")
        known = spread > 1e-12 * np.abs(mean)  # else numbers that are all the same
        return cls(shift=tuple(mean.tolist()), scale=tuple(np.where(known, spread, 1).tolist()))

    @property
    def width(self) -> int:
        """C, the columns that a y takes."""
        return len(self.classes) or len(self.shift)

    def columns(self, y: Any, n: int, dtype: Any) -> Any:
        """y as [n, C]; one label or one row of numbers stands for all n. Raises DataError naming what does not fit."""
        if y is None:
            raise DataError("this model is conditional; pass y, one label or row of numbers for each row of X")
        one_dimensional = self.classes or self.width == 1
        y = as_side(np.atleast_1d(_array(y)) if one_dimensional else np.atleast_2d(_array(y)))
        if len(y) == 1:
            y = np.repeat(y, n, axis=0)
        if len(y) != n:
            raise DataError(f"y has {len(y)} rows where {n} are needed; pass one for each, or one for all")
        if self.classes:
            known = ", ".join(map(str, self.classes))
            y = y.ravel() if y.ndim == 2 and y.shape[1] == 1 else y
            place = {label: i for i, label in enumerate(self.classes)}
            rows = [place.get(label, -1) for label in y.tolist()] if y.ndim == 1 else [-1]
            if -1 in rows:
                wrong = y.ravel()[rows.index(-1)]
                raise DataError(f"y holds {wrong!s}, and the model was fitted with the labels {known}")
            return np.eye(self.width, dtype=dtype)[rows]
        y = y.astype(np.float64).reshape(len(y), -1)
        if y.shape[1] != self.width:
            raise DataError(f"y has {y.shape[1]} columns, and the model was fitted with {self.width}; pass as many")
        side = np.asarray((y - self.shift) / self.scale, dtype, order="C")
        for row, column in np.argwhere(~np.isfinite(side))[:1]:
            raise DataError(
                f"y holds {y[row, column]:g} at row {row}, column {column}, which {np.dtype(dtype)} cannot hold in units "
                "of the y of the fit; leave such rows out"
            )
        return side

    def to_dict(self) -> dict[str, Any]:
        return {name: list(values) for name, values in asdict(self).items()}


def as_side(y: Any) -> Array:
    """y as labels [n], or as numbers [n, C] in float64. Raises DataError for anything else."""
    if y is None:
        raise DataError("conditional=True needs y, a label or a row of numbers for each row of X; call fit(X, y)")
    side = _array(y)
    if side.dtype.kind in "Ubiu" and (side.ndim == 1 or side.shape[1:] == (1,)):
        return side.ravel()
    if side.dtype.kind not in "fiub" or side.ndim not in (1, 2) or not side.size:
        raise DataError(
            f"y of type {side.dtype} and shape {side.shape} is neither labels [n] nor numbers [n] or [n, C]"
        )
    side = side.astype(np.float64).reshape(len(side), -1)
    if not np.isfinite(side).all():
        row, column = np.argwhere(~np.isfinite(side))[0]
        raise DataError(
            f"y holds {side[row, column]} at row {row}, column {column} (counted from 0); leave such rows out"
        )
    return side


def _array(y: Any) -> Array:
    """y as an array, texts as strings. Raises DataError where it makes none."""
    try:
        side: Array = np.asarray(y)
        if side.dtype == object and side.ndim == 1:
            side = np.array(side.tolist())
        return np.char.decode(side) if side.dtype.kind == "S" else side
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"y cannot be made an array ({error}); pass a label or a row of numbers for each row"
        ) from error
