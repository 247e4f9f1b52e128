"""Attention on the CPU in tiles: no more of the scores is in memory than a block of queries by a block of keys.

A task of the forward has a block of queries and goes through the keys, a block at a time: scores by the register tile,
their exponentials under the greatest score so far, and the product with the values, to which what came before is rescaled.
It keeps that score and the sum of each query. (Milakov & Gimelshein, 2018; Dao et al., 2022)

A task of the gradient has the keys of a head, or every n-th block of them where there are few heads. It recomputes the
weights of a block of queries by a block of keys from these, and adds its share to the gradients of both. Tasks
depend on the shapes alone. A few queries, as those of the next token, have a kernel without tiles.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.backend.dtypes import bool_
from deepcore.kernels.codegen.kernel import Address, Float, Operand, Size, Type, Words, args
from deepcore.kernels.cpu import gemm_tables, gemm_tile, panels
from deepcore.kernels.cpu.conv_tile import columns, multiplier
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, summing
from deepcore.kernels.math import elementary
from deepcore.kernels.plan import Launch, Lowering, Plan, Spec, contiguous
from deepcore.kernels.registry import register

#: Queries of a block: whole heights of the register tile. Panels of a block of keys. The longest vectors of a head.
_ROWS, _ACROSS, _MAX_WIDTH = 48, 4, 256
#: Queries up to which keys and values are not packed; the dot products that are computed together.
_FEW_QUERIES, _DOTS = 4, 4
#: Tasks into which the gradient of few heads is divided.
_TASKS = 8
_NO_MASK, _BOOLEANS, _NUMBERS = range(3)

_SIZES: dict[str, Type] = dict.fromkeys(
    ("queries", "keys", "depth", "width", "q_row", "q_step", "masked", "mask_row", "mask_step", "causal"), Size
)
_FORWARD: dict[str, Type] = {
    "q": Address, "key_panels": Address, "value_panels": Address, "mask": Address, "out": Address, "sums": Address,
    "offsets": Words, **_SIZES, "scale": Float,
}  # fmt: skip


def _block_keys(dtype) -> int:
    return _ACROSS * columns(dtype)


def _scorer(tools, dtype: str):
    """score(s, limit, masked, mask, step, scale): a row of products with its mask added; -∞ from `limit` on.

    The result is what the scores are times 1 / scale, or with a mask, which is added behind the scale, the scores themselves:
    then they are times 1. It returns that factor.
    """
    block, dt = _block_keys(dtype), np.dtype(dtype)
    view, flags, least, one = tools.view(dt), tools.view(np.dtype(np.uint8)), dt.type(-np.inf), dt.type(1)

    @tools.inline
    def score(scores, limit, masked, mask, step, scale):
        s, factor = view(scores), scale
        if masked == _NUMBERS or scale <= 0:
            for j in range(block):
                s[j] = s[j] * scale
            factor = one
        if masked == _BOOLEANS:
            for j in range(limit):
                s[j] = s[j] if flags(mask + j * step)[0] else least
        elif masked == _NUMBERS:
            for j in range(limit):
                s[j] = s[j] + view(mask + j * step)[0]
        for j in range(max(limit, 0), block):
            s[j] = least
        return factor

    return score


@args(**_FORWARD)
def _forward(tools, dtype: str):
    """softmax(scale · Q Kᵀ + mask) V, a block of queries of a head a chunk.

    `sums` has two numbers of each query: its greatest score, and 1 / Σ exp of the scores less that. For a query without keys
    both are 0, as is the result. `offsets` has rows of five: where q, k, v, the mask and the gradient of a head start, in bytes.
    """
    dt, panel, block = np.dtype(dtype), columns(dtype), _block_keys(dtype)
    size, pitch, line = dt.itemsize, panel * dt.itemsize, block * dt.itemsize
    view, multiply, score = tools.view(dt), multiplier(tools, dtype), _scorer(tools, dtype)
    shape = gemm_tile.Shape(dtype, gemm_tables.own().bytes // size)
    vectors = line // gemm_tables.own().bytes
    greatest, total = (gemm_tile.reducer(tools, shape, vectors, name) for name in ("max", "sum"))
    exp, fma = tools.lift(elementary.exp_normal, dt), tools.fma()
    scores_space, result_space = gemm_tile.space(tools, _ROWS * line), gemm_tile.space(tools, _ROWS * _MAX_WIDTH * size)
    maxima_space, sums_space = tools.local(dt, _ROWS), tools.local(dt, _ROWS)
    zero, one, least = dt.type(0), dt.type(1), dt.type(-np.inf)

    def kernel(
        q, key_panels, value_panels, mask, out, sums, offsets, queries, keys, depth, width, q_row, q_step, masked, mask_row,
        mask_step, causal, scale, chunk,
    ):  # fmt: skip
        blocks, key_count, value_count = -(-queries // _ROWS), -(-keys // panel), -(-width // panel)
        head = chunk // blocks
        first = (chunk - head * blocks) * _ROWS
        rows, pitch_out = min(_ROWS, queries - first), value_count * pitch
        q_at, mask_at = q + offsets[5 * head] + first * q_row, mask + offsets[5 * head + 3] + first * mask_row
        key_panels += head * key_count * depth * pitch
        value_panels += head * value_count * keys * pitch
        scores, result, maxima, totals = scores_space(), result_space(), maxima_space(), sums_space()
        for i in range(rows):
            maxima[i], totals[i], r = least, zero, view(result + i * pitch_out)
            for j in range(value_count * panel):
                r[j] = zero
        end = min(keys, first + rows) if causal else keys
        for k in range(0, end, block):
            count = min(block, end - k)
            for p in range(0, count, panel):
                multiply(
                    q_at, q_row, q_step, key_panels + (k + p) * depth * size, pitch, depth, rows, scores + p * size, line, 0,
                    gemm_tables.MAX_STEPS,
                )  # fmt: skip
            for i in range(rows):
                s, limit = view(scores + i * line), min(count, first + i + 1 - k) if causal else count
                at = mask_at + i * mask_row + k * mask_step
                factor = score(scores + i * line, limit, masked, at, mask_step, scale)
                best = greatest(scores + i * line) * factor
                best = best if best > maxima[i] else maxima[i]
                base = best if best > least else zero
                for j in range(block):
                    s[j] = exp(fma(s[j], factor, -base))
                again = exp(maxima[i] - base)
                totals[i] = totals[i] * again + total(scores + i * line)
                if best > maxima[i] and k > 0:
                    r = view(result + i * pitch_out)
                    for j in range(value_count * panel):
                        r[j] = r[j] * again
                maxima[i] = best
            for p in range(value_count):
                multiply(
                    scores, line, size, value_panels + (p * keys + k) * pitch, pitch, count, rows, result + p * pitch, pitch_out,
                    1, gemm_tables.MAX_STEPS,
                )  # fmt: skip
        for i in range(rows):
            row = head * queries + first + i
            r, to = view(result + i * pitch_out), view(out + row * width * size)
            none = totals[i] == zero
            factor = zero if none else one / totals[i]
            pair = view(sums + 2 * row * size)
            pair[0], pair[1] = zero if none else maxima[i], factor
            for j in range(width):
                to[j] = r[j] * factor
        return 0

    return kernel


_FEW: dict[str, Type] = {
    "q": Address, "k": Address, "v": Address, "mask": Address, "out": Address, "sums": Address, "offsets": Words, **_SIZES,
    "k_row": Size, "v_row": Size, "scale": Float,
}  # fmt: skip


@args(**_FEW)
def _few(tools, dtype: str):
    """As `_forward` for a few queries, as those of the next token: keys and values are read once, where they are; a head a chunk."""
    dt, block = np.dtype(dtype), _block_keys(dtype)
    size, shape = dt.itemsize, gemm_tile.Shape(dtype, gemm_tables.own().bytes // dt.itemsize)
    view, score = tools.view(dt), _scorer(tools, dtype)
    dot = gemm_tile.dotter(tools, shape, _DOTS)
    add_eight, add_one = gemm_tile.adder(tools, shape, 8, ""), gemm_tile.adder(tools, shape, 1, "")
    greatest, total = (gemm_tile.reducer(tools, shape, block // shape.lanes, name) for name in ("max", "sum"))
    exp, fma = tools.lift(elementary.exp_normal, dt), tools.fma()
    scores_space, result_space = gemm_tile.space(tools, block * size), gemm_tile.space(tools, 2 * _MAX_WIDTH * size)
    zero, one, least = dt.type(0), dt.type(1), dt.type(-np.inf)

    def kernel(
        q, k, v, mask, out, sums, offsets, queries, keys, depth, width, q_row, q_step, masked, mask_row, mask_step, causal,
        k_row, v_row, scale, chunk,
    ):  # fmt: skip
        q_at, k_at, v_at = q + offsets[5 * chunk], k + offsets[5 * chunk + 1], v + offsets[5 * chunk + 2]
        scores, result = scores_space(), result_space()
        s, r = view(scores), view(result)
        for i in range(queries):
            mask_at = mask + offsets[5 * chunk + 3] + i * mask_row
            best_so_far, sum_so_far = least, zero
            for j in range(width):
                r[j] = zero
            end = min(keys, i + 1) if causal else keys
            for first in range(0, end, block):
                count = min(block, end - first)
                for j in range(0, count, _DOTS):
                    dot(
                        q_at + i * q_row,
                        k_at + (first + j) * k_row,
                        k_row,
                        depth,
                        min(_DOTS, count - j),
                        scores + j * size,
                    )
                factor = score(scores, count, masked, mask_at + first * mask_step, mask_step, scale)
                best = greatest(scores) * factor
                best = best if best > best_so_far else best_so_far
                base = best if best > least else zero
                for j in range(block):
                    s[j] = exp(fma(s[j], factor, -base))
                again = exp(best_so_far - base)
                sum_so_far = sum_so_far * again + total(scores)
                if best > best_so_far and first > 0:
                    for j in range(width):
                        r[j] = r[j] * again
                best_so_far = best
                j = 0
                while j < count:
                    at = v_at + (first + j) * v_row
                    if j + 8 <= count:
                        add_eight(at, v_row, scores + j * size, size, result, width)
                        j += 8
                    else:
                        add_one(at, v_row, scores + j * size, size, result, width)
                        j += 1
            row = chunk * queries + i
            to, pair = view(out + row * width * size), view(sums + 2 * row * size)
            none = sum_so_far == zero
            factor = zero if none else one / sum_so_far
            pair[0], pair[1] = zero if none else best_so_far, factor
            for j in range(width):
                to[j] = r[j] * factor
        return 0

    return kernel


@args(g=Address, out=Address, deltas=Address, offsets=Words, queries=Size, width=Size, g_row=Size)
def _deltas(tools, dtype: str):
    """Σ g · out over each query's result, a head a chunk."""
    dt = np.dtype(dtype)
    size, view, zero = dt.itemsize, tools.view(dt), dt.type(0)

    @tools.inline
    def product(x, y, z, i, c, d):
        return x[i] * y[i]

    dot = summing(tools, dt, product)

    def kernel(g, out, deltas, offsets, queries, width, g_row, chunk):
        g += offsets[5 * chunk + 4]
        to = view(deltas + chunk * queries * size)
        for i in range(queries):
            x, y = view(g + i * g_row), view(out + (chunk * queries + i) * width * size)
            to[i] = dot(x, y, y, width, zero, zero)
        return 0

    return kernel


