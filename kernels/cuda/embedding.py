"""Rows of a table by index on CUDA, and their gradients, summed in the order of the indices."""

from __future__ import annotations

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.kernel import In, InOut, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.cuda.rows import FLOATS, add
from deepcore.kernels.registry import register


@args(table=In, index=In(int64), out=Out, bad=Out(int64), size=Size, rows=Size, n=Size)
def _gather(tools, dtype: str):
    """out[i] = table[index[i]], a warp per row; bad[block] counts indices out of range."""
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // tools.WARP
    total_of, lanes = tools.block_reduction(add, int64, THREADS), tools.WARP

    def kernel(table, index, out, bad, size, rows, n):
        lane, wrong = thread() % lanes, 0
        for i in range(block() * rows_per_block + thread() // lanes, size, blocks() * rows_per_block):
            r = index[i]
            if (r < 0) | (r >= rows):
                wrong += 1
            else:
                for j in range(lane, n, lanes):
                    out[i * n + j] = table[r * n + j]
        wrong = total_of(wrong)
        if thread() == 0:
            bad[block()] = wrong

    return kernel


@args(values=In, rows=In(int64), order=In(int64), out=InOut, size=Size, n=Size)
def _scatter(tools, dtype: str):
    """out[row] += values[order[i]] for the sorted rows, in order, a warp per run of equal rows."""
    thread, block, blocks, rows_per_block, lanes = (
        tools.thread(),
        tools.block(),
        tools.blocks(),
        THREADS // tools.WARP,
        tools.WARP,
    )

    def kernel(values, rows, order, out, size, n):
        for i in range(block() * rows_per_block + thread() // lanes, size, blocks() * rows_per_block):
            row = rows[i]
            if (i == 0) | (rows[max(i, 1) - 1] != row):
                for j in range(thread() % lanes, n, lanes):
                    total, k = out[row * n + j], i
                    while k < size:
                        if rows[k] != row:
                            break
                        total += values[order[k] * n + j]
                        k += 1
                    out[row * n + j] = total

    return kernel


_GATHER = {d: Kernel(f"gather_rows_{d.name}", _gather, d.name) for d in FLOATS}
_SCATTER = {d: Kernel(f"scatter_rows_{d.name}", _scatter, d.name) for d in FLOATS}


def scatter_rows(xp, out, rows, values) -> bool:
    """out[rows[i]] += values[i], in order of i, as on the CPU; False if there is no kernel.

    `out` is a C-contiguous matrix, `rows` are not negative.
    """
    kernel = _SCATTER.get(out.dtype)
    if kernel is None or values.dtype != out.dtype or not out.flags.c_contiguous or not xp.ready(kernel):
        return False
    if values.size:
        rows = rows.reshape(-1).astype(int64, copy=False)
        order = xp.argsort(rows, kind="stable").astype(int64, copy=False)
        size, n = rows.size, out.shape[1]
        xp.launch(
            kernel, blocks_for(xp, size, THREADS // 32), values=xp.ascontiguousarray(values), rows=rows[order], order=order,
            out=out, size=size, n=n,
        )  # fmt: skip
    return True


@register("rows", "cuda", needs_numba=False)
def rows(xp, table, index, *, padding=None):
    kernel = _GATHER.get(table.dtype)
    if kernel is None or not index.size or not table.size or not xp.ready(kernel):
        return NotImplemented
    index = xp.ascontiguousarray(index.astype(int64, copy=False))
    (count, n), blocks = table.shape, blocks_for(xp, index.size, THREADS // 32)
    out, bad = xp.empty((*index.shape, n), dtype=table.dtype), xp.empty(blocks, dtype=int64)
    xp.launch(
        kernel, blocks, table=xp.ascontiguousarray(table), index=index, out=out, bad=bad, size=index.size, rows=count, n=n
    )  # fmt: skip
    return NotImplemented if xp.any_wrong(bad.sum()) else out  # the reference raises for the index out of range


@register("rows_grad", "cuda", needs_numba=False)
def rows_grad(xp, g, index, *, count, padding=None):
    """Zeros of `count` rows with g[i] added to row index[i]; equal indices are summed in order."""
    out = xp.zeros((count, g.shape[-1]), dtype=g.dtype)
    if not scatter_rows(xp, out, index, g.reshape(index.size, g.shape[-1])):
        return NotImplemented
    if padding is not None:
        out[padding] = 0
    return out
