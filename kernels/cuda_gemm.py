"""A tiled matrix product for CUDA that ends with bias, residual and activation, for where there is no cuBLAS.

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
    local_sums = tools.local(dt, own * own)
    end = tools.lift(elementwise._function(activation), dt) if activation else tools.lift(_as_it_is)
    # Neighbouring threads copy neighbouring memory: along k, or along the other side.
    a_along_k, b_along_k = not a_turned, b_turned

    def place(u: int, along_k: bool) -> tuple[str, str]:
        """Which (element of the side, step of k) is the u-th that thread t copies."""
        if along_k:
            return f"(t // {steps} + {u * (THREADS // steps)})", f"(t % {steps})"
        return f"(t % {side})", f"(t // {side} + {u * (THREADS // side)})"

    def fetch(u: int) -> list[str]:
        (r, s), (c, z) = place(u, a_along_k), place(u, b_along_k)
        from_a = f"(ahead + {s}) * a_pitch + top + {r}" if a_turned else f"(top + {r}) * a_pitch + ahead + {s}"
        from_b = f"(left + {c}) * b_pitch + ahead + {z}" if b_turned else f"(ahead + {z}) * b_pitch + left + {c}"
        return [
            f"na{u} = a[{from_a}] if (top + {r} < m) & (ahead + {s} < k) else zero",
            f"nb{u} = b[{from_b}] if (left + {c} < n) & (ahead + {z} < k) else zero",
        ]

    def keep(u: int) -> list[str]:
        (r, s), (c, z) = place(u, a_along_k), place(u, b_along_k)
        return [f"sa[at + {s} * {pitch} + {r}] = na{u}", f"sb[at + {z} * {pitch} + {c}] = nb{u}"]

    def step(s: int) -> list[str]:
        lines = [
            f"{x}{i}, {x}{i + 1}, {x}{i + 2}, {x}{i + 3} = four(s{x}, at + {s * pitch + i // 4 * half} + {lane})"
            for i in range(0, own, 4)
            for x, lane in (("a", "y"), ("b", "x"))
        ]
        return lines + [f"c{i * own + j} = fma(a{i}, b{j}, c{i * own + j})" for i in range(own) for j in range(own)]

    # Scalars, and not arrays, which would not all be in registers.
    each = range(part)
    body = [
        "def products(a, b, m, n, k, a_pitch, b_pitch, sa, sb, sums, top, left, y, x):",
        "    t, buffer = thread(), 0",
        *(f"    c{i} = zero" for i in range(own * own)),
        f"    for first in range(-{steps}, k, {steps}):",
        # The next part of both operands is under way while this one is used.
        f"        ahead = first + {steps}",
        *(f"        {line}" for u in each for line in fetch(u)),
        "        if first >= 0:",
        f"            at = buffer * {steps * pitch}",
        *(f"            {line}" for s in range(steps) for line in step(s)),
        "            buffer = 1 - buffer",
        "        if ahead < k:",
        f"            at = buffer * {steps * pitch}",
        *(f"            {line}" for u in each for line in keep(u)),
        "        wait()",
        *(f"    sums[{i}] = c{i}" for i in range(own * own)),
    ]
    scope: dict[str, Any] = {"zero": zero, "thread": thread, "wait": wait, "fma": fma, "four": four}
    exec("\n".join(body), scope)
    products = tools.together(scope["products"])

    def kernel(a, b, bias, residual, out, before, m, n, k, a_pitch, b_pitch, flags):
        t = thread()
        columns = (n + side - 1) // side
        top, left = block() // columns * side, block() % columns * side
        y, x = t // _SIDE * 4, t % _SIDE * 4
        sums = local_sums()
        products(a, b, m, n, k, a_pitch, b_pitch, shared_a(), shared_b(), sums, top, left, y, x)
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
    return Kernel(name, _TYPES, build, activation, a_turned, b_turned, *tile, threads=THREADS, resident=2)


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


def _takes(input, weight, bias=None, *, activation: str = "") -> bool:
    return input.dtype == float32 and input.ndim > 1 and input.shape[-1] > 0 and activation in ("", *ACTIVATIONS)


def _linear(xp, input, weight, bias, activation: str = "", keep: bool = False):
    if xp.blas is not None:
        return NotImplemented
    rows = xp.ascontiguousarray(input).reshape(-1, input.shape[-1])
    found = _product(xp, rows, xp.ascontiguousarray(weight), False, True, bias, None, activation, keep)
    if found is None:
        return NotImplemented
    shape = (*input.shape[:-1], weight.shape[0])
    return tuple(x.reshape(shape) for x in found) if keep else found.reshape(shape)


# All three or none: a layer has the same bits whether its activation is computed with it or after it.
@register("linear", "cuda", when=_takes, needs_numba=False)
def linear(xp, input, weight, bias=None):
    return _linear(xp, input, weight, bias)


@register("linear_activation", "cuda", when=_takes, needs_numba=False)
def linear_activation(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation)


@register("linear_activation_kept", "cuda", when=_takes, needs_numba=False)
def linear_activation_kept(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation, True)
