"""Rows of data as a grid in one Axes whose unit is the pixel: images under images, or lines; and the figure around it.

A value of an image becomes a square of k x k screen pixels, never a blur. Images within [0, 1] are shown on that range,
others from the least to the largest value in the grid. Colours may leave [0, 1] by a half, as reconstructions do, and are
clipped to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minivae.figures import layout
from minivae.figures.checks import Shape, is_image, require, value_range
from minivae.figures.layout import DPI, TICK, Axes, Figure, drawn

Layers = dict[str, np.ndarray]  # layers of rows [n, D]
Texts = Sequence[str]
Ticks = Sequence[tuple[int, str]]  # (column or row of a grid, text)


@drawn
def grid(
    axes: Axes, named: Layers, image_shape: Shape, columns: int, texts: Texts = (),
    x_ticks: Ticks = (), y_ticks: Ticks = (), gap: int = 2,
) -> Axes:  # fmt: skip
    """Layers of rows [n, D] by their names, `columns` to a row: image under image, or line over line in one cell.

    texts [n]: what stands under each cell; x_ticks, y_ticks: under some columns of cells, left of some rows of them (of
    several layers of images by default their names). Several layers of lines have a legend below.
    """
    layers = np.stack([*named.values()]).astype(float)
    (count, n, data_dim), (low, high), images = layers.shape, value_range(layers), is_image(image_shape)
    if images:
        fits = image_shape is not None and math.prod(image_shape) == data_dim and min(image_shape) > 0
        require(fits, f"image_shape {image_shape} does not fit rows of {data_dim} values; pass the shape of one row")
        cells = layers.reshape(count, n, *image_shape[:2], -1)  # type: ignore[index]
        scale = max(1, round(min(740 / columns, 120) / max(cells.shape[2:4])))
        cells = cells.repeat(scale, axis=2).repeat(scale, axis=3)
    else:
        room, gap = min(740 / columns, 220), 6
        cells = np.full((1, n, round(0.6 * room), round(room), 3), layout.CELL)
    below = 26 if len(texts) else 0
    canvas = tile_cells(cells, columns, gap, below)
    height, width, channels = canvas.shape
    slack = 1e-6 if channels == 1 else 0.5
    as_one = not images or (low >= -slack and high <= 1 + slack)  # the same grey is the same in every figure
    black, white = (0.0, 1.0) if as_one else (low, high)
    colours = np.nan_to_num((canvas - black) / ((white - black) or 1), nan=layout.ink(axes) == layout.INK).clip(0, 1)
    axes.imshow(
        canvas[..., 0] if channels == 1 else colours, cmap="gray", vmin=black, vmax=white,
        extent=(0, width, height, 0), aspect="equal" if images else "auto", interpolation="antialiased",
    )  # fmt: skip
    stacked, layer, across = len(cells), cells.shape[2] + gap, cells.shape[3] + gap
    down = stacked * layer + below
    left, top = np.arange(n) % columns * across, np.arange(n) // columns * down  # of each cell
    if not images:
        t = (np.arange(data_dim) + 0.5) / data_dim
        for (name, rows), colour in zip(named.items(), itertools.cycle(layout.CURVES)):
            x = (left + 0.06 * across)[:, None] + t * 0.88 * (across - gap)
            y = top[:, None] + (0.9 - 0.8 * (rows - low) / ((high - low) or 1)) * (layer - gap)
            x, y = (np.pad(a, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for a in (x, y))  # NaN lifts the pen
            axes.plot(x, y, color=colour, lw=1.2, marker="o", ms=3 if data_dim <= 12 else 0, label=name)
    for x, y, text in zip(left + (across - gap) / 2, top + stacked * layer - gap + 2, texts, strict=False):
        axes.text(x, y, text, ha="center", va="top")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=TICK, labelcolor=layout.ink(axes))
    layout.name_ticks(axes.xaxis, [(i + 0.5) * across - gap / 2 for i, _ in x_ticks], [text for _, text in x_ticks])
    if stacked > 1:
        y_ticks = y_ticks or [*enumerate([*named] * math.ceil(n / columns))]
    places = [i // stacked * down + (i % stacked + 0.5) * layer - gap / 2 for i, _ in y_ticks]
    layout.name_ticks(axes.yaxis, places, [text for _, text in y_ticks])
    if len(axes.lines) > 1:
        axes.legend(loc="upper right", bbox_to_anchor=(1, 0), ncols=3, borderaxespad=2.5 if len(x_ticks) else 0.5)
    return axes


def tile_cells(layers: np.ndarray, columns: int, gap: int, below: int = 0) -> np.ndarray:
    """layers [L, n, H, W, C] as one image, `columns` to a row, rows of the layers in turn; NaN where there is none.

    below: pixels that are free under the last layer of each row, beside the gap.
    """
    count, n, height, width, channels = layers.shape
    down, across, rows = count * (height + gap) + below, width + gap, math.ceil(n / columns)
    canvas = np.full((rows, down, columns, across, channels), np.nan)
    for layer, k in np.ndindex(count, n):
        top = layer * (height + gap)
        canvas[k // columns, top : top + height, k % columns, :width] = layers[layer, k]
    return canvas.reshape(rows * down, columns * across, channels)[: -gap or None, : -gap or None]


def by_quantile(score: Any, each: int = 8) -> np.ndarray:
    """Places [3 * each] in score [n]: the highest, those around the median, the lowest; fewer each where n is small."""
    score = np.asarray(score, float)
    require(score.ndim == 1 and len(score) >= 3, f"score has shape {score.shape}; pass one for each of 3 rows or more")
    require(not np.isnan(score).any(), f"score is NaN in row {np.isnan(score).argmax()}; leave such rows out")
    each, order = min(each, len(score) // 3), np.argsort(-score, kind="stable")
    middle = (len(score) - each) // 2
    return np.concatenate([order[:each], order[middle : middle + each], order[len(score) - each :]])


def image_grid(
    named: Layers, image_shape: Shape, columns: int, title: str, note: str = "", gap: int = 2,
    x_ticks: Ticks = (), y_ticks: Ticks = (), labels: tuple[str, str] = ("", ""),
) -> Figure:  # fmt: skip
    """The figure of a grid, with labels of its two axes; of lines, what they show is in its note."""
    axes = layout.style(layout.new_figure(1, 1).add_subplot(), *labels)
    grid(axes, named, image_shape, columns, (), x_ticks, y_ticks, gap)
    if axes.lines:
        layers = np.stack([*named.values()])
        low, high = map(layout.short_number, value_range(layers))
        note = f"{note}\neach line: columns 1 to {layers.shape[2]}, values {low} to {high}".removeprefix("\n")
    return fitted(axes, title, note)


def fitted(axes: Axes, title: str, note: str) -> Figure:
    """The figure around a grid: as many pixels as the grid has, in margins as wide as their texts.

    All are whole pixels, so that each pixel of the canvas is one of the figure. What is too large shrinks.
    """
    figure: Any = axes.get_figure()
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    zoom = min(1.0, layout.MAX_WIDTH / width, layout.MAX_HEIGHT / height)
    beside = max((8 * len(tick.get_text()) for tick in axes.get_yticklabels()), default=0)
    left = 14 + beside + (24 if axes.get_ylabel() else 0)
    bottom = 12 + (20 if axes.get_xticklabels() else 0) + (24 if axes.get_xlabel() else 0)
    top, keys = (64 if note else 42) + 16 * note.count("\n"), axes.lines if len(axes.lines) > 1 else []
    words = max(11 * len(title) + (260 if keys else 0), 7.2 * max(map(len, note.split("\n"))))
    across, down = left + math.ceil(max(width * zoom, words)) + 14, round(height * zoom) + bottom + top
    figure.set_size_inches(across / DPI, down / DPI)
    axes.set_aspect("auto")  # the place is as large as the grid, to a pixel
    axes.set_position((left / across, bottom / down, round(width * zoom) / across, round(height * zoom) / down))
    if keys:
        axes.legend().remove()
        figure.legend(handles=keys, loc="upper right", ncols=2)
    if zoom == 1:
        axes.images[0].set_interpolation("nearest")
    for text in axes.texts:  # what stands under the cells
        text.set_fontsize(TICK * zoom)
    return layout.add_title(figure, title, left, note)
