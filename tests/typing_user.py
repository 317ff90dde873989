"""A user's program, of what README shows: `make lint` has mypy --strict read it as a user would, see test_release.py."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from minivae import VAE, DataError, NotFinite, __version__, check_gradient, load_dataset, plots


def loss(h: NDArray[np.float64]) -> float:
    return float((h**2).sum())


def train(folder: Path) -> float:
    digits = load_dataset("digits")
    try:
        vae = VAE(latent_dim=2, hidden_dims=(256, 128), epochs=20, random_state=0).fit(digits.train)
    except (DataError, NotFinite) as problem:
        raise SystemExit(str(problem)) from None
    z = vae.transform(digits.test)
    images = vae.inverse_transform(z)
    nearest = vae.reconstruct(digits.test)
    spread: float = np.exp(vae.posterior(digits.test)[1] / 2).mean()
    drawn = vae.sample(64, noise=True)
    log_p = vae.score_samples(digits.test, n_samples=10).mean()
    strange = int(vae.anomaly_score(digits.test).argmax())
    print(__version__, z.shape, images.dtype, drawn.shape, spread, log_p, strange, vae.history_[-1]["loss"])
    plots.save(plots.reconstructions(digits.test, nearest, digits.image_shape), folder / "reconstructions.png")
    curves(vae).savefig(folder / "loss.png")
    vae.save(folder / "digits.npz")
    return VAE.load(folder / "digits.npz").score(digits.test)


def curves(vae: VAE) -> Figure:
    return plots.loss_curves(vae.history_)


def told(folder: Path) -> NDArray[np.float32]:
    digits = load_dataset("digits")
    vae = VAE(conditional=True, epochs=5).fit(digits.train, digits.train_labels, checkpoint=folder / "checkpoint.npz")
    return vae.sample(10, y=3)


def table(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    vae = VAE(likelihood="gaussian, poisson, categorical*3", missing="input", epochs=5, random_state=0)
    return vae.fit(rows).impute(rows)


h = np.array([0.5, -1.0])
assert check_gradient(loss, 2 * h, h) < 1e-7
