"""Matrix products on the CPU: register tiles over packed or plain operands, in slices that shapes alone decide.

One chain of fused multiply-adds per element of the result, over a block of k; the blocks' sums are added in order, and
the blocks depend on k alone. So the bits are the same for every tile, layout of the operands, and number of threads.
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
from deepcore.kernels.plan import Launch as Planned
from deepcore.kernels.plan import Lowering, Plan, Spec, contiguous, interned, spec_of
from deepcore.kernels.registry import register
from deepcore.kernels.runtime.executable import Launch

# The table of a plan, which does not change from call to call: sizes in elements, strides in bytes.
(_M, _N, _K, _ARS, _AKS, _BKS, _BJS, _LDO, _BATCHES, _ROWS, _COLUMNS, _DOWN, _ACROSS, _KBLOCK, _ABLOCK) = range(15)
(_PACK_A, _PACK_B, _PANELS, _PACKED, _PART, _LDR, _LDZ, _A_SPACE, _A_PACKED, _A_SLICE) = range(15, 25)
(_TURNED, _T_SPACE) = range(25, 27)
#: The arguments of all kernels of a product. `space`: for packed operands; `pre`: what the activation is applied to, which
#: is stored there; `other`: the activation's second operand. An operand that is missing is None.
_PRODUCT: dict[str, Type] = {
    "plan": Words, "a": Address, "b": Address, "out": Address, "space": Address, "activation": Code, "bias": Address,
    "residual": Address, "pre": Address, "scaled": Size, "scale": Float, "other": Address,
}  # fmt: skip
_PLAN, _OUT, _ACTIVATION, _PRE, _OTHER = map(list(_PRODUCT).index, ("plan", "out", "activation", "pre", "other"))

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


def heights(tools, shape: gemm_tables.Table):
    """height(left): of the next tile, where `left` rows are left."""
    tall, low = shape.heights

    @tools.inline
    def height(left):
        return low if left <= low or tall < left <= 2 * low else tall

    return height


@functools.cache
def packer(tools, dtype: str, source: str, shape: gemm_tables.Table):
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
    """finish(p, i, first, width, out, other, activation, …): what follows the sums, for a row of a slice at `out`."""
    size, (take, put) = np.dtype(dtype).itemsize, tools.elements(np.dtype(dtype))
    call, call_space = tools.call_kernel(), gemm_tile.space(tools, 5 * 8)
    words, view = tools.words(), tools.view(np.dtype(dtype))

    @tools.inline
    def finish(p, i, first, width, out, other, activation, bias, residual, pre, scaled, scale):
        to = out + first * size
        row = view(to)
        if scaled:
            for j in range(width):
                put(row, j, take(row, j) * scale)
        if bias:
            more = view(bias + first * size)
            for j in range(width):
                put(row, j, take(row, j) + take(more, j))
        if residual:
            more = view(residual + i * p[_LDR] + first * size)
            for j in range(width):
                put(row, j, take(row, j) + take(more, j))
        if pre:
            copy = view(pre + i * p[_LDZ] + first * size)
            for j in range(width):
                put(copy, j, take(row, j))
        if activation:
            e = words(call_space())
            e[0], e[1], e[2], e[3], e[4] = to, to, width, 0, 0
            if other:
                e[1], e[2], e[3] = other + first * size, to, width
            call(activation, e, 0)

    return finish


@args(**_PRODUCT)
def _slice(tools, dtype: str, table: gemm_tables.Table | None = None):
    """One block of rows and columns of out, in the tiles of `table`, this processor's if None."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    n = shape.bytes // size
    columns = shape.across * n
    tall, low = shape.heights
    s = gemm_tile.Shape(dtype, n)
    pack, pack_rows = packer(tools, dtype, dtype, shape)
    big = gemm_tile.tile(tools, s, tall, shape.across)
    small = gemm_tile.tile(tools, s, low, shape.across)
    panels = gemm_tile.tile(tools, s, tall, shape.across, panel=True)
    some = gemm_tile.masked_mover(tools, s, shape.across)
    panel_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * columns * size)
    block_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * (gemm_tables.MAX_ROWS + tall) * size + shape.bytes)
    tile_space = gemm_tile.space(tools, tall * columns * size)
    words, view = tools.words(), tools.view(np.dtype(dtype))
    take, put = tools.elements(np.dtype(dtype))
    height_of = heights(tools, shape)
    finish, stride = _finisher(tools, dtype), columns * size

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        m, k, kblock, ablock = p[_M], p[_K], p[_KBLOCK], p[_ABLOCK]
        special = activation != 0 or bias != 0 or residual != 0 or pre != 0 or scaled != 0
        ars, aks, bks, bjs, ldo = p[_ARS], p[_AKS], p[_BKS], p[_BJS], p[_LDO]
        per = p[_DOWN] * p[_ACROSS]
        batch = chunk // per
        chunk -= batch * per
        packed = space + batch * p[_PACKED]
        down = chunk // p[_ACROSS]
        packed_a = space + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_SLICE] * k
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
        if p[_TURNED]:  # the transpose is computed, and turned at the end
            out = space + p[_T_SPACE] + batch * m * ldo
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
        if special:
            for i in range(first_row, end_row):
                finish(
                    p, i, first_column, end_column - first_column, out + i * ldo, other + i * ldo if other else other,
                    activation, bias, residual, pre, scaled, scale,
                )  # fmt: skip
        return 0

    return kernel


