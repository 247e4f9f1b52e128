"""Reductions in pairs, and those that leave NaN out."""

from __future__ import annotations

from collections import namedtuple

from deepcore.backend import dtypes as dt
from deepcore.ops.comparison import isnan, where
from deepcore.ops.reduction import all_if_empty, amax, amin, as_dtype, mean, std, var
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import axis_names, cast, composite, is_half, sample
from deepcore.ops.shape import normalize_dim

VarMean = namedtuple("VarMean", "var mean")
StdMean = namedtuple("StdMean", "std mean")
MinMax = namedtuple("MinMax", "min max")


def _samples(make):
    return [sample(make(3, 4)), sample(make(3, 4), 0), sample(make(2, 3, 4), (0, 2), correction=0, keepdim=True)]


def _mean_over(input, dim, keepdim):
    return mean(input, None if isinstance(dim, bool) else all_if_empty(dim), keepdim)


@composite(examples=_samples, method=False)
@axis_names
def var_mean(input, dim=None, unbiased=None, *, correction=None, keepdim: bool = False):
    """(`var`, `mean`) over `dim` (None: all)"""
    return VarMean(var(input, dim, unbiased, correction=correction, keepdim=keepdim), _mean_over(input, dim, keepdim))


@composite(examples=_samples, method=False)
@axis_names
def std_mean(input, dim=None, unbiased=None, *, correction=None, keepdim: bool = False):
    """(`std`, `mean`) over `dim` (None: all)"""
    return StdMean(std(input, dim, unbiased, correction=correction, keepdim=keepdim), _mean_over(input, dim, keepdim))


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), dim=1), sample(make(3, 4), dim=0, keepdim=True)]
)
@axis_names
def aminmax(input, *, dim: int | None = None, keepdim: bool = False):
    """(min, max) over one dimension (None: all); equal ones share the gradient"""
    if dim is not None:
        dim = normalize_dim(dim, input.ndim)
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 1), sample(make(2, 3, 4), (0, 2), True)],
)
@axis_names
def nansum(input, dim=None, keepdim: bool = False, *, dtype=None):
    """Σ of the elements that are not NaN over `dim` (None: all)"""
    input = as_dtype(input, dtype)
    if not dt.is_inexact(input.dtype):
        return sum_(input, dim, keepdim, dtype=dtype)
    return sum_(where(isnan(input), 0.0, input), dim, keepdim)


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 1), sample(make(2, 3, 4), (0, 2), True)],
)
@axis_names
def nanmean(input, dim=None, keepdim: bool = False, *, dtype=None):
    """The mean of the elements that are not NaN over `dim` (None: all)"""
    input = as_dtype(input, dtype)
    if not dt.is_inexact(input.dtype):
        return mean(input, dim, keepdim)  # which refuses integers
    if is_half(input):
        return cast(nanmean(cast(input, dt.float32), dim, keepdim), input.dtype)
    count = sum_(~isnan(input), dim, keepdim)
    return nansum(input, dim, keepdim) / cast(count, input.dtype)
