"""A CuPy stand-in: NumPy memory behind CuPy's rules, so that the CUDA backend's own code runs without a GPU.

`standin.cupy` is the module. It has only names, parameters and ufunc loops that CuPy has (the table
`cupy_api.txt`, generated from CuPy), it rejects every implicit transfer, and it counts the explicit ones. Where
CuPy leaves a result undefined (uninitialised memory, the order of colliding writes), the stand-in's result
deliberately differs from NumPy's. While a stream captures, nothing runs: work is recorded, synchronization raises, and a
graph repeats the work at the same addresses. `python tests/support/standin.py` prints the table for the installed CuPy.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import threading
import time
import types
import weakref
from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np
import ptx_machine

TABLE = Path(__file__).with_name("cupy_api.txt")
DEVICES = 2
TOTAL_MEMORY = 16 << 30
_BLOCK = 512
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}  # "V" is bfloat16's kind
_PYTHON_SCALARS = {bool: np.dtype(bool), int: np.dtype(np.int64), float: np.dtype(float), complex: np.dtype(complex)}


# -- transfers between host and device -------------------------------------------------------------
class transfers:
    """Counts transfers inside a `with` block: `uploads`, `downloads` (calls; a download also synchronizes) and `syncs`.

    A sync is a result whose shape depends on the data: CuPy has to wait for the size.
    """

    totals: ClassVar = {"uploads": 0, "downloads": 0, "syncs": 0}

    def __enter__(self):
        self._before = dict(self.totals)
        return self

    def __exit__(self, *exc):
        self._after = dict(self.totals)

    def __getattr__(self, name):
        if name not in self.totals:
            raise AttributeError(name)
        return self.__dict__.get("_after", self.totals)[name] - self._before[name]


def _count(kind):
    if _nodes() is not None:
        # CuPy would record a copy from or to host memory that is reused later; other calls synchronize, and raise.
        _current.stream._nodes.append(None)
        raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: one of the {kind} while the stream captures")
    transfers.totals[kind] += 1


# -- devices, streams, memory ----------------------------------------------------------------------
class CUDARuntimeError(RuntimeError):
    pass


class _Current(threading.local):
    def __init__(self):
        self.device = 0
        self.stream = None
        self.allocator = None


_current = _Current()


class Device:
    def __init__(self, device=None):
        self.id = _current.device if device is None else int(device)
        self._entered = []

    def __enter__(self):
        self._entered.append(_current.device)
        self.use()
        return self

    def __exit__(self, *exc):
        _current.device = self._entered.pop()

    def use(self):
        _check_device(self.id)
        _current.device = self.id

    def synchronize(self):
        _check_device(self.id)
        _wait()

    @property
    def compute_capability(self):
        return "90"

    @property
    def mem_info(self):
        return TOTAL_MEMORY - _pool._peak_bytes[self.id], TOTAL_MEMORY

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self):
        return hash(self.id)

    def __repr__(self):
        return f"<CUDA Device {self.id}>"


def _check_device(index):
    if not 0 <= index < DEVICES:
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")


class Stream:
    null: Stream

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=0):
        self._entered = []
        self._default = null
        self._nodes = None
        self.ptr = 0 if null else id(self)

    def __enter__(self):
        self._entered.append(_current.stream)
        _current.stream = self
        return self

    def __exit__(self, *exc):
        _current.stream = self._entered.pop()

    def use(self):
        _current.stream = self
        return self

    def synchronize(self):
        _wait(self)

    def wait_event(self, event):
        pass

    def record(self, event=None):
        event = Event() if event is None else event
        event.record(self)
        return event

    def begin_capture(self, mode=None):
        if self._default:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self._nodes is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream captures already")
        self._nodes = []

    def end_capture(self):
        nodes, self._nodes = self._nodes, None
        if nodes is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream does not capture")
        if None in nodes:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: an earlier call was not permitted")
        graph = Graph.__new__(Graph)
        graph._nodes = nodes
        _graphs.add(graph)
        return graph

    def is_capturing(self):
        return self._nodes is not None


Stream.null = Stream(null=True)
#: While graphs exist, memory returned to the pool is overwritten at once: a graph must not use it.
_graphs: weakref.WeakSet[Graph] = weakref.WeakSet()


class Graph:
    """Recorded work, as functions that repeat it."""

    def __init__(self, *args, **kwargs):
        raise NotImplementedError("a graph comes from Stream.end_capture")

    def launch(self, stream=None):
        _wait(stream)
        for node in self._nodes:
            node()

    def upload(self, stream=None):
        pass


def _nodes():
    """The recorded nodes of the current stream, or None where it does not capture."""
    return None if _current.stream is None else _current.stream._nodes


def _wait(stream=None):
    """Raise where waiting (or launching a graph) is not permitted, and invalidate the capture, as CUDA does."""
    for capturing_stream in (stream, _current.stream):
        if capturing_stream is not None and capturing_stream._nodes is not None:
            capturing_stream._nodes.append(None)
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: not permitted when a stream is capturing")


def _queue(run, sources):
    """The NumPy results of `run()` as stand-in arrays. While the stream captures, `run` is recorded instead: the
    memory of `sources` is unchanged, and new arrays contain garbage until a graph is launched."""
    nodes = _nodes()
    if nodes is None:
        return _rewrap(run(), sources)
    roots = {id(root): root for root in (_root(source._a) for source in sources)}
    before = [(root, root.copy()) for root in roots.values()]
    results = _rewrap(run(), sources)
    for root, copy in before:
        root[...] = copy
    result_list = results if isinstance(results, (tuple, list)) else [results]
    outputs = [
        (i, r._a)
        for i, r in enumerate(result_list)
        if type(r) is ndarray and id(_root(r._a)) not in roots and r.base is None
    ]
    for _, output in outputs:
        _garbage(output)

    def replay():
        values = run()
        values = values if isinstance(values, (tuple, list)) else [values]
        for i, output in outputs:
            output[...] = values[i]

    nodes.append(replay)
    return results


def _do(run):
    """Run work that returns no result, or record it while the stream captures."""
    nodes = _nodes()
    if nodes is None:
        run()
    else:
        nodes.append(run)


class Event:
    """A point in time. Work is done as soon as it is queued, so the host's clock measures it."""

    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self._moment = None

    def record(self, stream=None):
        self._moment = time.perf_counter()

    def synchronize(self):
        _wait()

    @property
    def done(self):
        return True


