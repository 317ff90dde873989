"""The proof of the kernels: each that has a gradient, one by one, on small random batches with random upstream gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minivae import randomness
from minivae.gradcheck import check_gradient
from minivae.kernels.bounds import ESTIMATORS
from minivae.kernels.columns import KINDS
from minivae.kernels.reference import ACTIVATIONS
from minivae.kernels.table import TABLE, Kernel
from minivae.kernels.table import value as size_of
from minivae.likelihoods import COUNTS, LIKELIHOODS, ONE_HOT, REAL, UNIT
from minivae.network import total_loss
from minivae.parameters import gradient_name

TOLERANCE = {"float64": 1e-7, "longdouble": 1e-11}


@dataclass(frozen=True)
class Row:
    """One gradient checked: of which function, with respect to what, and its relative error."""

    subject: str
    gradient: str
    error: float
    tolerance: float = TOLERANCE["float64"]

    @property
    def passed(self) -> bool:
        return bool(self.error <= self.tolerance)  # False for NaN


# ---- Kernels, one by one: L = sum of all outputs, each times a random dL/doutput


def kernel_rows(kernels: ModuleType, dtype: str = "float64") -> Iterator[Row]:
    """Each kernel that has a gradient, with respect to each of its inputs, on a small batch."""
    B, I, O = 5, 4, 3
    noise = noise_of(dtype)
    for activation in ACTIVATIONS:
        x, W, b, dy = noise(B, I), noise(I, O), noise(O), noise(B, O)

        def dense(inputs: dict[str, np.ndarray], f: str = activation, dy: np.ndarray = dy) -> Any:
            y, _ = _run(kernels, "dense_forward", [(B, O), (B, O)], list(inputs.values()), f)
            return np.sum(dy * y)

        y, a = _run(kernels, "dense_forward", [(B, O), (B, O)], [x, W, b], activation)
        gradients = _run(kernels, "dense_backward", [(B, I), (I, O), (O,)], [dy, x, a, y, W], activation)
        yield from _rows(f"dense_forward {activation}", dense, {"x": x, "W": W, "b": b}, gradients)

    for K in (1, 3):
        yield from sample_rows(kernels, K, noise)
    yield from bound_rows(kernels, noise)

    kl, weight = np.abs(noise(B, 6)), np.abs(noise(B))
    for scalars in ((0.7, 0.5, 0.0), (0.7, 0.0, 0.5 * (weight @ kl).sum()), (0.7, 0.0, 2 * (weight @ kl).sum())):

        def penalty(inputs: dict[str, np.ndarray], scalars: tuple[float, ...] = scalars) -> Any:
            kl_mean, _ = _run(kernels, "kl_loss", [(6,), (6,)], [inputs["kl"], weight], *scalars)
            return total_loss(0.0, kl_mean, *scalars)

        _, dkl = _run(kernels, "kl_loss", [(6,), (6,)], [kl, weight], *scalars)
        form = f" capacity={scalars[2]:.3g}" if scalars[2] else ""
        yield from _rows(f"kl_loss{form}", penalty, {"kl": kl}, [weight[:, None] * dkl])

    for name, row in TABLE.items():
        names = [array.name for array in row.arrays]
        if name.endswith("_loss") and "x" in names and "runs" not in names:
            yield from loss_rows(kernels, row, {"B": B, "D": I, "1": 1}, noise)
    for kind in KINDS:
        yield from cell_rows(kernels, kind, noise)


def sample_rows(kernels: ModuleType, K: int, noise: Callable[..., np.ndarray]) -> Iterator[Row]:
    """K samples for each example, and the KL, by h."""
    B, Z = 5, 2
    h, eps, dz, dkl_mean, weight = noise(B, 2 * Z), noise(K * B, Z), noise(K * B, Z), noise(Z), np.abs(noise(B))

    def sample(inputs: dict[str, np.ndarray]) -> Any:
        z, kl = _run(kernels, "sample_forward", [(K * B, Z), (B, Z)], [inputs["h"], eps])
        return np.sum(dz * z) + dkl_mean @ (weight @ kl)

    gradients = _run(kernels, "sample_backward", [(B, 2 * Z)], [dz, h, eps, dkl_mean, weight])
    yield from _rows(f"sample_forward{f' of {K} samples' * (K > 1)}", sample, {"h": h}, gradients)


def bound_rows(kernels: ModuleType, noise: Callable[..., np.ndarray]) -> Iterator[Row]:
    """importance_bound by each nll and, where nll depends on z, by h through every estimator."""
    B, Z, K, beta = 5, 2, 3, 0.7
    S = K * B
    h, eps, slope, weight, kl, nll = noise(B, 2 * Z), noise(S, Z), noise(S, Z), np.abs(noise(B)), noise(B, Z), noise(S)

    def forward(nll: np.ndarray, h: np.ndarray) -> list[np.ndarray]:
        mu, logvar = (np.repeat(part, K, axis=0) for part in np.split(h, 2, axis=1))
        z = mu + np.exp(logvar / 2) * eps
        nll = nll + np.sum(slope * z, axis=1)
        shapes = [(B,), (S,), (B, Z + 1)]
        return [z, nll, *_run(kernels, "importance_bound", shapes, [nll, kl, z, h, eps, weight], beta)]

    def loss(inputs: dict[str, np.ndarray]) -> Any:
        return weight @ forward(**{"nll": nll, "h": h} | inputs)[2]

    z, _, _, dnll, _ = forward(nll, h)
    yield from _rows("importance_bound", loss, {"nll": nll}, [dnll])
    for estimator in ESTIMATORS:
        arrays = [dnll[:, None] * slope, z, h, eps, dnll, weight]
        gradients = _run(kernels, "importance_backward", [(B, 2 * Z)], arrays, beta, estimator)

        def held(inputs: dict[str, np.ndarray], estimator: str = estimator) -> Any:
            z, values, *_ = forward(nll, inputs["h"])
            return surrogate(z, values, h, dnll, weight, beta, estimator)

        f = loss if estimator == "iwae" else held
        yield from _rows(f"importance_bound by {estimator}", f, {"h": h}, gradients)


def surrogate(
    z: np.ndarray,
    nll: np.ndarray,
    h: np.ndarray,
    dnll: np.ndarray,
    weight: np.ndarray,
    beta: float,
    estimator: str,
    decoder: bool = False,
) -> Any:
    """The number whose derivative is what "stl" or "dreg" take for that of the bound: weights and q's h are held constant.

    sum_s c_s ( nll_s + beta [ log q(z_s | h) - log p(z_s) ] ) up to a constant, where c = dnll, and to the encoder of dreg
    dnll ( 1 - beta + beta wt ),  wt = dnll / weight.
    """
    mu, logvar = (np.repeat(part, len(z) // len(h), axis=0) for part in np.split(h, 2, axis=1))
    c = dnll
    if estimator == "dreg" and not decoder:
        c = dnll * (1 - beta + beta * dnll / np.repeat(weight, len(z) // len(h)))
    return c @ (nll + 0.5 * beta * np.sum(z**2 - (z - mu) ** 2 / np.exp(logvar), axis=1))


def loss_rows(
    kernels: ModuleType, row: Kernel, letters: dict[str, int], noise: Callable[..., np.ndarray]
) -> Iterator[Row]:
    """A likelihood with respect to each array of which it writes a gradient."""
    shapes = {array.name: tuple(size_of(size, letters) for size in array.shape) for array in row.arrays}
    domain = next((l.data for l in LIKELIHOODS.values() if l.kernel == row.name), REAL)
    inputs = {name: noise(*shapes[name]) for name in shapes if not row.array(name).written}
    inputs["x"], inputs["weight"] = example(domain, inputs["x"]), np.abs(inputs["weight"])
    written = [array.name for array in row.arrays if array.written]
    nll = written.index("nll")

    def loss(given: dict[str, np.ndarray]) -> Any:
        outputs = _run(kernels, row.name, [shapes[name] for name in written], list((inputs | given).values()))
        return inputs["weight"] @ outputs[nll]

    outputs = dict(zip(written, _run(kernels, row.name, [shapes[name] for name in written], list(inputs.values()))))
    wanted = [name for name in inputs if gradient_name(name) in outputs]
    yield from _rows(row.name, loss, {n: inputs[n] for n in wanted}, [outputs[gradient_name(n)] for n in wanted])


def cell_rows(kernels: ModuleType, kind: str, noise: Callable[..., np.ndarray]) -> Iterator[Row]:
    """columns_loss of one kind, some of whose cells were not observed, with respect to the decoder's output and to t."""
    B, D, wide = 5, 4, 2 if kind == "gaussian_elementwise" else 1
    domain = LIKELIHOODS[kind.removesuffix("_elementwise")].data
    out, x, t, weight = noise(B, wide * D), example(domain, noise(B, D)), noise(D), np.abs(noise(B))
    observed = (noise(B, D) > -0.5).astype(out.dtype)
    if domain == ONE_HOT:
        observed[:] = observed[:, :1]
    rest = [x, observed, t, noise(D), np.array([[KINDS[kind], 0, 0, D]]), weight]

    def run(out: np.ndarray, t: np.ndarray) -> list[np.ndarray]:
        return _run(kernels, "columns_loss", [out.shape, (B, D), (B,)], [out, *rest[:2], t, *rest[3:]])

    dout, dt, _ = run(out, t)
    gradients = {"out": dout} | ({"t": dt.sum(axis=0)} if kind in ("gaussian", "negative_binomial") else {})
    inputs = {"out": out, "t": t}

    def loss(given: dict[str, np.ndarray]) -> Any:
        return weight @ run(**(inputs | given))[2]

    yield from _rows(f"columns_loss {kind}", loss, {name: inputs[name] for name in gradients}, list(gradients.values()))


