"""Trainings on data of 12 columns that between them use every kernel: what the faster backends are compared on."""

from __future__ import annotations

import numpy as np

from minivae.architecture import Architecture
from minivae.likelihoods import COUNTS, LIKELIHOODS, ONE_HOT, domains
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
    "bernoulli tanh capacity": (
        Architecture(12, 4, (9,), "tanh"),
        Optimizer(),
        Objective(3.0, kl_warmup=1, kl_cycles=2, capacity=0.5, capacity_warmup=5),
        "none",
    ),
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
MIXED = "gaussian*2 bernoulli*2 poisson*2 negative_binomial continuous_bernoulli categorical*4"
CASES |= {
    f"mixed columns, sigma {sigma}, missing {missing}": (
        Architecture(12, 2, (6,), "tanh", MIXED, sigma, missing, ((0.4, 1.5),) * 2 + ((0.0, 1.0),) * 10),
        Optimizer(),
        Objective(),
        "none",
    )
    for sigma, missing in (("learned", "ignore"), ("elementwise", "input"), (0.5, "error"))
}
CASES |= {
    "samples of z": (Architecture(12, 3, (9,), "tanh"), Optimizer(), Objective(n_samples=3), "dynamic"),
    "iwae": (
        Architecture(12, 3, (9,), "tanh"),
        Optimizer(),
        Objective(0.8, 3, objective="iwae", n_samples=4),
        "dynamic",
    ),
    "dreg sigma learned": (
        Architecture(12, 3, (9,), "relu", "gaussian"),
        Optimizer(),
        Objective(objective="dreg", n_samples=3),
        "none",
    ),
    "stl of mixed columns": (
        Architecture(12, 2, (6,), "tanh", MIXED, "learned", "ignore", ((0.4, 1.5),) * 2 + ((0.0, 1.0),) * 10),
        Optimizer(),
        Objective(objective="stl", n_samples=2),
        "none",
    ),
}
CASES |= {
    f"{name} in general": (Architecture(12, 3, (9,), "tanh", name), Optimizer(), Objective(), "none")
    for name in LIKELIHOODS
    if not any(arch.likelihood == name for arch, *_ in CASES.values())
}


def suited(data, case):
    """Data in [0, 1], or pixels up to 255, as the likelihoods of a case take them: counts of the order of 1."""
    arch = CASES[case][0]
    if not domains(arch.likelihood) & {COUNTS, ONE_HOT}:
        return data
    found = data / data.max()
    for run in arch.runs:
        part = found[:, run.columns]
        if run.data == COUNTS:
            part[:] = np.floor(4 * part)
        elif run.data == ONE_HOT:
            part[:] = np.eye(run.count)[part.argmax(axis=1)]
        elif run.likelihood == "bernoulli":
            part[:] = np.round(part)
    if arch.missing != "error":
        found[np.arange(len(found)) % 3 == 0, :5] = np.nan
        found[np.arange(len(found)) % 5 == 0, 8:] = np.nan
    return found