def get_elapsed_time(start_event, end_event):
    return (end_event._moment - start_event._moment) * 1e3


class MemoryPool:
    """Bytes per device, in CuPy's blocks of 512; a freed block stays held until `free_all_blocks`.

    The default pool only counts. `malloc` of another pool returns a block at a fixed address, which is reused by later
    arrays once its array is freed.
    """

    def __init__(self, allocator=None):
        self._used, self._peak_bytes = [0] * DEVICES, [0] * DEVICES
        self._free = {}

    def malloc(self, size):
        size = -(-size // _BLOCK) * _BLOCK
        free = self._free.setdefault((_current.device, size), [])
        while free:
            block = free.pop()
            if block.live:  # the garbage collector may have finalized the block before the array that returned it
                return MemoryPointer(block, 0)
        return MemoryPointer(_Block(self, size), 0)

    def _change(self, device, size):
        self._used[device] += size
        self._peak_bytes[device] = max(self._peak_bytes[device], self._used[device])

    def used_bytes(self):
        return self._used[_current.device]

    def total_bytes(self):
        return self._peak_bytes[_current.device]

    def free_bytes(self):
        return self.total_bytes() - self.used_bytes()

    def free_all_blocks(self, stream=None):
        for key in [key for key in self._free if key[0] == _current.device]:
            del self._free[key]
        self._peak_bytes[_current.device] = self._used[_current.device]


_pool = MemoryPool()
#: The memory of all live arrays, which kernels may access.
memory = ptx_machine.Memory()


class _Block:
    """Memory of a pool, accessible to kernels during the block's lifetime."""

    def __init__(self, pool, size):
        self.pool = pool
        whole = np.empty(size + _BLOCK, np.uint8)
        start = -whole.ctypes.data % _BLOCK
        self.bytes, self.device_id = whole[start : start + size], _current.device
        self.ptr, self.live = memory.add(self.bytes) if size else 0, True

    def __del__(self, _memory=memory):
        self.live = False
        if self.ptr:
            _memory.remove(self.ptr)


class MemoryPointer:
    """An address in memory: `mem` is its owner."""

    def __init__(self, mem, offset):
        self.mem, self._offset = mem, offset

    @property
    def ptr(self):
        return self.mem.ptr + self._offset

    @property
    def device_id(self):
        return self.mem.device_id

    @property
    def device(self):
        return Device(self.device_id)

    def __add__(self, offset):
        return MemoryPointer(self.mem, self._offset + offset)


#: Addresses of host memory that the device may write.
_pinned: set[int] = set()


def alloc_pinned_memory(size):
    memory = bytearray(size)
    _pinned.add(np.frombuffer(memory, np.uint8).ctypes.data)
    return memory


class _Owner:
    """An array as the owner of a MemoryPointer's memory."""

    def __init__(self, array):
        self.array, self.ptr, self.device_id = array, array._a.__array_interface__["data"][0], array._device


@contextlib.contextmanager
def using_allocator(allocator=None):
    before, _current.allocator = _current.allocator, allocator
    try:
        yield
    finally:
        _current.allocator = before


class Flags:
    """CuPy's three flags; there is no `writeable`."""

    def __init__(self, array):
        self.c_contiguous, self.f_contiguous = array._a.flags.c_contiguous, array._a.flags.f_contiguous
        self.owndata = array.base is None

    def __getitem__(self, name):
        return getattr(
            self, {"C_CONTIGUOUS": "c_contiguous", "F_CONTIGUOUS": "f_contiguous", "OWNDATA": "owndata"}[name]
        )


# -- the array -------------------------------------------------------------------------------------
class ndarray:
    """An array on a fake device. Not a subclass of NumPy's array, which NumPy would treat as its own."""

    __slots__ = ("__weakref__", "_a", "_base", "_charge", "_device", "_pool_pointer", "_start")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        if memptr is None:
            self._adopt(_garbage(np.empty(shape, dtype, order)), None, _current.device)
            return
        owner = memptr.mem.array
        low, high = np.lib.array_utils.byte_bounds(owner._a)
        raw = np.frombuffer((ctypes.c_uint8 * (high - low)).from_address(low), np.uint8)
        # NumPy checks that all of it lies inside; the array that owns the memory is its base.
        a = np.ndarray(shape, dtype, raw, memptr.ptr - low, strides)
        self._adopt(a, owner if owner._base is None else owner._base, owner._device)

    def _adopt(self, a, base, device):
        self._pool_pointer = None
        if base is None and _current.allocator is not None and a.size:
            self._pool_pointer = _current.allocator(a.nbytes)
            a, original = np.ndarray(a.shape, a.dtype, self._pool_pointer.mem.bytes, 0, a.strides), a
            a[...] = original
        self._a, self._base, self._device = a, base, device
        size = -(-a.nbytes // _BLOCK) * _BLOCK if base is None else 0
        pool = self._pool_pointer.mem.pool if self._pool_pointer is not None else _pool
        self._charge = pool, size
        pool._change(device, size)
        self._start = 0
        if base is None and a.size and self._pool_pointer is None:
            self._start = memory.add(_root(a))

    def __del__(self, _memory=memory):
        if hasattr(self, "_start"):  # bound here because module globals go first at exit
            pool, size = self._charge
            pool._change(self._device, -size)
            if self._pool_pointer is not None:
                pool._free.setdefault((self._device, self._pool_pointer.mem.bytes.size), []).append(
                    self._pool_pointer.mem
                )
            if self._start:
                _memory.remove(self._start)
                if _graphs and self._a.flags.owndata:
                    _garbage(self._a)

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    strides = property(lambda self: self._a.strides)
    base = property(lambda self: self._base)
    flags = property(Flags)
    T = property(lambda self: _wrap(self._a.T, [self]))
    mT = property(lambda self: _wrap(self._a.mT, [self]))
    real = property(lambda self: _wrap(self._a.real, [self]))
    imag = property(lambda self: _wrap(self._a.imag, [self]))
    device = property(lambda self: Device(self._device))
    data = property(lambda self: MemoryPointer(_Owner(self), 0))

    # Out of the device: only on request.
    def get(self, stream=None, order="C", out=None, blocking=True):
        _count("downloads")
        if out is None:
            return self._a.copy(order)
        if type(out) is not np.ndarray or out.shape != self.shape or out.dtype != self.dtype:
            raise TypeError("Only numpy.ndarray of the same shape and dtype can be obtained from cupy.ndarray")
        out[...] = self._a
        return out

    def item(self, *args):
        _count("downloads")
        return self._a.item(*args)

    def tolist(self):
        _count("downloads")
        return self._a.tolist()

    def tobytes(self, order="C"):
        _count("downloads")
        return self._a.tobytes(order)

    def set(self, arr, stream=None):
        if type(arr) is not np.ndarray or arr.dtype != self.dtype or arr.shape != self.shape:
            raise TypeError("Only numpy.ndarray of the same shape and dtype can be set to cupy.ndarray")
        _count("uploads")
        self._a[...] = arr

    def copy(self, order="C"):
        return _queue(functools.partial(self._a.copy, order), [self])

    def __array__(self, dtype=None):
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def _scalar(self, kind):
        _count("downloads")
        return kind(self._a)

    def __bool__(self):
        return self._scalar(bool)

    def __int__(self):
        return self._scalar(int)

    def __float__(self):
        return self._scalar(float)

    def __complex__(self):
        return self._scalar(complex)

    def __repr__(self):
        return self._scalar(repr)

    def __str__(self):
        return self._scalar(str)

    def __format__(self, spec):
        return self._scalar(lambda a: format(a, spec))

    def __reduce__(self):
        return cupy.array, (self.get(),)

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    # Exchange.
    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "version": 3,
            "strides": None if self._a.flags.c_contiguous else self.strides,
            "data": (self.data.ptr, False),
            "stream": 1,
        }

    def __dlpack_device__(self):
        return 2, self._device  # kDLCUDA

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if dl_device is not None and tuple(dl_device) == (1, 0):
            return self.get().__dlpack__(max_version=max_version)
        if dl_device is not None and tuple(dl_device) != (2, self._device):
            raise BufferError("unsupported device requested.")
        if copy:
            raise BufferError("copy=True only supported for copy to CPU.")
        return _relabel(self._a.__dlpack__(max_version=max_version), 2, self._device)

    # Indexing.
    def __getitem__(self, key):
        key, advanced = _index(self, key)
        return _queue(lambda: self._a[key()], [self]) if advanced else _wrap(self._a[key()], [self])

    def __setitem__(self, key, value):
        key, advanced = _index(self, key)
        if type(value) is ndarray:
            _same_device([self, value])
            value = value._a
        elif not _is_scalar(value):
            raise TypeError(f"{_name(value)} cannot be assigned to a cupy.ndarray: transfer it first")

        def write(a=self._a):
            if advanced != "integer":
                a[key()] = value
                return
            # Of colliding writes CuPy keeps any; the stand-in keeps the first, NumPy the last.
            places = np.arange(a.size).reshape(a.shape)[key()]
            values = np.broadcast_to(np.asarray(value).astype(a.dtype), places.shape)
            a.flat[places.ravel()[::-1]] = values.ravel()[::-1]

        _do(write)

    # NumPy's functions of a stand-in array, and a NumPy array's operators.
    def __array_ufunc__(self, function, method, *inputs, out=None, **kwargs):
        function_ = getattr(cupy, function.__name__, None)
        if function_ is None:
            return NotImplemented
        if out is not None:
            kwargs["out"] = out[0]
        return (function_ if method == "__call__" else getattr(function_, method))(*inputs, **kwargs)

    def __array_function__(self, function, classes, args, kwargs):
        module = functools.reduce(getattr, function.__module__.split(".")[1:], cupy)
        function_ = getattr(module, function.__name__, None)
        return NotImplemented if function_ is None else function_(*args, **kwargs)


def _root(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def _wrap(a, sources=(), device=None):
    """`a` as a stand-in array: one of `sources` itself, a view of one, or a new array."""
    a = np.asarray(a)
    base = None
    root = _root(a)
    for source in sources:
        if source._a is a:
            return source
        if _root(source._a) is root:
            base = source if source._base is None else source._base
            break
    array = ndarray.__new__(ndarray)
    array._adopt(a, base, _current.device if device is None else device)
    return array


def _garbage(a):
    """Fill uninitialised memory with NaN, -1 or True; never with zero, which might be correct by luck."""
    a[...] = np.array(np.nan if a.dtype.kind in "fcV" else -1).astype(a.dtype)
    return a


def _name(value):
    return f"{type(value).__module__}.{type(value).__name__}"


def _is_scalar(value):
    return type(value) in _PYTHON_SCALARS or isinstance(value, np.generic)


def _same_device(arrays):
    for array in arrays:
        if array._device != _current.device:
            raise ValueError(
                f"The device where the array resides ({array._device}) is different from the current device "
                f"({_current.device}). Peer access is unavailable between these devices."
            )


def _unwrap(value, sources):
    if type(value) is ndarray:
        sources.append(value)
        return value._a
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: CuPy makes no implicit transfer")
    if type(value) in (list, tuple):
        return type(value)(_unwrap(v, sources) for v in value)
    return value


def _rewrap(value, sources):
    if isinstance(value, (np.ndarray, np.generic, bool, int, float, complex)):
        return _wrap(value, sources)
    if isinstance(value, (list, tuple)):
        return (list if type(value) is list else tuple)(_rewrap(v, sources) for v in value)
    return value


def _index(array, key):
    """(NumPy's key, "" for a view, else "mask" or "integer"). Integers in index arrays wrap around, as in CuPy.

    The key is a callable: a graph reads the index arrays at every launch.
    """
    items = list(key) if type(key) is tuple else [key]
    masks = 0
    for i, item in enumerate(items):
        if item is None or item is Ellipsis or isinstance(item, slice):
            continue
        if type(item) is ndarray:
            _same_device([item])
            items[i] = item._a
        elif isinstance(item, np.ndarray):
            raise TypeError("a numpy.ndarray as index is a hidden transfer: make it a device array first")
        elif isinstance(item, (list, tuple, bool, np.bool_)):
            _count("uploads")
            if any(type(v) is ndarray for v in (item if isinstance(item, (list, tuple)) else ())):
                raise TypeError("a list of device arrays as index: stack it first")
            items[i] = np.asarray(item)
            if items[i].size == 0:
                items[i] = items[i].astype(np.int32)
        elif not isinstance(item, (int, np.integer)):
            raise IndexError("only integers, slices, ellipsis, None and integer or boolean arrays are valid indices")
        if isinstance(items[i], np.ndarray):
            if items[i].dtype.kind not in "biu":
                raise IndexError(
                    f"arrays used as indices must be of integer or boolean type (actual: {items[i].dtype})"
                )
            masks += items[i].dtype == bool
    if masks > 1:
        raise IndexError("CuPy does not index with more than one boolean array")
    if masks:
        _count("syncs")
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)  # so that a single element stays a 0-d array
    width = [0 if v is None or v is Ellipsis else v.ndim if _kind(v) == "b" else 1 for v in items]
    axis, sizes = 0, {}
    for i, item in enumerate(items):
        if item is Ellipsis:
            axis = array.ndim - sum(width[i:])
        elif _kind(item) in "iu" and axis < array.ndim:
            sizes[i] = array.shape[axis]
        axis += width[i]

    def wrapped(_key=key):  # `_key` keeps the arrays alive, as freed memory is overwritten
        return tuple(item % sizes[i] if sizes.get(i) else item for i, item in enumerate(items))

    return wrapped, "integer" if sizes else "mask" if masks else ""


def _kind(item):
    return item.dtype.kind if isinstance(item, np.ndarray) else "-"


# -- ufuncs ----------------------------------------------------------------------------------------
class ufunc:
    """One of CuPy's ufuncs: its loops decide the dtypes, NumPy's function of the same name computes."""

    _METHODS: ClassVar = {"add": "sum", "multiply": "prod"}
    _AT: ClassVar = {"add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor"}

    def __init__(self, name, loops):
        self.__name__ = name
        self.types = loops
        self.nin, self.nout = (len(part) for part in loops[0].split("->"))
        self.nargs = self.nin + self.nout
        self._numpy = getattr(np, name)
        self._loops = [tuple([_dtype(c) for c in part] for part in loop.split("->")) for loop in loops]
        self._loop_cache = {}

    @property
    def name(self):
        return f"cupy_{self.__name__}"

    def __repr__(self):
        return f"<ufunc {self.name!r}>"

    def __call__(self, *args, out=None, dtype=None, casting="same_kind", **unknown):
        if unknown:
            raise TypeError(f"Wrong arguments {sorted(unknown)}")
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(f"Wrong number of arguments for {self.name!r}: {len(args)}")
        if len(args) > self.nin:
            if out is not None:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            out = args[self.nin :]
        outs = list(out) if isinstance(out, tuple) else [out]
        outs += [None] * (self.nout - len(outs))
        sources: list[ndarray] = []
        operands = []
        for arg in args[: self.nin]:
            if type(arg) is not ndarray and not _is_scalar(arg):
                raise TypeError(f"Unsupported type {type(arg)}")
            operands.append(_unwrap(arg, sources))
        for target in outs:
            if target is not None and type(target) is not ndarray:
                raise TypeError("Output arguments type must be cupy.ndarray")
        _same_device(sources + [o for o in outs if o is not None])
        in_dtypes, out_dtypes = self._loop(operands, None if dtype is None else np.dtype(dtype))

        out_arrays = [None if target is None else target._a for target in outs]

        def compute():
            with np.errstate(all="ignore"):
                converted = [
                    np.asarray(a, d) if _is_scalar(a) else a.astype(d, copy=False) for a, d in zip(operands, in_dtypes)
                ]
                results = self._numpy(*converted)
                results = results if self.nout > 1 else (results,)
                answer = []
                for result, out_array, out_dtype in zip(results, out_arrays, out_dtypes):
                    result = np.asarray(result).astype(out_dtype, copy=False)
                    if out_array is not None:
                        if out_array.shape != result.shape:
                            raise ValueError("Out shape is mismatched")
                        if not np.can_cast(out_dtype, out_array.dtype, casting):
                            raise TypeError(
                                f"output (typecode '{out_dtype.char}') could not be coerced to {out_array.dtype}"
                            )
                        out_array[...] = result
                        result = out_array
                    answer.append(result)
            return tuple(answer)

        targets = [target for target in outs if target is not None]
        answer = _queue(compute, targets)  # operands are not sources: the result is no view of them
        return answer[0] if self.nout == 1 else answer

    def _loop(self, operands, dtype):
        """The first loop that every operand can be cast to safely; Python scalars are weak."""
        key = (dtype, *(type(a) if type(a) in _PYTHON_SCALARS else a.dtype for a in operands))
        if key not in self._loop_cache:
            self._loop_cache[key] = self._search(operands, dtype)
        if self._loop_cache[key] is None:
            raise TypeError(f"Wrong type ({dtype or key[1:]}) of arguments for {self.name}")
        return self._loop_cache[key]

    def _search(self, operands, dtype):
        if dtype is not None:
            return next((loop for loop in self._loops if all(d == dtype for d in loop[1])), None)
        weak = [type(a) in _PYTHON_SCALARS for a in operands]
        dtypes = [_PYTHON_SCALARS[type(a)] if w else a.dtype for a, w in zip(operands, weak)]
        strong = [_CATEGORY[d.kind] for d, w in zip(dtypes, weak) if not w]
        loose = [_CATEGORY[d.kind] for d, w in zip(dtypes, weak) if w]
        use_weak = bool(strong) and bool(loose) and max(strong) >= max(loose)
        for loop in self._loops:
            for operand, is_weak, have, need in zip(operands, weak, dtypes, loop[0]):
                if np.can_cast(have, need):
                    continue
                if not (use_weak and is_weak) or not _weakly_fits(operand, need):
                    break
            else:
                return loop
        return None

    def outer(self, A, B, **kwargs):
        return self(A.reshape(A.shape + (1,) * B.ndim), B.reshape((1,) * A.ndim + B.shape), **kwargs)

    def at(self, a, indices, b=None):
        if self.__name__ not in self._AT:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        key, _ = _index(a, indices)
        values_ = _unwrap(b, [])

        def run(a=a._a):
            # Atomics run in any order; backwards, so that no test can depend on the bits of NumPy's order.
            places = np.arange(a.size).reshape(a.shape)[key()]
            values = np.broadcast_to(values_, places.shape).astype(a.dtype)
            flat = a.ravel()
            self._numpy.at(flat, places.ravel()[::-1], values.ravel()[::-1])
            a[...] = flat.reshape(a.shape)

        _do(run)

    def reduce(self, array, axis=0, dtype=None, out=None, keepdims=False):
        if self.__name__ not in self._METHODS:
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        return getattr(array, self._METHODS[self.__name__])(axis, dtype, out, keepdims)

    def accumulate(self, array, axis=0, dtype=None, out=None):
        if self.__name__ not in self._METHODS:
            raise NotImplementedError(f"`{self.name}.accumulate` is not supported yet")
        return getattr(array, "cum" + self._METHODS[self.__name__])(axis, dtype, out)


def _dtype(char):
    return _BFLOAT16 if char == "E" else np.dtype(char)


def _weakly_fits(scalar, dtype):
    try:
        return np.result_type(type(scalar)(0), dtype) == dtype
    except TypeError:
        return False


# -- functions and methods -------------------------------------------------------------------------
#: Functions that return Python values; they use only the dtype and shape of device arrays.
_HOST = {
    "broadcast_shapes",
    "can_cast",
    "isscalar",
    "issubdtype",
    "may_share_memory",
    "shares_memory",
    "ndim",
    "shape",
    "size",
}
_HOST |= {"promote_types", "result_type", "iscomplexobj"}
#: Functions that need no array among the arguments.
_NO_ARRAY_NEEDED = {
    "empty",
    "zeros",
    "ones",
    "full",
    "arange",
    "linspace",
    "logspace",
    "eye",
    "identity",
    "tri",
    "indices",
    "tril_indices",
}
_NO_ARRAY_NEEDED |= {"triu_indices", "diag_indices", "einsum", "meshgrid", "broadcast_arrays", "select"}
#: Functions whose first argument is a sequence of arrays.
_SEQUENCE = {
    "concatenate",
    "concat",
    "stack",
    "hstack",
    "vstack",
    "dstack",
    "column_stack",
    "lexsort",
    "ravel_multi_index",
}
_SYNC = {"nonzero", "argwhere", "flatnonzero", "unique", "extract", "compress", "bincount", "repeat"}
_INDEX_MODE = {"take", "put"}
_PRODUCTS = {"matmul", "dot", "tensordot"}
#: Functions of cuBLAS, whose handle CuPy does not provide during a capture.
_BLAS = _PRODUCTS | {"einsum", "inner", "outer", "vdot", "kron"}
#: Functions of Thrust, which synchronizes.
_SORTS = {"sort", "argsort", "lexsort", "partition", "argpartition", "unique", "msort"}


class _Function:
    """NumPy's function with CuPy's signature; arguments are unwrapped and results wrapped."""

    def __init__(self, name, signature):
        self.__name__ = name.rpartition(".")[2]
        self.__signature__ = signature
        self._waits = name.startswith("linalg.")  # cuSOLVER's status is read on the host
        self._numpy = functools.reduce(getattr, name.split("."), np)

    def __call__(self, *args, **kwargs):
        name = self.__name__
        self.__signature__.bind(*args, **kwargs)  # TypeError: CuPy's function has no such parameter
        sources: list[ndarray] = []
        plain = [_unwrap(a, sources) for a in args]
        named = {k: _unwrap(v, sources) for k, v in kwargs.items()}
        if name in _HOST:
            return self._numpy(*plain, **named)
        first = args[0] if args else next(iter(kwargs.values()), None)
        if name in _SEQUENCE and type(first) is not ndarray:
            if not all(type(v) is ndarray for v in first):
                raise TypeError(f"Only cupy arrays can be given to {name}, got {[_name(v) for v in first]}")
        elif name not in _NO_ARRAY_NEEDED and type(first) is not ndarray:
            raise TypeError(f"{name} needs a cupy.ndarray first, got {_name(first)}")
        _check_kwargs(name, named)
        _same_device(sources)
        halves = name in _PRODUCTS and all(s.dtype == _BFLOAT16 for s in sources)
        if halves and max(s.ndim for s in sources) > 2:
            raise TypeError("CuPy's batched product does not take bfloat16")
        _permitted(name)
        if self._waits:
            _wait()
        if name in _INDEX_MODE:
            named.setdefault("mode", "wrap")
        along = name in ("take_along_axis", "put_along_axis")

        def compute():
            with np.errstate(all="ignore"):
                result = self._numpy(*(_wrap_along_axis(plain, named) if along else plain), **named)
            if name in ("empty", "empty_like"):
                _garbage(result)
            if name == "diagonal":  # CuPy's view can be written
                result.flags.writeable = True
            if halves:  # cuBLAS answers in bfloat16, NumPy in float32
                result = np.asarray(result).astype(_BFLOAT16)
            if isinstance(result, (np.ndarray, np.generic)):
                _check_dtype(result.dtype)
            return list(result) if name == "broadcast_arrays" else result

        return _rewrap(compute(), sources) if name in ("empty", "empty_like") else _queue(compute, sources)


def _permitted(name):
    if name in _SYNC:
        _count("syncs")
    if _nodes() is not None and name in _SORTS:
        _wait()
    if _nodes() is not None and name in _BLAS:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")


def _wrap_along_axis(plain, named):
    axis = named.get("axis", plain[-1] if plain and isinstance(plain[-1], int) else -1)
    size = plain[0].shape[axis] if axis is not None else plain[0].size
    return [plain[0], plain[1] % max(size, 1), *plain[2:]]


def _check_kwargs(name, named):
    if name == "einsum" and set(named) - {"dtype", "optimize"}:
        raise TypeError(f"Did not understand the following kwargs: {sorted(set(named) - {'dtype', 'optimize'})}")
    if name in ("sort", "argsort") and named.get("kind") not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


def _check_dtype(dtype):
    if dtype != _BFLOAT16 and (dtype.kind not in "biufc" or dtype.itemsize > (16 if dtype.kind == "c" else 8)):
        raise ValueError(f"Unsupported dtype {dtype}")


def _method(name, signature):
    if name in vars(ndarray):
        return vars(ndarray)[name]

    def method(self, *args, **kwargs):
        signature.bind(self, *args, **kwargs)
        sources = [self]
        plain = [_unwrap(a, sources) for a in args]
        named = {k: _unwrap(v, sources) for k, v in kwargs.items()}
        _check_kwargs(name, named)
        _same_device(sources)
        _permitted(name)
        if name in _INDEX_MODE:
            named["mode"] = "wrap"
        if name == "astype" and named.get("casting", "") is None:
            del named["casting"]

        bound = getattr(self._a, name)

        def compute():
            with np.errstate(all="ignore"):
                return bound(*plain, **named)

        return _queue(compute, sources)

    method.__name__ = name
    method.__signature__ = signature
    return method


def _contains_device_array(value):
    return type(value) is ndarray or (isinstance(value, (list, tuple)) and any(map(_contains_device_array, value)))


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, (list, tuple)) and _contains_device_array(obj):
        obj = cupy.stack([array(v, copy=None) for v in obj])
        copy = None
    if type(obj) is ndarray:
        if obj._device != _current.device:
            return _wrap(np.array(obj._a, dtype, order=order, ndmin=ndmin))
        copied = functools.partial(np.array, obj._a, dtype, copy=True if copy else None, order=order, ndmin=ndmin)
        return _queue(copied, [obj])
    if hasattr(obj, "__cuda_array_interface__"):  # another library's array on the GPU, whose memory is shared
        interface = {
            key: obj.__cuda_array_interface__[key] for key in ("shape", "typestr", "strides", "data", "version")
        }
        shared = _wrap(np.asarray(types.SimpleNamespace(__array_interface__=interface, owner=obj)))
        return array(shared, dtype, copy, order, ndmin=ndmin)
    result = np.array(obj, dtype, order=order, ndmin=ndmin)
    _check_dtype(result.dtype)
    _count("uploads")
    if not result.ndim and result == 0:  # CuPy clears the memory
        result = np.zeros_like(result)
    return _wrap(result)


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy, order or "K", blocking=blocking)


def asanyarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy, order or "K", blocking=blocking)


def ascontiguousarray(a, dtype=None):
    return array(a, dtype, None, "C", ndmin=1)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    if type(a) is ndarray:
        return a.get(stream, order, out, blocking)
    return np.asarray(a)


def copyto(dst, src, casting="same_kind", where=None):
    if type(dst) is not ndarray or not (type(src) is ndarray or _is_scalar(src)):
        raise TypeError("copyto needs a cupy.ndarray and an array or a scalar")
    if where is not None and type(where) is not ndarray:
        raise TypeError("where must be a cupy.ndarray")
    _do(functools.partial(np.copyto, dst._a, _unwrap(src, []), casting, True if where is None else where._a))


def _relabel(capsule, kind, index):
    """The DLPack capsule with its device set to (kind, index): NumPy must reject GPU memory."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    name = api.PyCapsule_GetName(capsule)
    # DLManagedTensorVersioned has its version, context, deleter and flags before the tensor.
    tensor = api.PyCapsule_GetPointer(capsule, name) + (32 if name == b"dltensor_versioned" else 0)
    (ctypes.c_int32 * 2).from_address(tensor + 8)[:] = [kind, index]
    return capsule


def from_dlpack(array, *, device=None, copy=None):
    kind, index = array.__dlpack_device__()
    if kind != 2:
        raise BufferError("CuPy's from_dlpack takes device memory only")
    capsule = _relabel(array.__dlpack__(max_version=(1, 0)), 1, 0)
    bridge = types.SimpleNamespace(__dlpack__=lambda **_: capsule, __dlpack_device__=lambda: (1, 0))
    if copy:
        return _wrap(np.from_dlpack(bridge).copy(), device=index)
    return _wrap(np.from_dlpack(bridge), device=index)


def get_array_module(*args):
    return cupy if any(type(a) is ndarray for a in args) else np


def where(condition, x=None, y=None):
    if type(condition) is not ndarray:
        raise TypeError(f"where needs a cupy.ndarray as condition, got {_name(condition)}")
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        return condition.nonzero()
    sources: list[ndarray] = []
    if not all(type(v) is ndarray or _is_scalar(v) for v in (x, y)):
        raise TypeError(f"Unsupported type {_name(x)} or {_name(y)}")
    operands = _unwrap((condition, x, y), sources)
    _same_device(sources)
    return _queue(functools.partial(np.where, *operands), sources)


# -- kernels ---------------------------------------------------------------------------------------
class RawModule:
    """PTX from a file, read on the first use of a kernel on each device, as in CuPy."""

    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc"):
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        if code is not None:
            raise NotImplementedError("the stand-in has no CUDA compiler")
        self.file_path = path

    def get_function(self, name):
        return RawKernel(self.file_path, name)


@functools.lru_cache(maxsize=512)
def _program(text, symbol):
    return ptx_machine.Program(text, symbol)


class RawKernel:
    def __init__(self, path, name):
        self.file_path, self.name = path, name
        self._loaded = {}

    @property
    def kernel(self):
        program = self._loaded.get(_current.device)
        if program is None:
            program = self._loaded[_current.device] = _program(Path(self.file_path).read_text(), self.name)
        return program

    def __call__(self, grid, block, args, *, shared_mem=0):
        if shared_mem:
            raise NotImplementedError("dynamic shared memory")
        program = self.kernel
        sizes = [_dimension(grid), _dimension(block)]
        if len(args) != len(program.parameters):
            raise TypeError(f"{self.name} takes {len(program.parameters)} arguments, got {len(args)}")
        values = [_argument(a, bits, pointer) for a, (bits, pointer) in zip(args, program.parameters)]
        _do(lambda: ptx_machine.run(program, memory, *sizes, values))


def _dimension(sizes):
    if type(sizes) is not tuple or not 1 <= len(sizes) <= 3 or not all(type(n) is int for n in sizes):
        raise TypeError("grid and block are tuples of one to three whole numbers")
    if any(n != 1 for n in sizes[1:]):
        raise NotImplementedError("the stand-in launches in one dimension")
    return sizes[0]


def _argument(value, bits, pointer):
    """A kernel's argument as CuPy packs it; raises unless the parameter has its kind and size."""
    if type(value) is ndarray:
        _same_device([value])
        address = value.data.ptr
        if not pointer:
            raise TypeError("an array is given for a number")
        if value.size and not (memory.find(address) and address % value.itemsize == 0):
            raise ValueError(f"{address:#x} is in no live allocation")
        return np.uint64(address)
    if not _is_scalar(value):
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise OverflowError("Python int too large to convert to C long")
    value = value if isinstance(value, np.generic) else _PYTHON_SCALARS[type(value)].type(value)
    if pointer or 8 * value.itemsize != bits:
        raise TypeError(f"{value!r} is given for {'a pointer' if pointer else f'a number of {bits} bits'}")
    return value


