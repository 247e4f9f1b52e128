"""Thread pool for compiled kernels. Its threads wait in compiled code.

A program is a list of parallel sections, run one after the other; a section is a kernel and its number of chunks. The
chunks are divided into contiguous parts, one per thread, so that a thread's output is still in its processor's cache in
the next section; a thread that finishes its part steals from the others. Chunks depend on the shapes alone, so the bits
do not depend on the number of threads. A section does not wait for threads that join late. Idle threads spin for some
150 µs, then sleep in the operating system.

All state is words of memory. One store of (section counter, chunks left) into one word opens a part, and one
compare-and-swap of that word claims a chunk, so a thread that slept through sections cannot claim a chunk of the wrong
one.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from deepcore import locks
from deepcore.config import settings
from deepcore.kernels.codegen.jit import Kernel, pack
from deepcore.kernels.codegen.kernel import Rest, Size, args

# Words of the state, eight to a cache line.
_DONE, _POSTED, _SLEEPERS, _LOCK, _WAITING, _LIMIT = range(0, 48, 8)
_KERNEL, _WORDS, _CHUNKS, _PARTS, _STATUS = range(48, 53)
_MODE, _WAIT, _WAKE, _NUMBER, _MUTEX, _CONDITION = range(56, 62)
_MUTEX_SPACE, _CONDITION_SPACE, _LEFT = 64, 80, 112
# Threads beyond this number have no part of their own and start with another's.
_MAX_PARTS = 64
_SIZE = _LEFT + 8 * _MAX_PARTS

# System calls by which a thread sleeps while a word keeps its value.
_FUTEX, _OS_SYNC, _WAIT_ON_ADDRESS, _PTHREAD = 1, 2, 3, 4

# Python needs 60 µs between two steps of an optimizer over sixty tensors.
_SPINS = 4500
_LEFT_BITS = 24
_MAX_CHUNKS = (1 << _LEFT_BITS) - 1


def _sleeping(tools):
    """(wait, wake): sleep on a word of the state, and wake the sleepers."""
    load, system = tools.atomics()[0], tools.call_system()
    wait_on_address = tools.wait_on_address()

    @tools.inline
    def wait(s, base, word, value):
        """Sleep unless the low half of a word differs from the value; wakes may be spurious."""
        at, low = base + 8 * word, value & 0xFFFFFFFF
        if s[_MODE] == _FUTEX:
            system(s[_WAIT], s[_NUMBER], at, 128, low, 0, 0, 0)  # FUTEX_WAIT_PRIVATE
        elif s[_MODE] == _OS_SYNC:
            system(s[_WAIT], at, low, 4, 0, 0, 0, 0)
        elif s[_MODE] == _WAIT_ON_ADDRESS:
            wait_on_address(s[_WAIT], at, low)
        else:
            system(s[_MUTEX], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)
            while load(s, word) == value:
                system(s[_WAIT], base + 8 * _CONDITION_SPACE, base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0)
            system(s[_CONDITION], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)

    @tools.inline
    def wake(s, base, word, count):
        at = base + 8 * word
        if s[_MODE] == _FUTEX:
            system(s[_WAKE], s[_NUMBER], at, 129, count, 0, 0, 0)  # FUTEX_WAKE_PRIVATE
        elif s[_MODE] == _OS_SYNC:
            system(s[_WAKE], at, 4, 0, 0, 0, 0, 0)
        elif s[_MODE] == _WAIT_ON_ADDRESS:
            system(s[_WAKE], at, 0, 0, 0, 0, 0, 0)
        else:  # all words share one condition variable
            system(s[_MUTEX], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)
            system(s[_WAKE], base + 8 * _CONDITION_SPACE, 0, 0, 0, 0, 0, 0)
            system(s[_CONDITION], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)

    return wait, wake


def _chunk_runner(tools, wake):
    """run_chunks(s, base, number): run chunks of the open section, as thread `number`."""
    load, _, add, _, compare_exchange = tools.atomics()
    words, call, left_mask = tools.words(), tools.call_kernel(), _MAX_CHUNKS

    @tools.inline
    def run_chunks(s, base, number):
        """Run chunks of the open section until none is left, starting with the thread's own part."""
        parts = load(s, _PARTS)
        for i in range(parts):
            part = (number + i) % parts
            left = _LEFT + 8 * part
            ticket = load(s, left)
            while ticket & left_mask:
                if compare_exchange(s, left, ticket, ticket - 1):
                    # The section stays open until this chunk is done, so these words belong to it.
                    chunks = s[_CHUNKS]
                    end = chunks * (part + 1) // s[_PARTS]
                    status = call(s[_KERNEL], words(s[_WORDS]), end - (ticket & left_mask))
                    if status:
                        compare_exchange(s, _STATUS, 0, status)
                    if add(s, _DONE, 1) == chunks - 1 and load(s, _WAITING):
                        wake(s, base, _DONE, 1)
                ticket = load(s, left)

    return run_chunks


