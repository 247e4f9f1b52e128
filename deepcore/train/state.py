"""The state of a run: its progress, the logs of the current epoch, and training modes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deepcore.errors import ArgumentError

if TYPE_CHECKING:
    from deepcore.nn import Module
    from deepcore.train.trainer import Trainer


class Progress:
    """The position of a run; with the states of its parts, enough to resume."""

    def __init__(self) -> None:
        self.step = 0  # updates of the whole run
        self.epoch = 0  # finished epochs, so the index of the current one
        self.start_epoch()

    def start_epoch(self) -> None:
        self.batch = 0  # batches of this epoch that were trained on
        self.begun = False  # on_epoch_begin was called
        self.trained = False  # all batches are done; validation and the epoch's end are not
        self.loss = 0.0  # sum of the terms
        self.samples = 0.0  # sum of the denominators of the batches' losses
        self.outputs: list[list[float]] = []  # (sum of the terms, of the denominators) of each of several outputs

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in vars(self):
            if name != "outputs" or name in state:  # files of earlier versions lack it
                setattr(self, name, state[name])


class BatchLogs(Mapping):
    """The means over the epoch so far; metrics are computed on access."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def __getitem__(self, name: str) -> float:
        trainer = self._trainer
        progress = trainer._progress
        if trainer._measure.several:
            losses = output_losses(trainer.loss, progress.outputs)
            if name in losses:
                return losses[name]
        elif name == "loss":
            return progress.loss / progress.samples if progress.samples else math.nan
        for metric in self._trainer.metrics:
            if metric.name == name:
                return as_number(name, metric.compute())
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter([*self._trainer.loss_names(), *(metric.name for metric in self._trainer.metrics)])

    def __len__(self) -> int:
        return len(list(iter(self)))


def output_losses(losses, sums: list[list[float]]) -> dict[str, float]:
    """{"loss": the weighted sum, "<output>_loss": its mean} from the sums (terms, denominators) of each output."""
    means = [total / count if count else math.nan for total, count in sums] or [math.nan] * len(losses.losses)
    named = dict(zip(losses.losses, means, strict=True))
    total = sum(mean * losses.weights[name] for name, mean in named.items())
    return {"loss": total, **{f"{name}_loss": mean for name, mean in named.items()}}


class PreserveModes:
    """Context manager: restores every module's training flag on exit."""

    def __init__(self, model: Module):
        self._model = model

    def __enter__(self) -> None:
        self._before = [(module, module.training) for module in self._model.modules()]

    def __exit__(self, *exc) -> None:
        for module, training in self._before:
            module.training = training


class TrainingModes:
    """The training flags of a fit: the modules' current ones, or those after `model.train()` where none is set.

    Modules that the model's own `train` leaves in evaluation mode (to freeze them) are set to evaluation mode. A callback
    may change single modules for good; `model.eval()` on the whole model is undone.
    """

    def __init__(self, model: Module):
        self._model = model
        with PreserveModes(model):
            model.train()
            self._flags = [(module, module.training) for module in model.modules()]
        for module, training in self._flags:
            module.training = module.training and training

    def renew(self) -> None:
        """Adopt the current flags, or restore the previous ones where none is set."""
        flags = [(module, module.training) for module in self._model.modules()]
        if any(training for _, training in flags):
            self._flags = flags
        else:
            self._set()

    def state_dict(self) -> dict[str, list[str]]:
        """The names of the modules that are trained in evaluation mode."""
        return {"evaluating": self._evaluating()}

    def load_state_dict(self, state: Mapping[str, list[str]]) -> None:
        for name, module in self._model.named_modules():
            module.training = name not in state["evaluating"]

    def _evaluating(self) -> list[str]:
        flags = {id(module): training for module, training in self._flags}
        named = dict(self._model.named_modules())
        if any(module.training for module in named.values()):
            return [name for name, module in named.items() if not module.training]
        return [name for name, module in named.items() if not flags.get(id(module), True)]

    def restore(self) -> None:
        """Undo a `model.eval()` since `renew`."""
        if not self._model.training and self._flags[0][1]:
            self._set()

    def _set(self) -> None:
        for module, training in self._flags:
            module.training = training


def as_number(name: str, value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"{name!r} is not one number, and logs hold numbers",
            received=type(value).__name__,
            fix="for a matrix or one value per class: deepcore.metrics' functions on predict()'s result",
        ) from None
