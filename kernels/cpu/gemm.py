"""Matrix products on the CPU: register tiles over packed or plain operands, in slices that shapes alone decide.

One chain of fused multiply-adds per element of the result, over a block of k; the blocks' sums are added in order, and
the blocks depend on k alone. So the bits are the same for every tile, layout of the operands, and number of threads.
"""

from __future__ import annotations

import functools
import math
import struct
from typing import NamedTuple

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64
from deepcore.kernels import watch
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel, address, bits
from deepcore.kernels.cpu import elementwise, gemm_tables, gemm_tile
from deepcore.kernels.plan import Launch as Planned
from deepcore.kernels.plan import Lowering, Operand, Plan, Spec, contiguous
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator, threadpool
from deepcore.kernels.runtime.executable import Launch

# Words of a plan, which do not change from call to call: sizes in elements, strides in bytes.
(_M, _N, _K, _ARS, _AKS, _BKS, _BJS, _LDO, _BATCHES, _ROWS, _COLUMNS, _DOWN, _ACROSS, _KBLOCK, _ABLOCK) = range(15)
(_PACK_A, _PACK_B, _PANELS, _PACKED, _PART, _LDR, _LDZ, _A_SPACE, _A_PACKED, _A_SLICE) = range(15, 25)
(_TURNED, _T_SPACE) = range(25, 27)
# Words of a call.
(_PLAN, _A, _B, _OUT, _SPACE, _ACTIVATION, _BIAS, _RESIDUAL, _PRE, _SCALED, _SCALE, _OTHER) = range(12)

# Up to so many rows, B in rows is added up row by row, in pieces of so many bytes.
_FEW, _FEW_BYTES = 4, 1 << 13
# Rows of B where it lies that are prefetched, in blocks of so many steps of k; in shorter ones the columns beside.
_ROWS_AHEAD, _LONG = 12, 96
# Elements of 16 bits that a slice converts.
_CONVERTED = 1 << 15
# Columns of B in columns that are read at a time.
_DOTS = 4
# Steps of k up to which a slice goes down a panel of B to its end: beyond, the panel's lines lie too far apart.
_PANEL_STEPS = 1024


def _heights(tools, shape: gemm_tables.Table):
    """height(left): of the next tile, where `left` rows are left."""
    tall, low = shape.heights

    @tools.inline
    def height(left):
        return low if left <= low or tall < left <= 2 * low else tall

    return height


