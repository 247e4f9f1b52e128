"""Loops and branches in programs: each body is recorded once, by a recorder of its own, over memory bound anew in each step.

The recorded step runs on copies of its inputs, so that they are memory of their own; other steps run as they do eagerly.
Values of a step that the gradient reads are results of the step, stacked over the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Origin, Record
from deepcore.effects import mode
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.kernels.runtime.executable import ALIGN, Buffer, Ref, address_of, extent, root, span
from deepcore.ops.control_flow import boundary
from deepcore.random import give_back
from deepcore.tensor import Tensor

_POSITIONS = 1 << 64


class Operand(NamedTuple):
    """A step's buffer, and the number of its memory among the ins of the record. Rows are `stride` bytes apart."""

    buffer: Buffer
    number: int
    array: Any = None
    stride: int = 0


class Result(NamedTuple):
    """A step's result, and the number of its memory among the outs of the record. Rows are `stride` bytes apart."""

    ref: Ref
    number: int
    stride: int = 0


class Draws(NamedTuple):
    """Where a draw of a step reads its position: a row of the outer program, `blocks` on from step to step, and `offset`.

    `replayed`: the steps of a gradient repeat the draws of the loop, the last one first.
    """

    row: int
    blocks: int
    offset: int
    replayed: bool


class Body:
    """The recorded body of a loop of `length` steps, or of a branch, which is one step.

    A step reads the carry, a row of other memory, and fixed memory; it writes the next carry, and a row of other memory.
    `reverse`: the last rows are the first step's.
    """

    def __init__(self, outer, record: Record, recorder, length: int = 1, reverse: bool = False):
        self.outer, self.record, self.recorder = outer, record, recorder
        self.length, self.reverse = length, reverse
        self.carry: list[Operand] = []
        self.rows: list[Operand] = []
        self.fixed: list[Operand] = []
        self.carried: list[Result] = []
        self.stacked: list[Result] = []
        self.draws: list[Draws] = []
        #: By generator: seed, stream and position of the first draw of all steps, and the blocks that a step draws.
        self.generators: dict[Any, tuple[tuple[int, int, int], int]] = {}
        self._saved: dict[Buffer, Any] = {}

    def reads(self, buffer: Buffer, ref: Ref, array=None, stride: int = 0) -> Operand:
        self.record.ins.append(ref)
        return Operand(buffer, len(self.record.ins) - 1, array, stride)

    def writes(self, ref: Ref, array, stride: int = 0) -> Result:
        self.record.outs.append(self.outer.own_ref(array))
        return Result(ref, len(self.record.outs) - 1, stride)

    def ahead(self, draw: Draws, k: int) -> int:
        """The blocks between the first position and that of a draw in step `k`."""
        return (self.length - 1 - k if draw.replayed else k) * draw.blocks + draw.offset

    def saved_rows(self, array) -> tuple[Any, int] | None:
        """Memory around the loop that has a value of the recorded step for every step, and the distance of its rows."""
        place = self.recorder.find(array)
        if place is None:
            return None
        buffer, _ = place
        for row in self.rows:
            if row.buffer is buffer:
                return row.array, row.stride
        if buffer.kind != "own" and all(operand.buffer is not buffer for operand in self.carry):
            return None
        stride = -(-buffer.nbytes // ALIGN) * ALIGN
        if buffer not in self._saved:
            memory = self._saved[buffer] = self.outer.backend.empty(self.length * stride, dtype=dt.uint8)
            self.stacked.append(self.writes(Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8), memory, stride))
        return self._saved[buffer], stride

    def connect(self, forward: Body | None) -> None:
        """Find what the step reads besides its inputs; `forward`: the body whose gradient this is."""
        for buffer, (tensor, array) in self.recorder.outside.items():
            if buffer in self.recorder.constants:
                continue
            saved = None if forward is None else forward.saved_rows(array)
            if saved is None:
                self.fixed.append(self.reads(buffer, self._closure(buffer, tensor, array)))
            else:
                self.rows.append(self.reads(buffer, self.outer.ref(saved[0]), *saved))
            buffer.kind = "bound"
        for tensor, array in self.recorder.watched().items():
            if forward is None or forward.saved_rows(array) is None:
                self.outer.ref(array, tensor)
        self.outer.bodies.append(self)

    def _closure(self, buffer: Buffer, tensor: Tensor | None, array) -> Ref:
        """The place in the outer program of memory that every step reads; `array` is a part of it."""
        outer, owner = self.outer, root(array)
        low, _ = span(owner)
        ref = outer.ref(array, tensor)
        places = outer.places(owner)
        if any(place.buffer.kind == "bound" for place in places):  # of an argument, the program has its elements only
            for read in (r for record in self.recorder.records for r in record.ins if r.buffer is buffer):
                first, last = extent(read.shape, read.strides)
                start, end = low + read.offset + first, low + read.offset + last + read.dtype.itemsize
                if len(places) > 1 or not (places[0].low <= start and end <= places[0].high):
                    outer.note("a loop or branch that reads several arguments of one memory")
        return Ref(ref.buffer, ref.offset - (address_of(array) - low), (buffer.nbytes,), (1,), dt.uint8)

    def add_draws(self, forward: Body | None, number: int) -> None:
        """Register what all steps draw in the outer recorder; `number`: the recorded step."""
        outer, sub = self.outer, self.recorder
        for generator, (seed, stream, first) in sub.generators.items():
            blocks = (sub.ends[generator] - first) % _POSITIONS
            start = (first - number * blocks) % _POSITIONS
            with outer.paused():
                end = generator.advance(0)
            if forward is not None or end != (seed, stream, (start + self.length * blocks) % _POSITIONS):
                outer.note("a loop whose steps draw other random numbers")
                return
            self.generators[generator] = (seed, stream, start), blocks
            outer.add_draw(generator, seed, stream, start, self.length * blocks)
        source = self if forward is None else forward
        for generator, offset in sub.rows:
            start, blocks = source.generators[generator]
            draw = outer.find_draw(*start)
            if draw is not None:
                self.draws.append(Draws(draw.row, blocks, offset, forward is not None))

    def release(self) -> None:
        """Free the arrays and tensors of the recorded run: programs need the records alone."""
        self.outer = None
        self.rows = [row._replace(array=None) for row in self.rows]
        self._saved.clear()
        self.recorder.release()
        self.recorder.forget()


