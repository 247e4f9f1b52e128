"""Reference implementations over any array library: complete and correct; the slow path where a kernel exists.

`xp` is a Backend. Special functions compute in float64 and return the dtype of their argument (integers give the default
float). No step overflows, divides by zero or leaves its domain, so no array library warns.
"""

from __future__ import annotations

import functools
import math

from deepcore.backend import dtypes as dt
from deepcore.kernels.math import special
from deepcore.kernels.math.philox import philox_block


def _elementwise(function):
    @functools.wraps(function)
    def run(xp, *x):
        dtype = x[0].dtype if dt.is_floating(x[0].dtype) else dt.default_float
        return xp.asarray(function(xp, *(each.astype(dt.float64) for each in x)).astype(dtype))

    return run


@_elementwise
def erf(xp, x):
    """erf(x) = 2/√π ∫₀ˣ exp(-t²) dt, elementwise; at most 2 ulp off in float64."""
    return _erf(xp, x)


@_elementwise
def erfc(xp, x):
    """erfc(x) = 1 - erf(x), elementwise, without cancellation for large x; relative error 1e-15."""
    return _erfc(xp, x)


def _erf(xp, x):
    a = xp.abs(x)
    near, far = xp.minimum(a, 1.0), xp.minimum(xp.maximum(a, 1.0), 6.0)
    tail = 1.0 - xp.exp(-far * far) * special.erfcx_far(far)
    return xp.copysign(xp.where(a < 1.0, near + near * special.erf_near(near * near), tail), x)


def _erfc(xp, x):
    far = xp.minimum(xp.maximum(xp.abs(x), 1.0), 28.0)
    head = xp.floor(far * 16.0) / 16.0  # its square is exact, and the rest of far² is small
    tail = xp.exp(-head * head) * xp.exp((head - far) * (head + far)) * special.erfcx_far(far)
    return xp.where(xp.abs(x) < 1.0, 1.0 - _erf(xp, x), xp.where(x < 0.0, 2.0 - tail, tail))


@_elementwise
def erfinv(xp, x):
    """The y with erf(y) = x for x in [-1, 1] (±1 give ±inf), NaN outside; relative error 1e-14.

    Winitzki's approximation (2008), then three steps of Halley's method on whichever of erf and erfc is small.
    """
    a = xp.minimum(xp.abs(x), 1.0 - 2.0**-53)
    y = _inverse_erf(xp, a, 1.0 - a)
    y = xp.where(xp.abs(x) == 1.0, math.inf, xp.where(xp.abs(x) > 1.0, math.nan, y))
    return xp.copysign(y, x)


def _inverse_erf(xp, a, rest):
    """The y with erf(y) = a, where `rest` is 1 - a without cancellation."""
    log = xp.log(rest * (1.0 + a))
    half = 2.0 / (math.pi * 0.147) + 0.5 * log
    y = xp.sqrt(xp.maximum(xp.sqrt(half * half - log / 0.147) - half, 0.0))
    for _ in range(3):
        miss = xp.where(a < 0.5, _erf(xp, y) - a, rest - _erfc(xp, y))
        step = miss * (0.5 * math.sqrt(math.pi)) * xp.exp(y * y)
        y = y - step / (1.0 + y * step)
    return y


@_elementwise
def ndtri(xp, p):
    """The x with Φ(x) = p for p in [0, 1] (0 and 1 give ∓inf), NaN outside; relative error 1e-14."""
    tail = xp.minimum(p, 1.0 - p)
    inside = xp.minimum(xp.maximum(xp.where(xp.isnan(p), 0.5, tail), 1e-300), 0.5)
    y = _inverse_erf(xp, 1.0 - 2.0 * inside, 2.0 * inside) * -math.sqrt(2.0)
    y = xp.where(tail == 0.0, -math.inf, y)
    return xp.where((p < 0.0) | (p > 1.0) | xp.isnan(p), math.nan, xp.where(p > 0.5, -y, y))


@_elementwise
def erfcx(xp, x):
    """exp(x²)·erfc(x), elementwise, without overflow for x > -26; relative error 1e-15."""
    a = xp.abs(x)
    near, middle, far = xp.minimum(a, 1.0), xp.minimum(xp.maximum(a, 1.0), 28.0), xp.maximum(a, 28.0)
    s = 1.0 / (far * far)
    series = (1.0 - s * (0.5 - s * (0.75 - s * 1.875))) / (far * math.sqrt(math.pi))
    value = xp.where(a < 28.0, special.erfcx_far(middle), series)
    value = xp.where(a < 1.0, xp.exp(near * near) * (1.0 - _erf(xp, near)), value)
    low = xp.minimum(a, 27.0)  # exp(27²) is infinite
    value = xp.where(x < 0.0, 2.0 * xp.exp(low * low) - value, value)
    return xp.where(xp.isnan(x), x, value)


