"""Further elementwise functions: of several operands, of signs and bits, of whole numbers; comparisons with a tolerance."""

from __future__ import annotations

import math
from collections import namedtuple

from deepcore.autograd import apply
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import check_factor, mul, pow, true_divide
from deepcore.ops.common import no_bool, zeros
from deepcore.ops.comparison import clamp, isfinite, isnan, where
from deepcore.ops.exponential import exp2
from deepcore.ops.parts import view_as_complex_p, view_as_real_p
from deepcore.ops.registry import (
    Tensor,
    as_number,
    as_tensor,
    binary_samples,
    cast,
    composite,
    elementwise,
    is_half,
    primitive,
    promote,
    sample,
    takes_arrays,
)

Frexp = namedtuple("Frexp", "mantissa exponent")


def _floats_only(name: str):
    def check(input, other) -> None:
        for x in (input, other):
            if isinstance(x, Tensor) and not dt.is_floating(x.dtype):
                raise DTypeError(f"{name} takes floating tensors", received=dt.name_of(x.dtype), fix="t.float()")

    return check


# -- of two operands --------------------------------------------------------------------------------------------------


@elementwise(
    "numeric",
    vjp=(lambda g, input, out: g * (input / out), lambda g, other, out: g * (other / out)),
    examples=binary_samples(0.3, 2.0),
    check=_floats_only("hypot"),
)
def hypot(xp, input, other):
    """√(input² + other²), without overflow"""
    return xp.hypot(input, other)


@elementwise(
    "float",
    vjp=(
        lambda g, input, other: g / (exp2(other - input) + 1.0),
        lambda g, input, other: g / (exp2(input - other) + 1.0),
    ),
    check=_floats_only("logaddexp2"),
)
def logaddexp2(xp, input, other):
    """log₂(2ˣ + 2ʸ), without overflow"""
    return xp.logaddexp2(input, other)


def _first_wins(input, other, larger: bool):
    return (input >= other if larger else input <= other) | isnan(other)


@elementwise(
    "numeric",
    vjp=(
        lambda g, input, other: where(_first_wins(input, other, True), g, 0.0),
        lambda g, input, other: where(_first_wins(input, other, True), 0.0, g),
    ),
)
def fmax(xp, input, other):
    """the larger, of a number and NaN the number"""
    return xp.fmax(input, other)


@elementwise(
    "numeric",
    vjp=(
        lambda g, input, other: where(_first_wins(input, other, False), g, 0.0),
        lambda g, input, other: where(_first_wins(input, other, False), 0.0, g),
    ),
)
def fmin(xp, input, other):
    """the smaller, of a number and NaN the number"""
    return xp.fmin(input, other)


@elementwise(
    "float",
    vjp=(lambda g, input, out: where(input == 0, 0.0, g * (out / input)), lambda g: zeros(g)),
    examples=binary_samples(0.3, 2.0),
)
def copysign(xp, input, other):
    """|input| with the sign of other"""
    return xp.copysign(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g, input, other: where(input == other, 0.0, g), lambda g: zeros(g)),
    check=_floats_only("nextafter"),
)
def nextafter(xp, input, other):
    """the number next to input towards other"""
    return xp.nextafter(input, other)


def _one_dtype(input, other) -> None:
    if isinstance(input, Tensor) and isinstance(other, Tensor) and input.dtype != other.dtype:
        raise DTypeError(
            "heaviside takes tensors of one dtype", received=f"{dt.name_of(input.dtype)} and {dt.name_of(other.dtype)}"
        )


@elementwise("numeric", vjp=(lambda g: zeros(g), lambda g, input: where(input == 0, g, 0.0)), check=_one_dtype)
def heaviside(xp, input, other):
    """0 below 0 and for NaN, other at 0, 1 above"""
    return xp.where(input == 0, other, (input > 0).astype(input.dtype))


@composite(examples=binary_samples(0.3, 2.0, -1.5, 2.0), inplace=True)
def float_power(input, exponent):
    """input ^ exponent, computed in float64"""
    wide = [_in_double(x) if isinstance(x, Tensor) else x for x in map(_tensor_or_number, (input, exponent))]
    return pow(*(float(x) if isinstance(x, int) else x for x in wide))


def _in_double(x: Tensor) -> Tensor:
    return x.to(dt.complex128 if x.dtype.kind == "c" else dt.float64)


def _tensor_or_number(x):
    return x if isinstance(x, Tensor) or as_number(x) is None else as_number(x)


@composite(
    examples=lambda make: [sample(make(3, 4), make.int(5, 3, 4)), sample(make(3), make.int(4, 2, 1))], inplace=True
)
@takes_arrays
def ldexp(input, other):
    """input · 2 ^ other"""
    return mul(input, pow(2.0, other) if dt.is_floating(other.dtype) else exp2(other))


@primitive(vjp=lambda g, input: g / exp2(cast(_exponent(input.detach()), g.dtype)), batch="elementwise")
def _mantissa(xp, input):
    return xp.frexp(input)[0]


