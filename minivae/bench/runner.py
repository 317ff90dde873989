"""Measuring, in processes of their own: contenders compared and timed in turns, first steps, kernels, whole programs."""

import importlib
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from minivae.bench.configs import TOLERANCE, Config, deviation
from minivae.bench.contenders import TABLE, Contender, Entry, Row, create, summary
from minivae.data.datasets import load_dataset
from minivae.kernels import MODULES

Pools = dict[str, ProcessPoolExecutor]  # processes by the names of their contenders
QUIET = 0.15  # seconds before a turn: the threads of a BLAS spin for a while after the last product of the turn before
# Both shuffle, train on the 60,000 grey images of MNIST, and evaluate the 10,000 of the test part after every epoch.
TRAIN = "-m minivae.app.cli train mnist --hidden-dims 400 --latent-dim 20 --activation relu --batch-size 128"
TRAIN += " --learning-rate 1e-3 --epochs {epochs} --out {folder}/run --no-figures --quiet --json --backend "
PROGRAMS = {"PyTorch VAE example": "-m minivae.bench.peers {epochs}"}
PROGRAMS |= {f"minivae train, {backend}": TRAIN + backend for backend in MODULES}
# Where libraries keep what they have compiled, and what makes them keep all of it
CACHE_FOLDERS = ("NUMBA_CACHE_DIR", "CUPY_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
KEEP = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "0"}
SPAWN = multiprocessing.get_context("spawn")
made: list[Contender] = []  # in the process of a contender: that one


def set_variables(environment: dict[str, str]) -> None:
    os.environ.update(environment)


def ask(there: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in that process, or a row that says why it does not."""
    try:
        return there.submit(function, *arguments).result()
    except ImportError as reason:
        return {"status": "unavailable", "note": str(reason)}
    except Exception as error:
        return {"status": "failed", "note": f"{type(error).__name__}: {error}"}


def silence() -> None:
    """What libraries print in the process of a contender is not part of the results."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def prepare(name: str, config: Config, entry: Entry) -> Row:
    silence()
    made.append(create(name, config, entry))
    made[0].choose_threads()
    made[0].compile()
    return {"status": "ready", "device": made[0].device, "losses": made[0].losses()}


def run(n: int) -> float:
    return made[0].run(n)


def finish(n: int) -> Row:
    """What one turn does not tell: the time of a step when each is waited for, where steps queue; the peak of memory, MB."""
    row: Row = {"note": made[0].note}
    if made[0].wait is not None:
        row["synchronised"] = min(made[0].run(n, synchronised=True) for _ in range(3))
    with suppress(ImportError):  # Windows has no such module
        row["peak_mb"] = megabytes(importlib.import_module("resource").getrusage(0))
    return row


def megabytes(usage: Any) -> float:
    return float(usage.ru_maxrss) / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)


def first_block(name: str, config: Config, entry: Entry) -> list[Row]:
    """Seconds from importing the library to the end of the first block of steps."""
    silence()
    begun = time.perf_counter()
    contender = create(name, config, entry)
    contender.compile()
    contender.losses()
    return [{"seconds": time.perf_counter() - begun, "steps": contender.steps}]


def start_suite(config: Config, names: list[str]) -> list[Row]:
    """One row for each contender: its first block with nothing compiled before and, in a new process, with all kept."""
    found = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            about, caches = {"config": config.name, "contender": name}, {key: folder for key in CACHE_FOLDERS}
            runs = [alone(about, first_block, name, config, TABLE[name], **caches, **KEEP)[0] for _ in range(2)]
        cold = {"status": "timed", "cold": runs[0]["seconds"]} if all("seconds" in run for run in runs) else {}
        found.append(runs[1] | cold)
    return found


def judge(rows: dict[str, Row]) -> None:
    """Leave ready the roofline, and each contender whose losses are those of the NumPy reference."""
    reference: list[float] = rows["numpy"].get("losses", [])
    for name, row in rows.items():
        losses = row.pop("losses", None)
        if row["status"] == "ready" and name != "roofline":
            worst = deviation(losses, reference)
            row |= {"steps_compared": len(reference), "deviation": worst}
            if not worst <= TOLERANCE:
                why = f"losses differ from the reference by {worst:.1e}" if reference else "the reference failed"
                row |= {"status": "wrong", "note": f"{why}: not timed"}


def take_turns(there: Pools, rows: dict[str, Row], rounds: int, steps: dict[str, int]) -> dict[str, list[float]]:
    """Seconds per step of each contender that is ready, over so many steps, once a round: A B C A B C."""
    times: dict[str, list[Any]] = {name: [] for name, row in rows.items() if row["status"] == "ready"}
    for _ in range(rounds):
        for name in [*times]:
            time.sleep(QUIET)
            times[name].append(ask(there[name], run, steps[name]))
            if isinstance(times[name][-1], dict):  # the row of a failure
                rows[name] |= times.pop(name).pop()
    return times


