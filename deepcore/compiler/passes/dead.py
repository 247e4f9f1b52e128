"""Dead code elimination: drops records whose results are not read."""

from __future__ import annotations

from deepcore.compiler.ir import Program


def run(program: Program) -> None:
    """Keep records that `lasting` needs or that have side effects, and what those read."""
    needed = {ref.buffer for ref in program.lasting}
    remaining = []
    for record in reversed(program.records):
        if record.kept or any(buffer in needed or buffer.kind != "own" for buffer in record.writes()):
            needed |= record.reads()
            remaining.append(record)
    program.records = remaining[::-1]
