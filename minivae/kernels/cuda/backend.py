"""The same names as reference.py on an NVIDIA GPU, through CuPy. A whole program is recorded by graph.py.

The CUDA functions are in kernels.cu, what is launched for each name in launches.py. This module imports without CuPy and
without a driver, so that it can say what is missing.
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

from minivae.kernels.cuda import foreign, library
from minivae.kernels.table import TABLE


def availability() -> tuple[bool, str]:
    """Whether this backend works here, and a sentence that says why or why not."""
    if importlib.util.find_spec("cupy") is None:
        return (
            False,
            'cupy is not installed; on a machine with an NVIDIA GPU run pip install "minivae[cuda13]" (or cuda12)',
        )
    return (False, foreign()) if foreign() else examine()


@functools.cache
def examine() -> tuple[bool, str]:
    """Try the GPU once in a process, with a layer whose result is known."""
    try:
        import cupy

        if not cupy.cuda.is_available():
            return False, "CuPy is installed but finds no NVIDIA driver or no GPU"
        x, W, b = (to_device(np.array(v, np.float32)) for v in ([[1, 2]], [[1, -1], [3, 1]], [0.5, -3]))
        y, a = empty((1, 2), np.float32), empty((1, 2), np.float32)
        at_once("dense_forward", y, a, x, W, b, "relu")
        if to_host(y).tolist() != [[7.5, 0.0]] or to_host(a).tolist() != [[7.5, -2.0]]:
            return False, f"the GPU computes relu(x W + b) = {to_host(y).tolist()} where it is [[7.5, 0.0]]"
        return True, description(cupy)
    except Exception as error:  # CuPy, its compiler, the driver and cuBLAS each have errors of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return False, f"CuPy cannot use this GPU: {lines[0]}"


def description(cupy: Any) -> str:
    from minivae.kernels.cuda.cublas import tf32

    device = cupy.cuda.Device().id
    name = cupy.cuda.runtime.getDeviceProperties(device)["name"].decode()
    blas = launcher(np.float32).blas
    products = f"cuBLAS {blas.version}" if blas else "a kernel of its own"
    rounding = " in TF32 (MINIVAE_TF32=1)" if blas and tf32() else ""
    return f"CuPy {cupy.__version__} on {name}, matrix products by {products}{rounding}"


def compile_program(kernels: Any, program: Any, arrays: Any) -> Any:
    from minivae.kernels.cuda.graph import RecordedProgram

    return RecordedProgram(kernels, program, arrays)


# ---- Memory


def empty(shape: Any, dtype: Any) -> Any:
    return library().empty(shape, dtype)


def to_device(array: Any) -> Any:
    return library().asarray(array)


def to_host(array: Any) -> np.ndarray:
    return library().asnumpy(array)


def synchronize() -> None:
    library().cuda.Device().synchronize()


# ---- The interface, each kernel at once


def launcher(dtype: Any) -> Any:
    from minivae.kernels.cuda.launches import Launcher

    return Launcher(library(), dtype)


def at_once(name: str, *given: Any) -> None:
    """Launch a kernel of the table on these arrays."""
    from minivae.kernels.cuda import launches

    cupy = library()

    row = TABLE[name]
    arrays, values = given[: len(row.arrays)], given[len(row.arrays) :]
    L = launcher(next(a.dtype for array, a in zip(row.arrays, arrays) if a is not None and not array.dtype))
    s, n = launches.scalars(name, *values)
    held = cupy.asarray(np.array(s, L.dtype)), cupy.asarray(np.array(n, np.int64))
    L.s, L.n = (int(array.data.ptr) if array.size else 0 for array in held)
    read = [a if a is None else launches.readable(cupy, array, a) for array, a in zip(row.arrays, arrays)]
    launches.launch(L, name, read, values)


globals().update({name: functools.partial(at_once, name) for name in TABLE})
