"""Is it slower than it was?

    python benchmarks/compare.py BASE HEAD [-k WORDS] [--quick]

BASE and HEAD are two git revisions (HEAD may be `.`, the files as they are), or two result files of one suite.

Revisions are checked out beside each other and take turns, contest by contest, in two processes. Result files come
from different runs, whose times say nothing about each other: what is compared is the lead over the other sides of
each run, and a change counts only if it shows against every one of them.

A change is a regression when the upper quartile of base / head is below 1 by more than the tolerance; revisions are then
measured once more, at length. Exit status: 1 with a regression, 2 if nothing could be compared, else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
TOLERANCE = 0.03


class Change(NamedTuple):
    """How many times as fast HEAD is: quartiles. Below 1 it is slower."""

    name: str
    low: float
    middle: float
    high: float

    def worse(self, tolerance: float) -> bool:
        return self.high < 1 - tolerance

    def better(self, tolerance: float) -> bool:
        return self.low > 1 + tolerance


# -- result files -----------------------------------------------------------------------------------------------------


def of_files(base: dict, head: dict) -> list[Change]:
    """The change of each contest that both files have; of several peers the one against which it is the smallest."""
    found = []
    before = {c["name"]: c for c in base["contests"]}
    for now in head["contests"]:
        then = before.get(now["name"])
        if then is None:
            continue
        for own, leads in now["ratio"].items():
            old = then["ratio"].get(own, {})
            peers = [side for side in leads if side in old and not side.startswith("deepcore")]
            changes = [lead_change(now["name"], old[side], leads[side]) for side in peers]
            if changes:
                smallest = min(changes, key=lambda c: abs(c.middle - 1))
                same = all((c.middle < 1) == (smallest.middle < 1) for c in changes)
                mark = "" if own == "deepcore" else f" ({own})"
                found.append(smallest._replace(name=now["name"] + mark, **({} if same else {"low": 0.0, "high": 9.9})))
    return found


def lead_change(name: str, old: list[float], new: list[float]) -> Change:
    return Change(name, new[0] / old[2], new[1] / old[1], new[2] / old[0])


# -- revisions --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    """A work tree of a revision; "." is this one."""
    if revision == ".":
        yield HERE.parent
        return
    git = ["git", "-C", str(HERE.parent), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def of_revisions(base: str, head: str, words: str, quick: bool, threads: int, tolerance: float):
    """Yields the change of each contest, and what could not be compared as (name, reason)."""
    sys.path[:0] = [str(HERE.parent), str(HERE)]
    from contest import OWN, QUICK, THOROUGH, Effort
    from suites import contests
    from worker import Worker

    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deepcore-compare-")))
        places = {}
        for label, revision in (("base", base), ("head", head)):
            tree = stack.enter_context(checkout(revision, temporary / label))
            places[label] = Worker(tree, threads)
            stack.callback(places[label].close)
        for one in contests():
            if not all(word in one.id for word in words.split()) or one.process or (quick and one.long):
                continue
            for own in (side for side in one.sides if side.startswith(OWN)):
                pair = replace(one, sides=("base", "head"), baseline="")
                reach = {label: (lambda c, s, w=w, own=own: w.side(c, own)) for label, w in places.items()}
                name = one.id if own == OWN else f"{one.id} ({own})"
                effort = QUICK if quick else Effort(3e-3, 0.5, 9, 25)
                change = _measured(name, pair, effort, reach)
                if isinstance(change, Change) and change.worse(tolerance):
                    change = _measured(name, pair, THOROUGH if quick else Effort(1e-2, 3.0, 15, 51), reach)
                yield change


def _measured(name: str, pair, effort, reach):
    from contest import Turns, quartiles

    turns = Turns(pair, effort, reach)
    try:
        if turns.absent:
            return name, "; ".join(f"{side}: {reason}" for side, reason in turns.absent.items())
        rounds = [turns.round() for _ in range(turns.wanted)]
        return Change(name, *quartiles(r["base"] / r["head"] for r in rounds))
    finally:
        turns.close()


# -- the command ------------------------------------------------------------------------------------------------------


def line(change: Change, tolerance: float) -> str:
    verdict = "slower" if change.worse(tolerance) else "faster" if change.better(tolerance) else ""
    return f"{change.name:<48} ×{change.middle:.3f} ({change.low:.3f}–{change.high:.3f}) {verdict}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], epilog=__doc__.split("\n\n", 2)[2])
    parser.add_argument("base")
    parser.add_argument("head")
    parser.add_argument("-k", default="", metavar="WORDS", help="only contests whose names hold all these words")
    parser.add_argument("--quick", action="store_true", help="fewer contests, fewer rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="slower by less is none (default %(default)s)"
    )
    given = parser.parse_args(arguments)
    files = [Path(name) for name in (given.base, given.head)]
    if all(path.suffix == ".json" for path in files):
        results = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        found = (c for c in of_files(*results) if all(word in c.name for word in given.k.split()))
    else:
        found = of_revisions(given.base, given.head, given.k, given.quick, given.threads, given.tolerance)
    changes = []
    for one in found:
        if isinstance(one, Change):
            changes.append(one)
            print(line(one, given.tolerance), flush=True)
        else:
            print(f"{one[0]:<48} not compared: {one[1]}", flush=True)
    if not changes:
        print("nothing to compare")
        return 2
    regressions = [c for c in changes if c.worse(given.tolerance)]
    print(f"{len(changes)} compared, {len(regressions)} slower")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
