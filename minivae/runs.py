"""A run folder: model.npz, history.csv, config.json and figures/, and how to find one's data again."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minivae import modelfile, randomness
from minivae.data import holdout
from minivae.data_files import DataError
from minivae.datasets import Dataset, load_dataset
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
        return load_dataset(source)

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
    modelfile.write_atomically(path, lambda file: file.write(json.dumps(value, indent=2).encode() + b"\n"))


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One line per epoch; kl_per_dim becomes the columns kl_0, kl_1, ..."""
    rows = []
    for record in history:
        row = {name: value for name, value in record.items() if name != "kl_per_dim"}
        rows.append(row | {f"kl_{j}": value for j, value in enumerate(record["kl_per_dim"])})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    modelfile.write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def pick(run: Run, split: str | None, other: str | None) -> tuple[str, np.ndarray, np.ndarray | None]:
    """The examples of a split [n, D] as stored, and their labels. `validation` is what train held out."""
    dataset = run.dataset(other)
    if other is not None and split is None:
        return other, dataset.train, dataset.train_labels
    fraction = run.config.get("held_fraction", 0) if other is None else 0
    if split is None:
        split = "test" if dataset.test is not None else "validation" if fraction else "train"
    if split == "test":
        if dataset.test is None:
            raise DataError(f"{dataset.name} has no test part; choose --split train or validation")
        return split, dataset.test, dataset.test_labels
    n = len(dataset.train)
    train_rows, held_rows = np.arange(n), np.arange(0)
    if fraction:
        train_rows, held_rows = holdout(n, fraction, randomness.permutation(n, run.vae.seed_, randomness.HOLDOUT))
    elif split == "validation":
        raise DataError("training held nothing out of these data; choose --split train or test")
    rows = train_rows if split == "train" else held_rows
    labels = dataset.train_labels
    return split, dataset.train[rows], None if labels is None else labels[rows]
