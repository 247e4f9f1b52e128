"""Programs on a GPU: recording, fusion, and runners that launch CUDA graphs."""

from __future__ import annotations

import contextlib
import functools
import struct
import sys
from collections.abc import Callable, Iterator
from copy import copy as shallow_copy
from itertools import chain, repeat
from operator import call, is_, setitem
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.build import PASSES, optimized
from deepcore.compiler.control import Body
from deepcore.compiler.cpu import arithmetic, contiguous
from deepcore.compiler.graphs import Graph, RangeErrors, Words, at_place, last_uses, queue_all, view
from deepcore.compiler.ir import UPDATE, Record
from deepcore.compiler.passes import dead
from deepcore.compiler.passes.chains import Chain, chain_of
from deepcore.compiler.record import Recorded, Recorder, Update, itself, settings_of
from deepcore.compiler.runner import _REFS_SHARED, Overlap, Runner, _of, differing
from deepcore.compiler.timing import program, report_graph, watch_of
from deepcore.config import settings
from deepcore.effects import mode
from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.cuda import conv as cuda_conv
from deepcore.kernels.cuda import fused, philox
from deepcore.kernels.cuda import optimizer as cuda_optimizer
from deepcore.kernels.math.formulas import HOST_ONLY, count
from deepcore.kernels.runtime.executable import Buffer, Ref, Step, address_of, span
from deepcore.profiler.events import clock
from deepcore.random import give_back, reserved
from deepcore.tensor import Tensor, from_raw

#: Ops of which CuPy's results differ from the formula's, for zeros of two signs or a NaN.
_DIFFERING = frozenset({"maximum", "minimum"})


