"""Convolutions."""

from __future__ import annotations

import math

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.conv import paddings, pair


@LAYERS.register
class Conv2d(Module):
    """y = x ⋆ W + b: filters of kernel_size move over an image in steps of `stride`, zeros around it.

    Input (N, in_channels, H, W) or (in_channels, H, W), output (N, out_channels, H', W') with
    H' = ⌊(H + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1; `weight` (out_channels, in_channels / groups,
    kernel_size, kernel_size), `bias` (out_channels,), both uniform in ±1/√(in_channels / groups · kernel_size²). Sizes are
    numbers or pairs; padding also "valid" (none) or "same" (H' = H; stride 1 only). `padding_mode`: "zeros".
    """

    examples = (
        Example({"in_channels": 3, "out_channels": 4, "kernel_size": 3}, ((2, 3, 5, 6),)),
        Example(
            {"in_channels": 2, "out_channels": 4, "kernel_size": (3, 1), "stride": 2, "padding": 1}, ((2, 2, 5, 5),)
        ),
        Example({"in_channels": 4, "out_channels": 4, "kernel_size": 3, "groups": 4, "bias": False}, ((2, 4, 6, 5),)),
        Example(
            {"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": "same", "dilation": 2}, ((2, 4, 4),)
        ),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        backend=None,
        dtype=None,
    ):
        super().__init__()
        check_sizes(self, in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                "Conv2d: groups divides the channels of both sides",
                received=f"groups={groups}, in_channels={in_channels}, out_channels={out_channels}",
            )
        if padding_mode != "zeros":
            raise ArgumentError(
                "Conv2d pads with zeros", received=f"padding_mode={padding_mode!r}", fix="F.pad before it"
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        paddings(padding, self.kernel_size, self.stride, self.dilation)
        self.padding = padding if isinstance(padding, str) else pair("padding", padding, 0)
        self.padding_mode = padding_mode
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = new_parameter(shape, backend, dtype)
        self.register_parameter("bias", new_parameter((out_channels,), backend, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weight and bias."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input):
        return F.conv2d(input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if self.padding != (0, 0):
            text += f", padding={self.padding}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return text + ("" if self.bias is not None else ", bias=False")
