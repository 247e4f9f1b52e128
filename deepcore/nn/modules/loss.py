"""Losses as modules; the formulas are in `nn.functional`."""

from __future__ import annotations

import functools

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DeepcoreError
from deepcore.nn import functional as F
from deepcore.nn.functional.loss import ProbabilityCheck, check_reduction
from deepcore.nn.modules.module import Module
from deepcore.nn.registry import LOSSES, Example, Integers, Uniform
from deepcore.tensor import as_tensor

_PAIR = ((4, 3), (4, 3))


class Loss(Module):
    """A loss with its `reduction`; a subclass defines `reduced`."""

    #: The kind of task: "multiclass" (one of C classes), "multilabel" (each element a yes or no), or None.
    task: str | None = None
    #: The output above which a yes-or-no prediction is yes; 0.5 fits outputs on the target's scale.
    threshold = 0.5

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, input, target):
        return self.reduced(input, target, self.reduction)

    def reduced(self, input, target, reduction: str):
        """The loss under another reduction than the module's own."""
        raise NotImplementedError(f"{type(self).__name__} must define reduced(input, target, reduction)")

    def denominator(self, target) -> float:
        """The divisor of the mean: the number of elements."""
        return target.numel()


class WeightedLoss(Loss):
    """A loss with a buffer `weight`, from a tensor or a list of numbers."""

    def __init__(self, weight=None, reduction: str = "mean"):
        super().__init__(reduction)
        self.register_buffer("weight", None if weight is None else as_tensor(weight))


@LOSSES.register
class MSELoss(Loss):
    """(input - target)², averaged by default. Shapes must be equal: a loss that broadcasts is an error."""

    examples = (Example({}, _PAIR), Example({"reduction": "sum"}, _PAIR), Example({"reduction": "none"}, _PAIR))

    def reduced(self, input, target, reduction: str):
        return F.mse_loss(input, target, reduction)


@LOSSES.register
class L1Loss(Loss):
    """|input - target|, averaged by default."""

    examples = (Example({}, _PAIR), Example({"reduction": "none"}, _PAIR))

    def reduced(self, input, target, reduction: str):
        return F.l1_loss(input, target, reduction)


@LOSSES.register
class SmoothL1Loss(Loss):
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = input - target. (Girshick, 2015)"""

    examples = (Example({}, _PAIR), Example({"beta": 0.3, "reduction": "sum"}, _PAIR), Example({"beta": 0.0}, _PAIR))

    def __init__(self, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction)
        self.beta = beta

    def reduced(self, input, target, reduction: str):
        return F.smooth_l1_loss(input, target, reduction, self.beta)


@LOSSES.register
class HuberLoss(Loss):
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere; d = input - target. (Huber, 1964)"""

    examples = (Example({}, _PAIR), Example({"delta": 0.3, "reduction": "none"}, _PAIR))

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        self.delta = delta

    def reduced(self, input, target, reduction: str):
        return F.huber_loss(input, target, reduction, self.delta)


@LOSSES.register
class CrossEntropyLoss(WeightedLoss):
    """-weight[y] · log softmax(x)[y] on logits x: no Softmax before it.

    Input (C,), (N, C) or (N, C, d₁, …); target class numbers (N,) or (N, d₁, …), or class probabilities of the input's
    shape. Warns once if its first inputs look like probabilities instead of logits.
    """

    task = "multiclass"
    examples = (
        Example({}, ((5, 4), Integers((5,), 4))),
        Example({}, ((4,), Integers((), 4))),
        Example({"ignore_index": 1, "label_smoothing": 0.2}, ((6, 3), Integers((6,), 3))),
        Example({"weight": (0.5, 2.0, 1.0)}, ((6, 3), Integers((6,), 3))),
        Example({"weight": (0.5, 2.0, 1.0), "ignore_index": 2, "label_smoothing": 0.1}, ((6, 3), Integers((6,), 3))),
        Example({"reduction": "none", "weight": (0.5, 2.0, 1.0)}, ((2, 3, 4), Integers((2, 4), 3))),
        Example({"reduction": "sum", "label_smoothing": 0.3}, ((2, 3, 2, 2), Integers((2, 2, 2), 3))),
        Example({}, ((5, 4), Uniform((5, 4), sum_to_one=True))),
        Example({"label_smoothing": 0.2, "weight": (0.5, 2.0, 1.0)}, ((2, 3, 4), Uniform((2, 3, 4), True))),
        Example({"reduction": "none"}, ((4,), Uniform((4,), True))),
    )

    def __init__(self, weight=None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0):
        super().__init__(weight, reduction)
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError("label_smoothing is between 0 and 1", received=f"{label_smoothing!r}")
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self._check = ProbabilityCheck()

    def reduced(self, input, target, reduction: str):
        return F.cross_entropy(
            input, target, self.weight, self.ignore_index, reduction, self.label_smoothing, _check=self._check
        )

    def denominator(self, target) -> float:
        """Σ weight[y] over the class numbers y that are not `ignore_index`; of class probabilities, their positions."""
        if dt.is_floating(target.dtype):
            return target.numel() // max(target.shape[1 if target.ndim > 1 else 0], 1)
        return _total_weight(target, self.weight, self.ignore_index)


