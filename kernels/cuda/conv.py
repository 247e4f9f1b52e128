"""Convolution on CUDA as a product of matrices whose second one is gathered from the image while it is loaded.

The rows of the product are channels of the result and its columns positions, or, for the gradient of the filters,
columns are (channel, row, column of the filter) and k is positions. An element is one chain of fused multiply-adds in the
order of k; those of the filters' gradient are cut into parts by shape alone, whose sums are added in a fixed order. Nothing
is atomic. Where most of a tile would be idle, as with few channels in a group, `conv_direct.py` computes each element by
itself.
"""

from __future__ import annotations

import itertools
import math
from textwrap import indent
from typing import Any, TypeAlias

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen.kernel import In, Out, Size, Type, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda import tile
from deepcore.kernels.cuda.tile import ACTIVATIONS, TILES
from deepcore.kernels.registry import register

#: Numbers of a launch. A filter meets row `i * sh + ky * dh + above` of the image at position i with its row ky. `by_` are
#: divisors as `_divisor` packs them, `a_` and `out_` strides; `chunk` is the part of k of a block.
_SIZES: dict[str, Type] = dict.fromkeys(
    (
        "m", "n", "k", "chunk", "groups", "depth", "height", "width", "positions", "length", "taps", "kw", "by_positions",
        "by_length", "by_taps", "by_kw", "sh", "sw", "dh", "dw", "above", "before", "a_group", "a_row", "a_channel", "a_y", "a_x",
        "a_start", "out_row", "out_image", "out_y", "out_x", "out_start", "flags",
    ),
    Size,
)  # fmt: skip
_FAR = np.int32(-(1 << 30))


def _tap(index: str) -> list[str]:
    return [
        f"c = quotient({index}, by_taps, taps_shift)", f"tap = mad(c, minus_taps, {index})",
        "ky = quotient(tap, by_kw, kw_shift)", "kx = mad(ky, minus_kw, tap)",
    ]  # fmt: skip


def _position(index: str) -> list[str]:
    return [
        f"c = quotient({index}, by_positions, positions_shift)", f"place = mad(c, minus_positions, {index})",
        "i = quotient(place, by_length, length_shift)", "j = mad(i, minus_length, place)",
    ]  # fmt: skip


