"""How many threads: the user's word, then masks, a container's quota, and the limits that other libraries set in workers."""

from __future__ import annotations

import importlib
import math
import os
import sys

import numpy as np
import pytest

from minivae import VAE, processors
from minivae.architecture import Architecture
from minivae.kernels import load
from minivae.network import Network


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """Nothing set, eight processors, no control groups."""
    for name in ("MINIVAE_NUM_THREADS", *processors.SHARED_OUT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processors, "OWN_GROUPS", processors.Path("no-such-file"))


def test_all_processors_unless_something_says_otherwise():
    assert processors.thread_limit() == 8


@pytest.mark.parametrize(
    ("value", "threads"), [("1", 1), ("3,2", 3), (" 2 ", 2), ("64", 8), ("0", 8), ("many", 8), ("", 8)]
)
@pytest.mark.parametrize("name", processors.SHARED_OUT)
def test_what_joblib_sets_in_its_workers_is_a_limit(name, value, threads, monkeypatch):
    monkeypatch.setenv(name, value)
    assert processors.thread_limit() == threads


def test_minivaes_own_variable_wins_over_all(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MINIVAE_NUM_THREADS", "16")
    assert processors.thread_limit() == 16


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),  # a shell of an allocation
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "MINIVAE_MPI": "0"}, (0, 1)),
    ],
)
def test_which_of_how_many_processes_this_is_as_launchers_tell_it(environment, found, monkeypatch):
    for name in ("MINIVAE_MPI", *processors.LAUNCHERS, *processors.LAUNCHERS.values()):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert processors.launched() == found


GROUPS = {  # /proc/self/cgroup, files, processors
    "second version": ("0::/a/b\n", {"a/b/cpu.max": "250000 100000\n", "a/cpu.max": "max 100000\n"}, 2.5),
    "a parent allows less": ("0::/a/b\n", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "50000 100000"}, 0.5),
    "seen from inside": ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
    "no limit": ("0::/a\n", {"a/cpu.max": "max 100000"}, math.inf),
    "first version": (
        "5:memory:/a\n4:cpu,cpuacct:/a\n",
        {"cpu/a/cpu.cfs_quota_us": "400000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        4.0,
    ),
    "first version, no limit": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        math.inf,
    ),
    "not what Linux writes": ("nonsense\n", {"cpu.max": "50000 100000"}, math.inf),
}


@pytest.mark.parametrize("case", GROUPS)
def test_a_containers_quota_is_a_limit(case, tmp_path, monkeypatch):
    own, files, share = GROUPS[case]
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    assert processors.quota(tmp_path / "groups", tmp_path / "own") == share
    monkeypatch.setattr(processors, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(processors, "OWN_GROUPS", tmp_path / "own")
    assert processors.thread_limit() == max(1, math.ceil(min(8, share)))


MEMORY = {  # /proc/self/cgroup, files, bytes
    "second version": ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "5000\n"}, 5000),
    "first version": ("5:memory:/a\n", {"memory/a/memory.limit_in_bytes": "7000\n"}, 7000),
    "no limit": ("0::/a\n", {"a/memory.max": "max"}, math.inf),
    "of another controller": ("4:cpu:/a\n", {"cpu/a/memory.max": "5000"}, math.inf),
}


@pytest.mark.parametrize("case", MEMORY)
def test_a_containers_memory_is_a_limit(case, tmp_path, monkeypatch):
    own, files, size = MEMORY[case]
    machine = processors.memory_limit()
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(text)
    monkeypatch.setattr(processors, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(processors, "OWN_GROUPS", tmp_path / "own")
    assert processors.memory_limit() == min(machine, size) and machine > 2**26


def test_what_a_shell_allows_is_a_limit(monkeypatch):
    resource = pytest.importorskip("resource", reason="limits of a shell are a POSIX thing")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (3000 if which == resource.RLIMIT_AS else -1, -1))
    assert processors.memory_limit() == 3000


def test_a_system_that_tells_nothing_has_some_memory(monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else -1, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    assert processors.memory_limit() == 2**34


def test_numpys_blas_takes_one_thread_for_small_products_and_gets_its_own_back(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="counts BLAS threads")

    def threads():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before, seen = threads(), []
    settings = {"hidden_dims": (8,), "latent_dim": 2, "epochs": 1, "validation_fraction": 0, "backend": "numpy"}
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        for small in (1e6, 10):
            monkeypatch.setattr(processors, "SMALL", small)
            VAE(**settings, callbacks=[lambda *_: seen.append(threads())]).fit(
                np.random.default_rng(0).random((20, 10))
            )
        assert set(seen[0]) == {1} and set(seen[1]) == set(threads()) == {2}
    assert threads() == before


def test_trainings_that_overlap_set_back_what_was_there_before_the_first():
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="counts BLAS threads")

    def blas():
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    network = Network(Architecture(4, 2, (8,)), load("numpy"))
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas()
        first, second = (processors.one_blas_thread(network, 20, print) for _ in range(2))
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(blas()) == {1}  # the second goes on
        second.__exit__(None, None, None)
        assert blas() == before


def test_without_threadpoolctl_numpys_own_openblas_takes_one_thread_too(monkeypatch):
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="counts BLAS threads")
    try:
        processors._openblas()
    except ImportError as error:
        pytest.skip(f"this NumPy has another BLAS: {error}")
    controller = threadpoolctl.ThreadpoolController().select(filepath=[str(processors._openblas()._name)])
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    network, said = Network(Architecture(10, 2, (8,)), load("numpy")), []

    def threads():
        return [pool["num_threads"] for pool in controller.info()]

    with controller.limit(limits=3):
        with processors.one_blas_thread(network, 20, said.append):
            assert threads() == [1]
        assert threads() == [3] and not said


def test_where_no_threads_can_be_set_there_is_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    monkeypatch.setattr(processors, "_openblas", lambda: importlib.import_module("threadpoolctl"))
    for name in processors.BLAS_LIMITS:
        monkeypatch.delenv(name, raising=False)
    network, said = Network(Architecture(10, 2, (8,)), load("numpy")), []
    with processors.one_blas_thread(network, 20, said.append):
        assert len(said) == 1 and "pip install threadpoolctl" in said[0]
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    with processors.one_blas_thread(network, 20, said.append):
        assert len(said) == 1
