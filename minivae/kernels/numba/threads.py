"""What threads need inside compiled code: numbers by their address, threads, counters that all see, and the taking of work.

The threads of a compiled step are started, and waited for, by compiled code within one call. No line of Python runs between
their beginning and their end, so nothing that Python may raise (Ctrl-C, no memory, no room for one more thread) can leave
one behind: there is no pool to start, to break at a fork or to enter twice.

Work lies ready in numbered blocks, and who has time takes the next. Nobody waits for a thread, only for blocks to be done: a
thread that the system has put aside, because others want its processor, holds up no more than the block it was at.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

TAKEN, DONE, STOP = 0, 16, 32  # places in the state, what threads share on lines of its own
STATE_SIZE = 48
WORD, WINDOWS = ir.IntType(64), os.name == "nt"
SPINS = 4000  # looks at what is done before a waiting thread offers its processor to others


@functools.cache
def system_functions() -> tuple[int, int, int, int]:
    """Addresses of the system's functions that start a thread, wait for its end, let others run, and close a handle."""
    names = ("pthread_create", "pthread_join", "sched_yield", "sched_yield")  # none to close
    if WINDOWS:
        names = ("CreateThread", "WaitForSingleObject", "SwitchToThread", "CloseHandle")
    library = ctypes.WinDLL("kernel32") if WINDOWS else ctypes.CDLL(None)
    start, join, give_way, close = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names)
    return start, join, give_way, close


inner = njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


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
        return builder.atomic_rmw("add", builder.inttoptr(arguments[0], WORD.as_pointer()), arguments[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def compare_exchange(context, address, expected, value):
    """The integer at this address, which becomes `value` if it is the expected one, in one indivisible step."""

    def codegen(context, builder, signature, arguments):
        place = builder.inttoptr(arguments[0], WORD.as_pointer())
        return builder.extract_value(builder.cmpxchg(place, *arguments[1:], "seq_cst", "seq_cst"), 0)

    return types.int64(*[types.int64] * 3), codegen


@intrinsic
def atomic_load(context, address):
    """The integer at this address as the other threads have left it."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(builder.inttoptr(arguments[0], WORD.as_pointer()), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def load_number(context, address, i, kind):
    """The i-th number from this address on, of kind's type, wherever it lies: a packed record is aligned to nothing."""

    def codegen(context, builder, signature, arguments):
        real = context.get_data_type(kind)
        return builder.load(builder.gep(builder.inttoptr(arguments[0], real.as_pointer()), [arguments[1]]), align=1)

    return kind(types.int64, types.int64, kind), codegen


@intrinsic
def ticks(context):
    """The processor's clock, which runs at one rate whatever the processor does; 0 where it has none that we know."""
    machine = platform.machine().lower()

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(WORD, [])
        if machine in ("x86_64", "amd64"):
            return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), kind), [])
        if machine in ("aarch64", "arm64"):
            return builder.asm(kind, "mrs $0, cntvct_el0", "=r", [], side_effect=True)
        return WORD(0)

    return types.int64(), codegen


@intrinsic
def call(context, function, a, b, c, d, e, f, g):
    """function(a, ..., g) by its address: an instruction, or one of the system's, which looks at its first arguments."""

    def codegen(context, builder, signature, arguments):
        kind = ir.FunctionType(WORD, [WORD] * 7)
        return builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), arguments[1:])

    return types.int64(*[types.int64] * 8), codegen


@inner
def start_thread(start, function, argument, handle):
    """Run function(argument) in a thread of its own; whether there was room for one. Its handle is written to an address."""
    if WINDOWS:  # HANDLE CreateThread(security, stack size, function, argument, flags, id)
        made = call(start, 0, 0, function, argument, 0, 0, 0)
        carray(pointer(handle), (1,), np.int64)[0] = made
        return made != 0
    # int pthread_create(handle, attributes, function, argument): an int is the lower half of a word
    return call(start, handle, 0, function, argument, 0, 0, 0) & 0xFFFFFFFF == 0


@inner
def join_thread(join, close, handle):
    """Wait for the end of the thread whose handle lies at this address, for ever if need be."""
    thread = carray(pointer(handle), (1,), np.int64)[0]
    call(join, thread, 0xFFFFFFFF if WINDOWS else 0, 0, 0, 0, 0, 0)
    if WINDOWS:  # pthread_join has let go of the thread, WaitForSingleObject has not
        call(close, thread, 0, 0, 0, 0, 0, 0)


@inner
def take(state, end):
    """The number of the next block before `end` that nobody has taken, or -1. state: the address of int64 [STATE_SIZE]."""
    taken = atomic_load(state + 8 * TAKEN)
    while taken < end:
        found = compare_exchange(state + 8 * TAKEN, taken, taken + 1)
        if found == taken:
            return taken
        taken = found
    return -1


@inner
def wait(state, end, give_way):
    """Wait until so many blocks are done."""
    looks = 0
    while atomic_load(state + 8 * DONE) < end:
        looks += 1
        if looks > SPINS:
            call(give_way, 0, 0, 0, 0, 0, 0, 0)


@inner
def lap(spent, place):
    """Add the ticks since the last lap to spent[place]; place -1 starts the clock. An empty `spent` measures nothing."""
    if len(spent) > 0:
        now = ticks()
        spent[place] += now - spent[-1]
        spent[-1] = now
