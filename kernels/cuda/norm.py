"""Layer, RMS and batch norm of CUDA. A variance is that of the differences from a mean that is already known.

Sums along columns are float64: 8 lanes of rows for each of 32 columns, which meet in their order.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.cuda.kernel import Kernel, blocks_for
from deepcore.kernels.cuda.rows import FLOATS, THREADS, add, by_dtype_and_group, chosen, reduction, run_rows
from deepcore.kernels.registry import register

# -- layer norm and RMS norm ----------------------------------------------------------------------------------------


def _norm(tools, dtype: str, group: int, centred: bool):
    """(x - mean)·rstd·weight + bias, without a mean unless centred. statistics: rstd, and behind all of them the mean."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, zero, one, real = reduction(tools, add, dt, group), dt.type(0), dt.type(1), dt.type

    def kernel(x, weight, bias, out, statistics, rows, n, affine, eps):
        t, count = thread() % group, real(n)
        for r in range(block() * each + thread() // group, rows, blocks() * each):
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


def _norm_grad(tools, dtype: str, group: int, centred: bool):
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, zero, real = reduction(tools, add, dt, group), dt.type(0), dt.type

    def kernel(g, x, weight, statistics, out, rows, n, affine):
        t, count = thread() % group, real(n)
        for r in range(block() * each + thread() // group, rows, blocks() * each):
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


#: A block that works on columns has 32 of them and 8 lanes of rows; the rows of `_norm_columns` in chunks of so many.
_COLUMNS, _LANES, _CHUNK = 32, 8, 256


def _column_total(tools):
    """total(value): the sum over the lanes of this thread's column, in their order, in float64."""
    space, thread, wait = tools.shared(float64, THREADS), tools.thread(), tools.barrier()

    @tools.together
    def total(value):
        parts, t = space(), thread()
        wait()  # the readers of the sum before this one are done
        parts[t] = value
        wait()
        whole = parts[t % _COLUMNS]
        for i in range(1, _LANES):
            whole += parts[t % _COLUMNS + i * _COLUMNS]
        return whole

    return total


def _norm_columns(tools, dtype: str, centred: bool):
    """partial[chunk, 0] = Σ g·(x - mean)·rstd and partial[chunk, 1] = Σ g over a chunk of rows, for each column."""
    dt = np.dtype(dtype)
    thread, block, total, zero, double = tools.thread(), tools.block(), _column_total(tools), dt.type(0), np.float64

    def kernel(g, x, statistics, partial, rows, n, affine):
        t, tiles = thread(), (n + _COLUMNS - 1) // _COLUMNS
        column, chunk = block() % tiles * _COLUMNS + t % _COLUMNS, block() // tiles
        weights, biases = double(0.0), double(0.0)
        if column < n:
            for r in range(chunk * _CHUNK + t // _COLUMNS, min(rows, (chunk + 1) * _CHUNK), _LANES):
                mean = statistics[rows + r] if centred else zero
                v = g[r * n + column]
                weights += double(v * ((x[r * n + column] - mean) * statistics[r]))
                biases += double(v)
        weights, biases = total(weights), total(biases)
        if (t < _COLUMNS) & (column < n):
            partial[chunk * affine * n + column] = dt_(weights)
            if affine > 1:
                partial[(chunk * affine + 1) * n + column] = dt_(biases)

    dt_ = dt.type
    return kernel


_NAMES = {True: "layer_norm", False: "rms_norm"}
_NORM = {
    c: by_dtype_and_group(name, ("T*", "T*", "T*", "T*", "T*", "int64", "int64", "int64", "T"), _norm, c)
    for c, name in _NAMES.items()
}
_NORM_GRAD = {
    c: by_dtype_and_group(f"{name}_grad", ("T*", "T*", "T*", "T*", "T*", "int64", "int64", "int64"), _norm_grad, c)
    for c, name in _NAMES.items()
}
_NORM_COLUMNS = {
    (c, d): Kernel(f"{name}_columns_{d.name}", (*[f"{d.name}*"] * 4, *["int64"] * 3), _norm_columns, d.name, c)
    for c, name in _NAMES.items()
    for d in FLOATS
}


def _normed(xp, centred: bool, x, weight, bias, rank: int, eps: float):
    """(result, statistics) of x over its last `rank` dimensions."""
    n = math.prod(x.shape[-rank:])
    kernel = chosen(_NORM[centred], x.dtype, n)
    if kernel is None or not x.size or (bias is not None and weight is None) or not xp.ready(kernel):
        return NotImplemented
    x, rows = xp.ascontiguousarray(x), x.size // n
    out, statistics = xp.empty(x.shape, dtype=x.dtype), xp.empty((1 + centred, rows), dtype=x.dtype)
    affine = (weight is not None) + (bias is not None)
    parameters = [x if p is None else xp.ascontiguousarray(p) for p in (weight, bias)]
    run_rows(xp, kernel, rows, x, *parameters, out, statistics, rows, n, affine, x.dtype.type(eps))
    return out, statistics


def _normed_grad(xp, centred: bool, g, x, weight, statistics, rank: int, affine: int):
    """The gradients of input, and as far as `affine` counts, of weight and bias."""
    shape = x.shape[-rank:]
    n = math.prod(shape)
    kernel, columns = chosen(_NORM_GRAD[centred], x.dtype, n), _NORM_COLUMNS.get((centred, x.dtype))
    if kernel is None or columns is None or not x.size or not (xp.ready(kernel) and xp.ready(columns)):
        return NotImplemented
    g, x, rows = xp.ascontiguousarray(g), xp.ascontiguousarray(x), x.size // n
    statistics, out = xp.ascontiguousarray(statistics), xp.empty(x.shape, dtype=x.dtype)
    parameter = x if weight is None else xp.ascontiguousarray(weight)
    run_rows(xp, kernel, rows, g, x, parameter, statistics, out, rows, n, affine)
    if not affine:
        return (out,)
    chunks = -(-rows // _CHUNK)
    partial = xp.empty((chunks, affine, n), dtype=x.dtype)
    xp.launch(columns, chunks * -(-n // _COLUMNS), g, x, statistics, partial, rows, n, affine)
    sums = (xp.sum(partial, (0,)) if chunks > 1 else partial).reshape(affine, *shape)
    return (out, sums[0], sums[1]) if affine > 1 else (out, sums[0])


@register("layer_norm", "cuda", needs_numba=False)
def layer_norm(xp, input, weight=None, bias=None, *, rank, eps):
    return _normed(xp, True, input, weight, bias, rank, eps)


@register("layer_norm_grad", "cuda", needs_numba=False)
def layer_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine):
    return _normed_grad(xp, True, g, input, weight, statistics, rank, affine)


@register("rms_norm", "cuda", needs_numba=False)
def rms_norm(xp, input, weight=None, *, rank, eps):
    return _normed(xp, False, input, weight, None, rank, eps)


@register("rms_norm_grad", "cuda", needs_numba=False)
def rms_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine):
    return _normed_grad(xp, False, g, input, weight, statistics, rank, affine)


# -- batch norm of (N, C) -------------------------------------------------------------------------------------------


def _batch_statistics(tools, dtype: str):
    """Of each column, three rows of out: mean, variance (divisor `rows`) and 1/√(variance + eps)."""
    dt = np.dtype(dtype)
    thread, block, blocks, total, real = tools.thread(), tools.block(), tools.blocks(), _column_total(tools), dt.type

    def kernel(x, out, rows, n, eps):
        t, count = thread(), np.float64(rows)
        for start in range(block() * _COLUMNS, n, blocks() * _COLUMNS):
            column, mean, square = start + t % _COLUMNS, np.float64(0.0), np.float64(0.0)
            if column < n:
                for r in range(t // _COLUMNS, rows, _LANES):
                    mean += np.float64(x[r * n + column])
            mean = total(mean) / count
            if column < n:
                for r in range(t // _COLUMNS, rows, _LANES):
                    d = np.float64(x[r * n + column]) - mean
                    square += d * d
            square = total(square) / count
            if (t < _COLUMNS) & (column < n):
                out[column] = real(mean)
                out[n + column] = real(square)
                out[2 * n + column] = real(1.0 / np.sqrt(square + eps))

    return kernel


def _batch_sums(tools, dtype: str):
    """Of each column, two rows of out: Σ g and Σ g·(x - mean)."""
    dt = np.dtype(dtype)
    thread, block, blocks, total, real = tools.thread(), tools.block(), tools.blocks(), _column_total(tools), dt.type

    def kernel(g, x, mean, out, rows, n):
        t = thread()
        for start in range(block() * _COLUMNS, n, blocks() * _COLUMNS):
            column, one, two = start + t % _COLUMNS, np.float64(0.0), np.float64(0.0)
            if column < n:
                for r in range(t // _COLUMNS, rows, _LANES):
                    v = g[r * n + column]
                    one += np.float64(v)
                    two += np.float64(v * (x[r * n + column] - mean[column]))
            one, two = total(one), total(two)
            if (t < _COLUMNS) & (column < n):
                out[column] = real(one)
                out[n + column] = real(two)

    return kernel


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


_STATISTICS, _SUMS = (
    {d: Kernel(f"{name}_{d.name}", tuple(t.replace("T", d.name) for t in types), build, d.name) for d in FLOATS}
    for name, types, build in (
        ("batch_statistics", ("T*", "T*", "int64", "int64", "float64"), _batch_statistics),
        ("batch_sums", ("T*", "T*", "T*", "T*", "int64", "int64"), _batch_sums),
    )
)
_APPLY = {
    (gradient, d): Kernel(
        f"batch_norm{'_grad' * gradient}_{d.name}",
        (*[f"{d.name}*"] * 7, "int64", "int64"),
        _batch_apply,
        d.name,
        gradient,
    )
    for gradient in (False, True)
    for d in FLOATS
}


def _columns_of(xp, x, kernels: dict):
    """The kernel for x of shape (N, C), or None."""
    kernel = kernels.get(x.dtype)
    return kernel if x.ndim == 2 and x.size and kernel is not None and xp.ready(kernel) else None


@register("batch_statistics", "cuda", needs_numba=False)
def batch_statistics(xp, input, *, eps):
    kernel = _columns_of(xp, input, _STATISTICS)
    if kernel is None:
        return NotImplemented
    rows, n = input.shape
    out = xp.empty((3, n), dtype=input.dtype)
    xp.launch(kernel, blocks_for(xp, n, _COLUMNS), xp.ascontiguousarray(input), out, rows, n, np.float64(eps))
    return out


def _applied(xp, g, x, mean, scale, shift, factor):
    kernel = _columns_of(xp, x, {d: _APPLY[g is not None, d] for d in FLOATS})
    if kernel is None:
        return NotImplemented
    out = xp.empty(x.shape, dtype=x.dtype)
    rows = [xp.ascontiguousarray(row) for row in (mean, scale, shift, factor)]
    xp.launch(kernel, blocks_for(xp, x.size, THREADS), x if g is None else g, x, *rows, out, x.size, x.shape[1])
    return out


@register("batch_norm", "cuda", needs_numba=False)
def batch_norm(xp, input, statistics, weight=None, bias=None, *, batch, eps):
    scale = statistics[2] if weight is None else statistics[2] * weight
    shift = xp.zeros_like(scale) if bias is None else bias
    return _applied(xp, None, xp.ascontiguousarray(input), statistics[0], scale, shift, scale)


@register("batch_norm_grad", "cuda", needs_numba=False)
def batch_norm_grad(xp, g, input, statistics, weight=None, *, batch, affine, eps):
    kernel = _columns_of(xp, input, _SUMS)
    if kernel is None:
        return NotImplemented
    g, x, (rows, n) = xp.ascontiguousarray(g), xp.ascontiguousarray(input), input.shape
    mean, rstd = xp.ascontiguousarray(statistics[0]), statistics[2]
    scale = rstd if weight is None else rstd * weight
    sums = xp.empty((2, n), dtype=x.dtype)
    if batch or affine:
        xp.launch(kernel, blocks_for(xp, n, _COLUMNS), g, x, mean, sums, rows, n)
    count = x.dtype.type(rows)
    shift, factor = (sums[0] / count, sums[1] * rstd / count * rstd) if batch else [xp.zeros_like(scale)] * 2
    out = _applied(xp, g, x, mean, scale, shift, factor)
    if out is NotImplemented:
        return out
    return (out, *((sums[1] * rstd, sums[0])[:affine] if affine else ()))
