"""What each kernel of the table launches on the GPU: which functions of kernels.cu, on how many threads, with what.

A function of kernels.cu gets its arguments by their names there: arrays, sizes in the table's letters, and `size`, the
numbers of its first array. What may change from step to step is not passed on but lies in device memory, where s (real
numbers) and n (whole numbers) point; `scalars` says what belongs there. So the same launches run at once (backend.py) and
are recorded into a graph (graph.py). A kernel with no function below launches the one CUDA function of its name.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivae.kernels import Call, Var
from minivae.kernels.bounds import ESTIMATORS
from minivae.kernels.cuda.cublas import cublas
from minivae.kernels.reference import ACTIVATIONS
from minivae.kernels.table import TABLE, Array, is_whole, parse

THREADS = 256  # of a block, as in kernels.cu
MOST_BLOCKS = 4096  # threads take more than one number each beyond that
GROUP = 128  # rows of a batch whose gradients one block turns and sums
SQUARE = 64  # of a product's result that one block makes
GATHERS = ("uint8", "int16", "int32", "int64", "float32", "float64")
CODES = {name: code for names in (ACTIVATIONS, ESTIMATORS) for code, name in enumerate(names)}
SOURCE = Path(__file__).with_name("kernels.cu")
FUSED = parse(
    "gather_binarized  x [B, D] <- data any [n, D], rows int64 [B];  divide_by, seed, purpose, step;  row by row"
)
ROWS = TABLE | FUSED
TYPES = {"whole": np.int64, "int": np.int32, "unsigned": np.uint32}

_modules: dict[str, Any] = {}


def parameters(source: str) -> dict[str, list[tuple[Any, str]]]:
    """Type and name of each parameter of every function of kernels.cu; those of the GATHER macro by the name it gives."""
    found = {}
    for name, text in re.findall(r"__global__ void ([\w#]+)\(([^)]*)\)", source):
        words = [part.replace("\\", " ").replace("*", "* ").split() for part in text.split(",")]
        found[name] = [(np.uint64 if any("*" in w for w in part) else TYPES[part[0]], part[-1]) for part in words]
    for made in re.findall(r"^GATHER\(.*, (\w+)\)", source, re.M):
        found |= {made: found["name"], f"{made}_binarized": found["name##_binarized"]}
    return {name: given for name, given in found.items() if not name.startswith("name")}


PARAMETERS = parameters(SOURCE.read_text())


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

    def scratch(self, size: int, dtype: Any = None) -> Any:
        """Room for so many numbers, of this call alone."""
        if self._used == len(self._scratch):
            self._scratch.append(self.cupy.empty(size, dtype or self.dtype))
        self._used += 1
        return self._scratch[self._used - 1]

    def __call__(self, name: str, blocks: Any, **given: Any) -> None:
        """Launch a function of kernels.cu with what its parameters are called there: arrays, numbers, and s, n, stop."""
        grid = blocks if isinstance(blocks, tuple) else (blocks,)
        if name not in self._functions:
            self._functions[name] = self.module.get_function(name)
        given = {"s": self.s, "n": self.n, "stop": self.stop} | given
        values = ((kind, given[word]) for kind, word in PARAMETERS[name])
        arguments = tuple(kind(value.data.ptr if hasattr(value, "data") else value) for kind, value in values)
        self._functions[name](grid, (THREADS,), arguments)

    def product(self, c: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """c [M, N] = a b; a is stored [K, M] where transposed, b [N, K]."""
        if self.blas is not None:
            stream = self.cupy.cuda.get_current_stream().ptr
            return self.blas.product(c, a, b, transpose_a, transpose_b, stream)
        (M, N), K = c.shape, a.shape[0] if transpose_a else a.shape[1]
        a_row, a_column = (1, M) if transpose_a else (K, 1)
        b_row, b_column = (1, K) if transpose_b else (N, 1)
        strides = {"a_row": a_row, "a_column": a_column, "b_row": b_row, "b_column": b_column}
        self("product", (-(-N // SQUARE), -(-M // SQUARE)), c=c, a=a, b=b, M=M, N=N, K=K, **strides)


def spread(size: int) -> int:
    """Blocks for so many numbers."""
    return max(1, min(MOST_BLOCKS, -(-size // THREADS)))


def launch(L: Any, kernel: str, arrays: Sequence[Any], values: Sequence[Any]) -> None:
    """Whatever this kernel of the table launches."""
    row, own = ROWS[kernel], globals().get(kernel)
    sizes = row.sizes(arrays)
    if own is not None:
        return own(L, *arrays, *values)
    given = dict(zip((array.name for array in row.arrays), arrays)) | dict(zip(row.scalars, values))
    letters = {"size": arrays[0].size} | {
        letter: sizes[letter] for letter in sizes if letter.isupper()
    }  # n is a pointer
    if "seed" in given:
        given |= {"k0": given["seed"] & 0xFFFFFFFF, "k1": given["seed"] >> 32}
    if "estimator" in given:
        given["estimator"] = CODES[given["estimator"]]
    if "data" in given:
        kind = given["data"].dtype.name.replace("bool", "uint8")
        kernel = kernel.replace("gather", f"gather_{kind}")
    if any(array.written and array.shape == ("B",) for array in row.arrays):
        blocks = letters["B"]  # each example has a sum of its own: a block for each
    else:
        blocks = spread(-(-arrays[0].size // (4 if "seed" in given else 1)))  # a thread draws four numbers at a time
    L(kernel, blocks, **letters, **given)


# ---- Kernels of more than one launch, and those that are summed by few blocks


def dense_forward(L, y, a, x, W, b, activation):
    L.product(a, x, W)
    L("bias_activation", spread(y.size), y=y, a=a, b=b, size=y.size, O=y.shape[1], activation=CODES[activation])


def dense_backward(L, dx, dW, db, dy, x, a, y, W, activation):
    B, O = dy.shape
    chunks = -(-B // GROUP)
    part = db if chunks == 1 else L.scratch(chunks * O)
    given = {"a": a, "y": y, "B": B, "O": O, "rows": GROUP, "activation": CODES[activation]}
    L("activation_backward", (-(-O // 32), chunks), dy=dy, db=part, **given)
    if chunks > 1:
        L("sum_rows", spread(O), total=db, part=part, B=chunks, C=O)
    L.product(dW, x, dy, transpose_a=True)
    if dx is not None:
        L.product(dx, dy, W, transpose_b=True)


def kl_loss(L, kl_mean, dkl_mean, kl, weight, beta, free_bits, capacity):
    B, Z = kl.shape
    L("kl_loss", Z, kl_mean=kl_mean, dkl_mean=dkl_mean, kl=kl, weight=weight, B=B, Z=Z)
    if isinstance(capacity, Var) or capacity > 0:  # a sum over what all blocks have written
        L("kl_capacity", 1, dkl_mean=dkl_mean, kl_mean=kl_mean, Z=Z)


def gaussian_loss(L, dmean, dlog_sigma, nll, mean, x, log_sigma, weight):
    B, D = x.shape
    part = L.scratch(B)
    L("gaussian_loss", B, dmean=dmean, part=part, nll=nll, mean=mean, x=x, log_sigma=log_sigma, weight=weight, D=D)
    L("total", 1, result=dlog_sigma, values=part, size=B)


def clip_global_norm(L, norm, g, max_norm):
    blocks = min(spread(g.size), 4 * THREADS)
    part = L.scratch(blocks, np.float64)
    L("squares", blocks, part=part, g=g, size=g.size)
    L("norm_of_squares", 1, norm=norm, part=part, size=blocks)
    if math.isfinite(max_norm):
        L("clip", spread(g.size), g=g, norm=norm, size=g.size)


def record(L, trace, nll, kl_mean, norm, weight, index):
    L("record", 1, trace=trace, nll=nll, kl_mean=kl_mean, norm=norm, weight=weight, B=len(nll), Z=len(kl_mean))


# ---- What lies at s and n


def scalars(kernel: str, *values: Any) -> tuple[list[Any], list[Any]]:
    """The real and the whole numbers that this kernel reads from device memory; each may be an array, one for each step.

    Real scalars, and of the whole ones those that count steps; what Adam makes of its own is the same for all parameters.
    """
    given = dict(zip(ROWS[kernel].scalars, values))
    if kernel == "adam_step":
        learning_rate, beta1, beta2, epsilon, step, weight_decay = values
        step_size, root_correction = learning_rate / (1 - beta1**step), 1 / np.sqrt(1 - beta2**step)
        return [step_size, root_correction, 1 - beta1, 1 - beta2, epsilon, 1 - learning_rate * weight_decay], []
    reals = [value for name, value in given.items() if not is_whole(name)]
    return reals, [value for name, value in given.items() if name in ("step", "index")]


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


def readable(cupy: Any, row: Array, array: Any) -> Any:
    """The array as the kernels can read it: rows one after the other, `rows` in 64 bits, data of a type they know."""
    dtype = array.dtype
    if row.dtype == "int64":
        dtype = np.dtype(np.int64)
    elif row.dtype == "any" and dtype.name not in (*GATHERS, "bool"):
        dtype = np.dtype(np.float64)
    if array.dtype == dtype and array.flags.c_contiguous:
        return array
    if row.written or row.changed:  # it would be done to a copy
        raise ValueError(f"array {row.name!r} must be a run of rows in memory; pass cupy.ascontiguousarray of it")
    return cupy.ascontiguousarray(array, dtype=dtype)
