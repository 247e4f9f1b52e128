"""Direct convolution on CUDA: a thread per element of the result, a block per element of the weight's gradient.

An element is one chain of fused multiply-adds per block of k = (channel, row, column of the filter), the blocks' sums
added in order. Weight gradients are reduced in a block's fixed tree.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.kernels.codegen.kernel import In, Out, Size, Type, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.grid import blocks_for
from deepcore.kernels.cuda.rows import FLOATS, add
from deepcore.kernels.registry import register

#: The geometry of image, output positions (oh, ow) and filter.
_IMAGE: dict[str, Type] = dict.fromkeys(
    ("height", "width", "kh", "kw", "oh", "ow", "sh", "sw", "top", "left", "dh", "dw"), Size
)


@args(
    x=In, weight=In, bias=In, out=Out, size=Size, groups=Size, rows=Size, depth=Size, step=Size, block=Size, biased=Size,
    **_IMAGE,
)  # fmt: skip
def _convolve(tools, dtype: str, transposed: bool):
    """out = weight · x + bias: `rows` channels of a group from `depth` ones, at oh × ow positions.

    If `transposed`, positions are those of the convolved image, x is the result's gradient, and `step`, the taps of a
    filter's channels, is the weight's stride between channels of x.
    """
    dt = np.dtype(dtype)
    thread, own, blocks, fma, zero = tools.thread(), tools.block(), tools.blocks(), tools.fma(dt), dt.type(0)

    def kernel(
        x, weight, bias, out, size, groups, rows, depth, step, block, biased, height, width, kh, kw, oh, ow, sh, sw, top,
        left, dh, dw,
    ):  # fmt: skip
        taps, k = kh * kw, depth * kh * kw
        for i in range(own() * THREADS + thread(), size, blocks() * THREADS):
            column, row = i % ow, i // ow % oh
            channel, n = i // (ow * oh) % (groups * rows), i // (ow * oh * groups * rows)
            group, r = channel // rows, channel % rows
            image = (n * groups + group) * depth * height * width
            first = (group * depth * rows + r) * taps if transposed else channel * k
            total, part, left_in_block = zero, zero, block
            for c in range(depth):
                for ky in range(kh):
                    for kx in range(kw):
                        if transposed:
                            y, z = row + top - ky * dh, column + left - kx * dw
                            inside = (y >= 0) & (z >= 0) & (y % sh == 0) & (z % sw == 0)
                            y, z = y // sh, z // sw
                        else:
                            y, z = row * sh - top + ky * dh, column * sw - left + kx * dw
                            inside = (y >= 0) & (z >= 0)
                        inside = inside & (y < height) & (z < width)
                        value = x[image + (c * height + y) * width + z] if inside else zero
                        part = fma(weight[first + c * step + ky * kw + kx], value, part)
                        left_in_block -= 1
                        if left_in_block == 0:
                            total, part, left_in_block = total + part, zero, block
            total = total + part
            out[i] = total + bias[channel] if biased else total

    return kernel


@args(x=In, g=In, out=Out, size=Size, samples=Size, groups=Size, rows=Size, depth=Size, **_IMAGE)
def _weight_grad(tools, dtype: str):
    """out[o, c, ky, kx] = Σ g · x over samples and positions, divided among the threads of a block."""
    dt = np.dtype(dtype)
    thread, own, blocks, fma, zero = tools.thread(), tools.block(), tools.blocks(), tools.fma(dt), dt.type(0)
    total_of = tools.block_reduction(add, dt, THREADS)

    def kernel(
        x, g, out, size, samples, groups, rows, depth, height, width, kh, kw, oh, ow, sh, sw, top, left, dh, dw
    ):  # fmt: skip
        positions = oh * ow
        for i in range(own(), size, blocks()):
            kx, ky = i % kw, i // kw % kh
            c, channel = i // (kw * kh) % depth, i // (kw * kh * depth)
            group, total = channel // rows, zero
            for p in range(thread(), samples * positions, THREADS):
                n, at = p // positions, p % positions
                y, z = at // ow * sh - top + ky * dh, at % ow * sw - left + kx * dw
                inside = (y >= 0) & (z >= 0) & (y < height) & (z < width)
                place = (((n * groups + group) * depth + c) * height + y) * width + z
                value = x[place] if inside else zero
                total = fma(g[(n * groups * rows + channel) * positions + at], value, total)
            total = total_of(total)
            if thread() == 0:
                out[i] = total

    return kernel


_CONV, _CONV_INPUT = (
    {d: Kernel(f"conv{'_input' * transposed}_{d.name}", _convolve, d.name, transposed) for d in FLOATS}
    for transposed in (False, True)
)
_CONV_WEIGHT = {d: Kernel(f"conv_weight_{d.name}", _weight_grad, d.name) for d in FLOATS}
#: The maximum block of k, equal to `kernels.cpu.gemm_tables.MAX_STEPS`.
_MAX_STEPS = 192


def _steps(k: int) -> int:
    """The block of k: the steps between two sums."""
    return -(-k // (16 * max(1, -(-k // _MAX_STEPS)))) * 16


def _select_kernel(xp, kernels: dict, *arrays):
    """The kernel for these arrays, or None."""
    kernel = kernels.get(arrays[0].dtype)
    fits = kernel is not None and arrays[0].ndim == 4 and all(x.size and x.dtype == arrays[0].dtype for x in arrays)
    return kernel if fits and xp.ready(kernel) else None


def _image(shape, taps, positions, stride, padding, dilation) -> dict[str, int]:
    numbers = (*shape[2:], *taps, *positions, *stride, padding[0][0], padding[1][0], *dilation)
    return dict(zip(_IMAGE, numbers))


@register("conv", "cuda", needs_numba=False)
def conv(xp, input, weight, bias=None, *, stride, padding, dilation, groups):
    kernel = _select_kernel(xp, _CONV, input, weight, *(() if bias is None else (bias,)))
    if kernel is None:
        return NotImplemented
    channels, depth, *taps = weight.shape
    positions = [
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(input.shape[2:], padding, dilation, taps, stride)
    ]
    x, weight = xp.ascontiguousarray(input), xp.ascontiguousarray(weight)
    out = xp.empty((len(x), channels, *positions), dtype=x.dtype)
    xp.launch(
        kernel, blocks_for(xp, out.size, THREADS), x=x, weight=weight, bias=x if bias is None else xp.ascontiguousarray(bias),
        out=out, size=out.size, groups=groups, rows=channels // groups, depth=depth, step=math.prod(taps),
        block=_steps(depth * math.prod(taps)), biased=bias is not None,
        **_image(x.shape, taps, positions, stride, padding, dilation),
    )  # fmt: skip
    return out


@register("conv_input", "cuda", needs_numba=False)
def conv_input(xp, input, weight, *, size, stride, padding, dilation, groups):
    kernel = _select_kernel(xp, _CONV_INPUT, input, weight)
    if kernel is None:
        return NotImplemented
    channels, rows, *taps = weight.shape
    g, weight, depth = xp.ascontiguousarray(input), xp.ascontiguousarray(weight), channels // groups
    out = xp.empty((len(g), groups * rows, *size), dtype=g.dtype)
    xp.launch(
        kernel, blocks_for(xp, out.size, THREADS), x=g, weight=weight, bias=g, out=out, size=out.size, groups=groups,
        rows=rows, depth=depth, step=rows * math.prod(taps), block=_steps(depth * math.prod(taps)), biased=0,
        **_image(g.shape, taps, size, stride, padding, dilation),
    )  # fmt: skip
    return out


@register("conv_weight", "cuda", needs_numba=False)
def conv_weight(xp, input, other, *, size, stride, padding, dilation, groups):
    kernel = _select_kernel(xp, _CONV_WEIGHT, input, other)
    if kernel is None:
        return NotImplemented
    x, g, depth = xp.ascontiguousarray(input), xp.ascontiguousarray(other), input.shape[1] // groups
    out = xp.empty((g.shape[1], depth, *size), dtype=x.dtype)
    xp.launch(
        kernel, blocks_for(xp, out.size, 1), x=x, g=g, out=out, size=out.size, samples=len(x), groups=groups,
        rows=g.shape[1] // groups, depth=depth, **_image(x.shape, size, g.shape[2:], stride, padding, dilation),
    )  # fmt: skip
    return out
