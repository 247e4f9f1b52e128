"""Softmax, log-softmax and logsumexp on CUDA."""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import numpy as np

from deepcore.backend.dtypes import float32
from deepcore.kernels.codegen.kernel import In, Out, Size, args
from deepcore.kernels.codegen.ptx import THREADS, Kernel
from deepcore.kernels.cuda.reductions import reduced
from deepcore.kernels.cuda.rows import (
    FLOATS,
    WARP_ROW,
    add,
    by_dtype_and_group,
    larger,
    reduction,
    run_rows,
    select_kernel,
)
from deepcore.kernels.math import elementary
from deepcore.kernels.registry import register

#: The longest row that softmax keeps in a block's registers.
_REGISTER_ROW = 4096


@args(x=In, out=Out, rows=Size, n=Size)
def _softmax(tools, dtype: str, group: int, log_of: bool):
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, zero = dt.type(-np.inf), dt.type(0)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at = r * n
            best, total = least, zero
            for i in range(t, n, group):
                best = better(best, x[at + i])
            best = best_of(best)
            for i in range(t, n, group):
                total += exp(x[at + i] - best)
            total = sum_of(total)
            if log_of:
                total = log(total)
                for i in range(t, n, group):
                    out[at + i] = (x[at + i] - best) - total
            else:
                for i in range(t, n, group):
                    out[at + i] = exp(x[at + i] - best) / total

    return kernel


_REGISTERS = """
def kernel(x, out, rows, n):
    t = thread() % {group} * {width}
    for r in range(block() * {each} + thread() // {group}, rows, blocks() * {each}):
        at, left, best, total = r * n + t, n - t, least, zero
        {load}
        {largest}
        best = best_of(best)
        {add}
        total = sum_of(total)
        {end}
        {store}
"""
_STREAMED = """
def kernel(x, out, rows, n):
    t = thread() * {width}
    for r in range(block(), rows, blocks()):
        best, total = least, zero
        for i in range(t, n, {chunk}):
            at, left, before = r * n + i, n - i, best
            {load}
            {largest}
            base = zero if best == least else best  # -inf - -inf would be a NaN
            total *= exp(before - base)
            {add}
        own, best = best, best_of(best)
        total = sum_of(total * exp(own - best) if own != least else zero)
        {end}
        for i in range(t, n, {chunk}):
            at, left = r * n + i, n - i
            {load}
            {store}
"""


