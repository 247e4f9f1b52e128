"""`dc.compile`: a function that runs as one program where it can, and eagerly where it cannot."""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable
from operator import is_not
from typing import Any

from deepcore import locks
from deepcore.autograd.transforms import tree_map
from deepcore.backend import backend_of, get_backend
from deepcore.backend import dtypes as dt
from deepcore.compiler.build import build
from deepcore.compiler.guards import PLAIN, Guards, is_scalar, same
from deepcore.compiler.record import Fault, Recorder
from deepcore.compiler.runner import Arena, Overlap, Runner, Stopped, same_bits
from deepcore.compiler.split import Backwards, FreedNode, ProgramNode, Split, attach, is_differentiable
from deepcore.config import settings
from deepcore.effects import effect, mode
from deepcore.errors import ArgumentError, DeepcoreWarning
from deepcore.kernels.runtime import allocator, threadpool
from deepcore.kernels.runtime.executable import root
from deepcore.tensor import Tensor, as_tensor, from_raw

log = logging.getLogger("deepcore.compile")

#: Programs that a compiled function keeps, unless it is told otherwise.
PROGRAMS = 16
#: Runs for each time that the function is recorded, which takes some ten calls: with fewer it does not pay. The second
#: is for those that somebody asked to have compiled.
_PAYS, _PAYS_ASKED = 16, 0.5
#: Programs kept for arguments of one kind though tensors have other memory now: weights may be swapped to and fro.
_SWAPPED = 1
#: Calls of a program that are checked: primes, as even numbers are blind to what changes with an even period.
_CHECKED = (2, 3, 5, 11, 23, 47, 97, 199, 397, 797)
_THEN_EACH = 997
#: Checks in a row, after one that found a difference, that find none before the program is trusted again.
_CLEAN = 4


class _Leaf:
    """The place of tensor number `i` in a structure."""

    __slots__ = ("i", "node")

    def __init__(self, i: int, node: FreedNode | None = None):
        self.i = i
        #: The node of a result whose graph the function has gone through.
        self.node = node


class _Argument(_Leaf):
    """The place of argument number `i`, which is returned itself."""

    __slots__ = ()


