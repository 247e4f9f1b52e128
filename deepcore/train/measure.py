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
from deepcore.train.names import FunctionLoss, KerasLoss, aligned


class Measure:
    """A loss as a Trainer weighs it: the sum of the batches' sums, divided by the sum of their denominators.

    A batch's denominator is `loss.denominator(target)`, which every loss of `deepcore.nn` has, also as a function;
    without that method, or with reduction="sum", it is the number of samples.
    `task`, `threshold` and `ignore_index` are those that the loss declares, or None.
    """

    def __init__(self, loss):
        self.loss = loss
        self.module = module_of(loss)
        #: Whether the loss is one for each of several outputs (`OutputLosses`).
        self.several = hasattr(loss, "measures")
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

    def denominators(self, inputs: tuple, target) -> list[float]:
        """The denominator of the loss of each output."""
        losses = self.loss
        return [m.denominator(inputs, losses.select(target, name, "target")) for name, m in losses.measures.items()]

    def scale(self, inputs: tuple, target, weight: Tensor, divided: bool = True) -> Any:
        """The factor of each sample's loss, whose sum is then the loss: weight / denominator, or, not `divided`, weight.

        A tensor, so that it may change from batch to batch; of several outputs a dict.
        """
        if self.several:
            losses = self.loss
            selected = {name: losses.select(target, name, "target") for name in losses.measures}
            return {name: m.scale(inputs, selected[name], weight) for name, m in losses.measures.items()}
        self.check_weighable()
        if not divided or self.reduction == "sum":
            return weight
        count = self.denominator(inputs, target)
        return weight * (1 / count if count else float("nan"))

    def check_weighable(self) -> None:
        """Raise where the loss gives no value for each sample."""
        if self.module is None:
            raise ArgumentError(
                "this loss cannot weigh samples: it is a function that returns one number",
                fix="a loss of deepcore.nn or a name, a function f(y_true, y_pred) of a value for each sample, or a "
                "subclass of Loss with reduced(input, target, reduction)",
            )

    def scaled(self, output, target, scale: Tensor):
        """Σ scale · loss over samples."""
        assert self.module is not None
        each = self.module.reduced(output, target, "none")
        if each.ndim == 0 or each.shape[0] != scale.shape[0]:
            raise ShapeError(
                "sample weights need a value of the loss for each sample",
                expected=f"shape ({scale.shape[0]}, …)",
                received=str(each.shape),
            )
        if each.dtype.itemsize == 2:  # a sum may overflow 16 bits
            each = each.to(dt.float32)
        if scale.ndim > each.ndim:
            raise ShapeError(
                "the sample weights have more dimensions than the loss",
                expected=str(each.shape),
                received=str(scale.shape),
            )
        return (each * scale.reshape((*scale.shape, *(1,) * (each.ndim - scale.ndim)))).sum()

    def target_for(self, output, target):
        """The target as metrics compare it with the output: of the same rank where the loss aligns them."""
        if isinstance(self.module, KerasLoss):
            return self.module.align(output, target)
        return aligned(output, target) if isinstance(self.module, FunctionLoss) else target

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
                fix=("loss=[…] or loss={…}, with one for each output; or " if name == "output" else "")
                + f"a function of (output, target) that picks and adds up, such as lambda out, y: loss({_PICK_EXAMPLES[name]})",
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
