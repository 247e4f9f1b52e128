"""Places of extremes on the CPU: argmax, argmin, and the k largest of each row."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Address, In, Operand, Out, Size, args
from deepcore.kernels.cpu import argreduce_columns
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, SCANNED, combination, extreme, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register


@args(x=In, places=Out(int64), values=Address, tasks=Size, n=Size, parts=Size, each=Size)
def _place(tools, name: str, dtype: str):
    """The best of each of a row's `parts` parts and the first place it stands at in the row. `values` may be None."""
    dt = np.dtype(dtype)
    view, after = tools.view(dt), tools.after(dt)
    best = extreme(tools, dt, name)
    combine, _ = combination(tools, dt, name)
    one, none = np.int32(1), np.int32(0)

    def kernel(x, places, values, tasks, n, parts, each, chunk):
        for t in range(chunk * each, min(tasks, (chunk + 1) * each)):
            start = t % parts * CHUNK
            count = min(n - start, CHUNK)
            part = after(x, t // parts * n + start)
            found, at = best(part, min(count, SCANNED)), 0
            for b in range(SCANNED, count, SCANNED):
                other = best(after(part, b), min(count - b, SCANNED))
                if found == found and (combine(found, other) != found):
                    found, at = other, b
            while at + LANES <= count:
                hits = none
                for j in range(LANES):
                    hits += one if (part[at + j] == found) | (part[at + j] != part[at + j]) else none
                if hits:
                    break
                at += LANES
            while part[at] != found and part[at] == part[at]:
                at += 1
            places[t] = start + at
            if values:
                view(values)[t] = found
        return 0

    return kernel


_PLACES = {(n, d): Kernel(f"arg{n[1:]}_{d.name}", _place, n, d.name) for n in ("amax", "amin") for d in FLOATS}


def _runs(x) -> tuple[int, int, int, int, int]:
    """Numbers of a row, rows, parts of a row, tasks, tasks of a chunk."""
    n = x.shape[-1]
    rows, parts = x.size // n, -(-n // CHUNK)
    return n, rows, parts, rows * parts, max(1, share(x.size) // min(n, CHUNK))


@args(values=In, places=In(int64), out=Out(int64), rows=Size, parts=Size)
def _place_of_part(tools, name: str, dtype: str):
    """Of each row the place that the best of its parts has, the first of equals."""
    combine, _ = combination(tools, np.dtype(dtype), name)

    def kernel(values, places, out, rows, parts):
        for r in range(rows):
            first = r * parts
            best, at = values[first], first
            for p in range(first + 1, first + parts):
                if best == best and combine(best, values[p]) != best:
                    best, at = values[p], p
            out[r] = places[at]
        return 0

    return kernel


_PLACES_OF_PARTS = {
    (n, d): Kernel(f"arg{n[1:]}_chunks_{d.name}", _place_of_part, n, d.name) for n in ("amax", "amin") for d in FLOATS
}


class _Place(Lowering):
    """Where the largest or smallest number of each row stands."""

    def __init__(self, name: str, best: str):
        super().__init__(name, self.planned, ("dim",))
        self.best = best

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        if x.size and params["dim"] % x.ndim != x.ndim - 1:
            return argreduce_columns.plan(self.best, x, params["dim"] % x.ndim)
        if x.dtype not in FLOATS or not x.size or not x.plain or params["dim"] not in (-1, x.ndim - 1):
            return None
        kernel, last = _PLACES[self.best, x.dtype], _PLACES_OF_PARTS[self.best, x.dtype]
        n, rows, parts, tasks, each = _runs(x)
        if not kernel.ready() or (parts > 1 and not last.ready()):
            return None
        result = contiguous(x.shape[:-1], int64, x.backend)
        sizes = {"tasks": tasks, "n": n, "parts": parts, "each": each}
        places, values, out = Operand(1), Operand(2), Operand(3)
        if parts == 1:
            return Plan(result, [Launch(kernel, -(-tasks // each), x=Operand(0), places=places, values=None, **sizes)])
        # The results of a row's parts are compared in turn.
        launches = [
            Launch(kernel, -(-tasks // each), x=Operand(0), places=places, values=values, **sizes),
            Launch(last, 1, values=values, places=places, out=out, rows=rows, parts=parts),
        ]
        return Plan(result, launches, (8 * tasks, tasks * x.dtype.itemsize))


argmax, argmin = _Place("argmax", "amax"), _Place("argmin", "amin")
for _lowering in (argmax, argmin):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)


@args(x=In, values=Out, places=Out(int64), rows=Size, n=Size, k=Size, each=Size)
def _topk(tools, largest: bool, dtype: str):
    """The places of the k best of each row, best first, equals by place.

    A heap of the best so far, the worst of them on top; 64 numbers at a time are compared with that one.
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

    def kernel(x, values, places, rows, n, k, each, chunk):
        for r in range(chunk * each, min(rows, (chunk + 1) * each)):
            row, kept, at = after(x, r * n), after(values, r * k), after_place(places, r * k)
            for i in range(k):
                kept[i], at[i] = row[i], i
            for i in range(k // 2 - 1, -1, -1):
                sink(kept, at, i, k, kept[i], at[i])
            i = k
            while i < n:
                if i + LANES <= n:
                    worst, hits = kept[0], none
                    for j in range(LANES):
                        hits += one if better(row[i + j], worst) else none
                    if hits == 0:
                        i += LANES
                        continue
                for j in range(i, min(i + LANES, n)):
                    if better(row[j], kept[0]):
                        sink(kept, at, 0, k, row[j], j)
                i += LANES
            for count in range(k - 1, 0, -1):
                v, i = kept[count], at[count]
                kept[count], at[count] = kept[0], at[0]
                sink(kept, at, 0, count, v, i)
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
    rows, each = x.size // n, max(1, share(x.size) // n)
    values, places = Operand(1), Operand(2)
    launch = Launch(
        kernel, -(-rows // each), x=Operand(0), values=values, places=places, rows=rows, n=n, k=k, each=each
    )
    return Plan(contiguous((*x.shape[:-1], k), int64, x.backend), [launch], (rows * k * x.dtype.itemsize,))


topk = Lowering("topk", _plan_topk, ("k", "dim", "largest"))
register("topk", "cpu", needs_numba=False)(topk)
