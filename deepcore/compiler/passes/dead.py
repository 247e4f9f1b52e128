"""Dead code: records whose results nobody reads."""

from __future__ import annotations

from deepcore.compiler.ir import Program


def run(program: Program) -> None:
    """Keep what `lasting` needs, what checks something, and what those read."""
    needed = {ref.buffer for ref in program.lasting}
    kept = []
    for record in reversed(program.records):
        if record.kept or any(buffer in needed or buffer.kind != "own" for buffer in record.writes()):
            needed |= record.reads()
            kept.append(record)
    program.records = kept[::-1]
