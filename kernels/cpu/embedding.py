"""Rows of a table by index, and their gradients, on the CPU."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.cpu.reductions import FLOATS, share
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator, threadpool
from deepcore.kernels.runtime.threadpool import complete

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

    Words: g, index, out, size, rows, n, slices.
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
            if index[i] & (slices - 1) == part:
                g, out = view(a[0] + i * n * size), view(a[2] + index[i] * n * size)
                for j in range(n):
                    out[j] += g[j]
        return 0

    return kernel


_GATHER, _SCATTER = (
    {d: Kernel(f"{name}_{d.name}", build, d.name) for d in FLOATS}
    for name, build in (("gather_rows", _gather), ("scatter_rows", _scatter))
)


def _indices(index):
    return index if index.dtype == int64 and index.flags.carray else np.require(index, int64, ("C", "A"))


@register("rows", "cpu", needs_numba=False)
def rows(xp, table, index, *, padding=None, out=None):
    kernel = _GATHER.get(table.dtype)
    if kernel is None or not index.size or not table.size or not table.flags.carray or not kernel.ready():
        return NotImplemented
    index = _indices(index)
    count, n = table.shape
    result = allocator.empty((*index.shape, n), table.dtype) if out is None else out
    each = share(result.size) // n or 1
    arrays = address(table), address(index), address(result)
    if threadpool.launch(kernel, -(-index.size // each), *arrays, index.size, count, n, each):
        return NotImplemented  # an index is out of range, as the reference says
    return result


@register("rows_grad", "cpu", needs_numba=False)
def rows_grad(xp, g, index, *, count, padding=None, out=None):
    """Zeros of `count` rows with g[i] added to row index[i]; equal indices add up in their order."""
    kernel = _SCATTER.get(g.dtype)
    if kernel is None or not g.size or not kernel.ready():
        return NotImplemented
    if not g.flags.carray:
        g = np.require(g, requirements=("C", "A"))
    index, n = _indices(index), g.shape[-1]
    result = allocator.empty((count, n), g.dtype) if out is None else out
    work = g.size + result.size
    slices = 1 if work < 2 * share(0) else _SLICES
    complete(kernel, slices, address(g), address(index), address(result), index.size, count, n, slices)
    if padding is not None:
        result[padding] = 0
    return result
