"""A disk that is watched: what is asked of it, what a loss of power would leave of that, and failures and kills on demand.

Disk(root) stands before the functions of `os` through which minivae writes, for paths below `root`. It keeps every call as
an operation on a model of a file system in which nothing is sure before it is synced: data stay in memory until their file
is, and a name, new, moved or gone, until its folder is (for a move: the folder moved to), each alone and in any order.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
ROOT = 0  # the number of the folder that is watched; every file and folder has one, as inodes have
State = frozenset  # of (path below root, content; None for a folder)


def nothing(*_: Any) -> None:
    """Fails never."""


class Killed(BaseException):
    """The process is no more: no handler of errors runs any further call."""


class Raw(io.FileIO):
    """A file whose writes are watched. One that fails has written half of what it was given, as on a disk that is full."""

    def __init__(self, disk: Disk, handle: int, path: Path) -> None:
        super().__init__(handle, "wb")
        self.disk, self.path = disk, path
        disk.opened.pop(handle, None)  # closed by this object from here on

    def write(self, data: Any) -> int:
        data = bytes(data)
        if self.disk.dead:
            return len(data)
        try:
            self.disk.ask("write", self.path)
        except BaseException:
            super().write(data[: len(data) // 2])
            raise
        super().write(data)
        if not self.disk.disturbed:
            self.disk.wrote(self.path)
        return len(data)


class Disk:
    """See above. fails(number of the call, its name, its path) may return an exception, which the call then raises."""

    def __init__(self, root: Path, fails: Callable[[int, str, Path], BaseException | None] = nothing) -> None:
        self.root, self.fails, self.disturbed = Path(os.path.realpath(root)), fails, fails is not nothing
        self.calls: list[tuple[str, Path]] = []
        self.operations: list[tuple[Any, ...]] = []
        self.dead = False
        self.opened: dict[int, Path] = {}  # what would stay open if the process were killed
        self.paths: dict[int, Path] = {}
        self.numbers = itertools.count(1)
        self.content: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, int]] = {}
        self.snapshot(self.root, ROOT)
        self.start = ({n: dict(names) for n, names in self.folders.items()}, dict(self.content))

    def snapshot(self, folder: Path, number: int) -> None:
        names = self.folders[number] = {}
        for path in sorted(folder.iterdir()):
            names[path.name] = inner = next(self.numbers)
            if path.is_dir():
                self.snapshot(path, inner)
            else:
                self.content[inner] = path.read_bytes()

    # ---- Standing before `os`

    def __enter__(self) -> Disk:
        names = ("open", "fdopen", "fsync", "write", "replace", "rename", "unlink", "mkdir", "rmdir", "close")
        self.real = {name: getattr(os, name) for name in names}
        self.real_open, self.by_handle = builtins.open, shutil._use_fd_functions
        shutil._use_fd_functions = False  # rmtree by path
        for name in names:
            setattr(os, name, getattr(self, name))
        builtins.open = self.open_file
        return self

    def __exit__(self, *_: object) -> None:
        builtins.open, shutil._use_fd_functions = self.real_open, self.by_handle
        for name, function in self.real.items():
            setattr(os, name, function)
        for handle in self.opened:  # of a process that was killed: its locks go with it
            os.close(handle)

    def below(self, path: Any) -> Path | None:
        path = Path(os.path.realpath(Path(path).parent)) / Path(path).name
        return path if path.is_relative_to(self.root) else None

    def ask(self, name: str, path: Path) -> None:
        if self.dead:
            raise Killed
        self.calls.append((name, path))
        if error := self.fails(len(self.calls) - 1, name, path):
            self.dead = isinstance(error, Killed)
            raise error

    def open(self, path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        place = self.below(path)
        reading = not flags & (os.O_WRONLY | os.O_RDWR) and not os.path.isdir(path)
        if place is None or reading:
            handle = self.real["open"](path, flags, mode, **rest)
            self.paths.pop(handle, None)
            return handle
        new = not place.exists()
        self.ask("open", place)
        handle = self.real["open"](path, flags, mode, **rest)
        self.opened[handle] = self.paths[handle] = place
        if new:
            self.link(place)
        return handle

    def close(self, handle: int) -> None:
        if not self.dead or handle not in self.opened:
            self.opened.pop(handle, None)
            self.real["close"](handle)

    def fdopen(self, handle: int, mode: str, *rest: Any, **more: Any) -> Any:
        if handle not in self.opened:
            return self.real["fdopen"](handle, mode, *rest, **more)
        return io.BufferedWriter(Raw(self, handle, self.opened[handle]))

    def open_file(self, path: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
        place = None if isinstance(path, int) else self.below(path)
        if place is None or mode != "a":
            return self.real_open(path, mode, *rest, **more)
        self.ask("open", place)
        handle = self.real["open"](path, os.O_WRONLY | os.O_APPEND)
        return io.TextIOWrapper(io.BufferedWriter(Raw(self, handle, place)), newline=more.get("newline"))

    def write(self, handle: int, data: bytes) -> int:
        if handle in self.opened:
            self.ask("write", self.opened[handle])
        return self.real["write"](handle, data)

    def fsync(self, handle: int) -> None:
        if (place := self.paths.get(handle)) is not None:
            self.ask("fsync", place)
            self.operations.append(("fsync", self.number(place)))
        else:
            self.real["fsync"](handle)

    def replace(self, source: Any, target: Any) -> None:
        self.move("replace", source, target)

    def rename(self, source: Any, target: Any) -> None:
        self.move("rename", source, target)

    def move(self, name: str, source: Any, target: Any) -> None:
        old, new = self.below(source), self.below(target)
        if new is None:
            return self.real[name](source, target)
        self.ask(name, new)
        self.real[name](source, target)
        number = self.folders[self.number(old.parent)].pop(old.name)
        self.folders[self.number(new.parent)][new.name] = number
        self.operations.append(("move", self.number(new.parent), new.name, number, self.number(old.parent), old.name))

    def unlink(self, path: Any, **rest: Any) -> None:
        self.remove("unlink", path, **rest)

    def rmdir(self, path: Any, **rest: Any) -> None:
        self.remove("rmdir", path, **rest)

    def remove(self, name: str, path: Any, **rest: Any) -> None:
        place = self.below(path)
        if place is not None:
            self.ask(name, place)
        self.real[name](path, **rest)
        if place is not None:
            number = self.folders[self.number(place.parent)].pop(place.name)
            self.operations.append((name, self.number(place.parent), place.name, number))

    def mkdir(self, path: Any, mode: int = 0o777, **rest: Any) -> None:
        place = self.below(path)
        if place is not None and not place.exists():
            self.ask("mkdir", place)
        self.real["mkdir"](path, mode, **rest)
        if place is not None:
            self.folders[self.link(place)] = {}

    # ---- What happened

    def number(self, path: Path) -> int:
        found = ROOT
        for name in path.relative_to(self.root).parts:
            found = self.folders[found][name]
        return found

    def link(self, place: Path) -> int:
        number = next(self.numbers)
        self.folders[self.number(place.parent)][place.name] = number
        self.operations.append(("link", self.number(place.parent), place.name, number))
        return number

    def wrote(self, path: Path) -> None:
        with self.real_open(path, "rb") as file:
            found = ("data", self.number(path), file.read())
        if self.operations and self.operations[-1][:2] == found[:2]:
            self.operations.pop()
        self.operations.append(found)

    def mark(self, what: Any) -> None:
        """Remember that something is promised from here on."""
        self.operations.append(("mark", what))

    # ---- What is left of it

    def losses(self, rng: random.Random) -> Iterator[tuple[State, Any]]:
        """The states that a loss of power may leave, at any moment, and what was promised last. Each pair once."""
        seen = set()
        for end in range(len(self.operations) + 1):
            done = self.operations[:end]
            promised = next((o[1] for o in reversed(done) if o[0] == "mark"), None)
            for state in self.crash(done, rng):
                if (state, promised) not in seen:
                    seen.add((state, promised))
                    yield state, promised

    def crash(self, done: list[tuple[Any, ...]], rng: random.Random) -> Iterator[State]:
        last = {o[1]: i for i, o in enumerate(done) if o[0] == "fsync"}
        synced, memory = dict(self.start[1]), dict(self.start[1])
        for i, (name, number, *rest) in enumerate(done):
            if name == "data":
                memory[number] = rest[0]
                if i < last.get(number, -1):
                    synced[number] = rest[0]
        kinds = ("link", "move", "unlink", "rmdir", "mkdir")
        names = [(i, o) for i, o in enumerate(done) if o[0] in kinds]
        loose = [i for i, o in names if i > last.get(o[1], -1)]
        half = {n: data if synced.get(n) == data else data[: len(data) // 2] for n, data in memory.items()}
        for lost in subsets(loose, rng):
            folders = self.tree([o for i, o in names if i not in lost])
            for content in (synced, half, memory):
                yield frozenset(walk(folders, content))

    def tree(self, operations: list[tuple[Any, ...]]) -> dict[int, dict[str, int]]:
        folders: dict[int, dict[str, int]] = {n: dict(names) for n, names in self.start[0].items()}
        for kind, folder, name, number, *source in operations:
            inside = folders.setdefault(folder, {})
            if kind in ("link", "move"):
                inside[name] = number
                if number in self.folders:
                    folders.setdefault(number, {})
            elif inside.get(name) == number and not (kind == "rmdir" and folders.get(number)):
                del inside[name]
            if source and folders.setdefault(source[0], {}).get(source[1]) == number:
                del folders[source[0]][source[1]]
        return folders


def subsets(loose: list[int], rng: random.Random) -> Iterator[set[int]]:
    """What may be lost of so many operations: any; of many, each alone, all but each, all after each, some at random."""
    if len(loose) <= 4:
        for size in range(len(loose) + 1):
            yield from map(set, itertools.combinations(loose, size))
        return
    yield set()
    yield set(loose)
    for i, one in enumerate(loose):
        yield {one}
        yield set(loose) - {one}
        yield set(loose[i:])
    for _ in range(8):
        yield {i for i in loose if rng.random() < 0.5}


def walk(
    folders: dict[int, dict[str, int]], content: dict[int, bytes], number: int = ROOT, above: str = ""
) -> Iterator[tuple[str, bytes | None]]:
    for name, inner in folders[number].items():
        if inner in folders:
            yield above + name, None
            yield from walk(folders, content, inner, f"{above}{name}/")
        else:
            yield above + name, content.get(inner, b"")


def materialise(state: State, root: Path) -> None:
    """These files and folders, in an empty or a new folder."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, data in sorted(state, key=lambda entry: entry[0]):
        if data is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(data)


def files(root: Path, but: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Every file below `root` with its content."""
    found = {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in but}
