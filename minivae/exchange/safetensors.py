"""safetensors: the arrays of a model under their own names, and its config as one JSON text in the metadata.

What is written is what model.npz holds (its optimizer left out), so it comes back as the same model, bit for bit.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from minivae import __version__
from minivae.storage.archives import Header, open_regular
from minivae.storage.modelfile import FORMAT_VERSION, compare, json_text, parsed
from minivae.storage.persistence import content, members, model

OURS = "minivae"  # in the metadata, of which version


def file(vae: Any) -> bytes:
    """The file of a fitted VAE. Raises ImportError without the package safetensors."""
    arrays, config = content(vae)
    metadata = {OURS: __version__, "config": json_text({"format_version": FORMAT_VERSION, **config})}
    return bytes(_library("safetensors.numpy").save(arrays, metadata))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All arrays by name, and the metadata. The library holds what the file says against its length."""
    open_regular(path).close()
    with _library("safetensors").safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def restored(cls: Any, arrays: dict[str, np.ndarray], config: str, backend: str = "auto") -> Any:
    """The model that `file` wrote. Raises ValueError, or what is wrong."""
    told = parsed(config.encode(), FORMAT_VERSION)
    compare(arrays, lambda name: Header(arrays[name].dtype, arrays[name].shape, False, 0, 0), members(cls, told))
    return model(cls, arrays, told, backend)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError('safetensors needs the package; run pip install "minivae[safetensors]"') from error
