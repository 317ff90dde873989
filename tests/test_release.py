"""What a release is made of, as far as that needs no build (`make dist` builds and installs), and the types that it has."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import minivae
from minivae import plots
from minivae.app.cli import build_parser
from minivae.storage import modelfile

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What tests read beside what an sdist always has: pyproject.toml, README.md, LICENSE, PKG-INFO and .gitignore.
SOURCES = {"minivae", "tests", "examples", "benchmarks", "docs", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"}


def packed(kind):
    """The files that hatchling puts into a wheel or an sdist."""
    builders = pytest.importorskip(f"hatchling.builders.{kind}", reason="needs hatchling: pip install --group test")
    builder = {"wheel": "WheelBuilder", "sdist": "SdistBuilder"}[kind]
    return {file.relative_path for file in getattr(builders, builder)(str(ROOT)).recurse_included_files()}


def test_the_wheel_has_the_package_and_nothing_else():
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "minivae").rglob("*") if path.is_file()}
    package = {name for name in package if "__pycache__" not in name}
    chapters = {f"minivae/kernels/{backend}/README.md" for backend in ("numba", "cuda")}
    assert {Path(name).as_posix() for name in packed("wheel")} == package - chapters and chapters < package
    assert "minivae/py.typed" in package


def test_the_sdist_has_what_tests_need_and_nothing_else():
    files = {Path(name) for name in packed("sdist")}
    assert {file.parts[0] for file in files} == SOURCES
    assert not [file for file in files if {"__pycache__", "build", "runs"} & set(file.parts)]


def test_the_metadata_is_true():
    metadata = pytest.importorskip("hatchling.metadata.core", reason="needs hatchling: pip install --group test")
    from hatchling.plugin.manager import PluginManager

    found = metadata.ProjectMetadata(str(ROOT), PluginManager())
    assert found.version == minivae.__version__
    assert found.core.entry_points == {} and found.core.scripts == {"minivae": "minivae.app.cli:main"}
    listed = re.findall(r":: Python :: (3\.\d+)$", "\n".join(found.core.classifiers), re.MULTILINE)
    assert found.core.requires_python == f">={listed[0]}" and len(listed) == 4
    extras = PROJECT["optional-dependencies"]
    bare = [
        name for name in extras if name not in ("all", "cuda12", "cuda13", "mpi", "docs")
    ]  # hardware, MPI, the site
    assert extras["all"] == [f"minivae[{','.join(bare)}]"]


def test_the_core_asks_for_numpy_and_tqdm_alone():
    names = {re.split(r"\W", requirement)[0] for requirement in PROJECT["dependencies"]}
    assert names == {"numpy", "tqdm"}
    code = "import sys, minivae.app.cli; print({n.partition('.')[0] for n in sys.modules})"
    loaded = ast.literal_eval(subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT))
    assert not loaded & {"scipy", "sklearn", "matplotlib", "pandas", "numba", "PIL", "pyarrow", "mpi4py"}


def test_a_changelog_entry_and_the_citation_have_this_version():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[?(\d+\.\d+\.\d+)", changes, re.MULTILINE)[0] == minivae.__version__
    citation = ROOT / "CITATION.cff"
    if not citation.exists():
        pytest.skip("an sdist has no CITATION.cff")
    assert f"\nversion: {minivae.__version__}\n" in citation.read_text(encoding="utf-8")


def test_a_users_mypy_strict_accepts_a_users_program(tmp_path):
    """The package is found as installed, by its py.typed; none of our settings holds."""
    if missing := [name for name in ("mypy", "matplotlib") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"needs {missing[0]}; make lint runs the same")
    program = tmp_path / "program.py"
    program.write_bytes((ROOT / "tests/typing_user.py").read_bytes())
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", program.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def part(title):
    """What stands under a heading of docs/stability.md."""
    text = (ROOT / "docs/stability.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_list_of_public_names_is_the_one_in_python_and_each_says_what_it_is():
    assert re.findall(r"^\| `(\w+)` \|", part("Public"), re.MULTILINE) == minivae.__all__
    for name in set(minivae.__all__) - {"__version__"}:
        assert getattr(minivae, name).__doc__.strip(), name
    public = [member for name, member in inspect.getmembers(minivae.VAE) if not name.startswith("_")]
    public += [f for m in (plots, plots.panels) for f in vars(m).values() if getattr(f, "__module__", "") == m.__name__]
    for member in public:
        name = getattr(member, "__name__", "")
        if (inspect.isroutine(member) or isinstance(member, property)) and not name.startswith("_"):
            assert inspect.getdoc(member), member


def test_the_list_of_commands_and_the_version_of_files_are_the_programs():
    (commands,) = re.findall(r"The command line: (.*?), with", part("Public"), re.DOTALL)
    choices = next(a.choices for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert sorted(re.findall(r"`(\w+)`", commands)) == sorted(choices)
    assert f"a `format_version`, now {modelfile.FORMAT_VERSION}." in part("Public")
    assert issubclass(minivae.DataError, ValueError) and issubclass(minivae.NotFinite, ArithmeticError)
