"""Tables as text: what separates the cells, what is a header, and cells as columns of numbers or of texts.

What only looks like a number is never guessed at, and neither a line nor the whole may be longer than memory is there for.
"""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from minivae.data.dialects import MISSING, Dialect, is_number, tells_size
from minivae.data.opening import Array, DataError, opened, room
from minivae.data.schema import Table

LINE = 2**22  # characters of the longest line
COLUMNS = 2**16  # of a table that is not numbers alone
GROWTH = 4  # "0," becomes eight bytes
PACKED = (2**26, 100)  # what gzip may unpack to: so many bytes, or so many times its own where that is more
PART = 2**16  # cells that are texts at a time
SAMPLE = (50, 2**18)  # lines, or characters, by which a table is recognised


def read_table(path: Path, **how: Any) -> Table:
    """Read text, plain or gzip, whose cells are separated by tabs, semicolons, bars, commas or blanks, quoted or not.

    Parameters
    ----------
    delimiter, decimal, header : recognised unless given: a character ("," or "." for decimal; the other one may then group
        thousands), and whether the first line holds names; it does where none of its cells is a number, or where the
        numbers rise evenly as those of a frame or of years do
    encoding : UTF-8, or UTF-16 with its byte order mark, unless given
    schema : which columns are texts, and what columns are called where no header says it; the decimal mark is then that
        of the table that the schema is of, unless the text shows another

    Numbers become float64, a cell of `MISSING` NaN; a column with anything else holds texts. Raises DataError naming the
    line of whatever cannot be read.
    """
    with _reader(path, **how) as reader:
        return reader.read()


@contextmanager
def as_it_stands(path: Path, **how: Any) -> Iterator[tuple[Table, int, Iterator[list[str]], str, str]]:
    """The table; how many lines stand before its rows; the cells of all lines, as texts; delimiter and decimal mark."""
    with _reader(path, **how) as reader:
        table = reader.read()
        rows = len(next(iter(table.columns.values())))
        before = sum(1 for _ in reader.cut(reader._lines())) - rows
        yield table, before, reader.cut(reader._lines()), reader.delimiter, reader.decimal or "."


@contextmanager
def _reader(
    path: Path, delimiter: Any = None, encoding: Any = None, decimal: Any = None, header: Any = None, schema: Any = None
) -> Iterator[_Reader]:
    delimiter = delimiter and delimiter.replace("\\t", "\t")
    if delimiter is not None and len(delimiter) != 1:
        raise DataError(f"delimiter {delimiter[:40]!r} is not one character; pass one, such as ';' (tab: '\\t')")
    if decimal not in (None, ".", ","):
        raise DataError(f"decimal {decimal[:40]!r} is neither '.' nor ','; pass one of them")
    try:
        with opened(path) as file:
            check_size(path, file)
            marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
            file.seek(0)
            try:
                text = io.TextIOWrapper(file, encoding=encoding or ("utf-16" if marked else "utf-8-sig"), newline="")
            except (LookupError, ValueError) as error:  # a zero character in its name, say
                raise DataError(f"{path}: there is no encoding {str(encoding)[:40]!r}; pass another") from error
            yield _Reader(path, text, delimiter, decimal, header, schema)
    except UnicodeError as error:
        raise DataError(_undecodable(path, encoding or "UTF-8")) from error
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory; store the data as .npy") from error


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
        raise DataError(f"{path} unpacks to over {PACKED[1]} times its size, as tables do not; if it is one, unpack it")


def _undecodable(path: Path, encoding: str) -> str:
    """The sentence that says where the text is not of its encoding."""
    fix = "name the one it has (--encoding latin-1, cp1252, ...), or save the table as UTF-8"
    with opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE), b""), 1):
            try:
                line.decode(encoding)
            except UnicodeError as error:
                byte = f" (byte 0x{line[error.start]:02x})" if isinstance(error, UnicodeDecodeError) else ""
                return f"{path}, line {number} is not {encoding} text{byte}; {fix}"
    return f"{path} is not {encoding} text; {fix}"


