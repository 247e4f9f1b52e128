"""Checks that stop a program before it has changed anything."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int32, int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.runtime.executable import Launch, Ref, Step

#: The bits of an exponent, all of them set in infinities and NaNs alone, by dtype.
EXPONENTS = {float16: 0x7C00, bfloat16: 0x7F80, float32: 0x7F80_0000, float64: 0x7FF0_0000_0000_0000}
#: Elements of a slice, and up to which arrays are looked at together.
_SLICE = 1 << 15


def _build_finite(tools, dtype: str):
    """1 where a number is NaN or infinite. Words: its address."""
    view, zero = tools.view(np.dtype(dtype)), np.dtype(dtype).type(0)

    def kernel(a):
        value = view(a[0])[0]
        return 0 if value - value == zero else 1

    return kernel


def _build_all_finite(tools, size: int, exponent: int):
    """1 where an array has a NaN or infinity. Words: how many arrays, then for each address and elements.

    One array is looked at in slices, several in one.
    """
    dt = np.dtype(f"u{size}")
    view, whole = tools.view(dt), dt.type
    mask, zero = whole(exponent), whole(0)

    def kernel(a, part):
        highest = zero
        for i in range(1, 2 * a[0], 2):
            x, stop = view(a[i]), a[i + 1]
            if a[0] == 1:
                stop = min(stop, (part + 1) * _SLICE)
            for j in range(part * _SLICE, stop):
                bits = whole(x[j] & mask)  # numba widens it
                highest = bits if bits > highest else highest
        return np.int64(highest == mask)

    return kernel


def _build_within(tools, dtype: str):
    """1 where a whole number is below `low` or not below `high`. Words: address, elements, low, high."""
    view = tools.view(np.dtype(dtype))

    def kernel(a, part):
        x, low, high, wrong = view(a[0]), a[2], a[3], 0
        for i in range(a[1]):
            wrong |= np.int64((x[i] < low) | (x[i] >= high))
        return wrong

    return kernel


FINITE = {dtype: Kernel(f"finite_{dtype.name}", _build_finite, dtype.name) for dtype in (float32, float64)}
WITHIN = {dtype: Kernel(f"within_{dtype.name}", _build_within, dtype.name) for dtype in (int32, int64)}
_ALL_FINITE = {
    dtype: Kernel(f"all_finite_{dtype.name}", _build_all_finite, dtype.itemsize, exponent)
    for dtype, exponent in EXPONENTS.items()
}


def all_finite(refs: list[Ref]) -> Step | None:
    """A step that stops where any of these dense arrays has a NaN or infinity; None where it cannot be had."""
    groups: dict = {}
    for ref in refs:
        size = ref.nbytes // ref.dtype.itemsize
        groups.setdefault((ref.dtype, ref if size > _SLICE else None), []).append((ref, size))
    launches = []
    for (dtype, _), members in groups.items():
        kernel = _ALL_FINITE[dtype]
        if not kernel.ready():
            return None
        words, places = [len(members)], {}
        for ref, size in members:
            places[len(words)] = ref.buffer, ref.offset
            words += [0, size]
        slices = -(-members[0][1] // _SLICE) if len(members) == 1 else 1
        launches.append(Launch(kernel, words, places, slices))
    return Step("finite", refs, [], launches, kept=True)


def looked_at(ref: Ref) -> bool:
    """Whether `all_finite` takes it."""
    return ref.dtype in _ALL_FINITE and ref.contiguous and ref.nbytes > 0
