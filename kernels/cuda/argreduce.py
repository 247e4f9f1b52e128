"""argmax and argmin on CUDA."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.cuda.kernel import THREADS
from deepcore.kernels.cuda.reductions import reduced
from deepcore.kernels.cuda.rows import by_dtype_and_group, larger, reduction
from deepcore.kernels.registry import register


def _arg(tools, dtype: str, group: int, lowest: bool):
    """Where the largest (smallest) number of each row is, the first of equal ones; a NaN comes before all others."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, better, least = reduction(tools, larger, dt, group), tools.lift(larger), dt.type(-np.inf)
    earliest = reduction(tools, _earlier, int64, group)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
            at = r * n
            best = least
            for i in range(t, n, group):
                best = better(best, -x[at + i] if lowest else x[at + i])
            best = best_of(best)
            where = n
            for i in range(t, n, group):
                v = -x[at + i] if lowest else x[at + i]
                where = i if (where == n) & ((v == best) | ((v != v) & (best != best))) else where
            where = earliest(where)
            if t == 0:
                out[r] = where

    return kernel


def _earlier(a, b):
    return a if a < b else b


_ARG = {
    low: by_dtype_and_group(f"arg{'min' if low else 'max'}", ("T*", "int64*", "int64", "int64"), _arg, low)
    for low in (False, True)
}


@register("argmax", "cuda", needs_numba=False)
def argmax(xp, input, *, dim):
    return reduced(xp, _ARG[False], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented


@register("argmin", "cuda", needs_numba=False)
def argmin(xp, input, *, dim):
    return reduced(xp, _ARG[True], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented
