"""Everyday code under `dc.compile`: a table of scenarios, each of them run eagerly and compiled and compared bitwise.

A scenario is a generator function of `compile`, which is `dc.compile` or leaves the function as it is. After each call of
the compiled function it yields all that a user could look at: results, arguments, models, optimizers, Python state.

>>> @scenario()
... def sgd(compile):
...     model, optimizer = ...
...     @compile
...     def step(x, y): ...
...     for x, y in batches(12):
...         yield step(x, y), model, optimizer
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

#: What a scenario may declare. EQUAL: bitwise equal in every call, and compiled without a warning.
#: EQUAL_OR_EAGER: equal in every call; each function may warn once that it runs eagerly. EAGER: equal in every call, and
#: each function has to warn once, with the line. CHECKED: what the program takes for granted changes; always equal where
#: each call is checked, and with the default schedule a difference that lasts has led to a warning.
EQUAL, EQUAL_OR_EAGER, EAGER, CHECKED = "equal", "equal or eager", "eager", "checked"


class Scenario(NamedTuple):
    """`functions`: how many compiled functions may warn. `arrays`: NumPy arrays among the arguments arrive as tensors."""

    name: str
    run: Callable[[Callable], Iterable]
    allows: str
    everywhere: bool
    functions: int
    arrays: bool
    file: str


class Lag:
    """Python state that is up to date only when the function itself runs: at the first call and at checks."""

    def __init__(self, value):
        self.value = value


SCENARIOS: dict[str, Scenario] = {}


def scenario(
    allows: str = EQUAL,
    *,
    each: Mapping[str, Any] | Iterable[Any] | None = None,
    everywhere: bool = False,
    functions: int = 1,
    arrays: bool = False,
) -> Callable:
    """Register a generator function. `each`: a value, or named values, for a scenario each. `everywhere`: all backends."""

    def register(run):
        file = run.__module__.rpartition(".")[2]

        def add(name, run):
            assert name not in SCENARIOS, name
            SCENARIOS[name] = Scenario(name, run, allows, everywhere, functions, arrays, f"{file}.py")

        if each is None:
            add(f"{file}.{run.__name__}", run)
        else:
            values = each if isinstance(each, Mapping) else {str(value): value for value in each}
            for key, value in values.items():
                add(f"{file}.{run.__name__}[{key}]", lambda compile, value=value: run(compile, value))
        return run

    return register


def load() -> dict[str, Scenario]:
    """The table, filled by all modules of this package."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return SCENARIOS
