"""Layer norm and RMS norm on the CPU.

The variance is computed in a second pass from the differences to the mean, over a row, or over a chunk that stays in the
cache; means and sums of squares of chunks are then combined. Gradients of weight and bias are summed from partial sums of
fixed blocks of rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import FLOATS, LANES, in_steps, kernels_of, regions, share, spaces, summing
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
from deepcore.kernels.registry import register

# Rows of a block that is summed sequentially, for a channel's statistics or the gradients of weight and bias.
ROWS = 32
# Numbers of a row per block of the paired sums.
_PAIRED = 1024


@functools.cache
def average_of(tools, dt):
    """average(x, n): the mean, computed from the differences to the first number, which have smaller rounding errors."""

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
    """pair(g, x, w, n, c): Σ g·w and Σ g·w·(x - c) in one pass, without w unless weighted; long rows are summed by blocks."""
    lanes, other_lanes, fold, zero = tools.local(dt, LANES), tools.local(dt, LANES), tools.folded(dt, "sum"), dt.type(0)
    fetch = tools.prefetch(dt)

    @tools.inline
    def block(g, x, w, start, n, c, distance):
        sum_g, sum_gx = lanes(), other_lanes()
        for j in range(LANES):
            sum_g[j], sum_gx[j] = zero, zero
        for i in range(start, start + n - LANES + 1, LANES):
            fetch(g, i + distance)
            fetch(x, i + distance)
            for j in range(LANES):
                v = g[i + j] * w[i + j] if weighted else g[i + j]
                sum_g[j] += v
                sum_gx[j] += v * (x[i + j] - c)
        rest = n % LANES
        if rest:
            if n < LANES:
                for j in range(n):
                    v = g[start + j] * w[start + j] if weighted else g[start + j]
                    sum_g[j] += v
                    sum_gx[j] += v * (x[start + j] - c)
            else:
                for j in range(LANES):
                    i = start + n - LANES + j
                    v = g[i] * w[i] if weighted else g[i]
                    sum_g[j] += v if j >= LANES - rest else zero
                    sum_gx[j] += v * (x[i] - c) if j >= LANES - rest else zero
        return fold(sum_g), fold(sum_gx)

    @tools.inline
    def pair(g, x, w, n, c):
        sum_g, sum_gx = zero, zero
        for start in range(0, n, _PAIRED):
            a, b = block(g, x, w, start, min(_PAIRED, n - start), c, n)
            sum_g, sum_gx = sum_g + a, sum_gx + b
        return sum_g, sum_gx

    return pair


@args(x=In, weight=Address, bias=Address, out=Out, statistics=Out, rows=Size, n=Size, rows_per_chunk=Size, eps=Float)
def _norm(tools, centred: bool, affine: int, dtype: str):
    """(x - mean)·rstd·weight + bias, mean 0 unless `centred`; `affine`: 1 with weight, 2 with weight and bias.

    `statistics`: rstd of all rows, then their means.
    """
    dt = np.dtype(dtype)
    view, after, one, zero = tools.view(dt), tools.after(dt), dt.type(1), dt.type(0)
    average, squares, root, real = average_of(tools, dt), squares_of(tools, dt), np.sqrt, dt.type

    def kernel(x, weight, bias, out, statistics, rows, n, rows_per_chunk, eps, chunk):
        weights, biases, count = view(weight), view(bias), real(n)
        for r in range(chunk * rows_per_chunk, min(rows, (chunk + 1) * rows_per_chunk)):
            row, result = after(x, r * n), after(out, r * n)
            mean = zero
            if centred:
                mean = average(row, n)
                statistics[rows + r] = mean
            rstd = one / root(squares(row, row, row, n, mean, zero) / count + eps)
            statistics[r] = rstd
            for i in range(n):
                v = (row[i] - mean) * rstd if centred else row[i] * rstd
                if affine:
                    v = v * weights[i]
                if affine > 1:
                    v = v + biases[i]
                result[i] = v
        return 0

    return kernel


@args(
    g=In, x=In, weight=Address, out=Out, statistics=In, weight_grads=Address, bias_grads=Address, rows=Size, n=Size,
    blocks_per_chunk=Size,
    width=Size,
)  # fmt: skip
def _norm_grad(tools, centred: bool, affine: int, dtype: str):
    """The gradient of `_norm`'s input, and for each block of rows partial sums of the gradients of weight and bias.

    `width`: bytes between the partial sums of two blocks. Without `bias_grads` the sums for bias follow those for weight.
    """
    dt = np.dtype(dtype)
    view, after, size, zero = tools.view(dt), tools.after(dt), dt.itemsize, dt.type(0)
    products, pair, real = products_of(tools, dt, affine > 0), _pair(tools, dt, affine > 0), dt.type

    def kernel(g, x, weight, out, statistics, weight_grads, bias_grads, rows, n, blocks_per_chunk, width, chunk):
        count, w = real(n), view(weight)
        if bias_grads == 0:
            bias_grads = weight_grads + n * size
        for b in range(chunk * blocks_per_chunk, min(-(-rows // ROWS), (chunk + 1) * blocks_per_chunk)):
            weights, biases = view(weight_grads + b * width), view(bias_grads + b * width)
            if affine:
                for i in range(n):
                    weights[i] = zero
            if affine > 1:
                for i in range(n):
                    biases[i] = zero
            for r in range(b * ROWS, min(rows, (b + 1) * ROWS)):
                gr, row, result = after(g, r * n), after(x, r * n), after(out, r * n)
                rstd, mean = statistics[r], statistics[rows + r] if centred else zero
                if centred:
                    m, c = pair(gr, row, w, n, mean)
                    m, c = m / count, c * rstd / count * rstd
                else:
                    m, c = zero, products(gr, row, w, n, mean, zero) * rstd / count * rstd
                for i in range(n):
                    v = gr[i] * w[i] if affine else gr[i]
                    d = row[i] - mean if centred else row[i]
                    result[i] = ((v - m) - d * c) * rstd if centred else (v - d * c) * rstd
                if affine:
                    for i in range(n):
                        weights[i] += gr[i] * ((row[i] - mean) * rstd if centred else row[i] * rstd)
                if affine > 1:
                    for i in range(n):
                        biases[i] += gr[i]
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


@args(x=In, first=Out, second=Out, n=Size)
def _split(tools, dtype: str):
    """Split an array into two of n numbers."""
    copy, after = tools.copy(np.dtype(dtype)), tools.after(np.dtype(dtype))

    def kernel(x, first, second, n):
        copy(first, x, n)
        copy(second, after(x, n), n)
        return 0

    return kernel


_SPLIT = kernels_of("split", _split)


class _Norm(Lowering):
    """The norm of rows, the last `rank` dimensions, with the rows' statistics as a second result."""

    def __init__(self, name: str, centred: bool):
        super().__init__(name, self.planned, ("rank",), ("eps",), cost=per_element(8))
        self.centred = centred

    def planned(self, specs, params) -> Plan | bool | None:
        x, count = specs[0], len(specs)
        affine = count - 1
        kernel = _NORMS.get((self.centred, affine, x.dtype))
        if kernel is None or not x.size or any(spec.dtype != x.dtype for spec in specs) or not kernel.ready():
            return None
        if not all(spec.plain for spec in specs):
            return True
        n = math.prod(x.shape[-params["rank"] :])
        rows, rows_per_chunk = x.size // n, share(x.size) // n or 1
        weight, bias = (Operand(i) if i < count else None for i in (1, 2))
        eps, out, statistics = map(Operand, range(count, count + 3))
        launch = Launch(
            kernel, -(-rows // rows_per_chunk), x=Operand(0), weight=weight, bias=bias, out=out,
            statistics=statistics, rows=rows, n=n,
            rows_per_chunk=rows_per_chunk, eps=eps,
        )  # fmt: skip
        aux = contiguous((2 if self.centred else 1, rows), x.dtype, x.backend)
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch], aux=[aux])


