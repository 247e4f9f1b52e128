"""Places of extremes on the CPU: argmax, argmin, and the k largest of each row."""

from __future__ import annotations

import numpy as np

from deepcore.backend.dtypes import int64
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.cpu.reductions import CHUNK, FLOATS, LANES, SCANNED, combination, extreme, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Operand, Plan, contiguous
from deepcore.kernels.registry import register


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


def _place_of_chunk(tools, name: str, dtype: str):
    """Of each row the place that the best of its chunks has, the first of equals. Words: values, places, out, rows, chunks."""
    dt = np.dtype(dtype)
    view, whole, size = tools.view(dt), tools.view(int64), dt.itemsize
    combine, _ = combination(tools, dt, name)

    def kernel(a):
        chunks, out = a[4], whole(a[2])
        for r in range(a[3]):
            values, places = view(a[0] + r * chunks * size), whole(a[1] + 8 * r * chunks)
            best, at = values[0], 0
            for c in range(1, chunks):
                if best == best and combine(best, values[c]) != best:
                    best, at = values[c], c
            out[r] = places[at]
        return 0

    return kernel


_PLACES_OF_CHUNKS = {
    (n, d): Kernel(f"arg{n[1:]}_chunks_{d.name}", _place_of_chunk, n, d.name) for n in ("amax", "amin") for d in FLOATS
}


class _Place(Lowering):
    """Where the largest or smallest number of each row stands."""

    def __init__(self, name: str, best: str):
        super().__init__(name, self.planned, ("dim",))
        self.best = best

    def planned(self, specs, params) -> Plan | bool | None:
        (x,) = specs
        if x.dtype not in FLOATS or not x.size or not x.plain or params["dim"] not in (-1, x.ndim - 1):
            return None
        kernel, last = _PLACES[self.best, x.dtype], _PLACES_OF_CHUNKS[self.best, x.dtype]
        n, rows, chunks, tasks, each = _runs(x)
        if not kernel.ready() or (chunks > 1 and not last.ready()):
            return None
        result = contiguous(x.shape[:-1], int64, x.backend)
        if chunks == 1:
            words = (Operand(0), Operand(1), 0, tasks, n, chunks, each)
            return Plan(result, [Launch(kernel, -(-tasks // each), words)])
        # Rows in chunks, whose results are compared in turn.
        places, values, out = Operand(1), Operand(2), Operand(3)
        launches = [
            Launch(kernel, -(-tasks // each), (Operand(0), places, values, tasks, n, chunks, each)),
            Launch(last, 1, (values, places, out, rows, chunks)),
        ]
        return Plan(result, launches, (8 * tasks, tasks * x.dtype.itemsize))


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
    launch = Launch(kernel, -(-rows // each), (Operand(0), values, places, rows, n, k, each))
    return Plan(contiguous((*x.shape[:-1], k), int64, x.backend), [launch], (rows * k * x.dtype.itemsize,))


topk = Lowering("topk", _plan_topk, ("k", "dim", "largest"))
register("topk", "cpu", needs_numba=False)(topk)
