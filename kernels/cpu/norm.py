"""Layer norm and RMS norm on the CPU.

A variance is that of the differences from a mean that is already known: twice over a row, or over a chunk that stays in
the cache, whose means and sums of squares are then put together. Gradients of weight and bias are sums of partial sums
of fixed rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu.reductions import FLOATS, LANES, reduced, share, summing
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete

# Rows that are added one after the other, for a channel's statistics or the gradients of weight and bias.
ROWS = 32
# Numbers of a row whose two sums are made at once before they are added to those of the rest.
_PAIRED = 1024


@functools.cache
def average_of(tools, dt):
    """average(x, n): the mean, by way of the differences from the first number, which round less."""

    @tools.inline
    def term(x, y, z, i, c, d):
        return x[i] - c

    total, zero, real = summing(tools, dt, term), dt.type(0), dt.type

    @tools.inline
    def average(x, n):
        return x[0] + total(x, x, x, n, x[0], zero) / real(n)

    return average


@functools.cache
def squares_of(tools, dt):
    """total(x, y, z, n, c, d): Σ (x - c)²."""

    @tools.inline
    def term(x, y, z, i, c, d):
        return (x[i] - c) * (x[i] - c)

    return summing(tools, dt, term, "row")


@functools.cache
def products_of(tools, dt, weighted: bool):
    """total(x, y, z, n, c, d): Σ x·z·(y - c), or Σ x·(y - c) unless weighted."""

    @tools.inline
    def term(x, y, z, i, c, d):
        return (x[i] * z[i] if weighted else x[i]) * (y[i] - c)

    return summing(tools, dt, term)


@functools.cache
def _pair(tools, dt, weighted: bool):
    """pair(g, x, w, n, c): Σ g·w and Σ g·w·(x - c), or without w, at once; in long rows the sums of blocks are added up."""
    lanes, others, fold, zero = tools.local(dt, LANES), tools.local(dt, LANES), tools.folded(dt, "sum"), dt.type(0)
    fetch = tools.prefetch(dt)

    @tools.inline
    def block(g, x, w, start, n, c, far):
        one, two = lanes(), others()
        for j in range(LANES):
            one[j], two[j] = zero, zero
        for i in range(start, start + n - LANES + 1, LANES):
            fetch(g, i + far)
            fetch(x, i + far)
            for j in range(LANES):
                v = g[i + j] * w[i + j] if weighted else g[i + j]
                one[j] += v
                two[j] += v * (x[i + j] - c)
        rest = n % LANES
        if rest:
            if n < LANES:
                for j in range(n):
                    v = g[start + j] * w[start + j] if weighted else g[start + j]
                    one[j] += v
                    two[j] += v * (x[start + j] - c)
            else:
                for j in range(LANES):
                    i = start + n - LANES + j
                    v = g[i] * w[i] if weighted else g[i]
                    one[j] += v if j >= LANES - rest else zero
                    two[j] += v * (x[i] - c) if j >= LANES - rest else zero
        return fold(one), fold(two)

    @tools.inline
    def pair(g, x, w, n, c):
        one, two = zero, zero
        for start in range(0, n, _PAIRED):
            a, b = block(g, x, w, start, min(_PAIRED, n - start), c, n)
            one, two = one + a, two + b
        return one, two

    return pair


def _norm(tools, centred: bool, affine: int, dtype: str):
    """(x - mean)·rstd·weight + bias, without a mean unless centred; affine counts weight and bias.

    Words: x, weight, bias, out, statistics (rstd, and mean behind all of them), rows, n, rows of a slice, eps.
    """
    dt = np.dtype(dtype)
    view, size, one, zero = tools.view(dt), dt.itemsize, dt.type(1), dt.type(0)
    average, squares, root, real = average_of(tools, dt), squares_of(tools, dt), np.sqrt, dt.type

    def kernel(a, part):
        rows, n, eps = a[5], a[6], real(np.int64(a[8]).view(np.float64))
        weight, bias, statistics, count = view(a[1]), view(a[2]), view(a[4]), real(n)
        for r in range(part * a[7], min(rows, (part + 1) * a[7])):
            x, out = view(a[0] + r * n * size), view(a[3] + r * n * size)
            mean = zero
            if centred:
                mean = average(x, n)
                statistics[rows + r] = mean
            rstd = one / root(squares(x, x, x, n, mean, zero) / count + eps)
            statistics[r] = rstd
            for i in range(n):
                v = (x[i] - mean) * rstd if centred else x[i] * rstd
                if affine:
                    v = v * weight[i]
                if affine > 1:
                    v = v + bias[i]
                out[i] = v
        return 0

    return kernel


def _norm_grad(tools, centred: bool, affine: int, dtype: str):
    """The gradient of `_norm`'s input, and for each block of rows the partial sums of those of weight and bias.

    Words: g, x, weight, out, statistics, partial sums (blocks, affine, n), rows, n, blocks of a slice.
    """
    dt = np.dtype(dtype)
    view, size, zero = tools.view(dt), dt.itemsize, dt.type(0)
    products, pair, real = products_of(tools, dt, affine > 0), _pair(tools, dt, affine > 0), dt.type

    def kernel(a, part):
        rows, n, weight, statistics = a[6], a[7], view(a[2]), view(a[4])
        count = real(n)
        for b in range(part * a[8], min(-(-rows // ROWS), (part + 1) * a[8])):
            weights, biases = view(a[5] + b * affine * n * size), view(a[5] + (b * affine + 1) * n * size)
            if affine:
                for i in range(n):
                    weights[i] = zero
            if affine > 1:
                for i in range(n):
                    biases[i] = zero
            for r in range(b * ROWS, min(rows, (b + 1) * ROWS)):
                g, x, out = view(a[0] + r * n * size), view(a[1] + r * n * size), view(a[3] + r * n * size)
                rstd, mean = statistics[r], statistics[rows + r] if centred else zero
                if centred:
                    m, c = pair(g, x, weight, n, mean)
                    m, c = m / count, c * rstd / count * rstd
                else:
                    m, c = zero, products(g, x, weight, n, mean, zero) * rstd / count * rstd
                for i in range(n):
                    v = g[i] * weight[i] if affine else g[i]
                    d = x[i] - mean if centred else x[i]
                    out[i] = ((v - m) - d * c) * rstd if centred else (v - d * c) * rstd
                if affine:
                    for i in range(n):
                        weights[i] += g[i] * ((x[i] - mean) * rstd if centred else x[i] * rstd)
                if affine > 1:
                    for i in range(n):
                        biases[i] += g[i]
        return 0

    return kernel


_NAMES = {True: "layer_norm", False: "rms_norm"}
_NORMS, _NORM_GRADS = (
    {
        (centred, affine, d): Kernel(f"{name}{suffix}_{'affine' * (affine > 0)}{affine}_{d.name}", build, centred, affine, d.name)
        for centred, name in _NAMES.items() for affine in (0, 1, 2)[: 2 + centred] for d in FLOATS
    }
    for build, suffix in ((_norm, ""), (_norm_grad, "_grad"))
)  # fmt: skip


def contiguous(x, dtype):
    return x if x.flags.carray and x.dtype == dtype else np.require(x, dtype, ("C", "A"))


def _normed(centred: bool, x, weight, bias, rank: int, eps: float, out):
    """(result, statistics) of x over its last `rank` dimensions."""
    dtype = x.dtype
    affine = 2 if bias is not None else 1 if weight is not None else 0
    kernel = _NORMS.get((centred, affine, dtype))
    if kernel is None or not x.size or (affine == 2 and weight is None) or not kernel.ready():
        return NotImplemented
    n = x.shape[-1] if rank == 1 else math.prod(x.shape[-rank:])
    x = contiguous(x, dtype)
    if affine:
        weight = contiguous(weight, dtype)
        if affine > 1:
            bias = contiguous(bias, dtype)
    rows = x.size // n
    statistics = allocator.small((2 if centred else 1, rows), dtype)
    result = allocator.empty_like(x) if out is None else out
    each = share(x.size) // n or 1
    complete(
        kernel, -(-rows // each), address(x), address(weight) if affine else 0, address(bias) if affine > 1 else 0,
        address(result), address(statistics), rows, n, each, bits(eps),
    )  # fmt: skip
    return result, statistics


def _normed_grad(centred: bool, g, x, weight, statistics, rank: int, affine: int, out):
    """The gradients of input, weight and bias, the latter as far as `affine` counts them."""
    dtype = x.dtype
    kernel = _NORM_GRADS.get((centred, affine, dtype))
    if kernel is None or not x.size or not kernel.ready():
        return NotImplemented
    shape = x.shape[-rank:]
    n = math.prod(shape)
    g, x, statistics = contiguous(g, dtype), contiguous(x, dtype), contiguous(statistics, dtype)
    if affine:
        weight = contiguous(weight, dtype)
    rows = x.size // n
    blocks, each = -(-rows // ROWS), share(x.size) // (n * ROWS) or 1
    partial = allocator.small((blocks, affine, n), dtype)
    result = allocator.empty_like(x) if out is None else out
    complete(
        kernel, -(-blocks // each), address(g), address(x), address(weight) if affine else 0, address(result),
        address(statistics), address(partial), rows, n, each,
    )  # fmt: skip
    if not affine:
        return (result,)
    sums = reduced("sum", partial, 1, blocks, affine * n) if blocks > 1 else partial
    if sums is None:
        return NotImplemented
    sums = sums.reshape(affine, *shape)
    return (result, sums[0], sums[1]) if affine > 1 else (result, sums[0])


@register("layer_norm", "cpu", needs_numba=False)
def layer_norm(xp, input, weight=None, bias=None, *, rank, eps, out=None):
    return _normed(True, input, weight, bias, rank, eps, out)


@register("layer_norm_grad", "cpu", needs_numba=False)
def layer_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine, out=None):
    return _normed_grad(True, g, input, weight, statistics, rank, affine, out)


@register("rms_norm", "cpu", needs_numba=False)
def rms_norm(xp, input, weight=None, *, rank, eps, out=None):
    return _normed(False, input, weight, None, rank, eps, out)


@register("rms_norm_grad", "cpu", needs_numba=False)
def rms_norm_grad(xp, g, input, statistics, weight=None, *, rank, eps, affine, out=None):
    return _normed_grad(False, g, input, weight, statistics, rank, affine, out)
