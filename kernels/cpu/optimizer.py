"""Optimizer updates and gradient clipping: all parameters in one parallel region, over a table of where they lie.

An update is a scalar formula, written once beside its optimizer: `lift` makes the kernel's loop of it, `over_arrays` the
reference. A slice is a fixed range of the elements of all parameters one after the other, each parameter rounded up to
whole blocks, so sizes alone decide it and many small parameters cost as much as one.

    table    one row per parameter: start, size, then the addresses of gradient, parameter and states
    scalars  one row per parameter: learning rate and the like, as float64
    slots    what clipping computes and reads: see the numbers below
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt as _sqrt  # not math.sqrt below: `lift` would take its name for that of our own
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.cpu.checks import EXPONENTS
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import threadpool
from deepcore.kernels.runtime.executable import Buffer, Launch, Table

# Elements of one slice, some 10 µs; parameters begin at whole blocks.
SLICE = 1 << 15
BLOCK = 64
# How far ahead memory is brought near: the processor's own prefetching ends with a page.
_AHEAD = 512
# Columns of a table.
_START, _SIZE, _GRADIENT = 0, 1, 2
# Slots: the largest norm allowed, the largest magnitude allowed, whether a norm that is not finite stops the program;
# the norm, the factor for the gradients, and why the program stopped.
_MAX_NORM, _BOUND, _FINITE, NORM, FACTOR, STOPPED, _SLOTS = range(7)
#: Why a program stopped: an array is not what the table was made for; a gradient, or their norm, is not finite.
MISFIT, NOT_FINITE = 1, 2

#: PyTorch's guard against division by zero.
EPSILON = 1e-6


# -- formulas -----------------------------------------------------------------------------------------------------


def sqrt(x):
    """√x in formulas of updates."""
    return _sqrt(x)


def maximum(a, b):
    """The larger one, NaN if either is, in formulas of updates."""
    larger = a if a > b else b
    return larger if a == a else a


#: Every update defined so far.
UPDATES: list[Update] = []


class Update:
    """One element's update, `formula(w, g, *states, *scalars) -> (w, *states)`: the parameter, its gradient, the state
    arrays named here, and numbers that the optimizer gives by their names in the formula.

    Plain arithmetic, `sqrt` and `maximum` of this file; `a if c else b` where c depends on the scalars alone. A scalar is
    to meet an element before it meets another scalar, so that loops and whole arrays round alike.
    """

    def __init__(self, formula: FunctionType, *states: str):
        self.formula, self.states = formula, states
        code = formula.__code__
        self.scalars = code.co_varnames[2 + len(states) : code.co_argcount]
        self.kernels = {dtype: _kernel(formula, len(states), dtype) for dtype in (float32, float64)}
        UPDATES.append(self)

    def ready(self, dtype) -> bool:
        """Whether there is a kernel for arrays of this dtype."""
        return dtype in self.kernels and self.kernels[dtype].ready()

    def values(self, given: dict[str, float]) -> list[float]:
        """The scalars in the formula's order."""
        return [given[name] for name in self.scalars]


@functools.cache
def over_arrays(formula: FunctionType, module: ModuleType) -> FunctionType:
    """The formula over arrays of an array library."""
    names = dict(formula.__globals__)
    for name in formula.__code__.co_names:
        callee = names.get(name)
        if callee is sqrt or callee is maximum:
            names[name] = getattr(module, callee.__name__)
        elif isinstance(callee, FunctionType) and callee.__module__ == formula.__module__:
            names[name] = over_arrays(callee, module)
    return FunctionType(formula.__code__, names, formula.__name__, formula.__defaults__)


class _Run:
    """`update(xp, w, g, *states, update=Update, scalars=…)`, in place: bound to each backend as an op is."""

    name = "update"

    @staticmethod
    def forward(xp, w, g, *states, update: Update, scalars: dict[str, float]) -> None:
        dtype = float32 if w.itemsize < 4 else w.dtype  # 16-bit floats are computed in float32
        arrays = [x.astype(dtype, copy=False) for x in (w, g, *states)]
        numbers = [float(dtype.type(value)) for value in update.values(scalars)]
        results = over_arrays(update.formula, xp.array_module)(*arrays, *numbers)
        for target, result in zip((w, *states), results):
            target[...] = result


