"""The kernels of reference.py as compiled loops over rows r0 .. r1 of the batch, or over a piece first .. last of a vector.

Shapes, names and formulas are the reference's. Where it makes several passes over memory, one pass does here: noise and
KL, loss and gradient. NAME_rows does a kernel of the table row by row, and NAME_all what then is left: sums over all rows.
The kernels that are shared out in other ways are made of PIECES, which stand in the table's own words below.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint32, uint64

from minivae.kernels import reference
from minivae.kernels.numba import bounds, columns
from minivae.kernels.numba.gemm import product
from minivae.kernels.numba.threads import load_number
from minivae.kernels.numba.vector_math import exp, expm1, log, nll_of_count, sigmoid, sincos_2pi, softplus, tanh
from minivae.kernels.table import TABLE, parse

# by_columns: first .. last are columns of the result and not rows, for a thread that takes its share of the columns
PIECES = parse("""
gemm                  c [M, N]  <-  a [P, Q], b [R, S];  transpose_a, transpose_b, by_columns
bias_activation       y [B, O], a! [B, O]  <-  b [O];  activation, by_columns
activation_backward   dy! [B, O]  <-  a [B, O], y [B, O];  activation
bias_gradient         db [O]  <-  dy [B, O]
kl_weight             dkl_mean [Z]  <-  ;  beta
squared_norm          squares float64 [T]  <-  g [N];  width
sigma_gradient        dlog_sigma [1]  <-  mean [B, D], x [B, D], log_sigma [1], weight [B]
norm_of_squares       norm [1]  <-  squares float64 [T];
scale_to_norm         g! [N]  <-  norm [1];  max_norm
sgd_update            p! [N], m! [N]  <-  g [N];  learning_rate, momentum, nesterov
adam_update           p! [N], m! [N], v! [N]  <-  g [N];  learning_rate, beta1, beta2, epsilon, step, weight_decay
""")

# Contraction is the only liberty: NaN, infinity and the order of sums stay as written. reassociate is added where a sum
# over a row may be taken in any order, so that it can be vectorised.
compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"}, no_cfunc_wrapper=True)
compiled_sum = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc"}, no_cfunc_wrapper=True)

IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, SOFTPLUS, GELU = range(7)  # as reference.ACTIVATIONS numbers them
LOG_2PI = reference.LOG_2PI
GELU_C, GELU_K = reference.GELU_C, reference.GELU_K
ONE = np.int64(1)  # for a plain 1, Numba would compile `product` once more


# ---- Activations, each with its derivative


@compiled
def activate(y, a, b, f):
    """One row: a += b, y = f(a). y may be a: then the loops below, which know one array only, still become vectors."""
    zero, one, hundredth, half = y.dtype.type(0), y.dtype.type(1), y.dtype.type(0.01), y.dtype.type(0.5)
    c, k = y.dtype.type(GELU_C), y.dtype.type(GELU_K)
    n = len(y)
    if y.ctypes.data != a.ctypes.data:
        for o in range(n):
            y[o] = a[o]
        for o in range(n):
            a[o] += b[o]
    if f == IDENTITY:
        for o in range(n):
            y[o] += b[o]
    elif f == RELU:
        for o in range(n):
            value = y[o] + b[o]
            y[o] = zero if value < 0 else value  # NaN stays
    elif f == LEAKY_RELU:
        for o in range(n):
            value = y[o] + b[o]
            y[o] = hundredth * value if value < 0 else value
    elif f == TANH:
        for o in range(n):
            y[o] = tanh(y[o] + b[o])
    elif f == SIGMOID:
        for o in range(n):
            y[o] = sigmoid(y[o] + b[o])
    elif f == SOFTPLUS:
        for o in range(n):
            y[o] = softplus(y[o] + b[o])
    else:
        for o in range(n):
            value = y[o] + b[o]
            y[o] = value * (half * (one + tanh(c * value * (one + k * value * value))))


@compiled
def activate_backward(dy, a, y, f):
    """One row: dy *= f'(a), from y wherever it can be written so."""
    zero, one, hundredth, half = dy.dtype.type(0), dy.dtype.type(1), dy.dtype.type(0.01), dy.dtype.type(0.5)
    c, k, three = dy.dtype.type(GELU_C), dy.dtype.type(GELU_K), dy.dtype.type(3)
    n = len(dy)
    if f == RELU:
        for o in range(n):
            dy[o] *= one if y[o] > 0 else zero
    elif f == LEAKY_RELU:
        for o in range(n):
            dy[o] *= hundredth if y[o] <= 0 else one
    elif f == TANH:
        for o in range(n):
            dy[o] *= one - y[o] * y[o]
    elif f == SIGMOID:
        for o in range(n):
            dy[o] *= y[o] * (one - y[o])
    elif f == SOFTPLUS:
        for o in range(n):
            dy[o] *= -expm1(-y[o])
    elif f == GELU:
        for o in range(n):
            square = a[o] * a[o]
            t = tanh(c * a[o] * (one + k * square))
            dy[o] *= half * (one + t) + half * a[o] * (one - t * t) * (c * (one + three * k * square))


