"""Pooling layers."""

from __future__ import annotations

from typing import ClassVar

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.modules.conv import as_sizes
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example, Integers
from deepcore.ops.conv import numbers


class _MaxPool(Module):
    function: ClassVar[str]

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.kernel_size = as_sizes(kernel_size)
        self.stride = self.kernel_size if stride is None else as_sizes(stride)
        self.padding, self.dilation = as_sizes(padding), as_sizes(dilation)
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, input):
        function = getattr(F, self.function)
        return function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class _AvgPool(Module):
    function: ClassVar[str]

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ):
        super().__init__()
        self.kernel_size = as_sizes(kernel_size)
        self.stride = self.kernel_size if stride is None else as_sizes(stride)
        self.padding = as_sizes(padding)
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, input):
        function = getattr(F, self.function)
        return function(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _LPPool(Module):
    function: ClassVar[str]

    def __init__(
        self,
        norm_type: float,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        ceil_mode: bool = False,
    ):
        super().__init__()
        self.norm_type, self.ceil_mode = norm_type, ceil_mode
        self.kernel_size, self.stride = as_sizes(kernel_size), as_sizes(stride)

    def forward(self, input):
        return getattr(F, self.function)(input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)

    def extra_repr(self) -> str:
        return f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, ceil_mode={self.ceil_mode}"


class _AdaptiveMaxPool(Module):
    function: ClassVar[str]

    def __init__(self, output_size: int | tuple[int | None, ...] | None, return_indices: bool = False):
        super().__init__()
        self.output_size, self.return_indices = as_sizes(output_size), return_indices

    def forward(self, input):
        return getattr(F, self.function)(input, self.output_size, self.return_indices)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _AdaptiveAvgPool(Module):
    function: ClassVar[str]

    def __init__(self, output_size: int | tuple[int | None, ...] | None):
        super().__init__()
        self.output_size = as_sizes(output_size)

    def forward(self, input):
        return getattr(F, self.function)(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class _MaxUnpool(Module):
    rank: ClassVar[int]
    function: ClassVar[str]

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
    ):
        super().__init__()
        name = type(self).__name__
        self.kernel_size = numbers(name, "kernel_size", kernel_size, self.rank, 1)
        self.stride = self.kernel_size if stride is None else numbers(name, "stride", stride, self.rank, 1)
        self.padding = numbers(name, "padding", padding, self.rank, 0)

    def forward(self, input, indices=None, output_size=None):
        if indices is None:
            name, pool = type(self).__name__, type(self).__name__.replace("Unp", "P")
            raise ArgumentError(
                f"{name} puts elements back to where {pool} found them, and was given no indices",
                expected=f"{name}(…)(output, indices)",
                fix=f"output, indices = nn.{pool}({self.kernel_size}, return_indices=True)(x)",
            )
        return getattr(F, self.function)(input, indices, self.kernel_size, self.stride, self.padding, output_size)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


@LAYERS.register
class MaxPool1d(_MaxPool):
    """The largest element of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, L) or (C, L); a dimension of length L becomes
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1, or ⌈…⌉ + 1 with `ceil_mode`. Padding never wins.
    `return_indices`: also where in each channel's flattened input the elements are, for `MaxUnpool1d`.
    """

    function = "max_pool1d"
    examples = (
        Example({"kernel_size": 2}, ((2, 3, 6),)),
        Example({"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True}, ((3, 5),)),
    )


@LAYERS.register
class MaxPool2d(_MaxPool):
    """The largest element of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, H, W) or (C, H, W); a dimension of length L becomes
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1, or ⌈…⌉ + 1 with `ceil_mode`. Padding never wins.
    `return_indices`: also where in each channel's flattened input the elements are, for `MaxUnpool2d`.
    """

    function = "max_pool2d"
    examples = (
        Example({"kernel_size": 2}, ((2, 2, 4, 5),)),
        Example({"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True}, ((2, 5, 4),)),
    )


@LAYERS.register
class MaxPool3d(_MaxPool):
    """The largest element of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, D, H, W) or (C, D, H, W); a dimension of length L becomes
    ⌊(L + 2·padding - dilation·(kernel_size - 1) - 1) / stride⌋ + 1, or ⌈…⌉ + 1 with `ceil_mode`. Padding never wins.
    `return_indices`: also where in each channel's flattened input the elements are, for `MaxUnpool3d`.
    """

    function = "max_pool3d"
    examples = (
        Example({"kernel_size": 2}, ((1, 2, 4, 3, 4),)),
        Example({"kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": True}, ((2, 3, 4, 3),)),
    )


@LAYERS.register
class AvgPool1d(_AvgPool):
    """The mean of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, L) or (C, L), output with L' = ⌊(L + 2·padding - kernel_size) / stride⌋ + 1, or ⌈…⌉ + 1 with `ceil_mode`.
    Zeros around the input count in the mean with `count_include_pad`.
    """

    function = "avg_pool1d"
    examples = (
        Example({"kernel_size": 2}, ((2, 3, 6),)),
        Example(
            {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}, ((3, 6),)
        ),
    )

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        name = type(self).__name__  # PyTorch has tuples in this one
        self.kernel_size = numbers(name, "kernel_size", self.kernel_size, 1, 1)
        self.stride = numbers(name, "stride", self.stride, 1, 1)
        self.padding = numbers(name, "padding", self.padding, 1, 0)

    def forward(self, input):
        return F.avg_pool1d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)


@LAYERS.register
class AvgPool2d(_AvgPool):
    """The mean of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, H, W) or (C, H, W); a dimension of length L becomes ⌊(L + 2·padding - kernel_size) / stride⌋ + 1,
    or ⌈…⌉ + 1 with `ceil_mode`. Zeros around the input count in the mean with `count_include_pad`; `divisor_override`
    divides the sums instead of the number of elements.
    """

    function = "avg_pool2d"
    examples = (
        Example({"kernel_size": 2}, ((2, 2, 4, 5),)),
        Example({"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}, ((2, 5, 4),)),
        Example({"kernel_size": 2, "ceil_mode": True, "divisor_override": 3}, ((2, 5, 4),)),
    )


@LAYERS.register
class AvgPool3d(_AvgPool):
    """The mean of each window of kernel_size, `stride` apart (default kernel_size).

    Input (N, C, D, H, W) or (C, D, H, W); a dimension of length L becomes ⌊(L + 2·padding - kernel_size) / stride⌋ + 1,
    or ⌈…⌉ + 1 with `ceil_mode`. Zeros around the input count in the mean with `count_include_pad`; `divisor_override`
    divides the sums instead of the number of elements.
    """

    function = "avg_pool3d"
    examples = (
        Example({"kernel_size": 2}, ((1, 2, 4, 3, 4),)),
        Example({"kernel_size": 3, "stride": 1, "padding": 1, "count_include_pad": False}, ((2, 3, 4, 3),)),
        Example({"kernel_size": 2, "ceil_mode": True, "divisor_override": 3}, ((2, 3, 4, 3),)),
    )


@LAYERS.register
class LPPool1d(_LPPool):
    """(Σ xᵖ)^(1/p) of each window of kernel_size, p being norm_type; input (N, C, L) or (C, L)."""

    function = "lp_pool1d"
    examples = (Example({"norm_type": 2, "kernel_size": 2}, ((2, 3, 6),)),)


@LAYERS.register
class LPPool2d(_LPPool):
    """(Σ xᵖ)^(1/p) of each window of kernel_size, p being norm_type; input (N, C, H, W) or (C, H, W)."""

    function = "lp_pool2d"
    examples = (Example({"norm_type": 2, "kernel_size": 2}, ((2, 2, 4, 5),)),)


@LAYERS.register
class LPPool3d(_LPPool):
    """(Σ xᵖ)^(1/p) of each window of kernel_size, p being norm_type; input (N, C, D, H, W) or (C, D, H, W)."""

    function = "lp_pool3d"
    examples = (Example({"norm_type": 2, "kernel_size": 2}, ((1, 2, 4, 3, 4),)),)


@LAYERS.register
class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    """The largest element of each of output_size windows that cover the input, (N, C, L) or (C, L).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_max_pool1d"
    examples = (
        Example({"output_size": 2}, ((2, 3, 6),)),
        Example({"output_size": 3}, ((3, 5),)),
    )


@LAYERS.register
class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    """The largest element of each of output_size windows that cover the input, (N, C, H, W) or (C, H, W).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_max_pool2d"
    examples = (
        Example({"output_size": 2}, ((2, 2, 4, 5),)),
        Example({"output_size": 3}, ((2, 5, 4),)),
    )


@LAYERS.register
class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    """The largest element of each of output_size windows that cover the input, (N, C, D, H, W) or (C, D, H, W).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_max_pool3d"
    examples = (
        Example({"output_size": 2}, ((1, 2, 4, 3, 4),)),
        Example({"output_size": 3}, ((2, 3, 4, 3),)),
    )


@LAYERS.register
class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The mean of each of output_size windows that cover the input, (N, C, L) or (C, L).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_avg_pool1d"
    examples = (
        Example({"output_size": 1}, ((2, 3, 6),)),
        Example({"output_size": 3}, ((3, 5),)),
    )


@LAYERS.register
class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The mean of each of output_size windows that cover the input, (N, C, H, W) or (C, H, W).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_avg_pool2d"
    examples = (
        Example({"output_size": 1}, ((2, 2, 4, 5),)),
        Example({"output_size": 3}, ((2, 5, 4),)),
    )


@LAYERS.register
class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The mean of each of output_size windows that cover the input, (N, C, D, H, W) or (C, D, H, W).

    Window i of a length L reaches from ⌊i·L / size⌋ to ⌈(i + 1)·L / size⌉; None keeps a length.
    """

    function = "adaptive_avg_pool3d"
    examples = (
        Example({"output_size": 1}, ((1, 2, 4, 3, 4),)),
        Example({"output_size": 3}, ((2, 3, 4, 3),)),
    )


@LAYERS.register
class MaxUnpool1d(_MaxUnpool):
    """Zeros, with the input at the indices that `MaxPool1d(…, return_indices=True)` gave.

    Input and indices (N, C, L) or (C, L); a dimension of length L becomes
    (L - 1)·stride - 2·padding + kernel_size, or as `forward(input, indices, output_size)` says.
    """

    rank, function = 1, "max_unpool1d"
    examples = (Example({"kernel_size": 2}, ((2, 2, 3), Integers((2, 2, 3), 6, distinct=True))),)


@LAYERS.register
class MaxUnpool2d(_MaxUnpool):
    """Zeros, with the input at the indices that `MaxPool2d(…, return_indices=True)` gave.

    Input and indices (N, C, H, W) or (C, H, W); a dimension of length L becomes
    (L - 1)·stride - 2·padding + kernel_size, or as `forward(input, indices, output_size)` says.
    """

    rank, function = 2, "max_unpool2d"
    examples = (Example({"kernel_size": 2}, ((1, 2, 2, 2), Integers((1, 2, 2, 2), 16, distinct=True))),)


@LAYERS.register
class MaxUnpool3d(_MaxUnpool):
    """Zeros, with the input at the indices that `MaxPool3d(…, return_indices=True)` gave.

    Input and indices (N, C, D, H, W) or (C, D, H, W); a dimension of length L becomes
    (L - 1)·stride - 2·padding + kernel_size, or as `forward(input, indices, output_size)` says.
    """

    rank, function = 3, "max_unpool3d"
    examples = (Example({"kernel_size": 2}, ((1, 1, 2, 1, 2), Integers((1, 1, 2, 1, 2), 32, distinct=True))),)
