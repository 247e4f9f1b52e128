"""Loops in programs: one step is recorded, by a recorder of its own, as a function of memory bound anew in each step.

The recorded step runs on copies of its inputs, so that they are memory of their own; the others run as they do eagerly.
Values of a step that the loop's gradient reads are results of the step, stacked over the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Record
from deepcore.kernels.runtime.executable import ALIGN, Buffer, Ref, address_of, extent, root, span
from deepcore.ops.control_flow import boundary
from deepcore.tensor import Tensor

_POSITIONS = 1 << 64


@dataclass(eq=False)
class Loop:
    """A loop of `length` steps, of which `recorder` has recorded one.

    `ins` of its record: the initial carry, memory of which each step reads a row, and what all steps read. `outs`: the last
    carry, memory of which each step writes a row. In both, rows are `strides` bytes apart. `reverse`: from the last row on.
    """

    outer: Any
    recorder: Any
    length: int
    reverse: bool
    #: The step's buffers: carry, rows and what all steps read, in the order of `ins`.
    carry: list[Buffer] = field(default_factory=list)
    rows: list[Buffer] = field(default_factory=list)
    row_strides: list[int] = field(default_factory=list)
    row_arrays: list[Any] = field(default_factory=list)
    fixed: list[Buffer] = field(default_factory=list)
    #: The step's results: the next carry and rows, in the order of `outs`.
    carried: list[Ref] = field(default_factory=list)
    stacked: list[Ref] = field(default_factory=list)
    stacked_strides: list[int] = field(default_factory=list)
    record: Any = None
    #: Memory of saved values over all steps, by the step's buffer.
    saved: dict[Buffer, Any] = field(default_factory=dict)
    #: By generator: seed, stream and position of the first draw of all steps, and the blocks that a step draws.
    generators: dict[Any, tuple[tuple[int, int, int], int]] = field(default_factory=dict)
    #: For each draw of a step: the outer program's row of the first position, the blocks from step to step, those before it
    #: in the step, and whether steps replay the draws of others, last one first.
    draws: list[tuple[int, int, int, bool]] = field(default_factory=list)

    def ahead(self, draw: tuple[int, int, int, bool], k: int) -> int:
        """The blocks between the first position and that of a draw in step `k`."""
        _, blocks, offset, replayed = draw
        return (self.length - 1 - k if replayed else k) * blocks + offset

    def release(self) -> None:
        """Free the arrays of the recorded run."""
        self.row_arrays.clear()
        self.saved.clear()
        self.recorder.release()

    def saved_rows(self, array) -> tuple[Any, int] | None:
        """Memory around the loop that has a value of the recorded step for every step, and the distance of its rows."""
        place = self.recorder.find(array)
        if place is None:
            return None
        buffer, _ = place
        if buffer in self.rows:
            i = self.rows.index(buffer)
            return self.row_arrays[i], self.row_strides[i]
        if buffer.kind != "own" and buffer not in self.carry:
            return None
        stride = -(-buffer.nbytes // ALIGN) * ALIGN
        if buffer not in self.saved:
            memory = self.saved[buffer] = self.outer.backend.empty(self.length * stride, dtype=dt.uint8)
            self.stacked.append(Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8))
            self.stacked_strides.append(stride)
            self.record.outs.append(self.outer.own_ref(memory))
        return self.saved[buffer], stride


def record_loop(
    outer,
    run: Callable,
    body: Callable,
    carry: list[Tensor],
    xs: list[Tensor],
    length: int,
    reverse: bool,
    graph: bool,
    node,
) -> tuple:
    """Run a loop and record it; `node`: that of the loop whose gradient this is. See `ops.control_flow.iterate`."""
    forward = None if node is None else node.recorded
    if graph:
        outer.note("the gradient of a loop with create_graph=True, which has a graph")
    elif outer.inspector is not None:
        outer.note("a loop whose steps are checked one by one")
    elif node is not None and forward is None:
        outer.note("a graph that was recorded before the function was called")
    if outer.fault is not None:
        with outer.paused():
            return run(body, carry, xs, length, reverse, graph)
    step = _Step(outer, forward and forward.recorder, body, length - 1 if node is None else 0)
    with outer.paused():
        last, ys, totals, _ = run(step, carry, xs, length, reverse)
    step.report(outer)
    if [s is not None for s in totals] != step.summed:
        outer.note("a loop whose steps differ in what they differentiate")
    if outer.fault is not None:
        return last, ys, totals, None
    sub, n = step.recorder, len(carry)
    buffers, results = [buffer for buffer, _ in sub.inputs], step.results
    sums = [t for t in totals if t is not None]
    loop = Loop(outer, sub, length, reverse)
    loop.carry = [*buffers[:n], *buffers[n + len(xs) :]]
    loop.carried = [*results[:n], *results[n + len(ys) :]]
    initial = [
        *(outer.ref(t._data, t) for t in carry),
        *(_filled(outer, t, -0.0) for t in sums),
    ]  # -0 + x is x, to the bit
    loop.rows, loop.row_arrays = buffers[n : n + len(xs)], [x._data for x in xs]
    loop.row_strides = [x._data.strides[0] for x in xs]
    rows = [outer.ref(x._data, x) for x in xs]
    loop.stacked, loop.stacked_strides = results[n : n + len(ys)], [y._data.strides[0] for y in ys]
    outs = [outer.own_ref(t._data) for t in (*last, *sums, *ys)]
    fixed = []
    for buffer, (tensor, array) in sub.outside.items():
        if buffer in sub.constants:
            continue
        saved = None if forward is None else forward.saved_rows(array)
        if saved is None:
            fixed.append(_closure(outer, sub, buffer, tensor, array))
            loop.fixed.append(buffer)
        else:
            rows.append(outer.ref(saved[0]))
            loop.rows.append(buffer)
            loop.row_arrays.append(saved[0])
            loop.row_strides.append(saved[1])
        buffer.kind = "bound"
    for tensor, array in sub.watched().items():
        if forward is None or forward.saved_rows(array) is None:
            outer.ref(array, tensor)
    _add_draws(loop, forward, step.number)
    kept = any(record.kept for record in sub.records)
    loop.record = Record("scan", [*initial, *rows, *fixed], outs, kept=kept, loop=loop)
    outer.records.append(loop.record)
    outer.loops.append(loop)
    return last, ys, totals, loop


class _Step:
    """A loop's body, of which call `number` is recorded."""

    def __init__(self, outer, forward, body: Callable, number: int):
        self.body, self.number = body, number
        self.recorder = type(outer)(outer.backend)
        self.recorder.context = [outer, *([] if forward is None else [forward])]
        self.recorder.first_node = outer.first_node
        #: Places of the results: carry, rows, totals of the sums; for each sum, whether there is one.
        self.results: list[Ref] = []
        self.summed: list[bool] = []

    def __call__(self, k: int, carry: list[Tensor], x: list[Tensor]):
        if k != self.number:
            return self.body(k, carry, x)
        sub, n = self.recorder, len(carry)
        inputs = [boundary(t, t._data.copy()) for t in (*carry, *x)]
        with sub.recording():
            for t in inputs:
                sub.argument(t)
            new, ys, sums = self.body(k, inputs[:n], inputs[n:])
            self.summed = [s is not None for s in sums]
            totals = []
            for s in sums:
                if s is not None:
                    total = Tensor(sub.backend.zeros(s.shape, dtype=s.dtype), sub.backend)
                    sub.argument(total)
                    totals.append(total + s)
            self.results = [sub.ref(t._data, t) for t in (*new, *ys, *totals)]
        return new, ys, sums

    def report(self, outer) -> None:
        """Note in the outer recorder why the step cannot be a program."""
        sub = self.recorder
        if sub.fault is not None:
            outer.fault = sub.fault
        elif sub.snapshots or sub.written:
            outer.note("a step of a loop that writes into memory from outside")
        elif sub.updates or sub.grads or sub.accumulated or sub.entry:
            outer.note("a step of a loop that computes gradients of parameters, or updates them")
        outer.raced |= sub.raced


