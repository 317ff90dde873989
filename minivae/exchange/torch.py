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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minivae.exchange.pickles import DICTS, TENSORS, Other, Storage, Tensor, unpickled
from minivae.exchange.safetensors import bfloat16
from minivae.network import Network
from minivae.parameters import views
from minivae.storage.archives import Archive, Unreadable, open_regular

MOST = 2**24  # bytes of the pickle, some hundred for each tensor
ROOT, EXTRA = "minivae/", "extra/"
OURS, THEIRS = re.compile(r"^(encoder\.|decoder\.)(\d+)(\.W|\.b)$"), {".W": ".weight", ".b": ".bias"}
MADE, BACK = re.compile(r"^(encoder\.|decoder\.)(\d{1,9})(\.weight|\.bias)$"), {".weight": ".W", ".bias": ".b"}
READ = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "u2", "Bool": "?", "Byte": "u1"}
READ |= {"Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8"}
READ = {f"torch {name}Storage": kind for name, kind in READ.items()}
OLD = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how a file of before PyTorch 1.6 begins
FIX = "write one by torch.save(module.state_dict(), path)"
WHOLE = ("state_dict", "model_state_dict", "model")  # of a checkpoint that has an average of the weights too


def state_dict(network: Network) -> dict[str, np.ndarray]:
    """The parameters under the names that nn.Sequential gives them, W as [out, in]; by columns also their units."""
    named = views(network.get_parameters(), network.layout)
    if network.arch.by_columns:
        named |= dict(zip(("shift", "scale"), network.arch.column_units()))
    return {OURS.sub(lambda m: f"{m[1]}{2 * int(m[2])}{THEIRS[m[3]]}", name): named[name].T for name in named}


# ---- Writing


def file(arrays: dict[str, np.ndarray], extra: dict[str, np.ndarray] | None = None, config: str = "") -> bytes:
    """A .pt of these arrays, float32 or float64, as an OrderedDict of tensors; config and extra make it a model of ours."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        members = {"data.pkl": _pickle(arrays), "byteorder": b"little"}
        for key, array in enumerate(arrays.values()):
            members[f"data/{key}"] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        members |= {f"{EXTRA}config.json": config.encode()} if config else {}
        for name, array in (extra or {}).items():
            np.save(member := io.BytesIO(), array, allow_pickle=False)
            members[f"{EXTRA}{name}.npy"] = member.getvalue()
        for name, data in (members | {"version": b"3\n"}).items():
            archive.writestr(zipfile.ZipInfo(ROOT + name), data)
    return whole.getvalue()


def _pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """Protocol 2: OrderedDict(), then name and _rebuild_tensor_v2(storage, offset, shape, strides, False, {}) for each."""
    text = b"\x80\x02" + _global(DICTS[0], b")R") + b"("
    for key, (name, array) in enumerate(arrays.items()):
        kind = _global(f"torch {'Float' if array.itemsize == 4 else 'Double'}Storage")
        storage = _tuple(_value("storage"), kind, _value(str(key)), _value("cpu"), _value(array.size))
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        shape, steps = (_tuple(*map(_value, numbers)) for numbers in (array.shape, strides))
        tensor = _tuple(storage + b"Q", _value(0), shape, steps, b"\x89", _global(DICTS[0], b")R"))
        text += _value(name) + _global(TENSORS[0], tensor + b"R")
    return text + b"u."


def _value(value: str | int) -> bytes:
    if isinstance(value, str):
        return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()
    return b"\x8a\x09" + value.to_bytes(9, "little")


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _global(name: str, called: bytes = b"") -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + called


# ---- Reading


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a state-dict by name, bfloat16 as float32, and ""; or a model of ours, its arrays and its config.

    Raises Unreadable, or what zipfile and pickletools raise.
    """
    with open_regular(path) as opened:
        if opened.read(len(OLD)) == OLD:
            opened.seek(0)
            return _old(np.fromfile(opened, np.uint8)), ""
        archive = Archive(opened)
        root = next((name[:-8] for name in archive.members if name.endswith("data.pkl")), None)
        if root is None or archive.members[f"{root}data.pkl"].file_size > MOST:
            raise Unreadable(f"it has no data.pkl of at most {MOST:,} bytes, as torch.save writes it")
        found = unpickled(io.BytesIO(archive.raw(f"{root}data.pkl").tobytes()), {})
        little = f"{root}byteorder" not in archive.members or archive.raw(f"{root}byteorder").tobytes() == b"little"
        arrays = _arrays(found, lambda key: archive.raw(f"{root}data/{key}"), little)
        extra = {name.removeprefix(root + EXTRA): name for name in archive.members if name.startswith(root + EXTRA)}
        if not (config := extra.pop("config.json", "")):
            return arrays, ""
        found = {name: archive.read(extra[name]) for name in extra}
        for name in arrays.keys() - {"shift", "scale"}:  # which are the units
            ours = MADE.sub(lambda m: f"{m[1]}{int(m[2]) // 2}{BACK[m[3]]}", name)
            found[ours] = np.ascontiguousarray(arrays[name].T)
        return found, archive.raw(config).tobytes().decode()


