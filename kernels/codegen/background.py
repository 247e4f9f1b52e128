"""A second process that compiles what usually comes next, while this one waits for the compiler.

Compiling is Python's work more than LLVM's, so threads would take turns. The processes share nothing but the cache: this
one sends names, one at a time, and finds the kernel there once it is told that it is done.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import sys
import threading
from collections import deque

from deepcore.config import settings

#: What nearly every training step needs, in the order in which it is worth having.
USUAL = (
    "gemm_float32",
    "pool_run",
    "sum_columns_float32",
    "pool_serve",
    "update_gather",
    "gradient_finite_float32",
    "cross_entropy_grad_tiles_float32",
    "cross_entropy_loss_float32",
    "targets_float32",
    "gemm_pack_rows_float32",
    "pool_limit",
    "update_momentum_float32",
    "update_adam_float32",
    "gemm_pack_float32",
    *(f"{name}_float32{kinds}" for name in ("add", "sub", "mul", "true_divide") for kinds in ("", "_vs", "_vr")),
)
_SERVE = "import deepcore.optim; from deepcore.kernels import compile_worker; compile_worker.serve()"  # optim defines updates


class Helper:
    """The other process, and what it has been given."""

    def __init__(self, names):
        #: What nobody has begun, and what the process is at.
        self.waiting = deque(names)
        self.current: str | None = None
        self._changed = threading.Condition()
        # It imports what this process would, and has no part in what the terminal sends.
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "DEEPCORE_CACHE": settings.cache_dir or ""},
            text=True, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        threading.Thread(target=self._feed, name="deepcore-background", daemon=True).start()

    def take(self, name: str | None = None) -> str | None:
        """That name, or whichever is next, if nobody has begun it: it is the caller's then."""
        with self._changed:
            if name is None:
                return self.waiting.popleft() if self.waiting else None
            if name in self.waiting:
                self.waiting.remove(name)
            return None if name == self.current else name

    def wait(self, name: str, seconds: float = 30.0) -> bool:
        """Wait until the process is not at it any more; False where that takes too long."""
        with self._changed:
            return self._changed.wait_for(lambda: self.current != name, seconds)

    def close(self) -> None:
        """End the process, which takes back what it has half written."""
        with self._changed:
            self.waiting.clear()
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def abandon(self) -> None:
        """In a fork: leave the process to the parent, and hold no end of its pipes, which would keep it."""
        atexit.unregister(self.close)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                pipe.buffer.raw.close()  # type: ignore[union-attr]

    def _feed(self) -> None:
        given, done = self._process.stdin, self._process.stdout
        assert given and done
        with contextlib.suppress(OSError, ValueError):
            while self._begin():
                given.write(f"{self.current}\n")
                given.flush()
                if not done.readline():
                    break
        with self._changed:
            self.waiting.clear()
            self.current = None
            self._changed.notify_all()
        atexit.unregister(self.close)
        self._process.kill()
        with contextlib.suppress(OSError), self._process:  # what it was not sent cannot be sent now
            pass

    def _begin(self) -> bool:
        with self._changed:
            self.current = self.waiting.popleft() if self.waiting else None
            self._changed.notify_all()
        return self.current is not None


_helper: Helper | None = None
_tried = False


def helper() -> Helper | None:
    """The helper, started when first asked for; None where there is to be none: with one thread, or in a program that is
    not Python's own."""
    global _helper, _tried
    if not _tried:
        _tried = True
        python = os.path.basename(sys.executable or "").lower().startswith(("python", "pypy"))
        if settings.threads > 1 and python and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError, RuntimeError):  # no more processes, or threads
                _helper = Helper(USUAL)
    return _helper


def disable() -> None:
    """Have no helper in this process."""
    global _helper, _tried
    _helper, _tried = None, True


def _forked() -> None:
    if _helper is not None:
        _helper.abandon()
    disable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
