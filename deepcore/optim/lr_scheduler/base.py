"""`LRScheduler`: the base of the schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from deepcore.errors import ArgumentError, StateDictError, suggest
from deepcore.nn.notify import warn_user
from deepcore.nn.registry import Registry
from deepcore.optim.optimizer import Optimizer, is_number

SCHEDULERS = Registry("learning-rate schedule")


class LRScheduler:
    """Base of the schedules: a subclass defines `get_lr()`, the groups' learning rates at `last_epoch`, and where they
    follow from `last_epoch` alone `closed_form()`, which `step(epoch)` uses.

    Schedules change the current rates step by step, so several can act on one optimizer. `last_epoch=-1` starts;
    another value resumes, and needs the groups' "initial_lr" (an optimizer's state dict has it).
    """

    #: The attributes that count epochs: whole numbers of at least 1.
    counts: tuple[str, ...] = ()

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError("a schedule takes the optimizer", received=type(optimizer).__name__)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise ArgumentError(
                    f"group {i} has no 'initial_lr', which resuming at last_epoch={last_epoch} needs",
                    fix="load the optimizer's state dict first, or start with last_epoch=-1",
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self._step_count = 0
        self._advance()

    def get_lr(self) -> list[float]:
        """The learning rate of each group at `last_epoch`, from the current ones (`self.current()`)."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """The learning rates at `last_epoch` from `base_lrs`; those of `get_lr` where that does not read the current ones."""
        return self.get_lr()

    def current(self) -> list[float]:
        """The current learning rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    @property
    def starting(self) -> bool:
        """Whether `get_lr` is called by the constructor."""
        return self._step_count == 1

    def step(self, epoch: int | None = None) -> None:
        """Move to the next epoch's learning rates, or to those of `epoch`."""
        if self._step_count == 1 and not self.optimizer._stepped:
            warn_user(
                "scheduler.step() was called before optimizer.step(), so the first learning rate is never used. "
                "Call optimizer.step() first, then scheduler.step()."
            )
        self._advance(epoch)

    def _advance(self, epoch: int | None = None) -> None:
        before = self._step_count, self.last_epoch
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        try:
            rates = checked_rates(self, self.get_lr() if epoch is None else self.closed_form())
        except BaseException:
            self._step_count, self.last_epoch = before
            raise
        self._set(rates)

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates):  # a group added later may have no rate
            group["lr"] = lr
        self._last_lr = self.current()

    def get_last_lr(self) -> list[float]:
        """The learning rates that the last step set."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer and functions."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer" and not callable(v)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where `state_dict()` was taken; the optimizer's expected state dict holds the rates themselves."""
        if not isinstance(state_dict, Mapping):
            raise StateDictError("the state of a schedule is a dict", received=type(state_dict).__name__)
        expected, values = self.state_dict(), self._converted(state_dict)
        faults = [f"{k!r} is missing" for k in expected if k not in values]
        faults += [f"{k!r} is unexpected ({suggest(k, expected)})" for k in values if k not in expected]
        faults += [
            f"{k!r} cannot be {values[k]!r:.60}"
            for k in expected
            if k in values and not self._fits(k, expected[k], values[k])
        ]
        if not faults and len(values.get("base_lrs", ())) != len(expected.get("base_lrs", ())):
            faults.append(f"it is for {len(values['base_lrs'])} parameter groups, not {len(self.base_lrs)}")
        if faults:
            raise StateDictError("\n  ".join([f"the state dict does not fit {type(self).__name__}:", *faults]))
        self.__dict__.update({k: _copied(v) for k, v in values.items()})

    def _converted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """A state dict of PyTorch's schedule of this name without PyTorch's internal entries."""
        return {k: v for k, v in state_dict.items() if k not in ("_is_initial", "_get_lr_called_within_step")}

    def _fits(self, name: str, current, value) -> bool:
        """Whether a saved value can replace this schedule's current one."""
        if isinstance(current, (list, tuple)):
            return isinstance(value, (list, tuple)) and all(
                is_number(v) or (v is None and None in current) for v in value
            )
        if name in self.counts or name in ("last_epoch", "_step_count"):
            return type(value) is int and (1 if name in self.counts else -1) <= value < 1 << 63
        return is_number(value) if is_number(current) else current is None or isinstance(value, type(current))


def checked_rates(schedule, rates: list[float]) -> list[float]:
    """The rates of a schedule's epoch, which are finite."""
    if not all(map(math.isfinite, rates)):
        raise ArgumentError(
            f"{type(schedule).__name__} gives no learning rate for epoch {schedule.last_epoch}",
            expected="finite numbers",
            received=str(rates),
        )
    return rates


def per_group(name: str, value, optimizer: Optimizer) -> list[float]:
    """A number for every group, from one for all or a list of them."""
    groups = len(optimizer.param_groups) if isinstance(optimizer, Optimizer) else 1
    values = list(value) if isinstance(value, (list, tuple)) else [value] * groups
    if len(values) != groups:
        raise ArgumentError(f"{name} needs one number for each of {groups} groups, not {len(values)}")
    return values


class PerGroupFunctions(LRScheduler):
    """A schedule of functions of the epoch, one for all groups or one for each. Functions are not saved."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        groups = len(optimizer.param_groups) if isinstance(optimizer, Optimizer) else 1
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ArgumentError(
                f"{type(self).__name__} needs one function for each of {groups} groups, not {len(self.lr_lambdas)}"
            )
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lr_lambdas": [None] * len(self.lr_lambdas)}  # as PyTorch marks functions

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        functions = self.lr_lambdas
        super().load_state_dict(state_dict)
        self.lr_lambdas = functions

    def _converted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        return super()._converted(state_dict) | {"lr_lambdas": [None] * len(self.lr_lambdas)}


def _copied(value):
    if isinstance(value, (list, tuple)):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def positive_int(name: str, value) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ArgumentError(f"{name} is a whole number of at least 1", received=f"{name}={value!r}")
    return value.__index__()
