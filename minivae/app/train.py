"""`minivae train`: a dataset and options in, a run folder out; and the same again from where a run was cut short."""

from __future__ import annotations

import argparse
import functools
import math
import os
import platform
import secrets
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minivae import __version__
from minivae.app.drawing import embedded, figures
from minivae.app.recorder import Recorder
from minivae.app.runs import READING, RUN, Run, config_of, going_on
from minivae.architecture import Architecture, parameter_layout
from minivae.conditions import Condition
from minivae.data.datasets import Dataset, load_dataset
from minivae.data.files import DataError
from minivae.estimator import VAE
from minivae.evaluation import inference
from minivae.kernels import MODULES, availability, load
from minivae.likelihoods import REAL, domains
from minivae.parallel import world
from minivae.parameters import size
from minivae.progress import say
from minivae.settings import architecture, checked_settings, held_fraction, optimizer_and_objective, resolved
from minivae.storage.checkpoints import check_resume
from minivae.storage.folders import CHECKPOINT, CONFIG, FIGURES, HISTORY, MODEL, Folder, claim
from minivae.storage.modelfile import json_text
from minivae.training import Best
from minivae.trouble import INTERRUPTED, ending
from minivae.verdict import kept_record, verdict

MANY = 2 * 10**7  # parameters, beyond which their cost is said
Named = dict[str, Any]
# What suits a named dataset better than VAE's defaults; every option given on the command line wins over it.
RECIPES: dict[str, Named] = {
    "digits": {"batch_size": 32, "epochs": 100, "learning_rate": 2e-3, "schedule": "cosine"},
    "mnist": {"epochs": 20},
    "fashion-mnist": {"epochs": 20},
}


def train(options: argparse.Namespace) -> int:
    options.ranks = world()
    options.ranks.require_alike(options.out, options.resume)
    options.quiet |= options.ranks.rank > 0
    if options.ranks.size > 1 and not options.quiet:
        say(f"{options.ranks.size} processes share out each batch")
    if options.resume is not None:
        return resume(options)
    if options.data is None:
        raise DataError("train needs DATA, a dataset or file, or --resume with a run folder; see minivae train --help")
    if options.condition is not None:
        options.label, options.conditional = options.condition, True
    asked = {name: value for name in READING if (value := getattr(options, name, None)) is not None}
    dataset = load_dataset(options.data, download=options.download, **asked)
    for name in asked.keys() - dataset.reading.keys():
        raise DataError(f"--{name} has no meaning for {options.data}; leave it out")
    given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
    suits = RECIPES.get(options.data, {}) | dataset.suits
    if given.keys() & {"likelihood", "divide_by", "binarize"}:  # whoever says what the numbers are has said it all
        free = REAL in domains(given.get("likelihood", "bernoulli"))  # but for their scale
        suits = {n: v for n, v in suits.items() if n != "likelihood" and (n != "standardize" or free)}
    recipe = {name: value for name, value in suits.items() if name not in given}
    settings = {"random_state": 0, **recipe, **given}
    checked_settings(VAE(**settings))  # before anything is read out of them

    # The test part of a dataset is watched, as published curves are, but never used to choose an epoch, or the last one.
    chooses = "patience" in given or "epochs" not in settings
    watch_test = dataset.test is not None and given.get("validation_fraction", float(chooses)) == 0
    if watch_test:
        settings["validation_fraction"] = 0.0
    vae = VAE(verbose=0 if options.quiet else 1, **settings)
    settings, n = checked_settings(vae), len(dataset.train)
    held = round(n * held_fraction(settings, False, n))
    settings = resolved(settings, n - held, held > 0)
    table = dataset.schema and dataset.schema.to_dict()
    if dataset.schema is not None and table is None:
        what = f"{dataset.name} has more columns, or longer names, than a model's file holds"
        if any(column.values for column in dataset.schema.columns):
            raise DataError(f"{what}, and its texts mean nothing without; leave them out (--drop), or shorten names")
        dataset = replace(dataset, notes=(*dataset.notes, f"{what}: the columns of other tables are read by position"))
    run: Named = {
        "id": secrets.token_hex(8),
        "image_shape": _image_shape(options.image_shape, dataset),
        "condition": None,  # in which older files have a label's number
        "watch_test": watch_test,
        "backend": backend(settings["backend"]),
        "reading": dataset.reading,
        "table": table,
        "versions": {"minivae": __version__, "numpy": np.__version__, "python": platform.python_version()},
        "stopped": None,
    }
    if vae.conditional and dataset.train_labels is None:
        raise DataError(f"{dataset.name} has no labels to tell the model; name a column of it: --label COLUMN")
    condition = Condition.fitted(dataset.train_labels) if vae.conditional else None
    arch = architecture(settings, dataset.train.shape[1], condition=condition)
    optimizer_and_objective(settings)  # a mistake among the options is found before anything is announced
    if options.ranks.rank:
        return _follow(options, vae, dataset, run)
    with claim(options.out, options.data, options.overwrite) as folder:
        run["data"] = _portable(options.data)
        announce = functools.partial(_announce, settings, arch, dataset, held, watch_test, recipe, folder)
        return _fit(options, vae, dataset, run, settings, folder, announce)


