"""The interface as data: one row per kernel, in the words of its docstring's first line in the book.

    arrays written  <-  arrays read;  scalars;  row by row, if no example looks at another

Sizes are letters: B batch, S samples of z (K a row, S = K B), I and O a layer's, D data, Z latent, N parameters, n examples
in all, T steps. An array is of the computation's type unless another is named. dy! is read and changed as well, dx? may be
None. What every backend needs to know of a kernel beside its formula is read off here: names, order, shapes, what may be
shared out by rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KERNELS = """
dense_forward               y [B, O], a [B, O]  <-  x [B, I], W [I, O], b [O];  activation;  row by row
dense_backward              dx? [B, I], dW [I, O], db [O]  <-  dy! [B, O], x [B, I], a [B, O], y [B, O], W [I, O]; activation
sample_forward              z [S, Z], kl [B, Z]  <-  h [B, 2Z], eps [S, Z];  ;  row by row
kl_loss                     kl_mean [Z], dkl_mean [Z]  <-  kl [B, Z], weight [B];  beta, free_bits, capacity
sample_backward             dh [B, 2Z]  <-  dz [S, Z], h [B, 2Z], eps [S, Z], dkl_mean [Z], weight [B];  ;  row by row
bernoulli_loss              dlogits [B, D], nll [B]  <-  logits [B, D], x [B, D], weight [B];  ;  row by row
gaussian_loss     dmean [B, D], dlog_sigma [1], nll [B]  <-  mean [B, D], x [B, D], log_sigma [1], weight [B];; row by row
poisson_loss                dlog_rate [B, D], nll [B]  <-  log_rate [B, D], x [B, D], weight [B];  ;  row by row
observe           observed [B, D], inputs [B, E], x! [B, D]  <-  shift [D], scale [D];  ;  row by row
columns_loss      dout [B, P], dt [B, D], nll [B]  <-  out [B, P], x [B, D], observed [B, D], \
                  t [D], log_scale [D], runs int64 [R, 4], weight [B];  ;  row by row
repeat                      y [S, C]  <-  x [B, C];  ;  row by row
importance_bound            bound [B], dnll [S], terms [B, 1+Z]  <-  nll [S], kl [B, Z], z [S, Z], h [B, 2Z], eps [S, Z], \
                            weight [B];  beta;  row by row
weigh                       dout! [S, P]  <-  dnll [S];  ;  row by row
importance_backward         dh [B, 2Z]  <-  dz [S, Z], z [S, Z], h [B, 2Z], eps [S, Z], dnll [S], weight [B]; \
                            beta, estimator;  row by row
join                        y [B, P]  <-  a [B, E], c [B, C];  ;  row by row
split                       a [B, E]  <-  y [B, P];  ;  row by row
sum_rows                    total [C]  <-  part [B, C]
clip_global_norm            norm [1], g! [N]  <-  ;  max_norm
sgd_step                    p! [N], m! [N], g! [N]  <-  ;  learning_rate, momentum, nesterov
adam_step                   p! [N], m! [N], v! [N]  <-  g [N];  learning_rate, beta1, beta2, epsilon, step, weight_decay
philox_uniform              u [B, C]  <-  examples int64 [B];  seed, purpose, step;  row by row
philox_normal               eps [B, C]  <-  examples int64 [B];  seed, purpose, step;  row by row
gather                      x [B, D]  <-  data any [n, D], rows int64 [B];  divide_by;  row by row
binarize                    x! [B, D]  <-  u [B, D];  ;  row by row
record                      trace float64 [T, 2+Z]  <-  nll [B], kl_mean [Z], norm [1], weight [B];  index
"""
MEMORY = ("empty", "to_device", "to_host", "synchronize")  # where a backend's arrays live; not of a step
# scalars that are whole numbers, flags or choices, and no real numbers
WHOLE = {"activation", "estimator", "nesterov", "seed", "purpose", "step", "index"}
WHOLE |= {"transpose_a", "transpose_b", "by_columns", "width"}  # of pieces


@dataclass(frozen=True)
class Array:
    """An argument: its name, its sizes ("B", "2Z", ...), its type ("" for the computation's), what happens to it."""

    name: str
    shape: tuple[str, ...]
    dtype: str = ""
    written: bool = False  # whatever it held before
    changed: bool = False  # read, then written
    optional: bool = False


@dataclass(frozen=True)
class Kernel:
    """A row of the table."""

    name: str
    arrays: tuple[Array, ...]
    scalars: tuple[str, ...]
    by_rows: bool

    def array(self, name: str) -> Array:
        return next(array for array in self.arrays if array.name == name)

    def sizes(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The value of each letter. Raises ValueError naming the array whose type or shape does not fit the others."""
        letters: dict[str, int] = {"1": 1, "4": 4}
        real = next((a.dtype for row, a in zip(self.arrays, arrays) if a is not None and not row.dtype), None)
        later = []
        for row, array in zip(self.arrays, arrays, strict=True):
            if array is None and row.optional:
                continue
            wanted = np.dtype(row.dtype) if row.dtype not in ("", "any") else real
            if array is None or array.ndim != len(row.shape) or (row.dtype != "any" and array.dtype != wanted):
                found = "None" if array is None else f"of shape {array.shape} and type {array.dtype}"
                raise ValueError(f"{self.name}: {row.name} must be {wanted} [{', '.join(row.shape)}], and is {found}")
            for size, found in zip(row.shape, array.shape):
                if letters.setdefault(size, found) != found:
                    raise ValueError(f"{self.name}: {row.name} has shape {array.shape}, where {size} = {letters[size]}")
            later += [(row, array) for size in row.shape if len(size) > 1]
        for row, array in later:  # "2Z", "2+Z": once Z is known
            expected = tuple(value(size, letters) for size in row.shape)
            if array.shape != expected:
                raise ValueError(f"{self.name}: {row.name} has shape {array.shape}, not {expected}")
        return letters


def value(size: str, letters: Mapping[str, int]) -> int:
    """ "B", "2Z", "2+Z" or "1" as a number."""
    factor, plus, letter = re.fullmatch(r"(\d*)(\+?)([A-Za-z]?)", size).groups()  # type: ignore[union-attr]
    if not letter:
        return int(factor)
    return int(factor) + letters[letter] if plus else int(factor or 1) * letters[letter]


def is_whole(scalar: str) -> bool:
    """Whether a scalar of this name is a whole number, a flag or a choice, and no real number."""
    return scalar in WHOLE


def parse(rows: str) -> dict[str, Kernel]:
    """Kernels by name, from rows as above."""
    kernels = {}
    for line in rows.strip().splitlines():
        name, rest = line.split(maxsplit=1)
        arrays, scalars, by_rows = (*rest.split(";"), "", "")[:3]
        written, read = arrays.split("<-")
        found = [*_arrays(written, True), *_arrays(read, False)]
        kernels[name] = Kernel(name, tuple(found), tuple(re.findall(r"\w+", scalars)), "row by row" in by_rows)
    return kernels


def _arrays(text: str, written: bool) -> Iterable[Array]:
    for name, mark, dtype, sizes in re.findall(r"(\w+)([!?]?) ?(\w*) \[([^\]]*)\]", text):
        shape = tuple(size.strip() for size in sizes.split(","))
        yield Array(name, shape, dtype, written and mark in ("", "?"), mark == "!", mark == "?")


TABLE = parse(KERNELS)