class DeviceRecorder(Recorder):
    """Records a function on a GPU."""

    def __init__(self, backend, inspector: Callable | None = None):
        super().__init__(backend, inspector)
        self.range_errors = RangeErrors(backend)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        with self.backend.gpu, super().recording():
            yield

    def can_check(self, name: str, refs: list[Ref]) -> bool:
        return name == "within"  # counted without waiting for the device: the next call raises

    def advance(self, run: Callable, generator, blocks: int) -> tuple[int, int, int]:
        if not settings.kernels or not self.backend.ready(philox.PHILOX):
            self.note("random numbers without a kernel for them")
        return super().advance(run, generator, blocks)

    def draw(self, run: Callable, function, xp, args: tuple, params: dict):
        if not self.inside and (not settings.kernels or not self.backend.ready(philox.PHILOX)):
            self.note("random numbers without a kernel for them")
        return super().draw(run, function, xp, args, params)

    def update(self, run: Callable, optimizer, clip=None, clipped: Callable | None = None):
        live, gradients = self.before_update(optimizer)
        self.settings += [(group, settings_of(group)) for group in optimizer.param_groups]
        has_state = {id(p): bool(optimizer.state.get(p)) for p in live}
        with self.paused():
            result = run(optimizer, clip, clipped)
        if not live:
            return result
        if clip is not None:
            gradients = self._clip(clip, clipped, live, gradients, result)
        plan = None
        if optimizer.by_formula:
            plan = DevicePlan(self.backend, optimizer, live, [not has_state[id(p)] for p in live])
        if plan is None or not plan.usable:
            self.note(f"a step of {type(optimizer).__name__} that is not one update of all parameters by kernels")
            return result
        if self.mark_updated(optimizer, plan.arrays):
            self.updates.append(Update(optimizer, plan, gradients, None))
        return result

    def _clip(self, clip, clipped, live, gradients, result) -> list[Ref]:
        """Record clipping of gradients; returns the places of the clipped ones."""
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
    """The GPU as the target of one program: steps call the ops' forwards, and fused kernels."""

    def __init__(self, backend, words: Words, draws: int, optimize: bool = True):
        self.backend, self.optimize = backend, optimize
        #: (seed, stream, position) of each draw, in the program's words.
        self.draws = words.table(draws, 3) if draws else None

    def chain_of(self, record: Record) -> Chain | None:
        chain = chain_of(record, _DIFFERING, booleans=False)
        if chain is not None and any((line.formula, chain.dtype) in HOST_ONLY for line in chain.lines):
            return None
        return chain

    def has_kernel(self, chain: Chain) -> bool:
        return self.backend.ready(self._kernel(chain)[0])

    def _kernel(self, chain: Chain):
        operands = chain.operands
        lines, words = chain.numbered(operands)
        pattern = "".join(x.kind for x in operands)
        return fused.kernel(lines, chain.dtype, pattern, chain.results(len(operands))), words

    def fused_sum(self, chain: Chain, record: Record) -> Record | None:
        """Unsupported: sums are not fused here."""
        return None

    def with_epilogue(self, product: Record, chain: Chain, x, others: list, keep: bool) -> Record | None:
        """A convolution that adds an array and applies an activation; no other product, as cuBLAS computes most."""
        if product.op is None or product.op.name != "conv" or product.fused or not settings.kernels:
            return None
        (out,), (_, result), first, last = product.outs, chain.stored[0], chain.lines[0], chain.lines[-1]
        formulas = [line.formula for line in chain.lines]
        if others and (formulas.pop(0) != "add" or keep):
            return None
        if len(formulas) > 1 or (formulas and last is not first and last.operands != (first.result,)):
            return None
        if not out.whole or not result.whole or out.nbytes != result.nbytes or result.dtype != out.dtype:
            return None
        image, filters = product.ins[:2]
        activation, places = "".join(formulas), list(map(chain.place, others))
        if not image.dtype == filters.dtype == out.dtype or not all(ref.contiguous for ref in places):
            return None
        if not cuda_conv.has_kernel(self.backend, image.shape, filters.shape, out.dtype, activation, product.params):
            return None

        def call(x, w, *arrays):
            bias, residual = arrays[0] if len(arrays) > len(others) else None, arrays[-1] if others else None
            return cuda_conv.convolve(self.backend, x, w, bias, residual, activation, keep, **product.params)

        ins, outs = [*product.ins, *places], [result, out] if keep else [result]
        return Record("", ins, outs, product.op, product.params, call, product.kept, fused=chain.arithmetic)

    def mask_plan(self, record: Record, reads: bool):
        """Unsupported: masks are redrawn, which costs less than reading them."""
        return None

    def lower(self, record: Record) -> Step:
        step = self._lowered(record)
        step.arithmetic, step.origins = arithmetic(record), record.origins
        return step

    def _lowered(self, record: Record) -> Step:
        if record.chain is not None:
            return Step(record.name, record.ins, record.outs, call=self._fused(record.chain), kept=record.kept)
        if record.bodies:
            return Step(record.name, record.ins, record.outs, call=LoopCall(record, self), kept=record.kept)
        if record.name == "within" and record.op is None:
            check = functools.partial(_count_out_of_range, self.backend, **record.params)
            return Step("within", record.ins, [], call=check, kept=True)
        run: Callable | None = record.call
        assert run is not None, record.name
        if record.draw is not None:
            run = functools.partial(self._with_words, run, record.draw.row)
        return Step(record.name, record.ins, record.outs, call=run, kept=record.kept)

    def _with_words(self, run: Callable, row: int, *arrays):
        """Run a draw whose kernels read seed, stream and position from the program's words."""
        return run(*arrays, seed=0, stream=0, position=philox.Word.of(0, *self.draw(row)))

    def draw(self, row: int) -> tuple[Any, int]:
        """The words of a draw: seed, stream and position in device memory, and the blocks ahead of that position."""
        return self.draws.device[row], 0  # type: ignore[union-attr]

    def _fused(self, chain: Chain) -> Callable:
        kernel, words = self._kernel(chain)
        outs = [ref for _, ref in chain.stored]
        numbers = [struct.unpack("d", struct.pack("q", word))[0] for word in words]
        dtype, shapes = outs[0].dtype, [ref.shape for ref in outs]
        return lambda *arrays: fused.run(
            self.backend, kernel, arrays, shapes, dtype, chain.size, chain.columns, numbers
        )


