"""Fusion: elementwise steps that hand values on become one kernel, which keeps them in registers; sums take them, too."""

from __future__ import annotations

from deepcore.compiler.ir import Program
from deepcore.compiler.passes import chains
from deepcore.compiler.passes.chains import Chain, Operand, Value
from deepcore.kernels.cpu import reductions
from deepcore.kernels.runtime.executable import Buffer, Launch, Ref, Step


def run(program: Program, kind: type[Chain] = Chain) -> None:
    """Go from the first step to the last, and take into each elementwise one, or sum, those it reads from."""
    lasting = {ref.buffer for ref in program.lasting}
    steps: list[Step | None] = list(program.steps)
    readers: dict[Buffer, list[int]] = {}
    made: dict[Buffer, int] = {}
    for i, step in enumerate(program.steps):
        for buffer in step.reads():
            readers.setdefault(buffer, []).append(i)
        for buffer in step.writes():
            made[buffer] = i
    known = {i: chain for i, step in enumerate(program.steps) if (chain := kind.of(step)) is not None}

    def later(first: int, at: int) -> list[bool] | None:
        """For each result of the chain at `first`: whether more than the step `at` reads it. None where it cannot wait."""
        more = []
        for _, ref in known[first].stored:
            others = [i for i in readers.get(ref.buffer, ()) if i != at]
            if ref.buffer.changing or (others and min(others) < at):
                return None
            more.append(bool(others) or ref.buffer in lasting or ref.buffer.kind != "own")
        return more

    for at, step in enumerate(program.steps):
        for ref in step.ins:
            first = made.get(ref.buffer)
            if first is None or first not in known or steps[first] is None or first == at:
                continue
            needed = later(first, at)
            if needed is None or any(x.buffer.changing for x in known[first].operands):
                continue
            if at in known:
                found = _joined(known[first], known[at], needed)
            else:
                found = None
                if not any(needed):
                    summed = _summed(known[first], steps[first], steps[at])
                    if summed is not None:
                        steps[first], steps[at] = None, summed
                        _moved(readers, first, at)
                continue
            if found is None:
                continue
            ins = list(dict.fromkeys(r for s in (steps[first], steps[at]) for r in s.ins))  # type: ignore[union-attr]
            read = {x.buffer for x in found.operands}
            new = found.step(f"{steps[first].name}·{steps[at].name}", [r for r in ins if r.buffer in read])  # type: ignore[union-attr]
            if new is None:
                continue
            steps[first], steps[at], known[at] = None, new, found
            del known[first]
            _moved(readers, first, at)
            for buffer in new.writes():
                made[buffer] = at
    program.steps = [step for step in steps if step is not None]


def _moved(readers: dict[Buffer, list[int]], first: int, at: int) -> None:
    for places in readers.values():
        if first in places:
            places[:] = sorted({at if i == first else i for i in places})


def _joined(a: Chain, b: Chain, needed: list[bool]) -> Chain | None:
    """`b` with `a` inside; of a's results those that are needed besides are stored."""
    if a.dtype != b.dtype:
        return None
    single = a.size == 1 and b.size != 1
    if single:
        if a.columns or any(x.kind in "rcRC" for x in a.operands) or any(needed):
            return None
        turned = a.substituted(lambda x: Operand(x.buffer, x.offset, "s" if x.kind.islower() else "S"))
    elif a.size != b.size or (a.columns and b.columns and a.columns != b.columns):
        return None
    else:
        turned = a.lines
    results: dict[Buffer, tuple[Value, Ref]] = {ref.buffer: (value, ref) for value, ref in a.stored}

    def taken(x: Operand):
        value, ref = results.get(x.buffer, (None, None))
        if value is None:
            return x
        fits = x.kind == "s" if single else x.kind == "v"
        return value if fits and x.offset == ref.offset else None  # type: ignore[union-attr]

    if any(taken(x) is None for x in b.operands):
        return None
    stored = [pair for pair, keep in zip(a.stored, needed) if keep] + b.stored
    found = type(b)(b.dtype, b.size, max(a.columns, b.columns), [*turned, *b.substituted(taken)], stored)
    return found if found.fits() else None


def _summed(a: Chain, step: Step | None, sum_: Step | None) -> Step | None:
    """A sum of what `a` computes, without its being stored."""
    assert step is not None and sum_ is not None
    (_, ref), *more = a.stored
    if more or a.size < chains.WORTH or not sum_.launches or [r.buffer for r in sum_.ins] != [ref.buffer]:
        return None
    first = sum_.launches[0]
    if not reductions.sums_rows(first.kernel) or first.places.get(0) != (ref.buffer, ref.offset):
        return None
    if a.lines[-1].result is not a.stored[0][0]:
        return None
    operands = sorted(a.operands, key=lambda x: x.kind != "v")
    lines, words = a.numbered(operands)
    kernel = reductions.sum_of(lines, a.dtype, "".join(x.kind for x in operands), len(words))
    if kernel is None or not kernel.ready():
        return None
    places = {i: (x.buffer, x.offset) for i, x in enumerate(operands)}
    places[len(operands)] = first.places[1]
    launch = Launch(kernel, [0] * len(places) + first.words[2:] + words, places, first.slices)
    return Step(f"{step.name}·{sum_.name}", step.ins, sum_.outs, [launch, *sum_.launches[1:]], temps=sum_.temps)
