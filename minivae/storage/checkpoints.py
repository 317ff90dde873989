"""The state of a training as arrays and plain values, so that a training that was killed goes on where it was.

A training from a checkpoint ends bit for bit as one that was never interrupted, on the same machine and backend: the noise
and the order of the examples are functions of (seed, step), so these and the vectors of the optimizer are all there is.
"""

from __future__ import annotations

import math
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.batches import Examples
from minivae.progress import say
from minivae.settings import check_continuation
from minivae.storage import persistence
from minivae.training import Best, Trainer

SECONDS = 30.0  # of training that may be lost, at most, where writing takes no more than SHARE of the time
SHARE = 0.05
OF_THE_BEGINNING = ("validation_fraction", "binarize", "divide_by", "random_state")


def capture(trainer: Trainer, trace: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and plain values that `restored` makes the same trainer of. Without a trace only what partial_fit needs."""
    to_host = trainer.network.kernels.to_host
    arrays = {name: np.array(to_host(vector)) for name, vector in trainer.moments.items()} if trainer.updates else {}
    values: dict[str, Any] = {"updates": trainer.updates, "stopped": trainer.stopped, "best": None}
    if trace is not None and trainer.best is not None:
        best = trainer.best
        arrays |= {"trace": np.array(to_host(trace)), "best": best.parameters}
        loss = best.loss if math.isfinite(best.loss) else None
        values |= {"step": trainer.step, "epoch": trainer.epoch, "spent": trainer.spent}
        values["best"] = {"epoch": best.epoch, "loss": loss, "active": best.active}
    return arrays, values


def restored(arrays: dict[str, np.ndarray], values: dict[str, Any], network: Any) -> dict[str, Any]:
    """What `capture` found, as fields of a Trainer. Raises ValueError or KeyError where it is not what that writes."""
    moments = {name: network.kernels.to_device(a) for name, a in arrays.items() if name not in ("trace", "best")}
    state: dict[str, Any] = {"moments": moments, "updates": values["updates"], "stopped": values["stopped"]}
    counts, best = [values["updates"], values.get("data", 0)], values["best"]
    if best is not None:
        loss = math.inf if best["loss"] is None else float(best["loss"])
        state["best"] = Best(arrays["best"], best["epoch"], loss, best["active"])
        state |= {"step": values["step"], "epoch": values["epoch"], "spent": float(values["spent"])}
        state["begun"] = arrays["trace"] if len(arrays["trace"]) else None
        counts += [values["step"], values["epoch"], best["epoch"], best["active"]]
        ahead = best["epoch"] > values["epoch"]
        if ahead or not 0 <= state["spent"] < math.inf or not np.isfinite(arrays["trace"]).all():
            raise ValueError("the state of its training contradicts itself")
    if any(type(n) is not int or not 0 <= n < 2**63 for n in counts) or not isinstance(values["stopped"], str):
        raise ValueError("the state of its training counts with what is no whole number")
    if bool(moments) != (values["updates"] > 0):
        raise ValueError("the optimizer's vectors are missing, or should not be there")
    return state


def check_resume(fitted: dict[str, Any], settings: dict[str, Any], trainer: Trainer | None) -> None:
    """Raise ValueError where a training that began with the first settings cannot go on, from here, with the second."""
    if trainer is None or trainer.best is None:
        raise ValueError("this model holds no state of a training; load the file that fit(checkpoint=...) wrote")
    if trainer.epoch >= settings["epochs"]:
        raise ValueError(f"this training has had its {trainer.epoch} epochs; raise epochs (--epochs) to train on")
    check_continuation(fitted, settings | {"backend": fitted["backend"]}, trainer.epoch)
    for name in OF_THE_BEGINNING:
        if settings[name] != fitted[name]:
            raise ValueError(
                f"this training began with {name}={fitted[name]!r}, which {settings[name]!r} cannot change now; set it back"
            )
    for name in ("batch_size", "objective", "n_samples"):
        if trainer.begun is not None and settings[name] != fitted[name]:
            raise ValueError(
                f"this checkpoint lies within epoch {trainer.epoch + 1}, which began with {name}={fitted[name]!r}; "
                f"change {name} from one that lies between epochs"
            )
    waited, patience = trainer.epoch - trainer.best.epoch, settings["patience"]
    if patience is not None and waited >= patience:
        told = f"this training has waited {waited} epochs for a better val_loss"
        raise ValueError(f"{told}; raise patience (--patience), now {patience}, to train on")


def fingerprint(examples: Examples, val: Examples | None = None) -> int:
    """A checksum of what is trained on and chooses the best epoch; of very large data, of rows throughout them."""
    step = max(1, examples.data.nbytes // 2**28)
    found = zlib.crc32(repr((examples.data.shape, examples.divide_by, len(examples.rows))).encode())
    for start in range(0, len(examples.data), 4096 * step):
        for part in (examples.data, examples.side):
            if part is not None:
                found = zlib.crc32(np.ascontiguousarray(part[start : start + 4096 * step : step]).data, found)
    return found if val is None or val.data is examples.data else zlib.crc32(b"%d" % fingerprint(val), found)


class Checkpoints:
    """Writes a training to one file: where an epoch ends, and within it every SECONDS, but for SHARE of the time at most.

    What cannot be written (a full disk) is told and tried again; it does not end the training.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.data, self.over = Path(path), 0, False  # data: their fingerprint
        self.written, self.cost = -math.inf, 0.0
        self.pending: dict[str, Any] | None = None  # a state that is to be written

    def begin(self, examples: Examples, val: Examples | None) -> None:
        """The data have been accepted, and the training begins."""
        self.data = fingerprint(examples, val)

    def due(self, moment: str) -> bool:
        since = time.monotonic() - self.written
        return moment in ("cut", "end") or since > max(SECONDS if moment == "step" else 0, self.cost / SHARE)

    def offer(self, vae: Any, trace: Any, moment: str) -> None:
        """At a moment of training.MOMENTS. After "cut" nothing: what follows is no part of the uninterrupted training."""
        first = moment == "epoch" and len(vae.history_) == 1
        # of a parameter that is no number the training itself soon learns
        if not self.over and (first or self.due(moment)) and not vae.network_.not_finite():
            started = time.monotonic()
            self.write(vae, trace)
            self.written = time.monotonic()
            self.cost = self.written - started
        self.over |= moment == "cut"

    def write(self, vae: Any, trace: Any) -> None:
        self.keep(vae, trace)
        try:
            self.save(vae)
        except OSError as error:
            say(f"minivae: no checkpoint ({error}); the training goes on, and it is tried again")

    def keep(self, vae: Any, trace: Any) -> None:
        arrays, values = capture(vae.trainer_, trace)
        self.pending = {"training": arrays, "values": values | {"data": self.data}, "history": list(vae.history_)}
        self.pending["parameters"] = vae.network_.get_parameters()

    def save(self, vae: Any, run: dict[str, Any] | None = None) -> None:
        """Write the state that is kept. Raises OSError."""
        persistence.save(vae, self.path, **self.pending or {}, run=run)
        self.pending = None