class _Recording:
    """The recording of one call of a function of lists of tensors."""

    def __init__(self, outer, forward: Body | None = None):
        self.outer, self.done = outer, False
        self.recorder = type(outer)(outer.backend)
        self.recorder.context = [outer, *([] if forward is None else [forward.recorder])]
        self.recorder.first_node, self.recorder.conditions = outer.first_node, outer.conditions
        #: Places of the results.
        self.refs: list[Ref] = []

    def record(self, function: Callable, tensors: list[Tensor]) -> list[Tensor]:
        """Call the function on copies of the tensors."""
        sub, self.done = self.recorder, True
        inputs = [boundary(t, t._data.copy()) for t in tensors]
        with sub.recording():
            for t in inputs:
                sub.argument(t)
            outs = function(inputs)
            self.refs = [sub.ref(t._data, t) for t in outs]
        return outs

    def rehearse(self, function: Callable, tensors: list[Tensor]) -> None:
        """Record a call whose results and effects do not count."""
        sub = self.recorder
        try:
            self.record(function, tensors)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            self.outer.note(f"a function that raises {type(error).__name__} where it does not run eagerly")
        for buffer, copy in sub.snapshots.items():
            buffer.array[...] = copy
        for leaf in sub.grads:
            leaf.grad = None
        claims = [
            (g._active(), seed, stream, first, sub.ends[g]) for g, (seed, stream, first) in sub.generators.items()
        ]
        give_back(claims)

    def total(self, summand: Tensor) -> Tensor:
        """The sum of `summand` and of a further input of the recorded call."""
        xp = self.recorder.backend
        before = Tensor(xp.zeros(summand.shape, dtype=summand.dtype), xp)
        self.recorder.argument(before)
        return before + summand

    def report(self, draws: bool = False) -> None:
        """Note in the outer recorder why the body cannot be a program; `draws`: whether it may draw random numbers."""
        sub, outer = self.recorder, self.outer
        if sub.fault is not None:
            outer.fault = outer.fault or sub.fault
        elif sub.snapshots:
            outer.note("a loop or branch that writes into memory from outside")
        elif sub.updates or sub.grads or sub.accumulated or sub.entry:
            outer.note("a loop or branch that computes gradients of parameters, or updates them")
        elif sub.generators and not draws:
            outer.note("random numbers whose count depends on a value")
        outer.exceptional |= sub.exceptional

    @property
    def buffers(self) -> list[Buffer]:
        return [buffer for buffer, _ in self.recorder.inputs]


def _recordable(outer, what: str) -> bool:
    """Whether a loop or branch can be recorded so far."""
    if outer.inspector is not None:
        outer.note(f"{what} whose ops are checked one by one")
    return outer.fault is None


# -- scan ---------------------------------------------------------------------------------------------------------------


