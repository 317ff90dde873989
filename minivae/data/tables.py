"""Which columns of a table are data, and of what kind: said, where anything was decided.

Texts are a category where they are few: at most CATEGORY of them, each in two rows on average. A column most of whose cells
are numbers holds no texts: the first cell that is none is a mistake, which is named.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from minivae.data.dialects import MISSING, NO_NUMBER, is_number
from minivae.data.opening import Array, DataError
from minivae.data.schema import CATEGORIES, Column, Schema, Table, listed

CATEGORY = 50  # texts of a category that nobody has asked for
_LIKE_A_NUMBER = re.compile(r"[\s$€£¥+-]*(\d[\d.,_' ]*|\.\d+)(e[+-]?\d+)?\s*%?", re.IGNORECASE)
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([T ].*)?|\d\d?[/.]\d\d?[/.]\d{2,4}([T ].*)?|\d{4}/\d\d?/\d\d?([T ].*)?")
_INDEX = re.compile(r"(.*[^a-z])?(id|index|idx|row|rownum|rownames|no|nr|obs|case)|.*[a-z]I[dD]")
_SENTINELS = (-9, -99, -999, -9999, -99999)


def find(names: Sequence[str], wanted: str | int, what: str) -> str:
    """The column of that name, or of that number from 0 on. Raises DataError where there is none."""
    if str(wanted) in names:
        return str(wanted)
    if str(wanted).isdecimal() and len(str(wanted)) < 10 and int(wanted) < len(names):
        return names[int(wanted)]
    raise DataError(
        f"there is no column {str(wanted)[:80]} in {what}, which has {len(names)}: {listed(names)}; name one or count from 0"
    )


def describe(
    table: Table, source: str, label: str | int | None = None, drop: Sequence[str] = (), columns: Sequence[str] = ()
) -> tuple[Schema, tuple[str, ...]]:
    """The schema of a table, and lines for the user. columns: only these, and none of them left out by a rule.

    Raises DataError where a column is not there, a cell is not as the others of its column, or nothing is left.
    """
    names = list(table.columns)
    label = None if label is None else find(names, label, source)
    out, only = {find(names, n, source) for n in drop}, {find(names, n, source) for n in columns}
    if label in only:
        raise DataError(f"column {label!r} is the label, which is not trained on; leave it out of the columns")
    found: list[Column] = []
    notes: list[str] = []
    same: list[str] = []
    bare = table.matrix is not None and not table.headed  # pixels, say: that some are 0 or 1 by chance means nothing
    for j, (name, cells) in enumerate(table.columns.items()):
        if name == label or name in out or (only and name not in only):
            continue
        column = _texts(name, cells, table, bool(only)) if cells.dtype == object else _numbers(name, cells)
        if isinstance(column, Column) and bare:
            column = Column(name, "number")
        index = (j == 0 and _is_index(name, cells)) or name.startswith("__index_level_")  # pandas' in Parquet
        if index and not only:
            column = column if isinstance(column, str) else "a row index"
        if isinstance(column, str):
            notes.append(f"column {name!r}: {column}; left out")
            continue
        found.append(column)
        if cells.dtype != object:
            low = np.nanmin(cells)
            if low == np.nanmax(cells):
                same.append(name)
            elif low in _SENTINELS and (count := (cells == low).sum()) > 1 and count == (cells < 0).sum():
                fix = "if that says that it is missing, leave those cells empty"
                notes.append(f"column {name!r} is {low:g} in {count} rows, and else never below 0: {fix}")
    if same:
        notes.append(f"the same number in every row: {listed(same)}")
    if not found:
        raise DataError(f"{source} has no column to train on ({'; '.join(notes)[:300] or 'all left out'}); choose some")
    texts = label is not None and table.columns[label].dtype == object
    schema = Schema(tuple(found), label, tuple(names), texts)
    if label is not None and schema.labels(table.columns, table.place) is None:
        notes.append(f"label {label!r}: no value in any row")
    return schema, tuple(notes)


def _numbers(name: str, cells: Array) -> Column | str:
    """A column, or why it is none."""
    seen = cells[~np.isnan(cells)]
    if not seen.size:
        return "no value in any row"
    binary = bool(((seen == 0) | (seen == 1)).all()) and seen.min() < seen.max()
    return Column(name, "binary" if binary else "number")


def _texts(name: str, cells: Array, table: Table, asked: bool) -> Column | str:
    counts = Counter(cells.tolist())
    missing = counts.pop(None, 0)
    if not counts:
        return "no value in any row"
    rows = len(cells) - missing
    like = sum(count for text, count in counts.items() if len(text) < 80 and _LIKE_A_NUMBER.fullmatch(text))
    blank = sum(counts[text] for text in NO_NUMBER - MISSING)  # which a column of numbers would have instead of one
    dates = all(map(_DATE.fullmatch, counts))
    if not table.typed and ((like and 2 * like >= rows - blank and not dates) or len(cells) == 1):
        some = [(i, c) for i, c in enumerate(cells) if c is not None and c not in NO_NUMBER]
        row, cell = next(((i, c) for i, c in some if not is_number(c)), some[0])
        hint = "--decimal , or --decimal . says what its mark is; " if "," in cell or is_number(cell) else ""
        named = f", as others of column {name!r} are" if table.headed else ""
        raise DataError(
            f"{table.place(row, name)}: {cell[:40]!r} is not a number{named}; {hint}correct the cell, leave it empty, or "
            f"leave the column out (--drop {name[:40]})"
        )
    if len(counts) == 1 and not asked:
        return f"{next(iter(counts))[:40]!r} in every row"
    few = CATEGORIES if asked else min(CATEGORY, (len(cells) + 1) // 2)
    if (dates and not asked) or len(counts) > few:
        what = "dates" if dates else f"{len(counts):,} different texts in {rows:,} rows"
        if asked:
            raise DataError(f"column {name!r} has {what}, more than the {few:,} of a category; leave it out")
        return what
    return Column(name, "binary" if len(counts) == 2 else "category", tuple(sorted(counts)))


def _is_index(name: str, cells: Array) -> bool:
    """A saved row index: whole numbers that rise, named as such; or all different, without a name."""
    if cells.dtype == object or len(cells) < 2 or not (cells == np.rint(cells)).all():
        return False
    if name == "Unnamed: 0":
        return bool(cells.min() >= 0) and len(np.unique(cells)) == len(cells)
    return bool(_INDEX.fullmatch(name) or _INDEX.fullmatch(name.lower())) and bool((np.diff(cells) > 0).all())


def suits(schema: Schema, X: Array) -> dict[str, object]:
    """Settings of VAE that suit a table: its likelihood, unless all of it lies in [0, 1]; standardised; holes ignored."""
    holes, kinds = bool(np.isnan(X).any()), {column.kind for column in schema.columns}
    found: dict[str, object] = {}
    if "category" in kinds or np.nanmin(X) < 0 or np.nanmax(X) > 1:
        found = {"likelihood": schema.likelihood} | ({"standardize": True} if "number" in kinds else {})
    return found | ({"missing": "ignore"} if holes else {})


def described(schema: Schema, X: Array, labels: Array | None) -> tuple[str, ...]:
    """What `Dataset.described` says of a table."""
    words = {"number": "numbers", "binary": "yes and no", "category": "categories"}
    kinds = Counter(words[column.kind] for column in schema.columns)
    share = float(np.isnan(X[:, schema.starts]).mean())
    holes = f"{max(share, 0.001):.1%} of their cells missing" if share else "none of their cells missing"
    lines = [f"{len(X):,} rows; columns of {', '.join(f'{kind}: {count:,}' for kind, count in kinds.items())}; {holes}"]
    for column in [column for column in schema.columns if column.kind == "category"][:4]:
        lines.append(f"category {column.name[:40]}: {listed(column.values, 6)}")
    if schema.label is not None and labels is not None:
        classes = np.unique(labels).astype(str).tolist()
        shown = f"{len(classes):,} different numbers" if labels.dtype.kind == "f" else listed(classes, 6)
        lines.append(f"label {schema.label[:40]}, not trained on: {shown}")
    cells = []
    for name, (cell,) in list(schema.decode(np.asarray(X[:1], np.float64)).items())[:6]:
        shown = cell[:20] if isinstance(cell, str) else "missing" if cell is None or cell != cell else f"{cell:.6g}"
        cells.append(f"{name[:20]} {shown}")
    lines.append(f"first row: {', '.join(cells)}{', ...' if len(schema.columns) > 6 else ''}")
    return tuple(map(printable, lines))


def printable(line: str) -> str:
    """Without what a terminal would obey: names and cells may hold anything."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
