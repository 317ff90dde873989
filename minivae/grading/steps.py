"""The steps of docs/exercises.md: the functions that each asks for, the book's answers, and inputs to try them on.

What a student writes returns arrays, where the book writes into those that it is given. The names of arguments, and their
shapes, are those of stubs.txt. Inputs are small, and all sizes differ, so that a missing .T does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from minivae.architecture import Architecture, initial_parameters, parameter_layout
from minivae.data.datasets import load_dataset
from minivae.kernels import load, reference
from minivae.network import Network
from minivae.parameters import views

Array = np.ndarray
Case = tuple[Any, ...]
book: Any = reference
ARCH = Architecture(data_dim=64, latent_dim=2, hidden_dims=(48,), activation="tanh", likelihood="bernoulli")


@dataclass(frozen=True)
class Function:
    """A function that a student writes.

    outputs: names of what it returns or, `in_place`, of its first arguments, which it changes. truth: arguments -> the right
    outputs; None: the page's own answer gives them. cases: generator -> the arguments of each call, tame ones first. parts:
    outputs -> what is compared, by name, in the order in which a mistake shows; else the outputs. tolerance: relative.
    explained: data, the calls of the student's other functions -> what shows where wrong outputs come from.
    """

    name: str
    outputs: str
    truth: Callable[..., list[Any]] | None
    cases: Callable[[np.random.Generator], list[Case]]
    parts: Callable[[list[Any]], dict[str, Any]] | None = None
    in_place: bool = False
    tolerance: float = 1e-7
    explained: Callable[[Array, dict[str, list[Case]]], dict[str, Any]] | None = None

    def named(self, outputs: list[Any], like: list[Any]) -> dict[str, Any]:
        """By part, where they have the shapes of these."""
        fit = list(map(np.shape, outputs)) == list(map(np.shape, like))
        return self.parts(outputs) if self.parts and fit else dict(zip(self.outputs.split(), outputs))


def _run(kernel: Callable[..., Any], arrays: list[Array], *read: Any) -> list[Array]:
    """What a kernel writes into arrays like these, or makes of them."""
    arrays = [array.copy() for array in arrays]
    kernel(*arrays, *read)
    return arrays


def _loss_and_gradient(p: Array, x: Array, eps: Array) -> list[Any]:
    network = Network(ARCH, load("numpy"), "float64")
    network.set_parameters(p)
    return list(network.loss_and_gradient(x, eps))


def _from_the_end(outputs: list[Any]) -> dict[str, Any]:
    """The loss, then the gradients as the chain rule meets them."""
    gradients = views(outputs[1], parameter_layout(ARCH), gradient=True)
    return {"loss": outputs[0], **{f"gradient, {name}": gradients[name] for name in reversed(gradients)}}


def _halves(outputs: list[Array]) -> dict[str, Array]:
    """dh, the last of the outputs, as dmu and dlogvar."""
    dmu, dlogvar = np.split(outputs[-1], 2, axis=1)
    return {**dict(zip(("dnll",), outputs[:-1])), "dmu": dmu, "dlogvar": dlogvar}


def _updates(data: Array, calls: dict[str, list[Case]]) -> dict[str, Any]:
    """What train gave to loss_and_gradient (p, x, eps) and to adam (p, m, v, g, learning_rate, t), as far as it did."""
    told: dict[str, Any] = {}
    if passes := calls["loss_and_gradient"]:
        x = np.concatenate([x for _, x, *_ in passes])
        eps = np.concatenate([np.broadcast_to(eps, (len(x), 2)) for _, x, eps, *_ in passes])
        epochs = [x[i : i + len(data)] for i in range(0, len(x), len(data))]
        told["the number of batches"], told["the size of batch "] = len(passes), [len(x) for _, x, *_ in passes]
        told["the number of different rows in epoch "] = [len(np.unique(rows, axis=0)) for rows in epochs]
        told["the number of different orders"] = len({rows.tobytes() for rows in epochs})
        told["the number of different rows of noise"] = len(np.unique(eps, axis=0))
        told["[x | eps], by rng.permutation and then rng.normal for each batch, "] = np.hstack([x, eps])
    if steps := calls["adam"]:
        told["the number of updates"] = len(steps)
        told["the learning rate of update "], told["t of update "] = zip(*(step[4:6] for step in steps))
    return {name: np.asarray(value, np.float64) for name, value in told.items()}


def _bound(nll: Array, z: Array, h: Array, eps: Array) -> list[Array]:
    """bound [B] and dnll [S] from nll [S], z and eps [S, Z], h [B, 2Z]"""
    kl, one = np.zeros((len(h), z.shape[1])), np.ones(len(h))
    like = [one, nll, np.empty((len(h), z.shape[1] + 1))]
    loss, dnll, _ = _run(book.importance_bound, like, nll, kl, z, h, eps, one, 1.0)
    return [-loss, dnll]


def _log_weight(nll: Array, z: Array, h: Array, eps: Array) -> list[Array]:
    """As bounds of one sample each"""
    (B, K), Z = nll.shape, z.shape[2]
    return [_bound(nll.ravel(), z.reshape(-1, Z), np.repeat(h, K, axis=0), eps.reshape(-1, Z))[0].reshape(B, K)]


def _bound_of(log_w: Array) -> list[Array]:
    """As bounds where z is no random variable, so that log w = -nll"""
    B, nothing = len(log_w), np.zeros((log_w.size, 1))
    found, dnll = _bound(-log_w.ravel(), nothing, np.zeros((B, 2)), nothing)
    return [found, dnll.reshape(log_w.shape)]


def _backward(estimator: str, dz: Array, z: Array, h: Array, eps: Array, log_w: Array) -> list[Array]:
    dnll, rows = _bound_of(log_w)[1], (-1, z.shape[2])
    weighed = _run(book.weigh, [dz.reshape(rows)], dnll.ravel())[0]
    read = weighed, z.reshape(rows), h, eps.reshape(rows), dnll.ravel(), np.ones(len(h)), 1.0, estimator
    return [dnll, *_run(book.importance_backward, [h], *read)]


def _arrays(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Array]:
    return [rng.normal(size=shape) for shape in shapes]


def _adam_cases(rng: np.random.Generator) -> list[Case]:
    size = np.array([1e-7, 1e-3, 1, 1, 10])  # of the gradients: epsilon matters to the first
    p, m, g = rng.normal(size=(3, 5)) * [[1e-2], [1], [1]] * np.stack([np.ones(5), size, size])
    return [(p, m, (size * rng.uniform(size=5)) ** 2, g, 1e-2, 3), (p, 0 * p, 0 * p, g, 1e-2, 1)]


def _bound_cases(rng: np.random.Generator) -> list[Case]:
    dz, eps, h, log_w = _arrays(rng, (4, 3, 2), (4, 3, 2), (4, 4), (4, 3))
    z = h[:, None, :2] + np.exp(h[:, None, 2:] / 2) * eps
    # no w may be rounded to 0, or to infinity
    lows = (-5, np.array([[-1000], [0], [1000], [-2000]]), [[-2000, -1000, 0]])
    return [(dz, z, h, eps, log_w + low) for low in lows]


LOGITS, _digits = np.array([[1.0, -1.0]]), partial(load_dataset, "digits")
FUNCTIONS = {function.name: function for function in (
    Function("sigmoid", "y", lambda a: _run(book.sigmoid, [a], a),
             lambda rng: [(3 * rng.normal(size=(4, 5)),), (1000 * LOGITS,)]),
    Function("sigmoid_backward", "da", lambda dy, y: _run(book.sigmoid_backward, [dy], y, y),
             lambda rng: [(rng.normal(size=(4, 5)), rng.uniform(size=(4, 5)))]),
    Function("relu", "y", lambda a: _run(book.relu, [a], a), lambda rng: [(rng.normal(size=(4, 5)),)]),
    Function("relu_backward", "da", lambda dy, y: _run(book.relu_backward, [dy], y, y),
             lambda rng: [(rng.normal(size=(4, 5)), np.maximum(rng.normal(size=(4, 5)), 0))]),
    Function("dense", "y", lambda x, W, b: _run(book.dense_forward, [x @ W] * 2, x, W, b, "tanh")[:1],
             lambda rng: [tuple(_arrays(rng, (6, 4), (4, 3), (3,)))]),
    Function("dense_backward", "dx dW db", lambda dy, x, y, W: _run(
        book.dense_backward, [x, W, W[0]], dy.copy(), x, y, y, W, "tanh"),
             lambda rng: [(*_arrays(rng, (6, 3), (6, 4)), rng.uniform(-1, 1, (6, 3)), rng.normal(size=(4, 3)))]),
    Function("bernoulli", "nll da", lambda a, x: _run(book.bernoulli_loss, [a, a[:, 0]], a, x, np.ones(len(a)))[::-1],
             lambda rng: [(3 * rng.normal(size=(6, 4)), rng.uniform(size=(6, 4))), (800 * LOGITS, np.ones((1, 2)))]),
    Function("sample", "z kl", lambda h, eps: _run(book.sample_forward, [eps, eps], h, eps),
             lambda rng: [tuple(_arrays(rng, (6, 4), (6, 2)))]),
    Function("sample_backward", "dh",
             lambda dz, dkl, h, eps: _run(book.sample_backward, [h], dz, h, eps, np.full(2, dkl), np.ones(len(h))),
             lambda rng: [(rng.normal(size=(6, 2)), 0.7, *_arrays(rng, (6, 4), (6, 2)))], _halves),
    Function("loss_and_gradient", "loss gradient", _loss_and_gradient, lambda rng: [(rng.normal(
        initial_parameters(ARCH, seed=0), 0.1), _digits().train[:8] / 255, rng.normal(size=(8, 2)))], _from_the_end),
    Function("adam", "p m v", lambda p, m, v, g, learning_rate, t: _run(
        book.adam_step, [p, m, v], g.copy(), learning_rate, 0.9, 0.999, 1e-8, t, 0.0),
        _adam_cases, lambda o: {"m": o[1], "v": o[2], "p": o[0]}, in_place=True),
    Function("train", "p", None, lambda rng: [(_digits().train[:70] / 255, 3, rng)], tolerance=1e-6, explained=_updates),
    Function("poisson", "nll da", lambda a, x: _run(book.poisson_loss, [a, a[:, 0]], a, x, np.ones(len(a)))[::-1],
             lambda rng: [(rng.normal(size=(6, 4)), least + rng.poisson(3.0, (6, 4))) for least in (1.0, 0.0)]),
    Function("log_weight", "log_w", _log_weight, lambda rng: [(rng.uniform(1, 9, (4, 3)), *_bound_cases(rng)[0][1:4])]),
    Function("bound", "bound", lambda log_w: _bound_of(log_w)[:1], lambda rng: [given[4:] for given in _bound_cases(rng)]),
    Function("bound_backward", "dnll dh", lambda *given: _backward("iwae", *given), _bound_cases, _halves),
    Function("dreg_backward", "dh", lambda *given: _backward("dreg", *given)[1:], _bound_cases, _halves),
)}  # fmt: skip
STEPS = {
    "derivative": ("sigmoid", "sigmoid_backward", "relu", "relu_backward"), "dense": ("dense", "dense_backward"),
    "bernoulli": ("bernoulli",), "sample": ("sample", "sample_backward"), "vae": ("loss_and_gradient",), "adam": ("adam",),
    "train": ("train",), "poisson": ("poisson",), "bound": ("log_weight", "bound"),
    "bound-gradient": ("bound_backward", "dreg_backward"),
}  # fmt: skip
