"""A tiled matrix product for CUDA that ends with bias, residual and activation, for what cuBLAS does not fuse.

A block computes a square tile of the result, 8 or 16 steps of k at a time: it copies both operands' parts to shared
memory, in two buffers, so that one fills while the other is read, and each thread keeps a square of sums in registers.
Every element is one chain of fused multiply-adds in the order of k, whatever the tile: the same bits as on the CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backend.dtypes import float32
from deepcore.kernels import elementwise, register
from deepcore.kernels.cuda import Kernel

THREADS = 256
_SIDE = 16  # threads along each side of a tile
#: (side of the tile, steps of k): the second where the first would leave multiprocessors idle.
TILES = ((128, 8), (64, 16))
#: The longest sums that linear layers use this product for: beyond, cuBLAS and a second pass over the result are.
LONGEST = 64


def build(tools, activation: str, a_turned: bool, b_turned: bool, side: int, steps: int):
    """out = activation(a @ b + bias + residual); a is (m, k), (k, m) where turned; b is (k, n), (n, k) where turned.

    `flags`: 1 add bias, 2 add residual, 4 store in `before` what the activation is given.
    """
    dt, own = np.dtype(np.float32), side // _SIDE
    pitch = side + 4  # so that columns of k lie in different banks
    part = side * steps // THREADS  # what a thread copies of each operand
    half, zero = side // (own // 4), dt.type(0)
    thread, block, wait, fma, four = tools.thread(), tools.block(), tools.barrier(), tools.fma(dt), tools.four(dt)
    shared_a, shared_b = tools.shared(dt, 2 * steps * pitch), tools.shared(dt, 2 * steps * pitch)
    local_sums, local_a, local_b = tools.local(dt, own * own), tools.local(dt, own), tools.local(dt, own)
    next_a, next_b = tools.local(dt, part), tools.local(dt, part)
    end = tools.lift(elementwise._function(activation), dt) if activation else tools.lift(_as_it_is)
    # Neighbouring threads copy neighbouring memory: along k, or along the other side.
    a_along_k, b_along_k = not a_turned, b_turned
    wide = THREADS // side

    @tools.together
    def place(t, u, along_k):
        """Which (element of the side, step of k) is the u-th that thread t copies."""
        if along_k:
            return t // steps + u * (THREADS // steps), t % steps
        return t % side, t // side + u * wide

    def kernel(a, b, bias, residual, out, before, m, n, k, a_pitch, b_pitch, flags):
        sa, sb, t = shared_a(), shared_b(), thread()
        columns = (n + side - 1) // side
        top, left = block() // columns * side, block() % columns * side
        y, x = t // _SIDE * 4, t % _SIDE * 4
        sums, ra, rb, na, nb = local_sums(), local_a(), local_b(), next_a(), next_b()
        for i in range(own * own):
            sums[i] = zero
        buffer = 0
        for first in range(-steps, k, steps):
            # The next part of both operands is under way while this one is used.
            ahead = first + steps
            for u in range(part):
                r, s = place(t, u, a_along_k)
                row, step = top + r, ahead + s
                na[u] = zero
                if (row < m) & (step < k):
                    na[u] = a[step * a_pitch + row] if a_turned else a[row * a_pitch + step]
                r, s = place(t, u, b_along_k)
                column, step = left + r, ahead + s
                nb[u] = zero
                if (column < n) & (step < k):
                    nb[u] = b[column * b_pitch + step] if b_turned else b[step * b_pitch + column]
            if first >= 0:
                at = buffer * (steps * pitch)
                for s in range(steps):
                    for i in range(0, own, 4):
                        ra[i], ra[i + 1], ra[i + 2], ra[i + 3] = four(sa, at + s * pitch + i // 4 * half + y)
                        rb[i], rb[i + 1], rb[i + 2], rb[i + 3] = four(sb, at + s * pitch + i // 4 * half + x)
                    for i in range(own):
                        for j in range(own):
                            sums[i * own + j] = fma(ra[i], rb[j], sums[i * own + j])
                buffer = 1 - buffer
            if ahead < k:
                at = buffer * (steps * pitch)
                for u in range(part):
                    r, s = place(t, u, a_along_k)
                    sa[at + s * pitch + r] = na[u]
                    r, s = place(t, u, b_along_k)
                    sb[at + s * pitch + r] = nb[u]
            wait()
        for i in range(own):
            row = top + i // 4 * half + y + i % 4
            for j in range(own):
                column = left + j // 4 * half + x + j % 4
                if (row < m) & (column < n):
                    at = row * n + column
                    v = sums[i * own + j]
                    if flags & 1:
                        v += bias[column]
                    if flags & 2:
                        v += residual[at]
                    if flags & 4:
                        before[at] = v
                    out[at] = end(v)

    return kernel


def _as_it_is(x):
    return x


ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
_TYPES = (*["float32*"] * 6, *["int64"] * 6)


def _kernel(activation: str, a_turned: bool, b_turned: bool, tile: tuple[int, int]) -> Kernel:
    name = f"gemm_{'t' if a_turned else 'n'}{'t' if b_turned else 'n'}_{tile[0]}" + (
        f"_{activation}" if activation else ""
    )
    return Kernel(name, _TYPES, build, activation, a_turned, b_turned, *tile, threads=THREADS)


#: By activation, whether the operands are turned, and tile.
KERNELS: dict[Any, Kernel] = {
    (activation, a_turned, b_turned, tile): _kernel(activation, a_turned, b_turned, tile)
    for activation in ("", *ACTIVATIONS)
    for a_turned in (False, True)
    for b_turned in (False, True)
    for tile in TILES
    if not activation or (b_turned and not a_turned)
}


def product(xp, a, b, bias=None, residual=None, activation: str = "", keep: bool = False):
    """activation(a @ b + bias + residual), or that and what the activation was given; None where there is no kernel.

    a and b are float32 matrices, C-contiguous or transposes of such; bias has one number a column.
    """
    a_turned, b_turned = not a.flags.c_contiguous, not b.flags.c_contiguous
    return _product(
        xp, a.T if a_turned else a, b.T if b_turned else b, a_turned, b_turned, bias, residual, activation, keep
    )


def _product(xp, a, b, a_turned: bool, b_turned: bool, bias, residual, activation: str, keep: bool):
    """`product` of operands that are as they lie in memory."""
    if not (a.flags.c_contiguous and b.flags.c_contiguous):
        return None
    (m, k), n = a.shape[::-1] if a_turned else a.shape, b.shape[0] if b_turned else b.shape[1]
    large, small = TILES
    tile = large if _tiles(m, n, large[0]) >= 2 * xp.multiprocessors else small
    kernel = KERNELS.get((activation, a_turned, b_turned, tile))
    if kernel is None or not m or not n or not xp.ready(kernel):
        return None
    out = xp.empty((m, n), dtype=a.dtype)
    before = xp.empty((m, n), dtype=a.dtype) if keep else out
    flags = (bias is not None) + 2 * (residual is not None) + 4 * keep
    xp.launch(
        kernel, _tiles(m, n, tile[0]), a, b, out if bias is None else xp.ascontiguousarray(bias),
        out if residual is None else xp.ascontiguousarray(residual), out, before,
        m, n, k, a.shape[1], b.shape[1], flags,
    )  # fmt: skip
    return (out, before) if keep else out


def _tiles(m: int, n: int, side: int) -> int:
    return -(-m // side) * -(-n // side)


def _short(input, weight, bias=None, *, activation: str = "") -> bool:
    return (
        input.dtype == float32
        and input.ndim > 1
        and 0 < input.shape[-1] <= LONGEST
        and activation in ("", *ACTIVATIONS)
    )


def _linear(xp, input, weight, bias, activation: str = "", keep: bool = False):
    rows = xp.ascontiguousarray(input).reshape(-1, input.shape[-1])
    found = _product(xp, rows, xp.ascontiguousarray(weight), False, True, bias, None, activation, keep)
    if found is None:
        return NotImplemented
    shape = (*input.shape[:-1], weight.shape[0])
    return tuple(x.reshape(shape) for x in found) if keep else found.reshape(shape)


# All three or none: a layer has the same bits whether its activation is computed with it or after it.
@register("linear", "cuda", when=_short, needs_numba=False)
def linear(xp, input, weight, bias=None):
    return _linear(xp, input, weight, bias)


@register("linear_activation", "cuda", when=_short, needs_numba=False)
def linear_activation(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation)


@register("linear_activation_kept", "cuda", when=_short, needs_numba=False)
def linear_activation_kept(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation, True)
