"""Named datasets and files as matrices: digits inside the package, MNIST where it lies, your own from a path.

A dataset keeps its stored values: uint8 pixels stay uint8, a .npy file stays on disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data import frames
from minivae.data.checks import as_matrix
from minivae.data.files import KINDS, Array, DataError, read_file, read_idx, read_parquet, table_kind
from minivae.data.schema import Schema, Table, listed, place_of
from minivae.data.tables import describe, described, find, printable, suits
from minivae.data.text import read_table
from minivae.storage.durable import write_atomically

_MAX_DOWNLOAD = 2**26  # bytes; the largest published file has 26 MB
_IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset as stored, one example per row.

    train, test : [N, D] uint8, bool, float32 or float64, perhaps a read-only memory map; test may be None
    train_labels, test_labels : [N] or None
    image_shape : (H, W) or (H, W, C) of a row, or None
    source : citation or path
    notes : lines that a reader of the file should be told: what was decided, converted or left out
    reading : the keywords of `load_dataset` with which another file is read as this one was
    schema : of a table, what its columns are
    suits : settings of VAE that suit the data better than its defaults
    """

    name: str
    train: Array
    test: Array | None
    train_labels: Array | None
    test_labels: Array | None
    image_shape: tuple[int, ...] | None
    source: str
    notes: tuple[str, ...] = ()
    reading: dict[str, Any] = field(default_factory=dict)
    schema: Schema | None = None
    suits: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        test = "" if self.test is None else f" + {len(self.test):,}"
        shape = f", image_shape={self.image_shape}" if self.image_shape else ""
        told = "" if self.train_labels is None else ", labels"
        rows = f"{len(self.train):,}{test} rows of {self.train.shape[1]:,}"
        return f"Dataset({self.name[:40]!r}, {rows} {self.train.dtype}{told}{shape})"

    def described(self) -> tuple[str, ...]:
        """What was read, in a few lines: of a table its columns by kind, what is missing, the label and the first values."""
        return (repr(self),) if self.schema is None else described(self.schema, self.train, self.train_labels)


@dataclass(frozen=True)
class _Known:
    """What is published about a named dataset; `sha256` are those of the unpacked `_IDX_FILES`, in their order."""

    source: str
    licence: str
    rows: tuple[int, int]
    columns: int
    sha256: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()


# fmt: off
_KNOWN = {
    "digits": _Known(
        "Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI, doi 10.24432/C50P49",
        "CC BY 4.0", (1500, 297), 64),
    "mnist": _Known(
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits", "CC BY-SA 3.0", (60000, 10000), 784,
        ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
         "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
         "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
         "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")),
    # Its publisher gives MD5 of the .gz files only. These SHA-256 of the content are stated alike by four independent
    # public projects; those of the two label files were also computed from the publisher's own files.
    "fashion-mnist": _Known(
        "Xiao, Rasul and Vollgraf 2017, Fashion-MNIST, arXiv 1708.07747", "MIT", (60000, 10000), 784,
        ("c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
         "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
         "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
         "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        ("https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
         "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/")),
}
# fmt: on
NAMES = tuple(_KNOWN)


