"""What is told on standard error while something runs. Nothing that goes wrong with the telling ends what is told about.

A terminal may go away (EIO), standard error be closed, full, or None as under pythonw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_bars = list[Any]()  # those on the terminal now
TROUBLE = (ValueError, TypeError, OSError, ArithmeticError, ImportError, MemoryError, RuntimeError)  # told in a line


def one_line(trouble: object) -> str:
    return " ".join(str(trouble).split()) or type(trouble).__name__


def say(line: str) -> None:
    """A line on standard error, above a bar that may stand there."""
    with suppress(Exception):
        if sys.stderr is None:  # tqdm would take standard output instead, where the results go
            return
        if _bars:
            _bars[-1].write(line, file=sys.stderr)
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


@contextmanager
def bar(total: int, title: str, shown: bool, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A function of how much more is done, and a bar that shows it: on a terminal or in a notebook, not in a log file."""
    made: Any = None
    with suppress(Exception):
        notebook = type(sys.stderr).__module__.startswith("ipykernel")  # which is no terminal, but draws as one
        if shown and sys.stderr is not None and (notebook or sys.stderr.isatty()):
            from tqdm import tqdm

            made = tqdm(total=total, desc=title, leave=False, initial=done)
            _bars.append(made)

    def advance(count: int) -> None:
        with suppress(Exception):
            if made is not None:
                made.update(count)

    try:
        yield advance
    finally:
        with suppress(Exception):
            if made is not None:
                _bars.remove(made)
                made.close()
