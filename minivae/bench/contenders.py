"""The table of contenders, and our own: the backends of minivae, and the roofline that none can pass."""

import importlib
import math
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from timeit import timeit
from typing import Any, NamedTuple

import numpy as np

from minivae import processors
from minivae.bench.configs import CHECKED_STEPS, LEARNING_RATE, SEED, Config, inputs
from minivae.data.batches import Examples
from minivae.kernels import MODULES, load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

Row = dict[str, Any]
CORES = processors.usable()
THREADS = {f"{n} thread{'s' if n > 1 else ''}": n for n in sorted({1, CORES})}  # what is tried
EPOCH = 468  # steps of 128 of MNIST's 60,000
SIDE = 2048  # of the square matrices whose product tells the peak: some 99 % of all multiply-adds on OpenBLAS and Zen 3


class Entry(NamedTuple):
    """A contender: "module:function" that makes it from (config, library, device, **switches), and what it needs."""

    maker: str
    library: str = ""
    device: str = "cpu"  # or "cuda"; "any": on a GPU where the library finds one
    switches: tuple[str, ...] = ()  # keyword arguments that are true


HERE = "minivae.bench.contenders"
OURS, TORCH, JAX = f"{HERE}:ours", "minivae.bench.peers:torch", "minivae.bench.peers:jax"
TABLE = {
    "roofline": Entry(f"{HERE}:Roofline"),
    "numpy": Entry(OURS, "numpy"),
    "numba": Entry(OURS, "numba"),
    "cupy": Entry(OURS, "cupy", "cuda"),
    "torch": Entry(TORCH, "torch"),
    "torch-compile": Entry(TORCH, "torch", "cpu", ("compiled",)),
    "jax-scan": Entry(JAX, "jax", "any", ("scan",)),
    "jax-step": Entry(JAX, "jax", "any"),
    "torch-cuda": Entry(TORCH, "torch", "cuda"),
    "torch-cuda-compile": Entry(TORCH, "torch", "cuda", ("compiled",)),
    "torch-cuda-graph": Entry(TORCH, "torch", "cuda", ("graph",)),
}
# those that run unless others are asked for
NAMES = [name for name in TABLE if not name.startswith(("torch-cuda", "roof"))]


def register(name: str, maker: str, library: str = "", device: str = "cpu", *switches: str) -> None:
    """Add a contender of your own: "module:function" makes one from (config, library, device, **switches).

    Its processes import the module, so that must be on their path. `minivae bench --contenders module:function` does the
    same. Raises ValueError for another form.
    """
    module, colon, function = maker.partition(":")
    if not (colon and all(part.isidentifier() for part in [*module.split("."), function])):
        raise ValueError(f"contender {maker!r} is not one of {', '.join(NAMES)}, nor of the form module:function")
    TABLE[name] = Entry(maker, library, device, switches)


class Unavailable(ImportError):
    """This contender cannot run here; the message says why."""


@dataclass
class Contender:
    """Something that trains: reset() to the initial weights, block() for the next `steps` steps, wait() until it is done.

    Where block() only queues its steps, it calls after_step() after each. set_threads(n), where there is a choice, and then
    compile() come before the first block.
    """

    steps: int
    block: Callable[[], Any]
    reset: Callable[[], Any] = lambda: None
    note: str = ""  # what was chosen, such as the number of threads
    wait: Callable[[], Any] | None = None
    after_step: Callable[[], Any] = lambda: None
    set_threads: Callable[[int], Any] | None = None
    compile: Callable[[], Any] = lambda: None
    device: str = "cpu"
    work: Any = None  # of our own: the workspace

    def losses(self) -> list[float]:
        """The first losses from the initial weights."""
        self.reset()
        return [float(loss) for loss in self.block()][:CHECKED_STEPS]

    def run(self, n: int, synchronised: bool = False) -> float:
        """Seconds per step over at least n steps from the initial weights; synchronised: each awaited before the next."""
        wait = self.wait or (lambda: None)
        self.after_step = wait if synchronised else lambda: None
        self.reset()
        wait()
        blocks = math.ceil(n / self.steps)
        return (timeit(self.block, number=blocks) + timeit(wait, number=1)) / (blocks * self.steps)

    def choose_threads(self) -> None:
        """One thread or all, whichever is faster: for small products one often is."""
        if self.set_threads is not None:
            spent = {}
            for name, threads in THREADS.items():
                self.set_threads(threads)
                spent[name] = min(self.run(1) for _ in range(4))
            best = min(spent, key=lambda name: spent[name])
            self.set_threads(THREADS[best])
            self.note = best + self.note