def load_dataset(
    source: Any,
    *,
    download: bool = False,
    label: str | int | None = None,
    drop: Sequence[str] = (),
    columns: Sequence[str] = (),
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    header: bool | None = None,
    schema: Schema | None = None,
    width: int | None = None,
    array: str | None = None,
    resize: Sequence[int] | None = None,
    mode: str | None = None,
    background: int | None = None,
) -> Dataset:
    """Load a dataset by name, or from a file or folder.

    Parameters
    ----------
    source : "digits" (inside the package), "mnist", "fashion-mnist", or a path. A name wins over a file that is called
        the same; write "./mnist" or Path("mnist") for the file. Files of [N, ...] are flattened to [N, D], and
        `image_shape` remembers the rest.
        A data frame of pandas, polars or pyarrow is a table as well.
    download : fetch missing files of "mnist" and "fashion-mnist" into the cache; nothing is downloaded otherwise
    array : name of the array that is the data, of a .npz that holds several
    resize : height and width that pictures are brought to
    mode, background : what pictures are read as, "L" for grey or "RGB", and 255 or 0, white or black, what transparent
        ones are laid on; the set itself decides when None. `Dataset.reading` has what it decided, for other files
    label : the column, by name or by number from 0, that is told or shown, and never trained on; of a .npy by number
    drop, columns : of a table, the columns to leave out, or the only ones to take
    delimiter, encoding, decimal, header : of text, see `minivae.data.text.read_table`
    schema : of a table, what its columns are, as those of the table that a model was trained on: found by name
    width : of an array, the columns that a model reads: one that has no more than these has no label among them

    Raises
    ------
    DataError : unknown name, missing or unreadable file, or data that are not a non-empty numeric [N, ...]
    """
    how: dict[str, Any] = {"delimiter": delimiter, "encoding": encoding, "decimal": decimal, "header": header}
    which = {"label": label, "drop": list(drop), "columns": list(columns)}
    if frames.library(source):
        return _table(_of_frame(source), "frame", "the frame", which, schema)
    if isinstance(source, str) and source in _KNOWN:
        return _load_digits() if source == "digits" else _load_idx(source, download)
    if not isinstance(source, str | os.PathLike):
        raise DataError(
            f"a dataset has a name or a path, or is a data frame, not {type(source).__name__}; fit takes arrays"
        )
    path = Path(os.path.expanduser(source))
    if not str(source).strip() or "\0" in str(source) or not path.exists():
        import difflib

        close = difflib.get_close_matches(str(source).lower(), _KNOWN, 1)
        raise DataError(
            f"there is no dataset or file named {str(source)!r}; {f'did you mean {close[0]!r}? ' if close else ''}"
            f"pass one of the names {', '.join(_KNOWN)}, or a path to: {KINDS}"
        )
    if (kind := table_kind(path)) and path.is_file():
        rows = read_table(path, **how, schema=schema) if kind == "text" else _of_frame(read_parquet(path))
        dataset = _table(rows, path.name, str(path), which, schema)
        given = which | (how if kind == "text" else {})
        return replace(dataset, reading={**rows.reading, **{n: v for n, v in given.items() if v not in (None, [])}})
    stored = read_file(path, array=array, resize=resize, mode=mode, background=background)
    shape = stored.array.shape
    if len(shape) < 2 or 0 in shape:
        raise DataError(f"{path} holds an array of shape {shape}; store at least one row and one column, [N, D]")

    def flat(part: Array) -> Array:
        return as_matrix(part if len(shape) == 2 else part.reshape(len(part), -1), str(path))

    train, test = flat(stored.array), None if stored.test is None else flat(stored.test)
    image_shape = shape[1:] if len(shape) > 2 else None
    labels, tested, reading = stored.labels, stored.test_labels, stored.reading
    if label is not None and schema is None and train.shape[1] != width:
        column = int(find(list(map(str, range(train.shape[1]))), label, str(path)))
        if train.shape[1] < 2:
            raise DataError(f"{path} has no column beside {label}; pass one with data too")
        (train, labels), image_shape = _without(train, column), None
        if test is not None:
            test, tested = _without(test, column)
        reading = reading | {"label": column}
    where, notes = str(path), stored.notes
    return Dataset(path.name, train, test, labels, tested, image_shape, where, notes, reading, suits=stored.suits)


def _without(X: Array, column: int) -> tuple[Array, Array]:
    """A matrix without one of its columns, and that column as labels."""
    told = np.asarray(X[:, column])
    whole = told.dtype.kind != "f" or bool((told == np.rint(told)).all())
    return np.delete(X, column, axis=1), told.astype(int) if whole else told


def _of_frame(frame: Any) -> Table:
    return Table(dict(frames.columns(frame)), None, True, (), place_of, True)


def _table(rows: Table, name: str, source: str, which: dict[str, Any], schema: Schema | None) -> Dataset:
    """A table as a dataset: what its columns are is found out, or told by the schema of another."""
    notes, names, told = rows.notes, list(rows.columns), schema is not None
    known = {*schema.order, *(column.name for column in schema.columns)} if schema else set()
    if schema is None:
        schema, said = describe(rows, source, **which)
        notes += said
    elif ignored := [n for n in names if n not in known]:
        notes += (f"columns that the model does not know are ignored: {listed(ignored)}",)
    taken = [column.name for column in schema.columns]
    for column in taken:
        cells = rows.columns.get(column, np.empty(0))
        for row in np.flatnonzero(np.isinf(cells))[:1] if cells.dtype != object else ():
            what = f"{cells[row]} in column {column!r} is not finite"
            raise DataError(f"{rows.place(row, column)}: {what}; correct it or leave it empty")
    plain = all(c.kind == "number" or not (told or c.values) for c in schema.columns)  # no cell of it can be wrong
    if rows.matrix is not None and plain and set(taken) <= set(names):
        at = {column: j for j, column in enumerate(names)}
        X = rows.matrix if taken == names else rows.matrix[:, [at[column] for column in taken]]
    else:
        X = schema.encode(rows.columns, source, rows.place)
    labels = schema.labels(rows.columns, rows.place)
    notes = tuple(map(printable, notes))
    return Dataset(name, X, None, labels, None, None, source, notes, {}, schema, suits(schema, X))


