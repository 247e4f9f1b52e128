"""Rows of a table by index, and their gradients, on the CPU."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import FLOATS, share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element, reference_explains
from deepcore.kernels.registry import register

# Chunks of a gradient, a power of two: each chunk reads every index.
_CHUNKS = 8


@args(table=In, index=In(int64), out=Out, size=Size, rows=Size, n=Size, indices_per_chunk=Size)
def _gather(tools, dtype: str):
    """out[i] = table[index[i]]; status 1 if an index is out of range."""
    copy, after = tools.copy(np.dtype(dtype)), tools.after(np.dtype(dtype))

    def kernel(table, index, out, size, rows, n, indices_per_chunk, chunk):
        start, end = chunk * indices_per_chunk, min(size, (chunk + 1) * indices_per_chunk)
        bad = 0
        for i in range(start, end):
            bad += 1 if (index[i] < 0) | (index[i] >= rows) else 0
        if bad:
            return 1
        for i in range(start, end):
            copy(after(out, i * n), after(table, index[i] * n), n)
        return 0

    return kernel


@args(g=In, index=In(int64), out=Out, size=Size, rows=Size, n=Size, chunks=Size, padding=Size)
def _scatter(tools, dtype: str):
    """out[index[i]] += g[i] in order of i, into zeros; chunk c has the rows c, c + chunks, …

    `padding`: a row that stays 0, or -1.
    """
    dt = np.dtype(dtype)
    after, zero = tools.after(dt), dt.type(0)

    def kernel(g, index, out, size, rows, n, chunks, padding, chunk):
        for r in range(chunk, rows, chunks):
            row = after(out, r * n)
            for j in range(n):
                row[j] = zero
        for i in range(size):
            if (index[i] & (chunks - 1) == chunk) & (index[i] != padding):
                gr, row = after(g, i * n), after(out, index[i] * n)
                for j in range(n):
                    row[j] += gr[j]
        return 0

    return kernel


_GATHER, _SCATTER = (
    {d: Kernel(f"{name}_{d.name}", build, d.name) for d in FLOATS}
    for name, build in (("gather_rows", _gather), ("scatter_rows", _scatter))
)


def _plan_rows(specs, params) -> Plan | bool | None:
    """table[index]; the kernel stops if an index is out of range."""
    table, index = specs
    kernel = _GATHER.get(table.dtype)
    if kernel is None or not index.size or not table.size or index.dtype != int64 or not kernel.ready():
        return None
    if not table.plain or not index.plain:
        return True
    count, n = table.shape
    indices_per_chunk = share(index.size * n) // n or 1
    launch = Launch(
        kernel, -(-index.size // indices_per_chunk), table=Operand(0), index=Operand(1), out=Operand(2),
        size=index.size, rows=count, n=n,
        indices_per_chunk=indices_per_chunk,
    )  # fmt: skip
    return Plan(contiguous((*index.shape, n), table.dtype, table.backend), [launch])


def _copies(specs, params) -> tuple[bool, ...] | None:
    """Copies the indices if the table is contiguous; otherwise the reference runs."""
    table, index = specs
    return (False, True) if table.plain and not index.plain else None


def _plan_rows_grad(specs, params) -> Plan | bool | None:
    """Zeros of `count` rows with g[i] added to row index[i]; equal indices are summed in order."""
    g, index = specs
    count, padding = _rows_key(params)
    kernel, n = _SCATTER.get(g.dtype), g.shape[-1]
    if kernel is None or not g.size or index.dtype != int64 or not kernel.ready():
        return None
    if not g.plain or not index.plain:
        return True
    chunks = 1 if g.size + count * n < 2 * share(0) else _CHUNKS
    padding = -1 if padding is None else padding % count
    launch = Launch(
        kernel, chunks, g=Operand(0), index=Operand(1), out=Operand(2), size=index.size, rows=count, n=n, chunks=chunks,
        padding=padding,
    )  # fmt: skip
    return Plan(contiguous((count, n), g.dtype, g.backend), [launch])


def _rows_key(params: dict) -> tuple:
    return params["count"], params.get("padding")


rows = Lowering("rows", _plan_rows, copies=_copies, on_stop=reference_explains, cost=per_element(0))
rows_grad = Lowering("rows_grad", _plan_rows_grad, _rows_key, cost=per_element(1))
for _lowering in (rows, rows_grad):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