_RUN = _Run()


class _RunMany:
    """`updates(xp, update=Update, entries=[(w, g, states, scalars), …], kept={})`: a call that updates all, or None."""

    name = "updates"

    @staticmethod
    def forward(xp, *, update: Update, entries: list[tuple], kept: dict) -> None:
        return None


_RUN_MANY: Any = _RunMany()


def updates_together(xp, update: Update, entries: list[tuple], kept: dict) -> Callable[[], None] | None:
    """What updates all entries (w, g, states, scalars) at once, in place, or None where the backend has no such thing.

    All that can fail has been done before it is called. `kept` is the backend's, the same at the next step.
    """
    return (xp.impls.get(_RUN_MANY) or xp.bind(_RUN_MANY))(xp, update=update, entries=entries, kept=kept)


def run_update(xp, update: Update, scalars: dict[str, float], w, g, *states) -> None:
    """One parameter's update, in place, by whole arrays or what is registered as "update" for the backend."""
    (xp.impls.get(_RUN) or xp.bind(_RUN))(xp, w, g, *states, update=update, scalars=scalars)


class _AllFinite:
    """`all_finite(xp, *arrays)`: bound to each backend as an op is."""

    name = "all_finite"

    @staticmethod
    def forward(xp, *arrays) -> bool:
        checks = [xp.isfinite(x).all() for x in arrays]
        return bool(xp.stack(checks).all()) if checks else True


_FINITE_OP: Any = _AllFinite()


def all_finite(xp, arrays: list) -> bool:
    """Whether no array of floats has a NaN or infinity."""
    return (xp.impls.get(_FINITE_OP) or xp.bind(_FINITE_OP))(xp, *arrays)


@register("all_finite", "cpu", needs_numba=False)
def _all_finite(xp, *arrays):
    table = Gradients.of(arrays, written=False)
    return NotImplemented if table is None else table.finite()


def _kernel(formula: FunctionType, states: int, dtype) -> Kernel:
    name = f"update_{formula.__name__}_{dtype.name}"
    number = 1
    while name in jit.KERNELS:  # another class has a formula of that name, or a notebook's cell ran again
        number += 1
        name = f"update_{formula.__name__}_{number}_{dtype.name}"
    return Kernel(name, _build_update, formula, states, dtype.name)


# -- kernels ------------------------------------------------------------------------------------------------------

# Lanes: what is written waits on the stack, so that LLVM need not ask whether two of the arrays overlap.
_SPAN = """
def span(start, stop, table, row, factor, bound, keep, scalars):
    {pointers}
    {locals}
    {numbers}
    i = start
    while i + 64 <= stop:
        {ahead}
        for j in range(64):
            d = clip(g[i + j], bound, factor)
            lg[j] = d
            {results} = formula({there})
        {store}
        if keep:
            for j in range(64):
                g[i + j] = lg[j]
        i += 64
    rest = stop - i
    if rest > 0:
        for j in range(64):
            {zero}
        for j in range(rest):
            {fetch}
        for j in range(64):
            d = clip(lg[j], bound, factor)
            lg[j] = d
            {results} = formula({here})
        for j in range(rest):
            {put}
        if keep:
            for j in range(rest):
                g[i + j] = lg[j]
"""


