"""Places of extremes on the CPU: argmax, argmin, and the k largest of each row."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import float32, float64, int64
from deepcore.kernels.codegen.jit import Kernel, address
from deepcore.kernels.cpu import argreduce_columns
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, SCANNED, combination, extreme, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous
from deepcore.kernels.registry import register
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.threadpool import complete


def _place(tools, name: str, dtype: str):
    """The best of a chunk of a row and the first place it stands at in the row.

    Words: x, places, values (or 0), tasks, n, chunks of a row, tasks of a slice.
    """
    dt = np.dtype(dtype)
    view, places, size = tools.view(dt), tools.view(int64), dt.itemsize
    best = extreme(tools, dt, name)
    combine, _ = combination(tools, dt, name)
    one, none = np.int32(1), np.int32(0)

    def kernel(a, part):
        n, chunks = a[4], a[5]
        for t in range(part * a[6], min(a[3], (part + 1) * a[6])):
            start = t % chunks * CHUNK
            count = min(n - start, CHUNK)
            base = a[0] + (t // chunks * n + start) * size
            found, at = best(view(base), min(count, SCANNED)), 0
            for b in range(SCANNED, count, SCANNED):
                other = best(view(base + b * size), min(count - b, SCANNED))
                if found == found and (combine(found, other) != found):
                    found, at = other, b
            x = view(base)
            while at + LANES <= count:
                hits = none
                for j in range(LANES):
                    hits += one if (x[at + j] == found) | (x[at + j] != x[at + j]) else none
                if hits:
                    break
                at += LANES
            while x[at] != found and x[at] == x[at]:
                at += 1
            places(a[1])[t] = start + at
            if a[2]:
                view(a[2])[t] = found
        return 0

    return kernel


_PLACES = {(n, d): Kernel(f"arg{n[1:]}_{d.name}", _place, n, d.name) for n in ("amax", "amin") for d in FLOATS}


def _runs(x) -> tuple[int, int, int, int, int]:
    """Numbers of a row, rows, chunks of a row, tasks, tasks of a slice."""
    n = x.shape[-1]
    rows, chunks = x.size // n, -(-n // CHUNK)
    return n, rows, chunks, rows * chunks, max(1, share(x.size) // min(n, CHUNK))


class _Place(Lowering):
    """Where the largest or smallest number of each row stands."""

    def __init__(self, name: str, best: str):
        super().__init__(name, self.planned, ("dim",), prepare=self.prepared)
        self.best = best

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        if x.size and params["dim"] % x.ndim != x.ndim - 1:
            return argreduce_columns.plan(self.best, x, params["dim"] % x.ndim)
        if x.dtype not in FLOATS or not x.size or not x.plain or params["dim"] not in (-1, x.ndim - 1):
            return None
        kernel = _PLACES[self.best, x.dtype]
        if not kernel.ready():
            return None
        n, _, chunks, tasks, each = _runs(x)
        if chunks > 1:
            return True
        words = (Operand(0), Operand(1), 0, tasks, n, chunks, each)
        return Plan(contiguous(x.shape[:-1], int64, x.backend), [Launch(kernel, -(-tasks // each), words)])

    def prepared(self, xp, arrays, params, out):
        """Rows in chunks, whose results are compared in turn."""
        (x,) = arrays
        n, rows, chunks, tasks, each = _runs(x)
        places, values = allocator.small((rows, chunks), int64), allocator.small((rows, chunks), x.dtype)
        kernel = _PLACES[self.best, x.dtype]
        complete(kernel, -(-tasks // each), address(x), address(places), address(values), tasks, n, chunks, each)
        first = values.argmax(1) if self.best == "amax" else values.argmin(1)
        chosen = np.take_along_axis(places, first[:, None], 1).reshape(x.shape[:-1])
        if out is None:
            return chosen
        out[...] = chosen
        return out


argmax, argmin = _Place("argmax", "amax"), _Place("argmin", "amin")
for _lowering in (argmax, argmin):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)


def _topk(tools, largest: bool, dtype: str):
    """The places of the k best of each row, best first, equals by place. Words: x, values, places, rows, n, k, rows of a slice.

    A heap of the best so far, the worst of them on top; 64 numbers at a time are compared with that one.
    """
    dt = np.dtype(dtype)
    view, whole, size = tools.view(dt), tools.view(int64), dt.itemsize
    one, none = np.int32(1), np.int32(0)

    if largest:

        @tools.inline
        def better(a, b):
            return (a > b) | ((a != a) & (b == b))
    else:

        @tools.inline
        def better(a, b):
            return (a < b) | ((b != b) & (a == a))

    @tools.inline
    def sink(values, places, at, count, v, i):
        """Put (v, i) at or below place `at` of a heap of `count`."""
        while True:
            child = 2 * at + 1
            if child >= count:
                break
            if child + 1 < count:
                left, right = values[child], values[child + 1]
                if better(left, right) or (not better(right, left) and places[child] < places[child + 1]):
                    child += 1
            c = values[child]
            if better(c, v) or (not better(v, c) and places[child] < i):
                break
            values[at], places[at] = c, places[child]
            at = child
        values[at], places[at] = v, i

    def kernel(a, part):
        n, k = a[4], a[5]
        for r in range(part * a[6], min(a[3], (part + 1) * a[6])):
            x, values, places = view(a[0] + r * n * size), view(a[1] + r * k * size), whole(a[2] + 8 * r * k)
            for i in range(k):
                values[i], places[i] = x[i], i
            for i in range(k // 2 - 1, -1, -1):
                sink(values, places, i, k, values[i], places[i])
            i = k
            while i < n:
                if i + LANES <= n:
                    worst, hits = values[0], none
                    for j in range(LANES):
                        hits += one if better(x[i + j], worst) else none
                    if hits == 0:
                        i += LANES
                        continue
                for j in range(i, min(i + LANES, n)):
                    if better(x[j], values[0]):
                        sink(values, places, 0, k, x[j], j)
                i += LANES
            for count in range(k - 1, 0, -1):
                v, i = values[count], places[count]
                values[count], places[count] = values[0], places[0]
                sink(values, places, 0, count, v, i)
        return 0

    return kernel


_TOPK = {largest: kernels_of("topk" if largest else "bottomk", _topk, largest) for largest in (True, False)}


@register("topk", "cpu", needs_numba=False)
def topk(xp, input, *, k, dim, largest):
    x = input
    if (x.dtype != float32 and x.dtype != float64) or not x.size or not k or dim not in (-1, x.ndim - 1):
        return NotImplemented
    kernel = _TOPK[largest][x.dtype]
    if not kernel.ready():
        return NotImplemented
    x = np.require(x, requirements=("C", "A"))
    n = x.shape[-1]
    rows, each = x.size // n, max(1, share(x.size) // n)
    values, places = allocator.small((*x.shape[:-1], k), x.dtype), allocator.small((*x.shape[:-1], k), int64)
    complete(kernel, -(-rows // each), address(x), address(values), address(places), rows, n, k, each)
    return places
