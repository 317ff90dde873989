"""The book's second chapter: a likelihood for every column, cells that are missing, and tables in their own units.

A table is described by runs: neighbouring columns of one kind. A row of `runs` [R, 4] is (kind, first column of x, first
column of out, columns of x). For each kind there is the loss of its cells, with its gradient; columns_loss takes them all.

    cells [B, n] = -log p(x | a),   da = d cells / da,   dt = d cells / dt      a [B, n]: the decoder's output
    t [n]: a number of each column, trained with the network: log sigma of a gaussian, log r of a negative binomial
"""

from __future__ import annotations

import math

import numpy as np

# ---- Before the encoder: what is not a number was not observed


def observe(observed, inputs, x, shift, scale):
    """observed [B, D] = 1, or 0 where x is NaN; x [B, D] becomes (x - shift) / scale, 0 there; inputs [B, E] of the encoder.

    inputs = x, or where E = 2D [x | observed]. With shift [D] a column's mean, a missing cell is an average one.
    """
    D = x.shape[1]
    np.equal(x, x, out=observed, casting="unsafe")
    x -= shift
    x /= scale
    x[observed == 0] = 0
    inputs[:, :D] = x
    inputs[:, D:] = observed[:, : inputs.shape[1] - D]


# ---- What is told beside the data: the condition of encoder and decoder


def join(y, a, c):
    """y [B, P] = [a | c],  a [B, E], c [B, C]"""
    np.concatenate([a, c], axis=1, out=y)


def split(a, y):
    """a [B, E] = the first columns of y [B, P].  Of gradients this is join's: da of dy; a condition needs none."""
    a[...] = y[:, : a.shape[1]]


# ---- The loss of a cell


def bernoulli_cells(a, x, t):
    """softplus(a) - x a;   da = sigmoid(a) - x.   x in [0, 1]"""
    e = np.exp(-np.abs(a))
    return np.maximum(a, 0) + np.log1p(e) - x * a, np.where(a < 0, e, 1) / (1 + e) - x, 0


def continuous_bernoulli_cells(a, x, t):
    """log( (e^a - 1) / a ) - x a;   da = m(a) - x,   m(a) = 1 / (1 - e^-a) - 1/a the mean.   x in [0, 1]

    Loaiza-Ganem and Cunningham 2019: what bernoulli lacks to be a density of grey values.   With u = |a|:
    log( (e^a - 1) / a ) = max(a, 0) + log( (1 - e^-u) / u )           which is finite at 800 and at 0
    m(a) = 1/2 + a/12 - a^3/720 + a^5/30240 - ...                      for u < 0.3, where the two terms cancel
    """
    u = np.maximum(np.abs(a), TINY)
    rest = -np.expm1(-u)
    return np.maximum(a, 0) + np.log(rest / u) - x * a, continuous_bernoulli_mean(a) - x, 0


def continuous_bernoulli_mean(a):
    """m(a), see continuous_bernoulli_cells"""
    u, z = np.maximum(np.abs(a), TINY), a * a
    far = np.where(a < 0, -np.exp(-u), 1) / -np.expm1(-u) - np.where(a < 0, -1, 1) / u
    series = np.zeros_like(a)
    for term in MEAN_SERIES:
        series = series * z + term
    return np.where(u < 0.3, 0.5 + a * series, far)


def gaussian_cells(a, x, t):
    """r^2 / 2 + s + log(2 pi) / 2,   r = (a - x) e^-s,   s = floor(t);   da = r e^-s;   dt = (1 - r^2) ds/dt"""
    s, slope = floored(t)
    r = (a - x) * np.exp(-s)
    return 0.5 * r * r + s + 0.5 * LOG_2PI, r * np.exp(-s), (1 - r * r) * slope


def gaussian_elementwise_cells(a, x, t):
    """The same with a = [mean | logvar] [B, 2n] and s = floor(logvar / 2):   dlogvar = (1 - r^2) ds/dt / 2"""
    mean, logvar = np.split(a, 2, axis=1)
    cells, dmean, ds = gaussian_cells(mean, x, 0.5 * logvar)
    return cells, np.concatenate([dmean, 0.5 * ds], axis=1), 0


def floored(t):
    """s = LEAST + softplus(t - LEAST) > LEAST, and ds/dt = sigmoid(t - LEAST).

    A column that can be told exactly has no best sigma: its loss would fall for ever. Here sigma stays above e^LEAST, a
    thousandth of the column's spread, and is t to three digits from e^-3.5 on.
    """
    e = np.exp(-np.abs(t - LEAST))
    return LEAST + np.maximum(t - LEAST, 0) + np.log1p(e), np.where(t < LEAST, e, 1) / (1 + e)


def poisson_cells(a, x, t):
    """e^a - x a + log x!;   da = e^a - x.   x = 0, 1, 2, ...

    Large numbers that cancel where x is large: there  log x! = x log x - x + log(2 pi x) / 2 + S(x),  and with u = a - log x
    -log p = x ( e^u - 1 - u ) + log(2 pi x) / 2 + S(x)                no more than a few nats near the best a
    """
    n, rate = np.maximum(x, FEW + 1), np.exp(a)
    u = a - np.log(n)
    many = n * (np.expm1(u) - u) + 0.5 * (LOG_2PI + np.log(n)) + stirling(n)
    few = rate - x * a + np.log(few_factorial(x))
    return np.where(x > FEW, many, few), rate - x, 0


