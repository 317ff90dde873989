"""ONNX: encoder and decoder as two graphs that take raw values as VAE.transform does, and give what it gives, in float32.

    encoder  x [batch, D]  ->  mu, logvar [batch, Z]        x uint8 where the model was fitted on uint8 pixels
    decoder  z [batch, Z]  ->  mean [batch, D] of p(x|z), in the units of VAE.inverse_transform
                               sigma of gaussians, r of negative binomials (variance mean + mean^2 / r), NaN of other columns
    y        beside both where the model is conditional: labels [batch], or numbers [batch, C]

Columns are brought to their units in double, as x - shift of a time in seconds has no digits in float32: there x and mean
are double themselves.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from minivae import __version__
from minivae.architecture import Layer, decoder_layers, encoder_layers
from minivae.evaluation import samples
from minivae.kernels.columns import LEAST, MEAN_SERIES
from minivae.likelihoods import Run
from minivae.parameters import views
from minivae.storage.modelfile import json_text
from minivae.storage.persistence import content

OPSETS = {"Gelu": 20, "STRING": 19}  # which brought gelu in its tanh form, and texts that are equal; all else is in 13
MOST = 2**31 - 2**20  # bytes: the file is one message of protobuf
MEANS = {"bernoulli": "Sigmoid", "poisson": "Exp", "negative_binomial": "Exp", "categorical": "Softmax"}


def graphs(vae: Any) -> list[bytes]:
    """The files of encoder and decoder of a fitted VAE. Raises ImportError without onnx, ValueError beyond 2 GiB."""
    if 4 * vae.n_parameters_ > MOST:
        raise ValueError(f"{vae.n_parameters_:,} parameters are more than one ONNX file holds; export .safetensors")
    return [_encoder(vae), _decoder(vae)]


class _Graph:
    """Nodes in the order of their computation, and the arrays that they read."""

    def __init__(self, vae: Any) -> None:
        try:
            self.onnx: Any = importlib.import_module("onnx")
        except ImportError as error:
            raise ImportError('ONNX needs the package onnx; run pip install "minivae[onnx]"') from error
        self.vae, self.arch = vae, vae.network_.arch
        self.named = views(vae.network_.get_parameters(), vae.network_.layout)
        self.nodes: list[Any] = []
        self.arrays: dict[str, Any] = {}
        self.inputs, self.opset = list[Any](), 13

    def __call__(self, op: str, *values: Any, name: str = "", **options: Any) -> str:
        """A node, which reads the outputs of others by name and arrays by value; the name of its output."""
        inputs = [value if isinstance(value, str) else f"array.{len(self.nodes)}.{i}" for i, value in enumerate(values)]
        self.arrays |= {name: value for name, value in zip(inputs, values) if not isinstance(value, str)}
        outputs = ["mu", "logvar"] if op == "Split" else [name or f"{op}.{len(self.nodes)}"]
        self.opset = max(self.opset, OPSETS.get(op, 13))
        self.nodes.append(self.onnx.helper.make_node(op, inputs, outputs, **options))
        return outputs[0]

    def input(self, name: str, kind: str, *columns: int) -> str:
        self.inputs.append(self.value(name, kind, *columns))
        return name

    def value(self, name: str, kind: str, *columns: int) -> Any:
        kind = getattr(self.onnx.TensorProto, kind)
        return self.onnx.helper.make_tensor_value_info(name, kind, ["batch", *columns])

    def cast(self, value: str, kind: str) -> str:
        return self("Cast", value, to=getattr(self.onnx.TensorProto, kind))

    def layers(self, x: str, stack: list[Layer]) -> str:
        """y = f(x W + b), one behind the other"""
        for layer in stack:
            weights = f"{layer.name}.W", f"{layer.name}.b"
            self.arrays |= {name: self.named[name].astype(np.float32) for name in weights}
            x = self("Gemm", x, *weights)
            if layer.activation != "identity":  # LeakyRelu has our slope of 0.01
                op = layer.activation.title().replace("_", "")
                x = self(op, x, **({"approximate": "tanh"} if op == "Gelu" else {}))
        return x

    def told(self, value: str) -> str:
        """[value | y as columns], where the model is conditional: see conditions.Condition."""
        known = self.vae.condition_
        if known is None:
            return value
        if known.classes:  # a label that is none of these becomes 0 / 0, which is no number
            kind = {str: "STRING", bool: "BOOL"}.get(type(known.classes[0]), "INT64")
            self.opset = max(self.opset, OPSETS.get(kind, 13))
            labels = np.array(known.classes, object if kind == "STRING" else None)
            same = self("Equal", self("Unsqueeze", self.input("y", kind), np.array([1])), labels)
            same = self.cast(same, "FLOAT")
            side = self("Div", same, self("ReduceSum", same, np.array([1]), keepdims=1))
        else:
            y = self.input("y", "DOUBLE", known.width)
            y = self("Div", self("Sub", y, np.array(known.shift)), np.array(known.scale))
            side = self.cast(y, "FLOAT")
        return self("Concat", value, side, axis=1)

    def file(self, name: str, *outputs: Any) -> bytes:
        """All of it, checked by onnx."""
        onnx, config = self.onnx, content(self.vae)[1]
        arrays = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in self.arrays.items()]
        graph, opset = onnx.helper.make_graph(self.nodes, name, self.inputs, outputs, arrays), onnx.OperatorSetIdProto()
        opset.version = self.opset
        told: Any = {"producer_name": "minivae", "producer_version": __version__, "doc_string": __doc__}
        told |= {"opset_imports": [opset], "ir_version": onnx.helper.find_min_ir_version_for([opset])}
        model = onnx.helper.make_model(graph, **told)
        config = {key: config.get(key) for key in ("settings", "data_dim", "scale", "condition", "feature_names")}
        onnx.helper.set_model_props(model, {"minivae": __version__, "config": json_text(config)})
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString())


def _encoder(vae: Any) -> bytes:
    g, arch = _Graph(vae), vae.network_.arch
    kind, wide = "UINT8" if vae.scale_.uint8 else "DOUBLE" if arch.far else "FLOAT", arch.by_columns
    x = g.cast(g.input("x", kind, arch.data_dim), "DOUBLE" if wide else "FLOAT")
    if vae.divide_by_ != 1:
        x = g("Div", x, np.array(vae.divide_by_, np.float64 if wide else np.float32))
    if wide:
        shift, scale = arch.column_units()
        x = g.cast(g("Div", g("Sub", x, shift), scale), "FLOAT")
    if arch.missing != "error":
        hole = g("IsNaN", x)
        x = g("Where", hole, np.float32(0), x)
        if arch.missing == "input":
            x = g("Concat", x, g.cast(g("Not", hole), "FLOAT"), axis=1)
    g("Split", g.layers(g.told(x), encoder_layers(arch)), np.full(2, arch.latent_dim), axis=1)
    return g.file("encoder", *[g.value(name, "FLOAT", arch.latent_dim) for name in ("mu", "logvar")])


def _decoder(vae: Any) -> bytes:
    g, arch = _Graph(vae), vae.network_.arch
    out = g.layers(g.told(g.input("z", "FLOAT", arch.latent_dim)), decoder_layers(arch))
    parts = [_mean(g, run, out) for run in arch.runs]
    mean = parts[0] if len(parts) == 1 else g("Concat", *parts, axis=1)
    kind, (shift, scale) = "DOUBLE" if arch.far else "FLOAT", arch.column_units()
    if arch.units:
        mean = g.cast(g("Add", g("Mul", g.cast(mean, "DOUBLE"), scale), shift), kind)
    spreads, index = spreads_of(vae), np.zeros(arch.data_dim, np.int64)
    for run in arch.runs:
        if run.outputs > run.count:  # log sigma^2 stands behind its mean in out
            index[run.columns] = run.output + run.count + np.arange(run.count)
    for name, found in spreads.items():
        spread = g("Expand", found, g("Shape", mean))
        if name == "sigma" and index.any():
            t = g("Sub", g("Mul", g("Gather", out, index, axis=1), np.float32(0.5)), np.float32(LEAST))
            own = g.cast(g("Exp", g("Add", g("Softplus", t), np.float32(LEAST))), "DOUBLE")  # kernels/columns.floored
            spread = g("Where", index > 0, g("Mul", own, scale), spread)
        g("Identity", g.cast(spread, kind), name=name)
    g("Identity", mean, name="mean")
    return g.file("decoder", *[g.value(name, kind, arch.data_dim) for name in ("mean", *spreads)])


def spreads_of(vae: Any) -> dict[str, np.ndarray]:
    """What p(x|z) has beside its mean and is the same for all rows: sigma and r of each column [D], NaN of others."""
    arch, found = vae.network_.arch, dict[str, np.ndarray]()
    for run, unit in ((run, arch.column_units()[1, run.columns]) for run in arch.runs):
        if name := {"gaussian": "sigma", "negative_binomial": "r"}.get(run.likelihood):
            column = found.setdefault(name, np.full(arch.data_dim, np.nan))
            if run.outputs == run.count:
                column[run.columns] = samples.spread(vae.network_, run, column) * (unit if name == "sigma" else 1)
    return found


def _mean(g: _Graph, run: Run, out: str) -> str:
    """The mean of these columns [batch, count], in the units of the kernel."""
    ends = (np.array([end]) for end in (run.output, run.output + run.count, 1))
    a = out if run.count == g.arch.outputs else g("Slice", out, *ends)
    if run.likelihood in MEANS:
        return g(MEANS[run.likelihood], a)
    own: dict[str, Any] = {"gaussian": lambda g, a: a, "continuous_bernoulli": _continuous_bernoulli_mean}
    return str(own[run.likelihood](g, a))


def _continuous_bernoulli_mean(g: _Graph, a: str) -> str:
    """m(a) = 1 / (1 - e^-a) - 1/a, near 0 its series: see kernels/columns.py."""
    one, near, size = np.float32(1), np.float32(0.3), g("Abs", a)
    u, square = g("Max", size, near), g("Mul", a, a)
    series: Any = np.float32(0)
    for term in MEAN_SERIES:
        series = g("Add", g("Mul", square, series), np.float32(term))
    e = g("Exp", g("Neg", u))
    top = g("Where", g("Less", a, np.float32(0)), g("Neg", e), one)
    far = g("Sub", g("Div", top, g("Sub", one, e)), g("Div", g("Sign", a), u))
    return g("Where", g("Less", size, near), g("Add", g("Mul", a, series), np.float32(0.5)), far)
