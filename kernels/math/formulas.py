"""The table of elementwise formulas that every device has kernels for."""

from __future__ import annotations

import dis
import functools
from types import FunctionType
from typing import NamedTuple

from deepcore.kernels.math import activations, arithmetic, elementary, losses, special, trigonometric

_MODULES = (arithmetic, activations, losses, elementary, special, trigonometric)


def has_function(formula: str) -> bool:
    return any(formula in vars(module) for module in _MODULES)


def function(formula: str) -> FunctionType:
    """The scalar function of a formula."""
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


class Formula(NamedTuple):
    """An elementwise op: the name of its scalar function, and the parameters that come after its operands."""

    name: str
    parameters: tuple[str, ...] = ()
    #: Whether array libraries give the same bits.
    exact: bool = False
    #: The number of leading operands that are booleans.
    booleans: int = 0

    @property
    def arity(self) -> int:
        """The number of operands."""
        return function(self.name).__code__.co_argcount - len(self.parameters)


#: Every elementwise op with a kernel, by name.
FORMULAS: dict[str, Formula] = {
    **{name: Formula(name) for name in ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf")},
    **{name: Formula(name, exact=True) for name in (
        "add", "sub", "mul", "true_divide", "neg", "square", "rsqrt", "reciprocal", "maximum", "minimum",
    )},
    "abs": Formula("absolute", exact=True),
    "sqrt": Formula("square_root", exact=True),
    **{name: Formula(name, exact=True) for name in ("sign", "cube", "inverse_square")},
    "floor": Formula("rounded_down", exact=True),
    "ceil": Formula("rounded_up", exact=True),
    "trunc": Formula("truncated", exact=True),
    "clamp": Formula("clamp", ("low", "high"), exact=True),
    "where": Formula("where", exact=True, booleans=1),
    "moved": Formula("moved", ("keep", "take")),
    **{name: Formula(name) for name in (
        "relu", "relu_grad", "sigmoid_grad", "tanh_grad", "gelu", "gelu_grad", "gelu_tanh", "gelu_tanh_grad",
        "silu", "silu_grad", "logsigmoid", "logsigmoid_grad",
    )},
    **{name: Formula(name, ("slope",)) for name in ("leaky_relu", "leaky_relu_grad")},
    **{name: Formula(name, ("alpha",)) for name in ("elu", "elu_grad")},
    **{name: Formula(name, ("beta", "threshold")) for name in ("softplus", "softplus_grad")},
    **{name: Formula(name) for name in (
        "mse", "mse_grad", "l1", "l1_grad", "bce", "bce_grad", "bce_with_logits", "bce_with_logits_grad",
        "bce_with_logits_weighted", "bce_with_logits_weighted_grad", "weigh",
    )},
    **{name: Formula(name, ("beta",)) for name in ("smooth_l1", "smooth_l1_grad")},
    **{name: Formula(name, ("delta",)) for name in ("huber", "huber_grad")},
}  # fmt: skip
