"""`minivae inspect`: the next training step on a few rows, call by call, and what a changed weight does to all of it."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

from minivae.app.runs import open_run, pick
from minivae.data.checks import require_count
from minivae.data.files import DataError
from minivae.storage.folders import CHECKPOINT
from minivae.storage.modelfile import json_text
from minivae.watching import Step, book

WIDE = 1e-6  # of a gradient that is right the error stays far below; a kink of ReLU may reach it


def inspect(options: argparse.Namespace) -> int:
    require_count("n", options.n)
    run = open_run(options.model)
    part = pick(run, run.dataset(options.data), options.split, own=options.data is None).first(options.n)
    vae, path = run.vae, Path(options.model)
    if path.is_dir() and (kept := run.training()):
        vae, path = kept, path / CHECKPOINT
    step = Step(vae, part.data, part.told, part.rows)
    change = dict(map(_setting, [step] * len(options.set), options.set))
    loss, seen, moved = step.look()
    other, changed, moved_then = step.look(change, check=False) if change else (loss, seen, moved)
    rows = [one.told for one in seen]
    for row, one, then in zip(rows, seen, changed, strict=True):
        row["moved"] = one.moved(then) if change else None
    settings = {name: step.variables[name] for name in ("beta", "capacity", "learning_rate")}
    told: dict[str, Any] = {"model": str(path), "step": step.variables["step"], "loss": loss, **settings}
    told |= {"rows": len(part.rows), "calls": rows, "parameters": [asdict(one) for one in moved_then]}
    told |= {"changed": options.set, "loss_then": other} if change else {}
    if options.json:
        print(json_text(told))
        return 0
    schedules = ", ".join(f"{n} {v:g}" for n, v in settings.items() if n != "capacity" or step.objective.capacity)
    print(f"step {told['step']:,} of {path} on {len(part.rows):,} rows, in float64: {schedules}")
    if step.fresh:
        print("this file holds no moments of the optimizer: they begin at 0")
    last = "error" if not change else "moved"
    print(f"\n  {'':3} {'array':16} {'shape':>12} {'mean':>10} {'spread':>10} {'norm':>10} {'zeros':>6} {last:>8}")
    for number, group in groupby(zip(rows, seen, strict=True), lambda pair: pair[0]["number"]):
        pairs = [*group]
        print(f"  {number:3} {pairs[0][1].call}   {book(pairs[0][1].call)}")
        for row, _ in pairs:
            shape, mark = " x ".join(map(str, row["shape"])), "" if row[last] is None else f"{row[last]:.1e}"
            numbers = "".join(f" {row[name]:10.4g}" for name in ("mean", "spread", "norm"))
            mark += "  <- WRONG" * (last == "error" and (row["error"] or 0) > WIDE)
            print(f"      {row['array']:16} {shape:>12}{numbers} {row['zeros']:6.0%} {mark:>8}".rstrip())
    print(f"  {len(step.program):3} {step.program[-1]}   {book(step.program[-1])}")
    print(f"      {'parameter':16} {'norm':>10} {'gradient':>10} {'change':>10}    of the norm")
    for p in moved_then:
        share = f"{p.change / p.norm:10.1e}" if p.norm else " " * 10
        print(f"      {p.parameter:16} {p.norm:10.4g} {p.gradient:10.4g} {p.change:10.4g} {share}")
    after = f" -> {other:.6f} with {' '.join(options.set)}" if abs(other) < 1e9 else f" -> {other:g}"
    print(f"\nloss {loss:.6f} nats per example{after if change else ''}")
    return 0


def _setting(step: Step, text: str) -> tuple[tuple[str, tuple[int, ...]], float]:
    entry, equals, value = text.partition("=")
    try:
        if equals and math.isfinite(float(value)):
            return step.entry(entry), float(value)
    except ValueError as error:
        if "float" not in str(error):
            raise
    raise DataError(f"--set {text} is no setting; write one as 'decoder.0.W[1, 7]=0.5'")
