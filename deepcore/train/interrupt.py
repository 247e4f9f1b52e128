"""Ctrl-C and notebook interrupts during training: the first asks to stop, the second stops."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import Any

_NOTICE = b"\nstopping after this step; Ctrl-C again stops at once\n"


class Interrupts:
    """Inside, the first SIGINT sets `requested` and the next raises `KeyboardInterrupt`; the old handler comes back.

    Does nothing outside the main thread, and where SIGINT is ignored (a background job).
    """

    def __init__(self, notice: bool = True):
        self.requested = False
        self._notice = notice
        self._before: Any = None

    def __enter__(self) -> Interrupts:
        if callable(signal.getsignal(signal.SIGINT)):
            with contextlib.suppress(ValueError):  # another thread, or a subinterpreter
                self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _handle(self, signum, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Python's streams may be in the middle of a write: go around them.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._notice and sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _NOTICE)
