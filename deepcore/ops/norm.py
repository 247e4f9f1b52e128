"""Layer, RMS and batch norm, each with the gradients of all its inputs; batch statistics."""

from __future__ import annotations

import math

from deepcore.autograd import apply
from deepcore.ops.arithmetic import rsqrt, square
from deepcore.ops.reduction import mean
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import fused, primitive, saved_array
from deepcore.ops.shape import stack
from deepcore.tensor import Tensor


def _dims_behind(t: Tensor, rank: int) -> tuple[int, ...]:
    return tuple(range(t.ndim - rank, t.ndim))


def _centred(input: Tensor, dims) -> tuple[Tensor, Tensor]:
    """(x - E[x], its mean square) over `dims`."""
    centred = input - mean(input, dims, keepdim=True)
    return centred, mean(square(centred), dims, keepdim=True)


def _norm_grads(g, centred, rstd, weight, dims, over, affine: int, has_mean: bool = True):
    """Gradients of (x - mean)·rstd·weight + bias, statistics included: of x, of weight, of bias.

    The statistics run over `dims`, the gradients of weight and bias over `over`, dropping those dimensions.
    """
    xhat = centred * rstd
    scaled = g if weight is None else g * weight
    inner = scaled - xhat * mean(scaled * xhat, dims, keepdim=True)
    if has_mean:
        inner = inner - mean(scaled, dims, keepdim=True)
    affine_grads = (g * xhat, g)[:affine]
    return inner * rstd, *(sum_(grad, over) if over else grad for grad in affine_grads)  # sum over () is over all


@fused
def layer_norm_grad(g, input, statistics, weight=None, *, rank, eps, affine):
    """The gradients of input and of the first `affine` of weight and bias. `statistics`: rstd and mean of the rows."""
    dims = _dims_behind(input, rank)
    centred, variance = _centred(input, dims)
    return _norm_grads(g, centred, rsqrt(variance + eps), weight, dims, tuple(range(input.ndim - rank)), affine)


@fused
def rms_norm_grad(g, input, statistics, weight=None, *, rank, eps, affine):
    """The gradients of an RMS norm, as in `layer_norm_grad`."""
    dims = _dims_behind(input, rank)
    rstd = rsqrt(mean(square(input), dims, keepdim=True) + eps)
    return _norm_grads(g, input, rstd, weight, dims, tuple(range(input.ndim - rank)), affine, has_mean=False)


def _layer_norm_joint(g, input, weight, bias, aux, rank, eps, needs):
    statistics = saved_array(aux[0], g.backend)
    grads = layer_norm_grad(g, input, statistics, weight, rank=rank, eps=eps, affine=len(needs) - 1)
    return (*grads, None, None)


def _norm_batch(op, inputs, mapped, params, size):
    input, *affine = inputs
    if not mapped[0]:
        input = input.unsqueeze(0).expand((size, *input.shape))
    outside = any(mapped[1:])
    result = apply(op, (input,) if outside else (input, *affine), params)
    out, *statistics = result if isinstance(result, tuple) else (result,)
    for k, (t, m) in enumerate(zip(affine, mapped[1:]) if outside else ()):
        t = t.reshape(size, *(1,) * (input.ndim - 1 - params["rank"]), *t.shape[1:]) if m else t
        out = out + t if k else out * t
    if not isinstance(result, tuple):
        return out
    rows = math.prod(input.shape[1 : input.ndim - params["rank"]])
    return out, *(t.reshape(t.shape[0], size, rows).movedim(1, 0) for t in statistics)


@primitive(joint=_layer_norm_joint, batch=_norm_batch)
def layer_norm_p(xp, input, weight=None, bias=None, *, rank, eps):
    dims = tuple(range(input.ndim - rank, input.ndim))
    count = math.prod(input.shape[-rank:])
    average = xp.sum(input, dims, True) / count
    centred = input - average
    rstd = 1 / xp.sqrt(xp.sum(centred * centred, dims, True) / count + eps)
    out = centred * rstd
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias, xp.stack([rstd.reshape(-1), average.reshape(-1)])


def _rms_norm_joint(g, input, weight, aux, rank, eps, needs):
    statistics = saved_array(aux[0], g.backend)
    grads = rms_norm_grad(g, input, statistics, weight, rank=rank, eps=eps, affine=len(needs) - 1)
    return (*grads, None)


@primitive(joint=_rms_norm_joint, batch=_norm_batch)
def rms_norm_p(xp, input, weight=None, *, rank, eps):
    dims = tuple(range(input.ndim - rank, input.ndim))
    rstd = 1 / xp.sqrt(xp.sum(input * input, dims, True) / math.prod(input.shape[-rank:]) + eps)
    out = input * rstd
    return out if weight is None else out * weight, rstd.reshape(1, -1)


def _channels(t: Tensor, row: Tensor) -> Tensor:
    """`row`, an element per channel, reshaped to broadcast along dimension 1 of t."""
    return row.reshape((-1,) + (1,) * (t.ndim - 2))


def _dims_but_channels(t) -> tuple[int, ...]:
    return (0, *range(2, t.ndim))


@fused
def batch_statistics(input, *, eps):
    """Three rows, an element per channel: mean, variance (divisor n) and 1/√(variance + eps)."""
    dims = _dims_but_channels(input)
    average = mean(input, dims, keepdim=True)
    variance = mean(square(input - average), dims)
    return stack([average.reshape(-1), variance, rsqrt(variance + eps)])


@fused
def batch_norm_grad(g, input, statistics, weight=None, *, batch, affine, eps):
    """The gradients of input and of the first `affine` of weight and bias; `batch`: the statistics are of this batch."""
    dims = _dims_but_channels(input)
    if weight is not None:
        weight = _channels(input, weight)
    if batch:
        centred, variance = _centred(input, dims)
        return _norm_grads(g, centred, rsqrt(variance + eps), weight, dims, dims, affine)
    rstd = _channels(input, statistics[2])
    xhat = (input - _channels(input, statistics[0])) * rstd
    scaled = g if weight is None else g * weight
    return scaled * rstd, *((sum_(g * xhat, dims), sum_(g, dims))[:affine])


def _batch_norm_joint(g, input, statistics, weight, bias, batch, eps, needs):
    grads = batch_norm_grad(g, input, statistics, weight, batch=batch, affine=len(needs) - 2, eps=eps)
    return grads[0], None, *grads[1:]


@primitive(joint=_batch_norm_joint)
def batch_norm_p(xp, input, statistics, weight=None, bias=None, *, batch, eps):
    along = (-1,) + (1,) * (input.ndim - 2)
    scale = statistics[2] if weight is None else statistics[2] * weight
    out = (input - statistics[0].reshape(along)) * scale.reshape(along)
    return out if bias is None else out + bias.reshape(along)


@primitive(vjp=(None, None))
def running_average(xp, running, batch, *, keep, take):
    """keep · running + take · batch"""
    return running * keep + (batch * take).astype(running.dtype, copy=False)


@primitive(vjp=(None, None))
def running_statistics(xp, mean, variance, *, dtype, eps):
    """Mean, variance and 1/√(variance + eps) as three rows."""
    return xp.stack([mean, variance, 1 / xp.sqrt(variance + eps)]).astype(dtype, copy=False)
