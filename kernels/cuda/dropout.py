"""Dropout on CUDA, whose mask is drawn where it is used."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.cuda.kernel import THREADS, Kernel, blocks_for
from deepcore.kernels.cuda.philox import stream_words
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register


def _dropout(tools, dtype: str):
    """out[i] = x[i]·(scale where word i of the stream is below the threshold, else 0)."""
    dt = np.dtype(dtype)
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()
    draw, zero = tools.lift(philox_block), dt.type(0)

    def kernel(x, out, size, state, seed, stream, start, threshold, scale):
        seed, stream, start = seed + state[0], stream + state[1], start + state[2]
        for i in range(block() * THREADS + thread(), (size + 3) // 4, blocks() * THREADS):
            w = draw(np.uint64(seed), np.uint64(stream), np.uint64(start) + np.uint64(i))
            for j in range(4):
                if 4 * i + j < size:
                    out[4 * i + j] = x[4 * i + j] * (scale if np.int64(w[j]) < threshold else zero)

    return kernel


_DROPOUT = {
    d: Kernel(
        f"dropout_{d.name}", (f"{d.name}*", f"{d.name}*", "int64", "int64*", *["int64"] * 4, d.name), _dropout, d.name
    )
    for d in (float32, float64)
}


@register("dropout", "cuda", needs_numba=False)
def dropout(xp, input, *, seed, stream, position, p):
    kernel, threshold = _DROPOUT.get(input.dtype), round((1 - p) * 2**32)
    if kernel is None or not input.size or not 0 < threshold < 1 << 32 or not xp.ready(kernel):
        return NotImplemented
    x = xp.ascontiguousarray(input)
    out = xp.empty(x.shape, dtype=x.dtype)
    state = stream_words(xp, seed, stream, position)
    blocks = blocks_for(xp, -(-x.size // 4), THREADS)
    xp.launch(kernel, blocks, x, out, x.size, *state, threshold, x.dtype.type(1 / (1 - p)))
    return out
