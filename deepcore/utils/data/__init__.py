"""`dc.data` under PyTorch's name: `from deepcore.utils.data import DataLoader`."""

from deepcore import data, missing
from deepcore.data import *  # noqa: F403
from deepcore.utils.data import dataloader, dataset, distributed, sampler

__all__ = data.__all__

__getattr__ = missing.names_of(__name__, "torch.utils.data", __all__)
