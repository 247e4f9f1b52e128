"""Epilogues: what is done to each number of a product is done to its tiles, while they are in the nearest cache."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.compiler.passes.chains import Chain, Operand
from deepcore.kernels.cpu import gemm
from deepcore.kernels.runtime.executable import Buffer, Step


def run(program: Program) -> None:
    """Take an elementwise step of a product's result, alone or with one other array, into the product."""
    lasting = {ref.buffer for ref in program.lasting}
    made = {buffer: i for i, step in enumerate(program.steps) for buffer in step.writes()}
    steps: list[Step | None] = list(program.steps)
    for at, step in enumerate(program.steps):
        chain = Chain.of(step)
        if chain is None or chain.columns or len(chain.stored) != 1 or any(line.parameters for line in chain.lines):
            continue
        for x in chain.operands:
            first = made.get(x.buffer)
            product = None if first is None else steps[first]
            if product is None or first == at or not product.launches or len(product.outs) != 1:
                continue
            more = x.buffer in lasting or any(
                x.buffer in other.reads() for i, other in enumerate(steps) if other is not None and i != at
            )
            others = [o for o in chain.operands if o != x]
            if any(made.get(o.buffer, -1) >= first for o in others):  # type: ignore[operator]
                continue
            found = _with(product, chain, x, others, more)
            if found is not None:
                found.name, found.ins = f"{product.name}·{step.name}", _joined(product, step, x.buffer)
                steps[first], steps[at] = found, None  # type: ignore[index]
                made |= dict.fromkeys(found.writes(), first)
                break
    program.steps = [step for step in steps if step is not None]


def _with(product: Step, chain: Chain, x: Operand, others: list[Operand], keep: bool) -> Step | None:
    (out,) = product.outs
    _, result = chain.stored[0]
    operands = [x, *others]
    if len(others) > 1 or any(o.kind != "v" or o.buffer.changing for o in operands):
        return None
    if (out.buffer, out.offset) != (x.buffer, x.offset) or not out.whole or out.buffer.nbytes != result.buffer.nbytes:
        return None
    kernel, _ = chain.kernel(operands)
    if not kernel.ready():
        return None
    other = (others[0].buffer, others[0].offset) if others else None
    place = (result.buffer, result.offset)
    launches = gemm.finished(product.launches, kernel, (x.buffer, x.offset), place, keep=keep, other=other)
    if launches is None:
        return None
    return Step("", [], [out, result] if keep else [result], launches, temps=product.temps)


def _joined(product: Step, step: Step, between: Buffer):
    return list(dict.fromkeys([*product.ins, *(ref for ref in step.ins if ref.buffer is not between)]))