def _span(tools, formula, states: int, scalars: int, dtype):
    """The loop over one parameter: elements start to stop, block by block."""
    arrays = ["w", *(f"s{i}" for i in range(states))]
    outer, inner = "\n    ".join, "\n            ".join
    numbers = [f"c{i}" for i in range(scalars)]
    text = _SPAN.format(
        pointers=outer(f"{a} = view(table[row + {2 + i}])" for i, a in enumerate(["g", *arrays])),
        locals=outer(f"l{a} = local()" for a in ["g", *arrays]),
        numbers=outer(f"{c} = convert(scalars[{i}])" for i, c in enumerate(numbers)),
        results=", ".join(f"l{a}[j]" for a in arrays) + ",",
        there=", ".join(["w[i + j]", "d", *(f"{a}[i + j]" for a in arrays[1:]), *numbers]),
        here=", ".join(["lw[j]", "d", *(f"l{a}[j]" for a in arrays[1:]), *numbers]),
        store="\n        ".join(f"for j in range(64):\n            {a}[i + j] = l{a}[j]" for a in arrays),
        ahead="\n        ".join(f"near({a}, i + {_AHEAD})" for a in ["g", *arrays]),
        zero=inner(f"l{a}[j] = zero" for a in ["g", *arrays]),
        fetch=inner(f"l{a}[j] = {a}[i + j]" for a in ["g", *arrays]),
        put=inner(f"{a}[i + j] = l{a}[j]" for a in arrays),
    )
    scope: dict[str, Any] = {
        "view": tools.view(dtype),
        "local": tools.local(dtype, BLOCK),
        "convert": dtype.type,
        "zero": dtype.type(0),
        "near": tools.prefetch(dtype),
        "formula": tools.lift(formula, dtype),
        "clip": tools.lift(_clip, dtype),
    }
    exec(text, scope)
    return tools.inline(scope["span"])


def _clip(g, bound, factor):
    g = bound if g > bound else g
    g = -bound if g < -bound else g
    return g * factor


def _build_update(tools, formula, states: int, dtype: str):
    """Words: rows, elements in all, table, scalars, slots, whether clipped gradients are written."""
    dt = np.dtype(dtype)
    count = formula.__code__.co_argcount - 2 - states
    span = _span(tools, formula, states, count, dt)
    words, floats, convert, find = tools.words(), tools.view(np.dtype(np.float64)), dt.type, tools.inline(_find)
    width = 4 + states

    def kernel(a, part):
        rows, table, slots, keep = a[0], words(a[2]), floats(a[4]), a[5]
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        factor, bound = convert(slots[FACTOR]), convert(slots[_BOUND])
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            span(start, stop, table, row * width, factor, bound, keep, floats(a[3] + 8 * count * row))
            row += 1
        return 0

    return kernel


def _find(table, width, rows, element):
    """The row that an element of all is in."""
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if table[middle * width] <= element:
            low = middle
        else:
            high = middle
    return low


def _build_norm(tools, dtype: str):
    """partials[slice] = Σ g² in 64 float64 lanes. Words: rows, elements in all, table, its width, slots, partials."""
    dt = np.dtype(dtype)
    view, words, floats = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64))
    find, local, convert = tools.inline(_find), tools.local(np.dtype(np.float64), BLOCK), dt.type
    clip = tools.lift(_clip, dt)

    @tools.inline
    def add(g, start, stop, bound, lanes):
        one = convert(1)
        i = start
        while i + 64 <= stop:
            for j in range(64):
                d = np.float64(clip(g[i + j], bound, one))
                lanes[j] += d * d
            i += 64
        for j in range(stop - i):
            d = np.float64(clip(g[i + j], bound, one))
            lanes[j] += d * d

    def kernel(a, part):
        rows, table, width, slots, partials = a[0], words(a[2]), a[3], floats(a[4]), floats(a[5])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        bound = convert(slots[_BOUND])
        lanes = local()
        for j in range(64):
            lanes[j] = 0.0
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            add(view(table[row * width + 2]), start, stop, bound, lanes)
            row += 1
        half = 32
        while half > 0:
            for j in range(half):
                lanes[j] += lanes[j + half]
            half //= 2
        partials[part] = lanes[0]
        return 0

    return kernel


