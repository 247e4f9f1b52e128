"""Scans: running sums, products, extremes; differences."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops.common import in_float32, ordered
from deepcore.ops.comparison import clamp, logical_xor, where
from deepcore.ops.exponential import exp
from deepcore.ops.index import gather
from deepcore.ops.reduction import ValuesAndIndices, as_dtype
from deepcore.ops.registry import Tensor, axis_names, cast, composite, primitive, sample
from deepcore.ops.shape import cat, flip_p, narrow, normalize_dim
from deepcore.tensor import made


def _widest(dtype):
    """The dtype in which running sums accumulate."""
    return dt.float64 if dt.is_floating(dtype) else dt.complex128 if dtype.kind == "c" else dtype


@primitive(
    vjp=lambda g, dim: flip_p(_cumsum(flip_p(g, dims=(dim,)), dim=dim), dims=(dim,)),
    complex=True,
    batch="dim",
    jvp="linear",
)
def _cumsum(xp, input, *, dim):
    # Pairwise summation does not apply to a running sum, so it accumulates in the widest float.
    wide = _widest(input.dtype)
    return xp.cumsum(input.astype(wide, copy=False), axis=dim).astype(input.dtype, copy=False)


@composite(inplace=True, examples=lambda make: [sample(make(3, 4), 0), sample(make(3, 4), -1), sample(make(), 0)])
@axis_names
def cumsum(input, dim: int, *, dtype=None):
    """Running sums along `dim`"""
    if dtype is None and not dt.is_inexact(input.dtype):
        dtype = dt.int64
    input = as_dtype(input, dtype)
    d = normalize_dim(dim, input.ndim)
    return _cumsum(input, dim=d) if input.ndim else input.clone()


def _running_samples(make):
    return [sample(make(3, 4), 0), sample(make(3, 4), -1), sample(make(), 0)]


def _sums_from(x: Tensor, dim: int) -> Tensor:
    """Σ of each element and those behind it."""
    return flip_p(_cumsum(flip_p(x, dims=(dim,)), dim=dim), dims=(dim,))


def _cumprod_back(g, input, out, dim):
    """Behind the first zero all products are 0; those that end at or behind it reach the zero alone."""
    zero = input == 0
    first = zero & (_cumsum(cast(zero, dt.int64), dim=dim) == 1)
    others = _cumprod(where(first, 1.0, input), dim=dim)
    ahead = _sums_from(g * out, dim) / where(zero, 1.0, input)
    return where(zero, where(first, _sums_from(g * others, dim), 0.0), ahead)


@primitive(
    vjp=_cumprod_back,
    complex="analytic",
    batch="dim",
)
def _cumprod(xp, input, *, dim):
    wide = _widest(input.dtype)
    return xp.cumprod(input.astype(wide, copy=False), axis=dim).astype(input.dtype, copy=False)


@composite(inplace=True, examples=_running_samples)
@axis_names
def cumprod(input, dim: int, *, dtype=None):
    """Running products along `dim`"""
    if dtype is None and not dt.is_inexact(input.dtype):
        dtype = dt.int64
    input = as_dtype(input, dtype)
    d = normalize_dim(dim, input.ndim)
    return _cumprod(input, dim=d) if input.ndim else input.clone()


def _doubling(xp, length: int, dim: int, combine, arrays: tuple) -> tuple:
    """A running `combine`(earlier, later) along `dim` in log₂ n passes over whole arrays."""
    shift = 1
    at = lambda part: (slice(None),) * dim + (part,)
    while shift < length:
        earlier = tuple(a[at(slice(length - shift))] for a in arrays)
        later = tuple(a[at(slice(shift, None))] for a in arrays)
        combined = combine(earlier, later)
        arrays = tuple(xp.concatenate([a[at(slice(shift))], c], axis=dim) for a, c in zip(arrays, combined))
        shift *= 2
    return arrays


@primitive(batch="dim")
def _running_extreme(xp, input, *, dim, largest):
    """The index of the last extreme so far; NaN counts as one."""
    shape = (1,) * dim + (input.shape[dim],) + (1,) * (input.ndim - dim - 1)
    index = xp.broadcast_to(xp.arange(input.shape[dim], dtype=dt.int64).reshape(shape), input.shape)

    def combine(earlier, later):
        first, second = earlier[0], later[0]
        wins = (second >= first if largest else second <= first) & (first == first) | (second != second)
        return xp.where(wins, second, first), xp.where(wins, later[1], earlier[1])

    return xp.ascontiguousarray(_doubling(xp, input.shape[dim], dim, combine, (input, index))[1])


def _running(input: Tensor, dim: int, largest: bool) -> ValuesAndIndices:
    d = normalize_dim(dim, ordered("cummax" if largest else "cummin", input).ndim)
    if not input.ndim:
        return ValuesAndIndices(input.clone(), made(input.backend.zeros((), dtype=dt.int64), input.backend))
    index = _running_extreme(input.detach(), dim=d, largest=largest)
    return ValuesAndIndices(gather(input, d, index), index)


@composite(examples=_running_samples)
@axis_names
def cummax(input, dim: int):
    """(values, indices) of the largest element so far along `dim`, of equal ones the last; NaN is the largest"""
    return _running(input, dim, True)


@composite(examples=_running_samples)
@axis_names
def cummin(input, dim: int):
    """(values, indices) of the smallest element so far along `dim`, of equal ones the last; NaN counts as the smallest"""
    return _running(input, dim, False)


def _logcumsumexp_back(g, input, out, dim):
    """exp(xᵢ − outᵢ) · Σ_{j ≥ i} gⱼ exp(outᵢ − outⱼ): no exponent is positive."""
    length, limit = input.shape[dim], dt.largest(out.dtype)
    level, shift = clamp(out, -limit, limit), 1
    while shift < length:
        near, far = narrow(level, dim, 0, length - shift), narrow(level, dim, shift, length - shift)
        head = narrow(g, dim, 0, length - shift) + exp(near - far) * narrow(g, dim, shift, length - shift)
        g = cat([head, narrow(g, dim, length - shift, shift)], dim)
        shift *= 2
    return exp(input - level) * g


@primitive(vjp=_logcumsumexp_back, batch="dim")
@in_float32
def _logcumsumexp(xp, input, *, dim):
    combine = lambda earlier, later: (xp.logaddexp(earlier[0], later[0]),)
    return _doubling(xp, input.shape[dim], dim, combine, (input,))[0].copy()


@composite(examples=_running_samples)
@axis_names
def logcumsumexp(input, dim: int):
    """ln of the running sums of eˣ along `dim`, without overflow"""
    if not dt.is_floating(input.dtype):
        input = cast(input, dt.default_float)
    d = normalize_dim(dim, input.ndim)
    return _logcumsumexp(input, dim=d) if input.ndim and input.numel() else input.clone()


@composite(
    examples=lambda make: [
        sample(make(3, 4)), sample(make(3, 5), 2, 1), sample(make(3, 4), dim=0, prepend=make(1, 4), append=make(2, 4)), sample(make(3), 0),
    ]
)  # fmt: skip
@axis_names
def diff(input, n: int = 1, dim: int = -1, prepend=None, append=None):
    """The n-th differences of neighbours along `dim`, of `prepend`, `input` and `append` joined; of bools, whether they differ"""
    if not input.ndim:
        raise ShapeError("diff needs a tensor that has a dimension", received="a 0-d tensor")
    if n < 0:
        raise ArgumentError("diff: n is at least 0", received=str(n))
    d = normalize_dim(dim, input.ndim)
    if not n:
        return input.clone()
    parts = [x for x in (prepend, input, append) if x is not None]
    input = cat(parts, d) if len(parts) > 1 else input
    for _ in range(min(n, input.shape[d])):
        count = input.shape[d] - 1
        later, earlier = narrow(input, d, 1, count), narrow(input, d, 0, count)
        input = logical_xor(later, earlier) if input.dtype == dt.bool_ else later - earlier
    return input
