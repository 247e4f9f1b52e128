"""Metrics of scores over all thresholds: ROC-AUC, average precision, the precision-recall curve."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError, DTypeError, ShapeError
from deepcore.metrics.base import host, once, register
from deepcore.metrics.classification import (
    Classification,
    check_order,
    check_range,
    check_rows,
    is_whole,
    one_column,
)

AVERAGES = ("macro", "weighted", None)
#: A target that does not count.
_IGNORED = -1


def columns(output, target, task: str | None, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray, str]:
    """(scores (M, L) float64, targets, task) on the host; targets are class numbers (M,) of "multiclass", and of
    "multilabel" 0, 1 or -1, which does not count, (M, L)."""
    scores, want = host(output), host(target)
    if task != "multiclass" and (scores.ndim == 1 or one_column(scores.shape, want.shape)):
        several = scores.shape == want.shape and scores.ndim > 1 and scores.shape[1] > 1
        if task == "multilabel" or not several:
            return _labels(scores, want, ignore_index)
    if scores.ndim < 2:
        raise ShapeError(
            "output and target do not fit together as scores of classes",
            expected="output (N, C) with target (N,) or (N, C), or both (N,)",
            received=f"output {scores.shape}, target {want.shape}",
        )
    classes = scores.shape[1]
    rows = np.moveaxis(scores, 1, -1).reshape(-1, classes).astype(np.float64)
    if want.shape == scores.shape:
        if task is None:
            check_rows(want)
        wide = np.moveaxis(want, 1, -1).reshape(-1, classes)
        kept = wide.any(axis=1)
        true = wide.argmax(axis=1)
    elif scores.shape[:1] + scores.shape[2:] == want.shape:
        if not is_whole(want.dtype):
            raise DTypeError(
                "class indices are whole numbers",
                expected="a target of dtype int64, or one-hot of the output's shape",
                received=str(want.dtype),
                fix="target.long()",
            )
        true = want.reshape(-1)
        kept = np.ones(true.shape, bool) if ignore_index is None else true != ignore_index
    else:
        raise ShapeError(
            "output and target do not fit together as scores of classes",
            expected="output (N, C) with target (N,) or (N, C), or both (N,)",
            received=f"output {scores.shape}, target {want.shape}",
        )
    rows, true = rows[kept], true[kept].astype(np.int64)
    check_range(true, classes)
    return rows, true, "multiclass"


def _labels(scores: np.ndarray, want: np.ndarray, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray, str]:
    if not one_column(scores.shape, want.shape):
        raise ShapeError(
            "output and target do not fit together as a yes or no per element",
            expected=f"a target of shape {tuple(scores.shape)}",
            received=str(tuple(want.shape)),
        )
    check_order(scores, want)
    kept = np.ones(want.shape, bool) if ignore_index is None else want != ignore_index
    wrong = want[kept & ~((want >= 0) & (want <= 1))]
    if wrong.size:
        raise DataError(
            "a target of yes or no is 0 or 1, or between them", received=f"the value {wrong.reshape(-1)[0]}"
        )
    yes = np.where(kept, want > 0.5, _IGNORED).astype(np.int8)
    width = scores.shape[1] if scores.ndim > 1 else 1
    scores = scores.reshape(yes.shape) if width == 1 else scores
    if width == 1:
        return scores.reshape(-1, 1).astype(np.float64), yes.reshape(-1, 1), "multilabel"
    shaped = (np.moveaxis(a, 1, -1).reshape(-1, width) for a in (scores, yes))
    rows, labels = shaped
    return rows.astype(np.float64), labels, "multilabel"


def are_probabilities(scores: np.ndarray, task: str) -> bool:
    """Whether scores look like probabilities: within [0, 1], and of "multiclass" with rows that sum to 1."""
    within = bool(((scores >= 0) & (scores <= 1)).all())
    return within and (task == "multilabel" or bool((abs(scores.sum(axis=1) - 1) < 1e-3).all()))


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


class _Scores(Classification):
    """Keeps all scores and targets; what `compute` says of each class is `of_column`."""

    mode = "max"

    def __init__(
        self,
        average: str | None = "macro",
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
        from_logits: bool | None = None,
    ):
        if average not in AVERAGES:
            raise ArgumentError("average is 'macro', 'weighted' or None (one value per class)", received=repr(average))
        self.average, self.from_logits = average, from_logits
        super().__init__(task, None, ignore_index, name)

    def reset(self) -> None:
        self.scores: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self.kind = ""

    def update(self, output, target) -> None:
        scores, target, kind = columns(output, target, self.task, self.ignore_index)
        if self.scores and (kind != self.kind or scores.shape[1] != self.scores[0].shape[1]):
            raise ShapeError(
                f"the batches of {self.name} differ in their columns",
                expected=f"{self.scores[0].shape[1]} columns, {self.kind}",
                received=f"{scores.shape[1]}, {kind}",
                fix=f"task={self.kind!r}, or reset() between datasets",
            )
        self.kind = kind
        self.scores.append(scores)
        self.targets.append(target)

    def _problems(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(scores, yes or no) of each class or label."""
        scores, target = np.concatenate(self.scores), np.concatenate(self.targets)
        if self.kind == "multilabel":
            kept = target != _IGNORED
            return [(scores[kept[:, i], i], target[kept[:, i], i] == 1) for i in range(scores.shape[1])]
        logits = self.from_logits
        if (not are_probabilities(scores, self.kind)) if logits is None else logits:
            scores = softmax(scores)
        return [(scores[:, i], target == i) for i in range(scores.shape[1])]

    def compute(self) -> Any:
        if not self.scores:
            return float("nan")
        problems = self._problems()
        values = np.array([self.of_column(scores, yes) for scores, yes in problems])
        if len(values) == 1:
            return float(values[0])
        if self.average is None:
            return values
        defined = ~np.isnan(values)
        if not defined.any():
            return float("nan")
        weights = np.array([yes.sum() for _, yes in problems], float) if self.average == "weighted" else None
        return float(np.average(values[defined], weights=None if weights is None else weights[defined]))

    @staticmethod
    def of_column(scores: np.ndarray, yes: np.ndarray) -> float:
        raise NotImplementedError


