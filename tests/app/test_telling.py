"""What is said on standard error: in a notebook, in a log of thousands of epochs, and commands that can be typed again."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, progress
from minivae.app import runs


@pytest.mark.parametrize(("module", "drawn"), [("ipykernel.iostream", True), ("io", False)])
def test_a_notebook_is_no_terminal_and_has_a_bar_all_the_same(module, drawn, monkeypatch):
    """Its cells take a carriage return as a terminal does; a log file does not."""
    stream = type("OutStream", (io.StringIO,), {"__module__": module})()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar(3, "epoch 1", shown=True) as advance:
        advance(3)
        assert ("epoch 1" in stream.getvalue()) is drawn
    progress.say("a line")
    assert stream.getvalue().endswith("a line\n")


@pytest.mark.parametrize(("epochs", "shown"), [(3, [1, 2, 3]), (199, range(1, 200)), (305, [*range(3, 306, 3), 305])])
def test_of_hundreds_of_epochs_a_hundred_are_told_and_the_last(epochs, shown, capsys):
    X = np.random.default_rng(0).random((8, 2), np.float32)
    vae = VAE(latent_dim=1, hidden_dims=(1,), epochs=epochs, verbose=1, validation_fraction=0, backend="numpy").fit(X)
    told = [int(number) for number in re.findall(r"^epoch +(\d+)", capsys.readouterr().err, re.MULTILINE)]
    assert told == list(shown) and len(vae.history_) == epochs


def test_a_command_can_be_typed_again(monkeypatch):
    folder = Path("my runs") / "it's"
    assert shlex.split(runs.going_on(folder).strip("`")) == ["minivae", "train", "--resume", str(folder)]
    monkeypatch.setattr(runs.os, "name", "nt")
    assert runs.going_on("my runs\\a") == '`minivae train --resume "my runs\\a"`'
    assert runs.going_on("runs\\a") == "`minivae train --resume runs\\a`"
