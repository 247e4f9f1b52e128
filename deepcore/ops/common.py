"""Helpers that several families of ops share: zero gradients, float32 forwards, checks of operands."""

from __future__ import annotations

import functools

from deepcore.autograd import apply, mode
from deepcore.autograd.graph import not_complex
from deepcore.backend import dtypes as dt
from deepcore.errors import DTypeError
from deepcore.ops.registry import Tensor, primitive, promote
from deepcore.tensor import made


def zeros(g: Tensor) -> Tensor:
    """The gradient of a function that is constant nearly everywhere."""
    return made(g.backend.zeros(g.shape, dtype=g.dtype), g.backend)


@primitive(
    vjp=(lambda g: g, lambda g: zeros(g)),
    complex=True,
    batch="leading",
    jvp="elementwise",
)
def _flat(xp, value, of):
    return value.copy()


def flat_in(slope: Tensor, input: Tensor) -> Tensor:
    """The slope of a piecewise linear function at `input`, whose own derivative is 0."""
    return apply(_flat, (slope, input)) if mode.grad and input._requires_grad else slope


def in_float32(forward):
    """Decorator: a forward computes 16-bit floats in float32 and rounds once."""

    @functools.wraps(forward)
    def wide(xp, input, **params):
        if input.dtype.itemsize > 2 or not dt.is_floating(input.dtype):
            return forward(xp, input, **params)
        return forward(xp, input.astype(dt.float32), **params).astype(input.dtype)

    return wide


def no_bool(name: str, fix: str, *inputs) -> None:
    if any(x.dtype == dt.bool_ for x in inputs):
        raise DTypeError(f"{name} is not defined for bool tensors", fix=fix)


def ordered(name: str, input: Tensor) -> Tensor:
    """`input`, which has an order: complex numbers have none, and raise."""
    if input._data.dtype.kind == "c":
        raise not_complex(name, input)
    return input


def float_op(op, input, **params) -> Tensor:
    """Apply an op of one tensor and numbers; an integer tensor becomes float32."""
    if not isinstance(input, Tensor) or not dt.is_inexact(input._data.dtype):
        if hasattr(type(input), "record_call"):  # a symbolic tensor: `nn.model`
            return input.record_call(float_op, (op, input), params)
        (input,) = promote(op.name, "float", input)
    for name, value in params.items():
        if not hasattr(value, "__float__"):
            raise DTypeError(f"{op.name}: {name} is a number", received=repr(value))
    return apply(op, (input,), params)
