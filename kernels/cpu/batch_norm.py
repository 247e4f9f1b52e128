"""Batch norm on the CPU: statistics in parts of fixed size, then one pass that applies them."""

from __future__ import annotations

import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.norm import ROWS, average_of, products_of, squares_of
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, plain, share
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous, per_element
from deepcore.kernels.registry import register

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
    Words: first, second, out, N·L, C, numbers of a part, eps, and for the gradient where the second sum goes.
    """
    dt = np.dtype(dtype)
    view, real = tools.view(dt), dt.type
    double = np.float64

    def kernel(a):
        first, second, out = view(a[0]), view(a[1]), view(a[2])
        size, channels, each = a[3], a[4], a[5]
        parts = -(-size // each)
        eps, more = np.int64(a[6]).view(np.float64), view(a[7] if gradient else a[2])
        for c in range(channels):
            if gradient:
                g, gx = double(0.0), double(0.0)
                for p in range(parts):
                    g += double(first[p * channels + c])
                    gx += double(second[p * channels + c])
                out[c], more[c] = real(g), real(gx)
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

    Words: x, means, factors (scale, then shift, or a and b), out, N, C, L, rows of a slice (n·C of them, or n), g.
    """
    dt = np.dtype(dtype)
    view, size = tools.view(dt), dt.itemsize

    def along(a, part):
        channels, n = a[5], a[6]
        means, scales = view(a[1]), view(a[2])
        shifts, factors = view(a[2] + channels * size), view(a[2] + 2 * channels * size)
        for t in range(part * a[7], min(a[4] * channels, (part + 1) * a[7])):
            x, out, c = view(a[0] + t * n * size), view(a[3] + t * n * size), t % channels
            mean, scale, shift = means[c], scales[c], shifts[c]
            if gradient:
                g, factor = view(a[8] + t * n * size), factors[c]
                for i in range(n):
                    out[i] = ((g[i] - shift) - (x[i] - mean) * factor) * scale
            else:
                for i in range(n):
                    out[i] = (x[i] - mean) * scale + shift
        return 0

    def across(a, part):
        n = a[5]
        means, scales = view(a[1]), view(a[2])
        shifts, factors = view(a[2] + n * size), view(a[2] + 2 * n * size)
        for t in range(part * a[7], min(a[4], (part + 1) * a[7])):
            x, out, g = view(a[0] + t * n * size), view(a[3] + t * n * size), view(a[8] + t * n * size)
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

    Words: statistics, weight (or 0), bias (or 0), out (scale, shift or a, b), C, and for the gradient: the two sums of
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
                sums, more, to_weight, count = view(a[5]), view(a[6]), view(a[8]), real(a[7])
                out[channels + c], out[2 * channels + c] = zero, zero
                if a[7]:
                    out[channels + c] = sums[c] / count
                    out[2 * channels + c] = more[c] * rstd / count * rstd
                if a[8]:
                    to_weight[c] = more[c] * rstd
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


