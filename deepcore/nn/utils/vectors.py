"""Parameters as one vector, and modules without initial values."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from deepcore.autograd import no_grad
from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn import init
from deepcore.nn.modules.module import Module
from deepcore.ops.shape import cat
from deepcore.tensor import Tensor, empty


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All elements of the parameters, one after the other, as one tensor (differentiable)."""
    flat = [p.reshape(-1) for p in parameters]
    if not flat:
        raise ArgumentError("parameters_to_vector was given no parameters", fix="model.parameters()")
    return cat(flat)


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of a vector into the parameters, in place; its length is that of all of them."""
    if not isinstance(vec, Tensor):
        raise ArgumentError("vector_to_parameters takes a tensor", received=type(vec).__name__)
    parameters = list(parameters)
    total = sum(p.numel() for p in parameters)
    if vec.shape != (total,):
        raise ShapeError(
            "the vector does not fit the parameters", expected=f"shape ({total},)", received=f"shape {vec.shape}"
        )
    at = 0
    with no_grad():
        for p in parameters:
            p.copy_(vec[at : at + p.numel()].reshape(p.shape))
            at += p.numel()


def skip_init(module_cls: type[Module], *args, **kwargs) -> Module:
    """`module_cls(*args, **kwargs)` whose parameters and buffers have memory, but no values: for the caller to fill."""
    if not (isinstance(module_cls, type) and issubclass(module_cls, Module)):
        raise ArgumentError("skip_init takes a Module class", received=repr(module_cls))
    with init.skip_init():
        module = module_cls(*args, **kwargs)
    for tensor in chain(module.parameters(), module.buffers()):
        tensor.data = empty(tensor.shape, dtype=tensor.dtype, backend=tensor.backend)
    return module