# -- the module ------------------------------------------------------------------------------------
def parse_signature(text):
    """`a, axis=, *, dtype=` as an inspect.Signature; `=` marks an optional parameter."""
    parameters, kind = [], inspect.Parameter.POSITIONAL_OR_KEYWORD
    for part in filter(None, text.split(", ")):
        if part == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
        elif part.startswith("**"):
            parameters.append(inspect.Parameter(part[2:], inspect.Parameter.VAR_KEYWORD))
        elif part.startswith("*"):
            parameters.append(inspect.Parameter(part[1:], inspect.Parameter.VAR_POSITIONAL))
            kind = inspect.Parameter.KEYWORD_ONLY
        else:
            default = None if part.endswith("=") else inspect.Parameter.empty
            parameters.append(inspect.Parameter(part.rstrip("="), kind, default=default))
    return inspect.Signature(parameters)


def read_table():
    """{"ufunc": {name: loops}, "function": {name: signature text}, "method": …, "value": {name: ""}}."""
    table: dict[str, dict] = {"ufunc": {}, "function": {}, "method": {}, "value": {}}
    for line in TABLE.read_text().splitlines():
        if line.startswith("#") or not line:
            continue
        kind, name, *rest = line.split(" ", 2)
        table[kind][name] = rest[0] if rest else ""
    return table


