"""Threads for compiled kernels, parked in compiled code.

A program is a list of regions, run one after the other; a region is a kernel and its number of slices. They are dealt
out in parts that follow one another, a part to a thread, so that what a thread wrote into its processor's cache is what
it reads in the next region; who has finished takes from the others' parts. What a slice is depends on the shapes alone,
so the bits do not depend on the number of threads. A thread that comes late finds nothing left to do, and nobody waits
for it. Threads with nothing to do look for some 150 µs, then sleep in the operating system.

All state is words of memory. A part is opened by one store of (how many regions had it, slices left) into one word, and
a slice is taken by one compare-and-swap of that word, so a thread that slept through regions cannot take a slice of the
wrong one.
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
_KERNEL, _WORDS, _SLICES, _PARTS, _STATUS = range(48, 53)
_MODE, _WAIT, _WAKE, _NUMBER, _MUTEX, _CONDITION = range(56, 62)
_MUTEX_SPACE, _CONDITION_SPACE, _LEFT = 64, 80, 112
# Threads beyond these begin with the part of another.
_MOST_PARTS = 64
_SIZE = _LEFT + 8 * _MOST_PARTS

# How a thread sleeps while a word keeps its value: four systems' calls.
_FUTEX, _OS_SYNC, _WAIT_ON_ADDRESS, _PTHREAD = 1, 2, 3, 4

# Python needs 60 µs between two steps of an optimizer over sixty tensors.
_SPINS = 4500
_LEFT_BITS = 24
_MAX_SLICES = (1 << _LEFT_BITS) - 1


def _sleeping(tools):
    """(wait, wake): to sleep on a word of the state, and to end that."""
    load, system = tools.atomics()[0], tools.call_system()
    wait_on_address = tools.wait_on_address()

    @tools.inline
    def wait(s, base, word, value):
        """Sleep unless the low half of a word differs from the value; may wake for no reason."""
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
        else:  # one condition serves every word
            system(s[_MUTEX], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)
            system(s[_WAKE], base + 8 * _CONDITION_SPACE, 0, 0, 0, 0, 0, 0)
            system(s[_CONDITION], base + 8 * _MUTEX_SPACE, 0, 0, 0, 0, 0, 0)

    return wait, wake


def _taking(tools, wake):
    """take(s, base, number): run slices of the open region."""
    load, _, add, _, exchanged = tools.atomics()
    words, call, left_mask = tools.words(), tools.call_kernel(), _MAX_SLICES

    @tools.inline
    def take(s, base, number):
        """Run slices of the open region until none is left, those of the thread's own part first."""
        parts = load(s, _PARTS)
        for i in range(parts):
            part = (number + i) % parts
            left = _LEFT + 8 * part
            ticket = load(s, left)
            while ticket & left_mask:
                if exchanged(s, left, ticket, ticket - 1):
                    # Until this slice is done the region stays open, so these words are its own.
                    slices = s[_SLICES]
                    end = slices * (part + 1) // s[_PARTS]
                    status = call(s[_KERNEL], words(s[_WORDS]), end - (ticket & left_mask))
                    if status:
                        exchanged(s, _STATUS, 0, status)
                    if add(s, _DONE, 1) == slices - 1 and load(s, _WAITING):
                        wake(s, base, _DONE, 1)
                ticket = load(s, left)

    return take


@args(base=Size, number=Size)
def _serve(tools):
    """A worker's life."""
    load, _, add, _, _ = tools.atomics()
    words, pause, (wait, wake) = tools.words(), tools.pause(), _sleeping(tools)
    take = _taking(tools, wake)

    def serve(base, number):
        s = words(base)
        while load(s, _LIMIT) > number:
            posted = load(s, _POSTED)
            take(s, base, number)
            spins = 0
            while spins < _SPINS and load(s, _POSTED) == posted:
                pause(s)
                spins += 1
            if spins < _SPINS:
                continue
            add(s, _SLEEPERS, 1)
            # Whoever opens a region now sees a sleeper, or is seen here.
            if load(s, _POSTED) == posted and load(s, _LIMIT) > number:
                wait(s, base, _POSTED, posted)
            add(s, _SLEEPERS, -1)
        return 0

    return serve


