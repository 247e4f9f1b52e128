"""Losses with a margin as modules; their formulas are in `nn.functional`."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.functional.loss import check_reduction
from deepcore.nn.modules.loss import Loss, WeightedLoss
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LOSSES, Example, Integers, Signs, Uniform
from deepcore.tensor import Tensor

_SIGNED = ((4, 3), Signs((4, 3)))
_RANKED = ((5,), (5,), Signs((5,)))
_VECTORS = ((4, 3), (4, 3), Signs((4,)))
_TRIPLETS = ((4, 3), (4, 3), (4, 3))


@LOSSES.register
class SoftMarginLoss(Loss):
    """log(1 + e^(-y·x)), y = ±1."""

    examples = (Example({}, _SIGNED), Example({"reduction": "none"}, _SIGNED))

    def reduced(self, input, target, reduction: str):
        return F.soft_margin_loss(input, target, reduction)


@LOSSES.register
class HingeEmbeddingLoss(Loss):
    """x where y = 1, max(0, margin - x) where y = -1, on distances x."""

    examples = (Example({}, _SIGNED), Example({"margin": 0.3, "reduction": "sum"}, _SIGNED))

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def reduced(self, input, target, reduction: str):
        return F.hinge_embedding_loss(input, target, self.margin, reduction)


@LOSSES.register
class MultiMarginLoss(WeightedLoss):
    """Σᵢ weight[y] · max(0, margin - x[y] + x[i])ᵖ / C over the classes i ≠ y.

    Scores (N, C) or (C,), target the class numbers (N,) or (); `p` is 1 or 2, `weight` has one number per class.
    (Crammer and Singer, 2001)
    """

    task = "multiclass"
    examples = (
        Example({}, ((5, 4), Integers((5,), 4))),
        Example({"p": 2, "margin": 0.7, "reduction": "sum"}, ((5, 4), Integers((5,), 4))),
        Example({"weight": (0.5, 2.0, 1.0), "reduction": "none"}, ((6, 3), Integers((6,), 3))),
        Example({}, ((4,), Integers((), 4))),
    )

    def __init__(self, p: int = 1, margin: float = 1.0, weight=None, reduction: str = "mean"):
        super().__init__(weight, reduction)
        if p not in (1, 2):
            raise ArgumentError("MultiMarginLoss: p is 1 or 2", received=f"p={p!r}")
        self.p, self.margin = p, margin

    def reduced(self, input, target, reduction: str):
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, reduction)


@LOSSES.register
class MultiLabelMarginLoss(Loss):
    """Σⱼᵢ max(0, 1 - x[y[j]] + x[i]) / C over a sample's classes y[j] and the classes i that are not among them.

    Scores and target are (N, C) or (C,): a row of the target lists class numbers, up to the first -1.
    """

    examples = (
        Example({}, ((5, 4), Integers((5, 4), 4))),
        Example({"reduction": "none"}, ((3, 4), Integers((3, 4), 4, distinct=True))),
        Example({"reduction": "sum"}, ((4,), Integers((4,), 3))),
    )

    def reduced(self, input, target, reduction: str):
        return F.multilabel_margin_loss(input, target, reduction)

    def denominator(self, target) -> float:
        """The samples."""
        return target.shape[0] if target.ndim > 1 else 1


@LOSSES.register
class MultiLabelSoftMarginLoss(WeightedLoss):
    """Mean over the classes of -weight · [y·log σ(x) + (1 - y)·log(1 - σ(x))]: (N, C) to (N,), then reduced."""

    task, threshold = "multilabel", 0.0
    examples = (
        Example({}, ((4, 3), Uniform((4, 3)))),
        Example({"weight": (0.5, 2.0, 1.0), "reduction": "none"}, ((4, 3), Uniform((4, 3)))),
    )

    def reduced(self, input, target, reduction: str):
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction)

    def denominator(self, target) -> float:
        """The samples."""
        return target.numel() // max(target.shape[-1], 1)


class _Several(Module):
    """A loss of several inputs."""

    def __init__(self, reduction: str):
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction


@LOSSES.register
class MarginRankingLoss(_Several):
    """max(0, -y·(x1 - x2) + margin), called with (x1, x2, y): y = 1 where x1 is to rank above x2, -1 where below."""

    examples = (Example({}, _RANKED), Example({"margin": 0.4, "reduction": "none"}, _RANKED))

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        return F.margin_ranking_loss(input1, input2, target, self.margin, self.reduction)


@LOSSES.register
class CosineEmbeddingLoss(_Several):
    """1 - cos(x1, x2) where y = 1, max(0, cos(x1, x2) - margin) where y = -1; called with (x1, x2, y).

    Inputs (N, D) with target (N,), or (D,) with ().
    """

    examples = (
        Example({}, _VECTORS),
        Example({"margin": -0.5, "reduction": "sum"}, _VECTORS),
        Example({"reduction": "none"}, ((3,), (3,), Signs(()))),
    )

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = margin

    def forward(self, input1, input2, target):
        return F.cosine_embedding_loss(input1, input2, target, self.margin, self.reduction)


@LOSSES.register
class TripletMarginLoss(_Several):
    """max(0, d(a, p) - d(a, n) + margin), called with (anchor, positive, negative), vectors (N, D) or (D,).

    d is `PairwiseDistance(p, eps)`. `swap`: d(p, n) in place of d(a, n) where it is smaller. (Balntas et al., 2016)
    """

    examples = (
        Example({}, _TRIPLETS),
        Example({"margin": 0.5, "p": 3.0, "swap": True, "reduction": "none"}, _TRIPLETS),
        Example({"p": 1.0, "eps": 0.1, "reduction": "sum"}, _TRIPLETS),
    )

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean"
    ):
        super().__init__(reduction)
        if not margin > 0:
            raise ArgumentError("TripletMarginLoss: margin is positive", received=f"margin={margin!r}")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


@LOSSES.register
class TripletMarginWithDistanceLoss(_Several):
    """`TripletMarginLoss` with a distance of the caller's: a function of two tensors."""

    examples = (Example({}, _TRIPLETS), Example({"margin": 0.5, "swap": True, "reduction": "sum"}, _TRIPLETS))

    def __init__(
        self, *, distance_function: Callable[[Tensor, Tensor], Tensor] | None = None, margin: float = 1.0,
        swap: bool = False, reduction: str = "mean",
    ):  # fmt: skip
        super().__init__(reduction)
        if not margin > 0:
            raise ArgumentError("TripletMarginWithDistanceLoss: margin is positive", received=f"margin={margin!r}")
        self.distance_function, self.margin, self.swap = distance_function, margin, swap

    def forward(self, anchor, positive, negative):
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function, margin=self.margin, swap=self.swap,
            reduction=self.reduction,
        )  # fmt: skip
