"""`make dist`, after the build: the wheel as a user meets it, in an empty environment, far from the checkout.

    python tests/release.py dist

Prints the size of each file, then what it runs; exit status 1 if anything fails. It installs numpy and tqdm; a minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

LIMIT = 470_000  # bytes of a wheel


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output; no variable of ours leads it to a checkout."""
    print("$", *command, flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MINIVAE"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}")
    return done.stdout


def use(wheel: Path, home: Path) -> None:
    """Installs the wheel, and runs what a user runs first, by both names of the command."""
    venv.create(home / "env", with_pip=True)
    scripts = home / "env" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "-q", wheel, cwd=home)
    where = Path(run(scripts / "python", "-c", "import minivae; print(minivae.__file__)", cwd=home).strip())
    assert where.is_relative_to(home / "env"), where
    run(scripts / "minivae", "train", "digits", "--epochs", "2", "-o", home / "elsewhere" / "run", cwd=home)
    run(scripts / "python", "-m", "minivae", "sample", "elsewhere/run", "-n", "5", "-o", "x.csv", cwd=home)
    assert len((home / "x.csv").read_text().splitlines()) == 1 + 5, "a header and five rows"
    print(run(scripts / "minivae", "gradcheck", cwd=home).splitlines()[-1])


def check_the_source(sdist: Path, home: Path) -> None:
    """The tests that read most files beside the package run on what was unpacked, and all can be collected."""
    with tarfile.open(sdist) as archive:
        archive.extractall(home, filter="data")
    root = home / sdist.name.removesuffix(".tar.gz")
    for what in (["tests/test_docs.py", "tests/test_release.py", "tests/test_site.py"], ["--collect-only"]):
        print(run(sys.executable, "-m", "pytest", "-q", *what, cwd=root).splitlines()[-1])


def main(folder: Path) -> None:
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    for file in (wheel, sdist):
        print(f"{file.stat().st_size:>9,} bytes  {file}")
    assert wheel.stat().st_size < LIMIT, f"{wheel} has more than {LIMIT:,} bytes"
    with tempfile.TemporaryDirectory() as home:
        use(wheel, Path(home).resolve())
        check_the_source(sdist, Path(home).resolve())


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
