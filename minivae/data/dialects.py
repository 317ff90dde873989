"""The dialect of a text: what separates its cells, what its decimal mark is, and whether it begins with names."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np

from minivae.data.opening import Array, DataError

# A cell that was not observed: what pandas takes for one, and "?"; in a column of numbers the last two as well.
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
MISSING |= {"NA", "NULL", "NaN", "NAN", "None", "n/a", "nan", "null", "?"}
NO_NUMBER = MISSING | {"-", "."}
_GROUPED = {mark: re.compile(rf"[+-]?\d{{1,3}}(\{mark}\d{{3}})+") for mark in ".,"}  # thousands
_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # Python reads 1_000 as a number; no table means that


class Dialect:
    """Recognised from a sample where it is not given. at, line: number and text of the line that was read last."""

    def __init__(self, path: Path, delimiter: str | None, decimal: str | None):
        self.path, self.delimiter, self.decimal, self.asked = path, delimiter or "", decimal, decimal is not None
        self.at, self.line, self.notes = 0, "", list[str]()

    def cut(self, lines: Iterable[str], delimiter: str = "") -> Iterator[list[str]]:
        """The cells of each line that is not blank."""
        mark = delimiter or self.delimiter
        if mark == " ":
            lines = (" ".join(line.split()) for line in lines)
        try:
            for cells in csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True):
                if len(cells) > 1 or (cells and (cells[0].strip() or self.line.strip())):
                    yield cells
        except csv.Error as error:
            fix = "close each quote, and write a quote inside a quoted cell twice"
            raise DataError(f"{self.path}, line {self.at}: {error}; {fix}") from error

    def cut_sample(self, sample: list[str], delimiter: str) -> list[list[str]]:
        """As far as it goes: the last cell may be open; a line whose quotes this delimiter does not fit has no cells."""
        rows: list[list[str]] = []
        try:
            rows.extend(self.cut(sample, delimiter))
        except DataError as error:
            rows += [[]] if "expected after" in str(error) else []
        return rows

    def recognise_delimiter(self, sample: list[str]) -> str:
        """What makes as many cells of each line, or of each but the first; else what the first line has most of."""
        first = "".join(sample[:1])
        marks = [mark for mark in "\t;|," if any(mark in line for line in sample[:2])]
        for lines in (sample, sample[1:]):
            for mark in marks if len(lines) > 1 or lines is sample else ():
                if len(sizes := {len(row) for row in self.cut_sample(lines, mark)}) == 1 and max(sizes) > 1:
                    return mark
        words = [line.split() for line in sample]
        even = len(set(map(len, words))) == 1 and len(words[0]) > 1 and all(map(is_number, words[-1]))
        if even or (not marks and ".txt" in self.path.name.lower()):
            return " "
        return max(marks, key=first.count, default=",")

    def recognise_decimal(self, cells: list[str], known: bool = False) -> None:
        """known: a decimal mark that was given is that of another table."""
        commas = [cell for cell in cells if _COMMA.fullmatch(cell)]
        points = [cell for cell in cells if "." in cell and is_number(cell)]
        if known and self.decimal == "," and points and not commas:
            first, other = points[0][:40], not all(_GROUPED["."].fullmatch(cell) for cell in points)
            self.decimal = None if other else ","
            said = "is read with a decimal point" if other else f"is read as {first.replace('.', '')}"
            self.notes.append(f"the model was trained on a table with decimal commas; {first} {said}")
        elif self.decimal is None and self.delimiter != "," and commas and not points:
            if all(_GROUPED[","].fullmatch(cell) for cell in commas):
                fix = "say which with decimal=',' (--decimal ,) or decimal='.' (--decimal .)"
                raise DataError(
                    f"{self.path}: {commas[0][:40]!r} is a fraction in some countries and thousands in others; "
                    + ("write it without the comma: the model was trained on a table without any" if known else fix)
                )
            self.decimal = ","
            self.notes.append(f"decimal commas: {commas[0][:40]} is read as {commas[0][:40].replace(',', '.')}")

    def is_header(self, first: Sequence[str], rest: Sequence[Sequence[str]]) -> bool:
        """Names, none of them a number; or with numbers that rise evenly, as a frame's columns and years do."""
        below = [[row[j].strip() for row in rest if j < len(row)] for j in range(len(first))]
        counted = list(map(self._says_number, first))
        numbers = [j for j, counts in enumerate(counted) if counts]
        mixed = [any(map(self._says_number, cells)) for cells in below]  # whether there are numbers
        named = any(says and not counts for says, counts in zip(mixed, counted))  # a name above them
        shown = f"the first line ({', '.join(first)[:40]}) is taken for a"
        if not numbers:
            if set(first) <= NO_NUMBER - {""}:  # a row of nan
                return False
            if rest and not named:
                self.notes.append(f"{shown} header, as its place alone says; if it is a row: --no-header")
            return True
        cells = [first[j] for j in numbers]
        dated = sum(_years([cell]) for j in numbers for cell in below[j])
        years = _years(cells) and 2 * dated < len(rest) * len(cells)
        rising = bool(rest) and (_rising(cells) or (years and len(cells) > 1 and _rising(cells, 2)))
        enough = 4 if len(cells) == len(first) else 1 if not first[0] else 3
        if rising and ((years and len(cells) > 1) or (not _rising(rest[0]) and (named or len(cells) >= enough))):
            return True
        if rest and (named or years or (rising and len(cells) > 2) or not all(mixed[j] for j in numbers)):
            self.notes.append(f"{shown} row; if it holds names: --header")
        return False

    def _says_number(self, cell: str) -> bool:
        return self.number(cell) is not None and cell.strip() not in NO_NUMBER

    def unique(self, names: list[str] | None, rows: list[list[str]]) -> list[str]:
        """A name for each column, as pandas gives them; numbers where there is no header."""
        width = len(rows[0])
        if names is None:
            return list(map(str, range(width)))
        names = [name.strip() for name in names]
        if len(names) == width - 1:  # R names no column of row names; or a delimiter ends each row
            names = [*names, ""] if not any(row[-1].strip() for row in rows) else ["", *names]
        elif len(names) == width + 1 and not names[-1]:
            names = names[:-1]
        if len(names) != width:  # which is said with the first row
            return names
        found: dict[str, str] = {}
        times = Counter[str]()
        for j, name in enumerate(names):
            unique = name or f"Unnamed: {j}"
            while unique in found:
                times[name] += 1
                unique = f"{name}.{times[name]}"
            found[unique] = name
        if again := [unique for unique, name in found.items() if name and unique != name]:
            self.notes.append(f"columns of the same name are called {', '.join(again)[:80]}")
        return list(found)

    # ---- Cells as numbers

    def numbers(self, cells: Sequence[str]) -> Array | None:
        """As float64, NaN where a cell is missing; None where one is no number."""
        if self.decimal != ",":
            with suppress(ValueError):
                numbers = np.fromiter(map(float, cells), np.float64, len(cells))
                return None if "_" in "".join(cells) else numbers
        found = [self.number(cell) for cell in cells]
        return None if None in found else np.array(found, np.float64)

    def number(self, cell: str) -> float | None:
        """NaN for a cell that is missing, None for one that is no number."""
        cell = cell.strip()
        if cell in NO_NUMBER:
            return np.nan
        if self.decimal is not None:
            whole, mark, fraction = cell.partition(self.decimal)
            other = "." if self.decimal == "," else ","
            if other in cell:
                sure = (mark or self.asked) and _GROUPED[other].fullmatch(whole)
                whole = whole.replace(other, "") if sure else "no number"
            cell = f"{whole}.{fraction}" if mark else whole
        return float(cell) if is_number(cell) else None


def _rising(cells: Sequence[str], least: int = 3) -> bool:
    """Whole numbers, each as much more than the one before it: by 1 where they are fewer than `least`."""
    cells = [cell.strip() for cell in cells]
    if not cells or not all(cell.isdecimal() and len(cell) < 10 for cell in cells):
        return False
    steps = {int(b) - int(a) for a, b in pairwise(cells)}
    return len(steps) < 2 and all(step == 1 or (step > 0 and len(cells) >= least) for step in steps)


def _years(cells: Sequence[str]) -> bool:
    return all(cell.isdecimal() and len(cell) == 4 and 1500 <= int(cell) <= 2100 for cell in cells)


def tells_size(first: Sequence[str], second: Sequence[str]) -> bool:
    """Rows, columns, and names of classes, as scikit-learn's files begin."""
    sizes = len(first) > 2 and first[0].isdecimal() and first[1] == str(len(second) - 1)
    return bool(sizes and not any(map(is_number, first[2:])) and all(map(is_number, second)))
