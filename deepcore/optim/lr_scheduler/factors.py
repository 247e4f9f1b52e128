"""Schedules that multiply the current learning rate by a factor, an epoch at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from deepcore.errors import ArgumentError
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler, PerGroupFunctions, positive_int
from deepcore.optim.optimizer import Optimizer


@SCHEDULERS.register
class StepLR(LRScheduler):
    """lr = lr₀ · gamma^⌊epoch / step_size⌋."""

    counts = ("step_size",)

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1):
        self.step_size = positive_int("step_size", step_size)
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.starting or self.last_epoch % self.step_size:
            return self.current()
        return [lr * self.gamma for lr in self.current()]

    def closed_form(self) -> list[float]:
        return [base * self.gamma ** (self.last_epoch // self.step_size) for base in self.base_lrs]


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

    def closed_form(self) -> list[float]:
        reached = sum(count for epoch, count in self.milestones.items() if epoch <= self.last_epoch)
        return [base * self.gamma**reached for base in self.base_lrs]

    def _fits(self, name: str, current, value) -> bool:
        if name != "milestones":
            return super()._fits(name, current, value)
        return isinstance(value, Mapping) and all(type(m) is type(n) is int and n > 0 for m, n in value.items())


@SCHEDULERS.register
class ExponentialLR(LRScheduler):
    """lr = lr₀ · gamma^epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1):
        self.gamma = gamma
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return self.current() if self.starting else [lr * self.gamma for lr in self.current()]

    def closed_form(self) -> list[float]:
        return [base * self.gamma**self.last_epoch for base in self.base_lrs]


@SCHEDULERS.register
class ConstantLR(LRScheduler):
    """lr = lr₀ · factor in the first `total_iters` epochs, lr₀ from then on."""

    counts = ("total_iters",)

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1):
        if not 0 < factor <= 1:
            raise ArgumentError("factor is above 0 and at most 1", received=f"factor={factor!r}")
        self.factor = factor
        self.total_iters = positive_int("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.factor for lr in self.current()]
        if self.last_epoch != self.total_iters:
            return self.current()
        return [lr * (1.0 / self.factor) for lr in self.current()]

    def closed_form(self) -> list[float]:
        factor = 1.0 if self.last_epoch >= self.total_iters else self.factor
        return [base * factor for base in self.base_lrs]


@SCHEDULERS.register
class LinearLR(LRScheduler):
    """lr = lr₀ · f, f rising evenly from start_factor to end_factor over `total_iters` epochs, and staying there."""

    counts = ("total_iters",)

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ):
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ArgumentError(
                "start_factor is above 0, and both factors are at most 1 and at least 0",
                received=f"start_factor={start_factor!r}, end_factor={end_factor!r}",
            )
        self.start_factor, self.end_factor = start_factor, end_factor
        self.total_iters = positive_int("total_iters", total_iters)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.last_epoch == 0:
            return [lr * self.start_factor for lr in self.current()]
        if self.starting or self.last_epoch > self.total_iters:
            return self.current()
        rise = self.end_factor - self.start_factor
        ratio = 1.0 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise)
        return [lr * ratio for lr in self.current()]

    def closed_form(self) -> list[float]:
        share = min(self.total_iters, self.last_epoch) / self.total_iters
        factor = self.start_factor + (self.end_factor - self.start_factor) * share
        return [base * factor for base in self.base_lrs]


@SCHEDULERS.register
class PolynomialLR(LRScheduler):
    """lr = lr₀ · (1 - epoch / total_iters)^power, 0 from epoch `total_iters` on."""

    counts = ("total_iters",)

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1):
        self.total_iters = positive_int("total_iters", total_iters)
        self.power = power
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.starting or self.last_epoch > self.total_iters:
            return self.current()
        left, before = (1.0 - epoch / self.total_iters for epoch in (self.last_epoch, self.last_epoch - 1))
        return [lr * (left / before) ** self.power for lr in self.current()]

    def closed_form(self) -> list[float]:
        left = 1.0 - min(self.total_iters, self.last_epoch) / self.total_iters
        return [base * left**self.power for base in self.base_lrs]


@SCHEDULERS.register
class LambdaLR(PerGroupFunctions):
    """lr = lr₀ · f(epoch); `lr_lambda` is f, or one function per group. Functions are not saved."""

    def get_lr(self) -> list[float]:
        return [base * f(self.last_epoch) for base, f in zip(self.base_lrs, self.lr_lambdas)]


@SCHEDULERS.register
class MultiplicativeLR(PerGroupFunctions):
    """lr ← lr · f(epoch); `lr_lambda` is f, or one function per group. Functions are not saved."""

    def get_lr(self) -> list[float]:
        if self.starting or self.last_epoch <= 0:
            return self.current()
        return [lr * f(self.last_epoch) for lr, f in zip(self.current(), self.lr_lambdas)]
