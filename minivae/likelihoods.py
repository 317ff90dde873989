"""What p(x|z) may be: the likelihoods by name, and tables whose columns differ.

A likelihood is a name for all columns, "poisson", or one for each run of them, "gaussian*4 poisson categorical*3": four
numbers, a count, and one category as three one-hot columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivae.kernels.columns import KINDS, continuous_bernoulli_mean

UNIT, REAL, COUNTS, ONE_HOT = DOMAINS = (
    "data in [0, 1]",
    "any data",
    "counts, whole numbers from 0 on",
    "one-hot columns: a 1 in each row, else 0",
)


@dataclass(frozen=True)
class Likelihood:
    """One likelihood: its kernel, the data that it takes (one of DOMAINS), and what the decoder's output says of x.

    mean turns the output into the mean of p(x|z): an activation of the book by its name, or a function of the array. link,
    its inverse, turns the data's mean into the output that stands for it; from_mean: whether training begins there unasked.
    """

    kernel: str
    data: str
    mean: str | Callable[[Any], Any]
    link: Callable[[Any], Any]
    from_mean: bool = True


def logit(p: Any) -> Any:
    """Clipped to [0.001, 0.999], as by Burda et al. (2016)."""
    p = np.clip(p, 0.001, 0.999)
    return np.log(p / (1 - p))


def log_rate(mean: Any) -> Any:
    return np.log(np.maximum(mean, 1e-3))


def softmax(a: Any) -> Any:
    e = np.exp(a - a.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


BY_COLUMNS = "columns_loss"  # the kernel of whatever has none of its own
LIKELIHOODS = {
    "bernoulli": Likelihood("bernoulli_loss", UNIT, "sigmoid", logit, from_mean=False),
    "continuous_bernoulli": Likelihood(BY_COLUMNS, UNIT, continuous_bernoulli_mean, logit, from_mean=False),
    "gaussian": Likelihood("gaussian_loss", REAL, "identity", lambda mean: mean),
    "poisson": Likelihood("poisson_loss", COUNTS, np.exp, log_rate),
    "negative_binomial": Likelihood(BY_COLUMNS, COUNTS, np.exp, log_rate),
    "categorical": Likelihood(BY_COLUMNS, ONE_HOT, softmax, log_rate),
}


@dataclass(frozen=True)
class Run:
    """Neighbouring columns of one likelihood: `count` of them from `column` of x on, described from `output` of out on."""

    likelihood: str
    column: int
    output: int
    count: int
    outputs: int

    @property
    def data(self) -> str:
        return LIKELIHOODS[self.likelihood].data

    @property
    def kind(self) -> int:
        return KINDS["gaussian_elementwise" if self.outputs > self.count else self.likelihood]

    def mean(self, out: np.ndarray) -> np.ndarray:
        """The mean of these columns [n, count], in the units of the kernel, from the decoder's output [n, P]."""
        a, mean = out[:, self.output : self.output + self.count], LIKELIHOODS[self.likelihood].mean
        if isinstance(mean, str):
            return a if mean == "identity" else 1 / (1 + np.exp(-a))
        return np.asarray(mean(a))

    @property
    def columns(self) -> slice:
        return slice(self.column, self.column + self.count)


def runs(likelihood: str, data_dim: int | None = None, elementwise: bool = False) -> list[Run]:
    """The runs of columns that a likelihood names, for data of so many columns. elementwise: gaussians give a logvar too.

    Raises ValueError where a name is unknown, or where it describes more or fewer columns.
    """
    words = re.split(r"[\s,+]+", likelihood.strip())
    if likelihood in LIKELIHOODS and data_dim is not None:
        words = [f"{likelihood}*{data_dim}"]
    found, column, output = [], 0, 0
    for word in words:
        name, _, number = word.partition("*")
        if name not in LIKELIHOODS or (number and not (number.isdecimal() and len(number) < 19 and int(number))):
            form = (
                "" if word == likelihood and not number else "; name columns as in 'gaussian*4 poisson categorical*3'"
            )
            raise ValueError(f"likelihood {word[:80]!r} is not one of {', '.join(LIKELIHOODS)}{form}")
        count = int(number or 1)
        outputs = 2 * count if name == "gaussian" and elementwise else count
        found.append(Run(name, column, output, count, outputs))
        column, output = column + count, output + outputs
    if data_dim is not None and column != data_dim:
        raise ValueError(
            f"likelihood {likelihood[:80]!r} describes {column} columns, and the data have {data_dim}; name as many"
        )
    return found


def domains(likelihood: str) -> set[str]:
    """The DOMAINS that the columns of such data have."""
    return {run.data for run in runs(likelihood)}


def is_mixed(likelihood: str) -> bool:
    """Whether it names columns, and not one likelihood for all."""
    return likelihood not in LIKELIHOODS
