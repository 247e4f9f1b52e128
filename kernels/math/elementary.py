"""Elementary functions, written once for `lift`; none has a branch, so loops over them vectorise.

The polynomials are Chebyshev interpolants or best approximations, computed in 60-digit arithmetic and rounded once.
`exp` computes in float64, `exp_float32` in float32 alone; formulas call `exp`, and `lift(formula, dtype)` chooses.
The errors stated are the largest found over all floats, in units in the last place (ulp).
"""

from __future__ import annotations

import numpy as np

from deepcore.kernels.math.formula import formula

# log(2) in two parts, the first with 20 zero bits at its end so that its product with an exponent is exact.
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_SIXTH, _SIXTH_REST = 1 / 6, 9.25185853854297e-18
_ROUND = 1.5 * 2.0**52  # adding it rounds to an integer, held in the low bits of the sum
_ROUND_BITS = np.float64(_ROUND).view(np.int64)
_LOG2_E = 1.4426950408889634
_HALF_ROOT_BITS = np.float64(0.5**0.5).view(np.int64)
# Minus the logarithms of 5/4 and 3/4 in two parts, the first ending as log(2)'s does.
_LOG_C_5_HIGH, _LOG_C_5_LOW = float.fromhex("-0x1.c8ff7c7800000p-3"), -4.838889490356316e-11
_LOG_C_3_HIGH, _LOG_C_3_LOW = float.fromhex("0x1.2696211400000p-2"), -4.053543780278539e-11
_LEAST_EXPONENT = -708.3964185322641  # log(2⁻¹⁰²²): below it eˣ is subnormal
_SIGN = np.int64(-(2**63))
_INF, _NAN = float("inf"), float("nan")

# The same for float32; here log(2)'s first part ends in 9 zero bits.
_LN2_HIGH_F = 0.693145751953125
_LN2_LOW_F = 1.42860677e-06
_LN2_F, _LN2_REST_F = 0.6931471824645996, -1.904654212e-09  # log(2) rounded, and the rest
_ROUND_F = 1.5 * 2.0**23
_ROUND_BITS_F = np.float32(_ROUND_F).view(np.int32)
_THREE_QUARTERS_BITS_F = np.float32(0.75).view(np.int32)
_BELOW_ONE_F = 1.0 - 2.0**-22
_LEAST_EXPONENT_F = -87.3365478515625  # log(2⁻¹²⁶)
_SIGN_F = np.int32(-(2**31))
_ONE_F, _DOUBLE_LEAST_F = np.int32(127 << 23), np.int32(1 << 23)  # the bits of 1 and of 2⁻¹²⁶


def fma(a, b, c):
    """a·b + c; rounded once when lifted."""
    return a * b + c


def signed(magnitude, sign):
    """A non-negative magnitude with the sign of `sign`, zeros included."""
    return np.int64(np.float64(magnitude).view(np.int64) | (np.float64(sign).view(np.int64) & _SIGN)).view(np.float64)


def signed_float32(magnitude, sign):
    return np.int32(np.float32(magnitude).view(np.int32) | (np.float32(sign).view(np.int32) & _SIGN_F)).view(np.float32)


def power_of_two(k):
    """2ᵏ for an integer k from -1022 to 1023."""
    return np.int64((k + 1023) << 52).view(np.float64)


def power_of_two_float32(k):
    return np.int32((k + 127) << 23).view(np.float32)


def exp_split(x):
    """(k, s, half, rest): eˣ = 2ᵏ·(1 + s + half + rest), |s| ≤ 0.35, half = s²/2 rounded."""
    whole = np.float64(fma(x, _LOG2_E, _ROUND))
    n = whole - _ROUND
    r = fma(n, -_LN2_HIGH, x)
    s = fma(n, -_LN2_LOW, r)
    lost = fma(n, -_LN2_LOW, r - s)
    square = s * s
    lost = fma(lost, fma(0.5, square, s), lost)
    # fmt: off
    q = fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 2.092344417825318e-09, 2.5106539555391986e-08),
        2.7557246852441126e-07), 2.755725279306673e-06), 2.4801587354226442e-05), 0.0001984126987552661),
        0.0013888888888871351), 0.008333333333327132), 0.041666666666666685)
    # fmt: on
    cube = square * s
    lost_square = fma(s, s, -square)
    lost = fma(fma(square, s, -cube), _SIXTH, fma(square * square, q, fma(cube, _SIXTH_REST, lost)))
    rest = fma(cube, _SIXTH, fma(lost_square, fma(s, _SIXTH, 0.5), lost))
    return whole.view(np.int64) - _ROUND_BITS, s, 0.5 * square, rest


