"""Distinct elements, their numbers, and histograms."""

from __future__ import annotations

import builtins
import math
from collections import namedtuple

from deepcore.backend import dtypes as dt
from deepcore.effects import untraceable
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.batching import by_example
from deepcore.ops.common import ordered
from deepcore.ops.registry import (
    Tensor,
    axis_names,
    composite,
    is_half,
    sample,
    takes_arrays,
)
from deepcore.ops.search import _comparable, _search
from deepcore.ops.shape import movedim, normalize_dim, ravel
from deepcore.ops.sort import argsort

Histogram = namedtuple("Histogram", "hist bin_edges")

# -- distinct elements ------------------------------------------------------------------------------------------------


def _as_rows(items: Tensor):
    return items._data.reshape(items.shape[0], math.prod(items.shape[1:]))


def _runs(name: str, items: Tensor, order: Tensor | None, return_inverse: bool, return_counts: bool, shape):
    """The runs of equal slices of `items` along its first dimension: (first places of runs, inverse, counts)."""
    untraceable(f"{name}, whose shape depends on values")
    xp, rows = items.backend, _as_rows(items)
    count = items.shape[0]
    new = xp.ones((count,), dtype=bool)
    if count > 1:
        new[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    starts = xp.nonzero(new)[0]
    results = []
    if return_inverse:
        number = xp.cumsum(new.astype(dt.int64)) - 1
        if order is not None:
            inverse = xp.zeros((count,), dtype=dt.int64)
            inverse[order._data] = number
            number = inverse
        results.append(Tensor(number.astype(dt.int64).reshape(shape), xp))
    if return_counts:
        ends = xp.concatenate([starts[1:], xp.full((1,), count, dtype=starts.dtype)]) if count else starts
        results.append(Tensor((ends - starts).astype(dt.int64), xp))
    return Tensor(starts.astype(dt.int64), xp), results


def _lexicographic(rows: Tensor) -> Tensor:
    """The indices that sort rows by their first element, then the second, …"""
    xp = rows.backend
    flat = _as_rows(_comparable(rows))
    order = xp.arange(rows.shape[0])
    for column in range(flat.shape[1] - 1, -1, -1):
        order = order[xp.argsort(flat[order, column], kind="stable")]
    return Tensor(order.astype(dt.int64), xp)


def _distinct(name: str, input, dim, order_rows: bool, return_inverse: bool, return_counts: bool):
    if dim is None:
        items, shape, d = ravel(input), input.shape, 0
    else:
        d = normalize_dim(dim, input.ndim)
        items = movedim(input, d, 0) if input.ndim else ravel(input)
        shape = items.shape[:1]
        if not input.numel() and builtins.any(n == 0 for k, n in enumerate(input.shape) if k != d) and input.shape[d]:
            raise ShapeError(f"{name}: slices of no elements cannot be compared", received=str(input.shape))
    order = None
    if order_rows:
        order = argsort(items) if items.ndim == 1 else _lexicographic(items)
        items = items[order]
    starts, results = _runs(name, items.detach(), order, bool(return_inverse), bool(return_counts), shape)
    out = movedim(items[starts], 0, d) if dim is not None and input.ndim else items[starts]
    return (out, *results) if results else out


@composite(
    examples=lambda make: [
        sample(make.int(4, 3, 4)),
        sample(make.int(2, 4, 2), dim=0),
        sample(make.int(4, 5), True, True, True),
    ],
    differentiable=False,
)
@axis_names
def unique(
    input, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
):
    """The distinct elements, in order; or the distinct slices along `dim`. Every NaN is distinct.

    `return_inverse`: also the index in the result of each element; `return_counts`: also how often it occurs.
    """
    return _distinct("unique", input, dim, True, return_inverse, return_counts)


@composite(
    examples=lambda make: [
        sample(make.int(2, 3, 4)),
        sample(make.int(2, 4, 1), dim=0),
        sample(make.int(2, 5), True, True),
    ],
    differentiable=False,
)
@axis_names
def unique_consecutive(input, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None):
    """The first element of each run of equal ones; or the first slice along `dim`. See `unique`"""
    return _distinct("unique_consecutive", input, dim, False, return_inverse, return_counts)


# -- counting -------------------------------------------------------------------------------------------------------


def _counted(positions, size: int, weights, xp, dtype):
    out = xp.zeros((size,), dtype=dtype)
    xp.scatter_add(out, (positions,), weights)
    return out


@composite(
    examples=lambda make: [sample(make.int(4, 6)), sample(make.int(4, 6), make(6).detach(), 6)], differentiable=False
)
@takes_arrays
def bincount(input, weights=None, minlength: int = 0):
    """How often each of 0, 1, … occurs in a vector of integers, or the sum of its weights; at least `minlength` numbers"""
    if input.ndim != 1 or dt.is_floating(input.dtype) or input.dtype == dt.bool_:
        raise DTypeError("bincount takes a vector of integers", received=f"{dt.name_of(input.dtype)} {input.shape}")
    if minlength < 0:
        raise ArgumentError("bincount: minlength is at least 0", received=str(minlength))
    if weights is not None and weights.shape != input.shape:
        raise ShapeError("bincount: a weight for each element", expected=str(input.shape), received=str(weights.shape))
    untraceable("bincount, whose shape depends on values")
    if input.numel() and int(input.min()) < 0:
        raise ArgumentError("bincount: the integers are at least 0", received=str(int(input.min())))
    size = builtins.max(minlength, int(input.max()) + 1 if input.numel() else 0)
    xp = input.backend
    if weights is None:
        return Tensor(
            _counted(input._data.astype(dt.int64), size, xp.ones(input.shape, dtype=dt.int64), xp, dt.int64), xp
        )
    dtype = dt.float32 if weights.dtype == dt.float32 else dt.float64
    return Tensor(_counted(input._data.astype(dt.int64), size, weights._data.astype(dtype), xp, dtype), xp)


def _limits(name: str, input: Tensor, low: float, high: float, margin: float) -> tuple[float, float]:
    """The range of a histogram: that of the elements where the two are equal."""
    if low == high and input.numel():
        low, high = float(input.min()), float(input.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low > high:
        raise ArgumentError(f"{name}: the range is finite and ascending", received=f"{low} to {high}")
    return (low - margin, high + margin) if low == high else (low, high)


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 5, -1, 1)], differentiable=False)
@takes_arrays
@by_example
def histc(input, bins: int = 100, min=0, max=0):
    """How many elements are in each of `bins` equal parts of min … max (equal: of the range of the elements)"""
    if bins < 1:
        raise ArgumentError("histc: bins is positive", received=str(bins))
    untraceable("a histogram, whose range depends on values")
    flat = ravel(_comparable(ordered("histc", input)))
    low, high = _limits("histc", flat, float(min), float(max), 1.0)
    xp, x = input.backend, flat._data
    wide = x.astype(dt.float64) if not dt.is_floating(x.dtype) else x
    inside = (wide >= low) & (wide <= high)
    position = xp.floor((xp.where(inside, wide, low) - low) * (bins / (high - low))).astype(dt.int64)
    counts = _counted(xp.minimum(position, bins - 1), bins, inside.astype(dt.int64), xp, dt.int64)
    return Tensor(counts.astype(input.dtype), xp)


