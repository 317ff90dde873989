"""What each command does: arguments in, results on standard output, an exit status back."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np

from minivae.app.compare import compare  # noqa: F401  (cli.py looks for commands here)
from minivae.app.drawing import compared, figures, first_of, told
from minivae.app.evaluate import evaluate, nearest_training  # noqa: F401
from minivae.app.exchanging import export, import_  # noqa: F401
from minivae.app.exploring import explore  # noqa: F401
from minivae.app.inspecting import inspect  # noqa: F401
from minivae.app.results import decode, encode, impute, score  # noqa: F401
from minivae.app.runs import open_run, pick
from minivae.app.train import backend, train  # noqa: F401
from minivae.app.writing import FIGURES, TABLES, beside, kind_of, out_path, write_means
from minivae.data.checks import require_count
from minivae.data.datasets import NAMES, dataset_status
from minivae.data.files import DataError
from minivae.figures import plots
from minivae.kernels import MODULES, availability, load
from minivae.progress import say
from minivae.storage.modelfile import json_text


def sample(options: argparse.Namespace) -> int:
    path = out_path(options.out, *TABLES, *[] if options.nearest else [".npy"], *FIGURES)
    run = open_run(options.model)
    require_count("n", options.n, 8 * run.vae.n_features_in_)
    y = told(run.vae, options.n, options.y)
    images = run.vae.sample(options.n, y=y, noise=options.noise, random_state=options.random_state)
    labels = None if y is None or np.size(y) != options.n else np.ravel(y)
    first = beside(run, np.arange(options.n), labels)
    draw = partial(plots.samples, images, run.image_shape)
    if options.nearest:
        known, place, distance = nearest_training(run, images)
        rows = known.rows[place]
        first |= {"nearest": rows, "distance": distance}
        sets = {"sample": images, "nearest": known.data[rows] / known.divide_by}
        draw = partial(plots.pairs, sets, run.image_shape, "Samples and the training rows nearest to them")
    write_means(path, run, images, draw, first)
    if not options.noise and kind_of(path) not in FIGURES:
        say("these are decoder means, smoother than rows of the data; --noise draws such rows")
    return 0


def reconstruct(options: argparse.Namespace) -> int:
    path = out_path(options.out, *TABLES, ".npy", *FIGURES)
    require_count("n", options.n)
    run = open_run(options.model)
    whole = pick(run, run.dataset(options.data), options.split, own=options.data is None)
    part = whole.first(options.n)
    X = part.data[part.rows]
    means = run.vae.reconstruct(X, part.labels)
    first = beside(run, part.rows, part.labels)
    write_means(path, run, means, lambda: compared(run, X, means, first_of(whole, len(X))), first)
    return 0


def plot(options: argparse.Namespace) -> int:
    run = open_run(options.model)
    out = options.out or (run.folder / "figures" if run.folder else None)
    if out is None:
        raise DataError("a model file alone has no run folder; name a folder for the figures with --out")
    if not run.vae.history_:
        raise DataError(f"{options.model} has no training history to plot; `minivae sample` shows what it has learned")
    print("wrote " + "\n      ".join(map(str, figures(run, run.dataset(), Path(out)))))
    return 0


def gradcheck(options: argparse.Namespace) -> int:
    from minivae import kernel_proof, proof

    names = []
    for name in MODULES if options.backend == "all" else [options.backend]:
        works, reason = availability(name)
        if options.dtype == "longdouble" and name != "numpy":
            say(f"{name} is skipped: it has no long double")
        elif works or options.backend != "all":
            names.append(name)
        else:
            say(f"{name} is skipped: {reason}")
    if not names:
        raise DataError("no backend is left to check; --dtype longdouble needs --backend numpy")
    rows = []
    for name in names:
        for row in proof.run(load(name), options.dtype):
            rows.append({"backend": name, "subject": row.subject, "gradient": row.gradient, "error": row.error})
            rows[-1] |= {"tolerance": row.tolerance, "passed": row.passed}
            if not options.json:
                mark = "" if row.passed else "  WRONG"
                print(f"{name:6} {row.subject:46} {row.gradient:14} {row.error:8.1e}{mark}")
    failed = sum(not row["passed"] for row in rows)
    if options.json:
        print(json_text({"rows": rows, "failed": failed}))
    else:
        worst = max(row["error"] for row in rows)
        print(
            f"{len(rows)} gradients checked in {options.dtype} against central differences; {failed} above the tolerance "
            f"{kernel_proof.TOLERANCE[options.dtype]:g}; largest relative error {worst:.1e}"
        )
    return 1 if failed else 0


def grade(options: argparse.Namespace) -> int:
    from minivae.grading import grade

    return grade.run(options)


def data(options: argparse.Namespace) -> int:
    if options.name is not None and options.name not in NAMES:
        raise DataError(f"{options.name!r} is not a named dataset; choose from {', '.join(NAMES)}")
    if options.download and options.name is None:
        raise DataError("--download needs a name; choose from " + ", ".join(NAMES))
    rows = dataset_status(NAMES if options.name is None else [options.name], download=options.download)
    if options.json:
        print(json_text(rows))
        return 0
    for row in rows:
        mark = "here" if row["available"] else "not here"
        size = f"{row['rows']:,} + {row['test_rows']:,} rows of {row['columns']}"
        print(f"{row['name']:14} {mark:9} {size}   {row['licence']}\n{'':14} {row['where']}\n{'':14} {row['source']}")
    return 0


def bench(options: argparse.Namespace) -> int:
    from minivae.bench import report

    return report.run(options)


def backends(options: argparse.Namespace) -> int:
    chosen, rows = backend("auto"), []
    for name in MODULES:
        works, reason = availability(name)
        rows.append({"name": name, "available": works, "reason": reason, "auto": name == chosen})
    if options.json:
        print(json_text(rows))
        return 0
    for row in rows:
        note = "   <- backend='auto' takes this one" if row["auto"] else ""
        print(f"{row['name']:6} {'works' if row['available'] else 'not here':9} {row['reason']}{note}")
    return 0
