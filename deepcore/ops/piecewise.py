"""Piecewise linear activations: each is one op forward and one backward."""

from __future__ import annotations

from deepcore.autograd import apply, constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.common import flat_in, float_op, in_float32
from deepcore.ops.comparison import clamp, where
from deepcore.ops.registry import composite, functional, fused, primitive, promote, sample, unary_samples
from deepcore.ops.shape import reshape_p


def _integers(name: str, input) -> bool:
    """Whether `input` holds integers; bools are refused."""
    if input.dtype == dt.bool_:
        raise DTypeError(f"{name} is not defined for bool tensors", fix="convert with .float()")
    return not dt.is_floating(input.dtype)


@primitive(vjp=lambda g, input, low, high: hardtanh_grad(g, input, low=low, high=high), batch="elementwise")
@in_float32
def _hardtanh(xp, input, *, low, high):
    return xp.minimum(xp.maximum(input, xp.constant(low, input.dtype)), xp.constant(high, input.dtype))


@fused
def hardtanh_grad(g, input, *, low, high):
    return flat_in(where((input > low) & (input < high), g, 0.0), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), -0.5, 0.3)])
def hardtanh(input, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
    """min(max(x, min_val), max_val); the slope is 1 strictly inside, and 0 elsewhere. `inplace` changes nothing."""
    input = constant("hardtanh", input)
    if not min_val <= max_val:
        raise ArgumentError("hardtanh: min_val is above max_val", received=f"min_val={min_val}, max_val={max_val}")
    if _integers("hardtanh", input):
        return clamp(input, int(min_val), int(max_val))
    return float_op(_hardtanh, input, low=min_val, high=max_val)


@functional
@composite(examples=unary_samples(-4.0, 8.0))
def relu6(input, inplace: bool = False):
    """min(max(x, 0), 6) (Krizhevsky 2010). `inplace` changes nothing."""
    return hardtanh(input, 0.0, 6.0)


@primitive(vjp=lambda g, input: hardsigmoid_grad(g, input), batch="elementwise")
@in_float32
def _hardsigmoid(xp, input):
    return xp.minimum(xp.maximum(input + 3, 0), 6) / 6


@fused
def hardsigmoid_grad(g, input):
    return flat_in(where((input > -3) & (input < 3), g * (1 / 6), 0.0), input)


@functional
@composite(examples=unary_samples(-4.0, 4.0))
def hardsigmoid(input, inplace: bool = False):
    """min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""
    return float_op(_hardsigmoid, input)


@primitive(vjp=lambda g, input: hardswish_grad(g, input), batch="elementwise")
@in_float32
def _hardswish(xp, input):
    input = xp.maximum(input, -3)
    return input * xp.minimum(input + 3, 6) / 6


@fused
def hardswish_grad(g, input):
    inner = where(input < 3, g * (input * (1 / 3) + 0.5), g)
    return where(input <= -3, 0.0, inner)


@functional
@composite(examples=unary_samples(-4.0, 4.0))
def hardswish(input, inplace: bool = False):
    """x · min(max(x + 3, 0), 6) / 6 (Howard et al. 2019). `inplace` changes nothing."""
    return float_op(_hardswish, input)


def _positive_part(name: str, lambd) -> None:
    if not lambd >= 0:
        raise ArgumentError(f"{name}: lambd is at least 0", received=f"lambd={lambd!r}")


@primitive(vjp=lambda g, input, lambd: hardshrink_grad(g, input, lambd=lambd), batch="elementwise")
@in_float32
def _softshrink(xp, input, *, lambd):
    number = xp.constant(lambd, input.dtype)
    return xp.where(input > number, input - number, xp.where(input < -number, input + number, input * 0))


@fused
def hardshrink_grad(g, input, *, lambd):
    return flat_in(where(abs_(input) > lambd, g, 0.0), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 1.2)])
def softshrink(input, lambd: float = 0.5):
    """x - lambd for x > lambd, x + lambd for x < -lambd, 0 between; `lambd` ≥ 0"""
    _positive_part("softshrink", lambd)
    return float_op(_softshrink, input, lambd=lambd)


@primitive(vjp=lambda g, input, lambd: hardshrink_grad(g, input, lambd=lambd), batch="elementwise")
@in_float32
def _hardshrink(xp, input, *, lambd):
    return xp.where(xp.absolute(input) <= xp.constant(lambd, input.dtype), xp.zeros((), dtype=input.dtype), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 1.2)])
def hardshrink(input, lambd: float = 0.5):
    """x where |x| > lambd, 0 elsewhere"""
    return float_op(_hardshrink, input, lambd=lambd)


@primitive(vjp=lambda g, input, threshold: threshold_grad(g, input, threshold=threshold), batch="elementwise")
@in_float32
def _threshold(xp, input, *, threshold, value):
    below = input <= xp.constant(threshold, input.dtype)
    return xp.where(below, xp.constant(value, input.dtype), input)


@fused
def threshold_grad(g, input, *, threshold):
    return flat_in(where(input <= threshold, 0.0, g), input)


@functional
@composite(examples=lambda make: [sample(make(3, 4), 0.1, -3.0), sample(make(5), -0.4, 2.0)])
def threshold(input, threshold: float, value: float, inplace: bool = False):
    """x where x > threshold, value elsewhere. `inplace` changes nothing."""
    input = constant("threshold", input)
    if _integers("threshold", input):
        return where(input > int(threshold), input, int(value))
    return float_op(_threshold, input, threshold=threshold, value=value)


@primitive(
    vjp=(
        lambda g, input, weight: prelu_grad(g, input, weight),
        lambda g, input: where(input > 0, 0.0, g * input),
    ),
    batch="elementwise",
)
def _prelu(xp, input, weight):
    if input.dtype.itemsize == 2:
        wide = input.astype(dt.float32)
        return xp.where(wide > 0, wide, wide * weight.astype(dt.float32)).astype(input.dtype)
    return xp.where(input > 0, input, input * weight)


@fused
def prelu_grad(g, input, weight):
    return flat_in(where(input > 0, g, g * weight), input)


@functional
@composite(
    examples=lambda make: [
        sample(make(3, 4), make(1)),
        sample(make(2, 3, 4), make(3)),
        sample(make(5), make()),
        sample(make(5), make(1)),
    ]
)
def prelu(input, weight):
    """max(0, x) + weight · min(0, x); input (N, C, *), weight of one number or C of them (He et al. 2015)"""
    input, weight = constant("prelu", input), constant("prelu", weight)
    count, channels = weight.numel(), input.shape[1] if input.ndim > 1 else 1
    if weight.ndim > 1 or (count != 1 and count != channels):
        raise ShapeError(
            "prelu: weight has one number, or one per channel",
            expected=f"shape (1,) or ({channels},) for input {input.shape}",
            received=f"shape {weight.shape}",
        )
    if input.dtype != weight.dtype or not dt.is_floating(input.dtype):
        if not dt.is_floating(input.dtype) or not dt.is_floating(weight.dtype):
            raise DTypeError("prelu takes floats", received=f"{dt.name_of(input.dtype)} and {dt.name_of(weight.dtype)}")
        input, weight = promote("prelu", "float", input, weight)
    if input.ndim > 1:
        weight = reshape_p(weight, shape=(1, count, *(1,) * (input.ndim - 2)))
    elif input.ndim == 0:
        weight = reshape_p(weight, shape=())
    return apply(_prelu, (input, weight))
