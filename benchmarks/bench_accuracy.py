"""`pytest benchmarks`: the largest errors, deepcore's and PyTorch's."""

from __future__ import annotations

import accuracy
import contest
import pytest


@pytest.mark.parametrize("case", accuracy.CASES)
def bench_accuracy(case, results):
    try:
        errors = accuracy.CASES[case]()
    except contest.Absent as reason:
        results.add("accuracy", case, None)
        pytest.skip(str(reason))
    name, dtype, kind = case.rsplit(" ", 2)
    kept = {side: float(f"{error:.3g}") for side, error in errors.items()}
    results.add("accuracy", case, {"name": name, "dtype": dtype, "inputs": kind, "errors": kept})
