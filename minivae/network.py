"""The VAE as an order of kernel calls. No formula lives here: this file says what follows what, once, as data.

    x -> encoder.0 -> ... -> h -> sample -> z -> decoder.0 -> ... -> out -> likelihood -> nll
                                   |
                                   kl -> kl_loss

With K samples of z for each example all from z on has S = K B rows, and x is repeated for them: "x.k" is "x" K times over.
With K = 1 it is x itself. An importance-weighted bound takes the place of the ELBO where its kernels stand below.

A program is a list of `Call`s over named arrays. Training, evaluation and the gradient check run the same programs, and
each backend may run, compile or record them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minivae.architecture import (
    BATCH,
    INTEGER_ARRAYS,
    SAMPLES,
    Architecture,
    Layer,
    array_shapes,
    decoder_layers,
    encoder_layers,
    parameter_layout,
)
from minivae.forks import unforked
from minivae.kernels import Call, Var, bind
from minivae.kernels.table import TABLE
from minivae.parameters import gradient_name, size, views

# ---- Programs


def encode_program(arch: Architecture) -> list[Call]:
    """x -> h = [mu | logvar]"""
    before = [Call("observe", ("observed", "inputs", "x", "shift", "scale"))] if arch.by_columns else []
    before += [Call("join", ("xc", arch.encoder_input, "c"))] if arch.conditions else []
    return before + [_dense_forward(layer) for layer in encoder_layers(arch)]


def decode_program(arch: Architecture, samples: int = 1) -> list[Call]:
    """z -> out: what the likelihood's kernel reads, such as logits for bernoulli"""
    told = [Call("join", ("zc", "z", k("c", samples)))] if arch.conditions else []
    return told + [_dense_forward(layer) for layer in decoder_layers(arch)]


def k(name: str, samples: int) -> str:
    """The array that has a row for each sample, where `name` has one for each example."""
    return name if samples == 1 else f"{name}.k"


def loss_program(arch: Architecture, samples: int = 1, weight: str = "weight") -> list[Call]:
    """out, x -> nll and dout, the gradient with respect to the decoder's output"""
    x, observed = k("x", samples), k("observed", samples)
    if arch.by_columns:
        arrays = ("dout", "dt", "nll", "out", x, observed, "dispersion", "log_scale", "runs", weight)
        total = [Call("sum_rows", ("ddispersion", "dt"))] if arch.learns_dispersion else []
        return [Call(arch.loss_kernel, arrays), *total]
    row = TABLE[arch.loss_kernel]
    out = next(array.name for array in row.arrays if not array.written)  # whatever the likelihood calls it
    here = {out: "out", gradient_name(out): "dout", "x": x, "weight": weight}
    return [Call(row.name, tuple(here.get(array.name, array.name) for array in row.arrays))]


@dataclass(frozen=True)
class Bound:
    """What is maximized, as far as the program says it: see training.Objective, which adds the schedules.

    name: "elbo", with the KL in closed form, or an importance-weighted bound with one of the ESTIMATORS of its gradient.
    n_samples: K. free_bits and capacity (a number, or a Var) belong to the closed form of the KL.
    """

    name: str = "elbo"
    n_samples: int = 1
    free_bits: float = 0.0
    capacity: float | Var = 0.0

    @property
    def weighted(self) -> bool:
        return self.name != "elbo"

    @property
    def recorded(self) -> tuple[str, str, str]:
        """The names of the loss of rows, of means [C] and of the weights of rows that the trace is made of."""
        if self.weighted:
            return "bound", "terms_mean", "weight"
        return "nll", "kl_mean", k("weight", self.n_samples)

    def columns(self, latent_dim: int) -> int:
        """Of the trace: loss (or recon), the gradient's norm, kl_per_dim; and recon, where the loss stands in its place."""
        return 2 + latent_dim + self.weighted


ELBO = Bound()


def forward_program(arch: Architecture, bound: Bound = ELBO) -> list[Call]:
    """x, eps -> the loss of each row, its terms, and with them the gradients in which the backward pass begins"""
    K, many = bound.n_samples, ["x", *["observed"] * arch.by_columns, *["c"] * bool(arch.conditions)]
    program = [
        *encode_program(arch),
        Call("sample_forward", ("z", "kl", "h", "eps")),
        *[Call("repeat", (k(name, K), name)) for name in many if K > 1],
        *decode_program(arch, K),
    ]
    if not bound.weighted:
        scalars = Var("beta"), bound.free_bits, bound.capacity
        penalty = Call("kl_loss", ("kl_mean", "dkl_mean", "kl", "weight"), scalars)
        return [*program, *loss_program(arch, K, k("weight", K)), penalty]
    terms = ("bound", "dnll", "terms", "nll", "kl", "z", "h", "eps", "weight")
    return [
        *program,
        *loss_program(arch, K, "one"),
        Call("importance_bound", terms, (Var("beta"),)),
        *_weighed_loss(arch, K),
        Call("kl_loss", ("terms_mean", "dterms_mean", "terms", "weight"), (1.0, 0.0, 0.0)),
    ]


