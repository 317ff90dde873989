"""What the functions of figures ask of their arguments: rows of numbers, of shapes that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Decode = Callable[[np.ndarray], Any]  # z [n, Z] -> means [n, D]
Dims = tuple[int, int]  # two columns of mu, from 0
History = Sequence[dict[str, Any]]  # as VAE.history_
Shape = tuple[int, ...] | None


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def as_rows(values: Any, name: str, finite: bool = False) -> np.ndarray:
    rows: np.ndarray = np.asarray(values)
    fine = rows.ndim == 2 and rows.size > 0 and rows.dtype.kind in "fiub"
    require(fine, f"{name} has shape {rows.shape} and dtype {rows.dtype}; pass numbers [n, columns], n at least 1")
    bad = ~np.isfinite(rows).all(axis=1) if finite else np.zeros(1, bool)
    require(not bad.any(), f"{name} is not finite in row {bad.argmax()}, from 0; leave such rows out")
    return rows


def same_shape(remedy: str = "make them the same", finite: bool = False, **named: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays of rows, given by their names."""
    a, b = (as_rows(values, name, finite) for name, values in named.items())
    first, second = named
    require(a.shape == b.shape, f"{first} has shape {a.shape} and {second} {b.shape}; {remedy}")
    return a, b


def latent_columns(dims: Any, mu: np.ndarray, two: bool = False) -> list[int]:
    """Columns of mu; of two to draw the only one, where there is one."""
    Z = mu.shape[1]
    chosen = [0] if two and Z == 1 else [int(j) for j in dims]
    fine = (len(chosen) == min(2, Z) if two else len(chosen) > 0) and all(0 <= j < Z for j in chosen)
    require(fine, f"dims {chosen} must name {'two ' * two}latents from 0 to {Z - 1}")
    return chosen


def is_image(shape: Shape) -> bool:
    return shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def value_range(rows: np.ndarray) -> tuple[float, float]:
    """The least and the largest finite number."""
    finite = rows[np.isfinite(rows)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
