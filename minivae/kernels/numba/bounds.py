"""The kernels of kernels/bounds.py as compiled loops over examples r0 .. r1, each with its K samples."""

from __future__ import annotations

import numpy as np
from numba import njit

from minivae.kernels.bounds import LEAST
from minivae.kernels.numba.vector_math import exp, log

compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cfunc_wrapper=True)
compiled_sum = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, no_cfunc_wrapper=True)

IWAE, STL, DREG = range(3)  # as bounds.ESTIMATORS numbers them


@compiled
def repeat_rows(y, x, r0, r1):
    K = len(y) // len(x)
    for r in range(r0, r1):
        for s in range(r * K, r * K + K):
            for c in range(x.shape[1]):
                y[s, c] = x[r, c]


@compiled_sum
def importance_bound_rows(bound, dnll, terms, nll, kl, z, h, eps, weight, beta, r0, r1):
    real, Z = nll.dtype.type, z.shape[1]
    K, half_beta, zero, least = len(z) // len(h), real(0.5 * beta), real(0), real(LEAST)
    for r in range(r0, r1):
        volume, mean, top = zero, zero, real(-np.inf)
        for j in range(Z):
            volume += h[r, Z + j]
            terms[r, j] = kl[r, j]
        for s in range(r * K, r * K + K):
            ratio = volume
            for j in range(Z):
                ratio += eps[s, j] * eps[s, j] - z[s, j] * z[s, j]
            dnll[s] = half_beta * ratio - nll[s]
            mean += nll[s]
            top = dnll[s] if dnll[s] > top or dnll[s] != dnll[s] else top  # NaN stays
        total = zero
        for s in range(r * K, r * K + K):
            w = exp(dnll[s] - top)
            dnll[s] = zero if w < least else w
            total += dnll[s]
        for s in range(r * K, r * K + K):
            dnll[s] *= weight[r] / total
        bound[r] = -top - log(total / real(K))
        terms[r, Z] = mean / real(K)


@compiled
def weigh_rows(dout, dnll, r0, r1):
    zero = dout.dtype.type(0)
    for s in range(r0, r1):
        for p in range(dout.shape[1]):
            dout[s, p] = zero if dnll[s] == 0 else dout[s, p] * dnll[s]


@compiled
def importance_backward_rows(dh, dz, z, h, eps, dnll, weight, beta, estimator, r0, r1):
    real, Z = dz.dtype.type, dz.shape[1]
    K, b, half, one, zero = len(z) // len(h), real(beta), real(0.5), real(1), real(0)
    for r in range(r0, r1):
        dmu, dlogvar, total = dh[r, :Z], dh[r, Z:], zero
        dh[r] = zero
        for s in range(r * K, r * K + K):
            c = b * dnll[s]
            total += c
            factor = one - b + c / weight[r] if estimator == DREG else one
            for j in range(Z):
                g = dz[s, j] + c * z[s, j]
                if estimator != IWAE:
                    g = factor * (g - c * eps[s, j] / exp(half * h[r, Z + j]))
                dmu[j] += g
                dlogvar[j] += g * eps[s, j]
        for j in range(Z):
            dlogvar[j] *= half * exp(half * h[r, Z + j])
            dlogvar[j] -= half * total if estimator == IWAE else zero
