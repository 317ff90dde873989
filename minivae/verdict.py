"""What the history of a training says of it in a line or two: train on or not, overfitting, latents that are not used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minivae.training import IMPATIENT

FALLS, RISES = 0.005, 0.05  # parts of the whole fall of a loss: less is nothing to act upon


def kept_record(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the epoch whose parameters the model has."""
    return next(record for record in reversed(history) if record["kept"])


def verdict(
    history: list[dict[str, Any]],
    latent_dim: int,
    stopped: str = "",
    train_on: Callable[[int], str] = "train on, with epochs={}".format,
    active: int | None = None,
) -> tuple[str, list[str]]:
    """A word, "falling", "level", "overfitting" or "unknown", and what follows from it as lines.

    Looked at is the held-out loss, or that of the test part. It falls where the mean over the last quarter of
    the epochs lies below that of the quarter before by more than thrice its noise, which second differences tell; it has
    turned up where it ends above the best epoch so, while the training loss went on falling. stopped: why the training
    ended, or ""; train_on: what makes it go on to so many epochs; active: what `inference.active_units` counts, if it was
    asked, and not the history.
    """
    name = next((n for n in ("val_loss", "test_loss") if history and n in history[-1]), "")
    part, least, of = list[dict[str, Any]](), np.inf, 1
    for record in history:  # of the records, those since the loss began to mean what it means at the end
        loss, samples = record.get(name), record.get("n_samples", 1)  # K of the bound, which older records have not
        if loss is None or samples != of or (name == "val_loss" and record["kept"] and loss >= least):
            part, least, of = [], np.inf, samples
        if loss is not None:
            part.append(record)
            least = min(least, loss)
    if len(part) < 2:
        return "unknown", []
    losses, training = (np.array([record[n] for record in part]) for n in (name, "loss"))
    size, best = max(1, len(part) // 8), int(losses.argmin())
    last, whole = losses[-size:].mean(), losses[0] - losses[best]
    bends = np.abs(np.diff(losses[-max(8, 3 * size) :], 2))
    noise = float(np.median(bends)) / 1.65 if len(part) >= 8 else 0.0  # of one epoch; 1.65 = 0.6745 sqrt(6)
    half = max(1, len(part) // 4)
    fall = losses[-2 * half : -half].mean() - losses[-half:].mean()
    epoch, kept, end = part[best]["epoch"], kept_record(history), part[-1]["epoch"]
    what = "held-out" if name == "val_loss" else "test"
    near = len(part) - best <= size  # the best epoch is one of the last eighth
    if near and not stopped.startswith(IMPATIENT) and fall > max(3 * noise * (2 / half) ** 0.5, FALLS * whole):
        return "falling", [f"the {what} loss was still falling at the last epoch, {end}: {train_on(2 * end)}"]
    told = f"the {what} loss stopped falling at epoch {epoch}" if not near else f"the {what} loss hardly falls any more"
    lines, word = [f"{told}; epoch {kept['epoch']} of {end} is kept"], "level"
    weighed_alike = part[best]["beta"] == part[-1]["beta"]
    around = losses[max(0, best - size) : best + size + 1].mean()  # the lowest of many is low by chance
    rise = last - around > max(3 * noise * (2 / size) ** 0.5, RISES * whole)
    if len(part) >= 8 and not near and weighed_alike and rise and training[-size:].mean() < training[best]:
        word = "overfitting"
        cure = (
            "the epoch kept is from before it" if name == "val_loss" else f"train for {epoch} epochs, or hold rows out"
        )
        lines.append(
            f"since then the {what} loss has risen and the training loss fallen, which is overfitting: {cure}; more data "
            "would help, a smaller network (hidden_dims) or optimizer='adamw' with a weight_decay only may"
        )
    active = kept["active_units"] if active is None else active
    if latent_dim / 10 <= active <= 3 * latent_dim / 4:  # of fewer says `inference.collapse`
        lines.append(
            f"{active} of {latent_dim} latents are used, and the others do no harm: latent_dim="
            f"{active} would do; a lower beta brings more of them into use"
        )
    return word, lines
