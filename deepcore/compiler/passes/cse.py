"""Common subexpression elimination: repeated records read the first one's results."""

from __future__ import annotations

from typing import Any

from deepcore.compiler.ir import Program, Record
from deepcore.kernels.runtime.executable import Buffer, Ref


def run(program: Program) -> None:
    """Replace a record of the same op on the same places as an earlier one by its results."""
    first: dict[tuple, Record] = {}
    renamed: dict[Buffer, Ref] = {}
    remaining = []
    lasting = {ref.buffer for ref in program.lasting}
    for record in program.records:
        key = _key(record, renamed)
        if key is not None and key in first and lasting.isdisjoint(record.writes()):
            for old, new in zip(record.outs, first[key].outs):
                renamed[old.buffer] = Ref(new.buffer, 0, (), (), new.dtype)
            continue
        if key is not None:
            first[key] = record
        remaining.append(record)
    if renamed:
        program.records = remaining
        program.replace(renamed)


def _key(record: Record, renamed: dict[Buffer, Ref]) -> tuple | None:
    if record.op is None or record.kept or record.chain is not None or record.plan is not None:
        return None
    if any(buffer.changing for buffer in record.buffers()) or any(ref.offset for ref in record.outs):
        return None
    places = []
    for ref in record.ins:
        to = renamed.get(ref.buffer)
        buffer, offset = (ref.buffer, ref.offset) if to is None else (to.buffer, to.offset + ref.offset)
        places.append((id(buffer), offset, ref.shape, ref.strides, ref.dtype))
    try:
        key = id(record.op), tuple(places), frozen(record), record.draw
        hash(key)
    except TypeError:
        return None
    return key


def frozen(record: Record) -> tuple:
    """A record's parameters as a key, without seed, stream and position of its draw."""
    return _frozen({name: x for name, x in record.params.items() if record.draw is None or name not in _DRAWN})


_DRAWN = ("seed", "stream", "position")


def _frozen(value: Any):
    """A hashable key of a parameter that distinguishes -0.0 from 0.0, and 1 from True."""
    if isinstance(value, dict):
        return tuple([(name, _frozen(item)) for name, item in sorted(value.items())])
    if isinstance(value, (tuple, list)):
        return (type(value), *map(_frozen, value))
    if isinstance(value, slice):
        return slice, value.start, value.stop, value.step
    if isinstance(value, (int, float)):
        return type(value), repr(value)
    if value is None or isinstance(value, str) or hasattr(value, "itemsize"):
        return value
    raise TypeError(f"a parameter of type {type(value).__name__}")
