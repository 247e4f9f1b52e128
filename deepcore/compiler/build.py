"""From what was followed to a program that runs: passes, what lasts, memory."""

from __future__ import annotations

from typing import NamedTuple

from deepcore.backend import dtypes as dt
from deepcore.compiler.ir import Program
from deepcore.compiler.passes import algebra, cse, dead, epilogue, finite, fold, fuse, masks, reuse
from deepcore.compiler.trace import Trace
from deepcore.kernels.codegen.jit import address
from deepcore.kernels.cpu import optimizer as updates
from deepcore.kernels.runtime.executable import Buffer, Executable, Ref, Step, move, moves, plan_memory

#: In their order.
PASSES = (dead.run, fold.run, algebra.run, cse.run, dead.run, fuse.run, epilogue.run, masks.run, reuse.run)
#: Those of a program that looks at the result of every op.
LOOKING = (dead.run, fold.run, algebra.run, cse.run, dead.run, masks.run, finite.run, reuse.run)


class Built(NamedTuple):
    """A program, and where what lasts is found."""

    executable: Executable
    program: Program
    #: One for each returned tensor, and each leaf whose gradient is new.
    outputs: list[Ref]
    grads: list[Ref]


def build(trace: Trace, outputs: list[Ref], grads: list[Ref]) -> Built:
    """The program of a trace; `outputs` and `grads` are where it found what the function returned, and new gradients."""
    steps = list(trace.steps)
    ends: list[Ref] = [*outputs, *grads]
    for update in trace.updates:
        ends += update.gradients
    contents = {buffer: Ref(own, 0, (own.nbytes,), (1,), dt.uint8) for buffer, own in trace.redirected.items()}
    program = Program(steps, [*ends, *contents.values()], dict(trace.constants))
    for each in PASSES if trace.looks is None else LOOKING:
        each(program)
    ends = program.lasting[: len(ends)]
    contents = dict(zip(contents, program.lasting[len(ends) :]))
    outputs, grads = _given(program, ends[: len(outputs)], "out"), ends[len(outputs) : len(outputs) + len(grads)]
    grads = _given(program, grads, "grad")
    at = len(outputs) + len(grads)
    first: list[Step] = []
    last: list[Step] = []
    for update in trace.updates:
        found = program.lasting[at : at + len(update.gradients)]
        at += len(update.gradients)
        made = _update(trace, update, found)
        name = type(update.optimizer).__name__
        if made.check:
            norm = [] if update.norm is None else [update.norm]
            what = "check" if update.clip.max_norm is None else "norm"
            first.append(Step(f"{name} {what}", found, norm, made.check, kept=True))
        last.append(Step(name, found, _changed(trace, update.plan), made.update, kept=True))
    first += moves((Ref(buffer, 0, ref.shape, ref.strides, ref.dtype), ref) for buffer, ref in contents.items())
    program.steps += first + last
    lasting = {ref.buffer for ref in (*outputs, *grads)}
    size = plan_memory(program.steps, lasting)
    return Built(Executable(program.steps, size), program, outputs, grads)


def _given(program: Program, refs: list[Ref], name: str) -> list[Ref]:
    """The same in memory that is given anew for each run."""
    found = []
    for i, ref in enumerate(refs):
        buffer = ref.buffer
        if buffer.kind == "own" and ref.whole and not buffer.changing:
            buffer.kind, buffer.name = "given", f"{name}{i}"
            found.append(ref)
            continue
        strides = _contiguous(ref.shape, ref.dtype.itemsize)
        to = Ref(Buffer("given", ref.nbytes, None, f"{name}{i}"), 0, ref.shape, strides, ref.dtype)
        program.steps.append(move(to, ref))
        found.append(to)
    return found


def _contiguous(shape, step: int) -> tuple[int, ...]:
    strides = []
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def _changed(trace: Trace, plan) -> list[Ref]:
    """The parameters and states that an update writes."""
    arrays = [*plan.weights, *(a for batch in plan.program.batches for column in batch.states for a in column)]
    found = [(trace.intervals.find(address(a)), a) for a in arrays if a.size]
    return [Ref(at[0], at[1], a.shape, a.strides, a.dtype) for at, a in found if at is not None]


def _update(trace: Trace, update, gradients: list[Ref]):
    def outside(array):
        found = trace.intervals.find(address(array))
        assert found is not None
        return found

    plan = update.plan
    places = [[(gradients[i].buffer, gradients[i].offset) for i in members] for members in plan.members]
    return updates.parts(plan.program, places, outside, update.clip, update.norm and update.norm.buffer)
