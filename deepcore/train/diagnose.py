"""Why a loss is not finite, and a warning where one of validation is not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from deepcore.backend import dtypes as dt
from deepcore.errors import NonFiniteError
from deepcore.nn.notify import warn_user
from deepcore.train import feed
from deepcore.train.history import format_value

if TYPE_CHECKING:
    from deepcore.train.trainer import Trainer


def non_finite(trainer: Trainer, problem: str, value: float, last_loss: float | None, batch) -> NonFiniteError:
    """The error with the likely cause: the data, an earlier update, or this step."""
    broken = [name for name, p in trainer.model.named_parameters() if not _finite(p)]
    calm = f"a lower learning rate (lr={trainer.lr / 10:.3g})"
    if trainer.clip_grad_norm is None:
        calm += ", or clip_grad_norm=1.0"
    if not all(_finite(tensor) for tensor in feed.leaves(batch)):
        cause, fix = "the batch itself holds NaN or infinity", "clean the data: numpy.isfinite(x) finds it"
    elif broken:
        shown = ", ".join(broken[:3]) + (", …" if len(broken) > 3 else "")
        cause, fix = f"NaN or infinity in {shown}, from an earlier update", calm
    else:
        cause = "parameters and data are finite"
        fix = f"{calm}; where it begins: run the step under dc.autograd.detect_anomaly()"
    last = "none before it" if last_loss is None else f"the last one was {format_value('loss', last_loss)}"
    return NonFiniteError(
        problem,
        expected="a finite loss",
        received=f"loss {value} ({last}), lr {trainer.lr:.3g}; {cause}",
        fix=fix + "; callbacks=[TerminateOnNaN()] ends the run without an error",
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


def _finite(tensor) -> bool:
    return not dt.is_floating(tensor.dtype) or bool(tensor.backend.isfinite(tensor._data).all().item())
