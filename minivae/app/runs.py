"""A run folder: model.npz, history.csv, config.json and figures/, and how to find one's data again."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivae import modelfile
from minivae.data.datasets import Dataset, load_dataset, told_by
from minivae.data.files import Array, DataError
from minivae.durable import write_atomically
from minivae.estimator import VAE


@dataclass(frozen=True)
class Run:
    """A trained model with what is known about its data. folder is None for a model file that stands alone."""

    vae: VAE
    config: dict[str, Any]
    folder: Path | None

    def dataset(self, other: str | None = None) -> Dataset:
        """The data the model was trained on, or `other`."""
        source = other or self.config.get("data")
        if source is None:
            raise DataError("this model file does not say what it was trained on; name a dataset or file with --data")
        column = self.config.get("condition")
        dataset = load_dataset(source)
        return dataset if column is None else told_by(dataset, column)

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        shape = self.config.get("image_shape")
        return None if shape is None else tuple(shape)


def open_run(path: str | Path) -> Run:
    """The run in a folder, or the model in a file. Raises FileNotFoundError with what is missing."""
    path = Path(path)
    folder, file = (path, path / "model.npz") if path.is_dir() else (path.parent, path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no model at {file}; name a run folder that `minivae train` wrote")
    config_file = folder / "config.json"
    config = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text())
        except ValueError as error:
            raise modelfile.ModelFileError(f"{config_file} is not JSON ({error}); restore it or train again") from error
        shape = config.get("image_shape") if isinstance(config, dict) else 0
        if not (shape is None or isinstance(shape, list)) or not isinstance(config.get("data"), str | None):
            raise modelfile.ModelFileError(f"{config_file} is not what train writes; restore it or train again")
    return Run(VAE.load(file), config, folder if config else None)


def choose_folder(out: str | None, name: str, overwrite: bool) -> Path:
    """Where a new run goes; nothing is created yet. Raises FileExistsError rather than write over another model."""
    if out is None:
        stem = re.sub(r"[^\w.-]+", "-", Path(name).stem) or "run"
        folder, number = Path("runs") / stem, 1
        while folder.exists() and not overwrite:
            number += 1
            folder = Path("runs") / f"{stem}-{number}"
    else:
        folder = Path(out)
        if (folder / "model.npz").exists() and not overwrite:
            raise FileExistsError(f"{folder} already holds a model; choose another --out or pass --overwrite")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose another --out")
    parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"{parent} cannot be written to; choose another --out")
    return folder


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, lambda file: file.write(json.dumps(value, indent=2).encode() + b"\n"))


def add_to_history(path: Path, record: dict[str, Any]) -> None:
    """A line of history.csv, under the heads if it is the first; kl_per_dim becomes the columns kl_0, kl_1, ..."""
    row = {name: value for name, value in record.items() if name != "kl_per_dim"}
    row |= {f"kl_{j}": value for j, value in enumerate(record["kl_per_dim"])}
    first = record["epoch"] == 1
    with open(path, "w" if first else "a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerow(row)


class Part(NamedTuple):
    """Some rows of a data matrix [n, D] as stored, nothing copied, and their labels; told: the labels of all rows of it."""

    split: str
    data: Array
    rows: Array
    labels: Array | None
    told: Array | None

    def first(self, n: int | None) -> Part:
        return Part(self.split, self.data, self.rows[:n], None if self.labels is None else self.labels[:n], self.told)


def pick(run: Run, dataset: Dataset, split: str | None, own: bool) -> Part:
    """A part of a dataset, by default test, else validation, else train. own: it is what the model was trained on.

    `validation` is what train held out of it, and `train` the rest; of other data, `train` is all but the test part.
    """
    held_rows = run.vae.held_rows_ if own else np.empty(0, np.int64)
    n = len(dataset.train)
    if split is None:
        split = "test" if dataset.test is not None else "validation" if len(held_rows) else "train"
    if split == "test":
        if dataset.test is None:
            raise DataError(f"{dataset.name} has no test part; choose --split train or validation")
        labels = dataset.test_labels
        return Part(split, dataset.test, np.arange(len(dataset.test)), labels, labels)
    if split == "validation" and not len(held_rows):
        raise DataError("training held nothing out of these data; choose --split train or test")
    if len(held_rows) and held_rows[-1] >= n:
        raise DataError(
            f"{dataset.name} has {n} rows, fewer than when the model was trained; restore it or pass --data"
        )
    rows = held_rows if split == "validation" else np.delete(np.arange(n), held_rows)
    labels = dataset.train_labels
    return Part(split, dataset.train, rows, None if labels is None else labels[rows], labels)
