"""What row kernels of CUDA share.

A row of up to 1,024 numbers is a warp's, a longer one a block's. Within either, each lane works on every 32nd or 256th
number and the lanes' results meet in a butterfly, so shapes alone decide the order of every sum. Nothing is atomic.
"""

from __future__ import annotations

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.cuda.kernel import THREADS, Kernel, blocks_for

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


def by_dtype_and_group(name: str, types: tuple[str, ...], build, *parameters) -> dict:
    """The kernels of a row function: by dtype and by who works on a row. "T" in the types is the dtype."""
    return {
        (d, group): Kernel(
            f"{name}_{d.name}_{group}", tuple(t.replace("T", d.name) for t in types), build, d.name, group, *parameters
        )
        for d in FLOATS
        for group in _GROUPS
    }


ONE, TWO = ("T*", "T*", "int64", "int64"), ("T*", "T*", "T*", "int64", "int64")


def chosen(kernels: dict, dtype, n: int):
    """The kernel for rows of n numbers, or None."""
    return kernels.get((dtype, 32 if n <= WARP_ROW else THREADS))


def _launch(xp, kernel, group: int, rows: int, *arguments) -> None:
    xp.launch(kernel, blocks_for(xp, rows, max(1, THREADS // group)), *arguments)


def run_rows(xp, kernel, rows: int, *arguments) -> None:
    _launch(xp, kernel, kernel.parameters[1], rows, *arguments)
