"""Metrics of predicted classes: accuracy, and what a confusion matrix tells. See `deepcore.metrics` for `task`."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError, DTypeError, IndexRangeError, ShapeError
from deepcore.metrics.base import Metric, host, once, ratio, raw, register


def is_whole(dtype) -> bool:
    return dtype.kind in "iub"


#: What `task` may be.
TASKS = ("multiclass", "multilabel")


def _classes(
    output, target, task: str | None, threshold: float, ignore_index: int | None
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """(predicted, true, number of classes if the shapes tell): flat int64 host arrays."""
    xp, out = raw(output)
    xt, want = raw(target)
    classes: int | None = None
    kept: Any = None
    if task == "multilabel":
        predicted, true, kept = _labels(output, target, threshold, ignore_index)
        classes = 2
    elif is_whole(out.dtype) and out.shape == want.shape:
        check_order(host(output), host(target))
        predicted, true = host(output), host(target)
    elif out.shape == want.shape and out.ndim > 1 and (out.shape[1] > 1 or task):
        predicted, true = xp.to_host(xp.argmax(out, axis=1)), xt.to_host(xt.argmax(want, axis=1))
        kept, classes = host(want.any(axis=1)), out.shape[1]
        if not task:
            check_rows(want)
    elif not task and one_column(out.shape, want.shape):
        predicted, true = xp.to_host(out > threshold).reshape(want.shape), _binary(host(target))
        classes = 2
    elif out.ndim > 1 and out.shape[:1] + out.shape[2:] == want.shape:
        if not is_whole(want.dtype):
            raise DTypeError(
                "class indices are whole numbers",
                expected="a target of dtype int64, or one-hot of the output's shape",
                received=str(want.dtype),
                fix="target.long()",
            )
        predicted, true, classes = xp.to_host(xp.argmax(out, axis=1)), host(target), out.shape[1]
    else:
        raise ShapeError(
            "output and target do not fit together as classes",
            expected="output (N, C) with target (N,) or (N, C), or both (N,)",
            received=f"output {tuple(out.shape)}, target {tuple(want.shape)}",
        )
    predicted = np.asarray(predicted).reshape(-1).astype(np.int64, copy=False)
    true = true.reshape(-1).astype(np.int64, copy=False)
    if kept is not None:
        predicted, true = predicted[kept.reshape(-1)], true[kept.reshape(-1)]
    elif ignore_index is not None:
        kept = true != ignore_index
        predicted, true = predicted[kept], true[kept]
    return predicted, true, classes


def one_column(output: tuple, target: tuple) -> bool:
    return output == target or (output[1:2] == (1,) and output[:1] + output[2:] == target)


def check_rows(want) -> None:
    """Refuse rows that are neither one-hot nor probabilities: their columns may be labels of their own."""
    sums = want.astype(np.float32).sum(axis=1)
    if bool((want < 0).any()) or not bool((abs(sums - 1) < 1e-2).all()):
        raise DataError(
            "the rows of the target are neither one-hot nor probabilities",
            expected="one 1 in each row, or a row that sums to 1",
            fix="task='multilabel' where each column is a yes or no of its own",
        )


def check_order(output: np.ndarray, target: np.ndarray) -> None:
    """Refuse class numbers as the output with scores as the target, scikit-learn's order."""
    if not is_whole(output.dtype) or is_whole(target.dtype):
        return
    wrong = target[target != np.floor(target)]
    if wrong.size:
        raise DataError(
            "the output is class numbers and the target is not",
            expected="metric(output, target), as in PyTorch; scikit-learn has the target first",
            received=f"a target of {wrong[0]}",
            fix="exchange the two",
        )


def _labels(output, target, threshold: float, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, true, whether it counts) of each element: host arrays of booleans, in the target's shape."""
    xp, out = raw(output)
    want = host(target)
    if not one_column(out.shape, want.shape):
        raise ShapeError(
            "output and target do not fit together as a yes or no per element",
            expected=f"a target of shape {tuple(out.shape)}",
            received=str(tuple(want.shape)),
        )
    check_order(host(output), want)
    kept = np.ones(want.shape, bool) if ignore_index is None else want != ignore_index
    wrong = want[kept & ~((want >= 0) & (want <= 1))]
    if wrong.size:
        raise DataError(
            "a target of yes or no is 0 or 1, or between them",
            received=f"the value {wrong[0]}",
            fix="class numbers beyond two need a loss such as CrossEntropyLoss, and an output per class",
        )
    return np.asarray(xp.to_host(out > threshold)).reshape(want.shape), want > 0.5, kept


def _binary(true: np.ndarray) -> np.ndarray:
    wrong = true[(true != 0) & (true != 1)]
    if wrong.size:
        raise DataError(
            "a target of two classes is 0 or 1",
            received=f"the value {wrong.reshape(-1)[0]}",
            fix="classes beyond two need an output (N, C); for a regression use mean_absolute_error or r2, "
            'as in Trainer(…, metrics=("r2",))',
        )
    return true