@register("roc_auc")
class ROCAUC(_Scores):
    """P(score of a positive > score of a negative) + ½ P(equal): the area under the ROC curve.

    Of several classes each against the others, on probabilities, and their mean ("macro", or "weighted" by how often
    each is true); NaN for a class, which the mean leaves out, where positives or negatives are missing.
    from_logits: whether multiclass outputs need a softmax first; None: unless all rows are probabilities.
    All scores are kept until `reset`.
    """

    @staticmethod
    def of_column(scores: np.ndarray, yes: np.ndarray) -> float:
        positives = int(np.count_nonzero(yes))
        negatives = yes.size - positives
        if not positives or not negatives or np.isnan(scores).any():
            return float("nan")
        _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        rank = last - (counts - 1) / 2  # the mean rank of equal scores
        return float((rank[group][yes].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _precision_recall(scores: np.ndarray, yes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(precision, recall, threshold) at each distinct score, the largest first."""
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(yes[order])
    last = np.append(np.flatnonzero(np.diff(scores)), scores.size - 1) if scores.size else np.empty(0, int)
    hits = hits[last]
    total = hits[-1] if hits.size else 0
    recall = hits / total if total else np.full(hits.shape, np.nan)
    return hits / (last + 1), recall, scores[last]


@register("average_precision")
class AveragePrecision(_Scores):
    """Σₙ (Rₙ - Rₙ₋₁)·Pₙ over the distinct thresholds, precision P and recall R, without interpolation.

    Of several classes each against the others, and their mean ("macro" or "weighted"); NaN for a class without
    positives, which the mean leaves out. All scores are kept until `reset`.
    """

    @staticmethod
    def of_column(scores: np.ndarray, yes: np.ndarray) -> float:
        if np.isnan(scores).any():
            return float("nan")
        precision, recall, _ = _precision_recall(scores, yes)
        return float((np.diff(recall, prepend=0.0) * precision).sum()) if recall.size else float("nan")


class PrecisionRecallCurve(_Scores):
    """(precision, recall, thresholds) for each distinct score t, ascending: of "score ≥ t".

    Ends with precision 1 and recall 0, which have no threshold. Of several classes, a list of these, one for each.
    """

    def __init__(
        self,
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
        from_logits: bool | None = None,
    ):
        super().__init__(None, ignore_index, name, task, from_logits)

    def compute(self) -> Any:
        if not self.scores:
            return np.ones(1), np.zeros(1), np.empty(0)
        curves = []
        for scores, yes in self._problems():
            precision, recall, thresholds = _precision_recall(scores, yes)
            curves.append((np.append(precision[::-1], 1.0), np.append(recall[::-1], 0.0), thresholds[::-1].copy()))
        return curves[0] if len(curves) == 1 else curves


# -- functions ------------------------------------------------------------------------------------------
def roc_auc(output, target, average: str | None = "macro", task: str | None = None, from_logits: bool | None = None):
    """The area under the ROC curve, of several classes each against the others (average=None: an array)."""
    return once(ROCAUC(average, None, task=task, from_logits=from_logits), output, target)


def average_precision(
    output, target, average: str | None = "macro", task: str | None = None, from_logits: bool | None = None
):
    """Σₙ (Rₙ - Rₙ₋₁)·Pₙ, of several classes each against the others (average=None: an array)."""
    return once(AveragePrecision(average, None, task=task, from_logits=from_logits), output, target)


def precision_recall_curve(output, target, task: str | None = None):
    """(precision, recall, thresholds), or of several classes a list of them."""
    return once(PrecisionRecallCurve(task=task), output, target)
