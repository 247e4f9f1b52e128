"""Files: safetensors, checkpoints, IDX, and the samples that `deepcore predict` reads. No file is ever unpickled."""

from __future__ import annotations

from deepcore.io.checkpoint import (
    from_bytes,
    load,
    load_checkpoint,
    read_checkpoint,
    save,
    save_checkpoint,
    to_bytes,
)
from deepcore.io.idx import read_idx, write_idx
from deepcore.io.readers import read_samples

__all__ = [
    "from_bytes",
    "load",
    "load_checkpoint",
    "read_checkpoint",
    "read_idx",
    "read_samples",
    "save",
    "save_checkpoint",
    "to_bytes",
    "write_idx",
]
