"""Activations with their derivatives, and the terms of losses: one plain scalar function each.

`lift(gelu, dtype)` computes one in a dtype; loops, epilogues of products and CUDA kernels are made around that. None
has a branch. Arrays come first, parameters after them; `<name>_grad` is the incoming gradient `g` times the
derivative, read from the argument `x` or from the result `out`, as its second name says.
"""

from __future__ import annotations

import numpy as np

from deepcore.kernels.math.elementary import exp_below, expm1, fma, log, log1p, log1p_sum, sigmoid, sigmoid_parts, tanh

__all__ = ["sigmoid", "tanh"]

_DENSITY_AT_0 = 0.3989422804014327  # 1/√(2π)
_ROOT_2_PI = 0.7978845608028654  # √(2/π)
_CUBE = 0.044715
_LEAST_VARIANCE = 1e-12
_FAR = 1e4  # beyond it GELU and SiLU are 0 or x, and 0·∞ lies ahead
_PLAIN_FROM = 100.0  # ln(1 + eˣ) rounds to x from 37 on, and the sum that finds it knows no infinity


# -- arithmetic ----------------------------------------------------------------------------------------------------


def add(x, y):
    return x + y


def sub(x, y):
    return x - y


def mul(x, y):
    return x * y


def weigh(weight, x):
    """0 where the weight is 0, whatever x is."""
    return 0.0 if weight == 0.0 else weight * x


def true_divide(x, y):
    return x / y


def neg(x):
    return -x


def absolute(x):
    return abs(x)


def square(x):
    return x * x


def square_root(x):
    return np.sqrt(x)


def rsqrt(x):
    return 1.0 / np.sqrt(x)


def reciprocal(x):
    return 1.0 / x


def maximum(x, y):
    """The second of equals, as NumPy gives: the sign of zero tells."""
    return x if x > y or x != x else y


def minimum(x, y):
    return x if x < y or x != x else y


def where(condition, x, y):
    return x if condition else y


def moved(running, batch, keep, take):
    return running * keep + batch * take


# -- activations -----------------------------------------------------------------------------------------------------


def sigmoid_grad(g, out):
    return g * ((1.0 - out) * out)


def tanh_grad(g, out):
    return g * fma(-out, out, 1.0)


def relu(x):
    """max(0, x); NaN stays."""
    return 0.0 if x <= 0.0 else x


def relu_grad(g, out):
    return 0.0 if out <= 0.0 else g


def leaky_relu(x, slope):
    return x if x > 0.0 else x * slope


def leaky_relu_grad(g, x, slope):
    return g if x > 0.0 else g * slope


def elu(x, alpha):
    return x if x > 0.0 else alpha * expm1(x)


def elu_grad(g, x, alpha):
    return g if x > 0.0 else g * (alpha * exp_below(x))


def normal(x):
    """(Φ(x), exp(-x²/2)), Φ the normal distribution function, to a few ulp of either."""
    s = x * x
    # fmt: off
    near = fma(x, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, fma(s, 2.0384024156944347e-09,
        -4.101492088280144e-08), 6.658655074181601e-07), -9.444626464500038e-06), 0.00011543468258498087),
        -0.0011873282150027412), 0.009973557010013082), -0.06649038006690502), 0.3989422804014327), 0.5)
    a = abs(x)
    b = 39.0 if a > 39.0 else a
    r = 1.0 / (b + 5.0)
    t = (b - 5.0) * r
    p = fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t,
        fma(t, fma(t, fma(t, fma(t, fma(t, 3.0671851201884526e-09, -5.969397462242997e-09), -5.267840248851164e-08),
        4.1193277211743185e-08), 4.160312952474173e-07), -3.3883454703300305e-07), -2.7567680074499673e-06),
        3.983575115305444e-06), 1.6675590723117505e-05), -4.976415517716773e-05), -5.9374132212536625e-05),
        0.0005448994279993106), -0.0007978696796766244), -0.0029933768249653814), 0.02079506682890849),
        -0.0691186387020818), 0.16502036616883628), -0.31353315667144716), 0.4953056159700089), -0.6653825028900554),
        0.7691930497500629)
    # fmt: on
    e = normal_density(b)
    tail = e * (r * p)  # Φ(-a)
    return near if a < 0.7 else (tail if x < 0.0 else 1.0 - tail), e


def normal_float32(x):
    s = x * x
    near = fma(
        x, fma(s, fma(s, fma(s, fma(s, 0.00010280352, -0.0011809209), 0.009972120), -0.06649025), 0.39894228), 0.5
    )
    a = abs(x)
    b = 14.5 if a > 14.5 else a
    r = 1.0 / (b + 3.0)
    t = (b - 3.0) * r
    # fmt: off
    p = fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, fma(t, -0.00026358938, -0.000898618), 0.001074956),
        0.0069206306), -0.010480076), -0.047255415), 0.23001939), -0.5093323), 0.72908366)
    # fmt: on
    e = normal_density(b)
    tail = e * (r * p)
    return near if a < 0.7 else (tail if x < 0.0 else 1.0 - tail), e


def normal_density(a):
    """exp(-a²/2), what rounding a² lost included."""
    s = a * a
    e = exp_below(-0.5 * s)
    return fma(-e, 0.5 * fma(a, a, -s), e)


