"""A learning rate that falls when progress stops."""

from __future__ import annotations

import math

from deepcore.errors import ArgumentError, DTypeError
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler, per_group
from deepcore.optim.optimizer import Optimizer, is_number


@SCHEDULERS.register
class ReduceLROnPlateau(LRScheduler):
    """lr ← max(lr · factor, min_lr) when a metric has not improved for more than `patience` epochs: `step(metric)`.

    Better ("min") is below best · (1 - threshold), or best - threshold with threshold_mode="abs"; "max" is the mirror
    image. After a reduction, `cooldown` epochs do not count; one of less than `eps` is left out. `min_lr` may be one per
    group. A `Trainer` gives the validation loss, or without validation the loss.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ):
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError("a schedule takes the optimizer", received=type(optimizer).__name__)
        if not 0 <= factor < 1:
            raise ArgumentError("factor is below 1", received=f"factor={factor!r}")
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ArgumentError(
                'mode is "min" or "max", threshold_mode "rel" or "abs"',
                received=f"mode={mode!r}, threshold_mode={threshold_mode!r}",
            )
        self.factor = factor
        self.optimizer = optimizer
        self.default_min_lr = None if isinstance(min_lr, (list, tuple)) else min_lr
        self.min_lrs = per_group("min_lr", min_lr, optimizer)
        self.patience, self.cooldown, self.eps = patience, cooldown, eps
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.last_epoch = 0
        self._last_lr = self.current()
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.best = self.mode_worse
        self.cooldown_counter = self.num_bad_epochs = 0

    def step(self, metrics, epoch: int | None = None) -> None:  # type: ignore[override]
        """Compare an epoch's metric, a number or a tensor of one, with the best so far; reduce the rates where due."""
        try:
            value = float(metrics)
        except (TypeError, ValueError):
            raise DTypeError("ReduceLROnPlateau.step takes the metric", received=repr(metrics)) from None
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self.is_better(value, self.best):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            least = self.min_lrs + [self.default_min_lr or 0] * len(
                self.optimizer.param_groups
            )  # for groups added later
            for group, low in zip(self.optimizer.param_groups, least):
                lr = max(group["lr"] * self.factor, low)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = self.current()

    @property
    def in_cooldown(self) -> bool:
        """Whether epochs do not count yet after a reduction."""
        return self.cooldown_counter > 0

    def is_better(self, a: float, best: float) -> bool:
        """Whether metric `a` improves on `best` by the threshold."""
        sign = 1 if self.mode == "max" else -1
        bound = best * (1 + sign * self.threshold) if self.threshold_mode == "rel" else best + sign * self.threshold
        return a > bound if self.mode == "max" else a < bound

    def _fits(self, name: str, current, value) -> bool:
        if name == "default_min_lr":
            return value is None or is_number(value)
        if name in ("best", "mode_worse"):
            return is_number(value) or (isinstance(value, float) and math.isinf(value))
        return super()._fits(name, current, value)
