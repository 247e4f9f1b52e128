"""Warnings attributed to the user's line."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from deepcore.errors import DeepcoreWarning

_PACKAGE = str(Path(__file__).resolve().parent.parent)


def warn_user(message: str) -> None:
    """Issue a `DeepcoreWarning` at the innermost line outside deepcore."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back  # type: ignore[assignment]
    warnings.warn(message, DeepcoreWarning, stacklevel=level)
