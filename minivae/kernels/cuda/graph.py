"""A program recorded once as a CUDA graph and replayed: one launch for a step, or for many.

What changes from step to step lies in device memory. Before a run the host computes it for all steps at once and copies
three tables: real numbers, whole numbers, and the rows of each batch. Each step begins with `advance`, which makes the
next row of each table the current one, so that the host neither waits for a step nor tells it anything. Losses collect in
the trace on the device. Once a loss is no number, the steps that are still to come repeat that step without an update,
and its arrays are there to be looked at. A program must not read what it has itself consumed: it runs once in rehearsal.

MINIVAE_CUDA_GRAPH=0 runs the program call by call, which is the definition.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from minivae.kernels import Call, CallByCall, Var
from minivae.kernels.cuda import launches as launch
from minivae.kernels.cuda import library
from minivae.progress import say

STEPS_PER_GRAPH = 16  # recorded into one graph, beside a graph of one step: gaps between launches are paid once for all
TABLE_BYTES = 2**22  # of rows that are copied at a time
RUN, REHEARSAL = 0, 2  # of state[STOP]; kernels.cu has the others
STOP, BEGUN = 0, 1


class RecordedProgram(CallByCall):
    """A program tied to arrays, as graphs. Falls back to call by call where nothing can be recorded."""

    def __init__(self, kernels: ModuleType, program: Sequence[Call], arrays: Mapping[str, Any]) -> None:
        super().__init__(kernels, program, arrays)
        self.program = launch.fused(program)
        self.why_not = "MINIVAE_CUDA_GRAPH=0" if os.environ.get("MINIVAE_CUDA_GRAPH") == "0" else ""
        self.graphs: dict[tuple[int, bool], Any] = {}
        self.runs = 0

    def __call__(self, **variables: Any) -> None:
        self.runs += 1
        if self.runs == 1 or not self.recorded(1, with_rows=False):  # what runs only once is not worth recording
            return super().__call__(**variables)
        self._replay(None, {name: np.array([value]) for name, value in variables.items()}, 1)

    def steps(self, rows: Any, **variables: Any) -> int:
        sizes = (1, STEPS_PER_GRAPH) if len(rows) >= STEPS_PER_GRAPH else (1,)
        if not all(self.recorded(size, with_rows=True) for size in sizes):
            return super().steps(rows, **variables)
        ran = 0
        while ran < len(rows):
            count = min(self.capacity, len(rows) - ran)
            part = {name: np.asarray(values)[ran : ran + count] for name, values in variables.items()}
            begun, stopped = self._replay(rows[ran : ran + count], part, count)
            ran += begun
            if stopped:
                break
        return ran

    # ---- Recording

    def recorded(self, count: int, with_rows: bool) -> bool:
        """Whether there is a graph of so many steps, which is recorded now if it has not been tried."""
        if not self.why_not and (count, with_rows) not in self.graphs:
            try:
                if not self.graphs:
                    self._prepare()
                self.graphs[count, with_rows] = self._record(count, with_rows)
            except Exception as error:  # CuPy, the driver and cuBLAS each have errors of their own
                self.why_not = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                say(f"minivae: this program runs call by call, as no graph was recorded: {self.why_not}")
        return not self.why_not

    def _prepare(self) -> None:
        """Tables and addresses on the device, and one rehearsal, so that all that is loaded on first use is loaded."""
        cupy = library()
        self.cupy, self.stream = cupy, cupy.cuda.Stream(non_blocking=True)
        dtypes = [
            self.arrays[name].dtype for call in self.program for name in call.arrays if name not in (None, "trace")
        ]
        self.launcher = launch.Launcher(cupy, next(dtype for dtype in dtypes if dtype.kind == "f"))
        rows = {n: row for call in self.program for n, row in zip(call.arrays, launch.ROWS[call.kernel].arrays)}
        self.read = {n: launch.readable(cupy, row, self.arrays[n]) for n, row in rows.items() if n is not None}
        if any(self.read[n] is not self.arrays[n] for n in self.read if n != "data"):
            raise ValueError("an array of the program is not a run of rows in memory")
        if "u" in self.arrays and not any("u" in call.arrays for call in self.program):
            self.arrays["u"][...] = 0  # nobody writes it any more: what lay there must not be taken for a NaN of ours
        self.batch = self.arrays["rows"].size if "rows" in self.arrays else 0
        self.capacity = max(STEPS_PER_GRAPH, min(1024, TABLE_BYTES // max(1, 8 * self.batch)))
        wide = [launch.scalars(call.kernel, *self._values(call, None)) for call in self.program]
        self.places, counts = [], [0, 0]
        for numbers in wide:
            self.places.append(tuple(counts))
            counts = [count + len(part) for count, part in zip(counts, numbers)]
        dtype = self.launcher.dtype
        self.s, self.n = cupy.zeros(max(1, counts[0]), dtype), cupy.zeros(max(1, counts[1]), np.int64)
        self.all_s = cupy.zeros((self.capacity, self.s.size), dtype)
        self.all_n = cupy.zeros((self.capacity, self.n.size), np.int64)
        self.all_rows = cupy.zeros((self.capacity, max(1, self.batch)), np.int64)
        self.state = cupy.zeros(2, np.int64)
        self.launcher.stop = int(self.state.data.ptr)
        self._before()
        with self.stream:
            self.state[...] = cupy.asarray(np.array([REHEARSAL, 0]))
            kept = self.arrays["rows"].copy() if self.batch else None
            try:
                if self.batch:
                    self.arrays["rows"][...] = 0  # they may hold anything yet
                self._advance(True)
                self._launch()
            finally:
                if self.batch:
                    self.arrays["rows"][...] = kept  # or what somebody has put there already
                self.stream.synchronize()

    def _record(self, count: int, with_rows: bool) -> Any:
        with self.stream:
            self.stream.begin_capture()
            try:
                for _ in range(count):
                    self._advance(with_rows)
                    self._launch()
            finally:
                graph = self.stream.end_capture()
        return graph

    def _advance(self, with_rows: bool) -> None:
        rows = self.arrays["rows"] if self.batch else self.all_rows
        current = {"s": self.s, "n": self.n, "rows": rows, "state": self.state}
        tables = {"all_s": self.all_s, "all_n": self.all_n, "all_rows": self.all_rows}
        sizes = {"count_s": self.s.size, "count_n": self.n.size, "count_rows": self.batch if with_rows else 0}
        self.launcher("advance", 1, **current, **tables, **sizes)

    def _launch(self) -> None:
        """The program once, on the current stream."""
        L = self.launcher
        L.begin()
        for call, (s, n) in zip(self.program, self.places):
            L.s = int(self.s.data.ptr) + s * self.s.itemsize
            L.n = int(self.n.data.ptr) + n * self.n.itemsize
            arrays = [None if name is None else self.read[name] for name in call.arrays]
            launch.launch(L, call.kernel, arrays, call.scalars)

    # ---- Replaying

    def _values(self, call: Call, variables: Mapping[str, Any] | None) -> list[Any]:
        """The call's scalars with every variable looked up; without variables, ones in their places."""
        return [(variables[s.name] if variables else 1) if isinstance(s, Var) else s for s in call.scalars]

    def _replay(self, rows: Any, variables: Mapping[str, Any], count: int) -> tuple[int, bool]:
        """Run the program so many times; how often it ran, and whether a loss stopped it."""
        library()  # or a child of a fork would find out by an error of the driver
        s, n = np.zeros((count, self.s.size), self.launcher.dtype), np.zeros((count, self.n.size), np.int64)
        for call, (s0, n0) in zip(self.program, self.places):
            for table, first, numbers in zip(
                (s, n), (s0, n0), launch.scalars(call.kernel, *self._values(call, variables))
            ):
                for k, number in enumerate(numbers):
                    table[:, first + k] = number
        self._before()
        with self.stream:
            self.state[...] = 0
            self.all_s[:count].set(s)
            self.all_n[:count].set(n)
            batches = None if rows is None else np.ascontiguousarray(rows, np.int64)
            if batches is not None:
                self.all_rows[:count].set(batches)
            whole = count // STEPS_PER_GRAPH if batches is not None else 0
            try:
                for _ in range(whole):
                    self.graphs[STEPS_PER_GRAPH, True].launch(self.stream)
                for _ in range(count - whole * STEPS_PER_GRAPH):
                    self.graphs[1, batches is not None].launch(self.stream)
                state = self.state.get(stream=self.stream)
            finally:  # whoever interrupts us finds a stream at rest
                self.stream.synchronize()
        return int(state[BEGUN]), state[STOP] != RUN

    def _before(self) -> None:
        """What was asked for on the caller's stream is done first: ours does not wait for it by itself."""
        self.cupy.cuda.get_current_stream().synchronize()
