"""The schedule of a run's own checkpoints, and the choice of those to keep."""

from __future__ import annotations

import contextlib
import os
import re
from time import monotonic

from deepcore.errors import ArgumentError

CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
#: Resuming from the end of an epoch is best, so a checkpoint is due there after this fraction of the interval.
_END_FRACTION = 1 / 6
_NUMBERED = re.compile(r"checkpoint-(\d{4,})\.safetensors")


class Autosave:
    """The checkpoints in `folder` (None: there are none).

    Within an epoch, one is due `every` seconds after the last one; at the end of an epoch, a sixth of that after the last
    one written at an end. None: never.
    `keep`: the number of end-of-epoch checkpoints kept beside the newest one.
    """

    def __init__(self, folder: str | None, every: float | None, keep: int):
        if every is not None and (isinstance(every, bool) or not isinstance(every, (int, float)) or not every >= 0):
            raise ArgumentError(
                "save_every is a number of seconds, or None", expected="0 or more", received=f"save_every={every!r}"
            )
        if keep and folder is None:
            raise ArgumentError("keep needs a folder to keep checkpoints in", fix='Trainer(…, out="folder")')
        self.folder, self.keep = folder, keep
        self._every = float("inf") if every is None or folder is None else float(every)
        self._last = self._last_end = monotonic()
        #: Whether checkpoints are due by time.
        self.timed = self._every < float("inf")

    def mark_written(self, at_end: bool) -> None:
        """Restart the interval after a write; `at_end`: at the end of an epoch."""
        self._last = monotonic()
        if at_end:
            self._last_end = self._last

    def is_due(self, at_end: bool = False) -> bool:
        """Whether a checkpoint is due; `at_end` of an epoch."""
        if at_end:
            return monotonic() - self._last_end >= self._every * _END_FRACTION
        return monotonic() - self._last >= self._every

    @property
    def path(self) -> str:
        """The newest checkpoint."""
        assert self.folder is not None
        return os.path.join(self.folder, CHECKPOINT)

    def numbered(self, epoch: int) -> str:
        """The path of the kept checkpoint after `epoch` epochs."""
        assert self.folder is not None
        return os.path.join(self.folder, f"checkpoint-{epoch:04d}.safetensors")

    def prune(self, epoch: int) -> None:
        """Remove the numbered checkpoints up to `epoch`, except the last `keep` of them."""
        assert self.folder is not None
        numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, os.listdir(self.folder)) if match]
        for number in sorted(n for n in numbers if n <= epoch)[: -self.keep]:
            with contextlib.suppress(OSError):
                os.unlink(self.numbered(number))
