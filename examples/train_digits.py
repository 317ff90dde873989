# /// script
# requires-python = ">=3.11"
# dependencies = ["minivae[plot]"]
# [tool.uv.sources]
# minivae = { path = "..", editable = true }
# ///
"""Train a variational autoencoder on handwritten digits, and look at what it learned.

Prints the loss of the first and the last epoch, the ELBO of images that it never saw and a tighter bound of their
log-likelihood, all in nats per image (one line per epoch goes to standard error). Writes the model and, where
matplotlib is installed, its loss curves, reconstructions and samples.

    python examples/train_digits.py                                            # 8 x 8 digits, seconds
    python examples/train_digits.py --data mnist --epochs 10 --out runs/mnist  # MNIST, minutes
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minivae import VAE, load_dataset, plots

SETTINGS = {
    "digits": {"latent_dim": 8, "hidden_dims": (128,), "batch_size": 32, "learning_rate": 2e-3, "schedule": "cosine"},
    "mnist": {"latent_dim": 20, "hidden_dims": (400,), "batch_size": 128},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", choices=tuple(SETTINGS), default="digits")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/train_digits"), help="folder for what it writes")
    options = parser.parse_args()

    data = load_dataset(options.data)
    vae = VAE(epochs=options.epochs, random_state=0, verbose=1, **SETTINGS[options.data])
    vae.fit(data.train)
    for r in (vae.history_[0], vae.history_[-1]):
        print(f"epoch {r['epoch']:3}: loss {r['loss']:.2f} = recon {r['recon']:.2f} + kl {r['kl']:.2f}")
    print(f"test ELBO: {vae.score(data.test):.2f}")
    print(f"test log-likelihood, 50 importance samples: {vae.score_samples(data.test, n_samples=50).mean():.2f}")

    options.out.mkdir(parents=True, exist_ok=True)
    vae.save(options.out / "model.npz")
    print(f"wrote {options.out / 'model.npz'}")
    images, shape = data.test[:10], data.image_shape
    try:
        figures = {
            "loss": plots.loss_curves(vae.history_),
            "reconstructions": plots.reconstructions(images / 255, vae.reconstruct(images), shape),
            "samples": plots.samples(vae.sample(64), shape),
        }
    except ImportError as error:
        print(f"no figures: {error}")
        return
    for name, figure in figures.items():
        plots.save(figure, options.out / f"{name}.png")
        print(f"wrote {options.out / name}.png")


if __name__ == "__main__":
    main()
