"""Softmax, log-softmax and logsumexp on the CPU: rows stay in the nearest cache while they are worked on."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.codegen.jit import address
from deepcore.kernels.cpu.reductions import LANES, extreme, kernels_of, plain, share, summing
from deepcore.kernels.cpu.rows import (
    LEAST_INNER,
    ROW_COST,
    TILE,
    exp_below,
    exponentials,
    fma,
    in_tiles,
    split,
    tile_access,
    tile_exponentials,
    tile_slices,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete


def quotient(a, b, inverse):
    """a/b, from 1/b: a product and its correction, at most 0.51 ulp off."""
    q = a * inverse
    return fma(fma(-q, b, a), inverse, q)


def _softmax(tools, dtype: str):
    """Words: x, out, rows, n, rows of a slice."""
    dt = np.dtype(dtype)
    view, size = tools.view(dt), dt.itemsize
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, True)
    divided, one = tools.lift(quotient, dt), dt.type(1)

    def kernel(a, part):
        n = a[3]
        for r in range(part * a[4], min(a[2], (part + 1) * a[4])):
            x, out = view(a[0] + r * n * size), view(a[1] + r * n * size)
            s = total(x, out, n, best(x, n))
            inverse = one / s
            for i in range(n):
                out[i] = divided(out[i], s, inverse)
        return 0

    return kernel


def _log_softmax(tools, dtype: str):
    """Words: x, out, rows, n, rows of a slice."""
    dt = np.dtype(dtype)
    view, size, log = tools.view(dt), dt.itemsize, tools.lift(elementary.log, dt)
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, False)

    def kernel(a, part):
        n = a[3]
        for r in range(part * a[4], min(a[2], (part + 1) * a[4])):
            x, out = view(a[0] + r * n * size), view(a[1] + r * n * size)
            c = best(x, n)
            d = log(total(x, out, n, c))
            for i in range(n):
                out[i] = (x[i] - c) - d
        return 0

    return kernel


def _logsumexp(tools, dtype: str):
    """Words: x, out, rows, n, rows of a slice."""
    dt = np.dtype(dtype)
    view, size, log = tools.view(dt), dt.itemsize, tools.lift(elementary.log, dt)
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, False)
    inf, zero = dt.type(np.inf), dt.type(0)

    def kernel(a, part):
        n, out = a[3], view(a[1])
        for r in range(part * a[4], min(a[2], (part + 1) * a[4])):
            x = view(a[0] + r * n * size)
            c = best(x, n)
            if c == inf:
                for i in range(n):
                    c = x[i] if x[i] != x[i] else c
                out[r] = c
            else:
                c = zero if c == -inf else c
                out[r] = c + log(total(x, x, n, c))
        return 0

    return kernel


def _softmax_grad(tools, dtype: str):
    """y·(g - Σ g·y). Words: g, y, out, rows, n, rows of a slice."""
    dt = np.dtype(dtype)
    view, size, zero = tools.view(dt), dt.itemsize, dt.type(0)

    @tools.inline
    def product(g, y, z, i, c, d):
        return g[i] * y[i]

    total = summing(tools, dt, product, "row, row")

    def kernel(a, part):
        n = a[4]
        for r in range(part * a[5], min(a[3], (part + 1) * a[5])):
            at = r * n * size
            g, y, out = view(a[0] + at), view(a[1] + at), view(a[2] + at)
            s = total(g, y, y, n, zero, zero)
            for i in range(n):
                out[i] = y[i] * (g[i] - s)
        return 0

    return kernel


def _log_softmax_grad(tools, dtype: str):
    """g - exp(y)·Σ g, which is g where Σ g is 0. Words: g, y, out, rows, n, rows of a slice."""
    dt = np.dtype(dtype)
    view, size, zero = tools.view(dt), dt.itemsize, dt.type(0)
    exp, total, block = tools.lift(exp_below, dt), plain(tools, dt), tools.local(dt, LANES)
    copy, after = tools.copy(dt), tools.after(dt)

    def kernel(a, part):
        n, e = a[4], block()
        for j in range(LANES):
            e[j] = zero
        for r in range(part * a[5], min(a[3], (part + 1) * a[5])):
            at = r * n * size
            g, y, out = view(a[0] + at), view(a[1] + at), view(a[2] + at)
            s = total(g, y, y, n, zero, zero)
            for i in range(0, n, LANES):
                rest = min(n - i, LANES)
                if rest == LANES:
                    for j in range(LANES):
                        e[j] = exp(y[i + j])
                    for j in range(LANES):
                        e[j] = g[i + j] - (zero if s == zero else e[j] * s)
                    for j in range(LANES):
                        out[i + j] = e[j]
                else:
                    copy(e, after(y, i), rest)
                    for j in range(LANES):
                        e[j] = exp(e[j])
                    for j in range(rest):
                        out[i + j] = g[i + j] - (zero if s == zero else e[j] * s)
        return 0

    return kernel


def _softmax_tiles(tools, log: bool, dtype: str):
    """Arrays: x, out."""
    dt = np.dtype(dtype)
    view, lanes, space = tools.view(dt), tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    total, ln = tile_exponentials(tools, dt), tools.lift(elementary.log, dt)

    def kernel(a, part):
        outer, n, inner = a[2], a[3], a[4]
        x, out = view(a[0]), view(a[1])
        tile, top, sums = space(), lanes(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(part * a[5], min(tiles, (part + 1) * a[5])):
            base, step, apart, _, count = place(t, outer, n, inner)
            load(tile, x, base, n, step, apart, count)
            total(tile, n, top, sums)
            if log:
                for j in range(LANES):
                    sums[j] = ln(sums[j])
                load(tile, x, base, n, step, apart, count)
                for i in range(n):
                    for j in range(LANES):
                        tile[LANES * i + j] = (tile[LANES * i + j] - top[j]) - sums[j]
            else:
                for i in range(n):
                    for j in range(LANES):
                        tile[LANES * i + j] = tile[LANES * i + j] / sums[j]
            store(out, tile, base, n, step, apart, count)
        return 0

    return kernel


def _softmax_grad_tiles(tools, log: bool, dtype: str):
    """y·(g - Σ g·y), or g - exp(y)·Σ g for the logarithm. Arrays: g, y, out."""
    dt = np.dtype(dtype)
    view, lanes, space = tools.view(dt), tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    other = tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    exp, zero = tools.lift(exp_below, dt), dt.type(0)

    def kernel(a, part):
        outer, n, inner = a[3], a[4], a[5]
        g, y, out = view(a[0]), view(a[1]), view(a[2])
        u, v, sums = space(), other(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(part * a[6], min(tiles, (part + 1) * a[6])):
            base, step, apart, _, count = place(t, outer, n, inner)
            load(u, g, base, n, step, apart, count)
            load(v, y, base, n, step, apart, count)
            for j in range(LANES):
                sums[j] = zero
            for i in range(n):
                for j in range(LANES):
                    sums[j] += u[LANES * i + j] if log else u[LANES * i + j] * v[LANES * i + j]
            for i in range(n):
                for j in range(LANES):
                    k = LANES * i + j
                    if log:
                        u[k] = u[k] - (zero if sums[j] == zero else exp(v[k]) * sums[j])
                    else:
                        u[k] = v[k] * (u[k] - sums[j])
            store(out, u, base, n, step, apart, count)
        return 0

    return kernel


# -- long rows across memory: 64 of them at a time, each in a lane, and sums in blocks of 64 numbers -----------------


def _softmax_columns(tools, log: bool, dtype: str):
    """Words: x, out, outer, n, inner, tasks of a slice."""
    dt = np.dtype(dtype)
    view, size, lanes = tools.view(dt), dt.itemsize, tools.local(dt, LANES)
    exp, ln, zero, least = tools.lift(exp_below, dt), tools.lift(elementary.log, dt), dt.type(0), dt.type(-np.inf)

    def kernel(a, part):
        n, inner = a[3], a[4]
        blocks = -(-inner // LANES)
        top, sums, some = lanes(), lanes(), lanes()
        for t in range(part * a[5], min(a[2] * blocks, (part + 1) * a[5])):
            column = t % blocks * LANES
            count, base = min(LANES, inner - column), (t // blocks * n * inner + column) * size
            x, out = view(a[0] + base), view(a[1] + base)
            for j in range(count):
                top[j], sums[j] = least, zero
            for i in range(n):
                for j in range(count):
                    v = x[i * inner + j]
                    top[j] = v if v > top[j] else top[j]
            for block in range(0, n, LANES):
                for j in range(count):
                    some[j] = zero
                for i in range(block, min(block + LANES, n)):
                    for j in range(count):
                        e = exp(x[i * inner + j] - top[j])
                        some[j] += e
                        if not log:
                            out[i * inner + j] = e
                for j in range(count):
                    sums[j] += some[j]
            if log:
                for j in range(count):
                    sums[j] = ln(sums[j])
            for i in range(n):
                for j in range(count):
                    k = i * inner + j
                    out[k] = (x[k] - top[j]) - sums[j] if log else out[k] / sums[j]
        return 0

    return kernel


def _softmax_grad_columns(tools, log: bool, dtype: str):
    """Words: g, y, out, outer, n, inner, tasks of a slice."""
    dt = np.dtype(dtype)
    view, size, lanes = tools.view(dt), dt.itemsize, tools.local(dt, LANES)
    exp, zero = tools.lift(exp_below, dt), dt.type(0)

    def kernel(a, part):
        n, inner = a[4], a[5]
        blocks = -(-inner // LANES)
        sums, some = lanes(), lanes()
        for t in range(part * a[6], min(a[3] * blocks, (part + 1) * a[6])):
            column = t % blocks * LANES
            count, base = min(LANES, inner - column), (t // blocks * n * inner + column) * size
            g, y, out = view(a[0] + base), view(a[1] + base), view(a[2] + base)
            for j in range(count):
                sums[j] = zero
            for block in range(0, n, LANES):
                for j in range(count):
                    some[j] = zero
                for i in range(block, min(block + LANES, n)):
                    for j in range(count):
                        k = i * inner + j
                        some[j] += g[k] if log else g[k] * y[k]
                for j in range(count):
                    sums[j] += some[j]
            for i in range(n):
                for j in range(count):
                    k = i * inner + j
                    if log:
                        out[k] = g[k] - (zero if sums[j] == zero else exp(y[k]) * sums[j])
                    else:
                        out[k] = y[k] * (g[k] - sums[j])
        return 0

    return kernel


# The kernel for long rows, the one for short ones, also across memory, and the one for long rows across memory.
_SOFTMAX = (
    kernels_of("softmax", _softmax), kernels_of("softmax_tiles", _softmax_tiles, False),
    kernels_of("softmax_columns", _softmax_columns, False),
)  # fmt: skip
_LOG_SOFTMAX = (
    kernels_of("log_softmax", _log_softmax), kernels_of("log_softmax_tiles", _softmax_tiles, True),
    kernels_of("log_softmax_columns", _softmax_columns, True),
)  # fmt: skip
_SOFTMAX_GRAD = (
    kernels_of("softmax_grad", _softmax_grad), kernels_of("softmax_grad_tiles", _softmax_grad_tiles, False),
    kernels_of("softmax_grad_columns", _softmax_grad_columns, False),
)  # fmt: skip
_LOG_SOFTMAX_GRAD = (
    kernels_of("log_softmax_grad", _log_softmax_grad), kernels_of("log_softmax_grad_tiles", _softmax_grad_tiles, True),
    kernels_of("log_softmax_grad_columns", _softmax_grad_columns, True),
)  # fmt: skip
_ROWS, _TILES, _COLUMNS = range(3)
_LOGSUMEXP = kernels_of("logsumexp", _logsumexp)


def _layout(shape: tuple[int, ...], dim: int) -> tuple[int, int, tuple[int, ...]]:
    """(which kernel, chunks or 0 where rows must be moved first, the words behind the addresses)."""
    outer, n, inner = split(shape, dim)
    if in_tiles(n, inner):
        chunks, each = tile_slices(outer, n, inner)
        return _TILES, chunks, (outer, n, inner, each)
    if inner >= LEAST_INNER:
        tasks = outer * -(-inner // LANES)
        each = share(outer * n * inner) // (n * LANES) or 1
        return _COLUMNS, -(-tasks // each), (outer, n, inner, each)
    each = share(outer * n) // (n + ROW_COST) or 1
    return _ROWS, 0 if inner > 1 else -(-outer // each), (outer, n, each)


class _Rows(Lowering):
    """out[r] = kernel(row r of each operand), for rows along `dim`; `kernels`: for long rows, in tiles, and across memory."""

    def __init__(self, name: str, kernels: tuple[dict, dict, dict]):
        super().__init__(name, self.planned, ("dim",), prepare=self.prepared)
        self.kernels = kernels

    def planned(self, specs, params) -> Plan | bool | None:
        x = specs[0]
        if not x.size:
            return None
        which, chunks, words = _layout(x.shape, params["dim"] % x.ndim)
        kernel = self.kernels[which].get(x.dtype)
        if kernel is None or not kernel.ready():
            return None
        if not chunks or not all(spec.plain and spec.dtype == x.dtype for spec in specs):
            return True
        operands = map(Operand, range(len(specs) + 1))
        return Plan(contiguous(x.shape, x.dtype, x.backend), [Launch(kernel, chunks, (*operands, *words))])

    def prepared(self, xp, arrays, params, out):
        """Rows that are gathered first, and operands that are not contiguous or of another dtype."""
        x, dim = arrays[0], params["dim"]
        if _layout(x.shape, dim % x.ndim)[1]:
            arrays = [np.require(a, x.dtype, ("C", "A")) for a in arrays]
            return self(xp, *arrays, out=out, **params)
        rows = [np.require(np.moveaxis(a, dim, -1), x.dtype, ("C", "A")) for a in arrays]
        result = np.moveaxis(self(xp, *rows, dim=-1), -1, dim)
        if out is None:
            return np.ascontiguousarray(result)
        out[...] = result
        return out


softmax, log_softmax = _Rows("softmax", _SOFTMAX), _Rows("log_softmax", _LOG_SOFTMAX)
softmax_grad, log_softmax_grad = _Rows("softmax_grad", _SOFTMAX_GRAD), _Rows("log_softmax_grad", _LOG_SOFTMAX_GRAD)
for _rows in (softmax, log_softmax, softmax_grad, log_softmax_grad):
    register(_rows.op_name, "cpu", needs_numba=False)(_rows)


@register("logsumexp", "cpu", needs_numba=False)
def logsumexp(xp, input, *, out=None):
    """Of the last dimension, which is dropped."""
    kernel = _LOGSUMEXP.get(input.dtype)
    if kernel is None or not input.size or not kernel.ready():
        return NotImplemented
    x = np.require(input, requirements=("C", "A"))
    n = x.shape[-1]
    rows, each = x.size // n, share(x.size) // (n + ROW_COST) or 1
    result = allocator.small(x.shape[:-1], x.dtype) if out is None else out
    complete(kernel, -(-rows // each), address(x), address(result), rows, n, each)
    return result
