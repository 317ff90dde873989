"""What is typed: nothing is taken for an option that it only begins like, and what people type works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minivae import __version__
from minivae.app.cli import build_parser, main


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["--lr", "0.01"], "learning_rate", 0.01),
        (["--learning-rate", "0.01"], "learning_rate", 0.01),
        (["--seed", "3"], "random_state", 3),
        (["-o", "runs/a"], "out", "runs/a"),
    ],
)
def test_what_people_type(typed, name, value):
    parsed = vars(build_parser().parse_args(["train", "digits", *typed]))
    assert parsed[name] == value and "lr_warmup" not in parsed


def test_sample_has_the_same_aliases():
    parsed = build_parser().parse_args(["sample", "run", "--seed", "3", "-o", "a.npy"])
    assert (parsed.random_state, parsed.out) == (3, "a.npy")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["train", "digits", "--latent_dim", "3"], "there is no option --latent_dim; did you mean --latent-dim?"),
        (["train", "digits", "--latent", "3"], "there is no option --latent"),  # an abbreviation is no option
        (["train", "digits", "--epoch=3"], "there is no option --epoch=3; did you mean --epochs?"),
        (["train", "digits", "--lr-w", "3"], "there is no option --lr-w"),
        (["evaluate", "run", "--js"], "there is no option --js"),
        (["evaluate", "run", "--zzzz"], "there is no option --zzzz\n"),
        (["--vers"], "required: command"),
        (["train", "digits", "--hidden-dims", "256x128"], "--hidden-dims: '256x128' is no list of whole numbers"),
        (["train", "digits", "--latent-dim", "2.5"], "--latent-dim: invalid int value: '2.5'"),
        (["train", "digits", "--epochs", "1e3"], "--epochs: invalid int value: '1e3'"),
        (["train", "digits", "extra"], "unrecognized arguments: extra"),
    ],
)
def test_what_is_no_option_is_named_by_its_command(typed, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(typed)
    captured = capsys.readouterr()
    assert caught.value.code == 2 and captured.out == "" and words in captured.err


def test_python_m_minivae():
    result = subprocess.run([sys.executable, "-m", "minivae", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == f"minivae {__version__}\n"
