"""Matrix products for compiled code: c [m, n] = a b, from tiles that live in the registers of the processor.

A tile is a few rows by a few vectors of c. It is kept in registers while k runs:

    c_i [lanes] += a_ik * b_k [lanes]      for each row i and vector of the tile, one fused multiply-add each

    8 rows x 3 vectors of 16 numbers: 24 multiply-adds for 3 + 8 loads, which the loads can keep up with

One row of b is read in vectors, and a number by number with any two strides, so that a b and a^T b are the same loop and
neither operand is copied first: a panel of b as wide as a tile stays in the cache while all rows of a pass by. Only
a b^T needs b the other way round; its panels are transposed on the way. A BLAS copies both operands into packed form,
which pays for itself in large products; those of a training step are thin, and the tiles are faster (README.md).

Each number of c is summed in the order of k, whatever the tile: a product has the same bits for any number of threads.
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import njit, types
from numba.core import codegen, config
from numba.extending import intrinsic, overload

K_BLOCK = 512  # of k at a time: the panel of b and the rows of a that meet stay in the first caches


def vector_registers() -> tuple[int, int]:
    """(bytes of a vector register, number of registers) of the processor that Numba compiles for."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return 16, 32
    text = codegen.get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    features = {part[1:] for part in text.split(",") if part.startswith("+")}
    if "avx512f" in features:
        return 64, 32
    return (32, 16) if "avx2" in features or "avx" in features else (16, 16)


VECTOR_BYTES, REGISTERS = vector_registers()
# rows x vectors of the tallest tile: its sums, one row of b and one number of a must fit into the registers
HEIGHTS, VECTORS = ((8, 4, 2, 1), 3) if REGISTERS == 32 else ((6, 4, 2, 1), 2)
MASKS_ARE_FREE = VECTOR_BYTES >= 32  # AVX reads part of a vector as fast as all of it: one kind of tile serves for both


def description() -> str:
    """Which tiles products are made of here."""
    name = {64: "AVX-512", 32: "AVX"}.get(VECTOR_BYTES, "128-bit")
    return f"products in {name} tiles of {HEIGHTS[0]} x {VECTORS * VECTOR_BYTES // 4}"


@intrinsic
def tile(typing_context, real, rows, vectors, last, k, a, a_row, a_column, b, b_row, c, c_row, add):
    """c [rows, vectors * lanes] = (or, where add holds, +=) sum over k numbers; the last vector has only `last` lanes.

    real: an array of the numbers' type. a, b, c: addresses; strides in numbers. rows: one of HEIGHTS.
    """
    number = ir.FloatType() if real.dtype == types.float32 else ir.DoubleType()
    lanes = VECTOR_BYTES * 8 // real.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        _, rows, vectors, last, k, a, a_row, a_column, b, b_row, c, c_row, add = arguments
        a, b, c = (builder.inttoptr(address, number.as_pointer()) for address in (a, b, c))
        part = builder.zext(builder.icmp_signed("<", last, last.type(lanes)), last.type)
        code = builder.add(builder.mul(rows, rows.type(16)), builder.add(builder.mul(vectors, rows.type(2)), part))
        after = builder.append_basic_block("after")
        impossible = builder.append_basic_block("impossible")
        switch = builder.switch(code, impossible)
        for height in HEIGHTS:
            for width in range(1, VECTORS + 1):
                for part in (0, 1):
                    block = builder.append_basic_block(f"tile.{height}.{width}")
                    switch.add_case(code.type(height * 16 + width * 2 + part), block)
                    builder.position_at_end(block)
                    function = tile_function(builder.module, number, lanes, height, width, part or MASKS_ARE_FREE)
                    builder.call(function, [last, k, a, a_row, a_column, b, b_row, c, c_row, add])
                    builder.branch(after)
        builder.position_at_end(impossible)
        builder.unreachable()
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 11, types.boolean), generate


