"""Plans: the launches that an op runs for operands of given shapes, strides and dtypes.

A lowering maps the specs of an op's operands, and its parameters, to a `Plan`: the result's shape and dtype, temporaries
and launches whose words are sizes, or operands by number. A plan is made once for each set of specs; each call allocates
the result and enters the plan through one compiled function, which reads the operands' addresses from behind their object
headers, fills them into the words and runs the kernels.

Operands are numbered: the op's arrays, its `floats` (numbers that may differ from call to call), temporaries, result.
"""

from __future__ import annotations

import ctypes
import functools
import math
import operator
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepcore import locks
from deepcore.errors import DeepcoreError
from deepcore.kernels import watch
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.runtime import allocator, threadpool

_ALIGNED, _PLAIN = 0x100, 0x101  # NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
#: Specs, and plans of one op, that are kept.
_MOST = 1 << 14
#: Bytes from which results come from the allocator that keeps blocks.
_LARGE = 1 << 20


class Spec:
    """What is known of an array before its values. Interned: two arrays that are alike have one spec."""

    __slots__ = ("aligned", "backend", "dtype", "ndim", "plain", "shape", "size", "strides")

    def __init__(self, shape, strides, dtype, flags: int, backend):
        self.shape, self.strides, self.dtype, self.backend = shape, strides, dtype, backend
        self.ndim, self.size = len(shape), math.prod(shape)
        self.aligned, self.plain = flags & _ALIGNED != 0, flags == _PLAIN

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}" + ("" if self.plain else f" strides {self.strides}")


_specs: dict[tuple, Spec] = {}


def spec_of(array, backend) -> Spec:
    """The spec of a raw array; arrays of other devices than the CPU share one, for which nothing has a plan here."""
    if isinstance(array, np.ndarray):
        key = array.shape, array.strides, array.dtype, array.flags.num & _PLAIN, backend
    else:
        key = (), (), None, 0, backend
    return _specs.get(key) or _interned(key)


def _interned(key: tuple) -> Spec:
    if len(_specs) >= _MOST:
        _specs.clear()
    return _specs.setdefault(key, Spec(*key))


def contiguous(shape: tuple[int, ...], dtype, backend) -> Spec:
    """The spec of an array as `np.empty` makes it."""
    strides, step = [], dtype.itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    strides = tuple(reversed(strides))
    return _interned((shape, strides, dtype, _PLAIN, backend))


class Operand(NamedTuple):
    """A word of a launch that is the address of an operand, or the bits of a float operand."""

    number: int


class Launch(NamedTuple):
    """All chunks of a kernel; words are whole numbers and operands."""

    kernel: Kernel
    chunks: int
    words: tuple[int | Operand, ...]


class Plan:
    """`call(*arrays, *floats, result)` runs it and returns None, or the status of a kernel that stopped."""

    __slots__ = ("call", "dtype", "empty", "launches", "owner", "parallel", "shape", "spec", "temporaries")

    def __init__(self, spec: Spec, launches: Sequence[Launch], temporaries: tuple[int, ...] = (), owner=None):
        shape, dtype = spec.shape, spec.dtype
        self.shape, self.dtype, self.launches, self.temporaries = shape, dtype, tuple(launches), temporaries
        #: Whatever the launches' words refer to.
        self.owner = owner
        self.parallel = any(launch.chunks > 1 for launch in launches)
        #: Allocates the result, from `shape` and `dtype`, and readies the thread pool where the launches use it.
        self.empty: Callable = _parallel_empty if self.parallel else allocator.empty
        if not self.parallel and math.prod(shape) * dtype.itemsize < _LARGE:
            self.empty = np.empty
        self.call: Callable = entered(self.launches, temporaries)
        self.spec = spec

    def run(self, arrays: Sequence, floats: Sequence[float], out=None) -> np.ndarray:
        """The plan's result, each launch reported to whoever traces this thread."""
        if out is None:
            out = allocator.empty(self.shape, self.dtype)
        if not watch.count:
            if self.parallel:
                threadpool.prepare()
            status = self.call(*arrays, *floats, out)
            if status is not None:
                self.stopped(status)
            return out
        spaces = _spaces(self.temporaries)
        operands = [
            *map(jit.address, arrays), *map(jit.bits, floats), *map(jit.address, spaces),
            jit.address(out),
        ]  # fmt: skip
        if self.owner is not None and watch.mine.follower is not None:
            watch.mine.follower.keep(self.owner.address, self.owner)
        for launch in self.launches:
            threadpool.complete(launch.kernel, launch.chunks, *_filled(launch, operands))
        return out

    def stopped(self, status: int) -> None:
        names = ", ".join(launch.kernel.name for launch in self.launches)
        raise DeepcoreError(f"kernel {names} stopped with status {status}")


