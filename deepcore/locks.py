"""Locks that are free in a forked child, even if other threads of the parent held them.

A child of `os.fork` has only the thread that forked: a lock that another thread held would stay locked there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakSet[Any] = weakref.WeakSet()
_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def lock() -> threading.Lock:
    """A `threading.Lock` that is free in a forked child."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def rlock():
    """A `threading.RLock` that is free in a forked child, unless the thread that forked holds it."""
    lock = threading.RLock()
    _locks.add(lock)
    return lock


def condition() -> threading.Condition:
    """A `threading.Condition` whose lock is free in a forked child; its waiting threads are not there."""
    return threading.Condition(lock())


def call_after_fork(owner: Any) -> None:
    """Call `owner.after_fork()` in each forked child, to reset what a thread of the parent left incomplete."""
    _owners.add(owner)


def _after_fork() -> None:
    for lock in list(_locks):
        if lock.acquire(blocking=False):
            lock.release()
        else:
            lock._at_fork_reinit()
    for owner in list(_owners):
        owner.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