class Classification(Metric):
    """`task`, `threshold` and `ignore_index` that are None follow the loss of the Trainer."""

    def __init__(self, task: str | None, threshold: float | None, ignore_index: int | None, name: str | None):
        if task is not None and task not in TASKS:
            raise ArgumentError(
                "task is 'multiclass' (one of C classes), 'multilabel' (a yes or no per element, so also for two "
                "classes in one column) or None",
                received=repr(task),
            )
        self.task, self.threshold, self.ignore_index = task, 0.0 if threshold is None else threshold, ignore_index
        #: What the loss decides.
        self._open = tuple(
            name
            for name, value in (("task", task), ("threshold", threshold), ("ignore_index", ignore_index))
            if value is None
        )
        super().__init__(name)

    def follow(self, loss) -> None:
        for name in self._open:
            setattr(self, name, getattr(loss, name))
        if self.threshold is None:
            self.threshold = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().state_dict().items() if name != "_open"}


class _Share(Classification):
    """The share of samples that are right."""

    mode = "max"

    def reset(self) -> None:
        self.hits = self.count = 0

    def compute(self) -> float:
        return ratio(self.hits, self.count)


@register("accuracy")
class Accuracy(_Share):
    """The share of samples whose predicted class is the true one; targets equal to `ignore_index` do not count.

    Of several yes-or-no labels each counts for itself.
    """

    def __init__(
        self,
        threshold: float | None = None,
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
    ):
        super().__init__(task, threshold, ignore_index, name)

    def update(self, output, target) -> None:
        predicted, true, _ = _classes(output, target, self.task, self.threshold, self.ignore_index)
        self.hits += int(np.count_nonzero(predicted == true))
        self.count += true.size


@register("top_k_accuracy")
class TopKAccuracy(_Share):
    """The share of samples whose true class is among the `k` (5) largest outputs. Of equal ones the first is larger."""

    def __init__(self, k: int = 5, ignore_index: int | None = None, name: str | None = None):
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ArgumentError("k is a whole number of at least 1", received=f"k={k!r}")
        self.k = k
        super().__init__("multiclass", None, ignore_index, name)

    def follow(self, loss) -> None:
        if loss.task == "multilabel":
            raise ArgumentError(
                "top_k_accuracy needs one true class per sample, and the loss takes a yes or no per output",
                fix='metrics=("accuracy",)',
            )
        super().follow(loss)

    def update(self, output, target) -> None:
        scores = host(output)
        if scores.ndim < 2:
            raise ShapeError("top-k accuracy needs an output (N, C)", received=str(scores.shape))
        classes = scores.shape[1]
        if self.k > classes:
            raise ArgumentError(f"k={self.k} is more than the {classes} classes", fix=f"TopKAccuracy(k={classes})")
        rows = host(target)
        if rows.shape == scores.shape:  # one-hot, or probabilities
            rows = np.moveaxis(rows, 1, -1).reshape(-1, classes)
            kept: Any = rows.any(axis=1)
            true: Any = rows.argmax(axis=1)
        else:
            _, true, _ = _classes(scores, target, self.task, 0.0, None)
            kept = None if self.ignore_index is None else true != self.ignore_index
        scores = np.moveaxis(scores, 1, -1).reshape(-1, classes)
        if kept is not None:
            scores, true = scores[kept], true[kept]
        check_range(true, classes)
        own = np.take_along_axis(scores, true[:, None], axis=1)
        before = np.arange(classes) < true[:, None]
        # "Not at most" instead of "greater": a NaN is never a hit.
        rank = np.count_nonzero(~(scores <= own) | ((scores == own) & before), axis=1)
        self.hits += int(np.count_nonzero(rank < self.k))
        self.count += true.size


def check_range(labels: np.ndarray, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise IndexRangeError(
            f"class {outside[0]} is out of range",
            expected=f"0 to {classes - 1}",
            fix="number the classes from 0; ignore_index= leaves a marker such as -100 out",
        )


class ConfusionMatrix(Classification):
    """M[i, j]: samples of true class i that were predicted as class j; n×n int64.

    `classes` is n; by default it is the width of the output, or as many as occur. Of L > 1 yes-or-no labels: L×2×2, a
    matrix for each.
    """

    def __init__(
        self,
        classes: int | None = None,
        threshold: float | None = None,
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
    ):
        self.classes = classes
        super().__init__(task, threshold, ignore_index, name)

    def reset(self) -> None:
        self.matrix = np.zeros((self.classes or 0,) * 2, dtype=np.int64)

    def update(self, output, target) -> None:
        shape = raw(target)[1].shape
        if self.task == "multilabel" and len(shape) > 1 and shape[1] > 1:
            self._update_labels(output, target)
            return
        predicted, true, width = _classes(output, target, self.task, self.threshold, self.ignore_index)
        n = self.classes or width
        if n is None:
            n = max(int(predicted.max(initial=-1)), int(true.max(initial=-1))) + 1
        n = max(n, len(self.matrix)) if self.classes is None else n
        check_range(true, n)
        check_range(predicted, n)
        if n > len(self.matrix):
            self.matrix = np.pad(self.matrix, (0, n - len(self.matrix)))
        self.matrix += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)

    def _update_labels(self, output, target) -> None:
        predicted, true, kept = _labels(output, target, self.threshold, self.ignore_index)
        n = true.shape[1]
        if self.matrix.shape != (n, 2, 2):
            self.matrix = np.zeros((n, 2, 2), dtype=np.int64)
        label = np.arange(n).reshape((-1,) + (1,) * (true.ndim - 2))
        cells = (label * 4 + true * 2 + predicted)[kept]
        self.matrix += np.bincount(cells, minlength=4 * n).reshape(n, 2, 2)

    def compute(self) -> Any:
        return self.matrix.copy()


