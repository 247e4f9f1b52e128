"""Gradient clipping by norm and by value on the CPU, over a table of gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.codegen.kernel import Address, In, InOut, Out, Size, Words, args
from deepcore.kernels.cpu.finite import ALL_FINITE_KERNELS
from deepcore.kernels.cpu.parameter_table import (
    BLOCK,
    BOUND,
    CHUNK,
    FACTOR,
    FINITE,
    GRADIENT,
    MAX_NORM,
    NORM,
    NOT_FINITE,
    SIZE,
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


@args(rows=Size, elements=Size, table=Words, width=Size, slots=In(float64), partials=Out(float64))
def _build_norm(tools, dtype: str):
    """partials[chunk] = Σ g² in 64 float64 lanes. `elements`: in all rows of the table."""
    dt = np.dtype(dtype)
    view = tools.view(dt)
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

    def kernel(rows, elements, table, width, slots, partials, chunk):
        low, high = chunk * CHUNK, min(elements, (chunk + 1) * CHUNK)
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
        partials[chunk] = lanes[0]
        return 0

    return kernel


@args(count=Size, partials=In(float64), slots=InOut(float64), result=Address)
def _build_total(tools, dtype: str):
    """The norm from the partial sums and the gradients' scaling factor, in `dtype`. `result`: another place for the norm,
    or None."""
    view, convert = tools.view(np.dtype(dtype)), np.dtype(dtype).type
    epsilon = convert(EPSILON)

    def kernel(count, partials, slots, result):
        square = 0.0
        for i in range(count):
            square += partials[i]
        norm = convert(math.sqrt(square))
        factor = convert(slots[MAX_NORM]) / (norm + epsilon)
        slots[NORM] = norm
        if result != 0:
            view(result)[0] = norm
        slots[FACTOR] = convert(1) if factor > convert(1) else factor
        if slots[FINITE] != 0.0 and norm - norm != convert(0):
            slots[STOPPED] = NOT_FINITE
            return 1
        return 0

    return kernel


@args(rows=Size, elements=Size, table=Words, width=Size, slots=In(float64))
def _build_scale(tools, dtype: str):
    """g[i] = clip(g[i])·factor. `elements`: in all rows of the table."""
    dt = np.dtype(dtype)
    view, convert = tools.view(dt), dt.type
    find, clip = tools.inline(row_of), tools.lift(clipped, dt)

    @tools.inline
    def scale(g, start, stop, bound, factor):
        for i in range(start, stop):
            g[i] = clip(g[i], bound, factor)

    def kernel(rows, elements, table, width, slots, chunk):
        low, high = chunk * CHUNK, min(elements, (chunk + 1) * CHUNK)
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
    """Clip gradients while updating: by their norm, by value, or both (first by value)."""

    max_norm: float | None = None
    value: float | None = None
    #: Whether a non-finite norm, or without a norm a non-finite gradient, stops the program.
    finite: bool = False
    #: Whether clipped gradients are written back.
    keep: bool = True

    @property
    def clips(self) -> bool:
        """Whether gradients change."""
        return self.max_norm is not None or self.value is not None


class Gradients:
    """Gradients as a table, for their norm and clipping in place."""

    def __init__(self, arrays: Sequence):
        self.arrays = arrays
        self.slots = np.array(UNCLIPPED)
        self.dtype = float64 if any(x.dtype == float64 for x in arrays) else float32
        self._parts = []
        for dtype in (float32, float64):
            members = [x for x in arrays if x.dtype == dtype]
            if members:
                table = np.zeros((len(members), 3), np.int64)
                table[:, SIZE] = [x.size for x in members]
                table[:, GRADIENT] = [address(x) for x in members]
                self._parts.append((dtype, table, lay_out(table)))

    @classmethod
    def of(cls, arrays: Sequence, written: bool) -> Gradients | None:
        """None if a kernel is missing, an array is not dense, or, if `written`, arrays overlap."""
        for x in arrays:
            if type(x) is not np.ndarray or x.dtype not in (float32, float64):
                return None
            flags = x.flags
            if not (flags.forc and flags.aligned) or (written and not flags.writeable):
                return None
        if not arrays or (written and not disjoint(arrays)):
            return None
        gradients = cls(arrays)
        kernels = [TOTAL_KERNELS[gradients.dtype]]
        for dtype, _, _ in gradients._parts:
            kernels += (NORM_KERNELS[dtype], _SCALE[dtype], ALL_FINITE_KERNELS[dtype])
        return gradients if all(kernel.ready() for kernel in kernels) else None

    def norm(self, max_norm: float = math.inf):
        """The 2-norm of all gradients, 0-d. Also sets `factor`, which scales it down to `max_norm`."""
        self.slots[MAX_NORM] = max_norm
        counts = [-(-elements // CHUNK) for _, _, elements in self._parts]
        partials = np.zeros(max(sum(counts), 1))
        begin = 0
        for (dtype, table, elements), count in zip(self._parts, counts):
            if count:
                threadpool.launch(
                    NORM_KERNELS[dtype], count, rows=len(table), elements=elements, table=table, width=3, slots=self.slots,
                    partials=partials[begin:],
                )  # fmt: skip
            begin += count
        TOTAL_KERNELS[self.dtype].run(count=sum(counts), partials=partials, slots=self.slots, result=None)
        return np.asarray(self.slots[NORM]).astype(self.dtype)

    def finite(self) -> bool:
        """Whether no gradient has a NaN or infinity."""
        return not any(
            elements
            and threadpool.launch(
                ALL_FINITE_KERNELS[dtype], -(-elements // CHUNK), rows=len(table), elements=elements, table=table,
                width=3,
                slots=self.slots,
            )
            for dtype, table, elements in self._parts
        )  # fmt: skip

    @property
    def factor(self) -> float:
        return float(self.slots[FACTOR])

    def scaling(self, value: float | None = None):
        """Clipping in place by value, or by the norm's factor, as (function, its arguments)."""
        if value is not None:
            self.slots[:] = UNCLIPPED
            self.slots[BOUND] = value
        self._words = [
            _SCALE[dtype].packed(rows=len(table), elements=elements, table=table, width=3, slots=self.slots)
            for dtype, table, elements in self._parts
        ]
        return threadpool.prepared(
            [
                (_SCALE[dtype], address(words), -(-elements // CHUNK))
                for (dtype, _, elements), words in zip(self._parts, self._words)
            ]
        )
