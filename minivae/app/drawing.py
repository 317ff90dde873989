"""The figures of a run, and what they are drawn of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivae.app.runs import Part, Run, pick
from minivae.data.batches import Examples
from minivae.data.checks import as_matrix
from minivae.data.datasets import Dataset
from minivae.data.files import DataError
from minivae.data.schema import listed
from minivae.estimator import VAE
from minivae.evaluation import inference, scores
from minivae.figures import grids, plots
from minivae.figures.checks import is_image
from minivae.figures.layout import Figure

FEW = 300  # held-out rows, of which a scatter or a histogram alone would say little


def figures(run: Run, dataset: Dataset, folder: Path) -> list[Path]:
    """Every figure of a run."""
    vae, shape = run.vae, run.image_shape
    drawn = {"loss": plots.loss_curves(vae.history_)}
    part, examples, mu, logvar = embedded(run, dataset)
    active, kl = inference.active_units(mu), scores.divergence(vae.network_, examples, vae.seed_).mean(axis=0)
    latent_dim = vae.network_.arch.latent_dim
    wide, points, spreads = part, mu, logvar
    if part.split == "validation" and len(part.rows) < FEW:  # where rows lie all show; how well they fit, these
        n = len(part.data)
        wide = Part("training and validation", part.data, np.arange(n), dataset.train_labels, part.told)
        points, spreads = inference.posterior(vae.network_, vae.examples(part.data, None, part.told), np.float64)
    shown, everywhere = part.first(5000), first_of(wide, min(5000, len(wide.rows)))
    labels, rows = shown.labels, first_of(part, len(shown.rows))
    X = np.asarray(shown.data[shown.rows[: 10 if run.schema is None else None]])  # of pictures no more than are drawn
    decode, given = functools.partial(vae.inverse_transform, y=None if labels is None else labels[:1]), ""
    if vae.condition_ is not None and labels is not None:
        given = f"; the model is told {labels[0]}"
    if names := columns_of(run, X):
        unit, n = vae.divide_by_, max(1000, len(X))
        y = None if vae.condition_ is None or labels is None else np.resize(labels, n)
        drawn["reconstructions"] = compared(run, X, vae.reconstruct(X, labels), rows)
        samples, lie = vae.sample(n, y=y, noise=True, random_state=vae.seed_) * unit, wide.first(5000)
        told_of = f"{everywhere}; samples are drawn from p(x|z), z from the prior"
        drawn["samples"] = plots.histograms(np.asarray(lie.data[lie.rows]), samples, names, told_of)
        seen = np.ma.masked_invalid(X.astype(np.float64))
        centre, spread = (part.filled(0) for part in (seen.mean(axis=0), seen.std(axis=0)))
        spread[spread == 0] = 1
        decode = functools.partial(standardized, decode, centre / unit, spread / unit)
        given += "; columns in standard deviations from their mean"
    else:
        means = vae.reconstruct(X[:10], part.first(10).labels)
        drawn["reconstructions"] = compared(run, X[:10], means, first_of(part, len(means)))
        drawn["samples"] = prior_samples(vae, shape, labels)
        if len(part.rows) >= 3:  # of a table the panels of its columns say more
            drawn["scores"] = by_score(run, part)
    drawn["kl"] = plots.kl_per_dimension(kl, active, first_of(part, len(mu)), vae.history_)
    a, b = np.resize(np.sort(np.argsort(-points.var(axis=0))[:2]), 2).tolist()  # the two that are used most
    beside = wide.first(5000).labels
    drawn["latent"] = plots.latent_scatter(points[:5000], beside, dims=(a, b), rows=everywhere)
    drawn["posterior"] = plots.posterior(points[:5000], spreads[:5000], beside, (a, b), everywhere)
    if latent_dim == 2:
        small = shape is not None and max(shape) < 16  # fewer cells, so that a few pixels each can be read
        drawn["manifold"] = plots.manifold(decode, shape, size=12 if small else 20, told=given)
    else:
        half = min(4, len(mu) // 2)
        drawn["traversals"] = plots.traversals(decode, shape, mu, rows=first_of(part, len(mu)), told=given)
        if half:
            (start, end), rows = np.split(mu[: 2 * half], 2), first_of(part, 2 * half)
            drawn["interpolations"] = plots.interpolations(decode, start, end, shape, rows=rows, told=given)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in drawn]
    for path, figure in zip(paths, drawn.values()):
        plots.save(figure, path)
    return paths


def embedded(run: Run, dataset: Dataset) -> tuple[Part, Examples, np.ndarray, np.ndarray]:
    """The rows that `evaluate` takes unasked, for a single one those of training; and mu and logvar of their q(z|x)."""
    part = pick(run, dataset, None, own=True)
    if len(part.rows) < 2:
        part = pick(run, dataset, "train", own=True)
    examples = run.vae.examples(part.data, part.rows, part.told)
    return part, examples, *inference.posterior(run.vae.network_, examples, np.float64)


def compared(run: Run, X: np.ndarray, means: np.ndarray, rows: str) -> Figure:
    """Originals as stored, and their reconstructions as the model gives them."""
    if names := columns_of(run, X):
        return plots.parity(X, means * run.vae.divide_by_, names, rows)
    return plots.reconstructions(scaled(run.vae, X), means, run.image_shape, rows)


def by_score(run: Run, part: Part) -> Figure:
    """The best, the median and the worst reconstructions of the first thousand rows, by the ELBO."""
    vae, some = run.vae, part.first(1000)
    elbo = -np.add(*scores.elbo_terms(vae.network_, vae.examples(some.data, some.rows, some.told), vae.seed_))
    chosen = grids.by_quantile(elbo)
    X, labels = np.asarray(some.data[some.rows[chosen]]), None if some.labels is None else some.labels[chosen]
    means, rows = vae.reconstruct(X, labels), first_of(part, len(some.rows))
    return plots.by_score(scaled(vae, X), means, elbo[chosen], run.image_shape, rows)


def standardized(decode: Callable[[np.ndarray], np.ndarray], centre: Any, spread: Any, z: np.ndarray) -> np.ndarray:
    return np.asarray((decode(z) - centre) / spread)


def prior_samples(vae: VAE, shape: tuple[int, ...] | None, labels: Any) -> Figure:
    """Decoder means at draws from the prior; of a model that is told few classes, one to a column."""
    classes = [] if vae.condition_ is None else list(vae.condition_.classes)
    columns = len(classes) if 1 < len(classes) <= 12 else None
    n, note = 64 - 64 % (columns or 1), "decoder means at draws from the prior"
    y = np.resize(labels, n) if vae.condition_ is not None and not classes and labels is not None else told(vae, n)
    images, names = vae.sample(n, y=y, random_state=vae.seed_), [str(name) for name in classes if columns]
    return plots.samples(images, shape, columns, note + (", told what stands below them" if columns else ""), names)


def columns_of(run: Run, X: np.ndarray) -> tuple[str, ...]:
    """The names of a table's columns; none of a picture's, nor of a series': many columns in what looks like one unit."""
    if run.schema is None or is_image(run.image_shape):
        return ()
    spread = np.ma.masked_invalid(X.astype(np.float64)).std(axis=0).filled(0)
    series = len(spread) > 12 and spread.max() < 10 * spread.min()
    return () if series else run.schema.names


