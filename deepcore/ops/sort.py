"""Sorting and selection of the largest: indices first, values by `gather`."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.errors import IndexRangeError
from deepcore.ops.index import gather
from deepcore.ops.reduction import ValuesAndIndices
from deepcore.ops.registry import Tensor, axis_names, cast, composite, is_half, primitive, sample
from deepcore.ops.shape import normalize_dim, transpose, unsqueeze
from deepcore.tensor import made


def _sortable(input) -> Tensor:
    """`input` detached, and 16-bit floats in float32, which sort in the same order."""
    input = input.detach()
    return cast(input, dt.float32) if is_half(input) else input


@primitive(batch="dim")
def _argsort(xp, input, *, dim, descending):
    if not descending:
        return xp.argsort(input, axis=dim, kind="stable").astype(dt.int64)
    # Reversed twice, so that equal elements keep their order and NaN comes first.
    order = xp.flip(xp.argsort(xp.flip(input, dim), axis=dim, kind="stable"), dim)
    return (input.shape[dim] - 1 - order).astype(dt.int64)


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 0, True)], differentiable=False)
@axis_names
def argsort(input, dim: int = -1, descending: bool = False, stable: bool = True):
    """The indices (int64) that sort along `dim`; equal elements keep their order"""
    d = normalize_dim(dim, input.ndim)
    if not input.ndim:
        return made(input.backend.zeros((), dtype=dt.int64), input.backend)
    return _argsort(_sortable(input), dim=d, descending=bool(descending))


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 0, True), sample(make())])
@axis_names
def sort(input, dim: int = -1, descending: bool = False, *, stable: bool = True):
    """(values, indices) sorted along `dim`; NaN is the largest"""
    index = argsort(input, dim, descending)
    return ValuesAndIndices(gather(input, dim, index) if input.ndim else input.clone(), index)


@primitive(batch="dim")
def _topk(xp, input, *, k, dim, largest):
    order = _argsort.forward(xp, input, dim=dim, descending=largest)
    return order[(slice(None),) * dim + (slice(k),)]


@composite(
    examples=lambda make: [sample(make(3, 5), 2), sample(make(3, 5), 2, 0), sample(make(3, 5), 2, largest=False)]
)
@axis_names
def topk(input, k: int, dim: int = -1, largest: bool = True, sorted: bool = True):
    """(values, indices) of the k largest (or smallest) elements along `dim`, in order"""
    d = normalize_dim(dim, input.ndim)
    length = input.shape[d] if input.ndim else 1
    if not 0 <= k <= length:
        raise IndexRangeError(f"topk: k = {k}, but dimension {dim} has {length} elements")
    if not input.ndim:
        index = argsort(input)
        return (
            ValuesAndIndices(input.clone(), index)
            if k
            else ValuesAndIndices(unsqueeze(input, 0)[:0], unsqueeze(index, 0)[:0])
        )
    last = input.ndim - 1
    if d == last:
        index = _topk(_sortable(input), k=k, dim=d, largest=bool(largest))
    else:  # a contiguous copy and its rows sort faster than strided rows
        rows = transpose(_sortable(input), d, last).contiguous()
        index = transpose(_topk(rows, k=k, dim=last, largest=bool(largest)), d, last).contiguous()
    return ValuesAndIndices(gather(input, d, index), index)
