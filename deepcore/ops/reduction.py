"""Reductions."""

from __future__ import annotations

import builtins
import math
from collections import namedtuple

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import mul, sqrt, sub_p
from deepcore.ops.common import flat_in, ordered
from deepcore.ops.comparison import clamp, maximum, minimum, where
from deepcore.ops.exponential import exp, log
from deepcore.ops.index import gather
from deepcore.ops.parts import imag_p, real_p
from deepcore.ops.registry import Tensor, axis_names, cast, composite, functional, fused, is_half, primitive, sample
from deepcore.ops.shape import ALL_DIMS, broadcast_to_p, narrow, normalize_dim, normalize_dims, reshape_p, unsqueeze
from deepcore.tensor import made

ValuesAndIndices = namedtuple("ValuesAndIndices", "values indices")


def _reduced(shape, dims) -> tuple[int, ...]:
    """`shape` with the reduced dimensions kept as 1."""
    return tuple(1 if i in dims else n for i, n in enumerate(shape))


def spread(g, shape, dims):
    return broadcast_to_p(reshape_p(g, shape=_reduced(shape, dims)), shape=shape)


def _reduction_samples(make):
    return [
        sample(make(3, 4)),
        sample(make(3, 4), 0),
        sample(make(3, 4), -1, True),
        sample(make(2, 3, 4), (0, 2)),
        sample(make(2, 3, 4), dim=(1,), keepdim=True),
        sample(make()),
    ]


@primitive(
    vjp=lambda g, input_shape, dims: spread(g, input_shape, dims),
    complex=True,
    batch="dims",
    jvp="linear",
)
def sum_p(xp, input, *, dims, keepdim):
    total = xp.sum(input, dims, keepdim)
    return total.astype(input.dtype, copy=False)  # NumPy sums narrow integers in 64 bits


@primitive(batch="dims")
def sum_integers(xp, input, *, dims, keepdim):
    """Σ of integers and bools in int64, without a copy in int64."""
    return xp.sum(input, dims, keepdim, dtype=dt.int64)


def as_dtype(input, dtype):
    return input if dtype is None or input.dtype == dt.as_dtype(dtype) else cast(input, dt.as_dtype(dtype))


def all_if_empty(dim):
    """`dim=()` as None: PyTorch reduces over all dimensions for both."""
    return None if isinstance(dim, (tuple, list)) and not dim else dim


@composite(examples=lambda make: [*_reduction_samples(make), sample(make(0, 3), 0), sample(make(2, 0))])
@axis_names
def sum(input, dim=None, keepdim: bool = False, *, dtype=None):
    """Σ input over `dim` (None: all); integers and bools add up in int64"""
    array = input._data
    dims = ALL_DIMS[array.ndim] if dim is None else normalize_dims(all_if_empty(dim), array.ndim)
    if dtype is not None or array.dtype.kind != "f":
        if not dt.is_inexact(array.dtype) and (dtype is None or dt.as_dtype(dtype) == dt.int64):
            return apply(sum_integers, (input,), {"dims": dims, "keepdim": keepdim})
        input = as_dtype(input, dtype)
    return apply(sum_p, (input,), {"dims": dims, "keepdim": keepdim})


def _count(shape, dims) -> int:
    return math.prod(shape[d] for d in dims)


def _floating(name, input):
    if not dt.is_inexact(input.dtype):
        raise DTypeError(f"{name} needs a floating tensor", received=dt.name_of(input.dtype), fix=f"t.float().{name}()")


@composite(examples=_reduction_samples)
@axis_names
def mean(input, dim=None, keepdim: bool = False, *, dtype=None):
    """Σ input / n over `dim` (None: all)"""
    input = as_dtype(input, dtype)
    _floating("mean", input)
    dims = normalize_dims(all_if_empty(dim), input.ndim)
    if is_half(input):
        return cast(mean(cast(input, dt.float32), dims, keepdim), input.dtype) if dims else input.clone()
    count = _count(input.shape, dims)
    return sum_p(input, dims=dims, keepdim=keepdim) / (count or math.nan)


