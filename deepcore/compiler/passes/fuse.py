"""Fusion: elementwise records that hand values on become one kernel, which keeps them in registers; sums take them, too."""

from __future__ import annotations

from bisect import insort

from deepcore.compiler.ir import Program, Record
from deepcore.compiler.passes.chains import Chain, Operand, Value
from deepcore.kernels.runtime.executable import Buffer, Ref


class Readers:
    """Which records read a buffer, by number, in order."""

    def __init__(self, records: list[Record]):
        self._of: dict[Buffer, list[int]] = {}
        for i, record in enumerate(records):
            for buffer in record.reads():
                self._of.setdefault(buffer, []).append(i)

    def first_but(self, buffer: Buffer, at: int) -> int | None:
        """The first reader that is not `at`."""
        return next((i for i in self._of.get(buffer, ())[:2] if i != at), None)

    def move(self, buffers: set[Buffer], first: int, at: int) -> None:
        """What `first` read, `at` reads from now on."""
        for buffer in buffers:
            places = self._of[buffer]
            places.remove(first)
            if at not in places[:1] and at not in places[-1:] and at not in places:
                insort(places, at)

    def drop(self, buffers: set[Buffer], at: int) -> None:
        for buffer in buffers:
            if at in self._of.get(buffer, ()):
                self._of[buffer].remove(at)


def run(program: Program) -> None:
    """Go from the first record to the last, and take into each elementwise one, or sum, those it reads from."""
    target = program.target
    lasting = {ref.buffer for ref in program.lasting}
    records: list[Record | None] = list(program.records)
    readers = Readers(program.records)
    made: dict[Buffer, int] = {buffer: i for i, record in enumerate(program.records) for buffer in record.writes()}
    known = {i: chain for i, record in enumerate(program.records) if (chain := program.chain_of(record)) is not None}

    def needed_later(first: int, at: int) -> list[bool] | None:
        """For each result of the chain at `first`: whether more than `at` reads it. None where it cannot wait."""
        more = []
        for _, ref in known[first].stored:
            other = readers.first_but(ref.buffer, at)
            if ref.buffer.changing or (other is not None and other < at):
                return None
            more.append(other is not None or ref.buffer in lasting or ref.buffer.kind != "own")
        return more

    for at, record in enumerate(program.records):
        for ref in list(record.ins):
            first = made.get(ref.buffer)
            if first is None or first not in known or records[first] is None or first == at:
                continue
            needed = needed_later(first, at)
            if needed is None or any(x.buffer.changing for x in known[first].operands):
                continue
            before, now = records[first], records[at]
            assert before is not None and now is not None
            name = f"{before.name}·{now.name}"
            if at in known:
                joined = _joined(known[first], known[at], needed)
                if joined is None or not target.has_kernel(joined):
                    continue
                new = joined.record(name)
                known[at] = joined
                del known[first]
            else:
                summed = None if any(needed) or len(known[first].stored) != 1 else target.summed(known[first], now)
                if summed is None:
                    continue
                new = summed
                new.name = name
            readers.move(before.reads(), first, at)
            readers.drop(now.reads() - new.reads(), at)
            records[first], records[at] = None, new
            for buffer in new.writes():
                made[buffer] = at
    program.records = [record for record in records if record is not None]


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
    found = Chain(b.dtype, b.size, max(a.columns, b.columns), [*turned, *b.substituted(taken)], stored)
    return found if found.fits() else None
