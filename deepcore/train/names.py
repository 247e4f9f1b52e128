"""Losses, optimizers and metrics by name, and functions of Keras's form `f(y_true, y_pred)`.

A name that Keras has means what it means in Keras: `"sparse_categorical_crossentropy"` is a loss of probabilities, and
`"sgd"` has Keras's learning rate. deepcore's own names, such as `"CrossEntropyLoss"`, `"cross_entropy"` (of logits) and
`"RAdam"`, mean its classes and functions, with their defaults.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore import metrics as metrics_
from deepcore import nn, optim
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ConfigError, ShapeError, suggest
from deepcore.nn import functional as F
from deepcore.nn.functional.loss import ProbabilityCheck
from deepcore.nn.modules.loss import _MODULES, Loss
from deepcore.nn.notify import warn_user
from deepcore.tensor import Tensor, as_tensor

#: Keras's epsilon: probabilities are at least this far from 0 and 1.
EPSILON = 1e-7


# -- losses --------------------------------------------------------------------------------------------------
class _Formula(NamedTuple):
    """A loss of Keras: `function(output, target)` gives a value for each element, or, with `rows`, for each row."""

    function: Callable
    rows: bool = False
    task: str | None = None
    probabilities: bool = False


def _clipped(p):
    return p.clamp(EPSILON, 1 - EPSILON)


def _log_classes(p):
    """log of the probabilities of classes, dimension 1, which are made to sum to 1."""
    return _clipped(p / p.sum(1, keepdim=True)).log()


def _signs(y):
    """Targets of a hinge loss: 0 and 1 become -1 and 1, and -1 stays."""
    return (y <= 0).to(y.dtype) * -2 + 1


def _categorical_hinge(p, y):
    negative = ((1 - y) * p).amax(-1)
    return (negative - (y * p).sum(-1) + 1).relu()


def _cosine(p, y):
    return -(F.normalize(p, dim=-1) * F.normalize(y, dim=-1)).sum(-1)


def _log_cosh(p, y):
    return F.softplus((p - y) * -2) + (p - y) - 0.6931471805599453


def _squared_log(p, y):
    return (p.clamp(min=EPSILON).log1p() - y.clamp(min=EPSILON).log1p()).square()


_BY_NAME: dict[str, _Formula] = {
    "mean_squared_error": _Formula(lambda p, y: (p - y).square()),
    "mean_absolute_error": _Formula(lambda p, y: (p - y).abs()),
    "mean_absolute_percentage_error": _Formula(lambda p, y: (p - y).abs() / y.abs().clamp(min=EPSILON) * 100),
    "mean_squared_logarithmic_error": _Formula(_squared_log),
    "huber": _Formula(lambda p, y: F.huber_loss(p, y, "none")),
    "log_cosh": _Formula(_log_cosh),
    "poisson": _Formula(lambda p, y: p - y * (p + EPSILON).log()),
    "hinge": _Formula(lambda p, y: (1 - _signs(y) * p).relu()),
    "squared_hinge": _Formula(lambda p, y: (1 - _signs(y) * p).relu().square()),
    "categorical_hinge": _Formula(_categorical_hinge, rows=True),
    "cosine_similarity": _Formula(_cosine, rows=True),
    "kl_divergence": _Formula(lambda p, y: (_clipped(y) * (_clipped(y) / _clipped(p)).log()).sum(-1), rows=True),
    "binary_crossentropy": _Formula(
        lambda p, y: F.binary_cross_entropy(_clipped(p), y, reduction="none"), task="multilabel", probabilities=True
    ),
    "categorical_crossentropy": _Formula(
        lambda p, y: -(y * _log_classes(p)).sum(1), rows=True, task="multiclass", probabilities=True
    ),
    "sparse_categorical_crossentropy": _Formula(
        lambda p, y: F.nll_loss(_log_classes(p), y, reduction="none"), task="multiclass", probabilities=True
    ),
}
_SHORT = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "logcosh": "log_cosh",
    "kld": "kl_divergence",
    "kullback_leibler_divergence": "kl_divergence",
    "bce": "binary_crossentropy",
    "huber_loss": "huber",
}
_LOGITS = {
    "binary_crossentropy": "binary_cross_entropy_with_logits",
    "categorical_crossentropy": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
}


class _Probabilities(ProbabilityCheck):
    """Raises where the first outputs are no probabilities."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def check(self, input: Tensor, dim: int) -> None:
        self.calls_left -= 1
        raw = input._data  # untraced: the values decide about an error only
        if raw.size and dt.is_floating(raw.dtype) and (raw.min().item() < 0 or raw.max().item() > 1.001):
            raise ArgumentError(
                f"{self.name!r} is a loss of probabilities, as in Keras, and the model's outputs are none",
                received=f"outputs from {raw.min().item():.3g} to {raw.max().item():.3g}",
                fix=f"loss={_LOGITS[self.name]!r}, which takes logits; or a Softmax or Sigmoid at the model's end",
            )
        if raw.ndim > 1 and raw.shape[1] == 1 and raw.shape[0] > 1 and raw.min().item() == raw.max().item() == 1:
            self.calls_left = 0
            warn_user(
                f"{self.name}: every output is exactly 1, as a Softmax over a single output gives, and nothing is learned: "
                "a Sigmoid at the model's end, or an output for each class"
            )


