"""Questions about tensors and their dtypes."""

from __future__ import annotations

from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentTypeError, ShapeError
from deepcore.tensor import Tensor


def _tensor(name: str, input) -> Tensor:
    if isinstance(input, Tensor):
        return input
    raise ArgumentTypeError(f"{name} takes a tensor", received=type(input).__name__, fix="dc.as_tensor(data)")


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a floating one."""
    return _tensor("is_floating_point", input).is_floating_point()


def is_complex(input: Tensor) -> bool:
    """Whether the dtype is complex64 or complex128."""
    return _tensor("is_complex", input).is_complex()


def is_conj(input: Tensor) -> bool:
    """False: `conj` computes its result at once."""
    return _tensor("is_conj", input).is_conj()


def is_neg(input: Tensor) -> bool:
    """False: `imag` is a view of memory that holds its values."""
    return _tensor("is_neg", input).is_neg()


def is_nonzero(input: Tensor) -> bool:
    """Whether the one element of `input` is not 0. Errors: `ShapeError` for another number of elements."""
    if _tensor("is_nonzero", input).numel() != 1:
        raise ShapeError("is_nonzero needs a tensor of one element", received=f"shape {input.shape}")
    return bool(input)


def numel(input: Tensor) -> int:
    """The number of elements."""
    return _tensor("numel", input).numel()


def result_type(tensor1, tensor2) -> Any:
    """The dtype of an operation over two tensors or numbers."""
    kinds: list[Any] = []
    for operand in (tensor1, tensor2):
        if isinstance(operand, (bool, int, float, complex)):
            kinds.append(type(operand))
        else:
            kinds.append((_tensor("result_type", operand).dtype, operand.ndim))
    return dt.result_type(kinds)


def typename(obj) -> str:
    """The name of an object's type with that of its module; of a tensor, `Tensor.type()`."""
    return str(obj.type()) if isinstance(obj, Tensor) else f"{type(obj).__module__}.{type(obj).__qualname__}"
