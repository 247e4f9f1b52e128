"""Records the ops of a function, as records over places in memory, while it runs eagerly.

Values are identified by their array, memory by the array that owns it. Every op passes `autograd.apply`, which calls
`Recorder.enter` to run its forward; everything else (writes in place, gradients, updates, draws, checks) is reported
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
from deepcore.autograd.scopes import Scope, Scopes
from deepcore.compiler.control import Body, record_branch, record_branch_gradient, record_loop, record_repeat
from deepcore.compiler.ir import Draw, Origin, Record
from deepcore.compiler.symbolic import Conditions, plain
from deepcore.effects import mode
from deepcore.kernels import plan as plans
from deepcore.kernels.cpu import checks
from deepcore.kernels.runtime.executable import Buffer, Ref, address_of, root, span
from deepcore.ops.registry import PRIMITIVES
from deepcore.tensor import Tensor


class Fault(NamedTuple):
    """The reason why a function cannot be compiled, and the line."""

    reason: str
    place: str


class _Place(NamedTuple):
    """The address range of a buffer, from `low` to `high`; offsets count from `base`."""

    owner: Any
    low: int
    high: int
    base: int
    buffer: Buffer


class Update(NamedTuple):
    """An optimizer's step: its plan, the gradients in the plan's order, and the norm's place if it clips by that."""

    optimizer: Any
    plan: Any
    gradients: list[Ref]
    clip: Any
    norm: Ref | None = None


class Recorded:
    """What programs are built from: the records of a function, and the memory that they refer to."""

    def __init__(self, backend, inspector: Callable | None = None):
        self.backend = backend
        #: Called with each op and its results, as for `detect_anomaly`; the program then checks results.
        self.inspector = inspector
        self.records: list[Record] = []
        #: (buffer, array) of each argument, in order.
        self.inputs: list[tuple[Buffer, Any]] = []
        #: Pairs of arguments that share memory, and the bytes between their first elements: a place may count from either.
        self.neighbours: list[tuple[Buffer, Buffer, int]] = []
        #: Memory from before the function runs: the tensor through which it was read, and its array.
        self.outside: dict[Buffer, tuple[Tensor | None, Any]] = {}
        #: Arrays with the same content in every run.
        self.constants: dict[Buffer, Any] = {}
        #: Outside buffers that are written at the end: to the own buffer with their new content.
        self.redirected: dict[Buffer, Buffer] = {}
        self.updates: list[Update] = []
        #: The generator of each draw, and the blocks between the generator's first position and the draw's.
        self.rows: list[tuple[Any, int]] = []
        #: Count of indices out of range in programs on a GPU.
        self.range_errors: Any = None
        self._owners: dict[int, Buffer] | None = None

    def find(self, array) -> tuple[Buffer, int] | None:
        """The outside buffer that contains an array, and the array's offset there, or None."""
        owner = root(array)
        if self._owners is None:
            self._owners = {id(buffer.array): buffer for buffer in self.outside}
        buffer = self._owners.get(id(owner))
        return None if buffer is None else (buffer, address_of(array) - span(owner)[0])


