"""Convolutions, patches, and channels that become pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from deepcore.errors import ArgumentError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.conv import numbers, paddings

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def as_sizes(value):
    """A number as it is, a sequence as a tuple."""
    return tuple(value) if isinstance(value, Sequence) else value


class _Convolution(Module):
    """What convolutions of every rank share, their transposes included."""

    rank: ClassVar[int]
    function: ClassVar[str]
    transposed: ClassVar[bool] = False

    def _set_up(
        self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, backend, dtype
    ) -> None:  # fmt: skip
        name = type(self).__name__
        check_sizes(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{name}: groups divides the channels of both sides",
                received=f"groups={groups}, in_channels={in_channels}, out_channels={out_channels}",
            )
        if padding_mode not in (("zeros",) if self.transposed else _MODES):
            raise ArgumentError(
                f"{name}: unknown padding_mode",
                expected='"zeros"' if self.transposed else " or ".join(f'"{mode}"' for mode in _MODES),
                received=repr(padding_mode),
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = numbers(name, "kernel_size", kernel_size, self.rank, 1)
        self.stride = numbers(name, "stride", stride, self.rank, 1)
        self.dilation = numbers(name, "dilation", dilation, self.rank, 1)
        around = paddings(name, padding, self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else numbers(name, "padding", padding, self.rank, 0)
        self.padding_mode = padding_mode
        self._around = tuple(n for pair in reversed(around) for n in pair)
        ins, outs = (in_channels, out_channels // groups) if self.transposed else (out_channels, in_channels // groups)
        self.weight = new_parameter((ins, outs, *self.kernel_size), backend, dtype)
        self.register_parameter("bias", new_parameter((out_channels,), backend, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weight and bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input):
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._around, _MODES[self.padding_mode]), 0
        function = getattr(F, self.function)
        return function(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        none = (0,) * self.rank
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != none:
            text += f", padding={self.padding}"
        if self.dilation != (1,) * self.rank:
            text += f", dilation={self.dilation}"
        if getattr(self, "output_padding", none) != none:
            text += f", output_padding={self.output_padding}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        if self.bias is None:
            text += ", bias=False"
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class _Conv(_Convolution):
    def __init__(
        self,
        in_channels: int,
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
        super().__init__()
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, backend, dtype
        )  # fmt: skip


class _ConvTranspose(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
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
        super().__init__()
        self.output_padding = numbers(type(self).__name__, "output_padding", output_padding, self.rank, 0)
        self._set_up(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, backend, dtype
        )  # fmt: skip

    def forward(self, input, output_size: Sequence[int] | None = None):
        """`output_size`: the spatial size of the result, of those that convolve to the input's size."""
        extra = self.output_padding if output_size is None else self._extra(input.shape, tuple(output_size))
        function = getattr(F, self.function)
        return function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )  # fmt: skip

    def _extra(self, shape, size) -> tuple[int, ...]:
        size = size[-self.rank :] if len(size) in (len(shape), len(shape) - 2) else size
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(shape[-self.rank :], self.stride, map(int, self.padding), self.dilation, self.kernel_size)
        ]  # fmt: skip
        most = [n + s - 1 for n, s in zip(least, self.stride)]
        if len(size) != self.rank or not all(a <= n <= b for a, n, b in zip(least, size, most)):
            raise ShapeError(
                f"{type(self).__name__}: no result of this size convolves to the input's",
                expected=f"output_size from {tuple(least)} to {tuple(most)}",
                received=str(size),
            )
        return tuple(n - a for n, a in zip(size, least))


@LAYERS.register
class Conv1d(_Conv):
    """y = x ⋆ W + b: filters of kernel_size move over a sequence in steps of `stride`.

    Input (N, in_channels, L) or (in_channels, L), output (N, out_channels, L') with
    L' = ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1; `weight` (out_channels, in_channels / groups,
    kernel_size). The rest is as for `Conv2d`.
    """

    rank, function = 1, "conv1d"
    examples = (
        Example({"in_channels": 3, "out_channels": 4, "kernel_size": 3}, ((2, 3, 6),)),
        Example(
            {"in_channels": 4, "out_channels": 2, "kernel_size": 2, "stride": 2, "padding": 1, "groups": 2}, ((4, 5),)
        ),
        Example(
            {"in_channels": 2, "out_channels": 3, "kernel_size": 3, "padding": "same", "padding_mode": "circular"},
            ((2, 2, 5),),
        ),
    )


