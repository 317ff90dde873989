"""Results as files: which can be written, and tables, arrays and figures with the names and units of the data."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minivae.app.runs import Run
from minivae.data.files import Array, DataError
from minivae.data.opening import library
from minivae.figures import plots
from minivae.progress import say
from minivae.storage.durable import place_of, write_atomically

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLES = (*DELIMITERS, ".parquet")
FIGURES = (".png", ".pdf", ".svg", ".jpg")
PARQUET = ("Parquet", 'pyarrow; run pip install "minivae[parquet]"')  # needs that
ROWS = 4096  # of a table that become text at a time
RESULT = re.compile(r"row|(z|sigma)\d+")  # what decode takes for no label
Columns = dict[str, Array]  # [n] each, by name: numbers, or objects, which are texts and None


def out_path(out: str | None, *endings: str, option: str = "--out") -> Path | None:
    """The file that --out names, None for standard output. Raises, before the work is done, where it cannot be written."""
    if out is None or (out == "-" and option == "--out"):
        return None
    path = Path(out)
    if kind_of(path) not in endings:
        raise DataError(f"{option} {out} ends in none of {', '.join(endings)}; choose the one that you want")
    if kind_of(path) == ".parquet":
        library("pyarrow.parquet", *PARQUET)
    place_of(path)
    return path


def kind_of(path: Path | None) -> str:
    """What its name ends in. Standard output is CSV."""
    return ".csv" if path is None else path.suffix.lower()


def numbered(letter: str, matrix: Array, first: int = 1) -> Columns:
    return {f"{letter}{j}": column for j, column in enumerate(matrix.T, first)}


def named(run: Run, X: Array) -> Columns:
    """The columns of X [n, D] by their names, categories as texts; of data without names x0 to x(D-1)."""
    if run.schema is None:
        return numbered("x", X, 0)
    return {name: v if v.dtype == object else v.astype(X.dtype) for name, v in run.schema.decode(X).items()}


def beside(run: Run, rows: Array, labels: Any) -> Columns:
    """What stands before results: the number of each row where these are not all from the first on, and labels."""
    found = {} if np.array_equal(rows, np.arange(len(rows))) else {"row": rows}
    label = (run.schema.label if run.schema else None) or "label"
    label += "_" * bool(RESULT.fullmatch(label))
    return found if labels is None else found | {label: np.asarray(labels)}


def joined(first: Columns, table: Columns) -> Columns:
    """What stands before a table, and the table; of two columns of one name the former gets underscores behind its own."""
    apart: Columns = {}
    for name, values in first.items():
        while name in table or name in apart:
            name += "_"
        apart[name] = values
    return apart | table


def write(path: Path | None, pieces: Iterator[Columns]) -> None:
    """Pieces of a table, one below the other, to a file or to standard output; to .npy only of numbers."""
    kind = kind_of(path)
    if path is None or kind in DELIMITERS:
        write_text(path, _texts(pieces, DELIMITERS[kind]))
    elif kind == ".npy":
        array = np.concatenate([np.column_stack([*piece.values()]) for piece in pieces])
        write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))
    else:
        table = list(pieces)
        whole = {name: np.concatenate([piece[name] for piece in table]) for name in table[0]}
        arrow, parquet = (library(module, *PARQUET) for module in ("pyarrow", "pyarrow.parquet"))
        write_atomically(path, lambda file: parquet.write_table(arrow.table(whole), file))


def write_text(path: Path | None, texts: Iterator[str]) -> None:
    if path is not None:
        write_atomically(path, lambda file: [file.write(text.encode()) for text in texts])
        return
    for text in texts:
        print(text, end="")


def write_means(path: Path | None, run: Run, means: Array, draw: Callable[[], Any], first: Columns) -> None:
    """The decoder's means [n, D] as a figure or numbers: a table in the data's own units, .npy as the model reads floats.

    first: columns that stand before them in a table. uint8 pixels are fractions in .npy.
    """
    if path is None or kind_of(path) in TABLES:
        X = means * run.vae.divide_by_
        table = joined(first, named(run, X))
        cuts = range(0, len(X), ROWS)
        write(path, ({name: values[at : at + ROWS] for name, values in table.items()} for at in cuts))
    elif kind_of(path) == ".npy":
        X = means * run.vae.divide_by_ if run.vae.scale_.given else means
        write_atomically(path, lambda file: np.save(file, X))
    else:
        drawn = draw()
        plots.save(drawn, path)
        if drawn.get_label():  # how many of the rows it shows, where that is not all
            say(f"{path.name} shows {drawn.get_label()}; end --out in .csv for all")
    if path is not None:
        print(f"wrote {path}")


def _texts(pieces: Iterator[Columns], delimiter: str) -> Iterator[str]:
    """A table as text: each number in the fewest digits that are read as the same number, nothing where there is none."""
    for number, piece in enumerate(pieces):
        head = [] if number else [[*piece]]
        yield lines([*head, *zip(*map(cells, piece.values()))], delimiter)


def lines(rows: Iterable[Iterable[str]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def cells(values: Array) -> list[str]:
    if values.dtype == object:
        return ["" if value is None else str(value) for value in values]
    texts: list[str] = values.astype(str).tolist()
    return ["" if text == "nan" else text.removesuffix(".0") for text in texts] if values.dtype.kind == "f" else texts
