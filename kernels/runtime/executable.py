"""Programs: steps over planned memory, bound to addresses once and run again and again.

A step is a list of kernel launches, or one call of a Python function where no kernel serves. What they read and write
are places in buffers; a buffer is memory from outside that stays where it is, memory that is given anew for each run, or
a part of the program's own, which is shared by what does not live at the same time.
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

#: Own memory starts on cache lines.
ALIGN = 64
_MOVED = 1 << 18
#: Bytes up to which a copy is done together with others.
_FEW = 1 << 14


@dataclass(eq=False)
class Buffer:
    """`kind`: "own", "outside" (stays where it is), "bound" (anew for each run), or "table" (words of the program)."""

    kind: str
    nbytes: int
    array: Any = None
    name: str = ""
    #: Written more than once, or by part: steps over it keep their order.
    changing: bool = False
    place: int = -1

    def __repr__(self) -> str:
        return self.name or f"{self.kind}{id(self) & 0xFFFF:04x}"


@functools.lru_cache(1 << 14)
def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    step = itemsize
    for n, stride in zip(reversed(shape), reversed(strides)):
        if n != 1 and stride != step:
            return False
        step *= n
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
    """All slices of a kernel. `places`: which words are addresses, as (buffer, offset)."""

    kernel: Kernel
    words: list[int]
    places: dict[int, tuple[Buffer, int]]
    slices: int
    #: What its words refer to besides.
    owner: Any = None

    @classmethod
    def of(cls, kernel: Kernel, slices: int, /, **arguments) -> Launch:
        """A launch with its arguments by name; (buffer, offset) stands for an address."""
        found = [value for value in arguments.values() if isinstance(value, tuple)]
        numbered = {
            name: Operand(found.index(value)) if isinstance(value, tuple) else value
            for name, value in arguments.items()
        }
        words = kernel.words(numbered)
        places = {i: found[word.number] for i, word in enumerate(words) if isinstance(word, Operand)}
        return cls(kernel, [0 if isinstance(word, Operand) else word for word in words], places, slices)

    def buffers(self) -> Iterable[Buffer]:
        return (buffer for buffer, _ in self.places.values())


@dataclass(eq=False)
class Step:
    """One operation: `launches`, or `call(*arrays of ins)`, whose results are copied to `outs`."""

    name: str
    ins: list[Ref]
    outs: list[Ref]
    launches: list[Launch] = field(default_factory=list)
    call: Callable | None = None
    #: Memory that only this step uses.
    temps: list[Buffer] = field(default_factory=list)
    #: It is kept whatever reads its results: it checks something, or writes what lasts.
    kept: bool = False
    #: Additions, multiplications, divisions and comparisons, about.
    arithmetic: float = 0

    def buffers(self) -> list[Buffer]:
        found = [ref.buffer for ref in (*self.ins, *self.outs)] + list(self.temps)
        for launch in self.launches:
            found += launch.buffers()
        return list(dict.fromkeys(found))

    def reads(self) -> set[Buffer]:
        return {ref.buffer for ref in self.ins}

    def writes(self) -> set[Buffer]:
        return {ref.buffer for ref in self.outs}


def root(array):
    """The array that owns the memory of this one."""
    while hasattr(array.base, "dtype") and not isinstance(array.base, Block):
        array = array.base
    return array


def address_of(array) -> int:
    """The address of an array's first element, on whatever device."""
    return address(array) if isinstance(array, np.ndarray) else array.data.ptr


def span(array) -> tuple[int, int]:
    """The addresses between which an array's elements lie."""
    at = address_of(array)
    if not array.size:
        return at, at
    low, high = _reach(array.shape, array.strides)
    return at + low, at + high + array.itemsize


def _reach(shape, strides) -> tuple[int, int]:
    """How many bytes before and behind its first element an array's others begin."""
    steps = [(n - 1) * stride for n, stride in zip(shape, strides)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0)


def view_at(at: int, ref: Ref):
    """The array that `ref` is where its buffer starts at an address."""
    if not math.prod(ref.shape):
        return np.empty(ref.shape, ref.dtype)
    low, high = _reach(ref.shape, ref.strides)
    memory = (ctypes.c_char * (high - low + ref.dtype.itemsize)).from_address(at + ref.offset + low)
    return np.ndarray(ref.shape, ref.dtype, memory, -low, ref.strides)