class _StepTarget(Target):
    """The GPU as the target of the program of a loop's step."""

    def __init__(self, body: Body, outer: Target):
        super().__init__(outer.backend, Words(outer.backend), 0, outer.optimize)
        self.body, self.outer = body, outer
        #: The number of the step that is queued.
        self.k = 0

    def draw(self, row: int) -> tuple[Any, int]:
        draw = self.body.draws[row]
        words, ahead = self.outer.draw(draw.row)
        return words, signed_words((ahead + self.body.ahead(draw, self.k)) % (1 << 64))[0]


class LoopCall:
    """Queues all steps of a loop, as a graph has no loops."""

    def __init__(self, record: Record, outer: Target):
        (self.body,) = record.bodies
        self.outs, self.xp = record.outs, outer.backend
        self.target = _StepTarget(self.body, outer)
        results = [result.ref for result in (*self.body.carried, *self.body.stacked)]
        program = optimized(self.body.recorder, results, self.target, passes_of(outer.optimize))
        self.steps = [self.target.lower(inner) for inner in program.records]
        self.results = program.lasting
        self.dead = last_uses(self.steps, {ref.buffer for ref in self.results})
        buffers = {b for step in self.steps for b in step.buffers()} | {ref.buffer for ref in self.results}
        self.constants = {b: b.array for b in buffers if b.kind == "outside"}

    def __call__(self, *ins) -> tuple:
        body, xp = self.body, self.xp
        carry = [ins[operand.number] for operand in body.carry]
        outs = [xp.empty(ref.shape, dtype=ref.dtype) for ref in self.outs]
        for k in range(body.length):
            at = body.length - 1 - k if body.reverse else k
            self.target.k = k
            memory = {**self.constants, **{fixed.buffer: ins[fixed.number] for fixed in body.fixed}}
            memory |= {operand.buffer: array for operand, array in zip(body.carry, carry)}
            for row in body.rows:
                memory[row.buffer] = _row(ins[row.number], at * row.stride, (row.buffer.nbytes,), dt.uint8)
            queue_all(xp, self.steps, self.dead, memory)
            results = [view(memory, xp, ref) for ref in self.results]
            carry = results[: len(carry)]
            for stacked, array in zip(body.stacked, results[len(carry) :]):
                _row(outs[stacked.number], at * stacked.stride, array.shape, array.dtype)[...] = array
        for result, array in zip(body.carried, carry):
            outs[result.number][...] = array
        return tuple(outs)


def _row(memory, offset: int, shape: tuple[int, ...], dtype):
    if not memory.size:
        return memory.reshape(-1)[:0].reshape(shape)
    return at_place(memory, Ref(None, offset, shape, contiguous(Ref(None, 0, shape, (), dtype)), dtype))  # type: ignore[arg-type]


def _count_out_of_range(xp, array, low: int, high: int) -> tuple:
    xp.any_wrong(((array < low) | (array >= high)).sum())
    return ()


class DevicePlan:
    """An optimizer's step in a program: batches of one formula and dtype, each one launch over a table in its words."""

    def __init__(self, xp, optimizer, live: list[Tensor], new_states: list[bool]):
        self.xp, self.live = xp, live
        self.groups = list(optimizer.param_groups)
        owner = {id(p): group for group in self.groups for p in group["params"]}
        self.group_of = [owner[id(p)] for p in live]
        self.formulas = [optimizer.update(group) for group in self.groups]
        self.weights = [p._data for p in live]
        self.states = [optimizer.state[p] for p in live]
        updates = [optimizer.update(group) for group in self.group_of]
        self.counted = "step" in self.states[0]
        #: For each parameter, the step count of the recorded update.
        self.recorded_counts = [
            s["step"] if self.counted else 1 if new else 2 for s, new in zip(self.states, new_states)
        ]
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
        """Whether the program still computes what `step()` would."""
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

    def guarded(self, optimizer) -> None:
        """None: each call needs the full check."""

    def step(self, words: Words, name: str, gradients: list[Ref]) -> list[Step]:
        """One step for each batch, each with a table in `words`."""
        steps: list[Step] = []
        self.tables = []
        for (update, dtype), members in self.batches.items():
            table = words.table(len(members), cuda_optimizer.width(update))
            self.tables.append((update, members, table))

            def run(*arrays, update=update, dtype=dtype, members=members, table=table):
                entries = [(self.weights[i], g, self.columns[i]) for i, g in zip(members, arrays)]
                tiles, _ = cuda_optimizer.fill(self.xp, update, dtype, entries, table.host)
                words.send_unless_captured()
                cuda_optimizer.update_by_table(self.xp, update, dtype, table.device, tiles)()
                return ()

            arithmetic = count(update.formula) * sum(self.weights[i].size for i in members)
            ins = [gradients[i] for i in members]
            steps.append(Step(name, ins, [], call=run, kept=True, arithmetic=arithmetic, origins=(UPDATE,)))
        return steps

    def set_scalars(self, optimizer, counts: list[int]) -> None:
        for update, members, table in self.tables:
            cache: dict[tuple, Any] = {}
            for row, i in enumerate(members):
                key = id(self.group_of[i]), counts[i]
                if key not in cache:
                    cache[key] = update.values(optimizer.scalars(self.group_of[i], counts[i]))
                cuda_optimizer.set_scalars(table.host, update, row, cache[key])

    def after(self, optimizer, token: object) -> list:
        """Set this step's scalars; returns Python-side updates to apply after the launch."""
        counts = [state["step"] + 1 for state in self.states] if self.counted else [2] * len(self.live)
        self.set_scalars(optimizer, counts)
        return [
            map(setitem, self.states, repeat("step"), counts) if self.counted else (),
            map(setattr, (optimizer,), ("_stepped",), (True,)),
        ]


