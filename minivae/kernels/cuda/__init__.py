"""The cupy backend: the book's kernels in CUDA, and a step recorded as one graph. Read README.md first."""

from __future__ import annotations

import os
from typing import Any

_process = list[int]()  # the one that uses the GPU


def foreign() -> str:
    """Why this process cannot use the GPU, where it was forked from one that had used it; else an empty string."""
    if _process and _process[0] != os.getpid():
        return (
            "this process was forked from one that had used the GPU, which CUDA does not survive; "
            "start processes with multiprocessing's 'spawn' or 'forkserver'"
        )
    return ""


def library() -> Any:
    """CuPy, for a process that uses the GPU from now on. Raises RuntimeError in a child of a fork of one that did."""
    import cupy

    if foreign():
        raise RuntimeError(foreign())
    _process[:] = [os.getpid()]
    return cupy
