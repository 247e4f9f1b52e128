"""Rows of a table by index on CUDA, and their gradients, which add up in the order of the indices."""

from __future__ import annotations

from deepcore.backend.dtypes import int64
from deepcore.kernels.cuda.kernel import THREADS, Kernel, blocks_for
from deepcore.kernels.cuda.rows import FLOATS, add
from deepcore.kernels.registry import register


def _gather(tools, dtype: str):
    """out[i] = table[index[i]], a warp each; bad[block] counts indices out of range."""
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // tools.WARP
    total_of, lanes = tools.block_reduction(add, int64, THREADS), tools.WARP

    def kernel(table, index, out, bad, size, rows, n):
        lane, wrong = thread() % lanes, 0
        for i in range(block() * each + thread() // lanes, size, blocks() * each):
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


def _scatter(tools, dtype: str):
    """out[row] += values[order[i]] for the sorted rows, a warp for each run of equal ones, in the order of the run."""
    thread, block, blocks, each, lanes = (
        tools.thread(),
        tools.block(),
        tools.blocks(),
        THREADS // tools.WARP,
        tools.WARP,
    )

    def kernel(values, rows, order, out, size, n):
        for i in range(block() * each + thread() // lanes, size, blocks() * each):
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


_GATHER, _SCATTER = (
    {d: Kernel(f"{name}_{d.name}", tuple(t.replace("T", d.name) for t in types), build, d.name) for d in FLOATS}
    for name, types, build in (
        ("gather_rows", ("T*", "int64*", "T*", "int64*", "int64", "int64", "int64"), _gather),
        ("scatter_rows", ("T*", "int64*", "int64*", "T*", "int64", "int64"), _scatter),
    )
)


def scatter_rows(xp, out, rows, values) -> bool:
    """out[rows[i]] += values[i], one i after the other, as on the CPU; False where there is no kernel for it.

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
            kernel, blocks_for(xp, size, THREADS // 32), xp.ascontiguousarray(values), rows[order], order, out, size, n
        )
    return True


@register("rows", "cuda", needs_numba=False)
def rows(xp, table, index, *, padding=None):
    kernel = _GATHER.get(table.dtype)
    if kernel is None or not index.size or not table.size or not xp.ready(kernel):
        return NotImplemented
    index = xp.ascontiguousarray(index.astype(int64, copy=False))
    (count, n), blocks = table.shape, blocks_for(xp, index.size, THREADS // 32)
    out, bad = xp.empty((*index.shape, n), dtype=table.dtype), xp.empty(blocks, dtype=int64)
    xp.launch(kernel, blocks, xp.ascontiguousarray(table), index, out, bad, index.size, count, n)
    return NotImplemented if xp.any_wrong(bad.sum()) else out  # the reference says which index is out of range


@register("rows_grad", "cuda", needs_numba=False)
def rows_grad(xp, g, index, *, count, padding=None):
    """Zeros of `count` rows with g[i] added to row index[i]; equal indices add up in their order."""
    out = xp.zeros((count, g.shape[-1]), dtype=g.dtype)
    if not scatter_rows(xp, out, index, g.reshape(index.size, g.shape[-1])):
        return NotImplemented
    if padding is not None:
        out[padding] = 0
    return out
