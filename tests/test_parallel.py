"""N processes end where one does; what fails in one ends all; a training goes on with another number of them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minivae import VAE, load_dataset
from minivae.app.cli import main
from minivae.parallel import ALONE, Ranks

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
several = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None,
    reason="needs mpi4py and mpiexec: pip install mpi4py mpich",
)
ROOT = Path(__file__).parent.parent


def mpi(n, *arguments, **how):
    """Popen of n processes of python with these arguments."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "MPI"))}
    env |= {"PYTHONPATH": str(ROOT), "MINIVAE_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([MPIEXEC, "-n", str(n), sys.executable, *map(str, arguments)], env=env, **pipes, **how)


def ended(process, seconds=120):
    """(exit status, output, errors); none may hang."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of what tests/ranks.py saves, by the number of processes."""
    found = {}
    for n in (1, 2, 4):
        found[n] = tmp_path_factory.mktemp(f"ranks{n}")
        status, _, err = ended(mpi(n, ROOT / "tests/ranks.py", found[n]))
        assert status == 0, err
    return found


@several
@pytest.mark.parametrize(
    "name", ("grey", "free_bits", "capacity", "iwae", "conditional", "table", "staged", "counts", "numba", "micro")
)
def test_1_2_and_4_processes_end_with_the_same_parameters_and_history(name, runs):
    one = np.load(runs[1] / f"{name}.npz")
    exact = {"rtol": 1e-9, "atol": 1e-12} if name != "numba" else {"rtol": 1e-4, "atol": 1e-6}
    for n in (2, 4):
        other = np.load(runs[n] / f"{name}.npz")
        assert other["agree"] == 1  # to the bit, in all processes
        assert other["together"]  # they ended the same step, for a reason that is no Ctrl-C, and tell what differs
        for key in set(one.files) - {"agree", "together", "read"}:
            np.testing.assert_allclose(other[key], one[key], err_msg=f"{n} {key}", **exact)
    assert np.abs(one["p"]).max() > 0.1


@several
def test_a_process_reads_only_its_rows(runs):
    """203 rows: once for their range, then in two epochs; and of several processes each the first and the last."""
    for n in (1, 2, 4):
        read = np.load(runs[n] / "staged.npz")["read"]
        assert (
            read.sum() == 3 * 203 + 2 * n * (n > 1) and len(read) == n and np.ptp(read) <= 3 * 6
        )  # batches of 50 and of 3


def test_gradients_of_pieces_add_up_to_that_of_the_batch():
    X = load_dataset("digits").train[:203]
    settings = {"hidden_dims": (12,), "epochs": 2, "batch_size": 64, "dtype": "float64", "random_state": 0}
    for more in ({"backend": "numpy"}, {"backend": "numpy", "objective": "dreg", "n_samples": 3, "max_grad_norm": 0.5}):
        whole, pieces = (VAE(**settings | more, micro_batch_size=m).fit(X) for m in (None, 5))
        np.testing.assert_allclose(
            pieces.network_.get_parameters(), whole.network_.get_parameters(), rtol=1e-9, atol=1e-12
        )
        assert pieces.history_[-1]["grad_norm"] == pytest.approx(whole.history_[-1]["grad_norm"], rel=1e-9)
    with pytest.raises(ValueError, match="free_bits and capacity look at the KL of a whole batch"):
        VAE(micro_batch_size=8, capacity=3).fit(X)


def test_what_is_no_communicator_is_told():
    with pytest.raises(TypeError, match=r"comm must be a communicator of mpi4py, such as MPI\.COMM_WORLD, not 3"):
        VAE(epochs=1).fit(np.eye(4), comm=3)


def test_parts_are_neighbours_and_none_is_missing():
    class Comm:
        def __init__(self, rank, size):
            self.Get_rank, self.Get_size = lambda: rank, lambda: size

    for n in (0, 1, 3, 10, 127):
        for size in (1, 2, 4, 7):
            parts = [Ranks(Comm(rank, size)).part(np.arange(n)) for rank in range(size)]
            np.testing.assert_array_equal(np.concatenate(parts), np.arange(n))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert ALONE.part("abc") == "abc" and ALONE.first(3) == 3


TRAIN = ["-m", "minivae", "train"]
EXACT = ["--schedule", "constant", "--dtype", "float64", "--backend", "numpy", "--no-figures", "--hidden-dims", "12"]


@several
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    def parameters(name):
        return VAE.load(tmp_path / name / "model.npz").network_.get_parameters()

    for n, arguments in (
        (1, ["digits", "--epochs", "4", "-o", "one", *EXACT]),
        (2, ["digits", "--epochs", "2", "-o", "more", *EXACT]),
        (4, ["--resume", "more", "--epochs", "4", "--no-figures"]),
    ):
        status, out, err = ended(mpi(n, *TRAIN, *arguments, cwd=tmp_path))
        assert status == 0, err
        assert out.count("nats per example") == 2  # one process tells
        assert err.count("epoch    ") <= 4
        assert err.count(f"{n} processes share out each batch") == (n > 1)
    np.testing.assert_allclose(parameters("more"), parameters("one"), rtol=1e-8, atol=1e-11)


@several
def test_what_is_wrong_in_one_process_ends_all_with_its_message(tmp_path):
    X = np.random.default_rng(0).random((400, 5)).astype(np.float32)
    X[350, 3] = np.nan  # which the last of three looks at
    np.save(tmp_path / "bad.npy", X)
    status, _, err = ended(mpi(3, *TRAIN, "bad.npy", cwd=tmp_path))
    assert status == 1 and err.count("minivae: X has NaN at row 350, column 3") == 1
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model.npz").touch()
    status, _, err = ended(mpi(2, *TRAIN, "digits", "-o", "there", cwd=tmp_path))
    assert status == 1 and err.count("there already holds a model") == 1
    status, _, err = ended(mpi(3, *TRAIN, "digits", "--lr", "1e9", "--likelihood", "gaussian", "-o", "x", cwd=tmp_path))
    assert status == 1 and err.count("training stopped at step") == 1  # in all of them
    rows = np.random.default_rng(0).normal(size=(60, 5))
    rows[59] *= 1e25  # whose squares are no float32
    np.save(tmp_path / "far.npy", rows.astype(np.float32))
    far = ["far.npy", "--likelihood", "gaussian", "--no-standardize", "--validation-fraction", "0", "-o", "far"]
    for n in (1, 3):
        status, _, err = ended(mpi(n, *TRAIN, *far, "--batch-size", "60", cwd=tmp_path))
        assert status == 1 and err.count("infinity is 'z'; scale the data, which reach 1.26096e+25") == 1, err


@several
def test_other_commands_are_for_one_process_which_each_of_several_may_be(tmp_path, monkeypatch):
    for told in ("evaluate is for one process, and 3 were started", "there is no option --nope"):
        status, out, err = ended(mpi(3, "-m", "minivae", "evaluate", "run", *["--nope"] * ("nope" in told)))
        assert status == 2 and err.count(told) == err.count("usage:") == 1 and not out
    for option in ("--seed", "-o"):
        differ = f"main(['train', 'digits', '{option}', os.environ['PMI_RANK']])"
        status, _, err = ended(mpi(2, "-c", f"import os; from minivae.app.cli import main; {differ}", cwd=tmp_path))
        assert status == 1 and err.count("the processes differ") == err.count("set MINIVAE_MPI=0") == 1, err
    one = [*TRAIN[2:], "digits", "--epochs", "1", *EXACT, "--quiet"]
    program = f"""
import os
os.environ["MINIVAE_MPI"] = "0"
from minivae.app.cli import main
raise SystemExit(main([*{one}, "--seed", os.environ["PMI_RANK"], "-o", os.environ["PMI_RANK"]]))"""
    status, out, err = ended(mpi(2, "-c", program, cwd=tmp_path))
    assert status == 0 and out.count("nats per example") == 4, err
    monkeypatch.chdir(tmp_path)
    assert main([*one, "--seed", "1", "-o", "alone"]) == 0
    first, second, alone = (VAE.load(f"{name}/model.npz").network_.get_parameters() for name in ("0", "1", "alone"))
    np.testing.assert_array_equal(second, alone)
    assert np.abs(first - second).max() > 0.01


in_proc = pytest.mark.skipif(not Path("/proc").exists(), reason="finds the processes in /proc")


def long_run(n, folder, *more):
    """Popen of a training of n processes that has written a checkpoint, and would go on for hours."""
    process = mpi(n, *TRAIN, "digits", "--epochs", "100000", "-o", "run", *EXACT, *more, cwd=folder)
    until = time.monotonic() + 90
    while not (folder / "run/checkpoint.npz").exists():
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.1)
    return process