@args(base=Size, number=Size)
def _serve(tools):
    """The loop of worker thread `number`."""
    load, _, add, _, _ = tools.atomics()
    words, pause, (wait, wake) = tools.words(), tools.pause(), _sleeping(tools)
    run_chunks = _chunk_runner(tools, wake)

    def serve(base, number):
        s = words(base)
        while load(s, _LIMIT) > number:
            posted = load(s, _POSTED)
            run_chunks(s, base, number)
            spins = 0
            while spins < _SPINS and load(s, _POSTED) == posted:
                pause(s)
                spins += 1
            if spins < _SPINS:
                continue
            add(s, _SLEEPERS, 1)
            # A section opened now either sees the sleeper, or is seen by this check.
            if load(s, _POSTED) == posted and load(s, _LIMIT) > number:
                wait(s, base, _POSTED, posted)
            add(s, _SLEEPERS, -1)
        return 0

    return serve


@args(base=Size, sections=Size, program=Rest)
def _run_program(tools):
    """Run a program: for each section its kernel, the address of its words (0: they follow) and its chunks."""
    load, store, add, swap, compare_exchange = tools.atomics()
    words, pause, call, address_of = tools.words(), tools.pause(), tools.call_kernel(), tools.address_of()
    wait, wake = _sleeping(tools)
    run_chunks, left_mask = _chunk_runner(tools, wake), _MAX_CHUNKS

    def run(base, sections, program):
        s = words(base)
        for r in range(sections):
            kernel, words_address, chunks = program[3 * r], program[3 * r + 1], program[3 * r + 2]
            if words_address == 0:
                words_address = address_of(program) + 8 * 3 * sections
            status = 0
            if chunks < 2 or chunks > left_mask or load(s, _LIMIT) < 2:
                for i in range(chunks):
                    if status == 0:
                        status = call(kernel, words(words_address), i)
            else:
                spins = 0
                while compare_exchange(s, _LOCK, 0, 1) == 0:
                    spins += 1
                    pause(s)
                    if spins > _SPINS:
                        while swap(s, _LOCK, 2) != 0:
                            wait(s, base, _LOCK, 2)
                        break
                parts = min(chunks, load(s, _LIMIT), _MAX_PARTS)
                s[_KERNEL], s[_WORDS], s[_CHUNKS] = kernel, words_address, chunks
                store(s, _STATUS, 0)
                store(s, _DONE, 0)
                store(s, _PARTS, parts)
                for part in range(parts):
                    count = chunks * (part + 1) // parts - chunks * part // parts
                    left = _LEFT + 8 * part
                    store(s, left, (((load(s, left) >> _LEFT_BITS) + 1) << _LEFT_BITS) + count)
                add(s, _POSTED, 1)
                if load(s, _SLEEPERS) > 0:
                    wake(s, base, _POSTED, chunks - 1)
                run_chunks(s, base, 0)
                spins = 0
                done = load(s, _DONE)
                while done < chunks:
                    pause(s)
                    spins += 1
                    if spins > _SPINS:
                        store(s, _WAITING, 1)
                        done = load(s, _DONE)
                        if done < chunks:
                            wait(s, base, _DONE, done)
                    done = load(s, _DONE)
                store(s, _WAITING, 0)
                status = load(s, _STATUS)
                if swap(s, _LOCK, 0) == 2:
                    wake(s, base, _LOCK, 1)
            if status:
                return status
        return 0

    return run


