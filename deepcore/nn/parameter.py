"""`Parameter`: a tensor that a module registers on assignment; and those of lazy layers, which have no shape yet."""

from __future__ import annotations

from typing import Any

from deepcore import missing
from deepcore.backend import place
from deepcore.errors import ArgumentError, GradientError, UninitializedError
from deepcore.tensor import Tensor, as_tensor, empty


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


class Buffer(Tensor):
    """A tensor that, as an attribute of a `Module`, becomes a buffer of it: moved and saved with the module, not trained.

    `data` is shared, not copied. `persistent=False`: not in the state dict. Same as `Module.register_buffer`.
    """

    __slots__ = ("persistent",)

    def __init__(self, data, *, persistent: bool = True):
        data = as_tensor(data)
        super().__init__(data._data, data.backend)
        self.persistent = persistent

    def __repr__(self) -> str:
        return "Buffer containing:\n" + super().__repr__()


#: Where `Tensor` keeps its array.
_ARRAY: Any = Tensor.__dict__["_data"]


class UninitializedTensor(Tensor):
    """Base of what a lazy layer has before its first input: a dtype and a backend, no shape and no values.

    Everything that would read its array raises `UninitializedError`.
    """

    __slots__ = ()
    #: The class after `materialize`.
    cls_to_become: type[Tensor] = Tensor

    def __init__(self, requires_grad: bool = False, backend=None, dtype=None, device=None):
        placeholder = empty((0,), dtype=dtype, backend=place(backend, device))
        Tensor.__init__(self, placeholder._data, placeholder.backend)
        if requires_grad:
            self.requires_grad_()

    @property  # type: ignore[override]
    def _data(self):  # type: ignore[override]
        raise UninitializedError(
            f"this {type(self).__name__} has neither shape nor values: its lazy layer takes them from its first input",
            fix="call the model once on a batch, model(x), or load a state dict",
        )

    @_data.setter
    def _data(self, value):
        _ARRAY.__set__(self, value)

    @property
    def dtype(self):
        return _ARRAY.__get__(self).dtype

    def placeholder(self) -> Tensor:
        """An empty tensor of the same dtype on the same backend."""
        return Tensor(_ARRAY.__get__(self), self.backend)

    def materialize(self, shape, device=None, dtype=None, backend=None) -> None:
        """Become an ordinary parameter or buffer of `shape`, of unset numbers; the same object."""
        backend = place(backend, device)
        tensor = empty(tuple(shape), dtype=dtype or self.dtype, backend=self.backend if backend is None else backend)
        self.__class__ = self.cls_to_become  # type: ignore[assignment]
        self.rebind(tensor._data, tensor.backend)

    def detach(self) -> Tensor:
        return self

    def __deepcopy__(self, memo):
        copy = memo[id(self)] = type(self)(self.requires_grad, self.backend, self.dtype)
        return copy

    def __reduce__(self):
        return type(self), (self.requires_grad, self.backend.name, self.dtype)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class UninitializedParameter(UninitializedTensor, Parameter):
    """The parameter of a lazy layer before its first input."""

    __slots__ = ()
    cls_to_become = Parameter

    def __init__(self, requires_grad: bool = True, backend=None, dtype=None, device=None):
        UninitializedTensor.__init__(self, requires_grad, backend, dtype, device)


class UninitializedBuffer(UninitializedTensor):
    """The buffer of a lazy layer before its first input."""

    __slots__ = ()


__getattr__ = missing.names_of(__name__, "torch.nn.parameter")
