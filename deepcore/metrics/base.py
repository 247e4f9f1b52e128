"""What every metric shares: the streaming base class, the registry, and the arrays behind outputs and targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deepcore.backend import backend_of, get_backend
from deepcore.errors import ArgumentError
from deepcore.nn.registry import Registry
from deepcore.tensor import Tensor, unmasked

#: Name → class: what `Trainer(metrics=("accuracy", …))` may ask for.
METRICS = Registry("metric")


def raw(value) -> tuple[Any, Any]:
    """The backend and raw array of a tensor, an array or a list."""
    if isinstance(value, Tensor):
        return value.backend, value._data
    value = unmasked(value)
    backend = backend_of(value)
    if isinstance(value, Mapping) or (isinstance(value, (tuple, list)) and any(map(_is_part, value))):
        raise ArgumentError(
            "a metric takes one output and one target",
            received=f"a {type(value).__name__} of {len(value)}",
            fix="metrics=(), or a Metric whose update(output, target) gives one part of each to another's: "
            "super().update(output[0], target[0])",
        )
    if backend is None or not hasattr(value, "dtype"):
        return get_backend("cpu"), np.asarray(value)
    return backend, value


def _is_part(item) -> bool:
    """Whether a tuple or list with this in it is several outputs, and not numbers."""
    return isinstance(item, (Tensor, Mapping)) or bool(getattr(item, "ndim", 0))


def host(value) -> np.ndarray:
    xp, array = raw(value)
    return np.asarray(xp.to_host(array))


class Metric:
    """A number over a whole dataset, batch by batch: a subclass defines `reset`, `update` and `compute`.

    `name` is what logs call it (default: the class name in snake case). `mode` is "max" where larger is better,
    "min" where smaller is, None where `EarlyStopping` and the like must be told. What is kept between updates are
    attributes: numbers, arrays, tensors, and lists and dicts of them, so that a checkpoint can hold them.

    >>> class WithinOne(Metric):
    ...     mode = "max"
    ...     def reset(self):
    ...         self.hits = self.count = 0
    ...     def update(self, output, target):
    ...         self.hits += int(((output - target).abs() <= 1).sum().item())
    ...         self.count += target.numel()
    ...     def compute(self):
    ...         return self.hits / self.count
    """

    name: str = "metric"
    mode: str | None = None

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, name: str | None = None):
        if name is not None:
            self.name = name
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        raise NotImplementedError(f"{type(self).__name__} must define reset()")

    def update(self, output, target) -> None:
        """Take in a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define update(output, target)")

    def compute(self):
        """The value over everything since `reset`; NaN when that is nothing."""
        raise NotImplementedError(f"{type(self).__name__} must define compute()")

    def follow(self, loss) -> None:
        """Called by a Trainer, whose loss says what outputs and targets are by `task`, `threshold`, `ignore_index`."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the attributes."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"


def register(name: str) -> Callable[[type], type]:
    def decorate(cls: type) -> type:
        cls.name = name  # type: ignore[attr-defined]
        METRICS[name] = cls
        return cls

    return decorate


def get(metric) -> Metric:
    """A metric from its registered name, or as it is. `ConfigError` for an unknown name, with the nearest one."""
    if isinstance(metric, str):
        return METRICS[metric]()
    if isinstance(metric, type) and issubclass(metric, Metric):
        return metric()
    if not isinstance(metric, Metric):
        raise ArgumentError(
            "a metric is a name or a Metric",
            expected="one of " + ", ".join(sorted(METRICS)) + ", or an object of a subclass of Metric",
            received=repr(metric),
            fix=f"{METRICS.get(getattr(metric, '__name__', ''), Metric).__name__}()",
        )
    return metric


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def once(metric: Metric, output, target):
    metric.update(output, target)
    return metric.compute()
