"""Tables of a profile: events grouped by op, by op and shapes, or by module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepcore.autograd.scopes import Scope
from deepcore.errors import ArgumentError, suggest
from deepcore.profiler.events import WORK, Event

GROUPS = ("op", "module", "op+shape")
_MOST = 55


@dataclass(eq=False)
class Row:
    """Events of one group: `total` counts what they enclose, `self_seconds` does not."""

    key: str
    count: int = 0
    self_seconds: float = 0.0
    total_seconds: float = 0.0
    flops: float = 0
    bytes: int = 0
    memory: int = 0
    peak_memory: int = 0
    input_shapes: list[list[int]] = field(default_factory=list)
    stack: list[str] = field(default_factory=list)
    devices: set[str] = field(default_factory=set)

    # PyTorch's names; times in microseconds.
    @property
    def self_cpu_time_total(self) -> float:
        return self.self_seconds * 1e6

    @property
    def cpu_time_total(self) -> float:
        return self.total_seconds * 1e6

    @property
    def cpu_time(self) -> float:
        return self.cpu_time_total / max(self.count, 1)

    @property
    def self_device_time_total(self) -> float:
        return self.self_cpu_time_total if self.devices - {"cpu"} else 0.0

    @property
    def device_time_total(self) -> float:
        return self.cpu_time_total if self.devices - {"cpu"} else 0.0

    @property
    def cpu_memory_usage(self) -> int:
        return self.memory

    self_cpu_memory_usage = cpu_memory_usage

    def add(self, event: Event) -> None:
        """Count an event, apart from its time."""
        self.flops += event.flops
        self.bytes += event.bytes
        self.memory += event.memory
        self.peak_memory = max(self.peak_memory, event.in_use)
        self.devices.add(event.device)

    def __repr__(self) -> str:
        return f"<{self.key}: {self.count} calls, {_time(self.self_seconds)} of its own>"


_DEVICE_TIME = ("cuda_time_total", "device_time_total")
#: What a table can be sorted by: deepcore's names, then PyTorch's.
SORTS: dict[str, Callable[[Row], float]] = {
    "time": lambda row: row.self_seconds,
    "total": lambda row: row.total_seconds,
    "calls": lambda row: row.count,
    "flops": lambda row: row.flops,
    "bytes": lambda row: row.bytes,
    "memory": lambda row: row.memory,
    "count": lambda row: row.count,
    "cpu_time": lambda row: row.cpu_time,
    "cpu_time_total": lambda row: row.total_seconds,
    "self_cpu_time_total": lambda row: row.self_seconds,
    **{name: lambda row: row.device_time_total for name in _DEVICE_TIME},
    **{f"self_{name}": lambda row: row.self_device_time_total for name in _DEVICE_TIME},
    "cpu_memory_usage": lambda row: row.memory,
    "self_cpu_memory_usage": lambda row: row.memory,
}


class Averages(list):
    """Rows of a profile, as `profile.key_averages()` returns them."""

    def __init__(self, rows: Iterable[Row], heading: str = "op", memory: bool = False):
        super().__init__(rows)
        self._heading, self._memory = heading, memory

    def total_average(self) -> Row:
        """The sum of all rows."""
        total = Row("Total")
        for row in self:
            total.count += row.count
            total.self_seconds += row.self_seconds
            total.flops += row.flops
            total.bytes += row.bytes
            total.memory += row.memory
            total.peak_memory = max(total.peak_memory, row.peak_memory)
        total.total_seconds = total.self_seconds
        return total

    def table(self, sort_by: str | None = None, row_limit: int = 100, max_name_column_width: int = _MOST) -> str:
        """The rows as text, sorted by time, unless `sort_by` names something else; `row_limit` of them, -1: all.

        `self` is time outside of what a row encloses, `total` with it; shares are of the sum of all `self`. FLOP counts
        additions, multiplications, divisions and comparisons; GFLOP/s and GB/s refer to `self`, for modules to `total`.
        """
        rows = sorted_rows(self, sort_by or "time")
        shown = rows if row_limit < 0 else rows[:row_limit]
        whole = sum(row.self_seconds for row in self) or 1.0
        with_shapes = any(row.input_shapes for row in self)
        head = [self._heading, "calls", "self", "total", "share", "FLOP", "GFLOP/s", "bytes", "GB/s"]
        head += ["memory", "peak"] * self._memory + ["shapes"] * with_shapes
        lines = [head]
        for row in shown:
            seconds = row.total_seconds if self._heading == "module" else row.self_seconds
            cells = [
                row.key, str(row.count), _time(row.self_seconds), _time(row.total_seconds), f"{row.self_seconds / whole:.1%}",
                _short(row.flops), _rate(row.flops, seconds), _short(row.bytes) + "B" * bool(row.bytes),
                _rate(row.bytes, seconds),
            ]  # fmt: skip
            if self._memory:
                cells += [
                    _short(row.memory) + "B" * bool(row.memory),
                    _short(row.peak_memory) + "B" * bool(row.peak_memory),
                ]
            lines.append(cells + [str(row.input_shapes)] * with_shapes)
        left = {0, len(head) - 1 if with_shapes else 0}
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        widths[0] = min(widths[0], max(max_name_column_width, len(head[0])))
        text = [
            "  ".join(
                _cut(cell, width).ljust(width) if i in left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        if len(shown) < len(rows):
            text.append(f"… {len(rows) - len(shown)} more")
        return "\n".join(text)

    def __str__(self) -> str:
        return self.table()


def sorted_rows(rows: Iterable[Row], sort_by: str) -> list[Row]:
    if sort_by == "name":
        return sorted(rows, key=lambda row: row.key)
    if sort_by not in SORTS:
        raise ArgumentError(
            "a table is sorted by one of its columns", received=repr(sort_by), fix=suggest(sort_by, SORTS)
        )
    return sorted(rows, key=SORTS[sort_by], reverse=True)


# -- grouping ---------------------------------------------------------------------------------------------------------


def by_op(events: Sequence[Event], shapes: bool = False, stack_depth: int = 0) -> list[Row]:
    """One row for each name; modules are left out."""
    rows: dict[tuple, Row] = {}
    inner: dict[Event, int] = {}
    listed = [event for event in events if event.kind != "module"]
    for event in listed:
        parent = next((e for e in event.ancestors() if e.kind != "module"), None)
        if parent is not None:
            inner[parent] = inner.get(parent, 0) + event.end - event.start
    for event in listed:
        key = (event.key, str(event.input_shapes) if shapes else "", tuple(event.stack[:stack_depth]))
        row = rows.setdefault(key, Row(event.key))
        if shapes:
            row.input_shapes = event.input_shapes
        row.stack = event.stack[:stack_depth]
        row.count += 1
        row.self_seconds += max(event.end - event.start - inner.get(event, 0), 0) * 1e-9
        if not any(e.key == event.key and e.kind == event.kind for e in event.ancestors()):
            row.total_seconds += event.seconds
        row.add(event)
    return list(rows.values())


def by_module(events: Sequence[Event]) -> list[Row]:
    """Two rows for each module: its forward, and the gradients of the ops of its forward.

    FLOP, bytes and `total` of a module include its submodules.
    """
    rows: dict[Any, Row] = {}
    names = labels({event.scope for event in events if event.scope is not None})
    inner: dict[Event, int] = {}

    def row(scope: Scope | None, backward: bool) -> Row:
        name = names[scope] if scope is not None else "(no module)"
        return rows.setdefault((scope, backward), Row(name + " (backward)" * backward))

    parts = [e for e in events if e.kind in ("module", "program") or e.kind in WORK]
    for event in parts:
        parent = next((e for e in event.ancestors() if e.kind in ("module", "optimizer")), None)
        if parent is None or any(e.kind == "program" for e in event.ancestors()):  # a program's steps are part of it
            continue
        if event.kind != "op" or event.backward or event.scope != parent.scope or parent.kind == "optimizer":
            inner[parent] = inner.get(parent, 0) + event.end - event.start
    for event in parts:
        if event.kind == "program":
            continue
        ancestors = list(event.ancestors())
        within = {e.scope for e in ancestors if e.kind == "module"}
        scope = event.scope
        if event.kind == "module":
            entry = row(scope, False)
            entry.count += 1
            entry.self_seconds += max(event.end - event.start - inner.get(event, 0), 0) * 1e-9
            entry.total_seconds += event.seconds if scope not in within else 0
            continue
        if scope is None and event.kind == "optimizer":
            owners = [rows.setdefault(event.name, Row(event.name))]
        else:
            owners = [row(s, event.backward) for s in ([None] if scope is None else scope.ancestors())]
        # A forward's time is that of the module's own event, unless a program computes it.
        if event.backward or scope not in within or any(e.kind == "program" for e in ancestors):
            owners[0].count += 1
            owners[0].self_seconds += max(event.end - event.start - inner.get(event, 0), 0) * 1e-9
        for entry, ancestor in zip(owners, [None] if scope is None else scope.ancestors()):
            entry.add(event)
            entry.total_seconds += event.seconds if event.backward or ancestor not in within else 0
    return list(rows.values())


def labels(scopes: Iterable[Scope]) -> dict[Scope, str]:
    """Names of modules: their paths, with the outermost module's class and a number where two have the same path."""
    known = set(scopes)
    for scope in list(known):
        known.update(scope.ancestors())
    roots: dict[str, list[int]] = {}
    for scope in sorted(known, key=lambda s: s.path):
        owners = roots.setdefault(scope.label, [])
        if scope.root not in owners:
            owners.append(scope.root)
    classes: dict[str, list[int]] = {}
    for scope in known:
        owners = classes.setdefault(scope.name, [])
        if scope.root not in owners:
            owners.append(scope.root)
    named = {}
    for scope in known:
        label = scope.label
        if len(roots[label]) > 1:
            owners = classes[scope.name]
            number = f"#{owners.index(scope.root) + 1}" if len(owners) > 1 else ""
            label = f"{scope.name}{number}" + (f".{scope.path}" if scope.path else "")
        named[scope] = label
    return named


# -- text ---------------------------------------------------------------------------------------------------------------


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3f} {unit}"
    return f"{seconds * 1e6:.1f} µs"


def _short(number: float) -> str:
    sign, number = "-" if number < 0 else "", abs(number)
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{sign}{number / size:.3g} {unit}"
    return f"{sign}{number:.0f} " if number else "-"


def _rate(amount: float, seconds: float) -> str:
    return f"{amount / seconds * 1e-9:.2f}" if amount and seconds else "-"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
