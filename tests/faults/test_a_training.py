"""A training through `minivae train`, in this process: killed, without power, or with a disk that fails, at any call."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal

import numpy as np
import pytest

from faults.disk import ERRORS, Disk, Killed, files, materialise
from minivae import VAE
from minivae.app import train
from minivae.app.cli import main
from minivae.app.recorder import Recorder
from minivae.app.runs import open_run
from minivae.parameters import views
from minivae.storage import checkpoints
from minivae.storage.durable import write_atomically
from minivae.storage.folders import CHECKPOINT, CONFIG, HISTORY, LOCK, MODEL, NEW, Folder
from minivae.trouble import at_once

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
TRAIN = [
    "train",
    "tiny.npy",
    "--hidden-dims",
    "4",
    "--epochs",
    "3",
    "--batch-size",
    "20",
    "--backend",
    "numpy",
    "--quiet",
]
BEST = [*TRAIN, "--validation-fraction", "0.3", "--learning-rate", "0.1"]  # the last epoch is not the best one
OTHER = [*TRAIN, "--latent-dim", "3", "--epochs", "2", "--random-state", "5"]
TIMES = ("seconds", "examples_per_second")


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch, tmp_path_factory):
    prepare(tmp_path, monkeypatch)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("aside")))  # of models saved where they can be


def prepare(folder, monkeypatch):
    """An empty folder with data, a checkpoint after every step, and figures that cost nothing."""
    monkeypatch.chdir(folder)
    np.save("tiny.npy", np.random.default_rng(0).random((60, 6)).astype(np.float32))
    monkeypatch.setattr(checkpoints, "SECONDS", -1.0)
    monkeypatch.setattr(checkpoints, "SHARE", np.inf)
    monkeypatch.setattr(train, "figures", figures)


def figures(run, dataset, folder):
    folder.mkdir(parents=True, exist_ok=True)
    text = np.round(run.vae.history_[-1]["loss"], 3).tobytes()
    names = ("loss", "samples") if run.vae.latent_dim == 2 else ("loss", "traversals")
    for name in names:
        write_atomically(folder / f"{name}.png", lambda file: file.write(text))
    return [folder / f"{name}.png" for name in names]


def what_is_in(folder):
    """Everything about a run but how long it took: the arrays, epochs and states in its files, and its figures."""
    found = {name: content for name, content in files(folder).items() if name.startswith("figures/")}
    for name in (MODEL, CHECKPOINT):
        with np.load(folder / name) as file:
            found |= {f"{name} {n}": file[n].tobytes() for n in file.files if n not in (CONFIG, "history", "sha256")}
    vae = VAE.load(folder / MODEL, backend="numpy")
    found["history"] = [{n: v for n, v in record.items() if n not in TIMES} for record in vae.history_]
    found["settings"], found["run"] = vae.settings_, vae.run_ | {"id": ""}
    with open(folder / HISTORY) as file:
        rows = list(csv.DictReader(file))
    found["csv"] = [{n: v for n, v in row.items() if n not in TIMES} for row in rows]
    found["config"] = json.loads((folder / CONFIG).read_text()) | {"data": "", "run": ""}
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A folder with trainings that nothing disturbed, best and other, and what is in them."""
    folder, found = tmp_path_factory.mktemp("undisturbed"), {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        prepare(folder, monkeypatch)
        for name, options in {"best": BEST, "other": OTHER}.items():
            assert main([*options, "--out", name]) == 0
            found[name] = what_is_in(folder / name)
    kept = [record["kept"] for record in found["best"]["history"]]
    assert True in kept and not kept[-1]
    return folder, found


@pytest.fixture
def ended(undisturbed):
    return undisturbed[1]


@pytest.fixture
def old_run(undisturbed, tmp_path):
    """runs/run, which is to be written over."""
    shutil.copytree(undisturbed[0] / "best", tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def go_on(folder, options):
    """What a user does after a kill: --resume where there is a checkpoint, else the same command again."""
    there = any((folder / place / CHECKPOINT).exists() for place in ("", NEW))
    assert main(["train", "--resume", str(folder), "--quiet"] if there else [*options, "--out", str(folder)]) == 0


def killed(at, folder, arguments):
    """Whether the training was killed at this call, below this folder, or came to its end before."""
    with Disk(folder, lambda i, *_: Killed() if i == at else None) as disk:
        try:
            assert main(arguments) == 0
        except Killed:
            return True
    return at < len(disk.calls)


def moments(rng, step=None):
    """Numbers of calls, from the first on: each where MINIVAE_TRIALS is large, else some of them."""
    at, step = 0, step or max(1, 40 // TRIALS)
    while True:
        yield at
        at += rng.randint(1, 2 * step - 1)


def test_a_training_killed_at_any_call_and_resumed_ends_bit_for_bit_as_one_that_was_not(tmp_path, ended):
    kills, rng = 0, random.Random(0)
    for at in moments(rng):
        run = tmp_path / f"killed-{at}"
        if not killed(at, tmp_path, [*BEST, "--out", run.name]):
            break
        kills += 1
        if at % 2 and (run / CHECKPOINT).exists():  # who resumes is killed as well
            kills += killed(rng.randrange(60), tmp_path, ["train", "--resume", run.name, "--quiet"])
        go_on(run, BEST)
        assert what_is_in(run) == ended["best"], at
        assert not list(run.rglob(".*")), at
        shutil.rmtree(run)
    assert kills > 7


def test_overwrite_killed_at_any_call_leaves_the_old_run_until_the_new_one_is_there(tmp_path, old_run, ended, capsys):
    states, before = [], {("figures", None), *files(old_run).items()}
    with Disk(tmp_path) as disk:
        assert main([*OTHER, "--overwrite", "--out", "runs/run"]) == 0
    calls = len(disk.calls)  # the last of them move the new run up
    for at in sorted({*range(0, calls, max(1, 40 // TRIALS)), *range(calls - 24, calls + 1, 3)}):
        materialise(before, old_run)
        if not killed(at, tmp_path, [*OTHER, "--overwrite", "--out", "runs/run"]):
            break
        vae = open_run(old_run).vae
        is_new = vae.settings_["latent_dim"] == 3
        name = "other" if is_new else "best"
        assert parameters(vae) == {n: v for n, v in ended[name].items() if n in parameters(vae)}
        states.append(is_new)
        if (old_run / NEW / CHECKPOINT).exists():
            assert what_is_in(old_run) == ended["best"] and not is_new
            assert main(["train", "--resume", "runs/run", "--quiet"]) == 0
            assert what_is_in(old_run) == ended["other"], at
        else:  # the next to write, here one that is refused, finishes what was begun
            capsys.readouterr()
            assert main([*TRAIN, "--out", "runs/run"]) == 1
            assert "already holds a model" in capsys.readouterr().err
            assert what_is_in(old_run) == ended[name], at
        assert {p.name for p in old_run.iterdir()} <= {MODEL, CHECKPOINT, HISTORY, CONFIG, "figures", NEW}
    assert states == sorted(states) and set(states) == {False, True} and len(states) > 8


def parameters(vae):
    """As what_is_in names them."""
    arrays = views(vae.network_.get_parameters(), vae.network_.layout)
    return {f"{MODEL} {name}": array.tobytes() for name, array in arrays.items()}


def test_a_loss_of_power_leaves_what_was_saved(tmp_path, ended, monkeypatch):
    """Of a first run: each file is one that was written whole, and no older than when a save returned last."""
    rng, save_all = random.Random(0), Recorder.save_all
    promises = [{}]
    with Disk(tmp_path) as disk, monkeypatch.context() as watch:

        def promise(names):
            paths = {name: tmp_path / "runs" / "first" / name for name in names}
            promises.append({name: path.read_bytes() for name, path in paths.items() if path.exists()})
            disk.mark(len(promises) - 1)

        def save(recorder, vae):
            save_all(recorder, vae)
            promise((MODEL, CHECKPOINT))

        def files_of(vae, path, *rest, **more):
            saved(vae, path, *rest, **more)
            versions[path.name].append(path.read_bytes())

        versions, saved = {MODEL: [b""], CHECKPOINT: [b""]}, checkpoints.persistence.save
        watch.setattr(checkpoints.persistence, "save", files_of)
        watch.setattr(Recorder, "save_all", save)
        assert main([*BEST, "--no-figures", "--out", "runs/first"]) == 0
        promise((MODEL, CHECKPOINT, HISTORY, CONFIG))
    states = list(disk.losses(rng))
    for state, number in states:
        promised = promises[number or 0]
        found = {path.removeprefix("runs/first/"): content for path, content in state}
        for name, known in versions.items():
            least = known.index(promised.get(name, b""))
            assert found.get(name, b"") in known[least:], (name, least)
        assert found.get(CONFIG) in (None, promises[-1][CONFIG])
        if promised is promises[-1]:
            assert found.items() >= promised.items()
    assert len(states) > 100
    monkeypatch.chdir(tmp_path)
    wanted = {name: content for name, content in ended["best"].items() if "figures/" not in name}
    for state, _ in rng.sample(states, 3 * TRIALS):
        run = {(path.removeprefix("runs/"), content) for path, content in state if path.startswith("runs/")}
        materialise(run, tmp_path / "runs")
        go_on(tmp_path / "runs" / "first", BEST)
        assert what_is_in(tmp_path / "runs" / "first").items() >= wanted.items()


def disturbed(fails, arguments, tmp_path):
    """Exit status of a training on a disk that fails, and the disk."""
    with Disk(tmp_path, fails) as disk:
        return main(arguments), disk


def test_one_failure_at_any_call_is_said_and_changes_nothing(tmp_path, ended, capsys):
    """Or, before the first step or after the last, ends the command with a line, and the same command does it again."""
    ends, rng = [], random.Random(0)
    for at in moments(rng):
        number = rng.choice(ERRORS)
        run = tmp_path / f"run-{at}"
        capsys.readouterr()
        status, disk = disturbed(
            lambda i, *_, at=at, number=number: OSError(number, os.strerror(number)) if i == at else None,
            [*BEST, "--out", run.name],
            tmp_path,
        )
        if at >= len(disk.calls):
            break
        said = capsys.readouterr().err
        name, path = disk.calls[at]
        harmless = path.name == LOCK and name == "unlink"
        assert harmless or os.strerror(number) in said, (name, path, said)
        ends.append(status)
        if status == 0 and "no figures" in said:
            assert not (run / "figures" / "samples.png").exists()
            assert what_is_in(run).items() >= {n: v for n, v in ended["best"].items() if "figures/" not in n}.items()
            continue
        if status:
            assert run.name in said and "Traceback" not in said
            go_on(run, BEST)
        assert what_is_in(run) == ended["best"], (at, name, path)
    assert ends.count(0) > len(ends) / 2 > 5 and set(ends) == {0, 1}


@pytest.mark.parametrize("begins", [0, 1, 30, 90, 150, 250, 350])
def test_a_disk_that_is_full_from_some_moment_on_leaves_the_old_run_and_the_model_elsewhere(
    begins, tmp_path, old_run, ended, capsys, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    before, run = files(old_run), old_run

    def full(i, name, path):
        if i >= begins and name in ("open", "write", "mkdir", "fsync"):
            return OSError(errno.ENOSPC, "No space left on device")
        return None

    capsys.readouterr()
    status, _ = disturbed(full, [*OTHER, "--overwrite", "--out", "runs/run"], tmp_path / "runs")
    said = capsys.readouterr().err
    assert status == 1 and "No space left on device" in said and "Traceback" not in said
    assert files(run).items() >= before.items()
    assert open_run(run).vae.latent_dim == 2
    if begins > 1:
        (elsewhere,) = (tmp_path / "elsewhere").iterdir()
        assert str(elsewhere) in said
        vae = VAE.load(elsewhere, backend="numpy")
        assert parameters(vae) == {n: v for n, v in ended["other"].items() if n in parameters(vae)}
    if (run / NEW / CHECKPOINT).exists():  # room has been made
        assert main(["train", "--resume", "runs/run", "--quiet"]) == 0
    else:
        assert main([*OTHER, "--overwrite", "--out", "runs/run"]) == 0
    assert what_is_in(run) == ended["other"]


def test_a_folder_that_is_removed_while_a_run_trains_is_made_again(tmp_path, ended, capsys, monkeypatch):
    add, times = Recorder.add_to_history, []

    def remove(recorder, history):
        times.append(1)
        if len(times) == 2:
            shutil.rmtree(recorder.folder.path)
        add(recorder, history)

    monkeypatch.setattr(Recorder, "add_to_history", remove)
    assert main([*BEST, "--out", "run"]) == 0
    assert what_is_in(tmp_path / "run") == ended["best"] and len(times) > 2


def test_what_cannot_be_saved_is_said_once_whatever_is_tried_in_vain(tmp_path, capsys, monkeypatch):
    offer, run = Recorder.offer, tmp_path / "run"

    def blocked(recorder, vae, trace, moment):
        if moment == "epoch" and run.is_dir():
            shutil.rmtree(run)
            run.touch()  # history.csv and the lock fail in different words
        offer(recorder, vae, trace, moment)

    monkeypatch.setattr(Recorder, "offer", blocked)
    assert main([*BEST, "--out", "run"]) == 1
    assert capsys.readouterr().err.count("cannot save") == 1


def test_a_figure_that_fails_costs_no_run(tmp_path, ended, capsys, monkeypatch):
    def fails(*_):
        raise RuntimeError("a figure of no size")

    monkeypatch.setattr(train, "figures", fails)
    assert main([*BEST, "--out", "run"]) == 0
    assert "no figures (a figure of no size); `minivae plot run` draws them" in capsys.readouterr().err
    assert (
        what_is_in(tmp_path / "run").items() >= {n: v for n, v in ended["best"].items() if "figures/" not in n}.items()
    )


def test_a_line_of_history_that_was_half_written_is_written_anew(tmp_path):
    records = [{"epoch": n, "loss": n / 7, "kl_per_dim": [0.5, 0.25]} for n in range(1, 5)]
    (tmp_path / "run").mkdir()
    with Folder(tmp_path / "run") as folder:
        recorder = Recorder(folder, {}, {})
        recorder.add_to_history(records[:2])
        with (
            Disk(tmp_path, lambda _, name, __: OSError(errno.ENOSPC, "full") if name == "write" else None),
            pytest.raises(OSError, match="full"),
        ):
            recorder.add_to_history(records[:3])
        recorder.add_to_history(records)
    with open(tmp_path / "run" / HISTORY) as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [record["loss"] for record in records]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_what_has_been_trained_until_then(name, tmp_path, ended, monkeypatch):
    number, add = getattr(signal, name), Recorder.add_to_history
    monkeypatch.setattr(checkpoints, "SHARE", 1e-9)  # by itself it would save no more than the first step and the end

    def told_to_end(recorder, history):
        add(recorder, history)
        if len(history) == 2 and signal.getsignal(number) is not at_once:  # a second one would end at once
            os.kill(os.getpid(), number)

    before = signal.signal(number, signal.SIG_DFL)  # whatever the runner of the tests ignores
    try:
        with monkeypatch.context() as only_now, pytest.raises(SystemExit) as caught:
            only_now.setattr(Recorder, "add_to_history", told_to_end)
            main([*BEST, "--out", "run"])
    finally:
        signal.signal(number, before)
    assert caught.value.code == 128 + number
    assert VAE.load(tmp_path / "run" / CHECKPOINT, backend="numpy").trainer_.epoch == 2
    go_on(tmp_path / "run", BEST)
    assert what_is_in(tmp_path / "run") == ended["best"]


def test_ctrl_c_when_a_checkpoint_may_be_written_loses_nothing(tmp_path, ended, monkeypatch, ctrl_c):
    offer, moments_seen = Recorder.offer, []
    monkeypatch.setattr(checkpoints, "SHARE", 1e-9)  # by itself it would save no more than the first step and the end
    for n in range(100):
        run, asked = tmp_path / f"run-{n}", []

        def interrupted(recorder, vae, trace, moment, n=n, asked=asked):
            asked.append((moment, vae.trainer_.step))
            if len(asked) == n + 1:
                signal.raise_signal(signal.SIGINT)
            offer(recorder, vae, trace, moment)

        with monkeypatch.context() as only_now:
            only_now.setattr(Recorder, "offer", interrupted)
            status = main([*BEST, "--out", run.name])
        if n >= len(asked):
            break
        assert status == 130
        assert VAE.load(run / CHECKPOINT, backend="numpy").trainer_.step == asked[n][1], (n, asked)
        go_on(run, BEST)
        assert what_is_in(run) == ended["best"], (n, asked)
        moments_seen.append(asked[n][0])
    assert {"step", "epoch", "end"} <= set(moments_seen)


def test_ctrl_c_leaves_the_run_that_overwrite_would_replace(tmp_path, old_run, ended, monkeypatch, ctrl_c, capsys):
    offer = Recorder.offer

    def interrupted(recorder, vae, trace, moment):
        offer(recorder, vae, trace, moment)
        if moment == "epoch":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as only_now:
        only_now.setattr(Recorder, "offer", interrupted)
        assert main([*OTHER, "--overwrite", "--out", "runs/run"]) == 130
    assert what_is_in(old_run) == ended["best"] and open_run(old_run).vae.latent_dim == 2
    told = capsys.readouterr().out.split("wrote ")[1].split()
    assert told and all((tmp_path / path).exists() and NEW in path for path in told)
    assert main(["train", "--resume", "runs/run", "--quiet"]) == 0
    assert what_is_in(old_run) == ended["other"] and not (old_run / NEW).exists()