class _Alias:
    """The place of another tensor over memory that was there before."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def again(self) -> Tensor:
        new = from_raw(self.tensor._data, self.tensor.backend)
        new._storage, new._base = self.tensor.storage(), self.tensor._base
        return new


class _Gradient:
    """The place of the gradient of a tensor."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class Compiled:
    """What `dc.compile` returns: called like the function, with the same results to the bit.

    The first call with arguments of a kind runs the function, records what it computes and makes a program of that;
    later calls of the kind run the program. `peak_memory` is what the programs need.

    `unasked`: nobody said that it should be compiled, so there is no warning where it cannot be, and it is not recorded
    again where that does not pay, as for batches of ever new sizes. `prepare()` is called before the function itself
    runs, and not before its programs: those change nothing where they stop.
    """

    def __init__(
        self,
        function: Callable,
        programs: int = PROGRAMS,
        unasked: bool = False,
        prepare: Callable[[], None] | None = None,
        side_effects: str = "always",
    ):
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.programs = programs
        self.unasked = unasked
        self.prepare = prepare
        self.side_effects = side_effects
        self._known: OrderedDict[tuple, list[tuple[Runner, Any]]] = OrderedDict()
        self._eager: dict[tuple, Fault] = {}
        #: Kinds of arguments with which the function has changed Python's state once, or a program was wrong once.
        self._changing: set[tuple] = set()
        self._distrusted: set[tuple] = set()
        self._arena = Arena()
        self._latest: tuple | None = None
        self._lock = locks.rlock()
        locks.call_after_fork(self)
        self._busy = self._warned = self._told = False
        #: How often the function was recorded, and how often a program ran.
        self.traces = self.runs = 0

    def __call__(self, *args, **kwargs):
        looks = None
        if mode.tracer is not None or mode.hook is not None or mode.transforms:
            looks = getattr(mode.hook, "looks", None)
            if looks is None or mode.tracer is not None or mode.transforms:
                return self._run_eagerly(*_with_tensors(args, kwargs))  # part of a larger program, or watched op by op
        arrays: list[Any] = []
        tensors: list[Tensor] = []
        try:
            key = self._key(args, kwargs, arrays, tensors, looks)
        except _RawArray:
            args, kwargs = _with_tensors(args, kwargs)
            arrays, tensors = [], []
            key = self._key(args, kwargs, arrays, tensors, looks)
        with self._lock:
            if self._busy:  # a signal's handler calls it while it runs, or it calls itself
                return self._run_eagerly(args, kwargs)
            try:
                self._busy = True
                reason = "these arguments are new"
                latest = self._latest is not None and key == self._latest[0]
                for runner, tree in self._latest[1] if latest else self._known.get(key, ()):  # type: ignore[index]
                    misfit = runner.misfit()
                    if misfit is not None:
                        reason = misfit
                        continue
                    if not latest:
                        self._known.move_to_end(key)
                        self._latest = key, self._known[key]
                    runner.calls += 1
                    if runner.calls >= runner.next_check and _is_due(runner):
                        return self._checked(key, runner, tree, args, kwargs, arrays, tensors)
                    try:
                        results = runner(arrays, tensors)
                    except (Stopped, Overlap):
                        break
                    self.runs += 1
                    if runner.backwards is not None:
                        return self._differentiable(runner, tree, results, arrays, tensors)
                    if runner.fresh:  # the gradients that the function made have gone
                        runner.fresh = False
                        allocator.release()
                    return _filled(tree, results, tensors, runner.backend)
                else:
                    if key not in self._eager:
                        traces = self.traces
                        result = self._record(key, args, kwargs, tensors, arrays, reason, looks)
                        if self.traces != traces:  # recording took memory that the program has no use for
                            allocator.release()
                        return result
                return self._run_eagerly(args, kwargs)
            finally:
                self._busy = False

    def _key(self, args, kwargs, arrays: list, tensors: list, looks) -> tuple:
        """What tells calls apart that cannot share a program; fills in the tensors among the arguments."""
        key: tuple = (
            mode.grad, settings.kernels, settings.backend, dt.default_float.num, _structure(args, arrays, tensors),
            _structure(kwargs, arrays, tensors) if kwargs else None,
        )  # fmt: skip
        n = len(arrays)
        if n > 1 and (n > 2 or arrays[0] is arrays[1]) and len(set(map(id, arrays))) < n:
            key = (
                *key,
                *(tuple([next(j for j, b in enumerate(of) if b is a) for a in of]) for of in (arrays, tensors)),
            )
        return key if looks is None else (*key, "looks")

    def _run_eagerly(self, args, kwargs):
        if self.prepare is not None:
            self.prepare()
        return self.function(*args, **kwargs)

    def after_fork(self) -> None:
        """Forget a call of another thread, which a forked child does not have."""
        self._busy = False

    # -- checking -----------------------------------------------------------------------------------------
    def _checked(self, key, runner: Runner, tree, args, kwargs, arrays: list, tensors: list[Tensor]):
        """The function's own result, once the program has run on copies: the two must be the same to the bit."""
        if runner.arguments_overlap(arrays):
            return self._run_eagerly(args, kwargs)
        result, results, wrong = runner.compare(arrays, tensors, lambda: self._run_eagerly(args, kwargs))
        if wrong is None:
            wrong = _difference(tree, result, results, tensors, runner.backend)
        self.runs += 1
        if runner.differences or wrong is not None:  # what differs now and then is found by checks in a row
            runner.next_check = runner.calls + 1
        if wrong is None:
            runner.clean += 1
            if runner.clean >= _CLEAN:
                runner.differences = 0
            return result
        runner.differences, runner.clean = runner.differences + 1, 0
        log.info("%s: call %d of its program differs in %s", self._name, runner.calls, wrong)
        if runner.differences == 1:
            return result
        self._drop(key, runner)
        if key in self._distrusted:
            self._give_up(
                key, Fault(f"it computes {wrong} otherwise than its program, again", "a check of its results")
            )
            return result
        self._distrusted.add(key)
        if not self.unasked:
            warnings.warn(
                f"{self._name} no longer computes what it did when it was compiled ({wrong}), so it is compiled again: what "
                "changes from call to call must be a tensor or an array among its arguments",
                DeepcoreWarning,
                stacklevel=3,
            )
        return result

    def _differentiable(self, runner: Runner, tree, results: list, arrays: list, tensors: list[Tensor]):
        """Results with a node that runs the backward program."""
        saved = results[runner.count :]
        node = ProgramNode(runner.backwards, saved, arrays, tensors, runner.draw_words())
        owners = set(map(_memory, saved))
        found = [from_raw(array, runner.backend) for array in results[: runner.count]]
        _share_storage(found)
        attach(found, runner.places, node, lambda t: _memory(t._data) in owners)
        return _refilled(tree, found, tensors)

    def _drop(self, key, runner: Runner) -> None:
        self._latest = None
        self._known[key] = [each for each in self._known.get(key, ()) if each[0] is not runner]

    # -- recording ----------------------------------------------------------------------------------------
    def _record(self, key, args, kwargs, tensors: list, arrays: list, reason: str, looks: Callable | None):
        backend = _backend(tensors, arrays)
        if looks is not None and backend is not None and backend.name != "cpu":
            backend = None
        if backend is None or not _compiles(backend):
            return self._run_eagerly(args, kwargs)
        often, least = (self.programs, _PAYS) if self.unasked else (2 * self.programs, _PAYS_ASKED)
        if self.traces >= often and self.runs < self.traces * least:
            if not self.unasked and not self._told:
                self._told = True
                log.warning("%s often runs eagerly: to record it each time does not pay (%s)", self._name, reason)
            return self._run_eagerly(args, kwargs)
        if self.traces:
            log.info("%s is recorded again: %s", self._name, reason)
        self.traces += 1
        guards = Guards(self.function, _objects((args, kwargs)))
        recorder = _recorder(backend, looks)
        recorder.had = {leaf for runner, _ in self._known.get(key, ()) for leaf in runner.none if leaf.grad is not None}
        before = [*_flat(args), *_flat(kwargs)]
        if self.prepare is not None:
            self.prepare()
        grad_mode = mode.grad
        with recorder.recording():
            for tensor in tensors:
                recorder.argument(tensor)
            result = self.function(*args, **kwargs)
            split = None
            if recorder.fault is None and mode.grad:
                differentiable = list({id(t): t for t in _leaves(result) if is_differentiable(t)}.values())
                split = Split(recorder, differentiable) if differentiable else None
        if mode.grad is not grad_mode:
            recorder.note("leaving another gradient mode than there was")
        touched = {*recorder.entry, *(p for update in recorder.updates for p in update.plan.live)}
        if any(t.grad is not grad and t not in touched for t, grad in guards.tensors.items()):
            recorder.note("assigning a gradient")
        if guards.drawn():
            recorder.note("the function draws random numbers that are not deepcore's")
        after = [*_flat(args), *_flat(kwargs)]
        if len(after) != len(before) or any(map(is_not, after, before)):
            recorder.note("the function changes a list or dict among its arguments")
        if recorder.raced and recorder.fault is None:  # another thread drew meanwhile: the next call records
            return result
        changed = guards.overwritten(recorder.settings) or guards.changed()
        if changed and recorder.fault is None:
            if self.side_effects == "once":
                guards.ignore_changed()
            elif key not in self._changing:  # it may have made what it will find from now on
                if len(self._changing) > 256:
                    self._changing.clear()
                self._changing.add(key)
                return result
            else:
                recorder.note(f'the function changes Python state ({changed}; side_effects="once" accepts that)')
        outputs: list = []
        tree = _outputs(result, recorder, outputs, tensors)
        if recorder.fault is None:
            self._make(key, recorder, guards, tree, outputs, tensors, split)
        if recorder.fault is not None:
            self._give_up(key, recorder.fault)
        return result

    def _make(self, key, recorder: Recorder, guards: Guards, tree, outputs, tensors, split: Split | None) -> None:
        leaves, grads = recorder.gradients()
        if recorder.overlap():
            recorder.note("memory that the function writes, and that other arrays share")
        gradients = {id(t.grad) for t in (*guards.tensors, *recorder.arguments, *recorder.watched(), *recorder.entry)}
        if not (gradients - {id(None)}).isdisjoint(map(id, recorder.watched())):
            recorder.note("computing with a gradient from before")
        if recorder.fault is not None:
            return
        refs = [ref for ref, _, _ in outputs]
        arrays = [array for _, array, _ in outputs]
        backwards, places = None, []
        if split is not None:
            backwards = Backwards(split, tensors, self._lock, self._arena)
            numbers = {id(t): i for i, (_, _, t) in enumerate(outputs)}
            if any(id(t) not in numbers for t in split.outputs):
                recorder.note("a result to be differentiated that is not new")
                return
            places = [numbers[id(t)] for t in split.outputs]
            refs += split.saved()
            arrays += [None] * len(backwards.saved)
        if recorder.backend.name == "cpu":
            runner = Runner(recorder, build(recorder, refs, grads), leaves, tensors, guards, self._arena)
        else:
            from deepcore.compiler.cuda import GraphRunner

            runner = GraphRunner(recorder, refs, leaves, tensors, guards)  # type: ignore[arg-type]
        runner.backwards, runner.places, runner.count = backwards, places, len(outputs)
        wrong = runner.check(recorder, arrays, leaves)
        if wrong:
            recorder.note(wrong)
            return
        recorder.forget()
        guards.watch(runner.tensors)
        if guards.reads_gradients:
            runner.watch_gradients(t for t in guards.tensors if t not in recorder.entry and t not in recorder.arguments)
        if split is not None:
            split.forget()
        runner.next_check = _next_check(1)
        self._latest = None
        entry = self._known.setdefault(key, [])
        for old in [r for r, _ in entry if r.moved()][:-_SWAPPED]:
            entry[:] = [each for each in entry if each[0] is not old]
        entry.append((runner, tree))
        self._known.move_to_end(key)
        while sum(map(len, self._known.values())) > self.programs:
            oldest = next(iter(self._known))
            if self._known[oldest]:
                self._known[oldest].pop(0)
            if not self._known[oldest]:
                del self._known[oldest]

    def _give_up(self, key, fault: Fault) -> None:
        if len(self._eager) > 256:
            self._eager.clear()
        self._eager[key] = fault
        log.info("%s runs eagerly: %s, at %s", self._name, *fault)
        if not self.unasked and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name} cannot be compiled and runs eagerly: {fault.reason}, at {fault.place}",
                DeepcoreWarning,
                stacklevel=4,
            )

    @property
    def options(self) -> dict[str, Any]:
        """What `dc.compile` was given besides the function."""
        return {"programs": self.programs, "side_effects": self.side_effects}

    @property
    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    # -- looking ------------------------------------------------------------------------------------------
    @property
    def peak_memory(self) -> int:
        """Bytes of the memory that the programs take turns in, as planned."""
        return max((r.exe.size for runners in self._known.values() for r, _ in runners), default=0)

    def explain(self, file=None) -> None:
        """Print each program: its steps with their kernels, arithmetic, bytes and share of the time.

        The programs run a few times for that, on copies of what they change and on zeros for arguments. `file`: where
        to print (default: standard output). Kernels that were generated are kept as Python beside the compiled ones, in
        the folder that `deepcore cache` names.
        """
        from deepcore.compiler import explain

        with self._lock:
            runners = [runner for entry in self._known.values() for runner, _ in entry]
            print(f"{self._name}: {len(runners)} programs, peak memory {self.peak_memory:,} bytes", file=file)
            for number, runner in enumerate(runners, 1):
                first, *lines = explain.table(runner)
                print(f"program {number}: {first}", *lines, sep="\n", file=file)
            for fault in self.faults:
                print(f"runs eagerly: {fault.reason}, at {fault.place}", file=file)

    @property
    def faults(self) -> list[Fault]:
        """Why calls run eagerly."""
        return list(self._eager.values())

    def __reduce__(self):  # a copy makes programs of its own
        return Compiled, (self.function, self.programs, self.unasked, self.prepare, self.side_effects)

    def __repr__(self) -> str:
        return f"<compiled {self._name}: {sum(map(len, self._known.values()))} programs>"

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        return functools.partial(self, instance)