class Recorder(Recorded):
    """Records a function. Methods named after effects take the function that performs the effect, and its operands."""

    def __init__(self, backend, inspector: Callable | None = None):
        super().__init__(backend, inspector)
        self.fault: Fault | None = None
        #: Buffers by id of the array that owns the memory. An argument's buffer spans the argument's elements only.
        self._places: dict[int, list[_Place]] = {}
        #: By id: arrays of tensors that neither an op nor an effect created.
        self._untracked: dict[int, Any] = {}
        #: The ids of tensors created while recording.
        self.new_tensors: set[int] = set()
        #: By id: other tensors through which it was read.
        self._other_readers: dict[int, tuple[weakref.ref, Any]] = {}
        self.arguments: set[Tensor] = set()
        #: Small constants by shape, strides, dtype and content.
        self._contents: dict[tuple, Any] = {}
        #: Redirected buffers whose new content shares a result's buffer, which may itself be written later.
        self.shared: dict[Buffer, None] = {}
        #: Copies of outside memory from before its first write.
        self.snapshots: dict[Buffer, Any] = {}
        #: Tensors whose version rises, one entry a write; arguments among them differ from run to run.
        self.written: list[Tensor] = []
        #: State of a leaf's `.grad` when first touched: "none", "tensor", or "any" where it was cleared first.
        self.entry: dict[Tensor, str] = {}
        #: Leaves that had a gradient before; where it is None later, the function has cleared it.
        self.had_grad: set[Tensor] = set()
        #: Gradients from before that are added to, bound anew in each run: leaf to buffer.
        self.accumulated: dict[Tensor, Buffer] = {}
        self.grads: dict[Tensor, Ref] = {}
        #: The parameters without a state before the last update.
        self._stateless: list[Tensor] = []
        #: Settings of optimizers at the time of their steps.
        self.settings: list[tuple[dict, dict]] = []
        self.updated: set[Buffer] = set()
        #: Norms that updates return, and their places.
        self.norms: dict[Tensor, Ref] = {}
        #: Generators drawn from: (seed, stream, position) before the first draw, and the position after the last.
        self.generators: dict[Any, tuple[int, int, int]] = {}
        self.ends: dict[Any, int] = {}
        #: Draws by (seed, stream, position): a row of the program's table; the blocks of each row.
        self.draws: dict[tuple[int, int, int], Draw] = {}
        self.blocks: list[int] = []
        #: Whether this run is no model for others: another thread drew from a generator meanwhile, or a check failed.
        self.exceptional = False
        self.bodies: list[Body] = []
        #: For the recorder of a body: that of the function around it, and that of the body whose gradient it is.
        self.context: list[Recorder] = []
        #: Keeps arrays alive, so that their ids are not reused.
        self._references: list[Any] = []
        #: What is decided by sizes that vary, or None where none do.
        self.conditions: Conditions | None = None
        self.first_node = graph.next_id()
        #: The modules of recorded nodes, by number, and of the op that runs.
        self.scopes = Scopes()
        self.node_scopes: dict[int, Scope] = {}
        self._origin: tuple[Origin, ...] = ()
        self._op: Any = None
        self._tensors: tuple = ()
        self.inside = False
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
        """Report what no program can repeat; the first report is the fault."""
        if not self.inside and self.fault is None:
            self.fault = Fault(what, user_line())

    def note_untracked(self, array) -> None:
        """Note that a tensor was constructed over an array by neither an op nor an effect."""
        if not self.inside and hasattr(array, "dtype") and hasattr(array, "base"):
            owner = root(array)
            if not self.knows(owner):
                self._untracked[id(owner)] = owner

    def knows(self, owner) -> bool:
        """Whether this recorder, or one that it records a step for, has registered the owner of some memory."""
        return id(owner) in self._places or any(recorder.knows(owner) for recorder in self.context)

    # -- memory -------------------------------------------------------------------------------------------
    def argument(self, tensor: Tensor) -> None:
        """Register an argument, whose memory is bound anew in each run."""
        array = tensor._data
        self.arguments.add(tensor)
        for buffer, other in self.inputs:
            if array is other:
                self.inputs.append((buffer, array))
                return
        buffer = Buffer("bound", array.nbytes, array, f"in{len(self.inputs)}")
        self.inputs.append((buffer, array))
        if array.size:
            self._add_input(buffer, array)

    def _add_input(self, buffer: Buffer, array) -> None:
        """Register memory that is bound anew in each run; offsets count from the array's first element."""
        owner, (low, high) = root(array), span(array)
        places = self._places.setdefault(id(owner), [])
        others = [place for place in places if low < place.high and place.low < high]
        if others and buffer.name == "seed":
            self.note("a gradient that shares memory")
        elif others and (self.conditions is not None or self.backend.name != "cpu"):
            self.note("two arguments that share memory")  # on a GPU, each has a copy of its own
        for place in others:
            self.neighbours.append((place.buffer, buffer, address_of(array) - place.base))
        places.append(_Place(owner, low, high, address_of(array), buffer))

    def seed(self, array):
        """Register the gradient of a result, which is bound anew in each run."""
        self._add_input(Buffer("bound", array.nbytes, array, "seed"), array)
        return array

    def constant(self, array) -> Buffer:
        """Register an array with the same content in every run."""
        buffer = self._outside(root(array), None, array)
        self.constants[buffer] = array
        return buffer

    def _outside(self, owner, tensor: Tensor | None, array) -> Buffer:
        low, high = span(owner)
        buffer = Buffer("outside", high - low, owner)
        places = self._places.setdefault(id(owner), [])
        if places:
            self.note("an argument that shares memory with what the function reads")
        places.append(_Place(owner, low, high, low, buffer))
        self._references.append(array)
        self.outside[buffer] = tensor, array
        return buffer

    def find(self, array) -> tuple[Buffer, int] | None:
        """The buffer that contains an array, and its offset there, or None."""
        if not array.size:
            return _NOWHERE
        places = self._places.get(id(root(array)))
        if places is None:
            return None
        start = address_of(array)
        if len(places) > 1 or places[0].buffer.kind == "bound":
            low, high = span(array)
            places = [place for place in places if place.low <= low and high <= place.high]
            if not places:
                return None
        return places[0].buffer, start - places[0].base

    def places(self, owner) -> list[_Place]:
        """The address ranges that are registered of some memory."""
        return self._places.get(id(owner), [])

    def ref(self, array, tensor: Tensor | None = None) -> Ref:
        """The place of an array with its current content; unregistered memory becomes outside memory."""
        if not array.size:
            return Ref(Buffer("outside", 0, array), 0, array.shape, array.strides, array.dtype)
        place = self.find(array)
        if place is None:
            owner = root(array)
            if self._is_constant(array):
                self.constants[self._outside(owner, None, array)] = array
            else:
                if id(owner) in self._untracked:
                    self.note("a tensor made outside of deepcore's operations: make the array an argument")
                self._outside(owner, tensor, array)
            place = self.find(array)
            assert place is not None
        buffer, offset = place
        if buffer in self.updated:
            self.note("reading what the optimizer's step has changed or made")
        elif tensor is not None and buffer in self.outside:
            reader = self.outside[buffer][0]
            if reader is None:
                self.outside[buffer] = tensor, array
            elif reader is not tensor:
                self._other_readers[id(tensor)] = weakref.ref(tensor), array
        return Ref(self.redirected.get(buffer, buffer), offset, array.shape, array.strides, array.dtype)

    def _is_constant(self, array) -> bool:
        """Whether it is one of the backend's cached 0-d constants."""
        constants = self.backend._constants
        if array.ndim:
            return False
        if len(self._constant_ids) != len(constants):
            self._constant_ids = set(map(id, constants.values()))
        return id(array) in self._constant_ids

    def watched(self) -> dict[Tensor, Any]:
        """Tensors over outside memory, and the arrays that they must keep."""
        readers = {t: array for t, array in self.outside.values() if t is not None}
        others = [(ref(), array) for ref, array in self._other_readers.values()]  # temporaries of the function are dead
        return readers | {t: array for t, array in others if t is not None and t._data is array}

    def own(self, array) -> Buffer:
        """A new buffer of the program for a newly allocated array."""
        owner = root(array)
        low, high = span(owner)
        buffer = Buffer("own", high - low, owner)
        self._places[id(owner)] = [_Place(owner, low, high, low, buffer)]
        return buffer

    def own_ref(self, array) -> Ref:
        """The place of a newly allocated array in a new buffer of the program."""
        return Ref(self.own(array), 0, array.shape, array.strides, array.dtype)

    def overlap(self) -> bool:
        """Whether memory that is written overlaps memory of another owner."""
        if not self.snapshots:
            return False
        spans = sorted(
            (place.low, place.high, place.buffer in self.snapshots)
            for places in self._places.values()
            for place in places
            if place.buffer.kind != "own" and place.high > place.low
        )
        end, written = 0, False
        for low, high, writes in spans:
            if low < end and (writes or written):
                return True
            written = writes if low >= end or high >= end else written
            end = max(end, high)
        return False

    def release(self) -> None:
        """Free the arrays of the recorded run: the program has memory of its own."""
        for body in self.bodies:
            body.release()
        self._references.clear()
        self._untracked.clear()
        self.snapshots.clear()
        for places in self._places.values():
            for place in places:
                if place.buffer.kind != "outside":
                    place.buffer.array = None
        self._places.clear()

    def forget(self) -> None:
        """Drop what the recorder of a body knows of tensors and of other recorders."""
        for table in (self.outside, self._other_readers, self.inputs, self.arguments, self.context):
            table.clear()  # type: ignore[attr-defined]

    # -- ops ----------------------------------------------------------------------------------------------
    def hook(self, op, inputs, params):
        if self.inside:
            return graph.run(op, inputs, params)
        if mode.backward and mode.node is not None and mode.node.id < self.first_node:
            self.note("a graph that was recorded before the function was called")
        if self.conditions is not None:
            params = plain(params)
        outer = self._op, self._tensors, self._origin
        scope = self._scope()
        self._op, self._tensors, self._origin = op, inputs, (Origin(op.label, mode.backward, scope),)
        try:
            result = graph.run(op, inputs, params)
        finally:
            self._op, self._tensors, self._origin = outer
        if scope is not None and not op.many and result._node is not None:
            self.node_scopes[result._node.id] = scope
        if self.inspector is not None:
            with self.paused():
                self.inspector(op, inputs, result)
        return result

    def _scope(self):
        """The module whose forward runs, or ran when it recorded the node whose gradient is computed; or None."""
        if mode.backward and mode.node is not None:
            for recorder in (self, *self.context):
                scope = recorder.node_scopes.get(mode.node.id)
                if scope is not None:
                    return scope
        return self.scopes.of(mode.layers)

    def enter(self, impl, xp, *arrays, **params):
        """Run a forward, and record it."""
        op = self._op
        if self.inside:
            return self._run(impl, xp, *arrays, **params)
        if op is None or xp is not self.backend:
            self.note("computing outside of deepcore's operations" if op is None else f"an operation on {xp}")
            return self._run(impl, xp, *arrays, **params)
        return self.compute(op, impl, arrays, params, self._tensors)

    def compute(self, op, impl, arrays: tuple, params: dict, tensors: tuple = ()):
        """Run an op's forward on arrays, record it and return its result."""
        xp = self.backend
        if any(isinstance(value, Tensor) for value in params.values()):
            self.note("a tensor where an operation takes a number")
        ins = [self.ref(a, t) for a, t in zip(arrays, tensors or (None,) * len(arrays))]
        self.inside = True
        try:
            out = self._run(impl, xp, *arrays, **params)
        finally:
            self.inside = False
        several = isinstance(out, tuple)
        results = [xp.asarray(a) for a in (out if several else (out,))]
        outs, fresh = [], []
        for i, array in enumerate(results):
            if self.find(array) is None and self._is_constant(array):
                self.ref(array)
            if self.find(array) is None:
                if span(root(array)) != span(array) or not _is_dense(array):
                    array = results[i] = array.copy("K")
                self.own(array)
                fresh.append(i)
            outs.append(self.ref(array))
        if fresh or op.raises:
            draw = self._draw_of(params)
            record = Record(op.label, ins, [outs[i] for i in fresh], op, params, kept=op.raises, draw=draw)
            record.call, record.origins = Forward(impl, xp, params, fresh, self._run), self._origin
            self.records.append(record)
        return tuple(results) if several else results[0]

    def _draw_of(self, params: dict) -> Draw | None:
        if "position" not in params or "seed" not in params:
            return None
        return self.find_draw(params["seed"], params["stream"], params["position"])

    def find_draw(self, seed: int, stream: int, position: int) -> Draw | None:
        """The draw from a position; where the gradient of a loop's step repeats one, it becomes a row of its own."""
        draw = self.draws.get((seed, stream, position))
        if draw is None:
            for recorder in self.context[1:]:
                draw = recorder.draws.get((seed, stream, position))
                if draw is not None:
                    self.rows.append(recorder.rows[draw.row])
                    draw = self.draws[seed, stream, position] = Draw(len(self.rows) - 1)
                    return draw
            self.note("random numbers that were drawn before the function was called")
        return draw

    # -- effects: tensors ---------------------------------------------------------------------------------
    def alias(self, run: Callable, tensor: Tensor):
        """Create another tensor over the memory of `tensor`."""
        self.ref(tensor._data, tensor)
        return run(tensor)

    def copied(self, run: Callable, tensor: Tensor):
        """Copy a tensor's values to a new array."""
        source = self.ref(tensor._data, tensor)
        array = run(tensor)
        if not self.inside and array.size:
            self.copy(self.own_ref(array), source)
        return array

    def from_data(self, run: Callable, array, backend):
        """Create a tensor over a new array of Python data, whose initial content is the same in every run."""
        if not self.inside and array.size:
            if span(root(array)) != span(array) or self.find(array) is not None:
                self.note("a tensor over memory that is not new")
            else:
                source = self.ref(self._content(array))
                self.copy(self.own_ref(array), source)
        return run(array, backend)

    def _content(self, array):
        """A constant with the content of an array; small ones of equal content are one, so that ops of them count as one."""
        key: tuple | None = None
        if array.nbytes <= _COMPARED and self.backend.name == "cpu":
            key = array.shape, array.strides, array.dtype, array.tobytes()
            if key in self._contents:
                return self._contents[key]
        content = array.copy("K")
        self.constant(content)
        if key is not None:
            self._contents[key] = content
        return content

    def copy(self, to: Ref, source: Ref) -> None:
        self.records.append(Record("copy", [source], [to], call=itself))

    def write(self, run: Callable, target: Tensor, raw, key, value, indices: tuple, dims: tuple) -> None:
        """raw[key] = value, in place; with `indices` at `dims`, the key is computed."""
        base = target._base[0] if target._base else target
        if base in self.arguments and mode.grad and (base._requires_grad or target._requires_grad):
            self.note("writing into an argument that requires a gradient")
        self.ref(raw)
        place = self.find(raw)
        if place is not None and place[0] in self.outside and self.outside[place[0]][0] is None:
            self.outside[place[0]] = base, base._data
        if dims:
            assign = PRIMITIVES["assign"]
            impl = self.backend.impls.get(assign) or self.backend.bind(assign)
            value = self.compute(assign, impl, (raw, value, *indices), {"steps": (), "dims": dims})
            key = (...,)
        self.store(raw[key], value)
        self.written.append(target)

    def store(self, to, source) -> None:
        """to[...] = source, for arrays."""
        source_ref = self.ref(source)
        self._unshare(self.ref(to).buffer)
        place = self.ref(to)
        buffer = place.buffer
        if buffer.kind in ("outside", "bound"):
            if buffer in self.constants:
                self.note("writing into a constant")
            self._before_write(buffer)
            whole = place.whole and source_ref.whole and source_ref.nbytes == place.nbytes
            if whole and source_ref.buffer.kind == "own" and source_ref.dtype == place.dtype:
                self.redirected[buffer] = source_ref.buffer
                self.shared[buffer] = None
            else:
                new = Buffer("own", buffer.nbytes, None, changing=True)
                self.redirected[buffer] = new
                old = Ref(buffer, 0, buffer.array.shape, buffer.array.strides, buffer.array.dtype)
                self.copy(Ref(new, 0, old.shape, old.strides, old.dtype), old)
                self._store(Ref(new, place.offset, place.shape, place.strides, place.dtype), source_ref)
        else:
            self._store(place, source_ref)
        with self.paused():
            to[...] = source.copy() if self.backend.may_share_memory(to, source) else source

    def _before_write(self, buffer: Buffer) -> None:
        """Take a snapshot of outside memory before its first write."""
        if any(buffer in pair for pair in self.neighbours):
            self.note("writing into arguments that share memory")
        if not _is_dense(buffer.array):  # a copy would have other strides than the recorded places
            self.note("writing into memory with gaps")
        self.snapshots.setdefault(buffer, buffer.array.copy("K"))

    def _unshare(self, buffer: Buffer) -> None:
        """Before a buffer is written, copy it for the outside buffers that are redirected to it."""
        for outside in [b for b in self.shared if self.redirected[b] is buffer]:
            del self.shared[outside]
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
        """Whether a tensor from before the function ran is written; a new view of such memory is a fault."""
        place = self.find(tensor._data)
        if place is None or place[0].kind != "outside" or place[0] not in self.redirected:
            return False
        if tensor not in self.watched():
            self.note("a result in memory that the function writes")
        return True

    # -- effects: gradients -------------------------------------------------------------------------------
    def clear(self, run: Callable, leaves: list[Tensor], to_none: bool) -> None:
        """Set gradients to None, or fill them with zeros."""
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
        self._bind_grad(leaf)
        if self.fault is None:
            grad = leaf.grad._data  # type: ignore[union-attr]
            zeros = self.backend.zeros_like(grad)
            self.constant(zeros)
            self.store(grad, zeros)
            leaf.grad.bump_version()  # type: ignore[union-attr]

    def _bind_grad(self, leaf: Tensor) -> None:
        """Register the gradient that a leaf had before, which is bound anew in each run."""
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
            buffer = self.accumulated[leaf] = Buffer("bound", grad._data.nbytes, grad._data)
            self._add_input(buffer, grad._data)

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
            self.entry.setdefault(leaf, "any" if leaf in self.had_grad else "none")
            if leaf in self.accumulated:
                self.note("a gradient that is taken away once something was added to it")
            aliased = (
                shared
                or ref.buffer.kind != "own"
                or not ref.whole
                or any(ref.buffer is other.buffer for other in self.grads.values())
                or not getattr(raw.flags, "writeable", True)
            )
            if aliased or raw.dtype != leaf._data.dtype:
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
        self._bind_grad(leaf)
        grad = leaf.grad._data
        if (grad.shape, grad.dtype) != (raw.shape, raw.dtype) or not grad.flags.c_contiguous:
            self.note("a gradient of another kind than the parameter")
        if self.fault is not None:
            with self.paused():
                run(leaf, totals, create_graph)
            return
        place = self.ref(grad)
        if place.buffer.kind == "bound":
            self.snapshots.setdefault(place.buffer, grad.copy())
        add = PRIMITIVES["add"]
        new = self.compute(add, self.backend.impls.get(add) or self.backend.bind(add), (grad, raw), {})
        new_ref = self.ref(new)
        if place.buffer.kind == "bound":
            self.redirected[place.buffer] = new_ref.buffer
        else:
            self._unshare(place.buffer)
            self._store(place, new_ref)
        grad[...] = new

    def gradients(self) -> tuple[list[Tensor], list[Ref]]:
        """Leaves whose final gradient the function computed, by a backward pass or itself, and its places."""
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
        """Clip gradients in place; the program calls `run` on copies."""
        places = {id(g._data): i for i, g in reversed(list(enumerate(gradients)))}
        function = run
        if len(places) < len(gradients):  # a gradient listed twice is clipped twice, as eagerly
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
        """A function of arrays that returns clipped copies, and the norm if `function`, which clips in place, does."""

        def run(*arrays):
            copies = [Tensor(a.copy(), self.backend) for a in arrays]
            norm = function(copies)
            return (*(t._data for t in copies), *([] if norm is None else [norm._data]))

        return run

    def norm(self, run: Callable, tensors: list[Tensor], checks: bool) -> Tensor:
        """The norm of tensors, which the program calls `run` for; `checks`: it may raise, so it runs even if unused."""

        def call(*arrays):
            return run([Tensor(a, self.backend) for a in arrays], checks)._data

        refs = [self.ref(t._data, t) for t in tensors]
        with self.paused():
            array = call(*(t._data for t in tensors))
        self.records.append(Record("norm", refs, [self.own_ref(array)], call=call, kept=checks))
        return Tensor(array, self.backend)

    # -- effects: checks ----------------------------------------------------------------------------------
    def finite(self, run: Callable, t: Tensor) -> bool:
        """Whether a number is finite; the program stops where it is not."""
        self._check("finite", [t], {})
        with self.paused():
            return run(t)

    def all_finite(self, run: Callable, tensors: list[Tensor]) -> bool:
        """Whether no tensor has a NaN or infinity; the program stops where one has."""
        self._check("all_finite", [t for t in tensors if t._data.size], {})
        with self.paused():
            finite = run(tensors)
        self.exceptional |= not finite  # what follows is not what the program does after the check
        return finite

    def within(self, run: Callable, t: Tensor, low: int, high: int) -> bool:
        """Whether low ≤ t < high for all elements; if so, the program stops where it is not."""
        low, high = plain(low), plain(high)
        with self.paused():
            inside = run(t, low, high)
        if inside and t._data.size and not self.inside:
            self._check("within", [t], {"low": low, "high": high})
        return inside

    def _check(self, name: str, tensors: list[Tensor], params: dict) -> None:
        refs = [self.ref(t._data, t) for t in tensors]
        if not self.can_check(name, refs):
            self.note(f"checking whether values are {name.replace('_', ' ')}")
        elif refs:
            self.records.append(Record(name, refs, [], params=params, kept=True))

    def can_check(self, name: str, refs: list[Ref]) -> bool:
        """Whether the device supports a check in a program: "finite", "all_finite", "within"."""
        return checks.available(name, refs)

    # -- effects: updates ---------------------------------------------------------------------------------
    def before_update(self, optimizer) -> tuple[list[Tensor], list[Ref]]:
        """The parameters that a step will update, and their gradients; takes snapshots of parameters and states."""
        live = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._stateless = [p for p in live if p not in optimizer.state]
        gradients = []
        for p in live:
            self._bind_grad(p)
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
        """Run and record a step of an optimizer."""
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
        if not self.mark_updated(optimizer, arrays):
            return result
        norm = None
        if result is not None:  # the norm can be returned but not read, as updates run last
            array = result._data.copy()
            norm = self.own_ref(array)
            self.updated.add(norm.buffer)
            result = Tensor(array, self.backend)
            self.norms[result] = norm
        self.updates.append(Update(optimizer, plan, gradients, clip, norm))
        return result

    def mark_updated(self, optimizer, arrays: list) -> bool:
        """Mark weights and states as updated: the function may not read them any more."""
        starts: dict[int, Any] = {}  # of states that this step has created; zeros where `init` has none
        for p in self._stateless:
            state = optimizer.state[p]
            starts |= {id(state[name]): value for name, value in optimizer.start(p).items() if name in state}
        for array in arrays:
            if not array.size:
                continue
            buffer = self.ref(array).buffer
            if buffer.kind != "outside":
                self.note("a parameter that the step wrote before its update")
                return False
            if buffer not in self.snapshots:
                start = starts.get(id(array))
                self.snapshots[buffer] = self.backend.zeros_like(buffer.array) if start is None else start
            self.updated.add(buffer)
        return True

    # -- effects: random numbers --------------------------------------------------------------------------
    def advance(self, run: Callable, generator, blocks: int) -> tuple[int, int, int]:
        """Claim blocks of a generator and record the draw."""
        seed, stream, first = run(generator, blocks)
        if not self.inside:
            self.add_draw(generator, seed, stream, first, blocks)
        return seed, stream, first

    def add_draw(self, generator, seed: int, stream: int, first: int, blocks: int) -> Draw:
        if generator not in self.generators:
            self.generators[generator] = seed, stream, first
            self.ends[generator] = first
        self.exceptional |= self.ends[generator] != first
        self.ends[generator] = (first + blocks) % (1 << 64)
        draw = self.draws[seed, stream, first] = Draw(len(self.rows))
        self.rows.append((generator, (first - self.generators[generator][2]) % (1 << 64)))
        self.blocks.append(blocks)
        return draw

    def draw(self, run: Callable, function, xp, args: tuple, params: dict):
        """Draw an array of random numbers from a generator; the program calls `run` for it."""
        from deepcore import random

        args, params = plain(args), plain(params)
        if self.inside or xp is not self.backend:
            with self.paused():
                return run(function, xp, args, params)
        argument = next((a for a in (*args, *params.values()) if isinstance(a, random.Generator)), None)
        generator = argument or random.default_generator
        with self.paused(), random.lock:  # the lock keeps other draws out from between the two positions
            seed, stream, first = generator.advance(0)
            array = run(function, xp, args, params)
            blocks = (generator.advance(0)[2] - first) % (1 << 64)
        draw = self.add_draw(generator, seed, stream, first, blocks)

        call = Drawn(run, function, xp, args, params, argument)
        if not _is_dense(array) or root(array) is not array:
            array = array.copy()
        self.records.append(Record(function.name, [], [self.own_ref(array)], call=call, draw=draw))
        return array

    # -- effects: control flow ----------------------------------------------------------------------------
    def loop(
        self, run: Callable, body: Callable, carry: list[Tensor], xs: list[Tensor], length: int, reverse: bool,
        graph: bool = False, node=None,
    ) -> tuple:  # fmt: skip
        """Run a loop, of which one step is recorded; see `ops.control_flow.iterate`."""
        return record_loop(self, run, body, carry, xs, plain(length), reverse, graph, node)

    def branch(self, run: Callable, pred: Tensor, branches: list, operands: list[Tensor]) -> tuple:
        """Run the branch that a value selects; both are recorded."""
        return record_branch(self, run, pred, branches, operands)

    def branch_gradient(self, run: Callable, graph, seeds: list[Tensor], closures: list, node) -> list:
        """Run the gradient of the branch that was selected; those of both are recorded."""
        return record_branch_gradient(self, run, graph, seeds, closures, node)

    def repeat(self, run: Callable, condition: Callable, body: Callable, val: list[Tensor]) -> list[Tensor]:
        """Run a loop whose length depends on values, of which condition and body are recorded."""
        return record_repeat(self, run, condition, body, val)


