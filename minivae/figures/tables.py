"""Figures of tables, whose columns have units of their own: one panel for each column, by its name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minivae.figures.layout import (
    COLOURS,
    FAINT,
    INK,
    LINE,
    TICK,
    add_title,
    as_rows,
    drawn,
    new_figure,
    require,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 12  # columns in one figure


@drawn
def parity(x: Any, x_hat: Any, names: Sequence[str], rows: str = "") -> Figure:
    """Reconstructions x_hat [n, D] over originals x [n, D] in their own units, a panel for each of the first 12 columns.

    The nearer to the line, the better; R2 is the part of a column's variance that is reconstructed. NaN is left out. rows:
    a note that says which rows they are.
    """
    x, x_hat = as_rows(x, "x"), as_rows(x_hat, "x_hat")
    require(x.shape == x_hat.shape, f"x has shape {x.shape} and x_hat {x_hat.shape}; pass reconstructions of x")
    figure, panels = _panels(names, x.shape[1], "Originals (across) and reconstructions (up)", rows)
    for j, axes in enumerate(panels):
        seen = np.isfinite(x[:, j]) & np.isfinite(x_hat[:, j])
        a, b = x[seen, j].astype(float), x_hat[seen, j].astype(float)
        axes.scatter(a, b, s=float(np.clip(4000 / len(x), 4, 16)), color=COLOURS[0], linewidths=0, alpha=0.6)
        if len(a):
            ends = [a.min(), a.max()]
            axes.plot(ends, ends, color=FAINT, lw=1, ls=(0, (4, 2)))
            if (variance := a.var()) > 0:
                told = f"R\N{SUPERSCRIPT TWO} {1 - ((a - b) ** 2).mean() / variance:.2f}"
                axes.text(0.04, 0.9, told, transform=axes.transAxes, fontsize=TICK, color=INK)
    return figure


@drawn
def histograms(x: Any, drawn: Any, names: Sequence[str], rows: str = "") -> Figure:
    """How the columns of data x [n, D] are spread, grey, and those of samples drawn [m, D], a line: the first 12 columns."""
    x, drawn = as_rows(x, "x"), as_rows(drawn, "drawn")
    require(x.shape[1] == drawn.shape[1], f"x has {x.shape[1]} columns and drawn {drawn.shape[1]}; make them the same")
    figure, panels = _panels(names, x.shape[1], f"{len(drawn):,} samples (line) and the data (grey)", rows)
    for j, axes in enumerate(panels):
        a, b = (part[np.isfinite(part[:, j]), j].astype(float) for part in (x, drawn))
        edges = np.histogram_bin_edges(np.concatenate([a, b]), int(np.clip(len(a) ** 0.5, 8, 30)))
        looks: list[dict[str, Any]] = [{"color": LINE, "fill": True}, {"color": COLOURS[1], "lw": 1.4}]
        for part, look in zip((a, b), looks, strict=True):
            axes.stairs(np.histogram(part, edges)[0] / max(1, len(part)), edges, **look)
    return figure


def _panels(names: Sequence[str], columns: int, title: str, rows: str) -> tuple[Figure, list[Axes]]:
    require(len(names) == columns, f"there are {len(names)} names for {columns} columns; pass one for each")
    n = min(columns, MOST)
    across = min(n, 4)
    down = math.ceil(n / across)
    width, height = max(235 * across, 640), 62 + 190 * down
    figure = new_figure(width, height)
    places = [(k % across, down - 1 - k // across) for k in range(n)]
    size = 0.68 / across, 120 / height
    found = []
    for name, (column, row) in zip(names, places, strict=False):
        axes = style(figure.add_axes(((column + 0.25) / across, (190 * row + 32) / height, *size)))
        shown = name if len(name) <= 22 else f"{name[:19]}..."
        axes.set_title(shown, loc="left", fontsize=TICK, color=INK)
        axes.locator_params(nbins=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_offset_text().set_fontsize(TICK)
        found.append(axes)
    note = "; ".join(filter(None, [rows, f"the first {n} of {columns} columns" if n < columns else ""]))
    return add_title(figure, title, 0.25 * width / across, note), found
