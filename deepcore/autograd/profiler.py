"""PyTorch's older place of the profiler: see `deepcore.profiler`."""

from __future__ import annotations

from deepcore import missing
from deepcore.profiler import profile, record_function

__all__ = ["profile", "record_function"]

__getattr__ = missing.names_of(__name__, "torch.autograd.profiler")