@primitive(batch="elementwise")
def _exponent(xp, input):
    return xp.frexp(input)[1].astype(dt.int32)


@composite(examples=lambda make: [sample(make(3, 4)), sample(make())])
@takes_arrays
def frexp(input):
    """(mantissa, exponent): input = mantissa · 2 ^ exponent with ½ ≤ |mantissa| < 1; the exponent is int32"""
    if not dt.is_floating(input.dtype):
        raise DTypeError("frexp takes floating tensors", received=dt.name_of(input.dtype), fix="t.float()")
    return Frexp(_mantissa(input), _exponent(input.detach()))


# -- of three operands --------------------------------------------------------------------------------------------------


@primitive(
    vjp=(lambda g, weight: g * (1.0 - weight), lambda g, weight: g * weight, lambda g, input, end: g * (end - input)),
    complex="analytic",
    batch="elementwise",
)
def _lerp(xp, input, end, weight):
    dtype = input.dtype
    if dtype.itemsize == 2:
        input, end, weight = (x.astype(dt.float32) for x in (input, end, weight))
    difference = end - input
    near = input + weight * difference
    far = end - difference * (xp.ones((), dtype=weight.dtype) - weight)
    return xp.where(xp.absolute(weight) < 0.5, near, far).astype(dtype)


@composite(
    examples=lambda make: [
        sample(make(3, 4), make(3, 4), 0.3), sample(make(3, 4), make(4), 0.8), sample(make(3, 1), make(4), make(3, 4, low=0, high=1)),
    ],
    inplace=True,
)  # fmt: skip
@takes_arrays
def lerp(input, end, weight):
    """input + weight · (end − input); `weight` is a number or a tensor"""
    if not input.is_complex():
        _floats_only("lerp")(input, end)
    operands = (input, end, weight) if isinstance(weight, Tensor) else (input, end)
    if len({x.dtype for x in operands}) > 1:
        raise DTypeError(
            "lerp takes tensors of one dtype", received=" and ".join(dt.name_of(x.dtype) for x in operands)
        )
    if not isinstance(weight, Tensor):
        weight = Tensor(
            input.backend.constant(
                weight if input.is_complex() else float(weight), dt.float32 if is_half(input) else input.dtype
            ),
            input.backend,
        )
    return apply(_lerp, (input, end, weight))


def _combined(name: str, op, input, tensor1, tensor2, value):
    """input + value · op(tensor1, tensor2), rounded once."""
    input, tensor1, tensor2 = promote(name, "numeric", input, tensor1, tensor2)
    dtype, value = input.dtype, int(value) if isinstance(value, bool) else value
    check_factor(name, dtype, value=value)
    if is_half(input):
        input, tensor1, tensor2 = (cast(x, dt.float32) for x in (input, tensor1, tensor2))
        return cast(_combined(name, op, input, tensor1, tensor2, value), dtype)
    part = op(tensor1, tensor2) if value == 1 else op(mul(tensor1, value), tensor2)
    return input + part


def _three_samples(make):
    return [
        sample(make(3, 4), make(3, 4), make(3, 4, low=0.5)),
        sample(make(4), make(3, 1), make(3, 4, low=0.5), value=0.5),
    ]


@composite(examples=_three_samples, inplace=True)
@takes_arrays
def addcmul(input, tensor1, tensor2, *, value=1):
    """input + value · tensor1 · tensor2"""
    return _combined("addcmul", mul, input, tensor1, tensor2, value)


@composite(examples=_three_samples, inplace=True)
@takes_arrays
def addcdiv(input, tensor1, tensor2, *, value=1):
    """input + value · tensor1 / tensor2"""
    if not dt.is_inexact(tensor1.dtype) and not dt.is_inexact(tensor2.dtype):
        raise DTypeError("addcdiv does not divide integers", received=dt.name_of(tensor1.dtype), fix="tensor1.float()")
    return _combined("addcdiv", true_divide, input, tensor1, tensor2, value)


@composite(examples=lambda make: [sample(make(3, 4), 0.1), sample(make(3, 4), make(4))], inplace=True)
def clamp_min(input, min):
    """max(input, min)"""
    return clamp(input, min=min)


@composite(examples=lambda make: [sample(make(3, 4), 0.1), sample(make(3, 4), make(4))], inplace=True)
def clamp_max(input, max):
    """min(input, max)"""
    return clamp(input, max=max)


# -- of one operand -----------------------------------------------------------------------------------------------------


@elementwise("float", vjp=lambda g: g * (math.pi / 180))
def deg2rad(xp, input):
    """degrees as radians"""
    return xp.multiply(input, xp.constant(math.pi / 180, input.dtype))


@elementwise("float", vjp=lambda g: g * (180 / math.pi))
def rad2deg(xp, input):
    """radians as degrees"""
    return xp.multiply(input, xp.constant(180 / math.pi, input.dtype))


@elementwise("logical")
def signbit(xp, input):
    """the sign is set: below 0, or −0.0"""
    return xp.signbit(input) if dt.is_floating(input.dtype) else input < 0