def gelu(x):
    """x·Φ(x), Φ the normal distribution function."""
    below, _ = normal(x)
    return (-_FAR if x < -_FAR else x) * below


def gelu_grad(g, x):
    below, e = normal(x)
    return g * fma(bounded(x) * _DENSITY_AT_0, e, below)


def bounded(x):
    """x, held where a slope is 0 or 1 beyond."""
    return _FAR if x > _FAR else (-_FAR if x < -_FAR else x)


def gelu_tanh(x):
    """x·σ(2√(2/π)(x + 0.044715x³)), which is ½x(1 + tanh(…))."""
    y = -_FAR if x < -_FAR else x
    return y * sigmoid((2.0 * _ROOT_2_PI) * (y + _CUBE * (y * y * y)))


def gelu_tanh_grad(g, x):
    y = 25.0 if x > 25.0 else (-25.0 if x < -25.0 else x)  # the slope is 1 or 0 beyond
    s = y * y
    u = (2.0 * _ROOT_2_PI) * (y + _CUBE * (y * s))
    e = exp_below(-abs(u))
    inverse = 1.0 / (1.0 + e)
    steep = y * ((2.0 * _ROOT_2_PI) * (1.0 + (3.0 * _CUBE) * s))
    return g * (fma(steep * e, inverse, e if u < 0.0 else 1.0) * inverse)


def silu(x):
    """x·σ(x)."""
    high, low, inverse = sigmoid_parts(x)
    y = bounded(x)  # low is 0 beyond, or high
    return fma(-_FAR if x < -_FAR else x, high, y * (low * inverse))


def silu_grad(g, x):
    y = bounded(x)
    s = sigmoid(y)
    return g * (s * fma(y, 1.0 - s, 1.0))


def softplus(x, beta, threshold):
    """ln(1 + e^(beta·x))/beta; x itself where beta·x > threshold."""
    s = x * beta
    most = threshold if threshold < _PLAIN_FROM else _PLAIN_FROM
    return x if s > most else log1p_sum(0.0 if s <= 0.0 else s, exp_below(-abs(s))) / beta


def softplus_grad(g, x, beta, threshold):
    s = x * beta
    return g if s > threshold else g * sigmoid(s)


def logsigmoid(x):
    """ln σ(x)."""
    return x if x < -_PLAIN_FROM else 0.0 - log1p_sum(0.0 if x >= 0.0 else -x, exp_below(-abs(x)))


def logsigmoid_grad(g, x):
    return g * sigmoid(-x)


# -- loss terms ----------------------------------------------------------------------------------------------------


def mse(x, target):
    d = x - target
    return d * d


def mse_grad(g, x, target):
    return g * (2.0 * (x - target))


def l1(x, target):
    return abs(x - target)


def l1_grad(g, x, target):
    d = x - target
    return g if d > 0.0 else (-g if d < 0.0 else g * d)  # 0 has none, NaN stays


def smooth_l1(x, target, beta):
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = x - target."""
    d = abs(x - target)
    return 0.5 * d * d / beta if d < beta else d - 0.5 * beta


def smooth_l1_grad(g, x, target, beta):
    d = x - target
    return g * (d / beta) if abs(d) < beta else (g if d > 0.0 else (-g if d < 0.0 else g * d))


def huber(x, target, delta):
    """½d² where |d| ≤ delta, delta·(|d| - ½delta) elsewhere; d = x - target."""
    d = abs(x - target)
    return 0.5 * d * d if d <= delta else delta * (d - 0.5 * delta)


def huber_grad(g, x, target, delta):
    d = x - target
    return g * d if abs(d) <= delta else g * (delta if d > 0.0 else (-delta if d < 0.0 else d))


def bce_with_logits(x, target):
    """-[y·ln σ(x) + (1 - y)·ln(1 - σ(x))] of target y."""
    return hinge(x, 1.0 - target, target) + log1p_sum(0.0, exp_below(-abs(x)))


def hinge(x, above, below):
    """above·x where x > 0, -below·x elsewhere; 0 where the factor is, also of an infinite x."""
    factor = above if x > 0.0 else -below
    return 0.0 if factor == 0.0 else factor * x


def bce_with_logits_grad(g, x, target):
    return g * (sigmoid(x) - target)


def bce_with_logits_weighted(x, target, positive):
    """-[p·y·ln σ(x) + (1 - y)·ln(1 - σ(x))] of target y and positive weight p."""
    rest, share = 1.0 - target, positive * target
    return hinge(x, rest, share) + (rest + share) * log1p_sum(0.0, exp_below(-abs(x)))


def bce_with_logits_weighted_grad(g, x, target, positive):
    share = positive * target
    return g * (((1.0 - target) + share) * sigmoid(x) - share)


def bce(x, target):
    """-[y·ln x + (1 - y)·ln(1 - x)] of target y, the logarithms held at -100 or above."""
    a, b = log(x), log1p(-x)
    return -(target * (-100.0 if a < -100.0 else a) + (1.0 - target) * (-100.0 if b < -100.0 else b))


def bce_grad(g, x, target):
    """Over x(1 - x), held at 1e-12 or above."""
    variance = x * (1.0 - x)
    return g * ((x - target) / (_LEAST_VARIANCE if variance < _LEAST_VARIANCE else variance))
