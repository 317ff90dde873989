"""The kernels of kernels/columns.py as compiled loops over rows: a likelihood for every column, and missing cells."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from minivae.kernels import columns as book
from minivae.kernels.numba.vector_math import exp, expm1, log, nll_of_count, sigmoid, softplus

compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cfunc_wrapper=True)
compiled_sum = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, no_cfunc_wrapper=True)

(BERNOULLI, CONTINUOUS_BERNOULLI, GAUSSIAN, GAUSSIAN_ELEMENTWISE, POISSON, NEGATIVE_BINOMIAL, CATEGORICAL) = range(7)
HALF_LOG_2PI, LEAST, MOST, FEW = 0.5 * book.LOG_2PI, book.LEAST, book.MOST, book.FEW
M0, M1, M2, M3, M4 = book.MEAN_SERIES[::-1]
S0, S1, S2, S3, S4, S5 = book.STIRLING[::-1]


@compiled
def observe_rows(observed, inputs, x, shift, scale, r0, r1):
    one, zero, D = x.dtype.type(1), x.dtype.type(0), x.shape[1]
    for r in range(r0, r1):
        for d in range(D):
            seen = x[r, d] == x[r, d]
            observed[r, d] = one if seen else zero
            x[r, d] = (x[r, d] - shift[d]) / scale[d] if seen else zero
            inputs[r, d] = x[r, d]
        for d in range(D, inputs.shape[1]):
            inputs[r, d] = observed[r, d - D]


@compiled
def join_rows(y, a, c, r0, r1):
    E = a.shape[1]
    for r in range(r0, r1):
        for d in range(E):
            y[r, d] = a[r, d]
        for d in range(c.shape[1]):
            y[r, E + d] = c[r, d]


@compiled
def split_rows(a, y, r0, r1):
    for r in range(r0, r1):
        for d in range(a.shape[1]):
            a[r, d] = y[r, d]


@compiled_sum
def columns_loss_rows(dout, dt, nll, out, x, observed, t, log_scale, runs, weight, r0, r1):
    """Run by run, so that the loop over the columns of a run knows what they are."""
    real = x.dtype.type
    for r in range(r0, r1):
        w, total = weight[r], real(0)
        for d in range(x.shape[1]):
            dt[r, d] = real(0)
            total += observed[r, d] * log_scale[d]
        for i in range(len(runs)):
            kind, c, o, n = runs[i, 0], runs[i, 1], runs[i, 2], runs[i, 3]
            a, da, dt_run, t_run = out[r, o : o + n], dout[r, o : o + n], dt[r, c : c + n], t[c : c + n]
            values, seen = x[r, c : c + n], observed[r, c : c + n]
            if kind == CATEGORICAL:
                total += group(da, a, values, w * seen[0])
            elif kind == GAUSSIAN_ELEMENTWISE:
                logvar, dlogvar = out[r, o + n : o + 2 * n], dout[r, o + n : o + 2 * n]
                total += numbers(da, dlogvar, a, values, seen, logvar, w, real(0.5))
            elif kind == GAUSSIAN:
                total += numbers(da, dt_run, a, values, seen, t_run, w, real(1))
            elif kind == NEGATIVE_BINOMIAL:
                total += spread_counts(da, dt_run, a, values, seen, t_run, w)
            else:
                total += by_one_number(kind, da, a, values, seen, w)
        nll[r] = total


@compiled_sum
def by_one_number(kind, da, a, x, observed, w):
    """The kinds that the decoder's output alone describes."""
    total, zero, one = a.dtype.type(0), a.dtype.type(0), a.dtype.type(1)
    if kind == BERNOULLI:
        for d in range(len(a)):
            seen = observed[d] > zero
            total += softplus(a[d]) - x[d] * a[d] if seen else zero
            da[d] = w * (sigmoid(a[d]) - x[d]) if seen else zero
    elif kind == POISSON:
        for d in range(len(a)):
            seen = observed[d] > zero
            total += nll_of_count(a[d], x[d]) if seen else zero
            da[d] = w * (exp(a[d]) - x[d]) if seen else zero
    else:
        tiny, small, half = a.dtype.type(book.TINY), a.dtype.type(0.3), a.dtype.type(0.5)
        m0, m1, m2, m3, m4 = a.dtype.type(M0), a.dtype.type(M1), a.dtype.type(M2), a.dtype.type(M3), a.dtype.type(M4)
        for d in range(len(a)):
            seen, u, z = observed[d] > zero, max(abs(a[d]), tiny), a[d] * a[d]
            rest = -expm1(-u)
            far = (exp(-u) / -rest + one / u) if a[d] < zero else (one / rest - one / u)
            near = half + a[d] * (m0 + z * (m1 + z * (m2 + z * (m3 + z * m4))))
            total += max(a[d], zero) + log(rest / u) - x[d] * a[d] if seen else zero
            da[d] = w * ((near if u < small else far) - x[d]) if seen else zero
    return total


