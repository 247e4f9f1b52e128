"""Losses of distributions as modules; their formulas are in `nn.functional`."""

from __future__ import annotations

from deepcore.errors import ArgumentError
from deepcore.nn import functional as F
from deepcore.nn.functional.loss import check_reduction
from deepcore.nn.modules.loss import Loss
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LOSSES, Example, Uniform

_PAIR = ((4, 3), (4, 3))
_POSITIVE = (Uniform((4, 3)), Uniform((4, 3)))


@LOSSES.register
class KLDivLoss(Loss):
    """y · (log y - x) on log-probabilities x; `log_target`: the target is log y, too.

    `reduction` "batchmean", the sum divided by the first dimension, is the divergence; "mean" divides by all elements.
    (Kullback and Leibler, 1951)
    """

    examples = (
        Example({}, ((4, 3), Uniform((4, 3)))),
        Example({"log_target": True, "reduction": "sum"}, _PAIR),
        Example({"reduction": "batchmean"}, ((4, 3), Uniform((4, 3)))),
    )

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__("mean" if reduction == "batchmean" else reduction)
        self.reduction = reduction
        self.log_target = log_target

    def reduced(self, input, target, reduction: str):
        return F.kl_div(input, target, reduction, self.log_target)

    def denominator(self, target) -> float:
        """The number of elements; of "batchmean" the samples."""
        return target.shape[0] if self.reduction == "batchmean" and target.shape else target.numel()


@LOSSES.register
class PoissonNLLLoss(Loss):
    """eˣ - y·x of counts y with the logarithm x of their mean; without `log_input` x - y·log(x + eps), x the mean.

    `full` adds Stirling's y·log y - y + ½·log(2π·y) for y > 1, which x does not depend on.
    """

    examples = (
        Example({}, ((4, 3), Uniform((4, 3)))),
        Example({"log_input": False, "full": True, "reduction": "sum"}, _POSITIVE),
        Example({"log_input": False, "eps": 0.1, "reduction": "none"}, _POSITIVE),
    )

    def __init__(self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"):
        super().__init__(reduction)
        if not eps > 0:
            raise ArgumentError("PoissonNLLLoss: eps is positive", received=f"eps={eps!r}")
        self.log_input, self.full, self.eps = log_input, full, eps

    def reduced(self, input, target, reduction: str):
        return F.poisson_nll_loss(input, target, self.log_input, self.full, self.eps, reduction)


@LOSSES.register
class GaussianNLLLoss(Module):
    """½·(log v + (x - y)²/v), v = max(var, eps), of targets y with mean x; called with (input, target, var).

    `var` has the input's shape, with 1 for any dimension, or lacks its last one. `full` adds ½·log 2π. (Nix and Weigend, 1994)
    """

    examples = (
        Example({}, (*_PAIR, Uniform((4, 3)))),
        Example({"full": True, "eps": 0.5, "reduction": "sum"}, (*_PAIR, Uniform((4, 1)))),
        Example({"reduction": "none"}, (*_PAIR, Uniform((4,)))),
    )

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__()
        check_reduction(reduction)
        self.full, self.eps, self.reduction = full, eps, reduction

    def forward(self, input, target, var):
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)
