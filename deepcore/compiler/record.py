"""Recording a function: the ops that it runs, as records over places in memory, while it runs as always.

Values are known by their array, memory by the array that owns it. Every op passes `autograd.apply`, which calls
`Recorder.enter` to run its forward; what passes by no op (writes in place, gradients, updates, draws, checks) comes in
through `effects.effect`. What no program can repeat is a fault with the user's line, and the function runs eagerly.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from deepcore import locks
from deepcore.autograd import graph
from deepcore.compiler.ir import Draw, Record
from deepcore.effects import mode
from deepcore.kernels import plan as plans
from deepcore.kernels.cpu import checks
from deepcore.kernels.runtime.executable import Buffer, Ref, address_of, root, span
from deepcore.ops.registry import PRIMITIVES
from deepcore.tensor import Tensor


class Fault(NamedTuple):
    """Why a function cannot be compiled, and where that is."""

    reason: str
    place: str


class _Place(NamedTuple):
    """Addresses of a buffer: from `low` to `high`; offsets count from `base`."""

    owner: Any
    low: int
    high: int
    base: int
    buffer: Buffer


class Update(NamedTuple):
    """A step of an optimizer: its plan, the gradients in the plan's order, and where the norm goes, if it clips by that."""

    optimizer: Any
    plan: Any
    gradients: list[Ref]
    clip: Any
    norm: Ref | None = None


