"""One safe file for a model: a stored .npz of named arrays and one JSON text, written all or not at all.

Nothing in the file is code or a path; `numpy.load` alone can open it. Its reader computes from the JSON which arrays there
must be, and compares before it takes memory for them; `sha256`, over all other members, tells any damage to them.

Version 1 had no sha256, and the training's history inside the JSON.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minivae.storage.archives import Archive, Header, open_regular, reason
from minivae.storage.durable import write_atomically

FORMAT_VERSION = 2
CONFIG, DIGEST = "config.json", "sha256"
CONFIG_BYTES, CONFIG_VALUES = 2**23, 2**18
OPTIONAL = "training."  # arrays whose names begin so may be there or not

Members = dict[str, tuple[Any, tuple[int, ...]]]  # name -> dtype, shape; a -1 in it stands for any length

NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.EIO)  # no handle is left, the disk does not read


class ModelFileError(ValueError):
    """The file is not a model that this version of minivae can read."""


def save(path: str | Path, arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Write named arrays and a JSON-serialisable config to `path`, replacing it only when all is on disk."""
    text = json_text({"format_version": FORMAT_VERSION, **config}).encode()
    if len(text) > CONFIG_BYTES or sum(map(text.count, b",[{")) > CONFIG_VALUES:
        raise ValueError(f"the settings and labels of this model are {len(text):,} bytes of text, too many for {path}")
    entries = {**arrays, CONFIG: np.frombuffer(text, np.uint8)}
    entries[DIGEST] = digest(entries)
    # no allow_pickle here: NumPy 2.0 would store it as an array
    write_atomically(path, lambda file: np.savez(file, **entries))  # type: ignore[arg-type]


def json_text(value: Any, indent: int | None = None) -> str:
    """value as JSON, which has no NaN and no infinity: null stands for them."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest(entries: dict[str, np.ndarray]) -> np.ndarray:
    """SHA-256, uint8 [32], of all names, types, shapes and values."""
    whole = hashlib.sha256()
    for name, array in sorted(entries.items()):
        whole.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(whole.digest(), np.uint8)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever a file's content raises becomes one ModelFileError; that it is missing or locked is another matter."""
    try:
        yield
    except (FileNotFoundError, PermissionError, ModelFileError):
        raise
    except Exception as error:  # zipfile, NumPy, JSON and the parts of a model: two dozen types, MemoryError among them
        if isinstance(error, OSError) and error.errno in NOT_THE_FILE:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ModelFileError(f"{path} is not a model file ({reason(error)}); copy or train it again") from error


def load(
    path: str | Path, members: Callable[[dict[str, Any]], Members]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name and the config, whose arrays are exactly those that `members` computes from it.

    Raises FileNotFoundError, PermissionError, or ModelFileError with the reason.
    """
    with reading(path), open_regular(path) as file:
        archive = Archive(file)
        version = 2 if DIGEST in archive.members else 1
        config = _config(archive, version)
        expected: Members = {CONFIG: ("uint8", (-1,)), **({DIGEST: ("uint8", (32,))} if version > 1 else {})}
        compare(archive.members, archive.header, expected | members(config))
        entries = {name: archive.read(name) for name in archive.members}
        stored = entries.pop(DIGEST, None)
        if stored is not None and (stored != digest(entries)).any():
            raise ValueError("its content is not what its sha256 says")
        del entries[CONFIG]
        return entries, config


def _config(archive: Archive, version: int) -> dict[str, Any]:
    if CONFIG not in archive.members:
        raise ValueError(f"it has no {CONFIG}; pass one that train or import wrote")
    if archive.members[CONFIG].file_size > CONFIG_BYTES:
        raise ValueError(f"its {CONFIG} has more than {CONFIG_BYTES:,} bytes")
    return parsed(archive.read(CONFIG).tobytes(), version)


def parsed(text: bytes, version: int) -> dict[str, Any]:
    """The config in a JSON text that somebody else may have written. Raises ValueError."""
    if len(text) > CONFIG_BYTES:
        raise ValueError(f"its {CONFIG} has more than {CONFIG_BYTES:,} bytes")
    if sum(map(text.count, b",[{")) > CONFIG_VALUES:  # each of which is an object of Python
        raise ValueError(f"its {CONFIG} has more than {CONFIG_VALUES:,} values")
    config = json.loads(text)
    if not isinstance(config, dict):
        raise ValueError(f"its {CONFIG} is no JSON object")
    if type(found := config.get("format_version")) is not int or found != version:
        raise ValueError(
            f"it has format version {found!r}, and this minivae reads versions 1 and {FORMAT_VERSION}; use the minivae that "
            "wrote it"
        )
    return config


def compare(found: Collection[str], header: Callable[[str], Header], expected: Members) -> None:
    """Raise unless these are the expected arrays, and no other."""
    for name in [*expected, *found]:
        if name not in expected:
            raise ValueError(f"{name[:80]} is no part of this model")
        if name not in found:
            if name.startswith(OPTIONAL):
                continue
            raise ValueError(f"{name} is missing")
        seen, (dtype, shape) = header(name), expected[name]
        free = len(shape) == len(seen.shape) and all(b in (-1, a) for a, b in zip(seen.shape, shape))
        if not free or seen.dtype != np.dtype(dtype) or seen.fortran:
            raise ValueError(f"{name} has shape {seen.shape} and dtype {seen.dtype} instead of {shape} and {dtype}")
