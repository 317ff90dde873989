"""Whole processes, as a user starts them: seconds per epoch, peak memory, import time, and what an installation takes."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from minivae.bench.runner import environment, say
from minivae.data.datasets import load_dataset
from minivae.kernels import MODULES, availability

Row = dict[str, Any]
IMPORTS = ("numpy", "minivae", "minivae.estimator", "numba", "torch", "jax")
# What an installation consists of: the named packages and everything they require.
INSTALLATIONS = {
    "minivae": ("minivae", "numpy", "tqdm"),
    "minivae[numba]": ("minivae", "numpy", "tqdm", "numba"),
    "torch": ("torch", "numpy"),
    "jax": ("jax", "jaxlib", "numpy"),
}


def measure(command: list[str]) -> tuple[float, float | None, str]:
    """Run a Python process: seconds from start to end, peak memory in MB where the system tells, and what it printed.

    Raises RuntimeError with its last line where it fails.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, *command], stdout=out, stderr=errors, text=True, env=environment())
        peak = None
        try:
            if hasattr(os, "wait4"):  # the only way to learn the peak of one child rather than of all
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)
            process.wait()
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - begun
        out.seek(0)
        errors.seek(0)
        said = errors.read().strip().splitlines()
        if process.returncode:
            raise RuntimeError(said[-1] if said else f"the process ended with status {process.returncode}")
        return seconds, peak, out.read()


def training(epochs: int) -> list[Row]:
    """PyTorch's VAE example and `minivae train mnist` with its settings: whole processes of 1 and of `epochs` epochs.

    Both shuffle, train on the 60,000 grey images, and evaluate the 10,000 of the test part after every epoch. The start-up
    is what is left of the shorter process when its epoch is taken off.
    """
    try:
        load_dataset("mnist")
    except (ValueError, OSError) as error:
        return [{"program": "training on MNIST", "status": "unavailable", "note": str(error)}]
    rows: list[Row] = []
    for name in ("PyTorch VAE example", *(f"minivae train, {backend}" for backend in MODULES)):
        backend = name.rpartition(" ")[2]
        row: Row = {"program": name, "status": "timed", "epochs": epochs}
        try:
            if backend in MODULES and not availability(backend)[0]:
                raise RuntimeError(availability(backend)[1])
            spent = {}
            for count in sorted({1, epochs}):
                say(f"end to end: {name}, {count} epoch{'s' if count > 1 else ''}")
                with tempfile.TemporaryDirectory() as folder:
                    command = train_command(backend, count, f"{folder}/run")
                    spent[count], row["peak_mb"], printed = measure(command)
            row["seconds"] = spent[epochs]
            if epochs > 1:
                row["seconds_per_epoch"] = (spent[epochs] - spent[1]) / (epochs - 1)
                row["start_up"] = spent[1] - row["seconds_per_epoch"]
            last = printed.strip().splitlines()[-1]
            row["test_loss"] = json.loads(last)["kept"]["test_loss"] if backend in MODULES else float(last)
        except RuntimeError as error:
            row |= {"status": "unavailable", "note": str(error)}
        rows.append(row)
    return rows


def train_command(backend: str, epochs: int, out: str) -> list[str]:
    if backend not in MODULES:
        return ["-m", "minivae.bench.peers", str(epochs)]
    settings = (
        f"--hidden-dims 400 --latent-dim 20 --activation relu --batch-size 128 --learning-rate 1e-3 --epochs {epochs}"
    )
    return ["-m", "minivae.app.cli", "train", "mnist", *settings.split(), "--backend", backend, "--out", out,
            "--no-figures", "--quiet", "--json"]  # fmt: skip


def import_times(repeats: int) -> list[Row]:
    """Seconds that `import NAME` adds to a bare interpreter: the median over fresh processes, which take turns."""
    times: dict[str, list[float]] = {name: [] for name in ("", *IMPORTS)}
    rows: list[Row] = []
    for _ in range(repeats + 1):  # the first fills the file cache
        for name in list(times):
            try:
                times[name].append(measure(["-c", f"import {name}" if name else "pass"])[0])
            except RuntimeError as error:
                rows.append({"import": name, "status": "unavailable", "note": str(error)})
                del times[name]
    bare = statistics.median(times.pop("")[1:])
    for name, spent in times.items():
        rows.append({"import": name, "status": "timed", "seconds": max(0.0, statistics.median(spent[1:]) - bare)})
    return rows


def installed_sizes() -> list[Row]:
    """MB on disk of each installation, with everything that it requires, as far as it is installed here."""
    rows: list[Row] = []
    for name, packages in INSTALLATIONS.items():
        missing = [p for p in packages if p != "minivae" and not installed(p)]
        if missing:
            rows.append({"installation": name, "status": "unavailable", "note": f"not installed: {', '.join(missing)}"})
        else:
            found = requirements(packages)
            size = sum(map(package_bytes, found)) / 1e6
            rows.append({"installation": name, "status": "timed", "mb": size, "packages": len(found)})
    return rows


def installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def requirements(packages: tuple[str, ...]) -> set[str]:
    """These packages and what they require, without extras and without what is not installed here."""
    found: set[str] = set()
    waiting = list(packages)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or not (name == "minivae" or installed(name)):
            continue
        found.add(name)
        required = (importlib.metadata.requires(name) or []) if installed(name) else []
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]
    return found


def package_bytes(name: str) -> int:
    """The size of a package's files; of minivae, always of the package that runs, without compiled caches."""
    if name == "minivae":
        return sum(
            path.stat().st_size for path in Path(__file__).parents[1].rglob("*") if "__pycache__" not in path.parts
        )
    files = importlib.metadata.files(name) or []
    return sum(os.path.getsize(path) for path in map(lambda f: f.locate(), files) if os.path.isfile(path))
