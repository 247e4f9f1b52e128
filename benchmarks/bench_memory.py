"""`pytest benchmarks`: the memory that training steps take, deepcore's and PyTorch's."""

from __future__ import annotations

import contest
import memory
import pytest


@pytest.mark.parametrize("one", memory.CASES, ids=lambda case: case.name)
def bench_memory(one, effort, results):
    entry = {"name": one.name, "steps": memory.STEPS, "bytes": {}}
    for side in memory.SIDES:
        try:
            entry["bytes"][side] = memory.alone(side, one.name, 1 if effort is contest.QUICK else 3)
        except contest.Absent as reason:
            if side == contest.OWN:
                results.add("memory", one.name, None)
                pytest.skip(str(reason))
            entry.setdefault("absent", {})[side] = str(reason)
    results.add("memory", one.name, entry)
