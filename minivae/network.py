"""The VAE as an order of kernel calls. No formula lives here: this file says what follows what, once, as data.

    x -> encoder.0 -> ... -> h -> sample -> z -> decoder.0 -> ... -> out -> likelihood -> nll
                                   |
                                   kl -> kl_loss

A program is a list of `Call`s over named arrays. Training, evaluation and the gradient check run the same programs, and
each backend may run, compile or record them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from minivae.architecture import (
    BATCH,
    INTEGER_ARRAYS,
    Architecture,
    Layer,
    array_shapes,
    decoder_layers,
    encoder_layers,
    parameter_layout,
)
from minivae.forks import unforked
from minivae.kernels import Call, CallByCall, Var, bind
from minivae.kernels.table import TABLE
from minivae.parameters import differential, size, views

# ---- Programs


def encode_program(arch: Architecture) -> list[Call]:
    """x -> h = [mu | logvar]"""
    before = [Call("observe", ("observed", "inputs", "x", "shift", "scale"))] if arch.by_columns else []
    before += [Call("join", ("xc", arch.encoder_input, "c"))] if arch.conditions else []
    return before + [_dense_forward(layer) for layer in encoder_layers(arch)]


def decode_program(arch: Architecture) -> list[Call]:
    """z -> out: what the likelihood's kernel reads, such as logits for bernoulli"""
    told = [Call("join", ("zc", "z", "c"))] if arch.conditions else []
    return told + [_dense_forward(layer) for layer in decoder_layers(arch)]


def loss_program(arch: Architecture) -> list[Call]:
    """out, x -> nll and dout, the gradient with respect to the decoder's output"""
    if arch.by_columns:
        arrays = ("dout", "dt", "nll", "out", "x", "observed", "dispersion", "log_scale", "runs", "weight")
        total = [Call("sum_rows", ("ddispersion", "dt"))] if arch.learns_dispersion else []
        return [Call(arch.loss_kernel, arrays), *total]
    row = TABLE[arch.loss_kernel]
    out = next(array.name for array in row.arrays if not array.written)  # whatever the likelihood calls it
    here = {out: "out", differential(out): "dout"}
    return [Call(row.name, tuple(here.get(array.name, array.name) for array in row.arrays))]


def forward_program(arch: Architecture, free_bits: float = 0.0, capacity: float | Var = 0.0) -> list[Call]:
    """x, eps -> nll, kl, kl_mean, and with them the gradients in which the backward pass begins"""
    return [
        *encode_program(arch),
        Call("sample_forward", ("z", "kl", "h", "eps")),
        *decode_program(arch),
        *loss_program(arch),
        Call("kl_loss", ("kl_mean", "dkl_mean", "kl", "weight"), (Var("beta"), free_bits, capacity)),
    ]


def backward_program(arch: Architecture) -> list[Call]:
    """The forward program in reverse: every gradient of the loss with respect to a parameter"""
    sampling = Call("sample_backward", ("dh", "dz", "h", "eps", "dkl_mean", "weight"))
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
    dx = None if layer.x in ("x", "inputs", "xc") else differential(layer.x)
    dy, n = differential(layer.y), layer.name
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
        if dtype not in ("float32", "float64", np.float32, np.float64):
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

    def workspace(self, program: Sequence[Call], capacity: int, **arrays: Any) -> Workspace:
        """The arrays that this program needs, for batches of up to `capacity` rows; `arrays` brings further ones."""
        return Workspace(self, program, capacity, arrays)

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
        self,
        x: np.ndarray,
        eps: np.ndarray,
        beta: float = 1.0,
        free_bits: float = 0.0,
        capacity: float = 0.0,
        side: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray]:
        """The loss in nats per example and its gradient [N], at data x [B, D], noise eps [B, Z] and side [B, C]."""
        program = forward_program(self.arch, free_bits, capacity) + backward_program(self.arch)
        work = self.workspace(program, len(x))
        work.put("x", x)
        work.put("eps", eps)
        if side is not None:
            work.put("c", side)
        work.run(len(x), beta=beta)
        loss = total_loss(float(np.mean(work.get("nll"))), work.get("kl_mean"), beta, free_bits, capacity)
        return loss, np.array(self.kernels.to_host(self.gradient))


def total_loss(recon: float, kl_mean: np.ndarray, beta: float, free_bits: float, capacity: float = 0.0) -> float:
    """recon + beta |sum_j max(free_bits, kl_mean_j) - capacity|: the number whose gradient the backward program computes."""
    return recon + beta * abs(float(np.maximum(kl_mean, free_bits).sum()) - capacity)


class Workspace:
    """Every array of a program, held once. A batch smaller than the capacity uses the first rows of each."""

    def __init__(self, network: Network, program: Sequence[Call], capacity: int, arrays: dict[str, Any]) -> None:
        self.network, self.program, self.capacity, self.rows = network, list(program), capacity, capacity
        self.shapes = array_shapes(network.arch)
        self.arrays = network.named | arrays
        for name in (name for call in program for name in call.arrays):
            if name is not None and name not in self.arrays:
                shape = tuple(capacity if n == BATCH else n for n in self.shapes[name])
                dtype = np.int64 if name in INTEGER_ARRAYS else network.dtype
                self.arrays[name] = network.kernels.empty(shape, dtype)
        self._bound: dict[int, tuple[CallByCall, dict[str, Any]]] = {}

    @np.errstate(all="ignore")  # what is no number is looked for where the program ends, whatever NumPy is set to
    @unforked
    def run(self, rows: int, **variables: Any) -> None:
        """Run the program on the first `rows` rows of its arrays."""
        self.bound(rows)[0](**variables)
        self.rows = rows

    @np.errstate(all="ignore")
    @unforked
    def steps(self, rows: np.ndarray, **variables: Any) -> int:
        """Run the program on rows[i] [B] for each i, with the i-th value of each variable; how often it ran."""
        self.rows = rows.shape[1]
        return self.bound(self.rows)[0].steps(rows, **variables)

    def bound(self, rows: int) -> tuple[CallByCall, dict[str, Any]]:
        """The program tied to arrays of so many rows, and those arrays by name."""
        if rows not in self._bound:
            arrays = {n: a[:rows] if self.shapes.get(n, (0,))[0] == BATCH else a for n, a in self.arrays.items()}
            share = np.full(rows, 1 / rows, self.network.dtype)  # the 1/B: the chain rule starts here
            arrays["weight"] = self.network.kernels.to_device(share)
            self._bound[rows] = bind(self.network.kernels, self.program, arrays), arrays
        return self._bound[rows]

    def put(self, name: str, values: np.ndarray) -> None:
        """Copy host values into the first rows of an array."""
        target = self.arrays[name]
        target[: len(values)] = self.network.kernels.to_device(np.asarray(values, target.dtype))

    def get(self, name: str) -> np.ndarray:
        """The array on the host, cut to the rows of the last run. It is the workspace's own memory where that is shared."""
        return np.asarray(self.network.kernels.to_host(self.bound(self.rows)[1][name]))