class _Module(types.ModuleType):
    def __getattr__(self, name):
        hint = "; if CuPy does, add it to tests/support/cupy_api.txt" if not name.startswith("_") else ""
        raise AttributeError(f"module {self.__name__!r} (CuPy's stand-in) has no attribute {name!r}{hint}")


def _build():
    module = _Module("standin.cupy")
    table = read_table()
    for name in table["value"]:
        setattr(module, name, getattr(np, name))
    for name, loops in table["ufunc"].items():
        setattr(module, name, ufunc(name, loops.split()))
    for name, text in table["function"].items():
        *path, last = name.split(".")
        holder = module
        for part in path:
            if part not in vars(holder):
                setattr(holder, part, _Module(f"{holder.__name__}.{part}"))
            holder = vars(holder)[part]
        signature = parse_signature(text)
        override = globals().get(last) if not path else None
        setattr(holder, last, override or _Function(name, signature))
    for name, text in table["method"].items():
        setattr(ndarray, name, _method(name, parse_signature(text)))
    return module


def _binary(name, function, reflected=False, in_place=False):
    def method(self, other):
        if type(other) is not ndarray and not _is_scalar(other):
            if isinstance(other, np.ndarray):
                raise TypeError(f"Unsupported type {type(other)}: CuPy makes no implicit transfer")
            return NotImplemented
        compute = getattr(cupy, function)
        if in_place:
            return compute(self, other, out=self)
        return compute(other, self) if reflected else compute(self, other)

    method.__name__ = name
    setattr(ndarray, name, method)


