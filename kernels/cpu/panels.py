"""Matrices packed for the register tile, once for all products that read them."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.codegen.kernel import Address, Operand, Size, Words, args
from deepcore.kernels.cpu import gemm, gemm_tables
from deepcore.kernels.cpu.conv_tile import columns
from deepcore.kernels.cpu.reductions import kernels_of
from deepcore.kernels.plan import Launch


@args(source=Address, out=Address, offsets=Words, each=Size, steps=Size, along=Size, across=Size, units=Size)
def _panels(tools, dtype: str):
    """Matrices as panels (matrices, panels, steps, columns), a panel a chunk; the last of a matrix ends with zeros.

    Step k of unit j of matrix i is at source + offsets[i · each] + k · along + j · across, in bytes.
    """
    size, width, zero = np.dtype(dtype).itemsize, columns(dtype), np.dtype(dtype).type(0)
    pack, _ = gemm.packer(tools, dtype, dtype, gemm_tables.own())
    view = tools.view(np.dtype(dtype))

    def kernel(source, out, offsets, each, steps, along, across, units, chunk):
        panels = -(-units // width)
        matrix = chunk // panels
        first = (chunk - matrix * panels) * width
        to, count = out + chunk * steps * width * size, min(width, units - first)
        # A transposition writes whole vectors, into the panel's own columns: cleared behind it.
        pack(source + offsets[matrix * each] + first * across, along, across, steps, count, to, width * size)
        for k in range(steps):
            line = view(to + k * width * size)
            for j in range(count, width):
                line[j] = zero
        return 0

    return kernel


_PANELS = kernels_of("panels", _panels)


def ready(dtype) -> bool:
    return dtype in _PANELS and gemm_tables.table() is not None and _PANELS[dtype].ready()


def launch(dtype, source: Operand, out: Operand, offsets: np.ndarray, steps: int, units: int, along: int, across: int):
    """(the launch that packs the matrices at `offsets`, a column of a table, the bytes that it writes)."""
    each = offsets.strides[0] // offsets.itemsize
    chunks, width = len(offsets) * -(-units // columns(dtype)), columns(dtype)
    pack = Launch(
        _PANELS[dtype], chunks, source=source, out=out, offsets=offsets, each=each, steps=steps, along=along, across=across,
        units=units,
    )  # fmt: skip
    return pack, chunks * steps * width * dtype.itemsize