def exp_split_float32(x):
    whole = np.float32(fma(x, _LOG2_E, _ROUND_F))
    n = whole - _ROUND_F
    r = fma(n, -_LN2_HIGH_F, x)
    s = fma(n, -_LN2_LOW_F, r)
    lost = fma(n, -_LN2_LOW_F, r - s)
    lost = fma(lost, s, lost)
    square = s * s
    p = fma(s, fma(s, fma(s, fma(s, 0.00019913197, 0.0013935404), 0.008333275), 0.04166646), 0.16666667)
    rest = fma(square * s, p, fma(0.5, fma(s, s, -square), lost))
    return np.int32(whole.view(np.int32) - _ROUND_BITS_F), s, 0.5 * square, rest


def exp_sum(base, scale, s, half, rest):
    """(high, low) of base + scale·(s + half + rest), for |base| ≥ scale/2 or base = 0, scale a power of two."""
    first = fma(scale, s, base)
    high = fma(scale, half, first)
    low = fma(scale, s, base - first) + fma(scale, half, first - high)
    return high, fma(scale, rest, low)


@formula()
def exp(x):
    """eˣ; at most 0.52 ulp off (float32: 0.56), also where it is subnormal."""
    y = 710.0 if x > 710.0 else x
    y = -746.0 if y < -746.0 else y
    k, s, half, rest = exp_split(y)
    # Beside this number the sum has the last place of a subnormal result, and is rounded once.
    coarse = power_of_two(-1022 - k) if y < _LEAST_EXPONENT else 0.0
    base = coarse + 1.0
    high, low = exp_sum(base, 1.0, s, half, rest)
    k1 = k >> 1  # two factors: 2ᵏ alone would overflow before the result does, or be subnormal
    return ((high + (low + ((coarse - base) + 1.0))) - coarse) * power_of_two(k1) * power_of_two(k - k1)


def exp_float32(x):
    y = 89.0 if x > 89.0 else x
    y = -104.0 if y < -104.0 else y
    whole = np.float32(fma(y, _LOG2_E, _ROUND_F))
    n = whole - _ROUND_F
    s = fma(n, -_LN2_F, y)  # exact
    square = s * s
    q = fma(s, fma(s, fma(s, fma(s, 0.0001976172, 0.0013943496), 0.0083335545), 0.041666318), 0.16666666)
    bits = whole.view(np.int32)
    k = np.int32(bits << 23)  # times 2²³, as the other factors' exponents: the bits of _ROUND_F are shifted out
    k1 = np.int32((bits >> 1) << 23)
    coarse = np.int32(_DOUBLE_LEAST_F - k).view(np.float32) if y < _LEAST_EXPONENT_F else 0.0
    first = (coarse + 1.0) + s
    low = fma(n * -_LN2_REST_F, fma(s, fma(0.5, s, 1.0153), 1.0), ((coarse - first) + 1.0) + s)
    low = fma(0.5 * s, s, fma(square * s, q, low))
    return (
        ((first + low) - coarse) * np.int32(k1 + _ONE_F).view(np.float32) * np.int32(k - k1 + _ONE_F).view(np.float32)
    )


@formula()
def expm1(x):
    """eˣ - 1, exact near 0; at most 0.58 ulp off."""
    y = 710.0 if x > 710.0 else x
    y = -40.0 if y < -40.0 else y
    return expm1_limited(x, y)


def expm1_float32(x):
    y = 89.0 if x > 89.0 else x
    y = -20.0 if y < -20.0 else y
    return expm1_limited(x, y)


def expm1_limited(x, y):
    k, s, half, rest = exp_split(y)
    scale = power_of_two(k - 1)
    base = scale - 0.5
    high, low = exp_sum(base, scale, s, half, rest)
    lost = scale - (base + 0.5) if scale < 0.5 else (scale - base) - 0.5
    result = 2.0 * (high + (low + lost))
    return x if abs(x) < 1e-16 else result


def exp_quick(x):
    """(k, p): eˣ = 2ᵏ·p; at most 1.1 ulp off."""
    whole = np.float64(fma(x, _LOG2_E, _ROUND))
    n = whole - _ROUND
    s = fma(n, -_LN2_LOW, fma(n, -_LN2_HIGH, x))
    # fmt: off
    p = fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 2.5118888286549498e-08,
        2.763134908840055e-07), 2.7557212124202177e-06), 2.480148972481233e-05), 0.00019841269923876639),
        0.0013888888947259368), 0.00833333333330244), 0.04166666666651429), 0.16666666666666716), 0.5000000000000013),
        1.0)
    # fmt: on
    return whole.view(np.int64) - _ROUND_BITS, fma(s, p, 1.0)


