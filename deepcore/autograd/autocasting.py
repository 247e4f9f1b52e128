"""Autocasting: the state of a thread, and the region that changes it. `ops.casting` has the rules of the ops."""

from __future__ import annotations

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore.autograd.graph import Node
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.effects import Mode, mode
from deepcore.errors import ArgumentError, ArgumentTypeError, BackendError, DeepcoreWarning, DTypeError
from deepcore.tensor import Tensor

#: The types of device, and the dtypes that autocasting casts to.
DEVICES = ("cpu", "cuda")
_DTYPES = (dt.bfloat16, dt.float16)


class State(NamedTuple):
    """Types of device for which autocasting is enabled, the dtype of each type, and whether casts of leaves are cached."""

    enabled: frozenset[str] = frozenset()
    cpu: Any = dt.bfloat16
    cuda: Any = dt.float16
    caching: bool = True

    def replaced(self, device_type: str, dtype, enabled: bool) -> State:
        """This state with other settings of one type of device."""
        others = self.enabled - {device_type}
        return self._replace(**{device_type: dtype}, enabled=others | {device_type} if enabled else others)

    def disabled(self) -> State:
        return self._replace(enabled=frozenset())


Mode.autocast = State()
#: Whether any thread has ever enabled autocasting: until then, ops skip the look-up in the thread's mode.
used = False


class _Casts(threading.local):
    """A thread's casts of leaves inside its outermost region."""

    def __init__(self):
        self.depth = 0
        #: Leaf: (its array, its version, whether graphs were recorded, the cast).
        self.table: dict[Tensor, tuple[Any, int, bool, Tensor]] = {}


_casts = _Casts()


class _KeptNode(Node):
    """The node of a cached cast, which several graphs share: a backward through one of them does not free it."""

    __slots__ = ()

    def free(self) -> None:
        pass


def cast(t: Tensor, dtype, state: State) -> Tensor:
    """`t` in another dtype; the cast of a leaf that requires grad is cached until the region ends or the leaf is written."""
    if not (state.caching and t._requires_grad and t._node is None and dtype.itemsize == 2):
        return t.to(dtype)  # type: ignore[attr-defined]
    key = t._data, t.version, mode.grad
    entry = _casts.table.get(t)
    if entry is not None and entry[0] is key[0] and entry[1:3] == key[1:] and entry[3].dtype == dtype:
        return entry[3]
    out = t.to(dtype)  # type: ignore[attr-defined]
    if out._node is not None:
        out._node.__class__ = _KeptNode
    _casts.table[t] = (*key, out)
    return out


@contextlib.contextmanager
def separate_casts():
    """Inside, casts from outside are not used: a program must not read what another call has cached."""
    outer, _casts.table = _casts.table, {}
    try:
        yield
    finally:
        _casts.table = outer


def _set(state: State) -> None:
    global used
    used = used or bool(state.enabled)
    mode.autocast = state


def without(function: Callable, arguments: tuple, keywords: dict):
    """`function` of these arguments with autocasting disabled."""
    state = mode.autocast
    if not state.enabled:
        return function(*arguments, **keywords)
    mode.autocast = state.disabled()
    try:
        return function(*arguments, **keywords)
    finally:
        mode.autocast = state


def device_type_of(device_type) -> str:
    if not isinstance(device_type, str):
        raise ArgumentTypeError(
            "autocast takes the type of a device by name",
            expected='"cpu" or "cuda"',
            received=repr(device_type),
            fix="device.type, of a device",
        )
    if device_type not in DEVICES:
        raise ArgumentError("autocast has no such type of device", expected='"cpu" or "cuda"', received=device_type)
    return device_type


def type_of(backend) -> str:
    """The type of device of a backend."""
    return backend.kernel_kind or "cpu"


def backend_of_type(device_type: str):
    """The default backend if it is of that type, or the first one that is; raises `BackendError` without one."""
    default = get_backend()
    return default if type_of(default) == device_type else get_backend(device_type)


def is_autocast_available(device_type: str) -> bool:
    """Whether `autocast` can be enabled here for "cpu" or "cuda"; False for any other type of device."""
    try:
        return device_type in DEVICES and backend_of_type(device_type) is not None
    except BackendError:
        return False


