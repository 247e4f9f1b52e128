"""Activations with their derivatives: one plain scalar function each.

`lift(gelu, dtype)` compiles one for a dtype, for loops, epilogues of products and CUDA kernels. None has a branch.
Arrays come first, then parameters; `<name>_grad` is the incoming gradient `g` times the derivative, computed from the
argument `x` or the result `out`, whichever its second argument is.
"""

from __future__ import annotations

from deepcore.kernels.math.elementary import exp, exp_below, expm1, fma, log1p_sum, sigmoid, sigmoid_parts
from deepcore.kernels.math.formula import formula

_DENSITY_AT_0 = 0.3989422804014327  # 1/√(2π)
_ROOT_2_PI = 0.7978845608028654  # √(2/π)
_CUBE = 0.044715
_FAR = 1e4  # clamped here: beyond it GELU and SiLU are 0 or x, and 0·∞ would give NaN
_MISH_FLAT = 40.0  # from 20 on, Mish rounds to x; e⁸⁰ is a float32
_PLAIN_FROM = 100.0  # ln(1 + eˣ) rounds to x from 37 on, and `log1p_sum` does not support infinity


@formula()
def sigmoid_grad(g, out):
    return g * ((1.0 - out) * out)


@formula()
def tanh_grad(g, out):
    return g * fma(-out, out, 1.0)


@formula()
def relu(x):
    """max(0, x); NaN propagates."""
    return 0.0 if x <= 0.0 else x


@formula()
def relu_grad(g, out):
    return 0.0 if out <= 0.0 else g


@formula("slope")
def leaky_relu(x, slope):
    return x if x > 0.0 else x * slope


@formula("slope")
def leaky_relu_grad(g, x, slope):
    return g if x > 0.0 else g * slope


@formula("alpha")
def elu(x, alpha):
    return x if x > 0.0 else alpha * expm1(x)


@formula("alpha")
def elu_grad(g, x, alpha):
    return g if x > 0.0 else g * (alpha * exp_below(x))


@formula("alpha", "scale", "rate")
def scaled_elu(x, alpha, scale, rate):
    """scale·x for x > 0, scale·alpha·(e^(rate·x) - 1) otherwise: ELU, CELU and SELU."""
    return scale * (x if x > 0.0 else alpha * expm1(x * rate))


@formula("alpha", "scale", "rate")
def scaled_elu_grad(g, x, alpha, scale, rate):
    return g * (scale if x > 0.0 else scale * (alpha * rate * exp_below(x * rate)))


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
    """exp(-a²/2), corrected for the rounding error of a²."""
    s = a * a
    e = exp_below(-0.5 * s)
    return fma(-e, 0.5 * fma(a, a, -s), e)


@formula()
def gelu(x):
    """x·Φ(x), Φ the normal distribution function."""
    below, _ = normal(x)
    return (-_FAR if x < -_FAR else x) * below


@formula()
def gelu_grad(g, x):
    below, e = normal(x)
    return g * fma(bounded(x) * _DENSITY_AT_0, e, below)


def bounded(x):
    """x clamped to ±_FAR, beyond which slopes are 0 or 1."""
    return _FAR if x > _FAR else (-_FAR if x < -_FAR else x)


@formula()
def gelu_tanh(x):
    """x·σ(2√(2/π)(x + 0.044715x³)), which is ½x(1 + tanh(…))."""
    y = -_FAR if x < -_FAR else x
    return y * sigmoid((2.0 * _ROOT_2_PI) * (y + _CUBE * (y * y * y)))


@formula()
def gelu_tanh_grad(g, x):
    y = 25.0 if x > 25.0 else (-25.0 if x < -25.0 else x)  # beyond, the slope is 1 or 0
    s = y * y
    u = (2.0 * _ROOT_2_PI) * (y + _CUBE * (y * s))
    e = exp_below(-abs(u))
    inverse = 1.0 / (1.0 + e)
    steep = y * ((2.0 * _ROOT_2_PI) * (1.0 + (3.0 * _CUBE) * s))
    return g * (fma(steep * e, inverse, e if u < 0.0 else 1.0) * inverse)


@formula()
def silu(x):
    """x·σ(x)."""
    high, low, inverse = sigmoid_parts(x)
    y = bounded(x)  # low is 0 beyond, or high
    return fma(-_FAR if x < -_FAR else x, high, y * (low * inverse))


@formula()
def silu_grad(g, x):
    y = bounded(x)
    s = sigmoid(y)
    return g * (s * fma(y, 1.0 - s, 1.0))


def mish_parts(x):
    """(e, high, low, inverse): e = eˣ, high + low·inverse = tanh(ln(1 + e)) = 1 - 2·inverse, inverse = 1/(e² + 2e + 2)."""
    e = exp(_MISH_FLAT if x > _MISH_FLAT else x)
    part = fma(e, e, 2.0 * e)
    whole = part + 2.0
    inverse = 1.0 / whole
    ratio = part * inverse
    return e, ratio, fma(-ratio, whole, part), inverse


@formula()
def mish(x):
    """x·tanh(ln(1 + eˣ))."""
    _, high, low, inverse = mish_parts(x)
    y = -_FAR if x < -_FAR else x
    return fma(y, high, bounded(y) * (low * inverse))


@formula()
def mish_grad(g, x):
    e, high, low, inverse = mish_parts(x)
    y = _MISH_FLAT if x > _MISH_FLAT else (-_FAR if x < -_FAR else x)
    return g * fma(y * inverse, (4.0 * fma(e, e, e)) * inverse, fma(low, inverse, high))


@formula("beta", "threshold")
def softplus(x, beta, threshold):
    """ln(1 + e^(beta·x))/beta; x itself where beta·x > threshold."""
    s = x * beta
    most = threshold if threshold < _PLAIN_FROM else _PLAIN_FROM
    return x if s > most else log1p_sum(0.0 if s <= 0.0 else s, exp_below(-abs(s))) / beta


@formula("beta", "threshold")
def softplus_grad(g, x, beta, threshold):
    s = x * beta
    return g if s > threshold else g * sigmoid(s)


@formula()
def logsigmoid(x):
    """ln σ(x)."""
    return x if x < -_PLAIN_FROM else 0.0 - log1p_sum(0.0 if x >= 0.0 else -x, exp_below(-abs(x)))


@formula()
def logsigmoid_grad(g, x):
    return g * sigmoid(-x)
