"""Indices of extremes on the CPU: argmax, argmin, and the k largest of each row."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, In, Operand, Out, Size, args
from deepcore.kernels.cpu import argreduce_columns
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, SCANNED, combination, extreme, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register


@args(x=In, places=Out(int64), values=Address, tasks=Size, n=Size, parts=Size, tasks_per_chunk=Size)
def _arg(tools, name: str, dtype: str):
    """The best value of each of a row's `parts` parts, and its first index in the row. `values` may be None."""
    dt = np.dtype(dtype)
    view, after = tools.view(dt), tools.after(dt)
    best = extreme(tools, dt, name)
    combine, _ = combination(tools, dt, name)
    one, none = np.int32(1), np.int32(0)

    def kernel(x, places, values, tasks, n, parts, tasks_per_chunk, chunk):
        for t in range(chunk * tasks_per_chunk, min(tasks, (chunk + 1) * tasks_per_chunk)):
            start = t % parts * CHUNK
            count = min(n - start, CHUNK)
            part = after(x, t // parts * n + start)
            value, index = best(part, min(count, SCANNED)), 0
            for b in range(SCANNED, count, SCANNED):
                other = best(after(part, b), min(count - b, SCANNED))
                if value == value and (combine(value, other) != value):
                    value, index = other, b
            while index + LANES <= count:
                hits = none
                for j in range(LANES):
                    hits += one if (part[index + j] == value) | (part[index + j] != part[index + j]) else none
                if hits:
                    break
                index += LANES
            while part[index] != value and part[index] == part[index]:
                index += 1
            places[t] = start + index
            if values:
                view(values)[t] = value
        return 0

    return kernel


_ARG = {(n, d): Kernel(f"arg{n[1:]}_{d.name}", _arg, n, d.name) for n in ("amax", "amin") for d in FLOATS}


def _layout(x) -> tuple[int, int, int, int, int]:
    """Numbers of a row, rows, parts of a row, tasks, tasks of a chunk."""
    n = x.shape[-1]
    rows, parts = x.size // n, -(-n // CHUNK)
    return n, rows, parts, rows * parts, max(1, share(x.size) // min(n, CHUNK))


@args(values=In, places=In(int64), out=Out(int64), rows=Size, parts=Size)
def _combine_parts(tools, name: str, dtype: str):
    """The index of each row's best part, the first of equals."""
    combine, _ = combination(tools, np.dtype(dtype), name)

    def kernel(values, places, out, rows, parts):
        for r in range(rows):
            first = r * parts
            best, best_part = values[first], first
            for p in range(first + 1, first + parts):
                if best == best and combine(best, values[p]) != best:
                    best, best_part = values[p], p
            out[r] = places[best_part]
        return 0

    return kernel


_COMBINE = {
    (n, d): Kernel(f"arg{n[1:]}_chunks_{d.name}", _combine_parts, n, d.name) for n in ("amax", "amin") for d in FLOATS
}


class _ArgReduction(Lowering):
    """The index of the largest or smallest number of each row."""

    def __init__(self, name: str, best: str):
        super().__init__(name, self.planned, ("dim",))
        self.best = best

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        if x.size and params["dim"] % x.ndim != x.ndim - 1:
            return argreduce_columns.plan(self.best, x, params["dim"] % x.ndim)
        if x.dtype not in FLOATS or not x.size or not x.plain or params["dim"] not in (-1, x.ndim - 1):
            return None
        kernel, combine = _ARG[self.best, x.dtype], _COMBINE[self.best, x.dtype]
        n, rows, parts, tasks, tasks_per_chunk = _layout(x)
        if not kernel.ready() or (parts > 1 and not combine.ready()):
            return None
        result = contiguous(x.shape[:-1], int64, x.backend)
        sizes = {"tasks": tasks, "n": n, "parts": parts, "tasks_per_chunk": tasks_per_chunk}
        places, values, out = Operand(1), Operand(2), Operand(3)
        if parts == 1:
            return Plan(
                result,
                [Launch(kernel, -(-tasks // tasks_per_chunk), x=Operand(0), places=places, values=None, **sizes)],
            )
        # A second launch compares the results of a row's parts.
        launches = [
            Launch(kernel, -(-tasks // tasks_per_chunk), x=Operand(0), places=places, values=values, **sizes),
            Launch(combine, 1, values=values, places=places, out=out, rows=rows, parts=parts),
        ]
        return Plan(result, launches, (8 * tasks, tasks * x.dtype.itemsize))


argmax, argmin = _ArgReduction("argmax", "amax"), _ArgReduction("argmin", "amin")
for _lowering in (argmax, argmin):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)


@args(x=In, values=Out, places=Out(int64), rows=Size, n=Size, k=Size, rows_per_chunk=Size)
def _topk(tools, largest: bool, dtype: str):
    """The indices of the k best of each row, best first, equals by index.

    A heap holds the k best so far, the worst on top, to which 64 numbers at a time are compared.
    """
    after, after_place = tools.after(np.dtype(dtype)), tools.after(int64)
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
    def sink(values, places, index, count, v, i):
        """Insert (v, i) at or below `index` of a heap of `count`."""
        while True:
            child = 2 * index + 1
            if child >= count:
                break
            if child + 1 < count:
                left, right = values[child], values[child + 1]
                if better(left, right) or (not better(right, left) and places[child] < places[child + 1]):
                    child += 1
            c = values[child]
            if better(c, v) or (not better(v, c) and places[child] < i):
                break
            values[index], places[index] = c, places[child]
            index = child
        values[index], places[index] = v, i

    def kernel(x, values, places, rows, n, k, rows_per_chunk, chunk):
        for r in range(chunk * rows_per_chunk, min(rows, (chunk + 1) * rows_per_chunk)):
            row, heap, index = after(x, r * n), after(values, r * k), after_place(places, r * k)
            for i in range(k):
                heap[i], index[i] = row[i], i
            for i in range(k // 2 - 1, -1, -1):
                sink(heap, index, i, k, heap[i], index[i])
            i = k
            while i < n:
                if i + LANES <= n:
                    worst, hits = heap[0], none
                    for j in range(LANES):
                        hits += one if better(row[i + j], worst) else none
                    if hits == 0:
                        i += LANES
                        continue
                for j in range(i, min(i + LANES, n)):
                    if better(row[j], heap[0]):
                        sink(heap, index, 0, k, row[j], j)
                i += LANES
            for count in range(k - 1, 0, -1):
                v, i = heap[count], index[count]
                heap[count], index[count] = heap[0], index[0]
                sink(heap, index, 0, count, v, i)
        return 0

    return kernel


_TOPK = {largest: kernels_of("topk" if largest else "bottomk", _topk, largest) for largest in (True, False)}


def _plan_topk(specs, params) -> Plan | bool | None:
    (x,) = specs
    k = params["k"]
    if x.dtype not in FLOATS or not x.size or not k or params["dim"] not in (-1, x.ndim - 1):
        return None
    kernel = _TOPK[params["largest"]][x.dtype]
    if not kernel.ready():
        return None
    if not x.plain:
        return True
    n = x.shape[-1]
    rows, rows_per_chunk = x.size // n, max(1, share(x.size) // n)
    values, places = Operand(1), Operand(2)
    launch = Launch(
        kernel,
        -(-rows // rows_per_chunk),
        x=Operand(0),
        values=values,
        places=places,
        rows=rows,
        n=n,
        k=k,
        rows_per_chunk=rows_per_chunk,
    )
    return Plan(contiguous((*x.shape[:-1], k), int64, x.backend), [launch], (rows * k * x.dtype.itemsize,))


topk = Lowering("topk", _plan_topk, ("k", "dim", "largest"))
register("topk", "cpu", needs_numba=False)(topk)