def _summed(x, arrays: tuple, parts: tuple, out: tuple, eps) -> list[Launch] | None:
    """Statistics of the channels of x, by way of two temporaries `parts`; with g and mean the sums for the gradient.

    `arrays`: x, g, mean; `out`: three rows, or two rows apart. Without g and mean those are 0.
    """
    gradient = arrays[1] != 0
    batch, channels, length = _layout(x.shape)
    kernel, whole = _BATCH_PARTS[length > 1, gradient, x.dtype], _BATCH_WHOLE[gradient][x.dtype]
    if not kernel.ready() or not whole.ready():
        return None
    rows, count = _parts(x)
    if length > 1:
        tasks, each = batch * channels, share(x.size) // length or 1
    else:
        tasks = count * -(-channels // _CHANNELS)
        each = share(x.size) // (rows * min(channels, _CHANNELS)) or 1
    source, *others = arrays
    words = (source, *parts, batch, channels, length, rows, each, *others)
    last = (*parts, out[0], batch * length, channels, rows * length, eps, *out[1:])
    return [Launch(kernel, -(-tasks // each), words), Launch(whole, 1, last)]


def _parts(x) -> tuple[int, int]:
    """Rows of a part, and parts."""
    rows = 1 if math.prod(x.shape[2:]) > 1 else ROWS
    return rows, -(-x.shape[0] // rows)


def _part_sizes(x) -> tuple[int, int]:
    """Bytes of what `_summed` needs."""
    size = _parts(x)[1] * x.shape[1] * x.dtype.itemsize
    return size, size


def _applied(x, source, statistics, factors, g, out) -> Launch | None:
    """`_batch_apply` over all of x with the `_batch_factors`, or None."""
    batch, channels, length = _layout(x.shape)
    kernel = _BATCH_APPLY[length > 1, g != 0, x.dtype]
    if not kernel.ready():
        return None
    rows, each = (batch * channels, length) if length > 1 else (batch, channels)
    each = share(x.size) // each or 1
    return Launch(kernel, -(-rows // each), (source, statistics, factors, out, batch, channels, length, each, g))


def _fits(specs, x) -> bool:
    return x.dtype in FLOATS and x.size > 0 and all(spec.dtype == x.dtype for spec in specs)


def _plan_statistics(specs, params) -> Plan | bool | None:
    (x,) = specs
    if not _fits(specs, x):
        return None
    if not x.plain:
        return True
    launches = _summed(x, (Operand(0), 0, 0), (Operand(2), Operand(3)), (Operand(4),), Operand(1))
    result = contiguous((3, x.shape[1]), x.dtype, x.backend)
    return None if launches is None else Plan(result, launches, _part_sizes(x))


def _plan_norm(specs, params) -> Plan | bool | None:
    x, count = specs[0], len(specs)
    if not _fits(specs, x):
        return None
    if not all(spec.plain for spec in specs):
        return True
    kernel, channels = _BATCH_FACTORS[False][x.dtype], x.shape[1]
    factors, out = Operand(count), Operand(count + 1)
    apply = _applied(x, Operand(0), Operand(1), factors, 0, out)
    if apply is None or not kernel.ready():
        return None
    parameters = [Operand(i) if i < count else 0 for i in (2, 3)]
    launches = [Launch(kernel, 1, (Operand(1), *parameters, factors, channels)), apply]
    return Plan(contiguous(x.shape, x.dtype, x.backend), launches, (3 * channels * x.dtype.itemsize,))


def _plan_grad(specs, params) -> Plan | bool | None:
    """Operands: g, input, statistics, weight. Results: the gradients of input, weight and bias."""
    x, count, batch, affine = specs[1], len(specs), params["batch"], params["affine"]
    if not _fits(specs, x):
        return None
    if not all(spec.plain for spec in specs):
        return True
    kernel, channels = _BATCH_FACTORS[True][x.dtype], x.shape[1]
    row = channels * x.dtype.itemsize
    # Temporaries: the factors, what the sums need, and those of them that are no results.
    temporaries = [3 * row]
    if batch or affine:
        temporaries += [*_part_sizes(x), row]
        if affine < 2:
            temporaries.append(row)
    results = count + len(temporaries)
    factors, out, to_weight = Operand(count), Operand(results), Operand(results + 1) if affine else 0
    launches: list[Launch] | None = []
    sums: tuple = 0, 0
    if batch or affine:
        sums = Operand(results + 2) if affine > 1 else Operand(count + 4), Operand(count + 3)
        parts = Operand(count + 1), Operand(count + 2)
        launches = _summed(x, (Operand(1), Operand(0), Operand(2)), parts, sums, 0)
    apply = _applied(x, Operand(1), Operand(2), factors, Operand(0), out)
    if launches is None or apply is None or not kernel.ready():
        return None
    weight = Operand(3) if count > 3 else 0
    words = (Operand(2), weight, 0, factors, channels, *sums, x.size // channels if batch else 0, to_weight)
    launches = [*launches, Launch(kernel, 1, words), apply]
    aux = [contiguous((channels,), x.dtype, x.backend)] * affine
    return Plan(contiguous(x.shape, x.dtype, x.backend), launches, tuple(temporaries), aux=aux)


batch_statistics = Lowering("batch_statistics", _plan_statistics, (), ("eps",), cost=per_element(4))
batch_norm = Lowering("batch_norm", _plan_norm, (), cost=per_element(4))
batch_norm_grad = Lowering("batch_norm_grad", _plan_grad, ("batch", "affine"), many=True, cost=per_element(8))


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


def _plan_running(specs, params) -> Plan | bool | None:
    mean, variance = specs
    dtype = params["dtype"]
    kernel = _RUNNING.get(dtype)
    if kernel is None or mean.dtype != dtype or variance.dtype != dtype or not kernel.ready():
        return None
    if not mean.plain or not variance.plain:
        return True
    eps, out = Operand(2), Operand(3)
    launch = Launch(kernel, 1, (Operand(0), Operand(1), out, mean.size, eps))
    return Plan(contiguous((3, mean.size), dtype, mean.backend), [launch])


running_statistics = Lowering("running_statistics", _plan_running, ("dtype",), ("eps",), cost=per_element(4))
for _lowering in (batch_statistics, batch_norm, batch_norm_grad, running_statistics):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