def _parallel_empty(shape, dtype) -> np.ndarray:
    threadpool.prepare()
    return allocator.empty(shape, dtype)


def _filled(launch: Launch, operands: list[int]) -> list[int]:
    return [operands[w.number] if isinstance(w, Operand) else int(w) for w in launch.words]


def _spaces(temporaries: tuple[int, ...]) -> list[np.ndarray]:
    """Memory for temporaries, each on a cache line."""
    spaces = [allocator.empty(size + 63, np.uint8) for size in temporaries]
    return [space[-jit.address(space) % 64 :] for space in spaces]


class Lowering:
    """How an op runs on the CPU: `lower(specs, params)` gives the plan of calls with operands like these.

    It gives None where the reference serves, and True where `prepare(xp, arrays, params, out)` does: that returns the
    result by way of other arrays (contiguous copies, transposes), or NotImplemented. `keys` names the parameters that a
    plan depends on, `floats` those that are numbers: operands, and never keys. The instance is the op's kernel for
    `register`.
    """

    def __init__(
        self,
        op_name: str,
        lower: Callable[..., Plan | bool | None],
        keys: tuple[str, ...] = (),
        floats: tuple[str, ...] = (),
        prepare: Callable[..., Any] | None = None,
    ):
        self.__name__ = self.op_name = op_name
        self.lower, self.floats, self.prepare = lower, floats, prepare
        #: By specs, and parameters other than `floats`; False: the reference, True: `prepare`.
        self.plans: dict[Any, Plan | bool] = {}
        #: Of a call's parameters, those that are keys.
        self.key: Callable[[dict], Any] = operator.itemgetter(*keys) if keys else _no_key

    def plan(self, key, specs: Sequence[Spec], params: dict) -> Plan | bool:
        """What stands under `key` in `plans`, made where nothing does."""
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= _MOST:
                self.plans.clear()
            plan = True  # another device, or two of them: not for a plan
            if all(spec.backend is specs[0].backend and spec.dtype is not None for spec in specs):
                plan = self.pays(specs, params) and (self.lower(specs, params) or False)
            self.plans[key] = plan
        return plan

    def pays(self, specs: Sequence[Spec], params: dict) -> bool:
        """Whether eager calls with these operands run by a kernel. False only where the reference has the same bits."""
        return True

    def __call__(self, xp, *arrays, out=None, **params):
        specs = [spec_of(array, xp) for array in arrays]
        key = self.key(params)
        operands = specs[0] if len(specs) == 1 else tuple(specs)
        whole = operands if key is None else (operands, key)
        plan = self.plans.get(whole)
        if plan is None or plan is False:  # here it runs by kernels whether or not that pays
            plan = self.plans[whole] = self.lower(specs, params) or False
        if isinstance(plan, bool):
            return self.prepare(xp, arrays, params, out) if plan and self.prepare else NotImplemented
        for name in self.floats:
            if not hasattr(params[name], "__float__"):
                raise TypeError(f"{name} is a number, not {type(params[name]).__name__}")
        return plan.run(arrays, [float(params[name]) for name in self.floats], out)


