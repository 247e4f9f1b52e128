"""The benchmarks: turns, what is compared, that every contest's sides do the same work, and the page made of the figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deepcore.config import settings

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
NAMES = (
    "accuracy", "compare", "contest", "jax_workloads", "machine", "memory", "peak_kernels", "peaks", "peers", "report", "suites", "worker",
    "workloads",
)  # fmt: skip


@pytest.fixture
def load(monkeypatch):
    """Imports a module of benchmarks/, whose names are too plain to stay."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__
    for name in [n for n in sys.modules if n.partition(".")[0] in NAMES]:
        del sys.modules[name]


class Side:
    """A side that takes the times it is told, one a call."""

    def __init__(self, seconds, log, name):
        self.seconds, self.log, self.name, self.turn = seconds, log, name, 0

    def burst(self, calls):
        self.log.append((self.name, calls))
        return calls * self.seconds[len(self.log) % len(self.seconds)]

    def settle(self):
        self.log.append((self.name, "settled"))

    def close(self):
        self.log.append((self.name, "closed"))


def test_sides_take_turns_and_ratios_are_of_a_round(load):
    contest = load("contest")
    log: list = []
    # Both sides are ten times slower in some rounds: the ratio is of no account to that.
    places = {
        "deepcore": lambda c, s: Side([1e-3], log, s),
        "peer": lambda c, s: Side([2e-3], log, s),
        "peak": lambda c, s: Side([5e-4], log, s),
    }
    one = contest.Contest("s", "n", None, tuple(places), work=6.0, unit="byte", baseline="peak")
    turns = contest.Turns(one, contest.Effort(3e-3, 1.0, 5, 9), places)
    assert turns.calls == {"deepcore": 3, "peer": 2, "peak": 6}
    log.clear()
    for i in range(3):
        for side, speed in (("deepcore", 1e-3), ("peer", 2e-3), ("peak", 5e-4)):
            turns.sides[side].seconds = [speed * (10.0 if i else 1.0)]
        turns.round()
    order = [name for name, calls in log]
    assert order == (["deepcore"] * 3 + ["peer"] * 3 + ["peak"] * 3) * 3
    assert [what for name, what in log[:6]] == [3, 3, "settled", 2, 2, "settled"]
    result = turns.result()
    assert result["ratio"] == {"deepcore": {"peer": [2.0, 2.0, 2.0], "peak": [0.5, 0.5, 0.5]}}
    assert result["seconds"]["peer"] == [0.011, 0.02, 0.02] and result["over"]["deepcore"][1] == 0.005
    turns.close()
    assert log[-3:] == [("deepcore", "closed"), ("peer", "closed"), ("peak", "closed")]


def test_a_side_that_cannot_take_part_is_named_with_its_reason(load):
    contest = load("contest")

    def make(side):
        if side == "peer":
            raise contest.Absent("it is not installed")
        return lambda: None

    result = contest.run(contest.Contest("s", "n", make, ("deepcore", "peer")), contest.Effort(1e-5, 1e-4, 3, 3))
    assert result["absent"] == {"peer": "it is not installed"} and result["ratio"] == {"deepcore": {}}
    assert result["rounds"] == 3


def test_a_factor_scales_a_sides_time(load):
    contest = load("contest")
    one = contest.Contest(
        "s", "n", lambda side: (lambda: sum(range(1000)), 1.0 if side == "deepcore" else 8.0), ("deepcore", "x")
    )
    ratio = contest.run(one, contest.Effort(1e-3, 0.1, 9, 9))["ratio"]["deepcore"]["x"]
    assert 5.0 < ratio[1] < 12.0


def _value(made):
    """What a side's call returns, as an array; None where it returns nothing."""
    value = (made[0] if isinstance(made, tuple) else made)()
    value = value[0] if isinstance(value, (tuple, list)) else value
    if value is None:
        return None
    value = value.detach().numpy() if hasattr(value, "detach") else value
    return np.asarray(value)


def _small(contests):
    for one in contests:
        wanted = one.suite in ("gemm", "fused", "elementwise", "rows", "ctc") and not one.long
        if wanted and one.work < 1e8 and one.facts.get("size", 0) <= 10_000:
            yield one


@pytest.mark.slow
def test_the_sides_of_a_contest_do_the_same(load, monkeypatch):
    # PyTorch's threads wait for each other badly where other tests run at the same time.
    monkeypatch.setattr(settings, "threads", 1)
    contest, suites = load("contest"), load("suites")
    checked = 0
    for one in _small(suites.contests()):
        if "dropout" in one.name:  # random numbers
            continue
        found = {}
        for side in one.sides:
            if side in ("copy", "fma peak", "torch.compile"):
                continue
            try:
                found[side] = _value(one.make(side))
            except contest.Absent:
                continue
        values = {side: v for side, v in found.items() if v is not None}
        if "deepcore" not in values:
            continue
        for side, value in values.items():
            np.testing.assert_allclose(
                value, values["deepcore"], rtol=2e-3, atol=2e-4, err_msg=f"{one.id}: {side} against deepcore"
            )
        checked += len(values) > 1
        contest.array.cache_clear()
    assert checked > 20  # fewer sides without PyTorch


def test_the_peaks_are_measured_by_kernels_that_do_their_work(load):
    from deepcore.kernels.codegen import jit

    pytest.importorskip("numba")
    peaks, kernels = load("peaks"), load("peak_kernels")
    before = set(jit.KERNELS)
    try:
        call, factor = peaks.copy(100_000, 8e5)
        assert factor == 1.0 and call() == 0
        # The copy is of the array that the sides share.
        x, out = (cell.cell_contents for cell in call.__closure__ if isinstance(cell.cell_contents, np.ndarray))
        out[:] = 0
        call()
        assert (out == x).all() and out is not x
        call, factor = peaks.fma(2.0 * kernels.lanes() * kernels.CHAINS * peaks._LOOPS)
        assert call() == 0 and 0 < factor <= 1.0
    finally:
        for name in set(jit.KERNELS) - before:  # they belong to this test alone
            del jit.KERNELS[name]


