"""`dc.profile`: time, arithmetic, bytes and memory of what runs, by op and by module, eager and compiled.

>>> with dc.profile(record_shapes=True) as prof:
...     loss = F.cross_entropy(model(x), y)
...     loss.backward()
...     optimizer.step()
>>> print(prof.table(sort_by="time", group_by="module", row_limit=20))
>>> prof.export_chrome_trace("trace.json")  # for chrome://tracing and ui.perfetto.dev

Names and arguments are those of `torch.profiler`.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import inspect
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deepcore import locks, missing
from deepcore.autograd.modes import stepping
from deepcore.effects import mode
from deepcore.errors import ArgumentError, ArgumentTypeError, suggest
from deepcore.profiler import trace
from deepcore.profiler.events import Event, Watch, clock
from deepcore.profiler.tables import GROUPS, Averages, Row, by_module, by_op

__all__ = [
    "Averages",
    "Event",
    "ProfilerAction",
    "ProfilerActivity",
    "Row",
    "profile",
    "record_function",
    "schedule",
    "supported_activities",
    "tensorboard_trace_handler",
]


class ProfilerActivity(enum.Enum):
    """Devices whose ops are recorded."""

    CPU = 0
    CUDA = 1


class ProfilerAction(enum.Enum):
    """What a profile does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def supported_activities() -> set[ProfilerActivity]:
    """All activities."""
    return set(ProfilerActivity)


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0
) -> Callable[[int], ProfilerAction]:
    """Steps by cycles: `wait` that are not recorded, `warmup` that are recorded and discarded, `active` that are kept.

    `repeat`: the number of cycles, 0 for no end. `skip_first`: steps ahead of the first cycle.
    """
    for name, value in (("wait", wait), ("warmup", warmup), ("repeat", repeat), ("skip_first", skip_first)):
        if not isinstance(value, int) or value < 0:
            raise ArgumentError(f"{name} is a number of steps", expected="a whole number ≥ 0", received=repr(value))
    if not isinstance(active, int) or active < 1:
        raise ArgumentError("active is a number of steps", expected="a whole number ≥ 1", received=repr(active))
    length = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        step -= skip_first
        if step < 0 or (repeat and step >= repeat * length):
            return ProfilerAction.NONE
        step %= length
        if step < wait:
            return ProfilerAction.NONE
        if step < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if step < length - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def _always(step: int) -> ProfilerAction:
    return ProfilerAction.RECORD