def _no_key(params: dict) -> None:
    return None


# -- the compiled entry ---------------------------------------------------------------------------------------------

# A builtin function of Python's C API over a block of words: what it runs, then the words themselves, then which of them
# are operands, then which are addresses of other words. See `_block`.
_ENTRY = """
define ptr @deepcore_plan(ptr %self, ptr %args, i64 %count) {
entry:
  %block = getelementptr i8, ptr %self, i64 {bytes}
  %kernel = load ptr, ptr %block
  %at1 = getelementptr i64, ptr %block, i64 1
  %mode = load i64, ptr %at1
  %at2 = getelementptr i64, ptr %block, i64 2
  %words = load i64, ptr %at2
  %at3 = getelementptr i64, ptr %block, i64 3
  %operands = load i64, ptr %at3
  %at4 = getelementptr i64, ptr %block, i64 4
  %own = load i64, ptr %at4
  %template = getelementptr i64, ptr %block, i64 5
  %size = shl i64 %words, 3
  %w = alloca i64, i64 %words, align 16
  call void @llvm.memcpy.p0.p0.i64(ptr align 8 %w, ptr align 8 %template, i64 %size, i1 false)
  %pairs = getelementptr i64, ptr %template, i64 %words
  br label %operand
operand:
  %i = phi i64 [0, %entry], [%i1, %fill]
  %more = icmp ult i64 %i, %operands
  br i1 %more, label %fill, label %inner
fill:
  %i2 = shl i64 %i, 1
  %pair = getelementptr i64, ptr %pairs, i64 %i2
  %word = load i64, ptr %pair
  %second = getelementptr i64, ptr %pair, i64 1
  %number = load i64, ptr %second
  %place = getelementptr ptr, ptr %args, i64 %number
  %object = load ptr, ptr %place
  %data = getelementptr i8, ptr %object, i64 {header}
  %value = load i64, ptr %data
  %target = getelementptr i64, ptr %w, i64 %word
  store i64 %value, ptr %target
  %i1 = add i64 %i, 1
  br label %operand
inner:
  %skip = shl i64 %operands, 1
  %links = getelementptr i64, ptr %pairs, i64 %skip
  br label %link
link:
  %j = phi i64 [0, %inner], [%j1, %join]
  %left = icmp ult i64 %j, %own
  br i1 %left, label %join, label %run
join:
  %j2 = shl i64 %j, 1
  %from = getelementptr i64, ptr %links, i64 %j2
  %here = load i64, ptr %from
  %to = getelementptr i64, ptr %from, i64 1
  %there = load i64, ptr %to
  %start = getelementptr i64, ptr %w, i64 %there
  %startword = ptrtoint ptr %start to i64
  %slot = getelementptr i64, ptr %w, i64 %here
  store i64 %startword, ptr %slot
  %j1 = add i64 %j, 1
  br label %link
run:
  switch i64 %mode, label %direct [i64 1, label %held i64 2, label %released]
direct:
  %s0 = call i32 %kernel(ptr %w, i64 0)
  br label %end
held:
  %base1 = load i64, ptr inttoptr (i64 {base} to ptr)
  store i64 %base1, ptr %w
  %s1 = call i32 %kernel(ptr %w, i64 0)
  br label %end
released:
  %base2 = load i64, ptr inttoptr (i64 {base} to ptr)
  store i64 %base2, ptr %w
  %state = call ptr inttoptr (i64 {save} to ptr)()
  %s2 = call i32 %kernel(ptr %w, i64 0)
  call void inttoptr (i64 {restore} to ptr)(ptr %state)
  br label %end
end:
  %status = phi i32 [%s0, %direct], [%s1, %held], [%s2, %released]
  %fine = icmp eq i32 %status, 0
  br i1 %fine, label %none, label %stopped
none:
  call void inttoptr (i64 {incref} to ptr)(ptr inttoptr (i64 {none} to ptr))
  ret ptr inttoptr (i64 {none} to ptr)
stopped:
  %wide = sext i32 %status to i64
  %result = call ptr inttoptr (i64 {number} to ptr)(i64 %wide)
  ret ptr %result
}
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
"""
_DIRECT, _HELD, _RELEASED = 0, 1, 2
_FASTCALL = 0x80  # METH_FASTCALL


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_lock = locks.lock()
_method: _Method | None = None


