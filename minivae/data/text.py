"""Tables of numbers as text. Neither a line nor the whole may be longer than what memory is there for."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from minivae.data.opening import Array, DataError, opened, room
from minivae.storage.archives import reason

LINE = 2**22  # characters of the longest line
PART = 2**14  # cells
GROWTH = 4  # "0," becomes eight bytes
PACKED = (2**26, 100)  # what gzip may unpack to: so many bytes, or so many times its own where that is more


def _cells(line: str, delimiter: str | None) -> Iterator[str]:
    """The cells of a line, never all at once: there may be millions. None: between any run of blanks."""
    more = True
    while more:
        cells = line.split(delimiter, PART)
        if more := len(cells) > PART:
            line = cells.pop()
        for cell in cells:
            yield cell.strip().strip('"').strip()


def _is_header(line: str, delimiter: str | None) -> bool:
    return any(_cells(line, delimiter)) and not any(map(_is_number, _cells(line, delimiter)))


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
    try:
        with opened(path) as file:
            check_size(path, file)
            text = io.TextIOWrapper(file, encoding="utf-8-sig")  # "sig": a byte order mark is no part of the first cell
            lines = (line for line in _lines(path, text) if line.strip())
            first = next(lines, None)
            if first is None:
                raise DataError(f"{path} holds no rows; pass a table with one example per line")
            delimiter = _delimiter(first, path.name.lower().removesuffix(".gz"))
            header = _is_header(first, delimiter)
            start = next(lines, None) if header else first
            if start is None:
                raise DataError(f"{path} holds a header but no rows; add one example per line below it")
            try:
                rows = itertools.chain([start], lines)
                return np.loadtxt(rows, delimiter=delimiter, ndmin=2, comments=None, quotechar='"')
            except (UnicodeDecodeError, DataError):
                raise
            except ValueError as error:  # The fast reader counts only its own rows: find the cell for the message.
                text.seek(0)
                unknown = DataError(f"cannot read {path} as a table ({reason(error)}); save it again")
                raise _bad_cell(path, text, delimiter, header) or unknown from error
            except MemoryError as error:
                raise DataError(f"{path} does not fit into memory; store the data as .npy") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save the table as UTF-8") from error


def check_size(path: Path, file: IO[bytes]) -> None:
    """Raise DataError where the text is more than memory is there for, or more than gzip makes of a table."""
    packed, size, limit = os.fstat(file.fileno()).st_size, 0, room() // GROWTH
    expected = max(PACKED[0], PACKED[1] * packed)
    if packed <= limit:
        while size <= min(limit, expected) and (piece := file.read(2**20)):
            size += len(piece)
        file.seek(0)
    if packed > limit or size > limit:
        raise DataError(f"{path} has more than the {limit:,} bytes of text accepted; store the data as .npy")
    if size > expected:
        raise DataError(
            f"{path} unpacks to over {PACKED[1]} times its size, as tables do not; unpack it yourself if it is one"
        )


def _lines(path: Path, text: IO[str]) -> Iterator[str]:
    for number in itertools.count(1):
        line = text.readline(LINE + 1)
        if not line:
            return
        if len(line) > LINE:
            raise DataError(
                f"{path}, line {number} has more than {LINE:,} characters; store data of so many columns as .npy"
            )
        yield line


def _bad_cell(path: Path, text: IO[str], delimiter: str | None, header: bool) -> DataError | None:
    columns, columns_line = 0, 0
    for number, line in enumerate(_lines(path, text), 1):
        if not line.strip() or header:
            header = header and not line.strip()  # the header is the first line that is not blank
            continue
        count = sum(1 for _ in _cells(line, delimiter))
        if columns not in (0, count):
            return DataError(
                f"{path}, line {number} has {count} columns but line {columns_line} has {columns}; "
                "give every line the same number of cells"
            )
        for column, cell in enumerate(_cells(line, delimiter), 1):
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
            columns, columns_line = count, number
    return None
