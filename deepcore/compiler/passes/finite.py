"""For `detect_anomaly`: checks results while they are in cache; a NaN or infinity stops the program."""

from __future__ import annotations

from deepcore.compiler.ir import Program, Record
from deepcore.kernels.cpu import checks
from deepcore.kernels.runtime.executable import Ref

#: Bytes of results that are checked together, while they are still in the L2 cache.
_CACHED = 1 << 17


def run(program: Program) -> None:
    """Check the results of all records except copies."""
    records: list[Record] = []
    pending: list[Ref] = []

    def check() -> None:
        if pending:
            records.append(Record("all_finite", list(pending), [], kept=True))
        pending.clear()

    for record in program.records:
        records.append(record)
        if record.name != "copy":
            pending += filter(checks.is_checkable, record.outs)
        if sum(ref.nbytes for ref in pending) > _CACHED:
            check()
    check()
    program.records = records