@LOSSES.register
class NLLLoss(WeightedLoss):
    """-weight[y] · input[y] on log-probabilities (after LogSoftmax); shapes as `CrossEntropyLoss` with class numbers."""

    task = "multiclass"
    examples = (
        Example({}, ((5, 4), Integers((5,), 4))),
        Example({"weight": (0.5, 2.0, 1.0), "ignore_index": 1}, ((6, 3), Integers((6,), 3))),
        Example({"reduction": "none"}, ((2, 3, 4), Integers((2, 4), 3))),
        Example({"reduction": "sum"}, ((4,), Integers((), 4))),
    )

    def __init__(self, weight=None, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__(weight, reduction)
        self.ignore_index = ignore_index

    def reduced(self, input, target, reduction: str):
        return F.nll_loss(input, target, self.weight, self.ignore_index, reduction)

    def denominator(self, target) -> float:
        """Σ weight[y] over the class numbers y that are not `ignore_index`."""
        return _total_weight(target, self.weight, self.ignore_index)


@LOSSES.register
class BCELoss(WeightedLoss):
    """-[y·log x + (1 - y)·log(1 - x)] on probabilities x; `BCEWithLogitsLoss` does the sigmoid as well, and better."""

    task = "multilabel"
    examples = (
        Example({}, (Uniform((4, 3)), Uniform((4, 3)))),
        Example({"weight": (0.5, 2.0, 1.0), "reduction": "sum"}, (Uniform((4, 3)), Uniform((4, 3)))),
    )

    def reduced(self, input, target, reduction: str):
        return F.binary_cross_entropy(input, target, self.weight, reduction)


@LOSSES.register
class BCEWithLogitsLoss(WeightedLoss):
    """-[p·y·log σ(x) + (1 - y)·log(1 - σ(x))] on logits x, p = `pos_weight` (1 by default)."""

    task, threshold = "multilabel", 0.0
    examples = (
        Example({}, ((4, 3), Uniform((4, 3)))),
        Example({"pos_weight": (0.5, 2.0, 1.0)}, ((4, 3), Uniform((4, 3)))),
        Example({"weight": (0.5, 2.0, 1.0), "reduction": "none"}, ((4, 3), Uniform((4, 3)))),
        Example({"reduction": "sum"}, ((2,), Uniform((2,)))),
    )

    def __init__(self, weight=None, reduction: str = "mean", pos_weight=None):
        super().__init__(weight, reduction)
        self.register_buffer("pos_weight", None if pos_weight is None else as_tensor(pos_weight))

    def reduced(self, input, target, reduction: str):
        return F.binary_cross_entropy_with_logits(input, target, self.weight, reduction, self.pos_weight)


@LOSSES.register
class FocalLoss(Loss):
    """-a·(1 - p)^gamma · log p on logits: `F.sigmoid_focal_loss`, averaged by default. (Lin et al., 2017)"""

    task, threshold = "multilabel", 0.0
    examples = (
        Example({}, ((4, 3), Uniform((4, 3)))),
        Example({"alpha": -1.0, "gamma": 1.0, "reduction": "sum"}, ((2, 3), Uniform((2, 3)))),
    )

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.alpha, self.gamma = alpha, gamma

    def reduced(self, input, target, reduction: str):
        return F.sigmoid_focal_loss(input, target, self.alpha, self.gamma, reduction)


@LOSSES.register
class DiceLoss(Loss):
    """1 - (2·Σ p·y + smooth) / (Σ p + Σ y + smooth) of each sample, p = σ(input). (Milletari, Navab and Ahmadi, 2016)"""

    task, threshold = "multilabel", 0.0
    examples = (
        Example({}, ((4, 1, 3, 2), Uniform((4, 1, 3, 2)))),
        Example({"smooth": 0.5, "reduction": "none"}, ((3, 4), Uniform((3, 4)))),
    )

    def __init__(self, smooth: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.smooth = smooth

    def reduced(self, input, target, reduction: str):
        return F.dice_loss(input, target, self.smooth, reduction)

    def denominator(self, target) -> float:
        """What the mean divides the sum by: the samples."""
        return target.shape[0]


def _total_weight(target, weight, ignore_index: int) -> float:
    # On raw arrays: the result is a Python number, and two integer ops cost more than a small step.
    xp, labels = target.backend, target._data
    unsigned = ignore_index < 0 and labels.dtype.kind == "u"
    counts = labels >= 0 if unsigned else labels != ignore_index
    if weight is None:
        return int(xp.count_nonzero(counts))
    return float(xp.where(counts, weight._data[xp.where(counts, labels, 0)], 0.0).sum())


#: The module of each functional loss.
_MODULES = {
    F.mse_loss: MSELoss,
    F.l1_loss: L1Loss,
    F.smooth_l1_loss: SmoothL1Loss,
    F.huber_loss: HuberLoss,
    F.cross_entropy: CrossEntropyLoss,
    F.nll_loss: NLLLoss,
    F.binary_cross_entropy: BCELoss,
    F.binary_cross_entropy_with_logits: BCEWithLogitsLoss,
    F.dice_loss: DiceLoss,
}


def module_of(loss) -> Loss | None:
    """The library's loss module equivalent to `loss`: a module itself, or that of a function or a `partial` with keywords.
    None for user-defined losses, including subclasses that override `forward`."""
    if isinstance(loss, Loss):
        return loss if type(loss).forward is Loss.forward else None
    keywords = {}
    if isinstance(loss, functools.partial) and not loss.args:
        loss, keywords = loss.func, loss.keywords
    try:
        return _MODULES[loss](**keywords)
    except (KeyError, TypeError, DeepcoreError):  # an unknown function, or arguments that the module does not have
        return None
