"""Normalisation: batch, instance, group, layer, RMS and local response norm."""

from __future__ import annotations

from collections.abc import Sequence

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.backend import get_backend
from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.functional.norm import as_sizes
from deepcore.nn.modules.linear import check_sizes, new_parameter, new_tensor
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.index import write


def _reset_affine(layer: Module) -> None:
    if layer.weight is not None:
        init.ones_(layer.weight)
    if layer.bias is not None:
        init.zeros_(layer.bias)


class _BatchNorm(Module):
    """Base of the batch norms; a subclass declares the ranks of its inputs."""

    ranks: tuple[int, ...]
    shapes: str

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        backend=None,
        dtype=None,
        device=None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(self, num_features=num_features)
        get_backend(backend)  # refuse an unknown one though there may be nothing to place
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.register_parameter("weight", new_parameter((num_features,), backend, dtype) if affine else None)
        self.register_parameter("bias", new_parameter((num_features,), backend, dtype) if affine and bias else None)
        mean = var = count = None
        if track_running_stats:
            mean = new_tensor((num_features,), backend, dtype)
            var = new_tensor((num_features,), backend, dtype)
            count = new_tensor((), backend, dt.int64)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Running mean 0, variance 1, batch count 0."""
        if self.track_running_stats:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Weight 1, bias 0, running statistics reset."""
        self.reset_running_stats()
        _reset_affine(self)

    def forward(self, input):
        shape = input.shape
        if len(shape) not in self.ranks or shape[1] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} normalises {self.num_features} channels in dimension 1",
                expected=self.shapes.format(C=self.num_features),
                received=f"shape {shape}",
            )
        momentum = self.momentum
        batches = self.num_batches_tracked if self.training else None
        if batches is not None and momentum is None:
            momentum = 1.0 / (batches + 1).to(self.running_mean.dtype)
        out = F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or self.running_mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
        )
        if batches is not None:  # after batch_norm, which may raise
            write(batches, batches + 1)
        return out

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


@LAYERS.register
class BatchNorm1d(_BatchNorm):
    """y = (x - E[x]) / √(Var[x] + eps) · weight + bias, per channel over the batch.

    Input (N, C) or (N, C, L). In training E and Var are the batch's (Var with divisor n), and the running ones move
    by `momentum` towards them (running_var with divisor n - 1; `momentum=None`: their plain average); in evaluation
    the running ones are used. (Ioffe and Szegedy, 2015)
    """

    ranks = (2, 3)
    shapes = "shape (N, {C}) or (N, {C}, L)"
    examples = (
        Example({"num_features": 3}, ((5, 3),)),
        Example({"num_features": 3}, ((4, 3, 2),)),
        Example({"num_features": 3, "eps": 1e-2, "momentum": 0.3}, ((5, 3),)),
        Example({"num_features": 3, "momentum": None}, ((5, 3),)),
        Example({"num_features": 2, "affine": False}, ((4, 2, 3),)),
        Example({"num_features": 2, "bias": False}, ((4, 2),)),
        Example({"num_features": 2, "track_running_stats": False}, ((4, 2),)),
    )


@LAYERS.register
class BatchNorm2d(_BatchNorm):
    """`BatchNorm1d` of images (N, C, H, W): y = (x - E[x]) / √(Var[x] + eps) · weight + bias, per channel."""

    ranks = (4,)
    shapes = "shape (N, {C}, H, W)"
    examples = (
        Example({"num_features": 3}, ((2, 3, 4, 2),)),
        Example({"num_features": 2, "affine": False, "momentum": None}, ((3, 2, 2, 2),)),
        Example({"num_features": 2, "track_running_stats": False}, ((2, 2, 3, 1),)),
    )


@LAYERS.register
class BatchNorm3d(_BatchNorm):
    """`BatchNorm1d` of volumes (N, C, D, H, W): y = (x - E[x]) / √(Var[x] + eps) · weight + bias, per channel."""

    ranks = (5,)
    shapes = "shape (N, {C}, D, H, W)"
    examples = (
        Example({"num_features": 2}, ((2, 2, 2, 3, 2),)),
        Example({"num_features": 2, "affine": False}, ((2, 2, 1, 2, 2),)),
    )


