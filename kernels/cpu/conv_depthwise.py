"""Convolution of each channel by filters of its own.

Bands of an image are copied with the zeros around it, for each phase of the strides apart, into a buffer where a tap of
the filter is a shift: whole bands are one loop, whatever their width. An element is one chain of fused multiply-adds.
"""

from __future__ import annotations

import functools

import numpy as np

from deepcore.kernels.codegen.kernel import Address, Code, Size, Type, args
from deepcore.kernels.cpu import conv_direct, gemm_tables, gemm_tile

#: Elements of a buffer; beyond a phase's rows, zeros that a shifted loop may read.
SPACE, _MORE = 1 << 14, 32

_GEOMETRY: dict[str, Type] = dict.fromkeys(("groups", "rows", "band"), Size) | conv_direct.IMAGE


def band(kernel: tuple, positions: tuple, stride: tuple, dilation: tuple) -> int:
    """Rows of results for which the buffers suffice; 0: not even for one."""
    beyond = [(k - 1) * d // s for k, d, s in zip(kernel, dilation, stride)]
    pitch, phases = positions[1] + beyond[1], stride[0] * stride[1]
    rows = (SPACE // phases - pitch - _MORE) // pitch - beyond[0]
    return max(0, min(rows, positions[0]))


@functools.cache
def _filler(tools, dtype: str):
    """fill(x, first, high, …, to): the phases of `high` rows of results from `first`; the elements of a phase."""
    dt = np.dtype(dtype)
    view, size, zero = tools.view(dt), dt.itemsize, dt.type(0)

    @tools.function
    def fill(x, first, high, height, width, xh, xw, kh, kw, ow, sh, sw, top, left, dh, dw, to):
        pitch, lines = ow + (kw - 1) * dw // sw, high + (kh - 1) * dh // sh
        length = lines * pitch + pitch + _MORE
        for a in range(sh):
            for b in range(sw):
                part, shift = view(to + (a * sw + b) * length * size), b - left
                low = min(pitch, max(0, -(shift // sw)))
                end = max(low, min(pitch, (width - 1 - shift) // sw + 1))
                for r in range(lines):
                    y, at = (first + r) * sh + a - top, r * pitch
                    if y < 0 or y >= height:
                        for j in range(at, at + pitch):
                            part[j] = zero
                        continue
                    for j in range(at, at + low):
                        part[j] = zero
                    line = x + y * xh + shift * xw
                    if xw == size:
                        source = view(line)
                        if sw == 1:
                            for j in range(low, end):
                                part[at + j] = source[j]
                        else:
                            for j in range(low, end):
                                part[at + j] = source[j * sw]
                    else:
                        for j in range(low, end):
                            part[at + j] = view(line + j * sw * xw)[0]
                    for j in range(at + end, at + pitch):
                        part[j] = zero
                for j in range(lines * pitch, length):
                    part[j] = zero
        return length

    return fill


_CONVOLVE: dict[str, Type] = {
    "x": Address, "weight": Address, "bias": Address, "out": Address, "activation": Code, "pre": Address, "other": Address,
    "planes": Size, "each": Size, **_GEOMETRY,
}  # fmt: skip


@args(**_CONVOLVE)
def convolve(tools, dtype: str):
    """activation(weight ∗ x + bias): each channel of x has `rows` results. `each` of the `planes` of results a chunk."""
    dt = np.dtype(dtype)
    size, zero, view, fma = dt.itemsize, dt.type(0), tools.view(dt), tools.fma()
    fill, finish = _filler(tools, dtype), conv_direct.finisher(tools, dtype)
    phases_space, sums_space = gemm_tile.space(tools, SPACE * size), gemm_tile.space(tools, SPACE * size)

    def kernel(
        x, weight, bias, out, activation, pre, other, planes, each, groups, rows, band, height, width, xn, xc, xh, xw, kh, kw,
        oh, ow, sh, sw, top, left, dh, dw, chunk,
    ):  # fmt: skip
        phases, pitch, total = phases_space(), ow + (kw - 1) * dw // sw, view(sums_space())
        for plane in range(chunk * each, min(planes, (chunk + 1) * each)):
            sample = plane // (groups * rows)
            channel = plane - sample * groups * rows
            source, filters = x + sample * xn + channel // rows * xc, view(weight + channel * kh * kw * size)
            for first in range(0, oh, band):
                high = min(band, oh - first)
                length = fill(
                    source, first, high, height, width, xh, xw, kh, kw, ow, sh, sw, top, left, dh, dw, phases
                )  # fmt: skip
                count = (high - 1) * pitch + ow
                for j in range(count):
                    total[j] = zero
                for ky in range(kh):
                    y = ky * dh
                    line = phases + (y % sh * sw * length + y // sh * pitch) * size
                    kx = 0
                    while kx < kw:
                        at, next, after = kx * dw, (kx + 1) * dw, (kx + 2) * dw
                        p = view(line + (at % sw * length + at // sw) * size)
                        u = filters[ky * kw + kx]
                        if kx + 2 < kw:
                            q = view(line + (next % sw * length + next // sw) * size)
                            r = view(line + (after % sw * length + after // sw) * size)
                            v, w = filters[ky * kw + kx + 1], filters[ky * kw + kx + 2]
                            for j in range(count):
                                total[j] = fma(w, r[j], fma(v, q[j], fma(u, p[j], total[j])))
                            kx += 3
                        else:
                            for j in range(count):
                                total[j] = fma(u, p[j], total[j])
                            kx += 1
                at = (plane * oh + first) * ow * size
                for r in range(high):
                    result = view(out + at + r * ow * size)
                    for j in range(ow):
                        result[j] = total[r * pitch + j]
                finish(out, at, channel, 1, 0, high * ow, bias, activation, pre, other)
        return 0

    return kernel


@args(x=Address, g=Address, out=Address, samples=Size, **_GEOMETRY)
def weight_gradient(tools, dtype: str):
    """out[channel] = Σ g · shifted x over samples and positions: a channel of results a chunk."""
    dt = np.dtype(dtype)
    size, zero, view, shape = dt.itemsize, dt.type(0), tools.view(dt), gemm_tables.own()
    fill, dot = _filler(tools, dtype), gemm_tile.dotter(tools, gemm_tile.Shape(dtype, shape.bytes // size), 4)
    phases_space, gradient_space = gemm_tile.space(tools, SPACE * size), gemm_tile.space(tools, SPACE * size)
    products_space = gemm_tile.space(tools, 4 * size)

    def kernel(
        x, g, out, samples, groups, rows, band, height, width, xn, xc, xh, xw, kh, kw, oh, ow, sh, sw, top, left, dh, dw, chunk
    ):  # fmt: skip
        phases, pitch, gradient, products = phases_space(), ow + (kw - 1) * dw // sw, gradient_space(), products_space()
        padded, result, sums = view(gradient), view(out + chunk * kh * kw * size), view(products)
        for tap in range(kh * kw):
            result[tap] = zero
        for n in range(samples):
            source = x + n * xn + chunk // rows * xc
            plane = view(g + (n * groups * rows + chunk) * oh * ow * size)
            for first in range(0, oh, band):
                high = min(band, oh - first)
                length = fill(
                    source, first, high, height, width, xh, xw, kh, kw, ow, sh, sw, top, left, dh, dw, phases
                )  # fmt: skip
                for r in range(high):
                    for j in range(ow):
                        padded[r * pitch + j] = plane[(first + r) * ow + j]
                    for j in range(ow, pitch):
                        padded[r * pitch + j] = zero
                count = (high - 1) * pitch + ow
                for ky in range(kh):
                    y = ky * dh
                    line = phases + (y % sh * sw * length + y // sh * pitch) * size
                    kx = 0
                    while kx < kw:
                        taps = min(4, kw - kx) if sw == 1 else 1
                        at = kx * dw
                        dot(gradient, line + (at % sw * length + at // sw) * size, dw * size, count, taps, products)
                        for t in range(taps):
                            result[ky * kw + kx + t] += sums[t]
                        kx += taps
        return 0

    return kernel
