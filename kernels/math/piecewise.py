"""Piecewise linear activations with their derivatives: one plain scalar function each, without a branch.

Arrays come first, then parameters; `<name>_grad` is the incoming gradient `g` times the derivative at `x`.
"""

from __future__ import annotations

from deepcore.kernels.math.formula import formula

_SIXTH = 1.0 / 6.0


@formula("low", "high")
def hardtanh(x, low, high):
    """x clamped to [low, high]; NaN propagates."""
    return low if x < low else (high if x > high else x)


@formula("low", "high")
def hardtanh_grad(g, x, low, high):
    inside = g if x > low else 0.0
    return inside if x < high else 0.0


@formula()
def hardsigmoid(x):
    """x/6 + ½ clamped to [0, 1]."""
    y = x + 3.0
    return (0.0 if y < 0.0 else (6.0 if y > 6.0 else y)) / 6.0


@formula()
def hardsigmoid_grad(g, x):
    inside = g * _SIXTH if x > -3.0 else 0.0
    return inside if x < 3.0 else 0.0


@formula()
def hardswish(x):
    """x·hardsigmoid(x)."""
    y = -3.0 if x < -3.0 else x
    rising = y + 3.0
    return y * (6.0 if rising > 6.0 else rising) / 6.0


@formula()
def hardswish_grad(g, x):
    return 0.0 if x <= -3.0 else (g * (x / 3.0 + 0.5) if x < 3.0 else g)


@formula("lambd")
def softshrink(x, lambd):
    """x moved by lambd towards 0; 0 where |x| ≤ lambd. NaN propagates."""
    return x - lambd if x > lambd else (x + lambd if x < -lambd else x * 0.0)


@formula("lambd")
def hardshrink(x, lambd):
    """x, and 0 where |x| ≤ lambd. NaN propagates."""
    return 0.0 if abs(x) <= lambd else x


@formula("lambd")
def hardshrink_grad(g, x, lambd):
    return g if abs(x) > lambd else 0.0


@formula("threshold", "value")
def threshold(x, threshold, value):
    """x where x > threshold, value elsewhere. NaN propagates."""
    return value if x <= threshold else x


@formula("threshold")
def threshold_grad(g, x, threshold):
    return 0.0 if x <= threshold else g


@formula()
def prelu(x, weight):
    return x if x > 0.0 else x * weight


@formula()
def prelu_grad(g, x, weight):
    return g if x > 0.0 else g * weight
