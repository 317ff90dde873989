"""The whole training step as one compiled function: an interpreter for programs, compiled once for each dtype.

A program is data (a list of calls over named arrays), so nothing has to be compiled anew for a new depth, width,
activation, likelihood or optimizer: `encode` turns it into tables of addresses and numbers, and `work` runs the tables.
Every thread runs `work`; a step has phases, with a barrier after each:

    ROWS     each thread takes its own rows through the whole chain: batch, forward, loss, backward to the first layer
    COLUMNS  where that would leave a thread few rows (each product then reads all of W for little), the products of a
             dense layer are shared out by columns, with a barrier after each, and only the rest goes by rows
    ALL      thread 0 does what needs every row but is small: mean KL, the gradient norm, the record
    BLOCKS   each thread computes its own blocks of every dW and db, and updates those parameters at once
    UPDATE   where the gradient is clipped, the update must wait for the norm of all of it

With free bits, a mean over the batch stands between forward and backward, and the ROWS phase is cut in two there.
"""

from __future__ import annotations

import itertools
import math
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from minivae.kernels import Call, CallByCall, Var
from minivae.kernels.numba.gemm import HEIGHTS, SCRATCH
from minivae.kernels.numba.interpreter import ALL, BLOCKS, COLUMNS, OPERATION, ROWS, UPDATE, VARIABLES, work
from minivae.kernels.numba.rows import ACTIVATION
from minivae.kernels.numba.threads import DONE, STATE_SIZE, thread_limit, yield_address

GRAIN = 2e6  # floating point operations of a program's products that make one more thread worth its barriers
UPDATE_ROWS = 20  # updating a parameter takes the time of so many rows' products with it
FEW_ROWS = 48  # rows per thread below which the products of dense layers are shared out by columns instead
BLOCK_BYTES = 2**18  # of a block of dW: with its parameters and moments it stays in the cache of one core
ROW_KERNELS = {
    *("gather", "philox_uniform", "philox_normal", "binarize", "dense_forward", "dense_backward"),
    *("sample_forward", "sample_backward", "bernoulli_loss", "gaussian_loss", "gaussian_elementwise_loss"),
}
DATA_TYPES = {"uint8": 0, "bool": 0, "float32": 1, "float64": 2}


