"""A dense VAE's weights, trained elsewhere, as a model: by a table of names, ours and theirs, and by the shapes.

    encoder.0=fc1  encoder.1=fc21+fc22  decoder.0=fc3  decoder.1=fc4        PyTorch's own example

Theirs is a layer, whose arrays are NAME.weight [O, I] and NAME.bias (PyTorch) or NAME/kernel [I, O] and NAME/bias (Keras);
with a + between, the layer of mu and that of logvar. Where the names are usual ones, the table is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minivae.architecture import parameter_layout
from minivae.data.checks import Scale
from minivae.data.files import DataError
from minivae.randomness import resolve_seed
from minivae.settings import architecture, checked_settings
from minivae.storage.modelfile import FORMAT_VERSION
from minivae.storage.persistence import AUTOMATIC, model

WEIGHT = re.compile(r"(.+)([./])(weight|kernel)(:0)?")
WRAPPED = re.compile(r"(?<![^.])(module|_orig_mod)\.")  # by DataParallel, by torch.compile
MU = re.compile(r"(?<![a-z])(mu|mean|fc21)(?![a-z])", re.I)  # of two layers that are called alike but for this
LOGVAR = re.compile(r"(?<![a-z])(log_?var|fc22|(?<=fc_)var)(?![a-z])", re.I)
OTHERS = ("log_sigma", "dispersion", "shift", "scale")  # arrays under the names that exchange/torch.py gives them
FIX = "name the layers, as in encoder.0=fc1 encoder.1=fc21+fc22 decoder.0=fc3 decoder.1=fc4"


class _Dense(NamedTuple):
    """A layer of theirs: the name of its weights, W [I, O] and b [O]."""

    name: str
    W: np.ndarray
    b: np.ndarray


def restored(cls: Any, arrays: Mapping[str, Any], names: Mapping[str, str] | None, parameters: dict[str, Any]) -> Any:
    """A `cls`, which is VAE, of these arrays, and of parameters where the shapes do not tell.

    Raises DataError naming both arrays where two do not fit, and an array that belongs to no layer.
    """
    theirs = _Theirs(arrays)
    arrays = theirs.arrays
    table = {ours: theirs.bare(name) for ours, name in names.items()} if names else theirs.table()
    encoder, decoder = (theirs.stack(part, table) for part in ("encoder", "decoder"))
    for one, other in (*pairwise(encoder), *pairwise(decoder)):
        if one.W.shape[1] != other.W.shape[0]:
            raise DataError(f"{other.name} takes {len(other.W)} values, and {one.name} gives {one.W.shape[1]}; {FIX}")
    first, h, z, out = encoder[0], encoder[-1], decoder[0], decoder[-1]
    if 2 * len(z.W) != h.W.shape[1]:
        what = f"{z.name} takes {len(z.W)} values, and {h.name} gives {h.W.shape[1]}, not twice as many"
        raise DataError(f"{what}: mu and logvar; {FIX}")
    known = theirs.used | {table.get(name, name) for name in OTHERS}
    for name in theirs.floats:
        if name not in known:
            fix = "leave it out of the file, or name it in a layer" if names else FIX
            raise DataError(f"{name[:80]} is no part of this model; {fix}")
    hidden, mirrored = [layer.W.shape[1] for layer in encoder[:-1]], [len(layer.W) for layer in decoder[:0:-1]]
    if hidden != mirrored:
        what = f"the encoder has hidden layers of {hidden}, the decoder, from {out.name} back, of {mirrored}"
        raise DataError(f"{what}; no such model can be made, as ours mirror the encoder")
    dtype = "float64" if first.W.dtype == np.float64 else "float32"
    vae = cls(**{"dtype": dtype} | parameters | {"latent_dim": len(z.W), "hidden_dims": hidden})
    settings = checked_settings(vae)
    if settings["conditional"]:
        raise ValueError("a conditional model is read only as export wrote it; leave conditional out")
    D = len(first.W) // (2 if settings["missing"] == "input" else 1)
    arch = architecture(settings, D)
    if out.W.shape[1] != arch.outputs:
        what = f"{out.name} gives {out.W.shape[1]} values, and likelihood {arch.likelihood!r} of the {D} columns that"
        raise DataError(f"{what} {first.name} takes needs {arch.outputs}; choose another, or {FIX}")
    stacks = {"encoder": encoder, "decoder": decoder}
    ours = {f"{part}.{i}.{x}": getattr(l, x) for part in stacks for i, l in enumerate(stacks[part]) for x in "Wb"}
    ours |= {name: np.asarray(arrays[table.get(name, name)]) for name in OTHERS if table.get(name, name) in arrays}
    wanted = {name for name, _ in parameter_layout(arch)} | ({"shift", "scale"} if arch.by_columns else set())
    for name in OTHERS:
        if name in ours and name not in wanted:
            raise DataError(f"{name} is no part of this model; say the likelihood, sigma and standardize that have one")
    ours = {"shift": np.zeros(D), "scale": np.ones(D)} | ours
    for name, shape in [*parameter_layout(arch), ("shift", (D,)), ("scale", (D,))]:
        if name not in ours:
            raise DataError(f"there is no {name}, which is trained; name it ({name}=theirs), or give sigma a number")
        if ours[name].shape != shape:
            raise DataError(f"{name} has shape {ours[name].shape} instead of {shape}")
    found = {name: np.ascontiguousarray(ours[name], settings["dtype"]) for name, _ in parameter_layout(arch)}
    found |= {"held_rows": np.empty(0, np.int64), "history": np.empty((0, 0)), "units": np.empty((0, 2))}
    if arch.by_columns:
        found["units"] = np.stack([ours["shift"], ours["scale"]], axis=1).astype(np.float64)
    settings |= {"hidden_dims": hidden, "epochs": vae.epochs or 1, "batch_size": vae.batch_size or 128}
    config = {"format_version": FORMAT_VERSION, "settings": settings, "data_dim": D, "condition": None}
    config |= {"seed": resolve_seed(vae.random_state or 0), "history_columns": []}
    config |= {"scale": asdict(Scale(float(vae.divide_by or 1), vae.divide_by is not None, False))}
    config["automatic"] = [name for name in AUTOMATIC if getattr(vae, name) is None]
    return model(cls, found, config, settings["backend"])


class _Theirs:
    """The layers in a file of arrays."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        floats = [name for name, array in arrays.items() if np.asarray(array).dtype.kind == "f"]
        bare = sorted(WRAPPED.sub("", name) for name in floats) or [""]  # others count steps, or hold a seed
        common = re.match(r"(.*[./])[^\0]*\0\1", f"{bare[0]}\0{bare[-1]}")  # as a larger module calls the VAE
        self.prefix = common[1] if common else ""
        self.arrays, self.floats = {self.bare(name): arrays[name] for name in arrays}, [*map(self.bare, floats)]
        if len(self.arrays) < len(arrays):
            raise DataError("it has a layer twice, with and without module. before its name; save one of the two alone")
        self.used: set[str] = set()  # names of arrays that are in a layer
        self.weights = {match[1]: match for name in self.arrays if (match := WEIGHT.fullmatch(name))}

    def bare(self, names: str) -> str:
        """A layer's name, or two with a + between, without what stands before all of them."""
        return "+".join(WRAPPED.sub("", name.strip()).removeprefix(self.prefix) for name in names.split("+"))

    def stack(self, part: str, table: dict[str, str]) -> list[_Dense]:
        """The layers that the table calls encoder.0, encoder.1, ..."""
        numbers = [name for name in table if name.startswith(f"{part}.")]
        if not numbers or {*numbers} != {f"{part}.{i}" for i in range(len(numbers))}:
            raise DataError(f"the table names {', '.join(numbers) or 'no layer'} of the {part}, not {part}.0 on; {FIX}")
        return [self.dense(table[f"{part}.{i}"]) for i in range(len(numbers))]

    def dense(self, names: str) -> _Dense:
        """One layer, or two side by side."""
        layers: list[_Dense] = []
        for stem in names.split("+"):
            if stem not in self.weights:
                raise DataError(f"there is no {stem[:80]}.weight and no {stem[:80]}/kernel; {FIX}")
            name, _, dot, kind, tail = self.weights[stem][0], *self.weights[stem].groups("")
            W = np.asarray(self.arrays[name])
            if W.ndim != 2 or W.dtype.kind != "f" or not W.size:
                raise DataError(f"{name} of shape {W.shape} and dtype {W.dtype} is no matrix of a dense layer; {FIX}")
            W, bias = W.T if kind == "weight" else W, f"{stem}{dot}bias{tail}"
            b = np.asarray(self.arrays.get(bias, np.zeros(W.shape[1], W.dtype)))  # a layer may have none
            if b.shape != W.shape[1:]:
                raise DataError(f"{bias} has shape {b.shape}, and {name} gives {W.shape[1]} values")
            if layers and layers[-1].W.shape != W.shape:
                shapes = f"the shapes {W.shape} and {layers[-1].W.shape}"
                raise DataError(f"{name} and {layers[-1].name} have {shapes}; {FIX}")
            if bad := [n for n, array in ((name, W), (bias, b)) if not np.isfinite(array).all()]:
                raise DataError(f"{bad[0]} holds NaN or infinite values; save the weights of an earlier epoch")
            self.used |= {name, bias}
            layers.append(_Dense(name, W, b))
        W, b = np.concatenate([l.W for l in layers], 1), np.concatenate([l.b for l in layers])
        return _Dense(" + ".join(l.name for l in layers), W, b)

    def table(self) -> dict[str, str]:
        """By usual names: heads or none, numbers in order, and the decoder's are called so or begin where z is taken."""
        order = [*self.weights]  # as the module has them, and by their numbers where all have one
        spreads = {LOGVAR.sub("*", stem): stem for stem in order if LOGVAR.search(stem)}
        means = [stem for stem in order if MU.search(stem) and MU.sub("*", stem) in spreads]
        heads = [means[0], spreads[MU.sub("*", means[0])]] if means else []
        plain = [stem for stem in order if stem not in heads and not re.search(r"\d", stem)]
        if not plain:
            order.sort(key=lambda stem: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", stem)])
        shapes = [np.shape(self.arrays[self.weights[stem][0]]) for stem in plain]
        for stem, other in ((plain[i], plain[shapes.index(shape)]) for i, shape in enumerate(shapes)):
            if stem != other:  # not every file keeps the order of a module
                raise DataError(f"whether {other} or {stem} comes first, their names do not tell; {FIX}")
        rest = [stem for stem in order if stem not in heads]
        decoder = [stem for stem in rest if "dec" in stem.lower()]
        if heads and not decoder:
            Z = self.dense(heads[0]).W.shape[1]
            decoder = rest[next((i for i, stem in enumerate(rest) if len(self.dense(stem).W) == Z), len(rest)) :]
        encoder = [stem for stem in rest if stem not in decoder] + ["+".join(heads)] * bool(heads)
        if not encoder or not decoder:
            told = ", ".join(order)[:200] or "no"
            raise DataError(f"which layers are the decoder's cannot be told from {told}; {FIX}")
        stacks = {"encoder": encoder, "decoder": decoder}
        return {f"{part}.{i}": stem for part, stack in stacks.items() for i, stem in enumerate(stack)}
