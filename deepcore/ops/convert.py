"""dtype and backend conversions, operators, and the in-place methods."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable

from deepcore.autograd import Function, autocasting, mode
from deepcore.autograd.levels import Lifted, snapshot
from deepcore.backend import Backend, available_kinds, device, get_backend, place
from deepcore.backend import dtypes as dt
from deepcore.backend.devices import FOREIGN
from deepcore.effects import effect, untraceable
from deepcore.errors import BackendError, DTypeError, GradientError, ShapeError, TransformError, suggest
from deepcore.ops import arithmetic, comparison
from deepcore.ops.index import convert_value, refuse_leaf, setitem, write
from deepcore.ops.registry import FUNCTIONS, Tensor, cast, composite, sample
from deepcore.ops.shape import broadcast_to, sizes
from deepcore.tensor import _MEMORY_FORMAT, factory, filled, full, made, one_of, tensor


class _Transfer(Function):
    """A copy on another backend; the gradient is copied back."""

    @staticmethod
    def forward(ctx, input, backend):
        ctx.source = input.backend
        return Tensor(backend.from_host(input.backend.to_host(input._data)), backend)

    @staticmethod
    def backward(ctx, g):
        return _Transfer.apply(g, ctx.source), None


def target_of(value):
    """(backend, dtype) that `value` names; one of them may be None."""
    if isinstance(value, (Backend, device, int)):
        return get_backend(value), None
    if isinstance(value, Tensor):
        return value.backend, value.dtype
    if isinstance(value, str) and not dt.is_dtype_name(value):
        kinds = [*available_kinds(), "auto"]
        if value.partition(":")[0] not in {*kinds, *FOREIGN}:
            raise BackendError(
                f"{value!r} is the name of neither a dtype nor a backend", fix=suggest(value, [*kinds, *dt.DTYPES])
            )
        return get_backend(value), None
    return None, dt.as_dtype(value)


@composite(examples=lambda make: [sample(make(3), "float64"), sample(make(3), make(2))])
def to(
    input,
    *targets,
    dtype=None,
    backend=None,
    device=None,
    non_blocking: bool = False,
    copy: bool = False,
    memory_format=None,
):
    """The tensor in another dtype, on another backend, or both: to("cuda"), to(dc.float64), to(other). Itself if it fits"""
    one_of(_MEMORY_FORMAT, memory_format)
    backend = place(backend, device)
    backend = get_backend(backend) if backend is not None else None
    dtype = dt.as_dtype(dtype) if dtype is not None else None
    flags = [value for value in targets if isinstance(value, bool)]  # PyTorch's non_blocking and copy
    for value in targets:
        if value is None or isinstance(value, bool):
            continue
        named_backend, named_dtype = target_of(value)
        backend, dtype = named_backend or backend, named_dtype or dtype
    out = input
    if dtype is not None and dtype != input.dtype:
        out = _converted(out, dtype)
    if backend is not None and backend is not input.backend:
        out = _Transfer.apply(out, backend)
    copy = copy or (len(flags) > 1 and flags[1])
    return out.clone() if copy and out is input else out


def _converted(t: Tensor, dtype) -> Tensor:
    """`cast` for a user, who is warned where it drops imaginary parts, as in PyTorch."""
    if t._data.dtype.kind == "c" and dtype.kind != "c" and dtype != dt.bool_:
        warnings.warn(
            "converting complex numbers to real ones drops their imaginary parts; z.real says so without a warning",
            UserWarning,
            stacklevel=3,
        )
    return cast(t, dtype, drop_imaginary=True)


def _caster(name: str, dtype, doc: str):
    def convert(input):
        return input if input.dtype == dtype else _converted(input, dtype)

    convert.__name__ = convert.__qualname__ = name
    convert.__doc__ = doc
    setattr(Tensor, name, convert)


for _name, _dtype in (
    ("float", dt.float32), ("double", dt.float64), ("half", dt.float16), ("bfloat16", dt.bfloat16), ("long", dt.int64),
    ("int", dt.int32), ("short", dt.int16), ("char", dt.int8), ("byte", dt.uint8), ("bool", dt.bool_),
    ("cfloat", dt.complex64), ("cdouble", dt.complex128),
):  # fmt: skip
    _caster(_name, _dtype, f"The tensor as {dt.name_of(_dtype)}")

#: PyTorch's names of tensor types.
_TYPES = {
    "FloatTensor": dt.float32, "DoubleTensor": dt.float64, "HalfTensor": dt.float16, "BFloat16Tensor": dt.bfloat16,
    "LongTensor": dt.int64, "IntTensor": dt.int32, "ShortTensor": dt.int16, "CharTensor": dt.int8,
    "ByteTensor": dt.uint8, "BoolTensor": dt.bool_, "ComplexFloatTensor": dt.complex64,
    "ComplexDoubleTensor": dt.complex128,
}  # fmt: skip


def type_(self, dtype=None, non_blocking: bool = False):
    """The tensor in another dtype; without one, the name of its type: "deepcore.FloatTensor"."""
    if dtype is not None:
        kind = _TYPES.get(dtype.rpartition(".")[2]) if isinstance(dtype, str) else None
        return to(self, dtype=dt.as_dtype(dtype) if kind is None else kind)
    name = next((name for name, kind in _TYPES.items() if kind == self.dtype), f"{dt.name_of(self.dtype)}Tensor")
    return f"deepcore.{name}" if self.is_cpu else f"deepcore.{self.device.type}.{name}"


def astype(self, dtype):
    """The tensor in another dtype, under NumPy's name."""
    return to(self, dtype=dt.as_dtype(dtype))


