"""Rows of a table by index, and their gradients, on the CPU."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.reductions import FLOATS, share
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous, per_element, reference_explains
from deepcore.kernels.registry import register

# Slices of a gradient, a power of two: each looks at every index.
_SLICES = 8


def _gather(tools, dtype: str):
    """out[i] = table[index[i]]; status 1 where an index is out of range. Words: table, index, out, size, rows, n, each."""
    dt = np.dtype(dtype)
    view, whole, copy, size = tools.view(dt), tools.view(int64), tools.copy(dt), dt.itemsize

    def kernel(a, part):
        index, rows, n = whole(a[1]), a[4], a[5]
        start, end = part * a[6], min(a[3], (part + 1) * a[6])
        bad = 0
        for i in range(start, end):
            bad += 1 if (index[i] < 0) | (index[i] >= rows) else 0
        if bad:
            return 1
        for i in range(start, end):
            copy(view(a[2] + i * n * size), view(a[0] + index[i] * n * size), n)
        return 0

    return kernel


def _scatter(tools, dtype: str):
    """out[index[i]] += g[i], one i after the other, into zeros; slice s has the rows s, s + slices, …

    Words: g, index, out, size, rows, n, slices, a row that stays 0 (or -1).
    """
    dt = np.dtype(dtype)
    view, whole, size, zero = tools.view(dt), tools.view(int64), dt.itemsize, dt.type(0)

    def kernel(a, part):
        index, n, slices = whole(a[1]), a[5], a[6]
        for r in range(part, a[4], slices):
            out = view(a[2] + r * n * size)
            for j in range(n):
                out[j] = zero
        for i in range(a[3]):
            if (index[i] & (slices - 1) == part) & (index[i] != a[7]):
                g, out = view(a[0] + i * n * size), view(a[2] + index[i] * n * size)
                for j in range(n):
                    out[j] += g[j]
        return 0

    return kernel


_GATHER, _SCATTER = (
    {d: Kernel(f"{name}_{d.name}", build, d.name) for d in FLOATS}
    for name, build in (("gather_rows", _gather), ("scatter_rows", _scatter))
)


def _plan_rows(specs, params) -> Plan | bool | None:
    """table[index]; a kernel stops where an index is out of range."""
    table, index = specs
    kernel = _GATHER.get(table.dtype)
    if kernel is None or not index.size or not table.size or index.dtype != int64 or not kernel.ready():
        return None
    if not table.plain or not index.plain:
        return True
    count, n = table.shape
    each = share(index.size * n) // n or 1
    words = (Operand(0), Operand(1), Operand(2), index.size, count, n, each)
    return Plan(
        contiguous((*index.shape, n), table.dtype, table.backend), [Launch(kernel, -(-index.size // each), words)]
    )


def _copied_rows(specs, params) -> tuple[bool, ...] | None:
    """A copy of the indices; a table in another layout is left to the reference."""
    table, index = specs
    return (False, True) if table.plain and not index.plain else None


def _plan_rows_grad(specs, params) -> Plan | bool | None:
    """Zeros of `count` rows with g[i] added to row index[i]; equal indices add up in their order."""
    g, index = specs
    count, padding = _rows_key(params)
    kernel, n = _SCATTER.get(g.dtype), g.shape[-1]
    if kernel is None or not g.size or index.dtype != int64 or not kernel.ready():
        return None
    if not g.plain or not index.plain:
        return True
    slices = 1 if g.size + count * n < 2 * share(0) else _SLICES
    padding = -1 if padding is None else padding % count
    words = (Operand(0), Operand(1), Operand(2), index.size, count, n, slices, padding)
    return Plan(contiguous((count, n), g.dtype, g.backend), [Launch(kernel, slices, words)])


def _rows_key(params: dict) -> tuple:
    return params["count"], params.get("padding")


rows = Lowering("rows", _plan_rows, copies=_copied_rows, on_stop=reference_explains, cost=per_element(0))
rows_grad = Lowering("rows_grad", _plan_rows_grad, _rows_key, cost=per_element(1))
for _lowering in (rows, rows_grad):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
