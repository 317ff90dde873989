"""The page examples/vae_in_one_file.py is true to the book, stays one page, and runs as a reader would run it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minivae import randomness
from minivae.architecture import Architecture, initial_parameters, parameter_layout
from minivae.kernels import load
from minivae.network import Network
from minivae.optimizers import Optimizer
from minivae.parameters import size, views

PATH = Path(__file__).resolve().parent.parent / "examples" / "vae_in_one_file.py"
SOURCE = PATH.read_text(encoding="utf-8")
ARCHITECTURES = [Architecture(9, 3, (7, 5), "tanh"), Architecture(9, 2, (8,), "relu"), Architecture(6, 4, (), "relu")]
every_architecture = pytest.mark.parametrize("arch", ARCHITECTURES, ids=lambda a: f"{a.hidden_dims}-{a.activation}")


def load_page(path=PATH):
    spec = importlib.util.spec_from_file_location("vae_in_one_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = load_page()


def run(folder, *arguments, code=0):
    """Standard output (standard error, if it is to fail) of the page as a script, run in `folder`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONWARNINGS": "error"}
    command = [sys.executable, str(PATH), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stderr == "" if code == 0 else "epoch" not in done.stdout
    return done.stdout if code == 0 else done.stderr


def relative_error(a, b):
    """The largest difference, as a share of the largest number: single entries may be near 0 by cancellation."""
    assert np.shape(a) == np.shape(b)
    return np.max(np.abs(np.subtract(a, b))) / np.max(np.abs(b))


# ---- True to the book


@every_architecture
def test_loss_and_every_gradient_are_those_of_the_book(arch):
    network = Network(arch, load("numpy"), "float64")
    flat = initial_parameters(arch, 0) + 0.2 * randomness.normal((1, size(network.layout)), 0, randomness.CHECK)[0]
    network.set_parameters(flat)
    x = randomness.uniform((11, arch.data_dim), 1, randomness.CHECK)
    eps = randomness.normal((11, arch.latent_dim), 2, randomness.CHECK)
    loss, gradient = network.loss_and_gradient(x, eps)
    recon, _ = network.loss_and_gradient(x, eps, beta=0.0)

    ours, gradients = page.loss_and_gradients(list(views(flat, network.layout).values()), x, eps, arch.activation)
    assert relative_error(ours, [recon, loss - recon]) < 1e-12
    assert abs(ours.sum() / loss - 1) < 1e-12
    book = views(gradient, network.layout)
    assert len(gradients) == len(book)
    for (name, expected), g in zip(book.items(), gradients):
        assert np.abs(expected).max() > 0
        assert relative_error(g, expected) < 1e-12, name


def test_one_adam_step_is_that_of_the_book():
    p, m, g, v = randomness.normal((4, 50), 0, randomness.CHECK)
    v = v**2
    ours, book = [[p.copy(), m.copy(), v.copy(), g.copy()] for _ in range(2)]
    page.adam_step(*ours, 7)
    o = Optimizer()
    load("numpy").adam_step(*book, o.learning_rate, o.beta1, o.beta2, o.epsilon, 7, 0.0)
    for name, a, b in zip("pmvg", ours, book):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=0, err_msg=name)
    assert relative_error(ours[0] - p, book[0] - p) < 1e-12  # the step itself is a thousandth of p
    assert np.abs(ours[0] - p).min() > 0 and np.array_equal(ours[3], g)


@every_architecture
def test_initial_parameters_have_the_layout_and_the_spread_of_the_book(arch):
    ours = page.initial_parameters(arch.data_dim, arch.hidden_dims, arch.latent_dim, np.random.default_rng(0))
    assert [p.shape for p in ours] == [shape for _, shape in parameter_layout(arch)]
    for W, b in zip(ours[0::2], ours[1::2]):
        limit = np.sqrt(6 / sum(W.shape))
        assert 0.8 * limit < np.abs(W).max() <= limit
        assert not b.any()


# ---- Its own gradient check


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_its_gradient_check_passes_and_prints_both_numbers(activation, capsys):
    page.check_gradients(activation, np.random.default_rng(1))
    pattern = rf"gradient check, {activation}: (-?\d+\.\d+) by hand, (-?\d+\.\d+) by central difference\n"
    by_hand, numeric = map(float, re.fullmatch(pattern, capsys.readouterr().out).groups())
    assert abs(by_hand) > 0.1 and by_hand == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("dz + mu / B", "dz"),
        ("(sigma**2 - 1) / B)", "sigma**2 / B)"),
        ("dz * eps * sigma", "dz * sigma"),
        ("- x) / B  # d/da", "- x)  # d/da"),
        ("da.sum(axis=0)]", "da.mean(axis=0)]"),
        ("lambda y: 1 - y * y", "lambda y: 1 - y"),
    ],
)
def test_its_gradient_check_catches_a_wrong_gradient(right, wrong, tmp_path):
    assert SOURCE.count(right) == 1
    broken = tmp_path / "broken.py"
    broken.write_text(SOURCE.replace(right, wrong), encoding="utf-8")
    with pytest.raises(SystemExit, match="a gradient of the tanh network is wrong"):
        load_page(broken).check_gradients("tanh", np.random.default_rng(0))


