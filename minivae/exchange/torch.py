"""PyTorch's state-dicts without PyTorch: the zip that torch.save writes, and the module whose names it has.

A .pt is a zip of raw storages, and a pickle that says which tensors they are. `file` writes that pickle in the few opcodes
that torch.load(weights_only=True) takes, and beside it, in extra/, what a state-dict does not tell of a model: PyTorch
passes that over. `read` finds the state-dict in a checkpoint. Before PyTorch 1.6 a file was five pickles and the storages.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from minivae.architecture import decoder_layers, encoder_layers
from minivae.exchange.pickles import DICTS, TENSORS, Other, Storage, Tensor, unpickled
from minivae.exchange.safetensors import bfloat16
from minivae.network import Network
from minivae.parameters import views
from minivae.storage.archives import Archive, Unreadable, open_regular

MOST = 2**24  # bytes of the pickle, some hundred for each tensor
ROOT, EXTRA = "minivae/", "extra/"
CONFIG = f"{EXTRA}config.json"
STORED = {4: "Float", 8: "Double"}
READ = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "u2", "Bool": "?", "Byte": "u1"}
READ |= {"Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8"}
READ = {f"torch {name}Storage": kind for name, kind in READ.items()}
OLD, MAGIC = b"\x80\x02\x8a\x0a", 0x1950A86A20F9469CFC6C  # how a file of before PyTorch 1.6 begins, and what that is
FIX = "write one by torch.save(module.state_dict(), path)"
WHOLE = ("state_dict", "model_state_dict", "model")  # of a checkpoint that has an average of the weights too


def state_dict(network: Network) -> dict[str, np.ndarray]:
    """The parameters under the names that nn.Sequential gives them, W as [out, in]; by columns also their units."""
    named, found = views(network.get_parameters(), network.layout), dict[str, np.ndarray]()
    for layer in encoder_layers(network.arch) + decoder_layers(network.arch):
        part, _, number = layer.name.partition(".")  # an activation lies behind each layer
        found[f"{part}.{2 * int(number)}.weight"] = named.pop(f"{layer.name}.W").T
        found[f"{part}.{2 * int(number)}.bias"] = named.pop(f"{layer.name}.b")
    if network.arch.by_columns:
        named["shift"], named["scale"] = network.arch.column_units()
    return found | named


# ---- Writing


def file(arrays: dict[str, np.ndarray], extra: dict[str, np.ndarray] | None = None, config: str = "") -> bytes:
    """A .pt of these arrays, float32 or float64, as an OrderedDict of tensors; config and extra make it a model of ours."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        members = {"data.pkl": _pickle(arrays), "byteorder": b"little"}
        for key, array in enumerate(arrays.values()):
            members[f"data/{key}"] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        members |= {CONFIG: config.encode()} if config else {}
        for name, data in (members | {"version": b"3\n"}).items():
            archive.writestr(zipfile.ZipInfo(ROOT + name), data)
        for name, array in (extra or {}).items():
            with archive.open(zipfile.ZipInfo(f"{ROOT}{EXTRA}{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return whole.getvalue()


def _pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """Protocol 2: OrderedDict(), then name and _rebuild_tensor_v2(storage, offset, shape, strides, False, {}) for each."""
    text = b"\x80\x02" + _call(DICTS[0], b")") + b"("
    for key, (name, array) in enumerate(arrays.items()):
        kind = _global(f"torch {STORED[array.dtype.itemsize]}Storage")
        storage = _tuple(_value("storage"), kind, _value(str(key)), _value("cpu"), _value(array.size))
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        shape, steps = (_tuple(*map(_value, numbers)) for numbers in (array.shape, strides))
        tensor = _tuple(storage + b"Q", _value(0), shape, steps, b"\x89", _call(DICTS[0], b")"))
        text += _value(name) + _call(TENSORS[0], tensor)
    return text + b"u."


def _value(value: str | int) -> bytes:
    if isinstance(value, str):
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
    return b"\x8a\x09" + value.to_bytes(9, "little")


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _call(name: str, arguments: bytes) -> bytes:
    return _global(name) + arguments + b"R"


# ---- Reading


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a state-dict by name, bfloat16 as float32, and ""; or a model of ours, its arrays and its config.

    Raises Unreadable, or what zipfile and pickletools raise.
    """
    with open_regular(path) as opened:
        start = opened.read(4)
        opened.seek(0)
        if start == OLD:
            return _old(opened), ""
        if start != b"PK\3\4":
            raise Unreadable("it does not begin as what torch.save writes does")
        archive = Archive(opened)
        root = next((name[:-8] for name in archive.members if name.endswith("data.pkl")), None)
        if root is None or archive.members[f"{root}data.pkl"].file_size > MOST:
            raise Unreadable(f"it has no data.pkl of at most {MOST:,} bytes, as torch.save writes it")
        found = unpickled(io.BytesIO(archive.raw(f"{root}data.pkl").tobytes()), {})
        order = f"{root}byteorder" in archive.members and archive.raw(f"{root}byteorder").tobytes() == b"big"
        arrays = _arrays(found, lambda key: archive.raw(f"{root}data/{key}"), ">" if order else "<")
        if f"{root}{CONFIG}" not in archive.members:
            return arrays, ""
        extra = [name for name in archive.members if name.startswith(root + EXTRA) and name != root + CONFIG]
        ours = _ours(arrays) | {name.removeprefix(root + EXTRA): archive.read(name) for name in extra}
        return ours, archive.raw(f"{root}{CONFIG}").tobytes().decode()


def _ours(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters under our own names, W as [in, out]: what `state_dict` had."""
    found = {}
    for name, array in arrays.items():
        if match := re.fullmatch(r"(encoder|decoder)\.(\d{1,9})\.(weight|bias)", name):
            found[f"{match[1]}.{int(match[2]) // 2}.{'W' if match[3] == 'weight' else 'b'}"] = array.T
        elif name not in ("shift", "scale"):  # which are the units
            found[name] = array
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def _old(opened: BinaryIO) -> dict[str, np.ndarray]:
    """Magic number, version, system, state-dict, keys of its storages; then each of these, after its length, 8 bytes."""
    whole, storages, raw = np.fromfile(opened, np.uint8), dict[str, Storage](), dict[str, np.ndarray]()
    text = io.BytesIO(whole[:MOST].tobytes())
    magic, _, system, found, keys = (unpickled(text, storages) for _ in range(5))
    if magic != MAGIC or not system["little_endian"]:
        raise Unreadable("it does not begin as what torch.save writes does")
    at = text.tell()
    for key in keys:
        size = int.from_bytes(whole[at : at + 8].tobytes(), "little") * np.dtype(READ[storages[key].kind]).itemsize
        raw[key] = whole[at + 8 : at + 8 + size]
        at += 8 + size
    return _arrays(found, raw.__getitem__, "<")


def _arrays(found: Any, raw: Callable[[str], np.ndarray], order: Any) -> dict[str, np.ndarray]:
    """The state-dict in what a file describes, as arrays; raw gives the bytes of a storage, in this order."""
    storages: dict[str, np.ndarray] = {}
    chosen = _state_dict(found)
    for name, storage in ((name, tensor.storage) for name, tensor in chosen.items()):
        if storage.kind not in READ:
            raise Unreadable(
                f"its {name[:80]!r} is a {storage.kind.replace(' ', '.')[:80]}, which no model of ours takes"
            )
        if storage.key not in storages:
            values, dtype = raw(storage.key), np.dtype(READ[storage.kind]).newbyteorder(order)
            if values.size != storage.size * dtype.itemsize:
                size = f"{values.size:,} bytes, not {storage.size * dtype.itemsize:,}"
                raise Unreadable(f"its storage {storage.key[:80]!r} has {size}")
            values = values.view(dtype)
            storages[storage.key] = bfloat16(values) if storage.kind == "torch BFloat16Storage" else values
    return {name: _array(name, tensor, storages[tensor.storage.key]) for name, tensor in chosen.items()}


def _state_dict(found: Any) -> dict[str, Tensor]:
    """The one of a checkpoint; or those of its encoder and decoder, which were saved apart."""
    dicts = [*_holders(found)]
    if isinstance(found, Other):
        raise Unreadable(f"it holds a whole {found.name.replace(' ', '.')}, and only its code tells its layers; {FIX}")
    if not dicts:
        raise Unreadable(f"it holds no state-dict; {FIX}")
    paths = [path for path, _ in dicts]
    if not paths[0] or not all(any(part in path.lower() for path in paths) for part in ("enc", "dec")):
        whole = [one for one in dicts if one[0].rpartition(".")[2] in WHOLE] if paths[0] else []
        if len(paths) > 1 and paths[0] and len(whole) != 1:
            told = ", ".join(path[:40] for path in paths[:5])
            raise Unreadable(f"it holds the state-dicts {told}; save the one of the model alone")
        dicts = [("", (whole or dicts)[0][1])]
    chosen = {f"{path}.{name}".removeprefix("."): value for path, one in dicts for name, value in one.items()}
    for name, value in chosen.items():
        if isinstance(value, Other) and value.name.startswith("torch._"):  # a tensor that is quantized, or sparse
            raise Unreadable(f"its {name[:80]!r} is made by {value.name.replace(' ', '.')}, and no plain tensor; {FIX}")
    return {name: value for name, value in chosen.items() if isinstance(value, Tensor)}


def _holders(found: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """The dicts that have a matrix, each once, with their names in a checkpoint, such as model; no optimizer's."""
    seen, row = set[int](), [("", found)]
    for path, value in row:
        if not isinstance(value, dict) or id(value) in seen or {"state", "param_groups"} <= value.keys():
            continue
        seen.add(id(value))
        if any(isinstance(one, Tensor) and len(one.shape) > 1 for one in value.values()):
            yield path, value
        row += [(f"{path}.{name}"[-200:].strip("."), one) for name, one in value.items() if isinstance(one, dict)]


def _array(name: str, tensor: Tensor, storage: np.ndarray) -> np.ndarray:
    """A view of its storage, in which it lies: no memory is taken for what a shape says."""
    offset, shape, strides = tensor[1:]
    whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)) and len(shape) == len(strides) <= 8
    if not whole or math.prod(shape) > storage.size:
        raise Unreadable(f"the tensor {name[:80]!r} is larger than its storage")
    if math.prod(shape) and offset + sum((n - 1) * step for n, step in zip(shape, strides)) >= storage.size:
        raise Unreadable(f"the tensor {name[:80]!r} does not lie inside its storage")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