def exp_quick_float32(x):
    whole = np.float32(fma(x, _LOG2_E, _ROUND_F))
    n = whole - _ROUND_F
    s = fma(n, -_LN2_LOW_F, fma(n, -_LN2_HIGH_F, x))
    p = fma(s, fma(s, fma(s, fma(s, fma(s, 0.001395456, 0.00837504), 0.041666124), 0.16666417), 0.5), 1.0)
    return np.int32(whole.view(np.int32) - _ROUND_BITS_F), fma(s, p, 1.0)


def exp_below(x):
    """eˣ for x ≤ 0; at most 1.1 ulp off, 1.3 where it is subnormal."""
    k, p = exp_quick(-746.0 if x < -746.0 else x)
    return p * power_of_two(k + 60) * 2.0**-60


def exp_below_float32(x):
    k, p = exp_quick(-104.0 if x < -104.0 else x)
    return p * power_of_two(k + 30) * 2.0**-30


def exp_normal(x):
    """eˣ for x ≤ 0, and 0 where that is no normal number: processors compute with those at a fraction of their speed."""
    k, p = exp_quick(-708.0 if x < -708.0 else x)
    return 0.0 if x < -708.0 else p * power_of_two(k)


def exp_normal_float32(x):
    k, p = exp_quick(-87.0 if x < -87.0 else x)
    return 0.0 if x < -87.0 else p * power_of_two(k)


def sigmoid_parts(x):
    """(high, low, inverse): 1/(1 + e⁻ˣ) = high + low·inverse."""
    e = exp_below(-abs(x))
    inverse = 1.0 / (1.0 + e)
    above = e if x < 0.0 else 1.0
    ratio = above * inverse
    return ratio, fma(-ratio, e, above - ratio), inverse  # the difference is exact


@formula()
def sigmoid(x):
    """1/(1 + e⁻ˣ); at most 1.5 ulp off, also where it is tiny."""
    high, low, inverse = sigmoid_parts(x)
    return fma(low, inverse, high)


def tanh_near(a):
    """tanh a for a in [0, 0.36]."""
    s = a * a
    # fmt: off
    return fma(a * s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 0.0004689238219413141, -0.001428023019424388),
        0.0035886152039183343), -0.00886297580694242), 0.021869477296629972), -0.053968253698528625),
        0.13333333333019884), -0.3333333333333209), a)
    # fmt: on


def tanh_near_float32(a):
    s = a * a
    return fma(a * s, fma(s, fma(s, fma(s, 0.01929526, -0.05369618), 0.13332185), -0.3333332), a)


@formula()
def tanh(x):
    """tanh x; at most 0.67 ulp off (float32: 0.58)."""
    a = abs(x)
    b = 20.0 if a > 20.0 else a
    k, s, half, rest = exp_split(2.0 * b)
    first, low = exp_sum(1.0, 1.0, s, half, rest)
    high = first + low
    scale = power_of_two(k)
    low = ((first - high) + low) * scale
    high = high * scale
    below = high + 1.0
    w = 2.0 / below
    # What rounding took from the sum and the quotient.
    lost = fma(-w, below, 2.0) - w * ((1.0 - (below - high)) + low)
    far = 1.0 - w
    far = far + (((1.0 - far) - w) - lost * (0.5 * w))
    return signed(tanh_near(a) if a < 0.36 else far, x)


def log_sum(k, m, lost):
    """k·log 2 + log(m + lost), for m in [√½, √2] and lost small beside it, or m = 1 and lost near 0."""
    # Times c, which has few bits, m is near 1, and m·c - 1 exact.
    c = 1.25 if m < 0.875 else (0.75 if m > 1.2 else 1.0)
    log_c = _LOG_C_5_HIGH if m < 0.875 else (_LOG_C_3_HIGH if m > 1.2 else 0.0)
    log_c_low = _LOG_C_5_LOW if m < 0.875 else (_LOG_C_3_LOW if m > 1.2 else 0.0)
    high, low = log1p_near(fma(m, c, -1.0), c * lost)
    base = fma(k, _LN2_HIGH, log_c)
    total = base + high
    return total + ((base - total) + high + fma(k, _LN2_LOW, low + log_c_low))


def log1p_near(m, lost):
    """(high, low) of log(1 + m + lost), for m in [-0.2, 0.21], lost beside it or alone."""
    f = m + lost
    lost = (m - f) + lost
    s = f / (2.0 + f)
    z = s * s
    # fmt: off
    r = z * fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, 0.1479594472974095, 0.15314051082643476), 0.18183564303704047),
        0.22222198573659313), 0.2857142874238238), 0.39999999999414704), 0.6666666666666734)
    # fmt: on
    half = 0.5 * f * f
    first = f - half
    return first, ((f - first) - half) - fma(0.5 * f, f, -half) + fma(s, half + r, fma(-f, lost, lost))


