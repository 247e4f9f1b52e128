"""A loss with what its mean divides by, so that means over batches can be joined."""

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

    A batch's denominator is `loss.denominator(target)`, which every loss of `deepcore.nn` has, its function included;
    for a loss without one it is the number of samples, and so for one with reduction="sum".
    `task`, `threshold` and `ignore_index` are what the loss says about its outputs and targets; None: nothing.
    """

    def __init__(self, loss):
        self.loss = loss
        self.module = module_of(loss)
        self._said = said = loss if self.module is None else self.module
        self._denominator: Any = getattr(said, "denominator", None) if _divides_by_its_own(said) else None
        task = getattr(said, "task", None)
        self.task: str | None = task if task in TASKS else None
        known = self.task is not None or isinstance(said, Loss)
        self.threshold: float | None = getattr(said, "threshold", None) if known else None
        self.ignore_index: int | None = getattr(said, "ignore_index", None)

    @property
    def reduction(self) -> str:
        return getattr(self._said, "reduction", "mean")

    def denominator(self, inputs: tuple, target) -> float:
        if self._denominator is None or self.reduction == "sum":
            return feed.samples_in((inputs, target))
        return float(self._denominator(target))

    def weight(self, inputs: tuple, target, backend: Backend) -> Tensor | None:
        """What `Steps.gradients` needs: a tensor, since a number would be another program for each value."""
        if self.module is not None or self.reduction == "sum":
            return None
        return tensor(self.denominator(inputs, target), dt.float32, backend)


def _divides_by_its_own(loss) -> bool:
    """False where a subclass computes something else than the class whose `denominator` it inherits."""
    definers = [next((c for c in type(loss).__mro__ if n in vars(c)), object) for n in ("denominator", "forward")]
    return issubclass(*definers)


#: What a loss of several outputs or targets may begin with.
_PICKED = {"output": "out[0], y", "target": "out, y[0]"}


def check_tensors(output, target) -> None:
    """The library's losses take one tensor each."""
    for name, value in (("output", output), ("target", target)):
        if not isinstance(value, Tensor):
            held = f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else "")
            raise ArgumentError(
                f"the loss takes one {name} tensor",
                received=held,
                fix=f"a function of (output, target) that picks and adds up, such as lambda out, y: loss({_PICKED[name]})",
            )


def one_number(loss):
    """The loss, once it is one."""
    if getattr(loss, "shape", None) != ():
        raise ShapeError(
            "the loss must be one number",
            expected="shape ()",
            received=str(getattr(loss, "shape", type(loss).__name__)),
            fix="average it: loss.mean()",
        )
    return loss
