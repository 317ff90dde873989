"""The kernel ladder: every kernel of the interface at the sizes of one training step, compared, then timed.

Bytes are what a kernel must read and write at least once; FLOPs are counted for matrix products only. Both are minima,
so a rate is what the kernel achieves, not what it moves. Repeated calls find their arrays in the cache when they fit, so
a small kernel may exceed the ceiling of a large copy.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minivae.bench.configs import SEED, TOLERANCE, Config
from minivae.bench.contenders import Contender, Unavailable, available_cores, blas_threads
from minivae.kernels import INTERFACE, availability, load, reference
from minivae.network import Network

BUNCH = 2e-3  # seconds: a kernel is called often enough in a row to fill them


@dataclass(frozen=True)
class Case:
    """One kernel with its arguments. written: positions of the arrays that it writes; bytes and flops: of one call."""

    name: str
    arrays: tuple[np.ndarray, ...]
    scalars: tuple[Any, ...]
    written: tuple[int, ...]
    bytes: int
    flops: int = 0

    @property
    def kernel(self) -> str:
        return self.name.split()[0]


def cases(config: Config) -> list[Case]:
    """Every kernel on the arrays of a training step with this configuration, float32.

    The dense kernels are those of the decoder's last layer: the largest one that also needs dx. Arrays that a kernel both
    reads and writes are chosen so that repeated calls meet the same kind of numbers, never ever smaller ones.
    """
    arch, B, D, Z = config.arch, config.batch, config.arch.data_dim, config.arch.latent_dim
    width, N = arch.hidden_dims[0] if arch.hidden_dims else Z, Network(arch, reference).parameters.size
    generator = np.random.default_rng(SEED)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return np.asarray(scale * generator.standard_normal(shape, np.float32), np.float32)

    def empty(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    rows = generator.permutation(4 * B)[:B]
    pixels = generator.integers(0, 256, (4 * B, D)).astype(np.uint8)
    x, weight = np.asarray(pixels[rows] / 255, np.float32), np.full(B, 1 / B, np.float32)
    W, b, hidden, y = normal(width, D, scale=0.05), normal(D), normal(B, width), normal(B, D)
    h, eps, kl = normal(B, 2 * Z), normal(B, Z), normal(B, Z) ** 2
    p, g, v = normal(N, scale=0.05), normal(N, scale=0.01), normal(N, scale=0.01) ** 2
    out = empty(B, D)  # y and a of the forward pass share it, as in a network
    matrix = B * width + width * D + B * D
    listed: list[Any] = [
        ("dense_forward relu", (out, out, hidden, W, b), ("relu",), (0,), 4 * matrix, 2 * B * width * D),
        (
            "dense_backward relu",
            (empty(B, width), empty(width, D), empty(D), normal(B, D), hidden, y, y, W),
            ("relu",),
            (0, 1, 2),
            4 * (2 * matrix + B * D),
            4 * B * width * D,
        ),
        ("sample_forward", (empty(B, Z), empty(B, Z), h, eps), (), (0, 1), 20 * B * Z),
        ("sample_backward", (empty(B, 2 * Z), normal(B, Z), h, eps, normal(Z), weight), (), (0,), 24 * B * Z),
        ("kl_loss", (empty(Z), empty(Z), kl, weight), (1.0, 0.1), (0, 1), 4 * B * Z),
        ("bernoulli_loss", (empty(B, D), empty(B), y, x, weight), (), (0, 1), 12 * B * D),
        ("gaussian_loss", (empty(B, D), empty(1), empty(B), y, x, empty(1), weight), (), (0, 1, 2), 12 * B * D),
        (
            "gaussian_elementwise_loss",
            (empty(B, 2 * D), empty(B), normal(B, 2 * D), x, weight),
            (),
            (0, 1),
            20 * B * D,
        ),
        ("clip_global_norm", (empty(1), g.copy()), (math.inf,), (0, 1), 4 * N),
        # learning_rate = 1 - momentum: g becomes learning_rate m, and the next m = momentum m + g is the same again
        ("sgd_step", (p.copy(), g.copy(), g.copy()), (0.1, 0.9, False), (0, 1), 20 * N),
        ("adam_step", (p, g.copy(), v, g), (1e-3, 0.9, 0.999, 1e-8, 100, 0.0), (0, 1, 2), 28 * N),
        ("philox_uniform", (empty(B, D), rows), (SEED, 1, 1), (0,), 4 * B * D),
        ("philox_normal", (empty(B, Z), rows), (SEED, 1, 1), (0,), 4 * B * Z),
        ("gather", (empty(B, D), pixels, rows), (255.0,), (0,), 5 * B * D),
        ("binarize", (x.copy(), generator.random((B, D), np.float32)), (), (0,), 12 * B * D),
        ("record", (np.zeros((1, 2 + Z)), empty(B), empty(Z), empty(1), weight), (0,), (0,), 8 * B + 12 * Z),
    ]
    return [Case(*row) for row in listed]


def bind_case(kernels: ModuleType, case: Case) -> tuple[Callable[[], None], list[Any]]:
    """The call on fresh copies of its arrays in the backend's memory, and those arrays. Shared arrays stay shared."""
    copies = {id(array): kernels.to_device(array.copy()) for array in case.arrays}
    arrays, function, scalars = [copies[id(a)] for a in case.arrays], getattr(kernels, case.kernel), case.scalars
    return lambda: function(*arrays, *scalars), arrays


