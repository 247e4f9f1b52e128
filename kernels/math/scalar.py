"""Functions that a user's kernel may call, as scalars for `lift` and, in `ARRAYS`, over arrays.

Those of `elementary` and `special` are polynomials in either dtype. Circular functions and powers are polynomials in float32
(NaN for the sine, cosine and tangent of numbers from 2⁴⁸ on), and the C library's functions in float64, as `HOST` tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.kernels.math import elementary, special
from deepcore.kernels.math.elementary import signed
from deepcore.kernels.math.trigonometric import acos as near_acos
from deepcore.kernels.math.trigonometric import acosh as near_acosh
from deepcore.kernels.math.trigonometric import asin as near_asin
from deepcore.kernels.math.trigonometric import asinh as near_asinh
from deepcore.kernels.math.trigonometric import atan as near_atan
from deepcore.kernels.math.trigonometric import atan2 as near_atan2
from deepcore.kernels.math.trigonometric import atanh as near_atanh
from deepcore.kernels.math.trigonometric import cos as near_cos
from deepcore.kernels.math.trigonometric import cos_far, sin_far, tan_far
from deepcore.kernels.math.trigonometric import cosh as near_cosh
from deepcore.kernels.math.trigonometric import exp2 as near_exp2
from deepcore.kernels.math.trigonometric import log2 as near_log2
from deepcore.kernels.math.trigonometric import log10 as near_log10
from deepcore.kernels.math.trigonometric import power as near_power
from deepcore.kernels.math.trigonometric import sin as near_sin
from deepcore.kernels.math.trigonometric import sinh as near_sinh
from deepcore.kernels.math.trigonometric import tan as near_tan

_NAN = float("nan")


def real(x):
    return np.float64(x)


def real_float32(x):
    return np.float32(x)


def whole(x):
    return np.int64(x)


def largest(x, y):
    """Python's max(x, y): the second where it is greater."""
    return y if y > x else x


def smallest(x, y):
    return y if y < x else x


def copysign(x, y):
    return signed(abs(x), y)


def floor(x):
    return np.floor(x)


def ceil(x):
    return np.ceil(x)


def trunc(x):
    return np.trunc(x)


def rint(x):
    return np.rint(x)


def sqrt(x):
    return np.sqrt(x)


def isnan(x):
    return x != x


def isinf(x):
    return x - x != x - x and x == x


def isfinite(x):
    return x - x == x - x


def floor_divide(x, y):
    """⌊x/y⌋ of whole numbers; 0 for y = 0."""
    return x // y if y != 0 else 0


def modulo(x, y):
    return x % y if y != 0 else 0


def real_floor_divide(x, y):
    return x // y


def real_modulo(x, y):
    return x % y


def sin(x):
    return math.sin(x)


def sin_float32(x):
    z = np.float64(x)
    return np.float32(_NAN if sin_far(z) else near_sin(z))


def cos(x):
    return math.cos(x)


def cos_float32(x):
    z = np.float64(x)
    return np.float32(_NAN if cos_far(z) else near_cos(z))


def tan(x):
    return math.tan(x)


def tan_float32(x):
    z = np.float64(x)
    return np.float32(_NAN if tan_far(z) else near_tan(z))


def asin(x):
    return math.asin(x)


def asin_float32(x):
    return np.float32(near_asin(np.float64(x)))


def acos(x):
    return math.acos(x)


def acos_float32(x):
    return np.float32(near_acos(np.float64(x)))


def atan(x):
    return math.atan(x)


def atan_float32(x):
    return np.float32(near_atan(np.float64(x)))


def sinh(x):
    return math.sinh(x)


def sinh_float32(x):
    return np.float32(near_sinh(np.float64(x)))


def cosh(x):
    return math.cosh(x)


def cosh_float32(x):
    return np.float32(near_cosh(np.float64(x)))


def asinh(x):
    return math.asinh(x)


