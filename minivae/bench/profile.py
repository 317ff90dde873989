"""Where the time of a compiled step goes: every call of the program, as its threads' own clocks saw it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from minivae.bench.configs import Config
from minivae.bench.contenders import Ours

Row = dict[str, Any]
PURPOSES = ("forward", "gradient", "update")  # of a dense_backward: dy and dx, then dW and db, then their parameters


class Profile(Ours):
    """The numba backend's step, taken apart. run(n) gives the seconds of a step, and of each of its parts, over n steps."""

    def __init__(self, config: Config) -> None:
        super().__init__("numba", config)
        self.batch = config.batch

    def run(self, n: int) -> Row:
        self.reset()
        self.block()
        program: Any = self.work.bound(self.batch)[0]
        program.tables.measure()
        begun, blocks = time.perf_counter(), -(-n // self.steps)
        for _ in range(blocks):
            self.block()
        seconds = (time.perf_counter() - begun) / (blocks * self.steps)
        shares = program.tables.shares().mean(axis=0)  # of the threads, which share the work evenly or else wait
        parts = []
        for c, call in enumerate(self.work.program):
            for p, purpose in enumerate(PURPOSES):
                if shares[3 * c + p] > 0:
                    name = next(a for a in (*call.arrays, "") if a is not None)
                    part = {
                        "kernel": call.kernel,
                        "array": name,
                        "purpose": purpose,
                        "seconds": seconds * shares[3 * c + p],
                    }
                    parts.append(part | {"flops": self.flops(call, purpose)})
        threads = program.tables.threads
        return {"seconds": seconds, "threads": threads, "parts": parts, "waiting": seconds * float(shares[-1])}

    def flops(self, call: Any, purpose: str) -> float:
        """Of the products in this part, of one step."""
        if call.kernel == "dense_forward" and purpose == "forward":
            return 2.0 * self.batch * float(np.prod(self.work.arrays[call.arrays[3]].shape))
        if call.kernel == "dense_backward" and (purpose == "gradient" or (purpose == "forward" and call.arrays[0])):
            return 2.0 * self.batch * float(np.prod(self.work.arrays[call.arrays[7]].shape))
        return 0.0


def text(rows: list[Row]) -> str:
    """A table for each configuration: microseconds, share, and for products GFLOP/s of all threads together."""
    lines: list[str] = []
    for row in rows:
        if row["status"] != "timed":
            lines += [f"profile, {row['config']}  {row['status']}: {row['note']}"]
            continue
        total, products = row["seconds"], [p for p in row["parts"] if p["flops"]]
        lines.append(f"{'profile, ' + row['config']:54}{'us':>9}{'share':>8}{'GFLOP/s':>9}")
        waiting = {"kernel": "waiting", "array": "", "purpose": "", "seconds": row["waiting"], "flops": 0}
        for part in [*row["parts"], waiting]:
            rate = f"{1e-9 * part['flops'] / part['seconds']:9.0f}" if part["flops"] else ""
            name = f"  {part['kernel']:18} {part['array']:20} {part['purpose']:10}"
            lines.append(f"{name:54}{1e6 * part['seconds']:9.1f}{part['seconds'] / total:8.1%}{rate}")
        spent, flops = sum(p["seconds"] for p in products), sum(p["flops"] for p in products)
        name = f"  whole step, {row['threads']} thread{'s' if row['threads'] > 1 else ''}; parts with a product:"
        lines += [f"{name:54}{1e6 * total:9.1f}{spent / total:8.1%}{1e-9 * flops / spent:9.0f}", ""]
    return "\n".join(lines).strip("\n")
