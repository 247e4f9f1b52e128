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

    The function's signature is `(xp, *arrays, **params) -> array`, as that of the op's reference. `when(*arrays,
    **params)` selects the calls it runs (default: all); it may depend on shape, dtype and layout only, so that equal
    calls give equal bits. Kernels of one op are tried in the order of their files, then of registration. One that
    cannot be compiled returns NotImplemented, and the next is tried; `needs_numba` marks kernels that cannot run before
    numba is imported. An op's only kernel may have a method `bind(reference)`, which returns the callable: it must
    check `settings.kernels`, and saves this dispatcher's share of a short call.
    """

    def add(run: Callable) -> Callable:
        _KERNELS.setdefault((name, backend_kind), []).append(_Kernel(run, when, needs_numba))
        return run

    return add


def dispatcher(op_name: str, backend, reference: Callable) -> Callable:
    """The callable `(xp, *arrays, **params) -> array` that runs `op_name` on `backend`.

    It is `reference` itself where no kernel is registered. Otherwise each call runs the first kernel whose `when` is
    true, and `reference` where there is none, kernels are off (DEEPCORE_KERNELS=0) or numba is missing.
    """
    discover()
    registered = _KERNELS.get((op_name, backend.name.partition(":")[0])) or _KERNELS.get((op_name, backend.kernel_kind))
    if not registered:
        return reference
    kernels = tuple(registered)
    bind = getattr(registered[0].run, "bind", None)
    if bind is not None and len(registered) == 1:
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
    """The lowering of an op on `backend`, or None."""
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
