"""argmax and argmin on CUDA."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.kernel import In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS
from deepcore.kernels.cuda.reductions import reduced
from deepcore.kernels.cuda.rows import by_dtype_and_group, larger, reduction
from deepcore.kernels.registry import register


@args(x=In, out=Out(int64), rows=Size, n=Size)
def _arg(tools, dtype: str, group: int, lowest: bool):
    """The index of the largest (smallest) number of each row, the first of equal ones; NaN beats all others."""
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, better, least = reduction(tools, larger, dt, group), tools.lift(larger), dt.type(-np.inf)
    earliest = reduction(tools, _earlier, int64, group)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at = r * n
            best = least
            for i in range(t, n, group):
                best = better(best, -x[at + i] if lowest else x[at + i])
            best = best_of(best)
            best_index = n
            for i in range(t, n, group):
                v = -x[at + i] if lowest else x[at + i]
                best_index = i if (best_index == n) & ((v == best) | ((v != v) & (best != best))) else best_index
            best_index = earliest(best_index)
            if t == 0:
                out[r] = best_index

    return kernel


def _earlier(a, b):
    return a if a < b else b


_ARG = {low: by_dtype_and_group(f"arg{'min' if low else 'max'}", _arg, low) for low in (False, True)}


@register("argmax", "cuda", needs_numba=False)
def argmax(xp, input, *, dim):
    return reduced(xp, _ARG[False], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented


@register("argmin", "cuda", needs_numba=False)
def argmin(xp, input, *, dim):
    return reduced(xp, _ARG[True], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented
