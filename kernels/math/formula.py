"""How a scalar function becomes an elementwise op that every device has kernels for."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import NamedTuple, TypeVar

_Scalar = TypeVar("_Scalar", bound=Callable)


class Formula(NamedTuple):
    """An elementwise op: its scalar function, and the parameters that come after its operands."""

    function: FunctionType
    parameters: tuple[str, ...] = ()
    #: Array libraries have the same bits.
    exact: bool = False
    #: How many of the first operands are booleans.
    booleans: int = 0

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def arity(self) -> int:
        """The number of operands."""
        return self.function.__code__.co_argcount - len(self.parameters)


#: Every elementwise op with kernels on all devices, by name.
FORMULAS: dict[str, Formula] = {}


def formula(
    *parameters: str, op: str | None = None, exact: bool = False, booleans: int = 0
) -> Callable[[_Scalar], _Scalar]:
    """Decorator: the function computes one element of the op of its name, or of `op`; `parameters` come last."""

    def declare(function: _Scalar) -> _Scalar:
        FORMULAS[op or function.__name__] = Formula(function, parameters, exact, booleans)  # type: ignore[arg-type]
        return function

    return declare
