"""Rounding."""

from __future__ import annotations

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError
from deepcore.ops.common import zeros
from deepcore.ops.registry import composite, elementwise, primitive, sample, unary_samples


def _round_floats(xp, function, input):
    return function(input) if dt.is_floating(input.dtype) else input.copy()


@elementwise("numeric", vjp=lambda g: zeros(g), examples=unary_samples(0.1, 0.9))
def floor(xp, input):
    """the largest whole number ≤ input"""
    return _round_floats(xp, xp.floor, input)


@elementwise("numeric", vjp=lambda g: zeros(g), examples=unary_samples(0.1, 0.9))
def ceil(xp, input):
    """the smallest whole number ≥ input"""
    return _round_floats(xp, xp.ceil, input)


@elementwise("numeric", vjp=lambda g: zeros(g), examples=unary_samples(0.1, 0.9), aliases=("fix",))
def trunc(xp, input):
    """input without its fraction"""
    return _round_floats(xp, xp.trunc, input)


@primitive(vjp=lambda g: zeros(g), batch="elementwise")
def _round(xp, input, *, decimals):
    if decimals < 0 and dt.is_integer(input.dtype):
        return _round_integers(xp, input, 10**-decimals)
    return _round_floats(xp, lambda x: xp.round(x, decimals), input)


def _round_integers(xp, input, unit: int):
    """The nearest multiple of `unit`, halves to the even one, without leaving the integers."""
    if not dt.fits(unit, input.dtype):
        raise ArgumentError(
            f"{dt.name_of(input.dtype)} has no multiples of {unit} but 0", fix="round floating numbers: x.double()"
        )
    multiple = xp.floor_divide(input, unit)
    least, most = dt.span(input.dtype)
    multiple = xp.maximum(multiple, -(-(least + 1) // unit))
    remainder = input - multiple * unit
    up = (remainder >= 0) & ((remainder > unit - remainder) | ((remainder == unit - remainder) & (multiple % 2 == 1)))
    up &= multiple < (most - 1) // unit  # the next multiple may be out of range
    return (multiple + up.astype(input.dtype)) * unit


@composite(
    inplace=True,
    aliases=("special.round",),
    examples=lambda make: [sample(make(3, 4, low=0.1, high=0.4)), sample(make(3, low=0.11, high=0.14), decimals=1)],
)
def round(input, *, decimals: int = 0):
    """the nearest multiple of 10 ^ −decimals, halves to the even one"""
    return _round(input, decimals=decimals)


@composite(inplace=True, examples=unary_samples(0.1, 0.9))
def frac(input):
    """input − trunc(input)"""
    return input - trunc(input)
