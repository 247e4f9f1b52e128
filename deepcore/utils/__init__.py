"""`dc.utils`, for PyTorch's `torch.utils`: `dc.utils.data` is `dc.data`."""

from deepcore import missing
from deepcore.utils import checkpoint, data

__all__ = ["checkpoint", "data"]

__getattr__ = missing.names_of(__name__, "torch.utils", __all__)
