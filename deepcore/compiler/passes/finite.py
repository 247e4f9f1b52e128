"""For `detect_anomaly`: results are looked at while they are near, and a NaN or infinity stops the program."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.kernels.cpu import checks
from deepcore.kernels.runtime.executable import Ref, Step

#: Bytes of results that are looked at together: they are in the second cache still.
_NEAR = 1 << 17


def run(program: Program) -> None:
    """Check what steps compute, but not what they only copy."""
    steps: list[Step] = []
    waiting: list[Ref] = []

    def look() -> None:
        step = checks.all_finite(waiting) if waiting else None
        if step is not None:
            steps.append(step)
        waiting.clear()

    for step in program.steps:
        steps.append(step)
        if step.name != "copy":
            waiting += filter(checks.looked_at, step.outs)
        if sum(ref.nbytes for ref in waiting) > _NEAR:
            look()
    look()
    program.steps = steps
