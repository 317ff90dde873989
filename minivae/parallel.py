"""Several processes that train one model: each takes its rows of every batch, and what a batch adds up is added over all.

    rows -> mine -> forward, backward -> g, loss, kl_mean  =  sums over the processes  ->  clip -> update, the same in each

Shuffle and noise are functions of seed, step and row, and the weight of a row is 1 / (rows of the whole batch), so N
processes take the step of one, but for the order of additions. All keep the same parameters: what one process alone may
do, writing and telling, belongs to rank 0. A batch that is cut into pieces for its memory is added up in the same way.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minivae.data.batches import Examples
from minivae.data.checks import Summary, shown
from minivae.forks import unforked
from minivae.kernels import Call, Var, bind
from minivae.network import Network, Workspace
from minivae.processors import launched, usable


class Ranks:
    """The processes of a communicator of mpi4py, of which this is number `rank` of `size`; without one, this one alone."""

    def __init__(self, comm: Any = None) -> None:
        if comm is not None and not hasattr(comm, "Get_rank"):
            raise TypeError(f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, not {shown(comm)}")
        self.comm = comm
        self.rank: int = 0 if comm is None else comm.Get_rank()
        self.size: int = 1 if comm is None else comm.Get_size()

    def part(self, rows: Any) -> Any:
        """This process's rows of a batch: neighbours, as many as any other has, or one more."""
        edges = np.linspace(0, len(rows), self.size + 1).astype(int)
        return rows[edges[self.rank] : edges[self.rank + 1]]

    def add(self, values: Any, how: str = "SUM") -> Any:
        """The sums over all processes, the same in each, in the place of these values; or their MIN or MAX."""
        if self.size > 1:
            mpi = importlib.import_module("mpi4py.MPI")
            self.comm.Allreduce(mpi.IN_PLACE, values, getattr(mpi, how))
        return values

    def first(self, value: Any) -> Any:
        """What rank 0 has."""
        return value if self.size == 1 else self.comm.bcast(value, root=0)

    def require_alike(self, *told: Any) -> None:
        """Raise ValueError in all processes where they have not been told the same."""
        found = np.array([float(zlib.crc32(repr(told).encode()))])
        if self.add(found.copy(), "MIN") != self.add(found.copy(), "MAX"):
            differ = "the processes differ in settings, backend or data; pass the same to each, all rows too"
            raise ValueError(f"{differ}, or set MINIVAE_MPI=0 for each to train a model of its own")

    def merged(self, of: Summary) -> Summary:
        """The statistics of all rows from those of each process's, moved to the common mean as in Chan et al. (1979)."""
        if self.size == 1:
            return of
        seen = self.add(of.seen.copy())
        mean = self.add(of.mean * of.seen) / np.maximum(seen, 1)
        squares = self.add(of.seen * (of.variance + (of.mean - mean) ** 2))
        low, high = self.add(of.minimum.copy(), "MIN"), self.add(of.maximum.copy(), "MAX")
        broken = of.broken
        if broken is not None:
            broken = self.add(np.where(np.isnan(broken), -np.inf, broken), "MAX")
            broken = np.where(np.isinf(broken), np.nan, broken)
        rows = int(self.add(np.array([float(of.rows)]))[0])
        variance = squares / np.maximum(seen, 1)
        return replace(of, rows=rows, seen=seen, mean=mean, variance=variance, minimum=low, maximum=high, broken=broken)


ALONE = Ranks()


def world() -> Ranks:
    """All processes that a launcher has started beside this one; threads and GPUs of a machine are shared out among them.

    Raises ImportError where there are some, and no mpi4py, and RuntimeError where its MPI does not know of them.
    """
    if launched()[1] == 1:
        return ALONE
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except ImportError as error:
        fix = 'pip install "minivae[mpi]", or set MINIVAE_MPI=0 for each to train a model of its own'
        raise ImportError(f"this is one of several processes, which need mpi4py ({error}); {fix}") from error
    if mpi.COMM_WORLD.Get_size() == 1:
        raise RuntimeError(
            f"several processes were started, and mpi4py's MPI ({mpi.get_vendor()[0]}) knows of one; start them by the "
            "mpiexec of that MPI, or by srun with the --mpi that it wants"
        )
    number = share_threads(mpi.COMM_WORLD)
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # a GPU each; no process with one has tried this yet
    os.environ["CUDA_VISIBLE_DEVICES"] = seen[number % len(seen)] if seen[0] else str(number)
    return Ranks(mpi.COMM_WORLD)


