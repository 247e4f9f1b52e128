"""`dc.compile`: a function that runs as one program where it can, and as it is where it cannot."""

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
from deepcore.autograd.graph import mode
from deepcore.autograd.transforms import tree_map
from deepcore.backend import backend_of, get_backend
from deepcore.compiler.build import build
from deepcore.compiler.guards import PLAIN, Guards, is_scalar
from deepcore.compiler.runner import Arena, Runner, Stopped
from deepcore.compiler.trace import Fault, Trace, user_line
from deepcore.config import settings
from deepcore.errors import ArgumentError, DeepcoreWarning
from deepcore.kernels import watch
from deepcore.kernels.runtime import allocator, threadpool
from deepcore.tensor import Tensor, from_raw

log = logging.getLogger("deepcore.compile")

#: Programs that a compiled function keeps, unless it is told otherwise.
PROGRAMS = 16
#: Runs for each time that the function is followed, which takes some ten calls: with fewer it does not pay. The second
#: is for those that somebody asked to have compiled.
_PAYS, _PAYS_ASKED = 16, 0.5
#: Programs kept for arguments of one kind though tensors have other memory now: weights may be swapped to and fro.
_SWAPPED = 1


class _Leaf:
    """The place of tensor number `i` in a structure."""

    __slots__ = ("i",)

    def __init__(self, i: int):
        self.i = i


class _Argument(_Leaf):
    """The place of argument number `i`, which is returned itself."""

    __slots__ = ()


