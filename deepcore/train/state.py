"""Where a run is, and what is seen of it while it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from deepcore.errors import ArgumentError

if TYPE_CHECKING:
    from deepcore.nn import Module
    from deepcore.train.trainer import Trainer


class Progress:
    """Where a run is: enough, with the parts' own states, to go on from here."""

    def __init__(self) -> None:
        self.step = 0  # updates of the whole run
        self.epoch = 0  # finished epochs, so the index of the one under way
        self.start_epoch()

    def start_epoch(self) -> None:
        self.batch = 0  # batches of this epoch that were trained on
        self.begun = False  # on_epoch_begin was called
        self.trained = False  # every batch was; validation and the epoch's end were not
        self.loss = 0.0  # sum of the terms
        self.samples = 0.0  # what the losses of the batches divide by, summed

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in vars(self):
            setattr(self, name, state[name])


class BatchLogs(Mapping):
    """The means over the epoch so far; a metric is computed when it is looked at."""

    def __init__(self, trainer: Trainer):
        self._trainer = trainer

    def __getitem__(self, name: str) -> float:
        if name == "loss":
            at = self._trainer._progress
            return at.loss / at.samples if at.samples else math.nan
        for metric in self._trainer.metrics:
            if metric.name == name:
                return as_number(name, metric.compute())
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(["loss", *(metric.name for metric in self._trainer.metrics)])

    def __len__(self) -> int:
        return 1 + len(self._trainer.metrics)


class ModesKept:
    """Puts every module's training flag back as it was."""

    def __init__(self, model: Module):
        self._model = model

    def __enter__(self) -> None:
        self._before = [(module, module.training) for module in self._model.modules()]

    def __exit__(self, *exc) -> None:
        for module, training in self._before:
            module.training = training


class TrainingModes:
    """The training flags that a fit trains with: those found, and those after `model.train()` where none is set.

    Modules that `model.train()` itself leaves in evaluation mode (a `train` of the model's own that freezes some) are
    in it from here on. A callback may change single ones for good; a model that it puts into evaluation mode as a whole
    is put back.
    """

    def __init__(self, model: Module):
        self._model = model
        with ModesKept(model):
            model.train()
            self._flags = [(module, module.training) for module in model.modules()]
        for module, training in self._flags:
            module.training = module.training and training

    def renew(self) -> None:
        """Take the flags as they are, unless none is set; then those of before are."""
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
