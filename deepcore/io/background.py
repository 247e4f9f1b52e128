"""Files written by a background thread, one after the other, from arrays that were copied first."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from deepcore import locks

#: Snapshots that may wait or be written at a time: a further one waits, so that memory is bounded.
_MOST = 2


class Saving:
    """A file that is being written: `done()`, and `wait()`, which raises what went wrong."""

    def __init__(self, path: str, write: Callable[[], Any]):
        self.path = os.path.realpath(path)
        self._write: Callable[[], Any] | None = write
        self._finished = threading.Event()
        self._error: BaseException | None = None
        self._reported = False

    def run(self) -> None:
        """Write the file, in the background thread."""
        assert self._write is not None
        try:
            self._write()
        except BaseException as error:
            self._error = error
        finally:
            self._write = None  # frees the copies
            self._finished.set()

    def done(self) -> bool:
        """Whether the file has been written, or has failed to be."""
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the file is written; False where `timeout` seconds passed before. Raises the error of the write."""
        if not self._finished.wait(timeout):
            return False
        if self._error is not None and not self._reported:
            self._reported = True
            raise self._error
        return True

    def finish(self) -> None:
        """Wait until the file is written, whatever comes of it."""
        self._finished.wait()

    def dismiss(self) -> None:
        """Wait until the file is written; an error of that is not reported."""
        self.finish()
        self._reported = True

    def unreported(self) -> BaseException | None:
        """The error that nobody has seen."""
        return None if self._reported else self._error


class Writer:
    """The background thread and its queue. The thread ends with the queue, and the process waits for it."""

    def __init__(self) -> None:
        locks.call_after_fork(self)
        self.after_fork()

    def after_fork(self) -> None:
        """Start afresh: a forked child has no such thread, and its parent writes what is in the queue."""
        self._changed = locks.condition()
        self._queue: deque[Saving] = deque()
        self._all: list[Saving] = []
        self._thread: threading.Thread | None = None

    def submit(self, path: str, write: Callable[[], Any]) -> Saving:
        """Queue a write."""
        saving = Saving(path, write)
        with self._changed:
            self._changed.wait_for(lambda: len(self._queue) < _MOST)
            self._all = [s for s in self._all if not s.done() or s.unreported() is not None]
            self._queue.append(saving)
            self._all.append(saving)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="deepcore-writer", daemon=False)
                self._thread.start()
        return saving

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._thread = None
                    return
                saving = self._queue[0]
            saving.run()
            with self._changed:
                self._queue.popleft()
                self._changed.notify_all()

    def wait_for(self, path: str) -> None:
        """Wait for the writes of this file that were queued before, whose order with another one matters."""
        if self._queue:
            name = os.path.realpath(path)
            for saving in list(self._queue):
                if saving.path == name:
                    saving.finish()

    def report(self) -> None:
        """At the end of the process: print errors that nobody has seen."""
        for saving in self._all:
            saving.finish()
            error = saving.unreported()
            if error is not None:
                print(f"deepcore: {saving.path!r} was not saved", file=sys.stderr)
                traceback.print_exception(error)


writer = Writer()
atexit.register(writer.report)
