"""Optimizers and learning-rate schedules. Names, settings and defaults are PyTorch's."""

from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.nn.registry import discover
from deepcore.optim import lr_scheduler
from deepcore.optim.lr_scheduler import SCHEDULERS
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer

if TYPE_CHECKING:
    from deepcore.optim._names import *  # noqa: F403

globals().update(discover(__name__, __path__, OPTIMIZERS))  # noqa: F405
__all__ = sorted(["OPTIMIZERS", "SCHEDULERS", "Optimizer", "lr_scheduler", *OPTIMIZERS])

__getattr__ = missing.names_of(__name__, "torch.optim")