def _bessel(xp, a, order: int):
    """exp(-a)·I(a) of order 0 or 1 for a ≥ 0: the power series below 20, the asymptotic one above."""
    near, above = xp.minimum(a, 20.0), xp.maximum(xp.where(xp.isnan(a), 20.0, a), 20.0)
    far = xp.minimum(above, 1e300)  # a series of infinity would be NaN
    square, total = near * near * 0.25, 0.0
    for k in range(40, -1, -1):
        total = total * square + 1.0 / (math.factorial(k) * math.factorial(k + order))
    series = total * xp.exp(-near) * (0.5 * near if order else 1.0)
    term, tail = 1.0 + 0.0 * far, 1.0 + 0.0 * far
    for k in range(1, 31):
        term = term * (((2 * k - 1) ** 2 - 4 * order * order) / (8.0 * k)) / far
        tail = tail + term
    return xp.where(a < 20.0, series, xp.where(xp.isnan(a), a, tail / (math.sqrt(2.0 * math.pi) * xp.sqrt(above))))


@_elementwise
def i0e(xp, x):
    """exp(-|x|)·I₀(x), the modified Bessel function of the first kind of order 0, scaled."""
    return _bessel(xp, xp.abs(x), 0)


@_elementwise
def i0(xp, x):
    """I₀(x), the modified Bessel function of the first kind of order 0."""
    half = xp.exp(0.5 * xp.abs(x))
    return half * _bessel(xp, xp.abs(x), 0) * half


@_elementwise
def i1e(xp, x):
    """exp(-|x|)·I₁(x), the modified Bessel function of the first kind of order 1, scaled."""
    return xp.copysign(_bessel(xp, xp.abs(x), 1), x)


@_elementwise
def i1(xp, x):
    """I₁(x), the modified Bessel function of the first kind of order 1."""
    half = xp.exp(0.5 * xp.abs(x))
    return xp.copysign(half * _bessel(xp, xp.abs(x), 1) * half, x)


#: B₂ⱼ / (2j)! for j = 1, 2, …, 12.
_EULER_MACLAURIN = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
    -3617 / 10670622842880000, 43867 / 5109094217170944000, -174611 / 802857662698291200000,
    77683 / 14101100039391805440000, -236364091 / 1693824136731743669452800000,
)  # fmt: skip


def _hurwitz(xp, s, q):
    """ζ(s, q) for s > 1 and q > 0, by Euler and Maclaurin."""
    total, end = 0.0, q + 20.0
    for k in range(20):
        total = total + xp.power(q + k, -s)
    factor = xp.power(end, -s)
    total = total + xp.where(factor == 0.0, 0.0, factor * end / (s - 1.0)) + 0.5 * factor
    factor = factor * s / end
    for j, coefficient in enumerate(_EULER_MACLAURIN):
        total = total + coefficient * factor
        factor = factor * (s + 2 * j + 1) * (s + 2 * j + 2) / (end * end)
    return total


@_elementwise
def zeta(xp, s, q):
    """ζ(s, q) = Σ (q + k)⁻ˢ over k = 0, 1, …: inf at q = 0, -1, …, NaN for s < 1, and for q < 0 unless s is whole."""
    power, rest = xp.where((s > 1.0) & (s < math.inf), s, 2.0), q - xp.floor(q)
    above = _hurwitz(xp, power, xp.where(q > 0.0, q, 1.0))
    # Below 0 the terms are those from the fraction of q on, and some of those from 1 less the fraction on, turned.
    rest = xp.where((q < 0.0) & (rest > 0.0), rest, 0.5)
    turned = _hurwitz(xp, power, 1.0 - rest) - _hurwitz(xp, power, 1.0 - rest + xp.where(q < 0.0, -xp.floor(q), 1.0))
    below = _hurwitz(xp, power, rest) + xp.where(xp.floor(power * 0.5) * 2.0 == power, turned, -turned)
    total = xp.where(q > 0.0, above, xp.where(s == xp.floor(s), below, math.nan))
    total = xp.where((q <= 0.0) & (q == xp.floor(q)), math.inf, xp.where(xp.isnan(q), math.nan, total))
    return xp.where(s > 1.0, xp.where(s == math.inf, math.nan, total), xp.where(s == 1.0, math.inf, math.nan))


@_elementwise
def lgamma(xp, x):
    """log |Γ(x)|, elementwise: inf at 0, at the negative whole numbers and at ±inf; relative error 1e-14 for x > 0."""
    a = xp.where(x < -0.5, -x, x)
    finite = xp.where(xp.abs(a) < math.inf, a, 1.0)
    finite = xp.where(finite == 0.0, 1.0, finite)
    value = _lgamma_right(xp, finite)
    # Γ(x)·Γ(-x) = -π/(x·sin πx) carries x < -1/2 over to the right.
    left = xp.maximum(xp.where(x < -0.5, finite, 1.25), 0.5)
    fraction = left - xp.floor(left)
    fraction = xp.minimum(fraction, 1.0 - fraction)
    pole = fraction == 0.0
    sine = xp.sin(math.pi * xp.where(pole, 0.5, fraction))
    value = xp.where(x < -0.5, math.log(math.pi) - xp.log(left * sine) - value, value)
    infinite = (xp.abs(x) == math.inf) | (x == 0.0) | ((x < -0.5) & pole)
    return xp.where(infinite, math.inf, xp.where(xp.isnan(x), x, value))


