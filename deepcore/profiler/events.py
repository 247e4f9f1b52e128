"""Events of a profile, and the hook that collects those of one thread.

A thread has one `Watch`, whatever the number of its profiles: it is the hook of the thread's ops (`autograd.graph.apply`),
is told of modules by the list `mode.layers` that it puts in place, and gives each event to every profile that records.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from deepcore.autograd import graph
from deepcore.autograd.scopes import Scope, Scopes, arithmetic_of
from deepcore.backend import get_backend
from deepcore.effects import mode
from deepcore.kernels.plan import interned

clock = time.perf_counter_ns

#: Kinds of events that compute; the others enclose them.
WORK = frozenset({"op", "step", "optimizer"})
_PACKAGES = tuple(
    f"{Path(str(sys.modules[name].__file__)).resolve().parent}/" for name in ("deepcore", "deepcore.kernels")
)
_STACK_DEPTH = 16


@dataclass(eq=False)
class Event:
    """What ran for how long. `kind`: "op", "step" of a compiled program, "program", "compile", "check", "module",
    "optimizer" or "region" (`record_function`).

    Times are nanoseconds of `time.perf_counter_ns`. `flops` counts additions, multiplications, divisions and comparisons,
    `bytes` what is read and written at least; both are 0 for what only encloses other events.
    """

    name: str
    kind: str
    start: int
    end: int = 0
    thread: int = 0
    device: str = "cpu"
    #: Whether it computes a gradient.
    backward: bool = False
    #: The module that it belongs to; that of a gradient is the one whose forward is differentiated.
    scope: Scope | None = None
    parent: Event | None = None
    flops: float = 0
    bytes: int = 0
    #: Bytes allocated less those freed meanwhile, and bytes in use at the end.
    memory: int = 0
    in_use: int = 0
    #: Shapes and dtypes of the operands, with `record_shapes`.
    input_shapes: list[list[int]] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)
    #: file:line of the calls outside of deepcore, innermost first, with `with_stack`.
    stack: list[str] = field(default_factory=list)
    #: Of a step: the kernels, and the ops that it computes, as (op, module) pairs.
    kernels: list[str] = field(default_factory=list)
    origins: list[tuple[str, str]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The name, which for gradients says so."""
        return f"{self.name} (backward)" if self.backward and self.kind in WORK else self.name

    @property
    def module(self) -> str:
        """The module's path as in `named_modules`; the class of the outermost one; "" outside of modules."""
        return "" if self.scope is None else self.scope.label

    @property
    def seconds(self) -> float:
        return (self.end - self.start) * 1e-9

    # PyTorch's names; times in microseconds.
    @property
    def cpu_time_total(self) -> float:
        return (self.end - self.start) * 1e-3

    cpu_time = cpu_time_total

    @property
    def cpu_memory_usage(self) -> int:
        return self.memory

    @property
    def cpu_parent(self) -> Event | None:
        return self.parent

    def ancestors(self) -> Iterator[Event]:
        """The events that enclose it, the innermost first."""
        event = self.parent
        while event is not None:
            yield event
            event = event.parent

    def __repr__(self) -> str:
        return f"<{self.kind} {self.key}: {self.cpu_time_total:.1f} µs>"


class Memory:
    """Bytes of the arrays on the CPU that ops have allocated and that are still alive."""

    def __init__(self):
        self.total = 0
        self._alive: dict[int, weakref.ref] = {}
        self._freed: deque[tuple[int, int]] = deque()

    def add(self, arrays: Iterable, others: Iterable = ()) -> None:
        """Count arrays that own new memory; `others` are older ones, whose memory they may share."""
        self.update()
        old = {id(_owner(array)) for array in others}
        for owner in map(_owner, arrays):
            key, nbytes = id(owner), owner.nbytes
            if key not in old and key not in self._alive and nbytes:
                self._alive[key] = weakref.ref(owner, partial(self._free, (key, nbytes)))
                self.total += nbytes

    def _free(self, freed: tuple[int, int], ref: weakref.ref) -> None:
        self._freed.append(freed)

    def update(self) -> int:
        """The total, less what was freed since."""
        while self._freed:
            key, nbytes = self._freed.popleft()
            self._alive.pop(key, None)
            self.total -= nbytes
        return self.total


def _owner(array):
    """The array that owns an array's memory, as far as arrays do."""
    while type(array.base) is type(array):
        array = array.base
    return array


class _Layers(list):
    """`mode.layers` of a watched thread: reports when the forward of a module begins and ends."""

    def __init__(self, watch: Watch, modules: Iterable):
        super().__init__(modules)
        self._watch = watch
        #: The event of each module, None where it began before.
        self._events: list[Event | None] = [None] * len(self)

    def append(self, module) -> None:
        super().append(module)
        watch, event = self._watch, None
        if watch.recording:
            scope = watch.scopes.of(self)
            assert scope is not None
            event = watch.begin(type(module).__name__, "module", scope)
        self._events.append(event)

    def pop(self, index=-1):
        event = self._events.pop(index)
        if event is not None:
            self._watch.finish(event)
        return super().pop(index)