@args(base=Size, regions=Size, program=Rest)
def _run_program(tools):
    """The regions of a program: for each its kernel, the address of its words (0: they follow) and its slices."""
    load, store, add, swap, exchanged = tools.atomics()
    words, pause, call, address_of = tools.words(), tools.pause(), tools.call_kernel(), tools.address_of()
    wait, wake = _sleeping(tools)
    take, left_mask = _taking(tools, wake), _MAX_SLICES

    def run(base, regions, program):
        s = words(base)
        for r in range(regions):
            kernel, where, slices = program[3 * r], program[3 * r + 1], program[3 * r + 2]
            if where == 0:
                where = address_of(program) + 8 * 3 * regions
            status = 0
            if slices < 2 or slices > left_mask or load(s, _LIMIT) < 2:
                for i in range(slices):
                    if status == 0:
                        status = call(kernel, words(where), i)
            else:
                spins = 0
                while exchanged(s, _LOCK, 0, 1) == 0:
                    spins += 1
                    pause(s)
                    if spins > _SPINS:
                        while swap(s, _LOCK, 2) != 0:
                            wait(s, base, _LOCK, 2)
                        break
                parts = min(slices, load(s, _LIMIT), _MOST_PARTS)
                s[_KERNEL], s[_WORDS], s[_SLICES] = kernel, where, slices
                store(s, _STATUS, 0)
                store(s, _DONE, 0)
                store(s, _PARTS, parts)
                for part in range(parts):
                    count = slices * (part + 1) // parts - slices * part // parts
                    left = _LEFT + 8 * part
                    store(s, left, (((load(s, left) >> _LEFT_BITS) + 1) << _LEFT_BITS) + count)
                add(s, _POSTED, 1)
                if load(s, _SLEEPERS) > 0:
                    wake(s, base, _POSTED, slices - 1)
                take(s, base, 0)
                spins = 0
                done = load(s, _DONE)
                while done < slices:
                    pause(s)
                    spins += 1
                    if spins > _SPINS:
                        store(s, _WAITING, 1)
                        done = load(s, _DONE)
                        if done < slices:
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
def _limit(tools):
    """A change of the number of threads."""
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
def _rouse(tools):
    """An end to sleep."""
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
_SET_LIMIT, _ROUSE = Kernel("pool_limit", _limit), Kernel("pool_rouse", _rouse)


def launch(kernel: Kernel, chunks: int, /, **arguments) -> int:
    """Run all chunks of a kernel that is ready, with arguments by name; 0, or the status of a chunk that stopped."""
    return launch_words(kernel, chunks, kernel.words(arguments))


def launch_words(kernel: Kernel, chunks: int, words: Sequence[Any]) -> int:
    """`launch` with words in the order of the kernel's declaration."""
    if chunks == 1:
        return kernel.run_words(words)
    if _RUN.ready():
        return _run((1, kernel.address, 0, chunks, *words))
    return next(filter(None, (kernel.run_words(words, i) for i in range(chunks))), 0)


def run(program) -> int:
    """Run a program, a list of (kernel that is ready, its words as `compiler.pack` made them, number of slices).

    Regions run in their order, the slices of one in any. The first status that is not 0 ends the program and is
    returned. Safe from several threads: regions of their programs alternate.
    """
    if not _RUN.ready():
        return next(filter(None, (launch_words(k, n, struct.unpack(f"{len(w) // 8}q", w)) for k, w, n in program)), 0)
    table = [len(program)]
    for kernel, words, slices in program:
        table += (kernel.address, _start_of(words), slices)
    return _run(table)


