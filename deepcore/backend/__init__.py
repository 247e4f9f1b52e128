"""Backends: one file each, found by its name, imported when first asked for.

A `Backend` is the array module the ops compute with: attribute access falls through to NumPy or CuPy
(`xp.exp`, `xp.matmul`), and what the two lack or spell differently is a method here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from deepcore import locks
from deepcore.backend import dtypes
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, suggest

#: Every backend object, by itself.
BACKENDS: dict[Backend, Backend] = {}


class Backend:
    """Where arrays live and what computes on them.

    A backend file defines `create(index: int) -> Backend` and subclasses this. To add one: write
    `deepcore/backend/<name>.py` (or call `register`); nothing else names it.
    """

    #: The array library (numpy, cupy): the source of every function not defined here.
    array_module: ModuleType
    #: The class of a raw array of this backend.
    array_type: type
    #: The kind of backend whose kernels serve this one too, where its own name has none.
    kernel_kind: str = ""

    def __init__(self, name: str, array_module, array_type: type):
        self.name = name
        self.array_module = array_module
        self.array_type = array_type
        #: Op to the callable that runs it here; filled by `bind` on first use.
        self.impls: dict[Any, Callable] = {}
        self._constants: dict[tuple, Any] = {}
        #: The specs (`kernels.plan`) of 0-d arrays by dtype, once they were wanted.
        self.number_specs: dict[Any, Any] = {}
        BACKENDS[self] = self

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.array_module, name)
        self.__dict__[name] = value  # the next look-up is a plain attribute
        return value

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other) -> bool:
        if isinstance(other, str):
            return other == self.name or (self.name.endswith(":0") and other == self.name[:-2])
        return self is other

    __hash__ = object.__hash__

    def __reduce__(self):
        return get_backend, (self.name,)

    # -- arrays in and out ------------------------------------------------------------------------
    def asarray(self, value, dtype=None):
        """Scalars, lists and this backend's own arrays; never an array of another backend."""
        return self.array_module.asarray(value, dtype)

    def from_host(self, array):
        """A NumPy array to this backend's memory (shared where it is the same memory)."""
        raise NotImplementedError

    def to_host(self, array):
        """This backend's array as a NumPy array (shared where it is the same memory)."""
        raise NotImplementedError

    def constant(self, value, dtype):
        """A 0-d array of a Python scalar, kept: a repeated scalar costs no allocation and no transfer."""
        key = (value if value else repr(value), dtype.num)  # 0.0 and -0.0 would be one key
        array = self._constants.get(key)
        if array is None:
            if len(self._constants) > 1024:
                self._constants.clear()
            if hasattr(value, "dtype"):  # a NumPy number, which would wrap in silence
                value = value.item()
            if not isinstance(value, (int, float)) or not dtypes.fits(value, dtype):
                raise dtypes.misfit(value, dtype)
            array = self._constants[key] = self.asarray(value, dtype)
        return array

    # -- what the array libraries lack or spell differently ----------------------------------------
    def scatter_add(self, target, index, values) -> None:
        """target[index] += values, in place, duplicates added up in a fixed order; 16-bit floats in float32."""
        if target.itemsize == 2 and dtypes.is_floating(target.dtype):
            wide = target.astype(dtypes.float32)
            self._scatter_add(wide, index, values.astype(dtypes.float32))
            target[...] = wide
        else:
            self._scatter_add(target, index, values)

    def _scatter_add(self, target, index, values) -> None:
        raise NotImplementedError

    def sum(self, x, axis: tuple[int, ...] | None = None, keepdims: bool = False, dtype=None):
        """Σ x over the dimensions `axis` (None: all), of whole numbers in `dtype`; 16-bit floats add up in float32."""
        if dtypes.is_floating(x.dtype) and x.itemsize == 2:
            return self.array_module.sum(x.astype(dtypes.float32), axis=axis, keepdims=keepdims).astype(x.dtype)
        return self.array_module.sum(x, axis=axis, keepdims=keepdims, dtype=dtype)

    def special(self, name: str, x):
        """erf, lgamma, digamma … elementwise, by the name PyTorch's `special` module gives it."""
        from deepcore.kernels.math import reference

        return getattr(reference, name)(self, x)

    # -- device -----------------------------------------------------------------------------------
    def synchronize(self) -> None:
        """Wait until everything queued has run."""

    def memory(self) -> dict[str, int]:
        """Bytes: `used`, `held` by the pool, and `total` of the device, as far as they are known."""
        return {}

    def release_memory(self) -> None:
        """Give cached blocks back to the system."""

    def info(self) -> dict[str, Any]:
        """Facts for `deepcore info`."""
        return {}

    def bind(self, op) -> Callable:
        """The callable that runs `op` here: its kernel where one is registered, else its reference."""
        from deepcore import kernels

        settings.check()
        impl = kernels.dispatcher(op.name, self, op.forward)
        lowering = kernels.lowering(op.name, self)
        if lowering is not None:
            op.lowering = lowering
        self.impls[op] = impl
        return impl


