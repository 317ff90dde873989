"""How figures look: settings, sizes, colours, and the words around a picture.

matplotlib is imported where it is used and only through its object-oriented API: no display is needed, threads may draw,
and a user's settings (LaTeX for all text, a style) neither reach these figures nor change.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minivae.figures.checks import require, value_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
else:
    Axes = Figure = Any

DPI, WIDTH, MAX_WIDTH, MAX_HEIGHT = 120, 800, 960, 4000  # all lengths are pixels; a README shows about 800
TITLE, LABEL, TICK = 11, 9, 8  # font sizes, points
INK, FAINT, LINE, CELL, LIGHT = "#222222", "#666666", "#BBBBBB", 0.95, "#DDDDDD"  # LIGHT: the ink on a dark figure
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # for curves, from Okabe and Ito (2008)
# Found by search: any two differ by at least 26 (CIELAB Delta E) in normal, protan and deutan vision, by 20 in tritan
# vision (simulated as in Machado et al. 2009); each is the one farthest from those before it.
CLASSES = (
    "#003CD7", "#B46400", "#D7B4F5", "#003C3C", "#8CD7B4", "#B4D700",
    "#648CF5", "#8C648C", "#8C0000", "#648C64", "#64008C", "#D7B464",
)  # fmt: skip
CURVES = COLOURS + CLASSES[2:]  # of more curves
DASHES = (0, (4, 2))
EPOCHS: dict[str, Any] = {"nbins": 6, "integer": True, "steps": [1, 2, 5, 10], "min_n_ticks": 1}  # whole numbers
LOOK: dict[Any, Any] = {
    "text.parse_math": False, "font.size": TICK, "legend.frameon": False, "legend.fontsize": TICK,
    "axes.titlelocation": "left", "axes.titlesize": LABEL,
}  # fmt: skip
WORDS = ("text.color", "axes.titlecolor", "legend.labelcolor")
DRAWING = threading.RLock()  # matplotlib's settings are those of the process
Draw = TypeVar("Draw", bound=Callable[..., Any])


def drawn(draw: Draw) -> Draw:
    """Draw under matplotlib's own defaults, with our look, text as it is written (no $ begins mathematics), and our ink."""

    @functools.wraps(draw)
    def under_own_settings(*args: Any, **named: Any) -> Any:
        try:
            import matplotlib
        except ImportError as error:
            raise ImportError(f'figures need matplotlib ({error}); run pip install "minivae[plot]"') from error
        with DRAWING, matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(LOOK | dict.fromkeys(WORDS, ink(args[0] if args else named.get("axes"))))
            return draw(*args, **named)

    return under_own_settings  # type: ignore[return-value]


def ink(axes: Any) -> str:
    """Light on a dark figure; behind a transparent one lies white paper, as where this is no Axes."""
    red, green, blue, seen = axes.figure.figure.get_facecolor() if hasattr(axes, "figure") else (1, 1, 1, 1)
    return LIGHT if seen > 0.5 > 0.3 * red + 0.59 * green + 0.11 * blue else INK


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of so many pixels, with no tie to pyplot or to a display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def style(axes: Axes, x_label: str = "", y_label: str = "") -> Axes:
    axes.set(facecolor="none")
    axes.set_xlabel(x_label, fontsize=LABEL, color=ink(axes))
    axes.set_ylabel(y_label, fontsize=LABEL, color=ink(axes))
    axes.tick_params(labelsize=TICK, labelcolor=ink(axes), color=LINE)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=LINE)
    return axes


def name_ticks(axis: Any, places: Iterable[float], names: Iterable[str]) -> None:
    """Names as they are written, also in the first tick, which is older than our settings."""
    for text in axis.set_ticks([*places], [*names]) and axis.get_ticklabels():
        text.set(parse_math=False, usetex=False)


def equal_units(axes: Axes) -> None:
    """As long across as up: the limits give way, or the box where other axes have both these limits too."""
    shared = [len(group.get_siblings(axes)) > 1 for group in (axes.get_shared_x_axes(), axes.get_shared_y_axes())]
    axes.set_aspect("equal", adjustable="box" if all(shared) else "datalim")


def add_title(figure: Figure, title: str, left: float, note: str) -> Figure:
    width, height = figure.get_size_inches() * DPI
    figure.text(left / width, 1 - 12 / height, title, fontsize=TITLE, weight="bold", va="top")
    figure.text(left / width, 1 - 38 / height, note, color=FAINT, va="top")
    return figure


