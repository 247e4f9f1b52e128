"""Sums and maxima over bags: runs of rows that begin at given offsets."""

from __future__ import annotations

import itertools

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.ops.index import _take_grad
from deepcore.ops.registry import Tensor, primitive


@primitive()
def bag_of_row(xp, offsets, *, rows):
    """The number of the bag of each row; bag b begins at offsets[b]."""
    starts = xp.zeros((rows + 1,), dtype=dt.int64)
    xp.scatter_add(starts, (offsets,), xp.ones(offsets.shape, dtype=dt.int64))
    return xp.cumsum(starts)[:rows] - 1


@primitive()
def bag_argmax(xp, values, offsets, keep):
    """The row of the first maximum of each bag and column, among those to `keep`; -1 for a bag without rows."""
    count = values.shape[0]
    bounds = [*offsets.tolist(), count]
    out = xp.full((len(bounds) - 1, values.shape[1]), -1, dtype=dt.int64)
    for b, (start, end) in enumerate(itertools.pairwise(bounds)):
        (kept,) = xp.nonzero(keep[start:end])
        if kept.size:
            out[b] = start + kept[xp.argmax(values[start:end][kept], axis=0)]
    return out


def bag_sums(rows: Tensor, bag: Tensor, bags: int) -> Tensor:
    """The sum of the rows of each bag; `bag`: the number of each row's."""
    return apply(_take_grad, (rows, bag), {"shape": (bags, rows.shape[1]), "dims": (0,)})