def _old(whole: np.ndarray) -> dict[str, np.ndarray]:
    """Magic number, version, system, state-dict, keys of its storages; then each of these, after its length, 8 bytes."""
    text, storages, raw = io.BytesIO(whole[:MOST].tobytes()), dict[str, Storage](), dict[str, np.ndarray]()
    _, _, system, found, keys = (unpickled(text, storages) for _ in range(5))
    at = text.tell()
    for key in keys:
        size = int.from_bytes(whole[at : at + 8].tobytes(), "little") * np.dtype(READ[storages[key].kind]).itemsize
        raw[key] = whole[at + 8 : at + 8 + size]
        at += 8 + size
    return _arrays(found, raw.__getitem__, system["little_endian"])


def _arrays(found: Any, raw: Callable[[str], np.ndarray], little: bool) -> dict[str, np.ndarray]:
    """The state-dict in what a file describes, as arrays; raw gives the bytes of a storage."""
    chosen, storages = _state_dict(found), dict[str, np.ndarray]()
    for name, ((kind, key, size), *_) in chosen.items():
        if kind not in READ:
            raise Unreadable(f"its {name[:80]!r} is a {kind.replace(' ', '.')}, which no model of ours takes")
        if key not in storages:
            values, dtype = raw(key), np.dtype(READ[kind]).newbyteorder("<" if little else ">")
            if values.size != size * dtype.itemsize:
                raise Unreadable(f"its storage {key[:80]!r} has {values.size:,} bytes, not {size * dtype.itemsize:,}")
            storages[key] = bfloat16(values.view(dtype)) if "BFloat" in kind else values.view(dtype)
    return {name: _array(name, tensor, storages[tensor.storage.key]) for name, tensor in chosen.items()}


def _state_dict(found: Any) -> dict[str, Tensor]:
    """The dict that has a matrix, in a checkpoint; or those of an encoder and a decoder, which were saved apart."""
    if isinstance(found, Other):
        raise Unreadable(f"it holds a whole {found.name.replace(' ', '.')}, and only its code tells its layers; {FIX}")
    dicts, seen, row = dict[str, dict[Any, Any]](), set[int](), [("", found)]
    for path, value in row:
        if isinstance(value, dict) and id(value) not in seen and not {"state", "param_groups"} <= value.keys():
            seen.add(id(value))  # no optimizer's
            if any(_odd(one) or (isinstance(one, Tensor) and len(one.shape) > 1) for one in value.values()):
                dicts[path] = value
            row += [(f"{path}{name}."[-200:], one) for name, one in value.items() if isinstance(one, dict)]
    apart = all(any(part in path.lower() for path in dicts) for part in ("enc", "dec"))
    if "" in dicts:
        dicts = {"": dicts[""]}
    elif not apart:
        one = [path for path in dicts if len(dicts) == 1 or path.split(".")[-2] in WHOLE]
        if len(one) != 1:
            told = f"the state-dicts {', '.join(path[:-1][:40] for path in dicts)[:200]}; save the model's alone"
            raise Unreadable(f"it holds {told if dicts else f'no state-dict; {FIX}'}")
        dicts = {"": dicts[one[0]]}
    chosen = {f"{path}{name}": value for path, one in dicts.items() for name, value in one.items()}
    for name, value in chosen.items():
        if _odd(value):
            raise Unreadable(f"its {name[:80]!r} is made by {value.name.replace(' ', '.')}; save plain float32")
    return {name: value for name, value in chosen.items() if isinstance(value, Tensor)}


def _odd(value: Any) -> bool:
    """Whether it is a tensor that is no plain one: quantized, sparse, of 8 bits."""
    return isinstance(value, Other) and value.name.startswith("torch._utils ")


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
