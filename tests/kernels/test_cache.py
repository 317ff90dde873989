"""What is compiled is kept in files, and a file that power, a disk or a permission has spoilt means compiling again."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

pytest.importorskip("numba", reason="the numba backend needs Numba")

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
# Seven small functions; then how many of them were compiled.
SMALL = """
from minivae.kernels.numba import interpreter
interpreter.LONG = 1e-9  # says so however short it is
made = []
for k in range(7):
    names = {"__name__": "math"}  # a module that a rebuilt function may import
    exec(compile(f"def times{k}(a):\\n    return {k} * a\\n", __file__, "exec"), names)
    made.append(interpreter.by_address(names[f"times{k}"], 1))
assert [f.ctypes(21) for f in made] == [21 * k for k in range(7)]
if __name__ == "__main__":
    print(sum(not f.cache_hits for f in made))
"""


@pytest.fixture
def run(tmp_path):
    """How many functions a process compiled, and what it said; its results are right."""
    (tmp_path / "small.py").write_text(SMALL)

    def run(before="", after=""):
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
        command = [sys.executable, "-c", f"{before}\nimport sys\nsys.path.insert(0, {str(tmp_path)!r})\n{CALL}{after}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout), done.stderr

    return run


CALL = "import runpy\nrunpy.run_path(sys.path[0] + '/small.py', run_name='__main__')\n"


def flip(data: bytes, place: int) -> bytes:
    return data[: place // 8] + bytes([data[place // 8] ^ 1 << place % 8]) + data[place // 8 + 1 :]


DAMAGE = [
    lambda data: b"",
    lambda data: data[:1000],
    lambda data: data[:20],
    lambda data: random.Random(0).randbytes(3000),
    lambda data: data[:-4096] + bytes(4096),
    lambda data: flip(data, 8 * len(data) // 2),
]


def test_a_damaged_file_is_compiled_again_once(run, tmp_path):
    """Empty, cut, noise, zeros at the end, or one bit: right results, and the next process compiles nothing."""
    compiled, said = run()
    assert compiled == 7 and said.count("compiling the numba backend for this machine, once") == 1 == said.count("\n")
    assert run() == (0, "")  # nothing is compiled, and nothing said
    files = sorted((tmp_path / "kept").rglob("*.nbc"))
    assert len(files) == 7
    for _ in range(TRIALS):
        for file, damage in zip(files, DAMAGE):
            file.write_bytes(damage(file.read_bytes()))
        files[6].unlink()
        files[6].mkdir()  # nothing can be written in its place
        compiled, said = run()
        assert compiled == 7 and said.count("cannot be kept") == 1
        files[6].rmdir()
        assert run()[0] == 1 and run() == (0, "")


def test_a_flipped_bit_is_seen_wherever_it_is(run):
    """Machine code has no parity: a wrong bit would be run."""
    after = """
import pathlib, small, minivae.kernels.numba.cache as cache
from numba.core.registry import cpu_target
one = small.made[3]
file, = pathlib.Path(one._cache.cache_path).glob("*times3*.nbc")
sound = file.read_bytes()
for place in range(0, 8 * len(sound), 8 * len(sound) // TRIES):
    data = bytearray(sound)
    data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)
    assert one._cache.load_overload(one._sig, cpu_target.target_context) is None, place
file.write_bytes(sound)
assert one._cache.load_overload(one._sig, cpu_target.target_context) is not None
"""
    assert run(after=after.replace("TRIES", str(500 * TRIALS)))[0] == 7


@pytest.mark.skipif(os.name != "posix", reason="this system has no limit on the size of files")
def test_a_full_disk_means_that_each_process_compiles_and_says_so(run, tmp_path):
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))"
    compiled, said = run(full)
    assert compiled == 7 and said.count("each process compiles, as compiled code cannot be kept: ") == 1
    assert "File too large" in said and "set NUMBA_CACHE_DIR" in said and "once" not in said
    assert not [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]
    assert run("import os; os.close(2)") == (7, "")  # there is room again; and nobody to tell
    assert run() == (0, "")


def test_another_numba_keeps_its_own_cache(run):
    """One that has moved what we build on."""
    other = "import minivae.kernels.numba.cache as cache; cache.FunctionCache = object"
    assert run(other)[0] == 7 and run(other) == (0, "")
