"""Shared by all tests: where MNIST may lie, and small trained models."""

from __future__ import annotations

import importlib.util
import os
import signal
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.kernels import MODULES, availability, load

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


WRITTEN = [name for name, module in MODULES.items() if importlib.util.find_spec(f"minivae.kernels.{module}")]


@pytest.fixture(params=WRITTEN, scope="module")
def kernels(request):
    """Each backend that this version has, skipped with its reason where it does not work. CUDA runs on the CPU at least."""
    works, reason = availability(request.param)
    if works:
        yield load(request.param)
    elif request.param == "cupy" and "MINIVAE_NO_EMULATOR" in os.environ:
        pytest.fail(f"backend cupy: {reason}")  # a check of the real thing must not pass on a substitute
    elif request.param == "cupy" and cuda_on_cpu.COMPILER:
        with cuda_on_cpu.emulated() as module:
            yield module
    else:
        pytest.skip(f"backend {request.param}: {reason}")


@pytest.fixture
def cupy():
    """The CuPy backend, on the emulator."""
    if not cuda_on_cpu.COMPILER:
        pytest.skip("running CUDA kernels on the CPU needs g++ or clang++")
    with cuda_on_cpu.emulated() as module:
        yield module


@pytest.fixture
def ctrl_c():
    """Python's own answer to Ctrl-C, here and in child processes: a runner in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mnist(monkeypatch):
    """MNIST from MINIVAE_DATA, or from the data folder beside a developer's checkout."""
    if "MINIVAE_DATA" not in os.environ and _BESIDE.is_dir():
        monkeypatch.setenv("MINIVAE_DATA", str(_BESIDE))
    try:
        return load_dataset("mnist")
    except ValueError as error:
        pytest.skip(f"needs MNIST: {error}")


@pytest.fixture(scope="session")
def digits():
    """The bundled digits as float32 in [0, 1]: train [1500, 64], test [297, 64]."""
    dataset = load_dataset("digits")
    return dataset.train / np.float32(255), dataset.test / np.float32(255)


@pytest.fixture(scope="session")
def trained(digits):
    """A small model after 30 epochs of digits."""
    return VAE(hidden_dims=(64,), epochs=30, batch_size=32, random_state=0).fit(digits[0])
