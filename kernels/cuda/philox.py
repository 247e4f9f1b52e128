"""Random words on CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.kernels.codegen.jit import signed_words
from deepcore.kernels.codegen.kernel import Out, Size, Words, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register


class Word(int):
    """A position in a random stream that kernels read from memory: `state` has seed, stream and position, `ahead` is an
    offset."""

    state: Any
    ahead: int

    @classmethod
    def of(cls, value: int, state, ahead: int) -> Word:
        self = cls(value)
        self.state, self.ahead = state, ahead
        return self


def stream_words(xp, seed: int, stream: int, position: int) -> dict[str, Any]:
    """The arguments that select random blocks: `state`, whose three words a kernel adds to seed, stream and start."""
    if isinstance(position, Word):
        return {"state": position.state, "seed": 0, "stream": 0, "start": position.ahead}
    return {"state": xp.no_words, **dict(zip(("seed", "stream", "start"), signed_words(seed, stream, position)))}


@args(out=Out(np.uint32), state=Words, seed=Size, stream=Size, start=Size, count=Size)
def _philox(tools):
    """Blocks start, start + 1, … of Philox4x32-10, as on the CPU."""
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()
    draw = tools.lift(philox_block)

    def kernel(out, state, seed, stream, start, count):
        seed, stream, start = seed + state[0], stream + state[1], start + state[2]
        for i in range(block() * THREADS + thread(), count, blocks() * THREADS):
            w = draw(np.uint64(seed), np.uint64(stream), np.uint64(start) + np.uint64(i))
            out[4 * i] = np.uint32(w[0])
            out[4 * i + 1] = np.uint32(w[1])
            out[4 * i + 2] = np.uint32(w[2])
            out[4 * i + 3] = np.uint32(w[3])

    return kernel


PHILOX = Kernel("philox", _philox)


@register("philox", "cuda", needs_numba=False)
def philox(xp, seed: int, stream: int, position: int, blocks: int):
    if not xp.ready(PHILOX):
        return NotImplemented
    out = xp.empty(4 * blocks, dtype=np.uint32)
    if blocks:
        draw = stream_words(xp, seed, stream, position)
        xp.launch(PHILOX, blocks_for(xp, blocks, THREADS), out=out, **draw, count=blocks)
    return out