def tile_function(module, number, lanes, rows, vectors, masked):
    """The function of one kind of tile, in LLVM's language: void (last, k, a, a_row, a_column, b, b_row, c, c_row, add)"""
    index, flag, pointer = ir.IntType(64), ir.IntType(1), number.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [index, index, pointer, index, index, pointer, index, pointer, index, flag])
    name = f"minivae_tile_{rows}_{vectors}_{'part' if masked else 'whole'}_{'f' if lanes * 4 == VECTOR_BYTES else 'd'}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    last, k, a, a_row, a_column, b, b_row, c, c_row, add = function.args
    vector = ir.VectorType(number, lanes)
    memory = Memory(module, number, vector, last if masked else None)
    cells = [(r, v) for r in range(rows) for v in range(vectors)]
    start, loop, done, plus, store = (
        function.append_basic_block(n) for n in ("start", "loop", "done", "plus", "store")
    )

    at = ir.IRBuilder(start)
    memory.prepare(at)
    a_rows = [at.gep(a, [at.mul(a_row, index(r))]) for r in range(rows)]
    c_cells = [at.gep(c, [at.add(at.mul(c_row, index(r)), index(v * lanes))]) for r, v in cells]
    at.cbranch(at.icmp_signed(">", k, index(0)), loop, done)

    at = ir.IRBuilder(loop)
    step, place, b_now, *sums = [at.phi(t) for t in (index, index, pointer, *[vector] * len(cells))]
    b_vectors = [memory.load(at, at.gep(b_now, [index(v * lanes)]), v == vectors - 1) for v in range(vectors)]
    added = []
    for r in range(rows):
        spread = memory.spread(at, at.load(at.gep(a_rows[r], [place])))
        for v in range(vectors):  # "contract": the two become one multiply-add where the processor has it
            product = at.fmul(spread, b_vectors[v], flags=["contract"])
            added.append(at.fadd(product, sums[len(added)], flags=["contract"]))
    next_step = at.add(step, index(1))
    following = (next_step, at.add(place, a_column), at.gep(b_now, [b_row]), *added)
    first = (index(0), index(0), b, *[vector(None)] * len(cells))
    for phi, before, after in zip((step, place, b_now, *sums), first, following):
        phi.add_incoming(before, start)
        phi.add_incoming(after, loop)
    at.cbranch(at.icmp_signed("<", next_step, k), loop, done)

    at = ir.IRBuilder(done)
    totals = []
    for after in added:
        phi = at.phi(vector)
        phi.add_incoming(vector(None), start)
        phi.add_incoming(after, loop)
        totals.append(phi)
    at.cbranch(add, plus, store)

    at = ir.IRBuilder(plus)
    sums = [
        at.fadd(total, memory.load(at, cell, v == vectors - 1)) for total, cell, (_, v) in zip(totals, c_cells, cells)
    ]
    at.branch(store)

    at = ir.IRBuilder(store)
    results = []
    for total, after in zip(totals, sums):
        phi = at.phi(vector)
        phi.add_incoming(total, done)
        phi.add_incoming(after, plus)
        results.append(phi)
    for result, cell, (_, v) in zip(results, c_cells, cells):
        memory.store(at, result, cell, v == vectors - 1)
    at.ret_void()
    return function


class Memory:
    """Loads and stores of vectors; unless `last` is None, the last vector of a row reads and writes only that many lanes."""

    def __init__(self, module, number, vector, last):
        self.number, self.vector, self.last = number, vector, last
        self.size = 4 if isinstance(number, ir.FloatType) else 8
        integer, pointer = ir.IntType(32), vector.as_pointer()
        mask = ir.VectorType(ir.IntType(1), vector.count)
        suffix = f"v{vector.count}f{8 * self.size}.p0"

        def declare(name, kind):
            return module.globals.get(name) or ir.Function(module, kind, name)

        if last is not None:
            kind = ir.FunctionType(vector, [pointer, integer, mask, vector])
            self.masked_load = declare(f"llvm.masked.load.{suffix}", kind)
            kind = ir.FunctionType(ir.VoidType(), [vector, pointer, integer, mask])
            self.masked_store = declare(f"llvm.masked.store.{suffix}", kind)

    def prepare(self, at):
        """The mask: lanes before last."""
        if self.last is not None:
            lanes = ir.VectorType(self.last.type, self.vector.count)
            numbers = ir.Constant(lanes, list(range(self.vector.count)))
            self.mask = at.icmp_signed("<", numbers, spread(at, self.last, self.vector.count))

    def spread(self, at, number):
        return spread(at, number, self.vector.count)

    def load(self, at, place, is_last):
        place = at.bitcast(place, self.vector.as_pointer())
        if is_last and self.last is not None:
            return at.call(self.masked_load, [place, ir.IntType(32)(self.size), self.mask, self.vector(None)])
        return at.load(place, align=self.size)

    def store(self, at, value, place, is_last):
        place = at.bitcast(place, self.vector.as_pointer())
        if is_last and self.last is not None:
            at.call(self.masked_store, [value, place, ir.IntType(32)(self.size), self.mask])
        else:
            at.store(value, place, align=self.size)