_FACTORIES: dict[str, Callable[[int], Backend]] = {}
_INSTANCES: dict[str, Backend] = {}
_LOCK = locks.rlock()  # a factory may ask for another backend


def register(kind: str, factory: Callable[[int], Backend]) -> None:
    """Make `factory(index)` available as backend `kind`; a file `backend/<kind>.py` needs no registration."""
    _FACTORIES[kind] = factory


def _factory(kind: str) -> Callable[[int], Backend]:
    if kind not in _FACTORIES:
        if kind not in available_kinds():
            raise BackendError(f"there is no backend named {kind!r}", fix=suggest(kind, [*available_kinds(), "auto"]))
        _FACTORIES[kind] = importlib.import_module(f"{__name__}.{kind}").create
    return _FACTORIES[kind]


def available_kinds() -> list[str]:
    """The kinds of backend there are, usable on this machine or not."""
    import pkgutil

    found = {m.name for m in pkgutil.iter_modules(__path__)} - {"dtypes"}
    return sorted(found | set(_FACTORIES))


def get_backend(name: str | Backend | None = None) -> Backend:
    """The backend called `name`: "cpu", "cuda", "cuda:1" or "auto"; None is the default backend.

    "auto" is the first GPU, or the CPU where there is none. Asking for "cuda" where it cannot be used raises
    `BackendError` with what is missing.
    """
    if isinstance(name, Backend):
        return name
    default = name is None
    if name is None:
        name = settings.backend
    if not isinstance(name, str):
        raise ArgumentError(
            "a backend is given by its name", expected='"cpu", "cuda", "cuda:1" or "auto"', received=repr(name)
        )
    found = _INSTANCES.get(name)
    if found is not None:
        return found
    try:
        return _created(name)
    except BackendError as error:
        if default:  # `use_backend` has tried its own
            error.where = "DEEPCORE_BACKEND"
        raise


def _created(name: str) -> Backend:
    if name == "auto":
        try:
            return get_backend("cuda")
        except BackendError:
            return get_backend("cpu")
    kind, colon, index = name.partition(":")
    if colon and not (index.isascii() and index.isdigit() and len(index) < 10):
        raise BackendError(f"{name!r} is not a backend", expected='a name such as "cpu", "cuda" or "cuda:1"')
    with _LOCK:
        backend = _factory(kind)(int(index or 0))
        backend = _INSTANCES.setdefault(backend.name, backend)
        _INSTANCES[name] = backend
    return backend


class use_backend:
    """Set the default backend, for the process or for a `with` block.

    >>> use_backend("cuda")            # from here on
    >>> with use_backend("cpu"): ...   # and back afterwards
    """

    def __init__(self, name: str | Backend):
        self._before = settings.backend
        self.backend = get_backend(name)
        settings.backend = self.backend.name

    def __enter__(self) -> Backend:
        return self.backend

    def __exit__(self, *exc) -> None:
        settings.backend = self._before


def backend_of(array) -> Backend | None:
    """The backend a raw array belongs to, by its class or a base of that, or None."""
    module = type(array).__module__.partition(".")[0]
    if module == "numpy":
        return get_backend("cpu")
    if module == "cupy":
        return get_backend(f"cuda:{array.device.id}")
    for backend in list(_INSTANCES.values()):
        if isinstance(array, backend.array_type):
            return backend
    return None
