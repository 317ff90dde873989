"""Matrix products for compiled code: the address of a single-threaded gemm, and how Numba calls it.

NumPy's wheels bring OpenBLAS, which is as fast as products get, but it is built to run its own threads, and they fight
with ours. Where the system allows (Linux), we therefore load a private copy of that very library, set to one thread:
compiled code calls it from each of its own threads, and the BLAS that NumPy uses is left alone. The copy chooses the
kernels that suit the processor, even where OPENBLAS_CORETYPE pins NumPy's to others (with AVX-512 that can be twice the
speed); MINIVAE_OPENBLAS_CORETYPE pins the copy. MINIVAE_BLAS=shared does without it.

Elsewhere the library that NumPy loaded is shared, and held to one thread while compiled code runs.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE = 101, 111, 112  # of the C interface


class NoBLAS(ImportError):
    """No library with a usable gemm was found."""


@dataclass(frozen=True)
class Blas:
    """sgemm, dgemm: addresses of cblas functions. wide: their integers have 64 bits. private: a copy of our own."""

    sgemm: int
    dgemm: int
    wide: bool
    private: bool
    description: str
    library: Any
    set_threads: Any
    get_threads: Any

    def table(self) -> np.ndarray:
        """[sgemm, dgemm, wide] as compiled code takes them."""
        return np.array([self.sgemm, self.dgemm, self.wide], np.int64)


_lock = threading.Lock()
_loaded: list[Blas] = []
_users = [0, 0]  # how many run compiled code just now; the thread count to restore (shared library only)


def load_blas() -> Blas:
    """The BLAS for compiled code, loaded once per process. Raises NoBLAS with the reason."""
    with _lock:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


@contextmanager
def single_threaded(blas: Blas) -> Iterator[None]:
    """Hold a shared BLAS to one thread for as long as anybody is inside; a private one always is."""
    if blas.private:
        yield
        return
    with _lock:
        _users[0] += 1
        if _users[0] == 1:
            _users[1] = blas.get_threads()
            blas.set_threads(1)
    try:
        yield
    finally:
        with _lock:
            _users[0] -= 1
            if _users[0] == 0:
                blas.set_threads(_users[1])


def _load() -> Blas:
    path = numpy_openblas()
    shared = _wrap(ctypes.CDLL(path), private=False)
    if os.environ.get("MINIVAE_BLAS") == "shared":
        return shared
    try:
        copy = _private_copy(path, shared)
    except (OSError, AttributeError):  # no memfd_create, no /proc, or a loader that declines
        return shared
    return copy


def numpy_openblas() -> str:
    """The file of the OpenBLAS that NumPy uses. Raises NoBLAS."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError as error:
        raise NoBLAS("threadpoolctl is missing, which finds NumPy's BLAS; run pip install 'minivae[numba]'") from error
    found = [entry for entry in threadpool_info() if entry.get("internal_api") == "openblas"]
    found.sort(key=lambda entry: "numpy" not in entry["filepath"])
    if not found:
        raise NoBLAS("NumPy was built with another BLAS than OpenBLAS; install NumPy from its wheel")
    return str(found[0]["filepath"])


def _wrap(library: Any, private: bool) -> Blas:
    for prefix, suffix in (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", "")):
        if hasattr(library, f"{prefix}cblas_sgemm{suffix}"):
            break
    else:
        raise NoBLAS("NumPy's OpenBLAS has no cblas_sgemm; install NumPy from its wheel")

    def function(name: str, kind: Any = ctypes.c_int) -> Any:
        f = getattr(library, f"{prefix}openblas_{name}{suffix}")
        f.restype = kind
        return f

    def address(name: str) -> int:
        return int(ctypes.cast(getattr(library, f"{prefix}cblas_{name}{suffix}"), ctypes.c_void_p).value or 0)

    config = function("get_config", ctypes.c_char_p)().decode()
    core = function("get_corename", ctypes.c_char_p)().decode()
    version = " ".join(config.split()[:2])
    description = f"{version}, {core} kernels" + (", a private copy with one thread" if private else "")
    wide = "USE64BITINT" in config
    threads = function("set_num_threads", None), function("get_num_threads")
    return Blas(address("sgemm"), address("dgemm"), wide, private, description, library, *threads)


def _private_copy(path: str, shared: Blas) -> Blas:
    """The same library once more, from memory, so that the loader takes it for another one."""
    wanted = {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": os.environ.get("MINIVAE_OPENBLAS_CORETYPE", "")}
    memory = os.memfd_create("openblas")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            sent = 0
            while sent < size:
                sent += os.sendfile(memory, file.fileno(), sent, size - sent)
        before = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)  # read by the library as it is loaded, and put back at once
        try:
            library = ctypes.CDLL(f"/proc/self/fd/{memory}")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
    finally:
        os.close(memory)
    copy = _wrap(library, private=True)
    if copy.sgemm == shared.sgemm or copy.get_threads() != 1:
        raise OSError("the loader gave the shared library again")
    return copy


# ---- How Numba calls it: an address as an argument, so that compiled code can be cached


def _gemm(name: str, real: Any, llvm_real: Any, wide: bool) -> Any:
    integer = ir.IntType(64 if wide else 32)

    def typing(context, address, transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            enum, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
            kinds = [enum, enum, enum, integer, integer, integer, llvm_real, pointer, integer, pointer, integer]
            kinds += [llvm_real, pointer, integer]
            function = builder.inttoptr(arguments[0], ir.FunctionType(ir.VoidType(), kinds).as_pointer())

            def number(value):  # type: ignore[no-untyped-def]
                return value if wide else builder.trunc(value, integer)

            ta, tb, m, n, k, a, lda, b, ldb, c, ldc = arguments[1:]
            values = [
                enum(ROW_MAJOR),
                builder.trunc(ta, enum),
                builder.trunc(tb, enum),
                number(m),
                number(n),
                number(k),
            ]
            values += [
                llvm_real(1.0),
                builder.inttoptr(a, pointer),
                number(lda),
                builder.inttoptr(b, pointer),
                number(ldb),
            ]
            values += [llvm_real(0.0), builder.inttoptr(c, pointer), number(ldc)]
            builder.call(function, values)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    typing.__name__ = name
    return intrinsic(typing)


sgemm_wide = _gemm("sgemm_wide", types.float32, ir.FloatType(), True)
sgemm_narrow = _gemm("sgemm_narrow", types.float32, ir.FloatType(), False)
dgemm_wide = _gemm("dgemm_wide", types.float64, ir.DoubleType(), True)
dgemm_narrow = _gemm("dgemm_narrow", types.float64, ir.DoubleType(), False)
