"""A fitted model as the arrays and the config of one file, and back: what VAE.save and VAE.load do.

What a file says is believed when it is what `save` writes: each value is of its type and within its limits.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from dataclasses import asdict, fields
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from minivae import randomness
from minivae.architecture import INITS, OUTPUT_BIASES, Architecture, parameter_layout
from minivae.conditions import Condition
from minivae.data.checks import Scale, resolve_divisor
from minivae.kernels import MODULES, availability
from minivae.kernels import load as load_backend
from minivae.optimizers import OPTIMIZERS
from minivae.parameters import size, views
from minivae.settings import NEW_SETTINGS, architecture, checked_settings, optimizer_and_objective
from minivae.storage import modelfile

# what a config has, and what it may have, by version
STATE = {"format_version", "settings", "data_dim", "scale", "seed"}
NEEDED = {1: STATE | {"history"}, 2: STATE | {"condition", "history_columns"}}
ALLOWED = {1: {"units", "condition"}, 2: {"training", "run", "feature_names", "automatic"}}
AUTOMATIC = ("batch_size", "epochs", "patience")  # None where the rows decide, also in the next fit
MOST_LAYERS = 1000
SPREAD = re.compile(r"kl_[0-9]+")  # the columns of kl_per_dim
# of a record's numbers, the others being float
KINDS = {"epoch": int, "step": int, "n_samples": int, "active_units": int, "kept": bool}
# what each record has, beside kl_per_dim; see training.Trainer. active_units, capacity and n_samples came later
MEASURED = {"epoch", "step", "loss", "recon", "kl", "grad_norm", "beta", "learning_rate", "kept"}
MEASURED |= {"seconds", "examples_per_second"}


def save(vae: Any, path: str | Path, **state: Any) -> None:
    """Write a fitted VAE to one file, atomically; `content` says what else it may be given, and what it raises."""
    modelfile.save(path, *content(vae, **state))


def content(
    vae: Any,
    *,
    parameters: np.ndarray | None = None,
    history: list[dict[str, Any]] | None = None,
    training: dict[str, np.ndarray] | None = None,
    values: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and config of a fitted VAE, with the state of its training (see checkpoints) and of its run.

    parameters [N] and history instead of what the model has now: the best epoch of a training that goes on. Raises NotFinite
    where a parameter of the model is no number.
    """
    if parameters is None:
        vae.network_.require_finite()
        parameters = vae.network_.get_parameters()
    rows, columns = table(vae.history_ if history is None else history)
    config = {"settings": vae.settings_, "data_dim": vae.n_features_in_, "scale": asdict(vae.scale_), "seed": vae.seed_}
    config |= {"condition": vae.condition_ and vae.condition_.to_dict(), "history_columns": columns}
    config |= {"training": values, "run": run}
    config["automatic"] = [name for name in AUTOMATIC if getattr(vae, name) is None]
    if hasattr(vae, "feature_names_in_"):
        config["feature_names"] = vae.feature_names_in_.tolist()
    units, held_rows = np.array(vae.units_, np.float64).reshape(-1, 2), np.asarray(vae.held_rows_, np.int64)
    arrays = views(parameters, vae.network_.layout) | {"held_rows": held_rows, "history": rows, "units": units}
    return arrays | {f"training.{name}": array for name, array in (training or {}).items()}, config


def load(cls: Any, path: str | Path, backend: str) -> Any:
    """The model in `path` as a `cls`, which is VAE. Raises FileNotFoundError, PermissionError or ModelFileError."""
    load_backend(backend)  # a wrong name is not the file's fault
    with modelfile.reading(path):
        return model(cls, *modelfile.load(path, lambda config: members(cls, config)), backend)


def model(cls: Any, arrays: dict[str, np.ndarray], config: dict[str, Any], backend: str = "auto") -> Any:
    """A `cls` of what `content` gave, whoever wrote it; the arrays are those that `members` names. Raises what is wrong."""
    vae, settings, condition, arch = described(cls, config, backend if backend != "auto" else own_backend(config))
    names = [name for name, _ in parameter_layout(arch)]
    for name in arrays.keys() - {"held_rows", "history", "training.trace"}:
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    held_rows = arrays["held_rows"]
    if held_rows.size and (held_rows[0] < 0 or (np.diff(held_rows) <= 0).any()):
        raise ValueError("held_rows are not row numbers in rising order")
    first = config["format_version"] == 1
    history, columns = table(config["history"]) if first else (arrays["history"], config["history_columns"])
    units = _units(arrays.get("units", config.get("units", ())), arch.data_dim)
    state = {"settings_": settings, "scale_": scale_of(config["scale"]), "condition_": condition}
    state |= {"seed_": randomness.resolve_seed(config["seed"]), "held_rows_": held_rows, "units_": units}
    state |= {"history_": records(history, columns, arch.latent_dim), "n_features_in_": arch.data_dim}
    if (columns := config.get("feature_names")) is not None:
        state["feature_names_in_"] = np.array(columns, object)
    parameters = np.concatenate([arrays[name].ravel() for name in names])
    vae.set_params(**settings | dict.fromkeys(config.get("automatic", ())))
    state |= {"n_parameters_": parameters.size, "parameters": parameters, "run_": config.get("run")}
    vae.__setstate__(state)
    if (values := config.get("training")) is not None:
        parts = {n.removeprefix("training."): a for n, a in arrays.items() if n.startswith("training.")}
        vae.restore_training(parts, values)
    return vae


