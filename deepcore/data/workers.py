"""Worker processes for the loader.

Each has a one-way pipe of its own and its share of the pass from the start: batch i goes to worker i mod n. Nobody
waits for a lock that a dead process may hold, and a worker that dies shows as the end of its pipe.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
import warnings
import weakref
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from deepcore.config import settings
from deepcore.errors import ArgumentError, DataError

# A larger message costs the reading end an allocation of its whole size for every piece that the pipe delivers.
_PIECE = 1 << 18

# Reading ends of every worker's pipe: a forked worker closes its copies, or its siblings would never see them close.
_reading_ends: weakref.WeakSet = weakref.WeakSet()


def run(fetch: Callable, jobs: list[tuple], count: int, ahead: int, method: str | None) -> Generator[Any, None, None]:
    """`fetch(*job)` for each job, in order, computed by `count` processes. Closing the iterator ends them."""
    try:
        context: Any = multiprocessing.get_context(method)
    except ValueError:
        raise ArgumentError(
            f"processes cannot be started by {method!r} here",
            expected="one of " + ", ".join(multiprocessing.get_all_start_methods()),
        ) from None
    count = min(count, len(jobs))
    started: list[tuple[Any, Connection]] = []
    done, owner = False, os.getpid()
    try:
        for first in range(count):
            started.append(_start(context, fetch, jobs[first::count], ahead))
        for i in range(len(jobs)):
            if os.getpid() != owner:
                raise DataError(
                    "this pass over a loader belongs to the process that began it",
                    fix="begin one of its own in the forked process: iter(loader)",
                )
            yield _receive(*started[i % count], worker=i % count, method=context.get_start_method())
        done = True
    finally:
        if os.getpid() == owner:  # a forked copy of the program leaves them alone
            _stop(started, at_once=not done)


def _start(context, fetch, jobs, ahead: int) -> tuple[Any, Connection]:
    reading, writing = context.Pipe(duplex=False)
    _reading_ends.add(reading)
    process = context.Process(target=_work, args=(writing, fetch, jobs, ahead), daemon=True, name="deepcore-loader")
    try:
        with warnings.catch_warnings():
            # Python warns of forking with threads about; the worker uses none of their locks.
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            process.start()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        reading.close()
        raise DataError(
            f"the dataset cannot be sent to a worker process: {error}",
            fix="define the dataset and collate_fn at module level (no lambdas, no open files); or num_workers=0",
        ) from error
    finally:
        writing.close()
    return process, reading


def _receive(process, reading: Connection, worker: int, method: str):
    """The next result of one worker; what it raised is raised here."""
    wait([reading, process.sentinel])
    try:
        if not reading.poll():  # it ended, and left nothing
            raise EOFError
        kind, value = _read(reading)
    except (EOFError, OSError):
        process.join(5)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        fix = "look for its own message above; signal 9 is often the system running out of memory"
        if method != "fork":
            fix += "; a script that starts workers must do so under: if __name__ == '__main__':"
        raise DataError(f"worker {worker} of the loader died ({how})", fix=fix) from None
    if kind == "batch":
        return value
    error, text = value
    if error is None:
        raise DataError(f"worker {worker} of the loader failed", received=text)
    error.add_note(f"In worker {worker} of the loader:\n{text}")
    raise error


def _write(writing: Connection, value) -> None:
    """Arrays go as they lie in memory, in pieces; only what holds them is pickled."""
    arrays: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    writing.send_bytes(pickle.dumps((frame, [view.nbytes for view in views])))
    for view in views:
        for start in range(0, view.nbytes, _PIECE):
            writing.send_bytes(view[start : start + _PIECE])


def _read(reading: Connection):
    frame, sizes = pickle.loads(reading.recv_bytes())
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        for start in range(0, array.size, _PIECE):
            reading.recv_bytes_into(array[start : start + _PIECE].data)
    return pickle.loads(frame, buffers=arrays)


def _stop(started: list[tuple[Any, Connection]], at_once: bool) -> None:
    for process, reading in started:
        reading.close()
        if at_once:
            process.terminate()
    for process, _ in started:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


# -- in the worker ----------------------------------------------------------------------------------
def _work(writing: Connection, fetch: Callable, jobs: list[tuple], ahead: int) -> None:
    # Ctrl-C goes to every process of the terminal; the loader ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for inherited in list(_reading_ends):
        with contextlib.suppress(OSError):
            inherited.close()
    settings.backend = "cpu"  # a GPU cannot be used after a fork
    settings.threads = 1  # as many processes as cores: more threads would only get in each other's way
    results: queue.SimpleQueue = queue.SimpleQueue()
    room = threading.Semaphore(ahead)
    sender = threading.Thread(target=_send, args=(writing, results, room), daemon=True)
    sender.start()
    for job in jobs:
        room.acquire()
        try:
            results.put(("batch", fetch(*job)))
        except BaseException as error:
            results.put(("error", _portable(error)))
            break
    results.put(None)
    sender.join()


def _send(writing: Connection, results: queue.SimpleQueue, room: threading.Semaphore) -> None:
    try:
        while (result := results.get()) is not None:
            try:
                _write(writing, result)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                _write(writing, ("error", _portable(error)))
            room.release()
        writing.close()
    except OSError:  # nobody reads any more
        os._exit(1)


def _portable(error: BaseException) -> tuple[BaseException | None, str]:
    """The error, if it survives the way to another process, and its traceback as text."""
    text = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None, text
    return error, text