@functools.cache
def _can_enter() -> bool:
    """Whether builtin functions can be made here: by CPython with a lock, over arrays whose layout is known."""
    import sys

    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    return sys.implementation.name == "cpython" and not free and jit.address is jit.fast_address


def _entry() -> _Method:
    """The definition that all plans share, made once: Python keeps a pointer to it."""
    global _method
    with _lock:
        if _method is None:
            at = lambda name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
            text = _ENTRY
            for name, value in {
                "bytes": bytes.__basicsize__ - 1, "header": jit.HEADER, "base": threadpool.BASE, "none": id(None),
                "save": at("PyEval_SaveThread"), "restore": at("PyEval_RestoreThread"), "incref": at("Py_IncRef"),
                "number": at("PyLong_FromLong"),
            }.items():  # fmt: skip
                text = text.replace(f"{{{name}}}", str(value))
            address = jit.assembled(text, "deepcore_plan")
            _method = _Method(b"plan", address, _FASTCALL, None)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(_method))  # kept as long as the process
    return _method


def _block(launches: tuple[Launch, ...]) -> bytes:
    """What the entry reads: kernel, mode, number of words, of operands, of links; words; (word, operand)…; (word, word)…"""
    words: list[int] = []
    operands: list[int] = []
    links: list[int] = []

    def add(launch: Launch) -> None:
        for w in launch.words:
            if isinstance(w, Operand):
                operands.extend((len(words), w.number))
            words.append(0 if isinstance(w, Operand) else int(w))

    if len(launches) == 1 and launches[0].chunks == 1:
        address, mode = launches[0].kernel.address, _DIRECT
        add(launches[0])
    else:
        address = threadpool.run_address()
        mode = _RELEASED if any(launch.chunks > 1 for launch in launches) else _HELD
        words += [0, len(launches)]
        for launch in launches:
            words += [launch.kernel.address, 0, launch.chunks]
        for i, launch in enumerate(launches):
            links += [3 + 3 * i, len(words)]
            add(launch)
    head = (address, mode, len(words), len(operands) // 2, len(links) // 2)
    return struct.pack(f"{len(head) + len(words) + len(operands) + len(links)}q", *head, *words, *operands, *links)


def entered(launches: tuple[Launch, ...], temporaries: tuple[int, ...]) -> Callable:
    """The function of arrays, floats and a result that runs launches."""
    alone = len(launches) == 1 and launches[0].chunks == 1
    if not _can_enter() or not (alone or threadpool.can_prepare()):
        return functools.partial(_launched, launches, temporaries)
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    call = new(ctypes.addressof(_entry()), _block(launches), None)
    if not temporaries:
        return call

    def with_temporaries(*operands):
        spaces = _spaces(temporaries)
        return call(*operands[:-1], *spaces, operands[-1])

    return with_temporaries


def _launched(launches: tuple[Launch, ...], temporaries: tuple[int, ...], *operands) -> int | None:
    """What the entry does, by Python and ctypes."""
    spaces = _spaces(temporaries)
    operands = (*operands[:-1], *spaces, operands[-1])
    words = [jit.bits(o) if isinstance(o, float) else jit.address(o) for o in operands]
    for launch in launches:
        status = threadpool.launch(launch.kernel, launch.chunks, *_filled(launch, words))
        if status:
            return status
    return None
