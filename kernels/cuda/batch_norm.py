"""Batch norm of (N, C) arrays on CUDA, over columns with a fixed order of summation."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.cuda.norm import COLUMNS, LANES, column_total
from deepcore.kernels.cuda.rows import FLOATS
from deepcore.kernels.registry import register


@args(x=In, out=Out, rows=Size, n=Size, eps=Float(float64))
def _batch_statistics(tools, dtype: str):
    """Three rows of out: each column's mean, variance (divisor `rows`) and 1/√(variance + eps)."""
    dt = np.dtype(dtype)
    thread, block, blocks, total, real = tools.thread(), tools.block(), tools.blocks(), column_total(tools), dt.type

    def kernel(x, out, rows, n, eps):
        t, count = thread(), np.float64(rows)
        for start in range(block() * COLUMNS, n, blocks() * COLUMNS):
            column, mean, square = start + t % COLUMNS, np.float64(0.0), np.float64(0.0)
            if column < n:
                for r in range(t // COLUMNS, rows, LANES):
                    mean += np.float64(x[r * n + column])
            mean = total(mean) / count
            if column < n:
                for r in range(t // COLUMNS, rows, LANES):
                    d = np.float64(x[r * n + column]) - mean
                    square += d * d
            square = total(square) / count
            if (t < COLUMNS) & (column < n):
                out[column] = real(mean)
                out[n + column] = real(square)
                out[2 * n + column] = real(1.0 / np.sqrt(square + eps))

    return kernel


@args(g=In, x=In, mean=In, out=Out, rows=Size, n=Size)
def _batch_sums(tools, dtype: str):
    """Two rows of out: each column's Σ g and Σ g·(x - mean)."""
    dt = np.dtype(dtype)
    thread, block, blocks, total, real = tools.thread(), tools.block(), tools.blocks(), column_total(tools), dt.type

    def kernel(g, x, mean, out, rows, n):
        t = thread()
        for start in range(block() * COLUMNS, n, blocks() * COLUMNS):
            column, sum_g, sum_gx = start + t % COLUMNS, np.float64(0.0), np.float64(0.0)
            if column < n:
                for r in range(t // COLUMNS, rows, LANES):
                    v = g[r * n + column]
                    sum_g += np.float64(v)
                    sum_gx += np.float64(v * (x[r * n + column] - mean[column]))
            sum_g, sum_gx = total(sum_g), total(sum_gx)
            if (t < COLUMNS) & (column < n):
                out[column] = real(sum_g)
                out[n + column] = real(sum_gx)

    return kernel


@args(g=In, x=In, mean=In, scale=In, shift=In, factor=In, out=Out, size=Size, n=Size)
def _batch_apply(tools, dtype: str, gradient: bool):
    """(x - mean)·scale + shift, or ((g - shift) - (x - mean)·factor)·scale; all but x and g are rows."""
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()

    def kernel(g, x, mean, scale, shift, factor, out, size, n):
        for i in range(block() * THREADS + thread(), size, blocks() * THREADS):
            c = i % n
            d = x[i] - mean[c]
            if gradient:
                out[i] = ((g[i] - shift[c]) - d * factor[c]) * scale[c]
            else:
                out[i] = d * scale[c] + shift[c]

    return kernel


_STATISTICS = {d: Kernel(f"batch_statistics_{d.name}", _batch_statistics, d.name) for d in FLOATS}
_SUMS = {d: Kernel(f"batch_sums_{d.name}", _batch_sums, d.name) for d in FLOATS}
_APPLY = {
    (gradient, d): Kernel(f"batch_norm{'_grad' * gradient}_{d.name}", _batch_apply, d.name, gradient)
    for gradient in (False, True)
    for d in FLOATS
}


def _column_kernel(xp, x, kernels: dict):
    """The kernel for x of shape (N, C), or None."""
    kernel = kernels.get(x.dtype)
    return kernel if x.ndim == 2 and x.size and kernel is not None and xp.ready(kernel) else None


@register("batch_statistics", "cuda", needs_numba=False)
def batch_statistics(xp, input, *, eps):
    kernel = _column_kernel(xp, input, _STATISTICS)
    if kernel is None:
        return NotImplemented
    rows, n = input.shape
    out = xp.empty((3, n), dtype=input.dtype)
    xp.launch(kernel, blocks_for(xp, n, COLUMNS), x=xp.ascontiguousarray(input), out=out, rows=rows, n=n, eps=eps)
    return out


def _apply_rows(xp, g, x, mean, scale, shift, factor):
    kernel = _column_kernel(xp, x, {d: _APPLY[g is not None, d] for d in FLOATS})
    if kernel is None:
        return NotImplemented
    out = xp.empty(x.shape, dtype=x.dtype)
    mean, scale, shift, factor = (xp.ascontiguousarray(row) for row in (mean, scale, shift, factor))
    xp.launch(
        kernel, blocks_for(xp, x.size, THREADS), g=x if g is None else g, x=x, mean=mean, scale=scale, shift=shift,
        factor=factor, out=out, size=x.size, n=x.shape[1],
    )  # fmt: skip
    return out


@register("batch_norm", "cuda", needs_numba=False)
def batch_norm(xp, input, statistics, weight=None, bias=None, *, batch, eps):
    scale = statistics[2] if weight is None else statistics[2] * weight
    shift = xp.zeros_like(scale) if bias is None else bias
    return _apply_rows(xp, None, xp.ascontiguousarray(input), statistics[0], scale, shift, scale)


@register("batch_norm_grad", "cuda", needs_numba=False)
def batch_norm_grad(xp, g, input, statistics, weight=None, *, batch, affine, eps):
    kernel = _column_kernel(xp, input, _SUMS)
    if kernel is None:
        return NotImplemented
    g, x, (rows, n) = xp.ascontiguousarray(g), xp.ascontiguousarray(input), input.shape
    mean, rstd = xp.ascontiguousarray(statistics[0]), statistics[2]
    scale = rstd if weight is None else rstd * weight
    sums = xp.empty((2, n), dtype=x.dtype)
    if batch or affine:
        xp.launch(kernel, blocks_for(xp, n, COLUMNS), g=g, x=x, mean=mean, out=sums, rows=rows, n=n)
    count = x.dtype.type(rows)
    shift, factor = (sums[0] / count, sums[1] * rstd / count * rstd) if batch else [xp.zeros_like(scale)] * 2
    out = _apply_rows(xp, g, x, mean, scale, shift, factor)
    if out is NotImplemented:
        return out
    return (out, *((sums[1] * rstd, sums[0])[:affine] if affine else ()))
