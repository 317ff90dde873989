"""One safe file for a model: a stored .npz of named arrays and one JSON text, written all or not at all.

Nothing in the file is code or a path, and it is read with allow_pickle=False; `numpy.load` alone can open it.
"""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from minivae.durable import write_atomically
from minivae.parameters import Layout

FORMAT_VERSION = 1
CONFIG = "config.json"


class ModelFileError(ValueError):
    """The file is not a model that this version of minivae can read."""


def save(path: str | Path, arrays: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """Write named arrays and a JSON-serialisable config to `path`, replacing it only when all is on disk."""
    text = json_text({"format_version": FORMAT_VERSION, **config}).encode()
    entries = {**arrays, CONFIG: np.frombuffer(text, np.uint8)}
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


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name and the config. Raises FileNotFoundError, or ModelFileError with the reason."""
    try:
        with open(path, "rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile) or CONFIG not in archive.files:
                raise ModelFileError(f"{path} is not a minivae model: it has no {CONFIG}; pass one that train wrote")
            config = json.loads(archive[CONFIG].tobytes())
            if not isinstance(config, dict):
                raise ModelFileError(f"{path} is not a minivae model: its {CONFIG} is no JSON object")
            version = config.get("format_version")
            if version != FORMAT_VERSION:
                raise ModelFileError(
                    f"{path} has format version {version}, and this minivae reads version {FORMAT_VERSION}; "
                    "use the minivae that wrote it"
                )
            return {name: archive[name] for name in archive.files if name != CONFIG}, config
    except (zipfile.BadZipFile, EOFError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(f"{path} is not a readable model file ({error}); copy or train it again") from error


def flatten(arrays: dict[str, np.ndarray], layout: Layout) -> np.ndarray:
    """The parameters of this layout as one vector [N]. Raises ValueError unless these arrays are exactly they."""
    for name, shape in layout:
        if name not in arrays:
            raise ValueError(f"{name} is missing")
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f":
            raise ValueError(f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype} instead of {shape}")
    if extra := sorted(set(arrays) - {name for name, _ in layout}):
        raise ValueError(f"{extra[0]} is no parameter of this model")
    return np.concatenate([arrays[name].ravel() for name, _ in layout])