def _lgamma_right(xp, y):
    """log |Γ(y)| for finite y ≥ -1/2, y ≠ 0."""
    large = xp.minimum(xp.maximum(y, 8.0), 2.5e305)
    stirling = (large - 0.5) * (xp.log(large) - 1.0) + 0.5 * (math.log(2.0 * math.pi) - 1.0)
    stirling = xp.where(y > 2.5e305, math.inf, stirling + special.lgamma_series(large))
    # Γ(y) = (y - 1)(y - 2) … Γ(2 + w) with w in [-1/2, 1/2), and Γ(y) = Γ(2 + w)/(y(y + 1)) or /y to the left.
    small = xp.minimum(y, 8.0)
    down = xp.floor(small - 1.5)
    w = small - (down + 2.0)
    factor = xp.where(down == -2.0, xp.abs(small) * (1.0 + small), xp.where(down == -1.0, small, 1.0))
    for j in range(1, 7):
        factor = factor * xp.where(down >= j, small - j, 1.0)
    logarithm = xp.where(down == -1.0, xp.log1p(xp.where(down == -1.0, w, 0.0)), xp.log(factor))
    return xp.where(y >= 8.0, stirling, w * special.lgamma_near(w) + xp.where(down < 0.0, -logarithm, logarithm))


@_elementwise
def digamma(xp, x):
    """ψ(x) = d/dx log Γ(x), elementwise: ∓inf at ±0, NaN at the negative whole numbers and -inf.

    Error 1e-15 of the larger of |ψ| and 1 for x > 0; to the left the reflection adds the rounding of π/tan πx.
    """
    tiny = xp.abs(x) < 1e-300
    safe = xp.where(tiny | (xp.abs(x) == math.inf) | (xp.isnan(x)), 1.0, x)
    y = xp.where(safe < 0.0, 1.0 - safe, safe)
    value = 0.0
    for _ in range(10):
        value = value - xp.where(y < 10.0, 1.0 / y, 0.0)
        y = xp.where(y < 10.0, y + 1.0, y)
    value = value + xp.log(y) + special.digamma_series(y)
    offset = safe - xp.rint(safe)
    pole = (safe < 0.0) & (offset == 0.0)
    value = xp.where(safe < 0.0, value - math.pi / xp.tan(math.pi * xp.where(offset == 0.0, 0.25, offset)), value)
    value = xp.where(pole | (x == -math.inf), math.nan, xp.where(x == math.inf, math.inf, value))
    near_zero = xp.where(xp.abs(x) < 1e-308, xp.copysign(math.inf, -x), -1.0 / xp.where(xp.abs(x) < 1e-308, 1.0, x))
    return xp.where(xp.isnan(x), x, xp.where(tiny, near_zero, value))


@_elementwise
def trigamma(xp, x):
    """ψ'(x), the derivative of digamma, elementwise: inf at 0 and at the negative whole numbers."""
    small = xp.abs(x) < 1e-150
    safe = xp.where(small | (xp.abs(x) == math.inf) | (xp.isnan(x)), 1.0, x)
    y = xp.where(safe < 0.0, 1.0 - safe, safe)
    value = 0.0
    for _ in range(10):
        low = xp.minimum(y, 10.0)
        value = value + xp.where(y < 10.0, 1.0 / (low * low), 0.0)
        y = xp.where(y < 10.0, y + 1.0, y)
    value = value + special.trigamma_series(y)
    offset = safe - xp.rint(safe)
    pole = (safe < 0.0) & (offset == 0.0)
    sine = xp.sin(math.pi * xp.where(offset == 0.0, 0.5, offset)) / math.pi
    near_pole = xp.abs(sine) < 1e-150
    value = xp.where(safe < 0.0, 1.0 / xp.where(near_pole, 1.0, sine * sine) - value, value)
    value = xp.where(pole | (near_pole & (safe < 0.0)) | small, math.inf, value)
    value = xp.where(x == math.inf, 0.0, xp.where(x == -math.inf, math.nan, value))
    return xp.where(xp.isnan(x), x, value)


gammaln = lgamma
psi = digamma


def philox(xp, seed: int, stream: int, position: int, blocks: int):
    """4·blocks words of Philox4x32-10: key = `seed`, counter = (block number, stream), 64 bits each."""
    counter = xp.arange(blocks, dtype=dt.uint64) + dt.uint64.type(position)
    words = philox_block(dt.uint64.type(seed), dt.uint64.type(stream), counter)
    out = xp.empty((blocks, 4), dtype=dt.uint32)
    for lane, word in enumerate(words):
        out[:, lane] = word
    return out.reshape(-1)
