"""The check of gradients for NaN and infinity on the CPU."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.checks import EXPONENTS
from deepcore.kernels.cpu.parameter_table import NOT_FINITE, SLICE, STOPPED, row_of


def _build_finite(tools, dtype: str, exponent: int):
    """Stops where a gradient has a NaN or infinity. Words: rows, elements in all, table, its width, slots."""
    dt = np.dtype(f"u{np.dtype(dtype).itemsize}")
    view, words, floats, whole = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64)), dt.type
    find, mask, zero = tools.inline(row_of), whole(exponent), whole(0)

    @tools.inline
    def highest(g, start, stop):
        top = zero
        for i in range(start, stop):
            bits = whole(g[i] & mask)  # numba widens it
            top = bits if bits > top else top
        return top

    def kernel(a, part):
        rows, table, width, slots = a[0], words(a[2]), a[3], floats(a[4])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        row, top = find(table, width, rows, low), zero
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            top = max(top, highest(view(table[row * width + 2]), start, stop))
            row += 1
        if top == mask:
            slots[STOPPED] = NOT_FINITE
            return 1
        return 0

    return kernel


ALL_FINITE_KERNELS = {
    dtype: Kernel(f"gradient_finite_{dtype.name}", _build_finite, dtype.name, EXPONENTS[dtype])
    for dtype in (float32, float64)
}
