"""The terms of elementwise losses, each one op forward and one backward; `nn.functional` adds them up."""

from __future__ import annotations

import functools
import math

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.ops.elementwise import abs as abs_
from deepcore.ops.elementwise import clamp, log, log1p, neg, sigmoid, sign, where
from deepcore.ops.registry import Tensor, fused, primitive, promote

_LEAST_LOG = -100.0


def term(op, rule: str, input, target, **params) -> Tensor:
    """The terms of `op`, elementwise, of operands in one dtype by `rule`."""
    same = isinstance(input, Tensor) and isinstance(target, Tensor) and input._data.dtype is target._data.dtype
    if not same or (rule == "float" and not dt.is_floating(input._data.dtype)):
        input, target = promote(op.name, rule, input, target)
    return apply(op, (input, target), params)


def _in_float32(forward):
    """A forward that computes 16-bit floats in float32, and rounds once."""

    @functools.wraps(forward)
    def wide(xp, input, target, **params):
        if input.dtype.itemsize > 2 or not dt.is_floating(input.dtype):
            return forward(xp, input, target, **params)
        return forward(xp, input.astype(dt.float32), target.astype(dt.float32), **params).astype(input.dtype)

    return wide


@primitive(
    vjp=(lambda g, input, target: mse_grad(g, input, target), lambda g, input, target: neg(mse_grad(g, input, target)))
)
@_in_float32
def mse(xp, input, target):
    """(input - target)²"""
    d = xp.subtract(input, target)
    return d * d


@fused
def mse_grad(g, input, target):
    return g * ((input - target) * 2.0)


@primitive(
    vjp=(lambda g, input, target: l1_grad(g, input, target), lambda g, input, target: neg(l1_grad(g, input, target)))
)
@_in_float32
def l1(xp, input, target):
    """|input - target|"""
    return xp.absolute(xp.subtract(input, target))


@fused
def l1_grad(g, input, target):
    return g * sign(input - target)


@primitive(
    vjp=(
        lambda g, input, target, beta: smooth_l1_grad(g, input, target, beta=beta),
        lambda g, input, target, beta: neg(smooth_l1_grad(g, input, target, beta=beta)),
    )
)
@_in_float32
def smooth_l1(xp, input, target, *, beta):
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere"""
    d = xp.absolute(xp.subtract(input, target))
    return xp.where(d < beta, d * d * (0.5 / beta), d - 0.5 * beta)


@fused
def smooth_l1_grad(g, input, target, *, beta):
    d = input - target
    return g * where(abs_(d) < beta, d * (1.0 / beta), sign(d))


@primitive(
    vjp=(
        lambda g, input, target, delta: huber_grad(g, input, target, delta=delta),
        lambda g, input, target, delta: neg(huber_grad(g, input, target, delta=delta)),
    )
)
@_in_float32
def huber(xp, input, target, *, delta):
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere"""
    d = xp.absolute(xp.subtract(input, target))
    return xp.where(d <= delta, d * d * 0.5, (d - 0.5 * delta) * delta)


@fused
def huber_grad(g, input, target, *, delta):
    d = input - target
    return g * where(abs_(d) <= delta, d, sign(d) * delta)


@primitive(vjp=(lambda g, input, target: bce_grad(g, input, target), lambda g, input: g * _bce_slope(input)))
@_in_float32
def bce(xp, input, target):
    """-[y·log x + (1 - y)·log(1 - x)], the logarithms held at -100 or above"""
    rising = xp.maximum(xp.log(input), _LEAST_LOG)
    falling = xp.maximum(xp.log1p(xp.negative(input)), _LEAST_LOG)
    return xp.negative(target * rising + (1 - target) * falling)


@fused
def bce_grad(g, input, target):
    inside = (input > math.exp(_LEAST_LOG)) & (input < 1)
    x = where(inside, input, 0.5)  # elsewhere one of the logarithms is held, and gives nothing
    return g * where(inside, (x - target) / (x * (1.0 - x)), where(input < 1, 1.0 - target, neg(target)))


def _bce_slope(input):
    """The derivative of bce with respect to its target."""
    # log's slope at 0 would turn a zero gradient into NaN, so 0 is taken out first.
    positive, below = input > 0, input < 1
    rising = clamp(where(positive, log(where(positive, input, 1.0)), _LEAST_LOG), min=_LEAST_LOG)
    falling = clamp(where(below, log1p(neg(where(below, input, 0.0))), _LEAST_LOG), min=_LEAST_LOG)
    return falling - rising


@primitive(vjp=(lambda g, input, target: bce_with_logits_grad(g, input, target), lambda g, input: neg(g * input)))
@_in_float32
def bce_with_logits(xp, input, target):
    """-[y·log σ(x) + (1 - y)·log(1 - σ(x))]"""
    return xp.maximum(input, 0) - input * target + xp.log1p(xp.exp(xp.negative(xp.absolute(input))))


@fused
def bce_with_logits_grad(g, input, target):
    return g * (sigmoid(input) - target)
