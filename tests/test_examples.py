"""The examples run as a reader would run them: each in its own process, in an empty folder, on small settings."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from minivae import VAE, load_dataset

ROOT = Path(__file__).resolve().parent.parent
has_matplotlib = importlib.util.find_spec("matplotlib") is not None
needs_matplotlib = pytest.mark.skipif(not has_matplotlib, reason="needs matplotlib: pip install 'minivae[plot]'")


def run(folder, example, *arguments, path=(), code=0):
    """Standard output (standard error, if it is to fail) of an example, run in `folder`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, ROOT])), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(ROOT / "examples" / example), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.fixture
def no_matplotlib(tmp_path):
    """A folder to put first on the path, in which matplotlib cannot be imported."""
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "matplotlib.py").write_text("raise ModuleNotFoundError(\"No module named 'matplotlib'\")\n")
    return folder


def losses(output):
    """loss, recon and kl of the first and of the last epoch, as printed."""
    lines = re.findall(r"^epoch +(\d+): loss (\S+) = recon (\S+) \+ kl (\S+)$", output, re.MULTILINE)
    assert len(lines) == 2
    return [[float(number) for number in line[1:]] for line in lines]


def assert_training_helped(output):
    first, last = losses(output)
    assert last[0] < first[0] - 1
    for loss, recon, kl in (first, last):
        assert loss == pytest.approx(recon + kl, abs=0.02)
        assert kl > 0


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 2000


def test_one_gradient(tmp_path):
    output = run(tmp_path, "one_gradient.py")
    numbers = re.findall(r"^(dmu|dlogvar) +(-?\d\.\d{8}) +(-?\d\.\d{8})$", output, re.MULTILINE)
    assert [name for name, _, _ in numbers] == ["dmu", "dlogvar"]
    for _, by_hand, difference in numbers:
        assert abs(float(by_hand)) > 0.1
        assert float(by_hand) == pytest.approx(float(difference), abs=1.5e-8)  # the printed digits, one rounding apart
    errors = [float(error) for error in re.findall(r"\d\.\de[-+]\d\d$", output, re.MULTILINE)]
    assert len(errors) == 1 + 12 + 1  # the direction, six layers with W and b, the largest
    assert max(errors) < 1e-7
    assert list(tmp_path.iterdir()) == []


@needs_matplotlib
def test_train_digits(tmp_path):
    output = run(tmp_path, "train_digits.py", "--epochs", 5, "--out", "out/run")
    assert_training_helped(output)
    elbo, bound = (float(number) for number in re.findall(r"^test .*: (-\d+\.\d\d)$", output, re.MULTILINE))
    assert -45 < elbo < bound < -20
    names = ["loss.png", "model.npz", "reconstructions.png", "samples.png"]
    assert sorted(path.name for path in (tmp_path / "out/run").iterdir()) == names
    assert all(f"wrote {Path('out/run') / name}" in output for name in names)
    assert all(is_png(tmp_path / "out/run" / name) for name in names if name.endswith(".png"))
    model = VAE.load(tmp_path / "out/run/model.npz")
    assert model.score(load_dataset("digits").test) == pytest.approx(elbo, abs=0.006)


def test_train_digits_without_matplotlib(tmp_path, no_matplotlib):
    output = run(tmp_path, "train_digits.py", "--epochs", 3, "--out", "run", path=[no_matplotlib])
    assert_training_helped(output)
    assert "no figures: figures need matplotlib" in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.npz"]


@needs_matplotlib
def test_latent_grid(tmp_path):
    output = run(tmp_path, "latent_grid.py", "--epochs", 5, "--out", "run")
    assert_training_helped(output)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["latent.png", "manifold.png"]
    assert all(is_png(path) for path in (tmp_path / "run").iterdir())


def test_latent_grid_without_matplotlib_says_so_before_it_trains(tmp_path, no_matplotlib):
    error = run(tmp_path, "latent_grid.py", "--epochs", 5, path=[no_matplotlib], code=1)
    assert "needs matplotlib" in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_mixed_table(tmp_path):
    """Missing cells are filled better than by the column, samples correlate as the data, and the odd cells are named."""
    output = run(tmp_path, "mixed_table.py")
    elbo, log_p = map(float, re.findall(r"ELBO (\S+), log p\(x\) (\S+) nats", output)[0])
    assert -14.5 < elbo <= log_p < -13.2
    errors = re.findall(r"^(\w+, \w+|rooms|repairs) +(\d+[.\d]*)%? +(\d+[.\d]*)%?$", output, re.MULTILINE)
    assert [name for name, _, _ in errors] == ["area, m2", "rent, EUR", "rooms", "repairs", "heating, wrong"]
    assert all(float(imputed) < 0.9 * float(plain) for _, plain, imputed in errors)
    data, samples, anomaly = (
        [float(number) for number in re.findall(rf"^{line} +(.*)$", output, re.MULTILINE)[0].split()]
        for line in ("data", "samples", "120 m2 for 90 EUR")
    )
    assert len(data) == len(samples) == len(anomaly) == 7
    largest = float(re.findall(r"largest difference .*: (\S+)$", output, re.MULTILINE)[0])
    assert max(abs(a - b) for a, b in zip(data, samples)) - 0.011 <= largest < 0.1
    assert min(anomaly[:2]) > 3 * max(anomaly[2:])  # area and rent, of which one must be wrong
    assert list(tmp_path.iterdir()) == []


def header(text):
    """What a script says of itself to `uv run` (PEP 723), and the rest of the file."""
    lines, rest = re.fullmatch(r"# /// script\n((?:#(?: .*)?\n)+)# ///\n(.*)", text, re.DOTALL).groups()
    return tomllib.loads(re.sub(r"^# ?", "", lines, flags=re.MULTILINE)), rest


def test_examples_are_short_and_say_what_they_show():
    for path in (ROOT / "examples").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        rest = header(text)[1]
        whole = path.name == "vae_in_one_file.py"
        assert len((text if whole else rest).splitlines()) < (121 if whole else 60), path.name
        assert rest.startswith('"""') and "Prints" in rest.split('"""')[1], path.name


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_uv_run_finds_all_that_an_example_imports(path):
    said, rest = header(path.read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    imported = set(re.findall(r"^ *(?:from|import) (\w+)", rest, re.MULTILINE)) - sys.stdlib_module_names
    if re.search(r"\bplots\b", rest):
        imported.add("matplotlib")
    given = set()
    for dependency in said["dependencies"]:
        name, extra = re.fullmatch(r"([\w-]+)(?:\[(\w+)\])?", dependency).groups()
        given |= {name, *(project["optional-dependencies"][extra] if extra else ())}
    assert imported and imported <= given
    if "minivae" in given:  # the one that the example lies beside, not yesterday's release
        assert said["requires-python"] == project["requires-python"]
        assert (path.parent / said["tool"]["uv"]["sources"]["minivae"]["path"]).samefile(ROOT)
