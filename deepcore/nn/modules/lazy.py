"""Lazy layers, which take the size of their input from the first one, and are then the ordinary layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from deepcore.backend import dtypes as dt
from deepcore.effects import unrecorded
from deepcore.errors import ShapeError
from deepcore.nn import init
from deepcore.nn.modules.conv import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    _Convolution,
)
from deepcore.nn.modules.linear import Linear
from deepcore.nn.modules.module import Module, _Lazy
from deepcore.nn.modules.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    _BatchNorm,
    _InstanceNorm,
)
from deepcore.nn.parameter import UninitializedBuffer, UninitializedParameter, UninitializedTensor
from deepcore.nn.registry import LAYERS
from deepcore.tensor import zeros


class LazyModuleMixin(_Lazy, Module):
    """Base of the lazy layers: the first call takes `size_argument` from the input and draws the parameters.

    Until then `UninitializedParameter`s and `UninitializedBuffer`s stand in the layer; afterwards it is a `cls_to_become`.
    The numbers drawn are those of an ordinary layer built at that moment.
    """

    examples: ClassVar[Any] = ()
    lazy = True
    cls_to_become: ClassVar[Any]
    #: The argument of `cls_to_become` that the input gives, 0 until then.
    size_argument: ClassVar[str]

    def _wait(self) -> None:
        """Replace the values that `cls_to_become.__init__` has created."""
        setattr(self, self.size_argument, 0)
        for name, p in self._parameters.items():
            if p is not None:
                setattr(self, name, UninitializedParameter(True, p.backend, p.dtype))
        for name, b in self._buffers.items():
            if b is not None:
                floating = dt.is_floating(b.dtype)
                new = (
                    UninitializedBuffer(False, b.backend, b.dtype)
                    if floating
                    else zeros((), dtype=b.dtype, backend=b.backend)
                )
                setattr(self, name, new)

    def uninitialized(self) -> list[str]:
        """The names of the layer's own parameters and buffers that have no values yet."""
        own = {**self._parameters, **self._buffers}
        return [name for name, t in own.items() if isinstance(t, UninitializedTensor)]

    def has_uninitialized_params(self) -> bool:
        """Whether a parameter or buffer of the layer has no values yet."""
        return bool(self.uninitialized())

    def reset_parameters(self) -> None:
        """Draw new values; without effect before the first call."""
        if not self.has_uninitialized_params():
            self.cls_to_become.reset_parameters(self)

    def _size_of(self, input) -> int:
        """The size that an input gives."""
        raise NotImplementedError

    def _ordinary(self, size: int) -> Module:
        """A `cls_to_become` of this layer's arguments, without values."""
        arguments = {**self.constructor_arguments(), self.size_argument: size}
        with init.skip_init():
            return self.cls_to_become(**arguments, backend="cpu")

    def shapes_for(self, size: int) -> dict[str, tuple[int, ...]]:
        """The shapes of parameters and buffers for an input of that size."""
        return {name: t.shape for name, t in self._ordinary(size).state_dict().items()}

    def become(self, size: int, draw: bool = True) -> None:
        """Become a `cls_to_become` for inputs of that size; without `draw`, of unset values."""
        shapes = self.shapes_for(size)
        for name, t in {**self._parameters, **self._buffers}.items():
            if isinstance(t, UninitializedTensor):
                t.materialize(shapes[name])
        setattr(self, self.size_argument, size)
        self.__class__ = self.cls_to_become
        if draw:
            self.reset_parameters()

    def initialize_parameters(self, input) -> None:
        """Take the size from `input`, and draw the parameters."""
        size = self._size_of(input)
        with unrecorded():
            self.become(size)

    def forward(self, input, *args, **kwargs):
        self.initialize_parameters(input)
        return self.forward(input, *args, **kwargs)  # of the ordinary layer


def _size_along(layer: Module, input, dim: int, ranks: tuple[int, ...], shapes: str) -> int:
    shape = input.shape
    if len(shape) not in ranks:
        raise ShapeError(
            f"{type(layer).__name__} takes its size from dimension {dim} of the first input",
            expected=shapes,
            received=f"shape {tuple(shape)}",
        )
    if not shape[dim]:
        raise ShapeError(
            f"{type(layer).__name__}: dimension {dim} of the first input is empty", received=f"shape {shape}"
        )
    return shape[dim]


def _shape_in(state_dict: Mapping[str, Any], name: str) -> tuple[int, ...] | None:
    value = state_dict.get(name)
    if value is None or isinstance(value, UninitializedTensor) or not hasattr(value, "shape"):
        return None
    return tuple(value.shape)


@LAYERS.register
class LazyLinear(LazyModuleMixin, Linear):
    """y = x Wᵀ + b: a `Linear` whose in_features is the length of the last dimension of its first input."""

    cls_to_become = Linear
    size_argument = "in_features"

    def __init__(self, out_features: int, bias: bool = True, backend=None, dtype=None, device=None):
        with init.skip_init():
            Linear.__init__(self, 1, out_features, bias, backend, dtype, device)
        self._wait()

    def _size_of(self, input) -> int:
        return _size_along(self, input, -1, tuple(range(1, 65)), "shape (*, features)")

    def _size_in(self, state_dict, prefix) -> int | None:
        shape = _shape_in(state_dict, prefix + "weight")
        return shape[1] if shape is not None and len(shape) == 2 and shape[1] else None


