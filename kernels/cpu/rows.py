"""Shared parts of softmax and cross-entropy kernels on the CPU: exponentials of rows, and tiles of short rows.

A long row has 64 lanes. Short rows, and strided rows, are processed 64 at a time, one per lane, in a tile. Exponentials
are computed 16 at a time, ends padded, so that none runs in scalar code.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import LANES, kernels_of, share
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch

# Overhead of a row, in elements: chunks of short rows have fewer elements.
ROW_COST = 32
# The longest rows that are processed in tiles: contiguous ones, and strided ones.
_SHORT, TILE = 32, 64
# Fewer adjacent strided rows than this are transposed first.
LEAST_INNER = 16
# Side of a transposed block.
_BLOCK = 16

fma = elementary.fma
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.6931471805599453, 2.3190468138462996e-17
_LN2_HIGH_F, _LN2_LOW_F = 0.693147182464599609375, -1.904654299957768e-09
_ROUND, _ROUND_F = 1.5 * 2.0**52, 1.5 * 2.0**23
_ROUND_BITS, _ROUND_BITS_F = np.float64(_ROUND).view(np.int64), np.float32(_ROUND_F).view(np.int32)


def exp_below(x):
    """eˣ for x ≤ 0, at most 1 ulp off: fewer steps than `elementary.exp`, which is accurate to half an ulp."""
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
    # Selected, not computed: processors are slow where a result underflows to 0.
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


@functools.cache
def exponentials(tools, dt, stored: bool):
    """total(x, y, n, c): Σ exp(x[i] - c) over i < n; with `stored`, each exponential is also stored in y[i]."""
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


# Lane j of a tile is a row of n numbers, tile[64·i + j] its number i. Kernels over tiles have as arguments their arrays,
# then outer, n, inner and `each`, the tiles of a chunk. Rows are along the middle axis of (outer, n, inner).


@functools.cache
def tile_access(tools, dt):
    """(place, load, store): the location of a tile in x, and copies between it and a tile of `count` lanes."""
    zero = dt.type(0)

    @tools.inline
    def place(t, outer, n, inner):
        """(first element, stride along rows, stride between rows, first row, rows) of tile t."""
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
def tile_exponentials(tools, dt):
    """total(tile, n, top, sums): replace the tile by exp(tile - top), with the lanes' maxima in `top`, sums in `sums`."""
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


def split(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    return math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])


def tile_slices(outer: int, n: int, inner: int) -> tuple[int, int]:
    """(chunks, tiles per chunk)."""
    tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
    tiles_per_chunk = share(outer * n * inner) // (n * LANES) or 1
    return -(-tiles // tiles_per_chunk), tiles_per_chunk


def in_tiles(n: int, inner: int) -> bool:
    return n <= _SHORT if inner == 1 else n <= TILE and inner >= LEAST_INNER


@args(x=In, out=Out, outer=Size, n=Size, inner=Size, blocks_per_chunk=Size)
def _transpose(tools, dtype: str):
    """out[o, j, i] = x[o, i, j] for (outer, n, inner), in blocks."""
    after = tools.after(np.dtype(dtype))

    def kernel(x, out, outer, n, inner, blocks_per_chunk, chunk):
        blocks = -(-inner // _BLOCK)
        for t in range(chunk * blocks_per_chunk, min(outer * blocks, (chunk + 1) * blocks_per_chunk)):
            first = t // blocks * n * inner
            source, result = after(x, first), after(out, first)
            start = t % blocks * _BLOCK
            end = min(inner, start + _BLOCK)
            for low in range(0, n, _BLOCK):
                for j in range(start, end):
                    for i in range(low, min(n, low + _BLOCK)):
                        result[j * n + i] = source[i * inner + j]
        return 0

    return kernel


_TRANSPOSE = kernels_of("turned", _transpose)


def turned(dtype, outer: int, n: int, inner: int, x: Operand, out: Operand) -> Launch:
    """The launch that transposes (outer, n, inner) to (outer, inner, n)."""
    blocks, blocks_per_chunk = outer * -(-inner // _BLOCK), max(1, share(outer * n * inner) // (n * _BLOCK))
    return Launch(
        _TRANSPOSE[dtype],
        -(-blocks // blocks_per_chunk),
        x=x,
        out=out,
        outer=outer,
        n=n,
        inner=inner,
        blocks_per_chunk=blocks_per_chunk,
    )
