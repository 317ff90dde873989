"""Arrays as libraries write them: which of a .npz are the data, their labels and test part; and which are pictures."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.opening import Array, DataError, Stored, library, require_room, room, understood
from minivae.storage.archives import Archive, Header, open_regular

# The first that is there; "" is `train` alone.
DATA = ("x", "images", "imgs", "data", "features", "inputs", "arr_0", "")
LABELS = ("y", "labels", "label", "targets", "target", "classes", "class")
_PART = re.compile(r"_?(train|test|val|dev)(?:ing|id|idation)?_?")  # as in x_train, train_images, Xtrain


def _role(name: str) -> tuple[str, str]:
    """The part that an array's name says it is of, and what is left of the name."""
    part = _PART.search(name.lower())
    return (part[1], name.lower().replace(part[0], "", 1)) if part else ("", name.lower())


def read_npz(path: Path, array: str | None = None, **_: Any) -> Stored:
    """Read the data of a .npz file, and their labels and test part where it has them, by the names that are usual.

    array: the name of the data, where these do not tell. Arrays that are not read may hold anything. What
    scipy.sparse.save_npz wrote is a CSR matrix. Raises DataError for an archive that is damaged, pickled or too large, in
    which no array or more than one can be the data, or whose labels do not fit them.
    """
    with understood(path, "a NumPy file"), open_regular(path) as file:
        archive = Archive(file, deflated=True)
        if {"format", "shape", "data"} <= archive.members.keys():
            return Stored(_sparse(path, archive))
        headers = {name: _header(archive, name) for name in archive.members}
        names = _chosen(path, headers, array)
        _fits(path, archive, names)
        held = [None if name is None else archive.read(name) for name in names]
    told = "" if names[1] is None else f", their labels {names[1]}"
    notes = [f"the data are {names[0]}{told}"] if len(headers) > 1 else []
    for part in (0, 2):
        held[part + 1], note = _told(path, names[part], held[part], names[part + 1], held[part + 1])
        notes += note
    left = [shown(name, headers[name]) for name in headers if name not in names]
    notes += [f"left out of {path.name}: {', '.join(left)[:300]}"] if left else []
    data, labels, test, test_labels = held
    assert data is not None
    return Stored(data, labels, tuple(notes), test, test_labels, {} if array is None else {"array": array})


def _header(archive: Archive, name: str) -> Header | None:
    try:
        return archive.header(name)
    except Exception:  # whoever needs it meets this again
        return None


def shown(name: str, header: Header | None) -> str:
    return f"{name[:80]} {'(no plain numbers)' if header is None else list(header.shape)}"


def _fits(path: Path, archive: Archive, names: Any, more: int = 0) -> None:
    needed = more + sum(archive.header(name).end for name in names if name is not None)
    require_room(f"{path} unpacks to", needed, "store it as .npy")


def _chosen(path: Path, headers: dict[str, Header | None], array: str | None) -> list[str | None]:
    """The names of the data, their labels, the test part and its labels."""
    roles = {name: _role(name) for name in headers}

    def named(part: str, words: tuple[str, ...]) -> str | None:
        return next((name for word in words for name in roles if roles[name] == (part, word)), None)

    data = array if array in headers else None
    if array is None:
        right = {name: word for name, (part, word) in roles.items() if part in ("", "train") and word in DATA}
        others = [name for name in headers if roles[name][1] not in LABELS]
        tables = [name for name in others if (h := headers[name]) and len(h.shape) > 1 and h.dtype.kind in "biuf"]
        sole = next((one[0] for one in (others, tables) if len(one) == 1), None)
        data = min(right, key=lambda name: DATA.index(right[name]), default=sole)
    if data is None:
        held = ", ".join(shown(name, header) for name, header in headers.items())[:300]
        wrong = "the arrays" if array is None else f"no array {array!r}, but"
        raise DataError(
            f"{path} holds {wrong} {held or '(none)'}; choose the data with --array NAME (array=NAME), or name them X, for "
            "example np.savez(path, X=data, y=labels)"
        )
    part, word = roles[data]
    labels, first, second = named(part, LABELS), headers[data], headers.get("arr_1")
    if data == "arr_0" and first and second and second.shape in (first.shape[:1], (*first.shape[:1], 1)):
        labels = "arr_1"
    test = named("test", (word,)) if array is None and part != "test" else None
    if first and test and (other := headers[test]) and other.shape[1:] != first.shape[1:]:
        test = None
    return [data, labels if labels != data else None, test, None if test is None else named("test", LABELS)]


