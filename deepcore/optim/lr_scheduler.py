"""Learning rates over time; `step()` once an epoch (or a batch), after the optimizer's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepcore import missing
from deepcore.errors import ArgumentError, StateDictError, suggest
from deepcore.nn.notify import warn_user
from deepcore.nn.registry import Registry
from deepcore.optim.optimizer import Optimizer, is_number

SCHEDULERS = Registry("learning-rate schedule")


class LRScheduler:
    """Base of the schedules: a subclass defines `get_lr()`, the groups' learning rates at `last_epoch`.

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

    def current(self) -> list[float]:
        """The current learning rates of the groups."""
        return [group["lr"] for group in self.optimizer.param_groups]

    @property
    def starting(self) -> bool:
        """Whether `get_lr` is called by the constructor."""
        return self._step_count == 1

    def step(self) -> None:
        """Move to the next epoch's learning rates."""
        if self._step_count == 1 and not self.optimizer._stepped:
            warn_user(
                "scheduler.step() was called before optimizer.step(), so the first learning rate is never used. "
                "Call optimizer.step() first, then scheduler.step()."
            )
        self._advance()

    def _advance(self) -> None:
        self._step_count += 1
        self.last_epoch += 1
        rates = self.get_lr()
        if not all(map(math.isfinite, rates)):
            self._step_count -= 1
            self.last_epoch -= 1
            raise ArgumentError(
                f"{type(self).__name__} gives no learning rate for epoch {self.last_epoch + 1}",
                expected="finite numbers",
                received=str(rates),
            )
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
        if not faults and len(values["base_lrs"]) != len(self.base_lrs):
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


def _copied(value):
    if isinstance(value, (list, tuple)):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _positive_int(name: str, value) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ArgumentError(f"{name} is a whole number of at least 1", received=f"{name}={value!r}")
    return value.__index__()


@SCHEDULERS.register
class StepLR(LRScheduler):
    """lr = lr₀ · gamma^⌊epoch / step_size⌋."""

    counts = ("step_size",)

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size = _positive_int("step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.starting or self.last_epoch % self.step_size:
            return self.current()
        return [lr * self.gamma for lr in self.current()]


@SCHEDULERS.register
class MultiStepLR(LRScheduler):
    """lr = lr₀ · gamma^(number of milestones reached)."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1):
        #: Epoch → multiplicity, as in PyTorch.
        self.milestones = dict(sorted(Counter(milestones).items()))
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        reached = self.milestones.get(self.last_epoch, 0)
        if self.starting or not reached:
            return self.current()
        return [lr * self.gamma**reached for lr in self.current()]

    def _fits(self, name: str, current, value) -> bool:
        if name != "milestones":
            return super()._fits(name, current, value)
        return isinstance(value, Mapping) and all(type(m) is type(n) is int and n > 0 for m, n in value.items())


@SCHEDULERS.register
class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (lr₀ - eta_min) · (1 + cos(π · epoch / T_max)) / 2, as a recurrence on the current lr.

    (Loshchilov and Hutter, 2017; without restarts)
    """

    counts = ("T_max",)

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max = _positive_int("T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.starting:
            return self.current()
        low, step = self.eta_min, math.pi / self.T_max
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # at the minimum the ratio below is 0/0
            rise = (1 - math.cos(step)) / 2
            return [lr + (base - low) * rise for lr, base in zip(self.current(), self.base_lrs)]
        ratio = (1 + math.cos(step * self.last_epoch)) / (1 + math.cos(step * (self.last_epoch - 1)))
        return [ratio * (lr - low) + low for lr in self.current()]


@SCHEDULERS.register
class LambdaLR(LRScheduler):
    """lr = lr₀ · f(epoch); `lr_lambda` is f, or one function per group. Functions are not saved."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ):
        groups = len(optimizer.param_groups) if isinstance(optimizer, Optimizer) else 1
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, (list, tuple)) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ArgumentError(f"LambdaLR needs one function for each of {groups} groups, not {len(self.lr_lambdas)}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas)]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lr_lambdas": [None] * len(self.lr_lambdas)}  # as PyTorch marks functions

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        functions = self.lr_lambdas
        super().load_state_dict(state_dict)
        self.lr_lambdas = functions

    def _converted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        return super()._converted(state_dict) | {"lr_lambdas": [None] * len(self.lr_lambdas)}


__getattr__ = missing.names_of(__name__, "torch.optim.lr_scheduler")
