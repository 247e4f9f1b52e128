"""Reductions on the CPU by fixed trees: sums and extremes.

A run of numbers is added up by 64 lanes, 8 numbers a lane; blocks of 512 go up a binary tree, lanes and all, and the
lanes of the last are added in halves. Long runs are cut into chunks whose results are reduced in turn. All of it
depends on sizes alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from deepcore.backend.dtypes import bfloat16, float16, float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Float, In, Operand, Out, Size, Type, args
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register

LANES = 64
_BLOCK = 512
_LEVELS = 32  # of the tree of blocks: enough for 2**42 numbers
# Elements of one slice at least and at most: some 5 to 200 µs. Up to a slice there is one thread.
SLICE, _MOST = 1 << 15, 1 << 19
# A longer row is cut into chunks; of the part of one that holds its best, the nearest cache still has the place.
CHUNK, SCANNED = 1 << 16, 1 << 12
# Bytes between what is read and what is brought near.
_AHEAD = 8192
# Of a reduction over rows: bytes of the columns, or of several rows, taken at a time; rows of one chunk at most and at
# least (numbers, if those are short); and groups that are added one after the other.
_WIDTH, _ROWS, _FEW_ROWS, _GROUPS = 4096, 1024, 64, 8
# Elements up to which NumPy reduces whole numbers, and looks for extremes, to the same result.
_LEAST_EXACT = 1 << 14
FLOATS = (float32, float64)


def kernels_of(name: str, build, *parameters) -> dict:
    """A kernel for each floating dtype."""
    return {d: Kernel(f"{name}_{d.name}", build, *parameters, d.name) for d in FLOATS}


def share(total: int) -> int:
    """How many of `total` elements one slice has: more of many, as long runs of memory are read faster."""
    return min(max(SLICE, total >> 6), _MOST)


_COMBINATIONS: dict[str, tuple[Callable, float]] = {
    "sum": (lambda a, b: a + b, 0.0),
    "amax": (lambda a, b: b if b > a or b != b else a, -math.inf),
    "amin": (lambda a, b: b if b < a or b != b else a, math.inf),
    "top": (lambda a, b: b if b > a else a, -math.inf),
    "bottom": (lambda a, b: b if b < a else a, math.inf),
}


@functools.cache
def combination(tools, dt, name: str):
    """(combine(a, b), its neutral element) of "sum", of "amax" and "amin", which are NaN where a number is, or of
    "top" and "bottom", which pass over it."""
    combine, neutral = _COMBINATIONS[name]
    if dt.kind in "iu" and name != "sum":
        neutral = np.iinfo(dt).min if neutral < 0 else np.iinfo(dt).max
    return tools.inline(combine), dt.type(neutral)


@functools.cache
def summing(tools, dt, term, ahead: str = ""):
    """total(x, y, z, n, c, d): Σ term(x, y, z, i, c, d) over i < n, for pointers x, y, z and numbers c, d.

    `ahead`: "row" or "row, row" has the next row of x, or of x and y, brought near meanwhile, "run" what follows soon.
    """
    fetch, far = tools.prefetch(dt), _AHEAD // dt.itemsize
    lanes, levels = tools.local(dt, LANES), tools.local(dt, LANES * _LEVELS)
    fold, zero = tools.folded(dt, "sum"), dt.type(0)

    @tools.inline
    def total(x, y, z, n, c, d):
        acc, tree = lanes(), levels()
        done = 0
        while True:
            last = done + _BLOCK >= n
            end = n if last else done + _BLOCK
            for j in range(LANES):
                acc[j] = zero
            whole = done + (end - done) // LANES * LANES
            for i in range(done, whole, LANES):
                if ahead:
                    fetch(x, i + (far if ahead == "run" else n))
                if ahead == "row, row":
                    fetch(y, i + n)
                for j in range(LANES):
                    acc[j] += term(x, y, z, i + j, c, d)
            if whole < end:
                if n < LANES:
                    for j in range(n):
                        acc[j] += term(x, y, z, j, c, d)
                else:  # the last 64, of which the first have been added already
                    start, new = n - LANES, LANES - (end - whole)
                    for j in range(LANES):
                        acc[j] += term(x, y, z, start + j, c, d) if j >= new else zero
            # A full block is carried up the tree as far as it is even; the last one meets all that is left there.
            block, level = done // _BLOCK, 0
            while block >> level if last else (block >> level) & 1:
                if (block >> level) & 1:
                    for j in range(LANES):
                        acc[j] = tree[LANES * level + j] + acc[j]
                level += 1
            if last:
                break
            for j in range(LANES):
                tree[LANES * level + j] = acc[j]
            done = end
        return fold(acc)

    return total


@functools.cache
def extreme(tools, dt, name: str):
    """extreme(x, n): the largest or smallest of x[0 … n-1], by the name of `combination`."""
    lanes, (combine, neutral) = tools.local(dt, LANES), combination(tools, dt, name)
    fold, whole_type = tools.folded(dt, name), np.dtype(np.int32 if dt.itemsize == 4 else np.int64)
    counts, one, none, nan = tools.local(whole_type, LANES), whole_type.type(1), whole_type.type(0), dt.type(np.nan)
    fetch, far = tools.prefetch(dt), _AHEAD // dt.itemsize
    if name == "top":
        chosen = combine
    else:  # NaN is counted apart: comparing and counting do not wait for one another
        chosen, _ = combination(tools, dt, "top" if name == "amax" else "bottom")

    @tools.inline
    def best(x, n):
        acc, bad = lanes(), counts()
        for j in range(LANES):
            acc[j], bad[j] = neutral, none
        for i in range(0, n - LANES + 1, LANES):
            if name != "top":
                fetch(x, i + far)
            for j in range(LANES):
                v = x[i + j]
                acc[j] = chosen(acc[j], v)
                bad[j] += one if v != v else none
        if n < LANES:
            for j in range(n):
                acc[j] = combine(acc[j], x[j])
        elif n % LANES:  # the last 64, most of them for the second time
            for j in range(LANES):
                v = x[n - LANES + j]
                acc[j] = chosen(acc[j], v)
                bad[j] += one if v != v else none
        if name != "top":
            for j in range(LANES):
                acc[j] = nan if bad[j] != none else acc[j]
        return fold(acc)

    return best


@functools.cache
def plain(tools, dt, ahead: str = ""):
    """total(x, y, z, n, c, d): Σ x."""

    @tools.inline
    def term(x, y, z, i, c, d):
        return x[i]

    return summing(tools, dt, term, ahead)


# -- sums and extremes ----------------------------------------------------------------------------------------------


def _row_arguments(name: str, dtype: str, made: str = "", computed: str = "") -> dict[str, Type]:
    return {"x": In(dtype), "out": Out(made or dtype), **dict.fromkeys(("tasks", "n", "parts", "each"), Size)}


@args(_row_arguments)
def _rows(tools, name: str, dtype: str, made: str = "", computed: str = ""):
    """out[t]: one number for each of a row's `parts` parts. `each`: tasks of a chunk.

    `made`: the results' dtype in memory, `computed`: what both are computed in, where that is another than `dtype`.
    """
    dt = np.dtype(computed or dtype)
    after, zero = tools.after(np.dtype(dtype)), dt.type(0)
    if dt.kind in "iu":
        combine, neutral = combination(tools, dt, name)

        @tools.inline
        def reduced(x, n):
            best = neutral
            for i in range(n):
                best = combine(best, dt.type(x[i]))
            return best
    elif name == "sum":
        total = plain(tools, dt, "run")

        @tools.inline
        def reduced(x, n):
            return total(x, x, x, n, zero, zero)
    else:
        reduced = extreme(tools, dt, name)

    def kernel(x, out, tasks, n, parts, each, chunk):
        for t in range(chunk * each, min(tasks, (chunk + 1) * each)):
            start = t % parts * CHUNK
            out[t] = reduced(after(x, t // parts * n + start), min(n - start, CHUNK))
        return 0

    return kernel


def _rows_of_arguments(lines, dtype: str, pattern: str, parameters: int) -> dict[str, Type]:
    operands = {f"a{i}": In for i in range(len(pattern))}
    sizes = dict.fromkeys(("tasks", "n", "parts", "each"), Size)
    return {**operands, "out": Out, **sizes, **{f"p{j}": Float for j in range(parameters)}}


@args(_rows_of_arguments)
def _rows_of(tools, lines, dtype: str, pattern: str, parameters: int):
    """Sums over a row's parts, as `_rows`, of the last of elementwise lines: see `elementwise.build`.

    `pattern`: "v" up to three times, then "s".
    """
    dt = np.dtype(dtype)
    scope: dict = {
        **elementwise.scope(tools, lines, dt), "summing": summing, "tools": tools, "dt": dt, "CHUNK": CHUNK,
        "after": tools.after(dt), "zero": dt.type(0),
    }  # fmt: skip
    return tools.compiled(_rows_source(lines, dtype, pattern, parameters), scope)["kernel"]


def _rows_source(lines, dtype: str, pattern: str, parameters: int) -> str:
    runs, count = pattern.count("v"), len(pattern)
    numbers = [*(f"s{i}" for i in range(runs, count)), *(f"p{j}" for j in range(parameters)), "zero", "zero"][:2]
    given = {x: f"{'xyz'[x]}[i]" if x < runs else "cd"[x - runs] for x in range(count)}
    formulas = []
    for i, line in enumerate(lines, count):
        values = [given.get(x, f"x{x}") for x in line.operands]
        values += ["cd"[count - runs + p] for p in line.parameters]
        formulas.append(f"x{i} = {line.formula}({', '.join(values)})")
    pointers = [f"after(a{min(k, runs - 1)}, start)" for k in range(3)]
    return "\n".join([
        "@tools.inline",
        "def term(x, y, z, i, c, d):",
        *(f"    {line}" for line in formulas),
        f"    return x{count + len(lines) - 1}",
        "",
        'total = summing(tools, dt, term, "run")',
        "",
        f"def kernel({', '.join(_rows_of_arguments(lines, dtype, pattern, parameters))}, chunk):",
        *(f"    s{i} = a{i}[0]" for i in range(runs, count)),
        "    for t in range(chunk * each, min(tasks, (chunk + 1) * each)):",
        "        first = t % parts * CHUNK",
        "        start = t // parts * n + first",
        f"        out[t] = total({', '.join(pointers)}, min(n - first, CHUNK), {', '.join(numbers)})",
        "    return 0",
    ])  # fmt: skip


_rows_of.__dict__["source"] = _rows_source


def sum_of(lines, dtype: str, pattern: str, parameters: int) -> Kernel | None:
    """The kernel that adds up what elementwise lines give, or None. Its arguments are those of the sum of rows, but for
    more operands, and parameters behind them."""
    runs, singles = pattern.count("v"), pattern.count("s")
    if not 1 <= runs <= 3 or runs + singles != len(pattern) or singles + parameters > 2:
        return None
    name = jit.named("sum", lines, dtype, pattern, parameters)
    return jit.KERNELS.get(name) or Kernel(name, _rows_of, lines, dtype, pattern, parameters)


def _column_arguments(name: str, dtype: str, made: str = "", computed: str = "") -> dict[str, Type]:
    sizes = dict.fromkeys(("outer", "n", "inner", "rows", "group", "wide", "each"), Size)
    return {"x": In(dtype), "out": Out(made or dtype), **sizes}


@args(_column_arguments)
def _columns(tools, name: str, dtype: str, made: str = "", computed: str = ""):
    """out[o, p, j]: x[o, r, j] reduced over part p of the rows r, which has `rows` of them; dtypes as in `_rows`.

    `group`: rows that are added side by side (a power of two; above 1 only if all columns are taken at once), `wide`:
    columns taken at a time, `each`: tasks of a chunk.
    """
    dt = np.dtype(computed or dtype)
    after, after_result = tools.after(np.dtype(dtype)), tools.after(np.dtype(made or dtype))
    width, number = _WIDTH // dt.itemsize, dt.type
    lanes, levels = tools.local(dt, width), tools.local(dt, width * _LEVELS // 2)
    combine, neutral = combination(tools, dt, name)

    def kernel(x, out, outer, n, inner, rows, group, wide, each, chunk):
        parts, blocks = -(-n // rows), -(-inner // wide)
        acc, tree = lanes(), levels()
        for t in range(chunk * each, min(outer * parts * blocks, (chunk + 1) * each)):
            column = t % blocks * wide
            p = t // blocks % parts
            o = t // (blocks * parts)
            taken = min(wide, inner - column)
            count = min(rows, n - p * rows)
            source = after(x, (o * n + p * rows) * inner + column)
            lane, step = group * taken, group * inner
            groups = count // group
            block = 0
            while True:
                last = (block + 1) * _GROUPS >= groups
                for j in range(lane):
                    acc[j] = neutral
                for g in range(block * _GROUPS, min(groups, (block + 1) * _GROUPS)):
                    for j in range(lane):
                        acc[j] = combine(acc[j], number(source[g * step + j]))
                if last:
                    for j in range((count - groups * group) * inner):  # groups take all columns
                        acc[j] = combine(acc[j], number(source[groups * step + j]))
                level = 0
                while block >> level if last else (block >> level) & 1:
                    if (block >> level) & 1:
                        for j in range(lane):
                            acc[j] = combine(tree[width * level + j], acc[j])
                    level += 1
                if last:
                    break
                for j in range(lane):
                    tree[width * level + j] = acc[j]
                block += 1
            half = group // 2
            while half:
                for j in range(half * taken):
                    acc[j] = combine(acc[j], acc[half * taken + j])
                half //= 2
            result = after_result(out, (o * parts + p) * inner + column)
            for j in range(taken):
                result[j] = acc[j]
        return 0

    return kernel


_ROW_KERNELS = {(n, d): Kernel(f"{n}_rows_{d.name}", _rows, n, d.name) for n in ("sum", "amax", "amin") for d in FLOATS}
_COLUMN_KERNELS = {(n, d): Kernel(f"{n}_columns_{d.name}", _columns, n, d.name) for n, d in _ROW_KERNELS}


def _computed(name: str, dtype):
    """What a reduction of `dtype` is computed in, and what it gives; None where there is no kernel."""
    if dtype in FLOATS:
        return dtype, dtype
    if dtype in (float16, bfloat16):
        return (float32, dtype) if jit.narrow_floats() else None
    if name == "sum_integers":
        return (int64, int64) if dtype.kind in "iub" else None
    return (dtype, dtype) if dtype == int64 or (name != "sum" and dtype.kind in "iu") else None


@functools.cache
def _kernel_of(name: str, rows: bool, dtype, made, computed) -> Kernel:
    name = name.removesuffix("_integers")
    if dtype == made == computed and dtype in FLOATS:
        return (_ROW_KERNELS if rows else _COLUMN_KERNELS)[name, dtype]
    dtype = np.dtype(np.uint8) if dtype == np.bool_ else dtype
    title = f"{name}_{'rows' if rows else 'columns'}_{dtype.name}_{made.name}_{computed.name}"
    build = _rows if rows else _columns
    return jit.KERNELS.get(title) or Kernel(title, build, name, dtype.name, made.name, computed.name)


class _Region(NamedTuple):
    """One launch, with its arguments but for `x` and `out`, and how many results it has."""

    kernel: Kernel
    chunks: int
    arguments: dict[str, int]
    results: int


def regions(name: str, dtype, outer: int, n: int, inner: int) -> list[_Region]:
    """What reduces (outer, n, inner) over the middle, of numbers that are held as they are computed."""
    kernel = _kernel_of(name, inner == 1, dtype, dtype, dtype)
    size = outer * n * inner
    if inner == 1:
        parts = -(-n // CHUNK) or 1
        tasks, each = outer * parts, max(1, share(size) // min(n or 1, CHUNK))
        arguments = {"tasks": tasks, "n": n, "parts": parts, "each": each}
    else:
        group, wide = 1, _WIDTH // dtype.itemsize
        if inner < wide:
            group = min(1 << (wide // inner).bit_length() - 1, 1 << max(n, 1).bit_length() - 1)
            wide = inner
        if inner * _ROWS >= SLICE:
            rows = min(_ROWS, max(_FEW_ROWS, 2 * SLICE // wide // group * group))
        else:
            rows = -(-SLICE // inner // group) * group
        parts = -(-n // rows) or 1
        tasks = outer * parts * -(-inner // wide)
        each = max(1, share(size) // max(1, min(n, rows) * wide))
        arguments = {"outer": outer, "n": n, "inner": inner, "rows": rows, "group": group, "wide": wide, "each": each}
    region = _Region(kernel, -(-tasks // each), arguments, outer * parts * inner)
    return [region] if parts == 1 else [region, *regions(name, dtype, outer, parts, inner)]


def spaces(steps: list[_Region], dtype) -> tuple[int, ...]:
    """Bytes of what all but the last leave for the next."""
    return tuple(step.results * dtype.itemsize for step in steps[:-1])


def in_steps(steps: list[_Region], source: Operand, first: int, result: Operand) -> list[Launch]:
    """The launches of regions; temporaries of `spaces` are numbered from `first`."""
    places = [source, *(Operand(first + i) for i in range(len(steps) - 1)), result]
    return [
        Launch(step.kernel, step.chunks, x=places[i], out=places[i + 1], **step.arguments)
        for i, step in enumerate(steps)
    ]


def _steps(name: str, held, shape: tuple[int, ...], dims: tuple[int, ...], keepdim: bool):
    """The regions that reduce `dims`, the last ones first, and the shape of the result."""
    dtype, made = _computed(name, held)  # type: ignore[misc]
    steps: list[_Region] = []
    rest = list(shape)
    runs = [d for d in sorted(dims, reverse=True) if shape[d] != 1]
    while runs:
        last = first = runs.pop(0)
        while runs and all(shape[d] == 1 for d in range(runs[0] + 1, first)):
            first = runs.pop(0)
        steps += regions(
            name, dtype, math.prod(rest[:first]), math.prod(rest[first : last + 1]), math.prod(rest[last + 1 :])
        )
        rest[first : last + 1] = [1] * (last + 1 - first)
    for i, step in enumerate(steps if held != dtype else ()):
        first, last, rows = i == 0, i == len(steps) - 1, "tasks" in step.arguments
        kernel = _kernel_of(name, rows, held if first else dtype, made if last else dtype, dtype)
        steps[i] = step._replace(kernel=kernel)
    kept = tuple(1 if d in dims else n for d, n in enumerate(shape))
    return steps, kept if keepdim else tuple(n for d, n in enumerate(shape) if d not in dims)


def summed(lines, dtype: str, pattern: str, specs, dims: tuple[int, ...], keepdim: bool) -> Plan | None:
    """The plan of the sum over `dims` of what elementwise lines give, or None where it has no kernel.

    Operands are those of the lines (of `pattern`, see `sum_of`), then their parameters as floats; the first has the shape
    that is summed.
    """
    x = specs[0]
    parameters = 1 + max((p for line in lines for p in line.parameters), default=-1)
    kernel = sum_of(lines, dtype, pattern, parameters)
    steps, shape = _steps("sum", x.dtype, x.shape, dims, keepdim)
    if kernel is None or not x.size or not steps or steps[0].kernel is not _ROW_KERNELS["sum", x.dtype]:
        return None
    if not kernel.ready() or not all(step.kernel.ready() for step in steps):
        return None
    count, first = len(pattern), len(pattern) + parameters
    out = Operand(first + len(steps) - 1)
    operands = {f"a{i}": Operand(i) for i in range(count)} | {"out": Operand(first) if len(steps) > 1 else out}
    floats = {f"p{j}": Operand(count + j) for j in range(parameters)}
    launches = [Launch(kernel, steps[0].chunks, **operands, **steps[0].arguments, **floats)]
    launches += in_steps(steps[1:], Operand(first), first + 1, out) if len(steps) > 1 else []
    return Plan(contiguous(shape, x.dtype, x.backend), launches, spaces(steps, x.dtype))


class _Reduction(Lowering):
    """The sum, maximum or minimum over `dims`."""

    def __init__(self, name: str):
        # Another layout is left to the reference, whose bits are others.
        super().__init__(
            name, self.planned, ("dims", "keepdim"), prepare=self.prepared, copies=lambda specs, params: None
        )

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        dtypes = _computed(self.__name__, x.dtype)
        if dtypes is None or not x.size or not x.aligned:
            return None
        if not x.plain:
            return True
        steps, shape = _steps(self.__name__, x.dtype, x.shape, params["dims"], params["keepdim"])
        if not steps or not all(step.kernel.ready() for step in steps):
            return None
        computed, made = dtypes
        between = spaces(steps, computed)
        launches = in_steps(steps, Operand(0), 1, Operand(1 + len(between)))
        return Plan(contiguous(shape, made, x.backend), launches, between)

    def pays(self, specs, params) -> bool:
        (x,) = specs
        exact = self.__name__ != "sum" or x.dtype.kind in "iub"
        return x.dtype in FLOATS or not exact or x.size >= _LEAST_EXACT

    def prepared(self, xp, arrays, params, out):
        """An array whose transpose is contiguous; others are left to the reference."""
        (x,) = arrays
        if not x.flags.f_contiguous or out is not None:
            return NotImplemented
        dims = tuple(x.ndim - 1 - d for d in params["dims"])
        mirrored = self(xp, x.T, dims=dims, keepdim=params["keepdim"])
        return mirrored if mirrored is NotImplemented else mirrored.T


REDUCTIONS = {name: _Reduction(name) for name in ("sum", "sum_integers", "amax", "amin")}
for _lowering in REDUCTIONS.values():
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
