"""Dead code: steps whose results nobody reads."""

from __future__ import annotations

from deepcore.compiler.ir import Program


def run(program: Program) -> None:
    """Keep what `lasting` needs, what checks something, and what those read."""
    needed = {ref.buffer for ref in program.lasting}
    kept = []
    for step in reversed(program.steps):
        if step.kept or any(buffer in needed or buffer.kind != "own" for buffer in step.writes()):
            needed |= step.reads()
            kept.append(step)
    program.steps = kept[::-1]
