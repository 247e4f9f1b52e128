"""Matrix products by cuBLAS through our own handle, which can be captured in a graph; CuPy's cannot.

The handle has a permanent workspace, so that neither capture nor replay allocates, and float32 is computed as float32.
Eager products use it, too, so captured ones have the same bits. The library is the one that CuPy loads.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, ClassVar

from deepcore.backend.dtypes import bfloat16, float16, float32, float64
from deepcore.errors import BackendError

#: cudaDataType_t and cublasComputeType_t by dtype, and the C type of a scale.
_TYPES = {
    float32: (0, 68, ctypes.c_float), float64: (1, 70, ctypes.c_double),
    float16: (2, 68, ctypes.c_float), bfloat16: (14, 68, ctypes.c_float),
}  # fmt: skip
_NORMAL, _TRANSPOSED, _ANY = 0, 1, -1
#: NVIDIA's recommendation for its newest devices.
_WORKSPACE = 32 << 20


class Cublas:
    """The four libcublas functions in use, with cuBLAS's argument names."""

    _ARGUMENTS: ClassVar = {
        "Create_v2": "p", "SetStream_v2": "pp", "SetWorkspace_v2": "ppz", "GemmStridedBatchedEx": "piiiiippiilpiilppiiliii",
    }  # fmt: skip
    _KINDS: ClassVar = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_longlong, "z": ctypes.c_size_t}

    def __init__(self, library: ctypes.CDLL):
        self._calls = {}
        for name, kinds in self._ARGUMENTS.items():
            call = self._calls[name] = getattr(library, f"cublas{name}")
            call.argtypes, call.restype = [self._KINDS[kind] for kind in kinds], ctypes.c_int

    @classmethod
    def load(cls) -> Cublas | None:
        """The installed library, or None."""
        try:
            from cuda.pathfinder import load_nvidia_dynamic_lib  # a dependency of CuPy

            return cls(ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path))
        except (ImportError, OSError, RuntimeError, AttributeError):
            return None

    def _call(self, name: str, *arguments) -> None:
        status = self._calls[name](*arguments)
        if status:
            raise BackendError(
                f"cublas{name.removesuffix('_v2')} failed with status {status}", fix="see cublasStatus_t"
            )

    def create(self) -> int:
        handle = ctypes.c_void_p()
        self._call("Create_v2", ctypes.byref(handle))
        return handle.value or 0

    def set_stream(self, handle, stream):
        self._call("SetStream_v2", handle, stream)

    def set_workspace(self, handle, workspace, size):
        self._call("SetWorkspace_v2", handle, workspace, size)

    def gemm_strided_batched_ex(
        self, handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb, stride_b, beta, c, ctype,
        ldc, stride_c, batch_count, compute_type, algo,
    ):  # fmt: skip
        self._call(
            "GemmStridedBatchedEx", handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb, stride_b,
            beta, c, ctype, ldc, stride_c, batch_count, compute_type, algo,
        )  # fmt: skip


class Blas:
    """cuBLAS on one device; `cublas` is a `Cublas` or a stand-in."""

    def __init__(self, xp, cublas):
        self.xp, self.cublas = xp, cublas
        with xp.gpu:
            self.handle = cublas.create()
        self._workspaces: dict[int, Any] = {}
        self._stream: int | None = None
        self._scales = {dtype: (kind(1.0), kind(0.0)) for dtype, (_, _, kind) in _TYPES.items()}

    def product(self, x, y):
        """x @ y, with broadcast batches; None for operands that cuBLAS does not support."""
        dtype = x.dtype
        if dtype not in _TYPES or y.dtype != dtype or x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
            return None
        xp, (k, n) = self.xp, y.shape[-2:]
        if y.ndim == 2 and x.ndim > 2:  # the rows of a batch are the rows of one matrix
            rows = self.product(xp.ascontiguousarray(x).reshape(-1, k), y)
            return None if rows is None else rows.reshape(*x.shape[:-1], n)
        m, batch = x.shape[-2], x.shape[:-2]
        if x.shape[:-2] != y.shape[:-2]:
            batch = xp.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        out = xp.empty((*batch, m, n), dtype=dtype)
        count = math.prod(batch)
        if not out.size or max(m, n, k, count) >= 1 << 31:
            return None if out.size else out
        if not k:
            out[...] = 0
            return out
        a, a_kind, a_step, a_pitch = self._operand(x, batch)
        b, b_kind, b_step, b_pitch = self._operand(y, batch)
        number, computed, _ = _TYPES[dtype]
        one, zero = self._scales[dtype]
        with xp.gpu:
            self._follow_stream()
            # cuBLAS is column-major: outᵀ = yᵀ @ xᵀ.
            self.cublas.gemm_strided_batched_ex(
                self.handle, b_kind, a_kind, n, m, k, ctypes.addressof(one), b.data.ptr, number, b_pitch, b_step,
                a.data.ptr, number, a_pitch, a_step, ctypes.addressof(zero), out.data.ptr, number, n, m * n,
                count, computed, _ANY,
            )  # fmt: skip
        return out

    def _operand(self, x, batch: tuple[int, ...]):
        """(array, transposition, matrix stride, row stride) of x, copied if its layout needs that; strides in elements."""
        item, (rows, columns) = x.itemsize, x.shape[-2:]
        if not batch or (x.flags.c_contiguous and x.shape[:-2] == batch):
            down, along = x.strides[-2:]
            if (along == item or columns == 1) and ((down >= columns * item and down % item == 0) or rows == 1):
                return x, _NORMAL, rows * columns, max(down // item, columns) if rows > 1 else columns
            if (down == item or rows == 1) and along >= rows * item and along % item == 0:
                return x, _TRANSPOSED, rows * columns, along // item
        x = self.xp.ascontiguousarray(self.xp.broadcast_to(x, (*batch, rows, columns)))
        return x, _NORMAL, rows * columns, columns

    def _follow_stream(self) -> None:
        cuda = self.xp.array_module.cuda
        stream = cuda.get_current_stream().ptr
        if stream == self._stream:
            return
        if stream not in self._workspaces:
            pool = cuda.MemoryPool()
            self._workspaces[stream] = pool, pool.malloc(_WORKSPACE)
        self.cublas.set_stream(self.handle, stream)
        self.cublas.set_workspace(self.handle, self._workspaces[stream][1].ptr, _WORKSPACE)
        self._stream = stream
