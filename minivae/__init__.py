"""minivae: a variational autoencoder in NumPy, with every gradient written by hand, proved, and fast.

    x [B, D] --encoder--> h = [mu | logvar] [B, 2Z] --sample--> z = mu + sigma * eps --decoder--> out --likelihood--> nll [B]
                                                       |                                                             |
                                                       +--> kl [B, Z]            loss = mean_b( nll_b + beta sum_j kl_bj )

Glossary (the same words everywhere, in Python and on the command line):

    B batch    D data dimension    Z latent dimension    I, O layer in/out    nats: natural-log units, per example
    dy       dL/dy, of the shape of y              logvar   log sigma^2;  sigma = exp(logvar / 2)
    recon    -log p(x|z), summed over D            kl       KL( q(z|x) || N(0, I) ), summed over Z
    loss     recon + beta kl, mean over the batch  elbo     -(recon + kl): higher is better

Reading order:

     1  kernels/reference.py   the book: every forward with its gradient under it     (philox.py: the noise)
     2  kernels/__init__.py    the interface of a backend, and programs as lists of calls
     3  randomness.py          random numbers as a function of (seed, purpose, step, example, element)
     4  parameters.py          one flat vector, named views
     5  architecture.py        layers, shapes, initial parameters;  network.py  the VAE as an order of kernel calls
     6  optimizers.py          SGD, Adam, AdamW; schedules; clipping
     7  gradcheck.py           one gradient against finite differences      (proof.py: all of them)
     8  data/batches.py        the held-out part, batches   (checks.py: is this data?   files.py, datasets.py: where from)
     9  training.py            the loop                                     (evaluation/: ELBO, log-likelihood, samples)
    10  estimator.py           VAE(...).fit(X);  fitted.py  what it answers;  storage/  to files and back

Rooms behind doors of their own: kernels/numba and kernels/cuda, the faster twins of the book (begin with their README.md);
figures/, app/ (the command line) and bench/ (minivae bench).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minivae.data.datasets import load_dataset as load_dataset
    from minivae.data.files import DataError as DataError
    from minivae.estimator import VAE as VAE
    from minivae.figures import plots as plots
    from minivae.gradcheck import check_gradient as check_gradient
    from minivae.network import NotFinite as NotFinite

_PUBLIC = {
    "VAE": "estimator",
    "load_dataset": "data.datasets",
    "check_gradient": "gradcheck",
    "DataError": "data.files",
    "NotFinite": "network",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import minivae` costs next to nothing."""
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"minivae.{_PUBLIC[name]}"), name)
    if name == "plots":
        return importlib.import_module("minivae.figures.plots")
    raise AttributeError(f"module 'minivae' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