def _unary(name, function):
    setattr(ndarray, name, lambda self: getattr(cupy, function)(self))


_OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
for _short, _full in _OPERATORS.items():
    _binary(f"__{_short}__", _full)
    _binary(f"__r{_short}__", _full, reflected=True)
    _binary(f"__i{_short}__", _full, in_place=True)
for _short, _full in (("lt", "less"), ("le", "less_equal"), ("gt", "greater"), ("ge", "greater_equal")):
    _binary(f"__{_short}__", _full)
_binary("__eq__", "equal")
_equal = ndarray.__eq__
ndarray.__eq__ = lambda self, other: cupy.zeros(self.shape, dtype=bool) if other is None else _equal(self, other)
_binary("__ne__", "not_equal")
_binary("__matmul__", "matmul")
_binary("__rmatmul__", "matmul", reflected=True)
for _short, _full in (("neg", "negative"), ("pos", "positive"), ("abs", "absolute"), ("invert", "invert")):
    _unary(f"__{_short}__", _full)

cupy = _build()
cupy.ndarray = ndarray
cupy.ufunc = ufunc
cupy.RawModule, cupy.RawKernel = RawModule, RawKernel
cupy.__version__ = "14.0.0"
cupy.get_default_memory_pool = lambda: _pool
cupy.cuda = _Module("standin.cupy.cuda")
cupy.cuda.Device = Device
cupy.cuda.Stream = Stream
cupy.cuda.Event, cupy.cuda.get_elapsed_time = Event, get_elapsed_time
cupy.cuda.MemoryPool, cupy.cuda.MemoryPointer, cupy.cuda.using_allocator = MemoryPool, MemoryPointer, using_allocator
cupy.cuda.Graph, cupy.cuda.alloc_pinned_memory = Graph, alloc_pinned_memory
cupy.cuda.get_allocator = lambda: _current.allocator or _pool.malloc
cupy.cuda.get_current_stream = lambda device_id=-1: _current.stream or Stream.null
cupy.cuda.get_device_id = lambda: _current.device
cupy.cuda.is_available = lambda: True
cupy.cuda.runtime = _Module("standin.cupy.cuda.runtime")
cupy.cuda.runtime.CUDARuntimeError = CUDARuntimeError
cupy.cuda.runtime.getDeviceCount = lambda: DEVICES
cupy.cuda.runtime.getDevice = lambda: _current.device
cupy.cuda.runtime.setDevice = lambda device: Device(device).use()
cupy.cuda.runtime.deviceSynchronize = lambda: _wait()
cupy.cuda.runtime.memGetInfo = lambda: Device().mem_info
cupy.cuda.runtime.runtimeGetVersion = lambda: 13000
cupy.cuda.runtime.driverGetVersion = lambda: 13000


