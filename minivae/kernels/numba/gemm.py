"""Matrix products for compiled code: c [m, n] = a b, from the tiles of tile.py.

What a tile reads should lie side by side and be in the first caches by the second time, so that operands are copied on
the way (packing), where that pays:

- b in panels as wide as a tile, four at a time, where PACK_ROWS rows or more of a pass by them: a column of W reaches over
  as many pages of memory as it has rows, and where W is a power of two wide over few lines of the first cache
- of a b^T, whose b lies the other way round, b always, transposed on the way; so too a panel narrower than a tile
- a, where it is read down its columns (a^T b) and PACK_COLUMNS columns or more are made of it: tile by tile

k is cut into blocks of at most K_BLOCK, so that a panel and a tile of a fill a cache (32 KB with AVX2). Each number of c is
summed in the order of k, block by block, whatever the tile: a product has the same bits for any number of threads.
"""

from __future__ import annotations

from numba import njit
from numba.extending import overload

from minivae.kernels.numba.tile import HEIGHTS, VECTOR_BYTES, VECTORS, copy_rows, tile, transpose_square

K_BLOCK = 512  # of 256, 384, 512 and all: the longest whose panels stay in the caches; sums of blocks cost a pass
PANELS = 4  # of b, packed together: what lies side by side is read soon after
PACK_ROWS, PACK_COLUMNS = 30, 64
BLOCK_ROWS = 256  # of a, where it is packed: in the second cache
CHUNK = 16  # rows of b taken through all panels at a time

compiled = njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)


def lanes(real):
    """Numbers of real's type in a vector, in compiled code only."""


@overload(lanes)
def lanes_in_compiled_code(real):
    count = VECTOR_BYTES * 8 // real.dtype.bitwidth
    return lambda real: count


@compiled
def height(rows):
    """The tallest tile that so many rows fill; but 8 rows are 4 + 4, not 6 + 2: short tiles wait for their own sums."""
    if HEIGHTS[0] == 6 and rows == 8:
        return 4
    for h in HEIGHTS:
        if rows >= h:
            return h
    return 1


@compiled
def panel(m, n, k, a, a_row, a_column, packed, b, b_row, c, c_row, add, real):
    """c [m, n], n up to the width of a tile: all rows of a, tile by tile, pass by one panel of b."""
    size, vectors = real.itemsize, (n + lanes(real) - 1) // lanes(real)
    last = n - (vectors - 1) * lanes(real)
    i = 0
    while i < m:
        rows = height(m - i)
        left, row, column = (a + i * k * size, 1, rows) if packed else (a + i * a_row * size, a_row, a_column)
        tile(real, rows, vectors, last, k, left, row, column, b, b_row, c + i * c_row * size, c_row, add)
        i += rows


@compiled
def product(m, n, k, a, a_row, a_column, b, b_row, turned, c, c_row, scratch):
    """c [m, n] = a b, or a b^T where `turned` is 1.

    a_ik lies at a + i a_row + k a_column, b_kj at b + k b_row + j (turned: b_jk at b + j b_row + k), c_ij at
    c + i c_row + j. a, b, c: addresses; strides in numbers. scratch [SCRATCH]: of the numbers' type.
    """
    size, width, panels = scratch.itemsize, VECTORS * lanes(scratch), scratch.ctypes.data
    tiles = panels + K_BLOCK * PANELS * width * size
    packed = a_row == 1 and a_column > 1 and n >= PACK_COLUMNS
    blocks, parts = max(1, (k + K_BLOCK - 1) // K_BLOCK), max(1, (m + BLOCK_ROWS - 1) // BLOCK_ROWS) if packed else 1
    for block in range(blocks):
        k0, depth = k * block // blocks, k * (block + 1) // blocks - k * block // blocks
        for part in range(parts):
            i0, i1 = m * part // parts, m * (part + 1) // parts
            left, i = a + (i0 * a_row + k0 * a_column) * size, 0
            while packed and i < i1 - i0:
                rows = height(i1 - i0 - i)
                pack(depth, rows, left + i * size, a_column, tiles + i * depth * size, rows, scratch)
                i += rows
            left = tiles if packed else left
            for j in range(0, n, width):
                columns, right, right_row = min(width, n - j), b + (k0 * b_row + j) * size, b_row
                if turned == 1:
                    right, right_row = panels, width
                    transpose(columns, depth, b + (j * b_row + k0) * size, b_row, right, width, scratch)
                elif m >= PACK_ROWS or columns < width:
                    place, right_row = j // width % PANELS, width
                    if place == 0 or m < PACK_ROWS:
                        pack(depth, min(PANELS * width, n - j), right, b_row, panels, width, scratch)
                        place = 0
                    right = panels + place * width * depth * size
                to, rows, later = c + (i0 * c_row + j) * size, i1 - i0, block > 0
                panel(rows, columns, depth, left, a_row, a_column, packed, right, right_row, to, c_row, later, scratch)


@compiled
def pack(rows, columns, source, source_row, target, width, real):
    """target [panels, rows, width] = source [rows, columns], cut into panels so wide, the last of which may be narrower."""
    size, step = real.itemsize, lanes(real)
    for r in range(0, rows, CHUNK):
        count = min(CHUNK, rows - r)
        for c in range(0, columns, width):
            at, to = source + (r * source_row + c) * size, target + (c * rows + r * width) * size
            most = min(width, columns - c)
            if most == VECTORS * step:
                copy_rows(real, VECTORS, 0, count, at, source_row * size, to, width * size)
            else:  # the last vector first: what it spoils, the beginning of the next row, is written after it
                for v in range((most - 1) // step * step, -1, -step):
                    whole, v0 = min(step, most - v), v * size
                    copy_rows(real, 1, whole, count, at + v0, source_row * size, to + v0, width * size)


@compiled
def transpose(m, n, source, source_row, target, target_row, real):
    """target [n, m] = source [m, n]^T, in squares, that may spoil what follows at the target up to whole squares."""
    size, side = real.itemsize, lanes(real)
    for i in range(0, m, side):
        for j in range(0, n, side):
            at, to = source + (i * source_row + j) * size, target + (j * target_row + i) * size
            if i + side <= m and j + side <= n:
                transpose_square(real, 0, 0, at, source_row * size, to, target_row * size)
            else:
                transpose_square(real, m - i, n - j, at, source_row * size, to, target_row * size)


# numbers of scratch that a product needs, of either type: panels of b and tiles of a, and what a copy may spoil after them
SCRATCH = K_BLOCK * (PANELS * VECTORS * (VECTOR_BYTES // 4) + BLOCK_ROWS) + VECTOR_BYTES