class _PerClass(ConfusionMatrix):
    mode = "max"

    def __init__(
        self,
        average: str | None = "macro",
        classes: int | None = None,
        threshold: float | None = None,
        ignore_index: int | None = None,
        name: str | None = None,
        task: str | None = None,
    ):
        if average not in ("macro", None):
            raise ArgumentError("average is 'macro' or None (one value per class)", received=repr(average))
        self.average = average
        super().__init__(classes, threshold, ignore_index, name, task)

    def compute(self) -> Any:
        matrix = self.matrix
        if matrix.ndim == 3:  # of each label the yes
            right, true, predicted = matrix[:, 1, 1], matrix[:, 1].sum(axis=1), matrix[:, :, 1].sum(axis=1)
        else:
            right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        right = right.astype(np.float64)
        whole = self.denominator(true, predicted, right)
        values = np.divide(right, whole, out=np.zeros_like(right), where=whole > 0)
        if self.average is None:
            return values
        present = (true + predicted) > 0
        return float(values[present].mean()) if present.any() else float("nan")

    @staticmethod
    def denominator(true, predicted, right):
        """What the right ones of each class are divided by."""
        raise NotImplementedError


@register("precision")
class Precision(_PerClass):
    """Per class c: right / predicted as c, 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted, right):
        return predicted


@register("recall")
class Recall(_PerClass):
    """Per class c: right / truly c, 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted, right):
        return true


@register("f1")
class F1(_PerClass):
    """Per class: 2·precision·recall / (precision + recall), 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted, right):
        return (true + predicted) / 2


@register("dice")
class Dice(F1):
    """Per class c: 2·|true ∩ predicted| / (|true| + |predicted|) over all pixels or samples, which is F1.

    "macro": the mean over classes that occur, as in segmentation; 0 where a class is 0/0.
    """


@register("jaccard_index")
class JaccardIndex(_PerClass):
    """Per class c: |true ∩ predicted| / |true ∪ predicted| (IoU), 0 where that is 0/0; "macro": the mean over classes
    that occur (mIoU)."""

    @staticmethod
    def denominator(true, predicted, right):
        return true + predicted - right


# -- functions ------------------------------------------------------------------------------------------
def accuracy(output, target, threshold: float = 0.0, ignore_index: int | None = None, task: str | None = None) -> float:
    """The share of samples whose predicted class is the true one. For probabilities of two classes: threshold=0.5."""
    return once(Accuracy(threshold, ignore_index, task=task), output, target)


def top_k_accuracy(output, target, k: int = 5, ignore_index: int | None = None) -> float:
    """The share of samples whose true class is among the `k` largest of output (N, C)."""
    return once(TopKAccuracy(k, ignore_index), output, target)


def confusion_matrix(
    output,
    target,
    classes: int | None = None,
    threshold: float = 0.0,
    ignore_index: int | None = None,
    task: str | None = None,
) -> np.ndarray:
    """M[i, j]: samples of true class i predicted as class j; n×n int64 on the host."""
    return once(ConfusionMatrix(classes, threshold, ignore_index, task=task), output, target)


def precision(
    output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None
):
    """Right / predicted, per class (average=None: an array) or their mean over classes that occur."""
    return once(Precision(average, classes, threshold, task=task), output, target)


def recall(
    output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None
):
    """Right / true, per class (average=None: an array) or their mean over classes that occur."""
    return once(Recall(average, classes, threshold, task=task), output, target)


def f1(output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None):
    """2·precision·recall / (precision + recall), per class (average=None) or their mean over classes that occur."""
    return once(F1(average, classes, threshold, task=task), output, target)


def dice(output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None):
    """2·|true ∩ predicted| / (|true| + |predicted|), per class (average=None) or their mean over classes that occur."""
    return once(Dice(average, classes, threshold, task=task), output, target)


def jaccard_index(
    output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None
):
    """|true ∩ predicted| / |true ∪ predicted|, per class (average=None) or their mean over classes that occur."""
    return once(JaccardIndex(average, classes, threshold, task=task), output, target)
