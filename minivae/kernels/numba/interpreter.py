"""The compiled half of a program: what one thread does with its tables, and how the threads begin and end.

A program is data, so nothing is compiled anew for a new depth, width or batch. encode.py writes it as instructions: the
address of a compiled function, and where its arrays and scalars are. The interpreter calls them and knows none of them.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, cfunc, types

from minivae.kernels import reference, table
from minivae.kernels.numba.gemm import SCRATCH
from minivae.kernels.numba.rows import ANSWERING, FUNCTIONS
from minivae.kernels.numba.threads import (
    CAN_CACHE,
    STOP,
    THREADS,
    atomic_add,
    atomic_load,
    barrier,
    call,
    inner,
    join_thread,
    lap,
    pointer,
    start_thread,
)

ROWS, COLUMNS, DEALT = range(3)  # how a segment is shared out
LANES = 16  # a share of the columns begins at a multiple of this, so that vectors stay whole
ROW_CHUNK = 512  # rows taken through a segment at a time: fewer would have each product read all of W more often


def record(names: str) -> np.dtype:
    """Whole numbers with names, as compiled code and NumPy both read them."""
    return np.dtype([(name, "i8") for name in names.split()])


# An array: where it lies, its sizes, the bytes from row to row and from column to column, and from one step to the next.
OPERAND = record("address rows columns row_bytes column_bytes step_bytes")
# A call of a compiled function. first .. last: the piece that its owner does, of columns all there are; by rows not used.
ITEM = record("function operands numbers owner first last place")
# Items start .. stop, shared out in one way; extent: rows of the batch; wait: whether a barrier follows.
SEGMENT = record("kind start stop extent wait")
# Everything that a thread has to know. numbers: the scalars of all items, [steps, numbers_size]. spent, scratch, handles
# and arguments have a row for each thread. The rest are counts, flags, and the system's functions.
PLAN = record(
    "steps stop_at_nan segments segment_count items item_count numbers numbers_size state spent spent_size scratch "
    "scratch_bytes threads arguments handles enter start join give_way close done"
)
ARGUMENT = record("plan thread")


def fingerprint() -> str:
    """A word that changes with the source of anything that is compiled here."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(table.__file__), Path(reference.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


SOURCES = fingerprint()


def by_address(function: Any, arguments: int) -> Any:
    """A Python function of so many whole numbers, compiled into one that is called by its address and kept in the cache.

    Numba's cache looks at the name of a function and at its own file alone, so the name tells what it is compiled from.
    """
    function.__qualname__ = f"{function.__name__}_{SOURCES}"
    signature, begun = types.int64(*[types.int64] * arguments), time.perf_counter()
    compiled = cfunc(signature, cache=CAN_CACHE, error_model="numpy", fastmath={"contract"})(function)
    spent = 0.0 if compiled.cache_hits else time.perf_counter() - begun
    before, _waited[0] = _waited[0], _waited[0] + spent
    if before < LONG <= _waited[0]:
        print("minivae: compiling the numba backend for this machine, once; it takes some 10 seconds", file=sys.stderr)
    return compiled


LONG = 1.0  # seconds of compiling that call for a word
_waited = [0.0]


# ---- An instruction: a function of rows.py behind a signature that is the same for all


@inner
def operand(operands, i):
    return carray(pointer(operands), (i + 1,), OPERAND)[i]


@inner
def matrix(operands, i, step, real):
    o = operand(operands, i)
    return carray(pointer(o.address + step * o.step_bytes), (o.rows, o.columns), real)


@inner
def vector(operands, i, step, real):
    o = operand(operands, i)
    return carray(pointer(o.address + step * o.step_bytes), (o.rows,), real)


@inner
def strided(operands, i, size, kind):
    o = operand(operands, i)
    return o.address, o.row_bytes, o.column_bytes, size, kind


@inner
def number(numbers, i, kind):
    return carray(pointer(numbers), (i + 1,), kind)[i]


@functools.cache
def instruction(name: str, real: str, data: str = "") -> Any:
    """The function of rows.py for arrays of type `real` as an instruction: its address, which lives as long as this value.

    Its code follows from its row in the table. data: the type of an array for which the row takes any. The instruction
    answers 0, or 1 where a function that looks at what it recorded finds no number there.
    """
    row, function = FUNCTIONS[name]
    place = {"r0": "first", "r1": "last", "scratch": f"carray(pointer(scratch), ({SCRATCH},), real)"}
    for i, array in enumerate(row.arrays):
        view, kind = "matrix" if len(array.shape) == 2 else "vector", f"np.{array.dtype}" if array.dtype else "real"
        place[array.name] = f"{view}(operands, {i}, step, {kind})"
        if array.dtype == "any":
            place[array.name] = f"strided(operands, {i}, {np.dtype(data).itemsize}, np.{data}(0))"
    for i, scalar in enumerate(row.scalars):
        place[scalar] = f"number(numbers, {i}, np.{'int64' if table.is_whole(scalar) else 'float64'})"
    code = function.py_func.__code__
    arguments = ", ".join(place.get(word, word) for word in code.co_varnames[: code.co_argcount])
    full_name = "_".join(filter(None, (name, real, data)))
    answer = f"0 if function({arguments}) else 1" if name in ANSWERING else f"done(function({arguments}))"
    source = f"def {full_name}(operands, numbers, step, first, last, thread, scratch):\n    return {answer}\n"
    names = globals() | {"function": function, "real": np.dtype(real).type}
    exec(compile(source, __file__, "exec"), names)  # the file is named for Numba, which keeps its cache beside it
    return by_address(names[full_name], 7)


