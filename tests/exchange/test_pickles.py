"""Checkpoints as people have them: what lies beside the state-dict, what it lies in, and files of before PyTorch 1.6."""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest

from minivae import VAE, DataError
from minivae.exchange import torch as exchange
from minivae.exchange.pickles import TENSORS
from minivae.storage.modelfile import ModelFileError

TRIALS = int(os.environ.get("MINIVAE_TRIALS", "1"))
SHAPES = {"fc1": (5, 6), "fc21": (2, 5), "fc22": (2, 5), "fc3": (5, 2), "fc4": (6, 5)}
RNG = np.random.default_rng(0)
WEIGHTS = {f"{name}.weight": RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
WEIGHTS |= {f"{name}.bias": RNG.normal(size=shape[0]).astype(np.float32) for name, shape in SHAPES.items()}
OPTIMIZER = {"state": {0: {"step": 3, "exp_avg": RNG.normal(size=(5, 6)).astype(np.float32)}}, "param_groups": [{}]}


class Raw(bytes):
    """Opcodes that leave one object."""


DEVICE = Raw(exchange._global("torch device", exchange._tuple(exchange._value("cuda")) + b"R"))
QUANTIZED = Raw(exchange._global("torch._utils _rebuild_qtensor", b")R"))
BESIDE = {
    "epoch": 3, "loss": np.float64(0.5), "device": DEVICE, "dtype": Raw(exchange._global("torch float32")),
    "size": Raw(exchange._global("torch Size", exchange._tuple(exchange._tuple(exchange._value(3))) + b"R")),
    "names": {"a", "b"}, "frozen": frozenset([1]), "args": argparse.Namespace(lr=1e-3, path=pathlib.PurePosixPath("/x")),
    "scalar": np.float32(3), "array": np.arange(3), "best": RNG.normal(size=()).astype(np.float32), "bytes": b"x" * 300,
    "ordered": OrderedDict(a=1), "by": defaultdict(list, a=[1]), (1, 2): 3, None: 1.5, "big": 2**70, "complex": 1j,
    "loops": {"fit_loop": {"state_dict": {}, "epoch": 2}}, "callbacks": {"ModelCheckpoint{'monitor': None}": {"dir": "x"}},
}  # fmt: skip


class Saver(pickle._Pickler):
    """As torch.save pickles, with arrays as tensors."""

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = {}

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, np.ndarray) and obj.dtype == np.float32:
            value, tuple_, key = exchange._value, exchange._tuple, str(len(self.storages))
            self.storages[key] = obj
            storage = [
                value("storage"),
                exchange._global("torch FloatStorage"),
                value(key),
                value("cpu"),
                value(obj.size),
            ]
            if not self.bin_zip:
                storage.append(b"N")
            strides = [step // obj.itemsize for step in obj.strides]
            numbers = [tuple_(*map(value, part)) for part in (obj.shape, strides)]
            made = tuple_(
                tuple_(*storage) + b"Q", value(0), *numbers, b"\x89", exchange._global("collections OrderedDict", b")R")
            )
            self.write(exchange._global(TENSORS[0], made + b"R"))
        elif isinstance(obj, Raw):
            self.write(obj)
        else:
            super().save(obj, save_persistent_id)


def saved(path, value, protocol=2, old=False):
    """A .pt of any value, as PyTorch writes it, or wrote it before 1.6."""
    whole = io.BytesIO()
    saver = Saver(whole, protocol)
    saver.bin_zip = not old
    if old:
        for part in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}},
        ):
            pickle.dump(part, whole, 2)
    saver.dump(value)
    if old:
        pickle.dump([*saver.storages], whole, 2)
        path.write_bytes(
            whole.getvalue() + b"".join(a.size.to_bytes(8, "little") + a.tobytes() for a in saver.storages.values())
        )
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", whole.getvalue())
        for key, array in saver.storages.items():
            archive.writestr(f"x/data/{key}", array.tobytes())
    return path


def under(prefix, weights=WEIGHTS):
    return {f"{prefix}{name}": array for name, array in weights.items()}


