"""Metrics of predicted probabilities: perplexity and calibration."""

from __future__ import annotations

import math

import numpy as np

from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.metrics.base import Metric, host, once, register
from deepcore.metrics.classification import Classification, check_range, is_whole
from deepcore.metrics.ranking import are_probabilities, columns, softmax


@register("perplexity")
class Perplexity(Metric):
    """exp(mean of -log p(target)) over all tokens that are not `ignore_index`; logits or log-probabilities.

    Output (N, C, *) with target (N, *), as for cross-entropy, or (N, *, C), as language models return it.
    """

    mode = "min"

    def __init__(self, ignore_index: int | None = None, name: str | None = None):
        self.ignore_index = ignore_index
        self._open = ignore_index is None
        super().__init__(name)

    def follow(self, loss) -> None:
        if loss.task == "multilabel":
            raise ArgumentError(
                "perplexity needs one true class per sample, and the loss takes a yes or no per output",
                fix='metrics=("accuracy",)',
            )
        if self._open:
            self.ignore_index = loss.ignore_index

    def state_dict(self) -> dict:
        return {name: value for name, value in super().state_dict().items() if name != "_open"}

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, output, target) -> None:
        logits, true = host(output), host(target)
        if logits.ndim > 1 and logits.shape[:1] + logits.shape[2:] == true.shape:
            logits = np.moveaxis(logits, 1, -1)
        elif logits.ndim < 2 or logits.shape[:-1] != true.shape:
            raise ShapeError(
                "output and target do not fit together as tokens",
                expected="output (N, C, *) or (N, *, C) with target (N, *)",
                received=f"output {logits.shape}, target {true.shape}",
            )
        if not is_whole(true.dtype):
            raise DTypeError("class indices are whole numbers", received=str(true.dtype), fix="target.long()")
        logits, true = logits.reshape(-1, logits.shape[-1]), true.reshape(-1)
        if self.ignore_index is not None:
            kept = true != self.ignore_index
            logits, true = logits[kept], true[kept]
        check_range(true, logits.shape[1])
        for begin in range(0, len(true), 4096):  # float64 for some rows at a time, to bound memory
            rows = logits[begin : begin + 4096].astype(np.float64)
            most = rows.max(axis=1)
            own = np.take_along_axis(rows, true[begin : begin + 4096, None].astype(np.int64), 1)[:, 0]
            self.total += float((np.log(np.exp(rows - most[:, None]).sum(axis=1)) + most - own).sum())
        self.count += true.size

    def compute(self) -> float:
        if not self.count:
            return float("nan")
        mean = self.total / self.count
        return math.exp(mean) if mean < 709 else math.inf


@register("calibration_error")
class CalibrationError(Classification):
    """Σ_b |B_b|/N · |accuracy(B_b) - confidence(B_b)| over `n_bins` (15) bins of equal width ("l1": ECE).

    "l2": √Σ_b |B_b|/N·(…)²; "max": the largest difference. The confidence is the largest probability of several classes,
    and its accuracy whether that class is the true one; of a yes or no, the probability of yes and whether it is so.
    from_logits: whether outputs need a softmax (a sigmoid) first; None: what the loss of a Trainer says, and elsewhere
    unless all are probabilities. A confidence on an edge is in the bin below. Source: Guo et al., 2017.
    """

    mode = "min"

    def __init__(
        self,
        n_bins: int = 15,
        norm: str = "l1",
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
        from_logits: bool | None = None,
    ):
        if isinstance(n_bins, bool) or not isinstance(n_bins, int) or n_bins < 1:
            raise ArgumentError("n_bins is a whole number of at least 1", received=f"{n_bins=}")
        if norm not in ("l1", "l2", "max"):
            raise ArgumentError("norm is 'l1', 'l2' or 'max'", received=repr(norm))
        self.n_bins, self.norm, self.from_logits = n_bins, norm, from_logits
        super().__init__(task, None, ignore_index, name)

    def follow(self, loss) -> None:
        super().follow(loss)
        if self.from_logits is None and loss.task is not None:
            self.from_logits = loss.task == "multiclass" or not loss.threshold

    def reset(self) -> None:
        #: Outputs as they are, and after softmax or sigmoid: per bin how many, their confidences, the right ones.
        self.bins = np.zeros((2, 3, self.n_bins))
        self.plain = True

    def update(self, output, target) -> None:
        scores, true, task = columns(output, target, self.task, self.ignore_index)
        self.plain = self.plain and are_probabilities(scores, task)
        with np.errstate(over="ignore"):
            sure = softmax(scores) if task == "multiclass" else 1 / (1 + np.exp(-scores))
        for i, values in enumerate((scores, sure)):
            if task == "multiclass":
                confidence, right = values.max(axis=1, initial=0.0), values.argmax(axis=1) == true
            else:
                confidence, right = values[true >= 0], true[true >= 0] == 1
            inside = np.clip(np.nan_to_num(confidence), 0.0, 1.0)
            bins = np.clip(np.ceil(inside * self.n_bins).astype(int) - 1, 0, self.n_bins - 1)
            for row, weights in zip(self.bins[i], (None, inside, right)):
                row += np.bincount(bins, weights, self.n_bins)

    def compute(self) -> float:
        logits = self.from_logits if self.from_logits is not None else not self.plain
        count, confidence, right = self.bins[int(logits)]
        total = count.sum()
        if not total:
            return float("nan")
        gaps = np.abs(right - confidence) / np.maximum(count, 1)
        if self.norm == "max":
            return float(gaps.max())
        share = count / total
        return float((share * gaps).sum() if self.norm == "l1" else np.sqrt((share * gaps**2).sum()))


# -- functions ------------------------------------------------------------------------------------------
def perplexity(output, target, ignore_index: int | None = None) -> float:
    """exp(mean of -log p(target)) over the tokens of output (N, C, *) or (N, *, C)."""
    return once(Perplexity(ignore_index), output, target)


def calibration_error(output, target, n_bins: int = 15, norm: str = "l1", task: str | None = None) -> float:
    """Σ_b |B_b|/N · |accuracy(B_b) - confidence(B_b)| over bins of confidence; see `CalibrationError`."""
    return once(CalibrationError(n_bins, norm, task=task), output, target)
