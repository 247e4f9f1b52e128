"""Kernels for the CPU. Serial, and without fused or reordered arithmetic: the thread count cannot change a bit."""

from __future__ import annotations

import functools

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels import lift, register, scalar

# Below this many elements the reference takes less time than a call is worth loading numba for.
_MIN_ELEMENTS = 4096
# Words drawn in this process before numba is loaded for them (about 30 ms of the reference's time).
_MIN_WORDS = 1 << 20

_words_drawn = 0


def _large_float(x) -> bool:
    return x.size >= _MIN_ELEMENTS and (x.dtype == float32 or x.dtype == float64)


@register("erf", "cpu", when=_large_float)
def erf(xp, x):
    return _map(scalar.erf, x)


def _map(function, x):
    x = np.require(x, requirements=("C", "A"))
    out = np.empty(x.shape, x.dtype)
    lift.elementwise(function, x.dtype)(x.reshape(-1), out.reshape(-1))
    return out


def _many_words(seed: int, stream: int, start: int, blocks: int) -> bool:
    # Integers are the same whichever runs, so this choice, unlike the others, may depend on the past.
    global _words_drawn
    _words_drawn += 4 * blocks
    return _words_drawn >= _MIN_WORDS


@register("philox", "cpu", when=_many_words)
def philox(xp, seed: int, stream: int, start: int, blocks: int):
    out = np.empty((blocks, 4), np.uint32)
    _philox_loop()(np.uint64(seed), np.uint64(stream), np.uint64(start), out)
    return out.reshape(-1)


@functools.cache
def _philox_loop():
    block = lift.lift(scalar.philox)
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)

    def loop(seed, stream, start, out):
        for i in range(out.shape[0]):
            n = start + np.uint64(i)
            w = block(n & low, n >> shift, stream & low, stream >> shift, seed & low, seed >> shift)
            out[i, 0] = np.uint32(w[0])
            out[i, 1] = np.uint32(w[1])
            out[i, 2] = np.uint32(w[2])
            out[i, 3] = np.uint32(w[3])

    return lift.compile(loop, "void(uint64, uint64, uint64, uint32[:, ::1])")
