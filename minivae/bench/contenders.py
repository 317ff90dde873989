"""Our own contenders: the backends of minivae, and the floor below all of them."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minivae.bench.configs import CHECKED_STEPS, LEARNING_RATE, SEED, Config, inputs, matrix_products
from minivae.data import Examples
from minivae.kernels import MODULES, availability, load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

PEERS = ("torch", "torch-compile", "jax-scan", "jax-step")
GPU_PEERS = ("torch-cuda", "torch-cuda-compile", "torch-cuda-graph")  # JAX takes a GPU by itself where it finds one
NAMES = ("floor", *MODULES, *PEERS)


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


class Contender:
    """Something that trains: reset() to the initial weights, block() for the next `steps` steps, wait() until they are done.

    note: what was chosen, such as the number of threads.
    """

    note = ""
    steps = 1

    def reset(self) -> None:
        raise NotImplementedError

    def block(self) -> Any:
        """Train on every ready batch once; returns the losses [steps]."""
        raise NotImplementedError

    def wait(self) -> None:
        """Nothing runs ahead of Python, unless a contender says so."""

    def losses(self) -> list[float]:
        """The first losses from the initial weights."""
        self.reset()
        return [float(loss) for loss in self.block()][:CHECKED_STEPS]

    def run(self, n: int) -> Any:
        """Seconds per step over at least n steps from the initial weights."""
        self.reset()
        self.wait()
        blocks = max(1, math.ceil(n / self.steps))
        begun = time.perf_counter()
        for _ in range(blocks):
            self.block()
        self.wait()
        return (time.perf_counter() - begun) / (blocks * self.steps)

    def choose_threads(self, set_threads: Callable[[int], Any] | None) -> None:
        """Keep one thread or all, whichever is faster: for small products one thread often is."""
        if set_threads is None:
            self.note = "threads as set outside (threadpoolctl is not installed)"
            return
        counts = sorted({1, available_cores()})
        seconds = {}
        for threads in counts:
            set_threads(threads)
            self.run(1)
            seconds[threads] = min(self.run(1) for _ in range(3))
        best = min(counts, key=lambda threads: seconds[threads])
        set_threads(best)
        self.note = f"{best} thread{'s' if best > 1 else ''}"


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas_threads() -> Callable[[int], Any] | None:
    """A function that sets the threads of NumPy's BLAS, where threadpoolctl is installed."""
    try:
        controller = importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
    return lambda threads: controller.limit(limits=threads, user_api="blas")


class Ours(Contender):
    """A backend of minivae through the library's own training step.

    The step gathers its rows, draws its noise and records its history, which the peers, on ready batches, need not do.
    """

    def __init__(self, backend: str, config: Config) -> None:
        works, reason = availability(backend)
        if not works:
            raise Unavailable(reason)
        kernels = load(backend)
        given, arch, self.steps = inputs(config), config.arch, config.ready_steps
        self.kernels, self.initial, self.rows = kernels, given.parameters, given.rows
        self.network, optimizer = Network(arch, kernels), Optimizer(learning_rate=LEARNING_RATE)
        self.moments = {
            name: kernels.to_device(vector) for name, vector in optimizer.state(len(self.initial), np.float32).items()
        }
        self.trace = kernels.empty((self.steps, 2 + arch.latent_dim), np.float64)
        data = kernels.to_device(given.data)
        program = step_program(self.network, Examples(data, np.arange(len(given.data))), Objective(), optimizer, SEED)
        flat = {"p": self.network.parameters, "g": self.network.gradient, **self.moments}
        self.work = self.network.workspace(program, config.batch, data=data, trace=self.trace, **flat)
        self.variables = {
            "index": np.arange(self.steps),
            "beta": np.ones(self.steps),
            "learning_rate": np.full(self.steps, LEARNING_RATE),
        }
        self.done = 0
        self.note = "threads as the backend chooses"
        if backend == "numpy":
            self.choose_threads(blas_threads())

    def reset(self) -> None:
        self.network.set_parameters(self.initial)
        for vector in self.moments.values():
            vector[...] = 0
        self.done = 0

    def block(self) -> np.ndarray:
        step = np.arange(self.done + 1, self.done + 1 + self.steps)
        done = self.work.steps(self.rows, step=step, update=step, **self.variables)
        trace = np.asarray(self.kernels.to_host(self.trace))
        if done != self.steps or not np.isfinite(trace[-1, :2]).all():
            raise ArithmeticError(f"the training stopped at step {self.done + done}: its loss is not finite")
        self.done += done
        return np.asarray(trace[:, 0] + trace[:, 2:].sum(axis=1))

    def wait(self) -> None:
        self.kernels.synchronize()


class Floor(Contender):
    """All matrix products of one step, on arrays that lie ready, and nothing else."""

    def __init__(self, config: Config) -> None:
        self.steps = config.ready_steps
        generator = np.random.default_rng(SEED)

        def operand(rows: int, columns: int, transposed: bool) -> np.ndarray:
            stored = generator.random((columns, rows) if transposed else (rows, columns), np.float32)
            return stored.T if transposed else stored

        self.products = [
            (
                operand(p.m, p.k, p.transposed == "A"),
                operand(p.k, p.n, p.transposed == "B"),
                np.empty((p.m, p.n), np.float32),
            )
            for p in matrix_products(config.arch, config.batch)
        ]
        self.choose_threads(blas_threads())

    def reset(self) -> None:
        """There is nothing to train."""

    def block(self) -> list[float]:
        for _ in range(self.steps):
            for a, b, out in self.products:
                np.matmul(a, b, out=out)
        return []


def create(name: str, config: Config) -> Contender:
    """The contender of this name. Raises Unavailable with the reason where it cannot run here."""
    if name == "floor":
        return Floor(config)
    if name in MODULES:
        return Ours(name, config)
    if name in (*PEERS, *GPU_PEERS):
        from minivae.bench import peers

        return peers.create(name, config)
    raise ValueError(f"contender {name!r} is not one of {', '.join(NAMES)}")
