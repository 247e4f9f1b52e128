"""Signals during training: they request a stop after the current step, and are raised again afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import Any

_NOTICE = b"\nstopping after this step; Ctrl-C again stops at once\n"
#: Signals that end a process: a supervisor's stop, and a closed terminal or connection.
TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupts:
    """Context manager in which SIGINT, SIGTERM and SIGHUP set `requested`; the previous handlers are restored on exit.

    A second SIGINT (Ctrl-C) raises `KeyboardInterrupt`. SIGTERM and SIGHUP often come in pairs, and only the first
    counts: `redeliver()`, called after saving, raises it again under the previous handler, which by default
    ends the process. Does nothing outside the main thread, and leaves ignored signals (SIGINT in a
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
            # None: a handler not installed from Python, which cannot be restored.
            if callable(handler) or (handler == signal.SIG_DFL and signum in TERMINATING):
                with contextlib.suppress(ValueError):  # another thread, or a subinterpreter
                    self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def redeliver(self, error: BaseException | None = None) -> None:
        """Raise a received SIGTERM or SIGHUP under the previous handler; prints `error` if that ends the process."""
        if self._terminating is not None:
            signum, self._terminating = self._terminating, None
            if error is not None and signal.getsignal(signum) == signal.SIG_DFL:
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    traceback.print_exception(error)
            for stream in (sys.stdout, sys.stderr):  # the default handler does not flush buffers
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            signal.raise_signal(signum)

    def _handle(self, signum, frame) -> None:
        if os.getpid() != self._process:  # a forked child, where no run is active
            signal.signal(signum, self._before[signum])
            signal.raise_signal(signum)
            return
        if signum in TERMINATING:
            self._terminating = self._terminating or signum
        elif self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Python's streams may be in the middle of a write, so write to the descriptor.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._notice and signum == signal.SIGINT and sys.stderr.isatty():
                os.write(sys.stderr.fileno(), _NOTICE)
