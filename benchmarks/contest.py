"""Contests: one piece of work, done by several sides that take turns in one run.

A machine may change its speed by a factor of two within seconds, and meets every side of a round alike: so a figure
is the median of the rounds' ratios, with their quartiles, and never a quotient of times from different runs.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: The side that is deepcore as users have it; other sides of its own have it as their first word.
OWN = "deepcore"


class Absent(Exception):
    """A side cannot take part here; the message says why."""


@dataclass(frozen=True)
class Contest:
    """`make(side)` returns what that side is timed at: a callable, or (callable, factor on its time); or raises Absent.

    `work` is what one call does, in floating-point operations or bytes (`unit`). `baseline`: the side whose time is
    subtracted from the others'. `process`: a call starts a process, and is timed alone; seconds that it returns count instead.
    `long`: left out when quick. Sides of deepcore's come first; without any, the others are of no use and not made.
    """

    suite: str
    name: str
    make: Callable[[str], Callable | tuple[Callable, float]]
    sides: tuple[str, ...]
    work: float = 0
    unit: str = ""
    group: str = ""
    baseline: str = ""
    process: bool = False
    long: bool = False
    facts: dict = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.suite}: {self.name}"


def settle(window: float = 5e-3, most: float = 0.25) -> None:
    """Wait until no thread of this process computes any more: those of OpenMP and BLAS spin for a while after their work,
    11 and 105 ms with PyTorch and OpenBLAS, and would take a core from whoever is next."""
    end = time.perf_counter() + most
    busy = window
    while busy > window / 10 and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(window)
        busy = time.process_time() - before


class Local:
    """A side in this process."""

    def __init__(self, contest: Contest, side: str):
        made = contest.make(side)
        self.call, self.factor = made if isinstance(made, tuple) else (made, 1.0)
        self.process = contest.process
        # deepcore's own threads, which the peaks use too, sleep after 150 µs.
        self.lingers = not contest.process and not side.startswith((OWN, "copy", "fma"))

    def burst(self, calls: int) -> float:
        call, turns = self.call, range(calls)
        start = time.perf_counter()
        if self.process:
            told = call()
            return time.perf_counter() - start if told is None else told
        for _ in turns:
            call()
        return (time.perf_counter() - start) * self.factor

    def settle(self) -> None:
        if self.lingers:
            settle()

    def close(self) -> None:
        del self.call


@dataclass(frozen=True)
class Effort:
    """How long a burst, a contest's rounds in all, and how many rounds at least and at most."""

    burst: float = 3e-3
    budget: float = 0.6
    least: int = 7
    most: int = 21


THOROUGH, QUICK = Effort(), Effort(1e-3, 0.1, 3, 5)


class Turns:
    """The rounds of a contest. `places` says how a side is reached (default: in this process)."""

    def __init__(self, contest: Contest, effort: Effort = THOROUGH, places: dict[str, Callable] | None = None):
        self.contest, self.effort = contest, effort
        self.absent: dict[str, str] = {}
        self.sides: dict[str, Local] = {}
        for side in contest.sides:
            if self.absent and not self.sides and not side.startswith(OWN):
                break  # deepcore does not take part
            try:
                self.sides[side] = (places or {}).get(side, Local)(contest, side)
            except Absent as reason:
                self.absent[side] = str(reason)
        self.warm: dict[str, int] = {}  # the calls before a burst
        self.calls = {side: self._calibrate(side, place) for side, place in self.sides.items()}
        self.rounds: list[dict[str, float]] = []
        self.wanted = 0
        if not self.sides:
            return
        start = time.perf_counter()
        self.round()  # for its length alone
        self.rounds.clear()
        least, budget = (effort.least // 2, 8 * effort.budget) if contest.process else (effort.least, effort.budget)
        self.wanted = min(max(int(budget / (time.perf_counter() - start)), least), effort.most) | 1

    def _calibrate(self, side: str, place) -> int:
        """The calls of a burst."""
        self.warm[side] = 0
        if self.contest.process:
            return 1
        place.burst(1)  # what is compiled or allocated once
        calls, goal, factor = 1, self.effort.burst, getattr(place, "factor", 1.0)
        while (seconds := min(place.burst(calls), place.burst(calls)) / factor) < goal / 4:
            calls = max(2 * calls, min(10 * calls, int(calls * goal / max(seconds, 1e-7))))
        place.settle()
        wanted = math.ceil(calls * goal / seconds - 1e-9)
        self.warm[side] = wanted if seconds / calls < 4 * goal else 0  # a long call warms up by itself
        return wanted

    def round(self) -> dict[str, float]:
        """Seconds a call of each side, each after a burst to find its memory in cache and its threads awake."""
        row = {}
        for side, place in self.sides.items():
            if self.warm[side]:
                place.burst(self.warm[side])
            row[side] = place.burst(self.calls[side]) / self.calls[side]
            place.settle()
        self.rounds.append(row)
        return row

    def close(self) -> None:
        for place in self.sides.values():
            place.close()
        array.cache_clear()

    def result(self) -> dict:
        """What is kept: quartiles of the seconds, of each own side's ratios (peer / own: above 1 is faster), of differences."""
        c, rounds, sides = self.contest, self.rounds, list(self.sides)
        own = [s for s in sides if s.startswith(OWN)]
        entry = {
            "name": c.name,
            **({"group": c.group} if c.group else {}),
            **({"work": c.work, "unit": c.unit} if c.work else {}),
            **c.facts,
            "rounds": len(rounds),
            "calls": self.calls,
            "seconds": {s: quartiles(r[s] for r in rounds) for s in sides},
            "ratio": {o: {s: quartiles(r[s] / r[o] for r in rounds) for s in sides if s != o} for o in own},
        }
        if c.baseline in sides:
            entry["over"] = {s: quartiles(r[s] - r[c.baseline] for r in rounds) for s in sides if s != c.baseline}
        if self.absent:
            entry["absent"] = self.absent
        return entry


def run(contest: Contest, effort: Effort = THOROUGH, places: dict[str, Callable] | None = None) -> dict:
    turns = Turns(contest, effort, places)
    try:
        for _ in range(turns.wanted):
            turns.round()
        return turns.result()
    finally:
        turns.close()


def quartiles(values) -> list[float]:
    """[lower quartile, median, upper quartile] to four digits."""
    values = sorted(values)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * values
    return [float(f"{v:.4g}") for v in (low, middle, high)]


def mean(values) -> float:
    """The geometric mean."""
    return statistics.geometric_mean(values)


@functools.lru_cache(maxsize=16)
def array(*shape: int, seed: int = 0, dtype: str = "f"):
    """Standard normal numbers, the same for every side; shared, so never to be written to."""
    import numpy as np

    return np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32).astype(dtype, copy=False)
