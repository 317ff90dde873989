"""What each command does: arguments in, results on standard output, an exit status back."""

from __future__ import annotations

import argparse
import functools
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivae import __version__, evaluation, scores
from minivae.app.runs import Run, add_to_history, choose_folder, open_run, pick, write_json
from minivae.architecture import Architecture, parameter_layout
from minivae.conditions import Condition
from minivae.data.checks import as_matrix, require_count
from minivae.data.datasets import NAMES, Dataset, dataset_status, load_dataset, told_by
from minivae.data.files import DataError
from minivae.durable import write_atomically
from minivae.estimator import VAE
from minivae.kernels import MODULES, availability, load
from minivae.parameters import size
from minivae.settings import architecture, checked_settings, held_fraction, optimizer_and_objective

# What suits a named dataset better than VAE's defaults; every option given on the command line wins over it.
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {"batch_size": 32, "epochs": 100, "learning_rate": 2e-3, "schedule": "cosine"},
    "mnist": {"epochs": 20},
    "fashion-mnist": {"epochs": 20},
}
SAVE_SECONDS = 30  # of training that a run cut short may lose, at most
FIGURES = ("loss", "reconstructions", "samples", "kl", "latent", "manifold", "traversals", "interpolations")


def train(options: argparse.Namespace) -> int:
    dataset = load_dataset(options.data, download=options.download)
    if options.condition is not None:
        dataset = told_by(dataset, options.condition)
        options.conditional = True
    folder = choose_folder(options.out, options.data, options.overwrite)
    image_shape = _image_shape(options, dataset)
    given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
    recipe = {name: value for name, value in RECIPES.get(options.data, {}).items() if name not in given}
    settings = {"random_state": 0, **recipe, **given}

    # The test part of a dataset is watched, as published curves are, but never used to choose an epoch.
    chooses = given.get("validation_fraction", 0) > 0 or ("patience" in given and "validation_fraction" not in given)
    watch_test = dataset.test is not None and not chooses
    if watch_test:
        settings["validation_fraction"] = 0.0
    vae = VAE(verbose=0 if options.quiet else 1, **settings)
    config: dict[str, Any] = {
        "data": _portable(options.data),
        "image_shape": image_shape,
        "settings": checked_settings(vae),
        "condition": options.condition,
        "versions": {"minivae": __version__, "numpy": np.__version__, "python": platform.python_version()},
    }
    if vae.conditional and dataset.train_labels is None:
        raise DataError(f"{dataset.name} has no labels to tell the model; name a column of it: --condition 0")
    condition = Condition.fitted(dataset.train_labels) if vae.conditional else None
    arch = architecture(config["settings"], dataset.train.shape[1], condition=condition)
    optimizer_and_objective(config["settings"])  # a mistake among the options is found before anything is announced
    load(config["settings"]["backend"])
    if not options.quiet:
        _announce(config["settings"], arch, dataset, watch_test, recipe, folder)

    saved, saved_at = 0, 0.0

    def keep(vae: VAE, record: dict[str, Any]) -> None:
        """After each epoch the folder is complete, so that a run cut short is still worth something.

        The model holds the history: if each of many short epochs wrote it, bytes would grow as their square. It may be 1 %
        of the epochs behind, but not more than SAVE_SECONDS.
        """
        nonlocal saved, saved_at
        if len(vae.history_) == 1:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "config.json", config | {"seed": vae.seed_})
            for name in FIGURES if options.overwrite else ():  # they show the model that is replaced here
                (folder / "figures" / f"{name}.png").unlink(missing_ok=True)
        add_to_history(folder / "history.csv", record)
        due = record["epoch"] - saved > record["epoch"] / 100 or time.monotonic() - saved_at > SAVE_SECONDS
        if record["kept"] and due:
            vae.save(folder / "model.npz")
            saved, saved_at = record["epoch"], time.monotonic()

    vae.callbacks = [keep]
    status = 0
    try:
        test, told = (dataset.test, dataset.test_labels) if watch_test else (None, None)
        vae.fit(dataset.train, dataset.train_labels, X_test=test, y_test=told)
    except KeyboardInterrupt:
        if not (getattr(vae, "history_", None) and vae.stopped_):
            raise
        status = 130  # the epoch was ended and the best one kept: what follows is worth having
    vae.save(folder / "model.npz")
    figures = [] if options.no_figures else _figures(Run(vae, config, folder), dataset, folder / "figures")
    _report_training(options, vae, folder, figures)
    if options.quiet:  # else the trainer has said it
        kept = next(record for record in reversed(vae.history_) if record["kept"])
        _say_collapse(kept["active_units"], vae.latent_dim)
    return status


