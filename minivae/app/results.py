"""What a model says of every row, as a table in a file or on standard output: encode, decode, score, impute.

A result has one row for each row of the data, in their order; `row`, counted from 0, says which where these are not all.
Columns have the names of the table that the model was trained on, else x0, x1, ... as errors count them; those of the
latent space are z1 to zZ, as in the figures. A label, or `row`, whose name a result has gets an underscore behind it.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from minivae.app import writing
from minivae.app.drawing import told
from minivae.app.runs import Part, Run, open_run, pick
from minivae.app.writing import Columns
from minivae.data.checks import require_count
from minivae.data.datasets import Dataset
from minivae.data.files import Array, DataError, read_npy, read_parquet, table_kind
from minivae.data.schema import Column, Schema
from minivae.data.text import as_it_stands
from minivae.estimator import VAE
from minivae.evaluation import inference, scores
from minivae.figures import plots
from minivae.progress import bar
from minivae.storage.modelfile import json_text

PIECE = 4 * inference.CHUNK  # rows in memory at a time: whole chunks, so that the last bit is that of all at once


def encode(options: argparse.Namespace) -> int:
    path = writing.out_path(options.out, *writing.TABLES, ".npy")
    run, part, dataset = _rows(options)
    examples = run.vae.examples(part.data, part.rows, part.told)

    def of(piece: slice) -> Columns:
        mu, logvar = inference.posterior(run.vae.network_, replace(examples, rows=examples.rows[piece]))
        with np.errstate(over="ignore"):
            return writing.numbered("z", mu) | (writing.numbered("sigma", np.exp(logvar / 2)) if options.sigma else {})

    return _write(options, path, run, part, dataset, of)


def score(options: argparse.Namespace) -> int:
    path = writing.out_path(options.out, *writing.TABLES)
    k = options.n_samples
    if k is not None:
        require_count("n_samples", k)
    if options.worst is not None and options.worst < 0:
        raise ValueError(f"worst must be at least 0, not {options.worst}")
    run, part, dataset = _rows(options)
    vae, few = run.vae, 3 if run.schema else 0
    schema = run.schema or Schema(tuple(Column(f"x{j}", "number") for j in range(vae.n_features_in_)))
    worst = range(min(len(schema.columns), few if options.worst is None else options.worst))
    names, starts = [column.name for column in schema.columns], schema.starts
    examples = vae.examples(part.data, part.rows, part.told)

    def of(piece: slice) -> Columns:
        some = replace(examples, rows=examples.rows[piece])
        recon, kl = scores.elbo_terms(vae.network_, some, vae.seed_)
        found = {"elbo": -(recon + kl), "kl": kl, "anomaly_score": recon}
        if k is not None:
            found["log_likelihood"] = scores.log_likelihood(vae.network_, some, k, vae.seed_)
        found = {name: values.astype(vae.network_.dtype) for name, values in found.items()}
        holes = np.isnan(part.data[some.rows])
        if vae.network_.arch.missing != "error":  # a row of which little was observed has little to be strange in
            found["missing"] = holes[:, starts].sum(axis=1)
        if worst:
            table = scores.reconstruction(vae.network_, some, vae.seed_, per_column=True) - log_sigmas(vae)
            table[holes] = -np.inf  # what was not observed fits as it may, and is not named
            table = np.add.reduceat(table, starts, axis=1)  # a category is one column of the table
            order = np.argsort(-table, axis=1, kind="stable")
            order[np.isneginf(np.take_along_axis(table, order, axis=1))] = -1  # the last: no name
            for j in worst:
                found[f"worst{j + 1}"] = np.array([*names, None], object)[order[:, j]]
        return found

    return _write(options, path, run, part, dataset, of)


def log_sigmas(vae: VAE) -> Array:
    """log sigma of each column [D], 0 where it has none: what a column's units, and its noise, add to its every cell.

    Without it the column with the largest numbers would be the one that fits worst in each row.
    """
    try:
        sigma = np.broadcast_to(vae.sigma_, vae.n_features_in_)
    except AttributeError:  # of its own in each row, or no gaussian at all
        sigma = vae.network_.arch.column_units()[1]
    return np.asarray(np.nan_to_num(np.log(sigma)))


def impute(options: argparse.Namespace) -> int:
    path = writing.out_path(options.out, *writing.TABLES, ".npy")
    run, part, dataset = _rows(options)
    vae, labels = run.vae, part.labels if run.vae.condition_ is not None else None
    vae.examples(part.data, part.rows, part.told)  # all rows are looked at before the first is written

    def of(piece: slice) -> Columns:
        y = None if labels is None else labels[piece]
        filled = vae.impute(part.data[part.rows[piece]], y, n_samples=options.n_samples)
        if kind == ".npy":  # in which no category can be a text
            return writing.numbered("x", filled, 0)
        return writing.named(run, filled)

    kind, refilled = writing.kind_of(path), None
    read = table_kind(Path(dataset.source)) if part.split == "all" else ""
    if kind in writing.DELIMITERS and run.schema is not None and read == "text":
        refilled = functools.partial(_refilled, path, run.schema, dataset)
    return _write(options, path, run, part, dataset, of, refilled)


def _refilled(path: Path | None, schema: Schema, dataset: Dataset, of: Callable[[slice], Columns]) -> Iterator[str]:
    """The text of the data's file as it stands, but for the cells that were missing and that the model knows."""
    source = Path(dataset.source)
    how = {name: dataset.reading.get(name) for name in ("delimiter", "encoding", "decimal", "header")}
    with as_it_stands(source, **how, schema=schema) as (table, before, rows, delimiter, decimal):
        if path is not None and writing.kind_of(path) not in Path(source.name.lower()).suffixes:
            delimiter = writing.DELIMITERS[writing.kind_of(path)]
        names = list(table.columns)
        head = list(islice(rows, before)) or ([names] if table.headed else [])  # which may stand in a comment
        yield writing.lines(head, delimiter)
        for start in range(0, len(dataset.train), PIECE):
            piece = slice(start, start + PIECE)
            holes, some = np.isnan(dataset.train[piece]), list(islice(rows, PIECE))
            for at, (name, values) in zip(schema.starts, of(piece).items()):
                filled, j = np.flatnonzero(holes[:, at]), names.index(name)
                for row, text in zip(filled, writing.cells(values[filled])):
                    some[row][j] = text if values.dtype == object else text.replace(".", decimal)
            yield writing.lines(some, delimiter)


