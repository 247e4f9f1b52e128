"""Weighted sums of elements along one dimension of an array, as resampling and adaptive pooling need them, and the transpose."""

from __future__ import annotations

import math

import numpy as np

from deepcore.kernels.codegen.kernel import In, Operand, Out, Size, Words, args
from deepcore.kernels.cpu.reductions import FLOATS, kernels_of, share
from deepcore.kernels.plan import Launch, Lowering, Plan, contiguous
from deepcore.kernels.registry import register


@args(x=In, starts=Words, places=Words, weights=In, out=Out, n=Size, length=Size, inner=Size, rows=Size, each=Size)
def _sums(tools, dtype: str):
    """out[o, i, j] = Σ weights[t] · x[o, places[t], j], t from starts[i] to starts[i + 1]: `each` of the `rows` (o, i) a chunk."""
    after, zero = tools.after(np.dtype(dtype)), np.dtype(dtype).type(0)

    def kernel(x, starts, places, weights, out, n, length, inner, rows, each, chunk):
        first = chunk * each
        o, i = first // length, first % length
        for row in range(first, min(rows, first + each)):
            start, end = starts[i], starts[i + 1]
            if inner == 1:
                total = x[o * n + places[start]] * weights[start] if start < end else zero
                for t in range(start + 1, end):
                    total = total + x[o * n + places[t]] * weights[t]
                out[row] = total
            else:
                to = after(out, row * inner)
                if start == end:
                    for j in range(inner):
                        to[j] = zero
                for t in range(start, end):
                    source, weight = after(x, (o * n + places[t]) * inner), weights[t]
                    if t == start:
                        for j in range(inner):
                            to[j] = source[j] * weight
                    else:
                        for j in range(inner):
                            to[j] = to[j] + source[j] * weight
            i += 1
            if i == length:
                o, i = o + 1, 0
        return 0

    return kernel


_SUMS = kernels_of("weighted_taps", _sums)


def _plan(spread: bool):
    def plan(specs, params) -> Plan | bool | None:
        (x,) = specs
        dim, length = params["dim"], params["length"]
        n = x.shape[dim]
        shape = (*x.shape[:dim], length, *x.shape[dim + 1 :])
        if x.dtype not in FLOATS or not x.size or not length or not _SUMS[x.dtype].ready():
            return None
        if not x.plain:
            return True
        places, weights = params["taps"](np, length if spread else n, n if spread else length, *params["options"])
        where = np.repeat(np.arange(len(places)), places.shape[1]).reshape(places.shape)
        if spread:  # as the reference adds them: tap by tap
            places, where, weights = (a.T for a in (where, places, weights))
        order = np.argsort(where.ravel(), kind="stable")
        tables = [
            np.searchsorted(where.ravel()[order], np.arange(length + 1)).astype(np.int64),
            places.ravel()[order].astype(np.int64), weights.ravel()[order].astype(x.dtype),
        ]  # fmt: skip
        rows, inner = math.prod(shape[: dim + 1]), math.prod(shape[dim + 1 :])
        each = max(1, share(rows * inner) // inner)
        launch = Launch(
            _SUMS[x.dtype], -(-rows // each), x=Operand(0), starts=tables[0], places=tables[1], weights=tables[2], out=Operand(1),
            n=n, length=length, inner=inner, rows=rows, each=each,
        )  # fmt: skip
        return Plan(contiguous(shape, x.dtype, x.backend), [launch], owner=tables)

    return plan


for _lowering in (
    Lowering("weighted_taps", _plan(False), ("dim", "length", "taps", "options")),
    Lowering("spread_taps", _plan(True), ("dim", "length", "taps", "options")),
):
    register(_lowering.op_name, "cpu", needs_numba=False)(_lowering)
