"""Direct convolution over many channels: matrix products of positions × channels and channels × filters, tap by tap.

A task is a block of positions: the part of the image that they meet is transposed to vectors of channels, 64 at a time, and
each tap of the filter collects its positions from there for the register tile. An element is chains of fused
multiply-adds over up to 64 channels and up to 192 steps of them and taps, which are added in turn.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from deepcore.kernels.codegen.kernel import Address, Code, In, Out, Size, Type, args
from deepcore.kernels.cpu import conv_direct, gemm, gemm_tables, gemm_tile

#: Channels of an image that are transposed at a time.
DEPTH = 64
#: Positions of a task: whole heights of the register tile. Bytes of the image, and filters, that a task holds.
_POSITIONS, _IMAGE_BYTES, _FILTERS = 72, 1 << 18, 256
#: Vectors of narrow images that are transposed at a time, whose rows are too short one by one.
_NARROW = 128


def columns(dtype) -> int:
    """Filters of a panel."""
    shape = gemm_tables.own()
    return shape.across * shape.bytes // np.dtype(dtype).itemsize


def blocks(rows: int) -> int:
    """Blocks of a group's filters."""
    return -(-rows // _FILTERS)


@functools.cache
def filler(tools, dtype: str):
    """fill(x, plane, count, height, width, y, left, across, high, to, pitch, stride): channels of an image as vectors.

    `count` channels, `plane` bytes apart; `high` rows from y, `across` columns from `left`, zeros around the image; rows
    of the result are `pitch` bytes apart, columns `stride`.
    """
    shape, size = gemm_tables.own(), np.dtype(dtype).itemsize
    lanes, zero, view, vector = shape.bytes // size, np.dtype(dtype).type(0), tools.view(np.dtype(dtype)), shape.bytes
    pack, _ = gemm.packer(tools, dtype, dtype, shape)
    move = gemm_tile.mover(tools, gemm_tile.Shape(dtype, lanes), 1)
    rows_space = gemm_tile.space(tools, _NARROW * vector)

    @tools.function
    def fill(x, plane, count, height, width, y, left, across, high, to, pitch, stride):
        low, end = max(0, -left), min(across, width - left)
        packed, first, last = rows_space(), 0, 0
        for i in range(high):
            at, row = to + i * pitch, y + i
            if row < 0 or row >= height or low >= end:
                for j in range(across):
                    zeros = view(at + j * stride)
                    for lane in range(lanes):
                        zeros[lane] = zero
                continue
            for j in range(low):
                zeros = view(at + j * stride)
                for lane in range(lanes):
                    zeros[lane] = zero
            if width < lanes:  # as many rows as there is space for: one alone is too short for the transposition
                if row >= last:
                    first, last = row, min(height, y + high, row + _NARROW // width)
                    pack(x + first * width * size, size, plane, (last - first) * width, count, packed, vector)
                for j in range(low, end):
                    move(packed + ((row - first) * width + left + j) * vector, at + j * stride)
            else:
                pack(x + (row * width + left + low) * size, size, plane, end - low, count, at + low * stride, stride)
            for j in range(end, across):
                zeros = view(at + j * stride)
                for lane in range(lanes):
                    zeros[lane] = zero

    return fill


@functools.cache
def writer(tools, dtype: str, most: int):
    """write(x, stride, channels, count, out, plane): `count` ≤ `most` positions of channels as vectors, to planes of out."""
    shape, size, view = gemm_tables.own(), np.dtype(dtype).itemsize, tools.view(np.dtype(dtype))
    lanes = shape.bytes // size
    pack, _ = gemm.packer(tools, dtype, dtype, shape)
    line = (most + lanes) * size
    rows_space = gemm_tile.space(tools, (lanes + 1) * line)

    @tools.function
    def write(x, stride, channels, count, out, plane):
        # The transposition writes whole vectors: straight into out only where they end with its rows.
        if channels == lanes and count % lanes == 0:
            pack(x, size, stride, channels, count, out, plane)
            return
        transposed = rows_space()
        pack(x, size, stride, channels, count, transposed, line)
        for k in range(channels):
            source, result = view(transposed + k * line), view(out + k * plane)
            for j in range(count):
                result[j] = source[j]

    return write


@functools.cache
def multiplier(tools, dtype: str):
    """multiply(a, ars, aks, panel, pitch, steps, rows, out, ldo, add, run): out = A · panel, or added to it, in sums of `run` steps."""
    shape, size = gemm_tables.own(), np.dtype(dtype).itemsize
    s = gemm_tile.Shape(dtype, shape.bytes // size)
    tall, low = shape.heights
    big, small = gemm_tile.tile(tools, s, tall, shape.across), gemm_tile.tile(tools, s, low, shape.across)
    height_of = gemm.heights(tools, shape)

    @tools.function
    def multiply(a, ars, aks, panel, pitch, steps, rows, out, ldo, add, run):
        i, ahead = 0, 8 * pitch
        while i < rows:
            height = height_of(rows - i)
            count, to = min(height, rows - i), out + i * ldo
            for k in range(0, steps, run):
                at, b, n = a + i * ars + k * aks, panel + k * pitch, min(run, steps - k)
                if height == tall:
                    big(at, ars, aks, b, pitch, n, count, to, ldo, to, ldo, add + k, ahead, 1, 0)
                else:
                    small(at, ars, aks, b, pitch, n, count, to, ldo, to, ldo, add + k, ahead, 1, 0)
            i += height

    return multiply


class Block(NamedTuple):
    """What a task computes of each group: `samples` whole images, or `high` rows of one, `across` columns of them."""

    samples: int
    high: int
    across: int


def block(depth: int, taps, positions, stride, dilation, dtype) -> Block | None:
    """The block of a task whose image the buffers hold, or None if they cannot hold that of one position."""
    reach = [(k - 1) * d + 1 for k, d in zip(taps, dilation)]
    vector = gemm_tables.own().bytes
    pixel = vector if depth * np.dtype(dtype).itemsize <= vector else DEPTH * np.dtype(dtype).itemsize

    def fits(samples: int, high: int, across: int) -> bool:
        rows, wide = (high - 1) * stride[0] + reach[0], (across - 1) * stride[1] + reach[1]
        return samples * rows * wide * pixel <= _IMAGE_BYTES

    oh, ow = positions
    across = min(ow, _POSITIONS)
    while across and not fits(1, 1, across):
        across -= 1
    if not across:
        return None
    high = max([n for n in range(1, min(oh, _POSITIONS // across) + 1) if fits(1, n, across)]) if across == ow else 1
    samples = 1
    if high == oh and across == ow:
        samples = max(n for n in range(1, _POSITIONS // (high * across) + 1) if fits(n, high, across))
    return Block(samples, high, across)


@args(weight=In, out=Out, **dict.fromkeys(
    ("rows", "depth", "high", "wide", "first", "down", "along", "of_group", "of_row", "of_channel"), Size
))  # fmt: skip
def panels(tools, dtype: str):
    """Filters as panels (groups, panels, blocks of channels, high · wide taps, channels, columns), a channel a chunk.

    Tap (y, x) of row r, channel c of a group is the weight's element group · of_group + r · of_row + c · of_channel +
    first + y · down + x · along.
    """
    width, zero = columns(dtype), np.dtype(dtype).type(0)

    def kernel(weight, out, rows, depth, high, wide, first, down, along, of_group, of_row, of_channel, chunk):
        count = -(-rows // width)
        part = chunk // depth
        c, group = chunk - part * depth, part // count
        start = (part - group * count) * width
        filters, source = min(width, rows - start), group * of_group + start * of_row + c * of_channel + first
        c0 = c // DEPTH * DEPTH
        channels, before = min(DEPTH, depth - c0), (part * depth + c0) * high * wide + c - c0
        for y in range(high):
            for x in range(wide):
                to, at = (before + (y * wide + x) * channels) * width, source + y * down + x * along
                for j in range(filters):
                    out[to + j] = weight[at + j * of_row]
                for j in range(filters, width):
                    out[to + j] = zero
        return 0

    return kernel


_CONVOLVE: dict[str, Type] = {
    "x": Address, "panels": Address, "bias": Address, "out": Address, "activation": Code, "pre": Address, "other": Address,
    **dict.fromkeys((
        "samples", "groups", "rows", "depth", "held", "high", "across", "blocks", "height", "width", "kh", "kw", "oh", "ow", "sh",
        "sw", "top", "left", "dh", "dw",
    ), Size),
}  # fmt: skip


@args(**_CONVOLVE)
def convolve(tools, dtype: str):
    """activation(weight ∗ x + bias), a block of positions and of panels a chunk. `held`, `high`, `across`: a `Block`.

    `x` is contiguous, (samples, groups · depth, height, width); `blocks`: those of a group's panels, of at most
    `_FILTERS` filters each.
    """
    dt, shape = np.dtype(dtype), gemm_tables.own()
    size, vector, width_of = dt.itemsize, shape.bytes, columns(dtype)
    lanes = vector // size
    fill, multiply, write = filler(tools, dtype), multiplier(tools, dtype), writer(tools, dtype, _POSITIONS)
    finish, lines = conv_direct.finisher(tools, dtype), gemm_tile.Shape(dtype, lanes)
    move_all, move_one = gemm_tile.mover(tools, lines, DEPTH // lanes), gemm_tile.mover(tools, lines, 1)
    image_space = gemm_tile.space(tools, _IMAGE_BYTES)
    taken_pitch = (gemm_tables.MAX_STEPS + DEPTH) * size + 64  # a move may end a pixel behind the last tap
    taken_space = gemm_tile.space(tools, _POSITIONS * taken_pitch)
    sums_space, panel_bytes = gemm_tile.space(tools, _POSITIONS * (_FILTERS * size + 64)), width_of * size
    sum_pitch, most = _FILTERS * size + 64, _FILTERS // width_of

    def kernel(
        x, panels, bias, out, activation, pre, other, samples, groups, rows, depth, held, high, across, blocks, height, width,
        kh, kw, oh, ow, sh, sw, top, left, dh, dw, chunk,
    ):  # fmt: skip
        count, parts = -(-rows // width_of), -(-ow // across)
        strips = -(-oh // high) * parts * -(-samples // held)
        block, strip = chunk // strips, chunk % strips
        group = block // blocks
        first_panel = (block - group * blocks) * most
        panel_count = min(most, count - first_panel)
        sample, strip = strip // (-(-oh // high) * parts), strip % (-(-oh // high) * parts)
        first_sample, y0, x0 = sample * held, strip // parts * high, strip % parts * across
        last_sample, number = min(samples, first_sample + held), min(high, oh - y0)
        length = min(across, ow - x0)
        tall, wide = (number - 1) * sh + (kh - 1) * dh + 1, (length - 1) * sw + (kw - 1) * dw + 1
        image, taken, sums, plane = image_space(), taken_space(), sums_space(), height * width * size
        total = (last_sample - first_sample) * number * length
        as_it_is = kh * kw == 1 and sh == 1 and sw == 1
        for c0 in range(0, depth, DEPTH):
            steps = min(DEPTH, depth - c0)
            pixel = vector if steps <= lanes else DEPTH * size
            for n in range(first_sample, last_sample):
                for c in range(0, steps, lanes):
                    fill(
                        x + ((n * groups + group) * depth + c0 + c) * plane, plane, min(lanes, steps - c), height, width,
                        y0 * sh - top, x0 * sw - left, wide, tall, image + (n - first_sample) * tall * wide * pixel + c * size,
                        wide * pixel, pixel,
                    )  # fmt: skip
            tap, taps = 0, kh * kw
            while tap < taps:
                some = min(max(1, gemm_tables.MAX_STEPS // steps), taps - tap)
                a, pitch = image, pixel
                if not as_it_is:
                    a, pitch = taken, taken_pitch
                    for t in range(some):
                        ky, to = (tap + t) // kw, taken + t * steps * size
                        start = image + (ky * dh * wide + (tap + t - ky * kw) * dw) * pixel
                        for _ in range(first_sample, last_sample):
                            for i in range(number):
                                source = start + i * sh * wide * pixel
                                if steps <= lanes:
                                    for j in range(length):
                                        move_one(source + j * sw * pixel, to + j * taken_pitch)
                                else:
                                    for j in range(length):
                                        move_all(source + j * sw * pixel, to + j * taken_pitch)
                                to += length * taken_pitch
                            start += tall * wide * pixel
                for j in range(panel_count):
                    at = panels + (((group * count + first_panel + j) * depth + c0) * taps + tap * steps) * panel_bytes
                    multiply(
                        a, pitch, size, at, panel_bytes, some * steps, total, sums + j * panel_bytes, sum_pitch, c0 + tap,
                        gemm_tables.MAX_STEPS,
                    )  # fmt: skip
                tap += some
        channels, positions, first = min(panel_count * width_of, rows - first_panel * width_of), oh * ow, 0
        runs, run = (1, number * length) if length == ow else (number, length)
        for n in range(first_sample, last_sample):
            channel = group * rows + first_panel * width_of
            at = ((n * groups * rows + channel) * positions + y0 * ow + x0) * size
            for i in range(runs):
                for c in range(0, channels, lanes):
                    write(
                        sums + first * sum_pitch + c * size, sum_pitch, min(lanes, channels - c), run,
                        out + at + (c * positions + i * ow) * size, positions * size,
                    )  # fmt: skip
                first += run
                finish(out, at + i * ow * size, channel, channels, positions, run, bias, activation, pre, other)
        return 0

    return kernel
