"""Cyclical warm-up, capacity, active units, and the line that says posterior collapse."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from attacks import forge
from test_training import rows_of, small_trainer

from minivae import VAE, check_gradient
from minivae.app.cli import main
from minivae.architecture import Architecture, initial_parameters
from minivae.evaluation.inference import collapse
from minivae.kernels import load
from minivae.network import Bound, Network, total_loss
from minivae.optimizers import Optimizer
from minivae.training import Objective

QUICK = {"hidden_dims": (32,), "batch_size": 32, "learning_rate": 2e-3, "random_state": 0, "validation_fraction": 0.0}


# ---- Beta in cycles


@pytest.mark.parametrize(
    ("position", "expected"),
    ((0, 0), (1, 1), (2, 2), (4.9, 2), (5, 0), (5.5, 0.5), (7, 2), (9.9, 2), (15, 0), (19.9, 2), (20, 2), (21, 2), (90, 2)),
)  # fmt: skip
def test_beta_rises_in_each_cycle_stays_and_starts_again_and_after_the_last_it_stays(position, expected):
    """20 epochs in 4 cycles of 5, of which beta = 2 takes 2 to rise."""
    assert Objective(2.0, kl_warmup=2, kl_cycles=4).beta_at(position, 20) == pytest.approx(expected)


@pytest.mark.parametrize(("cycles", "epochs"), [(3, 7), (9, 21), (7, 3), (10, 100)])
def test_each_cycle_begins_at_exactly_zero_also_where_its_length_is_rounded(cycles, epochs):
    objective = Objective(1.0, kl_warmup=1e-6, kl_cycles=cycles)
    begins = [k * epochs / cycles for k in range(cycles) if (k * epochs) % cycles == 0]
    assert [objective.beta_at(t, epochs) for t in begins] == [0.0] * len(begins)
    assert objective.beta_at(epochs / cycles / 2, epochs) == 1.0


def test_one_cycle_is_the_plain_warm_up_for_any_length_of_training():
    for t in (0, 0.3, 7.7, 9.99, 10, 31):
        assert (
            Objective(0.7, kl_warmup=5).beta_at(t, 10) == Objective(0.7, kl_warmup=5).beta_at(t) == 0.7 * min(1, t / 5)
        )


def test_the_history_shows_beta_0_where_a_cycle_begins(digits):
    vae = VAE(**QUICK | {"batch_size": 2000}, epochs=8, beta=3.0, kl_cycles=2, kl_warmup=2).fit(digits[0])
    assert [record["beta"] for record in vae.history_] == [0, 1.5, 3, 3, 0, 1.5, 3, 3]


def test_cycles_run_over_the_calls_of_partial_fit_and_end_with_them(digits):
    vae = VAE(**QUICK | {"batch_size": 2000}, epochs=4, kl_cycles=2, kl_warmup=1)
    for _ in range(6):
        vae.partial_fit(digits[0])
    assert [record["beta"] for record in vae.history_] == [0, 1, 0, 1, 1, 1]


@pytest.mark.parametrize("kl_warmup", (0.0, 6.0))
def test_a_warm_up_that_fits_in_no_cycle_is_one_sentence(kl_warmup, digits):
    with pytest.raises(
        ValueError, match=rf"kl_cycles=4 makes cycles of 5 epochs, and kl_warmup={kl_warmup:g} is no part"
    ):
        VAE(epochs=20, kl_cycles=4, kl_warmup=kl_warmup).fit(digits[0])
    VAE(**QUICK, epochs=4, kl_cycles=4, kl_warmup=1).fit(digits[0][:64])  # a whole cycle may be


@pytest.mark.parametrize("bad", (0, -3))
def test_there_is_at_least_one_cycle(bad):
    with pytest.raises(ValueError, match=f"kl_cycles must be at least 1, not {bad}"):
        Objective(kl_cycles=bad)


# ---- Capacity


@pytest.mark.parametrize("position", (0, 2.5, 10, 40))
def test_the_capacity_rises_linearly_and_stays_and_knows_no_cycles(position):
    objective = Objective(30.0, kl_warmup=1, kl_cycles=5, capacity=25.0, capacity_warmup=10)
    assert objective.capacity_at(position) == pytest.approx(25 * min(1, position / 10))
    assert Objective(capacity=4.0).capacity_at(position) == 4.0


@pytest.mark.parametrize(("capacity", "expected"), ((0, 6), (1, 4), (2.5, 1), (3, 2), (5, 6)))
def test_total_loss_is_beta_times_the_distance_from_the_capacity(capacity, expected):
    assert total_loss(1.0, np.array([0.5, 2.0]), 2.0, 0.0, capacity) == pytest.approx(expected)


def test_dkl_is_beta_above_the_capacity_minus_beta_below_and_0_on_it(kernels):
    kl = kernels.to_device(np.array([[1.0, 0.5], [2.0, 0.5]]))  # means 1.5 and 0.5 without any rounding
    weight = kernels.to_device(np.array([0.5, 0.5]))
    for capacity, expected in ((0.0, 3), (1.5, 3), (2.0, 0), (2.5, -3)):
        kl_mean, dkl_mean = (kernels.to_device(np.full(2, math.nan)) for _ in range(2))
        kernels.kl_loss(kl_mean, dkl_mean, kl, weight, 3.0, 0.0, capacity)
        np.testing.assert_array_equal(kernels.to_host(kl_mean), [1.5, 0.5])
        np.testing.assert_array_equal(kernels.to_host(dkl_mean), [expected, expected])


def test_the_sum_goes_over_more_latents_than_a_block_has_threads(kernels):
    kl, weight = kernels.to_device(np.full((1, 700), 0.01)), kernels.to_device(np.ones(1))
    for capacity, sign in ((6.9, 1), (7.1, -1)):
        kl_mean, dkl_mean = (kernels.to_device(np.empty(700)) for _ in range(2))
        kernels.kl_loss(kl_mean, dkl_mean, kl, weight, 1.0, 0.0, capacity)
        np.testing.assert_array_equal(kernels.to_host(dkl_mean), np.full(700, sign))


@pytest.mark.parametrize("capacity", (0.01, 50.0))
def test_gradient_of_a_whole_model_with_capacity_on_every_backend(kernels, capacity):
    arch, rng = Architecture(9, 3, (7,), "tanh"), np.random.default_rng(4)
    x, eps, parameters = rng.uniform(size=(6, 9)), rng.normal(size=(6, 3)), 2 * initial_parameters(arch, 3)
    network = Network(arch, kernels, "float64")

    def loss_and_gradient(values):
        network.set_parameters(values)
        return network.loss_and_gradient(x, eps, 4.0, bound=Bound(capacity=capacity))

    loss, gradient = loss_and_gradient(parameters)
    assert check_gradient(lambda values: loss_and_gradient(values)[0], gradient, parameters) < 1e-7
    book = Network(arch, load("numpy"), "float64")
    book.set_parameters(parameters)
    expected, expected_gradient = book.loss_and_gradient(x, eps, 4.0, bound=Bound(capacity=capacity))
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ("numpy", "auto"))
def test_a_training_with_capacity_ends_with_so_many_nats(digits, backend):
    settings = QUICK | {"latent_dim": 4, "epochs": 20, "backend": backend}
    vae = VAE(**settings, beta=10.0, capacity=3.0, capacity_warmup=10).fit(digits[0], X_test=digits[1])
    first, last = vae.history_[0], vae.history_[-1]
    assert first["kl"] < 1 and first["capacity"] < 0.31 and last["capacity"] == 3.0
    assert last["kl"] == pytest.approx(3, abs=0.2) and last["test_kl"] == pytest.approx(3, abs=0.5)
    assert last["loss"] == pytest.approx(last["recon"] + 10 * abs(last["kl"] - 3), rel=1e-9)
    assert last["test_loss"] == pytest.approx(last["test_recon"] + 10 * abs(last["test_kl"] - 3), rel=1e-9)


def test_capacity_and_free_bits_together_are_one_sentence(digits):
    with pytest.raises(ValueError, match="capacity=3 is for the KL as a whole; set free_bits=0"):
        VAE(capacity=3.0, free_bits=0.1).fit(digits[0])


@pytest.mark.parametrize("bad", (-1.0, math.nan, math.inf))
@pytest.mark.parametrize("name", ("capacity", "capacity_warmup"))
def test_an_invalid_capacity_is_refused_by_the_name_that_the_user_typed(name, bad):
    with pytest.raises(ValueError, match=f"^{name} must be 0 or a positive number"):
        Objective(**{name: bad})


# ---- Active units and posterior collapse


def test_active_units_counts_the_latents_whose_mean_kl_exceeds_a_hundredth_of_a_nat(digits):
    frozen = Optimizer("sgd", learning_rate=1e-30)
    trainer = small_trainer(digits[0], optimizer=frozen, dtype="float64")
    named = trainer.network.named
    last = "encoder.1"
    named[f"{last}.W"][...] = 0
    # q is N(mu, 1) for every x, with mu^2 / 2 nats: 0.0098 and 0.0113
    named[f"{last}.b"][...] = [0.14, 0.15, 0, 0]
    trainer.fit(rows_of(digits[0]), 1)
    assert trainer.history[0]["kl_per_dim"] == pytest.approx([0.0098, 0.01125])
    assert trainer.history[0]["active_units"] == 1


@pytest.mark.parametrize(
    ("active", "latent_dim", "said"),
    ((0, 1, True), (0, 8, True), (1, 8, False), (1, 10, False), (1, 11, True), (4, 50, True), (5, 50, False), (47, 50, 0)),
)  # fmt: skip
def test_collapse_is_said_where_fewer_than_a_tenth_or_none_are_active(active, latent_dim, said):
    line = collapse(active, latent_dim)
    assert bool(line) == said and "\n" not in line
    assert not said or line.startswith(f"posterior collapse: {active} of {latent_dim} latent dimensions ")
    assert not said or "raise kl_warmup or free_bits, " in line
    assert "free_bits" not in collapse(active, latent_dim, "dreg")  # which has none


@pytest.mark.parametrize(("beta", "lines"), ((50.0, 1), (1.0, 0)))
def test_a_collapsed_training_says_so_once_at_its_end_if_it_may_speak(digits, capsys, beta, lines):
    settings = QUICK | {"latent_dim": 8, "epochs": 10, "beta": beta}
    VAE(**settings, verbose=1).fit(digits[0])
    told = capsys.readouterr().err
    assert told.count("posterior collapse") == lines
    assert not lines or "0 of 8 latent dimensions are active; raise kl_warmup" in told.splitlines()[-1]
    VAE(**settings).fit(digits[0])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quiet", ([], ["--quiet"]))
def test_the_command_line_says_collapse_on_standard_error_whatever_else_it_says(tmp_path, capsys, quiet):
    out = str(tmp_path / "run")
    train = ["train", "digits", "--hidden-dims", "16", "--epochs", "4", "--no-figures", "--out", out, "--json", *quiet]
    assert main([*train, "--beta", "50"]) == 0
    told = capsys.readouterr()
    assert told.err.count("posterior collapse: 0 of 2") == 1 and json.loads(told.out)["kept"]["active_units"] == 0
    assert main(["evaluate", out, "--n-samples", "1", "--json", *quiet]) == 0
    told = capsys.readouterr()
    assert told.err.count("posterior collapse: 0 of 2") == 1 and json.loads(told.out)["active_units"] == 0
    assert main([*train, "--overwrite", "--beta", "0.1"]) == 0
    assert main(["evaluate", out, "--n-samples", "1", "--json", *quiet]) == 0
    assert "collapse" not in capsys.readouterr().err


def test_options_of_the_command_line_and_columns_of_history_csv(tmp_path):
    options = ["--kl-cycles", "2", "--kl-warmup", "1", "--capacity", "2", "--capacity-warmup", "3", "--beta", "10"]
    run = tmp_path / "run"
    train = [
        "train",
        "digits",
        "--hidden-dims",
        "16",
        "--epochs",
        "4",
        "--batch-size",
        "2000",
        "--no-figures",
        "--quiet",
    ]
    assert main([*train, *options, "--out", str(run)]) == 0
    with open(run / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["beta"]) for row in rows] == [0, 10, 0, 10]
    assert [float(row["capacity"]) for row in rows] == pytest.approx([0, 2 / 3, 4 / 3, 2])
    for row in rows:
        assert int(row["active_units"]) == sum(float(row[f"kl_{j}"]) > 0.01 for j in range(2))


def test_a_file_from_before_these_settings_loads_without_them(digits, tmp_path):
    VAE(**QUICK, epochs=1).fit(digits[0][:64]).save(tmp_path / "new.npz")
    path = forge.first_version(tmp_path / "new.npz", tmp_path / "old.npz")
    config = forge.config(path)
    for name in ("kl_cycles", "capacity", "capacity_warmup"):
        del config["settings"][name]
    for name in ("active_units", "capacity"):
        del config["history"][0][name]
    old = VAE.load(forge.model(path, forge.entries(path), config, digest=False))
    assert (old.kl_cycles, old.capacity) == (1, 0.0)
    assert "active_units" in old.partial_fit(digits[0][:64]).history_[1]
