"""The contract between backends: every kernel of every backend against a plain float64 formula.

The formulas here are the textbook's, written once more and without the library's code. A kernel under test is a
`Case`: the arrays that it fills, changes and reads, and the values that must come out. Every case then goes through
the same checks: values, untouched inputs, complete overwriting, dtype, and views at any offset of a flat vector.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import column_cases
import numpy as np
import pytest
from scipy import special, stats

from minivae import kernels as interface
from minivae.architecture import Architecture, initial_parameters
from minivae.data.batches import Examples
from minivae.kernels import Call, Var, bind, reference
from minivae.kernels.table import TABLE
from minivae.network import Network, backward_program, forward_program
from minivae.optimizers import Optimizer
from minivae.training import Objective, step_program

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 5e-6, "float64": 1e-13}  # of the largest number in the result: some hundred roundings
# one row, one column, never a multiple of a vector only, and more rows than one block of a GPU takes
SIZES = ((1, 1), (1, 7), (13, 1), (13, 7), (33, 17), (4, 64), (261, 5))
GUARD = -12345.0  # lies between the views of a flat vector, where no kernel may write


# ---- The formulas


def complex_step(f):
    """f' to the last digit without a derivative rule: f(a + ih) = f(a) + i h f'(a) + O(h^2), h far below rounding."""
    return lambda a: f(a + 1e-30j).imag / 1e-30


def plain_gelu(a):
    return a / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3)))


FORMULAS = {
    "identity": (lambda a: a, np.ones_like),
    "relu": (lambda a: np.where(a > 0, a, 0), lambda a: np.where(a > 0, 1, 0)),
    "leaky_relu": (lambda a: np.where(a > 0, a, a / 100), lambda a: np.where(a > 0, 1, 1 / 100)),
    "tanh": (np.tanh, complex_step(np.tanh)),
    "sigmoid": (special.expit, lambda a: special.expit(a) * special.expit(-a)),
    "softplus": (lambda a: np.logaddexp(0, a), special.expit),
    "gelu": (plain_gelu, complex_step(plain_gelu)),
}


@dataclass
class Case:
    """One call: its arrays by name in the kernel's order (None where the kernel gets None), and what must come out."""

    kernel: str
    order: tuple[str | None, ...]
    written: dict[str, np.ndarray]  # filled by the kernel; their first contents must not matter
    read: dict[str, np.ndarray]  # left alone by the kernel
    expected: dict[str, np.ndarray]  # float64
    updated: dict[str, np.ndarray] = field(default_factory=dict)  # read and changed in place
    scalars: tuple = ()

    def __post_init__(self):
        for array in self.written.values():
            array.fill(np.nan)

    @property
    def arrays(self):
        return {name: (self.written | self.updated | self.read)[name] for name in self.order if name is not None}


def wide(case_arrays):
    return [array.astype(np.float64) for array in case_arrays]


def weights(rng, rows, dtype):
    """Unequal on purpose: with 1/B everywhere a kernel that uses the wrong row's weight would pass."""
    return rng.uniform(0.2, 1.0, rows).astype(dtype)


def dense_forward_case(rng, dtype, rows, columns, activation="tanh", inputs=5):
    x = rng.normal(size=(rows, inputs)).astype(dtype)
    W = rng.normal(size=(inputs, columns)).astype(dtype)
    b = rng.normal(size=columns).astype(dtype)
    a = np.einsum("bi,io->bo", *wide([x, W])) + b
    written = {"y": np.empty((rows, columns), dtype), "a": np.empty((rows, columns), dtype)}
    expected = {"y": FORMULAS[activation][0](a), "a": a}
    read = {"x": x, "W": W, "b": b}
    return Case("dense_forward", ("y", "a", "x", "W", "b"), written, read, expected, scalars=(activation,))


def dense_backward_case(rng, dtype, rows, columns, activation="tanh", inputs=5, need_dx=True):
    x = rng.normal(size=(rows, inputs)).astype(dtype)
    W = rng.normal(size=(inputs, columns)).astype(dtype)
    a = rng.normal(size=(rows, columns)).astype(dtype)
    y = FORMULAS[activation][0](a.astype(np.float64)).astype(dtype)
    dy = rng.normal(size=(rows, columns)).astype(dtype)
    da = dy * FORMULAS[activation][1](a.astype(np.float64))
    written = {"dx": np.empty_like(x), "dW": np.empty_like(W), "db": np.empty(columns, dtype)}
    expected = {"dx": np.einsum("bo,io->bi", da, W), "dW": np.einsum("bi,bo->io", x, da), "db": np.einsum("bo->o", da)}
    order = ("dx", "dW", "db", "dy", "x", "a", "y", "W")
    if not need_dx:
        order, written = (None, *order[1:]), {n: v for n, v in written.items() if n != "dx"}
        del expected["dx"]
    read = {"x": x, "a": a, "y": y, "W": W}
    return Case("dense_backward", order, written, read, expected, updated={"dy": dy}, scalars=(activation,))


def samples_case(rng, dtype, rows, Z, K):
    """h [B, 2Z], eps and z [B K, Z]; and mu, sigma, logvar in float64, repeated for each sample."""
    h, eps = rng.normal(size=(rows, 2 * Z)).astype(dtype), rng.normal(size=(rows * K, Z)).astype(dtype)
    mu, logvar = (np.repeat(part.astype(np.float64), K, axis=0) for part in (h[:, :Z], h[:, Z:]))
    return h, eps, mu, np.exp(logvar / 2), logvar


def sum_of_samples(rows, values):
    return np.array([part.sum(axis=0) for part in np.split(values, rows)])


def sample_forward_case(rng, dtype, rows, Z, K=1):
    h, eps, mu, sigma, logvar = samples_case(rng, dtype, rows, Z, K)
    kl = -0.5 * (1 + logvar - mu**2 - sigma**2)
    written = {"z": np.empty_like(eps), "kl": np.empty((rows, Z), dtype)}
    expected = {"z": mu + sigma * eps, "kl": kl[::K]}
    return Case("sample_forward", ("z", "kl", "h", "eps"), written, {"h": h, "eps": eps}, expected)


def sample_backward_case(rng, dtype, rows, Z, K=1):
    h, eps, mu, sigma, _ = samples_case(rng, dtype, rows, Z, K)
    dz, dkl_mean = rng.normal(size=eps.shape).astype(dtype), rng.uniform(0, 2, Z).astype(dtype)
    weight = weights(rng, rows, dtype)
    dkl = np.outer(weight.astype(np.float64), dkl_mean)
    dlogvar = sum_of_samples(rows, dz * eps * sigma / 2) + dkl * (sigma[::K] ** 2 - 1) / 2
    expected = {"dh": np.concatenate([sum_of_samples(rows, dz.astype(float)) + dkl * mu[::K], dlogvar], axis=1)}
    read = {"dz": dz, "h": h, "eps": eps, "dkl_mean": dkl_mean, "weight": weight}
    return Case("sample_backward", ("dh", *read), {"dh": np.empty_like(h)}, read, expected)


