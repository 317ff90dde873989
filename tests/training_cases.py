"""Trainings on data of 12 columns that between them use every kernel: what the faster backends are compared on."""

from __future__ import annotations

import numpy as np

from minivae.architecture import COUNTS, LIKELIHOODS, Architecture
from minivae.optimizers import Optimizer
from minivae.training import Objective

# name: (architecture, optimizer, objective, binarize)
CASES = {
    "bernoulli relu adam": (Architecture(12, 3, (9, 7), "relu"), Optimizer(), Objective(), "none"),
    "bernoulli gelu clipped": (
        Architecture(12, 2, (8,), "gelu"),
        Optimizer(max_grad_norm=0.5),
        Objective(0.7, kl_warmup=3),
        "none",
    ),
    "bernoulli tanh free bits": (Architecture(12, 4, (9,), "tanh"), Optimizer(), Objective(free_bits=0.3), "dynamic"),
    "gaussian learned sgd": (
        Architecture(12, 2, (6,), "softplus", "gaussian", "learned"),
        Optimizer("sgd", 1e-3, nesterov=True, max_grad_norm=5.0),
        Objective(),
        "none",
    ),
    "gaussian fixed leaky": (
        Architecture(12, 2, (6, 5, 4), "leaky_relu", "gaussian", 0.5),
        Optimizer("adamw", weight_decay=0.01),
        Objective(),
        "static",
    ),
    "gaussian elementwise sigmoid": (
        Architecture(12, 2, (), "sigmoid", "gaussian", "elementwise"),
        Optimizer("sgd", 1e-4),
        Objective(2.0),
        "none",
    ),
}
CASES |= {
    f"{name} in general": (Architecture(12, 3, (9,), "tanh", name), Optimizer(), Objective(), "none")
    for name in LIKELIHOODS
    if not any(arch.likelihood == name for arch, *_ in CASES.values())
}


def suited(data, case):
    """Data in [0, 1], or pixels up to 255, as the likelihood of a case takes them: counts of the order of 1."""
    arch = CASES[case][0]
    return np.floor(data * (4 / data.max())) if LIKELIHOODS[arch.likelihood].data == COUNTS else data
