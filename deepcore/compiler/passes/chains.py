"""Elementwise records as formulas over values, so that several can be fused to one kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Record
from deepcore.kernels.codegen.jit import bits
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.math.formulas import operations
from deepcore.kernels.runtime.executable import Buffer, Ref

#: Elements from which a kernel of several formulas pays for compiling it, which takes half a second.
WORTH = 1 << 13
#: Operands, formulas and results of one kernel at most.
OPERANDS, LINES, STORED = 8, 16, 4


class Operand(NamedTuple):
    """An operand of a kernel; `kind` is a letter of `elementwise.build`'s pattern."""

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

    @property
    def operands(self) -> list[Operand]:
        return list(dict.fromkeys(x for line in self.lines for x in line.operands if isinstance(x, Operand)))

    def substituted(self, change) -> list[Line]:
        """The lines with other operands: `change(operand)`."""
        return [
            Line(f, tuple(change(x) if isinstance(x, Operand) else x for x in operands), words, result)
            for f, operands, words, result in self.lines
        ]

    def moved(self, renamed: dict[Buffer, Ref]) -> Chain:
        """The chain over other places."""

        def change(x: Operand) -> Operand:
            to = renamed.get(x.buffer)
            return x if to is None else Operand(to.buffer, to.offset + x.offset, x.kind)

        stored = []
        for value, ref in self.stored:
            to = renamed.get(ref.buffer)
            if to is not None:
                ref = Ref(to.buffer, to.offset + ref.offset, ref.shape, ref.strides, ref.dtype)
            stored.append((value, ref))
        return Chain(self.dtype, self.size, self.columns, self.substituted(change), stored)

    @property
    def arithmetic(self) -> int:
        """Operations of all formulas on all elements."""
        return self.size * sum(operations(line.formula) for line in self.lines)

    @property
    def pays(self) -> bool:
        """Whether it has enough elements for a kernel of its own."""
        return self.size >= WORTH

    def fits(self) -> bool:
        """Whether it is within the limits of one kernel."""
        if not self.pays and len(self.lines) > 1:
            return False
        return len(self.operands) <= OPERANDS and len(self.lines) <= LINES and len(self.stored) <= STORED

    def numbered(self, operands: list[Operand]) -> tuple[tuple[elementwise.Line, ...], list[int]]:
        """The lines with numbers for values, the operands first and in this order; the parameters' words."""
        numbers: dict = {x: i for i, x in enumerate(operands)}
        words: list[int] = []
        lines = []
        for line in self.lines:
            for word in line.parameters:
                if word not in words:
                    words.append(word)
            parameters = tuple(words.index(word) for word in line.parameters)
            lines.append(elementwise.Line(line.formula, tuple(numbers[x] for x in line.operands), parameters))
            numbers[line.result] = len(numbers)
        return tuple(lines), words

    def results(self, count: int) -> tuple[int, ...]:
        """The numbers of the stored values, after `count` operands."""
        numbers = {line.result: count + i for i, line in enumerate(self.lines)}
        return tuple(numbers[value] for value, _ in self.stored)

    def place(self, x: Operand) -> Ref:
        """An operand as an array."""
        size = {"v": self.size, "s": 1, "r": self.columns, "c": self.size // max(self.columns, 1)}[x.kind.lower()]
        dtype = dt.bool_ if x.kind.isupper() else dt.DTYPES[self.dtype]
        return Ref(x.buffer, x.offset, (size,), (dtype.itemsize,), dtype)

    def record(self, name: str) -> Record:
        """The chain as one record."""
        return Record(name, list(map(self.place, self.operands)), [ref for _, ref in self.stored], chain=self)


def chain_of(record: Record, differing: frozenset[str] = frozenset(), booleans: bool = True) -> Chain | None:
    """The formula of an elementwise record, whose result is bitwise the op's; None for any other.

    `differing`: ops with other results on the device. `booleans`: whether its kernels take boolean operands.
    """
    if record.chain is not None:
        return record.chain if record.op is None else None
    if not record.pure or record.plan is not None or len(record.outs) != 1 or record.op.name in differing:
        return None
    entry, (out,) = elementwise.MAPS.get(record.op.name), record.outs
    if entry is None or len(record.ins) != entry.arity or (entry.booleans and not booleans):
        return None
    dtype = out.dtype
    if dtype not in (dt.float32, dt.float64):
        return None
    if not out.whole or any(
        ref.dtype != (dt.bool_ if i < entry.booleans else dtype) for i, ref in enumerate(record.ins)
    ):
        return None
    kinds = [kind_of(ref, out) for ref in record.ins]
    columns = {columns for _, columns in kinds if columns}
    if len(columns) > 1 or any(kind == "" for kind, _ in kinds):
        return None
    operands = tuple(
        Operand(ref.buffer, ref.offset, kind.upper() if i < entry.booleans else kind)
        for i, (ref, (kind, _)) in enumerate(zip(record.ins, kinds))
    )
    words = tuple(bits(float(record.params[name])) for name in entry.parameters)
    line = Line(entry.formula, operands, words, Value())
    size = math.prod(out.shape)
    return Chain(dtype.name, size, next(iter(columns), 0), [line], [(line.result, out)]) if size else None


def kind_of(ref: Ref, out: Ref) -> tuple[str, int]:
    """How an operand broadcasts to the result: a letter of the pattern or "", and the columns of a row or column."""
    shape = tuple([n if stride else 1 for n, stride in zip(ref.shape, ref.strides)])  # without expanded dimensions
    if not Ref(ref.buffer, ref.offset, shape, ref.strides, ref.dtype).contiguous:
        return "", 0
    if shape == out.shape:
        return "v", 0
    if math.prod(shape) == 1:
        return "s", 0
    shape = (1,) * (len(out.shape) - len(shape)) + shape
    for cut in range(len(shape) + 1):
        columns = math.prod(out.shape[cut:])
        if math.prod(shape[:cut]) == 1 and shape[cut:] == out.shape[cut:]:
            return "r", columns
        if shape[:cut] == out.shape[:cut] and math.prod(shape[cut:]) == 1:
            return "c", columns
    return "", 0
