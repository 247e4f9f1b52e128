"""`pytest benchmarks`: every contest, its sides taking turns. pytest-benchmark's figures are deepcore's own seconds."""

from __future__ import annotations

import contest
import pytest
import suites


class Clock:
    """pytest-benchmark's timer: it shows what was measured inside the round, not the round."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.mark.parametrize("one", suites.contests(), ids=lambda c: c.id)
@pytest.mark.benchmark(timer=CLOCK)
def bench_contest(one, benchmark, effort, places, results):
    turns = contest.Turns(one, effort, places)
    own = next((side for side in turns.sides if side.startswith(contest.OWN)), None)

    def round():
        CLOCK.now += turns.round()[own]

    try:
        if own is None:
            results.add(one.suite, one.name, None)
            pytest.skip("; ".join(turns.absent.values()))
        benchmark.group = one.suite
        benchmark.pedantic(round, rounds=turns.wanted)
        benchmark.extra_info.update(turns.result())
        results.add(one.suite, one.name, dict(benchmark.extra_info))
    finally:
        turns.close()
