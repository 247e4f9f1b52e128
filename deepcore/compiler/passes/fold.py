"""Constant folding: what is computed from constants alone is a constant, and was computed while the function was followed."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.compiler.passes.chains import Chain


def run(program: Program) -> None:
    """Elementwise steps that read nothing but constants are left out, and what they found is kept."""
    kept = []
    for step in program.steps:
        if Chain.of(step) is not None and _same_in_every_run(program, step):
            for ref in step.outs:
                ref.buffer.kind, ref.buffer.array = "outside", ref.buffer.array.copy()
                program.constants[ref.buffer] = ref.buffer.array
        else:
            kept.append(step)
    program.steps = kept


def _same_in_every_run(program: Program, step) -> bool:
    lasting = {ref.buffer for ref in program.lasting}
    return all(ref.buffer in program.constants for ref in step.ins) and all(
        b.kind == "own" and not b.changing and b.array is not None and b not in lasting for b in step.writes()
    )
