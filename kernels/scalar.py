"""Scalar functions, written once: `lift` makes loops of them, and none has a branch, so the loops vectorise.

The polynomials are Chebyshev interpolants or best approximations, computed in 60-digit arithmetic and rounded once.
`exp` computes in float64, `exp_float32` in float32 alone; formulas call `exp`, and `lift(formula, dtype)` chooses.
The errors stated are the largest found over all floats, in units in the last place (ulp).
"""

from __future__ import annotations

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
# The multipliers and key increments of Philox4x32 (Salmon, Moraes, Dror, Shaw 2011, section 4.3).
_PHILOX_M0, _PHILOX_M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_PHILOX_W0, _PHILOX_W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

# log(2) in two parts, the first with 20 zero bits at its end so that its product with an exponent is exact.
_LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
_LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
_ROUND = 1.5 * 2.0**52  # adding it rounds to a whole number, kept in the low bits of the sum
_ROUND_BITS = np.float64(_ROUND).view(np.int64)
_LOG2_E = 1.4426950408889634
_HALF_ROOT_BITS = np.float64(0.5**0.5).view(np.int64)
_SIGN = np.int64(-(2**63))
_INF, _NAN = float("inf"), float("nan")

# The same for float32; here log(2)'s first part ends in 9 zero bits.
_LN2_HIGH_F = 0.693145751953125
_LN2_LOW_F = 1.42860677e-06
_ROUND_F = 1.5 * 2.0**23
_ROUND_BITS_F = np.float32(_ROUND_F).view(np.int32)
_HALF_ROOT_BITS_F = np.float32(0.5**0.5).view(np.int32)
_SIGN_F = np.int32(-(2**31))


def fma(a, b, c):
    """a·b + c, rounded once where it is lifted."""
    return a * b + c


def signed(magnitude, sign):
    """The magnitude, which has no sign, with the sign of `sign`, zeros included."""
    return np.int64(np.float64(magnitude).view(np.int64) | (np.float64(sign).view(np.int64) & _SIGN)).view(np.float64)


def signed_float32(magnitude, sign):
    return np.int32(np.float32(magnitude).view(np.int32) | (np.float32(sign).view(np.int32) & _SIGN_F)).view(np.float32)


def power_of_two(k):
    """2ᵏ for a whole number k from -1022 to 1023."""
    return np.int64((k + 1023) << 52).view(np.float64)


def power_of_two_float32(k):
    return np.int32((k + 127) << 23).view(np.float32)


# -- exponentials -------------------------------------------------------------------------------------------------


def exp_split(x):
    """(k, s, half, rest): eˣ = 2ᵏ·(1 + s + half + rest), |s| ≤ 0.35, half = s²/2 rounded."""
    whole = np.float64(fma(x, _LOG2_E, _ROUND))
    n = whole - _ROUND
    r = fma(n, -_LN2_HIGH, x)
    s = fma(n, -_LN2_LOW, r)
    lost = fma(n, -_LN2_LOW, r - s)
    lost = fma(lost, s, lost)
    square = s * s
    # fmt: off
    p = fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 2.092568768428708e-09, 2.5112177963070674e-08),
        2.755723865375422e-07), 2.755723444225783e-06), 2.4801587365121003e-05), 0.0001984126989681407),
        0.0013888888888865163), 0.008333333333316862), 0.0416666666666667), 0.16666666666666682)
    # fmt: on
    rest = fma(square * s, p, fma(0.5, fma(s, s, -square), lost))
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


def exp(x):
    """eˣ; at most 0.53 ulp off, 0.8 where it is subnormal."""
    y = 710.0 if x > 710.0 else x
    y = -746.0 if y < -746.0 else y
    return exp_limited(y)


def exp_float32(x):
    y = 89.0 if x > 89.0 else x
    y = -104.0 if y < -104.0 else y
    return exp_limited(y)


def exp_limited(x):
    k, s, half, rest = exp_split(x)
    high, low = exp_sum(1.0, 1.0, s, half, rest)
    k1 = k >> 1  # two factors: 2ᵏ alone would overflow before the result does, or be subnormal
    return (high + low) * power_of_two(k1) * power_of_two(k - k1)


def expm1(x):
    """eˣ - 1, exact near 0; at most 1 ulp off."""
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
    result = 2.0 * (high + (low + ((scale - base) - 0.5)))
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


def sigmoid(x):
    """1/(1 + e⁻ˣ); at most 1.7 ulp off, also where it is tiny."""
    e = exp_below(-abs(x))
    below = 1.0 + e
    inverse = 1.0 / below
    above = e if x < 0.0 else 1.0
    ratio = above * inverse
    lost = fma(-ratio, below, above) - ratio * (e - (below - 1.0))
    return fma(lost, inverse, ratio)


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


def tanh(x):
    """tanh x; at most 1 ulp off."""
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


# -- logarithms -----------------------------------------------------------------------------------------------------


