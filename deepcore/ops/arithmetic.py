"""Arithmetic, powers and roots: each forward with its gradient beside it."""

from __future__ import annotations

from deepcore.autograd import apply, constant
from deepcore.autograd.graph import conj
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.common import in_float32, no_bool, zeros
from deepcore.ops.comparison import where
from deepcore.ops.exponential import log
from deepcore.ops.parts import imag_p, real_p
from deepcore.ops.registry import (
    Tensor,
    as_number,
    binary_samples,
    cast,
    composite,
    elementwise,
    primitive,
    promote,
    sample,
    unary_samples,
)
from deepcore.ops.rounding import trunc


def _no_zero(name: str, divisor) -> None:
    if not dt.is_floating(divisor.dtype) and not bool(divisor.all()):
        raise ArgumentError(
            f"{name}: a whole number is divided by zero", fix="divide floating tensors, or mask the zeros"
        )


@elementwise("numeric", vjp=(lambda g: g, lambda g: g), public=False, wide=True, complex=True, jvp="elementwise")
def add_p(xp, input, other):
    return xp.add(input, other)


@elementwise("numeric", vjp=(lambda g: g, lambda g: neg(g)), public=False, wide=True, complex=True, jvp="elementwise")
def sub_p(xp, input, other):
    no_bool("sub", "use logical_xor, or convert with .int()", input, other)
    return xp.subtract(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g, other: g * other, lambda g, input: g * input),
    aliases=("multiply",),
    wide=True,
    complex="analytic",
)
def mul(xp, input, other):
    """input · other"""
    return xp.multiply(input, other)


@elementwise("numeric", vjp=(lambda g, other: weigh(g, other), lambda g, input: weigh(input, g)), public=False)
def weigh(xp, input, other):
    """input · other, and 0 where the weight `input` is 0, whatever `other` is: infinite, or NaN"""
    return xp.where(input == 0, xp.zeros((), dtype=other.dtype), xp.multiply(input, other))


@elementwise(
    "float",
    vjp=(lambda g, other: g / other, lambda g, input, other: neg(g * ((input / other) / other))),
    examples=binary_samples(other_low=0.5),
    wide=True,
    complex="analytic",
)
def true_divide(xp, input, other):
    """input / other; integers give float32"""
    return xp.true_divide(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g: zeros(g), lambda g: zeros(g)),
    examples=binary_samples(other_low=0.5),
    wide=True,
)
def floor_divide(xp, input, other):
    """⌊input / other⌋"""
    no_bool("floor_divide", "convert with .int()", input)
    _no_zero("floor_divide", other)
    return xp.floor_divide(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g: g, lambda g, input, other: neg(g * floor_divide(input, other))),
    examples=binary_samples(1.1, 1.9, 0.5, 0.9, scalar=0.7),
)
def remainder(xp, input, other):
    """input − other · ⌊input / other⌋: the sign of `other`"""
    no_bool("remainder", "convert with .int()", input)
    _no_zero("remainder", other)
    return xp.remainder(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g: g, lambda g, input, other: neg(g * trunc(true_divide(input, other)))),
    examples=binary_samples(1.1, 1.9, 0.5, 0.9, scalar=0.7),
)
def fmod(xp, input, other):
    """input − other · trunc(input / other): the sign of `input`"""
    _no_zero("fmod", other)
    return xp.fmod(input, other)


@composite(examples=binary_samples(), inplace=True)
def add(input, other, *, alpha=1):
    """input + alpha · other"""
    return add_p(input, other) if type(alpha) is int and alpha == 1 else _with_alpha(add_p, input, other, alpha)


@composite(examples=binary_samples(), inplace=True, aliases=("subtract",))
def sub(input, other, *, alpha=1):
    """input − alpha · other"""
    return sub_p(input, other) if type(alpha) is int and alpha == 1 else _with_alpha(sub_p, input, other, alpha)


def _with_alpha(op, input, other, alpha):
    """op(input, alpha · other), rounded once for 16-bit floats."""
    name = op.__name__
    dtype = promote(name, "numeric", input, other)[0]._data.dtype
    check_factor(name, dtype, alpha=alpha)
    if dtype.itemsize == 2 and dt.is_floating(dtype):
        input, other = (cast(t, dt.float32) if isinstance(t, Tensor) else t for t in (input, other))
        return cast(op(input, mul(other, alpha)), dtype)
    if not dt.is_inexact(dtype) and not isinstance(other, Tensor):
        return op(input, other * alpha)
    return op(input, mul(other, alpha))


