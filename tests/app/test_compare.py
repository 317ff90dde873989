"""`minivae compare`: what it says of a run is what evaluate says, and what does not compare is not compared in silence."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app import compare
from minivae.app.cli import main
from minivae.app.runs import open_run, pick
from minivae.evaluation.measures import Measured, standard_error
from minivae.evaluation.scores import elbo_terms
from minivae.storage import persistence

FAST = ["--hidden-dims", "16", "--backend", "numpy", "--quiet", "--no-figures", "--epochs", "2"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(out, *options, data="digits"):
    assert main(["train", data, *FAST, *options, "--out", out]) == 0


def ran(capsys, *arguments, status=0):
    """What it printed as JSON, and its lines on standard error."""
    capsys.readouterr()
    assert main([*arguments, "--quiet", "--json"]) == status
    told = capsys.readouterr()
    return json.loads(told.out), told.err


def test_a_run_is_worth_what_evaluate_says(capsys):
    train("a", "--latent-dim", "2")
    train("b", "--latent-dim", "5", "--epochs", "4")
    told, _ = ran(capsys, "compare", "b", "a")
    assert told["failed"] == {} and told["notes"] == []
    assert [row["elbo"] for row in told["runs"]] == sorted((row["elbo"] for row in told["runs"]), reverse=True)
    for row in told["runs"]:
        alone, _ = ran(capsys, "evaluate", row["run"], "--n-samples", "32")
        shared = row.keys() & alone.keys()
        same = {"data", "split", "examples", "active_units", "latent_dim", "n_samples"}
        worth = {"elbo", "elbo_standard_error", "log_likelihood", "log_likelihood_standard_error"}
        assert shared == same | worth | {"recon", "kl"} and row["ranked_by"] == "elbo"
        for name in (
            "elbo",
            "recon",
            "log_likelihood",
        ):  # the same rows; the noise is that of all runs here, of the model's seed there
            assert row[name] == pytest.approx(alone[name], abs=alone["elbo_standard_error"])
        assert row["kl"] == pytest.approx(alone["kl"], rel=1e-6)
        assert {name: row[name] for name in same} == {name: alone[name] for name in same}
        vae = VAE.load(f"{row['run']}/model.npz")
        assert row["settings"] == {"latent_dim": vae.latent_dim, "epochs": vae.epochs}  # the others are the same
        assert (row["epochs"], row["epoch_kept"]) == (vae.epochs, vae.epochs)
        assert row["parameters"] == vae.n_parameters_
        assert row["seconds"] == pytest.approx(sum(record["seconds"] for record in vae.history_))


def test_a_name_with_brackets_is_that_of_a_run_and_else_a_pattern(capsys):
    train("a[1]")
    shutil.copytree("a[1]", "a1")
    for typed, runs in (("a[1]", ["a[1]"]), ("a*", ["a1", "a[1]"])):
        assert sorted(row["run"] for row in ran(capsys, "compare", typed)[0]["runs"]) == runs


def test_the_error_of_a_difference_is_that_of_pairs(capsys):
    """Rows differ by more than models do: paired, an error is far smaller than the errors of the two alone."""
    train("a", "--epochs", "20")
    train("b", "--epochs", "19")
    told, _ = ran(capsys, "compare", "a", "b")
    best, other = told["runs"]
    X = np.asarray(load_dataset("digits").test)
    scores = {row["run"]: VAE.load(f"{row['run']}/model.npz").score_samples(X, n_draws=1000) for row in told["runs"]}
    for row in told["runs"]:  # 32 draws of each row's own are worth a thousand that all share
        assert row["elbo"] == pytest.approx(scores[row["run"]].mean(), abs=0.1)
    gap = scores[other["run"]].astype(float) - scores[best["run"]]
    assert other["difference"] == pytest.approx(gap.mean(), abs=0.1)
    assert gap.std() / math.sqrt(len(gap)) <= other["difference_standard_error"] * 1.05  # which holds the noise too
    assert other["difference_standard_error"] < 0.5 * math.hypot(*(row["elbo_standard_error"] for row in told["runs"]))
    assert (best["difference"], best["difference_standard_error"]) == (0, 0)


def test_the_error_holds_that_of_the_noise():
    """Other noise, the same rows: the mean moves by less than its standard error says, for the rows do not share theirs."""
    train("a", "--latent-dim", "10", "--epochs", "20")
    run = open_run("a")
    part, network = pick(run, run.dataset(), None, own=True), run.vae.network_
    examples = run.vae.examples(part.data, part.rows)
    noises = range(6 * int(os.environ.get("MINIVAE_TRIALS", "1")))
    own = [Measured.of(network, examples, seed).elbo for seed in noises]
    shared = [-sum(elbo_terms(network, examples, seed)).mean() for seed in noises]
    means = np.mean(own, axis=1)
    assert np.std(means, ddof=1) < 0.3 * standard_error(own[0])
    assert np.std(means, ddof=1) < np.std(shared, ddof=1)
    assert np.mean(means) == pytest.approx(np.mean(shared), abs=0.3)
    some = Measured.of(network, replace(examples, rows=part.rows[100:150]), 0).elbo
    np.testing.assert_allclose(own[0][100:150], some, rtol=1e-5)  # a row's noise is its own, whichever are measured


def test_the_table_has_a_line_for_each_run(capsys):
    train("a", "--latent-dim", "3")
    train("b", "--latent-dim", "3", "--hidden-dims", "8", "8", "--beta", "2")
    capsys.readouterr()
    assert main(["compare", "?", "--quiet", "--limit", "50"]) == 0  # a pattern, for shells that leave it to us
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert head == "50 test examples of digits, nats per example"
    assert names.split()[:4] == ["run", "hidden_dims", "beta", "ELBO"]
    assert sorted(row.split()[0] for row in rows) == ["a", "b"] and len({len(row) for row in [names, *rows]}) == 1
    assert rows[0].split().count("best") == 1 and "+-" in rows[1]
    assert next(row for row in rows if row.split()[0] == "b").split()[1:3] == ["8-8", "2.0"]


def test_runs_that_learned_another_bound_are_ranked_by_what_both_bound(capsys):
    """At one log p(x) the ELBO of a model that was trained by an importance-weighted bound is the lower one."""
    train("elbo", "--epochs", "30")
    train("dreg", "--epochs", "30", "--objective", "dreg", "--n-samples", "20")
    told, err = ran(capsys, "compare", "elbo", "dreg")
    best, other = told["runs"]
    assert [best["run"], other["run"]] == ["dreg", "elbo"] and best["elbo"] < other["elbo"]
    assert (
        other["difference"] == pytest.approx(other["log_likelihood"] - best["log_likelihood"])
        and other["difference"] < 0
    )
    assert other["difference"] < -3 * other["difference_standard_error"]  # of pairs
    assert (
        "ranked by the log-likelihood of 32 importance samples (--n-samples takes more), as dreg learned another bound"
        in err
    )
    more, err = ran(capsys, "compare", "elbo", "dreg", "--n-samples", "300")
    assert "ranked by" not in err and {row["n_samples"] for row in more["runs"]} == {300}
    assert all(
        new["log_likelihood"] > old["log_likelihood"] for new, old in zip(more["runs"], told["runs"], strict=True)
    )
    alone, _ = ran(capsys, "compare", "elbo", "--n-samples", "5")
    assert alone["runs"][0]["ranked_by"] == "log_likelihood"
    assert main(["compare", "elbo", "dreg", "--quiet", "--n-samples", "5"]) == 0
    head, names, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("nats per example, 5 importance samples") and "log-likelihood" in names and "ELBO" not in names


def test_a_run_that_cannot_be_opened_is_named_and_the_others_go_on(capsys, tmp_path):
    train("a")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.npz").write_bytes(b"no model")
    told, err = ran(capsys, "compare", "nowhere", "a", "broken", status=1)
    assert [row["run"] for row in told["runs"]] == ["a"] and sorted(told["failed"]) == ["broken", "nowhere"]
    lines = [line for line in err.splitlines() if "left out" in line]
    assert len(lines) == 2 and lines[0].startswith("minivae: nowhere is left out: there is no model at nowhere")
    one = ran(capsys, "compare", "a", "--limit", "1")[0]["runs"][0]  # in one row nothing varies
    assert one["active_units"] is one["elbo_standard_error"] is None
    assert ran(capsys, "evaluate", "a", "--limit", "1")[0]["active_units"] is None
    assert main(["evaluate", "a", "--limit", "1", "--quiet"]) == 0 and "? of 2" in capsys.readouterr().out
    assert ran(capsys, "compare", "nowhere", status=1)[0]["runs"] == []
    assert main(["compare", "a", "--split", "validation", "--quiet"]) == 1  # nothing was held out of it
    assert "a is left out: training held nothing out of these data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--binarize", "dynamic"], "binarize"),
        (["--likelihood", "gaussian"], "densities and probabilities"),
        (["--divide-by", "256"], "the scale of values"),
        (["--validation-fraction", "0.2"], None),  # the test part is the same
        (["--likelihood", "bernoulli*60 bernoulli*4", "--divide-by", "255"], None),
    ],
)
def test_what_does_not_compare_is_said(options, what, capsys):
    train("a")
    train("b", *options)
    told, err = ran(capsys, "compare", "a", "b")
    if what is None:
        assert told["notes"] == [] and {row["group"] for row in told["runs"]} == {0}
    else:
        assert (
            told["notes"] == [f"2 groups whose nats do not compare: they differ in {what}"] and told["notes"][0] in err
        )
        assert [row["group"] for row in told["runs"]] == [0, 1]
        assert [row["difference"] for row in told["runs"]] == [0, 0]


def test_densities_compare_however_columns_were_standardized(capsys):
    """Each is in the table's own units: those of a column that is a hundred times as wide are log(100) further away."""
    np.save("x.npy", np.random.default_rng(0).standard_normal((200, 3)) * [1, 100, 0.01])
    for out, options in (("a", ["--standardize"]), ("b", []), ("c", ["--divide-by", "2"])):
        train(out, "--likelihood", "gaussian", *options, data="x.npy")
    told, _ = ran(capsys, "compare", "a", "b", "c")
    assert {row["run"]: row["group"] for row in told["runs"]} == {"a": 0, "b": 0, "c": 1}
    notes = ["2 groups whose nats do not compare: they differ in the scale of values"]
    assert told["notes"] == notes
    assert told["runs"][0]["run"] == "a"
    np.save("grey.npy", np.random.default_rng(0).integers(1, 4, (200, 3)) / 8)  # stretched these are others
    for out, options in (("d", ["--standardize"]), ("e", [])):
        train(out, *options, data="grey.npy")
    assert ran(capsys, "compare", "d", "e")[0]["notes"] == notes


