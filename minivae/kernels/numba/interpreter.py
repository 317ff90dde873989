"""The compiled half of encode.py: what each thread does with the tables."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
from numba import carray, njit

from minivae.kernels.numba import rows as k
from minivae.kernels.numba.threads import (
    CAN_CACHE,
    DONE,
    SOURCES,
    STOP,
    atomic_add,
    atomic_load,
    barrier,
    lap,
    pointer,
)

ROWS, COLUMNS, ALL, BLOCKS, UPDATE = range(5)
FORWARDS, GRADIENT, UPDATED = range(3)  # what a call's time is spent on, where it is measured
ZERO = np.int64(0)  # a plain 0 would have Numba compile a function once more for that very number
LANES = 16  # a share of the columns begins at a multiple of this, so that vectors stay whole
ROW_CHUNK = 512  # rows taken through the chain at a time: fewer would have each product read all of W more often
VARIABLES = ("step", "update", "index", "beta", "learning_rate")
STEP, INDEX = 0, 2
OPERATION = {
    name: code
    for code, name in enumerate(
        (
            *("gather", "philox_uniform", "philox_normal", "binarize", "dense_forward", "dense_backward"),
            *("sample_forward", "sample_backward", "bernoulli_loss", "gaussian_loss", "gaussian_elementwise_loss"),
            *("kl_loss", "clip_global_norm", "sgd_step", "adam_step", "record"),
        )
    )
}
GATHER, UNIFORM, NORMAL, BINARIZE, FORWARD, BACKWARD, SAMPLE, SAMPLE_BACK, BERNOULLI, GAUSSIAN, ELEMENTWISE = range(11)
KL, CLIP, SGD, ADAM, RECORD = range(11, 16)

inner = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inner
def matrix(address, rows, columns, real):
    return carray(pointer(address), (rows, columns), real.dtype)


@inner
def vector(address, size, real):
    return carray(pointer(address), (size,), real.dtype)


@inner
def scalar(c, place, i, scalars, variable, table):
    """A scalar of call c: fixed, or a variable's value at step i."""
    if variable[c, place] >= 0:
        return table[i, variable[c, place]]
    return scalars[c, place]