def log_sum(k, f, lost):
    """k·log 2 + log(1 + f) + lost, for f in [√½ - 1, √2 - 1] and tiny lost."""
    s = f / (2.0 + f)
    z = s * s
    # fmt: off
    r = z * fma(z, fma(z, fma(z, fma(z, fma(z, fma(z, 0.1479594472974095, 0.15314051082643476), 0.18183564303704047),
        0.22222198573659313), 0.2857142874238238), 0.39999999999414704), 0.6666666666666734)
    # fmt: on
    half = 0.5 * f * f
    first = f - half
    rest = ((f - first) - half) - fma(0.5 * f, f, -half) + fma(s, half + r, lost)
    base = k * _LN2_HIGH
    total = base + first
    return total + ((base - total) + first + fma(k, _LN2_LOW, rest))


def log_sum_float32(k, f, lost):
    # fmt: off
    p = fma(f, fma(f, fma(f, fma(f, fma(f, fma(f, fma(f, -0.07634689, 0.12761681), -0.13160156), 0.14201742),
        -0.16623358), 0.20001228), -0.2500082), 0.3333333)
    # fmt: on
    half = 0.5 * f * f
    first = f - half
    rest = ((f - first) - half) - fma(0.5 * f, f, -half) + fma(f * (f * f), p, lost)
    base = k * _LN2_HIGH_F
    total = base + first
    return total + ((base - total) + first + fma(k, _LN2_LOW_F, rest))


def log(x):
    """ln x; at most 1 ulp off."""
    small = x < 2.0**-1022
    bits = np.float64(x * 2.0**54 if small else x).view(np.int64)
    k = (bits - _HALF_ROOT_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64)
    result = log_sum(np.float64(k) - (54.0 if small else 0.0), m - 1.0, 0.0)
    return (result if x < _INF else x) if x > 0.0 else (-_INF if x == 0.0 else _NAN)


def log_float32(x):
    small = x < 2.0**-126
    bits = np.float32(x * 2.0**25 if small else x).view(np.int32)
    k = np.int32(bits - _HALF_ROOT_BITS_F) >> 23
    m = np.int32(bits - (k << 23)).view(np.float32)
    result = log_sum(np.float32(k) - (25.0 if small else 0.0), m - 1.0, 0.0)
    return (result if x < _INF else x) if x > 0.0 else (-_INF if x == 0.0 else _NAN)


def log1p(x):
    """ln(1 + x), exact near 0; at most 1 ulp off."""
    u = 1.0 + x
    z = u - 1.0
    lost = (1.0 - (u - z)) + (x - z)
    bits = np.float64(u).view(np.int64)
    k = (bits - _HALF_ROOT_BITS) >> 52
    m = np.int64(bits - (k << 52)).view(np.float64) - 1.0
    lost = lost * power_of_two(-(k if k < 100 else 100))
    f = m + lost
    result = log_sum(np.float64(k), f, (m - f) + lost)
    result = result if x > -1.0 else (-_INF if x == -1.0 else _NAN)
    return result if x < _INF and x != 0.0 else x


def log1p_float32(x):
    u = 1.0 + x
    z = u - 1.0
    lost = (1.0 - (u - z)) + (x - z)
    bits = np.float32(u).view(np.int32)
    k = np.int32(bits - _HALF_ROOT_BITS_F) >> 23
    m = np.int32(bits - (k << 23)).view(np.float32) - 1.0
    lost = lost * power_of_two(-(k if k < 100 else 100))
    f = m + lost
    result = log_sum(np.float32(k), f, (m - f) + lost)
    result = result if x > -1.0 else (-_INF if x == -1.0 else _NAN)
    return result if x < _INF and x != 0.0 else x


# -- error function and relatives -------------------------------------------------------------------------------------


def erf_near(s):
    """erf(x)/x - 1 of s = x², for s in [0, 1]; error of the polynomial 8e-18."""
    # fmt: off
    return 0.12837916709551257 + s * (-0.37612638903183543 + s * (0.11283791670945006 + s * (-0.02686617064323777
        + s * (0.0052239776071164225 + s * (-0.0008548325975389692 + s * (0.00012055294904839707
        + s * (-1.492473690741966e-05 + s * (1.6447424703317362e-06 + s * (-1.6208483801871705e-07
        + s * (1.3720064546777686e-08 + s * -7.795898827002142e-10))))))))))
    # fmt: on


def erfcx_far(a):
    """exp(a²)·erfc(a) for finite a ≥ 1, as a polynomial in (a - 3)/(a + 3) over a + 3; relative error 1e-16."""
    r = 1.0 / (a + 3.0)
    t = (a - 3.0) * r
    # fmt: off
    return r * (1.0740069070883398 + t * (-0.8833944531698825 + t * (0.5902283571040723 + t * (-0.31046726190068596
        + t * (0.11952776128936372 + t * (-0.026827234621601196 + t * (-0.0012124166839594496
        + t * (0.0030340619999201283 + t * (-0.000548308930864196 + t * (-0.00027677852936189594
        + t * (0.0001075562059349597 + t * (3.0407141317745394e-05 + t * (-1.7453565919547312e-05
        + t * (-4.798666709778635e-06 + t * (2.7594849853684586e-06 + t * (1.1205425890439696e-06
        + t * (-5.060339088767601e-07 + t * (-3.160734883391894e-07 + t * (2.1762108665208978e-07
        + t * -3.6753471582871687e-08)))))))))))))))))))
    # fmt: on


