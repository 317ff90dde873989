"""The parameters of VAE as plain values, checked, and what they make: an architecture, an optimizer, examples.

`settings` is everywhere the dict of them by name, callbacks apart: what a fitted model follows and what its file holds.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import fields, replace
from os import PathLike, fsencode, fspath
from pathlib import Path
from typing import Any

import numpy as np

from minivae.architecture import MISSING, Architecture, decoder_layers, encoder_layers, parameter_layout
from minivae.conditions import Condition
from minivae.data.batches import Examples
from minivae.data.checks import (
    Scale,
    Summary,
    as_matrix,
    check_groups,
    check_range,
    require_count,
    require_memory,
    shown,
    summarize,
)
from minivae.data.files import DataError
from minivae.likelihoods import BY_COLUMNS, COUNTS, LIKELIHOODS, ONE_HOT, REAL, UNIT, domains, runs
from minivae.optimizers import Optimizer
from minivae.parallel import ALONE, Ranks
from minivae.parameters import size
from minivae.randomness import GENERATORS
from minivae.training import Objective

DEFAULT_VALIDATION_FRACTION = 0.1
LONGEST, UNWATCHED, PATIENCE = 25_000, 2000, 1000  # steps, where no epochs are given; see `resolved`
DTYPES = ("float32", "float64")
# what older files have not, and how it was then
NEW_SETTINGS = {
    "standardize": False,
    "decay_growth": 1.0,
    "objective": "elbo",
    "n_samples": 1,
    "micro_batch_size": None,
}
OF_KERNELS = ("sigma", "beta", "free_bits", "capacity", "learning_rate", "epsilon")  # computed with in the dtype
_WORDS = "latent_dim hidden_dims activation likelihood sigma missing standardize conditional dtype backend"
OF_THE_NETWORK = tuple(_WORDS.split())
WARMUPS = ("kl_warmup", "capacity_warmup", "lr_warmup")

TYPES: dict[str, tuple[Any, str]] = {
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "str": (str, "a string"),
    "bool": (bool, "True or False"),
    "None": (type(None), "None"),
}


def checked_settings(vae: Any) -> dict[str, Any]:
    """The parameters of a VAE as plain Python values of the types that it declares, NumPy's scalars turned into them.

    Raises TypeError or ValueError naming the parameter. Limits that belong to one part only are checked by that part.
    """
    settings: dict[str, Any] = {}
    for f in fields(vae):
        value, name, kinds = getattr(vae, f.name), f.name, str(f.type).split(" | ")
        if name == "random_state" and isinstance(value, GENERATORS):
            value = None  # fit draws a seed from it, and keeps that in seed_
        if name == "callbacks":
            if not isinstance(value, Sequence) or not all(map(callable, value)):
                raise TypeError(f"callbacks must be a list of functions f(vae, record), not {shown(value)}")
        elif name == "hidden_dims":
            value = value.tolist() if isinstance(value, np.ndarray) else value
            widths = value if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else [value]
            settings[name] = tuple(plain(width, name, ["int"]) for width in widths)
        elif name == "dtype":
            kind = value.name if isinstance(value, np.dtype) else getattr(value, "__name__", value)
            settings[name] = str(kind) if isinstance(kind, str) else ""
            if settings[name] not in DTYPES:
                raise ValueError(f"dtype must be 'float32' or 'float64', not {shown(value)}")
        else:
            settings[name] = plain(value, name, [kind for kind in kinds if kind in TYPES])
    for name in OF_KERNELS:
        value, real = settings[name], np.finfo(settings["dtype"])
        if isinstance(value, float) and math.isfinite(value) and value and not real.tiny <= abs(value) <= real.max:
            raise ValueError(f"{name}={value:g} is no number of {settings['dtype']}; choose one nearer to 1")
    runs(settings["likelihood"])
    if settings["missing"] not in MISSING:  # before NaN in the data is called an error
        raise ValueError(f"missing {settings['missing']!r} is not one of {', '.join(MISSING)}")
    if settings["standardize"] and domains(settings["likelihood"]) <= {COUNTS, ONE_HOT}:
        raise ValueError(
            f"standardize brings numbers to one scale, and likelihood {settings['likelihood']!r} takes only 0, 1, 2, ...; "
            "leave it out"
        )
    units = [LIKELIHOODS[r.likelihood].kernel for r in runs(settings["likelihood"]) if r.data == UNIT]
    misuses = {
        "values in [0, 1], which need no standardize; leave one of them out": settings["standardize"],
        "a missing cell too, and makes a 0 of it; binarize the data beforehand": settings["missing"] != "error",
        # a density of yes or no has no end
        "grey values, which are likelihood='bernoulli' then; choose that": BY_COLUMNS in units,
        f"grey values, and {settings['likelihood']!r} takes counts": domains(settings["likelihood"])
        & {COUNTS, ONE_HOT},
    }
    for what in (what for what, wrong in misuses.items() if wrong and settings["binarize"] != "none"):
        raise ValueError(f"binarize makes yes or no of {what}, or leave it 'none'")
    for name in ("epochs", "batch_size", "micro_batch_size", "patience"):
        if settings[name] is not None:
            require_count(name, settings[name])
    if settings["micro_batch_size"] and (settings["free_bits"] or settings["capacity"]):
        raise ValueError("free_bits and capacity look at the KL of a whole batch; leave micro_batch_size out")
    fraction = settings["validation_fraction"]
    if fraction is not None and not 0 <= fraction < 1:
        raise ValueError(f"validation_fraction must lie in [0, 1), not {fraction!r}")
    return settings


def plain(value: Any, name: str, kinds: list[str]) -> Any:
    """A value of one of these kinds as Python's own, NumPy's scalars included."""
    value = value.item() if isinstance(value, np.generic) else value
    for kind in kinds:
        if isinstance(value, TYPES[kind][0]) and (kind == "bool" or not isinstance(value, bool)):
            if isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise ValueError(f"{name} must be {TYPES[kind][1]} between -2^63 and 2^64, not {shown(value)}")
            if isinstance(value, str) and len(value) > (2**17 if name == "likelihood" else 80):  # it names many columns
                raise ValueError(f"{name} must be one of a few words, not {shown(value)}")
            return float(value) if kind == "float" else value
    words = " or ".join(TYPES[kind][1] for kind in kinds)
    raise TypeError(f"{name} must be {words}, not {shown(value)}")


def checked_path(path: Any, name: str = "path") -> Path:
    """A path to open. Raises TypeError or ValueError for what is none: a number would be a file that is open already."""
    if not isinstance(path, (str, PathLike)) or not isinstance(fspath(path), str):
        raise TypeError(f"{name} must be a string or a Path, not {shown(path)}")
    if not fspath(path).strip():
        raise ValueError(f"{name} is empty; name a file")
    try:
        if b"\0" in fsencode(path):
            raise ValueError("it holds a NUL")
    except ValueError as error:  # UnicodeEncodeError is one
        raise ValueError(f"{name} {shown(path)} names no file ({error}); choose another") from error
    return Path(path)


def held_fraction(settings: dict[str, Any], has_val: bool, rows: int, began: bool = False) -> float:
    """The part of X [rows, D] that fit holds out: none where X_val is given, or where a tenth of the rows is no row.

    Raises ValueError where the settings disagree, with another remedy for a training that began before.
    """
    fraction = settings["validation_fraction"]
    if fraction and has_val:
        raise ValueError("X_val and validation_fraction both name a held-out part; give one of them")
    if fraction is None:
        fraction = DEFAULT_VALIDATION_FRACTION
        fraction = 0.0 if has_val or not round(rows * fraction) else fraction
    if settings["patience"] is not None and not fraction and not has_val:
        if began:
            raise ValueError("this training holds no rows out for patience to watch; leave patience out, or train anew")
        raise ValueError("patience needs a held-out part to watch; pass X_val, or a validation_fraction above 0")
    return float(fraction)


def resolved(
    settings: dict[str, Any], rows: int, watched: bool, before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The settings with numbers for batch_size and epochs None; of a model that is trained on, those it had `before`.

    Of `rows` to train on, a batch is a sixteenth, as a power of two from 16 to 128. Where a held-out loss is watched, the
    training ends when PATIENCE steps, and at least 10 epochs, have found no better one. Unwatched, or with a schedule that
    needs to know its end, it has UNWATCHED steps and at least 20 epochs, as longer ones overfit small data. A warm-up comes
    on top. In no case are there more than some LONGEST steps beside it.
    """
    found = dict(settings)
    if found["batch_size"] is None:
        found["batch_size"] = before["batch_size"] if before else 1 << min(7, max(4, (rows // 16).bit_length() - 1))
    if found["epochs"] is None and before:
        found |= {"epochs": before["epochs"], "patience": found["patience"] or before["patience"]}
    elif found["epochs"] is None:
        steps = max(1, math.ceil(rows / found["batch_size"]))  # of an epoch
        watched &= found["schedule"] != "cosine" and found["kl_cycles"] == 1
        epochs = math.ceil(LONGEST / steps)
        epochs = epochs if watched else min(epochs, max(20, math.ceil(UNWATCHED / steps)))
        warmup = max(0.0, *(found[name] for name in WARMUPS if found[name] < math.inf))
        warmup = min(math.ceil(warmup), epochs)
        found["epochs"] = epochs + warmup
        if watched and found["patience"] is None:
            found["patience"] = max(10, math.ceil(PATIENCE / steps)) + warmup
    return found


def plan(settings: dict[str, Any]) -> str:
    """The line that says what `resolved` has chosen."""
    most = "at most " if settings["patience"] is not None else ""
    until = f", or until {settings['patience']} in a row bring no better held-out loss" if most else ""
    return f"batches of {settings['batch_size']}, {most}{settings['epochs']:,} epochs{until}"


def check_continuation(fitted: dict[str, Any], settings: dict[str, Any], epochs_done: int) -> None:
    """Raise ValueError where a model fitted with the first settings cannot be trained on with the second."""
    for name in OF_THE_NETWORK:
        if settings[name] != fitted[name]:
            raise ValueError(
                f"the model was fitted with {name}={fitted[name]!r}, and {settings[name]!r} makes another; "
                "call fit, or set it back"
            )
    if settings["schedule"] == "cosine" and epochs_done >= settings["epochs"]:
        raise ValueError(
            f"the cosine schedule ended with epoch {settings['epochs']}, and its learning rate is 0 now; "
            "raise epochs, or set schedule='constant'"
        )


# ---- What they make


def architecture(
    settings: dict[str, Any], data_dim: int, units: Any = (), condition: Condition | None = None
) -> Architecture:
    """What the settings make of so many columns."""
    given = {f.name: settings[f.name] for f in fields(Architecture) if f.name in settings}
    return Architecture(
        data_dim, **given, units=tuple(map(tuple, units)), conditions=condition.width if condition else 0
    )


def check_spread(settings: dict[str, Any], summary: Summary) -> None:
    """Raise DataError where no sigma fits the columns that a model is to be fitted on, naming the first of them.

    Those of which nothing was observed; all, where one sigma would shrink without end as none varies; by columns, where a
    fixed sigma lies below the floor.
    """
    arch, spread, mean = architecture(settings, len(summary.mean)), np.sqrt(summary.variance), np.abs(summary.mean)
    for column in np.flatnonzero(np.isinf(summary.minimum))[:1]:
        raise DataError(f"X has no value in column {column} (counted from 0), only NaN; leave that column out")
    if arch.learns_sigma and (spread <= 1e-12 * mean).all():
        raise DataError(
            f"none of the {arch.data_dim} columns varies over {summary.rows} sample{'s' * (summary.rows > 1)}, so that the "
            "best sigma is 0 and the loss falls without end; give sigma a value, for example sigma=0.1"
        )
    for run in arch.runs if arch.by_columns else ():
        columns = np.arange(arch.data_dim)[run.columns] if run.data == REAL else np.empty(0, int)
        for j in columns[spread[columns] > 1e-12 * mean[columns]]:
            if not isinstance(arch.sigma, str) and arch.sigma < 2e-3 * spread[j]:
                raise DataError(
                    f"sigma={arch.sigma:g} is too small for column {j}, whose spread is {spread[j]:g}; raise it"
                )


def column_units(settings: dict[str, Any], summary: Summary) -> tuple[tuple[float, float], ...]:
    """Shift and scale of each column, where the loss is taken by columns: mean and spread of numbers, 0 and 1 of others.

    With standardize also the least value of what shall lie in [0, 1], and how far the largest is from it; but a column of
    nothing but 0 and 1 says yes or no, and stays.
    """
    arch, units = architecture(settings, len(summary.mean)), []
    for run in arch.runs if arch.by_columns else ():
        for mean, variance, least, most in zip(*(values[run.columns] for values in summary.columns())):
            shift, scale = (0.0, 1.0)
            if run.data == REAL:
                shift, scale = mean, math.sqrt(variance)
            elif run.data == UNIT and settings["standardize"] and {least, most} - {0, 1}:
                shift, scale = least, most - least
            known = 1e-12 * abs(shift) < scale < math.inf  # else one value, whose spread is rounding, or none
            units.append((float(shift), float(scale) if known else 1.0))
    return tuple(units)


def optimizer_and_objective(settings: dict[str, Any]) -> tuple[Optimizer, Objective]:
    rule = {f.name: settings[f.name] for f in fields(Optimizer) if f.name != "name"}
    objective = Objective(**{f.name: settings[f.name] for f in fields(Objective)})
    cycles, epochs = objective.kl_cycles, settings["epochs"]
    if cycles > 1 and not 0 < objective.kl_warmup <= epochs / cycles:
        raise ValueError(
            f"kl_cycles={cycles} makes cycles of {epochs / cycles:g} epochs, and kl_warmup={objective.kl_warmup:g} is no "
            f"part of one; set 0 < kl_warmup <= {epochs / cycles:g}, such as half of it"
        )
    return Optimizer(settings["optimizer"], **rule), objective


def check_memory(arch: Architecture, settings: dict[str, Any], rows: int) -> None:
    """Raise ValueError where the parameters, or the arrays of a batch, take more memory than there is."""
    each = np.dtype(settings["dtype"]).itemsize
    layers = encoder_layers(arch) + decoder_layers(arch)
    shape = shown("-".join(map(str, (arch.data_dim, *arch.hidden_dims, arch.latent_dim)))).strip("'")
    # first in float64, then with their gradient, two moments and the copy that is kept
    fix = "lower hidden_dims or latent_dim"
    require_memory(f"a network {shape}", size(parameter_layout(arch)) * max(16, 5 * each), fix)
    batch = min(settings["batch_size"], settings["micro_batch_size"] or rows, rows)
    rows = settings["n_samples"] * batch
    what, fix = f"batch_size={batch}", "lower it, or set micro_batch_size"
    if rows > batch:
        what, fix = f"{what} with n_samples={settings['n_samples']}", "lower one of them"
    require_memory(what, rows * each * 2 * sum(layer.outputs for layer in layers), fix)


def read(
    X: Any,
    name: str,
    settings: dict[str, Any],
    scale: Scale,
    columns: int | None = None,
    rows: np.ndarray | None = None,
    y: Any = None,
    condition: Condition | None = None,
    units: Any = None,
    slack: float = 1e-6,
    ranks: Ranks = ALONE,
) -> tuple[Examples, Summary]:
    """All or some rows of X, and y where a model is told it, as one with these settings reads them; their summary.

    units: of the columns the model was fitted on; None where it is these. slack: how far grey values may leave [0, 1], as
    those of rows that the model was not fitted on do; a UserWarning says so.
    """
    X = as_matrix(X, name)
    if columns is not None and X.shape[1] != columns:
        raise DataError(
            f"{name} has {X.shape[1]} features, but VAE is expecting {columns} features as input; pass as many columns"
        )
    divisor = scale.divisor(X, settings["likelihood"], name)
    whole = bool(domains(settings["likelihood"]) & {COUNTS, ONE_HOT})
    every = np.arange(len(X)) if rows is None else rows
    mine = ranks.part(every) if ranks.size > 1 else rows
    summary = ranks.merged(summarize(X, divisor, name, mine, whole, missing=settings["missing"] != "error"))
    units = column_units(settings, summary) if units is None else units
    if told := check_range(summary, settings["likelihood"], units, slack):
        warnings.warn(f"{name}: {told}", UserWarning, stacklevel=2)
    check_groups(X, divisor, name, settings["likelihood"], mine)
    side = None if condition is None else condition.columns(y, len(X), settings["dtype"])
    examples = Examples(X, every, divisor, settings["binarize"], side)
    return in_units(examples, settings, units), summary


def in_units(examples: Examples, settings: dict[str, Any], units: Any) -> Examples:
    """The examples with these shifts and scales, where float32 has not the digits of a column."""
    far = settings["dtype"] == "float32" and architecture(settings, examples.data.shape[1], units).far
    return replace(examples, units=np.array(units).T if far else None)