def example(domain: str, noise: np.ndarray) -> np.ndarray:
    """Data of one of the DOMAINS, made of normal noise."""
    if domain == ONE_HOT:
        return np.asarray(np.eye(noise.shape[1], dtype=noise.dtype)[noise.argmax(axis=1)])
    return np.asarray({UNIT: 1 / (1 + np.exp(noise)), REAL: noise, COUNTS: np.floor(np.exp(noise))}[domain])


def _run(
    kernels: ModuleType, name: str, shapes: list[tuple[int, ...]], inputs: list[np.ndarray], *scalars: object
) -> list[np.ndarray]:
    """Call a kernel on copies of host arrays; its outputs, of these shapes, on the host."""
    outputs = [kernels.empty(shape, inputs[0].dtype) for shape in shapes]
    getattr(kernels, name)(*outputs, *[kernels.to_device(array.copy()) for array in inputs], *scalars)
    return [np.asarray(kernels.to_host(output)) for output in outputs]


def _rows(
    subject: str,
    f: Callable[[dict[str, np.ndarray]], Any],
    inputs: dict[str, np.ndarray],
    gradients: list[np.ndarray],
) -> Iterator[Row]:
    for (name, value), gradient in zip(inputs.items(), gradients):
        error = check_gradient(lambda v, name=name: f({**inputs, name: v}), gradient, value)  # type: ignore[misc]
        yield Row(subject, gradient_name(name), error, tolerance_of(value))


def tolerance_of(x: np.ndarray) -> float:
    return TOLERANCE["float64" if x.dtype == np.float64 else "longdouble"]


def noise_of(dtype: str) -> Callable[..., np.ndarray]:
    """A source of standard normal arrays, the same in every run."""
    state = {"step": 0}

    def draw(*shape: int) -> np.ndarray:
        state["step"] += 1
        flat = randomness.normal((1, int(np.prod(shape))), seed=1, purpose=randomness.CHECK, step=state["step"])
        return flat.reshape(shape).astype(dtype)

    return draw
