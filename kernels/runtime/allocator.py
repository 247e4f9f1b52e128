"""Memory for the results of CPU kernels.

Large arrays from the system are new pages, and touching those costs more than most kernels do: a relu over 64 MB takes
twice as long into fresh memory. So blocks of a megabyte or more are kept when the last array in them goes.
"""

from __future__ import annotations

import ctypes
import functools
import math
import weakref

import numpy as np

from deepcore import locks
from deepcore.kernels import watch
from deepcore.kernels.codegen.jit import address

# Smaller arrays come from the allocator's own free lists.
_LEAST = 1 << 20
# Blocks are whole pages, and stand in for requests down to seven eighths of their size.
_PAGE = 1 << 12
# Arrays start on a cache line, as vectors like it.
_ALIGN = 64
# How much memory without an array is kept, as a share of what the arrays ever took at once.
_KEPT_SHARE = 0.5
_KEPT_LEAST = 1 << 28


class Block(np.ndarray):
    """Bytes for arrays. NumPy skips bases of its own plain class, which this is not."""


class _Free:
    """Blocks without arrays, by size; the newest is used first, being in the cache the likeliest.

    A loan is a view of a block, the base of the arrays made in it, which so ends with the last of them.
    """

    def __init__(self):
        self.lock = locks.rlock()
        self.blocks: list[Block] = []
        #: The loans by the identity of a weak reference, which `ended` gets when the last array goes: no Python runs
        #: then, into which Ctrl-C could fall and be lost.
        self.loans: dict[int, tuple[weakref.ref, Block]] = {}
        self.ended: list[weakref.ref] = []
        self.kept = self.lent = self.most = 0

    def take(self, size: int) -> Block:
        size = -(-size // _PAGE) * _PAGE
        with self.lock:
            if self.ended:
                self.collect()
            block = self._found(size)
            if block is None:
                space = np.empty(size + _ALIGN, np.uint8)
                block = space[-address(space) % _ALIGN :][:size].view(Block)
            else:
                self.kept -= len(block)
            self.lent += len(block)
            if self.lent > self.most:
                self.most = self.lent
            lent = block.view()
            loan = weakref.ref(lent, self.ended.append)
            self.loans[id(loan)] = loan, block
            return lent

    def _found(self, size: int) -> Block | None:
        """The newest kept block of this size, or else of little more."""
        blocks, found = self.blocks, None
        for i in range(len(blocks) - 1, -1, -1):
            have = len(blocks[i])
            if have == size:
                return blocks.pop(i)
            if found is None and size < have <= size + size // 7:
                found = i
        return None if found is None else blocks.pop(found)

    def collect(self) -> None:
        """Take back what loans that have ended were of, and keep no more than is likely to be of use."""
        while self.ended:
            _, block = self.loans.pop(id(self.ended.pop()))
            self.lent -= len(block)
            self.kept += len(block)
            self.blocks.append(block)
        while self.kept > max(_KEPT_LEAST, _KEPT_SHARE * self.most):
            self.kept -= len(self.blocks.pop(0))

    def clear(self) -> None:
        with self.lock:
            self.collect()
            self.blocks.clear()
            self.kept, self.most = 0, self.lent


_free = _Free()


def empty(shape, dtype) -> np.ndarray:
    """An array as `np.empty(shape, dtype)` makes it, C-contiguous, in memory that may have been used before."""
    if watch.count and watch.mine.follower is not None:
        return watch.mine.follower.empty(shape, dtype)
    dtype = np.dtype(dtype)
    size = (math.prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
    if size < _LEAST or dtype.hasobject:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _free.take(size))


def empty_like(array) -> np.ndarray:
    """`empty` of an array's shape and dtype."""
    if array.nbytes < _LEAST and not watch.count:
        return np.empty(array.shape, array.dtype)
    return empty(array.shape, array.dtype)


def small(shape, dtype) -> np.ndarray:
    """`empty` for few bytes."""
    return empty(shape, dtype) if watch.count else np.empty(shape, dtype)


def kept() -> int:
    """Bytes that are kept for arrays to come."""
    with _free.lock:
        _free.collect()
        return _free.kept


def release() -> None:
    """Give what is kept back to the system, and what the C library keeps where it can be told to."""
    _free.clear()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc
    except (AttributeError, OSError, TypeError):
        return None
