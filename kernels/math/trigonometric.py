"""Circular and hyperbolic functions, their inverses, powers and logarithms, for results that are rounded to float32.

They compute in float64, with errors of 1e-11 or less, without a branch, so nearly all results are correctly rounded.
Where a function has `<name>_far(…)` and `<name>_library(…)` beside it, the second is called for the numbers for which the
first is true, one at a time.
"""

from __future__ import annotations

import math

import numpy as np

from deepcore.kernels.math.elementary import exp_quick, fma, power_of_two, signed

#: The dtype of these formulas, whatever that of their caller.
COMPUTED_IN = np.float64

_INF, _NAN = float("inf"), float("nan")
_LN2, _LOG2_E, _LOG10_2 = 0.6931471805599453, 1.4426950408889634, 0.3010299956639812
_LOG10_E = 0.4342944819032518
_HALF_ROOT_BITS = np.float64(0.5**0.5).view(np.int64)
_HALF_PI, _HALF_PI_LOW = 1.5707963267948966, 6.123233995736766e-17
_TWO_OVER_PI = 0.6366197723675814
_ROUND = 1.5 * 2.0**52
_ROUND_BITS = np.float64(_ROUND).view(np.int64)
_TAN_EIGHTH = 0.4142135623730951  # tan(π/8)
#: From here on, the multiple of π/2 has too many bits for an exact reduction.
_FAR = 2.0**48


# -- exponentials and logarithms -------------------------------------------------------------------------------------


def exp_near(x):
    """eˣ, clamped to e^±300."""
    y = 300.0 if x > 300.0 else x
    k, p = exp_quick(-300.0 if y < -300.0 else y)
    return p * power_of_two(k)


def log2_parts(x):
    """(k, l): ln x = k·ln 2 + l, for normal x > 0."""
    bits = np.float64(x).view(np.int64)
    k = (bits - _HALF_ROOT_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    # fmt: off
    p = fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, 0.14616576421644387, 0.15331711346672997), 0.18182889433757515),
        0.22222211130560726), 0.28571428626001427), 0.3999999999989945), 0.666666666666667)
    # fmt: on
    return np.float64(k), fma(s * z, p, 2.0 * s)


def log_near(x):
    k, low = log2_parts(x)
    return log_edges(x, fma(k, _LN2, low))


def log_edges(x, value):
    return (value if x < _INF else x) if x > 0.0 else (-_INF if x == 0.0 else _NAN)


def exp2(x):
    """2ˣ"""
    return exp_near(x * _LN2)


def log2(x):
    """log₂ x"""
    k, low = log2_parts(x)
    return log_edges(x, fma(low, _LOG2_E, k))


def log10(x):
    """log₁₀ x"""
    k, low = log2_parts(x)
    return log_edges(x, fma(k, _LOG10_2, low * _LOG10_E))


def logaddexp(x, y):
    """ln(eˣ + eʸ)"""
    most = x if x > y or x != x else y
    gap = 0.0 if x == y else -abs(x - y)
    return most + log_near(1.0 + exp_near(gap))


def power(x, y):
    """x to the power y, with the special cases of C's pow."""
    a = abs(x)
    r = exp_near(y * log_near(a))
    whole = np.floor(y) == y
    odd = whole and np.floor(0.5 * y) != 0.5 * y
    negative = np.float64(x).view(np.int64) < 0
    bad = negative and not whole and a != 0.0 and a < _INF
    r = _NAN if bad and abs(y) < _INF else r
    r = -r if negative and odd else r
    one = (a == 1.0 and abs(y) == _INF) or y == 0.0 or x == 1.0
    return 1.0 if one else r


# -- circular functions --------------------------------------------------------------------------------------------


def quarter_turns(x):
    """(n, r): x = n·π/2 + r, |r| ≤ π/4, for |x| < _FAR."""
    whole = np.float64(fma(x, _TWO_OVER_PI, _ROUND))
    n = whole - _ROUND
    return whole.view(np.int64) - _ROUND_BITS, fma(n, -_HALF_PI_LOW, fma(n, -_HALF_PI, x))


def sine_near(r):
    z = r * r
    # fmt: off
    return fma(r * z, fma(z, fma(z, fma(z, fma(z, fma(z, 1.5918106547698465e-10, -2.5051131529247195e-08),
        2.7557316101037288e-06), -0.00019841269836755654), 0.008333333333330946), -0.16666666666666666), r)
    # fmt: on


def cosine_near(r):
    z = r * r
    # fmt: off
    return fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, -1.136798206859618e-11, 2.0875886456666413e-09),
        -2.755731556456651e-07), 2.4801587293688347e-05), -0.0013888888888880769), 0.04166666666666664), -0.5), 1.0)
    # fmt: on


def sin(x):
    n, r = quarter_turns(x)
    value = cosine_near(r) if n & 1 else sine_near(r)
    return x if x == 0.0 else -value if n & 2 else value


def sin_far(x):
    return abs(x) >= _FAR and abs(x) < _INF


def sin_library(x):
    return math.sin(x)


def cos(x):
    n, r = quarter_turns(x)
    value = sine_near(r) if n & 1 else cosine_near(r)
    return -value if (n + 1) & 2 else value


def cos_far(x):
    return abs(x) >= _FAR and abs(x) < _INF


