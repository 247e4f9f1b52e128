"""In place: an elementwise step writes over what it is the last to read, so that one array need not be there at all."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.compiler.passes.chains import Chain
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Results take the memory of an operand of their size that nobody reads later."""
    lasting = {ref.buffer for ref in program.lasting}
    last: dict[Buffer, int] = {}
    for i, step in enumerate(program.steps):
        for buffer in step.buffers():
            last[buffer] = i
    for i, step in enumerate(program.steps):
        chain = Chain.of(step)
        if chain is None:
            continue
        buffers = [x.buffer for x in chain.operands]
        for _, out in chain.stored:
            free = next(
                (
                    x.buffer
                    for x in chain.operands
                    if x.kind == "v"
                    and last[x.buffer] == i
                    and buffers.count(x.buffer) == 1
                    and not x.offset
                    and _fits(x.buffer, out, lasting)
                ),
                None,
            )
            if free is None or not _fits(out.buffer, out, lasting):
                continue
            program.replace({out.buffer: Ref(free, 0, out.shape, out.strides, out.dtype)})
            last[free] = last.pop(out.buffer)
            break


def _fits(buffer: Buffer, out: Ref, lasting: set[Buffer]) -> bool:
    return buffer.kind == "own" and not buffer.changing and buffer not in lasting and buffer.nbytes == out.buffer.nbytes
