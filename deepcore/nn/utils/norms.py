"""The older `weight_norm` and `spectral_norm`, whose tensors are the module's own: `weight_g`, `weight_v`; `weight_orig`,
`weight_u`, `weight_v`.

`nn.utils.parametrizations` has the newer ones, for the same formulas.
"""

from __future__ import annotations

from typing import NoReturn

from deepcore.autograd import no_grad
from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.modules.module import Module
from deepcore.nn.parameter import Parameter
from deepcore.nn.utils import computed
from deepcore.nn.utils.parametrizations import (
    as_matrix,
    check_spectral,
    default_dim,
    norm_except,
    random_unit,
    scaled,
    sigma,
)
from deepcore.ops.index import write
from deepcore.tensor import Tensor


class _Norm(computed.Computed):
    """An attribute `name`, computed from tensors of the module whose names begin with it."""

    parts: tuple[str, ...]
    function: str

    def __init__(self, name: str):
        self.name = name

    def part(self, module: Module, suffix: str) -> Tensor:
        return getattr(module, self.name + suffix)

    def set(self, module: Module, value) -> NoReturn:
        raise ArgumentError(
            f"{type(module).__name__}.{self.name} is computed by {self.function}",
            fix=f"set {' and '.join(self.name + part for part in self.parts)}, or remove_{self.function} first",
        )

    def remove(self, module: Module) -> Module:
        with no_grad():
            value = self.final(module).detach().clone()
        computed.remove(module, self.name)
        for part in self.parts:
            delattr(module, self.name + part)
        module.register_parameter(self.name, Parameter(value))
        return module

    def final(self, module: Module) -> Tensor:
        return self.get(module)


class _WeightNorm(_Norm):
    parts, function = ("_g", "_v"), "weight_norm"

    def __init__(self, name: str, dim: int | None):
        super().__init__(name)
        self.dim = -1 if dim is None else dim

    def get(self, module: Module) -> Tensor:
        return scaled(self.part(module, "_v"), self.part(module, "_g"), self.dim)


class _SpectralNorm(_Norm):
    parts, function = ("_orig", "_u", "_v"), "spectral_norm"

    def __init__(self, name: str, n_power_iterations: int, dim: int, eps: float):
        super().__init__(name)
        self.n_power_iterations, self.dim, self.eps = n_power_iterations, dim, eps

    def get(self, module: Module) -> Tensor:
        if module.training:
            with no_grad():
                matrix = as_matrix(self.part(module, "_orig").detach(), self.dim)
                u, v = self.part(module, "_u"), self.part(module, "_v")
                new_u, new_v = u, v
                for _ in range(self.n_power_iterations):
                    new_v = F.normalize(matrix.t().mv(new_u), dim=0, eps=self.eps)
                    new_u = F.normalize(matrix.mv(new_v), dim=0, eps=self.eps)
                write(u, new_u)
                write(v, new_v)
        return self.final(module)

    def final(self, module: Module) -> Tensor:
        weight = self.part(module, "_orig")
        return weight / sigma(as_matrix(weight, self.dim), self.part(module, "_u"), self.part(module, "_v"))


def _take(module: Module, name: str, function: str) -> Parameter:
    """The parameter `name` of a module, for a norm to compute."""
    if isinstance(module, Module) and computed.computed(module, name) is not None:
        raise ArgumentError(
            f"{type(module).__name__}.{name} is computed already", fix=f"one {function} for each tensor"
        )
    tensor = computed.target(module, name, function)
    if not isinstance(tensor, Parameter):
        raise ArgumentError(f"{function} takes a parameter, and {name!r} is a buffer")
    return tensor


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """w = g · v / ‖v‖₂, with the parameters `<name>_g` and `<name>_v` of the module, which is returned.

    The norms are over every dimension but `dim`; None: over all. `parametrizations.weight_norm` is the newer form.
    (Salimans and Kingma, 2016)
    """
    weight = _take(module, name, "weight_norm")
    how = _WeightNorm(name, dim)
    with no_grad():
        g = norm_except(weight.detach(), how.dim)
    delattr(module, name)
    module.register_parameter(name + "_g", Parameter(g, weight.requires_grad))
    module.register_parameter(name + "_v", Parameter(weight.detach(), weight.requires_grad))
    computed.install(module, name, how)
    return module


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """w / σ(W), with the parameter `<name>_orig` and the buffers `<name>_u`, `<name>_v` of the module, which is returned.

    `n_power_iterations` steps of the power iteration at each access in training estimate σ, the largest singular value.
    `parametrizations.spectral_norm` is the newer form. (Miyato et al., 2018)
    """
    weight = _take(module, name, "spectral_norm")
    dim = default_dim(module) if dim is None else dim
    check_spectral(weight, n_power_iterations, dim)
    matrix = as_matrix(weight.detach(), dim)
    u, v = random_unit(matrix, 0, eps), random_unit(matrix, 1, eps)
    delattr(module, name)
    module.register_parameter(name + "_orig", weight)
    module.register_buffer(name + "_u", u)
    module.register_buffer(name + "_v", v)
    computed.install(module, name, _SpectralNorm(name, n_power_iterations, dim, eps))
    return module


def _remove(module: Module, name: str, kind: type[_Norm]) -> Module:
    how = computed.computed(module, name)
    if not isinstance(how, kind):
        raise ArgumentError(f"{type(module).__name__} has no {kind.function} of {name!r}")
    return how.remove(module)


def remove_weight_norm(module: Module, name: str = "weight") -> Module:
    """Make `module.<name>` a parameter again, with the values computed last."""
    return _remove(module, name, _WeightNorm)


def remove_spectral_norm(module: Module, name: str = "weight") -> Module:
    """Make `module.<name>` a parameter again, with the values computed last."""
    return _remove(module, name, _SpectralNorm)
