"""Strong and weak scaling of `fit(comm=...)` on one machine: examples per second of 1, 2 and 4 processes, interleaved.

    python benchmarks/scaling.py [--processes 1 2 4] [--rounds 5]

Needs mpi4py and mpiexec. Each process takes one thread; "threads" is one process with as many threads instead.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

MODELS = {"784-400-20, batch 128": ((400,), 20, 128), "784-512-256-32, batch 1024": ((512, 256), 32, 1024)}


def measure(hidden: tuple[int, ...], latent: int, batch: int) -> None:
    """In each process: an epoch to warm up, then those that count; and what an all-reduce of the gradient takes, in ms."""
    import numpy as np
    from mpi4py import MPI

    from minivae import VAE

    comm = MPI.COMM_WORLD
    X = np.random.default_rng(0).integers(0, 256, (batch * 30, 784), dtype=np.uint8)
    vae = VAE(
        latent, hidden_dims=hidden, epochs=3, batch_size=batch, validation_fraction=0, backend="numba", random_state=0
    )
    vae.fit(X, comm=comm)
    g, taken = vae.network_.get_parameters(), []
    for _ in range(30):
        started = time.perf_counter()
        comm.Allreduce(MPI.IN_PLACE, g, MPI.SUM)
        taken.append(1e3 * (time.perf_counter() - started))
    if comm.rank == 0:
        rate = statistics.median(record["examples_per_second"] for record in vae.history_[1:])
        print(json.dumps([rate, statistics.median(taken)]))


def run(processes: int, threads: int, model: str, batch: int) -> tuple[float, float]:
    found = Path(sys.executable).parent / "mpiexec"
    launcher = str(found) if found.exists() else shutil.which("mpiexec") or "mpiexec"
    env = os.environ | {"MINIVAE_NUM_THREADS": str(threads)}
    command = [launcher, "-n", str(processes), sys.executable, __file__, "--model", model, "--batch", str(batch)]
    return tuple(json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", choices=tuple(MODELS), help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        return measure(*MODELS[options.model][:2], options.batch)
    for model, (*_, batch) in MODELS.items():
        cases = {("strong", n): (n, 1, batch) for n in options.processes}
        cases |= {("weak", n): (n, 1, batch * n) for n in options.processes if n > 1}
        cases |= {("threads", n): (1, n, batch) for n in options.processes if n > 1}
        found: dict[tuple[str, int], list[tuple[float, float]]] = {case: [] for case in cases}
        for _ in range(options.rounds):
            for case, (n, threads, size) in cases.items():
                found[case].append(run(n, threads, model, size))
        one = statistics.median(rate for rate, _ in found["strong", options.processes[0]])
        print(model)
        for (kind, n), rounds in found.items():
            rates, reduce = zip(*rounds)
            middle, spread = statistics.median(rates), f"{min(rates):,.0f} to {max(rates):,.0f}"
            line = f"  {kind:8} {n}: {middle:9,.0f} examples/s   {middle / one:5.2f} times one   ({spread})"
            print(line + f"   all-reduce {statistics.median(reduce):.2f} ms", flush=True)


if __name__ == "__main__":
    main()