def importance_bound_case(rng, dtype, rows, Z, K=5, beta=0.7, far=0.0, apart=0.0):
    """far: how far from 0 the log weights lie, in exponents of float32: more than an exponential can hold. apart: how much
    further the first of an example.
    """
    far, apart = (number * (1 if dtype == "float32" else 8) for number in (far, apart))
    h, eps, mu, sigma, _ = samples_case(rng, dtype, rows, Z, K)
    z, nll = (mu + sigma * eps).astype(dtype), (far + rng.normal(size=rows * K)).astype(dtype)
    nll[::K] += apart
    kl, weight = rng.uniform(0, 3, (rows, Z)).astype(dtype), weights(rng, rows, dtype)
    prior, posterior = stats.norm.logpdf(z.astype(float)), stats.norm.logpdf(eps.astype(float)) - np.log(sigma)
    log_w = (-nll.astype(float) + beta * (prior - posterior).sum(axis=1)).reshape(rows, K)
    wt = special.softmax(log_w, axis=1)
    terms = np.column_stack([kl, nll.astype(float).reshape(rows, K).mean(axis=1)])
    expected = {"bound": math.log(K) - special.logsumexp(log_w, axis=1), "terms": terms}
    expected["dnll"] = (weight.astype(float)[:, None] * wt).ravel()
    written = {"bound": np.empty(rows, dtype), "dnll": np.empty_like(nll), "terms": np.empty((rows, Z + 1), dtype)}
    read = {"nll": nll, "kl": kl, "z": z, "h": h, "eps": eps, "weight": weight}
    return Case("importance_bound", (*written, *read), written, read, expected, scalars=(beta,))


def importance_backward_case(rng, dtype, rows, Z, K=5, beta=0.7, estimator="iwae"):
    """By the densities: d log q / dmu = (z - mu) / sigma^2 and d log q / dlogvar = ((z - mu)^2 / sigma^2 - 1) / 2."""
    h, eps, mu, sigma, _ = samples_case(rng, dtype, rows, Z, K)
    z, dz = (mu + sigma * eps).astype(dtype), rng.normal(size=eps.shape).astype(dtype)
    weight, wt = weights(rng, rows, dtype), rng.dirichlet(np.ones(K), rows)
    dnll = (weight[:, None] * wt).astype(dtype).ravel()
    c = dnll.astype(float)[:, None]
    score = eps / sigma, (eps.astype(float) ** 2 - 1) / 2
    g = dz + beta * c * (z - score[0])
    if estimator == "dreg":
        g *= 1 - beta * (1 - c / np.repeat(weight.astype(float), K)[:, None])
    dmu, dlogvar = g, g * eps * sigma / 2
    if estimator == "iwae":
        dmu, dlogvar = dmu + beta * c * score[0], dlogvar + beta * c * score[1]
    expected = {"dh": np.hstack([sum_of_samples(rows, part) for part in (dmu, dlogvar)])}
    read = {"dz": dz, "z": z, "h": h, "eps": eps, "dnll": dnll, "weight": weight}
    scalars = (beta, estimator)
    return Case("importance_backward", ("dh", *read), {"dh": np.empty_like(h)}, read, expected, scalars=scalars)


def repeat_case(rng, dtype, rows, columns):
    x = rng.normal(size=(rows, columns)).astype(dtype)
    expected = {"y": np.array([row for row in x.astype(float) for _ in range(3)])}
    return Case("repeat", ("y", "x"), {"y": np.empty((3 * rows, columns), dtype)}, {"x": x}, expected)


def weigh_case(rng, dtype, rows, columns):
    dout, dnll = rng.normal(size=(rows, columns)).astype(dtype), rng.normal(size=rows).astype(dtype)
    expected = {"dout": np.einsum("sp,s->sp", *wide([dout, dnll]))}
    return Case("weigh", ("dout", "dnll"), {}, {"dnll": dnll}, expected, updated={"dout": dout})


