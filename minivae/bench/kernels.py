"""The kernel ladder: every kernel of the interface at the sizes of one training step, compared, then timed.

Bytes are what a kernel must read and write at least once, FLOPs those of matrix products: a rate is what it achieves, not
what it moves. Repeated calls find in the cache what fits there, so the rate of a small kernel is not one of memory.
"""

import math
import statistics
from collections.abc import Callable
from functools import partial
from timeit import timeit
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minivae.bench.configs import SEED, TOLERANCE, Config
from minivae.bench.contenders import Row, summary
from minivae.kernels import Call, bind, load, reference
from minivae.kernels.table import TABLE, value
from minivae.network import Network

BUNCH, MOST = 2e-3, 100  # seconds that a program of one kernel should take, and of how many calls it is at most
# Repeated calls must meet the same kind of numbers, never ever smaller ones: relu leaves a dy that it has masked as it is,
# and in sgd_step g becomes learning_rate m: where learning_rate is 1 - momentum, the next m = momentum m + g is the same.
SCALARS: dict[str, Any] = {
    "activation": "relu", "estimator": "dreg", "beta": 1.0, "free_bits": 0.1, "capacity": 0.0, "max_norm": math.inf,
    "learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "step": 100,
    "weight_decay": 0.0, "seed": SEED, "purpose": 1, "divide_by": 255.0, "index": 0,
}  # fmt: skip


class Case(NamedTuple):
    """One call of a kernel. written: positions of the arrays that it leaves behind; bytes and flops: of one call."""

    name: str  # the kernel's, and what was chosen
    arrays: list[np.ndarray]
    scalars: list[Any]
    written: list[int]
    bytes: int
    flops: int


def cases(config: Config) -> list[Case]:
    """Every kernel on uniform float32 arrays of a step's sizes; dense: the decoder's last layer, the largest with a dx."""
    arch, B, D, Z = config.arch, config.batch, config.arch.data_dim, config.arch.latent_dim
    sizes = {"1": 1, "T": 1, "B": B, "S": B, "n": B, "D": D, "O": D, "I": (*arch.hidden_dims, Z)[0], "Z": Z}
    sizes |= {"E": D, "R": 1, "4": 4}
    sizes["N"], generator, found = Network(arch, reference).parameters.size, np.random.default_rng(SEED), []
    for name, kernel in TABLE.items():
        sizes["C"] = Z if name == "philox_normal" else D
        sizes["P"] = 2 * D if name == "join" else D
        arrays: dict[str, np.ndarray] = {}
        for array in kernel.arrays:
            dtype = {"": "float32", "any": "uint8"}.get(array.dtype, array.dtype)
            drawn = generator.random([value(size, sizes) for size in array.shape]) * (255 if dtype == "uint8" else 1)
            arrays[array.name] = generator.permutation(B) if dtype == "int64" else drawn.astype(dtype)
        if "runs" in arrays:  # all columns bernoulli, with an output each
            arrays["runs"] = np.array([[0, 0, 0, D]])
        if name == "weigh":
            arrays["dnll"][...] = -1
        if name == "observe":  # of the same numbers again and again
            arrays["shift"][:], arrays["scale"][:] = 0, 1
        flops = {"dense_forward": 2, "dense_backward": 4}.get(name, 0) * B * D * sizes["I"]
        if flops:
            arrays["a"] = arrays["y"]  # they share their memory, as in a network
        # what is both read and written; of g, which is spent or left alone, nothing is asked
        updated = [array.name for array in kernel.arrays if array.changed and array.name != "g"]
        written = [i for i, array in enumerate(kernel.arrays) if array.written or array.name in updated]
        moved = sum({id(array): array.nbytes for array in arrays.values()}.values())
        moved += sum(arrays[twice].nbytes for twice in updated)
        scalars = [SCALARS[scalar] for scalar in kernel.scalars]
        found.append(Case(f"{name} relu" if flops else name, [*arrays.values()], scalars, written, moved, flops))
    return found


def bind_case(kernels: ModuleType, case: Case, times: int = 1) -> tuple[Callable[[], None], list[Any]]:
    """A program of so many such calls on copies of the arrays in the backend's memory, where shared ones stay shared."""
    copies = {id(array): kernels.to_device(array.copy()) for array in case.arrays}
    arrays, kernel = [copies[id(array)] for array in case.arrays], TABLE[case.name.split()[0]]
    names = tuple(array.name for array in kernel.arrays)
    calls = [Call(kernel.name, names, tuple(case.scalars))] * times
    return bind(kernels, calls, dict(zip(names, arrays))), arrays


def case_deviation(kernels: ModuleType, case: Case) -> float:
    """Run once here and in the reference: the largest difference in the arrays written, relative to their largest value."""
    results = []
    for module in (kernels, reference):
        call, arrays = bind_case(module, case)
        call()
        results.append([np.asarray(module.to_host(arrays[i]), np.float64) for i in case.written])
    worst = [np.abs(ours - right).max() / max(np.abs(right).max(), 1e-30) for ours, right in zip(*results)]
    return float(max(worst)) if np.isfinite(worst).all() else math.inf


def ladder(config: Config, backend: str, rounds: int) -> list[Row]:
    """One row for each kernel: compared with the reference; where it agrees, timed, in turns with the others."""
    kernels, rows = load(backend), []
    timed: list[tuple[Case, Row, list[float], Callable[[], float]]] = []

    def bunch(run: Callable[[], None], times: int) -> float:
        return (timeit(run, number=1) + timeit(kernels.synchronize, number=1)) / times

    for case in cases(config):
        worst = case_deviation(kernels, case)
        row: Row = {"kernel": case.name, "status": "wrong", "deviation": worst}
        rows.append(row)
        if worst <= TOLERANCE:
            once, _ = bind_case(kernels, case)
            times = max(1, min(MOST, round(BUNCH / min(bunch(once, 1) for _ in range(4)))))
            timed.append((case, row, [], partial(bunch, bind_case(kernels, case, times)[0], times)))
    for _ in range(rounds):
        for _, _, spent, again in timed:
            spent.append(statistics.median(again() for _ in range(3)))
    for case, row, spent, _ in timed:
        row |= {"status": "timed"} | summary(spent)
        row |= {"gb_per_s": 1e-9 * case.bytes / row["seconds"], "gflop_per_s": 1e-9 * case.flops / row["seconds"]}
    return rows