def record_loop(
    outer, run: Callable, body: Callable, carry: list[Tensor], xs: list[Tensor], length: int, reverse: bool, graph: bool, node
) -> tuple:  # fmt: skip
    """Run a loop and record it; `node`: that of the loop whose gradient this is. See `ops.control_flow.iterate`."""
    forward = None if node is None else node.recorded
    if graph:
        outer.note("the gradient of a loop with create_graph=True, which has a graph")
    elif node is not None and forward is None:
        outer.note("a graph that was recorded before the function was called")
    if not _recordable(outer, "a loop"):
        with outer.paused():
            return run(body, carry, xs, length, reverse, graph)
    # The last step's graph has all that requires a gradient, and the gradient starts there.
    number = length - 1 if node is None else 0
    n, m = len(carry), len(xs)
    recording = _Recording(outer, forward)
    summed: list[bool] = []

    def step(k: int, carry: list[Tensor], x: list[Tensor]) -> tuple:
        if k != number:
            return body(k, carry, x)
        parts: list = []

        def recorded(inputs: list[Tensor]) -> list[Tensor]:
            new, ys, sums = parts[:] = body(k, inputs[:n], inputs[n:])
            summed[:] = [s is not None for s in sums]
            return [*new, *ys, *(recording.total(s) for s in sums if s is not None)]

        recording.record(recorded, [*carry, *x])
        return tuple(parts)

    with outer.paused():
        last, ys, totals, _ = run(step, carry, xs, length, reverse)
    recording.report(draws=True)
    if [s is not None for s in totals] != summed:
        outer.note("a loop whose steps differ in what they differentiate")
    if outer.fault is not None:
        return last, ys, totals, None
    record = Record("scan", [], [])
    loop = Body(outer, record, recording.recorder, length, reverse)
    buffers, refs = recording.buffers, recording.refs
    sums = [t for t in totals if t is not None]
    loop.carry = [loop.reads(buffer, outer.ref(t._data, t)) for buffer, t in zip(buffers, carry)]
    # -0 + x is x, to the bit.
    loop.carry += [loop.reads(buffer, _filled(outer, t, -0.0)) for buffer, t in zip(buffers[n + m :], sums)]
    loop.rows = [
        loop.reads(buffer, outer.ref(x._data, x), x._data, x._data.strides[0]) for buffer, x in zip(buffers[n:], xs)
    ]
    loop.carried = [loop.writes(ref, t._data) for ref, t in zip([*refs[:n], *refs[n + len(ys) :]], [*last, *sums])]
    loop.stacked = [loop.writes(ref, y._data, y._data.strides[0]) for ref, y in zip(refs[n:], ys)]
    loop.add_draws(forward, number)
    loop.connect(forward)
    _add(outer, record, [loop])
    return last, ys, totals, loop


def _filled(outer, like: Tensor, value: float) -> Ref:
    array = outer.backend.full(like.shape, value, dtype=like.dtype)
    outer.constant(array)
    return outer.ref(array)


def _add(outer, record: Record, bodies: list[Body]) -> None:
    record.bodies = bodies
    record.origins = (Origin(record.name, mode.backward, outer._scope()),)
    record.kept = any(inner.kept for body in bodies for inner in body.recorder.records)
    outer.records.append(record)


# -- cond ---------------------------------------------------------------------------------------------------------------


class Choice(NamedTuple):
    """A recorded `cond`, for its gradient: the value, the branches and their bodies."""

    pred: Tensor
    branches: list
    bodies: list[Body]


def record_branch(outer, run: Callable, pred: Tensor, branches: list, operands: list[Tensor]) -> tuple:
    """Run the branch that `pred` selects, and record both. See `ops.control_flow.choose`."""
    if outer.backend.name != "cpu":
        outer.note("a cond on a GPU, which would wait for the value")
    if not _recordable(outer, "a cond"):
        with outer.paused():
            return run(pred, branches, operands)
    recordings = [_Recording(outer) for _ in branches]
    outs: list[list[Tensor]] = [[], []]

    def recorded(i: int) -> Callable:
        def call(inputs: list[Tensor]) -> list[Tensor]:
            outs[i] = branches[i](inputs)
            return outs[i]

        return call

    with outer.paused():
        results, number, _ = run(pred, [lambda t, i=i: recordings[i].record(recorded(i), t) for i in (0, 1)], operands)
        recordings[1 - number].rehearse(recorded(1 - number), operands)
    for recording in recordings:
        recording.report()
    if outer.fault is None:
        _check_results(*(branch.y_structure for branch in branches), *outs)
        if [t._requires_grad for t in outs[0]] != [t._requires_grad for t in outs[1]]:
            outer.note("a cond of which one branch's results require a gradient, and the other's do not")
        elif branches[0].graph.closures.keys() != branches[1].graph.closures.keys():
            outer.note("a cond whose branches differentiate with respect to different tensors")
    if outer.fault is not None:
        return results, number, None
    return results, number, Choice(pred, branches, _add_branches(outer, pred, recordings, operands, results))