def spread(at, number, lanes):
    """A vector with this number in every lane."""
    one = at.insert_element(ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined), number, ir.IntType(32)(0))
    return at.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def transpose_square(typing_context, real, source, source_row, target, target_row):
    """target [lanes, lanes] = source^T. real: an array of the numbers' type. Addresses; strides in numbers.

    As cards are shuffled: interleaving the rows of the first half with those of the second, log2(lanes) times, ends
    with the columns as rows.
    """
    number = ir.FloatType() if real.dtype == types.float32 else ir.DoubleType()
    lanes = VECTOR_BYTES * 8 // real.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        _, source, source_row, target, target_row = arguments
        source, target = (builder.inttoptr(p, number.as_pointer()) for p in (source, target))
        memory = Memory(builder.module, number, ir.VectorType(number, lanes), None)
        index, order = source_row.type, ir.VectorType(ir.IntType(32), lanes)
        first = ir.Constant(order, [i // 2 + (i % 2) * lanes for i in range(lanes)])
        second = ir.Constant(order, [lanes // 2 + i // 2 + (i % 2) * lanes for i in range(lanes)])
        rows = [
            memory.load(builder, builder.gep(source, [builder.mul(source_row, index(r))]), False) for r in range(lanes)
        ]
        for _ in range(lanes.bit_length() - 1):
            pairs = list(zip(rows[: lanes // 2], rows[lanes // 2 :]))
            rows = [builder.shuffle_vector(*pair, half) for pair in pairs for half in (first, second)]
        for r, row in enumerate(rows):
            memory.store(builder, row, builder.gep(target, [builder.mul(target_row, index(r))]), False)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 4), generate


@intrinsic
def copy_number(typing_context, real, source, target):
    """One number from an address to another."""

    def generate(context, builder, signature, arguments):
        pointer = (ir.FloatType() if real.dtype == types.float32 else ir.DoubleType()).as_pointer()
        source, target = (builder.inttoptr(address, pointer) for address in arguments[1:])
        builder.store(builder.load(source), target)
        return context.get_dummy_value()

    return types.void(real, types.int64, types.int64), generate


# ---- Whole products, from tiles

compiled = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)


def lanes(real):
    """Numbers of real's type in a vector, in compiled code only."""


@overload(lanes)
def lanes_in_compiled_code(real):
    count = VECTOR_BYTES * 8 // real.dtype.bitwidth
    return lambda real: count


@compiled
def height(rows):
    """The tallest tile that so many rows fill."""
    for h in HEIGHTS:
        if rows >= h:
            return h
    return 1


@compiled
def panel(m, n, k, a, a_row, a_column, b, b_row, c, c_row, add, real):
    """c [m, n], n up to the width of a tile: all rows of a pass by one panel of b."""
    vectors = (n + lanes(real) - 1) // lanes(real)
    last = n - (vectors - 1) * lanes(real)
    i = 0
    while i < m:
        rows = height(m - i)
        left, place = a + i * a_row * real.itemsize, c + i * c_row * real.itemsize
        tile(real, rows, vectors, last, k, left, a_row, a_column, b, b_row, place, c_row, add)
        i += rows


@compiled
def product(m, n, k, a, a_row, a_column, b, b_row, turned, c, c_row, scratch):
    """c [m, n] = a b, or a b^T where `turned` is 1.

    a_ik lies at a + i a_row + k a_column, b_kj at b + k b_row + j (turned: b_jk at b + j b_row + k), c_ij at
    c + i c_row + j. a, b, c: addresses; strides in numbers. scratch [SCRATCH]: of the numbers' type, room for a panel.
    """
    size, width = scratch.itemsize, VECTORS * lanes(scratch)
    blocks = max(1, (k + K_BLOCK - 1) // K_BLOCK)
    for block in range(blocks):
        k0, k1 = k * block // blocks, k * (block + 1) // blocks
        for j in range(0, n, width):
            columns, left, to = min(width, n - j), a + k0 * a_column * size, c + j * size
            right, right_row = b + (k0 * b_row + j) * size, b_row
            if turned == 1:
                right, right_row = scratch.ctypes.data, width
                transpose(columns, k1 - k0, b + (j * b_row + k0) * size, b_row, right, width, scratch)
            panel(m, columns, k1 - k0, left, a_row, a_column, right, right_row, to, c_row, block > 0, scratch)


@compiled
def transpose(m, n, source, source_row, target, target_row, real):
    """target [n, m] = source [m, n]^T, in squares; what is left at the edges number by number."""
    size, side = real.itemsize, lanes(real)
    for i in range(0, m, side):
        for j in range(0, n, side):
            at, to = source + (i * source_row + j) * size, target + (j * target_row + i) * size
            if i + side <= m and j + side <= n:
                transpose_square(real, at, source_row, to, target_row)
            else:
                for p in range(min(side, m - i)):
                    for q in range(min(side, n - j)):
                        copy_number(real, at + (p * source_row + q) * size, to + (q * target_row + p) * size)


# numbers of scratch that a product needs, of either type
SCRATCH = K_BLOCK * VECTORS * (VECTOR_BYTES // 4)