class _LazyConvolution(LazyModuleMixin, _Convolution):
    size_argument = "in_channels"

    def _size_of(self, input) -> int:
        ranks, letters = (self.rank + 2, self.rank + 1), ("D, H, W", "H, W", "L")[3 - self.rank]
        return _size_along(self, input, -self.rank - 1, ranks, f"shape (N, C, {letters}) or (C, {letters})")

    def _size_in(self, state_dict, prefix) -> int | None:
        shape = _shape_in(state_dict, prefix + "weight")
        if shape is None or len(shape) != self.rank + 2:
            return None
        size = shape[0] if self.transposed else shape[1] * self.groups
        return size if size and size % self.groups == 0 else None


class _LazyConv(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        backend=None,
        dtype=None,
    ):
        with init.skip_init():
            self.cls_to_become.__init__(
                self, _multiple(groups), out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                backend, dtype,
            )  # fmt: skip
        self._wait()


class _LazyConvTranspose(_LazyConvolution):
    def __init__(
        self,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        backend=None,
        dtype=None,
    ):
        with init.skip_init():
            self.cls_to_become.__init__(
                self, _multiple(groups), out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
                padding_mode, backend, dtype,
            )  # fmt: skip
        self._wait()


def _multiple(groups) -> int:
    """A number of channels that `groups` divides; what is wrong with `groups` is for the constructor to say."""
    return groups if isinstance(groups, int) and groups > 0 else 1


@LAYERS.register
class LazyConv1d(_LazyConv, Conv1d):
    """y = x ⋆ W + b: a `Conv1d` whose in_channels are those of its first input, (N, C, L) or (C, L)."""

    cls_to_become = Conv1d


@LAYERS.register
class LazyConv2d(_LazyConv, Conv2d):
    """y = x ⋆ W + b: a `Conv2d` whose in_channels are those of its first input, (N, C, H, W) or (C, H, W)."""

    cls_to_become = Conv2d


@LAYERS.register
class LazyConv3d(_LazyConv, Conv3d):
    """y = x ⋆ W + b: a `Conv3d` whose in_channels are those of its first input, (N, C, D, H, W) or (C, D, H, W)."""

    cls_to_become = Conv3d


@LAYERS.register
class LazyConvTranspose1d(_LazyConvTranspose, ConvTranspose1d):
    """A `ConvTranspose1d` whose in_channels are those of its first input, (N, C, L) or (C, L)."""

    cls_to_become = ConvTranspose1d


@LAYERS.register
class LazyConvTranspose2d(_LazyConvTranspose, ConvTranspose2d):
    """A `ConvTranspose2d` whose in_channels are those of its first input, (N, C, H, W) or (C, H, W)."""

    cls_to_become = ConvTranspose2d


@LAYERS.register
class LazyConvTranspose3d(_LazyConvTranspose, ConvTranspose3d):
    """A `ConvTranspose3d` whose in_channels are those of its first input, (N, C, D, H, W) or (C, D, H, W)."""

    cls_to_become = ConvTranspose3d


class _LazyNorm(LazyModuleMixin, _BatchNorm):
    size_argument = "num_features"

    def __init__(
        self,
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
        with init.skip_init():
            self.cls_to_become.__init__(
                self, 1, eps, momentum, affine, track_running_stats, backend, dtype, device, bias=bias
            )
        self._wait()

    def _size_of(self, input) -> int:
        unbatched = isinstance(self, _InstanceNorm) and len(input.shape) == self.ranks[1]
        return _size_along(self, input, 0 if unbatched else 1, self.ranks, self.shapes.format(C="C"))

    def _size_in(self, state_dict, prefix) -> int | None:
        for name in ("weight", "running_mean"):
            shape = _shape_in(state_dict, prefix + name)
            if shape is not None:
                return shape[0] if len(shape) == 1 and shape[0] else None
        return None


@LAYERS.register
class LazyBatchNorm1d(_LazyNorm, BatchNorm1d):
    """A `BatchNorm1d` whose num_features are the channels of its first input, (N, C) or (N, C, L)."""

    cls_to_become = BatchNorm1d


@LAYERS.register
class LazyBatchNorm2d(_LazyNorm, BatchNorm2d):
    """A `BatchNorm2d` whose num_features are the channels of its first input, (N, C, H, W)."""

    cls_to_become = BatchNorm2d


@LAYERS.register
class LazyBatchNorm3d(_LazyNorm, BatchNorm3d):
    """A `BatchNorm3d` whose num_features are the channels of its first input, (N, C, D, H, W)."""

    cls_to_become = BatchNorm3d


@LAYERS.register
class LazyInstanceNorm1d(_LazyNorm, InstanceNorm1d):
    """An `InstanceNorm1d` whose num_features are the channels of its first input, (N, C, L) or (C, L).

    As in PyTorch, `affine` and `track_running_stats` are on unless switched off.
    """

    cls_to_become = InstanceNorm1d


@LAYERS.register
class LazyInstanceNorm2d(_LazyNorm, InstanceNorm2d):
    """An `InstanceNorm2d` whose num_features are the channels of its first input, (N, C, H, W) or (C, H, W).

    As in PyTorch, `affine` and `track_running_stats` are on unless switched off.
    """

    cls_to_become = InstanceNorm2d


@LAYERS.register
class LazyInstanceNorm3d(_LazyNorm, InstanceNorm3d):
    """An `InstanceNorm3d` whose num_features are the channels of its first input, (N, C, D, H, W) or (C, D, H, W).

    As in PyTorch, `affine` and `track_running_stats` are on unless switched off.
    """

    cls_to_become = InstanceNorm3d
