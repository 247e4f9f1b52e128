"""Optimizer updates on the CPU: all parameters in one parallel section, over a table of their addresses."""

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
    CHUNK,
    FACTOR,
    FINITE,
    GRADIENT,
    MAX_NORM,
    MISFIT,
    NORM,
    SIZE,
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

# Prefetch distance in elements: hardware prefetching stops at page boundaries.
_AHEAD = 512


def ready(update: Update, dtype) -> bool:
    """Whether the kernel of an update for this dtype can run."""
    update_kernel = kernel(update, dtype)
    return update_kernel is not None and update_kernel.ready()


# Results are buffered on the stack, so that LLVM need not check whether the arrays alias.
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
            {results} = formula({block_arguments})
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
            {results} = formula({rest_arguments})
        for j in range(rest):
            {put}
        if keep:
            for j in range(rest):
                g[i + j] = lg[j]
"""


def _span(tools, formula, states: int, scalars: int, dtype):
    """The loop over elements start to stop of one parameter, by blocks."""
    arrays = ["w", *(f"s{i}" for i in range(states))]
    outer, inner = "\n    ".join, "\n            ".join
    numbers = [f"c{i}" for i in range(scalars)]
    text = _SPAN.format(
        pointers=outer(f"{a} = view(table[row + {2 + i}])" for i, a in enumerate(["g", *arrays])),
        locals=outer(f"l{a} = local()" for a in ["g", *arrays]),
        numbers=outer(f"{c} = convert(scalars[{i}])" for i, c in enumerate(numbers)),
        results=", ".join(f"l{a}[j]" for a in arrays) + ",",
        block_arguments=", ".join(["w[i + j]", "d", *(f"{a}[i + j]" for a in arrays[1:]), *numbers]),
        rest_arguments=", ".join(["lw[j]", "d", *(f"l{a}[j]" for a in arrays[1:]), *numbers]),
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
    """Update a chunk of the table's rows. `elements`: of all rows; `keep`: write clipped gradients back."""
    dt = np.dtype(dtype)
    count = formula.__code__.co_argcount - 2 - states
    span = _span(tools, formula, states, count, dt)
    after, convert, find = tools.after(np.dtype(np.float64)), dt.type, tools.inline(row_of)
    width = 4 + states

    def kernel(rows, elements, table, scalars, slots, keep, chunk):
        low, high = chunk * CHUNK, min(elements, (chunk + 1) * CHUNK)
        factor, bound = convert(slots[FACTOR]), convert(slots[BOUND])
        row = find(table, width, rows, low)
        while row < rows and table[row * width] < high:
            begin = table[row * width]
            start, stop = max(low - begin, 0), min(high - begin, table[row * width + 1])
            span(start, stop, table, row * width, factor, bound, keep, after(scalars, count * row))
            row += 1
        return 0

    return kernel


#: `kernel(update, dtype)`: the kernel of an update for parameters of `dtype`, or None.
kernel = UpdateKernels(
    lambda name, update, dtype: Kernel(name, _build_update, update.formula, len(update.states), dtype.name), jit.KERNELS
)


# Offsets in PyArrayObject_fields and PyArray_Descr of NumPy's C API, in words, the object's header included.
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
    """Check that each array matches the table, then store its address in it.

    `ids`: of the arrays, column by column (gradients, parameters, states), `kind`: of the dtype, `flags`: required of
    gradients, `written`: `count` address ranges of the parameters and states.
    """
    words = tools.words()
    header, data, ndim, shape, descr, flags_at, kind_at = _HEADER, _DATA, _NDIM, _SHAPE, _DESCR, _FLAGS, _KIND
    low, no_flags, required = _LOW, _NO_FLAGS, _CONTIGUOUS | _ALIGNED | _WRITABLE

    @tools.inline
    def fits(array, parameter, size, array_type, dtype_kind, need):
        x, w = words(array), words(parameter)
        if x[header - 1] != array_type:
            return False
        if words(x[descr])[kind_at] & no_flags != dtype_kind or x[flags_at] & need != need or (x[ndim] ^ w[ndim]) & low:
            return False
        shape_x, shape_w, elements = words(x[shape]), words(w[shape]), 1
        for k in range(x[ndim] & low):
            if shape_x[k] != shape_w[k]:
                return False
            elements *= shape_w[k]
        return elements == size

    @tools.inline
    def is_disjoint(start, stop, written, count):
        """Whether this range overlaps none of the `count` sorted ranges in `written`."""
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
                array = ids[column * rows + row]
                need = flags if column == 0 else required
                if not fits(array, ids[rows + row], size, array_type, kind, need):
                    slots[STOPPED] = MISFIT
                    return 1
                begin = words(array)[data]
                if column == 0 and size and not is_disjoint(begin, begin + size * itemsize, written, count):
                    slots[STOPPED] = MISFIT
                    return 1
                table[row * width + 2 + column] = begin
        return 0

    return kernel


