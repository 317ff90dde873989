"""Time series as .ts files have them (Loening and others, sktime; the archives of timeseriesclassification.com).

Lines that begin with # say what it is, with @ how it is written; after @data a line is one example: its channels, and in
the end its class or target, are apart by colons, the values of a channel by commas, and ? is a missing one.
"""

from __future__ import annotations

import io
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np

from minivae.data.opening import Array, DataError, Stored, opened
from minivae.data.text import check_size


def read_series(path: Path) -> Stored:
    """Read series of one length: [N, C L] float64, the C channels one after the other, and their labels.

    Raises DataError where series differ in length, have time stamps, or hold what is no number, naming the line.
    """
    said: dict[str, str] = {}
    rows: list[tuple[int, list[list[str]]]] = []
    with opened(path) as file:
        check_size(path, file)
        with io.TextIOWrapper(file, encoding="utf-8", errors="replace") as text:
            for number, line in enumerate(map(str.strip, text), 1):
                if "data" in said and line:
                    rows.append((number, [channel.split(",") for channel in line.split(":")]))
                elif line.startswith("@"):
                    word, _, value = line[1:].partition(" ")
                    said[word.lower()] = value.strip().lower()
    if "data" not in said or not rows:
        raise DataError(f"{path} has no rows below a line @data; pass a .ts file with some")
    if said.get("timestamps", "false") != "false":
        raise DataError(f"{path} has a time stamp beside each value; write values at even times without them")
    told = any(said.get(word, "false").startswith("true") for word in ("classlabel", "targetlabel"))
    if told:
        names = [channels.pop()[0].strip() for _, channels in rows]
    shape, count = Counter(tuple(map(len, channels)) for _, channels in rows).most_common(1)[0]
    even = len(set(shape)) == 1
    odd = next((number for number, channels in rows if (tuple(map(len, channels)) == shape) != even), 0)
    if odd:
        most = f"as {count:,} of {len(rows):,} series have"
        wanted = f"not {len(shape)} x {shape[0]} values, {most}" if even else f"channels of {sorted(set(shape))} values"
        raise DataError(f"{path}, line {odd}: {wanted if shape else 'no values'}; cut or fill all series to one length")
    X = np.empty((len(rows), sum(shape)))
    for i, (number, channels) in enumerate(rows):
        values = [value.strip() for channel in channels for value in channel]
        try:
            X[i] = [np.nan if value in ("?", "NaN") else float(value) for value in values]
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}; correct the value, or write ? for none") from error
    labels: Array | None = np.array(names) if told else None
    for kind in (np.float64, np.int64) if labels is not None else ():
        with suppress(ValueError):
            labels = np.array(names).astype(kind)
    missing = int(np.isnan(X).sum())
    form = f"{len(shape)} channels of " * (len(shape) > 1) + f"{shape[0]} values"
    notes = [f"{len(X):,} series of {form}" + f", {missing:,} of them missing" * bool(missing)]
    if "targetlabel" in said and told:
        notes.append("what the file wants predicted is taken as labels: it colours figures, and is not trained on")
    suits = {"likelihood": "gaussian", "standardize": True} | ({"missing": "ignore"} if missing else {})
    return Stored(X, labels, tuple(notes), suits=suits)
