"""Learning rates over time; `step()` once an epoch (or a batch), after the optimizer's."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.nn.registry import discover
from deepcore.optim.lr_scheduler.base import SCHEDULERS, LRScheduler

if TYPE_CHECKING:
    from deepcore.optim.lr_scheduler._names import *  # noqa: F403

globals().update(discover(__name__, __path__, SCHEDULERS))  # noqa: F405
_LRScheduler = LRScheduler  # PyTorch's former name of the base class, which many schedules derive from
__all__ = sorted(["SCHEDULERS", "LRScheduler", *SCHEDULERS])

__getattr__ = missing.names_of(__name__, "torch.optim.lr_scheduler")