class _InstanceNorm(_BatchNorm):
    """What instance norms of every rank share: `ranks` are those with and without a batch."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        backend=None,
        dtype=None,
        device=None,
        *,
        bias: bool = True,
    ):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, backend, dtype, device, bias=bias)

    def forward(self, input):
        shape = input.shape
        batched = len(shape) == self.ranks[0]
        if len(shape) not in self.ranks or shape[-self.ranks[1]] != self.num_features:
            raise ShapeError(
                f"{type(self).__name__} normalises {self.num_features} channels",
                expected=self.shapes.format(C=self.num_features),
                received=f"shape {shape}",
            )
        out = F.instance_norm(
            input if batched else constant(type(self).__name__, input).unsqueeze(0),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return out if batched else out.squeeze(0)


@LAYERS.register
class InstanceNorm1d(_InstanceNorm):
    """y = (x - E[x]) / √(Var[x] + eps) · weight + bias, per sample and channel.

    Input (N, C, L) or (C, L). `affine` (default False): learn weight and bias; `track_running_stats`: in evaluation E and Var
    are the running ones. (Ulyanov, Vedaldi and Lempitsky, 2016)
    """

    ranks = (3, 2)
    shapes = "shape (N, {C}, L) or ({C}, L)"
    examples = (
        Example({"num_features": 3}, ((2, 3, 5),)),
        Example({"num_features": 2, "affine": True, "track_running_stats": True}, ((2, 2, 4),)),
        Example({"num_features": 2}, ((2, 4),)),
    )


@LAYERS.register
class InstanceNorm2d(_InstanceNorm):
    """`InstanceNorm1d` of images: (N, C, H, W) or (C, H, W)."""

    ranks = (4, 3)
    shapes = "shape (N, {C}, H, W) or ({C}, H, W)"
    examples = (
        Example({"num_features": 3, "affine": True}, ((2, 3, 2, 4),)),
        Example({"num_features": 2, "track_running_stats": True}, ((2, 3, 2),)),
    )


@LAYERS.register
class InstanceNorm3d(_InstanceNorm):
    """`InstanceNorm1d` of volumes: (N, C, D, H, W) or (C, D, H, W)."""

    ranks = (5, 4)
    shapes = "shape (N, {C}, D, H, W) or ({C}, D, H, W)"
    examples = (
        Example({"num_features": 2, "affine": True}, ((2, 2, 2, 3, 2),)),
        Example({"num_features": 2}, ((2, 3, 2, 2),)),
    )


@LAYERS.register
class GroupNorm(Module):
    """y = (x - E[x]) / √(Var[x] + eps) · weight + bias, E and Var over each of num_groups parts of a sample's channels.

    Input (N, C, *), C = num_channels; `weight` and `bias` (C,), absent without `affine`. (Wu and He, 2018)
    """

    examples = (
        Example({"num_groups": 2, "num_channels": 4}, ((2, 4, 3),)),
        Example({"num_groups": 3, "num_channels": 3, "eps": 1e-2}, ((2, 3, 2, 2),)),
        Example({"num_groups": 1, "num_channels": 2, "affine": False}, ((3, 2),)),
    )

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        backend=None,
        dtype=None,
        device=None,
        *,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(self, num_groups=num_groups, num_channels=num_channels)
        get_backend(backend)  # refuse an unknown one though there may be nothing to place
        if num_channels % num_groups:
            raise ArgumentError(
                "GroupNorm: num_groups divides num_channels", received=f"{num_groups=}, {num_channels=}"
            )
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        self.register_parameter("weight", new_parameter((num_channels,), backend, dtype) if affine else None)
        self.register_parameter("bias", new_parameter((num_channels,), backend, dtype) if affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1 and bias 0."""
        _reset_affine(self)

    def forward(self, input):
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, bias={self.bias is not None}"


@LAYERS.register
class LocalResponseNorm(Module):
    """y = x / (k + alpha · E[x²])^beta, E over `size` neighbouring channels; input (N, C, *). (Krizhevsky et al., 2012)"""

    examples = (
        Example({"size": 3}, ((2, 5, 3),)),
        Example({"size": 2, "alpha": 0.5, "beta": 0.5, "k": 2.0}, ((2, 4, 2, 2),)),
    )

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input):
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


@LAYERS.register
class LayerNorm(Module):
    """y = (x - E[x]) / √(Var[x] + eps) · weight + bias, over the trailing dimensions `normalized_shape`.

    Var has divisor n; `weight` and `bias` have shape `normalized_shape`. (Ba, Kiros and Hinton, 2016)
    """

    examples = (
        Example({"normalized_shape": 4}, ((3, 4),)),
        Example({"normalized_shape": (2, 3), "eps": 1e-2}, ((4, 2, 3),)),
        Example({"normalized_shape": (3,), "bias": False}, ((2, 2, 3),)),
        Example({"normalized_shape": 3, "elementwise_affine": False}, ((2, 3),)),
    )

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        shape = self.normalized_shape = as_sizes(normalized_shape)
        for size in shape:
            check_sizes(self, normalized_shape=size)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter("weight", new_parameter(shape, backend, dtype) if elementwise_affine else None)
        self.register_parameter("bias", new_parameter(shape, backend, dtype) if elementwise_affine and bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1, bias 0."""
        _reset_affine(self)

    def forward(self, input):
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


@LAYERS.register
class RMSNorm(Module):
    """y = x / √(E[x²] + eps) · weight, over the trailing dimensions `normalized_shape`.

    eps is that of the input's dtype (2⁻²³ for float32) unless given. (Zhang and Sennrich, 2019)
    """

    examples = (
        Example({"normalized_shape": 4}, ((3, 4),)),
        Example({"normalized_shape": (2, 3), "eps": 1e-2}, ((4, 2, 3),)),
        Example({"normalized_shape": 3, "elementwise_affine": False}, ((2, 3),)),
    )

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        backend=None,
        dtype=None,
        device=None,
    ):
        super().__init__()
        shape = self.normalized_shape = as_sizes(normalized_shape)
        for size in shape:
            check_sizes(self, normalized_shape=size)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        self.register_parameter("weight", new_parameter(shape, backend, dtype) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weight 1."""
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, input):
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
