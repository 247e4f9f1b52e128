"""Worker processes for the loader.

Each has a one-way pipe of its own and its share of the pass from the start: batch i goes to worker i mod n. Nobody
waits for a lock that a dead process may hold, and a worker that dies shows as the end of its pipe. Workers end with
their parent, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import multiprocessing
import os
import pickle
import queue
import random
import signal
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from deepcore.config import settings
from deepcore.errors import ArgumentError, DataError
from deepcore.random import default_generator, derive_stream

# A larger message costs the reading end an allocation of its whole size for every piece that the pipe delivers.
_PIECE = 1 << 18

# Reading ends of every worker's pipe: a forked worker closes its copies, or its siblings would never see them close.
_reading_ends: weakref.WeakSet = weakref.WeakSet()


_SENDABLE = "return arrays, numbers and text from __getitem__ and collate_fn; or num_workers=0"
_GUARD = "a script that starts workers must do so under: if __name__ == '__main__':"
# A wait in one piece may miss a signal that another thread of the program receives.
_TURN = 1.0


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """A worker process of a loader: its number, how many there are, a seed of its own, and its copy of the dataset.

    `seed` (64 bits) is a function of the loader's seed, the epoch and `id`.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """In a worker process of a `DataLoader`, what it is; None everywhere else."""
    return _info


def run(
    fetch: Callable, jobs: list[tuple], count: int, ahead: int, method: str | None, timeout: float = 0
) -> Generator[Any, None, None]:
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
    import numpy.random  # noqa: F401  once here, not once in each process

    try:
        for first in range(count):
            started.append(_start(context, fetch, jobs[first::count], ahead, (first, count)))
        for i, job in enumerate(jobs):
            if os.getpid() != owner:
                raise DataError(
                    "this pass over a loader belongs to the process that began it",
                    fix="begin one of its own in the forked process: iter(loader)",
                )
            yield _receive(*started[i % count], i % count, job, context.get_start_method(), timeout)
        done = True
    finally:
        if os.getpid() == owner:  # a forked copy of the program leaves them alone
            _stop(started, at_once=not done)


def _start(context, fetch, jobs, ahead: int, place: tuple[int, int]) -> tuple[Any, Connection]:
    with contextlib.ExitStack() as undo:
        try:
            reading, writing = context.Pipe(duplex=False)
            undo.callback(reading.close)
            _reading_ends.add(reading)
            # Linux counts the end of the thread that started a process as its parent's.
            lasting = threading.current_thread() is threading.main_thread()
            process = context.Process(
                target=_work, args=(writing, fetch, jobs, ahead, place, lasting), daemon=True, name="deepcore-loader"
            )
            with contextlib.closing(writing), warnings.catch_warnings():
                # Python warns of forking with threads about; the worker uses none of their locks.
                warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
                process.start()
        except Exception as error:  # a dataset may raise anything while it is pickled
            raise _not_started(error, place[0]) from error
        undo.pop_all()
    return process, reading


def _not_started(error: Exception, worker: int) -> DataError:
    if isinstance(error, BrokenPipeError):  # it ended before it had read the dataset
        fix = f"look for its own message above; {_GUARD}"
        return DataError(f"worker {worker} of the loader died while it was started", fix=fix)
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return DataError(f"worker {worker} of the loader cannot be started: {error}", fix="a smaller num_workers")
    return DataError(
        f"the dataset cannot be sent to a worker process: {_told(error)}",
        fix="define the dataset and collate_fn at module level (no lambdas, no open files); or num_workers=0",
    )


