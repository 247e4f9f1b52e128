"""Elementwise ops: each forward with its gradient beside it."""

from __future__ import annotations

import functools
import math

from deepcore.autograd import apply, constant, mixed_backends, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops.registry import (
    Tensor,
    as_number,
    binary_samples,
    cast,
    composite,
    elementwise,
    fused,
    primitive,
    promote,
    sample,
    unary_samples,
)


def _zeros(g: Tensor) -> Tensor:
    return Tensor(g.backend.zeros(g.shape, dtype=g.dtype), g.backend)


@primitive(vjp=(lambda g: g, lambda g: _zeros(g)))
def _flat(xp, value, of):
    return value.copy()


def _flat_in(slope: Tensor, input: Tensor) -> Tensor:
    """The slope of a piecewise linear function at `input`: where it is differentiated again, that derivative is 0."""
    return apply(_flat, (slope, input)) if mode.grad and input._requires_grad else slope


def _no_bool(name: str, fix: str, *inputs) -> None:
    if any(x.dtype == dt.bool_ for x in inputs):
        raise DTypeError(f"{name} is not defined for bool tensors", fix=fix)


def _no_zero(name: str, divisor) -> None:
    if not dt.is_floating(divisor.dtype) and not bool(divisor.all()):
        raise ArgumentError(
            f"{name}: a whole number is divided by zero", fix="divide floating tensors, or mask the zeros"
        )


# -- arithmetic -------------------------------------------------------------------------------------------


@elementwise("numeric", vjp=(lambda g: g, lambda g: g), public=False, wide=True)
def _add(xp, input, other):
    return xp.add(input, other)


@elementwise("numeric", vjp=(lambda g: g, lambda g: neg(g)), public=False, wide=True)
def _sub(xp, input, other):
    _no_bool("sub", "use logical_xor, or convert with .int()", input, other)
    return xp.subtract(input, other)


@elementwise("numeric", vjp=(lambda g, other: g * other, lambda g, input: g * input), aliases=("multiply",), wide=True)
def mul(xp, input, other):
    """input · other"""
    return xp.multiply(input, other)


@elementwise("numeric", vjp=(lambda g, other: _weigh(g, other), lambda g, input: _weigh(input, g)), public=False)
def _weigh(xp, input, other):
    """input · other, and 0 where the weight `input` is 0, whatever `other` is: infinite, or NaN"""
    return xp.where(input == 0, xp.zeros((), dtype=other.dtype), xp.multiply(input, other))


@elementwise(
    "float",
    vjp=(lambda g, other: g / other, lambda g, input, other: neg(g * ((input / other) / other))),
    examples=binary_samples(other_low=0.5),
    wide=True,
)
def true_divide(xp, input, other):
    """input / other; integers give float32"""
    return xp.true_divide(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g: _zeros(g), lambda g: _zeros(g)),
    examples=binary_samples(other_low=0.5),
    wide=True,
)
def floor_divide(xp, input, other):
    """⌊input / other⌋"""
    _no_bool("floor_divide", "convert with .int()", input)
    _no_zero("floor_divide", other)
    return xp.floor_divide(input, other)


@elementwise(
    "numeric",
    vjp=(lambda g: g, lambda g, input, other: neg(g * floor_divide(input, other))),
    examples=binary_samples(1.1, 1.9, 0.5, 0.9, scalar=0.7),
)
def remainder(xp, input, other):
    """input − other · ⌊input / other⌋: the sign of `other`"""
    _no_bool("remainder", "convert with .int()", input)
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
    return _add(input, other) if type(alpha) is int and alpha == 1 else _with_alpha(_add, input, other, alpha)


@composite(examples=binary_samples(), inplace=True, aliases=("subtract",))
def sub(input, other, *, alpha=1):
    """input − alpha · other"""
    return _sub(input, other) if type(alpha) is int and alpha == 1 else _with_alpha(_sub, input, other, alpha)


