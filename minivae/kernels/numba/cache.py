"""Compiled functions in files that may be trusted: Numba's cache, with a checksum, and never a reason to fail.

Numba neither brings its files to disk nor checks them: after a loss of power they may be empty, cut, or wrong in a bit that
would run. Here a function is one file, its SHA-256 first. What is not as it was written is compiled again and replaced.
"""

from __future__ import annotations

import hashlib
import pickle
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba

from minivae.progress import say
from minivae.storage.durable import write_atomically

try:
    from numba.core.caching import FunctionCache
    from numba.core.ccallback import CFunc
    from numba.core.serialize import dumps
except ImportError:  # a Numba that keeps them elsewhere: its own cache will do
    FunctionCache = object

unkept = list[str]()  # why compiled code could not be written, in this process


class Checked(FunctionCache):  # type: ignore[misc]
    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What was compiled for this machine, or None."""
        with suppress(Exception):  # no file, or one that is not what was written
            target_context.refresh()
            data = self._file(sig, target_context.codegen()).read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return self._impl.rebuild(target_context, pickle.loads(data[32:]))

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            payload = dumps(self._impl.reduce(data))
            payload = hashlib.sha256(payload).digest() + payload
            write_atomically(self._file(sig, data.codegen), lambda file: file.write(payload))
        except Exception as error:
            cannot_keep(str(error))

    def _file(self, sig: Any, codegen: Any) -> Path:
        key = repr((numba.__version__, self._impl.locator.get_source_stamp(), self._index_key(sig, codegen)))
        return Path(self.cache_path, f"{self._impl.filename_base}.{hashlib.sha256(key.encode()).hexdigest()[:16]}.nbc")


def compiled(function: Any, signature: Any, **options: Any) -> Any:
    """The function as compiled code with an address, from the cache where that has it; cache_hits tells."""
    if FunctionCache is object:
        with suppress(RuntimeError):  # no folder that can be written to
            return numba.cfunc(signature, cache=True, **options)(function)
        return numba.cfunc(signature, **options)(function)
    made = CFunc(function, (signature.args, signature.return_type), {}, options)
    try:
        made._cache = Checked(function)
    except RuntimeError:
        cannot_keep("no folder for it can be written to")
    with uninterrupted():
        made.compile()
    return made


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C comes after this, for in a callback of LLVM Python drops it; a second one comes at once."""
    usual, seen = signal.default_int_handler, list[Any]()
    main = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is usual
    try:
        if main:
            signal.signal(signal.SIGINT, lambda *given: usual(*given) if seen else seen.append(given))
        yield
    finally:
        if main:
            signal.signal(signal.SIGINT, usual)
    if seen:
        raise KeyboardInterrupt


def cannot_keep(reason: str) -> None:
    if not unkept:
        say(f"minivae: each process compiles, as compiled code cannot be kept: {reason}; set NUMBA_CACHE_DIR elsewhere")
    unkept.append(reason)
