"""The compiled half of a program: what one thread does with its tables, and how the threads begin and end.

A program is data, so nothing is compiled anew for a new depth, width or batch. encode.py writes it as instructions: the
address of a compiled function, and where its arrays and scalars are. The interpreter calls them and knows none of them.
"""

from __future__ import annotations

import functools
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from numba import carray, types

from minivae.forks import unforked
from minivae.kernels import bounds, columns, reference, table
from minivae.kernels.numba import cache, threads
from minivae.kernels.numba.gemm import SCRATCH
from minivae.kernels.numba.rows import ANSWERING, FUNCTIONS
from minivae.kernels.numba.threads import atomic_add, atomic_load, call, inner, lap, pointer, take, wait
from minivae.progress import say


def record(names: str) -> np.dtype:
    """Whole numbers with names, as compiled code and NumPy both read them."""
    return np.dtype([(name, "i8") for name in names.split()])


# An array: where it lies, its sizes, the bytes from row to row and from column to column, and from one step to the next.
OPERAND = record("address rows columns row_bytes column_bytes step_bytes")
# A call of a compiled function on rows, columns or numbers first .. last.
ITEM = record("function operands numbers first last place")
# Items start .. stop, which one thread does one after the other.
BLOCK = record("start stop")
# Blocks up to `stop`, in any order and by any threads; those of the next phase begin when all of these are done.
PHASE = record("stop")
# Everything that a thread has to know. numbers: the scalars of all items, [steps, numbers_size]. spent, scratch, handles
# and arguments have a row for each thread. The rest are counts, flags, and the system's functions.
PLAN = record(
    "steps stop_at_nan phases phase_count blocks block_count items item_count numbers numbers_size state spent spent_size "
    "scratch scratch_bytes threads arguments handles enter start join give_way close"
)
ARGUMENT = record("plan thread")


def fingerprint() -> str:
    """A word that changes with the source of anything that is compiled here."""
    files = [
        *sorted(Path(__file__).parent.glob("*.py")),
        *(Path(m.__file__) for m in (table, reference, columns, bounds)),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


SOURCES = fingerprint()


@unforked
def by_address(function: Any, arguments: int) -> Any:
    """A Python function of so many whole numbers, compiled into one that is called by its address and kept in the cache.

    Numba's cache looks at the name of a function and at its own file alone, so the name tells what it is compiled from.
    """
    function.__qualname__ = f"{function.__name__}_{SOURCES}"
    signature, begun = types.int64(*[types.int64] * arguments), time.perf_counter()
    compiled = cache.compiled(function, signature, error_model="numpy", fastmath={"contract"})
    spent = 0.0 if compiled.cache_hits else time.perf_counter() - begun
    before, _waited[0] = _waited[0], _waited[0] + spent
    if before < LONG <= _waited[0]:
        scope = "process" if cache.unkept else "machine, once"
        say(f"minivae: compiling the numba backend for this {scope}; it takes some 10 seconds")
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
    source = f"def {full_name}(operands, numbers, step, first, last, scratch):\n    return {answer}\n"
    names = globals() | {"function": function, "real": np.dtype(real).type}
    exec(compile(source, __file__, "exec"), names)  # the file is named for Numba, which keeps its cache beside it
    return by_address(names[full_name], 6)


@inner
def done(nothing):
    return 0


# ---- What a thread does


@inner
def work(plan, thread):
    """What one thread does of all steps: of each phase what others have not taken, and on when all of it is done."""
    phases = carray(pointer(plan.phases), (plan.phase_count,), PHASE)
    blocks = carray(pointer(plan.blocks), (plan.block_count,), BLOCK)
    items = carray(pointer(plan.items), (plan.item_count,), ITEM)
    spent = carray(pointer(plan.spent + 8 * thread * plan.spent_size), (plan.spent_size,), np.int64)
    scratch = plan.scratch + thread * plan.scratch_bytes
    lap(spent, -1)  # sets the clock
    for i in range(plan.steps):
        begin = i * plan.block_count  # blocks are counted through all steps
        for p in range(plan.phase_count):
            end = begin + phases[p].stop
            taken = take(plan.state, end)
            while taken >= 0:
                block = blocks[taken - begin]
                for o in range(block.start, block.stop):
                    item = items[o]
                    numbers = plan.numbers + 8 * (i * plan.numbers_size + item.numbers)
                    answer = call(item.function, item.operands, numbers, i, item.first, item.last, scratch, 0)
                    if answer != 0 and plan.stop_at_nan != 0:
                        atomic_add(plan.state + 8 * threads.STOP, i + 1)
                    lap(spent, item.place)
                atomic_add(plan.state + 8 * threads.DONE, 1)
                taken = take(plan.state, end)
            wait(plan.state, end, plan.give_way)
            lap(spent, -2)
        if atomic_load(plan.state + 8 * threads.STOP) == i + 1:  # of this step: others may be ahead already
            break
    return 0


def enter(argument):
    """A thread that was started."""
    mine = carray(pointer(argument), (1,), ARGUMENT)[0]
    return work(carray(pointer(mine.plan), (1,), PLAN)[0], mine.thread)


def run(address):
    """All steps of a plan, by as many of its threads as could be started, the caller being one; all have ended after it."""
    plan = carray(pointer(address), (1,), PLAN)[0]
    running = 1
    while running < plan.threads and threads.start_thread(
        plan.start, plan.enter, plan.arguments + 16 * running, plan.handles + 8 * running
    ):
        running += 1
    work(plan, 0)
    for t in range(1, running):
        threads.join_thread(plan.join, plan.close, plan.handles + 8 * t)
    return running


@functools.cache
def entry_points() -> tuple[Any, Any]:
    """`enter` and `run`, compiled."""
    return by_address(enter, 1), by_address(run, 1)
