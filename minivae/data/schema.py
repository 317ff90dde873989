"""What the columns of a table are: numbers, yes and no, or categories; and the way from them to a matrix and back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from minivae.data.opening import Array, DataError
from minivae.likelihoods import is_mixed, runs

# One column [N]: float64 with NaN where a cell is missing, or objects: texts, None where one is missing.
Columns = Mapping[str, Array]
Place = Callable[[int, str], str]  # where the cell of a row and a column stands, for a message

CATEGORIES = 1000  # texts that a category can have at most
STORED = (2**22, 2**17)  # of a model's file, which counts both: half of its characters, and of its commas and brackets
_KINDS = {"number": "gaussian", "binary": "bernoulli", "category": "categorical"}
UNKNOWN = "(missing)"  # the label of a row that has none, among texts


def place_of(row: int, name: str) -> str:
    return f"row {row} (from 0), column {name!r}"


class Table(NamedTuple):
    """A table as read. matrix [N, D]: where all are numbers, columns of which `columns` are; headed: whether it named them.

    notes : lines for the user
    typed : whether the source says that texts are texts, so that those of digits are no numbers
    reading : what was recognised and holds for other files too
    """

    columns: Columns
    matrix: Array | None
    headed: bool
    notes: tuple[str, ...]
    place: Place
    typed: bool = False
    reading: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Column:
    """A column of a table. values: the texts of 0 and 1 (none: it holds those), or a category's texts, sorted."""

    name: str
    kind: str  # "number", "binary" or "category"
    values: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """One for each column of the matrix: "age", or "species=Adelie", ..."""
        return [f"{self.name}={value}" for value in self.values] if self.kind == "category" else [self.name]

    @property
    def width(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Schema:
    """The columns that a model reads; `order` names all columns of the file, those that were left out and the label too.

    label : the column that is told or shown and never trained on; label_texts: its cells are texts, whatever they look like
    """

    columns: tuple[Column, ...]
    label: str | None = None
    order: tuple[str, ...] = ()
    label_texts: bool = False

    @property
    def width(self) -> int:
        """D, the columns of the matrix."""
        return sum(column.width for column in self.columns)

    @property
    def starts(self) -> Array:
        """Where in the matrix each column begins."""
        return np.cumsum([0, *(column.width for column in self.columns[:-1])])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for column in self.columns for name in column.names)

    @property
    def texts(self) -> set[str | None]:
        """The columns whose cells are texts, also where they look like numbers."""
        return {c.name for c in self.columns if c.values} | ({self.label} if self.label_texts else set())

    def placed(self, count: int, source: str) -> tuple[str, ...]:
        """The names of so many columns without a header. Raises DataError unless they can mean one thing only."""
        taken = [column.name for column in self.columns]
        order, told = self.order or tuple(taken), {*taken, self.label}
        meant = (order, [n for n in order if n != self.label], taken, [n for n in order if n in told])
        found = {tuple(names) for names in meant if len(names) == count}
        if len(found) != 1:
            what = "may be one or another of those" if found else "are not as many as those"
            raise DataError(
                f"{source} has no header, and its {count:,} columns {what} that the model was trained on, "
                f"{listed(order)}; add a header that names them"
            )
        return found.pop()

    @property
    def likelihood(self) -> str:
        """What suits these columns, for example "gaussian*3 categorical*4 bernoulli"."""
        widths = [(_KINDS[c.kind], c.width, i if c.kind == "category" else -1) for i, c in enumerate(self.columns)]
        found = [(name, sum(w for _, w, _ in group)) for (name, _), group in groupby(widths, lambda run: run[::2])]
        return found[0][0] if len(found) == 1 else " ".join(f"{name}*{n}" if n > 1 else name for name, n in found)

    def agrees(self, likelihood: str, units: Array) -> bool:
        """Whether a model of this likelihood, with shift and scale of its columns [2, D], can be of such a table."""
        each = [column for column in self.columns for _ in range(column.width)]  # of the matrix
        for run in runs(likelihood) if len(each) == units.shape[1] and is_mixed(likelihood) else ():
            held = each[run.column : run.column + run.count]
            if run.likelihood == "categorical" and any(c.values for c in held) and held != held[:1] * held[0].width:
                return False
        coded = [column.kind != "number" for column in each]  # the mean and the spread of 0 and 1
        return len(each) == units.shape[1] and bool(((units >= 0) & (units <= 1))[:, coded].all())

    def encode(self, table: Columns, source: str = "the table", place: Place = place_of) -> Array:
        """The matrix [N, D], float64: a category one-hot, a missing cell NaN in all of its columns.

        Columns are found by name, whatever their order; others are ignored. Raises DataError where one is missing, or naming
        the place of a cell that is not as it should be.
        """
        if missing := [column.name for column in self.columns if column.name not in table]:
            raise DataError(
                f"{source} lacks the column{'s' * (len(missing) > 1)} {listed(missing)} that the model was trained on; "
                f"it has {listed(list(table))}"
            )
        matrix = np.empty((len(table[self.columns[0].name]), self.width))
        for at, column in zip(self.starts, self.columns):
            self._fill(matrix[:, at : at + column.width], column, table[column.name], place)
        return matrix

    @staticmethod
    def _fill(out: Array, column: Column, cells: Array, where: Place) -> None:
        if not column.values:
            cells = _as_numbers(cells, column.name, where)
            for row in np.flatnonzero((cells < 0) | (cells > 1))[:1] if column.kind == "binary" else ():
                raise DataError(
                    f"{where(row, column.name)}: {cells[row]:g} is not 0 or 1, as all cells of column {column.name!r} "
                    "were when the model was trained; correct the cell or leave it empty"
                )
            out[:, 0] = cells
            return
        cells = _as_texts(cells)
        codes = {text: code for code, text in enumerate(column.values)} | {None: -1}
        found = np.fromiter((codes.get(cell, -2) for cell in cells), np.int64, len(cells))
        for row in np.flatnonzero(found == -2)[:1]:
            raise DataError(
                f"{where(row, column.name)}: {str(cells[row])[:40]!r} is none of the values that the model knows: "
                f"{listed(column.values)}; correct the cell or leave it empty"
            )
        if column.kind == "category":
            out[:] = found[:, None] == np.arange(column.width)
        else:
            out[:, 0] = found
        out[found < 0] = np.nan

    def labels(self, table: Columns, place: Place = place_of) -> Array | None:
        """[N]: texts, whole numbers, or float64; None where the table has no such column, or no value in it.

        Raises DataError naming the place of a text among numbers, or of a whole number that float64 cannot tell from others.
        """
        if self.label is None or self.label not in table:
            return None
        cells = table[self.label]
        if self.label_texts:
            cells = _as_texts(cells)
            return np.array([UNKNOWN if c is None else c for c in cells]) if any(c is not None for c in cells) else None
        cells = _as_numbers(cells, self.label, place)
        for row in np.flatnonzero(abs(cells) >= 2**53)[:1]:
            wrong = f"a label of {cells[row]:g} cannot be told from the next whole number"
            raise DataError(f"{place(row, self.label)}: {wrong}; write them with a letter before their digits")
        whole = bool((cells == np.rint(cells)).all())
        return None if np.isnan(cells).all() else cells.astype(np.int64) if whole else cells

    def decode(self, X: Array) -> dict[str, Array]:
        """The columns of a matrix [n, D] in the table's own form: numbers, and of texts the most probable.

        NaN, in all columns of a category, becomes None among texts.
        """
        X = np.asarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] != self.width:
            raise DataError(f"an array of shape {X.shape} is no table of these columns; pass [n, {self.width}]")
        table: dict[str, Array] = {}
        for at, column in zip(self.starts, self.columns):
            part = X[:, at : at + column.width]
            if column.values:
                code = part.argmax(axis=1) if column.kind == "category" else (part[:, 0] >= 0.5).astype(int)
                cells = np.array(column.values, object)[code]
                cells[np.isnan(part).any(axis=1)] = None
                table[column.name] = cells
            else:
                table[column.name] = part[:, 0]
        return table

    # ---- As a model's file keeps it

    def to_dict(self) -> dict[str, Any] | None:
        """As lists of texts; None where it is too large for a model's file."""
        columns = [[column.name, column.kind, *column.values] for column in self.columns]
        told = {"label": self.label, "label_texts": self.label_texts}
        state = {"columns": columns, "order": list(self.order), **told}
        return state if _fits(state) else None

    @classmethod
    def from_dict(cls, state: Any) -> Schema:
        """A Schema from what to_dict gave. Raises ValueError unless it is that, whoever wrote it."""
        if not isinstance(state, dict) or state.keys() != {"columns", "label", "label_texts", "order"}:
            raise ValueError("a table's description must hold columns, label, label_texts and order")
        columns, label, order = state["columns"], state["label"], state["order"]
        lists = isinstance(columns, list) and isinstance(order, list) and all(isinstance(c, list) for c in columns)
        texts: list[Any] = [text for words in (*columns, order) for text in words] if lists else [None]
        plain = all(isinstance(text, str) for text in texts) and isinstance(label, str | None)
        if not plain or type(state["label_texts"]) is not bool:
            raise ValueError("the columns of a table are not described by texts")
        if not columns or not _fits(state):
            raise ValueError("a table has no columns, or more than a model's file holds")
        for words in columns:
            values = words[2:]
            few = {"number": (0,), "binary": (0, 2), "category": range(1, CATEGORIES + 1)}
            if len(words) < 2 or len(values) not in few.get(words[1], ()) or values != sorted(set(values)):
                raise ValueError(f"{str(words)[:80]} describes no column")
        names = [words[0] for words in columns]
        if len(set(names)) < len(names) or len(set(order)) < len(order) or (order and not set(names) <= set(order)):
            raise ValueError("the names of a table's columns are not there once each")
        if label in names or (label is not None and label not in order):
            raise ValueError("a table's label is not one of its other columns")
        return cls(tuple(Column(w[0], w[1], tuple(w[2:])) for w in columns), label, tuple(order), state["label_texts"])


def _fits(state: dict[str, Any]) -> bool:
    """Whether a model's file has room for it, and for as much again."""
    text = json.dumps(state)
    return len(text) <= STORED[0] and sum(map(text.count, ",[{")) <= STORED[1]


def _as_numbers(cells: Array, name: str, where: Place) -> Array:
    """Numbers [N] as they are; of texts, all of which must be missing, NaN."""
    for row in [i for i, cell in enumerate(cells) if cell is not None][:1] if cells.dtype == object else ():
        wrong = f"{cells[row][:40]!r} is not a number, as all cells of it were when the model was trained"
        raise DataError(f"{where(row, name)}: {wrong}; correct the cell or leave it empty")
    return cells if cells.dtype != object else np.full(len(cells), np.nan)


def _as_texts(cells: Array) -> Array:
    """Numbers [N] as the texts that they are in a column of texts, None where one is missing; texts as they are."""
    if cells.dtype == object:
        return cells
    texts = [None if c != c else str(int(c)) if c.is_integer() else repr(c) for c in cells.tolist()]
    return np.array(texts, object)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a sentence, cut where they are many or long."""
    shown = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")
