"""Signals during training: they ask it to stop after the step under way, and have their own effect afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import Any

_NOTICE = b"\nstopping after this step; Ctrl-C again stops at once\n"
#: What asks a process to end: a supervisor's stop, and the terminal or connection that was closed.
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Inside, SIGINT, SIGTERM and SIGHUP set `requested`; the old handlers come back.

    A second SIGINT (Ctrl-C) raises `KeyboardInterrupt`. SIGTERM and SIGHUP often come in pairs, and only the first
    counts: `redeliver()`, called once all is saved, raises it again under the handler there was, which by default
    ends the process. Does nothing outside the main thread, and leaves a signal that is ignored (SIGINT in a
    background job, SIGHUP under nohup) ignored.
    """

    def __init__(self, notice: bool = True):
        self.requested = False
        self._notice = notice
        self._before: dict[int, Any] = {}
        self._process = os.getpid()
        self._terminating: int | None = None

    def __enter__(self) -> Interrupts:
        for signum in (signal.SIGINT, *TERMINATING):
            handler = signal.getsignal(signum)
            # None: a handler that was not installed from Python, and cannot be put back.
            if callable(handler) or (handler == signal.SIG_DFL and signum in TERMINATING):
                with contextlib.suppress(ValueError):  # another thread, or a subinterpreter
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def redeliver(self, error: BaseException | None = None) -> None:
        """Give a SIGTERM or SIGHUP that came the effect that it has outside; `error` is shown, if that ends the process."""
        if self._terminating is not None:
            signum, self._terminating = self._terminating, None
            if error is not None and signal.getsignal(signum) == signal.SIG_DFL:
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    traceback.print_exception(error)
            for stream in (sys.stdout, sys.stderr):  # the default effect writes no buffers
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            signal.raise_signal(signum)

    def _handle(self, signum, frame) -> None:
        if os.getpid() != self._process:  # a forked child, to which this run does not belong
            signal.signal(signum, self._before[signum])
            signal.raise_signal(signum)
            return
        if signum in TERMINATING:
            self._terminating = self._terminating or signum
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Python's streams may be in the middle of a write: go around them.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._notice and signum == signal.SIGINT and sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _NOTICE)
