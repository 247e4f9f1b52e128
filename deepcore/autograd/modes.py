"""What can be switched for a stretch of code: recording, and watching every op."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from deepcore.autograd import graph
from deepcore.autograd.graph import brief, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import NonFiniteError

_LOCK = threading.Lock()


class _GradMode(contextlib.ContextDecorator):
    enabled = True

    def __init__(self):
        self._before: list[bool] = []

    def __enter__(self):
        self._before.append(mode.grad)
        mode.grad = self.enabled
        return self

    def __exit__(self, *exc) -> None:
        mode.grad = self._before.pop()

    def _recreate_cm(self):  # a decorated function may run in several threads at once
        return type(self)()


class no_grad(_GradMode):
    """Nothing is recorded inside; also a decorator."""

    enabled = False


class enable_grad(_GradMode):
    """Recording inside, also within `no_grad`; also a decorator."""


class set_grad_enabled(_GradMode):
    """`no_grad` or `enable_grad`, by a flag; takes effect at once and ends with the `with` block, if there is one."""

    def __init__(self, enabled: bool):
        super().__init__()
        self.enabled = bool(enabled)
        self._before.append(mode.grad)
        mode.grad = self.enabled

    def __enter__(self):
        mode.grad = self.enabled
        return self

    def _recreate_cm(self):
        return set_grad_enabled(self.enabled)


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return mode.grad


@contextlib.contextmanager
def intercept(watcher: Callable) -> Iterator[None]:
    """Inside, every op calls `watcher(proceed, op, inputs, params)`; `proceed(op, inputs, params)` runs it."""
    before = mode.hook
    proceed = before or graph.run

    def hook(op, inputs, params):
        return watcher(proceed, op, inputs, params)

    with _LOCK:
        graph.watchers += 1
    mode.hook = hook
    try:
        yield
    finally:
        mode.hook = before
        with _LOCK:
            graph.watchers -= 1


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Inside, the first op whose result has a NaN or infinity, forward or backward, raises `NonFiniteError`."""

    def check(proceed, op, inputs, params):
        out = proceed(op, inputs, params)
        if dt.is_floating(out.dtype) and not bool(out.backend.isfinite(out._data).all()):
            came_in = any(dt.is_floating(t.dtype) and not bool(t.backend.isfinite(t._data).all()) for t in inputs)
            raise NonFiniteError(
                f"{op.name} {'in the backward pass ' if mode.backward else ''}"
                + ("passed on" if came_in else "produced")
                + " a NaN or infinity",
                received=", ".join(brief(t) for t in inputs),
                fix="look at the inputs of this op; lower the learning rate or clip the gradients if it diverged",
            )
        return out

    with intercept(check):
        yield


class profile(contextlib.ContextDecorator):
    """Counts and times every op inside; `print(p)` shows the table, `p.rows` holds (op, calls, seconds).

    Times include waiting for the device, so that a GPU op is charged for its own work.
    """

    def __init__(self):
        self._seconds: dict[str, list] = {}

    def __enter__(self) -> profile:
        self._context = intercept(self._watch)
        self._context.__enter__()
        return self

    def __exit__(self, *exc) -> None:
        self._context.__exit__(*exc)

    def _watch(self, proceed, op, inputs, params):
        start = time.perf_counter()
        out = proceed(op, inputs, params)
        out.backend.synchronize()
        name = f"{op.name} (backward)" if mode.backward else op.name
        row = self._seconds.setdefault(name, [0, 0.0])
        row[0] += 1
        row[1] += time.perf_counter() - start
        return out

    @property
    def rows(self) -> list[tuple[str, int, float]]:
        return sorted(((n, c, s) for n, (c, s) in self._seconds.items()), key=lambda row: -row[2])

    def __str__(self) -> str:
        total = sum(row[2] for row in self.rows) or 1.0
        lines = [f"{'op':<32}{'calls':>8}{'ms':>12}{'share':>8}"]
        lines += [f"{n:<32}{c:>8}{s * 1e3:>12.3f}{s / total:>8.1%}" for n, c, s in self.rows]
        return "\n".join(lines)
