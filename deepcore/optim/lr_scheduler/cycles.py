"""Cycles of learning rate and momentum. (Smith, 2017; Smith and Topin, 2019)"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from deepcore.errors import ArgumentError
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler, per_group, positive_int
from deepcore.optim.optimizer import Optimizer


class _Cycle(LRScheduler):
    """A schedule of learning rates and, with `cycle_momentum`, of momentum: β₁ of an optimizer with betas."""

    cycle_momentum: bool

    def _find_momentum(self, optimizer: Optimizer) -> None:
        """Set `use_beta1`; raise where the optimizer has no momentum."""
        if not isinstance(optimizer, Optimizer):
            return
        if "betas" not in optimizer.defaults and "momentum" not in optimizer.defaults:
            raise ArgumentError(
                f"{type(self).__name__}: {type(optimizer).__name__} has no momentum to cycle",
                fix="cycle_momentum=False",
            )
        self.use_beta1 = "betas" in optimizer.defaults

    def _set_momenta(self, momenta: list[float]) -> None:
        for group, momentum in zip(self.optimizer.param_groups, momenta):
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum


_MODES = ("triangular", "triangular2", "exp_range")


@SCHEDULERS.register
class CyclicLR(_Cycle):
    """lr = base_lr + (max_lr - base_lr) · h · s: h rises from 0 to 1 in step_size_up steps and falls in step_size_down.

    The scale s of cycle c = 1, 2, … is 1 ("triangular"), 2^(1 - c) ("triangular2"), or gamma^step ("exp_range"), or
    `scale_fn` of the cycle or, with scale_mode="iterations", of the step. Momentum moves between max_momentum and
    base_momentum the other way. `step()` after every batch. A function is not saved. (Smith, 2017)
    """

    counts = ("total_size",)

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ):
        up = positive_int("step_size_up", step_size_up)
        down = up if step_size_down is None else positive_int("step_size_down", step_size_down)
        if scale_fn is None and mode not in _MODES:
            raise ArgumentError("mode is one of " + ", ".join(_MODES), received=repr(mode))
        if scale_mode not in ("cycle", "iterations"):
            raise ArgumentError('scale_mode is "cycle" or "iterations"', received=repr(scale_mode))
        bases = per_group("base_lr", base_lr, optimizer)
        self.max_lrs = per_group("max_lr", max_lr, optimizer)
        self.total_size = float(up + down)
        self.step_ratio = up / self.total_size
        self.mode, self.gamma = mode, gamma
        self._scale_fn_custom = scale_fn
        by_step = scale_mode == "iterations" if scale_fn is not None else mode == "exp_range"
        self.scale_mode = "iterations" if by_step else "cycle"
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            self.base_momentums = per_group("base_momentum", base_momentum, optimizer)
            self.max_momentums = per_group("max_momentum", max_momentum, optimizer)
        if isinstance(optimizer, Optimizer) and last_epoch == -1:
            for group, base in zip(optimizer.param_groups, bases):
                group["lr"] = group["initial_lr"] = base
            if cycle_momentum:
                for group, low, high in zip(optimizer.param_groups, self.base_momentums, self.max_momentums):
                    group |= {"base_momentum": low, "max_momentum": high}
        super().__init__(optimizer, last_epoch)
        self.base_lrs = bases

    def _scale(self, x: float) -> float:
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return {"triangular": 1.0, "triangular2": 1 / 2.0 ** (x - 1), "exp_range": self.gamma**x}[self.mode]

    def get_lr(self) -> list[float]:
        bases = self.current() if self.starting else self.base_lrs
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self._scale(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            ends = zip(self.base_momentums, self.max_momentums)
            self._set_momenta([high - (high - low) * height * scale for low, high in ends])
        return [base + (high - base) * height * scale for base, high in zip(bases, self.max_lrs)]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"_scale_fn_custom": None}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        function = self._scale_fn_custom
        super().load_state_dict(state_dict)
        self._scale_fn_custom = function

    def _converted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        return super()._converted(state_dict) | {"_scale_fn_custom": None}

    def _fits(self, name: str, current, value) -> bool:
        if name == "total_size":
            return isinstance(value, (int, float)) and 1 <= value < 1 << 63
        return super()._fits(name, current, value)


@SCHEDULERS.register
class OneCycleLR(_Cycle):
    """lr rises from max_lr / div_factor to max_lr in the first pct_start of the steps, then falls to
    max_lr / div_factor / final_div_factor, along half a cosine or a line. Momentum moves the other way.

    The steps are `total_steps`, or `epochs` times `steps_per_epoch`: `step()` after every batch. `three_phase`: lr falls
    back to its start as it rose, and then to its end. (Smith and Topin, 2019)
    """

    counts = ("total_steps",)

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ):
        if total_steps is not None:
            self.total_steps = positive_int("total_steps", total_steps)
        elif epochs is not None and steps_per_epoch is not None:
            self.total_steps = positive_int("epochs", epochs) * positive_int("steps_per_epoch", steps_per_epoch)
        else:
            raise ArgumentError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
        if isinstance(pct_start, bool) or not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ArgumentError("pct_start is a fraction from 0.0 to 1.0", received=f"pct_start={pct_start!r}")
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError('anneal_strategy is "cos" or "linear"', received=repr(anneal_strategy))
        high = per_group("max_lr", max_lr, optimizer)
        self._schedule_phases = _phases(self.total_steps, float(pct_start), three_phase)
        self._anneal_func_type = anneal_strategy
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            lows = per_group("base_momentum", base_momentum, optimizer)
            highs = per_group("max_momentum", max_momentum, optimizer)
        if isinstance(optimizer, Optimizer) and last_epoch == -1:
            for i, (group, top) in enumerate(zip(optimizer.param_groups, high)):
                start = top / div_factor
                group |= {"initial_lr": start, "max_lr": top, "min_lr": start / final_div_factor}
                if cycle_momentum:
                    group |= {"max_momentum": highs[i], "base_momentum": lows[i]}
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step = self.last_epoch
        if step > self.total_steps:
            raise ArgumentError(
                "OneCycleLR has run to its end",
                expected=f"at most {self.total_steps} steps",
                received=f"step {step + 1}",
                fix="step() once a batch, with total_steps = epochs · batches",
            )
        start: float = 0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if step <= end or phase is self._schedule_phases[-1]:
                break
            start = end
        share = (step - start) / (end - start)
        groups = [g for g in self.optimizer.param_groups if "max_lr" in g]
        if self.cycle_momentum:
            ends = [(g[phase["start_momentum"]], g[phase["end_momentum"]]) for g in groups]
            self._set_momenta([self._between(a, b, share) for a, b in ends])
        return [self._between(g[phase["start_lr"]], g[phase["end_lr"]], share) for g in groups]

    def _between(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def _fits(self, name: str, current, value) -> bool:
        if name != "_schedule_phases":
            return super()._fits(name, current, value)
        return (
            isinstance(value, (list, tuple))
            and len(value) in (2, 3)
            and all(isinstance(phase, Mapping) and phase.keys() == current[0].keys() for phase in value)
        )


def _phases(total: int, share: float, three: bool) -> list[dict[str, Any]]:
    """Each phase's last step, and the names of what it moves between."""
    rise = {"start_lr": "initial_lr", "end_lr": "max_lr", "start_momentum": "max_momentum",
            "end_momentum": "base_momentum"}  # fmt: skip
    fall = {"start_lr": "max_lr", "end_lr": "min_lr", "start_momentum": "base_momentum",
            "end_momentum": "max_momentum"}  # fmt: skip
    if not three:
        return [{"end_step": share * total - 1, **rise}, {"end_step": total - 1, **fall}]
    rest = {"start_lr": "initial_lr", "end_lr": "min_lr", "start_momentum": "max_momentum",
            "end_momentum": "max_momentum"}  # fmt: skip
    return [
        {"end_step": share * total - 1, **rise},
        {"end_step": 2 * share * total - 2, **fall, "end_lr": "initial_lr"},
        {"end_step": total - 1, **rest},
    ]