class _Gradient:
    """The place of the gradient of a tensor."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class Compiled:
    """What `dc.compile` returns: called like the function, with the same results to the bit.

    The first call with arguments of a kind runs the function as it is, follows what it computes and makes a program of
    that; later calls of the kind run the program. `peak_memory` is what the programs need.

    `unasked`: nobody said that it should be compiled, so there is no warning where it cannot be, and none is followed
    anew where that does not pay, as for batches of ever new sizes. `prepare()` is called before the function itself
    runs, and not before its programs: those change nothing where they stop.
    """

    def __init__(
        self,
        function: Callable,
        programs: int = PROGRAMS,
        unasked: bool = False,
        prepare: Callable[[], None] | None = None,
    ):
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.programs = programs
        self.unasked = unasked
        self.prepare = prepare
        self._known: OrderedDict[tuple, list[tuple[Runner, Any]]] = OrderedDict()
        self._eager: dict[tuple, Fault] = {}
        #: Kinds of arguments with which the function has changed Python's state once.
        self._changing: set[tuple] = set()
        self._arena = Arena()
        self._latest: tuple | None = None
        self._lock = locks.rlock()
        locks.call_after_fork(self)
        self._busy = self._warned = self._told = False
        #: How often the function was followed, and how often a program ran.
        self.traces = self.runs = 0

    def __call__(self, *args, **kwargs):
        looks = None
        if mode.tracer is not None or mode.hook is not None or mode.transforms:
            looks = getattr(mode.hook, "looks", None)
            if looks is None or mode.tracer is not None or mode.transforms:
                return self._as_it_is(args, kwargs)  # part of a larger program, or watched op by op
        arrays: list[Any] = []
        tensors: list[Tensor] = []
        key = (
            mode.grad, settings.kernels, _structure(args, arrays, tensors),
            _structure(kwargs, arrays, tensors) if kwargs else None,
        )  # fmt: skip
        n = len(arrays)
        if n > 1 and (n > 2 or arrays[0] is arrays[1]) and len(set(map(id, arrays))) < n:
            key = (
                *key,
                *(tuple([next(j for j, b in enumerate(of) if b is a) for a in of]) for of in (arrays, tensors)),
            )
        if looks is not None:
            key = (*key, "looks")
        with self._lock:
            if self._busy:  # a signal's handler calls it while it runs
                return self._as_it_is(args, kwargs)
            try:
                self._busy = True
                reason = "these arguments are new"
                latest = self._latest is not None and key == self._latest[0]
                for runner, tree in self._latest[1] if latest else self._known.get(key, ()):  # type: ignore[index]
                    misfit = runner.misfit()
                    if misfit is not None:
                        reason = misfit
                        continue
                    try:
                        results = runner(arrays, tensors)
                    except Stopped:
                        break
                    if not latest:
                        self._known.move_to_end(key)
                        self._latest = key, self._known[key]
                    self.runs += 1
                    if runner.fresh:  # the gradients that the function made have gone
                        runner.fresh = False
                        allocator.release()
                    return _filled(tree, results, tensors, runner.backend)
                else:
                    if key not in self._eager:
                        traces = self.traces
                        result = self._follow(key, args, kwargs, tensors, arrays, reason, looks)
                        if self.traces != traces:  # following took memory that the program has no use for
                            allocator.release()
                        return result
            finally:
                self._busy = False
        return self._as_it_is(args, kwargs)

    def _as_it_is(self, args, kwargs):
        if self.prepare is not None:
            self.prepare()
        return self.function(*args, **kwargs)

    def after_fork(self) -> None:
        """Forget a call of another thread, which a forked child does not have."""
        self._busy = False

    # -- following ----------------------------------------------------------------------------------------
    def _follow(self, key, args, kwargs, tensors: list, arrays: list, reason: str, looks: Callable | None):
        backend = _backend(tensors, arrays)
        if looks is not None and backend is not None and backend.name != "cpu":
            backend = None
        if backend is None or not _compiles(backend):
            return self._as_it_is(args, kwargs)
        often, least = (self.programs, _PAYS) if self.unasked else (2 * self.programs, _PAYS_ASKED)
        if self.traces >= often and self.runs < self.traces * least:
            if not self.unasked and not self._told:
                self._told = True
                log.warning("%s often runs as it is: to follow it each time does not pay (%s)", self._name, reason)
            return self._as_it_is(args, kwargs)
        if self.traces:
            log.info("%s is followed again: %s", self._name, reason)
        self.traces += 1
        guards = Guards(self.function, _objects((args, kwargs)))
        if guards.unknown:
            self._give_up(key, Fault(guards.unknown, user_line()))
            return self._as_it_is(args, kwargs)
        trace = _trace(backend)
        trace.looks = looks
        trace.had = {leaf for runner, _ in self._known.get(key, ()) for leaf in runner.none if leaf.grad is not None}
        if len(arrays) > len(tensors):
            trace.raw_arguments()
        given: list[tuple[Tensor, Any]] = []
        before = [*_flat(args), *_flat(kwargs)]
        if self.prepare is not None:
            self.prepare()
        try:
            with trace.following():
                arguments = _traced((args, kwargs), trace, given)
                result = self.function(*arguments[0], **arguments[1])
        finally:
            for tensor, array in given:
                tensor._data = array
        if guards.drawn():
            trace.note("the function draws random numbers that are not deepcore's")
        after = [*_flat(args), *_flat(kwargs)]
        if len(after) != len(before) or any(map(is_not, after, before)):
            trace.note("the function changes a list or dict among its arguments")
        if trace.raced and trace.fault is None:  # another thread drew meanwhile: the next call traces
            return result
        impure = guards.overwritten(trace.settings) or guards.changed()
        if impure and trace.fault is None:
            if key not in self._changing:  # it may have made what it will find from now on
                if len(self._changing) > 256:
                    self._changing.clear()
                self._changing.add(key)
                return result
            trace.note(f"the function changes Python's state: {impure}")
        outputs: list = []
        tree = _outputs(result, trace, outputs, tensors)
        if trace.fault is None:
            self._make(key, trace, guards, tree, outputs, tensors)
        if trace.fault is not None:
            self._give_up(key, trace.fault)
        return result

    def _make(self, key, trace: Trace, guards: Guards, tree, outputs, tensors) -> None:
        leaves, grads = trace.gradients()
        watched = trace.watched()
        known = [
            g
            for t in (*guards.tensors, *trace.arguments, *watched, *trace.entry)
            for g in (t.grad, guards.tensors.get(t))
        ]
        if not {id(g) for g in known if g is not None}.isdisjoint(map(id, watched)):
            trace.note("computing with a gradient from before")
        if trace.fault is not None:
            return
        refs = [ref for ref, _ in outputs]
        if trace.backend.name == "cpu":
            runner = Runner(trace, build(trace, refs, grads), leaves, tensors, guards, self._arena)
        else:
            from deepcore.compiler.graphs import GraphRunner

            runner = GraphRunner(trace, refs, leaves, tensors, guards)
        wrong = runner.check(trace, [array for _, array in outputs], leaves)
        if wrong:
            trace.fault = Fault(f"the program computed {wrong} otherwise than the function did", user_line())
            return
        trace.forget()
        guards.watch(runner.tensors)
        if guards.names_gradients():
            runner.watch_gradients(t for t in guards.tensors if t not in trace.entry and t not in trace.arguments)
        runner.expect()
        self._latest = None
        entry = self._known.setdefault(key, [])
        for old in [r for r, _ in entry if r.moved()][:-_SWAPPED]:
            entry[:] = [each for each in entry if each[0] is not old]
        entry.append((runner, tree))
        self._known.move_to_end(key)
        while sum(map(len, self._known.values())) > self.programs:
            oldest = next(iter(self._known))
            self._known[oldest].pop(0)
            if not self._known[oldest]:
                del self._known[oldest]

    def _give_up(self, key, fault: Fault) -> None:
        if len(self._eager) > 256:
            self._eager.clear()
        self._eager[key] = fault
        log.info("%s runs as it is: %s, at %s", self._name, *fault)
        if not self.unasked and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name} cannot be compiled and runs as it is: {fault.reason}, at {fault.place}",
                DeepcoreWarning,
                stacklevel=4,
            )

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
                print(f"runs as it is: {fault.reason}, at {fault.place}", file=file)

    @property
    def faults(self) -> list[Fault]:
        """Why calls run as they are."""
        return list(self._eager.values())

    def __reduce__(self):
        return Compiled, (self.function, self.programs, self.unasked, self.prepare)  # a copy makes programs of its own

    def __repr__(self) -> str:
        return f"<compiled {self._name}: {sum(map(len, self._known.values()))} programs>"

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        return functools.partial(self, instance)


def compile(function: Callable | None = None, *, programs: int = PROGRAMS):
    """A function, module or whole training step as one program: same results to the bit, less time.

    >>> @dc.compile
    ... def step(x, y):
    ...     optimizer.zero_grad()
    ...     loss = F.cross_entropy(model(x), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     return loss

    The first call with arguments of a kind (shapes, dtypes, Python values) runs the function and follows it; what it
    prints happens then, and not again. Each result has memory of its own. Learning rates may change from step to step;
    what else Python decides with is compared before each run, and a difference makes the function be followed anew. A
    function whose computing depends on values of tensors (`if loss.item() > 1`) runs as it is, after one warning that
    names the line; so does, without one, what would be followed more than twice as often as its programs run (from
    2·`programs` times on). `programs`: how many are kept, the least recently used go first.
    """
    if function is None:
        return functools.partial(compile, programs=programs)
    if not callable(function):
        raise ArgumentError("dc.compile takes a function or a module", received=type(function).__name__)
    return function if isinstance(function, Compiled) else Compiled(function, programs)


class NotFinite(Exception):
    """What `finite` raises."""

    def __init__(self, value: float):
        super().__init__(value)
        self.value = value


def finite(t: Tensor):
    """The value of a tensor of one element, or while it is followed the tensor, once that is known to be finite.

    A program in which it is not stops before it changes anything, and the function runs in its stead and raises.
    """
    if mode.tracer is None:
        value = t.item()
        if not math.isfinite(value):
            raise NotFinite(value)
        return value
    if not mode.tracer.finite(t):
        raise NotFinite(watch.plain(t._data).item())
    return t.detach()


# -- structures -----------------------------------------------------------------------------------------------------


def _structure(tree, arrays: list, tensors: list):
    """What tells a structure of arguments from others; its arrays."""
    if isinstance(tree, Tensor):
        raw = tree._data
        arrays.append(raw)
        tensors.append(tree)
        if tree._requires_grad:
            return raw.shape, raw.strides, raw.dtype, tree.backend, tree._node is not None, tree.grad is None
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
        arrays.append(tree)
        return ("a", tree.shape, tree.strides, tree.dtype)
    return ("o", id(tree))


def _objects(tree) -> list:
    """What is neither a tensor nor an array."""
    found: list = []
    tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) or hasattr(leaf, "dtype") else found.append(leaf), tree)
    return found


def _compiles(backend) -> bool:
    return threadpool.can_prepare() if backend.name == "cpu" else backend.kernel_kind == "cuda"


def _trace(backend) -> Trace:
    if backend.name == "cpu":
        return Trace(backend)
    from deepcore.compiler.graphs import DeviceTrace

    return DeviceTrace(backend)


def _backend(tensors: list[Tensor], arrays: list):
    """Where all of them are, or None."""
    found: list = [t.backend for t in tensors] or [backend_of(array) for array in arrays[:1]] or [get_backend()]
    return found[0] if all(b is found[0] for b in found) else None


def _traced(tree, trace: Trace, given: list):
    """The structure with arrays that are followed; tensors keep their identity, and get their arrays back later. Where
    all arrays are tensors' it is the same structure, which the function may change."""
    known: dict[int, Any] = {}

    def argument(array):
        if id(array) not in known:
            known[id(array)] = trace.argument(array)
        return known[id(array)]

    def enter(leaf):
        if isinstance(leaf, Tensor):
            if id(leaf) not in known:
                given.append((leaf, leaf._data))
                known[id(leaf)] = leaf
                trace.arguments.add(leaf)
                leaf._data = argument(leaf._data)
            return leaf
        if isinstance(leaf, trace.backend.array_type):
            raw.append(leaf)
            return argument(leaf)
        return leaf

    raw: list = []
    followed = tree_map(enter, tree)
    return followed if raw else tree


def _flat(tree) -> list:
    """Containers, their keys, and leaves, one after the other."""
    if isinstance(tree, dict):
        return [tree, *(part for k, v in tree.items() for part in (k, *_flat(v)))]
    if isinstance(tree, (list, tuple)):
        return [tree, *(part for v in tree for part in _flat(v))]
    return [tree]


def _outputs(tree, trace: Trace, found: list, given: list[Tensor]):
    """The structure with a `_Leaf` for each tensor that is computed; (place, array) of those."""
    places = {id(t): i for i, t in enumerate(given)}
    known: dict[int, _Leaf] = {}
    leaves = [p for p in (*trace.grads, *trace.accumulated) if p.grad is not None and p not in trace.arguments]
    gradients = {id(p.grad): _Gradient(p) for p in leaves}

    def leave(leaf):
        if not isinstance(leaf, Tensor):
            if isinstance(leaf, trace.backend.array_type):
                trace.note("an array that is returned")
            elif not _is_fixed(leaf):
                trace.note(f"a result of type {type(leaf).__name__}, which may hold tensors")
            return leaf
        if id(leaf) in places:
            return _Argument(places[id(leaf)])
        if id(leaf) in known:
            return known[id(leaf)]
        if id(leaf) in gradients:
            return gradients[id(leaf)]
        if trace.writes(leaf):
            return leaf
        ref = trace.norms.get(leaf) or trace.ref(leaf._data, leaf)
        if ref.buffer.kind == "given":
            trace.note("a result that shares the memory of an argument")
        if ref.buffer.kind == "outside":
            return leaf
        node = leaf._node
        if node is None and leaf._requires_grad:
            trace.note("a leaf that the function makes")
        if node is not None and node.saved is not None:
            trace.note(
                "a result to be differentiated outside of the function (call it under no_grad() if that is not meant)"
            )
        found.append((ref, leaf._data))
        known[id(leaf)] = _Leaf(len(found) - 1)
        return known[id(leaf)]

    return _mapped(leave, tree)


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
        return from_raw(results[tree.i], backend)
    tensors = [from_raw(array, backend) for array in results]

    def fill(leaf):
        if leaf.__class__ is _Leaf:
            return tensors[leaf.i]
        if leaf.__class__ is _Gradient:
            return leaf.tensor.grad
        return given[leaf.i] if leaf.__class__ is _Argument else leaf

    return _mapped(fill, tree)
