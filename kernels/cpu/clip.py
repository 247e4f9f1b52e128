"""Gradient clipping by norm and by value on the CPU, over a table of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.cpu.finite import ALL_FINITE_KERNELS
from deepcore.kernels.cpu.parameter_table import (
    BLOCK,
    BOUND,
    FACTOR,
    FINITE,
    GRADIENT,
    MAX_NORM,
    NORM,
    NOT_FINITE,
    SIZE,
    SLICE,
    STOPPED,
    UNCLIPPED,
    disjoint,
    lay_out,
    row_of,
)
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import threadpool

#: PyTorch's guard against division by zero.
EPSILON = 1e-6


@register("all_finite", "cpu", needs_numba=False)
def _all_finite(xp, *arrays):
    table = Gradients.of(arrays, written=False)
    return NotImplemented if table is None else table.finite()


def clipped(g, bound, factor):
    g = bound if g > bound else g
    g = -bound if g < -bound else g
    return g * factor


def _build_norm(tools, dtype: str):
    """partials[slice] = Σ g² in 64 float64 lanes. Words: rows, elements in all, table, its width, slots, partials."""
    dt = np.dtype(dtype)
    view, words, floats = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64))
    find, local, convert = tools.inline(row_of), tools.local(np.dtype(np.float64), BLOCK), dt.type
    clip = tools.lift(clipped, dt)

    @tools.inline
    def add(g, start, stop, bound, lanes):
        one = convert(1)
        i = start
        while i + 64 <= stop:
            for j in range(64):
                d = np.float64(clip(g[i + j], bound, one))
                lanes[j] += d * d
            i += 64
        for j in range(stop - i):
            d = np.float64(clip(g[i + j], bound, one))
            lanes[j] += d * d

    def kernel(a, part):
        rows, table, width, slots, partials = a[0], words(a[2]), a[3], floats(a[4]), floats(a[5])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        bound = convert(slots[BOUND])
        lanes = local()
        for j in range(64):
            lanes[j] = 0.0
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            add(view(table[row * width + 2]), start, stop, bound, lanes)
            row += 1
        half = 32
        while half > 0:
            for j in range(half):
                lanes[j] += lanes[j + half]
            half //= 2
        partials[part] = lanes[0]
        return 0

    return kernel


def _build_total(tools, dtype: str):
    """The norm of all partials and the factor for the gradients, in `dtype`. Words: number of partials, they, slots, 0 or
    where else the norm is written."""
    floats, result, convert = tools.view(np.dtype(np.float64)), tools.view(np.dtype(dtype)), np.dtype(dtype).type
    epsilon = convert(EPSILON)

    def kernel(a):
        partials, slots = floats(a[1]), floats(a[2])
        square = 0.0
        for i in range(a[0]):
            square += partials[i]
        norm = convert(math.sqrt(square))
        factor = convert(slots[MAX_NORM]) / (norm + epsilon)
        slots[NORM] = norm
        if a[3] != 0:
            result(a[3])[0] = norm
        slots[FACTOR] = convert(1) if factor > convert(1) else factor
        if slots[FINITE] != 0.0 and norm - norm != convert(0):
            slots[STOPPED] = NOT_FINITE
            return 1
        return 0

    return kernel


def _build_scale(tools, dtype: str):
    """g[i] = clip(g[i])·factor. Words: rows, elements in all, table, its width, slots."""
    dt = np.dtype(dtype)
    view, words, floats, convert = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64)), dt.type
    find, clip = tools.inline(row_of), tools.lift(clipped, dt)

    @tools.inline
    def scale(g, start, stop, bound, factor):
        for i in range(start, stop):
            g[i] = clip(g[i], bound, factor)

    def kernel(a, part):
        rows, table, width, slots = a[0], words(a[2]), a[3], floats(a[4])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        factor, bound = convert(slots[FACTOR]), convert(slots[BOUND])
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            scale(view(table[row * width + 2]), start, stop, bound, factor)
            row += 1
        return 0

    return kernel


NORM_KERNELS = {dtype: Kernel(f"gradient_norm_{dtype.name}", _build_norm, dtype.name) for dtype in (float32, float64)}
TOTAL_KERNELS = {
    dtype: Kernel(f"gradient_total_{dtype.name}", _build_total, dtype.name) for dtype in (float32, float64)
}
_SCALE = {dtype: Kernel(f"gradient_scale_{dtype.name}", _build_scale, dtype.name) for dtype in (float32, float64)}


class Clip(NamedTuple):
    """Clip gradients while updating: by their norm, by value, or both (the norm is of what is left by value)."""

    max_norm: float | None = None
    value: float | None = None
    #: A norm that is not finite, or without one a gradient that is not, stops the program.
    finite: bool = False
    #: The gradients are written back.
    keep: bool = True

    @property
    def clips(self) -> bool:
        """Whether gradients change."""
        return self.max_norm is not None or self.value is not None


class Gradients:
    """Gradients as a table, for their norm and to clip them where they lie."""

    def __init__(self, arrays: Sequence):
        self.arrays = arrays
        self.slots = np.array(UNCLIPPED)
        self.dtype = float64 if any(x.dtype == float64 for x in arrays) else float32
        self._parts = []
        for dtype in (float32, float64):
            found = [x for x in arrays if x.dtype == dtype]
            if found:
                table = np.zeros((len(found), 3), np.int64)
                table[:, SIZE] = [x.size for x in found]
                table[:, GRADIENT] = [address(x) for x in found]
                self._parts.append((dtype, table, lay_out(table)))

    @classmethod
    def of(cls, arrays: Sequence, written: bool) -> Gradients | None:
        """None where a kernel cannot be had, or some array is not dense, or, if they are to be written, not apart."""
        for x in arrays:
            if type(x) is not np.ndarray or x.dtype not in (float32, float64):
                return None
            flags = x.flags
            if not (flags.forc and flags.aligned) or (written and not flags.writeable):
                return None
        if not arrays or (written and not disjoint(arrays)):
            return None
        found = cls(arrays)
        needed = [TOTAL_KERNELS[found.dtype]]
        for dtype, _, _ in found._parts:
            needed += (NORM_KERNELS[dtype], _SCALE[dtype], ALL_FINITE_KERNELS[dtype])
        return found if all(kernel.ready() for kernel in needed) else None

    def norm(self, max_norm: float = math.inf):
        """The 2-norm of all, 0-d; the factor that brings it down to `max_norm` is then known."""
        self.slots[MAX_NORM] = max_norm
        counts = [-(-elements // SLICE) for _, _, elements in self._parts]
        partials = np.zeros(max(sum(counts), 1))
        at = address(partials)
        for (dtype, table, elements), count in zip(self._parts, counts):
            words = (len(table), elements, address(table), 3, address(self.slots), at)
            if count:
                threadpool.launch(NORM_KERNELS[dtype], count, *words)
            at += 8 * count
        TOTAL_KERNELS[self.dtype](sum(counts), address(partials), address(self.slots), 0)
        return np.asarray(self.slots[NORM]).astype(self.dtype)

    def finite(self) -> bool:
        """Whether no gradient has a NaN or infinity."""
        slots = address(self.slots)
        return not any(
            elements
            and threadpool.launch(
                ALL_FINITE_KERNELS[dtype], -(-elements // SLICE), len(table), elements, address(table), 3, slots
            )
            for dtype, table, elements in self._parts
        )

    @property
    def factor(self) -> float:
        return float(self.slots[FACTOR])

    def scaling(self, value: float | None = None):
        """A call that clips them in place by value, or by the factor of the norm, as (function, its arguments)."""
        if value is not None:
            self.slots[:] = UNCLIPPED
            self.slots[BOUND] = value
        self._words = [
            np.array((len(table), elements, address(table), 3, address(self.slots)), np.int64)
            for _, table, elements in self._parts
        ]
        return threadpool.prepared(
            [
                (_SCALE[dtype], address(words), -(-elements // SLICE))
                for (dtype, _, elements), words in zip(self._parts, self._words)
            ]
        )
