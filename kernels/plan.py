"""Plans: the launches that an op runs for operands of given shapes, strides and dtypes.

A lowering maps the specs of an op's operands, and its parameters, to a `Plan`: the specs of the results, temporaries and
launches whose arguments are sizes, or operands by number. Plans are cached by specs. Each call allocates the results and
enters the plan through one compiled function, which reads the operands' addresses from behind their object headers,
stores them in the words and runs the kernels.

Operands are numbered: the op's arrays, the state of its random numbers where it draws, its `floats` (numbers that may
differ from call to call), temporaries, results.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from deepcore import locks
from deepcore.errors import DeepcoreError
from deepcore.kernels.codegen import jit
from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import Operand, Out, Size, Words, args
from deepcore.kernels.runtime import allocator, threadpool

_ALIGNED, _PLAIN = 0x100, 0x101  # NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
#: Size at which the cache of specs, or of an op's plans, is cleared.
_MAX_CACHED = 1 << 14
#: Size in bytes from which arrays come from the caching allocator.
_POOLED_BYTES = 1 << 20


class Spec:
    """Shape, strides, dtype, alignment and backend of an array. Interned: equal specs are one object."""

    __slots__ = ("aligned", "backend", "dtype", "ndim", "plain", "shape", "size", "strides")

    def __init__(self, shape, strides, dtype, flags: int, backend):
        self.shape, self.strides, self.dtype, self.backend = shape, strides, dtype, backend
        self.ndim, self.size = len(shape), math.prod(shape)
        self.aligned, self.plain = flags & _ALIGNED != 0, flags == _PLAIN

    def __repr__(self) -> str:
        return f"{self.dtype}{list(self.shape)}" + ("" if self.plain else f" strides {self.strides}")


_specs: dict[tuple, Spec] = {}


def spec_of(array, backend) -> Spec:
    """The spec of a raw array. Arrays of other devices than the CPU share one spec, which has no plans."""
    if isinstance(array, np.ndarray):
        key = array.shape, array.strides, array.dtype, array.flags.num & _PLAIN, backend
    else:
        key = (), (), None, 0, backend
    return _specs.get(key) or _interned(key)


def interned(shape: tuple[int, ...], strides: tuple[int, ...], dtype, plain: bool, backend) -> Spec:
    """The spec of aligned memory; `plain`: whether it is C-contiguous."""
    return _interned((shape, strides, dtype, _PLAIN if plain else _ALIGNED, backend))


def _interned(key: tuple) -> Spec:
    if len(_specs) >= _MAX_CACHED:
        _specs.clear()
    return _specs.setdefault(key, Spec(*key))


def strides_of(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The strides of a C-contiguous array."""
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def contiguous(shape: tuple[int, ...], dtype, backend) -> Spec:
    """The spec of a C-contiguous, aligned array."""
    return _interned((shape, strides_of(shape, dtype.itemsize), dtype, _PLAIN, backend))


class Launch:
    """A launch of all chunks of a kernel. Arguments are ints, floats, arrays that the plan owns, and operands.

    `words` has them in the order of the kernel's declaration, against which they are checked.
    """

    __slots__ = ("chunks", "kernel", "words")

    def __init__(self, kernel: Kernel, chunks: int, /, **arguments):
        self.kernel, self.chunks = kernel, chunks
        self.words: tuple[int | Operand, ...] = kernel.words(arguments)

    def replaced(self, **arguments) -> Launch:
        """The launch with some arguments changed."""
        words, names = list(self.words), list(self.kernel.arguments)
        for name, value in arguments.items():
            (words[names.index(name)],) = self.kernel.encoded(name, value)
        return self._of(words)

    def renumbered(self, renumber: Callable[[Operand], Operand]) -> Launch:
        """The launch with its operands mapped to others of the plan."""
        return self._of(renumber(word) if isinstance(word, Operand) else word for word in self.words)

    def argument(self, name: str) -> int | Operand:
        return self.words[list(self.kernel.arguments).index(name)]

    def _of(self, words: Iterable[int | Operand]) -> Launch:
        launch = Launch.__new__(Launch)
        launch.kernel, launch.chunks, launch.words = self.kernel, self.chunks, tuple(words)
        return launch

    def __repr__(self) -> str:
        return f"Launch({self.kernel.name}, {self.chunks} chunks, {self.words})"


class KernelStopped(DeepcoreError):
    """A kernel returned a status other than 0."""


