"""Programs: steps over planned memory, bound to addresses once and run many times.

A step is a list of kernel launches, or a call of a Python function where there is no kernel. Operands are places in
buffers. A buffer is outside memory at a fixed address, memory passed to each run, or a part of the program's own memory,
which buffers with disjoint lifetimes share.
"""

from __future__ import annotations

import ctypes
import functools
import math
import time
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepcore.errors import DeepcoreError
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.codegen.kernel import In, Operand, Out, Rest, Size, args
from deepcore.kernels.runtime import threadpool
from deepcore.kernels.runtime.allocator import Block

#: Alignment of own buffers: a cache line.
ALIGN = 64
_MOVE_CHUNK = 1 << 18
#: Size in bytes up to which copies are batched into one launch.
_SMALL_COPY = 1 << 14


@dataclass(eq=False)
class Buffer:
    """`kind`: "own", "outside" (at a fixed address), "bound" (bound for each run), or "table" (words of the program)."""

    kind: str
    nbytes: int
    array: Any = None
    name: str = ""
    #: Written more than once, or in part: the order of steps over it is fixed.
    changing: bool = False
    place: int = -1

    def __repr__(self) -> str:
        return self.name or f"{self.kind}{id(self) & 0xFFFF:04x}"


@functools.lru_cache(1 << 14)
def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected_stride = itemsize
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n != 1 and stride != expected_stride:
            return False
        expected_stride *= n
    return True


@dataclass(frozen=True)
class Ref:
    """An array in a buffer. Strides and offset in bytes."""

    buffer: Buffer
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def contiguous(self) -> bool:
        return _is_contiguous(self.shape, self.strides, self.dtype.itemsize)

    @property
    def whole(self) -> bool:
        return self.offset == 0 and self.contiguous and self.nbytes == self.buffer.nbytes

    def __str__(self) -> str:
        shape = "×".join(map(str, self.shape)) or "1"
        return f"{self.buffer}[{shape}]" if self.whole else f"{self.buffer}+{self.offset}[{shape}]"


@dataclass(eq=False)
class Launch:
    """A launch of all chunks of a kernel. `places`: (buffer, offset) of each word that is an address."""

    kernel: Kernel
    words: list[int]
    places: dict[int, tuple[Buffer, int]]
    chunks: int
    #: Keeps other memory alive that its words point to.
    owner: Any = None

    @classmethod
    def of(cls, kernel: Kernel, chunks: int, /, **arguments) -> Launch:
        """A launch with arguments by name, where (buffer, offset) is an address."""
        addresses = [value for value in arguments.values() if isinstance(value, tuple)]
        numbered = {
            name: Operand(addresses.index(value)) if isinstance(value, tuple) else value
            for name, value in arguments.items()
        }
        words = kernel.words(numbered)
        places = {i: addresses[word.number] for i, word in enumerate(words) if isinstance(word, Operand)}
        return cls(kernel, [0 if isinstance(word, Operand) else word for word in words], places, chunks)

    def buffers(self) -> Iterable[Buffer]:
        return (buffer for buffer, _ in self.places.values())


@dataclass(eq=False)
class Step:
    """An operation: `launches`, or `call(*arrays of ins)`, whose results are copied to `outs`."""

    name: str
    ins: list[Ref]
    outs: list[Ref]
    launches: list[Launch] = field(default_factory=list)
    call: Callable | None = None
    #: Buffers that only this step uses.
    temps: list[Buffer] = field(default_factory=list)
    #: Never eliminated as dead: it checks something, or writes lasting memory.
    kept: bool = False
    #: Whether `call` gets the addresses of ins, outs and temps instead, writes the outs, and returns a status.
    by_address: bool = False
    #: Approximate number of additions, multiplications, divisions and comparisons.
    arithmetic: float = 0
    #: What it was lowered from, for profiles: see `compiler.ir.Origin`.
    origins: tuple = ()

    def buffers(self) -> list[Buffer]:
        buffers = [ref.buffer for ref in (*self.ins, *self.outs)] + list(self.temps)
        for launch in self.launches:
            buffers += launch.buffers()
        return list(dict.fromkeys(buffers))

    def reads(self) -> set[Buffer]:
        return {ref.buffer for ref in self.ins}

    def writes(self) -> set[Buffer]:
        return {ref.buffer for ref in self.outs}


