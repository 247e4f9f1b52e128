"""Dropout."""

from __future__ import annotations

from typing import ClassVar

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example


class _Dropout(Module):
    function: ClassVar[str]

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            name = type(self).__name__
            raise ArgumentError(f"{name}'s p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
        self.p = p
        self.inplace = inplace

    def forward(self, input):
        return getattr(F, self.function)(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


@LAYERS.register
class Dropout(_Dropout):
    """y = x · m / (1 - p) in training, m being 0 with probability p and 1 otherwise; y = x in evaluation.

    The mask comes from `dc.manual_seed`'s stream and is the same on every backend. (Srivastava et al., 2014)
    """

    examples = (Example({}, ((4, 5),)), Example({"p": 0.0}, ((4, 5),)), Example({"p": 1.0}, ((4, 5),)))

    function = "dropout"


@LAYERS.register
class Dropout1d(_Dropout):
    """`Dropout` of whole channels of (N, C, L) or (C, L). (Tompson et al., 2015)"""

    function = "dropout1d"
    examples = (Example({}, ((4, 3, 5),)), Example({"p": 0.0}, ((3, 5),)))


@LAYERS.register
class Dropout2d(_Dropout):
    """`Dropout` of whole channels of (N, C, H, W), or of (N, C, L) as in PyTorch. (Tompson et al., 2015)"""

    function = "dropout2d"
    examples = (Example({}, ((4, 3, 2, 5),)), Example({"p": 1.0}, ((3, 2, 2, 2),)))


@LAYERS.register
class Dropout3d(_Dropout):
    """`Dropout` of whole channels of (N, C, D, H, W) or (C, D, H, W). (Tompson et al., 2015)"""

    function = "dropout3d"
    examples = (Example({}, ((4, 3, 2, 2, 2),)), Example({"p": 0.0}, ((3, 2, 1, 2),)))


@LAYERS.register
class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1, for networks with SELU. (Klambauer et al., 2017)"""

    function = "alpha_dropout"
    examples = (Example({}, ((4, 5),)), Example({"p": 0.0}, ((4, 5),)))


@LAYERS.register
class FeatureAlphaDropout(_Dropout):
    """`AlphaDropout` of whole channels of (N, C, *)."""

    function = "feature_alpha_dropout"
    examples = (Example({}, ((4, 3, 5),)), Example({"p": 0.0}, ((4, 3, 2),)))
