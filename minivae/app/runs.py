"""A trained model with what is known about its run, and how to find its data again."""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivae.data.datasets import Dataset, load_dataset
from minivae.data.files import Array, DataError
from minivae.data.pictures import PIXELS, WORDS
from minivae.data.schema import STORED, Schema
from minivae.estimator import VAE
from minivae.kernels import MODULES
from minivae.progress import say
from minivae.storage.folders import CHECKPOINT, CONFIG, MODEL, NEW, current
from minivae.storage.modelfile import ModelFileError
from minivae.trouble import INTERRUPTED


@dataclass(frozen=True)
class Run:
    """A trained model with what is known about its data. folder is None for a model file that stands alone."""

    vae: VAE
    config: dict[str, Any]
    folder: Path | None

    def dataset(self, other: str | None = None, download: bool = False) -> Dataset:
        """The data the model was trained on, or `other`."""
        source = other or self.config.get("data")
        if source is None:
            raise DataError("this model file does not say what it was trained on; name a dataset or file with --data")
        width, schema = self.vae.n_features_in_, self.schema
        try:
            dataset = load_dataset(source, download=download, schema=schema, width=width, **reading_of(self.config))
        except DataError as error:
            raise error if other else DataError(f"{error}; or name other data of the kind with --data") from error
        if schema is not None and "missing" in dataset.suits and self.vae.settings_["missing"] == "error":
            row, column = np.argwhere(np.isnan(dataset.train))[0]
            raise DataError(
                f"{dataset.source}, row {row} (from 0) has no value in column {schema.names[column]!r}, and the model was "
                "trained on a table without holes; fill the cell, or train with --missing ignore"
            )
        for note in dataset.notes if other else ():  # those of its own data were said when it was trained
            say(note)
        if other and schema is None and dataset.schema is not None:
            say(f"the model knows no names of columns: those of {dataset.name} are read by position")
        shape, known = dataset.image_shape, self.image_shape
        if other and known and shape and shape != known:  # as many pixels in other places would pass
            raise DataError(
                f"{dataset.name} holds examples of shape {shape}, and the model was trained on {known}; pass such, or "
                "X.reshape(len(X), -1) if the columns are the same"
            )
        return dataset

    @cached_property
    def schema(self) -> Schema | None:
        """What the columns of the table were, where it was one."""
        table = self.config.get("table")
        return None if table is None else Schema.from_dict(table)

    def training(self) -> VAE | None:
        """The model where its training goes on, with the optimizer's moments; None where no checkpoint is kept."""
        kept = self.folder and current(self.folder, CHECKPOINT)
        return VAE.load(kept) if kept and kept.is_file() else None

    def cut_short(self) -> str:
        """A line that says so where the training has not had all of its epochs, and nothing stopped it."""
        done, epochs = len(self.vae.history_), self.vae.settings_["epochs"]
        stopped = self.config.get("stopped") or INTERRUPTED
        if self.folder is None or stopped != INTERRUPTED or done >= epochs:
            return ""
        return f"{self.folder}: {done} of {epochs} epochs; {going_on(self.folder)} goes on with them"

    @property
    def image_shape(self) -> tuple[int, ...] | None:
        shape = self.config.get("image_shape")
        return None if shape is None else tuple(shape)


def going_on(folder: str | Path, *options: str) -> str:
    """The command that does, with these options, as the shells of this system take a path with blanks in it."""
    words = ["minivae", "train", "--resume", str(folder), *options]
    return f"`{subprocess.list2cmdline(words) if os.name == 'nt' else shlex.join(words)}`"