def _properties(device):
    _check_device(device)
    return {"name": b"CUDA stand-in", "totalGlobalMem": TOTAL_MEMORY, "major": 9, "minor": 0, "multiProcessorCount": 1}


cupy.cuda.runtime.getDeviceProperties = _properties


def _memcpy_async(dst, src, size, kind, stream):
    """From the device to pinned memory, which a capture records."""
    assert kind == cupy.cuda.runtime.memcpyDeviceToHost and dst in _pinned
    start, _, raw = memory.find(src)
    _do(lambda: ctypes.memmove(dst, raw.ctypes.data + src - start, size))


cupy.cuda.runtime.memcpyAsync, cupy.cuda.runtime.memcpyDeviceToHost = _memcpy_async, 2


# -- cuBLAS ----------------------------------------------------------------------------------------
class cublas:
    """Stand-in for `kernels.cuda.blas.Cublas`: column-major, on the stream that was set."""

    _DTYPES: ClassVar = {0: np.dtype("f4"), 1: np.dtype("f8"), 2: np.dtype("f2"), 14: _BFLOAT16}
    _streams: ClassVar[dict[int, int]] = {}

    @staticmethod
    def create():
        cublas._streams[len(cublas._streams) + 1] = 0
        return len(cublas._streams)

    @staticmethod
    def set_stream(handle, stream):
        cublas._streams[handle] = stream

    @staticmethod
    def set_workspace(handle, workspace, size):
        allocation = memory.find(workspace)
        assert allocation and workspace % 256 == 0 and workspace + size <= allocation[1]

    @staticmethod
    def gemm_strided_batched_ex(
        handle, transa, transb, m, n, k, alpha, a, atype, lda, stride_a, b, btype, ldb, stride_b, beta, c, ctype, ldc,
        stride_c, batch_count, compute_type, algo,
    ):  # fmt: skip
        current = _current.stream or Stream.null
        assert cublas._streams[handle] == current.ptr, "cuBLAS would run on another stream"
        scale = ctypes.c_double if compute_type == 70 else ctypes.c_float
        assert (scale.from_address(alpha).value, scale.from_address(beta).value) == (1.0, 0.0)
        assert lda >= (m if transa == 0 else k) and ldb >= (k if transb == 0 else n) and ldc >= m

        def matrices(at, kind, rows, columns, pitch, step):
            """An operand as an array (batch, rows, columns), checked to be within one live allocation."""
            dtype = cublas._DTYPES[kind]
            start, end, raw = memory.find(at)
            last = at + ((batch_count - 1) * step + (columns - 1) * pitch + rows) * dtype.itemsize
            assert last <= end, "cuBLAS would read past the end of an allocation"
            strides = tuple(s * dtype.itemsize for s in (step, 1, pitch))
            return np.ndarray((batch_count, rows, columns), dtype, raw, at - start, strides)

        x = matrices(a, atype, *((m, k) if transa == 0 else (k, m)), lda, stride_a)
        y = matrices(b, btype, *((k, n) if transb == 0 else (n, k)), ldb, stride_b)
        out = matrices(c, ctype, m, n, ldc, stride_c)
        x, y = x.mT if transa else x, y.mT if transb else y

        def run():
            with np.errstate(all="ignore"):
                exact = [v.astype("f4") if v.itemsize == 2 else v for v in (y.mT, x.mT)]
                out.mT[...] = np.matmul(*exact)

        _do(run)


