"""Which kernel runs an op on a backend."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

from deepcore import locks
from deepcore.config import settings
from deepcore.kernels.codegen import toolchain


class _Kernel(NamedTuple):
    run: Callable
    when: Callable[..., bool] | None
    needs_numba: bool


_KERNELS: dict[tuple[str, str], list[_Kernel]] = {}
_LOCK = locks.rlock()
_discovered = False


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
                if (when is None or when(*arrays, **params)) and (
                    not needs_numba or toolchain.load_numba() is not None
                ):
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


def discover() -> None:
    """Import every module of `kernels.cpu` and `kernels.cuda`, so that its kernels are registered."""
    global _discovered
    if _discovered:
        return
    with _LOCK:
        if not _discovered:
            for device in ("cpu", "cuda"):
                package = importlib.import_module(f"{__package__}.{device}")
                for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
                    importlib.import_module(f"{package.__name__}.{name}")
            _discovered = True
