"""Dropout."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example


@LAYERS.register
class Dropout(Module):
    """y = x · m / (1 - p) in training, m being 0 with probability p and 1 otherwise; y = x in evaluation.

    The mask comes from `dc.manual_seed`'s stream and is the same on every backend. (Srivastava et al., 2014)
    """

    examples = (Example({}, ((4, 5),)), Example({"p": 0.0}, ((4, 5),)), Example({"p": 1.0}, ((4, 5),)))

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ArgumentError("Dropout's p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
        self.p = p
        self.inplace = inplace

    def forward(self, input):
        return F.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"