def _say_collapse(active: int, latent_dim: int) -> None:
    if line := evaluation.collapse(active, latent_dim):
        print(line, file=sys.stderr)


def _announce(
    settings: dict[str, Any],
    arch: Architecture,
    dataset: Dataset,
    watch_test: bool,
    recipe: dict[str, Any],
    folder: Path,
) -> None:
    """What is about to happen, on standard error."""
    n = len(dataset.train)
    held = 0 if watch_test else round(n * held_fraction(settings, has_val=False))
    model = f"{_model_name(settings, arch.data_dim)}, {size(parameter_layout(arch)):,} parameters"
    print(f"{model}\n{dataset.name}: {n - held:,} rows of {arch.data_dim} to train on", file=sys.stderr)
    if watch_test and dataset.test is not None:
        held_out = f"the test part of {len(dataset.test):,} rows is measured after each epoch; the last epoch is kept"
    else:
        held_out = f"{held:,} rows are held out to keep the best epoch" if held else "nothing is held out"
        held_out += "; the test part is not touched" if dataset.test is not None else ""
    print(held_out, file=sys.stderr)
    backend = next(n for n, m in MODULES.items() if load(settings["backend"]).__name__ == f"minivae.kernels.{m}")
    print(f"backend {backend}: {availability(backend)[1]}", file=sys.stderr)
    if recipe:
        print(f"recipe for {dataset.name}: {recipe_options(recipe)}", file=sys.stderr)
    print(f"writing to {folder}", file=sys.stderr)


def _model_name(settings: dict[str, Any], columns: int) -> str:
    widths = "-".join(map(str, [columns, *settings["hidden_dims"], settings["latent_dim"]]))
    return f"{widths} {settings['activation']}, {settings['likelihood']} likelihood"


