"""Loops of programs on the CPU: one program for a step, run with other addresses each time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat

from deepcore.backend import dtypes as dt
from deepcore.compiler import cpu
from deepcore.compiler.build import optimized, owned
from deepcore.compiler.control import Loop
from deepcore.compiler.ir import Record
from deepcore.compiler.runner import run_all
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.runtime.executable import Buffer, Executable, Step, plan_memory


def lower(record: Record, target: cpu.Target) -> Step:
    """A loop as one step of a program."""
    program = StepProgram(record.loop, target)
    temps = [*program.spare, Buffer("own", program.exe.size)]
    return Step(record.name, record.ins, record.outs, call=program, temps=temps, kept=record.kept, by_address=True)


class StepProgram:
    """The program of a loop's step. Called with addresses: those of the record's ins and outs, two for each leaf of the carry,
    and the step's own memory."""

    def __init__(self, loop: Loop, target: cpu.Target):
        self.length, self.xp = loop.length, target.backend
        self.target = cpu.Target(target.backend, len(loop.recorder.rows))
        program = optimized(loop.recorder, [*loop.carried, *loop.stacked], self.target)
        results = [ref.buffer for ref in owned(program, program.lasting)]
        steps = [step for record in program.records for step in self.target.lower(record)]
        self.exe = Executable(steps, plan_memory(steps, ()))
        self.fixed = loop.fixed
        #: Memory that the carry alternates between.
        self.spare = [Buffer("own", ref.nbytes) for ref in loop.carried for _ in range(2)]
        self.count, self.stacked = len(loop.carry), len(loop.stacked)
        #: Buffers with another address in each step: carry, next carry, rows that are read, rows that are written.
        self.bound = [*loop.carry, *results[: self.count], *loop.rows, *results[self.count :]]
        rows = self.xp.arange(loop.length, dtype=dt.int64)[:: -1 if loop.reverse else 1, None]
        self.offsets = rows * self.xp.array([*loop.row_strides, *loop.stacked_strides], dtype=dt.int64)
        uses = [(i, *use) for i, buffer in enumerate(self.bound) for use in self.exe.uses.get(buffer, ())]
        #: Of the words that have those addresses: the buffers' numbers, the words, offsets in the buffer.
        self.numbers, self.words, self.added = self.xp.array(uses, dtype=dt.int64).reshape(-1, 3).T
        self.outer_words, self.draws = target.words, [draw[0] for draw in loop.draws]
        #: Positions of each step's draws, from that of the first.
        self.ahead = self.xp.zeros((loop.length, len(self.draws), 3), dtype=dt.int64)
        for i, draw in enumerate(loop.draws):
            self.ahead[:, i, 2] = [signed_words(loop.ahead(draw, k))[0] for k in range(loop.length)]

    def __call__(self, *addresses: int) -> int:
        """Run all steps; 0, or the status of the check that stopped one."""
        exe, n, at = self.exe, self.count, list(addresses)
        own = at.pop()
        spare, at = at[len(at) - 2 * n :], at[: len(at) - 2 * n]
        reads = len(self.bound) - 2 * n - self.stacked
        exe.bind_own(own)
        for buffer, address in zip(self.fixed, at[n + reads :]):
            if exe.addresses.get(buffer) != address:
                exe.bind(buffer, address)
        written = at[n + reads + len(self.fixed) :]
        table = self.xp.empty((self.length, len(self.bound)), dtype=dt.int64)
        table[:, 2 * n :] = self.offsets + self.xp.array([*at[n : n + reads], *written[n:]], dtype=dt.int64)
        following = table[:, n : 2 * n]
        following[::2], following[1::2], following[-1] = spare[::2], spare[1::2], written[:n]
        table[0, :n], table[1:, :n] = at[:n], following[:-1]
        if len(exe.prepare()) > 1:
            return self._run_calls(table)
        ((function, words, part),) = exe.prepare()
        for row, draws in zip(table[:, self.numbers] + self.added, self._draws()):
            exe.words[self.words] = row
            if draws is not None:
                self.target.words[...] = draws
            status = function(words, part)
            if status:
                return status
        return 0

    def _run_calls(self, table) -> int:
        """Run steps that are, in part, calls of Python functions."""
        for row, draws in zip(table.tolist(), self._draws()):
            if draws is not None:
                self.target.words[...] = draws
            for buffer, address in zip(self.bound, row):
                self.exe.bind(buffer, address)
            status = run_all(self.exe)
            if status:
                return status
        return 0

    def _draws(self) -> Iterable:
        """(seed, stream, position) of the draws of each step."""
        return self.outer_words[self.draws] + self.ahead if self.draws else repeat(None)