def _next_check(calls: int) -> float:
    """The first call after number `calls` that is checked."""
    often = settings.compile_check
    if often is not None:
        return calls + 1 if often == 1 else -(-(calls + 1) // often) * often if often else math.inf
    return next((n for n in _CHECKED if n > calls), (calls // _THEN_EACH + 1) * _THEN_EACH)


def _is_due(runner: Runner) -> bool:
    """Whether this call is checked, as there is room for copies."""
    runner.next_check = _next_check(runner.calls)
    return runner.room_for_copies()


def compile(function: Callable | None = None, *, programs: int = PROGRAMS, side_effects: str = "always"):
    """A function, module or whole training step as one program: same results to the bit, less time.

    >>> @dc.compile
    ... def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = F.cross_entropy(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss

    Tensors and arrays among the arguments may change from call to call (arrays arrive in the function as tensors); a new
    number, string or flag is a new program, so pass a tensor for a number that changes each call. What modules,
    parameters, optimizers, schedules and generators hold may change. Guarded are numbers, strings and flags that the
    function names: variables, globals, defaults, attributes, items of small containers. Everything else that Python
    computes is done once, when the function is recorded.

    A function runs eagerly, with one warning that names the line, where no program can do what it does: it reads a
    tensor's value in Python, draws from another generator, makes a tensor outside of ops, or changes Python state.
    `side_effects="once"` accepts the last: such changes then happen only when the function itself runs, in the first call
    and in those that are checked. Calls 2, 3, 5, 11, 23, … 797 and every 997th run the program on copies and then the
    function itself, whose results count. After a difference each call is checked until four agree; a second one before
    that is a warning and a new program, and where that differs twice, too, the function runs eagerly. `DEEPCORE_COMPILE_CHECK` says how often instead (0: never, 1: always). `programs`: how many are kept, the
    least recently used go first.
    """
    if side_effects not in ("always", "once"):
        raise ArgumentError('side_effects is "always" or "once"', received=repr(side_effects))
    if function is None:
        return functools.partial(compile, programs=programs, side_effects=side_effects)
    if not callable(function):
        raise ArgumentError("dc.compile takes a function or a module", received=type(function).__name__)
    if isinstance(function, Compiled) or hasattr(type(function), "_compiled"):
        return function
    compiled = Compiled(function, programs, side_effects=side_effects)
    as_module = getattr(function, "_compiled_as", None)
    return compiled if as_module is None else as_module(compiled)


class NotFinite(Exception):
    """What `finite` raises."""

    def __init__(self, value: float):
        super().__init__(value)
        self.value = value


def finite(t: Tensor):
    """The value of a tensor of one element, or while it is recorded the tensor, once that is known to be finite.

    A program in which it is not stops before it changes anything, and the function runs instead and raises.
    """
    if mode.tracer is None:
        value = t.item()
        if not math.isfinite(value):
            raise NotFinite(value)
        return value
    if not effect("finite", _is_finite, t):
        raise NotFinite(t._data.item())
    return t.detach()


def _is_finite(t: Tensor) -> bool:
    return math.isfinite(t._data.item())


# -- structures -----------------------------------------------------------------------------------------------------


class _RawArray(Exception):
    """There is an array among the arguments, which is to be a tensor."""


def _structure(tree, arrays: list, tensors: list):
    """What tells a structure of arguments from others; its arrays."""
    if isinstance(tree, Tensor):
        raw = tree._data
        arrays.append(raw)
        tensors.append(tree)
        if tree._requires_grad:
            return (
                raw.shape,
                raw.strides,
                raw.dtype,
                tree.backend,
                tree._node is not None,
                tree.grad is None,
                _extras(tree),
            )
        if tree.__class__ is not Tensor:
            return raw.shape, raw.strides, raw.dtype, tree.backend, _extras(tree)
        return raw.shape, raw.strides, raw.dtype, tree.backend
    kind = tree.__class__
    if isinstance(tree, (list, tuple)):  # what `tree_map` goes into
        return (kind, *[_structure(t, arrays, tensors) for t in tree])
    if isinstance(tree, dict):
        return (kind, *[(k, _structure(v, arrays, tensors)) for k, v in tree.items()])
    if kind is float:
        return (kind, tree.hex())  # -0.0 equals 0.0
    if kind in (int, str, bool, type(None)):
        return (kind, tree)
    if hasattr(tree, "dtype") and hasattr(tree, "strides") and hasattr(tree, "shape"):
        if is_scalar(tree):
            return (kind, tree.tobytes())
        if _is_numeric(tree):
            raise _RawArray
    return ("o", id(tree))


def _extras(t: Tensor):
    """What else of a tensor Python may decide with: its class, attributes, and whether it has hooks."""
    own = getattr(t, "__dict__", None)
    hooks = getattr(t, "_hooks", None)
    return (t.__class__, id(hooks) if hooks else None, tuple([(n, _plain(v)) for n, v in own.items()]) if own else None)


def _plain(value):
    return (type(value), repr(value)) if isinstance(value, PLAIN) else id(value)


def _is_numeric(array) -> bool:
    return backend_of(array) is not None and getattr(array.dtype, "kind", "O") in "biufV"


def _with_tensors(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments with tensors for arrays, over the same memory."""

    def leaf(one):
        if isinstance(one, Tensor) or not (hasattr(one, "dtype") and hasattr(one, "strides")) or is_scalar(one):
            return one
        return as_tensor(one) if _is_numeric(one) else one

    return tree_map(leaf, args), tree_map(leaf, kwargs)


def _objects(tree) -> list:
    """What is neither a tensor nor an array."""
    found: list = []
    tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) or hasattr(leaf, "dtype") else found.append(leaf), tree)
    return found


def _compiles(backend) -> bool:
    return threadpool.can_prepare() if backend.name == "cpu" else backend.kernel_kind == "cuda"


def _recorder(backend, looks: Callable | None) -> Recorder:
    if backend.name == "cpu":
        return Recorder(backend, looks)
    from deepcore.compiler.cuda import DeviceRecorder

    return DeviceRecorder(backend, looks)


def _backend(tensors: list[Tensor], arrays: list):
    """Where all of them are, or None."""
    found: list = [t.backend for t in tensors] or [backend_of(array) for array in arrays[:1]] or [get_backend()]
    return found[0] if all(b is found[0] for b in found) else None


def _flat(tree) -> list:
    """Containers, their keys, and leaves, one after the other."""
    if isinstance(tree, dict):
        return [tree, *(part for k, v in tree.items() for part in (k, *_flat(v)))]
    if isinstance(tree, (list, tuple)):
        return [tree, *(part for v in tree for part in _flat(v))]
    return [tree]


def _outputs(tree, recorder: Recorder, found: list, given: list[Tensor]):
    """The structure with a `_Leaf` for each tensor that is computed; (place, array) of those."""
    places = {id(t): i for i, t in enumerate(given)}
    known: dict[int, _Leaf] = {}
    leaves = [p for p in (*recorder.grads, *recorder.accumulated) if p.grad is not None and p not in recorder.arguments]
    gradients = {id(p.grad): _Gradient(p) for p in leaves}
    held = {ref.buffer for p, ref in recorder.grads.items() if p.grad is not None}

    def leave(leaf):
        if not isinstance(leaf, Tensor):
            if isinstance(leaf, recorder.backend.array_type):
                recorder.note("an array that is returned")
            elif not _is_fixed(leaf):
                recorder.note(f"a result of type {type(leaf).__name__}, which may hold tensors")
            return leaf
        if id(leaf) in places:
            return _Argument(places[id(leaf)])
        if id(leaf) in known:
            return known[id(leaf)]
        if id(leaf) in gradients:
            return gradients[id(leaf)]
        if leaf.backend is not recorder.backend:
            recorder.note("a result on another backend")
            return leaf
        if recorder.is_written(leaf):
            return leaf
        ref = recorder.norms.get(leaf) or recorder.ref(leaf._data, leaf)
        place = recorder.find(leaf._data)
        if place is not None and place[0].kind == "given":
            recorder.note(f"a result that shares the memory of {'an argument' if place[0].name else 'a gradient'}")
        elif ref.buffer in held:
            recorder.note("a result that shares the memory of a gradient")
        if ref.buffer.kind == "outside" and leaf._data.size:
            if id(leaf) in recorder.made_tensors:
                if leaf._requires_grad:
                    recorder.note("a differentiable view of memory that was there before")
                return _Alias(leaf)
            return leaf
        if leaf._node is None and leaf._requires_grad:
            recorder.note("a leaf that the function makes")
        freed = leaf._node if leaf._node is not None and not is_differentiable(leaf) else None
        found.append((ref, leaf._data, leaf))
        known[id(leaf)] = _Leaf(len(found) - 1, None if freed is None else FreedNode(freed))
        return known[id(leaf)]

    return _mapped(leave, tree)


def _leaves(tree) -> list:
    """The tensors in a result."""
    found: list = []

    def leaf(one):
        if isinstance(one, Tensor):
            found.append(one)
        return one

    _mapped(leaf, tree)
    return found


def _is_fixed(value) -> bool:
    """Whether it holds no tensors and cannot change: a number, also NumPy's, a name, a dtype."""
    return isinstance(value, (*PLAIN, type, enum.Enum, range)) or is_scalar(value)


def _mapped(f: Callable, tree):
    """`tree_map`, and the fields of dataclasses."""

    def leaf(one):
        if not dataclasses.is_dataclass(one) or isinstance(one, type):
            return f(one)
        found = object.__new__(type(one))
        if hasattr(one, "__dict__"):
            found.__dict__.update(one.__dict__)
        for name in (field.name for field in dataclasses.fields(one) if hasattr(one, field.name)):
            object.__setattr__(found, name, _mapped(f, getattr(one, name)))
        return found

    return tree_map(leaf, tree)


def _filled(tree, results: list, given: list[Tensor], backend):
    """The structure with the results in place of the leaves."""
    if tree.__class__ is _Leaf:  # one tensor is what is returned most
        result = from_raw(results[tree.i], backend)
        if tree.node is not None:
            result._node, result._requires_grad = tree.node, True
        return result
    tensors = [from_raw(array, backend) for array in results]
    _share_storage(tensors)
    return _refilled(tree, tensors, given)


def _refilled(tree, tensors: list[Tensor], given: list[Tensor]):
    def fill(leaf):
        if leaf.__class__ is _Leaf:
            if leaf.node is not None:
                tensors[leaf.i]._node, tensors[leaf.i]._requires_grad = leaf.node, True
            return tensors[leaf.i]
        if leaf.__class__ is _Gradient:
            return leaf.tensor.grad
        if leaf.__class__ is _Alias:
            return leaf.again()
        return given[leaf.i] if leaf.__class__ is _Argument else leaf

    return _mapped(fill, tree)


def _share_storage(tensors: list[Tensor]) -> None:
    """Results over one memory count its writes together."""
    owners: dict[int, Tensor] = {}
    for t in tensors:
        first = owners.setdefault(_memory(t._data), t)
        if first is not t:
            t._storage = first.storage()


def _memory(array) -> int:
    """What tells an array's memory from another's; CuPy's arrays may have no base though another owns their memory."""
    owner = root(array)
    memory = None if hasattr(owner, "ctypes") else owner.data.mem  # NumPy's arrays, and CuPy's
    return id(owner) if memory is None else memory.ptr


def _difference(tree, result, results: list, given: list[Tensor], backend) -> str | None:
    """What of a function's result is not what its program computed."""
    number = 0
    found: list[str] = []

    def compare(leaf, theirs) -> None:
        nonlocal number
        number += 1
        if leaf.__class__ is _Leaf and isinstance(theirs, float):  # what `finite` gives when nobody records
            right = results[leaf.i].size == 1 and repr(results[leaf.i].item()) == repr(theirs)
        elif leaf.__class__ is _Leaf:
            right = isinstance(theirs, Tensor) and same_bits(backend, results[leaf.i], theirs._data)
        elif leaf.__class__ is _Gradient:
            right = theirs is leaf.tensor.grad
        elif leaf.__class__ is _Argument:
            right = theirs is given[leaf.i]
        elif isinstance(leaf, (Tensor, _Alias)):
            leaf = leaf if isinstance(leaf, Tensor) else leaf.tensor
            right = isinstance(theirs, Tensor) and same_bits(backend, leaf._data, theirs._data)
        else:
            right = same(theirs, leaf) or theirs == leaf
        if not right:
            found.append(f"result {number - 1}")

    def walk(expected, theirs) -> None:
        if expected.__class__ in (_Leaf, _Argument, _Gradient, _Alias):
            compare(expected, theirs)
        elif type(expected) is not type(theirs):
            found.append("the type of a result")
        elif isinstance(expected, dict):
            if list(expected) != list(theirs):
                found.append("the keys of a result")
            else:
                for name in expected:
                    walk(expected[name], theirs[name])
        elif isinstance(expected, (list, tuple)):
            if len(expected) != len(theirs):
                found.append("the number of results")
            else:
                for one, other in zip(expected, theirs):
                    walk(one, other)
        elif dataclasses.is_dataclass(expected) and not isinstance(expected, type):
            for field in dataclasses.fields(expected):
                if hasattr(expected, field.name):
                    walk(getattr(expected, field.name), getattr(theirs, field.name, None))
        else:
            compare(expected, theirs)

    walk(tree, result)
    return found[0] if found else None
