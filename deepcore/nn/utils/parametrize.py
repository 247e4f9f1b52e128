"""`nn.utils.parametrize`: parameters that are functions of others, which are trained in their stead.

After `register_parametrization(layer, "weight", f)`, `layer.weight` is f(layer.parametrizations.weight.original).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from deepcore import missing
from deepcore.autograd import no_grad
from deepcore.backend import dtypes as dt
from deepcore.effects import mode, untraceable
from deepcore.errors import ArgumentError
from deepcore.nn.modules.container import ModuleDict, ModuleList
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.nn.utils import computed
from deepcore.tensor import Tensor

__all__ = [
    "ParametrizationList",
    "cached",
    "is_parametrized",
    "register_parametrization",
    "remove_parametrizations",
    "type_before_parametrizations",
]


class _Cache(threading.local):
    """The tensors computed inside `cached()`, by module and name; None outside."""

    tensors: dict[tuple[Module, str], Tensor] | None = None
    tracer = None


_cache = _Cache()


@contextlib.contextmanager
def cached() -> Iterator[None]:
    """Context in which each parametrized tensor is computed once, on its first use; the tensors are freed at the end."""
    if _cache.tensors is not None:
        yield
        return
    _cache.tensors, _cache.tracer = {}, mode.tracer
    try:
        yield
    finally:
        _cache.tensors = _cache.tracer = None


class ParametrizationList(ModuleList):
    """The parametrizations of one tensor, first to last, and what they are computed from.

    That is `original`, or `original0`, `original1`, … where the first one's `right_inverse` returns several tensors.
    """

    ntensors: int

    def __init__(self, modules: Sequence[Module], original: Tensor, unsafe: bool = False):
        super().__init__(modules)
        self.unsafe = unsafe
        value = original
        with no_grad():
            for module in reversed(list(self)):
                if hasattr(module, "right_inverse"):
                    with contextlib.suppress(NotImplementedError):
                        value = module.right_inverse(value)
        self.is_tensor = isinstance(value, Tensor)
        if isinstance(value, Tensor):
            if value.dtype != original.dtype:
                raise ArgumentError(
                    "right_inverse returns another dtype than the tensor's",
                    expected=dt.name_of(original.dtype),
                    received=dt.name_of(value.dtype),
                )
            _assign(original, value)
            self._register("original", original)
        elif isinstance(value, Sequence) and all(isinstance(part, Tensor) for part in value):
            self.ntensors = len(value)
            for i, part in enumerate(value):
                if isinstance(original, Parameter):
                    part = Parameter(part.detach(), original.requires_grad and dt.is_floating(part.dtype))
                self._register(f"original{i}", part)
        else:
            raise ArgumentError(
                "right_inverse returns a tensor, or a sequence of tensors", received=type(value).__name__
            )
        if not unsafe:
            with no_grad():
                _check_like(original, self(), "the parametrization")

    def _register(self, name: str, tensor: Tensor) -> None:
        if isinstance(tensor, Parameter):
            self.register_parameter(name, tensor)
        else:
            self.register_buffer(name, tensor)

    def originals(self) -> list[Tensor]:
        """What the tensor is computed from."""
        if self.is_tensor:
            return [self.original]
        return [getattr(self, f"original{i}") for i in range(self.ntensors)]

    def right_inverse(self, value: Tensor) -> None:
        """Set the originals so that the parametrized tensor becomes `value`."""
        if not isinstance(value, Tensor):
            raise ArgumentError("a parametrized tensor is assigned a tensor", received=type(value).__name__)
        with no_grad():
            parts: Tensor | Sequence[Tensor] = value.detach()
            for module in reversed(list(self)):
                if not hasattr(module, "right_inverse"):
                    raise ArgumentError(
                        f"{type(module).__name__} has no right_inverse, so a tensor that it computes cannot be assigned",
                        fix="assign parametrizations.….original, or define right_inverse(self, value)",
                    )
                parts = module.right_inverse(parts)
            parts = [parts] if isinstance(parts, Tensor) else list(parts)
            originals = self.originals()
            if len(parts) != len(originals):
                raise ArgumentError(
                    "right_inverse returns as many tensors as there are originals",
                    expected=f"{len(originals)} tensors",
                    received=f"{len(parts)}",
                )
            for original, part in zip(originals, parts):
                if part.dtype != original.dtype:
                    raise ArgumentError(
                        "right_inverse returns another dtype than the original's",
                        expected=dt.name_of(original.dtype),
                        received=dt.name_of(part.dtype),
                    )
            for original, part in zip(originals, parts):
                _assign(original, part)

    def _former_names(self, path: str) -> dict[str, str]:
        owner, _, name = path.rpartition(".")
        former = getattr(self[0], "former_suffixes", ()) if len(self) else ()
        own = owner.removesuffix("parametrizations") + name
        return {own + suffix: f"{path}.original{i}" for i, suffix in enumerate(former)}

    def forward(self) -> Tensor:
        first, *others = self
        value = first(*self.originals())
        for module in others:
            value = module(value)
        return value


def _assign(original: Tensor, value: Tensor) -> None:
    """Give `original`, which stays the same object, the values, and where it differs the shape, of `value`."""
    if value is original or value._data is original._data:
        return
    with no_grad():
        if value.shape == original.shape and value.backend is original.backend:
            original.copy_(value)
        else:
            original.data = value.clone()


def _check_like(tensor: Tensor, value, what: str) -> None:
    if not isinstance(value, Tensor):
        raise ArgumentError(f"{what} returns a tensor", received=type(value).__name__)
    for kind, mine, other in (
        ("dtype", dt.name_of(tensor.dtype), dt.name_of(value.dtype)),
        ("shape", tensor.shape, value.shape),
    ):
        if mine != other:
            raise ArgumentError(
                f"{what} returns another {kind} than the tensor's",
                expected=f"{kind} {mine}",
                received=f"{kind} {other}",
                fix="register_parametrization(…, unsafe=True), if that is what you want",
            )


class _Parametrized(computed.Computed):
    """The attribute that the ParametrizationList of its name computes."""

    prefix = "Parametrized"

    def __init__(self, name: str):
        self.name = name

    def get(self, module: Module) -> Tensor:
        tensors = _cache.tensors
        if tensors is None:
            return module.parametrizations[self.name]()
        if _cache.tracer is not mode.tracer:
            untraceable("a tensor of parametrize.cached()")
        key = module, self.name
        tensor = tensors.get(key)
        if tensor is None:
            tensor = tensors[key] = module.parametrizations[self.name]()
        return tensor

    def set(self, module: Module, value) -> None:
        module.parametrizations[self.name].right_inverse(value)


def register_parametrization(
    module: Module, tensor_name: str, parametrization: Module, *, unsafe: bool = False
) -> Module:
    """Let `module.<tensor_name>` be parametrization(original), of which `original` is trained; returns the module.

    The parameter or buffer moves, as the same object, to `module.parametrizations.<tensor_name>.original`, with the values
    parametrization.right_inverse(tensor) where the parametrization has this method; where it returns several tensors they are
    `original0`, `original1`, … Further parametrizations of the same tensor are applied to the result of those before. Without
    `unsafe`, the result is checked to have the dtype and shape of the tensor.
    """
    if not isinstance(parametrization, Module):
        raise ArgumentError(
            "a parametrization is a module",
            received=f"the class {parametrization.__name__}"
            if isinstance(parametrization, type)
            else type(parametrization).__name__,
        )
    if not is_parametrized(module, tensor_name):
        tensor = computed.target(module, tensor_name, "register_parametrization")
        parametrization.train(module.training)
        parts = ParametrizationList([parametrization], tensor, unsafe)
        delattr(module, tensor_name)
        if not is_parametrized(module):
            module.parametrizations = ModuleDict()
        module.parametrizations[tensor_name] = parts
        computed.install(module, tensor_name, _Parametrized(tensor_name))
        return module
    parametrization.train(module.training)
    parts = module.parametrizations[tensor_name]
    with no_grad():
        before = parts()
        if not unsafe:
            _check_like(before, parametrization(before), type(parametrization).__name__)
        if hasattr(parametrization, "right_inverse"):
            with contextlib.suppress(NotImplementedError):
                value = parametrization.right_inverse(before)
                if not unsafe:
                    _check_like(before, value, f"right_inverse of {type(parametrization).__name__}")
                if value is not before:
                    parts.right_inverse(value)
    parts.append(parametrization)
    parts.unsafe = parts.unsafe or unsafe
    return module


def is_parametrized(module: Module, tensor_name: str | None = None) -> bool:
    """Whether `module` has parametrized tensors, or the one of this name."""
    parametrizations = module._modules.get("parametrizations") if isinstance(module, Module) else None
    if not isinstance(parametrizations, ModuleDict):
        return False
    return len(parametrizations) > 0 if tensor_name is None else tensor_name in parametrizations


def remove_parametrizations(module: Module, tensor_name: str, leave_parametrized: bool = True) -> Module:
    """Make `module.<tensor_name>` an ordinary parameter or buffer again; returns the module.

    It has the values that the parametrizations compute, or with `leave_parametrized=False` the original's. It is the object
    `original`, so optimizers stay valid; where there are several originals it is a new parameter.
    """
    if not is_parametrized(module, tensor_name):
        raise ArgumentError(
            f"{type(module).__name__} has no parametrized tensor {tensor_name!r}",
            expected=f"one of {', '.join(module.parametrizations)}" if is_parametrized(module) else None,
        )
    parts: ParametrizationList = module.parametrizations[tensor_name]
    originals = parts.originals()
    if leave_parametrized:
        with no_grad():
            value = parts().detach()
        trains = any(original.requires_grad for original in originals)
        if parts.is_tensor:
            tensor = originals[0]
            if value.dtype != tensor.dtype:
                raise ArgumentError(
                    "the parametrized tensor has another dtype than its original",
                    fix="remove_parametrizations(…, leave_parametrized=False)",
                )
            _assign(tensor, value)
        else:
            tensor = Parameter(value.clone()) if trains else value.clone()
    elif parts.is_tensor:
        tensor = originals[0]
    else:
        raise ArgumentError(
            f"{tensor_name!r} is computed from {len(originals)} tensors, none of which can take its place",
            fix="remove_parametrizations(…, leave_parametrized=True)",
        )
    computed.remove(module, tensor_name)
    del module.parametrizations[tensor_name]
    if not len(module.parametrizations):
        del module.parametrizations
    if isinstance(tensor, Parameter):
        module.register_parameter(tensor_name, tensor)
    else:
        module.register_buffer(tensor_name, tensor)
    return module


def type_before_parametrizations(module: Module) -> type[Module]:
    """The module's class before anything was parametrized."""
    return computed.base_class(module)


__getattr__ = missing.names_of(__name__, "torch.nn.utils.parametrize", __all__)
