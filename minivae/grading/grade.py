"""`minivae grade answers.py`: a student's functions are run, and the first number of each step that is wrong is told.

The inputs are read-only, so that a line that overwrites one is found where it stands. Every function is called twice: noise
that it draws for itself, and what it adds to the call before, show as other numbers. np.empty gives a NaN known again.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from minivae.grading import mistakes
from minivae.grading.steps import FUNCTIONS, STEPS, Function
from minivae.storage.durable import place_of
from minivae.storage.modelfile import json_text

STUB, WRONG, RIGHT = "not there yet", "wrong", "right"
ADDS = "a second call adds to what the first one wrote: += stands where = was meant"
UNSTEADY = "the same inputs give other numbers the second time: noise is drawn inside, or something is kept"
EMPTY = (
    "this was never written, and is what np.empty left: d[name] = ... names an array, d[name][...] = ... writes to it"
)
READ_ONLY = "an input is overwritten here; write the result to an array of its own, as in y = 2 * x"
UNWRITTEN = np.array(0x7FF8_0000_0BAD_0BAD, np.uint64).view(np.float64)[()]


class Found(Exception):
    """What is not right with a function, in a sentence, and what else JSON has of it."""

    def __init__(self, text: str, status: str = WRONG, **told: Any) -> None:
        super().__init__(text)
        self.told = {"status": status, "message": text, **told}


def run(options: argparse.Namespace) -> int:
    if options.answers == "-":
        raise FileNotFoundError("answers stand in a file, not in standard input; name the file in place of -")
    if options.stubs:
        try:
            with open(place_of(options.answers), "x", encoding="utf-8") as file:
                file.write(mistakes.text("stubs.txt"))
        except FileExistsError:
            raise FileExistsError(f"{options.answers} exists, and stays as it is; choose another name") from None
        print(json_text({"wrote": options.answers}) if options.json else f"wrote {options.answers}")
        return 0
    steps, rows = [options.step] if options.step else list(STEPS), []
    try:
        for row in grade(options.answers, steps):
            rows.append(row)
            if not options.json:  # at once: the next step may take long, or for ever
                print(f"{row['step']:14} {row['status']:13} {row['message']}".rstrip(), flush=True)
                if row["mistake"]:
                    print(f"{'':28} It smells of this: {row['mistake']}.", flush=True)
    except KeyboardInterrupt as stopped:
        if frames := frames_of(stopped, options.answers):
            at = place(options.answers, frames[-1].name, frames[-1].lineno)
            print(f"step {steps[len(rows)]} was running, in {at}", file=sys.stderr)
        raise
    unfinished = [row["step"] for row in rows if row["status"] != RIGHT]
    told = {"steps": rows, "right": len(rows) - len(unfinished)}
    begin = f"; begin with {unfinished[0]}, as later steps call its functions" if len(unfinished) > 1 else ""
    print(json_text(told) if options.json else f"{told['right']} of {len(rows)} steps are right{begin}")
    return 1 if unfinished else 0


def grade(path: str, steps: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each step: status, message, and of a wrong one the function, array, entry, value, expected and mistake."""
    try:
        student, trouble = load(path), None
    except Found as found:
        student, trouble = {}, found
    for step in steps:
        row: dict[str, Any] = {"step": step, "status": RIGHT, "message": ""}
        row |= dict.fromkeys(("function", "line", "array", "entry", "value", "expected", "mistake"))
        try:
            if trouble:
                raise trouble
            for name in STEPS[step]:
                row["function"] = name
                judge(FUNCTIONS[name], student.get(name), path)
            row["function"] = None
        except Found as found:
            row |= found.told
        yield row


def load(path: str) -> dict[str, Any]:
    """The names that a file defines, which is run for it. Raises OSError, and Found for whatever else is wrong with it."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} does not exist; `minivae grade --stubs {path}` writes it, to begin with")
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a Python file in it")
    source, module, before = Path(path).read_bytes(), types.ModuleType("__answers__"), list(sys.path)
    if b"\0" in source:
        raise Found(f"{Path(path).name} holds null bytes, as UTF-16 (Notepad's Unicode) does; save it as UTF-8")
    module.__file__, sys.modules[module.__name__] = path, module  # there a dataclass, or pickle, looks for it
    sys.path.insert(0, str(Path(path).absolute().parent))  # as of a script: it may import what lies beside it
    try:
        attempt(path, "", lambda: exec(compile(source, path, "exec", dont_inherit=True), vars(module)))
    finally:
        sys.path[:] = before
    return vars(module)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What a student's code prints goes where progress goes; NaN and infinity are told by us."""
    with np.errstate(all="ignore"), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def place(path: str, name: str, line: int | None) -> str:
    at = Path(path).name + (f", line {line}" if line else "")
    return f"{name} ({at})" if name else at


