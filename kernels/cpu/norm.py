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
from deepcore.kernels.codegen.kernel import Address, Float, In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import FLOATS, LANES, in_steps, kernels_of, regions, share, spaces, summing
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
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


@args(x=In, weight=Address, bias=Address, out=Out, statistics=Out, rows=Size, n=Size, each=Size, eps=Float)
def _norm(tools, centred: bool, affine: int, dtype: str):
    """(x - mean)·rstd·weight + bias, without a mean unless centred; affine counts weight and bias.

    `statistics`: rstd, and mean behind all of them; `each`: rows of a chunk.
    """
    dt = np.dtype(dtype)
    view, after, one, zero = tools.view(dt), tools.after(dt), dt.type(1), dt.type(0)
    average, squares, root, real = average_of(tools, dt), squares_of(tools, dt), np.sqrt, dt.type

    def kernel(x, weight, bias, out, statistics, rows, n, each, eps, chunk):
        weights, biases, count = view(weight), view(bias), real(n)
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
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
    g=In, x=In, weight=Address, out=Out, statistics=In, to_weight=Address, to_bias=Address, rows=Size, n=Size, each=Size,
    width=Size,
)  # fmt: skip
def _norm_grad(tools, centred: bool, affine: int, dtype: str):
    """The gradient of `_norm`'s input, and for each block of rows the partial sums of those of weight and bias.

    `each`: blocks of a chunk, `width`: bytes between the partial sums of two blocks. Without `to_bias` the sums of bias's
    gradient lie behind those of weight's.
    """
    dt = np.dtype(dtype)
    view, after, size, zero = tools.view(dt), tools.after(dt), dt.itemsize, dt.type(0)
    products, pair, real = products_of(tools, dt, affine > 0), _pair(tools, dt, affine > 0), dt.type

    def kernel(g, x, weight, out, statistics, to_weight, to_bias, rows, n, each, width, chunk):
        count, w = real(n), view(weight)
        if to_bias == 0:
            to_bias = to_weight + n * size
        for b in range(chunk * each, min(-(-rows // ROWS), (chunk + 1) * each)):
            weights, biases = view(to_weight + b * width), view(to_bias + b * width)
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
    """Two arrays of n numbers each from one of both."""
    copy, after = tools.copy(np.dtype(dtype)), tools.after(np.dtype(dtype))

    def kernel(x, first, second, n):
        copy(first, x, n)
        copy(second, after(x, n), n)
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
        weight, bias = (Operand(i) if i < count else None for i in (1, 2))
        eps, out, statistics = map(Operand, range(count, count + 3))
        launch = Launch(
            kernel, -(-rows // each), x=Operand(0), weight=weight, bias=bias, out=out, statistics=statistics, rows=rows, n=n,
            each=each, eps=eps,
        )  # fmt: skip
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
                launches.append(
                    Launch(split, 1, x=Operand(out - 1), first=Operand(out + 1), second=Operand(out + 2), n=n)
                )
            to_weight: Operand | None = Operand(count)
            to_bias: Operand | None = None
        else:
            out = count
            to_weight, to_bias = Operand(out + 1) if affine else None, Operand(out + 2) if affine > 1 else None
        if not all(launch.kernel.ready() for launch in launches):
            return None
        launch = Launch(
            kernel, -(-blocks // each), g=Operand(0), x=Operand(1), weight=Operand(3) if affine else None, out=Operand(out),
            statistics=Operand(2), to_weight=to_weight, to_bias=to_bias, rows=rows, n=n, each=each, width=width,
        )  # fmt: skip
        aux = [contiguous(shape, x.dtype, x.backend)] * affine
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch, *launches], temporaries, aux=aux)


layer_norm, rms_norm = _Norm("layer_norm", True), _Norm("rms_norm", False)
layer_norm_grad, rms_norm_grad = _NormGrad("layer_norm_grad", True), _NormGrad("rms_norm_grad", False)
for _lowering in (layer_norm, rms_norm, layer_norm_grad, rms_norm_grad):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