def test_a_worker_is_another_process_that_takes_its_turns(load, monkeypatch):
    contest, suites, worker = load("contest"), load("suites"), load("worker")
    (one,) = [c for c in suites.contests("eager") if c.name == "mul"]
    other = worker.Worker(ROOT, threads=1)
    try:
        result = contest.run(one, contest.Effort(1e-4, 1e-3, 3, 3), {"numpy": other.side})
        assert result["ratio"]["deepcore"]["numpy"][1] > 0
        with pytest.raises(contest.Absent, match="KeyError"):
            other.side(contest.Contest("eager", "no such contest", None, ()), "numpy")
    finally:
        other.close()
    assert other.process.returncode == 0


def test_what_other_processes_take_is_known(load):
    machine = load("machine")
    others = machine.Others()
    if others.start is None:
        pytest.skip("no /proc/stat here")
    assert others.share() is not None
    # All that runs from here on takes 1 of 4 seconds, and we 0.25 of that.
    busy, own, all_ = others.start
    others._now = lambda: (busy + 1.0, own + 0.25, all_ + 4.0)
    assert others.share() == pytest.approx(0.1875)


# -- compare ----------------------------------------------------------------------------------------------------------


def _file(path, **leads):
    """A result file: name = {peer: [quartiles]}."""
    contests = [{"name": name, "ratio": {"deepcore": ratios}} for name, ratios in leads.items()]
    path.write_text(json.dumps({"benchmark": "s", "contests": contests}), encoding="utf-8")
    return str(path)


def test_compare_names_what_became_slower_against_every_peer(load, tmp_path, capsys):
    compare = load("compare")
    tight = lambda x: [0.99 * x, x, 1.01 * x]
    base = _file(
        tmp_path / "base.json",
        slow={"numpy": tight(2.0), "torch": tight(3.0)},
        noisy={"numpy": [1.0, 2.0, 3.0]},
        peer={"numpy": tight(2.0), "torch": tight(3.0)},
        fast={"numpy": tight(1.0)},
        gone={"numpy": tight(1.0)},
    )
    head = _file(
        tmp_path / "head.json",
        slow={"numpy": tight(1.0), "torch": tight(1.6)},
        noisy={"numpy": [0.9, 1.8, 2.7]},
        peer={"numpy": tight(1.0), "torch": tight(3.0)},  # NumPy became faster
        fast={"numpy": tight(1.5)},
    )
    assert compare.main([base, head]) == 1
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["slow"].endswith("slower") and "×0.5" in lines["slow"]
    assert lines["fast"].endswith("faster") and "gone" not in lines
    assert lines["noisy"].endswith(")") and lines["peer"].endswith(")")
    assert "4 compared, 1 slower" in lines["4"]
    assert compare.main([base, head, "-k", "fast"]) == 0
    assert compare.main([base, head, "-k", "nothing"]) == 2
    assert compare.main([head, base]) == 1 and compare.main([base, base]) == 0


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_made_of_the_committed_figures(load):
    report = load("report")
    machines = report.machines()
    pages = {"performance.md": report.index(machines, report.gpus())}
    pages.update((f"performance-{name}.md", report.page(results, name)) for name, results in machines.items())
    pages.update((f"performance-{name}.md", report.gpu_page(result)) for name, result in report.gpus().items())
    assert len(pages) > 1
    for name, page in pages.items():
        assert page == (ROOT / "docs" / name).read_text(encoding="utf-8"), "run: python benchmarks/report.py"
        for link in re.findall(r"\]\(([\w.-]+)\)", page):
            assert (ROOT / "docs" / link).is_file(), link


def test_the_page_names_defeats_and_missed_goals(load):
    report = load("report")

    def entry(name, shape, own, **ratios):
        every = {"seconds": {s: [1e-3] * 3 for s in ("deepcore", *own)}, "rounds": 9}
        return {"name": name, "shape": shape, "form": "AB", "work": 2e6, **every, "ratio": {"deepcore": own, **ratios}}

    def gemm(numpy, torch, peak):
        kernels = {"fma peak": [peak] * 3, "numpy best core": [1.2] * 3}
        own = {"numpy": [numpy] * 3, "torch": [torch] * 3, "numpy best core": [1.2] * 3, "fma peak": [peak] * 3}
        return [entry("a", [1024, 1024, 1024], own, **{"deepcore kernels": kernels})]

    def text(entries):
        return report.page({"gemm": {"machine": {"processor": "P", "date": "D"}, "contests": entries}})

    good, bad = text(gemm(1.2, 1.8, 0.9)), text(gemm(0.8, 1.2, 0.7))
    assert "**missed**" not in good and "None." in good and "processor P, date D" in good
    assert bad.count("**missed**") == 3 and "NumPy as installed wins 1 of 1: 1024×1024×1024 A·B (×0.80)" in bad


@pytest.mark.slow
def test_the_command_runs_and_saves_only_whole_suites(tmp_path):
    pytest.importorskip("pytest_benchmark")
    before = {p: p.read_bytes() for p in (BENCHMARKS / "results").rglob("*.json")}
    command = [sys.executable, "-m", "pytest", "benchmarks", "--quick", "--save", "-k", "eager and mul"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not saved, because something is missing: eager" in done.stdout or "not saved\n" in done.stdout
    assert "mul, recorded" in done.stdout
    assert before == {p: p.read_bytes() for p in (BENCHMARKS / "results").rglob("*.json")}