def case_deviation(kernels: ModuleType, case: Case) -> float:
    """Run once here and in the reference: the largest difference in the arrays written, relative to their largest value."""
    results = []
    for module in (kernels, reference):
        call, arrays = bind_case(module, case)
        call()
        results.append([np.asarray(module.to_host(arrays[i]), np.float64) for i in case.written])
    worst = 0.0
    for ours, expected in zip(*results):
        difference = float(np.abs(ours - expected).max() / max(np.abs(expected).max(), 1e-30))
        worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


class Ladder(Contender):
    """All kernels of one backend. run(n) gives seconds per call for each whose results match: the median of n bunches."""

    def __init__(self, backend: str, config: Config) -> None:
        works, reason = availability(backend)
        if not works:
            raise Unavailable(reason)
        self.kernels, self.cases = load(backend), cases(config)
        self.deviations = {case.name: case_deviation(self.kernels, case) for case in self.cases}
        self.calls: dict[str, tuple[Callable[[], None], int]] = {}
        for case in self.cases:
            if self.deviations[case.name] <= TOLERANCE:
                call = bind_case(self.kernels, case)[0]
                self._time(call, 1)
                self.calls[case.name] = call, max(1, round(BUNCH / self._time(call, 3)))

    def _time(self, call: Callable[[], None], times: int) -> float:
        self.kernels.synchronize()
        begun = time.perf_counter()
        for _ in range(times):
            call()
        self.kernels.synchronize()
        return (time.perf_counter() - begun) / times

    def losses(self) -> list[float]:
        return []

    def run(self, n: int) -> dict[str, float]:
        return {
            name: float(np.median([self._time(call, times) for _ in range(n)]))
            for name, (call, times) in self.calls.items()
        }


class Ceilings(Contender):
    """What this machine can do: copying a large array, and a large matrix product, with one thread and with all.

    run(n) gives the best of n in GB/s (bytes read and written) and GFLOP/s, float32.
    """

    def __init__(self, elements: int = 2**25, side: int = 2048) -> None:
        self.source, self.target = np.ones(elements, np.float32), np.zeros(elements, np.float32)
        self.a, self.b, self.out = (np.ones((side, side), np.float32) for _ in range(3))

    def losses(self) -> list[float]:
        return []

    def run(self, n: int) -> dict[str, float]:
        cores, set_threads, result = available_cores(), blas_threads(), {}
        gigabytes, gigaflops = 2e-9 * self.source.nbytes, 2e-9 * len(self.a) ** 3
        for threads in sorted({1, cores}):
            name = "1 thread" if threads == 1 else f"{threads} threads"
            parts = list(zip(np.array_split(self.source, threads), np.array_split(self.target, threads)))
            with ThreadPoolExecutor(threads) as pool:  # NumPy copies without holding the interpreter's lock
                copy = min(self._time(lambda: list(pool.map(self._copy, parts))) for _ in range(n))  # noqa: B023
            result[f"copy, {name}"] = gigabytes / copy
            if set_threads is not None:
                set_threads(threads)
            elif threads == 1 < cores:  # without threadpoolctl the number of threads cannot be set
                continue
            product = min(self._time(lambda: np.matmul(self.a, self.b, out=self.out)) for _ in range(n))
            result[f"matrix product, {name}"] = gigaflops / product
        return result

    @staticmethod
    def _copy(part: tuple[np.ndarray, np.ndarray]) -> None:
        np.copyto(part[1], part[0])

    @staticmethod
    def _time(call: Callable[[], Any]) -> float:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun


MEMORY = ("empty", "to_device", "to_host", "synchronize")  # where arrays live: nothing to time
TIMED = tuple(name for name in INTERFACE if name not in MEMORY)
