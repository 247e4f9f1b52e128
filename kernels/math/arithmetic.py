"""Arithmetic on elements, comparisons, logic and rounding: one plain scalar function each, without a branch."""

from __future__ import annotations

import numpy as np

from deepcore.kernels.math.formula import formula

_INF = float("inf")


@formula(exact=True)
def add(x, y):
    return x + y


@formula(exact=True)
def sub(x, y):
    return x - y


@formula(exact=True)
def mul(x, y):
    return x * y


@formula()
def weigh(weight, x):
    """weight·x; 0 where the weight is 0, even if x is not finite."""
    return 0.0 if weight == 0.0 else weight * x


@formula(exact=True)
def true_divide(x, y):
    return x / y


@formula(exact=True)
def neg(x):
    return -x


@formula(op="abs", exact=True)
def absolute(x):
    return abs(x)


@formula(exact=True)
def square(x):
    return x * x


@formula(op="sqrt", exact=True)
def square_root(x):
    return np.sqrt(x)


@formula(exact=True)
def rsqrt(x):
    return 1.0 / np.sqrt(x)


@formula(exact=True)
def reciprocal(x):
    return 1.0 / x


@formula(exact=True)
def maximum(x, y):
    """The second of equal operands, as in NumPy, which matters for signed zeros."""
    return x if x > y or x != x else y


@formula(exact=True)
def minimum(x, y):
    return x if x < y or x != x else y


@formula(exact=True, booleans=1)
def where(condition, x, y):
    return x if condition else y


@formula("keep", "take")
def moved(running, batch, keep, take):
    return running * keep + batch * take


# -- comparisons, logic, rounding, small powers ----------------------------------------------------------------------


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


@formula(exact=True)
def sign(x):
    """-1, 0 or 1; 0 for NaN."""
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else 0.0)


@formula(op="floor", exact=True)
def rounded_down(x):
    return np.floor(x)


@formula(op="ceil", exact=True)
def rounded_up(x):
    return np.ceil(x)


@formula(op="trunc", exact=True)
def truncated(x):
    return np.trunc(x)


@formula("low", "high", exact=True)
def clamp(x, low, high):
    """As NumPy's minimum of a maximum: the second of equal operands; NaN propagates."""
    y = x if x > low or x != x else low
    return y if y < high or y != y else high


@formula(exact=True)
def cube(x):
    return x * x * x


@formula(exact=True)
def inverse_square(x):
    return 1.0 / (x * x)
