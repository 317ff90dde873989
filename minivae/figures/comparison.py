"""Runs side by side: did the held-out part turn up, how far apart do they end, how many latents carry it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minivae.figures.layout import (
    CLASSES,
    FAINT,
    INK,
    LABEL,
    LINE,
    MAX_WIDTH,
    TICK,
    add_title,
    cut_start,
    drawn,
    new_figure,
    require,
    short_number,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = len(CLASSES)  # runs in one figure


@drawn
def comparison(rows: Sequence[dict[str, Any]], ranked_by: str = "ELBO") -> Figure:
    """What `minivae compare --json` says of each run, best first, with its history: curves, and how far behind.

    The curves are recon + kl in nats per example, whatever beta was trained with: held out solid, training dashed.
    """
    require(0 < len(rows) <= MOST, f"there are {len(rows)} runs; pass 1 to {MOST}")
    height = 330 + 26 * max(0, len(rows) - 5)
    figure = new_figure(MAX_WIDTH, height)
    from matplotlib.ticker import MaxNLocator

    top, bottom = 1 - 95 / height, 55 / height
    axes = style(figure.add_axes((0.07, bottom, 0.34, top - bottom)), "epoch")
    axes.set_title("recon + kl: held out, and training (dashed)", loc="left", fontsize=LABEL, color=INK)
    last, curves = max(len(row["history"]) for row in rows), []
    for row, colour in zip(rows, CLASSES, strict=False):
        history = row["history"]
        epochs = [record["epoch"] for record in history]
        for part in ("val_", "test_", ""):
            name = f"{part}recon", f"{part}kl"
            curve = np.array([record.get(name[0], np.nan) + record.get(name[1], np.nan) for record in history])
            if np.isfinite(curve).any():
                axes.plot(
                    epochs, curve, color=colour, lw=1.6 if part else 1, ls="-" if part else "--", label=row["run"]
                )
                curves.append(np.pad(curve, (0, last - len(curve)), constant_values=np.nan))
                kept = [i for i, epoch in enumerate(epochs) if part and epoch == row["epoch_kept"]]
                axes.plot(np.take(epochs, kept), curve[kept], ls="", marker="o", ms=5, color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if curves:
        cut_start(axes, np.stack(curves))

    right = style(figure.add_axes((0.62, bottom, 0.2, top - bottom)), "nats per example, with standard errors")
    right.set_title(f"{ranked_by} beside the best", loc="left", fontsize=LABEL, color=INK)
    right.axvline(0, color=LINE, lw=1)
    for y, (row, colour) in enumerate(zip(rows, CLASSES, strict=False)):
        if np.isfinite(row["difference"]):
            right.errorbar(
                row["difference"], y, xerr=row["difference_standard_error"] or 0, fmt="o", color=colour, ms=5
            )
        text = f"{short_number(row['kl'])} nats, {row['active_units']} of {row['latent_dim']}".replace("None", "?")
        right.text(1.04, y, text, transform=right.get_yaxis_transform(), va="center", fontsize=TICK, color=INK)
    names = [row["run"] if len(row["run"]) <= 26 else f"...{row['run'][-23:]}" for row in rows]
    right.set_yticks(range(len(rows)), names)
    right.set_ylim(len(rows) - 0.5, -0.5)
    right.text(1.04, 1.02, "KL, active latents", transform=right.transAxes, va="bottom", fontsize=TICK, color=FAINT)
    note = f"{rows[0]['examples']:,} {rows[0]['split']} examples of {rows[0]['data']}; a dot on a curve: the epoch kept"
    return add_title(figure, "Runs compared", 0.07 * MAX_WIDTH, note)
