"""One picture in one matplotlib Axes: each function takes the axes first, draws its data there and returns it.

They set what belongs to the picture (limits, labels, legends), and nothing of the figure around it; of them the figures
in plots.py and comparison.py are made. `from minivae import plots` has them all, as `plots.panels.scatter`.
Latents are counted from 0 in arguments, and are z1, z2, ... in what is drawn.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minivae.figures import grids, layout
from minivae.figures.checks import Dims, History, Shape, as_rows, is_image, latent_columns, require, same_shape
from minivae.figures.layout import CLASSES, COLOURS, DASHES, FAINT, INK, LINE, Axes, drawn, label_colours, style

INSIDE = (0.5, 0.95)  # shares of a distribution that the lines around it hold
ACTIVE = 0.01  # nats of KL, above which training's history counts a latent as active
grid = grids.grid


@drawn
def curve(axes: Axes, history: History, quantity: str = "loss") -> Axes:
    """One quantity over the epochs, such as loss, recon or kl in nats per example: training, and every held-out part.

    history: as VAE.history_; a part called "val" is found by its key val_loss. A dotted line stands at the epoch that was
    kept. A start so high that it would flatten the rest is cut off, and its value written instead.
    """
    epochs, dots = _epochs(style(axes, "epoch"), history)
    parts = dict.fromkeys(key.removesuffix("loss") for record in history for key in record if key.endswith("loss"))
    curves = np.array([[record.get(part + quantity, np.nan) for record in history] for part in parts], float)
    require(np.isfinite(curves).any() or quantity == "loss", f"history has no {quantity!r}; name one of its columns")
    for part, values, colour in zip(parts, curves, COLOURS, strict=False):
        name = f"{part[:-1]}, after the epoch" if part else "train, mean over the epoch"
        axes.plot(epochs, values, color=colour, lw=1.6, label=name, **dots)
    layout.cut_start(axes, curves)
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
    lines = [axes.plot(epochs, kl[:, j], label=f"z{j + 1}", lw=1.6, **dots)[0] for j in named]
    for line, colour in zip(lines, CLASSES):
        line.set_color(colour)
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
    order, every = np.argsort(-kl, kind="stable"), math.ceil(kl.size / 25)
    style(axes, "latent dimension, largest KL first", "nats per example")
    axes.bar(np.arange(kl.size), kl[order], width=0.75, color=[COLOURS[0] if on else LINE for on in active[order]])
    axes.set_xlim(-0.7, max(kl.size, 6) - 0.3)
    axes.set_xticks(range(0, kl.size, every), [f"z{j + 1}" for j in order[::every]])
    return axes


@drawn
def scatter(axes: Axes, mu: Any, labels: Any = None, dims: Dims = (0, 1)) -> Axes:
    """Posterior means mu [n, Z] in two latent dimensions, coloured by labels [n] where given.

    dims: which two columns of mu, from 0. Up to 12 classes get a legend; more classes, or continuous labels, a colour
    bar. With one latent dimension, the vertical axis is the place of the example in mu.
    """
    mu = as_rows(mu, "mu")
    flat = mu.shape[1] == 1
    first, second = latent_columns((0, 0) if flat else dims, mu)
    style(axes, f"z{first + 1} (posterior mean)", "example" if flat else f"z{second + 1} (posterior mean)")
    x, y, size = mu[:, first], np.arange(len(mu)) if flat else mu[:, second], float(np.clip(15000 / len(mu), 5, 24))
    axes.scatter(x, y, s=size, linewidths=0, alpha=0.85, color=label_colours(axes, labels, len(mu)))
    if not flat:
        axes.set_aspect("equal", adjustable="datalim")
    return axes


@drawn
def ellipses(axes: Axes, mu: Any, logvar: Any, labels: Any = None, dims: Dims = (0, 1), few: int = 60) -> Axes:
    """q(z|x) in two latent dimensions of a few rows, spread evenly over mu, logvar [n, Z]; labels and dims as scatter.

    An ellipse is filled to one sigma, and a line at two.
    """
    from matplotlib.collections import EllipseCollection
    from matplotlib.colors import to_rgba_array

    centre, sigma = _gaussians(axes, mu, logvar, dims)
    rows = np.unique(np.linspace(0, len(centre) - 1, few).round().astype(int))
    colours, centre, sigma = label_colours(axes, labels, len(centre))[rows], centre[rows], sigma[rows]
    for sigmas, fill, line in ((1, 0.35, 0.8), (2, 0.0, 0.4)):
        look: dict[str, Any] = {"facecolors": to_rgba_array(colours, fill), "edgecolors": to_rgba_array(colours, line)}
        look |= {"linewidths": 0.8, "units": "xy", "offsets": centre, "offset_transform": axes.transData}
        width, height = 2 * sigmas * sigma.T
        axes.add_collection(EllipseCollection(width, height, 0, **look))
    axes.update_datalim(np.concatenate([centre - 2 * sigma, centre + 2 * sigma]))
    axes.autoscale_view()
    axes.set_aspect("equal", adjustable="datalim")
    return axes


@drawn
def aggregate(axes: Axes, mu: Any, logvar: Any, dims: Dims = (0, 1), cells: int = 160) -> Axes:
    """The aggregate posterior q(z), the mean of q(z|x) over the rows of mu, logvar [n, Z], against the prior N(0, I).

    Shades are the root of its density in two dimensions; solid lines hold 50 and 95 % of it, dashed circles as much of the
    prior. Hatched is what decodes to something that was never learned: inside the prior's 95 %, where q(z) < p(z) / 10.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    centre, sigma = _gaussians(axes, mu, logvar, dims)
    reach = max(3.0, float(np.quantile(np.abs(centre) + 3 * sigma, 0.99)))
    cell = 2 * reach / cells
    at, width = (np.arange(cells) + 0.5) * cell - reach, np.hypot(sigma, cell)  # none so narrow that it hides in a cell
    q = np.zeros((cells, cells))
    for start in range(0, len(centre), 4096):  # a few megabytes, however many rows there are
        m, w = (a[start : start + 4096, :, None] for a in (centre, width))
        near = np.exp(-0.5 * ((at - m) / w) ** 2) / w
        q += near[:, 1].T @ near[:, 0] / (2 * math.pi * len(centre))
    ranked = np.sort(q, axis=None)[::-1]
    levels = [ranked[np.searchsorted(np.cumsum(ranked), share * ranked.sum())] for share in INSIDE]
    radii = np.sqrt(-2 * np.log1p(-np.array(INSIDE)))  # P(r > R) = exp(-R^2 / 2)
    r = np.hypot(at, at[:, None])
    p = np.exp(-(r**2) / 2) / (2 * math.pi)
    hole = (r < radii[-1]) & (q < p / 10)

    shades: dict[str, Any] = {"cmap": colormaps["Blues"].resampled(16), "norm": PowerNorm(0.5, 0), "origin": "lower"}
    shades |= {"interpolation": "bilinear", "interpolation_stage": "data"}
    axes.imshow(q, extent=(-reach, reach, -reach, reach), **shades)
    if levels[1] < levels[0]:
        axes.contour(at, at, q, levels[::-1], colors=INK, linewidths=1)
    if hole.any():
        axes.contourf(at, at, hole, [0.5, 1.5], colors="none", hatches=["////"]).set(edgecolor=FAINT, linewidth=0)
    turn, name = np.linspace(0, 2 * math.pi, 181)[:, None], "p(z): 50 and 95 %"
    circles = axes.plot(radii * np.cos(turn), radii * np.sin(turn), color=COLOURS[1], lw=1.2, ls=DASHES, label=name)
    line = Line2D([], [], color=INK, lw=1, label="q(z): 50 and 95 %")
    missed = f"q(z) < p(z) / 10: {p[hole].sum() * cell**2:.1%} of p(z)"
    hatch = Patch(facecolor="none", edgecolor=FAINT, hatch="////", lw=0, label=missed)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.03, 1), "ncols": 2}
    axes.legend(handles=[line, circles[0], hatch], columnspacing=1.2, handlelength=1.6, **place)
    return axes


