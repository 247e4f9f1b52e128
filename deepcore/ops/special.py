"""Special functions with their derivatives: error functions, gamma functions, Bessel functions, the normal distribution."""

from __future__ import annotations

import math

from deepcore.autograd import apply, constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError
from deepcore.ops.arithmetic import neg, sign
from deepcore.ops.common import float_op, in_float32
from deepcore.ops.comparison import where
from deepcore.ops.exponential import exp, log, log1p
from deepcore.ops.registry import (
    Tensor,
    binary_samples,
    composite,
    elementwise,
    primitive,
    promote,
    sample,
    unary_samples,
)
from deepcore.ops.trigonometric import cos, sin

_ROOT_PI, _ROOT_2 = math.sqrt(math.pi), math.sqrt(2.0)

# -- error functions, the normal distribution ---------------------------------------------------------------------


@elementwise("float", vjp=lambda g, input: g * (exp(neg(input * input)) * (-2.0 / _ROOT_PI)), aliases=("special.erfc",))
def erfc(xp, input):
    """1 − erf(input), without cancellation"""
    return xp.special("erfc", input)


@elementwise(
    "float", vjp=lambda g, out: g * (exp(out * out) * (0.5 * _ROOT_PI)), examples=unary_samples(-0.9, 0.9),
    aliases=("special.erfinv",),
)  # fmt: skip
def erfinv(xp, input):
    """the y with erf(y) = input; NaN outside −1 … 1"""
    return xp.special("erfinv", input)


@elementwise("float", place="special", method=False, vjp=lambda g, input, out: g * (2.0 * input * out - 2.0 / _ROOT_PI))
def erfcx(xp, input):
    """exp(input²) · erfc(input), without overflow"""
    return xp.special("erfcx", input)


@composite(place="special", examples=unary_samples(), method=False)
def ndtr(input):
    """Φ(input), the distribution function of the normal distribution: (1 + erf(x / √2)) / 2"""
    return erfc(constant("ndtr", input) * (-1.0 / _ROOT_2)) * 0.5


@elementwise(
    "float", place="special", method=False, examples=unary_samples(0.1, 0.9),
    vjp=lambda g, out: g * (exp(out * out * 0.5) * math.sqrt(2.0 * math.pi)),
)  # fmt: skip
def ndtri(xp, input):
    """the x with Φ(x) = input; NaN outside 0 … 1"""
    return xp.special("ndtri", input)


@elementwise(
    "float", place="special", method=False, examples=unary_samples(-3.0, 2.0),
    vjp=lambda g, input: g / erfcx(input * (-1.0 / _ROOT_2)) * (_ROOT_2 / _ROOT_PI),
)  # fmt: skip
def log_ndtr(xp, input):
    """ln Φ(input), also where Φ is too small for the dtype"""
    x = input.astype(dt.float64)
    low, high = xp.minimum(x, -1.0), xp.maximum(x, -1.0)
    left = xp.log(0.5 * xp.special("erfcx", low * (-1.0 / _ROOT_2))) - 0.5 * low * low
    right = xp.log1p(-0.5 * xp.special("erfc", high * (1.0 / _ROOT_2)))
    return xp.where(x < -1.0, left, right).astype(input.dtype)


# -- gamma functions --------------------------------------------------------------------------------------------------


@elementwise(
    "float", vjp=lambda g, input: g * digamma(input), examples=unary_samples(0.3, 4.0), aliases=("special.gammaln",)
)
def lgamma(xp, input):
    """ln |Γ(input)|"""
    return xp.special("lgamma", input)


@elementwise(
    "float", vjp=lambda g, input: g * polygamma(1, input), examples=unary_samples(0.3, 4.0),
    aliases=("special.digamma", "special.psi"),
)  # fmt: skip
def digamma(xp, input):
    """ψ(input), the derivative of ln Γ"""
    return xp.special("digamma", input)


@primitive(vjp=lambda g, input, n: g * _polygamma(input, n=n + 1), batch="elementwise")
def _polygamma(xp, input, *, n):
    if n == 1:
        return xp.special("trigamma", input)
    wide = input.astype(dt.float64)
    values = xp.special("zeta", xp.full(input.shape, n + 1.0, dtype=dt.float64), wide)
    return (values * ((-1.0) ** (n + 1) * math.factorial(n))).astype(input.dtype)


def polygamma(n, input):
    """The n-th derivative of ψ: (−1)ⁿ⁺¹ n! ζ(n + 1, input); n = 0 is `digamma`."""
    if isinstance(n, Tensor):  # the method: x.polygamma(n)
        n, input = input, n
    if not isinstance(n, int) or n < 0:
        raise ArgumentError("polygamma: n is a whole number, at least 0", received=repr(n))
    return digamma(input) if n == 0 else float_op(_polygamma, input, n=n)


polygamma = composite(
    examples=lambda make: [sample(n, make(5, low=0.5, high=4.0)) for n in (0, 1, 2, 3)],
    aliases=("special.polygamma",), inplace=True,
)(polygamma)  # fmt: skip


@composite(
    examples=lambda make: [sample(make(3, 4, low=1.5, high=4.0), p) for p in (1, 2, 3)], aliases=("special.multigammaln",),
    inplace=True,
)  # fmt: skip
def mvlgamma(input, p: int):
    """ln Γₚ(input) = p (p − 1) / 4 · ln π + Σ lgamma(input − k / 2) over k = 0 … p − 1; defined above (p − 1) / 2"""
    if p < 1:
        raise ArgumentError("mvlgamma: p is positive", received=str(p))
    (input,) = promote("mvlgamma", "float", input)
    total = lgamma(input)
    for k in range(1, p):
        total = total + lgamma(input - 0.5 * k)
    return total + 0.25 * p * (p - 1) * math.log(math.pi)


