"""The same names as reference.py, as compiled code: one kernel at once, or a whole program by one compiled interpreter.

This module imports without Numba, so that it can say what is missing; everything else loads when a kernel is first used.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from minivae.kernels import Call, CallByCall, Var
from minivae.kernels.reference import empty, synchronize, to_device, to_host  # noqa: F401  (where NumPy's arrays live)
from minivae.kernels.table import TABLE


def availability() -> tuple[bool, str]:
    """Whether this backend works here, and a sentence that says why or why not."""
    if importlib.util.find_spec("numba") is None:
        return False, 'numba is not installed; run pip install "minivae[numba]"'
    try:
        from minivae.kernels.numba.tile import description
        from minivae.processors import thread_limit
    except ImportError as error:  # a Numba that does not fit this NumPy
        return False, str(error)
    version = importlib.metadata.version("numba")
    return True, f"Numba {version}, {thread_limit()} threads at most, {description()}"


def compile_program(kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> CallByCall:
    return CompiledProgram(kernels, program, arrays)


class CompiledProgram(CallByCall):
    """A program tied to arrays, as tables for the compiled interpreter. Falls back to call by call where it must."""

    def __init__(self, kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> None:
        from minivae.kernels.numba import encode, tables

        super().__init__(kernels, program, arrays)
        self.compiled = encode.can_encode(program, arrays)
        if self.compiled:
            self.tables = tables.Tables(program, arrays, encode.thread_count(program, arrays))
            named = [(row, name) for call in program for row, name in zip(TABLE[call.kernel].arrays, call.arrays)]
            sizes = [len(arrays[name]) for row, name in named if row.dtype == "any"]
            self.examples = min(sizes, default=None)
            self.places = min((len(arrays[name]) for row, name in named if row.name == "trace"), default=None)
            fixed = [s for call in program if call.kernel == "record" for s in call.scalars if not isinstance(s, Var)]
            require_within("index", np.array(fixed), self.places or 0)

    def __call__(self, **variables: Any) -> None:
        if not self.compiled:
            return super().__call__(**variables)
        rows = self.arrays["rows"][None] if "rows" in self.arrays else None
        self._run(1, rows, {name: [value] for name, value in variables.items()}, stop_at_nan=False)

    def steps(self, rows: Any, **variables: Any) -> int:
        if not self.compiled:
            return super().steps(rows, **variables)
        if "rows" in self.arrays and np.shape(rows)[1:] != self.arrays["rows"].shape:
            takes = len(self.arrays["rows"])
            raise ValueError(f"rows have shape {np.shape(rows)}; this program takes {takes} at a time")
        return self._run(len(rows), whole_numbers("rows", rows), variables, stop_at_nan=True)

    def _run(self, count: int, rows: Any, variables: Mapping[str, Any], stop_at_nan: bool) -> int:
        """How many steps ran. What would be read or written outside its array is an error before the first."""
        if rows is not None and self.examples is not None:
            require_within("rows", rows, self.examples)
        if self.places is not None and "index" in variables:
            require_within("index", np.asarray(variables["index"]), self.places)
        return self.tables.steps(count, rows, variables, stop_at_nan)


def require_within(name: str, values: np.ndarray, size: int) -> None:
    if values.size and not (values.min() >= 0 and values.max() < size):
        worst = values.max() if values.max() >= size else values.min()
        raise IndexError(f"{name} holds {worst}, and there are {size} to choose from, counted from 0")


# ---- The interface, each kernel at once


def at_once(name: str, *given: Any) -> None:
    """Run one kernel, in this thread. What compiled code cannot address is copied, and copied back if it is written."""
    from minivae.kernels.numba import encode

    row = TABLE[name]
    arrays, copies = {}, dict[Any, np.ndarray]()  # by their place in memory: two arguments may be one array
    for array, value in zip(row.arrays, given):
        if array.dtype == "int64":
            value = whole_numbers(array.name, value)
        elif array.dtype == "any":
            known = value.dtype.name in encode.DATA_TYPES
            value = value.astype(value.dtype.newbyteorder("=") if known else np.float64, copy=False)
        if (array.written or array.changed) and value is not None and not value.flags.writeable:
            raise ValueError(f"{name} writes to {array.name}, which is read-only; pass a copy of it")
        if value is not None and not encode.addressable(value, array.dtype):
            value = copies.setdefault(place(value), np.array(value, order="C"))
        arrays[array.name] = value
    row.sizes(list(arrays.values()))
    call = Call(name, tuple(n if a is not None else None for n, a in arrays.items()), given[len(row.arrays) :])
    program = CompiledProgram(sys.modules[__name__], [call], arrays)
    if not program.compiled:
        raise TypeError(f"{name} computes in float32 or float64; pass arrays of one of them")
    program()
    for array, value in zip(row.arrays, given):
        if value is not None and (array.written or array.changed) and place(value) in copies:
            value[...] = copies[place(value)]


def place(array: Any) -> Any:
    return array.ctypes.data, array.shape, array.strides


def whole_numbers(name: str, rows: Any) -> np.ndarray:
    rows = np.asarray(rows)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {rows.dtype}; of a boolean mask pass np.flatnonzero(mask)")
    return np.ascontiguousarray(rows, np.int64)


globals().update({name: functools.partial(at_once, name) for name in TABLE})
