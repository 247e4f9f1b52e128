"""A tiled matrix product for CUDA that ends with bias, residual and activation: for short sums, and without cuBLAS.

A block computes a square tile of the result, 8 or 16 steps of k at a time: it copies both operands' parts to shared
memory, in two buffers, so that one fills while the other is read, and each thread keeps a square of sums in registers.
Every element is one chain of fused multiply-adds in the order of k, whatever the tile: the same bits as on the CPU.
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
#: (side of the tile, steps of k): four numbers of each operand a thread. The second where the first would leave
#: multiprocessors idle, or half of each tile.
TILES = ((128, 8), (64, 16))
#: The longest sums that linear layers use this product for beside cuBLAS: the pass over the result that it saves is then
#: more than what cuBLAS computes faster (measured on an H200).
LONGEST = 64


_IN, _OUT = In(float32), Out(float32)


@args(
    a=_IN, b=_IN, bias=_IN, residual=_IN, out=_OUT, before=_OUT, m=Size, n=Size, k=Size, a_pitch=Size, b_pitch=Size, flags=Size
)  # fmt: skip
def build(tools, activation: str, a_turned: bool, b_turned: bool, side: int, steps: int):
    """out = activation(a @ b + bias + residual); a is (m, k), (k, m) where turned; b is (k, n), (n, k) where turned.

    `flags`: 1 add bias, 2 add residual, 4 store in `before` what the activation is given; and by fours, as memory and
    pitch are aligned to 16 bytes: 8 load a, 16 load b, 32 do all at the end. The text has a name for each register:
    LLVM would leave arrays of that size in memory.
    """
    dt, own = np.dtype(np.float32), side // _SIDE
    pitch = side + 4  # so that columns of k lie in different banks
    half, span = side // (own // 4), steps * pitch
    turned = {"a": a_turned, "b": not b_turned}  # whether the side, and not k, is along memory
    sums = [[f"sum{i}_{j}" for j in range(own)] for i in range(own)]

    def load(x: str, rows: str) -> str:
        """The next part of an operand: four numbers for each thread, in x_next0 to x_next3."""
        row, step = f"{x}_row", f"(ahead + {x}_step)"
        lead, leads, other, others = (row, rows, step, "k") if turned[x] else (step, "k", row, rows)
        at, inside = f"{other} * {x}_pitch + {lead}", f"({other} < {others}) & ({lead} + {{}} < {leads})"
        return _taken(f"{x}_next", x, at, f"(flags & {8 if x == 'a' else 16} != 0) & {inside.format(3)}", inside)

    def keep(x: str) -> str:
        """That part to shared memory."""
        at, names = f"there + {x}_step * {pitch} + {x}_at", [f"{x}_next{u}" for u in range(4)]
        if turned[x]:
            return f"put(s{x}, {at}, {', '.join(names)})"
        return "\n".join(f"s{x}[{at} + {u * pitch}] = {name}" for u, name in enumerate(names))

    def step(s: int) -> str:
        """One step of k for all sums, with as few operands in registers at a time as do."""

        def operand(x: str, i: int, at: str) -> str:
            names = ", ".join(f"{x}{i + u}" for u in range(4))
            return f"{names} = four(s{x}, here + {s * pitch + i // 4 * half} + {at})"

        lines = [operand("b", j, "x") for j in range(0, own, 4)]
        for i in range(own):
            lines += [operand("a", i, "y")] if i % 4 == 0 else []
            lines += [f"{sums[i][j]} = fma(a{i}, b{j}, {sums[i][j]})" for j in range(own)]
        return "\n".join(lines)

    def finish(group: int) -> str:
        """Four neighbouring columns of the thread's first row."""
        inside = "(row < m) & (column + {} < n)"
        whole, lines = f"(flags & 32 != 0) & {inside.format(3)}", [f"column = left + {group * half} + x"]
        lines += ["at = row * n + column", *(f"v{u} = {sums[0][4 * group + u]}" for u in range(4))]
        for flag, pointer, at in ((1, "bias", "column"), (2, "residual", "at")):
            more = _taken("more", pointer, at, whole, inside) + "".join(f"\nv{u} += more{u}" for u in range(4))
            lines.append(f"if flags & {flag}:\n{indent(more, '    ')}")
        lines.append(f"if flags & 4:\n{indent(_given('before', 'at', whole, inside), '    ')}")
        lines += [*(f"v{u} = end(v{u})" for u in range(4)), _given("out", "at", whole, inside)]
        return "\n".join(lines)

    def place(x: str) -> str:
        """Neighbouring threads copy neighbouring memory."""
        along, count = ("at", side) if turned[x] else ("step", steps)
        across = "step" if turned[x] else "at"
        return f"{x}_{along}, {x}_{across} = t % {count // 4} * 4, t // {count // 4}"

    def text(lines: Iterable[str], depth: int) -> str:
        return indent("\n".join(lines), " " * 4 * depth).lstrip()

    scope: dict[str, Any] = {
        "thread": tools.thread(), "block": tools.block(), "wait": tools.barrier(), "fma": tools.fma(dt),
        "four": tools.load4(dt), "put": tools.store4(dt), "zero": dt.type(0),
        "shared_a": tools.shared(dt, 2 * span), "shared_b": tools.shared(dt, 2 * span),
        "end": tools.lift(function(activation), dt) if activation else tools.lift(_as_it_is),
    }  # fmt: skip
    names = [name for row in sums for name in row]
    return tools.compiled(
        _TEXT.format(
            side=side, square=_SIDE, steps=steps, span=span, own=own, half=half, places=text(map(place, "ab"), 1),
            start=text((f"{name} = zero" for name in names), 1), load=text((load("a", "m"), load("b", "n")), 2),
            multiply=text(map(step, range(steps)), 3), keep=text(map(keep, "ab"), 3),
            finish=text(map(finish, range(own // 4)), 2),
            turn=f"{', '.join(names[:-own])} = {', '.join(names[own:])}",
        ),
        scope,
    )["kernel"]  # fmt: skip


_TEXT = """
def kernel(a, b, bias, residual, out, before, m, n, k, a_pitch, b_pitch, flags):
    sa, sb, t = shared_a(), shared_b(), thread()
    columns = (n + {side} - 1) // {side}
    top, left = block() // columns * {side}, block() % columns * {side}
    y, x = t // {square} * 4, t % {square} * 4
    {places}
    a_row, b_row = top + a_at, left + b_at
    {start}
    here = {span}
    for first in range(-{steps}, k, {steps}):
        # The next part of both operands is under way while this one is used.
        ahead, there = first + {steps}, {span} - here
        {load}
        if first >= 0:
            {multiply}
        if ahead < k:
            {keep}
        wait()
        here = there
    for i in range({own}):
        row = top + i // 4 * {half} + y + i % 4
        {finish}
        {turn}
"""


def _taken(name: str, pointer: str, at: str, whole: str, inside: str) -> str:
    """Text that gives name0 to name3 the numbers from pointer[at] on, in one load where `whole` holds; 0 outside."""
    lines = [f"if {whole}:", f"    {', '.join(f'{name}{u}' for u in range(4))} = four({pointer}, {at})", "else:"]
    return "\n".join(
        [*lines, *(f"    {name}{u} = {pointer}[{at} + {u}] if {inside.format(u)} else zero" for u in range(4))]
    )


def _given(pointer: str, at: str, whole: str, inside: str) -> str:
    """Text that stores v0 to v3 from pointer[at] on."""
    lines = [f"if {whole}:", f"    put({pointer}, {at}, v0, v1, v2, v3)", "else:"]
    for u in range(4):
        lines += [f"    if {inside.format(u)}:", f"        {pointer}[{at} + {u}] = v{u}"]
    return "\n".join(lines)


def _as_it_is(x):
    return x


ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def _kernel(activation: str, a_turned: bool, b_turned: bool, tile: tuple[int, int]) -> Kernel:
    name = f"gemm_{'t' if a_turned else 'n'}{'t' if b_turned else 'n'}_{tile[0]}" + (
        f"_{activation}" if activation else ""
    )
    return Kernel(name, build, activation, a_turned, b_turned, *tile, threads=THREADS, resident=256 // tile[0])


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
    full = min(m, n) > small[0] and _tiles(m, n, large[0]) >= 2 * xp.multiprocessors
    tile = large if full else small
    kernel = KERNELS.get((activation, a_turned, b_turned, tile))
    if kernel is None or not m or not n or not xp.ready(kernel):
        return None
    out = xp.empty((m, n), dtype=a.dtype)
    before = xp.empty((m, n), dtype=a.dtype) if keep else out
    ends = [out if x is None else xp.ascontiguousarray(x) for x in (bias, residual)]
    flags = (bias is not None) + 2 * (residual is not None) + 4 * keep
    flags += 8 * _by_fours(a.shape[1], a) + 16 * _by_fours(b.shape[1], b) + 32 * _by_fours(n, *ends, out, before)
    xp.launch(
        kernel, _tiles(m, n, tile[0]), a=a, b=b, bias=ends[0], residual=ends[1], out=out, before=before,
        m=m, n=n, k=k, a_pitch=a.shape[1], b_pitch=b.shape[1], flags=flags,
    )  # fmt: skip
    return (out, before) if keep else out


def _by_fours(pitch: int, *arrays) -> bool:
    """Whether rows of `pitch` numbers start at multiples of 16 bytes."""
    return pitch % 4 == 0 and not any(x.data.ptr & 15 for x in arrays)


def _tiles(m: int, n: int, side: int) -> int:
    return -(-m // side) * -(-n // side)


def _takes(input, weight, bias=None, *, activation: str = "") -> bool:
    return input.dtype == float32 and input.ndim > 1 and input.shape[-1] > 0 and activation in ("", *ACTIVATIONS)


def _linear(xp, input, weight, bias, activation: str = "", keep: bool = False):
    if xp.blas is not None and input.shape[-1] > LONGEST:
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