def resume(options: argparse.Namespace) -> int:
    """Go on with a run: its own options, over which any that is given wins, as far as it can change now."""
    for name in ("out", "overwrite", "condition", *READING):
        if (value := getattr(options, name, None)) is not None:
            no = "no-" * (value is False)
            raise DataError(f"--resume goes on with a run where it is, as it began; leave --{no}{name} out")
    path = Path(options.resume)
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run folder {path}; --resume takes one that `minivae train` wrote")
    with Folder(path) if options.ranks.rank == 0 else nullcontext() as folder:
        if folder is not None:
            folder.again()
        kept = Path(options.ranks.first(folder and str(folder.place / CHECKPOINT)))
        if not kept.is_file():
            raise FileNotFoundError(f"{path} holds no {CHECKPOINT} to go on from; name a run's folder, or train anew")
        given = {name: value for name, value in vars(options).items() if name in VAE().get_params()}
        vae = VAE.load(kept)
        if vae.run_ is None or getattr(vae, "trainer_", None) is None or vae.trainer_.best is None:
            raise DataError(f"{kept} is not what train writes there; if fit did: fit(X, resume=True)")
        run = config_of(vae, kept, kept.parent / CONFIG)
        if options.data is None and run.get("data") is None:
            raise DataError(f"nothing says on which data {path} was trained: minivae train DATA --resume {path}")
        before = vae.settings_ | {"backend": run["backend"]}
        if (wanted := given.get("backend", run["backend"])) != backend(vae.backend):  # another one rounds differently
            vae = VAE.load(kept, backend=wanted)
        vae.run_ = None
        vae.set_params(**given, verbose=0 if options.quiet else 1)
        settings = resolved(checked_settings(vae), 0, False, vae.settings_)
        changed = [name for name in given if settings[name] != before[name]]
        dataset = Run(vae, run, path).dataset(options.data, options.download)
        held_fraction(settings, False, len(dataset.train), began=True)
        if options.data is not None:
            run["data"] = _portable(options.data)
        if options.image_shape is not None:
            run["image_shape"] = _image_shape(options.image_shape, dataset)
        run |= {"backend": backend(settings["backend"]), "stopped": None}
        trainer, best = vae.trainer_, None
        ended = trainer.epoch >= settings["epochs"] or trainer.stopped not in ("", INTERRUPTED)
        if ended and trainer.begun is None and not changed and options.data is None:
            told = f"{path} has been trained: its last files are written again; raise --epochs to train on"
            best = trainer.best
            trainer.stopped = trainer.stopped.replace(INTERRUPTED, "")  # Ctrl-C came after the last step
        else:
            check_resume(vae.settings_, settings, trainer)
            told = f"going on with {path} after {trainer.epoch} of {settings['epochs']} epochs, step {trainer.step:,}"
        lines = [told, *(f"{name.replace('_', '-')} {before[name]} -> {settings[name]}" for name in changed)]
        announce = functools.partial(say, "\n".join(lines))
        if folder is None:
            return 0 if best is not None else _follow(options, vae, dataset, run, resumed=True)
        return _fit(options, vae, dataset, run, settings, folder, announce, resumed=True, best=best)


