"""Epilogues: a product applies an elementwise record to its tiles while they are in the nearest cache."""

from __future__ import annotations

from deepcore.compiler.ir import Program, Record
from deepcore.compiler.passes.fuse import Readers


def run(program: Program) -> None:
    """Fuse an elementwise record of a product's result, alone or with one other array, into the product."""
    target = program.target
    lasting = {ref.buffer for ref in program.lasting}
    writers = {buffer: i for i, record in enumerate(program.records) for buffer in record.writes()}
    records: list[Record | None] = list(program.records)
    readers = Readers(program.records)
    for at, record in enumerate(program.records):
        chain = program.chain_of(record)
        if chain is None or chain.columns or len(chain.stored) != 1 or any(line.parameters for line in chain.lines):
            continue
        if len(chain.operands) > 2 or any(x.kind != "v" or x.buffer.changing for x in chain.operands):
            continue
        for x in chain.operands:
            source = writers.get(x.buffer)
            product = None if source is None or source == at else records[source]
            if product is None or len(product.outs) != 1 or product.outs[0].buffer is not x.buffer or x.offset:
                continue
            assert source is not None
            others = [y for y in chain.operands if y != x]
            if any(writers.get(y.buffer, -1) >= source for y in others):
                continue
            keep = x.buffer in lasting or readers.first_but(x.buffer, at) is not None
            new = target.with_epilogue(product, chain, x, others, keep)
            if new is None:
                continue
            new.name, new.origins = f"{product.name}·{record.name}", product.origins + record.origins
            readers.move(record.reads(), at, source)
            records[source], records[at] = new, None
            writers |= dict.fromkeys(new.writes(), source)
            break
    program.records = [record for record in records if record is not None]