class CompiledProgram(CallByCall):
    """A program tied to arrays, as tables for the compiled interpreter. Falls back to call by call where it must."""

    def __init__(self, kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> None:
        super().__init__(kernels, program, arrays)
        self.compiled = can_encode(program, arrays)
        if self.compiled:
            self.tables = encode(program, arrays, thread_count(program, arrays))

    def __call__(self, **variables: Any) -> None:
        if not self.compiled:
            return super().__call__(**variables)
        rows = self.arrays["rows"][None] if "rows" in self.arrays else np.zeros((1, 1), np.int64)
        self._run(rows, {name: [value] for name, value in variables.items()}, stop_at_nan=False)

    def steps(self, rows: Any, **variables: Any) -> int:
        if not self.compiled:
            return super().steps(rows, **variables)
        return self._run(np.ascontiguousarray(rows, np.int64), variables, stop_at_nan=True)

    def _run(self, rows: np.ndarray, variables: Mapping[str, Any], stop_at_nan: bool) -> int:
        """Start the threads, of which the caller is one; how many steps ran."""
        table = np.zeros((len(rows), len(VARIABLES)))
        for name, values in variables.items():
            if name in VARIABLES:
                table[:, VARIABLES.index(name)] = values
        t, state = self.tables, np.zeros(STATE_SIZE, np.int64)
        plan = (t.facts, t.phases, t.order, t.blocks)
        common = (rows, (*t.program, table), *plan, t.partial, state, yield_address(), stop_at_nan)
        arguments = [(i, t.threads, *common, t.spent[i], t.scratch[i]) for i in range(t.threads)]
        with compiling(t.dtype):
            others = [threading.Thread(target=work, args=given) for given in arguments[1:]]
            for thread in others:
                thread.start()
            work(*arguments[0])
            for thread in others:
                thread.join()
        return int(state[DONE])


_ready: set[str] = set()  # dtypes whose interpreter has run in this process


@contextmanager
def compiling(dtype: Any) -> Iterator[None]:
    """Say what the wait is for, where the first run has to compile; from the cache it takes a fraction of a second."""
    if np.dtype(dtype).name in _ready:
        yield
        return
    note = "minivae: compiling the numba backend for this machine, once; it takes some 10 seconds"
    timer = threading.Timer(1.5, lambda: print(note, file=sys.stderr, flush=True))
    timer.start()
    try:
        # an empty run, in one thread: what several threads will need is compiled before they meet at a barrier
        work(0, 1, *_nothing(dtype))
        _ready.add(np.dtype(dtype).name)
    finally:
        timer.cancel()
    yield


def _nothing(dtype: Any) -> tuple[Any, ...]:
    """Arguments of `work` for no steps, of the very types that a program's have."""
    table, whole = np.zeros((1, len(VARIABLES))), np.zeros((0, 10), np.int64)
    program = (whole, whole, np.zeros((0, 8)), np.zeros((0, 8), np.int64))
    plan = ((0, -1, -1, 0, 0), np.zeros((0, 3), np.int64), np.zeros(0, np.int64), np.zeros((0, 8), np.int64))
    state = np.zeros(STATE_SIZE, np.int64)
    return (
        np.zeros((0, 1), np.int64), (*program, table), *plan, np.zeros(8), state, yield_address(), True,
        np.zeros(0, np.int64), np.zeros(SCRATCH, dtype),
    )  # fmt: skip


class Tables:
    """A program as numbers. Arrays are addresses: they must outlive the tables, which CompiledProgram sees to.

    facts: rows of the batch, the call of a KL that nothing waits for, that of the record (-1 for none), whether updates
    wait for the gradient's norm, and whether products are shared out by columns.
    """

    def __init__(
        self, program: Any, facts: Any, phases: Any, order: Any, blocks: Any, threads: int, dtype: Any
    ) -> None:
        self.program, self.facts, self.phases, self.order, self.blocks = program, facts, phases, order, blocks
        self.threads, self.dtype, self.partial = threads, dtype, np.zeros(8 * threads)
        self.scratch = [np.zeros(SCRATCH, dtype) for _ in range(threads)]
        self.spent = [np.zeros(0, np.int64)] * threads

    def measure(self) -> None:
        """From now on, count where the time of each thread goes."""
        self.spent = [np.zeros(3 * len(self.program[0]) + 2, np.int64) for _ in range(self.threads)]

    def shares(self) -> np.ndarray:
        """[threads, 3 calls + 1], each row of sum 1: a call's own work, its gradient, its update; at the end, waiting."""
        ticks = np.array(self.spent)[:, :-1]
        return np.asarray(ticks / np.maximum(1, ticks.sum(axis=1, keepdims=True)))


def thread_count(program: Sequence[Call], arrays: Mapping[str, Any]) -> int:
    """As many threads as there are processors and grains of work: products, and what an update moves to and fro."""
    operations = 0.0
    for call in program:
        if call.kernel == "dense_forward":
            operations += 2 * len(arrays[call.arrays[0]]) * arrays[call.arrays[3]].size
        elif call.kernel == "dense_backward":
            operations += (
                2 * len(arrays[call.arrays[3]]) * arrays[call.arrays[7]].size * (1 if call.arrays[0] is None else 2)
            )
        elif call.kernel in ("sgd_step", "adam_step"):
            operations += 2 * UPDATE_ROWS * arrays[call.arrays[0]].size
    return max(1, min(thread_limit(), int(operations / GRAIN)))


def can_encode(program: Sequence[Call], arrays: Mapping[str, Any]) -> bool:
    """Whether every kernel is known, they stand in the order of a step, and every array is a run of rows in memory."""
    kernels = {call.kernel for call in program}
    if kernels & {"sgd_step", "adam_step", "clip_global_norm"} and not kernels >= {
        "dense_backward",
        "clip_global_norm",
    }:
        return False
    for call in program:
        if call.kernel not in OPERATION:
            return False
        for name in call.arrays:
            if name is None:
                continue
            array = arrays[name]
            if name == "data":
                if array.dtype.name not in DATA_TYPES or array.ndim != 2 or array.strides[1] != array.itemsize:
                    return False
            elif not array.flags.c_contiguous:
                return False
    return True


def encode(program: Sequence[Call], arrays: Mapping[str, Any], threads: int) -> Tables:
    """The tables of a program: addresses, sizes, scalars (and which of them are variables), phases, blocks."""
    addresses = np.zeros((len(program), 10), np.int64)
    sizes = np.zeros((len(program), 10), np.int64)
    scalars = np.zeros((len(program), 8))
    variable = np.full((len(program), 8), -1, np.int64)
    for c, call in enumerate(program):
        bound = [None if name is None else arrays[name] for name in call.arrays]
        addresses[c, : len(bound)] = [0 if array is None else array.ctypes.data for array in bound]
        sizes[c, 0] = OPERATION[call.kernel]
        sizes[c, 1:9] = _sizes(call, bound)
        for k, value in enumerate(_numbers(call)):
            if isinstance(value, Var):
                variable[c, k] = VARIABLES.index(value.name)
            else:
                scalars[c, k] = value
    layers = [int(sizes[c, 4]) for c, call in enumerate(program) if call.kernel == "dense_forward"]
    batch = layers[0] if layers else len(arrays["rows"]) if "rows" in arrays else 1
    phases, order = _phases(program, by_columns=threads > 1 and batch < FEW_ROWS * threads)
    blocks = _blocks(program, arrays, threads)
    dtype = next(arrays[c.arrays[0]].dtype for c in program if c.arrays[0] is not None)
    late_kl = next((c for c, call in enumerate(program) if call.kernel == "kl_loss" and not has_free_bits(call)), -1)
    record = next((c for c, call in enumerate(program) if call.kernel == "record"), -1)
    facts = (batch, late_kl, record, int(UPDATE in phases[:, 0]), int(COLUMNS in phases[:, 0]))
    return Tables((addresses, sizes, scalars, variable), facts, phases, order, blocks, threads, dtype)


def has_free_bits(call: Call) -> bool:
    return bool(call.scalars[1] > 0)


def _sizes(call: Call, bound: Sequence[Any]) -> list[int]:
    """Up to eight whole numbers that the operation needs beside its arrays."""
    s: list[int] = []
    if call.kernel == "dense_forward":
        s = [*bound[3].shape, ACTIVATION[call.scalars[0]], len(bound[0])]
    elif call.kernel == "dense_backward":
        s = [*bound[7].shape, ACTIVATION[call.scalars[0]], len(bound[3])]
    elif call.kernel in ("philox_uniform", "philox_normal"):
        seed, purpose, _ = call.scalars
        s = [bound[0].shape[1], seed & 0xFFFFFFFF, seed >> 32, purpose, len(bound[0])]
    elif call.kernel == "gather":
        data = bound[1]
        s = [bound[0].shape[1], DATA_TYPES[data.dtype.name], data.strides[0] // data.itemsize, len(data), len(bound[0])]
    elif call.kernel in ("clip_global_norm", "sgd_step", "adam_step"):
        s = [bound[-1].size]
    elif call.kernel == "record":
        s = [len(bound[0]), len(bound[2]), len(bound[1])]
    elif call.kernel == "sample_backward":
        s = [bound[1].shape[1], len(bound[1])]
    elif call.kernel == "kl_loss":
        s = [bound[2].shape[1], len(bound[2])]
    elif call.kernel == "gaussian_elementwise_loss":
        s = [bound[3].shape[1], len(bound[3])]
    else:  # the kernels whose first array has the shape that matters
        s = [bound[0].shape[1], len(bound[0])]
    return s + [0] * (8 - len(s))


def _numbers(call: Call) -> list[Any]:
    if call.kernel in ("dense_forward", "dense_backward"):
        return []
    if call.kernel in ("philox_uniform", "philox_normal"):
        return [call.scalars[2]]
    return list(call.scalars)


def _phases(program: Sequence[Call], by_columns: bool) -> tuple[np.ndarray, np.ndarray]:
    """[kind, first, last] for each phase, and the calls in the order in which the phases take them."""
    kinds: list[tuple[int, list[int]]] = []
    rows: list[int] = []
    late: list[int] = []  # small things that need all rows, and whose results no row waits for
    clipped = updated = False
    for c, call in enumerate(program):
        if by_columns and call.kernel == "dense_forward":
            kinds += [(ROWS, rows), (COLUMNS, [c])]
            rows = []
        elif by_columns and call.kernel == "dense_backward" and call.arrays[0] is not None:
            kinds += [(ROWS, [*rows, c]), (COLUMNS, [c])]  # dy becomes da by rows, dx is made by columns
            rows = []
        elif call.kernel in ROW_KERNELS:
            rows.append(c)
            if call.kernel == "gaussian_loss":
                late.append(c)
        elif call.kernel == "kl_loss" and has_free_bits(call):
            kinds += [(ROWS, rows), (ALL, [c])]
            rows = []
        else:
            late.append(c)
            clipped |= call.kernel == "clip_global_norm" and math.isfinite(call.scalars[0])
            updated |= call.kernel in ("sgd_step", "adam_step")
    kinds.append((ROWS, rows))
    before = [c for c in late if program[c].kernel == "gaussian_loss"]
    after = [c for c in late if program[c].kernel not in ("gaussian_loss", "sgd_step", "adam_step")]
    if before:
        kinds.append((ALL, before))  # log_sigma's gradient, which its update needs
    if any(program[c].kernel == "dense_backward" for c in range(len(program))):
        kinds.append((BLOCKS, []))
    if clipped and updated:
        norm = [c for c in after if program[c].kernel == "clip_global_norm"]
        kinds += [(ALL, norm), (UPDATE, [])]
        after = [c for c in after if c not in norm]
    kinds.append((ALL, after))
    kinds = [(kind, calls) for kind, calls in kinds if calls or kind in (BLOCKS, UPDATE)]
    phases, order = [], []
    for kind, calls in kinds:
        phases.append([kind, len(order), len(order) + len(calls)])
        order += calls
    return np.array(phases, np.int64).reshape(-1, 3), np.array(order, np.int64)


def _blocks(program: Sequence[Call], arrays: Mapping[str, Any], threads: int) -> np.ndarray:
    """Rows [thread, call or -1, i0, i1, first, last, optimizer, clip]: a block of a dW (i0 < i1), or a db (i0 = -1).

    first .. last is the block's place in the flat vectors. What no dense_backward writes (log_sigma) is a block with
    call -1. Blocks are dealt out so that the threads' work is even.
    """
    optimizer = next((c for c, call in enumerate(program) if call.kernel in ("sgd_step", "adam_step")), -1)
    clip = next((c for c, call in enumerate(program) if call.kernel == "clip_global_norm"), -1)
    flat = arrays[program[clip].arrays[1]] if clip >= 0 else None
    start = flat.ctypes.data if flat is not None else 0
    found: list[tuple[float, list[int]]] = []
    covered = np.zeros(0 if flat is None else flat.size, bool)

    def place(array: np.ndarray) -> int:
        return -1 if flat is None else (array.ctypes.data - start) // array.itemsize

    for c, call in enumerate(program):
        if call.kernel != "dense_backward":
            continue
        dW, db, batch = arrays[call.arrays[1]], arrays[call.arrays[2]], len(arrays[call.arrays[3]])
        inputs, outputs = dW.shape
        count = max(1, math.ceil(dW.nbytes / BLOCK_BYTES), threads if dW.size * batch > 1e5 else 1)
        tall = HEIGHTS[0]  # blocks end where tiles do, but for the last
        edges = np.unique(np.append(np.linspace(0, inputs // tall, min(count, inputs) + 1).astype(int) * tall, inputs))
        first = place(dW)
        for i0, i1 in itertools.pairwise(edges):
            found.append(
                ((i1 - i0) * outputs * (batch + UPDATE_ROWS), [c, i0, i1, first + i0 * outputs, first + i1 * outputs])
            )
        found.append((outputs * (batch + UPDATE_ROWS), [c, -1, -1, place(db), place(db) + outputs]))
        if flat is not None:
            covered[first : first + dW.size] = covered[place(db) : place(db) + outputs] = True
    gaps = np.flatnonzero(~covered)
    if len(gaps):
        found.append((1.0, [-1, 0, 0, int(gaps[0]), int(gaps[-1]) + 1]))
    load, rows = [0.0] * threads, []
    for cost, block in sorted(found, key=lambda item: -item[0]):
        thread = int(np.argmin(load))
        load[thread] += cost
        rows.append([thread, *block, optimizer, clip])
    return np.array(rows, np.int64).reshape(-1, 8)
