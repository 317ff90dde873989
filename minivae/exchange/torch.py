"""PyTorch's state-dicts without PyTorch: the zip that torch.save writes, and the module whose names it has.

A .pt is a zip of raw storages, and a pickle that says which tensors they are. `file` writes that pickle in the few opcodes
that torch.load(weights_only=True) takes. `read` goes through the opcodes itself: nothing that a pickle names is imported
or called, and what is neither a tensor nor a plain value is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivae.architecture import decoder_layers, encoder_layers
from minivae.network import Network
from minivae.parameters import views
from minivae.storage.archives import Archive, Unreadable, open_regular

MOST = 2**24  # bytes of the pickle, some hundred for each tensor
ROOT = "minivae/"
STORED = {4: "Float", 8: "Double"}
READ = {"Float": "f4", "Double": "f8", "Half": "f2", "BFloat16": "u2", "Bool": "?", "Byte": "u1"}
READ |= {"Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8"}
READ = {f"torch {name}Storage": kind for name, kind in READ.items()}
BFLOAT = "torch BFloat16Storage"
DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"


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


def file(arrays: dict[str, np.ndarray]) -> bytes:
    """A .pt of these arrays, float32 or float64, as an OrderedDict of tensors."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        members = {"data.pkl": _pickle(arrays), "byteorder": b"little"}
        for key, array in enumerate(arrays.values()):
            members[f"data/{key}"] = array.astype(array.dtype.newbyteorder("<")).tobytes()
        for name, data in (members | {"version": b"3\n"}).items():
            archive.writestr(zipfile.ZipInfo(ROOT + name), data)
    return whole.getvalue()


def _pickle(arrays: dict[str, np.ndarray]) -> bytes:
    """Protocol 2: OrderedDict(), then name and _rebuild_tensor_v2(storage, offset, shape, strides, False, {}) for each."""
    text = b"\x80\x02" + _call(DICT, b")") + b"("
    for key, (name, array) in enumerate(arrays.items()):
        kind = _global(f"torch {STORED[array.dtype.itemsize]}Storage")
        storage = _tuple(_value("storage"), kind, _value(str(key)), _value("cpu"), _value(array.size))
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        shape, steps = (_tuple(*map(_value, numbers)) for numbers in (array.shape, strides))
        tensor = _tuple(storage + b"Q", _value(0), shape, steps, b"\x89", _call(DICT, b")"))
        text += _value(name) + _call(TENSOR, tensor)
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


class _Storage(NamedTuple):
    """What the zip holds under this key, and how the pickle describes it."""

    word: str
    kind: str
    key: str
    place: str
    size: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a state-dict by name, bfloat16 as float32. Raises Unreadable, or what zipfile and pickletools raise."""
    with open_regular(path) as opened:
        archive = Archive(opened)
        root = next((name[:-8] for name in archive.members if name.endswith("data.pkl")), None)
        if root is None or archive.members[f"{root}data.pkl"].file_size > MOST:
            raise Unreadable(f"it has no data.pkl of at most {MOST:,} bytes, as torch.save writes it")
        found = _unpickled(archive.raw(f"{root}data.pkl").tobytes())
        if isinstance(found, dict):  # of a checkpoint
            found = next((found[name] for name in ("state_dict", "model_state_dict") if name in found), found)
        if not isinstance(found, dict) or not any(isinstance(tensor, _Tensor) for tensor in found.values()):
            raise Unreadable("it is no state-dict; write one by torch.save(module.state_dict(), path)")
        order = f"{root}byteorder" in archive.members and archive.raw(f"{root}byteorder").tobytes() == b"big"
        storages: dict[str, np.ndarray] = {}
        for _, kind, key, _, count in (t.storage for t in found.values() if isinstance(t, _Tensor)):
            if key not in storages:
                raw, dtype = archive.raw(f"{root}data/{key}"), np.dtype(READ[kind]).newbyteorder(">" if order else "<")
                if raw.size != count * dtype.itemsize:
                    raise Unreadable(f"its storage {key[:80]!r} has {raw.size:,} bytes, not {count * dtype.itemsize:,}")
                storages[key] = raw.view(dtype)
                if kind == BFLOAT:  # the upper half of a float32
                    storages[key] = (storages[key].astype(np.uint32) << 16).view(np.float32)
        return {str(n): _array(str(n), t, storages) for n, t in found.items() if isinstance(t, _Tensor)}


def _array(name: str, tensor: _Tensor, storages: dict[str, np.ndarray]) -> np.ndarray:
    """A view of its storage, in which it lies: no memory is taken for what a shape says."""
    storage, offset, shape, strides = storages[tensor.storage.key], *tensor[1:]
    whole = all(type(n) is int and n >= 0 for n in (offset, *shape, *strides)) and len(shape) == len(strides) <= 8
    if not whole or math.prod(shape) > storage.size:
        raise Unreadable(f"the tensor {name[:80]!r} is larger than its storage")
    if math.prod(shape) and offset + sum((n - 1) * step for n, step in zip(shape, strides)) >= storage.size:
        raise Unreadable(f"the tensor {name[:80]!r} does not lie inside its storage")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


PLAIN = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _unpickled(text: bytes) -> Any:
    """What a pickle of tensors, dicts, lists, tuples and plain values describes, by a machine that can do nothing else."""
    stack, marks, memo = list[Any](), list[int](), dict[int, Any]()

    def above(start: int) -> list[Any]:
        """What lies on the stack from there on, taken off."""
        items = stack[start:]
        del stack[start:]
        return items

    value: Any
    for op, value, _ in pickletools.genops(text):
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(PLAIN[op.name])
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if op.name == "EMPTY_DICT" else [])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(above(marks.pop() if op.name == "TUPLE" else -int(op.name[-1]))))
            case "APPEND" | "APPENDS":
                items = above(marks.pop() if op.name == "APPENDS" else -1)
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = above(marks.pop() if op.name == "SETITEMS" else -2)
                if not all(isinstance(key, str | int) for key in items[::2]):  # of which no hash is deep
                    raise Unreadable("it has names that are no texts")
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                if value not in (DICT, TENSOR, PARAMETER, *READ):
                    named = value[:80].replace(" ", ".")
                    raise Unreadable(f"it names {named!r}, which is never run; save the tensors of a state-dict alone")
                stack.append(value)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                stack.append(_called(*above(-2)))
            case "BUILD":  # attributes of a dict: the versions of its modules
                stack.pop()
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(value)
            case _:
                raise Unreadable(f"its pickle has the opcode {op.name}, which no state-dict needs")
    raise Unreadable("its pickle is cut short")


def _storage(parts: Any) -> _Storage:
    kind, key = parts[1:3]  # whatever a file has there
    if not isinstance(kind, str) or kind not in READ or not isinstance(key, str):
        raise Unreadable("it describes a storage as torch.save does not")
    return _Storage(*parts)


def _called(function: Any, arguments: Any) -> Any:
    if function == DICT and arguments == ():
        return {}
    if function == TENSOR and isinstance(arguments[0], _Storage):
        return _Tensor(*arguments[:4])
    if function == PARAMETER and isinstance(arguments[0], _Tensor):
        return arguments[0]
    raise Unreadable("it makes tensors as torch.save does not")
