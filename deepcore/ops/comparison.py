"""Comparisons, logical and bitwise ops, and selection: `where`, `maximum`, `minimum`, `clamp`."""

from __future__ import annotations

import math

from deepcore.autograd import apply, constant, mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.common import flat_in
from deepcore.ops.registry import Tensor, as_number, cast, composite, elementwise, primitive, promote, sample


def _tie(g, input, other, loses):
    slope = where(input == other, g * 0.5, where(loses, 0.0, g))
    return flat_in(flat_in(slope, input), other)


@elementwise(
    "numeric",
    vjp=(
        lambda g, input, other: _tie(g, input, other, input < other),
        lambda g, input, other: _tie(g, input, other, other < input),
    ),
)
def maximum(xp, input, other):
    """the larger, NaN where either is; equal values share the gradient"""
    return xp.maximum(input, other)


@elementwise(
    "numeric",
    vjp=(
        lambda g, input, other: _tie(g, input, other, input > other),
        lambda g, input, other: _tie(g, input, other, other > input),
    ),
)
def minimum(xp, input, other):
    """the smaller, NaN where either is; equal values share the gradient"""
    return xp.minimum(input, other)


@primitive(
    vjp=(
        None,
        lambda g, condition: where(condition, g, 0.0),
        lambda g, condition: where(condition, 0.0, g),
    ),
    complex=True,
    batch="elementwise",
    jvp="linear",
)
def _where(xp, condition, input, other):
    return xp.where(condition, input, other)


@composite(
    examples=lambda make: [
        sample(make.bool(3, 4), make(3, 4), make(3, 4)),
        sample(make.bool(3, 1), make(4), make()),
        sample(make.bool(3), make(3), 0.0),
        sample(make.bool(2, 3), 1.5, make(3)),
    ],
    method=False,
)
def where(condition, input=None, other=None):
    """input where condition, other elsewhere; with the condition alone, the indices of its true elements"""
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    numbers = as_number(input) is not None and as_number(other) is not None
    input, other = promote("where", "numeric", input, other)
    (condition,) = promote("where", "logical", condition)
    if input.backend is not condition.backend and not numbers:
        raise mixed_backends("where", (condition, input, other))
    if numbers:  # two plain numbers go to the backend of the condition
        input, other = input.to(condition.backend), other.to(condition.backend)
    if condition.dtype != dt.bool_:
        condition = cast(condition, dt.bool_)
    return apply(_where, (condition, input, other))


@primitive(
    vjp=lambda g, input, low, high: flat_in(where(_within(input, low=low, high=high), g, 0.0), input),
    batch="elementwise",
)
def _clamp(xp, input, *, low, high):
    if low is not None:
        input = xp.maximum(input, xp.constant(low, input.dtype))
    return input if high is None else xp.minimum(input, xp.constant(high, input.dtype))


@primitive(batch="elementwise")
def _within(xp, input, *, low, high):
    if low is None:
        return input <= high
    return input >= low if high is None else (input >= low) & (input <= high)


@composite(
    examples=lambda make: [
        sample(make(3, 4), -0.5, 0.7),
        sample(make(5), min=0.1),
        sample(make(5), max=0.1),
        sample(make(3, 4), make(4, low=-1, high=-0.5), make(3, 1, low=0.5, high=1)),
        sample(make(3, 4), max=make(4)),
    ],
    aliases=("clip",),
    inplace=True,
)
def clamp(input, min=None, max=None):
    """min(max(input, min), max); the gradient passes where min ≤ input ≤ max"""
    if min is None and max is None:
        raise ArgumentError("clamp needs min, max or both")
    min, max = (b if b is None or as_number(b) is not None else constant("clamp", b) for b in (min, max))
    if not isinstance(min, Tensor) and not isinstance(max, Tensor):
        numbers = [b for b in (min, max) if b is not None]
        dtype = promote("clamp", "numeric", input, *numbers)[0].dtype
        input = input if input.dtype == dtype else cast(input, dtype)
        if dt.is_floating(dtype):
            min, max = -math.inf if min is None else min, math.inf if max is None else max
        return _clamp(input, low=min, high=max)
    # NaN anywhere gives NaN; a bound of NaN counts as crossed.
    below = None if min is None else (input < min) | ne(min, min)
    above = None if max is None else (input > max) | ne(max, max)
    if above is None or below is None:
        return where(below, min, input) if above is None else where(above, max, input)
    ordered = eq(input, input) & eq(min, min)
    return where((above | lt(max, min)) & ordered, max, where(below, min, input))


@elementwise("compare", complex=True)
def eq(xp, input, other):
    """input = other"""
    return xp.equal(input, other)


@elementwise("compare", aliases=("not_equal",), complex=True)
def ne(xp, input, other):
    """input ≠ other"""
    return xp.not_equal(input, other)


@elementwise("compare", aliases=("less",))
def lt(xp, input, other):
    """input < other"""
    return xp.less(input, other)


@elementwise("compare", aliases=("less_equal",))
def le(xp, input, other):
    """input ≤ other"""
    return xp.less_equal(input, other)


@elementwise("compare", aliases=("greater",))
def gt(xp, input, other):
    """input > other"""
    return xp.greater(input, other)


@elementwise("compare", aliases=("greater_equal",))
def ge(xp, input, other):
    """input ≥ other"""
    return xp.greater_equal(input, other)


def _truth(x):
    return x != 0 if x.dtype.kind == "c" else x


@elementwise("logical", complex=True)
def logical_and(xp, input, other):
    """both are non-zero"""
    return xp.logical_and(_truth(input), _truth(other))


@elementwise("logical", complex=True)
def logical_or(xp, input, other):
    """at least one is non-zero"""
    return xp.logical_or(_truth(input), _truth(other))


@elementwise("logical", complex=True)
def logical_xor(xp, input, other):
    """exactly one is non-zero"""
    return xp.logical_xor(_truth(input), _truth(other))


@elementwise("logical", complex=True)
def logical_not(xp, input):
    """input is zero"""
    return xp.logical_not(_truth(input))


def _integer_samples(make):
    return [sample(make.int(8, 3, 4), make.int(8, 4)), sample(make.bool(3), make.bool(3)), sample(make.int(8, 3), 5)]


@elementwise("integer", examples=_integer_samples)
def bitwise_and(xp, input, other):
    """the bits set in both"""
    return xp.bitwise_and(input, other)


@elementwise("integer", examples=_integer_samples)
def bitwise_or(xp, input, other):
    """the bits set in either"""
    return xp.bitwise_or(input, other)


@elementwise("integer", examples=_integer_samples)
def bitwise_xor(xp, input, other):
    """the bits set in exactly one"""
    return xp.bitwise_xor(input, other)


@elementwise("integer", examples=lambda make: [sample(make.int(8, 3, 4)), sample(make.bool(3))])
def bitwise_not(xp, input):
    """every bit flipped"""
    if dt.is_floating(input.dtype):
        raise DTypeError("bitwise_not takes integers and booleans", received=dt.name_of(input.dtype))
    return xp.invert(input)


@elementwise("logical", complex=True)
def isnan(xp, input):
    """input is NaN"""
    return xp.isnan(input)


@elementwise("logical", complex=True)
def isinf(xp, input):
    """input is infinite"""
    return xp.isinf(input)


@elementwise("logical", complex=True)
def isfinite(xp, input):
    """input is neither NaN nor infinite"""
    return xp.isfinite(input)
