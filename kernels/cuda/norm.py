"""Layer norm and RMS norm on CUDA. The variance is computed in a second pass, from the differences to the mean.

Sums along columns are float64: 8 lanes of rows for each of 32 columns, added in order.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.rows import FLOATS, add, by_dtype_and_group, reduction, run_rows, select_kernel
from deepcore.kernels.registry import register


@args(
    x=In, weight=In, bias=In, out=Out, statistics=Out, rows=Size, n=Size, affine=Size, eps=Float
)  # fmt: skip
def _norm(tools, dtype: str, group: int, centred: bool):
    """(x - mean)·rstd·weight + bias; the mean is 0 unless `centred`. statistics: rstd of all rows, then their means."""
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, zero, one, real = reduction(tools, add, dt, group), dt.type(0), dt.type(1), dt.type

    def kernel(x, weight, bias, out, statistics, rows, n, affine, eps):
        t, count = thread() % group, real(n)
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at, mean, total = r * n, zero, zero
            if centred:
                for i in range(t, n, group):
                    mean += x[at + i]
                mean = sum_of(mean) / count
            for i in range(t, n, group):
                d = x[at + i] - mean
                total += d * d
            rstd = one / np.sqrt(sum_of(total) / count + eps)
            if t == 0:
                statistics[r] = rstd
                if centred:
                    statistics[rows + r] = mean
            for i in range(t, n, group):
                v = (x[at + i] - mean) * rstd
                if affine > 0:
                    v = v * weight[i]
                if affine > 1:
                    v = v + bias[i]
                out[at + i] = v

    return kernel


@args(g=In, x=In, weight=In, statistics=In, out=Out, rows=Size, n=Size, affine=Size)
def _norm_grad(tools, dtype: str, group: int, centred: bool):
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, zero, real = reduction(tools, add, dt, group), dt.type(0), dt.type

    def kernel(g, x, weight, statistics, out, rows, n, affine):
        t, count = thread() % group, real(n)
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at, rstd, mean, b, c = r * n, statistics[r], zero, zero, zero
            if centred:
                mean = statistics[rows + r]
            for i in range(t, n, group):
                v = g[at + i] * weight[i] if affine else g[at + i]
                b += v
                c += v * (x[at + i] - mean)
            c = sum_of(c) * rstd / count * rstd
            b = sum_of(b) / count if centred else zero
            for i in range(t, n, group):
                v = g[at + i] * weight[i] if affine else g[at + i]
                out[at + i] = ((v - b) - (x[at + i] - mean) * c) * rstd

    return kernel


#: A block of a column kernel has 32 columns and 8 lanes of rows; `_norm_columns` has this many rows per chunk.
COLUMNS, LANES, _CHUNK = 32, 8, 256


def column_total(tools):
    """total(value): the sum over the lanes of this thread's column, in order, in float64."""
    space, thread, wait = tools.shared(float64, THREADS), tools.thread(), tools.barrier()

    @tools.inline_always
    def total(value):
        parts, t = space(), thread()
        wait()  # the previous sum's reads are done
        parts[t] = value
        wait()
        whole = parts[t % COLUMNS]
        for i in range(1, LANES):
            whole += parts[t % COLUMNS + i * COLUMNS]
        return whole

    return total


