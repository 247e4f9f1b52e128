"""Arithmetic on elements: one plain scalar function each, without a branch."""

from __future__ import annotations

import numpy as np


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
