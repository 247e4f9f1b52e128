"""Layer, RMS and batch norm on the CPU.

A variance is that of the differences from a mean that is already known: twice over a row, or over a chunk that stays in
the cache, whose means and sums of squares are then put together. Gradients of weight and bias are sums of partial sums
of fixed rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu.reductions import FLOATS, LANES, kernels_of, plain, reduced, share, summing
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete

# Rows that are added one after the other, for a channel's statistics or the gradients of weight and bias.
_ROWS = 32
# Numbers of a row whose two sums are made at once before they are added to those of the rest.
_PAIRED = 1024
# Channels of a batch norm over (N, C) that are taken at a time.
_CHANNELS = 256


@functools.cache
def _average(tools, dt):
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
def _squares(tools, dt):
    """total(x, y, z, n, c, d): Σ (x - c)²."""

    @tools.inline
    def term(x, y, z, i, c, d):
        return (x[i] - c) * (x[i] - c)

    return summing(tools, dt, term, "row")


@functools.cache
def _products(tools, dt, weighted: bool):
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


# -- layer norm and RMS norm ----------------------------------------------------------------------------------------


def _norm(tools, centred: bool, affine: int, dtype: str):
    """(x - mean)·rstd·weight + bias, without a mean unless centred; affine counts weight and bias.

    Words: x, weight, bias, out, statistics (rstd, and mean behind all of them), rows, n, rows of a slice, eps.
    """
    dt = np.dtype(dtype)
    view, size, one, zero = tools.view(dt), dt.itemsize, dt.type(1), dt.type(0)
    average, squares, root, real = _average(tools, dt), _squares(tools, dt), np.sqrt, dt.type

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
    products, pair, real = _products(tools, dt, affine > 0), _pair(tools, dt, affine > 0), dt.type

    def kernel(a, part):
        rows, n, weight, statistics = a[6], a[7], view(a[2]), view(a[4])
        count = real(n)
        for b in range(part * a[8], min(-(-rows // _ROWS), (part + 1) * a[8])):
            weights, biases = view(a[5] + b * affine * n * size), view(a[5] + (b * affine + 1) * n * size)
            if affine:
                for i in range(n):
                    weights[i] = zero
            if affine > 1:
                for i in range(n):
                    biases[i] = zero
            for r in range(b * _ROWS, min(rows, (b + 1) * _ROWS)):
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


def _contiguous(x, dtype):
    return x if x.flags.carray and x.dtype == dtype else np.require(x, dtype, ("C", "A"))


def _normed(centred: bool, x, weight, bias, rank: int, eps: float, out):
    """(result, statistics) of x over its last `rank` dimensions."""
    dtype = x.dtype
    affine = 2 if bias is not None else 1 if weight is not None else 0
    kernel = _NORMS.get((centred, affine, dtype))
    if kernel is None or not x.size or (affine == 2 and weight is None) or not kernel.ready():
        return NotImplemented
    n = x.shape[-1] if rank == 1 else math.prod(x.shape[-rank:])
    x = _contiguous(x, dtype)
    if affine:
        weight = _contiguous(weight, dtype)
        if affine > 1:
            bias = _contiguous(bias, dtype)
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
    g, x, statistics = _contiguous(g, dtype), _contiguous(x, dtype), _contiguous(statistics, dtype)
    if affine:
        weight = _contiguous(weight, dtype)
    rows = x.size // n
    blocks, each = -(-rows // _ROWS), share(x.size) // (n * _ROWS) or 1
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


# -- batch norm -----------------------------------------------------------------------------------------------------
#
# An array is (N, C, L). With L = 1 a part is a block of rows, and lanes are channels; else a part is one n of N, and
# lanes lie along L. A statistic of the parts is an array (parts, C).


def _batch_parts(tools, length: bool, gradient: bool, dtype: str):
    """For each part and channel, the mean and Σ (x - mean)² of x; or Σ g and Σ g·(x - mean) where the mean is given.

    Words: x, first, second, N, C, L, rows of a part, tasks of a slice, g, means.
    """
    dt = np.dtype(dtype)
    view, size, zero, real = tools.view(dt), dt.itemsize, dt.type(0), dt.type
    total, squares, products = plain(tools, dt), _squares(tools, dt), _products(tools, dt, False)
    average = _average(tools, dt)
    lanes, others, middle = (tools.local(dt, _CHANNELS) for _ in range(3))

    def along(a, part):
        channels, n = a[4], a[5]
        first, second, means = view(a[1]), view(a[2]), view(a[9])
        for t in range(part * a[7], min(a[3] * channels, (part + 1) * a[7])):
            x = view(a[0] + t * n * size)
            if gradient:
                g = view(a[8] + t * n * size)
                first[t] = total(g, g, g, n, zero, zero)
                second[t] = products(g, x, x, n, means[t % channels], zero)
            else:
                first[t] = average(x, n)
                second[t] = squares(x, x, x, n, first[t], zero)
        return 0

    def across(a, part):
        channels, rows = a[4], a[6]
        blocks = -(-channels // _CHANNELS)
        parts = -(-a[3] // rows)
        sums, more, mean = lanes(), others(), middle()
        for t in range(part * a[7], min(parts * blocks, (part + 1) * a[7])):
            p, c = t // blocks, t % blocks * _CHANNELS
            wide, count = min(_CHANNELS, channels - c), min(rows, a[3] - p * rows)
            at = (p * rows * channels + c) * size
            first, second = view(a[1] + (p * channels + c) * size), view(a[2] + (p * channels + c) * size)
            for j in range(wide):
                sums[j], more[j] = zero, zero
            if gradient:
                means = view(a[9] + c * size)
                for j in range(wide):
                    mean[j] = means[j]
                for i in range(count):
                    g, x = view(a[8] + at + i * channels * size), view(a[0] + at + i * channels * size)
                    for j in range(wide):
                        sums[j] += g[j]
                        more[j] += g[j] * (x[j] - mean[j])
            else:
                start = view(a[0] + at)
                for j in range(wide):
                    mean[j] = start[j]
                for i in range(0, count - 3, 4):
                    x = view(a[0] + at + i * channels * size)
                    for j in range(wide):
                        m = mean[j]
                        k = j + 2 * channels
                        sums[j] += ((x[j] - m) + (x[j + channels] - m)) + ((x[k] - m) + (x[k + channels] - m))
                for i in range(count // 4 * 4, count):
                    x = view(a[0] + at + i * channels * size)
                    for j in range(wide):
                        sums[j] += x[j] - mean[j]
                for j in range(wide):
                    sums[j] = mean[j] + sums[j] / real(count)
                for i in range(0, count - 3, 4):
                    x = view(a[0] + at + i * channels * size)
                    for j in range(wide):
                        m, k = sums[j], j + 2 * channels
                        p0, p1, p2, p3 = x[j] - m, x[j + channels] - m, x[k] - m, x[k + channels] - m
                        more[j] += (p0 * p0 + p1 * p1) + (p2 * p2 + p3 * p3)
                for i in range(count // 4 * 4, count):
                    x = view(a[0] + at + i * channels * size)
                    for j in range(wide):
                        d = x[j] - sums[j]
                        more[j] += d * d
            for j in range(wide):
                first[j], second[j] = sums[j], more[j]
        return 0

    return along if length else across


def _batch_whole(tools, gradient: bool, dtype: str):
    """What the parts of each channel add up to, in float64.

    Forward: mean, biased variance and 1/√(variance + eps), three rows of `out`. Gradient: Σ g and Σ g·(x - mean).
    Words: first, second, out, N·L, C, numbers of a part, eps.
    """
    dt = np.dtype(dtype)
    view, real = tools.view(dt), dt.type
    double = np.float64

    def kernel(a):
        first, second, out = view(a[0]), view(a[1]), view(a[2])
        size, channels, each = a[3], a[4], a[5]
        parts = -(-size // each)
        eps = np.int64(a[6]).view(np.float64)
        for c in range(channels):
            if gradient:
                g, gx = double(0.0), double(0.0)
                for p in range(parts):
                    g += double(first[p * channels + c])
                    gx += double(second[p * channels + c])
                out[c], out[channels + c] = real(g), real(gx)
            else:
                mean = double(0.0)
                for p in range(parts):
                    mean += double(first[p * channels + c]) * double(min(each, size - p * each))
                mean /= double(size)
                total = double(0.0)
                for p in range(parts):
                    d = double(first[p * channels + c]) - mean
                    total += double(second[p * channels + c]) + d * d * double(min(each, size - p * each))
                out[c] = real(mean)
                out[channels + c] = real(total / double(size))
                out[2 * channels + c] = real(1.0 / np.sqrt(total / double(size) + eps))
        return 0

    return kernel


def _batch_apply(tools, length: bool, gradient: bool, dtype: str):
    """(x - mean)·scale + shift; or the gradient ((g - a) - (x - mean)·b)·scale. All but x and g are numbers of a channel.

    Words: x, mean, scale, shift or a, out, N, C, L, rows of a slice (n·C of them, or n), g, b.
    """
    dt = np.dtype(dtype)
    view, size = tools.view(dt), dt.itemsize

    def along(a, part):
        channels, n = a[6], a[7]
        means, scales, shifts, factors = view(a[1]), view(a[2]), view(a[3]), view(a[10])
        for t in range(part * a[8], min(a[5] * channels, (part + 1) * a[8])):
            x, out, c = view(a[0] + t * n * size), view(a[4] + t * n * size), t % channels
            mean, scale, shift = means[c], scales[c], shifts[c]
            if gradient:
                g, factor = view(a[9] + t * n * size), factors[c]
                for i in range(n):
                    out[i] = ((g[i] - shift) - (x[i] - mean) * factor) * scale
            else:
                for i in range(n):
                    out[i] = (x[i] - mean) * scale + shift
        return 0

    def across(a, part):
        n = a[6]
        means, scales, shifts, factors = view(a[1]), view(a[2]), view(a[3]), view(a[10])
        for t in range(part * a[8], min(a[5], (part + 1) * a[8])):
            x, out, g = view(a[0] + t * n * size), view(a[4] + t * n * size), view(a[9] + t * n * size)
            if gradient:
                for i in range(n):
                    out[i] = ((g[i] - shifts[i]) - (x[i] - means[i]) * factors[i]) * scales[i]
            else:
                for i in range(n):
                    out[i] = (x[i] - means[i]) * scales[i] + shifts[i]
        return 0

    return along if length else across


_BATCH_PARTS, _BATCH_APPLY = (
    {
        (length, gradient, d): Kernel(
            f"batch_norm_{what}{'_grad' * gradient}{'_long' * length}_{d.name}", build, length, gradient, d.name
        )
        for length in (False, True) for gradient in (False, True) for d in FLOATS
    }
    for what, build in (("parts", _batch_parts), ("apply", _batch_apply))
)  # fmt: skip
_BATCH_WHOLE = {
    gradient: kernels_of(f"batch_norm_whole{'_grad' * gradient}", _batch_whole, gradient) for gradient in (False, True)
}


def _batch_factors(tools, gradient: bool, dtype: str):
    """Of every channel, what `_batch_apply` takes: scale = weight/√(variance + eps), and shift, or for the gradient a and b.

    Words: statistics, weight (or 0), bias (or 0), out (scale, shift or a, b), C, and for the gradient: the sums of
    `_batch_whole` (or 0: a and b are 0), numbers of a channel (or 0: the same), where the gradient of weight goes (or 0).
    """
    dt = np.dtype(dtype)
    view, zero, real = tools.view(dt), dt.type(0), dt.type

    def kernel(a):
        statistics, weight, bias, out, channels = view(a[0]), view(a[1]), view(a[2]), view(a[3]), a[4]
        for c in range(channels):
            rstd = statistics[2 * channels + c]
            out[c] = rstd * weight[c] if a[1] else rstd
            if gradient:
                sums, to_weight, count = view(a[5]), view(a[7]), real(a[6])
                out[channels + c], out[2 * channels + c] = zero, zero
                if a[6]:
                    out[channels + c] = sums[c] / count
                    out[2 * channels + c] = sums[channels + c] * rstd / count * rstd
                if a[7]:
                    to_weight[c] = sums[channels + c] * rstd
            else:
                out[channels + c] = bias[c] if a[2] else zero
        return 0

    return kernel


_BATCH_FACTORS = {
    gradient: kernels_of(f"batch_norm_factors{'_grad' * gradient}", _batch_factors, gradient)
    for gradient in (False, True)
}


def _layout(shape) -> tuple[int, int, int]:
    return shape[0], shape[1], math.prod(shape[2:])


def _statistics(x, g, mean, eps: float):
    """Three rows (mean, variance, 1/√(variance + eps)) of the channels of x; with g, two: Σ g, Σ g·(x - mean)."""
    dtype, gradient = x.dtype, g is not None
    batch, channels, length = _layout(x.shape)
    kernel, whole = _BATCH_PARTS[length > 1, gradient, dtype], _BATCH_WHOLE[gradient][dtype]
    if not kernel.ready() or not whole.ready():
        return None
    rows = 1 if length > 1 else _ROWS
    parts = -(-batch // rows)
    found = allocator.small((2, parts, channels), dtype)
    if length > 1:
        tasks, each = batch * channels, share(x.size) // length or 1
    else:
        tasks = parts * -(-channels // _CHANNELS)
        each = share(x.size) // (rows * min(channels, _CHANNELS)) or 1
    first, second = address(found), address(found) + found.nbytes // 2
    complete(
        kernel, -(-tasks // each), address(x), first, second, batch, channels, length, rows, each,
        address(g) if gradient else 0, address(mean) if gradient else 0,
    )  # fmt: skip
    out = allocator.small((2 if gradient else 3, channels), dtype)
    complete(whole, 1, first, second, address(out), batch * length, channels, rows * length, bits(eps))
    return out


def _applied(x, statistics, factors, g, out):
    """`_batch_apply` over all of x with the `_batch_factors`, or None."""
    batch, channels, length = _layout(x.shape)
    kernel = _BATCH_APPLY[length > 1, g is not None, x.dtype]
    if not kernel.ready():
        return None
    result = allocator.empty_like(x) if out is None else out
    rows, each = (batch * channels, length) if length > 1 else (batch, channels)
    each = share(x.size) // each or 1
    scale, row = address(factors), channels * x.itemsize
    complete(
        kernel, -(-rows // each), address(x), address(statistics), scale, scale + row, address(result),
        batch, channels, length, each, 0 if g is None else address(g), scale + 2 * row,
    )  # fmt: skip
    return result


def _is_ours(x) -> bool:
    return x.dtype in FLOATS and x.size > 0


@register("batch_statistics", "cpu", needs_numba=False)
def batch_statistics(xp, input, *, eps):
    if not _is_ours(input):
        return NotImplemented
    statistics = _statistics(_contiguous(input, input.dtype), None, None, eps)
    return NotImplemented if statistics is None else statistics


@register("batch_norm", "cpu", needs_numba=False)
def batch_norm(xp, input, statistics, weight=None, bias=None, *, batch, eps, out=None):
    dtype = input.dtype
    if not _is_ours(input):
        return NotImplemented
    kernel, channels = _BATCH_FACTORS[False][dtype], input.shape[1]
    if not kernel.ready():
        return NotImplemented
    x, statistics = _contiguous(input, dtype), _contiguous(statistics, dtype)
    weight, bias = (None if w is None else _contiguous(w, dtype) for w in (weight, bias))
    factors = allocator.small((3, channels), dtype)
    parameters = (0 if w is None else address(w) for w in (weight, bias))
    complete(kernel, 1, address(statistics), *parameters, address(factors), channels)
    result = _applied(x, statistics, factors, None, out)
    return NotImplemented if result is None else result


@register("batch_norm_grad", "cpu", needs_numba=False)
def batch_norm_grad(xp, g, input, statistics, weight=None, *, batch, affine, eps, out=None):
    dtype = input.dtype
    if not _is_ours(input):
        return NotImplemented
    g, x, statistics = _contiguous(g, dtype), _contiguous(input, dtype), _contiguous(statistics, dtype)
    kernel, channels = _BATCH_FACTORS[True][dtype], x.shape[1]
    sums = _statistics(x, g, statistics, 0.0) if batch or affine else None
    if not kernel.ready() or (sums is None and (batch or affine)):
        return NotImplemented
    weight = None if weight is None else _contiguous(weight, dtype)
    factors = allocator.small((3, channels), dtype)
    to_weight = allocator.small(channels, dtype) if affine else None
    complete(
        kernel, 1, address(statistics), 0 if weight is None else address(weight), 0, address(factors), channels,
        0 if sums is None else address(sums), x.size // channels if batch else 0,
        0 if to_weight is None else address(to_weight),
    )  # fmt: skip
    result = _applied(x, statistics, factors, g, out)
    if result is None:
        return NotImplemented
    return result, *((to_weight, sums[0])[:affine] if affine else ())


def _running(tools, dtype: str):
    """Mean, variance and 1/√(variance + eps) as three rows. Words: mean, variance, out, C, eps."""
    view, one, real = tools.view(np.dtype(dtype)), np.dtype(dtype).type(1), np.dtype(dtype).type

    def kernel(a):
        mean, variance, out, channels = view(a[0]), view(a[1]), view(a[2]), a[3]
        eps = real(np.int64(a[4]).view(np.float64))
        for c in range(channels):
            out[c], out[channels + c] = mean[c], variance[c]
            out[2 * channels + c] = one / np.sqrt(variance[c] + eps)
        return 0

    return kernel


_RUNNING = kernels_of("running_statistics", _running)


@register("running_statistics", "cpu", needs_numba=False)
def running_statistics(xp, mean, variance, *, dtype, eps, out=None):
    kernel = _RUNNING.get(dtype)
    if kernel is None or mean.dtype != dtype or variance.dtype != dtype or not kernel.ready():
        return NotImplemented
    mean, variance = _contiguous(mean, dtype), _contiguous(variance, dtype)
    result = allocator.small((3, mean.size), dtype) if out is None else out
    complete(kernel, 1, address(mean), address(variance), address(result), mean.size, bits(eps))
    return result