def _no_integers(xp, input):
    return xp.zeros(input.shape, dtype=bool)


@elementwise("logical")
def isposinf(xp, input):
    """input is +∞"""
    return input == math.inf if dt.is_floating(input.dtype) else _no_integers(xp, input)


@elementwise("logical")
def isneginf(xp, input):
    """input is −∞"""
    return input == -math.inf if dt.is_floating(input.dtype) else _no_integers(xp, input)


@elementwise("logical", complex=True)
def isreal(xp, input):
    """the imaginary part is 0, as that of every real number"""
    return input.imag == 0 if input.dtype.kind == "c" else xp.ones(input.shape, dtype=bool)


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(3), 1.0, 2.0, 3.0)], inplace=True)
@takes_arrays
def nan_to_num(input, nan: float | None = None, posinf: float | None = None, neginf: float | None = None):
    """NaN replaced by `nan` (0), +∞ and −∞ by `posinf` and `neginf` (the largest and smallest number of the dtype); of
    complex numbers, in both parts"""
    if input.dtype.kind == "c":
        return apply(view_as_complex_p, (nan_to_num(apply(view_as_real_p, (input,)), nan, posinf, neginf),))
    if not dt.is_floating(input.dtype):
        return input.clone()
    limit = dt.largest(input.dtype)
    out = where(isnan(input), 0.0 if nan is None else nan, input)
    out = where(isposinf(input), limit if posinf is None else posinf, out)
    return where(isneginf(input), -limit if neginf is None else neginf, out)


# -- whole numbers, bits ------------------------------------------------------------------------------------------------


def _integer_samples(make):
    return [sample(make.int(8, 3, 4), make.int(8, 4)), sample(make.int(8, 3), 3)]


def _no_bools(name: str):
    return lambda input, other: no_bool(
        name, "convert with .int()", *(x for x in (input, other) if isinstance(x, Tensor))
    )


@elementwise("integer", examples=_integer_samples, check=_no_bools("gcd"))
def gcd(xp, input, other):
    """the greatest common divisor"""
    return xp.gcd(input, other)


@elementwise("integer", examples=_integer_samples, check=_no_bools("lcm"))
def lcm(xp, input, other):
    """the least common multiple"""
    return xp.lcm(input, other)


def _bits(input) -> int:
    return 8 * input.dtype.itemsize


@elementwise("integer", examples=_integer_samples, check=_no_bools("bitwise_left_shift"))
def bitwise_left_shift(xp, input, other):
    """input · 2 ^ other; 0 where all bits are shifted out"""
    inside = (other >= 0) & (other < _bits(input))
    zero = xp.zeros((), dtype=input.dtype)
    return xp.where(inside, xp.left_shift(input, xp.where(inside, other, zero)), zero)


@elementwise("integer", examples=_integer_samples, check=_no_bools("bitwise_right_shift"))
def bitwise_right_shift(xp, input, other):
    """⌊input / 2 ^ other⌋"""
    last = xp.asarray(_bits(input) - 1, dtype=input.dtype)
    inside = (other >= 0) & (other < _bits(input))
    out = xp.right_shift(input, xp.where(inside, other, last))
    return out if input.dtype.kind == "i" else xp.where(inside, out, xp.zeros((), dtype=input.dtype))


Tensor.__lshift__, Tensor.__rshift__ = bitwise_left_shift, bitwise_right_shift
Tensor.__rlshift__ = lambda self, other: bitwise_left_shift(other, self)
Tensor.__rrshift__ = lambda self, other: bitwise_right_shift(other, self)

# -- comparisons of whole tensors -----------------------------------------------------------------------------------


@composite(
    examples=lambda make: [sample(make(3, 4), make(3, 4)), sample(make(3, 4), make(4), equal_nan=True)],
    differentiable=False,
)
@takes_arrays
def isclose(input, other, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False):
    """|input − other| ≤ atol + rtol · |other|; infinities are close to themselves, NaN only with `equal_nan`"""
    if input.dtype != other.dtype:
        raise DTypeError(
            "isclose takes tensors of one dtype", received=f"{dt.name_of(input.dtype)} and {dt.name_of(other.dtype)}"
        )
    if rtol < 0 or atol < 0:
        raise ArgumentError("isclose: tolerances are at least 0", received=f"rtol={rtol}, atol={atol}")
    input, other = input.detach(), other.detach()
    near = input == other
    if equal_nan:
        near = near | (isnan(input) & isnan(other))
    if rtol == 0 and atol == 0:
        return near
    if not dt.is_inexact(input.dtype):
        input, other = cast(input, dt.float64), cast(other, dt.float64)
    error = abs_(input - other)
    return near | (isfinite(error) & (error <= abs_(other) * rtol + atol))


def allclose(input, other, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether `isclose` holds for all elements."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


def equal(input, other) -> bool:
    """Whether two tensors have one shape and equal elements."""
    input, other = as_tensor(input), as_tensor(other)
    return input.shape == other.shape and bool((input == other).all())


Tensor.allclose, Tensor.equal = allclose, equal
