"""Metrics: functions of (output, target), and the streaming objects that `Trainer(metrics=…)` names.

Every metric of classification reads classes by `task`:

    "multiclass"   output (N, C, *): the class is the largest of C; target (N, *) class numbers, or (N, C, *), whose class
                   is the largest of C, too: one-hot rows or probabilities (rows of zeros do not count)
    "multilabel"   output and target of one shape, (N, L, *), or (N,) and (N, 1): each element is a yes or no of its own,
                   yes where output > `threshold`; target 0 or 1, or between them (yes above 0.5)
    None           in a Trainer what the loss says. Elsewhere the shapes decide: "multiclass" with several columns, yes or
                   no (target 0 or 1) with one; whole numbers of one shape are classes already

`threshold` is 0 for logits and 0.5 for probabilities; None: what the loss says, and 0 elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from deepcore.backend import backend_of, get_backend
from deepcore.errors import ArgumentError, DataError, DTypeError, IndexRangeError, ShapeError, printable
from deepcore.nn.registry import Registry
from deepcore.tensor import Tensor, unmasked

#: Name → class: what `Trainer(metrics=("accuracy", …))` may ask for.
METRICS = Registry("metric")


def _raw(value) -> tuple[Any, Any]:
    """The backend and raw array of a tensor, an array or a list."""
    if isinstance(value, Tensor):
        return value.backend, value._data
    value = unmasked(value)
    backend = backend_of(value)
    if isinstance(value, Mapping) or (isinstance(value, (tuple, list)) and any(map(_is_part, value))):
        raise ArgumentError(
            "a metric takes one output and one target",
            received=f"a {type(value).__name__} of {len(value)}",
            fix="metrics=(), or a Metric whose update(output, target) gives one part of each to another's: "
            "super().update(output[0], target[0])",
        )
    if backend is None or not hasattr(value, "dtype"):
        return get_backend("cpu"), np.asarray(value)
    return backend, value


def _is_part(item) -> bool:
    """Whether a tuple or list with this in it is several outputs, and not numbers."""
    return isinstance(item, (Tensor, Mapping)) or bool(getattr(item, "ndim", 0))


def _host(value) -> np.ndarray:
    xp, raw = _raw(value)
    return np.asarray(xp.to_host(raw))


def _whole(dtype) -> bool:
    return dtype.kind in "iub"


#: What `task` may be.
TASKS = ("multiclass", "multilabel")


def _classes(
    output, target, task: str | None, threshold: float, ignore_index: int | None
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """(predicted, true, number of classes if the shapes tell): flat int64 host arrays."""
    xp, out = _raw(output)
    xt, want = _raw(target)
    classes: int | None = None
    kept: Any = None
    if task == "multilabel":
        predicted, true, kept = _labels(output, target, threshold, ignore_index)
        classes = 2
    elif _whole(out.dtype) and out.shape == want.shape:
        predicted, true = _host(output), _host(target)
    elif out.shape == want.shape and out.ndim > 1 and (out.shape[1] > 1 or task):
        predicted, true = xp.to_host(xp.argmax(out, axis=1)), xt.to_host(xt.argmax(want, axis=1))
        kept, classes = _host(want.any(axis=1)), out.shape[1]
        if not task:
            _check_rows(want)
    elif not task and _one_column(out.shape, want.shape):
        predicted, true = xp.to_host(out > threshold).reshape(want.shape), _binary(_host(target))
        classes = 2
    elif out.ndim > 1 and out.shape[:1] + out.shape[2:] == want.shape:
        if not _whole(want.dtype):
            raise DTypeError(
                "class indices are whole numbers",
                expected="a target of dtype int64, or one-hot of the output's shape",
                received=str(want.dtype),
                fix="target.long()",
            )
        predicted, true, classes = xp.to_host(xp.argmax(out, axis=1)), _host(target), out.shape[1]
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


def _one_column(output: tuple, target: tuple) -> bool:
    return output == target or (output[1:2] == (1,) and output[:1] + output[2:] == target)


def _check_rows(want) -> None:
    """Refuse rows that are neither one-hot nor probabilities: their columns may be labels of their own."""
    sums = want.astype(np.float32).sum(axis=1)
    if bool((want < 0).any()) or not bool((abs(sums - 1) < 1e-2).all()):
        raise DataError(
            "the rows of the target are neither one-hot nor probabilities",
            expected="one 1 in each row, or a row that sums to 1",
            fix="task='multilabel' where each column is a yes or no of its own",
        )


def _labels(output, target, threshold: float, ignore_index: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(predicted, true, whether it counts) of each element: host arrays of booleans, in the target's shape."""
    xp, out = _raw(output)
    want = _host(target)
    if not _one_column(out.shape, want.shape):
        raise ShapeError(
            "output and target do not fit together as a yes or no per element",
            expected=f"a target of shape {tuple(out.shape)}",
            received=str(tuple(want.shape)),
        )
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


