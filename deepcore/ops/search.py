"""Order: the k-th element, quantiles, positions in sorted tensors."""

from __future__ import annotations

import math

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.ops.common import ordered
from deepcore.ops.comparison import isnan, where
from deepcore.ops.index import gather, gather_p, within
from deepcore.ops.reduction import ValuesAndIndices
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import (
    Tensor,
    as_number,
    axis_names,
    cast,
    composite,
    is_half,
    primitive,
    promote,
    sample,
    takes_arrays,
)
from deepcore.ops.shape import movedim, narrow, normalize_dim, ravel, reshape_p, unsqueeze
from deepcore.ops.sort import argsort, sort
from deepcore.tensor import made

# -- the k-th element, quantiles ------------------------------------------------------------------------------------


def _at_index(input: Tensor, index: Tensor, d: int, keepdim: bool) -> ValuesAndIndices:
    """The values at `index`, whose dimension `d` has length 1."""
    if not input.ndim:
        return ValuesAndIndices(input.clone(), index)
    values = gather_p(input, index, dim=d)
    if not keepdim:
        shape = input.shape[:d] + input.shape[d + 1 :]
        values, index = reshape_p(values, shape=shape), reshape_p(index, shape=shape)
    return ValuesAndIndices(values, index)


def _ranked(name: str, input: Tensor, dim: int) -> tuple[Tensor, int]:
    """(the indices that sort along the dimension, its number); raises where it has no elements."""
    d = normalize_dim(dim, ordered(name, input).ndim)
    if input.ndim and not input.shape[d]:
        raise IndexRangeError(f"{name}: dimension {dim} has no elements", received=str(input.shape))
    return argsort(input, d), d


@composite(examples=lambda make: [sample(make(3, 5), 2), sample(make(3, 5), 3, 0, True), sample(make(), 1)])
@axis_names
def kthvalue(input, k: int, dim: int = -1, keepdim: bool = False):
    """(values, indices) of the k-th smallest element along `dim`; k counts from 1"""
    d = normalize_dim(dim, input.ndim)
    length = input.shape[d] if input.ndim else 1
    if not 1 <= k <= length:
        raise IndexRangeError(
            f"kthvalue: k = {k}, but dimension {dim} has {length} elements", expected=f"1 to {length}"
        )
    order = argsort(input, d)
    return _at_index(input, narrow(order, d, k - 1, 1) if input.ndim else order, d, keepdim)


