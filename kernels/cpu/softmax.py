"""Softmax, log-softmax and logsumexp on the CPU: rows stay in the nearest cache while they are worked on."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, args
from deepcore.kernels.cpu.reductions import LANES, extreme, kernels_of, plain, share, summing
from deepcore.kernels.cpu.rows import (
    LEAST_INNER,
    ROW_COST,
    TILE,
    exp_below,
    exponentials,
    fma,
    in_tiles,
    split,
    tile_access,
    tile_exponentials,
    tile_slices,
    turned,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous, per_element
from deepcore.kernels.registry import register


def quotient(a, b, inverse):
    """a/b, from 1/b: a product and its correction, at most 0.51 ulp off."""
    q = a * inverse
    return fma(fma(-q, b, a), inverse, q)


@args(x=In, out=Out, rows=Size, n=Size, each=Size)
def _softmax(tools, dtype: str):
    """`each`: rows of a chunk, here and below."""
    dt = np.dtype(dtype)
    after = tools.after(dt)
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, True)
    divided, one = tools.lift(quotient, dt), dt.type(1)

    def kernel(x, out, rows, n, each, chunk):
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            row, result = after(x, r * n), after(out, r * n)
            s = total(row, result, n, best(row, n))
            inverse = one / s
            for i in range(n):
                result[i] = divided(result[i], s, inverse)
        return 0

    return kernel


@args(x=In, out=Out, rows=Size, n=Size, each=Size)
def _log_softmax(tools, dtype: str):
    dt = np.dtype(dtype)
    after, log = tools.after(dt), tools.lift(elementary.log, dt)
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, False)

    def kernel(x, out, rows, n, each, chunk):
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            row, result = after(x, r * n), after(out, r * n)
            c = best(row, n)
            d = log(total(row, result, n, c))
            for i in range(n):
                result[i] = (row[i] - c) - d
        return 0

    return kernel


@args(x=In, out=Out, rows=Size, n=Size, each=Size)
def _logsumexp(tools, dtype: str):
    dt = np.dtype(dtype)
    after, log = tools.after(dt), tools.lift(elementary.log, dt)
    best, total = extreme(tools, dt, "top"), exponentials(tools, dt, False)
    inf, zero = dt.type(np.inf), dt.type(0)

    def kernel(x, out, rows, n, each, chunk):
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            row = after(x, r * n)
            c = best(row, n)
            if c == inf:
                for i in range(n):
                    c = row[i] if row[i] != row[i] else c
                out[r] = c
            else:
                c = zero if c == -inf else c
                out[r] = c + log(total(row, row, n, c))
        return 0

    return kernel


@args(g=In, y=In, out=Out, rows=Size, n=Size, each=Size)
def _softmax_grad(tools, dtype: str):
    """y·(g - Σ g·y)."""
    dt = np.dtype(dtype)
    after, zero = tools.after(dt), dt.type(0)

    @tools.inline
    def product(g, y, z, i, c, d):
        return g[i] * y[i]

    total = summing(tools, dt, product, "row, row")

    def kernel(g, y, out, rows, n, each, chunk):
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            gr, yr, result = after(g, r * n), after(y, r * n), after(out, r * n)
            s = total(gr, yr, yr, n, zero, zero)
            for i in range(n):
                result[i] = yr[i] * (gr[i] - s)
        return 0

    return kernel


@args(g=In, y=In, out=Out, rows=Size, n=Size, each=Size)
def _log_softmax_grad(tools, dtype: str):
    """g - exp(y)·Σ g, which is g where Σ g is 0."""
    dt = np.dtype(dtype)
    zero = dt.type(0)
    exp, total, block = tools.lift(exp_below, dt), plain(tools, dt), tools.local(dt, LANES)
    copy, after = tools.copy(dt), tools.after(dt)

    def kernel(g, y, out, rows, n, each, chunk):
        e = block()
        for j in range(LANES):
            e[j] = zero
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            gr, yr, result = after(g, r * n), after(y, r * n), after(out, r * n)
            s = total(gr, yr, yr, n, zero, zero)
            for i in range(0, n, LANES):
                rest = min(n - i, LANES)
                if rest == LANES:
                    for j in range(LANES):
                        e[j] = exp(yr[i + j])
                    for j in range(LANES):
                        e[j] = gr[i + j] - (zero if s == zero else e[j] * s)
                    for j in range(LANES):
                        result[i + j] = e[j]
                else:
                    copy(e, after(yr, i), rest)
                    for j in range(LANES):
                        e[j] = exp(e[j])
                    for j in range(rest):
                        result[i + j] = gr[i + j] - (zero if s == zero else e[j] * s)
        return 0

    return kernel


@args(x=In, out=Out, outer=Size, n=Size, inner=Size, each=Size)
def _softmax_tiles(tools, log: bool, dtype: str):
    """`each`: tiles of a chunk, here and below."""
    dt = np.dtype(dtype)
    lanes, space = tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    total, ln = tile_exponentials(tools, dt), tools.lift(elementary.log, dt)

    def kernel(x, out, outer, n, inner, each, chunk):
        tile, top, sums = space(), lanes(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(chunk * each, min(tiles, (chunk + 1) * each)):
            base, step, apart, _, count = place(t, outer, n, inner)
            load(tile, x, base, n, step, apart, count)
            total(tile, n, top, sums)
            if log:
                for j in range(LANES):
                    sums[j] = ln(sums[j])
                load(tile, x, base, n, step, apart, count)
                for i in range(n):
                    for j in range(LANES):
                        tile[LANES * i + j] = (tile[LANES * i + j] - top[j]) - sums[j]
            else:
                for i in range(n):
                    for j in range(LANES):
                        tile[LANES * i + j] = tile[LANES * i + j] / sums[j]
            store(out, tile, base, n, step, apart, count)
        return 0

    return kernel


@args(g=In, y=In, out=Out, outer=Size, n=Size, inner=Size, each=Size)
def _softmax_grad_tiles(tools, log: bool, dtype: str):
    """y·(g - Σ g·y), or g - exp(y)·Σ g for the logarithm."""
    dt = np.dtype(dtype)
    lanes, space = tools.local(dt, LANES), tools.local(dt, LANES * TILE)
    other = tools.local(dt, LANES * TILE)
    place, load, store = tile_access(tools, dt)
    exp, zero = tools.lift(exp_below, dt), dt.type(0)

    def kernel(g, y, out, outer, n, inner, each, chunk):
        u, v, sums = space(), other(), lanes()
        tiles = -(-outer // LANES) if inner == 1 else outer * -(-inner // LANES)
        for t in range(chunk * each, min(tiles, (chunk + 1) * each)):
            base, step, apart, _, count = place(t, outer, n, inner)
            load(u, g, base, n, step, apart, count)
            load(v, y, base, n, step, apart, count)
            for j in range(LANES):
                sums[j] = zero
            for i in range(n):
                for j in range(LANES):
                    sums[j] += u[LANES * i + j] if log else u[LANES * i + j] * v[LANES * i + j]
            for i in range(n):
                for j in range(LANES):
                    k = LANES * i + j
                    if log:
                        u[k] = u[k] - (zero if sums[j] == zero else exp(v[k]) * sums[j])
                    else:
                        u[k] = v[k] * (u[k] - sums[j])
            store(out, u, base, n, step, apart, count)
        return 0

    return kernel


# -- long rows across memory: 64 of them at a time, each in a lane, and sums in blocks of 64 numbers -----------------


@args(x=In, out=Out, outer=Size, n=Size, inner=Size, each=Size)
def _softmax_columns(tools, log: bool, dtype: str):
    """`each`: tasks of a chunk, here and below."""
    dt = np.dtype(dtype)
    after, lanes = tools.after(dt), tools.local(dt, LANES)
    exp, ln, zero, least = tools.lift(exp_below, dt), tools.lift(elementary.log, dt), dt.type(0), dt.type(-np.inf)

    def kernel(x, out, outer, n, inner, each, chunk):
        blocks = -(-inner // LANES)
        top, sums, some = lanes(), lanes(), lanes()
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            column = t % blocks * LANES
            count, base = min(LANES, inner - column), t // blocks * n * inner + column
            source, result = after(x, base), after(out, base)
            for j in range(count):
                top[j], sums[j] = least, zero
            for i in range(n):
                for j in range(count):
                    v = source[i * inner + j]
                    top[j] = v if v > top[j] else top[j]
            for block in range(0, n, LANES):
                for j in range(count):
                    some[j] = zero
                for i in range(block, min(block + LANES, n)):
                    for j in range(count):
                        e = exp(source[i * inner + j] - top[j])
                        some[j] += e
                        if not log:
                            result[i * inner + j] = e
                for j in range(count):
                    sums[j] += some[j]
            if log:
                for j in range(count):
                    sums[j] = ln(sums[j])
            for i in range(n):
                for j in range(count):
                    k = i * inner + j
                    result[k] = (source[k] - top[j]) - sums[j] if log else result[k] / sums[j]
        return 0

    return kernel


@args(g=In, y=In, out=Out, outer=Size, n=Size, inner=Size, each=Size)
def _softmax_grad_columns(tools, log: bool, dtype: str):
    dt = np.dtype(dtype)
    after, lanes = tools.after(dt), tools.local(dt, LANES)
    exp, zero = tools.lift(exp_below, dt), dt.type(0)

    def kernel(g, y, out, outer, n, inner, each, chunk):
        blocks = -(-inner // LANES)
        sums, some = lanes(), lanes()
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            column = t % blocks * LANES
            count, base = min(LANES, inner - column), t // blocks * n * inner + column
            u, v, result = after(g, base), after(y, base), after(out, base)
            for j in range(count):
                sums[j] = zero
            for block in range(0, n, LANES):
                for j in range(count):
                    some[j] = zero
                for i in range(block, min(block + LANES, n)):
                    for j in range(count):
                        k = i * inner + j
                        some[j] += u[k] if log else u[k] * v[k]
                for j in range(count):
                    sums[j] += some[j]
            for i in range(n):
                for j in range(count):
                    k = i * inner + j
                    if log:
                        result[k] = u[k] - (zero if sums[j] == zero else exp(v[k]) * sums[j])
                    else:
                        result[k] = v[k] * (u[k] - sums[j])
        return 0

    return kernel


# The kernel for long rows, the one for short ones, also across memory, and the one for long rows across memory.
_SOFTMAX = (
    kernels_of("softmax", _softmax), kernels_of("softmax_tiles", _softmax_tiles, False),
    kernels_of("softmax_columns", _softmax_columns, False),
)  # fmt: skip
_LOG_SOFTMAX = (
    kernels_of("log_softmax", _log_softmax), kernels_of("log_softmax_tiles", _softmax_tiles, True),
    kernels_of("log_softmax_columns", _softmax_columns, True),
)  # fmt: skip
_SOFTMAX_GRAD = (
    kernels_of("softmax_grad", _softmax_grad), kernels_of("softmax_grad_tiles", _softmax_grad_tiles, False),
    kernels_of("softmax_grad_columns", _softmax_grad_columns, False),
)  # fmt: skip
_LOG_SOFTMAX_GRAD = (
    kernels_of("log_softmax_grad", _log_softmax_grad), kernels_of("log_softmax_grad_tiles", _softmax_grad_tiles, True),
    kernels_of("log_softmax_grad_columns", _softmax_grad_columns, True),
)  # fmt: skip
_ROWS, _TILES, _COLUMNS = range(3)
_LOGSUMEXP = kernels_of("logsumexp", _logsumexp)


def _layout(shape: tuple[int, ...], dim: int) -> tuple[int, int, dict[str, int]]:
    """(which kernel, chunks or 0 where rows must be moved first, the sizes among the kernel's arguments)."""
    outer, n, inner = split(shape, dim)
    if in_tiles(n, inner):
        chunks, each = tile_slices(outer, n, inner)
        return _TILES, chunks, {"outer": outer, "n": n, "inner": inner, "each": each}
    if inner >= LEAST_INNER:
        each = share(outer * n * inner) // (n * LANES) or 1
        chunks = -(-(outer * -(-inner // LANES)) // each)
        return _COLUMNS, chunks, {"outer": outer, "n": n, "inner": inner, "each": each}
    each = share(outer * n) // (n + ROW_COST) or 1
    return _ROWS, 0 if inner > 1 else -(-outer // each), {"rows": outer, "n": n, "each": each}


class _Rows(Lowering):
    """out[r] = kernel(row r of each operand), for rows along `dim`; `kernels`: for long rows, in tiles, and across memory."""

    def __init__(self, name: str, kernels: tuple[dict, dict, dict], *operands: str):
        super().__init__(name, self.planned, ("dim",), cost=per_element(5))
        #: The kernels' arguments that are arrays.
        self.kernels, self.arrays = kernels, (*operands, "out")

    def planned(self, specs, params) -> Plan | bool | None:
        x = specs[0]
        if not x.size:
            return None
        which, chunks, sizes = _layout(x.shape, params["dim"] % x.ndim)
        kernel = self.kernels[which].get(x.dtype)
        if kernel is None or not kernel.ready():
            return None
        if any(spec.dtype != x.dtype for spec in specs):
            return None
        if not all(spec.plain for spec in specs):
            return True
        count, result = len(specs), contiguous(x.shape, x.dtype, x.backend)
        if chunks:
            operands = {name: Operand(i) for i, name in enumerate(self.arrays)}
            return Plan(result, [Launch(kernel, chunks, **operands, **sizes)])
        # Rows are gathered first.
        outer, n, inner = split(x.shape, params["dim"] % x.ndim)
        which, chunks, sizes = _layout((outer * inner, n), 1)
        kernel = self.kernels[which][x.dtype]
        launches = [turned(x.dtype, outer, n, inner, Operand(i), Operand(count + i)) for i in range(count)]
        operands = {name: Operand(count + i) for i, name in enumerate(self.arrays)}
        launches.append(Launch(kernel, chunks, **operands, **sizes))
        launches.append(turned(x.dtype, outer, inner, n, Operand(2 * count), Operand(2 * count + 1)))
        if not all(launch.kernel.ready() for launch in launches):
            return None
        return Plan(result, launches, (x.size * x.dtype.itemsize,) * (count + 1))


softmax, log_softmax = _Rows("softmax", _SOFTMAX, "x"), _Rows("log_softmax", _LOG_SOFTMAX, "x")
softmax_grad = _Rows("softmax_grad", _SOFTMAX_GRAD, "g", "y")
log_softmax_grad = _Rows("log_softmax_grad", _LOG_SOFTMAX_GRAD, "g", "y")
for _rows in (softmax, log_softmax, softmax_grad, log_softmax_grad):
    register(_rows.op_name, "cpu", needs_numba=False)(_rows)


def _plan_logsumexp(specs, params) -> Plan | bool | None:
    """Of the last dimension, which is dropped."""
    (x,) = specs
    kernel = _LOGSUMEXP.get(x.dtype)
    if kernel is None or not x.size or not kernel.ready():
        return None
    if not x.plain:
        return True
    n = x.shape[-1]
    rows, each = x.size // n, share(x.size) // (n + ROW_COST) or 1
    launch = Launch(kernel, -(-rows // each), x=Operand(0), out=Operand(1), rows=rows, n=n, each=each)
    return Plan(contiguous(x.shape[:-1], x.dtype, x.backend), [launch])


logsumexp = Lowering("logsumexp", _plan_logsumexp, cost=per_element(4))
register("logsumexp", "cpu", needs_numba=False)(logsumexp)