#: Whether the stand-in runs kernels. A launch takes a millisecond or more, so only some tests enable it.
kernels = False


def create(index):
    """The factory for `deepcore.backend.register`: deepcore's CudaBackend on the stand-in."""
    from deepcore.backend.cuda import CudaBackend
    from deepcore.errors import BackendError

    if index >= DEVICES:
        raise BackendError(f"there is no GPU {index}: this machine has {DEVICES}", fix='backend="standin"')

    class Backend(CudaBackend):
        def ready(self, kernel):
            return kernels and super().ready(kernel)

    return Backend(index, cupy, name="standin", cublas=cublas)


# -- the table, generated from CuPy---------------------------------------------------------------------
_MISSING = object()


def describe(module, kind, name):
    """The table's line for `name` in the given CuPy; None where it does not exist."""
    if kind == "method":
        attribute = getattr(module.ndarray, name, _MISSING)
    else:
        attribute = functools.reduce(lambda holder, part: getattr(holder, part, _MISSING), name.split("."), module)
    if attribute is _MISSING:
        return None
    if kind == "ufunc":
        loops = [loop for loop in attribute.types if not set(loop) & set("lLV")]  # no aliases
        return f"ufunc {name} {' '.join(loops)}"
    if kind == "value":
        return f"value {name}"
    try:
        text = _signature_text(inspect.signature(attribute))
    except (TypeError, ValueError):
        line = (attribute.__doc__ or "").strip().splitlines()[:1]
        if not line or "(" not in line[0]:
            return f"{kind} {name} *args, **kwargs"
        text = _documented(line[0])
    return f"{kind} {name} {text}".rstrip()


def _signature_text(signature):
    parts, star = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        star = star or p.kind is p.VAR_POSITIONAL
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        parts.append(prefix + p.name + ("=" if p.default is not p.empty else ""))
    return ", ".join(parts)


def _documented(line):
    inside = line[line.index("(") + 1 : line.rindex(")")]
    parts, depth, part = [], 0, ""
    for c in inside + ",":
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            head, equals, _ = part.strip().partition("=")
            if head:
                parts.append(head.split(" ")[-1] + equals)
            part = ""
        else:
            part += c
    return ", ".join(parts)


if __name__ == "__main__":
    import cupy as real

    print(
        f"# The API of the stand-in, as in CuPy {real.__version__}: names, parameters (= may be left out), ufunc loops."
    )
    for kind, names in read_table().items():
        for name in sorted(names):
            line = describe(real, kind, name)
            if line:
                print(line)