@inner
def run_rows(c, i, r0, r1, rows, tables, late_kl, by_columns, real):
    """Call c on rows r0 .. r1 of the batch. by_columns: products of dense layers are left to run_columns."""
    addresses, sizes, scalars, variable, table = tables
    A, s = addresses[c], sizes[c]
    operation = s[0]
    if operation == GATHER:
        x, divisor = matrix(A[0], s[5], s[1], real), scalars[c, 0]
        if s[2] == 0:
            data8 = carray(pointer(A[1]), (s[4], s[3]), np.uint8)
            k.gather_rows(x, data8, rows[i], divisor, r0, r1)
        elif s[2] == 1:
            data32 = carray(pointer(A[1]), (s[4], s[3]), np.float32)
            k.gather_rows(x, data32, rows[i], divisor, r0, r1)
        else:
            data64 = carray(pointer(A[1]), (s[4], s[3]), np.float64)
            k.gather_rows(x, data64, rows[i], divisor, r0, r1)
    elif operation in (UNIFORM, NORMAL):
        out, step = matrix(A[0], s[5], s[1], real), scalar(c, 0, i, scalars, variable, table)
        if operation == UNIFORM:
            k.uniform_rows(out, rows[i], s[2:4], s[4], np.int64(step), r0, r1)
        else:
            k.normal_rows(out, rows[i], s[2:4], s[4], np.int64(step), r0, r1)
    elif operation == BINARIZE:
        k.binarize_rows(matrix(A[0], s[2], s[1], real), matrix(A[1], s[2], s[1], real), r0, r1)
    elif operation == FORWARD:
        inputs, outputs, f, B = s[1], s[2], s[3], s[4]
        y, a, x = matrix(A[0], B, outputs, real), matrix(A[1], B, outputs, real), matrix(A[2], B, inputs, real)
        W, b = matrix(A[3], inputs, outputs, real), vector(A[4], outputs, real)
        k.dense_forward_block(y, a, x, W, b, f, r0, r1, ZERO, outputs, real)
    elif operation == BACKWARD:
        inputs, outputs, f, B = s[1], s[2], s[3], s[4]
        dy, a, y = matrix(A[3], B, outputs, real), matrix(A[5], B, outputs, real), matrix(A[6], B, outputs, real)
        k.dense_backward_rows(dy, a, y, f, r0, r1)
        if A[0] != 0 and by_columns == 0:
            W = matrix(A[7], inputs, outputs, real)
            k.input_gradient_block(matrix(A[0], B, inputs, real), dy, W, r0, r1, ZERO, inputs, real)
    elif operation == SAMPLE:
        Z, B = s[1], s[2]
        z, kl, h, eps = (
            matrix(A[0], B, Z, real),
            matrix(A[1], B, Z, real),
            matrix(A[2], B, 2 * Z, real),
            matrix(A[3], B, Z, real),
        )
        k.sample_forward_rows(z, kl, h, eps, r0, r1)
    elif operation == SAMPLE_BACK:
        Z, B = s[1], s[2]
        dh, dz, h, eps = (
            matrix(A[0], B, 2 * Z, real),
            matrix(A[1], B, Z, real),
            matrix(A[2], B, 2 * Z, real),
            matrix(A[3], B, Z, real),
        )
        dkl_mean, weight = vector(A[4], Z, real), vector(A[5], B, real)
        if late_kl >= 0:  # no free bits: dkl_mean is beta, whatever the mean will be, and need not wait for it
            beta = scalar(late_kl, 0, i, scalars, variable, table)
            dkl_mean = np.full(Z, real.dtype.type(beta))
        k.sample_backward_rows(dh, dz, h, eps, dkl_mean, weight, r0, r1)
    elif operation == BERNOULLI:
        D, B = s[1], s[2]
        dout, nll, out = matrix(A[0], B, D, real), vector(A[1], B, real), matrix(A[2], B, D, real)
        k.bernoulli_loss_rows(dout, nll, out, matrix(A[3], B, D, real), vector(A[4], B, real), r0, r1)
    elif operation == GAUSSIAN:
        D, B = s[1], s[2]
        dmean, nll, mean = matrix(A[0], B, D, real), vector(A[2], B, real), matrix(A[3], B, D, real)
        log_sigma, weight = vector(A[5], 1, real), vector(A[6], B, real)
        k.gaussian_loss_rows(dmean, nll, mean, matrix(A[4], B, D, real), log_sigma, weight, r0, r1)
    elif operation == ELEMENTWISE:
        D, B = s[1], s[2]
        dout, nll, out = matrix(A[0], B, 2 * D, real), vector(A[1], B, real), matrix(A[2], B, 2 * D, real)
        k.gaussian_elementwise_loss_rows(dout, nll, out, matrix(A[3], B, D, real), vector(A[4], B, real), r0, r1)


@inner
def share(n, thread, threads):
    """This thread's part of n columns."""
    whole = n // LANES
    return LANES * (whole * thread // threads), n if thread == threads - 1 else LANES * (
        whole * (thread + 1) // threads
    )


@inner
def run_columns(c, thread, threads, addresses, sizes, real):
    """The product of dense layer c on this thread's columns, for all rows."""
    A, s = addresses[c], sizes[c]
    inputs, outputs, f, B = s[1], s[2], s[3], s[4]
    if s[0] == FORWARD:
        c0, c1 = share(outputs, thread, threads)
        if c1 > c0:
            y, a, x = matrix(A[0], B, outputs, real), matrix(A[1], B, outputs, real), matrix(A[2], B, inputs, real)
            W, b = matrix(A[3], inputs, outputs, real), vector(A[4], outputs, real)
            k.dense_forward_block(y, a, x, W, b, f, ZERO, B, c0, c1, real)
    else:
        i0, i1 = share(inputs, thread, threads)
        if i1 > i0:
            dx, dy = matrix(A[0], B, inputs, real), matrix(A[3], B, outputs, real)
            k.input_gradient_block(dx, dy, matrix(A[7], inputs, outputs, real), ZERO, B, i0, i1, real)