def decode(options: argparse.Namespace) -> int:
    path = writing.out_path(options.out, *writing.TABLES, ".npy", *writing.FIGURES)
    run = open_run(options.model)
    Z, labels = _latents(options.latents, run.vae)
    y: Any = None
    if run.vae.condition_ is not None:
        if not options.y and not labels:
            raise DataError(f"this model is told labels; {options.latents} has none: name one, or one a row, with --y")
        y = told(run.vae, len(Z), options.y or labels)
    means = run.vae.inverse_transform(Z, y)
    writing.write_means(path, run, means, lambda: plots.samples(means, run.image_shape), {})
    return 0


def _rows(options: argparse.Namespace) -> tuple[Run, Part, Dataset]:
    """The rows of --split; without it the test part, and of data that have none all rows."""
    run = open_run(options.model)
    dataset = run.dataset(options.data)
    every = options.split is None and dataset.test is None  # those held out are as good as any
    return run, pick(run, dataset, options.split, own=options.data is None and not every), dataset


def _latents(source: str, vae: VAE) -> tuple[Array, list[str]]:
    """Z [n, latent_dim], and labels where there are some: an array, or a table as encode writes it."""
    if source.lower().endswith(".npy"):
        return read_npy(Path(source)), []
    try:
        names, rows = _cells(source)
        wanted = [f"z{j + 1}" for j in range(vae.network_.arch.latent_dim)]
        for name in wanted if rows else ["rows"]:
            if name not in names:
                raise ValueError(f"it has no {'column ' * bool(rows)}{name}")
        places = [names.index(name) for name in wanted]
        labels = [j for j, name in enumerate(names) if not writing.RESULT.fullmatch(name)]
        return np.array([[row[j] for j in places] for row in rows], float), [row[j] for row in rows for j in labels[:1]]
    except (ValueError, IndexError, csv.Error) as error:
        raise DataError(f"{source} cannot be read ({error}); pass what `minivae encode` wrote") from error


def _cells(source: str) -> tuple[list[str], list[list[str]]]:
    """The names of a table's columns, and its rows, as texts."""
    if source.lower().endswith(".parquet"):
        table = read_parquet(Path(source)).to_pydict()
        return [*table], [[*map(str, row)] for row in zip(*table.values())]
    text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8-sig")
    delimiter = "\t" if source.lower().endswith(".tsv") else ","
    names, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row] or [[]]
    return names, rows


def _write(
    options: argparse.Namespace,
    path: Path | None,
    run: Run,
    part: Part,
    dataset: Dataset,
    of: Callable[[slice], Columns],
    text: Callable[[Callable[[slice], Columns]], Iterator[str]] | None = None,
) -> int:
    """What `of` says of the rows of each piece; text: as lines of its own making."""
    n, first = len(part.rows), {} if writing.kind_of(path) == ".npy" else writing.beside(run, part.rows, part.labels)

    def pieces(of: Callable[[slice], Columns]) -> Iterator[Columns]:
        for piece in (slice(start, start + PIECE) for start in range(0, n, PIECE)):
            yield writing.joined({name: values[piece] for name, values in first.items()}, of(piece))

    if path is None and options.json:
        records = [dict(zip(table, row)) for table in pieces(of) for row in zip(*(v.tolist() for v in table.values()))]
        print(json_text(records))
        return 0
    with bar(n, "rows", path is not None and not options.quiet) as advance:

        def counted(piece: slice) -> Columns:
            found = of(piece)
            advance(len(part.rows[piece]))
            return found

        if text is None:
            writing.write(path, pieces(counted))
        else:
            writing.write_text(path, text(counted))
    if path is not None and options.json:
        print(json_text({"out": str(path), "data": dataset.name, "split": part.split, "rows": n}))
    elif path is not None:
        print(f"wrote {path}: {n:,} rows of {dataset.name} ({part.split})")
    return 0