def negative_binomial_cells(a, x, t):
    """Counts of mean m = e^a and variance m + m^2 / r,  r = e^t:   u = a - t, as m / r = e^u

    -log p = log x! - log[ G(x+r) / G(r) ] + r log(1 + e^u) + x log(1 + e^-u)                 G: the gamma function
    da = r s(u) - x s(-u),  s the sigmoid;    dt = r [ log(1 + e^u) - psi(x+r) + psi(r) ] - da          psi = (log G)'
    With G taken eight on, R = r + 8, and Stirling:   log[ G(x+R) / G(R) ] = (R - 1/2) log(1 + x/R) + x log(x+R) - x + dS
    """
    r, u = np.exp(np.minimum(t, MOST)), a - np.minimum(t, MOST)
    lift, slope = rising(x, r)
    e = np.exp(-np.abs(u))
    share, rest = np.maximum(u, 0) + np.log1p(e), np.maximum(-u, 0) + np.log1p(e)
    cells = np.log(few_factorial(x)) + np.where(x > FEW, log_factorial(np.maximum(x, FEW + 1)), 0)
    cells = cells - lift + r * share + x * rest
    da = (r * np.where(u < 0, e, 1) - x * np.where(u < 0, 1, e)) / (1 + e)
    return cells, da, (r * (share - slope) - da) * (t < MOST)


def rising(x, r):
    """log[ G(x+r) / G(r) ] and its derivative by r, psi(x+r) - psi(r): both by G eight on, where Stirling holds."""
    lift, slope = np.zeros_like(x * r), np.zeros_like(x * r)
    for k in range(8):
        lift -= np.log1p(x / (r + k))  # (x + r + k) / (r + k)
        slope += x / ((r + k) * (x + r + k))
    R = r + 8
    lift += (R - 0.5) * np.log1p(x / R) + x * np.log(x + R) - x + stirling(x + R) - stirling(R)
    return lift, slope + np.log1p(x / R) + 0.5 * x / (R * (x + R)) + d_stirling(x + R) - d_stirling(R)


def categorical_cells(a, x, t):
    """logsumexp(a) - a x  [B, 1],  of one group of columns, x one-hot;   da = softmax(a) - x"""
    top = a.max(axis=1, keepdims=True)
    e = np.exp(a - top)
    total = e.sum(axis=1, keepdims=True)
    return np.log(total) + top - np.sum(a * x, axis=1, keepdims=True), e / total - x, 0


CELLS = {
    "bernoulli": bernoulli_cells,
    "continuous_bernoulli": continuous_bernoulli_cells,
    "gaussian": gaussian_cells,
    "gaussian_elementwise": gaussian_elementwise_cells,
    "poisson": poisson_cells,
    "negative_binomial": negative_binomial_cells,
    "categorical": categorical_cells,
}
KINDS = {name: kind for kind, name in enumerate(CELLS)}


# ---- The loss of a row


def columns_loss(dout, dt, nll, out, x, observed, t, log_scale, runs, weight):
    """nll [B] of the observed cells of x [B, D];  dout [B, P];  dt [B, D], whose sum over b is the gradient of t [D]

    nll_b = sum_d observed_bd ( cells_bd + log_scale_d )             in the table's own units: x = shift + scale x'
    dout = weight observed da;   dt = weight observed dt             exactly 0 where nothing was observed
    """
    nll[:] = observed @ log_scale
    for kind, c, o, n in runs:
        cell = list(CELLS.values())[kind]
        width = 2 * n if cell is gaussian_elementwise_cells else n
        cells, da, dt_cells = cell(out[:, o : o + width], x[:, c : c + n], t[c : c + n])
        seen = observed[:, c : c + n] > 0
        nll += np.where(seen[:, : cells.shape[1]], cells, 0).sum(axis=1)
        dout[:, o : o + width] = np.where(np.tile(seen, width // n), da, 0)
        dt[:, c : c + n] = np.where(seen, dt_cells, 0)
    dout *= weight[:, None]
    dt *= weight[:, None]


def sum_rows(total, part):
    """total [C] = the sum of the rows of part [B, C]"""
    np.add.reduce(part, axis=0, out=total)


# ---- Counts


def few_factorial(x):
    """x! for x = 0 .. 8, a product without rounding, so that 0! = 1! = 1 add nothing to a logarithm; 1 for more"""
    product = np.ones_like(x)
    for k in range(2, FEW + 1):
        product[(x >= k) & (x <= FEW)] *= k
    return product


def log_factorial(x):
    """log x! for x > 8"""
    return (x + 0.5) * np.log(x) - x + 0.5 * LOG_2PI + stirling(x)


def stirling(x):
    """S(x) = 1/12x - 1/360x^3 + 1/1260x^5 - 1/1680x^7 + 1/1188x^9 - 691/360360x^11, exact but for 1 / (156 x^13)"""
    z, series = 1 / (x * x), np.zeros_like(x)
    for term in STIRLING:
        series = series * z + term
    return series / x


def d_stirling(x):
    """S'(x) = -1/12x^2 + 1/120x^4 - ..."""
    z, series = 1 / (x * x), np.zeros_like(x)
    for k, term in enumerate(STIRLING):
        series = series * z - (2 * len(STIRLING) - 1 - 2 * k) * term
    return series * z


LOG_2PI = math.log(2 * math.pi)
LEAST, MOST, TINY = math.log(1e-3), 15.0, 1e-30  # of log sigma in units of the column's spread; of log r; of |a|
FEW = 8
STIRLING = (-691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)
MEAN_SERIES = (1 / 47900160, -1 / 1209600, 1 / 30240, -1 / 720, 1 / 12)
