"""Functions whose results are differentiated outside: a forward and a backward program from one recording.

While the function is recorded, so is `autograd.grad` of its results, for each set of results that may get a gradient.
Forward values that the backward records read are saved by the results' node.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations
from typing import Any

from deepcore.autograd import graph
from deepcore.autograd.engine import partial_gradients
from deepcore.autograd.function import OutputNode
from deepcore.autograd.graph import Node
from deepcore.backend import dtypes as dt
from deepcore.compiler.build import optimized, results_of
from deepcore.compiler.cpu import Target
from deepcore.compiler.ir import Record
from deepcore.compiler.record import Recorded, Recorder
from deepcore.compiler.runner import Results, run_all
from deepcore.compiler.timing import Timed, program, watch_of
from deepcore.effects import mode
from deepcore.errors import GradientError
from deepcore.kernels.codegen.jit import address
from deepcore.kernels.runtime.executable import Buffer, Executable, Ref, plan_memory
from deepcore.tensor import Storage, Tensor, from_raw

#: Differentiable results at most, as each set of them has a backward program of its own.
_MAX_RESULTS = 4


def is_differentiable(t: Any) -> bool:
    """Whether a result has a graph that is not yet freed."""
    if not isinstance(t, Tensor) or t._node is None:
        return False
    node = t._node.edges[0] if isinstance(t._node, OutputNode) else t._node
    return getattr(node, "saved", None) is not None


class Split:
    """The recorded backward passes of a function's results."""

    def __init__(self, recorder: Recorder, outputs: list[Tensor]):
        self.recorder, self.outputs = recorder, outputs
        #: Number of the first backward record; buffers of the results' gradients.
        self.cut = len(recorder.records)
        self.seeds: list[Buffer] = []
        #: By the numbers of the results that get a gradient: records, and places of the leaves' gradients.
        self.passes: dict[tuple[int, ...], tuple[list[Record], list[Ref | None]]] = {}
        self.leaves = _leaves(recorder, outputs)
        if len(outputs) > _MAX_RESULTS:
            recorder.note(f"more than {_MAX_RESULTS} results that may be differentiated")
        elif recorder.updates or recorder.grads or recorder.accumulated:
            recorder.note(
                "a result to be differentiated of a function that computes gradients itself: return it detached"
            )
        if recorder.fault is None:
            self._record()

    def _record(self) -> None:
        recorder, xp = self.recorder, self.recorder.backend
        seeds = [Tensor(recorder.seed(xp.ones(t.shape, dtype=t.dtype)), xp) for t in self.outputs]
        self.seeds = [recorder.ref(t._data).buffer for t in seeds]
        numbers = range(len(self.outputs))
        for chosen in (c for count in range(len(self.outputs), 0, -1) for c in combinations(numbers, count)):
            start = len(recorder.records)
            grads = partial_gradients([self.outputs[i] for i in chosen], self.leaves, [seeds[i] for i in chosen])
            refs = [None if g is None else recorder.ref(g._data) for g in grads]
            self.passes[chosen] = recorder.records[start:], refs
        del recorder.records[self.cut :]

    def release(self) -> None:
        """Free the recorded tensors and their graphs."""
        self.outputs, self.leaves = [], []
        self.recorder.inputs = [(buffer, None) for buffer, _ in self.recorder.inputs]
        self.recorder.arguments.clear()

    def saved(self) -> list[Ref]:
        """Buffers of forward records that the backward passes read."""
        computed = {buffer for record in self.recorder.records for buffer in record.writes()}
        read = [ref.buffer for records, refs in self.passes.values() for record in records for ref in record.ins]
        read += [ref.buffer for _, refs in self.passes.values() for ref in refs if ref is not None]
        saved = dict.fromkeys(buffer for buffer in read if buffer in computed and buffer.kind == "own")
        return [Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8) for buffer in saved]


