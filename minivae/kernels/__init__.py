"""The interface: which kernels a backend has, how they are called, and which backend works here.

A backend is a module of plain functions with exactly the names below; `reference` (NumPy) is their definition. There is
no base class and no current backend: `load("numpy")` returns a module and the network gets it as an argument.
Backends other than the reference also have `availability() -> (works, reason)`, and import without the libraries that
they need, so that they can say what is missing.

The training step is data: a program, a list of `Call`s over named arrays. Without hidden layers it is, once x and the
noise (eps, also called noise) are there,

    dense_forward     h  <-  x encoder.0.W encoder.0.b;  identity
    sample_forward    z kl  <-  h eps
    dense_forward     out  <-  z decoder.0.W decoder.0.b;  identity
    bernoulli_loss    dout nll  <-  out x weight
    kl_loss           kl_mean dkl_mean  <-  kl weight;  beta 0.0 0.0
    dense_backward    dz decoder.0.dW decoder.0.db dout  <-  z out decoder.0.W;  identity
    sample_backward   dh  <-  dz h eps dkl_mean weight
    dense_backward    encoder.0.dW encoder.0.db dh  <-  x h encoder.0.W;  identity
    clip_global_norm  norm g  <-  ;  inf
    adam_step         p m v  <-  g;  learning_rate 0.9 0.999 1e-08 update 0.0

where g is all the dW and db as one vector, and p all the W and b. `bind` turns it into something to run, once for each
set of arrays. NumPy runs it call by call; a backend with its own `compile_program` may do better.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from minivae.kernels.table import MEMORY, TABLE

INTERFACE = (*TABLE, *MEMORY)
MODULES = {"numpy": "reference", "numba": "numba.backend", "cupy": "cuda.backend"}
AUTO = ("numba", "numpy")  # what backend="auto" tries, the fastest first; cupy joins once it was measured on a GPU


@dataclass(frozen=True)
class Call:
    """One line of a program: a kernel's name, the names of its arrays in order, and its scalars.

    A scalar is a value fixed when the program is written, or a `Var` looked up at every run. An array name of None is
    passed on as None.
    """

    kernel: str
    arrays: tuple[str | None, ...]
    scalars: tuple[Any, ...] = ()

    def __str__(self) -> str:
        """As above: what it writes or changes  <-  what it reads;  scalars. An array that it gets twice stands once."""
        sides: tuple[dict[str, None], dict[str, None]] = {}, {}
        for name, array in zip(self.arrays, TABLE[self.kernel].arrays, strict=True):
            if name is not None:
                sides[not (array.written or array.changed)][name] = None
        scalars = [str(s.name if isinstance(s, Var) else s) for s in self.scalars]
        return f"{self.kernel:16}  {'  <-  '.join(map(' '.join, sides))}{';  ' * bool(scalars)}{' '.join(scalars)}"


@dataclass(frozen=True)
class Var:
    """A scalar that changes from step to step.

    step numbers the noise, update counts the optimizer's steps since its moments were zero, index is the row of the trace;
    beta, capacity and learning_rate follow their schedules.
    """

    name: str


class CallByCall:
    """A program tied to arrays, run one call after another: the definition of what a program does."""

    def __init__(self, kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> None:
        self.arrays, self.to_host, self.to_device = arrays, kernels.to_host, kernels.to_device
        self.lines = [
            (getattr(kernels, call.kernel), [None if n is None else arrays[n] for n in call.arrays], call.scalars)
            for call in program
        ]

    def __call__(self, **variables: Any) -> None:
        """Run the program once."""
        for kernel, arrays, scalars in self.lines:
            kernel(*arrays, *[variables[s.name] if isinstance(s, Var) else s for s in scalars])

    def steps(self, rows: Any, **variables: Any) -> int:
        """Run the program len(rows) times, on rows[i] with the i-th value of each variable; how often it ran.

        Stops after a run whose row of the trace holds a NaN or an infinity, and leaves that run's arrays to look at.
        """
        for i in range(len(rows)):
            self.arrays["rows"][...] = self.to_device(rows[i])
            # item(): a Python number takes the dtype of the array that it meets, a NumPy float64 would impose its own
            self(**{name: values[i].item() for name, values in variables.items()})
            if not all(map(math.isfinite, self.to_host(self.arrays["trace"][variables["index"][i], :2]))):
                return i + 1
        return len(rows)


def bind(kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> CallByCall:
    """The program tied to these arrays, as this backend runs it best."""
    runner = getattr(kernels, "compile_program", CallByCall)
    return runner(kernels, program, arrays)


def load(name: str = "auto") -> ModuleType:
    """The backend's module. "auto" is MINIVAE_BACKEND where that is set, else the first of AUTO that works here.

    Raises ImportError with the reason and the fix where the backend cannot work.
    """
    if name == "auto":
        name = os.environ.get("MINIVAE_BACKEND") or next(n for n in AUTO if availability(n)[0])
    if name not in MODULES:
        raise ValueError(f"backend {name!r} is not one of auto, {', '.join(MODULES)}")
    works, reason = availability(name)
    if not works:
        raise ImportError(f"backend {name!r} cannot be used: {reason}; choose backend='numpy'")
    return importlib.import_module(f"minivae.kernels.{MODULES[name]}")


def availability(name: str) -> tuple[bool, str]:
    """Whether this backend works here, and a sentence that says why or why not."""
    if name == "numpy":
        import numpy

        config: Any = numpy.show_config(mode="dicts")
        blas = config.get("Build Dependencies", {}).get("blas", {})
        return True, f"NumPy {numpy.__version__}, the reference; BLAS: {blas.get('name')} {blas.get('version')}"
    module = importlib.import_module(f"minivae.kernels.{MODULES[name]}")
    return module.availability()  # type: ignore[no-any-return]