def _follow(options: argparse.Namespace, vae: VAE, dataset: Dataset, run: Named, resumed: bool = False) -> int:
    """What any process but the first has to do."""
    test, told = (dataset.test, dataset.test_labels) if run["watch_test"] else (None, None)
    try:
        with ending():
            data = dataset.train, dataset.train_labels
            vae.fit(*data, X_test=test, y_test=told, resume=resumed, comm=options.ranks.comm)
    except KeyboardInterrupt as error:
        if INTERRUPTED not in error.args:  # on which not all have agreed
            raise
        return 130
    return 0


def _fit(
    options: argparse.Namespace,
    vae: VAE,
    dataset: Dataset,
    run: Named,
    settings: Named,
    folder: Folder,
    announce: Callable[[], None],
    resumed: bool = False,
    best: Best | None = None,  # of a run that has been trained
) -> int:
    config = {name: run[name] for name in ("data", "image_shape", "condition", "table", "versions")}
    config |= {"run": run["id"], "settings": settings}
    begin = announce if not options.quiet else lambda: None
    recorder, status = Recorder(folder, {name: run[name] for name in RUN}, config, begin), 0
    test, told = (dataset.test, dataset.test_labels) if run["watch_test"] else (None, None)
    with ending():
        try:
            X, y = dataset.train, dataset.train_labels
            if best is not None:
                begin()
                vae.network_.set_parameters(best.parameters)
            else:
                several = options.ranks.comm
                vae.fit(X, y, X_test=test, y_test=told, checkpoint=recorder, resume=resumed, comm=several)
        except KeyboardInterrupt as error:
            if INTERRUPTED not in error.args or not vae.history_:  # the second Ctrl-C, or none of training's
                raise
            status = 130  # the epoch was ended and the best one kept: what follows is worth having
            say(f"minivae: {going_on(folder.path)} goes on from the step before the interrupt")
        except SystemExit:
            if (folder.place / CHECKPOINT).exists():
                say(f"minivae: ended by the system; {going_on(folder.path)} goes on")
            raise
        recorder.complete(vae)
        drawn = [] if options.no_figures else _draw(Run(vae, run, folder.path), dataset, folder.place / FIGURES)
        if status == 0:
            folder.publish()
        elif folder.place != folder.path:  # what was interrupted is not complete, and replaces nothing that is
            say(f"minivae: the run that was in {folder.path} is as it was")
    drawn = [folder.place / FIGURES / path.name for path in drawn]
    active = kept_record(vae.history_)["active_units"]
    with suppress(ValueError, ArithmeticError, OSError):  # as `evaluate` counts them, where it can
        mu = embedded(Run(vae, run, folder.path), dataset)[2]
        active = int(inference.active_units(mu).sum()) if len(mu) > 1 else active
    try:
        _report(options, vae, folder, drawn, active)
    except OSError as error:  # the terminal has gone, but the run is complete
        if options.json:
            raise
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (what is left in the buffer would fail again at exit)
        say(f"minivae: the report cannot be written ({error.strerror}); the run is in {folder.path}")
    say_collapse(active, vae.settings_)
    return status


def _draw(run: Run, dataset: Dataset, folder: Path) -> list[Path]:
    """The figures: whatever is wrong with them, the model is there."""
    try:
        return figures(run, dataset, folder)
    except Exception as error:
        say(f"minivae: no figures ({error}); `minivae plot {run.folder}` draws them again")
        return []


def backend(name: str) -> str:
    """Of "auto" and every other name, the one that is taken."""
    module = load(name).__name__
    return next(n for n, m in MODULES.items() if module == f"minivae.kernels.{m}")


def say_collapse(active: int, settings: Named) -> None:
    if line := inference.collapse(active, settings["latent_dim"], settings["objective"]):
        say(line)


