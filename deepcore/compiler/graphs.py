"""Compiled steps on a GPU: what was followed runs once more while a stream captures it; from then on the graph does.

The steps are the ops' own forwards, so kernels, CuPy's functions and cuBLAS take part alike, and bits stay as they are.
Memory comes from a pool of the program's own, whose blocks go from result to result in the order of the capture. What
changes from step to step (learning rates, positions in random streams) is words in device memory, sent before a replay.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat
from operator import call, is_, setitem
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Program
from deepcore.compiler.passes import dead, fuse
from deepcore.compiler.passes.device import DeviceChain
from deepcore.compiler.runner import _TWICE, Runner, _same_bits
from deepcore.compiler.trace import Drawn, Trace, Update
from deepcore.config import settings
from deepcore.errors import IndexRangeError
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.cuda import optimizer as cuda_optimizer
from deepcore.kernels.cuda import philox as cuda_philox
from deepcore.kernels.runtime.executable import Buffer, Ref, Step, address_of, root
from deepcore.random import give_back
from deepcore.tensor import Tensor, from_raw


class _Placed(Drawn):
    """A position in a random stream as a place in device memory."""

    def now(self) -> int:
        return cuda_philox.Word.of(int(self), self.state, self.ahead)  # kernels read the state, not the number


class DeviceTrace(Trace):
    """Follows a function on a GPU: every op is a call of its forward.

    An array cannot tell who reads it there, but the memory that is allocated can be known: what is neither from before
    nor a result of an op was computed unseen.
    """

    whole = "a call, whatever runs it"

    def __init__(self, backend):
        super().__init__(backend)
        self.maps = {}
        self._allocated: set[int] = set()

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        cuda = self.backend.array_module.cuda
        allocate = cuda.get_allocator()

        def noted(size):
            pointer = allocate(size)
            self._allocated.add(pointer.ptr)
            return pointer

        with self.backend.device, cuda.using_allocator(noted), super().following():
            yield

    def followed(self, array):
        return array

    def raw_arguments(self) -> None:
        self.note("an array as an argument, whose readers cannot be followed: dc.as_tensor(…) of it")

    def ref(self, array, tensor: Tensor | None = None) -> Ref:
        known = not array.size or self.intervals.find(address_of(array)) is not None or self._is_constant(array)
        if not known and address_of(root(array)) in self._allocated:
            self.note("values computed outside of deepcore's operations")
        return super().ref(array, tensor)

    def moved(self, to: Ref, source: Ref) -> Step:
        return Step("copy", [source], [to], call=_itself)

    def within(self, t: Tensor, low: int, high: int) -> bool:
        """Counted in each run, as nothing waits there: the next call tells of it."""
        xp, raw = self.backend, t._data

        def look(array):
            xp.any_wrong(((array < low) | (array >= high)).sum())
            return ()

        if raw.size and not self._inside:
            self.steps.append(Step("within", [self.ref(raw, t)], [], call=look, kept=True))
        return not raw.size or not bool(((raw < low) | (raw >= high)).any())

    # -- random numbers -----------------------------------------------------------------------------------
    def advance(self, generator, seed: int, stream: int, first: int, blocks: int):
        if not settings.kernels or not self.backend.ready(cuda_philox.PHILOX):
            self.note("random numbers without a kernel for them")
        state, ahead = self._claimed(generator, seed, stream, first, blocks)
        return seed, stream, _Placed.of(first, state, 2, ahead)

    def _words(self, seed: int, stream: int, first: int):
        return self.backend.zeros(3, dtype=dt.int64)

    # -- updates ------------------------------------------------------------------------------------------
    def update(self, optimizer, function: Callable, clip=None, clipped: Callable | None = None):
        live, gradients = self.before_update(optimizer)
        known = {id(p): bool(optimizer.state.get(p)) for p in live}
        result = None
        with self.paused():
            result = function()
        if not live:
            return result
        if clip is not None:
            gradients = self._clip(clip, clipped, live, gradients, result)
        plan = None
        if optimizer.by_formula:
            plan = DevicePlan(self.backend, optimizer, live, [not known[id(p)] for p in live])
        if plan is None or not plan.usable:
            self.note(f"a step of {type(optimizer).__name__} that is not one update of all parameters by kernels")
            return result
        for array in plan.arrays:
            if self.intervals.find(address_of(array)) is None:
                self._outside(array, None)
            buffer = super().ref(array).buffer
            if buffer.kind != "outside":
                self.note("a parameter that the step wrote before its update")
                return result
            self.before.setdefault(buffer, self.backend.zeros_like(buffer.array))  # made by this very step
            self.updated.add(buffer)
        self.updates.append(Update(optimizer, plan, gradients, None))
        return result

    def _clip(self, clip, clipped, live, gradients, result) -> list[Ref]:
        """Steps that clip gradients; where those are afterwards."""
        if clip.finite:
            self.note("clipping with error_if_nonfinite, which reads the norm")
        outs = []
        for p, ref in zip(live, gradients):
            new = Ref(Buffer("own", ref.nbytes), 0, ref.shape, p.grad._data.strides, ref.dtype)
            self.redirected[ref.buffer] = new.buffer
            if p in self.grads:
                self.grads[p] = new
            outs.append(new)
        if result is not None:
            outs.append(self.own_ref(result._data))
        self.steps.append(Step("clip", list(gradients), outs, call=self.clipping(clipped)))
        return outs[: len(live)]


def _itself(x):
    return x


class _Wrong:
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


class DevicePlan:
    """An optimizer's step in a program: batches of one formula and dtype, each one launch over a table in its words."""

    def __init__(self, xp, optimizer, live: list[Tensor], first: list[bool]):
        self.xp, self.live = xp, live
        self.groups = list(optimizer.param_groups)
        owner = {id(p): group for group in self.groups for p in group["params"]}
        self.group_of = [owner[id(p)] for p in live]
        self.formulas = [optimizer.update(group) for group in self.groups]
        self.weights = [p._data for p in live]
        self.states = [optimizer.state[p] for p in live]
        updates = [optimizer.update(group) for group in self.group_of]
        self.counted = "step" in self.states[0]
        #: The number of the update that the function itself made of each parameter.
        self.then = [s["step"] if self.counted else 1 if new else 2 for s, new in zip(self.states, first)]
        self.names = [update.states for update in updates]
        self.columns = [[s.get(name) for name in names] for s, names in zip(self.states, self.names)]
        self.batches: dict[tuple, list[int]] = {}
        for i, (update, w) in enumerate(zip(updates, self.weights)):
            if w.size:
                self.batches.setdefault((update, w.dtype), []).append(i)
        self.usable = all(map(self._runs, self.batches))
        self.tables: list[Any] = []

    def _runs(self, key) -> bool:
        kernel = cuda_optimizer.kernel(*key)
        return (
            kernel is not None
            and self.xp.ready(kernel)
            and all(not any(map(is_, self.columns[i], repeat(None))) and cuda_optimizer.fits(self.weights[i], self.columns[i]) for i in self.batches[key])
        )  # fmt: skip

    @property
    def arrays(self) -> list:
        return [*self.weights, *chain(*self.columns)]

    def is_current(self, optimizer) -> bool:
        """Whether the program still does what `step()` would."""
        groups = optimizer.param_groups
        return (
            settings.kernels
            and len(groups) == len(self.groups)
            and all(map(is_, groups, self.groups))
            and all(map(is_, map(optimizer.update, groups), self.formulas))
            and all(p._data is w for p, w in zip(self.live, self.weights))
            and all(map(is_, map(optimizer.state.get, self.live), self.states))
            and all(
                all(map(is_, map(state.get, names), column))
                for state, names, column in zip(self.states, self.names, self.columns)
            )
        )

    def places(self, optimizer) -> None:
        """It has to be asked again each time."""

    def step(self, words: Words, name: str, gradients: list[Ref]) -> list[Step]:
        """One step for each batch, each with a table in `words`."""
        found: list[Step] = []
        self.tables = []
        for (update, dtype), members in self.batches.items():
            table = words.table(len(members), cuda_optimizer.width(update))
            self.tables.append((update, members, table))

            def run(*arrays, update=update, dtype=dtype, members=members, table=table):
                entries = [(self.weights[i], g, self.columns[i]) for i, g in zip(members, arrays)]
                tiles, _ = cuda_optimizer.fill(self.xp, update, dtype, entries, table.host)
                words.send_unless_captured()
                cuda_optimizer.over(self.xp, update, dtype, table.device, tiles)()
                return ()

            found.append(Step(name, [gradients[i] for i in members], [], call=run, kept=True))
        return found

    def set_scalars(self, optimizer, counts: list[int]) -> None:
        for update, members, table in self.tables:
            known: dict[tuple, Any] = {}
            for row, i in enumerate(members):
                key = id(self.group_of[i]), counts[i]
                if key not in known:
                    known[key] = update.values(optimizer.scalars(self.group_of[i], counts[i]))
                cuda_optimizer.set_scalars(table.host, update, row, known[key])

    def after(self, optimizer, token: object) -> list:
        """Sets this step's scalars; what is to be gone through once the graph was launched."""
        counts = [state["step"] + 1 for state in self.states] if self.counted else [2] * len(self.live)
        self.set_scalars(optimizer, counts)
        return [
            map(setitem, self.states, repeat("step"), counts) if self.counted else (),
            map(setattr, (optimizer,), ("_stepped",), (True,)),
        ]


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


