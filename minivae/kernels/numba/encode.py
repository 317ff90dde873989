"""A program as instructions for the compiled interpreter: which, in which order, and how threads share them.

Each call of the program becomes a few instructions, shared out by rows, by columns, or in blocks (README.md). Their order
follows from the arrays: an instruction waits for a phase to end only where it reads or writes what others of the same
phase have written or read in pieces that are not its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minivae.kernels import Call, Var
from minivae.kernels.bounds import ESTIMATORS
from minivae.kernels.numba.rows import FUNCTIONS
from minivae.kernels.numba.tile import HEIGHTS
from minivae.kernels.reference import ACTIVATIONS
from minivae.kernels.table import TABLE, Kernel
from minivae.processors import thread_limit

GRAIN = 2e6  # floating point operations of a program's products that make one more thread worth waiting for
UPDATE_ROWS = 20  # updating a parameter takes the time of so many rows' products with it
ROW_PIECE = 256  # rows taken through a chain of instructions at a time, at most
LANES = 16  # a share of the columns begins at a multiple of this, so that vectors stay whole
FEW_ROWS = 48  # rows per thread below which the products of dense layers are shared out by columns instead
BLOCK_BYTES = 2**19  # of a block of dW: with its parameters and moments it stays in the cache of one core
DATA_TYPES = {"uint8": "uint8", "bool": "uint8", "float32": "float32", "float64": "float64"}  # and how they are read
FORWARD, GRADIENT, UPDATE = range(3)  # what a call's time is spent on, where it is measured
CODES = {name: code for names in (ACTIVATIONS, ESTIMATORS) for code, name in enumerate(names)}


@dataclass(eq=False)
class Instruction:
    """A function of rows.py on these arrays. key: instructions of one phase that touch the same array must share it.

    pieces: (first, last, cost) of what may be done by different threads; none: it is done as a whole.
    """

    function: str
    arrays: list[Any]
    scalars: list[Any]
    call: int
    key: Any = "whole"
    pieces: list[tuple[int, int, float]] = field(default_factory=list)
    purpose: int = FORWARD
    phase: int = 0

    @property
    def row(self) -> Kernel:
        return FUNCTIONS[self.function][0]

    @property
    def data_type(self) -> str:
        """How the elements of an array of any type are read."""
        names = (DATA_TYPES[array.dtype.name] for row, array in zip(self.row.arrays, self.arrays) if row.dtype == "any")
        return next(names, "")


# ---- From calls to instructions


class Lowering:
    """The instructions of a program, for so many threads."""

    def __init__(self, program: Sequence[Call], arrays: Mapping[str, Any], threads: int) -> None:
        self.threads, self.found = threads, list[Instruction]()
        self.blocks = dict[Any, Any]()  # of each gradient, by its place in memory: (call, width of a row, pieces)
        bound = [[None if name is None else arrays[name] for name in call.arrays] for call in program]
        sizes = [TABLE[call.kernel].sizes(given) for call, given in zip(program, bound)]
        self.examples = next((len(arrays[n]) for n in ("weight", "rows") if n in arrays), 0)
        self.most = max((n for given in sizes for n in (given.get("B", 0), given.get("S", 0))), default=0)
        for self.call, (call, given, letters) in enumerate(zip(program, bound, sizes)):
            self.rows = letters.get("B", letters.get("S", 1))
            self.by_columns = threads > 1 and self.rows < FEW_ROWS * threads
            scalars = [CODES.get(s, s) if isinstance(s, str) else s for s in call.scalars]
            getattr(self, call.kernel, self.in_general)(call, *given, *scalars)

    def add(self, function: str, arrays: Sequence[Any], scalars: Sequence[Any] = (), **how: Any) -> None:
        self.found.append(Instruction(function, list(arrays), list(scalars), self.call, **how))

    def row_pieces(self) -> dict[str, Any]:
        """Samples are cut where examples are, so that a thread takes an example with all its samples through a chain."""
        K = self.rows // self.examples if self.examples and self.rows % self.examples == 0 else 1
        most = self.most if K * self.examples == self.rows else self.rows
        count = self.threads * max(1, math.ceil(most / self.threads / ROW_PIECE))
        pieces = [(K * first, K * last, K * cost) for first, last, cost in cut(self.rows // K, count)]
        return {"key": ("rows", self.rows // K), "pieces": pieces}

    def by_rows(self, function: str, arrays: Sequence[Any], scalars: Sequence[Any] = ()) -> None:
        self.add(function, arrays, scalars, **self.row_pieces())

    def in_general(self, call: Call, *given: Any) -> None:
        """By rows what can be done so, then what is left."""
        arrays, scalars = given[: len(call.arrays)], given[len(call.arrays) :]
        if f"{call.kernel}_rows" in FUNCTIONS:
            self.by_rows(f"{call.kernel}_rows", arrays, scalars)
        if f"{call.kernel}_all" in FUNCTIONS:
            self.add(f"{call.kernel}_all", arrays, scalars)

    def share_product(self, c: Any, a: Any, b: Any, transpose_b: bool) -> Any:
        """c = a b or a b^T by rows, or by columns where there are few rows; how it was shared out."""
        how = self.row_pieces()
        if self.by_columns:
            how = {"key": ("columns", self.call), "pieces": cut(c.shape[1], self.threads, LANES)}
        self.add("gemm", (c, a, b), (False, transpose_b, self.by_columns), **how)
        return how

    def dense_forward(self, call, y, a, x, W, b, activation):
        how = self.share_product(a, x, W, False)
        self.add("bias_activation", (y, a, b), (activation, self.by_columns), **how)

    def dense_backward(self, call, dx, dW, db, dy, x, a, y, W, activation):
        self.by_rows("activation_backward", (dy, a, y), (activation,))
        if dx is not None:
            self.share_product(dx, dy, W, True)
        (inputs, outputs), batch = dW.shape, len(dy)
        count = max(1, math.ceil(dW.nbytes / BLOCK_BYTES), self.threads if dW.size * batch > 1e5 else 1)
        per_row = outputs * (batch + UPDATE_ROWS)
        tall = HEIGHTS[0]  # blocks end where tiles do, but for the last
        pieces = [(i0, i1, rows * per_row) for i0, i1, rows in cut(inputs, count, tall)]
        self.gradient("gemm", (dW, x, dy), (True, False, False), pieces, outputs)
        self.gradient("bias_gradient", (db, dy), (), [(0, 1, float(per_row))], outputs)

    def gradient(self, function: str, arrays: Any, scalars: Any, pieces: Any, width: int) -> None:
        """A gradient in blocks: the same blocks, counted in numbers and not in rows, will be updated."""
        place = interval(arrays[0])
        self.add(function, arrays, scalars, key=place, pieces=pieces, purpose=GRADIENT)
        self.blocks[place] = self.call, width, [(first * width, last * width, cost) for first, last, cost in pieces]

    def gaussian_loss(self, call, dmean, dlog_sigma, nll, mean, x, log_sigma, weight):
        self.by_rows("gaussian_loss_rows", (dmean, dlog_sigma, nll, mean, x, log_sigma, weight))
        self.add("sigma_gradient", (dlog_sigma, mean, x, log_sigma, weight))

    def kl_loss(self, call, kl_mean, dkl_mean, kl, weight, *scalars):
        beta, free_bits, capacity = scalars
        if any(isinstance(scalar, Var) or scalar > 0 for scalar in (free_bits, capacity)):
            self.add("kl_loss_all", (kl_mean, dkl_mean, kl, weight), scalars)
        else:  # dkl_mean is beta whatever the mean will be, and the backward pass need not wait for it
            self.by_rows("kl_weight", (dkl_mean,), (beta,))
            self.add("kl_loss_all", (kl_mean, np.empty_like(dkl_mean), kl, weight), scalars)

    # ---- Flat vectors [N], in the blocks of their gradients

    def parts(self, g: Any) -> list[Any]:
        """(call, first, last, width of a row, blocks) of each gradient within g; at the end, what no layer has written."""
        free, parts = np.ones(g.size, bool), []
        for (start, stop), (call, width, blocks) in self.blocks.items():
            first, last = (start - g.ctypes.data) // g.itemsize, (stop - g.ctypes.data) // g.itemsize
            if first >= 0 and last <= g.size:
                parts.append((call, first, last, width, blocks))
                free[first:last] = False
        edges = np.flatnonzero(np.diff(np.concatenate(([False], free, [False])).astype(np.int8)))
        return parts + [(self.call, a, b, b - a, [(0, b - a, 1.0)]) for a, b in edges.reshape(-1, 2).tolist()]

    def in_blocks(self, function: str, vectors: Sequence[Any], others: Sequence[Any], scalars: Sequence[Any]) -> None:
        """vectors, the last of them the gradient, then others: block by block."""
        for call, first, last, _, blocks in self.parts(vectors[-1]):
            pieces = [vector[first:last] for vector in vectors]
            how: dict[str, Any] = {"key": interval(pieces[-1]), "pieces": blocks, "purpose": UPDATE}
            self.found.append(Instruction(function, [*pieces, *others], list(scalars), call, **how))

    def clip_global_norm(self, call, norm, g, max_norm):
        parts = self.parts(g)
        squares, done = np.zeros(sum((last - first) // width for _, first, last, width, _ in parts)), 0
        for origin, first, last, width, blocks in parts:
            piece, rows = g[first:last], (last - first) // width
            how: dict[str, Any] = {"key": interval(piece), "pieces": blocks, "purpose": UPDATE}
            arrays = [squares[done : done + rows], piece]
            self.found.append(Instruction("squared_norm", arrays, [width], origin, **how))
            done += rows
        self.add("norm_of_squares", (norm, squares))
        if isinstance(max_norm, Var) or math.isfinite(max_norm):
            self.in_blocks("scale_to_norm", (g,), (norm,), (max_norm,))

    def sgd_step(self, call, p, m, g, *scalars):
        self.in_blocks("sgd_update", (p, m, g), (), scalars)

    def adam_step(self, call, p, m, v, g, *scalars):
        self.in_blocks("adam_update", (p, m, v, g), (), scalars)


# ---- From instructions to phases


def cut(n: int, count: int, unit: int = 1) -> list[tuple[int, int, float]]:
    """(first, last, size) of so many parts of n, or of fewer; each begins at a multiple of the unit."""
    edges = np.unique(np.append(np.linspace(0, n // unit, min(count, n) + 1).astype(int) * unit, n)).tolist()
    return [(first, last, float(last - first)) for first, last in itertools.pairwise(edges)]


def interval(array: Any) -> tuple[int, int]:
    """Where an array begins and ends in memory."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return int(low), int(high)


