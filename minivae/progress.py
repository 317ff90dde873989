"""What is told on standard error while something runs. Nothing that goes wrong with the telling ends what is told about.

A terminal may go away (EIO), standard error be closed, full, or None as under pythonw.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


def say(line: str) -> None:
    """A line on standard error, above a bar that may stand there."""
    with suppress(Exception):
        from tqdm import tqdm

        if sys.stderr is not None:  # print and tqdm would take standard output instead, where the results go
            tqdm.write(line, file=sys.stderr)
            sys.stderr.flush()


@contextmanager
def bar(total: int, title: str, shown: bool, done: int = 0, unit: str = "it") -> Iterator[Callable[[int], None]]:
    """A function of how much more is done, and a bar that shows it: on a terminal, not in a log file."""
    made = None
    with suppress(Exception):
        from tqdm import tqdm

        if sys.stderr is not None and shown:
            made = tqdm(total=total, desc=title, leave=False, disable=None, initial=done, unit=unit)

    def advance(count: int) -> None:
        with suppress(Exception):
            if made is not None:
                made.update(count)

    try:
        yield advance
    finally:
        with suppress(Exception):
            if made is not None:
                made.close()
