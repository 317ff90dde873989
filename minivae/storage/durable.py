"""Files that are written all or not at all, whatever happens to the process, the disk or the machine.

A file that is being written is called .minivae-PID-... and lies in the same folder, so that a rename puts it in its place.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".minivae-"


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any]) -> None:
    """Call write(file) on a temporary file beside `path`, bring it to disk, and rename it to `path`.

    A reader, or a machine that loses power, finds the old file or the new one, never half of one. A link stays, and what it
    leads to is replaced; a device or a pipe is not. An OSError names `path`.
    """
    path = place_of(path)
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(8)}"
    try:
        # as readable as any other file of this user; mkstemp would make it private, and asking for the umask is not safe
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the folder may be gone; what is told is why nothing was written
                os.unlink(temporary)
            raise
        sync_folder(path.parent)  # the rename itself
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def place_of(path: str | Path) -> Path:
    """Where a file of this name goes. Raises OSError where that is no place for one."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is no regular file, and stays as it is; choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}, where {path.name} should go, is not a folder; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{path.parent}, where {path.name} should go, cannot be written to; choose another folder"
        )
    return path


def sync_folder(folder: Path) -> None:
    """Bring to disk which names a folder holds, where the system can: not Windows, nor where one may not list them."""
    if os.name == "posix" and os.access(folder, os.R_OK):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)