@composite(
    examples=lambda make: [sample(make(3, 4), 5), sample(make(3, 4), 3, range=(-1.0, 1.0), density=True)],
    differentiable=False,
)
@takes_arrays
@by_example
def histogram(input, bins=100, *, range=None, weight=None, density: bool = False):
    """(hist, bin_edges): the elements (or their weights) in each bin, the last with its right edge.

    `bins`: a number of equal bins of `range` (default: that of the elements), or a vector of ascending edges. `density`:
    divided by their sum and the widths.
    """
    if not dt.is_floating(input.dtype) or is_half(input):
        raise DTypeError("histogram takes float32 and float64", received=dt.name_of(input.dtype), fix="t.float()")
    if weight is not None and (weight.shape != input.shape or weight.dtype != input.dtype):
        raise ShapeError(
            "histogram: a weight for each element, of its dtype",
            expected=str(input.shape),
            received=f"{dt.name_of(weight.dtype)} {weight.shape}",
        )
    untraceable("a histogram, whose range depends on values")
    flat, xp = ravel(input.detach()), input.backend
    if isinstance(bins, Tensor):
        if bins.ndim != 1 or bins.dtype != input.dtype or not bins.numel():
            raise ShapeError(
                "histogram: the edges are a vector of the input's dtype",
                received=f"{dt.name_of(bins.dtype)} {bins.shape}",
            )
        edges = bins.detach()
    else:
        low, high = map(float, range) if range is not None else (0.0, 0.0 if flat.numel() else 1.0)
        low, high = _limits("histogram", flat, low, high, 0.5)
        if bins < 1:
            raise ArgumentError("histogram: bins is positive", received=str(bins))
        edges = Tensor(xp.linspace(low, high, bins + 1).astype(input.dtype), xp)
    count = edges.numel() - 1
    position = _search(edges, flat, right=True)._data - 1
    position = xp.where(flat._data == edges._data[-1], count - 1, position)
    inside = (position >= 0) & (position < count)
    weights = (
        inside.astype(input.dtype)
        if weight is None
        else xp.where(inside, weight._data.reshape(-1), 0).astype(input.dtype)
    )
    hist = _counted(xp.where(inside, position, 0), builtins.max(count, 1), weights, xp, input.dtype)[:count]
    if density:
        hist = hist / (hist.sum() * (edges._data[1:] - edges._data[:-1]))
    return Histogram(Tensor(hist, xp), edges)