# -- streaming ----------------------------------------------------------------------------------------
class Metric:
    """A number over a whole dataset, batch by batch: a subclass defines `reset`, `update` and `compute`.

    `name` is what logs call it (default: the class name in snake case). `mode` is "max" where larger is better,
    "min" where smaller is, None where `EarlyStopping` and the like must be told. What is kept between updates are
    attributes: numbers, arrays, tensors, and lists and dicts of them, so that a checkpoint can hold them.

    >>> class WithinOne(Metric):
    ...     mode = "max"
    ...     def reset(self):
    ...         self.hits = self.count = 0
    ...     def update(self, output, target):
    ...         self.hits += int(((output - target).abs() <= 1).sum().item())
    ...         self.count += target.numel()
    ...     def compute(self):
    ...         return self.hits / self.count
    """

    name: str = "metric"
    mode: str | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, name: str | None = None):
        if name is not None:
            self.name = name
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        raise NotImplementedError(f"{type(self).__name__} must define reset()")

    def update(self, output, target) -> None:
        """Take in a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define update(output, target)")

    def compute(self):
        """The value over everything since `reset`; NaN when that is nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define compute()")

    def follow(self, loss) -> None:
        """Called by a Trainer, whose loss says what outputs and targets are by `task`, `threshold`, `ignore_index`."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the attributes."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def _register(name: str) -> Callable[[type], type]:
    def register(cls: type) -> type:
        cls.name = name  # type: ignore[attr-defined]
        METRICS[name] = cls
        return cls

    return register


def get(metric) -> Metric:
    """A metric from its registered name, or as it is. `ConfigError` for an unknown name, with the nearest one."""
    if isinstance(metric, str):
        return METRICS[metric]()
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not isinstance(metric, Metric):
        raise ArgumentError(
            "a metric is a name or a Metric",
            expected="one of " + ", ".join(sorted(METRICS)) + ", or an object of a subclass of Metric",
            received=repr(metric),
            fix=f"{METRICS.get(getattr(metric, '__name__', ''), Metric).__name__}()",
        )
    return metric


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


class _Classification(Metric):
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


class _Share(_Classification):
    """The share of samples that are right."""

    mode = "max"

    def reset(self) -> None:
        self.hits = self.count = 0

    def compute(self) -> float:
        return _ratio(self.hits, self.count)


@_register("accuracy")
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


@_register("top_k_accuracy")
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
        scores = _host(output)
        if scores.ndim < 2:
            raise ShapeError("top-k accuracy needs an output (N, C)", received=str(scores.shape))
        classes = scores.shape[1]
        if self.k > classes:
            raise ArgumentError(f"k={self.k} is more than the {classes} classes", fix=f"TopKAccuracy(k={classes})")
        rows = _host(target)
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
        _check_range(true, classes)
        own = np.take_along_axis(scores, true[:, None], axis=1)
        before = np.arange(classes) < true[:, None]
        # "Not at most" instead of "greater": a NaN is never a hit.
        rank = np.count_nonzero(~(scores <= own) | ((scores == own) & before), axis=1)
        self.hits += int(np.count_nonzero(rank < self.k))
        self.count += true.size


def _check_range(labels: np.ndarray, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if outside.size:
        raise IndexRangeError(
            f"class {outside[0]} is out of range",
            expected=f"0 to {classes - 1}",
            fix="number the classes from 0; ignore_index= leaves a marker such as -100 out",
        )


class ConfusionMatrix(_Classification):
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
        shape = _raw(target)[1].shape
        if self.task == "multilabel" and len(shape) > 1 and shape[1] > 1:
            self._update_labels(output, target)
            return
        predicted, true, width = _classes(output, target, self.task, self.threshold, self.ignore_index)
        n = self.classes or width
        if n is None:
            n = max(int(predicted.max(initial=-1)), int(true.max(initial=-1))) + 1
        n = max(n, len(self.matrix)) if self.classes is None else n
        _check_range(true, n)
        _check_range(predicted, n)
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
        whole = self.denominator(true, predicted)
        values = np.divide(right, whole, out=np.zeros_like(right), where=whole > 0)
        if self.average is None:
            return values
        present = (true + predicted) > 0
        return float(values[present].mean()) if present.any() else float("nan")

    @staticmethod
    def denominator(true, predicted):
        """What the right ones of each class are divided by."""
        raise NotImplementedError


@_register("precision")
class Precision(_PerClass):
    """Per class c: right / predicted as c, 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted):
        return predicted


