"""Main function of the compiler process that `codegen.background` starts."""

from __future__ import annotations

import contextlib
import signal
import sys

from deepcore.kernels import registry
from deepcore.kernels.codegen import background, cache, jit
from deepcore.kernels.cpu import optimizer


def serve() -> None:
    """Compile the kernels named on stdin, one per line; write an empty line after each."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    background.disable()
    if not cache.lock_folder():
        return
    registry.discover()
    optimizer.kernel.define_all()
    for line in sys.stdin:
        with contextlib.suppress(Exception):
            jit.KERNELS[line.strip()].ready()
        print(flush=True)
