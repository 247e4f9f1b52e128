"""Exponentials and logarithms."""

from __future__ import annotations

import math

from deepcore.ops.registry import elementwise, unary_samples


@elementwise("float", vjp=lambda g, out: g * out, complex="analytic")
def exp(xp, input):
    """e ^ input"""
    return xp.exp(input)


@elementwise("float", vjp=lambda g, out: g * (out * math.log(2)), aliases=("special.exp2",), complex="analytic")
def exp2(xp, input):
    """2 ^ input"""
    return xp.exp2(input)


@elementwise("float", vjp=lambda g, out: g * (out + 1.0), aliases=("special.expm1",), complex="analytic")
def expm1(xp, input):
    """e ^ input − 1, exact near 0"""
    return xp.expm1(input)


@elementwise("float", vjp=lambda g, input: g / input, examples=unary_samples(0.2, 3), complex="analytic")
def log(xp, input):
    """ln input"""
    return xp.log(input)


@elementwise(
    "float", vjp=lambda g, input: g / (input * math.log(2)), examples=unary_samples(0.2, 3), complex="analytic"
)
def log2(xp, input):
    """log₂ input"""
    return xp.log2(input)


@elementwise(
    "float", vjp=lambda g, input: g / (input * math.log(10)), examples=unary_samples(0.2, 3), complex="analytic"
)
def log10(xp, input):
    """log₁₀ input"""
    return xp.log10(input)


@elementwise(
    "float",
    vjp=lambda g, input: g / (input + 1.0),
    examples=unary_samples(-0.7, 3),
    aliases=("special.log1p",),
    complex="analytic",
)
def log1p(xp, input):
    """ln(1 + input), exact near 0"""
    return xp.log1p(input)


@elementwise(
    "float",
    vjp=(
        lambda g, input, other: g / (exp(other - input) + 1.0),
        lambda g, input, other: g / (exp(input - other) + 1.0),
    ),
    complex="analytic",
)
def logaddexp(xp, input, other):
    """ln(eˣ + eʸ), without overflow"""
    if input.dtype.kind == "c":
        first = input.real >= other.real
        high, low = xp.where(first, input, other), xp.where(first, other, input)
        return high + xp.log1p(xp.exp(low - high))
    return xp.logaddexp(input, other)