def frames_of(error: BaseException, path: str) -> list[traceback.FrameSummary]:
    return [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]


def shown(make: Callable[..., Any]) -> Callable[..., Any]:
    """np.empty or np.empty_like, but full of what is known again"""
    return wraps(make)(lambda *args, **kw: np.full_like(a := make(*args, **kw), UNWRITTEN if a.dtype == float else 0))


def _home(value: Any) -> str:
    return str(getattr(value, "__module__", getattr(value, "__name__", "")))


def attempt(path: str, name: str, call: Callable[[], Any], line: int | None = None) -> Any:
    """call(), whose exceptions become Found, with the line of the file in which the error was met; name: a function's."""
    before = dict(vars(np))
    try:
        with quietly():
            # not while a file imports others; and Numba, if the file has it, compiles calls of NumPy's own functions alone
            names = vars(sys.modules["__answers__"]).values() if name else ()
            if name and not any(_home(value).startswith("numba") for value in names):
                vars(np).update({empty: shown(before[empty]) for empty in ("empty", "empty_like")})
            own, result = dict(vars(np)), call()
            if changed := [name for name, value in own.items() if vars(np).get(name) is not value]:
                raise ValueError(f"np.{changed[0]} = ... changes NumPy for all who use it; choose a name without np.")
            return result
    except (Exception, SystemExit) as error:
        frames = frames_of(error, path)
        line = frames[-1].lineno if frames else getattr(error, "lineno", line)
        if name and isinstance(error, NotImplementedError):
            inner = frames[-1].name if frames else name
            calls = f", which {name} calls," if inner != name else ""
            raise Found(f"{inner}{calls} is still a stub", STUB, line=line) from None
        said = " ".join(str(getattr(error, "msg", error)).split())[:200]
        text = f"{type(error).__name__}: {said}".removesuffix(": ")
        if name and not frames:
            text += f"; it is called as {name}({', '.join(inspect.signature(mistakes.wrong(name)).parameters)})"
        raise Found(f"{place(path, name, line)}: {text}", line=line) from None
    finally:
        vars(np).update(before)


