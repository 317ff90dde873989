"""Workers side by side: start them, compare their results, let them take turns, and make rows of numbers."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from minivae.bench.configs import TOLERANCE, Config, deviation
from minivae.kernels import MODULES

Row = dict[str, Any]
QUIET = 0.15  # seconds before a turn: the threads of a BLAS spin for a while after the last product of the turn before


class WorkerFailed(Exception):
    """The process of a contender ended; the message is the last line that it said."""


def environment() -> dict[str, str]:
    """The environment of a child: it finds the same minivae, however this one was found."""
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


class Worker:
    """The process of one contender. first: its first line, with a "status" other than "ready" where it cannot run."""

    def __init__(self, name: str, config: str) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the worker)
        command = [sys.executable, "-m", "minivae.bench.worker", name, config]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen(command, text=True, env=environment(), **pipes)
        try:
            self.first: Row = self._read()
        except WorkerFailed as error:
            self.first = {"status": "failed", "note": str(error)}

    @property
    def ready(self) -> bool:
        return bool(self.first["status"] == "ready")

    def run(self, n: int) -> Any:
        """Send "run N" and wait for the answer."""
        time.sleep(QUIET)
        with suppress(BrokenPipeError):  # it has ended: its last words, read next, say why
            self.process.stdin.write(f"run {n}\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        return self._read()

    def _read(self) -> Any:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.errors.seek(0)
        said = [text.strip() for text in self.errors.read().splitlines() if text.strip()]
        raise WorkerFailed(said[-1] if said else f"its process ended with status {status}")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()  # type: ignore[union-attr]  # the end of its input is the end of its work
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()  # it holds nothing that has to be saved
            self.process.wait()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.errors.close()


@contextmanager
def working(names: Iterable[str], config: str) -> Iterator[list[Worker]]:
    """Workers started one after the other, so that each chooses its threads on a quiet machine; closed at the end."""
    workers: list[Worker] = []
    try:
        for name in names:
            say(f"{config}: preparing {name}")
            workers.append(Worker(name, config))
        yield workers
    finally:
        for worker in workers:
            worker.close()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def summary(times: list[float], floor: list[float] | None) -> Row:
    """Median, least and largest of the seconds, and the median over the rounds of the ratio to the floor in that round."""
    row: Row = {"seconds": statistics.median(times), "least": min(times), "largest": max(times)}
    if floor:
        row["to_floor"] = statistics.median(t / f for t, f in zip(times, floor, strict=True))
    return row


def judge(workers: list[Worker]) -> dict[str, Row]:
    """What may be timed: the floor, and each contender whose losses are those of the NumPy reference."""
    reference: list[float] = next((w.first.get("losses", []) for w in workers if w.name == "numpy"), [])
    rows: dict[str, Row] = {}
    for worker in workers:
        row: Row = {"contender": worker.name, "status": worker.first["status"], "note": worker.first["note"]}
        if worker.ready and worker.name != "floor":
            worst = deviation(worker.first["losses"], reference)
            row |= {"steps_compared": len(reference), "deviation": worst if math.isfinite(worst) else None}
            if not worst <= TOLERANCE:
                why = f"losses differ from the reference by {worst:.1e}" if reference else "the reference failed"
                row |= {"status": "wrong", "note": f"{why}: not timed"}
        rows[worker.name] = row
    return rows


def take_turns(workers: list[Worker], rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds per step of each worker in each round, A B C A B C, in turns of about so long; and the workers that failed."""
    steps: dict[str, int] = {}
    times: dict[str, list[float]] = {worker.name: [] for worker in workers}
    failed: dict[str, str] = {}
    for turn in range(-1, rounds):  # the turn before the first warms up and finds the number of steps
        for worker in workers:
            if worker.name in failed:
                continue
            try:
                spent = worker.run(steps.get(worker.name, 1))
            except WorkerFailed as error:
                failed[worker.name] = str(error)
                times.pop(worker.name)
                continue
            if turn < 0:
                steps[worker.name] = max(1, math.ceil(seconds / spent))
            else:
                times[worker.name].append(spent)
    return times, failed


def step_suite(configs: list[Config], names: list[str], rounds: int, seconds: float) -> list[Row]:
    """One row for each configuration and contender. The NumPy reference always runs, as the others are held to it."""
    rows = []
    for config in configs:
        with working(dict.fromkeys(["numpy", "floor", *names]), config.name) as workers:
            judged = judge(workers)
            timed = [w for w in workers if judged[w.name]["status"] == "ready" and w.name in ("floor", *names)]
            matching = ", ".join(f"{w.name} {judged[w.name]['deviation']:.0e}" for w in timed if w.name != "floor")
            say(f"{config.name}: results match, losses to {matching}; now {rounds} rounds of timing")
            times, failed = take_turns(timed, rounds, seconds)
        for name in dict.fromkeys(["floor", *names]):
            row = {"config": config.name, **judged[name]}
            if name in failed:
                row |= {"status": "failed", "note": failed[name]}
            elif name in times:
                row |= {"status": "timed"} | summary(times[name], times.get("floor"))
            rows.append(row)
    return rows


def kernel_suite(config: Config, rounds: int) -> list[Row]:
    """One row for each kernel and backend: compared with the reference, then timed in turns."""
    rows: list[Row] = []
    timed: dict[str, list[dict[str, float]]] = {f"kernels:{backend}": [] for backend in MODULES}
    with working(timed, config.name) as workers:
        for worker in (w for w in workers if w.ready):
            worst = max(worker.first["deviations"].values())
            say(f"{worker.name}: {'results match' if worst <= TOLERANCE else 'WRONG'}, largest deviation {worst:.0e}")
        for _ in range(rounds):
            for worker in (w for w in workers if w.ready):
                try:
                    timed[worker.name].append(worker.run(3))
                except WorkerFailed as error:
                    worker.first = {"status": "failed", "note": str(error)}
    for worker in workers:
        backend = worker.name.removeprefix("kernels:")
        if not worker.ready:
            rows.append({"backend": backend, "status": worker.first["status"], "note": worker.first["note"]})
            continue
        for kernel, (moved, flops) in worker.first["costs"].items():
            worst = worker.first["deviations"][kernel]
            row: Row = {"backend": backend, "kernel": kernel, "config": config.name, "status": "wrong"}
            row["deviation"] = worst if math.isfinite(worst) else None
            if kernel in timed[worker.name][0]:
                row |= {"status": "timed"} | summary([times[kernel] for times in timed[worker.name]], None)
                row |= {"gb_per_s": 1e-9 * moved / row["seconds"], "gflop_per_s": 1e-9 * flops / row["seconds"]}
            rows.append(row)
    return rows


def profile_suite(configs: list[Config], steps: int) -> list[Row]:
    """One row for each configuration: where the time of the numba backend's step goes."""
    rows: list[Row] = []
    for config in configs:
        with working(["profile"], config.name) as (worker,):
            row: Row = {"config": config.name, "status": "timed"}
            rows.append(row | (worker.run(steps) if worker.ready else worker.first))
    return rows


def ceilings(repeats: int) -> dict[str, float]:
    """GB/s and GFLOP/s of this machine, measured in a process of their own."""
    with working(["ceilings"], "64-64-2-relu-64") as (worker,):
        return dict(worker.run(repeats))
