"""NumPy on the CPU."""

from __future__ import annotations

import contextvars
import ctypes
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from deepcore import locks
from deepcore.backend import Backend
from deepcore.backend.dtypes import canonical, float32
from deepcore.config import settings

# The multiplications (GEMM) and elements (GEMV, dot) up to which OpenBLAS uses one thread by default.
_SERIAL_FLOPS = 1 << 17
_SERIAL_SIZE = 9000
# The minimum size of a chunk of a larger product: rows or columns of a matrix, and multiplications.
_CHUNK_LINES = 128
_CHUNK_FLOPS = 1 << 20


_product: Any = None  # kernels.cpu.gemm.product, imported on first use


def _load_product():
    global _product
    from deepcore.kernels.cpu.gemm import product

    _product = product
    return product


_reduce_sum: Any = np.add.reduce
# The rows of a block, which are summed sequentially.
_BLOCK_ROWS = 256


class _Sum:
    """An op for `bind`: the kernel "sum", or `forward` as its reference."""

    name, lowering = "sum", None

    @staticmethod
    def forward(xp, input, *, dims, keepdim):
        return xp._blockwise_sum(input, dims, keepdim)


_sum: Any = _Sum()


class CpuBackend(Backend):
    """Arrays are `numpy.ndarray`; matrix products have the same bits at any number of threads."""

    def __init__(self):
        super().__init__("cpu", np, np.ndarray)
        self._blas: _Blas | None = None
        self._pool: tuple[tuple[int, int], ThreadPoolExecutor] | None = None

    def from_host(self, array):
        return canonical(array)

    def to_host(self, array):
        return array

    def uninitialized(self, shape, dtype):
        from deepcore.kernels.runtime import allocator

        return allocator.empty(shape, dtype)

    def _scatter_add(self, target, index, values) -> None:
        np.add.at(target, index, values)

    def sum(self, x, axis: tuple[int, ...] | None = None, keepdims: bool = False, dtype=None):
        """Σ x over `axis` (None: all), in float32 for 16-bit floats, and in blocks where NumPy sums rows sequentially.

        NumPy sums pairwise along the last axis only: a million float32 rows would lose five digits.
        """
        if isinstance(axis, int):
            axis = (axis % x.ndim,)
        if dtype is not None:
            return _reduce_sum(x, axis=axis, keepdims=keepdims, dtype=dtype)
        if settings.kernels:
            run = self.impls.get(_sum) or self.bind(_sum)
            return run(
                self,
                x,
                dims=tuple(range(x.ndim)) if axis is None else tuple(a % x.ndim for a in axis),
                keepdim=keepdims,
            )
        return self._blockwise_sum(x, axis, keepdims)

    def _blockwise_sum(self, x, axis, keepdims):
        if x.itemsize == 2 and x.dtype.char in "eE":
            return self._blockwise_sum(x.astype(float32), axis, keepdims).astype(x.dtype)
        lead = len(axis) if axis else 0
        if axis and x.ndim > lead and x.size and x.dtype.kind in "fc":
            if lead > 1 and axis == tuple(range(lead)) and x.flags.c_contiguous:
                rows = self._blockwise_sum(x.reshape(-1, *x.shape[lead:]), (0,), False)
                return rows.reshape((1,) * lead + rows.shape) if keepdims else rows
            if lead == 1 and axis[0] < x.ndim - 1 and x.shape[axis[0]] > 2 * _BLOCK_ROWS:
                a = axis[0]
                count = x.shape[a] // _BLOCK_ROWS
                before, cut = (slice(None),) * a, count * _BLOCK_ROWS
                blocks = x[(*before, slice(cut))].reshape(*x.shape[:a], count, _BLOCK_ROWS, *x.shape[a + 1 :])
                total = self._blockwise_sum(_reduce_sum(blocks, axis=a + 1), axis, keepdims)
                if cut < x.shape[a]:
                    total = total + _reduce_sum(x[(*before, slice(cut, None))], axis=a, keepdims=keepdims)
                return total
        return _reduce_sum(x, axis=axis, keepdims=keepdims)

    def matmul(self, x, y):
        """x @ y for operands of two or more dimensions, batches broadcast.

        Runs deepcore's kernel where one exists; else BLAS on one thread, over chunks that depend on the shapes alone, so
        the bits do not depend on the number of threads.
        """
        half = x.itemsize == 2 and x.dtype.char in "eE"
        if settings.kernels:
            out = (_product or _load_product())(x, y)
            if out is not NotImplemented:
                return out
        if half:  # NumPy has no 16-bit BLAS: accumulate in float32, round once
            return self.matmul(x.astype(float32), y.astype(float32)).astype(x.dtype)
        if x.dtype.kind not in "fc" or _is_small_product(x, y):
            return np.matmul(x, y)
        with self.blas.one_thread():
            return self._chunked_matmul(x, y)

    def diagonal(self, x, offset: int = 0, axis1: int = 0, axis2: int = 1):
        out = np.diagonal(x, offset, axis1, axis2)
        out.flags.writeable = x.flags.writeable  # NumPy's view is read-only
        return out

    def lapack(self, name: str, *arrays, **options):
        with self.blas.one_thread():  # its bits must not depend on the number of threads
            return super().lapack(name, *arrays, **options)

    def _chunked_matmul(self, x, y):
        if x.ndim < 2 or y.ndim < 2 or x.dtype != y.dtype or x.shape[-1] != y.shape[-2]:
            return np.matmul(x, y)
        if x.ndim > 2 and y.ndim == 2 and x.flags.c_contiguous:  # the rows of a batch are those of one matrix
            return self._chunked_matmul(x.reshape(-1, x.shape[-1]), y).reshape(*x.shape[:-1], y.shape[-1])
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        out = np.empty((*batch, x.shape[-2], y.shape[-1]), x.dtype)
        flops = out.size * x.shape[-1]
        if batch:
            axis, count, least = 0, batch[0], 1
        else:
            axis = 0 if out.shape[0] > _CHUNK_LINES else 1
            count, least = out.shape[axis], _CHUNK_LINES
        step = max(least, -(-_CHUNK_FLOPS * count // max(flops, 1)))
        if step >= count:
            return np.matmul(x, y, out=out)

        def multiply_chunk(start):
            chunk = slice(start, start + step)
            if batch:
                a, b = _batch_chunk(x, chunk, out.ndim), _batch_chunk(y, chunk, out.ndim)
                np.matmul(a, b, out=out[chunk])
            elif axis == 0:
                np.matmul(x[chunk], y, out=out[chunk])
            else:
                np.matmul(x, y[:, chunk], out=out[:, chunk])

        self._parallel(multiply_chunk, range(0, count, step))
        return out

    def _parallel(self, task, items: range) -> None:
        """Run task(item) for each item, distributed over the threads, including the calling one."""
        count = min(settings.threads, len(items))

        def run_items(first):
            for item in items[first::count]:
                task(item)

        if count < 2:
            run_items(0)
            return
        # Copied contexts carry np.errstate into the threads.
        futures = [self._executor().submit(contextvars.copy_context().run, run_items, i) for i in range(1, count)]
        try:
            run_items(0)
        finally:
            wait(futures)
        for future in futures:
            future.result()

    def _executor(self) -> ThreadPoolExecutor:
        key = (os.getpid(), settings.threads)  # a pool does not survive fork
        pool = self._pool
        if pool is None or pool[0] != key:
            pool = self._pool = (key, ThreadPoolExecutor(settings.threads, thread_name_prefix="deepcore"))
        return pool[1]

    @property
    def blas(self) -> _Blas:
        if self._blas is None:
            self._blas = _Blas.find()
        return self._blas

    def memory(self) -> dict[str, int]:
        from deepcore.kernels.runtime import allocator

        pool_bytes = {"held": allocator.cached_bytes()}
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return {"used": pages * os.sysconf("SC_PAGE_SIZE"), **pool_bytes}
        except (OSError, ValueError, AttributeError):
            return pool_bytes

    def release_memory(self) -> None:
        from deepcore.kernels.runtime import allocator

        allocator.release()

    def info(self) -> dict[str, Any]:
        return {
            "processor": _processor(),
            "features": " ".join(_features()) or "unknown",
            "processors": os.cpu_count(),
            "threads": settings.threads,
            "blas": self.blas.description,
        }


def _is_small_product(x, y) -> bool:
    """Whether BLAS computes x @ y on one thread by default."""
    return x.size * y.shape[-1] <= _SERIAL_FLOPS and x.size + y.size <= _SERIAL_SIZE


def _batch_chunk(x, chunk: slice, ndim: int):
    """`x` cut along the first axis of a product with `ndim` axes, where x has that axis and does not broadcast it."""
    return x[chunk] if x.ndim == ndim and x.shape[0] > 1 else x


class _Blas:
    """NumPy's OpenBLAS, through the functions its library exports: number of threads, core type."""

    def __init__(self, get=None, set_=None, description="unknown (one thread cannot be enforced)"):
        self._get, self._set, self.description = get, set_, description
        self._lock, self._depth, self._before = locks.lock(), 0, 1
        locks.call_after_fork(self)

    @classmethod
    def find(cls) -> _Blas:
        for path in _loaded_libraries("openblas"):
            try:
                library = ctypes.CDLL(path)
            except OSError:
                continue
            for prefix, suffix in (("scipy_", "64_"), ("", ""), ("", "64_"), ("scipy_", "")):
                try:
                    get = getattr(library, f"{prefix}openblas_get_num_threads{suffix}")
                    set_ = getattr(library, f"{prefix}openblas_set_num_threads{suffix}")
                    config = getattr(library, f"{prefix}openblas_get_config{suffix}")
                    core = getattr(library, f"{prefix}openblas_get_corename{suffix}")
                except AttributeError:
                    continue
                config.restype = core.restype = ctypes.c_char_p
                version = " ".join(config().decode().split()[:2])
                return cls(get, set_, f"{version}, core type {core().decode()}")
        return cls()

    @property
    def controllable(self) -> bool:
        """Whether the number of threads can be set; otherwise bits may depend on BLAS's threads."""
        return self._set is not None

    def one_thread(self) -> _Blas:
        """A context manager: BLAS on one thread inside it."""
        return self

    # Counted, not stacked: overlapping Python threads must not restore each other's single thread.
    def __enter__(self):
        if self._set is not None:
            with self._lock:
                if self._depth == 0:
                    self._before = self._get()
                    self._set(1)
                self._depth += 1

    def __exit__(self, *exc):
        if self._set is not None:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._set(self._before)

    def after_fork(self):
        """Restore the number of threads: threads inside the context do not exist in a forked child."""
        if self._depth:
            self._set(self._before)
        self._depth, self._before = 0, 1


def _loaded_libraries(word: str) -> list[str]:
    """Paths of the loaded or bundled shared libraries whose name contains `word`."""
    try:
        mapped = Path("/proc/self/maps").read_text().split()
        paths = {p for p in mapped if word in p.rsplit("/", 1)[-1] and ".so" in p}
        if paths:  # NumPy's own first: SciPy and others bundle theirs
            return sorted(paths, key=lambda path: ("numpy" not in path, path))
    except OSError:
        pass
    root = Path(np.__file__).parent
    folders = [root.parent / "numpy.libs", root / ".dylibs"]
    return sorted({str(p) for folder in folders if folder.is_dir() for p in folder.glob(f"*{word}*")})


def _processor() -> str:
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def _features() -> list[str]:
    try:
        from numpy._core._multiarray_umath import __cpu_features__ as features
    except ImportError:
        return []
    return [name for name, is_supported in features.items() if is_supported]


def create(index: int) -> Backend:
    from deepcore.errors import BackendError

    if index:
        raise BackendError(f"there is one CPU backend, not 'cpu:{index}'", fix='backend="cpu"')
    return CpuBackend()