# ---- One page


def test_it_is_one_page():
    lines = SOURCE.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 120


def test_it_imports_numpy_alone():
    nodes = list(ast.walk(ast.parse(SOURCE)))
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert "numpy" in imported and imported <= {"numpy", "sys", "pathlib"}
    assert not {node.id for node in nodes if isinstance(node, ast.Name)} & {"__import__", "exec", "eval"}


# ---- As a script


def epochs(output):
    """(epoch, loss, recon, kl) of each line of progress."""
    lines = re.findall(r"^epoch +(\d+): loss (\S+) = recon (\S+) \+ kl (\S+)$", output, re.MULTILINE)
    return [tuple(map(float, line)) for line in lines]


def test_it_checks_its_gradients_and_trains_on_the_digits(tmp_path):
    output = run(tmp_path)
    assert re.findall(r"^gradient check, (\w+): ", output, re.MULTILINE) == ["relu", "tanh"]
    progress = epochs(output)
    assert [line[0] for line in progress] == [1, 10, 20, 30, 40, 50]
    losses = [line[1] for line in progress]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 35 and losses[-1] < 25  # 37.3 and 24.5 measured
    for _, loss, recon, kl in progress:
        assert kl > 0.5 and loss == pytest.approx(recon + kl, abs=0.011)
    assert list(tmp_path.iterdir()) == []


def test_it_trains_on_a_file_and_divides_uint8_by_255(tmp_path):
    pixels = (255 * randomness.uniform((45, 6), 0, randomness.CHECK) ** 4).astype(np.uint8)  # a last batch of 13 rows
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(tmp_path / "rows.npy", pixels / 255)
    output = run(tmp_path, "pixels.npy")
    assert epochs(output)[-1][1] < epochs(output)[0][1]
    assert output == run(tmp_path, "rows.npy")


def test_a_wrong_file_ends_in_one_sentence(tmp_path):
    np.save(tmp_path / "wrong.npy", np.full((5, 4), 1.5))
    error = run(tmp_path, "wrong.npy", code=1)
    assert error == "cannot use wrong.npy: pass a .npy file with a 2-D numeric array within [0, 1], or of uint8\n"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((5, 4, 4)),
        np.zeros(5),
        np.zeros((0, 4)),
        np.full((5, 4), -0.1),
        np.full((5, 4), np.nan),
        np.full((5, 4), np.inf),
        np.full((5, 4), 2, np.int64),
        np.zeros((5, 4), complex),
        np.full((5, 4), "0.5"),
        np.full((5, 4), None),
    ],
    ids=["3-D", "1-D", "empty", "negative", "nan", "inf", "2", "complex", "text", "pickled"],
)
def test_what_no_file_may_hold(array, tmp_path):
    np.save(tmp_path / "wrong.npy", array, allow_pickle=True)
    with pytest.raises(SystemExit, match=r"^cannot use .*wrong\.npy: pass a \.npy file [^\n]*$"):
        page.load_data(tmp_path / "wrong.npy")


def test_what_is_no_npy_file(tmp_path):
    (tmp_path / "text.npy").write_text("1,2,3\n")
    np.savez(tmp_path / "archive.npz", X=np.zeros((5, 4)))
    for name in ("text.npy", "archive.npz", "missing.npy", "."):
        with pytest.raises(SystemExit, match=f"^cannot use .*{re.escape(str(tmp_path / name))}: pass a"):
            page.load_data(tmp_path / name)


def test_away_from_the_repository_it_asks_for_a_file(tmp_path):
    copied = tmp_path / "copied.py"
    copied.write_text(SOURCE, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^cannot use the digits: pass a"):
        load_page(copied).load_data()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_what_a_file_may_hold(dtype, tmp_path):
    zeros_and_ones = np.eye(3, 4, dtype=dtype)
    np.save(tmp_path / "rows.npy", zeros_and_ones)
    data = page.load_data(tmp_path / "rows.npy")
    assert data.dtype == np.float64
    np.testing.assert_array_equal(data, np.eye(3, 4) / (255 if dtype is np.uint8 else 1))


def test_the_digits_lie_within_0_and_1():
    data = page.load_data()
    assert data.shape == (1797, 64) and data.min() == 0 and data.max() == 1
