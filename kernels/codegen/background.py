"""A worker process that compiles commonly used kernels ahead, while this process compiles its own.

Most of the compilation time is spent in Python, so threads would serialise on the GIL. The processes share only the
kernel cache: this one sends kernel names, one at a time, and loads the kernel from the cache after the reply.
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

#: Kernels of nearly every training step, the most valuable first.
COMMON_KERNELS = (
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
_WORKER_CODE = "import deepcore.optim; from deepcore.kernels import compile_worker; compile_worker.serve()"  # optim defines updates


class Worker:
    """The worker process and its queue."""

    def __init__(self, names):
        #: Kernels not started yet, and the one that the process is compiling.
        self.queue = deque(names)
        self.current: str | None = None
        self._changed = threading.Condition()
        # Same import path as this process; a session of its own, so that the terminal sends it no signals.
        path = os.pathsep.join(os.path.abspath(p) for p in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _WORKER_CODE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "DEEPCORE_CACHE": settings.cache_dir or ""},
            text=True, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.close)
        threading.Thread(target=self._feed, name="deepcore-background", daemon=True).start()

    def claim(self, name: str | None = None) -> str | None:
        """Remove a kernel, by default the next one, from the queue for the caller to compile; None if it is being compiled."""
        with self._changed:
            if name is None:
                return self.queue.popleft() if self.queue else None
            if name in self.queue:
                self.queue.remove(name)
            return None if name == self.current else name

    def wait(self, name: str, seconds: float = 30.0) -> bool:
        """Wait until the process is no longer compiling a kernel; False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self.current != name, seconds)

    def close(self) -> None:
        """Terminate the process, which removes its unfinished files."""
        with self._changed:
            self.queue.clear()
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def abandon(self) -> None:
        """In a forked child: leave the process to the parent, and close the pipes, which would keep it running."""
        atexit.unregister(self.close)
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                pipe.buffer.raw.close()  # type: ignore[union-attr]

    def _feed(self) -> None:
        requests, replies = self._process.stdin, self._process.stdout
        assert requests and replies
        with contextlib.suppress(OSError, ValueError):
            while self._next():
                requests.write(f"{self.current}\n")
                requests.flush()
                if not replies.readline():
                    break
        with self._changed:
            self.queue.clear()
            self.current = None
            self._changed.notify_all()
        atexit.unregister(self.close)
        self._process.kill()
        with contextlib.suppress(OSError), self._process:  # unsent data in the pipe is lost
            pass

    def _next(self) -> bool:
        with self._changed:
            self.current = self.queue.popleft() if self.queue else None
            self._changed.notify_all()
        return self.current is not None


_worker: Worker | None = None
_attempted = False


def worker() -> Worker | None:
    """The worker, started on first use; None with one thread, or where the executable is not a Python interpreter."""
    global _worker, _attempted
    if not _attempted:
        _attempted = True
        python = os.path.basename(sys.executable or "").lower().startswith(("python", "pypy"))
        if settings.threads > 1 and python and not getattr(sys, "frozen", False):
            with contextlib.suppress(OSError, RuntimeError):  # out of processes or threads
                _worker = Worker(COMMON_KERNELS)
    return _worker


def disable() -> None:
    """Never start a worker in this process."""
    global _worker, _attempted
    _worker, _attempted = None, True


def _after_fork() -> None:
    if _worker is not None:
        _worker.abandon()
    disable()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
