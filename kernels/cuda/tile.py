"""Text of kernels that compute tiles of a matrix product: of matrices, and of convolutions.

A block computes a square tile of the result, 8 or 16 steps of k at a time: it copies both operands' parts to double
buffers in shared memory, and each thread holds a square of sums in registers. Every element is one chain of fused
multiply-adds in the order of k, whatever the tile. The text names each register: LLVM would leave arrays of that size in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from textwrap import indent
from typing import Any

import numpy as np

from deepcore.kernels.math.formulas import function

THREADS = 256
_SIDE = 16  # threads along each side of a tile
#: (side of the tile, steps of k): each thread loads four numbers of each operand. The second is used where the first
#: would leave multiprocessors, or half of each tile, idle.
TILES = ((128, 8), (64, 16))
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def compiled(
    tools, arguments: Iterable[str], dtype, side: int, steps: int, activation: str, setup: Iterable[str],
    load: Iterable[str], store: Iterable[str], epilogue: Callable[[str, int], str], finish: Iterable[str] = (),
    first: str = "0", last: str = "k", **scope: Any,
):  # fmt: skip
    """The kernel of these parts; every part is text that may use the names before it.

    `setup` assigns `top` and `left`, the tile's first row and column; `load` the numbers a_next0 to a_next3 and b_next0
    to b_next3 of the part of k from `ahead` on; `store` stores those in `sa` and `sb` from `write_at` on, a step every
    side + 4 numbers. `finish` precedes the epilogues: `epilogue(column, i)` stores v0 to v3, row `row` and the i-th four columns, from `column` on; `end` is the activation.
    `first`, of `setup` if not 0, and `last` bound k.
    """
    dt, per_thread = np.dtype(dtype), side // _SIDE
    pitch = side + 4  # so that columns of k lie in different banks
    half, span = 4 * _SIDE, steps * pitch  # columns between a thread's fours
    sums = [[f"sum{i}_{j}" for j in range(per_thread)] for i in range(per_thread)]

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

    def four_columns(group: int) -> str:
        """The epilogue of four adjacent columns of the thread's first row."""
        values = [f"v{u} = {sums[0][4 * group + u]}" for u in range(4)]
        return "\n".join([*values, epilogue(column_of(4 * group), group)])

    def text(lines: Iterable[str], depth: int) -> str:
        return indent("\n".join(lines), " " * 4 * depth).lstrip()

    names = [name for row in sums for name in row]
    scope |= {
        "thread": tools.thread(), "block": tools.block(), "wait": tools.barrier(), "fma": tools.fma(dt),
        "shifted": tools.shifted(dt), "four": tools.load4(dt), "put": tools.store4(dt), "zero": dt.type(0),
        "shared_a": tools.shared(dt, 2 * span), "shared_b": tools.shared(dt, 2 * span),
        "end": tools.lift(function(activation), dt) if activation else tools.lift(_identity),
    }  # fmt: skip
    return tools.compiled(
        _TEXT.format(
            arguments=", ".join(arguments), square=_SIDE, steps=steps, span=span, own=per_thread, half=half,
            setup=text(setup, 1), start=text((f"{name} = zero" for name in names), 1), load=text(load, 2),
            multiply=text(map(step, range(steps)), 3), store=text(store, 3), first=first, last=last,
            finish=text(finish, 1), epilogue=text(map(four_columns, range(per_thread // 4)), 2),
            turn=f"{', '.join(names[:-per_thread])} = {', '.join(names[per_thread:])}",
        ),
        scope,
    )["kernel"]  # fmt: skip


_TEXT = """
def kernel({arguments}):
    sa, sb, t = shared_a(), shared_b(), thread()
    y, x = t // {square} * 4, t % {square} * 4
    {setup}
    {start}
    read_at = {span}
    for part in range({first} - {steps}, {last}, {steps}):
        # Loads of the next part overlap with the use of this one.
        ahead, write_at = part + {steps}, {span} - read_at
        {load}
        if part >= {first}:
            {multiply}
        if ahead < {last}:
            {store}
        wait()
        read_at = write_at
    {finish}
    for i in range({own}):
        row = top + i // 4 * {half} + y + i % 4
        {epilogue}
        {turn}
"""


def column_of(j: int) -> str:
    """The column of a thread's j-th sum of each row."""
    return f"left + {j // 4 * 4 * _SIDE + j % 4} + x"


def place(x: str, side: int, steps: int, rows_contiguous: bool) -> str:
    """Where a thread's four numbers of an operand are: coalesced, adjacent threads copy adjacent memory."""
    along, count = ("at", side) if rows_contiguous else ("step", steps)
    across = "step" if rows_contiguous else "at"
    return f"{x}_{along}, {x}_{across} = t % {count // 4} * 4, t // {count // 4}"


def load_matrix(x: str, rows: str, vector: int, rows_contiguous: bool, pitch: str) -> str:
    """Load the next part of a matrix as `place` says; `rows_contiguous`: its side, and not k, is along memory."""
    row, step = f"{x}_row", f"(ahead + {x}_step)"
    lead, leads, other, others = (row, rows, step, "k") if rows_contiguous else (step, "k", row, rows)
    inside = fours(f"({other} < {others}) & ({lead} + {{}} < {leads})")
    places = fours(f"{other} * {pitch} + {lead} + {{}}")
    return load4(f"{x}_next", x, places, f"(flags & {vector} != 0) & {inside[3]}", inside)


def store_matrix(x: str, side: int, rows_contiguous: bool) -> str:
    """Store that part in shared memory."""
    pitch, names = side + 4, [f"{x}_next{u}" for u in range(4)]
    at = f"write_at + {x}_step * {pitch} + {x}_at"
    if rows_contiguous:
        return f"put(s{x}, {at}, {', '.join(names)})"
    return "\n".join(f"s{x}[{at} + {u * pitch}] = {name}" for u, name in enumerate(names))


def load4(name: str, pointer: str, places: Sequence[str], whole: str, inside: Sequence[str]) -> str:
    """Text that loads the elements at four places into name0 to name3, as a vector where `whole`; 0 if not inside."""
    lines = [f"if {whole}:", f"    {', '.join(f'{name}{u}' for u in range(4))} = four({pointer}, {places[0]})", "else:"]
    lines += [f"    {name}{u} = {pointer}[{places[u]}] if {inside[u]} else zero" for u in range(4)]
    return "\n".join(lines)


def store4(pointer: str, places: Sequence[str], whole: str, inside: Sequence[str]) -> str:
    """Text that stores v0 to v3 at four places."""
    lines = [f"if {whole}:", f"    put({pointer}, {places[0]}, v0, v1, v2, v3)", "else:"]
    for u in range(4):
        lines += [f"    if {inside[u]}:", f"        {pointer}[{places[u]}] = v{u}"]
    return "\n".join(lines)


def fours(pattern: str) -> list[str]:
    """The pattern with 0 to 3."""
    return [pattern.format(u) for u in range(4)]


def _identity(x):
    return x


def choose(xp, m: int, n: int, others: int = 1) -> tuple[int, int]:
    """The tile for `others` products of m rows and n columns."""
    large, small = TILES
    full = min(m, n) > small[0] and others * count(m, n, large[0]) >= 2 * xp.multiprocessors
    return large if full else small


def count(m: int, n: int, side: int) -> int:
    return -(-m // side) * -(-n // side)


def is_aligned(pitch: int, *arrays) -> bool:
    """Whether rows of `pitch` numbers are aligned to vectors of four."""
    return pitch % 4 == 0 and not any(x.data.ptr & (4 * x.dtype.itemsize - 1) for x in arrays)
