"""Figures: loss curves, the latent space, and what the decoder makes of it.

Pure functions from arrays to a matplotlib Figure. Rows that are not images (image_shape is None, or neither (H, W) nor
(H, W, 1 or 3)) are drawn as lines over their columns. Grey images within [0, 1] are shown on that range, other grey ones
from the least to the largest value in the figure; colours are clipped to [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from minivae.figures.layout import (
    CLASSES,
    COLOURS,
    FAINT,
    INK,
    LABEL,
    LINE,
    TICK,
    WIDTH,
    Decode,
    Shape,
    add_title,
    as_rows,
    cut_start,
    decode_all,
    drawn,
    image_grid,
    is_image,
    label_codes,
    latent_columns,
    new_figure,
    require,
    short_number,
    style,
)
from minivae.storage.durable import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawn
def loss_curves(history: Sequence[dict[str, Any]]) -> Figure:
    """Loss, reconstruction and KL over the epochs in nats per example, for training and every held-out part.

    history: the records of Trainer.history; a part called "val" is found by its key val_loss. Where beta varies, it is
    drawn beside the KL, and a dotted line stands at the epoch that was kept. A start so high that it would flatten the
    rest is cut off, and its value written instead.
    """
    figure = new_figure(WIDTH, 400)
    from matplotlib.ticker import MaxNLocator

    require(len(history) > 0, "history has no records; train for at least one epoch")
    epochs = [record["epoch"] for record in history]
    kept = next((record["epoch"] for record in reversed(history) if record.get("kept")), None)
    parts = dict.fromkeys(key.removesuffix("loss") for record in history for key in record if key.endswith("loss"))
    grid = figure.add_gridspec(2, 2, left=0.085, right=0.93, bottom=0.13, top=0.79, wspace=0.2, hspace=0.3)
    samples = dict.fromkeys(str(record.get("n_samples", 1)) for record in history)
    what = "reconstruction + beta KL" if [*samples] == ["1"] else f"the bound of K = {', '.join(samples)} samples"
    panels = (
        ("loss", grid[:, 0], f"loss: {what}"),
        ("recon", grid[0, 1], "reconstruction, -log p(x|z)"),
        ("kl", grid[1, 1], "KL( q(z|x) || p(z) )"),
    )
    for quantity, place, title in panels:
        axes = style(figure.add_subplot(place), "" if quantity == "recon" else "epoch")
        axes.tick_params(labelbottom=quantity != "recon")  # the KL panel below has the same epochs
        axes.set_title(title, loc="left", fontsize=LABEL, color=INK)
        curves = np.array([[record.get(part + quantity, np.nan) for record in history] for part in parts], float)
        for part, curve, colour in zip(parts, curves, COLOURS, strict=False):
            name = f"{part[:-1]}, after the epoch" if part else "train, mean over the epoch"
            axes.plot(epochs, curve, color=colour, lw=1.6, marker="o", ms=3 if len(epochs) < 25 else 0, label=name)
        cut_start(axes, curves)
        if kept is not None:
            axes.axvline(kept, color=FAINT, lw=1, ls=":", label="_kept")
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    beta = np.array([record["beta"] for record in history], float)
    if np.ptp(beta) > 0:
        twin = style(axes.twinx(), "", "beta (dashed)")
        twin.plot(epochs, beta, color=FAINT, lw=1.2, ls=(0, (4, 2)))
        twin.set_ylim(0, 1.5 * beta.max())
        twin.set_yticks([0, beta.max()], ["0", short_number(beta.max())])
    lines = [line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")]
    look: dict[str, Any] = {"frameon": False, "fontsize": TICK, "labelcolor": INK}
    figure.legend(handles=lines, loc="upper right", ncols=3, **look)
    note = "nats per example" + ("" if kept is None else f"; the model is of epoch {kept}, the dotted line")
    return add_title(figure, "Training", 0.085 * WIDTH, note)


@drawn
def kl_per_dimension(kl: Any, active: Any, rows: str = "") -> Figure:
    """The mean KL [Z] of each latent dimension over some rows in nats, largest first; coloured where active [Z]."""
    kl, active = np.asarray(kl, float), np.asarray(active, bool)
    require(kl.ndim == 1 and kl.size > 0, f"kl has shape {kl.shape}; pass one number for each latent dimension")
    require(kl.shape == active.shape, f"kl has shape {kl.shape} and active {active.shape}; make them the same")
    order, every = np.argsort(-kl, kind="stable"), math.ceil(kl.size / 25)
    note = f"{rows}; mean KL " if rows else "mean KL "
    note += f"{short_number(kl.sum())} nats\nactive: variance of the posterior mean above 0.01"
    width = min(max(520, 120 + 30 * kl.size), WIDTH)
    figure = new_figure(width, 320)
    axes = figure.add_axes((70 / width, 0.19, 1 - 95 / width, 0.6))
    style(axes, "latent dimension, largest KL first", "nats per example")
    axes.bar(np.arange(kl.size), kl[order], width=0.75, color=[COLOURS[0] if on else LINE for on in active[order]])
    axes.set_xlim(-0.7, max(kl.size, 6) - 0.3)
    axes.set_xticks(range(0, kl.size, every), [f"z{j + 1}" for j in order[::every]])
    return add_title(figure, f"Active latent dimensions: {active.sum()} of {kl.size}", 70, note)


@drawn
def reconstructions(x: Any, x_hat: Any, image_shape: Shape, rows: str = "") -> Figure:
    """Originals x [n, D] above their reconstructions x_hat [n, D] in pairs of rows, or as lines in one cell.

    The first 30 images, or 12 lines, are drawn; where that is not all, the title and the figure's label say so. rows, here
    and below: a note that says which rows they are.
    """
    x, x_hat = as_rows(x, "x"), as_rows(x_hat, "x_hat")
    require(x.shape == x_hat.shape, f"x has shape {x.shape} and x_hat {x_hat.shape}; pass reconstructions of x")
    return pairs({"original": x, "reconstruction": x_hat}, image_shape, "Originals and reconstructions", rows)


@drawn
def pairs(named: dict[str, np.ndarray], image_shape: Shape, title: str, rows: str = "") -> Figure:
    """Rows [n, D] above those that belong to them, by their names, as `reconstructions`."""
    n, (columns, most) = len(next(iter(named.values()))), (10, 30) if is_image(image_shape) else (4, 12)
    layers, cut = {name: x[:most] for name, x in named.items()}, f", the first {most} of {n}" if most < n else ""
    figure = image_grid(layers, image_shape, min(n, columns), title + cut, rows)
    figure.set_label(cut[2:])
    return figure


@drawn
def samples(
    images: Any, image_shape: Shape, columns: int | None = None, note: str = "", x_names: Sequence[str] = ()
) -> Figure:
    """A grid of images [n, D], such as decoded draws from the prior, row by row; of other rows, the first 36.

    x_names: what stands under each column of the grid.
    """
    images = as_rows(images, "images")
    require(columns is None or columns > 0, f"columns must be at least 1, not {columns}")
    shown = images if is_image(image_shape) else images[:36]
    title = "1 sample" if len(images) == 1 else f"{len(images)} samples"
    title += f", the first {len(shown)}" if len(shown) < len(images) else ""
    columns = min(columns or math.ceil(len(shown) ** 0.5), len(shown))
    figure = image_grid({"": shown}, image_shape, columns, title, note, list(enumerate(x_names)))
    figure.set_label(_cut(images, len(shown))[2:])
    return figure


def _cut(rows: np.ndarray, shown: int) -> str:
    return f", the first {shown} of {len(rows)}" if shown < len(rows) else ""


@drawn
def manifold(decode: Decode, image_shape: Shape, latent_dim: int = 2, size: int = 20, told: str = "") -> Figure:
    """The decoder's means over the plane of z1 and z2, on quantiles of the prior: equal cells hold equal probability.

    Cell i of an axis lies at the (i + 1/2) / size quantile of N(0, 1); z1 grows to the right and z2 upwards. Further
    latents are 0, and one latent gives one row. For rows that are not images, size is at most 8. told, here and below: a
    note of what the decoder is given beside z.
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
    layers, labels = {"": decode_all(decode, z)}, ("z1", "z2" if plane else "")
    return image_grid(layers, image_shape, size, "Latent manifold", note, x_ticks, y_ticks, labels, gap=1)


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
    for row, j in enumerate(chosen):
        z[row, :, j] = values
    most = f"the {len(chosen)} of {mu.shape[1]} latents" if len(chosen) < mu.shape[1] else "latents"
    most += " that vary most, most first" if dims is None else ""
    note = (f"{most}; the others at their mean over {rows}" if mu.shape[1] > 1 else "decoder means") + told
    x_ticks = [(i, short_number(values[i])) for i in range(0, steps, math.ceil(steps / 15))]
    y_ticks, labels = [(row, f"z{j + 1}") for row, j in enumerate(chosen)], ("standard deviations of the prior", "")
    layers = {"": decode_all(decode, z)}
    return image_grid(layers, image_shape, steps, "Latent traversals", note, x_ticks, y_ticks, labels)