class GraphRunner(Runner):
    """Runs a program on a GPU: inputs are copied in, words sent, one graph launched, results copied out."""

    SIZED = (
        *Runner.SIZED, "graph", "words", "input_buffers", "inputs", "new", "new_grad_refs", "written_memory", "updates",
    )  # fmt: skip

    def __init__(self, recorder: Any, outputs: list[Ref], leaves: list[Tensor], arguments: list[Tensor], guards):
        self.range_errors = recorder.range_errors
        #: Seconds of each step by itself, once a profile needed them.
        self.step_times: list[float] | None = None
        self.output_refs = outputs
        self.init_state(recorder, [recorder.grads[leaf] for leaf in leaves], leaves, arguments, guards)
        #: Buffers bound anew in each call, of arguments and accumulated gradients, and their memory in the graph.
        self.input_buffers = [*self.arguments, *(buffer for _, buffer in self.accumulated)]
        self.inputs = {buffer: _input(self.backend, buffer.array) for buffer in self.input_buffers}

    # -- building -----------------------------------------------------------------------------------------
    def check(self, recorder: Recorder, arrays: list, leaves: list) -> str | None:
        """Capture, and run the graph once on snapshots from before the function ran; the first difference, or None."""
        wrong = None
        for optimize in (True, False):
            self._assemble(recorder, optimize)
            wrong = self._check_forward(recorder, arrays, leaves)
            if not wrong and self.backwards is not None:
                wrong = self._check_backward(recorder, optimize)
            if not wrong:
                break
        return wrong

    def _assemble(self, recorder: Recorded, optimize: bool) -> None:
        """Build the graph of all steps; lasting places are the results, gradients and written inputs, in that order."""
        xp = self.backend
        updated = [ref for update in self.updates for ref in update.gradients]
        words = self.words = Words(xp)
        target = Target(xp, words, len(self.rows), optimize)
        self.target: Any = target
        recorded = [*self.output_refs, *self.grad_refs, *updated]
        program = optimized(recorder, recorded, target, passes_of(optimize))
        places = program.lasting
        steps = [target.lower(record) for record in program.records]
        start = len(self.output_refs) + len(self.grad_refs)
        contents = dict(zip(recorder.redirected, places[len(recorded) :]))
        results, gradients = places[: len(self.output_refs)], places[len(self.output_refs) : start]
        #: Inputs that are written, by number: the places of their new content.
        numbers = {buffer: i for i, buffer in enumerate(self.input_buffers)}
        self.new = {numbers[buffer]: ref for buffer, ref in contents.items() if buffer in numbers}
        shared = {ref.buffer for ref in (*results, *self.new.values())}
        self.new_grad_refs = [_owned(steps, ref, shared) for ref in gradients]
        for update in self.updates:
            gradients, start = places[start : start + len(update.gradients)], start + len(update.gradients)
            steps += update.plan.step(words, type(update.optimizer).__name__, gradients)
        for buffer, ref in contents.items():
            if buffer.kind == "outside":
                to = Ref(buffer, 0, ref.shape, ref.strides, ref.dtype)
                steps.append(Step("copy", [ref], [to], call=itself))
        words.make()
        self.results = Results(results)
        self.exe = self.graph = Graph(
            xp, steps, words, self.range_errors, self.inputs, [*results, *self.new_grad_refs, *self.new.values()]
        )

    def _capture(self, restore: Callable) -> None:
        graph = self.graph
        graph.capture(restore)
        self.results.find(graph)
        self.written_memory = {i: graph.memory(ref.buffer) for i, ref in self.new.items()}
        # Only their tensors hold the gradient arrays, so that reference counts show other holders.
        self.grad_arrays = [graph.array(ref) for ref in self.new_grad_refs]
        for ref in self.new_grad_refs:
            del graph.outputs[ref.buffer]
        self.grads = [from_raw(array, self.backend) for array in self.grad_arrays]
        self.grad_objects = [*self.grads, *self.grad_arrays]

    def resized(self, recording, arrays: list) -> dict[str, Any] | None:
        other: GraphRunner = shallow_copy(self)
        vars(other).update(self._resized(recording))
        saved = [Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8) for buffer in recording.saved]
        other.output_refs, other.grad_refs = [*recording.outputs, *saved], recording.grads
        other.updates = [update._replace(plan=shallow_copy(update.plan)) for update in recording.recorded.updates]
        other.input_buffers = [*other.arguments, *(buffer for _, buffer in other.accumulated)]
        bound, other.grad_arrays = other._bound_arrays(arrays), []
        with self.backend.gpu:
            other.inputs = {b: _input(self.backend, array) for b, array in zip(other.input_buffers, bound)}
            other._assemble(recording.recorded, self.target.optimize)
            other._copy_in(bound)
            for update in other.updates:
                update.plan.set_scalars(update.optimizer, update.plan.recorded_counts)
            other._set_draws(self.starts)
            restore = other._snapshot()
            try:
                other._capture(restore)
            except Exception:
                return None
            finally:
                restore()
        return other.state()

    def _check_forward(self, recorder: Recorder, arrays: list, leaves: list) -> str | None:
        xp, snapshots = self.backend, recorder.snapshots
        results = {buffer: buffer.array.copy() for buffer in snapshots}

        def write(content):
            for buffer, copy in content.items():
                if buffer.kind == "outside":
                    buffer.array[...] = copy

        for buffer, array in self.inputs.items():
            array[...] = snapshots.get(buffer, buffer.array)
        for update in self.updates:
            update.plan.set_scalars(update.optimizer, update.plan.recorded_counts)
        self._set_draws(self.starts)
        try:
            write(snapshots)
            try:
                self._capture(lambda: write(snapshots))
            except Exception as error:
                return f"what it runs cannot be captured ({type(error).__name__}: {error})"
            write(snapshots)
            self.words.send()
            self.graph.launch()
            pairs = [
                (f"result {i}", array, expected)
                for i, (array, expected) in enumerate(zip(self.results.views, arrays))
                if expected is not None
            ]
            pairs += [(_of(leaf), array, leaf.grad._data) for leaf, array in zip(leaves, self.grad_arrays)]
            pairs += [
                (f"memory of shape {b.array.shape}", b.array, results[b]) for b in snapshots if b.kind == "outside"
            ]
            for i, memory in self.written_memory.items():
                buffer = self.input_buffers[i]
                pairs.append((self._name(i), _view_as(memory, buffer.array), results[buffer]))
            return differing(xp, pairs)
        finally:
            write(results)

    def _check_backward(self, recorder: Recorder, optimize: bool) -> str | None:
        """Run the backward pass with gradients of 1, as recorded, after the graph; the first difference, or None."""
        backwards, xp = self.backwards, self.backend
        saved = self.results.copies(xp)[self.count :]
        backwards.optimize = optimize
        backwards.built.clear()
        chosen = tuple(range(len(backwards.like)))
        seeds = [xp.ones(shape, dtype=dtype) for shape, dtype in backwards.like]
        expected = [None if ref is None else view({}, xp, ref) for ref in backwards.passes[chosen][1]]
        arguments = [array for _, array in recorder.inputs]
        try:
            gradients = backwards.gradients(chosen, seeds, saved, arguments, self.draw_words())
        except Exception as error:
            return f"what its backward pass runs cannot be captured ({type(error).__name__}: {error})"
        pairs = [("a gradient", array, other) for array, other in zip(gradients, expected) if array is not None]
        return differing(xp, pairs)

    def compare(self, arrays: list, tensors: list[Tensor], run: Callable) -> tuple[Any, list | None, str | None]:
        """Run the graph, restore what it changed, then `run()`, whose effects and result count; see `Runner.compare`."""
        xp = self.backend
        with reserved(self.generators) as starts:  # another thread may draw between the two
            with xp.gpu:
                xp.synchronize()
                self.range_errors.check()
                restore = self._snapshot()
                inputs = self._bound_arrays(arrays)
                self._copy_in(inputs)
                for update in self.updates:
                    update.plan.after(update.optimizer, object())
                self._set_draws(starts)
                self.words.send()
                self.graph.launch()
                results = self.results.copies(xp)
                gradients = [array.copy() for array in self.grad_arrays]
                written = {i: _view_as(memory, inputs[i]).copy() for i, memory in self.written_memory.items()}
                changed = [(b.array, b.array.copy()) for b in self.changed if b.kind == "outside"]
                restore()
                xp.synchronize()
                out_of_range = self.range_errors.any_reported()
            returned = run()
        if out_of_range:
            return returned, [], "the program read an index out of range"
        pairs = [(f"memory of shape {array.shape}", copy, array) for array, copy in changed]
        pairs += [(_of(leaf), array, leaf.grad) for leaf, array in zip(self._leaves(tensors), gradients)]
        current = [*arrays, *(leaf.grad for leaf, _ in self.accumulated)]
        cleared = set(map(id, self.cleared))
        removed = {i for i, (leaf, _) in enumerate(self.accumulated, len(arrays)) if id(leaf) in cleared}
        pairs += [(self._name(i), array, current[i]) for i, array in written.items() if i not in removed]
        return returned, results, self._difference(pairs)

    def free_memory(self) -> int:
        memory = self.backend.memory()
        return memory.get("total", 0) - memory.get("held", 0)

    def _set_draws(self, starts: list[tuple[int, int, int]]) -> None:
        for row, (number, offset) in enumerate(self.rows):
            seed, stream, first = starts[number]
            self.target.draws.host[row] = signed_words(seed, stream, (first + offset) % (1 << 64))

    def draw_words(self):
        """(seed, stream, position) of each draw of the last run."""
        return self.target.draws.host.copy() if self.rows else None

    def _name(self, i: int) -> str:
        """What input `i` is, for reasons."""
        count = len(self.arguments)
        return f"argument {i}" if i < count else _of(self.accumulated[i - count][0])

    def _bound_arrays(self, arrays: list) -> list:
        """The arrays for `input_buffers` in a call."""
        return [*arrays, *(leaf.grad._data for leaf, _ in self.accumulated)]  # type: ignore[union-attr]

    def _copy_in(self, inputs: list) -> None:
        """Copy inputs to the graph's memory."""
        for buffer, array in zip(self.input_buffers, inputs):
            self.inputs[buffer][...] = array

    # -- running ------------------------------------------------------------------------------------------
    def timed(self, watch, name: str, arrays: list, tensors: list[Tensor]) -> list:
        """As a call, which is waited for, with an event of a profile for each step."""
        with program(watch, name) as event:
            results = self(arrays, tensors)
            self.backend.synchronize()
            end = clock()
            if self.step_times is None:
                self.step_times = self.times(1)
        assert event is not None
        report_graph(watch, event, self.graph, self.step_times, end, self.backend)
        return results

    def __call__(self, arrays: list, tensors: list[Tensor], timed=None) -> list:
        xp = self.backend
        self.range_errors.check()
        if self.arguments_overlap(arrays):
            raise Overlap
        with xp.gpu:
            attached = not self.grads or self._grads_are_free()
            inputs = self._bound_arrays(arrays)
            self._copy_in(inputs)
            after = self.after(tensors, attached)
            claims: list = []
            try:
                self._set_draws([generator.claim(blocks, claims) for generator, blocks in self.generators])
                self.words.send()
                results = self.results.empty(xp)
                self.count_writes(1, tensors)
                any(chain(map(call, (self.graph.launch,)), *after, map(call, (claims.clear,))))
            finally:
                if claims:
                    give_back(claims)
            outputs = self.results.fill(results)
            for i, memory in self.written_memory.items():
                inputs[i][...] = _view_as(memory, inputs[i])
        return outputs

    def times(self, rounds: int = 5) -> list[float]:
        """Seconds of each step run by itself, including synchronisation; restores what the steps change."""
        restore = self._snapshot()
        try:
            return self.graph.times(rounds)
        finally:
            restore()

    def _snapshot(self) -> Callable[[], None]:
        """Copy the visible memory that a run changes; returns a function that restores it."""
        arrays = [*(buffer.array for buffer in self.changed if buffer.kind == "outside"), *self.grad_arrays]
        changed = [(array, array.copy()) for array in arrays]

        def restore():
            for array, copy in changed:
                array[...] = copy

        return restore

    def _new_grads(self, which) -> None:
        """Detach gradients that others hold: a held tensor gets a copy; for a held array the program is recaptured."""
        if any(count != _REFS_SHARED + 1 for count in map(sys.getrefcount, self.grad_arrays)):
            self._recapture()
            return
        for i in which:
            self.grads[i]._data = self.grad_arrays[i].copy()
            self.grads[i] = from_raw(self.grad_arrays[i], self.backend)
        self.grad_objects = [*self.grads, *self.grad_arrays]

    def _recapture(self) -> None:
        """Capture another graph with memory of its own, as others hold arrays of this one."""
        restore = self._snapshot()
        self._capture(restore)
        restore()


