"""Padding layers."""

from __future__ import annotations

from typing import ClassVar

from deepcore.nn import functional as F
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example
from deepcore.ops.conv import numbers


class _Padding(Module):
    """`padding`: one width for all sides, or (left, right, top, bottom, front, back) as far as there are dimensions."""

    rank: ClassVar[int]
    mode: ClassVar[str] = "constant"

    def __init__(self, padding: int | tuple[int, ...]):
        super().__init__()
        least = -(1 << 31) if self.mode == "constant" else 0
        self.padding = numbers(type(self).__name__, "padding", padding, 2 * self.rank, least)

    def forward(self, input):
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPad(_Padding):
    def __init__(self, padding: int | tuple[int, ...], value: float):
        super().__init__(padding)
        self.value = value

    def forward(self, input):
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


@LAYERS.register
class ConstantPad1d(_ConstantPad):
    """`value` around the input: (N, C, L) or (C, L).

    `padding`: one width, or left, right.
    """

    rank = 1
    examples = (
        Example({"padding": 2, "value": 0.5}, ((2, 2, 5),)),
        Example({"padding": (1, 3), "value": 0.5}, ((2, 5),)),
    )


@LAYERS.register
class ConstantPad2d(_ConstantPad):
    """`value` around the input: (N, C, H, W) or (C, H, W).

    `padding`: one width, or left, right, top, bottom.
    """

    rank = 2
    examples = (
        Example({"padding": 1, "value": 0.5}, ((2, 2, 3, 4),)),
        Example({"padding": (1, 0, 2, 1), "value": 0.5}, ((2, 3, 4),)),
    )


@LAYERS.register
class ConstantPad3d(_ConstantPad):
    """`value` around the input: (N, C, D, H, W) or (C, D, H, W).

    `padding`: one width, or left, right, top, bottom, front, back.
    """

    rank = 3
    examples = (
        Example({"padding": 1, "value": 0.5}, ((1, 2, 3, 3, 4),)),
        Example({"padding": (1, 0, 2, 1, 0, 1), "value": 0.5}, ((2, 3, 3, 4),)),
    )


@LAYERS.register
class ZeroPad1d(_Padding):
    """Zeros around the input: (N, C, L) or (C, L).

    `padding`: one width, or left, right.
    """

    rank = 1
    examples = (
        Example({"padding": 2}, ((2, 2, 5),)),
        Example({"padding": (1, 3)}, ((2, 5),)),
    )


@LAYERS.register
class ZeroPad2d(_Padding):
    """Zeros around the input: (N, C, H, W) or (C, H, W).

    `padding`: one width, or left, right, top, bottom.
    """

    rank = 2
    examples = (
        Example({"padding": 1}, ((2, 2, 3, 4),)),
        Example({"padding": (1, 0, 2, 1)}, ((2, 3, 4),)),
    )


@LAYERS.register
class ZeroPad3d(_Padding):
    """Zeros around the input: (N, C, D, H, W) or (C, D, H, W).

    `padding`: one width, or left, right, top, bottom, front, back.
    """

    rank = 3
    examples = (
        Example({"padding": 1}, ((1, 2, 3, 3, 4),)),
        Example({"padding": (1, 0, 2, 1, 0, 1)}, ((2, 3, 3, 4),)),
    )


@LAYERS.register
class ReflectionPad1d(_Padding):
    """The input mirrored at its edges, which are not repeated: (N, C, L) or (C, L).

    `padding`: one width, or left, right.
    """

    rank = 1
    mode = "reflect"
    examples = (
        Example({"padding": 2}, ((2, 2, 5),)),
        Example({"padding": (1, 3)}, ((2, 5),)),
    )


@LAYERS.register
class ReflectionPad2d(_Padding):
    """The input mirrored at its edges, which are not repeated: (N, C, H, W) or (C, H, W).

    `padding`: one width, or left, right, top, bottom.
    """

    rank = 2
    mode = "reflect"
    examples = (
        Example({"padding": 1}, ((2, 2, 3, 4),)),
        Example({"padding": (1, 0, 2, 1)}, ((2, 3, 4),)),
    )


@LAYERS.register
class ReflectionPad3d(_Padding):
    """The input mirrored at its edges, which are not repeated: (N, C, D, H, W) or (C, D, H, W).

    `padding`: one width, or left, right, top, bottom, front, back.
    """

    rank = 3
    mode = "reflect"
    examples = (
        Example({"padding": 1}, ((1, 2, 3, 3, 4),)),
        Example({"padding": (1, 0, 2, 1, 0, 1)}, ((2, 3, 3, 4),)),
    )


@LAYERS.register
class ReplicationPad1d(_Padding):
    """The input's edges repeated around it: (N, C, L) or (C, L).

    `padding`: one width, or left, right.
    """

    rank = 1
    mode = "replicate"
    examples = (
        Example({"padding": 2}, ((2, 2, 5),)),
        Example({"padding": (1, 3)}, ((2, 5),)),
    )


@LAYERS.register
class ReplicationPad2d(_Padding):
    """The input's edges repeated around it: (N, C, H, W) or (C, H, W).

    `padding`: one width, or left, right, top, bottom.
    """

    rank = 2
    mode = "replicate"
    examples = (
        Example({"padding": 1}, ((2, 2, 3, 4),)),
        Example({"padding": (1, 0, 2, 1)}, ((2, 3, 4),)),
    )


@LAYERS.register
class ReplicationPad3d(_Padding):
    """The input's edges repeated around it: (N, C, D, H, W) or (C, D, H, W).

    `padding`: one width, or left, right, top, bottom, front, back.
    """

    rank = 3
    mode = "replicate"
    examples = (
        Example({"padding": 1}, ((1, 2, 3, 3, 4),)),
        Example({"padding": (1, 0, 2, 1, 0, 1)}, ((2, 3, 3, 4),)),
    )


@LAYERS.register
class CircularPad1d(_Padding):
    """The input around which it goes on at its other end: (N, C, L) or (C, L).

    `padding`: one width, or left, right.
    """

    rank = 1
    mode = "circular"
    examples = (
        Example({"padding": 2}, ((2, 2, 5),)),
        Example({"padding": (1, 3)}, ((2, 5),)),
    )


@LAYERS.register
class CircularPad2d(_Padding):
    """The input around which it goes on at its other end: (N, C, H, W) or (C, H, W).

    `padding`: one width, or left, right, top, bottom.
    """

    rank = 2
    mode = "circular"
    examples = (
        Example({"padding": 1}, ((2, 2, 3, 4),)),
        Example({"padding": (1, 0, 2, 1)}, ((2, 3, 4),)),
    )


@LAYERS.register
class CircularPad3d(_Padding):
    """The input around which it goes on at its other end: (N, C, D, H, W) or (C, D, H, W).

    `padding`: one width, or left, right, top, bottom, front, back.
    """

    rank = 3
    mode = "circular"
    examples = (
        Example({"padding": 1}, ((1, 2, 3, 3, 4),)),
        Example({"padding": (1, 0, 2, 1, 0, 1)}, ((2, 3, 3, 4),)),
    )
