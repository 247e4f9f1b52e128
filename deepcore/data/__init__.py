"""Datasets, their order, and batches of them.

`vision`, `audio`, `text` and `tabular` have readers and transforms of these kinds of data.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from deepcore import missing
from deepcore.data.arrays import NumpyFiles
from deepcore.data.cifar import cifar10, cifar100
from deepcore.data.collate import default_collate, default_convert
from deepcore.data.dataset import (
    ChainDataset,
    ConcatDataset,
    Dataset,
    IterableDataset,
    StackDataset,
    Subset,
    TensorDataset,
    random_split,
)
from deepcore.data.datasets import digits, mnist
from deepcore.data.loader import DataLoader
from deepcore.data.prefetching import prefetch
from deepcore.data.ratings import MovieLens
from deepcore.data.sampler import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from deepcore.data.workers import WorkerInfo, get_worker_info
from deepcore.io.idx import read_idx, write_idx

if TYPE_CHECKING:
    from deepcore.data import audio, tabular, text, vision

__all__ = [
    "BatchSampler",
    "ChainDataset",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "DistributedSampler",
    "IterableDataset",
    "MovieLens",
    "NumpyFiles",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "StackDataset",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "WorkerInfo",
    "audio",
    "cifar10",
    "cifar100",
    "default_collate",
    "default_convert",
    "digits",
    "get_worker_info",
    "mnist",
    "prefetch",
    "random_split",
    "read_idx",
    "tabular",
    "text",
    "vision",
    "write_idx",
]

_missing = missing.names_of(__name__, "torch.utils.data")


def __getattr__(name: str):
    # Loaded when first used: a loader needs none of them.
    if name in ("audio", "tabular", "text", "vision"):
        return importlib.import_module(f"{__name__}.{name}")
    return _missing(name)
