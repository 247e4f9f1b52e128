"""Layer norm and RMS norm on the CPU.

A variance is that of the differences from a mean that is already known: twice over a row, or over a chunk that stays in
the cache, whose means and sums of squares are then put together. Gradients of weight and bias are sums of partial sums
of fixed rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.reductions import FLOATS, LANES, in_steps, kernels_of, regions, share, spaces, summing
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous, per_element
from deepcore.kernels.registry import register

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

    Words: g, x, weight, out, statistics, partial sums of weight's and of bias's gradient, rows, n, blocks of a slice, and
    the bytes between the partial sums of two blocks. An address of 0 for bias's: they lie behind those of weight.
    """
    dt = np.dtype(dtype)
    view, size, zero = tools.view(dt), dt.itemsize, dt.type(0)
    products, pair, real = products_of(tools, dt, affine > 0), _pair(tools, dt, affine > 0), dt.type

    def kernel(a, part):
        rows, n, weight, statistics = a[7], a[8], view(a[2]), view(a[4])
        count = real(n)
        to_bias = a[6] if a[6] else a[5] + n * size
        for b in range(part * a[9], min(-(-rows // ROWS), (part + 1) * a[9])):
            weights, biases = view(a[5] + b * a[10]), view(to_bias + b * a[10])
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


def _split(tools, dtype: str):
    """Two arrays of n numbers each from one of both. Words: from, first, second, n."""
    dt = np.dtype(dtype)
    view, copy, size = tools.view(dt), tools.copy(dt), dt.itemsize

    def kernel(a):
        n = a[3]
        copy(view(a[1]), view(a[0]), n)
        copy(view(a[2]), view(a[0] + n * size), n)
        return 0

    return kernel


_SPLIT = kernels_of("split", _split)


class _Norm(Lowering):
    """The norm of rows, the last `rank` dimensions, and behind it the rows' statistics."""

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
        rows, each = x.size // n, share(x.size) // n or 1
        weight, bias = (Operand(i) if i < count else 0 for i in (1, 2))
        eps, out, statistics = map(Operand, range(count, count + 3))
        launch = Launch(kernel, -(-rows // each), (Operand(0), weight, bias, out, statistics, rows, n, each, eps))
        aux = contiguous((2 if self.centred else 1, rows), x.dtype, x.backend)
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch], aux=[aux])


class _NormGrad(Lowering):
    """The gradients of input, weight and bias, the latter as far as `affine` counts them."""

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
        blocks, each = -(-rows // ROWS), share(x.size) // (n * ROWS) or 1
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
                launches.append(Launch(split, 1, (Operand(out - 1), Operand(out + 1), Operand(out + 2), n)))
            partial: tuple = Operand(count), 0
        else:
            out = count
            partial = Operand(out + 1) if affine else 0, Operand(out + 2) if affine > 1 else 0
        if not all(launch.kernel.ready() for launch in launches):
            return None
        words = (
            Operand(0), Operand(1), Operand(3) if affine else 0, Operand(out), Operand(2), *partial, rows, n, each, width,
        )  # fmt: skip
        aux = [contiguous(shape, x.dtype, x.backend)] * affine
        launches = [Launch(kernel, -(-blocks // each), words), *launches]
        return Plan(contiguous(x.shape, x.dtype, x.backend), launches, temporaries, aux=aux)


layer_norm, rms_norm = _Norm("layer_norm", True), _Norm("rms_norm", False)
layer_norm_grad, rms_norm_grad = _NormGrad("layer_norm_grad", True), _NormGrad("rms_norm_grad", False)
for _lowering in (layer_norm, rms_norm, layer_norm_grad, rms_norm_grad):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