def step_suite(configs: list[Config], names: list[str], rounds: int, seconds: float) -> list[Row]:
    """One row for each configuration and contender. The NumPy reference always runs, as the others are held to it."""
    found: list[Row] = []
    for config in configs:
        with ExitStack() as stack:
            there, rows = {}, {}
            # one after the other: each tries threads in quiet
            for name in dict.fromkeys(["roofline", "numpy", *names]):
                print(f"{config.name}: preparing {name}", file=sys.stderr)
                there[name] = stack.enter_context(ProcessPoolExecutor(1, SPAWN))
                about = {"config": config.name, "contender": name}
                rows[name] = about | ask(there[name], prepare, name, config, TABLE[name])
            judge(rows)
            rows = {name: row for name, row in rows.items() if name in ("roofline", *names)}
            print(f"{config.name}: {rounds} rounds of timing", file=sys.stderr)
            first = take_turns(there, rows, 1, dict.fromkeys(rows, 1))  # warms up, and finds the steps of a turn
            steps = {name: max(1, math.ceil(seconds / spent)) for name, (spent,) in first.items()}
            times = take_turns(there, rows, rounds, steps)
            for name in times:
                roofline = times.get("roofline") if rows[name]["device"] == "cpu" else None
                rows[name] |= {"status": "timed"} | summary(times[name], roofline)
                rows[name] |= ask(there[name], finish, steps[name])
        found += rows.values()
    return found


def alone(about: Row, function: Callable[..., list[Row]], *arguments: Any, **environment: str) -> list[Row]:
    """The rows that a function returns in a process of its own, or one that says why there are none."""
    print(", ".join([function.__name__, *about.values()]), file=sys.stderr)
    with ProcessPoolExecutor(1, SPAWN, set_variables, (environment,)) as there:
        rows = ask(there, function, *arguments)
    return [about | row for row in (rows if isinstance(rows, list) else [rows])]


def processor_time() -> tuple[int, int]:
    """What a neighbour on the same machine was given though we asked for it, and all, in ticks since the start of Linux."""
    with suppress(OSError):  # user nice system idle iowait irq softirq steal
        ticks = [int(n) for n in Path("/proc/stat").read_text().split(maxsplit=9)[1:9]]
        return ticks[7], sum(ticks)
    return 0, 0


def measure(command: list[str]) -> tuple[float, float | None, str]:
    """Run Python: seconds from start to end, peak MB where the system tells, what it said. RuntimeError where it fails."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]  # it finds the same minivae
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    begun, peak = time.perf_counter(), None
    with subprocess.Popen([sys.executable, *command], env=environment, **pipes) as program:
        said = program.stdout.read()  # type: ignore[union-attr]
        if hasattr(os, "wait4"):  # the only way to learn the peak of one child rather than of all
            _, status, usage = os.wait4(program.pid, 0)
            program.returncode = os.waitstatus_to_exitcode(status)
            peak = megabytes(usage)
    if program.returncode:
        raise RuntimeError([f"it ended with status {program.returncode}", *said.strip().splitlines()][-1])
    return time.perf_counter() - begun, peak, said


def training(epochs: int) -> list[Row]:
    """One row for each program, of processes of 1 and of `epochs` epochs. The start-up is the shorter one less its epoch."""
    try:
        load_dataset("mnist")
    except (ValueError, OSError) as error:
        return [{"program": "training on MNIST", "status": "unavailable", "note": str(error)}]
    rows: list[Row] = []
    for program, command in PROGRAMS.items():
        row: Row = {"program": program, "status": "timed", "epochs": epochs}
        rows.append(row)
        spent = {}
        try:
            for n in sorted({1, epochs}):
                print(f"end to end: {program}, epochs: {n}", file=sys.stderr)
                with tempfile.TemporaryDirectory() as folder:
                    words = [word.format(epochs=n, folder=folder) for word in command.split()]
                    spent[n], row["peak_mb"], said = measure(words)
        except RuntimeError as error:
            row |= {"status": "unavailable", "note": str(error)}
            continue
        last = json.loads(said.splitlines()[-1])
        row |= {"seconds": spent[epochs], "test_loss": last["kept"]["test_loss"] if isinstance(last, dict) else last}
        if epochs > 1:
            row["seconds_per_epoch"] = (spent[epochs] - spent[1]) / (epochs - 1)
            row["start_up"] = spent[1] - row["seconds_per_epoch"]
    return rows
