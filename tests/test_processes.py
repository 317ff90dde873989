"""Threads, forks, spawned processes and joblib: every fit ends, with the result that it has alone.

All of it in processes of their own, with a limit: what is tested for is hanging.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from minivae.kernels import availability

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
HAS_FORK = pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="this system has no fork")
# A script is told the backend and how often. `fit` is small; `busy` has products that NumPy's BLAS shares out to threads.
START = """
import os, signal, sys, threading, time, warnings
import numpy as np
from minivae import VAE, forks
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: what this is about
backend, trials = sys.argv[1], int(sys.argv[2])
X = np.random.default_rng(0).random((300, 200)).astype(np.float32)

def fit(seed, width=8, epochs=2):
    vae = VAE(hidden_dims=(width,), epochs=epochs, batch_size=150, random_state=seed, backend=backend).fit(X)
    return vae.network_.get_parameters().tobytes(), vae.score(X)

def busy(stop):
    while not stop:
        fit(0, width=256, epochs=5)

def child(work, seconds=60):
    '''What a forked child's work() told: "right", "wrong", or "hung".'''
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            code = 0 if work() else 7
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return "right" if status == 0 else "wrong"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"
"""


@pytest.fixture
def run(tmp_path):
    """Run START and a script; the last line that it printed."""

    def run(script, backend="numpy", trials=TRIALS, **environment):
        works, reason = availability(backend)
        if not works:
            pytest.skip(f"backend {backend}: {reason}")
        (tmp_path / "script.py").write_text(START + script)
        command = [sys.executable, str(tmp_path / "script.py"), backend, str(trials)]
        path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120 + 60 * trials)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    return run


@HAS_FORK
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_children_of_a_fork_in_the_middle_of_a_training_fit(run, backend):
    script = """
expected, stop = fit(1), []
threading.Thread(target=busy, args=[stop], daemon=True).start()
found = []
for i in range((10 if backend == "numpy" else 3) * trials):
    time.sleep(0.02 + 0.007 * i % 0.05)
    found.append(child(lambda: fit(1) == expected))
print(*sorted(set(found)))
sys.stdout.flush()
os._exit(0)
"""
    assert run(script, backend) == "right"


@HAS_FORK
def test_children_of_a_fork_in_the_middle_of_a_compilation_compile(run, tmp_path):
    script = """
from minivae.kernels import load
def binarize():
    x = np.full((3, 4), 0.5)
    load("numba").binarize(x, np.full((3, 4), 0.2))
    return x.sum() == 12
compiling = threading.Thread(target=binarize)
compiling.start()
found = []
while compiling.is_alive():
    while compiling.ident not in forks._inside and compiling.is_alive():
        time.sleep(0.001)
    found.append(child(binarize))
print(*sorted(set(found)))
"""
    assert run(script, "numba", 1, NUMBA_CACHE_DIR=str(tmp_path)) == "right"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_two_and_eight_fits_in_threads_are_each_what_they_are_alone(run, backend):
    script = """
from concurrent.futures import ThreadPoolExecutor
alone = [fit(seed, width) for seed in range(4) for width in (8, 64)]
for trial in range(trials):
    for n in (2, 8):
        with ThreadPoolExecutor(n) as pool:
            futures = [pool.submit(fit, seed, width) for seed in range(4) for width in (8, 64)]
            assert [future.result() for future in futures] == alone
print("same")
"""
    assert run(script, backend) == "same"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_forked_and_spawned_children_and_joblib_give_the_same_result(run, backend):
    if importlib.util.find_spec("joblib") is None:
        pytest.skip("needs joblib, which comes with scikit-learn")
    script = """
import multiprocessing
from joblib import Parallel, delayed
if __name__ == "__main__":
    alone = [fit(seed) for seed in range(2)]
    for trial in range(trials):
        for method in multiprocessing.get_all_start_methods() if trials > 1 else ["spawn"]:
            with multiprocessing.get_context(method).Pool(2) as pool:
                assert pool.map(fit, range(2)) == alone, method
        for name in ("loky", "threading", "multiprocessing") if trials > 1 else ("loky", "multiprocessing"):
            assert Parallel(2, backend=name)(delayed(fit)(seed) for seed in range(2)) == alone, name
    print("same")