def open_run(path: str | Path) -> Run:
    """The run in a folder, or the model in a file. Raises FileNotFoundError with what is missing.

    The config.json beside it says which data these were, if it is of the same run: a model's file names no paths.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    for look in range(3):  # a run that is being published moves while one looks
        file = current(path, MODEL) if path.is_dir() else path
        try:
            vae, config_file = VAE.load(file), current(folder, CONFIG)
            break
        except FileNotFoundError as error:
            if look == 2:
                fix = "name a run folder that `minivae train` wrote"
                if path.is_dir() and (folder / CHECKPOINT).exists():
                    fix = f"{going_on(folder)} goes on with the training that is kept there"
                raise FileNotFoundError(f"there is no model at {file}; {fix}") from error
    run = Run(vae, config_of(vae, file, config_file), folder if path.is_dir() or config_file.is_file() else None)
    if line := run.cut_short():
        say(line)
    if (folder / NEW / CHECKPOINT).exists():
        say(f"a newer training of {folder} is not complete; {going_on(folder)} goes on if none does now")
    return run


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _text(value: Any, most: int = STORED[1]) -> bool:
    return isinstance(value, str) and len(value) <= most


def _texts(value: Any, most: int = 4 * STORED[0]) -> bool:
    return isinstance(value, list) and len(value) <= most and all(map(_text, value))


def _sizes(value: Any, *counts: int) -> bool:
    return isinstance(value, list) and len(value) in counts and all(map(_whole, value)) and math.prod(value) > 0


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: type(value) is type(values[0]) and value in values


# What a model's file says of its run, and whether that can be so. `id` binds it to its config.json, `stopped` is None until
# the training has ended, `condition` was the label of older runs, `table` is a Schema.
RUN: dict[str, Callable[[Any], bool]] = {"id": _text, "image_shape": lambda v: _sizes(v, 2, 3), "condition": _whole}
RUN |= {"watch_test": _among(False, True), "backend": _among(*MODULES), "stopped": _text}
RUN |= {"versions": lambda v: isinstance(v, dict) and len(v) < 100 and _texts([*v, *v.values()])}
RUN |= {"reading": lambda v: isinstance(v, dict), "table": lambda v: isinstance(v, dict)}
UNSAID = ("image_shape", "condition", "stopped", "table")  # may be None
LATER: dict[str, Any] = {"reading": {}, "table": None}  # what older files do not say, and what holds for them
READING: dict[str, Callable[[Any], bool]] = {"array": _text, "mode": _among(*WORDS), "background": _among(0, 255)}
READING |= {"resize": lambda v: _sizes(v, 2) and math.prod(v) <= PIXELS, "label": lambda v: _text(v) or _whole(v)}
READING |= {"drop": _texts, "columns": _texts, "delimiter": lambda v: _text(v, 2), "decimal": _among(".", ",")}
READING |= {"encoding": lambda v: _text(v, 100) and v.isprintable(), "header": _among(False, True)}  # of load_dataset


def reading_of(config: dict[str, Any]) -> dict[str, Any]:
    """How a run reads its data. `condition` was the label of older runs."""
    told = {} if config.get("condition") is None else {"label": config["condition"]}
    return told | {name: value for name, value in (config.get("reading") or {}).items() if value is not None}


def config_of(vae: VAE, file: Path, config_file: Path) -> dict[str, Any]:
    """What is known of the run of this model: the text beside it, and what stands in it. Raises ModelFileError."""
    config: Any = {}
    if config_file.is_file():
        try:
            config = json.loads(config_file.read_text())
        except (OSError, ValueError, RecursionError):
            config = None
    D = vae.n_features_in_
    kinds = {"image_shape": RUN["image_shape"], "condition": RUN["condition"], "data": _text}
    right = isinstance(config, dict) and all(config.get(n) is None or can_be(config[n]) for n, can_be in kinds.items())
    if not right or math.prod(config.get("image_shape") or [D]) != D:
        if vae.run_ is None:
            raise ModelFileError(f"{config_file} is not what train writes; restore it or train again")
        config = {"run": None}
    if vae.run_ is None:
        return dict(config | LATER)
    known = LATER | vae.run_
    right = known.keys() == RUN.keys() and all(
        n in UNSAID if known[n] is None else can_be(known[n]) for n, can_be in RUN.items()
    )
    try:
        right = right and math.prod(known["image_shape"] or [D]) == D
        if right and known["table"] is not None:
            units = vae.network_.arch.column_units()
            right = Schema.from_dict(known["table"]).agrees(vae.settings_["likelihood"], units)
    except ValueError:
        right = False
    if not right or not all(n in READING and READING[n](v) for n, v in reading_of(known).items()):
        raise ModelFileError(f"what {file} says of its run is not what train writes; copy or train it again")
    if config and config.get("run") != vae.run_["id"]:
        say(f"{config_file} is damaged, or of another run than {file.name}; where data are needed, name them")
        config = {}
    return dict(config | known)


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

    `validation` is what train held out of it, and `train` the rest; of other data without a test part the default is `all`.
    """
    held_rows = run.vae.held_rows_ if own else np.empty(0, np.int64)
    n = len(dataset.train)
    if split is None:
        split = "test" if dataset.test is not None else "validation" if len(held_rows) else "train" if own else "all"
    if split == "test":
        if dataset.test is None:
            raise DataError(f"{dataset.name} has no test part; choose --split train or validation")
        labels = dataset.test_labels
        return Part(split, dataset.test, np.arange(len(dataset.test)), labels, labels)
    if split == "validation" and not len(held_rows):
        raise DataError("training held nothing out of these data; choose --split train or test")
    if len(held_rows) and held_rows[-1] >= n:
        raise DataError(f"{dataset.name} has {n} rows, fewer than when the model was trained; restore it or use --data")
    rows = held_rows if split == "validation" else np.delete(np.arange(n), held_rows)
    labels = dataset.train_labels
    return Part(split, dataset.train, rows, None if labels is None else labels[rows], labels)
