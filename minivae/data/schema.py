"""What the columns of a table are: numbers, yes and no, or categories; and the way from them to a matrix and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from minivae.data.opening import Array, DataError

# One column [N]: float64 with NaN where a cell is missing, or objects: texts, None where one is missing.
Columns = Mapping[str, Array]

CATEGORIES = 1000  # texts that a category can have at most
STORED = (2**15, 2**21)  # columns, and characters of all texts together, of a table that a model's file describes
_KINDS = {"number": "gaussian", "binary": "bernoulli", "category": "categorical"}
UNKNOWN = "(missing)"  # the label of a row that has none, among texts


class Table(NamedTuple):
    """A table as read. matrix [N, D]: where all are numbers, columns of which `columns` are; headed: whether it named them.

    notes : lines for the user
    place : where the cell of a row and a column stands, for a message
    """

    columns: Columns
    matrix: Array | None
    headed: bool
    notes: tuple[str, ...]
    place: Callable[[int, str], str]


@dataclass(frozen=True)
class Column:
    """A column of a table. values: the texts of 0 and 1 (none: it holds those), or a category's texts, sorted."""

    name: str
    kind: str  # "number", "binary" or "category"
    values: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return len(self.values) if self.kind == "category" else 1


@dataclass(frozen=True)
class Schema:
    """The columns that a model reads; `order` names all columns of the file, those that were left out and the label too.

    label : the column that is told or shown and never trained on
    """

    columns: tuple[Column, ...]
    label: str | None = None
    order: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """D, the columns of the matrix."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """One for each column of the matrix: "age", "species=Adelie"."""
        return tuple(
            f"{c.name}={value}" if c.kind == "category" else c.name
            for c in self.columns
            for value in (c.values if c.kind == "category" else ("",))
        )

    @property
    def likelihood(self) -> str:
        """What suits these columns, for example "gaussian*3 categorical*4 bernoulli"."""
        widths = [(_KINDS[c.kind], c.width, i if c.kind == "category" else -1) for i, c in enumerate(self.columns)]
        runs = [(name, sum(w for _, w, _ in group)) for (name, _), group in groupby(widths, lambda run: run[::2])]
        return runs[0][0] if len(runs) == 1 else " ".join(f"{name}*{n}" if n > 1 else name for name, n in runs)

    def encode(
        self, table: Columns, source: str = "the table", place: Callable[[int, str], str] | None = None
    ) -> Array:
        """The matrix [N, D], float64: a category one-hot, a missing cell NaN in all of its columns.

        Columns are found by name, whatever their order; others are ignored. Raises DataError where one is missing, or naming
        the place of a cell that is not as it should be.
        """
        if missing := [column.name for column in self.columns if column.name not in table]:
            raise DataError(
                f"{source} lacks the column{'s' * (len(missing) > 1)} {listed(missing)} that the model was trained on; "
                f"it has {listed(list(table))}"
            )
        where = place or (lambda row, name: f"{source}, row {row} (from 0), column {name!r}")
        matrix = np.empty((len(table[self.columns[0].name]), self.width))
        at = 0
        for column in self.columns:
            self._fill(matrix[:, at : at + column.width], column, table[column.name], where)
            at += column.width
        return matrix

    def _fill(self, out: Array, column: Column, cells: Array, where: Callable[[int, str], str]) -> None:
        if not column.values:
            if cells.dtype == object:
                row = next((i for i, cell in enumerate(cells) if cell is not None), None)
                if row is not None:
                    raise DataError(
                        f"{where(row, column.name)}: {cells[row][:40]!r} is not a number, as all cells of it were when "
                        "the model was trained; correct the cell or leave it empty"
                    )
                cells = np.full(len(cells), np.nan)
            out[:, 0] = cells
            return
        if cells.dtype != object:  # texts that look like numbers, or nothing but missing cells
            texts = (str(int(cell)) if cell.is_integer() else repr(cell) for cell in cells.tolist() if cell == cell)
            cells = np.array([None if cell != cell else next(texts) for cell in cells.tolist()], object)
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

    def labels(self, table: Columns) -> Array | None:
        """[N]: texts, whole numbers, or float64; None where the table has no such column."""
        if self.label is None or self.label not in table:
            return None
        cells = table[self.label]
        if cells.dtype == object:
            return np.array([UNKNOWN if cell is None else cell for cell in cells])
        return cells.astype(np.int64) if bool((cells == np.rint(cells)).all() and (abs(cells) < 2**53).all()) else cells

    def decode(self, X: Array) -> dict[str, Array]:
        """The columns of a matrix [n, D] in the table's own form: numbers, and of texts the most probable.

        NaN, in all columns of a category, becomes None among texts.
        """
        X = np.asarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] != self.width:
            raise DataError(f"an array of shape {X.shape} is no table of these columns; pass [n, {self.width}]")
        table: dict[str, Array] = {}
        at = 0
        for column in self.columns:
            part = X[:, at : at + column.width]
            at += column.width
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
        texts: list[str] = [text for c in self.columns for text in (c.name, *c.values)] + list(self.order)
        if len(self.columns) > STORED[0] or len(texts) > 3 * STORED[0] or sum(map(len, texts)) > STORED[1]:
            return None
        columns = [[column.name, column.kind, *column.values] for column in self.columns]
        return {"columns": columns, "label": self.label, "order": list(self.order)}

    @classmethod
    def from_dict(cls, state: Any) -> Schema:
        """A Schema from what to_dict gave. Raises ValueError unless it is that, whoever wrote it."""
        if not isinstance(state, dict) or state.keys() != {"columns", "label", "order"}:
            raise ValueError("a table's description must hold columns, label and order")
        columns, label, order = state["columns"], state["label"], state["order"]
        lists = isinstance(columns, list) and isinstance(order, list) and all(isinstance(c, list) for c in columns)
        texts: list[Any] = [text for words in (*columns, order) for text in words] if lists else [None]
        if not all(isinstance(text, str) for text in texts) or not isinstance(label, str | None):
            raise ValueError("the columns of a table are not described by texts")
        if not 0 < len(columns) <= STORED[0] or len(texts) > 4 * STORED[0] or sum(map(len, texts)) > STORED[1]:
            raise ValueError(f"a table has from 1 to {STORED[0]:,} columns, of {STORED[1]:,} characters together")
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
        return cls(tuple(Column(w[0], w[1], tuple(w[2:])) for w in columns), label, tuple(order))


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a sentence, cut where they are many or long."""
    shown = [repr(name if len(name) <= 40 else f"{name[:37]}...") for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")
