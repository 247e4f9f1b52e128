"""Memory for the results of CPU kernels.

Large arrays from the system are new pages, and touching those costs more than most kernels do: a relu over 64 MB takes
twice as long into fresh memory. So blocks of a megabyte or more are cached when their last array is freed.
"""

from __future__ import annotations

import ctypes
import functools
import math
import weakref
from pathlib import Path

import numpy as np

from deepcore import locks
from deepcore.kernels.codegen.jit import address

# Smaller arrays come from NumPy's allocator.
_POOLED_BYTES = 1 << 20
# Blocks are whole pages, and serve requests down to seven eighths of their size.
_PAGE = 1 << 12
# Arrays start on a cache line, so that vector loads are aligned.
_ALIGN = 64
# Limit of the cached bytes, as a share of the peak of used bytes.
_CACHED_SHARE = 0.5
_CACHED_LEAST = 1 << 28


class Block(np.ndarray):
    """Memory of arrays. A subclass, as NumPy collapses chains of bases that are plain arrays."""


class _BlockCache:
    """Free blocks, oldest first; the newest is reused first, as it is the likeliest in the processor's cache.

    A loan is a view of a block that is the base of the arrays in it, so it dies with the last of them.
    """

    def __init__(self):
        self.lock = locks.rlock()
        self.blocks: list[Block] = []
        #: Loans by the id of a weak reference, which is appended to `ended` when the last array is freed. No Python code
        #: runs then in which a Ctrl-C could be lost.
        self.loans: dict[int, tuple[weakref.ref, Block]] = {}
        self.ended: list[weakref.ref] = []
        self.cached = self.used = self.peak = 0

    def allocate(self, size: int) -> Block:
        size = -(-size // _PAGE) * _PAGE
        with self.lock:
            if self.ended:
                self.collect()
            block = self._pop_block(size)
            if block is None:
                space = np.empty(size + _ALIGN, np.uint8)
                block = space[-address(space) % _ALIGN :][:size].view(Block)
            else:
                self.cached -= len(block)
            self.used += len(block)
            if self.used > self.peak:
                self.peak = self.used
            view = block.view()
            loan = weakref.ref(view, self.ended.append)
            self.loans[id(loan)] = loan, block
            return view

    def _pop_block(self, size: int) -> Block | None:
        """Remove and return the newest free block of this size, else the newest up to a seventh larger."""
        blocks, best = self.blocks, None
        for i in range(len(blocks) - 1, -1, -1):
            nbytes = len(blocks[i])
            if nbytes == size:
                return blocks.pop(i)
            if best is None and size < nbytes <= size + size // 7:
                best = i
        return None if best is None else blocks.pop(best)

    def collect(self) -> None:
        """Return the blocks of ended loans to the cache, then trim it to its limit."""
        while self.ended:
            _, block = self.loans.pop(id(self.ended.pop()))
            self.used -= len(block)
            self.cached += len(block)
            self.blocks.append(block)
        while self.cached > max(_CACHED_LEAST, _CACHED_SHARE * self.peak):
            self.cached -= len(self.blocks.pop(0))

    def clear(self) -> None:
        with self.lock:
            self.collect()
            self.blocks.clear()
            self.cached, self.peak = 0, self.used


_cache = _BlockCache()


def empty(shape, dtype) -> np.ndarray:
    """As `np.empty(shape, dtype)`, C-contiguous, in memory that may be reused."""
    dtype = np.dtype(dtype)
    size = (math.prod(shape) if isinstance(shape, tuple) else shape) * dtype.itemsize
    if size < _POOLED_BYTES or dtype.hasobject:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _cache.allocate(size))


def empty_like(array) -> np.ndarray:
    """`empty` with the shape and dtype of an array."""
    if array.nbytes < _POOLED_BYTES:
        return np.empty(array.shape, array.dtype)
    return empty(array.shape, array.dtype)


#: `empty` for small arrays.
small = np.empty
zeros = np.zeros


def free_memory() -> int:
    """Bytes available for new arrays, as far as the system reports them, within a container's limit."""
    limits = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                limits.append(int(line.split()[1]) << 10)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit.isdecimal():
            limits.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(limits, default=1 << 62)


def cached_bytes() -> int:
    """Bytes of free blocks that are cached."""
    with _cache.lock:
        _cache.collect()
        return _cache.cached


def release() -> None:
    """Return cached blocks to the system, and with glibc the free memory of the C library."""
    _cache.clear()
    trim = _trim()
    if trim is not None:
        trim(0)


@functools.cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim  # glibc
    except (AttributeError, OSError, TypeError):
        return None
