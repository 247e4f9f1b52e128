"""Following a function: what it computes, step by step, while it runs as always.

Every op passes `autograd.apply`, whose `enter` runs its forward; here that also writes down which kernels ran on which
memory. What passes by no op says so itself: gradients that reach a leaf, writes in place, an optimizer's update, draws of
random numbers. Anything else that depends on values (a decision, a print, NumPy's own functions) is noted as a fault with
the user's line, and the function is not compiled.
"""

from __future__ import annotations

import bisect
import contextlib
import math
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deepcore.autograd import graph
from deepcore.autograd.engine import accumulate
from deepcore.autograd.graph import mode
from deepcore.autograd.modes import _LOCK
from deepcore.backend import dtypes as dt
from deepcore.compiler.guards import settings_of
from deepcore.config import settings
from deepcore.kernels import update as update_formulas
from deepcore.kernels import watch
from deepcore.kernels.codegen import jit
from deepcore.kernels.cpu.checks import FINITE, WITHIN, all_finite, looked_at
from deepcore.kernels.cpu.elementwise import MAPS
from deepcore.kernels.runtime.executable import Buffer, Launch, Ref, Step, address_of, move, root, span
from deepcore.tensor import Tensor

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_KERNELS = str(Path(watch.__file__).resolve().parent)
_NUMPY = str(Path(watch.np.__file__).resolve().parent)
# Words that may be addresses. What is not is smaller, or a float64's bits.
_LOW, _HIGH = 1 << 32, 1 << 48


class Fault(NamedTuple):
    """Why a function cannot be compiled, and where that is."""

    reason: str
    place: str


class Drawn(int):
    """A word of a generator's state in a trace: the number while tracing; in a run, word `i` of `state` plus `ahead`."""

    state: Any
    i: int
    ahead: int

    @classmethod
    def of(cls, value: int, state, i: int, ahead: int = 0) -> Drawn:
        self = cls(value)
        self.state, self.i, self.ahead = state, i, ahead
        return self

    def now(self) -> int:
        """The number in the current run."""
        return (int(self.state[self.i]) + self.ahead) % (1 << 64)


class Call:
    """An op as a call of its forward, for a step: those results that have memory of their own."""

    def __init__(self, op, impl, xp, params: dict, picks: list[int], enter: Callable):
        self.op, self.impl, self.xp, self.params, self.picks, self.enter = op, impl, xp, params, picks, enter
        self.drawn = {name: value for name, value in params.items() if isinstance(value, Drawn)}

    def __call__(self, *arrays):
        params = self.params
        if self.drawn:
            params = {**params, **{name: value.now() for name, value in self.drawn.items()}}
        out = self.enter(self.impl, self.xp, *arrays, **params)
        out = out if isinstance(out, tuple) else (out,)
        return tuple(out[i] for i in self.picks)


class Update(NamedTuple):
    """A step of an optimizer: its plan, the gradients in the plan's order, and where the norm goes, if it clips by that."""

    optimizer: Any
    plan: Any
    gradients: list[Ref]
    clip: Any
    norm: Ref | None = None


class _Intervals:
    """Which buffer an address is in."""

    def __init__(self):
        self.lows: list[int] = []
        self.highs: list[int] = []
        self.buffers: list[Buffer] = []

    def find(self, at: int) -> tuple[Buffer, int] | None:
        i = bisect.bisect_right(self.lows, at) - 1
        return (self.buffers[i], at - self.lows[i]) if i >= 0 and at < self.highs[i] else None

    def add(self, low: int, high: int, buffer: Buffer) -> bool:
        """False where something else is there already."""
        i = bisect.bisect_right(self.lows, low)
        if (i and self.highs[i - 1] > low) or (i < len(self.lows) and self.lows[i] < high):
            return False
        self.lows.insert(i, low)
        self.highs.insert(i, high)
        self.buffers.insert(i, buffer)
        return True


