"""The parts of gpu_check.py. Each returns whether it passed, and facts; run as a program, one writes them to a file.

A part that finds out more than one thing calls `keep` after each, so that a time limit costs the rest alone.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("784-400-20-relu-128", "784-200-200-50-tanh-20", "784-512-256-32-relu-1024", "784-500-20-relu-4096")
CONTENDERS = ("cupy", "torch-cuda", "torch-cuda-compile", "torch-cuda-graph", "jax-scan", "jax-step")
PAPER_STEPS = 3280 * 60000 // 20  # Burda et al.: 3,280 epochs of MNIST in batches of 20
EXAMPLE = 105.4  # test loss of the NumPy backend after 10 epochs of PyTorch's VAE example (README)
CUBLAS = "backend contract, products by cublas"
TINY = "6-5-2-relu-4"  # in a rehearsal
COPIES = 50  # of one launch in one graph

Facts = tuple[bool, dict[str, Any]]
PARTS: dict[str, tuple[str, float, Callable[[], Facts]]] = {}
emulate = "emulate" in sys.argv[3:]
target: list[Path] = []  # where a part that runs as a program writes


def part(group: str, name: str, seconds: float = 120) -> Callable[[Callable[[], Facts]], Callable[[], Facts]]:
    def enter(function: Callable[[], Facts]) -> Callable[[], Facts]:
        PARTS[name] = group, seconds, function
        return function

    return enter


def ordered() -> Iterator[tuple[str, str, float]]:
    """(group, name, seconds allowed), in the order in which they run."""
    return ((group, name, seconds) for name, (group, seconds, _) in PARTS.items())


def keep(facts: dict[str, Any], passed: bool = False) -> None:
    for path in target:
        path.write_text(json.dumps({"passed": bool(passed)} | facts, default=float) + "\n")


def few(n: int) -> int:
    """So many on a card, and a hundredth of it in a rehearsal."""
    return max(25, n // 100) if emulate else n


@contextlib.contextmanager
def setting(**variables: str) -> Iterator[None]:
    """Environment variables, put back afterwards whatever happens."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def trained(backend: str, dtype: str, steps: int, case: str = "", binarize: str = "none", **options: Any) -> Any:
    """A trainer after so many steps on fixed data, from fixed weights. case: one of tests/training_cases.py."""
    from training_cases import CASES, suited

    from minivae.architecture import Architecture, initial_parameters
    from minivae.data.batches import Examples
    from minivae.kernels import load
    from minivae.network import Network
    from minivae.optimizers import Optimizer
    from minivae.training import Objective, Trainer

    arch, optimizer, objective = Architecture(64, 8, (48, 32), "tanh"), Optimizer(**options), Objective()
    data = np.random.default_rng(0).random((32 * 25, 64)) ** 3
    if case:
        arch, optimizer, objective, binarize = CASES[case]
        data = suited(np.random.default_rng(0).random((32 * 25, arch.data_dim)) ** 3, case)
    network = Network(arch, load(backend), dtype)
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, optimizer, objective, 32, seed=5)
    trainer.fit(Examples(data, np.arange(len(data)), binarize=binarize), max(1, steps // 25))
    return trainer


def losses(trainer: Any) -> np.ndarray:
    return np.array([record["loss"] for record in trainer.history])


@part("checks", "device")
def device() -> Facts:
    from minivae.kernels import availability

    works, reason = availability("cupy")
    facts: dict[str, Any] = {"reason": reason, "python": platform.python_version(), "numpy": np.__version__}
    if works and not emulate:
        import cupy

        properties, runtime = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id), cupy.cuda.runtime
        facts |= {"device": properties["name"].decode(), "capability": f"{properties['major']}.{properties['minor']}"}
        facts |= {"multiprocessors": properties["multiProcessorCount"], "cupy": cupy.__version__}
        facts |= {"driver": runtime.driverGetVersion(), "cuda": runtime.runtimeGetVersion()}
    for package in ("torch", "jax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return works, {"device": "emulated"} | facts


def contract(products: str) -> Facts:
    """The tests of the interface, kernel by kernel. In a rehearsal a few: all of them are in `make test`."""
    kernels = "gather or bernoulli" if emulate else "cupy"
    command = ["-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "tests/kernels/test_contract.py"]
    real = {} if emulate else {"MINIVAE_NO_EMULATOR": "1"}
    environment = os.environ | {"MINIVAE_CUDA_PRODUCTS": products} | real
    done = subprocess.run([sys.executable, *command, "-k", f"cupy and ({kernels})"], capture_output=True, text=True,
                          cwd=ROOT, env=environment)  # fmt: skip
    print(done.stdout, done.stderr)
    counts = {f"tests {word}": int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    return done.returncode == 0 and counts.get("tests passed", 0) > (5 if emulate else 500), counts


@part("checks", CUBLAS, 240)
def contract_cublas() -> Facts:
    from minivae.kernels import availability

    passed, counts = contract("cublas")
    return passed and "cuBLAS" in availability("cupy")[1], counts


@part("checks", "1,000 steps as NumPy's")
def steps_as_numpys() -> Facts:
    facts = {}
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-4)):
        ours, expected = (losses(trained(backend, dtype, few(1000))) for backend in ("cupy", "numpy"))
        facts |= {dtype: float(np.abs(ours / expected - 1).max()), f"allowed in {dtype}": tolerance}
    return all(facts[dtype] <= facts[f"allowed in {dtype}"] for dtype in ("float64", "float32")), facts


@part("peers", f"step, {CONFIGS[0]}", 400)
def main_configuration() -> Facts:
    return against_peers(CONFIGS[0])


@part("profile", "microseconds per launch", 240)
def launch_times() -> Facts:
    """Each call of a step captured so many times in one graph: what it costs with no gap before it."""
    import cupy

    from minivae.bench import configs, contenders
    from minivae.kernels.cuda import launches

    facts: dict[str, Any] = {"table": []}
    for products in ("cublas", "own"):
        for name in CONFIGS[: 1 if emulate else 3]:
            with setting(MINIVAE_CUDA_PRODUCTS=products):
                config = configs.parse(TINY if emulate else name)
                made = contenders.create("cupy", config)
                made.run(1)
                recorded, total = made.work.bound(config.batch)[0], 0.0
                for call, (s, n) in zip(recorded.program, recorded.places):
                    L = launches.Launcher(cupy, recorded.launcher.dtype)  # with scratch of its own
                    L.s, L.n = int(recorded.s.data.ptr) + s * recorded.s.itemsize, int(recorded.n.data.ptr) + 8 * n
                    L.stop = recorded.launcher.stop
                    arrays = [None if array is None else recorded.read[array] for array in call.arrays]

                    def once(L: Any = L, call: Any = call, arrays: Any = arrays) -> None:
                        L.begin()
                        launches.launch(L, call.kernel, arrays, call.scalars)

                    seconds = captured(cupy, recorded.stream, once)
                    total += seconds
                    shown = f"{name:26} {products:7} {call.kernel:20} {call.arrays[0]!s:16} {1e6 * seconds:8.2f} us"
                    facts["table"].append(shown)
                facts[f"sum of {name}, {products}, us"] = 1e6 * total
                keep(facts)
    return len(facts["table"]) > 20, facts


def captured(cupy: Any, stream: Any, once: Callable[[], None]) -> float:
    """Seconds of one of COPIES calls in one graph, the least of five launches."""
    with stream:
        once()
        stream.synchronize()
        stream.begin_capture()
        try:
            for _ in range(COPIES):
                once()
        finally:
            graph = stream.end_capture()
        spent = []
        for _ in range(6):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            graph.launch(stream)
            end.record()
            end.synchronize()
            spent.append(1e-3 * cupy.cuda.get_elapsed_time(start, end) / COPIES)
    return min(spent[1:])


@part("profile", "gaps between launches", 240)
def gaps() -> Facts:
    from minivae.bench import configs, contenders
    from minivae.kernels.cuda import graph as recording

    found, config = {}, configs.parse(TINY if emulate else CONFIGS[0])
    for name, graph, steps in (("eager", "0", 16), ("graph of 1", "1", 1), ("graph of 16", "1", 16)):
        recording.STEPS_PER_GRAPH = steps
        for products in ("cublas", "own"):
            with setting(MINIVAE_CUDA_GRAPH=graph, MINIVAE_CUDA_PRODUCTS=products):
                made = contenders.create("cupy", config)
                made.run(few(50))
                found[f"{name}, {products}, us"] = 1e6 * float(np.median([made.run(few(500)) for _ in range(3)]))
                keep(found)
    return emulate or found["graph of 16, cublas, us"] < found["eager, cublas, us"], found


@part("checks", "the graph computes what its calls compute")
def graph_and_calls() -> Facts:
    said, facts = io.StringIO(), {}
    for case in ("", "bernoulli tanh free bits", "gaussian learned sgd", "poisson in general"):
        with contextlib.redirect_stderr(said):
            replayed = trained("cupy", "float32", few(200), case, max_grad_norm=1.0)
        with setting(MINIVAE_CUDA_GRAPH="0"):
            by_calls = trained("cupy", "float32", few(200), case, max_grad_norm=1.0)
        same = np.array_equal(replayed.network.get_parameters(), by_calls.network.get_parameters())
        facts[f"same bits, {case or 'bernoulli clipped'}"] = bool(same)
    return all(facts.values()) and not said.getvalue(), facts | {"recorded": said.getvalue().strip() or "yes"}


@part("checks", "binarized gather as NumPy's")
def binarized() -> Facts:
    """Gather, noise and threshold in one launch: the same pixels, so nearly the same losses."""
    ours, expected = (
        losses(trained(backend, "float64", few(500), binarize="dynamic")) for backend in ("cupy", "numpy")
    )
    worst = float(np.abs(ours / expected - 1).max())
    return worst <= 1e-9, {"largest relative difference": worst}


@part("checks", "TF32 products round to 10 bits, and train")
def tf32_products() -> Facts:
    from minivae.kernels import load

    if os.environ.get("MINIVAE_CUDA_PRODUCTS") == "own":
        return True, {"not run": "they are cuBLAS's, which made wrong products"}
    kernels, draw = load("cupy"), np.random.default_rng(0).standard_normal
    x, W, b = (draw(shape).astype(np.float32) for shape in ((128, 784), (784, 400), (400,)))
    y, a = (kernels.empty((128, 400), np.float32) for _ in range(2))
    kernels.dense_forward(y, a, *map(kernels.to_device, (x, W, b)), "identity")
    error = float(np.abs(kernels.to_host(a) - (x.astype(np.float64) @ W + b)).max() / 784**0.5)
    loss, expected = (losses(trained(name, "float32", few(500)))[-1] for name in ("cupy", "numpy"))
    facts = {"error of a sum of 784, by root 784": error, "loss / NumPy's": float(loss / expected)}
    return 1e-5 < error < 4e-3 and abs(loss / expected - 1) < 1e-2, facts


@part("checks", "a loss that is no number stops at its step")
def not_finite() -> Facts:
    from minivae import NotFinite

    try:
        trained("cupy", "float32", 500, name="sgd", learning_rate=1e6)
    except NotFinite as error:
        return "first array holding" in str(error), {"message": str(error)}
    return False, {"message": "none"}


@part("checks", "gradcheck in float64", 240)
def gradients() -> Facts:
    from minivae import proof
    from minivae.kernels import load

    rows = list(itertools.islice(proof.run(load("cupy")), 60 if emulate else None))
    worst = max(row.error for row in rows)
    return len(rows) > 50 and all(row.passed for row in rows), {"gradients": len(rows), "largest error": worst}


@part("checks", "PyTorch's VAE example on MNIST", 300)
def example() -> Facts:
    from minivae import VAE, load_dataset

    data = load_dataset("digits" if emulate else "mnist")
    settings: dict[str, Any] = dict(hidden_dims=(400,), latent_dim=20, batch_size=128, epochs=10, binarize="none")
    settings |= {"hidden_dims": (16,), "epochs": 1} if emulate else {}
    vae = VAE(random_state=0, validation_fraction=0.0, verbose=0, backend="cupy", **settings).fit(data.train)
    seconds, loss = float(np.median([record["seconds"] for record in vae.history_])), -vae.score(data.test)
    return emulate or abs(loss - EXAMPLE) < 0.7, {
        "test loss after 10": loss,
        "expected": EXAMPLE,
        "s per epoch": seconds,
    }


@part("checks", "backend contract, products by own", 240)
def contract_own() -> Facts:
    return contract("own")


def against_peers(name: str) -> Facts:
    """A step beside PyTorch's and JAX's. Where the cuBLAS products are wrong, ours once more with its own."""
    from minivae.bench import configs, contenders, runner, tables

    if emulate:
        contenders.register("cupy", "gpu_parts:emulated", "cupy", "cuda")
    asked = configs.select([TINY if emulate else name])
    names, rounds, seconds = (["cupy"], 1, 0.0) if emulate else ([*CONTENDERS], 5, 0.2)
    rows = runner.step_suite(asked, names, rounds, seconds)
    (ours,) = (row for row in rows if row["contender"] == "cupy")
    if ours["status"] != "timed":
        keep({"step": rows})
        with setting(MINIVAE_CUDA_PRODUCTS="own"):
            (again,) = (r for r in runner.step_suite(asked, ["cupy"], rounds, seconds) if r["contender"] == "cupy")
        rows.append(again | {"note": f"own products, as with cuBLAS: {ours['status']}, {ours['note']}"})
    timed = {row["contender"]: row["seconds"] for row in rows if row["status"] == "timed"}
    facts = {"step": rows, "table": tables.step_text({"step": rows}).splitlines()}
    others = [timed[other] for other in CONTENDERS[1:] if other in timed]
    if others and "cupy" in timed:
        facts["best peer / ours"] = min(others) / timed["cupy"]
    if name == CONFIGS[1] and "cupy" in timed:
        facts["hours for the paper's 9.8 million steps of 20, one sample"] = timed["cupy"] * PAPER_STEPS / 3600
    return ours["status"] == "timed", facts


for _name in CONFIGS[1:]:
    part("peers", f"step, {_name}", 400)(lambda name=_name: against_peers(name))  # type: ignore[misc]


def emulated(config: Any, library: str, device: str) -> Any:
    """The contender of a rehearsal, in a process that has not met the emulator yet."""
    from minivae.bench import contenders

    rehearse()
    return contenders.ours(config, library, device)


def rehearse() -> None:
    """A CPU plays the GPU from here on, and nobody waits for 468 steps of it."""
    import cuda_on_cpu

    from minivae.bench import contenders

    held.enter_context(cuda_on_cpu.emulated())
    contenders.EPOCH = 20


held = contextlib.ExitStack()


def sanitized() -> None:
    """What runs under a sanitizer: a few steps of every model, with a pool that does not hide what lies beyond an array."""
    import cupy
    from training_cases import CASES

    if not emulate:
        cupy.cuda.set_allocator(None)
    for case in ("", *CASES):
        trained("cupy", "float32", 25, case, max_grad_norm=0.5)


def sanitizer(tool: str) -> Facts:
    if emulate:
        sanitized()
        return True, {"summary": "a rehearsal: without the tool"}
    if shutil.which("compute-sanitizer") is None:
        return True, {"summary": "compute-sanitizer is not installed: not run"}
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3", sys.executable, "-c"]
    done = subprocess.run([*command, "import gpu_parts; gpu_parts.sanitized()"], capture_output=True, text=True,
                          env=os.environ | {"MINIVAE_CUDA_PRODUCTS": "own"})  # fmt: skip
    print(done.stdout, done.stderr)
    said = [line for line in done.stdout.splitlines() if "SUMMARY" in line or "Error:" in line]
    return done.returncode == 0, {"summary": said[-1] if said else f"status {done.returncode}"}


for _tool in ("memcheck", "racecheck", "initcheck"):
    part("checks", f"compute-sanitizer, {_tool}", 300)(lambda tool=_tool: sanitizer(tool))  # type: ignore[misc]


@part("checks", "memory over 20,000 steps")
def memory() -> Facts:
    import cupy

    def taken() -> tuple[int, int]:
        free = 0 if emulate else cupy.cuda.runtime.memGetInfo()[0]
        return (0 if emulate else cupy.get_default_memory_pool().total_bytes()), free

    trained("cupy", "float32", 25)
    before = taken()
    trained("cupy", "float32", few(20000))
    after = taken()
    grown = max(after[0] - before[0], before[1] - after[1])
    return grown < 2**26, {"grown by MB": grown / 2**20}


@part("profile", "ceilings of the card")
def ceilings() -> Facts:
    import cupy

    if emulate:
        return True, {"copy GB/s": 0.0, "product TFLOP/s": 0.0}
    source, a = cupy.zeros(2**28, "float32"), cupy.random.random((8192, 8192), dtype="float32")
    copy = cupy.empty_like(source)

    def best(call: Callable[[], Any]) -> float:
        times = []
        for _ in range(6):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(1e-3 * cupy.cuda.get_elapsed_time(start, end))
        return min(times)

    moved = 2e-9 * source.nbytes / best(lambda: copy.__setitem__(..., source))
    return True, {"copy GB/s": moved, "product TFLOP/s": 2e-12 * 8192**3 / best(lambda: a @ a)}


def main() -> int:
    name, result = sys.argv[1], Path(sys.argv[2])
    target.append(result)
    if emulate:
        rehearse()
    if name.startswith("TF32"):
        os.environ["MINIVAE_TF32"] = "1"  # before the first product
    try:
        with contextlib.redirect_stdout(sys.stderr):
            passed, facts = PARTS[name][2]()
    except Exception as error:
        traceback.print_exc()
        before = json.loads(result.read_text()) if result.exists() else {}
        passed, facts = False, before | {"error": f"{type(error).__name__}: {error}"}
    keep(facts, passed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
