"""Figures: loss curves, the latent space, and what the decoder makes of it.

Pure functions from arrays to a matplotlib Figure, each made of functions that draw in an Axes of yours: `plots.panels`.
Rows that are not images (image_shape is None, or neither (H, W) nor (H, W, 1 or 3)) are drawn as lines over their columns.
`rows` is a note that says which rows they are, `told` one of what the decoder is given beside z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from minivae.figures import layout, panels
from minivae.figures.checks import Decode, Dims, History, Shape, as_rows, is_image, latent_columns, require, same_shape
from minivae.figures.grids import Layers, Texts, fitted, image_grid
from minivae.figures.layout import WIDTH, Axes, Figure, add_title, drawn, new_figure, short_number, style
from minivae.storage.durable import write_atomically

MOST = 12  # columns of a table in one figure


@drawn
def loss_curves(history: History) -> Figure:
    """Loss, reconstruction and KL over the epochs in nats per example (panels.curve); beta beside the KL where it varies."""
    figure = new_figure(WIDTH, 400)
    grid = figure.add_gridspec(2, 2, left=0.085, right=0.93, bottom=0.13, top=0.79, wspace=0.2, hspace=0.36)
    places = {"loss": grid[:, 0], "recon": grid[0, 1], "kl": grid[1, 1]}
    loss, recon, kl = (panels.curve(figure.add_subplot(place), history, name, False) for name, place in places.items())
    samples = dict.fromkeys(str(record.get("n_samples", 1)) for record in history)
    what = "reconstruction + beta KL" if [*samples] == ["1"] else f"the bound of K = {', '.join(samples)} samples"
    loss.set(title=f"loss: {what}", ylabel="")
    recon.set(title="reconstruction, -log p(x|z)", xlabel="", ylabel="")  # the KL panel below has the same epochs
    recon.tick_params(labelbottom=False)
    kl.set(title="KL( q(z|x) || p(z) )", ylabel="")
    beta = np.array([record["beta"] for record in history], float)
    if np.ptp(beta) > 0:
        twin = style(kl.twinx(), "", "beta (dashed)")
        twin.plot([record["epoch"] for record in history], beta, color=layout.FAINT, lw=1.2, ls=layout.DASHES)
        twin.set_ylim(0, 1.5 * beta.max())
        twin.set_yticks([0, beta.max()], ["0", short_number(beta.max())])
    figure.legend(handles=[line for line in loss.lines if line.get_label() != "_kept"], loc="upper right", ncols=3)
    kept = [record["epoch"] for record in history if record.get("kept")]
    note = "nats per example" + (f"; the model is of epoch {kept[-1]}, the dotted line" if kept else "")
    return add_title(figure, "Training", 0.085 * WIDTH, note)


@drawn
def kl_per_dimension(kl: Any, active: Any, rows: str = "", history: History = ()) -> Figure:
    """The mean KL [Z] of each latent dimension over some rows (panels.kl_bars); with a history also panels.kl_over_time."""
    kl, active = np.asarray(kl, float), np.asarray(active, bool)
    bars = min(max(430, 100 + 30 * kl.size), WIDTH - 330 if history else WIDTH)
    width = bars + 430 if history else max(bars, 520)
    figure = new_figure(width, 330)
    panels.kl_bars(figure.add_axes((70 / width, 0.17, (bars - 95) / width, 0.55)), kl, active)
    if history:
        axes = panels.kl_over_time(figure.add_axes(((bars + 55) / width, 0.17, 280 / width, 0.55)), history)
        axes.set(title="in training, mean over the epoch", ylabel="")
    note = f"{rows}; mean KL {short_number(kl.sum())} nats\nactive: variance of the posterior mean above 0.01"
    return add_title(figure, f"Active latent dimensions: {active.sum()} of {kl.size}", 70, note.removeprefix("; "))


@drawn
def reconstructions(x: Any, x_hat: Any, image_shape: Shape, rows: str = "") -> Figure:
    """Originals x [n, D] above their reconstructions x_hat [n, D] in pairs of rows, or as lines in one cell.

    The first 30 images, or 12 lines, are drawn; where that is not all, the title and the figure's label say so.
    """
    x, x_hat = same_shape("pass reconstructions of x", x=x, x_hat=x_hat)
    return pairs({"original": x, "reconstruction": x_hat}, image_shape, "Originals and reconstructions", rows)


@drawn
def pairs(named: Layers, image_shape: Shape, title: str, rows: str = "") -> Figure:
    """Rows [n, D] above those that belong to them, by their names, as `reconstructions`."""
    n, (columns, most) = len(next(iter(named.values()))), (10, 30) if is_image(image_shape) else (4, 12)
    layers, cut = {name: x[:most] for name, x in named.items()}, f", the first {most} of {n}" if most < n else ""
    figure = image_grid(layers, image_shape, min(n, columns), title + cut, rows)
    figure.set_label(cut[2:])
    return figure


@drawn
def by_score(x: Any, x_hat: Any, score: Any, image_shape: Shape, rows: str = "", each: int = 0) -> Figure:
    """Originals [n, D] with their reconstructions, the best, the median and the worst by score [n]: panels.by_score."""
    axes = new_figure(1, 1).add_subplot()
    panels.by_score(axes, x, x_hat, score, image_shape, each)
    note = f"{rows}; ELBO in nats below each pair".removeprefix("; ")
    return fitted(axes, "Reconstructions by score: best, median and worst", note)


@drawn
def samples(images: Any, image_shape: Shape, columns: int | None = None, note: str = "", x_names: Texts = ()) -> Figure:
    """A grid of images [n, D], such as decoded draws from the prior, row by row; of other rows, the first 36.

    x_names: what stands under each column of the grid.
    """
    images = as_rows(images, "images")
    require(columns is None or columns > 0, f"columns must be at least 1, not {columns}")
    n, shown = len(images), images if is_image(image_shape) else images[:36]
    cut = f", the first {len(shown)}" if len(shown) < n else ""
    columns = min(columns or math.ceil(len(shown) ** 0.5), len(shown))
    title = ("1 sample" if n == 1 else f"{n} samples") + cut
    figure = image_grid({"": shown}, image_shape, columns, title, note, x_ticks=[*enumerate(x_names)])
    figure.set_label(f"{cut[2:]} of {n}" if cut else "")
    return figure


@drawn
def manifold(decode: Decode, image_shape: Shape, latent_dim: int = 2, size: int = 20, told: str = "") -> Figure:
    """The decoder's means over the plane of z1 and z2, on quantiles of the prior: equal cells hold equal probability.

    Cell i of an axis lies at the (i + 1/2) / size quantile of N(0, 1); z1 grows to the right and z2 upwards. Further
    latents are 0, and one latent gives one row. For rows that are not images, size is at most 8.
    """
    require(min(size, latent_dim) > 0, f"size and latent_dim must be at least 1, not {size} and {latent_dim}")
    size, plane = size if is_image(image_shape) else min(size, 8), latent_dim > 1
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)])
    rows = quantiles[::-1] if plane else np.zeros(1)
    z = np.zeros((len(rows), size, latent_dim))
    z[..., :2] = np.stack(np.meshgrid(quantiles, rows), axis=-1)[..., :latent_dim]
    places = sorted({0, size // 4, (size - 1) // 2 if size % 2 else 0, size - 1 - size // 4, size - 1})
    x_ticks = [(i, short_number(round(quantiles[i], 2))) for i in places]
    y_ticks = [(size - 1 - i, text) for i, text in x_ticks if plane]
    note = "decoder means at quantiles of the prior" + (", other latents 0" if latent_dim > 2 else "") + told
    labels = "z1", "z2" if plane else ""
    return _decoded(decode, z, image_shape, "Latent manifold", note, x_ticks, y_ticks, labels, gap=1)


@drawn
def traversals(
    decode: Decode, image_shape: Shape, mu: Any, dims: Sequence[int] | None = None, steps: int = 11, span: float = 3.0,
    rows: str = "the data", told: str = "",
) -> Figure:  # fmt: skip
    """One row per latent dimension: it goes from -span to span, the others stay at the mean of mu over the data.

    mu: posterior means of some data [n, Z]; span: in standard deviations of the prior; dims: columns of mu, counted
    from 0, by default the ten that vary most, most first.
    """
    mu = as_rows(mu, "mu")
    require(steps > 1 and 0 < span < math.inf, f"steps must be at least 2 and span positive, not {steps} and {span}")
    chosen = latent_columns(np.argsort(-mu.var(axis=0), kind="stable")[:10] if dims is None else dims, mu)
    values = np.linspace(-span, span, steps)
    z = np.tile(mu.mean(axis=0, dtype=float), (len(chosen), steps, 1))
    z[np.arange(len(chosen)), :, chosen] = values
    most = f"the {len(chosen)} of {mu.shape[1]} latents" if len(chosen) < mu.shape[1] else "latents"
    most += " that vary most, most first" if dims is None else ""
    note = (f"{most}; the others at their mean over {rows}" if mu.shape[1] > 1 else "decoder means") + told
    x_ticks = [(i, short_number(values[i])) for i in range(0, steps, math.ceil(steps / 15))]
    y_ticks, labels = [(row, f"z{j + 1}") for row, j in enumerate(chosen)], ("standard deviations of the prior", "")
    return _decoded(decode, z, image_shape, "Latent traversals", note, x_ticks, y_ticks, labels)


@drawn
def interpolations(
    decode: Decode, z_start: Any, z_end: Any, image_shape: Shape, steps: int = 11, rows: str = "", told: str = ""
) -> Figure:
    """One row per pair: the decoder's means on the straight line from z_start [n, Z] to z_end [n, Z].

    Linear, not spherical: ends are usually posterior means, and no point between them is less probable under the prior
    than the worse end. The spherical path of White (2016) is for independent draws from a prior of many dimensions.
    """
    start, end = same_shape(finite=True, z_start=z_start, z_end=z_end)
    require(steps > 1, f"steps must be at least 2, the two ends, not {steps}")
    t = np.linspace(0, 1, steps)[:, None]
    z, ticks = (1 - t) * start[:, None] + t * end[:, None], [(0, "start"), (steps - 1, "end")]
    note = "decoder means on straight lines in latent space" + (f" between {rows}" if rows else "") + told
    return _decoded(decode, z, image_shape, "Linear interpolations", note, ticks)


def _decoded(
    decode: Decode, z: np.ndarray, image_shape: Shape, title: str, note: str, *ticks: Any, gap: int = 2
) -> Figure:
    """The decoder's means at z [rows, columns, Z], as they lie there."""
    points = z.reshape(-1, z.shape[-1])
    n, means = len(points), as_rows(decode(points), "the result of decode")
    require(len(means) == n, f"decode returned {len(means)} rows for {n} latent points; return one for each")
    return image_grid({"": means}, image_shape, z.shape[1], title, note, gap, *ticks)


