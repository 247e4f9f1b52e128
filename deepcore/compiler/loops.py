"""Control flow in programs on the CPU: a program for each body, run with other addresses each time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler import cpu
from deepcore.compiler.build import optimized, owned
from deepcore.compiler.control import Body
from deepcore.compiler.ir import Record
from deepcore.compiler.runner import run_all
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.runtime.executable import Buffer, Executable, Launch, Ref, Step, plan_memory, view_at


def lower(record: Record, target: cpu.Target) -> Step:
    """Control flow as one step of a program."""
    kinds: dict[str, Any] = {"scan": Scan, "cond": Cond, "while": While}
    call = kinds[record.name](record, [BodyProgram(body, target) for body in record.bodies])
    return Step(record.name, record.ins, record.outs, call=call, temps=call.temps, kept=record.kept, by_address=True)


class BodyProgram:
    """The program of a body; `exe` is bound to the memory of a step before each run."""

    def __init__(self, body: Body, target: cpu.Target):
        self.body, xp = body, target.backend
        self.target = cpu.Target(xp, len(body.recorder.rows))
        results = [result.ref for result in (*body.carried, *body.stacked)]
        program = optimized(body.recorder, results, self.target)
        #: Buffers of the results, the next carry first.
        self.results = [ref.buffer for ref in owned(program, program.lasting)]
        steps = [step for record in program.records for step in self.target.lower(record)]
        self.exe = Executable(steps, plan_memory(steps, ()))
        self.outer_words = target.words
        #: Positions of the draws in each step, from that of the first.
        self.ahead = xp.zeros((body.length, len(body.draws), 3), dtype=dt.int64)
        for i, draw in enumerate(body.draws):
            self.ahead[:, i, 2] = signed_words(*(body.ahead(draw, k) for k in range(body.length)))

    def draws(self) -> Iterable:
        """(seed, stream, position) of the draws of each step."""
        rows = [draw.row for draw in self.body.draws]
        return self.outer_words[rows] + self.ahead if rows else repeat(None)

    def bind(self, buffer: Buffer, address: int) -> None:
        if self.exe.addresses.get(buffer) != address:
            self.exe.bind(buffer, address)

    def bind_fixed(self, ins: Sequence[int], own: int) -> None:
        """Bind what is the same in each step; `ins`: addresses of the record's, `own`: of the program's own memory."""
        self.exe.bind_own(own)
        for operand in self.body.fixed:
            self.bind(operand.buffer, ins[operand.number])

    def run_once(self, ins: Sequence[int], outs: Sequence[int], own: int) -> int:
        """Run a body of one step without a carry."""
        self.bind_fixed(ins, own)
        for operand in self.body.rows:
            self.bind(operand.buffer, ins[operand.number])
        for buffer, result in zip(self.results, self.body.stacked):
            self.bind(buffer, outs[result.number])
        return run_all(self.exe)


class _Control:
    """What a step of control flow calls."""

    programs: list[BodyProgram]

    @property
    def launches(self) -> list[Launch]:
        return [launch for program in self.programs for launch in program.exe.launches]


class Scan(_Control):
    """Runs a body `length` times. Called with the addresses of the record's ins and outs, and of `temps`."""

    def __init__(self, record: Record, programs: list[BodyProgram]):
        self.programs, (self.program,) = programs, programs
        body = self.body = self.program.body
        self.split = len(record.ins), len(record.ins) + len(record.outs)
        #: Two places for each leaf of the carry, which alternates between them, and the program's own memory.
        self.temps = [Buffer("own", result.ref.nbytes) for result in body.carried for _ in range(2)]
        self.temps.append(Buffer("own", self.program.exe.size))
        xp = self.xp = self.program.target.backend
        #: Buffers with another address in each step: carry, next carry, rows that are read, rows that are written.
        self.bound = [operand.buffer for operand in body.carry] + self.program.results[: len(body.carry)]
        self.bound += [operand.buffer for operand in body.rows] + self.program.results[len(body.carry) :]
        rows = xp.arange(body.length, dtype=dt.int64)[:: -1 if body.reverse else 1, None]
        strides = [row.stride for row in body.rows] + [row.stride for row in body.stacked]
        self.offsets = rows * xp.array(strides, dtype=dt.int64)
        uses = [(i, *use) for i, buffer in enumerate(self.bound) for use in self.program.exe.uses.get(buffer, ())]
        #: Of the words that have those addresses: the buffers' numbers, the words, offsets in the buffer.
        self.numbers, self.words, self.added = xp.array(uses, dtype=dt.int64).reshape(-1, 3).T

    def __call__(self, *addresses: int) -> int:
        """Run all steps; 0, or the status of the check that stopped one."""
        start, end = self.split
        ins, outs, temps = addresses[:start], addresses[start:end], addresses[end:]
        self.program.bind_fixed(ins, temps[-1])
        exe, table = self.program.exe, self._addresses(ins, outs, temps[:-1])
        if len(exe.prepare()) > 1:
            return self._run_calls(table)
        ((function, words, part),) = exe.prepare()
        for row, draws in zip(table[:, self.numbers] + self.added, self.program.draws()):
            exe.words[self.words] = row
            if draws is not None:
                self.program.target.words[...] = draws
            status = function(words, part)
            if status:
                return status
        return 0

    def _addresses(self, ins: Sequence[int], outs: Sequence[int], spare: Sequence[int]):
        """The address of each bound buffer in each step."""
        body, n = self.body, len(self.body.carry)
        table = self.xp.empty((body.length, len(self.bound)), dtype=dt.int64)
        rows = [*(ins[row.number] for row in body.rows), *(outs[row.number] for row in body.stacked)]
        table[:, 2 * n :] = self.offsets + self.xp.array(rows, dtype=dt.int64)
        following = table[:, n : 2 * n]
        following[::2], following[1::2] = spare[::2], spare[1::2]
        following[-1] = [outs[result.number] for result in body.carried]
        table[0, :n], table[1:, :n] = [ins[operand.number] for operand in body.carry], following[:-1]
        return table

    def _run_calls(self, table) -> int:
        """Run steps that are, in part, calls of Python functions."""
        for row, draws in zip(table.tolist(), self.program.draws()):
            if draws is not None:
                self.program.target.words[...] = draws
            for buffer, address in zip(self.bound, row):
                self.program.exe.bind(buffer, address)
            status = run_all(self.program.exe)
            if status:
                return status
        return 0