Tensor.type, Tensor.astype = type_, astype
Tensor.type_as = lambda self, other: to(self, other.dtype)


# -- in-place methods -------------------------------------------------------------------------------------------


def _copy(t: Tensor):
    return t._data.copy()


def _alias(t: Tensor) -> Tensor:
    return Tensor(t._data, t.backend, t._requires_grad, t._node)


def in_place(name: str, function: Callable, module: str = __name__) -> Callable:
    """`function` as `name`, which writes the result into the first argument and returns that."""

    def method(self, *args, **kwargs):
        refuse_leaf(self)
        # An alias of this tensor: a VJP that saves it gets a copy of the old values before the write below.
        proxy = [effect("alias", _alias, self) if mode.level is None else snapshot(self)]
        result = autocasting.without(function, (proxy[0], *args), kwargs)
        if result.shape != self.shape:
            raise ShapeError(
                f"{name}: the result does not have the shape of the tensor that should hold it",
                expected=str(self.shape),
                received=str(result.shape),
                fix=f"use {name.rstrip('_')}, which makes a new tensor",
            )
        if self.dtype == dt.bool_ and result.dtype != dt.bool_:
            raise DTypeError(
                f"{name}: a {dt.name_of(result.dtype)} result cannot be written into a bool tensor",
                fix="convert the target first, or use the operation that makes a new tensor",
            )
        if result._data is self._data:
            result = result.clone()
        if sys.getrefcount(proxy[0]) > 2 and not isinstance(
            proxy[0], Lifted
        ):  # more than the list's reference and the call's
            proxy[0]._data, proxy[0]._spec = effect("copied", _copy, self), None
        write(self, result)
        if proxy[0]._storage is not None:  # a saved view of the proxy must count as changed
            proxy[0]._storage.version += 1
        return self

    method.__name__ = method.__qualname__ = name
    method.__module__ = module
    method.__doc__ = f"`{name.rstrip('_')}`, written into this tensor."
    return method


def install_in_place() -> None:
    """`Tensor.<name>_` for every function declared with `inplace`."""
    for entry in list(FUNCTIONS.values()):
        if entry.inplace:
            for name in entry.names:
                if "." not in name:
                    setattr(Tensor, f"{name}_", in_place(f"{name}_", entry.function))


#: Functions whose views a tensor can become itself, as `unsqueeze_`.
_TURNS = ("squeeze", "unsqueeze", "transpose", "swapaxes", "swapdims", "t")


def _turn(name: str, function):
    def method(self, *args, **kwargs):
        if self._requires_grad:
            raise GradientError(
                f"{name}: a tensor that requires grad keeps its shape, as views of it may exist",
                fix=f"t = t.{name.rstrip('_')}(…)",
            )
        untraceable("a tensor that changes its shape")
        if isinstance(self, Lifted):
            raise TransformError(
                f"{name} changes the shape of a tensor of each call", fix=f"t = t.{name.rstrip('_')}(…)"
            )
        self._data, self._spec = function(self, *args, **kwargs)._data, None
        self.bump_version()
        return self

    method.__name__ = method.__qualname__ = name
    method.__doc__ = f"This tensor becomes its own `{name.rstrip('_')}`."
    return method