def cut_start(axes: Axes, curves: np.ndarray) -> None:
    """Fit the y axis to what follows the first twentieth of the epochs, where that start spans most of it."""
    curves, skip = np.where(np.isfinite(curves), curves, np.nan), math.ceil(curves.shape[1] / 20)
    if curves.shape[1] > 5 and not np.isnan(curves[:, skip:]).all():
        low, top, high = np.nanmin(curves), np.nanmax(curves[:, skip:]), np.nanmax(curves)
        if high - low > 2.5 * (top - low) > 0:
            axes.set_ylim(low - 0.06 * (top - low), top + 0.15 * (top - low))
            look: dict[str, Any] = {"ha": "right", "va": "top", "color": FAINT, "transform": axes.transAxes}
            look["bbox"] = {"facecolor": "white", "linewidth": 0, "pad": 1}
            axes.text(0.98, 0.98, f"starts at {short_number(high)}", **look)


def short_number(value: float, form: str = ".3g") -> str:
    """By default three digits; a real minus sign, no -0."""
    return f"{round(float(value), 9):z{form}}".replace("-", "\N{MINUS SIGN}")


def shortened(names: Iterable[str], most: int, keep_end: bool = False) -> list[str]:
    """Names of at most `most` letters: the end is left out, or the start or the middle, so that all stay apart; or none."""
    names, room = [*names], most - 3
    for end in sorted((0, room // 2, room), reverse=keep_end):
        cut = [n if len(n) <= most else f"{n[: room - end]}...{n[len(n) - end :]}" for n in names]
        if len(set(cut)) == len(set(names)):
            return cut
    return names


def label_codes(labels: Any, n: int) -> tuple[np.ndarray, list[str]]:
    """What to colour by [n], and the names of the classes, "missing" (NaN) the last; no names where these are quantities."""
    labels = np.asarray(labels)
    require(labels.shape == (n,), f"labels have shape {labels.shape}; pass one for each of the {n} rows of mu")
    numeric = labels.dtype.kind in "fiu"
    known = np.isfinite(labels) if numeric else np.ones(n, bool)
    labels = labels if numeric else labels.astype(str)
    classes = np.unique(labels[known])
    if numeric and (len(classes) > len(CLASSES) or not np.all(classes == np.round(classes))):
        return labels, []
    codes = np.where(known, np.searchsorted(classes, labels), len(classes))
    return codes, [f"{c:g}" if numeric else str(c) for c in classes] + ["missing"] * (not known.all())


def label_colours(axes: Axes, labels: Any, n: int) -> np.ndarray:
    """What each of n rows is coloured [n, 4], and what that means, right of the axes: a legend, or a colour bar."""
    from matplotlib import colormaps, colors
    from matplotlib.cm import ScalarMappable
    from matplotlib.lines import Line2D

    if labels is None:
        return np.tile(colors.to_rgba(CLASSES[0]), (n, 1))
    codes, names = label_codes(labels, n)
    missing = names[-1:] == ["missing"] and np.asarray(labels).dtype.kind == "f"
    if 0 < len(names) <= len(CLASSES) + missing:
        palette: np.ndarray = colors.to_rgba_array([*CLASSES[: len(names) - missing], LINE][: len(names)])
        points = [Line2D([], [], ls="", marker="o", color=colors.to_hex(c), label="class") for c in palette]
        made = axes.legend(handles=points, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=LABEL)
        for text, name in zip(made.get_texts(), shortened(names, 13), strict=True):
            text.set_text(name)  # matplotlib's legend leaves out what begins with an underscore
        return np.asarray(palette[codes])
    scale = ScalarMappable(colors.Normalize(*value_range(codes)), colormaps["viridis"].with_extremes(bad=LINE))
    figure: Any = axes.get_figure()
    bar = figure.colorbar(scale, cax=axes.inset_axes((1.04, 0, 0.03, 1)))
    bar.ax.tick_params(labelsize=TICK, colors=ink(axes))
    bar.outline.set_visible(False)
    if names:
        places = range(0, len(names), math.ceil(len(names) / 15))
        bar.set_ticks(list(places), labels=[shortened(names, 13)[i] for i in places])
    elif not np.isfinite(codes).all():
        bar.ax.set_xlabel("grey:\nmissing", fontsize=TICK)
    return np.asarray(scale.to_rgba(codes))
