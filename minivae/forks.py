"""A process forks only while no other thread is in the middle of a kernel, a compilation or an import.

A fork copies one thread. What the others held at that moment stays held in the child for ever: a lock of Numba's compiler,
of NumPy's BLAS (which may hang even the parent), of an import. So whoever forks waits for those inside, whoever would enter
waits for the fork, and both for a short while only: a chunk of steps takes a tenth of a second, compiling a function a few.
"""

from __future__ import annotations

import _thread
import functools
import logging  # noqa: F401  (locks at a fork, in reverse order of import: those inside may log, so its lock comes after ours)
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

LONGEST = 60.0  # seconds after which a fork goes ahead: whoever forks may hold what one inside waits for
IMPORT = 5.0  # the same for an import: a whole program may run in one, as in `python -c "import program"`
PAUSE = 0.001  # seconds between two looks
# Threads inside, and threads about to fork. Sets and no lock: nothing that a fork or a signal could break, and a thread that
# enters announces itself before it looks for forks, as one that forks does before it looks who is inside.
_inside, _forking = set[int](), set[int]()
_interrupted = set[int]()

Function = TypeVar("Function", bound=Callable[..., Any])


def unforked(function: Function) -> Function:
    """The function, during which other threads cannot fork. It may call others of its kind; some 0.2 us a call."""

    @functools.wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        me = _thread.get_ident()
        if me in _inside:
            return function(*args, **kwargs)
        try:
            _inside.add(me)
            while _forking and me not in _forking:
                _inside.discard(me)
                time.sleep(PAUSE)
                _inside.add(me)
            return function(*args, **kwargs)
        finally:  # an interrupt arrives after a call, never before the first one here
            _inside.discard(me)

    return passing  # type: ignore[return-value]


def _before() -> None:
    """Wait until no other thread is inside. Of two that fork from the inside (a signal's handler may), neither waits."""
    me, start = _thread.get_ident(), time.monotonic()
    _forking.add(me)
    try:
        time.sleep(0)  # a turn for the others, and a whole turn of our own for looking and then forking
        while (waited := time.monotonic() - start) < LONGEST:
            inside = _inside.copy() - {me} - (_forking if me in _inside else set())
            if not inside and (waited > IMPORT or not _others_import(me)):
                break
            time.sleep(PAUSE)
    except KeyboardInterrupt:  # Python drops what a hook raises
        _interrupted.add(me)


def _others_import(me: int) -> bool:
    """Whether another thread is importing, but for one that may wait for an import of ours."""
    owners = set[int]()
    with suppress(Exception):  # Python has no word for it
        locks = [found for lock in list(sys.modules["_frozen_importlib"]._module_locks.values()) if (found := lock())]
        owners = {lock.owner for lock in locks} - {None}
    return bool(owners) and me not in owners


def _in_parent() -> None:
    me = _thread.get_ident()
    _forking.discard(me)
    if me in _interrupted:
        _interrupted.discard(me)
        threading.Timer(0.01, _thread.interrupt_main).start()  # when this hook is over


def _in_child() -> None:
    _inside.intersection_update({_thread.get_ident()})
    _forking.clear()
    _interrupted.clear()
    with suppress(Exception):  # nor does tqdm: the child would never give back a lock that it shares with its parent
        lock = sys.modules["tqdm.std"].TqdmDefaultWriteLock
        if not lock.th_lock._is_owned():
            lock.th_lock._at_fork_reinit()
            lock.mp_lock._semlock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
