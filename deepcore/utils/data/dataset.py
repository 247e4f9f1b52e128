"""`from deepcore.utils.data.dataset import Dataset`, as from PyTorch's file of that name."""

from deepcore.data.dataset import ConcatDataset, Dataset, StackDataset, Subset, TensorDataset, random_split

__all__ = ["ConcatDataset", "Dataset", "StackDataset", "Subset", "TensorDataset", "random_split"]
