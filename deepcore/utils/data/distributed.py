"""`from deepcore.utils.data.distributed import DistributedSampler`, as from PyTorch's file of that name."""

from deepcore.data.sampler import DistributedSampler

__all__ = ["DistributedSampler"]
