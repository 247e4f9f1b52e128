"""`Tensor`: an array, its gradient, and the node that computed it. No mathematics: ops install their own methods."""

from __future__ import annotations

import builtins
import contextlib
import enum
import functools
import inspect
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from deepcore.backend import BACKENDS, Backend, backend_of, device, dlpack, get_backend, one_place, place
from deepcore.backend import dtypes as dt
from deepcore.effects import effect, mode, untraceable
from deepcore.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendError,
    DTypeError,
    GradientError,
    IndexRangeError,
    ShapeError,
    suggest,
)

if TYPE_CHECKING:
    from deepcore.ops._methods import TensorMethods
else:
    TensorMethods = object


class Changes:
    """Counts changes of modules' attributes and tensors' memory, after which compiled programs check their guards."""

    __slots__ = ("count",)

    def __init__(self):
        self.count = 0


changes = Changes()


class Storage:
    """State shared by tensors over the same memory: its version, the number of writes, and its live views."""

    __slots__ = ("room", "version", "views")

    def __init__(self):
        self.version = 0
        self.views: list[weakref.ref] = []
        self.room = 64  # number of views at which dead ones are dropped

    def add_view(self, view: Tensor) -> None:
        self.views.append(weakref.ref(view))
        if len(self.views) >= self.room:
            self.views = [ref for ref in self.views if ref() is not None]
            self.room = 64 + 2 * len(self.views)


class UntypedStorage:
    """The bytes of a tensor's memory."""

    def __init__(self, array, backend: Backend):
        self._array, self._backend = array, backend

    @property
    def device(self) -> device:
        return self._backend.device

    def nbytes(self) -> int:
        return self._array.nbytes

    size = __len__ = nbytes

    def data_ptr(self) -> int:
        """The address of the first byte."""
        untraceable("taking a tensor's address")
        return self._backend.address(self._array)


