"""`minivae compare`: a table of runs, each measured now, on the same rows as the others where they share their data."""

from __future__ import annotations

import argparse
import glob
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minivae.app.runs import open_run, pick
from minivae.app.writing import FIGURES, out_path
from minivae.data.checks import require_count
from minivae.data.datasets import Dataset
from minivae.evaluation.measures import Measured, active_units, mean_of, standard_error
from minivae.evaluation.scores import DRAWS
from minivae.figures import comparison, plots
from minivae.likelihoods import COUNTS, ONE_HOT
from minivae.progress import TROUBLE, bar, one_line, say
from minivae.storage.modelfile import json_text

SEED = 0  # of the noise that all runs share, and of the pixels that are drawn from grey values
NAMES = {"elbo": "ELBO", "log_likelihood": "log-likelihood"}  # what runs are ranked by
KEY = ("the data", "the part of the data", "binarize", "the scale of values", "densities and probabilities")


class Row(NamedTuple):
    """One run: what is told of it, its history, what each of which rows is worth [n]; key: what must be alike to compare."""

    told: dict[str, Any]
    history: list[dict[str, Any]]
    worth: dict[str, np.ndarray]
    rows: np.ndarray
    key: tuple[Any, ...]


def compare(options: argparse.Namespace) -> int:
    for name in ("limit", "n_samples"):
        if getattr(options, name) is not None:
            require_count(name, getattr(options, name))
    if options.figure is not None:
        out_path(options.figure, *FIGURES, option="--figure")
    names: list[str] = []
    for given in options.runs:  # Windows leaves us the *; a name in which it stands, or [, may be of one run
        names += [given] if Path(given).exists() else sorted(glob.glob(given)) or [given]
    groups: dict[Any, list[Row]] = {}
    datasets: dict[Any, Dataset] = {}
    failed = {}
    with bar(len(names), "runs", not options.quiet) as advance:
        for name in names:
            try:
                row = _measure(name, options, datasets)
                groups.setdefault(row.key, []).append(row)
            except TROUBLE as error:
                if options.debug:
                    raise
                failed[name] = one_line(error)
                say(f"minivae: {name} is left out: {failed[name]}")
            advance(1)
    if not groups:
        if options.json:
            print(json_text({"runs": [], "failed": failed, "notes": []}))
        return 1
    found = sorted(groups.values(), key=len, reverse=True)
    notes = [note for rows in found for note in _rank(rows, options.n_samples)]
    if len(found) > 1:
        differ = [what for what, *values in zip(KEY, *groups, strict=True) if len(set(values)) > 1]
        notes.append(f"{len(found)} groups whose nats do not compare: they differ in {', '.join(differ)}")
    every = [row.told["settings"] for rows in found for row in rows]
    varied = [n for n in every[0] if n != "verbose" and len({repr(settings.get(n)) for settings in every}) > 1]
    for i, rows in enumerate(found):
        for row in rows:
            row.told["settings"] = {name: row.told["settings"].get(name) for name in varied}
            row.told["group"] = i
    for note in notes:
        say(note)
    if options.json:
        told = [row.told for rows in found for row in rows]
        print(json_text({"runs": told, "failed": failed, "notes": notes}))
    else:
        print("\n".join(_table([row.told for row in rows]) for rows in found), flush=True)
    if options.figure:
        _draw(options.figure, found[0], len(every))
    return 1 if failed else 0


def _measure(name: str, options: argparse.Namespace, datasets: dict[Any, Dataset]) -> Row:
    run = open_run(name)
    source = repr([options.data or run.config.get("data"), *map(run.config.get, ("condition", "reading", "table"))])
    if source not in datasets:  # each is read once
        datasets[source] = run.dataset(options.data)
    part = pick(run, datasets[source], options.split, own=options.data is None).first(options.limit)
    vae = run.vae
    examples, K = vae.examples(part.data, part.rows, part.told), options.n_samples or DRAWS
    measured = Measured.of(vae.network_, examples, SEED, K)
    units, whole = vae.network_.arch.column_units(), np.ones(vae.n_features_in_, bool)
    for column in vae.network_.arch.runs:
        if column.likelihood != "bernoulli":  # densities are in the table's own units, standardized or not
            units[:, column.columns] = [[0.0], [1.0]]
            whole[column.columns] = column.data in (COUNTS, ONE_HOT)
    history = vae.history_
    told = {
        "run": name, "data": datasets[source].name, "split": part.split, "examples": len(part.rows), "n_samples": K,
        "settings": vae.settings_, "recon": float(measured.recon.mean()), "kl": float(measured.kl.mean()),
        "active_units": active_units(measured.mu).value, "latent_dim": vae.latent_dim, "parameters": vae.n_parameters_,
        "epoch_kept": next((r["epoch"] for r in reversed(history) if r["kept"]), None), "epochs": len(history),
        "seconds": sum(r["seconds"] for r in history),
    }  # fmt: skip
    worth = {"elbo": measured.elbo, "log_likelihood": measured.log_p}
    for which, values in worth.items():
        told[which], told[f"{which}_standard_error"] = mean_of(values)
    key = source, part.split, examples.fixed().binarize, (examples.divide_by, units.tobytes()), whole.tobytes()
    return Row(told, history, worth, part.rows, key)


