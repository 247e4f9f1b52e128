"""The thread pool of compiled kernels: right results, from anywhere, and no hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from processes import wait_for

import deepcore as dc
from deepcore.config import settings
from deepcore.kernels.codegen.jit import KERNELS, Kernel, address, pack
from deepcore.kernels.codegen.kernel import InOut, Size, args
from deepcore.kernels.runtime import threadpool

pytest.importorskip("numba")
ROOT = Path(__file__).resolve().parents[2]


@args(x=InOut(np.int64), spin=Size, slow=Size)
def _count(tools):
    """x[chunk] += 1 + chunk, after `spin` turns of a loop in chunks below `slow`. Chunk 5 has status 55 if x[5] is 1000."""
    pause = tools.pause()

    def kernel(x, spin, slow, chunk):
        if chunk < slow:
            for _ in range(spin):
                pause(x)
        if chunk == 5 and x[5] == 1000:
            return 55
        x[chunk] += 1 + chunk
        return 0

    return kernel


COUNT = Kernel("test_count", _count)
KERNELS.pop("test_count")  # `deepcore warmup` is not about it


@pytest.fixture(autouse=True)
def ready():
    assert COUNT.ready() and threadpool._RUN.ready()
    before = settings.threads
    yield
    settings.threads = before


@pytest.fixture(params=["system", "pthread"])
def way(request, monkeypatch):
    """Each way of sleeping that this system has, in a pool of its own."""
    if request.param == "pthread":
        if sys.platform == "win32":
            pytest.skip("Windows has no pthreads")
        monkeypatch.setattr(threadpool, "_modes", lambda: (threadpool._PTHREAD,))
    threadpool._close()
    yield
    threadpool._close()


def counted(chunks, times, threads=None, spin=0, slow=1 << 40):
    if threads:
        dc.set_num_threads(threads)
    x = np.zeros(chunks, np.int64)
    for _ in range(times):
        assert threadpool.launch(COUNT, chunks, x=x, spin=spin, slow=slow) == 0
    return np.array_equal(x, times * np.arange(1, chunks + 1))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_chunk_runs_once(way, threads):
    assert all(counted(chunks, 50, threads) for chunks in (1, 2, 3, 7, 64, 1000))
    assert counted(16, 20, threads, spin=2000)


@pytest.mark.parametrize("slow", [1, 8, 15])
def test_idle_threads_steal_from_the_others(way, slow):
    """The part of the submitting thread takes long, or all parts but the last chunk."""
    assert all(counted(16, 20, threads, spin=5000, slow=slow) for threads in (2, 3))


def test_more_threads_than_parts(way):
    assert counted(1000, 5, threadpool._MAX_PARTS + 6) and counted(3, 5, threadpool._MAX_PARTS + 6)


def test_a_program(way):
    dc.set_num_threads(3)
    x, y = np.zeros(9, np.int64), np.zeros(9, np.int64)
    first, second = pack((address(x), 0, 0)), pack((address(y), 10, 99))
    program = [(COUNT, first, 9), (COUNT, second, 4), (COUNT, first, 1), (COUNT, first, 9)] * 10
    assert threadpool.run(program) == 0 and threadpool.run([]) == 0
    want = 20 * np.arange(1, 10)
    want[0] += 10
    assert x.tolist() == want.tolist()
    assert y.tolist() == [10, 20, 30, 40, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_status_ends_the_program(way, threads):
    dc.set_num_threads(threads)
    x, y = np.zeros(9, np.int64), np.zeros(9, np.int64)
    x[5] = 1000
    assert threadpool.run([(COUNT, pack((address(x), 0, 0)), 9), (COUNT, pack((address(y), 0, 0)), 9)]) == 55
    assert not y.any()
    assert threadpool.launch(COUNT, 9, x=y, spin=0, slow=0) == 0


def test_the_number_of_threads_may_change_at_any_time(way):
    for threads in (2, 5, 1, 4, 3, 1, 2, 8, 2) * 3:
        assert counted(32, 3, threads)
    dc.set_num_threads(2)
    assert counted(8, 1)
    end = time.monotonic() + 10
    while len(threadpool._pool.threads) > 1 and time.monotonic() < end:
        time.sleep(0.01)
    assert list(threadpool._pool.threads) == [1]


def test_sleeping_threads_are_woken_and_cost_nothing(way):
    assert counted(4, 1, 4)
    time.sleep(0.1)
    busy = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - busy < 0.05
    for _ in range(20):
        time.sleep(0.002)
        assert counted(4, 1, 4, spin=2000)


def test_several_python_threads_at_once(way):
    dc.set_num_threads(3)
    fine = []

    def submit(i):
        fine.append(all(counted(8 + i, 20, spin=20 * i) for _ in range(20)))

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fine == [True] * 8


def test_python_threads_that_change_the_number_of_threads():
    fine = []

    def submit(i):
        fine.append(all(counted(16, 10, 1 + (i + turn) % 4) for turn in range(20)))

    threads = [threading.Thread(target=submit, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert fine == [True] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_fork_after_a_parallel_kernel(way):
    assert counted(16, 10, 3)
    stop = threading.Event()

    def busy():
        while not stop.is_set():
            counted(16, 10)

    other = threading.Thread(target=busy)  # so that the fork falls into the middle of a region
    other.start()
    try:
        for _ in range(10):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on
                child = os.fork()
            if child == 0:
                try:
                    os._exit(0 if counted(16, 100, 3) and counted(16, 10, 2) else 1)
                finally:
                    os._exit(2)
            assert wait_for(child) == 0
    finally:
        stop.set()
        other.join()
    assert counted(16, 10)


def test_threads_that_cannot_be_started(way, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert counted(16, 5, 4)
    assert not threadpool._pool.threads


def test_without_the_pool_slices_run_in_their_order(monkeypatch):
    monkeypatch.setattr(threadpool, "_RUN", Kernel("test_nothing", _count))
    monkeypatch.delitem(KERNELS, "test_nothing")
    threadpool._RUN.state = "failed"
    x = np.zeros(9, np.int64)
    words = pack((address(x), 0, 0))
    assert threadpool.run([(COUNT, words, 9), (COUNT, words, 1)]) == 0 and counted(9, 3, 4)
    assert x.tolist() == [2, *range(2, 10)]
    x[5] = 1000
    assert threadpool.run([(COUNT, words, 9), (COUNT, words, 9)]) == 55


def test_a_system_on_which_threads_cannot_sleep_runs_on_one(monkeypatch):
    threadpool._close()
    monkeypatch.setattr(threadpool, "_modes", lambda: ())
    assert counted(16, 5, 4)
    assert not threadpool._pool.threads
    threadpool._close()


_SCRIPT = """
import sys, threading, time
import numpy as np, deepcore as dc
dc.set_num_threads(4)
x = dc.erf(dc.ones(1 << 18))
assert sum(t.name.startswith("deepcore-") for t in threading.enumerate()) == 3
{end}
"""
ENDS = {
    "return": "",
    "exit status": "sys.exit(7)",
    "exception": "raise KeyError",
    "busy thread": "threading.Thread(target=lambda: [dc.erf(dc.ones(1 << 18)) for _ in range(10**9)], daemon=True).start()\n"
    "time.sleep(0.1)",
    "at exit": "import atexit; atexit.register(lambda: dc.erf(dc.ones(1 << 18)))",
}


@pytest.mark.parametrize("end", ENDS)
def test_no_hang_at_exit(end):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPCORE_KERNELS": "1"}
    command = [sys.executable, "-c", _SCRIPT.format(end=ENDS[end])]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == {"exit status": 7, "exception": 1}.get(end, 0), done.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
def test_keyboard_interrupt():
    script = (
        "import deepcore as dc, numpy as np\n"
        "dc.set_num_threads(3)\nx = dc.ones(1 << 20)\ny = dc.erf(x)\nprint('ready', flush=True)\n"
        "try:\n    while True: y = dc.erf(x)\nexcept KeyboardInterrupt: pass\n"
        "assert np.array_equal(dc.erf(x).numpy(), y.numpy())\nprint('fine')"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPCORE_KERNELS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "fine\n" and process.returncode == 0
    finally:
        process.kill()


def test_many_processes_at_once():
    """As pytest-xdist and loader workers are: more threads than processors, all over."""
    script = (
        "import deepcore as dc\ndc.set_num_threads(4)\nx = dc.ones(1 << 17)\n"
        "print(sum(float(dc.erf(x).numpy()[-1]) for _ in range(50)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPCORE_KERNELS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    said = {process.communicate(timeout=120)[0] for process in started}
    assert len(said) == 1 and float(said.pop()) == pytest.approx(50 * 0.8427007929497149)