def create(name: str, config: Config, entry: Entry | None = None) -> Contender:
    """The contender of this name. Raises Unavailable with the reason where it cannot run here."""
    maker, library, device, switches = entry or TABLE[name]
    module, function = maker.split(":")
    try:
        make: Callable[..., Contender] = getattr(importlib.import_module(module), function)
        return make(config, library, device, **dict.fromkeys(switches, True))
    except ImportError as error:
        pip = f"{library} cannot be imported ({error}); run pip install {library}"
        known = library in MODULES or not library or isinstance(error, Unavailable)
        raise Unavailable(error if known else pip) from error


def summary(times: list[float], roofline: list[float] | None = None) -> Row:
    """Of the seconds median, least, largest; share: the median over the rounds of the roofline's seconds by these."""
    share = {"share": statistics.median(r / t for t, r in zip(times, roofline, strict=True))} if roofline else {}
    return {"seconds": statistics.median(times), "least": min(times), "largest": max(times), "times": times} | share


def blas_threads() -> Callable[[int], Any] | None:
    """A function that sets the threads of NumPy's BLAS, where threadpoolctl is installed."""
    try:
        controller = importlib.import_module("threadpoolctl").ThreadpoolController()
    except ImportError:
        return None
    return lambda threads: controller.limit(limits=threads, user_api="blas")


class Roofline(Contender):
    """The least time of a step: that of its multiply-adds or of its bytes, whichever is longer, at best rates.

    Multiply-adds: those of the products, at the rate of one large product. Bytes: p, m and v, each read and written once,
    in memory that lies where theirs would, in a cache or beyond. Both in the same turn as the contenders, on all cores.
    """

    def __init__(self, config: Config, library: str = "", device: str = "cpu", side: int = SIDE) -> None:
        super().__init__(1, list, set_threads=blas_threads())
        self.flops, self.product = config.flops, 2 * side**3
        self.a, self.out = np.ones((side, side), np.float32), np.empty((side, side), np.float32)
        state = np.ones(3 * config.parameters, np.float32)
        # a small one stays in one core's cache
        self.parts = np.array_split(state, CORES if state.nbytes > 2**20 else 1)
        self.pool, self.rates = ThreadPoolExecutor(len(self.parts)), (0.0, 0.0)

    def run(self, n: int, synchronised: bool = False) -> float:
        def sweep(part: np.ndarray) -> None:
            for _ in range(n):
                np.negative(part, out=part)

        products = math.ceil(n * self.flops / self.product)
        product = timeit(lambda: np.matmul(self.a, self.a, out=self.out), number=products) / products
        moving = timeit(lambda: list(self.pool.map(sweep, self.parts)), number=1) / n
        moved = 2 * sum(part.nbytes for part in self.parts)
        self.rates = max(self.rates[0], self.product / product), max(self.rates[1], moved / moving)
        self.note = f"{1e-9 * self.rates[0]:.0f} GFLOP/s, {1e-9 * self.rates[1]:.0f} GB/s"
        return max(product * self.flops / self.product, moving)


def ours(config: Config, backend: str, device: str) -> Contender:
    """A backend through the library's own training step, which also gathers, draws noise and records, as no peer does."""
    kernels, (initial, data, rows, _), done = load(backend), inputs(config), 0
    if device == "cuda":  # it is waited for once a block, and in a training once an epoch or ten times a second
        rows = np.tile(rows, (math.ceil(EPOCH / len(rows)), 1))
    network, optimizer = Network(config.arch, kernels), Optimizer(learning_rate=LEARNING_RATE)
    moments = {name: kernels.to_device(v) for name, v in optimizer.state(len(initial), np.float32).items()}
    objective = Objective(objective="iwae" if config.samples > 1 else "elbo", n_samples=config.samples)
    trace = kernels.empty((len(rows), objective.bound.columns(config.arch.latent_dim)), np.float64)
    examples = Examples(kernels.to_device(data), np.arange(len(data)))
    program = step_program(network, examples, objective, optimizer, SEED)
    arrays = {"data": examples.data, "trace": trace, "p": network.parameters, "g": network.gradient, **moments}
    work, index = network.workspace(program, config.batch, config.samples, **arrays), np.arange(len(rows))
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
        return host[:, 0] + (0.0 if objective.bound.weighted else host[:, 2:].sum(axis=1))

    made = Contender(len(rows), block, reset, "threads as the backend chooses", device=device, work=work)
    if backend == "numpy":
        made.set_threads, made.note = blas_threads(), ""
    return made


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
        rows = config.batch * (config.samples if "decoder." in str(call.arrays) else 1)
        parts.append(part | {"seconds": seconds * shares[i], "flops": 2.0 * rows * sum(W)})
    waiting = seconds * shares[-1]
    return [{"status": "timed", "seconds": seconds, "threads": tables.threads, "parts": parts, "waiting": waiting}]
