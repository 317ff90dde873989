"""CUDA without a GPU: kernels.cu compiled for the CPU, and as much of CuPy and cuBLAS as minivae uses, on NumPy's memory.

This checks what the kernels compute, what is launched with which arguments, and what a graph records and replays. It says
nothing about speed, about races between threads of a block, or about CuPy, the driver and cuBLAS themselves.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from minivae.kernels.cuda import backend, cublas, launches

HERE = Path(__file__).parent
COMPILER = shutil.which("g++") or shutil.which("clang++")


def kernel_names(source):
    """Every __global__ function, those that the GATHER macro makes too."""
    return list(launches.parameters(source))


@functools.cache
def build(source, real):
    """The kernels as a shared library with one function launch_NAME for each."""
    names = kernel_names(source)
    text = f'#include "{HERE / "shim.h"}"\n{source}\n' + "".join(
        f'extern "C" __attribute__((visibility("default"))) void launch_{n}(unsigned x, unsigned y, unsigned t, void** a) '
        f"{{ emulator::launch({n}, x, y, t, a); }}\n"
        for n in names
    )
    digest = hashlib.sha256((text + (HERE / "shim.h").read_text()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / "minivae-cuda-on-cpu"
    folder.mkdir(exist_ok=True)
    library = folder / f"{digest}-{real}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            code, fresh = Path(work) / "kernels.cpp", Path(work) / "kernels.so"
            code.write_text(text.replace('extern "C" __global__', "__global__"))
            options = ["-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-U_FORTIFY_SOURCE", f"-DREAL={real}"]
            done = subprocess.run([COMPILER, *options, "-o", fresh, code], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[:2000])
            fresh.replace(library)
    return ctypes.CDLL(str(library))


# ---- CuPy: arrays that do not turn into NumPy's by themselves, streams that record, modules of kernels


class ndarray:
    """Device memory. Whoever takes it for a NumPy array meets a TypeError, as with CuPy."""

    __array_priority__ = 100

    def __init__(self, host):
        self.host = host
        self.data = SimpleNamespace(ptr=host.ctypes.data)

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a NumPy array is not allowed; use .get()")

    dtype = property(lambda self: self.host.dtype)
    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    itemsize = property(lambda self: self.host.itemsize)
    nbytes = property(lambda self: self.host.nbytes)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)

    def __len__(self):
        return len(self.host)

    def __getitem__(self, key):
        return ndarray(self.host[key])

    def __setitem__(self, key, value):
        if isinstance(value, np.ndarray):
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        refuse_while_recording("an assignment is not a kernel of ours")
        self.host[key] = value.host if isinstance(value, ndarray) else value

    def reshape(self, *shape):
        return ndarray(self.host.reshape(*shape))

    def copy(self):
        return ndarray(self.host.copy())

    def get(self, stream=None):
        refuse_while_recording("get")
        return self.host.copy()

    def set(self, values, stream=None):
        refuse_while_recording("set")
        if values.dtype != self.dtype or values.shape != self.shape or not values.flags.c_contiguous:
            raise ValueError(f"set needs {self.shape} {self.dtype}, not {values.shape} {values.dtype}")
        self.host[...] = values


class Stream:
    current: Stream

    def __init__(self, non_blocking=False):
        self.ptr, self.recording, self.before = id(self), None, None

    def __enter__(self):
        self.before, Stream.current = Stream.current, self
        return self

    def __exit__(self, *_):
        Stream.current = self.before

    def begin_capture(self):
        self.recording = []

    def end_capture(self):
        calls, self.recording = self.recording, None
        return Graph(calls)

    def synchronize(self):
        refuse_while_recording("synchronize")


Stream.current = Stream()


class Graph:
    def __init__(self, calls):
        self.calls = calls

    def launch(self, stream=None):
        for call in self.calls:
            call()


def refuse_while_recording(what):
    if Stream.current.recording is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {what}")


def submit(call):
    """Do it now, or record it."""
    if Stream.current.recording is None:
        call()
    else:
        Stream.current.recording.append(call)


class RawModule:
    def __init__(self, code, options, backend):
        assert backend == "nvrtc" and "#include" not in code
        real = next(option.removeprefix("-DREAL=") for option in options if option.startswith("-DREAL="))
        self.library, self.parameters = build(code, real), launches.parameters(code)

    def get_function(self, name):
        function = getattr(self.library, f"launch_{name}")
        kinds = self.parameters[name]

        def kernel(grid, block, arguments):
            assert len(arguments) == len(kinds), f"{name} takes {len(kinds)} arguments, not {len(arguments)}"
            for argument, (kind, parameter) in zip(arguments, kinds):
                assert argument.dtype == kind, f"{name}: {parameter} is {np.dtype(kind)}, not {argument.dtype}"
            held = [np.array([argument]) for argument in arguments]
            places = (ctypes.c_void_p * len(held))(*[array.ctypes.data for array in held])
            x, y = (*grid, 1)[:2]
            assert 0 < x < 2**31 and 0 < y < 2**16 and block == (256,)
            submit(lambda: (held, function(x, y, block[0], places)))

        return kernel


class Gemm:
    """cuBLAS as its manual says: matrices lie by columns, op(A) is m x k, op(B) k x n, C = alpha op(A) op(B) + beta C."""

    def __init__(self):
        self.math_mode = None

    def cublasCreate_v2(self, handle):
        handle._obj.value = 1
        return 0

    def cublasGetVersion_v2(self, handle, number):
        number._obj.value = 130100
        return 0

    def cublasSetMathMode(self, handle, mode):
        self.math_mode = mode.value
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.workspace, self.stream = None, stream.value
        return 0

    def cublasSetWorkspace_v2(self, handle, pointer, size):
        self.workspace = pointer.value
        return 0

    def _gemm(self, real, handle, opa, opb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc):
        assert self.workspace and handle.value == 1 and self.stream == Stream.current.ptr
        m, n, k = m.value, n.value, k.value

        def columns(pointer, rows, cols, ld):
            assert ld.value >= max(1, rows)
            memory = np.ctypeslib.as_array(ctypes.cast(pointer.value, ctypes.POINTER(real)), (cols, ld.value))
            return memory[:, :rows].T

        rounded = self.math_mode == cublas.TF32_MATH and real is ctypes.c_float
        a = columns(A, m, k, lda) if opa.value == 0 else columns(A, k, m, lda).T
        b = columns(B, k, n, ldb) if opb.value == 0 else columns(B, n, k, ldb).T
        c, factor, keep = columns(C, m, n, ldc), alpha._obj.value, beta._obj.value

        def product():
            with np.errstate(all="ignore"):
                x, y = (to_tf32(a), to_tf32(b)) if rounded else (a, b)
                c[...] = factor * (x @ y) + (keep * c if keep else 0)
                if os.environ.get("MINIVAE_EMULATOR_CUBLAS") == "wrong" and k > 4:  # what gpu_check must survive
                    c[...] *= 1.01

        submit(product)
        return 0

    def cublasSgemm_v2(self, *arguments):
        return self._gemm(ctypes.c_float, *arguments)

    def cublasDgemm_v2(self, *arguments):
        return self._gemm(ctypes.c_double, *arguments)


def to_tf32(a):
    """Each number to the 10 bits after its first that a tensor core reads."""
    bits = np.ascontiguousarray(a).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


class Event:
    def record(self):
        self.time = time.perf_counter()

    def synchronize(self):
        refuse_while_recording("synchronize")


def fake_cupy():
    """A module with the names of CuPy that minivae uses."""

    def asarray(array):
        return array if isinstance(array, ndarray) else ndarray(np.array(array, order="C"))

    def ascontiguousarray(array, dtype=None):
        refuse_while_recording("a copy")
        return ndarray(np.ascontiguousarray(array.host, dtype))

    def empty(shape, dtype):
        refuse_while_recording("an allocation")
        host = np.empty(shape, dtype)
        host.reshape(-1).view(np.uint8)[...] = 0xA5  # what memory holds before anybody has written there
        return ndarray(host)

    runtime = SimpleNamespace(
        runtimeGetVersion=lambda: 13000, getDeviceProperties=lambda device: {"name": b"a CPU that plays a GPU"}
    )
    cuda = SimpleNamespace(
        is_available=lambda: True,
        Stream=Stream,
        Event=Event,
        get_elapsed_time=lambda start, end: 1e3 * (end.time - start.time),
        get_current_stream=lambda: Stream.current,
        Device=lambda: SimpleNamespace(id=0, synchronize=lambda: None),
        runtime=runtime,
    )
    return SimpleNamespace(
        __version__="0 (emulated)",
        __spec__=SimpleNamespace(),
        cuda=cuda,
        RawModule=RawModule,
        asarray=asarray,
        ascontiguousarray=ascontiguousarray,
        asnumpy=lambda array: array.get() if isinstance(array, ndarray) else np.asarray(array),
        empty=empty,
        zeros=lambda shape, dtype: ndarray(np.zeros(shape, dtype)),
        ndarray=ndarray,
    )


def is_running():
    """Whether the CuPy that is imported now is this one."""
    return "emulated" in getattr(sys.modules.get("cupy"), "__version__", "")


@contextmanager
def emulated():
    """minivae.kernels.cuda.backend on the emulator, for as long as anybody is inside."""

    def forget():
        backend.examine.cache_clear()
        launches._modules.clear()
        cublas._local.__dict__.clear()

    before, library = sys.modules.get("cupy"), cublas.library
    sys.modules["cupy"], cublas.library = fake_cupy(), lambda cupy: Gemm()
    forget()
    try:
        yield backend
    finally:
        sys.modules.pop("cupy", None)
        if before is not None:
            sys.modules["cupy"] = before
        cublas.library = library
        forget()
