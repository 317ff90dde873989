"""The training loop: order the examples, run the step, validate, record, keep the best, stop.

A step is one program: gather -> noise -> forward -> backward -> clip -> update -> record. Here it is written once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minivae import randomness
from minivae.data.batches import Examples
from minivae.evaluation.inference import draws_for, elbo_of, noise_call
from minivae.forks import unforked
from minivae.kernels import Call, Var
from minivae.kernels.bounds import ESTIMATORS
from minivae.network import Bound, Network, NotFinite, Workspace, backward_program, forward_program, total_loss
from minivae.optimizers import Optimizer, ramp
from minivae.parallel import ALONE, Ended, Ranks, Split
from minivae.processors import one_blas_thread
from minivae.progress import bar, say
from minivae.trouble import INTERRUPTED, diagnosis, interruptible

Record = dict[str, Any]
Callback = Callable[["Trainer", Record], Any]
# of a trainer, the running epoch's trace so far, and a word of MOMENTS
Checkpoint = Callable[["Trainer", Any, str], Any]
MOMENTS = ("step", "epoch", "cut", "end")  # between two steps, two epochs, in an epoch that is ended early, at the end
OBJECTIVES = ("elbo", *ESTIMATORS)
IMPATIENT = "no better val_loss for "
ACTIVE = 0.01  # nats: a latent dimension whose mean KL over an epoch exceeds this is in use


@dataclass(frozen=True)
class Objective:
    """recon + beta_t |sum_j max(free_bits, kl_j) - C_t|, with t in epochs: the KL in nats, weighed, or drawn to C_t nats.

    beta_t = beta min(1, t / kl_warmup), where t starts again in each of kl_cycles equal parts of the training (Fu et al.
    2019), and C_t = capacity min(1, t / capacity_warmup), where it does not (Burgess et al. 2018, whose gamma is beta).
    objective: that is "elbo", recon being the mean over n_samples draws of z. "iwae" (Burda et al. 2016) is their
    importance-weighted bound, in which beta_t weighs log q - log p; "stl" (Roeder et al. 2017) and "dreg" (Tucker et al.
    2019) give its encoder other gradients, see kernels/bounds.py.
    """

    beta: float = 1.0
    kl_warmup: float = 0.0
    free_bits: float = 0.0
    kl_cycles: int = 1
    capacity: float = 0.0
    capacity_warmup: float = 0.0
    objective: str = "elbo"
    n_samples: int = 1

    def __post_init__(self) -> None:
        for name in ("beta", "kl_warmup", "free_bits", "capacity", "capacity_warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or a positive number, not {getattr(self, name)!r}")
        if self.kl_cycles < 1:
            raise ValueError(f"kl_cycles must be at least 1, not {self.kl_cycles!r}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective {self.objective!r} is not one of {', '.join(OBJECTIVES)}")
        if self.n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, not {self.n_samples!r}")
        for name in ("free_bits", "capacity"):
            if self.objective != "elbo" and getattr(self, name):
                raise ValueError(f"{name} is for the KL of objective='elbo'; {self.objective!r} has none: set {name}=0")
        if self.capacity and self.free_bits:
            raise ValueError(f"capacity={self.capacity:g} is for the KL as a whole; set free_bits=0 beside it")

    @property
    def bound(self) -> Bound:
        """What a step's program needs to know."""
        return Bound(self.objective, self.n_samples, self.free_bits, Var("capacity") if self.capacity else 0.0)

    def beta_at(self, position: float, epochs: float = math.inf) -> float:
        """beta at `position`, counted in epochs since the start of a training of so many epochs; after it beta stays."""
        if position < epochs:
            position = position * self.kl_cycles % epochs / self.kl_cycles
        return self.beta * ramp(position, self.kl_warmup)

    def capacity_at(self, position: float) -> float:
        return self.capacity * ramp(position, self.capacity_warmup)


def step_program(
    network: Network, examples: Examples, objective: Objective, optimizer: Optimizer, seed: int
) -> list[Call]:
    """One training step. Variables: step and update (from 1), index (row of the trace), beta, capacity, learning_rate."""
    bound = objective.bound
    loss, terms, weight = bound.recorded
    return [
        *examples.batch_program(seed),
        noise_call(seed, randomness.TRAIN_NOISE),
        *forward_program(network.arch, bound),
        *backward_program(network.arch, bound),
        *optimizer.program(),
        Call("record", ("trace", loss, terms, "norm", weight), (Var("index"),)),
    ]