def recording(calls: list[Any], g: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """g(...), whose arguments are written down by position."""
    bound = inspect.signature(g).bind(*args, **kwargs)
    bound.apply_defaults()
    calls.append(copy.deepcopy(bound.args))
    return g(*args, **kwargs)


def called(function: Function, f: Callable[..., Any], given: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
    """What f returns, or changes, as a list, and what explains it; the inputs cannot be written to."""
    count, mine = len(function.outputs.split()), copy.deepcopy(given)
    first = count if function.in_place else 0
    for argument in mine[first:]:
        if isinstance(argument, np.ndarray):
            argument.flags.writeable = False
    calls: dict[str, list[Any]] = {"loss_and_gradient": [], "adam": []}
    module = getattr(inspect.unwrap(f), "__globals__", {})
    others = {name: module[name] for name in calls if function.explained and callable(module.get(name))}
    try:
        module.update({name: partial(recording, calls[name], g) for name, g in others.items()})
        result = f(*mine)
    except ValueError as error:
        if "read-only" in str(error):  # of an input, or of another array?
            free = copy.deepcopy(given)
            with contextlib.suppress(Exception):
                f(*free)
            kept = [np.array_equal(was, now) for was, now in zip(given, free) if isinstance(was, np.ndarray)]
            error.args = error.args if all(kept[first:]) else (READ_ONLY,)
        raise
    finally:
        module.update(others)
    several = count > 1 and isinstance(result, (tuple, list))
    outputs = mine[:count] if function.in_place else result if several else [result]
    outputs = [np.array(output) if isinstance(output, np.ndarray) else output for output in outputs]
    return outputs, function.explained(given[0], calls) if function.explained else {}


def truth(function: Function, given: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
    if function.truth is None:
        return called(function, mistakes.wrong(function.name), given)
    return function.truth(*copy.deepcopy(given)), {}


def judge(function: Function, student: Any, path: str) -> None:
    """Raises Found where a call gives a number that is not the book's, or no such numbers at all."""
    names, cases = function.outputs.split(), function.cases(np.random.default_rng(0))
    if student is None:
        raise Found(f"there is no function {function.name} yet", STUB)
    if not callable(student):
        raise Found(f"{function.name} is of the type {type(student).__name__}, and should be a function")
    line = getattr(getattr(inspect.unwrap(student), "__code__", None), "co_firstlineno", None)
    head = place(path, function.name, line)
    for number, given in enumerate(cases, 1):
        once = partial(attempt, path, function.name, partial(called, function, student, given), line)
        mine, seen = once()
        if len(mine) != len(names) or (len(mine) == 1 and mine[0] is None):
            what = "nothing" if mine and mine[0] is None else f"{len(mine)} thing{'s' * (len(mine) != 1)}"
            raise Found(f"{head} returns {what}, and should return {', '.join(names)}", line=line)
        right, known = truth(function, given)
        for name, value, true in zip(names, mine, right):
            if trouble := no_array(value, true):
                raise Found(f"{head}: {name} is {trouble}", line=line, array=name)
        for name, value, more, true in zip(names, mine, once()[0], right):
            if not agree(more, value, function.tolerance):
                alike = not no_array(more, true) and np.shape(more) == np.shape(value) == np.shape(true)
                added = alike and np.all(np.isclose(more, value) | np.isclose(more - value, true))
                text = f"{head}: {name} is another at a second call"
                raise Found(text, line=line, array=name, mistake=ADDS if added else UNSTEADY)
        with quietly():
            found, wanted = function.named(mine, right), function.named(right, right)
        if not agree(mine[0], right[0], function.tolerance):
            found, wanted = seen | found, {name: known[name] for name in seen} | wanted
        for name, true in wanted.items():
            value, good = found[name], entries(found[name], true, function.tolerance)
            if not np.all(good):
                empty = np.any(np.asarray(value)[good == 0].view(np.uint64) == UNWRITTEN.view(np.uint64))
                mistake = EMPTY if empty else recognised(function, cases[:number], name, found, wanted)
                raise Found(**difference(head, name, value, true, good), line=line, mistake=mistake)


def no_array(value: Any, true: Any) -> str:
    """What is wrong with the kind of a value; nothing if it is an array of float64 or, where that is asked for, a number."""
    wanted = "a NumPy array of float64" if np.ndim(true) else "a number"
    if not isinstance(value, (np.ndarray, np.generic, float, int)):
        return f"{'None' if value is None else f'of the type {type(value).__name__}'}, and should be {wanted}"
    kind = np.asarray(value).dtype
    return "" if kind == np.float64 else f"of dtype {kind}, and should be float64, as the inputs are"


def entries(value: Any, true: Any, tolerance: float) -> Any:
    """Which are equal; False if the shapes are not."""
    least = 1e-9 * np.max(np.abs(np.nan_to_num(true)))  # counts as 0 in such an array
    return np.shape(value) == np.shape(true) and np.isclose(value, true, rtol=tolerance, atol=least, equal_nan=True)


def agree(value: Any, true: Any, tolerance: float) -> bool:
    return bool(np.all(entries(value, true, tolerance)))


def difference(head: str, name: str, value: Any, true: Any, good: Any) -> dict[str, Any]:
    """The first entry that is wrong, and by how much, or the shape."""
    if np.shape(value) != np.shape(true):
        text = f"{head}: {name} has the shape {np.shape(value)}, and should have {np.shape(true)}"
        return {"text": text, "array": name}
    entry = tuple(map(int, np.argwhere(~good)[0]))
    mine, expected = (float(np.asarray(a)[entry]) for a in (value, true))
    text = f"{head}: {name}{list(entry) if entry else ''} is {mine:.6g}, and should be near {expected:.6g}"
    text += f", off by {mine - expected:+.2g}" if np.isfinite(mine) else ""
    if np.ndim(true):
        text += f"; {np.sum(~good)} of {good.size} entries are wrong"
        factor = mine / expected if expected else np.nan
        if good.size > 1 and np.isfinite(factor) and agree(value, factor * true, 1e-7):
            text += f", and all are {factor:.6g} times the right ones"
    return {"text": text, "array": name, "entry": list(entry), "value": mine, "expected": expected}


def recognised(function: Function, cases: list[Any], array: str, mine: Any, right: dict[str, Any]) -> str | None:
    """The mistake that gives these numbers in the last case, up to the array that is wrong; of several, the longest so.

    It must be none where the student is right: neither in the cases before, nor in another array.
    """

    best, most = None, list(mine).index(array)
    for mistake, *edits in mistakes.MISTAKES[function.name]:
        wrong, close = mistakes.wrong(function.name, *edits), partial(agree, tolerance=function.tolerance)
        with quietly(), contextlib.suppress(ValueError):  # of math.lgamma(0)
            before = [(called(function, wrong, given)[0], truth(function, given)[0]) for given in cases[:-1]]
            outputs, seen = called(function, wrong, cases[-1])
            theirs = seen | function.named(outputs, truth(function, cases[-1])[0])
            same = [close(theirs.get(name, np.nan), value) for name, value in mine.items()]
            count = [*same, False].index(False)
            contradicted = any(close(mine[name], right[name]) for name, s in zip(mine, same) if not s)
            if count > most and not contradicted and all(close(a, b) for pair in before for a, b in zip(*pair)):
                most, best = count, mistake
    return best
