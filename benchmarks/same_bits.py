"""The bits of trainings: a digest of parameters, history and scores for every likelihood, optimizer, binarization, dtype.

    python benchmarks/same_bits.py > before.txt     and after a change that must change nothing     ... > after.txt; diff

Only public names are used, so that the same file runs before and after a change of everything below them. Digests hold on
one machine: another processor, NumPy or BLAS sums in another order.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

import numpy as np

from minivae import VAE

COMMON = {"epochs": 4, "batch_size": 32, "random_state": 11}
TRAININGS = {
    "bernoulli relu adam": {"hidden_dims": (24, 12)},
    "bernoulli relu adam f64": {"hidden_dims": (24, 12), "dtype": "float64"},
    "bernoulli tanh dynamic": {"activation": "tanh", "binarize": "dynamic", "latent_dim": 5, "hidden_dims": (33,)},
    "bernoulli gelu clipped": {"activation": "gelu", "max_grad_norm": 0.5, "hidden_dims": (20,)},
    "bernoulli sigmoid free bits": {"activation": "sigmoid", "free_bits": 0.2, "beta": 0.7, "kl_warmup": 2.0},
    "bernoulli softplus sgd": {"activation": "softplus", "optimizer": "sgd", "learning_rate": 1e-3, "hidden_dims": ()},
    "bernoulli leaky nesterov static": {
        "activation": "leaky_relu", "optimizer": "sgd", "nesterov": True, "learning_rate": 1e-3, "binarize": "static",
    },
    "bernoulli wide adamw": {"hidden_dims": (200, 130), "optimizer": "adamw", "weight_decay": 0.01, "batch_size": 129},
    "bernoulli wide big batch f64": {"hidden_dims": (150,), "batch_size": 1300, "dtype": "float64"},
    "bernoulli wide big batch": {"hidden_dims": (260, 70), "batch_size": 1300, "schedule": "cosine"},
    "gaussian learned": {"likelihood": "gaussian", "hidden_dims": (40,)},
    "gaussian learned clipped f64": {
        "likelihood": "gaussian", "max_grad_norm": 2.0, "dtype": "float64", "optimizer": "sgd", "learning_rate": 1e-4,
    },
    "gaussian fixed": {"likelihood": "gaussian", "sigma": 0.3, "activation": "tanh", "schedule": "step", "lr_warmup": 1.0},
    "gaussian elementwise": {"likelihood": "gaussian", "sigma": "elementwise", "learning_rate": 3e-4},
    "gaussian elementwise f64": {"likelihood": "gaussian", "sigma": "elementwise", "dtype": "float64", "patience": 2},
}  # fmt: skip


def digest(settings: dict, backend: str) -> str:
    pixels = np.random.default_rng(3).random((1500, 64)) ** 3
    data = pixels if settings.get("dtype") == "float64" else (255 * pixels).astype(np.uint8)
    vae = VAE(**COMMON | settings | {"backend": backend}).fit(data)
    history = [{k: v for k, v in r.items() if k not in ("seconds", "examples_per_second")} for r in vae.history_]
    parts = [vae.network_.get_parameters(), vae.transform(data[:70]), vae.sample(9), vae.score_samples(data[:70])]
    parts.append(vae.score_samples(data[:70], n_samples=3))
    total = hashlib.sha256(json.dumps(history).encode())
    for part in parts:
        total.update(np.ascontiguousarray(part).tobytes())
    return f"{total.hexdigest()[:16]}  loss {history[-1]['loss']:.12g}"


if __name__ == "__main__":
    for backend in sys.argv[1:] or ("numpy", "numba"):
        for threads in ("1", "2", "3") if backend == "numba" else ("1",):
            os.environ["MINIVAE_NUM_THREADS"] = threads
            for name, settings in TRAININGS.items():
                print(f"{backend} {threads}  {name:34} {digest(settings, backend)}", flush=True)