class GraphBackward:
    """One backward program on a GPU: see `split.Backward`."""

    def __init__(
        self,
        recorder: Recorded,
        records: list[Record],
        refs: list[Ref | None],
        saved: list[Buffer],
        optimize: bool = True,
    ):
        xp = recorder.backend
        #: Saved buffers of the forward program, to their buffers in this one.
        self.saved = {buffer: Buffer("bound", buffer.nbytes, None, f"saved{i}") for i, buffer in enumerate(saved)}
        renamed = {old: Ref(new, 0, (), (), None) for old, new in self.saved.items()}
        self.words = Words(xp)
        self.target = Target(xp, self.words, len(recorder.rows), optimize)
        recorded = [ref for ref in refs if ref is not None]
        program = optimized(recorder, recorded, self.target, passes_of(optimize), records=records, renamed=renamed)
        grads = program.lasting[: len(recorded)]
        numbers = iter(range(len(grads)))
        #: For each leaf, the number of its gradient among the results.
        self.numbers = [None if ref is None else next(numbers) for ref in refs]
        self.steps = [self.target.lower(record) for record in program.records]
        self.words.make()
        self.results, self.lasting, self.range_errors = Results(grads), grads, recorder.range_errors
        self.used = {buffer for step in self.steps for buffer in step.buffers()} | {ref.buffer for ref in grads}
        self.graph: Graph | None = None
        self.step_times: list[float] | None = None

    def run(self, arena, bound: list[tuple[Buffer, Any]], words, xp) -> list:
        """The gradients' arrays; None where a leaf has none."""
        bound = [(buffer, array) for buffer, array in bound if buffer in self.used]
        with xp.gpu:
            if words is not None:
                self.target.draws.host[...] = words  # type: ignore[union-attr]
            if self.graph is None:
                inputs = {buffer: _input(xp, array) for buffer, array in bound}
                graph = Graph(xp, self.steps, self.words, self.range_errors, inputs, self.lasting)
                self._copy_in(graph, bound)
                graph.capture()
                self.results.find(graph)
                self.graph = graph
            else:
                self._copy_in(self.graph, bound)
            self.words.send()
            watch = watch_of(mode.hook)
            with program(watch, "backward") as event:
                self.graph.launch()
                if event is not None:
                    xp.synchronize()
                    end = clock()
                    if self.step_times is None:
                        self.step_times = self.graph.times(1)
            if event is not None:
                report_graph(watch, event, self.graph, self.step_times, end, xp)  # type: ignore[arg-type]
            grads = self.results.copies(xp)
        return [None if number is None else grads[number] for number in self.numbers]

    def _copy_in(self, graph: Graph, bound: list[tuple[Buffer, Any]]) -> None:
        for buffer, array in bound:
            graph.fixed[buffer][...] = array


