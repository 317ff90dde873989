"""What threads need inside compiled code: arrays by their address, a counter that all see, and a barrier.

Compiled steps run in ordinary Python threads that have let go of the interpreter lock. There is no thread pool to start,
to break at a fork or to enter twice: threads live from the first step of a call to its last.
"""

from __future__ import annotations

import ctypes
import os
import platform

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

ARRIVED, ROUND, STOP, DONE, SOURCES = 0, 16, 32, 48, 56  # places in the state, what threads share on lines of its own
STATE_SIZE = 64
SPINS = 4000  # looks at the round before a waiting thread offers its processor to others


def thread_limit() -> int:
    """MINIVAE_NUM_THREADS, or the processors that this process may use."""
    wanted = os.environ.get("MINIVAE_NUM_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(
            f"MINIVAE_NUM_THREADS must be a whole number of at least 1, not {wanted!r}; set it or unset it"
        )
    if wanted:
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def yield_address() -> int:
    """The address of the system's function by which a thread lets others run."""
    library, name = (
        (ctypes.WinDLL("kernel32"), "SwitchToThread") if os.name == "nt" else (ctypes.CDLL(None), "sched_yield")
    )
    return ctypes.cast(getattr(library, name), ctypes.c_void_p).value


def can_cache() -> bool:
    """Whether Numba finds a folder for compiled code: not on a read-only tree without a home directory."""
    try:
        njit(cache=True)(yield_address)
    except RuntimeError:
        return False
    return True


CAN_CACHE = can_cache()


@intrinsic
def pointer(context, address):
    """An integer as an untyped pointer, for numba.carray."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), codegen


@intrinsic
def atomic_add(context, address, value):
    """The integer at this address before value was added to it, in one indivisible step."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(context, address):
    """The integer at this address as the other threads have left it."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(place, "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def ticks(context):
    """The processor's clock, which runs at one rate whatever the processor does; 0 where it has none that we know."""
    machine = platform.machine().lower()

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [])
        if machine in ("x86_64", "amd64"):
            return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), kind), [])
        if machine in ("aarch64", "arm64"):
            return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], side_effect=True)
        return ir.IntType(64)(0)

    return types.int64(), codegen


@intrinsic
def call_void(context, address):
    """Call a C function without arguments."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@njit(nogil=True, cache=CAN_CACHE)
def barrier(state, threads, give_way):
    """Wait here until all threads have come. state: int64 [STATE_SIZE], zeros at first."""
    if threads == 1:
        return
    base = state.ctypes.data
    arrived, turn = base + 8 * ARRIVED, base + 8 * ROUND
    round_now = atomic_load(turn)
    if atomic_add(arrived, 1) == threads - 1:
        atomic_add(arrived, -threads)
        atomic_add(turn, 1)
        return
    looks = 0
    while atomic_load(turn) == round_now:
        looks += 1
        if looks > SPINS:
            call_void(give_way)


@njit(nogil=True)
def lap(spent, place):
    """Add the ticks since the last lap to spent[place]; place -1 starts the clock. An empty `spent` measures nothing."""
    if len(spent) > 0:
        now = ticks()
        spent[place] += now - spent[-1]
        spent[-1] = now
