"""What the process of `codegen.background` runs."""

from __future__ import annotations

import contextlib
import signal
import sys

from deepcore.kernels import registry
from deepcore.kernels.codegen import background, cache, jit
from deepcore.kernels.cpu import optimizer


def serve() -> None:
    """Compile what comes in, a name a line, and say when it is done."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    background.forgo()
    if not cache.alone():
        return
    registry.discover()
    optimizer.kernel.define_all()
    for line in sys.stdin:
        with contextlib.suppress(Exception):
            jit.KERNELS[line.strip()].ready()
        print(flush=True)
