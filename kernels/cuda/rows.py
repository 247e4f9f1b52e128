"""Row kernels of CUDA: softmax and its relatives, cross-entropy, reductions, argmax.

A row of up to 1,024 numbers is a warp's, a longer one a block's. Within either, each lane works on every 32nd or 256th
number and the lanes' results meet in a butterfly, so shapes alone decide the order of every sum. Nothing is atomic.
"""

from __future__ import annotations

import re
from textwrap import indent
from typing import Any

import numpy as np

from deepcore.backend.dtypes import float32, float64, int64
from deepcore.kernels.cuda.kernel import Kernel, blocks_for
from deepcore.kernels.math import elementary
from deepcore.kernels.registry import register

THREADS = 256
#: The longest row that one warp works on.
_WARP_ROW = 1024
#: The longest row whose softmax keeps it in the registers of a block.
_KEPT_ROW = 4096
#: Longer rows than this are left to CuPy unless they are many: one block each would leave the GPU idle.
_LONG_ROW, _MANY_ROWS = 1 << 16, 64

FLOATS = (float32, float64)
_GROUPS = (32, THREADS)


def add(a, b):
    return a + b


def larger(a, b):
    """The larger of two; a NaN is larger than any number."""
    return a if (a > b) | (a != a) else b


def reduction(tools, combine, dtype, group: int):
    if group == tools.WARP:
        return tools.warp_reduction(combine, dtype)
    return tools.block_reduction(combine, dtype, group)


def _softmax(tools, dtype: str, group: int, log_of: bool):
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, zero = dt.type(-np.inf), dt.type(0)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
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


