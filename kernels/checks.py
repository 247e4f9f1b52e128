"""Checks that stop a program before it has changed anything."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.compiler import Kernel


def _build_finite(tools, dtype: str):
    """1 where a number is NaN or infinite. Words: its address."""
    view, zero = tools.view(np.dtype(dtype)), np.dtype(dtype).type(0)

    def kernel(a):
        value = view(a[0])[0]
        return 0 if value - value == zero else 1

    return kernel


FINITE = {dtype: Kernel(f"finite_{dtype.name}", _build_finite, dtype.name) for dtype in (float32, float64)}
