"""Interrupts at random moments of what users call, in a process that goes on: python tests/interrupts.py [HOW_MANY]

A timer's signal raises KeyboardInterrupt between any two lines of Python that happen to run, as Ctrl-C does. Afterwards no
thread may be left, and the next result must be right. A thread of compiled code that waits for ever would hang the process.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time

import numpy as np

from minivae import VAE


def os_threads() -> int | None:
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else None


def many(count: int, seed: int = 0, backend: str = "numba") -> int:
    """Interrupt transform, score, score_samples and fit so many times; how often the interrupt came in time."""
    X = np.random.default_rng(0).random((1500, 40)).astype(np.float32)
    settings = {
        "hidden_dims": (96, 48),
        "batch_size": 250,
        "random_state": 0,
        "backend": backend,
        "validation_fraction": 0,
    }
    vae = VAE(epochs=2, **settings).fit(X)
    z, score, parameters = vae.transform(X), vae.score(X), vae.network_.get_parameters()
    calls = {
        "transform": lambda: vae.transform(X),
        "score": lambda: vae.score(X),
        "evaluate": lambda: vae.score_samples(X, n_samples=3),
        "fit": lambda: VAE(epochs=2, **settings).fit(X),
    }
    took, arrived, rng = {}, 0, random.Random(seed)
    for name, call in calls.items():
        begun = time.perf_counter()
        call()
        took[name] = time.perf_counter() - begun
    before, threads = signal.signal(signal.SIGALRM, signal.default_int_handler), os_threads()
    try:
        for i in range(count):
            name = list(calls)[i % len(calls)]
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, took[name]))
                calls[name]()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                arrived += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            patience = time.perf_counter() + 1  # the system lists a thread for a moment longer than it lives
            while os_threads() != threads and time.perf_counter() < patience:
                time.sleep(0.001)
            assert os_threads() == threads, f"interrupt {i}, in {name}, left a thread"
            if i % 10 < len(calls):
                np.testing.assert_array_equal(vae.transform(X), z)
                assert vae.score(X) == score
    finally:
        signal.signal(signal.SIGALRM, before)
    np.testing.assert_array_equal(VAE(epochs=2, **settings).fit(X).network_.get_parameters(), parameters)
    return arrived


if __name__ == "__main__":
    os.environ.setdefault("MINIVAE_NUM_THREADS", "3")
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    print(f"{many(wanted)} of {wanted} interrupts came in time; no thread left, no hang, every next result right")