def lgamma_near(w):
    """log Γ(2 + w)/w for w in [-1/2, 1/2]; relative error of the polynomial 3e-19."""
    # fmt: off
    return 0.42278433509846713 + w * (0.3224670334241132 + w * (-0.06735230105319814 + w * (0.02058080842778457
        + w * (-0.0073855510286681535 + w * (0.002890510330738737 + w * (-0.0011927539120010226
        + w * (0.0005096695248853096 + w * (-0.00022315475074520367 + w * (9.945750909889392e-05
        + w * (-4.4926351103833334e-05 + w * (2.050726741605779e-05 + w * (-9.438458716242811e-06
        + w * (4.374374916915131e-06 + w * (-2.0449201467015115e-06 + w * (9.578663334114758e-07
        + w * (-4.303558760359961e-07 + w * (2.0304806751615227e-07 + w * (-1.3412819758517287e-07
        + w * 6.379047507619774e-08))))))))))))))))))
    # fmt: on


def lgamma_series(y):
    """log Γ(y) - (y - 1/2)(log y - 1) - (log 2π - 1)/2 for y ≥ 8: Stirling's series."""
    r = 1.0 / y
    s = r * r
    # fmt: off
    return r * (1 / 12 + s * (-1 / 360 + s * (1 / 1260 + s * (-1 / 1680 + s * (1 / 1188
        + s * (-691 / 360360 + s * (1 / 156 + s * (-3617 / 122400))))))))
    # fmt: on


def digamma_series(y):
    """ψ(y) - log y for y ≥ 10."""
    r = 1.0 / y
    s = r * r
    # fmt: off
    return -0.5 * r - s * (1 / 12 + s * (-1 / 120 + s * (1 / 252 + s * (-1 / 240 + s * (1 / 132
        + s * (-691 / 32760 + s * (1 / 12)))))))
    # fmt: on


def trigamma_series(y):
    """ψ'(y) for y ≥ 10."""
    r = 1.0 / y
    s = r * r
    # fmt: off
    return r * (1.0 + r * (0.5 + r * (1 / 6 + s * (-1 / 30 + s * (1 / 42 + s * (-1 / 30 + s * (5 / 66
        + s * (-691 / 2730 + s * (7 / 6)))))))))
    # fmt: on


def erf(x):
    """erf(x) = 2/√π ∫₀ˣ exp(-t²) dt; at most 1.2 ulp off (float32: 0.76)."""
    a = abs(x)
    near = fma(a, erf_near(a * a), a)
    b = 6.0 if a > 6.0 else a  # erf(6) rounds to 1; a NaN stays one
    k, p = exp_quick(-b * b)
    far = 1.0 - p * power_of_two(k) * erfcx_far(b)
    return signed(near if a < 1.0 else far, x)


def erf_float32(x):
    a = abs(x)
    s = a * a
    # fmt: off
    near = fma(a, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 9.1705595e-05, -0.0008307455), 0.0052137515),
        -0.02686392), 0.11283768), -0.37612638), 0.12837917), a)
    v = (4.0 if a > 4.0 else a) - 1.0
    t = fma(v, fma(v, fma(v, fma(v, fma(v, fma(v, fma(v, 1.9073113e-05, -0.00027810517), 0.0019940226), -0.010034122),
        0.041559983), 0.84310734), 2.6389675), -5.0369486e-08)
    # fmt: on
    y = 1.8496056 + t  # -log(1 - erf a)
    k, s, half, rest = exp_split(-y)
    scale = power_of_two(k)
    high, low = exp_sum(scale, scale, s, half, rest)
    far = 1.0 - high
    far = far + (((1.0 - far) - high) - fma(high, (y - 1.8496056) - t, low))
    return signed(near if a < 0.76 else far, x)


def philox_block(seed, stream, number):
    """The four words of block `number` of a stream: key = seed, counter = (number, stream), all of them uint64."""
    return philox(number & _MASK, number >> _SHIFT, stream & _MASK, stream >> _SHIFT, seed & _MASK, seed >> _SHIFT)


def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10: four random 32-bit words of counter (c0 … c3) under key (k0, k1), all held in uint64.

    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    for _ in range(10):
        p0 = c0 * _PHILOX_M0
        p1 = c2 * _PHILOX_M1
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0 = (k0 + _PHILOX_W0) & _MASK
        k1 = (k1 + _PHILOX_W1) & _MASK
    return c0, c1, c2, c3