@args(image=In, a=In, bias=In, residual=In, out=Out, pre=Out, **_SIZES)
def _build(tools, dtype: str, kind: str, activation: str, side: int, steps: int):
    """out = activation(a · gathered image + bias + residual) for each group; `kind`: what a is, and what is gathered.

    "forward": filters, k = (channel, ky, kx) is contiguous; "input": filters of any strides, for the gradient of the
    image; "weight": the result's gradient, for that of the filters: k is positions. `flags`: 1 add bias, 2 add residual,
    4 store the activation's input in `pre`; vectors of four: 8 for loads of filters, 32 for the epilogue.
    """
    lanes, per_thread, pitch, weight = side // 4, side // 16, side + 4, kind == "weight"
    narrow = ["taps", "kw", "positions", "length", "dh", "dw", "sh", "sw", "above", "before", "width"]
    setup = [
        # Of 32 bits, as are indices and places in an image.
        *(f"{x} = i32({x})" for x in narrow),
        *(
            f"by_{x}, {x}_shift, minus_{x} = i32(u32(by_{x})), i32(by_{x} >> 32), i32(-{x})"
            for x in ("taps", "kw", "positions", "length")
        ),
        "rows, plane = i32(height), i32(height * width)",
        f"tall, wide, b = (m + {side} - 1) // {side}, (n + {side} - 1) // {side}, block()",
        f"top, left, b = b % tall * {side}, b // tall % wide * {side}, b // tall // wide",
        "group, split = b % groups, b // groups",
        "first = split * chunk", "last = min(k, first + chunk)",
        # A warp's loads are along memory: along positions.
        f"b_step, b_at = t % {steps}, t // {steps}" if weight else f"b_step, b_at = t // {lanes}, t % {lanes}",
        f"y_step, c_step = i32({'sh' if weight else 'dh'} * width), {'i32(groups * depth * plane)' if weight else 'plane'}",
    ]  # fmt: skip
    for u in range(4):
        setup.append(f"column = left + b_at + {u * lanes}")
        if weight:
            setup += [
                *_tap("i32(column)"),
                "at_y, at_x, at = mad(ky, dh, above), mad(kx, dw, before), group * depth + c",
            ]
        else:
            setup += [
                *_position("i32(column)"),
                "at_y, at_x, at = mad(i, sh, above), mad(j, sw, before), (c * groups + group) * depth",
            ]
        setup += [
            f"from{u} = shifted(image, at * plane + at_y * width + at_x)",
            f"fixed_y{u}, fixed_x{u} = at_y if column < n else far, at_x",
        ]
        if kind != "forward":
            # Sums of rows past the last are not stored.
            row = f"min(top + b_at + {u * lanes}, m - 1)"
            setup.append(f"a_from{u} = shifted(a, a_start + group * a_group + {row} * a_row)")

    load = ["at_k = i32(ahead + b_step)", *(_position if weight else _tap)("at_k")]
    y_of, x_of, y_by, x_by = ("i", "j", "sh", "sw") if weight else ("ky", "kx", "dh", "dw")
    load += [
        f"x_k, y_k = mad({x_of}, {x_by}, none), mad({y_of}, {y_by}, none) if at_k < last else far",
        f"offset = mad(c, c_step, mad({y_of}, y_step, x_k))",
    ]
    for u in range(4):
        inside = f"within(fixed_y{u}, y_k, rows) & within(fixed_x{u}, x_k, width)"
        load.append(f"b_next{u} = from{u}[offset] if {inside} else zero")
    if kind == "forward":
        setup += [tile.place("a", side, steps, False), "a, a_row = shifted(a, group * m * k), top + a_at"]
        load.append(tile.load_matrix("a", "m", 8, False, "k"))
        store = [tile.store_matrix("a", side, False)]
    else:
        setup.append("a_channel, a_y, a_x = i32(a_channel), i32(a_y), i32(a_x)")
        load.append(f"a_offset = mad(c, a_channel, {'place' if weight else 'mad(ky, a_y, mad(kx, a_x, none))'})")
        numbers, zeros = ", ".join(tile.fours("a_from{}[a_offset]")), ", ".join(["zero"] * 4)
        load.append(f"a_next0, a_next1, a_next2, a_next3 = ({numbers}) if at_k < last else ({zeros})")
        setup.append(f"keep_a = shifted(sa, b_step * {pitch} + b_at)")
        store = [f"keep_a[write_at + {u * lanes}] = a_next{u}" for u in range(4)]
    setup.append(f"keep_b = shifted(sb, b_step * {pitch} + b_at)")
    store += [f"keep_b[write_at + {u * lanes}] = b_next{u}" for u in range(4)]

    finish = []
    for j in range(per_thread):
        finish.append(f"column = {tile.column_of(j)}")
        if weight:
            finish.append(f"place{j} = split * out_image + column if column < n else -1")
        else:
            at = "c * out_image + out_start + i * out_y + j * out_x"
            finish += [*_position("i32(column)"), f"place{j} = {at} if column < n else -1"]

    def epilogue(column: str, group: int) -> str:
        inside = [f"(row < m) & (place{4 * group + u} >= 0)" for u in range(4)]
        places = [f"at + place{4 * group + u}" for u in range(4)]
        whole, lines = f"(flags & 32 != 0) & {inside[3]}", ["channel = group * m + row", "at = channel * out_row"]
        if kind == "forward":
            biased = ["more = bias[channel] if row < m else zero", *tile.fours("v{} += more")]
            lines.append("if flags & 1:\n" + indent("\n".join(biased), "    "))
            added = [tile.load4("more", "residual", places, whole, inside), *tile.fours("v{0} += more{0}")]
            lines.append("if flags & 2:\n" + indent("\n".join(added), "    "))
            lines.append("if flags & 4:\n" + indent(tile.store4("pre", places, whole, inside), "    "))
            lines += tile.fours("v{0} = end(v{0})")
        return "\n".join([*lines, tile.store4("out", places, whole, inside)])

    return tile.compiled(
        tools, ("image", "a", "bias", "residual", "out", "pre", *_SIZES), dtype, side, steps, activation, setup, load, store,
        epilogue, finish, "first", "last", quotient=tools.quotient(), mad=tools.mad(), within=tools.within(),
        i32=np.int32, u32=np.uint32, far=_FAR, none=np.int32(0),
    )  # fmt: skip


