"""Dropout's masks: drawn where a step first needs one, and kept for those that need the same one later."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Program
from deepcore.kernels.cpu import dropout
from deepcore.kernels.runtime.executable import Buffer, Ref, Step


def run(program: Program) -> None:
    """Of steps with the same random numbers, the first keeps its mask, a byte a number, and the others read it."""
    alike: dict[tuple, list[Step]] = {}
    for step in program.steps:
        found = dropout.drawn(step.launches[0]) if len(step.launches) == 1 else None
        if found is not None:
            alike.setdefault(found, []).append(step)
    for (_, size), (first, *others) in alike.items():
        if not others:
            continue
        mask = Ref(Buffer("own", size), 0, (size,), (1,), dt.uint8)
        steps = [first, *others]
        made = [dropout.with_mask(s.launches[0], (mask.buffer, 0), again=s is not first) for s in steps]
        if None in made:
            continue
        for step, launch in zip(steps, made):
            step.launches = [launch]
            (step.outs if step is first else step.ins).append(mask)
