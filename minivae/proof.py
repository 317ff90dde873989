"""The proof: every hand-derived gradient of the library, checked. `minivae gradcheck` prints these rows.

Kernels one by one, on small random batches with random upstream gradients; then the loss of whole models as a function
of each parameter, for every activation, likelihood and objective. Relative error at most 1e-7 in float64, where ReLU's
kinks ask for a short step; 1e-11 in the book's long double, which leaves no room for a formula that is only nearly right.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import fields
from types import ModuleType
from typing import Any

import numpy as np

from minivae.architecture import Architecture, initial_parameters
from minivae.gradcheck import check_gradient
from minivae.kernel_proof import Row, example, kernel_rows, noise_of, surrogate, tolerance_of
from minivae.kernels.bounds import ESTIMATORS
from minivae.kernels.reference import ACTIVATIONS
from minivae.likelihoods import LIKELIHOODS, ONE_HOT, REAL, UNIT
from minivae.network import ELBO, Bound, Network, forward_program, total_loss
from minivae.parameters import gradient_name, views

MIXED = "gaussian*2, poisson, negative_binomial, categorical*3"
SIGMAS: tuple[float | str, ...] = (0.7, "learned", "elementwise")

# ---- Whole models: the loss as a function of each parameter, through every layer and the sampling


def model_rows(kernels: ModuleType, dtype: str = "float64") -> Iterator[Row]:
    """Each activation with each likelihood, and the variants of the objective; one row per parameter."""
    check = functools.partial(model_check, kernels, dtype=dtype)
    forms = [(name, sigma) for name in LIKELIHOODS for sigma in (SIGMAS if name == "gaussian" else (1.0,))]
    for activation in ACTIVATIONS:
        for likelihood, sigma in forms:
            yield from check(Architecture(7, 2, (6, 5), activation, likelihood, sigma))
    for missing in ("ignore", "input"):
        for likelihood, sigma in (*forms, (MIXED, "learned"), (MIXED, "elementwise"), (MIXED, 0.7)):
            units = ((0.5, 2.0),) * 7 if likelihood in ("gaussian", MIXED) else ()
            yield from check(Architecture(7, 2, (6, 5), "tanh", likelihood, sigma, missing, units))
    for likelihood, missing in (("bernoulli", "error"), ("gaussian", "error"), (MIXED, "input")):
        yield from check(Architecture(7, 2, (6,), "tanh", likelihood, missing=missing, conditions=3))
    small, K = Architecture(7, 3, (6,), "tanh", "bernoulli"), 3
    closed = (ELBO, Bound(free_bits=0.2), Bound(capacity=0.05), Bound(capacity=5.0), Bound(n_samples=K))
    for beta, bound in zip((0.0, 0.5, 4.0, 4.0, 4.0), closed):
        yield from check(small, bound, beta)
    yield from check(small, ELBO, 4.0)
    yield from check(Architecture(7, 3, (), "identity", "gaussian"))
    for estimator in ESTIMATORS:
        for samples, beta in ((1, 1.0), (K, 1.0), (K, 0.7)):
            yield from check(small, Bound(estimator, samples), beta)
        for likelihood, sigma in forms:
            arch = Architecture(7, 2, (6, 5), "tanh", likelihood, sigma)
            yield from check(arch, Bound(estimator, K))
        arch = Architecture(7, 2, (6, 5), "tanh", MIXED, missing="input", units=((0.5, 2.0),) * 7, conditions=3)
        yield from check(arch, Bound(estimator, K))


def model_check(
    kernels: ModuleType, arch: Architecture, bound: Bound = ELBO, beta: float = 1.0, dtype: str = "float64"
) -> Iterator[Row]:
    """One row per parameter of one whole model, on a batch of five."""
    noise = noise_of(dtype)
    network = Network(arch, kernels, dtype)
    eps, x = noise(5 * bound.n_samples, arch.latent_dim), noise(5, arch.data_dim)
    holes = x[:, ::-1] > 0.8
    for run in arch.runs:
        x[:, run.columns] = example(UNIT if run.data == REAL else run.data, x[:, run.columns])
        if run.data == ONE_HOT:
            holes[:, run.columns] = holes[:, run.columns][:, :1]
    if arch.missing != "error":
        x[holes] = np.nan
    parameters = initial_parameters(arch, seed=0)
    parameters = parameters + 0.1 * noise(parameters.size)
    network.set_parameters(parameters)
    side = noise(5, arch.conditions) if arch.conditions else None
    _, gradient = network.loss_and_gradient(x, eps, beta, side, bound)
    work = network.workspace(forward_program(arch, bound), 5, bound.n_samples)

    def forward(values: np.ndarray) -> dict[str, np.ndarray]:
        network.set_parameters(values)
        for name, given in {"x": x, "eps": eps, "c": side}.items():
            if given is not None:
                work.put(name, given)
        work.run(5, beta=beta)
        names = ("z", "nll", "h", *(("dnll", "bound") if bound.weighted else ("kl_mean",)))
        return {name: work.get(name).copy() for name in names}

    kept = forward(parameters)

    def loss(values: np.ndarray, decoder: bool) -> Any:
        found = forward(values)
        if bound.name in ("stl", "dreg"):
            c, share = kept["dnll"], np.full(5, 1 / parameters.dtype.type(5))
            return surrogate(found["z"], found["nll"], kept["h"], c, share, beta, bound.name, decoder)
        if bound.weighted:
            return found["bound"].mean()
        assert isinstance(bound.capacity, float)
        return total_loss(found["nll"].mean(), found["kl_mean"], beta, bound.free_bits, bound.capacity)

    sigma = f" sigma={arch.sigma}" if "gaussian" in arch.likelihood else ""
    sigma += f" missing={arch.missing}" if arch.missing != "error" else ""
    sigma += " conditional" if arch.conditions else ""
    changed = {"beta": beta} | {f.name: getattr(bound, f.name) for f in fields(bound) if f.name != "name"}
    told = "".join(f" {name}={value:g}" for name, value in changed.items() if value != getattr(ELBO, name, 1.0))
    subject = f"VAE {arch.activation} {arch.likelihood}{sigma}{f' {bound.name}' * bound.weighted}{told}"
    for name, _ in network.layout:
        chosen = np.zeros(parameters.size, bool)
        views(chosen, network.layout)[name][...] = True
        f = functools.partial(loss, decoder=not name.startswith("encoder"))
        error = check_gradient(f, gradient, parameters, where=chosen)
        yield Row(subject, gradient_name(name), error, tolerance_of(parameters))


def run(kernels: ModuleType, dtype: str = "float64") -> Iterator[Row]:
    """Every row for one backend, in the order of the book: kernels, then whole models. "longdouble" is the book's alone.

    Raises ValueError where this system's long double is float64.
    """
    if dtype == "longdouble" and np.finfo(dtype).eps >= np.finfo(np.float64).eps:
        raise ValueError("np.longdouble holds no more digits than float64 on this system; use float64")
    yield from kernel_rows(kernels, dtype)
    yield from model_rows(kernels, dtype)
