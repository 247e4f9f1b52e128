"""Sums, maxima and minima of rows and of whole arrays on CUDA."""

from __future__ import annotations

from textwrap import indent

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.cuda.kernel import THREADS
from deepcore.kernels.cuda.rows import ONE, add, by_dtype_and_group, chosen, larger, reduction, run_rows
from deepcore.kernels.registry import register

#: Longer rows than this are left to CuPy unless they are many: one block each would leave the GPU idle.
_LONG_ROW, _MANY_ROWS = 1 << 16, 64


def _reduce(tools, dtype: str, group: int, what: str):
    """The sum or the largest or smallest number of each row."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    combine = add if what == "sum" else larger
    result_of, better, least = reduction(tools, combine, dt, group), tools.lift(combine), dt.type(-np.inf)
    start = dt.type(0) if what == "sum" else least
    lowest = what == "amin"

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
            at = r * n
            value = start
            for i in range(t, n, group):
                value = better(value, -x[at + i] if lowest else x[at + i])
            value = result_of(value)
            if t == 0:
                out[r] = -value if lowest else value

    return kernel


_REDUCE = {what: by_dtype_and_group(f"row_{what}", ONE, _reduce, what) for what in ("sum", "amax", "amin")}


def reduced(xp, kernels: dict, input, dtype):
    """One number for each row of the last dimension, in an array without it."""
    if not input.ndim or not input.size:
        return NotImplemented
    n = input.shape[-1]
    if n > _LONG_ROW and input.size < _MANY_ROWS * n:  # too few blocks
        return NotImplemented
    kernel = chosen(kernels, input.dtype, n)
    if kernel is None or not xp.ready(kernel):
        return NotImplemented
    out = xp.empty(input.shape[:-1], dtype=dtype)
    run_rows(xp, kernel, input.size // n, xp.ascontiguousarray(input), out, input.size // n, n)
    return out


def _over_last(xp, what: str, input, dims, keepdim: bool):
    if dims not in ((-1,), (input.ndim - 1,)):
        return NotImplemented
    out = reduced(xp, _REDUCE[what], input, input.dtype)
    return out.reshape(*out.shape, 1) if keepdim and out is not NotImplemented else out


@register("sum", "cuda", needs_numba=False)
def sum(xp, input, *, dims, keepdim):
    return _over_last(xp, "sum", input, dims, keepdim)


@register("amax", "cuda", needs_numba=False)
def amax(xp, input, *, dims, keepdim):
    return _over_last(xp, "amax", input, dims, keepdim)


@register("amin", "cuda", needs_numba=False)
def amin(xp, input, *, dims, keepdim):
    return _over_last(xp, "amin", input, dims, keepdim)


#: Threads of the one block that goes over all targets or losses, and how many numbers a thread loads at once.
ALL, _AT_ONCE = 512, 8


def over_all(tools, head: str, load: str, use: str, end: str, **scope):
    """A kernel of one block: `load` gives y a number at i, or what counts nothing past the end, and `use` uses it."""
    loads = [load.format(y=f"y{u}", i=f"i + {u * ALL}") for u in range(_AT_ONCE)]
    uses = [use.format(y=f"y{u}") for u in range(_AT_ONCE)]
    lines = [
        f"def kernel({head}):", "    total, bad = 0.0, 0.0", f"    for i in range(thread(), rows, {ALL * _AT_ONCE}):",
        *(f"        {line}" for line in loads + uses), "    total, bad = total_of(total), total_of(bad)",
        "    if thread() == 0:", indent(end, "        "),
    ]  # fmt: skip
    scope |= {"thread": tools.thread(), "total_of": tools.block_reduction(add, float64, ALL)}
    exec("\n".join(lines), scope)
    return scope["kernel"]