class Plan:
    """The launches of an op. `call(*arrays, *slots, *results)` runs them; None, or the status of a kernel that stopped.

    `spec` is the result's, `aux` are those of the auxiliary results that a forward returns behind it.
    """

    __slots__ = (
        "call", "dtype", "empty", "launches", "many", "owner", "parallel", "results", "shape", "spec", "temporaries",
    )  # fmt: skip

    def __init__(
        self,
        spec: Spec,
        launches: Sequence[Launch],
        temporaries: tuple[int, ...] = (),
        owner=None,
        aux: Sequence[Spec] = (),
    ):
        self.spec, self.shape, self.dtype = spec, spec.shape, spec.dtype
        self.results: tuple[Spec, ...] = (spec, *aux)
        #: Whether the op returns a tuple.
        self.many = bool(aux)
        self.launches, self.temporaries = tuple(launches), temporaries
        #: Keeps memory alive that the launches' words point to.
        self.owner = owner
        self.parallel = any(launch.chunks > 1 for launch in launches)
        #: Allocates the result from `shape` and `dtype`; prepares the thread pool where the launches use it.
        self.empty: Callable = _parallel_empty if self.parallel else allocator.empty
        if not self.parallel and spec.size * spec.dtype.itemsize < _POOLED_BYTES:
            self.empty = np.empty

    def __getattr__(self, name: str):
        if name != "call":
            raise AttributeError(name)
        # Bound on first use: compiled programs never call it.
        self.call: Callable = bind_entry(self.launches, self.temporaries, len(self.results))
        return self.call

    def outputs(self, *buffers) -> list[np.ndarray]:
        """Arrays for the results: `buffers` where not None, else allocated. Prepares the thread pool where it is used."""
        if self.parallel:
            threadpool.prepare()
        outputs = [array for array in buffers if array is not None]
        if len(outputs) < len(self.results):
            padded = [*buffers, *[None] * (len(self.results) - len(buffers))]
            outputs = [
                allocator.empty(spec.shape, spec.dtype) if array is None else array
                for spec, array in zip(self.results, padded)
            ]
        return outputs

    def run(self, arrays: Sequence, slots: Sequence, *buffers):
        """The plan's result, or a tuple of its results.

        `buffers`: arrays to write results to, or None.
        """
        outputs = self.outputs(*buffers)
        status = self.call(*arrays, *slots, *outputs)
        if status:
            self.stopped(status)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def stopped(self, status: int) -> None:
        names = ", ".join(launch.kernel.name for launch in self.launches)
        raise KernelStopped(f"kernel {names} stopped with status {status}")


def _parallel_empty(shape, dtype) -> np.ndarray:
    threadpool.prepare()
    return allocator.empty(shape, dtype)


def _bound_words(launch: Launch, operands: list[int]) -> list[int]:
    return [operands[w.number] if isinstance(w, Operand) else w for w in launch.words]


def _encode_operand(operand) -> int:
    return jit.bits(operand) if isinstance(operand, float) else jit.address(operand)


def reference_explains(xp, arrays, params) -> None:
    """As `on_stop`: the op's reference runs after the kernel stopped, and raises the error."""


def draw_state(params: dict) -> np.ndarray:
    """Seed, stream and position of a draw as an int64 array, the form that kernels read."""
    words = params["seed"], params["stream"], params["position"]
    return np.array(jit.signed_words(*words), np.int64)


