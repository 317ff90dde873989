"""What each kernel of the interface launches on the GPU: which functions of kernels.cu, on how many threads, with what.

The functions below have the names and the arguments of reference.py, with a Launcher before them. A scalar that may change
from step to step is not passed on but lies in device memory, where L.s and L.n point; `scalars` says what belongs there.
So the same functions run at once (backend.py) and are recorded into a graph (graph.py).
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivae.kernels import Call
from minivae.kernels.cuda.cublas import cublas
from minivae.kernels.reference import ACTIVATIONS

THREADS = 256  # of a block, as in kernels.cu
MOST_BLOCKS = 4096  # threads take more than one number each beyond that
SQUARE = 64  # of a product's result that one block makes
GATHERS = ("uint8", "int16", "int32", "int64", "float32", "float64")
CODES = {name: np.int32(code) for code, name in enumerate(ACTIVATIONS)}
SOURCE = Path(__file__).with_name("kernels.cu")

_modules: dict[str, Any] = {}


def module(cupy: Any, dtype: np.dtype) -> Any:
    """kernels.cu compiled for float or double, once in a process; CuPy keeps the machine code on disk."""
    if dtype.name not in _modules:
        options = ("--std=c++17", f"-DREAL={'float' if dtype == np.float32 else 'double'}")
        _modules[dtype.name] = cupy.RawModule(code=SOURCE.read_text(), options=options, backend="nvrtc")
    return _modules[dtype.name]


class Launcher:
    """Launches on CuPy's current stream.

    s, n, stop: device addresses, see kernels.cu; stop may be 0. Scratch arrays are kept for the next round: call `begin`
    before each, so that a recording finds those of the round before it and allocates nothing.
    """

    def __init__(self, cupy: Any, dtype: Any) -> None:
        self.cupy, self.dtype = cupy, np.dtype(dtype)
        self.module = module(cupy, self.dtype)
        self.s = self.n = self.stop = 0
        self._functions: dict[str, Any] = {}
        self._scratch: list[Any] = []
        self._used = 0
        self.blas = None
        if os.environ.get("MINIVAE_CUDA_PRODUCTS") != "own":
            with contextlib.suppress(OSError):  # availability says which products are used
                self.blas = cublas(cupy)

    def begin(self) -> None:
        self._used = 0

    def scratch(self, size: int) -> Any:
        """Room for so many numbers, of this call alone."""
        if self._used == len(self._scratch):
            self._scratch.append(self.cupy.empty(size, self.dtype))
        self._used += 1
        return self._scratch[self._used - 1]

    def __call__(self, name: str, blocks: Any, *arguments: Any) -> None:
        """Launch a function of kernels.cu: an array as its address, an int as whole, a NumPy scalar as it is."""
        grid = blocks if isinstance(blocks, tuple) else (blocks,)
        if name not in self._functions:
            self._functions[name] = self.module.get_function(name)
        self._functions[name](grid, (THREADS,), tuple(map(as_argument, arguments)))

    def product(self, c: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """c [M, N] = a b; a is stored [K, M] where transposed, b [N, K]."""
        if self.blas is not None:
            stream = self.cupy.cuda.get_current_stream().ptr
            return self.blas.product(c, a, b, transpose_a, transpose_b, stream)
        (M, N), K = c.shape, a.shape[0] if transpose_a else a.shape[1]
        strides = (*((1, M) if transpose_a else (K, 1)), *((1, K) if transpose_b else (N, 1)))
        self("product", (-(-N // SQUARE), -(-M // SQUARE)), c, a, b, M, N, K, *strides)


def as_argument(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value
    return np.int64(value) if isinstance(value, int) else np.uint64(value.data.ptr)


def address(value: int) -> np.uint64:
    return np.uint64(value)


def spread(size: int) -> int:
    """Blocks for so many numbers."""
    return max(1, min(MOST_BLOCKS, -(-size // THREADS)))


# ---- The dense layer


def dense_forward(L, y, a, x, W, b, activation):
    L.product(a, x, W)
    L("bias_activation", spread(y.size), y, a, b, y.size, y.shape[1], CODES[activation])


def dense_backward(L, dx, dW, db, dy, x, a, y, W, activation):
    B, O = dy.shape
    L("activation_backward", -(-O // 32), dy, db, a, y, B, O, CODES[activation])
    L.product(dW, x, dy, transpose_a=True)
    if dx is not None:
        L.product(dx, dy, W, transpose_b=True)


# ---- The latent variable


def sample_forward(L, z, kl, h, eps):
    L("sample_forward", spread(z.size), z, kl, h, eps, z.size, z.shape[1])


def sample_backward(L, dh, dz, h, eps, dkl_mean, weight):
    L("sample_backward", spread(dz.size), dh, dz, h, eps, dkl_mean, weight, dz.size, dz.shape[1])


def kl_loss(L, kl_mean, dkl_mean, kl, weight, beta, free_bits):
    B, Z = kl.shape
    L("kl_loss", Z, kl_mean, dkl_mean, kl, weight, B, Z, address(L.s))


# ---- Likelihoods


def bernoulli_loss(L, dlogits, nll, logits, x, weight):
    B, D = x.shape
    L("bernoulli_loss", B, dlogits, nll, logits, x, weight, D)


def gaussian_loss(L, dmean, dlog_sigma, nll, mean, x, log_sigma, weight):
    B, D = x.shape
    part = L.scratch(B)
    L("gaussian_loss", B, dmean, part, nll, mean, x, log_sigma, weight, D)
    L("total", 1, dlog_sigma, part, B)


def gaussian_elementwise_loss(L, dout, nll, out, x, weight):
    B, D = x.shape
    L("gaussian_elementwise_loss", B, dout, nll, out, x, weight, D)


# ---- Optimizers


def clip_global_norm(L, norm, g, max_norm):
    blocks = min(spread(g.size), 4 * THREADS)
    part = L.scratch(blocks)
    L("squares", blocks, part, g, g.size)
    L("norm_of_squares", 1, norm, address(L.stop), part, blocks)
    if math.isfinite(max_norm):
        L("clip", spread(g.size), g, norm, g.size, address(L.s))


def sgd_step(L, p, m, g, learning_rate, momentum, nesterov):
    L("sgd_step", spread(p.size), p, m, g, p.size, np.int32(nesterov), address(L.s), address(L.stop))


def adam_step(L, p, m, v, g, learning_rate, beta1, beta2, epsilon, step, weight_decay):
    L("adam_step", spread(p.size), p, m, v, g, p.size, address(L.s), address(L.stop))


# ---- Randomness and batches


def _philox(L, name, out, examples, seed, purpose):
    B, C = out.shape
    words = (np.uint32(word) for word in (seed & 0xFFFFFFFF, seed >> 32, purpose))
    L(name, spread(B * -(-C // 4)), out, examples, B, C, *words, address(L.n))


def philox_uniform(L, u, examples, seed, purpose, step):
    _philox(L, "philox_uniform", u, examples, seed, purpose)


def philox_normal(L, eps, examples, seed, purpose, step):
    _philox(L, "philox_normal", eps, examples, seed, purpose)


def _gather(data):
    return f"gather_{'uint8' if data.dtype == np.bool_ else data.dtype.name}"


def gather(L, x, data, rows, divide_by):
    L(_gather(data), spread(x.size), x, data, rows, x.size, x.shape[1], address(L.s))


def gather_binarized(L, x, data, rows, divide_by, seed, purpose, step):
    """gather, philox_uniform and binarize in one, see `fused`."""
    B, D = x.shape
    words = (np.uint32(word) for word in (seed & 0xFFFFFFFF, seed >> 32, purpose))
    L(f"{_gather(data)}_binarized", spread(B * -(-D // 4)), x, data, rows, B, D, *words, address(L.s), address(L.n))


def binarize(L, x, u):
    L("binarize", spread(x.size), x, u, x.size)


def record(L, trace, nll, kl_mean, norm, weight, index):
    B, Z = len(nll), len(kl_mean)
    L("record", 1, trace, address(L.stop), nll, kl_mean, norm, weight, B, Z, address(L.n))


# ---- What lies at L.s and L.n


def scalars(kernel: str, *values: Any) -> tuple[list[Any], list[Any]]:
    """The real and the whole numbers that this kernel reads from device memory; each may be an array, one for each step."""
    if kernel == "adam_step":
        learning_rate, beta1, beta2, epsilon, step, weight_decay = values
        step_size, root_correction = learning_rate / (1 - beta1**step), 1 / np.sqrt(1 - beta2**step)
        return [step_size, root_correction, 1 - beta1, 1 - beta2, epsilon, 1 - learning_rate * weight_decay], []
    if kernel in ("kl_loss", "clip_global_norm", "gather"):
        return list(values), []
    if kernel == "sgd_step":
        return list(values[:2]), []
    if kernel == "gather_binarized":
        return [values[0]], [values[3]]
    if kernel in ("philox_uniform", "philox_normal"):
        return [], [values[2]]
    return [], list(values) if kernel == "record" else []


def fused(program: Sequence[Call]) -> list[Call]:
    """The program with gather, uniform noise and binarize as one call: the noise never reaches memory."""
    calls = list(program)
    for i in range(len(calls) - 2):
        gather, noise, binarize = calls[i : i + 3]
        names = [call.kernel for call in calls[i : i + 3]]
        if names == ["gather", "philox_uniform", "binarize"] and binarize.arrays == (gather.arrays[0], noise.arrays[0]):
            calls[i : i + 3] = [Call("gather_binarized", gather.arrays, gather.scalars + noise.scalars)]
            break
    return calls


def readable(cupy: Any, name: str, array: Any) -> Any:
    """The array as the kernels can read it: rows one after the other, `rows` in 64 bits, data of a type they know."""
    dtype = array.dtype
    if name in ("rows", "examples"):
        dtype = np.dtype(np.int64)
    elif name == "data" and dtype.name not in (*GATHERS, "bool"):
        dtype = np.dtype(np.float64)
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    if name not in ("rows", "examples", "data", "x"):  # those are only read; of others a copy would be written
        raise ValueError(f"array {name!r} must be a run of rows in memory; pass cupy.ascontiguousarray of it")
    return cupy.ascontiguousarray(array, dtype=dtype)