def _receive(process, reading: Connection, worker: int, job: tuple, method: str, timeout: float):
    """The next result of one worker; what it raised is raised here."""
    late = False

    def end():
        nonlocal late
        late = True
        with contextlib.suppress(ValueError):  # the pass has ended meanwhile
            process.kill()  # which ends the read

    try:
        deadline = time.monotonic() + timeout if timeout else float("inf")
        while not wait([reading, process.sentinel], min(_TURN, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                end()
                raise EOFError
        if not reading.poll():  # it ended, and left nothing
            raise EOFError
        with _alarm(deadline - time.monotonic(), end) if timeout else contextlib.nullcontext():
            kind, frame, arrays = _read(reading)
        if late:
            raise EOFError
    except (EOFError, OSError):
        if late:
            raise DataError(
                f"worker {worker} of the loader sent nothing for {timeout:g} s",
                where=_batch(job),
                fix="a larger timeout, or see what these samples wait for: dataset[i] for each, in this process",
            ) from None
        process.join(5)
        code = process.exitcode
        how = f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        fix = "look for its own message above; signal 9 is often the system running out of memory"
        if method != "fork":
            fix += f"; {_GUARD}"
        raise DataError(f"worker {worker} of the loader died ({how})", where=_batch(job), fix=fix) from None
    try:
        value = pickle.loads(frame, buffers=arrays)
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise DataError(
            f"what worker {worker} of the loader made cannot be rebuilt here: {_told(problem)}",
            where=_batch(job),
            fix=_SENDABLE,
        ) from problem
    if kind == "batch":
        return value
    pickled, text = value
    if kind == "unsendable":
        raise DataError(
            f"what worker {worker} of the loader made cannot be sent: " + text.rstrip().rpartition("\n")[2],
            received=text,
            where=_batch(job),
            fix=_SENDABLE,
        )
    error = _unpickled(pickled)
    # StopIteration would end the pass, and what is no Exception the program.
    if not isinstance(error, Exception) or isinstance(error, (StopIteration, StopAsyncIteration)):
        raise DataError(f"worker {worker} of the loader failed", received=text, where=_batch(job))
    error.add_note(f"In worker {worker} of the loader, {_batch(job)}:\n{text}")
    raise error


@contextlib.contextmanager
def _alarm(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Inside, `function` is called in another thread once that time has passed."""
    timer = threading.Timer(max(0.0, seconds), function)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _unpickled(pickled: bytes | None):
    """An error from another process, or None where it cannot be rebuilt."""
    try:
        return None if pickled is None else pickle.loads(pickled)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def _batch(job: tuple) -> str:
    number, indices = job
    shown = ", ".join(map(str, indices[:20].tolist()))
    return f"batch {number}, samples {shown}" + (f", … ({len(indices)} in all)" if len(indices) > 20 else "")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _frame(kind: str, value) -> tuple[bytes, list[memoryview]]:
    """A message, ready to be sent: arrays as they lie in memory; only what holds them is pickled."""
    arrays: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    return pickle.dumps((kind, frame, [view.nbytes for view in views])), views


def _write(writing: Connection, frame: bytes, views: list[memoryview]) -> None:
    writing.send_bytes(frame)
    for view in views:
        for start in range(0, view.nbytes, _PIECE):
            writing.send_bytes(view[start : start + _PIECE])


def _read(reading: Connection) -> tuple[str, bytes, list]:
    kind, frame, sizes = pickle.loads(reading.recv_bytes())
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        for start in range(0, array.size, _PIECE):
            reading.recv_bytes_into(array[start : start + _PIECE].data)
    return kind, frame, arrays


def _stop(started: list[tuple[Any, Connection]], at_once: bool) -> None:
    for process, reading in started:
        reading.close()
        if at_once:
            process.terminate()
    deadline = time.monotonic() + 5
    for process, _ in started:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


# -- in the worker ----------------------------------------------------------------------------------
def _work(
    writing: Connection, fetch: Callable, jobs: list[tuple], ahead: int, place: tuple[int, int], lasting: bool
) -> None:
    # Ctrl-C goes to every process of the terminal; the loader ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent(lasting)
    for inherited in list(_reading_ends):
        with contextlib.suppress(OSError):
            inherited.close()
    settings.backend = "cpu"  # a GPU cannot be used after a fork
    settings.threads = 1  # as many processes as cores: more threads would only get in each other's way
    global _info
    seed: int = fetch.seed  # type: ignore[attr-defined]
    epoch: int = fetch.epoch  # type: ignore[attr-defined]
    _info = WorkerInfo(*place, derive_stream(seed, epoch, place[0], 3), fetch.dataset)  # type: ignore[attr-defined]
    results: queue.SimpleQueue = queue.SimpleQueue()
    room = threading.Semaphore(ahead)
    sender = threading.Thread(target=_send, args=(writing, results, room), daemon=True)
    sender.start()
    for job in jobs:
        room.acquire()
        try:
            _seed(derive_stream(seed, epoch, job[0], 2))
            results.put(("batch", fetch(*job)))
        except BaseException as error:
            results.put(("error", _portable(error)))
            break
    results.put(None)
    sender.join()


def _seed(seed: int) -> None:
    """Seed what this process draws from: forked workers have copies of one state, new ones whatever the system gave."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # 32 bits take a tenth of the time of an array of them
    default_generator.manual_seed(seed)


def _end_with_parent(lasting: bool) -> None:
    """End this process when its parent does, even in a sample that takes long; `lasting`: the main thread started it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # by the kernel: also in C code that holds Python's lock
        import fcntl

        if lasting:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        # The end of a thread, or that of a fork server, is not the parent's; the other end of its pipe is closed then.
        with contextlib.suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def wait_for_parent():
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _send(writing: Connection, results: queue.SimpleQueue, room: threading.Semaphore) -> None:
    # Whatever happens in this thread, the loader must not wait for ever: the pipe ends with the process.
    try:
        while (result := results.get()) is not None:
            try:
                message = _frame(*result)
            except BaseException as error:  # pickling runs code of the sample's own
                message = _frame("unsendable", _portable(error))
            try:
                _write(writing, *message)
            except OSError:  # nobody reads any more
                os._exit(1)
            room.release()
        writing.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _portable(error: BaseException) -> tuple[bytes | None, str]:
    """The error in pickled form, if it survives that, and its traceback as text."""
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:
        text = f"{type(error).__name__}, whose traceback cannot be printed"
    try:
        pickled = pickle.dumps(error)
        survives = type(pickle.loads(pickled)) is type(error)
    except BaseException:
        survives = False
    return pickled if survives else None, text