@inner
def done(nothing):
    return 0


# ---- What a thread does


@inner
def share(n, thread, threads):
    """This thread's part of n columns."""
    whole = n // LANES
    first = LANES * (whole * thread // threads)
    return first, n if thread == threads - 1 else LANES * (whole * (thread + 1) // threads)


@inner
def run_item(item, plan, i, first, last, thread):
    numbers = plan.numbers + 8 * (i * plan.numbers_size + item.numbers)
    scratch = plan.scratch + thread * plan.scratch_bytes
    return call(item.function, item.operands, numbers, i, first, last, thread, scratch)


@inner
def work(plan, thread, threads):
    """What one thread does of all steps; thread 0 counts those that ran."""
    segments = carray(pointer(plan.segments), (plan.segment_count,), SEGMENT)
    items = carray(pointer(plan.items), (plan.item_count,), ITEM)
    spent = carray(pointer(plan.spent + 8 * thread * plan.spent_size), (plan.spent_size,), np.int64)
    lap(spent, -1)  # sets the clock
    for i in range(plan.steps):
        for s in range(plan.segment_count):
            segment = segments[s]
            if segment.kind == ROWS:
                first, last = segment.extent * thread // threads, segment.extent * (thread + 1) // threads
                pieces = max(1, (last - first + ROW_CHUNK - 1) // ROW_CHUNK)
                for piece in range(pieces):
                    r0, r1 = first + (last - first) * piece // pieces, first + (last - first) * (piece + 1) // pieces
                    if r1 > r0:
                        for o in range(segment.start, segment.stop):
                            run_item(items[o], plan, i, r0, r1, thread)
                            lap(spent, items[o].place)
            elif segment.kind == COLUMNS:
                for o in range(segment.start, segment.stop):
                    c0, c1 = share(items[o].last, thread, threads)
                    if c1 > c0:
                        run_item(items[o], plan, i, c0, c1, thread)
                        lap(spent, items[o].place)
            else:
                for o in range(segment.start, segment.stop):
                    if (
                        items[o].owner % threads == thread
                    ):  # fewer threads than there should be do the others' items too
                        answer = run_item(items[o], plan, i, items[o].first, items[o].last, thread)
                        lap(spent, items[o].place)
                        if answer != 0 and plan.stop_at_nan != 0 and atomic_load(plan.state + 8 * STOP) == 0:
                            atomic_add(plan.state + 8 * STOP, i + 1)
            if segment.wait != 0:
                barrier(plan.state, threads, plan.give_way)
                lap(spent, -2)
        if thread == 0:
            carray(pointer(plan.done), (1,), np.int64)[0] = i + 1
        if atomic_load(plan.state + 8 * STOP) == i + 1:  # of this step: thread 0 may be in the next one already
            break
    return 0


def enter(argument):
    """A thread that was started: it waits until it is known how many there are."""
    mine = carray(pointer(argument), (1,), ARGUMENT)[0]
    plan = carray(pointer(mine.plan), (1,), PLAN)[0]
    while atomic_load(plan.state + 8 * THREADS) == 0:
        call(plan.give_way, 0, 0, 0, 0, 0, 0, 0)
    work(plan, mine.thread, atomic_load(plan.state + 8 * THREADS))
    return 0


def run(address):
    """All steps of a plan, by as many of its threads as could be started, the caller being one; all have ended after it."""
    plan = carray(pointer(address), (1,), PLAN)[0]
    threads = 1
    while threads < plan.threads and start_thread(
        plan.start, plan.enter, plan.arguments + 16 * threads, plan.handles + 8 * threads
    ):
        threads += 1
    atomic_add(plan.state + 8 * THREADS, threads)
    work(plan, 0, threads)
    for t in range(1, threads):
        join_thread(plan.join, plan.close, plan.handles + 8 * t)
    return threads


@functools.cache
def entry_points() -> tuple[Any, Any]:
    """`enter` and `run`, compiled."""
    return by_address(enter, 1), by_address(run, 1)
