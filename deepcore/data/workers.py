"""Worker processes for the loader.

Each worker has its own one-way pipe and gets its share of the pass at the start: batch i goes to worker i mod n. No
process waits for a lock that a dead process may hold, and a dead worker shows as the end of its pipe. Workers end with
their parent, however it ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import itertools
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
from typing import Any, NamedTuple

import numpy as np

from deepcore.config import settings
from deepcore.errors import ArgumentError, DataError
from deepcore.random import default_generator, derive_stream

#: What a process sends when its samples are at an end.
END = object()
# For a larger message, the reading end allocates its whole size for every piece that the pipe delivers.
_CHUNK_BYTES = 1 << 18

# Reading ends of all pipes: a forked worker closes its copies, else its siblings would never see them close.
_reading_ends: weakref.WeakSet = weakref.WeakSet()


_SENDABLE = "return arrays, numbers and text from __getitem__ and collate_fn; or num_workers=0"
_GUARD = "a script that starts workers must do so under: if __name__ == '__main__':"
# One long wait may miss a signal that another thread of the program receives.
_WAIT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """A worker process of a loader: its number, the number of workers, its own seed, and its copy of the dataset.

    `seed` (64 bits) is a function of the loader's seed, the epoch and `id`.
    """

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """The `WorkerInfo` in a worker process of a `DataLoader`; None everywhere else."""
    return _info


def run(
    fetch: Callable,
    jobs: list[tuple] | None,
    count: int,
    ahead: int,
    method: str | None,
    timeout: float = 0,
) -> Generator[Any, None, None]:
    """`fetch(*job)` for each job, in order, computed by `count` processes. Closing the iterator ends them.

    Without jobs, each process runs `fetch(number, None)` until that raises StopIteration, and they take turns.
    """
    try:
        context: Any = multiprocessing.get_context(method)
    except ValueError:
        raise ArgumentError(
            f"processes cannot be started by {method!r} here",
            expected="one of " + ", ".join(multiprocessing.get_all_start_methods()),
        ) from None
    started: list[tuple[Any, Connection]] = []
    done, owner = False, os.getpid()
    import numpy.random  # noqa: F401  once in the parent, not in each process

    if jobs is not None:
        count = min(count, len(jobs))
    try:
        for first in range(count):
            own = jobs[first::count] if jobs is not None else _Turns(first, count)
            started.append(_start(context, fetch, own, ahead, (first, count)))
        ended: set[int] = set()
        for i, job in enumerate(_Turns(0, 1).numbered() if jobs is None else jobs):
            if os.getpid() != owner:
                raise DataError(
                    "this pass over a loader belongs to the process that began it",
                    fix="begin one of its own in the forked process: iter(loader)",
                )
            if i % count in ended:
                continue
            result = _receive(*started[i % count], i % count, job, context.get_start_method(), timeout)
            if result is not END:
                yield result
            else:
                ended.add(i % count)
                if len(ended) == count:
                    break
        done = True
    finally:
        if os.getpid() == owner:  # a forked copy of the program does not own the workers
            _stop(started, terminate=not done)


class _Turns(NamedTuple):
    """The jobs of one process, without end, where samples have no indices; unlike an iterator, it can be pickled."""

    first: int
    step: int

    def numbered(self) -> Iterator[tuple]:
        return ((number, None) for number in itertools.count(self.first, self.step))


def _start(context, fetch, jobs, ahead: int, shard: tuple[int, int]) -> tuple[Any, Connection]:
    with contextlib.ExitStack() as undo:
        try:
            reading, writing = context.Pipe(duplex=False)
            undo.callback(reading.close)
            _reading_ends.add(reading)
            # On Linux, the parent-death signal is sent when the thread that started the process ends.
            in_main_thread = threading.current_thread() is threading.main_thread()
            process = context.Process(
                target=_work,
                args=(writing, fetch, jobs, ahead, shard, in_main_thread),
                daemon=True,
                name="deepcore-loader",
            )
            with contextlib.closing(writing), warnings.catch_warnings():
                # Python warns about forking with running threads; the worker uses none of their locks.
                warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
                process.start()
        except Exception as error:  # pickling a dataset may raise anything
            raise _start_error(error, shard[0]) from error
        undo.pop_all()
    return process, reading


def _start_error(error: Exception, worker: int) -> DataError:
    if isinstance(error, BrokenPipeError):  # the worker ended before it had read the dataset
        fix = f"look for its own message above; {_GUARD}"
        return DataError(f"worker {worker} of the loader died while it was started", fix=fix)
    if isinstance(error, OSError) and error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
        return DataError(f"worker {worker} of the loader cannot be started: {error}", fix="a smaller num_workers")
    return DataError(
        f"the dataset cannot be sent to a worker process: {_describe_error(error)}",
        fix="define the dataset and collate_fn at module level (no lambdas, no open files); or num_workers=0",
    )


def _receive(process, reading: Connection, worker: int, job: tuple, method: str, timeout: float):
    """The next result of one worker; raises the worker's exception."""
    timed_out = False

    def kill_worker():
        nonlocal timed_out
        timed_out = True
        with contextlib.suppress(ValueError):  # the pass has ended meanwhile
            process.kill()  # which ends the read

    try:
        deadline = time.monotonic() + timeout if timeout else float("inf")
        while not wait([reading, process.sentinel], min(_WAIT_SECONDS, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                kill_worker()
                raise EOFError
        if not reading.poll():  # the worker ended without a message
            raise EOFError
        with _alarm(deadline - time.monotonic(), kill_worker) if timeout else contextlib.nullcontext():
            kind, frame, arrays = _read_message(reading)
        if timed_out:
            raise EOFError
    except (EOFError, OSError):
        if timed_out:
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
            f"what worker {worker} of the loader made cannot be rebuilt here: {_describe_error(problem)}",
            where=_batch(job),
            fix=_SENDABLE,
        ) from problem
    if kind == "batch":
        return value
    if kind == "end":
        return END
    pickled, text = value
    if kind == "unsendable":
        raise DataError(
            f"what worker {worker} of the loader made cannot be sent: " + text.rstrip().rpartition("\n")[2],
            received=text,
            where=_batch(job),
            fix=_SENDABLE,
        )
    error = _unpickled(pickled)
    # StopIteration would end the pass, and a BaseException the program.
    if not isinstance(error, Exception) or isinstance(error, (StopIteration, StopAsyncIteration)):
        raise DataError(f"worker {worker} of the loader failed", received=text, where=_batch(job))
    error.add_note(f"In worker {worker} of the loader, {_batch(job)}:\n{text}")
    raise error


@contextlib.contextmanager
def _alarm(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Context manager: calls `function` in another thread once `seconds` have passed."""
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
    if indices is None:
        return f"batch {number}"
    shown = ", ".join(map(str, indices[:20].tolist()))
    return f"batch {number}, samples {shown}" + (f", … ({len(indices)} in all)" if len(indices) > 20 else "")


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _message(kind: str, value) -> tuple[bytes, list[memoryview]]:
    """(pickled frame, raw array buffers) of a message; array data is not pickled."""
    arrays: list[pickle.PickleBuffer] = []
    frame = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    return pickle.dumps((kind, frame, [view.nbytes for view in views])), views


def _write_message(writing: Connection, frame: bytes, views: list[memoryview]) -> None:
    writing.send_bytes(frame)
    for view in views:
        for start in range(0, view.nbytes, _CHUNK_BYTES):
            writing.send_bytes(view[start : start + _CHUNK_BYTES])


def _read_message(reading: Connection) -> tuple[str, bytes, list]:
    kind, frame, sizes = pickle.loads(reading.recv_bytes())
    arrays = [np.empty(size, np.uint8) for size in sizes]
    for array in arrays:
        for start in range(0, array.size, _CHUNK_BYTES):
            reading.recv_bytes_into(array[start : start + _CHUNK_BYTES].data)
    return kind, frame, arrays


def _stop(started: list[tuple[Any, Connection]], terminate: bool) -> None:
    for process, reading in started:
        reading.close()
        if terminate:
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
    writing: Connection,
    fetch: Callable,
    jobs: list[tuple] | _Turns,
    ahead: int,
    shard: tuple[int, int],
    in_main_thread: bool,
) -> None:
    # Ctrl-C goes to every process of the terminal; the loader ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _end_with_parent(in_main_thread)
    for inherited in list(_reading_ends):
        with contextlib.suppress(OSError):
            inherited.close()
    settings.backend = "cpu"  # a GPU cannot be used after a fork
    settings.threads = 1  # the worker processes already occupy the cores
    global _info
    seed: int = fetch.seed  # type: ignore[attr-defined]
    epoch: int = fetch.epoch  # type: ignore[attr-defined]
    _info = WorkerInfo(*shard, derive_stream(seed, epoch, shard[0], 3), fetch.dataset)  # type: ignore[attr-defined]
    results: queue.SimpleQueue = queue.SimpleQueue()
    free_slots = threading.Semaphore(ahead)
    sender = threading.Thread(target=_send, args=(writing, results, free_slots), daemon=True)
    sender.start()
    init: Callable[[int], Any] | None = fetch.worker_init_fn  # type: ignore[attr-defined]
    for number, job in enumerate(jobs.numbered() if isinstance(jobs, _Turns) else jobs):
        free_slots.acquire()
        try:
            if init is not None and number == 0:
                init(shard[0])
            _seed(derive_stream(seed, epoch, job[0], 2))
            batch = fetch(*job)
            results.put(("end", None) if batch is END else ("batch", batch))
            if batch is END:
                break
        except BaseException as error:
            results.put(("error", _pickled_error(error)))
            break
    results.put(None)
    sender.join()


def _seed(seed: int) -> None:
    """Seed this process's generators: forked workers copy one state, new processes start from system entropy."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # seeding with 32 bits takes a tenth of the time of seeding with an array
    default_generator.manual_seed(seed)


def _end_with_parent(in_main_thread: bool) -> None:
    """End this process when its parent ends, even within a long sample; `in_main_thread`: the main thread started it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    if sys.platform == "linux":  # by the kernel: also in C code that holds the GIL
        import fcntl

        if in_main_thread:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        # The starting thread or a fork server may end before the parent does; the parent's pipe closes only with it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(parent.sentinel, fcntl.F_SETOWN, os.getpid())
            fcntl.fcntl(parent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)
            fcntl.fcntl(parent.sentinel, fcntl.F_SETFL, fcntl.fcntl(parent.sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def wait_for_parent():
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait_for_parent, daemon=True).start()


def _send(writing: Connection, results: queue.SimpleQueue, free_slots: threading.Semaphore) -> None:
    # On any failure in this thread, the loader must not wait forever: exiting closes the pipe.
    try:
        while (result := results.get()) is not None:
            try:
                message = _message(*result)
            except BaseException as error:  # pickling runs the sample's code
                message = _message("unsendable", _pickled_error(error))
            try:
                _write_message(writing, *message)
            except OSError:  # the reading end is closed
                os._exit(1)
            free_slots.release()
        writing.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _pickled_error(error: BaseException) -> tuple[bytes | None, str]:
    """The pickled error, or None if pickling does not preserve it, and its traceback as text."""
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
