"""The twin: the same models in PyTorch give the same losses, the same gradients, and the same 1,000 training steps.

PyTorch derives its gradients itself, from a model written down with its own distributions. The numbers that it gave lie
in golden/twin.npz for wherever it is not installed; golden/make_twin.py holds the model and makes that file.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
from pathlib import Path

import cuda_on_cpu
import numpy as np
import pytest

from minivae.architecture import Architecture, parameter_layout
from minivae.data.batches import Examples
from minivae.network import Bound, Network
from minivae.optimizers import Optimizer
from minivae.parameters import views
from minivae.training import Objective, Trainer, step_program

_spec = importlib.util.spec_from_file_location("make_twin", Path(__file__).parent / "golden" / "make_twin.py")
twin = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(twin)

TRAINING_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # relative, at every one of the steps
every_case = pytest.mark.parametrize(
    "form, activation, objectives", twin.CASES, ids=[f"{f}-{a}" for f, a, _ in twin.CASES]
)
every_optimizer = pytest.mark.parametrize("optimizer", twin.OPTIMIZERS)
both_dtypes = pytest.mark.parametrize("dtype", ("float32", "float64"))


@pytest.fixture(scope="module")
def golden():
    with np.load(twin.GOLDEN, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed; its golden numbers are compared instead")


# ---- Losses and gradients, float64


def filled_network(arch, kernels, dtype, named):
    """The library's network with parameters given by name, so that nothing hangs on their order in its flat vector."""
    network = Network(arch, kernels, dtype)
    flat = np.empty(network.parameters.size, dtype)
    for name, view in views(flat, parameter_layout(arch)).items():
        view[...] = named[name]
    network.set_parameters(flat)
    return network


def bound_of(objective, threshold):
    if objective in twin.SAMPLED:
        return Bound(objective, int(threshold))
    return Bound() if objective == "plain" else Bound(**{objective: threshold})


def assert_gradients_equal(entries, kernels, form, activation, objectives):
    names = json.loads(str(entries[f"{form}/layout"]))
    arch = Architecture(activation=activation, **twin.options(form))
    network = filled_network(arch, kernels, "float64", twin.split(entries[f"{form}/parameters"], names))
    for objective in objectives:
        threshold, loss, *gradient = entries[f"{form}/{activation}/{objective}"]
        assert (threshold > 0) == (objective != "plain")
        x, eps = entries[f"{form}/x"], entries[f"{form}/eps{'.k' * (objective in twin.SAMPLED)}"]
        assert np.isnan(x).any() == (arch.missing != "error")
        bound = bound_of(objective, float(threshold))
        our_loss, our_flat = network.loss_and_gradient(x, eps, twin.BETA, bound=bound)
        assert our_loss == pytest.approx(loss, rel=1e-12)
        theirs, ours = twin.split(np.array(gradient), names), views(our_flat, parameter_layout(arch))
        assert set(ours) == set(theirs)
        for name in theirs:
            scale = np.abs(theirs[name]).max()
            assert scale > 0, f"{name} plays no part in {form}, so that any gradient would pass"
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-12 * scale, err_msg=name)


@every_case
def test_loss_and_every_gradient_equal_the_golden_numbers_of_pytorch(kernels, golden, form, activation, objectives):
    assert_gradients_equal(golden, kernels, form, activation, objectives)


@functools.lru_cache(maxsize=1)
def live_gradients():
    return twin.gradient_entries(seed=twin.SEED + 2)  # of SEED + 1 one table has no missing cell


@every_case
def test_loss_and_every_gradient_equal_pytorch_live_at_another_point(torch, kernels, form, activation, objectives):
    assert_gradients_equal(live_gradients(), kernels, form, activation, objectives)


def test_golden_file_is_what_its_script_makes(torch, golden):
    fresh = twin.gradient_entries()
    assert {name for name in golden if not name.startswith("training/")} == set(fresh)
    for name, array in fresh.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(golden[name], array, rtol=0, atol=1e-13 * np.nanmax(np.abs(array)), err_msg=name)
        else:
            assert golden[name] == array
    pixels, parameters = twin.training_inputs()
    np.testing.assert_array_equal(golden["training/pixels"], pixels)
    np.testing.assert_allclose(golden["training/parameters"], parameters, rtol=1e-6)


