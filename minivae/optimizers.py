"""Optimizers as settings: which vectors they keep, which kernels they call, and how the learning rate moves.

The state is a few flat vectors beside the parameters (m, v); the formulas are `sgd_step` and `adam_step` in the book.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from minivae.kernels import Call, Var

OPTIMIZERS = {"sgd": ("m",), "adam": ("m", "v"), "adamw": ("m", "v")}
SCHEDULES = ("constant", "step", "cosine")


@dataclass(frozen=True)
class Optimizer:
    """name: "sgd", "adam" (Kingma and Ba 2014) or "adamw" (decoupled weight decay, Loshchilov and Hutter 2017).

    learning_rate: at its highest; schedule "constant", "step" (times decay_factor after each stage: the first has
    decay_every epochs, each later one decay_growth times those before it) or "cosine" (to 0 over all epochs). lr_warmup:
    epochs of linear rise from 0. max_grad_norm: global-norm clipping, None for none.
    weight_decay acts on all parameters, biases and log_sigma too, as torch.optim.AdamW does on the parameters it is given.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    schedule: str = "constant"
    lr_warmup: float = 0.0
    decay_every: float = 10.0
    decay_factor: float = 0.5
    decay_growth: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.name!r} is not one of {', '.join(OPTIMIZERS)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if self.weight_decay and self.name != "adamw":
            raise ValueError(f"weight_decay belongs to optimizer 'adamw', not to {self.name!r}")
        positive = {"learning_rate": self.learning_rate, "epsilon": self.epsilon, "decay_every": self.decay_every}
        if self.max_grad_norm is not None:
            positive["max_grad_norm"] = self.max_grad_norm
        for name, value in positive.items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        if not 1 <= self.decay_growth < math.inf:
            raise ValueError(
                f"decay_growth must be at least 1, where all stages are of one length, not {self.decay_growth!r}"
            )
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), not {getattr(self, name)!r}")
        for name in ("weight_decay", "lr_warmup", "decay_factor"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or a positive number, not {getattr(self, name)!r}")

    def state(self, size: int, dtype: Any) -> dict[str, np.ndarray]:
        """Fresh moments by name: flat vectors [N] of zeros."""
        return {name: np.zeros(size, dtype) for name in OPTIMIZERS[self.name]}

    def program(self) -> list[Call]:
        """Clip the gradient "g", then update "p". Variables: learning_rate, and update, which counts these from 1."""
        clip = Call(
            "clip_global_norm", ("norm", "g"), (math.inf if self.max_grad_norm is None else self.max_grad_norm,)
        )
        lr, update = Var("learning_rate"), Var("update")
        if self.name == "sgd":
            return [clip, Call("sgd_step", ("p", "m", "g"), (lr, self.momentum, self.nesterov))]
        scalars = (lr, self.beta1, self.beta2, self.epsilon, update, self.weight_decay)
        return [clip, Call("adam_step", ("p", "m", "v", "g"), scalars)]

    def stage(self, position: float) -> float:
        """How many stages lie before `position`, in epochs: the first i have decay_every (g^i - 1) / (g - 1), g = growth."""
        passed, growth = np.float64(position) / self.decay_every, self.decay_growth
        if growth > 1:  # the logarithm of 27 to base 3 is rounded below 3
            passed = np.log1p(passed * (growth - 1)) / math.log(growth) + 1e-9
        return float(np.floor(passed))

    def learning_rate_at(self, position: float, epochs: float) -> float:
        """The learning rate at `position`, counted in epochs since the start of a training of so many epochs."""
        rate = self.learning_rate
        if self.schedule == "step":
            rate *= float(np.float64(self.decay_factor) ** self.stage(position))
        elif self.schedule == "cosine":
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, position / epochs)))
        return rate * ramp(position, self.lr_warmup)


def ramp(position: float, length: float) -> float:
    """min(1, position / length): a linear warm-up, and 1 where there is none."""
    return 1.0 if length <= 0 else min(1.0, position / length)