def _build_total(tools, dtype: str):
    """The norm of all partials and the factor for the gradients, in `dtype`. Words: number of partials, they, slots, 0 or
    where else the norm is written."""
    floats, result, convert = tools.view(np.dtype(np.float64)), tools.view(np.dtype(dtype)), np.dtype(dtype).type
    epsilon = convert(EPSILON)

    def kernel(a):
        partials, slots = floats(a[1]), floats(a[2])
        square = 0.0
        for i in range(a[0]):
            square += partials[i]
        norm = convert(math.sqrt(square))
        factor = convert(slots[_MAX_NORM]) / (norm + epsilon)
        slots[NORM] = norm
        if a[3] != 0:
            result(a[3])[0] = norm
        slots[FACTOR] = convert(1) if factor > convert(1) else factor
        if slots[_FINITE] != 0.0 and norm - norm != convert(0):
            slots[STOPPED] = NOT_FINITE
            return 1
        return 0

    return kernel


def _build_finite(tools, dtype: str, exponent: int):
    """Stops where a gradient has a NaN or infinity. Words: rows, elements in all, table, its width, slots."""
    dt = np.dtype(f"u{np.dtype(dtype).itemsize}")
    view, words, floats, whole = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64)), dt.type
    find, mask, zero = tools.inline(_find), whole(exponent), whole(0)

    @tools.inline
    def highest(g, start, stop):
        top = zero
        for i in range(start, stop):
            bits = whole(g[i] & mask)  # numba widens it
            top = bits if bits > top else top
        return top

    def kernel(a, part):
        rows, table, width, slots = a[0], words(a[2]), a[3], floats(a[4])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        row, top = find(table, width, rows, low), zero
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            top = max(top, highest(view(table[row * width + 2]), start, stop))
            row += 1
        if top == mask:
            slots[STOPPED] = NOT_FINITE
            return 1
        return 0

    return kernel


def _build_scale(tools, dtype: str):
    """g[i] = clip(g[i])·factor. Words: rows, elements in all, table, its width, slots."""
    dt = np.dtype(dtype)
    view, words, floats, convert = tools.view(dt), tools.words(), tools.view(np.dtype(np.float64)), dt.type
    find, clip = tools.inline(_find), tools.lift(_clip, dt)

    @tools.inline
    def scale(g, start, stop, bound, factor):
        for i in range(start, stop):
            g[i] = clip(g[i], bound, factor)

    def kernel(a, part):
        rows, table, width, slots = a[0], words(a[2]), a[3], floats(a[4])
        low, high = part * SLICE, min(a[1], (part + 1) * SLICE)
        factor, bound = convert(slots[FACTOR]), convert(slots[_BOUND])
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            scale(view(table[row * width + 2]), start, stop, bound, factor)
            row += 1
        return 0

    return kernel


_NORM = {dtype: Kernel(f"gradient_norm_{dtype.name}", _build_norm, dtype.name) for dtype in (float32, float64)}
_TOTAL = {dtype: Kernel(f"gradient_total_{dtype.name}", _build_total, dtype.name) for dtype in (float32, float64)}
_SCALE = {dtype: Kernel(f"gradient_scale_{dtype.name}", _build_scale, dtype.name) for dtype in (float32, float64)}
_ALL_FINITE = {
    dtype: Kernel(f"gradient_finite_{dtype.name}", _build_finite, dtype.name, EXPONENTS[dtype])
    for dtype in (float32, float64)
}


# -- headers of arrays --------------------------------------------------------------------------------------------

# PyArrayObject_fields and PyArray_Descr of NumPy's C API, in words behind the object's header.
_HEADER = object.__basicsize__ // 8
_DATA, _NDIM, _SHAPE, _DESCR, _FLAGS = (_HEADER + i for i in (0, 1, 2, 5, 6))
_KIND = _HEADER + 1
_LOW, _NO_FLAGS = 0xFFFFFFFF, ~(0xFF << 24)
_CONTIGUOUS, _ALIGNED, _WRITABLE = 0x1, 0x100, 0x400