class Recorder:
    """What a function computes. Methods named after effects take the function that performs one, and its operands."""

    def __init__(self, backend, looks: Callable | None = None):
        self.backend = backend
        #: Looks at each op and its results, and wants a program that does.
        self.looks = looks
        self.records: list[Record] = []
        self.fault: Fault | None = None
        #: By id of the array that owns memory: the buffers there. An argument's has the argument's addresses alone.
        self._places: dict[int, list[_Place]] = {}
        #: Arrays of tensors that were made by neither an op nor an effect.
        self._strangers: dict[int, Any] = {}
        #: The ids of tensors that were made while recording.
        self.made_tensors: set[int] = set()
        #: Memory that is there before the function runs: the tensor that it was read by, and its array.
        self.outside: dict[Buffer, tuple[Tensor | None, Any]] = {}
        #: Other tensors that it was read by.
        self._others: dict[int, tuple[weakref.ref, Any]] = {}
        #: Arguments: (buffer, array), one for each in their order, and the tensors.
        self.given: list[tuple[Buffer, Any]] = []
        self.arguments: set[Tensor] = set()
        #: Arrays that are the same in every run.
        self.constants: dict[Buffer, Any] = {}
        #: What is written at the end: outside buffer to the own buffer that has its new content.
        self.redirected: dict[Buffer, Buffer] = {}
        #: Those of them whose new content is a result, which may be written, too.
        self.lent: dict[Buffer, None] = {}
        #: What outside memory held before it was first written.
        self.before: dict[Buffer, Any] = {}
        #: Tensors whose version rises, once a write; arguments among them are others in each run.
        self.written: list[Tensor] = []
        #: How `.grad` of a leaf was when it was first touched: "none", "tensor", or "any" where it was cleared first.
        self.entry: dict[Tensor, str] = {}
        #: Leaves that had a gradient: where they have none later, the function has taken it away.
        self.had: set[Tensor] = set()
        #: Gradients from before, which are new arrays in each run: leaf to buffer.
        self.accumulated: dict[Tensor, Buffer] = {}
        self.grads: dict[Tensor, Ref] = {}
        self.updates: list[Update] = []
        #: Settings of optimizers, as they were when those stepped.
        self.settings: list[tuple[dict, dict]] = []
        self.updated: set[Buffer] = set()
        #: Norms that updates have found, and where.
        self.norms: dict[Tensor, Ref] = {}
        #: Generators that were drawn from: where they were, and where the draws end.
        self.generators: dict[Any, tuple[int, int, int]] = {}
        self.ends: dict[Any, int] = {}
        #: Draws by (seed, stream, position): a row of the program's table, with its generator and distance from the start.
        self.draws: dict[tuple[int, int, int], Draw] = {}
        self.rows: list[tuple[Any, int]] = []
        #: Whether another thread drew from one of the generators in between.
        self.raced = False
        self._kept: list[Any] = []
        self.first_node = graph.next_id()
        self._op: Any = None
        self._tensors: tuple = ()
        self._inside = False
        self._constant_ids: set[int] = set()

    # -- recording ----------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        self._run = mode.enter
        with graph.watching(), _constructions(), _attached(self, self.hook, self.enter):
            yield

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Inside, nothing is recorded."""
        return _attached(None, None, self._run)

    def note(self, what: str) -> None:
        """Something that no program can repeat."""
        if not self._inside and self.fault is None:
            self.fault = Fault(what, user_line())

    def stranger(self, array) -> None:
        """A tensor was made over an array, by no op or effect that said so."""
        if not self._inside and hasattr(array, "dtype") and hasattr(array, "base"):
            owner = root(array)
            if id(owner) not in self._places:
                self._strangers[id(owner)] = owner

    # -- memory -------------------------------------------------------------------------------------------
    def argument(self, tensor: Tensor) -> None:
        """A tensor whose memory is another in each run."""
        array = tensor._data
        self.arguments.add(tensor)
        for buffer, known in self.given:
            if array is known:
                self.given.append((buffer, array))
                return
        buffer = Buffer("given", array.nbytes, array, f"in{len(self.given)}")
        self.given.append((buffer, array))
        if array.size:
            self._given(buffer, array)

    def _given(self, buffer: Buffer, array) -> None:
        """Memory that is another in each run; places are relative to the array's first element."""
        owner, (low, high) = root(array), span(array)
        others = self._places.setdefault(id(owner), [])
        if any(low < each.high and each.low < high for each in others):
            self.note("two arguments that share memory" if buffer.name else "a gradient that shares memory")
        others.append(_Place(owner, low, high, address_of(array), buffer))

    def seed(self, array):
        """The gradient of a result, which is another in each run."""
        self._given(Buffer("given", array.nbytes, array, "seed"), array)
        return array

    def constant(self, array) -> Buffer:
        """An array that is the same in every run."""
        buffer = self._outside(root(array), None, array)
        self.constants[buffer] = array
        return buffer

    def _outside(self, owner, tensor: Tensor | None, array) -> Buffer:
        low, high = span(owner)
        buffer = Buffer("outside", high - low, owner)
        others = self._places.setdefault(id(owner), [])
        if others:
            self.note("an argument that shares memory with what the function reads")
        others.append(_Place(owner, low, high, low, buffer))
        self._kept.append(array)
        self.outside[buffer] = tensor, array
        return buffer

    def find(self, array) -> tuple[Buffer, int] | None:
        """The buffer that an array is in, and its offset there."""
        if not array.size:
            return _NOWHERE
        places = self._places.get(id(root(array)))
        if places is None:
            return None
        at = address_of(array)
        if len(places) > 1 or places[0].buffer.kind == "given":
            low, high = span(array)
            places = [each for each in places if each.low <= low and high <= each.high]
            if not places:
                return None
        return places[0].buffer, at - places[0].base

    def ref(self, array, tensor: Tensor | None = None) -> Ref:
        """Where an array is, as it is now."""
        if not array.size:
            return Ref(Buffer("outside", 0, array), 0, array.shape, array.strides, array.dtype)
        found = self.find(array)
        if found is None:
            owner = root(array)
            if self._is_constant(array):
                self.constants[self._outside(owner, None, array)] = array
            else:
                if id(owner) in self._strangers:
                    self.note("a tensor made outside of deepcore's operations: make the array an argument")
                self._outside(owner, tensor, array)
            found = self.find(array)
            assert found is not None
        buffer, offset = found
        if buffer in self.updated:
            self.note("reading what the optimizer's step has changed or made")
        elif tensor is not None and buffer in self.outside:
            known = self.outside[buffer][0]
            if known is None:
                self.outside[buffer] = tensor, array
            elif known is not tensor:
                self._others[id(tensor)] = weakref.ref(tensor), array
        return Ref(self.redirected.get(buffer, buffer), offset, array.shape, array.strides, array.dtype)

    def _is_constant(self, array) -> bool:
        """Whether it is one of the backend's numbers."""
        known = self.backend._constants
        if array.ndim:
            return False
        if len(self._constant_ids) != len(known):
            self._constant_ids = set(map(id, known.values()))
        return id(array) in self._constant_ids

    def watched(self) -> dict[Tensor, Any]:
        """Tensors over memory from outside, and the arrays that they must keep."""
        found = {t: array for t, array in self.outside.values() if t is not None}
        others = [(ref(), array) for ref, array in self._others.values()]  # those that the function made are gone
        return found | {t: array for t, array in others if t is not None and t._data is array}

    def own(self, array) -> Buffer:
        """A new buffer of the program for an array that was just made."""
        owner = root(array)
        low, high = span(owner)
        buffer = Buffer("own", high - low, owner)
        self._places[id(owner)] = [_Place(owner, low, high, low, buffer)]
        return buffer

    def own_ref(self, array) -> Ref:
        """An array that was just made, in a new buffer of the program."""
        return Ref(self.own(array), 0, array.shape, array.strides, array.dtype)

    def overlap(self) -> bool:
        """Whether memory that is written shares addresses with memory of another owner."""
        if not self.before:
            return False
        spans = sorted(
            (each.low, each.high, each.buffer in self.before)
            for places in self._places.values()
            for each in places
            if each.buffer.kind != "own" and each.high > each.low
        )
        end, written = 0, False
        for low, high, writes in spans:
            if low < end and (writes or written):
                return True
            written = writes if low >= end or high >= end else written
            end = max(end, high)
        return False

    def forget(self) -> None:
        """Let go of what the function computed while it was recorded: the program has memory of its own."""
        self._kept.clear()
        self._strangers.clear()
        self.before.clear()
        for places in self._places.values():
            for each in places:
                if each.buffer.kind != "outside":
                    each.buffer.array = None
        self._places.clear()

    # -- ops ----------------------------------------------------------------------------------------------
    def hook(self, op, inputs, params):
        if self._inside:
            return graph.run(op, inputs, params)
        if mode.backward and mode.node is not None and mode.node.id < self.first_node:
            self.note("a graph that was recorded before the function was called")
        before = self._op, self._tensors
        self._op, self._tensors = op, inputs
        try:
            result = graph.run(op, inputs, params)
        finally:
            self._op, self._tensors = before
        if self.looks is not None:
            with self.paused():
                self.looks(op, inputs, result)
        return result

    def enter(self, impl, xp, *arrays, **params):
        """Run a forward, and record it."""
        op = self._op
        if self._inside:
            return self._run(impl, xp, *arrays, **params)
        if op is None or xp is not self.backend:
            self.note("computing outside of deepcore's operations" if op is None else f"an operation on {xp}")
            return self._run(impl, xp, *arrays, **params)
        return self.compute(op, impl, arrays, params, self._tensors)

    def compute(self, op, impl, arrays: tuple, params: dict, tensors: tuple = ()):
        """The result of an op's forward on arrays, recorded."""
        xp = self.backend
        if any(isinstance(value, Tensor) for value in params.values()):
            self.note("a tensor where an operation takes a number")
        ins = [self.ref(a, t) for a, t in zip(arrays, tensors or (None,) * len(arrays))]
        self._inside = True
        try:
            out = self._run(impl, xp, *arrays, **params)
        finally:
            self._inside = False
        many = isinstance(out, tuple)
        found = [xp.asarray(a) for a in (out if many else (out,))]
        outs, fresh = [], []
        for i, array in enumerate(found):
            if self.find(array) is None and self._is_constant(array):
                self.ref(array)
            if self.find(array) is None:
                if span(root(array)) != span(array) or not _is_dense(array):
                    array = found[i] = array.copy("K")
                self.own(array)
                fresh.append(i)
            outs.append(self.ref(array))
        if fresh or op.raises:
            draw = self._draw_of(params)
            record = Record(op.name, ins, [outs[i] for i in fresh], op, params, kept=op.raises, draw=draw)
            record.call = _Forward(impl, xp, params, fresh, self._run)
            self.records.append(record)
        return tuple(found) if many else found[0]

    def _draw_of(self, params: dict) -> Draw | None:
        if "position" not in params or "seed" not in params:
            return None
        draw = self.draws.get((params["seed"], params["stream"], params["position"]))
        if draw is None:
            self.note("random numbers that were drawn before the function was called")
        return draw

    # -- effects: tensors ---------------------------------------------------------------------------------
    def alias(self, run: Callable, tensor: Tensor):
        """Another tensor over the memory of `tensor`."""
        self.ref(tensor._data, tensor)
        return run(tensor)

    def copied(self, run: Callable, tensor: Tensor):
        """An array with the values that a tensor has now."""
        source = self.ref(tensor._data, tensor)
        array = run(tensor)
        if not self._inside and array.size:
            self.copy(self.own_ref(array), source)
        return array

    def made(self, run: Callable, array, backend):
        """A tensor over an array that the function makes, which holds the same in every run before it is written."""
        if not self._inside and array.size:
            if root(array) is not array or self.find(array) is not None:
                self.note("a tensor over memory that is not new")
            else:
                same = array.copy("K")
                self.constant(same)
                source = self.ref(same)
                self.copy(self.own_ref(array), source)
        return run(array, backend)

    def copy(self, to: Ref, source: Ref) -> None:
        self.records.append(Record("copy", [source], [to], call=itself))

    def write(self, run: Callable, target: Tensor, raw, key, value) -> None:
        """raw[key] = value, in place."""
        base = target._base[0] if target._base else target
        if base in self.arguments and mode.grad and (base._requires_grad or target._requires_grad):
            self.note("writing into an argument that requires a gradient")
        if not all(isinstance(k, (slice, int)) or k is None or k is Ellipsis for k in key):
            self.note("writing to places that are themselves computed")
            run(target, raw, key, value)
            return
        self.ref(raw)
        found = self.find(raw)
        if found is not None and found[0] in self.outside and self.outside[found[0]][0] is None:
            self.outside[found[0]] = base, base._data
        self.store(raw[key], value)
        self.written.append(target)

    def store(self, to, source) -> None:
        """to[...] = source, for arrays."""
        source_ref = self.ref(source)
        self._part(self.ref(to).buffer)
        place = self.ref(to)
        buffer = place.buffer
        if buffer.kind in ("outside", "given"):
            if buffer in self.constants:
                self.note("writing into a constant")
            self._before_write(buffer)
            whole = place.whole and source_ref.whole and source_ref.nbytes == place.nbytes
            if whole and source_ref.buffer.kind == "own" and source_ref.dtype == place.dtype:
                self.redirected[buffer] = source_ref.buffer
                self.lent[buffer] = None
            else:
                new = Buffer("own", buffer.nbytes, None, changing=True)
                self.redirected[buffer] = new
                all_of_it = Ref(buffer, 0, buffer.array.shape, buffer.array.strides, buffer.array.dtype)
                self.copy(Ref(new, 0, all_of_it.shape, all_of_it.strides, all_of_it.dtype), all_of_it)
                self._store(Ref(new, place.offset, place.shape, place.strides, place.dtype), source_ref)
        else:
            self._store(place, source_ref)
        with self.paused():
            to[...] = source.copy() if self.backend.may_share_memory(to, source) else source

    def _before_write(self, buffer: Buffer) -> None:
        """Keep what memory that is there before the function runs holds."""
        if not _is_dense(buffer.array):  # copies have other strides than the places in it
            self.note("writing into memory with gaps")
        self.before.setdefault(buffer, buffer.array.copy("K"))

    def _part(self, buffer: Buffer) -> None:
        """Before a buffer is written: memory from outside that it stands for gets a copy."""
        for outside in [each for each in self.lent if self.redirected[each] is buffer]:
            del self.lent[outside]
            self.redirected[outside] = Buffer("own", buffer.nbytes, None, changing=True)
            array = outside.array
            old, new = (Ref(b, 0, array.shape, array.strides, array.dtype) for b in (buffer, self.redirected[outside]))
            self.copy(new, old)

    def _store(self, place: Ref, source: Ref) -> None:
        place.buffer.changing = True
        if source.shape != place.shape:
            strides = (0,) * (len(place.shape) - len(source.shape)) + tuple(
                0 if n == 1 and m != 1 else s
                for n, m, s in zip(source.shape, place.shape[len(place.shape) - len(source.shape) :], source.strides)
            )
            source = Ref(source.buffer, source.offset, place.shape, strides, source.dtype)
        self.copy(place, source)

    def is_written(self, tensor: Tensor) -> bool:
        """Whether it was there before, and is written; a view of it that was not is noted."""
        found = self.find(tensor._data)
        if found is None or found[0].kind != "outside" or found[0] not in self.redirected:
            return False
        if tensor not in self.watched():
            self.note("a result in memory that the function writes")
        return True

    # -- effects: gradients -------------------------------------------------------------------------------
    def clear(self, run: Callable, leaves: list[Tensor], to_none: bool) -> None:
        """Forget gradients, or fill them with zeros."""
        for leaf in leaves:
            if leaf in self.arguments:
                self.note("clearing an argument's gradient")
            if to_none:
                self.entry.setdefault(leaf, "any")
            elif leaf.grad is not None:
                self._fill_with_zeros(leaf)
        if to_none or self.fault is not None:
            with self.paused():
                run(leaves, to_none)

    def _fill_with_zeros(self, leaf: Tensor) -> None:
        self._hold(leaf)
        if self.fault is None:
            held = leaf.grad._data  # type: ignore[union-attr]
            zeros = self.backend.zeros_like(held)
            self.constant(zeros)
            self.store(held, zeros)
            leaf.grad.bump_version()  # type: ignore[union-attr]

    def _hold(self, leaf: Tensor) -> None:
        """Take in the gradient that a leaf had before, which is a new array in each run."""
        grad = leaf.grad
        if self.entry.setdefault(leaf, "tensor") != "tensor" or leaf in self.grads or leaf in self.accumulated:
            return
        if (
            not isinstance(grad, Tensor)
            or grad._requires_grad
            or not grad._data.flags.c_contiguous
            or not grad._data.size
            or grad._data.shape != leaf._data.shape
            or grad._data.dtype != leaf._data.dtype
        ):
            self.note("a gradient of another kind than the parameter")
        elif leaf in self.arguments:
            self.note("an argument that has a gradient already")
        elif self.find(grad._data) is not None:
            self.note("a gradient that shares memory")
        else:
            self.ref(leaf._data, leaf)
            buffer = self.accumulated[leaf] = Buffer("given", grad._data.nbytes, grad._data)
            self._given(buffer, grad._data)

    def accumulate(self, run: Callable, leaf: Tensor, totals: dict[Tensor, Tensor], create_graph: bool) -> None:
        """leaf.grad += totals[leaf]."""
        total = totals[leaf]
        shared = sys.getrefcount(totals[leaf]) > 3 or total._storage is not None  # the dict, `total`, and the call
        if create_graph:
            self.note("backward(create_graph=True), whose gradients have a graph")
        if self.fault is not None:
            with self.paused():
                run(leaf, totals, create_graph)
            return
        raw = total._data
        ref = self.ref(raw)
        if self.ref(leaf._data, leaf).buffer.kind == "own":
            self.note("a gradient of a tensor that the function makes")
        if leaf.grad is None:
            self.entry.setdefault(leaf, "any" if leaf in self.had else "none")
            if leaf in self.accumulated:
                self.note("a gradient that is taken away once something was added to it")
            theirs = (
                shared
                or ref.buffer.kind != "own"
                or not ref.whole
                or any(ref.buffer is taken.buffer for taken in self.grads.values())
                or not getattr(raw.flags, "writeable", True)
            )
            if theirs or raw.dtype != leaf._data.dtype:
                copy = raw.copy()
                to = self.own_ref(copy)
                self.copy(to, ref)
                raw, ref = copy, to
            leaf.grad = Tensor(raw, leaf.backend)
            self.grads[leaf] = ref
            return
        if not isinstance(leaf.grad, Tensor) or leaf.grad._requires_grad:
            self.note("a gradient of another kind than the parameter")
            with self.paused():
                run(leaf, totals, create_graph)
            return
        self._hold(leaf)
        held = leaf.grad._data
        if (held.shape, held.dtype) != (raw.shape, raw.dtype) or not held.flags.c_contiguous:
            self.note("a gradient of another kind than the parameter")
        if self.fault is not None:
            with self.paused():
                run(leaf, totals, create_graph)
            return
        at = self.ref(held)
        if at.buffer.kind == "given":
            self.before.setdefault(at.buffer, held.copy())
        add = PRIMITIVES["add"]
        new = self.compute(add, self.backend.impls.get(add) or self.backend.bind(add), (held, raw), {})
        new_ref = self.ref(new)
        if at.buffer.kind == "given":
            self.redirected[at.buffer] = new_ref.buffer
        else:
            self._part(at.buffer)
            self._store(at, new_ref)
        held[...] = new

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

    def clip(self, run: Callable, gradients: list[Tensor]):
        """Clip gradients in place; in a program by a call on copies."""
        places = {id(g._data): i for i, g in reversed(list(enumerate(gradients)))}
        function = run
        if len(places) < len(gradients):  # one that is listed twice is clipped twice, as eagerly
            order = [list(places).index(id(g._data)) for g in gradients]
            gradients = [gradients[i] for i in places.values()]
            function = lambda copies: run([copies[i] for i in order])
        refs, clipped = [self.ref(g._data) for g in gradients], self.clipping(function)
        if any(ref.buffer.kind == "outside" for ref in refs):
            self.note("clipping a gradient from before")
        with self.paused():
            arrays = clipped(*(g._data for g in gradients))
        self.records.append(Record("clip", refs, list(map(self.own_ref, arrays)), call=clipped, kept=True))
        for g, array in zip(gradients, arrays):
            self.store(g._data, array)
            g.bump_version()
        return Tensor(arrays[-1], self.backend) if len(arrays) > len(gradients) else None

    def clipping(self, function: Callable) -> Callable:
        """A call that gives clipped copies of arrays, and the norm that `function`, which clips tensors in place, returns."""

        def run(*arrays):
            copies = [Tensor(a.copy(), self.backend) for a in arrays]
            norm = function(copies)
            return (*(t._data for t in copies), *([] if norm is None else [norm._data]))

        return run

    def norm(self, run: Callable, tensors: list[Tensor], checks: bool) -> Tensor:
        """The norm of tensors, in a program by a call; `checks`: it may raise, whoever reads the result."""

        def call(*arrays):
            return run([Tensor(a, self.backend) for a in arrays], checks)._data

        refs = [self.ref(t._data, t) for t in tensors]
        with self.paused():
            array = call(*(t._data for t in tensors))
        self.records.append(Record("norm", refs, [self.own_ref(array)], call=call, kept=checks))
        return Tensor(array, self.backend)

    # -- effects: checks ----------------------------------------------------------------------------------
    def finite(self, run: Callable, t: Tensor) -> bool:
        """Whether a number is finite; a run in which it is not stops."""
        self._check("finite", [t], {})
        with self.paused():
            return run(t)

    def all_finite(self, run: Callable, tensors: list[Tensor]) -> bool:
        """Whether no tensor has a NaN or infinity; a run in which one has stops."""
        self._check("all_finite", [t for t in tensors if t._data.size], {})
        with self.paused():
            return run(tensors)

    def within(self, run: Callable, t: Tensor, low: int, high: int) -> bool:
        """Whether low ≤ t < high in all places; where it is so, a run in which it is not stops."""
        with self.paused():
            so = run(t, low, high)
        if so and t._data.size and not self._inside:
            self._check("within", [t], {"low": low, "high": high})
        return so

    def _check(self, name: str, tensors: list[Tensor], params: dict) -> None:
        refs = [self.ref(t._data, t) for t in tensors]
        if not self.can_check(name, refs):
            self.note(f"checking whether values are {name.replace('_', ' ')}")
        elif refs:
            self.records.append(Record(name, refs, [], params=params, kept=True))

    def can_check(self, name: str, refs: list[Ref]) -> bool:
        """Whether programs of the device can do a check: "finite", "all_finite", "within"."""
        return checks.available(name, refs)

    # -- effects: updates ---------------------------------------------------------------------------------
    def before_update(self, optimizer) -> tuple[list[Tensor], list[Ref]]:
        """The parameters that a step will update, and their gradients; what they and their states hold is kept."""
        live = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = []
        for p in live:
            self._hold(p)
            gradients.append(self.ref(p.grad._data))
            if gradients[-1].buffer.kind == "outside":
                self.note("an update by a gradient from before")
            buffer = self.ref(p._data, p).buffer
            if buffer.kind == "outside":
                self._before_write(buffer)
            for value in optimizer.state.get(p, {}).values():
                if isinstance(value, self.backend.array_type):
                    state = self.ref(value)
                    if state.buffer.kind == "outside":
                        self._before_write(state.buffer)
        return live, gradients

    def update(self, run: Callable, optimizer, clip=None, clipped: Callable | None = None):
        """A step of an optimizer."""
        live, gradients = self.before_update(optimizer)
        self.settings += [(group, settings_of(group)) for group in optimizer.param_groups]
        count = len(live)
        with self.paused():
            result = run(optimizer, clip, clipped)
        plan = optimizer._plan
        if not count:
            return result
        if plan is None or plan.program is None or plan.others or len(plan.live) != count or not plan.whole:
            self.note(f"a step of {type(optimizer).__name__} that is not one update of all parameters by kernels")
            return result
        arrays = [*plan.weights, *(a for batch in plan.program.batches for column in batch.states for a in column)]
        if not self.mark_updated(arrays):
            return result
        norm = None
        if result is not None:  # the norm: to be returned, and no operand, as updates come last
            array = result._data.copy()
            norm = self.own_ref(array)
            self.updated.add(norm.buffer)
            result = Tensor(array, self.backend)
            self.norms[result] = norm
        self.updates.append(Update(optimizer, plan, gradients, clip, norm))
        return result

    def mark_updated(self, arrays: list) -> bool:
        """Weights and states, which nothing in the function may read from now on."""
        for array in arrays:
            if not array.size:
                continue
            buffer = self.ref(array).buffer
            if buffer.kind != "outside":
                self.note("a parameter that the step wrote before its update")
                return False
            self.before.setdefault(buffer, self.backend.zeros_like(buffer.array))  # made by this very step
            self.updated.add(buffer)
        return True

    # -- effects: random numbers --------------------------------------------------------------------------
    def advance(self, run: Callable, generator, blocks: int) -> tuple[int, int, int]:
        """Claim blocks of a generator."""
        seed, stream, first = run(generator, blocks)
        if not self._inside:
            self._drawn(generator, seed, stream, first, blocks)
        return seed, stream, first

    def _drawn(self, generator, seed: int, stream: int, first: int, blocks: int) -> Draw:
        if generator not in self.generators:
            self.generators[generator] = seed, stream, first
            self.ends[generator] = first
        self.raced |= self.ends[generator] != first
        self.ends[generator] = (first + blocks) % (1 << 64)
        draw = self.draws[seed, stream, first] = Draw(len(self.rows))
        self.rows.append((generator, (first - self.generators[generator][2]) % (1 << 64)))
        return draw

    def draw(self, run: Callable, function, xp, args: tuple, params: dict):
        """An array of random numbers from a generator, in a program by a call."""
        from deepcore import random

        if self._inside or xp is not self.backend:
            with self.paused():
                return run(function, xp, args, params)
        given = next((a for a in (*args, *params.values()) if isinstance(a, random.Generator)), None)
        generator = given or random.default_generator
        with self.paused(), random.lock:  # what is drawn between the two positions is this draw's
            seed, stream, first = generator.advance(0)
            array = run(function, xp, args, params)
            blocks = (generator.advance(0)[2] - first) % (1 << 64)
        draw = self._drawn(generator, seed, stream, first, blocks)

        def call(*, seed: int, stream: int, position: int):
            at = generator.at(seed, stream, position)
            if given is None:
                return run(function, xp, (at, *args[1:]), params)
            swap = lambda a: at if a is given else a
            return run(function, xp, tuple(map(swap, args)), {name: swap(a) for name, a in params.items()})

        if not _is_dense(array) or root(array) is not array:
            array = array.copy()
        self.records.append(Record(function.name, [], [self.own_ref(array)], call=call, draw=draw))
        return array