def share_threads(comm: Any) -> int:
    """MINIVAE_NUM_THREADS, if unset, is this process's share of its machine's processors. Returns its number on that."""
    here = comm.Split_type(importlib.import_module("mpi4py.MPI").COMM_TYPE_SHARED)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    all_of_us = set().union(*here.allgather(mine))  # a launcher may have given each its own
    os.environ.setdefault("MINIVAE_NUM_THREADS", str(max(1, min(usable(), len(all_of_us) // here.Get_size()))))
    return int(here.Get_rank())


def after_first() -> None:
    """Before a process tells what is wrong: what is wrong in all, rank 0 has told by then, and ended them."""
    if launched()[0]:
        time.sleep(1)


class Ended(SystemExit):
    """The system asked for the end, on which all have agreed, as 128 + the signal's number: shells have it so."""


def together(run: Callable[[], int]) -> int:
    """run(), and its exit status. Where it fails in one of several processes, all end: the others would wait for ever.

    After 0, Ended, and 130 that is returned, not raised, on which all have agreed, each ends by itself, once all have come.
    """
    status, agreed = 1, False
    try:
        status = run()
        agreed = status in (0, 130)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
        agreed = status == 0 or isinstance(ended, Ended)
        raise
    except BaseException:
        after_first()
        traceback.print_exc()
        raise
    finally:
        comm = getattr(sys.modules.get("mpi4py.MPI"), "COMM_WORLD", None)
        if agreed and comm is not None:
            comm.Barrier()
        elif comm is not None and comm.Get_size() > 1:
            sys.stderr.flush()
            time.sleep(0.3)  # or mpiexec may end before it has passed on what was told
            comm.Abort(status)
    return int(status)


class Split(Workspace):
    """A workspace for steps of which each process, or each piece, takes a part of the rows.

    program: a step's, from the batch to the record. capacity: rows that go through at once. A step ends with the same
    parameters and the same trace in each process.
    """

    def __init__(
        self, network: Network, program: Sequence[Call], capacity: int, samples: int, arrays: Any, ranks: Ranks
    ) -> None:
        kernels = [call.kernel for call in program]
        update, kl = kernels.index("clip_global_norm"), max(i for i, k in enumerate(kernels) if k == "kl_loss")
        _, self.loss, self.terms, _, self.weight = map(str, program[-1].arrays)
        self.whole_kl = program[kl] if any(isinstance(s, Var) or s > 0 for s in program[kl].scalars[1:]) else None
        cut = update if self.whole_kl is None else kl + 1
        self.parts = [part for part in (program[:cut], program[cut:update]) if part]
        self.ranks = ranks
        super().__init__(network, program, capacity, samples, arrays)
        self.update = bind(network.kernels, program[update:-1], self.arrays)

    def tied(self, arrays: dict[str, Any]) -> Any:
        return [bind(self.network.kernels, part, arrays) for part in self.parts]

    def prepare(self, rows: int) -> None:
        for piece in self.pieces(np.arange(rows)):
            self.bound(len(piece), rows)

    def pieces(self, batch: np.ndarray) -> list[np.ndarray]:
        """This process's rows of a batch, as they go through."""
        mine = self.ranks.part(batch)
        count = math.ceil(len(mine) / self.capacity)
        return np.array_split(mine, count) if count else []

    @np.errstate(all="ignore")
    @unforked
    def steps(self, rows: np.ndarray, examples: Any = None, **variables: Any) -> int:
        for i, batch in enumerate(rows):
            row = self._step(batch, examples, {name: values[i].item() for name, values in variables.items()})
            if not np.isfinite(row[:2]).all():
                return i + 1
        return len(rows)

    def _step(self, batch: np.ndarray, examples: Examples, now: dict[str, Any]) -> np.ndarray:
        """One step on a batch; its row of the trace."""
        network, kernels, pieces = self.network, self.network.kernels, self.pieces(batch)
        g, terms, one = network.gradient, self.arrays[self.terms], len(pieces) == 1
        total = kernels.to_host(g) if one else np.zeros(g.shape, network.dtype)
        few = np.zeros(1 + len(terms))  # the loss, and its terms
        self.rows = 0
        for piece in pieces:
            parts, arrays = self.bound(len(piece), len(batch))
            self.rows = len(piece)
            examples.load(self, piece)
            parts[0](**now)
            loss, weight, shares = (kernels.to_host(arrays[name]) for name in (self.loss, self.weight, self.terms))
            few[0] += np.dot(weight, loss)
            few[1:] += shares
            if not np.isfinite(few[0]):
                break  # this piece's arrays tell why
            if not one:
                total += kernels.to_host(g)
        self.ranks.add(few)
        terms[...] = kernels.to_device(few[1:].astype(network.dtype))
        if self.whole_kl is not None and pieces:  # what the gradient of the KL is depends on the sum
            scalars = [now[s.name] if isinstance(s, Var) else s for s in self.whole_kl.scalars]
            sure = kernels.to_device(np.ones(1, network.dtype))
            kernels.kl_loss(terms, self.arrays["dkl_mean"], terms.copy()[None], sure, *scalars)
            parts[1](**now)
            total = kernels.to_host(g)
        self.ranks.add(total)
        if total is not g:
            g[...] = kernels.to_device(total)
        self.update(**now)
        row = np.concatenate((few[:1], kernels.to_host(self.arrays["norm"]), few[1:]))
        self.arrays["trace"][now["index"]] = kernels.to_device(row)
        return row