@several
@in_proc
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_killed_process_ends_all_and_ctrl_c_keeps_the_run(how, tmp_path, ctrl_c):
    process = long_run(3, tmp_path)
    if how == signal.SIGKILL:
        os.kill(children(process.pid)[-1], how)
    else:
        process.send_signal(how)
    status, out, err = ended(process, 60)
    assert status != 0 and VAE.load(tmp_path / "run/checkpoint.npz").trainer_.step > 0
    if how == signal.SIGINT:
        assert "interrupted by Ctrl-C" in err and "goes on from the step before the interrupt" in err
        assert VAE.load(tmp_path / "run/model.npz").history_ and "nats per example" in out


@several
@in_proc
@pytest.mark.parametrize("to", ["all", "last", "mpiexec"])
def test_sigterm_ends_all_after_the_same_step_which_is_saved(to, tmp_path):
    """To all, as Slurm sends it; the others wait for the file, and a training that goes on ends as one never ended."""
    process = long_run(3, tmp_path)
    first = VAE.load(tmp_path / "run/checkpoint.npz").trainer_.step
    time.sleep(0.5)
    found = children(process.pid)
    for pid in {"all": found, "last": found[-1:], "mpiexec": [process.pid]}[to]:
        os.kill(pid, signal.SIGTERM)
    status, out, err = ended(process, 60)
    assert status == 143 and err.count("ended by the system") == 1 and "Abort" not in err and not out.strip(), (
        out,
        err,
    )
    trainer = VAE.load(tmp_path / "run/checkpoint.npz").trainer_
    assert trainer.step > first and trainer.stopped == ""
    epochs = str(trainer.epoch + 2)
    for n, arguments in (
        (2, ["--resume", "run", "--epochs", epochs, "--no-figures"]),
        (1, ["digits", "--epochs", epochs, "-o", "one", *EXACT]),
    ):
        status, _, err = ended(mpi(n, *TRAIN, *arguments, cwd=tmp_path))
        assert status == 0, err
    one, other = (VAE.load(tmp_path / name / "model.npz").network_.get_parameters() for name in ("one", "run"))
    np.testing.assert_allclose(other, one, rtol=1e-7, atol=1e-9)


def children(pid):
    """The processes of python that descend from this one."""
    found = []
    for line in subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True).stdout.splitlines():
        child, parent, name = line.split(None, 2)
        if int(parent) == pid:
            found += [int(child)] * name.startswith("python") + children(int(child))
    return found