@drawn
def latent_scatter(
    mu: Any, labels: Any = None, title: str = "Latent space", dims: Dims = (0, 1), rows: str = ""
) -> Figure:
    """Posterior means mu [n, Z] in two latent dimensions, coloured by labels [n] where given: panels.scatter."""
    mu, width = as_rows(mu, "mu"), 680 if labels is None else WIDTH
    figure = new_figure(width, 600)
    panels.scatter(figure.add_axes((75 / width, 0.1, 570 / width, 0.78)), mu, labels, dims)
    return add_title(figure, title, 75, _which(rows, mu, dims))


@drawn
def posterior(mu: Any, logvar: Any, labels: Any = None, dims: Dims = (0, 1), rows: str = "", few: int = 60) -> Figure:
    """q(z|x) of a few of the rows of mu, logvar [n, Z] (panels.ellipses), and its mean over all (panels.aggregate)."""
    mu, figure = as_rows(mu, "mu"), new_figure(1060, 560)
    left, right = (figure.add_axes((x / 1060, 55 / 560, 395 / 1060, 395 / 560)) for x in (60, 650))
    panels.ellipses(left, mu, logvar, labels, dims, few)
    left.set_title(f"q(z|x) of {min(few, len(mu))} rows, to 1 and 2 sigma")
    above: dict[str, Any] = {"bbox_to_anchor": (-0.03, 1), "columnspacing": 1.2, "handlelength": 1.6}
    panels.aggregate(right, mu, logvar, dims, legend=False).legend(loc="lower left", ncols=2, **above)
    return add_title(figure, "Posterior of single rows, and of all against the prior", 60, _which(rows, mu, dims))


