"""A tiled matrix product for CUDA with bias, residual and activation as epilogue: for short sums, and without cuBLAS.

A block computes a square tile of the result, 8 or 16 steps of k at a time: it copies both operands' parts to double
buffers in shared memory, and each thread holds a square of sums in registers. Every element is one chain of fused
multiply-adds in the order of k, whatever the tile: the same bits as on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import indent
from typing import Any

import numpy as np

from deepcore.backend.dtypes import float32
from deepcore.kernels.codegen.kernel import In, Out, Size, args
from deepcore.kernels.codegen.ptx import Kernel
from deepcore.kernels.math.formulas import function
from deepcore.kernels.registry import register

THREADS = 256
_SIDE = 16  # threads along each side of a tile
#: (side of the tile, steps of k): each thread loads four numbers of each operand. The second is used where the first
#: would leave multiprocessors, or half of each tile, idle.
TILES = ((128, 8), (64, 16))
#: The longest sums for which linear layers prefer this product to cuBLAS: up to read_at, saving a pass over the result
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
    are aligned to 16 bytes: 8 for loads of a, 16 for b, 32 for the epilogue. The text names each register: LLVM would
    leave arrays of that size in memory.
    """
    dt, per_thread = np.dtype(np.float32), side // _SIDE
    pitch = side + 4  # so that columns of k lie in different banks
    half, span = side // (per_thread // 4), steps * pitch
    rows_contiguous = {"a": a_transposed, "b": not b_transposed}  # whether the side, and not k, is along memory
    sums = [[f"sum{i}_{j}" for j in range(per_thread)] for i in range(per_thread)]

    def load(x: str, rows: str) -> str:
        """Load the next part of an operand: four numbers per thread, in x_next0 to x_next3."""
        row, step = f"{x}_row", f"(ahead + {x}_step)"
        lead, leads, other, others = (row, rows, step, "k") if rows_contiguous[x] else (step, "k", row, rows)
        at, inside = f"{other} * {x}_pitch + {lead}", f"({other} < {others}) & ({lead} + {{}} < {leads})"
        return _load_text(f"{x}_next", x, at, f"(flags & {8 if x == 'a' else 16} != 0) & {inside.format(3)}", inside)

    def store_shared(x: str) -> str:
        """Store that part in shared memory."""
        at, names = f"write_at + {x}_step * {pitch} + {x}_at", [f"{x}_next{u}" for u in range(4)]
        if rows_contiguous[x]:
            return f"put(s{x}, {at}, {', '.join(names)})"
        return "\n".join(f"s{x}[{at} + {u * pitch}] = {name}" for u, name in enumerate(names))

    def step(s: int) -> str:
        """One step of k for all sums, with a minimum of operands in registers."""

        def operand(x: str, i: int, at: str) -> str:
            names = ", ".join(f"{x}{i + u}" for u in range(4))
            return f"{names} = four(s{x}, read_at + {s * pitch + i // 4 * half} + {at})"

        lines = [operand("b", j, "x") for j in range(0, per_thread, 4)]
        for i in range(per_thread):
            lines += [operand("a", i, "y")] if i % 4 == 0 else []
            lines += [f"{sums[i][j]} = fma(a{i}, b{j}, {sums[i][j]})" for j in range(per_thread)]
        return "\n".join(lines)

    def epilogue(group: int) -> str:
        """The epilogue of four adjacent columns of the thread's first row."""
        inside = "(row < m) & (column + {} < n)"
        whole, lines = f"(flags & 32 != 0) & {inside.format(3)}", [f"column = left + {group * half} + x"]
        lines += ["at = row * n + column", *(f"v{u} = {sums[0][4 * group + u]}" for u in range(4))]
        for flag, pointer, at in ((1, "bias", "column"), (2, "residual", "at")):
            addends = _load_text("more", pointer, at, whole, inside) + "".join(f"\nv{u} += more{u}" for u in range(4))
            lines.append(f"if flags & {flag}:\n{indent(addends, '    ')}")
        lines.append(f"if flags & 4:\n{indent(_store_text('pre', 'at', whole, inside), '    ')}")
        lines += [*(f"v{u} = end(v{u})" for u in range(4)), _store_text("out", "at", whole, inside)]
        return "\n".join(lines)

    def place(x: str) -> str:
        """Coalesced copies: adjacent threads copy adjacent memory."""
        along, count = ("at", side) if rows_contiguous[x] else ("step", steps)
        across = "step" if rows_contiguous[x] else "at"
        return f"{x}_{along}, {x}_{across} = t % {count // 4} * 4, t // {count // 4}"

    def text(lines: Iterable[str], depth: int) -> str:
        return indent("\n".join(lines), " " * 4 * depth).lstrip()

    scope: dict[str, Any] = {
        "thread": tools.thread(), "block": tools.block(), "wait": tools.barrier(), "fma": tools.fma(dt),
        "four": tools.load4(dt), "put": tools.store4(dt), "zero": dt.type(0),
        "shared_a": tools.shared(dt, 2 * span), "shared_b": tools.shared(dt, 2 * span),
        "end": tools.lift(function(activation), dt) if activation else tools.lift(_identity),
    }  # fmt: skip
    names = [name for row in sums for name in row]
    return tools.compiled(
        _TEXT.format(
            side=side, square=_SIDE, steps=steps, span=span, own=per_thread, half=half, places=text(map(place, "ab"),
            1),
            start=text((f"{name} = zero" for name in names), 1), load=text((load("a", "m"), load("b", "n")), 2),
            multiply=text(map(step, range(steps)), 3), keep=text(map(store_shared, "ab"), 3),
            finish=text(map(epilogue, range(per_thread // 4)), 2),
            turn=f"{', '.join(names[:-per_thread])} = {', '.join(names[per_thread:])}",
        ),
        scope,
    )["kernel"]  # fmt: skip


_TEXT = """
def kernel(a, b, bias, residual, out, pre, m, n, k, a_pitch, b_pitch, flags):
    sa, sb, t = shared_a(), shared_b(), thread()
    columns = (n + {side} - 1) // {side}
    top, left = block() // columns * {side}, block() % columns * {side}
    y, x = t // {square} * 4, t % {square} * 4
    {places}
    a_row, b_row = top + a_at, left + b_at
    {start}
    read_at = {span}
    for first in range(-{steps}, k, {steps}):
        # Loads of the next part overlap with the use of this one.
        ahead, write_at = first + {steps}, {span} - read_at
        {load}
        if first >= 0:
            {multiply}
        if ahead < k:
            {keep}
        wait()
        read_at = write_at
    for i in range({own}):
        row = top + i // 4 * {half} + y + i % 4
        {finish}
        {turn}
"""


def _load_text(name: str, pointer: str, at: str, whole: str, inside: str) -> str:
    """Text that loads pointer[at …] into name0 to name3, as a vector where `whole` is true; 0 outside."""
    lines = [f"if {whole}:", f"    {', '.join(f'{name}{u}' for u in range(4))} = four({pointer}, {at})", "else:"]
    return "\n".join(
        [*lines, *(f"    {name}{u} = {pointer}[{at} + {u}] if {inside.format(u)} else zero" for u in range(4))]
    )


def _store_text(pointer: str, at: str, whole: str, inside: str) -> str:
    """Text that stores v0 to v3 from pointer[at] on."""
    lines = [f"if {whole}:", f"    put({pointer}, {at}, v0, v1, v2, v3)", "else:"]
    for u in range(4):
        lines += [f"    if {inside.format(u)}:", f"        {pointer}[{at} + {u}] = v{u}"]
    return "\n".join(lines)


def _identity(x):
    return x


ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def _kernel(activation: str, a_transposed: bool, b_transposed: bool, tile: tuple[int, int]) -> Kernel:
    name = f"gemm_{'t' if a_transposed else 'n'}{'t' if b_transposed else 'n'}_{tile[0]}" + (
        f"_{activation}" if activation else ""
    )
    return Kernel(name, build, activation, a_transposed, b_transposed, *tile, threads=THREADS, resident=256 // tile[0])


#: By activation, whether the operands are transposed, and tile.
KERNELS: dict[Any, Kernel] = {
    (activation, a_transposed, b_transposed, tile): _kernel(activation, a_transposed, b_transposed, tile)
    for activation in ("", *ACTIVATIONS)
    for a_transposed in (False, True)
    for b_transposed in (False, True)
    for tile in TILES
    if not activation or (b_transposed and not a_transposed)
}


def product(xp, a, b, bias=None, residual=None, activation: str = "", keep: bool = False):
    """activation(a @ b + bias + residual), with `keep` also the activation's input; None if write_at is no kernel.

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
    large, small = TILES
    full = min(m, n) > small[0] and _tiles(m, n, large[0]) >= 2 * xp.multiprocessors
    tile = large if full else small
    kernel = KERNELS.get((activation, a_transposed, b_transposed, tile))
    if kernel is None or not m or not n or not xp.ready(kernel):
        return None
    out = xp.empty((m, n), dtype=a.dtype)
    pre = xp.empty((m, n), dtype=a.dtype) if keep else out
    addends = [out if x is None else xp.ascontiguousarray(x) for x in (bias, residual)]
    flags = (bias is not None) + 2 * (residual is not None) + 4 * keep
    flags += 8 * _is_aligned(a.shape[1], a) + 16 * _is_aligned(b.shape[1], b) + 32 * _is_aligned(n, *addends, out, pre)
    xp.launch(
        kernel, _tiles(m, n, tile[0]), a=a, b=b, bias=addends[0], residual=addends[1], out=out, pre=pre,
        m=m, n=n, k=k, a_pitch=a.shape[1], b_pitch=b.shape[1], flags=flags,
    )  # fmt: skip
    return (out, pre) if keep else out


def _is_aligned(pitch: int, *arrays) -> bool:
    """Whether rows of `pitch` numbers are aligned to 16 bytes."""
    return pitch % 4 == 0 and not any(x.data.ptr & 15 for x in arrays)


def _tiles(m: int, n: int, side: int) -> int:
    return -(-m // side) * -(-n // side)


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
