"""Runs side by side: did the held-out part turn up, how far apart do they end, how many latents carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minivae.figures import layout
from minivae.figures.checks import require
from minivae.figures.layout import CLASSES, FAINT, LINE, MAX_WIDTH, Axes, Figure, drawn, short_number, style

MOST = len(CLASSES)  # runs in one figure


@drawn
def comparison(rows: Sequence[dict[str, Any]], ranked_by: str = "ELBO") -> Figure:
    """What `minivae compare --json` says of each run, best first, with its history: curves, and how far behind."""
    require(0 < len(rows) <= MOST, f"there are {len(rows)} runs; pass 1 to {MOST}")
    height = 330 + 26 * max(0, len(rows) - 5)
    figure = layout.new_figure(MAX_WIDTH, height)
    top, bottom = 1 - 95 / height, 55 / height
    curves(figure.add_axes((0.07, bottom, 0.34, top - bottom)), rows)
    differences(figure.add_axes((0.62, bottom, 0.2, top - bottom)), rows, ranked_by)
    note = f"{rows[0]['examples']:,} {rows[0]['split']} examples of {rows[0]['data']}; a dot on a curve: the epoch kept"
    return layout.add_title(figure, "Runs compared", 0.07 * MAX_WIDTH, note)


@drawn
def curves(axes: Axes, rows: Sequence[dict[str, Any]]) -> Axes:
    """recon + kl in nats per example, whatever beta each run was trained with: held out solid, training dashed."""
    style(axes, "epoch").set_title("recon + kl: held out, and training (dashed)")
    last, shown = max(len(row["history"]) for row in rows), []
    for row, colour in zip(rows, CLASSES, strict=False):
        epochs = [record["epoch"] for record in row["history"]]
        for part in ("val_", "test_", ""):
            recon, kl = ([record.get(part + name, np.nan) for record in row["history"]] for name in ("recon", "kl"))
            curve = np.add(recon, kl)
            if np.isfinite(curve).any():
                axes.plot(epochs, curve, "-" if part else "--", color=colour, lw=1.6 if part else 1, label=row["run"])
                shown.append(np.pad(curve, (0, last - len(curve)), constant_values=np.nan))
                kept = [i for i, epoch in enumerate(epochs) if part and epoch == row["epoch_kept"]]
                axes.plot(np.take(epochs, kept), curve[kept], "o", ms=5, color=colour)
    axes.locator_params("x", **layout.EPOCHS)
    if shown:
        layout.cut_start(axes, np.stack(shown))
    return axes


@drawn
def differences(axes: Axes, rows: Sequence[dict[str, Any]], ranked_by: str = "ELBO") -> Axes:
    """How far each run is behind the best, with standard errors; its KL and its active latents beside it."""
    style(axes, "nats per example, with standard errors").set_title(f"{ranked_by} beside the best")
    axes.axvline(0, color=LINE, lw=1)
    for y, (row, colour) in enumerate(zip(rows, CLASSES, strict=False)):
        if np.isfinite(row["difference"]):
            error = row["difference_standard_error"] or 0
            axes.errorbar(row["difference"], y, xerr=error, fmt="o", color=colour, ms=5)
        text = f"{short_number(row['kl'])} nats, {row['active_units']} of {row['latent_dim']}".replace("None", "?")
        axes.text(1.04, y, text, transform=axes.get_yaxis_transform(), va="center")
    names = layout.shortened([row["run"] for row in rows], 26, keep_end=True)
    layout.name_ticks(axes.yaxis, range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.text(1.04, 1.02, "KL, active latents", transform=axes.transAxes, va="bottom", color=FAINT)
    return axes
