"""From records to a program that runs: passes, what outlives it, lowering, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from deepcore.backend import dtypes as dt
from deepcore.compiler.cpu import Target, contiguous
from deepcore.compiler.ir import Program, Record
from deepcore.compiler.passes import algebra, cse, dead, epilogue, finite, fold, fuse, masks, reuse
from deepcore.compiler.record import Recorder
from deepcore.kernels.cpu import optimizer as updates
from deepcore.kernels.math.formulas import count
from deepcore.kernels.runtime.executable import Buffer, Executable, Ref, Step, moves, plan_memory

#: In their order. On a GPU, `reuse` has nothing to do: there is no planned memory.
PASSES = (dead.run, fold.run, algebra.run, cse.run, dead.run, fuse.run, epilogue.run, masks.run, reuse.run)
#: Those of a program that looks at the result of every op.
LOOKING = (dead.run, fold.run, algebra.run, cse.run, dead.run, masks.run, finite.run, reuse.run)


class Built(NamedTuple):
    """A program, and where what outlives it is found."""

    executable: Executable
    #: One for each returned tensor, and each leaf whose gradient is new.
    outputs: list[Ref]
    grads: list[Ref]
    target: Target


def optimized(
    recorder: Recorder, ends: list[Ref], target, passes: Iterable = PASSES,
    records: list[Record] | None = None, renamed: dict[Buffer, Ref] | None = None,
) -> Program:  # fmt: skip
    """The recorded program, or some of its records, after the passes; `ends` are read after it."""
    contents: list[Ref] = []
    if records is None:
        records = recorder.records
        contents = [Ref(own, 0, (own.nbytes,), (1,), dt.uint8) for own in recorder.redirected.values()]
    records = [replace(record, ins=list(record.ins), outs=list(record.outs)) for record in records]
    program = Program(records, [*ends, *contents], dict(recorder.constants), target)
    if renamed:
        program.replace(renamed)
    for each in passes:
        each(program)
    return program


def build(recorder: Recorder, outputs: list[Ref], grads: list[Ref]) -> Built:
    """The program of a recorded function; `outputs` and `grads` are where it found results, and new gradients."""
    ends: list[Ref] = [*outputs, *grads]
    for update in recorder.updates:
        ends += update.gradients
    target = Target(recorder.backend, len(recorder.rows))
    program = optimized(recorder, ends, target, PASSES if recorder.looks is None else LOOKING)
    found = program.lasting
    contents = dict(zip(recorder.redirected, found[len(ends) :]))
    outputs = results_of(program, found[: len(outputs)])
    grads = _owned(program, found[len(outputs) : len(outputs) + len(grads)])
    steps = [step for record in program.records for step in target.lower(record)]
    at = len(outputs) + len(grads)
    first: list[Step] = []
    last: list[Step] = []
    for update in recorder.updates:
        gradients = found[at : at + len(update.gradients)]
        at += len(update.gradients)
        check, change = _update(recorder, update, gradients)
        first += check
        last.append(change)
    first += moves((Ref(buffer, 0, ref.shape, ref.strides, ref.dtype), ref) for buffer, ref in contents.items())
    steps += first + last
    lasting = {ref.buffer for ref in (*outputs, *grads)}
    size = plan_memory(steps, lasting)
    return Built(Executable(steps, size), outputs, grads, target)


def results_of(program: Program, refs: list[Ref], name: str = "out") -> list[Ref]:
    """Results in memory that is new in each run, laid out and shared as the function's were."""
    found = []
    mine: set[Buffer] = set()
    for i, ref in enumerate(refs):
        buffer = ref.buffer
        if (buffer.kind == "own" and not buffer.changing) or buffer in mine:
            if buffer.kind == "own":
                buffer.kind, buffer.name = "given", f"{name}{i}"
                mine.add(buffer)
            found.append(ref)
        else:
            found.append(_copied(program, ref, f"{name}{i}"))
    return found


def _owned(program: Program, refs: list[Ref]) -> list[Ref]:
    """Gradients, each an array of its own that is new in each run."""
    found = []
    for i, ref in enumerate(refs):
        buffer = ref.buffer
        if buffer.kind == "own" and ref.whole and not buffer.changing:
            buffer.kind, buffer.name = "given", f"grad{i}"
            found.append(ref)
        else:
            found.append(_copied(program, ref, f"grad{i}"))
    return found


def _copied(program: Program, ref: Ref, name: str) -> Ref:
    to = Ref(Buffer("given", ref.nbytes, None, name), 0, ref.shape, contiguous(ref), ref.dtype)
    program.records.append(Record("copy", [ref], [to], kept=True))
    return to


def _update(recorder: Recorder, update, gradients: list[Ref]) -> tuple[list[Step], Step]:
    """The steps that may stop an update, and the one that makes it."""

    def outside(array) -> tuple[Buffer, int]:
        found = recorder.find(array)
        assert found is not None
        return found

    plan, name = update.plan, type(update.optimizer).__name__
    places = [[(gradients[i].buffer, gradients[i].offset) for i in members] for members in plan.members]
    check, change = updates.parts(plan.program, places, outside, update.clip, update.norm and update.norm.buffer)
    before: list[Step] = []
    if check:
        norm = [] if update.norm is None else [update.norm]
        what = "check" if update.clip.max_norm is None else "norm"
        before.append(Step(f"{name} {what}", gradients, norm, check, kept=True))
    arrays = [*plan.weights, *(a for batch in plan.program.batches for column in batch.states for a in column)]
    changed = [Ref(*outside(a), a.shape, a.strides, a.dtype) for a in arrays if a.size]
    arithmetic = sum(count(b.update.formula) * sum(w.size for w in b.weights) for b in plan.program.batches)
    return before, Step(name, gradients, changed, change, kept=True, arithmetic=arithmetic)
