"""The check of arrays for NaN and infinity on CUDA."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64, int64
from deepcore.kernels.codegen.kernel import Out, Size, Words, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.cuda.optimizer import TILE
from deepcore.kernels.cuda.rows import add
from deepcore.kernels.registry import register


@args(table=Words, rows=Size, tiles=Size, bad=Out(int64))
def _build_finite(tools, dtype: str):
    """bad[block]: the count of NaN and infinite numbers. A row of the table: first tile, size, address."""
    dt = np.dtype(dtype)
    at, zero = tools.at(dt), dt.type(0)
    thread, block, blocks = tools.thread(), tools.block(), tools.blocks()
    total_of = tools.block_reduction(add, int64, THREADS)

    def kernel(table, rows, tiles, bad):
        wrong = 0
        for tile in range(block(), tiles, blocks()):
            low, high = 0, rows
            while high - low > 1:
                middle = (low + high) // 2
                if table[middle * 3] <= tile:
                    low = middle
                else:
                    high = middle
            row = low * 3
            start = (tile - table[row]) * TILE
            stop = min(table[row + 1], start + TILE)
            g = at(table[row + 2])
            i = start + thread()
            while i < stop:
                if g[i] - g[i] != zero:
                    wrong += 1
                i += THREADS
        wrong = total_of(wrong)
        if thread() == 0:
            bad[block()] = wrong

    return kernel


_FINITE = {dtype: Kernel(f"gradients_finite_{dtype.name}", _build_finite, dtype.name) for dtype in (float32, float64)}


@register("all_finite", "cuda", needs_numba=False)
def all_finite(xp, *arrays):
    """One launch per dtype, and one synchronisation."""
    arrays = [x for x in arrays if x.size]
    for x in arrays:
        if (
            x.dtype not in _FINITE
            or not (x.flags.c_contiguous or x.flags.f_contiguous)
            or not xp.ready(_FINITE[x.dtype])
        ):
            return NotImplemented
    counts = []
    for dtype, kernel in _FINITE.items():
        members = [x for x in arrays if x.dtype == dtype]
        if members:
            table = np.zeros((len(members), 3), np.int64)
            table[:, 1:] = [(x.size, x.data.ptr) for x in members]
            tiles = -(-table[:, 1] // TILE)
            table[1:, 0] = np.cumsum(tiles)[:-1]
            total = int(tiles.sum())
            blocks = blocks_for(xp, total, 1)
            counts.append(xp.empty(blocks, dtype=int64))
            xp.launch(kernel, blocks, table=xp.from_host(table), rows=len(members), tiles=total, bad=counts[-1])
    return not any(bool(count.any()) for count in counts)
