# /// script
# requires-python = ">=3.11"
# dependencies = ["minivae", "numpy"]
# [tool.uv.sources]
# minivae = { path = "..", editable = true }
# ///
"""One gradient by hand: the whole loss of a variational autoencoder, and its derivative, in two short functions.

The model has one pixel x and one latent dimension, and its decoder is the identity: the logit of the pixel is z.
Prints the gradient derived by hand beside finite differences. Then the same question for a real VAE, whose gradients
come from the kernels of the library: one line per parameter with its relative error, and the largest of them.
"""

from __future__ import annotations

import numpy as np

from minivae import check_gradient
from minivae.architecture import Architecture
from minivae.kernels import load
from minivae.proof import model_check

x, eps = 1.0, 0.7  # one pixel, one draw of noise


def loss(h):  # -log p(x|z) + KL( q(z|x) || N(0, 1) ) in nats, with h = [mu, logvar]
    mu, logvar = h
    z = mu + np.exp(logvar / 2) * eps
    return np.logaddexp(0, z) - x * z + (mu**2 + np.exp(logvar) - logvar - 1) / 2


def gradient(h):  # by hand: dz = sigmoid(z) - x, and the chain rule through z = mu + sigma eps
    mu, logvar = h
    sigma = np.exp(logvar / 2)
    dz = 1 / (1 + np.exp(-(mu + sigma * eps))) - x
    return np.array([dz + mu, (dz * eps * sigma + sigma**2 - 1) / 2])


def main() -> None:
    h, s = np.array([0.5, -1.0]), 1e-5
    by_hand = gradient(h)
    difference = [(loss(h + s * e) - loss(h - s * e)) / (2 * s) for e in np.eye(2)]
    print("             by hand      finite difference")
    for name, exact, numeric in zip(("dmu", "dlogvar"), by_hand, difference):
        print(f"{name:8} {exact:11.8f}    {numeric:11.8f}")
    print(f"relative error along a random direction: {check_gradient(loss, by_hand, h):.1e}\n")

    arch = Architecture(data_dim=12, latent_dim=2, hidden_dims=(8, 6), activation="tanh")
    print("A VAE 12-8-6-2 with tanh and a batch of five, relative error of every gradient:")
    rows = list(model_check(load("numpy"), arch))
    for row in rows:
        print(f"{row.gradient:14} {row.error:.1e}")
    print(f"largest relative error: {max(row.error for row in rows):.1e}")


if __name__ == "__main__":
    main()
