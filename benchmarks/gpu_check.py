"""Everything that needs a GPU, in one call: is the CuPy backend right, does it stay right, and how fast is it?

    PYTHONPATH=. python3 benchmarks/gpu_check.py --data FOLDER_WITH_MNIST --out benchmarks/results

Needs CuPy, NumPy, tqdm, pytest and scipy; PyTorch and JAX are measured where they are. No network. One report on standard
output, and a JSON file in the folder of --out. Each part says what it found; the exit status is 1 if a check failed. About
five minutes on one card; --quick leaves the peers out.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ("784-400-20-relu-128", "784-200-200-50-tanh-20", "784-512-256-32-relu-1024", "784-500-20-relu-4096")
CONTENDERS = ("cupy", "torch-cuda", "torch-cuda-compile", "torch-cuda-graph", "jax-scan", "jax-step")
PAPER_STEPS = 3280 * 60000 // 20  # Burda et al.: 3,280 epochs of MNIST in batches of 20
EXAMPLE = [
    127.3,
    116.3,
    112.5,
    110.0,
    108.7,
    107.8,
    106.8,
    106.2,
    105.7,
    105.4,
]  # the NumPy backend's test losses (README)

checks: dict[str, dict[str, Any]] = {}
report: dict[str, Any] = {"date": datetime.date.today().isoformat(), "checks": checks}
where: list[Path] = []  # the file of the report


def save() -> None:
    where[0].write_text(json.dumps(report, indent=1, default=float) + "\n")


@contextlib.contextmanager
def setting(**variables: str):
    """Environment variables, put back afterwards whatever happens."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def check(name: str):
    """Run a part, note what it returns (passed, facts), and go on whatever happens."""

    def run(part):
        begun = time.perf_counter()
        try:
            passed, facts = part()
        except Exception as error:
            passed, facts = False, {"error": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - begun
        checks[name] = {**facts, "passed": bool(passed), "seconds": round(seconds, 1)}
        save()  # what was measured is kept, whatever stops the rest
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        print(f"{'ok    ' if passed else 'FAILED'} {name} ({seconds:.0f} s): {shown}", flush=True)

    return run


def trained(backend: str, dtype: str, steps: int, arch: Any = None, batch: int = 32, **options: Any) -> Any:
    """A trainer after so many steps on fixed data, from fixed weights."""
    from minivae.architecture import Architecture, initial_parameters
    from minivae.data.batches import Examples
    from minivae.kernels import load
    from minivae.network import Network
    from minivae.optimizers import Optimizer
    from minivae.training import Objective, Trainer

    arch = arch or Architecture(64, 8, (48, 32), "tanh")
    data = np.random.default_rng(0).random((batch * 25, arch.data_dim)) ** 3
    network = Network(arch, load(backend), dtype)
    network.set_parameters(initial_parameters(arch, 0))
    trainer = Trainer(network, Optimizer(**options), Objective(), batch, seed=5)
    trainer.fit(Examples(data, np.arange(len(data))), max(1, steps // 25))
    return trainer


def losses(trainer: Any) -> np.ndarray:
    return np.array([record["loss"] for record in trainer.history])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder with MNIST (default: MINIVAE_DATA)")
    parser.add_argument("--out", default="benchmarks/results", help="folder for the JSON report")
    parser.add_argument("--quick", action="store_true", help="without the peers")
    options = parser.parse_args()
    if options.data:
        os.environ["MINIVAE_DATA"] = str(Path(options.data).resolve())
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the contenders share the card
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))

    from minivae.kernels import availability, load

    works, reason = availability("cupy")
    print(f"cupy: {reason}", flush=True)
    if not works:
        return 1
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    machine = {
        "device": properties["name"].decode(),
        "compute_capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": properties["multiProcessorCount"],
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "cupy": cupy.__version__,
        "backend": reason,
    }
    for package in ("torch", "jax"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            machine[package] = importlib.metadata.version(package)
    report["machine"] = machine
    slug = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    where.append(Path(options.out) / f"{report['date']}-{slug}.json")
    where[0].parent.mkdir(parents=True, exist_ok=True)

    def run(*command: str, **environment: str) -> tuple[bool, str]:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, cwd=ROOT, env=os.environ | environment
        )
        return done.returncode == 0, done.stdout + done.stderr

    for products in ("cublas", "own"):

        @check(f"backend contract, products by {products}")
        def _(products: str = products) -> Any:
            ok, said = run(
                "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider",
                "tests/kernels/test_contract.py", "-k", "cupy",
                MINIVAE_CUDA_PRODUCTS=products, MINIVAE_NO_EMULATOR="1",
            )  # fmt: skip
            counts = {f"tests {word}": int(n) for n, word in re.findall(r"(\d+) (passed|failed|error|skipped)", said)}
            first = next((line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
            right = products == "own" or "cuBLAS" in reason
            return ok and right and counts.get("tests passed", 0) > 500, counts | ({"first": first} if first else {})

    @check("gradcheck in float64")
    def _() -> Any:
        ok, said = run("-m", "minivae.app.cli", "gradcheck", "--backend", "cupy")
        return ok, {"said": said.strip().splitlines()[-1]}

    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-4)):

        @check(f"1,000 steps as NumPy's, {dtype}")
        def _(dtype: str = dtype, tolerance: float = tolerance) -> Any:
            ours, expected = losses(trained("cupy", dtype, 1000)), losses(trained("numpy", dtype, 1000))
            worst = float(np.abs(ours / expected - 1).max())
            return worst <= tolerance, {"largest relative difference": worst}

    @check("the graph computes what its calls compute")
    def _() -> Any:
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            replayed = trained("cupy", "float32", 200, max_grad_norm=1.0)
        with setting(MINIVAE_CUDA_GRAPH="0"):
            by_calls = trained("cupy", "float32", 200, max_grad_norm=1.0)
        same = np.array_equal(replayed.network.get_parameters(), by_calls.network.get_parameters())
        return same and not said.getvalue(), {"same bits": same, "recorded": said.getvalue().strip() or "yes"}

    for tool in ("memcheck", "racecheck"):
        if shutil.which("compute-sanitizer"):

            @check(f"compute-sanitizer, {tool}")
            def _(tool: str = tool) -> Any:
                training = "from gpu_check import trained; trained('cupy', 'float32', 25, max_grad_norm=0.5)"
                command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3", sys.executable, "-c", training]
                path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
                environment = os.environ | {"PYTHONPATH": path, "MINIVAE_CUDA_PRODUCTS": "own"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
                said = [
                    line
                    for line in (done.stdout + done.stderr).splitlines()
                    if "ERROR SUMMARY" in line or "RACECHECK" in line
                ]
                return done.returncode == 0, {"said": said[-1] if said else f"status {done.returncode}"}

    @check("a loss that is no number stops at its step")
    def _() -> Any:
        from minivae import NotFinite

        try:
            trained("cupy", "float32", 500, name="sgd", learning_rate=1e6)
        except NotFinite as error:
            return "first array holding" in str(error), {"said": str(error)}
        return False, {"said": "nothing"}

    @check("memory over 20,000 steps")
    def _() -> Any:
        trained("cupy", "float32", 25)
        pool = cupy.get_default_memory_pool()
        before = pool.total_bytes(), cupy.cuda.runtime.memGetInfo()[0]
        trained("cupy", "float32", 20000)
        after = pool.total_bytes(), cupy.cuda.runtime.memGetInfo()[0]
        grown = max(after[0] - before[0], before[1] - after[1])
        return grown < 2**26, {"grown by MB": grown / 2**20}

    @check("PyTorch's VAE example on MNIST")
    def _() -> Any:
        from minivae import VAE, load_dataset

        mnist, said = load_dataset("mnist"), io.StringIO()
        settings = dict(hidden_dims=(400,), latent_dim=20, batch_size=128, epochs=10, binarize="none", backend="cupy")
        with contextlib.redirect_stderr(said):
            vae = VAE(random_state=0, validation_fraction=0.0, verbose=0, **settings).fit(mnist.train)
        seconds = [record["seconds"] for record in vae.history_]
        loss = -vae.score(mnist.test)
        facts = {"test loss after 10": loss, "expected": EXAMPLE[-1], "s per epoch": float(np.median(seconds))}
        return abs(loss - EXAMPLE[-1]) < 0.7, facts

    @check("gaps between launches")
    def _() -> Any:
        from minivae.bench import configs, contenders
        from minivae.kernels.cuda import graph as recording

        found, config, usual = {}, configs.parse(CONFIGS[0]), recording.STEPS_PER_GRAPH
        try:
            for name, graph, steps in (("eager", "0", 16), ("graph of 1", "1", 1), ("graph of 16", "1", 16)):
                recording.STEPS_PER_GRAPH = steps
                for products in ("cublas", "own"):
                    with setting(MINIVAE_CUDA_GRAPH=graph, MINIVAE_CUDA_PRODUCTS=products):
                        made = contenders.create("cupy", config)
                        made.run(50)
                        found[f"{name}, {products}, us"] = 1e6 * float(np.median([made.run(500) for _ in range(3)]))
        finally:
            recording.STEPS_PER_GRAPH = usual
        return found["graph of 16, cublas, us"] < found["eager, cublas, us"], found

    @check("ceilings of the card")
    def _() -> Any:
        source = cupy.zeros(2**28, "float32")
        target, a = cupy.empty_like(source), cupy.random.random((8192, 8192), dtype="float32")

        def best(call: Any) -> float:
            call()
            times = []
            for _ in range(5):
                start, end = cupy.cuda.Event(), cupy.cuda.Event()
                start.record()
                call()
                end.record()
                end.synchronize()
                times.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
            return min(times)

        def copy() -> None:
            target[...] = source

        facts = {
            "copy GB/s": 2e-9 * source.nbytes / best(copy),
            "product TFLOP/s": 2e-12 * 8192**3 / best(lambda: a @ a),
        }
        return True, facts

    load("cupy").synchronize()
    if not options.quick:

        @check("step against the peers")
        def _() -> Any:
            from minivae.bench import configs, runner, tables

            rows = runner.step_suite(configs.select(list(CONFIGS)), list(CONTENDERS), rounds=5, seconds=0.2)
            report["step"] = rows
            print(tables.step_text({"step": rows}), flush=True)
            timed = {(r["config"], r["contender"]): r["seconds"] for r in rows if r["status"] == "timed"}
            facts = {}
            for name in CONFIGS:
                others = [timed[name, c] for c in CONTENDERS[1:] if (name, c) in timed]
                if others and (name, "cupy") in timed:
                    facts[f"{name}: best peer / ours"] = min(others) / timed[name, "cupy"]
            if (CONFIGS[1], "cupy") in timed:
                facts["hours for the paper's 9.8 million steps of 20, one sample"] = (
                    timed[CONFIGS[1], "cupy"] * PAPER_STEPS / 3600
                )
            return all((name, "cupy") in timed for name in CONFIGS), facts

    save()
    failed = [name for name, result in checks.items() if not result["passed"]]
    print(f"wrote {where[0]}\n{len(checks) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
