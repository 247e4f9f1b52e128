"""Softmax, log-softmax and logsumexp on the CPU: rows stay in the nearest cache while they are worked on."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.cpu.reductions import LANES, extreme, kernels_of, plain, share, summing
from deepcore.kernels.cpu.rows import (
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
    turned,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous, per_element
from deepcore.kernels.registry import register


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


# The kernel for long rows, and the one for short ones and those across memory.
_SOFTMAX = kernels_of("softmax", _softmax), kernels_of("softmax_tiles", _softmax_tiles, False)
_LOG_SOFTMAX = kernels_of("log_softmax", _log_softmax), kernels_of("log_softmax_tiles", _softmax_tiles, True)
_SOFTMAX_GRAD = kernels_of("softmax_grad", _softmax_grad), kernels_of("softmax_grad_tiles", _softmax_grad_tiles, False)
_LOG_SOFTMAX_GRAD = (
    kernels_of("log_softmax_grad", _log_softmax_grad), kernels_of("log_softmax_grad_tiles", _softmax_grad_tiles, True),
)  # fmt: skip
_LOGSUMEXP = kernels_of("logsumexp", _logsumexp)


def _layout(shape: tuple[int, ...], dim: int) -> tuple[bool, int, tuple[int, ...]]:
    """(whether in tiles, chunks or 0 where rows must be moved first, the words behind the addresses)."""
    outer, n, inner = split(shape, dim)
    if in_tiles(n, inner):
        chunks, each = tile_slices(outer, n, inner)
        return True, chunks, (outer, n, inner, each)
    each = share(outer * n) // (n + ROW_COST) or 1
    return False, 0 if inner > 1 else -(-outer // each), (outer, n, each)


class _Rows(Lowering):
    """out[r] = kernel(row r of each operand), for rows along `dim`; `kernels`: for long rows, and in tiles."""

    def __init__(self, name: str, kernels: tuple[dict, dict]):
        super().__init__(name, self.planned, ("dim",), cost=per_element(5))
        self.kernels = kernels

    def planned(self, specs, params) -> Plan | bool | None:
        x = specs[0]
        if not x.size:
            return None
        tiled, chunks, words = _layout(x.shape, params["dim"] % x.ndim)
        kernel = self.kernels[tiled].get(x.dtype)
        if kernel is None or not kernel.ready():
            return None
        if any(spec.dtype != x.dtype for spec in specs):
            return None
        if not all(spec.plain for spec in specs):
            return True
        count, result = len(specs), contiguous(x.shape, x.dtype, x.backend)
        if chunks:
            return Plan(result, [Launch(kernel, chunks, (*map(Operand, range(count + 1)), *words))])
        # Rows are gathered first.
        outer, n, inner = split(x.shape, params["dim"] % x.ndim)
        tiled, chunks, words = _layout((outer * inner, n), 1)
        kernel = self.kernels[tiled][x.dtype]
        launches = [turned(x.dtype, outer, n, inner, Operand(i), Operand(count + i)) for i in range(count)]
        launches.append(Launch(kernel, chunks, (*map(Operand, range(count, 2 * count + 1)), *words)))
        launches.append(turned(x.dtype, outer, inner, n, Operand(2 * count), Operand(2 * count + 1)))
        if not all(launch.kernel.ready() for launch in launches):
            return None
        return Plan(result, launches, (x.size * x.dtype.itemsize,) * (count + 1))


softmax, log_softmax = _Rows("softmax", _SOFTMAX), _Rows("log_softmax", _LOG_SOFTMAX)
softmax_grad, log_softmax_grad = _Rows("softmax_grad", _SOFTMAX_GRAD), _Rows("log_softmax_grad", _LOG_SOFTMAX_GRAD)
for _rows in (softmax, log_softmax, softmax_grad, log_softmax_grad):
    register(_rows.op_name, "cpu", needs_numba=False)(_rows)


def _plan_logsumexp(specs, params) -> Plan | bool | None:
    """Of the last dimension, which is dropped."""
    (x,) = specs
    kernel = _LOGSUMEXP.get(x.dtype)
    if kernel is None or not x.size or not kernel.ready():
        return None
    if not x.plain:
        return True
    n = x.shape[-1]
    rows, each = x.size // n, share(x.size) // (n + ROW_COST) or 1
    launch = Launch(kernel, -(-rows // each), (Operand(0), Operand(1), rows, n, each))
    return Plan(contiguous(x.shape[:-1], x.dtype, x.backend), [launch])


logsumexp = Lowering("logsumexp", _plan_logsumexp, cost=per_element(4))
register("logsumexp", "cpu", needs_numba=False)(logsumexp)
