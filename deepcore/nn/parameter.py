"""`Parameter`: a tensor that a module registers on assignment."""

from __future__ import annotations

from deepcore.errors import ArgumentError, GradientError
from deepcore.tensor import Tensor, as_tensor


class Parameter(Tensor):
    """A leaf tensor that requires grad; as an attribute of a `Module` it appears in `parameters()`.

    `data` (a Tensor or array) is shared, not copied; a list of numbers is a new tensor.
    """

    __slots__ = ()

    def __init__(self, data, requires_grad: bool = True):
        if not isinstance(requires_grad, bool):
            raise ArgumentError(
                "a Parameter is made of a tensor",
                expected="Parameter(tensor, requires_grad=True)",
                received=f"requires_grad={requires_grad!r}",
                fix="nn.Parameter(dc.empty(2, 3)) for an unset one of that size",
            )
        data = as_tensor(data)
        if requires_grad and data.grad_fn is not None:
            raise GradientError(
                "a Parameter is a leaf, and this tensor was computed from others that require grad",
                fix="Parameter(t.detach())",
            )
        super().__init__(data._data, data.backend)
        if requires_grad:
            self.requires_grad_()

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()