def _leaves(recorder: Recorder, outputs: list[Tensor]) -> list[Tensor]:
    """The inputs of the results' graph: leaves, and arguments with a history."""
    histories = {id(t._node): t for t in recorder.arguments if t._node is not None}
    leaves: dict[Tensor, None] = {}
    visited: set[int] = set()
    queue: list[Any] = [t._node for t in outputs]
    while queue:
        node = queue.pop()
        if node is None or id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, Tensor):
            leaves[node] = None
        elif id(node) in histories:
            leaves[histories[id(node)]] = None
        elif node.id < recorder.first_node:
            recorder.note("a graph that was recorded before the function was called")
        else:
            queue.extend(node.edges)
    return list(leaves)


class Backward:
    """One backward program: from the gradients of some results to those of the leaves."""

    def __init__(
        self,
        recorder: Recorded,
        records: list[Record],
        refs: list[Ref | None],
        saved: list[Buffer],
        optimize: bool = True,
    ):
        #: Saved buffers of the forward program, to their buffers in this one.
        self.saved = {buffer: Buffer("bound", buffer.nbytes, None, f"saved{i}") for i, buffer in enumerate(saved)}
        renamed = {old: Ref(new, 0, (), (), None) for old, new in self.saved.items()}
        self.target = Target(recorder.backend, len(recorder.rows))
        program = optimized(
            recorder, [ref for ref in refs if ref is not None], self.target, records=records, renamed=renamed
        )
        grads = results_of(program, program.lasting[: sum(ref is not None for ref in refs)], "grad")
        #: For each leaf, whether it gets a gradient.
        self.reached = [ref is not None for ref in refs]
        self.results = Results(grads)
        steps = [step for record in program.records for step in self.target.lower(record)]
        size = plan_memory(steps, {ref.buffer for ref in grads})
        self.exe = Executable(steps, size)

    def run(self, arena, bound: list[tuple[Buffer, Any]], words, xp) -> list:
        """The gradients' arrays; None where a leaf has none."""
        exe = self.exe
        for buffer, array in bound:
            exe.bind(buffer, address(array))
        grads = self.results.bound(exe)
        self.target.words[...] = words
        exe.bind_own(arena.at_least(exe.size))
        watch = watch_of(mode.hook)
        if watch is None:
            status = run_all(exe)
        else:
            with program(watch, "backward") as event:
                timed = Timed(exe)
                status = timed.run_all()
                watch.memory.add(grads)
            timed.report(watch, event, exe.size)  # type: ignore[arg-type]
        if status:
            raise GradientError("the backward program stopped", fix="call the function itself to see why")
        arrays = iter(grads)
        return [next(arrays) if reached else None for reached in self.reached]


class Backwards:
    """The backward programs of a compiled function, each built when it is first needed."""

    def __init__(self, split: Split, arguments: list[Tensor], lock, arena):
        self.lock, self.arena = lock, arena
        self.recorded: Recorded = split.recorder
        self.xp = self.recorded.backend
        self.passes = split.passes
        self.saved = [ref.buffer for ref in split.saved()]
        places = {id(t): i for i, t in enumerate(arguments)}
        #: Leaves, or their numbers where they are arguments.
        self.leaves: list[Any] = [places.get(id(leaf), leaf) for leaf in split.leaves]
        self.like = [(t.shape, t.dtype) for t in split.outputs]
        self.arguments = [buffer for buffer, _ in split.recorder.inputs]
        self.seeds = split.seeds
        self.built: dict[tuple[int, ...], Any] = {}
        #: Whether the optimizing passes run.
        self.optimize = True
        read = {ref.buffer for records, _ in split.passes.values() for record in records for ref in record.ins}
        #: Tensors from outside that the backward passes read.
        self.outside = [t for b, (t, _) in split.recorder.outside.items() if b in read and t is not None]
        self.reads_arguments = [i for i, buffer in enumerate(self.arguments) if buffer in read]

    def program(self, chosen: tuple[int, ...]):
        program = self.built.get(chosen)
        if program is None:
            records, refs = self.passes[chosen]
            kind: Any = Backward
            if self.xp.name != "cpu":
                from deepcore.compiler.cuda import GraphBackward

                kind = GraphBackward
            program = self.built[chosen] = kind(self.recorded, records, refs, self.saved, self.optimize)
        return program

    def resized(self, recording) -> Backwards:
        """The backward programs of the same function at other sizes."""
        new = copy.copy(self)
        new.recorded, new.passes, new.saved, new.seeds = (
            recording.recorded, recording.passes, recording.saved, recording.seeds,
        )  # fmt: skip
        new.like, new.arguments, new.built = recording.like, [buffer for buffer, _ in recording.recorded.inputs], {}
        return new

    def gradients(self, chosen: tuple[int, ...], seeds: list, saved: list, arguments: list, words) -> list:
        with self.lock:
            program = self.program(chosen)
            bound = list(zip(program.saved.values(), saved))
            bound += zip(self.arguments, arguments)
            bound += [(self.seeds[i], array) for i, array in zip(chosen, seeds)]
            return program.run(self.arena, bound, words, self.xp)