_BACKWARD: dict[str, Type] = {
    **dict.fromkeys((
        "q", "g", "key_panels", "value_panels", "key_rows", "query_rows", "gradient_rows", "mask", "sums", "deltas", "dq", "dk",
        "dv",
    ), Address),
    "offsets": Words, **_SIZES, "g_row": Size, "parts": Size, "scale": Float,
}  # fmt: skip


@args(**_BACKWARD)
def _backward(tools, dtype: str):
    """The gradients by one of the `parts` of a head's blocks of keys a chunk; those of queries still in `parts`, in dq.

    Panels have vectors as columns, rows have them as steps. With the weights P and the gradient G of the result,
    dV = Pᵀ G and dS = P ∘ (G Vᵀ - δ) · scale, dQ = dS K, dK = dSᵀ Q.
    """
    dt, panel, block = np.dtype(dtype), columns(dtype), _block_keys(dtype)
    size, pitch, line = dt.itemsize, panel * dt.itemsize, block * dt.itemsize
    view, multiply, score = tools.view(dt), multiplier(tools, dtype), _scorer(tools, dtype)
    exp, fma, zero, run = tools.lift(elementary.exp_normal, dt), tools.fma(), dt.type(0), gemm_tables.MAX_STEPS
    weights_space, slopes_space = (gemm_tile.space(tools, _ROWS * line) for _ in range(2))
    dk_space, dv_space = (gemm_tile.space(tools, block * _MAX_WIDTH * size) for _ in range(2))

    def kernel(
        q, g, key_panels, value_panels, key_rows, query_rows, gradient_rows, mask, sums, deltas, dq, dk, dv, offsets, queries,
        keys, depth, width, q_row, q_step, masked, mask_row, mask_step, causal, g_row, parts, scale, chunk,
    ):  # fmt: skip
        head = chunk // parts
        part = chunk - head * parts
        key_count, depths, widths = -(-keys // panel), -(-depth // panel), -(-width // panel)
        pitch_k, pitch_v = depths * pitch, widths * pitch
        q, g, mask = q + offsets[5 * head], g + offsets[5 * head + 4], mask + offsets[5 * head + 3]
        key_panels += head * key_count * depth * pitch
        value_panels += head * key_count * width * pitch
        key_rows += head * depths * keys * pitch
        query_rows += head * depths * queries * pitch
        gradient_rows += head * widths * queries * pitch
        dq += chunk * queries * pitch_k
        weights, slopes, dk_sums, dv_sums = weights_space(), slopes_space(), dk_space(), dv_space()
        x = view(dq)
        for j in range(queries * depths * panel):
            x[j] = zero
        pairs, means = view(sums + 2 * head * queries * size), view(deltas + head * queries * size)
        for k in range(part * block, keys, parts * block):
            count = min(block, keys - k)
            x, y = view(dk_sums), view(dv_sums)
            for j in range(count * depths * panel):
                x[j] = zero
            for j in range(count * widths * panel):
                y[j] = zero
            for first in range(k // _ROWS * _ROWS if causal else 0, queries, _ROWS):
                rows = min(_ROWS, queries - first)
                for p in range(0, count, panel):
                    multiply(
                        q + first * q_row, q_row, q_step, key_panels + (k + p) * depth * size, pitch, depth, rows,
                        weights + p * size, line, 0, run,
                    )  # fmt: skip
                    multiply(
                        g + first * g_row, g_row, size, value_panels + (k + p) * width * size, pitch, width, rows,
                        slopes + p * size, line, 0, run,
                    )  # fmt: skip
                for i in range(rows):
                    w, s = view(weights + i * line), view(slopes + i * line)
                    limit = min(count, first + i + 1 - k) if causal else count
                    at = mask + (first + i) * mask_row + k * mask_step
                    factor = score(weights + i * line, limit, masked, at, mask_step, scale)
                    best, inverse, mean = pairs[2 * (first + i)], pairs[2 * (first + i) + 1], means[first + i]
                    for j in range(block):
                        w[j] = exp(fma(w[j], factor, -best)) * inverse
                    for j in range(block):
                        s[j] = w[j] * (s[j] - mean) * scale
                    for j in range(max(limit, 0), block):
                        s[j] = zero
                for p in range(widths):
                    multiply(
                        weights, size, line, gradient_rows + (p * queries + first) * pitch, pitch, rows, count,
                        dv_sums + p * pitch, pitch_v, 1, run,
                    )  # fmt: skip
                for p in range(depths):
                    multiply(
                        slopes, size, line, query_rows + (p * queries + first) * pitch, pitch, rows, count,
                        dk_sums + p * pitch, pitch_k, 1, run,
                    )  # fmt: skip
                    multiply(
                        slopes, line, size, key_rows + (p * keys + k) * pitch, pitch, count, rows,
                        dq + first * pitch_k + p * pitch, pitch_k, 1, run,
                    )  # fmt: skip
            for i in range(count):
                row = head * keys + k + i
                x, to = view(dk_sums + i * pitch_k), view(dk + row * depth * size)
                for j in range(depth):
                    to[j] = x[j]
                y, to = view(dv_sums + i * pitch_v), view(dv + row * width * size)
                for j in range(width):
                    to[j] = y[j]
        return 0

    return kernel


@args(source=Address, out=Address, queries=Size, depth=Size, parts=Size)
def _collect(tools, dtype: str):
    """The gradient of the queries, from those of the parts, which are added in turn. A head a chunk."""
    dt, panel = np.dtype(dtype), columns(dtype)
    size, view = dt.itemsize, tools.view(dt)

    def kernel(source, out, queries, depth, parts, chunk):
        pitch = -(-depth // panel) * panel * size
        for i in range(queries):
            to, at = view(out + (chunk * queries + i) * depth * size), source + (chunk * parts * queries + i) * pitch
            x = view(at)
            for j in range(depth):
                to[j] = x[j]
            for part in range(1, parts):
                x = view(at + part * queries * pitch)
                for j in range(depth):
                    to[j] += x[j]
        return 0

    return kernel


_ATTEND, _ATTEND_FEW, _DELTAS, _GRADIENT, _COLLECT = (
    kernels_of(f"attention{name}", build)
    for name, build in (
        ("", _forward),
        ("_few", _few),
        ("_deltas", _deltas),
        ("_grad", _backward),
        ("_collect", _collect),
    )
)


def _offsets(specs: tuple[Spec | None, ...], heads: int) -> np.ndarray:
    """Where the matrices of each head start: a row for each, of q, k, v, mask and gradient, in bytes."""
    table = np.zeros((heads, 5), np.int64)
    for column, spec in enumerate(specs):
        if spec is not None and spec.ndim > 2:
            for places, stride in zip(np.indices(spec.shape[:-2]).reshape(spec.ndim - 2, -1), spec.strides):
                table[:, column] += places * stride
    return table


def _fits(specs, params) -> bool:
    """Whether there are kernels for the shapes and dtypes."""
    q, _, v = specs[:3]
    if q.dtype not in FLOATS or any(s.dtype not in (q.dtype, bool_) or not s.size for s in specs):
        return False
    return max(q.shape[-1], v.shape[-1]) <= _MAX_WIDTH and panels.ready(q.dtype)


def _copies(specs, params) -> tuple[bool, ...] | None:
    """Vectors are contiguous, whatever the order of the heads; a mask is read as it is."""
    flags = tuple(not s.aligned or (s.dtype != bool_ and s.strides[-1] != s.dtype.itemsize) for s in specs[:3])
    flags += tuple(not s.aligned for s in specs[3:])
    return flags if any(flags) else None


def _sizes(q: Spec, v: Spec, mask: Spec | None, params) -> dict[str, int]:
    rows, step = mask.strides[-2:] if mask is not None else (0, 0)
    kind = _NO_MASK if mask is None else _BOOLEANS if mask.dtype == bool_ else _NUMBERS
    return {
        "queries": q.shape[-2], "keys": v.shape[-2], "depth": q.shape[-1], "width": v.shape[-1], "q_row": q.strides[-2],
        "q_step": q.strides[-1], "masked": kind, "mask_row": rows, "mask_step": step, "causal": bool(params["causal"]),
    }  # fmt: skip


def _plan_forward(specs, params) -> Plan | bool | None:
    q, k, v, *more = specs
    dtype, mask = q.dtype, more[0] if more else None
    if not _fits(specs, params):
        return None
    if _copies(specs, params) is not None:
        return True
    heads, count = math.prod(q.shape[:-2]), len(specs)
    offsets = _offsets((q, k, v, mask), heads)
    (queries, depth), (keys, width) = q.shape[-2:], v.shape[-2:]
    result, logs = (contiguous((*q.shape[:-1], *more), dtype, q.backend) for more in ((width,), (2,)))
    if queries <= _FEW_QUERIES:
        if not _ATTEND_FEW[dtype].ready():
            return None
        scale, out, sums = (Operand(count + i) for i in range(3))
        launch = Launch(
            _ATTEND_FEW[dtype], heads, q=Operand(0), k=Operand(1), v=Operand(2), mask=None if mask is None else Operand(3),
            out=out, sums=sums, offsets=offsets, scale=scale, k_row=k.strides[-2], v_row=v.strides[-2],
            **_sizes(q, v, mask, params),
        )  # fmt: skip
        return Plan(result, [launch], owner=offsets, aux=[logs])
    if not _ATTEND[dtype].ready():
        return None
    # Behind the arrays: the scale, the packed keys and values, the results.
    scale, key_panels, value_panels, out, sums = (Operand(count + i) for i in range(5))
    pack_k, k_bytes = panels.launch(
        dtype, Operand(1), key_panels, offsets[:, 1], depth, keys, k.strides[-1], k.strides[-2]
    )
    pack_v, v_bytes = panels.launch(
        dtype, Operand(2), value_panels, offsets[:, 2], keys, width, v.strides[-2], v.strides[-1]
    )
    attend = Launch(
        _ATTEND[dtype], heads * -(-queries // _ROWS), q=Operand(0), key_panels=key_panels, value_panels=value_panels,
        mask=None if mask is None else Operand(3), out=out, sums=sums, offsets=offsets, scale=scale,
        **_sizes(q, v, mask, params),
    )  # fmt: skip
    return Plan(result, [pack_k, pack_v, attend], (k_bytes, v_bytes), owner=offsets, aux=[logs])


def _plan_backward(specs, params) -> Plan | bool | None:
    g, q, k, v, out, sums, *more = specs
    dtype, mask = q.dtype, more[0] if more else None
    kernels = _DELTAS, _GRADIENT, _COLLECT, _ATTEND
    if not _fits((q, k, v, g, out, sums, *more), params) or not all(each[dtype].ready() for each in kernels):
        return None
    if _grad_copies(specs, params) is not None:
        return True
    heads, count = math.prod(q.shape[:-2]), len(specs)
    offsets, sizes = _offsets((q, k, v, mask, g), heads), _sizes(q, v, mask, params)
    (queries, depth), (keys, width), item = q.shape[-2:], v.shape[-2:], dtype.itemsize
    parts = max(1, min(_TASKS // heads, -(-keys // _block_keys(dtype))))
    few = queries <= _FEW_QUERIES
    scale, *spaces, dq, dk, dv = (Operand(count + i) for i in range(14 if few else 11))
    out_at, sums_at = Operand(4), Operand(5)
    if few:
        *spaces, values, out_at, sums_at = spaces
    # Of each packed operand: its number, its column of offsets, steps, units, and the strides along and across.
    packed = [
        (2, 1, depth, keys, k.strides[::-1]), (3, 2, width, keys, v.strides[::-1]), (2, 1, keys, depth, k.strides[-2:]),
        (1, 0, queries, depth, q.strides[-2:]), (0, 4, queries, width, g.strides[-2:]),
    ]  # fmt: skip
    packs = [
        panels.launch(dtype, Operand(number), space, offsets[:, column], steps, units, *strides[:2])
        for (number, column, steps, units, strides), space in zip(packed, spaces)
    ]
    *rows, deltas, of_parts = spaces
    names = "key_panels", "value_panels", "key_rows", "query_rows", "gradient_rows"
    again: list[Launch] = []
    again_bytes: tuple[int, ...] = ()
    if few:  # the weights that the tiles recompute are those of the tiles' sums, not of the dot products'
        pack_v, v_bytes = panels.launch(dtype, Operand(3), values, offsets[:, 2], keys, width, *v.strides[-2:])
        attend = Launch(
            _ATTEND[dtype], heads, q=Operand(1), key_panels=rows[0], value_panels=values,
            mask=None if mask is None else Operand(6), out=out_at, sums=sums_at, offsets=offsets, scale=scale, **sizes,
        )  # fmt: skip
        again = [pack_v, attend]
        again_bytes = v_bytes, heads * queries * width * item, heads * queries * 2 * item
    gradient = Launch(
        _GRADIENT[dtype], heads * parts, q=Operand(1), g=Operand(0), **dict(zip(names, rows)),
        mask=None if mask is None else Operand(6), sums=sums_at, deltas=deltas, dq=of_parts, dk=dk, dv=dv, offsets=offsets,
        g_row=g.strides[-2], parts=parts, scale=scale, **sizes,
    )  # fmt: skip
    launches = [
        *(launch for launch, _ in packs),
        *again,
        Launch(
            _DELTAS[dtype], heads, g=Operand(0), out=out_at, deltas=deltas, offsets=offsets, queries=queries, width=width,
            g_row=g.strides[-2],
        ),
        gradient,
        Launch(_COLLECT[dtype], heads, source=of_parts, out=dq, queries=queries, depth=depth, parts=parts),
    ]  # fmt: skip
    pitch = -(-depth // columns(dtype)) * columns(dtype) * item
    spaces_bytes = (*(size for _, size in packs), heads * queries * item, heads * parts * queries * pitch, *again_bytes)
    result, *others = (contiguous(s.shape, dtype, q.backend) for s in (q, k, v))
    return Plan(result, launches, spaces_bytes, owner=offsets, aux=others)


def _grad_copies(specs, params) -> tuple[bool, ...] | None:
    g, q, k, v, out, sums, *more = specs
    flags = _copies((q, k, v, *more), params) or (False,) * (3 + len(more))
    first = _copies((g, g, g), params) or (False,)
    flags = (first[0], *flags[:3], not out.plain, not sums.plain, *flags[3:])
    return flags if any(flags) else None


def _work(products: int, q: Spec, k: Spec, v: Spec) -> float:
    """`products` of all queries, keys and their vectors."""
    return products * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


register("attention", "cpu")(
    Lowering(
        "attention",
        _plan_forward,
        ("causal",),
        ("scale",),
        copies=_copies,
        cost=lambda specs, params: _work(2, *specs[:3]),
    )
)
register("attention_grad", "cpu")(
    Lowering(
        "attention_grad", _plan_backward, ("causal",), ("scale",), many=True, copies=_grad_copies,
        cost=lambda specs, params: _work(5, *specs[1:4]),
    )
)  # fmt: skip