@compiled_sum
def numbers(dmean, dt, mean, x, observed, t, w, factor):
    """Gaussians whose log sigma is factor t, floored; dt: with respect to t."""
    real = mean.dtype.type
    total, zero, one, half, least, constant = real(0), real(0), real(1), real(0.5), real(LEAST), real(HALF_LOG_2PI)
    for d in range(len(mean)):
        above = factor * t[d] - least
        s = least + softplus(above)
        r = (mean[d] - x[d]) * exp(-s)
        seen = observed[d] > zero
        total += half * r * r + s + constant if seen else zero
        dmean[d] = w * r * exp(-s) if seen else zero
        dt[d] = w * factor * (one - r * r) * sigmoid(above) if seen else zero
    return total


@compiled_sum
def spread_counts(da, dt, a, x, observed, t, w):
    """The negative binomial, in float64: gamma functions of numbers that differ little."""
    total = 0.0
    for d in range(len(a)):
        da[d] = 0
        dt[d] = 0
        if observed[d] > 0:
            count, log_r = np.float64(x[d]), min(np.float64(t[d]), MOST)
            r, u = math.exp(log_r), np.float64(a[d]) - log_r
            e = math.exp(-abs(u))
            lift, slope, R = 0.0, 0.0, r + 8
            for k in range(8):
                lift -= math.log1p(count / (r + k))
                slope += count / ((r + k) * (count + r + k))
            lift += (R - 0.5) * math.log1p(count / R) + count * math.log(count + R) - count
            lift += stirling(count + R) - stirling(R)
            slope += math.log1p(count / R) + 0.5 * count / (R * (count + R)) + d_stirling(count + R) - d_stirling(R)
            share = max(u, 0.0) + math.log1p(e)
            total += log_factorial(count) - lift + r * share + count * (max(-u, 0.0) + math.log1p(e))
            slope_a = (r * (e if u < 0 else 1.0) - count * (1.0 if u < 0 else e)) / (1 + e)
            da[d] = w * slope_a
            dt[d] = w * (r * (share - slope) - slope_a if t[d] < MOST else 0.0)
    return a.dtype.type(total)


@compiled
def log_factorial(x):
    if x > FEW:
        return (x + 0.5) * math.log(x) - x + HALF_LOG_2PI + stirling(x)
    product = 1.0
    for k in range(2, FEW + 1):
        product *= k if x >= k else 1.0
    return math.log(product)


@compiled
def stirling(x):
    z = 1 / (x * x)
    return (S0 + z * (S1 + z * (S2 + z * (S3 + z * (S4 + z * S5))))) / x


@compiled
def d_stirling(x):
    z = 1 / (x * x)
    return -z * (S0 + z * (3 * S1 + z * (5 * S2 + z * (7 * S3 + z * (9 * S4 + z * 11 * S5)))))


@compiled_sum
def group(da, a, x, w):
    """One group of one-hot columns: w is 0 where it was not observed."""
    real = a.dtype.type
    top, total, hit = a[0], real(0), real(0)
    for c in range(1, len(a)):
        top = max(top, a[c])
    for c in range(len(a)):
        da[c] = exp(a[c] - top)
        total += da[c]
        hit += a[c] * x[c]
    for c in range(len(a)):
        da[c] = w * (da[c] / total - x[c]) if w > real(0) else real(0)
    return log(total) + top - hit if w > real(0) else real(0)


@compiled_sum
def sum_rows_all(total, part):
    for d in range(part.shape[1]):
        total[d] = 0
    for r in range(len(part)):
        for d in range(part.shape[1]):
            total[d] += part[r, d]