class Forward:
    """An op's forward as a call that returns the results with memory of their own."""

    __slots__ = ("enter", "fresh", "impl", "params", "xp")

    def __init__(self, impl, xp, params: dict, fresh: list[int], enter: Callable):
        self.impl, self.xp, self.params, self.fresh, self.enter = impl, xp, params, fresh, enter

    def __call__(self, *arrays, **words):
        params = {**self.params, **words} if words else self.params
        out = self.enter(self.impl, self.xp, *arrays, **params)
        out = out if isinstance(out, tuple) else (out,)
        return tuple(out[i] for i in self.fresh)


class Drawn:
    """A draw as a call; `argument`: the generator among its arguments, or None for the default one."""

    __slots__ = ("args", "argument", "function", "params", "run", "xp")

    def __init__(self, run: Callable, function, xp, args: tuple, params: dict, argument):
        self.run, self.function, self.xp, self.args, self.params, self.argument = (
            run,
            function,
            xp,
            args,
            params,
            argument,
        )

    def __call__(self, *, seed: int, stream: int, position: int):
        from deepcore import random

        argument = self.argument
        positioned = (argument or random.default_generator).at(seed, stream, position)
        if argument is None:
            return self.run(self.function, self.xp, (positioned, *self.args[1:]), self.params)
        swap = lambda a: positioned if a is argument else a
        params = {name: swap(a) for name, a in self.params.items()}
        return self.run(self.function, self.xp, tuple(map(swap, self.args)), params)


