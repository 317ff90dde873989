"""The table of contenders, and our own: the backends of minivae, and the floor below all of them."""

from __future__ import annotations

import importlib
import math
import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from minivae.bench.configs import CHECKED_STEPS, LEARNING_RATE, SEED, Config, inputs, matrix_products
from minivae.data.batches import Examples
from minivae.kernels import MODULES, availability, load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program


class Entry(NamedTuple):
    """A line of the table: the class, as module.Class of this package, what it needs, and its arguments beside the config."""

    made_by: str
    package: str = "numpy"
    device: str = "cpu"
    arguments: dict[str, Any] = {}  # noqa: RUF012  (never written)


TABLE = {
    "floor": Entry("contenders.Floor"),
    "numpy": Entry("contenders.Ours", "numpy", "cpu", {"backend": "numpy"}),
    "numba": Entry("contenders.Ours", "numba", "cpu", {"backend": "numba"}),
    "cupy": Entry("contenders.Ours", "cupy", "cuda", {"backend": "cupy"}),
    "torch": Entry("peers.Torch", "torch"),
    "torch-compile": Entry("peers.Torch", "torch", "cpu", {"compiled": True}),
    "torch-cuda": Entry("peers.Torch", "torch", "cuda", {"device": "cuda"}),
    "torch-cuda-compile": Entry("peers.Torch", "torch", "cuda", {"device": "cuda", "compiled": True}),
    "torch-cuda-graph": Entry("peers.Torch", "torch", "cuda", {"device": "cuda", "graph": True}),
    "jax-scan": Entry("peers.Jax", "jax", "any", {"scan": True}),  # takes a GPU by itself where it finds one
    "jax-step": Entry("peers.Jax", "jax", "any", {"scan": False}),
    # What is measured but does not train
    "ceilings": Entry("kernels.Ceilings"),
    "profile": Entry("profile.Profile", "numba"),
    **{f"kernels:{backend}": Entry("kernels.Ladder", arguments={"backend": backend}) for backend in MODULES},
}
PEERS = tuple(name for name, e in TABLE.items() if e.made_by.startswith("peers") and e.device != "cuda")
GPU_PEERS = tuple(name for name, e in TABLE.items() if e.made_by.startswith("peers") and e.device == "cuda")
NAMES = ("floor", *MODULES, *PEERS)  # of the training step, unless others are asked for


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

    def facts(self) -> dict[str, Any]:
        """What is compared before anything is timed."""
        return {"losses": self.losses()}

    def run(self, n: int) -> Any:
        """Seconds per step over at least n steps from the initial weights."""
        self.reset()
        blocks = math.ceil(n / self.steps)
        return seconds(self.block, blocks, self.wait) / self.steps

    def choose_threads(self, set_threads: Callable[[int], Any] | None) -> None:
        """Keep one thread or all, whichever is faster: for small products one thread often is."""
        if set_threads is None:
            self.note = "threads as set outside (threadpoolctl is not installed)"
            return
        spent = {}
        for threads in thread_counts():
            set_threads(threads)
            self.run(1)
            spent[threads] = min(self.run(1) for _ in range(3))
        best = min(spent, key=spent.__getitem__)
        set_threads(best)
        self.note = counted(best, "thread")


def seconds(call: Callable[[], Any], times: int = 1, wait: Callable[[], Any] = lambda: None) -> float:
    """Seconds of one call, over so many in a row; wait() returns when what runs ahead of Python is done."""
    wait()
    begun = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - begun) / times


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n > 1 else ''}"


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts() -> list[int]:
    return sorted({1, available_cores()})


def blas_threads() -> Callable[[int], Any] | None:
    """A function that sets the threads of NumPy's BLAS, where threadpoolctl is installed."""
    try:
        controller = importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
    return lambda threads: controller.limit(limits=threads, user_api="blas")


def backend_module(name: str) -> ModuleType:
    """The kernels of this backend. Raises Unavailable with its own reason."""
    works, reason = availability(name)
    if not works:
        raise Unavailable(reason)
    return load(name)


class Ours(Contender):
    """A backend of minivae through the library's own training step.

    The step gathers its rows, draws its noise and records its history, which the peers, on ready batches, need not do.
    """

    note = "threads as the backend chooses"

    def __init__(self, config: Config, backend: str) -> None:
        self.kernels, given, self.steps = backend_module(backend), inputs(config), config.ready_steps
        self.initial, self.rows = given.parameters, given.rows
        self.network, optimizer = Network(config.arch, self.kernels), Optimizer(learning_rate=LEARNING_RATE)
        state = optimizer.state(len(self.initial), np.float32)
        self.moments = {name: self.kernels.to_device(vector) for name, vector in state.items()}
        arrays = {"p": self.network.parameters, "g": self.network.gradient, **self.moments}
        arrays["data"] = data = self.kernels.to_device(given.data)
        arrays["trace"] = self.trace = self.kernels.empty((self.steps, 2 + config.arch.latent_dim), np.float64)
        program = step_program(self.network, Examples(data, np.arange(len(data))), Objective(), optimizer, SEED)
        self.work = self.network.workspace(program, config.batch, **arrays)
        rate, beta = np.full(self.steps, LEARNING_RATE), np.ones(self.steps)
        self.variables = {"index": np.arange(self.steps), "beta": beta, "learning_rate": rate}
        self.done = 0
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
        self.done += done
        if done != self.steps or not np.isfinite(trace[-1, :2]).all():
            raise ArithmeticError(f"the training stopped at step {self.done}: its loss is not finite")
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
            (operand(p.m, p.k, p.transposed == "A"), operand(p.k, p.n, p.transposed == "B"), np.empty((p.m, p.n), "f4"))
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
    if name not in TABLE:
        raise ValueError(f"contender {name!r} is not one of {', '.join(NAMES)}")
    entry = TABLE[name]
    module, _, made_by = entry.made_by.partition(".")
    try:
        made: Contender = getattr(importlib.import_module(f"minivae.bench.{module}"), made_by)(config, **entry.arguments)
    except ImportError as error:
        why = f"{entry.package} cannot be imported ({error}); run pip install {entry.package}"
        raise Unavailable(why) from error
    return made
