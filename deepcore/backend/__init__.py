"""Backends: one file each, found by its name, imported on first use.

A `Backend` is the array module that ops compute with: attribute access falls through to NumPy or CuPy
(`xp.exp`, `xp.matmul`); functions that the two lack or spell differently are methods.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from deepcore import locks
from deepcore.backend import dtypes
from deepcore.backend.devices import check_kind, device, device_of, split_name
from deepcore.config import settings
from deepcore.errors import ArgumentError, BackendError, LinAlgError

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Every backend object, by itself.
BACKENDS: dict[Backend, Backend] = {}


class Copy:
    """A copy of a host array, here a finished one: `array` may be used by work that is queued after `wait()`."""

    def __init__(self, array):
        self.array = array

    def wait(self) -> None:
        """Make the current stream wait for the copy."""

    def finish(self) -> None:
        """Wait for the copy on the host."""


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
        #: The `device` of PyTorch's API for this backend.
        self.device = device_of(name)
        self.array_module = array_module
        self.array_type = array_type
        #: Op → the callable that runs it on this backend; filled by `bind` on first use.
        self.impls: dict[Any, Callable] = {}
        self._constants: dict[tuple, Any] = {}
        #: Cache: dtype → spec (`kernels.plan`) of 0-d arrays.
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
        return other == self.device if isinstance(other, device) else self is other

    __hash__ = object.__hash__

    def __reduce__(self):
        return get_backend, (self.name,)

    # -- arrays in and out ------------------------------------------------------------------------
    def asarray(self, value, dtype=None):
        """Scalars, lists and this backend's own arrays; never an array of another backend."""
        return self.array_module.asarray(value, dtype)

    def from_host(self, array):
        """A NumPy array in this backend's memory (shared on the CPU)."""
        raise NotImplementedError

    def to_host(self, array):
        """This backend's array as a NumPy array (shared on the CPU)."""
        raise NotImplementedError

    def constant(self, value, dtype):
        """A cached 0-d array of a Python scalar: a repeated scalar costs no allocation and no transfer."""
        # 0.0 and -0.0 would be one key, and so would complex numbers with such parts
        key = (value if value and value.__class__ is not complex else repr(value), dtype.num)
        array = self._constants.get(key)
        if array is None:
            if len(self._constants) > 1024:
                self._constants.clear()
            if hasattr(value, "dtype"):  # a NumPy number would wrap silently
                value = value.item()
            if not isinstance(value, (int, float, complex)) or not dtypes.fits(value, dtype):
                raise dtypes.misfit(value, dtype)
            array = self._constants[key] = self.asarray(value, dtype)
        return array

    # -- what the array libraries lack or spell differently ----------------------------------------
    def uninitialized(self, shape, dtype):
        """A new array of any content, where possible in memory that was used before."""
        return self.empty(shape, dtype)

    def scatter_add(self, target, index, values) -> None:
        """target[index] += values, in place, duplicates summed in a fixed order; 16-bit floats in float32."""
        if target.itemsize == 2 and dtypes.is_floating(target.dtype):
            wide = target.astype(dtypes.float32)
            self._scatter_add(wide, index, values.astype(dtypes.float32))
            target[...] = wide
        else:
            self._scatter_add(target, index, values)

    def _scatter_add(self, target, index, values) -> None:
        raise NotImplementedError

    def sum(self, x, axis: tuple[int, ...] | None = None, keepdims: bool = False, dtype=None):
        """Σ x over the dimensions `axis` (None: all), of integers in `dtype`; 16-bit floats accumulate in float32."""
        if dtypes.is_floating(x.dtype) and x.itemsize == 2:
            return self.array_module.sum(x.astype(dtypes.float32), axis=axis, keepdims=keepdims).astype(x.dtype)
        return self.array_module.sum(x, axis=axis, keepdims=keepdims, dtype=dtype)

    def lapack(self, name: str, *arrays, **options):
        """The array library's `linalg.<name>` of matrices in the last two dimensions; raises `LinAlgError` where it fails."""
        try:
            return getattr(self.array_module.linalg, name)(*arrays, **options)
        except ValueError as error:
            if type(error).__name__ != "LinAlgError":
                raise
            raise LinAlgError(
                f"linalg.{name}: {str(error)[:1].lower()}{str(error)[1:]}",
                received=" and ".join(f"shape {a.shape}" for a in arrays),
                fix="check the matrix for dependent rows and for NaN, or add a small multiple of the identity",
            ) from None

    def transform(self, name: str, x, **options):
        """The array library's Fourier transform `fft.<name>`; float32 gives complex64."""
        return getattr(self.array_module.fft, name)(x, **options)

    def special(self, name: str, *x):
        """erf, lgamma, digamma … elementwise, by its name in `torch.special`."""
        from deepcore.kernels.math import reference

        return getattr(reference, name)(self, *x)

    # -- device -----------------------------------------------------------------------------------
    def synchronize(self) -> None:
        """Wait until all queued work has run."""

    def memory(self) -> dict[str, int]:
        """Bytes: `used`, `held` by the pool, and `free` and `total` of the device, where known."""
        return {}

    def address(self, array) -> int:
        """The address of the first element of a raw array."""
        return array.__array_interface__["data"][0]

    def release_memory(self) -> None:
        """Return cached blocks to the system."""

    def pinned(self, array):
        """A copy of a NumPy array in page-locked memory, from which copies to this backend are faster."""
        raise BackendError(f"memory is pinned for a GPU, not for backend {self}")

    def copy_ahead(self, array) -> Copy:
        """A copy of a NumPy array on this backend that may still be under way."""
        return Copy(self.from_host(array))

    def is_pinned(self, memory) -> bool:
        """Whether `memory`, the base of an array, was page-locked by `pinned`."""
        return False

    def info(self) -> dict[str, Any]:
        """Facts for `deepcore info`."""
        return {}

    def bind(self, op) -> Callable:
        """The callable that runs `op` on this backend: its kernel where one is registered, else its reference."""
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
_LOCK = locks.rlock()  # reentrant: a factory may call get_backend