class profile:
    """Records the ops, modules, programs and optimizer steps that run inside, in the threads that enter it.

    `print(prof)` shows a table by op, `prof.table(group_by="module")` one by module; `prof.events()` are single events.
    FLOP counts additions, multiplications, divisions and comparisons as the kernels declare them (a product of matrices
    of m×k and k×n: 2mkn), bytes are the operands and results of each op. An op's gradient belongs to the module whose
    forward ran the op. On a GPU each op is waited for. A compiled function's program runs step by step, each timed, with
    the same bits; on a GPU its graph is timed as a whole, and divided by the times of its steps when each runs alone.

    activities: `ProfilerActivity.CPU`, `.CUDA`: devices whose ops count (default: both).
    schedule: function from step numbers to actions, as `schedule(…)` returns; call `prof.step()` after each step.
    on_trace_ready: called with the profile at the end of each cycle, or of the block where there is no schedule.
    record_shapes: keep shapes and dtypes of operands. profile_memory: memory that ops allocate (default True, as it
    costs little here). with_stack: keep the user's lines. with_flops, with_modules: accepted; both are always recorded.

    A profile may be entered again inside itself, and several at once. Other threads are recorded where they enter the
    profile, too; processes, such as workers of a `DataLoader`, are not. As a decorator it records each call, and each step
    of a generator. An op costs some 10 to 20 µs more while it is profiled, outside of its own time; nothing is slower
    without a profile.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        record_shapes: bool = False,
        profile_memory: bool = True,
        with_stack: bool = False,
        with_flops: bool = True,
        with_modules: bool = True,
    ):
        chosen = supported_activities() if activities is None else set(activities)
        if not chosen or not chosen <= supported_activities():
            raise ArgumentError(
                "activities are devices to record",
                expected="ProfilerActivity.CPU, ProfilerActivity.CUDA or both",
                received=repr(activities),
            )
        for name, function in (("schedule", schedule), ("on_trace_ready", on_trace_ready)):
            if function is not None and not callable(function):
                raise ArgumentTypeError(f"{name} is a function", received=type(function).__name__)
        self.activities = chosen
        self.record_shapes, self.profile_memory, self.with_stack = record_shapes, profile_memory, with_stack
        self.on_trace_ready = on_trace_ready
        self.step_num = 0
        #: Whether what runs now is recorded.
        self.recording = False
        self._schedule, self._has_schedule = schedule or _always, schedule is not None
        self._action = ProfilerAction.NONE
        self._events: list[Event] = []
        #: By thread: how often it has entered, and its watch.
        self._depths: dict[int, int] = {}
        self._watches: dict[int, Watch] = {}
        self._lock = locks.rlock()
        self._step_event: tuple[Watch, Event] | None = None
        self._started, self._nanoseconds = 0, 0

    # -- starting and stopping --------------------------------------------------------------------------------
    def start(self) -> None:
        """Begin to record this thread."""
        thread = threading.get_ident()
        with self._lock:
            self._depths[thread] = depth = self._depths.get(thread, 0) + 1
            if depth > 1:
                return
            if not self._watches:
                self._started = clock()
                self._turn_to(self._schedule(self.step_num))
            watch = self._watches[thread] = mode.profiler or Watch()
            watch.add(self)
            if len(self._watches) == 1:
                self._begin_step(watch)

    def stop(self) -> None:
        """End what `start()` began in this thread."""
        thread = threading.get_ident()
        with self._lock:
            if not self._depths.get(thread):
                raise ArgumentError(
                    "this profile is stopped in a thread that it does not record",
                    fix="call start() in the thread first",
                )
            self._depths[thread] -= 1
            if self._depths[thread]:
                return
            watch = self._watches.pop(thread)
            last = not self._watches
            if last:
                self._end_step()
            watch.remove(self)
            if last:
                self._nanoseconds += clock() - self._started
                kept = self._action in (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
                self._turn_to(ProfilerAction.NONE)
        if last and kept and self.on_trace_ready is not None:
            self.on_trace_ready(self)

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc) -> None:
        self.stop()

    def __call__(self, function: Callable) -> Callable:
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ArgumentTypeError(
                "a coroutine is not profiled as a whole, as others run while it waits",
                received=f"async def {function.__name__}",
                fix="with prof: around the parts that compute",
            )
        if not callable(function):
            raise ArgumentTypeError("a profile decorates a function", received=type(function).__name__)
        if inspect.isgeneratorfunction(function):
            return stepping(lambda: self, function)

        @functools.wraps(function)
        def profiled(*args, **kwargs):
            with self:
                return function(*args, **kwargs)

        return profiled

    # -- steps --------------------------------------------------------------------------------------------------
    def step(self) -> None:
        """Report the end of a training step; the schedule decides what the next one does."""
        if not self._watches:
            raise ArgumentError(
                "step() was called outside of the profile", fix="with dc.profile(…) as prof: … prof.step()"
            )
        with self._lock:
            self._end_step()
            done = self._action is ProfilerAction.RECORD_AND_SAVE
            self.step_num += 1
        if done and self.on_trace_ready is not None:
            self.on_trace_ready(self)
        with self._lock:
            self._turn_to(self._schedule(self.step_num))
            watch = self._watches.get(threading.get_ident())
            if watch is not None:
                self._begin_step(watch)

    def _turn_to(self, action: ProfilerAction) -> None:
        if not isinstance(action, ProfilerAction):
            raise ArgumentTypeError(
                "a schedule returns an action",
                expected="a ProfilerAction",
                received=repr(action),
                fix="dc.profiler.schedule(wait=…, warmup=…, active=…)",
            )
        before, self._action = self._action, action
        kept = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)
        if action is ProfilerAction.WARMUP or (
            action in kept and (before is not ProfilerAction.RECORD) and self._has_schedule
        ):
            self._events = []  # of a warm-up, or of the cycle before
        self.recording = action is not ProfilerAction.NONE
        for watch in list(self._watches.values()):
            watch.refresh()

    def _begin_step(self, watch: Watch) -> None:
        if self._has_schedule and self.recording:
            self._step_event = watch, watch.begin(f"ProfilerStep#{self.step_num}", "region")

    def _end_step(self) -> None:
        if self._step_event is not None:
            watch, event = self._step_event
            self._step_event = None
            watch.finish(event)

    def add(self, event: Event) -> None:
        """Keep an event, if it is one of the activities."""
        if self.recording:
            on_cpu = event.device == "cpu"
            if (
                event.kind not in ("op", "step")
                or (ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA) in self.activities
            ):
                self._events.append(event)

    # -- results ------------------------------------------------------------------------------------------------
    def events(self) -> list[Event]:
        """The events, in the order in which they began."""
        return sorted(self._events, key=lambda event: (event.start, -event.end))

    @property
    def running(self) -> bool:
        """Whether some thread is inside."""
        return bool(self._watches)

    @property
    def seconds(self) -> float:
        """Time inside the profile."""
        return (self._nanoseconds + (clock() - self._started if self._watches else 0)) * 1e-9

    @property
    def peak_memory(self) -> int:
        """The most bytes in use after an event: on the CPU of arrays that ops inside allocated, on a GPU of the pool; with
        the planned memory of the program that runs."""
        return max((event.in_use for event in self._events), default=0)

    @property
    def rows(self) -> list[tuple[str, int, float]]:
        """(op, calls, seconds), the longest first."""
        rows = by_op([event for event in self._events if event.kind in ("op", "step")])
        return sorted(((row.key, row.count, row.self_seconds) for row in rows), key=lambda row: -row[2])

    def key_averages(
        self, group_by_input_shape: bool = False, group_by_stack_n: int = 0, *, group_by: str | None = None
    ) -> Averages:
        """Rows of `group_by`: "op", "op+shape" or "module"; `.table(sort_by=…, row_limit=…)` shows them."""
        group = group_by or ("op+shape" if group_by_input_shape else "op")
        if group not in GROUPS:
            raise ArgumentError(
                "events are grouped by op or by module", received=f"group_by={group!r}", fix=suggest(group, GROUPS)
            )
        for wanted, kept, name in (
            (group == "op+shape", self.record_shapes, "record_shapes"), (group_by_stack_n, self.with_stack, "with_stack"),
        ):  # fmt: skip
            if wanted and not kept:
                raise ArgumentError(f"this profile was made without {name}", fix=f"dc.profile({name}=True)")
        events = self.events()
        if group == "module":
            return Averages(by_module(events), "module", self.profile_memory)
        return Averages(by_op(events, group == "op+shape", group_by_stack_n), "op", self.profile_memory)

    def table(self, sort_by: str = "time", group_by: str = "op", row_limit: int = 100) -> str:
        """The rows of `key_averages` as text, and a line of sums; see `Averages.table`.

        `sort_by`: "time" (each row's own), "total", "calls", "flops", "bytes", "memory", "name", or PyTorch's names.
        """
        averages = self.key_averages(group_by=group_by)
        total = averages.total_average()
        work = sum(event.flops for event in self._events)
        line = f"{self.seconds * 1e3:.3f} ms in all, {total.self_seconds * 1e3:.3f} of them in rows; {work * 1e-9:.4g} GFLOP"
        if self.profile_memory:
            line += f"; peak memory {self.peak_memory * 1e-6:.4g} MB"
        return f"{averages.table(sort_by, row_limit)}\n{line}"

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path) -> None:
        """Write the events as JSON for chrome://tracing and ui.perfetto.dev; a name that ends in .gz is compressed."""
        trace.write(path, self.events(), self.profile_memory)


@contextlib.contextmanager
def record_function(name: str, args: str | None = None) -> Iterator[None]:
    """A region of a profile: what runs inside is shown under `name`. Also a decorator; nothing without a profile."""
    if not isinstance(name, str):
        raise ArgumentTypeError(
            "a region has a name", expected="a string", received=type(name).__name__, fix='record_function("name")'
        )
    with region(name if args is None else f"{name}({args})", "region"):
        yield


@contextlib.contextmanager
def region(name: str, kind: str) -> Iterator[Event | None]:
    """An event of this thread's profiles; None without any."""
    watch = mode.profiler
    if watch is None or not watch.recording:
        yield None
        return
    event = watch.begin(name, kind)
    try:
        yield event
    finally:
        watch.finish(event)


def tensorboard_trace_handler(dir_name, worker_name: str | None = None, use_gzip: bool = False) -> Callable:
    """For `on_trace_ready`: writes each trace to a file of its own in a folder."""

    def write(prof: profile) -> None:
        os.makedirs(dir_name, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        end = ".gz" if use_gzip else ""
        prof.export_chrome_trace(os.path.join(dir_name, f"{worker}.{clock()}.pt.trace.json{end}"))

    return write


__getattr__ = missing.names_of(__name__, "torch.profiler")
