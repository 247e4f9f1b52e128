"""Algebra that changes no bit: x·1, x/1, x - 0, x + (-0) are x, and so is -(-x)."""

from __future__ import annotations

import math

from deepcore.compiler.ir import Program
from deepcore.compiler.passes.chains import Chain, Operand
from deepcore.kernels.runtime.executable import Ref

#: The neutral number of a formula as its first and as its second operand.
_NEUTRAL = {"mul": (1.0, 1.0), "true_divide": (None, 1.0), "add": (-0.0, -0.0), "sub": (None, 0.0)}


def run(program: Program) -> None:
    """Replace a record whose result equals one of its operands by that operand."""
    lasting = {ref.buffer for ref in program.lasting}
    renamed: dict = {}
    negated: dict = {}
    remaining = []
    for record in program.records:
        chain = program.chain_of(record)
        source = None if chain is None or len(chain.lines) != 1 else _same(program, chain, negated)
        if source is not None and source.buffer.kind in ("own", "outside") and not source.buffer.changing:
            (ref,) = record.outs
            if ref.buffer.kind == "own" and ref.offset == 0 and ref.buffer not in lasting and not ref.buffer.changing:
                to = renamed.get(source.buffer)
                at = source.offset if to is None else to.offset + source.offset
                buffer = source.buffer if to is None else to.buffer
                renamed[ref.buffer] = Ref(buffer, at, ref.shape, ref.strides, ref.dtype)
                continue
        if chain is not None and len(chain.lines) == 1 and chain.lines[0].formula == "neg" and not chain.columns:
            negated[record.outs[0].buffer] = (chain.size, chain.operands[0])
        remaining.append(record)
    if renamed:
        program.records = remaining
        program.replace(renamed)


def _same(program: Program, chain: Chain, negated: dict) -> Operand | None:
    """The operand that the chain's result equals bit for bit, or None."""
    (line,) = chain.lines
    if line.formula == "neg":
        size, x = negated.get(line.operands[0].buffer, (0, None))
        whole = x is not None and size == chain.size and x.kind == line.operands[0].kind == "v"
        return x if whole and line.operands[0].offset == 0 else None
    neutral = _NEUTRAL.get(line.formula)
    if neutral is None or any(x.kind not in "vs" for x in line.operands):
        return None
    for number, x, other in zip(neutral, line.operands, reversed(line.operands)):
        if number is not None and other.kind == "v" and _is(program, x, number):
            return other
    return None


def _is(program: Program, x: Operand, number: float) -> bool:
    array = program.constants.get(x.buffer)
    if array is None or x.kind not in "vs" or array.size != 1 or x.offset:
        return False
    value = float(array.reshape(-1)[0])
    return value == number and math.copysign(1.0, value) == math.copysign(1.0, number)