# ---- The dense layer


@compiled
def at(array, r, c):
    """The address of array[r, c]. r and c are whole numbers."""
    return array.ctypes.data + (r * array.shape[1] + c) * array.itemsize


@compiled
def gemm(c, a, b, transpose_a, transpose_b, by_columns, first, last, scratch):
    """Rows (or columns) first .. last of c [M, N] = a b; a is stored [K, M] where transposed, b [N, K]."""
    (r0, r1), (c0, c1) = (first, last), (np.int64(0), np.int64(c.shape[1]))
    if by_columns:
        r0, r1, c0, c1 = np.int64(0), np.int64(len(c)), first, last
    if len(c) == 1 and transpose_b:
        return row_by_rows(c, a, b, c0, c1)
    k, left, a_row, a_column = a.shape[1], at(a, r0, 0), np.int64(a.shape[1]), ONE
    if transpose_a:
        k, left, a_row, a_column = a.shape[0], at(a, 0, r0), ONE, np.int64(a.shape[1])
    right, to = at(b, c0, 0) if transpose_b else at(b, 0, c0), at(c, r0, c0)
    product(r1 - r0, c1 - c0, k, left, a_row, a_column, right, b.shape[1], transpose_b, to, c.shape[1], scratch)


@compiled_sum
def row_by_rows(c, a, b, c0, c1):
    """c [1, c0:c1] = a [1, K] b^T: a sum along each row of b, which is read but once and so not packed."""
    for j in range(c0, c1):
        total = a[0, 0] * b[j, 0]
        for k in range(1, a.shape[1]):
            total += a[0, k] * b[j, k]
        c[0, j] = total


@compiled
def bias_activation(y, a, b, activation, by_columns, first, last):
    """a += b, y = f(a). y may be a."""
    if by_columns:
        for r in range(len(y)):
            activate(y[r, first:last], a[r, first:last], b[first:last], activation)
    else:
        for r in range(first, last):
            activate(y[r], a[r], b, activation)


@compiled
def activation_backward(dy, a, y, activation, r0, r1):
    """dy becomes da."""
    if activation != IDENTITY:
        for r in range(r0, r1):
            activate_backward(dy[r], a[r], y[r], activation)


@compiled
def bias_gradient(db, dy):
    for o in range(len(db)):
        db[o] = 0
    for r in range(len(dy)):
        for o in range(len(db)):
            db[o] += dy[r, o]


# ---- The latent variable


@compiled
def sample_forward_rows(z, kl, h, eps, r0, r1):
    half, one = z.dtype.type(0.5), z.dtype.type(1)
    Z, K = z.shape[1], len(z) // len(h)
    for r in range(r0, r1):
        for j in range(Z):
            mu, logvar = h[r, j], h[r, Z + j]
            sigma = exp(half * logvar)
            z[r * K, j] = mu + sigma * eps[r * K, j]
            kl[r, j] = half * (sigma * sigma + mu * mu - logvar - one)
        for s in range(r * K + 1, r * K + K):
            for j in range(Z):
                z[s, j] = h[r, j] + exp(half * h[r, Z + j]) * eps[s, j]


@compiled
def sample_backward_rows(dh, dz, h, eps, dkl_mean, weight, r0, r1):
    half, one = dz.dtype.type(0.5), dz.dtype.type(1)
    Z, K = dz.shape[1], len(dz) // len(h)
    for r in range(r0, r1):
        w = weight[r]
        for j in range(Z):
            dh[r, j], dh[r, Z + j] = dz[r * K, j], dz[r * K, j] * eps[r * K, j]
        for s in range(r * K + 1, r * K + K):
            for j in range(Z):
                dh[r, j] += dz[s, j]
                dh[r, Z + j] += dz[s, j] * eps[s, j]
        for j in range(Z):
            dkl, sigma = w * dkl_mean[j], exp(half * h[r, Z + j])
            dh[r, j] += dkl * h[r, j]
            dh[r, Z + j] = half * (dh[r, Z + j] * sigma + dkl * (sigma * sigma - one))


@compiled
def kl_weight(dkl_mean, beta):
    """dkl_mean of kl_loss without free bits and capacity, known before any mean is. Every thread writes all of it."""
    for j in range(len(dkl_mean)):
        dkl_mean[j] = beta


