"""Sums, maxima and minima of rows and of whole arrays on CUDA."""

from __future__ import annotations

from textwrap import indent

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.codegen.kernel import In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS
from deepcore.kernels.cuda.rows import add, by_dtype_and_group, larger, reduction, run_rows, select_kernel
from deepcore.kernels.registry import register

#: Rows longer than this, unless they are many, run on CuPy: one block per row would leave the GPU idle.
_LONG_ROW, _MANY_ROWS = 1 << 16, 64


@args(x=In, out=Out, rows=Size, n=Size)
def _reduce(tools, dtype: str, group: int, what: str):
    """The sum, maximum or minimum of each row."""
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    combine = add if what == "sum" else larger
    result_of, better, least = reduction(tools, combine, dt, group), tools.lift(combine), dt.type(-np.inf)
    start = dt.type(0) if what == "sum" else least
    lowest = what == "amin"

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at = r * n
            value = start
            for i in range(t, n, group):
                value = better(value, -x[at + i] if lowest else x[at + i])
            value = result_of(value)
            if t == 0:
                out[r] = -value if lowest else value

    return kernel


_REDUCE = {what: by_dtype_and_group(f"row_{what}", _reduce, what) for what in ("sum", "amax", "amin")}


def reduced(xp, kernels: dict, input, dtype):
    """Reduce the last dimension with a row kernel."""
    if not input.ndim or not input.size:
        return NotImplemented
    n = input.shape[-1]
    if n > _LONG_ROW and input.size < _MANY_ROWS * n:  # too few blocks
        return NotImplemented
    kernel = select_kernel(kernels, input.dtype, n)
    if kernel is None or not xp.ready(kernel):
        return NotImplemented
    out = xp.empty(input.shape[:-1], dtype=dtype)
    run_rows(xp, kernel, rows=input.size // n, x=xp.ascontiguousarray(input), out=out, n=n)
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


#: Threads of the single block that reduces all targets or losses, and loads per thread in flight.
ALL, _AT_ONCE = 512, 8


def over_all(tools, head: str, load: str, use: str, end: str, **scope):
    """A kernel of one block: `load` assigns element i, or a neutral one past the end, to y; `use` accumulates it."""
    loads = [load.format(y=f"y{u}", i=f"i + {u * ALL}") for u in range(_AT_ONCE)]
    uses = [use.format(y=f"y{u}") for u in range(_AT_ONCE)]
    lines = [
        f"def kernel({head}):", "    total, bad = 0.0, 0.0", f"    for i in range(thread(), rows, {ALL * _AT_ONCE}):",
        *(f"        {line}" for line in loads + uses), "    total, bad = total_of(total), total_of(bad)",
        "    if thread() == 0:", indent(end, "        "),
    ]  # fmt: skip
    scope |= {"thread": tools.thread(), "total_of": tools.block_reduction(add, float64, ALL)}
    return tools.compiled("\n".join(lines), scope)["kernel"]
