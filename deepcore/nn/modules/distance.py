"""Distances and similarities of vectors, and the bilinear layer; their formulas are in `nn.functional`."""

from __future__ import annotations

import math

from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.modules.linear import check_sizes, new_parameter
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LAYERS, Example

_PAIR = ((4, 3), (4, 3))


@LAYERS.register
class CosineSimilarity(Module):
    """x1 · x2 / (max(‖x1‖₂, eps) · max(‖x2‖₂, eps)) along `dim`; the two shapes broadcast."""

    examples = (Example({}, _PAIR), Example({"dim": -1, "eps": 0.5}, ((2, 4, 3), (4, 3))))

    def __init__(self, dim: int = 1, eps: float = 1e-8):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1, x2):
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


@LAYERS.register
class PairwiseDistance(Module):
    """‖x1 - x2 + eps‖ₚ of each pair of vectors: (N, D) and (N, D), or (D,), to (N,), with `keepdim` (N, 1)."""

    examples = (Example({}, _PAIR), Example({"p": 3.0, "keepdim": True}, _PAIR), Example({"p": 1.0}, ((3,), (3,))))

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        super().__init__()
        self.p, self.eps, self.keepdim = p, eps, keepdim

    @property
    def norm(self) -> float:
        """PyTorch's name of `p`."""
        return self.p

    def forward(self, x1, x2):
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)


@LAYERS.register
class Bilinear(Module):
    """yₖ = x1ᵀ Wₖ x2 + bₖ.

    Inputs (*, in1_features) and (*, in2_features), output (*, out_features); `weight` (out_features, in1_features,
    in2_features), `bias` (out_features,). Both start uniform in ±1/√in1_features.
    """

    examples = (
        Example({"in1_features": 3, "in2_features": 4, "out_features": 2}, ((5, 3), (5, 4))),
        Example({"in1_features": 2, "in2_features": 3, "out_features": 4, "bias": False}, ((2, 3, 2), (2, 3, 3))),
    )

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, backend=None, dtype=None,
        device=None,
    ):  # fmt: skip
        super().__init__()
        check_sizes(self, in1_features=in1_features, in2_features=in2_features, out_features=out_features)
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        self.weight = new_parameter((out_features, in1_features, in2_features), backend, dtype)
        self.register_parameter("bias", new_parameter((out_features,), backend, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weight and bias."""
        bound = 1 / math.sqrt(self.in1_features)
        init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1, input2):
        return F.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )
