"""Reading data files: IDX, .npy, .npz, text tables and folders of images.

Every reader returns the values that the file holds (nothing is scaled here), never runs code from a file, and answers
a damaged or unsuitable file with one `DataError` sentence that names the file and the fix.
"""

from __future__ import annotations

import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

KINDS = "IDX (.idx, *-ubyte), .npy, .npz, .csv, .tsv, .txt (IDX and text also as .gz), or a folder of images"
MAX_BYTES = 2**34  # What one file may unpack to, 16 GiB. Larger data belongs in .npy, which stays on disk.
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
_IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class DataError(ValueError):
    """Data that cannot be used; the message names the offending thing and the fix."""


def read_file(path: Path) -> tuple[Array, Array | None]:
    """Read a data file, or a folder of images; the ending of its name decides the kind (see `KINDS`).

    Returns (array [N, ...] as stored, labels [N] or None): .npy is mapped read-only, only .npz carries labels.
    Raises DataError for an unknown kind, or a file that cannot be read as its kind.
    """
    if path.is_dir():
        return read_image_folder(path), None
    if not path.is_file():
        raise DataError(f"{path} is not a file or folder that can be read; pass one of: {KINDS}")
    name = path.name.lower()
    bare = name.removesuffix(".gz")
    if name.endswith(".npy"):
        return read_npy(path), None
    if name.endswith(".npz"):
        return read_npz(path)
    if bare.endswith((".csv", ".tsv", ".txt")):
        return read_table(path), None
    if "idx" in bare or bare.endswith("ubyte"):
        return read_idx(path), None
    raise DataError(f"{path} is of no kind that can be read; convert it to one of: {KINDS}")


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacking gzip whatever the file is called; read errors become DataError."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if packed:
                import gzip

                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield unpacked  # type: ignore[misc]  # GzipFile has all of IO[bytes] that is used here
            else:
                yield raw
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cut short ({error}); copy or download it again") from error
    except OSError as error:  # gzip.BadGzipFile is one of these
        raise DataError(f"cannot read {path} ({error.strerror or error}); check it or copy it again") from error


def read_idx(path: Path, sha256: str | None = None, max_bytes: int = MAX_BYTES) -> Array:
    """Read an IDX file (the format of MNIST), plain or gzip, in the machine's byte order.

    `sha256` is what its unpacked content must have (None: not checked). Raises DataError for a file that is not IDX, is
    damaged, declares more than `max_bytes` bytes, holds fewer or more than it declares, or has another SHA-256.
    """
    with _opened(path) as file:
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
        if expected > max_bytes:
            raise DataError(
                f"{path} declares the shape {shape}, {expected:,} bytes, more than the {max_bytes:,} accepted; "
                "if that is right, store the data as .npy, which is read from disk as needed"
            )
        # The payload grows by what the file really holds, so a wrong header cannot make us allocate. Asking for one
        # byte too many finds trailing bytes, and makes gzip compare its checksum.
        payload = bytearray()
        while len(payload) <= expected and (chunk := file.read(min(2**20, expected + 1 - len(payload)))):
            payload += chunk
    if len(payload) != expected:
        held = "more than that" if len(payload) > expected else f"only {len(payload):,}"
        raise DataError(
            f"{path} declares the shape {shape}, {expected:,} bytes, but holds {held}; copy or download it again"
        )
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


def _numpy_error(path: Path, error: Exception) -> DataError:
    if "pickle" in str(error) or "Python objects" in str(error):
        return DataError(
            f"{path} is damaged or holds Python objects (pickled data), which are never loaded; "
            "save plain numbers, for example np.save(path, X.astype(np.float32))"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DataError(f"cannot read {path} as a NumPy file ({reason}); save or copy it again")


def read_npy(path: Path) -> Array:
    """Map a .npy file into memory, read-only: rows are read from disk as they are used. Raises DataError."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many types for a damaged header, ValueError and SyntaxError among them
        raise _numpy_error(path, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{path} is a .npz archive under another name; rename it to end in .npz")
    return array


def read_npz(path: Path) -> tuple[Array, Array | None]:
    """Read the array `X`, `x` or `images`, or the only array, of a .npz file; and its labels, `y` or `labels`.

    Returns (array [N, ...], labels [N] or None). Raises DataError for an archive that is damaged, pickled or too large,
    that has no array that can be the data, or whose labels do not fit it.
    """
    try:
        # opened here, because np.load leaves its own file open when the archive is damaged
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            sizes = {item.filename.removesuffix(".npy"): item.file_size for item in archive.zip.infolist()}
            label_name = next((name for name in ("y", "labels") if name in sizes), None)
            others = [name for name in sizes if name != label_name]
            wanted = others if len(others) == 1 else ("X", "x", "images")
            data_name = next((name for name in wanted if name in sizes), None)
            if data_name is None:
                raise DataError(
                    f"{path} holds the arrays {', '.join(sizes) or '(none)'}; "
                    "name the one with the data X, for example np.savez(path, X=data, y=labels)"
                )
            if max(sizes[data_name], sizes.get(label_name or "", 0)) > MAX_BYTES:
                raise DataError(f"{path} unpacks to more than {MAX_BYTES:,} bytes; store its data as .npy instead")
            array = np.asarray(archive[data_name])
            labels = None if label_name is None else np.asarray(archive[label_name])
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged archive
        raise _numpy_error(path, error) from error
    if labels is not None and labels.shape != array.shape[:1]:
        shapes = f"the labels {label_name} have shape {labels.shape} but {data_name} has {array.shape}"
        raise DataError(f"{path}: {shapes}; store one label per row, or leave {label_name} out")
    return array, labels


def _cells(line: str, delimiter: str | None) -> list[str]:
    return [cell.strip().strip('"').strip() for cell in line.split(delimiter)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number; no table means that


def _delimiter(line: str, name: str) -> str | None:
    if name.endswith(".tsv"):
        return "\t"
    if name.endswith(".csv"):
        return ";" if ";" in line and "," not in line else ","
    return next((mark for mark in "\t;," if mark in line), None)  # None: any run of blanks


def read_table(path: Path) -> Array:
    """Read numbers from text: .csv, .tsv, or .txt (tabs, semicolons, commas or blanks), plain or gzip.

    A first line without any number is a header and is skipped; so are blank lines. Returns float64 [N, D]. Raises
    DataError naming line and column (both counted from 1) of the first cell that is empty or not a number, or the first
    line with another number of columns.
    """
    import io

    try:
        with _opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig")  # "sig": a byte order mark is no part of the first cell
            lines = (line for line in text if line.strip())
            first = next(lines, None)
            if first is None:
                raise DataError(f"{path} holds no rows; pass a table with one example per line")
            delimiter = _delimiter(first, path.name.lower().removesuffix(".gz"))
            cells = _cells(first, delimiter)
            header = any(cells) and not any(map(_is_number, cells))
            start = next(lines, None) if header else first
            if start is None:
                raise DataError(f"{path} holds a header but no rows; add one example per line below it")
            try:
                rows = itertools.chain([start], lines)
                return np.loadtxt(rows, delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
            except UnicodeDecodeError:
                raise
            except ValueError as error:  # The fast reader counts only its own rows: find the cell for the message.
                text.seek(0)
                raise _bad_cell(path, text, delimiter, header) or _numpy_error(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save the table as UTF-8") from error


def _bad_cell(path: Path, text: IO[str], delimiter: str | None, header: bool) -> DataError | None:
    columns, columns_line = 0, 0
    for number, line in enumerate(text, 1):
        if not line.strip() or header:
            header = header and not line.strip()  # the header is the first line that is not blank
            continue
        cells = _cells(line, delimiter)
        if columns not in (0, len(cells)):
            return DataError(
                f"{path}, line {number} has {len(cells)} columns but line {columns_line} has {columns}; "
                "give every line the same number of cells"
            )
        for column, cell in enumerate(cells, 1):
            if cell == "":
                fix = "fill the cell or delete the line, or write nan there (--missing)"
                return DataError(f"{path}, line {number}, column {column} is empty; {fix}")
            if not _is_number(cell):
                hint = "" if columns else " (a line is taken for a header when none of its cells is a number)"
                return DataError(
                    f"{path}, line {number}, column {column}: {cell[:40]!r} is not a number; "
                    f"correct the cell or delete the line{hint}"
                )
        if not columns:
            columns, columns_line = len(cells), number
    return None


def read_image_folder(path: Path) -> Array:
    """Read all images of a folder, sorted by name. Needs Pillow: `pip install 'minivae[images]'`.

    Returns uint8 [N, H, W] for grey images and [N, H, W, 3] for colour: palettes and other colour models become RGB,
    transparency is dropped. Raises DataError when there are no images, when Pillow is missing, and for an image that
    cannot be read, is not 8-bit or has another size than the first.
    """
    try:
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    except OSError as error:
        raise DataError(f"cannot read the folder {path} ({error.strerror}); check its permissions") from error
    if not files:
        raise DataError(f"the folder {path} holds no images; put .png or .jpg files in it, or pass one of: {KINDS}")
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"reading the images in {path} needs Pillow: pip install 'minivae[images]'") from error
    images: Array | None = None
    for row, file in enumerate(files):
        try:
            with Image.open(file) as image:
                if image.mode[0] in "IF":  # I, I;16, F: more than 8 bits, which a conversion would clip
                    raise DataError(f"{file} has mode {image.mode}, not 8 bits per channel; convert it to 8-bit first")
                mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
                shape = (image.height, image.width) + ((3,) if mode == "RGB" else ())
                if images is None:
                    if len(files) * math.prod(shape) > MAX_BYTES:
                        raise DataError(f"the images in {path} need more than {MAX_BYTES:,} bytes; make them smaller")
                    images = np.empty((len(files), *shape), np.uint8)
                elif shape != images.shape[1:]:
                    raise DataError(
                        f"{file} has shape {shape} but {files[0].name} has {images.shape[1:]}; "
                        "resize or convert the images to one shape, or remove the odd one"
                    )
                images[row] = np.asarray(image.convert(mode))
        except DataError:
            raise
        except Exception as error:  # Pillow's many decoders raise many types for a damaged image
            raise DataError(f"cannot read the image {file} ({error}); remove it or save it again") from error
    assert images is not None
    return images
