"""Shared by all tests: where MNIST may lie, and small trained models."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, load_dataset

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


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
    return dataset.train / np.float32(16), dataset.test / np.float32(16)


@pytest.fixture(scope="session")
def trained(digits):
    """A small model after 30 epochs of digits."""
    return VAE(hidden_dims=(64,), epochs=30, batch_size=32, random_state=0).fit(digits[0])
