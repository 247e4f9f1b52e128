"""Shared parts of CUDA's row kernels.

A warp works on a row of up to 1,024 numbers, a block on a longer one. Each lane takes every 32nd or 256th number, and the
lanes' results are combined in a butterfly, so the order of every sum depends on shapes alone. Nothing is atomic.
"""

from __future__ import annotations

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for

#: The longest row that one warp works on.
WARP_ROW = 1024

FLOATS = (float32, float64)
_GROUPS = (32, THREADS)


def add(a, b):
    return a + b


def larger(a, b):
    """The larger of two; a NaN is larger than any number."""
    return a if (a > b) | (a != a) else b


def reduction(tools, combine, dtype, group: int):
    if group == tools.WARP:
        return tools.warp_reduction(combine, dtype)
    return tools.block_reduction(combine, dtype, group)


def by_dtype_and_group(name: str, build, *parameters) -> dict:
    """The kernels of a row function by dtype and threads per row."""
    return {
        (d, group): Kernel(f"{name}_{d.name}_{group}", build, d.name, group, *parameters)
        for d in FLOATS
        for group in _GROUPS
    }


def select_kernel(kernels: dict, dtype, n: int):
    """The kernel for rows of n numbers, or None."""
    return kernels.get((dtype, 32 if n <= WARP_ROW else THREADS))


def run_rows(xp, kernel, /, rows: int, **arguments) -> None:
    rows_per_block = max(1, THREADS // kernel.parameters[1])
    xp.launch(kernel, blocks_for(xp, rows, rows_per_block), rows=rows, **arguments)