# -- copies -----------------------------------------------------------------------------------------------------


@args(to=Out(np.uint8), source=In(np.uint8), nbytes=Size)
def _move(tools):
    copy, after = tools.copy(np.dtype(np.uint8)), tools.after(np.dtype(np.uint8))
    size = _MOVED

    def kernel(to, source, nbytes, chunk):
        start = chunk * size
        copy(after(to, start), after(source, start), min(nbytes - start, size))
        return 0

    return kernel


MOVE = Kernel("move", _move)


def move(to: Ref, source: Ref) -> Step:
    """A step that copies an array to another place of its shape and dtype."""
    if to.contiguous and source.contiguous and MOVE.ready():
        launch = Launch.of(
            MOVE, max(1, -(-to.nbytes // _MOVED)), to=(to.buffer, to.offset), source=(source.buffer, source.offset),
            nbytes=to.nbytes,
        )  # fmt: skip
        return Step("copy", [source], [to], [launch])
    return Step("copy", [source], [to], call=_itself)


@args(count=Size, moves=Rest)
def _moves(tools):
    """`moves`: for each to, from, bytes."""
    view = tools.view(np.dtype(np.uint8))
    copy = tools.copy(np.dtype(np.uint8))

    def kernel(count, moves):
        for i in range(0, 3 * count, 3):
            copy(view(moves[i]), view(moves[i + 1]), moves[i + 2])
        return 0

    return kernel


MOVES = Kernel("moves", _moves)


def moves(pairs: Iterable[tuple[Ref, Ref]]) -> list[Step]:
    """Steps that copy each second array to the first, in order; small ones that follow one another are one launch."""
    found: list[Step] = []
    for to, source in pairs:
        small = to.contiguous and source.contiguous and to.nbytes <= _FEW and MOVES.ready()
        if not small:
            found.append(move(to, source))
            continue
        if not found or not found[-1].launches or found[-1].launches[0].kernel is not MOVES:
            found.append(Step("copy", [], [], [Launch(MOVES, [0], {}, 1)]))
        step = found[-1]
        (launch,) = step.launches
        at = len(launch.words)
        launch.words += [0, 0, to.nbytes]
        launch.words[0] += 1
        launch.places |= {at: (to.buffer, to.offset), at + 1: (source.buffer, source.offset)}
        step.ins.append(source)
        step.outs.append(to)
    return found


def _itself(x):
    return x


# -- memory -------------------------------------------------------------------------------------------------------


#: Buffers up to which each is placed with all others in view; more take a time that grows with their square.
_MANY = 1_000


def plan_memory(steps: list[Step], lasting: Iterable[Buffer]) -> int:
    """Give every own buffer its place; the bytes needed in all. `lasting` ones keep theirs to the end."""
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
    if len(first) > _MANY:
        return _placed_in_order(first, last)
    placed: list[Buffer] = []
    total = 0
    for buffer in sorted(first, key=lambda b: (-b.nbytes, first[b])):
        size = _rounded(buffer.nbytes)
        taken = sorted(
            (other.place, other.place + _rounded(other.nbytes))
            for other in placed
            if first[other] <= last[buffer] and first[buffer] <= last[other]
        )
        at = 0
        for low, high in taken:
            if at + size <= low:
                break
            at = max(at, high)
        buffer.place = at
        placed.append(buffer)
        total = max(total, at + size)
    return total


def _placed_in_order(first: dict[Buffer, int], last: dict[Buffer, int]) -> int:
    """Places by first use: the smallest free gap that holds a buffer, else the end."""
    ending: dict[int, list[Buffer]] = {}
    free: list[tuple[int, int]] = []  # (size, place), sorted
    starts: dict[int, int] = {}  # place to size, and end to place, of what is free
    ends: dict[int, int] = {}
    total = now = 0

    def give(size: int, place: int) -> None:
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
        for step in range(now, first[buffer]):
            for dead in ending.pop(step, ()):
                give(_rounded(dead.nbytes), dead.place)
        now = first[buffer]
        size = _rounded(buffer.nbytes)
        at = bisect_left(free, (size, -1))
        if at < len(free):
            found, buffer.place = free.pop(at)
            del starts[buffer.place], ends[buffer.place + found]
            if found > size:
                give(found - size, buffer.place + size)
        else:
            buffer.place = total
            total += size
        ending.setdefault(last[buffer], []).append(buffer)
    return total


def _rounded(nbytes: int) -> int:
    return max(ALIGN, -(-nbytes // ALIGN) * ALIGN)


# -- running ------------------------------------------------------------------------------------------------------


class Executable:
    """A program whose memory is planned, laid out as words for the pool.

    `bind(buffer, address)` says where a buffer is; `run` runs all but the last segment, and `last()` gives that one as
    a function and its arguments, for whoever wants nothing between it and what follows.
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
        #: Where the addresses of a buffer stand: (word, offset).
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
        self.at: dict[Buffer, int] = {}
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

    def _segments(self) -> list:
        """Launches that follow one another, and calls, in their order."""
        found: list[Any] = []
        for step in self.steps:
            if step.call is not None:
                found.append(step)
            else:
                if not found or isinstance(found[-1], Step):
                    found.append([])
                found[-1] += step.launches
        if not found or isinstance(found[-1], Step):
            found.append([])
        return found

    def bind(self, buffer: Buffer, at: int) -> None:
        self.at[buffer] = at
        view = self._view
        for word, offset in self.uses.get(buffer, ()):
            view[word] = at + offset

    def bind_own(self, base: int) -> None:
        """Say where the program's own memory starts."""
        if base != self._base:
            self._base = base
            self.words[self._own_words] = self._own_offsets + base

    def array(self, ref: Ref):
        at = self._base + ref.buffer.place if ref.buffer.kind == "own" else self.at[ref.buffer]
        return view_at(at, ref)

    def prepare(self) -> list:
        """The segments as the pool takes them; anew when the number of threads has changed."""
        if self._prepared is None or not threadpool.is_current(self._pool):
            base = address(self.words)
            self._prepared = [
                part if isinstance(part, Step)
                else threadpool.prepared([(x.kernel, base + 8 * self.starts[x], x.slices) for x in part])
                for part in self.segments
            ]  # fmt: skip
            self._pool = threadpool.current()
        return self._prepared

    def run(self) -> int:
        """All segments but the last; the first status that is not 0 ends it."""
        for part in self.prepare()[:-1]:
            if isinstance(part, Step):
                self.perform(part)
            else:
                function, words, number = part
                status = function(words, number)
                if status:
                    return status
        return 0

    def last(self):
        return self.prepare()[-1]

    def times(self, rounds: int) -> list[float]:
        """Seconds that each step takes by itself, the least of some rounds over all of them."""
        base = address(self.words)
        calls: list[Callable] = []
        for step in self.steps:
            if step.call is not None:
                calls.append(functools.partial(self.perform, step))
            else:
                found = threadpool.prepared([(x.kernel, base + 8 * self.starts[x], x.slices) for x in step.launches])
                if found is None:
                    calls.append(int)
                else:
                    function, words, chunk = found
                    calls.append(functools.partial(function, words, chunk))
        best = [math.inf] * len(calls)
        for _ in range(rounds):
            for i, call in enumerate(calls):
                start = time.perf_counter()
                call()
                best[i] = min(best[i], time.perf_counter() - start)
        return best

    def perform(self, step: Step) -> None:
        """Run a step that is a call."""
        assert step.call is not None
        found = step.call(*[self.array(ref) for ref in step.ins])
        found = found if isinstance(found, tuple) else (found,)
        for ref, result in zip(step.outs, found):
            if result.shape != ref.shape:
                raise OtherShape
            self.array(ref)[...] = result


class OtherShape(Exception):
    """A call gave a result of another shape than when it was recorded: its values decide it."""


class Table:
    """Words in memory that launches read."""

    def __init__(self, words: list[int], places: dict[int, tuple[Buffer, int]]):
        self.words, self.places = words, places
