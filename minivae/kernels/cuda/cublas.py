"""Matrix products on the GPU by cuBLAS, called through ctypes with a handle and a workspace of our own.

CuPy's own calls of cuBLAS are refused while a graph is recorded; a handle that belongs to the recording stream and has its
workspace beforehand may be recorded like any kernel. float32 products are exact to rounding unless MINIVAE_TF32=1 asks
for the faster tensor cores, which round each factor to 10 bits.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

WORKSPACE = 2**25  # bytes: what NVIDIA recommends for Hopper, and more than others need
DEFAULT_MATH, TF32_MATH = 0, 3  # cublasMath_t
AS_IT_LIES, TURNED = 0, 1  # cublasOperation_t

_local = threading.local()  # a handle serves one thread at a time


def tf32() -> bool:
    return os.environ.get("MINIVAE_TF32", "") == "1"


def cublas(cupy: Any) -> Cublas:
    """This thread's cuBLAS on the current device. Raises OSError where the library is not to be found."""
    device = cupy.cuda.Device().id
    handles = _local.__dict__.setdefault("handles", {})
    if device not in handles:
        handles[device] = Cublas(cupy)
    return handles[device]


def library(cupy: Any) -> Any:
    """The shared library: where NVIDIA's own finder sees it, or by its plain name. Raises OSError."""
    major = cupy.cuda.runtime.runtimeGetVersion() // 1000
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    except Exception:  # not installed, or it looked in vain: each of its versions has errors of its own
        return ctypes.CDLL(f"cublas64_{major}.dll" if os.name == "nt" else f"libcublas.so.{major}")


class Cublas:
    """c = a b on row-major arrays. version: as cuBLAS numbers itself."""

    def __init__(self, cupy: Any) -> None:
        self.library, self.handle, self.stream = library(cupy), ctypes.c_void_p(), -1
        self._check("cublasCreate_v2", ctypes.byref(self.handle))
        number = ctypes.c_int()
        self._check("cublasGetVersion_v2", self.handle, ctypes.byref(number))
        self.version = f"{number.value // 10000}.{number.value // 100 % 100}"
        self._check("cublasSetMathMode", self.handle, ctypes.c_int(TF32_MATH if tf32() else DEFAULT_MATH))
        self.workspace = cupy.empty(WORKSPACE, "uint8")

    def product(self, c: Any, a: Any, b: Any, transpose_a: bool, transpose_b: bool, stream: int) -> None:
        """c [M, N] = a b; a is stored [K, M] where transposed, b [N, K].

        cuBLAS reads columns where we write rows, and so sees c^T = b^T a^T: the factors change places, and an array that
        lies as we mean it is already turned as cuBLAS needs it.
        """
        if stream != self.stream:  # a new stream forgets the workspace
            self._check("cublasSetStream_v2", self.handle, ctypes.c_void_p(stream))
            size = ctypes.c_size_t(WORKSPACE)
            self._check("cublasSetWorkspace_v2", self.handle, ctypes.c_void_p(self.workspace.data.ptr), size)
            self.stream = stream
        (M, N), K = c.shape, a.shape[0] if transpose_a else a.shape[1]
        name, real = ("cublasSgemm_v2", ctypes.c_float) if c.itemsize == 4 else ("cublasDgemm_v2", ctypes.c_double)
        turn_a, turn_b = (TURNED if turned else AS_IT_LIES for turned in (transpose_a, transpose_b))
        sizes = [ctypes.c_int(size) for size in (turn_b, turn_a, N, M, K)]
        factors = [argument for x in (b, a) for argument in (ctypes.c_void_p(x.data.ptr), ctypes.c_int(x.shape[1]))]
        result = ctypes.c_void_p(c.data.ptr), ctypes.c_int(N)
        self._check(name, self.handle, *sizes, ctypes.byref(real(1)), *factors, ctypes.byref(real(0)), *result)

    def _check(self, name: str, *arguments: Any) -> None:
        status = getattr(self.library, name)(*arguments)
        if status:
            raise RuntimeError(
                f"{name} failed with status {status}; set MINIVAE_CUDA_PRODUCTS=own to do without cuBLAS"
            )
