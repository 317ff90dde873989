"""What ends a training before its last epoch: Ctrl-C, the system, and numbers that are none."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minivae.likelihoods import COUNTS, domains
from minivae.network import Workspace
from minivae.progress import say

INTERRUPTED = "interrupted by Ctrl-C"


def diagnosis(trainer: Any, work: Workspace, rate: float) -> str:
    """Which array of the step just run was the first to hold a NaN or an infinity, in the order of the program.

    Of several processes that have parts of the batch, the same in each: the first array in any of them.
    """
    arrays, ranks = work.bound(max(1, work.rows))[1], trainer.ranks
    skip = {"trace", "data", "side", *(name for name, _ in trainer.network.layout), "p", *trainer.moments}
    names = [n for call in work.program for n in call.arrays if n is not None and n not in skip]
    mine = ((i, n) for i, n in enumerate(names) if work.rows)
    first = next((i for i, n in mine if not np.isfinite(trainer.network.kernels.to_host(arrays[n])).all()), len(names))
    first = int(ranks.add(np.array([first]), "MIN")[0])
    bad = [*names, trainer.network.not_finite() or "the loss"][first]
    advice = f"lower learning_rate (now {rate:g}) or set max_grad_norm"
    reach = float(np.abs(trainer.network.kernels.to_host(arrays["x"][: work.rows])).max(initial=0))
    reach = float(ranks.add(np.array([reach]), "MAX")[0])
    counts = COUNTS in domains(trainer.network.arch.likelihood)
    if counts and reach > 1000:
        advice += f"; counts that reach {reach:g} are much for an encoder: try likelihood='gaussian' on their log1p"
    elif reach > 10 and not counts:
        advice = f"scale the data, which reach {reach:g}, to about unit size (divide_by, or standardise the columns)"
    return (
        f"training stopped at step {trainer.step} (epoch {trainer.epoch + 1}): the first array holding a NaN or an "
        f"infinity is {bad!r}; {advice}"
    )


def at_once(number: int, frame: Any = None) -> None:
    """What SIGTERM and SIGHUP do outside a training, where `ending` has them."""
    raise SystemExit(128 + number)


@contextmanager
def ending() -> Iterator[None]:
    """SIGTERM and SIGHUP save and end: between two steps while there are steps, else at once. Ignored ones stay ignored."""
    with _handled(signal.SIG_DFL, at_once, "SIGTERM", "SIGHUP"):
        yield


@contextmanager
def interruptible(trainer: Any) -> Iterator[None]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a request, so that no update is cut in half; the next ends at once.

    Only where Ctrl-C would raise KeyboardInterrupt, and the others are as `ending` has them: a caller who ignores or handles
    one has decided otherwise.
    """

    def interrupt(number: int, frame: Any) -> None:
        trainer.stop(INTERRUPTED)
        signal.signal(number, signal.default_int_handler)
        if trainer.verbose:
            say("Ctrl-C: this step is ended, then what was trained is kept; again, and all ends at once")

    def end(number: int, frame: Any) -> None:
        trainer.signal = number
        signal.signal(number, at_once)

    usual = signal.default_int_handler
    with _handled(usual, interrupt, "SIGINT"), _handled(at_once, end, "SIGTERM", "SIGHUP"):
        yield
    if trainer.signal:  # it came after the last step
        at_once(trainer.signal)


@contextmanager
def _handled(usual: Any, handler: Any, *names: str) -> Iterator[None]:
    """Those of these signals that the usual handler has go to another one; other threads than the main one get none."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    main = threading.current_thread() is threading.main_thread()
    taken = [number for number in numbers if main and signal.getsignal(number) is usual]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, usual)
