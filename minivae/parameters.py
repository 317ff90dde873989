"""All parameters in one flat vector, and named views into it, both described by one list of (name, shape).

The optimizer, the gradient norm and the file see one vector; the kernels see matrices. The views share its memory.
"""

from __future__ import annotations

import math
from typing import Any

Layout = list[tuple[str, tuple[int, ...]]]


def size(layout: Layout) -> int:
    """The length of the flat vector."""
    return sum(math.prod(shape) for _, shape in layout)


def views(flat: Any, layout: Layout, *, gradient: bool = False) -> dict[str, Any]:
    """Name -> array of the given shape inside `flat` [size]; a gradient's names get their d: "encoder.0.dW"."""
    if flat.shape != (size(layout),):
        raise ValueError(f"these parameters need a flat vector of {size(layout)} numbers, not of shape {flat.shape}")
    arrays, start = {}, 0
    for name, shape in layout:
        stop = start + math.prod(shape)
        arrays[gradient_name(name) if gradient else name] = flat[start:stop].reshape(shape)
        start = stop
    return arrays


def gradient_name(name: str) -> str:
    """The name of a gradient: "encoder.0.W" -> "encoder.0.dW", "z" -> "dz"."""
    path, dot, last = name.rpartition(".")
    return f"{path}{dot}d{last}"