def own_backend(config: dict[str, Any]) -> str:
    """ "auto"; of a training that shall go on to the same bits the backend that it began on, where that works here."""
    wanted, training = config["settings"].get("backend"), config.get("training") or {}
    return wanted if training.get("best") and wanted in MODULES and availability(wanted)[0] else "auto"


def described(
    cls: Any, config: dict[str, Any], backend: str = "numpy"
) -> tuple[Any, dict[str, Any], Any, Architecture]:
    """An unfitted VAE, its settings, condition and architecture (but for units) as the config says. Raises what is wrong."""
    version, names = config["format_version"], {f.name for f in fields(cls)} - {"callbacks"}
    settings, data_dim, seed = config.get("settings"), config.get("data_dim"), config.get("seed")
    if wrong := (NEEDED[version] - config.keys()) | (config.keys() - NEEDED[version] - ALLOWED[version]):
        raise ValueError(f"its config lacks {min(wrong)[:80]!r}, or should not have it")
    if not isinstance(settings, dict):
        raise ValueError("its settings are no object")
    # a file may be older than a setting, which then had the value that is now its default
    if wrong := (settings.keys() - names) | (set() if version == 1 else names - settings.keys() - NEW_SETTINGS.keys()):
        raise ValueError(f"its settings lack {min(wrong)[:80]!r}, or should not have it")
    if type(data_dim) is not int or not 1 <= data_dim < 2**31 or type(seed) is not int:
        raise ValueError(f"data_dim {data_dim!r} and seed {seed!r} are not whole numbers as a model has them")
    if not all(isinstance(config.get(name), dict | None) for name in ("training", "run")):
        raise ValueError("training or run is neither an object nor null")
    if (columns := config.get("feature_names")) is not None:
        strings = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
        if not strings or not len(columns) == len(set(columns)) == data_dim:
            raise ValueError(f"feature_names are not a list of {data_dim} names, each there once")
    automatic = config.get("automatic", [])
    if not isinstance(automatic, list) or {*map(str, automatic)} - {*AUTOMATIC}:
        raise ValueError(f"automatic are not some of {', '.join(AUTOMATIC)}")
    depth = settings.get("hidden_dims")
    if not isinstance(depth, list) or len(depth) > MOST_LAYERS or any(type(n) is not int for n in depth):
        raise ValueError(f"hidden_dims are not a list of at most {MOST_LAYERS} whole numbers")
    vae = cls(**settings | {"backend": backend})
    settings, condition = checked_settings(vae), condition_of(config.get("condition"))
    if settings["epochs"] is None or settings["batch_size"] is None:
        raise ValueError("its epochs and batch_size are no numbers, as those of a fitted model are")
    optimizer_and_objective(settings)
    randomness.resolve_seed(settings["random_state"])
    if settings["divide_by"] is not None:
        resolve_divisor(np.empty(0), settings["divide_by"])
    words = {"init": INITS, "output_bias": OUTPUT_BIASES, "binarize": ("none", "static", "dynamic")}
    for name, known in (words | {"dtype": ("float32", "float64"), "conditional": (condition is not None,)}).items():
        if settings[name] not in known:
            raise ValueError(f"{name} is {settings[name]!r}, not {' or '.join(map(str, known))}")
    return vae, settings, condition, architecture(settings, data_dim, (), condition)


def members(cls: Any, config: dict[str, Any]) -> modelfile.Members:
    """Which arrays a file with this config holds."""
    _, settings, _, arch = described(cls, config)
    layout, dtype = parameter_layout(arch), settings["dtype"]
    found: modelfile.Members = {name: (dtype, shape) for name, shape in layout} | {"held_rows": ("int64", (-1,))}
    if config["format_version"] == 1:
        return found
    columns = config["history_columns"]
    if not isinstance(columns, list) or len(columns) != len({c for c in columns if isinstance(c, str)}):
        raise ValueError("history_columns are not names, each there once")
    found["history"] = ("float64", (-1, len(columns)))
    found["units"] = ("float64", (arch.data_dim if arch.by_columns else 0, 2))
    if config.get("training") is not None:
        names = ("best", *OPTIMIZERS[settings["optimizer"]])
        found |= {f"training.{name}": (dtype, (size(layout),)) for name in names}
        found["training.trace"] = ("float64", (-1, optimizer_and_objective(settings)[1].bound.columns(arch.latent_dim)))
    return found


