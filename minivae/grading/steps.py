"""The steps of docs/exercises.md: the functions that each asks for, the book's answers, and inputs to try them on.

What a student writes returns arrays, where the book writes into those that it is given. The names of arguments, and their
shapes, are those of stubs.txt. Inputs are small, and all sizes differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from minivae.architecture import Architecture, initial_parameters, parameter_layout
from minivae.data.datasets import load_dataset
from minivae.estimator import VAE
from minivae.kernels import load
from minivae.kernels import reference as _reference
from minivae.network import Network
from minivae.parameters import views

Array = np.ndarray
Case = tuple[Any, ...]
book: Any = _reference
ARCH = Architecture(data_dim=64, latent_dim=2, hidden_dims=(64,), activation="tanh", likelihood="bernoulli")
LAYOUT = parameter_layout(ARCH)


@dataclass(frozen=True)
class Function:
    """A function that a student writes.

    outputs: names of what it returns or, `in_place`, of its first arguments, which it changes. truth: the arguments -> the
    right outputs, a list. cases: generator -> the arguments of each call. parts: outputs -> what is compared, by name, in
    the order in which a mistake shows; else the outputs. tolerance: relative. A `random` one is not called a second time.
    """

    name: str
    outputs: str
    truth: Callable[..., list[Any]]
    cases: Callable[[np.random.Generator], list[Case]]
    parts: Callable[[list[Any]], dict[str, Any]] | None = None
    in_place: bool = False
    tolerance: float = 1e-7
    random: bool = False

    def named(self, outputs: list[Any]) -> dict[str, Any]:
        return self.parts(outputs) if self.parts else dict(zip(self.outputs.split(), outputs))


def _written(kernel: Callable[..., Any], like: list[Array], *read: Any) -> list[Array]:
    """What a kernel writes into arrays like these."""
    outputs = [np.empty_like(array) for array in like]
    kernel(*outputs, *read)
    return outputs


def _changed(kernel: Callable[..., Any], arrays: list[Array], *read: Any) -> list[Array]:
    """What a kernel makes of these arrays."""
    arrays = [array.copy() for array in arrays]
    kernel(*arrays, *read)
    return arrays


def _loss_and_gradient(p: Array, x: Array, eps: Array) -> list[Any]:
    network = Network(ARCH, load("numpy"), "float64")
    network.set_parameters(p)
    return list(network.loss_and_gradient(x, eps))


def _from_the_end(outputs: list[Any]) -> dict[str, Any]:
    """The loss, then the gradients as the chain rule meets them."""
    gradients = views(outputs[1], LAYOUT, gradient=True)
    return {"loss": outputs[0], **{f"gradient, {name}": gradients[name] for name in reversed(gradients)}}


def _halves(outputs: list[Array]) -> dict[str, Array]:
    """dh, the last of the outputs, as dmu and dlogvar."""
    dmu, dlogvar = np.split(outputs[-1], 2, axis=1)
    return {**dict(zip(("dnll",), outputs[:-1])), "dmu": dmu, "dlogvar": dlogvar}


def _train(data: Array, epochs: int, rng: np.random.Generator) -> list[Any]:
    settings: dict[str, Any] = {"latent_dim": 2, "hidden_dims": (64,), "activation": "tanh", "learning_rate": 2e-3}
    vae = VAE(**settings, batch_size=32, epochs=epochs, validation_fraction=0, random_state=1, backend="numpy")
    return [vae.fit(data).network_.get_parameters().astype(np.float64)]


def _test_loss(outputs: list[Any]) -> dict[str, Any]:
    test, rng = _digits("test"), np.random.default_rng(0)
    losses = [_loss_and_gradient(outputs[0], test, rng.normal(size=(len(test), 2)))[0] for _ in range(10)]
    return {"the loss of the test images": np.mean(losses)}


@cache
def _digits(split: str) -> Array:
    return np.asarray(getattr(load_dataset("digits"), split) / 255)


def _bound(nll: Array, z: Array, h: Array, eps: Array) -> list[Array]:
    """bound [B] and dnll [S] from nll [S], z and eps [S, Z], h [B, 2Z]"""
    kl, one = np.zeros((len(h), z.shape[1])), np.ones(len(h))
    like = [one, nll, np.empty((len(h), z.shape[1] + 1))]
    loss, dnll, _ = _written(book.importance_bound, like, nll, kl, z, h, eps, one, 1.0)
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
    weighed = _changed(book.weigh, [dz.reshape(rows)], dnll.ravel())[0]
    read = weighed, z.reshape(rows), h, eps.reshape(rows), dnll.ravel(), np.ones(len(h)), 1.0, estimator
    return [dnll, *_written(book.importance_backward, [h], *read)]


def _arrays(rng: np.random.Generator, *shapes: tuple[int, ...]) -> list[Array]:
    return [rng.normal(size=shape) for shape in shapes]


def _dense_backward_case(rng: np.random.Generator) -> list[Case]:
    dy, x, W, b = _arrays(rng, (6, 3), (6, 4), (4, 3), (3,))
    return [(dy, x, np.tanh(x @ W + b), W)]


def _vae_case(rng: np.random.Generator) -> list[Case]:
    p = initial_parameters(ARCH, seed=0)
    return [(p + 0.1 * rng.normal(size=p.shape), _digits("train")[:8], rng.normal(size=(8, 2)))]


def _adam_cases(rng: np.random.Generator) -> list[Case]:
    size = np.array([1e-7, 1e-3, 1, 1, 10])  # of the gradients: epsilon matters to the first
    p, m, g = rng.normal(size=(3, 5)) * [[1e-2], [1], [1]] * np.stack([np.ones(5), size, size])
    return [(p, m, (size * rng.uniform(size=5)) ** 2, g, 1e-2, 3), (p, 0 * p, 0 * p, g, 1e-2, 1)]


def _bound_case(rng: np.random.Generator) -> list[Case]:
    dz, eps, h, log_w = _arrays(rng, (4, 3, 2), (4, 3, 2), (4, 4), (4, 3))
    return [(dz, h[:, None, :2] + np.exp(h[:, None, 2:] / 2) * eps, h, eps, log_w - 5)]


def _ones(a: Array) -> Array:
    return np.ones(len(a))


LOGITS, PIXELS = np.array([[800.0, -800.0]]), np.array([[1.0, 1.0]])
FUNCTIONS = {function.name: function for function in (
    Function("sigmoid", "y", lambda a: _written(book.sigmoid, [a], a), lambda rng: [(3 * rng.normal(size=(4, 5)),)]),
    Function("sigmoid_backward", "da", lambda dy, y: _changed(book.sigmoid_backward, [dy], y, y),
             lambda rng: [(rng.normal(size=(4, 5)), rng.uniform(size=(4, 5)))]),
    Function("relu", "y", lambda a: _written(book.relu, [a], a), lambda rng: [(rng.normal(size=(4, 5)),)]),
    Function("relu_backward", "da", lambda dy, y: _changed(book.relu_backward, [dy], y, y),
             lambda rng: [(rng.normal(size=(4, 5)), np.maximum(rng.normal(size=(4, 5)), 0))]),
    Function("dense", "y", lambda x, W, b: _written(book.dense_forward, [x @ W] * 2, x, W, b, "tanh")[:1],
             lambda rng: [tuple(_arrays(rng, (6, 4), (4, 3), (3,)))]),
    Function("dense_backward", "dx dW db", lambda dy, x, y, W: _written(
        book.dense_backward, [x, W, W[0]], dy.copy(), x, y, y, W, "tanh"), _dense_backward_case),
    Function("bernoulli", "nll da", lambda a, x: _written(book.bernoulli_loss, [a, a[:, 0]], a, x, _ones(a))[::-1],
             lambda rng: [(3 * rng.normal(size=(6, 4)), rng.uniform(size=(6, 4))), (LOGITS, PIXELS)]),
    Function("sample", "z kl", lambda h, eps: _written(book.sample_forward, [eps, eps], h, eps),
             lambda rng: [tuple(_arrays(rng, (6, 4), (6, 2)))]),
    Function("sample_backward", "dh",
             lambda dz, dkl, h, eps: _written(book.sample_backward, [h], dz, h, eps, np.full(2, dkl), _ones(h)),
             lambda rng: [(rng.normal(size=(6, 2)), 0.7, *_arrays(rng, (6, 4), (6, 2)))], _halves),
    Function("loss_and_gradient", "loss gradient", _loss_and_gradient, _vae_case, _from_the_end),
    Function("adam", "p m v", lambda p, m, v, g, learning_rate, t: _changed(
        book.adam_step, [p, m, v], g.copy(), learning_rate, 0.9, 0.999, 1e-8, t, 0.0),
        _adam_cases, lambda o: {"m": o[1], "v": o[2], "p": o[0]}, in_place=True),
    Function("train", "p", _train, lambda rng: [(_digits("train"), 30, rng)], _test_loss, tolerance=0.025, random=True),
    Function("poisson", "nll da", lambda a, x: _written(book.poisson_loss, [a, a[:, 0]], a, x, _ones(a))[::-1],
             lambda rng: [(rng.normal(size=(6, 4)), rng.poisson(3, (6, 4)).astype(np.float64))]),
    Function("log_weight", "log_w", _log_weight, lambda rng: [(rng.uniform(1, 9, (4, 3)), *_bound_case(rng)[0][1:4])]),
    Function("bound", "bound", lambda log_w: _bound_of(log_w)[:1],
             lambda rng: [(_bound_case(rng)[0][4] - low,) for low in (0, 1000)]),
    Function("bound_backward", "dnll dh", lambda *given: _backward("iwae", *given), _bound_case, _halves),
    Function("dreg_backward", "dh", lambda *given: _backward("dreg", *given)[1:], _bound_case, _halves),
)}  # fmt: skip
STEPS = {
    "derivative": ("sigmoid", "sigmoid_backward", "relu", "relu_backward"),
    "dense": ("dense", "dense_backward"),
    "bernoulli": ("bernoulli",),
    "sample": ("sample", "sample_backward"),
    "vae": ("loss_and_gradient",),
    "adam": ("adam",),
    "train": ("train",),
    "poisson": ("poisson",),
    "bound": ("log_weight", "bound"),
    "bound-gradient": ("bound_backward", "dreg_backward"),
}
