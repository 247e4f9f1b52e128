"""Optimizer updates as scalar formulas, written once beside their optimizer.

`lift` turns a formula into kernel loops, `over_arrays` into the reference over whole arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from math import sqrt as _sqrt  # `lift` would confuse a global named math.sqrt with `sqrt` below
from types import FunctionType, ModuleType
from typing import Any

from deepcore import locks
from deepcore.backend.dtypes import float32, float64


def sqrt(x):
    """√x, for update formulas."""
    return _sqrt(x)


def maximum(a, b):
    """max(a, b), NaN if either is, for update formulas."""
    larger = a if a > b else b
    return larger if a == a else a


def sign(x):
    """-1, 0 or 1; NaN of NaN; for update formulas."""
    return 1.0 if x > 0.0 else (-1.0 if x < 0.0 else (0.0 if x == 0.0 else x))


#: Every update defined so far.
UPDATES: list[Update] = []


class Update:
    """One element's update, `formula(w, g, *states, *scalars) -> (w, *states)`: the parameter, its gradient, the state
    arrays named here, and scalars that the optimizer passes by their names in the formula.

    Plain arithmetic, `sqrt`, `maximum` and `sign` of this file; `a if c else b` where c depends on the scalars alone. A scalar
    must be combined with an element before another scalar, so that loops and whole arrays round alike.
    """

    def __init__(self, formula: Callable, *states: str):
        self.formula, self.states = formula, states
        code = formula.__code__
        self.scalars = code.co_varnames[2 + len(states) : code.co_argcount]
        UPDATES.append(self)

    def values(self, scalars: dict[str, float]) -> list[float]:
        """The scalars in the formula's order."""
        return [scalars[name] for name in self.scalars]


class UpdateKernels:
    """A device's update kernels, one per update and dtype, defined on first use.

    `define(name, update, dtype)` creates one; `names`: the names of all kernels of the device.
    """

    def __init__(self, define: Callable[[str, Update, Any], Any], names: Container[str]):
        self.define, self.names = define, names
        self.kernels: dict[tuple[Update, Any], Any] = {}
        self.lock = locks.lock()

    def __call__(self, update: Update, dtype) -> Any:
        """The kernel of an update for parameters of `dtype`, or None."""
        if dtype not in (float32, float64):
            return None
        with self.lock:
            kernel = self.kernels.get((update, dtype))
            if kernel is None:
                stem, number = f"update_{update.formula.__name__}", 1
                name = f"{stem}_{dtype.name}"
                while name in self.names:  # another class has a formula of that name, or a notebook cell was rerun
                    number += 1
                    name = f"{stem}_{number}_{dtype.name}"
                kernel = self.kernels[update, dtype] = self.define(name, update, dtype)
            return kernel

    def define_all(self) -> None:
        """Define the kernels of all updates without compiling them."""
        for update in UPDATES:
            for dtype in (float32, float64):
                self(update, dtype)


@functools.cache
def over_arrays(formula: Callable, module: ModuleType) -> FunctionType:
    """The formula over arrays of an array library, `module`."""
    names = dict(formula.__globals__)
    for name in formula.__code__.co_names:
        callee = names.get(name)
        if callee is sqrt or callee is maximum or callee is sign:
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
    """`updates(xp, update=Update, entries=[(w, g, states, scalars), …], cache={})`: a callable that updates all, or None."""

    name = "updates"

    @staticmethod
    def forward(xp, *, update: Update, entries: list[tuple], cache: dict) -> None:
        return None


_RUN_MANY: Any = _RunMany()


def updates_together(xp, update: Update, entries: list[tuple], cache: dict) -> Callable[[], None] | None:
    """A callable that updates all entries (w, g, states, scalars) in place, or None where the backend has none.

    Everything that can fail is done before it is returned. `cache` belongs to the backend and persists between steps.
    """
    return (xp.impls.get(_RUN_MANY) or xp.bind(_RUN_MANY))(xp, update=update, entries=entries, cache=cache)


def run_update(xp, update: Update, scalars: dict[str, float], w, g, *states) -> None:
    """Update one parameter in place, by the backend's kernel "update" or over whole arrays."""
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
