"""Softmax and its logarithm."""

from __future__ import annotations

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.ops.arithmetic import neg, weigh
from deepcore.ops.exponential import exp
from deepcore.ops.reduction import as_dtype, sum_p
from deepcore.ops.registry import axis_names, cast, composite, functional, fused, is_half, primitive, sample
from deepcore.ops.shape import normalize_dim, reshape_p


@fused
def softmax_grad(g, out, *, dim):
    """The gradient of the input of softmax; `g` is that of its output."""
    return out * (g - sum_p(g * out, dims=(dim,), keepdim=True))


@fused
def log_softmax_grad(g, out, *, dim):
    """The gradient of the input of log_softmax."""
    return g - weigh(sum_p(g, dims=(dim,), keepdim=True), exp(out))


@primitive(vjp=lambda g, out, dim: softmax_grad(g, out, dim=dim), batch="dim")
def _softmax(xp, input, *, dim):
    shifted = xp.exp(input - xp.amax(input, axis=dim, keepdims=True))
    return shifted / xp.sum(shifted, (dim,), True)


@primitive(vjp=lambda g, out, dim: log_softmax_grad(g, out, dim=dim), batch="dim")
def _log_softmax(xp, input, *, dim):
    shifted = input - xp.amax(input, axis=dim, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), (dim,), True))


def _along(op, input, dim, dtype):
    array = input._data
    if dtype is None and array.dtype.kind == "f" and array.itemsize > 2 and array.ndim and array.size:
        return apply(op, (input,), {"dim": normalize_dim(dim, array.ndim)})
    input = as_dtype(input, dtype)
    if not dt.is_floating(input.dtype):
        input = cast(input, dt.default_float)
    d = normalize_dim(dim, input.ndim)
    if not input.ndim:
        return reshape_p(op(reshape_p(input, shape=(1,)), dim=0), shape=())
    if not input.numel():
        return input.clone()
    return cast(op(cast(input, dt.float32), dim=d), input.dtype) if is_half(input) else op(input, dim=d)


@functional
@composite(
    examples=lambda make: [sample(make(3, 4), 1), sample(make(2, 3, 4), 0), sample(make(), 0)],
    aliases=("special.softmax",),
)
@axis_names
def softmax(input, dim: int, dtype=None):
    """eˣ / Σ eˣ along `dim`, without overflow"""
    return _along(_softmax, input, dim, dtype)


@functional
@composite(
    examples=lambda make: [sample(make(3, 4), 1), sample(make(2, 3, 4), 0), sample(make(), 0)],
    aliases=("special.log_softmax",),
)
@axis_names
def log_softmax(input, dim: int, dtype=None):
    """x − ln Σ eˣ along `dim`, without overflow"""
    return _along(_log_softmax, input, dim, dtype)


@functional
@composite(examples=lambda make: [sample(make(3, 4), 1), sample(make(2, 3, 4), 0)])
@axis_names
def softmin(input, dim: int, dtype=None):
    """e⁻ˣ / Σ e⁻ˣ along `dim`, without overflow"""
    return softmax(neg(input), dim, dtype)