@elementwise(
    "float", place="special", method=False, second_order=True,
    vjp=(None, lambda g, input, other: neg(g * input * zeta(input + 1.0, other))),
    examples=lambda make: [sample(2.5, make(3, 4, low=0.5, high=3.0)), sample(make(4, low=1.5).detach(), make(3, 4, low=0.5, high=3.0))],
)  # fmt: skip
def zeta(xp, input, other):
    """Hurwitz's ζ(input, other) = Σ (other + k)⁻ⁱⁿᵖᵘᵗ over k = 0, 1, …"""
    shape = xp.broadcast_shapes(input.shape, other.shape)
    return xp.special("zeta", xp.broadcast_to(input, shape), xp.broadcast_to(other, shape))


# -- Bessel functions -------------------------------------------------------------------------------------------------


@elementwise("float", vjp=lambda g, input: g * i1(input), aliases=("special.i0",))
def i0(xp, input):
    """the modified Bessel function of the first kind of order 0"""
    return xp.special("i0", input)


@elementwise("float", place="special", method=False, vjp=lambda g, input, out: g * (i1e(input) - sign(input) * out))
def i0e(xp, input):
    """exp(−|input|) · i0(input)"""
    return xp.special("i0e", input)


def _over(out, input):
    """out / input, and its limit ½ at 0."""
    zero = input == 0
    return where(zero, 0.5, out / where(zero, 1.0, input))


@elementwise("float", place="special", method=False, vjp=lambda g, input, out: g * (i0(input) - _over(out, input)))
def i1(xp, input):
    """the modified Bessel function of the first kind of order 1"""
    return xp.special("i1", input)


@elementwise(
    "float", place="special", method=False,
    vjp=lambda g, input, out: g * (i0e(input) - sign(input) * out - _over(out, input)),
)  # fmt: skip
def i1e(xp, input):
    """exp(−|input|) · i1(input)"""
    return xp.special("i1e", input)


# -- logarithms times a number --------------------------------------------------------------------------------------


def _log_slope(g, input, other, function, inside):
    """The slope by the factor: 0 where the factor is 0 and the logarithm is not defined."""
    flat = (input == 0) & (other <= inside)
    return where(flat, 0.0, g * function(where(flat, 1.0, other)))


@elementwise(
    "float",
    vjp=(
        lambda g, input, other: _log_slope(g, input, other, log, 0.0),
        lambda g, input, other: g * input / other,
    ),
    examples=binary_samples(-2.0, 2.0, 0.3, 3.0),
    aliases=("special.xlogy",),
)
def xlogy(xp, input, other):
    """input · ln other, and 0 where input is 0; NaN where other is"""
    out = input * xp.log(other)
    return xp.where((input == 0) & ~xp.isnan(other), xp.zeros((), dtype=out.dtype), out)


@elementwise(
    "float", place="special", method=False,
    vjp=(
        lambda g, input, other: _log_slope(g, input, other, log1p, -1.0),
        lambda g, input, other: g * input / (other + 1.0),
    ),
    examples=binary_samples(-2.0, 2.0, -0.5, 3.0),
)  # fmt: skip
def xlog1py(xp, input, other):
    """input · ln(1 + other), and 0 where input is 0; NaN where other is"""
    out = input * xp.log1p(other)
    return xp.where((input == 0) & ~xp.isnan(other), xp.zeros((), dtype=out.dtype), out)


@elementwise(
    "float",
    place="special",
    method=False,
    vjp=lambda g, input: g * (-1.0 - log(input)),
    examples=unary_samples(0.2, 3.0),
)
@in_float32
def entr(xp, input):
    """−input · ln input, 0 at 0, −∞ below"""
    positive = input > 0
    out = xp.where(positive, -input * xp.log(xp.where(positive, input, xp.ones_like(input))), xp.zeros_like(input))
    return xp.where(input < 0, xp.full_like(input, -math.inf), xp.where(xp.isnan(input), input, out))


def _logit_back(g, input, low):
    slope = g / (input * (1.0 - input))
    if low is None:
        return where((input < 0) | (input > 1), math.nan, slope)
    outside = (input < low) | (input > 1.0 - low)
    return where(outside, 0.0, g / where(outside, 1.0, input * (1.0 - input)))


@primitive(vjp=_logit_back, batch="elementwise")
@in_float32
def _logit(xp, input, *, low):
    if low is not None:
        bounds = xp.constant(low, input.dtype), xp.constant(1.0 - low, input.dtype)
        input = xp.minimum(xp.maximum(input, bounds[0]), bounds[1])
    return xp.log(input / (xp.ones((), dtype=input.dtype) - input))


@composite(
    examples=lambda make: [sample(make(3, 4, low=0.1, high=0.9)), sample(make(5, low=0.1, high=0.9), 0.25)],
    aliases=("special.logit",), inplace=True,
)  # fmt: skip
def logit(input, eps: float | None = None):
    """ln(x / (1 − x)); with `eps`, x is first limited to eps … 1 − eps. NaN outside 0 … 1"""
    (input,) = promote("logit", "float", input)
    return apply(_logit, (input,), {"low": None if eps is None else float(eps)})


def _sinc_back(g, input):
    zero = input == 0
    x = where(zero, 1.0, input) * math.pi
    return where(zero, 0.0, g * ((cos(x) * x - sin(x)) / (x * x) * math.pi))


@elementwise("float", vjp=_sinc_back, aliases=("special.sinc",))
@in_float32
def sinc(xp, input):
    """sin(πx) / (πx), and 1 at 0"""
    x = input * xp.constant(math.pi, input.dtype)
    zero = x == 0
    one = xp.ones((), dtype=x.dtype)
    return xp.where(zero, one, xp.sin(x) / xp.where(zero, one, x))