def _told(
    path: Path, data_name: str | None, data: Array | None, name: str | None, labels: Array | None
) -> tuple[Array | None, list[str]]:
    """Labels as one for each row, and what has been done to them."""
    if labels is None or data is None:
        return None, []
    n = data.shape[:1]
    if labels.shape == (*n, 1):
        labels = labels[:, 0]
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.shape == n:
        return labels, []
    if labels.shape[:1] != n:
        shapes = f"the labels {name} have shape {labels.shape} but {data_name} has {data.shape}"
        raise DataError(f"{path}: {shapes}; store one label per row, or leave {name} out")
    coded = labels.ndim == 2 and labels.dtype.kind in "biuf"
    if coded and bool(((labels != 0).sum(1) == 1).all() & (labels.max(1) == 1).all()):
        return labels.argmax(1), [f"{name} is one-hot: the label is the column of the 1"]
    return None, [f"{name} has more than one label for each row, {list(labels.shape)}, and is left out"]


def _sparse(path: Path, archive: Archive) -> Any:
    """What scipy.sparse.save_npz wrote, as a CSR matrix whose indices have been checked."""
    _fits(path, archive, ("format", "shape"))
    kind, shape = str(archive.read("format").item()).strip("b'"), tuple(archive.read("shape").tolist())
    parts = {"csr": ("indices", "indptr"), "csc": ("indices", "indptr"), "coo": ("row", "col")}.get(kind)
    if parts is None or len(shape) != 2:
        raise DataError(f"{path} is a sparse matrix stored as {kind[:20]}; save its .tocsr() instead")
    _fits(path, archive, ("data", *parts, *parts), more=8 * max(shape[0], 0))  # and what becomes of it
    sparse = library("scipy.sparse", f"reading the sparse matrix {path}", "SciPy: pip install scipy")
    data, first, second = (archive.read(name) for name in ("data", *parts))
    where = (data, (first, second)) if kind == "coo" else (data, first, second)
    matrix = getattr(sparse, f"{kind}_matrix")(where, shape=shape)
    if kind != "coo":
        matrix.check_format(full_check=True)
    return matrix.tocsr()


def pictures_in(path: Path, stored: Stored) -> Stored:
    """Arrays of pictures as they are drawn, [N, H, W] or [N, H, W, 3]; others as they are, but for axes of length 1.

    [N, 3, H, W] becomes [N, H, W, 3], in memory, where H and W leave no doubt. Raises DataError where that is too large,
    and for uint8 [N, H, W, 4], as nothing says whether the fourth is how opaque they are.
    """
    shape = stored.array.shape
    if len(shape) < 3 or 0 in shape:
        return stored
    each = [size for size in shape[1:] if size > 1] or [1]
    array, test, notes = stored.array.reshape(-1, *each), stored.test, stored.notes
    test, shape = None if test is None else test.reshape(-1, *each), array.shape
    if len(shape) == 4 and shape[1] == 3 and 3 not in shape[2:]:
        if isinstance(array, np.memmap) and array.nbytes > room():
            raise DataError(
                f"{path} holds pictures of shape {shape[1:]}, too many for memory; save np.moveaxis(X, 1, -1), with their "
                "colours last, or X.reshape(len(X), -1) if they are none"
            )
        array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        test = None if test is None else np.ascontiguousarray(np.moveaxis(test, 1, -1))
        notes = (*notes, f"pictures of shape {shape[1:]} are read as {(*shape[2:], 3)}, with their colours last")
    elif len(shape) == 4 and shape[3] == 4 and array.dtype == np.uint8:
        raise DataError(
            f"{path} holds pictures of shape {shape[1:]}; if the fourth is how opaque they are, lay them on white, "
            "a = X[..., 3:] / 255; X[..., :3] * a + 255 * (1 - a), else save X.reshape(len(X), -1)"
        )
    return replace(stored, array=array, test=test, notes=notes)
