"""Matrix products by shape: the numba backend's tiles beside NumPy's BLAS, one thread each, in turns.

    OPENBLAS_NUM_THREADS=1 python benchmarks/products.py [float64] [--out FILE.json]

Each line: the product, GFLOP/s of both (medians of 11 turns), and the median over the turns of ours / BLAS.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from numba import njit

from minivae.bench.contenders import blas_threads
from minivae.bench.report import machine
from minivae.kernels.numba import gemm

TURNS, WORK = 11, 5e7  # work: floating point operations of a turn, at least
SHAPES = {  # m, n, k of c [m, n] = a b, summed over k
    "forward, a b": [(m, 400, 784) for m in (1, 4, 8, 20, 50, 64, 128, 1024)] + [(64, 784, 400), (512, 512, 784)],
    "dx, a b^T": [(m, 400, 784) for m in (1, 4, 8, 20, 50, 64, 128)] + [(512, 784, 512)],
    "dW, a^T b": [(784, 400, k) for k in (1, 20, 100, 128, 1024)] + [(400, 40, 128), (784, 512, 512)],
}
SHAPES = {kind: [*shapes, (1024, 1024, 1024)] for kind, shapes in SHAPES.items()}


@njit(nogil=True)
def run(times, c, a, b, m, n, k, a_row, a_column, b_row, turned, c_row, scratch):
    a, b, c = a.ctypes.data, b.ctypes.data, c.ctypes.data
    for _ in range(times):
        gemm.product(m, n, k, a, a_row, a_column, b, b_row, turned, c, c_row, scratch)


def compare(kind: str, m: int, n: int, k: int, dtype: str) -> tuple[float, float, float]:
    draw = np.random.default_rng(0).standard_normal
    a, b = draw((m, k)).astype(dtype), draw((k, n)).astype(dtype)
    stored = a.T.copy() if kind.endswith("a^T b") else a, b.T.copy() if kind.endswith("b^T") else b
    left, right = stored[0].T if kind.endswith("a^T b") else a, stored[1].T if kind.endswith("b^T") else b
    steps = (k, 1) if left is a else (1, m)
    sizes = [np.int64(x) for x in (m, n, k, *steps, stored[1].shape[1], right is not b, n)]
    ours, theirs = np.empty((m, n), dtype), np.empty((m, n), dtype)
    scratch, times = np.empty(gemm.SCRATCH, dtype), max(1, int(WORK / (2 * m * n * k)))
    run(1, ours, *stored, *sizes, scratch)
    np.testing.assert_allclose(ours, left @ right, rtol=0, atol=k**0.5 * 100 * np.finfo(dtype).eps)
    spent: list[tuple[float, float]] = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        run(times, ours, *stored, *sizes, scratch)
        between = time.perf_counter()
        for _ in range(times):
            np.matmul(left, right, out=theirs)
        spent.append((between - begun, time.perf_counter() - between))
    rates = [2e-9 * m * n * k * times / statistics.median(turn) for turn in zip(*spent)]
    return rates[0], rates[1], statistics.median(blas / own for own, blas in spent)


def main() -> None:
    dtype = "float64" if "float64" in sys.argv else "float32"
    set_threads = blas_threads()
    if set_threads is None:
        print("threadpoolctl is not installed: the BLAS takes as many threads as it was told to", file=sys.stderr)
    else:
        set_threads(1)
    rows = []
    for kind, shapes in SHAPES.items():
        for m, n, k in shapes:
            own, blas, ratio = compare(kind, m, n, k, dtype)
            rows.append({"product": kind, "m": m, "n": n, "k": k, "gflop_per_s": own, "blas": blas, "ratio": ratio})
            print(
                f"{kind:14} {m:5} x {n:5}, k {k:5}   own {own:6.1f}   BLAS {blas:6.1f}   ratio {ratio:.2f}", flush=True
            )
    if "--out" in sys.argv:
        result = {"machine": machine(), "dtype": dtype, "turns": TURNS, "products": rows}
        Path(sys.argv[sys.argv.index("--out") + 1]).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
