"""Scalar functions by name, and their arithmetic."""

from __future__ import annotations

import dis
import functools
from types import FunctionType
from typing import NamedTuple

from deepcore.kernels.math import activations, arithmetic, elementary, losses, piecewise, special, trigonometric
from deepcore.kernels.math.formula import FORMULAS, Formula

__all__ = ["FORMULAS", "Formula", "Line", "count", "function", "has_function", "operations"]

_MODULES = (arithmetic, activations, piecewise, losses, elementary, special, trigonometric)
#: Formulas of users' kernels, by names that have a digest of their source.
USERS: dict[str, FunctionType] = {}
#: (formula, dtype) of those that call the C library, which a GPU has not.
HOST_ONLY: set[tuple[str, str]] = set()


def has_function(formula: str) -> bool:
    return any(formula in vars(module) for module in _MODULES)


def function(formula: str) -> FunctionType:
    """The scalar function of a formula."""
    if formula in USERS:
        return USERS[formula]
    for module in _MODULES:
        if formula in vars(module):
            return getattr(module, formula)
    raise KeyError(formula)


@functools.cache
def operations(formula: str) -> int:
    """Arithmetic operations of a formula per element: additions, multiplications, divisions, comparisons; an fma counts twice."""
    return count(function(formula))


_ARITHMETIC = {"BINARY_OP": 1, "UNARY_NEGATIVE": 1, "COMPARE_OP": 1}


@functools.cache
def count(function: FunctionType) -> int:
    """Arithmetic operations of one call of a scalar function."""
    if function.__name__ == "fma":
        return 2
    total = 0
    for instruction in dis.get_instructions(function):
        total += _ARITHMETIC.get(instruction.opname, 0)
        callee = function.__globals__.get(instruction.argval) if instruction.opname == "LOAD_GLOBAL" else None
        if hasattr(callee, "__code__"):
            total += count(callee)
    return total


class Line(NamedTuple):
    """One formula of a kernel, with its operands as indices of values, and its parameters as indices of parameters."""

    formula: str
    operands: tuple[int, ...]
    parameters: tuple[int, ...] = ()
