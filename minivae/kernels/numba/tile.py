"""The micro-kernel of a GEMM, and the moves that prepare its operands, written in LLVM's own language.

A tile is a few rows by a few vectors of c. It is kept in registers while k runs:

    c_i [lanes] += a_ik * b_k [lanes]      for each row i and vector of the tile, one fused multiply-add each

    8 rows x 3 vectors of 16 numbers: 24 multiply-adds for 3 + 8 loads, which the loads can keep up with
"""

from __future__ import annotations

import platform

from llvmlite import ir
from numba import types
from numba.core import codegen, config
from numba.extending import intrinsic


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


def description() -> str:
    """Which tiles products are made of here."""
    name = {64: "AVX-512", 32: "AVX"}.get(VECTOR_BYTES, "128-bit")
    return f"products in {name} tiles of {HEIGHTS[0]} x {VECTORS * VECTOR_BYTES // 4}"


@intrinsic
def tile(typing_context, real, rows, vectors, last, k, a, a_row, a_column, b, b_row, c, c_row, add):
    """c [rows, vectors * lanes] = (or, where add holds, +=) a b, summed over k numbers.

    real: an array of the numbers' type. a, b, c: addresses; strides in numbers. rows: one of HEIGHTS. Of the last vector
    of c only `last` lanes are read and written; b is read as whole vectors, whose lanes beyond c may hold anything.
    """
    kind = Kind(real)

    def generate(context, builder, signature, arguments):
        _, rows, vectors, last, k, a, a_row, a_column, b, b_row, c, c_row, add = arguments
        a, b, c = (kind.at(builder, address) for address in (a, b, c))
        after, impossible = builder.append_basic_block("after"), builder.append_basic_block("impossible")
        switch = builder.switch(builder.add(builder.mul(rows, rows.type(4)), vectors), impossible)
        for height in HEIGHTS:
            for width in range(1, VECTORS + 1):
                block = builder.append_basic_block(f"tile.{height}.{width}")
                switch.add_case(rows.type(height * 4 + width), block)
                builder.position_at_end(block)
                function = tile_function(builder.module, kind, height, width)
                builder.call(function, [last, k, a, a_row, a_column, b, b_row, c, c_row, add])
                builder.branch(after)
        builder.position_at_end(impossible)
        builder.unreachable()
        builder.position_at_end(after)
        return context.get_dummy_value()

    return types.void(real, *[types.int64] * 11, types.boolean), generate


def tile_function(module, kind, rows, vectors):
    """The function of one size of tile: void (last, k, a, a_row, a_column, b, b_row, c, c_row, add)"""
    name = f"minivae_tile_{rows}_{vectors}_{kind.lanes}_lanes"
    if name in module.globals:
        return module.globals[name]
    index, flag, pointer, vector = ir.IntType(64), ir.IntType(1), kind.number.as_pointer(), kind.vector
    arguments = [index, index, pointer, index, index, pointer, index, pointer, index, flag]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    last, k, a, a_row, a_column, b, b_row, c, c_row, add = function.args
    cells = [(r, v) for r in range(rows) for v in range(vectors)]
    names = ("start", "loop", "done", "plus", "store", "whole", "part")
    start, loop, done, plus, store, whole, part = map(function.append_basic_block, names)

    at = ir.IRBuilder(start)
    a_rows = [at.gep(a, [at.mul(a_row, index(r))]) for r in range(rows)]
    c_cells = [at.gep(c, [at.add(at.mul(c_row, index(r)), index(v * kind.lanes))]) for r, v in cells]
    at.cbranch(at.icmp_signed(">", k, index(0)), loop, done)

    at = ir.IRBuilder(loop)
    step, place, b_now, *sums = [at.phi(t) for t in (index, index, pointer, *[vector] * len(cells))]
    b_vectors = [kind.load(at, at.gep(b_now, [index(v * kind.lanes)])) for v in range(vectors)]
    added = []
    for r in range(rows):
        spread = spread_out(at, at.load(at.gep(a_rows[r], [place])), kind.lanes)
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

    def merged(at, first, first_block, second, second_block):
        phi = at.phi(vector)
        phi.add_incoming(first, first_block)
        phi.add_incoming(second, second_block)
        return phi

    at = ir.IRBuilder(done)
    totals = [merged(at, vector(None), start, after, loop) for after in added]
    at.cbranch(add, plus, store)

    at = ir.IRBuilder(plus)
    masks = [kind.mask(at, last) if v == vectors - 1 else None for _, v in cells]
    sums = [at.fadd(total, kind.load(at, cell, mask)) for total, cell, mask in zip(totals, c_cells, masks)]
    at.branch(store)

    at = ir.IRBuilder(store)
    results = [merged(at, total, done, after, plus) for total, after in zip(totals, sums)]
    at.cbranch(at.icmp_signed("<", last, index(kind.lanes)), part, whole)

    # two ways, because AMD's processors take ten times as long to store a part of a vector (Zen 1 to 4, AVX2)
    for block in (whole, part):
        at = ir.IRBuilder(block)
        for result, cell, (_, v) in zip(results, c_cells, cells):
            kind.store(at, result, cell, kind.mask(at, last) if block is part and v == vectors - 1 else None)
        at.ret_void()
    return function