class Trace:
    """What following a function found. Its methods are what the rest of deepcore tells it."""

    #: Ops that one kernel may take whatever the size.
    maps: dict[str, Any] = MAPS
    #: Why every op is a call of its forward; "" where kernels say themselves what they do.
    whole = ""

    def __init__(self, backend):
        self.backend = backend
        self.steps: list[Step] = []
        self.fault: Fault | None = None
        #: What looks at each op and its results, and wants a program that does.
        self.looks: Callable | None = None
        self.intervals = _Intervals()
        #: Memory from outside that is read: the tensor and its array, which must stay.
        self.outside: dict[Buffer, tuple[Tensor | None, Any]] = {}
        #: Other tensors that it was read by.
        self._others: dict[int, tuple[weakref.ref, Any]] = {}
        #: Arguments: (buffer, array), in their order.
        self.given: list[tuple[Buffer, Any]] = []
        #: The tensors among them.
        self.arguments: set[Tensor] = set()
        #: Arrays that never change.
        self.constants: dict[Buffer, Any] = {}
        #: What is written at the end: outside buffer to the own buffer that has its new content.
        self.redirected: dict[Buffer, Buffer] = {}
        #: Those of them whose new content is a result, which may be written, too.
        self.lent: set[Buffer] = set()
        #: What outside memory held before it was first written.
        self.before: dict[Buffer, Any] = {}
        #: Tensors whose version rises, once a write.
        self.written: list[Tensor] = []
        #: How `.grad` of a leaf was when it was first touched: "none", "tensor", or "any" where it was cleared first.
        self.entry: dict[Tensor, str] = {}
        #: Leaves that had a gradient: where they have none later, the function has taken it away.
        self.had: set[Tensor] = set()
        #: Arrays of gradients from before, which are anew in each run: leaf to buffer.
        self.accumulated: dict[Tensor, Buffer] = {}
        self.grads: dict[Tensor, Ref] = {}
        self.updates: list[Update] = []
        #: Groups of parameters, and the settings that they were updated with.
        self.settings: list[tuple[dict, dict]] = []
        self.updated: set[Buffer] = set()
        #: Norms that updates have found, and where.
        self.norms: dict[Tensor, Ref] = {}
        #: Generators that were drawn from: (seed, stream, position) at the start, and the words that kernels read.
        self.generators: dict[Any, tuple[tuple[int, int, int], Any]] = {}
        #: Where the draws of this trace end, and whether another thread drew from one of the generators in between.
        self.ends: dict[Any, int] = {}
        self.raced = False
        self.kept: list[Any] = []
        self._made: list[weakref.ref] = []
        self._op: Any = None
        self._tensors: tuple = ()
        self._inside = False
        self._launches: list[Launch] = []
        self._temps: list[Buffer] = []
        self._opaque = ""
        self._static: dict[int, Any] = {}
        self._kernels: set[int] | None = None

    # -- following ----------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        self._run = mode.enter
        with _LOCK:
            graph.watchers += 1
            watch.count += 1
        try:
            with _told(self, self._hook, self._enter):
                yield
        finally:
            with _LOCK:
                graph.watchers -= 1
                watch.count -= 1
            for ref in self._made:
                t = ref()
                if t is not None and isinstance(t._data, watch.Traced):
                    t._data = watch.plain(t._data)

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Inside, nothing is written down."""
        return _told(None, None, self._run)

    def note(self, what: str) -> None:
        """Something depends on values in a way that is not written down."""
        if self._inside:  # in an op that runs as a whole, then
            self._opaque = self._opaque or what
        elif self.fault is None:
            self.fault = Fault(what, user_line())

    # -- memory -------------------------------------------------------------------------------------------
    def argument(self, array):
        """An array that is anew in each run, as the function is to get it."""
        buffer = Buffer("given", array.nbytes, array, f"in{len(self.given)}")
        low, high = span(array)
        if high > low and not self.intervals.add(low, high, buffer):
            self.note("two arguments that share memory")
        self.given.append((buffer, array))
        return self.followed(array)

    def followed(self, array):
        """The array as one that tells of whatever reads its values."""
        return array.view(watch.Traced)

    def constant(self, array) -> None:
        """An array that is the same in every run."""
        self._outside(array, None)
        self.kept.append(array)
        found = self.intervals.find(span(array)[0])
        if found is not None:
            self.constants[found[0]] = array

    def made(self, array) -> None:
        """An array that the function makes, which holds the same in every run before it is written."""
        if self._inside or not array.size or root(array) is not array or self.intervals.find(address_of(array)):
            return
        same = array.copy("K")
        self.constant(same)
        self.steps.append(self.moved(self.own_ref(array), self.ref(same)))

    def writes(self, tensor: Tensor) -> bool:
        """Whether it was there before, and is written; a view of it that was not is noted."""
        found = self.intervals.find(address_of(tensor._data)) if tensor._data.size else None
        if found is None or found[0].kind != "outside" or found[0] not in self.redirected:
            return False
        if tensor not in self.watched():
            self.note("a result in memory that the function writes")
        return True

    def raw_arguments(self) -> None:
        """Arrays that are no tensors are among the arguments."""

    def _outside(self, array, tensor: Tensor | None) -> Buffer:
        owner = root(array)
        low, high = span(owner)
        buffer = Buffer("outside", high - low, owner)
        self.kept.append(array)
        if high > low and not self.intervals.add(low, high, buffer):
            self.note("memory that is shared in part")
        self.outside[buffer] = (tensor, array)
        return buffer

    def ref(self, array, tensor: Tensor | None = None) -> Ref:
        """Where an array is."""
        if not array.size:
            return Ref(Buffer("outside", 0, array), 0, array.shape, array.strides, array.dtype)
        at = address_of(array)
        found = self.intervals.find(at)
        if found is None:
            if isinstance(array, watch.Traced):
                self.note("values computed outside of deepcore's operations")
            buffer = self._outside(array, tensor)
            if self._is_constant(array):
                self.constants[buffer] = array
            found = buffer, at - span(root(array))[0]
        buffer, offset = found
        if buffer in self.updated:
            self.note("reading what the optimizer's step has changed or made")
        elif tensor is not None and buffer in self.outside:
            known = self.outside[buffer][0]
            if known is None:
                self.outside[buffer] = (tensor, array)
            elif known is not tensor:
                self._others[id(tensor)] = weakref.ref(tensor), array
        buffer = self.redirected.get(buffer, buffer)
        return Ref(buffer, offset, array.shape, array.strides, array.dtype)

    def watched(self) -> dict[Tensor, Any]:
        """Tensors over memory from outside, and the arrays that they must keep."""
        found = {t: array for t, array in self.outside.values() if t is not None}
        others = [(ref(), array) for ref, array in self._others.values()]  # those that the function made are gone
        return found | {t: array for t, array in others if t is not None and t._data is array}

    def _is_constant(self, array) -> bool:
        return array.ndim == 0 and any(array is c for c in self.backend._constants.values())

    def own(self, array, name: str = "") -> Buffer:
        """A new buffer of the program for an array that was just made."""
        owner = root(array)
        low, high = span(owner)
        buffer = Buffer("own", high - low, owner, name)
        self.kept.append(owner)
        if high > low and not self.intervals.add(low, high, buffer):
            self.note("memory that is shared in part")
        return buffer

    def own_ref(self, array) -> Ref:
        """An array that was just made, in a new buffer of the program."""
        return Ref(self.own(array), 0, array.shape, array.strides, array.dtype)

    def forget(self) -> None:
        """Let go of what the function computed while it was followed: the program has memory of its own."""
        self.kept.clear()
        self.before.clear()
        for buffer in self.intervals.buffers:
            if buffer.kind != "outside":
                buffer.array = None

    # -- kernels ------------------------------------------------------------------------------------------
    def empty(self, shape, dtype):
        array = self.backend.array_module.empty(shape, dtype)
        if not self._inside:
            return array
        self._temps.append(self.own(array))
        return array.view(watch.Traced)

    def keep(self, at: int, owner) -> None:
        self._static[at] = owner

    def state(self, seed, stream, position):
        if not isinstance(position, Drawn):
            self._opaque = self._opaque or "a position in a random stream that was drawn before"
            return None
        self._static[jit.address(position.state)] = position.state
        return position.state, position.ahead

    def launch(self, kernel, slices: int, words) -> None:
        if not self._inside:
            return
        words, places = [int(w) for w in words], {}
        for i, word in enumerate(words):
            if _LOW <= word < _HIGH:
                found = self.intervals.find(word)
                if found is not None:
                    buffer = self.redirected.get(found[0], found[0])
                    places[i] = (buffer, found[1])
                elif word not in self._static and not self._is_kernel(word):
                    self._opaque = self._opaque or f"memory that {kernel.name} uses unseen"
        self._launches.append(Launch(kernel, words, places, slices))

    def _is_kernel(self, word: int) -> bool:
        if self._kernels is None or word not in self._kernels:
            self._kernels = {kernel.address for kernel in jit.KERNELS.values()}
        return word in self._kernels

    # -- ops ----------------------------------------------------------------------------------------------
    def _hook(self, op, inputs, params):
        before = self._op, self._tensors
        self._op, self._tensors = op, inputs
        try:
            result = graph.run(op, inputs, params)
        finally:
            self._op, self._tensors = before
        for t in result if isinstance(result, tuple) else (result,):
            self._made.append(weakref.ref(t))
        if self.looks is not None:
            with self.paused():
                self.looks(op, inputs, result)
        return result

    def _enter(self, impl, xp, *arrays, **params):
        op, tensors = self._op, self._tensors
        if self._inside:
            return self._run(impl, xp, *arrays, **params)
        if op is None:
            out = self._run(impl, xp, *arrays, **params)
            view = isinstance(out, self.backend.array_type) and (
                not out.size or self.intervals.find(address_of(out)) is not None
            )
            if not view:
                self.note(f"{getattr(impl, '__name__', impl)}, which is no operation")
            return out
        if xp is not self.backend:
            self.note(f"an operation on the backend {xp}")
            return self._run(impl, xp, *arrays, **params)
        ins = [self.ref(a, t) for a, t in zip(arrays, tensors)]
        given = [self.followed(a) for a in arrays]
        self._launches, self._temps, self._opaque, self._inside = [], [], self.whole, True
        try:
            out = NotImplemented
            if settings.kernels and op.name in self.maps:
                out = self._run(self.maps[op.name], xp, *given, **params)
            if out is NotImplemented:
                out = self._run(impl, xp, *given, **params)
        finally:
            self._inside = False
        many = isinstance(out, tuple)
        found = [watch.plain(xp.asarray(a)) for a in (out if many else (out,))]
        launches, temps, opaque = self._launches, self._temps, self._opaque
        known = [self.intervals.find(address_of(a)) if a.size else _EMPTY for a in found]
        outs = []
        for i, (array, at) in enumerate(zip(found, known)):
            if not at:
                opaque = opaque or "a result in memory of its own"
                if span(root(array)) != span(array) or not _is_dense(array):
                    array = found[i] = array.copy("K")
                self.own(array)
            outs.append(self.ref(array))
        made = set(temps)
        new = [r for r, at in zip(outs, known) if not at or at[0] in made]
        if opaque:
            fresh = [not at or at[0] in made for at in known]
            self.steps.append(self._called(op, impl, xp, params, ins, outs, fresh))
        elif launches:
            results = {r.buffer for r in outs}
            others = [b for b in temps if b not in results]
            self.steps.append(Step(op.name, ins, new, launches, temps=others, kept=op.name in _CHECKING))
        traced = tuple(map(self.followed, found))
        return traced if many else traced[0]

    def _called(self, op, impl, xp, params, ins, outs, fresh) -> Step:
        """The op as a call of its forward; `fresh` says which results have memory of their own."""
        picks = [i for i, new in enumerate(fresh) if new]
        call = Call(op, impl, xp, params, picks, self._run)
        return Step(op.name, ins, [outs[i] for i in picks], call=call, kept=not picks or op.name in _CHECKING)

    # -- what passes by no op -------------------------------------------------------------------------------
    def write(self, target: Tensor, raw, key, value) -> None:
        """raw[key] = value, in place."""
        simple = key == (...,) or all(isinstance(k, (slice, int)) or k is None or k is Ellipsis for k in key)
        target_raw, source = watch.plain(raw), watch.plain(value)
        if not simple:
            self.note("writing to places that are themselves computed")
            target_raw[watch._plainly(key)] = source
            return
        self._belongs(target_raw, target._base[0] if target._base else target)
        self.store(target_raw[key], source)
        self.written.append(target)

    def _belongs(self, array, tensor: Tensor) -> None:
        """Memory from outside that is written is known by the tensor that has it, not by one that was made to read it."""
        self.ref(array)
        buffer, _ = self.intervals.find(address_of(array)) or _EMPTY
        if buffer in self.outside:
            self.outside[buffer] = tensor, tensor._data

    def store(self, to, source) -> None:
        source_ref = self.ref(source)
        self._part(self.ref(to).buffer)
        place = self.ref(to)
        buffer = place.buffer
        if buffer.kind in ("outside", "given"):
            if buffer.kind == "given" or buffer in self.constants:
                self.note("writing into an argument" if buffer.kind == "given" else "writing into a constant")
            self.before.setdefault(buffer, buffer.array.copy())
            whole = place.whole and source_ref.whole and source_ref.nbytes == place.nbytes
            if whole and source_ref.buffer.kind == "own" and source_ref.dtype == place.dtype:
                self.redirected[buffer] = source_ref.buffer
                self.lent.add(buffer)
            else:
                copy = Buffer("own", buffer.nbytes, None, changing=True)
                self.redirected[buffer] = copy
                whole = Ref(buffer, 0, buffer.array.shape, buffer.array.strides, buffer.array.dtype)
                self.steps.append(self.moved(Ref(copy, 0, whole.shape, whole.strides, whole.dtype), whole))
                self._store(Ref(copy, place.offset, place.shape, place.strides, place.dtype), source_ref)
        else:
            self._store(place, source_ref)
        with self.paused():
            to[...] = source.copy() if self.backend.may_share_memory(to, source) else source

    def _part(self, buffer: Buffer) -> None:
        """Before a buffer is written: memory from outside that it stands for gets a copy."""
        for outside in [each for each in self.lent if self.redirected[each] is buffer]:
            self.lent.remove(outside)
            self.redirected[outside] = Buffer("own", buffer.nbytes, None, changing=True)
            array = outside.array
            old, new = (Ref(b, 0, array.shape, array.strides, array.dtype) for b in (buffer, self.redirected[outside]))
            self.steps.append(self.moved(new, old))

    def moved(self, to: Ref, source: Ref) -> Step:
        """A copy to another place."""
        return move(to, source)

    def _store(self, place: Ref, source: Ref) -> None:
        place.buffer.changing = True
        if source.shape != place.shape:
            strides = (0,) * (len(place.shape) - len(source.shape)) + tuple(
                0 if n == 1 and m != 1 else s
                for n, m, s in zip(source.shape, place.shape[len(place.shape) - len(source.shape) :], source.strides)
            )
            source = Ref(source.buffer, source.offset, place.shape, strides, source.dtype)
        self.steps.append(self.moved(place, source))

    def clear(self, leaf: Tensor, to_none: bool) -> None:
        if leaf in self.arguments:
            self.note("clearing an argument's gradient")
        if to_none:
            self.entry.setdefault(leaf, "any")
        else:
            self.note("zero_grad(set_to_none=False)")

    def accumulate(self, leaf: Tensor, total: Tensor, shared: bool) -> None:
        """leaf.grad += total; `shared`: something else may have its memory."""
        raw = watch.plain(total._data)
        ref = self.ref(total._data)
        if self.ref(leaf._data, leaf).buffer.kind == "own":
            self.note("a gradient of a tensor that the function makes")
        if leaf.grad is None:
            self.entry.setdefault(leaf, "any" if leaf in self.had else "none")
            if leaf in self.accumulated:
                self.note("a gradient that is taken away once something was added to it")
            taken = {r.buffer for r in self.grads.values()}
            theirs = (
                shared
                or ref.buffer.kind != "own"
                or not ref.whole
                or ref.buffer in taken
                or not getattr(raw.flags, "writeable", True)
            )
            if theirs or raw.dtype != leaf._data.dtype:
                copy = raw.copy()
                to = self.own_ref(copy)
                self.steps.append(self.moved(to, ref))
                raw, ref = copy, to
            leaf.grad = Tensor(raw, leaf.backend)
            self.grads[leaf] = ref
            return
        held = leaf.grad._data
        first = (
            self.entry.setdefault(leaf, "tensor") == "tensor"
            and leaf not in self.accumulated
            and leaf not in self.grads
        )
        same = (held.shape, held.dtype) == (raw.shape, raw.dtype) and held.flags.c_contiguous
        if first and leaf in self.arguments:
            self.note("an argument that has a gradient already")
        elif not same or leaf.grad._requires_grad:
            self.note("a gradient of another kind than the parameter")
        if self.fault is not None:
            with self.paused():
                accumulate(leaf, {leaf: Tensor(raw, leaf.backend)}, False)
            return
        if first:
            buffer = Buffer("given", held.nbytes, held)
            if not self.intervals.add(*span(held), buffer):
                self.note("a gradient that shares memory")
            self.accumulated[leaf] = buffer
        at = self.ref(held)
        if at.buffer.kind == "given":
            self.before.setdefault(at.buffer, held.copy())
        self._op, before, self._tensors = _ADD, self._op, (leaf.grad, total)
        try:
            new = self._enter(lambda xp, a, b: xp.add(a, b), self.backend, held, total._data)
        finally:
            self._op = before
        new_ref = self.ref(new)
        if at.buffer.kind == "given":
            self.redirected[at.buffer] = new_ref.buffer
        else:
            self._part(at.buffer)
            self._store(at, new_ref)
        held[...] = watch.plain(new)

    def finite(self, t: Tensor) -> bool:
        """Whether a number is finite; a run in which it is not stops."""
        ref = self.ref(t._data, t)
        kernel = FINITE.get(ref.dtype)
        if self.whole or kernel is None or not kernel.ready():
            self.note(f"checking a number of dtype {ref.dtype}")
        else:
            launch = Launch(kernel, [0], {0: (ref.buffer, ref.offset)}, 1)
            self.steps.append(Step("finite", [ref], [], [launch], kept=True))
        return math.isfinite(watch.plain(t._data).item())

    def all_finite(self, tensors: list[Tensor]) -> bool:
        """Whether no tensor has a NaN or infinity; a run in which one has stops."""
        refs = [self.ref(t._data, t) for t in tensors if t._data.size]
        step = None if self.whole or not all(map(looked_at, refs)) else all_finite(refs)
        if step is None:
            self.note("checking whether gradients are finite")
        elif refs:
            self.steps.append(step)
        with self.paused():
            return all(update_formulas.all_finite(t.backend, [watch.plain(t._data)]) for t in tensors)

    def within(self, t: Tensor, low: int, high: int) -> bool:
        """Whether low ≤ t < high in all places; a run in which that is not so stops."""
        raw = watch.plain(t._data)
        fine = not raw.size or bool(raw.min() >= low and raw.max() < high)
        if not raw.size or self._inside:
            return fine
        ref = self.ref(t._data, t)
        kernel = WITHIN.get(ref.dtype)
        if self.whole or kernel is None or not ref.contiguous or not kernel.ready():
            self.note("looking at whether indices are in range")
        else:
            launch = Launch(kernel, [0, raw.size, low, high], {0: (ref.buffer, ref.offset)}, 1)
            self.steps.append(Step("within", [ref], [], [launch], kept=True))
        return fine

    def gradients(self) -> tuple[list[Tensor], list[Ref]]:
        """Leaves that end up with a gradient that was computed here, by a backward or by the function itself; those."""
        updated = (p for update in self.updates for p in update.plan.live)
        leaves, refs = [], []
        for leaf in dict.fromkeys([*self.grads, *self.accumulated, *updated]):
            if leaf.grad is None:
                continue
            if leaf in self.accumulated:
                if leaf.grad._data is not self.accumulated[leaf].array:
                    self.note("a gradient that is replaced once something was added to it")
                continue
            ref = self.ref(leaf.grad._data)
            if leaf in self.grads or ref.buffer.kind == "own":
                self.entry.setdefault(leaf, "any")
                leaves.append(leaf)
                refs.append(ref)
        return leaves, refs

    def clip(self, gradients: list[Tensor], function: Callable) -> Tensor | None:
        """Gradients that `function(gradients)` clips in place, in each run by a call; what it returns."""
        places = {id(g._data): i for i, g in reversed(list(enumerate(gradients)))}
        if len(places) < len(gradients):  # one that is listed twice is clipped twice, as eagerly
            order = [list(places).index(id(g._data)) for g in gradients]
            gradients = [gradients[i] for i in places.values()]
            each = function
            function = lambda copies: each([copies[i] for i in order])
        refs, run = [self.ref(g._data) for g in gradients], self.clipping(function)
        if any(ref.buffer.kind == "outside" for ref in refs):
            self.note("clipping a gradient from before")
        with self.paused():
            arrays = run(*(g._data for g in gradients))
        outs = list(map(self.own_ref, arrays))
        self.steps.append(Step("clip", refs, outs, call=run, kept=True))
        for g, array in zip(gradients, arrays):
            self.store(g._data, array)
        return Tensor(self.followed(arrays[-1]), self.backend) if len(arrays) > len(gradients) else None

    def clipping(self, function: Callable) -> Callable:
        """A call that gives clipped copies of arrays, and the norm that `function`, which clips tensors in place, returns."""

        def run(*arrays):
            copies = [Tensor(watch.plain(a).copy(), self.backend) for a in arrays]
            norm = function(copies)
            return (*(t._data for t in copies), *([] if norm is None else [norm._data]))

        return run

    def norm(self, tensors: list[Tensor], function: Callable, checks: bool) -> Tensor:
        """What `function(tensors)` finds, in each run by a call; `checks`: it may raise, whoever reads the result."""

        def run(*arrays):
            return function([Tensor(watch.plain(a), self.backend) for a in arrays])._data

        refs = [self.ref(t._data, t) for t in tensors]
        with self.paused():
            array = run(*(t._data for t in tensors))
        self.steps.append(Step("norm", refs, [self.own_ref(array)], call=run, kept=checks))
        return Tensor(self.followed(array), self.backend)

    def before_update(self, optimizer) -> tuple[list[Tensor], list[Ref]]:
        """The parameters that a step will update, and their gradients; what they and their states hold is kept."""
        live = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = []
        for p in live:
            gradients.append(self.ref(p.grad._data))
            if gradients[-1].buffer.kind == "outside":
                self.note("an update by a gradient from before")
            buffer = self.ref(p._data, p).buffer
            if buffer.kind == "outside":
                self.before.setdefault(buffer, buffer.array.copy())
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, self.backend.array_type):
                    state = self.ref(value)
                    if state.buffer.kind == "outside":
                        self.before.setdefault(state.buffer, state.buffer.array.copy())
        return live, gradients

    def update(self, optimizer, function: Callable, clip=None, clipped: Callable | None = None):
        """A step of an optimizer, which `function` does; `clipped(gradients)` clips as it does."""
        live, gradients = self.before_update(optimizer)
        self.settings += [(group, settings_of(group)) for group in optimizer.param_groups]
        count = len(live)
        with self.paused():
            result = function()
        plan = optimizer._plan
        if not count:
            return result
        if plan is None or plan.program is None or plan.others or len(plan.live) != count or not plan.whole:
            self.note(f"a step of {type(optimizer).__name__} that is not one update of all parameters by kernels")
            return result
        for arrays in (plan.weights, *(column for batch in plan.program.batches for column in batch.states)):
            for array in arrays:
                buffer = self.ref(array).buffer
                if buffer.kind != "outside":
                    self.note("a parameter that the step wrote before its update")
                self.before.setdefault(buffer, self.backend.zeros_like(buffer.array))  # made by this very step
                self.updated.add(buffer)
        norm = None
        if result is not None:  # the norm: to be returned, and no operand, as updates come last
            array = result._data.copy()
            norm = self.own_ref(array)
            self.updated.add(norm.buffer)
            result = Tensor(array, self.backend)
            self.norms[result] = norm
        self.updates.append(Update(optimizer, plan, gradients, clip, norm))
        return result

    def advance(self, generator, seed: int, stream: int, first: int, blocks: int):
        state, ahead = self._claimed(generator, seed, stream, first, blocks)
        return Drawn.of(seed, state, 0), Drawn.of(stream, state, 1), Drawn.of(first, state, 2, ahead)

    def _claimed(self, generator, seed: int, stream: int, first: int, blocks: int) -> tuple[Any, int]:
        """The words of a generator that was advanced, and how far `first` is from the start."""
        if generator not in self.generators:
            self.generators[generator] = (seed, stream, first), self._words(seed, stream, first)
            self.ends[generator] = first
        self.raced |= self.ends[generator] != first
        self.ends[generator] = (first + blocks) % (1 << 64)
        (_, _, start), state = self.generators[generator]
        return state, (first - start) % (1 << 64)

    def _words(self, seed: int, stream: int, first: int):
        """Memory for three words; on the CPU the program's check reads them as they are here."""
        state = self.backend.array_module.zeros(3, dt.int64)
        state[:] = jit.signed_words(seed, stream, first)
        return state

    def draw(self, function, xp, args: tuple, params: dict):
        """Random numbers: drawn now, and by a call in each run."""
        from deepcore import random

        if self._inside or xp is not self.backend:
            with self.paused():
                return function(xp, *args, **params)
        given = next((a for a in (*args, *params.values()) if isinstance(a, random.Generator)), None)
        generator = given or random.default_generator
        with random.lock:  # what is drawn between the two positions is this draw's
            words = generator.advance(0)
            with self.paused():
                array = function(xp, *args, **params)
                self.ends[generator] = generator.advance(0)[2]

        def call():
            at = generator.at(*(word.now() if isinstance(word, Drawn) else word for word in words))
            if given is None:
                return function(xp, at, *args[1:], **params)
            swap = lambda a: at if a is given else a
            return function(xp, *map(swap, args), **{name: swap(a) for name, a in params.items()})

        if not _is_dense(array) or root(array) is not array:
            array = array.copy()
        self.steps.append(Step(function.name, [], [self.own_ref(array)], call=call))
        return self.followed(array)


def _is_dense(array) -> bool:
    return array.flags.c_contiguous or array.flags.f_contiguous


_CHECKING = {"cross_entropy"}
#: Where an array without elements is.
_EMPTY = Buffer("outside", 0), 0


@contextlib.contextmanager
def _told(tracer: Trace | None, hook, enter) -> Iterator[None]:
    """Inside, this thread tells `tracer` what it does."""
    before = mode.tracer, mode.hook, mode.enter, watch.mine.follower
    mode.tracer, mode.hook, mode.enter, watch.mine.follower = tracer, hook, enter, tracer
    try:
        yield
    finally:
        mode.tracer, mode.hook, mode.enter, watch.mine.follower = before


class _Add:
    name = label = "add"


_ADD = _Add()


def user_line() -> str:
    """file:line of the innermost code outside of deepcore."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_PACKAGE, _KERNELS, _NUMPY)):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown place"