def aligned(output, target):
    """`target` of the output's rank and, for values, dtype: (N,) for (N, 1) and the other way round, as in Keras."""
    if not isinstance(output, Tensor) or not isinstance(target, Tensor):
        return target
    if output.shape == (*target.shape, 1):
        return target.unsqueeze(-1)
    if target.shape == (*output.shape, 1):
        return target.squeeze(-1)
    return target


def _unequal(name: str, input: Tensor, target: Tensor) -> ShapeError:
    if name == "sparse_categorical_crossentropy":
        return ShapeError(
            f"{name}: targets are class numbers, without the outputs' class dimension",
            expected=f"targets of shape {(input.shape[0], *input.shape[2:])}",
            received=f"shape {tuple(target.shape)}",
            fix="loss='categorical_crossentropy', which takes one-hot rows; or target.argmax(1)",
        )
    if name == "categorical_crossentropy":
        fix = "loss='sparse_categorical_crossentropy', which takes class numbers; or one-hot rows as targets"
    elif name == "binary_crossentropy" and target.ndim < input.ndim and input.shape[1] > 1:
        fix = "one output for yes or no; or loss='sparse_categorical_crossentropy' for class numbers"
    else:
        fix = "targets of the outputs' shape"
    return ShapeError(
        f"{name}: outputs and targets have different shapes, and a loss does not broadcast",
        expected=f"targets of shape {tuple(input.shape)}",
        received=f"shape {tuple(target.shape)}",
        fix=fix,
    )


class KerasLoss(Loss):
    """A loss by Keras's name: a mean over elements, or over rows; targets (N,) fit outputs (N, 1), and the reverse."""

    threshold = 0.5

    def __init__(self, name: str, reduction: str = "mean"):
        super().__init__(reduction)
        name = _SHORT.get(name, name)
        self.name, formula = name, _BY_NAME[name]
        self.function, self.rows, self.task = formula.function, formula.rows, formula.task
        self._check = _Probabilities(name) if formula.probabilities else None
        self.sparse = name.startswith("sparse")

    def align(self, output, target):
        """`target` as the loss compares it: class numbers (N, 1) as (N,), and values of the output's rank."""
        if not self.sparse:
            return aligned(output, target)
        return target.squeeze(1) if target.shape == (output.shape[0], 1, *output.shape[2:]) else target

    def reduced(self, input, target, reduction: str):
        if self.sparse:
            if target.shape == input.shape:
                raise _unequal(self.name, input, target)
            target = self.align(input, target).long()
        else:
            target = self.align(input, target)
            target = target if target.dtype == input.dtype else target.to(input.dtype)
            if target.shape != input.shape:  # else it would broadcast
                raise _unequal(self.name, input, target)
        if self._check is not None and self._check.calls_left > 0:
            self._check.check(input, 1)
        each = self.function(input, target)
        return each if reduction == "none" else each.sum() if reduction == "sum" else each.mean()

    def denominator(self, target) -> float:
        """The elements of the target, or its rows."""
        if not self.rows:
            return target.numel()
        return target.numel() // max(target.shape[1 if self.task else -1], 1)

    def extra_repr(self) -> str:
        return repr(self.name)


