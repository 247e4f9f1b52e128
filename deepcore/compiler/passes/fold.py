"""Constant folding: results of constants alone are constants, whose values were computed while recording."""

from __future__ import annotations

from deepcore.compiler.ir import Program, Record
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Drop pure records that read only constants, and make their results constants."""
    lasting = {ref.buffer for ref in program.lasting}
    renamed: dict[Buffer, Ref] = {}
    remaining = []
    for record in program.records:
        if not _is_constant(program, record, lasting, renamed):
            remaining.append(record)
            continue
        if record.op is None:  # a copy that is only read is the original
            (out,), (source,) = record.outs, record.ins
            renamed[out.buffer] = Ref(source.buffer, source.offset, (), (), source.dtype)
            continue
        for ref in record.outs:
            ref.buffer.kind, ref.buffer.array = "outside", ref.buffer.array.copy()
            program.constants[ref.buffer] = ref.buffer.array
    program.records = remaining
    if renamed:
        program.replace(renamed)


def _is_constant(program: Program, record: Record, lasting: set, renamed: dict) -> bool:
    copied = record.name == "copy" and record.op is None
    if not (record.pure or copied):
        return False
    if not all(ref.buffer in program.constants or ref.buffer in renamed for ref in record.ins):
        return False
    if not all(b.kind == "own" and not b.changing and b not in lasting for b in record.writes()):
        return False
    if copied:
        (out,), (source,) = record.outs, record.ins
        return out.whole and source.whole and out.nbytes == source.nbytes and source.buffer in program.constants
    return all(ref.buffer.array is not None for ref in record.outs)
