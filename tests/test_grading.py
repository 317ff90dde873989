"""`minivae grade`: stubs, the hidden answers of docs/exercises.md, the checks and the named mistakes hold together."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, check_gradient, load_dataset
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
SUM_EXP = "np.log(np.exp(log_w - log_w.max()).sum(axis=1))"
NOISE = "np.random.default_rng().normal(size=dz.shape)"
ORDER = "order = rng.permutation(len(data))\n"
EPOCHS, DRAWN = "in range(epochs):\n", "rng.normal(size=(len(x), 2))"
TRAIN = [
    (f"    for _ {EPOCHS}        {ORDER}", f"    {ORDER}    for _ {EPOCHS}", "once, or never"),
    ("in range(epochs)", "in range(epochs // 2)", "number of batches is 3, and should be near 9"),
    ("gradient, 2e-3, t)", "gradient, 1e-3, t)", "learning rate of update [0] is 0.001, and should be near 0.002"),
    ("gradient, 2e-3, t)", "gradient, t=t, learning_rate=1e-2)", "is 0.01, and should be near 0.002"),
    ("rng.permutation(len(data))", "np.arange(len(data))", "different orders is 1, and should be near 3"),
    ("rng.permutation(len(data))", "rng.integers(70, size=70)", "different rows in epoch [0] is"),
    (DRAWN, "np.random.default_rng(0).normal(size=(len(x), 2))", "rows of noise is 32, and"),
    (DRAWN, "rng.normal(size=2)", "different rows of noise is 9, and should be near 210"),
    (DRAWN, "np.random.default_rng(t).normal(size=(len(x), 2))", "then rng.normal for each batch, [0, 64] is"),
    ("np.zeros_like(p), 0\n", "np.zeros_like(p), 1\n", "t of update [0] is 2, and should be near 1"),
    (EPOCHS, EPOCHS + "        m, v, t = 0 * p, 0 * p, 0\n", "t of update [3] is 1, and should"),
    (EPOCHS, EPOCHS + "        m, v = 0 * p, 0 * p\n", "m and v begin at 0 again"),
    ("range(0, len(data), 32)", "range(0, len(data) - 31, 32)", "number of batches is 6, and should be near 9"),
    ("start : start + 32", "start : start + 31", "size of batch [0] is 31, and should be near 32"),
    ("    return p\n", "    return m\n", "this is m, and p is asked for"),
    ("            adam(", "            if t < 9:\n                adam(", "number of updates is 8, and should be near 9"),
]  # fmt: skip
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
    *(("train", *edit) for edit in TRAIN),
    ("derivative", "0.5 * (1 + np.tanh(0.5 * a))", "np.exp(a) / (1 + np.exp(a))", "overflows for a large a"),
    ("derivative", "dy * (y > 0)", "dy * (y >= 0)", "or it is y >= 0"),
    ("dense", "da @ W.T, x.T", "dy @ W.T, x.T", "dx is made from dy"),
    ("bernoulli", "axis=1), sigmoid(a) - x", "axis=1), x - sigmoid(a)", "the sign of da is wrong"),
    ("vae", 'dlogits @ P["decoder.1.W"].T', 'dlogits @ P["decoder.1.W"]', "ValueError: matmul"),
    ("vae", 'G["decoder.1.dW"][...], ', 'G["decoder.1.dW"], ', "decoder.1.dW[0, 0] is nan, and should be near"),
    ("vae", 'G["encoder.0.dW"][...], ', 'G["encoder.0.dW"], ', "this was never written"),
    ("sample", "    dmu = dz + dkl * mu", "    np.broadcast_to(dkl, 3)[0] = 1\n    dmu = dz", "destination is read-only"),
    ("sample", "    dmu = dz + dkl * mu", "    raise OSError('disk is read-only')", "OSError: disk is read-only"),
    ("sample", "dkl * (sigma**2 - 1) / 2\n", "dkl * (1 - sigma**2) / 2\n", "sign of the KL's gradient with"),
    ("bound", "np.logaddexp.reduce(log_w, axis=1)", f"{SUM_EXP} + log_w.max()", "of all examples"),
    ("bound-gradient", "np.exp(log_w - log_w.max(axis=1, keepdims=True))", "np.exp(log_w)", "rounded to 0 or infinity"),
    ("dense", "return np.tanh(x @ W + b)", "np.exp = abs\n    return np.tanh(x @ W + b)", "np.exp = ... changes"),
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


@pytest.mark.parametrize("step, old, new", [
    ("dense", "return da @ W.T, x.T @ da", "return dy @ W.T, 2 * x.T @ da"),  # dx alone has dy for da
    ("vae", "y1.T @ dlogits, dlogits.sum(axis=0)", "y1.T @ dlogits, B * dlogits.sum(axis=0)"),  # 1/B is where it belongs
    ("train", "    return p\n", "    return 2 * p\n"),
    ("bernoulli", "return (softplus - x * a).sum(axis=1)", "return (softplus - x * a + 1e-4).sum(axis=1)"),
])  # fmt: skip
def test_no_mistake_is_named_that_would_make_wrong_what_is_right(answers, step, old, new):
    row = graded(answers((old, new)), step)
    assert row["status"] == "wrong" and row["mistake"] in (
        None,
        "dx is made from dy, without the activation's derivative",
    )


def test_train_may_do_without_the_other_functions_and_measure_in_between(answers):
    wrap = "inlined = adam\n\n\ndef train(data, epochs, rng):\n"
    alone = [("def train(data, epochs, rng):\n", wrap), ("            adam(p, m,", "            inlined(p, m,")]
    assert graded(answers(*alone), "train")["status"] == "right"
    row = graded(answers(*alone, ("gradient, 2e-3, t)", "gradient, 1e-3, t)")), "train")
    assert row["status"] == "wrong" and row["array"] == "p"
    measure = (
        "gradient, 2e-3, t)\n",
        "gradient, 2e-3, t)\n        loss_and_gradient(p, data, np.zeros((len(data), 2)))\n",
    )
    assert graded(answers(measure), "train")["status"] == "right"


def test_the_answers_train_as_the_library_does():
    digits = load_dataset("digits")
    data, test, rng = digits.train / 255, digits.test / 255, np.random.default_rng(0)
    train, loss_and_gradient = mistakes.wrong("train"), mistakes.wrong("loss_and_gradient")
    settings = {"latent_dim": 2, "hidden_dims": (48,), "activation": "tanh", "learning_rate": 2e-3, "batch_size": 32}
    vae = VAE(**settings, epochs=10, validation_fraction=0, random_state=1, backend="numpy").fit(data)
    mine, theirs = (
        np.mean([loss_and_gradient(p, test, rng.normal(size=(len(test), 2)))[0] for _ in range(10)])
        for p in (train(data, 10, rng), vae.network_.get_parameters().astype(float))
    )
    assert mine == pytest.approx(theirs, rel=0.02)


def test_what_was_never_written_is_told_though_a_call_before_wrote_it(answers):
    """np.empty_like often has the memory of the call before, with the right numbers in it."""
    row = graded(answers(('G["decoder.1.dW"][...], ', 'G["decoder.1.dW"], ')), "vae")
    assert row["array"] == "gradient, decoder.1.dW" and "d[name][...] = ... writes" in row["mistake"]
    plus = (
        'G["encoder.1.dW"][...], G["encoder.1.db"][...] = y0.T @ dh, ',
        'G["encoder.1.dW"][...] += y0.T @ dh\n    G["encoder.1.db"][...] = ',
    )
    row = graded(answers(plus), "vae")
    assert row["array"] == "gradient, encoder.1.dW" and "np.empty left" in row["mistake"]


def test_a_file_that_compiles_with_numba_has_numpys_own_functions(answers):
    numba = pytest.importorskip("numba", reason="numba is not installed")
    head, use = "import numba\n", "@numba.njit\ndef new(n):\n    return np.empty(n)\n\n\ndef dense("
    path = answers(
        ("import numpy as np", f"{head}import numpy as np"),
        ("def dense(", use),
        ("np.tanh(x @ W + b)", "np.tanh(x @ W + b) + 0 * new(1).size"),
    )
    assert graded(path, "dense")["status"] == "right" and numba.__name__ == "numba"


def test_numpy_is_as_before_after_a_file_that_changes_it(tmp_path, monkeypatch):
    before = dict(vars(np))
    monkeypatch.chdir(tmp_path)
    Path("answers.py").write_text("import numpy as np\nnp.exp = np.tanh\n")
    assert "np.exp = ... changes NumPy" in graded("answers.py", "dense")["message"]
    assert all(vars(np)[name] is value for name, value in before.items())


def test_dataclasses_and_annotations_are_those_of_the_file_and_its_main_is_not_run(answers):
    kept = "from dataclasses import dataclass\n\n\n@dataclass\nclass Kept:\n    x: int\n\n\n"
    main_part = "assert Kept.__annotations__['x'] is int\nif __name__ == '__main__':\n    1 / 0\n\n\n"
    path = answers(("def dense(x, W, b)", f"{kept}{main_part}def dense(x, W, b)"))
    assert graded(path, "dense")["status"] == "right"


def test_an_endless_loop_is_told_with_its_line_and_what_was_graded_stands(answers, capsys, ctrl_c):
    stop = "import signal\n    signal.raise_signal(signal.SIGINT)\n    "  # as Ctrl-C does
    path = answers(("return np.tanh(x @ W + b)", f"{stop}return np.tanh(x @ W + b)"))
    assert main(["grade", path]) == 130
    captured = capsys.readouterr()
    assert captured.out == "derivative     right\n"
    line = 1 + Path(path).read_text(encoding="utf-8").splitlines().index("    signal.raise_signal(signal.SIGINT)")
    assert f"step dense was running, in dense (answers.py, line {line})\n" in captured.err


def test_each_row_is_flushed_before_the_next_step_runs(answers, ctrl_c):
    loop = "open('reached', 'w').close()\n    while True: pass\n    "
    path = answers(("return np.tanh(x @ W + b)", f"{loop}return np.tanh(x @ W + b)"))
    command = [sys.executable, "-m", "minivae", "grade", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        rescue = threading.Timer(120, child.kill)  # readline would wait for ever
        rescue.start()
        assert child.stdout.readline() == "derivative     right\n"  # while the loop runs
        while not Path("reached").exists():
            assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert "step dense was running, in dense (answers.py, line " in child.stderr.read()
        rescue.cancel()
    assert child.returncode == 130


def test_encodings_and_names_that_are_no_file_are_told_with_what_to_do(answers, capsys):
    text = Path(answers()).read_text(encoding="utf-8")
    for encoding, right in (("utf-16", False), ("utf-16-le", False), ("utf-8-sig", True)):
        Path("answers.py").write_text(text, encoding=encoding)
        row = graded("answers.py", "dense")
        assert row["status"] == ("right" if right else "wrong") and ("save it as UTF-8" in row["message"]) != right
    for options in ([], ["--stubs"]):
        assert main(["grade", *options, "-"]) == 1
        said = capsys.readouterr().err
        assert "name the file in place of -" in said and "--stubs -" not in said and not Path("-").exists()


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
    ("import nothing_like_it\n", "line 1: ModuleNotFoundError"), ("a = 1\n\0", "as UTF-8"), ("exit(3)\n", "SystemExit: 3"),
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
            assert grading.agree(y * factor, y, dense.tolerance) == good
