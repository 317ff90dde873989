"""How figures look: sizes, colours, and the grid of images that most of them are.

matplotlib is imported where it is used and only through its object-oriented API: no display is needed, threads may draw,
and a user's settings (LaTeX for all text, a style) neither reach these figures nor change. A value of an image becomes a
square of k x k screen pixels, never a blur.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Decode = Callable[[np.ndarray], Any]  # z [n, Z] -> means [n, D]
Draws = TypeVar("Draws", bound=Callable[..., Any])
Shape = tuple[int, ...] | None
Ticks = Sequence[tuple[int, str]]  # (column or row of a grid, text)

DPI, WIDTH, MAX_WIDTH, MAX_HEIGHT = 120, 800, 960, 4000  # all lengths are pixels; a README shows about 800
TITLE, LABEL, TICK = 11, 9, 8  # font sizes, points
INK, FAINT, LINE, CELL = "#222222", "#666666", "#BBBBBB", 0.95
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # for curves, from Okabe and Ito (2008)
# Found by search: any two differ by at least 26 (CIELAB Delta E) in normal, protan and deutan vision, by 20 in tritan
# vision (simulated as in Machado et al. 2009); each is the one farthest from those before it.
CLASSES = (
    "#003CD7", "#B46400", "#D7B4F5", "#003C3C", "#8CD7B4", "#B4D700",
    "#648CF5", "#8C648C", "#8C0000", "#648C64", "#64008C", "#D7B464",
)  # fmt: skip


def require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


# ---- Layout


DRAWING = threading.RLock()  # matplotlib's settings are those of the process


@contextmanager
def own_settings() -> Iterator[None]:
    """matplotlib's own defaults in place of the user's, and text as it is written: no $ begins mathematics."""
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(f'figures need matplotlib ({error}); run pip install "minivae[plot]"') from error
    with DRAWING, matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False
        yield


def drawn(draw: Draws) -> Draws:
    """A function that draws, under these settings."""

    @functools.wraps(draw)
    def inner(*arguments: Any, **named: Any) -> Any:
        with own_settings():
            return draw(*arguments, **named)

    return inner  # type: ignore[return-value]


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many pixels, with no tie to pyplot or to a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def style(axes: Axes, x_label: str = "", y_label: str = "") -> Axes:
    axes.set(facecolor="none")
    axes.set_xlabel(x_label, fontsize=LABEL, color=INK)
    axes.set_ylabel(y_label, fontsize=LABEL, color=INK)
    axes.tick_params(labelsize=TICK, labelcolor=INK, color=LINE)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=LINE)
    return axes


def add_title(figure: Figure, title: str, left: float, note: str) -> Figure:
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - 12 / height, title, fontsize=TITLE, weight="bold", color=INK, va="top")
    figure.text(left / width, 1 - 38 / height, note, fontsize=TICK, color=FAINT, va="top")
    return figure


def cut_start(axes: Axes, curves: np.ndarray) -> None:
    """Fit the y axis to what follows the first twentieth of the epochs, where that start spans most of it."""
    curves, skip = np.where(np.isfinite(curves), curves, np.nan), math.ceil(curves.shape[1] / 20)
    if curves.shape[1] > 5 and not np.isnan(curves[:, skip:]).all():
        low, top, high = np.nanmin(curves), np.nanmax(curves[:, skip:]), np.nanmax(curves)
        if high - low > 2.5 * (top - low) > 0:
            axes.set_ylim(low - 0.06 * (top - low), top + 0.15 * (top - low))
            look: dict[str, Any] = {"ha": "right", "va": "top", "fontsize": TICK, "color": FAINT}
            look["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 1}
            axes.text(0.98, 0.98, f"starts at {short_number(high)}", transform=axes.transAxes, **look)


def short_number(value: float) -> str:
    """Three digits, a real minus sign, no -0."""
    return f"{round(float(value), 9) + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")


def as_rows(values: Any, name: str) -> np.ndarray:
    rows: np.ndarray = np.asarray(values)
    fine = rows.ndim == 2 and rows.size > 0 and rows.dtype.kind in "fiub"
    require(fine, f"{name} has shape {rows.shape} and dtype {rows.dtype}; pass numbers [n, columns], n at least 1")
    return rows


def decode_all(decode: Decode, z: np.ndarray) -> np.ndarray:
    z = z.reshape(-1, z.shape[-1])
    means = as_rows(decode(z), "the result of decode")
    require(len(means) == len(z), f"decode returned {len(means)} rows for {len(z)} latent points; return one for each")
    return means


def latent_columns(dims: Any, mu: np.ndarray) -> list[int]:
    chosen, Z = [int(j) for j in dims], mu.shape[1]
    require(len(chosen) > 0 and all(0 <= j < Z for j in chosen), f"dims {chosen} must name latents from 0 to {Z - 1}")
    return chosen


def label_codes(labels: Any, n: int) -> tuple[np.ndarray, list[str]]:
    """What to colour by [n], and the names of the classes; no names where the labels are quantities."""
    labels = np.asarray(labels)
    require(labels.shape == (n,), f"labels have shape {labels.shape}; pass one for each of the {n} rows of mu")
    numeric = labels.dtype.kind in "fiu"
    classes, codes = np.unique(labels if numeric else labels.astype(str), return_inverse=True)
    if numeric and (len(classes) > len(CLASSES) or not np.all(classes == np.round(classes))):
        return labels, []
    return codes, [f"{c:g}" if numeric else str(c) for c in classes]


def is_image(shape: Shape) -> bool:
    return shape is not None and (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3)))


def tile_cells(layers: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """layers [L, n, H, W, C] as one image, `columns` to a row, rows of the layers in turn; NaN where there is none."""
    count, n, height, width, channels = layers.shape
    rows = math.ceil(n / columns)
    cells = np.full((count, rows * columns, height + gap, width + gap, channels), np.nan)
    cells[:, :n, :height, :width] = layers
    cells = cells.reshape(count, rows, columns, *cells.shape[2:]).transpose(1, 0, 3, 2, 4, 5)
    canvas = cells.reshape(rows * count * (height + gap), columns * (width + gap), channels)
    return canvas[: len(canvas) - gap, : canvas.shape[1] - gap]


def image_grid(
    named: dict[str, np.ndarray], image_shape: Shape, columns: int, title: str, note: str = "",
    x_ticks: Ticks = (), y_ticks: Ticks = (), labels: tuple[str, str] = ("", ""), gap: int = 2,
) -> Figure:  # fmt: skip
    """Layers of rows [n, D] as a grid in one axes whose unit is the pixel: image under image, or line over line."""
    layers = np.stack([*named.values()]).astype(float)
    (_, n, data_dim), finite = layers.shape, layers[np.isfinite(layers)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    images = is_image(image_shape)
    if image_shape is not None and images:
        fits = math.prod(image_shape) == data_dim
        require(fits, f"image_shape {image_shape} does not fit rows of {data_dim} values; pass the shape of one row")
        cells = layers.reshape(len(layers), n, *image_shape[:2], -1)
        scale = max(1, round(min(740 / columns, 120) / max(image_shape[:2])))
        cells = cells.repeat(scale, axis=2).repeat(scale, axis=3)
        if len(named) > 1:
            y_ticks = [(row, name) for row, name in enumerate([*named] * math.ceil(n / columns))]
    else:
        room, gap = min(740 / columns, 220), 6
        cells = np.full((1, n, round(0.6 * room), round(room), 3), CELL)
        note += ("; " if note else "") + f"each line: columns 1 to {data_dim}, "
        note += f"values {short_number(low)} to {short_number(high)}"
    canvas, (down, across) = tile_cells(cells, columns, gap), (cells.shape[2] + gap, cells.shape[3] + gap)
    height, width, channels = canvas.shape
    zoom = min(1.0, MAX_WIDTH / width, MAX_HEIGHT / height)

    # Margins of whole pixels, as wide as their texts, so that each pixel of the canvas is one of the figure
    left = 14 + max((8 * len(text) for _, text in y_ticks), default=0) + (24 if labels[1] else 0)
    bottom, top = 12 + (20 if x_ticks else 0) + (24 if labels[0] else 0), 64 if note else 42
    legend = 0 if images or len(named) == 1 else 260
    right = max(width * zoom, 10 * len(title) + legend, 7.2 * len(note)) + left
    total = math.ceil(right) + 14, round(height * zoom) + bottom + top
    figure = new_figure(*total)
    place = left / total[0], bottom / total[1], round(width * zoom) / total[0], round(height * zoom) / total[1]
    axes = style(figure.add_axes(place), *labels)
    grey = channels == 1
    if grey and low >= -1e-6 and high <= 1 + 1e-6:
        low, high = 0, 1  # like probabilities: the same grey means the same in every figure
    axes.imshow(
        canvas[..., 0] if grey else np.nan_to_num(canvas, nan=1).clip(0, 1), cmap="gray", vmin=low, vmax=high,
        extent=(0, width, height, 0), aspect="auto", interpolation="nearest" if zoom == 1 else "antialiased",
    )  # fmt: skip
    if not images:
        k, t = np.arange(n)[:, None], (np.arange(data_dim) + 0.5) / data_dim
        for (name, rows), colour in zip(named.items(), COLOURS, strict=False):
            x = k % columns * across + 0.06 * across + t * 0.88 * (across - gap)
            y = k // columns * down + (0.9 - 0.8 * (rows - low) / ((high - low) or 1)) * (down - gap)
            x, y = (np.pad(a, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for a in (x, y))  # NaN lifts the pen
            axes.plot(x, y, color=colour, lw=1.2, marker="o", ms=3 if data_dim <= 12 else 0, label=name)
        if legend:
            figure.legend(loc="upper right", ncols=2, frameon=False, fontsize=TICK, labelcolor=INK)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([(i + 0.5) * across - gap / 2 for i, _ in x_ticks], [text for _, text in x_ticks])
    axes.set_yticks([(i + 0.5) * down - gap / 2 for i, _ in y_ticks], [text for _, text in y_ticks])
    return add_title(figure, title, left, note)