"""
    assert run(script, backend) == "same"


@HAS_FORK
def test_who_forks_waits_for_others_and_not_for_itself(run):
    """Nested, from a signal's handler, two at once, during an import, interrupted, and with a limit."""
    script = """
entered, leave, order = threading.Event(), threading.Event(), []

@forks.unforked
def inside():
    entered.set()
    leave.wait(60)
    order.append("left")

def fork():
    assert child(lambda: not forks._forking) == "right"
    order.append("forked")

def fresh():
    entered.clear(), leave.clear(), order.clear()
    worker = threading.Thread(target=inside)
    worker.start()
    entered.wait(60)
    return worker

# a fork waits for another thread, and who would enter waits for the fork
worker, forking = fresh(), threading.Thread(target=fork)
late = threading.Thread(target=forks.unforked(order.append), args=["late"])
forking.start()
time.sleep(0.2)
late.start()
time.sleep(0.2)
assert order == []
leave.set()
for thread in (worker, forking, late):
    thread.join(60)
assert order[0] == "left" and set(order) == {"left", "forked", "late"}, order

# its own entries do not count, nested or from a handler, nor do they wait for another that forks from the inside
signal.signal(signal.SIGUSR1, lambda *_: fork())
both = threading.Barrier(2)
@forks.unforked
def forks_inside(wait):
    wait()
    forks.unforked(fork)()
@forks.unforked
def handled():
    both.wait(60)
    signal.raise_signal(signal.SIGUSR1)
order.clear()
other = threading.Thread(target=forks_inside, args=[lambda: both.wait(60)])
other.start()
handled()
other.join(60)
assert order == ["forked", "forked"] and not forks._inside and not forks._forking

# an import is waited for, whoever imports what
entered.clear(), order.clear()
with open(os.path.join(sys.path[0], "slow.py"), "w") as file:
    file.write("import __main__, time; __main__.entered.set(); time.sleep(0.3); __main__.order.append('imported')")
worker = threading.Thread(target=__import__, args=["slow"])
worker.start()
entered.wait(60)
assert child(lambda: __import__("slow")) == "right" and order == ["imported"]
worker.join(60)

# a lock of tqdm's, which a thread held at the fork: child and parent share it, and both go on
from tqdm import tqdm
def held():
    with tqdm.get_lock():
        inside()
def free():
    with tqdm.get_lock():
        return True
entered.clear(), leave.clear()
worker = threading.Thread(target=held)
worker.start()
entered.wait(60)
forks.LONGEST = 0.3
threading.Timer(1, leave.set).start()
assert child(free) == "right"
worker.join(60)
forks.LONGEST = 60
freed = threading.Thread(target=free, daemon=True)
freed.start()
freed.join(10)
assert not freed.is_alive()

# but not for the end of a program that runs in an import
forks.IMPORT = 0.3
entered.clear(), leave.clear()
with open(os.path.join(sys.path[0], "program.py"), "w") as file:
    file.write("import __main__; __main__.entered.set(); __main__.leave.wait(60)")
worker = threading.Thread(target=__import__, args=("program",))
worker.start()
entered.wait(60)
begun = time.monotonic()
fork()
assert 0.3 < time.monotonic() - begun < 30 and worker.is_alive()
leave.set()
worker.join(60)

# Ctrl-C ends the wait, and is not lost
worker = fresh()
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
try:
    fork()
    time.sleep(5)
    raise SystemExit("not interrupted")
except KeyboardInterrupt:
    pass
leave.set()
worker.join(60)

# a limit, for what waits for the one who forks
worker, forks.LONGEST = fresh(), 0.3
fork()
leave.set()
worker.join(60)
assert order == ["forked", "left"] and not forks._inside and not forks._forking
print("waited")
"""
    assert run(script) == "waited"


@HAS_FORK
def test_a_child_of_a_fork_that_used_the_gpu_is_told(tmp_path, run):
    """In one sentence, whatever it does with it; on the emulator, which would let it go on."""
    import cuda_on_cpu

    if not cuda_on_cpu.COMPILER:
        pytest.skip("running CUDA kernels on the CPU needs g++ or clang++")
    script = f"""
sys.path.insert(0, {os.path.dirname(__file__)!r})
import cuda_on_cpu
from minivae.kernels import availability, load

def told():
    said = []
    for use in (lambda: load("cupy"), lambda: vae.transform(X), lambda: work.steps(np.zeros((1, 150), int)), lambda: fit(0)):
        try:
            use()
        except (ImportError, RuntimeError) as error:
            said.append(str(error))
    return len(said) == 4 and all("CUDA does not survive" in line and "'spawn'" in line for line in said)

backend = "cupy"
with cuda_on_cpu.emulated():
    vae = VAE(hidden_dims=(4,), epochs=1, batch_size=150, backend="cupy").fit(X)
    work = vae.trainer_._workspace(vae.examples(X), np.zeros((2, 4)))
    print(child(told), availability("cupy")[0])
"""
    assert run(script) == "right True"
