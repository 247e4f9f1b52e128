"""Comparisons, logic, rounding, small powers: one plain scalar function each, as in `activations`."""

from __future__ import annotations

import numpy as np

_INF = float("inf")


def same(x):
    return x


def eq(x, y):
    return x == y


def ne(x, y):
    return x != y


def lt(x, y):
    return x < y


def le(x, y):
    return x <= y


def gt(x, y):
    return x > y


def ge(x, y):
    return x >= y


def logical_and(x, y):
    return (x != 0) & (y != 0)


def logical_or(x, y):
    return (x != 0) | (y != 0)


def logical_xor(x, y):
    return (x != 0) ^ (y != 0)


def logical_not(x):
    return x == 0


def nonzero(x):
    return x != 0


def isnan(x):
    return x != x


def isinf(x):
    return abs(x) == _INF


def isfinite(x):
    return abs(x) < _INF


def sign(x):
    """-1, 0 or 1; 0 for NaN."""
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)


def rounded_down(x):
    return np.floor(x)


def rounded_up(x):
    return np.ceil(x)


def truncated(x):
    return np.trunc(x)


def clamp(x, low, high):
    """As NumPy's minimum of a maximum: the second of equals, NaN stays."""
    y = x if x > low or x != x else low
    return y if y < high or y != y else high


def cube(x):
    return x * x * x


def inverse_square(x):
    return 1.0 / (x * x)