class _Forward:
    """An op's forward as a call: those results that have memory of their own."""

    __slots__ = ("enter", "fresh", "impl", "params", "xp")

    def __init__(self, impl, xp, params: dict, fresh: list[int], enter: Callable):
        self.impl, self.xp, self.params, self.fresh, self.enter = impl, xp, params, fresh, enter

    def __call__(self, *arrays, **words):
        params = {**self.params, **words} if words else self.params
        out = self.enter(self.impl, self.xp, *arrays, **params)
        out = out if isinstance(out, tuple) else (out,)
        return tuple(out[i] for i in self.fresh)


def settings_of(table: dict) -> dict:
    """What is said in a group of parameters, or by a schedule."""
    return {name: value for name, value in table.items() if name not in ("params", "param_names", "optimizer")}


def itself(x):
    return x


def _is_dense(array) -> bool:
    return array.flags.c_contiguous or array.flags.f_contiguous


#: Where an array without elements is.
_NOWHERE = Buffer("outside", 0), 0

_lock = locks.lock()
_recorders = 0
_construct = Tensor.__init__


def _construct_and_tell(self, data=None, *args, **kwargs) -> None:
    _construct(self, data, *args, **kwargs)
    if mode.tracer is not None:
        mode.tracer.made_tensors.add(id(self))
        mode.tracer.stranger(data)


@contextlib.contextmanager
def _constructions() -> Iterator[None]:
    """Inside, recorders hear of each tensor that is made."""
    global _recorders
    with _lock:
        _recorders += 1
        Tensor.__init__ = _construct_and_tell  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _recorders -= 1
            if not _recorders:
                Tensor.__init__ = _construct  # type: ignore[method-assign]


@contextlib.contextmanager
def _attached(tracer: Recorder | None, hook, enter) -> Iterator[None]:
    """Inside, `tracer` records what this thread does."""
    before = mode.tracer, mode.hook, mode.enter
    mode.tracer, mode.hook, mode.enter = tracer, hook, enter
    try:
        yield
    finally:
        mode.tracer, mode.hook, mode.enter = before


def user_line() -> str:
    """file:line of the innermost code outside of deepcore."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown place"


#: Folders of deepcore, its kernels and NumPy, and what decorates functions.
_OURS = (
    *(
        f"{Path(str(file)).resolve().parent}/"
        for file in (locks.__file__, plans.__file__, sys.modules["numpy"].__file__)
    ),
    contextlib.__file__,
    functools.__file__,
)