class _NormGrad(Lowering):
    """The gradients of input, weight if `affine` is 1 or 2, and bias if it is 2."""

    def __init__(self, name: str, centred: bool):
        super().__init__(name, self.planned, ("rank", "affine"), many=True, cost=per_element(12))
        self.centred = centred

    def planned(self, specs, params) -> Plan | bool | None:
        x, count, affine = specs[1], len(specs), params["affine"]
        kernel = _NORM_GRADS.get((self.centred, affine, x.dtype))
        if kernel is None or not x.size or any(spec.dtype != x.dtype for spec in specs) or not kernel.ready():
            return None
        if not all(spec.plain for spec in specs):
            return True
        shape = x.shape[-params["rank"] :]
        n = math.prod(shape)
        rows = x.size // n
        blocks, blocks_per_chunk = -(-rows // ROWS), share(x.size) // (n * ROWS) or 1
        width = affine * n * x.dtype.itemsize
        temporaries: tuple[int, ...] = ()
        launches: list[Launch] = []
        if affine and blocks > 1:
            steps = regions("sum", x.dtype, 1, blocks, affine * n)
            temporaries = (blocks * width, *spaces(steps, x.dtype), *([width] if affine > 1 else ()))
            out = count + len(temporaries)
            launches = in_steps(steps, Operand(count), count + 1, Operand(out - 1 if affine > 1 else out + 1))
            if affine > 1:
                split = _SPLIT[x.dtype]
                launches.append(
                    Launch(split, 1, x=Operand(out - 1), first=Operand(out + 1), second=Operand(out + 2), n=n)
                )
            weight_grads: Operand | None = Operand(count)
            bias_grads: Operand | None = None
        else:
            out = count
            weight_grads, bias_grads = Operand(out + 1) if affine else None, Operand(out + 2) if affine > 1 else None
        if not all(launch.kernel.ready() for launch in launches):
            return None
        launch = Launch(
            kernel, -(-blocks // blocks_per_chunk), g=Operand(0), x=Operand(1), weight=Operand(3) if affine else None,
            out=Operand(out),
            statistics=Operand(2), weight_grads=weight_grads, bias_grads=bias_grads, rows=rows, n=n,
            blocks_per_chunk=blocks_per_chunk, width=width,
        )  # fmt: skip
        aux = [contiguous(shape, x.dtype, x.backend)] * affine
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch, *launches], temporaries, aux=aux)


layer_norm, rms_norm = _Norm("layer_norm", True), _Norm("rms_norm", False)
layer_norm_grad, rms_norm_grad = _NormGrad("layer_norm_grad", True), _NormGrad("rms_norm_grad", False)
for _lowering in (layer_norm, rms_norm, layer_norm_grad, rms_norm_grad):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