def _with_alpha(op, input, other, alpha):
    """op(input, alpha · other), rounded once where the tensors are of 16 bits."""
    name = op.__name__
    dtype = promote(name, "numeric", input, other)[0]._data.dtype
    check_factor(name, dtype, alpha=alpha)
    if dtype.itemsize == 2 and dt.is_floating(dtype):
        input, other = (cast(t, dt.float32) if isinstance(t, Tensor) else t for t in (input, other))
        return cast(op(input, mul(other, alpha)), dtype)
    if not dt.is_floating(dtype) and not isinstance(other, Tensor):
        return op(input, other * alpha)
    return op(input, mul(other, alpha))


def check_factor(name: str, dtype, **factor) -> None:
    """Refuse a number that multiplies tensors of `dtype`, given by its name, where it is of another kind or does not fit."""
    ((key, value),) = factor.items()
    whole = not dt.is_floating(dtype)
    if (isinstance(value, float) and whole) or (isinstance(value, bool) and dtype != dt.bool_):
        raise DTypeError(
            f"{name}: {key} must be of the result's kind",
            expected=f"{'an integer' if whole else 'a number'}, as the result is {dt.name_of(dtype)}",
            received=f"{key}={value!r}",
            fix="input.float(), or multiply the tensor first" if isinstance(value, float) else f"{key}={int(value)}",
        )
    if whole and isinstance(value, int) and not dt.fits(value, dtype):
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


@elementwise("numeric", vjp=(lambda g: _zeros(g), lambda g: _zeros(g)), public=False, wide=True)
def _trunc_divide(xp, input, other):
    if dt.is_floating(input.dtype):
        return xp.trunc(xp.true_divide(input, other))
    _no_zero("div", other)
    quotient = xp.floor_divide(input, other)
    inexact = (quotient * other != input) & ((input < 0) != (other < 0))
    return quotient + inexact.astype(quotient.dtype)


@elementwise("numeric", vjp=lambda g: neg(g), aliases=("negative",))
def neg(xp, input):
    """−input"""
    _no_bool("neg", "use logical_not", input)
    return xp.negative(input)


@composite(examples=unary_samples())
def positive(input):
    """input, unchanged"""
    return constant("positive", input)


@elementwise("numeric", vjp=lambda g, input: g * sign(input), aliases=("absolute",))
def abs(xp, input):
    """|input|"""
    return xp.absolute(input)


@elementwise("numeric", vjp=lambda g: _zeros(g))
def sign(xp, input):
    """−1, 0 or 1; 0 for NaN"""
    if input.dtype == dt.bool_:
        return input.copy()
    out = xp.sign(input)
    return xp.where(out == out, out, xp.zeros((), dtype=out.dtype)) if dt.is_floating(out.dtype) else out


@elementwise("numeric", vjp=lambda g, input: g * (input * 2.0))
def square(xp, input):
    """input²"""
    if input.dtype == dt.bool_:
        input = input.astype(dt.int64)
    return xp.multiply(input, input)


@elementwise("float", vjp=lambda g, out: g / (out * 2.0), examples=unary_samples(0.2, 3))
def sqrt(xp, input):
    """√input"""
    return xp.sqrt(input)


@elementwise("float", vjp=lambda g, out: g * (out * out * out) * -0.5, examples=unary_samples(0.3, 3))
def rsqrt(xp, input):
    """1 / √input"""
    return xp.reciprocal(xp.sqrt(input))


@elementwise("float", vjp=lambda g, out: neg(g * (out * out)), examples=unary_samples(0.5, 3))
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
    flat = (input == 0) & (other >= 0)
    return where(flat, 0.0, g * (out * log(where(flat, 1.0, input))))


def _no_negative_power(input, other) -> None:
    exponent = as_number(other)
    if exponent is not None and exponent < 0 and type(exponent) is int and not dt.is_floating(input.dtype):
        raise ArgumentError(
            "whole numbers to a negative power are fractions, which an integer dtype cannot hold",
            received=f"{dt.name_of(input.dtype)} ** {exponent}",
            fix=f"x.float() ** {exponent}",
        )