def _load_digits() -> Dataset:
    from importlib import resources

    bundled = resources.files(__package__).joinpath("bundled").joinpath("digits.npz")
    with bundled.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    cut, source = _KNOWN["digits"].rows[0], _KNOWN["digits"].source
    # Stored as published, 0 to 16; stretched to 0 to 255, so that uint8 means the same for every set of images.
    images = np.round(images * (255 / 16)).astype(np.uint8, order="C")
    return Dataset("digits", images[:cut], images[cut:], labels[:cut], labels[cut:], (8, 8), source)


def _cache_folder(name: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    return Path(root if os.path.isabs(root) else os.path.expanduser("~/.cache")) / "minivae" / name


def _folders(name: str) -> list[Path]:
    """Where the files of a dataset may lie, in the order of the search."""
    root = os.environ.get("MINIVAE_DATA")
    return ([Path(root) / name, Path(root)] if root else []) + [_cache_folder(name)]


def _find_idx(name: str, file: str, sha256: str, download: bool) -> tuple[Array, Path]:
    """The first verified copy of one file, and its folder. A wrong one, as MNIST's for Fashion-MNIST, is passed over."""
    wrong = []
    for folder in _folders(name):
        for path in (folder / f"{file}.gz", folder / file):
            if path.is_file():
                try:
                    return read_idx(path, sha256, max_bytes=_MAX_DOWNLOAD), folder
                except DataError as error:
                    wrong.append(str(error))
    if download:
        return _download_idx(name, file, sha256), _cache_folder(name)
    raise DataError(
        f"{name} is not here: no usable {file} (.gz or plain) in {', '.join(map(str, _folders(name)))}"
        f"{' (' + '; '.join(wrong) + ')' if wrong else ''}; run `minivae data {name} --download`, or set MINIVAE_DATA "
        "to the folder that holds it"
    )


def _read_idx_files(name: str, download: bool) -> tuple[list[Array], Path]:
    """The four arrays, and the folder of the last."""
    files = zip(_IDX_FILES, _KNOWN[name].sha256, strict=True)
    arrays, folders = zip(*(_find_idx(name, file, sha256, download) for file, sha256 in files))
    return list(arrays), folders[-1]


def _load_idx(name: str, download: bool) -> Dataset:
    (images, labels, test_images, test_labels), _ = _read_idx_files(name, download)
    train, test = (part.reshape(len(part), -1) for part in (images, test_images))
    return Dataset(name, train, test, labels, test_labels, images.shape[1:], _KNOWN[name].source)


def _download_idx(name: str, file: str, sha256: str) -> Array:
    """Fetch one .gz from the first mirror that has the right bytes; only verified content gets its final name."""
    import http.client
    import secrets
    import urllib.request

    folder, failures = _cache_folder(name), []
    part = folder / f"{file}-{secrets.token_hex(8)}.part"
    for mirror in _KNOWN[name].mirrors:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            request = urllib.request.Request(f"{mirror}{file}.gz", headers={"User-Agent": "minivae"})
            with urllib.request.urlopen(request, timeout=30) as response:
                content = response.read(_MAX_DOWNLOAD + 1)
            if len(content) > _MAX_DOWNLOAD:
                raise DataError(f"it sends more than {_MAX_DOWNLOAD:,} bytes")
            write_atomically(part, lambda stream: stream.write(content))  # noqa: B023  (called at once)
            array = read_idx(part, sha256, max_bytes=_MAX_DOWNLOAD)
            os.replace(part, folder / f"{file}.gz")
            return array
        except (OSError, http.client.HTTPException, DataError) as error:  # URLError and timeouts are OSErrors
            failures.append(f"{mirror}: {error}")
        finally:
            with suppress(OSError):
                part.unlink()
    raise DataError(
        f"could not download {file}.gz ({'; '.join(failures)}); "
        "copy the four files of the dataset into a folder by hand and set MINIVAE_DATA to it"
    )


def dataset_status(names: Sequence[str] = NAMES, *, download: bool = False) -> list[dict[str, Any]]:
    """What `minivae data` prints, one dict per named dataset: name, available (every file is here and verified), where
    (the folder, or why it is not available), rows, test_rows, columns, licence, source. download: as for load_dataset.
    """
    status = []
    for name in names:
        known, available, where = _KNOWN[name], True, "inside the package"
        try:
            if known.sha256:
                where = str(_read_idx_files(name, download)[1])
        except DataError as error:
            if download:
                raise
            available, where = False, str(error).removeprefix(f"{name} is not here: ")
        status.append(
            {"name": name, "available": available, "where": where, "rows": known.rows[0], "test_rows": known.rows[1],
             "columns": known.columns, "licence": known.licence, "source": known.source}
        )  # fmt: skip
    return status
