"""`minivae grade answers.py`: a student's functions are run, and the first number of each step that is wrong is told.

The inputs are read-only, so that a line that overwrites one is found where it stands. Every function is called twice: noise
that it draws for itself, and what it adds to the call before, show as other numbers.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
import os
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
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


class Found(Exception):
    """What is not right with a function, in a sentence, and what else JSON has of it."""

    def __init__(self, text: str, status: str = WRONG, **told: Any) -> None:
        super().__init__(text)
        self.told = {"status": status, "message": text, **told}


def run(options: argparse.Namespace) -> int:
    if options.stubs:
        try:
            with open(place_of(options.answers), "x", encoding="utf-8") as file:
                file.write(mistakes.text("stubs.txt"))
        except FileExistsError:
            raise FileExistsError(f"{options.answers} exists, and stays as it is; choose another name") from None
        print(json_text({"wrote": options.answers}) if options.json else f"wrote {options.answers}")
        return 0
    rows = grade(options.answers, [options.step] if options.step else list(STEPS))
    unfinished = [row["step"] for row in rows if row["status"] != RIGHT]
    right = len(rows) - len(unfinished)
    if options.json:
        print(json_text({"steps": rows, "right": right}))
        return 1 if unfinished else 0
    for row in rows:
        print(f"{row['step']:14} {row['status']:13} {row['message']}".rstrip())
        if row["mistake"]:
            print(f"{'':28} It smells of this: {row['mistake']}.")
    begin = f"; begin with {unfinished[0]}, as later steps call its functions" if len(unfinished) > 1 else ""
    print(f"{right} of {len(rows)} steps are right{begin}")
    return 1 if unfinished else 0


def grade(path: str, steps: list[str]) -> list[dict[str, Any]]:
    """A row for each step: status, message, and of a wrong one the function, array, entry, value, expected and mistake."""
    try:
        student, trouble = load(path), None
    except Found as found:
        student, trouble = {}, found
    rows = []
    for step in steps:
        row: dict[str, Any] = {"step": step, "status": RIGHT, "message": ""}
        row |= dict.fromkeys(("function", "line", "array", "entry", "value", "expected", "mistake"))
        try:
            if trouble:
                raise trouble
            for name in STEPS[step]:
                row["function"] = name
                judge(FUNCTIONS[name], find(name, student), path)
            row["function"] = None
        except Found as found:
            row |= found.told
        rows.append(row)
    return rows


def load(path: str) -> dict[str, Any]:
    """The names that a file defines, which is run for it. Raises OSError, and Found for whatever else is wrong with it."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist; `minivae grade --stubs {path}` writes it, to begin with")
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder; name a Python file in it")
    source, module, before = Path(path).read_bytes(), types.ModuleType("answers"), list(sys.path)
    module.__file__ = path
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))  # as of a script: it may import what lies beside it
    try:
        attempt(path, "", lambda: exec(compile(source, path, "exec"), vars(module)))
    finally:
        sys.path[:] = before
    return vars(module)


def find(name: str, student: dict[str, Any]) -> Callable[..., Any]:
    if name not in student:
        raise Found(f"there is no function {name} yet", STUB)
    if not callable(student[name]):
        raise Found(f"{name} is of the type {type(student[name]).__name__}, and should be a function")
    return student[name]  # type: ignore[no-any-return]


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What a student's code prints goes where progress goes; NaN and infinity are told by us."""
    with np.errstate(all="ignore"), warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


def place(path: str, name: str, line: int | None) -> str:
    at = os.path.basename(path) + (f", line {line}" if line else "")
    return f"{name} ({at})" if name else at


def attempt(path: str, name: str, call: Callable[[], Any], line: int | None = None) -> Any:
    """call(), whose exceptions become Found, with the line of the file in which the error was met; name: a function's."""
    try:
        with quietly():
            return call()
    except (Exception, SystemExit) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
        line = frames[-1].lineno if frames else getattr(error, "lineno", line)
        if name and isinstance(error, NotImplementedError):
            inner = frames[-1].name if frames else name
            calls = f", which {name} calls," if inner != name else ""
            raise Found(f"{inner}{calls} is still a stub", STUB, line=line) from None
        text = ": ".join(
            filter(None, (type(error).__name__, " ".join(str(getattr(error, "msg", error)).split())[:200]))
        )
        if "read-only" in text:
            text = "an input is overwritten here; write the result to an array of its own, as in y = 2 * x"
        elif name and not frames:
            text += f"; it is called as {name}({', '.join(inspect.signature(mistakes.wrong(name)).parameters)})"
        raise Found(f"{place(path, name, line)}: {text}", line=line) from None


def called(function: Function, f: Callable[..., Any], given: tuple[Any, ...]) -> list[Any]:
    """What f returns, or changes, as a list; the inputs cannot be written to."""
    count, given = len(function.outputs.split()), copy.deepcopy(given)
    for argument in given[count if function.in_place else 0 :]:
        if isinstance(argument, np.ndarray):
            argument.flags.writeable = False
    result = f(*given)
    several = count > 1 and isinstance(result, (tuple, list))
    outputs = given[:count] if function.in_place else result if several else [result]
    return [np.array(output) if isinstance(output, np.ndarray) else output for output in outputs]


