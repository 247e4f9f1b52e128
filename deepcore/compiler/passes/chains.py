"""Elementwise steps as formulas over values, taken apart so that several can be put together as one kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.math import formulas
from deepcore.kernels.runtime.executable import Buffer, Launch, Ref, Step

#: Elements from which on a kernel of several formulas is worth the half second that compiling it takes.
WORTH = 1 << 13
#: What one kernel has at most: operands, formulas, results.
OPERANDS, LINES, STORED = 8, 16, 4


class Operand(NamedTuple):
    """What a kernel reads, and how: a letter of `elementwise.build`'s pattern."""

    buffer: Buffer
    offset: int
    kind: str


class Value:
    """The result of a line."""


class Line(NamedTuple):
    formula: str
    operands: tuple
    #: Words, float64 each.
    parameters: tuple[int, ...]
    result: Value


@dataclass
class Chain:
    """Lines over `size` elements, `columns` of them in a row where operands are rows or columns; else 0."""

    dtype: str
    size: int
    columns: int
    lines: list[Line]
    stored: list[tuple[Value, Ref]]

    @classmethod
    def of(cls, step: Step) -> Chain | None:
        """A step that is one elementwise kernel, taken apart."""
        if len(step.launches) != 1 or step.kept or step.launches[0].kernel.build is not elementwise.build:
            return None
        (launch,) = step.launches
        lines, dtype, pattern, stored = launch.kernel.parameters
        if any(i not in launch.places for i in range(len(pattern) + len(stored))):
            return None
        values: list = [Operand(launch.places[i][0], launch.places[i][1], kind) for i, kind in enumerate(pattern)]
        at = len(pattern) + len(stored)
        size, columns, *parameters = launch.words[at:]
        taken = []
        for line in lines:
            result = Value()
            words = tuple(parameters[p] for p in line.parameters)
            taken.append(Line(line.formula, tuple(values[x] for x in line.operands), words, result))
            values.append(result)
        outs = {launch.places[len(pattern) + k][0]: values[value] for k, value in enumerate(stored)}
        if len(outs) != len(stored) or {ref.buffer for ref in step.outs} != set(outs):
            return None
        return cls(dtype, size, columns, taken, [(outs[ref.buffer], ref) for ref in step.outs])

    @property
    def operands(self) -> list[Operand]:
        return list(dict.fromkeys(x for line in self.lines for x in line.operands if isinstance(x, Operand)))

    def substituted(self, change) -> list[Line]:
        """The lines with other operands: `change(operand)`."""
        return [
            Line(f, tuple(change(x) if isinstance(x, Operand) else x for x in operands), words, result)
            for f, operands, words, result in self.lines
        ]

    def fits(self) -> bool:
        """Whether a kernel of it is to be made."""
        if self.size < WORTH and len(self.lines) > 1:
            return False
        return len(self.operands) <= OPERANDS and len(self.lines) <= LINES and len(self.stored) <= STORED

    def numbered(self, operands: list[Operand]) -> tuple[tuple[formulas.Line, ...], list[int]]:
        """The lines with numbers for values, the operands first and in this order; the parameters' words."""
        numbers: dict = {x: i for i, x in enumerate(operands)}
        words: list[int] = []
        lines = []
        for line in self.lines:
            for word in line.parameters:
                if word not in words:
                    words.append(word)
            parameters = tuple(words.index(word) for word in line.parameters)
            lines.append(formulas.Line(line.formula, tuple(numbers[x] for x in line.operands), parameters))
            numbers[line.result] = len(numbers)
        return tuple(lines), words

    def kernel(self, operands: list[Operand]) -> tuple[Kernel, list[int]]:
        """The kernel of these lines, and its parameters' words."""
        lines, words = self.numbered(operands)
        results = {line.result: len(operands) + i for i, line in enumerate(self.lines)}
        stored = tuple(results[value] for value, _ in self.stored)
        return elementwise.fused(lines, self.dtype, "".join(x.kind for x in operands), stored), words

    def step(self, name: str, ins: list[Ref]) -> Step | None:
        """All of it as one step; None where there is no such kernel."""
        operands = self.operands
        kernel, words = self.kernel(operands)
        if not kernel.ready():
            return None
        places = {i: (x.buffer, x.offset) for i, x in enumerate(operands)}
        places |= {len(operands) + k: (ref.buffer, ref.offset) for k, (_, ref) in enumerate(self.stored)}
        launch = Launch(
            kernel,
            [0] * len(places) + [self.size, self.columns, *words],
            places,
            elementwise.slices(self.size, self.columns),
        )
        return Step(name, ins, [ref for _, ref in self.stored], [launch])
