"""What follows the number of rows where nothing is given, and what a history says of its training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_checkpoints import Killed, Often, assert_same, killed_and_resumed

from minivae import VAE, settings
from minivae.app.cli import main
from minivae.app.runs import going_on
from minivae.app.train import RECIPES
from minivae.evaluation import scores
from minivae.settings import checked_settings, held_fraction, resolved
from minivae.storage.modelfile import ModelFileError
from minivae.verdict import kept_record, verdict

X = np.random.default_rng(0).random((60, 5), np.float32)
SMALL = {"hidden_dims": (4,), "backend": "numpy", "random_state": 0}


def chosen(rows, watched=True, before=None, **given):
    found = resolved(checked_settings(VAE(**given)), rows, watched, before)
    return found["batch_size"], found["epochs"], found["patience"]


# ---- Numbers


@pytest.mark.parametrize(
    ("rows", "watched", "unwatched"),
    (
        (1, (16, 25_000, 1000), (16, 2000, None)),
        (2, (16, 25_000, 1000), (16, 2000, None)),
        (15, (16, 25_000, 1000), (16, 2000, None)),
        (16, (16, 25_000, 1000), (16, 2000, None)),
        (135, (16, 2778, 112), (16, 223, None)),
        (200, (16, 1924, 77), (16, 154, None)),
        (1797, (64, 863, 35), (64, 69, None)),
        (60_000, (128, 54, 10), (128, 20, None)),
        (10_000_000, (128, 1, 10), (128, 1, None)),
    ),
)
def test_batches_and_epochs_follow_the_rows(rows, watched, unwatched):
    assert chosen(rows) == watched and chosen(rows, watched=False) == unwatched


def test_what_is_given_wins_and_a_schedule_or_a_warm_up_has_its_epochs():
    assert chosen(200, batch_size=200, epochs=3) == (200, 3, None)
    assert chosen(200, batch_size=100) == (100, 12_500, 500)
    assert chosen(200, epochs=3) == (16, 3, None)
    assert chosen(200, patience=5) == (16, 1924, 5)
    for schedule in ({"schedule": "cosine"}, {"kl_cycles": 4, "kl_warmup": 1.0}):
        _, epochs, patience = chosen(200, **schedule)
        assert 154 <= epochs <= 155 and patience is None
    assert chosen(200, kl_warmup=9.5, lr_warmup=2.0) == (16, 1924 + 10, 77 + 10)
    assert chosen(200, kl_warmup=1e300) == (16, 2 * 1924, 77 + 1924)  # and the training ends


def test_what_goes_on_keeps_its_numbers():
    before = {"batch_size": 7, "epochs": 40, "patience": 6}
    assert chosen(60_000, before=before) == (7, 40, 6)
    assert chosen(60_000, before=before, epochs=50) == (7, 50, None)
    assert chosen(60_000, before=before, patience=9) == (7, 40, 9)


@pytest.mark.parametrize(("rows", "held"), ((1, 0), (2, 0), (5, 0), (6, 1), (15, 2), (200, 20)))
def test_a_tenth_is_held_out_where_that_is_a_row(rows, held):
    assert round(rows * held_fraction(checked_settings(VAE()), False, rows)) == held


@pytest.fixture
def shorter(monkeypatch):
    monkeypatch.setattr(settings, "LONGEST", 160)
    monkeypatch.setattr(settings, "PATIENCE", 12)


def test_the_parameters_stay_none_and_the_fitted_model_and_its_file_have_numbers(shorter, tmp_path, capsys):
    vae = VAE(**SMALL, verbose=1).fit(X)
    assert vae.get_params()["epochs"] is None and vae.get_params()["batch_size"] is None
    assert [vae.settings_[n] for n in ("batch_size", "epochs", "patience")] == [16, 40, 10]
    assert "batches of 16, at most 40 epochs, or until 10 in a row bring no better held-out" in capsys.readouterr().err
    vae.save(tmp_path / "m.npz")
    again = VAE.load(tmp_path / "m.npz")
    assert (again.batch_size, again.epochs, again.patience) == (None, None, None)  # other rows, other numbers
    assert [again.settings_[n] for n in ("batch_size", "epochs", "patience")] == [16, 40, 10]
    assert again.set_params(epochs=1, verbose=0).fit(np.repeat(X, 100, axis=0)).settings_["batch_size"] == 128
    vae.settings_["epochs"] = None  # as no version writes it
    vae.save(tmp_path / "m.npz")
    with pytest.raises(ModelFileError, match="epochs and batch_size are no numbers"):
        VAE.load(tmp_path / "m.npz")


def test_pieces_follow_the_first_one():
    vae = VAE(**SMALL).partial_fit(X[:1]).partial_fit(np.repeat(X, 20, axis=0))
    assert vae.settings_["batch_size"] == 16 and vae.settings_["epochs"] == 2000


def test_python_and_the_command_line_choose_alike(shorter, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    run = tmp_path / "run"
    command = ["train", str(tmp_path / "x.npy"), "--hidden-dims", "4", "--backend", "numpy", "--no-figures", "--json"]
    assert main([*command, "--out", str(run)]) == 0
    expected, told = VAE(**SMALL).fit(X), capsys.readouterr()
    assert json.loads((run / "config.json").read_text())["settings"]["epochs"] == 40
    found = VAE.load(run / "model.npz", backend="numpy")
    names = ("batch_size", "epochs", "patience", "validation_fraction")
    assert [found.settings_[n] for n in names] == [expected.settings_[n] for n in names]
    np.testing.assert_array_equal(found.network_.get_parameters(), expected.network_.get_parameters())
    assert "6 rows are held out" in told.err and told.err.count("batches of 16, at most 40 epochs") == 1


def test_a_part_to_choose_the_end_by_is_held_out_unless_the_epochs_are_given(shorter, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "digits", {})
    command = ["train", "digits", "--hidden-dims", "4", "--backend", "numpy", "--no-figures", "--json"]
    for number, (options, part) in enumerate((([], "val"), (["--epochs", "2"], "test"))):
        assert main([*command, *options, "--out", str(tmp_path / str(number))]) == 0
        assert f"{part}_loss" in json.loads(capsys.readouterr().out)["kept"]


def test_an_automatic_end_is_the_same_from_every_moment(shorter, tmp_path, monkeypatch):
    given = SMALL | {"learning_rate": 0.1}
    whole = Often(tmp_path / "whole.npz")
    expected = VAE(**given).fit(X, checkpoint=whole)
    assert expected.stopped_.startswith("no better val_loss for 10 epochs") and len(expected.history_) < 40
    for offers in range(1, len(whole.moments), 7):
        assert_same(killed_and_resumed(given, tmp_path / "cut.npz", offers, X), expected)
    with pytest.raises(Killed):
        VAE(**given).fit(X, checkpoint=Often(tmp_path / "cut.npz", 9))
    monkeypatch.setattr(settings, "LONGEST", 80)  # another version's rule changes nothing that has begun
    monkeypatch.setattr(settings, "PATIENCE", 1000)
    told = VAE.load(tmp_path / "cut.npz", backend="numpy").set_params(epochs=None, batch_size=None, patience=None)
    assert_same(told.fit(X, resume=True), expected)


def test_patience_cannot_begin_where_nothing_is_held_out(tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    command = ["train", str(tmp_path / "x.npy"), "--hidden-dims", "4", "--backend", "numpy", "--no-figures", "--json"]
    assert main([*command, "--epochs", "2", "--validation-fraction", "0", "--out", str(tmp_path / "run")]) == 0
    assert main(["train", "--resume", str(tmp_path / "run"), "--epochs", "4", "--patience", "2"]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith("this training holds no rows out for patience to watch; leave patience out, or train anew")


def test_a_file_of_an_older_version_has_its_numbers():
    vae = VAE.load(Path(__file__).parent / "golden" / "model_v1.npz", backend="numpy")
    assert type(vae.epochs) is int and type(vae.batch_size) is int and vae.patience is None
    before = vae.settings_
    vae.set_params(epochs=None, batch_size=None).partial_fit(np.zeros((1, vae.n_features_in_)), "a")
    assert vae.settings_["epochs"] == before["epochs"] and vae.settings_["batch_size"] == before["batch_size"]


# ---- What a history says


def history(losses, name="val_loss", training=None, beta=1.0, active=2):
    """Records as training writes them, with the best epoch kept, or the last where the part chooses nothing."""
    training, best, records = losses if training is None else training, np.inf, []
    for epoch, (loss, fitted) in enumerate(zip(losses, training), 1):
        kept = name != "val_loss" or loss < best
        best = min(best, loss)
        records.append({"epoch": epoch, "loss": fitted, "kept": kept, "beta": beta, "active_units": active})
        records[-1] |= {name: loss} if name else {}
    return records


NOISE = np.random.default_rng(0).normal(size=(50, 400))
T = np.arange(400)
FALLING, LEVEL = 100 - T / 10, 60 + 40 * np.exp(-T / 20)
TURNED = LEVEL + np.maximum(0, T - 100) / 10


@pytest.mark.parametrize("noise", (0, 0.1, 1.0))
@pytest.mark.parametrize("name", ("val_loss", "test_loss"))
@pytest.mark.parametrize(
    ("losses", "word"),
    ((FALLING, "falling"), (LEVEL, "level"), (TURNED, "overfitting")),
    ids=("falls", "level", "turned"),
)
def test_a_curve_has_its_word_whatever_its_noise(losses, word, name, noise):
    for draw in NOISE:
        assert verdict(history(losses + noise * draw, name, LEVEL - T / 100), 2)[0] == word


def test_noise_alone_never_says_train_on_nor_overfitting():
    words = [verdict(history(60 + draw[:n], training=60 - T[:n]), 2)[0] for draw in NOISE for n in (16, 50, 100, 400)]
    assert words.count("falling") + words.count("overfitting") <= 0.05 * len(words)


@pytest.mark.parametrize("losses", ([], [5.0]))
@pytest.mark.parametrize("name", ("val_loss", "test_loss"))
def test_one_epoch_says_nothing(losses, name):
    assert verdict(history(losses, name), 2) == ("unknown", [])


def test_without_a_part_to_look_at_nothing_is_said():
    assert verdict(history(FALLING, name=None), 2) == ("unknown", [])
    gone_on = [*history(FALLING), history([3.0], name=None)[0]]  # fit, then partial_fit
    assert verdict(gone_on, 2) == ("unknown", [])


def test_the_words_name_the_epochs_and_the_way_on():
    assert verdict(history([200, 150]), 2, train_on="`go --epochs {}`".format)[1] == [
        "the held-out loss was still falling at the last epoch, 2: `go --epochs 4`"
    ]
    lines = verdict(history(TURNED, training=LEVEL - T / 100), 2)[1]
    assert lines[0] == "the held-out loss stopped falling at epoch 101; epoch 101 of 400 is kept"
    assert "overfitting" in lines[1] and len(lines) == 2
    assert verdict(history(TURNED, training=TURNED), 2)[0] == "level"  # the training loss rose as well
    assert verdict(history(TURNED, "test_loss", LEVEL - T / 100), 2)[1][0] == (
        "the test loss stopped falling at epoch 101; epoch 400 of 400 is kept"
    )
    assert verdict(history(LEVEL), 2)[1] == ["the held-out loss hardly falls any more; epoch 400 of 400 is kept"]


def test_patience_has_the_last_word_and_another_beta_begins_anew():
    assert verdict(history(FALLING), 2, stopped="no better val_loss for 3 epochs")[0] == "level"
    cheap, dear = history(LEVEL - 30), history(FALLING)  # resumed with another beta: losses mean something else
    again = [record | {"epoch": 400 + record["epoch"]} for record in dear]
    assert verdict(cheap + again, 2)[0] == "falling"
    # the same loss of other samples lies lower at once, and says nothing of the epochs before
    level, before = history(LEVEL[80:], "test_loss"), history(LEVEL, "test_loss")
    tighter = [record | {"n_samples": 5, "test_loss": record["test_loss"] - 3} for record in level]
    assert verdict(before + tighter, 2) == verdict(tighter, 2) != verdict(before + level, 2)
    assert verdict([record | {"n_samples": 1} for record in before] + level, 2) == verdict(before + level, 2)
    annealed = history(TURNED, training=LEVEL - T / 100)
    for record in annealed[300:]:
        record["beta"] = 0.5  # a cycle: what rises is the KL
    assert verdict(annealed, 2)[0] == "level"


@pytest.mark.parametrize(
    ("active", "said"), ((0, False), (1, False), (2, True), (5, True), (15, True), (16, False), (20, 0))
)
def test_unused_latents_are_said_unless_it_is_a_collapse_or_hardly_one(active, said):
    lines = [line for line in verdict(history(LEVEL, active=active), 20)[1] if "latents" in line]
    assert bool(lines) == said
    assert not said or lines[0].startswith(
        f"{active} of 20 latents are used, and the others do no harm: latent_dim={active}"
    )


@pytest.mark.parametrize("options", ([], ["--json"]))
def test_the_report_says_it(options, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    run = str(tmp_path / "a run {}")
    command = ["train", str(tmp_path / "x.npy"), "--hidden-dims", "4", "--backend", "numpy", "--no-figures", "--quiet"]
    assert main([*command, "--epochs", "3", "--out", run, *options]) == 0
    told = capsys.readouterr().out
    command = going_on(run, "--epochs", "6")  # quoted as the shell needs it
    line = f"the held-out loss was still falling at the last epoch, 3: {command} trains on"
    if options:
        assert json.loads(told)["verdict"] == "falling" and json.loads(told)["advice"] == [line]
    else:
        assert line in told.splitlines()


def test_a_fit_that_may_speak_says_it(capsys):
    VAE(**SMALL, epochs=3, verbose=1).fit(X)
    assert "was still falling at the last epoch, 3: train on, with epochs=6" in capsys.readouterr().err


def test_the_kept_loss_is_that_of_the_kept_model():
    """The best of hundreds of epochs by one draw a row is a lucky one: by 0.8 nats here, where 16 leave 0.1."""
    wine = pytest.importorskip("sklearn.datasets", reason="its wine is the data").load_wine().data
    vae = VAE(likelihood="gaussian", standardize=True, epochs=250, random_state=1).fit(wine)
    recon, kl, *_ = scores.bounds(vae.network_, vae.examples(wine, vae.held_rows_), n_samples=200, seed=0)
    assert kept_record(vae.history_)["val_loss"] == pytest.approx((recon + kl).mean(), abs=0.3)
