"""One CUDA graph for the steps of a program, over memory of its own.

The steps are the ops' own forwards, so kernels, CuPy's functions and cuBLAS take part alike, and bits stay as they are.
Memory comes from a pool of the program's own, whose blocks go from result to result in the order of the capture. What
changes from step to step (learning rates, positions in random streams) is words in device memory, sent before a replay.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.errors import IndexRangeError
from deepcore.kernels.runtime.executable import Buffer, Ref, Step


class _Table:
    """Rows of whole numbers, on the host and in device memory."""

    def __init__(self, at: int, rows: int, width: int):
        self.at, self.shape = at, (rows, width)
        self.host: Any = None
        self.device: Any = None


class Words:
    """Whole numbers that a graph reads, and the host sets before it is launched."""

    def __init__(self, xp):
        self.xp, self.tables, self.size = xp, [], 0
        self.host: Any = None
        self.device: Any = None
        self.captured = False

    def table(self, rows: int, width: int) -> _Table:
        found = _Table(self.size, rows, width)
        self.tables.append(found)
        self.size += rows * width
        return found

    def make(self) -> None:
        self.host = self.xp.host_words(self.size)
        self.device = self.xp.zeros(max(self.size, 1), dtype=dt.int64)
        for table in self.tables:
            part = slice(table.at, table.at + table.shape[0] * table.shape[1])
            table.host, table.device = (words[part].reshape(table.shape) for words in (self.host, self.device))

    def send(self) -> None:
        if self.size:
            self.device.set(self.host)

    def send_unless_captured(self) -> None:
        if not self.captured:
            self.send()


class Wrong:
    """Counts indices out of range while a program's steps run; the graph sends the count to the host as it ends."""

    def __init__(self, xp):
        self.xp, self.total, self.host = xp, xp.zeros((), dtype=dt.int64), xp.pinned_words(1)

    def __enter__(self):
        self.xp.counting.total = self.total

    def __exit__(self, *exc):
        self.xp.counting.total = None

    def report(self) -> None:
        self.xp.report(self.total, self.host)

    def seen(self) -> bool:
        """Whether a graph that is done counted any; then the count starts again."""
        if not self.host[0]:
            return False
        self.xp.synchronize()
        self.total[...] = 0
        self.host[0] = 0
        return True

    def check(self) -> None:
        """Raise where a graph that is done counted any."""
        if self.seen():
            raise IndexRangeError(
                "an earlier call of this compiled function read a class or a row out of range, and left it out",
                fix="check the indices before they come in, or call the function itself to see which it was",
            )


