"""Randomness as a function: Philox4x32-10 (Salmon et al. 2011) and the Box-Muller transform, in NumPy.

A random word depends on (seed, purpose, step, example, element) and on nothing else. There is no generator state to
save, to share out over threads, or to lose: any backend can draw any number at any time, in any order.
"""

from __future__ import annotations

import math

import numpy as np


def philox_bits(counter, key):
    """[4, n] random 32-bit words from counter [4, n] and key (k0, k1): ten rounds of multiply, exchange, xor."""
    c0, c1, c2, c3 = np.asarray(counter, np.uint64)
    even, odd = np.stack([c0, c2]), np.stack([c1, c3])
    key = np.array(key, np.uint64)[:, None]
    for _ in range(10):
        product = (even * PHILOX_MULTIPLIERS)[::-1]
        even = (product >> 32) ^ odd ^ key
        odd = product & 0xFFFFFFFF
        key = (key + PHILOX_WEYL) & 0xFFFFFFFF
    return np.stack([even[0], odd[0], even[1], odd[1]]).astype(np.uint32)


PHILOX_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], np.uint64)
PHILOX_WEYL = np.array([[0x9E3779B9], [0xBB67AE85]], np.uint64)


def philox_words(examples, columns, seed, purpose, step):
    """[B, blocks, 4] words for examples [B]: the counter is (block, example, step, purpose), the key the 64-bit seed."""
    blocks = -(-columns // 4)
    counter = np.empty((4, len(examples), blocks), np.uint64)
    counter[0], counter[1], counter[2], counter[3] = np.arange(blocks), np.asarray(examples)[:, None], step, purpose
    words = philox_bits(counter.reshape(4, -1), (seed & 0xFFFFFFFF, seed >> 32))
    return words.T.reshape(len(examples), blocks, 4)


def unit_interval(words, dtype):
    """u = ((word >> 9) + 1/2) / 2^23, strictly between 0 and 1, and exact in float32: all backends draw the same u."""
    u = (words >> 9).astype(dtype)
    u += 0.5
    u *= 2.0**-23
    return u


def philox_uniform(u, examples, seed, purpose, step):
    """u [B, C] uniform in (0, 1), row b belonging to examples[b] whatever batch it comes in."""
    words = philox_words(examples, u.shape[1], seed, purpose, step)
    u[...] = unit_interval(words, u.dtype).reshape(len(u), -1)[:, : u.shape[1]]


def philox_normal(eps, examples, seed, purpose, step):
    """eps [B, C] standard normal, row b belonging to examples[b]: Box and Muller (1958), two uniforms for two normals.

    (x, y) normal in polar coordinates: r^2 / 2 is exponential and the angle uniform, so
    x = r cos t,  y = r sin t   with   r = sqrt(-2 log u),  t = 2 pi u'
    """
    u = unit_interval(philox_words(examples, eps.shape[1], seed, purpose, step), eps.dtype)
    radius = np.sqrt(-2 * np.log(u[:, :, 0::2]))
    angle = 2 * math.pi * u[:, :, 1::2]
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=3)
    eps[...] = normals.reshape(len(eps), -1)[:, : eps.shape[1]]
