"""safetensors: the arrays of a model under their own names, and its config as one JSON text in the metadata.

What is written is what model.npz holds (its optimizer left out), so it comes back as the same model, bit for bit.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from minivae import __version__
from minivae.storage.archives import Unreadable, open_regular

OURS = "minivae"  # in the metadata, of which version


def file(arrays: dict[str, np.ndarray], config: str) -> bytes:
    """The file of a model. Raises ImportError without the package safetensors."""
    return bytes(_library("safetensors.numpy").save(arrays, {OURS: __version__, "config": config}))


def read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """All arrays by name, bfloat16 as float32, and the config of a model of ours, else "".

    The library holds what the file says against its length.
    """
    open_regular(path).close()
    library, halves = _library("safetensors"), dict[str, Any]()
    with library.safe_open(path, framework="numpy") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        if odd := {kind for kind in kinds.values() if kind[0] == "F"} - {"F16", "F32", "F64"}:
            raise Unreadable(f"it has numbers of type {min(odd)}, which NumPy has not; save them as F32")
        if "BF16" in kinds.values():  # which NumPy has not
            halves = {name: one for name, one in library.deserialize(path.read_bytes()) if one["dtype"] == "BF16"}
        arrays = {name: file.get_tensor(name) for name in kinds if name not in halves}
        metadata = file.metadata() or {}
    for name, one in halves.items():
        arrays[name] = bfloat16(np.frombuffer(one["data"], "<u2")).reshape(one["shape"])
    return {name: arrays[name] for name in kinds}, metadata["config"] if OURS in metadata else ""


def bfloat16(words: np.ndarray) -> np.ndarray:
    """As float32, of which they are the upper halves."""
    return (words.astype(np.uint32) << 16).view(np.float32)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError('safetensors needs the package; run pip install "minivae[safetensors]"') from error