class Results:
    """Copies results out of a graph's memory; those in one buffer are copied together, as they share its memory."""

    def __init__(self, refs: list[Ref]):
        self.refs = refs
        groups: dict[Buffer, list[Ref]] = {}
        for i, ref in enumerate(refs):
            # Results in memory that outlives the program are copied one by one.
            owner = ref.buffer if ref.buffer.kind == "own" else Buffer("own", i)
            groups.setdefault(owner, []).append(ref)
        #: For each group: whether it is one whole array, and its first place.
        self.groups = [(len(set(group)) == 1 and _is_dense(group[0]), group[0]) for group in groups.values()]
        numbers = {id(ref): i for i, group in enumerate(groups.values()) for ref in group}
        self.numbers = [numbers[id(ref)] for ref in refs]
        self.sources: list[Any] = []

    def find(self, graph: Graph) -> None:
        """Look up the graph's arrays after a capture."""
        self.sources = [
            graph.array(ref) if single or ref.buffer.kind != "own" else graph.memory(ref.buffer)
            for single, ref in self.groups
        ]
        self.views = [graph.array(ref) for ref in self.refs]

    def empty(self, xp) -> list:
        """Allocate memory for copies."""
        return [_empty_like(xp, source) for source in self.sources]

    def fill(self, copies: list) -> list:
        """Copy the graph's results to `copies`; returns an array for each result."""
        for copy, source in zip(copies, self.sources):
            copy[...] = source
        arrays = []
        for number, ref in zip(self.numbers, self.refs):
            copy, source = copies[number], self.sources[number]
            whole = (source.shape, source.dtype, source.strides) == (ref.shape, ref.dtype, ref.strides)
            arrays.append(copy if whole else at_place(copy, ref))
        return arrays

    def copies(self, xp) -> list:
        return self.fill(self.empty(xp))