def set_phases(instructions: Sequence[Instruction]) -> None:
    """Give each instruction the first phase in which all that it depends on is done.

    Gradients come together, after all that goes by rows or columns, so that the threads' shares are even.
    """
    earliest = 0
    for _ in range(2):
        seen = np.zeros((0, 4), np.int64)  # begin, end, whether it is written, by which instruction
        for j, this in enumerate(instructions):
            this.phase = 0 if this.purpose == FORWARD else earliest
            mine = []
            for row, array in zip(this.row.arrays, this.arrays):
                mine.append((*interval(array), row.written or row.changed, j))
            for begin, end, writes, _ in mine:
                meets = (seen[:, 0] < end) & (begin < seen[:, 1]) & ((seen[:, 2] == 1) | writes)
                others = [instructions[i] for i in np.unique(seen[meets, 3])]
                this.phase = max([this.phase, *(other.phase + (other.key != this.key) for other in others)])
            seen = np.concatenate((seen, mine))
        earliest = 1 + max((i.phase for i in instructions if i.pieces and i.purpose == FORWARD), default=-1)


def blocks(instructions: Sequence[Instruction]) -> list[list[tuple[Instruction, int, int, int]]]:
    """What threads take from one phase, the most costly first: lists of (instruction, first, last).

    All that happens to a piece is done together, in order.
    """
    found: dict[Any, list[Any]] = {}
    for i in instructions:
        for n, (first, last, cost) in enumerate(i.pieces or [(0, 0, 0.0)]):
            found.setdefault((i.key, n), []).append((cost, (i, first, last)))
    return [[piece for _, piece in block] for block in sorted(found.values(), key=lambda block: -block[0][0])]