@functools.cache
def _packer(tools, dtype: str, source: str, shape: gemm_tables.Table):
    """(pack, pack_rows): pack(from, sk, sj, k, width, to, stride): element (p, j) at from + p·sk + j·sj goes to to + p·stride + j·size.

    Up to a vector, less one element, behind the last element may be written, too. pack_rows(from, ars, aks, k, rows,
    to) makes a panel of the rows of each tile, so that what a tile reads lies together.
    """
    size = np.dtype(dtype).itemsize
    n = shape.bytes // size
    s = gemm_tile.Shape(dtype, n)
    step = 2 if source in ("float16", "bfloat16") else size
    two, one = gemm_tile.mover(tools, s, 2, source), gemm_tile.mover(tools, s, 1, source)
    part = gemm_tile.masked_mover(tools, s, 1)
    tall, low = shape.heights
    whole_tall, whole_low = gemm_tile.mover(tools, s, tall / n, source), gemm_tile.mover(tools, s, low / n, source)
    transpose = gemm_tile.transposer(tools, s, source)
    narrow = tools.view(np.dtype(np.uint16 if step == 2 else dtype))
    wide = tools.view(np.dtype(dtype))

    @tools.function
    def pack(start, sk, sj, k, width, to, stride):
        if sj == step and width == tall:
            for p in range(k):
                whole_tall(start + p * sk, to + p * stride)
        elif sj == step and width == low:
            for p in range(k):
                whole_low(start + p * sk, to + p * stride)
        elif sj == step:
            j = 0
            while j + n <= width:
                if j + 2 * n <= width:
                    for p in range(k):
                        two(start + p * sk + j * step, to + p * stride + j * size)
                    j += 2 * n
                else:
                    for p in range(k):
                        one(start + p * sk + j * step, to + p * stride + j * size)
                    j += n
            if j < width:
                for p in range(k):
                    part(start + p * sk + j * step, to + p * stride + j * size, width - j)
        else:
            for j in range((width - 1) // n * n, -1, -n):  # a vector may reach into the next line: that comes later
                rows = min(n, width - j)
                if k >= n:
                    p = 0
                    while p < k:
                        p = min(p, k - n)  # the last block overlaps the one before
                        transpose(start + p * sk + j * sj, sj, rows, to + p * stride + j * size, stride)
                        p += n
                else:
                    for i in range(rows):
                        x = narrow(start + (j + i) * sj)
                        for p in range(k):
                            wide(to + p * stride + (j + i) * size)[0] = x[p]

    height_of = _heights(tools, shape)

    @tools.function
    def pack_rows(start, ars, aks, k, rows, to):
        i = 0
        while i < rows:
            height = height_of(rows - i)
            pack(start + i * ars, aks, ars, k, min(height, rows - i), to + i * k * size, height * size)
            i += height

    return pack, pack_rows


def _slice(tools, dtype: str, table: gemm_tables.Table | None = None):
    """One block of rows and columns of out, in the tiles of `table`, this processor's if None. Words: see above."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    n = shape.bytes // size
    columns = shape.across * n
    tall, low = shape.heights
    s = gemm_tile.Shape(dtype, n)
    pack, pack_rows = _packer(tools, dtype, dtype, shape)
    big = gemm_tile.tile(tools, s, tall, shape.across)
    small = gemm_tile.tile(tools, s, low, shape.across)
    panels = gemm_tile.tile(tools, s, tall, shape.across, panel=True)
    some = gemm_tile.masked_mover(tools, s, shape.across)
    panel_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * columns * size)
    block_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * (gemm_tables.MAX_ROWS + tall) * size + shape.bytes)
    tile_space = gemm_tile.space(tools, tall * columns * size)
    words, view = tools.words(), tools.view(np.dtype(dtype))
    take, put = tools.elements(np.dtype(dtype))
    reals, address_of = tools.view(np.dtype(np.float64)), tools.address_of()
    convert = np.dtype(dtype).type
    height_of = _heights(tools, shape)
    call, call_space = tools.call_kernel(), gemm_tile.space(tools, 5 * 8)
    stride = columns * size

    def kernel(c, part):
        p = words(c[_PLAN])
        m, k, kblock, ablock = p[_M], p[_K], p[_KBLOCK], p[_ABLOCK]
        a, b, out, residual, pre, with_ = c[_A], c[_B], c[_OUT], c[_RESIDUAL], c[_PRE], c[_OTHER]
        special = c[_ACTIVATION] != 0 or c[_BIAS] != 0 or residual != 0 or pre != 0 or c[_SCALED] != 0
        ars, aks, bks, bjs, ldo = p[_ARS], p[_AKS], p[_BKS], p[_BJS], p[_LDO]
        per = p[_DOWN] * p[_ACROSS]
        batch = part // per
        part -= batch * per
        packed = c[_SPACE] + batch * p[_PACKED]
        down = part // p[_ACROSS]
        packed_a = c[_SPACE] + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_SLICE] * k
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
            residual += offsets[2] if residual else 0
            pre += offsets[2] if pre else 0
            with_ += offsets[2] if with_ else 0
        final = out
        across = part % p[_ACROSS]
        first_row, first_column = down * p[_ROWS], across * p[_COLUMNS]
        end_row, end_column = min(m, first_row + p[_ROWS]), min(p[_N], first_column + p[_COLUMNS])
        panel, block, tile_at = panel_space(), block_space(), tile_space()
        if p[_TURNED]:  # the transpose is computed, and turned at the end
            out = c[_SPACE] + p[_T_SPACE] + batch * m * ldo
        # Panel after panel, where A is small and B is only read; else one block of k after the other.
        by_panel = p[_PACK_A] == 0 and end_row - first_row <= ablock and k <= _PANEL_STEPS
        outer, inner = -(-k // kblock), -(-(end_column - first_column) // columns)
        if by_panel:
            outer, inner = inner, outer
        for major in range(outer):
            for i0 in range(first_row, end_row, ablock):
                i1 = min(end_row, i0 + ablock)
                if p[_PACK_A] == gemm_tables.BY_SLICE:
                    k0 = major * kblock
                    pack_rows(a + i0 * ars + k0 * aks, ars, aks, min(kblock, k - k0), i1 - i0, block)
                elif p[_PACK_A]:
                    block = packed_a + major * kblock * p[_A_SLICE]
                for minor in range(inner):
                    k0, j = (minor * kblock, major * columns) if by_panel else (major * kblock, minor * columns)
                    j += first_column
                    steps = min(kblock, k - k0)
                    a0, a_row, a_step = a + i0 * ars + k0 * aks, ars, aks
                    width = min(columns, end_column - j)
                    b0, b_step = b + k0 * bks + j * bjs, bks
                    ahead = _ROWS_AHEAD * bks if steps >= _LONG else stride  # no processor guesses strides that wide
                    if p[_PACK_B] == gemm_tables.BEFORE:
                        b0 = packed + (k0 * p[_PANELS] + (j // columns) * steps) * stride
                        b_step, ahead = stride, 8 * stride
                    elif p[_PACK_B] == gemm_tables.BY_SLICE or width < columns:
                        pack(b0, bks, bjs, steps, width, panel, stride)
                        b0, b_step, ahead = panel, stride, 8 * stride
                    i = i0
                    while i < i1:
                        left = i1 - i
                        height = height_of(left)
                        rows = min(height, left)
                        there = out + i * ldo + j * size
                        source, lds, to, ldt = there, ldo, there, ldo
                        if width < columns:
                            source, lds, to, ldt = tile_at, stride, tile_at, stride
                            if k0:
                                for q in range(rows):
                                    some(there + q * ldo, tile_at + q * stride, width)
                        at = a0 + (i - i0) * a_row
                        if p[_PACK_A]:
                            at, a_row, a_step = block + (i - i0) * steps * size, size, height * size
                        below = height * (steps * size if p[_PACK_A] else ars)
                        alone = width < columns or height == low
                        count = 1 if alone else max(1, (left - 2 * low - 1) // tall)
                        place = (
                            at, a_row, a_step, b0, b_step, steps, rows, source, lds, to, ldt, k0, ahead, count, below,
                        )  # fmt: skip
                        if rows == tall and p[_PACK_A]:
                            panels(*place)
                        elif height == tall:
                            big(*place)
                        else:
                            small(*place)
                        if width < columns:
                            for q in range(rows):
                                some(tile_at + q * stride, there + q * ldo, width)
                        i += count * height
        if p[_TURNED]:
            for j in range(first_column, end_column):
                row = view(final + j * m * size)
                for i in range(m):
                    put(row, i, take(view(out + i * ldo), j))
            out, ldo = final, m * size
            first_row, end_row, first_column, end_column = first_column, end_column, 0, m
        # What follows the sums is done to the slice's rows, which the caches still hold.
        width = end_column - first_column
        if special:
            scale = convert(reals(address_of(c))[_SCALE])
            e = words(call_space())
            for i in range(first_row, end_row):
                to = out + i * ldo + first_column * size
                row = view(to)
                if c[_SCALED]:
                    for j in range(width):
                        put(row, j, take(row, j) * scale)
                if c[_BIAS]:
                    more = view(c[_BIAS] + first_column * size)
                    for j in range(width):
                        put(row, j, take(row, j) + take(more, j))
                if residual:
                    more = view(residual + i * p[_LDR] + first_column * size)
                    for j in range(width):
                        put(row, j, take(row, j) + take(more, j))
                if pre:
                    copy = view(pre + i * p[_LDZ] + first_column * size)
                    for j in range(width):
                        put(copy, j, take(row, j))
                if c[_ACTIVATION]:
                    e[0], e[1], e[2], e[3], e[4] = to, to, width, 0, 0
                    if with_:
                        e[1], e[2], e[3] = with_ + i * ldo + first_column * size, to, width
                    call(c[_ACTIVATION], e, 0)
        return 0

    return kernel


def _few_rows(tools, dtype: str, table=None):
    """A block of columns of out, for A of a few rows and B in rows, which are read as they lie. Words: as above."""
    shape = table or gemm_tables.own()
    dt = np.dtype(dtype)
    size = dt.itemsize
    s = gemm_tile.Shape(dtype, shape.bytes // size)
    eight, one = gemm_tile.adder(tools, s, 8), gemm_tile.adder(tools, s, 1)
    space = gemm_tile.space(tools, _FEW * _FEW_BYTES)
    words, view, zero = tools.words(), tools.view(dt), dt.type(0)

    def kernel(c, part):
        p = words(c[_PLAN])
        a, b, out = c[_A], c[_B], c[_OUT]
        batch = part // p[_ACROSS]
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
        first = (part - batch * p[_ACROSS]) * p[_COLUMNS]
        count = min(p[_COLUMNS], p[_N] - first)
        sums = space()
        for k0 in range(0, p[_K], p[_KBLOCK]):
            end = min(p[_K], k0 + p[_KBLOCK])
            for i in range(p[_M]):
                t = view(sums + i * _FEW_BYTES)
                for j in range(count):
                    t[j] = zero
            k = k0
            while k < end:
                at = b + k * p[_BKS] + first * size
                step = 8 if k + 8 <= end else 1
                for i in range(p[_M]):
                    x, t = a + i * p[_ARS] + k * p[_AKS], sums + i * _FEW_BYTES
                    if step == 8:
                        eight(at, p[_BKS], x, p[_AKS], t, count)
                    else:
                        one(at, p[_BKS], x, p[_AKS], t, count)
                k += step
            for i in range(p[_M]):
                t, o = view(sums + i * _FEW_BYTES), view(out + i * p[_LDO] + first * size)
                if k0:
                    for j in range(count):
                        o[j] = o[j] + t[j]
                else:
                    for j in range(count):
                        o[j] = t[j]
        return 0

    return kernel


def _few_dots(tools, dtype: str, table=None):
    """A block of columns of out, for A of a few contiguous rows and B in columns, as dot products. Words: as above."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    dot = gemm_tile.dotter(tools, gemm_tile.Shape(dtype, shape.bytes // size), _DOTS)
    words = tools.words()

    def kernel(c, part):
        p = words(c[_PLAN])
        a, b, out = c[_A], c[_B], c[_OUT]
        batch = part // p[_ACROSS]
        if p[_BATCHES]:
            offsets = words(p[_BATCHES] + 24 * batch)
            a, b, out = a + offsets[0], b + offsets[1], out + offsets[2]
        first = (part - batch * p[_ACROSS]) * p[_COLUMNS]
        end = min(p[_N], first + p[_COLUMNS])
        for j in range(first, end, _DOTS):
            for i in range(p[_M]):
                to = out + i * p[_LDO] + j * size
                dot(a + i * p[_ARS], b + j * p[_BJS], p[_BJS], p[_K], min(_DOTS, end - j), to)
        return 0

    return kernel


def _pack_before(tools, dtype: str, table=None):
    """Panels of B, one slice each, of all batches. Words: as for the product."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    columns = shape.across * shape.bytes // size
    pack, _ = _packer(tools, dtype, dtype, shape)
    words, stride = tools.words(), columns * size

    def kernel(c, part):
        p = words(c[_PLAN])
        k, panels, kblock = p[_K], p[_PANELS], p[_KBLOCK]
        groups = -(-panels // p[_PART])
        batch = part // groups
        b, to = c[_B], c[_SPACE] + batch * p[_PACKED]
        if p[_BATCHES]:
            b += words(p[_BATCHES] + 24 * batch)[1]
        first = (part - batch * groups) * p[_PART]
        for k0 in range(0, k, kblock):
            steps = min(kblock, k - k0)
            for panel in range(first, min(panels, first + p[_PART])):
                j = panel * columns
                start = b + k0 * p[_BKS] + j * p[_BJS]
                width = min(columns, p[_N] - j)
                pack(start, p[_BKS], p[_BJS], steps, width, to + (k0 * panels + panel * steps) * stride, stride)
        return 0

    return kernel


def _pack_rows_before(tools, dtype: str, table=None):
    """The rows of A that a slice takes, of all batches, in panels. Words: as for the product."""
    shape = table or gemm_tables.own()
    _, pack_rows = _packer(tools, dtype, dtype, shape)
    words = tools.words()

    def kernel(c, part):
        p = words(c[_PLAN])
        k, kblock, rows = p[_K], p[_KBLOCK], p[_ROWS]
        batch = part // p[_DOWN]
        down = part - batch * p[_DOWN]
        a, to = c[_A], c[_SPACE] + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_SLICE] * k
        if p[_BATCHES]:
            a += words(p[_BATCHES] + 24 * batch)[0]
        first = down * rows
        for k0 in range(0, k, kblock):
            start = a + first * p[_ARS] + k0 * p[_AKS]
            pack_rows(start, p[_ARS], p[_AKS], min(kblock, k - k0), min(rows, p[_M] - first), to + k0 * p[_A_SLICE])
        return 0

    return kernel


def _converted(tools, dtype: str, widen: bool):
    """Elements of a 16-bit float as float32, or rounded back. Words: from, to, their number (a vector's at least)."""
    n = gemm_tables.own().bytes // 4
    s = gemm_tile.Shape("float32", n)
    move = gemm_tile.mover(tools, s, 1, dtype) if widen else gemm_tile.narrower(tools, s, dtype)
    step, size = (2, 4) if widen else (4, 2)

    def kernel(a, part):
        end = min(a[2], (part + 1) * _CONVERTED)
        for i in range(part * _CONVERTED, end, n):
            at = min(i, a[2] - n)  # the last vector overlaps the one before
            move(a[0] + at * step, a[1] + at * size)
        return 0

    return kernel


_HALVES = (float16, bfloat16)
_WIDEN = {d: Kernel(f"widen_{d.name}", _converted, d.name, True) for d in _HALVES}
_ROUND = {d: Kernel(f"round_{d.name}", _converted, d.name, False) for d in _HALVES}
_PACKERS = {d: Kernel(f"gemm_pack_{d.name}", _pack_before, d.name) for d in (float32, float64)}
_ROW_PACKERS = {d: Kernel(f"gemm_pack_rows_{d.name}", _pack_rows_before, d.name) for d in (float32, float64)}
_FEW_ROWS = {d: Kernel(f"gemm_few_rows_{d.name}", _few_rows, d.name) for d in (float32, float64)}
_FEW_DOTS = {d: Kernel(f"gemm_few_dots_{d.name}", _few_dots, d.name) for d in (float32, float64)}
_KERNELS = {d: Kernel(f"gemm_{d.name}", _slice, d.name) for d in (float32, float64)}
_PRODUCTS = {kernel for kernels in (_FEW_ROWS, _FEW_DOTS, _KERNELS) for kernel in kernels.values()}


# -- plans ------------------------------------------------------------------------------------------------------


class _Plan:
    """What is decided about a product by the shapes and strides of its operands."""

    __slots__ = (
        "address",
        "batch",
        "direct",
        "dtype",
        "few",
        "kernel",
        "packs",
        "rows",
        "shape",
        "slices",
        "space",
        "swap",
        "turned",
        "words",
    )

    def __init__(self, a, b):
        m, k = a.shape[-2:]
        n = b.shape[-1]
        size, dtype = a.itemsize, a.dtype
        shape = gemm_tables.table()
        columns = shape.across * shape.bytes // size
        #: Whether few columns are computed as the rows of the transpose, where tiles leave nothing empty.
        self.turned = 1 < n < columns and m >= 4 * columns
        if self.turned:
            a, b, m, n = b.swapaxes(-1, -2), a.swapaxes(-1, -2), n, m
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        batches = math.prod(batch)
        (ars, aks), (bks, bjs) = a.strides[-2:], b.strides[-2:]
        if n == 1:
            bjs = size if bks != size else bks
        if k == 1:
            bks = columns * size if bjs == size else size
        self.shape, self.dtype, self.batch = (*batch, n, m) if self.turned else (*batch, m, n), dtype, batch
        kblock, panels = gemm_tables.steps(k), -(-n // columns)
        rows, wide, how, pack_a = gemm_tables.slices(shape, m, n, k, size, columns, bjs == size)
        if how == gemm_tables.BEFORE and not _PACKERS[dtype].ready():
            how = gemm_tables.BY_SLICE
        down, across = -(-m // rows), -(-n // wide)
        if pack_a and across > 1 and rows <= gemm_tables.MAX_ROWS and _ROW_PACKERS[dtype].ready():
            pack_a = gemm_tables.BEFORE
        w = self.words = np.zeros(_T_SPACE + 1, np.int64)
        w[[_M, _N, _K, _ARS, _AKS, _BKS, _BJS, _LDO]] = m, n, k, ars, aks, bks, bjs, n * size
        ablock = min(rows, gemm_tables.MAX_ROWS) if pack_a else rows
        w[[_ROWS, _COLUMNS, _DOWN, _ACROSS, _KBLOCK, _ABLOCK]] = rows, wide, down, across, kblock, ablock
        w[[_PACK_A, _PACK_B, _PANELS, _PART]] = pack_a, how, panels, 1
        w[[_LDR, _LDZ]] = self.shape[-1] * size
        self.slices = batches * down * across if k else 0
        self.few = None
        self.swap = n == 1 and m > 1  # a matrix times a vector: the vector times the matrix's transpose
        if m <= _FEW and n * k >= 1 << 16 and not self.turned:
            if bjs == size:
                self.few = _FEW_ROWS[dtype]
                wide = -(-n // (columns * max(2, -(-n * size // _FEW_BYTES)))) * columns
            elif aks == size:
                self.few = _FEW_DOTS[dtype]
                wide = -(-n // (_DOTS * min(16, n * k * size >> 17))) * _DOTS
            if self.few and self.few.ready():
                w[_COLUMNS], w[_ACROSS] = wide, -(-n // wide)
                self.slices = batches * int(w[_ACROSS])
            else:
                self.few = None
        self.kernel = self.few or _KERNELS[dtype]
        #: The call itself, where there is one slice and nothing else to do.
        single = self.slices == 1 and not self.swap and not self.turned and m * n * size < 1 << 20
        self.direct = self.kernel._call if single and how != gemm_tables.BEFORE else None
        self.space = 0
        #: What is packed before: kernels and their slices.
        self.packs: list[tuple[Kernel, int]] = []
        if how == gemm_tables.BEFORE:
            copies = 1 if b.ndim == 2 else batches
            self.space = copies * panels * columns * k * size
            w[_PACKED] = self.space // copies if copies > 1 else 0
            w[_PART] = max(1, (1 << 15) // max(k * columns, 1))
            self.packs.append((_PACKERS[dtype], copies * -(-panels // int(w[_PART]))))
        if pack_a == gemm_tables.BEFORE:
            copies = 1 if a.ndim == 2 else batches
            w[_A_SPACE] = self.space
            w[_A_SLICE] = (rows + shape.heights[0]) * size
            self.space += copies * down * k * int(w[_A_SLICE]) + shape.bytes
            w[_A_PACKED] = down * k * w[_A_SLICE] if copies > 1 else 0
            self.packs.append((_ROW_PACKERS[dtype], copies * down))
        if self.turned:
            w[_TURNED], w[_T_SPACE] = 1, -(-self.space // 64) * 64
            self.space = int(w[_T_SPACE]) + batches * m * n * size + shape.bytes
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
            w[_BATCHES] = table.ctypes.data
        self.address = w.ctypes.data


_PLANS: dict[tuple, _Plan | None] = {}


def _planned(a, b) -> _Plan | None:
    key = (a.shape, a.strides, b.shape, b.strides, a.dtype)
    if len(_PLANS) > 4096:
        _PLANS.clear()
    plan, choice = None, gemm_tables.table()
    if choice is not None:
        kind = gemm_tables.kind(a.shape[-2], b.shape[-1], a.shape[-1])
        if f"{a.dtype.name} {kind}" not in choice.blas and _KERNELS[a.dtype].ready():
            plan = _Plan(a, b)
    _PLANS[key] = plan
    return plan


def _usable(x: np.ndarray) -> np.ndarray:
    """`x`, or a copy where its memory is not aligned or its last two axes both have gaps."""
    if not x.flags.aligned or x.dtype.byteorder not in "=|":
        return np.ascontiguousarray(x, x.dtype.newbyteorder("="))
    size = x.itemsize
    if x.strides[-1] != size and x.strides[-2] != size and x.shape[-1] > 1 and x.shape[-2] > 1:
        return np.ascontiguousarray(x)
    return x


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
        """The last two axes changed places."""
        turn = lambda t: (*t[:-2], t[-1], t[-2])
        return _Matrix(turn(self.shape), turn(self.strides), self.dtype)


def planned(x: Spec, y: Spec, bias: Spec | None = None, *, turned=False, activation=None) -> Plan | None:
    """activation(x @ y + bias) as one product; `turned`: of y's transpose. None where it takes more than one step."""
    a, b = _Matrix(x.shape, x.strides, x.dtype), _Matrix(y.shape, y.strides, y.dtype)
    if turned:
        b = b.swapaxes(-1, -2)
        if a.ndim > 2:
            if not x.plain:
                return None
            a = _Matrix((math.prod(a.shape[:-1]), a.shape[-1]), x.strides[-2:], x.dtype)
    dtype = a.dtype
    if dtype not in _PACKERS or b.dtype != dtype or a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        return None
    if not (x.aligned and y.aligned and _in_steps(a) and _in_steps(b)):
        return None
    if bias is not None and (not bias.plain or bias.dtype != dtype):
        return None
    plan = _planned(a, b)
    epilogue = None if activation is None else elementwise.MAPS[activation].kernel(dtype, "v")
    if plan is None or not plan.slices or plan.swap or (epilogue is not None and not epilogue.ready()):
        return None
    if plan.few and not (bias is activation is None):
        return None
    arrays = 2 if bias is None else 3
    temporaries = (plan.space,) if plan.space else ()
    first, second = (1, 0) if plan.turned else (0, 1)
    words = (
        plan.address, Operand(first), Operand(second), Operand(arrays + len(temporaries)),
        Operand(arrays) if temporaries else 0, 0 if epilogue is None else epilogue.address,
        0 if bias is None else Operand(2), 0, 0, 0, 0, 0,
    )  # fmt: skip
    steps = [*plan.packs, (plan.kernel, plan.slices)]
    shape = (*x.shape[:-1], y.shape[0]) if turned else plan.shape
    launches = [Planned(kernel, chunks, words) for kernel, chunks in steps]
    return Plan(contiguous(shape, dtype, x.backend), launches, temporaries, owner=plan)


def _in_steps(x: _Matrix) -> bool:
    """Whether one of the last two axes has no gaps."""
    rows, columns = x.strides[-2:]
    return x.itemsize in (rows, columns) or 1 in x.shape[-2:]


register("matmul", "cpu", needs_numba=False)(Lowering("matmul", lambda specs, params: planned(*specs)))

_pack = struct.Struct("12q").pack


def product(a, b, out=None, *, bias=None, activation=None, residual=None, scale=None, pre=None):
    """f(scale·(a @ b) + bias + residual), f being `activation`, an elementwise op by name; rounded after each of these.

    a (…, m, k) and b (…, k, n) are float32 or float64 arrays; out, residual and pre are (…, m, n) and C-contiguous,
    bias is (n,). `pre`, if given, is filled with what f is applied to. float16 and bfloat16 are computed in float32
    throughout, and rounded once. NotImplemented where no kernel serves.
    """
    plan = _PLANS.get((a.shape, a.strides, b.shape, b.strides, a.dtype))
    if plan is None or a.dtype != b.dtype:
        if a.dtype in _HALVES and a.dtype == b.dtype:
            return _half_product(a, b, out, bias, activation, residual, scale, pre)
        if a.dtype != b.dtype or a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2] or a.dtype not in _PACKERS:
            return NotImplemented
        a, b = _usable(a), _usable(b)
        plan = _planned(a, b)
        if plan is None:
            return NotImplemented
    if plan.direct and not watch.count and bias is activation is residual is scale is pre is None:
        if out is None:
            out = np.empty(plan.shape, plan.dtype)
        plan.direct(_pack(plan.address, address(a), address(b), address(out), 0, 0, 0, 0, 0, 0, 0, 0), 0)
        return out
    if not plan.slices:
        return NotImplemented
    if watch.count and watch.mine.follower is not None:
        watch.mine.follower.keep(plan.address, plan)
    epilogue = None if activation is None else elementwise.MAPS[activation].kernel(plan.dtype, "v")
    if epilogue is not None and not epilogue.ready():
        return NotImplemented
    if plan.few or plan.swap:
        if not all(x is None for x in (bias, activation, residual, scale, pre)):
            if activation is None and pre is not None:
                return NotImplemented
            found = product(a, b, out if pre is None else pre)
            if found is NotImplemented:
                return found
            if pre is not None and out is None:
                out = allocator.empty_like(pre)
            return _finished(found, bias, activation, residual, scale, None if pre is None else out)
        if plan.swap:
            flat = None if out is None else out.reshape(*plan.batch, 1, -1)
            made = product(b.swapaxes(-1, -2), a.swapaxes(-1, -2), flat)
            return made.reshape(plan.shape) if out is None else out
    kernel = plan.kernel
    if plan.turned:
        a, b = b, a
    if out is None:
        out = allocator.empty(plan.shape, plan.dtype)
    words = (
        plan.address,
        address(a),
        address(b),
        address(out),
        0,
        0 if epilogue is None else epilogue.address,
        0 if bias is None else address(bias),
        0 if residual is None else address(residual),
        0 if pre is None else address(pre),
        0 if scale is None else 1,
        0 if scale is None else bits(scale),
        0,
    )
    if not plan.space:
        threadpool.launch(kernel, plan.slices, *words)
        return out
    space = allocator.empty(plan.space + 63, np.uint8)
    words = (*words[:_SPACE], address(space) + 63 & -64, *words[_SPACE + 1 :])
    packed = jit.pack(words)
    threadpool.run([*((each, packed, slices) for each, slices in plan.packs), (kernel, packed, plan.slices)])
    return out


def arithmetic(launch: Launch, plans: dict) -> int:
    """Multiplications and additions of a product's launch; 0 of another's. `plans`: by address."""
    plan = plans.get(launch.words[_PLAN]) if launch.kernel in _PRODUCTS else None
    return 0 if plan is None else 2 * math.prod(plan.batch) * int(math.prod(plan.words[[_M, _N, _K]]))


def finished(launches: list[Launch], kernel: Kernel, out, result, *, keep: bool, other=None) -> list[Launch] | None:
    """A product's launches that apply an elementwise kernel to its result `out`, and write `result`; places, both.

    `keep`: `out` is written as well. `other`: the place of a second operand of the kernel. None where they cannot.
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
    return [Launch(each.kernel, words, dict(places), each.slices) for each in (*packs, last)]


def _half_product(a, b, out, bias, activation, residual, scale, pre):
    dtype = a.dtype
    if gemm_tables.table() is None or not _WIDEN[dtype].ready() or not _ROUND[dtype].ready():
        return NotImplemented
    operands = [None if x is None else _wide(x) for x in (a, b, bias, residual)]
    before = None if pre is None else allocator.empty(pre.shape, float32)
    wide = product(
        *operands[:2], bias=operands[2], activation=activation, residual=operands[3], scale=scale, pre=before
    )
    if wide is NotImplemented:
        return wide
    if pre is not None:
        _narrow(before, pre)
    return _narrow(wide, allocator.empty(wide.shape, dtype) if out is None else out)


def _wide(x: np.ndarray) -> np.ndarray:
    """`x` as float32, its last two axes in the same order in memory."""
    turned = x.ndim > 1 and x.strides[-2] < x.strides[-1]
    x = np.ascontiguousarray(x.swapaxes(-1, -2) if turned else x)
    if x.size < 64:
        wide = x.astype(float32)
    else:
        wide = allocator.empty(x.shape, float32)
        threadpool.launch(_WIDEN[x.dtype], -(-x.size // _CONVERTED), address(x), address(wide), x.size)
    return wide.swapaxes(-1, -2) if turned else wide


def _narrow(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    if x.size < 64:
        out[...] = x
    else:
        threadpool.launch(_ROUND[out.dtype], -(-x.size // _CONVERTED), address(x), address(out), x.size)
    return out


def _finished(x, bias, activation, residual, scale, out):
    """What follows a product of few elements, whose sum has a kernel without an epilogue; the result in `out`, else in x."""
    for name, more in (
        ("mul", None if scale is None else np.asarray(scale, x.dtype)), ("add", bias), ("add", residual),
    ):  # fmt: skip
        if more is not None:
            elementwise.MAPS[name](None, x, more, out=x)
    return x if activation is None else elementwise.MAPS[activation](None, x, out=x if out is None else out)
