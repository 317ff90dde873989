"""A run folder belongs to one process at a time, and a new run takes the place of an old one as a whole.

RUN/.lock    held by who writes here, through the system, so that it ends with its process; its text says who that is
RUN/.new/    a run that trains where an older one is, which stays usable meanwhile
RUN/.done/   the same once it is complete. The rename is the moment at which it becomes the run of this folder: who reads
             takes a file from here first, and who comes next goes on where a killed process was in moving it up
RUN/.moving/ the same once nothing of the run before it is left: what is not in here any more has been moved up
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
from itertools import count
from pathlib import Path

from minivae.progress import say
from minivae.storage.durable import TEMPORARY, sync_folder

MODEL, CHECKPOINT, HISTORY, CONFIG, FIGURES = "model.npz", "checkpoint.npz", "history.csv", "config.json", "figures"
_ON_A_PLANE = ("latent", "posterior", "manifold")
FIGURE_NAMES = ("loss", "reconstructions", "samples", "scores", "kl", *_ON_A_PLANE, "traversals", "interpolations")
FILES = (MODEL, CHECKPOINT, HISTORY, CONFIG, *(f"{FIGURES}/{name}.png" for name in FIGURE_NAMES))
LOCK, NEW, DONE, MOVING = ".lock", ".new", ".done", ".moving"


class Busy(OSError):
    """Another process writes to this folder."""


class Folder:
    """A run folder that this process holds. `place` is where a run in training belongs: the folder, or .new inside it."""

    def __init__(self, path: Path) -> None:
        """Create and lock it. Raises OSError, Busy among them, naming the folder."""
        self.path, self.place = path, path
        self.made: list[Path] = []
        self.before: list[int] = []
        try:
            self._make()
            self.handle = lock(path)
        except FileExistsError as error:
            raise FileExistsError(f"{path} is a file; choose another folder") from error
        except Busy:
            raise
        except OSError as error:
            self._unmake()
            raise OSError(f"{path} cannot be written to ({error.strerror}); choose another folder") from error
        try:
            finish(path)
        except BaseException:
            self.close()
            raise
        for folder in (path, path / FIGURES, path / NEW, path / NEW / FIGURES):
            remove_stale(folder)

    def _make(self) -> None:
        """The folder and those it lies in, on disk."""
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]  # the innermost first
        self.path.mkdir(parents=True, exist_ok=True)
        self.made = made
        for folder in made:
            sync_folder(folder.parent)

    def hold(self) -> None:
        """See that it is there and still held: it may have been removed, and be another's by now. Raises OSError."""
        if not holds(self.path, self.handle):
            self._make()
            handle = lock(self.path)
            if (self.path / MODEL).exists():
                release(self.path, handle)
                raise FileExistsError(f"{self.path} was removed while this run trained, and holds another one now")
            self.before.append(self.handle)  # the folder may have been renamed, and is ours there too
            self.handle = handle
        if not self.place.exists():
            self.place.mkdir()
            sync_folder(self.path)

    def occupied(self) -> str:
        """What a new run would replace: "a model", "an unfinished run", or nothing."""
        if (self.path / MODEL).exists():
            return "a model"
        return "an unfinished run" if any((p / CHECKPOINT).exists() for p in (self.path, self.path / NEW)) else ""

    def begin(self) -> None:
        """Make room for a new run. One that is there stays as it is until `publish`."""
        if self.occupied():
            self.place = self.path / NEW
            if self.place.exists():
                say(f"an unfinished run in {self.place}, which --resume would go on with, makes room")
                shutil.rmtree(self.place)
            self.hold()
        else:
            for name in (CONFIG, HISTORY):  # of a run that never had a model
                (self.path / name).unlink(missing_ok=True)

    def again(self) -> None:
        """Turn to the run that was cut short here: the newer one, if there are two."""
        self.place = self.path / NEW if (self.path / NEW / CHECKPOINT).exists() else self.path

    def publish(self) -> None:
        """The run is complete: it becomes the one of this folder."""
        if self.place != self.path:
            sync_folder(self.place)
            if (self.path / DONE).exists():  # of a copy that was cut short
                shutil.rmtree(self.path / DONE)
            os.rename(self.place, self.path / DONE)
            sync_folder(self.path)
            finish(self.path)
            self.place = self.path

    def close(self) -> None:
        """Let go of it; a folder made for nothing goes as well."""
        if self.place != self.path and not (self.place / CHECKPOINT).exists():
            shutil.rmtree(self.place, ignore_errors=True)
        release(self.path, self.handle)
        for handle in self.before:
            os.close(handle)
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
        for number in count(1):
            path = Path("runs") / (_stem(name) + f"-{number}" * (number > 1))
            with suppress(Busy):  # by a run that began at this moment
                if not path.exists():
                    folder = Folder(path)
                    if path in folder.made and not folder.occupied():
                        return folder
                    folder.close()
    if out is not None and not out.strip():
        raise ValueError("--out is empty; name a folder, or leave it out")
    folder = Folder(Path(out).expanduser() if out is not None else Path("runs") / _stem(name))
    if (what := folder.occupied()) and not overwrite:
        folder.close()
        fix = "go on with it by --resume" if what != "a model" else "choose another --out"
        raise FileExistsError(f"{folder.path} already holds {what}; {fix} or pass --overwrite")
    try:
        folder.begin()
    except BaseException:
        folder.close()
        raise
    return folder