# ---- What a program needs, and whether it can be encoded


def thread_count(program: Sequence[Call], arrays: Mapping[str, Any]) -> int:
    """As many threads as there are processors and grains of work: products, and what an update moves to and fro."""
    operations = 0.0
    for call in program:
        given = dict(zip((array.name for array in TABLE[call.kernel].arrays), (arrays.get(n) for n in call.arrays)))
        if call.kernel == "dense_forward":
            operations += 2 * len(given["y"]) * given["W"].size
        elif call.kernel == "dense_backward":
            operations += 2 * len(given["dy"]) * given["W"].size * (1 if given["dx"] is None else 2)
        elif call.kernel in ("sgd_step", "adam_step"):
            operations += 2 * UPDATE_ROWS * given["p"].size
    return max(1, min(thread_limit(), int(operations / GRAIN)))


def can_encode(program: Sequence[Call], arrays: Mapping[str, Any]) -> bool:
    """Whether compiled code can address every array exactly. Of data it needs no more than a type that it knows."""
    reals = set[str]()  # a program computes in one type
    for call in program:
        if call.kernel not in TABLE:
            return False
        for row, name in zip(TABLE[call.kernel].arrays, call.arrays):
            if name is not None and not addressable(arrays[name], row.dtype):
                return False
            if name is not None and not row.dtype:
                reals.add(arrays[name].dtype.name)
    return len(reals) == 1


def addressable(array: Any, dtype: str) -> bool:
    if not isinstance(array, np.ndarray) or not array.dtype.isnative:
        return False
    if dtype == "any":
        return array.dtype.name in DATA_TYPES and array.ndim == 2
    wanted = (dtype,) if dtype else ("float32", "float64")
    return array.dtype.name in wanted and array.flags.c_contiguous and array.flags.aligned