@args(x=In, out=Out, rows=Size, n=Size)
def _softmax_in_registers(tools, dtype: str, group: int, log_of: bool, width: int, parts: int, streamed: bool):
    """Softmax where each thread holds `parts` vectors of `width` adjacent numbers of a row in registers, so that the row is
    read once; if `streamed`, the row is read twice, by chunks of that size.

    The streamed sum is relative to the running maximum, and is rescaled when that grows.
    """
    dt, stride = np.dtype(dtype), group * width

    def for_parts(text: str) -> str:
        """The text for each part that is within the row. v0, v1, … are its numbers, @ is their index."""
        lines = []
        for p in range(parts):
            part_text = re.sub(r"\bv(\d)", rf"v{p}_\1", text).replace("@", f"at + {p * stride}")
            lines.append(f"if {p * stride} < left:\n{indent(part_text, '    ')}")
        return indent("\n".join(lines), "    " * (3 if streamed else 2)).lstrip()

    numbers = [f"v{u}" for u in range(width)]

    def each(form: str) -> str:
        return "\n".join(form.replace("#", v) for v in numbers)

    def join(form: str, terms: list[str]) -> str:
        return form.format(join(form, terms[::2]), join(form, terms[1::2])) if len(terms) > 1 else terms[0]

    all_of = ", ".join(numbers)
    get, put = (f"{all_of} = four(x, @)", f"put(out, @, {all_of})") if width == 4 else ("v0 = x[@]", "out[@] = v0")
    if log_of and not streamed:  # registers hold differences, otherwise exponentials
        terms, last = each("# -= best"), each("# -= total")
        terms += f"\ntotal += {join('({} + {})', [f'exp({v})' for v in numbers])}"
    else:
        base = "base" if streamed else "best"
        terms = each(f"# = exp(# - {base})") + f"\ntotal += {join('({} + {})', numbers)}"
        last = each(("# = (# - best) - total" if log_of else "# = exp(# - best) * total") if streamed else "# *= total")
    scope: dict[str, Any] = {
        "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
        "best_of": reduction(tools, larger, dt, group), "sum_of": reduction(tools, add, dt, group),
        "exp": tools.lift(elementary.exp, dt), "log": tools.lift(elementary.log, dt), "better": tools.lift(larger),
        "least": dt.type(-np.inf), "zero": dt.type(0), "one": dt.type(1),
    }  # fmt: skip
    if width == 4:
        scope |= {"four": tools.load4(dt), "put": tools.store4(dt)}
    largest = f"best = better(best, {join('better({}, {})', numbers)})"
    return tools.compiled(
        (_STREAMED if streamed else _REGISTERS).format(
            group=group, width=width, each=max(1, THREADS // group), chunk=parts * stride,
            load=for_parts(get), largest=for_parts(largest), add=for_parts(terms), store=for_parts(f"{last}\n{put}"),
            end="total = log(total)" if log_of else "total = one / total",
        ),
        scope,
    )["kernel"]  # fmt: skip


@args(g=In, y=In, out=Out, rows=Size, n=Size)
def _softmax_grad(tools, dtype: str, group: int, log_of: bool):
    """y·(g - Σ g·y), or g - exp(y)·Σ g."""
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, exp, zero = reduction(tools, add, dt, group), tools.lift(elementary.exp, dt), dt.type(0)

    def kernel(g, y, out, rows, n):
        t = thread() % group
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at = r * n
            total = zero
            for i in range(t, n, group):
                total += g[at + i] if log_of else g[at + i] * y[at + i]
            total = sum_of(total)
            for i in range(t, n, group):
                if log_of:
                    out[at + i] = g[at + i] - (zero if total == zero else exp(y[at + i]) * total)
                else:
                    out[at + i] = y[at + i] * (g[at + i] - total)

    return kernel


@args(x=In, out=Out, rows=Size, n=Size)
def _logsumexp(tools, dtype: str, group: int):
    dt = np.dtype(dtype)
    thread, block, blocks, rows_per_block = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, inf, zero = dt.type(-np.inf), dt.type(np.inf), dt.type(0)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * rows_per_block + thread() // group, rows, blocks() * rows_per_block):
            at = r * n
            best, total = least, zero
            for i in range(t, n, group):
                best = better(best, x[at + i])
            best = best_of(best)
            best = zero if abs(best) == inf else best
            for i in range(t, n, group):
                total += exp(x[at + i] - best)
            total = sum_of(total)
            if t == 0:
                out[r] = best + log(total)

    return kernel


def _softmax_kernels(name: str, log_of: bool) -> dict:
    """By dtype, whether loads are vectors of four, and the longest row."""
    kernels: dict = {}
    for d in FLOATS:
        kernels[d, False, WARP_ROW] = Kernel(f"{name}_{d.name}_32", _softmax, d.name, 32, log_of)
        for fours in (False, True) if d == float32 else (False,):
            width = 4 if fours else 1
            for longest, group, numbers in ((WARP_ROW, 32, 32), (_REGISTER_ROW, THREADS, 16), (None, 2 * THREADS, 16)):
                if fours or longest != WARP_ROW:
                    kernels[d, fours, longest] = Kernel(
                        f"{name}_{d.name}_{group}" + "_fours" * fours, _softmax_in_registers, d.name, group, log_of,
                        width, numbers // width, longest is None, threads=max(group, THREADS),
                    )  # fmt: skip
    return kernels


_SOFTMAX, _LOG_SOFTMAX = _softmax_kernels("softmax", False), _softmax_kernels("log_softmax", True)
_SOFTMAX_GRAD = by_dtype_and_group("softmax_grad", _softmax_grad, False)
_LOG_SOFTMAX_GRAD = by_dtype_and_group("log_softmax_grad", _softmax_grad, True)
_LOGSUMEXP = by_dtype_and_group("logsumexp", _logsumexp)


def _select_softmax(kernels: dict, dtype, n: int):
    longest = next((row for row in (WARP_ROW, _REGISTER_ROW) if n <= row), None)
    return kernels.get((dtype, dtype == float32 and n % 4 == 0, longest))


def _map_rows(xp, kernels: dict, dim: int, choose=select_kernel, **operands):
    """out[r] = kernel(row r of each operand) for rows along `dim`, in an array of the first operand's shape."""
    x = next(iter(operands.values()))
    if not x.ndim or not x.size:
        return NotImplemented
    n = x.shape[dim]
    kernel = choose(kernels, x.dtype, n)
    if kernel is None or any(a.dtype != x.dtype for a in operands.values()) or not xp.ready(kernel):
        return NotImplemented
    last = dim in (-1, x.ndim - 1)
    for name, a in operands.items():
        a = xp.ascontiguousarray(a if last else xp.moveaxis(a, dim, -1))
        # Vector loads need memory aligned to 16 bytes, as new memory is.
        operands[name] = a.copy() if choose is _select_softmax and a.data.ptr & 15 else a
    out = xp.empty(next(iter(operands.values())).shape, dtype=x.dtype)
    run_rows(xp, kernel, rows=x.size // n, out=out, n=n, **operands)
    return out if last else xp.ascontiguousarray(xp.moveaxis(out, -1, dim))


@register("softmax", "cuda", needs_numba=False)
def softmax(xp, input, *, dim):
    return _map_rows(xp, _SOFTMAX, dim, _select_softmax, x=input)


@register("log_softmax", "cuda", needs_numba=False)
def log_softmax(xp, input, *, dim):
    return _map_rows(xp, _LOG_SOFTMAX, dim, _select_softmax, x=input)


@register("softmax_grad", "cuda", needs_numba=False)
def softmax_grad(xp, g, y, *, dim):
    return _map_rows(xp, _SOFTMAX_GRAD, dim, g=g, y=y)


@register("log_softmax_grad", "cuda", needs_numba=False)
def log_softmax_grad(xp, g, y, *, dim):
    return _map_rows(xp, _LOG_SOFTMAX_GRAD, dim, g=g, y=y)


@register("logsumexp", "cuda", needs_numba=False)
def logsumexp(xp, input):
    return reduced(xp, _LOGSUMEXP, input, input.dtype)
