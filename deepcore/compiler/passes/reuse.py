"""In-place results: an elementwise record overwrites an operand that it is the last to read, which saves an array."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Give results the memory of an operand of the same size that is not read later."""
    lasting = {ref.buffer for ref in program.lasting}
    last: dict[Buffer, int] = {}
    for i, record in enumerate(program.records):
        for buffer in record.buffers():
            last[buffer] = i
    #: For a buffer, the one whose memory it reuses; applied to all records at the end.
    reused: dict[Buffer, Buffer] = {}

    def root(buffer: Buffer) -> Buffer:
        while buffer in reused:
            buffer = reused[buffer]
        return buffer

    for i, record in enumerate(program.records):
        chain = program.chain_of(record)
        if chain is None:
            continue
        buffers = [root(x.buffer) for x in chain.operands]
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
            reused[out.buffer] = free
            last[free] = last.pop(out.buffer)
            break
    if reused:
        program.replace({buffer: Ref(root(buffer), 0, (), (), None) for buffer in reused})


def _fits(buffer: Buffer, out: Ref, lasting: set[Buffer]) -> bool:
    return buffer.kind == "own" and not buffer.changing and buffer not in lasting and buffer.nbytes == out.buffer.nbytes
