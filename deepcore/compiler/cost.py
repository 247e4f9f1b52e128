"""What records compute: operations, for `explain`."""

from __future__ import annotations

import dis
import functools
import math

from deepcore.compiler.ir import Record
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.math import formulas

# Operations for an element of what is read or written, whichever is more, of steps that no formula tells it of.
_EACH = {
    "sum": 1, "amax": 1, "amin": 1, "batch_statistics": 4, "batch_norm": 4, "batch_norm_grad": 8, "layer_norm": 8,
    "layer_norm_grad": 12, "softmax": 5, "log_softmax": 5, "cross_entropy": 8, "dropout": 2, "SGD": 4, "Adam": 14,
    "AdamW": 16, "copy": 0,
}  # fmt: skip
_ARITHMETIC = {"BINARY_OP": 1, "UNARY_NEGATIVE": 1, "COMPARE_OP": 1}
_PRODUCTS = {"matmul", "linear", "linear_activation", "linear_activation_kept"}


def arithmetic(record: Record) -> int:
    """Additions, multiplications, divisions and comparisons, a fused one counted twice; about, where no formula says."""
    if record.op is not None and record.op.name in _PRODUCTS:
        return 2 * max(math.prod(ref.shape) for ref in record.outs) * record.ins[0].shape[-1]
    if record.chain is not None:
        return record.chain.size * sum(operations(line.formula) for line in record.chain.lines)
    size = max((math.prod(ref.shape) for ref in (*record.ins, *record.outs)), default=0)
    name = record.name if record.op is None else record.op.name
    found = elementwise.MAPS.get(name)
    return size * (_EACH.get(name, 1) if found is None else operations(found.formula))


@functools.cache
def operations(formula: str) -> int:
    """Arithmetic of a formula for one element."""
    return _count(formulas.function(formula))


@functools.cache
def _count(function) -> int:
    if function.__name__ == "fma":
        return 2
    total = 0
    for instruction in dis.get_instructions(function):
        total += _ARITHMETIC.get(instruction.opname, 0)
        callee = function.__globals__.get(instruction.argval) if instruction.opname == "LOAD_GLOBAL" else None
        if hasattr(callee, "__code__"):
            total += _count(callee)
    return total
