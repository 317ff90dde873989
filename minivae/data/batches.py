"""Data as the model sees them: training and held-out rows, and batches.

The stored values stay as they are, in memory or on disk. A batch is `data[rows] / divide_by`, computed when the batch
is made, so scaling never costs a second copy of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from minivae import randomness
from minivae.data.files import Array, DataError
from minivae.data.inplace import InPlace
from minivae.kernels import Call, Var

BINARIZE = ("none", "static", "dynamic")


def holdout(n: int, fraction: float, order: Array) -> tuple[Array, Array]:
    """Split the rows 0..n-1 into training rows and held-out rows, the first round(n * fraction) of `order`.

    The caller draws `order`, a permutation of range(n), so nothing here is random. Both results are int64 and sorted,
    so that a memory map is read in order.

    Raises
    ------
    DataError : `fraction` leaves no row on one side, or `order` is not a permutation of range(n)
    """
    held = round(n * fraction) if fraction > 0 else 0  # not of NaN
    if not 0 < held < n:
        of = f"{n} sample{'s' if n > 1 else ''}"
        raise DataError(
            f"holding out a fraction of {fraction} of {of} leaves {'none to train on' if held else 'none held out'}; "
            + (f"pass one from {1 / n:.2g} to {1 - 1 / n:.6g}, or " if n > 1 else "set ")
            + "validation_fraction=0"
        )
    order = np.asarray(order)
    if order.shape != (n,) or not np.array_equal(np.sort(order), np.arange(n)):
        raise DataError(f"order must hold each of 0..{n - 1} once; pass a permutation of range({n})")
    return np.sort(order[held:]).astype(np.int64), np.sort(order[:held]).astype(np.int64)


@dataclass(frozen=True)
class Examples:
    """Some rows of a data matrix, and how they become batches.

    data [n, D] stays as it is in memory or on disk; a batch is data[rows] / divide_by. binarize: "none" keeps the grey
    values, "static" draws each pixel once (a function of seed and row), "dynamic" anew at every step. side [n, C]: what a
    conditional model is told of each row. units [2, D]: shift and scale of the columns, taken here in float64 where float32
    has not the digits. A step gathers its rows itself, unless they are `staged`: then `load` brings them.
    """

    data: Any
    rows: Array
    divide_by: float = 1.0
    binarize: str = "none"
    side: Any = None
    units: Array | None = None
    _there: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.binarize not in BINARIZE:
            raise ValueError(f"binarize {self.binarize!r} is not one of {', '.join(BINARIZE)}")
        if self.rows.dtype.kind not in "iu":
            raise TypeError(f"rows must be whole numbers, not {self.rows.dtype}; of a mask pass np.flatnonzero(mask)")
        worst = self.rows[(self.rows < 0) | (self.rows >= len(self.data))][:1]
        if worst.size:
            raise ValueError(f"row {worst[0]} is not among the {len(self.data)} rows of the data, counted from 0")

    @property
    def staged(self) -> bool:
        return self.units is not None or isinstance(self.data, InPlace)

    def load(self, work: Any, rows: Array) -> None:
        """Say to a workspace which rows come next; where these are staged, bring them."""
        if "rows" in work.arrays:
            work.put("rows", rows)
        if self.staged and "x" in work.arrays:
            x = np.divide(self.data[rows], self.divide_by, dtype=np.float64)
            work.put("x", x if self.units is None else (x - self.units[0]) / self.units[1])

    def batch_program(self, seed: int) -> list[Call]:
        """data, rows -> x. Variable: step, which only dynamic binarization looks at."""
        program = [] if self.staged else [Call("gather", ("x", "data", "rows"), (self.divide_by,))]
        if self.binarize == "dynamic":
            scalars: tuple[Any, ...] = (seed, randomness.BINARIZE_DYNAMIC, Var("step"))
        else:
            scalars = (seed, randomness.BINARIZE_STATIC, 0)
        if self.binarize != "none":
            program += [Call("philox_uniform", ("u", "rows"), scalars), Call("binarize", ("x", "u"))]
        if self.side is not None:
            program.append(Call("gather", ("c", "side", "rows"), (1.0,)))
        return program

    def fixed(self) -> Examples:
        """The same rows for an evaluation, which compares models on one draw: dynamic becomes static."""
        return replace(self, binarize="static" if self.binarize == "dynamic" else self.binarize)

    def on(self, kernels: ModuleType) -> dict[str, Any]:
        """data, and side, where this backend's arrays live; brought there once, however often these rows are evaluated."""
        if kernels.__name__ not in self._there:
            given = {"side": self.side} if self.side is not None else {}
            if not self.staged:
                given["data"] = self.data
            if self.units is not None:  # the network has nothing left to do with them
                given |= {
                    name: np.full(self.units.shape[1], i, np.float32) for i, name in enumerate(("shift", "scale"))
                }
            self._there[kernels.__name__] = {name: kernels.to_device(array) for name, array in given.items()}
        there: dict[str, Any] = self._there[kernels.__name__]
        return there

    def chunks(self, size: int) -> Iterator[tuple[slice, Array]]:
        """The rows in order, `size` at a time, each with its place."""
        for start in range(0, len(self.rows), size):
            yield slice(start, start + size), self.rows[start : start + size]
