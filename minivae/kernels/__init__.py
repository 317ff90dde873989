"""The interface: which kernels a backend has, how they are called, and which backend works here.

A backend is a module of plain functions with exactly the names below; `reference` (NumPy) is their definition. There is
no base class and no current backend: `load("numpy")` returns a module and the network gets it as an argument.

The training step is data: a program, a list of `Call`s over named arrays. `bind` turns it into something to run, once
for each set of arrays. NumPy runs it call by call; a backend with a function `compile_program` may do better.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

# fmt: off
INTERFACE = (
    "dense_forward", "dense_backward", "sample_forward", "sample_backward", "kl_loss",
    "bernoulli_loss", "gaussian_loss", "gaussian_elementwise_loss",
    "clip_global_norm", "sgd_step", "adam_step",
    "philox_uniform", "philox_normal", "gather", "binarize", "record",
    "empty", "to_device", "to_host", "synchronize",
)
# fmt: on

MODULES = {"numpy": "reference", "numba": "fused_numba", "cupy": "fused_cupy"}


@dataclass(frozen=True)
class Call:
    """One line of a program: a kernel's name, the names of its arrays in order, and its scalars.

    A scalar is a value fixed when the program is written, or a `Var` looked up at every run. An array name of None is
    passed on as None.
    """

    kernel: str
    arrays: tuple[str | None, ...]
    scalars: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Var:
    """A scalar that changes from step to step: "beta", "step", "learning_rate"."""

    name: str


def bind(kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> Callable[..., None]:
    """A function run(**variables) that executes the program over these arrays."""
    if hasattr(kernels, "compile_program"):
        return kernels.compile_program(program, arrays)  # type: ignore[no-any-return]
    lines = [
        (getattr(kernels, call.kernel), [None if n is None else arrays[n] for n in call.arrays], call.scalars)
        for call in program
    ]

    def run(**variables: Any) -> None:
        for kernel, bound, scalars in lines:
            kernel(*bound, *[variables[s.name] if isinstance(s, Var) else s for s in scalars])

    return run


def load(name: str = "auto") -> ModuleType:
    """The backend's module. Raises ImportError with the reason and the fix where it cannot work here."""
    if name == "auto":
        name = "numpy"
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

        return True, f"NumPy {numpy.__version__}, the reference"
    if importlib.util.find_spec(f"minivae.kernels.{MODULES[name]}") is None:
        return False, "this version of minivae does not have it yet"
    module = importlib.import_module(f"minivae.kernels.{MODULES[name]}")
    return module.availability()  # type: ignore[no-any-return]