def same(vae):
    """It has exactly these weights."""
    found = vae.network_.named
    for ours, theirs in (("encoder.0", "fc1"), ("decoder.0", "fc3"), ("decoder.1", "fc4")):
        assert (found[f"{ours}.W"] == WEIGHTS[f"{theirs}.weight"].T).all()
        assert (found[f"{ours}.b"] == WEIGHTS[f"{theirs}.bias"]).all()
    assert (found["encoder.1.W"] == np.hstack([WEIGHTS["fc21.weight"].T, WEIGHTS["fc22.weight"].T])).all()


CHECKPOINTS = [
    WEIGHTS,
    OrderedDict(WEIGHTS),
    BESIDE | {"model": WEIGHTS, "optimizer": OPTIMIZER},
    BESIDE | {"optimizer": OPTIMIZER, "net": OrderedDict(WEIGHTS), "scheduler": {"last": 3}},
    BESIDE | {"state_dict": under("vae."), "optimizer_states": [OPTIMIZER], "hyper_parameters": BESIDE},
    BESIDE | {"model_state_dict": WEIGHTS, "ema": under("ema_"), "optimizer_state_dict": OPTIMIZER},
    {"a": {"b": {"weights": WEIGHTS}}},
    WEIGHTS | BESIDE,
    WEIGHTS | {"ema": under("ema_")},
    {"model": WEIGHTS, "best": WEIGHTS},
    *map(under, ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "lit.vae.")),
    {name.replace(".", "._orig_mod."): array for name, array in WEIGHTS.items()},
]


@pytest.mark.parametrize("protocol, old", [(2, False), (2, True), (3, False), (4, True), (5, False)])
@pytest.mark.parametrize("checkpoint", range(len(CHECKPOINTS)))
def test_the_weights_of_a_checkpoint_are_found(tmp_path, checkpoint, protocol, old):
    path = saved(tmp_path / "m.ckpt", CHECKPOINTS[checkpoint], protocol, old)
    if "best" in CHECKPOINTS[checkpoint] and "fc1.weight" in CHECKPOINTS[checkpoint]:
        with pytest.raises(DataError, match="best is no part of this model"):  # nothing is dropped
            VAE.from_weights(path)
        return
    same(VAE.from_weights(path, backend="numpy"))


def test_an_encoder_and_a_decoder_that_were_saved_apart_are_one(tmp_path):
    encoder, decoder = (
        {n: WEIGHTS[n] for n in WEIGHTS if (n[:3] in ("fc1", "fc2")) == first} for first in (True, False)
    )
    for value in ({"encoder": encoder, "decoder": decoder}, {"vae": {"enc": encoder, "dec": decoder}, "o": OPTIMIZER}):
        same(VAE.from_weights(saved(tmp_path / "m.pt", BESIDE | value), backend="numpy"))


def test_a_table_names_layers_with_or_without_what_stands_before_all(tmp_path):
    path = saved(tmp_path / "m.pt", under("module.vae.", {name.replace("fc", "l"): WEIGHTS[name] for name in WEIGHTS}))
    names = {
        "encoder.0": "l1",
        "encoder.1": "module.vae.l21 + vae.l22",
        "decoder.0": "module.vae.l3",
        "decoder.1": "vae.l4",
    }
    same(VAE.from_weights(path, names=names, backend="numpy"))


@pytest.mark.parametrize(
    "value, reason",
    [
        (
            {"generator": WEIGHTS, "average": under("a.")},
            "it holds the state-dicts generator, average; save the model's alone",
        ),
        (BESIDE | {"optimizer": OPTIMIZER}, "it holds no state-dict; write one by torch.save"),
        ([WEIGHTS], "it holds no state-dict"),
        (argparse.Namespace(model=WEIGHTS), "it holds a whole argparse.Namespace, and only its code tells its layers"),
        ({"model": {"fc1.weight": QUANTIZED}, "epoch": 3}, "its 'fc1.weight' is made by torch._utils._rebuild_qtensor"),
        (WEIGHTS | {"fc1.weight": QUANTIZED}, "its 'fc1.weight' is made by torch._utils._rebuild_qtensor"),
    ],
)
def test_what_is_no_one_state_dict_is_told(tmp_path, value, reason):
    for old in (False, True):
        with pytest.raises(ModelFileError, match=f"m.pt cannot be read .*{reason}"):
            VAE.from_weights(saved(tmp_path / "m.pt", value, old=old))