class FunctionLoss(Loss):
    """`f(y_true, y_pred)`, a loss of Keras's form: one number, or a value for each sample, whose mean is taken."""

    def __init__(self, function: Callable, reduction: str = "mean"):
        super().__init__(reduction)
        self.function = function

    def reduced(self, input, target, reduction: str):
        each = self.function(y_true=target, y_pred=input)
        if reduction == "mean":
            return each.mean() if each.ndim else each
        if not each.ndim:
            if reduction == "none":
                raise ArgumentError(
                    "sample weights need a value of the loss for each sample",
                    received=f"one number from {getattr(self.function, '__name__', 'the function')}",
                    fix="leave out the mean over samples: it is taken afterwards",
                )
            return each * self.denominator(target)
        scaled = each.sum() / (each.numel() // each.shape[0]) if each.ndim > 1 else each.sum()
        return each if reduction == "none" else scaled

    def denominator(self, target) -> float:
        """The samples."""
        while not isinstance(target, Tensor):
            target = next(iter(target.values() if isinstance(target, dict) else target))
        return target.shape[0]


def _has_keras_names(function) -> bool:
    """Whether a function's parameters are named y_true and y_pred."""
    try:
        return {"y_true", "y_pred"} <= inspect.signature(function).parameters.keys()
    except (TypeError, ValueError):
        return False


def loss_of(loss) -> Any:
    """A loss from its name, from a function of Keras's form, or as it is."""
    if isinstance(loss, str):
        key = loss.lower()
        if _SHORT.get(key, key) in _BY_NAME:
            return KerasLoss(key)
        functions = {function.__name__: module for function, module in _MODULES.items()}
        names = {**{name.lower(): cls for name, cls in nn.LOSSES.items()}, **functions}
        if key in names:
            return names[key]()
        choices = [*_BY_NAME, *_SHORT, *functions, *nn.LOSSES]
        raise ConfigError(f"there is no loss named {loss!r}", fix=suggest(loss, choices))
    if callable(loss) and not isinstance(loss, (type, nn.Module)) and _has_keras_names(loss):
        return FunctionLoss(loss)
    return loss


# -- optimizers ----------------------------------------------------------------------------------------------
#: Keras's defaults where they are not PyTorch's.
_KERAS_DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01},
    "RMSprop": {"lr": 0.001, "alpha": 0.9, "eps": EPSILON},
    "Adam": {"eps": EPSILON},
    "AdamW": {"weight_decay": 0.004, "eps": EPSILON},
    "Adamax": {"lr": 0.001, "eps": EPSILON},
    "NAdam": {"lr": 0.001, "eps": EPSILON},
    "Adagrad": {"lr": 0.001, "initial_accumulator_value": 0.1, "eps": EPSILON},
    "Adadelta": {"lr": 0.001, "rho": 0.95, "eps": EPSILON},
}


def optimizer_of(name: str) -> Callable[[Any], optim.Optimizer]:
    """The optimizer of this name, in any case, as a function of parameters, with Keras's settings where Keras has it."""
    by_name = {key.lower(): key for key in optim.OPTIMIZERS}
    if name.lower() not in by_name:
        raise ConfigError(f"there is no optimizer named {name!r}", fix=suggest(name.lower(), by_name))
    cls = by_name[name.lower()]
    return lambda parameters: optim.OPTIMIZERS[cls](parameters, **_KERAS_DEFAULTS.get(cls, {}))