@_register("recall")
class Recall(_PerClass):
    """Per class c: right / truly c, 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted):
        return true


@_register("f1")
class F1(_PerClass):
    """Per class: 2·precision·recall / (precision + recall), 0 where that is 0/0; "macro": the mean over classes that occur."""

    @staticmethod
    def denominator(true, predicted):
        return (true + predicted) / 2


def _errors(output, target) -> tuple[Any, Any, Any]:
    """The backend, output - target in float64, and the target; both of one shape."""
    xp, out = _raw(output)
    xt, want = _raw(target)
    if out.shape != want.shape:
        fix = "output.squeeze(1)" if out.shape == (*want.shape, 1) else None
        raise ShapeError(
            "output and target must have the same shape",
            expected=str(tuple(want.shape)),
            received=str(tuple(out.shape)),
            fix=fix,
        )
    if xp is not xt:
        xp, out, want = get_backend("cpu"), xp.to_host(out), xt.to_host(want)
    want = want.astype(np.float64)
    return xp, out.astype(np.float64) - want, want


class _MeanError(Metric):
    mode = "min"

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def compute(self) -> float:
        return _ratio(self.total, self.count)


@_register("mean_absolute_error")
class MeanAbsoluteError(_MeanError):
    """mean |output - target| over all elements."""

    def update(self, output, target) -> None:
        xp, difference, _ = _errors(output, target)
        self.total += float(xp.sum(xp.abs(difference)).item())
        self.count += int(difference.size)


@_register("mean_squared_error")
class MeanSquaredError(_MeanError):
    """mean (output - target)² over all elements."""

    def update(self, output, target) -> None:
        xp, difference, _ = _errors(output, target)
        self.total += float(xp.sum(xp.square(difference)).item())
        self.count += int(difference.size)


@_register("r2")
class R2(Metric):
    """1 - Σ(target - output)² / Σ(target - mean)², per output, averaged over outputs.

    A constant target gives 1 where it is met exactly and 0 elsewhere; fewer than two samples give NaN.
    Sums are merged as in Chan, Golub and LeVeque (1983): batches change the result by rounding only.
    """

    mode = "max"

    def reset(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.spread: Any = 0.0
        self.residual: Any = 0.0

    def update(self, output, target) -> None:
        xp, difference, want = _errors(output, target)
        difference, want = (np.asarray(xp.to_host(a)) for a in (difference, want))
        n = want.shape[0] if want.ndim else 1
        if not n:
            return
        difference, want = difference.reshape(n, -1), want.reshape(n, -1)
        mean = want.mean(axis=0)
        shift, total = mean - self.mean, self.count + n
        self.spread = self.spread + np.square(want - mean).sum(axis=0) + np.square(shift) * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.residual = self.residual + np.square(difference).sum(axis=0)
        self.count = total

    def compute(self) -> float:
        if self.count < 2:
            return float("nan")
        constant = self.spread == 0
        ratio = self.residual / np.where(constant, 1.0, self.spread)
        return float(np.where(constant, self.residual == 0, 1.0 - ratio).mean())


# -- functions ------------------------------------------------------------------------------------------
def _once(metric: Metric, output, target):
    metric.update(output, target)
    return metric.compute()


def accuracy(output, target, threshold: float = 0.0, ignore_index: int | None = None, task: str | None = None) -> float:
    """The share of samples whose predicted class is the true one. For probabilities of two classes: threshold=0.5."""
    return _once(Accuracy(threshold, ignore_index, task=task), output, target)


def top_k_accuracy(output, target, k: int = 5, ignore_index: int | None = None) -> float:
    """The share of samples whose true class is among the `k` largest of output (N, C)."""
    return _once(TopKAccuracy(k, ignore_index), output, target)


def confusion_matrix(
    output,
    target,
    classes: int | None = None,
    threshold: float = 0.0,
    ignore_index: int | None = None,
    task: str | None = None,
) -> np.ndarray:
    """M[i, j]: samples of true class i predicted as class j; n×n int64 on the host."""
    return _once(ConfusionMatrix(classes, threshold, ignore_index, task=task), output, target)


def precision(
    output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None
):
    """Right / predicted, per class (average=None: an array) or their mean over classes that occur."""
    return _once(Precision(average, classes, threshold, task=task), output, target)


def recall(
    output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None
):
    """Right / true, per class (average=None: an array) or their mean over classes that occur."""
    return _once(Recall(average, classes, threshold, task=task), output, target)


def f1(output, target, average: str | None = "macro", classes=None, threshold: float = 0.0, task: str | None = None):
    """2·precision·recall / (precision + recall), per class (average=None) or their mean over classes that occur."""
    return _once(F1(average, classes, threshold, task=task), output, target)


def mean_absolute_error(output, target) -> float:
    """mean |output - target|."""
    return _once(MeanAbsoluteError(), output, target)


def mean_squared_error(output, target) -> float:
    """mean (output - target)²."""
    return _once(MeanSquaredError(), output, target)


def r2(output, target) -> float:
    """1 - Σ(target - output)² / Σ(target - mean)², averaged over outputs."""
    return _once(R2(), output, target)


# -- for the terminal -------------------------------------------------------------------------------------
def check_matrix(matrix, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """The matrix as a square array, and a name for each of its classes."""
    array = _host(matrix)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise ShapeError("a confusion matrix is square", received=str(array.shape))
    names = [str(i) for i in range(len(array))] if classes is None else [printable(name) for name in classes]
    if len(names) != len(array):
        raise ArgumentError(f"{len(names)} names for {len(array)} classes", fix=f"classes=names[:{len(array)}]")
    return array, names


def format_confusion_matrix(matrix, classes: Sequence[str] | None = None) -> str:
    """The matrix as text: true classes down, predicted ones across, precision and recall at the edges.

    Columns stand two spaces apart, or one where the lines would be wider than 80.
    """
    array, names = check_matrix(matrix, classes)
    right, true, predicted = (a.tolist() for a in (np.diag(array), array.sum(axis=1), array.sum(axis=0)))
    body = [[str(count) if count else "." for count in row] for row in array.tolist()]
    bottom = [_percent(r, p) for r, p in zip(right, predicted, strict=True)]
    widths = [max(map(len, column)) for column in zip(names, bottom, *body, strict=True)]
    head = max(map(len, ["precision %", *names]))
    gap = 2 if head + sum(widths) + 2 * len(widths) + 13 <= 80 else 1

    def line(first: str, cells: list[str], last: str) -> str:
        padded = "".join(" " * gap + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"{first.rjust(head)} |{padded} |{last.rjust(9)}"

    rule = "-" * (head + 1) + "+" + "-" * (sum(widths) + gap * len(widths) + 1) + "+" + "-" * 9
    return "\n".join(
        [
            " " * head + " |  predicted",
            line("true", names, "recall %"),
            rule,
            *(line(n, cells, _percent(r, t)) for n, cells, r, t in zip(names, body, right, true, strict=True)),
            rule,
            line("precision %", bottom, _percent(sum(right), sum(true))),
        ]
    )


def _percent(part: int, whole: int) -> str:
    return "-" if not whole else "100" if part == whole else f"{100 * part / whole:.1f}"
