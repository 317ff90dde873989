"""What the page's tab "Watch a step" shows: one training step call by call, and what some weights would change in it.

The numbers are those of `minivae inspect` of the same model, in float64 and by the book. The page has no mathematics of
its own for them: for every place of a weight's slider the step was taken here.
"""

from __future__ import annotations

import inspect
from operator import itemgetter
from typing import Any

import numpy as np

from minivae.data.files import Array
from minivae.evaluation.measures import spaced
from minivae.kernels import reference
from minivae.parameters import gradient_name, views
from minivae.watching import Seen, Step, book

ROWS = 16  # of the batch
REACH = 1.0  # of a slider, down from a weight's own value and up
STOPS = 17  # places of a slider; the middle one is the weight's own value
WEIGHTS = 12  # that have a slider, at most
WORK = 2e8  # parameters times steps, at most; a page of more than MOST parameters goes without
MOST = 5_000_000
PHASES = ("The batch and its noise", "Forward", "Backward", "The optimizer")


def step_of(vae: Any, X: Any, y: Any, rows: Array) -> tuple[dict[str, Any] | None, dict[str, Array]]:
    """Plain data for JSON, and two arrays of float32; nothing of a model that is too large to wait for.

    seen [W, S, 5, T]: mean, spread, norm and zeros of the S arrays that the calls write, in their order, and how far each
    has moved from where the step has it, as a part of its norm; for T places of each of W weights. moved [W, P, 3, T]: of
    every parameter its norm, and those of its gradient and of its change.
    """
    if vae.n_parameters_ > MOST:
        return None, {}
    step = Step(vae, X, y, rows[:ROWS])
    loss, seen, moved = step.look()
    weights = _weights(step, seen)
    places = np.linspace(-REACH, REACH, STOPS)
    looks = [[_look(step, {entry: value + by}, seen) for by in places] for entry, value, _ in weights]
    losses, numbers, norms = ([[then[i] for then in of_weight] for of_weight in looks] for i in range(3))
    files = {call.kernel: book(call) for call in step.program}
    told = {
        "loss": loss, "fresh": step.fresh, "rows": len(rows[:ROWS]), "variables": step.variables,
        "calls": [[call.kernel, str(call)] for call in step.program],
        "phases": [[name, at] for name, at in zip(PHASES, (0, step.first, step.last, step.whole), strict=True)],
        "seen": [[one.number, one.array, one.values.shape, one.error] for one in seen],
        "parameters": [one.parameter for one in moved],
        "book": {kernel: [where, inspect.getsource(getattr(reference, kernel))] for kernel, where in files.items()},
        "weights": [
            [f"{name}[{', '.join(map(str, index))}]", list(value + places), of_weight, slope]
            for ((name, index), value, slope), of_weight in zip(weights, losses, strict=True)
        ],
    }  # fmt: skip
    return told, {"seen": _packed(numbers), "moved": _packed(norms)}


def _weights(step: Step, seen: list[Seen]) -> list[tuple[tuple[str, tuple[int, ...]], float, float | None]]:
    """Of some parameters the entry that the loss depends on most: which, its value, and the loss's slope there.

    No slope where the gradient is that of no loss, as some estimators have it.
    """
    count = int(np.clip(WORK / (STOPS * len(step.parameters)), 1, WEIGHTS))
    last, values, found = {one.array: one for one in seen}, views(step.parameters, step.network.layout), []
    for i in spaced(len(step.network.layout), count):
        name = step.network.layout[i][0]
        gradient = last[gradient_name(name)]
        index = tuple(map(int, np.unravel_index(np.abs(gradient.values).argmax(), gradient.values.shape)))
        slope = None if gradient.error is None else float(gradient.values[index])
        found.append(((name, index), float(values[name][index]), slope))
    return found


def _look(step: Step, change: dict[Any, float], seen: list[Seen]) -> tuple[float, list[Any], list[Any]]:
    """The loss, [S, 5] and [P, 3] of a changed step: numbers, as its arrays are too large to be kept for every place."""
    loss, then, moved = step.look(change, check=False)
    pick = itemgetter("mean", "spread", "norm", "zeros")
    numbers = [[*pick(other.told), one.moved(other)] for one, other in zip(seen, then, strict=True)]
    return loss, numbers, [[one.norm, one.gradient, one.change] for one in moved]


def _packed(numbers: Any) -> Array:
    """[W, T, n, k] as [W, n, k, T], where what a weight does not move repeats, to five digits: so it takes little room."""
    bits = np.moveaxis(np.asarray(numbers, np.float32), 1, -1).copy().view(np.uint32)
    return (bits & np.uint32(0xFFFFFF80)).view(np.float32)
