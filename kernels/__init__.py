"""Compiled kernels over raw arrays, and the one dispatcher that chooses between them and the reference.

A kernel file registers itself; nothing lists it. It is found by being in this folder, is imported when the first op
is bound to a backend, and must not import numba until one of its kernels runs.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore import locks
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning


class _Kernel(NamedTuple):
    run: Callable
    when: Callable[..., bool] | None
    needs_numba: bool


_KERNELS: dict[tuple[str, str], list[_Kernel]] = {}
_LOCK = locks.rlock()
_discovered = False
_numba: Any = None  # the module once loaded; False where it cannot be imported


def register(name: str, backend_kind: str, when: Callable[..., bool] | None = None, needs_numba: bool = True):
    """Decorator: the function runs op `name` on backends of kind `backend_kind` ("cpu", "cuda").

    The function takes `(xp, *arrays, **params)` and returns an array, as the op's reference does. `when(*arrays,
    **params)` says which calls it takes (default: all); it may look at shape, dtype and layout only, so that the same
    call always gives the same bits. Kernels of one op are asked in the order of their files, then of registration.
    One that cannot be compiled here returns NotImplemented, and the next is asked; `needs_numba` is for those that
    cannot run at all before numba is imported. A lone kernel with a method `bind(reference)` makes its callable itself:
    it heeds `settings.kernels`, and saves this dispatcher's share of a short call.
    """

    def add(run: Callable) -> Callable:
        _KERNELS.setdefault((name, backend_kind), []).append(_Kernel(run, when, needs_numba))
        return run

    return add


def dispatcher(op_name: str, backend, reference: Callable) -> Callable:
    """The callable `(xp, *arrays, **params) -> array` that runs `op_name` on `backend`.

    It is `reference` itself where no kernel is registered. Otherwise each call goes to the first kernel whose `when`
    holds, and to `reference` when none does, when kernels are off (DEEPCORE_KERNELS=0) or numba is missing.
    """
    discover()
    found = _KERNELS.get((op_name, backend.name.partition(":")[0])) or _KERNELS.get((op_name, backend.kernel_kind))
    if not found:
        return reference
    kernels = tuple(found)
    bind = getattr(found[0].run, "bind", None)
    if bind is not None and len(found) == 1:
        return bind(reference)

    def run(xp, *arrays, **params):
        if settings.kernels:
            for kernel, when, needs_numba in kernels:
                if (when is None or when(*arrays, **params)) and (not needs_numba or load_numba() is not None):
                    result = kernel(xp, *arrays, **params)
                    if result is not NotImplemented:
                        return result
        return reference(xp, *arrays, **params)

    run.__name__ = run.__qualname__ = op_name
    return run


def lowering(op_name: str, backend):
    """What plans the calls of an op on `backend`, or None."""
    discover()
    for kernel in _KERNELS.get((op_name, backend.name), ()):
        if hasattr(kernel.run, "plans"):
            return kernel.run
    return None


def load_numba():
    """The numba module, or None where it cannot be imported; the first time that happens, one warning says so."""
    global _numba
    if _numba is None:
        with _LOCK:
            if _numba is None:
                try:
                    import numba
                except ImportError as error:
                    _numba = False
                    warnings.warn(
                        f"numba cannot be imported ({error}), so plain array code runs instead of compiled kernels: "
                        "same results, slower; fix: pip install numba, or DEEPCORE_KERNELS=0 to accept it",
                        DeepcoreWarning,
                        stacklevel=3,
                    )
                else:
                    _numba = numba
    return _numba or None


def discover() -> None:
    """Import every kernel file, so that its kernels are registered."""
    global _discovered
    if _discovered:
        return
    with _LOCK:
        if not _discovered:
            for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
                importlib.import_module(f"{__name__}.{name}")
            _discovered = True