def _median(name: str, input: Tensor, dim, keepdim: bool, ignore_nan: bool):
    if input.dtype == dt.bool_:
        raise DTypeError(f"{name} is not defined for bool tensors", fix="convert with .int()")
    if dim is None:
        flat = ravel(input)
        if not flat.numel():
            return made(input.backend.full((), math.nan, dtype=input.dtype), input.backend) + sum_(flat)
        return _median(name, flat, 0, False, ignore_nan).values
    order, d = _ranked(name, input, dim)
    if not input.ndim:
        return ValuesAndIndices(input.clone(), order)
    length = input.shape[d]
    if not dt.is_floating(input.dtype):
        return _at_index(input, narrow(order, d, (length - 1) // 2, 1), d, keepdim)
    bad = isnan(input.detach())
    count = length - sum_(bad, d, True)  # NaN is sorted to the end
    if ignore_nan:
        place = where(count > 0, (count - 1) // 2, 0)
    else:
        place = where(count < length, count, (length - 1) // 2)  # the first NaN
    return _at_index(input, gather_p(order, place, dim=d), d, keepdim)


@composite(examples=lambda make: [sample(make(3, 5)), sample(make(3, 5), 1), sample(make(3, 4), 0, True)])
@axis_names
def median(input, dim: int | None = None, keepdim: bool = False):
    """The lower median of all elements; with `dim`, (values, indices) along it. NaN where there is one"""
    return _median("median", input, dim, keepdim, False)


@composite(examples=lambda make: [sample(make(3, 5)), sample(make(3, 5), 1), sample(make(3, 4), 0, True)])
@axis_names
def nanmedian(input, dim: int | None = None, keepdim: bool = False):
    """`median` of the elements that are not NaN"""
    return _median("nanmedian", input, dim, keepdim, True)


@composite(examples=lambda make: [sample(make(3, 5)), sample(make(3, 5), 0, True), sample(make())])
@axis_names
def mode(input, dim: int = -1, keepdim: bool = False):
    """(values, indices) of the most frequent element along `dim`, the smallest of several; the index is that of its last place"""
    order, d = _ranked("mode", input, dim)
    if not input.ndim:
        return ValuesAndIndices(input.clone(), order)
    ranked = movedim(gather(input.detach(), d, order), d, -1)
    ends = _longest_run(ranked if ranked.dtype != dt.bool_ else cast(ranked, dt.uint8))
    return _at_index(input, gather_p(order, movedim(unsqueeze(ends, -1), -1, d), dim=d), d, keepdim)


@primitive()
def _longest_run(xp, ranked):
    """The last place of the longest run of equal elements in each sorted row, of the first of several."""
    places = xp.broadcast_to(xp.arange(ranked.shape[-1]), ranked.shape)
    new = xp.concatenate([xp.ones((*ranked.shape[:-1], 1), dtype=bool), ranked[..., 1:] != ranked[..., :-1]], axis=-1)
    length, shift = xp.where(new, places, 0), 1
    while shift < ranked.shape[-1]:  # a running maximum: where the run of each place began
        length = xp.concatenate([length[..., :shift], xp.maximum(length[..., shift:], length[..., :-shift])], axis=-1)
        shift *= 2
    return xp.argmax(places - length, axis=-1).astype(dt.int64)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(name: str, input, q, dim, keepdim: bool, interpolation: str, ignore_nan: bool):
    if interpolation not in _INTERPOLATIONS:
        raise ArgumentError(
            f"{name}: unknown interpolation", expected=", ".join(_INTERPOLATIONS), received=repr(interpolation)
        )
    if not dt.is_floating(input.dtype) or is_half(input):
        raise DTypeError(f"{name} takes float32 and float64", received=dt.name_of(input.dtype), fix="t.float()")
    number = as_number(q)
    if number is not None:
        q = made(input.backend.full((), number, dtype=input.dtype), input.backend)
    q = constant(name, q)
    if q.dtype != input.dtype or q.ndim > 1:
        raise DTypeError(
            f"{name}: q is a number or a vector of the input's dtype", received=f"{dt.name_of(q.dtype)} {q.shape}"
        )
    outside = not 0 <= number <= 1 if number is not None else not within(cast(~((q >= 0) & (q <= 1)), dt.int64), 0, 1)
    if outside:
        raise ArgumentError(f"{name}: q is from 0 to 1", received=str(q.tolist()))
    rank = input.ndim
    if dim is None:
        shape = (1,) * rank
        rows = ravel(input)
    else:
        d = normalize_dim(dim, rank)
        shape = tuple(1 if k == d else n for k, n in enumerate(input.shape))
        rows = movedim(input, d, -1) if rank else ravel(input)
    if not rows.shape[-1]:
        raise ShapeError(f"{name} of no elements is not defined", received=str(input.shape))
    ranked, bad = sort(rows, -1).values, isnan(rows.detach())
    length = rows.shape[-1]
    column = unsqueeze(q, -1) if q.ndim else reshape_p(q, shape=(1,))
    count = length - sum_(bad, -1, True)
    if ignore_nan:
        last = unsqueeze(where(count > 0, count - 1, 0), 0)
    else:
        last = unsqueeze(count * 0 + (length - 1), 0)
    levels = reshape_p(column, shape=(column.numel(),) + (1,) * rows.ndim)
    place = levels * cast(last, input.dtype)
    if not ignore_nan:  # NaN is sorted to the end: one is enough
        place = where(unsqueeze(count < length, 0), float(length - 1), place)
    place = movedim(place[..., 0], 0, -1)
    if interpolation == "nearest":
        place = place.round()
    below = place.detach().floor() if interpolation != "higher" else place.detach().ceil()
    low = gather_p(ranked, cast(below, dt.int64), dim=ranked.ndim - 1)
    if interpolation in ("linear", "midpoint"):
        high = gather_p(ranked, cast(place.detach().ceil(), dt.int64), dim=ranked.ndim - 1)
        share = place - below if interpolation == "linear" else 0.5
        low = low + (high - low) * share
    out = movedim(low, -1, 0)
    if keepdim:
        out = reshape_p(out, shape=(*q.shape, *shape))
    elif dim is None or not rank:
        out = reshape_p(out, shape=q.shape)
    else:
        out = out if q.ndim else out[0]
    return out


def _quantile_samples(make):
    levels = make(2, low=0.1, high=0.9)
    return [
        sample(make(3, 5), 0.3), sample(make(3, 5), 0.6, 1), sample(make(3, 5), levels, 0, True), sample(make(5), levels),
        *(sample(make(3, 5), 0.4, 1, interpolation=kind) for kind in _INTERPOLATIONS),
    ]  # fmt: skip


@composite(examples=_quantile_samples)
@axis_names
def quantile(input, q, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"):
    """The element at the share q of the sorted elements along `dim` (None: of all); a vector q adds a leading dimension.

    `interpolation` between two elements: "linear", "lower", "higher", "midpoint" or "nearest". NaN where there is one.
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@composite(examples=_quantile_samples)
@axis_names
def nanquantile(input, q, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"):
    """`quantile` of the elements that are not NaN"""
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)


@composite(examples=lambda make: [sample(make(3, 4))])
@takes_arrays
def msort(input):
    """The elements sorted along the first dimension"""
    return sort(input, 0).values


# -- positions in sorted tensors ------------------------------------------------------------------------------------


@primitive()
def _search(xp, sequence, values, *, right):
    """A binary search in all rows at once; NaN is above all numbers."""
    length = sequence.shape[-1]
    low = xp.zeros(values.shape, dtype=dt.int64)
    high = xp.full(values.shape, length, dtype=dt.int64)
    for _ in range(length.bit_length()):
        middle = (low + high) // 2
        place = xp.minimum(middle, length - 1)
        element = sequence[place] if sequence.ndim == 1 else xp.take_along_axis(sequence, place, axis=-1)
        stays = element > values if right else element >= values
        inside = low < high
        low, high = xp.where(inside & ~stays, middle + 1, low), xp.where(inside & stays, middle, high)
    return low


@composite(
    examples=lambda make: [sample(sort(make(5).detach()).values, make(3, 4).detach()), sample(sort(make(3, 4)).values.detach(), make(3, 2).detach(), right=True)],
    differentiable=False, method=False,
)  # fmt: skip
@takes_arrays
def searchsorted(
    sorted_sequence, input, *, out_int32: bool = False, right: bool = False, side: str | None = None, sorter=None
):
    """Where the elements would be inserted into the sorted last dimension: the first place, or the last one if `right`.

    `sorted_sequence` is a vector, or has a row for each row of `input`; `sorter`: the indices that sort it. `side`:
    "left" or "right". Returns int64, or int32 with `out_int32`.
    """
    if side not in (None, "left", "right") or (side == "left" and right):
        raise ArgumentError(
            'searchsorted: side is "left" or "right", and agrees with right', received=f"side={side!r}, right={right}"
        )
    right = right or side == "right"
    number = as_number(input)
    if number is not None:
        input = made(
            sorted_sequence.backend.asarray(
                number,
                sorted_sequence.dtype
                if dt.is_floating(sorted_sequence.dtype)
                else dt.result_type([(sorted_sequence.dtype, 1), type(number)]),
            ),
            sorted_sequence.backend,
        )
    if sorted_sequence.ndim != 1 and sorted_sequence.shape[:-1] != input.shape[:-1]:
        raise ShapeError(
            "searchsorted: the sequence is a vector, or the two differ in the last dimension only",
            received=f"{sorted_sequence.shape} and {input.shape}",
        )
    if sorter is not None:
        if sorter.shape != sorted_sequence.shape or sorter.dtype != dt.int64:
            raise ShapeError(
                "searchsorted: sorter has an int64 index for each element",
                expected=str(sorted_sequence.shape),
                received=f"{dt.name_of(sorter.dtype)} {sorter.shape}",
            )
        sorted_sequence = gather(sorted_sequence, -1, sorter)
    if sorted_sequence.dtype != input.dtype:
        raise DTypeError(
            "searchsorted: the two have one dtype",
            received=f"{dt.name_of(sorted_sequence.dtype)} and {dt.name_of(input.dtype)}",
        )
    out = _search(_comparable(sorted_sequence), _comparable(input), right=right)
    return cast(out, dt.int32) if out_int32 else out


def _comparable(x: Tensor) -> Tensor:
    x = x.detach()
    return cast(x, dt.float32) if is_half(x) else x


@composite(
    examples=lambda make: [sample(make(3, 4).detach(), sort(make(5).detach()).values), sample(make(3).detach(), sort(make(5).detach()).values, right=True)],
    differentiable=False, method=False,
)  # fmt: skip
@takes_arrays
def bucketize(input, boundaries, *, out_int32: bool = False, right: bool = False):
    """The number of the bucket of each element: boundaries[i − 1] < x ≤ boundaries[i], or ≤ and < if `right`"""
    if boundaries.ndim != 1:
        raise ShapeError("bucketize takes a vector of boundaries", received=str(boundaries.shape))
    number = as_number(input)
    if number is None:
        input, boundaries = promote("bucketize", "numeric", unsqueeze(input, 0), boundaries)
        input = reshape_p(input, shape=input.shape[1:])
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@composite(
    examples=lambda make: [sample(make.int(5, 3, 4), make.int(5, 2)), sample(make.int(5, 4), 3, invert=True)],
    differentiable=False, method=False,
)  # fmt: skip
def isin(elements, test_elements, *, assume_unique: bool = False, invert: bool = False):
    """Whether each element is one of `test_elements`; the opposite with `invert`"""
    elements, tests = promote("isin", "compare", elements, test_elements)
    tests = sort(ravel(tests)).values
    if not tests.numel():
        out = elements != elements if not dt.is_floating(elements.dtype) else isnan(elements) & False
    else:
        place = _search(_comparable(tests), _comparable(elements), right=False)
        out = tests[where(place < tests.numel(), place, 0)] == elements
    return ~out if invert else out
