"""The twin, fuzzed: any model, objective and optimizer, on Numba for any number of threads, is what NumPy and PyTorch make.

test_twin.py has the fixed cases, kernels/test_numba_step.py long trainings; here hypothesis chooses. MINIVAE_TRIALS takes
so many times more examples.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_twin import bound_of, filled_network, twin
from training_cases import MIXED

from minivae import NotFinite
from minivae.architecture import MISSING, Architecture, initial_parameters
from minivae.data.batches import BINARIZE, Examples
from minivae.kernels import availability, load
from minivae.kernels.reference import ACTIVATIONS
from minivae.likelihoods import COUNTS, LIKELIHOODS, ONE_HOT, UNIT, domains
from minivae.network import Network, backward_program, forward_program, total_loss
from minivae.optimizers import OPTIMIZERS, Optimizer
from minivae.proof import example
from minivae.training import OBJECTIVES, Objective, Trainer

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
LEARNING_RATE = 1e-3
activations, depths = st.sampled_from(sorted(ACTIVATIONS)), st.integers(0, 3)
batches = st.one_of(st.integers(1, 513), st.sampled_from((1, 2, 31, 128, 129, 257, 513)))


def fuzzed(examples):
    """Derandomized: the same examples in every run, unless more are asked for."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    many = settings(max_examples=examples * TRIALS, deadline=None, derandomize=True, suppress_health_check=checks)
    return lambda test: many(test)


@contextlib.contextmanager
def threads(n):
    """The Numba backend on n threads, for models of any size."""
    from minivae.kernels.numba import encode

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "GRAIN", 1)
        patch.setenv("MINIVAE_NUM_THREADS", str(n))
        yield


@st.composite
def widths(draw, most):
    return tuple(draw(st.integers(1, most)) for _ in range(draw(depths)))


@st.composite
def optimizers(draw):
    name = draw(st.sampled_from(sorted(OPTIMIZERS)))
    more = {"nesterov": draw(st.booleans())} if name == "sgd" else {}
    more |= {"weight_decay": 0.1} if name == "adamw" else {}
    return Optimizer(name, LEARNING_RATE, max_grad_norm=draw(st.sampled_from((None, 0.01, 1.0, 100.0))), **more)


# ---- Numba = NumPy: whole trainings


@st.composite
def trainings(draw):
    likelihood = draw(st.sampled_from((*LIKELIHOODS, MIXED)))
    D = 12 if likelihood == MIXED else draw(st.integers(1, 40))
    sigma, missing = draw(st.sampled_from((0.3, "learned", "elementwise"))), draw(st.sampled_from(MISSING))
    hidden, Z = draw(widths(40)), draw(st.integers(1, 9))
    arch = Architecture(
        D, Z, hidden, draw(activations), likelihood, sigma, missing, conditions=draw(st.sampled_from((0, 3)))
    )
    name, K, beta = (
        draw(st.sampled_from(OBJECTIVES)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from((0.0, 0.5, 1.0, 4.0))),
    )
    form = draw(st.sampled_from(("free_bits", "capacity", ""))) if name == "elbo" else ""
    target = {form: draw(st.sampled_from((0.05, 0.5, 5.0)))} if form else {}
    objective = Objective(beta, objective=name, n_samples=K, **target)
    unit = missing == "error" and domains(likelihood) == {UNIT}
    batch = draw(batches)
    rest = {"batch": batch, "n": batch + draw(st.integers(0, batch)), "seed": draw(st.integers(0, 2**64 - 1))}
    rest |= {"binarize": draw(st.sampled_from(BINARIZE)) if unit else "none", "dtype": draw(st.sampled_from(DTYPES))}
    return arch, objective, draw(optimizers()), rest


DTYPES = ("float32", "float64")


def table(arch, n, seed):
    """Data [n, D] as the architecture takes them, a fifth of the cells missing where it may be: a category as a whole."""
    rng = np.random.default_rng(seed)
    x, holes = rng.normal(size=(n, arch.data_dim)), rng.random((n, arch.data_dim)) < 0.2
    for run in arch.runs:
        x[:, run.columns] = example(run.data, x[:, run.columns])
        if run.data == ONE_HOT:
            holes[:, run.columns] = holes[:, run.columns][:, :1]
    if arch.missing != "error":
        x[holes] = np.nan
    return x, rng.normal(size=(n, arch.conditions)) if arch.conditions else None


def trained(backend, arch, objective, optimizer, rest):
    """(history, parameters) of two epochs, or of what is said of a number that was none."""
    network = Network(arch, load(backend), rest["dtype"])
    network.set_parameters(initial_parameters(arch, rest["seed"]))
    x, side = table(arch, rest["n"], rest["seed"] % 1000)
    trainer = Trainer(network, optimizer, objective, rest["batch"], rest["seed"])
    try:
        trainer.fit(Examples(x, np.arange(len(x)), 1.0, rest["binarize"], side), 2)
    except NotFinite as error:
        return str(error), None
    return [
        [r[name] for r in trainer.history] for name in ("loss", "recon", "kl", "grad_norm")
    ], network.get_parameters()