def judge(function: Function, student: Callable[..., Any], path: str) -> None:
    """Raises Found where a call gives a number that is not the book's, or no such numbers at all."""
    names, tolerance = function.outputs.split(), function.tolerance
    line = getattr(getattr(inspect.unwrap(student), "__code__", None), "co_firstlineno", None)
    head = place(path, function.name, line)
    for given in function.cases(np.random.default_rng(0)):
        once = partial(attempt, path, function.name, partial(called, function, student, given), line)
        mine = once()
        if len(mine) != len(names) or (len(mine) == 1 and mine[0] is None):
            what = "nothing" if mine and mine[0] is None else f"{len(mine)} thing{'s' * (len(mine) != 1)}"
            raise Found(f"{head} returns {what}, and should return {', '.join(names)}", line=line)
        right = function.truth(*copy.deepcopy(given))
        for name, value, true in zip(names, mine, right):
            if trouble := no_array(value, true):
                raise Found(f"{head}: {name} is {trouble}", line=line, array=name)
        for name, value, true in zip(names, mine, right):
            if np.shape(value) != np.shape(true):
                mistake = recognised(function, given, name, dict(zip(names, mine)), whole=True)
                shapes = f"{np.shape(value)}, and should have {np.shape(true)}"
                raise Found(f"{head}: {name} has the shape {shapes}", line=line, array=name, mistake=mistake)
        for name, value, more, true in zip(names, mine, [] if function.random else once(), right):
            if not close(more, value, tolerance):
                alike = not no_array(more, true) and np.shape(more) == np.shape(value)
                added = alike and np.all(np.isclose(more, value) | np.isclose(more - value, true))
                mistake = ADDS if added else UNSTEADY
                raise Found(f"{head}: {name} is another at a second call", line=line, array=name, mistake=mistake)
        with quietly():
            found, wanted = function.named(mine), function.named(right)
        for name, true in wanted.items():
            good = np.isclose(found[name], true, rtol=tolerance, atol=least(true))
            if not good.all():
                mistake = recognised(function, given, name, found)
                raise Found(**difference(head, name, found[name], true, good), line=line, mistake=mistake)


def no_array(value: Any, true: Any) -> str:
    """What is wrong with the kind of a value; nothing if it is an array of float64 or, where that is asked for, a number."""
    wanted = "a NumPy array of float64" if np.ndim(true) else "a number"
    if not isinstance(value, (np.ndarray, np.generic, float, int)):
        return f"{'None' if value is None else f'of the type {type(value).__name__}'}, and should be {wanted}"
    kind = np.asarray(value).dtype
    return "" if kind == np.float64 else f"of dtype {kind}, and should be float64, as the inputs are"


def least(true: Any) -> float:
    """What counts as 0 in such an array."""
    return 1e-9 * float(np.max(np.abs(true)))


def close(value: Any, true: Any, tolerance: float) -> bool:
    if np.shape(value) != np.shape(true):
        return False
    return np.allclose(value, true, rtol=tolerance, atol=least(np.nan_to_num(true)), equal_nan=True)


def difference(head: str, name: str, value: Any, true: Any, good: Any) -> dict[str, Any]:
    """The first entry that is wrong, and by how much."""
    entry = tuple(map(int, np.argwhere(~good)[0]))
    mine, expected = (float(np.asarray(a)[entry]) for a in (value, true))
    text = f"{head}: {name}{list(entry) if entry else ''} is {mine:.6g}, and should be near {expected:.6g}"
    if np.isfinite(mine):
        text += f", off by {mine - expected:+.2g}"
    if np.ndim(true):
        text += f"; {np.sum(~good)} of {good.size} entries are wrong"
        factor = mine / expected if expected else np.nan
        if good.size > 1 and np.isfinite(factor) and close(value, factor * true, 1e-7):
            text += f", and all are {factor:.6g} times the right ones"
    return {"text": text, "array": name, "entry": list(entry), "value": mine, "expected": expected}


def recognised(
    function: Function, given: tuple[Any, ...], array: str, mine: dict[str, Any], whole: bool = False
) -> str | None:
    """The mistake that gives these numbers up to the array that is wrong; of several, that which does so the longest."""
    most, best = list(mine).index(array), None
    for mistake, *edits in mistakes.MISTAKES.get(function.name, ()):
        with quietly():
            outputs = called(function, mistakes.wrong(function.name, *edits), given)
            try:
                theirs = dict(zip(function.outputs.split(), outputs)) if whole else function.named(outputs)
            except ValueError:  # of another shape
                continue
        alike = [close(theirs.get(name), value, function.tolerance) for name, value in mine.items()]
        count = [*alike, False].index(False)
        if count > most:
            most, best = count, mistake
    return best
