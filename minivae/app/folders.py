"""A run folder belongs to one process at a time, and a new run takes the place of an old one as a whole.

RUN/.lock    held by who writes here, through the system, so that it ends with its process; its text says who that is
RUN/.new/    a run that trains where an older one is, which stays usable meanwhile
RUN/.done/   the same once it is complete. The rename is the moment at which it becomes the run of this folder: who reads
             takes a file from here first, and who comes next moves up what a killed process left
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from minivae.durable import TEMPORARY, sync_folder
from minivae.progress import say

MODEL, CHECKPOINT, HISTORY, CONFIG, FIGURES = "model.npz", "checkpoint.npz", "history.csv", "config.json", "figures"
FIGURE_NAMES = ("loss", "reconstructions", "samples", "kl", "latent", "manifold", "traversals", "interpolations")
FILES = (MODEL, CHECKPOINT, HISTORY, CONFIG, *(f"{FIGURES}/{name}.png" for name in FIGURE_NAMES))
LOCK, NEW, DONE, CLEARED = ".lock", ".new", ".done", ".cleared"


class Busy(OSError):
    """Another process writes to this folder."""


class Folder:
    """A run folder that this process holds. `place` is where a run in training belongs: the folder, or .new inside it."""

    def __init__(self, path: Path) -> None:
        """Create and lock it. Raises OSError, Busy among them, naming the folder."""
        self.path, self.place = path, path
        self.made = [p for p in (path, *path.parents) if not p.exists()]  # the innermost first
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.handle = lock(path)
        except FileExistsError as error:
            raise FileExistsError(f"{path} is a file; choose another --out") from error
        except Busy:
            raise
        except OSError as error:
            self._unmake()
            raise OSError(f"{path} cannot be written to ({error.strerror}); choose another --out") from error
        finish(path)
        for folder in (path, path / FIGURES, path / NEW, path / NEW / FIGURES):
            remove_stale(folder)

    def occupied(self) -> str:
        """What a new run would replace: "a model", "an unfinished run", or nothing."""
        if (self.path / MODEL).exists():
            return "a model"
        return "an unfinished run" if any((p / CHECKPOINT).exists() for p in (self.path, self.path / NEW)) else ""

    def begin(self) -> None:
        """Make room for a new run. One that is there stays as it is until `publish`."""
        if self.occupied():
            self.place = self.path / NEW
            shutil.rmtree(self.place, ignore_errors=True)
            self.place.mkdir()
        else:
            for name in (CONFIG, HISTORY):  # of a run that never had a model
                (self.path / name).unlink(missing_ok=True)

    def again(self) -> None:
        """Turn to the run that was cut short here: the newer one, if there are two."""
        self.place = self.path / NEW if (self.path / NEW / CHECKPOINT).exists() else self.path

    def publish(self) -> None:
        """The run is complete: it becomes the one of this folder."""
        if self.place != self.path:
            os.rename(self.place, self.path / DONE)
            sync_folder(self.path)
            finish(self.path)
            self.place = self.path

    def close(self) -> None:
        """Let go of it; a folder made for nothing goes as well."""
        if self.place != self.path and not (self.place / CHECKPOINT).exists():
            shutil.rmtree(self.place, ignore_errors=True)
        with suppress(OSError):
            os.unlink(self.path / LOCK)
        os.close(self.handle)
        self._unmake()

    def _unmake(self) -> None:
        with suppress(OSError):  # not empty
            for folder in self.made:
                folder.rmdir()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def claim(out: str | None, name: str, overwrite: bool) -> Folder:
    """A folder for a new run: --out, else runs/NAME with the first number that is free. Raises OSError, see Folder."""
    if out is None and not overwrite:
        stem, number = _stem(name), 1
        while True:
            path = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
            with suppress(Busy):  # by a run that began at this moment
                if not path.exists():
                    folder = Folder(path)
                    if path in folder.made and not folder.occupied():
                        return folder
                    folder.close()
            number += 1
    folder = Folder(Path(out) if out is not None else Path("runs") / _stem(name))
    if (what := folder.occupied()) and not overwrite:
        folder.close()
        fix = "go on with it by --resume" if what != "a model" else "choose another --out"
        raise FileExistsError(f"{folder.path} already holds {what}; {fix} or pass --overwrite")
    folder.begin()
    return folder


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(name).stem) or "run"


def current(folder: Path, name: str) -> Path:
    """Where a file of the folder's run lies."""
    return folder / DONE / name if (folder / DONE / name).exists() else folder / name


def finish(folder: Path) -> None:
    """Move up a complete run. What is left of the run before it goes first, once: later it could be the new run's."""
    done = folder / DONE
    if not done.is_dir():
        return
    if not (done / CLEARED).exists():
        for name in FILES:
            if not (done / name).exists():
                (folder / name).unlink(missing_ok=True)
        (done / CLEARED).touch()
        sync_folder(done)
    for name in FILES:
        if (done / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(done / name, folder / name)
    sync_folder(folder)
    shutil.rmtree(done)


def remove_stale(folder: Path) -> None:
    """Delete what processes that are no more were writing here."""
    for path in folder.glob(f"{TEMPORARY}*") if os.name == "posix" else ():
        with suppress(OSError, ValueError):
            try:
                os.kill(int(path.name.removeprefix(TEMPORARY).split("-")[0]), 0)
            except ProcessLookupError:
                path.unlink()


def lock(folder: Path) -> int:
    """Hold the folder's lock, and return its handle. Raises Busy, naming who holds it."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(handle)
            with suppress(FileNotFoundError):  # who held it before has just deleted it
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    os.ftruncate(handle, 0)
                    since = time.strftime("%Y-%m-%d %H:%M:%S")
                    who = f"process {os.getpid()} on {socket.gethostname()} since {since}: {' '.join(sys.argv)[:200]}"
                    os.write(handle, who.encode(errors="replace"))
                    return handle
        except BlockingIOError:
            who = os.pread(handle, 1000, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(handle)
            raise Busy(
                f"{folder} is being written to by {who or 'another process'}; wait for it or choose another"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError as error:
            raise BlockingIOError from error
        return
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        say(f"this file system has no locks ({error.strerror}): do not train twice into one folder")
