"""The one reader of .npz and .npy: what a file says is held against the file's own length before memory is taken for it.

zipfile and numpy.lib.format do the parsing; how much they may read at once, and what they may find, is bounded here. They
raise many types for a damaged file: whoever calls catches Exception, says `reason` of it, and names the file.
"""

from __future__ import annotations

import io
import math
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

PIECE = 2**20  # bytes read at a time, and so the longest list of members: some 10,000 of them
HEADER = 4096  # bytes of the longest header of an array, which is 128 for almost all
DEFLATE = 1100  # bytes that one deflated byte can become, rounded up
KINDS = "biufcSUmM"  # of dtypes: all that are plain values


class Unreadable(ValueError):
    """The file is not what it should be. The message says in what way, as a part of a sentence that names the file."""


def reason(error: Exception) -> str:
    """An exception in one line of at most 300 characters."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text[:1000].split())[:300] or type(error).__name__


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading. A folder, pipe, socket or device is Unreadable, and is not waited for. Raises OSError."""
    flags = [getattr(os, name, 0) for name in ("O_BINARY", "O_NONBLOCK", "O_NOCTTY")]
    handle = os.open(path, os.O_RDONLY | sum(flags))
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise Unreadable("it is a folder, pipe or device, not a regular file")
    return os.fdopen(handle, "rb")


class Header(NamedTuple):
    """What an array is, and where in its file its values begin and end."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    begin: int
    end: int


def read_header(file: IO[bytes]) -> Header:
    """The header of a .npy file, which is then at its values. Raises Unreadable, or what NumPy raises."""
    start = file.read(12)
    short = start[6:8] == b"\1\0"
    if start[:6] != npy.MAGIC_PREFIX or not (short or start[6:8] == b"\2\0"):
        raise Unreadable("it holds something that does not begin as an array does")
    length = int.from_bytes(start[8 : 10 if short else 12], "little")
    if not 4 <= length <= HEADER:
        raise Unreadable(f"the header of an array has {length:,} bytes, and {HEADER:,} are accepted")
    begin = length + (10 if short else 12)
    text = io.BytesIO(start + file.read(begin - 12))
    npy.read_magic(text)
    shape, fortran, dtype = (npy.read_array_header_1_0 if short else npy.read_array_header_2_0)(text)
    if dtype.hasobject:
        raise Unreadable("it holds Python objects (pickled data), which are never loaded: plain numbers are")
    if dtype.kind not in KINDS or not dtype.itemsize:
        raise Unreadable(f"an array has dtype {dtype}, which is no plain number")
    if any(type(n) is not int or n < 0 for n in shape):  # True is an int to NumPy
        raise Unreadable(f"an array has the shape {shape}")
    return Header(dtype, shape, bool(fortran), begin, begin + math.prod(shape) * dtype.itemsize)


class _Pieces(io.FileIO):
    """A file of which nobody gets more than a piece at a time: not zipfile either, for the directory of an archive."""

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(PIECE + 1 if size is None or size < 0 else min(size, PIECE + 1))
        if len(piece) > PIECE:
            raise Unreadable(f"its list of members is longer than {PIECE:,} bytes")
        return piece


class Archive:
    """The arrays of an open .npz by name. Raises Unreadable, or what zipfile raises, before anything is unpacked.

    Their members lie inside the file, do not overlap, and each name is there once. deflated: whether they may be.
    """

    def __init__(self, file: IO[bytes], deflated: bool = False) -> None:
        raw = _Pieces(file.fileno(), closefd=False)
        self._methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if deflated else (zipfile.ZIP_STORED,)
        self._zip, self.members, end = zipfile.ZipFile(raw), dict[str, zipfile.ZipInfo](), 0
        for info in sorted(self._zip.infolist(), key=lambda info: info.header_offset):
            name = info.filename.removesuffix(".npy")
            raw.seek(info.header_offset)
            start = raw.tell() + 30 + sum(struct.unpack("<HH", raw.read(30)[26:]))  # lengths of name and extra field
            if name in self.members or info.header_offset < end:
                raise Unreadable(f"the member {name[:80]!r} is there twice, or lies over another")
            end = start + info.compress_size
            self.members[name] = info
        if end > os.fstat(file.fileno()).st_size:
            raise Unreadable("a member ends beyond the end of the file")

    def _open(self, name: str) -> IO[bytes]:
        info = self.members[name]
        if info.compress_type not in self._methods or info.flag_bits & 0x61:  # encrypted, or a patch
            raise Unreadable(f"the member {name[:80]!r} is compressed or encrypted")
        stored = info.compress_type == zipfile.ZIP_STORED
        if (info.file_size != info.compress_size) if stored else info.file_size > DEFLATE * (info.compress_size + 1):
            raise Unreadable(f"the member {name[:80]!r} cannot have the length that it declares")
        return self._zip.open(info)

    def header(self, name: str) -> Header:
        """What the array is, which takes up its member to the last byte."""
        with self._open(name) as member:
            header = read_header(member)
        if header.end != self.members[name].file_size:
            raise Unreadable(
                f"{name[:80]} has the shape {header.shape} and {self.members[name].file_size:,} bytes, not {header.end:,}"
            )
        return header

    def read(self, name: str) -> np.ndarray:
        """The array, its checksum compared by zipfile with the last piece. Memory is taken for what `header` says of it."""
        header = self.header(name)
        array = np.empty(math.prod(header.shape), header.dtype)
        self._fill(array.view(np.uint8).data, name, header.begin)
        return array.reshape(header.shape, order="F" if header.fortran else "C")

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a member that is no array, uint8 [n]."""
        if name not in self.members:
            raise Unreadable(f"it has no member {name[:80]!r}")
        array = np.empty(self.members[name].file_size, np.uint8)
        self._fill(array.data, name)
        return array

    def _fill(self, view: memoryview, name: str, begin: int = 0) -> None:
        with self._open(name) as member:
            member.read(begin)
            for place in range(0, len(view), PIECE):
                piece = member.read(min(PIECE, len(view) - place))
                view[place : place + len(piece)] = piece
                if not piece:
                    raise Unreadable(f"{name[:80]} is cut short")
