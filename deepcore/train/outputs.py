"""Models of several outputs: a loss and metrics for each."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from deepcore import metrics as metrics_
from deepcore import nn
from deepcore.errors import ArgumentError, DataError, suggest
from deepcore.tensor import Tensor
from deepcore.train import names as names_
from deepcore.train.measure import Measure


class OutputLosses(nn.Module):
    """Σ wᵢ · lossᵢ(outputᵢ, targetᵢ) over the outputs of a model that returns a tuple, a list or a dict.

    losses: a list, one for each output, or a dict by names of outputs; None, or no entry: the output has no loss.
    weights: the wᵢ, given as the losses are (1).
    Outputs are named by the model's `output_names` (`dc.Model` has them), by the keys of the losses, or output_1, ….
    """

    def __init__(self, losses, weights, model):
        super().__init__()
        declared = getattr(model, "output_names", None)
        if isinstance(losses, Mapping):
            self.names = list(losses) if declared is None else list(declared)
        else:
            self.names = list(declared or [f"output_{i + 1}" for i in range(len(losses))])
            if len(self.names) != len(losses):
                raise ArgumentError(
                    "there is a loss for each output",
                    expected=f"{len(self.names)}: {', '.join(self.names)}",
                    received=f"{len(losses)} losses",
                    fix="None for an output without a loss",
                )
        #: Whether the places of names in a tuple are known.
        self.ordered = declared is not None or not isinstance(losses, Mapping)
        by_name = self._by_name("loss", losses)
        chosen = {name: names_.loss_of(loss) for name, loss in by_name.items() if loss is not None}
        if not chosen:
            raise ArgumentError("no output has a loss", received=repr(losses))
        for name, loss in chosen.items():
            if not callable(loss) or isinstance(loss, type):
                raise ArgumentError(
                    f"the loss of output {name!r} is a function of (output, target)",
                    received=repr(loss),
                    fix="a name, or nn.CrossEntropyLoss()",
                )
        self.losses = chosen
        self.modules_ = nn.ModuleList([loss for loss in chosen.values() if isinstance(loss, nn.Module)])
        given = {} if weights is None else self._by_name("loss_weights", weights)
        self.weights = {name: float(given.get(name, 1.0)) for name in chosen}
        self.measures = {name: Measure(loss) for name, loss in chosen.items()}

    def _by_name(self, argument: str, value) -> dict[str, Any]:
        if isinstance(value, Mapping):
            for name in value:
                if name not in self.names:
                    raise ArgumentError(f"{argument}: there is no output {name!r}", fix=suggest(str(name), self.names))
            return dict(value)
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or len(value) != len(self.names):
            raise ArgumentError(
                f"{argument} is a list with an entry for each output, or a dict by their names",
                expected=f"{len(self.names)} entries: {', '.join(self.names)}",
                received=repr(value),
            )
        return dict(zip(self.names, value, strict=True))

    def select(self, value, name: str, kind: str = "output"):
        """The part of a tuple, list or dict of outputs, or of targets, for the output `name`."""
        if isinstance(value, Mapping):
            if name in value:
                return value[name]
            raise DataError(f"there is no {kind} {name!r}", received=f"a dict with {', '.join(map(repr, value))}")
        if isinstance(value, (tuple, list)) and self.ordered and len(value) == len(self.names):
            return value[self.names.index(name)]
        if len(self.names) == 1 and isinstance(value, Tensor):
            return value
        size = f" of {len(value)}" if hasattr(value, "__len__") and not isinstance(value, Tensor) else ""
        raise DataError(
            f"there are losses for the outputs {', '.join(self.names)}, which the {kind}s do not fit",
            expected=f"a dict by these names{', or a tuple in this order' if self.ordered else ''}",
            received=f"a {type(value).__name__}{size}",
        )

    def parts(self, output, target, scales: Mapping[str, Any] | None = None) -> list:
        """The loss of each output; with `scales`, weighed sample by sample as `Steps` does."""
        parts = []
        for name, measure in self.measures.items():
            out, want = self.select(output, name), self.select(target, name, "target")
            scale = None if scales is None else scales[name]
            parts.append(measure.loss(out, want) if scale is None else measure.scaled(out, want, scale))
        return parts

    def total(self, parts: list):
        """The weighted sum of the losses of all outputs."""
        terms = [part * self.weights[name] for name, part in zip(self.losses, parts, strict=True)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def forward(self, output, target):
        return self.total(self.parts(output, target))

    def denominator(self, target) -> float:
        """The samples, by which several batches of one update are weighed."""
        while not isinstance(target, Tensor):
            target = next(iter(target.values() if isinstance(target, Mapping) else target))
        return target.shape[0]


class OutputMetric(metrics_.Metric):
    """A metric of one output, whose log is named after both: `title_accuracy`."""

    def __init__(self, losses: OutputLosses, output: str, metric: metrics_.Metric):
        self.losses, self.output, self.metric = losses, output, metric
        self.mode = metric.mode
        super().__init__(f"{output}_{metric.name}")
        if output in losses.measures:
            metric.follow(losses.measures[output])

    def reset(self) -> None:
        self.metric.reset()

    def update(self, output, target) -> None:
        out, want = self.losses.select(output, self.output), self.losses.select(target, self.output, "target")
        measure = self.losses.measures.get(self.output)
        self.metric.update(out, want if measure is None else measure.target_for(out, want))

    def compute(self):
        return self.metric.compute()

    def state_dict(self) -> dict[str, Any]:
        return self.metric.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metric.load_state_dict(state)

    def __deepcopy__(self, memo):
        return OutputMetric(self.losses, self.output, copy.deepcopy(self.metric, memo))


def metrics_of(losses: OutputLosses, metrics) -> list[metrics_.Metric]:
    """Metrics for each output: a dict by names of outputs, or a list with an entry (one, or a list) for each output."""
    if metrics is None:
        metrics = {name: "accuracy" for name, measure in losses.measures.items() if measure.task is not None}
    if isinstance(metrics, (str, metrics_.Metric)):
        metrics = (metrics,)
    metrics = list(metrics) if not isinstance(metrics, Mapping) else metrics
    if not isinstance(metrics, Mapping) and not metrics:
        return []
    resolved: list[metrics_.Metric] = []
    for name, chosen in losses._by_name("metrics", metrics).items():
        for metric in chosen if isinstance(chosen, (list, tuple)) else [chosen]:
            if metric is not None:
                resolved.append(OutputMetric(losses, name, names_.metric_of(metric)))
    return resolved
