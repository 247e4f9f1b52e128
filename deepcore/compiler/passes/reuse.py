"""In place: an elementwise record writes over what it is the last to read, so that one array need not be there at all."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Results take the memory of an operand of their size that nobody reads later."""
    lasting = {ref.buffer for ref in program.lasting}
    last: dict[Buffer, int] = {}
    for i, record in enumerate(program.records):
        for buffer in record.buffers():
            last[buffer] = i
    #: Whose memory a buffer has taken; followed when records are read, replaced in all of them at the end.
    taken: dict[Buffer, Buffer] = {}

    def now(buffer: Buffer) -> Buffer:
        while buffer in taken:
            buffer = taken[buffer]
        return buffer

    for i, record in enumerate(program.records):
        chain = program.chain_of(record)
        if chain is None:
            continue
        buffers = [now(x.buffer) for x in chain.operands]
        for _, out in chain.stored:
            free = next(
                (
                    buffer
                    for x, buffer in zip(chain.operands, buffers)
                    if x.kind == "v"
                    and last[buffer] == i
                    and buffers.count(buffer) == 1
                    and not x.offset
                    and _fits(buffer, out, lasting)
                ),
                None,
            )
            if free is None or not _fits(out.buffer, out, lasting):
                continue
            taken[out.buffer] = free
            last[free] = last.pop(out.buffer)
            break
    if taken:
        program.replace({buffer: Ref(now(buffer), 0, (), (), None) for buffer in taken})


def _fits(buffer: Buffer, out: Ref, lasting: set[Buffer]) -> bool:
    return buffer.kind == "own" and not buffer.changing and buffer not in lasting and buffer.nbytes == out.buffer.nbytes