class Watch:
    """The profiler of one thread."""

    def __init__(self):
        self.profiles: list[Any] = []
        self.recording = self.shapes = self.stacks = self.tracks_memory = False
        #: Events that have begun, the outermost first.
        self.open: list[Event] = []
        self.scopes = Scopes()
        self.memory = Memory()
        self._nodes: weakref.WeakKeyDictionary[Any, Scope] = weakref.WeakKeyDictionary()
        self._outer = mode.hook
        self._thread = threading.get_ident()
        self._hook = self._new_hook()
        self._watching = contextlib.ExitStack()

    def _new_hook(self) -> Callable:
        outer = self._outer
        proceed = outer or graph.run

        def hook(op, inputs, params):
            if not self.recording:
                return proceed(op, inputs, params)
            mode.hook = outer
            try:
                return self._op(proceed, op, inputs, params)
            finally:
                mode.hook = hook

        #: Programs are timed where no other hook has to see their ops.
        hook.profiler = self if outer is None else None  # type: ignore[attr-defined]
        return hook

    # -- profiles -----------------------------------------------------------------------------------------
    def add(self, profile) -> None:
        if not self.profiles:
            self._watching.enter_context(graph.watching())
            mode.hook, mode.profiler = self._hook, self
            mode.layers = _Layers(self, mode.layers)
        self.profiles.append(profile)
        self.refresh()

    def remove(self, profile) -> None:
        self.profiles.remove(profile)
        self.refresh()
        if not self.profiles:
            if mode.hook is self._hook:  # else it stays below another hook, and passes ops on
                mode.hook = self._outer
            mode.profiler, mode.layers = None, list(mode.layers)
            self._watching.close()

    def refresh(self) -> None:
        """Take over what the profiles want to be recorded."""
        active = [p for p in self.profiles if p.recording]
        self.recording = bool(active)
        self.shapes = any(p.record_shapes for p in active)
        self.stacks = any(p.with_stack for p in active)
        self.tracks_memory = any(p.profile_memory for p in active)

    def emit(self, event: Event) -> None:
        for profile in self.profiles:
            profile.add(event)

    # -- events that enclose others -------------------------------------------------------------------------
    def begin(self, name: str, kind: str, scope: Scope | None = None) -> Event:
        parent = self.open[-1] if self.open else None
        if scope is None and parent is not None:
            scope = parent.scope
        event = Event(name, kind, clock(), thread=self._thread, scope=scope, parent=parent)
        if self.stacks:
            event.stack = _user_stack()
        self.open.append(event)
        return event

    def finish(self, event: Event) -> None:
        event.end = clock()
        if event in self.open:  # generators may end in another order
            self.open.remove(event)
        event.in_use = self.memory.update()
        self.emit(event)

    # -- ops --------------------------------------------------------------------------------------------------
    def scope(self) -> Scope | None:
        """The module whose forward runs, or ran when it recorded the node whose gradient is computed; or None."""
        if mode.backward and mode.node is not None:
            scope = self._nodes.get(mode.node)
            if scope is not None:
                return scope
        return self.scopes.of(mode.layers)

    def _op(self, proceed: Callable, op, inputs, params):
        backend = inputs[0].backend
        on_cpu = backend.name == "cpu"
        before = backend.memory().get("used", 0) if self.tracks_memory and not on_cpu else 0
        start = clock()
        out = proceed(op, inputs, params)
        backend.synchronize()
        end = clock()
        outs = out if isinstance(out, tuple) else (out,)
        scope = self.scope()
        event = Event(
            op.label, "op", start, end, self._thread, str(backend), mode.backward, scope,
            self.open[-1] if self.open else None,
        )  # fmt: skip
        specs = specs_of(inputs)
        event.flops = arithmetic_of(op, specs, [t._data.size for t in outs], params)
        if op.view is None:
            event.bytes = sum(map(_touched, {id(t._data): t._data for t in (*inputs, *outs)}.values()))
        node = None if len(outs) > 1 else out._node
        if scope is not None and node is not None:
            self._nodes[node] = scope
        if self.tracks_memory:
            if on_cpu:
                arrays = [t._data for t in outs]
                if node is not None and node.op is op and node.params:
                    arrays += [a for a in node.params.get("aux", ()) if hasattr(a, "nbytes")]
                before = self.memory.update()
                self.memory.add(arrays, [t._data for t in inputs])
                event.in_use = self.memory.total
            else:
                event.in_use = backend.memory().get("used", 0)
            event.memory = event.in_use - before
        if self.shapes:
            event.input_shapes = [list(t._data.shape) for t in inputs]
            event.dtypes = [t._data.dtype.name for t in inputs]
        if self.stacks:
            event.stack = _user_stack()
        self.emit(event)
        return out


def specs_of(tensors: Sequence) -> list:
    """The specs that tensors have, or would have on the CPU."""
    if all(t.backend.name == "cpu" for t in tensors):
        return [t._spec or graph.specify(t) for t in tensors]
    cpu = get_backend("cpu")
    arrays = [t._data for t in tensors]
    return [interned(a.shape, a.strides, a.dtype, bool(a.flags.c_contiguous), cpu) for a in arrays]


def _touched(array) -> int:
    """Bytes of an array's elements, counting those of expanded dimensions once."""
    return math.prod(n for n, stride in zip(array.shape, array.strides) if stride or not n) * array.dtype.itemsize


def _user_stack() -> list[str]:
    lines: list[str] = []
    frame = sys._getframe(2)
    while frame is not None and len(lines) < _STACK_DEPTH:
        code = frame.f_code
        if not code.co_filename.startswith(_PACKAGES):
            lines.append(f"{code.co_filename}({frame.f_lineno}): {code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return lines