@pytest.mark.skipif(not availability("numba")[0], reason=f"backend numba: {availability('numba')[1]}")
@fuzzed(20)
@given(trainings(), st.integers(1, 7))
def test_numba_trains_any_model_as_numpy_does(training, n):
    history, parameters = trained("numpy", *training)
    with threads(n):
        found, ours = trained("numba", *training)
    if parameters is None:
        assert found == history
        return
    exact, adaptive = training[-1]["dtype"] == "float64", training[2].name != "sgd"
    np.testing.assert_allclose(found, history, rtol=1e-9 if exact else 1e-3, atol=1e-9 if exact else 1e-4)
    # in float32 Adam makes whole steps of gradients that are rounding alone
    away = 1e-8 if exact else (2 * 4 * LEARNING_RATE if adaptive else 1e-4)
    np.testing.assert_allclose(ours, parameters, rtol=1e-6 if exact else 1e-3, atol=away)


# ---- = PyTorch: three steps, whose gradients autograd derives and torch.optim applies


@st.composite
def steps(draw):
    form = draw(st.sampled_from(twin.FORMS + twin.COLUMN_FORMS))
    objective = draw(st.sampled_from((*twin.OBJECTIVES, "capacity", *twin.SAMPLED)))
    threshold = float(twin.SAMPLES if objective in twin.SAMPLED else draw(st.sampled_from((0.02, 0.3, 3.0))))
    shape = {"latent_dim": draw(st.integers(1, 6)), "hidden_dims": draw(widths(9))}
    beta = draw(st.sampled_from((0.3, 1.0, 2.0)))
    return (
        form,
        draw(activations),
        objective,
        threshold,
        shape,
        beta,
        draw(optimizers()),
        draw(batches),
        draw(st.integers(0, 99)),
    )


def torchs(torch, form, activation, objective, threshold, beta, settings, names, x, noise, parameters):
    """The losses of these steps and where they end, as PyTorch makes them."""
    flat = torch.tensor(parameters, requires_grad=True)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[settings.name]
    more = {"momentum": settings.momentum, "nesterov": settings.nesterov} if settings.name == "sgd" else {}
    more |= {"weight_decay": settings.weight_decay} if settings.name == "adamw" else {}
    update, losses, most = kind([flat], lr=settings.learning_rate, **more), [], settings.max_grad_norm or np.inf
    for eps in noise:
        at = flat.detach().numpy().copy()
        told = twin.threshold_loss_gradient(form, activation, objective, x, eps, at, names, threshold, beta)
        losses.append(told[1])
        flat.grad = torch.tensor(told[2:] * min(1.0, most / np.linalg.norm(told[2:])))
        update.step()
    return losses, flat.detach().numpy()


def ours(kernels, arch, bound, beta, settings, named, x, noise):
    """The same by the library's own step; the parameters by name."""
    network = filled_network(arch, kernels, "float64", named)
    program = forward_program(arch, bound) + backward_program(arch, bound) + settings.program()
    moments = {n: kernels.to_device(v) for n, v in settings.state(network.parameters.size, "float64").items()}
    flat = {"p": network.parameters, "g": network.gradient, **moments}
    work, losses = network.workspace(program, len(x), bound.n_samples, **flat), []
    for step, eps in enumerate(noise, 1):
        work.put("x", x)
        work.put("eps", eps)
        work.run(len(x), beta=beta, learning_rate=settings.learning_rate, update=step)
        loss = float(np.mean(work.get(bound.recorded[0])))
        kl = () if bound.weighted else (work.get("kl_mean"), beta, bound.free_bits, bound.capacity)
        losses.append(total_loss(loss, *kl) if kl else loss)
    return losses, {name: np.array(kernels.to_host(network.named[name])) for name, _ in network.layout}


@fuzzed(15)
@given(steps(), st.integers(1, 7))
def test_any_step_is_the_one_of_pytorch(case, n):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; test_twin.py compares its golden numbers")
    form, activation, objective, threshold, shape, beta, settings, batch, seed = case
    arch = Architecture(**twin.options(form) | shape, activation=activation)
    names, rng = twin.layout(form, **shape), np.random.default_rng(seed)
    x = twin.inputs(form, seed)[0]
    x = x[rng.integers(len(x), size=batch)]
    bound = bound_of(objective, threshold)
    noise = rng.normal(size=(3, batch * bound.n_samples, shape["latent_dim"]))
    parameters = 0.5 * rng.normal(size=sum(int(np.prod(s)) for _, s in names))
    if COUNTS in domains(arch.likelihood):  # exponentials soon overflow in steps as long as these
        twin.split(parameters, names)["encoder.0.W"][...] /= 1 + 2 * np.nanmax(x)
        settings = replace(settings, max_grad_norm=settings.max_grad_norm or 10.0)
    losses, end = torchs(torch, form, activation, objective, threshold, beta, settings, names, x, noise, parameters)
    for backend in ("numpy", "numba"):
        if not availability(backend)[0]:
            continue  # NumPy alone is held to PyTorch then
        with threads(n) if backend == "numba" else contextlib.nullcontext():
            found = ours(load(backend), arch, bound, beta, settings, twin.split(parameters, names), x, noise)
        np.testing.assert_allclose(found[0], losses, rtol=1e-9, atol=1e-9)
        for name, value in twin.split(end, names).items():
            np.testing.assert_allclose(found[1][name], value, rtol=1e-6, atol=1e-8, err_msg=f"{backend} {name}")
