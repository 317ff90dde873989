"""What ends a training before its last epoch: Ctrl-C, and numbers that are none."""

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
    """Which array of the step just run was the first to hold a NaN or an infinity, in the order of the program."""
    arrays = work.bound(work.rows)[1]
    skip = {"trace", "data", "side", *(name for name, _ in trainer.network.layout), "p", *trainer.moments}
    names = [n for call in work.program for n in call.arrays if n is not None and n not in skip]
    bad = next((n for n in names if not np.isfinite(trainer.network.kernels.to_host(arrays[n])).all()), "")
    bad = bad or trainer.network.not_finite() or "the loss"
    advice = f"lower learning_rate (now {rate:g}) or set max_grad_norm"
    reach = float(np.abs(trainer.network.kernels.to_host(arrays["x"])).max())
    counts = COUNTS in domains(trainer.network.arch.likelihood)
    if counts and reach > 1000:
        advice += f"; counts that reach {reach:g} are much for an encoder: try likelihood='gaussian' on their log1p"
    elif reach > 10 and not counts:
        advice = f"scale the data, which reach {reach:g}, to about unit size (divide_by, or standardise the columns)"
    return (
        f"training stopped at step {trainer.step} (epoch {trainer.epoch + 1}): the first array holding a NaN or an "
        f"infinity is {bad!r}; {advice}"
    )


@contextmanager
def interruptible(trainer: Any) -> Iterator[None]:
    """Turn the first Ctrl-C into a request to stop, so that no update is cut in half; the second one interrupts.

    Only where Ctrl-C would raise KeyboardInterrupt: a caller who ignores or handles it has decided otherwise, and other
    threads than the main one get no signals.
    """
    usual = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not usual:
        yield
        return

    def ask(number: int, frame: Any) -> None:
        trainer.stop(INTERRUPTED)
        signal.signal(signal.SIGINT, usual)
        if trainer.verbose:
            say("Ctrl-C: this step is ended, then what was trained is kept; again, and all ends at once")

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
