"""`nn.utils.parametrizations`: weight and spectral normalisation."""

from __future__ import annotations

from deepcore import missing
from deepcore.autograd import no_grad
from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.conv import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from deepcore.nn.modules.module import Module
from deepcore.nn.utils.parametrize import register_parametrization
from deepcore.ops.index import write
from deepcore.tensor import Tensor

__all__ = ["spectral_norm", "weight_norm"]


# -- weight norm ------------------------------------------------------------------------------------------
def norm_except(v: Tensor, dim: int) -> Tensor:
    """‖v‖₂ over every dimension but `dim`, which are kept; over all, as a 0-d tensor, where dim is -1."""
    if dim == -1:
        return (v * v).sum().sqrt()
    if not -v.ndim <= dim < v.ndim:
        raise ArgumentError(
            f"weight_norm: dim {dim} is out of range", expected=f"a dimension of the tensor, shape {v.shape}, or None"
        )
    dims = tuple(d for d in range(v.ndim) if d != dim % v.ndim)
    return (v * v).sum(dims, keepdim=True).sqrt() if dims else v.abs()


def scaled(v: Tensor, g: Tensor, dim: int) -> Tensor:
    """g · v / ‖v‖₂."""
    return v * (g / norm_except(v, dim))


class _WeightNorm(Module):
    """w = g · v / ‖v‖₂, the norm over every dimension but `dim`."""

    #: Of state dicts of the older `weight_norm`.
    former_suffixes = ("_g", "_v")

    def __init__(self, dim: int | None = 0):
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g, weight_v):
        return scaled(weight_v, weight_g, self.dim)

    def right_inverse(self, weight):
        return norm_except(weight, self.dim), weight


def weight_norm(module: Module, name: str = "weight", dim: int | None = 0) -> Module:
    """w = g · v / ‖v‖₂: length and direction of each row of a weight are parameters of their own.

    Registers a parametrization of `module.<name>`, computed from `parametrizations.<name>.original0`, g, and `original1`, v;
    returns the module. The norms are over every dimension but `dim`; None: over all. (Salimans and Kingma, 2016)
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)
    return module


# -- spectral norm ----------------------------------------------------------------------------------------
def as_matrix(weight: Tensor, dim: int) -> Tensor:
    """`weight` with dimension `dim` as rows and all others as columns."""
    if dim % weight.ndim:
        weight = weight.permute(dim % weight.ndim, *(d for d in range(weight.ndim) if d != dim % weight.ndim))
    return weight.reshape(weight.shape[0], -1)


def check_spectral(weight: Tensor, n_power_iterations: int, dim: int) -> None:
    """Raise `ArgumentError` for arguments of `spectral_norm` that do not fit."""
    if isinstance(n_power_iterations, bool) or not hasattr(n_power_iterations, "__index__") or n_power_iterations < 1:
        raise ArgumentError(
            "spectral_norm: n_power_iterations is a whole number of at least 1", received=f"{n_power_iterations!r}"
        )
    if not weight.ndim or not -weight.ndim <= dim < weight.ndim:
        raise ArgumentError(f"spectral_norm: dim {dim} is out of range", received=f"shape {weight.shape}")


def default_dim(module: Module) -> int:
    """The dimension of outputs in a layer's weight."""
    return 1 if isinstance(module, (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)) else 0


def random_unit(matrix: Tensor, dim: int, eps: float) -> Tensor:
    """A random vector of length 1, as long as dimension `dim` of a matrix."""
    return F.normalize(init.normal_(matrix.new_zeros(matrix.shape[dim])), dim=0, eps=eps)


def sigma(matrix: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """uᵀ W v; the vectors are copied, as the next power iteration overwrites them."""
    return u.clone().dot(matrix.mv(v.clone()))


class _SpectralNorm(Module):
    """w / σ, σ = uᵀ W v ≈ the largest singular value of W; the buffers `_u`, `_v` are its singular vectors."""

    def __init__(self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12):
        super().__init__()
        check_spectral(weight, n_power_iterations, dim)
        self.dim = dim % weight.ndim
        self.eps = eps
        if weight.ndim > 1:
            self.n_power_iterations = n_power_iterations
            with no_grad():
                matrix = as_matrix(weight.detach(), self.dim)
                self.register_buffer("_u", random_unit(matrix, 0, eps))
                self.register_buffer("_v", random_unit(matrix, 1, eps))
                self._iterate(matrix, 15)

    def _iterate(self, matrix: Tensor, count: int) -> None:
        with no_grad():
            u, v = self._u, self._v
            for _ in range(count):
                u = F.normalize(matrix.mv(v), dim=0, eps=self.eps)
                v = F.normalize(matrix.t().mv(u), dim=0, eps=self.eps)
            write(self._u, u)
            write(self._v, v)

    def forward(self, weight):
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = as_matrix(weight, self.dim)
        if self.training:
            self._iterate(matrix.detach(), self.n_power_iterations)
        return weight / sigma(matrix, self._u, self._v)

    def right_inverse(self, value):
        return value


def spectral_norm(
    module: Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> Module:
    """w / σ(W), σ the largest singular value of the weight as a matrix with dimension `dim` as rows.

    Registers a parametrization of `module.<name>`, computed from `parametrizations.<name>.original`; returns the module. σ
    is estimated by `n_power_iterations` steps of the power iteration at each access in training; in evaluation the last
    estimate of the vectors serves. `dim` is 0, and 1 for transposed convolutions, unless given. (Miyato et al., 2018)
    """
    from deepcore.nn.utils.computed import target

    weight = getattr(module, name, None) if isinstance(module, Module) else None
    if not isinstance(weight, Tensor):
        weight = target(module, name, "spectral_norm")
    dim = default_dim(module) if dim is None else dim
    register_parametrization(module, name, _SpectralNorm(weight, n_power_iterations, dim, eps))
    return module


__getattr__ = missing.names_of(__name__, "torch.nn.utils.parametrizations", __all__)