@inner
def run_all(c, i, tables, partial, trace_dtype, real):
    """Call c where it needs every row, in one thread."""
    addresses, sizes, scalars, variable, table = tables
    A, s = addresses[c], sizes[c]
    operation = s[0]
    if operation == KL:
        Z, B = s[1], s[2]
        beta, free_bits = scalar(c, 0, i, scalars, variable, table), scalar(c, 1, i, scalars, variable, table)
        kl_mean, dkl_mean = vector(A[0], Z, real), vector(A[1], Z, real)
        k.kl_loss_all(kl_mean, dkl_mean, matrix(A[2], B, Z, real), vector(A[3], B, real), beta, free_bits)
    elif operation == GAUSSIAN:
        D, B = s[1], s[2]
        mean, x = matrix(A[3], B, D, real), matrix(A[4], B, D, real)
        k.sigma_gradient(vector(A[1], 1, real), mean, x, vector(A[5], 1, real), vector(A[6], B, real))
    elif operation == CLIP:
        total = 0.0
        for t in range(len(partial) // 8):
            total += partial[8 * t]
        norm = vector(A[0], 1, real)
        norm[0] = math.sqrt(total)
    elif operation == RECORD:
        B, Z = s[3], s[2]
        trace = carray(pointer(A[0]), (s[1], 2 + Z), trace_dtype.dtype)
        nll, kl_mean, norm = vector(A[1], B, real), vector(A[2], Z, real), vector(A[3], 1, real)
        k.record_all(trace, nll, kl_mean, norm, vector(A[4], B, real), np.int64(table[i, INDEX]))


@inner
def finite_record(c, i, table, addresses, sizes, trace_dtype):
    trace = carray(pointer(addresses[c, 0]), (sizes[c, 1], 2 + sizes[c, 2]), trace_dtype.dtype)
    row = np.int64(table[i, INDEX])
    return math.isfinite(trace[row, 0]) and math.isfinite(trace[row, 1])


@inner
def gradient_block(block, addresses, sizes, real):
    """dW or db of one block, from all rows."""
    c, i0, i1 = block[1], block[2], block[3]
    A, s = addresses[c], sizes[c]
    inputs, outputs, B = s[1], s[2], s[4]
    dy = matrix(A[3], B, outputs, real)
    if i0 >= 0:
        dW = matrix(A[1], inputs, outputs, real)
        k.weight_gradient_block(dW, matrix(A[4], B, inputs, real), dy, i0, i1, real)
    else:
        k.bias_gradient(vector(A[2], outputs, real), dy)


@inner
def update_block(block, i, factor, tables, real):
    """The optimizer's step on one block of the flat vectors; the gradient is scaled by `factor` first."""
    addresses, sizes, scalars, variable, table = tables
    c, first, last = block[6], block[4], block[5]
    A, size = addresses[c], sizes[c, 1]
    p, m = vector(A[0], size, real)[first:last], vector(A[1], size, real)[first:last]
    learning_rate = scalar(c, 0, i, scalars, variable, table)
    if sizes[c, 0] == ADAM:
        v, g = vector(A[2], size, real)[first:last], vector(A[3], size, real)[first:last]
        if factor != 1:
            k.scale(g, real.dtype.type(factor))
        step = scalar(c, 4, i, scalars, variable, table)
        k.adam_update(p, m, v, g, learning_rate, scalars[c, 1], scalars[c, 2], scalars[c, 3], step, scalars[c, 5])
    else:
        g = vector(A[2], size, real)[first:last]
        if factor != 1:
            k.scale(g, real.dtype.type(factor))
        k.sgd_update(p, m, g, learning_rate, scalars[c, 1], scalars[c, 2] != 0)


@inner
def clip_factor(clip, addresses, scalars, real):
    norm = vector(addresses[clip, 0], 1, real)[0]
    return scalars[clip, 0] / norm if norm > scalars[clip, 0] else 1.0


@inner
def run_block(block, i, clipped, tables, partial, thread, spent, real):
    """The gradient of a block, its part of the squared norm, and, where nobody has to wait for that, its update."""
    addresses, sizes = tables[0], tables[1]
    c = max(0, block[1])
    if block[1] >= 0:
        gradient_block(block, addresses, sizes, real)
        lap(spent, 3 * c + GRADIENT)
    if block[7] >= 0:
        size = sizes[block[7], 1]
        g = vector(addresses[block[7], 1], size, real)[block[4] : block[5]]
        partial[8 * thread] += k.squared_norm(g)
    if block[6] >= 0 and clipped == 0:
        update_block(block, i, 1.0, tables, real)
    lap(spent, 3 * c + UPDATED)


def fingerprint() -> int:
    """A number that changes with the source of anything `work` is compiled from.

    Numba's cache looks at the file of the cached function alone, but at the values it closes over as well: this is one.
    """
    names = ("interpreter", "rows", "vector_math", "threads", "gemm")
    text = b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in names)
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def build(fingerprint):
    """The compiled function `work`."""

    @njit(nogil=True, error_model="numpy", fastmath={"contract"}, cache=CAN_CACHE)
    def work(
        thread, threads, rows, tables, facts, phases, order, blocks, partial, state,
        give_way, stop_at_nan, spent, real,
    ):  # fmt: skip
        """What one thread does of len(rows) steps; state[DONE] counts the steps that ran.

        tables: addresses, sizes, scalars and variables of each call, and the variables' values at each step.
        real [SCRATCH]: room for this thread's products, of the arrays' type. spent: ticks for each call and purpose, for
        waiting, and the last look at the clock; or empty.
        """
        addresses, sizes, scalars, _, table = tables
        state[SOURCES] = fingerprint
        trace_dtype = np.zeros(1, np.float64)
        batch, late_kl, record, clipped, by_columns = facts
        first, last = batch * thread // threads, batch * (thread + 1) // threads
        pieces = max(1, (last - first + ROW_CHUNK - 1) // ROW_CHUNK)
        lap(spent, -1)  # sets the clock
        for i in range(len(rows)):
            for p in range(len(phases)):
                kind, start, stop = phases[p]
                if kind == ROWS:
                    for piece in range(pieces):
                        r0 = first + (last - first) * piece // pieces
                        r1 = first + (last - first) * (piece + 1) // pieces
                        if r1 > r0:
                            for o in range(start, stop):
                                c = order[o]
                                run_rows(c, i, r0, r1, rows, tables, late_kl, by_columns, real)
                                lap(spent, 3 * c + FORWARDS)
                elif kind == COLUMNS:
                    for o in range(start, stop):
                        run_columns(order[o], thread, threads, addresses, sizes, real)
                        lap(spent, 3 * order[o] + FORWARDS)
                elif kind == BLOCKS:
                    partial[8 * thread] = 0
                    for b in range(len(blocks)):
                        if blocks[b, 0] == thread:
                            run_block(blocks[b], i, clipped, tables, partial, thread, spent, real)
                elif kind == UPDATE:
                    for b in range(len(blocks)):
                        if blocks[b, 0] == thread:
                            factor = clip_factor(blocks[b, 7], addresses, scalars, real)
                            update_block(blocks[b], i, factor, tables, real)
                            lap(spent, 3 * max(0, blocks[b, 1]) + UPDATED)
                elif thread == 0:
                    for o in range(start, stop):
                        run_all(order[o], i, tables, partial, trace_dtype, real)
                        lap(spent, 3 * order[o] + FORWARDS)
                if thread == 0 and p == len(phases) - 1:
                    state[DONE] = i + 1
                    if (
                        stop_at_nan
                        and record >= 0
                        and not finite_record(record, i, table, addresses, sizes, trace_dtype)
                    ):
                        atomic_add(state.ctypes.data + 8 * STOP, 1)
                barrier(state, threads, give_way)
                lap(spent, -2)
            if atomic_load(state.ctypes.data + 8 * STOP) != 0:
                break

    return work


work = build(fingerprint())
