"""The table of contenders, and our own: the backends of minivae, and the floor below all of them."""

import importlib
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from timeit import timeit
from typing import Any, Self

import numpy as np

from minivae import processors
from minivae.bench.configs import CHECKED_STEPS, LEARNING_RATE, SEED, Config, inputs
from minivae.data.batches import Examples
from minivae.kernels import MODULES, load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

Row = dict[str, Any]
# Name -> the function that makes it, in a file of this package; the library and the device that it needs; its switches.
TABLE: dict[str, tuple[str, str, str, dict[str, bool]]] = {
    "floor": ("contenders.floor", "numpy", "cpu", {}),
    "numpy": ("contenders.ours", "numpy", "cpu", {}),
    "numba": ("contenders.ours", "numba", "cpu", {}),
    "cupy": ("contenders.ours", "cupy", "cuda", {}),
    "torch": ("peers.torch", "torch", "cpu", {}),
    "torch-compile": ("peers.torch", "torch", "cpu", {"compiled": True}),
    "jax-scan": ("peers.jax", "jax", "any", {"scan": True}),  # on a GPU where JAX finds one
    "jax-step": ("peers.jax", "jax", "any", {}),
    "torch-cuda": ("peers.torch", "torch", "cuda", {}),
    "torch-cuda-compile": ("peers.torch", "torch", "cuda", {"compiled": True}),
    "torch-cuda-graph": ("peers.torch", "torch", "cuda", {"graph": True}),
}
NAMES = tuple(name for name in TABLE if not name.startswith("torch-cuda"))  # those that run unless others are asked for
CORES = processors.usable()
THREADS = {f"{n} thread{'s' if n > 1 else ''}": n for n in sorted({1, CORES})}  # what is tried


class Unavailable(ImportError):
    """This contender cannot run here; the message says why."""


@dataclass
class Contender:
    """Something that trains: reset() to the initial weights, block() for the next `steps` steps, wait() until it is done."""

    steps: int
    block: Callable[[], Any]
    reset: Callable[[], Any] = lambda: None
    note: str = ""  # what was chosen, such as the number of threads
    wait: Callable[[], Any] = lambda: None
    work: Any = None  # of our own: the workspace

    def losses(self) -> list[float]:
        """The first losses from the initial weights."""
        self.reset()
        return [float(loss) for loss in self.block()][:CHECKED_STEPS]

    def run(self, n: int) -> float:
        """Seconds per step over at least n steps from the initial weights."""
        self.reset()
        self.wait()
        blocks = math.ceil(n / self.steps)
        return (timeit(self.block, number=blocks) + timeit(self.wait, number=1)) / (blocks * self.steps)

    def with_best_threads(self, set_threads: Callable[[int], Any] | None) -> Self:
        """On one thread or on all, whichever is faster: for small products one often is."""
        self.note = "threads as set outside (threadpoolctl is not installed)"
        if set_threads is not None:
            spent = {}
            for name, threads in THREADS.items():
                set_threads(threads)
                spent[name] = min(self.run(1) for _ in range(4))
            self.note = min(spent, key=lambda name: spent[name])
            set_threads(THREADS[self.note])
        return self


def create(name: str, config: Config) -> Contender:
    """The contender of this name. Raises Unavailable with the reason where it cannot run here."""
    if name not in TABLE:
        raise ValueError(f"contender {name!r} is not one of {', '.join(NAMES)}")
    maker, library, device, switches = TABLE[name]
    module, function = maker.split(".")
    make: Callable[..., Contender] = getattr(importlib.import_module(f"minivae.bench.{module}"), function)
    try:
        return make(config, library, device, **switches)
    except ImportError as error:
        pip = f"{library} cannot be imported ({error}); run pip install {library}"
        raise Unavailable(error if library in MODULES or isinstance(error, Unavailable) else pip) from error


def summary(times: list[float], floor: list[float] | None = None) -> Row:
    """Median, least and largest of the seconds, and the median over the rounds of the ratio to the floor in that round."""
    ratio = {"to_floor": statistics.median(t / f for t, f in zip(times, floor, strict=True))} if floor else {}
    return {"seconds": statistics.median(times), "least": min(times), "largest": max(times)} | ratio