@elementwise(
    "numeric",
    vjp=(_pow_base, _pow_exponent),
    examples=_pow_samples,
    check=_no_negative_power,
)
def pow(xp, input, other):
    """input ^ other; a whole number to a negative power that is a tensor is rounded towards 0, to a number raises"""
    _no_bool("pow", "convert with .int()", input)
    if dt.is_floating(input.dtype) or input.dtype.kind in "bu":
        return xp.power(input, other)
    negative = other < 0
    odd = (other & 1).astype(dt.bool_)
    inverse = xp.where(input == 1, 1, xp.where(input == -1, xp.where(odd, -1, 1), 0)).astype(input.dtype)
    return xp.where(negative, inverse, xp.power(input, xp.where(negative, 0, other).astype(input.dtype)))


# -- exponentials, logarithms, powers of e ------------------------------------------------------------------


@elementwise("float", vjp=lambda g, out: g * out)
def exp(xp, input):
    """e ^ input"""
    return xp.exp(input)


@elementwise("float", vjp=lambda g, out: g * (out * math.log(2)))
def exp2(xp, input):
    """2 ^ input"""
    return xp.exp2(input)


@elementwise("float", vjp=lambda g, out: g * (out + 1.0))
def expm1(xp, input):
    """e ^ input − 1, exact near 0"""
    return xp.expm1(input)


@elementwise("float", vjp=lambda g, input: g / input, examples=unary_samples(0.2, 3))
def log(xp, input):
    """ln input"""
    return xp.log(input)


@elementwise("float", vjp=lambda g, input: g / (input * math.log(2)), examples=unary_samples(0.2, 3))
def log2(xp, input):
    """log₂ input"""
    return xp.log2(input)


@elementwise("float", vjp=lambda g, input: g / (input * math.log(10)), examples=unary_samples(0.2, 3))
def log10(xp, input):
    """log₁₀ input"""
    return xp.log10(input)


@elementwise("float", vjp=lambda g, input: g / (input + 1.0), examples=unary_samples(-0.7, 3))
def log1p(xp, input):
    """ln(1 + input), exact near 0"""
    return xp.log1p(input)


@elementwise(
    "float",
    vjp=(
        lambda g, input, other: g / (exp(other - input) + 1.0),
        lambda g, input, other: g / (exp(input - other) + 1.0),
    ),
)
def logaddexp(xp, input, other):
    """ln(eˣ + eʸ), without overflow"""
    return xp.logaddexp(input, other)


# -- trigonometric and hyperbolic ------------------------------------------------------------------------------


@elementwise("float", vjp=lambda g, input: g * cos(input))
def sin(xp, input):
    """sine, in radians"""
    return xp.sin(input)


@elementwise("float", vjp=lambda g, input: neg(g * sin(input)))
def cos(xp, input):
    """cosine, in radians"""
    return xp.cos(input)


@elementwise("float", vjp=lambda g, out: g * (out * out + 1.0), examples=unary_samples(-1.2, 1.2))
def tan(xp, input):
    """tangent, in radians"""
    return xp.tan(input)


@elementwise(
    "float", vjp=lambda g, input: g * rsqrt(1.0 - input * input), examples=unary_samples(-0.8, 0.8), aliases=("arcsin",)
)
def asin(xp, input):
    """inverse sine, in radians"""
    return xp.arcsin(input)


@elementwise(
    "float",
    vjp=lambda g, input: neg(g * rsqrt(1.0 - input * input)),
    examples=unary_samples(-0.8, 0.8),
    aliases=("arccos",),
)
def acos(xp, input):
    """inverse cosine, in radians"""
    return xp.arccos(input)


@elementwise("float", vjp=lambda g, input: g / (input * input + 1.0), aliases=("arctan",))
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


@elementwise("float", vjp=lambda g, input: g * cosh(input))
def sinh(xp, input):
    """hyperbolic sine"""
    return xp.sinh(input)


@elementwise("float", vjp=lambda g, input: g * sinh(input))
def cosh(xp, input):
    """hyperbolic cosine"""
    return xp.cosh(input)


@elementwise("float", vjp=lambda g, out: tanh_grad(g, out))
def tanh(xp, input):
    """hyperbolic tangent"""
    return xp.tanh(input)


@fused
def tanh_grad(g, out):
    return g * (1.0 - out * out)


