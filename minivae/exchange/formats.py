"""Which file is of which format: what VAE.export and VAE.from_weights do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.files import DataError
from minivae.exchange import foreign, module, onnx, safetensors, torch
from minivae.settings import checked_path
from minivae.storage.archives import Archive, Unreadable, open_regular, reason
from minivae.storage.durable import place_of, write_atomically
from minivae.storage.modelfile import NOT_THE_FILE, ModelFileError

FORMATS = {"onnx": (".onnx",), "safetensors": (".safetensors",), "torch": (".pt", ".pth")}


def kind_of(path: Path, format: str | None = None) -> str:
    """A name of FORMATS. Raises ValueError where neither the name nor the file's ending is one."""
    found = format or next((name for name, endings in FORMATS.items() if path.suffix.lower() in endings), "")
    if found not in FORMATS:
        what = f"format {format!r}" if format else f"{path} does not end in .onnx, .safetensors, .pt or .pth"
        raise ValueError(f"{what}: the formats are {', '.join(FORMATS)}; choose one")
    return found


def export(vae: Any, path: Path, format: str | None = None) -> tuple[list[Path], str]:
    """Write a fitted VAE; the files, and the lines of Python that use them. ONNX has two: NAME.encoder.onnx, .decoder."""
    kind, files = kind_of(path, format), {path: b""}
    if kind == "onnx":
        stem = path.name.removesuffix(".onnx")
        files = {path.with_name(f"{stem}.{part}.onnx"): data for part, data in onnx.graphs(vae).items()}
        used = _onnxruntime(vae, *map(str, files))
    elif kind == "safetensors":
        files[path] = safetensors.file(vae)
        used = f"from minivae import VAE\n\nvae = VAE.from_weights({str(path)!r})\n"
    else:
        vae.network_.require_finite()
        files[path] = torch.file(torch.state_dict(vae.network_))
        used = module.source(vae, str(path))
    for place in files:
        place_of(place)
    for place, data in files.items():
        write_atomically(place, lambda file, data=data: file.write(data))  # type: ignore[misc]
    return [*files], used


def _onnxruntime(vae: Any, encoder: str, decoder: str) -> str:
    kind = "uint8" if vae.scale_.uint8 else "float64" if vae.network_.arch.far else "float32"
    told = ', "y": y' * (vae.condition_ is not None)
    return f"""import onnxruntime

encoder = onnxruntime.InferenceSession({encoder!r})
decoder = onnxruntime.InferenceSession({decoder!r})
mu, logvar = encoder.run(None, {{"x": X{told}}})  # X {kind} [n, {vae.n_features_in_}]
(mean,) = decoder.run(None, {{"z": mu{told}}})
"""


def load(cls: Any, source: Any, names: Mapping[str, str] | None, parameters: dict[str, Any]) -> Any:
    """A `cls` of the weights in a file, or in a dict of arrays by name. Raises OSError, ModelFileError or ValueError."""
    if isinstance(source, Mapping):
        arrays = {str(name): np.asarray(array) for name, array in source.items()}
        return foreign.restored(cls, arrays, names, parameters)
    path, metadata = checked_path(source), dict[str, str]()
    kind = path.suffix.lower()
    try:
        if kind == ".safetensors":
            arrays, metadata = safetensors.read(path)
        elif kind == ".npz":
            with open_regular(path) as file:
                archive = Archive(file, deflated=True)
                arrays = {name: archive.read(name) for name in archive.members}
        elif kind in FORMATS["torch"]:
            arrays = torch.read(path)
        else:
            raise Unreadable("weights are read from .pt, .pth, .safetensors and .npz, such as np.savez makes of arrays")
        if not all(name.isprintable() for name in arrays):
            raise Unreadable("it has names that no terminal shows")
        if safetensors.OURS in metadata and not names and parameters.keys() <= {"backend"}:
            return safetensors.restored(cls, arrays, metadata["config"], **parameters)
    except (FileNotFoundError, PermissionError, ImportError):
        raise
    except Exception as error:  # of zipfile, pickletools, NumPy and safetensors: two dozen types, OSError among them
        if isinstance(error, OSError) and error.errno in NOT_THE_FILE:
            raise
        raise ModelFileError(f"{path} cannot be read ({reason(error)}); write it again") from error
    if safetensors.OURS in metadata:
        raise ValueError(f"{path} is minivae's own, which tells all of its model; leave names and parameters out")
    try:
        return foreign.restored(cls, arrays, names, parameters)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
