"""Chrome traces: the JSON that chrome://tracing and Perfetto read."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from typing import Any

from deepcore.profiler.events import WORK, Event
from deepcore.profiler.tables import labels


def trace(events: Sequence[Event], memory: bool) -> dict[str, Any]:
    """Events as complete events ("X") by thread, nested by their times; gradients of a module in a row are one, too.

    Memory in use is a counter ("C"). Times are microseconds.
    """
    pid = os.getpid()
    names = labels({event.scope for event in events if event.scope is not None})
    start = min((event.start for event in events), default=0)
    threads = {t.ident: t.name for t in threading.enumerate()}
    entries: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "deepcore"}}
    ]
    for number in sorted({event.thread for event in events}):
        entries.append({"ph": "M", "name": "thread_name", "pid": pid, "tid": number, "args": {"name": threads.get(number, f"thread {number}")}})  # fmt: skip

    def complete(name: str, category: str, thread: int, begin: int, end: int, args: dict) -> None:
        entries.append({
            "ph": "X", "name": name, "cat": category, "pid": pid, "tid": thread, "ts": (begin - start) / 1e3,
            "dur": (end - begin) / 1e3, "args": args,
        })  # fmt: skip

    ordered = sorted(events, key=lambda e: (e.thread, e.start, -e.end))
    for thread, name, begin, end in _backward_spans(ordered, names):
        complete(f"{name} (backward)", "module", thread, begin, end, {})
    for event in ordered:
        args: dict[str, Any] = {}
        if event.scope is not None:
            args["module"] = names[event.scope]
        if event.kind in WORK:
            args |= {"device": event.device, "flops": event.flops, "bytes": event.bytes}
        for name in ("input_shapes", "dtypes", "kernels", "stack"):
            if getattr(event, name):
                args[name] = getattr(event, name)
        if event.origins:
            args["ops"] = [f"{op} in {module}" if module else op for op, module in event.origins]
        named = event.kind == "module" and event.scope is not None
        complete(
            names[event.scope] if named else event.key, event.kind, event.thread, event.start, event.end, args  # type: ignore[index]
        )  # fmt: skip
    if memory:
        for event in sorted(events, key=lambda e: e.end):
            entries.append({
                "ph": "C", "name": f"memory {event.device}", "pid": pid, "tid": event.thread,
                "ts": (event.end - start) / 1e3, "args": {"bytes": event.in_use},
            })  # fmt: skip
    return {"traceEvents": entries, "displayTimeUnit": "ms", "otherData": {"source": "deepcore"}}


def _backward_spans(ordered: Sequence[Event], names: dict) -> list[tuple[int, str, int, int]]:
    """(thread, module, start, end) of gradients that follow one another and belong to one module or its submodules."""
    spans: list[tuple[int, str, int, int]] = []
    open_spans: list[list] = []  # [scope, thread, parent, start, end], the outermost first

    def close(count: int) -> None:
        while len(open_spans) > count:
            scope, thread, _, begin, end = open_spans.pop()
            spans.append((thread, names[scope], begin, end))

    for event in ordered:
        if event.kind not in WORK:
            continue
        wanted = [] if event.scope is None or not event.backward else event.scope.ancestors()[::-1]
        keep = 0
        while keep < min(len(open_spans), len(wanted)) and open_spans[keep][:3] == [
            wanted[keep],
            event.thread,
            event.parent,
        ]:
            keep += 1
        close(keep)
        for entry in open_spans:
            entry[4] = event.end
        open_spans += [[scope, event.thread, event.parent, event.start, event.end] for scope in wanted[keep:]]
    close(0)
    return spans


def write(path, events: Sequence[Event], memory: bool) -> None:
    """Write the trace to a file; one whose name ends in .gz is compressed."""
    path = os.fspath(path)
    text = json.dumps(trace(events, memory))
    if path.endswith(".gz"):
        import gzip

        with gzip.open(path, "wt", encoding="utf-8") as file:
            file.write(text)
    else:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
