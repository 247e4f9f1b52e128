"""A notice on standard error when kernel compilation takes long."""

from __future__ import annotations

import sys
import threading
import time

#: Total seconds of compilation after which the notice is printed.
PATIENCE_S = 1.0


class CompileNotice:
    """Context manager around a compilation. Prints the notice once, after a total of `PATIENCE_S` seconds."""

    seconds = 0.0
    printed = False

    def __enter__(self) -> CompileNotice:
        self._start = time.monotonic()
        self._timer: threading.Timer | None = None
        if not CompileNotice.printed and _is_interactive():
            self._timer = threading.Timer(max(0.0, PATIENCE_S - CompileNotice.seconds), _print_notice)
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *exc) -> None:
        if self._timer is not None:
            self._timer.cancel()
        CompileNotice.seconds += time.monotonic() - self._start


def _is_interactive() -> bool:
    """Whether standard error is a terminal or a notebook."""
    return "ipykernel" in sys.modules or bool(sys.stderr and sys.stderr.isatty())


def _print_notice() -> None:
    if not CompileNotice.printed:
        CompileNotice.printed = True
        print(
            "deepcore: compiling kernels, once; later runs load them (deepcore cache says where)",
            file=sys.stderr,
            flush=True,
        )
