"""Options of `pytest benchmarks`, where results go, and the table at the end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]  # this checkout, whatever is installed

import accuracy  # noqa: E402
import contest  # noqa: E402
import machine  # noqa: E402
import memory  # noqa: E402
import report  # noqa: E402
import suites  # noqa: E402
import worker  # noqa: E402

import deepcore  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="under a minute: fewer contests, fewer rounds")
    parser.addoption(
        "--save", action="store_true", help="write results/<machine>/*.json, the pages in docs/ and their plots"
    )
    parser.addoption("--threads", type=int, default=2, help="threads of every side (default 2)")


def pytest_configure(config):
    machine.set_threads(config.getoption("--threads"))
    config.stash[KEPT] = Results(config.getoption("--quick"))
    config.stash[OTHERS] = machine.Others()
    # A kernel that cannot be compiled; not in pytest.ini, which would import the deepcore that is installed.
    config.addinivalue_line("filterwarnings", "error::deepcore.errors.DeepcoreWarning")


def pytest_report_header(config):
    return f"deepcore from {Path(deepcore.__file__).parent}, {config.getoption('--threads')} threads"


def pytest_collection_modifyitems(config, items):
    if config.getoption("--quick"):
        left_out = [item for item in items if getattr(item.callspec.params.get("one"), "long", False)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


class Results:
    """What was measured in this run, by suite and name."""

    def __init__(self, quick: bool):
        self.quick = quick
        self.suites: dict[str, dict[str, dict | None]] = {}

    def add(self, suite: str, name: str, entry: dict | None) -> None:
        """`entry`: None for what cannot be measured here."""
        self.suites.setdefault(suite, {})[name] = entry

    def measured(self) -> dict[str, list[dict]]:
        return {suite: [e for e in entries.values() if e] for suite, entries in self.suites.items()}

    def save(self) -> list[str]:
        """Writes the suites of which everything ran; the names of the others."""
        wanted = {"accuracy": set(accuracy.CASES), "memory": {case.name for case in memory.CASES}}
        for one in suites.contests():
            wanted.setdefault(one.suite, set()).add(one.name)
        facts, left_out = machine.describe(), []
        folder = HERE / "results" / machine.family()
        for suite, entries in self.measured().items():
            if self.quick or set(self.suites[suite]) != wanted[suite]:
                left_out.append(suite)
                continue
            folder.mkdir(parents=True, exist_ok=True)
            whole = {"benchmark": suite, "machine": facts, "contests": entries}
            (folder / f"{suite}.json").write_text(written(whole), encoding="utf-8", newline="\n")
        return left_out


def written(result: dict) -> str:
    """JSON with a line for each contest, so that a difference between two runs can be read."""
    head = {key: value for key, value in result.items() if key != "contests"}
    lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in result["contests"])
    return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "contests": [\n{lines}\n]\n}}\n'


KEPT = pytest.StashKey[Results]()
OTHERS = pytest.StashKey[machine.Others]()
#: The share of the processors that other processes may take.
QUIET = 0.1


@pytest.fixture(scope="session")
def results(pytestconfig):
    return pytestconfig.stash[KEPT]


@pytest.fixture(scope="session")
def effort(pytestconfig):
    return contest.QUICK if pytestconfig.getoption("--quick") else contest.THOROUGH


@pytest.fixture(scope="session")
def places(pytestconfig):
    """How the sides that need another process are reached."""
    best = worker.BestCore(pytestconfig.getoption("--threads"))
    yield {"numpy best core": best.side}
    best.close()


def pytest_terminal_summary(terminalreporter, config):
    for suite, entries in config.stash[KEPT].measured().items():
        terminalreporter.section(suite)
        if suite == "accuracy":
            worse = report.less_accurate(entries)
            terminalreporter.write_line(f"{len(entries)} cases, {len(worse)} less accurate than PyTorch")
            for each in worse:
                terminalreporter.write_line(each)
            continue
        for entry in entries:
            terminalreporter.write_line(report.memory_line(entry) if suite == "memory" else line(entry))

    share = config.stash[OTHERS].share()
    if share is not None and share > QUIET:
        text = f"other processes took {share:.0%} of the processors: these figures are worth little, and are not saved"
        terminalreporter.write_line(text, red=True)


def line(entry: dict) -> str:
    """deepcore's time a call, and how many times as long each other side takes."""
    own = next(iter(entry["ratio"]))
    others = "   ".join(f"{side} ×{q[1]:.2f} ({q[0]:.2f}–{q[2]:.2f})" for side, q in entry["ratio"][own].items())
    return f"{entry['name']:<32}{entry['seconds'][own][1] * 1e6:>12.2f} µs   {others}"


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    quiet = (config.stash[OTHERS].share() or 0.0) <= QUIET
    # A suite with a failure lacks something, and stays as it was.
    if config.getoption("--save") and not config.option.collectonly and exitstatus in (0, 1) and quiet:
        left_out = config.stash[KEPT].save()
        if left_out:
            print(f"\nnot saved, because something is missing: {', '.join(left_out)}")
        report.main()