@elementwise("float", vjp=lambda g, input: g * rsqrt(input * input + 1.0), aliases=("arcsinh",))
def asinh(xp, input):
    """inverse hyperbolic sine"""
    return xp.arcsinh(input)


@elementwise(
    "float",
    vjp=lambda g, input: g * rsqrt((input - 1.0) * (input + 1.0)),
    examples=unary_samples(1.3, 3),
    aliases=("arccosh",),
)
def acosh(xp, input):
    """inverse hyperbolic cosine"""
    return xp.arccosh(input)


@elementwise(
    "float", vjp=lambda g, input: g / (1.0 - input * input), examples=unary_samples(-0.8, 0.8), aliases=("arctanh",)
)
def atanh(xp, input):
    """inverse hyperbolic tangent"""
    return xp.arctanh(input)


# -- activations and special functions ----------------------------------------------------------------------------


def _in_float32(forward):
    """A forward that computes 16-bit floats in float32, and rounds once."""

    @functools.wraps(forward)
    def wide(xp, input, **params):
        if input.dtype.itemsize > 2:
            return forward(xp, input, **params)
        return forward(xp, input.astype(dt.float32), **params).astype(input.dtype)

    return wide


@elementwise("float", vjp=lambda g, out: sigmoid_grad(g, out))
@_in_float32
def sigmoid(xp, input):
    """1 / (1 + e⁻ˣ)"""
    out = xp.negative(input)
    out = xp.exp(out)
    return xp.true_divide(xp.ones((), dtype=input.dtype), out + xp.ones((), dtype=input.dtype))


@fused
def sigmoid_grad(g, out):
    return g * ((1.0 - out) * out)


@elementwise("float", vjp=lambda g, input: g * (exp(neg(input * input)) * (2 / math.sqrt(math.pi))))
def erf(xp, input):
    """2/√π ∫₀ˣ e^(−t²) dt"""
    return xp.special("erf", input)


@elementwise("numeric", vjp=lambda g, out: relu_grad(g, out))
def relu(xp, input):
    """max(0, x)"""
    _no_bool("relu", "convert with .float()", input)
    return xp.maximum(input, xp.zeros((), dtype=input.dtype))


@fused
def relu_grad(g, out):
    return _flat_in(where(out <= 0, 0.0, g), out)


def _float_op(op, input, **params) -> Tensor:
    if not isinstance(input, Tensor) or not dt.is_floating(input._data.dtype):
        (input,) = promote(op.name, "float", input)
    for name, value in params.items():
        if not hasattr(value, "__float__"):
            raise DTypeError(f"{op.name}: {name} is a number", received=repr(value))
    return apply(op, (input,), params)


@primitive(vjp=lambda g, input, slope: leaky_relu_grad(g, input, slope=slope))
@_in_float32
def _leaky_relu(xp, input, *, slope):
    return xp.where(input > 0, input, input * xp.constant(slope, input.dtype))


@fused
def leaky_relu_grad(g, input, *, slope):
    return _flat_in(where(input > 0, g, g * slope), input)


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.2)])
def leaky_relu(input, negative_slope: float = 0.01):
    """max(0, x) + negative_slope · min(0, x)"""
    return _float_op(_leaky_relu, input, slope=negative_slope)


@primitive(vjp=lambda g, input, alpha: elu_grad(g, input, alpha=alpha))
@_in_float32
def _elu(xp, input, *, alpha):
    return xp.where(input > 0, input, xp.expm1(xp.minimum(input, 0)) * alpha)


@fused
def elu_grad(g, input, *, alpha):
    positive = input > 0
    return where(positive, g, g * (exp(where(positive, 0.0, input)) * alpha))


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 0.7)])
def elu(input, alpha: float = 1.0):
    """x for x > 0, alpha · (eˣ − 1) otherwise (Clevert et al. 2015)"""
    return _float_op(_elu, input, alpha=alpha)


# Beyond this GELU and SiLU are 0 or x, their slopes 0 or 1, in every dtype; at infinity the formulas give 0·∞.
_FAR = 1e4


@primitive(vjp=lambda g, input: gelu_grad(g, input))
@_in_float32
def _gelu(xp, input):
    input = xp.maximum(input, -_FAR)
    return input * ((xp.special("erf", input * math.sqrt(0.5)) + 1) * 0.5)


