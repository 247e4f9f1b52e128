"""Convolution on the CPU: matrix products whose right operand is gathered from the image, panel by panel.

Each element of a result is one chain of fused multiply-adds per block of k, the blocks' sums added in order. k runs over
(channel, row, column of the filter), in the weight's gradient over (sample, position). Its blocks, and the parts of a
batch whose weight gradients are summed at the end, depend on shapes alone.
"""

from __future__ import annotations

import functools

import numpy as np

from deepcore.kernels.codegen.kernel import Address, Code, In, Out, Size, Type, args
from deepcore.kernels.cpu import gemm, gemm_tables, gemm_tile

# Panels gathered at a time.
_GATHERED_PANELS = 8

#: The geometry of the gathered image and the filter; strides in bytes. `oh`, `ow`: output positions.
IMAGE: dict[str, Type] = dict.fromkeys(
    ("height", "width", "xn", "xc", "xh", "xw", "kh", "kw", "oh", "ow", "sh", "sw", "top", "left", "dh", "dw"), Size
)


@functools.cache
def _gatherer(tools, dtype: str):
    """gather(x, k, first, count, to, …): the elements of x under tap k of the filter at positions first, first + 1, …"""
    dt = np.dtype(dtype)
    view, zero, size = tools.view(dt), dt.type(0), dt.itemsize
    load, store = tools.elements(dt)

    @tools.function
    def gather(x, k, first, count, to, height, width, xc, xh, xw, kh, kw, ow, sh, sw, top, left, dh, dw):
        channel = k // (kh * kw)
        tap = k - channel * kh * kw
        ky = tap // kw
        kx = tap - ky * kw
        plane, y = x + channel * xc, first // ow
        column, done = first - y * ow, 0
        while done < count:
            run = min(count - done, ow - column)
            result = view(to + done * size)
            row, at = y * sh - top + ky * dh, column * sw - left + kx * dw
            low, high = max(0, -at), min(run, width - at)
            if sw > 1:
                low, high = 0 if at >= 0 else -(at // sw), min(run, (width - 1 - at) // sw + 1)
            line = plane + row * xh
            if row < 0 or row >= height or low >= high:
                for r in range(run):
                    result[r] = zero
            elif sw == 1 and xw == size:
                source = view(line + at * size)
                for r in range(low):
                    result[r] = zero
                for r in range(low, high):
                    store(result, r, load(source, r))
                for r in range(high, run):
                    result[r] = zero
            else:
                for r in range(low):
                    result[r] = zero
                for r in range(low, high):
                    result[r] = view(line + (at + r * sw) * xw)[0]
                for r in range(high, run):
                    result[r] = zero
            done, column, y = done + run, 0, y + 1

    return gather


@functools.cache
def multiplier(tools, dtype: str):
    """(columns of a tile, multiply(a, ars, aks, panel, pitch, steps, rows, out, ldo, width, add)).

    out = A · panel, or added to it; rows of the panel are `pitch` bytes apart.
    """
    shape = gemm_tables.own()
    size = np.dtype(dtype).itemsize
    lanes = shape.bytes // size
    tall, low = shape.heights
    s = gemm_tile.Shape(dtype, lanes)
    columns = shape.across * lanes
    stride = columns * size
    big, small = gemm_tile.tile(tools, s, tall, shape.across), gemm_tile.tile(tools, s, low, shape.across)
    move_masked, height_of = gemm_tile.masked_mover(tools, s, shape.across), gemm.heights(tools, shape)
    tile_space = gemm_tile.space(tools, tall * stride)

    @tools.function
    def multiply(a, ars, aks, panel, pitch, steps, rows, out, ldo, width, add):
        tile_buffer, i = tile_space(), 0
        while i < rows:
            height = height_of(rows - i)
            count = min(height, rows - i)
            out_at = out + i * ldo
            to, ldt = out_at, ldo
            if width < columns:
                to, ldt = tile_buffer, stride
                if add:
                    for q in range(count):
                        move_masked(out_at + q * ldo, tile_buffer + q * stride, width)
            at, ahead = a + i * ars, 8 * pitch
            if height == tall:
                big(at, ars, aks, panel, pitch, steps, count, to, ldt, to, ldt, add, ahead, 1, 0)
            else:
                small(at, ars, aks, panel, pitch, steps, count, to, ldt, to, ldt, add, ahead, 1, 0)
            if width < columns:
                for q in range(count):
                    move_masked(tile_buffer + q * stride, out_at + q * ldo, width)
            i += height

    return columns, multiply


@functools.cache
def finisher(tools, dtype: str):
    """finish(out, at, first, rows, positions, count, bias, activation, pre, other): what follows the sums, if anything.

    `count` positions of `rows` channels from `first`, `at` bytes behind out, pre and other, while a cache has them.
    """
    size, view = np.dtype(dtype).itemsize, tools.view(np.dtype(dtype))
    words, call, call_space = tools.words(), tools.call_kernel(), gemm_tile.space(tools, 5 * 8)

    @tools.function
    def finish(out, at, first, rows, positions, count, bias, activation, pre, other):
        if bias == 0 and pre == 0 and activation == 0:
            return
        e = words(call_space())
        for i in range(rows):
            row = view(out + at)
            if bias:
                channel_bias = view(bias)[first + i]
                for j in range(count):
                    row[j] = row[j] + channel_bias
            if pre:
                pre_row = view(pre + at)
                for j in range(count):
                    pre_row[j] = row[j]
            if activation:
                e[0], e[1], e[2], e[3], e[4] = out + at, out + at, count, 0, 0
                if other:
                    e[1], e[2], e[3] = other + at, out + at, count
                call(activation, e, 0)
            at += positions * size

    return finish


_CONVOLVE: dict[str, Type] = {
    "x": Address, "weight": Address, "bias": Address, "out": Address, "activation": Code, "pre": Address, "other": Address,
    **dict.fromkeys(("samples", "groups", "rows", "depth", "block", "task_columns", "tasks_per_chunk"), Size), **IMAGE,
}  # fmt: skip


@args(**_CONVOLVE)
def convolve(tools, dtype: str):
    """activation(weight · gathered x + bias): `rows` channels of a group from `depth` ones, `task_columns` positions a task.

    `block`: steps of k between two sums, `pre`: where the activation's input is stored, `other`: the activation's second
    operand, laid out as out.
    """
    dt = np.dtype(dtype)
    size, zero = dt.itemsize, dt.type(0)
    gather, (columns, multiply) = _gatherer(tools, dtype), multiplier(tools, dtype)
    strip = _GATHERED_PANELS * columns
    pitch = strip * size + 64  # maps the lines of a column to different cache sets
    panel_space = gemm_tile.space(tools, gemm_tables.MAX_STEPS * pitch)
    view, finish = tools.view(dt), finisher(tools, dtype)

    def kernel(
        x, weight, bias, out, activation, pre, other, samples, groups, rows, depth, block, task_columns,
        tasks_per_chunk, height, width, xn, xc,
        xh, xw, kh, kw, oh, ow, sh, sw, top, left, dh, dw, chunk,
    ):  # fmt: skip
        positions, k = oh * ow, depth * kh * kw
        across, panel = -(-positions // task_columns), panel_space()
        for task in range(chunk * tasks_per_chunk, min(samples * groups * across, (chunk + 1) * tasks_per_chunk)):
            part = task // across
            first = (task - part * across) * task_columns
            end, group = min(positions, first + task_columns), part % groups
            source, a = x + part // groups * xn + group * depth * xc, weight + group * rows * k * size
            plane = part * rows * positions * size
            for j in range(first, end, strip):
                count = min(strip, end - j)
                for k0 in range(0, k, block):
                    steps = min(block, k - k0)
                    for p in range(steps):
                        to = panel + p * pitch
                        gather(
                            source, k0 + p, j, count, to, height, width, xc, xh, xw, kh, kw, ow, sh, sw, top, left, dh, dw
                        )  # fmt: skip
                        for q in range(count, -(-count // columns) * columns):
                            view(to)[q] = zero
                    for q in range(0, count, columns):
                        to, tile_columns = out + plane + (j + q) * size, min(columns, count - q)
                        at = panel + q * size
                        multiply(
                            a + k0 * size, k * size, size, at, pitch, steps, rows, to, positions * size, tile_columns,
                            k0
                        )  # fmt: skip
            finish(
                out, plane + first * size, group * rows, rows, positions, end - first, bias, activation, pre, other
            )  # fmt: skip
        return 0

    return kernel


_WEIGHT: dict[str, Type] = {
    "x": Address, "g": Address, "out": Address,
    **dict.fromkeys(("samples", "parts", "groups", "rows", "depth", "block", "task_columns", "tasks_per_chunk"), Size),
    **IMAGE,
}  # fmt: skip


@args(**_WEIGHT)
def weight_gradient(tools, dtype: str):
    """Σ g · gathered x over a part of the samples and all positions: out is (parts, groups, rows, depth · kh · kw)."""
    dt = np.dtype(dtype)
    size, shape = dt.itemsize, gemm_tables.own()
    gather, (columns, multiply) = _gatherer(tools, dtype), multiplier(tools, dtype)
    pack, _ = gemm.packer(tools, dtype, dtype, shape)
    line = gemm_tables.MAX_STEPS * size
    panel_space = gemm_tile.space(tools, columns * line + shape.bytes)
    lines_space = gemm_tile.space(tools, columns * line)

    def kernel(
        x, g, out, samples, parts, groups, rows, depth, block, task_columns, tasks_per_chunk, height, width, xn, xc,
        xh, xw, kh, kw, oh, ow, sh,
        sw, top, left, dh, dw, chunk,
    ):  # fmt: skip
        positions, k = oh * ow, depth * kh * kw
        across, share, stride = -(-k // task_columns), -(-samples // parts), columns * size
        panel, lines = panel_space(), lines_space()
        for task in range(chunk * tasks_per_chunk, min(parts * groups * across, (chunk + 1) * tasks_per_chunk)):
            part, first = task // across, task % across * task_columns
            group, start = part % groups, part // groups * share
            for j in range(first, min(k, first + task_columns), columns):
                count = min(columns, min(k, first + task_columns) - j)
                to = out + (part * rows * k + j) * size
                for n in range(start, min(samples, start + share)):
                    source = x + n * xn + group * depth * xc
                    a = g + (n * groups + group) * rows * positions * size
                    for p in range(0, positions, block):
                        steps = min(block, positions - p)
                        for q in range(count):
                            gather(
                                source, j + q, p, steps, lines + q * line, height, width, xc, xh, xw, kh, kw, ow, sh, sw, top,
                                left, dh, dw,
                            )  # fmt: skip
                        pack(lines, size, line, steps, count, panel, stride)
                        add = 1 if n > start or p else 0
                        multiply(
                            a + p * size, positions * size, size, panel, stride, steps, rows, to, k * size, count, add
                        )
        return 0

    return kernel


@args(weight=In, out=Out, **dict.fromkeys(
    ("rows", "depth", "high", "wide", "first", "down", "along", "of_group", "of_row", "of_channel"), Size
))  # fmt: skip
def turned(tools, dtype: str):
    """Filters as (groups, rows, depth, high · wide taps): a row a chunk. Where they are read: see `conv_tile.panels`."""

    def kernel(weight, out, rows, depth, high, wide, first, down, along, of_group, of_row, of_channel, chunk):
        group = chunk // rows
        source, to = group * of_group + (chunk - group * rows) * of_row + first, chunk * depth * high * wide
        for _ in range(depth):
            for y in range(high):
                for x in range(wide):
                    out[to + y * wide + x] = weight[source + y * down + x * along]
            source, to = source + of_channel, to + high * wide
        return 0

    return kernel


@args(x=Address, out=Out, **dict.fromkeys(("height", "width", "high", "wide", "sh", "sw", "first", "left"), Size))
def interleave(tools, dtype: str):
    """out[plane, first + y · sh, left + x · sw] = x[plane, y, x], or 0 without x, whose planes are (high, wide): a plane a chunk."""
    zero, size, view = np.dtype(dtype).type(0), np.dtype(dtype).itemsize, tools.view(np.dtype(dtype))

    def kernel(x, out, height, width, high, wide, sh, sw, first, left, chunk):
        columns = (width - left + sw - 1) // sw
        for y in range((height - first + sh - 1) // sh):
            to, source = (chunk * height + first + y * sh) * width + left, view(x + (chunk * high + y) * wide * size)
            if x:
                for j in range(columns):
                    out[to + j * sw] = source[j]
            else:
                for j in range(columns):
                    out[to + j * sw] = zero
        return 0

    return kernel
