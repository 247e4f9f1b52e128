"""Several elementwise formulas fused into one CUDA kernel, with intermediate values in registers.

The formulas are those of the single kernels and nothing is contracted, so the bits are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore import locks
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, Type, args
from deepcore.kernels.codegen.ptx import KERNELS, THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.math.formulas import Line, function

_PER_THREAD = 4
_TILE = THREADS * _PER_THREAD
_LOCK = locks.lock()
_PLACES = {"v": "i", "r": "i % columns", "c": "i // columns", "s": "0"}


def _arguments(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> dict[str, Type]:
    arrays = {f"a{i}": In for i in range(len(pattern))} | {f"out{k}": Out for k in range(len(stored))}
    return {**arrays, "size": Size, "columns": Size, **{f"p{j}": Float for j in range(_parameter_count(lines))}}


@args(_arguments)
def build(tools, lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]):
    """Formulas over elements. Values are the operands, then the lines' results in order; the `stored` ones are written.

    `pattern` has a letter per operand: "v" elements, "s" a scalar, "r" a row for all rows, "c" an element per row.
    """
    dt = np.dtype(dtype)
    scope: dict[str, Any] = {
        **{line.formula: tools.lift(function(line.formula), dt) for line in lines},
        "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
    }  # fmt: skip
    count = len(pattern)
    body = [
        f"def kernel({', '.join(_arguments(lines, dtype, pattern, stored))}):",
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
    return tools.compiled("\n".join(body), scope)["kernel"]


def _parameter_count(lines) -> int:
    return max((p + 1 for line in lines for p in line.parameters), default=0)


def kernel(lines: tuple[Line, ...], dtype: str, pattern: str, stored: tuple[int, ...]) -> Kernel:
    name = jit.named("fused", lines, dtype, pattern, stored)
    with _LOCK:
        return KERNELS.get(name) or Kernel(name, build, lines, dtype, pattern, stored)


def run(
    xp,
    fused_kernel: Kernel,
    operands,
    shapes: list[tuple[int, ...]],
    dtype,
    size: int,
    columns: int,
    parameters: list[float],
):
    """Run a fused kernel; the stored values, in new arrays of these shapes."""
    outs = tuple(xp.empty(shape, dtype=dtype) for shape in shapes)
    if size:
        values = (*operands, *outs, size, max(columns, 1), *parameters)
        xp.launch(fused_kernel, blocks_for(xp, size, _TILE), **dict(zip(fused_kernel.arguments, values)))
    return outs