@pytest.mark.parametrize(
    "mu, logvar", [("fc2_mu", "fc2_logvar"), ("to_mean", "to_log_var"), ("FC_mean", "FC_var"), ("z_mean", "z_log_var")]
)
def test_heads_are_known_by_what_they_are_called(tmp_path, mu, logvar):
    names = {
        "fc1": "encoder.a",
        "fc21": f"encoder.{mu}",
        "fc22": f"encoder.{logvar}",
        "fc3": "decoder.a",
        "fc4": "decoder.b",
    }
    turned = {f"{names[n.partition('.')[0]]}.{n.partition('.')[2]}": WEIGHTS[n] for n in reversed(WEIGHTS)}
    same(VAE.from_weights(saved(tmp_path / "m.pt", {n: turned[n] for n in sorted(turned)}), backend="numpy"))
    with pytest.raises(DataError, match="name the layers"):  # sigma itself is no log of its square
        VAE.from_weights(saved(tmp_path / "m.pt", {n.replace(logvar, "std"): turned[n] for n in turned}))


def test_a_layer_that_is_there_twice_is_told(tmp_path):
    with pytest.raises(DataError, match=r"m.pt: it has a layer twice, with and without module\. before its name"):
        VAE.from_weights(saved(tmp_path / "m.pt", WEIGHTS | under("module.")))


def test_dicts_in_dicts_take_no_time(tmp_path):
    """Each of which lies twice in the next: 2^200 paths, and one that lies in itself."""
    inner = {"w": 1}
    for _ in range(200):
        inner = {"a": inner, "b": inner}
    inner["b"]["c"] = inner
    with pytest.raises(ModelFileError, match="it holds no state-dict"):
        VAE.from_weights(saved(tmp_path / "m.pt", inner))


@pytest.mark.parametrize("old", [False, True])
def test_a_damaged_checkpoint_is_told_wherever_it_is_damaged(tmp_path, old):
    path, rng = saved(tmp_path / "m.pt", BESIDE | {"model": WEIGHTS}, 4 - 2 * old, old), np.random.default_rng(1)
    whole, told = path.read_bytes(), 0
    for _ in range(300 * TRIALS):
        place, byte = rng.integers(len(whole)), bytes([rng.integers(256)])
        path.write_bytes(whole[:place] + (byte + whole[place + 1 :]) * bool(rng.integers(4)))
        try:
            VAE.from_weights(path, backend="numpy")
        except (ModelFileError, DataError) as error:
            told += str(path) in str(error) and "\n" not in str(error)
    assert told > 60 * TRIALS  # an old file has no checksums: another number is another weight
    path.write_bytes(whole[:-1])
    with pytest.raises(ModelFileError, match="cannot be read"):
        VAE.from_weights(path)


def test_halves_are_read_from_safetensors(tmp_path):
    pytest.importorskip("safetensors", reason="needs safetensors")
    path, first = tmp_path / "m.safetensors", WEIGHTS["fc1.weight"]
    tops = first.view(np.uint32) >> 16
    halves = {name: array.astype("<f2") for name, array in WEIGHTS.items()}
    for kind, change, right in (
        ("BF16", {name: (array.view(np.uint32) >> 16).astype("<u2") for name, array in WEIGHTS.items()}, tops << 16),
        ("F16", halves, halves["fc1.weight"].astype(np.float32).view(np.uint32)),
    ):
        told, at = {}, 0
        for name, array in change.items():
            told[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [at, at := at + array.nbytes]}
        head = json.dumps(told).encode()
        path.write_bytes(len(head).to_bytes(8, "little") + head + b"".join(a.tobytes() for a in change.values()))
        vae = VAE.from_weights(path, backend="numpy")
        found = vae.network_.named["encoder.0.W"].T
        assert vae.dtype == "float32" and (np.ascontiguousarray(found).view(np.uint32) == right).all()
