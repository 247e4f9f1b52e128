"""Cosine annealing, with and without restarts. (Loshchilov and Hutter, 2017)"""

from __future__ import annotations

import math

from deepcore.errors import ArgumentError
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler, checked_rates, positive_int
from deepcore.optim.optimizer import Optimizer, is_number


@SCHEDULERS.register
class CosineAnnealingLR(LRScheduler):
    """lr = eta_min + (lr₀ - eta_min) · (1 + cos(π · epoch / T_max)) / 2, as a recurrence on the current lr.

    (Loshchilov and Hutter, 2017; without restarts)
    """

    counts = ("T_max",)

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_max = positive_int("T_max", T_max)
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        if self.starting:
            return self.current()
        low, T_max, epoch = self.eta_min, self.T_max, self.last_epoch
        if (epoch - 1 - T_max) % (2 * T_max) == 0:  # at the minimum the ratio below is 0/0
            rise = 1 - math.cos(math.pi / T_max)
            return [lr + (base - low) * rise / 2 for lr, base in zip(self.current(), self.base_lrs)]
        ratio = (1 + math.cos(math.pi * epoch / T_max)) / (1 + math.cos(math.pi * (epoch - 1) / T_max))
        return [ratio * (lr - low) + low for lr in self.current()]

    def closed_form(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.last_epoch / self.T_max)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]


@SCHEDULERS.register
class CosineAnnealingWarmRestarts(LRScheduler):
    """lr = eta_min + (lr₀ - eta_min) · (1 + cos(π · T_cur / T_i)) / 2, T_cur epochs after the last restart.

    The first period T_i is T_0 epochs long, each later one T_mult times the one before. `step(epoch)` moves to any epoch,
    fractions included: `step(epoch + batch / batches)`. (Loshchilov and Hutter, 2017)
    """

    counts = ("T_0", "T_mult", "T_i")

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1):
        self.T_0, self.T_mult = positive_int("T_0", T_0), positive_int("T_mult", T_mult)
        self.T_i = self.T_0
        self.eta_min = eta_min
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [self.eta_min + (base - self.eta_min) * height for base in self.base_lrs]

    def _advance(self, epoch: float | None = None) -> None:  # type: ignore[override]
        if epoch is not None and not (is_number(epoch) and epoch >= 0):
            raise ArgumentError("epoch is a number of at least 0", received=f"epoch={epoch!r}")
        before = self.T_cur, self.T_i, self.last_epoch
        if epoch is None:
            self.last_epoch += 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            self.last_epoch = math.floor(epoch)
            self.T_cur, self.T_i = self._place(epoch)
        self._step_count += 1
        try:
            rates = checked_rates(self, self.get_lr())
        except BaseException:
            self.T_cur, self.T_i, self.last_epoch = before
            self._step_count -= 1
            raise
        self._set(rates)

    def _place(self, epoch: float) -> tuple[float, int]:
        """(epochs since the last restart, length of the period) at `epoch`."""
        if self.T_mult == 1:
            return epoch % self.T_0, self.T_0
        start, period = 0, self.T_0
        while epoch >= start + period:
            start += period
            period *= self.T_mult
        return epoch - start, period

    def _fits(self, name: str, current, value) -> bool:
        if name == "T_cur":
            return is_number(value)
        return super()._fits(name, current, value)
