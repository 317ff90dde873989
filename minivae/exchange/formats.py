"""Which file is of which format: what VAE.export and VAE.from_weights do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.checks import require_memory
from minivae.data.files import DataError
from minivae.exchange import foreign, module, onnx, safetensors, torch
from minivae.settings import checked_path
from minivae.storage.archives import Archive, Header, open_regular, reason
from minivae.storage.durable import place_of, write_atomically
from minivae.storage.modelfile import CONFIG, DIGEST, NOT_THE_FILE, ModelFileError, compare, json_text, parsed
from minivae.storage.modelfile import FORMAT_VERSION as VERSION
from minivae.storage.persistence import content, members, model

FORMATS = {"onnx": (".onnx",), "safetensors": (".safetensors",), "torch": (".pt", ".pth")}


def kind_of(path: Path, format: str | None = None) -> str:
    """A name of FORMATS. Raises ValueError where neither the name nor the file's ending is one, or where they disagree."""
    ends = next((name for name, endings in FORMATS.items() if path.suffix.lower() in endings), "")
    if (found := format or ends) not in FORMATS:
        what = f"format {format!r}" if format else f"{path} does not end in .onnx, .safetensors, .pt or .pth"
        raise ValueError(f"{what}: the formats are {', '.join(FORMATS)}; choose one")
    if path.suffix.lower() == ".npz" or ends not in ("", found):
        raise ValueError(f"{path} does not end as format {found} does; name a {FORMATS[found][0]}, or no format")
    return found


def files_of(path: Path, format: str | None = None) -> list[Path]:
    """The files that `export` writes; ONNX has two, NAME.encoder.onnx and NAME.decoder.onnx."""
    if kind_of(path, format) != "onnx":
        return [path]
    stem = path.stem if path.suffix.lower() == ".onnx" else path.name
    return [path.with_name(f"{stem}.{part}.onnx") for part in ("encoder", "decoder")]


def export(vae: Any, path: Path, format: str | None = None) -> str:
    """Write a fitted VAE, each file all or not at all; the lines of Python that use what was written."""
    kind, files = kind_of(path, format), files_of(path, format)
    for file in files:
        place_of(file)
    arrays, config = content(vae, run=vae.run_)  # what a run's data are read by
    text = json_text({"format_version": VERSION, **config})
    if kind == "onnx":
        written, used = onnx.graphs(vae), _onnxruntime(vae, *map(str, files))
    elif kind == "safetensors":
        written = [safetensors.file(arrays, text)]
        used = f"from minivae import VAE\n\nvae = VAE.from_weights({str(path)!r})\n"
    else:
        for name, _ in vae.network_.layout:  # which is in the state-dict
            del arrays[name]
        written = [torch.file(torch.state_dict(vae.network_), arrays, text)]
        used = module.source(vae, str(path))
    for place, data in zip(files, written, strict=True):
        write_atomically(place, lambda file, data=data: file.write(data))  # type: ignore[misc]
    return used


def _onnxruntime(vae: Any, encoder: str, decoder: str) -> str:
    kind = "uint8" if vae.scale_.uint8 else "float64" if vae.network_.arch.far else "float32"
    told = ', "y": y' * (vae.condition_ is not None)
    return f"""import onnxruntime

encoder = onnxruntime.InferenceSession({encoder!r})
decoder = onnxruntime.InferenceSession({decoder!r})
mu, logvar = encoder.run(None, {{"x": X{told}}})  # X {kind} [n, {vae.n_features_in_}]
[{", ".join(("mean", *onnx.spreads_of(vae)))}] = decoder.run(None, {{"z": mu{told}}})
"""


def _npz(path: Path) -> tuple[dict[str, np.ndarray], str]:
    with open_regular(path) as file:
        archive = Archive(file, deflated=True)
        if {CONFIG, DIGEST} <= archive.members.keys():
            raise DataError(f"{path} is a model of minivae's own already: VAE.load and every command take it as it is")
        whole = sum(member.file_size for member in archive.members.values())
        require_memory("what it holds", whole, "leave out what is no layer")
        return {name: archive.read(name) for name in archive.members}, ""


READERS = {".safetensors": safetensors.read, ".npz": _npz, ".pt": torch.read, ".pth": torch.read}
READERS |= {".ckpt": torch.read, ".bin": torch.read, ".tar": torch.read}  # as Lightning and others call them


def load(cls: Any, source: Any, names: Mapping[str, str] | None, parameters: dict[str, Any]) -> Any:
    """A `cls` of the weights in a file, or in a dict of arrays by name. Raises OSError, ModelFileError or ValueError."""
    if isinstance(source, Mapping):
        try:
            given = {str(name): np.asarray(source[name]) for name in source}
        except (TypeError, RuntimeError) as error:  # of PyTorch: bfloat16, a GPU
            raise DataError(f"{reason(error)}; give arrays of NumPy, such as tensor.float().cpu().numpy()") from error
        return foreign.restored(cls, given, names, parameters)
    path = checked_path(source)
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a file of weights (a run's model needs no import)")
    if path.suffix.lower() not in READERS and path.exists():
        fix = "save .safetensors of them, or a .npz of arrays by name with np.savez"
        raise DataError(f"{path} ends in none of {', '.join(READERS)}, which weights are read from; {fix}")
    try:
        arrays, config = READERS.get(path.suffix.lower(), _npz)(path)
        if not all(name.isprintable() for name in arrays):
            raise ValueError("it has names that no terminal shows")
        if config and not names and parameters.keys() <= {"backend"}:
            told, found = parsed(config.encode(), VERSION), arrays
            compare(found, lambda n: Header(found[n].dtype, found[n].shape, False, 0, 0), members(cls, told))
            return model(cls, found, told, **parameters)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {path}; name one of weights") from error
    except (PermissionError, ImportError, DataError):
        raise
    except Exception as error:  # of zipfile, pickletools, NumPy and safetensors: two dozen types, OSError among them
        if isinstance(error, OSError) and error.errno in NOT_THE_FILE:
            raise
        again = "" if "; " in (why := reason(error)) else "; write it again"
        raise ModelFileError(f"{path} cannot be read ({why}){again}") from error
    if config:
        raise DataError(f"{path} is minivae's own, which tells all of its model; leave names and parameters out")
    try:
        return foreign.restored(cls, arrays, names, parameters)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
