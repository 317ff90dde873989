"""What the network is: its options, its layers, the shape of every array, and where its parameters start.

    x -> encoder.0 -> ... -> h -> sample -> z -> decoder.0 -> ... -> out -> likelihood -> nll

"encoder.0.W" is a parameter, "encoder.0.y" a layer's output; a gradient puts d before the last part: "encoder.0.dW".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivae import randomness
from minivae.kernels.columns import LEAST
from minivae.kernels.reference import ACTIVATIONS
from minivae.likelihoods import BY_COLUMNS, COUNTS, LIKELIHOODS, Run, is_mixed, runs
from minivae.parameters import Layout, gradient_name, size, views

RECTIFIERS = ("relu", "leaky_relu", "gelu")
INITS = ("glorot", "he")
OUTPUT_BIASES = ("auto", "zero", "data_mean")
MISSING = ("error", "ignore", "input")


@dataclass(frozen=True)
class Architecture:
    """What the network is. The decoder mirrors the encoder's hidden layers.

    sigma belongs to the gaussian likelihood: a positive number fixes it, "learned" trains one for all pixels, and
    "elementwise" lets the decoder give a logvar beside each mean. missing: whether a NaN is an error, or a cell that was not
    observed: "ignore", or "input" where the encoder is told which. By columns, `units` (shift, scale of each column) brings
    gaussian ones to mean 0 and spread 1, and "learned" trains a sigma for each; standardize asks for that, and for least 0
    and most 1 of those in [0, 1]. conditions: C, the columns of a side array that encoder and decoder are told.
    """

    data_dim: int
    latent_dim: int = 2
    hidden_dims: tuple[int, ...] = (256, 128)
    activation: str = "relu"
    likelihood: str = "bernoulli"
    sigma: float | str = "learned"
    missing: str = "error"
    units: tuple[tuple[float, float], ...] = ()
    conditions: int = 0
    standardize: bool = False

    def __post_init__(self) -> None:
        for name in ("data_dim", "latent_dim"):
            _require_positive(name, getattr(self, name))
        for width in self.hidden_dims:
            _require_positive("hidden_dims", width)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        if self.missing not in MISSING:
            raise ValueError(f"missing {self.missing!r} is not one of {', '.join(MISSING)}")
        runs(self.likelihood, self.data_dim)
        if isinstance(self.sigma, str):
            if self.sigma not in ("learned", "elementwise"):
                raise ValueError(f"sigma must be a positive number, 'learned' or 'elementwise', not {self.sigma!r}")
        elif not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be a positive number, 'learned' or 'elementwise', not {self.sigma!r}")

    @property
    def by_columns(self) -> bool:
        """Whether the loss is taken by columns: they differ or have units, cells are missing, or no kernel is faster."""
        one = not is_mixed(self.likelihood) and (self.likelihood, self.sigma) != ("gaussian", "elementwise")
        return (
            self.missing != "error" or self.standardize or not one or LIKELIHOODS[self.likelihood].kernel == BY_COLUMNS
        )

    @property
    def runs(self) -> list[Run]:
        return runs(self.likelihood, self.data_dim, self.sigma == "elementwise")

    @property
    def outputs(self) -> int:
        """P, the width of the decoder's output."""
        return sum(run.outputs for run in self.runs)

    @property
    def inputs(self) -> int:
        """E, the width of the encoder's input."""
        return self.data_dim * (2 if self.missing == "input" else 1)

    @property
    def encoder_input(self) -> str:
        return "inputs" if self.by_columns else "x"

    @property
    def loss_kernel(self) -> str:
        return BY_COLUMNS if self.by_columns else LIKELIHOODS[self.likelihood].kernel

    @property
    def learns_sigma(self) -> bool:
        return not self.by_columns and self.likelihood == "gaussian" and self.sigma == "learned"

    @property
    def learns_dispersion(self) -> bool:
        """Whether columns have a number t of their own to train: see kernels/columns.py."""
        learned = {"negative_binomial"} | ({"gaussian"} if self.sigma == "learned" else set())
        return self.by_columns and any(run.likelihood in learned for run in self.runs)

    @property
    def far(self) -> bool:
        """Whether float32 lacks the digits of a column, as of times in seconds: far from 0, or of no usual size."""
        return any(abs(shift) > 1000 * scale or not 1e-30 < scale < 1e30 for shift, scale in self.units)

    def column_units(self) -> np.ndarray:
        """Shift and scale of each column, [2, D]."""
        return np.array(self.units).T if self.units else np.array([[0.0], [1.0]]) + np.zeros(self.data_dim)

    def dispersion(self) -> np.ndarray:
        """Where t [D] begins, or what it stays: sigma is 1 in a column's units, or fixed; r is 1."""
        t = np.zeros(self.data_dim)
        if not isinstance(self.sigma, str):  # floored(t) = log(sigma / scale)
            above = np.maximum(np.log(self.sigma / self.column_units()[1]) - LEAST, 1e-6)
            t[:] = LEAST + above + np.log(-np.expm1(-above))
        return t


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} needs positive whole numbers, not {value!r}")