@primitive(
    complex=True,
    batch="dims",
)
def _first(xp, input, *, dims):
    return xp.ascontiguousarray(input[tuple(slice(1) if d in dims else slice(None) for d in range(input.ndim))])


@composite(
    examples=lambda make: [
        *_reduction_samples(make)[:-1],
        sample(make(3, 4), 1, correction=0),
        sample(make(3, 4), correction=2, keepdim=True),
        sample(make(5), 0, False),
    ]
)
@axis_names
def var(input, dim=None, unbiased=None, *, correction=None, keepdim: bool = False):
    """Σ|x − mean|² / (n − correction) over `dim` (None: all); correction 1 by default"""
    if isinstance(dim, bool):  # PyTorch's var(unbiased)
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise ArgumentError("var takes unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    _floating("var", input)
    if input.dtype.kind == "c":
        real, imag = (var(part, dim, correction=correction, keepdim=keepdim) for part in (real_p(input), imag_p(input)))
        return real + imag
    if is_half(input):  # deviations of 16-bit floats are computed in float32
        return cast(var(cast(input, dt.float32), dim, correction=correction, keepdim=keepdim), input.dtype)
    dims = normalize_dims(all_if_empty(dim), input.ndim)
    count = _count(input.shape, dims)
    # Subtracting the first element makes the deviation of equal numbers exactly 0: the rounding error of a mean of 1e30
    # would square to infinity.
    if dims and count:
        input = sub_p(input, _first(input.detach(), dims=dims))
    centred = input - sum_p(input, dims=dims, keepdim=True) / (count or math.nan)
    freedom = builtins.max(count - correction, 0)
    total = sum_p(centred * centred, dims=dims, keepdim=keepdim)
    return total / freedom if freedom else total * math.inf if count > 1 else total / 0.0


@composite(
    examples=lambda make: [*_reduction_samples(make)[:-1], sample(make(3, 4), 1, correction=0)],
)
@axis_names
def std(input, dim=None, unbiased=None, *, correction=None, keepdim: bool = False):
    """√var; its gradient is 0 where the deviation is 0"""
    if is_half(input):  # the variance may overflow 16 bits
        return cast(std(cast(input, dt.float32), dim, unbiased, correction=correction, keepdim=keepdim), input.dtype)
    variance = var(input, dim, unbiased, correction=correction, keepdim=keepdim)
    zero = variance == 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, variance)))


@composite(
    examples=lambda make: [
        sample(make(3, 4)), sample(make(3, 4), 0), sample(make(2, 3, 4), 1, True), sample(make()), sample(make(3, 0), 1),
    ]
)  # fmt: skip
@axis_names
def prod(input, dim: int | None = None, keepdim: bool = False, *, dtype=None):
    """Π input over one dimension (None: all), multiplied in pairs"""
    if dtype is None and not dt.is_inexact(input.dtype):
        dtype = dt.int64
    input = as_dtype(input, dtype)
    rank = input.ndim
    if dim is None or not rank:
        if keepdim and rank:
            return reshape_p(prod(input), shape=(1,) * rank)
        input, d = reshape_p(input, shape=(input.numel(),)), 0
    else:
        d = normalize_dim(dim, rank)
    length = input.shape[d]
    if length == 0:
        shape = _reduced(input.shape, (d,))
        input = made(input.backend.ones(shape, dtype=input.dtype), input.backend) + sum_p(
            input, dims=(d,), keepdim=True
        )
        length = 1
    while length > 1:
        half = length // 2
        remainder = narrow(input, d, 2 * half, length - 2 * half)
        input = mul(narrow(input, d, 0, half), narrow(input, d, half, half))
        if length % 2:
            from deepcore.ops.shape import cat

            input = cat([input, remainder], d)
        length = half + length % 2
    shape = input.shape if keepdim and rank and dim is not None else input.shape[:d] + input.shape[d + 1 :]
    return reshape_p(input, shape=shape)