def asinh_float32(x):
    return np.float32(near_asinh(np.float64(x)))


def acosh(x):
    return math.acosh(x)


def acosh_float32(x):
    return np.float32(near_acosh(np.float64(x)))


def atanh(x):
    return math.atanh(x)


def atanh_float32(x):
    return np.float32(near_atanh(np.float64(x)))


def exp2(x):
    return 2.0**x


def exp2_float32(x):
    return np.float32(near_exp2(np.float64(x)))


def log2(x):
    return np.log2(x)


def log2_float32(x):
    return np.float32(near_log2(np.float64(x)))


def log10(x):
    return np.log10(x)


def log10_float32(x):
    return np.float32(near_log10(np.float64(x)))


def atan2(y, x):
    return math.atan2(y, x)


def atan2_float32(y, x):
    return np.float32(near_atan2(np.float64(y), np.float64(x)))


def power(x, y):
    return x**y


def power_float32(x, y):
    return np.float32(near_power(np.float64(x), np.float64(y)))


def hypot(x, y):
    return math.hypot(x, y)


def hypot_float32(x, y):
    a, b = np.float64(x), np.float64(y)
    return np.float32(np.sqrt(a * a + b * b))


def erfc(x):
    return math.erfc(x)


def erfc_float32(x):
    return np.float32(math.erfc(np.float64(x)))


def lgamma(x):
    return math.lgamma(x)


def lgamma_float32(x):
    return np.float32(math.lgamma(np.float64(x)))


_LIBRARY = (
    "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh", "exp2", "log2", "log10", "atan2",
    "power", "hypot",
)  # fmt: skip
#: Functions that call the C library, which a GPU has not, by the dtypes in which they do.
HOST: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_LIBRARY, ("float64",)),
    **dict.fromkeys(("erfc", "lgamma", "real_floor_divide", "real_modulo"), ("float32", "float64")),
}


def scalar(name: str) -> Callable:
    """The scalar function of a name in a translated kernel."""
    for module in (elementary, special):
        if name in module.__dict__ and name in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sigmoid"):
            return module.__dict__[name]
    return globals()[name]


def _whole_array(xp, x):
    return xp.asarray(x).astype(np.int64)


def _safely(function: str) -> Callable:
    """Of whole numbers, 0 where the divisor is."""

    def run(xp, x, y):
        safe = xp.where(y == 0, 1, y)
        return xp.where(y == 0, 0, getattr(xp, function)(x, safe))

    return run


#: The same over arrays: functions of (backend, arrays …).
ARRAYS: dict[str, Callable[..., Any]] = {
    **{
        name: (lambda xp, *x, name=name: getattr(xp, name)(*x))
        for name in ("exp", "expm1", "log", "log1p", "tanh", "sqrt", "floor", "ceil", "trunc", "rint", "copysign", "isnan", "isinf",
                     "isfinite", "hypot", *_LIBRARY[:11], "log2", "log10", "exp2")
    },
    **{name: (lambda xp, x, name=name: xp.special(name, x)) for name in ("erf", "erfc", "lgamma")},
    **{
        numpy: (lambda xp, *x, ours=ours: getattr(xp, ours)(*x))
        for numpy, ours in (("asin", "arcsin"), ("acos", "arccos"), ("atan", "arctan"), ("asinh", "arcsinh"), ("acosh", "arccosh"),
                            ("atanh", "arctanh"), ("atan2", "arctan2"), ("power", "power"), ("real_floor_divide", "floor_divide"),
                            ("real_modulo", "remainder"))
    },
    "largest": lambda xp, x, y: xp.where(y > x, y, x),
    "smallest": lambda xp, x, y: xp.where(y < x, y, x),
    "sigmoid": lambda xp, x: 1.0 / (1.0 + xp.exp(-x)),
    "whole": _whole_array,
    "floor_divide": _safely("floor_divide"),
    "modulo": _safely("remainder"),
}  # fmt: skip
