"""Opening data files: regular ones only, none waited for, gzip unpacked whatever they are called."""

from __future__ import annotations

import gzip
import importlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from minivae import processors
from minivae.storage.archives import Unreadable, open_regular, reason

Array = NDArray[Any]
KINDS = "IDX (.idx, *-ubyte), .npy, .npz, .csv, .tsv, .txt, .ts (IDX, text also .gz), .parquet, or a folder of images"


class DataError(ValueError):
    """Data that cannot be used; the message names the offending thing and the fix."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds: array [N, ...] and labels [N] or None as stored, and the part of it that is there for tests.

    notes: lines that the user should be told, of what was decided, converted or left out
    reading: the keywords of `load_dataset` with which another file is read as this one was; plain values, as JSON has them
    suits: settings of VAE that suit the data better than its defaults
    """

    array: Array
    labels: Array | None = None
    notes: tuple[str, ...] = ()
    test: Array | None = None
    test_labels: Array | None = None
    reading: dict[str, Any] = field(default_factory=dict)
    suits: dict[str, Any] = field(default_factory=dict)


def room() -> int:
    """The bytes that the data of one file may take up: half of what this process may have, as a copy is often made."""
    return processors.memory_limit() // 2


def require_room(what: str, needed: int, fix: str, limit: int | None = None) -> None:
    """Raise DataError where data would take up more bytes than a limit, by default `room`."""
    limit = room() if limit is None else limit
    if needed > limit:
        raise DataError(f"{what} {needed:,} bytes, more than the {limit:,} accepted; {fix}")


@contextmanager
def understood(path: Path, kind: str) -> Iterator[None]:
    """Whatever a library raises for a damaged file, and it raises many types, is a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot read {path} as {kind} ({reason(error)}); save or copy it again") from error


def library(module: str, what: str, fix: str) -> Any:
    """A module of a package that only some work needs. Raises DataError saying which work, and the fix."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(f"{what} needs {fix}") from error


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacking gzip whatever the file is called; read errors become DataError."""
    try:
        with open_regular(path) as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            yield gzip.GzipFile(fileobj=raw) if packed else raw  # type: ignore[misc]  # it has all that is used here
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
    except Unreadable as error:
        raise DataError(f"{path} cannot be read: {error}; pass a file") from error
    except OSError as error:  # gzip.BadGzipFile is one of these
        raise DataError(f"cannot read {path} ({error.strerror or error}); check it or copy it again") from error
