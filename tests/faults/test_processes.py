"""Trainings in processes of their own: killed, told to end, without a terminal, and two at one moment."""

from __future__ import annotations

import csv
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from minivae import VAE
from minivae.app.cli import main
from minivae.storage.folders import CHECKPOINT, CONFIG, FIGURES, HISTORY, LOCK, MODEL

if os.name != "posix":
    pytest.skip("sends signals to child processes", allow_module_level=True)

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
BACKEND = os.environ.get("MINIVAE_FAULTS_BACKEND", "numpy")
TRAIN = ["train", "digits", "--hidden-dims", "48", "--backend", BACKEND, "--no-figures", "--validation-fraction", "0.1"]
LONG = [*TRAIN, "--epochs", "25"]
SHORT = [*TRAIN, "--epochs", "8", "--batch-size", "100"]
TIMES = ("seconds", "examples_per_second")
PATIENCE = 120  # seconds, against a hang
# signals as in a terminal, whatever the runner of the tests ignores; EAGER: a checkpoint after every few steps
PROGRAM = """
import signal, sys
for name in (signal.SIGTERM, signal.SIGHUP): signal.signal(name, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from minivae.storage import checkpoints
from minivae.app.cli import main
if EAGER: checkpoints.SECONDS, checkpoints.SHARE = 0.02, 0.5
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def command(arguments, eager=False):
    return [sys.executable, "-c", PROGRAM.replace("EAGER", str(eager)), *arguments]


def start(arguments, eager=False, **streams):
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True} | streams
    return subprocess.Popen(command(arguments, eager), **streams)


def end(process):
    """Its exit status, and what it said."""
    said = process.communicate(timeout=PATIENCE)[1]
    assert "Traceback" not in (said or ""), said
    return process.returncode, said


def wait_for(what, process, run):
    patience = time.monotonic() + PATIENCE
    while not what(process, run) and process.poll() is None:
        assert time.monotonic() < patience, "it does not come"
        time.sleep(0.005)


def has_saved(_, run):
    return (run / CHECKPOINT).exists()


def holds(process, run):
    return (run / LOCK).exists() and f"process {process.pid} " in (run / LOCK).read_text()


def what_is_in(folder):
    """The arrays and the epochs of a run, but for how long these took."""
    found = {}
    for name in (MODEL, CHECKPOINT):
        with np.load(folder / name) as file:
            found |= {f"{name} {n}": file[n].tobytes() for n in file.files if n not in (CONFIG, "history", "sha256")}
        history = VAE.load(folder / name, backend="numpy").history_
        found[f"{name} history"] = [{n: v for n, v in record.items() if n not in TIMES} for record in history]
    with open(folder / HISTORY) as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [record["loss"] for record in history]
    assert {path.name for path in folder.iterdir()} <= {MODEL, CHECKPOINT, HISTORY, CONFIG, FIGURES}
    return found


def hit(process, how, rng):
    """Disturb it, and the exit statuses that are right then; the second is the system's, before and after the training."""
    process.send_signal(how)
    if how == signal.SIGINT and rng.random() < 0.5:
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(how)  # and at once, please
    return (128 + how, -how)


def test_a_run_that_is_killed_or_told_to_end_and_is_resumed_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    assert end(start([*SHORT, "--out", "first"]))[0] == 0  # it may have to compile
    process = start([*LONG, "--quiet", "--out", "whole"])
    wait_for(holds, process, tmp_path / "whole")
    begun = time.monotonic()
    assert end(process)[0] == 0
    took, wanted = time.monotonic() - begun, what_is_in(tmp_path / "whole")
    rng, hits, wanted_hits = random.Random(TRIALS), {}, 4 * TRIALS
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGKILL, signal.SIGINT]
    runs = 0
    while sum(hits.values()) < wanted_hits or runs == 0:
        run = tmp_path / f"run-{runs}"
        runs, tries = runs + 1, 0
        while True:
            again = (run / CHECKPOINT).exists()
            arguments = ["train", "--resume", run.name, "--no-figures"] if again else [*LONG, "--out", run.name]
            process = start(arguments, eager=bool(runs % 2), stderr=subprocess.DEVNULL)
            how = kinds[sum(hits.values()) % len(kinds)]
            if tries < 4:
                tries += 1
                wait_for(holds, process, run)
                time.sleep(rng.uniform(0, 0.7 * took))
                statuses = hit(process, how, rng)
            if end(process)[0] == 0:
                break
            assert process.returncode in statuses, how
            hits[how.name] = hits.get(how.name, 0) + 1
        assert what_is_in(run) == wanted, hits
        print(f"{hits} in {runs} runs, all bit for bit the same", flush=True)


@pytest.mark.parametrize("ends", ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", ">&- 2>&- <&-"])
def test_standard_error_that_takes_nothing_ends_no_training(ends, tmp_path):
    if "/dev/full" in ends and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    process = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command([*SHORT, '--out', 'run']))} {ends}"], timeout=PATIENCE
    )
    assert process.returncode == 0
    what_is_in(tmp_path / "run")


def test_a_terminal_that_goes_away_ends_no_training(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    process = start([*LONG, "--out", "run"], stdout=theirs, stderr=theirs)
    os.close(theirs)
    wait_for(has_saved, process, tmp_path / "run")
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    assert len(VAE.load(tmp_path / "run" / MODEL, backend="numpy").history_) == 25
    what_is_in(tmp_path / "run")


def test_of_two_trainings_into_one_folder_at_one_moment_one_is_told_who_holds_it(tmp_path):
    for i in range(TRIALS):
        run, overwrite = f"run-{i // 2}", ["--overwrite"] * (i % 2)
        pair = [start([*SHORT, "--epochs", "20", "--latent-dim", str(z), *overwrite, "--out", run]) for z in (2, 3)]
        ended = {process.pid: end(process) for process in pair}
        (winner, (status, _)), (_, (refused, said)) = sorted(ended.items(), key=lambda item: item[1][0])
        assert (status, refused) == (0, 1), ended
        told = re.search(rf"{run} is being written to by process (\d+) on .* since .*; wait for it", said)
        assert said.count("\n") == 1 and told and int(told[1]) == winner, said
        z = 2 if winner == pair[0].pid else 3
        assert f'"latent_dim": {z}' in (tmp_path / run / CONFIG).read_text()
        assert VAE.load(tmp_path / run / MODEL, backend="numpy").latent_dim == z
        what_is_in(tmp_path / run)


def test_two_trainings_at_one_moment_that_name_no_folder_get_two(tmp_path):
    for i in range(TRIALS):
        pair = [start([*SHORT, "--latent-dim", str(z)]) for z in (2, 3)]
        assert [end(process)[0] for process in pair] == [0, 0]
        runs = [path for path in (tmp_path / "runs").iterdir() if (path / MODEL).exists()]
        assert len(runs) == 2 * (i + 1)
        for run in runs:
            vae = VAE.load(run / MODEL, backend="numpy")
            assert f'"latent_dim": {vae.latent_dim}' in (run / CONFIG).read_text()
            what_is_in(run)


@pytest.mark.parametrize("out", ["/proc/x", "/dev/null/x", "file", "file/x", "\0"])
def test_a_folder_that_cannot_be_is_refused_before_the_training(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(VAE, "fit", lambda *_, **__: pytest.fail("it trains"))
    (tmp_path / "file").write_text("mine")
    assert main([*SHORT, "--out", out]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