@compiled
def kl_loss_all(kl_mean, dkl_mean, kl, weight, beta, free_bits, capacity):
    for j in range(len(kl_mean)):
        kl_mean[j] = 0
    for r in range(len(kl)):
        for j in range(len(kl_mean)):
            kl_mean[j] += weight[r] * kl[r, j]
    total = 0.0
    for j in range(len(kl_mean)):
        dkl_mean[j] = 0 if free_bits > 0 and kl_mean[j] < free_bits else beta
        total += max(kl_mean[j], free_bits)
    if capacity > 0:
        for j in range(len(kl_mean)):
            dkl_mean[j] *= np.sign(total - capacity)


# ---- Likelihoods


@compiled_sum
def bernoulli_loss_rows(dlogits, nll, logits, x, weight, r0, r1):
    for r in range(r0, r1):
        total, w = dlogits.dtype.type(0), weight[r]
        for d in range(x.shape[1]):
            a, target = logits[r, d], x[r, d]
            total += softplus(a) - target * a
            dlogits[r, d] = w * (sigmoid(a) - target)
        nll[r] = total


@compiled_sum
def gaussian_loss_rows(dmean, dlog_sigma, nll, mean, x, log_sigma, weight, r0, r1):
    half = mean.dtype.type(0.5)
    inverse_sigma = exp(-log_sigma[0])
    constant = x.dtype.type(x.shape[1]) * (log_sigma[0] + mean.dtype.type(0.5 * LOG_2PI))
    for r in range(r0, r1):
        total, w = dmean.dtype.type(0), weight[r] * inverse_sigma
        for d in range(x.shape[1]):
            residual = (mean[r, d] - x[r, d]) * inverse_sigma
            total += residual * residual
            dmean[r, d] = w * residual
        nll[r] = half * total + constant


@compiled_sum
def sigma_gradient(dlog_sigma, mean, x, log_sigma, weight):
    """dlog_sigma = sum_b weight_b ( D - sum_d r_bd^2 ), in float64: it needs all rows."""
    inverse_sigma, gradient = math.exp(-log_sigma[0]), 0.0
    for r in range(len(x)):
        total = 0.0
        for d in range(x.shape[1]):
            residual = (mean[r, d] - x[r, d]) * inverse_sigma
            total += residual * residual
        gradient += weight[r] * (x.shape[1] - total)
    dlog_sigma[0] = gradient


@compiled_sum
def poisson_loss_rows(dlog_rate, nll, log_rate, x, weight, r0, r1):
    for r in range(r0, r1):
        total, w = dlog_rate.dtype.type(0), weight[r]
        for d in range(x.shape[1]):
            a, target = log_rate[r, d], x[r, d]
            total += nll_of_count(a, target)
            dlog_rate[r, d] = w * (exp(a) - target)
        nll[r] = total


# ---- Optimizers, on any piece of the flat vectors


