"""Dropout on CUDA, with the mask drawn in the kernel."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.kernel import Float, In, Out, Size, Words, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.cuda.philox import stream_words
from deepcore.kernels.math.philox import philox_block
from deepcore.kernels.registry import register


@args(
    x=In, out=Out, size=Size, state=Words, seed=Size, stream=Size, start=Size, threshold=Size, scale=Float
)  # fmt: skip
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


_DROPOUT = {d: Kernel(f"dropout_{d.name}", _dropout, d.name) for d in (float32, float64)}


@register("dropout", "cuda", needs_numba=False)
def dropout(xp, input, *, seed, stream, position, p):
    kernel, threshold = _DROPOUT.get(input.dtype), round((1 - p) * 2**32)
    if kernel is None or not input.size or not 0 < threshold < 1 << 32 or not xp.ready(kernel):
        return NotImplemented
    x = xp.ascontiguousarray(input)
    out = xp.empty(x.shape, dtype=x.dtype)
    blocks = blocks_for(xp, -(-x.size // 4), THREADS)
    draw = stream_words(xp, seed, stream, position)
    xp.launch(kernel, blocks, x=x, out=out, size=x.size, **draw, threshold=threshold, scale=1 / (1 - p))
    return out