def passes_of(optimize: bool) -> tuple:
    """The CPU's passes without `reuse`, as memory is not planned; `dead` alone without kernels."""
    return PASSES[:-1] if optimize and settings.kernels else (dead.run,)


def _owned(steps: list[Step], ref: Ref, others: set[Buffer]) -> Ref:
    """A gradient's place in a buffer that it shares with no other, copied there if need be."""
    if ref.buffer.kind == "own" and ref.whole and ref.buffer not in others:
        others.add(ref.buffer)
        return ref
    to = Ref(Buffer("own", ref.nbytes), 0, ref.shape, contiguous(ref), ref.dtype)
    steps.append(Step("copy", [ref], [to], call=itself))
    return to


def _input(xp, array):
    """New memory with an array's strides, as offsets of recorded places depend on them."""
    if not array.size:
        return xp.empty(array.shape, dtype=array.dtype)
    low, high = span(array)
    memory = xp.empty(high - low, dtype=dt.uint8)
    return at_place(memory, Ref(None, address_of(array) - low, array.shape, array.strides, array.dtype))  # type: ignore[arg-type]


def _empty_like(xp, array):
    """A new array with the layout of another one."""
    new = xp.empty(array.shape, dtype=array.dtype, order="C" if array.flags.c_contiguous else "F")
    return new if new.strides == array.strides else xp.array(array, copy=True, order="K")


def _is_dense(ref: Ref) -> bool:
    """Whether a place fills its buffer, in any order of axes."""
    return ref.whole or (ref.offset == 0 and ref.nbytes == ref.buffer.nbytes)


def _view_as(memory, like):
    """Bytes viewed with the layout of another array."""
    return at_place(memory, Ref(None, 0, like.shape, like.strides, like.dtype))  # type: ignore[arg-type]
