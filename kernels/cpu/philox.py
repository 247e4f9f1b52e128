"""Random words on the CPU, many at once."""

from __future__ import annotations

import sys

import numpy as np

from deepcore.kernels.codegen.jit import Kernel, address, signed_words
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import threadpool

# Words drawn in this process before the kernel is loaded for them: about 30 ms of the reference's time, or 1 ms where
# other kernels have brought in LLVM.
_MIN_WORDS, _FEW_WORDS = 1 << 20, 1 << 15

# Random blocks of one slice: some 20 to 50 µs. Up to a slice there is one thread.
_SLICE_BLOCKS = 1 << 13

_words_drawn = 0


def _philox(tools):
    """Blocks start, start + 1, … of Philox4x32-10. Words: seed, stream, start, number of blocks, out."""
    view, block = tools.view(np.dtype(np.uint32)), tools.lift(philox_block)

    def kernel(a, part):
        seed, stream, start, out = np.uint64(a[0]), np.uint64(a[1]), np.uint64(a[2]), view(a[4])
        for i in range(part * _SLICE_BLOCKS, min(a[3], (part + 1) * _SLICE_BLOCKS)):
            w = block(seed, stream, start + np.uint64(i))
            out[4 * i] = np.uint32(w[0])
            out[4 * i + 1] = np.uint32(w[1])
            out[4 * i + 2] = np.uint32(w[2])
            out[4 * i + 3] = np.uint32(w[3])
        return 0

    return kernel


_PHILOX = Kernel("philox", _philox)


def _many_words(seed: int, stream: int, start: int, blocks: int) -> bool:
    # Integers are the same whichever runs, so this choice, unlike the others, may depend on the past.
    global _words_drawn
    _words_drawn += 4 * blocks
    return _words_drawn >= (_FEW_WORDS if "llvmlite" in sys.modules else _MIN_WORDS)


@register("philox", "cpu", when=_many_words, needs_numba=False)
def philox(xp, seed: int, stream: int, start: int, blocks: int):
    if not _PHILOX.ready():
        return NotImplemented
    out = np.empty(4 * blocks, np.uint32)
    if blocks:
        words = signed_words(seed, stream, start)
        threadpool.complete(_PHILOX, -(-blocks // _SLICE_BLOCKS), *words, blocks, address(out))
    return out
