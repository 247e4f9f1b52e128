"""Optimizer updates on the CPU: all parameters in one parallel section, over a table of where they lie."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from deepcore.backend.dtypes import float32, float64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.codegen.kernel import In, InOut, Size, Words, args
from deepcore.kernels.cpu.clip import NORM_KERNELS, TOTAL_KERNELS, Clip, clipped
from deepcore.kernels.cpu.finite import ALL_FINITE_KERNELS
from deepcore.kernels.cpu.parameter_table import (
    BLOCK,
    BOUND,
    FACTOR,
    FINITE,
    GRADIENT,
    MAX_NORM,
    MISFIT,
    NORM,
    SIZE,
    SLICE,
    SLOTS,
    STOPPED,
    UNCLIPPED,
    disjoint,
    lay_out,
    row_of,
)
from deepcore.kernels.runtime import threadpool
from deepcore.kernels.runtime.executable import Buffer, Launch, Table
from deepcore.kernels.update import Update, UpdateKernels

# How far ahead memory is brought near: the processor's own prefetching ends with a page.
_AHEAD = 512


def ready(update: Update, dtype) -> bool:
    """Whether there is a kernel of an update for arrays of this dtype."""
    found = kernel(update, dtype)
    return found is not None and found.ready()


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
        "clip": tools.lift(clipped, dtype),
    }
    return tools.inline(tools.compiled(text, scope)["span"])


@args(rows=Size, elements=Size, table=Words, scalars=In(float64), slots=In(float64), keep=Size)
def _build_update(tools, formula, states: int, dtype: str):
    """`elements`: in all rows of the table; `keep`: whether clipped gradients are written."""
    dt = np.dtype(dtype)
    count = formula.__code__.co_argcount - 2 - states
    span = _span(tools, formula, states, count, dt)
    after, convert, find = tools.after(np.dtype(np.float64)), dt.type, tools.inline(row_of)
    width = 4 + states

    def kernel(rows, elements, table, scalars, slots, keep, chunk):
        low, high = chunk * SLICE, min(elements, (chunk + 1) * SLICE)
        factor, bound = convert(slots[FACTOR]), convert(slots[BOUND])
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            span(start, stop, table, row * width, factor, bound, keep, after(scalars, count * row))
            row += 1
        return 0

    return kernel


#: `kernel(update, dtype)`: the kernel of an update for parameters of this dtype, or None.
kernel = UpdateKernels(
    lambda name, update, dtype: Kernel(name, _build_update, update.formula, len(update.states), dtype.name), jit.KERNELS
)


# PyArrayObject_fields and PyArray_Descr of NumPy's C API, in words behind the object's header.
_HEADER = object.__basicsize__ // 8
_DATA, _NDIM, _SHAPE, _DESCR, _FLAGS = (_HEADER + i for i in (0, 1, 2, 5, 6))
_KIND = _HEADER + 1
_LOW, _NO_FLAGS = 0xFFFFFFFF, ~(0xFF << 24)
_CONTIGUOUS, _ALIGNED, _WRITABLE = 0x1, 0x100, 0x400


@args(
    rows=Size, columns=Size, ids=Words, table=Words, array_type=Size, kind=Size, slots=InOut(float64),
    written=Words, count=Size, itemsize=Size, flags=Size,
)  # fmt: skip
def _build_gather(tools):
    """The addresses of the arrays, once each is what the table was made for.

    `ids`: of the arrays, column by column (gradients, parameters, states), `kind`: of the dtype, `flags`: that a gradient
    needs, `written`: the `count` ranges of addresses in which other arrays lie.
    """
    words = tools.words()
    header, data, ndim, shape, descr, flags_at, kind_at = _HEADER, _DATA, _NDIM, _SHAPE, _DESCR, _FLAGS, _KIND
    low, no_flags, needs = _LOW, _NO_FLAGS, _CONTIGUOUS | _ALIGNED | _WRITABLE

    @tools.inline
    def fits(one, like, size, array_type, wanted, need):
        x, w = words(one), words(like)
        if x[header - 1] != array_type:
            return False
        if words(x[descr])[kind_at] & no_flags != wanted or x[flags_at] & need != need or (x[ndim] ^ w[ndim]) & low:
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

    def kernel(rows, columns, ids, table, array_type, kind, slots, written, count, itemsize, flags):
        width = 2 + columns
        for row in range(rows):
            size = table[row * width + 1]
            for column in range(columns):
                one = ids[column * rows + row]
                need = flags if column == 0 else needs
                if not fits(one, ids[rows + row], size, array_type, kind, need):
                    slots[STOPPED] = MISFIT
                    return 1
                where = words(one)[data]
                if column == 0 and size and not apart(where, where + size * itemsize, written, count):
                    slots[STOPPED] = MISFIT
                    return 1
                table[row * width + 2 + column] = where
        return 0

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
        self.table[:, SIZE] = [w.size for w in weights]
        self.elements = lay_out(self.table)
        self.ids = np.zeros((columns, count), np.int64)
        for row, arrays in zip(self.ids[1:], (weights, *self.states)):
            row[:] = [id(x) for x in arrays]
        self.scalars = np.zeros((count, len(update.scalars)))

    @property
    def slices(self) -> int:
        return -(-self.elements // SLICE)


class Program:
    """The updates of some batches as one program, to be made once and run step after step.

    >>> program = Program.of(batches)            # None where there is no such thing
    >>> batch.scalars[:] = ...
    >>> function, *arguments = program.prepared([gradients of each batch])
    """

    def __init__(self, batches: list[Batch], written: np.ndarray):
        self.batches, self._written = batches, written
        self.slots = np.zeros(SLOTS)
        self._slices = sum(batch.slices for batch in batches)
        self._partials = np.zeros(max(self._slices, 1))
        #: The dtype of the norm.
        self.dtype = float64 if any(batch.dtype == float64 for batch in batches) else float32
        self._gathers, self._updates, self._norms, self._checks = [], [], [], []
        self._held: list[Any] = []
        self._keep: list[Any] = []
        begin = 0
        for batch in batches:
            made = kernel(batch.update, batch.dtype)
            assert made is not None
            (rows, width), table = batch.table.shape, batch.table
            gather = _GATHER.packed(
                rows=rows, columns=width - 2, ids=batch.ids, table=table, array_type=id(np.ndarray),
                kind=_kind_of(batch.dtype), slots=self.slots, written=written, count=len(written),
                itemsize=batch.dtype.itemsize, flags=_CONTIGUOUS | _ALIGNED,
            )  # fmt: skip
            reading = {"rows": rows, "elements": batch.elements, "table": table, "slots": self.slots}
            update = made.packed(**reading, scalars=batch.scalars, keep=False)
            norm = NORM_KERNELS[batch.dtype].packed(**reading, width=width, partials=self._partials[begin:])
            check = ALL_FINITE_KERNELS[batch.dtype].packed(**reading, width=width)
            begin += batch.slices
            self._keep.append((gather, update))
            self._held += (gather, update, norm, check)
            self._gathers.append((_GATHER, address(gather), 1))
            self._updates.append((made, address(update), batch.slices))
            self._norms.append((NORM_KERNELS[batch.dtype], address(norm), batch.slices))
            self._checks.append((ALL_FINITE_KERNELS[batch.dtype], address(check), batch.slices))
        total = TOTAL_KERNELS[self.dtype].packed(
            count=self._slices, partials=self._partials, slots=self.slots, result=None
        )
        self._held.append(total)
        self._norms.append((TOTAL_KERNELS[self.dtype], address(total), 1))

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
            slots[:] = UNCLIPPED
            regions = self._gathers + self._updates
        else:
            if clip.keep and not disjoint([x for arrays in gradients for x in arrays]):
                return None
            slots[:] = UNCLIPPED
            slots[BOUND] = math.inf if clip.value is None else clip.value
            slots[FINITE] = clip.finite
            before = self._norms if clip.max_norm is not None else self._checks if clip.finite else []
            if not all(kernel.ready() for kernel, _, _ in before):
                return None
            if clip.max_norm is not None:
                slots[MAX_NORM] = clip.max_norm
            regions = self._gathers + before + self._updates
        keep = clip is not None and clip.keep
        # The last arguments, `flags` and `keep`, depend on the step.
        for gather, update in self._keep:
            gather[-1] = _CONTIGUOUS | _ALIGNED | (_WRITABLE if keep else 0)
            update[-1] = keep
        return threadpool.prepared(regions)


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
    slots = np.array(UNCLIPPED)
    if clip is not None:
        slots[BOUND] = math.inf if clip.value is None else clip.value
        slots[FINITE] = clip.finite
        slots[MAX_NORM] = math.inf if clip.max_norm is None else clip.max_norm
    keep = clip is not None and clip.keep
    normed, checked = clip is not None and clip.max_norm is not None, clip is not None and clip.finite
    check, update = [], []
    partials, begin = np.zeros(max(program._slices, 1)), 0
    for batch, found in zip(program.batches, gradients):
        rows, width = batch.table.shape
        words, places = batch.table.reshape(-1).tolist(), {}
        for row in range(rows):
            places[row * width + GRADIENT] = found[row]
            for column, arrays in enumerate((batch.weights, *batch.states), GRADIENT + 1):
                places[row * width + column] = outside(arrays[row])
        table = Buffer("table", 8 * len(words), Table(words, places)), 0
        reading = {"rows": rows, "elements": batch.elements, "table": table, "slots": slots}
        made = kernel(batch.update, batch.dtype)
        assert made is not None
        update.append(Launch.of(made, batch.slices, **reading, scalars=batch.scalars, keep=keep))
        if normed:
            norm = NORM_KERNELS[batch.dtype]
            check.append(Launch.of(norm, batch.slices, **reading, width=width, partials=partials[begin:]))
        elif checked:
            check.append(Launch.of(ALL_FINITE_KERNELS[batch.dtype], batch.slices, **reading, width=width))
        begin += batch.slices
    if normed:
        where = None if result is None else (result, 0)
        total = TOTAL_KERNELS[program.dtype]
        check.append(Launch.of(total, 1, count=program._slices, partials=partials, slots=slots, result=where))
    for launch in (*check, *update):
        launch.owner = program, slots, partials
    return Parts(check, update)