_GATHER = Kernel("update_gather", _build_gather)


def _kind_of(dtype) -> int:
    return jit.word(id(dtype) + 8 * _KIND) & _NO_FLAGS


def _layout_is_known() -> bool:
    for dtype in (float32, float64):
        a = np.zeros((3, 5), dtype)[:2]
        base, b = id(a), np.zeros((), dtype)
        dims = jit.word(base + 8 * _SHAPE)
        conditions = (
            jit.word(base + 8 * (_HEADER - 1)) == id(np.ndarray),
            jit.word(base + 8 * _NDIM) & _LOW == 2 and jit.word(id(b) + 8 * _NDIM) & _LOW == 0,
            [jit.word(dims), jit.word(dims + 8)] == [2, 5],
            jit.word(base + 8 * _DESCR) == id(dtype),
            jit.word(base + 8 * _FLAGS) & _LOW == a.flags.num,
            (_kind_of(dtype) & 0xFFFFFF).to_bytes(3, "little") == f"f{dtype.char}=".encode(),
            _kind_of(dtype) >> 32 == dtype.num,
        )
        if not all(conditions):
            return False
    return _kind_of(float32) != _kind_of(float64)


_LAYOUT_KNOWN = _layout_is_known()


def supports(weight, *states) -> bool:
    """Whether kernels can update these arrays in place."""
    if type(weight) is not np.ndarray or weight.dtype not in (float32, float64):
        return False
    for x in (weight, *states):
        if type(x) is not np.ndarray or x.shape != weight.shape or x.dtype != weight.dtype:
            return False
        if not x.flags.carray:  # contiguous, aligned, writable
            return False
    return True