def _extreme_back(g, input, out, dims):
    """The gradient of a maximum or minimum, shared equally by the elements that reach it."""
    shape = input.shape
    best = spread(out, shape, dims)
    mask = cast((input == best) | ((input != input) & (best != best)), g.dtype)
    return flat_in(spread(g, shape, dims) * (mask / sum_p(mask, dims=dims, keepdim=True)), input)


@primitive(vjp=_extreme_back, batch="dims")
def _amax(xp, input, *, dims, keepdim):
    return xp.amax(input, axis=dims, keepdims=keepdim)


@primitive(vjp=_extreme_back, batch="dims")
def _amin(xp, input, *, dims, keepdim):
    return xp.amin(input, axis=dims, keepdims=keepdim)


def _extreme(op, name, input, dim, keepdim):
    dims = normalize_dims(all_if_empty(dim), input.ndim)
    if _count(input.shape, dims) == 0:
        raise ShapeError(f"{name} of no elements is not defined", received=f"shape {input.shape}, dim {dim}")
    return op(input, dims=dims, keepdim=keepdim)


@composite(examples=_reduction_samples)
@axis_names
def amax(input, dim=None, keepdim: bool = False):
    """The largest element over `dim` (None: all); equal ones share the gradient"""
    return _extreme(_amax, "amax", input, dim, keepdim)


@composite(examples=_reduction_samples)
@axis_names
def amin(input, dim=None, keepdim: bool = False):
    """The smallest element over `dim` (None: all); equal ones share the gradient"""
    return _extreme(_amin, "amin", input, dim, keepdim)


@primitive(batch="dim")
def _argmax(xp, input, *, dim):
    return xp.argmax(input, axis=dim).astype(dt.int64)


@primitive(batch="dim")
def _argmin(xp, input, *, dim):
    return xp.argmin(input, axis=dim).astype(dt.int64)


def _arg(op, name, input, dim, keepdim):
    flat = dim is None or not input.ndim
    d = 0 if flat else normalize_dim(dim, input.ndim)
    x = reshape_p(input.detach(), shape=(input.numel(),)) if flat else input.detach()
    if x.shape[d] == 0:
        raise ShapeError(f"{name} of no elements is not defined", received=f"shape {input.shape}, dim {dim}")
    if x.dtype == dt.bool_:
        x = cast(x, dt.uint8)
    elif is_half(x) and d == x.ndim - 1:
        x = cast(x, dt.float32)
    out = op(x, dim=d)
    if keepdim:
        return reshape_p(out, shape=(1,) * input.ndim if flat else _reduced(input.shape, (d,)))
    return out


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 1), sample(make(3, 4), 0, True)], differentiable=False
)
@axis_names
def argmax(input, dim: int | None = None, keepdim: bool = False):
    """The index (int64) of the first largest element along `dim` (None: of all, counted in row order)"""
    return _arg(_argmax, "argmax", input, dim, keepdim)


@composite(
    examples=lambda make: [sample(make(3, 4)), sample(make(3, 4), 1), sample(make(3, 4), 0, True)], differentiable=False
)
@axis_names
def argmin(input, dim: int | None = None, keepdim: bool = False):
    """The index (int64) of the first smallest element along `dim` (None: of all, counted in row order)"""
    return _arg(_argmin, "argmin", input, dim, keepdim)


def _chosen(arg, input, dim, keepdim) -> ValuesAndIndices:
    ordered(arg.__name__, input)
    d = normalize_dim(dim, input.ndim)
    if not input.ndim:
        index = made(input.backend.zeros((), dtype=dt.int64), input.backend)
        return ValuesAndIndices(input.clone(), index)
    index = arg(input, d, keepdim=True)
    values = gather(input, d, index)
    if not keepdim:
        shape = input.shape[:d] + input.shape[d + 1 :]
        values, index = reshape_p(values, shape=shape), reshape_p(index, shape=shape)
    return ValuesAndIndices(values, index)


def _max_samples(make):
    return [
        sample(make(3, 4)),
        sample(make(3, 4), 1),
        sample(make(3, 4), 0, True),
        sample(make(3, 4), make(4)),
        sample(make()),
    ]