@args(g=In, x=In, statistics=In, partial=Out, rows=Size, n=Size, affine=Size)
def _norm_columns(tools, dtype: str, centred: bool):
    """partial[chunk, 0] = Σ g·(x - mean)·rstd and partial[chunk, 1] = Σ g over a chunk of rows, for each column."""
    dt = np.dtype(dtype)
    thread, block, total, zero, double = tools.thread(), tools.block(), column_total(tools), dt.type(0), np.float64

    def kernel(g, x, statistics, partial, rows, n, affine):
        t, tiles = thread(), (n + COLUMNS - 1) // COLUMNS
        column, chunk = block() % tiles * COLUMNS + t % COLUMNS, block() // tiles
        weights, biases = double(0.0), double(0.0)
        if column < n:
            for r in range(chunk * _CHUNK + t // COLUMNS, min(rows, (chunk + 1) * _CHUNK), LANES):
                mean = statistics[rows + r] if centred else zero
                v = g[r * n + column]
                weights += double(v * ((x[r * n + column] - mean) * statistics[r]))
                biases += double(v)
        weights, biases = total(weights), total(biases)
        if (t < COLUMNS) & (column < n):
            partial[chunk * affine * n + column] = dt_(weights)
            if affine > 1:
                partial[(chunk * affine + 1) * n + column] = dt_(biases)

    dt_ = dt.type
    return kernel


_NAMES = {True: "layer_norm", False: "rms_norm"}
_NORM = {c: by_dtype_and_group(name, _norm, c) for c, name in _NAMES.items()}
_NORM_GRAD = {c: by_dtype_and_group(f"{name}_grad", _norm_grad, c) for c, name in _NAMES.items()}
_NORM_COLUMNS = {
    (c, d): Kernel(f"{name}_columns_{d.name}", _norm_columns, d.name, c) for c, name in _NAMES.items() for d in FLOATS
}


def _run_norm(xp, centred: bool, x, weight, bias, rank: int, eps: float):
    """(result, statistics) of x over its last `rank` dimensions."""
    n = math.prod(x.shape[-rank:])
    kernel = select_kernel(_NORM[centred], x.dtype, n)
    if kernel is None or not x.size or (bias is not None and weight is None) or not xp.ready(kernel):
        return NotImplemented
    x, rows = xp.ascontiguousarray(x), x.size // n
    out, statistics = xp.empty(x.shape, dtype=x.dtype), xp.empty((1 + centred, rows), dtype=x.dtype)
    affine = (weight is not None) + (bias is not None)
    weight, bias = (x if p is None else xp.ascontiguousarray(p) for p in (weight, bias))
    run_rows(
        xp, kernel, rows=rows, x=x, weight=weight, bias=bias, out=out, statistics=statistics, n=n, affine=affine, eps=eps
    )  # fmt: skip
    return out, statistics


def _run_norm_grad(xp, centred: bool, g, x, weight, statistics, rank: int, affine: int):
    """The gradients of input, and as far as `affine` counts, of weight and bias."""
    shape = x.shape[-rank:]
    n = math.prod(shape)
    kernel, columns = select_kernel(_NORM_GRAD[centred], x.dtype, n), _NORM_COLUMNS.get((centred, x.dtype))
    if kernel is None or columns is None or not x.size or not (xp.ready(kernel) and xp.ready(columns)):
        return NotImplemented
    g, x, rows = xp.ascontiguousarray(g), xp.ascontiguousarray(x), x.size // n
    statistics, out = xp.ascontiguousarray(statistics), xp.empty(x.shape, dtype=x.dtype)
    parameter = x if weight is None else xp.ascontiguousarray(weight)
    run_rows(xp, kernel, rows=rows, g=g, x=x, weight=parameter, statistics=statistics, out=out, n=n, affine=affine)
    if not affine:
        return (out,)
    chunks = -(-rows // _CHUNK)
    partial = xp.empty((chunks, affine, n), dtype=x.dtype)
    xp.launch(
        columns, chunks * -(-n // COLUMNS), g=g, x=x, statistics=statistics, partial=partial, rows=rows, n=n, affine=affine
    )  # fmt: skip
    sums = (xp.sum(partial, (0,)) if chunks > 1 else partial).reshape(affine, *shape)
    return (out, sums[0], sums[1]) if affine > 1 else (out, sums[0])


@register("layer_norm", "cuda", needs_numba=False)
def layer_norm(xp, input, weight=None, bias=None, *, rank, eps):
    return _run_norm(xp, True, input, weight, bias, rank, eps)


@register("layer_norm_grad", "cuda", needs_numba=False)
def layer_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine):
    return _run_norm_grad(xp, True, g, input, weight, statistics, rank, affine)


@register("rms_norm", "cuda", needs_numba=False)
def rms_norm(xp, input, weight=None, *, rank, eps):
    return _run_norm(xp, False, input, weight, None, rank, eps)


@register("rms_norm_grad", "cuda", needs_numba=False)
def rms_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine):
    return _run_norm_grad(xp, False, g, input, weight, statistics, rank, affine)