class Tensor(TensorMethods):
    """An n-dimensional array that can record what is computed from it.

    Create one by `dc.tensor`, `dc.zeros`, …, not by this constructor, which raises for a user's arguments. `array` is
    the raw NumPy or CuPy array, shared; `grad` is None or a Tensor of the same shape and dtype.
    """

    # _base: None, or (the base of this view, the chain of view ops from there). _storage: created when first needed.
    # _hooks: set only on leaves that have hooks. _spec: cached shape, strides and dtype, the key of plans.
    __slots__ = (
        "__weakref__",
        "_base",
        "_data",
        "_hooks",
        "_node",
        "_requires_grad",
        "_spec",
        "_storage",
        "backend",
        "grad",
    )

    # Makes NumPy defer `array + tensor` to the tensor.
    __array_priority__ = 1000

    def __init__(
        self, data: Any = None, backend: Any = None, requires_grad: bool = False, node=None, spec=None, *extra
    ):
        try:
            BACKENDS[backend]  # the cheapest check
        except (KeyError, TypeError):
            data, backend = _constructed((data, backend, requires_grad, node, spec, *extra))
            requires_grad, node, spec = False, None, None
        self._data = data
        self._spec = spec
        self.backend = backend
        self._requires_grad = requires_grad
        self._node = node
        self.grad: Tensor | None = None
        self._base: tuple[Tensor, tuple] | None = None
        self._storage: Storage | None = None

    # -- the array ----------------------------------------------------------------------------------
    @property
    def array(self):
        """The raw array. Writing into it is not recorded: call `bump_version()` if a graph may still need it."""
        untraceable("taking a tensor's .array")
        return self._data

    @property
    def data(self) -> Tensor:
        """The same memory without history, as in PyTorch: graphs that saved it do not notice writes through this.

        `t.data = other` rebinds `t` to the memory of another tensor, of any shape, dtype and backend.
        """
        return effect("alias", _alias, self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(
                "t.data is assigned a tensor",
                received=type(value).__name__,
                fix="t.data = dc.as_tensor(array)" if hasattr(value, "dtype") else "t.data = dc.tensor(values)",
            )
        if value._data is not self._data:  # `t.data -= x` ends with this assignment of the same array
            untraceable("giving a tensor other memory")
            self.rebind(value._data, value.backend)

    def rebind(self, raw, backend: Backend) -> None:
        """Rebind to an array `raw` of `backend`; graphs that saved the old one become stale. For framework code."""
        if self._requires_grad and not dt.is_inexact(raw.dtype):
            raise DTypeError(
                f"only floating and complex tensors have gradients, and the new data is {dt.name_of(raw.dtype)}",
                fix="t.requires_grad_(False) first, or convert the data: value.float()",
            )
        version = self.version + 1  # marks graphs that saved the old array as stale
        self._data, self._spec, self.backend = raw, None, backend
        changes.count += 1
        self._base, self._storage = None, Storage()
        self._storage.version = version

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self):
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def device(self) -> device:
        """The device of `backend`, as in PyTorch."""
        return self.backend.device

    @property
    def is_cuda(self) -> bool:
        return self.backend.kernel_kind == "cuda"

    @property
    def is_cpu(self) -> bool:
        return self.backend.name == "cpu"

    def get_device(self) -> int:
        """The number of the GPU; -1 on the CPU."""
        index = self.backend.device.index
        return -1 if index is None else index

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    @property
    def itemsize(self) -> int:
        return self._data.itemsize

    def dim(self) -> int:
        return self._data.ndim

    def size(self, dim: int | None = None):
        """The shape, or the length of one dimension."""
        return self._data.shape if dim is None else self._of_dim(self._data.shape, dim)

    def numel(self) -> int:
        return int(self._data.size)

    nelement, ndimension = numel, dim

    def element_size(self) -> int:
        return self._data.itemsize

    def stride(self, dim: int | None = None):
        """Steps between neighbours, in elements."""
        strides = tuple(s // self._data.itemsize for s in self._data.strides)
        return strides if dim is None else self._of_dim(strides, dim)

    def _of_dim(self, values: tuple[int, ...], dim: int) -> int:
        try:
            return values[dim]
        except IndexError:
            raise IndexRangeError(f"dim {dim} is out of range for a tensor of shape {self.shape}") from None

    def is_contiguous(self, memory_format=None) -> bool:
        """Whether the memory is in row-major order; with `memory_format=dc.channels_last`, in the order N, H, W, C."""
        order = one_of(_MEMORY_FORMAT, memory_format)
        if order is None or not order.name.startswith("channels_last"):
            return bool(self._data.flags.c_contiguous)
        rank = 4 if order is _MEMORY_FORMAT.channels_last else 5
        if self._data.ndim != rank:
            return False
        return bool(self._data.transpose(0, *range(2, rank), 1).flags.c_contiguous)

    def dim_order(self) -> tuple[int, ...]:
        """The dimensions by decreasing stride."""
        return tuple(sorted(range(self._data.ndim), key=lambda dim: -abs(self._data.strides[dim])))

    def is_floating_point(self) -> bool:
        return dt.is_floating(self._data.dtype)

    def is_complex(self) -> bool:
        """Whether the dtype is complex64 or complex128."""
        return self._data.dtype.kind == "c"

    def is_conj(self) -> bool:
        """False: `conj` computes its result at once."""
        return False

    def is_neg(self) -> bool:
        """False: `imag` is a view of memory that holds its values."""
        return False

    is_sparse = is_quantized = False
    output_nr = 0
    name = None

    @property
    def layout(self) -> layout:
        return layout.strided

    # -- memory -------------------------------------------------------------------------------------
    def data_ptr(self) -> int:
        """The address of the first element."""
        untraceable("taking a tensor's address")
        return self.backend.address(self._data)

    def storage_offset(self) -> int:
        """The offset of the first element in the memory that this tensor is a view of, in elements."""
        return (self.backend.address(self._data) - self.backend.address(self._owner())) // self._data.itemsize

    def untyped_storage(self) -> UntypedStorage:
        """The memory that this tensor is a view of."""
        return UntypedStorage(self._owner(), self.backend)

    def _owner(self):
        array = self._data
        while type(array.base) is self.backend.array_type:  # the allocator's blocks have another type
            array = array.base
        return array

    def is_set_to(self, tensor: Tensor) -> bool:
        """Whether the other tensor has the same memory, shape and strides."""
        a, b = self._data, tensor._data
        same = (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
        return same and tensor.backend is self.backend and self.backend.address(a) == self.backend.address(b)

    # -- autodiff -----------------------------------------------------------------------------------
    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded for `backward`."""
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` in place, on a leaf of a floating or complex dtype."""
        if requires_grad and not dt.is_inexact(self.dtype):
            raise DTypeError(
                f"only floating and complex tensors have gradients, and this one is {self.dtype}",
                fix="convert it first: t.float().requires_grad_()",
            )
        if not requires_grad and self._node is not None:
            raise GradientError(
                "requires_grad can be switched off only on a leaf, and this tensor was computed",
                fix="use t.detach(), or compute it under no_grad()",
            )
        self._requires_grad = bool(requires_grad)
        changes.count += 1
        return self

    @property
    def is_leaf(self) -> bool:
        """True for a tensor that is not the result of a recorded operation."""
        return self._node is None

    @property
    def grad_fn(self):
        """The node that computed this tensor, or None."""
        return self._node

    @property
    def version(self) -> int:
        """The number of in-place writes to this memory."""
        return 0 if self._storage is None else self._storage.version

    _version = version

    def storage(self) -> Storage:
        """The storage shared with all views of this memory."""
        if self._storage is None:
            self._storage = Storage()
        return self._storage

    def bump_version(self) -> None:
        """Mark the memory as written, so that graphs that saved it are stale."""
        self.storage().version += 1

    def backward(
        self, gradient=None, retain_graph: bool | None = None, create_graph: bool = False, inputs=None
    ) -> None:
        """Add d(self)/d(leaf) to the `.grad` of every leaf, or of the tensors `inputs` alone.

        `gradient` defaults to 1 for a tensor of one element.
        """
        from deepcore.autograd import backward

        backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def detach(self) -> Tensor:
        """The same memory without its history."""
        return effect("alias", _detached, self)

    def detach_(self) -> Tensor:
        """Drop the history, in place; raises on a view, whose history is its base's."""
        if self._base is not None:
            raise GradientError("a view cannot be detached in place", fix="use t.detach(), or detach_() the base")
        self._node = None
        self._requires_grad = False
        changes.count += 1
        return self

    def retain_grad(self) -> None:
        """Also accumulate the gradient of this computed tensor in `.grad`."""
        if self._node is None:
            return
        ref = weakref.ref(self)

        def keep(gradient):
            tensor = ref()
            if tensor is not None:
                tensor.grad = gradient.clone() if tensor.grad is None else tensor.grad + gradient

        keep.retains = ref  # type: ignore[attr-defined]
        self._node.add_hook(keep)

    @property
    def retains_grad(self) -> bool:
        """Whether `retain_grad()` was called on this computed tensor."""
        hooks = () if self._node is None else self._node.hooks or ()
        return any(hook.retains() is self for hook in hooks if hasattr(hook, "retains"))

    def register_hook(self, hook):
        """Call `hook(gradient)` once this tensor's gradient is computed; a result other than None replaces it."""
        from deepcore.autograd import register_hook

        return register_hook(self, hook)

    # -- to Python and other libraries ----------------------------------------------------------------
    def item(self):
        """The one element, as a Python number."""
        if self._data.size != 1:
            raise ShapeError(
                "item() needs a tensor of one element",
                received=f"shape {self.shape}",
                fix="index it first, or use tolist()",
            )
        untraceable("reading a value")
        return self._data.item()

    def tolist(self):
        """Nested lists of Python numbers."""
        untraceable("reading values")
        return self.backend.to_host(self._data).tolist()

    def numpy(self, *, force: bool = False):
        """The NumPy array: shared memory on the CPU, a copy from a GPU.

        Errors: `GradientError` where the tensor requires grad, unless with `force`.
        """
        if self._requires_grad and not force:
            raise GradientError(
                "numpy() would lose the gradient of a tensor that requires it",
                fix="write t.detach().numpy(), or t.numpy(force=True)",
            )
        untraceable("taking a tensor's NumPy array")
        return self.backend.to_host(self._data).view()

    def __array__(self, dtype=None, copy=None):
        if self.backend.name != "cpu":
            raise BackendError(
                f"a tensor on {self.backend} does not turn into a NumPy array by itself", fix="t.numpy()"
            )
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ArgumentError("a copy is needed to change the dtype", fix="np.array(t, dtype=…)")
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        from deepcore.ops import numpy_protocol

        return numpy_protocol.ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, function, types, args, kwargs):
        from deepcore.ops import numpy_protocol

        return numpy_protocol.function(function, args, kwargs)

    @property
    def __cuda_array_interface__(self):
        return self.detach()._data.__cuda_array_interface__

    def __dlpack__(self, **kwargs):
        if self._requires_grad:
            raise GradientError("a tensor that requires grad is not exported", fix="export t.detach()")
        untraceable("handing a tensor's memory on")
        if self.dtype == dt.bfloat16:
            return dlpack.export_bfloat16(self._data.view(dt.int16), kwargs)
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._data.__dlpack_device__()

    def cpu(self, memory_format=None) -> Tensor:
        one_of(_MEMORY_FORMAT, memory_format)
        return self.to("cpu")

    def cuda(self, device=None, non_blocking: bool = False, memory_format=None) -> Tensor:
        """The tensor on a GPU: `cuda()`, `cuda(1)`, `cuda("cuda:1")`."""
        one_of(_MEMORY_FORMAT, memory_format)
        return self.to("cuda" if device is None else device)

    def pin_memory(self, device=None) -> Tensor:
        """A copy in page-locked memory of the CPU, from which copies to a GPU are faster; itself if it is pinned."""
        if self.backend.name != "cpu":
            raise BackendError("only tensors on the CPU can be pinned", received=f"a tensor on {self.backend}")
        if self.is_pinned():
            return self
        gpu = get_backend("cuda" if device is None else device)
        untraceable("pinning memory")
        return Tensor(gpu.pinned(self._data), self.backend)

    def is_pinned(self, device=None) -> bool:
        """Whether this memory is from `pin_memory()`."""
        owner = self._owner()
        return any(backend.is_pinned(owner) for backend in BACKENDS)

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ShapeError(f"the truth of a tensor of shape {self.shape} is ambiguous", fix="use t.any() or t.all()")
        untraceable("a decision that depends on a value")
        return bool(self._data.item())

    def __int__(self) -> int:
        return int(self._real_item("int"))

    def __float__(self) -> float:
        return float(self._real_item("float"))

    def _real_item(self, name: str):
        """The one element for a conversion to a real number, which raises for one with an imaginary part."""
        value = self.item()
        if not isinstance(value, complex):
            return value
        if value.imag:
            raise DTypeError(
                f"{name}() of a complex number would lose its imaginary part",
                received=repr(value),
                fix=f"{name}(t.real), {name}(t.imag), {name}(t.abs()), or complex(t)",
            )
        return value.real

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iub":
            raise DTypeError("only integer tensors of one element are indices", received=str(self._data.dtype))
        return int(self.item())

    def __len__(self) -> int:
        if not self._data.ndim:
            raise ShapeError("a 0-d tensor has no length", fix="t.numel() counts elements")
        return self._data.shape[0]

    def __iter__(self):
        if not self._data.ndim:
            raise ShapeError("a 0-d tensor cannot be iterated", fix="t.item() is its value")
        return (self[i] for i in range(self._data.shape[0]))

    def __reversed__(self) -> Tensor:
        """The tensor with its first dimension turned round."""
        return self.flip(0) if self._data.ndim else self

    def __contains__(self, value) -> bool:
        untraceable("a decision that depends on a value")
        return bool((self._data == (value._data if isinstance(value, Tensor) else value)).any())

    __hash__ = object.__hash__

    def __deepcopy__(self, memo):
        if self._node is not None:
            raise GradientError("only leaf tensors can be deep-copied", fix="copy t.detach()")
        copy = type(self).__new__(type(self))
        Tensor.__init__(copy, self._data.copy(), self.backend, self._requires_grad)
        if self.grad is not None:
            copy.grad = self.grad.detach().clone()
        memo[id(self)] = copy
        return copy

    def __reduce__(self):
        return _rebuild, (type(self), self.backend.to_host(self._data), self.backend.name, self._requires_grad)

    def __format__(self, spec: str) -> str:
        if not self._data.ndim:
            return format(self.item(), spec)
        if spec:
            raise ArgumentTypeError(
                f"a tensor of shape {self.shape} is not printed as one number",
                received=f"the format {spec!r}",
                fix="t.item() of one element, or dc.set_printoptions(precision=…)",
            )
        return str(self)

    def __repr__(self) -> str:
        from deepcore.printing import describe

        untraceable("printing a value")
        return describe(self)


def _constructed(arguments: tuple) -> tuple[Any, Backend]:
    """The array and backend of Tensor(2, 3), Tensor([1, 2]) and the like."""
    from deepcore.legacy import construct

    while arguments and (arguments[-1] is None or arguments[-1] is False):  # defaults of __init__
        arguments = arguments[:-1]
    t = construct("Tensor", dt.default_float, arguments)
    return t._data, t.backend


def _rebuild(cls, array, backend: str, requires_grad: bool):
    backend_ = get_backend(backend)
    tensor_ = cls.__new__(cls)
    Tensor.__init__(tensor_, backend_.from_host(array), backend_, requires_grad)
    return tensor_


# -- creating tensors ---------------------------------------------------------------------------------


def from_raw(array, backend: Backend, requires_grad: bool = False) -> Tensor:
    """A leaf over a raw array of `backend`, without a copy. For framework code."""
    return Tensor(array, backend, requires_grad)


def _target_backend(data, backend) -> Backend:
    """The backend of the new tensor: the requested one, else the data's own, else the default."""
    if backend is not None:
        return get_backend(backend)
    if isinstance(data, Tensor):
        return data.backend
    if hasattr(data, "__cuda_array_interface__"):
        dlpack_device = getattr(data, "__dlpack_device__", None)
        return backend_of(data) or (get_backend(f"cuda:{dlpack_device()[1]}") if dlpack_device else _gpu(get_backend()))
    return get_backend()


def _gpu(wanted: Backend) -> Backend:
    """The GPU that reads `__cuda_array_interface__`: the wanted backend, or the default one, or the first."""
    return next((b for b in (wanted, get_backend()) if b.kernel_kind == "cuda"), None) or get_backend("cuda")


def _alias(tensor: Tensor) -> Tensor:
    return Tensor(tensor._data, tensor.backend)


def _detached(tensor: Tensor) -> Tensor:
    out = Tensor(tensor._data, tensor.backend)
    out._storage = tensor.storage()
    return out


def _to_raw(data, dtype, backend: Backend, copy: bool):
    """Any array, number, nested list or Tensor as a raw array on `backend`."""
    source: Backend | None
    exact = False  # tensors convert as in PyTorch, even where numbers do not fit; other data raises
    if isinstance(data, Tensor):
        raw, source = data._data, data.backend
    else:
        exact = True
        source = backend if type(data) is backend.array_type else backend_of(data)
        raw = data
        if mode.tracer is not None and hasattr(data, "dtype") and hasattr(data, "__setitem__"):
            untraceable("an array that comes in inside of the function: make it an argument")
        if source is None and hasattr(data, "__dlpack_device__"):
            raw, source = _read_dlpack(data)
        elif source is None and hasattr(data, "__cuda_array_interface__"):
            source = _gpu(backend)
            raw = source.asarray(data)
        elif source is None or not hasattr(data, "dtype"):
            source, raw = get_backend("cpu"), _host_array(data, dtype)
        elif type(raw) is not source.array_type:
            raw = source.asarray(unmasked(raw))
    if raw.dtype not in dt.DTYPES.values():
        dt.as_dtype(raw.dtype)
    if dtype is not None:
        dtype = dt.as_dtype(dtype)
    elif raw.dtype.byteorder not in "=|":
        dtype = dt.as_dtype(raw.dtype)
    if dtype is not None and raw.dtype is not dtype and raw.dtype != dtype:
        raw, copy = _convert(raw, dtype, source) if exact else raw.astype(dtype), False
    else:
        raw = dt.canonical(raw)
    if source is not backend:
        raw = backend.from_host(source.to_host(raw))
        copy = copy and backend.name == "cpu" and source.name == "cpu"
    if copy:
        return raw.copy()
    # A view, as the user may change the array's shape in place, and plans rely on a tensor's shape and strides.
    return raw.view() if raw is data and backend.name == "cpu" else raw


def _convert(raw, dtype, backend: Backend):
    """`raw` in another dtype; a number that the dtype cannot hold raises."""
    if raw.dtype.kind == "c":
        if dtype.kind != "c" and dtype != dt.bool_ and bool((raw.imag != 0).any()):
            at = int(backend.argmax((raw.imag != 0).reshape(-1)).item())
            raise dt.misfit(raw.reshape(-1)[at].item(), dtype, _place(at, raw.shape))
        if dtype.kind == "c" and not dt.holds(dtype, raw.dtype):
            for part in (raw.real, raw.imag):
                _convert(part, dt.real_of(dtype), backend)
        return (raw if dtype.kind == "c" or dtype == dt.bool_ else raw.real).astype(dtype)
    if raw.size and not dt.holds(dtype, raw.dtype):
        dtype, wanted = dt.real_of(dtype), dtype
        low, high = dt.span(dtype)
        if not (low < raw.min().item() and raw.max().item() < high):  # also true for NaN and infinities
            xp = backend
            if dt.is_floating(dtype):
                bad = xp.logical_and(xp.isfinite(raw), xp.logical_or(raw <= low, raw >= high))
            elif dt.is_floating(raw.dtype):  # not every dtype has the ends of `span`, but all have these powers of two
                whole = xp.trunc(raw.astype(dt.float64))
                bad = xp.logical_not(xp.logical_and(whole >= low + 1, whole < high))
            else:
                first, last = dt.span(raw.dtype)
                bad = xp.logical_or(raw < max(low, first) + 1, raw > min(high, last) - 1)
            if bool(bad.any()):
                at = int(xp.argmax(bad.reshape(-1)).item())
                raise dt.misfit(raw.reshape(-1)[at].item(), dtype, _place(at, raw.shape))
        dtype = wanted
    return raw.astype(dtype)


def _place(flat: int, shape: tuple[int, ...]) -> str:
    """The index of an element, such as `[2, 0]`, from its row-major position."""
    index = []
    for n in reversed(shape):
        flat, at = divmod(flat, n)
        index.append(at)
    return f"[{', '.join(map(str, reversed(index)))}]" if shape else ""


def unmasked(array):
    """`array` without a mask; raises for a masked array with masked elements, whose mask a tensor would lose."""
    if hasattr(array, "filled") and hasattr(array, "mask"):
        if array.mask.any():
            raise DTypeError(
                "a tensor has no mask, and elements of this masked array are masked",
                received=f"{int(array.mask.sum())} masked of {array.size} elements",
                fix="array.filled(value) puts a number in their place, array.compressed() leaves them out",
            )
        return array.data
    return array


def _read_dlpack(source):
    """(raw array over the memory of another library's array, its backend), by DLPack."""
    name = type(source).__module__.partition(".")[0]
    try:
        kind, index = source.__dlpack_device__()
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise BackendError(
            f"this array of {name} is where DLPack does not reach: {error}", fix="move it to the CPU or a GPU first"
        ) from None
    backend = get_backend("cpu" if kind == 1 else f"cuda:{index}")
    problem: Exception
    try:
        raw = backend.from_dlpack(source)
        if dt.is_supported(raw.dtype):
            return raw, backend
        problem = DTypeError(f"tensors cannot hold dtype {raw.dtype}")
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        problem = error
    if getattr(source, "requires_grad", False) is True:
        raise GradientError(
            f"an array of {name} that requires grad would lose its gradient here", fix="hand over array.detach()"
        )
    with contextlib.suppress(BufferError, RuntimeError, TypeError, ValueError):
        return backend.from_dlpack(dlpack.AsInt16(source)).view(dt.bfloat16), backend
    raise DTypeError(
        f"this array of {name} cannot be read: {getattr(problem, 'problem', problem)}",
        expected="one of " + ", ".join(dt.DTYPES),
        received=str(source.dtype) if hasattr(source, "dtype") else None,
        fix="convert it there first, to float32 for example",
    ) from None


def _host_array(data, dtype=None):
    """A number or nested list as a NumPy array: int64, or float32 with fractions; NumPy scalars keep their dtype, and so
    do arrays, images and tables of other libraries.
    """
    host = get_backend("cpu")
    kinds = set(map(type, leaves(data)))
    is_array = hasattr(data, "__array__") or hasattr(data, "__array_interface__")
    if isinstance(data, (builtins.list, tuple)) and any(hasattr(kind, "__dlpack__") for kind in kinds):
        data = _plain_leaves(data)
    try:
        array = host.array(host.asarray(data) if is_array else data)
    except (ValueError, TypeError) as error:
        if "inhomogeneous" in str(error) or "sequence" in str(error):
            raise ShapeError(
                f"this data does not form one array: {error}", fix="give rows of equal length, or pad them first"
            ) from None
        raise DTypeError(f"{type(data).__name__} data does not form an array: {error}") from None
    if is_array:
        array, kinds = _plain_numbers(array, kinds)
    numpy_scalars = is_array or any(hasattr(kind, "dtype") or hasattr(kind, "__array__") for kind in kinds)
    whole = all(issubclass(kind, int) for kind in kinds) and array.dtype.kind in "fO" and array.size
    if whole and (dtype is None or not dt.is_floating(dt.as_dtype(dtype))):  # beyond NumPy's integers
        wanted = dt.int64 if dtype is None else dt.as_dtype(dtype)
        array = host.array(data, dtype=object)
        bad = [not dt.fits(value, wanted) for value in array.reshape(-1)]
        if any(bad):
            raise dt.misfit(array.reshape(-1)[bad.index(True)], wanted, _place(bad.index(True), array.shape))
        array = array.astype(wanted)
    elif array.dtype.kind == "O" and kinds and all(issubclass(kind, (int, float, complex)) for kind in kinds):
        try:
            array = array.astype(dt.complex128 if any(issubclass(kind, complex) for kind in kinds) else dt.float64)
        except OverflowError:
            raise dt.misfit(max(leaves(data), key=abs), dt.float64) from None
    if array.dtype.kind in "OUSMmV" and not dt.is_supported(array.dtype):
        raise DTypeError(
            f"tensors hold numbers, not {' or '.join(sorted(kind.__name__ for kind in kinds))} data",
            fix="iterators and sets: dc.tensor(list(data))"
            if isinstance(data, (set, frozenset)) or hasattr(data, "__next__")
            else "fill in what is missing (fillna) and number the categories, as pandas.get_dummies(table, dtype=float)"
            if is_array and hasattr(data, "to_numpy")
            else None,
        )
    if dtype is not None:  # keep full precision: float32(0.1) is not float64(0.1)
        return array
    if (array.dtype == dt.float64 and not numpy_scalars) or (not array.size and not numpy_scalars):
        array = _convert(array, dt.default_float, host)
    elif array.dtype.kind in "iu" and not numpy_scalars:
        array = _convert(array, dt.int64, host)
    elif array.dtype == dt.complex128 and not numpy_scalars:
        array = _convert(array, dt.complex_of(dt.default_float), host)
    return array


def _plain_numbers(array, kinds: set[type]):
    """An array of another library, of numbers if its objects are, as in a table whose columns differ in dtype; and the
    types that an error names."""
    if array.dtype.kind == "O":
        kinds = {type(value) for value in array.reshape(-1) if not _is_number(value)}
        if not array.size:
            array = array.astype(dt.float64)
        elif not kinds:
            kinds = set(map(type, array.reshape(-1)))
            array = get_backend("cpu").array(array.tolist())
    elif array.dtype.kind in "USMmV" and not dt.is_supported(array.dtype):
        kinds = {array.dtype.type}
    return array, kinds


def _is_number(value) -> bool:
    if hasattr(value, "dtype"):
        return value.shape == () and dt.is_supported(value.dtype)
    return isinstance(value, (int, float, complex))


def leaves(data):
    """The leaves of nested lists, in order."""
    if isinstance(data, (builtins.list, tuple)):
        for item in data:
            yield from leaves(item)
    else:
        yield data


def _plain_leaves(data):
    """Nested lists with the tensors and arrays in them as NumPy arrays."""
    if isinstance(data, (builtins.list, tuple)):
        return [_plain_leaves(item) for item in data]
    if isinstance(data, Tensor):
        return data.detach().numpy()
    if hasattr(data, "__dlpack_device__"):
        raw, backend = (unmasked(data), get_backend("cpu")) if backend_of(data) else _read_dlpack(data)
        return backend.to_host(raw)
    return data


def made(raw, backend: Backend) -> Tensor:
    """A tensor over a new array whose content is the same in every run of a program, such as zeros or a range."""
    return effect("from_data", Tensor, raw, backend)


class layout(enum.Enum):
    """The layout of a tensor in memory: always strided."""

    strided = "strided"

    def __repr__(self) -> str:
        return f"dc.{self.name}"


class memory_format(enum.Enum):
    """The order of dimensions in memory, with PyTorch's names; a hint that no result depends on."""

    contiguous_format = "contiguous_format"
    preserve_format = "preserve_format"
    channels_last = "channels_last"
    channels_last_3d = "channels_last_3d"

    def __repr__(self) -> str:
        return f"dc.{self.name}"


_MEMORY_FORMAT = memory_format  # parameters shadow the name

_Function = TypeVar("_Function", bound=Callable[..., Any])


def factory(function: _Function) -> _Function:
    """Decorator that adds PyTorch's keywords to a function that creates a tensor.

    `device` is an alias of `backend`, `out` a tensor of the result's shape that is written and returned.
    `pin_memory=True` is `Tensor.pin_memory()`; `layout` and `memory_format` are accepted with PyTorch's values.
    """
    code = function.__code__
    own = frozenset(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - {"device"}

    @functools.wraps(function)
    def make(*args, **keywords):
        if mode.level is not None:
            return mode.level.adopted(_call_factory(function, own, args, keywords), args)
        if not keywords or keywords.keys() <= own:
            return function(*args, **keywords)
        return _call_factory(function, own, args, keywords)

    return make  # type: ignore[return-value]


def _call_factory(function: Callable, own: frozenset[str], args: tuple, keywords: dict[str, Any]) -> Tensor:
    args = one_place(function, args, keywords) if "backend" in own else args
    out = keywords.pop("out", None)
    pinned = keywords.pop("pin_memory", False)
    for name, kind in (("layout", layout), ("memory_format", memory_format)):
        if name not in own:
            one_of(kind, keywords.pop(name, None))
    code = function.__code__
    if "size" in keywords and code.co_flags & inspect.CO_VARARGS and "size" not in own:
        args = (*args, keywords.pop("size"))
    unknown = sorted(keywords.keys() - own)
    if unknown:
        raise ArgumentTypeError(
            f"{function.__name__}() has no argument {unknown[0]!r}",
            fix=suggest(unknown[0], own | {"device", "out", "pin_memory"}),
        )
    if out is None:
        result = function(*args, **keywords)
        return result.pin_memory() if pinned else result
    if not isinstance(out, Tensor):
        raise ArgumentTypeError("out is a tensor", received=type(out).__name__)
    for name, value in (("backend", out.backend), ("dtype", out.dtype)):
        if name in own and keywords.get(name) is None:
            keywords[name] = value
    result = function(*args, **keywords)
    if (result.shape, result.dtype, result.backend) != (out.shape, out.dtype, out.backend):
        raise ShapeError(
            "out does not have the result's shape, dtype and backend",
            expected=f"shape {result.shape}, {dt.name_of(result.dtype)}, backend {result.backend}",
            received=f"shape {out.shape}, {dt.name_of(out.dtype)}, backend {out.backend}",
        )
    out.copy_(result.detach())
    return out.requires_grad_() if result._requires_grad else out


def one_of(kind, value):
    """`value`, checked to be None or a member of the enum `kind`."""
    if value is None or isinstance(value, kind):
        return value
    raise ArgumentTypeError(
        f"{kind.__name__} is one of " + ", ".join(f"dc.{choice.name}" for choice in kind), received=repr(value)
    )


def _finish(raw, backend: Backend, requires_grad: bool) -> Tensor:
    out = made(raw, backend)
    return out.requires_grad_() if requires_grad else out


@factory
def tensor(data, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """A new tensor holding a copy of `data`: a number, nested list, Tensor, or anything with `__array__`, `__dlpack__` or
    `__cuda_array_interface__`, such as arrays of PyTorch or JAX, tables of pandas and images of Pillow.

    Python floats become float32, complex numbers complex64 and whole numbers int64; arrays keep their dtype and, unless `backend`
    says otherwise, CuPy arrays stay on their GPU. A number that `dtype` cannot hold raises `DTypeError` (fractions are
    cut in integers), and so does a NumPy array with masked elements; a Tensor is converted as by `to`.
    """
    owner = _target_backend(data, backend)
    if isinstance(data, Tensor):
        untraceable("dc.tensor() of a tensor (t.detach().clone() is an operation)")
    return _finish(_to_raw(data, dtype, owner, copy=True), owner, requires_grad)


def asarray(
    obj, *, dtype=None, backend=None, device=None, copy: bool | None = None, requires_grad: bool = False
) -> Tensor:
    """`as_tensor`, or with `copy=True` `tensor`; `copy=False` raises where the memory cannot be shared."""
    target = place(backend, device)
    result = tensor(obj, dtype, target) if copy else as_tensor(obj, dtype, target)
    if copy is False and not _shares_memory(result, obj):
        raise ArgumentError("this data cannot be shared", received=type(obj).__name__, fix="leave out copy=False")
    return result.detach().requires_grad_() if requires_grad and not result.requires_grad else result


def _shares_memory(result: Tensor, source) -> bool:
    if isinstance(source, Tensor):
        return result._data is source._data
    address = getattr(source, "data_ptr", None)
    if address is not None:
        return result.backend.address(result._data) == address()
    return (
        hasattr(source, "dtype") and hasattr(source, "shape") and result.backend.may_share_memory(result._data, source)
    )


@factory
def scalar_tensor(s, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """A number as a tensor of no dimension, float32 by default."""
    return tensor(s, dt.default_float if dtype is None else dtype, backend, requires_grad)


@factory
def as_tensor(data, dtype=None, backend=None, *, device=None) -> Tensor:
    """As `tensor`, but shares memory where possible, also with other libraries' arrays (DLPack, CUDA array interface); a
    Tensor of this dtype and backend is returned itself.
    """
    owner = _target_backend(data, backend)
    if isinstance(data, Tensor):
        if data.backend is owner and (dtype is None or data.dtype == dt.as_dtype(dtype)):
            return data
        return data.to(owner, dtype)
    if backend is None and type(data).__module__.partition(".")[0] in ("numpy", "cupy"):
        owner = backend_of(data) or owner
    raw = _to_raw(data, dtype, owner, copy=False)
    shared = any(hasattr(data, name) for name in ("dtype", "__dlpack__", "__cuda_array_interface__"))
    return Tensor(raw, owner) if shared else made(raw, owner)


def from_numpy(array) -> Tensor:
    """A CPU tensor over the memory of a NumPy array."""
    cpu = get_backend("cpu")
    if type(array) is not cpu.array_type:
        raise ArgumentError("from_numpy takes a NumPy array", received=type(array).__name__, fix="dc.as_tensor(data)")
    return Tensor(_to_raw(array, None, cpu, copy=False), cpu)


def from_dlpack(source) -> Tensor:
    """A tensor over the memory of any object that supports DLPack (PyTorch, CuPy, JAX …)."""
    if not hasattr(source, "__dlpack_device__"):
        raise ArgumentError(
            "from_dlpack takes an array that speaks DLPack", received=type(source).__name__, fix="dc.as_tensor(data)"
        )
    source = unmasked(source)
    owner = backend_of(source)
    if owner is not None:
        return Tensor(_to_raw(source, None, owner, copy=False), owner)
    raw, backend = _read_dlpack(source)
    return Tensor(raw, backend)


def _shape(size: tuple) -> tuple[int, ...]:
    if len(size) == 1 and isinstance(size[0], (tuple, builtins.list)):
        size = tuple(size[0])
    try:
        shape = tuple(int(n.__index__()) for n in size)
    except (AttributeError, TypeError):
        raise ArgumentError("sizes are whole numbers", received=repr(size)) from None
    if any(n < 0 for n in shape):
        raise ShapeError("sizes cannot be negative", received=str(shape))
    return shape


def _filled_factory(function: str, doc: str):
    def make(*size, dtype=None, backend=None, requires_grad: bool = False) -> Tensor:
        xp = get_backend(backend)
        raw = getattr(xp, function)(_shape(size), dtype=dt.as_dtype(dtype or dt.default_float))
        return _finish(raw, xp, requires_grad)

    make.__name__ = make.__qualname__ = function
    make.__doc__ = doc
    return factory(make)


zeros = _filled_factory("zeros", "A tensor of zeros: `zeros(2, 3)` or `zeros((2, 3))`, float32 by default.")
ones = _filled_factory("ones", "A tensor of ones: `ones(2, 3)` or `ones((2, 3))`, float32 by default.")
empty = _filled_factory("empty", "A tensor of uninitialised memory.")


@factory
def full(size, fill_value, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """A tensor with every element `fill_value`, in the value's dtype by default; the dtype must hold the value."""
    return filled(size, fill_value, dtype, backend, requires_grad)


def filled(size, fill_value, dtype=None, backend=None, requires_grad: bool = False) -> Tensor:
    """`full` without its keywords."""
    xp = get_backend(backend)
    if isinstance(fill_value, Tensor) or hasattr(fill_value, "dtype"):
        fill_value = unmasked(fill_value).item()
    if dtype is None:
        dtype = next((kind for kind in (bool, int, complex) if isinstance(fill_value, kind)), float)
    size = size if isinstance(size, (tuple, list)) else (size,)
    kind = dt.as_dtype(dtype)
    return _finish(xp.full(_shape(tuple(size)), xp.constant(fill_value, kind), dtype=kind), xp, requires_grad)


def tensor_like(name: str, value) -> Tensor:
    """`value`, checked to be a tensor, for the function `name`, such as zeros_like."""
    if isinstance(value, Tensor):
        return value
    raise DTypeError(
        f"{name} takes a tensor", received=type(value).__name__, fix=f"dc.{name.removesuffix('_like')}(size)"
    )


def _like_factory(function: str):
    def make(input: Tensor, dtype=None, backend=None, requires_grad: bool = False) -> Tensor:
        xp = tensor_like(f"{function}_like", input).backend if backend is None else get_backend(backend)
        if mode.level is not None:
            build = lambda t, _: made(getattr(xp, function)(t.shape, dtype=dt.as_dtype(dtype or input.dtype)), xp)
            return mode.level.like(input, build).requires_grad_(requires_grad)
        raw = getattr(xp, function)(input.shape, dtype=dt.as_dtype(dtype or input.dtype))
        return _finish(raw, xp, requires_grad)

    make.__name__ = make.__qualname__ = f"{function}_like"
    make.__doc__ = f"`{function}` with the shape, dtype and backend of `input`."
    return factory(make)


zeros_like, ones_like, empty_like = _like_factory("zeros"), _like_factory("ones"), _like_factory("empty")


@factory
def full_like(
    input: Tensor, fill_value, dtype=None, backend: Any = None, requires_grad: bool = False, *, device=None
) -> Tensor:
    """`full` with the shape, dtype and backend of `input`."""
    backend = backend or tensor_like("full_like", input).backend
    if mode.level is not None:
        kind = input.dtype if dtype is None else dtype
        return mode.level.like(input, lambda t, _: filled(t.shape, fill_value, kind, backend, requires_grad))
    return full(input.shape, fill_value, input.dtype if dtype is None else dtype, backend, requires_grad)


def _number(name: str, value):
    value = unmasked(value).item() if isinstance(value, Tensor) or hasattr(value, "dtype") else value
    if not isinstance(value, (int, float)):
        raise ArgumentError(f"{name} takes numbers", received=repr(value))
    return value


@factory
def arange(start, end=None, step=1, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """start, start + step, … below `end`; int64 when all three are whole numbers, else float32.

    With an integer `dtype` the fractions of all three are cut first. The dtype has to hold every number.
    """
    if end is None:
        start, end = 0, start
    values = [_number("arange", v) for v in (start, end, step)]
    if dtype is None:
        dtype = int if all(isinstance(v, int) for v in values) else float
    kind = dt.as_dtype(dtype)
    if kind == dt.bool_:
        raise DTypeError("arange counts, which bool cannot", fix="dtype=dc.uint8, or dc.arange(n) > 0")
    if kind.kind == "c":
        raise DTypeError(
            f"arange has no end that complex numbers reach ({dt.name_of(kind)})", fix="dc.arange(n).cfloat()"
        )
    if not dt.is_floating(kind) and all(isinstance(v, int) or math.isfinite(v) for v in values):
        values = [int(v) for v in values]
    if values[2] == 0:
        raise ArgumentError("arange needs a step that is not zero", received=f"step {step} in {dt.name_of(kind)}")
    if not 0 <= (values[1] - values[0]) / values[2] < float("inf"):  # false for NaN, too
        raise ArgumentError(
            "arange: the step must lead from start to a finite end",
            received=f"start {values[0]}, end {values[1]}, step {values[2]}",
        )
    xp = get_backend(backend)
    if all(isinstance(v, int) for v in values):
        numbers = range(*values)
        _check_ends(kind, values[0], numbers[-1] if numbers else values[0])
        raw = xp.arange(*values, dtype=kind)
    else:
        count = max(0, -int(-((values[1] - values[0]) / values[2]) // 1))
        _check_ends(kind, values[0], values[0] + max(0, count - 1) * values[2])
        raw = (xp.arange(count, dtype=dt.float64) * values[2] + values[0]).astype(kind)
    return _finish(raw, xp, requires_grad)


def _check_ends(kind, *ends) -> None:
    """Raise where the first or the last number of a range does not fit its dtype."""
    for value in ends:
        if not dt.fits(value, kind):
            raise dt.misfit(value, kind)


@factory
def linspace(start, end, steps: int, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """`steps` evenly spaced values from `start` to `end`, both included."""
    xp = get_backend(backend)
    start, end = _number("linspace", start), _number("linspace", end)
    kind = dt.as_dtype(dtype or dt.default_float)
    _check_ends(kind, start, end)
    raw = xp.linspace(float(start), float(end), *_shape((steps,)), dtype=dt.float64)
    return _finish(raw.astype(kind), xp, requires_grad)


@factory
def logspace(
    start, end, steps: int, base: float = 10.0, dtype=None, backend=None, requires_grad: bool = False, *, device=None
) -> Tensor:
    """`steps` numbers from baseˢᵗᵃʳᵗ to baseᵉⁿᵈ, both included, each the same multiple of the one before."""
    xp = get_backend(backend)
    start, end, base = (_number("logspace", value) for value in (start, end, base))
    kind = dt.as_dtype(dtype or dt.default_float)
    raw = xp.linspace(float(start), float(end), *_shape((steps,)), dtype=dt.float64)
    return _finish(xp.power(xp.full((), float(base), dtype=dt.float64), raw).astype(kind), xp, requires_grad)


@factory
def eye(n: int, m: int | None = None, dtype=None, backend=None, requires_grad: bool = False, *, device=None) -> Tensor:
    """The n×m matrix with ones on the diagonal."""
    xp = get_backend(backend)
    rows, columns = _shape((n, n if m is None else m))
    return _finish(xp.eye(rows, columns, dtype=dt.as_dtype(dtype or dt.default_float)), xp, requires_grad)


def is_tensor(value: Any) -> bool:
    """Whether `value` is a Tensor."""
    return isinstance(value, Tensor)
