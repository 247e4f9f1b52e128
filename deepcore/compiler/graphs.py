"""One CUDA graph for the steps of a program, over memory of its own.

The steps are the ops' own forwards, whether kernels, CuPy's functions or cuBLAS, so results have the same bits.
Memory comes from a pool of the program's own, whose blocks are reused in the order of the capture. What changes from
run to run (learning rates, positions in random streams) is words in device memory, sent before each launch.
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
    """Whole numbers that a graph reads and the host sets before each launch."""

    def __init__(self, xp):
        self.xp, self.tables, self.size = xp, [], 0
        self.host: Any = None
        self.device: Any = None
        self.captured = False

    def table(self, rows: int, width: int) -> _Table:
        table = _Table(self.size, rows, width)
        self.tables.append(table)
        self.size += rows * width
        return table

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


class RangeErrors:
    """Counts indices out of range while a program's steps run; the graph sends the count to the host as it ends."""

    def __init__(self, xp):
        self.xp, self.total, self.host = xp, xp.zeros((), dtype=dt.int64), xp.pinned_words(1)

    def __enter__(self):
        self.xp.counting.total = self.total

    def __exit__(self, *exc):
        self.xp.counting.total = None

    def report(self) -> None:
        self.xp.report(self.total, self.host)

    def any_reported(self) -> bool:
        """Whether a finished graph has counted any; resets the count."""
        if not self.host[0]:
            return False
        self.xp.synchronize()
        self.total[...] = 0
        self.host[0] = 0
        return True

    def check(self) -> None:
        """Raise if a finished graph has counted any."""
        if self.any_reported():
            raise IndexRangeError(
                "an earlier call of this compiled function read a class or a row out of range, and left it out",
                fix="check the indices before they come in, or call the function itself to see which it was",
            )


class Graph:
    """`steps` as one launch. `inputs`: memory into which inputs are copied; `lasting`: places read after a run."""

    #: No kernel launches, for `explain`: all steps are calls.
    launches: tuple = ()

    def __init__(
        self,
        xp,
        steps: list[Step],
        words: Words,
        range_errors: RangeErrors,
        inputs: dict[Buffer, Any],
        lasting: list[Ref],
    ):
        self.xp, self.steps, self.words, self.range_errors = xp, steps, words, range_errors
        self.lasting = {ref.buffer for ref in lasting}
        self.dead = last_uses(steps, self.lasting)
        buffers = {b for step in steps for b in step.buffers()} | self.lasting
        self.fixed: dict[Buffer, Any] = {b: b.array for b in buffers if b.kind == "outside"} | inputs
        #: Memory of the lasting places, after a capture.
        self.outputs: dict[Buffer, Any] = {}
        self.pool: Any = None
        self.graph: Any = None

    @property
    def size(self) -> int:
        """Bytes of the program's own memory."""
        return self.pool.total_bytes() if self.pool is not None else 0

    def capture(self, restore: Callable = lambda: None) -> None:
        """Run all steps once eagerly, which compiles and loads what they need, and once under capture.

        `restore()`, called in between, undoes what the steps have changed.
        """
        xp = self.xp
        cuda, stream = xp.array_module.cuda, xp.capture_stream
        self.graph, self.outputs = None, {}
        self.pool = cuda.MemoryPool()
        xp.synchronize()
        with xp.gpu, cuda.using_allocator(self.pool.malloc), stream, self.range_errors:
            self._run_steps()
            stream.synchronize()
            restore()
            stream.synchronize()
            self.words.captured = True
            stream.begin_capture()
            try:
                memory = self._run_steps()
                self.range_errors.report()
            except BaseException:
                with contextlib.suppress(Exception):
                    stream.end_capture()
                raise
            finally:
                self.words.captured = False
            self.graph = stream.end_capture()
        # Keeps constants that forwards read alive, even if the backend drops its cache.
        self.constants = list(xp._constants.values())
        self.outputs = {buffer: memory[buffer] for buffer in self.lasting}

    def launch(self) -> None:
        """Queue one run."""
        self.graph.launch()

    def array(self, ref: Ref):
        """The array of a lasting place, with the content of the last run."""
        return view({**self.fixed, **self.outputs}, self.xp, ref)

    def memory(self, buffer: Buffer):
        """All bytes of a lasting buffer."""
        return self.array(Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8))

    def _run_steps(self) -> dict[Buffer, Any]:
        """Queue all steps; returns the memory of the buffers alive at the end."""
        return queue_all(self.xp, self.steps, self.dead, dict(self.fixed))

    def times(self, rounds: int) -> list[float]:
        """Seconds of each step run by itself, including synchronisation."""
        cuda, stream = self.xp.array_module.cuda, self.xp.capture_stream
        words = self.words.host.copy()
        best = [math.inf] * len(self.steps)
        self.xp.synchronize()
        try:
            with self.xp.gpu, cuda.using_allocator(cuda.MemoryPool().malloc), stream, self.range_errors:
                for _ in range(rounds):
                    memory = dict(self.fixed)
                    for i, (step, dead) in enumerate(zip(self.steps, self.dead)):
                        start = time.perf_counter()
                        queue(self.xp, memory, step)
                        stream.synchronize()
                        best[i] = min(best[i], time.perf_counter() - start)
                        for buffer in dead:
                            del memory[buffer]
        finally:
            self.words.host[...] = words  # running the steps overwrote addresses that the graph reads
        return best


