"""A forked child can take every lock, whatever the parent's other threads were doing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import deepcore as dc
from deepcore import locks
from deepcore.kernels.runtime import threadpool

ROOT = Path(__file__).resolve().parent.parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
#: Of the thread pool and of the process that compiles ahead, which a child does not use; held by whoever forks (jit).
OWN = {"kernels/runtime/threadpool.py", "kernels/codegen/background.py", "kernels/codegen/jit.py"}


def in_child(check) -> bool:
    """Whether `check()` is true in a forked child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(child, 0)[1] == 0


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("make", [locks.lock, locks.rlock])
def test_a_lock_that_another_thread_holds_is_free_in_a_child(make):
    lock, held, done = make(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_child(lambda: lock.acquire(timeout=1) and not lock.release())
        assert not lock.acquire(blocking=False)  # the parent's is still held
    finally:
        done.set()
        thread.join()


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_that_the_forking_thread_holds_stays_held():
    lock = locks.rlock()
    with lock:
        assert in_child(lambda: lock._is_owned())


@pytest.mark.parametrize("kind", ["compiled", "backward", "draw"])
@needs_fork
def test_fork_beside_a_busy_thread(kind):
    """A child computes what its parent's other thread was in the middle of, and ends."""
    program = f"""
        import os, signal, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import deepcore as dc
        from deepcore import nn

        model = nn.Linear(64, 64)
        x = dc.ones(64, 64)
        loss = lambda: (model(x) ** 2).sum()
        work = {{"compiled": dc.compile(loss), "backward": lambda: loss().backward(), "draw": lambda: dc.rand(4)}}["{kind}"]
        work(); work()
        ended = threading.Event()

        def repeat():
            while not ended.is_set():
                work()

        thread = threading.Thread(target=repeat)
        thread.start()
        faults = 0
        for _ in range(12):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # kills a child that hangs
                work(), work()
                os._exit(0)
            faults += os.waitpid(child, 0)[1] != 0
        ended.set()
        thread.join()
        assert not faults, faults
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@needs_fork
@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_compiled_function_of_a_child_is_not_busy():
    f = dc.compile(lambda x: x * 2)
    x = dc.ones(3)
    f(x)
    f._busy = True  # as where another thread is inside
    try:
        assert in_child(lambda: f(x).tolist() == [2, 2, 2] and f.runs == 1)
    finally:
        f._busy = False


def test_every_lock_is_made_here():
    makers = {
        path.relative_to(ROOT).as_posix()
        for folder in ("deepcore", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"threading\.(R?Lock|Condition)\(", path.read_text())
    }
    assert makers - OWN == {"deepcore/locks.py"}, "locks come from deepcore.locks, so that a forked child can take them"
