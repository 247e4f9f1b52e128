"""Layers that change an image's size."""

from __future__ import annotations

from deepcore.nn import functional as F
from deepcore.nn.modules.conv import as_sizes
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example


@LAYERS.register
class Upsample(Module):
    """`F.interpolate` as a layer: (N, C, *) at `size`, or at its lengths times `scale_factor`.

    `mode`: "nearest", "linear" (N, C, L), "bilinear", "bicubic" (N, C, H, W) or "trilinear" (N, C, D, H, W).
    """

    examples: tuple[Example, ...] = (
        Example({"scale_factor": 2}, ((1, 2, 3, 4),)),
        Example({"size": (5, 7), "mode": "bilinear", "align_corners": True}, ((1, 2, 3, 4),)),
        Example({"scale_factor": 1.5, "mode": "linear"}, ((2, 1, 4),)),
    )

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):
        super().__init__()
        self.size = as_sizes(size)
        factors = tuple(map(float, scale_factor)) if isinstance(scale_factor, (tuple, list)) else scale_factor
        self.scale_factor = float(factors) if isinstance(factors, (int, float)) and factors else factors
        self.mode, self.align_corners, self.recompute_scale_factor = mode, align_corners, recompute_scale_factor

    def forward(self, input):
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        size = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{size}, mode={self.mode!r}"


@LAYERS.register
class UpsamplingNearest2d(Upsample):
    """(N, C, H, W) at another size, each pixel the nearest one."""

    examples = (Example({"scale_factor": 2}, ((1, 2, 3, 4),)),)

    def __init__(
        self, size: int | tuple[int, ...] | None = None, scale_factor: float | tuple[float, ...] | None = None
    ):
        super().__init__(size, scale_factor, mode="nearest")


@LAYERS.register
class UpsamplingBilinear2d(Upsample):
    """(N, C, H, W) at another size, bilinear, the corners' centres over each other (`align_corners=True`)."""

    examples = (Example({"size": (5, 6)}, ((1, 2, 3, 4),)),)

    def __init__(
        self, size: int | tuple[int, ...] | None = None, scale_factor: float | tuple[float, ...] | None = None
    ):
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)