@args(base=Size, count=Size)
def _set_limit(tools):
    """Change the number of threads."""
    _, store, add, _, _ = tools.atomics()
    words, (_, wake) = tools.words(), _sleeping(tools)

    def limit(base, count):
        s = words(base)
        store(s, _LIMIT, count)
        add(s, _POSTED, 1)
        wake(s, base, _POSTED, 1 << 20)
        return 0

    return limit


@args(base=Size)
def _wake_all(tools):
    """Wake the sleeping threads."""
    load, _, add, _, _ = tools.atomics()
    words, (_, wake) = tools.words(), _sleeping(tools)

    def rouse(base):
        s = words(base)
        if load(s, _SLEEPERS) > 0:
            add(s, _POSTED, 1)
            wake(s, base, _POSTED, 1 << 20)
        return 0

    return rouse


_SERVE, _RUN = Kernel("pool_serve", _serve), Kernel("pool_run", _run_program)
_LIMIT_KERNEL, _WAKE_ALL = Kernel("pool_limit", _set_limit), Kernel("pool_rouse", _wake_all)


def launch(kernel: Kernel, chunks: int, /, **arguments) -> int:
    """Run all chunks of a ready kernel, with arguments by name; 0, or the status of a chunk that stopped."""
    return launch_words(kernel, chunks, kernel.words(arguments))


def launch_words(kernel: Kernel, chunks: int, words: Sequence[Any]) -> int:
    """`launch`, with words in the order of the kernel's declaration."""
    if chunks == 1:
        return kernel.run_words(words)
    if _RUN.ready():
        return _run((1, kernel.address, 0, chunks, *words))
    return next(filter(None, (kernel.run_words(words, i) for i in range(chunks))), 0)


def run(program) -> int:
    """Run a program, a list of (ready kernel, its words from `jit.pack`, number of chunks).

    Sections run in order, the chunks of one in any order. The first status other than 0 ends the program and is
    returned. Thread-safe: sections of concurrent programs alternate.
    """
    if not _RUN.ready():
        return next(filter(None, (launch_words(k, n, struct.unpack(f"{len(w) // 8}q", w)) for k, w, n in program)), 0)
    table = [len(program)]
    for kernel, words, chunks in program:
        table += (kernel.address, _address_of_bytes(words), chunks)
    return _run(table)


def prepared(program) -> tuple[Callable[[bytes, int], int], bytes, int] | None:
    """A program of (ready kernel, address of its words, number of chunks) as a function and its arguments.

    Called from C, as by `map`, no Python code, so no signal handler, runs between it and the next call. None where
    `run` is not compiled.
    """
    if not _RUN.ready():
        return None
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        pool = _resize()
    words = [pool.base, len(program)]
    for kernel, words_address, chunks in program:
        words += (kernel.address, words_address, chunks)
    return _RUN._call, pack(words), 0


def prepare() -> None:
    """Start or resize the pool to `settings.threads`, for programs that compiled code runs."""
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        _resize()


def run_address() -> int:
    """The address of the compiled `run`; only where `can_prepare()`."""
    return _RUN.address


def can_prepare() -> bool:
    """Whether `run` is compiled, so that a program is one call."""
    return _RUN.ready()


def current():
    """The current pool."""
    return _pool


def is_current(prepared_for) -> bool:
    """Whether a program prepared for a pool is still valid."""
    pool = _pool
    return pool is not None and prepared_for is pool and pool.limit == settings.threads


def rouse() -> None:
    """Wake sleeping threads ahead of a program that runs within 150 µs: waking one takes some 50 µs."""
    if _pool is not None and _pool.limit > 1 and _WAKE_ALL.ready():
        _WAKE_ALL.run(base=_pool.base)


def _address_of_bytes(words: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(words), ctypes.c_void_p).value or 0


def _run(table) -> int:
    global _pool
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        pool = _resize()
    return _RUN._call(pack((pool.base, *table)), 0)