@composite(examples=_max_samples)
@axis_names
def max(input, dim=None, keepdim: bool = False):
    """The largest element; with `dim`, (values, indices) along it; with a tensor, the elementwise maximum"""
    if isinstance(dim, Tensor) or (hasattr(dim, "ndim") and dim.ndim):
        return maximum(input, dim)
    return amax(input) if dim is None else _chosen(argmax, input, dim, keepdim)


@composite(examples=_max_samples)
@axis_names
def min(input, dim=None, keepdim: bool = False):
    """The smallest element; with `dim`, (values, indices) along it; with a tensor, the elementwise minimum"""
    if isinstance(dim, Tensor) or (hasattr(dim, "ndim") and dim.ndim):
        return minimum(input, dim)
    return amin(input) if dim is None else _chosen(argmin, input, dim, keepdim)


@primitive(
    complex=True,
    batch="dims",
)
def _all(xp, input, *, dims, keepdim):
    return xp.all(input, axis=dims, keepdims=keepdim)


@primitive(
    complex=True,
    batch="dims",
)
def _any(xp, input, *, dims, keepdim):
    return xp.any(input, axis=dims, keepdims=keepdim)


def _bool_samples(make):
    return [sample(make.bool(3, 4)), sample(make.bool(3, 4), 1), sample(make.bool(2, 3, 4), (0, 2), True)]


@composite(examples=_bool_samples, differentiable=False)
@axis_names
def all(input, dim=None, keepdim: bool = False):
    """Whether every element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""
    out = _all(input, dims=normalize_dims(dim, input.ndim), keepdim=keepdim)
    return cast(out, dt.uint8) if input.dtype == dt.uint8 else out


@composite(examples=_bool_samples, differentiable=False)
@axis_names
def any(input, dim=None, keepdim: bool = False):
    """Whether some element over `dim` (None: of all) is non-zero; uint8 for uint8, else bool"""
    out = _any(input, dims=normalize_dims(dim, input.ndim), keepdim=keepdim)
    return cast(out, dt.uint8) if input.dtype == dt.uint8 else out


@composite(examples=lambda make: [sample(make.bool(3, 4)), sample(make.bool(3, 4), 1)], differentiable=False)
@axis_names
def count_nonzero(input, dim=None):
    """How many elements over `dim` (None: of all) are non-zero"""
    return sum(input != 0, dim)


@functional
@composite(
    examples=lambda make: [
        sample(make(3, 4), 1), sample(make(3, 4), (0, 1)), sample(make(2, 3, 4), -1, True), sample(make(3) * 500, 0),
    ],
    aliases=("special.logsumexp",),
)  # fmt: skip
@axis_names
def logsumexp(input, dim, keepdim: bool = False):
    """ln Σ eˣ over `dim`, without overflow"""
    if not dt.is_inexact(input.dtype):
        input = cast(input, dt.default_float)
    dims = normalize_dims(all_if_empty(dim), input.ndim)
    if is_half(input) and dims:
        return cast(logsumexp(cast(input, dt.float32), dims, keepdim), input.dtype)
    if _count(input.shape, dims) == 0:
        return log(sum_p(exp(input), dims=dims, keepdim=keepdim))
    if dims == (input.ndim - 1,) and input.dtype.kind != "c":
        out = _logsumexp(input)
        return unsqueeze(out, -1) if keepdim else out
    return _logsumexp_over(input, dims, keepdim)


@fused
def _logsumexp(input):
    return _logsumexp_over(input, (input.ndim - 1,), False)


def _logsumexp_over(input, dims, keepdim):
    level = input.detach()
    largest = _amax(real_p(level) if level.dtype.kind == "c" else level, dims=dims, keepdim=True)
    limit = dt.largest(largest.dtype)
    largest = clamp(largest, -limit, limit)  # ∞ - ∞ is NaN; ∞ minus the largest finite number is ∞
    out = log(sum_p(exp(input - largest), dims=dims, keepdim=True)) + largest
    if keepdim:
        return out
    return reshape_p(out, shape=tuple(n for i, n in enumerate(input.shape) if i not in dims))
