"""`dc.amp`: lower precision, by PyTorch's names: `autocast`, and `GradScaler` for gradients in float16."""

from __future__ import annotations

import enum
import warnings
from typing import Any

from deepcore import missing
from deepcore.autograd import no_grad
from deepcore.autograd.autocasting import (
    autocast,
    backend_of_type,
    custom_bwd,
    custom_fwd,
    device_type_of,
    is_autocast_available,
)
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DeepcoreWarning, GradientError, StateDictError
from deepcore.nn.utils.clip_grad import are_finite
from deepcore.ops.arithmetic import mul, reciprocal
from deepcore.ops.comparison import isfinite, where
from deepcore.ops.index import write
from deepcore.tensor import Tensor, full

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]

__getattr__ = missing.names_of(__name__, "torch.amp", __all__)


class _Stage(enum.Enum):
    UNSCALED = "unscaled"
    STEPPED = "stepped"


class GradScaler:
    """Scales losses, so that gradients in float16 do not underflow, and skips the steps whose gradients overflow.

    s ← s · backoff_factor after a step with a NaN or infinite gradient, which changes no parameter; s ← s · growth_factor
    after `growth_interval` steps in a row without one. bfloat16 has the range of float32, and needs no scale.

    >>> scaler = dc.amp.GradScaler("cpu")
    >>> for x, y in loader:
    ...     optimizer.zero_grad()
    ...     with dc.autocast("cpu", dtype=dc.float16):
    ...         loss = F.cross_entropy(model(x), y)
    ...     scaler.scale(loss).backward()
    ...     scaler.unscale_(optimizer)  # only for what reads the gradients, such as clipping
    ...     scaler.step(optimizer)
    ...     scaler.update()

    `device`: "cpu" or "cuda", where the scale is stored; without a GPU, "cuda" warns and disables. `enabled=False`: scales
    and checks nothing, and `step` is the optimizer's. `init_scale`, `growth_factor` > 1, `backoff_factor` < 1.

    A step under `dc.compile` may contain all of this. On the CPU, the program checks the gradients; where one is not
    finite it stops, before it changes anything, and the function itself runs. On a GPU the check reads a value, so that
    such a function runs eagerly. (Micikevicius et al., Mixed Precision Training, 2018)
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ):
        self._device = device_type_of(device)
        self._enabled = bool(enabled)
        if self._enabled and not is_autocast_available(device):
            self._enabled = False
            warnings.warn(f'GradScaler("{device}") is disabled: there is no such device', DeepcoreWarning, stacklevel=2)
        if not self._enabled:
            return
        if not growth_factor > 1:
            raise ArgumentError("growth_factor is greater than 1", received=repr(growth_factor))
        if not backoff_factor < 1:
            raise ArgumentError("backoff_factor is less than 1", received=repr(backoff_factor))
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        backend = backend_of_type(device)
        self._scale = full((), float(init_scale), dt.float32, backend)
        #: Steps in a row without an overflow.
        self._growth_tracker = full((), 0, dt.int32, backend)
        #: By id of an optimizer, since the last update: (its stage, whether its gradients overflowed).
        self._stages: dict[int, tuple[_Stage, bool]] = {}

    # -- an iteration -------------------------------------------------------------------------------------
    def scale(self, outputs):
        """The outputs times the scale: a tensor, or an iterable of tensors, nested or not."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._on(outputs.backend, self._scale)
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(map(self.scale, outputs))
        if hasattr(outputs, "__iter__"):
            return map(self.scale, outputs)
        raise ArgumentError("scale takes a tensor, or an iterable of tensors", received=type(outputs).__name__)

    def unscale_(self, optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, in place, once before `step`."""
        if not self._enabled:
            return
        stage = self._stages.get(id(optimizer))
        if stage is not None:
            called = "unscale_" if stage[0] is _Stage.UNSCALED else "step"
            raise GradientError(
                f"unscale_() after {called}() of this optimizer: its gradients are divided by the scale already",
                fix="call update() at the end of each iteration",
            )
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if any(g.dtype == dt.float16 for g in gradients):
            raise ArgumentError(
                "unscale_: gradients in float16 would underflow",
                fix="keep the parameters in float32, and compute in float16 under dc.autocast",
            )
        with no_grad():
            overflow = not are_finite(gradients)
            inverse = reciprocal(self._scale.to(dt.float64)).to(dt.float32)  # type: ignore[attr-defined]
            for g in gradients:
                write(g, mul(g, self._on(g.backend, inverse)))
        if gradients:
            self._stages[id(optimizer)] = _Stage.UNSCALED, overflow

    def step(self, optimizer, *args, **kwargs):
        """`unscale_`, unless it was called, and `optimizer.step(*args, **kwargs)`, unless a gradient is not finite.

        Returns what `optimizer.step` returns, or None where it is skipped.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs or any(map(callable, args)):
            raise GradientError(
                "GradScaler.step takes no closure, whose gradients would be neither divided by the scale nor checked",
                fix="compute the gradients first; for LBFGS, disable the scaler",
            )
        if self._stages.get(id(optimizer), (None,))[0] is _Stage.STEPPED:
            raise GradientError("step() twice without update()", fix="call update() at the end of each iteration")
        if id(optimizer) not in self._stages:
            self.unscale_(optimizer)
        if id(optimizer) not in self._stages:
            raise GradientError(
                "no parameter of this optimizer has a gradient", fix="scaler.scale(loss).backward() first"
            )
        overflow = self._stages[id(optimizer)][1]
        result = None if overflow else optimizer.step(*args, **kwargs)
        self._stages[id(optimizer)] = _Stage.STEPPED, overflow
        return result

    def update(self, new_scale=None) -> None:
        """Back off or grow the scale, at the end of an iteration; `new_scale`: or set it, to a number or a tensor."""
        if not self._enabled:
            return
        scale, steps = self._scale, self._growth_tracker
        if new_scale is not None:
            self._set_scale(new_scale)
        elif not self._stages:
            raise GradientError("update() without step() or unscale_()", fix="scaler.step(optimizer) first")
        elif any(overflow for _, overflow in self._stages.values()):
            write(scale, scale * self._backoff_factor)
            steps.zero_()  # type: ignore[attr-defined]
        else:
            successful, grown = steps + 1, scale * self._growth_factor
            due = successful == self._growth_interval
            write(scale, where(due & isfinite(grown), grown, scale))
            write(steps, where(due, 0, successful))
        self._stages.clear()

    def _set_scale(self, new_scale) -> None:
        if isinstance(new_scale, Tensor):
            if new_scale.numel() != 1 or new_scale.requires_grad or new_scale.backend is not self._scale.backend:
                raise ArgumentError(
                    "update: the new scale is a number, or a tensor of one element without a gradient, where the scale is",
                    received=f"shape {new_scale.shape} on {new_scale.backend}",
                )
            new_scale = new_scale.reshape(())  # type: ignore[attr-defined]
        self._scale.copy_(new_scale)  # type: ignore[attr-defined]

    def _on(self, backend, t: Tensor) -> Tensor:
        return t if t.backend is backend else t.to(backend)  # type: ignore[attr-defined]

    # -- state --------------------------------------------------------------------------------------------
    def is_enabled(self) -> bool:
        """Whether losses are scaled and gradients checked."""
        return self._enabled

    def get_scale(self) -> float:
        """The current scale, 1 where the scaler is disabled. Reads a value from the device."""
        return self._scale.item() if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """The factor by which the scale grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set the factor by which the scale grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """The factor by which the scale backs off."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set the factor by which the scale backs off."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """The number of steps without an overflow after which the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set the number of steps without an overflow after which the scale grows."""
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """Scale, factors, interval and count, by PyTorch's names; empty where the scaler is disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker.item(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a saved state; a disabled scaler ignores it."""
        if not self._enabled:
            return
        names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
        absent = [name for name in names if name not in state_dict]
        if absent:
            raise StateDictError(
                f"the state of a GradScaler lacks {', '.join(absent)}",
                received="an empty state" if not state_dict else ", ".join(state_dict),
                fix="load the state of an enabled scaler: a disabled one has none" if not state_dict else None,
            )
        self._scale.fill_(state_dict["scale"])  # type: ignore[attr-defined]
        self._growth_tracker.fill_(state_dict["_growth_tracker"])  # type: ignore[attr-defined]
        self._growth_factor, self._backoff_factor = state_dict["growth_factor"], state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]

    def __getstate__(self) -> dict[str, Any]:
        if self._enabled and self._stages:
            raise GradientError("a GradScaler is copied and pickled between iterations", fix="call update() first")
        return self.__dict__
