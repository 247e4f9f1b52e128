"""Schedules made of schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from deepcore.errors import ArgumentError, StateDictError
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler
from deepcore.optim.lr_scheduler.plateau import ReduceLROnPlateau
from deepcore.optim.optimizer import Optimizer


class _Composed(LRScheduler):
    """A schedule that steps those in `_schedulers`, whose states are in its own."""

    _schedulers: list[LRScheduler]

    def _take(self, schedulers, optimizer: Optimizer | None) -> None:
        self._schedulers = list(schedulers)
        name = type(self).__name__
        if not self._schedulers:
            raise ArgumentError(f"{name} needs at least one schedule")
        for i, each in enumerate(self._schedulers):
            if not isinstance(each, LRScheduler):
                raise ArgumentError(f"{name}: number {i} is no schedule", received=type(each).__name__)
            if isinstance(each, ReduceLROnPlateau):
                raise ArgumentError(f"{name}: ReduceLROnPlateau steps with a metric, and goes beside the others")
        self.optimizer = self._schedulers[0].optimizer if optimizer is None else optimizer
        for i, each in enumerate(self._schedulers):
            if each.optimizer is not self.optimizer:
                raise ArgumentError(f"{name}: schedule {i} is of another optimizer")

    def state_dict(self) -> dict[str, Any]:
        """The states of the schedules, and its own."""
        own = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return own | {"_schedulers": [each.state_dict() for each in self._schedulers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where `state_dict()` was taken: all schedules, or none."""
        states = state_dict.get("_schedulers") if isinstance(state_dict, Mapping) else None
        if not isinstance(states, (list, tuple)) or len(states) != len(self._schedulers):
            raise StateDictError(
                f"the state dict does not fit {type(self).__name__}", expected=f"{len(self._schedulers)} schedules"
            )
        before = [each.state_dict() for each in self._schedulers]
        try:
            for each, state in zip(self._schedulers, states):
                each.load_state_dict(state)
            schedulers = self._schedulers
            super().load_state_dict({k: v for k, v in state_dict.items() if k != "_schedulers"})
            self._schedulers = schedulers
        except BaseException:
            for each, state in zip(self._schedulers, before):
                each.load_state_dict(state)
            raise

    def _converted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        return super()._converted(state_dict) | {"_schedulers": []}

    def _fits(self, name: str, current, value) -> bool:
        return name == "_schedulers" or super()._fits(name, current, value)


@SCHEDULERS.register
class ChainedScheduler(_Composed):
    """All of the schedules act: each step is one of every schedule, in order."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None):
        self._take(schedulers, optimizer)
        self._last_lr = self.current()

    def step(self) -> None:  # type: ignore[override]
        """Step every schedule."""
        for each in self._schedulers:
            each.step()
        self._last_lr = self.current()


@SCHEDULERS.register
class SequentialLR(_Composed):
    """One schedule after the other: the second begins at epoch milestones[0], and so on, each from its own beginning."""

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        self._take(schedulers, optimizer)
        if len(milestones) != len(self._schedulers) - 1:
            raise ArgumentError(
                "SequentialLR needs a milestone between each two schedules",
                expected=f"{len(self._schedulers) - 1} milestones",
                received=str(list(milestones)),
            )
        self._milestones = list(milestones)
        self.last_epoch = last_epoch + 1
        for group in optimizer.param_groups:  # the constructors of the later schedules have changed them
            group["lr"] = group["initial_lr"]
        for each in self._schedulers:
            each.last_epoch -= 1
        first = self._schedulers[0]
        first._step_count = 0
        first._advance()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Step the schedule of this epoch."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        each = self._schedulers[i]
        each.step(0 if i and self._milestones[i - 1] == self.last_epoch else None)
        self._last_lr = each.get_last_lr()