def cos_library(x):
    return math.cos(x)


def tan(x):
    n, r = quarter_turns(x)
    s, c = sine_near(r), cosine_near(r)
    return x if x == 0.0 else -c / s if n & 1 else s / c


def tan_far(x):
    return abs(x) >= _FAR and abs(x) < _INF


def tan_library(x):
    return math.tan(x)


def angle(low, high):
    """atan(low/high) for 0 ≤ low ≤ high."""
    steep = low > _TAN_EIGHTH * high or (low == high and high > 0.0)
    top = (0.0 if low == high else low - high) if steep else low
    below = (low + high) if steep else high
    t = top / (1.0 if below == 0.0 else below)
    z = t * t
    # fmt: off
    p = fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, -0.027232785254859997, 0.05168828563438976),
        -0.06550905644738925), 0.07681044977864779), -0.09090255935933511), 0.11111089648537219), -0.1428571393036536),
        0.19999999997724788), -0.3333333333333093)
    # fmt: on
    return fma(t * z, p, t) + (0.5 * _HALF_PI if steep else 0.0)


def atan2(y, x):
    """The angle of the point (x, y)."""
    a, b = abs(y), abs(x)
    value = angle(b if a > b else a, a if a > b else b)
    value = _HALF_PI - value if a > b else value
    value = 2.0 * _HALF_PI - value if np.float64(x).view(np.int64) < 0 else value
    return _NAN if x != x or y != y else signed(value, y)


def atan(x):
    a = abs(x)
    value = angle(1.0 if a > 1.0 else a, a if a > 1.0 else 1.0)
    return x if x != x else signed(_HALF_PI - value if a > 1.0 else value, x)


def asin(x):
    a = abs(x)
    other = np.sqrt((1.0 - a) * (1.0 + a))
    value = angle(other if a > other else a, a if a > other else other)
    value = signed(_HALF_PI - value if a > other else value, x)
    return value if a <= 1.0 else _NAN


def acos(x):
    a = abs(x)
    other = np.sqrt((1.0 - a) * (1.0 + a))
    value = angle(other if a > other else a, a if a > other else other)
    value = value if a > other else _HALF_PI - value
    value = 2.0 * _HALF_PI - value if x < 0.0 else value
    return value if a <= 1.0 else _NAN


# -- hyperbolic functions -----------------------------------------------------------------------------------------------


def sinh(x):
    a = abs(x)
    e = exp_near(a)
    return signed(a * fma(a * a, 0.16666666666666666, 1.0) if a < 1e-3 else 0.5 * (e - 1.0 / e), x) if x == x else x


def cosh(x):
    e = exp_near(abs(x))
    return 0.5 * (e + 1.0 / e)


def asinh(x):
    a = abs(x)
    s = a * a
    far = log_near(a + np.sqrt(s + 1.0))
    return signed(a * fma(s, fma(s, 0.075, -0.16666666666666666), 1.0) if a < 1e-3 else far, x) if x == x else x


def acosh(x):
    value = log_near(x + np.sqrt((x - 1.0) * (x + 1.0)))
    return value if x >= 1.0 else _NAN


def atanh(x):
    s = x * x
    near = x * fma(s, fma(s, 0.2, 0.3333333333333333), 1.0)
    return near if abs(x) < 1e-3 else 0.5 * log_near((1.0 + x) / (1.0 - x))


# -- remainders of float32, by NumPy's steps ---------------------------------------------------------------------------


def fmod(x, y):
    """x - y·trunc(x/y), exact: the quotient is right below 2²⁸."""
    r = fma(-np.trunc(x / y), y, x)
    r = x if abs(y) == _INF and abs(x) < _INF else r
    return signed(abs(r), x)


def fmod_far(x, y):
    q = abs(x / y)
    return q >= 2.0**28 and q < _INF


def fmod_library(x, y):
    return np.fmod(x, y)


def remainder(x, y):
    """x - y·floor(x/y): with the sign of y."""
    return remainder_from(fmod(x, y), y)


def remainder_from(r, y):
    wrapped = np.float64(np.float32(r) + np.float32(y))
    other = wrapped if (y < 0.0) != (r < 0.0) else r
    return signed(0.0, y) if r == 0.0 else other


def remainder_far(x, y):
    return fmod_far(x, y)


def remainder_library(x, y):
    return remainder_from(np.fmod(x, y), y)


def floor_divide(x, y):
    return floor_divide_from(fmod(x, y), x, y)


def floor_divide_from(r, x, y):
    """⌊x/y⌋ from the remainder r, each step rounded to float32."""
    quotient = np.float64(np.float32(x) / np.float32(y))
    whole = np.float64(np.float32(np.float32(x) - np.float32(r)) / np.float32(y))
    whole = np.float64(np.float32(whole) - np.float32(1.0)) if r != 0.0 and (y < 0.0) != (r < 0.0) else whole
    down = np.floor(whole)
    down = np.float64(np.float32(down) + np.float32(1.0)) if whole - down > 0.5 else down
    result = signed(0.0, quotient) if whole == 0.0 else down
    return quotient if y == 0.0 else result


def floor_divide_far(x, y):
    return fmod_far(x, y)


def floor_divide_library(x, y):
    return floor_divide_from(np.fmod(x, y), x, y)