_KEPT = """
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


def _softmax_by_parts(tools, dtype: str, group: int, log_of: bool, width: int, parts: int, streamed: bool):
    """Softmax of rows that each thread has `parts` times `width` neighbouring numbers of: in registers, so that they
    are read once, or, `streamed`, as many at a time, and read twice.

    The streamed sum is of exponentials less the largest number so far, and is scaled down when a larger one comes.
    """
    dt, stride = np.dtype(dtype), group * width

    def for_parts(text: str) -> str:
        """The text for each part that is within the row. v0, v1, … are its numbers there, @ is where they lie."""
        lines = []
        for p in range(parts):
            own = re.sub(r"\bv(\d)", rf"v{p}_\1", text).replace("@", f"at + {p * stride}")
            lines.append(f"if {p * stride} < left:\n{indent(own, '    ')}")
        return indent("\n".join(lines), "    " * (3 if streamed else 2)).lstrip()

    numbers = [f"v{u}" for u in range(width)]

    def each(form: str) -> str:
        return "\n".join(form.replace("#", v) for v in numbers)

    def joined(form: str, terms: list[str]) -> str:
        return form.format(joined(form, terms[::2]), joined(form, terms[1::2])) if len(terms) > 1 else terms[0]

    all_of = ", ".join(numbers)
    get, put = (f"{all_of} = four(x, @)", f"put(out, @, {all_of})") if width == 4 else ("v0 = x[@]", "out[@] = v0")
    if log_of and not streamed:  # differences are kept, otherwise exponentials
        terms, last = each("# -= best"), each("# -= total")
        terms += f"\ntotal += {joined('({} + {})', [f'exp({v})' for v in numbers])}"
    else:
        base = "base" if streamed else "best"
        terms = each(f"# = exp(# - {base})") + f"\ntotal += {joined('({} + {})', numbers)}"
        last = each(("# = (# - best) - total" if log_of else "# = exp(# - best) * total") if streamed else "# *= total")
    scope: dict[str, Any] = {
        "thread": tools.thread(), "block": tools.block(), "blocks": tools.blocks(),
        "best_of": reduction(tools, larger, dt, group), "sum_of": reduction(tools, add, dt, group),
        "exp": tools.lift(elementary.exp, dt), "log": tools.lift(elementary.log, dt), "better": tools.lift(larger),
        "least": dt.type(-np.inf), "zero": dt.type(0), "one": dt.type(1),
    }  # fmt: skip
    if width == 4:
        scope |= {"four": tools.four(dt), "put": tools.put_four(dt)}
    largest = f"best = better(best, {joined('better({}, {})', numbers)})"
    exec(
        (_STREAMED if streamed else _KEPT).format(
            group=group, width=width, each=max(1, THREADS // group), chunk=parts * stride,
            load=for_parts(get), largest=for_parts(largest), add=for_parts(terms), store=for_parts(f"{last}\n{put}"),
            end="total = log(total)" if log_of else "total = one / total",
        ),
        scope,
    )  # fmt: skip
    return scope["kernel"]


def _softmax_grad(tools, dtype: str, group: int, log_of: bool):
    """y·(g - Σ g·y), or g - exp(y)·Σ g."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    sum_of, exp, zero = reduction(tools, add, dt, group), tools.lift(elementary.exp, dt), dt.type(0)

    def kernel(g, y, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
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


def _logsumexp(tools, dtype: str, group: int):
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, inf, zero = dt.type(-np.inf), dt.type(np.inf), dt.type(0)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
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


def _reduce(tools, dtype: str, group: int, what: str):
    """The sum or the largest or smallest number of each row."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    combine = add if what == "sum" else larger
    result_of, better, least = reduction(tools, combine, dt, group), tools.lift(combine), dt.type(-np.inf)
    start = dt.type(0) if what == "sum" else least
    lowest = what == "amin"

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
            at = r * n
            value = start
            for i in range(t, n, group):
                value = better(value, -x[at + i] if lowest else x[at + i])
            value = result_of(value)
            if t == 0:
                out[r] = -value if lowest else value

    return kernel


def _arg(tools, dtype: str, group: int, lowest: bool):
    """Where the largest (smallest) number of each row is, the first of equal ones; a NaN comes before all others."""
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, better, least = reduction(tools, larger, dt, group), tools.lift(larger), dt.type(-np.inf)
    earliest = reduction(tools, _earlier, int64, group)

    def kernel(x, out, rows, n):
        t = thread() % group
        for r in range(block() * each + thread() // group, rows, blocks() * each):
            at = r * n
            best = least
            for i in range(t, n, group):
                best = better(best, -x[at + i] if lowest else x[at + i])
            best = best_of(best)
            where = n
            for i in range(t, n, group):
                v = -x[at + i] if lowest else x[at + i]
                where = i if (where == n) & ((v == best) | ((v != v) & (best != best))) else where
            where = earliest(where)
            if t == 0:
                out[r] = where

    return kernel


def _earlier(a, b):
    return a if a < b else b


def by_dtype_and_group(name: str, types: tuple[str, ...], build, *parameters) -> dict:
    """The kernels of a row function: by dtype and by who works on a row. "T" in the types is the dtype."""
    return {
        (d, group): Kernel(
            f"{name}_{d.name}_{group}", tuple(t.replace("T", d.name) for t in types), build, d.name, group, *parameters
        )
        for d in FLOATS
        for group in _GROUPS
    }


_ONE, _TWO = ("T*", "T*", "int64", "int64"), ("T*", "T*", "T*", "int64", "int64")


def _softmax_kernels(name: str, log_of: bool) -> dict:
    """By dtype, whether numbers are read by fours, and the longest row."""
    found: dict = {}
    for d in FLOATS:
        types = tuple(t.replace("T", d.name) for t in _ONE)
        found[d, False, _WARP_ROW] = Kernel(f"{name}_{d.name}_32", types, _softmax, d.name, 32, log_of)
        for fours in (False, True) if d == float32 else (False,):
            width = 4 if fours else 1
            for longest, group, numbers in ((_WARP_ROW, 32, 32), (_KEPT_ROW, THREADS, 16), (None, 2 * THREADS, 16)):
                if fours or longest != _WARP_ROW:
                    found[d, fours, longest] = Kernel(
                        f"{name}_{d.name}_{group}" + "_fours" * fours, types, _softmax_by_parts, d.name, group, log_of,
                        width, numbers // width, longest is None, threads=max(group, THREADS),
                    )  # fmt: skip
    return found


_SOFTMAX, _LOG_SOFTMAX = _softmax_kernels("softmax", False), _softmax_kernels("log_softmax", True)
_SOFTMAX_GRAD = by_dtype_and_group("softmax_grad", _TWO, _softmax_grad, False)
_LOG_SOFTMAX_GRAD = by_dtype_and_group("log_softmax_grad", _TWO, _softmax_grad, True)
_LOGSUMEXP = by_dtype_and_group("logsumexp", _ONE, _logsumexp)
_REDUCE = {what: by_dtype_and_group(f"row_{what}", _ONE, _reduce, what) for what in ("sum", "amax", "amin")}
_ARG = {
    low: by_dtype_and_group(f"arg{'min' if low else 'max'}", ("T*", "int64*", "int64", "int64"), _arg, low)
    for low in (False, True)
}


def chosen(kernels: dict, dtype, n: int):
    """The kernel for rows of n numbers, or None."""
    return kernels.get((dtype, 32 if n <= _WARP_ROW else THREADS))


def _chosen_softmax(kernels: dict, dtype, n: int):
    longest = next((row for row in (_WARP_ROW, _KEPT_ROW) if n <= row), None)
    return kernels.get((dtype, dtype == float32 and n % 4 == 0, longest))


def _launch(xp, kernel, group: int, rows: int, *arguments) -> None:
    xp.launch(kernel, blocks_for(xp, rows, max(1, THREADS // group)), *arguments)


def run_rows(xp, kernel, rows: int, *arguments) -> None:
    _launch(xp, kernel, kernel.parameters[1], rows, *arguments)


def _map_rows(xp, kernels: dict, dim: int, arrays: tuple, choose=chosen):
    """out[r] = kernel(arrays[0][r], …) for rows along `dim`, in an array of the first one's shape."""
    x = arrays[0]
    if not x.ndim or not x.size:
        return NotImplemented
    n = x.shape[dim]
    kernel = choose(kernels, x.dtype, n)
    if kernel is None or any(a.dtype != x.dtype for a in arrays) or not xp.ready(kernel):
        return NotImplemented
    last = dim in (-1, x.ndim - 1)
    if not last:
        arrays = tuple(xp.moveaxis(a, dim, -1) for a in arrays)
    arrays = tuple(xp.ascontiguousarray(a) for a in arrays)
    if choose is _chosen_softmax:  # whose loads of fours want memory aligned to 16 bytes, as new memory is
        arrays = tuple(a.copy() if a.data.ptr & 15 else a for a in arrays)
    out = xp.empty(arrays[0].shape, dtype=x.dtype)
    run_rows(xp, kernel, x.size // n, *arrays, out, x.size // n, n)
    return out if last else xp.ascontiguousarray(xp.moveaxis(out, -1, dim))


@register("softmax", "cuda", needs_numba=False)
def softmax(xp, input, *, dim):
    return _map_rows(xp, _SOFTMAX, dim, (input,), _chosen_softmax)


@register("log_softmax", "cuda", needs_numba=False)
def log_softmax(xp, input, *, dim):
    return _map_rows(xp, _LOG_SOFTMAX, dim, (input,), _chosen_softmax)


@register("softmax_grad", "cuda", needs_numba=False)
def softmax_grad(xp, g, y, *, dim):
    return _map_rows(xp, _SOFTMAX_GRAD, dim, (g, y))


@register("log_softmax_grad", "cuda", needs_numba=False)
def log_softmax_grad(xp, g, y, *, dim):
    return _map_rows(xp, _LOG_SOFTMAX_GRAD, dim, (g, y))


def _reduced(xp, kernels: dict, input, dtype):
    """One number for each row of the last dimension, in an array without it."""
    if not input.ndim or not input.size:
        return NotImplemented
    n = input.shape[-1]
    if n > _LONG_ROW and input.size < _MANY_ROWS * n:  # too few blocks
        return NotImplemented
    kernel = chosen(kernels, input.dtype, n)
    if kernel is None or not xp.ready(kernel):
        return NotImplemented
    out = xp.empty(input.shape[:-1], dtype=dtype)
    run_rows(xp, kernel, input.size // n, xp.ascontiguousarray(input), out, input.size // n, n)
    return out


@register("logsumexp", "cuda", needs_numba=False)
def logsumexp(xp, input):
    return _reduced(xp, _LOGSUMEXP, input, input.dtype)


def _over_last(xp, what: str, input, dims, keepdim: bool):
    if dims not in ((-1,), (input.ndim - 1,)):
        return NotImplemented
    out = _reduced(xp, _REDUCE[what], input, input.dtype)
    return out.reshape(*out.shape, 1) if keepdim and out is not NotImplemented else out


@register("sum", "cuda", needs_numba=False)
def sum(xp, input, *, dims, keepdim):
    return _over_last(xp, "sum", input, dims, keepdim)


@register("amax", "cuda", needs_numba=False)
def amax(xp, input, *, dims, keepdim):
    return _over_last(xp, "amax", input, dims, keepdim)


@register("amin", "cuda", needs_numba=False)
def amin(xp, input, *, dims, keepdim):
    return _over_last(xp, "amin", input, dims, keepdim)


@register("argmax", "cuda", needs_numba=False)
def argmax(xp, input, *, dim):
    return _reduced(xp, _ARG[False], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented


@register("argmin", "cuda", needs_numba=False)
def argmin(xp, input, *, dim):
    return _reduced(xp, _ARG[True], input, int64) if dim in (-1, input.ndim - 1) else NotImplemented


# -- cross-entropy --------------------------------------------------------------------------------------------------


#: Threads of the one block that goes over all targets or losses, and how many numbers a thread loads at once.
_ALL, _AT_ONCE = 512, 8


def _over_all(tools, head: str, load: str, use: str, end: str, **scope):
    """A kernel of one block: `load` gives y a number at i, or what counts nothing past the end, and `use` uses it."""
    loads = [load.format(y=f"y{u}", i=f"i + {u * _ALL}") for u in range(_AT_ONCE)]
    uses = [use.format(y=f"y{u}") for u in range(_AT_ONCE)]
    lines = [
        f"def kernel({head}):", "    total, bad = 0.0, 0.0", f"    for i in range(thread(), rows, {_ALL * _AT_ONCE}):",
        *(f"        {line}" for line in loads + uses), "    total, bad = total_of(total), total_of(bad)",
        "    if thread() == 0:", indent(end, "        "),
    ]  # fmt: skip
    scope |= {"thread": tools.thread(), "total_of": tools.block_reduction(add, float64, _ALL)}
    exec("\n".join(lines), scope)
    return scope["kernel"]


def _targets(tools, dtype: str):
    """out[0] = Σ of the weights that count, out[1] = how many classes are out of range; scale is 1, or with `mean` that
    over the sum."""

    @tools.inline
    def weigh(y, weight, classes, ignored, weighted):
        if (y == ignored) | (y < 0) | (y >= classes):
            return 0.0
        return np.float64(weight[y]) if weighted else 1.0

    return _over_all(
        tools, "target, weight, out, scale, rows, classes, ignored, weighted, mean",
        "{y} = target[{i}] if {i} < rows else ignored",
        "total += weigh({y}, weight, classes, ignored, weighted); "
        "bad += 1.0 if ({y} != ignored) & (({y} < 0) | ({y} >= classes)) else 0.0",
        "out[0], out[1] = total, bad\nscale[0] = real(1.0 / total) if mean & (total != 0.0) else real(1.0)",
        weigh=weigh, real=np.dtype(dtype).type,
    )  # fmt: skip


def _loss(tools, dtype: str):
    """The sum of the losses, with `mean` over what `_targets` found."""
    return _over_all(
        tools, "losses, found, out, rows, mean", "{y} = np.float64(losses[{i}]) if {i} < rows else 0.0", "total += {y}",
        "out[0] = real(total / found[0]) if mean else real(total)", np=np, real=np.dtype(dtype).type,
    )  # fmt: skip


def _cross_entropy(tools, dtype: str, group: int, recorded: bool, smoothed: bool):
    """The losses of the rows of x, and where recorded the gradient of their sum times `scale`.

    The weight of class c is weight[c], or 1 unless `weighted`, and `every` has the sum over all classes then. A class out
    of range counts as ignored.
    """
    dt = np.dtype(dtype)
    thread, block, blocks, each = tools.thread(), tools.block(), tools.blocks(), THREADS // group
    best_of, sum_of = reduction(tools, larger, dt, group), reduction(tools, add, dt, group)
    exp, log, better = tools.lift(elementary.exp, dt), tools.lift(elementary.log, dt), tools.lift(larger)
    least, zero, one, real = dt.type(-np.inf), dt.type(0), dt.type(1), dt.type

    def kernel(x, target, weight, losses, out, every, scales, rows, n, ignored, weighted, smoothing):
        t, share, weights, scale = thread() % group, smoothing / real(n), real(n), scales[0]
        if weighted & smoothed:
            weights = every[0]
        for r in range(block() * each + thread() // group, rows, blocks() * each):
            at, y, q = r * n, target[r], zero
            counts = (y != ignored) & (y >= 0) & (y < n)
            if counts:
                q = weight[y] if weighted else one
            if not counts if smoothed else q == zero:
                if t == 0:
                    losses[r] = zero
                if recorded:
                    for i in range(t, n, group):
                        out[at + i] = zero
                continue
            best, total = least, zero
            for i in range(t, n, group):
                best = better(best, x[at + i])
            best = best_of(best)
            for i in range(t, n, group):
                total += exp(x[at + i] - best)
            total = sum_of(total)
            lead = log(total)
            q = (one - smoothing) * q
            loss = q * (lead - (x[at + y] - best)) if q != zero else zero
            if smoothed:
                others = zero
                for i in range(t, n, group):
                    term = lead - (x[at + i] - best)
                    if weighted:
                        term = weight[i] * term if weight[i] != zero else zero
                    others += term
                loss += share * sum_of(others)
            if t == 0:
                losses[r] = loss
            if recorded:
                q = q * scale
                b = share * scale
                k = (q + b * weights) / total if smoothed else q / total
                for i in range(t, n, group):
                    v = exp(x[at + i] - best) * k
                    if smoothed:
                        v -= b * weight[i] if weighted else b
                    out[at + i] = v - q if i == y else v

    return kernel


_TARGETS = {
    d: Kernel(
        f"targets_{d.name}",
        ("int64*", f"{d.name}*", "float64*", f"{d.name}*", *["int64"] * 5),
        _targets,
        d.name,
        threads=_ALL,
    )
    for d in FLOATS
}
_LOSS = {
    d: Kernel(
        f"losses_{d.name}", (f"{d.name}*", "float64*", f"{d.name}*", "int64", "int64"), _loss, d.name, threads=_ALL
    )
    for d in FLOATS
}
_CROSS_ENTROPY = {
    (recorded, smoothed): by_dtype_and_group(
        f"cross_entropy{'_grad' * recorded}{'_smoothed' * smoothed}",
        ("T*", "int64*", "T*", "T*", "T*", "T*", "T*", *["int64"] * 4, "T"), _cross_entropy, recorded, smoothed,
    )
    for recorded in (False, True) for smoothed in (False, True)
}  # fmt: skip


@register("cross_entropy", "cuda", needs_numba=False)
def cross_entropy(xp, input, target, weight=None, *, dim, ignore_index, smoothing, reduction, recorded):
    dtype, n = input.dtype, input.shape[dim]
    kernels = chosen(_CROSS_ENTROPY[recorded, smoothing > 0], dtype, n), _TARGETS.get(dtype), _LOSS.get(dtype)
    if None in kernels or not input.size or not all(map(xp.ready, kernels)):
        return NotImplemented
    kernel, check, add_up = kernels
    x = xp.ascontiguousarray(xp.moveaxis(input, dim, -1))
    rows, target = x.size // n, xp.ascontiguousarray(target.astype(int64, copy=False))
    weighted = weight is not None
    weights = xp.ascontiguousarray(weight.astype(dtype, copy=False)) if weighted else x
    found, scale, mean = xp.empty(2, dtype=float64), xp.empty(1, dtype=dtype), int(reduction == "mean")
    xp.launch(check, 1, target, weights, found, scale, rows, n, ignore_index, int(weighted), mean)
    every = xp.sum(weights).reshape(1) if weighted and smoothing > 0 else x
    losses = xp.empty(target.shape, dtype=dtype)
    gradients = xp.empty(x.shape, dtype=dtype) if recorded else x
    loss = losses if reduction == "none" else xp.empty((), dtype=dtype)
    wrong = xp.any_wrong_by_now(found[1:])
    run_rows(
        xp, kernel, rows, x, target, weights, losses, gradients, every, scale, rows, n, ignore_index, int(weighted),
        dtype.type(smoothing),
    )  # fmt: skip
    if reduction != "none":
        xp.launch(add_up, 1, losses, found, loss, rows, mean)
    if wrong():
        return NotImplemented  # the reference says which
    if not recorded:
        return loss
    return loss, xp.ascontiguousarray(xp.moveaxis(gradients, -1, dim))
