"""A gradient against central differences, by random projection: for any function, yours included.

A gradient g of f at x is right if  <g, v> = d/dt f(x + t v) at t = 0  for a random direction v. One direction checks all
entries at once, for four evaluations of f. `proof.py` applies this to every kernel and to whole models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from minivae import randomness


def check_gradient(
    f: Callable[[np.ndarray], Any],
    gradient: ArrayLike,
    x: ArrayLike,
    *,
    where: ArrayLike | None = None,
    seed: int = 0,
    step: float = 2e-4,
) -> float:
    """Relative error of `gradient` (same shape as x; float64 or made so, or longdouble) along one random unit direction v.

    The derivative along v is taken by central differences of fourth order, s = step:
    ( 8 [f(x + s v) - f(x - s v)] - [f(x + 2s v) - f(x - 2s v)] ) / 12 s, exact but for s^4 |f'''''| / 30 and the rounding
    of f by s. 2e-4 makes their sum least in longdouble; in float64 1e-3 would, but a kink of f (ReLU) between x - 2s v and
    x + 2s v shows as an error. There move x, or try another seed. `where` (bool, shape of x) confines v to some entries.
    The error is relative to <g, v>, or to its usual size |g| / sqrt(n) where v happens to stand across g.
    """
    dtype = np.result_type(np.float64, np.asarray(x), np.asarray(gradient))
    x, gradient = np.asarray(x, dtype), np.asarray(gradient, dtype)
    where = np.ones(x.shape, bool) if where is None else np.asarray(where, bool)
    for name, array in (("gradient", gradient), ("where", where)):
        if array.shape != x.shape:
            raise ValueError(f"{name} has shape {array.shape} and x {x.shape}; they must agree")
    if not where.any():
        raise ValueError("there is no entry to check; pass an x, and a `where`, that has one")
    v = randomness.normal((1, x.size), seed, randomness.CHECK).reshape(x.shape).astype(dtype)
    v *= where
    v /= np.linalg.norm(v)

    def slope(s: float) -> Any:
        return (f(x + s * v) - f(x - s * v)) / (2 * s)

    numeric, analytic = (4 * slope(step) - slope(2 * step)) / 3, np.sum(gradient * v)
    if numeric == analytic:
        return 0.0
    typical = np.linalg.norm(gradient[where]) / np.sqrt(np.count_nonzero(where))
    return float(abs(numeric - analytic) / max(abs(numeric), abs(analytic), typical))