def _gaussians(axes: Axes, mu: Any, logvar: Any, dims: Dims) -> tuple[np.ndarray, np.ndarray]:
    """Means and sigmas [n, 2] of q(z|x) in two latent dimensions, of which the axes get the names."""
    mu, logvar = same_shape(mu=mu, logvar=logvar)
    chosen = latent_columns(dims, mu)
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
    texts = [f"{s:.1f}".replace("-", "\N{MINUS SIGN}") for s in score[rows]]
    layers = {"original": x[rows], "reconstruction": x_hat[rows]}
    return grid(axes, layers, image_shape, len(rows) // 3, texts, y_ticks=[*enumerate(names)])


@drawn
def parity(axes: Axes, x: Any, x_hat: Any) -> Axes:
    """One column's reconstructions x_hat [n] over its originals x [n], in its own units; NaN is left out.

    The nearer to the line, the better; R2 is the part of the column's variance that is reconstructed.
    """
    both = np.array([x, x_hat], float)
    a, b = both[:, np.isfinite(both).all(axis=0)]
    style(axes).scatter(a, b, s=float(np.clip(4000 / len(x), 4, 16)), color=COLOURS[0], linewidths=0, alpha=0.6)
    if len(a):
        ends = [a.min(), a.max()]
        axes.plot(ends, ends, color=FAINT, lw=1, ls=DASHES)
        if (variance := a.var()) > 0:
            told = f"R\N{SUPERSCRIPT TWO} {1 - ((a - b) ** 2).mean() / variance:.2f}"
            axes.text(0.04, 0.9, told, transform=axes.transAxes)
    return axes


@drawn
def histogram(axes: Axes, x: Any, samples: Any) -> Axes:
    """How a column x [n] of the data is spread, grey, and that of samples [m], a line; as shares of them, without NaN."""
    a, b = (part[np.isfinite(part)] for part in (np.asarray(x, float), np.asarray(samples, float)))
    edges = np.histogram_bin_edges(np.concatenate([a, b]), int(np.clip(len(a) ** 0.5, 8, 30)))
    style(axes).stairs(np.histogram(a, edges)[0] / max(1, len(a)), edges, color=LINE, fill=True)
    axes.stairs(np.histogram(b, edges)[0] / max(1, len(b)), edges, color=COLOURS[1], lw=1.4)
    return axes