def _announce(
    settings: Named, arch: Architecture, dataset: Dataset, held: int, watch_test: bool, recipe: Named, folder: Folder
) -> None:
    """What is about to happen, on standard error."""
    count = size(parameter_layout(arch))
    say(f"{_model_name(settings, arch.data_dim)}, {count:,} parameters")
    if count > MANY:
        small = " pictures: --resize 64 64;" * (dataset.image_shape is not None)
        say(f"they fill {count * 20 / 2**30:.1f} GB of memory and of disk;{small} --hidden-dims makes fewer")
    for note in (*(dataset.described() if dataset.schema else ()), *dataset.notes):
        say(note)
    say(f"{dataset.name}: {len(dataset.train) - held:,} rows of {arch.data_dim} to train on")
    if watch_test and dataset.test is not None:
        held_out = f"the test part of {len(dataset.test):,} rows is measured after each epoch; the last epoch is kept"
    else:
        held_out = f"{held:,} rows are held out to keep the best epoch" if held else "nothing is held out"
        held_out += "; the test part is not touched" if dataset.test is not None else ""
    say(held_out)
    if settings["objective"] != "elbo" and settings["n_samples"] == 1:
        say(
            f"one sample bounds log p(x) no tighter than the ELBO does: --n-samples 5 is what {settings['objective']} is for"
        )
    name = backend(settings["backend"])
    say(f"backend {name}: {availability(name)[1]}")
    if recipe:
        say(f"recipe for {dataset.name}, over which options win: {recipe_options(recipe)}")
    kept = "" if folder.place == folder.path else "; the run that is there stays until this one is complete"
    say(f"writing to {folder.path}{kept}")


def _model_name(settings: Named, columns: int) -> str:
    widths = "-".join(map(str, [columns, *settings["hidden_dims"], settings["latent_dim"]]))
    return f"{widths} {settings['activation']}, {settings['likelihood']} likelihood{learned(settings)}"


def learned(settings: Named) -> str:
    """The objective, where it is not the ELBO."""
    return "" if settings["objective"] == "elbo" else f", {settings['objective']} of K = {settings['n_samples']}"


def recipe_options(recipe: Named) -> str:
    """A recipe as it would be typed."""
    values = {n: "" if value is True else f" {shlex.quote(str(value))}" for n, value in recipe.items()}
    return " ".join(f"--{name.replace('_', '-')}{value}" for name, value in values.items())


def _report(options: argparse.Namespace, vae: VAE, folder: Folder, drawn: list[Path], active: int) -> None:
    kept, go_on = kept_record(vae.history_), lambda n: f"{going_on(folder.path, '--epochs', str(n))} trains on"
    word, lines = verdict(vae.history_, vae.latent_dim, vae.stopped_, go_on, active)
    files = [*(folder.place / name for name in (MODEL, CHECKPOINT, HISTORY, CONFIG)), *drawn]
    if options.json:
        out = {"out": str(folder.path), "stopped": vae.stopped_, "kept": kept, "verdict": word, "advice": lines}
        print(json_text(out | {"active_units": active, "files": list(map(str, files))}))
        return
    name, seconds = _model_name(vae.settings_, vae.n_features_in_), sum(record["seconds"] for record in vae.history_)
    print(f"{name}, {vae.n_parameters_:,} parameters: {len(vae.history_)} epochs, {seconds:.1f} s of training")
    for part, name in {"": "train", "val_": "validation", "test_": "test"}.items():
        if f"{part}loss" in kept:
            numbers = "   ".join(f"{n} {kept[part + n]:.2f}" for n in ("loss", "recon", "kl"))
            print(f"{name:>10}: {numbers}   nats per example, epoch {kept['epoch']}")
    for line in lines:
        print(line)
    if kept["loss"] < 0:
        say("a loss below 0 is no mistake: a density, unlike a probability, may exceed 1")
    print("wrote " + "\n      ".join(map(str, files)), flush=True)


def _image_shape(given: list[int] | None, dataset: Dataset) -> list[int] | None:
    shape = dataset.image_shape if given is None else tuple(given)
    columns = dataset.train.shape[1]
    if shape is None or (given is None and len(shape) not in (2, 3)):
        return None
    if len(shape) not in (2, 3) or min(shape) < 1 or math.prod(shape) != columns:
        raise DataError(f"--image-shape {' '.join(map(str, shape))} does not hold the {columns} columns of the data")
    return list(shape)


def _portable(data: str) -> str:
    """A dataset's name as it is, a file's path absolute, so that the run finds its data from any folder."""
    return str(Path(data).expanduser().resolve()) if Path(data).exists() and data not in RECIPES else data