def prepared(program) -> tuple[Callable[[bytes, int], int], bytes, int] | None:
    """A program of (kernel that is ready, address of its words, number of slices) as a function and its arguments.

    Called by what is written in C, as `map` is, it runs with no Python code, so no signal's, before what comes next.
    None where there is no compiled `run`.
    """
    if not _RUN.ready():
        return None
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        pool = _resized()
    words = [pool.base, len(program)]
    for kernel, where, slices in program:
        words += (kernel.address, where, slices)
    return _RUN._call, pack(words), 0


def prepare() -> None:
    """Have a pool of as many threads as the settings say, for programs that compiled code runs."""
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        _resized()


def run_address() -> int:
    """Where the compiled `run` is; only where `can_prepare()`."""
    return _RUN.address


def can_prepare() -> bool:
    """Whether programs can run as one call here."""
    return _RUN.ready()


def current():
    """The pool that programs are prepared for now."""
    return _pool


def is_current(one) -> bool:
    """Whether a program that was prepared for a pool can still run as it is."""
    pool = _pool
    return pool is not None and one is pool and pool.limit == settings.threads


def rouse() -> None:
    """Wake the threads that sleep, for a program that comes within 150 µs: waking one takes some 50 of them."""
    if _pool is not None and _pool.limit > 1 and _ROUSE.ready():
        _ROUSE.run(base=_pool.base)


def _start_of(words: bytes) -> int:
    return ctypes.cast(ctypes.c_char_p(words), ctypes.c_void_p).value or 0


def _run(table) -> int:
    global _pool
    pool = _pool
    if pool is None or pool.limit != settings.threads:
        pool = _resized()
    return _RUN._call(pack((pool.base, *table)), 0)


class _Pool:
    """The state in memory, and the Python threads that serve it."""

    def __init__(self):
        # Never freed: a thread may look at it for as long as the process lives.
        space = (ctypes.c_int64 * (_SIZE + 8))()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(space))
        start = -ctypes.addressof(space) % 64 // 8
        self.base = ctypes.addressof(space) + 8 * start
        self.limit = 0
        self.threads: dict[int, threading.Thread] = {}
        self.lock = threading.Lock()
        self.sleeps = self._prepare(space, start)

    def _prepare(self, space, start: int) -> bool:
        for mode in _modes():
            with contextlib.suppress(OSError, AttributeError):
                found = _system(mode, self.base)
                space[start + _MODE] = mode
                for word, value in found.items():
                    space[start + word] = value
                return True
        return False

    def resize(self, count: int) -> None:
        """Have `count` threads take part, the submitting one included."""
        with self.lock:
            if not self.sleeps or not _SERVE.ready() or not _SET_LIMIT.ready():
                self.limit = count
                return
            _SET_LIMIT.run(base=self.base, count=count)
            self.limit = count
            for number in range(1, count):
                if number not in self.threads:
                    name = f"deepcore-{number}"
                    thread = threading.Thread(target=self._serve, args=(number,), name=name, daemon=True)
                    self.threads[number] = thread
                    try:
                        thread.start()
                    except RuntimeError:  # no more threads, or Python is about to end: those there are will do
                        del self.threads[number]
                        break

    def _serve(self, number: int) -> None:
        if hasattr(signal, "pthread_sigmask"):  # signals are for threads that Python can interrupt
            faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
        while True:
            _SERVE.run(base=self.base, number=number)
            with self.lock:
                if self.limit <= number:  # else the limit rose again just after it had sunk
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
#: Where the address of the current pool's state is, for compiled code that runs programs.
BASE = ctypes.addressof(_base)
_RESIZING = locks.lock()


def _resized() -> _Pool:
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
    _pool = None  # its threads are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -- the operating system ---------------------------------------------------------------------------------------

_FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221, "s390x": 238}


def _modes() -> tuple[int, ...]:
    if sys.platform == "linux":
        return (_FUTEX, _PTHREAD)
    return (_WAIT_ON_ADDRESS,) if sys.platform == "win32" else (_OS_SYNC, _PTHREAD)


def _system(mode: int, base: int) -> dict[int, int]:
    """Words of the state: the addresses of what a thread sleeps and is woken by. AttributeError where it is missing."""

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
