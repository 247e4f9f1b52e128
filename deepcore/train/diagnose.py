"""Diagnosis of non-finite losses and gradients, and a warning for a non-finite validation loss."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING

from deepcore.autograd.modes import anomalies
from deepcore.backend import dtypes as dt
from deepcore.errors import NonFiniteError
from deepcore.nn.notify import warn_user
from deepcore.tensor import Tensor
from deepcore.train import feed
from deepcore.train.history import format_value
from deepcore.train.step import Refused

if TYPE_CHECKING:
    from deepcore.train.trainer import Trainer

#: The default ignore_index of PyTorch's losses.
_IGNORED = -100
#: Ops whose result is infinite or NaN where an operand is 0; others overflow.
_SINGULAR = ("true_divide", "reciprocal", "rsqrt", "pow", "log", "sqrt")
_SLOPE = "add a small number where a slope is infinite or 0/0 though the value is not (sqrt or a norm at 0, log near 0)"


def non_finite(
    trainer: Trainer, refused: Refused, location: str, last_loss: float | None, inputs, target
) -> NonFiniteError:
    """The error with the likely cause: the labels, the data, an earlier update, or an op of this step."""
    stop = "; callbacks=[TerminateOnNaN()] ends the run without an error"
    lr_advice = f"a lower learning rate (lr={trainer.lr / 10:.3g})"
    if trainer.clip_grad_norm is None:
        lr_advice += ", or clip_grad_norm=1.0"
    tensors = chain(trainer.model.named_parameters(), trainer.model.named_buffers())
    broken = [name for name, t in tensors if not _finite(t)]
    labels = None if refused.gradients else _labels(trainer._measure.module or trainer.loss, target)
    if labels is not None:
        cause, fix = labels
        stop = ""
    elif not all(_finite(tensor) for tensor in feed.leaves((inputs, target))):
        cause, fix = "the batch itself holds NaN or infinity", "clean the data: numpy.isfinite(x) finds it"
    elif broken:
        shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        cause = f"NaN or infinity in {shown}"
        cause, fix = (
            (cause + ", from an earlier update", lr_advice) if trainer.step else (cause, "load or initialize it anew")
        )
    else:
        cause = "parameters and data are finite"
        origin = _origin(trainer, refused, inputs, target)
        if origin is not None:
            cause += f"; {origin}"
        if refused.gradients:
            overflow = "overflows" in refused.gradients
            if trainer.accumulate > 1 and origin is None and not overflow:
                cause = "the last batch of the group is not the cause"
            singular = origin is None or origin.startswith(_SINGULAR)
            fix = _SLOPE if singular and not overflow else f"scale the inputs or the loss down, or {lr_advice}"
        elif not trainer.step:  # before the first update
            fix = "look at the inputs of that op" if origin else "look at the loss"
        else:
            fix = (
                lr_advice
                if origin is None
                else f"look at the inputs of that op; if they grew from step to step: {lr_advice}"
            )
        if origin is None and "overflows" not in refused.gradients:
            fix += "; where it begins: run the step under dc.autograd.detect_anomaly()"
    last = "none before it" if last_loss is None else f"the last one was {format_value('loss', last_loss)}"
    loss = "a finite loss" if refused.gradients else f"loss {refused.loss} ({last})"
    return NonFiniteError(
        f"{refused.problem} at {location}",
        expected="finite gradients" if refused.gradients else "a finite loss",
        received=", ".join(filter(None, (refused.gradients, f"{loss}, lr {trainer.lr:.3g}; {cause}"))),
        fix=fix + stop,
    )


def validation(trainer: Trainer, loss: float) -> bool:
    """Whether the loss of a validation is finite; warns where it is not, with the likely cause."""
    finite = math.isfinite(loss)
    if not finite:
        broken = [name for name, tensor in trainer.model.state_dict().items() if not _finite(tensor)]
        cause = f"NaN or infinity in {', '.join(broken[:3])}" if broken else "parameters and buffers are finite"
        advice = "" if broken else "; look for NaN in the validation data: numpy.isfinite(x) finds it"
        warn_user(f"val_loss is {loss} after epoch {trainer.epoch + 1}: {cause}{advice}")
    return finite


def _labels(loss, target) -> tuple[str, str] | None:
    """(cause, fix) where no label of the batch counts, so that the mean is 0/0."""
    labels = [t for t in feed.leaves(target) if not dt.is_floating(t.dtype)]
    if not feed.samples_in((target,)):
        return "the batch is empty, and the mean over it 0/0", "leave empty batches out"
    if not labels or getattr(loss, "reduction", "mean") == "sum":
        return None
    ignored = getattr(loss, "ignore_index", _IGNORED)
    counts = [t.backend.to_host(t._data) != ignored for t in labels]
    if not any(c.any() for c in counts):
        return (
            f"every label of the batch is ignore_index ({ignored}), and the mean over the others 0/0",
            "leave samples without a label out, or make batches larger",
        )
    weight = getattr(loss, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 1 and len(labels) == 1:
        (t,), (counted,) = labels, counts
        classes = t.backend.to_host(t._data)[counted]
        if not weight.backend.to_host(weight._data)[classes].any():
            return (
                "the class weight of every label of the batch is 0, and the mean by weight 0/0",
                "give these classes a weight above 0, or make batches larger",
            )
    return None


def _origin(trainer: Trainer, refused: Refused, inputs, target) -> str | None:
    """The op of the first NaN or infinity, found by running the step again; all state is restored."""
    steps = trainer._steps
    snapshot, leaves = trainer._undo.snapshot(), [*trainer.model.parameters(), *(p for _, p in trainer._named)]
    gradients = [(p, p.grad) for p in leaves]
    try:
        for p in leaves:
            p.grad = None
        with anomalies(forward=not refused.gradients, infinite=bool(refused.gradients) or math.isinf(refused.loss)):
            steps.loss_of(inputs, target).backward()
    except NonFiniteError as error:
        module_path = error.module_path()
        return error.problem + (f", in {module_path}" if module_path else "")
    except Exception:  # the user sees the error of the original step
        return None
    finally:
        snapshot.restore()
        for p, gradient in gradients:
            p.grad = gradient
    return None


def _finite(tensor) -> bool:
    return not dt.is_floating(tensor.dtype) or bool(tensor.backend.isfinite(tensor._data).all().item())
