"""What the page knows of a model: the decoder's weights, some rows and where they lie in latent space, the training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivae.architecture import Architecture, decoder_layers, encoder_layers
from minivae.conditions import Condition
from minivae.data.batches import Examples
from minivae.data.checks import as_matrix
from minivae.data.files import Array
from minivae.data.schema import Schema
from minivae.evaluation import inference, samples
from minivae.evaluation.measures import spaced
from minivae.explorer.steps import step_of
from minivae.figures.checks import is_image
from minivae.figures.layout import CLASSES, COLOURS, label_codes
from minivae.kernels import load
from minivae.likelihoods import COUNTS
from minivae.network import Network
from minivae.parameters import views

POINTS = 5000  # rows of data, at most, that the page shows where they lie
ROOM = 900_000  # bytes of them, before they are packed, that it can draw
MOST = 2**16  # classes that a point's number of 16 bits can tell apart
VISIBLE = 1e-3  # of the data's range: what no eye sees
EPOCHS = 1000  # of the curves, at most
LONG = 30  # times as long as it is broad, an image is a line
PRECISIONS = ("auto", "half", "single")
DTYPES = {"half": "float16", "single": "float32"}
Arrays = dict[str, Array]


def gather(
    vae: Any, X: Any, y: Any, rows: Array | None, shape: tuple[int, ...] | None, schema: Schema | None, precision: str
) -> tuple[dict[str, Any], Arrays]:
    """Plain data for JSON, and arrays, of a fitted VAE and of some rows of X, with their labels y; X may be None.

    Raises ValueError or TypeError where y, rows, image_shape or precision are none that can be.
    """
    network, arch = vae.network_, vae.network_.arch
    data, shape = None if X is None else as_matrix(X), None if shape is None else tuple(np.atleast_1d(shape).tolist())
    n, labels = 0 if data is None else len(data), 0 if y is None else len(np.atleast_1d(y))
    if y is not None and labels != n:
        raise ValueError(f"y has {labels} labels for the {n} rows of X; pass one for each")
    chosen = spaced(n, POINTS) if rows is None else np.atleast_1d(rows)
    if data is not None and (chosen.ndim > 1 or not len(chosen)):
        raise ValueError("rows names no row of X; name some, or leave it out for rows spread over all of X")
    if data is not None:
        Examples(data, chosen)  # raises where one is no row of X
    if shape is not None and (math.prod(shape) != arch.data_dim or min(shape) < 1):
        raise ValueError(f"image_shape {shape} does not fit rows of {arch.data_dim} values; pass the shape of one row")
    drawn = shape is not None and is_image(shape) and max(shape[:2]) <= LONG * min(shape[:2])
    # columns of one kind that are too many for bars with names
    alike = len(arch.runs) == 1 and arch.data_dim > 12 and arch.runs[0].likelihood != "categorical"
    kind = "image" if drawn else "series" if schema is None and alike else "table"
    told: dict[str, Any] = {"kind": kind, "shape": shape, "unit": vae.divide_by_, "model": _model(arch, vae.condition_)}
    told |= {"training": _training(vae.history_), "words": _words(vae), "palette": CLASSES, "curves": COLOURS}
    arrays: Arrays = {}
    told["fields"] = _fields(arch, schema, vae) if kind == "table" else []
    if X is None:
        z = samples.prior(256, arch.latent_dim, vae.seed_)
        side = None if vae.condition_ is None else _some_side(vae.condition_, len(z))
        x = inference.decode(network, z, side)
        told |= {"kl": [0.0] * arch.latent_dim, "labels": None, "bytes": None, "step": None}
    else:
        known = None if vae.condition_ is None else y
        examples = vae.examples(X, chosen, known)
        mu, logvar = inference.posterior(network, examples, np.float64)
        told["kl"] = (0.5 * (mu * mu + np.exp(logvar) - logvar - 1)).mean(axis=0).tolist()
        told["labels"], arrays = _labels(y, chosen)
        arrays |= {
            "mu": mu.astype(np.float16 if np.abs(mu).max() < 2**15 else np.float32),
            "row": chosen.astype(np.uint32),
        }
        told["step"], watched = step_of(vae, X, known, chosen)
        arrays |= watched
        x, told["bytes"], arrays["x"] = _originals(examples, arch)
        z, side = mu[: len(x)], None if examples.side is None else examples.side[chosen]
        if side is not None:
            numbered = vae.condition_.classes and len(vae.condition_.classes) < MOST
            arrays["side"] = side.argmax(axis=1).astype(np.uint16) if numbered else side.astype(np.float32)
            side = side[: len(z)]
    told["range"], spans = _ranges(x, told)
    told["precision"], told["error"], weights = decoder_in(network, z, side, spans, precision)
    parts = f"Weights in {told['precision']} precision; the largest error is {told['error']:.1g} of the data's range."
    if "mu" in arrays:
        parts += f" {len(arrays['mu']):,} rows are shown as points, {len(x):,} of them with their originals."
        if told["step"] is None:
            parts += " No step can be watched, as the model is large; `minivae inspect` shows one."
    told["words"] += [("This page", parts)]
    return told, weights | arrays


# ---- The decoder


def _model(arch: Architecture, condition: Condition | None) -> dict[str, Any]:
    layers = [[layer.name, layer.inputs, layer.outputs, layer.activation] for layer in decoder_layers(arch)]
    runs = [[run.likelihood, run.output, run.count] for run in arch.runs]
    told: dict[str, Any] = {"latent": arch.latent_dim, "layers": layers, "runs": runs, "condition": None}
    if arch.units:
        told["shift"], told["scale"] = arch.column_units().tolist()
    if condition is not None:
        told["condition"] = condition.to_dict() | {"classes": [str(label) for label in condition.classes]}
    return told


def decoder_in(network: Network, z: Array, side: Array | None, spans: Any, precision: str) -> tuple[str, float, Arrays]:
    """The precision taken, its error and the decoder's arrays: matrices in it, biases always single.

    The error is the largest one of the mean at latent points z [n, Z] (and side [n, C]), in shares of spans [D], the
    data's ranges. "auto" takes half precision where that is at most VISIBLE. Raises ValueError where a precision has no
    such numbers.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    exact = inference.in_double(network)
    layout, flat = network.layout, network.get_parameters().astype(np.float64)
    mean = inference.decode(exact, z, side)
    for name in ("half", "single") if precision == "auto" else (precision,):
        other, held = flat.copy(), {}
        with np.errstate(over="ignore"):
            for key, values in views(other, layout).items():
                if key.startswith("decoder."):
                    held[key] = values.astype(DTYPES[name] if key.endswith(".W") else np.float32)
                    values[...] = held[key]
        rounded = Network(network.arch, load("numpy"), "float64")
        rounded.set_parameters(other)
        finite = all(np.isfinite(values).all() for values in held.values())
        error = float((np.abs(inference.decode(rounded, z, side) - mean) / spans).max()) if finite else math.inf
        if finite and (error <= VISIBLE or precision != "auto" or name == "single"):
            return name, error, held
    raise ValueError(
        f"some weights of the decoder are too large for {name} precision; train a model that is not so wild"
    )


