"""How much the NumPy backend gains over textbook expressions: one training step, both ways, interleaved.

    python benchmarks/textbook_step.py

The textbook step writes each formula as one NumPy expression (new arrays everywhere) and keeps each parameter and moment
in a dict. Both start from the same weights and see the same batches and noise; their losses are compared before anything
is timed. Times are medians over rounds in which the two take turns, because machines drift.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import numpy as np

from minivae import randomness
from minivae.architecture import Architecture, decoder_layers, encoder_layers, initial_parameters
from minivae.data import Examples
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
RATE, BETA1, BETA2, EPSILON = 1e-3, 0.9, 0.999, 1e-8


class Textbook:
    """The same VAE as anyone would first write it: bernoulli likelihood, Adam."""

    def __init__(self, arch, parameters):
        self.f = {"relu": lambda a: np.maximum(a, 0), "tanh": np.tanh}[arch.activation]
        self.slope = {"relu": lambda y: (y > 0).astype(np.float32), "tanh": lambda y: 1 - y**2}[arch.activation]
        self.encoder = [layer.name for layer in encoder_layers(arch)]
        self.decoder = [layer.name for layer in decoder_layers(arch)]
        self.p = parameters
        self.m = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.v = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.t = 0

    def forward(self, x, names):
        outputs = [x]
        for name in names:
            a = outputs[-1] @ self.p[f"{name}.W"] + self.p[f"{name}.b"]
            outputs.append(a if name == names[-1] else self.f(a))
        return outputs

    def backward(self, dy, outputs, names, gradients):
        for i in reversed(range(len(names))):
            if i < len(names) - 1:
                dy = dy * self.slope(outputs[i + 1])
            gradients[f"{names[i]}.W"] = outputs[i].T @ dy
            gradients[f"{names[i]}.b"] = dy.sum(axis=0)
            dy = dy @ self.p[f"{names[i]}.W"].T if i or names is self.decoder else None
        return dy

    def step(self, x, eps):
        B = len(x)
        encoded = self.forward(x, self.encoder)
        mu, logvar = np.split(encoded[-1], 2, axis=1)
        sigma = np.exp(0.5 * logvar)
        decoded = self.forward(mu + sigma * eps, self.decoder)
        a = decoded[-1]
        recon = (np.maximum(a, 0) - a * x + np.log(1 + np.exp(-np.abs(a)))).sum() / B
        kl = -0.5 * (1 + logvar - mu**2 - np.exp(logvar)).sum() / B
        gradients = {}
        dz = self.backward((1 / (1 + np.exp(-a)) - x) / B, decoded, self.decoder, gradients)
        dmu = dz + mu / B
        dlogvar = dz * eps * 0.5 * sigma + 0.5 * (np.exp(logvar) - 1) / B
        self.backward(np.concatenate([dmu, dlogvar], axis=1), encoded, self.encoder, gradients)
        self.t += 1
        for name, g in gradients.items():
            self.m[name] = BETA1 * self.m[name] + (1 - BETA1) * g
            self.v[name] = BETA2 * self.v[name] + (1 - BETA2) * g**2
            m_hat = self.m[name] / (1 - BETA1**self.t)
            v_hat = self.v[name] / (1 - BETA2**self.t)
            self.p[name] = self.p[name] - RATE * m_hat / (np.sqrt(v_hat) + EPSILON)
        return recon + kl


def contenders(arch, batch, steps):
    """Two functions step(i) -> loss, from the same weights, on the same batches and noise."""
    data = randomness.uniform((batch * steps, arch.data_dim), 0, randomness.CHECK).astype(np.float32) ** 4
    network = Network(arch, load("numpy"))
    network.set_parameters(initial_parameters(arch, 0))
    copies = {name: view.copy() for name, view in views(network.parameters, network.layout).items()}
    textbook = Textbook(arch, copies)
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
        return textbook.step(data[rows], eps)

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
