"""Whole models at sizes that are used: layers of 130 columns and more, batches of 13, 129 and 1,300, one to seven threads.

There the compiled step takes its other ways: columns shared out from an offset on, second blocks of dW, batches in pieces.
Each array that a step leaves is compared with what NumPy leaves in it.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.kernels import load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

# Adam's epsilon is large here: with the usual one, a gradient that is rounding alone would move a parameter by a whole step
MODELS = {
    "130-70-33-7": (Architecture(130, 7, (70, 33), "tanh"), Optimizer(epsilon=0.01), Objective(0.8)),
    "131-257-17": (
        Architecture(131, 17, (257,), "gelu", "gaussian", "learned"),
        Optimizer("sgd", 1e-3, nesterov=True, max_grad_norm=1.0),
        Objective(),
    ),
    "784-400-20": (
        Architecture(784, 20, (400,), "relu"),
        Optimizer("adamw", epsilon=0.01, weight_decay=0.1),
        Objective(free_bits=0.1),
    ),
    "200-150-50 elementwise": (
        Architecture(200, 50, (150,), "softplus", "gaussian", "elementwise"),
        Optimizer(epsilon=0.01),
        Objective(),
    ),
}
TOLERANCE = {"float64": 1e-11, "float32": 2e-4}


def two_steps(kernels, model, batch, dtype, steps=2):
    """Every array of the program after two steps, on the host."""
    arch, optimizer, objective = MODELS[model]
    network = Network(arch, kernels, dtype)
    network.set_parameters(initial_parameters(arch, 3))
    rng = np.random.default_rng(batch)
    data = rng.random((2 * batch + 5, arch.data_dim)) ** 2
    rows = np.stack([rng.permutation(len(data))[:batch] for _ in range(steps)])
    flat = {"p": network.parameters, "g": network.gradient}
    flat |= {n: kernels.to_device(v) for n, v in optimizer.state(network.parameters.size, network.dtype).items()}
    trace = kernels.to_device(np.zeros((steps, 2 + arch.latent_dim)))
    held = kernels.to_device(data)
    program = step_program(network, Examples(held, np.arange(len(data))), objective, optimizer, seed=9)
    work = network.workspace(program, batch, data=held, trace=trace, **flat)
    number = 1 + np.arange(steps)
    fixed = {"beta": np.full(steps, objective.beta), "learning_rate": np.full(steps, 1e-3)}
    assert work.steps(rows, step=number, update=number, index=number - 1, **fixed) == steps
    left = {n for call in program for n in call.arrays if n is not None} - {"data", "rows", "u"}
    if optimizer.name == "sgd":
        left -= {n for n in left if n == "g" or ".dW" in n or ".db" in n or n == "dlog_sigma"}  # NumPy's consumes it
    return {name: np.array(kernels.to_host(work.bound(batch)[1][name])) for name in left}


@functools.cache
def numpys(model, batch, dtype):
    return two_steps(load("numpy"), model, batch, dtype)


def compare(kernels, model, batch, dtype):
    expected, found = numpys(model, batch, dtype), two_steps(kernels, model, batch, dtype)
    assert expected.keys() == found.keys()
    for name in expected:
        size = np.abs(expected[name]).max() + 1e-3
        np.testing.assert_allclose(found[name] / size, expected[name] / size, atol=TOLERANCE[dtype], err_msg=name)


@pytest.mark.parametrize("dtype, threads", [*(("float64", n) for n in (1, 2, 3, 7)), ("float32", 3), ("float32", 1)])
@pytest.mark.parametrize("batch", [1, 13, 129, 1300])
@pytest.mark.parametrize("model", MODELS)
def test_a_compiled_step_leaves_what_numpys_leaves(model, batch, dtype, threads, monkeypatch):
    encode = pytest.importorskip("minivae.kernels.numba.encode", reason="the numba backend needs Numba")
    monkeypatch.setattr(encode, "GRAIN", 1)
    monkeypatch.setenv("MINIVAE_NUM_THREADS", str(threads))
    compare(load("numba"), model, batch, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("model", MODELS)
def test_a_compiled_step_has_the_same_bits_for_any_number_of_threads(model, dtype, monkeypatch):
    """The norm too, clipped by or not, though with the threads the blocks of a gradient are cut elsewhere."""
    encode = pytest.importorskip("minivae.kernels.numba.encode", reason="the numba backend needs Numba")
    monkeypatch.setattr(encode, "GRAIN", 1)
    found = []
    for threads in (1, 2, 5, 7):
        monkeypatch.setenv("MINIVAE_NUM_THREADS", str(threads))
        found.append(two_steps(load("numba"), model, 129, dtype))
    for again in found[1:]:
        for name in again:
            np.testing.assert_array_equal(again[name], found[0][name], err_msg=name)


@pytest.mark.parametrize("products", ["cublas", "own"])
@pytest.mark.parametrize("model, batch", [("130-70-33-7", 129), ("131-257-17", 13), ("200-150-50 elementwise", 1)])
def test_a_recorded_step_leaves_what_numpys_leaves(cupy, model, batch, products, monkeypatch):
    monkeypatch.setenv("MINIVAE_CUDA_PRODUCTS", products)
    compare(cupy, model, batch, "float64")