def first_of(part: Part, n: int) -> str:
    """Which rows these are, in words."""
    what = f"{'training' if part.split == 'train' else part.split} examples"
    return f"{n:,} {what}" if n == len(part.rows) else f"the first {n:,} of {len(part.rows):,} {what}"


def told(vae: VAE, n: int, words: Sequence[str] | None = None) -> Any:
    """What a conditional model is told for n samples: the labels named, else all of them, in turns."""
    if vae.condition_ is None:
        if words:
            raise DataError("this model is told no labels; leave --y out, or train one with --conditional")
        return None
    known, width = vae.condition_.classes, vae.condition_.width
    if not words and not known:
        raise DataError("this model is told numbers; name them with --y")
    if known:
        names = {str(name): name for name in known}
        if strange := [word for word in words or () if word not in names]:
            raise DataError(f"{strange[0][:40]!r} is none of the labels of this model, {listed([*names])}; name these")
        return np.resize(np.array([names[word] for word in words or names]), n)
    try:
        return np.resize(np.array(words, float).reshape(-1, width), (n, width))
    except ValueError as error:
        raise DataError(f"--y takes numbers for this model, {width} a row ({error})") from error


def scaled(vae: VAE, X: np.ndarray) -> np.ndarray:
    """X as the model sees it."""
    return np.asarray(X, np.float64) / vae.scale_.divisor(as_matrix(X), vae.settings_["likelihood"])