def install_turns() -> None:
    """`Tensor.<name>_` for the views in `_TURNS`."""
    for name in _TURNS:
        setattr(Tensor, f"{name}_", _turn(f"{name}_", getattr(Tensor, name)))


def copy_(self, source):
    """The elements of `source`, broadcast and converted to this dtype, written into this tensor."""
    if not isinstance(source, Tensor):
        source = convert_value(source, self, convert=True)
    if source.backend is not self.backend:
        source = to(source, self.backend)  # copy_ is an explicit transfer
    if source.dtype != self.dtype:
        source = _converted(source, self.dtype)
    return write(self, broadcast_to(source, self.shape) if source.shape != self.shape else source)


def fill_(self, value):
    """Every element becomes `value`."""
    setitem(self, ..., value)
    return self


def zero_(self):
    """Every element becomes 0."""
    return fill_(self, 0)


Tensor.copy_, Tensor.fill_, Tensor.zero_ = copy_, fill_, zero_


def _new_filled(function: str):
    def make(self, *args, size=None, dtype=None, backend=None, requires_grad: bool = False, device=None):
        xp = self.backend if backend is None else get_backend(backend)
        shape = sizes(args if size is None else (size,))
        kind = self.dtype if dtype is None else dt.as_dtype(dtype)
        build = lambda _, batch: made(getattr(xp, function)((*batch, *shape), dtype=kind), xp)
        out = build(self, ()) if mode.level is None else mode.level.like(self, build)
        return out.requires_grad_() if requires_grad else out

    make.__name__ = make.__qualname__ = f"new_{function}"
    make.__doc__ = f"`{function}` of the given size, with this tensor's dtype and backend."
    return factory(make)


for _name in ("zeros", "ones", "empty"):
    setattr(Tensor, f"new_{_name}", _new_filled(_name))


@factory
def new_tensor(self, data, dtype=None, backend=None, requires_grad: bool = False, device=None):
    """`tensor` with this tensor's dtype and backend."""
    return tensor(data, *_defaults(self, dtype, backend), requires_grad)


@factory
def new_full(self, size, fill_value, dtype=None, backend=None, requires_grad: bool = False, device=None):
    """`full` with this tensor's dtype and backend."""
    dtype, backend = _defaults(self, dtype, backend)
    if mode.level is not None:
        size = sizes((size,))
        return mode.level.like(
            self, lambda _, batch: filled((*batch, *size), fill_value, dtype, backend, requires_grad)
        )
    return full(size, fill_value, dtype, backend, requires_grad)


def _defaults(like, dtype, backend) -> tuple:
    return like.dtype if dtype is None else dtype, like.backend if backend is None else backend


Tensor.new_tensor, Tensor.new_full = new_tensor, new_full


def _where(self, condition, other):
    """self where `condition`, `other` elsewhere."""
    return comparison.where(condition, self, other)


Tensor.where = _where


# -- operators ------------------------------------------------------------------------------------------------------


def _reflected(function):
    def method(self, other):
        return function(other, self)

    return method


def _operator(function):
    def method(self, other):
        if other is None or isinstance(other, (str, dict)):
            return NotImplemented
        return function(self, other)

    return method


for _name, _function in (
    ("add", arithmetic.add_p), ("sub", arithmetic.sub_p), ("mul", arithmetic.mul), ("truediv", arithmetic.true_divide), ("floordiv", arithmetic.floor_divide), ("mod", arithmetic.remainder),
    ("pow", arithmetic.pow), ("and", comparison.bitwise_and), ("or", comparison.bitwise_or), ("xor", comparison.bitwise_xor),
):  # fmt: skip
    setattr(Tensor, f"__{_name}__", _function)
    setattr(Tensor, f"__r{_name}__", _reflected(_function))
    setattr(Tensor, f"__i{_name}__", in_place(f"{_name}_", _function))
for _name in ("eq", "ne"):
    setattr(Tensor, f"__{_name}__", _operator(getattr(comparison, _name)))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", getattr(comparison, _name))
Tensor.__neg__, Tensor.__pos__, Tensor.__abs__, Tensor.__invert__ = (
    arithmetic.neg,
    arithmetic.positive,
    arithmetic.abs,
    comparison.bitwise_not,
)