def _weighed_loss(arch: Architecture, samples: int) -> list[Call]:
    """dnll -> dout and what else a loss has the gradient of, now that it is known what each nll counts."""
    if arch.learns_sigma:  # whose gradient is a sum over rows
        return loss_program(arch, samples, "dnll")
    program = [Call("weigh", ("dout", "dnll"))]
    if arch.learns_dispersion:
        program += [Call("weigh", ("dt", "dnll")), Call("sum_rows", ("ddispersion", "dt"))]
    return program


def backward_program(arch: Architecture, bound: Bound = ELBO) -> list[Call]:
    """The forward program in reverse: every gradient of the loss with respect to a parameter"""
    sampling = Call("sample_backward", ("dh", "dz", "h", "eps", "dkl_mean", "weight"))
    if bound.weighted:
        arrays = ("dh", "dz", "z", "h", "eps", "dnll", "weight")
        sampling = Call("importance_backward", arrays, (Var("beta"), bound.name))
    return [*decoder_backward(arch), sampling, *encoder_backward(arch)]


def decoder_backward(arch: Architecture) -> list[Call]:
    """dout -> dz"""
    told = [Call("split", ("dz", "dzc"))] if arch.conditions else []
    return [_dense_backward(layer) for layer in reversed(decoder_layers(arch))] + told


def encoder_backward(arch: Architecture) -> list[Call]:
    """dh, back to the first layer"""
    return [_dense_backward(layer) for layer in reversed(encoder_layers(arch))]


def _dense_forward(layer: Layer) -> Call:
    return Call("dense_forward", (layer.y, layer.a, layer.x, f"{layer.name}.W", f"{layer.name}.b"), (layer.activation,))


def _dense_backward(layer: Layer) -> Call:
    dx = None if layer.x in ("x", "inputs", "xc") else gradient_name(layer.x)
    dy, n = gradient_name(layer.y), layer.name
    arrays = (dx, f"{n}.dW", f"{n}.db", dy, layer.x, layer.a, layer.y, f"{n}.W")
    return Call("dense_backward", arrays, (layer.activation,))


class NotFinite(ArithmeticError):
    """A NaN or an infinity where a number must be; the message names the first array that holds one."""


# ---- The network: an architecture, a backend's module, and the parameters where that backend keeps them


class Network:
    """Parameters and gradients as flat vectors with named views, and the programs bound to them.

    parameters, gradient: flat vectors [N] in the backend's memory. Whoever changes `parameters` changes the model.
    """

    def __init__(self, arch: Architecture, kernels: ModuleType, dtype: Any = "float32") -> None:
        exact = ("longdouble",) * kernels.__name__.endswith("reference")  # the book runs in any type: see proof.py
        if dtype not in ("float32", "float64", np.float32, np.float64, *exact):
            raise ValueError(f"dtype must be 'float32' or 'float64', not {str(dtype)!r}")
        self.arch, self.kernels, self.dtype = arch, kernels, np.dtype(dtype)
        self.layout = parameter_layout(arch)
        self.parameters = kernels.to_device(np.zeros(size(self.layout), self.dtype))
        self.gradient = kernels.to_device(np.zeros(size(self.layout), self.dtype))
        self.named = views(self.parameters, self.layout) | views(self.gradient, self.layout, gradient=True)
        if arch.by_columns:
            (shift, scale), here = arch.column_units(), kernels.to_device
            runs = [(run.kind, run.column, run.output, run.count) for run in arch.runs]
            log_scale = np.log(scale)  # of a density; grey values that count as probabilities have none
            for run in arch.runs:
                log_scale[run.columns] *= run.likelihood != "bernoulli"
            columns = {"shift": shift, "scale": scale, "log_scale": log_scale, "dispersion": arch.dispersion()}
            columns = {name: here(values.astype(self.dtype)) for name, values in columns.items()}
            self.named = columns | {"runs": here(np.array(runs, np.int64))} | self.named
        elif arch.likelihood == "gaussian" and not isinstance(arch.sigma, str):
            self.named["log_sigma"] = kernels.to_device(np.full(1, math.log(arch.sigma), self.dtype))

    def workspace(self, program: Sequence[Call], capacity: int, samples: int = 1, **arrays: Any) -> Workspace:
        """The arrays that this program needs, for batches of up to `capacity` rows with so many samples of z each.

        `arrays` brings further ones.
        """
        return Workspace(self, program, capacity, samples, arrays)

    def set_parameters(self, values: np.ndarray) -> None:
        """Copy host values [N] into the parameters."""
        self.parameters[...] = self.kernels.to_device(np.asarray(values, self.dtype))

    def get_parameters(self) -> np.ndarray:
        """A copy of the parameters [N] on the host."""
        return np.array(self.kernels.to_host(self.parameters))

    def not_finite(self) -> str:
        """The name of the first parameter that holds a NaN or an infinity, or ""."""
        named = views(self.get_parameters(), self.layout).items()
        return next((name for name, values in named if not np.isfinite(values).all()), "")

    def require_finite(self) -> None:
        """Raises NotFinite naming the first parameter that is no number."""
        if name := self.not_finite():
            raise NotFinite(f"the parameter {name!r} holds a NaN or an infinity; fit again, or load the model's file")

    def loss_and_gradient(
        self, x: np.ndarray, eps: np.ndarray, beta: float = 1.0, side: np.ndarray | None = None, bound: Bound = ELBO
    ) -> tuple[float, np.ndarray]:
        """The loss in nats per example and its gradient [N], at data x [B, D], noise eps [S, Z] and side [B, C]."""
        program = forward_program(self.arch, bound) + backward_program(self.arch, bound)
        work = self.workspace(program, len(x), bound.n_samples)
        for name, values in {"x": x, "eps": eps, "c": side}.items():
            if values is not None:
                work.put(name, values)
        work.run(len(x), beta=beta)
        loss = np.mean(work.get(bound.recorded[0])).item()
        if not bound.weighted:
            assert not isinstance(bound.capacity, Var)
            loss = total_loss(loss, work.get("kl_mean"), beta, bound.free_bits, bound.capacity)
        return loss, np.array(self.kernels.to_host(self.gradient))


