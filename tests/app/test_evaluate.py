"""`minivae evaluate` and `sample --nearest`: every number has its error, and each line stands where it means something."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app.cli import main

FAST = ["--hidden-dims", "16", "--backend", "numpy", "--quiet", "--no-figures", "--epochs", "3"]
BESIDE = {"sample_distance", "held_out_distance", "probe_accuracy", "commonest_label_accuracy"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*options, data="digits"):
    assert main(["train", data, *FAST, *options, "--out", "run"]) == 0


def evaluated(capsys, *options):
    capsys.readouterr()
    assert main(["evaluate", "run", "--n-samples", "3", "--quiet", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_number_has_its_error_and_stands_in_the_table(capsys):
    train("--latent-dim", "3")
    told = evaluated(capsys)
    names = {name for name in told if f"{name}_standard_error" in told}
    assert names >= BESIDE | {"elbo", "recon", "kl", "log_likelihood", "bits_per_dimension", "active_units"}
    assert all(told[f"{name}_standard_error"] is not None for name in names)
    assert told["mutual_information"] + told["marginal_kl"] == pytest.approx(told["kl"], rel=1e-12)
    assert told["recon"] + told["kl"] == pytest.approx(-told["elbo"], rel=1e-12)
    assert told["bits_per_dimension"] == pytest.approx(-told["log_likelihood"] / 64 / np.log(2))
    assert main(["evaluate", "run", "--n-samples", "3", "--quiet"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "297 test examples of digits, nats per example" and len(lines) == len(names)
    assert all(" +- " in line for line in lines)
    for name in names - {"active_units"}:
        assert any(f"{told[name]:.3f} +- {told[name + '_standard_error']:.3f}" in line for line in lines), name
    assert any(line.startswith("  active units") and " of 3 +- " in line for line in lines)


def test_what_lies_beside_the_training_rows_is_told_of_held_out_rows_alone(capsys):
    train("--validation-fraction", "0.2")
    assert evaluated(capsys).keys() >= BESIDE
    assert evaluated(capsys, "--split", "validation").keys() >= BESIDE
    assert not evaluated(capsys, "--split", "train").keys() & BESIDE
    assert not evaluated(capsys, "--data", "digits").keys() & BESIDE  # these may not be what it was trained on


def test_a_label_to_measure_by_and_cells_that_are_missing_leave_their_lines_out(capsys):
    rng = np.random.default_rng(0)
    for holes in (False, True):
        with open("t.csv", "w") as file:
            file.write("a,b,y\n" + "".join(f"{a},{b},{a + b}\n" for a, b in rng.normal(size=(90, 2))))
            file.write(",1.5,2.5\n" * holes)
        train("--label", "y", "--overwrite", data="t.csv")
        assert evaluated(capsys).keys() & BESIDE == (set() if holes else {"sample_distance", "held_out_distance"})
    assert main(["sample", "run", "--nearest", "--out", "-"]) == 1
    assert "rows with missing cells are at no distance" in capsys.readouterr().err


def test_a_model_that_is_told_labels_is_told_those_of_the_rows(capsys):
    train("--conditional", "--likelihood", "gaussian")
    assert evaluated(capsys).keys() >= BESIDE


def test_a_sample_stands_beside_its_nearest_training_row(capsys):
    train("--validation-fraction", "0.3")
    capsys.readouterr()
    assert main(["sample", "run", "-n", "6", "--nearest", "--out", "s.csv"]) == 0
    with open("s.csv") as file:
        rows = [*csv.DictReader(file)]
    vae, X = VAE.load("run/model.npz"), np.asarray(load_dataset("digits").train, float) / 255
    samples = vae.sample(6, random_state=vae.seed_)
    far = np.sqrt(((samples[:, None] - X) ** 2).sum(axis=2))
    far[:, vae.held_rows_] = np.inf  # no row of these was trained on
    assert [int(row["nearest"]) for row in rows] == far.argmin(axis=1).tolist()
    np.testing.assert_allclose([float(row["distance"]) for row in rows], far.min(axis=1), rtol=1e-5)
    for name, x in (("x0", samples[:, 0]), ("x63", samples[:, 63])):
        np.testing.assert_allclose([float(row[name]) for row in rows], 255 * x, rtol=1e-5)
    assert main(["sample", "run", "--nearest", "--out", "s.npy"]) == 1
    assert "s.npy ends in none of .csv" in capsys.readouterr().err


def test_the_figure_shows_each_sample_above_its_nearest_row(capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="it draws the figure")
    from minivae.figures import plots

    train()
    drawn, pairs = [], plots.pairs
    monkeypatch.setattr(plots, "pairs", lambda named, *rest: drawn.append(named) or pairs(named, *rest))
    assert main(["sample", "run", "-n", "40", "--nearest", "--out", "s.png"]) == 0
    assert "s.png shows the first 30 of 40; end --out in .csv for all" in capsys.readouterr().err
    X, ((above, below),) = load_dataset("digits").train / 255, [named.values() for named in drawn]
    assert above.shape == below.shape == (40, 64)
    assert all((row == X).all(axis=1).any() for row in below)