def _which(rows: str, mu: np.ndarray, dims: Dims) -> str:
    latents = f"; latents {dims[0] + 1} and {dims[1] + 1} of {mu.shape[1]}" if mu.shape[1] > 2 else ""
    return (rows or f"{len(mu):,} examples") + latents


@drawn
def parity(x: Any, x_hat: Any, names: Texts, rows: str = "") -> Figure:
    """Reconstructions x_hat [n, D] over originals x [n, D], column by column: panels.parity."""
    x, x_hat = same_shape("pass reconstructions of x", x=x, x_hat=x_hat)
    return _by_column(panels.parity, x, x_hat, names, "Originals (across) and reconstructions (up)", rows)


@drawn
def histograms(x: Any, drawn: Any, names: Texts, rows: str = "") -> Figure:
    """Data x [n, D] and samples drawn [m, D], column by column: panels.histogram."""
    x, drawn = as_rows(x, "x"), as_rows(drawn, "drawn")
    require(x.shape[1] == drawn.shape[1], f"x has {x.shape[1]} columns and drawn {drawn.shape[1]}; make them the same")
    title = f"{len(drawn):,} samples (line) and the data (grey)"
    return _by_column(lambda axes, a, b: panels.histogram(axes, a, b, legend=False), x, drawn, names, title, rows)


