"""Metrics of predicted values."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backend import get_backend
from deepcore.errors import ShapeError
from deepcore.metrics.base import Metric, once, ratio, raw, register


def _errors(output, target) -> tuple[Any, Any, Any]:
    """The backend, output - target in float64, and the target; both of one shape."""
    xp, out = raw(output)
    xt, want = raw(target)
    if out.shape != want.shape:
        fix = "output.squeeze(1)" if out.shape == (*want.shape, 1) else None
        raise ShapeError(
            "output and target must have the same shape",
            expected=str(tuple(want.shape)),
            received=str(tuple(out.shape)),
            fix=fix,
        )
    if xp is not xt:
        xp, out, want = get_backend("cpu"), xp.to_host(out), xt.to_host(want)
    want = want.astype(np.float64)
    return xp, out.astype(np.float64) - want, want


class _MeanError(Metric):
    mode = "min"

    def reset(self) -> None:
        self.total, self.count = 0.0, 0

    def compute(self) -> float:
        return ratio(self.total, self.count)


@register("mean_absolute_error")
class MeanAbsoluteError(_MeanError):
    """mean |output - target| over all elements."""

    def update(self, output, target) -> None:
        xp, difference, _ = _errors(output, target)
        self.total += float(xp.sum(xp.abs(difference)).item())
        self.count += int(difference.size)


@register("mean_squared_error")
class MeanSquaredError(_MeanError):
    """mean (output - target)² over all elements."""

    def update(self, output, target) -> None:
        xp, difference, _ = _errors(output, target)
        self.total += float(xp.sum(xp.square(difference)).item())
        self.count += int(difference.size)


@register("r2")
class R2(Metric):
    """1 - Σ(target - output)² / Σ(target - mean)², per output, averaged over outputs.

    A constant target gives 1 where it is met exactly and 0 elsewhere; fewer than two samples give NaN.
    Sums are merged as in Chan, Golub and LeVeque (1983): batches change the result by rounding only.
    """

    mode = "max"

    def reset(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.spread: Any = 0.0
        self.residual: Any = 0.0

    def update(self, output, target) -> None:
        xp, difference, want = _errors(output, target)
        difference, want = (np.asarray(xp.to_host(a)) for a in (difference, want))
        n = want.shape[0] if want.ndim else 1
        if not n:
            return
        difference, want = difference.reshape(n, -1), want.reshape(n, -1)
        mean = want.mean(axis=0)
        shift, total = mean - self.mean, self.count + n
        self.spread = self.spread + np.square(want - mean).sum(axis=0) + np.square(shift) * (self.count * n / total)
        self.mean = self.mean + shift * (n / total)
        self.residual = self.residual + np.square(difference).sum(axis=0)
        self.count = total

    def compute(self) -> float:
        if self.count < 2:
            return float("nan")
        constant = self.spread == 0
        ratio = self.residual / np.where(constant, 1.0, self.spread)
        return float(np.where(constant, self.residual == 0, 1.0 - ratio).mean())


def mean_absolute_error(output, target) -> float:
    """mean |output - target|."""
    return once(MeanAbsoluteError(), output, target)


def mean_squared_error(output, target) -> float:
    """mean (output - target)²."""
    return once(MeanSquaredError(), output, target)


def r2(output, target) -> float:
    """1 - Σ(target - output)² / Σ(target - mean)², averaged over outputs."""
    return once(R2(), output, target)
