"""Optimizer updates as scalar formulas, written once beside their optimizer.

`lift` makes the loops of kernels of a formula, `over_arrays` the reference over whole arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from math import sqrt as _sqrt  # not math.sqrt below: `lift` would take its name for that of our own
from types import FunctionType, ModuleType
from typing import Any

from deepcore import locks
from deepcore.backend.dtypes import float32, float64


def sqrt(x):
    """√x in formulas of updates."""
    return _sqrt(x)


def maximum(a, b):
    """The larger one, NaN if either is, in formulas of updates."""
    larger = a if a > b else b
    return larger if a == a else a


#: Every update defined so far.
UPDATES: list[Update] = []


class Update:
    """One element's update, `formula(w, g, *states, *scalars) -> (w, *states)`: the parameter, its gradient, the state
    arrays named here, and numbers that the optimizer gives by their names in the formula.

    Plain arithmetic, `sqrt` and `maximum` of this file; `a if c else b` where c depends on the scalars alone. A scalar is
    to meet an element before it meets another scalar, so that loops and whole arrays round alike.
    """

    def __init__(self, formula: Callable, *states: str):
        self.formula, self.states = formula, states
        code = formula.__code__
        self.scalars = code.co_varnames[2 + len(states) : code.co_argcount]
        UPDATES.append(self)

    def values(self, given: dict[str, float]) -> list[float]:
        """The scalars in the formula's order."""
        return [given[name] for name in self.scalars]


class UpdateKernels:
    """A device's kernels of updates, one for each update and dtype, defined when first asked for.

    `define(name, update, dtype)` makes one; `names`: of all kernels that the device has.
    """

    def __init__(self, define: Callable[[str, Update, Any], Any], names: Container[str]):
        self.define, self.names = define, names
        self.kernels: dict[tuple[Update, Any], Any] = {}
        self.lock = locks.lock()

    def __call__(self, update: Update, dtype) -> Any:
        """The kernel of an update for parameters of this dtype, or None."""
        if dtype not in (float32, float64):
            return None
        with self.lock:
            kernel = self.kernels.get((update, dtype))
            if kernel is None:
                stem, number = f"update_{update.formula.__name__}", 1
                name = f"{stem}_{dtype.name}"
                while name in self.names:  # another class has a formula of that name, or a notebook's cell ran again
                    number += 1
                    name = f"{stem}_{number}_{dtype.name}"
                kernel = self.kernels[update, dtype] = self.define(name, update, dtype)
            return kernel

    def define_all(self) -> None:
        """Define the kernels of all updates there are, compiling none."""
        for update in UPDATES:
            for dtype in (float32, float64):
                self(update, dtype)


@functools.cache
def over_arrays(formula: Callable, module: ModuleType) -> FunctionType:
    """The formula over arrays of an array library."""
    names = dict(formula.__globals__)
    for name in formula.__code__.co_names:
        callee = names.get(name)
        if callee is sqrt or callee is maximum:
            names[name] = getattr(module, callee.__name__)
        elif isinstance(callee, FunctionType) and callee.__module__ == formula.__module__:
            names[name] = over_arrays(callee, module)
    return FunctionType(formula.__code__, names, formula.__name__, formula.__defaults__)


class _Run:
    """`update(xp, w, g, *states, update=Update, scalars=…)`, in place: bound to each backend as an op is."""

    name = "update"

    @staticmethod
    def forward(xp, w, g, *states, update: Update, scalars: dict[str, float]) -> None:
        dtype = float32 if w.itemsize < 4 else w.dtype  # 16-bit floats are computed in float32
        arrays = [x.astype(dtype, copy=False) for x in (w, g, *states)]
        numbers = [float(dtype.type(value)) for value in update.values(scalars)]
        results = over_arrays(update.formula, xp.array_module)(*arrays, *numbers)
        for target, result in zip((w, *states), results):
            target[...] = result


_RUN = _Run()


class _RunMany:
    """`updates(xp, update=Update, entries=[(w, g, states, scalars), …], kept={})`: a call that updates all, or None."""

    name = "updates"

    @staticmethod
    def forward(xp, *, update: Update, entries: list[tuple], kept: dict) -> None:
        return None


_RUN_MANY: Any = _RunMany()


def updates_together(xp, update: Update, entries: list[tuple], kept: dict) -> Callable[[], None] | None:
    """What updates all entries (w, g, states, scalars) at once, in place, or None where the backend has no such thing.

    All that can fail has been done before it is called. `kept` is the backend's, the same at the next step.
    """
    return (xp.impls.get(_RUN_MANY) or xp.bind(_RUN_MANY))(xp, update=update, entries=entries, kept=kept)


def run_update(xp, update: Update, scalars: dict[str, float], w, g, *states) -> None:
    """One parameter's update, in place, by whole arrays or what is registered as "update" for the backend."""
    (xp.impls.get(_RUN) or xp.bind(_RUN))(xp, w, g, *states, update=update, scalars=scalars)


class _AllFinite:
    """`all_finite(xp, *arrays)`: bound to each backend as an op is."""

    name = "all_finite"

    @staticmethod
    def forward(xp, *arrays) -> bool:
        checks = [xp.isfinite(x).all() for x in arrays]
        return bool(xp.stack(checks).all()) if checks else True


_FINITE_OP: Any = _AllFinite()


def all_finite(xp, arrays: list) -> bool:
    """Whether no array of floats has a NaN or infinity."""
    return (xp.impls.get(_FINITE_OP) or xp.bind(_FINITE_OP))(xp, *arrays)
