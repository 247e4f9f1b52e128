"""Builds a program from records: passes, memory of results, lowering, memory planning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from deepcore.backend import dtypes as dt
from deepcore.compiler.cpu import Target, contiguous
from deepcore.compiler.ir import UPDATE, Program, Record
from deepcore.compiler.passes import algebra, cse, dead, epilogue, finite, fold, fuse, masks, reuse
from deepcore.compiler.record import Recorded
from deepcore.kernels.cpu import optimizer as updates
from deepcore.kernels.math.formulas import count
from deepcore.kernels.runtime.executable import Buffer, Executable, Ref, Step, moves, plan_memory

#: In order. On a GPU `reuse` does not run, as memory there is not planned.
PASSES = (dead.run, fold.run, algebra.run, cse.run, dead.run, fuse.run, epilogue.run, masks.run, reuse.run)
#: Passes of a program that checks the result of every op, as under `detect_anomaly`.
CHECKING = (dead.run, fold.run, algebra.run, cse.run, dead.run, masks.run, finite.run, reuse.run)


class Built(NamedTuple):
    """A program, and the places of what outlives a run."""

    executable: Executable
    #: One place for each returned tensor, and for each leaf with a new gradient.
    outputs: list[Ref]
    grads: list[Ref]
    target: Target


def optimized(
    recorder: Recorded, lasting: list[Ref], target, passes: Iterable = PASSES,
    records: list[Record] | None = None, renamed: dict[Buffer, Ref] | None = None,
) -> Program:  # fmt: skip
    """The recorded program, or some of its records, after the passes; `lasting` places are read after a run."""
    contents: list[Ref] = []
    if records is None:
        records = recorder.records
        contents = [Ref(own, 0, (own.nbytes,), (1,), dt.uint8) for own in recorder.redirected.values()]
    records = [replace(record, ins=list(record.ins), outs=list(record.outs)) for record in records]
    program = Program(records, [*lasting, *contents], dict(recorder.constants), target)
    if renamed:
        program.replace(renamed)
    for run in passes:
        run(program)
    return program


def build(recorder: Recorded, outputs: list[Ref], grads: list[Ref]) -> Built:
    """The program of a recorded function; `outputs` and `grads`: the places of its results and new gradients."""
    recorded: list[Ref] = [*outputs, *grads]
    for update in recorder.updates:
        recorded += update.gradients
    target = Target(recorder.backend, len(recorder.rows))
    program = optimized(recorder, recorded, target, PASSES if recorder.inspector is None else CHECKING)
    places = program.lasting
    contents = dict(zip(recorder.redirected, places[len(recorded) :]))
    outputs = results_of(program, places[: len(outputs)])
    grads = owned(program, places[len(outputs) : len(outputs) + len(grads)])
    steps = [step for record in program.records for step in target.lower(record)]
    start = len(outputs) + len(grads)
    checks: list[Step] = []
    changes: list[Step] = []
    for update in recorder.updates:
        gradients = places[start : start + len(update.gradients)]
        start += len(update.gradients)
        check, change = _update(recorder, update, gradients)
        checks += check
        changes.append(change)
    copies = moves((Ref(buffer, 0, ref.shape, ref.strides, ref.dtype), ref) for buffer, ref in contents.items())
    steps += checks + copies + changes
    lasting = {ref.buffer for ref in (*outputs, *grads)}
    size = plan_memory(steps, lasting)
    return Built(Executable(steps, size), outputs, grads, target)


def results_of(program: Program, refs: list[Ref], name: str = "out") -> list[Ref]:
    """Places of results in memory bound anew in each run, with the layout and sharing of the function's results."""
    results = []
    result_buffers: set[Buffer] = set()
    for i, ref in enumerate(refs):
        buffer = ref.buffer
        if (buffer.kind == "own" and not buffer.changing) or buffer in result_buffers:
            if buffer.kind == "own":
                buffer.kind, buffer.name = "bound", f"{name}{i}"
                result_buffers.add(buffer)
            results.append(ref)
        else:
            results.append(_copied(program, ref, f"{name}{i}"))
    return results


def owned(program: Program, refs: list[Ref]) -> list[Ref]:
    """Places of gradients, each an array of its own, bound anew in each run."""
    grads = []
    for i, ref in enumerate(refs):
        buffer = ref.buffer
        if buffer.kind == "own" and ref.whole and not buffer.changing:
            buffer.kind, buffer.name = "bound", f"grad{i}"
            grads.append(ref)
        else:
            grads.append(_copied(program, ref, f"grad{i}"))
    return grads


def _copied(program: Program, ref: Ref, name: str) -> Ref:
    to = Ref(Buffer("bound", ref.nbytes, None, name), 0, ref.shape, contiguous(ref), ref.dtype)
    program.records.append(Record("copy", [ref], [to], kept=True))
    return to


def _update(recorder: Recorded, update, gradients: list[Ref]) -> tuple[list[Step], Step]:
    """The steps that may stop an update, and the one that performs it."""

    def outside(array) -> tuple[Buffer, int]:
        place = recorder.find(array)
        assert place is not None
        return place

    plan, name = update.plan, type(update.optimizer).__name__
    places = [[(gradients[i].buffer, gradients[i].offset) for i in members] for members in plan.members]
    check, change = updates.parts(plan.program, places, outside, update.clip, update.norm and update.norm.buffer)
    checks: list[Step] = []
    if check:
        norm = [] if update.norm is None else [update.norm]
        kind = "check" if update.clip.max_norm is None else "norm"
        checks.append(Step(f"{name} {kind}", gradients, norm, check, kept=True))
    arrays = [*plan.weights, *(a for batch in plan.program.batches for column in batch.states for a in column)]
    changed = [Ref(*outside(a), a.shape, a.strides, a.dtype) for a in arrays if a.size]
    arithmetic = sum(count(b.update.formula) * sum(w.size for w in b.weights) for b in plan.program.batches)
    step = Step(name, gradients, changed, change, kept=True, arithmetic=arithmetic, origins=(UPDATE,))
    return checks, step
