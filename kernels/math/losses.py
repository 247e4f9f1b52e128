"""Loss terms and their gradients: one plain scalar function each, without a branch.

Arrays come first, then parameters; `<name>_grad` is the incoming gradient `g` times the derivative.
"""

from __future__ import annotations

from deepcore.kernels.math.elementary import exp_below, log, log1p, log1p_sum, sigmoid
from deepcore.kernels.math.formula import formula

_LEAST_VARIANCE = 1e-12


@formula()
def mse(x, target):
    d = x - target
    return d * d


@formula()
def mse_grad(g, x, target):
    return g * (2.0 * (x - target))


@formula()
def l1(x, target):
    return abs(x - target)


@formula()
def l1_grad(g, x, target):
    d = x - target
    return g if d > 0.0 else (-g if d < 0.0 else g * d)  # 0 at d = 0; NaN propagates


@formula("beta")
def smooth_l1(x, target, beta):
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = x - target."""
    d = abs(x - target)
    return 0.5 * d * d / beta if d < beta else d - 0.5 * beta


@formula("beta")
def smooth_l1_grad(g, x, target, beta):
    d = x - target
    return g * (d / beta) if abs(d) < beta else (g if d > 0.0 else (-g if d < 0.0 else g * d))


@formula("delta")
def huber(x, target, delta):
    """½d² where |d| ≤ delta, delta·(|d| - ½delta) elsewhere; d = x - target."""
    d = abs(x - target)
    return 0.5 * d * d if d <= delta else delta * (d - 0.5 * delta)


@formula("delta")
def huber_grad(g, x, target, delta):
    d = x - target
    return g * d if abs(d) <= delta else g * (delta if d > 0.0 else (-delta if d < 0.0 else d))


@formula()
def bce_with_logits(x, target):
    """-[y·ln σ(x) + (1 - y)·ln(1 - σ(x))] of target y."""
    return hinge(x, 1.0 - target, target) + log1p_sum(0.0, exp_below(-abs(x)))


def hinge(x, above, below):
    """above·x where x > 0, -below·x elsewhere; 0 where the factor is 0, even if x is infinite."""
    factor = above if x > 0.0 else -below
    return 0.0 if factor == 0.0 else factor * x


@formula()
def bce_with_logits_grad(g, x, target):
    return g * (sigmoid(x) - target)


@formula()
def bce_with_logits_weighted(x, target, positive):
    """-[p·y·ln σ(x) + (1 - y)·ln(1 - σ(x))] of target y and positive weight p."""
    rest, share = 1.0 - target, positive * target
    return hinge(x, rest, share) + (rest + share) * log1p_sum(0.0, exp_below(-abs(x)))


@formula()
def bce_with_logits_weighted_grad(g, x, target, positive):
    share = positive * target
    return g * (((1.0 - target) + share) * sigmoid(x) - share)


@formula()
def bce(x, target):
    """-[y·ln x + (1 - y)·ln(1 - x)] of target y, the logarithms clamped to at least -100."""
    a, b = log(x), log1p(-x)
    return -(target * (-100.0 if a < -100.0 else a) + (1.0 - target) * (-100.0 if b < -100.0 else b))


@formula()
def bce_grad(g, x, target):
    """g·(x - y)/(x(1 - x)), the denominator clamped to at least 1e-12."""
    variance = x * (1.0 - x)
    return g * ((x - target) / (_LEAST_VARIANCE if variance < _LEAST_VARIANCE else variance))