class _Pool:
    """The state in memory, and the Python threads of the pool."""

    def __init__(self):
        # Never freed: threads may read it until the process ends.
        space = (ctypes.c_int64 * (_SIZE + 8))()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(space))
        start = -ctypes.addressof(space) % 64 // 8
        self.base = ctypes.addressof(space) + 8 * start
        self.limit = 0
        self.threads: dict[int, threading.Thread] = {}
        self.lock = threading.Lock()
        self.can_sleep = self._init_state(space, start)

    def _init_state(self, space, start: int) -> bool:
        for mode in _modes():
            with contextlib.suppress(OSError, AttributeError):
                system_words = _system_words(mode, self.base)
                space[start + _MODE] = mode
                for word, value in system_words.items():
                    space[start + word] = value
                return True
        return False

    def resize(self, count: int) -> None:
        """Set the number of threads, which includes the submitting one."""
        with self.lock:
            if not self.can_sleep or not _SERVE.ready() or not _LIMIT_KERNEL.ready():
                self.limit = count
                return
            _LIMIT_KERNEL.run(base=self.base, count=count)
            self.limit = count
            for number in range(1, count):
                if number not in self.threads:
                    name = f"deepcore-{number}"
                    thread = threading.Thread(target=self._serve, args=(number,), name=name, daemon=True)
                    self.threads[number] = thread
                    try:
                        thread.start()
                    except RuntimeError:  # out of threads, or Python is exiting: run with fewer
                        del self.threads[number]
                        break

    def _serve(self, number: int) -> None:
        if hasattr(signal, "pthread_sigmask"):  # threads in compiled code cannot handle signals
            faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        while True:
            _SERVE.run(base=self.base, number=number)
            with self.lock:
                if self.limit <= number:  # otherwise the limit was raised again
                    self.threads.pop(number, None)
                    return

    def close(self) -> None:
        with self.lock:
            threads = list(self.threads.values())
        self.resize(1)
        for thread in threads:
            thread.join(1.0)


_pool: _Pool | None = None
_base = (ctypes.c_int64 * 1)()
#: The location of the pointer to the current pool's state, for compiled code that runs programs.
BASE = ctypes.addressof(_base)
_RESIZING = locks.lock()


def _resize() -> _Pool:
    global _pool
    with _RESIZING:
        if _pool is None:
            _pool = _Pool()
            atexit.register(_close)
        if _pool.limit != settings.threads:
            _pool.resize(settings.threads)
        _base[0] = _pool.base
        return _pool


def _close() -> None:
    global _pool
    pool, _pool = _pool, None
    if pool is not None:
        pool.close()


def _after_fork() -> None:
    global _pool
    _pool = None  # its threads exist in the parent only


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- the operating system ---------------------------------------------------------------------------------------

_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221, "s390x": 238}


def _modes() -> tuple[int, ...]:
    if sys.platform == "linux":
        return (_FUTEX, _PTHREAD)
    return (_WAIT_ON_ADDRESS,) if sys.platform == "win32" else (_OS_SYNC, _PTHREAD)


def _system_words(mode: int, base: int) -> dict[int, int]:
    """State words with the addresses of a mode's wait and wake functions. AttributeError where the system lacks them."""

    def at(function) -> int:
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    if mode == _WAIT_ON_ADDRESS:
        windows = ctypes.CDLL("api-ms-win-core-synch-l1-2-0.dll")
        return {_WAIT: at(windows.WaitOnAddress), _WAKE: at(windows.WakeByAddressAll)}
    library = ctypes.CDLL(None)
    if mode == _FUTEX:
        number = _FUTEX_NUMBERS.get(os.uname().machine)
        if number is None:
            raise AttributeError("futex")
        return {_WAIT: at(library.syscall), _WAKE: at(library.syscall), _NUMBER: number}
    if mode == _OS_SYNC:  # macOS 14.4
        return {_WAIT: at(library.os_sync_wait_on_address), _WAKE: at(library.os_sync_wake_by_address_all)}
    library.pthread_mutex_init(ctypes.c_void_p(base + 8 * _MUTEX_SPACE), None)
    library.pthread_cond_init(ctypes.c_void_p(base + 8 * _CONDITION_SPACE), None)
    return {
        _WAIT: at(library.pthread_cond_wait),
        _WAKE: at(library.pthread_cond_broadcast),
        _MUTEX: at(library.pthread_mutex_lock),
        _CONDITION: at(library.pthread_mutex_unlock),
    }
