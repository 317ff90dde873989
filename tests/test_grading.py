"""`minivae grade`: stubs, the hidden answers of docs/exercises.md, the checks and the named mistakes hold together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from minivae import check_gradient
from minivae.app.cli import main
from minivae.grading import grade as grading
from minivae.grading import mistakes
from minivae.grading.mistakes import MISTAKES
from minivae.grading.steps import FUNCTIONS, STEPS

STUBS = mistakes.text("stubs.txt")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Writes answers.py: what the page has folded away, with replacements (old, new)."""
    monkeypatch.chdir(tmp_path)

    def write(*edits):
        text = mistakes.right_answers()
        for old, new in edits:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        Path("answers.py").write_text(text, encoding="utf-8")
        return "answers.py"

    return write


def graded(path, step):
    """The row of this step; no other number of it is right by chance."""
    (row,) = grading.grade(path, [step])
    return row


def test_all_stubs_are_not_there_yet_and_no_file_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["grade", "--stubs", "answers.py"]) == 0
    assert Path("answers.py").read_text(encoding="utf-8") == STUBS
    rows = list(grading.grade("answers.py", list(STEPS)))
    assert [(row["step"], row["status"]) for row in rows] == [(step, "not there yet") for step in STEPS]
    assert main(["grade", "answers.py"]) == 1
    assert "\n0 of 10 steps are right; begin with derivative" in capsys.readouterr().out
    Path("answers.py").write_text("x = 1\n")
    assert main(["grade", "--stubs", "answers.py"]) == 1
    assert Path("answers.py").read_text() == "x = 1\n" and "answers.py exists" in capsys.readouterr().err


