"""Copies of arrays in other layouts, and elements picked by indices: bits are moved, whatever they mean.

A kernel is made for each size of an element; `scatter_along` alone adds, so its kernels are those of a dtype.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backend.dtypes import float32, float64, int64
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, In, Operand, Out, Size, args
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.cpu.reductions import share
from deepcore.kernels.plan import Launch, Lowering, Plan, Spec, contiguous, per_element, reference_explains
from deepcore.kernels.registry import register

#: Elements up to which NumPy does as well.
LEAST = 1 << 13
# Rows and columns of a tile that is transposed, bytes of a row that is moved as one.
_TILE, _LINE = 32, 4096
_BITS = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def _kernel(title: str, build, dtype) -> Kernel:
    name = f"{title}_{dtype.name}"
    return jit.KERNELS.get(name) or Kernel(name, build, dtype.name)


# -- other layouts ----------------------------------------------------------------------------------------------------


@args(
    x=Address, out=Address, offset=Size, target=Size, outer=Size, rows=Size, columns=Size, from_i=Size, from_j=Size,
    from_k=Size, to_i=Size, to_j=Size, each=Size,
)  # fmt: skip
def _strided(tools, dtype: str):
    """out[i, j, k] = x[i, j, k] for (outer, rows, columns).

    `offset`, `target`: bytes from x and out to their first elements; `from_i` … `to_j`: bytes between elements along the
    dimensions of x, and the first two of out; `each`: tiles of rows of a chunk.
    """
    dt = np.dtype(dtype)
    view, size, square = tools.view(dt), dt.itemsize, tools.local(dt, _TILE * _TILE)

    def kernel(
        x, out, offset, target, outer, rows, columns, from_i, from_j, from_k, to_i, to_j, each, chunk
    ):  # fmt: skip
        blocks, tile, step = -(-rows // _TILE), square(), from_k // size
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            i, first = t // blocks, t % blocks * _TILE
            last = min(first + _TILE, rows)
            base, to = x + offset + i * from_i, out + target + i * to_i
            if step == 1:
                for j in range(first, last):
                    source, result = view(base + j * from_j), view(to + j * to_j)
                    for k in range(columns):
                        result[k] = source[k]
            elif step == -1:
                for j in range(first, last):
                    source, result = view(base + j * from_j - (columns - 1) * size), view(to + j * to_j)
                    for k in range(columns):
                        result[k] = source[columns - 1 - k]
            elif from_j == size:  # by a tile of our own: a line of the cache is read once, wherever it lies
                for left in range(0, columns, _TILE):
                    right = min(left + _TILE, columns)
                    for k in range(left, right):
                        source = view(base + k * from_k)
                        for j in range(first, last):
                            tile[(j - first) * _TILE + k - left] = source[j]
                    for j in range(first, last):
                        result = view(to + j * to_j)
                        for k in range(left, right):
                            result[k] = tile[(j - first) * _TILE + k - left]
            else:
                for j in range(first, last):
                    source, result = view(base + j * from_j), view(to + j * to_j)
                    for k in range(columns):
                        result[k] = source[k * step]
        return 0

    return kernel


def _merged(shape, strides) -> tuple[list[int], list[int]]:
    """Shape and strides with as few dimensions as say the same."""
    lengths: list[int] = []
    steps: list[int] = []
    for n, step in zip(shape, strides):
        if n == 1:
            continue
        if lengths and steps[-1] == n * step:
            lengths[-1], steps[-1] = lengths[-1] * n, step
        else:
            lengths.append(n)
            steps.append(step)
    return lengths, steps


def _launch(
    dtype, lengths, steps, targets, source: Operand, result: Operand, offset: int, target: int
) -> Launch | None:
    """The launch that copies three dimensions: `steps` are bytes between the elements of the source, `targets` between
    those of the result along the first two; `offset` and `target` are bytes to either's first element."""
    kernel = _kernel("strided", _strided, _BITS[dtype.itemsize])
    if not kernel.ready():
        return None
    tiles = lengths[0] * -(-lengths[1] // _TILE)
    each = max(1, share(math.prod(lengths)) // (_TILE * lengths[2]))
    return Launch(
        kernel, -(-tiles // each), x=source, out=result, offset=offset, target=target,
        outer=lengths[0], rows=lengths[1], columns=lengths[2], from_i=steps[0], from_j=steps[1], from_k=steps[2],
        to_i=targets[0], to_j=targets[1], each=each,
    )  # fmt: skip


def _copied(x: Spec, strides, offset: int) -> Plan | None:
    """The plan of a contiguous copy of what lies `offset` bytes behind the operand, with these strides."""
    size = x.dtype.itemsize
    lengths, steps = _merged(x.shape, strides)
    if size not in _BITS or not x.aligned or not x.size or not lengths or len(lengths) > 3:
        return None
    lengths, steps = [1] * (3 - len(lengths)) + lengths, [0] * (3 - len(steps)) + steps
    targets = [lengths[1] * lengths[2] * size, lengths[2] * size]
    if steps[0] == size and lengths[0] > 1:  # tiles of the dimension that lies along memory
        lengths[:2], steps[:2], targets = lengths[1::-1], steps[1::-1], targets[::-1]
    launch = _launch(x.dtype, lengths, steps, targets, Operand(0), Operand(1), offset, 0)
    return None if launch is None else Plan(contiguous(x.shape, x.dtype, x.backend), [launch])


class _Move(Lowering):
    def __init__(self, name: str, keys: tuple[str, ...] | Callable[[dict], Any]):
        super().__init__(name, self.planned, keys, on_stop=reference_explains, cost=per_element(0))

    def planned(self, specs, params) -> Plan | bool | None:
        raise NotImplementedError


class _Copy(_Move):
    """The elements in row order, of an array in any layout."""

    def planned(self, specs, params) -> Plan | None:
        (x,) = specs
        return _copied(x, x.strides, 0)

    def pays(self, specs, params) -> bool:
        (x,) = specs
        return x.size >= LEAST and not x.plain


class _Reshape(_Move):
    """The elements in row order in another shape, where that is no view."""

    def planned(self, specs, params) -> Plan | None:
        (x,) = specs
        known = math.prod(n for n in params["shape"] if n != -1)
        shape = tuple(x.size // max(known, 1) if n == -1 else n for n in params["shape"])
        if math.prod(shape) != x.size or _is_view(x, shape):
            return None
        plan = _copied(x, x.strides, 0)
        return None if plan is None else Plan(contiguous(shape, x.dtype, x.backend), plan.launches)

    def pays(self, specs, params) -> bool:
        (x,) = specs
        return x.size >= LEAST and not x.plain


def _is_view(x: Spec, shape: tuple[int, ...]) -> bool:
    """Whether an array of this layout has a view of another shape: its dimensions are parts of those that lie in one."""
    sizes = [n for n in reversed(shape) if n != 1]
    for length in _merged(x.shape, x.strides)[0]:
        while length > 1 and sizes and length % sizes[-1] == 0:
            length //= sizes.pop()
        if length != 1:
            return False
    return True


class _Flip(_Move):
    def planned(self, specs, params) -> Plan | None:
        (x,) = specs
        strides, offset = list(x.strides), 0
        for d in params["dims"]:
            offset += (x.shape[d] - 1) * strides[d]
            strides[d] = -strides[d]
        return _copied(x, strides, offset)

    def pays(self, specs, params) -> bool:
        return specs[0].size >= LEAST


class _Cat(_Move):
    """Arrays joined along `dim`: each is copied to its place."""

    def planned(self, specs, params) -> Plan | None:
        first, d = specs[0], params["dim"] % specs[0].ndim
        size = first.dtype.itemsize
        if size not in _BITS or not all(spec.plain and spec.dtype == first.dtype for spec in specs):
            return None
        outer, inner = math.prod(first.shape[:d]), math.prod(first.shape[d + 1 :]) * size
        row, target, launches = inner * sum(spec.shape[d] for spec in specs), 0, []
        for i, spec in enumerate(specs):
            width = spec.shape[d] * inner
            if spec.size:
                lengths, steps = (1, outer, width // size), (0, width, size)
                launch = _launch(first.dtype, lengths, steps, (0, row), Operand(i), Operand(len(specs)), 0, target)
                if launch is None:
                    return None
                launches.append(launch)
            target += width
        shape = (*first.shape[:d], sum(spec.shape[d] for spec in specs), *first.shape[d + 1 :])
        return Plan(contiguous(shape, first.dtype, first.backend), launches) if launches else None

    def pays(self, specs, params) -> bool:
        return sum(spec.size for spec in specs) >= LEAST and len(specs) <= 16


@args(
    x=In, out=Out, outer=Size, rows=Size, columns=Size, from_i=Size, to_i=Size, from_j=Size, to_j=Size, from_k=Size, to_k=Size,
    each=Size,
)  # fmt: skip
def _box(tools, dtype: str):
    """(outer, rows, columns) of zeros, but for a box that has the elements of x: i from `from_i` to `to_i`, and so on."""
    dt = np.dtype(dtype)
    after, copy, zero = tools.after(dt), tools.copy(dt), dt.type(0)

    def kernel(x, out, outer, rows, columns, from_i, to_i, from_j, to_j, from_k, to_k, each, chunk):
        wide = to_k - from_k
        for row in range(chunk * each, min(outer * rows, (chunk + 1) * each)):
            i = row // rows
            j, to = row - i * rows, after(out, row * columns)
            if i < from_i or i >= to_i or j < from_j or j >= to_j:
                for k in range(columns):
                    to[k] = zero
                continue
            for k in range(from_k):
                to[k] = zero
            copy(after(to, from_k), after(x, ((i - from_i) * (to_j - from_j) + j - from_j) * wide), wide)
            for k in range(to_k, columns):
                to[k] = zero
        return 0

    return kernel


def _ranges(shape: tuple[int, ...], index) -> list[tuple[int, int, int]] | None:
    """(size, first, end) of each dimension under an index of integers, slices, None and …; None where a slice has a step."""
    index = [i for i in (index if isinstance(index, tuple) else (index,)) if i is not None]
    at = index.index(...) if ... in index else len(index)
    left = len(shape) - sum(i is not ... for i in index)
    index[at : at + 1] = [slice(None)] * left
    ranges = []
    for n, i in zip(shape, index):
        first, end, step = i.indices(n) if isinstance(i, slice) else (i % n, i % n + 1, 1)
        if step != 1 or end <= first:
            return None
        ranges.append((n, first, end))
    return ranges


class _IndexGrad(_Move):
    """Zeros of `shape` with the operand at `index`."""

    def __init__(self, name: str, keys: tuple[str, ...]):
        super().__init__(name, keys)
        self.key = lambda params: (params["shape"], _hashable(params["index"]))

    def planned(self, specs, params) -> Plan | None:
        (x,), shape = specs, params["shape"]
        ranges = _ranges(shape, params["index"]) if x.plain and x.size and x.dtype.itemsize in _BITS else None
        if ranges is None:
            return None
        boxes: list[tuple[int, int, int]] = []  # dimensions, where a whole one is merged into the one before
        for n, first, end in ranges:
            if boxes and end - first == n:
                m, low, high = boxes[-1]
                boxes[-1] = m * n, low * n, high * n
            elif n > 1:
                boxes.append((n, first, end))
        if len(boxes) > 3:
            return None
        boxes = [(1, 0, 1)] * (3 - len(boxes)) + boxes
        (outer, *of_i), (rows, *of_j), (columns, *of_k) = boxes
        kernel = _kernel("box", _box, _BITS[x.dtype.itemsize])
        if not kernel.ready():
            return None
        each = max(1, share(outer * rows * columns) // columns)
        box = dict(zip(("from_i", "to_i", "from_j", "to_j", "from_k", "to_k"), (*of_i, *of_j, *of_k)))
        launch = Launch(
            kernel,
            -(-outer * rows // each),
            x=Operand(0),
            out=Operand(1),
            outer=outer,
            rows=rows,
            columns=columns,
            each=each,
            **box,
        )
        return Plan(contiguous(shape, x.dtype, x.backend), [launch])

    def pays(self, specs, params) -> bool:
        return math.prod(params["shape"]) >= LEAST


def _hashable(index):
    """Slices have no hash before Python 3.12."""
    parts = index if isinstance(index, tuple) else (index,)
    return tuple((i.start, i.stop, i.step) if isinstance(i, slice) else i for i in parts)


def copied(x):
    """A contiguous copy of an array in another layout, or NotImplemented."""
    return _CONTIGUOUS(None, x)


# -- by index ----------------------------------------------------------------------------------------------------------


@functools.cache
def _inside(tools):
    """inside(index, first, last, n): whether all of index[first … last - 1] count into n elements."""

    @tools.inline
    def inside(index, first, last, n):
        bad = 0
        for j in range(first, last):
            bad += 1 if (index[j] < -n) | (index[j] >= n) else 0
        return bad == 0

    return inside


_INDEXED = {"x": In, "index": In(int64), "out": Out} | dict.fromkeys(
    ("outer", "n", "count", "inner", "some", "each"), Size
)


@args(**_INDEXED)
def _take(tools, dtype: str):
    """out[o, j] = x[o, index[j]], rows of `inner` elements; 1 for an index out of range.

    `count`: indices, `some`: indices of a task, `each`: tasks of a chunk, here and below.
    """
    after, inside = tools.after(np.dtype(dtype)), _inside(tools)

    def kernel(x, index, out, outer, n, count, inner, some, each, chunk):
        blocks = -(-count // some)
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            o, first = t // blocks, t % blocks * some
            source, result = after(x, o * n * inner), after(out, o * count * inner)
            last = min(first + some, count)
            if not inside(index, first, last, n):
                return 1
            if inner == 1:
                for j in range(first, last):
                    i = index[j]
                    result[j] = source[i + n if i < 0 else i]
            else:
                for j in range(first, last):
                    i = index[j]
                    i = (i + n if i < 0 else i) * inner
                    for k in range(inner):
                        result[j * inner + k] = source[i + k]
        return 0

    return kernel


@args(**_INDEXED)
def _gather(tools, dtype: str):
    """out[o, j, k] = x[o, index[o, j, k], k]; 1 for an index out of range. `count`: indices along the dimension."""
    after, after_place, inside = tools.after(np.dtype(dtype)), tools.after(int64), _inside(tools)

    def kernel(x, index, out, outer, n, count, inner, some, each, chunk):
        blocks = -(-count // some)
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            o, first = t // blocks, t % blocks * some
            last = min(first + some, count)
            source, result = after(x, o * n * inner), after(out, o * count * inner)
            places = after_place(index, o * count * inner)
            if not inside(places, first * inner, last * inner, n):
                return 1
            if inner == 1:
                for j in range(first, last):
                    i = places[j]
                    result[j] = source[i + n if i < 0 else i]
            else:
                for j in range(first, last):
                    for k in range(inner):
                        i = places[j * inner + k]
                        result[j * inner + k] = source[(i + n if i < 0 else i) * inner + k]
        return 0

    return kernel


@args(**_INDEXED)
def _scatter(tools, dtype: str):
    """out[o, index[o, j, k], k] += x[o, j, k] for j in its order, from 0; 1 for an index out of range.

    `some`: columns of a task.
    """
    dt = np.dtype(dtype)
    after, after_place, inside, zero = tools.after(dt), tools.after(int64), _inside(tools), dt.type(0)

    def kernel(x, index, out, outer, n, count, inner, some, each, chunk):
        blocks = -(-inner // some)
        for t in range(chunk * each, min(outer * blocks, (chunk + 1) * each)):
            o, first = t // blocks, t % blocks * some
            last = min(first + some, inner)
            source, places = after(x, o * count * inner), after_place(index, o * count * inner)
            result = after(out, o * n * inner)
            if inner == 1:
                for i in range(n):
                    result[i] = zero
                if not inside(places, 0, count, n):
                    return 1
                for j in range(count):
                    i = places[j]
                    result[i + n if i < 0 else i] += source[j]
                continue
            for i in range(n):
                for k in range(first, last):
                    result[i * inner + k] = zero
            for j in range(count):
                if not inside(places, j * inner + first, j * inner + last, n):
                    return 1
                for k in range(first, last):
                    i = places[j * inner + k]
                    result[(i + n if i < 0 else i) * inner + k] += source[j * inner + k]
        return 0

    return kernel


@args(
    x=In,
    value=In,
    index=In(int64),
    out=Out,
    n=Size,
    count=Size,
    inner=Size,
    wide=Size,
    some=Size,
    tasks=Size,
    each=Size,
)
def _assign(tools, dtype: str):
    """out = x, then out[o, index[j]] = value[o, j] for j in its order, rows of `inner` elements; 1 for an index out of range.

    `wide`: 1, or 0 where value is one element for all; `some`: columns of a task.
    """
    after, inside = tools.after(np.dtype(dtype)), _inside(tools)

    def kernel(x, value, index, out, n, count, inner, wide, some, tasks, each, chunk):
        if not inside(index, 0, count, n):
            return 1
        blocks = -(-inner // some)
        for t in range(chunk * each, min(tasks, (chunk + 1) * each)):
            o, first = t // blocks, t % blocks * some
            last = min(first + some, inner)
            source, result = after(x, o * n * inner), after(out, o * n * inner)
            if blocks == 1:
                for i in range(n * inner):
                    result[i] = source[i]
            else:
                for i in range(n):
                    for k in range(first, last):
                        result[i * inner + k] = source[i * inner + k]
            new = after(value, o * count * inner * wide)
            for j in range(count):
                i = index[j]
                i = (i + n if i < 0 else i) * inner
                for k in range(first, last):
                    result[i + k] = new[(j * inner + k) * wide]
        return 0

    return kernel


def _indexed(
    kernel: Kernel, result: Spec, outer: int, n: int, count: int, inner: int, some: int, tasks: int
) -> Plan | None:
    if not kernel.ready():
        return None
    each = max(1, share(result.size) * tasks // max(1, outer * max(count, n) * inner))
    launch = Launch(
        kernel, -(-tasks // each), x=Operand(0), index=Operand(1), out=Operand(2), outer=outer, n=n, count=count,
        inner=inner, some=some, each=each,
    )  # fmt: skip
    return Plan(result, [launch])


class _Indexing(_Move):
    """Operands: an array and its indices, int64."""

    def plan_of(self, x: Spec, index: Spec, **params) -> Plan | None:
        raise NotImplementedError

    def pays(self, specs, params) -> bool:
        return max(spec.size for spec in specs) >= LEAST

    def planned(self, specs, params) -> Plan | None:
        if len(specs) != 2 or specs[1].dtype != int64 or specs[0].dtype.itemsize not in _BITS:
            return None
        if not all(spec.plain and spec.size for spec in specs):
            return None
        return self.plan_of(*specs, **params)


class _Take(_Indexing):
    """x[…, index, …]"""

    def plan_of(self, x, index, dims):
        if len(dims) != 1:
            return None
        (d,) = dims
        outer, n, inner = math.prod(x.shape[:d]), x.shape[d], math.prod(x.shape[d + 1 :])
        some = max(1, _LINE // inner)
        result = contiguous(x.shape[:d] + index.shape + x.shape[d + 1 :], x.dtype, x.backend)
        kernel = _kernel("take", _take, _BITS[x.dtype.itemsize])
        return _indexed(kernel, result, outer, n, index.size, inner, some, outer * -(-index.size // some))


class _Assign(_Move):
    """x with value at x[…, index, …]; operands x, value, the indices of one dimension."""

    def planned(self, specs, params) -> Plan | bool | None:
        if len(specs) != 3 or len(params["dims"]) != 1 or params["steps"]:
            return None
        x, value, index = specs
        (d,) = params["dims"]
        if index.dtype != int64 or value.dtype != x.dtype or x.dtype.itemsize not in _BITS or not x.size * index.size:
            return None
        outer, n, inner = math.prod(x.shape[:d]), x.shape[d], math.prod(x.shape[d + 1 :])
        if value.size != 1 and value.shape != x.shape[:d] + index.shape + x.shape[d + 1 :]:
            return None
        if not all(spec.plain for spec in specs):
            return True
        kernel = _kernel("assign", _assign, _BITS[x.dtype.itemsize])
        if not kernel.ready():
            return None
        some = inner if outer >= 8 or n * inner < _LINE else max(64, -(-inner // 8))
        tasks = outer * -(-inner // some)
        each = max(1, share(x.size) * tasks // x.size)
        launch = Launch(
            kernel, -(-tasks // each), x=Operand(0), value=Operand(1), index=Operand(2), out=Operand(3), n=n,
            count=index.size, inner=inner, wide=int(value.size != 1), some=some, tasks=tasks, each=each,
        )  # fmt: skip
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch])


class _Gather(_Indexing):
    """x[…, index[…, k, …], …] along `dim`."""

    def plan_of(self, x, index, dim):
        d = dim % x.ndim
        if x.shape[:d] + x.shape[d + 1 :] != index.shape[:d] + index.shape[d + 1 :]:
            return None
        outer, n, inner = math.prod(x.shape[:d]), x.shape[d], math.prod(x.shape[d + 1 :])
        some = max(1, _LINE // inner)
        kernel = _kernel("gather", _gather, _BITS[x.dtype.itemsize])
        count = index.shape[d]
        result = contiguous(index.shape, x.dtype, x.backend)
        return _indexed(kernel, result, outer, n, count, inner, some, outer * -(-count // some))


class _Scatter(_Indexing):
    """Zeros of `shape` with x added along `dim` at the indices."""

    def plan_of(self, x, index, shape, dim):
        d = dim % x.ndim
        if x.dtype not in (float32, float64, int64) or x.shape != index.shape or not math.prod(shape):
            return None
        if shape[:d] + shape[d + 1 :] != index.shape[:d] + index.shape[d + 1 :]:
            return None
        outer, n, inner = math.prod(shape[:d]), shape[d], math.prod(shape[d + 1 :])
        some = min(inner, 64)
        kernel = _kernel("scatter", _scatter, x.dtype)
        result = contiguous(shape, x.dtype, x.backend)
        return _indexed(kernel, result, outer, n, index.shape[d], inner, some, outer * -(-inner // some))


# -- triangles ----------------------------------------------------------------------------------------------------------


@args(x=In, out=Out, total=Size, rows=Size, columns=Size, diagonal=Size, lower=Size, each=Size)
def _triangle(tools, dtype: str):
    """Rows of x up to the diagonal, if `lower`, or from it on, 0 elsewhere.

    `total`: rows of all matrices, `rows`: those of one, `each`: those of a chunk.
    """
    dt = np.dtype(dtype)
    after, zero = tools.after(dt), dt.type(0)

    def kernel(x, out, total, rows, columns, diagonal, lower, each, chunk):
        for r in range(chunk * each, min(total, (chunk + 1) * each)):
            source, result = after(x, r * columns), after(out, r * columns)
            cut = min(max(r % rows + diagonal + (1 if lower else 0), 0), columns)
            low, high = (0, cut) if lower else (cut, columns)
            for k in range(low):
                result[k] = zero
            for k in range(low, high):
                result[k] = source[k]
            for k in range(high, columns):
                result[k] = zero
        return 0

    return kernel


class _Triangle(_Move):
    def planned(self, specs, params) -> Plan | None:
        (x,) = specs
        if not x.plain or not x.size or x.dtype.itemsize not in _BITS:
            return None
        kernel = _kernel("triangle", _triangle, _BITS[x.dtype.itemsize])
        if not kernel.ready():
            return None
        rows, columns = x.shape[-2:]
        each = max(1, share(x.size) // columns)
        total = x.size // columns
        launch = Launch(
            kernel, -(-total // each), x=Operand(0), out=Operand(1), total=total, rows=rows, columns=columns,
            diagonal=params["diagonal"], lower=int(params["lower"]), each=each,
        )  # fmt: skip
        return Plan(contiguous(x.shape, x.dtype, x.backend), [launch])

    def pays(self, specs, params) -> bool:
        return specs[0].size >= LEAST


def _lowering(kind, name: str, *keys: str) -> Lowering:
    return register(name, "cpu", needs_numba=False)(kind(name, keys))


_CONTIGUOUS = _lowering(_Copy, "contiguous")
_lowering(_Copy, "clone")
_lowering(_Reshape, "reshape", "shape")
_lowering(_Flip, "flip", "dims")
_lowering(_Cat, "cat", "dim")
_lowering(_IndexGrad, "index_grad")
_lowering(_Take, "take", "dims")
_lowering(_Gather, "gather", "dim")
_lowering(_Scatter, "scatter_along", "shape", "dim")
register("assign", "cpu", needs_numba=False)(_Assign("assign", lambda params: (params["dims"], bool(params["steps"]))))
_lowering(_Triangle, "triangle", "diagonal", "lower")

elementwise.copied = copied