def _add_draws(loop: Loop, forward: Loop | None, number: int) -> None:
    """Register what all steps draw in the outer recorder; `number`: the recorded step."""
    outer, sub = loop.outer, loop.recorder
    for generator, (seed, stream, first) in sub.generators.items():
        blocks = (sub.ends[generator] - first) % _POSITIONS
        start = (first - number * blocks) % _POSITIONS
        with outer.paused():
            end = generator.advance(0)
        if forward is not None or end != (seed, stream, (start + loop.length * blocks) % _POSITIONS):
            outer.note("a loop whose steps draw other random numbers")
        loop.generators[generator] = (seed, stream, start), blocks
        outer.add_draw(generator, seed, stream, start, loop.length * blocks)
    replayed = forward is not None
    for generator, offset in sub.rows:
        (seed, stream, start), blocks = (forward if forward is not None else loop).generators[generator]
        draw = outer.find_draw(seed, stream, start)
        if draw is not None:
            loop.draws.append((draw.row, blocks, offset, replayed))


def _filled(outer, like: Tensor, value: float) -> Ref:
    array = outer.backend.full(like.shape, value, dtype=like.dtype)
    outer.constant(array)
    return outer.ref(array)


def _closure(outer, sub, buffer: Buffer, tensor: Tensor | None, array) -> Ref:
    """The place in the outer program of memory that every step reads; `array` is a part of it."""
    owner = root(array)
    low, _ = span(owner)
    ref = outer.ref(array, tensor)
    places = outer._places.get(id(owner), ())
    if any(place.buffer.kind == "bound" for place in places):  # of an argument, the program has its elements only
        for read in (r for record in sub.records for r in record.ins if r.buffer is buffer):
            first, last = extent(read.shape, read.strides)
            start, end = low + read.offset + first, low + read.offset + last + read.dtype.itemsize
            if len(places) > 1 or not (places[0].low <= start and end <= places[0].high):
                outer.note("a loop that reads several arguments of one memory")
    offset = ref.offset - (address_of(array) - low)
    return Ref(ref.buffer, offset, (buffer.nbytes,), (1,), dt.uint8)
