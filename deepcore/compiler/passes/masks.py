"""Dropout masks: drawn by the first record that needs one, and stored for later records with the same draw."""

from __future__ import annotations

import math

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Program, Record
from deepcore.compiler.passes.cse import frozen
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Of records with the same draw, the first stores its mask, a byte a number, and the others read it."""
    by_draw: dict[tuple, list[Record]] = {}
    for record in program.records:
        if record.op is not None and record.draw is not None and len(record.ins) == len(record.outs) == 1:
            key = record.op, record.draw, record.outs[0].shape, frozen(record)
            by_draw.setdefault(key, []).append(record)
    for first, *others in by_draw.values():
        if not others:
            continue
        size = math.prod(first.outs[0].shape)
        mask = Ref(Buffer("own", size), 0, (size,), (1,), dt.uint8)
        plans = [program.target.mask_plan(record, reads=record is not first) for record in (first, *others)]
        if None in plans:
            continue
        for record, plan in zip((first, *others), plans):
            record.plan = plan
            if record is first:
                record.outs.append(mask)
            else:
                record.ins.append(mask)
                record.draw = None