class Lowering:
    """How an op runs on the CPU: `lower(specs, params)` returns the plan for operands of these specs.

    It returns None where the reference runs, and True where operands must be copied first: `copies(specs, params)` says
    which operands need a contiguous copy. `prepare(xp, arrays, params, out)`, if given, computes such a call instead, or
    returns NotImplemented.

    `keys` names the parameters that a plan depends on, or is a function of the parameters; `floats` names numbers that
    are operands, never keys. `draws`: the parameters seed, stream and position are one operand, an int64 array. `many`:
    the op returns a tuple, even of one result. `on_stop(xp, arrays, params)` raises the error for a kernel that stopped;
    where it returns, the reference runs. `cost(specs, params)`: number of arithmetic operations. `epilogue(plan, kernel,
    others, keep)`: a plan that applies an elementwise kernel to this op's result, as by `with_epilogue`, or None. The
    instance itself is registered as the op's kernel.
    """

    def __init__(
        self,
        op_name: str,
        lower: Callable[..., Plan | bool | None],
        keys: tuple[str, ...] | Callable[[dict], Any] = (),
        floats: tuple[str, ...] = (),
        prepare: Callable[..., Any] | None = None,
        *,
        draws: bool = False,
        many: bool = False,
        copies: Callable[..., tuple[bool, ...] | None] | None = None,
        on_stop: Callable[..., None] | None = None,
        cost: Callable[..., float] | None = None,
        epilogue: Callable[..., Plan | None] | None = None,
    ):
        self.__name__ = self.op_name = op_name
        self.lower, self.floats, self.prepare = lower, floats, prepare
        self.draws, self.many, self.on_stop = draws, many, on_stop
        #: Whether plans have operands besides the op's arrays.
        self.has_slots = draws or bool(floats)
        self.copies: Callable[..., tuple[bool, ...] | None] = copies or _noncontiguous
        self.cost: Callable[..., float] = cost or _max_size
        self.epilogue = epilogue
        #: Plan cache by specs and key parameters; False: run the reference, True: `prepare`.
        self.plans: dict[Any, Plan | bool] = {}
        #: Maps a call's parameters to those that are keys.
        self.key: Callable[[dict], Any] = keys if callable(keys) else operator.itemgetter(*keys) if keys else _no_key

    def plan(self, key, specs: Sequence[Spec], params: dict) -> Plan | bool:
        """The entry of the plan cache under `key`; on a miss, lower the op."""
        plan = self.plans.get(key)
        if plan is None:
            if len(self.plans) >= _MAX_CACHED:
                self.plans.clear()
            plan = True  # another device, or operands on two: no plan
            if all(spec.backend is specs[0].backend and spec.dtype is not None for spec in specs):
                plan = self.pays(specs, params) and self._lowered(specs, params)
            self.plans[key] = plan
        return plan

    def _lowered(self, specs: Sequence[Spec], params: dict) -> Plan | bool:
        if any(spec.dtype is not None and spec.dtype.kind == "c" for spec in specs):
            return False  # no kernel computes with complex numbers: the reference runs
        plan = self.lower(specs, params) or False
        if self.many and isinstance(plan, Plan):
            plan.many = True
        return plan

    def pays(self, specs: Sequence[Spec], params: dict) -> bool:
        """Whether a kernel is profitable for an eager call. False only where the reference has the same bits."""
        return True

    draw_state = staticmethod(draw_state)

    def slots(self, params: dict) -> list:
        """The operands behind the arrays: the state of random numbers, then floats."""
        operands: list = [draw_state(params)] if self.draws else []
        for name in self.floats:
            if not hasattr(params[name], "__float__"):
                raise TypeError(f"{name} is a number, not {type(params[name]).__name__}")
            operands.append(float(params[name]))
        return operands

    def __call__(self, xp, *arrays, out=None, **params):
        while arrays and arrays[-1] is None:
            arrays = arrays[:-1]
        plan = self.plan_by_kernels([spec_of(array, xp) for array in arrays], params)
        if isinstance(plan, bool):
            return (self.prepare or self._run_on_copies)(xp, arrays, params, out) if plan else NotImplemented
        try:
            result = plan.run(arrays, self.slots(params), out)
        except KernelStopped:
            if self.on_stop is None:
                raise
            self.on_stop(xp, arrays, params)
            return NotImplemented
        return (result,) if self.many and not isinstance(result, tuple) else result

    def plan_by_kernels(self, specs: Sequence[Spec], params: dict) -> Plan | bool:
        """As `plan`, but regardless of `pays`."""
        key = self.key(params)
        operands = specs[0] if len(specs) == 1 else tuple(specs)
        cache_key = operands if key is None else (operands, key)
        plan = self.plans.get(cache_key)
        if plan is None or plan is False:
            if len(self.plans) >= _MAX_CACHED:
                self.plans.clear()
            plan = self.plans[cache_key] = self._lowered(specs, params)
        return plan

    def _run_on_copies(self, xp, arrays, params, out):
        """The result from contiguous copies of the operands."""
        copies = self.copies([spec_of(array, xp) for array in arrays], params)
        if copies is None:
            return NotImplemented
        copied = [np.require(a, requirements="CA") if copy else a for a, copy in zip(arrays, copies)]
        if all(a is b for a, b in zip(arrays, copied)):
            return NotImplemented
        return self(xp, *copied, out=out, **params)