@args(**_PRODUCT)
def _few_rows(tools, dtype: str, table=None):
    """A block of columns of out, for A of a few rows and B in rows, which are read as they lie."""
    shape = table or gemm_tables.own()
    dt = np.dtype(dtype)
    size = dt.itemsize
    s = gemm_tile.Shape(dtype, shape.bytes // size)
    eight, one = gemm_tile.adder(tools, s, 8), gemm_tile.adder(tools, s, 1)
    sums_space = gemm_tile.space(tools, _FEW * _FEW_BYTES)
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


@args(**_PRODUCT)
def _few_dots(tools, dtype: str, table=None):
    """A block of columns of out, for A of a few contiguous rows and B in columns, as dot products."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    dot = gemm_tile.dotter(tools, gemm_tile.Shape(dtype, shape.bytes // size), _DOTS)
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
def _pack_before(tools, dtype: str, table=None):
    """Panels of B, one slice each, of all batches."""
    shape = table or gemm_tables.own()
    size = np.dtype(dtype).itemsize
    columns = shape.across * shape.bytes // size
    pack, _ = packer(tools, dtype, dtype, shape)
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
def _pack_rows_before(tools, dtype: str, table=None):
    """The rows of A that a slice takes, of all batches, in panels."""
    shape = table or gemm_tables.own()
    _, pack_rows = packer(tools, dtype, dtype, shape)
    words = tools.words()

    def kernel(plan, a, b, out, space, activation, bias, residual, pre, scaled, scale, other, chunk):
        p = plan
        k, kblock, rows = p[_K], p[_KBLOCK], p[_ROWS]
        batch = chunk // p[_DOWN]
        down = chunk - batch * p[_DOWN]
        to = space + p[_A_SPACE] + batch * p[_A_PACKED] + down * p[_A_SLICE] * k
        if p[_BATCHES]:
            a += words(p[_BATCHES] + 24 * batch)[0]
        first = down * rows
        for k0 in range(0, k, kblock):
            start = a + first * p[_ARS] + k0 * p[_AKS]
            pack_rows(start, p[_ARS], p[_AKS], min(kblock, k - k0), min(rows, p[_M] - first), to + k0 * p[_A_SLICE])
        return 0

    return kernel


@args(source=Address, to=Address, count=Size)
def _converted(tools, dtype: str, widen: bool):
    """Elements of a 16-bit float as float32, or rounded back."""
    n = gemm_tables.own().bytes // 4
    s = gemm_tile.Shape("float32", n)
    move = gemm_tile.mover(tools, s, 1, dtype) if widen else gemm_tile.narrower(tools, s, dtype)
    step, size = (2, 4) if widen else (4, 2)
    narrow, wide = (tools.view(np.dtype(f"u{width}")) for width in (step, size))
    before, after = gemm_tile.space(tools, 4 * n), gemm_tile.space(tools, 4 * n)

    def kernel(source, to, count, chunk):
        if count < n:  # less than a vector
            one, other = before(), after()
            for i in range(n):
                narrow(one)[i] = narrow(source)[min(i, count - 1)]
            move(one, other)
            for i in range(count):
                wide(to)[i] = wide(other)[i]
            return 0
        for i in range(chunk * _CONVERTED, min(count, (chunk + 1) * _CONVERTED), n):
            at = min(i, count - n)  # the last vector overlaps the one before
            move(source + at * step, to + at * size)
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


def _planned(a, b) -> _Plan | None:
    choice = gemm_tables.table()
    if choice is None:
        return None
    kind = gemm_tables.kind(a.shape[-2], b.shape[-1], a.shape[-1])
    if any(i != j and 1 not in (i, j) for i, j in zip(reversed(a.shape[:-2]), reversed(b.shape[:-2]))):
        return None  # batches that do not broadcast, as the reference says
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
        """The last two axes changed places."""
        turn = lambda t: (*t[:-2], t[-1], t[-2])
        return _Matrix(turn(self.shape), turn(self.strides), self.dtype)


def _matrices(x: Spec, y: Spec, turned: bool) -> tuple[_Matrix, _Matrix] | None:
    """The operands of a product; `turned`: y's transpose, after all rows of x as one matrix. None where x has no such rows."""
    a, b = _Matrix(x.shape, x.strides, x.dtype), _Matrix(y.shape, y.strides, y.dtype)
    if not turned:
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


def _in_steps(x: _Matrix) -> bool:
    """Whether one of the last two axes has no gaps, as where there are no elements."""
    rows, columns = x.strides[-2:]
    return x.itemsize in (rows, columns) or 1 in x.shape[-2:] or 0 in x.shape


def _is_dense(x: Spec) -> bool:
    """Whether the elements fill a block of memory: in rows, or with the last two axes in columns."""
    if x.plain or x.strides[-2] >= x.strides[-1]:
        return x.plain
    step = x.dtype.itemsize
    for stride, n in sorted((stride, n) for n, stride in zip(x.shape, x.strides) if n != 1):
        if stride != step:
            return False
        step *= n
    return x.aligned


def copies(specs, turned: bool = False) -> tuple[bool, ...] | None:
    """Which operands (x, y, then bias and residual) must be contiguous copies."""
    x, y = specs[:2]
    pair = _matrices(x, y, turned)
    half = x.dtype in _HALVES
    needed = [not z.aligned or (half and not _is_dense(z)) for z in (x, y)]
    needed[0] |= pair is None or not _in_steps(pair[0])
    needed[1] |= not _in_steps(_Matrix(y.shape, y.strides, y.dtype))
    needed += [not z.plain for z in specs[2:]]
    return tuple(needed) if any(needed) else None


def planned(
    x: Spec, y: Spec, bias: Spec | None = None, residual: Spec | None = None, *, turned=False, activation=None, scaled=False,
    slots=0, keep=False,
) -> Plan | bool | None:  # fmt: skip
    """f(scale·(x @ y) + bias + residual), f being `activation`; `turned`: of y's transpose.

    `scaled`: by the first of so many `slots` behind the arrays. `keep`: with what f is applied to as a second result.
    """
    specs = [z for z in (x, y, bias, residual) if z is not None]
    if any(z.dtype != x.dtype or not z.size for z in specs) or x.ndim < 2 or y.ndim < 2:
        return None
    if x.dtype in _HALVES:
        return _planned_half(x, y, bias, residual, turned, activation, scaled, slots, keep)
    if x.dtype not in _PACKERS or x.shape[-1] != y.shape[-1 if turned else -2]:
        return None
    if copies(specs, turned) is not None:
        return True
    pair = _matrices(x, y, turned)
    plan = None if pair is None or (keep and activation is None) else _planned(*pair)
    if plan is None or not plan.slices:
        return None
    exchanged = plan.swap
    if exchanged:
        assert pair is not None
        a, b = pair
        plan = _planned(b.swapaxes(-1, -2), a.swapaxes(-1, -2))
        if plan is None:
            return None
    arrays = len(specs)
    temporaries = (plan.space,) if plan.space else ()
    space = Operand(arrays + slots) if temporaries else None
    out = Operand(arrays + slots + len(temporaries))
    before = Operand(out.number + 1) if keep else None
    shape = plan.shape
    if turned:
        shape = (*x.shape[:-1], y.shape[0])
    elif exchanged:
        shape = (*plan.batch, x.shape[-2], 1)
    result = contiguous(shape, x.dtype, x.backend)
    first, second = (1, 0) if plan.turned != exchanged else (0, 1)
    more = Operand(2) if bias is not None else None, Operand(arrays - 1) if residual is not None else None
    follow: list[Planned] | None = []
    arguments: dict[str, Any] = dict.fromkeys(_PRODUCT) | {"scaled": scaled, "scale": 0.0}
    to = out
    if plan.few or exchanged:  # kernels without an epilogue: what follows are launches of their own
        if scaled:
            return None
        to = before or out
        follow = _separately(result, (bias, residual), more, activation, to, out)
    else:
        kernel = None if activation is None else elementwise.MAPS[activation].kernel(x.dtype, "v")
        if kernel is not None and not kernel.ready():
            return None
        arguments |= {"activation": kernel, "bias": more[0], "residual": more[1], "pre": before}
        arguments["scale"] = Operand(arrays) if scaled else 0.0
    if follow is None:
        return None
    arguments |= {"plan": plan.words, "a": Operand(first), "b": Operand(second), "out": to, "space": space}
    launches = [Planned(each, chunks, **arguments) for each, chunks in [*plan.packs, (plan.kernel, plan.slices)]]
    return Plan(result, [*launches, *follow], temporaries, owner=plan, aux=[result] * keep)


def _separately(result: Spec, specs, operands, activation, to: Operand, out: Operand) -> list[Planned] | None:
    """Launches that add arrays to a product in `to`, and write the activation of that to `out`; None without kernels."""
    found = [
        elementwise.launch("add", (result, spec), (to, operand), to)
        for spec, operand in zip(specs, operands)
        if spec is not None
    ]
    if activation is not None:
        found.append(elementwise.launch(activation, (result,), (to,), out))
    launches = [launch for launch in found if launch is not None]
    return launches if len(launches) == len(found) else None


def _planned_half(x, y, bias, residual, turned, activation, scaled, slots, keep) -> Plan | bool | None:
    """The product of float16 and bfloat16 in float32 throughout, rounded once."""
    dtype, specs = x.dtype, [z for z in (x, y, bias, residual) if z is not None]
    if gemm_tables.table() is None or not _WIDEN[dtype].ready() or not _ROUND[dtype].ready():
        return None
    if copies(specs, turned) is not None:
        return True
    more = [None if z is None else _wide(z) for z in (bias, residual)]
    plan = planned(
        _wide(x), _wide(y), *more, turned=turned, activation=activation, scaled=scaled, slots=slots, keep=keep
    )
    if not isinstance(plan, Plan):
        return None
    # Temporaries: the arrays in float32, those of the product, and its results in float32.
    arrays, results = len(specs), len(plan.results)
    behind = arrays + slots
    temporaries = [4 * z.size for z in specs] + [*plan.temporaries] + [4 * z.size for z in plan.results]
    out = behind + len(temporaries)

    def place(operand: Operand) -> Operand:
        if arrays <= operand.number < behind:
            return operand
        return Operand(operand.number + (behind if operand.number < arrays else arrays))

    def converted(kernels: dict, z: Spec, source: int, to: int) -> Planned:
        chunks = -(-z.size // _CONVERTED)
        return Planned(kernels[dtype], chunks, source=Operand(source), to=Operand(to), count=z.size)

    launches = [converted(_WIDEN, z, i, behind + i) for i, z in enumerate(specs)]
    launches += [each.renumbered(place) for each in plan.launches]
    launches += [converted(_ROUND, z, out - results + i, out + i) for i, z in enumerate(plan.results)]
    result, *aux = [contiguous(z.shape, dtype, x.backend) for z in plan.results]
    return Plan(result, launches, tuple(temporaries), owner=plan.owner, aux=aux)


def _wide(x: Spec) -> Spec:
    """The spec in float32 of an array whose elements fill a block of memory."""
    return interned(x.shape, tuple(2 * stride for stride in x.strides), float32, x.plain, x.backend)


def with_epilogue(made: Plan, kernel: Kernel, others: int = 0, keep: bool = False) -> Plan | None:
    """A product's plan with an elementwise kernel applied to its result; None where the product's kernel takes none."""
    if all(made.launches[-1].kernel is not k for k in _KERNELS.values()):
        return None
    return plans.with_epilogue(made, kernel, others, keep)


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


def _plan_product(specs, params) -> Plan | bool | None:
    x, y, *more = specs
    bias = more.pop(0) if params["biased"] else None
    residual = more.pop(0) if params["added"] else None
    return planned(
        x, y, bias, residual, activation=params["activation"], scaled=params["scaled"], slots=1, keep=params["keep"]
    )  # fmt: skip


_KEYS = ("biased", "added", "scaled", "activation", "keep")
#: What `product` runs.
PRODUCT = Lowering("product", _plan_product, _KEYS, copies=lambda specs, params: copies(specs), cost=_cost)


def product(a, b, out=None, *, bias=None, activation=None, residual=None, scale=None, pre=None):
    """f(scale·(a @ b) + bias + residual), f being `activation`, an elementwise op by name; rounded after each of these.

    a (…, m, k) and b (…, k, n) are arrays of one floating dtype; out, residual and pre are (…, m, n) and C-contiguous,
    bias is (n,). `pre`, if given, is filled with what f is applied to. float16 and bfloat16 are computed in float32
    throughout, and rounded once. NotImplemented where no kernel serves.
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
        copied = PRODUCT.copies(specs, params) or ()
        arrays = [np.require(x, requirements="CA") if copy else x for x, copy in zip(arrays, copied)]
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
