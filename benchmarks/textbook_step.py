"""The NumPy backend beside textbook expressions: one training step, both ways, interleaved.

    python benchmarks/textbook_step.py

The textbook step is that of examples/vae_in_one_file.py: each formula is one NumPy expression (new arrays everywhere),
and each parameter and moment an array of its own. Both start from the same weights and see the same batches and noise;
their losses are compared before anything is timed. Times are medians over rounds in which the two take turns, because
machines drift.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from minivae import randomness
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.kernels import load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.parameters import views
from minivae.training import Objective, step_program

CONFIGS = {
    "784-400-20 relu, batch 128": (Architecture(784, 20, (400,), "relu"), 128),
    "784-200-200-50 tanh, batch 20": (Architecture(784, 50, (200, 200), "tanh"), 20),
    "784-200-200-50 tanh, batch 100": (Architecture(784, 50, (200, 200), "tanh"), 100),
    "784-512-256-32 relu, batch 1024": (Architecture(784, 32, (512, 256), "relu"), 1024),
    "64-64-2 relu, batch 64": (Architecture(64, 2, (64,), "relu"), 64),
}
RATE = 1e-3


def one_file():
    """examples/vae_in_one_file.py as a module: the same VAE as anyone would first write it."""
    path = Path(__file__).resolve().parent.parent / "examples" / "vae_in_one_file.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contenders(arch, batch, steps):
    """Two functions step(i) -> loss, from the same weights, on the same batches and noise."""
    data = randomness.uniform((batch * steps, arch.data_dim), 0, randomness.CHECK).astype(np.float32) ** 4
    network = Network(arch, load("numpy"))
    network.set_parameters(initial_parameters(arch, 0))
    page = one_file()
    parameters = [view.copy() for view in views(network.parameters, network.layout).values()]
    m, v = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    optimizer = Optimizer(learning_rate=RATE)
    flat = {"p": network.parameters, "g": network.gradient, **optimizer.state(network.parameters.size, np.float32)}
    trace = np.empty((steps, 2 + arch.latent_dim))
    program = step_program(network, Examples(data, np.arange(len(data))), Objective(), optimizer, 0)
    work = network.workspace(program, batch, data=data, trace=trace, **flat)

    def ours(i):
        work.put("rows", np.arange(i * batch, (i + 1) * batch))
        work.run(batch, step=i + 1, update=i + 1, index=i, beta=1.0, learning_rate=RATE)
        return trace[i, 0] + trace[i, 2:].sum()

    def theirs(i):
        rows = np.arange(i * batch, (i + 1) * batch)
        eps = np.empty((batch, arch.latent_dim), np.float32)
        network.kernels.philox_normal(eps, rows, 0, randomness.TRAIN_NOISE, i + 1)
        loss, gradients = page.loss_and_gradients(parameters, data[rows], eps, arch.activation)
        for arrays in zip(parameters, m, v, gradients):
            page.adam_step(*arrays, i + 1, RATE)
        return loss.sum()

    return ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=25, help="steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}; milliseconds per step, float32"
    )
    print(f"{'':34}{'textbook':>10}{'minivae':>10}{'ratio':>8}")
    for name, (arch, batch) in CONFIGS.items():
        ours, theirs = contenders(arch, batch, options.steps)
        losses = np.array([(ours(i), theirs(i)) for i in range(options.steps)])
        worst = np.abs(losses[:, 0] / losses[:, 1] - 1).max()
        assert worst < 1e-4, f"{name}: the two losses differ by {worst:.1e}"
        times = {ours: [], theirs: []}
        for _ in range(options.rounds):
            for step, spent in times.items():
                begun = time.perf_counter()
                for i in range(options.steps):
                    step(i)
                spent.append(1000 * (time.perf_counter() - begun) / options.steps)
        ratio = statistics.median(t / o for o, t in zip(times[ours], times[theirs]))
        row = f"{statistics.median(times[theirs]):10.2f}{statistics.median(times[ours]):10.2f}{ratio:7.2f}x"
        print(f"{name:34}{row}   losses agree to {worst:.0e}")


if __name__ == "__main__":
    main()
