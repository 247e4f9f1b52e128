"""Optimizers and learning-rate schedules. Names, settings and defaults are PyTorch's."""

from deepcore import missing
from deepcore.nn.registry import discover
from deepcore.optim import lr_scheduler
from deepcore.optim.adam import Adam, AdamW
from deepcore.optim.lr_scheduler import SCHEDULERS
from deepcore.optim.optimizer import OPTIMIZERS, Optimizer
from deepcore.optim.sgd import SGD

__all__ = ["OPTIMIZERS", "SCHEDULERS", "SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]

# The names above are for editors; what any other file of this folder registers is here as well.
globals().update(discover(__name__, __path__, OPTIMIZERS))

__getattr__ = missing.names_of(__name__, "torch.optim")
