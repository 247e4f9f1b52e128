"""Several elementwise formulas as one CUDA kernel, which keeps what they hand on in registers.

The formulas are those that single kernels are made from, nothing is contracted, and so the bits are theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore import locks
from deepcore.kernels.codegen import jit
from deepcore.kernels.cuda.kernel import KERNELS, THREADS, Kernel, blocks_for
from deepcore.kernels.math.formulas import Line, function

_EACH = 4
_TILE = THREADS * _EACH
_LOCK = locks.lock()
_PLACES = {"v": "i", "r": "i % columns", "c": "i // columns", "s": "0"}


def build(tools, lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]):
    """Formulas over elements. Values are the operands, then the lines' results in their order; the `stored` are written.

    One letter of `pattern` an operand: "v" elements, "s" one for all, "r" a row for all rows, "c" one element a row.
    Arguments: operands, results, number of elements, of columns, parameters.
    """
    dt = np.dtype(dtype)
    scope: dict[str, Any] = {
        **{line.formula: tools.lift(function(line.formula), dt) for line in lines},
        "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
    }  # fmt: skip
    count, numbers = len(pattern), _numbers(lines)
    names = [*(f"a{i}" for i in range(count)), *(f"out{k}" for k in range(len(stored)))]
    body = [
        f"def kernel({', '.join([*names, 'size', 'columns', *(f'p{p}' for p in range(numbers))])}):",
        *(f"    x{i} = a{i}[0]" for i, kind in enumerate(pattern) if kind == "s"),
        f"    for start in range(block() * {_TILE}, size, blocks() * {_TILE}):",
        "        i = start + thread()",
        f"        while i < min(size, start + {_TILE}):",
        *(f"            x{i} = a{i}[{_PLACES[kind]}]" for i, kind in enumerate(pattern) if kind != "s"),
        *(
            f"            x{i} = {line.formula}({', '.join([*(f'x{x}' for x in line.operands), *(f'p{p}' for p in line.parameters)])})"
            for i, line in enumerate(lines, count)
        ),
        *(f"            out{k}[i] = x{value}" for k, value in enumerate(stored)),
        f"            i += {THREADS}",
    ]  # fmt: skip
    exec("\n".join(body), scope)
    return scope["kernel"]


def _numbers(lines) -> int:
    return max((p + 1 for line in lines for p in line.parameters), default=0)


def kernel(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> Kernel:
    name = jit.named("fused", lines, dtype, pattern, stored)
    types = (*[f"{dtype}*"] * (len(pattern) + len(stored)), "int64", "int64", *[dtype] * _numbers(lines))
    with _LOCK:
        return KERNELS.get(name) or Kernel(name, types, build, lines, dtype, pattern, stored, threads=THREADS)


def run(
    xp, made: Kernel, operands, shapes: list[tuple[int, ...]], dtype, size: int, columns: int, numbers: list[float]
):
    """The stored values, in new arrays of these shapes."""
    outs = tuple(xp.empty(shape, dtype=dtype) for shape in shapes)
    if size:
        values = map(dtype.type, numbers)
        xp.launch(made, blocks_for(xp, size, _TILE), *operands, *outs, size, max(columns, 1), *values)
    return outs
