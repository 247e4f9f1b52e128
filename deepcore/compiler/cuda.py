"""Compiled steps on a GPU: what was followed runs once more while a stream captures it; from then on the graph does.

The steps are the ops' own forwards, so kernels, CuPy's functions and cuBLAS take part alike, and bits stay as they are.
Memory comes from a pool of the program's own, whose blocks go from result to result in the order of the capture. What
changes from step to step (learning rates, positions in random streams) is words in device memory, sent before a replay.
"""

from __future__ import annotations

import contextlib
import functools
import math
import struct
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, repeat
from operator import call, is_, setitem
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.build import PASSES, optimized
from deepcore.compiler.ir import Record
from deepcore.compiler.passes import dead
from deepcore.compiler.passes.chains import Chain, chain_of
from deepcore.compiler.record import Recorder, Update, itself, settings_of
from deepcore.compiler.runner import _TWICE, Runner, _of, same_bits
from deepcore.config import settings
from deepcore.errors import IndexRangeError
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.cuda import fused, philox
from deepcore.kernels.cuda import optimizer as cuda_optimizer
from deepcore.kernels.runtime.executable import Buffer, Ref, Step
from deepcore.random import give_back
from deepcore.tensor import Tensor, from_raw

#: Of zeros of two signs, or with a NaN, CuPy's answer may be another than the formula's.
_UNLIKE = frozenset({"maximum", "minimum"})


class DeviceRecorder(Recorder):
    """Records a function on a GPU."""

    writes_arguments = False

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        with self.backend.gpu, super().recording():
            yield

    def can_check(self, name: str, refs: list[Ref]) -> bool:
        return name == "within"  # counted in each run, as nothing waits there: the next call tells of it

    def advance(self, run: Callable, generator, blocks: int) -> tuple[int, int, int]:
        if not settings.kernels or not self.backend.ready(philox.PHILOX):
            self.note("random numbers without a kernel for them")
        return super().advance(run, generator, blocks)

    def draw(self, run: Callable, function, xp, args: tuple, params: dict):
        if not self._inside and (not settings.kernels or not self.backend.ready(philox.PHILOX)):
            self.note("random numbers without a kernel for them")
        return super().draw(run, function, xp, args, params)

    def update(self, run: Callable, optimizer, clip=None, clipped: Callable | None = None):
        live, gradients = self.before_update(optimizer)
        self.settings += [(group, settings_of(group)) for group in optimizer.param_groups]
        known = {id(p): bool(optimizer.state.get(p)) for p in live}
        with self.paused():
            result = run(optimizer, clip, clipped)
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
        if self.mark_updated(plan.arrays):
            self.updates.append(Update(optimizer, plan, gradients, None))
        return result

    def _clip(self, clip, clipped, live, gradients, result) -> list[Ref]:
        """Records that clip gradients; where those are afterwards."""
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
        self.records.append(Record("clip", list(gradients), outs, call=self.clipping(clipped)))
        return outs[: len(live)]


class Target:
    """The GPU's side of compiling one program: steps are calls of what ops run, and of fused kernels."""

    def __init__(self, backend, words: Words, draws: int):
        self.backend = backend
        #: (seed, stream, position) of each draw, in the program's words.
        self.draws = words.table(draws, 3) if draws else None

    def chain_of(self, record: Record) -> Chain | None:
        return chain_of(record, _UNLIKE, booleans=False)

    def has_kernel(self, chain: Chain) -> bool:
        return self.backend.ready(self._kernel(chain)[0])

    def _kernel(self, chain: Chain):
        operands = chain.operands
        lines, words = chain.numbered(operands)
        pattern = "".join(x.kind for x in operands)
        return fused.kernel(lines, chain.dtype, pattern, chain.results(len(operands))), words

    def summed(self, chain: Chain, record: Record) -> Record | None:
        """Sums take no chain in there."""
        return None

    def finished(self, product: Record, chain: Chain, x, others: list, keep: bool) -> Record | None:
        """Nor do products: cuBLAS computes most of them."""
        return None

    def masked(self, record: Record, again: bool):
        """Masks are drawn again: that costs less than to read them."""
        return None

    def lower(self, record: Record) -> Step:
        if record.chain is not None:
            return Step(record.name, record.ins, record.outs, call=self._fused(record.chain), kept=record.kept)
        if record.name == "within" and record.op is None:
            look = functools.partial(_count_wrong, self.backend, **record.params)
            return Step("within", record.ins, [], call=look, kept=True)
        run: Callable | None = record.call
        assert run is not None, record.name
        if record.draw is not None:
            run = functools.partial(self._with_words, run, record.draw.row)
        return Step(record.name, record.ins, record.outs, call=run, kept=record.kept)

    def _with_words(self, run: Callable, row: int, *arrays):
        """Kernels read seed, stream and position from the program's words."""
        state = self.draws.device[row]  # type: ignore[union-attr]
        return run(*arrays, seed=0, stream=0, position=philox.Word.of(0, state, 0))

    def _fused(self, chain: Chain) -> Callable:
        kernel, words = self._kernel(chain)
        outs = [ref for _, ref in chain.stored]
        numbers = [struct.unpack("d", struct.pack("q", word))[0] for word in words]
        dtype, shapes = outs[0].dtype, [ref.shape for ref in outs]
        return lambda *arrays: fused.run(
            self.backend, kernel, arrays, shapes, dtype, chain.size, chain.columns, numbers
        )