class Graph:
    """`steps` as one launch. `inputs`: memory of what is new in each run; `lasting`: places that are read after it."""

    #: Of kernels, for `explain`: all steps are calls.
    launches: tuple = ()

    def __init__(
        self, xp, steps: list[Step], words: Words, wrong: Wrong, inputs: dict[Buffer, Any], lasting: list[Ref]
    ):
        self.xp, self.steps, self.words, self.wrong = xp, steps, words, wrong
        self.lasting = {ref.buffer for ref in lasting}
        self.dropped = _last_uses(steps, self.lasting)
        buffers = {b for step in steps for b in step.buffers()} | self.lasting
        self.fixed: dict[Buffer, Any] = {b: b.array for b in buffers if b.kind == "outside"} | inputs
        #: Memory of the lasting places, after a capture.
        self.found: dict[Buffer, Any] = {}
        self.pool: Any = None
        self.graph: Any = None

    @property
    def size(self) -> int:
        """Bytes of the program's own memory."""
        return self.pool.total_bytes() if self.pool is not None else 0

    def capture(self, again: Callable = lambda: None) -> None:
        """Run all steps once as they are, which compiles and loads what they need, and once captured.

        `again()` puts back, in between, what the steps have changed.
        """
        xp = self.xp
        cuda, stream = xp.array_module.cuda, xp.capture_stream
        self.graph, self.found = None, {}
        self.pool = cuda.MemoryPool()
        xp.synchronize()
        with xp.gpu, cuda.using_allocator(self.pool.malloc), stream, self.wrong:
            self._perform()
            stream.synchronize()
            again()
            stream.synchronize()
            self.words.captured = True
            stream.begin_capture()
            try:
                at = self._perform()
                self.wrong.report()
            except BaseException:
                with contextlib.suppress(Exception):
                    stream.end_capture()
                raise
            finally:
                self.words.captured = False
            self.graph = stream.end_capture()
        # Constants that forwards read stay where they are, whatever the backend forgets.
        self.constants = list(xp._constants.values())
        self.found = {buffer: at[buffer] for buffer in self.lasting}

    def launch(self) -> None:
        """Queue one run."""
        self.graph.launch()

    def array(self, ref: Ref):
        """A lasting place, as the last run left it."""
        return view({**self.fixed, **self.found}, self.xp, ref)

    def memory(self, buffer: Buffer):
        """All bytes of a lasting buffer."""
        return self.array(Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8))

    def _perform(self) -> dict[Buffer, Any]:
        """Queue all steps; the memory of what is left at the end."""
        at = dict(self.fixed)
        for step, dropped in zip(self.steps, self.dropped):
            self._queue(at, step)
            for buffer in dropped:
                del at[buffer]
        return at

    def _queue(self, at: dict[Buffer, Any], step: Step) -> None:
        given = [view(at, self.xp, ref) for ref in step.ins]
        found = step.call(*given)  # type: ignore[misc]
        for ref, result in zip(step.outs, found if isinstance(found, tuple) else (found,)):
            self._place(at, ref, self.xp.asarray(result), given)

    def _place(self, at: dict, ref: Ref, result, given: list) -> None:
        new, others = ref.buffer not in at, (*given, *self.xp._constants.values())
        whole = result.base is None and result.strides == ref.strides and result.nbytes == ref.buffer.nbytes
        if new and whole and not any(result is other for other in others):
            at[ref.buffer] = result
            return
        if new:
            at[ref.buffer] = self.xp.empty(ref.buffer.nbytes, dtype=dt.uint8)
        view(at, self.xp, ref)[...] = result

    def times(self, rounds: int) -> list[float]:
        """Seconds of each step by itself, waited for."""
        cuda, stream = self.xp.array_module.cuda, self.xp.capture_stream
        words = self.words.host.copy()
        best = [math.inf] * len(self.steps)
        self.xp.synchronize()
        try:
            with self.xp.gpu, cuda.using_allocator(cuda.MemoryPool().malloc), stream, self.wrong:
                for _ in range(rounds):
                    at = dict(self.fixed)
                    for i, (step, dropped) in enumerate(zip(self.steps, self.dropped)):
                        start = time.perf_counter()
                        self._queue(at, step)
                        stream.synchronize()
                        best[i] = min(best[i], time.perf_counter() - start)
                        for buffer in dropped:
                            del at[buffer]
        finally:
            self.words.host[...] = words  # the tables have the addresses that the graph uses
        return best


def view(at: dict, xp, ref: Ref):
    """The array that `ref` is."""
    base = at.get(ref.buffer, ref.buffer.array)
    if ref.offset == 0 and (base.shape, base.strides, base.dtype) == (ref.shape, ref.strides, ref.dtype):
        return base
    return at_place(base, ref) if base.size else xp.empty(ref.shape, dtype=ref.dtype)


def at_place(memory, ref: Ref):
    """The array `ref` in the memory of another one."""
    return type(memory)(ref.shape, ref.dtype, memptr=memory.data + ref.offset, strides=ref.strides)


def _last_uses(steps: list[Step], lasting: set[Buffer]) -> list[list[Buffer]]:
    """For each step, the program's own buffers that nothing uses after it."""
    last: dict[Buffer, int] = {}
    for i, step in enumerate(steps):
        for buffer in step.buffers():
            if buffer.kind == "own" and buffer not in lasting:
                last[buffer] = i
    found: list[list[Buffer]] = [[] for _ in steps]
    for buffer, i in last.items():
        found[i].append(buffer)
    return found