@fused
def gelu_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    density = exp(input * input * -0.5) * (1 / math.sqrt(2 * math.pi))
    return g * ((erf(input * math.sqrt(0.5)) + 1.0) * 0.5 + input * density)


_GELU_SCALE, _GELU_CUBE = 2 * math.sqrt(2 / math.pi), 0.044715


@primitive(vjp=lambda g, input: gelu_tanh_grad(g, input))
@_in_float32
def _gelu_tanh(xp, input):
    input = xp.maximum(input, -_FAR)
    inner = (input + input * input * input * _GELU_CUBE) * (0.5 * _GELU_SCALE)
    return input * 0.5 * (xp.tanh(inner) + 1)


@fused
def gelu_tanh_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    square = input * input
    half = sigmoid((input + square * input * _GELU_CUBE) * _GELU_SCALE)
    return g * (half + input * (half * (1.0 - half) * ((square * (3 * _GELU_CUBE) + 1.0) * _GELU_SCALE)))


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), approximate="tanh")])
def gelu(input, approximate: str = "none"):
    """x · Φ(x), Φ the normal distribution function; "tanh": ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks 2016)"""
    if approximate == "none":
        return _float_op(_gelu, input)
    if approximate == "tanh":
        return _float_op(_gelu_tanh, input)
    raise ArgumentError("unknown approximation of gelu", expected="'none' or 'tanh'", received=repr(approximate))


@primitive(vjp=lambda g, input: silu_grad(g, input))
@_in_float32
def _silu(xp, input):
    input = xp.maximum(input, -_FAR)
    return input / (xp.exp(-input) + 1)


@fused
def silu_grad(g, input):
    input = clamp(input, -_FAR, _FAR)
    half = sigmoid(input)
    return g * (half * (input * (1.0 - half) + 1.0))


@composite(examples=unary_samples())
def silu(input):
    """x · sigmoid(x) (Elfwing et al. 2017)"""
    return _float_op(_silu, input)


@primitive(vjp=lambda g, input, beta, threshold: softplus_grad(g, input, beta=beta, threshold=threshold))
@_in_float32
def _softplus(xp, input, *, beta, threshold):
    scaled = input * beta
    bent = xp.maximum(scaled, 0) + xp.log1p(xp.exp(-xp.abs(scaled)))
    return xp.where(scaled > threshold, input, bent / beta)


@fused
def softplus_grad(g, input, *, beta, threshold):
    scaled = input * beta
    return where(scaled > threshold, g, g * sigmoid(scaled))


@composite(examples=lambda make: [sample(make(3, 4)), sample(make(5), 2.0, 1.0)])
def softplus(input, beta: float = 1.0, threshold: float = 20.0):
    """ln(1 + e^(beta·x)) / beta; x itself where beta·x > threshold"""
    return _float_op(_softplus, input, beta=beta, threshold=threshold)


@primitive(vjp=lambda g, input: logsigmoid_grad(g, input))
@_in_float32
def _logsigmoid(xp, input):
    return xp.minimum(input, 0) - xp.log1p(xp.exp(-xp.abs(input)))


@fused
def logsigmoid_grad(g, input):
    return g * sigmoid(neg(input))


@composite(examples=unary_samples())
def logsigmoid(input):
    """ln sigmoid(x) = min(0, x) − ln(1 + e^−|x|)"""
    return _float_op(_logsigmoid, input)


# -- rounding ---------------------------------------------------------------------------------------------------


def _integers_stay(xp, function, input):
    return function(input) if dt.is_floating(input.dtype) else input.copy()


@elementwise("numeric", vjp=lambda g: _zeros(g), examples=unary_samples(0.1, 0.9))
def floor(xp, input):
    """the largest whole number ≤ input"""
    return _integers_stay(xp, xp.floor, input)


@elementwise("numeric", vjp=lambda g: _zeros(g), examples=unary_samples(0.1, 0.9))
def ceil(xp, input):
    """the smallest whole number ≥ input"""
    return _integers_stay(xp, xp.ceil, input)


