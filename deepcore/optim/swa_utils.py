"""Averages of a model's weights over training: stochastic weight averaging, and exponential moving averages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from deepcore.autograd import no_grad
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError
from deepcore.nn.modules.module import Module
from deepcore.nn.modules.normalization import _BatchNorm as BatchNorm
from deepcore.optim.lr_scheduler.base import LRScheduler, per_group
from deepcore.optim.optimizer import Optimizer
from deepcore.tensor import Tensor, tensor

__all__ = [
    "SWALR", "AveragedModel", "get_ema_avg_fn", "get_ema_multi_avg_fn", "get_swa_avg_fn", "get_swa_multi_avg_fn",
    "update_bn",
]  # fmt: skip


def get_swa_avg_fn() -> Callable:
    """a ← a + (w - a) / (n + 1): the mean of n averaged and one more."""
    return lambda averaged, current, count: averaged + (current - averaged) / (count + 1)


def get_ema_avg_fn(decay: float = 0.999) -> Callable:
    """a ← decay · a + (1 - decay) · w."""
    _check_decay(decay)
    return lambda averaged, current, count: decay * averaged + (1 - decay) * current


def get_swa_multi_avg_fn() -> Callable:
    """`get_swa_avg_fn` of lists, in place."""
    return _of_lists(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> Callable:
    """`get_ema_avg_fn` of lists, in place."""
    return _of_lists(get_ema_avg_fn(decay))


def _check_decay(decay) -> None:
    if not 0 <= decay <= 1:
        raise ArgumentError("decay is from 0 to 1", received=f"decay={decay!r}")


def _of_lists(average: Callable) -> Callable:
    def function(averaged: list, current: list, count) -> None:
        for a, w in zip(averaged, current):
            a.copy_(average(a, w, count) if dt.is_floating(a.dtype) else w)

    return function


class AveragedModel(Module):
    """A copy of `model` whose parameters are averages over training: call `update_parameters(model)` to take them in.

    By default of all of them alike (Izmailov et al., 2018), else by `avg_fn(averaged, current, count)` or by
    `multi_avg_fn` of lists, in place: `multi_avg_fn=get_ema_multi_avg_fn(0.999)`. Buffers are copied, with `use_buffers`
    averaged. After training, `update_bn` computes the statistics of batch norms.

    >>> averaged = AveragedModel(model)
    >>> for inputs, target in loader:
    ...     step(inputs, target)
    ...     averaged.update_parameters(model)
    """

    n_averaged: Tensor

    def __init__(
        self,
        model: Module,
        device=None,
        avg_fn: Callable | None = None,
        multi_avg_fn: Callable | None = None,
        use_buffers: bool = False,
    ):
        super().__init__()
        if avg_fn is not None and multi_avg_fn is not None:
            raise ArgumentError("AveragedModel takes avg_fn or multi_avg_fn, not both")
        self.module = copy.deepcopy(model)
        if device is not None:
            self.module.to(device)
        first: Any = next(chain(self.module.parameters(), self.module.buffers()), None)
        self.register_buffer("n_averaged", tensor(0, dtype=dt.int64, backend=None if first is None else first.backend))
        self.avg_fn, self.multi_avg_fn, self.use_buffers = avg_fn, multi_avg_fn, use_buffers

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def update_parameters(self, model: Module) -> None:
        """Take the parameters of `model` in."""
        with no_grad():
            count = self.n_averaged.item()
            averaged: list[Tensor] = [*self.module.parameters()]
            current: list[Tensor] = [*model.parameters()]
            copied = list(zip(self.module.buffers(), model.buffers()))
            if self.use_buffers:
                averaged += [a for a, _ in copied]
                current += [w for _, w in copied]
                copied = []
            if len(averaged) != len(current):
                raise ArgumentError(
                    "the model is another than the one that is averaged",
                    expected=f"{len(averaged)} parameters",
                    received=str(len(current)),
                )
            current = [w.detach().to(a.backend) for a, w in zip(averaged, current)]
            if count == 0:
                copied += zip(averaged, current)
            elif self.multi_avg_fn is not None or self.avg_fn is None:
                (self.multi_avg_fn or get_swa_multi_avg_fn())(averaged, current, count)
            else:
                _of_lists(self.avg_fn)(averaged, current, count)
            for a, w in copied:
                a.copy_(w.detach().to(a.backend))
            self.n_averaged.copy_(self.n_averaged + 1)


def update_bn(loader: Iterable[Any], model: Module, device=None) -> None:
    """Compute the running statistics of the model's batch norms anew, as means over the batches of `loader`.

    A batch is the model's input, or a list or tuple that begins with it.
    """
    norms = [m for m in model.modules() if isinstance(m, BatchNorm)]
    if not norms:
        return
    modes = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.train()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with no_grad():
            for batch in loader:
                inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(inputs if device is None else inputs.to(device))
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode


class SWALR(LRScheduler):
    """The learning rate moves from where it is to `swa_lr`, one for all groups or one each, in `anneal_epochs` epochs.

    Along half a cosine or, with anneal_strategy="linear", a line. (Izmailov et al., 2018)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | list[float],
        anneal_epochs: int = 10,
        anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):
        if anneal_strategy not in ("cos", "linear"):
            raise ArgumentError('anneal_strategy is "cos" or "linear"', received=repr(anneal_strategy))
        if isinstance(anneal_epochs, bool) or not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ArgumentError(
                "anneal_epochs is a whole number of at least 0", received=f"anneal_epochs={anneal_epochs!r}"
            )
        self._anneal_strategy = anneal_strategy
        self.anneal_epochs = anneal_epochs
        if isinstance(optimizer, Optimizer):
            for group, lr in zip(optimizer.param_groups, per_group("swa_lr", swa_lr, optimizer)):
                group["swa_lr"] = lr
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        step = self._step_count - 1
        if self.anneal_epochs == 0:
            step = max(1, step)
        before, now = (self._share(max(0, min(1, t / max(1, self.anneal_epochs)))) for t in (step - 1, step))
        rates = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group.get("swa_lr", group["lr"])
            start = end if before == 1 else (lr - before * end) / (1 - before)
            rates.append(end * now + start * (1 - now))
        return rates

    def _share(self, t: float) -> float:
        return t if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * t)) / 2
