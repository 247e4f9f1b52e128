"""SIGTERM and SIGHUP as an exception, so that a command ends with its own exit status."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

TERMINATING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception; `signum` is its number."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


@contextlib.contextmanager
def terminated() -> Iterator[None]:
    """Context manager: SIGTERM and SIGHUP raise `Terminated` where they would end the process; main thread only."""

    def handle(signum, frame):
        raise Terminated(signum)

    before = {}
    try:
        for signum in TERMINATING:
            if signal.getsignal(signum) == signal.SIG_DFL:
                with contextlib.suppress(ValueError):
                    before[signum] = signal.signal(signum, handle)
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