@dataclass(frozen=True)
class Layer:
    """One dense layer: the names of its input x and output y, and its shape."""

    name: str
    x: str
    y: str
    inputs: int
    outputs: int
    activation: str

    @property
    def a(self) -> str:
        """The pre-activation is kept apart from y only where the derivative needs it."""
        return f"{self.name}.a" if self.activation == "gelu" else self.y


def encoder_layers(arch: Architecture) -> list[Layer]:
    widths = (arch.inputs + arch.conditions, *arch.hidden_dims, 2 * arch.latent_dim)
    return _stack("encoder", "xc" if arch.conditions else arch.encoder_input, "h", widths, arch.activation)


def decoder_layers(arch: Architecture) -> list[Layer]:
    widths = (arch.latent_dim + arch.conditions, *reversed(arch.hidden_dims), arch.outputs)
    return _stack("decoder", "zc" if arch.conditions else "z", "out", widths, arch.activation)


def _stack(part: str, x: str, y: str, widths: Sequence[int], activation: str) -> list[Layer]:
    last = len(widths) - 2
    layers = []
    for i in range(last + 1):
        output, f = (y, "identity") if i == last else (f"{part}.{i}.y", activation)
        layers.append(Layer(f"{part}.{i}", x, output, widths[i], widths[i + 1], f))
        x = output
    return layers


def parameter_layout(arch: Architecture) -> Layout:
    """The one list of (name, shape) that describes the flat parameter vector."""
    layout: Layout = []
    for layer in encoder_layers(arch) + decoder_layers(arch):
        layout += [(f"{layer.name}.W", (layer.inputs, layer.outputs)), (f"{layer.name}.b", (layer.outputs,))]
    if arch.learns_sigma:
        layout.append(("log_sigma", (1,)))
    if arch.learns_dispersion:
        layout.append(("dispersion", (arch.data_dim,)))
    return layout


BATCH, SAMPLES = -1, -2  # stand in a shape for the number of examples, and of samples of z for all of them
INTEGER_ARRAYS = ("rows",)  # which examples of the data are in the batch; all other arrays hold the network's dtype