def test_all_hidden_answers_are_right(answers, capsys):
    assert main(["grade", answers(), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["right"] == len(STEPS) and {row["status"] for row in told["steps"]} == {"right"}


def test_stubs_steps_answers_and_mistakes_have_the_same_functions():
    names = [name for functions in STEPS.values() for name in functions]
    assert names == list(FUNCTIONS) and names == list(MISTAKES)
    stubs, answers = (
        re.findall(r"^def (\w+)\((.*)\):", mistakes.text(f"{file}.txt"), re.MULTILINE) for file in ("stubs", "answers")
    )
    assert stubs == answers and [name for name, _ in stubs] == names  # arguments too


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_named_by_its_own_wrong_answer_and_by_no_other(name, monkeypatch):
    entries = MISTAKES[name]
    assert len({text for text, *_ in entries}) == len(entries)
    for entry in entries:
        text, *edits = entry
        assert len(edits) % 2 == 0 and {mistakes.right_answers().count(old) for old in edits[::2]} == {1}, text
        monkeypatch.setitem(
            MISTAKES, name, (*(other for other in entries if other != entry), entry)
        )  # asked last of all
        with pytest.raises(grading.Found) as found:
            grading.judge(FUNCTIONS[name], mistakes.wrong(name, *edits), "answers.py")
        assert found.value.told["mistake"] == text


def test_a_hundred_mistakes_are_known():
    assert sum(map(len, MISTAKES.values())) >= 100


# what people write, in the page's own answer: (step, old, new, words of the message or of the mistake)
NOISE = "np.random.default_rng().normal(size=dz.shape)"
EDITS = [
    ("sample", "dlogvar = dz * eps * sigma / 2", "dlogvar = dz * eps * sigma**2", "sigma = exp(logvar)"),
    ("sample", "dkl * (sigma**2 - 1) / 2\n", "dkl * (sigma**2 - 1)\n", "lacks its 1/2"),
    ("sample", "dlogvar = dz * eps", f"eps = {NOISE}\n    dlogvar = dz * eps", "noise is drawn inside"),
    ("sample", "    dmu = dz + dkl * mu", "    dz += dkl * mu\n    dmu = dz", "an input is overwritten"),
    ("derivative", "return dy * (y > 0)", "return dy * 1", "there is no mask, or it is y >= 0"),
    ("dense", "x.T @ da, da.sum(axis=0)", "(x.T @ da).T, da.sum(axis=0)", "transposed"),
    ("dense", "x.T @ da, da.sum(axis=0)", "x.T @ da, list(da.sum(axis=0))", "db is of the type list"),
    ("dense", "x.T @ da, da.sum(axis=0)", "x.T @ da", "returns 2 things, and should return dx, dW, db"),
    ("dense", "x.T @ da, da.sum(axis=0)", "None, da.sum(axis=0)", "dW is None"),
    ("dense", "x.T @ da, da.sum(axis=0)", "np.float32(x.T @ da), da.sum(axis=0)", "of dtype float32"),
    ("dense", "da @ W.T, x.T", "da @ W, x.T", "): ValueError: matmul"),
    ("dense", "da @ W.T, x.T", "da @ W.T + 1, x.T", "dx[0, 0] is"),
    ("dense", "da @ W.T, x.T", "2.5 * da @ W.T, x.T", "all are 2.5 times the right ones"),
    ("dense", "da @ W.T, x.T", "np.nan * da @ W.T, x.T", "dx[0, 0] is nan, and should be near"),
    ("dense", "def dense(x, W, b)", "def dense(x, W)", "it is called as dense(x, W, b)"),
    ("dense", "def dense_backward(", "def backward(", "there is no function dense_backward yet"),
    ("dense", "def dense_backward(", "dense_backward = 3\n\n\ndef backward(", "dense_backward is of the type int"),
    ("dense", "return np.tanh(x @ W + b)", "return undefined", "NameError: name 'undefined'"),
    ("dense", "return np.tanh(x @ W + b)", "np.tanh(x @ W + b)", "returns nothing"),
    ("dense", "return np.tanh(x @ W + b)", "raise SystemExit('enough')", "SystemExit: enough"),
    ("dense", "return np.tanh(x @ W + b)", "raise NotImplementedError", "dense is still a stub"),
    ("vae", "return np.tanh(x @ W + b)", "raise NotImplementedError", "dense, which loss_and_gradient calls, is"),
    ("vae", "    dlogits = dlogits / B\n", "", "1/B is missing"),
    ("vae", "sample_backward(dz, 1 / B, h, eps)", "sample_backward(dz, 1, h, eps)", "where dkl begins"),
    ("vae", "sample_backward(dz, 1 / B, h, eps)", f"sample_backward(dz, 1 / B, h, {NOISE})", "noise is drawn inside"),
    ("adam", "m / (1 - 0.9**t), v /", "m, v /", "m has no bias correction"),
    ("adam", "    m += 0.1 * (g - m)", "    m = m + 0.1 * (g - m)", "m is as it was"),
    ("bernoulli", "np.maximum(a, 0) + np.log1p(np.exp(-np.abs(a)))", "np.log(1 + np.exp(a))", "overflows"),
    ("bound", " - np.log(log_w.shape[1])", "", "log K is forgotten"),
    ("bound", "(logvar + eps**2 - z**2)", "(-(z**2))", "log q(z|x) is forgotten"),
    ("bound-gradient", "w[:, :, None] ** 2 * (dz", "w[:, :, None] * (dz", "w in place of w^2"),
]  # fmt: skip


@pytest.mark.parametrize("step, old, new, words", EDITS, ids=lambda value: None)
def test_what_students_write_is_told_in_one_sentence_with_its_line(answers, step, old, new, words):
    path = answers((old, new))
    row = graded(path, step)
    said = f"{row['message']} {row['mistake']}"
    assert words in said and "\n" not in said
    unfinished = (old.startswith("def dense_b") and "=" not in new) or "NotImplemented" in new
    assert row["status"] == ("not there yet" if unfinished else "wrong")
    if row["status"] == "wrong" and row["line"]:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        first = next(i for i, line in enumerate(lines, 1) if line.startswith(f"def {row['function']}("))
        assert first <= row["line"] <= first + 25


def test_the_first_wrong_number_is_told_with_what_it_should_be(answers):
    row = graded(answers(("x.T @ da, da.sum(axis=0)", "x.T @ da + np.eye(4, 3)[::-1], da.sum(axis=0)")), "dense")
    assert (row["function"], row["array"], row["entry"]) == ("dense_backward", "dW", [1, 2])
    assert row["value"] - row["expected"] == pytest.approx(1)
    assert row["mistake"] is None  # nobody's
    assert (
        "dW[1, 2] is" in row["message"]
        and "3 of 12 entries are wrong" in row["message"]
        and "off by +1" in row["message"]
    )


def test_a_gradient_that_is_added_to_the_last_call_is_named(answers):
    new, adds = 'G["encoder.1.dW"][...], G["encoder.1.db"][...] = ', 'G["encoder.1.db"] += dh.sum(axis=0)\n    '
    edits = [(new, adds + 'G["encoder.1.dW"][...], _ = '), ("layout), np.empty_like(p)", "layout), KEPT")]
    path = answers(*edits, ("def loss_and_gradient", "KEPT = np.zeros(6596)\n\n\ndef loss_and_gradient"))
    assert "+= stands where = was meant" in graded(path, "vae")["mistake"]


@pytest.mark.parametrize("text, words", [
    ("def f(:\n", "answers.py, line 1: SyntaxError"), ("import numpy\n\n1 / 0\n", "answers.py, line 3: ZeroDivisionError"),
    ("import nothing_like_it\n", "line 1: ModuleNotFoundError"), ("a = 1\n\0", "save it as UTF-8"), ("exit(3)\n", "SystemExit: 3"),
])  # fmt: skip
def test_a_file_that_does_not_run_is_one_sentence(tmp_path, monkeypatch, capsys, text, words):
    monkeypatch.chdir(tmp_path)
    Path("answers.py").write_text(text)
    assert main(["grade", "answers.py", "--step", "dense", "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)["steps"]
    assert words in row["message"] and "\n" not in row["message"]


def test_what_the_file_prints_stays_out_of_the_result_and_no_file_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("helper.py").write_text("ONE = 1\n")
    Path("answers.py").write_text("from helper import ONE\nprint('hello')\n")
    assert main(["grade", "answers.py", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["right"] == 0 and "hello" in captured.err
    assert main(["grade", "nowhere.py"]) == 1 and "nowhere.py" in capsys.readouterr().err


def test_the_gradient_of_the_bound_is_that_of_its_values():
    """Where nll = c z^2 / 2, so that dz is known: finite differences through z, log w and the bound."""
    backward, log_weight, bound = (mistakes.wrong(name) for name in ("bound_backward", "log_weight", "bound"))
    _, _, h, eps, _ = FUNCTIONS["bound_backward"].cases(np.random.default_rng(3))[0]
    c = np.array([0.5, 2.0])

    def forward(h):
        z = h[:, None, :2] + np.exp(h[:, None, 2:] / 2) * eps
        return z, log_weight((c * z**2).sum(axis=2) / 2, z, h, eps)

    z, log_w = forward(h)
    dnll, dh = backward(c * z, z, h, eps, log_w)
    assert check_gradient(lambda h: -bound(forward(h)[1]).sum(), dh, h) < 1e-7
    assert check_gradient(lambda nll: -bound(log_weight(nll, z, h, eps)).sum(), dnll, (c * z**2).sum(axis=2) / 2) < 1e-7


def test_rounding_is_no_mistake_and_a_hundred_millionth_is_not_rounding():
    dense = FUNCTIONS["dense"]
    for factor, good in ((1 + 1e-9, True), (1 + 1e-6, False)):
        for given in dense.cases(np.random.default_rng(1)):
            (y,) = dense.truth(*given)
            assert grading.close(y * factor, y, dense.tolerance) == good