def check_factor(name: str, dtype, **factor) -> None:
    """Raise if a scalar factor, passed by its keyword, is of another kind than `dtype` or out of its range."""
    ((key, value),) = factor.items()
    is_integer = not dt.is_inexact(dtype)
    if isinstance(value, complex) and dtype.kind != "c":
        raise DTypeError(
            f"{name}: {key} must be of the result's kind",
            expected=f"a real number, as the result is {dt.name_of(dtype)}",
            received=f"{key}={value!r}",
            fix="input.cfloat()",
        )
    if (isinstance(value, float) and is_integer) or (isinstance(value, bool) and dtype != dt.bool_):
        raise DTypeError(
            f"{name}: {key} must be of the result's kind",
            expected=f"{'an integer' if is_integer else 'a number'}, as the result is {dt.name_of(dtype)}",
            received=f"{key}={value!r}",
            fix="input.float(), or multiply the tensor first" if isinstance(value, float) else f"{key}={int(value)}",
        )
    if is_integer and isinstance(value, int) and not dt.fits(value, dtype):
        raise dt.misfit(value, dtype)


@composite(
    examples=lambda make: [
        *binary_samples(other_low=0.5)(make),
        sample(make(3, 4), make(4, low=0.5), rounding_mode="floor"),
        sample(make(3, 4), make(4, low=0.5), rounding_mode="trunc"),
    ],
    aliases=("divide",),
    inplace=True,
)
def div(input, other, *, rounding_mode=None):
    """input / other; `rounding_mode` "floor" or "trunc" rounds the quotient and keeps integers integer"""
    if rounding_mode is None:
        return true_divide(input, other)
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode == "trunc":
        return _trunc_divide(input, other)
    raise ArgumentError("unknown rounding_mode", expected="None, 'floor' or 'trunc'", received=repr(rounding_mode))


@elementwise("numeric", vjp=(lambda g: zeros(g), lambda g: zeros(g)), public=False, wide=True)
def _trunc_divide(xp, input, other):
    if dt.is_floating(input.dtype):
        return xp.trunc(xp.true_divide(input, other))
    _no_zero("div", other)
    quotient = xp.floor_divide(input, other)
    inexact = (quotient * other != input) & ((input < 0) != (other < 0))
    return quotient + inexact.astype(quotient.dtype)


@elementwise("numeric", vjp=lambda g: neg(g), aliases=("negative",), complex=True, jvp="elementwise")
def neg(xp, input):
    """−input"""
    no_bool("neg", "use logical_not", input)
    return xp.negative(input)


@composite(examples=unary_samples())
def positive(input):
    """input, unchanged"""
    return constant("positive", input)


def _abs_back(g, input):
    return g * (sgn_p(input) if input._data.dtype.kind == "c" else sign(input))


def _abs_tangent(op, inputs, tangents, params):
    (input,), (tangent,) = inputs, tangents
    is_complex = input._data.dtype.kind == "c"
    moved = real_p(conj(sgn_p(input)) * tangent) if is_complex else sign(input) * tangent
    return apply(op, inputs), moved


@elementwise("numeric", vjp=_abs_back, aliases=("absolute",), complex=True, jvp=_abs_tangent)
def abs(xp, input):
    """|input|"""
    return xp.absolute(input)


def _sgn_back(g, input, out):
    """The part of g across the direction of z, divided by |z|."""
    size = abs(input)
    zero = size == 0
    along = real_p(g * conj(out)) * out
    return where(zero, 0.0, (g - along) / where(zero, 1.0, size))


@primitive(vjp=_sgn_back, complex=True, batch="elementwise")
def sgn_p(xp, input):
    """z / |z|, and 0 at 0."""
    size = xp.absolute(input)
    return xp.where(size == 0, xp.zeros((), dtype=input.dtype), input / xp.where(size == 0, xp.ones_like(size), size))


@elementwise("numeric", vjp=lambda g: zeros(g))
def sign(xp, input):
    """−1, 0 or 1; 0 for NaN"""
    if input.dtype == dt.bool_:
        return input.copy()
    out = xp.sign(input)
    is_unit = xp.absolute(out) == 1
    return xp.where(is_unit, out, xp.zeros((), dtype=out.dtype)) if dt.is_floating(out.dtype) else out


@elementwise("numeric", vjp=lambda g, input: g * (input * 2.0), complex="analytic")
def square(xp, input):
    """input²"""
    if input.dtype == dt.bool_:
        input = input.astype(dt.int64)
    return xp.multiply(input, input)