def settings_of(table: dict) -> dict:
    """The settings of a parameter group or a schedule."""
    return {name: value for name, value in table.items() if name not in ("params", "param_names", "optimizer")}


def itself(x):
    return x


def _is_dense(array) -> bool:
    return array.flags.c_contiguous or array.flags.f_contiguous


#: The place of arrays without elements.
_NOWHERE = Buffer("outside", 0), 0
#: Bytes up to which constants are compared by content.
_COMPARED = 1 << 14

_lock = locks.lock()
_recorders = 0
_construct = Tensor.__init__


def _construct_and_report(self, data=None, *args, **kwargs) -> None:
    _construct(self, data, *args, **kwargs)
    if mode.tracer is not None:
        mode.tracer.new_tensors.add(id(self))
        mode.tracer.note_untracked(data)


@contextlib.contextmanager
def _constructions() -> Iterator[None]:
    """Inside, constructing a tensor reports it to the thread's recorder."""
    global _recorders
    with _lock:
        _recorders += 1
        Tensor.__init__ = _construct_and_report  # type: ignore[method-assign]
    try:
        yield
    finally:
        with _lock:
            _recorders -= 1
            if not _recorders:
                Tensor.__init__ = _construct  # type: ignore[method-assign]


@contextlib.contextmanager
def _attached(tracer: Recorder | None, hook, enter) -> Iterator[None]:
    """Inside, `tracer` records this thread."""
    previous = mode.tracer, mode.hook, mode.enter
    mode.tracer, mode.hook, mode.enter = tracer, hook, enter
    try:
        yield
    finally:
        mode.tracer, mode.hook, mode.enter = previous


def user_line() -> str:
    """file:line of the innermost code outside of deepcore."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back  # type: ignore[assignment]
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "unknown place"


#: Folders of deepcore, its kernels and NumPy, and the files of decorators, which are skipped for the user's line.
_OURS = (
    *(
        f"{Path(str(file)).resolve().parent}/"
        for file in (locks.__file__, plans.__file__, sys.modules["numpy"].__file__)
    ),
    contextlib.__file__,
    functools.__file__,
)
