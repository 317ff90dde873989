"""What the network is: its options, its layers, the shape of every array, and where its parameters start.

    x -> encoder.0 -> ... -> h -> sample -> z -> decoder.0 -> ... -> out -> likelihood -> nll

"encoder.0.W" is a parameter, "encoder.0.y" a layer's output; a gradient puts d before the last part: "encoder.0.dW".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from minivae import randomness
from minivae.kernels.reference import ACTIVATIONS
from minivae.parameters import Layout, differential, size, views

RECTIFIERS = ("relu", "leaky_relu", "gelu")
INITS = ("glorot", "he")
OUTPUT_BIASES = ("auto", "zero", "data_mean")


@dataclass(frozen=True)
class Likelihood:
    """What p(x|z) may be: its kernel, the data that it takes (one of DOMAINS), and what the decoder's output says of x.

    mean turns the output into the mean of p(x|z): an activation of the book by its name, or a function of the array. link,
    its inverse, turns the data's mean into the output that stands for it; from_mean: whether training begins there unasked.
    """

    kernel: str
    data: str
    mean: str | Callable[[Any], Any]
    link: Callable[[Any], Any]
    from_mean: bool = True


def logit(p: Any) -> Any:
    """Clipped to [0.001, 0.999], as by Burda et al. (2016)."""
    p = np.clip(p, 0.001, 0.999)
    return np.log(p / (1 - p))


UNIT, REAL, COUNTS = DOMAINS = ("data in [0, 1]", "any data", "counts, whole numbers from 0 on")
LIKELIHOODS = {
    "bernoulli": Likelihood("bernoulli_loss", UNIT, "sigmoid", logit, from_mean=False),
    "gaussian": Likelihood("gaussian_loss", REAL, "identity", lambda mean: mean),
    "poisson": Likelihood("poisson_loss", COUNTS, np.exp, lambda mean: np.log(np.maximum(mean, 1e-3))),
}


@dataclass(frozen=True)
class Architecture:
    """What the network is. The decoder mirrors the encoder's hidden layers.

    sigma belongs to the gaussian likelihood: a positive number fixes it, "learned" trains one for all pixels, and
    "elementwise" lets the decoder give a logvar beside each mean.
    """

    data_dim: int
    latent_dim: int = 2
    hidden_dims: tuple[int, ...] = (256, 128)
    activation: str = "relu"
    likelihood: str = "bernoulli"
    sigma: float | str = "learned"

    def __post_init__(self) -> None:
        for name in ("data_dim", "latent_dim"):
            _require_positive(name, getattr(self, name))
        for width in self.hidden_dims:
            _require_positive("hidden_dims", width)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r} is not one of {', '.join(ACTIVATIONS)}")
        require_likelihood(self.likelihood)
        if isinstance(self.sigma, str):
            if self.sigma not in ("learned", "elementwise"):
                raise ValueError(f"sigma must be a positive number, 'learned' or 'elementwise', not {self.sigma!r}")
        elif not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be a positive number, 'learned' or 'elementwise', not {self.sigma!r}")

    @property
    def elementwise(self) -> bool:
        return self.likelihood == "gaussian" and self.sigma == "elementwise"

    @property
    def loss_kernel(self) -> str:
        return "gaussian_elementwise_loss" if self.elementwise else LIKELIHOODS[self.likelihood].kernel

    @property
    def learns_sigma(self) -> bool:
        return self.likelihood == "gaussian" and self.sigma == "learned"

    def to_dict(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


def require_likelihood(name: str) -> None:
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood {name!r} is not one of {', '.join(LIKELIHOODS)}")


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
    return _stack("encoder", "x", "h", (arch.data_dim, *arch.hidden_dims, 2 * arch.latent_dim), arch.activation)


def decoder_layers(arch: Architecture) -> list[Layer]:
    outputs = arch.data_dim * (2 if arch.elementwise else 1)
    return _stack("decoder", "z", "out", (arch.latent_dim, *reversed(arch.hidden_dims), outputs), arch.activation)


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
    return layout


BATCH = -1  # stands for the number of rows in a shape
INTEGER_ARRAYS = ("rows",)  # which examples of the data are in the batch; all other arrays hold the network's dtype


def array_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every array that is no parameter, batch rows written as BATCH."""
    B, D, Z = BATCH, arch.data_dim, arch.latent_dim
    shapes: dict[str, tuple[int, ...]] = {"x": (B, D), "eps": (B, Z), "z": (B, Z), "dz": (B, Z), "kl": (B, Z)}
    shapes |= {"kl_mean": (Z,), "dkl_mean": (Z,), "nll": (B,), "weight": (B,), "norm": (1,), "u": (B, D)}
    shapes |= {"log_sigma": (1,), "dlog_sigma": (1,), "rows": (B,)}
    for layer in encoder_layers(arch) + decoder_layers(arch):
        shapes |= {name: (B, layer.outputs) for name in (layer.y, layer.a, differential(layer.y))}
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
    likelihood = LIKELIHOODS[arch.likelihood]
    if data_mean is not None and (output_bias == "data_mean" or (output_bias == "auto" and likelihood.from_mean)):
        bias[: arch.data_dim] = likelihood.link(data_mean)
    if data_mean is not None and data_variance is not None and likelihood.data == COUNTS:
        # counts may be large, and scaled they would be none: the first layer begins as if they were of unit size
        named["encoder.0.W"] /= np.maximum(1, np.sqrt(data_mean**2 + data_variance))[:, None]
    if data_variance is not None and arch.likelihood == "gaussian":
        log_sigma = 0.5 * math.log(max(float(np.mean(data_variance)), 1e-12))
        if arch.learns_sigma:
            named["log_sigma"][...] = log_sigma
        elif arch.elementwise:
            bias[arch.data_dim :] = 2 * log_sigma
    return flat
