"""Fusion: elementwise records that feed one another, or a sum, become one kernel, which keeps values in registers."""

from __future__ import annotations

from bisect import insort

from deepcore.compiler.ir import Program, Record
from deepcore.compiler.passes.chains import Chain, Operand, Value
from deepcore.kernels.runtime.executable import Buffer, Ref


class Readers:
    """The records that read a buffer, by number, in order."""

    def __init__(self, records: list[Record]):
        self._of: dict[Buffer, list[int]] = {}
        for i, record in enumerate(records):
            for buffer in record.reads():
                self._of.setdefault(buffer, []).append(i)

    def first_but(self, buffer: Buffer, at: int) -> int | None:
        """The first reader other than `at`, or None."""
        return next((i for i in self._of.get(buffer, ())[:2] if i != at), None)

    def move(self, buffers: set[Buffer], old: int, new: int) -> None:
        """Make `new` a reader of buffers in place of `old`."""
        for buffer in buffers:
            readers = self._of[buffer]
            readers.remove(old)
            if new not in readers[:1] and new not in readers[-1:] and new not in readers:
                insort(readers, new)

    def drop(self, buffers: set[Buffer], at: int) -> None:
        for buffer in buffers:
            if at in self._of.get(buffer, ()):
                self._of[buffer].remove(at)


def run(program: Program) -> None:
    """From the first record to the last, fuse into each elementwise one, or sum, the records whose results it reads."""
    target = program.target
    lasting = {ref.buffer for ref in program.lasting}
    records: list[Record | None] = list(program.records)
    readers = Readers(program.records)
    writers: dict[Buffer, int] = {buffer: i for i, record in enumerate(program.records) for buffer in record.writes()}
    chains = {i: chain for i, record in enumerate(program.records) if (chain := program.chain_of(record)) is not None}

    def needed_later(source: int, at: int) -> list[bool] | None:
        """For each result of the chain at `source`: whether it is needed besides `at`. None if it cannot be delayed."""
        needed = []
        for _, ref in chains[source].stored:
            other = readers.first_but(ref.buffer, at)
            if ref.buffer.changing or (other is not None and other < at):
                return None
            needed.append(other is not None or ref.buffer in lasting or ref.buffer.kind != "own")
        return needed

    for at, record in enumerate(program.records):
        for ref in list(record.ins):
            source = writers.get(ref.buffer)
            if source is None or source not in chains or records[source] is None or source == at:
                continue
            needed = needed_later(source, at)
            if needed is None or any(x.buffer.changing for x in chains[source].operands):
                continue
            producer, consumer = records[source], records[at]
            assert producer is not None and consumer is not None
            name = f"{producer.name}·{consumer.name}"
            if at in chains:
                joined = _joined(chains[source], chains[at], needed)
                if joined is None or not target.has_kernel(joined):
                    continue
                new = joined.record(name)
                chains[at] = joined
                del chains[source]
            else:
                alone = not any(needed) and len(chains[source].stored) == 1
                fused = target.fused_sum(chains[source], consumer) if alone else None
                if fused is None:
                    continue
                new = fused
                new.name = name
            new.origins = producer.origins + consumer.origins
            readers.move(producer.reads(), source, at)
            readers.drop(consumer.reads() - new.reads(), at)
            records[source], records[at] = None, new
            for buffer in new.writes():
                writers[buffer] = at
    program.records = [record for record in records if record is not None]


def _joined(a: Chain, b: Chain, needed: list[bool]) -> Chain | None:
    """`b` with `a` inlined; stores those results of `a` that are needed elsewhere. None if they do not fit."""
    if a.dtype != b.dtype:
        return None
    single = a.size == 1 and b.size != 1
    if single:
        if a.columns or any(x.kind in "rcRC" for x in a.operands) or any(needed):
            return None
        lines = a.substituted(lambda x: Operand(x.buffer, x.offset, "s" if x.kind.islower() else "S"))
    elif a.size != b.size or (a.columns and b.columns and a.columns != b.columns):
        return None
    else:
        lines = a.lines
    results: dict[Buffer, tuple[Value, Ref]] = {ref.buffer: (value, ref) for value, ref in a.stored}

    def inlined(x: Operand):
        value, ref = results.get(x.buffer, (None, None))
        if value is None:
            return x
        fits = x.kind == "s" if single else x.kind == "v"
        return value if fits and x.offset == ref.offset else None  # type: ignore[union-attr]

    if any(inlined(x) is None for x in b.operands):
        return None
    stored = [pair for pair, keep in zip(a.stored, needed) if keep] + b.stored
    joined = Chain(b.dtype, b.size, max(a.columns, b.columns), [*lines, *b.substituted(inlined)], stored)
    return joined if joined.fits() else None
