"""Cross-entropy on the CPU: loss and gradient of a row in one pass over it."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float64, int64
from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, extreme, kernels_of, plain, reduced, share, summing
from deepcore.kernels.cpu.rows import (
    ROW_COST,
    TILE,
    exponentials,
    in_tiles,
    split,
    tile_access,
    tile_exponentials,
    tile_slices,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete


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
    lanes, space = tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    total = tile_exponentials(tools, dt)
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
    outer, n, inner = split(x.shape, dim)
    tiled, smoothed = in_tiles(n, inner), smoothing > 0
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
        slices, each = tile_slices(outer, n, inner)
        complete(kernel, slices, *arrays, outer, n, inner, each, ignored, at)
    else:
        each = share(x.size) // (n + ROW_COST) or 1
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
