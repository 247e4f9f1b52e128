"""Timed runs of programs, for profiles: each step by itself, in the same order and with the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from operator import call
from typing import Any

from deepcore.compiler.explain import moved
from deepcore.compiler.ir import UPDATE
from deepcore.effects import mode
from deepcore.kernels.runtime.executable import Step
from deepcore.profiler.events import Event, Watch, clock


def watch_of(hook) -> Watch | None:
    """The profiler of this thread, where it records and its hook is the only one; programs run, and are timed."""
    watch = getattr(hook, "profiler", None)
    return watch if watch is not None and watch.recording else None


@contextlib.contextmanager
def program(watch: Watch | None, name: str, kind: str = "program") -> Iterator[Event | None]:
    """An event of a run, or of what surrounds one. A program's steps are no ops, so ops in them are not recorded."""
    if watch is None:
        yield None
        return
    event = watch.begin(name, kind)
    try:
        with unhooked() if kind == "program" else contextlib.nullcontext():
            yield event
    finally:
        watch.finish(event)


@contextlib.contextmanager
def unhooked() -> Iterator[None]:
    """Inside, no hook sees the ops of this thread."""
    hook, mode.hook = mode.hook, None
    try:
        yield
    finally:
        mode.hook = hook


class Timed:
    """One run of an executable, step by step; `report` makes events of the steps that ran."""

    def __init__(self, exe: Any):
        self.steps: list[Step] = exe.steps
        self.calls: list[Callable[[], int]] = exe.separately()
        #: The steps up to the last Python call; those behind it run without Python code in between.
        self.cut = max((i + 1 for i, step in enumerate(self.steps) if step.call is not None), default=0)
        self.marks: list[int] = []

    def run(self) -> int:
        """Run up to the last Python call; 0, or the status of the step that stopped."""
        self.marks.append(clock())
        for function in self.calls[: self.cut]:
            status = function()
            self.marks.append(clock())
            if status:
                return status
        return 0

    def last(self) -> Iterable:
        """Runs the other steps as it is consumed; a status other than 0 is that of a step that stopped."""
        append, clocks = self.marks.append, (clock,)
        parts: list[Iterable] = []
        for function in self.calls[self.cut :]:
            parts += [map(call, (function,)), map(append, map(call, clocks))]
        return chain.from_iterable(parts)

    def run_all(self) -> int:
        return self.run() or next(filter(None, self.last()), 0)

    def report(self, watch: Watch, event: Event, planned: int) -> None:
        """Events of the steps; `planned`: bytes of the program's own memory."""
        event.in_use += planned
        report(watch, event, self.steps, list(pairwise(self.marks)))


def report(watch: Watch, parent: Event, steps: Sequence[Step], times: Sequence[tuple[int, int]], device="cpu") -> None:
    """Add an event for each step; `times`: its start and end."""
    for step, (start, end) in zip(steps, times):
        origins = [(origin, watch.scopes.below(parent.scope, origin.scope)) for origin in step.origins]
        event = Event(step.name or "step", "step", start, end, parent.thread, device, parent=parent)
        if step.origins == (UPDATE,):
            event.name, event.kind = f"{step.name}.step", "optimizer"
        elif origins:
            event.backward = all(origin.backward for origin, _ in origins)
            event.scope = next((scope for _, scope in origins if scope is not None), None)
            event.origins = [(o.op + " (backward)" * o.backward, scope.label if scope else "") for o, scope in origins]
        event.flops, event.bytes, event.in_use = step.arithmetic, moved(step), parent.in_use
        launches: Sequence = step.launches or getattr(step.call, "launches", ())
        event.kernels = list(dict.fromkeys(launch.kernel.name for launch in launches))
        if watch.shapes:
            event.input_shapes = [list(ref.shape) for ref in step.ins]
            event.dtypes = [ref.dtype.name for ref in step.ins]
        watch.emit(event)


def report_graph(watch: Watch, parent: Event, graph: Any, seconds: list[float], end: int, xp) -> None:
    """Add an event for each step of a graph, which ran as a whole until `end`: parts in proportion to `seconds`."""
    parent.device = str(xp)
    parent.in_use += graph.size
    total = sum(seconds) or 1.0
    marks, passed = [parent.start], 0.0
    for step in seconds:
        passed += step
        marks.append(parent.start + round((end - parent.start) * passed / total))
    report(watch, parent, graph.steps, list(pairwise(marks)), parent.device)
