"""Batch norm on the CPU: statistics in parts of fixed size, then one pass that applies them."""

from __future__ import annotations

import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu.norm import ROWS, average_of, contiguous, products_of, squares_of
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, plain, share
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete

# Channels of a batch norm over (N, C) that are taken at a time.
_CHANNELS = 256


# An array is (N, C, L). With L = 1 a part is a block of rows, and lanes are channels; else a part is one n of N, and
# lanes lie along L. A statistic of the parts is an array (parts, C).


def _batch_parts(tools, length: bool, gradient: bool, dtype: str):
    """For each part and channel, the mean and Σ (x - mean)² of x; or Σ g and Σ g·(x - mean) where the mean is given.

    Words: x, first, second, N, C, L, rows of a part, tasks of a slice, g, means.
    """
    dt = np.dtype(dtype)
    view, size, zero, real = tools.view(dt), dt.itemsize, dt.type(0), dt.type
    total, squares, products = plain(tools, dt), squares_of(tools, dt), products_of(tools, dt, False)
    average = average_of(tools, dt)
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
    rows = 1 if length > 1 else ROWS
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
    statistics = _statistics(contiguous(input, input.dtype), None, None, eps)
    return NotImplemented if statistics is None else statistics


@register("batch_norm", "cpu", needs_numba=False)
def batch_norm(xp, input, statistics, weight=None, bias=None, *, batch, eps, out=None):
    dtype = input.dtype
    if not _is_ours(input):
        return NotImplemented
    kernel, channels = _BATCH_FACTORS[False][dtype], input.shape[1]
    if not kernel.ready():
        return NotImplemented
    x, statistics = contiguous(input, dtype), contiguous(statistics, dtype)
    weight, bias = (None if w is None else contiguous(w, dtype) for w in (weight, bias))
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
    g, x, statistics = contiguous(g, dtype), contiguous(input, dtype), contiguous(statistics, dtype)
    kernel, channels = _BATCH_FACTORS[True][dtype], x.shape[1]
    sums = _statistics(x, g, statistics, 0.0) if batch or affine else None
    if not kernel.ready() or (sums is None and (batch or affine)):
        return NotImplemented
    weight = None if weight is None else contiguous(weight, dtype)
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
    mean, variance = contiguous(mean, dtype), contiguous(variance, dtype)
    result = allocator.small((3, mean.size), dtype) if out is None else out
    complete(kernel, 1, address(mean), address(variance), address(result), mean.size, bits(eps))
    return result