class autocast(contextlib.ContextDecorator):
    """Inside, ops cast their floating operands to the dtype that suits each: a context manager, or a decorator.

    Products, convolutions and recurrent layers run in `dtype`; losses, and on GPUs exponentials, norms and sums, in
    float32; ops of a few operands of different dtypes in the widest; all others in the dtypes they are given. Gradients
    arrive in the dtype of what they are gradients of, so float32 parameters have float32 gradients. float64 and integer
    tensors, writes in place, and calls with `dtype=` are left as they are.

    `device_type`: "cpu" or "cuda", the tensors concerned. `dtype`: float16 or bfloat16 (default: bfloat16 on the CPU, float16
    on GPUs; another one disables the region with a warning). `enabled=False`: nothing is cast inside, for a part of a
    region. `cache_enabled`: a parameter that several ops use is cast once, until it is written or the outermost region
    ends.

    The state belongs to a thread: threads started inside are outside. Call backward and the optimizer outside the region.
    Compiled functions have programs of their own for each state. The rules are PyTorch's, by device (`ops.casting`).
    (Micikevicius et al., Mixed Precision Training, 2018)

    >>> with dc.autocast("cpu"):
    ...     loss = F.cross_entropy(model(x), y)
    >>> loss.backward()
    """

    def __init__(self, device_type: str, dtype=None, enabled: bool = True, cache_enabled: bool | None = None):
        self.device = device_type_of(device_type)
        self.fast_dtype = getattr(mode.autocast, self.device) if dtype is None else dt.as_dtype(dtype)
        self.cache_enabled = cache_enabled
        self.enabled = bool(enabled)
        problem = ""
        if self.fast_dtype not in _DTYPES:
            problem = f"it casts to bfloat16 or float16, not to {dt.name_of(self.fast_dtype)}"
        elif not is_autocast_available(device_type):
            problem = "there is no such device"
        if self.enabled and problem:
            self.enabled = False
            warnings.warn(f'autocast("{device_type}") is disabled: {problem}', DeepcoreWarning, stacklevel=2)
        self._previous: list[State] = []

    def __enter__(self):
        state = mode.autocast
        self._previous.append(state)
        caching = state.caching if self.cache_enabled is None else bool(self.cache_enabled)
        _casts.depth += 1
        _set(state.replaced(self.device, self.fast_dtype, self.enabled)._replace(caching=caching))
        return self

    def __exit__(self, *exc) -> None:
        _casts.depth -= 1
        if not _casts.depth:
            _casts.table.clear()
        mode.autocast = self._previous.pop()

    def _recreate_cm(self):  # a decorated function may run in several threads at once
        again = object.__new__(type(self))
        again.__dict__.update(self.__dict__, _previous=[])
        return again


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether this thread is inside an enabled `autocast` for a type of device (default: "cuda", as in PyTorch)."""
    return device_type_of(device_type) in mode.autocast.enabled


def set_autocast_enabled(device_type, enabled: bool | None = None) -> None:
    """Enable or disable autocasting for "cpu" or "cuda" in this thread; with a flag alone, for "cuda"."""
    kind, flag = ("cuda", device_type) if enabled is None else (device_type_of(device_type), enabled)
    state = mode.autocast
    _set(state.replaced(kind, getattr(state, kind), bool(flag)))


def get_autocast_dtype(device_type: str):
    """The dtype that `autocast` of this type of device casts to in this thread, also where it is not enabled."""
    return getattr(mode.autocast, device_type_of(device_type))


def set_autocast_dtype(device_type: str, dtype) -> None:
    """Make float16 or bfloat16 the dtype of autocasting for a type of device in this thread."""
    kind, dtype = device_type_of(device_type), dt.as_dtype(dtype)
    if dtype not in _DTYPES:
        raise DTypeError("autocast casts to bfloat16 or float16", received=dt.name_of(dtype))
    _set(mode.autocast.replaced(kind, dtype, kind in mode.autocast.enabled))


def is_autocast_cache_enabled() -> bool:
    """Whether the casts of parameters are cached in this thread."""
    return mode.autocast.caching


def set_autocast_cache_enabled(enabled: bool) -> None:
    """Whether the casts of parameters are cached in this thread."""
    mode.autocast = mode.autocast._replace(caching=bool(enabled))


def clear_autocast_cache() -> None:
    """Drop this thread's cached casts."""
    _casts.table.clear()


def custom_fwd(fwd: Callable | None = None, *, device_type: str, cast_inputs=None):
    """Decorator of the `forward` of a `dc.autograd.Function`, below @staticmethod: how it runs under `autocast`.

    Without `cast_inputs`, it runs under the state of its caller, which `custom_bwd` then restores for `backward`. With a
    dtype, floating tensors among its arguments on that type of device (except float64) are cast to it, and both run with
    autocasting disabled; outside of autocast regions nothing is cast.
    """
    device_type_of(device_type)
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def forward(ctx, *args, **kwargs):
        state = mode.autocast
        enabled = device_type in state.enabled
        ctx._autocast = state.replaced(device_type, getattr(state, device_type), enabled and cast_inputs is None)
        if not enabled or cast_inputs is None:
            return fwd(ctx, *args, **kwargs)
        dtype = dt.as_dtype(cast_inputs)
        args, kwargs = (map_tensors(tree, lambda t: _cast_eligible(t, dtype, device_type)) for tree in (args, kwargs))
        with autocast(device_type, enabled=False):
            return fwd(ctx, *args, **kwargs)

    return forward


def custom_bwd(bwd: Callable | None = None, *, device_type: str):
    """Decorator of the `backward` of a `dc.autograd.Function` whose forward has `custom_fwd`: it runs under the same state."""
    device_type_of(device_type)
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def backward(ctx, *gradients):
        state = getattr(ctx, "_autocast", None)
        if state is None:
            raise ArgumentError(
                "custom_bwd needs the state that custom_fwd keeps",
                fix=f'@custom_fwd(device_type="{device_type}") of forward',
            )
        outer = mode.autocast
        mode.autocast = state
        try:
            return bwd(ctx, *gradients)
        finally:
            mode.autocast = outer

    return backward


def is_eligible(t: Tensor, device_type: str) -> bool:
    """Whether a tensor may be cast: it is on that type of device, floating, and not float64."""
    dtype = t._data.dtype
    return dt.is_floating(dtype) and dtype.itemsize < 8 and type_of(t.backend) == device_type


def _cast_eligible(t: Tensor, dtype, device_type: str) -> Tensor:
    return t.to(dtype) if is_eligible(t, device_type) and t.dtype != dtype else t  # type: ignore[attr-defined]


def map_tensors(tree, function: Callable):
    """A tree of lists, tuples and dicts with `function` of each tensor in its place."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(value, function) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)([map_tensors(value, function) for value in tree])
    return tree