def _build_gather(tools):
    """The addresses of the arrays, once each is what the table was made for.

    Words: rows, columns, ids of the arrays (column by column: gradients, parameters, states), table, id of ndarray,
    kind of the dtype, slots, flags that a gradient needs, addresses between which other arrays lie and their number.
    """
    words = tools.words()
    header, data, ndim, shape, descr, flags, kind = _HEADER, _DATA, _NDIM, _SHAPE, _DESCR, _FLAGS, _KIND
    low, no_flags, needs = _LOW, _NO_FLAGS, _CONTIGUOUS | _ALIGNED | _WRITABLE

    @tools.inline
    def fits(one, like, size, array_type, wanted, need):
        x, w = words(one), words(like)
        if x[header - 1] != array_type:
            return False
        if words(x[descr])[kind] & no_flags != wanted or x[flags] & need != need or (x[ndim] ^ w[ndim]) & low:
            return False
        theirs, own, elements = words(x[shape]), words(w[shape]), 1
        for k in range(x[ndim] & low):
            if theirs[k] != own[k]:
                return False
            elements *= own[k]
        return elements == size

    @tools.inline
    def apart(start, stop, written, count):
        """Whether no written range, of which there are `count`, in their order, meets this one."""
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if written[2 * middle] < stop:
                low = middle + 1
            else:
                high = middle
        return low == 0 or written[2 * low - 1] <= start

    def kernel(a):
        rows, columns, ids, table, slots = a[0], a[1], words(a[2]), words(a[3]), tools_floats(a[6])
        width, written, count, itemsize = 2 + columns, words(a[8]), a[9], a[10]
        for row in range(rows):
            size = table[row * width + 1]
            for column in range(columns):
                one = ids[column * rows + row]
                need = a[7] if column == 0 else needs
                if not fits(one, ids[rows + row], size, a[4], a[5], need):
                    slots[STOPPED] = MISFIT
                    return 1
                where = words(one)[data]
                if column == 0 and size and not apart(where, where + size * itemsize, written, count):
                    slots[STOPPED] = MISFIT
                    return 1
                table[row * width + 2 + column] = where
        return 0

    tools_floats = tools.view(np.dtype(np.float64))
    return kernel


_GATHER = Kernel("update_gather", _build_gather)


def _kind_of(dtype) -> int:
    return jit.word(id(dtype) + 8 * _KIND) & _NO_FLAGS


def _headers_are_known() -> bool:
    for dtype in (float32, float64):
        a = np.zeros((3, 5), dtype)[:2]
        at, b = id(a), np.zeros((), dtype)
        sides = jit.word(at + 8 * _SHAPE)
        facts = (
            jit.word(at + 8 * (_HEADER - 1)) == id(np.ndarray),
            jit.word(at + 8 * _NDIM) & _LOW == 2 and jit.word(id(b) + 8 * _NDIM) & _LOW == 0,
            [jit.word(sides), jit.word(sides + 8)] == [2, 5],
            jit.word(at + 8 * _DESCR) == id(dtype),
            jit.word(at + 8 * _FLAGS) & _LOW == a.flags.num,
            (_kind_of(dtype) & 0xFFFFFF).to_bytes(3, "little") == f"f{dtype.char}=".encode(),
            _kind_of(dtype) >> 32 == dtype.num,
        )
        if not all(facts):
            return False
    return _kind_of(float32) != _kind_of(float64)


_HEADERS_KNOWN = _headers_are_known()


# -- programs -----------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Clip gradients while updating: by their norm, by value, or both (the norm is of what is left by value)."""

    max_norm: float | None = None
    value: float | None = None
    #: A norm that is not finite, or without one a gradient that is not, stops the program.
    finite: bool = False
    #: The gradients are written back.
    keep: bool = True

    @property
    def clips(self) -> bool:
        """Whether gradients change."""
        return self.max_norm is not None or self.value is not None


