"""Checks that stop a program before it changes anything."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int32, int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Rest, Size, args
from deepcore.kernels.runtime.executable import Launch, Ref, Step

#: The exponent bits by dtype, all set only in infinities and NaNs.
EXPONENTS = {float16: 0x7C00, bfloat16: 0x7F80, float32: 0x7F80_0000, float64: 0x7FF0_0000_0000_0000}
#: Elements of a chunk; arrays up to this size are checked together.
_CHUNK = 1 << 15


@args(x=In)
def _build_finite(tools, dtype: str):
    """Status 1 if x[0] is NaN or infinite."""
    zero = np.dtype(dtype).type(0)

    def kernel(x):
        value = x[0]
        return 0 if value - value == zero else 1

    return kernel


@args(count=Size, arrays=Rest)
def _build_all_finite(tools, size: int, exponent: int):
    """Status 1 if one of `count` arrays, each an address and a number of elements, has a NaN or infinity.

    One array is checked in chunks, several in one chunk.
    """
    dt = np.dtype(f"u{size}")
    view, whole = tools.view(dt), dt.type
    mask, zero = whole(exponent), whole(0)

    def kernel(count, arrays, chunk):
        highest = zero
        for i in range(count):
            x, stop = view(arrays[2 * i]), arrays[2 * i + 1]
            if count == 1:
                stop = min(stop, (chunk + 1) * _CHUNK)
            for j in range(chunk * _CHUNK, stop):
                bits = whole(x[j] & mask)  # numba widens it
                highest = bits if bits > highest else highest
        return np.int64(highest == mask)

    return kernel


@args(x=In, n=Size, low=Size, high=Size)
def _build_within(tools, dtype: str):
    """Status 1 if an integer is outside [low, high)."""

    def kernel(x, n, low, high):
        wrong = 0
        for i in range(n):
            wrong |= np.int64((x[i] < low) | (x[i] >= high))
        return wrong

    return kernel


FINITE = {dtype: Kernel(f"finite_{dtype.name}", _build_finite, dtype.name) for dtype in (float32, float64)}
WITHIN = {dtype: Kernel(f"within_{dtype.name}", _build_within, dtype.name) for dtype in (int32, int64)}
_ALL_FINITE = {
    dtype: Kernel(f"all_finite_{dtype.name}", _build_all_finite, dtype.itemsize, exponent)
    for dtype, exponent in EXPONENTS.items()
}


def all_finite(refs: list[Ref]) -> Step:
    """A step that stops if any of these dense arrays has a NaN or infinity."""
    groups: dict = {}
    for ref in refs:
        size = ref.nbytes // ref.dtype.itemsize
        groups.setdefault((ref.dtype, ref if size > _CHUNK else None), []).append((ref, size))
    launches = []
    for (dtype, _), members in groups.items():
        kernel = _ALL_FINITE[dtype]
        words, places = [len(members)], {}
        for ref, size in members:
            places[len(words)] = ref.buffer, ref.offset
            words += [0, size]
        chunks = -(-members[0][1] // _CHUNK) if len(members) == 1 else 1
        launches.append(Launch(kernel, words, places, chunks))
    return Step("finite", refs, [], launches, kept=True)


def finite(ref: Ref) -> Step:
    """A step that stops if a number is NaN or infinite."""
    return Step("finite", [ref], [], [Launch(FINITE[ref.dtype], [0], {0: (ref.buffer, ref.offset)}, 1)], kept=True)


def within(ref: Ref, low: int, high: int) -> Step:
    """A step that stops if an array of integers has an element outside [low, high)."""
    words = [0, ref.nbytes // ref.dtype.itemsize, low, high]
    return Step("within", [ref], [], [Launch(WITHIN[ref.dtype], words, {0: (ref.buffer, ref.offset)}, 1)], kept=True)


def available(name: str, refs: list[Ref]) -> bool:
    """Whether a check supports these arrays."""
    if name == "all_finite":
        return all(map(is_checkable, refs))
    kernels: dict = FINITE if name == "finite" else WITHIN
    return all(ref.contiguous and ref.dtype in kernels and kernels[ref.dtype].ready() for ref in refs)


def is_checkable(ref: Ref) -> bool:
    """Whether `all_finite` supports an array."""
    return ref.dtype in _ALL_FINITE and ref.contiguous and ref.nbytes > 0 and _ALL_FINITE[ref.dtype].ready()
