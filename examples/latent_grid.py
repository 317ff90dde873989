# /// script
# requires-python = ">=3.11"
# dependencies = ["minivae[plot]"]
# [tool.uv.sources]
# minivae = { path = "..", editable = true }
# ///
"""A map of handwritten digits: a VAE with two latent dimensions, drawn from both sides.

The scatter shows where the encoder puts each test image, coloured by its digit, which training never saw. The manifold
shows what the decoder makes of each place of the plane. Prints the loss of the first and the last epoch, in nats per
image, and the names of the two figures. Needs matplotlib.

    python examples/latent_grid.py --epochs 200 --out runs/latent_grid
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minivae import VAE, load_dataset, plots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/latent_grid"), help="folder for the two figures")
    options = parser.parse_args()
    try:
        import matplotlib  # noqa: F401  (asked for before training, not after)
    except ImportError:
        parser.exit(1, 'this example draws figures and needs matplotlib; run pip install "minivae[plot]"\n')

    digits = load_dataset("digits")
    vae = VAE(
        latent_dim=2, hidden_dims=(128, 64), epochs=options.epochs, batch_size=32, learning_rate=2e-3,
        schedule="cosine", random_state=0, verbose=1,
    ).fit(digits.train)  # fmt: skip
    for r in (vae.history_[0], vae.history_[-1]):
        print(f"epoch {r['epoch']:3}: loss {r['loss']:.2f} = recon {r['recon']:.2f} + kl {r['kl']:.2f}")

    options.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "latent": plots.latent_scatter(vae.transform(digits.test), digits.test_labels),
        "manifold": plots.manifold(vae.inverse_transform, digits.image_shape, size=12),
    }
    for name, figure in figures.items():
        plots.save(figure, options.out / f"{name}.png")
        print(f"wrote {options.out / name}.png")


if __name__ == "__main__":
    main()