def root(array):
    """The array that owns an array's memory."""
    base = array.base
    while base is not None:
        if type(base).__name__ == "DummyArray":  # NumPy's, between an array and its as_strided
            base = base.base
        if not hasattr(base, "dtype") or isinstance(base, Block):
            break
        array, base = base, base.base
    return array


def address_of(array) -> int:
    """The address of an array's first element, on any device."""
    return address(array) if isinstance(array, np.ndarray) else array.data.ptr


def span(array) -> tuple[int, int]:
    """The range of addresses, end excluded, that contains an array's elements."""
    start = address_of(array)
    if not array.size:
        return start, start
    low, high = extent(array.shape, array.strides)
    return start + low, start + high + array.itemsize


def extent(shape, strides) -> tuple[int, int]:
    """The lowest and highest byte offset of an array's elements from its first."""
    spans = [(n - 1) * stride for n, stride in zip(shape, strides)]
    return sum(s for s in spans if s < 0), sum(s for s in spans if s > 0)


def view_at(base: int, ref: Ref):
    """`ref` as an array, where its buffer starts at address `base`."""
    if not math.prod(ref.shape):
        return np.empty(ref.shape, ref.dtype)
    low, high = extent(ref.shape, ref.strides)
    memory = (ctypes.c_char * (high - low + ref.dtype.itemsize)).from_address(base + ref.offset + low)
    return np.ndarray(ref.shape, ref.dtype, memory, -low, ref.strides)


# -- copies -----------------------------------------------------------------------------------------------------


@args(to=Out(np.uint8), source=In(np.uint8), nbytes=Size)
def _move(tools):
    copy, after = tools.copy(np.dtype(np.uint8)), tools.after(np.dtype(np.uint8))
    size = _MOVE_CHUNK

    def kernel(to, source, nbytes, chunk):
        start = chunk * size
        copy(after(to, start), after(source, start), min(nbytes - start, size))
        return 0

    return kernel


MOVE = Kernel("move", _move)