def _noncontiguous(specs: Sequence[Spec], params: dict) -> tuple[bool, ...] | None:
    return tuple(not spec.plain for spec in specs) if any(not spec.plain for spec in specs) else None


def _max_size(specs: Sequence[Spec], params: dict) -> float:
    return max((spec.size for spec in specs), default=0)


def per_element(operations: float) -> Callable[..., float]:
    """A cost function: operations per element of the largest operand."""
    return lambda specs, params: operations * _max_size(specs, params)


def with_epilogue(plan: Plan, kernel: Kernel, others: int = 0, keep: bool = False) -> Plan | None:
    """The plan whose last launch applies an elementwise kernel to the result while it is in the nearest cache.

    That launch has the arguments `out`, `activation` (the kernel), `pre` (where its input is stored) and `other` (its
    second operand). `others`: 1 where the kernel has a second operand, an array behind those of the plan. Results: the
    kernel's output, and with `keep` its input. None if the plan has an epilogue already, or ends with another launch.
    """
    last = plan.launches[-1]
    if "activation" not in last.kernel.arguments or last.argument("activation") or last.argument("pre"):
        return None
    out = last.argument("out")
    assert isinstance(out, Operand)
    inputs = out.number - len(plan.temporaries)

    def renumber(operand: Operand) -> Operand:
        return Operand(operand.number + others) if operand.number >= inputs else operand

    changes: dict[str, Any] = {"activation": kernel}
    if keep:
        changes["pre"] = Operand(out.number + others + 1)
    if others:
        changes["other"] = Operand(inputs)
    launches = [launch.renumbered(renumber) for launch in plan.launches]
    launches[-1] = launches[-1].replaced(**changes)
    return Plan(plan.spec, launches, plan.temporaries, owner=plan.owner, aux=[plan.spec] * keep)


@args(state=Words, blocks=Size, out=Out(np.int64))
def _advance(tools):
    """Advance the state of a random stream by `blocks`."""

    def kernel(state, blocks, out):
        out[0], out[1], out[2] = state[0], state[1], state[2] + blocks
        return 0

    return kernel


_ADVANCE = Kernel("advance_draws", _advance)


def _no_key(params: dict) -> None:
    return None


# -- the compiled entry ---------------------------------------------------------------------------------------------

# A builtin function of Python's C API over a block of words: a header, the words of the launches, the operands to store
# in them, and the words that point to other words. `_block` documents the layout.
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
  %fours = getelementptr i64, ptr %template, i64 %words
  br label %operand
operand:
  %i = phi i64 [0, %entry], [%i1, %fill]
  %more = icmp ult i64 %i, %operands
  br i1 %more, label %fill, label %inner
fill:
  %i4 = shl i64 %i, 2
  %four = getelementptr i64, ptr %fours, i64 %i4
  %word = load i64, ptr %four
  %second = getelementptr i64, ptr %four, i64 1
  %number = load i64, ptr %second
  %third = getelementptr i64, ptr %four, i64 2
  %offset = load i64, ptr %third
  %fourth = getelementptr i64, ptr %four, i64 3
  %mask = load i64, ptr %fourth
  %place = getelementptr ptr, ptr %args, i64 %number
  %object = load ptr, ptr %place
  %data = getelementptr i8, ptr %object, i64 {header}
  %start = load i64, ptr %data
  %moved = add i64 %start, %offset
  %value = and i64 %moved, %mask
  %target = getelementptr i64, ptr %w, i64 %word
  store i64 %value, ptr %target
  %i1 = add i64 %i, 1
  br label %operand
inner:
  %skip = shl i64 %operands, 2
  %links = getelementptr i64, ptr %fours, i64 %skip
  br label %link
link:
  %j = phi i64 [0, %inner], [%j1, %join]
  %left = icmp ult i64 %j, %own
  br i1 %left, label %join, label %run
join:
  %j2 = shl i64 %j, 1
  %from = getelementptr i64, ptr %links, i64 %j2
  %pointer = load i64, ptr %from
  %to = getelementptr i64, ptr %from, i64 1
  %pointee = load i64, ptr %to
  %target2 = getelementptr i64, ptr %w, i64 %pointee
  %startword = ptrtoint ptr %target2 to i64
  %slot = getelementptr i64, ptr %w, i64 %pointer
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
_DIRECT, _GIL_HELD, _GIL_RELEASED = 0, 1, 2
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
def _can_make_builtins() -> bool:
    """Whether plans can be builtin functions: on CPython with a GIL, with a known layout of arrays."""
    import sys

    free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    return sys.implementation.name == "cpython" and not free and jit.address is jit.fast_address