class ProgramNode(Node):
    """The node of a compiled function's results; gradients arrive as {position: gradient} where there are several."""

    __slots__ = ("arguments", "backwards", "checks", "words")

    def __init__(self, backwards: Backwards, saved: list, arrays: list, tensors: list[Tensor], words):
        self.id = graph.next_id()
        self.backwards, self.saved, self.arguments, self.words = backwards, saved, arrays, words
        leaves = [tensors[leaf] if isinstance(leaf, int) else leaf for leaf in backwards.leaves]
        self.edges = tuple((t._node or t) if t._requires_grad else None for t in leaves)
        read = [*backwards.outside, *(tensors[i] for i in backwards.reads_arguments)]
        self.checks: list[tuple[Storage, int]] = [(s := t.storage(), s.version) for t in read]  # type: ignore[misc]
        self.hooks = self.op = self.params = self.out = self.storage = self.versions = None

    @property
    def name(self) -> str:
        return "CompiledBackward"

    def output(self, i: int) -> Node:
        return self if len(self.backwards.like) == 1 else OutputNode(self, i)  # type: ignore[arg-type]

    def backward(self, g) -> list:
        if self.saved is None:
            Node.backward(self, g)  # raises
        if mode.grad:
            raise GradientError(
                "the gradient of a compiled function is a program, which cannot be differentiated again",
                fix="call the function without dc.compile where create_graph=True is needed",
            )
        if any(storage.version != version for storage, version in self.checks):
            raise graph.stale(self.name, "a tensor that the function read or returned")
        gradients = {0: g} if len(self.backwards.like) == 1 else g
        chosen = tuple(sorted(gradients))
        xp = self.backwards.xp
        seeds = [xp.ascontiguousarray(gradients[i]._data) for i in chosen]
        arrays = self.backwards.gradients(chosen, seeds, self.saved, self.arguments, self.words)
        return [None if edge is None or a is None else from_raw(a, xp) for edge, a in zip(self.edges, arrays)]

    def free(self) -> None:
        self.saved = self.arguments = None  # type: ignore[assignment]


class FreedNode(Node):
    """The node of a result whose graph was freed: going backward through it raises."""

    __slots__ = ()

    def __init__(self, node: Node):
        self.id, self.op, self.edges = graph.next_id(), node.op, ()
        self.saved = self.hooks = self.params = self.out = self.storage = self.versions = None


def attach(results: list[Tensor], places: list[int], node: ProgramNode, shared: Callable[[Tensor], bool]) -> None:
    """Give results their node, and check versions of those over memory that the backward pass reads."""
    for position, i in enumerate(places):
        t = results[i]
        t._node, t._requires_grad = node.output(position), True
    for t in results:
        if shared(t):
            node.checks.append((t.storage(), t.storage().version))