def _count_wrong(xp, array, low: int, high: int) -> tuple:
    xp.any_wrong(((array < low) | (array >= high)).sum())
    return ()


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

    def __init__(self, recorder: Recorder, outputs: list[Ref], leaves: list[Tensor], given: list[Tensor], guards):
        xp = recorder.backend
        self.output_refs = outputs
        if len({ref.buffer for ref in outputs}) < len(outputs):
            recorder.note("results that share memory")
        self.keep(recorder, [recorder.grads[leaf] for leaf in leaves], leaves, given, guards)
        #: What is new in each call: (buffer, array).
        self.come_in = [*recorder.given, *((b, b.array) for _, b in self.accumulated)]
        self.inputs = []
        for _, array in self.come_in:
            mine = xp.empty(array.shape, dtype=array.dtype)
            self.inputs.append(mine if mine.strides == array.strides else xp.array(array, copy=True, order="K"))
        self.wrong = _Wrong(xp)
        self.graph: Any = None
        self.pool: Any = None
        self.found: dict[Buffer, Any] = {}

    def _assemble(self, recorder: Recorder, optimize: bool) -> None:
        """The steps, with what outlives them, in their order."""
        xp = self.backend
        updated = [ref for update in self.updates for ref in update.gradients]
        words = self.words = Words(xp)
        target = self.target = Target(xp, words, len(self.rows))  # type: ignore[assignment]
        ends = [*self.output_refs, *self.grad_refs, *updated]
        passes = PASSES[:-1] if optimize and settings.kernels else (dead.run,)
        program = optimized(recorder, ends, target, passes)
        found = program.lasting
        self.steps = [target.lower(record) for record in program.records]
        at = len(self.output_refs) + len(self.grad_refs)
        contents = dict(zip(recorder.redirected, found[len(ends) :]))
        self.result_refs, self.new_grad_refs = found[: len(self.output_refs)], found[len(self.output_refs) : at]
        self.new_sums = [contents.get(buffer) for buffer in recorder.accumulated.values()]
        for update in self.updates:
            gradients, at = found[at : at + len(update.gradients)], at + len(update.gradients)
            self.steps += update.plan.step(words, type(update.optimizer).__name__, gradients)
        for buffer, ref in contents.items():
            if buffer.kind == "outside":
                to = Ref(buffer, 0, ref.shape, ref.strides, ref.dtype)
                self.steps.append(Step("copy", [ref], [to], call=itself))
        words.make()
        lasting = [*self.result_refs, *self.new_grad_refs, *(ref for ref in self.new_sums if ref is not None)]
        self.dropped = _last_uses(self.steps, {ref.buffer for ref in lasting})
        buffers = {b for step in self.steps for b in step.buffers()} | {ref.buffer for ref in lasting}
        self.fixed: dict[Buffer, Any] = {b: b.array for b in buffers if b.kind == "outside"}
        self.fixed |= {buffer: mine for (buffer, _), mine in zip(self.come_in, self.inputs)}

    @property
    def exe(self):
        return self

    @property
    def size(self) -> int:
        """Bytes of the program's own memory."""
        return self.pool.total_bytes() if self.pool is not None else 0

    # -- making -------------------------------------------------------------------------------------------
    def check(self, recorder: Recorder, arrays: list, leaves: list) -> str | None:
        """Capture, and run the graph once on what was there before the function ran; what is wrong, or None."""
        wrong = None
        for optimize in (True, False):
            self._assemble(recorder, optimize)
            wrong = self._tried(recorder, arrays, leaves)
            if not wrong:
                self.come_in = []
                break
        return wrong

    def _tried(self, recorder: Recorder, arrays: list, leaves: list) -> str | None:
        xp, before = self.backend, recorder.before
        after = {buffer: buffer.array.copy() for buffer in before}

        def put(content):
            for buffer, copy in content.items():
                if buffer.kind == "outside":
                    buffer.array[...] = copy

        for (buffer, array), mine in zip(self.come_in, self.inputs):
            mine[...] = before.get(buffer, array)
        for update in self.updates:
            update.plan.set_scalars(update.optimizer, update.plan.then)
        self._set_draws(self.starts)
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
                (f"result {i}", self._end(ref), array) for i, (ref, array) in enumerate(zip(self.result_refs, arrays))
            ]
            pairs += [(_of(leaf), array, leaf.grad._data) for leaf, array in zip(leaves, self.grad_arrays)]
            pairs += [(f"memory of shape {b.array.shape}", b.array, after[b]) for b in before if b.kind == "outside"]
            pairs += [
                (_of(leaf), self._sum(ref, after[b]), after[b])
                for (leaf, b), ref in zip(self.accumulated, self.new_sums)
                if ref is not None
            ]
            return next((name for name, mine, theirs in pairs if not same_bits(xp, mine, theirs)), None)
        finally:
            put(after)

    def compare(self, arrays: list, tensors: list[Tensor], run: Callable) -> tuple[Any, list, str | None]:
        """Run the graph, put back what it changed, then `run()`, whose effects and result count: see `Runner.compare`."""
        xp = self.backend
        with xp.gpu:
            put = self._way_back()
            given = [*arrays, *(leaf.grad._data for leaf, _ in self.accumulated)]  # type: ignore[union-attr]
            for mine, array in zip(self.inputs, given):
                mine[...] = array
            for update in self.updates:
                update.plan.after(update.optimizer, object())
            self._set_draws([generator.where() for generator, _ in self.generators])
            self.words.send()
            self.graph.launch()
            results = [self._end(ref).copy() for ref in self.result_refs]
            gradients = [array.copy() for array in self.grad_arrays]
            sums = [self._sum(ref, held).copy() for ref, held in self._sums()]
            changed = [(b.array, b.array.copy()) for b in self.changed if b.kind == "outside"]
            put()
            seen = self.wrong.seen()
        returned = run()
        if seen:
            return returned, [], "the program read an index out of range"
        leaves = list(self.leaves)
        for i, place in self.given:
            leaves[i] = tensors[place]
        pairs = [(f"memory of shape {array.shape}", copy, array) for array, copy in changed]
        pairs += [(_of(leaf), mine, leaf.grad) for leaf, mine in zip(leaves, gradients)]
        summed = [leaf for (leaf, _), ref in zip(self.accumulated, self.new_sums) if ref is not None]
        cleared = set(self.cleared)
        pairs += [(_of(leaf), mine, leaf.grad) for leaf, mine in zip(summed, sums) if leaf not in cleared]
        for name, mine, theirs in pairs:
            theirs = theirs._data if isinstance(theirs, Tensor) else theirs
            if theirs is None or not same_bits(xp, mine, theirs):
                return returned, results, name
        if any(leaf.grad is not None for leaf in self.cleared):
            return returned, results, "a gradient that was taken away"
        return returned, results, None

    def room_for_copies(self) -> bool:
        """Whether a check's copies are small beside the memory that is left."""
        needed = sum(b.nbytes for b in self.changed) + sum(ref.nbytes for ref in (*self.grad_refs, *self.output_refs))
        memory = self.backend.memory()
        return needed < 1 << 26 or needed < (memory.get("total", 0) - memory.get("held", 0)) // 4

    def _set_draws(self, starts: list[tuple[int, int, int]]) -> None:
        for row, (number, ahead) in enumerate(self.rows):
            seed, stream, first = starts[number]
            self.target.draws.host[row] = signed_words(seed, stream, (first + ahead) % (1 << 64))  # type: ignore[attr-defined]

    def _capture(self, again: Callable = lambda: None) -> None:
        """Run all steps once as they are, which compiles and loads what they need, and once captured."""
        xp = self.backend
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
        self.grad_arrays = [self._end(ref) for ref in self.new_grad_refs]
        self.grads = [from_raw(array, xp) for array in self.grad_arrays]
        self.held = [*self.grads, *self.grad_arrays]
        # Gradients are held by their tensors alone, so that others' references can be told.
        kept = [*self.result_refs, *(ref for ref in self.new_sums if ref is not None)]
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
        pairs = zip(self.accumulated, self.new_sums)
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
        with xp.gpu:
            attached = not self.grads or self._grads_are_free()
            given = [*arrays, *(leaf.grad._data for leaf, _ in self.accumulated)]  # type: ignore[union-attr]
            for mine, array in zip(self.inputs, given):
                mine[...] = array
            after = self.after(tensors, attached)
            claims: list = []
            try:
                self._set_draws([generator.claim(blocks, claims) for generator, blocks in self.generators])
                self.words.send()
                sums = self._sums()
                ends = [self._end(ref) for ref in self.result_refs]
                results = [xp.empty(end.shape, dtype=end.dtype) for end in ends]
                self.count_writes(1, tensors)
                any(chain(map(call, (self.graph.launch,)), *after, map(call, (claims.clear,))))
            finally:
                if claims:
                    give_back(claims)
            for result, end in zip(results, ends):
                result[...] = end
            for ref, held in sums:
                held[...] = self._sum(ref, held)
        return results

    def times(self, rounds: int = 5) -> list[float]:
        """Seconds of each step by itself, waited for; what the steps change is put back."""
        cuda, stream = self.backend.array_module.cuda, self.backend.capture_stream
        words = self.words.host.copy()
        put = self._way_back()
        best = [math.inf] * len(self.steps)
        self.backend.synchronize()
        try:
            with self.backend.gpu, cuda.using_allocator(cuda.MemoryPool().malloc), stream, self.wrong:
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