@LAYERS.register
class Conv2d(_Conv):
    """y = x ⋆ W + b: filters of kernel_size move over an image in steps of `stride`, zeros around it.

    Input (N, in_channels, H, W) or (in_channels, H, W), output (N, out_channels, H', W') with
    H' = ⌊(H + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1; `weight` (out_channels, in_channels / groups,
    kernel_size, kernel_size), `bias` (out_channels,), both uniform in ±1/√(in_channels / groups · kernel_size²). Sizes are
    numbers or pairs; padding also "valid" (none) or "same" (H' = H; stride 1 only). `padding_mode`: "zeros", "reflect",
    "replicate" or "circular", as in `F.pad`.
    """

    rank, function = 2, "conv2d"
    examples = (
        Example({"in_channels": 3, "out_channels": 4, "kernel_size": 3}, ((2, 3, 5, 6),)),
        Example(
            {"in_channels": 2, "out_channels": 4, "kernel_size": (3, 1), "stride": 2, "padding": 1}, ((2, 2, 5, 5),)
        ),
        Example({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 4, "bias": False}, ((2, 4, 6, 5),)),
        Example(
            {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": "same", "dilation": 2}, ((2, 4, 4),)
        ),
        Example(
            {"in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
            ((2, 1, 4, 4),),
        ),
    )


@LAYERS.register
class Conv3d(_Conv):
    """y = x ⋆ W + b: filters of kernel_size move over a volume in steps of `stride`.

    Input (N, in_channels, D, H, W) or (in_channels, D, H, W), output (N, out_channels, D', H', W'); `weight`
    (out_channels, in_channels / groups, *kernel_size). The rest is as for `Conv2d`.
    """

    rank, function = 3, "conv3d"
    examples = (
        Example({"in_channels": 2, "out_channels": 3, "kernel_size": 2}, ((2, 2, 3, 4, 3),)),
        Example(
            {"in_channels": 2, "out_channels": 2, "kernel_size": (1, 2, 3), "stride": (1, 2, 1), "padding": (0, 1, 1),
             "padding_mode": "replicate"}, ((2, 2, 3, 3),)
        ),
    )  # fmt: skip


@LAYERS.register
class ConvTranspose1d(_ConvTranspose):
    """The transpose of `Conv1d`: each element of x adds a filter to y, `stride` apart, plus b.

    Input (N, in_channels, L) or (in_channels, L), output (N, out_channels, L') with
    L' = (L - 1)·stride - 2·padding + dilation·(kernel_size - 1) + output_padding + 1; `weight` (in_channels,
    out_channels / groups, kernel_size).
    """

    rank, function = 1, "conv_transpose1d"
    examples = (
        Example({"in_channels": 3, "out_channels": 2, "kernel_size": 3, "stride": 2}, ((2, 3, 4),)),
        Example(
            {"in_channels": 2, "out_channels": 4, "kernel_size": 2, "stride": 3, "padding": 1, "output_padding": 2,
             "groups": 2, "bias": False}, ((2, 5),)
        ),
    )  # fmt: skip


@LAYERS.register
class ConvTranspose2d(_ConvTranspose):
    """The transpose of `Conv2d`: each pixel of x adds a filter to y, `stride` apart, plus b.

    Input (N, in_channels, H, W) or (in_channels, H, W), output (N, out_channels, H', W') with
    H' = (H - 1)·stride - 2·padding + dilation·(kernel_size - 1) + output_padding + 1; `weight` (in_channels,
    out_channels / groups, *kernel_size). `forward(x, output_size)` chooses H' where stride > 1 leaves a choice.
    """

    rank, function = 2, "conv_transpose2d"
    examples = (
        Example({"in_channels": 3, "out_channels": 2, "kernel_size": 3, "stride": 2, "padding": 1}, ((2, 3, 3, 4),)),
        Example(
            {"in_channels": 2, "out_channels": 2, "kernel_size": (2, 3), "stride": (2, 1), "output_padding": (1, 0),
             "groups": 2, "dilation": 2}, ((2, 2, 3),)
        ),
    )  # fmt: skip


@LAYERS.register
class ConvTranspose3d(_ConvTranspose):
    """The transpose of `Conv3d`: each element of x adds a filter to y, `stride` apart, plus b.

    Input (N, in_channels, D, H, W) or (in_channels, D, H, W), output (N, out_channels, D', H', W'); `weight`
    (in_channels, out_channels / groups, *kernel_size). The rest is as for `ConvTranspose2d`.
    """

    rank, function = 3, "conv_transpose3d"
    examples = (
        Example({"in_channels": 2, "out_channels": 3, "kernel_size": 2, "stride": 2}, ((1, 2, 2, 3, 2),)),
        Example({"in_channels": 2, "out_channels": 1, "kernel_size": (1, 3, 2), "padding": (0, 1, 0)}, ((2, 2, 3, 2),)),
    )


@LAYERS.register
class Unfold(Module):
    """The patches that a filter of kernel_size meets, as columns: (N, C, H, W) → (N, C · kh · kw, positions)."""

    examples = (
        Example({"kernel_size": 2}, ((2, 3, 4, 3),)),
        Example({"kernel_size": (2, 3), "dilation": 2, "padding": 1, "stride": 2}, ((2, 5, 6),)),
    )

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        stride: int | tuple[int, ...] = 1,
    ):
        super().__init__()
        self.kernel_size, self.dilation = as_sizes(kernel_size), as_sizes(dilation)
        self.padding, self.stride = as_sizes(padding), as_sizes(stride)

    def forward(self, input):
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


@LAYERS.register
class Fold(Module):
    """The sum of patches at their places, the transpose of `Unfold`: (N, C · kh · kw, positions) → (N, C, H, W)."""

    examples = (
        Example({"output_size": (3, 4), "kernel_size": 2}, ((2, 8, 6),)),
        Example({"output_size": 4, "kernel_size": (2, 1), "padding": (1, 0), "stride": 2}, ((6, 6),)),
    )

    def __init__(
        self,
        output_size: int | tuple[int, ...],
        kernel_size: int | tuple[int, ...],
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        stride: int | tuple[int, ...] = 1,
    ):
        super().__init__()
        self.output_size = as_sizes(output_size)
        self.kernel_size, self.dilation = as_sizes(kernel_size), as_sizes(dilation)
        self.padding, self.stride = as_sizes(padding), as_sizes(stride)

    def forward(self, input):
        return F.fold(input, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"output_size={self.output_size}, kernel_size={self.kernel_size}, dilation={self.dilation}, "
            f"padding={self.padding}, stride={self.stride}"
        )


@LAYERS.register
class PixelShuffle(Module):
    """(*, C·r², H, W) → (*, C, H·r, W·r): the channels of a pixel become r × r pixels. (Shi et al., 2016)"""

    examples = (Example({"upscale_factor": 2}, ((2, 8, 2, 3),)),)

    def __init__(self, upscale_factor: int):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input):
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


@LAYERS.register
class PixelUnshuffle(Module):
    """(*, C, H·r, W·r) → (*, C·r², H, W): r × r pixels become the channels of one, the inverse of `PixelShuffle`."""

    examples = (Example({"downscale_factor": 2}, ((2, 1, 4, 6),)),)

    def __init__(self, downscale_factor: int):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input):
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


@LAYERS.register
class ChannelShuffle(Module):
    """Channels of all `groups` take turns: (N, C, *) → (N, C, *). (Zhang et al., 2018)"""

    examples = (Example({"groups": 2}, ((1, 4, 2, 2),)),)

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, input):
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"
