"""Softmax, its relatives and the cross-entropy on the CPU: rows that stay in the nearest cache while they are worked on.

A long row has 64 lanes. Short rows, and rows across memory, are worked on 64 at a time, one in each lane, in a tile of
their own. Exponentials are computed 16 at a time, ends padded, so that no number is left to scalar code.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.backend.dtypes import float64, int64
from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, extreme, kernels_of, plain, reduced, share, summing
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete

# What a row costs beside its elements, in elements: short rows make slices of fewer elements.
_ROW_COST = 32
# Rows of at most so many numbers are short; rows across memory are worked on in tiles up to the second.
_SHORT, _TILE = 32, 64
# Rows across memory lie side by side; fewer than this are copied to lie along it.
_LEAST_INNER = 16

fma = elementary.fma
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471805599453, 2.3190468138462996e-17
_LN2_HIGH_F, _LN2_LOW_F = 0.693147182464599609375, -1.904654299957768e-09
_ROUND, _ROUND_F = 1.5 * 2.0**52, 1.5 * 2.0**23
_ROUND_BITS, _ROUND_BITS_F = np.float64(_ROUND).view(np.int64), np.float32(_ROUND_F).view(np.int32)


def exp_below(x):
    """eˣ for x ≤ 0, at most 1 ulp off: fewer steps than `scalar.exp`, which is right to half an ulp."""
    whole = np.float64(fma(x, _LOG2_E, _ROUND))
    n = whole - _ROUND
    r = fma(n, -_LN2_LOW, fma(n, -_LN2_HIGH, x))
    # fmt: off
    p = fma(r, fma(r, fma(r, fma(r, fma(r, fma(r, fma(r, fma(r, fma(r, 2.5100472505694996e-08, 2.7620201591031547e-07),
        2.7557268276905696e-06), 2.4801521057868204e-05), 0.00019841269863171557), 0.0013888888917367081),
        0.008333333333330039), 0.041666666666623824), 0.16666666666666669), 0.5)
    # fmt: on
    k = whole.view(np.int64) - _ROUND_BITS
    half = k >> 1  # in two factors, as the result may be subnormal
    first = np.int64((half + 1023) << 52).view(np.float64)
    value = (1.0 + fma(r * r, p, r)) * first
    # Chosen, not computed: processors are slow where a result rounds to 0.
    return 0.0 if x < -746.0 else value * np.int64((k - half + 1023) << 52).view(np.float64)


def exp_below_float32(x):
    whole = np.float32(fma(x, _LOG2_E, _ROUND_F))
    n = whole - _ROUND_F
    r = fma(n, -_LN2_LOW_F, fma(n, -_LN2_HIGH_F, x))
    p = fma(
        r,
        fma(r, fma(r, fma(r, 0.0013926250394433737, 0.00836323294788599), 0.04166655242443085), 0.16666576266288757),
        0.5,
    )
    k = np.int32(whole.view(np.int32) - _ROUND_BITS_F)
    half = k >> 1
    first = np.int32((half + 127) << 23).view(np.float32)
    value = (1.0 + fma(r * r, p, r)) * first
    return 0.0 if x < -104.0 else value * np.int32((k - half + 127) << 23).view(np.float32)


def quotient(a, b, inverse):
    """a/b, from 1/b: a product and its correction, at most 0.51 ulp off."""
    q = a * inverse
    return fma(fma(-q, b, a), inverse, q)


@functools.cache
def exponentials(tools, dt, stored: bool):
    """total(x, y, n, c): Σ exp(x[i] - c) over i < n; `stored`: each of them goes to y[i], too."""
    exp, block, lanes = tools.lift(exp_below, dt), tools.local(dt, LANES), tools.local(dt, LANES)
    fold, copy, after = tools.folded(dt, "sum"), tools.copy(dt), tools.after(dt)
    zero, least, fetch = dt.type(0), dt.type(-np.inf), tools.prefetch(dt)

    @tools.inline
    def total(x, y, n, c):
        e, acc = block(), lanes()
        for j in range(LANES):
            acc[j] = zero
        whole = n // LANES * LANES
        for i in range(0, whole, LANES):
            fetch(x, i + n)  # the next row
            for j in range(LANES):
                e[j] = exp(x[i + j] - c)
            for j in range(LANES):
                acc[j] += e[j]
            if stored:
                for j in range(LANES):
                    y[i + j] = e[j]
        if whole < n:
            for j in range(LANES):
                e[j] = least
            copy(e, after(x, whole), n - whole)
            for j in range(LANES):
                e[j] = exp(e[j] - c)
            for j in range(LANES):
                acc[j] += e[j]
            if stored:
                copy(after(y, whole), e, n - whole)
        return fold(acc)

    return total


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


# -- tiles: many short rows ----------------------------------------------------------------------------------------
#
# Lane j of a tile is a row of n numbers, tile[64·i + j] its number i. Words of every kernel over tiles: its arrays, then
# outer, n, inner and the tiles of a slice. Rows lie along the middle of (outer, n, inner).


@functools.cache
def _tiles(tools, dt):
    """(load, store): between a tile of `count` lanes and x, at `base`, of which `place` has made sense."""
    zero = dt.type(0)

    @tools.inline
    def place(t, outer, n, inner):
        """(first number, step along the rows, step between them, first row, rows) of tile t."""
        if inner == 1:
            first = t * LANES
            return first * n, 1, n, first, min(LANES, outer - first)
        blocks = -(-inner // LANES)
        o, column = t // blocks, t % blocks * LANES
        return o * n * inner + column, inner, 1, o * inner + column, min(LANES, inner - column)

    @tools.inline
    def load(tile, x, base, n, step, apart, count):
        for i in range(n):
            for j in range(count):
                tile[LANES * i + j] = x[base + i * step + j * apart]
        if count < LANES:
            for i in range(n):
                for j in range(count, LANES):
                    tile[LANES * i + j] = zero

    @tools.inline
    def store(x, tile, base, n, step, apart, count):
        for i in range(n):
            for j in range(count):
                x[base + i * step + j * apart] = tile[LANES * i + j]

    return place, load, store


@functools.cache
def _tile_exponentials(tools, dt):
    """total(tile, n, top, sums): the tile becomes e to its number less the largest of the lane; both kept."""
    exp, zero, least = tools.lift(exp_below, dt), dt.type(0), dt.type(-np.inf)

    @tools.inline
    def total(tile, n, top, sums):
        for j in range(LANES):
            top[j], sums[j] = least, zero
        for i in range(n):
            for j in range(LANES):
                x = tile[LANES * i + j]
                top[j] = x if x > top[j] else top[j]
        for i in range(n):
            for j in range(LANES):
                tile[LANES * i + j] = exp(tile[LANES * i + j] - top[j])
            for j in range(LANES):
                sums[j] += tile[LANES * i + j]

    return total


def _softmax_tiles(tools, log: bool, dtype: str):
    """Arrays: x, out."""
    dt = np.dtype(dtype)
    view, lanes, space = tools.view(dt), tools.local(dt, LANES), tools.local(dt, LANES * _TILE)
    place, load, store = _tiles(tools, dt)
    total, ln = _tile_exponentials(tools, dt), tools.lift(elementary.log, dt)

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
    view, lanes, space = tools.view(dt), tools.local(dt, LANES), tools.local(dt, LANES * _TILE)
    other = tools.local(dt, LANES * _TILE)
    place, load, store = _tiles(tools, dt)
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


def _split(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def _tile_slices(outer: int, n: int, inner: int) -> tuple[int, int]:
    """(slices, tiles of each)."""
    tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
    each = share(outer * n * inner) // (n * LANES) or 1
    return -(-tiles // each), each


def _in_tiles(n: int, inner: int) -> bool:
    return n <= _SHORT if inner == 1 else n <= _TILE and inner >= _LEAST_INNER


def _layout(shape: tuple[int, ...], dim: int) -> tuple[int, int, tuple[int, ...]]:
    """(which kernel, chunks or 0 where rows must be moved first, the words behind the addresses)."""
    outer, n, inner = _split(shape, dim)
    if _in_tiles(n, inner):
        chunks, each = _tile_slices(outer, n, inner)
        return _TILES, chunks, (outer, n, inner, each)
    if inner >= _LEAST_INNER:
        tasks = outer * -(-inner // LANES)
        each = share(outer * n * inner) // (n * LANES) or 1
        return _COLUMNS, -(-tasks // each), (outer, n, inner, each)
    each = share(outer * n) // (n + _ROW_COST) or 1
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
    rows, each = x.size // n, share(x.size) // (n + _ROW_COST) or 1
    result = allocator.small(x.shape[:-1], x.dtype) if out is None else out
    complete(kernel, -(-rows // each), address(x), address(result), rows, n, each)
    return result


# -- cross-entropy --------------------------------------------------------------------------------------------------


def _targets(tools, dtype: str):
    """Whether all classes are in range (status 1: no), and the numbers that the losses need.

    Words: target, its size, classes, ignored class, weight (or 0), label smoothing (a float64), whether the gradient is
    that of a mean, numbers. These are float64: Σ of the weights of what counts, the smoothing, Σ weight, the gradients'
    scale.
    """
    dt = np.dtype(dtype)
    view, whole, double = tools.view(dt), tools.view(int64), tools.view(float64)

    def kernel(a):
        target, classes, ignored = whole(a[0]), a[2], a[3]
        count, bad = 0, 0
        for i in range(a[1]):
            y = target[i]
            count += 1 if y != ignored else 0
            bad += 1 if (y != ignored) & ((y < 0) | (y >= classes)) else 0
        if bad:
            return 1
        total = np.float64(count)
        if a[4]:
            weight, total, lost = view(a[4]), np.float64(0.0), np.float64(0.0)
            for i in range(a[1]):
                if target[i] != ignored:
                    # Two sums: what the first loses goes into the second.
                    w = np.float64(weight[target[i]])
                    wider = total + w
                    part = wider - total
                    lost += (total - (wider - part)) + (w - part)
                    total = wider
            total += lost
        numbers = double(a[7])
        numbers[0] = total
        numbers[1] = np.int64(a[5]).view(np.float64)
        numbers[2] = np.float64(classes)
        if a[4]:
            every, numbers[2] = view(a[4]), 0.0
            for i in range(classes):
                numbers[2] += np.float64(every[i])
        numbers[3] = 1.0 / total if (a[6] != 0) & (total != 0.0) else 1.0
        return 0

    return kernel


def _cross_entropy(tools, recorded: bool, smoothed: bool, dtype: str):
    """Words: x, target, weight (0: all 1; never 0 where smoothed), losses, gradients (0 unless recorded), rows, n,
    ignored class, rows of a slice, numbers (as `_targets` left them).
    """
    dt = np.dtype(dtype)
    view, whole, double, size = tools.view(dt), tools.view(int64), tools.view(float64), dt.itemsize
    log, best, total = tools.lift(elementary.log, dt), extreme(tools, dt, "top"), exponentials(tools, dt, recorded)
    zero, one, real = dt.type(0), dt.type(1), dt.type

    if smoothed:

        @tools.inline
        def spread(x, y, weight, i, c, d):
            return weight[i] * (d - (x[i] - c)) if weight[i] != zero else zero

        others = summing(tools, dt, spread)

    def kernel(a, part):
        n, ignored = a[6], a[7]
        target, losses, weight = whole(a[1]), view(a[3]), view(a[2])
        numbers = double(a[9])
        smoothing, weights, scale = real(numbers[1]), real(numbers[2]), real(numbers[3])
        share = smoothing / real(n)
        for r in range(part * a[8], min(a[5], (part + 1) * a[8])):
            x, out = view(a[0] + r * n * size), view(a[4] + r * n * size)
            y = target[r]
            q = zero if y == ignored else (weight[y] if a[2] else one)
            if (y == ignored) if smoothed else (q == zero):
                losses[r] = zero
                if recorded:
                    for i in range(n):
                        out[i] = zero
                continue
            c = best(x, n)
            s = total(x, out, n, c)
            d = log(s)
            q *= one - smoothing
            loss = q * (d - (x[y] - c)) if q != zero else zero
            if smoothed:
                loss += share * others(x, x, weight, n, c, d)
            losses[r] = loss
            if recorded:
                q *= scale
                if smoothed:
                    b = share * scale
                    k = (q + b * weights) / s
                    for i in range(n):
                        out[i] = out[i] * k - b * weight[i]
                else:
                    k = q / s
                    for i in range(n):
                        out[i] = out[i] * k
                out[y] -= q
        return 0

    return kernel


def _cross_entropy_tiles(tools, recorded: bool, smoothed: bool, dtype: str):
    """As `_cross_entropy`, over tiles. Words: x, target, weight, losses, gradients, outer, n, inner, tiles of a slice,
    ignored class, numbers.
    """
    dt = np.dtype(dtype)
    view, whole, double = tools.view(dt), tools.view(int64), tools.view(float64)
    log = tools.lift(elementary.log, dt)
    lanes, space = tools.local(dt, LANES), tools.local(dt, LANES * _TILE)
    place, load, store = _tiles(tools, dt)
    total = _tile_exponentials(tools, dt)
    zero, one, real = dt.type(0), dt.type(1), dt.type

    def kernel(a, part):
        outer, n, inner, ignored = a[5], a[6], a[7], a[9]
        x, target, weight, losses, out = view(a[0]), whole(a[1]), view(a[2]), view(a[3]), view(a[4])
        numbers = double(a[10])
        smoothing, weights, scale = real(numbers[1]), real(numbers[2]), real(numbers[3])
        share = smoothing / real(n)
        tile, top, sums, q, chosen, loss = space(), lanes(), lanes(), lanes(), lanes(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(part * a[8], min(tiles, (part + 1) * a[8])):
            base, step, apart, first, count = place(t, outer, n, inner)
            load(tile, x, base, n, step, apart, count)
            for j in range(LANES):
                q[j], chosen[j] = zero, zero
            for j in range(count):
                y = target[first + j]
                if y != ignored:
                    chosen[j] = tile[LANES * y + j]
                    q[j] = (one - smoothing) * (weight[y] if a[2] else one)
            if smoothed:
                for j in range(LANES):
                    loss[j] = zero
            total(tile, n, top, sums)
            for j in range(LANES):
                chosen[j] = log(sums[j]) - (chosen[j] - top[j])
            if smoothed:
                for i in range(n):
                    if weight[i] != zero:
                        for j in range(count):
                            d = x[base + i * step + j * apart]
                            loss[j] += weight[i] * (log(sums[j]) - (d - top[j]))
            for j in range(count):
                value = q[j] * chosen[j] if q[j] != zero else zero
                if smoothed:
                    value = value + share * loss[j] if target[first + j] != ignored else zero
                losses[first + j] = value
            if recorded:
                if smoothed:
                    b = share * scale
                    for j in range(LANES):
                        top[j] = zero
                    for j in range(count):
                        top[j] = b if target[first + j] != ignored else zero
                    for j in range(LANES):
                        q[j] = q[j] * scale
                        sums[j] = (q[j] + top[j] * weights) / sums[j]
                    for i in range(n):
                        w = weight[i]
                        for j in range(LANES):
                            tile[LANES * i + j] = tile[LANES * i + j] * sums[j] - top[j] * w
                else:
                    for j in range(LANES):
                        q[j] = q[j] * scale
                        sums[j] = q[j] / sums[j]
                    for i in range(n):
                        for j in range(LANES):
                            tile[LANES * i + j] = tile[LANES * i + j] * sums[j]
                for j in range(count):
                    y = target[first + j]
                    if (y != ignored) if smoothed else (q[j] != zero):
                        tile[LANES * y + j] -= q[j]
                    else:
                        for i in range(n):
                            tile[LANES * i + j] = zero
                store(out, tile, base, n, step, apart, count)
        return 0

    return kernel


def _loss(tools, dtype: str):
    """out[0] = Σ losses, divided by numbers[0] for the mean. Words: losses, their number, numbers, whether mean, out."""
    dt = np.dtype(dtype)
    view, double, total, zero, real = tools.view(dt), tools.view(float64), plain(tools, dt), dt.type(0), dt.type

    def kernel(a):
        losses, out = view(a[0]), view(a[4])
        value = total(losses, losses, losses, a[1], zero, zero)
        out[0] = value / real(double(a[2])[0]) if a[3] else value
        return 0

    return kernel


_TARGETS = kernels_of("targets", _targets)
_LOSS = kernels_of("cross_entropy_loss", _loss)
_CROSS_ENTROPY = {
    (recorded, smoothed, tiled, d): Kernel(
        f"cross_entropy{'_grad' * recorded}{'_smoothed' * smoothed}{'_tiles' * tiled}_{d.name}",
        _cross_entropy_tiles if tiled else _cross_entropy, recorded, smoothed, d.name,
    )
    for recorded in (False, True) for smoothed in (False, True) for tiled in (False, True) for d in FLOATS
}  # fmt: skip


def cross_entropy_rows(
    x, target, weight, dim: int, ignored: int, smoothing: float, mean: bool, recorded: bool, out=None
):
    """(losses of the shape of `target`, numbers as of `_targets`, gradient of the losses' sum or mean, or None).

    NotImplemented where this is not for a kernel, and where a class is out of range.
    """
    dtype = x.dtype
    check = _TARGETS.get(dtype)
    if check is None or not x.size or not check.ready():
        return NotImplemented
    outer, n, inner = _split(x.shape, dim)
    tiled, smoothed = _in_tiles(n, inner), smoothing > 0
    kernel = _CROSS_ENTROPY[recorded, smoothed, tiled, dtype]
    if not kernel.ready():
        return NotImplemented
    if inner > 1 and not tiled:
        moved = np.moveaxis(x, dim, -1)
        found = cross_entropy_rows(moved, target, weight, x.ndim - 1, ignored, smoothing, mean, recorded)
        if not recorded or found is NotImplemented:
            return found
        gradients = np.moveaxis(found[2], -1, dim)
        if out is None:
            return *found[:2], np.ascontiguousarray(gradients)
        out[...] = gradients
        return *found[:2], out
    if not x.flags.carray:
        x = np.require(x, requirements=("C", "A"))
    if target.dtype != int64 or not target.flags.carray:
        target = np.require(target, int64, ("C", "A"))
    if weight is not None:
        weight = np.require(weight, dtype, ("C", "A"))
    elif smoothed:
        weight = np.ones(n, dtype)
    rows = outer * inner
    numbers = allocator.small(4, float64)
    at, places = address(numbers), 0 if weight is None else address(weight)
    where = address(target)
    if check(where, rows, n, ignored, places, bits(smoothing), mean, at):
        return NotImplemented
    losses = allocator.small(target.shape, dtype)
    gradients = (allocator.empty_like(x) if out is None else out) if recorded else None
    arrays = address(x), where, places, address(losses), 0 if gradients is None else address(gradients)
    if tiled:
        slices, each = _tile_slices(outer, n, inner)
        complete(kernel, slices, *arrays, outer, n, inner, each, ignored, at)
    else:
        each = share(x.size) // (n + _ROW_COST) or 1
        complete(kernel, -(-rows // each), *arrays, rows, n, ignored, each, at)
    return losses, numbers, gradients


@register("cross_entropy", "cpu", needs_numba=False)
def cross_entropy(xp, input, target, weight=None, *, dim, ignore_index, smoothing, reduction, recorded):
    found = cross_entropy_rows(input, target, weight, dim, ignore_index, smoothing, reduction == "mean", recorded)
    if found is NotImplemented:
        return found
    loss, numbers, gradients = found
    if reduction != "none":
        last = _LOSS[input.dtype]
        if not last.ready():
            return NotImplemented
        parts = loss if loss.size <= CHUNK else reduced("sum", loss, 1, loss.size, 1)
        loss = allocator.small((), input.dtype)
        complete(last, 1, address(parts), parts.size, address(numbers), reduction == "mean", address(loss))
    return (loss, gradients) if recorded else loss
