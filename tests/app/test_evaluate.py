"""`minivae evaluate` and `sample --nearest`: every number has its error, and each line stands where it means something."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app import evaluate as app
from minivae.app.cli import main
from minivae.evaluation import measures

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


def test_of_yes_and_no_draws_are_compared_and_of_grey_values_means(capsys):
    np.save("x.npy", np.random.default_rng(0).random((200, 8)) < 0.5)
    train("--validation-fraction", "0.2", data="x.npy")
    assert main(["evaluate", "run", "--quiet", "--split", "validation"]) == 0
    assert "(median distance of 40 draws)" in capsys.readouterr().out
    train("--overwrite")
    assert main(["evaluate", "run", "--quiet"]) == 0
    assert "(median distance of 297 decoder means)" in capsys.readouterr().out


def test_what_is_asked_for_in_vain_is_refused_before_the_work(capsys, monkeypatch):
    train()
    monkeypatch.setattr(measures, "information", lambda *_: pytest.fail("the work had begun"))
    for options, said in {
        ("--chains", "4"): "--chains are those of --ais; say of how many temperatures, as in --ais 200",
        ("--calibration", "99"): "20 bins of ranks need at least 100 simulated rows, not 99",
    }.items():
        capsys.readouterr()
        assert main(["evaluate", "run", "--quiet", *options]) == 1
        assert said in capsys.readouterr().err


def test_p_values_have_no_error_and_what_they_are_of_is_told(capsys, monkeypatch):
    pytest.importorskip("scipy", reason="the chi-square law is SciPy's")
    train("--latent-dim", "2", "--objective", "iwae", "--n-samples", "4")
    capsys.readouterr()
    assert main(["evaluate", "run", "--quiet", "--limit", "20"]) == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert head == "20 test examples of digits, nats per example, iwae of K = 4"
    monkeypatch.setattr(app, "WORST", 1)
    assert main(["evaluate", "run", "--quiet", "--n-samples", "3", "--calibration", "100"]) == 0
    shown = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("    of z")]
    told = evaluated(capsys, "--calibration", "100")
    least = min((told[f"calibration_p_z{j}"], f"z{j}") for j in (1, 2))
    assert shown == [["of", least[1], f"{least[0]:.3f}"]]  # of many the smallest, all in JSON
    assert {name for name in told if "calibration" in name} == {"calibration_p", "calibration_p_z1", "calibration_p_z2"}
    assert (told["simulated"], told["objective"], told["objective_samples"]) == (100, "iwae", 4)


def test_information_near_its_ceiling_is_marked(capsys, monkeypatch):
    train()
    for n, told in ((0.95, True), (0.85, False)):
        monkeypatch.setattr(measures, "information", lambda h, seed, n=n: np.full(len(h), n * np.log(len(h))))
        capsys.readouterr()
        assert main(["evaluate", "run", "--quiet"]) == 0
        shared = next(line for line in capsys.readouterr().out.splitlines() if "mutual information" in line)
        assert shared.endswith("at most log n = 5.694" + ": near that, more rows raise it" * told + ")")


def test_rows_of_no_number_are_counted(capsys):
    X = np.random.default_rng(0).normal(size=(50, 3))
    np.save("x.npy", X)
    train("--likelihood", "gaussian", data="x.npy")
    X[7, 1] = 1e300
    np.save("wild.npy", X)
    told = evaluated(capsys, "--data", "wild.npy", "--split", "train")
    assert told["log_likelihood"] is None
    assert main(["evaluate", "run", "--data", "wild.npy", "--split", "train", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "1 of 50 rows have no finite log p(x), and no mean has one" in printed.err and "nan" in printed.out


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
