"""PyTorch's older ways to make a tensor: `dc.FloatTensor([1, 2])`, `dc.LongTensor(2, 3)`, `dc.Tensor(2, 3)`."""

from __future__ import annotations

from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ArgumentTypeError
from deepcore.tensor import Tensor, as_tensor, empty, tensor


def construct(name: str, dtype, arguments: tuple) -> Tensor:
    """A tensor of unset numbers of the sizes in `arguments`, or of the data that is the one argument; on the CPU.

    A tuple may be meant as data or as a size, and PyTorch decides by its type: here it is an error.
    """
    if len(arguments) == 1 and not _is_size(arguments[0]):
        (data,) = arguments
        if isinstance(data, tuple):
            raise ArgumentError(
                f"dc.{name} of a tuple may mean its numbers or a tensor of that size",
                received=repr(data)[:60],
                fix=f"dc.{name}({list(data)!r:.40}) for the numbers, dc.empty({data!r:.40}) for the size",
            )
        if isinstance(data, Tensor):
            return as_tensor(data.detach(), dtype)
        if isinstance(data, list) or hasattr(data, "__array__"):
            return tensor(data, dtype=dtype, backend="cpu")
    elif all(map(_is_size, arguments)):
        return empty(arguments or (0,), dtype=dtype, backend="cpu")
    raise ArgumentTypeError(
        f"dc.{name} takes sizes, or a list, an array or a tensor",
        received=", ".join(type(a).__name__ for a in arguments),
        fix="dc.tensor(data) for data, dc.empty(sizes) for unset numbers",
    )


def _is_size(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _TensorType(type):
    """A type of PyTorch's for each dtype: its call makes a tensor, and `isinstance` asks for dtype and CPU."""

    dtype: Any

    def __call__(cls, *arguments) -> Tensor:
        return construct(cls.__name__, cls.dtype, arguments)

    def __instancecheck__(cls, instance) -> bool:
        return isinstance(instance, Tensor) and instance.dtype == cls.dtype and instance.backend is get_backend("cpu")


def _of(name: str, dtype) -> _TensorType:
    doc = f"`{name}(2, 3)`: unset numbers of that size; `{name}([1, 2])`: those numbers. `dc.tensor` is clearer."
    return _TensorType(name, (), {"dtype": dtype, "__module__": "deepcore", "__doc__": doc})


FloatTensor, DoubleTensor = _of("FloatTensor", dt.float32), _of("DoubleTensor", dt.float64)
HalfTensor, BFloat16Tensor = _of("HalfTensor", dt.float16), _of("BFloat16Tensor", dt.bfloat16)
LongTensor, IntTensor = _of("LongTensor", dt.int64), _of("IntTensor", dt.int32)
ShortTensor, CharTensor = _of("ShortTensor", dt.int16), _of("CharTensor", dt.int8)
ByteTensor, BoolTensor = _of("ByteTensor", dt.uint8), _of("BoolTensor", dt.bool_)
