"""What a missing cell may have held: its expectation given the cells of its row that were observed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minivae.data.batches import Examples
from minivae.evaluation.inference import column_means, decode, finite_first
from minivae.evaluation.scores import log_weights, shared_noise
from minivae.likelihoods import ONE_HOT
from minivae.network import Network

DRAWS = 200  # of z for each row


def impute(network: Network, examples: Examples, n_samples: int, seed: int) -> np.ndarray:
    """E[x | x_obs] [n, D] of every cell, in the table's own units, by importance sampling (Mattei and Frellsen 2019).

    sum_k wt_k mean_k with wt = softmax(log w),  w_k = p(x_obs|z_k) p(z_k) / q(z_k|x_obs),  of n_samples draws from q(z|x).
    Of a category it is the probability of each value. A row so far from the data that no draw has a weight gets what the
    decoder says at z = 0.
    """
    means = column_means(network.arch)
    eps = shared_noise(n_samples, network.arch.latent_dim, seed)

    def expected(network: Network, which: Any) -> np.ndarray:
        some = replace(examples, rows=examples.rows[which])
        n = len(some.rows)
        total, top, result = np.zeros((n, 1)), np.full((n, 1), -np.inf), np.zeros((n, network.arch.data_dim))
        for piece, work, log_w in log_weights(network, some, seed, eps):
            new = np.maximum(top[piece], np.nan_to_num(log_w, nan=-np.inf)[:, None])
            before, weight = np.exp(top[piece] - new), np.exp(log_w[:, None] - new)
            before, weight = (np.nan_to_num(part, nan=0.0) for part in (before, weight))  # of -inf less -inf
            total[piece] = total[piece] * before + weight
            result[piece] = result[piece] * before + np.where(weight > 0, weight * means(work.get("out")), 0)
            top[piece] = new
        return np.asarray(result / total)

    result = finite_first(expected, network)
    lost = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if lost.size:
        side = None if examples.side is None else examples.side[examples.rows[lost]]
        result[lost] = decode(network, np.zeros((len(lost), network.arch.latent_dim)), side)
    return result


def fill(X: np.ndarray, expected: np.ndarray, network: Network) -> np.ndarray:
    """X with its NaN replaced: numbers and counts by what is expected, a category by its most probable value."""
    filled = expected.copy()
    for run in network.arch.runs:
        if run.data == ONE_HOT:
            filled[:, run.columns] = np.eye(run.count)[expected[:, run.columns].argmax(axis=1)]
    return np.where(np.isnan(X), filled, X)
