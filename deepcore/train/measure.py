"""A loss with the denominator of its mean, so that means over batches can be combined."""

from __future__ import annotations

from typing import Any

from deepcore.backend import Backend
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, ShapeError
from deepcore.metrics import TASKS
from deepcore.nn.modules.loss import Loss, module_of
from deepcore.tensor import Tensor, tensor
from deepcore.train import feed


class Measure:
    """A loss as a Trainer weighs it: the sum of the batches' sums, divided by the sum of their denominators.

    A batch's denominator is `loss.denominator(target)`, which every loss of `deepcore.nn` has, also as a function;
    without that method, or with reduction="sum", it is the number of samples.
    `task`, `threshold` and `ignore_index` are those that the loss declares, or None.
    """

    def __init__(self, loss):
        self.loss = loss
        self.module = module_of(loss)
        self._spec = spec = loss if self.module is None else self.module
        self._denominator: Any = getattr(spec, "denominator", None) if _owns_denominator(spec) else None
        task = getattr(spec, "task", None)
        self.task: str | None = task if task in TASKS else None
        has_threshold = self.task is not None or isinstance(spec, Loss)
        self.threshold: float | None = getattr(spec, "threshold", None) if has_threshold else None
        self.ignore_index: int | None = getattr(spec, "ignore_index", None)

    @property
    def reduction(self) -> str:
        return getattr(self._spec, "reduction", "mean")

    def denominator(self, inputs: tuple, target) -> float:
        if self._denominator is None or self.reduction == "sum":
            return feed.samples_in((inputs, target))
        return float(self._denominator(target))

    def weight(self, inputs: tuple, target, backend: Backend) -> Tensor | None:
        """The weight for `Steps.gradients`, as a tensor: each value of a number would need its own program."""
        if self.module is not None or self.reduction == "sum":
            return None
        return tensor(self.denominator(inputs, target), dt.float32, backend)


def _owns_denominator(loss) -> bool:
    """Whether `denominator` belongs to the class's `forward`: False where a subclass overrides `forward` alone."""
    definers = [next((c for c in type(loss).__mro__ if n in vars(c)), object) for n in ("denominator", "forward")]
    return issubclass(*definers)


#: Arguments in the example of a loss of several outputs or targets.
_PICK_EXAMPLES = {"output": "out[0], y", "target": "out, y[0]"}


def check_tensors(output, target) -> None:
    """Raise unless output and target are single tensors, as the library's losses need."""
    for name, value in (("output", output), ("target", target)):
        if not isinstance(value, Tensor):
            received = f"a {type(value).__name__}" + (
                f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
            )
            raise ArgumentError(
                f"the loss takes one {name} tensor",
                received=received,
                fix=f"a function of (output, target) that picks and adds up, such as lambda out, y: loss({_PICK_EXAMPLES[name]})",
            )


def check_scalar(loss):
    """The loss; raises unless it is a single number."""
    if getattr(loss, "shape", None) != ():
        raise ShapeError(
            "the loss must be one number",
            expected="shape ()",
            received=str(getattr(loss, "shape", type(loss).__name__)),
            fix="average it: loss.mean()",
        )
    return loss
