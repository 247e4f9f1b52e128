"""Random words on the CPU, many at once."""

from __future__ import annotations

import sys

import numpy as np

from deepcore.kernels.codegen.jit import Kernel, signed_words
from deepcore.kernels.codegen.kernel import Out, Size, args
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import threadpool

# Words drawn in this process before the kernel is loaded for them: about 30 ms of the reference's time, or 1 ms where
# other kernels have brought in LLVM.
_MIN_WORDS, _FEW_WORDS = 1 << 20, 1 << 15

# Random blocks of one slice: some 20 to 50 µs. Up to a slice there is one thread.
_SLICE_BLOCKS = 1 << 13

_words_drawn = 0


@args(seed=Size, stream=Size, start=Size, blocks=Size, out=Out(np.uint32))
def _philox(tools):
    """Blocks start, start + 1, … of Philox4x32-10."""
    block = tools.lift(philox_block)

    def kernel(seed, stream, start, blocks, out, chunk):
        for i in range(chunk * _SLICE_BLOCKS, min(blocks, (chunk + 1) * _SLICE_BLOCKS)):
            w = block(np.uint64(seed), np.uint64(stream), np.uint64(start) + np.uint64(i))
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
        seed, stream, start = signed_words(seed, stream, start)
        chunks = -(-blocks // _SLICE_BLOCKS)
        threadpool.complete(_PHILOX, chunks, seed=seed, stream=stream, start=start, blocks=blocks, out=out)
    return out