@elementwise("numeric", vjp=lambda g: _zeros(g), examples=unary_samples(0.1, 0.9), aliases=("fix",))
def trunc(xp, input):
    """input without its fraction"""
    return _integers_stay(xp, xp.trunc, input)


@primitive(vjp=lambda g: _zeros(g))
def _round(xp, input, *, decimals):
    if decimals < 0 and dt.is_integer(input.dtype):
        return _round_whole(xp, input, 10**-decimals)
    return _integers_stay(xp, lambda x: xp.round(x, decimals), input)


def _round_whole(xp, input, unit: int):
    """The nearest multiple of `unit`, halves to the even one, without leaving the integers."""
    if not dt.fits(unit, input.dtype):
        raise ArgumentError(
            f"{dt.name_of(input.dtype)} has no multiples of {unit} but 0", fix="round floating numbers: x.double()"
        )
    whole = xp.floor_divide(input, unit)
    least, most = dt.span(input.dtype)
    whole = xp.maximum(whole, -(-(least + 1) // unit))
    rest = input - whole * unit
    up = (rest >= 0) & ((rest > unit - rest) | ((rest == unit - rest) & (whole % 2 == 1)))
    up &= whole < (most - 1) // unit  # the next multiple may not fit
    return (whole + up.astype(input.dtype)) * unit


@composite(
    inplace=True,
    examples=lambda make: [sample(make(3, 4, low=0.1, high=0.4)), sample(make(3, low=0.11, high=0.14), decimals=1)],
)
def round(input, *, decimals: int = 0):
    """the nearest multiple of 10 ^ −decimals, halves to the even one"""
    return _round(input, decimals=decimals)


@composite(inplace=True, examples=unary_samples(0.1, 0.9))
def frac(input):
    """input − trunc(input)"""
    return input - trunc(input)


# -- choosing -----------------------------------------------------------------------------------------------------


def _tie(g, input, other, passed_over):
    slope = where(input == other, g * 0.5, where(passed_over, 0.0, g))
    return _flat_in(_flat_in(slope, input), other)


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
    )
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
    if numbers:  # two plain numbers follow the condition
        input, other = input.to(condition.backend), other.to(condition.backend)
    if condition.dtype != dt.bool_:
        condition = cast(condition, dt.bool_)
    return apply(_where, (condition, input, other))


@primitive(vjp=lambda g, input, low, high: _flat_in(where(_within(input, low=low, high=high), g, 0.0), input))
def _clamp(xp, input, *, low, high):
    if low is not None:
        input = xp.maximum(input, xp.constant(low, input.dtype))
    return input if high is None else xp.minimum(input, xp.constant(high, input.dtype))


@primitive()
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
        return _clamp(input, low=min, high=max)
    # NaN anywhere gives NaN; a bound of NaN counts as crossed.
    below = None if min is None else (input < min) | ne(min, min)
    above = None if max is None else (input > max) | ne(max, max)
    if above is None or below is None:
        return where(below, min, input) if above is None else where(above, max, input)
    known = eq(input, input) & eq(min, min)
    return where((above | lt(max, min)) & known, max, where(below, min, input))


# -- comparison and logic -------------------------------------------------------------------------------------------


@elementwise("compare")
def eq(xp, input, other):
    """input = other"""
    return xp.equal(input, other)


@elementwise("compare", aliases=("not_equal",))
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


@elementwise("logical")
def logical_and(xp, input, other):
    """both are non-zero"""
    return xp.logical_and(input, other)


@elementwise("logical")
def logical_or(xp, input, other):
    """at least one is non-zero"""
    return xp.logical_or(input, other)


@elementwise("logical")
def logical_xor(xp, input, other):
    """exactly one is non-zero"""
    return xp.logical_xor(input, other)


@elementwise("logical")
def logical_not(xp, input):
    """input is zero"""
    return xp.logical_not(input)


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


@elementwise("logical")
def isnan(xp, input):
    """input is NaN"""
    return xp.isnan(input)


@elementwise("logical")
def isinf(xp, input):
    """input is infinite"""
    return xp.isinf(input)


@elementwise("logical")
def isfinite(xp, input):
    """input is neither NaN nor infinite"""
    return xp.isfinite(input)
