"""Training: `Trainer`, its `History`, and callbacks."""

from __future__ import annotations

from deepcore.train.callbacks import (
    BackupAndRestore,
    Callback,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)
from deepcore.train.history import History
from deepcore.train.progress import ProgressBar
from deepcore.train.tensorboard import TensorBoard
from deepcore.train.trainer import Trainer

#: Keras's name of the same callback.
ProgbarLogger = ProgressBar

__all__ = [
    "BackupAndRestore",
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TensorBoard",
    "TerminateOnNaN",
    "Trainer",
]