def _stem(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(name).stem).strip(".") or "run"


def current(folder: Path, name: str) -> Path:
    """Where a file of the folder's run lies."""
    places = [folder / DONE] * is_whole(folder / DONE) + [folder / MOVING, folder]
    return next((place / name for place in places if (place / name).exists()), folder / name)


def is_whole(done: Path) -> bool:
    """Whether this is a run that was completed: a copy of a folder may have been cut short."""
    return (done / MODEL).is_file()


def finish(folder: Path) -> None:
    """Move up a complete run, after what is left of the one before it has gone. Whatever ends this, the next goes on."""
    done, moving = folder / DONE, folder / MOVING
    if is_whole(done):
        for name in FILES:
            if not (done / name).exists():
                (folder / name).unlink(missing_ok=True)
        for place in filter(Path.is_dir, (folder / FIGURES, folder)):
            sync_folder(place)
        os.rename(done, moving)
        sync_folder(folder)
    if moving.is_dir():
        for name in FILES:
            if (moving / name).exists():
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(moving / name, folder / name)
        for place in filter(Path.is_dir, (folder / FIGURES, folder)):
            sync_folder(place)
        shutil.rmtree(moving)


def remove_stale(folder: Path) -> None:
    """Delete what processes that are no more were writing here."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError, ValueError, OverflowError):  # the name may be anybody's
            process = int(path.name.removeprefix(TEMPORARY).split("-")[0])
            try:
                if os.name == "posix":
                    os.kill(process, 0)
                # the number may be another's by now, or this one's: in a container it is the same each time
                if process == os.getpid() or time.time() - path.stat().st_mtime > 3600:
                    path.unlink()
            except ProcessLookupError:
                path.unlink()


def lock(folder: Path) -> int:
    """Hold the folder's lock, and return its handle. Raises Busy, naming who holds it."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(handle)
            if holds(folder, handle):  # else who held it before has just deleted it
                os.ftruncate(handle, 0)
                since = time.strftime("%Y-%m-%d %H:%M:%S")
                who = f"process {os.getpid()} on {socket.gethostname()} since {since}: {' '.join(sys.argv)[:200]}"
                os.write(handle, who.encode(errors="replace"))
                return handle
        except BlockingIOError:
            who = os.pread(handle, 1000, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(handle)
            raise Busy(
                f"{folder} is being written to by {who or 'another process'}; wait for it, or choose another, as each "
                "run needs its own"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def holds(folder: Path, handle: int) -> bool:
    """Whether this is the folder's lock, and not one that was deleted."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(folder / LOCK))
    return False


def release(folder: Path, handle: int) -> None:
    with suppress(OSError):
        if holds(folder, handle):
            os.unlink(folder / LOCK)
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
