"""The figures of a run, and what they are drawn of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minivae.app.runs import Run, pick
from minivae.data.checks import as_matrix
from minivae.data.datasets import Dataset
from minivae.data.files import DataError
from minivae.estimator import VAE


def figures(run: Run, dataset: Dataset, folder: Path) -> list[Path]:
    """Every figure of a run."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("figures need matplotlib; run pip install 'minivae[plot]'") from error
    from minivae.figures import plots

    vae, shape = run.vae, run.image_shape
    part = pick(run, dataset, None, own=True).first(5000)
    X = part.data[part.rows]
    mu, latent_dim = vae.transform(X, part.labels), vae.network_.arch.latent_dim
    labels = None if part.labels is None else part.labels[:10]
    numbers = vae.condition_ is not None and not vae.condition_.classes
    beside = np.resize(part.labels, 64) if numbers and part.labels is not None else told(vae, 64)
    decode = functools.partial(vae.inverse_transform, y=None if labels is None else labels[:1])
    drawn = {
        "loss": plots.loss_curves(vae.history_),
        "reconstructions": plots.reconstructions(scaled(vae, X[:10]), vae.reconstruct(X[:10], labels), shape),
        "samples": plots.samples(vae.sample(64, y=beside, random_state=vae.seed_), shape),
        "kl": plots.kl_per_dimension(vae.history_),
    }
    if latent_dim >= 2:
        first, second = np.sort(np.argsort(-mu.var(axis=0))[:2])  # the two that are used most
        drawn["latent"] = plots.latent_scatter(mu, part.labels, dims=(int(first), int(second)))
    if latent_dim == 2:
        small = shape is not None and max(shape) < 16  # fewer cells, so that a few pixels each can be read
        drawn["manifold"] = plots.manifold(decode, shape, size=12 if small else 20)
    else:
        half = min(4, len(mu) // 2)
        drawn["traversals"] = plots.traversals(decode, shape, mu)
        if half:
            drawn["interpolations"] = plots.interpolations(decode, mu[:half], mu[half : 2 * half], shape)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        paths.append(folder / f"{name}.png")
        plots.save(figure, paths[-1])
    return paths


def told(vae: VAE, n: int, words: Sequence[str] | None = None) -> Any:
    """What a conditional model is told for n samples: the labels named, else all of them, in turns."""
    if vae.condition_ is None:
        if words:
            raise DataError("this model is told no labels; leave --y out, or train one with --conditional")
        return None
    known = vae.condition_.classes
    if not words and not known:
        raise DataError("this model is told numbers; name them with --y")
    kind = float if not known else str if isinstance(known[0], str) else int
    try:
        labels = [kind(word) for word in words] if words else list(known)
    except ValueError as error:
        raise DataError(f"--y takes numbers for this model ({error})") from error
    if not known:
        return [labels]
    return np.resize(np.array(labels), n)


def scaled(vae: VAE, X: np.ndarray) -> np.ndarray:
    """X as the model sees it."""
    return np.asarray(X, np.float64) / vae.scale_.divisor(as_matrix(X), vae.settings_["likelihood"])