def takes(weight, *states) -> bool:
    """Whether kernels can update these arrays where they lie."""
    if type(weight) is not np.ndarray or weight.dtype not in (float32, float64):
        return False
    for x in (weight, *states):
        if type(x) is not np.ndarray or x.shape != weight.shape or x.dtype != weight.dtype:
            return False
        if not x.flags.carray:  # contiguous, aligned, writable
            return False
    return True


class Batch:
    """Parameters of one update and dtype: their table, scalars, and the kernels' words."""

    def __init__(self, update: Update, weights: list, states: list[tuple]):
        self.update, self.dtype, self.weights = update, weights[0].dtype, weights
        #: The state arrays, name by name.
        self.states = [list(column) for column in zip(*states)] if update.states else []
        count, columns = len(weights), 2 + len(self.states)
        self.table = np.zeros((count, 2 + columns), np.int64)
        self.table[:, _SIZE] = [w.size for w in weights]
        self.elements = _lay_out(self.table)
        self.ids = np.zeros((columns, count), np.int64)
        for row, arrays in zip(self.ids[1:], (weights, *self.states)):
            row[:] = [id(x) for x in arrays]
        self.scalars = np.zeros((count, len(update.scalars)))
        self.kernel = update.kernels[self.dtype]

    @property
    def slices(self) -> int:
        return -(-self.elements // SLICE)


def _lay_out(table) -> int:
    """Fill in where each row starts; the number of elements, whole blocks each."""
    ends = np.cumsum(-(-table[:, _SIZE] // BLOCK) * BLOCK)
    table[1:, _START] = ends[:-1]
    return int(ends[-1])


class Program:
    """The updates of some batches as one program, to be made once and run step after step.

    >>> program = Program.of(batches)            # None where there is no such thing
    >>> batch.scalars[:] = ...
    >>> function, *arguments = program.prepared([gradients of each batch])
    """

    def __init__(self, batches: list[Batch], written: np.ndarray):
        self.batches, self._written = batches, written
        self.slots = np.zeros(_SLOTS)
        self._slices = sum(batch.slices for batch in batches)
        self._partials = np.zeros(max(self._slices, 1))
        #: The dtype of the norm.
        self.dtype = float64 if any(batch.dtype == float64 for batch in batches) else float32
        self._words, self._updates, self._norms, self._checks = [], [], [], []
        self._held: list[Any] = []
        self._keep: list[Any] = []
        partials = address(self._partials)
        for batch in batches:
            (rows, width), slots, table = batch.table.shape, address(self.slots), address(batch.table)
            gather = (rows, width - 2, address(batch.ids), table, id(np.ndarray), _kind_of(batch.dtype), slots,
                      _CONTIGUOUS | _ALIGNED, address(written), len(written), batch.dtype.itemsize)  # fmt: skip
            update = (rows, batch.elements, table, address(batch.scalars), slots, 0)
            norm = (rows, batch.elements, table, width, slots, partials)
            partials += 8 * batch.slices
            # The check reads the first words of the norm's.
            gather_, update_, norm_ = (np.array(words, np.int64) for words in (gather, update, norm))
            self._keep.append((gather_, update_))
            self._held += (gather_, update_, norm_)
            self._words.append((_GATHER, address(gather_), 1))
            self._updates.append((batch.kernel, address(update_), batch.slices))
            self._norms.append((_NORM[batch.dtype], address(norm_), batch.slices))
            self._checks.append((_ALL_FINITE[batch.dtype], address(norm_), batch.slices))
        total = np.array((self._slices, address(self._partials), slots, 0), np.int64)
        self._held.append(total)
        self._norms.append((_TOTAL[self.dtype], address(total), 1))

    def rouse(self) -> None:
        """Have the threads look for work that is about to come."""
        if self._slices > 1:
            threadpool.rouse()

    @property
    def one_table_each(self) -> bool:
        """Whether no dtype is in two batches, and float32 before float64: as `Gradients` lays them out."""
        sizes = [batch.dtype.itemsize for batch in self.batches]
        return sizes == sorted(set(sizes))

    def norm(self):
        """The norm that the last run found, 0-d."""
        return np.asarray(self.slots[NORM]).astype(self.dtype)

    @classmethod
    def of(cls, batches: list[Batch]) -> Program | None:
        """None where a kernel cannot be had, or memory is written that two arrays share."""
        if not _HEADERS_KNOWN or not _GATHER.ready():
            return None
        ranges = [
            (address(x), address(x) + x.nbytes)
            for batch in batches
            for arrays in (batch.weights, *batch.states)
            for x in arrays
            if x.nbytes
        ]
        ranges.sort()
        if any(stop > start for (_, stop), (start, _) in pairwise(ranges)):
            return None
        return cls(batches, np.array(ranges, np.int64).reshape(-1, 2))

    def prepared(self, gradients: list[list], clip: Clip | None = None):
        """The program as (function, its arguments), for `pool.prepared`'s use; None where it cannot be run.

        `gradients` and the batches' arrays must live until it has run. It returns 0, or `slots[STOPPED]` says why
        nothing was done.
        """
        for batch, arrays in zip(self.batches, gradients):
            jit.fill(batch.ids, map(id, arrays))
        slots = self.slots
        if clip is None:
            slots[:] = _PLAIN
            regions = self._words + self._updates
        else:
            if clip.keep and not _disjoint([x for arrays in gradients for x in arrays]):
                return None
            slots[:] = _PLAIN
            slots[_BOUND] = math.inf if clip.value is None else clip.value
            slots[_FINITE] = clip.finite
            before = self._norms if clip.max_norm is not None else self._checks if clip.finite else []
            if not all(kernel.ready() for kernel, _, _ in before):
                return None
            if clip.max_norm is not None:
                slots[_MAX_NORM] = clip.max_norm
            regions = self._words + before + self._updates
        keep = clip is not None and clip.keep
        for gather, update in self._keep:
            gather[7] = _CONTIGUOUS | _ALIGNED | (_WRITABLE if keep else 0)
            update[5] = keep
        return threadpool.prepared(regions)


_PLAIN = (math.inf, math.inf, 0.0, 0.0, 1.0, 0.0)


def _disjoint(arrays) -> bool:
    """Whether no two of the arrays share memory; they are contiguous."""
    ranges = sorted([(address(x), address(x) + x.nbytes) for x in arrays if x.nbytes])
    return all(stop <= start for (_, stop), (start, _) in pairwise(ranges))


# -- clipping alone -----------------------------------------------------------------------------------------------


class Gradients:
    """Gradients as a table, for their norm and to clip them where they lie."""

    def __init__(self, arrays: Sequence):
        self.arrays = arrays
        self.slots = np.array(_PLAIN)
        self.dtype = float64 if any(x.dtype == float64 for x in arrays) else float32
        self._parts = []
        for dtype in (float32, float64):
            found = [x for x in arrays if x.dtype == dtype]
            if found:
                table = np.zeros((len(found), 3), np.int64)
                table[:, _SIZE] = [x.size for x in found]
                table[:, _GRADIENT] = [address(x) for x in found]
                self._parts.append((dtype, table, _lay_out(table)))

    @classmethod
    def of(cls, arrays: Sequence, written: bool) -> Gradients | None:
        """None where a kernel cannot be had, or some array is not dense, or, if they are to be written, not apart."""
        for x in arrays:
            if type(x) is not np.ndarray or x.dtype not in (float32, float64):
                return None
            flags = x.flags
            if not (flags.forc and flags.aligned) or (written and not flags.writeable):
                return None
        if not arrays or (written and not _disjoint(arrays)):
            return None
        found = cls(arrays)
        needed = [_TOTAL[found.dtype]]
        for dtype, _, _ in found._parts:
            needed += (_NORM[dtype], _SCALE[dtype], _ALL_FINITE[dtype])
        return found if all(kernel.ready() for kernel in needed) else None

    def norm(self, max_norm: float = math.inf):
        """The 2-norm of all, 0-d; the factor that brings it down to `max_norm` is then known."""
        self.slots[_MAX_NORM] = max_norm
        counts = [-(-elements // SLICE) for _, _, elements in self._parts]
        partials = np.zeros(max(sum(counts), 1))
        at = address(partials)
        for (dtype, table, elements), count in zip(self._parts, counts):
            words = (len(table), elements, address(table), 3, address(self.slots), at)
            if count:
                threadpool.launch(_NORM[dtype], count, *words)
            at += 8 * count
        _TOTAL[self.dtype](sum(counts), address(partials), address(self.slots), 0)
        return np.asarray(self.slots[NORM]).astype(self.dtype)

    def finite(self) -> bool:
        """Whether no gradient has a NaN or infinity."""
        slots = address(self.slots)
        return not any(
            elements
            and threadpool.launch(
                _ALL_FINITE[dtype], -(-elements // SLICE), len(table), elements, address(table), 3, slots
            )
            for dtype, table, elements in self._parts
        )

    @property
    def factor(self) -> float:
        return float(self.slots[FACTOR])

    def scaling(self, value: float | None = None):
        """A call that clips them in place by value, or by the factor of the norm, as (function, its arguments)."""
        if value is not None:
            self.slots[:] = _PLAIN
            self.slots[_BOUND] = value
        self._words = [
            np.array((len(table), elements, address(table), 3, address(self.slots)), np.int64)
            for _, table, elements in self._parts
        ]
        return threadpool.prepared(
            [
                (_SCALE[dtype], address(words), -(-elements // SLICE))
                for (dtype, _, elements), words in zip(self._parts, self._words)
            ]
        )


# -- as a part of a larger program ----------------------------------------------------------------------------------


class Parts(NamedTuple):
    """The launches of an update whose gradients are places in buffers: first those that may stop it."""

    check: list[Launch]
    update: list[Launch]


def parts(
    program: Program,
    gradients: list[list[tuple[Buffer, int]]],
    outside: Callable,
    clip: Clip | None,
    result: Buffer | None = None,
) -> Parts:
    """`program` with gradients at (buffer, offset) for each batch; `outside(array)` says where weights and states are.

    `result` gets the norm of what is clipped.
    """
    slots = np.array(_PLAIN)
    if clip is not None:
        slots[_BOUND] = math.inf if clip.value is None else clip.value
        slots[_FINITE] = clip.finite
        slots[_MAX_NORM] = math.inf if clip.max_norm is None else clip.max_norm
    at, keep = address(slots), clip is not None and clip.keep
    normed, checked = clip is not None and clip.max_norm is not None, clip is not None and clip.finite
    check, update = [], []
    partials = np.zeros(max(program._slices, 1))
    where = address(partials)
    for batch, found in zip(program.batches, gradients):
        rows, width = batch.table.shape
        words, places = batch.table.reshape(-1).tolist(), {}
        for row in range(rows):
            places[row * width + _GRADIENT] = found[row]
            for column, arrays in enumerate((batch.weights, *batch.states), _GRADIENT + 1):
                places[row * width + column] = outside(arrays[row])
        table = Buffer("table", 8 * len(words), Table(words, places))
        each = (rows, batch.elements, 0, address(batch.scalars), at, int(keep))
        update.append(Launch(batch.kernel, list(each), {2: (table, 0)}, batch.slices))
        reading = [rows, batch.elements, 0, width, at]
        if normed:
            check.append(Launch(_NORM[batch.dtype], [*reading, where], {2: (table, 0)}, batch.slices))
        elif checked:
            check.append(Launch(_ALL_FINITE[batch.dtype], reading, {2: (table, 0)}, batch.slices))
        where += 8 * batch.slices
    if normed:
        there = {} if result is None else {3: (result, 0)}
        check.append(Launch(_TOTAL[program.dtype], [program._slices, address(partials), at, 0], there, 1))
    for launch in (*check, *update):
        launch.owner = program, slots, partials
    return Parts(check, update)