def record_branch_gradient(
    outer, run: Callable, graph, seeds: list[Tensor], closures: list, node
) -> list[Tensor | None]:
    """Run the gradient of the branch that was selected, and record those of both."""
    choice = node.recorded
    if mode.grad:
        outer.note("the gradient of a cond with create_graph=True, which has a graph")
    elif choice is None:
        outer.note("a graph that was recorded before the function was called")
    if not _recordable(outer, "a cond"):
        with outer.paused():
            return run(graph, seeds, closures, node)
    recordings = [_Recording(outer, body) for body in choice.bodies]
    number = next(i for i, branch in enumerate(choice.branches) if branch.graph is graph)
    reached: list[list[bool]] = [[], []]

    def recorded(i: int) -> Callable:
        def call(inputs: list[Tensor]) -> list[Tensor]:
            gradients = run(choice.branches[i].graph, inputs, closures, node)
            reached[i] = [g is not None for g in gradients]
            return [g for g in gradients if g is not None]

        return call

    with outer.paused():
        found = recordings[number].record(recorded(number), seeds)
        recordings[1 - number].rehearse(recorded(1 - number), seeds)
        results = [Tensor(t._data.copy(), t.backend) for t in found]
    for recording in recordings:
        recording.report()
    if reached[0] != reached[1]:
        outer.note("a cond whose branches differentiate with respect to different tensors")
    if outer.fault is None:
        _add_branches(outer, choice.pred, recordings, seeds, results, choice.bodies)
    numbered = iter(results)
    return [next(numbered) if one else None for one in reached[number]]


def _add_branches(
    outer, pred: Tensor, recordings: list[_Recording], inputs: list[Tensor], results: list[Tensor],
    forward: Iterable[Body | None] = (None, None),
) -> list[Body]:  # fmt: skip
    record = Record("cond", [outer.ref(pred._data, pred)], [])
    bodies = [Body(outer, record, recording.recorder) for recording in recordings]
    record.outs = [outer.own_ref(t._data) for t in results]
    for body, recording, earlier in zip(bodies, recordings, forward):
        body.rows = [body.reads(buffer, outer.ref(t._data, t), t._data) for buffer, t in zip(recording.buffers, inputs)]
        body.stacked = [Result(ref, number) for number, ref in enumerate(recording.refs)]
        body.add_draws(earlier, 0)
        body.connect(earlier)
    _add(outer, record, bodies)
    return bodies


def _check_results(first, second, outs: list[Tensor], others: list[Tensor]) -> None:
    """Raise unless two branches have results of one kind."""
    if first != second:
        raise ArgumentError("cond: the branches return different structures", received=f"{first} and {second}")
    for a, b in zip(outs, others):
        if a.shape != b.shape:
            raise ShapeError("cond: the branches return different shapes", received=f"{a.shape} and {b.shape}")
        if a.dtype != b.dtype:
            names = " and ".join(dt.name_of(t.dtype) for t in (a, b))
            raise DTypeError("cond: the branches return different dtypes", received=names)


# -- while_loop ---------------------------------------------------------------------------------------------------------


def record_repeat(outer, run: Callable, condition: Callable, body: Callable, val: list[Tensor]) -> list[Tensor]:
    """Run a loop whose length depends on values, and record its condition and its body. See `ops.control_flow.repeat`."""
    if outer.backend.name != "cpu":
        outer.note("a while_loop on a GPU, which would wait for values")
    if not _recordable(outer, "a while_loop"):
        with outer.paused():
            return run(condition, body, val)
    recordings = [_Recording(outer), _Recording(outer)]

    def first(recording: _Recording, function: Callable) -> Callable:
        return lambda tensors: function(tensors) if recording.done else recording.record(function, tensors)

    with outer.paused():
        results = run(first(recordings[0], condition), first(recordings[1], body), val)
        if not recordings[1].done:
            recordings[1].rehearse(body, val)
    for recording in recordings:
        recording.report()
    if any(t._requires_grad for t in results):
        outer.note("a while_loop whose result requires a gradient; scan is a loop of known length that has one")
    if outer.fault is not None:
        return results
    results = [Tensor(t._data.copy(), t.backend) for t in results]
    record = Record("while", [outer.ref(t._data, t) for t in val], [outer.own_ref(t._data) for t in results])
    bodies = [Body(outer, record, recording.recorder) for recording in recordings]
    for one, recording in zip(bodies, recordings):
        one.rows = [Operand(buffer, number) for number, buffer in enumerate(recording.buffers)]
        one.stacked = [Result(ref, number) for number, ref in enumerate(recording.refs)]
        one.connect(None)
    _add(outer, record, bodies)
    return results