def log_sum_float32(k, f):
    """k·log 2 + log(1 + f), for f in [-1/4, 1/2] and little beyond."""
    h = -0.5 * f
    first = fma(h, f, f)
    low = fma(f * (f * f), log1p_rest_float32(f), fma(h, f, f - first))
    base = k * _LN2_HIGH_F
    total = base + first
    return total + ((base - total) + first + fma(k, _LN2_LOW_F, low))


def log1p_rest_float32(f):
    """(log(1 + f) - f + f²/2)/f³ for f in [-1/4, 1/2]."""
    # fmt: off
    return fma(f, fma(f, fma(f, fma(f, fma(f, fma(f, fma(f, fma(f, 0.037028387, -0.09046728), 0.116882704), -0.12735946),
        0.14278571), -0.16654994), 0.19999506), -0.2500017), 0.3333334)
    # fmt: on


@formula()
def log(x):
    """ln x; at most 0.65 ulp off."""
    small = x < 2.0**-1022
    bits = np.float64(x * 2.0**54 if small else x).view(np.int64)
    k = (bits - _HALF_ROOT_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    result = log_sum(np.float64(k) - (54.0 if small else 0.0), m, 0.0)
    return (result if x < _INF else x) if x > 0.0 else (-_INF if x == 0.0 else _NAN)


def log_float32(x):
    small = x < 2.0**-126
    bits = np.float32(x * 2.0**25 if small else x).view(np.int32)
    k = np.int32(bits - _THREE_QUARTERS_BITS_F) >> 23
    m = np.int32(bits - (k << 23)).view(np.float32)
    result = log_sum_float32(np.float32(k) - (25.0 if small else 0.0), m - 1.0)
    return (result if x < _INF else x) if x > 0.0 else (-_INF if x == 0.0 else _NAN)


@formula()
def log1p(x):
    """ln(1 + x), exact near 0; at most 0.67 ulp off."""
    u = 1.0 + x
    z = u - 1.0
    lost = (1.0 - (u - z)) + (x - z)
    bits = np.float64(u).view(np.int64)
    k = (bits - _HALF_ROOT_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    result = log_sum(np.float64(k), m, lost * power_of_two(-(k if k < 100 else 100)))
    result = result if x > -1.0 else (-_INF if x == -1.0 else _NAN)
    return result if x < _INF and x != 0.0 else x


def log1p_float32(x):
    y = x * _BELOW_ONE_F  # 1 + x is not rounded up to 3/2
    t = np.int32(np.float32(1.0 + (x if x < y else y)).view(np.int32) - _THREE_QUARTERS_BITS_F)
    k = t >> 23
    scale = np.int32(_ONE_F + (2 << 23) - (k << 23)).view(np.float32)  # 4·2⁻ᵏ: 2⁻ᵏ may be subnormal
    f = fma(0.25 * x, scale, fma(0.25, scale, -1.0))  # exact where the logarithm shows it
    result = log_sum_float32(np.float32(k), f)
    result = result if x > -1.0 else (-_INF if x == -1.0 else _NAN)
    return result if x < _INF and abs(x) > 1e-30 else x


def log1p_sum(m, e):
    """m + ln(1 + e) for e in [0, 1] and m = 0 or m = -ln e."""
    # As in `log_sum`, but from e.
    c = 1.0 if e < 0.25 else (0.75 if e < 0.6 else 0.5)
    base = 0.0 if e < 0.25 else (_LOG_C_3_HIGH if e < 0.6 else _LN2_HIGH)
    base_low = 0.0 if e < 0.25 else (_LOG_C_3_LOW if e < 0.6 else _LN2_LOW)
    high, low = log1p_near(fma(e, c, c - 1.0), 0.0)
    first = base + high
    low = (base - first) + high + (base_low + low)
    total = m + first
    back = total - m
    return total + ((m - (total - back)) + (first - back) + low)


def log1p_sum_float32(m, e):
    near = e < 0.5
    f = e if near else fma(0.5, e, -0.5)  # exact
    base = 0.0 if near else _LN2_F
    # Each sum's first term is the larger, or 0.
    first = m + f
    total = base + first
    lost = ((base - total) + first) + ((m - first) + f)
    rest = fma(f, log1p_rest_float32(f), -0.5)
    return total + fma(f * f, rest, lost + (0.0 if near else _LN2_REST_F))