def register(kind: str, factory: Callable[[int], Backend]) -> None:
    """Make `factory(index)` available as backend `kind`; a file `backend/<kind>.py` needs no registration."""
    _FACTORIES[kind] = factory


def _factory(kind: str) -> Callable[[int], Backend]:
    if kind not in _FACTORIES:
        _FACTORIES[kind] = importlib.import_module(f"{__name__}.{check_kind(kind)}").create
    return _FACTORIES[kind]


def available_kinds() -> list[str]:
    """All kinds of backends, usable on this machine or not."""
    import pkgutil

    kinds = {m.name for m in pkgutil.iter_modules(__path__)} - {"devices", "dlpack", "dtypes"}
    return sorted(kinds | set(_FACTORIES))


def get_backend(name: str | int | device | Backend | None = None) -> Backend:
    """The backend called `name`: "cpu", "cuda", "cuda:1", "auto", 1 (for "cuda:1") or a `device`; None is the default.

    "auto" is the first GPU, or the CPU where there is none. Asking for "cuda" where it cannot be used raises
    `BackendError` with what is missing.
    """
    if isinstance(name, Backend):
        return name
    default = name is None
    if name is None:
        name = settings.backend
    if not isinstance(name, str):
        name = str(device(name))
    backend = _INSTANCES.get(name)
    if backend is not None:
        return backend
    try:
        return _create(name)
    except BackendError as error:
        if default:  # `use_backend` validates its names, so this one is from the environment
            error.where = "DEEPCORE_BACKEND"
        raise


def _create(name: str) -> Backend:
    if name == "auto":
        try:
            return get_backend("cuda")
        except BackendError:
            return get_backend("cpu")
    kind, index = split_name(name)
    with _LOCK:
        backend = _factory(kind)(int(index or 0))
        backend = _INSTANCES.setdefault(backend.name, backend)
        _INSTANCES[name] = backend
    return backend


def place(backend, device) -> Any:
    """The backend named by the synonymous arguments `backend=` and `device=`; None where neither is given."""
    if backend is None or device is None:
        return device if backend is None else backend
    if get_backend(backend) is not get_backend(device):
        raise ArgumentError(
            "backend and device mean the same thing, and name two places",
            received=f'backend="{backend}" and device="{device}"',
            fix="leave one of them out",
        )
    return backend


def one_place(function: Callable, args: tuple, keywords: dict[str, Any]) -> tuple:
    """Pass the keyword `device` of a call of `function` as its argument `backend`; returns the positional arguments."""
    device = keywords.pop("device", None)
    if device is None:
        return args
    code = function.__code__
    at = code.co_varnames.index("backend")
    if at < min(code.co_argcount, len(args)):
        return (*args[:at], place(args[at], device), *args[at + 1 :])
    keywords["backend"] = place(keywords.get("backend"), device)
    return args


def takes_device(function: _Function) -> _Function:
    """Decorator: a function with an argument `backend` also accepts the keyword `device`; others are unchanged."""
    code = getattr(function, "__code__", None)
    arguments = () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    if "backend" not in arguments:
        return function

    @functools.wraps(function)
    def placed(*args, **keywords):
        if "device" in keywords:
            args = one_place(function, args, keywords)
        return function(*args, **keywords)

    return placed  # type: ignore[return-value]


class use_backend:
    """Set the default backend, for the process or for a `with` block.

    >>> use_backend("cuda")            # from here on
    >>> with use_backend("cpu"): ...   # and back afterwards
    """

    def __init__(self, name: str | int | device | Backend):
        self._before = settings.backend
        self.backend = get_backend(name)
        settings.backend = self.backend.name

    def __enter__(self) -> Backend:
        return self.backend

    def __exit__(self, *exc) -> None:
        settings.backend = self._before


def backend_of(array) -> Backend | None:
    """The backend of a raw array, by its class or a base class, or None."""
    module = type(array).__module__.partition(".")[0]
    if module == "numpy":
        return get_backend("cpu")
    if module == "cupy":
        return get_backend(f"cuda:{array.device.id}")
    for backend in list(_INSTANCES.values()):
        if isinstance(array, backend.array_type):
            return backend
    return None
