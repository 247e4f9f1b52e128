"""Batch norm on the CPU: statistics of parts of fixed size, then one pass that applies them."""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import float64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, args
from deepcore.kernels.cpu.norm import ROWS, average_of, products_of, squares_of
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, plain, share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
from deepcore.kernels.registry import register

# Channels per task of a batch norm over (N, C).
_CHANNELS = 256


# Arrays are (N, C, L). With L = 1 a part is a block of rows, and lanes are channels; else a part is one sample, and lanes
# run along L. Partial statistics are arrays (parts, C).


@args(
    x=In, first=Out, second=Out, batch=Size, channels=Size, n=Size, rows=Size, tasks_per_chunk=Size, g=Address,
    means=Address
)  # fmt: skip
def _batch_parts(tools, length: bool, gradient: bool, dtype: str):
    """For each part and channel, the mean and Σ (x - mean)² of x; for the gradient, Σ g and Σ g·(x - mean).

    `n`: L, `rows`: of a part. `g` and `means` are None unless `gradient`.
    """
    dt = np.dtype(dtype)
    view, after, size, zero, real = tools.view(dt), tools.after(dt), dt.itemsize, dt.type(0), dt.type
    total, squares, products = plain(tools, dt), squares_of(tools, dt), products_of(tools, dt, False)
    average = average_of(tools, dt)
    lanes, others, middle = (tools.local(dt, _CHANNELS) for _ in range(3))

    def along(x, first, second, batch, channels, n, rows, tasks_per_chunk, g, means, chunk):
        for t in range(chunk * tasks_per_chunk, min(batch * channels, (chunk + 1) * tasks_per_chunk)):
            row = after(x, t * n)
            if gradient:
                gr = view(g + t * n * size)
                first[t] = total(gr, gr, gr, n, zero, zero)
                second[t] = products(gr, row, row, n, view(means)[t % channels], zero)
            else:
                first[t] = average(row, n)
                second[t] = squares(row, row, row, n, first[t], zero)
        return 0

    def across(x, first, second, batch, channels, n, rows, tasks_per_chunk, g, means, chunk):
        blocks = -(-channels // _CHANNELS)
        parts = -(-batch // rows)
        sums, moments, mean = lanes(), others(), middle()
        for t in range(chunk * tasks_per_chunk, min(parts * blocks, (chunk + 1) * tasks_per_chunk)):
            p, c = t // blocks, t % blocks * _CHANNELS
            wide, count = min(_CHANNELS, channels - c), min(rows, batch - p * rows)
            start = after(x, p * rows * channels + c)
            for j in range(wide):
                sums[j], moments[j] = zero, zero
            if gradient:
                for j in range(wide):
                    mean[j] = view(means)[c + j]
                for i in range(count):
                    gr, row = view(g + ((p * rows + i) * channels + c) * size), after(start, i * channels)
                    for j in range(wide):
                        sums[j] += gr[j]
                        moments[j] += gr[j] * (row[j] - mean[j])
            else:
                for j in range(wide):
                    mean[j] = start[j]
                for i in range(0, count - 3, 4):
                    row = after(start, i * channels)
                    for j in range(wide):
                        m = mean[j]
                        k = j + 2 * channels
                        sums[j] += ((row[j] - m) + (row[j + channels] - m)) + ((row[k] - m) + (row[k + channels] - m))
                for i in range(count // 4 * 4, count):
                    row = after(start, i * channels)
                    for j in range(wide):
                        sums[j] += row[j] - mean[j]
                for j in range(wide):
                    sums[j] = mean[j] + sums[j] / real(count)
                for i in range(0, count - 3, 4):
                    row = after(start, i * channels)
                    for j in range(wide):
                        m, k = sums[j], j + 2 * channels
                        p0, p1, p2, p3 = row[j] - m, row[j + channels] - m, row[k] - m, row[k + channels] - m
                        moments[j] += (p0 * p0 + p1 * p1) + (p2 * p2 + p3 * p3)
                for i in range(count // 4 * 4, count):
                    row = after(start, i * channels)
                    for j in range(wide):
                        d = row[j] - sums[j]
                        moments[j] += d * d
            for j in range(wide):
                first[p * channels + c + j], second[p * channels + c + j] = sums[j], moments[j]
        return 0

    return along if length else across


@args(
    first=In, second=In, out=Out, size=Size, channels=Size, part_size=Size, eps=Float(float64), sums_gx=Address
)  # fmt: skip
def _batch_whole(tools, gradient: bool, dtype: str):
    """Combine the parts of each channel in float64.

    Forward: mean, biased variance and 1/√(variance + eps), three rows of `out`. Gradient: Σ g in `out`, and
    Σ g·(x - mean) in `sums_gx`. `size`: N·L.
    """
    dt = np.dtype(dtype)
    view, real = tools.view(dt), dt.type
    double = np.float64

    def kernel(first, second, out, size, channels, part_size, eps, sums_gx):
        parts = -(-size // part_size)
        for c in range(channels):
            if gradient:
                g, gx = double(0.0), double(0.0)
                for p in range(parts):
                    g += double(first[p * channels + c])
                    gx += double(second[p * channels + c])
                out[c], view(sums_gx)[c] = real(g), real(gx)
            else:
                mean = double(0.0)
                for p in range(parts):
                    mean += double(first[p * channels + c]) * double(min(part_size, size - p * part_size))
                mean /= double(size)
                total = double(0.0)
                for p in range(parts):
                    d = double(first[p * channels + c]) - mean
                    total += double(second[p * channels + c]) + d * d * double(min(part_size, size - p * part_size))
                out[c] = real(mean)
                out[channels + c] = real(total / double(size))
                out[2 * channels + c] = real(1.0 / np.sqrt(total / double(size) + eps))
        return 0

    return kernel


@args(
    x=In, means=In, factors=In, out=Out, batch=Size, channels=Size, n=Size, rows_per_chunk=Size, g=Address
)  # fmt: skip
def _batch_apply(tools, length: bool, gradient: bool, dtype: str):
    """(x - mean)·scale + shift; or the gradient ((g - a) - (x - mean)·b)·scale. All but x and g are per channel.

    `factors`: scale, then shift, or a and b; `n`: L. There are N·C rows of L numbers, or N of C.
    """
    dt = np.dtype(dtype)
    view, after, size = tools.view(dt), tools.after(dt), dt.itemsize

    def along(x, means, factors, out, batch, channels, n, rows_per_chunk, g, chunk):
        shifts, slopes = after(factors, channels), after(factors, 2 * channels)
        for t in range(chunk * rows_per_chunk, min(batch * channels, (chunk + 1) * rows_per_chunk)):
            row, result, c = after(x, t * n), after(out, t * n), t % channels
            mean, scale, shift = means[c], factors[c], shifts[c]
            if gradient:
                gr, factor = view(g + t * n * size), slopes[c]
                for i in range(n):
                    result[i] = ((gr[i] - shift) - (row[i] - mean) * factor) * scale
            else:
                for i in range(n):
                    result[i] = (row[i] - mean) * scale + shift
        return 0

    def across(x, means, factors, out, batch, channels, n, rows_per_chunk, g, chunk):
        shifts, slopes = after(factors, channels), after(factors, 2 * channels)
        for t in range(chunk * rows_per_chunk, min(batch, (chunk + 1) * rows_per_chunk)):
            row, result = after(x, t * channels), after(out, t * channels)
            if gradient:
                gr = view(g + t * channels * size)
                for i in range(channels):
                    result[i] = ((gr[i] - shifts[i]) - (row[i] - means[i]) * slopes[i]) * factors[i]
            else:
                for i in range(channels):
                    result[i] = (row[i] - means[i]) * factors[i] + shifts[i]
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


@args(
    statistics=In, weight=Address, bias=Address, out=Out, channels=Size, sums_g=Address, sums_gx=Address, count=Size,
    weight_grad=Address,
)  # fmt: skip
def _batch_factors(tools, gradient: bool, dtype: str):
    """The `factors` of `_batch_apply` per channel: scale = weight/√(variance + eps), and shift, or for the gradient a and b.

    `out`: scale and shift, or scale, a and b. Only for the gradient: the two sums of `_batch_whole`, `count`: numbers of a
    channel (0: a and b are 0), and `weight_grad`, where the gradient of weight is written, or None.
    """
    dt = np.dtype(dtype)
    view, zero, real = tools.view(dt), dt.type(0), dt.type

    def kernel(statistics, weight, bias, out, channels, sums_g, sums_gx, count, weight_grad):
        for c in range(channels):
            rstd = statistics[2 * channels + c]
            out[c] = rstd * view(weight)[c] if weight else rstd
            if gradient:
                out[channels + c], out[2 * channels + c] = zero, zero
                if count:
                    out[channels + c] = view(sums_g)[c] / real(count)
                    out[2 * channels + c] = view(sums_gx)[c] * rstd / real(count) * rstd
                if weight_grad:
                    view(weight_grad)[c] = view(sums_gx)[c] * rstd
            else:
                out[channels + c] = view(bias)[c] if bias else zero
        return 0

    return kernel


_BATCH_FACTORS = {
    gradient: kernels_of(f"batch_norm_factors{'_grad' * gradient}", _batch_factors, gradient)
    for gradient in (False, True)
}


def _layout(shape) -> tuple[int, int, int]:
    return shape[0], shape[1], math.prod(shape[2:])


def _sum_launches(x, arrays: tuple, parts: tuple, out: tuple, eps) -> list[Launch] | None:
    """Launches of the channel statistics of x, with two temporaries `parts`; with g and mean, of the gradient's sums.

    `arrays`: x, g, mean, where g and mean may be None; `out`: one array of three rows, or two arrays.
    """
    gradient = arrays[1] is not None
    batch, channels, length = _layout(x.shape)
    kernel, whole = _BATCH_PARTS[length > 1, gradient, x.dtype], _BATCH_WHOLE[gradient][x.dtype]
    if not kernel.ready() or not whole.ready():
        return None
    rows, count = _parts(x)
    if length > 1:
        tasks, tasks_per_chunk = batch * channels, share(x.size) // length or 1
    else:
        tasks = count * -(-channels // _CHANNELS)
        tasks_per_chunk = share(x.size) // (rows * min(channels, _CHANNELS)) or 1
    (source, g, means), (first, second) = arrays, parts
    return [
        Launch(
            kernel, -(-tasks // tasks_per_chunk), x=source, first=first, second=second, batch=batch,
            channels=channels, n=length,
            rows=rows, tasks_per_chunk=tasks_per_chunk, g=g, means=means,
        ),
        Launch(
            whole, 1, first=first, second=second, out=out[0], size=batch * length, channels=channels,
            part_size=rows * length,
            eps=eps, sums_gx=out[1] if gradient else None,
        ),
    ]  # fmt: skip


def _parts(x) -> tuple[int, int]:
    """Rows of a part, and the number of parts."""
    rows = 1 if math.prod(x.shape[2:]) > 1 else ROWS
    return rows, -(-x.shape[0] // rows)


def _part_sizes(x) -> tuple[int, int]:
    """Bytes of the temporaries of `_sum_launches`."""
    size = _parts(x)[1] * x.shape[1] * x.dtype.itemsize
    return size, size


def _apply_launch(x, source, statistics, factors, g, out) -> Launch | None:
    """The launch of `_batch_apply` over x with the `_batch_factors`, or None."""
    batch, channels, length = _layout(x.shape)
    kernel = _BATCH_APPLY[length > 1, g is not None, x.dtype]
    if not kernel.ready():
        return None
    rows, row_size = (batch * channels, length) if length > 1 else (batch, channels)
    rows_per_chunk = share(x.size) // row_size or 1
    return Launch(
        kernel, -(-rows // rows_per_chunk), x=source, means=statistics, factors=factors, out=out, batch=batch,
        channels=channels,
        n=length, rows_per_chunk=rows_per_chunk, g=g,
    )  # fmt: skip


def _fits(specs, x) -> bool:
    return x.dtype in FLOATS and x.size > 0 and all(spec.dtype == x.dtype for spec in specs)


def _plan_statistics(specs, params) -> Plan | bool | None:
    (x,) = specs
    if not _fits(specs, x):
        return None
    if not x.plain:
        return True
    launches = _sum_launches(x, (Operand(0), None, None), (Operand(2), Operand(3)), (Operand(4),), Operand(1))
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
    apply = _apply_launch(x, Operand(0), Operand(1), factors, None, out)
    if apply is None or not kernel.ready():
        return None
    weight, bias = (Operand(i) if i < count else None for i in (2, 3))
    launch = Launch(
        kernel, 1, statistics=Operand(1), weight=weight, bias=bias, out=factors, channels=channels, sums_g=None,
        sums_gx=None,
        count=0, weight_grad=None,
    )  # fmt: skip
    launches = [launch, apply]
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
    # Temporaries: the factors, partial sums, and sums that are not results.
    temporaries = [3 * row]
    if batch or affine:
        temporaries += [*_part_sizes(x), row]
        if affine < 2:
            temporaries.append(row)
    results = count + len(temporaries)
    factors, out, weight_grad = Operand(count), Operand(results), Operand(results + 1) if affine else None
    launches: list[Launch] | None = []
    sums: tuple = None, None
    if batch or affine:
        sums = Operand(results + 2) if affine > 1 else Operand(count + 4), Operand(count + 3)
        parts = Operand(count + 1), Operand(count + 2)
        launches = _sum_launches(x, (Operand(1), Operand(0), Operand(2)), parts, sums, 0.0)
    apply = _apply_launch(x, Operand(1), Operand(2), factors, Operand(0), out)
    if launches is None or apply is None or not kernel.ready():
        return None
    launch = Launch(
        kernel, 1, statistics=Operand(2), weight=Operand(3) if count > 3 else None, bias=None, out=factors, channels=channels,
        sums_g=sums[0], sums_gx=sums[1], count=x.size // channels if batch else 0, weight_grad=weight_grad,
    )  # fmt: skip
    launches = [*launches, launch, apply]
    aux = [contiguous((channels,), x.dtype, x.backend)] * affine
    return Plan(contiguous(x.shape, x.dtype, x.backend), launches, tuple(temporaries), aux=aux)


batch_statistics = Lowering("batch_statistics", _plan_statistics, (), ("eps",), cost=per_element(4))
batch_norm = Lowering("batch_norm", _plan_norm, (), cost=per_element(4))
batch_norm_grad = Lowering("batch_norm_grad", _plan_grad, ("batch", "affine"), many=True, cost=per_element(8))


@args(mean=In, variance=In, out=Out, channels=Size, eps=Float)
def _running(tools, dtype: str):
    """Mean, variance and 1/√(variance + eps) as three rows."""
    one = np.dtype(dtype).type(1)

    def kernel(mean, variance, out, channels, eps):
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
    launch = Launch(kernel, 1, mean=Operand(0), variance=Operand(1), out=out, channels=mean.size, eps=eps)
    return Plan(contiguous((3, mean.size), dtype, mean.backend), [launch])


running_statistics = Lowering("running_statistics", _plan_running, ("dtype",), ("eps",), cost=per_element(4))
for _lowering in (batch_statistics, batch_norm, batch_norm_grad, running_statistics):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
