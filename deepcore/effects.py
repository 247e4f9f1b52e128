"""Modes of the current thread, and effects: reads and writes of state besides the values that ops compute.

Values pass `autograd.apply`, effects `effect`. While `dc.compile` records a function, both reach its recorder, which is
`mode.tracer`; nothing else in deepcore knows about it.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any


class Mode(threading.local):
    """State of the current thread: whether graphs are recorded, autocasting, and the hook and tracer of its ops."""

    #: The `autograd.autocast.State`; that of a new thread.
    autocast: Any = None

    def __init__(self):
        self.grad = True
        #: Called in place of each op: profilers, anomaly detection, the recorder.
        self.hook: Callable | None = None
        #: The recorder of `dc.compile`, while it records this thread.
        self.tracer: Any = None
        #: The innermost running `autograd.levels.Level`: a vmap or a jvp.
        self.level: Any = None
        self.backward = False
        self.transforms = 0
        #: The `profiler.events.Watch` of this thread, while it is profiled.
        self.profiler: Any = None
        #: While a hook is set: the modules whose forward runs, and the node whose gradient is computed.
        self.layers: list = []
        self.node: Any = None
        # NumPy's overflow and divide warnings are off in this context: 30 times cheaper than np.errstate for each op.
        self.context = contextvars.copy_context()
        self.enter = self.context.run
        self.enter(_silence_numpy)


def _silence_numpy() -> None:
    from deepcore.backend import get_backend

    get_backend("cpu").seterr(all="ignore")


mode = Mode()


def effect(kind: str, run: Callable, *operands):
    """Run an effect, `run(*operands)`, of a kind: `write`, `accumulate`, `update`, `draw`, …

    While the thread is recorded, the recorder's method of that name runs and records it.
    """
    tracer = mode.tracer
    return run(*operands) if tracer is None else getattr(tracer, kind)(run, *operands)


def untraceable(what: str) -> None:
    """Report what no program can do, such as reading a tensor's value in Python; the function then runs eagerly."""
    if mode.tracer is not None:
        mode.tracer.note(what)


def unrecorded() -> contextlib.AbstractContextManager[None]:
    """Context of what happens once, such as the initialisation of a lazy layer, and is no part of a program."""
    return contextlib.nullcontext() if mode.tracer is None else mode.tracer.paused()
