"""CuPy on a CUDA GPU."""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from deepcore.backend import Backend, Copy
from deepcore.backend.dtypes import bfloat16, float32
from deepcore.config import settings
from deepcore.errors import BackendError

_INSTALL = (
    "pip install 'deepcore-nn[cuda]', or 'deepcore-nn[cuda12]' for a driver of CUDA 12 (nvidia-smi shows both), or "
    'backend="cpu"'
)


class CudaBackend(Backend):
    """Arrays are `cupy.ndarray` on one device; work is queued on CuPy's current stream.

    `cupy` is the CuPy module, `cublas` the functions of its cuBLAS (tests pass stand-ins).
    """

    kernel_kind = "cuda"

    def __init__(self, index: int, cupy, name: str = "cuda", cublas=None, raising=contextlib.nullcontext):
        super().__init__(f"{name}:{index}", cupy, cupy.ndarray)
        self.index = index
        self.gpu = cupy.cuda.Device(index)
        self._functions: dict[str, Any] = {}
        self._cublas = cublas
        #: A context in which CuPy raises for singular matrices; its default is to return garbage.
        self._raising = raising
        #: Page-locked memory by the id of its array.
        self._pinned: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()

    def asarray(self, value, dtype=None):
        with self.gpu:
            if isinstance(value, (float, np.generic, np.ndarray)) and not np.ndim(value):
                return self.from_host(np.asarray(value, dtype))
            return self.array_module.asarray(value, dtype)

    def from_host(self, array):
        with self.gpu:
            if not array.ndim and array == 0:  # CuPy would clear the bytes, and -0.0 would become 0.0
                return self.array_module.asarray(array.reshape(1)).reshape(())
            return self.array_module.asarray(np.ascontiguousarray(array).reshape(array.shape))

    def full(self, shape, value, dtype=None):
        out = self.empty(shape, dtype=dtype)
        out[...] = value
        return out

    def to_host(self, array):
        return self.array_module.asnumpy(array)

    def _scatter_add(self, target, index, values) -> None:
        # CuPy's add.at uses atomics, whose order changes the bits of a floating sum. Writes are stably sorted by target
        # instead; a kernel sums each run in order, or, without it, log2(longest run) rounds of doubling distance do.
        from deepcore.kernels.cuda.embedding import scatter_rows

        xp = self.array_module
        with self.gpu:
            rows, values = _as_rows(xp, target, index, values)
            if values.size == 0:
                return
            flat = target.reshape(-1, values.shape[1])
            if settings.kernels and scatter_rows(self, flat, rows, values):
                if not _shares_memory(flat, target):
                    target[...] = flat.reshape(target.shape)
                return
            order = xp.argsort(rows, kind="stable")
            rows, values = rows[order], values[order]
            first = xp.concatenate([xp.ones(1, dtype=bool), rows[1:] != rows[:-1]])
            starts = xp.nonzero(first)[0]
            position = xp.arange(rows.size) - starts[xp.cumsum(first) - 1]  # position within its run
            step, longest = 1, int(position.max()) + 1
            while step < longest:
                pair = position[step:] == position[:-step] + step  # `step` apart in position: in the same run
                values[:-step] = xp.where(pair[:, None], values[:-step] + values[step:], values[:-step])
                step *= 2
            rows = rows[starts]
            flat[rows] = flat[rows] + values[starts]
            if not _shares_memory(flat, target):
                target[...] = flat.reshape(target.shape)

    def matmul(self, x, y):
        """x @ y by cuBLAS, else by deepcore's kernel, else by CuPy, with bfloat16 batches in float32."""
        if self.blas is not None:
            out = self.blas.product(x, y)
            if out is not None:
                return out
        elif x.ndim == y.ndim == 2 and x.dtype == y.dtype == float32 and settings.kernels:
            from deepcore.kernels.cuda.gemm import product as tiled

            out = tiled(self, x, y)
            if out is not None:
                return out
        product = self._on_device(self.array_module.matmul) if self.index else self.array_module.matmul
        if x.dtype == bfloat16 and max(x.ndim, y.ndim) > 2:
            return product(x.astype(float32), y.astype(float32)).astype(bfloat16)
        return product(x, y)

    def lapack(self, name: str, *arrays, **options):
        with self.gpu, self._raising():
            return super().lapack(name, *arrays, **options)

    def transform(self, name: str, x, **options):
        with self.gpu:
            if name == "irfft":  # cuFFT expects a real zero frequency (and n/2 of an even n), where NumPy reads no more
                x = x.copy()
                lines = self.array_module.moveaxis(x, options["axis"], 0).imag
                lines[0] = 0
                if not options["n"] % 2:
                    lines[options["n"] // 2] = 0
            return super().transform(name, x, **options)

    @functools.cached_property
    def blas(self):
        """cuBLAS with deepcore's own handle, or None where it cannot be loaded."""
        from deepcore.kernels.cuda.blas import Blas

        return None if self._cublas is None else Blas(self, self._cublas)

    # -- kernels ----------------------------------------------------------------------------------
    @functools.cached_property
    def capability(self) -> int:
        """The compute capability: 90 is 9.0."""
        return int(self.gpu.compute_capability)

    @functools.cached_property
    def multiprocessors(self) -> int:
        return self.array_module.cuda.runtime.getDeviceProperties(self.index)["multiProcessorCount"]

    def ready(self, kernel) -> bool:
        """Whether `launch` can run this `kernels.cuda.Kernel`, after compiling and loading it the first time."""
        function = self._functions.get(kernel.name)
        if function is None:
            ptx = kernel.ptx(self.capability)
            function = self._functions[kernel.name] = ptx is not None and self._load(kernel.symbol, ptx)
        return function is not False

    def _load(self, symbol: str, ptx: str):
        # RawModule takes PTX as a file, and reads it when the kernel is first used.
        with self.gpu, tempfile.TemporaryDirectory(prefix="deepcore-") as folder:
            path = os.path.join(folder, f"{symbol}.ptx")
            with open(path, "w", encoding="ascii") as file:
                file.write(ptx)
            function = self.array_module.RawModule(path=path).get_function(symbol)
            function.kernel  # noqa: B018
            return function

    @functools.cached_property
    def no_words(self):
        """Three zeros."""
        return self.zeros(3, dtype=np.int64)

    @functools.cached_property
    def capture_stream(self):
        """The stream on which steps are captured."""
        with self.gpu:
            return self.array_module.cuda.Stream(non_blocking=True)

    @functools.cached_property
    def counting(self) -> threading.local:
        """Per-thread `total`: where it is set, `any_wrong` adds its counts to it instead of waiting for them."""
        return _Counting()

    def any_wrong(self, count) -> bool:
        """Whether a count of indices out of range is not 0."""
        if self.counting.total is None:
            return bool(count)
        self.counting.total += count.astype(np.int64)
        return False

    def any_wrong_by_now(self, count) -> Callable[[], bool]:
        """`any_wrong` of an 8-byte array of one element, as a call that waits for the work queued so far."""
        if self.counting.total is not None:
            return partial(self.any_wrong, count[0])
        words, event = self.pinned_words(1), self.array_module.cuda.Event(disable_timing=True)
        self.report(count, words)
        event.record()

        def any_wrong() -> bool:
            event.synchronize()
            return bool(words[0])

        return any_wrong

    def host_words(self, size: int):
        """Zeroed int64 words on the host, for copies to the device."""
        return np.zeros(size, np.int64)

    def report(self, array, words) -> None:
        """Queue a copy of an array to `pinned_words`; unlike `get`, it can be captured."""
        runtime = self.array_module.cuda.runtime
        stream = self.array_module.cuda.get_current_stream()
        runtime.memcpyAsync(words.ctypes.data, array.data.ptr, array.nbytes, runtime.memcpyDeviceToHost, stream.ptr)

    def pinned_words(self, size: int):
        """Zeroed int64 words in pinned host memory, which the device may write."""
        memory = self.array_module.cuda.alloc_pinned_memory(8 * size)
        words = np.frombuffer(memory, np.int64, size)
        words[...] = 0
        return words

    def pinned(self, array):
        memory = np.frombuffer(self.array_module.cuda.alloc_pinned_memory(max(array.nbytes, 1)), np.uint8, array.nbytes)
        self._pinned[id(memory)] = memory
        copy = memory.view(array.dtype).reshape(array.shape)
        copy[...] = array
        return copy

    def copy_ahead(self, array):
        with self.gpu:
            return _Copy(self, array)

    @functools.cached_property
    def copy_stream(self):
        """The stream of copies from the host that overlap with other work."""
        with self.gpu:
            return self.array_module.cuda.Stream(non_blocking=True)

    def is_pinned(self, memory) -> bool:
        return self._pinned.get(id(memory)) is memory

    def launch(self, kernel, blocks: int, /, **arguments) -> None:
        """Queue `blocks` blocks of a ready kernel. Arguments, by name, are arrays (for pointers) and numbers."""
        self.prepared(kernel, blocks, **arguments)()

    def prepared(self, kernel, blocks: int, /, **arguments) -> partial:
        """`launch` as a call into CuPy's compiled code, which runs no Python code and so no signal handler."""
        return partial(self._functions[kernel.name], (blocks,), (kernel.threads,), kernel.values(arguments))

    def synchronize(self) -> None:
        with self.gpu:
            self.array_module.cuda.get_current_stream().synchronize()

    def memory(self) -> dict[str, int]:
        with self.gpu:
            pool = self.array_module.get_default_memory_pool()
            free, total = self.array_module.cuda.runtime.memGetInfo()
            return {"used": pool.used_bytes(), "held": pool.total_bytes(), "free": free, "total": total}

    def count(self) -> int:
        """How many GPUs there are."""
        return self.array_module.cuda.runtime.getDeviceCount()

    def address(self, array) -> int:
        return array.data.ptr

    def release_memory(self) -> None:
        with self.gpu:
            self.array_module.get_default_memory_pool().free_all_blocks()

    def info(self) -> dict[str, Any]:
        cupy = self.array_module
        properties = cupy.cuda.runtime.getDeviceProperties(self.index)
        name = properties["name"]
        return {
            "device": name.decode() if isinstance(name, bytes) else name,
            "compute capability": self.gpu.compute_capability,
            "memory": f"{properties['totalGlobalMem'] / 2**30:.1f} GiB",
            "cupy": cupy.__version__,
            "CUDA runtime": cupy.cuda.runtime.runtimeGetVersion(),
            "driver": cupy.cuda.runtime.driverGetVersion(),
        }

    def bind(self, op) -> Callable:
        run = super().bind(op)
        if self.index:
            run = self.impls[op] = self._on_device(run)
        return run

    def __getattr__(self, name: str):
        value = super().__getattr__(name)
        if self.index and callable(value) and not isinstance(value, type):
            value = self.__dict__[name] = self._on_device(value)
        return value

    def _on_device(self, run: Callable) -> Callable:
        """`run` with this device as CuPy's current one, which is 0 by default."""
        device = self.gpu

        @functools.wraps(run, updated=())
        def on_device(*args, **params):
            with device:
                return run(*args, **params)

        return on_device


class _Copy(Copy):
    """A copy on the stream for copies, from page-locked memory that is held until `finish`."""

    def __init__(self, backend: CudaBackend, array):
        cupy = backend.array_module
        self._cuda, self._gpu = cupy.cuda, backend.gpu
        array = np.ascontiguousarray(array).reshape(array.shape)
        self._memory = backend.pinned(array)
        super().__init__(cupy.empty(array.shape, dtype=array.dtype))
        # Queued work may still use the memory that the pool gives out, in the order of the current stream.
        allocated = self._cuda.Event(disable_timing=True)
        allocated.record(self._cuda.get_current_stream())
        backend.copy_stream.wait_event(allocated)
        self.array.set(self._memory, backend.copy_stream)
        self._done = self._cuda.Event(disable_timing=True)
        self._done.record(backend.copy_stream)

    def wait(self) -> None:
        with self._gpu:
            self._cuda.get_current_stream().wait_event(self._done)

    def finish(self) -> None:
        self._done.synchronize()
        self._memory = None


class _Counting(threading.local):
    total: Any = None


def _as_rows(xp, target, index, values):
    """(row number of each write, values as rows): target[index] += values over the rows of target seen as a matrix."""
    index = index if isinstance(index, tuple) else (index,)
    if all(isinstance(part, xp.ndarray) and part.dtype.kind in "iu" for part in index):
        arrays = xp.broadcast_arrays(*index)
        lead, inner = target.shape[: len(arrays)], target.shape[len(arrays) :]
        rows = xp.zeros(arrays[0].shape, dtype=np.int64)
        for size, array in zip(lead, arrays):
            rows = rows * size + xp.where(array < 0, array + size, array)
    else:  # slices, masks, None: number the elements and index the numbers
        inner = ()
        rows = xp.arange(target.size).reshape(target.shape)[index]
    width = math.prod(inner)
    values = xp.broadcast_to(values, rows.shape + inner).astype(target.dtype)  # a copy, which is summed in place
    return rows.reshape(-1), values.reshape(rows.size, width)


def _shares_memory(view, target) -> bool:
    return view.base is target or (target.base is not None and view.base is target.base)


def create(index: int) -> Backend:
    try:
        import cupy
    except ImportError as error:
        raise BackendError(f"backend 'cuda' needs CuPy, which cannot be imported: {error}", fix=_INSTALL) from None
    if int(cupy.__version__.partition(".")[0]) < 14:
        raise BackendError(
            "backend 'cuda' needs a newer CuPy", expected="CuPy 14 or later", received=cupy.__version__, fix=_INSTALL
        )
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's CUDARuntimeError, or a missing libcuda
        raise BackendError(
            f"backend 'cuda' found CuPy {cupy.__version__} but no usable GPU: {error}",
            fix="install or update the NVIDIA driver (nvidia-smi shows it), or for one of CUDA 12 pip install "
            "'deepcore-nn[cuda12]', or use backend=\"cpu\"",
        ) from None
    if index >= count:
        raise BackendError(
            f"there is no GPU {index}: this machine has {count}",
            fix=f'backend="cuda:{count - 1}"' if count else 'backend="cpu"',
        )
    from deepcore.kernels.cuda.blas import Cublas

    return CudaBackend(index, cupy, cublas=Cublas.load(), raising=_raising)


def _raising():
    """A context in which CuPy's linear algebra raises for singular matrices, as NumPy's does."""
    return importlib.import_module("cupyx").errstate(linalg="raise")