@drawn
def interpolations(
    decode: Decode, z_start: Any, z_end: Any, image_shape: Shape, steps: int = 11, rows: str = "", told: str = ""
) -> Figure:
    """One row per pair: the decoder's means on the straight line from z_start [n, Z] to z_end [n, Z].

    Linear, not spherical: ends are usually posterior means, and no point between them is less probable under the prior
    than the worse end. The spherical path of White (2016) is for independent draws from a prior of many dimensions.
    """
    start, end = as_rows(z_start, "z_start"), as_rows(z_end, "z_end")
    require(start.shape == end.shape, f"z_start has shape {start.shape} and z_end {end.shape}; make them the same")
    require(steps > 1, f"steps must be at least 2, the two ends, not {steps}")
    t = np.linspace(0, 1, steps)[:, None]
    layers = {"": decode_all(decode, (1 - t) * start[:, None] + t * end[:, None])}
    note, x_ticks = "decoder means on straight lines in latent space", [(0, "start"), (steps - 1, "end")]
    note += (f" between {rows}" if rows else "") + told
    return image_grid(layers, image_shape, steps, "Linear interpolations", note, x_ticks)


@drawn
def latent_scatter(
    mu: Any, labels: Any = None, title: str = "Latent space", dims: tuple[int, int] = (0, 1), rows: str = ""
) -> Figure:
    """Posterior means mu [n, Z] in two latent dimensions, coloured by labels [n] where given.

    dims: which two columns of mu, from 0. Up to 12 classes get a legend; more classes, or continuous labels, a colour
    bar. With one latent dimension, the vertical axis is the place of the example in mu.
    """
    mu, width = as_rows(mu, "mu"), 680 if labels is None else WIDTH
    flat = mu.shape[1] == 1
    first, second = latent_columns((0, 0) if flat else dims, mu)
    figure = new_figure(width, 600)
    axes = figure.add_axes((75 / width, 0.1, 570 / width, 0.78))
    style(axes, f"z{first + 1} (posterior mean)", "example" if flat else f"z{second + 1} (posterior mean)")
    x, y, size = mu[:, first], np.arange(len(mu)) if flat else mu[:, second], float(np.clip(15000 / len(mu), 5, 24))
    codes, names = (np.zeros(len(mu), int), [""]) if labels is None else label_codes(labels, len(mu))
    if 0 < len(names) <= len(CLASSES):
        axes.scatter(x, y, s=size, linewidths=0, alpha=0.85, color=np.array(CLASSES)[codes])
        for name, colour in zip(names if labels is not None else (), CLASSES, strict=False):
            axes.plot([], [], ls="", marker="o", ms=6, color=colour, label=f"class {name}")
        if labels is not None:
            look: dict[str, Any] = {"frameon": False, "fontsize": LABEL, "labelcolor": INK}
            legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), **look)
            for text, name in zip(legend.get_texts(), names, strict=True):
                text.set_text(name)  # matplotlib's legend leaves out what begins with an underscore
    else:
        points = axes.scatter(x, y, s=size, linewidths=0, c=codes, cmap="viridis")
        bar = figure.colorbar(points, cax=figure.add_axes((670 / width, 0.1, 16 / width, 0.78)))
        bar.ax.tick_params(labelsize=TICK, colors=INK)
        if names:
            places = range(0, len(names), math.ceil(len(names) / 15))
            bar.set_ticks(list(places), labels=[names[i] for i in places])
    if not flat:
        axes.set_aspect("equal", adjustable="datalim")
    which = f"; latents {first + 1} and {second + 1} of {mu.shape[1]}" if mu.shape[1] > 2 else ""
    return add_title(figure, title, 75, (rows or f"{len(mu):,} examples") + which)


@drawn
def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format that the suffix of `path` names, whole or not at all, into a folder that exists.

    The same figure gives the same bytes as .png and .pdf: they carry no date and no version.
    """
    path, known = Path(path), sorted(figure.canvas.get_supported_filetypes())
    kind = path.suffix[1:].lower()
    require(kind in known, f"{path} has no suffix of a figure format; end it in .png, or in one of {', '.join(known)}")
    unsaid = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}
    metadata = {unsaid[kind]: None} if kind in unsaid else None
    write_atomically(path, lambda file: figure.savefig(file, format=kind, metadata=metadata))