def test_other_data_and_other_rows(capsys):
    rng = np.random.default_rng(0)
    np.save("x.npy", rng.random((200, 6)))
    np.save("y.npy", rng.random((200, 6)))
    for out, data, seed in (("a", "x.npy", "0"), ("b", "x.npy", "1"), ("c", "y.npy", "0"), ("d", "x.npy", "0")):
        train(out, "--random-state", seed, "--validation-fraction", "0.2", data=data)
    told, err = ran(capsys, "compare", "a", "b", "c", "d")
    rows = {row["run"]: row for row in told["runs"]}
    assert rows["a"]["group"] == rows["b"]["group"] == rows["d"]["group"] != rows["c"]["group"]
    best = next(row["run"] for row in told["runs"] if row["group"] == 0)
    other = "b" if best in "ad" else "a"
    assert "they differ in the data" in err and f"measured on other rows than {best}" in err
    errors = math.hypot(rows[best]["elbo_standard_error"], rows[other]["elbo_standard_error"])
    assert rows[other]["difference_standard_error"] == pytest.approx(errors)
    assert rows["a"]["elbo"] == rows["d"]["elbo"]  # the same training
    told, _ = ran(capsys, "compare", "a", "b", "c", "--data", "y.npy", "--split", "train")
    assert told["notes"] == [] and {(row["group"], row["examples"]) for row in told["runs"]} == {(0, 200)}


