"""Matrix products on the CPU: register tiles over packed or plain operands, in chunks that depend on the shapes alone.

Each element of the result is one chain of fused multiply-adds per block of k; the blocks' sums are added in order, and
the blocks depend on k alone. So the bits are the same for every tile, operand layout and number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64
from deepcore.kernels import plan as plans
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, Code, Float, Operand, Size, Type, Words, args
from deepcore.kernels.cpu import elementwise, gemm_tables, gemm_tile
from deepcore.kernels.plan import Launch as PlanLaunch
from deepcore.kernels.plan import Lowering, Plan, Spec, contiguous, interned, spec_of
from deepcore.kernels.registry import register
from deepcore.kernels.runtime.executable import Launch

# The words of a plan, constant across calls: sizes in elements, strides in bytes.
(_M, _N, _K, _ARS, _AKS, _BKS, _BJS, _LDO, _BATCHES, _ROWS, _COLUMNS, _DOWN, _ACROSS, _KBLOCK, _ABLOCK) = range(15)
(_PACK_A, _PACK_B, _PANELS, _PACKED, _PART, _LDR, _LDP, _A_SPACE, _A_PACKED, _A_CHUNK) = range(15, 25)
(_TRANSPOSED, _T_SPACE) = range(25, 27)
#: The arguments of all product kernels. `space`: for packed operands; `pre`: where the activation's input is stored;
#: `other`: the activation's second operand. A missing operand is None.
_PRODUCT: dict[str, Type] = {
    "plan": Words, "a": Address, "b": Address, "out": Address, "space": Address, "activation": Code, "bias": Address,
    "residual": Address, "pre": Address, "scaled": Size, "scale": Float, "other": Address,
}  # fmt: skip
_PLAN, _OUT, _ACTIVATION, _PRE, _OTHER = map(list(_PRODUCT).index, ("plan", "out", "activation", "pre", "other"))

# Up to this many rows of A, row-major B is summed row by row, in pieces of this many bytes.
_FEW_ROWS_MAX, _SUM_BYTES = 4, 1 << 13
# Rows to prefetch ahead in unpacked B, in blocks of at least this many steps of k; in shorter ones the next columns.
_ROWS_AHEAD, _LONG_STEPS = 12, 96
# 16-bit elements that a chunk converts.
_CONVERT_CHUNK = 1 << 15
# Columns of column-major B per call of `dotter`.
_DOTS = 4
# Steps of k up to which a chunk finishes a panel of B before the next: in longer ones the panel's lines lie too far apart.
_PANEL_STEPS = 1024


def heights(tools, shape: gemm_tables.Table):
    """height(left): the height of the next tile when `left` rows remain."""
    tall, low = shape.heights

    @tools.inline
    def height(left):
        return low if left <= low or tall < left <= 2 * low else tall

    return height


@functools.cache
def packer(tools, dtype: str, source: str, shape: gemm_tables.Table):
    """(pack, pack_rows): pack(from, sk, sj, k, width, to, stride) copies element (p, j) at from + p·sk + j·sj to to + p·stride + j·size.

    It may write up to a vector, less one element, past the last element. pack_rows(from, ars, aks, k, rows, to) packs
    the rows of each tile into a panel, so that a tile reads contiguous memory.
    """
    size = np.dtype(dtype).itemsize
    n = shape.bytes // size
    s = gemm_tile.Shape(dtype, n)
    step = gemm_tile.source_size(s, source)
    move_two, move_one = gemm_tile.mover(tools, s, 2, source), gemm_tile.mover(tools, s, 1, source)
    masked = gemm_tile.masked_mover(tools, s, 1, source)
    tall, low = shape.heights
    move_tall, move_low = gemm_tile.mover(tools, s, tall / n, source), gemm_tile.mover(tools, s, low / n, source)
    transpose = gemm_tile.transposer(tools, s, source)
    move_element = gemm_tile.mover(tools, s, 1 / n, source)

    @tools.function
    def pack(start, sk, sj, k, width, to, stride):
        if sj == step and width == tall:
            for p in range(k):
                move_tall(start + p * sk, to + p * stride)
        elif sj == step and width == low:
            for p in range(k):
                move_low(start + p * sk, to + p * stride)
        elif sj == step:
            j = 0
            while j + n <= width:
                if j + 2 * n <= width:
                    for p in range(k):
                        move_two(start + p * sk + j * step, to + p * stride + j * size)
                    j += 2 * n
                else:
                    for p in range(k):
                        move_one(start + p * sk + j * step, to + p * stride + j * size)
                    j += n
            if j < width:
                for p in range(k):
                    masked(start + p * sk + j * step, to + p * stride + j * size, width - j)
        else:
            # Backwards, as a vector may overlap the next line.
            for j in range((width - 1) // n * n, -1, -n):
                rows = min(n, width - j)
                if k >= n:
                    p = 0
                    while p < k:
                        p = min(p, k - n)  # the last block overlaps the one before
                        transpose(start + p * sk + j * sj, sj, rows, to + p * stride + j * size, stride)
                        p += n
                else:
                    for i in range(rows):
                        for p in range(k):
                            move_element(start + (j + i) * sj + p * step, to + p * stride + (j + i) * size)

    height_of = heights(tools, shape)

    @tools.function
    def pack_rows(start, ars, aks, k, rows, to):
        i = 0
        while i < rows:
            height = height_of(rows - i)
            pack(start + i * ars, aks, ars, k, min(height, rows - i), to + i * k * size, height * size)
            i += height

    return pack, pack_rows


def _finisher(tools, dtype: str):
    """finish(p, i, first, width, out, other, activation, …): the epilogue of a row of a chunk at `out`."""
    size, (load, store) = np.dtype(dtype).itemsize, tools.elements(np.dtype(dtype))
    call, call_space = tools.call_kernel(), gemm_tile.space(tools, 5 * 8)
    words, view = tools.words(), tools.view(np.dtype(dtype))

    @tools.inline
    def finish(p, i, first, width, out, other, activation, bias, residual, pre, scaled, scale):
        to = out + first * size
        row = view(to)
        if scaled:
            for j in range(width):
                store(row, j, load(row, j) * scale)
        if bias:
            addend = view(bias + first * size)
            for j in range(width):
                store(row, j, load(row, j) + load(addend, j))
        if residual:
            addend = view(residual + i * p[_LDR] + first * size)
            for j in range(width):
                store(row, j, load(row, j) + load(addend, j))
        if pre:
            copy = view(pre + i * p[_LDP] + first * size)
            for j in range(width):
                store(copy, j, load(row, j))
        if activation:
            e = words(call_space())
            e[0], e[1], e[2], e[3], e[4] = to, to, width, 0, 0
            if other:
                e[1], e[2], e[3] = other + first * size, to, width
            call(activation, e, 0)

    return finish


@args(**_PRODUCT)
def _product_chunk(tools, dtype: str, table: gemm_tables.Table | None = None, source: str = ""):
    """One block of rows and columns of out, in the tiles of `table` (None: this processor's).

    `source`: the type of A and B, where it is not `dtype`; such operands are packed, here or before.
    """
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    n = shape.bytes // size
    columns = shape.across * n
    tall, low = shape.heights
    s = gemm_tile.Shape(dtype, n)
    pack, pack_rows = packer(tools, dtype, source, shape)
    big = gemm_tile.tile(tools, s, tall, shape.across)
    small = gemm_tile.tile(tools, s, low, shape.across)
    panels = gemm_tile.tile(tools, s, tall, shape.across, panel=True)
    move_masked = gemm_tile.masked_mover(tools, s, shape.across)
    panel_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * columns * size)
    block_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * (gemm_tables.MAX_ROWS + tall) * size + shape.bytes)
    tile_space = gemm_tile.space(tools, tall * columns * size)
    words, view = tools.words(), tools.view(np.dtype(dtype))
    load, store = tools.elements(np.dtype(dtype))
    height_of = heights(tools, shape)
    finish, stride = _finisher(tools, dtype), columns * size

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        m, k, kblock, ablock = p[_M], p[_K], p[_KBLOCK], p[_ABLOCK]
        has_epilogue = activation != 0 or bias != 0 or residual != 0 or pre != 0 or scaled != 0
        ars, aks, bks, bjs, ldo = p[_ARS], p[_AKS], p[_BKS], p[_BJS], p[_LDO]
        per = p[_DOWN] * p[_ACROSS]
        batch = chunk // per
        chunk -= batch * per
        packed = space + batch * p[_PACKED]
        down = chunk // p[_ACROSS]
        packed_a = space + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_CHUNK] * k
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
            residual += offsets[2] if residual else 0
            pre += offsets[2] if pre else 0
            other += offsets[2] if other else 0
        final = out
        across = chunk % p[_ACROSS]
        first_row, first_column = down * p[_ROWS], across * p[_COLUMNS]
        end_row, end_column = min(m, first_row + p[_ROWS]), min(p[_N], first_column + p[_COLUMNS])
        panel, block, tile_at = panel_space(), block_space(), tile_space()
        if p[_TRANSPOSED]:  # the transpose is computed, then transposed at the end
            out = space + p[_T_SPACE] + batch * m * ldo
        # Panel by panel where A is small and B is unpacked; else block of k by block of k.
        by_panel = p[_PACK_A] == 0 and end_row - first_row <= ablock and k <= _PANEL_STEPS
        outer, inner = -(-k // kblock), -(-(end_column - first_column) // columns)
        if by_panel:
            outer, inner = inner, outer
        for major in range(outer):
            for i0 in range(first_row, end_row, ablock):
                i1 = min(end_row, i0 + ablock)
                if p[_PACK_A] == gemm_tables.BY_CHUNK:
                    k0 = major * kblock
                    pack_rows(a + i0 * ars + k0 * aks, ars, aks, min(kblock, k - k0), i1 - i0, block)
                elif p[_PACK_A]:
                    block = packed_a + major * kblock * p[_A_CHUNK]
                for minor in range(inner):
                    k0, j = (minor * kblock, major * columns) if by_panel else (major * kblock, minor * columns)
                    j += first_column
                    steps = min(kblock, k - k0)
                    a0, a_row, a_step = a + i0 * ars + k0 * aks, ars, aks
                    width = min(columns, end_column - j)
                    b0, b_step = b + k0 * bks + j * bjs, bks
                    # Too wide a stride for hardware prefetchers.
                    ahead = _ROWS_AHEAD * bks if steps >= _LONG_STEPS else stride
                    if p[_PACK_B] == gemm_tables.PACKED_BEFORE:
                        b0 = packed + (k0 * p[_PANELS] + (j // columns) * steps) * stride
                        b_step, ahead = stride, 8 * stride
                    elif p[_PACK_B] == gemm_tables.BY_CHUNK or width < columns:
                        pack(b0, bks, bjs, steps, width, panel, stride)
                        b0, b_step, ahead = panel, stride, 8 * stride
                    i = i0
                    while i < i1:
                        left = i1 - i
                        height = height_of(left)
                        rows = min(height, left)
                        out_at = out + i * ldo + j * size
                        source, lds, to, ldt = out_at, ldo, out_at, ldo
                        if width < columns:
                            source, lds, to, ldt = tile_at, stride, tile_at, stride
                            if k0:
                                for q in range(rows):
                                    move_masked(out_at + q * ldo, tile_at + q * stride, width)
                        at = a0 + (i - i0) * a_row
                        if p[_PACK_A]:
                            at, a_row, a_step = block + (i - i0) * steps * size, size, height * size
                        tile_stride = height * (steps * size if p[_PACK_A] else ars)
                        single = width < columns or height == low
                        count = 1 if single else max(1, (left - 2 * low - 1) // tall)
                        tile_args = (
                            at, a_row, a_step, b0, b_step, steps, rows, source, lds, to, ldt, k0, ahead, count,
                            tile_stride,
                        )  # fmt: skip
                        if rows == tall and p[_PACK_A]:
                            panels(*tile_args)
                        elif height == tall:
                            big(*tile_args)
                        else:
                            small(*tile_args)
                        if width < columns:
                            for q in range(rows):
                                move_masked(tile_at + q * stride, out_at + q * ldo, width)
                        i += count * height
        if p[_TRANSPOSED]:
            for j in range(first_column, end_column):
                row = view(final + j * m * size)
                for i in range(m):
                    store(row, i, load(view(out + i * ldo), j))
            out, ldo = final, m * size
            first_row, end_row, first_column, end_column = first_column, end_column, 0, m
        # The epilogue runs while the chunk's rows are in the caches.
        if has_epilogue:
            for i in range(first_row, end_row):
                finish(
                    p, i, first_column, end_column - first_column, out + i * ldo, other + i * ldo if other else other,
                    activation, bias, residual, pre, scaled, scale,
                )  # fmt: skip
        return 0

    return kernel


@args(**_PRODUCT)
def _few_rows(tools, dtype: str, source: str = ""):
    """A block of columns of out, for A of a few rows and row-major B (of type `source`), both unpacked."""
    shape = gemm_tables.own()
    dt = np.dtype(dtype)
    size = dt.itemsize
    s = gemm_tile.Shape(dtype, shape.bytes // size)
    add_eight, add_one = gemm_tile.adder(tools, s, 8, source), gemm_tile.adder(tools, s, 1, source)
    step_b = gemm_tile.source_size(s, source)
    sums_space = gemm_tile.space(tools, _FEW_ROWS_MAX * _SUM_BYTES)
    words, view, zero = tools.words(), tools.view(dt), dt.type(0)

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        batch = chunk // p[_ACROSS]
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
        first = (chunk - batch * p[_ACROSS]) * p[_COLUMNS]
        count = min(p[_COLUMNS], p[_N] - first)
        sums = sums_space()
        for k0 in range(0, p[_K], p[_KBLOCK]):
            end = min(p[_K], k0 + p[_KBLOCK])
            for i in range(p[_M]):
                t = view(sums + i * _SUM_BYTES)
                for j in range(count):
                    t[j] = zero
            k = k0
            while k < end:
                at = b + k * p[_BKS] + first * step_b
                step = 8 if k + 8 <= end else 1
                for i in range(p[_M]):
                    x, t = a + i * p[_ARS] + k * p[_AKS], sums + i * _SUM_BYTES
                    if step == 8:
                        add_eight(at, p[_BKS], x, p[_AKS], t, count)
                    else:
                        add_one(at, p[_BKS], x, p[_AKS], t, count)
                k += step
            for i in range(p[_M]):
                t, o = view(sums + i * _SUM_BYTES), view(out + i * p[_LDO] + first * size)
                if k0:
                    for j in range(count):
                        o[j] = o[j] + t[j]
                else:
                    for j in range(count):
                        o[j] = t[j]
        return 0

    return kernel


@args(**_PRODUCT)
def _few_dots(tools, dtype: str, source: str = ""):
    """A block of columns of out, for A of a few contiguous rows and column-major B (of type `source`), as dot products."""
    shape = gemm_tables.own()
    size = np.dtype(dtype).itemsize
    dot = gemm_tile.dotter(tools, gemm_tile.Shape(dtype, shape.bytes // size), _DOTS, source)
    words = tools.words()

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        batch = chunk // p[_ACROSS]
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
        first = (chunk - batch * p[_ACROSS]) * p[_COLUMNS]
        end = min(p[_N], first + p[_COLUMNS])
        for j in range(first, end, _DOTS):
            for i in range(p[_M]):
                to = out + i * p[_LDO] + j * size
                dot(a + i * p[_ARS], b + j * p[_BJS], p[_BJS], p[_K], min(_DOTS, end - j), to)
        return 0

    return kernel


@args(**_PRODUCT)
def _pack_before(tools, dtype: str, table=None, source: str = ""):
    """Pack B (of type `source`) of all batches, a group of panels per chunk."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    columns = shape.across * shape.bytes // size
    pack, _ = packer(tools, dtype, source, shape)
    words, stride = tools.words(), columns * size

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        k, panels, kblock = p[_K], p[_PANELS], p[_KBLOCK]
        groups = -(-panels // p[_PART])
        batch = chunk // groups
        to = space + batch * p[_PACKED]
        if p[_BATCHES]:
            b += words(p[_BATCHES] + 24 * batch)[1]
        first = (chunk - batch * groups) * p[_PART]
        for k0 in range(0, k, kblock):
            steps = min(kblock, k - k0)
            for panel in range(first, min(panels, first + p[_PART])):
                j = panel * columns
                start = b + k0 * p[_BKS] + j * p[_BJS]
                width = min(columns, p[_N] - j)
                pack(start, p[_BKS], p[_BJS], steps, width, to + (k0 * panels + panel * steps) * stride, stride)
        return 0

    return kernel


@args(**_PRODUCT)
def _pack_rows_before(tools, dtype: str, table=None, source: str = ""):
    """Pack the rows of A (of type `source`) of one chunk of the product, of all batches, into panels."""
    shape = table or gemm_tables.own()
    _, pack_rows = packer(tools, dtype, source, shape)
    words = tools.words()

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        k, kblock, rows = p[_K], p[_KBLOCK], p[_ROWS]
        batch = chunk // p[_DOWN]
        down = chunk - batch * p[_DOWN]
        to = space + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_CHUNK] * k
        if p[_BATCHES]:
            a += words(p[_BATCHES] + 24 * batch)[0]
        first = down * rows
        for k0 in range(0, k, kblock):
            start = a + first * p[_ARS] + k0 * p[_AKS]
            pack_rows(start, p[_ARS], p[_AKS], min(kblock, k - k0), min(rows, p[_M] - first), to + k0 * p[_A_CHUNK])
        return 0

    return kernel


@args(source=Address, to=Address, count=Size)
def _convert(tools, dtype: str, widen: bool):
    """Convert 16-bit floats to float32 (`widen`), or round float32 to them."""
    n = gemm_tables.own().bytes // 4
    s = gemm_tile.Shape("float32", n)
    move = gemm_tile.mover(tools, s, 1, dtype) if widen else gemm_tile.narrower(tools, s, dtype)
    step, size = (2, 4) if widen else (4, 2)
    source_view, target_view = (tools.view(np.dtype(f"u{width}")) for width in (step, size))
    source_space, target_space = gemm_tile.space(tools, 4 * n), gemm_tile.space(tools, 4 * n)

    def kernel(source, to, count, chunk):
        if count < n:  # less than a vector
            vector, converted = source_space(), target_space()
            for i in range(n):
                source_view(vector)[i] = source_view(source)[min(i, count - 1)]
            move(vector, converted)
            for i in range(count):
                target_view(to)[i] = target_view(converted)[i]
            return 0
        for i in range(chunk * _CONVERT_CHUNK, min(count, (chunk + 1) * _CONVERT_CHUNK), n):
            at = min(i, count - n)  # the last vector overlaps the one before
            move(source + at * step, to + at * size)
        return 0

    return kernel


_HALVES = (float16, bfloat16)
_WIDEN = {d: Kernel(f"widen_{d.name}", _convert, d.name, True) for d in _HALVES}
_ROUND = {d: Kernel(f"round_{d.name}", _convert, d.name, False) for d in _HALVES}


def _for_each(name: str, build, *table) -> dict[np.dtype, Kernel]:
    """Kernels by the dtype of the operands; those of 16 bits are computed in float32."""
    kernels = {d: Kernel(f"{name}_{d.name}", build, d.name) for d in (float32, float64)}
    return kernels | {d: Kernel(f"{name}_{d.name}", build, "float32", *table, d.name) for d in _HALVES}


_PACKERS = _for_each("gemm_pack", _pack_before, None)
_ROW_PACKERS = _for_each("gemm_pack_rows", _pack_rows_before, None)
_FEW_ROWS = _for_each("gemm_few_rows", _few_rows)
_FEW_DOTS = _for_each("gemm_few_dots", _few_dots)
_KERNELS = _for_each("gemm", _product_chunk, None)
_PRODUCTS = {kernel for kernels in (_FEW_ROWS, _FEW_DOTS, _KERNELS) for kernel in kernels.values()}


# -- plans ------------------------------------------------------------------------------------------------------


class _Plan:
    """The blocking and packing of a product, from the shapes and strides of its operands."""

    __slots__ = (
        "address",
        "batch",
        "chunks",
        "dtype",
        "few",
        "half",
        "kernel",
        "packs",
        "rows",
        "shape",
        "space",
        "swap",
        "transposed",
        "words",
    )

    def __init__(self, a, b):
        m, k = a.shape[-2:]
        n = b.shape[-1]
        source, step = a.dtype, a.itemsize
        self.half = source in _HALVES
        dtype = float32 if self.half else source
        size = dtype.itemsize
        shape = gemm_tables.table()
        columns = shape.across * shape.bytes // size
        #: Whether a result of few columns is computed as its transpose, which fills the tiles.
        self.transposed = 1 < n < columns and m >= 4 * columns
        if self.transposed:
            a, b, m, n = b.swapaxes(-1, -2), a.swapaxes(-1, -2), n, m
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        batches = math.prod(batch)
        (ars, aks), (bks, bjs) = a.strides[-2:], b.strides[-2:]
        if n == 1:
            bjs = step if bks != step else bks
        if k == 1:
            bks = columns * step if bjs == step else step
        self.shape, self.dtype, self.batch = (*batch, n, m) if self.transposed else (*batch, m, n), dtype, batch
        kblock, panels = gemm_tables.steps(k), -(-n // columns)
        chunk_rows, chunk_columns, pack_b, pack_a = gemm_tables.chunks(shape, m, n, k, size, columns, bjs == step)
        down, across = -(-m // chunk_rows), -(-n // chunk_columns)
        if self.half:  # tiles read float32: packing widens
            pack_a = gemm_tables.BY_CHUNK
            pack_b = gemm_tables.BY_CHUNK if down == 1 else gemm_tables.PACKED_BEFORE
        if pack_b == gemm_tables.PACKED_BEFORE and not _PACKERS[source].ready():
            pack_b = gemm_tables.BY_CHUNK
        if pack_a and across > 1 and chunk_rows <= gemm_tables.MAX_ROWS and _ROW_PACKERS[source].ready():
            pack_a = gemm_tables.PACKED_BEFORE
        words = self.words = np.zeros(_T_SPACE + 1, np.int64)
        words[[_M, _N, _K, _ARS, _AKS, _BKS, _BJS, _LDO]] = m, n, k, ars, aks, bks, bjs, n * size
        ablock = min(chunk_rows, gemm_tables.MAX_ROWS) if pack_a else chunk_rows
        words[[_ROWS, _COLUMNS, _DOWN, _ACROSS]] = chunk_rows, chunk_columns, down, across
        words[[_KBLOCK, _ABLOCK]] = kblock, ablock
        words[[_PACK_A, _PACK_B, _PANELS, _PART]] = pack_a, pack_b, panels, 1
        words[[_LDR, _LDP]] = self.shape[-1] * size
        self.chunks = batches * down * across if k else 0
        self.few = None
        self.swap = n == 1 and m > 1  # matrix @ vector is computed as vector @ matrixᵀ
        if m <= _FEW_ROWS_MAX and n * k >= 1 << 16 and not self.transposed:
            if bjs == step:
                self.few = _FEW_ROWS[source]
                chunk_columns = -(-n // (columns * max(2, -(-n * size // _SUM_BYTES)))) * columns
            elif aks == step:
                self.few = _FEW_DOTS[source]
                chunk_columns = -(-n // (_DOTS * min(16, n * k * size >> 17))) * _DOTS
            if self.few and self.few.ready():
                words[_COLUMNS], words[_ACROSS] = chunk_columns, -(-n // chunk_columns)
                self.chunks = batches * int(words[_ACROSS])
            else:
                self.few = None
        if self.few and self.half:
            a = _Matrix(a.shape, tuple(2 * stride for stride in a.strides), float32)
            words[[_ARS, _AKS]] = a.strides[-2:]
        self.kernel = self.few or _KERNELS[source]
        self.space = 0
        #: Launches that pack operands before the product: kernels and their chunks.
        self.packs: list[tuple[Kernel, int]] = []
        if pack_b == gemm_tables.PACKED_BEFORE:
            copies = 1 if b.ndim == 2 else batches
            self.space = copies * panels * columns * k * size
            words[_PACKED] = self.space // copies if copies > 1 else 0
            words[_PART] = max(1, (1 << 15) // max(k * columns, 1))
            self.packs.append((_PACKERS[source], copies * -(-panels // int(words[_PART]))))
        if pack_a == gemm_tables.PACKED_BEFORE:
            copies = 1 if a.ndim == 2 else batches
            words[_A_SPACE] = self.space
            words[_A_CHUNK] = (chunk_rows + shape.heights[0]) * size
            self.space += copies * down * k * int(words[_A_CHUNK]) + shape.bytes
            words[_A_PACKED] = down * k * words[_A_CHUNK] if copies > 1 else 0
            self.packs.append((_ROW_PACKERS[source], copies * down))
        if self.transposed:
            words[_TRANSPOSED], words[_T_SPACE] = 1, -(-self.space // 64) * 64
            self.space = int(words[_T_SPACE]) + batches * m * n * size + shape.bytes
        if batch:
            table = np.zeros((batches, 3), np.int64)
            places = np.indices(batch).reshape(len(batch), -1)
            for column, x in enumerate((a, b)):
                lead = x.ndim - 2
                for axis in range(lead):
                    if x.shape[axis] > 1:
                        table[:, column] += places[len(batch) - lead + axis] * x.strides[axis]
            table[:, 2] = np.arange(batches) * (m * n * size)
            self.rows = table
            words[_BATCHES] = table.ctypes.data
        self.address = words.ctypes.data


def _plan_matrices(a, b) -> _Plan | None:
    choice = gemm_tables.table()
    if choice is None:
        return None
    kind = gemm_tables.kind(a.shape[-2], b.shape[-1], a.shape[-1])
    if any(i != j and 1 not in (i, j) for i, j in zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]))):
        return None  # batches do not broadcast: the reference raises
    return _Plan(a, b) if f"{a.dtype.name} {kind}" not in choice.blas and _KERNELS[a.dtype].ready() else None


class _Matrix(NamedTuple):
    """The layout of an operand of a product."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    def swapaxes(self, i: int, j: int) -> _Matrix:
        """The transpose of the last two axes."""
        swap = lambda t: (*t[:-2], t[-1], t[-2])
        return _Matrix(swap(self.shape), swap(self.strides), self.dtype)


def _matrices(x: Spec, y: Spec, transposed: bool) -> tuple[_Matrix, _Matrix] | None:
    """The operands of a product. `transposed`: x as one matrix of all its rows, and y's transpose; None if x has no such
    view."""
    a, b = _Matrix(x.shape, x.strides, x.dtype), _Matrix(y.shape, y.strides, y.dtype)
    if not transposed:
        return a, b
    if a.ndim > 2:
        rows, step = 1, 0
        for n, stride in zip(reversed(x.shape[:-1]), reversed(x.strides[:-1])):
            if n == 1:
                continue
            if rows == 1:
                step = stride
            elif stride != rows * step:
                return None
            rows *= n
        a = _Matrix((rows, x.shape[-1]), (step or x.shape[-1] * x.dtype.itemsize, x.strides[-1]), x.dtype)
    return a, b.swapaxes(-1, -2)


def _has_unit_stride(x: _Matrix) -> bool:
    """Whether one of the last two axes is contiguous, or the array is empty."""
    rows, columns = x.strides[-2:]
    return x.itemsize in (rows, columns) or 1 in x.shape[-2:] or 0 in x.shape


def _is_dense(x: Spec) -> bool:
    """Whether the elements fill a block of memory: row-major, or column-major in the last two axes."""
    if x.plain or x.strides[-2] >= x.strides[-1]:
        return x.plain
    step = x.dtype.itemsize
    for stride, n in sorted((stride, n) for n, stride in zip(x.shape, x.strides) if n != 1):
        if stride != step:
            return False
        step *= n
    return x.aligned


def copies(specs, transposed: bool = False) -> tuple[bool, ...] | None:
    """Which operands (x, y, then bias and residual) must be contiguous copies."""
    x, y = specs[:2]
    pair = _matrices(x, y, transposed)
    half = x.dtype in _HALVES
    needed = [not z.aligned or (half and not _is_dense(z)) for z in (x, y)]
    needed[0] |= pair is None or not _has_unit_stride(pair[0])
    needed[1] |= not _has_unit_stride(_Matrix(y.shape, y.strides, y.dtype))
    needed += [not z.plain for z in specs[2:]]
    return tuple(needed) if any(needed) else None


def planned(
    x: Spec, y: Spec, bias: Spec | None = None, residual: Spec | None = None, *, transposed=False, activation=None,
    scaled=False,
    slots=0, keep=False,
) -> Plan | bool | None:  # fmt: skip
    """The plan of f(scale·(x @ y) + bias + residual) with f = `activation`; `transposed`: y is transposed.

    `scaled`: scale is the first of `slots` operands behind the arrays. `keep`: the input of f is a second result.
    """
    specs = [z for z in (x, y, bias, residual) if z is not None]
    if any(z.dtype != x.dtype or not z.size for z in specs) or x.ndim < 2 or y.ndim < 2:
        return None
    if x.dtype not in _PACKERS or x.shape[-1] != y.shape[-1 if transposed else -2]:
        return None
    if copies(specs, transposed) is not None:
        return True
    plan = _plan_half if x.dtype in _HALVES else _plan_product
    return plan(x, y, bias, residual, transposed, activation, scaled, slots, keep)


def _plan_product(x, y, bias, residual, transposed, activation, scaled, slots, keep) -> Plan | None:
    """`planned`, where 16-bit operands have float32 addends and results."""
    pair = _matrices(x, y, transposed)
    plan = None if pair is None or (keep and activation is None) else _plan_matrices(*pair)
    if plan is None or not plan.chunks:
        return None
    swapped = plan.swap
    if swapped:
        assert pair is not None
        a, b = pair
        plan = _plan_matrices(b.swapaxes(-1, -2), a.swapaxes(-1, -2))
        if plan is None:
            return None
    arrays = 2 + (bias is not None) + (residual is not None)
    first, second = (1, 0) if plan.transposed != swapped else (0, 1)
    temporaries: list[int] = []

    def temporary(size: int) -> Operand:
        temporaries.append(size)
        return Operand(arrays + slots + len(temporaries) - 1)

    space = temporary(plan.space) if plan.space else None
    left, launches = Operand(first), []
    if plan.few and x.dtype in _HALVES:
        rows = (x, y)[first]
        left = temporary(4 * rows.size)
        launches.append(_convert_launch(_WIDEN[x.dtype], rows.size, Operand(first), left))
    out = Operand(arrays + slots + len(temporaries))
    pre = Operand(out.number + 1) if keep else None
    shape = plan.shape
    if transposed:
        shape = (*x.shape[:-1], y.shape[0])
    elif swapped:
        shape = (*plan.batch, x.shape[-2], 1)
    result = contiguous(shape, plan.dtype, x.backend)
    addends = Operand(2) if bias is not None else None, Operand(arrays - 1) if residual is not None else None
    epilogue: list[PlanLaunch] | None = []
    arguments: dict[str, Any] = dict.fromkeys(_PRODUCT) | {"scaled": scaled, "scale": 0.0}
    to = out
    if plan.few or swapped:  # kernels without an epilogue: separate launches
        if scaled:
            return None
        to = pre or out
        epilogue = _separate_launches(result, (bias, residual), addends, activation, to, out)
    else:
        kernel = None if activation is None else elementwise.MAPS[activation].kernel(plan.dtype, "v")
        if kernel is not None and not kernel.ready():
            return None
        arguments |= {"activation": kernel, "bias": addends[0], "residual": addends[1], "pre": pre}
        arguments["scale"] = Operand(arrays) if scaled else 0.0
    if epilogue is None:
        return None
    arguments |= {"plan": plan.words, "a": left, "b": Operand(second), "out": to, "space": space}
    kernels = [*plan.packs, (plan.kernel, plan.chunks)]
    launches += [PlanLaunch(kernel, chunks, **arguments) for kernel, chunks in kernels]
    return Plan(result, [*launches, *epilogue], tuple(temporaries), owner=plan, aux=[result] * keep)


def _separate_launches(result: Spec, specs, operands, activation, to: Operand, out: Operand) -> list[PlanLaunch] | None:
    """Launches that add arrays to a product in `to`, and write its activation to `out`; None if a kernel is missing."""
    launches = [
        elementwise.launch("add", (result, spec), (to, operand), to)
        for spec, operand in zip(specs, operands)
        if spec is not None
    ]
    if activation is not None:
        launches.append(elementwise.launch(activation, (result,), (to,), out))
    available = [launch for launch in launches if launch is not None]
    return available if len(available) == len(launches) else None


def _convert_launch(kernel: Kernel, size: int, source: Operand, to: Operand) -> PlanLaunch:
    return PlanLaunch(kernel, -(-size // _CONVERT_CHUNK), source=source, to=to, count=size)


def _plan_half(x, y, bias, residual, transposed, activation, scaled, slots, keep) -> Plan | None:
    """The product of float16 or bfloat16 operands, computed in float32 and rounded once."""
    dtype = x.dtype
    if gemm_tables.table() is None or not _WIDEN[dtype].ready() or not _ROUND[dtype].ready():
        return None
    wide_bias, wide_residual = (None if z is None else _widened_spec(z) for z in (bias, residual))
    plan = _plan_product(x, y, wide_bias, wide_residual, transposed, activation, scaled, slots, keep)
    if plan is None:
        return None
    # Temporaries: the addends in float32, those of the product, and its results in float32.
    addends = [z for z in (bias, residual) if z is not None]
    arrays, results = 2 + len(addends), len(plan.results)
    first_temporary = arrays + slots
    temporaries = [4 * z.size for z in addends] + [*plan.temporaries] + [4 * z.size for z in plan.results]
    out = first_temporary + len(temporaries)

    def renumber(operand: Operand) -> Operand:
        if operand.number < 2 or arrays <= operand.number < first_temporary:
            return operand
        return Operand(operand.number + (first_temporary - 2 if operand.number < arrays else len(addends)))

    launches = [
        _convert_launch(_WIDEN[dtype], z.size, Operand(2 + i), Operand(first_temporary + i))
        for i, z in enumerate(addends)
    ]
    launches += [launch.renumbered(renumber) for launch in plan.launches]
    launches += [
        _convert_launch(_ROUND[dtype], z.size, Operand(out - results + i), Operand(out + i))
        for i, z in enumerate(plan.results)
    ]
    result, *aux = [contiguous(z.shape, dtype, x.backend) for z in plan.results]
    return Plan(result, launches, tuple(temporaries), owner=plan.owner, aux=aux)


def _widened_spec(x: Spec) -> Spec:
    """The float32 spec of a dense 16-bit array."""
    return interned(x.shape, tuple(2 * stride for stride in x.strides), float32, x.plain, x.backend)


def with_epilogue(product_plan: Plan, kernel: Kernel, others: int = 0, keep: bool = False) -> Plan | None:
    """A product's plan with an elementwise kernel applied to its result; None if its kernel has no epilogue."""
    if all(product_plan.launches[-1].kernel is not k for k in _KERNELS.values()):
        return None
    return plans.with_epilogue(product_plan, kernel, others, keep)


def _cost(specs, params) -> float:
    x, y = specs[:2]
    batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return 2 * math.prod(batch) * math.prod(x.shape[-2:]) * y.shape[-1]


register("matmul", "cpu", needs_numba=False)(
    Lowering(
        "matmul",
        lambda specs, params: planned(*specs),
        copies=lambda specs, params: copies(specs),
        cost=_cost,
        epilogue=with_epilogue,
    )
)


def _planned_product(specs, params) -> Plan | bool | None:
    x, y, *addends = specs
    bias = addends.pop(0) if params["biased"] else None
    residual = addends.pop(0) if params["added"] else None
    return planned(
        x, y, bias, residual, activation=params["activation"], scaled=params["scaled"], slots=1, keep=params["keep"]
    )  # fmt: skip


_KEYS = ("biased", "added", "scaled", "activation", "keep")
#: The lowering of `product`.
PRODUCT = Lowering("product", _planned_product, _KEYS, copies=lambda specs, params: copies(specs), cost=_cost)


def product(a, b, out=None, *, bias=None, activation=None, residual=None, scale=None, pre=None):
    """f(scale·(a @ b) + bias + residual), f being `activation`, an elementwise op by name; rounded after each of these.

    a (…, m, k) and b (…, k, n) are arrays of one floating dtype; out, residual and pre are (…, m, n) and C-contiguous,
    bias is (n,). `pre`, if given, receives the input of f. float16 and bfloat16 are computed in float32 throughout, and
    rounded once. NotImplemented if there is no kernel.
    """
    keep = pre is not None and activation is not None
    params = {
        "biased": bias is not None, "added": residual is not None, "scaled": scale is not None, "activation": activation,
        "keep": keep,
    }  # fmt: skip
    arrays = [x for x in (a, b, bias, residual) if x is not None]
    specs = [spec_of(x, None) for x in arrays]
    key = tuple(specs), PRODUCT.key(params)
    plan = PRODUCT.plans.get(key)
    if plan is None:
        plan = PRODUCT.plan(key, specs, params)
    if plan is True:
        copy_flags = PRODUCT.copies(specs, params) or ()
        arrays = [np.require(x, requirements="CA") if copy else x for x, copy in zip(arrays, copy_flags)]
        specs = [spec_of(x, None) for x in arrays]
        plan = PRODUCT.plan((tuple(specs), key[1]), specs, params)
    if not isinstance(plan, Plan):
        return NotImplemented
    result = plan.run(arrays, [1.0 if scale is None else float(scale)], out, *([pre] if keep else []))
    if keep:
        return result[0]
    if pre is not None:
        pre[...] = result
    return result


def finished(launches: list[Launch], kernel: Kernel, out, result, *, keep: bool, other=None) -> list[Launch] | None:
    """A product's launches, changed to apply an elementwise kernel to its result `out` and write `result`, both places.

    `keep`: `out` is written as well. `other`: the place of a second operand of the kernel. None where unsupported.
    """
    *packs, last = launches
    if all(last.kernel is not k for k in _KERNELS.values()) or last.words[_ACTIVATION] or _PRE in last.places:
        return None
    if last.places.get(_OUT) != out:
        return None
    words, places = list(last.words), {**last.places, _OUT: result}
    words[_ACTIVATION] = kernel.address
    if keep:
        places[_PRE] = out
    if other is not None:
        places[_OTHER] = other
    return [Launch(launch.kernel, words, dict(places), launch.chunks) for launch in (*packs, last)]
