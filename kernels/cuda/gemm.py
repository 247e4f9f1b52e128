"""A tiled matrix product for CUDA with bias, residual and activation as epilogue: for short sums, and without cuBLAS.

The loop over k is `tile.py`'s: every element is one chain of fused multiply-adds, the same bits as on the CPU.
"""

from __future__ import annotations

from textwrap import indent
from typing import Any

from deepcore.backend.dtypes import float32
from deepcore.kernels.codegen.kernel import In, Out, Size, args
from deepcore.kernels.codegen.ptx import Kernel
from deepcore.kernels.cuda import tile
from deepcore.kernels.cuda.tile import ACTIVATIONS, TILES
from deepcore.kernels.registry import register

#: The longest sums for which linear layers prefer this product to cuBLAS: up to there, saving a pass over the result
#: outweighs cuBLAS's speed (measured on an H200).
LONGEST = 64

_IN, _OUT = In(float32), Out(float32)


@args(
    a=_IN, b=_IN, bias=_IN, residual=_IN, out=_OUT, pre=_OUT, m=Size, n=Size, k=Size, a_pitch=Size, b_pitch=Size,
    flags=Size
)  # fmt: skip
def build(tools, activation: str, a_transposed: bool, b_transposed: bool, side: int, steps: int):
    """out = activation(a @ b + bias + residual); a is (m, k), or (k, m) if transposed; b is (k, n), or (n, k).

    `flags`: 1 add bias, 2 add residual, 4 store the activation's input in `pre`; vectors of four, where memory and pitch
    are aligned to 16 bytes: 8 for loads of a, 16 for b, 32 for the epilogue.
    """
    rows_contiguous = {"a": a_transposed, "b": not b_transposed}  # whether the side, and not k, is along memory

    def epilogue(column: str, group: int) -> str:
        inside = tile.fours("(row < m) & (column + {} < n)")
        whole, lines = f"(flags & 32 != 0) & {inside[3]}", [f"column = {column}", "at = row * n + column"]
        for flag, pointer, at in ((1, "bias", "column"), (2, "residual", "at")):
            addends = [
                tile.load4("more", pointer, tile.fours(f"{at} + {{}}"), whole, inside),
                *tile.fours("v{0} += more{0}"),
            ]
            lines.append(f"if flags & {flag}:\n" + indent("\n".join(addends), "    "))
        pre, out = (tile.store4(pointer, tile.fours("at + {}"), whole, inside) for pointer in ("pre", "out"))
        lines += [f"if flags & 4:\n{indent(pre, '    ')}", *tile.fours("v{0} = end(v{0})"), out]
        return "\n".join(lines)

    setup = [
        f"columns = (n + {side} - 1) // {side}",
        f"top, left = block() // columns * {side}, block() % columns * {side}",
        *(tile.place(x, side, steps, contiguous) for x, contiguous in rows_contiguous.items()),
        "a_row, b_row = top + a_at, left + b_at",
    ]
    load = [
        tile.load_matrix(x, rows, vector, rows_contiguous[x], f"{x}_pitch")
        for x, rows, vector in (("a", "m", 8), ("b", "n", 16))
    ]
    store = [tile.store_matrix(x, side, contiguous) for x, contiguous in rows_contiguous.items()]
    arguments = ["a", "b", "bias", "residual", "out", "pre", "m", "n", "k", "a_pitch", "b_pitch", "flags"]
    return tile.compiled(tools, arguments, float32, side, steps, activation, setup, load, store, epilogue)


def _kernel(activation: str, a_transposed: bool, b_transposed: bool, shape: tuple[int, int]) -> Kernel:
    name = f"gemm_{'t' if a_transposed else 'n'}{'t' if b_transposed else 'n'}_{shape[0]}" + (
        f"_{activation}" if activation else ""
    )
    return Kernel(
        name, build, activation, a_transposed, b_transposed, *shape, threads=tile.THREADS, resident=256 // shape[0]
    )


#: By activation, whether the operands are transposed, and tile.
KERNELS: dict[Any, Kernel] = {
    (activation, a_transposed, b_transposed, shape): _kernel(activation, a_transposed, b_transposed, shape)
    for activation in ("", *ACTIVATIONS)
    for a_transposed in (False, True)
    for b_transposed in (False, True)
    for shape in TILES
    if not activation or (b_transposed and not a_transposed)
}


def product(xp, a, b, bias=None, residual=None, activation: str = "", keep: bool = False):
    """activation(a @ b + bias + residual), with `keep` also the activation's input; None if there is no kernel.

    a and b are float32 matrices, C-contiguous or transposes of such; bias has a number per column.
    """
    a_transposed, b_transposed = not a.flags.c_contiguous, not b.flags.c_contiguous
    return _product(
        xp,
        a.T if a_transposed else a,
        b.T if b_transposed else b,
        a_transposed,
        b_transposed,
        bias,
        residual,
        activation,
        keep,
    )


def _product(xp, a, b, a_transposed: bool, b_transposed: bool, bias, residual, activation: str, keep: bool):
    """`product` of C-contiguous operands, transposed as the flags say."""
    if not (a.flags.c_contiguous and b.flags.c_contiguous):
        return None
    (m, k), n = a.shape[::-1] if a_transposed else a.shape, b.shape[0] if b_transposed else b.shape[1]
    chosen = tile.choose(xp, m, n)
    kernel = KERNELS.get((activation, a_transposed, b_transposed, chosen))
    if kernel is None or not m or not n or not xp.ready(kernel):
        return None
    out = xp.empty((m, n), dtype=a.dtype)
    pre = xp.empty((m, n), dtype=a.dtype) if keep else out
    addends = [out if x is None else xp.ascontiguousarray(x) for x in (bias, residual)]
    flags = (bias is not None) + 2 * (residual is not None) + 4 * keep
    flags += (
        8 * tile.is_aligned(a.shape[1], a)
        + 16 * tile.is_aligned(b.shape[1], b)
        + 32 * tile.is_aligned(n, *addends, out, pre)
    )
    xp.launch(
        kernel, tile.count(m, n, chosen[0]), a=a, b=b, bias=addends[0], residual=addends[1], out=out, pre=pre,
        m=m, n=n, k=k, a_pitch=a.shape[1], b_pitch=b.shape[1], flags=flags,
    )  # fmt: skip
    return (out, pre) if keep else out


def _supports(input, weight, bias=None, *, activation: str = "") -> bool:
    return input.dtype == float32 and input.ndim > 1 and input.shape[-1] > 0 and activation in ("", *ACTIVATIONS)


def _linear(xp, input, weight, bias, activation: str = "", keep: bool = False):
    if xp.blas is not None and input.shape[-1] > LONGEST:
        return NotImplemented
    rows = xp.ascontiguousarray(input).reshape(-1, input.shape[-1])
    results = _product(xp, rows, xp.ascontiguousarray(weight), False, True, bias, None, activation, keep)
    if results is None:
        return NotImplemented
    shape = (*input.shape[:-1], weight.shape[0])
    return tuple(x.reshape(shape) for x in results) if keep else results.reshape(shape)


# All three or none: a layer has the same bits whether its activation is computed with it or after it.
@register("linear", "cuda", when=_supports, needs_numba=False)
def linear(xp, input, weight, bias=None):
    return _linear(xp, input, weight, bias)


@register("linear_activation", "cuda", when=_supports, needs_numba=False)
def linear_activation(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation)


@register("linear_activation_kept", "cuda", when=_supports, needs_numba=False)
def linear_activation_kept(xp, input, weight, bias=None, *, activation):
    return _linear(xp, input, weight, bias, activation, True)