def test_the_figure_shows_the_curves_and_the_differences(capsys, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'minivae[plot]'")
    from minivae.figures import plots

    train("a", "--latent-dim", "3", "--beta", "4", "--epochs", "5")
    train("b", "--latent-dim", "20")
    train("c", "--binarize", "static")
    saved = []
    monkeypatch.setattr(
        plots, "save", lambda figure, path, inner=plots.save: (saved.append(figure), inner(figure, path))
    )
    capsys.readouterr()
    assert main(["compare", "a", "b", "c", "--quiet", "--figure", "runs.png"]) == 0
    printed = capsys.readouterr()
    assert "runs.png shows the best 2 of the runs that compare; 1 of 3 left out" in printed.err
    assert (tmp_path / "runs.png").stat().st_size > 1000 and printed.out.endswith("wrote runs.png\n")
    told, _ = ran(capsys, "compare", "a", "b")
    curves, right = saved[0].axes
    for i, row in enumerate(told["runs"]):
        held_out, dot, training, _ = curves.lines[4 * i : 4 * i + 4]
        history = VAE.load(f"{row['run']}/model.npz").history_
        assert list(held_out.get_ydata()) == [
            r["test_recon"] + r["test_kl"] for r in history
        ]  # not the loss: beta is 4
        assert list(training.get_ydata()) == [r["recon"] + r["kl"] for r in history]
        assert training.get_linestyle() == "--"
        assert (list(dot.get_xdata()), list(dot.get_ydata())) == ([len(history)], [held_out.get_ydata()[-1]])
    assert [tick.get_text() for tick in right.get_yticklabels()] == [row["run"] for row in told["runs"]]
    places = [container.lines[0].get_xdata()[0] for container in right.containers]
    assert places == [row["difference"] for row in told["runs"]]
    assert [f"{row['active_units']} of {row['latent_dim']}" for row in told["runs"]] == [
        text.get_text().split(", ")[1] for text in right.texts[:2]
    ]


def test_a_figure_of_no_kind_is_refused_before_the_work(capsys, monkeypatch):
    monkeypatch.setattr(compare, "_measure", lambda *_: pytest.fail("the work had begun"))
    for figure in ("runs.foo", "-"):
        assert main(["compare", "a", "--figure", figure]) == 1
        assert f"--figure {figure} ends in none of .png" in capsys.readouterr().err


def test_a_model_that_no_command_trained(capsys):
    """It names no data: they are asked for, and then it stands beside the others."""
    train("a")
    x = np.asarray(load_dataset("digits").train)
    vae = VAE(hidden_dims=(8,), epochs=1, random_state=3, backend="numpy").fit(x)
    persistence.save(vae, "mine.npz")
    told, err = ran(capsys, "compare", "a", "mine.npz", status=1)
    assert "mine.npz is left out: this model file does not say what it was trained on" in err
    told, _ = ran(capsys, "compare", "a", "mine.npz", "--data", "digits", "--split", "test")
    assert {row["run"] for row in told["runs"]} == {"a", "mine.npz"} and "random_state" in told["runs"][0]["settings"]
