"""Reading data files: IDX, .npy, .npz, text tables and folders of images.

Every reader returns the values that the file holds (nothing is scaled here), never runs code from a file, and answers
a damaged or unsuitable file with one `DataError` sentence that names the file and the fix.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.arrays import pictures_in, read_npz
from minivae.data.opening import KINDS as KINDS
from minivae.data.opening import Array as Array
from minivae.data.opening import DataError as DataError
from minivae.data.opening import Stored, library, opened, require_room, understood
from minivae.data.pictures import SUFFIXES, read_pictures
from minivae.data.series import read_series
from minivae.storage.archives import Unreadable, open_regular, read_header

_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_file(path: Path, **how: Any) -> Stored:
    """Read a data file, or a folder of images; the ending of its name decides the kind (see `KINDS`).

    how: the keywords of `load_dataset` that say how, None where not given; each kind takes those that are its own.

    .npy is mapped read-only, only .npz carries labels.
    Raises DataError for an unknown kind, or a file that cannot be read as its kind.
    """
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        return read_pictures(path, **how)
    if not path.is_file():
        raise DataError(f"{path} is not a file or folder that can be read; pass one of: {KINDS}")
    name = path.name.lower()
    bare = name.removesuffix(".gz")
    if name.endswith(".npy"):
        return pictures_in(path, Stored(read_npy(path)))
    if name.endswith(".npz"):
        return pictures_in(path, read_npz(path, **how))
    if bare.endswith(".ts"):
        return read_series(path)
    if "idx" in bare or bare.endswith("ubyte"):
        return pictures_in(path, Stored(read_idx(path)))
    raise DataError(f"{path} is of no kind that can be read; convert it to one of: {KINDS}")


def table_kind(path: Path) -> str:
    """Whether the name of a file says that it holds a table: "text", "parquet", or ""."""
    bare = path.name.lower().removesuffix(".gz")
    kinds = {"text": (".csv", ".tsv", ".txt"), "parquet": (".parquet", ".pq")}
    return next((kind for kind, endings in kinds.items() if bare.endswith(endings)), "")


def read_parquet(path: Path) -> Any:
    """A pyarrow table. Needs pyarrow: `pip install 'minivae[parquet]'`. Raises DataError."""
    parquet = library("pyarrow.parquet", f"reading {path}", "pyarrow: pip install 'minivae[parquet]'")
    with understood(path, "Parquet"), open_regular(path) as file:
        stored = parquet.ParquetFile(file)
        require_room(f"{path} unpacks to", 8 * stored.metadata.num_rows * stored.metadata.num_columns, "pass less")
        return stored.read()


def read_idx(path: Path, sha256: str | None = None, max_bytes: int | None = None) -> Array:
    """Read an IDX file (the format of MNIST), plain or gzip, in the machine's byte order.

    `sha256` is what its unpacked content must have (None: not checked). Raises DataError for a file that is not IDX, is
    damaged, declares more than `max_bytes` bytes (None: what fits into memory), holds fewer or more than it declares, or
    has another SHA-256.
    """
    with opened(path) as file:
        start = file.read(4)
        if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in _IDX_TYPES or not 1 <= start[3] <= 8:
            raise DataError(
                f"{path} is not an IDX file: it begins with {start.hex(' ') or 'nothing'}, not with 00 00, "
                "a type code and a number of dimensions; check the file or download it again"
            )
        dtype = np.dtype(_IDX_TYPES[start[2]])
        sizes = file.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            raise DataError(f"{path} is cut short inside its IDX header; copy or download it again")
        shape = struct.unpack(f">{start[3]}I", sizes)
        expected = math.prod(shape) * dtype.itemsize
        if expected == 0:
            raise DataError(f"{path} declares the shape {shape}, which holds no values; pass a file with data")
        fix = "if that is right, store the data as .npy, which is read from disk as needed"
        require_room(f"{path} declares the shape {shape},", expected, fix, max_bytes)
        # The payload grows by what the file really holds, so a wrong header cannot make us allocate. Asking for one
        # byte too many finds trailing bytes, and makes gzip compare its checksum.
        payload = bytearray()
        while len(payload) <= expected and (chunk := file.read(min(2**20, expected + 1 - len(payload)))):
            payload += chunk
    if len(payload) != expected:
        held = "more than that" if len(payload) > expected else f"only {len(payload):,}"
        raise DataError(f"{path} declares the shape {shape}, {expected:,} bytes, but holds {held}; copy it again")
    if sha256 is not None:
        import hashlib

        digest = hashlib.sha256(start + sizes)
        digest.update(payload)
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{path} is not the published file: the SHA-256 of its content is {digest.hexdigest()}, "
                f"not {sha256}; replace it"
            )
    return np.frombuffer(payload, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def read_npy(path: Path) -> Array:
    """Map a .npy file into memory, read-only: rows are read from disk as they are used. Raises DataError."""
    with understood(path, "a NumPy file"), open_regular(path) as file:
        if file.read(2) == b"PK":
            raise Unreadable("it is a .npz archive under another name; rename it to end in .npz")
        file.seek(0)
        header, size = read_header(file), os.fstat(file.fileno()).st_size
        if header.end > size:
            raise Unreadable(f"it declares the shape {header.shape}, {header.end:,} bytes, but holds only {size:,}")
        if header.end < size:
            raise Unreadable("more than one array was saved into it; np.savez(path, X=data, y=labels) keeps both")
        return np.memmap(file, header.dtype, "r", header.begin, header.shape, "F" if header.fortran else "C")
