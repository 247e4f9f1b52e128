"""`from deepcore.utils.data.dataloader import default_collate`, as from PyTorch's file of that name."""

from deepcore.data import DataLoader, default_collate, default_convert, get_worker_info

__all__ = ["DataLoader", "default_collate", "default_convert", "get_worker_info"]
