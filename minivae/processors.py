"""How many processors and how much memory: what the user says, else what the system and its neighbours leave to us."""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from minivae.forks import unforked

# what joblib and others set in their workers, so that n workers do not take n times all processors
SHARED_OUT = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
BLAS_LIMITS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
SMALL = 4e6  # multiply-adds of a product below which a second thread of a BLAS costs more than it brings
# which process this is of how many, as the mpiexec of MPICH and of Open MPI tell it, and srun
LAUNCHERS = {"PMI_RANK": "PMI_SIZE", "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE"}
LAUNCHERS["SLURM_PROCID"] = "SLURM_STEP_NUM_TASKS"
GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")  # where Linux keeps what a container may spend


def thread_limit() -> int:
    """MINIVAE_NUM_THREADS; else the least of the processors allowed, a container's quota, and the limits of SHARED_OUT."""
    wanted = os.environ.get("MINIVAE_NUM_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise ValueError(
            f"MINIVAE_NUM_THREADS must be a whole number of at least 1, not {wanted!r}; set it or unset it"
        )
    return int(wanted) if wanted else usable()


def usable() -> int:
    """The processors that this process may use and was not asked to leave to others."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [os.environ.get(name, "").split(",")[0].strip() for name in SHARED_OUT]  # OpenMP takes a list, by nesting
    asked = [int(limit) for limit in limits if limit.isdecimal() and int(limit) > 0]
    return max(1, math.ceil(min(allowed, quota(GROUPS, OWN_GROUPS), *asked)))


def launched() -> tuple[int, int]:
    """Which process this is of how many that a launcher such as mpiexec has started; with MINIVAE_MPI=0 each is alone."""
    if os.environ.get("MINIVAE_MPI", "1").strip().lower() not in ("0", "off", "no", "false"):
        for names in LAUNCHERS.items():
            rank, size = (os.environ.get(name, "") for name in names)
            if size.isdecimal() and int(size) > 1:
                return int(rank) if rank.isdecimal() else 0, int(size)
    return 0, 1


def quota(groups: Path, own: Path) -> float:
    """The processors' time that the control groups of this process may spend, in processors; infinity without a limit."""
    return min(map(_share, _folders("cpu", groups, own)), default=math.inf)


def memory_limit() -> int:
    """The bytes that this process may use: the least of the machine's memory, its control groups' and RLIMIT_AS."""
    found = list[int]()
    with suppress(AttributeError, ValueError, OSError):  # no sysconf: no limit known
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(ImportError):
        resource: Any = importlib.import_module("resource")
        found.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    for folder in _folders("memory", GROUPS, OWN_GROUPS):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # no file, or the word "max"
                found.append(int((folder / name).read_text()))
    return min((limit for limit in found if 0 < limit < 2**60), default=2**34)  # unlimited is -1, or near 2^63


def _folders(controller: str, groups: Path, own: Path) -> list[Path]:
    """The folders of this process's control groups for such a thing, inner ones first."""
    found: list[Path] = []
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):  # the groups' second version, or the first
                top = groups / controller if controllers else groups
                place = top / path.lstrip("/")
                found += [folder for folder in (place, *place.parents) if folder.is_relative_to(top)]
    return found


def _share(folder: Path) -> float:
    with suppress(OSError, ValueError, ZeroDivisionError):  # no file: no limit here; the word "max" is no number
        if (folder / "cpu.max").exists():
            spend, period = (folder / "cpu.max").read_text().split()
        else:
            spend, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(spend) / float(period) if float(spend) > 0 else math.inf
    return math.inf


@contextmanager
def one_blas_thread(network: Any, batch: int, say: Callable[[str], None]) -> Iterator[None]:
    """For a network's small products NumPy's BLAS takes one thread, set and set back by threadpoolctl if that is installed.

    Beside busy neighbours the threads of a BLAS wait for one another at each product, up to a hundred times as long as it
    takes. Other backends have no BLAS.
    """
    small = batch * max(math.prod(shape) for _, shape in network.layout) < SMALL
    with ExitStack() as stack:
        if small and network.kernels.__name__ == "minivae.kernels.reference" and usable() > 1:
            try:
                _limit_blas(1)
                stack.callback(_limit_blas, -1)
            except ImportError:
                if not any(name in os.environ for name in BLAS_LIMITS):
                    say("small products want one BLAS thread: pip install threadpoolctl, or set OPENBLAS_NUM_THREADS=1")
        yield


def _openblas() -> Any:
    """The OpenBLAS that NumPy's wheels bring, which is loaded already. Raises ImportError where this NumPy has none."""
    numpy = Path(str(importlib.import_module("numpy").__file__)).parent
    for folder in (numpy.with_name("numpy.libs"), numpy / ".dylibs"):
        for path in folder.glob("*scipy_openblas64*"):
            return ctypes.CDLL(str(path))
    raise ImportError("NumPy has no OpenBLAS of its own")


_lock, _trainings, _restore = threading.RLock(), [0], ExitStack()


@unforked
def _limit_blas(change: int) -> None:
    """So many trainings more or less: the first sets the limit, and the last sets back what was there before the first."""
    with _lock:
        if not _trainings[0]:
            try:
                limits = importlib.import_module("threadpoolctl").threadpool_limits
                _restore.enter_context(limits(1, user_api="blas"))
            except ImportError:
                library = _openblas()
                _restore.callback(
                    library.scipy_openblas_set_num_threads64_, library.scipy_openblas_get_num_threads64_()
                )
                library.scipy_openblas_set_num_threads64_(1)
        _trainings[0] += change
        if not _trainings[0]:
            _restore.close()
