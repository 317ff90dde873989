"""Matrix products from register tiles: values, places that must not be touched, and sums in one order."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("numba", reason="the numba backend needs Numba")

from numba import njit

from minivae.kernels.numba import gemm as products
from minivae.kernels.numba import tile

KINDS = ("a b", "a^T b", "a b^T")


@njit
def run(c, a, b, m, n, k, a_row, a_column, b_row, turned, c_row, scratch):
    products.product(
        m, n, k, a.ctypes.data, a_row, a_column, b.ctypes.data, b_row, turned, c.ctypes.data, c_row, scratch
    )


def multiply(c, a, b, kind):
    """c = a b with a or b stored the other way round where the kind says so; rows may be parts of longer ones."""
    (m, n), step = c.shape, a.itemsize
    k = len(a) if kind == "a^T b" else a.shape[1]
    row, column = (a.strides[1], a.strides[0]) if kind == "a^T b" else a.strides
    numbers = [np.int64(x) for x in (m, n, k, row // step, column // step, b.strides[0] // step, kind == "a b^T")]
    run(c, a, b, *numbers, np.int64(c.strides[0] // step), np.zeros(products.SCRATCH, c.dtype))


def operands(m, n, k, kind, dtype, seed=0):
    generator = np.random.default_rng(seed)
    a = generator.standard_normal((k, m) if kind == "a^T b" else (m, k)).astype(dtype)
    b = generator.standard_normal((n, k) if kind == "a b^T" else (k, n)).astype(dtype)
    wide = [np.asarray(x.T if turned else x, np.float64) for x, turned in ((a, kind == "a^T b"), (b, kind == "a b^T"))]
    return a, b, wide[0] @ wide[1], np.abs(wide[0]) @ np.abs(wide[1])


BLOCK = products.K_BLOCK
SIZES = [(1, 1, 1), (1, 784, 3), (5, 7, 9), (13, 49, 40), (20, 200, 50), (8, 48, 16), (17, 95, 33), (31, 16, 17)]
SIZES += [(3, 31, BLOCK), (9, 47, BLOCK + 1), (2, 33, 2 * BLOCK + 3), (12, 20, 0)]
# packed: b where enough rows pass by, in several panels and in none that is whole; a in tiles of each height, in two parts
PACKED = products.PACK_ROWS
SIZES += [(PACKED, 5, 7), (PACKED + 8, 301, 2 * products.CHUNK + 1), (PACKED + 1, 130, BLOCK + 9)]
SIZES += [(products.BLOCK_ROWS + 51, products.PACK_COLUMNS + 1, 19), (products.BLOCK_ROWS, products.PACK_COLUMNS, 5)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_nothing_written_beside_them(size, kind, dtype):
    m, n, k = size
    a, b, expected, scale = operands(m, n, k, kind, dtype)
    framed = np.full((m + 2, n + 5), 7, dtype)
    multiply(framed[1:-1, 2 : 2 + n], a, b, kind)
    # rounding: each of k + 1 operations adds at most half a unit in the last place of the sum of sizes
    assert (np.abs(framed[1:-1, 2 : 2 + n] - expected) <= (k + 1) * np.finfo(dtype).eps / 2 * scale).all()
    framed[1:-1, 2 : 2 + n] = 7
    assert (framed == 7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_parts_of_longer_ones(kind):
    a, b, _, _ = operands(19, 53, 21, kind, "float32")
    expected, found = (np.empty((19, 53), np.float32) for _ in range(2))
    multiply(expected, a, b, kind)
    longer = [np.full((x.shape[0], x.shape[1] + 6), np.nan, np.float32) for x in (a, b)]
    for target, x in zip(longer, (a, b)):
        target[:, 3:-3] = x
    multiply(found, longer[0][:, 3:-3], longer[1][:, 3:-3], kind)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["a b", "a b^T"])
def test_each_number_has_the_same_bits_however_the_product_is_cut(kind):
    a, b, _, _ = operands(37, 101, 700, kind, "float32")
    whole, parts = (np.empty((37, 101), np.float32) for _ in range(2))
    multiply(whole, a, b, kind)
    for r0, r1 in ((0, 1), (1, 18), (18, 37)):
        for c0, c1 in ((0, 16), (16, 67), (67, 101)):
            multiply(parts[r0:r1, c0:c1], a[r0:r1], b[c0:c1] if kind == "a b^T" else b[:, c0:c1], kind)
    np.testing.assert_array_equal(parts, whole)


def test_nan_and_infinity_stay_in_their_rows_and_columns():
    a, b, _, _ = operands(10, 60, 30, "a b", "float32")
    c = np.empty((10, 60), np.float32)
    a[3, 5], b[7, 50], a[8, 0] = np.nan, np.inf, np.inf
    b[0, 1] = 0  # infinity times 0 is not a number either
    multiply(c, a, b, "a b")
    assert (
        np.isnan(c[3]).all() and np.isnan(c[8, 1]) and not np.isfinite(c[:, 50]).any() and not np.isfinite(c[8]).any()
    )
    rest = np.delete(np.delete(c, [3, 8], axis=0), 50, axis=1)
    assert np.isfinite(rest).all()


def test_tiles_fit_into_the_registers_of_the_processor():
    tallest = tile.HEIGHTS[0]
    assert tallest * tile.VECTORS + tile.VECTORS + 1 <= tile.REGISTERS
    assert tile.HEIGHTS[-1] == 1 and list(tile.HEIGHTS) == sorted(tile.HEIGHTS, reverse=True)
    assert f"{tallest} x {tile.VECTORS * tile.VECTOR_BYTES // 4}" in tile.description()


PLAIN = "+64bit,+cmov,+cx8,+fxsr,+mmx,+sse,+sse2,+x87"


@pytest.mark.skipif("MINIVAE_OTHER_TILES" in os.environ, reason="this is the run with other tiles")
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names features of x86-64")
@pytest.mark.parametrize(
    ("features", "width"), [(PLAIN, "16"), (PLAIN + ",+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma", "32")]
)
def test_the_tiles_of_other_processors_pass_the_same_tests(features, width):
    """Numba told to compile for any x86-64 (vectors of 16 bytes, no fused add), and for AVX2."""
    if "32" in width and tile.VECTOR_BYTES < 32:
        pytest.skip("this processor has no AVX")
    environment = os.environ | {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": features, "MINIVAE_OTHER_TILES": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    code = "from minivae.kernels.numba import tile; print(tile.VECTOR_BYTES)"
    chosen = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert chosen.stdout.strip() == width
