"""Model files and archives made by hand, so that a test can make what no library would write."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from minivae.storage import modelfile


def entries(path) -> dict[str, np.ndarray]:
    """The arrays of a model file, the config and the sha256 left out."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files if name not in (modelfile.CONFIG, modelfile.DIGEST)}


def config(path) -> dict:
    with np.load(path, allow_pickle=False) as archive:
        return json.loads(archive[modelfile.CONFIG].tobytes())


def model(path, arrays, config, digest=True, **savez) -> Path:
    """A file with these arrays and this config (an object, or bytes), and a sha256 that is right: an attacker can count."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    whole = {**arrays, modelfile.CONFIG: np.frombuffer(text, np.uint8)}
    if digest:
        whole[modelfile.DIGEST] = modelfile.digest(whole)
    np.savez(path, **whole, **savez)
    return Path(path)


def first_version(path, target) -> Path:
    """A model of version 2 as version 1 had it: the history in the JSON, the units too, no sha256."""
    from minivae.storage import persistence

    arrays, told = entries(path), config(path)
    history = persistence.records(arrays.pop("history"), told.pop("history_columns"), told["settings"]["latent_dim"])
    arrays = {name: array for name, array in arrays.items() if not name.startswith("training.")}
    told = {name: value for name, value in told.items() if name not in ("training", "run", "automatic")}
    told |= {"format_version": 1, "history": history, "units": arrays.pop("units").tolist()}
    return model(target, arrays, told, digest=False)


def npy(array, descr=None, order="False", shape=None, header=None, version=b"\1\0") -> bytes:
    """A .npy file whose header says what it is told to."""
    array = np.asarray(array)
    text = header
    if text is None:
        text = (
            f"{{'descr': {descr or array.dtype.str!r}, 'fortran_order': {order}, 'shape': {shape or array.shape}, }}\n"
        )
    text = text if isinstance(text, bytes) else text.encode()
    length = len(text).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + text + array.tobytes()


def archive(members: dict[str, bytes], method=zipfile.ZIP_STORED) -> bytes:
    """A zip of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def directory(blob: bytes) -> list[tuple[int, int]]:
    """Where each member's entry of the central directory begins, and its local header, in the order of the directory."""
    end = blob.rindex(b"PK\5\6")
    count, _, place = struct.unpack("<HII", blob[end + 10 : end + 20])
    found = []
    for _ in range(count):
        name, extra, comment = struct.unpack("<HHH", blob[place + 28 : place + 34])
        found.append((place, struct.unpack("<I", blob[place + 42 : place + 46])[0]))
        place += 46 + name + extra + comment
    return found


def patched(blob: bytes, offset: int, form: str, value, member: int = 0, local: int | None = None) -> bytes:
    """The archive with one number of a member's directory entry changed, and of its local header where `local` is given."""
    changed, (entry, header) = bytearray(blob), directory(blob)[member]
    struct.pack_into(form, changed, entry + offset, value)
    if local is not None:
        struct.pack_into(form, changed, header + local, value)
    return bytes(changed)


def repaired(blob: bytes) -> bytes:
    """The archive with every CRC, in both headers, made that of the bytes that are there."""
    changed = bytearray(blob)
    for entry, header in directory(blob):
        size = struct.unpack_from("<I", blob, entry + 20)[0]
        start = header + 30 + sum(struct.unpack_from("<HH", blob, header + 26))
        crc = zlib.crc32(blob[start : start + size])
        struct.pack_into("<I", changed, entry + 16, crc)
        struct.pack_into("<I", changed, header + 14, crc)
    return bytes(changed)