def move(to: Ref, source: Ref) -> Step:
    """A step that copies an array to another of its shape and dtype."""
    if to.contiguous and source.contiguous and MOVE.ready():
        launch = Launch.of(
            MOVE, max(1, -(-to.nbytes // _MOVE_CHUNK)), to=(to.buffer, to.offset), source=(source.buffer, source.offset),
            nbytes=to.nbytes,
        )  # fmt: skip
        return Step("copy", [source], [to], [launch])
    return Step("copy", [source], [to], call=_identity)


@args(count=Size, moves=Rest)
def _moves(tools):
    """`moves`: target address, source address and bytes of each copy."""
    view = tools.view(np.dtype(np.uint8))
    copy = tools.copy(np.dtype(np.uint8))

    def kernel(count, moves):
        for i in range(0, 3 * count, 3):
            copy(view(moves[i]), view(moves[i + 1]), moves[i + 2])
        return 0

    return kernel


MOVES = Kernel("moves", _moves)


def moves(pairs: Iterable[tuple[Ref, Ref]]) -> list[Step]:
    """Steps that copy the second array of each pair to the first, in order; adjacent small copies share a launch."""
    steps: list[Step] = []
    for to, source in pairs:
        small = to.contiguous and source.contiguous and to.nbytes <= _SMALL_COPY and MOVES.ready()
        if not small:
            steps.append(move(to, source))
            continue
        if not steps or not steps[-1].launches or steps[-1].launches[0].kernel is not MOVES:
            steps.append(Step("copy", [], [], [Launch(MOVES, [0], {}, 1)]))
        step = steps[-1]
        (launch,) = step.launches
        at = len(launch.words)
        launch.words += [0, 0, to.nbytes]
        launch.words[0] += 1
        launch.places |= {at: (to.buffer, to.offset), at + 1: (source.buffer, source.offset)}
        step.ins.append(source)
        step.outs.append(to)
    return steps


def _identity(x):
    return x


# -- memory -------------------------------------------------------------------------------------------------------


#: Number of buffers up to which each is placed against all others, in quadratic time.
_MAX_BEST_FIT = 1_000


def plan_memory(steps: list[Step], lasting: Iterable[Buffer]) -> int:
    """Assign a place to every own buffer; the total bytes. `lasting` buffers live to the end."""
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for i, step in enumerate(steps):
        for buffer in step.buffers():
            if buffer.kind == "own":
                first.setdefault(buffer, i)
                last[buffer] = i
    for buffer in lasting:
        if buffer in last:
            last[buffer] = len(steps)
    if len(first) > _MAX_BEST_FIT:
        return _place_in_order(first, last)
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(first, key=lambda b: (-b.nbytes, first[b])):
        size = _round_up(buffer.nbytes)
        occupied = sorted(
            (other.place, other.place + _round_up(other.nbytes))
            for other in placed
            if first[other] <= last[buffer] and first[buffer] <= last[other]
        )
        at = 0
        for low, high in occupied:
            if at + size <= low:
                break
            at = max(at, high)
        buffer.place = at
        placed.append(buffer)
        total = max(total, at + size)
    return total


def _place_in_order(first: dict[Buffer, int], last: dict[Buffer, int]) -> int:
    """Assign places by first use: the smallest free gap that fits, else the end."""
    expiring: dict[int, list[Buffer]] = {}
    free: list[tuple[int, int]] = []  # (size, place), sorted
    starts: dict[int, int] = {}  # place to size, and end to place, of the gaps
    ends: dict[int, int] = {}
    total = current = 0

    def release(size: int, place: int) -> None:
        if place in ends:
            before = ends.pop(place)
            remove(starts[before], before)
            size, place = size + starts.pop(before), before
        if place + size in starts:
            behind = place + size
            remove(starts[behind], behind)
            del ends[behind + starts[behind]]
            size += starts.pop(behind)
        insort(free, (size, place))
        starts[place], ends[place + size] = size, place

    def remove(size: int, place: int) -> None:
        del free[bisect_left(free, (size, place))]

    for buffer in sorted(first, key=first.__getitem__):
        for step in range(current, first[buffer]):
            for dead in expiring.pop(step, ()):
                release(_round_up(dead.nbytes), dead.place)
        current = first[buffer]
        size = _round_up(buffer.nbytes)
        index = bisect_left(free, (size, -1))
        if index < len(free):
            gap_size, buffer.place = free.pop(index)
            del starts[buffer.place], ends[buffer.place + gap_size]
            if gap_size > size:
                release(gap_size - size, buffer.place + size)
        else:
            buffer.place = total
            total += size
        expiring.setdefault(last[buffer], []).append(buffer)
    return total


def _round_up(nbytes: int) -> int:
    return max(ALIGN, -(-nbytes // ALIGN) * ALIGN)


# -- running ------------------------------------------------------------------------------------------------------


class Executable:
    """A program with planned memory, laid out as words for the thread pool.

    `bind(buffer, address)` sets a buffer's address; `run` runs all but the last segment, and `last()` returns that one
    as a function and its arguments, so that no Python code need run between it and the caller's next C call.
    """

    def __init__(self, steps: list[Step], size: int):
        self.steps, self.size = steps, size
        self.launches = [launch for step in steps for launch in step.launches]
        missing = [launch.kernel.name for launch in self.launches if not launch.kernel.ready()]
        if missing:
            raise DeepcoreError(f"a program needs kernels that cannot be compiled: {', '.join(missing)}")
        count = sum(len(launch.words) for launch in self.launches)
        tables = list(dict.fromkeys(b for launch in self.launches for b in launch.buffers() if b.kind == "table"))
        count += sum(len(table.array.words) for table in tables)
        self.words = np.zeros(max(count, 1), np.int64)
        self._view = self.words.data
        #: The words that hold addresses in a buffer: (word, offset).
        self.uses: dict[Buffer, list[tuple[int, int]]] = {}
        self.starts: dict[Launch, int] = {}
        at = 0
        for owner in (*self.launches, *(table.array for table in tables)):
            self.starts[owner] = at
            self.words[at : at + len(owner.words)] = owner.words
            for word, (buffer, offset) in owner.places.items():
                self.uses.setdefault(buffer, []).append((at + word, offset))
            at += len(owner.words)
        base = address(self.words)
        self.addresses: dict[Buffer, int] = {}
        for table in tables:
            self.bind(table, base + 8 * self.starts[table.array])
        self._base = 0
        own = [(word, b.place + offset) for b, uses in self.uses.items() if b.kind == "own" for word, offset in uses]
        self._own_words = np.array([word for word, _ in own], np.int64)
        self._own_offsets = np.array([offset for _, offset in own], np.int64)
        for buffer in {b for step in steps for b in step.buffers()}:
            if buffer.kind == "outside":
                self.bind(buffer, address(buffer.array))
        self.segments = self._segments()
        self._prepared: list[Any] | None = None
        self._pool: Any = None
        self._separate: tuple[Any, list[Callable[[], int]]] | None = None

    def _segments(self) -> list:
        """Runs of adjacent launches, and calls, in order."""
        segments: list[Any] = []
        for step in self.steps:
            if step.call is not None:
                segments.append(step)
            else:
                if not segments or isinstance(segments[-1], Step):
                    segments.append([])
                segments[-1] += step.launches
        if not segments or isinstance(segments[-1], Step):
            segments.append([])
        return segments

    def bind(self, buffer: Buffer, at: int) -> None:
        self.addresses[buffer] = at
        view = self._view
        for word, offset in self.uses.get(buffer, ()):
            view[word] = at + offset

    def bind_own(self, base: int) -> None:
        """Set the address of the program's own memory."""
        if base != self._base:
            self._base = base
            self.words[self._own_words] = self._own_offsets + base

    def address(self, buffer: Buffer, offset: int = 0) -> int:
        """The address of a byte of a buffer."""
        return offset + (self._base + buffer.place if buffer.kind == "own" else self.addresses[buffer])

    def array(self, ref: Ref):
        return view_at(self.address(ref.buffer), ref)

    def prepare(self) -> list:
        """The segments in the thread pool's form; rebuilt when the number of threads has changed."""
        if self._prepared is None or not threadpool.is_current(self._pool):
            base = address(self.words)
            self._prepared = [
                part if isinstance(part, Step)
                else threadpool.prepared([(x.kernel, base + 8 * self.starts[x], x.chunks) for x in part])
                for part in self.segments
            ]  # fmt: skip
            self._pool = threadpool.current()
        return self._prepared

    def run(self) -> int:
        """Run all segments but the last, up to the first status other than 0, which is returned."""
        for part in self.prepare()[:-1]:
            if isinstance(part, Step):
                status = self.perform(part)
            else:
                function, words, chunk = part
                status = function(words, chunk)
            if status:
                return status
        return 0

    def last(self):
        return self.prepare()[-1]

    def separately(self) -> list[Callable[[], int]]:
        """For each step, a function that runs it by itself and returns its status."""
        if self._separate is None or not threadpool.is_current(self._separate[0]):
            base = address(self.words)
            calls: list[Callable[[], int]] = []
            for step in self.steps:
                program = None
                if step.call is None:
                    program = threadpool.prepared(
                        [(x.kernel, base + 8 * self.starts[x], x.chunks) for x in step.launches]
                    )
                calls.append(
                    functools.partial(self.perform, step) if step.call is not None
                    else int if program is None else functools.partial(program[0], *program[1:])
                )  # fmt: skip
            self._separate = threadpool.current(), calls
        return self._separate[1]

    def times(self, rounds: int) -> list[float]:
        """Seconds of each step by itself, the minimum over `rounds` runs of them all."""
        calls = self.separately()
        best = [math.inf] * len(calls)
        for _ in range(rounds):
            for i, call in enumerate(calls):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
        return best

    def perform(self, step: Step) -> int:
        """Run a step that is a Python call."""
        assert step.call is not None
        if step.by_address:
            places = [(ref.buffer, ref.offset) for ref in (*step.ins, *step.outs)]
            return step.call(*[self.address(*place) for place in (*places, *((temp, 0) for temp in step.temps))])
        results = step.call(*[self.array(ref) for ref in step.ins])
        results = results if isinstance(results, tuple) else (results,)
        for ref, result in zip(step.outs, results):
            if result.shape != ref.shape:
                raise OtherShape
            self.array(ref)[...] = result
        return 0


class OtherShape(Exception):
    """A call's result has another shape than when it was recorded: the shape depends on values."""


class Table:
    """Words in memory that launches read."""

    def __init__(self, words: list[int], places: dict[int, tuple[Buffer, int]]):
        self.words, self.places = words, places