def recipe_options(recipe: dict[str, Any]) -> str:
    """A recipe as it would be typed."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in recipe.items())


def _report_training(options: argparse.Namespace, vae: VAE, folder: Path, figures: list[Path]) -> None:
    kept = next(record for record in reversed(vae.history_) if record["kept"])
    files = [folder / "model.npz", folder / "history.csv", folder / "config.json", *figures]
    if options.json:
        print(json.dumps({"out": str(folder), "stopped": vae.stopped_, "kept": kept, "files": list(map(str, files))}))
        return
    seconds = sum(record["seconds"] for record in vae.history_)
    print(
        f"{_model_name(vae.settings_, vae.n_features_in_)}, {vae.n_parameters_:,} parameters: "
        f"{len(vae.history_)} epochs, {seconds:.1f} s of training"
    )
    for part, name in {"": "train", "val_": "validation", "test_": "test"}.items():
        if f"{part}loss" in kept:
            numbers = "   ".join(f"{n} {kept[part + n]:.2f}" for n in ("loss", "recon", "kl"))
            print(f"{name:>10}: {numbers}   nats per example, epoch {kept['epoch']}")
    if kept["loss"] < 0:
        print("a loss below 0 is no mistake: a density, unlike a probability, may exceed 1", file=sys.stderr)
    print("wrote " + "\n      ".join(map(str, files)))


def evaluate(options: argparse.Namespace) -> int:
    for name in ("limit", "n_samples"):
        if getattr(options, name) is not None:
            require_count(name, getattr(options, name))
    run = open_run(options.model)
    vae, dataset = run.vae, run.dataset(options.data)
    part = pick(run, dataset, options.split, own=options.data is None).first(options.limit)
    examples, n = vae.examples(part.data, part.rows, part.told), len(part.rows)
    recon, kl = scores.elbo_terms(vae.network_, examples, vae.seed_)
    from tqdm import tqdm

    with tqdm(total=n * options.n_samples, unit="draw", leave=False, disable=options.quiet or None) as bar:
        log_p = scores.log_likelihood(vae.network_, examples, options.n_samples, vae.seed_, bar.update)
    active = evaluation.active_units(evaluation.posterior(vae.network_, examples)[0])
    with np.errstate(invalid="ignore"):  # of rows that score -inf
        error = float(log_p.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    if n > 1:  # the mean of one example does not vary
        _say_collapse(int(active.sum()), vae.latent_dim)
    result = {
        "data": dataset.name,
        "split": part.split,
        "examples": n,
        "elbo": float(-(recon + kl).mean()),
        "recon": float(recon.mean()),
        "kl": float(kl.mean()),
        "log_likelihood": float(log_p.mean()),
        "log_likelihood_standard_error": error,
        "n_samples": options.n_samples,
        "active_units": int(active.sum()),
        "latent_dim": vae.latent_dim,
        "binarize": examples.fixed().binarize,
    }
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{n:,} {part.split} examples of {dataset.name}, nats per example")
    print(f"  ELBO            {result['elbo']:10.3f}   (recon {result['recon']:.3f}, kl {result['kl']:.3f})")
    print(
        f"  log-likelihood  {result['log_likelihood']:10.3f}"
        + (f" +- {error:.3f}" if error is not None else "")
        + f"   ({options.n_samples} importance samples)"
    )
    print(f"  active units    {result['active_units']:6d} of {vae.latent_dim}")
    return 0


def sample(options: argparse.Namespace) -> int:
    run = open_run(options.model)
    require_count("n", options.n)
    y = _told(run.vae, options.n, options.y)
    images = run.vae.sample(options.n, y=y, noise=options.noise, random_state=options.random_state)
    _write(options.out, images, lambda plots: plots.samples(images, run.image_shape))
    return 0


def _told(vae: VAE, n: int, words: Sequence[str] | None = None) -> Any:
    """What a conditional model is told for n samples: the labels named, else all of them, in turns."""
    if vae.condition_ is None:
        if words:
            raise DataError("this model is told no labels; leave --y out, or train one with --conditional")
        return None
    known = vae.condition_.classes
    if not words and not known:
        raise DataError("this model is told numbers; name them with --y")
    numeric = not known or not isinstance(known[0], str)
    try:
        kind = str if not numeric else int if known else float
        labels = [kind(word) for word in words] if words else list(known)
    except ValueError as error:
        raise DataError(f"--y takes numbers for this model ({error})") from error
    if not known:
        return [labels]
    return np.resize(np.array(labels), n)


def reconstruct(options: argparse.Namespace) -> int:
    require_count("n", options.n)
    run = open_run(options.model)
    part = pick(run, run.dataset(options.data), options.split, own=options.data is None).first(options.n)
    X = part.data[part.rows]
    means = run.vae.reconstruct(X, part.labels)
    _write(options.out, means, lambda plots: plots.reconstructions(_scaled(run.vae, X), means, run.image_shape))
    return 0


def plot(options: argparse.Namespace) -> int:
    run = open_run(options.model)
    out = options.out or (run.folder / "figures" if run.folder else None)
    if out is None:
        raise DataError("a model file alone has no run folder; name a folder for the figures with --out")
    if not run.vae.history_:
        raise DataError("this model has no training history to plot")
    print("wrote " + "\n      ".join(map(str, _figures(run, run.dataset(), Path(out), required=True))))
    return 0


def gradcheck(options: argparse.Namespace) -> int:
    from minivae import proof

    names = []
    for name in MODULES if options.backend == "all" else [options.backend]:
        works, reason = availability(name)
        if works or options.backend != "all":
            names.append(name)
        else:
            print(f"{name} is skipped: {reason}", file=sys.stderr)
    rows = []
    for name in names:
        for row in proof.run(load(name)):
            rows.append({"backend": name, "subject": row.subject, "gradient": row.gradient, "error": row.error})
            rows[-1] |= {"tolerance": row.tolerance, "passed": row.passed}
            if not options.json:
                mark = "" if row.passed else "  WRONG"
                print(f"{name:6} {row.subject:46} {row.gradient:14} {row.error:8.1e}{mark}")
    failed = sum(not row["passed"] for row in rows)
    if options.json:
        print(json.dumps({"rows": rows, "failed": failed}))
    else:
        worst = max(row["error"] for row in rows)
        print(
            f"{len(rows)} gradients checked in float64 against central differences; {failed} above the tolerance "
            f"{proof.TOLERANCE:g}; largest relative error {worst:.1e}"
        )
    return 1 if failed else 0


def data(options: argparse.Namespace) -> int:
    if options.name is not None and options.name not in NAMES:
        raise DataError(f"{options.name!r} is not a named dataset; choose from {', '.join(NAMES)}")
    if options.download and options.name is None:
        raise DataError("--download needs a name; choose from " + ", ".join(NAMES))
    rows = dataset_status(NAMES if options.name is None else [options.name], download=options.download)
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        mark = "here" if row["available"] else "not here"
        size = f"{row['rows']:,} + {row['test_rows']:,} rows of {row['columns']}"
        print(f"{row['name']:14} {mark:9} {size}   {row['licence']}")
        print(f"{'':14} {row['where']}")
        print(f"{'':14} {row['source']}")
    return 0


def bench(options: argparse.Namespace) -> int:
    from minivae.bench import report

    return report.run(options)


def backends(options: argparse.Namespace) -> int:
    chosen = load("auto").__name__
    rows = []
    for name, module in MODULES.items():
        works, reason = availability(name)
        auto = chosen == f"minivae.kernels.{module}"
        rows.append({"name": name, "available": works, "reason": reason, "auto": auto})
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        note = "   <- backend='auto' takes this one" if row["auto"] else ""
        print(f"{row['name']:6} {'works' if row['available'] else 'not here':9} {row['reason']}{note}")
    return 0


# ---- Figures and other files


def _figures(run: Run, dataset: Dataset, folder: Path, required: bool = False) -> list[Path]:
    """Every figure of a run. Without matplotlib training goes on, and says what is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        if required:
            raise ImportError("figures need matplotlib; run pip install 'minivae[plot]'") from error
        print("no figures: they need matplotlib; run pip install 'minivae[plot]', then minivae plot", file=sys.stderr)
        return []
    from minivae.figures import plots

    vae, shape = run.vae, run.image_shape
    part = pick(run, dataset, None, own=True).first(5000)
    X = part.data[part.rows]
    mu, latent_dim = vae.transform(X, part.labels), vae.network_.arch.latent_dim
    told = None if part.labels is None else part.labels[:10]
    numbers = vae.condition_ is not None and not vae.condition_.classes
    beside = np.resize(part.labels, 64) if numbers and part.labels is not None else _told(vae, 64)
    decode = functools.partial(vae.inverse_transform, y=None if told is None else told[:1])
    figures = {
        "loss": plots.loss_curves(vae.history_),
        "reconstructions": plots.reconstructions(_scaled(vae, X[:10]), vae.reconstruct(X[:10], told), shape),
        "samples": plots.samples(vae.sample(64, y=beside, random_state=vae.seed_), shape),
        "kl": plots.kl_per_dimension(vae.history_),
    }
    if latent_dim >= 2:
        first, second = np.sort(np.argsort(-mu.var(axis=0))[:2])  # the two that are used most
        figures["latent"] = plots.latent_scatter(mu, part.labels, dims=(int(first), int(second)))
    if latent_dim == 2:
        small = shape is not None and max(shape) < 16  # fewer cells, so that a few pixels each can be read
        figures["manifold"] = plots.manifold(decode, shape, size=12 if small else 20)
    else:
        half = min(4, len(mu) // 2)
        figures["traversals"] = plots.traversals(decode, shape, mu)
        if half:
            figures["interpolations"] = plots.interpolations(decode, mu[:half], mu[half : 2 * half], shape)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        plots.save(figure, paths[-1])
    return paths


def _write(out: str, array: np.ndarray, figure: Any) -> None:
    path = Path(out)
    if path.suffix == ".npy":
        write_atomically(path, lambda file: np.save(file, array))
    else:
        from minivae.figures import plots

        drawn = figure(plots)
        plots.save(drawn, path)
        if drawn.get_label():  # how many of the rows it shows, where that is not all
            print(f"{path.name} shows {drawn.get_label()}; end --out in .npy for all", file=sys.stderr)
    print(f"wrote {path}")


def _scaled(vae: VAE, X: np.ndarray) -> np.ndarray:
    """X as the model sees it."""
    return np.asarray(X, np.float64) / vae.scale_.divisor(as_matrix(X), vae.settings_["likelihood"])


def _image_shape(options: argparse.Namespace, dataset: Dataset) -> tuple[int, ...] | None:
    shape = dataset.image_shape if options.image_shape is None else tuple(options.image_shape)
    columns = dataset.train.shape[1]
    if shape is not None and (len(shape) not in (2, 3) or math.prod(shape) != columns):
        raise DataError(f"--image-shape {' '.join(map(str, shape))} does not hold the {columns} columns of the data")
    return shape


def _portable(data: str) -> str:
    """A dataset's name as it is, a file's path absolute, so that the run finds its data from any folder."""
    return str(Path(data).expanduser().resolve()) if Path(data).exists() and data not in RECIPES else data
