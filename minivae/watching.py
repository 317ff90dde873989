"""One training step looked at call by call: what each kernel wrote, whether its gradients are right, what the optimizer did.

It is the step that training would take next with these rows: the model's own objective, optimizer, schedules and moments,
but by the book (NumPy) and in float64, where finite differences can judge it. The model stays as it is. A file without the
optimizer's moments has them begin at 0, and its step follows on the epoch that was kept; after the last epoch, schedules
stay where it left them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minivae.data.files import Array
from minivae.gradcheck import check_gradient
from minivae.kernels import Call, Var, load, reference
from minivae.kernels.table import TABLE
from minivae.network import Network, forward_program, total_loss
from minivae.parameters import views
from minivae.settings import optimizer_and_objective
from minivae.training import step_program

CONSUMES = (
    "dense_backward",
    "sgd_step",
    "adam_step",
)  # what they change is of no use after them, or told in another way
KINK = 1e-7  # a larger error may be that of a rectifier's kink between the points of the difference
ENTRY = re.compile(r"([\w.]+)\[([\d, ]+)\]")  # of a parameter, as "encoder.0.W[3, 17]"
Change = Mapping[tuple[str, tuple[int, ...]], float]  # entry of a parameter -> the value to give it


@dataclass(frozen=True)
class Seen:
    """What a call left in one of its arrays. `error` is that of a whole gradient by finite differences, None of all else.

    spread is the standard deviation, norm the square root of the sum of squares, zeros the share of entries that are 0.
    """

    number: int  # of the call, from 1
    call: Call
    array: str
    values: Array
    error: float | None = None

    @property
    def told(self) -> dict[str, Any]:
        v = self.values
        numbers = {"mean": v.mean(), "spread": v.std(), "norm": np.linalg.norm(v), "zeros": (v == 0).mean()}
        where = {"number": self.number, "kernel": self.call.kernel, "call": str(self.call), "book": book(self.call)}
        where |= {"array": self.array, "shape": list(v.shape), "error": self.error}
        return where | {name: float(value) for name, value in numbers.items()}

    def moved(self, then: Seen) -> float:
        """How far the array is there from where it is here, as a part of its norm."""
        return float(np.linalg.norm(then.values - self.values) / (np.linalg.norm(self.values) or 1.0))


@dataclass(frozen=True)
class Moved:
    """What the optimizer did to a parameter: its norm, those of its gradient (clipped) and of its change, in one step."""

    parameter: str
    norm: float
    gradient: float
    change: float


def book(call: Call) -> str:
    """Where the kernel stands in the book: a file of kernels/ and the line."""
    code = getattr(reference, call.kernel).__code__
    return f"{Path(code.co_filename).name}:{code.co_firstlineno}"


class Step:
    """The next training step of a fitted VAE on all or some rows of X (and y), to be run as often as one likes."""

    @np.errstate(all="ignore")
    def __init__(self, vae: Any, X: Any, y: Any = None, rows: Array | None = None) -> None:
        examples = vae.examples(X, rows, y)
        trainer: Any = getattr(vae, "trainer_", None)
        optimizer, self.objective = optimizer_and_objective(vae.settings_)
        network = self.network = Network(vae.network_.arch, load("numpy"), "float64")
        self.parameters = vae.network_.get_parameters().astype(np.float64)
        self.program = step_program(network, examples, self.objective, optimizer, vae.seed_)[:-1]  # nothing is recorded
        moments = optimizer.state(self.parameters.size, np.float64)
        self.fresh = trainer is None or not trainer.updates  # moments that begin at 0
        if not self.fresh:
            moments = {n: np.asarray(trainer.network.kernels.to_host(trainer.moments[n]), np.float64) for n in moments}
        self.moments, self.rows, B = moments, examples.rows, len(examples.rows)
        flat = {"p": network.parameters, "g": network.gradient, **{n: m.copy() for n, m in moments.items()}}
        samples = self.objective.n_samples
        work = network.workspace(self.program, B, samples, **examples.on(network.kernels), **flat)
        examples.load(work, examples.rows)
        self.lines, self.arrays = work.bound(B)[0].lines, work.bound(B)[1]
        before = vae.history_[-1:] if trainer else [r for r in vae.history_ if r.get("kept")][-1:] or vae.history_[-1:]
        step = trainer.step if trainer else before[0]["step"] if before else 0
        updates = 0 if self.fresh else trainer.updates
        self.variables = {"step": step + 1, "update": updates + 1, **self._scheduled(vae, optimizer, before)}
        self.first = len(examples.batch_program(vae.seed_)) + 1  # call of the forward pass, behind that of the noise
        self.last = self.first + len(forward_program(network.arch, self.objective.bound))  # of the backward pass
        self.whole = len(self.program) - 2  # where the gradient is complete: clipping and the update follow

    def _scheduled(self, vae: Any, optimizer: Any, before: list[dict[str, Any]]) -> dict[str, float]:
        """beta, capacity and learning_rate of the step that follows on this record, if any."""
        history, epochs, trainer = vae.history_, vae.settings_["epochs"], getattr(vae, "trainer_", None)
        position = before[0]["epoch"] if before else 0
        if position >= epochs:
            return {name: before[0][name] for name in ("beta", "capacity", "learning_rate")}
        if trainer is not None and trainer.begun is not None and history:  # it lies within an epoch
            position += len(trainer.begun) / (history[0]["step"] / history[0]["epoch"])
        return {
            "beta": self.objective.beta_at(position, epochs), "capacity": self.objective.capacity_at(position),
            "learning_rate": optimizer.learning_rate_at(position, epochs),
        }  # fmt: skip

    def entry(self, text: str) -> tuple[str, tuple[int, ...]]:
        """ "encoder.0.W[3, 17]" as (name, index). Raises ValueError where the model has no such entry."""
        found = ENTRY.fullmatch(text.strip())
        shapes = dict(self.network.layout)
        if found is None or found[1] not in shapes:
            raise ValueError(f"{text!r} names no entry of a parameter; write one as {self.network.layout[0][0]}[3, 17]")
        index = tuple(map(int, found[2].replace(",", " ").split()))
        shape = shapes[found[1]]
        if len(index) != len(shape) or any(i >= n for i, n in zip(index, shape)):
            raise ValueError(f"{text!r} lies outside of {found[1]}, which has shape {shape}; count from 0")
        return found[1], index

    @np.errstate(all="ignore")
    def look(self, change: Change | None = None, check: bool = True) -> tuple[float, list[Seen], list[Moved]]:
        """The loss in nats per example, what every call left, and what the optimizer then did.

        change: entries of parameters that are given other values first. check: gradients by finite differences too.
        """
        seen: list[Seen] = []
        self._begin(change)

        def remember(i: int, call: Call) -> None:
            for name in self._written(i):
                seen.append(Seen(i + 1, call, name, np.array(self.arrays[name], np.float64)))

        begun = self.network.get_parameters()
        self._run(0, self.whole, remember)
        loss = self._loss()
        if check:
            last = {one.array: i for i, one in enumerate(seen)}  # where a gradient is whole
            for name, i in last.items():
                seen[i] = replace(seen[i], error=self._error(name, seen[i].values, change))
            self._begin(change)
            self._run(0, self.whole)
        self._run(self.whole, self.whole + 1, remember)
        gradient, layout, norm = self.network.gradient.copy(), self.network.layout, np.linalg.norm
        self._run(self.whole + 1, len(self.program), remember)
        before, g, after = (views(flat, layout) for flat in (begun, gradient, self.network.get_parameters()))
        moved = [Moved(n, *(float(norm(v)) for v in (before[n], g[n], after[n] - before[n]))) for n, _ in layout]
        return loss, seen, moved

    # ---- How

    def _begin(self, change: Change | None) -> None:
        self.network.set_parameters(self.parameters)
        for (name, index), value in (change or {}).items():
            self.network.named[name][index] = value
        for name, moment in self.moments.items():
            self.arrays[name][...] = moment

    @np.errstate(all="ignore")
    def _run(self, start: int, end: int, after: Callable[[int, Call], None] = lambda i, call: None) -> None:
        for i in range(start, end):
            kernel, arrays, scalars = self.lines[i]
            kernel(*arrays, *[self.variables[s.name] if isinstance(s, Var) else s for s in scalars])
            after(i, self.program[i])

    def _loss(self) -> float:
        aim, bound = self.objective, self.objective.bound
        loss = float(np.mean(self.arrays[bound.recorded[0]]))
        capacity = self.variables["capacity"] if aim.capacity else 0.0
        return (
            loss
            if bound.weighted
            else total_loss(loss, self.arrays["kl_mean"], self.variables["beta"], aim.free_bits, capacity)
        )

    def _error(self, name: str, gradient: Array, change: Change | None) -> float | None:
        """Of an array that holds a gradient, against differences of the loss when what it is the gradient of is moved.

        z enters an importance-weighted bound by its densities too, and dz is what the decoder makes of it. The encoder's
        gradients of stl and dreg are those of no loss, on purpose.
        """
        path, dot, last = name.rpartition(".")
        of = f"{path}{dot}{last[1:]}"
        parameter = of in dict(self.network.layout)
        made = [i for i in range(self.first, self.last) if of in self._written(i, changed=False)]
        other = self.objective.objective in ("stl", "dreg") and (of == "h" or path.startswith("encoder"))
        if not last.startswith("d") or not (parameter or made) or other or "terms" in name:
            return None
        start = self.first if parameter else made[0] + 1  # a loss that is weighed runs twice

        def loss(values: Array) -> float:
            self._begin(change)
            self._run(0, start)
            moved, kept = self.arrays[of], self.arrays[of].copy()
            moved += values.reshape(moved.shape)
            for i in range(start, self.last):
                if self.program[i].kernel == "importance_bound" and of == "z":
                    moved[...] = kept
                self._run(i, i + 1)
            return self._loss()

        error = check_gradient(loss, gradient, np.zeros(gradient.shape))
        if error > KINK:  # which a shorter step, with more rounding, is less likely to meet
            error = min(error, check_gradient(loss, gradient, np.zeros(gradient.shape), step=2e-6))
        return error

    def _written(self, i: int, changed: bool = True) -> list[str]:
        """What a call leaves behind in arrays that it writes, or changes."""
        call = self.program[i]
        changed = changed and call.kernel not in CONSUMES
        row = zip(call.arrays, TABLE[call.kernel].arrays)
        return [*dict.fromkeys(n for n, a in row if n is not None and (a.written or (changed and a.changed)))]
