"""What test_parallel runs under mpiexec: some trainings, each saved as rank 0 ends it, and what all ranks must agree on."""

from __future__ import annotations

import os
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
from mpi4py import MPI

from minivae import VAE, load_dataset
from minivae.data.inplace import InPlace
from minivae.processors import usable

BASE = {"hidden_dims": (12,), "epochs": 2, "batch_size": 50, "backend": "numpy", "dtype": "float64", "random_state": 0}
TABLE = np.random.default_rng(3).normal([5, 1e6, -3], [2, 40, 0.1], (203, 3))  # the last batch has 3 rows
TABLE[::7, 1] = np.nan
FORMS = {
    "grey": {"validation_fraction": 0.2, "max_grad_norm": 1.0, "binarize": "dynamic"},
    "free_bits": {"free_bits": 0.1, "schedule": "cosine"},
    "capacity": {"capacity": 0.1, "beta": 3.0},
    "iwae": {"objective": "iwae", "n_samples": 3, "likelihood": "gaussian"},
    "conditional": {"conditional": True, "optimizer": "sgd", "momentum": 0.8, "nesterov": True},
    "table": {"likelihood": "gaussian", "standardize": True, "missing": "input"},
    "staged": {"likelihood": "gaussian"},
    "counts": {"likelihood": "poisson", "divide_by": 1},
    "numba": {"backend": "numba", "dtype": "float32"},
    "micro": {"micro_batch_size": 7},
}


class Read:
    """A stored matrix that remembers how many rows were asked for."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.rows = array, array.shape, array.dtype, 0

    def __getitem__(self, key):
        found = self.array[key]
        self.rows += len(found)
        return found


def trained(name: str, comm) -> tuple[VAE, int]:
    digits = load_dataset("digits")
    X, y, read = digits.train[:203], digits.train_labels[:203], None
    if name == "table":
        X = TABLE
    if name == "staged":
        read = Read((X / 16).astype(np.float16))
        X = InPlace(read)
    form = {"validation_fraction": 0.0} | FORMS[name]
    vae = VAE(**BASE | form).fit(X, y if name == "conditional" else None, comm=comm)
    return vae, 0 if read is None else read.rows


def stopped(comm) -> bool:
    """Whether all end after the same step when the last is asked to stop while it trains."""
    vae = VAE(**BASE | {"epochs": 10**6, "batch_size": 8, "validation_fraction": 0.0, "max_grad_norm": None})

    def ask() -> None:
        while not hasattr(vae, "trainer_") or vae.trainer_.step < 100:
            time.sleep(0.01)
        vae.stop("enough")

    if comm.rank == comm.size - 1:
        threading.Thread(target=ask, daemon=True).start()
    vae.fit(load_dataset("digits").train, comm=comm)
    assert vae.stopped_ == ("enough" if comm.rank == comm.size - 1 else "another process was asked to stop")
    return len(set(comm.allgather((vae.trainer_.step, zlib.crc32(vae.network_.get_parameters().tobytes()))))) == 1


def told_apart(comm) -> bool:
    """Whether settings or rows that differ are an error in all."""
    X, found = load_dataset("digits").train, []
    for rows, rate in ((X, 1e-3 * (1 + comm.rank)), (X[comm.rank :], 1e-3)):
        try:
            VAE(**BASE | {"learning_rate": rate}).fit(rows, comm=comm)
        except ValueError as error:
            found.append("the processes differ" in str(error))
    return found == [True, True] or comm.size == 1


def shared_out(comm) -> bool:
    """Whether fit has shared the processors of this machine out, where nobody had said how many to take."""
    share = max(1, min(usable(), len(os.sched_getaffinity(0)) // comm.size)) if hasattr(os, "sched_getaffinity") else 1
    return os.environ.pop("MINIVAE_NUM_THREADS", "") == ("" if comm.size == 1 else str(share))


def main(out: Path) -> None:
    comm = MPI.COMM_WORLD
    limit = os.environ.pop("MINIVAE_NUM_THREADS")
    together = stopped(comm) and shared_out(comm) and told_apart(comm)
    os.environ["MINIVAE_NUM_THREADS"] = limit
    for name in FORMS:
        vae, rows = trained(name, comm)
        flat = vae.network_.get_parameters()
        same = comm.gather(
            zlib.crc32(flat.tobytes())
            ^ zlib.crc32(repr([{k: v for k, v in r.items() if "second" not in k} for r in vae.history_]).encode())
        )
        read = comm.gather(rows)
        if comm.rank == 0:
            last = {n: v for n, v in vae.history_[-1].items() if isinstance(v, float) and "second" not in n}
            np.savez(out / f"{name}.npz", p=flat, agree=len(set(same)), together=together, read=read, **last)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
