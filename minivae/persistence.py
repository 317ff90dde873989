"""A fitted model as the arrays and the config of one file, and back: what VAE.save and VAE.load do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from minivae import modelfile, randomness
from minivae.architecture import parameter_layout
from minivae.conditions import Condition
from minivae.data.checks import Scale
from minivae.kernels import load as load_backend
from minivae.network import NotFinite
from minivae.parameters import views
from minivae.settings import architecture, checked_settings


def save(
    vae: Any,
    path: str | Path,
    *,
    parameters: np.ndarray | None = None,
    history: list[dict[str, Any]] | None = None,
    training: dict[str, np.ndarray] | None = None,
    values: dict[str, Any] | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Write a fitted VAE to one file, atomically, with the state of its training (see checkpoints) and of its run.

    parameters [N] and history instead of what the model has now: the best epoch of a training that goes on. Raises NotFinite
    where a parameter of the model is no number.
    """
    if parameters is None:
        vae.network_.require_finite()
    state = {"scale": asdict(vae.scale_), "seed": vae.seed_, "units": vae.units_}
    state["condition"] = vae.condition_ and vae.condition_.to_dict()
    config = {"settings": vae.settings_, "data_dim": vae.n_features_in_, **state, "training": values, "run": run}
    config["history"] = vae.history_ if history is None else history
    arrays = views(vae.network_.get_parameters() if parameters is None else parameters, vae.network_.layout)
    arrays |= {f"training.{name}": vector for name, vector in (training or {}).items()}
    modelfile.save(path, {**arrays, "held_rows": vae.held_rows_}, config)


def load(cls: Any, path: str | Path, backend: str) -> Any:
    """The model in `path` as a `cls`, which is VAE. Raises FileNotFoundError or ModelFileError."""
    load_backend(backend)  # a wrong name is not the file's fault
    arrays, config = modelfile.load(path)
    try:
        vae = cls(**config["settings"] | {"backend": backend})
        settings = checked_settings(vae)
        vae.set_params(**settings)
        held_rows = arrays.pop("held_rows").astype(np.int64)
        condition = Condition.from_dict(config.get("condition"))
        arch = architecture(settings, config["data_dim"], config.get("units", ()), condition)
        training = {n: arrays.pop(n) for n in [n for n in arrays if n.startswith("training.")]}
        parameters = modelfile.flatten(arrays, parameter_layout(arch))
        scale, seed = Scale(**config["scale"]), randomness.resolve_seed(config["seed"])
        state = {"settings_": settings, "scale_": scale, "seed_": seed, "history_": config["history"]}
        state |= {"condition_": condition, "units_": arch.units}
        state |= {"n_features_in_": arch.data_dim, "n_parameters_": parameters.size, "held_rows_": held_rows}
        state |= {"parameters": parameters, "run_": config.get("run")}
        vae.__setstate__(state)
        vae.network_.require_finite()
        if config.get("training"):
            vae.restore_training({n.removeprefix("training."): a for n, a in training.items()}, config["training"])
    except (KeyError, TypeError, ValueError, NotFinite) as error:
        raise modelfile.ModelFileError(f"{path} does not describe a model ({error}); save or train it again") from error
    return vae