class Batch:
    """Parameters of one update and dtype: their table and scalars."""

    def __init__(self, update: Update, weights: list, states: list[tuple]):
        self.update, self.dtype, self.weights = update, weights[0].dtype, weights
        #: The state arrays, a list per name.
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
    def chunks(self) -> int:
        return -(-self.elements // CHUNK)


class Program:
    """The updates of batches as one program, built once and run at each step.

    >>> program = Program.of(batches)            # None if it cannot be built
    >>> batch.scalars[:] = ...
    >>> function, *arguments = program.prepared([gradients of each batch])
    """

    def __init__(self, batches: list[Batch], written: np.ndarray):
        self.batches, self._written = batches, written
        self.slots = np.zeros(SLOTS)
        self._chunks = sum(batch.chunks for batch in batches)
        self._partials = np.zeros(max(self._chunks, 1))
        #: The dtype of the norm.
        self.dtype = float64 if any(batch.dtype == float64 for batch in batches) else float32
        self._gathers, self._updates, self._norms, self._checks = [], [], [], []
        self._references: list[Any] = []
        self._step_words: list[Any] = []
        first_chunk = 0
        for batch in batches:
            update_kernel = kernel(batch.update, batch.dtype)
            assert update_kernel is not None
            (rows, width), table = batch.table.shape, batch.table
            gather = _GATHER.packed(
                rows=rows, columns=width - 2, ids=batch.ids, table=table, array_type=id(np.ndarray),
                kind=_kind_of(batch.dtype), slots=self.slots, written=written, count=len(written),
                itemsize=batch.dtype.itemsize, flags=_CONTIGUOUS | _ALIGNED,
            )  # fmt: skip
            shared_args = {"rows": rows, "elements": batch.elements, "table": table, "slots": self.slots}
            update = update_kernel.packed(**shared_args, scalars=batch.scalars, keep=False)
            norm = NORM_KERNELS[batch.dtype].packed(**shared_args, width=width, partials=self._partials[first_chunk:])
            check = ALL_FINITE_KERNELS[batch.dtype].packed(**shared_args, width=width)
            first_chunk += batch.chunks
            self._step_words.append((gather, update))
            self._references += (gather, update, norm, check)
            self._gathers.append((_GATHER, address(gather), 1))
            self._updates.append((update_kernel, address(update), batch.chunks))
            self._norms.append((NORM_KERNELS[batch.dtype], address(norm), batch.chunks))
            self._checks.append((ALL_FINITE_KERNELS[batch.dtype], address(check), batch.chunks))
        total = TOTAL_KERNELS[self.dtype].packed(
            count=self._chunks, partials=self._partials, slots=self.slots, result=None
        )
        self._references.append(total)
        self._norms.append((TOTAL_KERNELS[self.dtype], address(total), 1))

    def rouse(self) -> None:
        """Wake the threads ahead of the update."""
        if self._chunks > 1:
            threadpool.rouse()

    @property
    def has_table_per_dtype(self) -> bool:
        """Whether each dtype has at most one batch, float32 before float64, as in `Gradients`."""
        sizes = [batch.dtype.itemsize for batch in self.batches]
        return sizes == sorted(set(sizes))

    def norm(self):
        """The norm of the last run, 0-d."""
        return np.asarray(self.slots[NORM]).astype(self.dtype)

    @classmethod
    def of(cls, batches: list[Batch]) -> Program | None:
        """None if a kernel is missing, or two of the arrays share memory."""
        if not _LAYOUT_KNOWN or not _GATHER.ready():
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
        """The program as (function, its arguments), as by `threadpool.prepared`; None if it cannot run.

        `gradients` and the batches' arrays must live until it has run. It returns 0, or `slots[STOPPED]` says why
        nothing was updated.
        """
        for batch, arrays in zip(self.batches, gradients):
            jit.fill(batch.ids, map(id, arrays))
        slots = self.slots
        if clip is None:
            slots[:] = UNCLIPPED
            sections = self._gathers + self._updates
        else:
            if clip.keep and not disjoint([x for arrays in gradients for x in arrays]):
                return None
            slots[:] = UNCLIPPED
            slots[BOUND] = math.inf if clip.value is None else clip.value
            slots[FINITE] = clip.finite
            checks = self._norms if clip.max_norm is not None else self._checks if clip.finite else []
            if not all(kernel.ready() for kernel, _, _ in checks):
                return None
            if clip.max_norm is not None:
                slots[MAX_NORM] = clip.max_norm
            sections = self._gathers + checks + self._updates
        keep = clip is not None and clip.keep
        # The last arguments, `flags` and `keep`, depend on the step.
        for gather, update in self._step_words:
            gather[-1] = _CONTIGUOUS | _ALIGNED | (_WRITABLE if keep else 0)
            update[-1] = keep
        return threadpool.prepared(sections)


class Parts(NamedTuple):
    """The launches of an update whose gradients are places in buffers: `check` may stop it."""

    check: list[Launch]
    update: list[Launch]


def parts(
    program: Program,
    gradients: list[list[tuple[Buffer, int]]],
    outside: Callable,
    clip: Clip | None,
    result: Buffer | None = None,
) -> Parts:
    """`program` with gradients at (buffer, offset) for each batch; `outside(array)` is the place of a weight or state.

    `result` receives the gradient norm.
    """
    slots = np.array(UNCLIPPED)
    if clip is not None:
        slots[BOUND] = math.inf if clip.value is None else clip.value
        slots[FINITE] = clip.finite
        slots[MAX_NORM] = math.inf if clip.max_norm is None else clip.max_norm
    keep = clip is not None and clip.keep
    uses_norm, checks_finite = clip is not None and clip.max_norm is not None, clip is not None and clip.finite
    check, update = [], []
    partials, first_chunk = np.zeros(max(program._chunks, 1)), 0
    for batch, gradient_places in zip(program.batches, gradients):
        rows, width = batch.table.shape
        words, places = batch.table.reshape(-1).tolist(), {}
        for row in range(rows):
            places[row * width + GRADIENT] = gradient_places[row]
            for column, arrays in enumerate((batch.weights, *batch.states), GRADIENT + 1):
                places[row * width + column] = outside(arrays[row])
        table = Buffer("table", 8 * len(words), Table(words, places)), 0
        shared_args = {"rows": rows, "elements": batch.elements, "table": table, "slots": slots}
        update_kernel = kernel(batch.update, batch.dtype)
        assert update_kernel is not None
        update.append(Launch.of(update_kernel, batch.chunks, **shared_args, scalars=batch.scalars, keep=keep))
        if uses_norm:
            norm = NORM_KERNELS[batch.dtype]
            check.append(Launch.of(norm, batch.chunks, **shared_args, width=width, partials=partials[first_chunk:]))
        elif checks_finite:
            check.append(Launch.of(ALL_FINITE_KERNELS[batch.dtype], batch.chunks, **shared_args, width=width))
        first_chunk += batch.chunks
    if uses_norm:
        norm_place = None if result is None else (result, 0)
        total = TOTAL_KERNELS[program.dtype]
        check.append(Launch.of(total, 1, count=program._chunks, partials=partials, slots=slots, result=norm_place))
    for launch in (*check, *update):
        launch.owner = program, slots, partials
    return Parts(check, update)
