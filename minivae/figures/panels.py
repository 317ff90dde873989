"""One picture in one matplotlib Axes: each function takes the axes first, draws its data there and returns it.

They set what belongs to the picture (limits, labels, legends), and nothing of the figure around it; of them the figures
in plots.py and comparison.py are made. `from minivae import plots` has them all, as `plots.panels.scatter`.
Latents are counted from 0 in arguments, and are z1, z2, ... in what is drawn. With legend=False, axes.legend() is yours.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from minivae.figures import grids, layout
from minivae.figures.checks import Dims, History, Shape, as_rows, is_image, latent_columns, require, same_shape
from minivae.figures.layout import CLASSES, COLOURS, DASHES, FAINT, INK, LINE, TICK, Axes, drawn, label_colours, style

INSIDE = (0.5, 0.95)  # shares of a distribution that the lines around it hold
ACTIVE = 0.01  # nats of KL, above which training's history counts a latent as active
grid = grids.grid


@drawn
def curve(axes: Axes, history: History, quantity: str = "loss", legend: bool = True) -> Axes:
    """One quantity over the epochs, such as loss, recon or kl in nats per example: training, and every held-out part.

    history: as VAE.history_; a part called "val" is found by its key val_loss. A dotted line stands at the epoch that was
    kept. A start so high that it would flatten the rest is cut off, and its value written instead.
    """
    unit = "nats per example" if quantity in ("loss", "recon", "kl") else ""
    epochs, dots = _epochs(style(axes, "epoch", f"{quantity}, {unit}".removesuffix(", ")), history)
    parts = dict.fromkeys(key.removesuffix("loss") for record in history for key in record if key.endswith("loss"))
    curves = np.array([[record.get(part + quantity, np.nan) for record in history] for part in parts], float)
    require(np.isfinite(curves).any() or quantity == "loss", f"history has no {quantity!r}; name one of its columns")
    for part, values, colour in zip(parts, curves, itertools.cycle(layout.CURVES)):
        name = f"{part[:-1]}, after the epoch" if part else "train, mean over the epoch"
        axes.plot(epochs, values, color=colour, lw=1.6, label=name, **dots)
    layout.cut_start(axes, curves)
    if legend:
        axes.legend()
    return axes


@drawn
def kl_over_time(axes: Axes, history: History) -> Axes:
    """KL of each latent dimension over the epochs of training, in nats per example.

    Named, largest first, are up to 12 that are above 0.01 nats at the epoch that was kept; the others are faint.
    """
    epochs, dots = _epochs(style(axes, "epoch", "nats per example"), history)
    kl = np.array([record["kl_per_dim"] for record in history], float)
    kept = [i for i, record in enumerate(history) if record.get("kept")] or [-1]
    order = np.argsort(-kl[kept[-1]], kind="stable")
    named = [j for j in order if kl[kept[-1], j] > ACTIVE][: len(CLASSES)]
    others = axes.plot(epochs, kl[:, order[len(named) :]], color=LINE, lw=0.8, label="_faint", **dots)
    dots |= {"lw": 1.6}
    lines = [axes.plot(epochs, kl[:, j], color=c, label=f"z{j + 1}", **dots)[0] for j, c in zip(named, CLASSES)]
    for line in others[:1]:
        line.set_label(f"{len(others)} more" if named else f"all {len(others)}")
    axes.set_ylim(bottom=0)
    keys, right = lines + others[:1], (1.01, 1.02)
    axes.legend(handles=keys, loc="upper left", bbox_to_anchor=right, labelspacing=0.3, handlelength=1.2)
    return axes


def _epochs(axes: Axes, history: History) -> tuple[list[int], dict[str, Any]]:
    """The epochs, whole numbers across, a dotted line at the one that was kept; and how to mark them where they are few."""
    require(len(history) > 0, "history has no records; train for at least one epoch")
    epochs = [record["epoch"] for record in history]
    if kept := [record["epoch"] for record in history if record.get("kept")]:
        axes.axvline(kept[-1], color=FAINT, lw=1, ls=":", label="_kept")
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.locator_params("x", **layout.EPOCHS)
    return epochs, {"marker": "o", "ms": 3 if len(epochs) < 25 else 0}


@drawn
def kl_bars(axes: Axes, kl: Any, active: Any) -> Axes:
    """The mean KL [Z] of each latent dimension over some rows in nats, largest first; coloured where active [Z]."""
    kl, active = np.asarray(kl, float), np.asarray(active, bool)
    require(kl.ndim == 1 and kl.size > 0, f"kl has shape {kl.shape}; pass one number for each latent dimension")
    require(kl.shape == active.shape, f"kl has shape {kl.shape} and active {active.shape}; make them the same")
    as_rows(kl[:, None], "kl", finite=True)
    room = axes.bbox.width / (axes.figure.dpi / 72 * 0.6 * TICK)  # letters
    order, every = np.argsort(-kl, kind="stable"), math.ceil(kl.size * (len(f"z{kl.size}") + 0.7) / room)
    style(axes, "latent dimension, largest KL first", "nats per example")
    axes.bar(np.arange(kl.size), kl[order], width=0.75, color=[COLOURS[0] if on else LINE for on in active[order]])
    axes.set_xlim(-0.7, max(kl.size, 6) - 0.3)
    layout.name_ticks(axes.xaxis, range(0, kl.size, every), [f"z{j + 1}" for j in order[::every]])
    return axes


@drawn
def scatter(axes: Axes, mu: Any, labels: Any = None, dims: Dims = (0, 1)) -> Axes:
    """Posterior means mu [n, Z] in two latent dimensions, coloured by labels [n] where given.

    dims: which two columns of mu, from 0. Up to 12 classes get a legend; more classes, or continuous labels, a colour
    bar. With one latent dimension, the vertical axis is the place of the example in mu.
    """
    mu = as_rows(mu, "mu", finite=True)
    chosen, size = latent_columns(dims, mu, two=True), float(np.clip(15000 / len(mu), 5, 24))
    style(axes, *[*(f"z{j + 1} (posterior mean)" for j in chosen), "example"][:2])
    x, y = mu[:, chosen].T if len(chosen) == 2 else (mu[:, 0], np.arange(len(mu)))
    axes.scatter(x, y, s=size, linewidths=0, alpha=0.85, color=label_colours(axes, labels, len(mu)))
    if len(chosen) == 2:
        layout.equal_units(axes)
    return axes


@drawn
def ellipses(axes: Axes, mu: Any, logvar: Any, labels: Any = None, dims: Dims = (0, 1), few: int = 60) -> Axes:
    """q(z|x) in two latent dimensions of a few rows, spread evenly over mu, logvar [n, Z]; labels and dims as scatter.

    An ellipse is filled to one sigma, and a line at two; of one latent dimension these are a broad and a narrow line.
    """
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba_array

    centre, sigma = _gaussians(axes, mu, logvar, dims)
    rows = np.unique(np.linspace(0, len(centre) - 1, few).round().astype(int))
    colours, centre, sigma = label_colours(axes, labels, len(centre))[rows], centre[rows], sigma[rows]
    if centre.shape[1] == 1:
        for sigmas, width in ((sigma, 3), (2 * sigma, 0.8)):
            axes.hlines(rows, (centre - sigmas)[:, 0], (centre + sigmas)[:, 0], colors=colours, linewidths=width)
        axes.set_ylabel("example")
        return axes
    for sigmas, fill, line in ((1, 0.35, 0.8), (2, 0.0, 0.4)):
        look: dict[str, Any] = {"facecolors": to_rgba_array(colours, fill), "edgecolors": to_rgba_array(colours, line)}
        look |= {"linewidths": 0.8, "units": "xy", "offsets": centre, "offset_transform": axes.transData}
        width, height = 2 * sigmas * sigma.T
        axes.add_collection(EllipseCollection(width, height, 0, **look))
    axes.update_datalim(np.concatenate([centre - 2 * sigma, centre + 2 * sigma]))
    axes.autoscale_view()
    layout.equal_units(axes)
    return axes


@drawn
def aggregate(axes: Axes, mu: Any, logvar: Any, dims: Dims = (0, 1), cells: int = 400, legend: bool = True) -> Axes:
    """The aggregate posterior q(z), the mean of q(z|x) over the rows of mu, logvar [n, Z], against the prior N(0, I).

    Shades are the root of its density in two dimensions; solid lines hold 50 and 95 % of it, dashed circles as much of the
    prior; one dimension has both densities as curves. Hatched is what decodes to something that was never learned: inside
    the prior's 95 %, where q(z) < p(z) / 10, whose share of the prior is told. It is judged at `cells` points across these
    95 %, at every sigma; in the shades and lines, of as many points, no sigma is narrower than 0.6 of their distance.
    """
    from matplotlib import colormaps, colors

    centre, sigma = _gaussians(axes, mu, logvar, dims)
    Z, middles = centre.shape[1], (np.arange(cells) + 0.5) * 2 / cells - 1
    radii = np.sqrt(-2 * np.log1p(-np.array(INSIDE))) if Z == 2 else (0.67449, 1.959964)  # P(r > R) = exp(-R^2 / 2)
    reach = max(3.0, float(np.quantile(np.abs(centre) + 3 * sigma, 0.99)))
    at, near = reach * middles, radii[1] * middles
    q = _mixture(at, centre, np.maximum(sigma, 1.2 * reach / cells))
    p, edge = (_mixture(where, np.zeros((1, Z)), np.ones((1, Z))) for where in (near, radii[1] / Z**0.5))
    hole = (p > edge) & (_mixture(near, centre, sigma) < p / 10)
    hatch: dict[str, Any] = {"edgecolor": FAINT, "linewidth": 0}
    if Z == 2:
        ranked = np.sort(q, axis=None)[::-1]
        held = np.cumsum(ranked) * (at[1] - at[0]) ** 2  # what lies beyond the picture is among the least dense
        levels = ranked[np.searchsorted(held, INSIDE).clip(max=q.size - 1)]
        shades: dict[str, Any] = {"cmap": colormaps["Blues"].resampled(16), "norm": colors.PowerNorm(0.5, 0)}
        shades |= {"interpolation": "bilinear", "interpolation_stage": "data", "origin": "lower"}
        axes.imshow(q, extent=(-reach, reach, -reach, reach), **shades)
        if levels[1] < levels[0]:
            axes.contour(at, at, q, levels[::-1], colors=INK, linewidths=1)
        if hole.any():
            axes.contourf(near, near, hole, [0.5, 1.5], colors="none", hatches=["////"]).set(**hatch)
        turn = np.linspace(0, 2 * math.pi, 181)[:, None]
        curves: Any = [], [], radii * np.cos(turn), radii * np.sin(turn)
    else:
        axes.fill_between(near, p, where=hole, facecolor="none", hatch="////", **hatch)
        curves = at, q, at, _mixture(at, np.zeros((1, 1)), np.ones((1, 1)))
    inside = ": 50 and 95 %" if Z == 2 else ""
    axes.plot(*curves[:2], color=INK if Z == 2 else layout.ink(axes), lw=1, label=f"q(z){inside}")
    axes.plot(*curves[2:], color=COLOURS[1], lw=1.2, ls=DASHES, label=[f"p(z){inside}", "_"][:Z])
    if Z == 1:
        axes.set(ylabel="density", ylim=(0, None))
    missed = f"q(z) < p(z) / 10: {p[hole].sum() * (near[1] - near[0]) ** Z:.1%} of p(z)"
    axes.fill([], [], facecolor="none", hatch="////", label=missed, **hatch)
    if legend:
        look: dict[str, Any] = {"frameon": True, "edgecolor": "none", "labelcolor": INK} if Z == 2 else {}
        axes.legend(loc="upper left", fontsize=TICK - 2, labelspacing=0.2, borderpad=0.2, borderaxespad=0.2, **look)
    return axes


def _mixture(at: np.ndarray, centre: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """The mean density of the Gaussians centre, sigma [n, 1 or 2] at points [m] or all their pairs [m, m], up by row."""
    total: Any = 0
    for start in range(0, len(centre), 2048):  # a few megabytes, however many rows there are
        m, w = (a[start : start + 2048, :, None] for a in (centre, sigma))
        near = np.exp(-0.5 * ((at - m) / w) ** 2) / (math.sqrt(2 * math.pi) * w)
        total = total + (near[:, 1].T @ near[:, 0] if centre.shape[1] == 2 else near.sum(axis=(0, 1)))
    return np.asarray(total / len(centre))


def _gaussians(axes: Axes, mu: Any, logvar: Any, dims: Dims) -> tuple[np.ndarray, np.ndarray]:
    """Means and sigmas [n, 1 or 2] of q(z|x) in two latent dimensions, or the only one, of which the axes get the names."""
    mu, logvar = same_shape(finite=True, mu=mu, logvar=logvar)
    chosen = latent_columns(dims, mu, two=True)
    style(axes, *(f"z{j + 1}" for j in chosen))
    return mu[:, chosen].astype(float), np.exp(logvar[:, chosen].astype(float) / 2)


@drawn
def by_score(axes: Axes, x: Any, x_hat: Any, score: Any, image_shape: Shape, each: int = 0) -> Axes:
    """Originals x [n, D] and reconstructions x_hat [n, D] of the best, the median and the worst rows by score [n] in nats.

    score: the higher the better, such as VAE.score_samples; it stands under each pair. each: by default 8 images or 4 lines.
    """
    x, x_hat = same_shape("pass reconstructions of x", x=x, x_hat=x_hat)
    score, names = np.asarray(score, float), ["best", "median", "worst"]
    require(len(x) == score.size, f"x has shape {x.shape} and score {score.shape}; pass a score for each row")
    rows = grids.by_quantile(score, each or (8 if is_image(image_shape) else 4))
    if is_image(image_shape):
        names = [text for name in names for text in (f"{name}: original", "reconstruction")]
    texts = [layout.short_number(s, ".1f") for s in score[rows]]
    layers = {"original": x[rows], "reconstruction": x_hat[rows]}
    return grid(axes, layers, image_shape, len(rows) // 3, texts, y_ticks=[*enumerate(names)])


@drawn
def parity(axes: Axes, x: Any, x_hat: Any) -> Axes:
    """One column's reconstructions x_hat [n] over its originals x [n], in its own units; NaN is left out.

    The nearer to the line, the better; R2 is the part of the column's variance that is reconstructed.
    """
    x, x_hat = np.asarray(x, float), np.asarray(x_hat, float)
    fit = x.ndim == 1 and x.size > 0 and x.shape == x_hat.shape
    require(fit, f"x has shape {x.shape} and x_hat {x_hat.shape}; pass one column [n] of each")
    a, b = np.stack([x, x_hat])[:, np.isfinite(x + x_hat)]
    style(axes, "original", "reconstruction")
    axes.scatter(a, b, s=float(np.clip(4000 / len(x), 4, 16)), color=COLOURS[0], linewidths=0, alpha=0.6)
    if len(a):
        ends = [a.min(), a.max()]
        axes.plot(ends, ends, color=FAINT, lw=1, ls=DASHES)
        if (variance := a.var()) > 0:
            r2 = layout.short_number(1 - ((a - b) ** 2).mean() / variance, ".2f")
            axes.text(0.04, 0.9, f"R\N{SUPERSCRIPT TWO} {r2}", transform=axes.transAxes)
    return axes


@drawn
def histogram(axes: Axes, x: Any, samples: Any, legend: bool = True) -> Axes:
    """How a column x [n] of the data is spread, grey, and that of samples [m], a line; as shares of them, without NaN."""
    a, b = (part[np.isfinite(part)] for part in (np.asarray(x, float), np.asarray(samples, float)))
    edges = np.histogram_bin_edges(np.concatenate([a, b]), int(np.clip(len(a) ** 0.5, 8, 30)))
    style(axes, "value", "share of the rows")
    axes.stairs(np.histogram(a, edges)[0] / max(1, len(a)), edges, color=LINE, fill=True, label="data")
    axes.stairs(np.histogram(b, edges)[0] / max(1, len(b)), edges, color=COLOURS[1], lw=1.4, label="samples")
    if legend:
        axes.legend()
    return axes