class GraphRunner(Runner):
    """Runs a program on a GPU: inputs are copied in, words sent, one graph launched, results copied out."""

    #: Of kernels, for `explain`: all steps are calls.
    launches: tuple = ()

    def __init__(self, trace: Trace, outputs: list[Ref], leaves: list[Tensor], given: list[Tensor], guards):
        xp = trace.backend
        self.output_refs = outputs
        self.keep(trace, [trace.grads[leaf] for leaf in leaves], leaves, given, guards)
        self.contents = {
            buffer: Ref(own, 0, (buffer.nbytes,), (1,), dt.uint8)
            for buffer, own in trace.redirected.items()
            if buffer.kind != "own"
        }
        #: Gradients from before, which the step adds to: where their sums are found.
        self.sums = [self.contents.get(buffer) for buffer in trace.accumulated.values()]
        self.ends = [*outputs, *self.grad_refs, *(ref for ref in self.sums if ref is not None)]
        #: What is anew in each call: (buffer, array).
        self.come_in = [*trace.given, *((b, b.array) for _, b in self.accumulated)]
        self.inputs = []
        for _, array in self.come_in:
            mine = xp.empty(array.shape, dtype=array.dtype)
            self.inputs.append(mine if mine.strides == array.strides else xp.array(array, copy=True, order="K"))
        self.wrong = _Wrong(xp)
        self.graph: Any = None
        self.pool: Any = None
        self.found: dict[Buffer, Any] = {}

    def _assemble(self, steps: list[Step], generators: list, fused: bool) -> None:
        """The steps, with what lasts, in their order."""
        xp = self.backend
        updated = [ref for update in self.updates for ref in update.gradients]
        program = Program(list(steps), [*self.output_refs, *self.grad_refs, *updated, *self.contents.values()])
        dead.run(program)
        if fused and settings.kernels:
            fuse.run(program, type("DeviceChain", (DeviceChain,), {"xp": xp}))
        self.words = Words(xp)
        for update in self.updates:
            program.steps += update.plan.step(self.words, type(update.optimizer).__name__, update.gradients)
        for buffer, ref in self.contents.items():
            if buffer.kind == "outside":
                to = Ref(buffer, 0, ref.shape, ref.strides, ref.dtype)
                program.steps.append(Step("copy", [ref], [to], call=_itself))
        self.states = [(state, self.words.table(1, 3)) for _, state in generators]
        if self.states:
            program.steps.insert(0, Step("random state", [], [], call=self._set_states, kept=True))
        self.words.make()
        self.steps = program.steps
        self.dropped = _last_uses(self.steps, {ref.buffer for ref in self.ends})
        buffers = {b for step in self.steps for b in step.buffers()} | {ref.buffer for ref in self.ends}
        self.fixed: dict[Buffer, Any] = {b: b.array for b in buffers if b.kind == "outside"}
        self.fixed |= {buffer: mine for (buffer, _), mine in zip(self.come_in, self.inputs)}

    @property
    def exe(self):
        return self

    @property
    def size(self) -> int:
        """Bytes of the program's own memory."""
        return self.pool.total_bytes() if self.pool is not None else 0

    def _set_states(self):
        for state, table in self.states:
            state[...] = table.device[0]
        return ()

    # -- making -------------------------------------------------------------------------------------------
    def check(self, trace: Trace, arrays: list, leaves: list) -> str | None:
        """Capture, and run the graph once on what was there before the function ran; what is wrong, or None."""
        wrong = None
        for fused in (True, False):
            self._assemble(trace.steps, list(trace.generators.values()), fused)
            wrong = self._tried(trace, arrays, leaves)
            if not wrong:
                self.come_in = []
                break
        return wrong

    def _tried(self, trace: Trace, arrays: list, leaves: list) -> str | None:
        xp, before = self.backend, trace.before
        after = {buffer: buffer.array.copy() for buffer in before}

        def put(content):
            for buffer, copy in content.items():
                if buffer.kind == "outside":
                    buffer.array[...] = copy

        for (buffer, array), mine in zip(self.come_in, self.inputs):
            mine[...] = before.get(buffer, array)
        for update in self.updates:
            update.plan.set_scalars(update.optimizer, update.plan.then)
        self._set_positions([words for words, _ in trace.generators.values()])
        try:
            put(before)
            try:
                self._capture(lambda: put(before))
            except Exception as error:
                return f"nothing, as it cannot be captured ({type(error).__name__}: {error}), or"
            put(before)
            self.words.send()
            self.graph.launch()
            pairs = [
                (f"result {i}", self._end(ref), array) for i, (ref, array) in enumerate(zip(self.output_refs, arrays))
            ]
            pairs += [
                (f"the gradient of a tensor of shape {leaf.shape}", array, leaf.grad._data)
                for leaf, array in zip(leaves, self.grad_arrays)
            ]
            pairs += [(f"memory of shape {b.array.shape}", b.array, after[b]) for b in before if b.kind == "outside"]
            pairs += [
                (f"the gradient of a tensor of shape {leaf.shape}", self._sum(ref, after[b]), after[b])
                for (leaf, b), ref in zip(self.accumulated, self.sums)
                if ref is not None
            ]
            return next((name for name, mine, theirs in pairs if not _same_bits(xp, mine, theirs)), None)
        finally:
            put(after)

    def _capture(self, again: Callable = lambda: None) -> None:
        """Run all steps once as they are, which compiles and loads what they need, and once captured."""
        xp = self.backend
        cuda, stream = xp.array_module.cuda, xp.capture_stream
        self.graph, self.found = None, {}
        self.pool = cuda.MemoryPool()
        xp.synchronize()
        with xp.device, cuda.using_allocator(self.pool.malloc), stream, self.wrong:
            self._perform()
            stream.synchronize()
            again()
            stream.synchronize()
            self.words.captured = True
            stream.begin_capture()
            try:
                self.found = self._perform()
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
        self.grad_arrays = [self._end(ref) for ref in self.grad_refs]
        self.grads = [from_raw(array, xp) for array in self.grad_arrays]
        self.held = [*self.grads, *self.grad_arrays]
        # Gradients are held by their tensors alone, so that others' references can be told.
        kept = [*self.output_refs, *(ref for ref in self.sums if ref is not None)]
        self.found = {ref.buffer: self.found[ref.buffer] for ref in kept if ref.buffer in self.found}

    def _perform(self) -> dict[Buffer, Any]:
        """Queue all steps; the memory of what is left at the end."""
        at = dict(self.fixed)
        for step, dropped in zip(self.steps, self.dropped):
            self._queue(at, step)
            for buffer in dropped:
                del at[buffer]
        return at

    def _queue(self, at: dict[Buffer, Any], step: Step) -> None:
        given = [_view(at, self.backend, ref) for ref in step.ins]
        found = step.call(*given)  # type: ignore[misc]
        for ref, result in zip(step.outs, found if isinstance(found, tuple) else (found,)):
            self._place(at, ref, self.backend.asarray(result), given)

    def _place(self, at: dict, ref: Ref, result, given: list) -> None:
        new, others = ref.buffer not in at, (*given, *self.backend._constants.values())
        whole = result.base is None and result.strides == ref.strides and result.nbytes == ref.buffer.nbytes
        if new and whole and not any(result is other for other in others):
            at[ref.buffer] = result
            return
        if new:
            at[ref.buffer] = self.backend.empty(ref.buffer.nbytes, dtype=dt.uint8)
        _view(at, self.backend, ref)[...] = result

    def _end(self, ref: Ref):
        return _view({**self.fixed, **self.found}, self.backend, ref)

    def _sums(self) -> list[tuple[Ref, Any]]:
        """Of gradients that are added to: where the program has the sum, and the gradient's array."""
        pairs = zip(self.accumulated, self.sums)
        return [(ref, leaf.grad._data) for (leaf, _), ref in pairs if ref is not None]  # type: ignore[union-attr]

    def _sum(self, ref: Ref, held):
        return self._end(Ref(ref.buffer, 0, held.shape, held.strides, held.dtype))

    # -- running ------------------------------------------------------------------------------------------
    def __call__(self, arrays: list, tensors: list[Tensor]) -> list:
        xp = self.backend
        if self.wrong.seen():
            raise IndexRangeError(
                "an earlier call of this compiled function read a class or a row out of range, and left it out",
                fix="check the indices before they come in, or call the function itself to see which it was",
            )
        with xp.device:
            attached = not self.grads or self._grads_are_free()
            given = [*arrays, *(leaf.grad._data for leaf, _ in self.accumulated)]  # type: ignore[union-attr]
            for mine, array in zip(self.inputs, given):
                mine[...] = array
            after = self.after(tensors, attached)
            claims: list = []
            try:
                self._set_positions([g.claim(blocks, claims) for g, _, blocks in self.generators])
                self.words.send()
                sums = self._sums()
                ends = [self._end(ref) for ref in self.output_refs]
                results = [xp.empty(end.shape, dtype=end.dtype) for end in ends]
                self.count_writes(1)
                any(chain(map(call, (self.graph.launch,)), *after, map(call, (claims.clear,))))
            finally:
                if claims:
                    give_back(claims)
            for result, end in zip(results, ends):
                result[...] = end
            for ref, held in sums:
                held[...] = self._sum(ref, held)
        return results

    def _set_positions(self, positions: Iterable[tuple[int, int, int]]) -> None:
        for words, (_, table) in zip(positions, self.states):
            table.host[0] = signed_words(*words)

    def times(self, rounds: int = 5) -> list[float]:
        """Seconds of each step by itself, waited for; what the steps change is put back."""
        cuda, stream = self.backend.array_module.cuda, self.backend.capture_stream
        words = self.words.host.copy()
        put = self._way_back()
        best = [math.inf] * len(self.steps)
        self.backend.synchronize()
        try:
            with self.backend.device, cuda.using_allocator(cuda.MemoryPool().malloc), stream, self.wrong:
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
            put()
            self.words.host[...] = words  # the tables have the addresses that the graph uses
        return best

    def _way_back(self) -> Callable[[], None]:
        """What puts memory from outside that the program changes back to what it holds now."""
        changed = [(buffer.array, buffer.array.copy()) for buffer in self.changed if buffer.kind == "outside"]

        def put():
            for array, copy in changed:
                array[...] = copy

        return put

    def _new_grads(self, which) -> None:
        """These gradients someone else holds: that tensor gets a copy, or, where it is the array, the program other memory."""
        if any(count != _TWICE + 1 for count in map(sys.getrefcount, self.grad_arrays)):
            self._capture_again()
            return
        for i in which:
            self.grads[i]._data = self.grad_arrays[i].copy()
            self.grads[i] = from_raw(self.grad_arrays[i], self.backend)
        self.held = [*self.grads, *self.grad_arrays]

    def _capture_again(self) -> None:
        """Another graph, with memory of its own, for when someone holds the arrays of this one."""
        put = self._way_back()
        self._capture(put)
        put()


def _view(at: dict, xp, ref: Ref):
    """The array that `ref` is."""
    base = at.get(ref.buffer, ref.buffer.array)
    if ref.offset == 0 and (base.shape, base.strides, base.dtype) == (ref.shape, ref.strides, ref.dtype):
        return base
    if not base.size:
        return xp.empty(ref.shape, dtype=ref.dtype)
    return xp.ndarray(ref.shape, ref.dtype, memptr=base.data + ref.offset, strides=ref.strides)


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