def _entry() -> _Method:
    """The method definition that all plans share; Python keeps a pointer to it."""
    global _method
    with _lock:
        if _method is None:
            address_of = lambda name: ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value
            text = _ENTRY
            for name, value in {
                "bytes": bytes.__basicsize__ - 1, "header": jit.HEADER, "base": threadpool.BASE, "none": id(None),
                "save": address_of("PyEval_SaveThread"), "restore": address_of("PyEval_RestoreThread"),
                "incref": address_of("Py_IncRef"), "number": address_of("PyLong_FromLong"),
            }.items():  # fmt: skip
                text = text.replace(f"{{{name}}}", str(value))
            address = jit.assembled(text, "deepcore_plan")
            _method = _Method(b"plan", address, _FASTCALL, None)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(_method))  # never freed
    return _method


def _block(launches: tuple[Launch, ...], locate: Callable[[int], tuple[int, int, int]]) -> bytes:
    """The entry's data: kernel, mode, number of words, of operands, of links; words; (word, argument, offset, mask)…;
    (pointer word, target word)…. `locate`: an operand's argument, offset in it, and mask of its address."""
    words: list[int] = []
    operands: list[int] = []
    links: list[int] = []

    def add(launch: Launch) -> None:
        for w in launch.words:
            if isinstance(w, Operand):
                operands.extend((len(words), *locate(w.number)))
            words.append(0 if isinstance(w, Operand) else w)

    if len(launches) == 1 and launches[0].chunks == 1:
        address, mode = launches[0].kernel.address, _DIRECT
        add(launches[0])
    else:
        address = threadpool.run_address()
        mode = _GIL_RELEASED if any(launch.chunks > 1 for launch in launches) else _GIL_HELD
        words += [0, len(launches)]
        for launch in launches:
            words += [launch.kernel.address, 0, launch.chunks]
        for i, launch in enumerate(launches):
            links += [3 + 3 * i, len(words)]
            add(launch)
    head = (address, mode, len(words), len(operands) // 4, len(links) // 2)
    return struct.pack(f"{len(head) + len(words) + len(operands) + len(links)}q", *head, *words, *operands, *links)


def bind_entry(launches: tuple[Launch, ...], temporaries: tuple[int, ...], results: int) -> Callable:
    """A function of arrays, slots and results that runs the launches. Temporaries share one array, each on a cache line."""
    offsets = [0, *itertools.accumulate(-(-size // 64) * 64 for size in temporaries)]
    is_single = len(launches) == 1 and launches[0].chunks == 1
    if not _can_make_builtins() or not (is_single or threadpool.can_prepare()):
        return functools.partial(_run_launches, launches, offsets, results)
    # The highest number is the last result's: some launch writes it.
    numbers = [w.number for launch in launches for w in launch.words if isinstance(w, Operand)]
    first_result = max(numbers) + 1 - results
    first_temporary = first_result - len(temporaries)

    def locate(number: int) -> tuple[int, int, int]:
        if number >= first_result:
            number += bool(temporaries) - len(temporaries)
        elif number >= first_temporary:
            return first_temporary, 63 + offsets[number - first_temporary], -64
        return number, 0, -1

    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    call = new(ctypes.addressof(_entry()), _block(launches, locate), None)
    if not temporaries:
        return call
    size = offsets[-1] + 63
    empty = np.empty if size < _POOLED_BYTES else allocator.empty

    def with_temporaries(*operands):
        return call(*operands[:-results], empty(size, np.uint8), *operands[-results:])

    return with_temporaries


def _run_launches(launches: tuple[Launch, ...], offsets: list[int], results: int, *operands) -> int | None:
    """The entry in Python and ctypes, for interpreters where `_can_make_builtins` is false."""
    space = allocator.empty(offsets[-1] + 63, np.uint8)
    base = jit.address(space) + 63 & -64
    words = [
        *map(_encode_operand, operands[:-results]),
        *(base + offset for offset in offsets[:-1]),
        *map(_encode_operand, operands[-results:]),
    ]  # fmt: skip
    for launch in launches:
        status = threadpool.launch_words(launch.kernel, launch.chunks, _bound_words(launch, words))
        if status:
            return status
    return None