def _divisor(d: int) -> int:
    """A factor in the low 32 bits, a shift above: n // d = n * factor >> 31 >> shift for n < 2³¹ (Granlund, Montgomery, 1994)."""
    shift = (d - 1).bit_length()
    return -(-(1 << 31 + shift) // d) | shift << 32


_LANES, _SLICES = 32, THREADS // 32


@args(parts=In, out=Out, size=Size, count=Size)
def _sum_parts(tools, dtype: str):
    """out[i] = Σ parts[p, i]: eight chains over every eighth part, added in order."""
    dt = np.dtype(dtype)
    thread, block, wait, shared, zero = (
        tools.thread(), tools.block(), tools.barrier(), tools.shared(dt, THREADS), dt.type(0),
    )  # fmt: skip

    def kernel(parts, out, size, count):
        sums, t = shared(), thread()
        i, total = block() * _LANES + t % _LANES, zero
        if i < size:
            for p in range(t // _LANES, count, _SLICES):
                total += parts[p * size + i]
        sums[t] = total
        wait()
        if (t < _LANES) & (i < size):
            for j in range(1, _SLICES):
                total += sums[j * _LANES + t]
            out[i] = total

    return kernel


def _kernel(dtype, kind: str, activation: str, shape: tuple[int, int]) -> Kernel:
    name = f"conv_tile_{kind}_{dtype.name}_{shape[0]}" + (f"_{activation}" if activation else "")
    resident = {128: 1, 64: 3}[shape[0]] if dtype == float32 else 1  # with more, registers would spill
    return Kernel(name, _build, dtype.name, kind, activation, *shape, threads=tile.THREADS, resident=resident)


#: By dtype, kind, activation and tile. Large tiles of float64 would not fit in registers.
KERNELS: dict[Any, Kernel] = {
    (dtype, kind, activation, shape): _kernel(dtype, kind, activation, shape)
    for dtype, shapes in ((float32, TILES), (float64, TILES[1:]))
    for shape in shapes
    for kind in ("forward", "input", "weight")
    for activation in (("", *ACTIVATIONS) if kind == "forward" and dtype == float32 else ("",))
}
_SUMS = {d: Kernel(f"conv_sum_parts_{d.name}", _sum_parts, d.name) for d in (float32, float64)}
#: The least part of a tile of 64 that a product must fill.
_LEAST_FILLED = 512
#: Above this many phases of a strided filter, each a launch, the gradient of the image is computed directly.
_MOST_PHASES = 16
#: Blocks of tiles of 64 that the filters' gradient is divided into, at most, and the least part of k for each.
_BLOCKS, _LEAST_PART = 2048, 512


def _fits(m: int, n: int, k: int) -> bool:
    """Whether a product is for tiles, by shape alone, as it decides the order of the sums."""
    side = TILES[1][0]
    return min(m, side) * min(n, side) >= _LEAST_FILLED and max(n, k) < 1 << 30


_Selected: TypeAlias = tuple[Kernel, tuple[int, int]]


def _select(xp, dtype, kind: str, m: int, n: int, products: int, activation: str = "") -> _Selected | None:
    """(kernel, tile) for so many products, or None where it cannot be compiled."""
    shape = tile.choose(xp, m, n, products) if dtype == float32 else TILES[1]
    kernel = KERNELS.get((dtype, kind, activation, shape))
    return (kernel, shape) if kernel is not None and xp.ready(kernel) else None


def _launch(xp, kernel, shape, splits: int, m: int, n: int, k: int, groups: int, numbers: dict, **arrays) -> None:
    numbers = {
        "m": m, "n": n, "k": k, "chunk": k, "groups": groups, "a_group": 0, "a_row": 0, "a_channel": 0, "a_y": 0, "a_x": 0,
        "a_start": 0, "out_image": 0, "out_y": 0, "out_x": 0, "out_start": 0, **numbers,
    }  # fmt: skip
    for name in ("positions", "length", "taps", "kw"):
        numbers[f"by_{name}"] = _divisor(max(1, numbers[name]))
    xp.launch(kernel, tile.count(m, n, shape[0]) * groups * splits, **arrays, **numbers)


def _usable(*arrays) -> bool:
    """Whether there are kernels for these arrays, whose places they compute in 32 bits."""
    return (
        arrays[0].ndim == 4
        and arrays[0].dtype in _SUMS
        and all(0 < x.size < 1 << 31 and x.dtype == arrays[0].dtype for x in arrays)
    )


def _sizes(shape, filters, *, stride, padding, dilation, groups) -> tuple[int, int, int, int, list[int]]:
    """(m, n, k, groups, positions along each dimension) of a convolution's product."""
    where = [
        (n + sum(p) - d * (t - 1) - 1) // s + 1
        for n, p, d, t, s in zip(shape[2:], padding, dilation, filters[2:], stride)
    ]  # fmt: skip
    return filters[0] // groups, shape[0] * math.prod(where), math.prod(filters[1:]), groups, where


def has_kernel(xp, shape, filters, dtype, activation: str, options: dict[str, Any]) -> bool:
    """Whether `convolve` computes the convolution of such an image with such filters."""
    if len(shape) != 4:
        return False
    m, n, k, groups, _ = _sizes(shape, filters, **options)
    return _fits(m, n, k) and _select(xp, dtype, "forward", m, n, groups, activation) is not None


def convolve(xp, input, weight, bias=None, residual=None, activation: str = "", keep: bool = False, **options):
    """activation(conv(input, weight) + bias + residual), with `keep` also the activation's input; None without a kernel."""
    if not _usable(input, weight, *(x for x in (bias, residual) if x is not None)):
        return None
    m, n, k, groups, where = _sizes(input.shape, weight.shape, **options)
    selected = _select(xp, input.dtype, "forward", m, n, groups, activation) if _fits(m, n, k) else None
    if selected is None:
        return None
    (top, _), (left, _) = options["padding"]
    channels, depth, *taps = weight.shape
    positions = math.prod(where)
    image, weight = xp.ascontiguousarray(input), xp.ascontiguousarray(weight)
    out = xp.empty((len(image), channels, *where), dtype=image.dtype)
    pre = xp.empty(out.shape, dtype=image.dtype) if keep else out
    addends = [out if x is None else xp.ascontiguousarray(x) for x in (bias, residual)]
    flags = (bias is not None) + 2 * (residual is not None) + 4 * keep + 8 * tile.is_aligned(k, weight)
    _launch(
        xp, *selected, 1, m, n, k, groups,
        {
            "depth": depth, "height": image.shape[2], "width": image.shape[3], "positions": positions, "length": where[1],
            "taps": math.prod(taps), "kw": taps[1], **_strides(options), "above": -top, "before": -left,
            "out_row": positions, "out_image": channels * positions, "out_y": where[1], "out_x": 1,
            "flags": flags + 32 * tile.is_aligned(positions, addends[1], out, pre),
        },
        image=image, a=weight, bias=addends[0], residual=addends[1], out=out, pre=pre,
    )  # fmt: skip
    return (out, pre) if keep else out


def _strides(options: dict[str, Any]) -> dict[str, int]:
    return dict(zip(("sh", "sw", "dh", "dw"), (*options["stride"], *options["dilation"])))


def _phase(phase: int, before: int, taps: int, size: int, stride: int, dilation: int) -> tuple[int, int, int, int, int]:
    """Positions of an image that are `phase` modulo the stride, along one dimension, and the taps that meet them.

    (positions, first tap, taps, step between them, position of the result that the first tap meets at the first)
    """
    common = math.gcd(stride, dilation)
    step, at = stride // common, phase + before
    positions = len(range(phase, size, stride))
    if at % common:
        return positions, 0, 0, step, 0
    first = at // common * pow(dilation // common, -1, step) % step
    return positions, first, len(range(first, taps, step)), step, (at - first * dilation) // stride


def _input_grad(xp, g, weight, *, size, stride, padding, dilation, groups):
    """The gradient of the image; None without a kernel.

    Positions that differ modulo the stride meet other taps; each such phase is a product by itself, so that no zero is
    multiplied.
    """
    channels, m, *taps = weight.shape
    depth, where = channels // groups, g.shape[2:]
    if math.prod(stride) > _MOST_PHASES or not (
        _usable(g, weight) and _fits(m, len(g) * math.prod(size), depth * math.prod(taps))
    ):
        return None
    per_dimension = [
        [_phase(phase, p[0], k, n, s, d) for phase in range(min(s, n))]
        for p, k, n, s, d in zip(padding, taps, size, stride, dilation)
    ]  # fmt: skip
    phases = []
    for rows, columns in itertools.product(*map(enumerate, per_dimension)):
        n = len(g) * rows[1][0] * columns[1][0]
        selected = _select(xp, g.dtype, "input", m, n, groups)
        if selected is None:
            return None
        phases.append((rows, columns, n, selected))
    g, weight, out = (
        xp.ascontiguousarray(g),
        xp.ascontiguousarray(weight),
        xp.empty((len(g), groups * m, *size), dtype=g.dtype),
    )
    spread = [d // math.gcd(s, d) for s, d in zip(stride, dilation)]
    for (y, (high, ky, kh, y_step, above)), (x, (wide, kx, kw, x_step, before)), n, selected in phases:
        contiguous = stride[1] == 1 and stride[0] == 1
        _launch(
            xp, *selected, 1, m, n, depth * kh * kw, groups,
            {
                "depth": depth, "height": where[0], "width": where[1], "positions": high * wide, "length": wide,
                "taps": kh * kw, "kw": kw, "sh": 1, "sw": 1, "dh": -spread[0], "dw": -spread[1], "above": above,
                "before": before, "a_group": depth * m * math.prod(taps), "a_row": math.prod(taps),
                "a_channel": m * math.prod(taps), "a_y": y_step * taps[1], "a_x": x_step, "a_start": ky * taps[1] + kx,
                "out_row": math.prod(size), "out_image": groups * m * math.prod(size), "out_y": stride[0] * size[1],
                "out_x": stride[1], "out_start": y * size[1] + x,
                "flags": 32 * (contiguous and tile.is_aligned(high * wide, out)),
            },
            image=g, a=weight, bias=out, residual=out, out=out, pre=out,
        )  # fmt: skip
    return out


def _weight_grad(xp, input, g, *, size, stride, padding, dilation, groups):
    """The gradient of the filters; None without a kernel."""
    (batch, channels, *where), depth = g.shape, input.shape[1] // groups
    m, n, positions = channels // groups, depth * math.prod(size), math.prod(where)
    k = batch * positions
    if not (_usable(input, g) and _fits(m, n, k)):
        return None
    parts = max(1, min(_BLOCKS // (tile.count(m, n, TILES[1][0]) * groups), k // _LEAST_PART))
    steps = TILES[1][1]
    chunk = -(-k // (parts * steps)) * steps
    parts = -(-k // chunk)
    selected, sums = _select(xp, g.dtype, "weight", m, n, groups * parts), _SUMS[g.dtype]
    if selected is None or not xp.ready(sums):
        return None
    image, g = xp.ascontiguousarray(input), xp.ascontiguousarray(g)
    out = xp.empty((channels, depth, *size), dtype=g.dtype)
    partial = xp.empty((parts, *out.shape), dtype=g.dtype) if parts > 1 else out
    _launch(
        xp, *selected, parts, m, n, k, groups,
        {
            "chunk": chunk, "depth": depth, "height": image.shape[2], "width": image.shape[3], "positions": positions,
            "length": where[1], "taps": math.prod(size), "kw": size[1], "sh": stride[0], "sw": stride[1],
            "dh": dilation[0], "dw": dilation[1], "above": -padding[0][0], "before": -padding[1][0], "a_group": m * positions, "a_row": positions, "a_channel": channels * positions, "out_row": n,
            "out_image": out.size, "flags": 32 * tile.is_aligned(n, partial),
        },
        image=image, a=g, bias=g, residual=g, out=partial, pre=partial,
    )  # fmt: skip
    if parts > 1:
        xp.launch(sums, -(-out.size // _LANES), parts=partial, out=out, size=out.size, count=parts)
    return out


@register("conv", "cuda", needs_numba=False)
def conv(xp, input, weight, bias=None, **options):
    out = convolve(xp, input, weight, bias, **options)
    return NotImplemented if out is None else out


@register("conv_input", "cuda", needs_numba=False)
def conv_input(xp, input, weight, **options):
    out = _input_grad(xp, input, weight, **options)
    return NotImplemented if out is None else out


@register("conv_weight", "cuda", needs_numba=False)
def conv_weight(xp, input, other, **options):
    out = _weight_grad(xp, input, other, **options)
    return NotImplemented if out is None else out