def _by_column(draw: Callable[..., Axes], a: Any, b: Any, names: Texts, title: str, rows: str) -> Figure:
    columns = a.shape[1]
    require(len(names) == columns, f"there are {len(names)} names for {columns} columns; pass one for each")
    n = min(columns, MOST)
    across, down = min(n, 4), math.ceil(n / 4)
    note = f"{rows}; the first {n} of {columns} columns".removeprefix("; ") if n < columns else rows
    width, height = max(235 * across, 73 + 11 * len(title), 73 + 7.2 * len(note)), 62 + 190 * down
    figure = new_figure(width, height)
    for j, name in enumerate(layout.shortened(names[:n], 22)):
        left, bottom = j % across / across + 59 / width, (190 * (down - 1 - j // across) + 32) / height
        axes = draw(figure.add_axes((left, bottom, 1 / across - 75 / width, 120 / height)), a[:, j], b[:, j])
        axes.set_title(name, fontsize=layout.TICK)
        axes.set(xlabel="", ylabel="")  # the title says it
        axes.locator_params(nbins=4)
    return add_title(figure, title, 59, note)


@drawn
def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the suffix of `path` names, whole or not at all, into a folder that exists.

    The same figure gives the same bytes as .png and .pdf: they carry no date and no version.
    """
    path, known = Path(path), sorted(figure.canvas.get_supported_filetypes())
    kind = path.suffix[1:].lower()
    require(kind in known, f"{path} has no suffix of a figure format; end it in .png, or in one of {', '.join(known)}")
    unsaid = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    write_atomically(path, lambda file: figure.savefig(file, format=kind, metadata=unsaid.get(kind)))
