"""Which random numbers are drawn for what: seeds, purposes, and the order of an epoch.

Each number is a function of (seed, purpose, step, example, element); see kernels/philox.py. The purposes keep the
streams apart: the noise of training never meets the noise of an evaluation, whatever the steps and examples are.
"""

from __future__ import annotations

import secrets

import numpy as np

from minivae.kernels.philox import philox_normal, philox_uniform, philox_words

INIT, SHUFFLE, HOLDOUT, TRAIN_NOISE, BINARIZE_DYNAMIC, BINARIZE_STATIC, EVALUATE, PRIOR, CHECK, OBSERVE = range(1, 11)
MEASURE = 11  # not EVALUATE, by whose noise the kept epoch was chosen
ANNEAL, CALIBRATE, INFORM = 12, 13, 14


GENERATORS = (np.random.RandomState, np.random.Generator)


def resolve_seed(random_state: int | np.random.RandomState | np.random.Generator | None) -> int:
    """The 64-bit seed: random_state itself, a draw from a generator, or a fresh one from the operating system for None."""
    if isinstance(random_state, GENERATORS):
        return int.from_bytes(random_state.bytes(4), "little")
    if random_state is None:
        return secrets.randbits(32)
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise TypeError(f"random_state must be an integer or None, not {random_state!r}")
    if not 0 <= random_state < 2**64:
        raise ValueError(f"random_state must lie in 0 .. 2^64 - 1, not {random_state}")
    return int(random_state)


def permutation(n: int, seed: int, purpose: int, step: int = 0) -> np.ndarray:
    """An order of range(n) [n] as a function of (seed, purpose, step): the ranks of n random 32-bit words.

    Equal words (about n^2 / 2^33 pairs) keep their order, which the stable sort makes the same everywhere.
    """
    words = philox_words([0], n, seed, purpose, step).reshape(-1)[:n]
    return np.argsort(words, kind="stable")


def normal(shape: tuple[int, int], seed: int, purpose: int, step: int = 0, first_example: int = 0) -> np.ndarray:
    """Standard normal noise [rows, columns] in float64 for the examples first_example, first_example + 1, ..."""
    out = np.empty(shape)
    philox_normal(out, np.arange(first_example, first_example + shape[0]), seed, purpose, step)
    return out


def uniform(shape: tuple[int, int], seed: int, purpose: int, step: int = 0, first_example: int = 0) -> np.ndarray:
    """Noise uniform in (0, 1), as `normal`."""
    out = np.empty(shape)
    philox_uniform(out, np.arange(first_example, first_example + shape[0]), seed, purpose, step)
    return out