def _units(stored: Any, data_dim: int) -> tuple[tuple[float, float], ...]:
    """Shift and scale of each column, or of none."""
    units = np.asarray(stored).reshape(-1, 2)
    whole = units.dtype.kind in "fi" and np.isfinite(units).all() and (units[:, 1] > 0).all()
    if len(units) and (len(units) != data_dim or not whole):
        raise ValueError(f"units are not a finite shift and a positive scale for each of {data_dim} columns")
    return tuple((float(shift), float(scale)) for shift, scale in units)


def scale_of(state: Any) -> Scale:
    """A Scale from its fields as a dict. Raises ValueError unless they are of their types and divide_by can divide."""
    kinds = {name: type(value) for name, value in state.items()} if isinstance(state, dict) else {}
    if kinds.pop("divide_by", None) not in (int, float) or kinds != {"given": bool, "uint8": bool}:
        raise ValueError("the scale must hold a number divide_by, and true or false for given and uint8")
    return Scale(resolve_divisor(np.empty(0), state["divide_by"]), state["given"], state["uint8"])


def condition_of(state: Any) -> Condition | None:
    """A Condition from what its to_dict gave, or None. Raises ValueError unless it is that, whoever wrote it."""
    if state is None:
        return None
    lists = isinstance(state, dict) and all(isinstance(values, list) for values in state.values())
    if not lists or state.keys() != {"classes", "shift", "scale"}:
        raise ValueError("the condition must hold lists of classes, shift and scale")
    classes, shift, scale = (tuple(state[name]) for name in ("classes", "shift", "scale"))
    kinds = {type(value) for value in classes}
    labels = len(kinds) == 1 and kinds <= {str, int, bool} and list(classes) == sorted(set(classes))
    finite = all(type(v) in (int, float) and abs(v) < math.inf for v in shift + scale)
    numbers = finite and 0 < len(shift) == len(scale) and min(scale) > 0
    if not (labels and not shift + scale if classes else numbers):
        raise ValueError("the condition is neither labels in order nor finite shifts and positive scales")
    return Condition(classes, shift, scale)


# ---- The history: records of numbers as one array, NaN where a record has none


def table(history: Any) -> tuple[np.ndarray, list[str]]:
    """float64 [epochs, columns] and the columns' names; what is no number, which a callback may have added, is left out."""
    rows: list[dict[str, float]] = []
    if not isinstance(history, list):
        raise TypeError("the history is no list of records")
    for record in history:
        spread: dict[str, Any] = {}
        for name, value in record.items():
            if name == "kl_per_dim":
                spread |= {f"kl_{j}": v for j, v in enumerate(value)}
            elif isinstance(name, str) and not SPREAD.fullmatch(name):
                spread[name] = value
        rows.append({name: _number(name, v) for name, v in spread.items() if isinstance(v, Real | np.bool_)})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    values = [[row.get(name, np.nan) for name in columns] for row in rows]
    return np.array(values, np.float64).reshape(len(rows), len(columns)), columns


def _number(name: str, value: Any) -> float:
    """As a float; NaN for one that no record can have."""
    with suppress(OverflowError):
        found = float(value)
        if math.isfinite(found) and (found >= 0 or name not in KINDS):
            return found
    return math.nan


def records(values: np.ndarray, columns: list[str], latent_dim: int) -> list[dict[str, Any]]:
    """The history back from its table. Raises ValueError where a record is not one that training writes."""
    history: list[dict[str, Any]] = []
    kinds = [(name, KINDS.get(name, float), SPREAD.fullmatch(name)) for name in columns]
    for row in values.tolist():
        record: dict[str, Any] = {}
        for value, (name, kind, spread) in zip(row, kinds):
            if value == value and spread:
                record.setdefault("kl_per_dim", []).append(value)
            elif value == value:
                record[name] = kind(value)
                if record[name] != value or (name in KINDS and value < 0):
                    raise ValueError(f"record {len(history)} of its history has {value:g} for {name[:80]}")
        if MEASURED - record.keys() or len(record.get("kl_per_dim", ())) != latent_dim:
            raise ValueError(f"record {len(history)} of its history lacks what each epoch has, such as a loss")
        history.append(record)
    return history
