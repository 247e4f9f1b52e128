"""Scalar formulas, written once: `lift` makes loops of them, and those without a branch also take whole arrays.

The polynomials are Chebyshev interpolants, computed in 60-digit arithmetic and rounded once. Everything is float64:
a float32 result is rounded from it at the end.
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


def erf_near(s):
    """erf(x)/x of s = x², for s in [0, 1]; relative error of the polynomial 8e-18."""
    # fmt: off
    return 1.1283791670955126 + s * (-0.37612638903183543 + s * (0.11283791670945006 + s * (-0.02686617064323777
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


def exp_reduced(y):
    """exp(y) for y in [-700, 700], without a branch, so that loops over it vectorise; relative error 2e-16."""
    whole = np.float64(y * 1.4426950408889634 + _ROUND)
    n = whole - _ROUND
    r = (y - n * _LN2_HIGH) - n * _LN2_LOW
    # fmt: off
    p = 1.0 + r * (1.0 + r * (0.5000000000000019 + r * (0.1666666666666668 + r * (0.0416666666664881
        + r * (0.008333333333319601 + r * (0.0013888888952314775 + r * (0.00019841269890047113
        + r * (2.4801485482328494e-05 + r * (2.755724091857897e-06 + r * (2.763263963904103e-07
        + r * 2.5110037605963777e-08))))))))))
    # fmt: on
    return p * np.int64((whole.view(np.int64) + 1023) << 52).view(np.float64)


def erf(x):
    """erf(x) = 2/√π ∫₀ˣ exp(-t²) dt of a float64; at most 2 ulp off."""
    a = abs(x)
    near = x * erf_near(a * a)
    b = 6.0 if a > 6.0 else a  # erf(6) rounds to 1; a NaN stays one
    far = 1.0 - exp_reduced(-b * b) * erfcx_far(b)
    return near if a < 1.0 else (-far if x < 0.0 else far)


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
