"""Trigonometric and hyperbolic functions, and their inverses."""

from __future__ import annotations

from deepcore.ops.arithmetic import neg, rsqrt
from deepcore.ops.comparison import where
from deepcore.ops.registry import binary_samples, elementwise, functional, fused, unary_samples


@elementwise("float", vjp=lambda g, input: g * cos(input), complex="analytic")
def sin(xp, input):
    """sine, in radians"""
    return xp.sin(input)


@elementwise("float", vjp=lambda g, input: neg(g * sin(input)), complex="analytic")
def cos(xp, input):
    """cosine, in radians"""
    return xp.cos(input)


@elementwise("float", vjp=lambda g, out: g * (out * out + 1.0), examples=unary_samples(-1.2, 1.2), complex="analytic")
def tan(xp, input):
    """tangent, in radians"""
    return xp.tan(input)


@elementwise(
    "float",
    vjp=lambda g, input: g * rsqrt(1.0 - input * input),
    examples=unary_samples(-0.8, 0.8),
    aliases=("arcsin",),
    complex="analytic",
)
def asin(xp, input):
    """inverse sine, in radians"""
    return xp.arcsin(input)


@elementwise(
    "float",
    vjp=lambda g, input: neg(g * rsqrt(1.0 - input * input)),
    examples=unary_samples(-0.8, 0.8),
    aliases=("arccos",),
    complex="analytic",
)
def acos(xp, input):
    """inverse cosine, in radians"""
    return xp.arccos(input)


@elementwise("float", vjp=lambda g, input: g / (input * input + 1.0), aliases=("arctan",), complex="analytic")
def atan(xp, input):
    """inverse tangent, in radians"""
    return xp.arctan(input)


def _atan2_factor(g, input, other):
    square_sum = input * input + other * other
    origin = square_sum == 0
    return where(origin, 0.0, g / where(origin, 1.0, square_sum))


@elementwise(
    "float",
    vjp=(
        lambda g, input, other: _atan2_factor(g, input, other) * other,
        lambda g, input, other: neg(_atan2_factor(g, input, other) * input),
    ),
    examples=binary_samples(0.3, 2.0, 0.3, 2.0),
    aliases=("arctan2",),
)
def atan2(xp, input, other):
    """the angle of the point (other, input), in radians"""
    return xp.arctan2(input, other)


@elementwise("float", vjp=lambda g, input: g * cosh(input), complex="analytic")
def sinh(xp, input):
    """hyperbolic sine"""
    return xp.sinh(input)


@elementwise("float", vjp=lambda g, input: g * sinh(input), complex="analytic")
def cosh(xp, input):
    """hyperbolic cosine"""
    return xp.cosh(input)


@functional
@elementwise("float", vjp=lambda g, out: tanh_grad(g, out), complex="analytic")
def tanh(xp, input):
    """hyperbolic tangent"""
    return xp.tanh(input)


@fused
def tanh_grad(g, out):
    return g * (1.0 - out * out)


@elementwise("float", vjp=lambda g, input: g * rsqrt(input * input + 1.0), aliases=("arcsinh",), complex="analytic")
def asinh(xp, input):
    """inverse hyperbolic sine"""
    return xp.arcsinh(input)


@elementwise(
    "float",
    vjp=lambda g, input: g * rsqrt((input - 1.0) * (input + 1.0)),
    examples=unary_samples(1.3, 3),
    aliases=("arccosh",),
    complex="analytic",
)
def acosh(xp, input):
    """inverse hyperbolic cosine"""
    return xp.arccosh(input)


@elementwise(
    "float",
    vjp=lambda g, input: g / (1.0 - input * input),
    examples=unary_samples(-0.8, 0.8),
    aliases=("arctanh",),
    complex="analytic",
)
def atanh(xp, input):
    """inverse hyperbolic tangent"""
    return xp.arctanh(input)
