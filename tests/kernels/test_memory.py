"""Memory that kernels' results are made in: never two living arrays in one place, and given back."""

from __future__ import annotations

import gc
import os
import sys
import threading

import numpy as np
import pytest

import deepcore as dc
from deepcore.kernels.runtime import allocator

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    allocator.release()
    yield
    allocator.release()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), 5, (1 << 18,), (3, 1 << 18), (1023, 1025)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, dc.bfloat16])
def test_it_is_an_array_as_numpy_makes_it(shape, dtype):
    got, expected = allocator.empty(shape, dtype), np.empty(shape, dtype)
    assert type(got) is np.ndarray
    assert (got.shape, got.dtype, got.strides) == (expected.shape, expected.dtype, expected.strides)
    assert got.flags.c_contiguous and got.flags.writeable and got.flags.aligned
    got[...] = 1
    assert (got == 1).all()
    like = allocator.empty_like(got)
    assert (like.shape, like.dtype) == (got.shape, got.dtype) and not np.may_share_memory(like, got)


def test_memory_is_used_again_once_the_last_view_is_gone():
    a = allocator.empty((MEGABYTE,), np.float32)
    place = a.__array_interface__["data"][0]
    part = a.reshape(1024, 1024)[5:, ::2].T
    part[...] = 7.0
    del a
    b = allocator.empty((MEGABYTE,), np.float32)
    b[...] = 1.0
    assert (part == 7.0).all() and allocator.cached_bytes() == 0
    del part
    assert allocator.cached_bytes() >= 4 * MEGABYTE
    assert allocator.empty((MEGABYTE,), np.float32).__array_interface__["data"][0] == place


def test_small_arrays_are_left_to_numpy():
    a = allocator.empty((1000,), np.float32)
    assert a.base is None
    del a
    assert allocator.cached_bytes() == 0


def test_much_smaller_requests_do_not_take_a_large_block():
    del_me = allocator.empty((8 * MEGABYTE,), np.uint8)
    del del_me
    small = allocator.empty((2 * MEGABYTE,), np.uint8)
    assert allocator.cached_bytes() >= 8 * MEGABYTE
    assert small.size == 2 * MEGABYTE


def test_what_is_kept_is_bounded_and_can_be_given_back():
    arrays = [allocator.empty((64 * MEGABYTE,), np.uint8) for _ in range(8)]
    arrays.clear()
    bound = max(allocator._CACHED_LEAST, allocator._CACHED_SHARE * 8 * 65 * MEGABYTE)
    assert 64 * MEGABYTE <= allocator.cached_bytes() <= bound
    cpu = dc.get_backend("cpu")
    assert cpu.memory()["held"] == allocator.cached_bytes()
    cpu.release_memory()
    assert allocator.cached_bytes() == 0


def test_no_python_runs_where_an_array_goes():
    """A signal's handler runs in whatever Python code comes next; what it raises in a destructor is lost."""
    a = allocator.empty((MEGABYTE,), np.float32)
    entered = []
    sys.setprofile(lambda frame, event, _: entered.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del a
    finally:
        sys.setprofile(None)
    assert not entered and allocator.cached_bytes() >= 4 * MEGABYTE


def test_several_threads_never_share_a_block():
    faults = []

    def work(number):
        for i in range(50):
            held = [allocator.empty((MEGABYTE + 4096 * (i % 3),), np.uint8) for _ in range(3)]
            for j, a in enumerate(held):
                a[::4096] = number * 8 + j
            faults.extend(1 for j, a in enumerate(held) if not (a[::4096] == number * 8 + j).all())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not faults


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_may_allocate_while_the_lock_was_held():
    ready, stop = threading.Event(), threading.Event()

    def hold():
        with allocator._cache.lock:
            ready.set()
            stop.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    ready.wait(20)
    child = os.fork()
    if child == 0:
        allocator.empty((2 * MEGABYTE,), np.uint8)[:] = 1
        os._exit(0)
    stop.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