def queue_all(xp, steps: list[Step], dead: list[list[Buffer]], memory: dict[Buffer, Any]) -> dict[Buffer, Any]:
    """Queue steps over `memory`, to which they add; `dead`: the buffers that are free after each."""
    for step, buffers in zip(steps, dead):
        queue(xp, memory, step)
        for buffer in buffers:
            del memory[buffer]
    return memory


def queue(xp, memory: dict[Buffer, Any], step: Step) -> None:
    """Queue one step."""
    args = [view(memory, xp, ref) for ref in step.ins]
    out = step.call(*args)  # type: ignore[misc]
    for ref, result in zip(step.outs, out if isinstance(out, tuple) else (out,)):
        _store(xp, memory, ref, xp.asarray(result), args)


def _store(xp, memory: dict[Buffer, Any], ref: Ref, result, args: list) -> None:
    new, others = ref.buffer not in memory, (*args, *xp._constants.values())
    whole = result.base is None and result.strides == ref.strides and result.nbytes == ref.buffer.nbytes
    if new and whole and not any(result is other for other in others):
        memory[ref.buffer] = result
        return
    if new:
        memory[ref.buffer] = xp.empty(ref.buffer.nbytes, dtype=dt.uint8)
    view(memory, xp, ref)[...] = result


def view(memory: dict, xp, ref: Ref):
    """The array of a place."""
    base = memory.get(ref.buffer, ref.buffer.array)
    if ref.offset == 0 and (base.shape, base.strides, base.dtype) == (ref.shape, ref.strides, ref.dtype):
        return base
    return at_place(base, ref) if base.size else xp.empty(ref.shape, dtype=ref.dtype)


def at_place(memory, ref: Ref):
    """The array of a place in another array's memory."""
    return type(memory)(ref.shape, ref.dtype, memptr=memory.data + ref.offset, strides=ref.strides)


def last_uses(steps: list[Step], lasting: set[Buffer]) -> list[list[Buffer]]:
    """For each step, the program's own buffers that die after it."""
    last: dict[Buffer, int] = {}
    for i, step in enumerate(steps):
        for buffer in step.buffers():
            if buffer.kind == "own" and buffer not in lasting:
                last[buffer] = i
    dead: list[list[Buffer]] = [[] for _ in steps]
    for buffer, i in last.items():
        dead[i].append(buffer)
    return dead
