"""The command line as a user types it: results, exit statuses, and one clear line for what is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app import recorder
from minivae.app.cli import build_parser, main
from minivae.evaluation import annealed, scores
from minivae.kernels import availability
from minivae.storage import persistence
from minivae.storage.checkpoints import capture
from minivae.training import Trainer

RAW = load_dataset("digits")
FAST = ["--hidden-dims", "16", "--epochs", "2", "--quiet", "--no-figures"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_folder(capsys):
    assert main(["train", "digits", *FAST, "--out", "run"]) == 0
    capsys.readouterr()
    return "run"


def test_train_writes_a_complete_run(tmp_path, capsys):
    assert main(["train", "digits", *FAST]) == 0
    out = capsys.readouterr().out
    assert "nats per example" in out and "runs/digits/model.npz" in out
    folder = tmp_path / "runs" / "digits"
    assert sorted(os.listdir(folder)) == ["checkpoint.npz", "config.json", "history.csv", "model.npz"]
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["test_loss"]) < float(rows[0]["test_loss"])
    assert float(rows[0]["kl"]) == pytest.approx(float(rows[0]["kl_0"]) + float(rows[0]["kl_1"]))
    config = json.loads((folder / "config.json").read_text())
    assert config["data"] == "digits" and config["settings"]["hidden_dims"] == [16] and config["seed"] == 0
    assert VAE.load(folder / "model.npz").stopped_ == ""
    # a second run does not write over the first
    assert main(["train", "digits", *FAST]) == 0
    assert sorted(os.listdir(tmp_path / "runs")) == ["digits", "digits-2"]
    first, second = (VAE.load(tmp_path / "runs" / name / "model.npz") for name in ("digits", "digits-2"))
    np.testing.assert_array_equal(first.network_.get_parameters(), second.network_.get_parameters())


def test_train_writes_figures(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    always = {"kl", "loss", "reconstructions", "samples", "scores"}
    for dims, names in (
        ("2", ["latent", "manifold", "posterior"]),
        ("3", ["interpolations", "latent", "posterior", "traversals"]),
        ("1", ["interpolations", "latent", "posterior", "traversals"]),
    ):
        assert main(["train", "digits", *FAST[:-1], "--latent-dim", dims, "--out", dims]) == 0
        assert set(os.listdir(tmp_path / dims / "figures")) == {f"{name}.png" for name in always.union(names)}
    before = (tmp_path / "2" / "figures" / "loss.png").read_bytes()
    assert main(["plot", "2"]) == 0
    assert (tmp_path / "2" / "figures" / "loss.png").read_bytes() == before


def test_train_without_matplotlib_still_trains_and_says_what_is_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["train", "digits", *FAST[:-1], "--out", "run"]) == 0
    assert 'pip install "minivae[plot]"' in capsys.readouterr().err
    assert main(["plot", "run"]) == 1
    assert 'pip install "minivae[plot]"' in capsys.readouterr().err


def test_train_json_and_progress_go_to_different_streams(capsys):
    assert main(["train", "digits", "--hidden-dims", "8", "--epochs", "2", "--no-figures", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["kept"]["epoch"] == 2 and "epoch    2" in captured.err


def test_options_reach_the_model(capsys):
    options = ["--likelihood", "gaussian", "--sigma", "elementwise", "--activation", "gelu", "--beta", "0.5"]
    options += [
        "--optimizer",
        "sgd",
        "--nesterov",
        "--learning-rate",
        "1e-4",
        "--latent-dim",
        "3",
        "--free-bits",
        "0.1",
    ]
    options += ["--dtype", "float64", "--max-grad-norm", "1", "--schedule", "cosine", "--random-state", "5"]
    assert main(["train", "digits", *FAST, *options, "--out", "run"]) == 0
    vae = VAE.load("run/model.npz")
    assert (vae.sigma, vae.activation, vae.beta, vae.nesterov, vae.latent_dim) == ("elementwise", "gelu", 0.5, True, 3)
    assert (vae.dtype, vae.max_grad_norm, vae.schedule, vae.seed_, vae.free_bits) == ("float64", 1.0, "cosine", 5, 0.1)


def test_every_parameter_of_vae_is_an_option_of_train():
    parser = build_parser()
    known = vars(parser.parse_args(["train", "digits"])).keys()
    skip = {"verbose", "callbacks"}
    for name in VAE().get_params().keys() - skip - known:
        flag = f"--{name.replace('_', '-')}"
        assert flag in parser._subparsers._group_actions[0].choices["train"].format_help(), flag


def test_evaluate_agrees_with_the_estimator(run_folder, capsys, digits):
    """Up to the noise: each row's own there, so that the error of the mean is known; shared here, so that rows compare."""
    assert main(["evaluate", run_folder, "--n-samples", "7", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    vae = VAE.load("run/model.npz")
    for name, values in (
        ("elbo", vae.score_samples(RAW.test, n_draws=500)),
        ("log_likelihood", vae.score_samples(RAW.test, n_samples=7)),
    ):
        assert result[name] == pytest.approx(values.mean(), abs=2 * result[f"{name}_standard_error"])
    assert result["examples"] == 297 and result["elbo"] == pytest.approx(-(result["recon"] + result["kl"]))
    assert main(["evaluate", run_folder, "--n-samples", "2", "--split", "train", "--limit", "10", "--quiet"]) == 0
    assert "10 train examples" in capsys.readouterr().out


def test_evaluate_bounds_log_p_by_annealed_chains(run_folder, capsys):
    command = ["evaluate", run_folder, "--limit", "40", "--ais", "20", "--chains", "4", "--quiet"]
    assert main([*command, "--json"]) == 0
    result, vae = json.loads(capsys.readouterr().out), VAE.load("run/model.npz")
    examples = vae.examples(RAW.test[:40], np.arange(40), None)
    assert result["annealed_log_likelihood"] == annealed.lower_bound(vae.network_, examples, vae.seed_, 20, 4).mean()
    found = annealed.sandwich(vae.network_, 40, vae.seed_, 20, 4)
    assert (result["annealed_gap"], result["annealed_gap_standard_error"]) == (found.gap, found.standard_error)
    assert (result["temperatures"], result["chains"]) == (20, 4)
    assert main(command) == 0
    assert "on 40 simulated rows" in capsys.readouterr().out
    assert main(["evaluate", run_folder, "--ais", "0"]) == 1
    assert "ais must be at least 1, not 0" in capsys.readouterr().err


def test_own_data_hold_out_a_validation_part_that_evaluate_finds_again(capsys, digits):
    np.save("mine.npy", digits[0][:200])
    assert main(["train", "mine.npy", *FAST, "--out", "run"]) == 0
    assert "validation: loss" in capsys.readouterr().out
    assert main(["evaluate", "run", "--split", "validation", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    kept = [record for record in VAE.load("run/model.npz").history_ if record["kept"]][-1]
    # training drew one z for each row, evaluate many for all of them
    assert result["examples"] == 20 and -result["elbo"] == pytest.approx(kept["val_loss"], abs=2)
    assert main(["evaluate", "run", "--split", "test"]) == 1
    assert "has no test part" in capsys.readouterr().err


def test_csv_with_header_trains_gaussian(capsys):
    rng = np.random.default_rng(0)
    np.savetxt("table.csv", rng.normal(size=(80, 3)), delimiter=",", header="a,b,c", comments="")
    assert main(["train", "table.csv", "--likelihood", "gaussian", *FAST, "--out", "run"]) == 0
    assert VAE.load("run/model.npz").n_features_in_ == 3


def test_sample_and_reconstruct_write_arrays_and_figures(run_folder, capsys, digits, tmp_path):
    assert main(["sample", run_folder, "-n", "6", "--out", "s.npy"]) == 0
    np.testing.assert_array_equal(np.load("s.npy"), VAE.load("run/model.npz").sample(6))
    assert main(["reconstruct", run_folder, "-n", "4", "--out", "r.npy"]) == 0
    np.testing.assert_allclose(np.load("r.npy"), VAE.load("run/model.npz").reconstruct(RAW.test[:4]), rtol=1e-6)
    pytest.importorskip("matplotlib", reason="the .png half needs matplotlib")
    assert main(["sample", run_folder]) == 0 and main(["reconstruct", run_folder]) == 0
    assert {"samples.png", "reconstructions.png"} <= set(os.listdir(tmp_path))
    assert main(["sample", run_folder, "--out", "s.exe"]) == 1
    note, error = capsys.readouterr().err.splitlines()  # of the array that they are means, and one line of the error
    assert "--noise draws such rows" in note and error.startswith("minivae: --out s.exe ends in none of")


def test_gradcheck_prints_rows_and_fails_when_a_gradient_is_wrong(capsys, monkeypatch):
    assert main(["gradcheck"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 300 and "0 above the tolerance 1e-07" in lines[-1]

    from minivae.kernels import reference

    monkeypatch.setitem(reference.ACTIVATIONS, "tanh", (reference.tanh, reference.sigmoid_backward))
    assert main(["gradcheck", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    wrong = {row["subject"] for row in rows if not row["passed"]}
    assert "dense_forward tanh" in wrong and all("tanh" in subject for subject in wrong)


def test_data_and_backends_list_what_is_here(capsys):
    assert main(["data", "--json"]) == 0
    assert {row["name"]: row["available"] for row in json.loads(capsys.readouterr().out)}["digits"] is True
    assert main(["backends", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["auto"]] and rows[0]["available"]
    assert main(["data"]) == 0 and main(["backends"]) == 0
    assert "1,500 + 297" in capsys.readouterr().out


def make_bad(name, digits):
    x = digits[0][:50]
    if name == "range":
        np.save("bad.npy", x * 16)
    elif name == "nan":
        np.save("bad.npy", np.where(np.arange(64) == 3, np.nan, x))
    elif name == "empty":
        np.save("bad.npy", x[:0])
    elif name == "shape":
        np.save("bad.npy", x[0])
    elif name == "text":
        np.save("bad.npy", np.array([["a", "b"]]))
    elif name == "pickle":
        np.save("bad.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    elif name == "garbage":
        with open("bad.npy", "wb") as file:
            file.write(b"\x93NUMPY garbage")
    return "missing.npy" if name == "missing" else "bad.npy"


@pytest.mark.parametrize("name", ["range", "nan", "empty", "shape", "text", "pickle", "garbage", "missing"])
def test_bad_data_is_one_line_status_1_and_nothing_is_written_over(name, capsys, digits, tmp_path):
    assert main(["train", "digits", *FAST, "--out", "run"]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    bad = make_bad(name, digits)
    capsys.readouterr()
    assert main(["train", bad, *FAST, "--out", "run", "--overwrite"]) == 1
    captured = capsys.readouterr()
    assert len(captured.err.strip().splitlines()) == 1 and captured.err.startswith("minivae: ")
    assert captured.out == ""
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    # and where there was nothing, there is nothing
    assert main(["train", bad, *FAST, "--out", "fresh"]) == 1
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["range.npy"], "needs data in [0, 1]"),
        (["nan.npy"], "NaN at row 0, column 3"),
        (["digits", "--out", "file/run"], "cannot be written to"),
        (["digits", "--lr", "-1"], "learning_rate"),
        (["digits", "--patience", "2", "--validation-fraction", "0"], "patience needs a held-out part"),
        (["digits", "--batch-size", "0"], "batch_size"),
    ],
)
def test_nothing_is_announced_before_all_is_accepted(arguments, words, capsys, digits, tmp_path):
    np.save("range.npy", 16 * digits[0][:50])
    np.save("nan.npy", np.where(np.arange(64) == 3, np.nan, digits[0][:50]))
    (tmp_path / "file").touch()
    before = sorted(os.listdir())
    assert main(["train", *arguments]) == 1
    said = capsys.readouterr()
    assert words in said.err and len(said.err.splitlines()) == 1 and said.out == ""
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("option", ["--no-header", "--header", "--overwrite", "--drop=a"])
def test_nor_is_an_option_of_a_new_run_where_one_goes_on(option, run_folder, capsys):
    assert main(["train", "--resume", "run", option]) == 1
    assert f"leave {option.partition('=')[0]} out" in capsys.readouterr().err


def test_a_warning_is_one_line_without_its_place(run_folder, capsys, digits):
    np.save("beyond.npy", 1.25 * digits[0][:9])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["score", "run", "beyond.npy"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("X: ") and len(said.splitlines()) == 1


def test_nor_is_a_training_that_cannot_go_on(run_folder, capsys, digits):
    np.save("range.npy", 16 * digits[0][:50])
    assert main(["train", "--resume", "run", "--epochs", "3", "range.npy"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["train", "--resume", "run", "--epochs", "3", "--no-figures"]) == 0
    assert capsys.readouterr().err.startswith("going on with run after 2 of 3 epochs")


def test_a_run_of_an_older_version_has_its_history_in_the_columns_of_the_new_one(run_folder):
    """Records have n_samples since then, between others: lines that are added must fit the head."""
    vae = VAE.load("run/checkpoint.npz")
    before = [record.pop("n_samples") for record in vae.history_]
    training, values = capture(vae.trainer_, np.empty((0, 2 + vae.latent_dim)))
    values["data"] = vae.trained_on_
    persistence.save(vae, "run/checkpoint.npz", run=vae.run_, training=training, values=values)
    assert before == [1, 1]
    options = ["--epochs", "5", "--objective", "iwae", "--n-samples", "3"]
    assert main(["train", "--resume", "run", *options, "--quiet", "--no-figures"]) == 0
    with open("run/history.csv") as file:
        rows = list(csv.DictReader(file))
    history = VAE.load("run/model.npz").history_
    assert [row["n_samples"] for row in rows] == ["", "", "3", "3", "3"] and None not in rows[-1]
    for row, record in zip(rows, history, strict=True):
        assert float(row["test_loss"]) == record["test_loss"] and float(row["kl_1"]) == record["kl_per_dim"][1]


@pytest.mark.parametrize("released", [False, True])
def test_a_history_that_another_program_keeps_open_costs_no_training(released, run_folder, capsys, monkeypatch):
    """As Excel does on Windows, where a file that it shows can be neither written to nor replaced."""
    kept, replace = Path("run/history.csv").read_bytes(), os.replace
    locked = [True]

    def opening(path, mode="r", *rest, **named):
        if locked[0] and str(path).endswith("history.csv") and mode != "r":
            raise PermissionError(13, "Permission denied", str(path))
        return open(path, mode, *rest, **named)

    def replacing(source, target):
        if locked[0] and str(target).endswith("history.csv"):
            raise PermissionError(13, "Permission denied", str(target))
        replace(source, target)

    monkeypatch.setattr(recorder, "open", opening, raising=False)
    monkeypatch.setattr(os, "replace", replacing)
    offer = recorder.Recorder.offer

    def offered(self, vae, trace, moment):
        locked[0] = locked[0] and not (released and len(vae.history_) == 5)
        offer(self, vae, trace, moment)

    monkeypatch.setattr(recorder.Recorder, "offer", offered)
    assert main(["train", "--resume", "run", "--epochs", "8", "--quiet", "--no-figures"]) == 0
    said = capsys.readouterr().err
    assert said.count("history.csv cannot be written (") == said.count("close the program that has it open") == 1
    assert len(said.splitlines()) == 1
    vae = VAE.load("run/model.npz")
    assert len(vae.history_) == 8 and vae.stopped_ == "" and VAE.load("run/checkpoint.npz").trainer_.epoch == 8
    with open("run/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert Path("run/history.csv").read_bytes() == kept if not released else len(rows) == 8
    assert sorted(os.listdir("run")) == ["checkpoint.npz", "config.json", "history.csv", "model.npz"]


def test_an_existing_run_is_not_written_over(run_folder, capsys, tmp_path):
    before = (tmp_path / "run" / "model.npz").read_bytes()
    assert main(["train", "digits", *FAST, "--out", run_folder]) == 1
    assert "already holds a model; choose another --out or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.npz").read_bytes() == before


def test_a_diverging_run_says_so(capsys):
    assert main(["train", "digits", *FAST, "--optimizer", "sgd", "--learning-rate", "1e8", "--out", "run"]) == 1
    assert "first array holding a NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "there is no model at nowhere"),
        (["plot", "nowhere"], "there is no model at nowhere"),
        (["data", "cifar"], "'cifar' is not a named dataset"),
        (["train", "digits", "--image-shape", "9", "9"], "does not hold the 64 columns"),
        (["train", "digits", "--image-shape", "-8", "-8"], "does not hold the 64 columns"),
        (["train", "digits", "--sigma", "big", "--likelihood", "gaussian"], "sigma must be a positive number"),
        pytest.param(
            ["train", "digits", "--backend", "cupy"],
            "backend 'cupy' cannot be used",
            marks=pytest.mark.skipif(availability("cupy")[0], reason="this machine has a GPU"),
        ),
    ],
)
def test_other_mistakes_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_usage_errors_exit_2_and_debug_shows_the_traceback(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "digits", "--activation", "swish"])
    assert caught.value.code == 2 and "swish" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "nowhere", "--debug"])


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "sample", "reconstruct", "plot", "gradcheck", "data", "backends"]
)
def test_every_command_has_a_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert caught.value.code == 0 and f"example:\n  minivae {command}" in out


def test_what_a_run_writes_grows_as_its_epochs(monkeypatch):
    """The model holds the history: written after every epoch, four times the epochs were nearly sixteen times the bytes."""
    written = []
    save = VAE.save
    monkeypatch.setattr(VAE, "save", lambda vae, path: (save(vae, path), written.append(os.path.getsize(path))))
    spent = {}
    for epochs in (300, 1200):
        written.clear()
        tiny = ["--hidden-dims", "1", "--latent-dim", "1", "--batch-size", "2000", "--no-figures", "--quiet"]
        assert main(["train", "digits", *tiny, "--epochs", str(epochs), "--out", f"run-{epochs}"]) == 0
        spent[epochs] = sum(written) + os.path.getsize(f"run-{epochs}/history.csv")
        with open(f"run-{epochs}/history.csv") as file:
            rows = list(csv.DictReader(file))
        history = VAE.load(f"run-{epochs}/model.npz").history_
        assert [float(row["loss"]) for row in rows] == [record["loss"] for record in history] and len(rows) == epochs
    assert spent[1200] < 5 * spent[300]


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to a child process")
def test_ctrl_c_keeps_the_model_and_exits_130(tmp_path, ctrl_c):
    command = [sys.executable, "-m", "minivae.app.cli", "train", "digits", "--hidden-dims", "64", "--epochs", "100000"]
    with subprocess.Popen(
        [*command, "--out", "run", "--no-figures"], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run" / "history.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err.decode()
    assert b"interrupted by Ctrl-C" in err and b"Traceback" not in err and b"model.npz" in out
    assert len(VAE.load(tmp_path / "run" / "model.npz").history_) >= 1


@pytest.mark.skipif(os.name != "posix", reason="uses a pipe that closes early")
def test_a_closed_pipe_is_no_traceback():
    script = f"{sys.executable} -m minivae.app.cli gradcheck | head -n 1"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "dense_forward identity" in result.stdout and "Traceback" not in result.stderr


# ---- What is held out, and what is said about it


def test_patience_on_a_dataset_with_a_test_part_leaves_that_part_alone(capsys):
    assert main(["train", "digits", *FAST, "--patience", "2", "--out", "run"]) == 0
    vae = VAE.load("run/model.npz")
    assert vae.held_rows_.size == 150 and "val_loss" in vae.history_[0] and "test_loss" not in vae.history_[0]
    assert main(["train", "digits", *FAST, "--patience", "2", "--validation-fraction", "0", "--out", "b"]) == 1
    assert "patience needs a held-out part" in capsys.readouterr().err


def test_the_report_is_of_the_epoch_that_is_kept(capsys, digits):
    np.save("mine.npy", digits[0][:200])
    assert main(["train", "mine.npy", *FAST, "--validation-fraction", "0", "--out", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"]["epoch"] == 2


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_evaluate_finds_the_held_out_rows_and_binarizes_them_as_score_does_of_these_rows_alone(
    binarize, capsys, digits
):
    np.save("mine.npy", digits[0][:200])
    assert main(["train", "mine.npy", *FAST, "--binarize", binarize, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--split", "validation", "--json", "--quiet", "--n-samples", "1"]) == 0
    vae, result = VAE.load("run/model.npz"), json.loads(capsys.readouterr().out)
    kept = [record for record in vae.history_ if record["kept"]][-1]
    _, kl = scores.elbo_terms(vae.network_, vae.examples(np.load("mine.npy")[vae.held_rows_[::-1]]), vae.seed_)
    assert result["kl"] == pytest.approx(kl.mean(), rel=1e-6)  # which has no noise but that of the pixels
    assert -result["elbo"] == pytest.approx(kept["val_loss"], abs=2)  # other draws of the same pixels
    np.save("mine.npy", digits[0][:50])
    assert main(["evaluate", "run", "--split", "validation"]) == 1
    assert "has 50 rows, fewer than when" in capsys.readouterr().err


def test_a_file_on_disk_is_not_copied_for_a_few_of_its_rows(capsys, digits, monkeypatch):
    np.save("mine.npy", digits[0])
    assert main(["train", "mine.npy", *FAST, "--out", "run"]) == 0
    taken, examples = [], VAE.examples
    monkeypatch.setattr(VAE, "examples", lambda vae, X, rows, y: taken.append((X, rows)) or examples(vae, X, rows, y))
    assert main(["evaluate", "run", "--split", "train", "--limit", "7", "--n-samples", "1", "--quiet"]) == 0
    ((X, rows),) = taken
    assert isinstance(X, np.memmap) and len(X) == 1500
    held_rows = VAE.load("run/model.npz").held_rows_
    np.testing.assert_array_equal(rows, np.setdiff1d(np.arange(1500), held_rows)[:7])


def test_training_loads_its_data_once(capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="the second time was for figures")
    from minivae.app import runs, train

    loaded = []
    for module in (train, runs):
        monkeypatch.setattr(module, "load_dataset", lambda *a, **k: loaded.append(a) or load_dataset(*a, **k))
    assert main(["train", "digits", *FAST[:-1], "--out", "run"]) == 0
    assert len(loaded) == 1


def test_evaluate_on_other_data_takes_its_test_part(run_folder, capsys, digits):
    assert main(["evaluate", run_folder, "--data", "digits", "--n-samples", "1", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["data"], result["split"], result["examples"]) == ("digits", "test", 297)
    np.save("mine.npy", digits[0][:30])
    assert main(["evaluate", run_folder, "--data", "mine.npy", "--n-samples", "1", "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["data"], result["split"], result["examples"]) == ("mine.npy", "all", 30)


def test_overwrite_removes_the_figures_of_the_old_model_and_nothing_else(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    assert main(["train", "digits", *FAST[:-1], "--out", "run"]) == 0
    (tmp_path / "run" / "figures" / "mine.png").write_bytes(b"mine")
    assert main(["train", "digits", *FAST[:-1], "--latent-dim", "3", "--out", "run", "--overwrite"]) == 0
    names = set(os.listdir(tmp_path / "run" / "figures"))
    assert "manifold.png" not in names and {"traversals.png", "mine.png"} < names
    assert main(["train", "digits", *FAST, "--out", "run", "--overwrite"]) == 0
    assert os.listdir(tmp_path / "run" / "figures") == ["mine.png"]
    assert main(["plot", "run"]) == 0 and len(os.listdir(tmp_path / "run" / "figures")) == 9
    assert main(["train", "--resume", "run", "--epochs", "3", "--quiet", "--no-figures"]) == 0
    assert os.listdir(tmp_path / "run" / "figures") == ["mine.png"]  # the others showed the model of two epochs


@pytest.mark.skipif(os.name != "posix", reason="closes standard streams as a shell does")
def test_a_closed_standard_error_is_not_the_number_of_a_file(tmp_path):
    """What C code writes there would stand in a model."""
    script = "import os; from minivae.app.cli import main; main(['backends'])"
    script += "; print(os.path.samestat(os.fstat(2), os.stat(os.devnull)))"
    command = f'exec "{sys.executable}" -c "{script}" 2>&-'
    assert subprocess.run(command, shell=True, capture_output=True, text=True).stdout.splitlines()[-1] == "True"


def test_train_says_what_it_will_do_before_it_does(capsys, monkeypatch):
    monkeypatch.setattr(Trainer, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["train", "digits", "--epochs", "3"]) == 130
    said = capsys.readouterr().err
    for words in ("64-256-128-2 relu", "99,908 parameters", "1,500 rows", "test part of 297 rows", "runs/digits"):
        assert words in said
    assert (
        "recipe for digits, over which options win: --batch-size 32 --learning-rate 0.002 --schedule cosine\n" in said
    )  # epochs were given
    assert main(["train", "digits", "--patience", "3"]) == 130
    said = capsys.readouterr().err
    assert "1,350 rows" in said and "150 rows are held out" in said and "the test part is not touched" in said
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "digits: --batch-size 32 --epochs 100 --learning-rate 0.002 --schedule cosine" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["16,8"], ["16", "8"], ["16, 8"], ["16,", "8"]])
def test_hidden_dims_with_commas_or_spaces(words):
    assert build_parser().parse_args(["train", "digits", "--hidden-dims", *words]).hidden_dims == (16, 8)


def test_hidden_dims_may_be_empty_and_must_be_numbers(capsys):
    assert build_parser().parse_args(["train", "digits", "--hidden-dims"]).hidden_dims == ()
    with pytest.raises(SystemExit):
        main(["train", "digits", "--hidden-dims", "a,b"])


def test_a_figure_that_shows_less_than_was_asked_for_says_so(run_folder, capsys):
    pytest.importorskip("matplotlib", reason="figures need matplotlib")
    assert main(["reconstruct", run_folder, "-n", "100"]) == 0
    assert "reconstructions.png shows the first 30 of 100; end --out in .csv for all" in capsys.readouterr().err
    assert main(["reconstruct", run_folder, "-n", "30"]) == 0
    assert capsys.readouterr().err == ""


def test_gradcheck_of_all_backends_names_those_it_skips(capsys, monkeypatch):
    from minivae.app import commands

    monkeypatch.setattr(commands, "availability", lambda name: (name == "numpy", "it is not here"))
    assert main(["gradcheck", "--backend", "all", "--json"]) == 0
    captured = capsys.readouterr()
    assert "cupy is skipped: it is not here" in captured.err and "numpy is skipped" not in captured.err
    assert {row["backend"] for row in json.loads(captured.out)["rows"]} == {"numpy"}


def test_evaluate_tests_the_calibration_of_simulated_rows(run_folder, capsys):
    pytest.importorskip("scipy", reason="the p-values are SciPy's")
    command = ["evaluate", run_folder, "--limit", "40", "--calibration", "100", "--quiet"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    p = [found[f"calibration_p_z{j + 1}"] for j in range(found["latent_dim"])]
    assert all(0 <= value <= 1 for value in p) and found["calibration_p"] == min(1, len(p) * min(p))
    assert main(command) == 0
    assert "ranks of z among 19 of 100 draws, on 100 simulated rows" in capsys.readouterr().out
    assert main([*command[:-2], "99"]) == 1
    assert "20 bins of ranks need at least 100 simulated rows, not 99" in capsys.readouterr().err


def test_gradcheck_in_long_double_is_numpys_alone_and_says_so(capsys, monkeypatch):
    if np.finfo(np.longdouble).eps >= np.finfo(np.float64).eps:
        pytest.skip("long double is float64 on this system")
    from minivae import proof

    monkeypatch.setattr(proof, "model_rows", lambda kernels, dtype: iter(()))
    assert main(["gradcheck", "--backend", "all", "--dtype", "longdouble"]) == 0
    captured = capsys.readouterr()
    assert "numba is skipped: it has no long double" in captured.err and "cupy is skipped" in captured.err
    assert "gradients checked in longdouble" in captured.out and "above the tolerance 1e-11" in captured.out
    assert main(["gradcheck", "--backend", "numba", "--dtype", "longdouble"]) == 1
    assert "no backend is left to check; --dtype longdouble needs --backend numpy" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1, 2]", "3", "null", '{"data": 3}', '{"image_shape": 8}'])
def test_a_config_that_train_did_not_write_is_one_line(run_folder, text, capsys, tmp_path):
    VAE.load(tmp_path / "run" / "model.npz").save(
        tmp_path / "run" / "model.npz"
    )  # a model alone, as older versions wrote it
    (tmp_path / "run" / "config.json").write_text(text)
    assert main(["evaluate", run_folder]) == 1
    error = capsys.readouterr().err
    assert "config.json is not what train writes" in error and len(error.strip().splitlines()) == 1


def test_ctrl_c_while_starting_up_is_no_traceback():
    code = """
import builtins, sys
from minivae.app.cli import main
assert "numpy" not in sys.modules
def interrupted(name, *rest, inner=builtins.__import__):
    if name == "numpy":
        raise KeyboardInterrupt
    return inner(name, *rest)
builtins.__import__ = interrupted
sys.exit(main(["data"]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 130 and result.stderr == "minivae: interrupted\n"