@compiled_sum
def squared_norm(squares, g, width, first, last):
    """A sum for each row of a gradient: where it is cut into blocks does not change the sum of all."""
    for r in range(first // width, last // width):
        total, row = 0.0, g[r * width : (r + 1) * width]
        for i in range(len(row)):
            total += np.float64(row[i]) * np.float64(row[i])
        squares[r] = total


@compiled_sum
def norm_of_squares(norm, squares):
    total = 0.0
    for t in range(len(squares)):
        total += squares[t]
    norm[0] = math.sqrt(total)


@compiled
def scale_to_norm(g, norm, max_norm, first, last):
    if norm[0] > max_norm:
        factor, g = g.dtype.type(max_norm / norm[0]), g[first:last]
        for i in range(len(g)):
            g[i] *= factor


@compiled
def sgd_update(p, m, g, learning_rate, momentum, nesterov, first, last):
    rate, momentum = p.dtype.type(learning_rate), p.dtype.type(momentum)
    p, m, g = p[first:last], m[first:last], g[first:last]
    for i in range(len(p)):
        m[i] = momentum * m[i] + g[i]
        p[i] -= rate * (g[i] + momentum * m[i] if nesterov else m[i])


@compiled
def adam_update(p, m, v, g, learning_rate, beta1, beta2, epsilon, step, weight_decay, first, last):
    real, t = p.dtype.type, np.float64(step)
    step_size = real(learning_rate / (1 - beta1**t))
    root_correction = real(1 / math.sqrt(1 - beta2**t))
    c1, c2, eps, keep = real(1 - beta1), real(1 - beta2), real(epsilon), real(1 - learning_rate * weight_decay)
    p, m, v, g = p[first:last], m[first:last], v[first:last], g[first:last]
    for i in range(len(p)):
        m[i] += c1 * (g[i] - m[i])
        v[i] += c2 * (g[i] * g[i] - v[i])
        p[i] = keep * p[i] - step_size * m[i] / (np.sqrt(v[i]) * root_correction + eps)


# ---- Randomness


@compiled
def philox(c0, c1, c2, c3, k0, k1):
    """Four random words: ten rounds of multiply, exchange, xor."""
    for _ in range(10):
        p0, p1 = uint64(0xD2511F53) * uint64(c0), uint64(0xCD9E8D57) * uint64(c2)
        c0, c1 = uint32(uint32(p1 >> uint64(32)) ^ c1 ^ k0), uint32(p1)
        c2, c3 = uint32(uint32(p0 >> uint64(32)) ^ c3 ^ k1), uint32(p0)
        k0, k1 = uint32(k0 + uint32(0x9E3779B9)), uint32(k1 + uint32(0xBB67AE85))
    return c0, c1, c2, c3


@compiled
def philox_uniform_rows(u, examples, seed, purpose, step, r0, r1):
    """u[r] for examples[r]"""
    real = u.dtype.type
    C = u.shape[1]
    k0, k1, c2, c3 = uint32(seed), uint32(uint64(seed) >> uint64(32)), uint32(step), uint32(purpose)
    for r in range(r0, r1):
        row, example = u[r], uint32(examples[r])
        for block in range(C // 4):  # without a branch, so that many blocks are drawn at once
            w0, w1, w2, w3 = philox(uint32(block), example, c2, c3, k0, k1)
            row[4 * block], row[4 * block + 1] = unit(w0, real), unit(w1, real)
            row[4 * block + 2], row[4 * block + 3] = unit(w2, real), unit(w3, real)
        if C % 4 > 0:
            words = philox(uint32(C // 4), example, c2, c3, k0, k1)
            for lane in range(C % 4):
                row[C // 4 * 4 + lane] = unit(words[lane], real)


@compiled
def unit(word, real):
    """A word as a number in (0, 1)"""
    return (real(word >> uint32(9)) + real(0.5)) * real(2.0**-23)


@compiled
def philox_normal_rows(eps, examples, seed, purpose, step, r0, r1):
    """As philox_uniform_rows, then in place by Box and Muller: (u, u') -> radius cos, radius sin."""
    real, C = eps.dtype.type, eps.shape[1]
    k0, k1, c2, c3 = uint32(seed), uint32(uint64(seed) >> uint64(32)), uint32(step), uint32(purpose)
    philox_uniform_rows(eps, examples, seed, purpose, step, r0, r1)
    for r in range(r0, r1):
        row = eps[r]
        for pair in range(C // 2):
            row[2 * pair], row[2 * pair + 1] = box_muller(row[2 * pair], row[2 * pair + 1])
        if C % 2 == 1:  # the second number of the last pair has no place in the row
            words = philox(uint32(C // 4), uint32(examples[r]), c2, c3, k0, k1)
            row[C - 1] = box_muller(row[C - 1], unit(words[C % 4], real))[0]


@compiled
def box_muller(u, v):
    sine, cosine = sincos_2pi(v)
    radius = np.sqrt(-log(u) - log(u))  # -2 log u, without a constant of the wrong type
    return radius * cosine, radius * sine


# ---- Batches


@compiled
def gather_rows(x, data, rows, divide_by, r0, r1):
    """data: its address, the bytes from row to row and from column to column, and of a number; and a number of its type."""
    address, row_bytes, column_bytes, size, kind = data
    real, D = x.dtype.type, x.shape[1]
    divisor = real(divide_by)
    if column_bytes == size:
        for r in range(r0, r1):
            source, target = address + rows[r] * row_bytes, x[r]
            for d in range(D):
                target[d] = real(load_number(source, d, kind)) / divisor
    else:  # sixteen columns at a time, so that a line of x is written once though each number comes from another line
        for d0 in range(0, D, 16):
            for r in range(r0, r1):
                source = address + rows[r] * row_bytes
                for d in range(d0, min(d0 + 16, D)):
                    x[r, d] = real(load_number(source + d * column_bytes, 0, kind)) / divisor


@compiled
def binarize_rows(x, u, r0, r1):
    one, zero = x.dtype.type(1), x.dtype.type(0)
    for r in range(r0, r1):
        for d in range(x.shape[1]):
            x[r, d] = one if u[r, d] < x[r, d] else zero


@compiled
def record_all(trace, nll, kl_mean, norm, weight, index):
    """Whether the loss and the norm are numbers."""
    total = 0.0
    for r in range(len(nll)):
        total += weight[r] * nll[r]
    trace[index, 0] = total
    trace[index, 1] = norm[0]
    for j in range(len(kl_mean)):
        trace[index, 2 + j] = kl_mean[j]
    return math.isfinite(trace[index, 0]) and math.isfinite(trace[index, 1])


# row in words -> compiled function, by the name of the function
ROWS = {f"{name}_{part}": row for name, row in TABLE.items() for part in ("rows", "all")} | PIECES
MADE = vars(bounds) | vars(columns) | globals()
FUNCTIONS = {name: (row, MADE[name]) for name, row in ROWS.items() if name in MADE}
ANSWERING = ("record_all",)  # functions that return whether all is well