def blas_threads() -> Callable[[int], Any] | None:
    """A function that sets the threads of NumPy's BLAS, where threadpoolctl is installed."""
    try:
        controller = importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
    return lambda threads: controller.limit(limits=threads, user_api="blas")


def floor(config: Config, library: str, device: str) -> Contender:
    """All matrix products of one step, on arrays that lie ready, and nothing else."""
    draw: Any = partial(np.random.default_rng(SEED).random, dtype=np.float32)
    products: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for layer in config.layers:
        x, W, y = (config.batch, layer.inputs), (layer.inputs, layer.outputs), (config.batch, layer.outputs)
        pairs = [(draw(x), draw(W)), (draw(x).T, draw(y)), (draw(y), draw(W).T)]  # y = x W, dW = x^T dy, dx = dy W^T
        for a, b in pairs[: 2 if layer.x == "x" else 3]:
            products.append((a, b, np.empty((len(a), b.shape[1]), np.float32)))

    def block() -> list[float]:
        for _ in range(config.ready_steps):
            for a, b, out in products:
                np.matmul(a, b, out=out)
        return []

    return Contender(config.ready_steps, block).with_best_threads(blas_threads())


def ours(config: Config, backend: str, device: str) -> Contender:
    """A backend through the library's own training step, which also gathers, draws noise and records, as no peer does."""
    kernels, (initial, data, rows, _), done = load(backend), inputs(config), 0
    network, optimizer = Network(config.arch, kernels), Optimizer(learning_rate=LEARNING_RATE)
    moments = {name: kernels.to_device(v) for name, v in optimizer.state(len(initial), np.float32).items()}
    trace = kernels.empty((len(rows), 2 + config.arch.latent_dim), np.float64)
    examples = Examples(kernels.to_device(data), np.arange(len(data)))
    program = step_program(network, examples, Objective(), optimizer, SEED)
    arrays = {"data": examples.data, "trace": trace, "p": network.parameters, "g": network.gradient, **moments}
    work, index = network.workspace(program, config.batch, **arrays), np.arange(len(rows))
    fixed = {"index": index, "beta": np.ones(len(rows)), "learning_rate": np.full(len(rows), LEARNING_RATE)}

    def reset() -> None:
        nonlocal done
        network.set_parameters(initial)
        for vector in moments.values():
            vector[...] = 0
        done = 0

    def block() -> Any:
        nonlocal done
        ran = work.steps(rows, step=done + 1 + index, update=done + 1 + index, **fixed)
        done += ran
        host = np.asarray(kernels.to_host(trace))
        if ran < len(rows) or not np.isfinite(host[-1, :2]).all():
            raise ArithmeticError(f"the training stopped at step {done}: its loss is not finite")
        return host[:, 0] + host[:, 2:].sum(axis=1)

    made = Contender(len(rows), block, reset, "threads as the backend chooses", work=work)
    return made.with_best_threads(blas_threads()) if backend == "numpy" else made


def profile(config: Config, n: int) -> list[Row]:
    """The numba backend's step, taken apart: the seconds of its parts over n steps, as its threads' own clocks saw them."""
    contender = create("numba", config)
    contender.run(1)
    tables = contender.work.bound(config.batch)[0].tables
    tables.measure()
    seconds, parts = contender.run(n), []
    shares = tables.shares().mean(axis=0)  # of the threads, which share the work evenly or else wait
    for i in np.flatnonzero(shares[:-1]):
        call, purpose = contender.work.program[i // 3], ("forward", "gradient", "update")[i % 3]
        # a dense_backward has all three: dy, and dx unless that is None; then dW and db; then the update of both
        product = purpose == "gradient" or (purpose == "forward" and call.arrays[0] is not None)
        W = [contender.work.arrays[name].size for name in call.arrays if product and name and name.endswith(".W")]
        part = {"kernel": call.kernel, "array": next(filter(None, call.arrays), ""), "purpose": purpose}
        parts.append(part | {"seconds": seconds * shares[i], "flops": 2.0 * config.batch * sum(W)})
    waiting = seconds * shares[-1]
    return [{"status": "timed", "seconds": seconds, "threads": tables.threads, "parts": parts, "waiting": waiting}]
