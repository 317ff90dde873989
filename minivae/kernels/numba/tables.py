"""Instructions as tables of numbers, and the call that runs them: what encode.py decides, as interpreter.py reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from minivae.kernels import Call, Var
from minivae.kernels.numba import interpreter
from minivae.kernels.numba.encode import Instruction, Lowering, blocks, set_phases
from minivae.kernels.numba.gemm import SCRATCH
from minivae.kernels.numba.threads import STATE_SIZE, STOP, system_functions
from minivae.kernels.table import is_whole


class Tables:
    """A program as numbers. It holds the arrays whose addresses stand in it.

    batches: operands that are the rows of the batch, of which each step has its own. variables: where in `template`, the
    scalars of one step, those are that change from step to step, with their names.
    """

    def __init__(self, program: Sequence[Call], arrays: Mapping[str, Any], threads: int) -> None:
        lowering = Lowering(program, arrays, threads)
        self.threads, self.calls, self.instructions = threads, len(program), lowering.found
        set_phases(self.instructions)
        self.dtype = next(a.dtype for i in self.instructions for row, a in zip(i.row.arrays, i.arrays) if not row.dtype)
        self.template, self.variables = list[float | int](), list[tuple[int, Var]]()
        self._slots = dict[Any, int]()
        operands, self.batches, first_operand = list[tuple[int, ...]](), list[int](), list[int]()
        for i in self.instructions:
            first_operand.append(len(operands))
            for array in i.arrays:
                if array is arrays.get("rows"):
                    self.batches.append(len(operands))
                operands.append(operand(array))
        self.operands = np.array([(*o, 0) for o in operands], interpreter.OPERAND)
        self.phases, self.blocks, items = self._phases()
        self.items = np.zeros(len(items), interpreter.ITEM)
        self.functions = []
        for n, (i, *piece) in enumerate(items):
            self.functions.append(interpreter.instruction(i.function, self.dtype.name, i.data_type))
            place = self.operands.ctypes.data + interpreter.OPERAND.itemsize * first_operand[self.instructions.index(i)]
            self.items[n] = (self.functions[-1].address, place, self._slot(i), *piece, 3 * i.call + i.purpose)
        # the scalars of one step, as they lie in memory: a seed may need all 64 bits of a whole number
        bits = [(np.float64 if isinstance(v, float) else np.uint64)(v).view(np.int64) for v in self.template]
        self.numbers = np.array(bits, np.int64)
        self.state = np.zeros(STATE_SIZE, np.int64)
        self.scratch, self.handles = np.zeros((threads, SCRATCH), self.dtype), np.zeros(threads, np.int64)
        self.spent, self.arguments = np.zeros((threads, 0), np.int64), np.zeros(threads, interpreter.ARGUMENT)
        self.plan, (self.enter, self.run) = np.zeros(1, interpreter.PLAN), interpreter.entry_points()
        self.plan_address = self.plan.ctypes.data
        self.arguments["plan"], self.arguments["thread"] = self.plan_address, np.arange(threads)
        held = ("phases", "blocks", "items", "state", "scratch", "handles", "arguments")
        self.fixed = {name: getattr(self, name).ctypes.data for name in held} | {"enter": self.enter.address}
        self.fixed |= {f"{name[:-1]}_count": len(getattr(self, name)) for name in ("phases", "blocks", "items")}
        self.fixed |= {"scratch_bytes": self.scratch[0].nbytes, "threads": threads}

    def _phases(self) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        """Phases, their blocks one after the other, and the items of these."""
        stops, found, items = list[int](), list[tuple[int, int]](), list[Any]()
        for phase in sorted({i.phase for i in self.instructions}):
            for block in blocks([i for i in self.instructions if i.phase == phase]):
                found.append((len(items), len(items) + len(block)))
                items += block
            stops.append(len(found))
        return np.array(stops, interpreter.PHASE), np.array(found, interpreter.BLOCK), items

    def _slot(self, i: Instruction) -> int:
        """Where the scalars of an instruction stand in the template; equal ones stand there once."""
        key = tuple((name, type(given), given) for name, given in zip(i.row.scalars, i.scalars))
        if key not in self._slots:
            self._slots[key] = len(self.template)
            for name, given in zip(i.row.scalars, i.scalars):
                if isinstance(given, Var):
                    self.variables.append((len(self.template), given))
                    given = 0
                self.template.append(int(given) if is_whole(name) else float(given))
        return self._slots[key]

    def steps(self, count: int, rows: Any, variables: Mapping[str, Any], stop_at_nan: bool) -> int:
        """Run so many steps on rows [count, B]; how many ran. All threads have ended when it returns."""
        numbers = np.repeat(self.numbers[None], count, axis=0)
        for k, variable in self.variables:
            table = numbers.view(np.float64) if isinstance(self.template[k], float) else numbers
            table[:, k] = variables[variable.name]
        if rows is not None:
            self.operands["address"][self.batches] = rows.ctypes.data
            self.operands["step_bytes"][self.batches] = rows.strides[0]
        start, join, give_way, close = system_functions()
        self.state[...] = 0
        plan = self.fixed | {"steps": count, "stop_at_nan": stop_at_nan, "spent": self.spent.ctypes.data}
        plan |= {"spent_size": self.spent.shape[1], "start": start, "join": join, "give_way": give_way, "close": close}
        plan |= {"numbers": numbers.ctypes.data, "numbers_size": numbers.shape[1]}
        self.plan[0] = tuple(plan[name] for name in interpreter.PLAN.names)
        self.run.ctypes(self.plan_address)
        return int(self.state[STOP]) or count

    def measure(self) -> None:
        """From now on, count where the time of each thread goes."""
        self.spent = np.zeros((self.threads, 3 * self.calls + 2), np.int64)

    def shares(self) -> np.ndarray:
        """[threads, 3 calls + 1], each row of sum 1: a call's own work, its gradient, its update; at the end, waiting."""
        ticks = self.spent[:, :-1]
        return np.asarray(ticks / np.maximum(1, ticks.sum(axis=1, keepdims=True)))


def operand(array: Any) -> tuple[int, ...]:
    """An array by its address, sizes, and bytes from row to row and from column to column; a vector has one column."""
    if array is None:
        return 0, 0, 0, 0, 0
    rows, columns = array.shape if array.ndim == 2 else (len(array), 1)
    return array.ctypes.data, rows, columns, array.strides[0], array.strides[-1]
