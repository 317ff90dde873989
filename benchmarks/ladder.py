"""The rungs of minivae/kernels/numba/README.md, measured: one training step, each rung beside the one before it.

    python benchmarks/ladder.py [--config 784-400-20-relu-128 ...]

Rungs take turns in one process, and a row gives the median of milliseconds per step and of the ratio to the rung before.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time

import numpy as np
from textbook_step import contenders

from minivae.architecture import initial_parameters
from minivae.bench.configs import parse
from minivae.data.batches import Examples
from minivae.kernels import availability, load
from minivae.kernels.numba import encode
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

CONFIGS = ("784-400-20-relu-128", "784-200-200-50-tanh-20", "784-512-256-32-relu-1024")
STEPS = 10


@contextlib.contextmanager
def setting(threads: int, **constants: float):
    """So many threads, and other values of encode.py's constants, while a program is bound."""
    before = {name: getattr(encode, name) for name in constants}
    os.environ["MINIVAE_NUM_THREADS"] = str(threads)
    try:
        for name, value in constants.items():
            setattr(encode, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(encode, name, value)


def block(config, backend, threads=1, **constants):
    """A function that trains for STEPS steps."""
    arch, network = config.arch, Network(config.arch, load(backend))
    network.set_parameters(initial_parameters(arch, 0))
    data = np.random.default_rng(0).random((STEPS * config.batch, arch.data_dim), np.float32) ** 4
    rows = np.random.default_rng(1).permutation(len(data)).reshape(STEPS, -1)
    optimizer, trace = Optimizer(), np.empty((STEPS, 2 + arch.latent_dim))
    flat = {"p": network.parameters, "g": network.gradient, **optimizer.state(network.parameters.size, np.float32)}
    program = step_program(network, Examples(data, np.arange(len(data))), Objective(), optimizer, 0)
    work = network.workspace(program, config.batch, data=data, trace=trace, **flat)
    number, rate = 1 + np.arange(STEPS), np.full(STEPS, 1e-3)

    def run():
        work.steps(rows, step=number, update=number, index=number - 1, beta=np.ones(STEPS), learning_rate=rate)

    with setting(threads, **constants):
        run()
    return run


def rungs(config):
    """(name, function that trains for STEPS steps, the rung it is compared with)"""
    _, textbook = contenders(config.arch, config.batch, STEPS)
    cores = availability("numba")[0] and (os.cpu_count() or 1)
    apart = {"BLOCK_BYTES": 2**40, "FEW_ROWS": 0}  # one block for each dW, and products by rows always
    yield "textbook expressions in NumPy", lambda: [textbook(i) for i in range(STEPS)]
    yield "kernels in place on buffers that are there", block(config, "numpy")
    yield "compiled interpreter, own GEMM, one thread", block(config, "numba", 1, **apart)
    yield f"rows shared out among {cores} threads", block(config, "numba", cores, **apart)
    yield "dW in blocks, updated while in cache", block(config, "numba", cores, FEW_ROWS=0)
    yield "few rows: products by columns", block(config, "numba", cores)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=CONFIGS)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    for name in options.config:
        names, functions = zip(*rungs(parse(name)))
        times = [[] for _ in names]
        for _ in range(options.rounds):
            for function, spent in zip(functions, times):
                time.sleep(0.2)  # threads of a BLAS spin for a while after its last product
                begun = time.perf_counter()
                function()
                spent.append(1000 * (time.perf_counter() - begun) / STEPS)
        print(f"{name:48}{'ms':>9}{'gain':>8}")
        for i, rung in enumerate(names):
            gain = statistics.median(b / a for a, b in zip(times[i], times[i - 1])) if i else 1.0
            print(f"  {rung:46}{statistics.median(times[i]):9.3f}{gain:7.2f}x", flush=True)


if __name__ == "__main__":
    main()