# -- metrics -------------------------------------------------------------------------------------------------
#: Keras's names of metrics that deepcore names otherwise.
_METRIC_NAMES = {
    "acc": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "binary_accuracy": "accuracy",
    "top_k_categorical_accuracy": "top_k_accuracy",
    "sparse_top_k_categorical_accuracy": "top_k_accuracy",
    "mae": "mean_absolute_error",
    "mse": "mean_squared_error",
    "r2_score": "r2",
    "f1_score": "f1",
    "auc": "roc_auc",
    "AUC": "roc_auc",
}
#: Names of a first parameter that is the model's output, against Keras's order.
_OUTPUTS = ("y_pred", "output", "outputs", "out", "pred", "preds", "prediction", "predictions", "logits", "input")


class FunctionMetric(metrics_.Metric):
    """The mean of `f(y_true, y_pred)` over all samples: a number for a batch, or a value for each sample."""

    def __init__(self, function: Callable, name: str | None = None, mode: str | None = None):
        self.function, self.mode = function, mode
        super().__init__(name or getattr(function, "__name__", "metric").strip("<>"))

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, output, target) -> None:
        value = as_tensor(self.function(target, output))
        samples = output.shape[0] if isinstance(output, Tensor) and output.ndim else 1
        self.total += float(value.float().mean().item()) * samples
        self.count += samples

    def compute(self) -> float:
        return self.total / self.count if self.count else float("nan")

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "count": self.count}


class _Root(metrics_.Metric):
    """√ of another metric."""

    mode = "min"

    def __init__(self, name: str):
        self.squared = metrics_.MeanSquaredError()
        super().__init__(name)

    def reset(self) -> None:
        self.squared.reset()

    def update(self, output, target) -> None:
        self.squared.update(output, target)

    def compute(self) -> float:
        return self.squared.compute() ** 0.5

    def state_dict(self) -> dict[str, Any]:
        return self.squared.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.squared.load_state_dict(state)


def _call_by_name(function: Callable, y_true, y_pred):
    return function(y_true=y_true, y_pred=y_pred)


def metric_of(metric) -> metrics_.Metric:
    """A metric from its name, which its log keeps, from a function `f(y_true, y_pred)`, or as it is.

    deepcore's own functions of (output, target), as `dc.metrics.accuracy`, are not of that form: they are named instead.
    """
    if isinstance(metric, str) and metric not in metrics_.METRICS:
        if metric in _METRIC_NAMES:
            return metrics_.METRICS[_METRIC_NAMES[metric]](name=metric)
        if metric in ("root_mean_squared_error", "rmse"):
            return _Root(metric)
        if _SHORT.get(metric, metric) in _BY_NAME:
            loss = KerasLoss(metric)
            return FunctionMetric(lambda y_true, y_pred: loss(y_pred, y_true), metric, "min")
        raise ConfigError(
            f"there is no metric named {metric!r}",
            fix=suggest(metric, [*metrics_.METRICS, *_METRIC_NAMES, *_BY_NAME, *_SHORT]),
        )
    if inspect.isroutine(metric) and not (metric.__module__ or "").startswith("deepcore."):
        if _has_keras_names(metric):
            named = functools.partial(_call_by_name, metric)
            return FunctionMetric(named, metric.__name__.strip("<>"))
        names = list(inspect.signature(metric).parameters)
        if names and names[0] in _OUTPUTS:
            raise ArgumentError(
                "a metric function is called as f(y_true, y_pred), with the target first",
                received=f"{metric.__name__}({', '.join(names)})",
                fix=f"lambda y_true, y_pred: {metric.__name__}(y_pred, y_true), or a Metric, whose update takes "
                "(output, target)",
            )
        return FunctionMetric(metric)
    return metrics_.get(metric)