def _some_side(condition: Condition, n: int) -> Array:
    """Each class in turn, or the mean of the numbers."""
    shape = n, condition.width
    return np.resize(np.eye(condition.width), shape) if condition.classes else np.zeros(shape)


# ---- The rows


def _labels(y: Any, rows: Array) -> tuple[dict[str, Any] | None, Arrays]:
    """How points are coloured: by classes, whose names are told, or by numbers. Of several numbers a row, the first."""
    if y is None:
        return None, {}
    values = np.asarray(y)[rows]
    values = values.reshape(len(rows), -1)[:, 0]
    codes, names = label_codes(values, len(rows))
    if names and len(names) < MOST:
        return {"classes": names}, {"label": codes.astype(np.uint16)}
    finite = codes[np.isfinite(codes)] if not names else codes
    span = [float(finite.min()), float(finite.max())] if finite.size else [0.0, 0.0]
    return {"classes": [], "range": span}, {"label": codes.astype(np.float32)}


def _originals(examples: Examples, arch: Architecture) -> tuple[Array, float | None, Array]:
    """The first rows as the decoder gives them [m, D], what bytes are divided by, and how they are kept: bytes, or floats.

    Floats are in the units of the kernel, in which float32 has the digits that it needs.
    """
    data, D = examples.data, arch.data_dim
    pixels = getattr(data, "dtype", None) == np.uint8
    kept = examples.rows[: max(1, ROOM // (D if pixels else 4 * D))]
    raw = np.asarray(data[kept])
    x = raw / examples.divide_by
    shift, scale = arch.column_units()
    return x, examples.divide_by if pixels else None, raw if pixels else ((x - shift) / scale).astype(np.float32)


def _ranges(x: Array, told: dict[str, Any]) -> tuple[list[float], Array]:
    """Least and largest value for colours or an axis, and the range of every column [D]; a table's fields get theirs."""
    x = np.where(np.isfinite(x), x, np.nan)
    some = np.isfinite(x).any()
    low, high = (float(np.nanmin(x)), float(np.nanmax(x))) if some else (0.0, 1.0)
    if told["kind"] == "image" and low >= -1e-6 and high <= 1 + 1e-6:
        low, high = 0.0, 1.0
    spans = np.full(x.shape[1], high - low or 1.0)
    for field in told["fields"]:
        at, count = field["at"], field["count"]
        field["range"] = [0.0, 1.0]
        seen = x[:, at][np.isfinite(x[:, at])]
        if field["kind"] in ("number", "count") and seen.size:
            field["range"] = [0.0 if field["kind"] == "count" else float(seen.min()), float(seen.max())]
        spans[at : at + count] = field["range"][1] - field["range"][0] or 1.0
    return [low, high], spans


def _fields(arch: Architecture, schema: Schema | None, vae: Any) -> list[dict[str, Any]]:
    """What the columns of a table are: name, kind, the first column of the matrix, how many, and the names of values."""
    kinds = ["count" if run.data == COUNTS else run.likelihood for run in arch.runs for _ in range(run.count)]
    found: list[dict[str, Any]] = []
    if schema is not None:
        at = 0
        for column in schema.columns:
            kind = "count" if kinds[at] == "count" else column.kind
            values = column.values or (("0", "1") if kind == "binary" else ())
            found.append({"name": column.name, "kind": kind, "at": at, "count": column.width, "values": values})
            at += column.width
        return found
    names = [str(n) for n in getattr(vae, "feature_names_in_", [f"x{j}" for j in range(arch.data_dim)])]
    for run in arch.runs:
        if run.likelihood == "categorical":
            values, name = tuple(names[run.columns]), f"{names[run.column]} to {names[run.column + run.count - 1]}"
            found.append({"name": name, "kind": "category", "at": run.column, "count": run.count, "values": values})
            continue
        kind = "count" if run.data == COUNTS else "number"
        for at in range(run.column, run.column + run.count):
            found.append({"name": names[at], "kind": kind, "at": at, "count": 1, "values": ()})
    return found


# ---- The training


def _training(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records as the curves need them, evenly thinned where they are many."""
    wanted = ("epoch", "loss", "recon", "kl", "beta", "kept")
    return [
        {name: value for name, value in history[i].items() if name.rpartition("_")[2] in wanted}
        for i in spaced(len(history), EPOCHS)
    ]


def _words(vae: Any) -> list[tuple[str, str]]:
    """The model in words: what, and what it is here."""
    arch, settings, history, condition = vae.network_.arch, vae.settings_, vae.history_, vae.condition_
    both = encoder_layers(arch), decoder_layers(arch)
    encoder, decoder = (" \N{EN DASH} ".join(str(n) for n in (x[0].inputs, *(y.outputs for y in x))) for x in both)
    objective, K, rate = settings["objective"], settings["n_samples"], settings["learning_rate"]
    found = {
        "Encoder": f"{encoder}, the last {2 * arch.latent_dim} being mean and log variance of z",
        "Decoder": decoder,
        "Activation": arch.activation,
        "Likelihood": arch.likelihood,
        "Latent dimensions": str(arch.latent_dim),
        "Objective": objective.upper() if objective == "elbo" else f"{objective} of {K} samples",
        "Optimizer": f"{settings['optimizer']}, learning rate {rate:g}, batches of {settings['batch_size']}",
        "Parameters": f"{vae.n_parameters_:,}",
    }
    if settings["beta"] != 1:
        found["Weight of the KL"] = f"beta = {settings['beta']:g}"
    if history:
        kept = next((record for record in reversed(history) if record.get("kept")), None)
        of = f"; this model is of epoch {kept['epoch']:,}" if kept else ""
        found["Epochs"] = f"{history[-1]['epoch']:,}{of}"
    if condition is not None:
        numbers = f"{condition.width} numbers"
        found["Told beside x and z"] = f"a label, one of {len(condition.classes)}" if condition.classes else numbers
    return [*found.items()]