def test_golden_file_is_small_and_holds_no_objects(golden):
    assert twin.GOLDEN.stat().st_size < 300_000
    assert all(array.dtype.kind in "fuU" for array in golden.values())


# ---- 1,000 training steps


def our_training(golden, kernels, optimizer, dtype):
    """Network, optimizer and examples of the twin's training, at its start."""
    t = twin.TRAINING
    arch = Architecture(t["data_dim"], t["latent_dim"], t["hidden_dims"], "tanh")
    names = twin.layout("bernoulli", t["data_dim"], t["latent_dim"], t["hidden_dims"])
    network = filled_network(arch, kernels, dtype, twin.split(golden["training/parameters"], names))
    options = dict(twin.OPTIMIZERS[optimizer])
    settings = Optimizer("sgd" if optimizer == "nesterov" else optimizer, **options)
    return network, settings, Examples(golden["training/pixels"], np.arange(t["examples"]), 255.0)


def our_losses(golden, kernels, optimizer, dtype):
    """The loss of every step of the library's own step program; of a tenth of them where a CPU plays the GPU."""
    steps = twin.STEPS // 10 if kernels.__name__.endswith("cuda.backend") and cuda_on_cpu.is_running() else twin.STEPS
    network, settings, examples = our_training(golden, kernels, optimizer, dtype)
    program = step_program(network, examples, Objective(), settings, twin.SEED)
    moments = {n: kernels.to_device(v) for n, v in settings.state(network.parameters.size, dtype).items()}
    trace = kernels.empty((steps, 2 + network.arch.latent_dim), np.float64)
    flat = {"p": network.parameters, "g": network.gradient, "trace": trace, **moments}
    data = kernels.to_device(examples.data)
    work = network.workspace(program, twin.TRAINING["batch_size"], data=data, **flat)
    for step in range(1, steps + 1):
        rows = twin.batch_rows(step)
        work.put("rows", rows)
        rate = settings.learning_rate
        work.run(len(rows), step=step, update=step, index=step - 1, beta=1.0, learning_rate=rate)
    kernels.synchronize()
    trace = np.array(kernels.to_host(trace))
    return trace[:, 0] + trace[:, 2:].sum(axis=1)


@both_dtypes
@every_optimizer
def test_a_thousand_training_steps_have_the_golden_losses_of_pytorch(kernels, golden, optimizer, dtype):
    losses = our_losses(golden, kernels, optimizer, dtype)
    theirs = golden[f"training/{optimizer}/{dtype}"]
    np.testing.assert_allclose(losses, theirs[: len(losses)], rtol=TRAINING_TOLERANCE[dtype])
    assert theirs[-100:].mean() < 0.7 * theirs[0]  # and they do train


@both_dtypes
@every_optimizer
def test_a_thousand_training_steps_have_the_losses_of_pytorch_live(torch, kernels, golden, optimizer, dtype):
    losses, theirs = our_losses(golden, kernels, optimizer, dtype), live_losses(optimizer, dtype)
    np.testing.assert_allclose(losses, theirs[: len(losses)], rtol=TRAINING_TOLERANCE[dtype])


@functools.cache
def live_losses(optimizer, dtype):
    with np.load(twin.GOLDEN, allow_pickle=False) as file:
        start = file["training/pixels"], file["training/parameters"]
    return twin.training_losses(optimizer, np.dtype(dtype).type, *start)


def test_the_trainer_records_the_epoch_means_of_the_same_losses(kernels, golden):
    network, settings, examples = our_training(golden, kernels, "adam", "float64")
    trainer = Trainer(network, settings, Objective(), twin.TRAINING["batch_size"], twin.SEED)
    trainer.fit(examples, epochs=20)
    theirs = golden["training/adam/float64"][: 20 * 8].reshape(20, 8).mean(axis=1)
    np.testing.assert_allclose([record["loss"] for record in trainer.history], theirs, rtol=1e-9)
    assert trainer.step == 160


def test_golden_losses_of_the_optimizers_differ_so_that_none_passes_for_another(golden):
    curves = [golden[f"training/{name}/float64"] for name in twin.OPTIMIZERS]
    apart = [np.abs(one / other - 1).max() for one, other in itertools.combinations(curves, 2)]
    assert min(apart) > 10 * TRAINING_TOLERANCE["float32"]