class Cond(_Control):
    """Runs the first program where the first of the ins is True, else the second."""

    def __init__(self, record: Record, programs: list[BodyProgram]):
        self.programs, self.count = programs, len(record.ins)
        self.pred = _at_start(record.ins[0])
        self.temps = [Buffer("own", max(program.exe.size for program in programs))]

    def __call__(self, *addresses: int) -> int:
        program = self.programs[0 if view_at(addresses[0], self.pred).any() else 1]
        return program.run_once(addresses[: self.count], addresses[self.count : -1], addresses[-1])


class While(_Control):
    """Runs the second program on the value that it computed last, as long as the first one computes True from it."""

    def __init__(self, record: Record, programs: list[BodyProgram]):
        self.programs, (self.condition, self.body) = programs, programs
        self.split = len(record.ins), len(record.ins) + len(record.outs)
        self.value, self.flag = list(map(_at_start, record.outs)), _at_start(self.condition.body.stacked[0].ref)
        #: Two places for each leaf of the value, which alternates between them, the flag, and the programs' own memory.
        self.temps = [Buffer("own", ref.nbytes) for _ in range(2) for ref in self.value]
        self.temps += [Buffer("own", size) for size in (self.flag.nbytes, self.condition.exe.size, self.body.exe.size)]

    def __call__(self, *addresses: int) -> int:
        start, end = self.split
        n = end - start
        outs, temps = addresses[start:end], addresses[end:]
        value, fixed, spare, (flag, first, second) = addresses[:n], addresses[n:start], temps[: 2 * n], temps[2 * n :]
        while True:
            status = self.condition.run_once((*value, *fixed), (flag,), first)
            if status:
                return status
            if not view_at(flag, self.flag).any():
                break
            status = self.body.run_once((*value, *fixed), spare[:n], second)
            if status:
                return status
            value, spare = spare[:n], spare[n:] + spare[:n]
        for ref, to, source in zip(self.value, outs, value):
            view_at(to, ref)[...] = view_at(source, ref)
        return 0


def _at_start(ref: Ref) -> Ref:
    """A place of this layout at the start of its buffer."""
    return Ref(ref.buffer, 0, ref.shape, ref.strides, ref.dtype)