def total_loss(recon: float, kl_mean: np.ndarray, beta: float, free_bits: float, capacity: float = 0.0) -> float:
    """recon + beta |sum_j max(free_bits, kl_mean_j) - capacity|: the number whose gradient the backward program computes."""
    total: float = np.maximum(kl_mean, free_bits).sum().item()  # of long double, long double
    return recon + beta * abs(total - capacity)


class Workspace:
    """Every array of a program, held once. A batch smaller than the capacity uses the first rows of each."""

    def __init__(
        self, network: Network, program: Sequence[Call], capacity: int, samples: int, arrays: dict[str, Any]
    ) -> None:
        self.network, self.program, self.capacity, self.rows = network, list(program), capacity, capacity
        self.samples, self.shapes = samples, array_shapes(network.arch, samples)
        self.arrays = network.named | arrays
        for name in (name for call in program for name in call.arrays):
            if name is not None and name not in self.arrays and name != "noise":
                shape = tuple({BATCH: capacity, SAMPLES: capacity * samples}.get(n, n) for n in self.shapes[name])
                dtype = np.int64 if name in INTEGER_ARRAYS else network.dtype
                self.arrays[name] = network.kernels.empty(shape, dtype)
        if "eps" in self.arrays:  # drawn in one row for each example
            self.arrays["noise"] = self.arrays["eps"].reshape(capacity, -1)
        self._bound: dict[tuple[int, int], tuple[Any, dict[str, Any]]] = {}

    @np.errstate(all="ignore")  # what is no number is looked for where the program ends, whatever NumPy is set to
    @unforked
    def run(self, rows: int, **variables: Any) -> None:
        """Run the program on the first `rows` rows of its arrays."""
        self.bound(rows)[0](**variables)
        self.rows = rows

    @np.errstate(all="ignore")
    @unforked
    def steps(self, rows: np.ndarray, examples: Any = None, **variables: Any) -> int:
        """Run the program on rows[i] [B] of examples for each i, with the i-th value of each variable; how often it ran."""
        self.rows = rows.shape[1]
        if examples is not None and examples.staged:  # then there is one such i
            examples.load(self, rows[0])
        return int(self.bound(self.rows)[0].steps(rows, **variables))

    def bound(self, rows: int, of: int = 0) -> tuple[Any, dict[str, Any]]:
        """The program tied to arrays of so many rows (of a batch that has more), and those arrays by name."""
        if (rows, of) not in self._bound:
            S, here = rows * self.samples, self.network.kernels.to_device
            count = {BATCH: rows, SAMPLES: S}
            lead = {name: shape[0] for name, shape in self.shapes.items() if shape[0] in count}
            arrays = {n: a[: count[lead[n]]] if n in lead else a for n, a in self.arrays.items()}
            # the 1/B: the chain rule starts here
            share = 1 / (of or rows)
            for name, n, each in (("weight", rows, share), ("weight.k", S, share / self.samples), ("one", S, 1)):
                arrays[name] = here(np.full(n, each, self.network.dtype))
            self._bound[rows, of] = self.tied(arrays), arrays
        return self._bound[rows, of]

    def tied(self, arrays: dict[str, Any]) -> Any:
        return bind(self.network.kernels, self.program, arrays)

    def prepare(self, rows: int) -> None:
        """Compile or record what a batch of so many rows needs."""
        self.bound(rows)

    def put(self, name: str, values: np.ndarray) -> None:
        """Copy host values into the first rows of an array."""
        target = self.arrays[name]
        target[: len(values)] = self.network.kernels.to_device(np.asarray(values, target.dtype))

    def get(self, name: str) -> np.ndarray:
        """The array on the host, cut to the rows of the last run. It is the workspace's own memory where that is shared."""
        return np.asarray(self.network.kernels.to_host(self.bound(self.rows)[1][name]))
