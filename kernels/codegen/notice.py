"""One line on the screen where somebody waits for kernels to be compiled."""

from __future__ import annotations

import sys
import threading
import time

#: Seconds of waiting, in all, after which the line appears.
PATIENCE = 1.0


class Waiting:
    """Context: a kernel is being compiled. The first time that this has taken a second in all, a line says so."""

    waited = 0.0
    said = False

    def __enter__(self) -> Waiting:
        self._start = time.monotonic()
        self._timer: threading.Timer | None = None
        if not Waiting.said and _is_watched():
            self._timer = threading.Timer(max(0.0, PATIENCE - Waiting.waited), _say)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exc) -> None:
        if self._timer is not None:
            self._timer.cancel()
        Waiting.waited += time.monotonic() - self._start


def _is_watched() -> bool:
    """Whether a person reads standard error: a terminal, or a notebook."""
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())


def _say() -> None:
    if not Waiting.said:
        Waiting.said = True
        print(
            "deepcore: compiling kernels, once; later runs load them (deepcore cache says where)",
            file=sys.stderr,
            flush=True,
        )