def kl_loss_case(rng, dtype, rows, Z, share=None):
    """share: the capacity as a part of the KL; None: no capacity, but free bits"""
    kl, weight = rng.uniform(0.1, 3, (rows, Z)).astype(dtype), weights(rng, rows, dtype)
    kl_mean = np.einsum("b,bz->z", *wide([weight, kl]))
    free_bits = float(np.sort(np.append(kl_mean, 0.05))[: Z // 2 + 2][-2:].mean())  # some lie above it, some below
    expected, capacity = {"kl_mean": kl_mean, "dkl_mean": np.where(kl_mean < free_bits, 0, 0.7)}, 0.0
    if share is not None:
        free_bits, capacity = 0.0, float(share * kl_mean.sum())
        expected["dkl_mean"] = np.full(Z, 0.7 if share < 1 else -0.7)
    written = {"kl_mean": np.empty(Z, dtype), "dkl_mean": np.empty(Z, dtype)}
    order = ("kl_mean", "dkl_mean", "kl", "weight")
    return Case("kl_loss", order, written, {"kl": kl, "weight": weight}, expected, scalars=(0.7, free_bits, capacity))


def probabilities(rng, shape):
    return rng.choice([0.0, 1.0, rng.uniform()], shape) * rng.uniform(0.5, 1, shape).round()


def bernoulli_nll(a, x):
    p = special.expit(a)
    return -(special.xlogy(x, p) + special.xlog1py(1 - x, -p))


# kernel: data x of a shape, -log p(x) of each element, its derivative by the decoder's output a
LIKELIHOODS = {
    "bernoulli_loss": (probabilities, bernoulli_nll, lambda a, x: special.expit(a) - x),
    "poisson_loss": (
        lambda rng, shape: rng.poisson(rng.choice([0.3, 3, 40], shape)),
        lambda a, x: -stats.poisson.logpmf(x, np.exp(a)),
        lambda a, x: np.exp(a) - x,
    ),
}


def likelihood_case(rng, dtype, rows, D, kernel):
    draw, nll, slope = LIKELIHOODS[kernel]
    a, x = 1.5 * rng.normal(size=(rows, D)).astype(dtype), draw(rng, (rows, D)).astype(dtype)
    weight = weights(rng, rows, dtype)
    gradient, loss, out, *_ = (array.name for array in TABLE[kernel].arrays)
    wide_a, wide_x, w = wide([a, x, weight])
    expected = {gradient: w[:, None] * slope(wide_a, wide_x), loss: nll(wide_a, wide_x).sum(axis=1)}
    written = {gradient: np.empty_like(a), loss: np.empty(rows, dtype)}
    read = {out: a, "x": x, "weight": weight}
    return Case(kernel, (*written, *read), written, read, expected)


def gaussian_loss_case(rng, dtype, rows, D):
    mean, x = rng.normal(size=(rows, D)).astype(dtype), rng.normal(size=(rows, D)).astype(dtype)
    log_sigma, weight = np.array([-0.4], dtype), weights(rng, rows, dtype)
    m, t, w = wide([mean, x, weight])
    s = math.exp(float(log_sigma[0]))
    dlog_sigma = np.sum(w * (D - ((t - m) ** 2).sum(axis=1) / s**2))
    expected = {"nll": -stats.norm.logpdf(t, m, s).sum(axis=1), "dmean": w[:, None] * (m - t) / s**2}
    expected["dlog_sigma"] = np.array([dlog_sigma])
    written = {"dmean": np.empty_like(mean), "dlog_sigma": np.empty(1, dtype), "nll": np.empty(rows, dtype)}
    read = {"mean": mean, "x": x, "log_sigma": log_sigma, "weight": weight}
    return Case("gaussian_loss", (*written, *read), written, read, expected)


def clip_case(rng, dtype, rows, columns, share=0.5):
    """share: the longest length allowed as a share of the length that g has"""
    g = rng.normal(size=rows * columns).astype(dtype)
    norm = float(np.sqrt(np.sum(g.astype(np.float64) ** 2)))
    expected = {"norm": np.array([norm]), "g": g.astype(np.float64) * min(1.0, share)}
    written, scalars = {"norm": np.empty(1, dtype)}, (norm * share,)
    return Case("clip_global_norm", ("norm", "g"), written, {}, expected, updated={"g": g}, scalars=scalars)


def sgd_case(rng, dtype, rows, columns, nesterov=True):
    p, m, g = (rng.normal(size=rows * columns).astype(dtype) for _ in range(3))
    velocity = 0.9 * m.astype(np.float64) + g
    direction = g + 0.9 * velocity if nesterov else velocity
    expected = {"p": p.astype(np.float64) - 0.05 * direction, "m": velocity}
    return Case("sgd_step", ("p", "m", "g"), {}, {}, expected, {"p": p, "m": m, "g": g}, (0.05, 0.9, nesterov))


def adam_case(rng, dtype, rows, columns, weight_decay=0.1):
    p, m, g = (rng.normal(size=rows * columns).astype(dtype) for _ in range(3))
    v = rng.uniform(0.1, 2, rows * columns).astype(dtype)
    p2, m2, v2 = adam_formula(*wide([p, m, v, g]), 0.01, 0.9, 0.99, 1e-3, 3, weight_decay)
    scalars = (0.01, 0.9, 0.99, 1e-3, 3, weight_decay)
    order, updated = ("p", "m", "v", "g"), {"p": p, "m": m, "v": v}
    return Case("adam_step", order, {}, {"g": g}, {"p": p2, "m": m2, "v": v2}, updated, scalars)


def adam_formula(p, m, v, g, learning_rate, beta1, beta2, epsilon, step, weight_decay):
    """Algorithm 1 of Kingma and Ba, and algorithm 2 of Loshchilov and Hutter with the decay outside of the moments."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**step), v / (1 - beta2**step)
    return p - learning_rate * (m_hat / (np.sqrt(v_hat) + epsilon) + weight_decay * p), m, v


def philox_uniform_case(rng, dtype, rows, columns):
    examples = rng.permutation(rows) + 2**31 - rows // 2  # indices on both sides of the sign bit of 32-bit numbers
    scalars = (0x1234567890ABCDEF, 5, 77)
    expected = {"u": np.array([[plain_uniform(int(e), j, *scalars) for j in range(columns)] for e in examples])}
    written = {"u": np.empty((rows, columns), dtype)}
    return Case("philox_uniform", ("u", "examples"), written, {"examples": examples}, expected, scalars=scalars)


def philox_normal_case(rng, dtype, rows, columns):
    examples = rng.permutation(rows) + 2**31 - rows // 2
    scalars = (0x1234567890ABCDEF, 5, 77)
    expected = {"eps": np.array([[plain_normal(int(e), j, *scalars) for j in range(columns)] for e in examples])}
    written = {"eps": np.empty((rows, columns), dtype)}
    return Case("philox_normal", ("eps", "examples"), written, {"examples": examples}, expected, scalars=scalars)


def plain_uniform(example, element, seed, purpose, step):
    """The number in the middle of the cell of 2^-23 that the first 23 bits of a word name."""
    word = plain_philox([element // 4, example, step, purpose], [seed % 2**32, seed // 2**32])[element % 4]
    return (word // 2**9 + 0.5) / 2**23


def plain_normal(example, element, seed, purpose, step):
    """Box and Muller: the elements 2i and 2i + 1 are the two coordinates of one point."""
    first = element - element % 2
    radius = math.sqrt(-2 * math.log(plain_uniform(example, first, seed, purpose, step)))
    angle = 2 * math.pi * plain_uniform(example, first + 1, seed, purpose, step)
    return radius * (math.sin(angle) if element % 2 else math.cos(angle))


def plain_philox(counter, key):
    """Philox4x32-10 in Python integers, after figure 2 of Salmon et al. (2011)."""
    for _ in range(10):
        left, right = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            right // 2**32 ^ counter[1] ^ key[0],
            right % 2**32,
            left // 2**32 ^ counter[3] ^ key[1],
            left % 2**32,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def gather_case(rng, dtype, rows, columns):
    data = rng.integers(0, 256, (20, columns)).astype(np.uint8)
    chosen = rng.integers(0, 20, rows)
    written = {"x": np.empty((rows, columns), dtype)}
    expected = {"x": np.array([data[r] for r in chosen]) / 255}
    return Case("gather", ("x", "data", "rows"), written, {"data": data, "rows": chosen}, expected, scalars=(255.0,))


def binarize_case(rng, dtype, rows, columns):
    x, u = rng.uniform(size=(rows, columns)).astype(dtype), rng.uniform(size=(rows, columns)).astype(dtype)
    return Case("binarize", ("x", "u"), {}, {"u": u}, {"x": np.where(u < x, 1.0, 0.0)}, updated={"x": x})


def record_case(rng, dtype, rows, Z):
    trace = rng.normal(size=(4, 2 + Z))  # float64 whatever the network's dtype is
    nll, kl_mean, norm = rng.normal(size=rows).astype(dtype), rng.normal(size=Z).astype(dtype), np.array([1.5], dtype)
    weight = weights(rng, rows, dtype)
    expected = trace.copy()
    expected[2] = [np.sum(np.multiply(*wide([weight, nll]))), 1.5, *kl_mean]
    read = {"nll": nll, "kl_mean": kl_mean, "norm": norm, "weight": weight}
    return Case("record", ("trace", *read), {}, read, {"trace": expected}, updated={"trace": trace}, scalars=(2,))


def observe_case(rng, dtype, rows, D, wide_inputs=True):
    x, shift, scale = rng.normal(size=(rows, D)).astype(dtype), rng.normal(size=D).astype(dtype), rng.uniform(0.5, 2, D)
    x[rng.random((rows, D)) < 0.3] = np.nan
    seen, scale = ~np.isnan(x), scale.astype(dtype)
    values = np.where(seen, (x.astype(np.float64) - shift) / scale, 0)
    inputs = np.concatenate([values, seen], axis=1) if wide_inputs else values
    written = {"observed": np.empty((rows, D), dtype), "inputs": np.empty(inputs.shape, dtype)}
    expected = {"observed": seen.astype(float), "inputs": inputs, "x": values}
    read = {"shift": shift, "scale": scale}
    return Case("observe", ("observed", "inputs", "x", "shift", "scale"), written, read, expected, updated={"x": x})


def columns_loss_case(rng, dtype, rows, D):
    runs, outputs = column_cases.split_columns(D)
    x, observed = np.empty((rows, D)), column_cases.mask(rng, rows, D, runs)
    for kind, c, _, n in runs:
        x[:, c : c + n] = column_cases.draw(list(column_cases.KINDS)[kind], rng, (rows, n))
    arrays = {"out": 1.5 * rng.normal(size=(rows, outputs)), "x": x, "observed": observed, "t": rng.normal(size=D)}
    arrays |= {"log_scale": rng.normal(size=D), "weight": weights(rng, rows, dtype)}
    read = {name: array.astype(dtype) for name, array in arrays.items()}
    expected = column_cases.expected_loss(runs=runs, **{name: array.astype(float) for name, array in read.items()})
    shapes = {"dout": (rows, outputs), "dt": (rows, D), "nll": rows}
    written = {name: np.empty(shape, dtype) for name, shape in shapes.items()}
    order = ("dout", "dt", "nll", "out", "x", "observed", "t", "log_scale", "runs", "weight")
    return Case("columns_loss", order, written, read | {"runs": runs}, expected)


def join_case(rng, dtype, rows, columns):
    a, c = rng.normal(size=(rows, columns)).astype(dtype), rng.normal(size=(rows, 3)).astype(dtype)
    read, written = {"a": a, "c": c}, {"y": np.empty((rows, columns + 3), dtype)}
    return Case("join", ("y", "a", "c"), written, read, {"y": np.hstack(wide([a, c]))})


def split_case(rng, dtype, rows, columns):
    y = rng.normal(size=(rows, columns + 2)).astype(dtype)
    return Case(
        "split", ("a", "y"), {"a": np.empty((rows, columns), dtype)}, {"y": y}, {"a": y[:, :columns].astype(float)}
    )


def sum_rows_case(rng, dtype, rows, columns):
    part = rng.normal(size=(rows, columns)).astype(dtype)
    expected = {"total": np.einsum("bc->c", part.astype(np.float64))}
    return Case("sum_rows", ("total", "part"), {"total": np.empty(columns, dtype)}, {"part": part}, expected)


CASES = {
    "observe-with-mask": (observe_case, {}),
    "observe": (observe_case, {"wide_inputs": False}),
    "columns_loss": (columns_loss_case, {}),
    "sum_rows": (sum_rows_case, {}),
    "join": (join_case, {}),
    "split": (split_case, {}),
    **{f"dense_forward-{f}": (dense_forward_case, {"activation": f}) for f in FORMULAS},
    **{f"dense_backward-{f}": (dense_backward_case, {"activation": f}) for f in FORMULAS},
    "dense_forward-one-input": (dense_forward_case, {"inputs": 1}),
    "dense_backward-one-input": (dense_backward_case, {"inputs": 1}),
    "dense_backward-of-data": (dense_backward_case, {"need_dx": False}),
    "sample_forward": (sample_forward_case, {}),
    "sample_backward": (sample_backward_case, {}),
    "sample_forward-of-samples": (sample_forward_case, {"K": 3}),
    "sample_backward-of-samples": (sample_backward_case, {"K": 3}),
    "importance_bound": (importance_bound_case, {}),
    "importance_bound-of-one": (importance_bound_case, {"K": 1}),
    "importance_bound-vanishing": (importance_bound_case, {"far": 110.0, "K": 300}),
    "importance_bound-enormous": (importance_bound_case, {"far": -110.0}),
    "importance_bound-apart": (importance_bound_case, {"apart": 110.0}),
    **{f"importance_backward-{e}": (importance_backward_case, {"estimator": e}) for e in ("iwae", "stl", "dreg")},
    "repeat": (repeat_case, {}),
    "weigh": (weigh_case, {}),
    "kl_loss": (kl_loss_case, {}),
    "kl_loss-above-capacity": (kl_loss_case, {"share": 0.9}),
    "kl_loss-below-capacity": (kl_loss_case, {"share": 1.1}),
    **{kernel: (likelihood_case, {"kernel": kernel}) for kernel in LIKELIHOODS},
    "gaussian_loss": (gaussian_loss_case, {}),
    "clip_global_norm-longer": (clip_case, {}),
    "clip_global_norm-shorter": (clip_case, {"share": 2.0}),
    "clip_global_norm-measure-only": (clip_case, {"share": math.inf}),
    "sgd_step-momentum": (sgd_case, {"nesterov": False}),
    "sgd_step-nesterov": (sgd_case, {}),
    "adam_step-adam": (adam_case, {"weight_decay": 0.0}),
    "adam_step-adamw": (adam_case, {}),
    "philox_uniform": (philox_uniform_case, {}),
    "philox_normal": (philox_normal_case, {}),
    "gather": (gather_case, {}),
    "binarize": (binarize_case, {}),
    "record": (record_case, {}),
}
every_case = pytest.mark.parametrize("name", CASES)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def make(name, dtype, rows=13, columns=7):
    build, options = CASES[name]
    return build(np.random.default_rng([rows, columns]), dtype, rows, columns, **options)


def run(kernels, case):
    """The case's arrays as the kernel leaves them, on the host, by name."""
    device = {name: kernels.to_device(array.copy()) for name, array in case.arrays.items()}
    return call(kernels, case, device)


def call(kernels, case, device):
    with np.errstate(all="ignore"):
        getattr(kernels, case.kernel)(*[n if n is None else device[n] for n in case.order], *case.scalars)
    kernels.synchronize()
    return {name: np.array(kernels.to_host(array)) for name, array in device.items()}


def assert_close(actual, expected, tolerance, what=""):
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def assert_expected(case, result, dtype):
    for name, values in case.expected.items():
        assert_close(result[name], values, TOLERANCE[dtype], f"{name} of {case.kernel}")


# ---- Every backend, every kernel


def test_backend_exports_every_name_of_the_interface_as_a_function(kernels):
    assert [name for name in interface.INTERFACE if not callable(getattr(kernels, name, None))] == []


def test_every_kernel_of_the_interface_has_a_case_here():
    memory = {"empty", "to_device", "to_host", "synchronize"}
    assert {name.partition("-")[0] for name in CASES} | memory == set(interface.INTERFACE)


@every_case
@both_dtypes
def test_arrays_are_those_of_the_table_in_its_order_shapes_and_types(name, dtype):
    case = make(name, dtype)
    row = TABLE[case.kernel]
    names = [None if array.optional and None in case.order else array.name for array in row.arrays]
    assert list(case.order) == names and len(case.scalars) == len(row.scalars)
    row.sizes([case.arrays.get(array.name) for array in row.arrays])  # raises where they do not fit one another
    assert set(case.written) == {a.name for a in row.arrays if a.written and a.name in case.arrays} - {"trace"}
    updated = {a.name for a in row.arrays if a.changed} | ({"trace"} & set(case.arrays))
    assert updated - set(case.updated) <= {"g"} or case.kernel == "dense_backward"  # g is consumed where it is scratch


def test_every_activation_of_the_reference_has_a_formula_here():
    assert set(reference.ACTIVATIONS) == set(FORMULAS)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@both_dtypes
@every_case
def test_kernel_equals_the_plain_formula(kernels, name, dtype, size):
    case = make(name, dtype, *size)
    assert_expected(case, run(kernels, case), dtype)


@both_dtypes
@every_case
def test_kernel_leaves_what_it_only_reads_bit_identical(kernels, name, dtype):
    case = make(name, dtype)
    result = run(kernels, case)
    assert [n for n, array in case.read.items() if result[n].tobytes() != array.tobytes()] == []


@both_dtypes
@every_case
def test_kernel_overwrites_its_outputs_whatever_they_held(kernels, name, dtype):
    # Written with +=, or only in part, an output would keep some of the NaN, or differ between the two runs.
    case = make(name, dtype)
    over_nan = run(kernels, case)
    for array in case.written.values():
        array.fill(7.0)
    over_sevens = run(kernels, case)
    for name in case.written:
        assert np.isfinite(over_nan[name]).all()
        np.testing.assert_array_equal(over_nan[name], over_sevens[name])


@both_dtypes
@every_case
def test_kernel_keeps_dtype_and_shape_of_every_array(kernels, name, dtype):
    case = make(name, dtype)
    result = run(kernels, case)
    assert {n: (a.dtype, a.shape) for n, a in result.items()} == {n: (a.dtype, a.shape) for n, a in case.arrays.items()}


@both_dtypes
@every_case
def test_kernel_works_on_views_at_odd_offsets_and_stays_inside_them(kernels, name, dtype):
    # Parameters and gradients live like this: nothing is aligned to a vector width and the neighbours are other arrays.
    case = make(name, dtype)
    flats, places = {}, {}
    for n, array in case.arrays.items():
        pieces = flats.setdefault(array.dtype, [np.full(1, GUARD).astype(array.dtype)])
        start = sum(piece.size for piece in pieces)
        places[n] = (array.dtype, start, array.shape)
        pieces += [array.reshape(-1), np.full(1 + array.size % 2 * 2, GUARD).astype(array.dtype)]
    device = {kind: kernels.to_device(np.concatenate(pieces)) for kind, pieces in flats.items()}
    views = {n: device[k][start : start + math.prod(shape)].reshape(shape) for n, (k, start, shape) in places.items()}
    assert_expected(case, call(kernels, case, views), dtype)
    for kind, flat in device.items():
        inside = np.zeros(len(flat), bool)
        for k, start, shape in places.values():
            inside[start : start + math.prod(shape)] |= k == kind
        assert (np.array(kernels.to_host(flat))[~inside] == np.full(1, GUARD).astype(kind)).all()


@both_dtypes
@every_case
def test_kernel_gives_the_same_bits_when_called_again(kernels, name, dtype):
    case = make(name, dtype, 33, 17)
    first, second = run(kernels, case), run(kernels, case)
    assert [n for n in case.expected if first[n].tobytes() != second[n].tobytes()] == []


# What may lawfully stay unseen: a derivative that is 0 there, a weight that is not needed for the gradient of data, a
# comparison (u < NaN is false), a row of the history that is replaced.
QUIET = {
    "dense_backward": {"a", "y"},
    "dense_backward-of-data": {"a", "y", "W"},
    "binarize": {"x", "u"},
    "record": {"trace"},
    "observe": {"x", "scale"},  # a NaN says that nothing was observed; what is divided by infinity is 0
    "columns_loss": {"x", "out", "t", "observed"},  # a cell that was not observed counts for nothing, whatever it holds
    "importance_bound": {"z"},  # a sample at infinity has weight 0; its nll is looked at
    "importance_backward": {"weight"},  # only for dreg, which divides by it
}


@pytest.mark.parametrize("bad", (math.nan, math.inf), ids=("nan", "inf"))
@both_dtypes
@every_case
def test_nan_and_infinity_in_any_input_come_out(kernels, name, dtype, bad):
    case = make(name, dtype)
    if case.scalars and case.scalars[0] in ("tanh", "sigmoid", "softplus") and math.isinf(bad):
        pytest.skip("an activation that saturates gives a finite answer to infinity")
    quiet = QUIET.get(name, QUIET.get(case.kernel, set()))
    inputs = {n: a for n, a in (case.updated | case.read).items() if a.dtype.kind == "f" and n not in quiet}
    hidden = []
    for n, array in inputs.items():
        kept = array.copy()
        array.flat[array.size // 2] = bad
        result = run(kernels, case)
        outputs = [result[out] for out in case.expected]
        if all(np.isfinite(out).all() for out in outputs):
            hidden.append(n)
        array[...] = kept
    assert hidden == []


@pytest.mark.parametrize("activation", FORMULAS)
@both_dtypes
def test_an_activation_of_nan_is_nan(kernels, dtype, activation):
    # relu written as "x where x > 0, else 0" would turn it into a 0 that nobody notices
    case = make(f"dense_forward-{activation}", dtype)
    case.read["x"][4, 0] = math.nan
    y = run(kernels, case)["y"]
    assert np.isnan(y[4]).all() and np.isfinite(np.delete(y, 4, axis=0)).all()


@both_dtypes
def test_one_bad_example_spoils_its_own_rows_and_no_others(kernels, dtype):
    case = make("sample_forward", dtype)
    case.read["h"][4, 0] = math.nan
    result = run(kernels, case)
    for out in (result["z"], result["kl"]):
        assert np.isnan(out[4, 0]) and np.isfinite(np.delete(out, 4, axis=0)).all()


# ---- Single promises of single kernels


@pytest.mark.parametrize("activation", [f for f in FORMULAS if f != "gelu"])
@both_dtypes
def test_dense_forward_may_write_y_over_a(kernels, dtype, activation):
    case = make(f"dense_forward-{activation}", dtype)
    device = {n: kernels.to_device(a.copy()) for n, a in case.arrays.items()}
    device["a"] = device["y"]
    assert_close(call(kernels, case, device)["y"], case.expected["y"], TOLERANCE[dtype])


@pytest.mark.parametrize("activation", [f for f in FORMULAS if f != "gelu"])
@both_dtypes
def test_dense_backward_needs_no_pre_activation_but_for_gelu(kernels, dtype, activation):
    # The network passes y as a, to save the memory.
    case = make(f"dense_backward-{activation}", dtype)
    case.read["a"] = case.read["y"]
    assert_expected(case, run(kernels, case), dtype)


@pytest.mark.parametrize("activation", FORMULAS)
@both_dtypes
def test_activations_are_finite_and_right_far_from_zero(kernels, dtype, activation):
    a = np.array([[-1e4, -800.0, -100.0, -20.0, 0.0, 20.0, 100.0, 800.0, 1e4]], dtype)
    with np.errstate(all="ignore"):
        value, slope = FORMULAS[activation][0](a.astype(float)), FORMULAS[activation][1](a.astype(float))
    if activation == "gelu":  # its formula in complex numbers overflows there
        slope = np.array([[0.0, 0, 0, 0, 0.5, 1, 1, 1, 1]])
    elif activation == "tanh":
        slope = np.where(a == 0, 1.0, np.where(np.abs(a) == 20, 1 / np.cosh(20.0) ** 2, 0.0))
    y, kept, one = (kernels.to_device(np.ones(s, dtype)) for s in (a.shape, a.shape, (1, 1)))
    kernels.dense_forward(y, kept, one, kernels.to_device(a), kernels.to_device(np.zeros(9, dtype)), activation)
    np.testing.assert_allclose(kernels.to_host(y), value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    dW, db, dy = (kernels.to_device(np.ones(s, dtype)) for s in (a.shape, 9, a.shape))
    kernels.dense_backward(None, dW, db, dy, one, kept, y, kernels.to_device(a), activation)
    np.testing.assert_allclose(kernels.to_host(db), slope[0], rtol=0, atol=TOLERANCE[dtype])


@both_dtypes
def test_extreme_logits_give_a_finite_and_exact_loss(kernels, dtype):
    logits = np.array([[1e4, -1e4, 800, -800, 1e4, -1e4, 800, -800, 0]], dtype)
    x = np.array([[1, 0, 1, 0, 0, 1, 0, 1, 0.5]], dtype)
    arrays = [kernels.to_device(a) for a in (np.empty_like(logits), np.empty(1, dtype), logits, x, np.ones(1, dtype))]
    with np.errstate(all="raise", under="ignore"):
        kernels.bernoulli_loss(*arrays)
    dlogits, nll = kernels.to_host(arrays[0]), kernels.to_host(arrays[1])
    np.testing.assert_allclose(nll, 1e4 + 1e4 + 800 + 800 + math.log(2), rtol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_allclose(dlogits, [[0, 0, 0, 0, 1, -1, 1, -1, 0]], rtol=0, atol=1e-7)


@both_dtypes
def test_extreme_logits_by_columns_give_a_finite_and_exact_loss(kernels, dtype):
    """A category of three, two of bernoulli, two of continuous bernoulli: its loss is log( (e^a - 1) / a ) - x a."""
    out = np.array([[800, -800, 799, 800, -800, 800, -800]], dtype)
    x = np.array([[0, 1, 0, 0, 1, 0.25, 0.25]], dtype)
    kinds = ("categorical", "bernoulli", "continuous_bernoulli")
    runs = np.array([[column_cases.KINDS[kind], c, c, n] for kind, c, n in zip(kinds, (0, 3, 5), (3, 2, 2))])
    zero, one, nll = np.zeros(7, dtype), np.ones(1, dtype), np.empty(1, dtype)
    arrays = [np.empty_like(x), np.empty_like(x), nll, out, x, np.ones_like(x), zero, zero, runs, one]
    arrays = [kernels.to_device(array) for array in arrays]
    with np.errstate(all="raise", under="ignore"):
        kernels.columns_loss(*arrays)
    dout, nll = kernels.to_host(arrays[0]), kernels.to_host(arrays[2])
    likely, far = 1 / (1 + math.exp(-1)), 600 - math.log(800) + 200 - math.log(800)
    np.testing.assert_allclose(nll, 1600 - math.log(likely) + 1600 + far, rtol=1e-6 if dtype == "float32" else 1e-14)
    expected = [[likely, -1, 1 - likely, 1, -1, 0.75 - 1 / 800, 1 / 800 - 0.25]]
    np.testing.assert_allclose(dout, expected, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)


@both_dtypes
def test_a_posterior_of_almost_no_width_has_a_finite_kl(kernels, dtype):
    h = np.array([[3.0, -80.0]], dtype)
    z, kl = (kernels.to_device(np.empty((1, 1), dtype)) for _ in range(2))
    kernels.sample_forward(z, kl, kernels.to_device(h), kernels.to_device(np.ones((1, 1), dtype)))
    np.testing.assert_allclose(kernels.to_host(z), 3.0, rtol=1e-7)
    np.testing.assert_allclose(kernels.to_host(kl), 0.5 * (80 - 1 + 9), rtol=1e-6)


@both_dtypes
def test_kl_loss_without_free_bits_is_the_plain_kl_even_where_rounding_makes_it_negative(kernels, dtype):
    # kl is never below 0, but its rounded value is, a little, when a posterior has collapsed onto the prior.
    kl_mean, dkl_mean = (kernels.to_device(np.full(3, math.nan, dtype)) for _ in range(2))
    kl = kernels.to_device(np.array([[-6e-8, 0.0, 0.5]], dtype))
    kernels.kl_loss(kl_mean, dkl_mean, kl, kernels.to_device(np.ones(1, dtype)), 1.0, 0.0, 0.0)
    np.testing.assert_array_equal(kernels.to_host(dkl_mean), [1, 1, 1])


@both_dtypes
def test_clip_measures_the_length_before_it_cuts(kernels, dtype):
    norm, g = kernels.to_device(np.full(1, math.nan, dtype)), kernels.to_device(np.array([3.0, 4.0], dtype))
    kernels.clip_global_norm(norm, g, 0.5)
    np.testing.assert_allclose(kernels.to_host(norm), 5.0, rtol=1e-6)
    np.testing.assert_allclose(kernels.to_host(g), [0.3, 0.4], rtol=1e-6)


@both_dtypes
@pytest.mark.parametrize("size", [1e25, 1e-25])
def test_a_norm_that_the_type_can_hold_is_measured_though_its_square_is_none(kernels, dtype, size):
    g = np.array([3.0, -4.0, 0.0], dtype) * np.array(size, dtype)
    case = Case("clip_global_norm", ("norm", "g"), {"norm": np.empty(1, dtype)}, {}, {}, {"g": g}, (2.0,))
    result = run(kernels, case)
    np.testing.assert_allclose(result["norm"], [5 * size], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result["g"].astype(np.float64)), min(2.0, 5 * size), rtol=1e-6)


@pytest.mark.parametrize("max_norm", (5.0001, math.inf))
@both_dtypes
def test_clip_leaves_every_bit_of_a_gradient_that_is_short_enough(kernels, dtype, max_norm):
    norm, g = kernels.to_device(np.zeros(1, dtype)), kernels.to_device(np.array([3.0, -4.0, 0.0], dtype))
    kernels.clip_global_norm(norm, g, max_norm)
    np.testing.assert_array_equal(kernels.to_host(g), np.array([3.0, -4.0, 0.0], dtype))


@pytest.mark.parametrize("size", (1, 13, 33001), ids="n{}".format)  # the last is more than one block of adam_step
@both_dtypes
class TestSeveralSteps:
    """Five steps in a row, so that the moments that one step leaves are those that the next one needs."""

    def gradients(self, size):
        return np.random.default_rng(size).normal(size=(5, size))

    @pytest.mark.parametrize(("momentum", "nesterov"), ((0.0, False), (0.9, False), (0.9, True)))
    def test_sgd_follows_the_plain_loop(self, kernels, dtype, size, momentum, nesterov):
        p, m = np.linspace(-1, 1, size), np.zeros(size)
        p_kernel, m_kernel = kernels.to_device(p.astype(dtype)), kernels.to_device(m.astype(dtype))
        for g in self.gradients(size):
            m = momentum * m + g
            p = p - 0.1 * (g + momentum * m if nesterov else m)
            kernels.sgd_step(p_kernel, m_kernel, kernels.to_device(g.astype(dtype)), 0.1, momentum, nesterov)
        assert_close(kernels.to_host(p_kernel), p, TOLERANCE[dtype])
        assert_close(kernels.to_host(m_kernel), m, TOLERANCE[dtype])

    @pytest.mark.parametrize("weight_decay", (0.0, 0.3), ids=("adam", "adamw"))
    def test_adam_follows_the_plain_loop(self, kernels, dtype, size, weight_decay):
        p, m, v = np.linspace(-1, 1, size), np.zeros(size), np.zeros(size)
        state = [kernels.to_device(array.astype(dtype)) for array in (p, m, v)]
        for step, g in enumerate(self.gradients(size), start=1):
            p, m, v = adam_formula(p, m, v, g, 0.02, 0.9, 0.999, 1e-8, step, weight_decay)
            kernels.adam_step(*state, kernels.to_device(g.astype(dtype)), 0.02, 0.9, 0.999, 1e-8, step, weight_decay)
        for array, expected in zip(state, (p, m, v), strict=True):
            assert_close(kernels.to_host(array), expected, TOLERANCE[dtype])


@both_dtypes
def test_first_step_of_adam_is_the_learning_rate_against_the_sign_of_the_gradient(kernels, dtype):
    # m_hat / sqrt(v_hat) = g / |g| at step 1, whatever the size of g: without the bias corrections it is 0.1 / 0.0316.
    p, m, v = (kernels.to_device(np.zeros(4, dtype)) for _ in range(3))
    g = kernels.to_device(np.array([1e-3, -1e-3, 5.0, -700.0], dtype))
    kernels.adam_step(p, m, v, g, 0.25, 0.9, 0.999, 1e-12, 1, 0.0)
    np.testing.assert_allclose(kernels.to_host(p), [-0.25, 0.25, -0.25, 0.25], rtol=1e-6)


@pytest.mark.parametrize("kind", ("uint8", "int16", "bool", "float32", "float64"))
@both_dtypes
def test_gather_takes_data_of_every_kind(kernels, dtype, kind):
    data = (np.random.default_rng(0).uniform(0, 200, (9, 7)) > 50) * np.arange(1, 8)
    data = data.astype(kind)
    rows = np.array([8, 0, 3, 3])  # in any order, and more than once
    x = kernels.to_device(np.full((4, 7), math.nan, dtype))
    kernels.gather(x, kernels.to_device(data.copy()), kernels.to_device(rows), 4.0)
    np.testing.assert_array_equal(kernels.to_host(x), (data[rows].astype(np.float64) / 4).astype(dtype))


@both_dtypes
def test_gather_reads_rows_of_a_file_mapped_into_memory(kernels, dtype, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (10, 6)).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    data = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    assert isinstance(data, np.memmap)
    x = kernels.to_device(np.empty((3, 6), dtype))
    kernels.gather(x, kernels.to_device(data), kernels.to_device(np.array([9, 2, 5])), 255.0)
    assert_close(kernels.to_host(x), pixels[[9, 2, 5]] / 255, TOLERANCE[dtype])


@both_dtypes
def test_binarize_never_sets_a_black_pixel_and_always_a_white_one(kernels, dtype):
    u = kernels.to_device(np.empty((50, 40), dtype))
    kernels.philox_uniform(u, kernels.to_device(np.arange(50)), 3, 1, 0)
    for grey in (0.0, 1.0):
        x = kernels.to_device(np.full((50, 40), grey, dtype))
        kernels.binarize(x, u)
        assert (np.array(kernels.to_host(x)) == grey).all()


def test_noise_of_every_backend_and_dtype_is_that_of_the_reference(kernels):
    # uniforms bit by bit; normals up to the last digits of log, sin and cos
    rows = np.array([7, 0, 2**20])
    uniform, normal = np.empty((3, 9)), np.empty((3, 9))
    reference.philox_uniform(uniform, rows, 11, 4, 2)
    reference.philox_normal(normal, rows, 11, 4, 2)
    for dtype in DTYPES:
        u, eps = (kernels.to_device(np.empty((3, 9), dtype)) for _ in range(2))
        kernels.philox_uniform(u, kernels.to_device(rows), 11, 4, 2)
        kernels.philox_normal(eps, kernels.to_device(rows), 11, 4, 2)
        np.testing.assert_array_equal(np.array(kernels.to_host(u)).astype(np.float64), uniform)
        assert_close(kernels.to_host(eps), normal, TOLERANCE[dtype])


def test_memory_goes_to_the_device_and_back_unchanged(kernels):
    for array in (np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(5, dtype=np.uint8), np.arange(3)):
        back = kernels.to_host(kernels.to_device(array))
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    for dtype in DTYPES:
        fresh = kernels.empty((2, 3), dtype)
        assert (fresh.shape, np.dtype(fresh.dtype)) == ((2, 3), np.dtype(dtype))
    kernels.synchronize()


# ---- Programs


def test_a_bound_program_looks_its_variables_up_at_every_run(kernels):
    p, m, g = (kernels.to_device(np.zeros(3)) for _ in range(3))
    ones = kernels.to_device(np.ones((1, 3)))
    rows = kernels.to_device(np.zeros(1, np.int64))
    g2 = g.reshape(1, 3)
    program = [
        Call("gather", ("g2", "ones", "rows"), (1.0,)),
        Call("sgd_step", ("p", "m", "g"), (Var("learning_rate"), 0.0, False)),
    ]
    run = bind(kernels, program, {"p": p, "m": m, "g": g, "g2": g2, "ones": ones, "rows": rows})
    run(learning_rate=1.0)
    run(learning_rate=0.25)
    np.testing.assert_array_equal(kernels.to_host(p), [-1.25] * 3)


PROGRAMS = {
    "bernoulli-relu-sgd": ({"activation": "relu"}, {"name": "sgd"}),
    "bernoulli-gelu-adam": ({"activation": "gelu"}, {"name": "adam", "epsilon": 1e-3}),
    "gaussian-learned-tanh-adamw": (
        {"likelihood": "gaussian", "activation": "tanh"},
        {"name": "adamw", "weight_decay": 0.1, "epsilon": 1e-3},
    ),
    "gaussian-fixed-softplus-nesterov": (
        {"likelihood": "gaussian", "sigma": 0.7, "activation": "softplus"},
        {"name": "sgd", "nesterov": True, "max_grad_norm": 0.5},
    ),
    "gaussian-elementwise-leaky-sgd": (
        {"likelihood": "gaussian", "sigma": "elementwise", "activation": "leaky_relu"},
        {"name": "sgd", "max_grad_norm": 1.0},
    ),
    "samples-relu-sgd": ({"activation": "relu"}, {"name": "sgd"}, {"n_samples": 3}),
    "iwae-tanh-sgd": ({"activation": "tanh"}, {"name": "sgd"}, {"objective": "iwae", "n_samples": 4}),
    "dreg-gaussian-sgd": ({"likelihood": "gaussian"}, {"name": "sgd"}, {"objective": "dreg", "n_samples": 3}),
    "stl-columns-sgd": (
        {"likelihood": "gaussian", "missing": "input"},
        {"name": "sgd"},
        {"objective": "stl", "n_samples": 3},
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
@both_dtypes
def test_the_training_step_equals_the_reference_kernels_called_line_by_line(kernels, dtype, name):
    # A backend may compile or record the program: parameters and losses of six steps must not notice. epsilon is large
    # in Adam because a gradient that is 0 but for rounding would otherwise be blown up to a full step.
    architecture, optimizer, *objective = PROGRAMS[name]
    objective = Objective(**objective[0]) if objective else Objective(free_bits=0.01)
    arch = Architecture(11, 3, (9, 7), **architecture)
    optimizer = Optimizer(learning_rate=0.01, **optimizer)
    pixels = np.random.default_rng(5).integers(0, 256, (40, 11)).astype(np.uint8)
    binarize = "dynamic" if arch.likelihood == "bernoulli" else "none"
    examples = Examples(pixels, np.arange(40), 255.0, binarize)
    traces, parameters = {}, {}
    for module in (kernels, reference):
        network = Network(arch, module, dtype)
        network.set_parameters(initial_parameters(arch, seed=1))
        program = step_program(network, examples, objective, optimizer, seed=2)
        moments = {n: module.to_device(v) for n, v in optimizer.state(network.parameters.size, dtype).items()}
        trace = module.to_device(np.zeros((6, objective.bound.columns(3))))
        flat = {"p": network.parameters, "g": network.gradient, "trace": trace, **moments}
        work = network.workspace(program, 13, objective.n_samples, data=module.to_device(pixels), **flat)
        for step in range(1, 7):
            rows = np.arange(7 * (step - 1), 7 * (step - 1) + (13 if step % 2 else 5)) % 40
            work.put("rows", rows)
            variables = {"step": step, "update": step, "index": step - 1}
            variables |= {"beta": step / 6, "learning_rate": 0.01 / step}
            if module is kernels:
                work.run(len(rows), **variables)
            else:
                for line in program:
                    arrays = [None if n is None else work.bound(len(rows))[1][n] for n in line.arrays]
                    scalars = [variables[s.name] if isinstance(s, Var) else s for s in line.scalars]
                    getattr(reference, line.kernel)(*arrays, *scalars)
        module.synchronize()
        traces[module], parameters[module] = np.array(module.to_host(trace)), network.get_parameters()
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert_close(traces[kernels], traces[reference], tolerance)
    assert_close(parameters[kernels], parameters[reference], tolerance)
    assert np.ptp(traces[reference][:, 0]) > 0.1  # and something did happen


@both_dtypes
def test_a_batch_smaller_than_the_workspace_is_a_mean_over_its_own_rows(kernels, dtype):
    # The last batch of an epoch: 1/B is that of its rows, and what the longer batch before it left behind has no part.
    arch = Architecture(11, 3, (9,), "tanh", "gaussian")
    network = Network(arch, kernels, dtype)
    network.set_parameters(initial_parameters(arch, seed=1))
    rng = np.random.default_rng(0)
    x, eps = rng.normal(size=(13, 11)), rng.normal(size=(13, 3))
    program = forward_program(arch) + backward_program(arch)
    work = network.workspace(program, 13)
    for rows in (13, 5, 1):
        work.put("x", x[:rows])
        work.put("eps", eps[:rows])
        work.run(rows, beta=0.7)
        mixed = np.array(kernels.to_host(network.gradient))
        assert work.get("nll").shape == (rows,)
        per_example = [network.loss_and_gradient(x[i : i + 1], eps[i : i + 1], 0.7)[1] for i in range(rows)]
        assert_close(mixed, np.mean(per_example, axis=0), 10 * TOLERANCE[dtype])


def test_load_names_what_is_wrong_with_a_backend():
    with pytest.raises(ValueError, match="'abacus' is not one of auto, numpy"):
        interface.load("abacus")
    assert interface.load("numpy") is reference
    for name in interface.MODULES:
        works, reason = interface.availability(name)
        assert reason
        if not works:
            with pytest.raises(ImportError, match="choose backend='numpy'"):
                interface.load(name)
