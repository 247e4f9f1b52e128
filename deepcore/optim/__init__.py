"""Optimizers and learning-rate schedules. Names, settings and defaults are PyTorch's."""

from deepcore.optim import lr_scheduler
from deepcore.optim.adam import Adam, AdamW
from deepcore.optim.lr_scheduler import SCHEDULERS
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer
from deepcore.optim.sgd import SGD

__all__ = ["OPTIMIZERS", "SCHEDULERS", "SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