class _Reader(Dialect):
    """The lines of a file, several times over: a sample, then numbers alone, then whatever is there."""

    def __init__(self, path: Path, text: IO[str], delimiter: Any, decimal: Any, header: bool | None, schema: Any):
        super().__init__(path, delimiter, decimal)
        self.text, self.header, self.schema, self.start = text, header, schema, 0

    def read(self) -> Table:
        sample, comment = self._sample()
        self.delimiter = self.delimiter or self.recognise_delimiter(sample)
        rows = self.cut_sample(sample, self.delimiter)
        if not rows:
            next(self.cut(self._lines()), None)  # which says what is wrong, if anything
            raise DataError(f"{self.path} holds no rows; pass a table with one example per line")
        self.recognise_decimal([cell.strip() for row in rows for cell in row], self.schema is not None)
        first, names = [cell.strip() for cell in rows[0]], None
        odd = self.header is None and len(rows) > 1 and tells_size(first, rows[1])
        sure = self.header
        if sure is None and self.schema is not None and not all(c.name.isdecimal() for c in self.schema.columns):
            sure = {c.name for c in self.schema.columns} <= {*first} or None
        headed = not odd and (self.is_header(first, rows[1:]) if sure is None else sure)
        if headed:
            names = first
        elif comment and not odd:  # numpy.savetxt writes names so
            words = self.cut_sample([comment.lstrip("# ")], self.delimiter)
            if words and len(words[0]) == len(first) > 1 and not any(map(is_number, words[0])):
                names = words[0]
        if odd or (headed and sure is None and any(map(is_number, first))):
            what = "tells rows and columns: no row" if odd else "is taken for a header; if it is a row: --no-header"
            self.notes.append(f"the first line ({', '.join(first)[:40]}) {what}")
        rows = rows[odd or headed :]
        if not rows:
            next(islice(self.cut(self._lines()), 1, None), None)  # an open quote, perhaps
            raise DataError(f"{self.path} holds a header but no rows; add one example per line below it")
        names, headed_by = self.unique(names, rows), names is not None
        if self.schema is not None and not headed_by:
            names = list(self.schema.placed(len(names), str(self.path)))
        kept = self.schema.texts if self.schema is not None else set()
        texts = {j for j, name in enumerate(names) if name in kept}
        columns, matrix, places = {}, None, array("q")
        plain = all(len(row) == len(names) and all(map(is_number, row)) for row in rows)
        if plain and not texts and self.decimal != ",":
            with suppress(ValueError):  # of a cell that is missing or no number, which the slow way finds
                lines = (line for line in self._lines() if line.strip(" \r\n" if self.delimiter == "\t" else None))
                mark = None if self.delimiter == " " else self.delimiter
                skip = int(odd or headed)
                matrix = np.loadtxt(lines, ndmin=2, delimiter=mark, skiprows=skip, comments=None, quotechar='"')
                columns = dict(zip(names, matrix.T))
        if matrix is None:
            columns = self._columns(names, odd or headed, places, texts)
        order = {name: j for j, name in enumerate(names, 1)}

        def place(row: int, name: str) -> str:
            return f"{self.path}, {f'line {places[row]}' if places else f'row {row} (from 0)'}, column {order[name]}"

        reading = {"decimal": self.decimal} if self.decimal == "," else {}
        return Table(columns, matrix, headed_by, tuple(self.notes), place, reading=reading)

    def _lines(self) -> Iterator[str]:
        """Every line from the first on that belongs to the table."""
        self.text.seek(0)
        self.at = 0
        while line := self.text.readline(LINE + 1):
            self.at += 1
            if len(line) > LINE:
                raise DataError(
                    f"{self.path}, line {self.at} has more than {LINE:,} characters; "
                    "store data of so many columns as .npy"
                )
            self.line = line.lstrip("\ufeff") if self.at == 1 else line
            if self.at > self.start:
                yield self.line

    def _sample(self) -> tuple[list[str], str]:
        """Its first lines, and the last of those before them that begin with #."""
        sample: list[str] = []
        comment, size = "", 0
        for line in self._lines():
            if not sample and line.startswith("#"):
                self.start, comment = self.at, line
            elif line.strip():
                sample.append(line)
                size += len(line)
                if len(sample) == SAMPLE[0] or (size > SAMPLE[1] and len(sample) > 1):
                    break
        return sample, comment

    # ---- Cell by cell

    def _columns(self, names: list[str], skip: bool, places: array[int], texts: set[int]) -> dict[str, Array]:
        """Chunk by chunk, so that numbers take up 8 bytes; once more where a column of numbers turns out to hold texts."""
        if len(names) > COLUMNS:
            raise DataError(
                f"{self.path} has {len(names):,} columns, and not only numbers in them, of which {COLUMNS:,} are accepted; "
                "store the numbers as .npy"
            )
        while True:
            chunks: list[list[Array]] = [[] for _ in names]
            known: list[dict[str, str | None]] = [dict.fromkeys(MISSING) for _ in texts]
            memos, held, more = dict(zip(texts, known)), 0, set()
            del places[:]
            rows = islice(self.cut(self._lines()), int(skip), None)
            while chunk := [self._counted(cells, names, places) for cells in islice(rows, max(1, PART // len(names)))]:
                for j, cells in enumerate(zip(*chunk)):
                    if j in texts:
                        memo, before = memos[j], len(memos[j])
                        values = np.empty(len(cells), object)
                        values[:] = [memo.setdefault(cell, cell) for cell in map(str.strip, cells)]
                        held += (len(memo) - before) * 100
                        chunks[j].append(values)
                    elif j not in more and (numbers := self.numbers(cells)) is not None:
                        chunks[j].append(numbers)
                    else:
                        more.add(j)
                if held > room():
                    raise DataError(f"{self.path} holds more different texts than fit into memory; leave some out")
            if not more:
                return {name: np.concatenate(chunks[j]) for j, name in enumerate(names)}
            texts |= more

    def _counted(self, cells: list[str], names: list[str], places: array[int]) -> list[str]:
        places.append(self.at)
        if len(cells) != len(names):
            other = f"line {places[0]}" if len(places) > 1 else "the header"
            raise DataError(
                f"{self.path}, line {self.at} has {len(cells)} columns but {other} has {len(names)}; "
                "give every line the same number of cells"
            )
        return cells
