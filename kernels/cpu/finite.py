"""The check of gradients for NaN and infinity on the CPU."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import InOut, Size, Words, args
from deepcore.kernels.cpu.checks import EXPONENTS
from deepcore.kernels.cpu.parameter_table import CHUNK, NOT_FINITE, STOPPED, row_of


@args(rows=Size, elements=Size, table=Words, width=Size, slots=InOut(float64))
def _build_finite(tools, dtype: str, exponent: int):
    """Stops if a gradient has a NaN or infinity. `elements`: of all rows of the table."""
    dt = np.dtype(f"u{np.dtype(dtype).itemsize}")
    view, whole = tools.view(dt), dt.type
    find, mask, zero = tools.inline(row_of), whole(exponent), whole(0)

    @tools.inline
    def highest(g, start, stop):
        top = zero
        for i in range(start, stop):
            bits = whole(g[i] & mask)  # numba widens it
            top = bits if bits > top else top
        return top

    def kernel(rows, elements, table, width, slots, chunk):
        low, high = chunk * CHUNK, min(elements, (chunk + 1) * CHUNK)
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