def array_shapes(arch: Architecture, samples: int = 1) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array that is no parameter, for so many samples of z for each example."""
    B, S, D, Z, C = BATCH, SAMPLES, arch.data_dim, arch.latent_dim, arch.conditions
    shapes: dict[str, tuple[int, ...]] = {
        "x": (B, D),
        "u": (B, D),
        "rows": (B,),
        "c": (B, C),
        "xc": (B, arch.inputs + C),
    }
    shapes |= {"observed": (B, D), "inputs": (B, arch.inputs)}
    for layer in encoder_layers(arch):
        shapes |= {name: (B, layer.outputs) for name in (layer.y, layer.a, gradient_name(layer.y))}
    shapes |= {"eps": (S, Z), "noise": (B, samples * Z), "z": (S, Z), "dz": (S, Z), "zc": (S, Z + C), "dzc": (S, Z + C)}
    shapes |= {"x.k": (S, D), "observed.k": (S, D), "c.k": (S, C)}
    for layer in decoder_layers(arch):
        shapes |= {name: (S, layer.outputs) for name in (layer.y, layer.a, gradient_name(layer.y))}
    shapes |= {"nll": (S,), "dnll": (S,), "dt": (S, D), "log_sigma": (1,), "dlog_sigma": (1,), "norm": (1,)}
    shapes |= {"kl": (B, Z), "kl_mean": (Z,), "dkl_mean": (Z,), "bound": (B,), "terms": (B, Z + 1)}
    shapes |= {"terms_mean": (Z + 1,), "dterms_mean": (Z + 1,), "weight": (B,), "weight.k": (S,), "one": (S,)}
    return shapes


# ---- Initial parameters


def initial_parameters(
    arch: Architecture,
    seed: int,
    init: str = "glorot",
    output_bias: str = "auto",
    data_mean: np.ndarray | None = None,
    data_variance: np.ndarray | None = None,
) -> np.ndarray:
    """Flat parameters [N] in float64: uniform weights, biases 0.

    init: "glorot" (Glorot and Bengio 2010), or "he" (He et al. 2015) for the layers before a rectifier.
    output_bias: "data_mean" starts the decoder at the best constant answer, the data's mean [D] (as a logit for bernoulli);
    "zero" does not; "auto" is zero for bernoulli and data_mean for the others, whose data may lie anywhere. On MNIST
    data_mean is 6 nats ahead after one epoch, 1.5 after three, and level after ten.
    The sigma of a gaussian starts at the spread around the mean, the weights of counts at what suits their size.
    """
    if init not in INITS:
        raise ValueError(f"init {init!r} is not one of {', '.join(INITS)}")
    if output_bias not in OUTPUT_BIASES:
        raise ValueError(f"output_bias {output_bias!r} is not one of {', '.join(OUTPUT_BIASES)}")
    layout = parameter_layout(arch)
    flat = np.zeros(size(layout))
    named = views(flat, layout)
    for i, layer in enumerate(encoder_layers(arch) + decoder_layers(arch)):
        he = init == "he" and layer.activation in RECTIFIERS
        limit = math.sqrt(6 / layer.inputs if he else 6 / (layer.inputs + layer.outputs))
        u = randomness.uniform((layer.inputs, layer.outputs), seed, randomness.INIT, step=i)
        named[f"{layer.name}.W"][...] = limit * (2 * u - 1)
    bias = named[f"{layer.name}.b"]
    shift, scale = arch.column_units()
    for run in arch.runs:
        likelihood, columns = LIKELIHOODS[run.likelihood], run.columns
        if data_mean is not None and (output_bias == "data_mean" or (output_bias == "auto" and likelihood.from_mean)):
            bias[run.output :][: run.count] = likelihood.link((data_mean[columns] - shift[columns]) / scale[columns])
        if data_mean is not None and data_variance is not None and likelihood.data == COUNTS:
            # counts may be large, and scaled they would be none: the first layer begins as if they were of unit size
            reach = np.sqrt(data_mean[columns] ** 2 + data_variance[columns])
            named["encoder.0.W"][columns] /= np.maximum(1, reach)[:, None]
    if arch.learns_dispersion:
        named["dispersion"][...] = arch.dispersion()
    if data_mean is not None and data_variance is not None and arch.learns_dispersion:
        for columns in (run.columns for run in arch.runs if run.likelihood == "negative_binomial"):
            beyond = np.maximum(data_variance[columns] - data_mean[columns], 1e-6)  # r by moments: mean^2 / r
            log_r = 2 * np.log(np.maximum(data_mean[columns], 1e-3)) - np.log(beyond)
            named["dispersion"][columns] = np.clip(log_r, -3, 5)
    if data_variance is not None and arch.learns_sigma:
        named["log_sigma"][...] = 0.5 * math.log(max(float(np.mean(data_variance)), 1e-12))
    return flat