@elementwise("float", vjp=lambda g, out: g / (out * 2.0), examples=unary_samples(0.2, 3), complex="analytic")
def sqrt(xp, input):
    """√input"""
    return xp.sqrt(input)


@elementwise(
    "float", vjp=lambda g, out: g * (out * out * out) * -0.5, examples=unary_samples(0.3, 3), complex="analytic"
)
@in_float32
def rsqrt(xp, input):
    """1 / √input"""
    return xp.reciprocal(xp.sqrt(input))


@elementwise("float", vjp=lambda g, out: neg(g * (out * out)), examples=unary_samples(0.5, 3), complex="analytic")
def reciprocal(xp, input):
    """1 / input"""
    return xp.true_divide(xp.ones((), dtype=input.dtype), input)


def _pow_samples(make):
    return [
        *binary_samples(0.3, 2.0, -1.5, 2.0)(make),
        sample(make(3, 4), 2),
        sample(make(3, 4), 3.0),
        sample(make(3, 4, low=0.5), -1.5),
        sample(make(3), 0),
        sample(2.0, make(3)),
    ]


def _pow_base(g, input, other):
    zero = other == 0
    return where(zero, 0.0, g * other * pow(input, where(zero, 1.0, other - 1.0)))


def _pow_exponent(g, input, other, out):
    is_complex = other._data.dtype.kind == "c"
    flat = (input == 0) & ((imag_p(other) == 0) & (real_p(other) >= 0) if is_complex else other >= 0)
    return where(flat, 0.0, g * (out * log(where(flat, 1.0, input))))


def _no_negative_power(input, other) -> None:
    exponent = as_number(other)
    if type(exponent) is int and exponent < 0 and not dt.is_inexact(input.dtype):
        raise ArgumentError(
            "whole numbers to a negative power are fractions, which an integer dtype cannot hold",
            received=f"{dt.name_of(input.dtype)} ** {exponent}",
            fix=f"x.float() ** {exponent}",
        )


@elementwise("numeric", vjp=(_pow_base, _pow_exponent), check=_no_negative_power, public=False, complex="analytic")
def pow_p(xp, input, other):
    no_bool("pow", "convert with .int()", input)
    if dt.is_inexact(input.dtype) or input.dtype.kind in "bu":
        return xp.power(input, other)
    negative = other < 0
    odd = (other & 1).astype(dt.bool_)
    inverse = xp.where(input == 1, 1, xp.where(input == -1, xp.where(odd, -1, 1), 0)).astype(input.dtype)
    return xp.where(negative, inverse, xp.power(input, xp.where(negative, 0, other).astype(input.dtype)))


#: Powers computed and rounded as products, quotients and roots, as in PyTorch.
_PRODUCTS = {
    2: lambda xp, x: xp.multiply(x, x),
    3: lambda xp, x: xp.multiply(xp.multiply(x, x), x),
    0.5: lambda xp, x: xp.sqrt(x),
    -0.5: lambda xp, x: xp.reciprocal(xp.sqrt(x)),
    -1: lambda xp, x: xp.true_divide(xp.ones((), dtype=x.dtype), x),
    -2: lambda xp, x: xp.true_divide(xp.ones((), dtype=x.dtype), xp.multiply(x, x)),
}


def _power_back(g, input, exponent):
    return g * (input * 2.0 if exponent == 2 else pow(input, exponent - 1) * exponent)


@primitive(
    vjp=_power_back,
    complex="analytic",
    batch="elementwise",
)
@in_float32
def _power(xp, input, *, exponent):
    return _PRODUCTS[exponent](xp, input)


@composite(examples=_pow_samples, inplace=True)
def pow(input, other):
    """input ^ other; a whole number to a negative power that is a tensor is rounded towards 0, to a number raises.

    Powers of 2, 3, ½, −½, −1 and −2 that are numbers are computed as products, roots and quotients.
    """
    if not isinstance(input, Tensor) and as_number(input) is None:
        input = constant("pow", input)
    if isinstance(input, Tensor) and not isinstance(other, Tensor) and input.dtype != dt.bool_:
        exponent = as_number(other)
        is_product = exponent in _PRODUCTS and type(exponent) is not complex
        if is_product and (dt.is_inexact(input.dtype) or (exponent in (2, 3) and type(exponent) is int)):
            return apply(_power, (input,), {"exponent": exponent})
    return pow_p(input, other)