class Kind:
    """Numbers of one type, and vectors of them in memory: whole ones, or those lanes that a mask names."""

    def __init__(self, real):
        self.number = ir.FloatType() if real.dtype == types.float32 else ir.DoubleType()
        self.size = real.dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.number, self.lanes)

    def at(self, at, address, bytes_on=0):
        return at.inttoptr(at.add(address, address.type(bytes_on)), self.number.as_pointer())

    def mask(self, at, count):
        """The first `count` lanes."""
        numbers = ir.Constant(ir.VectorType(count.type, self.lanes), list(range(self.lanes)))
        return at.icmp_signed("<", numbers, spread_out(at, count, self.lanes))

    def load(self, at, place, mask=None):
        place = at.bitcast(place, self.vector.as_pointer())
        if mask is None:
            return at.load(place, align=self.size)
        return self._masked(at, "load", self.vector, [place, ir.IntType(32)(self.size), mask, self.vector(None)])

    def store(self, at, value, place, mask=None):
        place = at.bitcast(place, self.vector.as_pointer())
        if mask is None:
            at.store(value, place, align=self.size)
        else:
            self._masked(at, "store", ir.VoidType(), [value, place, ir.IntType(32)(self.size), mask])

    def _masked(self, at, what, result, arguments):
        name = f"llvm.masked.{what}.v{self.lanes}f{8 * self.size}.p0"
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return at.call(at.module.globals.get(name) or ir.Function(at.module, kind, name), arguments)


def spread_out(at, number, lanes):
    """A vector with this number in every lane."""
    one = at.insert_element(ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined), number, ir.IntType(32)(0))
    return at.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


# ---- Packing: operands as the tile likes to read them


@intrinsic(prefer_literal=True)
def copy_rows(typing_context, real, vectors, count, rows, source, source_row, target, target_row):
    """target [rows, vectors * lanes] = source; addresses, strides in bytes, rows at least 1.

    Of the last vector of a row only `count` numbers are read (0 for all) and what follows them at the target is spoilt.
    """
    kind, width, whole = Kind(real), vectors.literal_value, getattr(count, "literal_value", 1) == 0

    def generate(context, builder, signature, arguments):
        _, _, count, rows, source, source_row, target, target_row = arguments
        masks = [None] * (width - 1) + [None if whole else kind.mask(builder, count)]
        before, loop, done = builder.block, builder.append_basic_block("copy"), builder.append_basic_block("copied")
        builder.branch(loop)
        builder.position_at_end(loop)
        left, at, to = phis = [builder.phi(rows.type) for _ in range(3)]
        values = [kind.load(builder, kind.at(builder, at, VECTOR_BYTES * v), mask) for v, mask in enumerate(masks)]
        for v, value in enumerate(values):
            kind.store(builder, value, kind.at(builder, to, VECTOR_BYTES * v))
        after = builder.sub(left, rows.type(1)), builder.add(at, source_row), builder.add(to, target_row)
        for phi, first, following in zip(phis, (rows, source, target), after):
            phi.add_incoming(first, before)
            phi.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed(">", after[0], rows.type(0)), loop, done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(real, vectors, count, *[types.int64] * 5), generate


@intrinsic(prefer_literal=True)
def transpose_square(typing_context, real, rows, columns, source, source_row, target, target_row):
    """target [lanes, lanes] = source^T; addresses, strides in bytes.

    Only rows and columns of the source are read (0 for all of both); what stands at the target in place of others is spoilt.
    """
    kind, whole = Kind(real), getattr(rows, "literal_value", 1) == 0
    lanes, lane = kind.lanes, 16 // kind.size

    def generate(context, builder, signature, arguments):
        _, row_count, column_count, source, source_row, target, target_row = arguments
        index, found = source.type, []
        for r in range(lanes):
            mask = None
            if not whole:
                present = builder.icmp_signed("<", index(r), row_count)
                mask = kind.mask(builder, builder.select(present, column_count, index(0)))
            place = kind.at(builder, builder.add(source, builder.mul(source_row, index(r))))
            found.append(kind.load(builder, place, mask))
        for r in range(
            lane
        ):  # squares of 16 bytes by 16 first: inside these, processors move numbers at the least cost
            found[r::lane] = turned(builder, found[r::lane], lane, lanes)
        for r in range(0, lanes, lane):
            found[r : r + lane] = turned(builder, found[r : r + lane], 1, lane)
        for r, row in enumerate(found):
            kind.store(builder, row, kind.at(builder, builder.add(target, builder.mul(target_row, index(r)))))
        return context.get_dummy_value()

    return types.void(real, rows, columns, *[types.int64] * 4), generate


def turned(at, rows, unit, span):
    """Rows become columns, of units that lie in spans, as many as rows: as cards are shuffled.

    Interleaving the rows of the first half with those of the second, log2(rows) times, ends with the columns as rows.
    """
    lanes, half = rows[0].type.count, len(rows) // 2
    order = [start + i for start in range(0, lanes, span) for i in range(span // 2)]  # the first halves of all spans
    for _ in range(half.bit_length()):
        pairs = [side + order[i + j] for i in range(0, len(order), unit) for side in (0, lanes) for j in range(unit)]
        both = [[place + offset for place in pairs] for offset in (0, span // 2)]
        numbers = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), order) for order in both]
        rows = [at.shuffle_vector(*pair, order) for pair in zip(rows[:half], rows[half:]) for order in numbers]
    return rows