def _rank(rows: list[Row], n_samples: int | None) -> list[str]:
    """Sort runs that compare, best first, and tell how far each is behind the best. Returns what is to be said of it.

    By log p(x) where n_samples asks for it, or a run has learned a tighter bound, for which its ELBO is the lower one.
    """
    others = [row.told["run"] for row in rows if row.told["settings"]["objective"] != "elbo"]
    by = "log_likelihood" if others or n_samples else "elbo"
    rows.sort(key=lambda row: -row.told[by])
    best, apart, notes = rows[0], [], []
    if others and not n_samples:
        by_what = f"ranked by the log-likelihood of {DRAWS} importance samples (--n-samples takes more)"
        notes.append(f"{by_what}, as {', '.join(others)} learned another bound than the ELBO")
    for row in rows:
        row.told["ranked_by"], row.told["difference"] = by, row.told[by] - best.told[by]
        ours, theirs = row.worth[by], best.worth[by]
        if np.array_equal(row.rows, best.rows):
            with np.errstate(invalid="ignore"):  # of rows that score -inf
                error = standard_error(ours - theirs)
        else:
            apart.append(row.told["run"])
            error = math.hypot(standard_error(ours), standard_error(theirs))
        row.told["difference_standard_error"] = error
    if apart:
        where = f"{', '.join(apart)}: measured on other rows than {best.told['run']}, those that each held out"
        notes.append(f"{where}; the errors of their differences are wider for it")
    return notes


def _table(rows: list[dict[str, Any]]) -> str:
    settings = [n for n in rows[0]["settings"] if n not in ("latent_dim", "epochs")]  # these have their columns
    by = rows[0]["ranked_by"]
    numbers = ("recon", "kl", "active", "parameters", "epochs", "seconds")
    lines = [["run", *settings, NAMES[by], "behind the best", *numbers]]
    for row in rows:
        values = [row["settings"][name] for name in settings]
        lines.append([
            row["run"], *("-".join(map(str, v)) if isinstance(v, tuple | list) else str(v) for v in values),
            spread(row[by], row[f"{by}_standard_error"]),
            "best" if row is rows[0] else spread(row["difference"], row["difference_standard_error"]),
            f"{row['recon']:.3f}", f"{row['kl']:.3f}", active_of(row),
            f"{row['parameters']:,}", f"{row['epoch_kept']} of {row['epochs']}", f"{row['seconds']:.1f}",
        ])  # fmt: skip
    first, *others = zip(*lines, strict=True)
    columns = [[cell.ljust(max(map(len, first))) for cell in first]]
    columns += [[cell.rjust(max(map(len, column))) for cell in column] for column in others]
    head = f"{rows[0]['examples']:,} {rows[0]['split']} examples of {rows[0]['data']}, nats per example"
    head += f", {rows[0]['n_samples']:,} importance samples" * (by == "log_likelihood")
    return "\n  ".join([head, *("  ".join(line) for line in zip(*columns, strict=True))])


def active_of(told: dict[str, Any]) -> str:
    return f"{'?' if told['active_units'] is None else told['active_units']} of {told['latent_dim']}"


def spread(value: float, error: float, width: int = 0) -> str:
    """A number with its standard error."""
    return f"{value:{width}.3f}" + (f" +- {error:.3f}" if math.isfinite(error) else "")


def _draw(path: str, rows: list[Row], total: int) -> None:
    shown = rows[: comparison.MOST]
    if len(shown) < total:
        say(f"{path} shows the best {len(shown)} of the runs that compare; {total - len(shown)} of {total} left out")
    told = [row.told | {"history": row.history} for row in shown]
    plots.save(comparison.comparison(told, NAMES[told[0]["ranked_by"]]), path)
    print(f"wrote {path}")