@dataclass(frozen=True)
class Best:
    """The epoch worth keeping so far: its parameters [N], held-out loss, active units. At first, where training begins."""

    parameters: np.ndarray
    epoch: int
    loss: float = math.inf
    active: int = 0


@dataclass
class Trainer:
    """The state of a training: the network's parameters, the optimizer's moments, step, epoch, history.

    step numbers the noise and goes on for ever; updates counts what the moments have seen, for Adam's bias correction.
    checkpoint is called where this state is whole, and may keep it: training that goes on from there ends bit for bit the
    same. begun: the trace of an epoch that such a state lies in, [steps, 2 + Z]; spent: the seconds of that epoch.

    history: one record per epoch with epoch, step, loss, recon, kl, n_samples (K of the bound), kl_per_dim [Z], active_units
    (how many of these exceed ACTIVE), grad_norm, beta, capacity, learning_rate, seconds, examples_per_second; val_loss,
    val_recon, val_kl and those of test where there is such a part; and kept: whether these parameters were the ones to keep.
    recon, kl and grad_norm are means over the steps of the epoch, while the parameters moved, and of these means is loss =
    recon + beta |sum_j max(free_bits, kl_j) - capacity|, with beta and capacity of the last step; importance-weighted, it is
    the mean of the bound itself. The held-out parts are measured after the epoch, with the full beta and capacity, so that
    their epochs compare.
    """

    network: Network
    optimizer: Optimizer
    objective: Objective
    batch_size: int
    seed: int
    verbose: int = 0
    callbacks: Sequence[Callback] = ()
    step: int = 0
    epoch: int = 0
    history: list[Record] = field(default_factory=list)
    moments: dict[str, Any] = field(default_factory=dict)
    updates: int = 0
    stopped: str = ""
    signal: int = 0  # by which the system asks this process to end
    best: Best | None = None
    begun: np.ndarray | None = None
    spent: float = 0.0
    checkpoint: Checkpoint | None = None
    ranks: Ranks = ALONE
    micro_batch_size: int | None = None
    chunk: int = 1  # steps that take about a tenth of a second, found while training

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
        if not self.moments:
            self.reset_moments()

    def reset_moments(self) -> None:
        """The optimizer forgets what it has seen: its moments belonged to other parameters."""
        host = self.optimizer.state(self.network.parameters.size, self.network.dtype)
        self.moments = {name: self.network.kernels.to_device(vector) for name, vector in host.items()}
        self.updates = 0

    def stop(self, reason: str) -> None:
        """Ask the training to end after the running step. Callbacks may call this."""
        self.stopped = reason

    def fit(
        self,
        examples: Examples,
        epochs: int,
        val: Examples | None = None,
        test: Examples | None = None,
        patience: int | None = None,
        schedule_epochs: int | None = None,
        resume: bool = False,
    ) -> None:
        """Train for so many epochs, and evaluate the held-out parts after each.

        val leaves the network with the parameters of the best val_loss, and patience stops after so many epochs without a
        better one; without val the last parameters stay. test is recorded and chooses nothing. schedule_epochs is the length
        of learning rate's and beta's schedules where it is not the end of this call. resume goes on with the running epoch
        and the best one of a checkpoint. Ctrl-C ends the epoch after the running step, and then the training as any other
        end; KeyboardInterrupt follows. A `signal` ends all after the running step, by Ended. Whatever is raised, the
        parameters of the last epoch worth keeping are in place. Raises NotFinite.
        """
        schedule_epochs = schedule_epochs or self.epoch + epochs
        steps, Z = math.ceil(len(examples.rows) / self.batch_size), self.network.arch.latent_dim
        trace = self.network.kernels.empty((steps, self.objective.bound.columns(Z)), np.float64)
        work = self._workspace(examples, trace)
        for rows in {min(self.batch_size, len(examples.rows)), len(examples.rows) % self.batch_size} - {0}:
            work.prepare(rows)  # what must be compiled or recorded is so before any epoch is timed
        held_out = {name: self._measure(part) for name, part in (("val", val), ("test", test)) if part}
        if not (resume and self.best):
            self.best, self.begun, self.spent = Best(self.network.get_parameters(), self.epoch), None, 0.0
        self.stopped, self.signal, kept, last = "", 0, True, self.epoch + epochs
        self.chunk = self.ranks.first(self.chunk)
        blas = one_blas_thread(self.network, work.capacity if self.ranks.size == 1 else 0, self._say)
        try:
            with interruptible(self), blas, np.errstate(all="ignore"):  # NotFinite says it better than NumPy's warnings
                while not (stop := self._agreed()) and self.epoch < last:
                    kept = False
                    record = self._train_epoch(work, examples, trace, schedule_epochs)
                    for name, measure in held_out.items():
                        record |= self._held_out(name, measure())
                    kept = record["kept"] = val is None or record["val_loss"] < self.best.loss
                    if kept:
                        found = record.get("val_loss", math.inf), record["active_units"]
                        self.best = Best(self.network.get_parameters(), self.epoch, *found)
                    self.history.append(record)
                    if self.epoch % max(1, epochs // 100) == 0 or self.epoch == last:  # of thousands not each
                        self._report(record)
                    for callback in self.callbacks:
                        callback(self, record)
                    if patience is not None and self.epoch - self.best.epoch >= patience and not self.stopped:
                        self.stop(f"{IMPATIENT}{patience} epochs")
                    if self.epoch < last and not self.stopped:
                        self._offer(trace[:0], "epoch")
                # of Ctrl-C before the first step, what was begun
                self._offer(trace[:0] if self.begun is None else self.begun, "end", stop)
                if self.stopped:
                    self._say(f"stopped after epoch {self.epoch}: {self.stopped}")
        finally:
            if not kept:
                self.network.set_parameters(self.best.parameters)
                self.reset_moments()
        if self.stopped == INTERRUPTED:
            raise KeyboardInterrupt(INTERRUPTED)

    def _workspace(self, examples: Examples, trace: Any) -> Workspace:
        program = step_program(self.network, examples, self.objective, self.optimizer, self.seed)
        flat = {"p": self.network.parameters, "g": self.network.gradient, **self.moments}
        capacity, K = min(self.batch_size, len(examples.rows)), self.objective.n_samples
        arrays = {"trace": trace, **examples.on(self.network.kernels), **flat}
        if self.ranks.size == 1 and (self.micro_batch_size or capacity) >= capacity:
            return self.network.workspace(program, capacity, K, **arrays)
        capacity = min(self.micro_batch_size or capacity, math.ceil(capacity / self.ranks.size))
        return Split(self.network, program, capacity, K, arrays, ranks=self.ranks)

    def _train_epoch(self, work: Workspace, examples: Examples, trace: Any, epochs: int) -> Record:
        n, size = len(examples.rows), self.batch_size
        start, kernels = time.perf_counter() - self.spent, self.network.kernels
        order = examples.rows[randomness.permutation(n, self.seed, randomness.SHUFFLE, self.epoch)]
        index = np.arange(math.ceil(n / size))
        position = self.epoch + index * size / n
        beta = np.array([self.objective.beta_at(t, epochs) for t in position])
        capacity = np.array([self.objective.capacity_at(t) for t in position])
        rate = np.array([self.optimizer.learning_rate_at(t, epochs) for t in position])
        first = 0 if self.begun is None else len(self.begun)
        done = min(n, first * size)
        if first:
            trace[:first] = kernels.to_device(self.begun)
        self.begun, stop = None, 0
        with bar(len(index), f"epoch {self.epoch + 1}", bool(self.verbose), first) as advance:
            while done < n and not stop:
                # as many full batches as take about a tenth of a second, then the short one that may be left
                count = 1 if examples.staged else max(1, min(self.chunk, n // size - first))
                rows = order[done : done + count * size].reshape(count, -1)
                part, started = slice(first, first + count), time.perf_counter()
                schedules = {"beta": beta[part], "capacity": capacity[part], "learning_rate": rate[part]}
                ahead = 1 + np.arange(count)
                counts = {"index": index[part], "step": self.step + ahead, "update": self.updates + ahead}
                ran = work.steps(rows, examples=examples, **counts, **schedules)
                self.step += ran
                self.updates += ran
                first += ran
                done += rows[:ran].size
                if not np.isfinite(kernels.to_host(trace[first - 1, :2])).all():
                    raise NotFinite(diagnosis(self, work, float(rate[first - 1])))
                advance(ran)
                took, self.spent = time.perf_counter() - started, time.perf_counter() - start
                self._offer(trace[:first], "step")
                stop = self._agreed(took)  # last, for Ctrl-C may have come while "step" was written
        if done < n or stop > 1:
            self._offer(trace[:first], "cut", stop)
        kernels.synchronize()
        seconds, self.spent = time.perf_counter() - start, 0.0
        host = np.array(kernels.to_host(trace[:first]))
        share = np.full(first, size / done)
        share[-1] = (done - size * (first - 1)) / done
        product = unforked(np.matmul)
        means, Z = product(share, host), self.network.arch.latent_dim
        recon, kl_per_dim, loss, bound = float(means[0]), means[2 : 2 + Z], float(means[0]), self.objective.bound
        if bound.weighted:
            recon = float(means[-1])
        else:
            loss = float(total_loss(recon, kl_per_dim, beta[first - 1], bound.free_bits, capacity[first - 1]))
        if self.network.not_finite() or not math.isfinite(loss):  # no step looks at what the last update left
            raise NotFinite(diagnosis(self, work, float(rate[first - 1])))
        self.epoch += 1
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss": loss,
            "recon": recon,
            "kl": float(kl_per_dim.sum()),
            "n_samples": bound.n_samples if bound.weighted else 1,
            "kl_per_dim": kl_per_dim.tolist(),
            "active_units": int((kl_per_dim > ACTIVE).sum()),
            "grad_norm": float(host[:, 1].mean()),
            "beta": float(beta[first - 1]),
            "capacity": float(capacity[first - 1]),
            "learning_rate": float(rate[first - 1]),
            "seconds": seconds,
            "examples_per_second": done / seconds,
        }

    def _agreed(self, took: float = 1.0) -> int:
        """Whether any process was asked to stop: 1, or 128 + its signal; and whether a chunk may be longer. Alike in all."""
        asked = [self.stopped != "", self.stopped == INTERRUPTED, self.signal, took]
        stopped, interrupted, signal, took = self.ranks.add(np.array(asked, np.float64), "MAX")
        if stopped and not self.stopped:
            self.stop(INTERRUPTED if interrupted else "another process was asked to stop")
        self.chunk *= 1 + (took < 0.05)
        return 128 + int(signal) if signal else int(stopped)

    def _offer(self, trace: Any, moment: str, stop: int = 0) -> None:
        if self.checkpoint is not None:
            self.checkpoint(self, trace, moment)
        if stop > 1:
            raise Ended(stop)

    def _measure(self, part: Examples) -> Callable[[], np.ndarray]:
        """A function that measures these rows: the means of recon, of the bound and of each latent's KL [2 + Z]."""
        ranks = self.ranks if len(part.rows) >= self.ranks.size else ALONE
        mine, draws = replace(part, rows=ranks.part(part.rows)), draws_for(part)
        terms = elbo_of(self.network, mine, self.seed, draws, self.objective.bound, self.objective.beta)

        def measure() -> np.ndarray:
            recon, kl, bound = terms(0)
            sums = np.concatenate(([recon.sum(), bound.sum()], kl.sum(axis=0)))
            return np.asarray(ranks.add(sums) / len(part.rows))

        return measure

    def _held_out(self, name: str, means: np.ndarray) -> Record:
        recon, loss, kl_mean, aim = float(means[0]), float(means[1]), means[2:], self.objective
        if not aim.bound.weighted:
            loss = total_loss(recon, kl_mean, aim.beta, aim.free_bits, aim.capacity)
        if not math.isfinite(loss):
            raise NotFinite(
                f"training stopped after epoch {self.epoch}: its {name}_loss is {loss} where the training loss is finite; "
                f"look for extreme {name} rows, or lower learning_rate (now {self.optimizer.learning_rate:g})"
            )
        return {f"{name}_loss": loss, f"{name}_recon": recon, f"{name}_kl": float(kl_mean.sum())}

    # ---- What the user sees, on standard error

    def _say(self, line: str) -> None:
        if self.verbose:
            say(line)

    def _report(self, record: Record) -> None:
        line = f"epoch {record['epoch']:>4}"
        line += "".join(f"  {name} {record[name]:8.2f}" for name in ("loss", "recon", "kl"))
        line += "".join(f"  {name} {record[name]:8.2f}" for name in ("val_loss", "test_loss") if name in record)
        self._say(f"{line}  {record['examples_per_second']:9,.0f} examples/s")
