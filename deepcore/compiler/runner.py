"""Runs a program: guards, bound addresses, and Python-side state such as gradients, versions and optimizer steps."""

from __future__ import annotations

import keyword
import sys
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import chain, pairwise, repeat
from operator import attrgetter, call, is_, is_not
from typing import Any

from deepcore.backend import dtypes as dt
from deepcore.compiler.build import Built, build
from deepcore.compiler.guards import PLAIN, Guards
from deepcore.compiler.record import Recorder
from deepcore.compiler.timing import Timed, program
from deepcore.kernels.codegen.jit import address, signed_words
from deepcore.kernels.runtime import allocator
from deepcore.kernels.runtime.executable import Buffer, OtherShape, Ref, span
from deepcore.random import give_back, reserved
from deepcore.tensor import Tensor, changes, from_raw

_GRAD = repeat("grad")
#: Guarded objects up to which they are compared by one expression.
_MAX_TERMS = 10_000
_DATA, _GRAD_OF = attrgetter("_data"), attrgetter("grad")


class _FastCheck:
    """A function that compares guarded objects by `is`: one expression, which takes a fifth of the time of a loop.

    `entries`: (dict or list, key), `attributes`: (object, name), `sized`: containers whose length counts.
    """

    def __init__(self, entries: list[tuple], attributes: list[tuple], sized: list):
        self.entries, self.attributes, self.sized = entries, attributes, sized
        self.values: list[Any] = []
        owners = list({id(owner): owner for owner, _ in (*entries, *attributes)}.values())
        number = {id(owner): i for i, owner in enumerate(owners)}
        keys = [key for _, key in entries if type(key) not in (int, str)]
        named = iter(range(len(keys)))
        terms = ["changes.count == version"]
        terms += [f"len(s{i}) == n{i}" for i in range(len(sized))]
        for i, (owner, key) in enumerate(entries):
            shown = repr(key) if type(key) in (int, str) else f"k{next(named)}"
            terms.append(f"o{number[id(owner)]}[{shown}] is v{i}")
        for i, (owner, name) in enumerate(attributes, len(entries)):
            place = f"o{number[id(owner)]}"
            plain = name.isascii() and name.isidentifier() and not keyword.iskeyword(name)
            terms.append(f"{place}.{name} is v{i}" if plain else f"getattr({place}, {name!r}) is v{i}")
        self.fixed = (changes, *sized, *owners, *keys)
        names = ["changes", *(f"s{i}" for i in range(len(sized))), *(f"o{i}" for i in range(len(owners)))]
        names += [*(f"k{i}" for i in range(len(keys))), "version", *(f"n{i}" for i in range(len(sized)))]
        names += [f"v{i}" for i in range(len(entries) + len(attributes))]
        scope: dict[str, Any] = {}
        exec(f"def passes({', '.join(names)}):\n    return {' and '.join(terms)}", scope)
        self.compare = scope.pop("passes")  # or the two would keep each other alive

    def renew(self, version: int) -> bool:
        """Expect the current objects, after a full check; False if they differ in more than numbers: build a new check."""
        try:
            values = [owner[key] for owner, key in self.entries]
            values += [getattr(owner, name) for owner, name in self.attributes]
        except (LookupError, AttributeError, ValueError, TypeError):
            return False
        if self.values and any(a is not b and type(a) not in PLAIN for a, b in zip(self.values, values)):
            return False
        self.values = values
        self.compare.__defaults__ = (*self.fixed, version, *map(len, self.sized), *values)
        return True


class Arena:
    """Memory that the programs of one function share; one program runs at a time."""

    def __init__(self):
        self.array: Any = None
        self.base = 0
        self.nbytes = 0

    def at_least(self, nbytes: int) -> int:
        if nbytes > self.nbytes:
            self.array, self.nbytes = None, 0
            self.array = allocator.empty(nbytes + 64, "u1")
            self.base = address(self.array) + 63 & -64
            self.nbytes = nbytes
        return self.base


class Stopped(Exception):
    """A check stopped the program before it changed anything; the function itself raises the error."""


class Overlap(Exception):
    """An argument overlaps memory that the program writes; the function itself runs."""


class Runner:
    """Runs a program in place of the function it was recorded from."""

    #: Attributes that depend on the sizes of the arguments.
    SIZED: tuple[str, ...] = (
        "exe", "target", "output_refs", "results", "arguments", "changed", "accumulated", "generators", "rows", "backwards",
        "grad_refs", "grads", "grad_arrays", "grad_objects",
    )  # fmt: skip

    def __init__(
        self,
        recorder: Recorder,
        built: Built,
        leaves: list[Tensor],
        arguments: list[Tensor],
        guards: Guards,
        arena: Arena,
    ):
        self.arena = arena
        self.exe: Any = built.executable
        self.target: Any = built.target
        self.output_refs = built.outputs
        self.results: Any = Results(built.outputs)
        self.init_state(recorder, built.grads, leaves, arguments, guards)
        self._new_grads(range(len(leaves)))

    def init_state(
        self, recorder: Recorder, grads: list, leaves: list[Tensor], arguments: list[Tensor], guards: Guards
    ) -> None:
        """Set up the Python-side state, which is the same on every device."""
        self.backend, self.guards = recorder.backend, guards
        #: Identifies this program to an optimizer's plan, which may be shared with programs of other settings.
        self.token = object()
        #: Calls, the recorded one included; checks that differed since the last reset; equal checks after them.
        self.calls, self.differences, self.clean = 1, 0, 0
        #: The number of the next call that is checked.
        self.next_check: float = 2
        #: Whether the program has not run yet.
        self.fresh = True
        self.arguments = [buffer for buffer, _ in recorder.inputs]
        #: Pairs of arguments, by number, that share memory, and the bytes between their first elements.
        self.neighbours = [
            (self.arguments.index(a), self.arguments.index(b), distance) for a, b, distance in recorder.neighbours
        ]
        #: Weak references to the arrays that the arguments are bound to; None: the program may be bound to other memory
        #: than its own, as where a check was interrupted.
        self.bound: list | None = None
        watched = recorder.watched()
        self.tensors, self.arrays = list(watched), list(watched.values())
        self.changed = list(recorder.snapshots)
        self.updates = recorder.updates
        watched_tensors = set(self.tensors)
        for update in self.updates:
            params = [(t, a) for t, a in zip(update.plan.live, update.plan.weights) if t not in watched_tensors]
            self.tensors += [t for t, _ in params]
            self.arrays += [a for _, a in params]
        #: Address ranges that are written, sorted.
        self.spans = sorted(
            span(buffer.array) for buffer in self.changed if buffer.kind == "outside" and buffer.array.size
        )
        #: Generators and the blocks that a run draws; for each draw its generator's number and offset.
        self.generators = [
            (g, (recorder.ends[g] - first) % (1 << 64)) for g, (_, _, first) in recorder.generators.items()
        ]
        numbers = {g: i for i, (g, _) in enumerate(self.generators)}
        self.rows = [(numbers[g], offset) for g, offset in recorder.rows]
        self.starts = list(recorder.generators.values())
        places = {id(t): i for i, t in enumerate(arguments)}
        #: Tensors whose memory is written, arguments by number; `storages`: their storages at the last full check.
        written = dict.fromkeys([*recorder.written, *(p for u in self.updates for p in u.plan.live)])
        bases = [(t._base[0] if t._base else t) for t in recorder.written]
        self.written = [t for t in written if id(t._base[0] if t._base else t) not in places]
        self.written_arguments = sorted({places[id(t)] for t in bases if id(t) in places})
        self.writes_arguments = any(buffer in recorder.redirected for buffer, _ in recorder.inputs)
        self.storages: list = []
        # Gradients: what a call requires of them, and what it leaves.
        #: Arguments that are leaves: (number among the leaves that get a gradient, number of the argument).
        self.argument_leaves = [(i, places[id(t)]) for i, t in enumerate(leaves) if id(t) in places]
        self.leaves: list[Any] = [None if id(t) in places else t for t in leaves]
        self.without_grad = [leaf for leaf, kind in recorder.entry.items() if kind == "none" and id(leaf) not in places]
        #: Parameter lists of optimizers with their items; parameters that no update covers have no gradient.
        self.parameters = [
            (group["params"], list(group["params"])) for u in self.updates for group in u.optimizer.param_groups
        ]
        covered = {*recorder.entry, *(p for u in self.updates for p in u.plan.live)}
        self.without_grad += dict.fromkeys(
            p for _, ps in self.parameters for p in ps if p not in covered and p.grad is None
        )
        #: Tensors that must have a gradient.
        self.with_grad: list[Tensor] = []
        self.accumulated = list(recorder.accumulated.items())
        self.grad_refs = grads
        self.grad_objects: list[Any] = []
        #: Reference counts of `grad_objects` when only the leaves hold the gradients.
        self.expected_refcounts = [_REFS_LISTED + 2] * len(leaves) + [_REFS_SHARED + 1] * len(leaves)
        self.grads: list[Any] = [None] * len(leaves)
        self.grad_arrays: list[Any] = [None] * len(leaves)
        self.cleared = [leaf for leaf in recorder.entry if leaf.grad is None]
        #: For differentiable results: the backward programs, the numbers of those results; the count of all results.
        self.backwards: Any = None
        self.places: list[int] = []
        self.count = len(self.output_refs)
        #: None before a full check passed, and where each call needs one.
        self._fast_check: _FastCheck | None = None
        #: For one of several sizes: the program of them all, and the `Variant` that is selected.
        self.sized: Any = None
        self.variant: Any = None

    # -- sizes --------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """What depends on the sizes of the arguments."""
        return {name: getattr(self, name) for name in self.SIZED}

    def select(self, variant) -> None:
        """Run for other sizes from now on."""
        self.variant.state = self.state()
        vars(self).update(variant.state)
        self.variant, self.bound = variant, None
        if any(map(is_, self.grad_arrays, repeat(None))):
            self._new_grads(range(len(self.grad_arrays)))

    def resized(self, recording, arrays: list) -> dict[str, Any] | None:
        """The state for a recording at the sizes of these arguments, or None where there is no program."""
        state = self._resized(recording)
        saved = [Ref(buffer, 0, (buffer.nbytes,), (1,), dt.uint8) for buffer in recording.saved]
        built = build(recording.recorded, [*recording.outputs, *saved], recording.grads)
        state |= {"exe": built.executable, "target": built.target, "grad_refs": built.grads}
        state |= {"output_refs": built.outputs, "results": Results(built.outputs)}
        if [ref.shape for ref in built.grads] != [ref.shape for ref in self.grad_refs]:
            state |= {name: [None] * len(built.grads) for name in ("grads", "grad_arrays")} | {"grad_objects": []}
        return state

    def _resized(self, recording) -> dict[str, Any]:
        """The part of the state that is the same on every device."""
        state, recorded = self.state(), recording.recorded
        state["arguments"] = [buffer for buffer, _ in recorded.inputs]
        state["changed"] = recording.changed
        state["accumulated"] = [(leaf, buffer) for (leaf, _), buffer in zip(self.accumulated, recording.accumulated)]
        numbers = {generator: i for i, (generator, _) in enumerate(self.generators)}
        state["rows"] = [(numbers[generator], offset) for generator, offset in recorded.rows]
        blocks = [0] * len(numbers)
        for (generator, _), count in zip(recorded.rows, recording.blocks):
            blocks[numbers[generator]] += count
        state["generators"] = [(generator, count) for (generator, _), count in zip(self.generators, blocks)]
        if self.backwards is not None:
            state["backwards"] = self.backwards.resized(recording)
        return state

    # -- guards -------------------------------------------------------------------------------------------
    def failed_guard(self) -> str | None:
        """The guard that fails, as a reason, or None where the program applies."""
        try:
            if (
                self._fast_check is not None
                and self._fast_check.compare()
                and not (self.without_grad and any(map(is_not, map(_GRAD_OF, self.without_grad), repeat(None))))
                and not (self.with_grad and any(map(is_, map(_GRAD_OF, self.with_grad), repeat(None))))
            ):
                return None
        except (LookupError, AttributeError, ValueError, TypeError):  # something has gone
            pass
        reason = self._check_guards()
        if reason is None:
            grads = [leaf.grad for leaf, _ in self.accumulated]
            self.storages = list(dict.fromkeys(t.storage() for t in chain(self.written, grads)))
            if self._fast_check is None or not self._fast_check.renew(self.guards.version):
                self._fast_check = self._new_fast_check()
        return reason

    def _new_fast_check(self) -> _FastCheck | None:
        """None where each call needs the full check: accumulated gradients are new arrays."""
        guards = self.guards
        entries = [(table, key) for table, key, _, _ in guards.entries]
        attributes = [(owner, name) for owner, name, _, _ in guards.attributes]
        sized = [container for container, _, _ in guards.lengths]
        for params, _ in self.parameters:
            sized.append(params)
            entries += [(params, i) for i in range(len(params))]
        for update in self.updates:
            guarded = update.plan.guarded(update.optimizer)
            if guarded is None:
                return None
            entries += guarded[0]
            sized += guarded[1]
        if self.accumulated or len(entries) + len(attributes) > _MAX_TERMS:
            return None
        check = _FastCheck(entries, attributes, sized)
        return check if check.renew(guards.version) else None

    def _check_guards(self) -> str | None:
        if self.moved():
            return "a tensor has other memory than before"
        if any(map(is_not, map(_GRAD_OF, self.without_grad), repeat(None))):
            return "a gradient is there already"
        if any(map(is_, map(_GRAD_OF, self.with_grad), repeat(None))):
            return "a gradient is gone"
        addresses = set()
        for leaf, _ in self.accumulated:
            grad = leaf.grad
            if grad is None:
                return "a gradient is gone"
            raw = grad._data
            if (
                raw.shape != leaf._data.shape
                or raw.dtype != leaf._data.dtype
                or not _is_plain(raw)
                or grad._requires_grad
            ):
                return "a gradient is of another kind"
            addresses.add(address(raw))
        if len(addresses) < len(self.accumulated):
            return "two parameters have one gradient"
        for update in self.updates:
            if not update.plan.is_current(update.optimizer):
                return f"{type(update.optimizer).__name__} has other groups, states or settings"
        for params, recorded in self.parameters:
            if len(params) != len(recorded) or not all(map(is_, params, recorded)):
                return "an optimizer has other parameters"
        return self.guards.changed()

    def moved(self) -> bool:
        """Whether tensors have other memory than the program is bound to."""
        return not all(map(is_, map(_DATA, self.tensors), self.arrays))

    def watch_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Guard whether these have gradients, which the program leaves alone but Python code may read."""
        for t in tensors:
            (self.without_grad if t.grad is None else self.with_grad).append(t)

    def related(self, arrays: list) -> bool:
        """Whether arguments share memory with each other as those did that the program was recorded with."""
        return all(address(arrays[j]) - address(arrays[i]) == distance for i, j, distance in self.neighbours)

    def overlaps(self, array) -> bool:
        """Whether an argument overlaps memory that the program writes."""
        low, high = span(array)
        i = bisect_left(self.spans, (high,))  # spans are disjoint, as their owners differ
        return i > 0 and low < self.spans[i - 1][1]

    def arguments_overlap(self, arrays: list) -> bool:
        """Whether arguments overlap one another where some are written, or other memory that is written."""
        if self.spans and any(map(self.overlaps, arrays)):
            return True
        if not self.writes_arguments:
            return False
        if any(not getattr(array.flags, "writeable", True) for array in arrays):  # CuPy's all are
            return True
        distinct = {id(array): array for array in arrays}.values()
        spans = sorted([*map(span, distinct), *(span(a) for a in self.arrays if a.size)])
        return any(stop > start for (_, stop), (start, _) in pairwise(spans))

    # -- checking -----------------------------------------------------------------------------------------
    def check(self, recorder: Recorder, arrays: list, leaves: list) -> str | None:
        """Run once on snapshots from before the function ran; the first difference from what it left, or None."""
        exe = self.exe
        copies = recorder.snapshots
        for buffer, copy in copies.items():
            exe.bind(buffer, address(copy))
        for buffer, array in recorder.inputs:
            exe.bind(buffer, address(copies.get(buffer, array)))
        results = self.results.bound(exe)
        self._set_draws(self.starts)
        exe.bind_own(self.arena.at_least(exe.size))
        if run_all(exe):
            return "the program stopped where the function did not"
        pairs = [(f"result {i}", a, b) for i, (a, b) in enumerate(zip(results, arrays)) if b is not None]
        pairs += [(_of(leaf), t._data, leaf.grad._data) for leaf, t in zip(leaves, self.grads)]  # type: ignore[union-attr]
        pairs += [(f"memory of shape {buffer.array.shape}", copy, buffer.array) for buffer, copy in copies.items()]
        return differing(self.backend, pairs)

    def compare(self, arrays: list, tensors: list[Tensor], run: Callable) -> tuple[Any, list | None, str | None]:
        """Run the program on copies of what it changes, then `run()`, whose effects and result count.

        Returns that result, the arrays that the program computed in its place (None: it stopped, which changes nothing), and
        what else differs, or None.
        """
        exe, bind = self.exe, self.exe.bind
        copies = {b: b.array.copy("K") for b in self.changed if b.kind == "outside"}
        accumulated = [leaf.grad._data.copy() for leaf, _ in self.accumulated]  # type: ignore[union-attr]
        gradients = [allocator.empty(ref.shape, ref.dtype) for ref in self.grad_refs]
        self.bound = None
        for buffer, copy in copies.items():
            bind(buffer, address(copy))
        changed = set(self.changed)
        written = {b: (array, array.copy("K")) for b, array in zip(self.arguments, arrays) if b in changed}
        for buffer, array in zip(self.arguments, arrays):
            bind(buffer, address(array))
        for buffer, (_, copy) in written.items():
            bind(buffer, address(copy))
        for (_, buffer), copy in zip(self.accumulated, accumulated):
            bind(buffer, address(copy))
        for ref, array in zip(self.grad_refs, gradients):
            bind(ref.buffer, address(array))
        results = self.results.bound(exe)
        exe.bind_own(self.arena.at_least(exe.size))
        for update in self.updates:
            update.plan.after(update.optimizer, object())
        with reserved(self.generators) as starts:  # another thread may draw between the two
            self._set_draws(starts)
            status = run_all(exe)
            returned = run()
        if status:
            return returned, None, None
        pairs = [(f"memory of shape {b.array.shape}", copy, b.array) for b, copy in copies.items()]
        pairs += [(f"an argument of shape {array.shape}", copy, array) for array, copy in written.values()]
        pairs += [(_of(leaf), grad, leaf.grad) for leaf, grad in zip(self._leaves(tensors), gradients)]
        cleared = set(self.cleared)
        pairs += [
            (_of(leaf), grad, leaf.grad)
            for (leaf, _), grad in zip(self.accumulated, accumulated)
            if leaf not in cleared
        ]
        return returned, results, self._difference(pairs)

    def _difference(self, pairs: list[tuple]) -> str | None:
        """The first of (name, program's array, function's array or gradient) that differs, or None."""
        for name, array, expected in pairs:
            expected = expected._data if isinstance(expected, Tensor) else expected
            if expected is None or not same_bits(self.backend, array, expected):
                return name
        return "a gradient that was taken away" if any(leaf.grad is not None for leaf in self.cleared) else None

    def _leaves(self, tensors: list[Tensor]) -> list[Tensor]:
        """The leaves that get a gradient in a call with these arguments."""
        if not self.argument_leaves:
            return self.leaves
        leaves = list(self.leaves)
        for i, place in self.argument_leaves:
            leaves[i] = tensors[place]
        return leaves

    def room_for_copies(self) -> bool:
        """Whether a check's copies are small beside free memory."""
        needed = sum(b.nbytes for b in self.changed) + sum(ref.nbytes for ref in (*self.grad_refs, *self.output_refs))
        return needed < 1 << 26 or needed < self.free_memory() // 4

    def free_memory(self) -> int:
        """Bytes that the device can still allocate."""
        return allocator.free_memory()

    def _rebind_own(self) -> None:
        """Bind what the program changes to the memory it was recorded with."""
        for buffer in self.changed:
            if buffer.kind == "outside":
                self.exe.bind(buffer, address(buffer.array))
        for ref, array in zip(self.grad_refs, self.grad_arrays):
            self.exe.bind(ref.buffer, address(array))

    def _set_draws(self, starts: list[tuple[int, int, int]]) -> None:
        words = self.target.words
        for row, (number, offset) in enumerate(self.rows):
            seed, stream, first = starts[number]
            words[row] = signed_words(seed, stream, (first + offset) % (1 << 64))

    def draw_words(self):
        """(seed, stream, position) of each draw of the last run."""
        return self.target.words.copy()

    # -- running ------------------------------------------------------------------------------------------
    def timed(self, watch, name: str, arrays: list, tensors: list[Tensor]) -> list:
        """As a call, with an event of a profile for each step."""
        with program(watch, name) as event:
            timed = Timed(self.exe)
            results = self(arrays, tensors, timed)
            watch.memory.add(results)
        timed.report(watch, event, self.exe.size)  # type: ignore[arg-type]
        return results

    def __call__(self, arrays: list, tensors: list[Tensor], timed: Timed | None = None) -> list:
        """The returned tensors' arrays. Raises `Stopped`, with everything as it was, where a check failed."""
        exe = self.exe
        bind = exe.bind
        if self.bound is None or not all(map(is_, map(call, self.bound), arrays)):
            if self.arguments_overlap(arrays):
                raise Overlap
            if self.bound is None:
                self._rebind_own()
            for buffer, array in zip(self.arguments, arrays):
                bind(buffer, address(array))
            self.bound = list(map(weakref.ref, arrays))
        for leaf, buffer in self.accumulated:
            bind(buffer, address(leaf.grad._data))  # type: ignore[union-attr]
        results = self.results.bound(exe)
        attached = not self.grads or self._grads_are_free()
        exe.bind_own(self.arena.at_least(exe.size))
        claims: list = []
        try:
            if self.generators:
                self._set_draws([generator.claim(blocks, claims) for generator, blocks in self.generators])
            parts = exe.prepare()
            try:
                if timed.run() if timed is not None else len(parts) > 1 and exe.run():
                    raise Stopped
            except OtherShape:
                raise Stopped from None
            function, words, part = parts[-1]
            after = self.after(tensors, attached)
            if claims:
                after.append(map(call, (claims.clear,)))  # from here on the numbers count as drawn
            self.count_writes(1, tensors)
            # One call into C, which ends where the program stops: no signal handler can run in between.
            if timed is not None:
                stopped = any(chain(timed.last(), *after))
            else:
                stopped = any(chain(map(function, (words,), (part,)), *after)) if after else function(words, part)
            if stopped:
                self.count_writes(-1, tensors)
                raise Stopped
        finally:
            if claims:
                give_back(claims)
        return results

    def count_writes(self, by: int, tensors: list[Tensor]) -> None:
        """Raise versions, so that graphs that saved what is written are stale, needlessly so after an exception."""
        for storage in self.storages:
            storage.version += by
        for i in self.written_arguments:
            tensors[i].storage().version += by

    def after(self, tensors: list[Tensor], attached: bool) -> list[Iterable]:
        """Python-side updates to apply after the run; sets the scalars of this step.

        `attached`: the leaves have their gradients already.
        """
        after: list[Iterable] = []
        for update in self.updates:
            after += update.plan.after(update.optimizer, self.token)
        if not attached:
            after.append(map(setattr, self._leaves(tensors), _GRAD, self.grads))
        if self.cleared:
            after.append(map(setattr, self.cleared, _GRAD, repeat(None)))
        return after

    def times(self, rounds: int = 5) -> list[float]:
        """Seconds of each step of the program, which runs on copies of what it changes."""
        exe, self.bound = self.exe, None
        bound = [*self.arguments, *(b for _, b in self.accumulated)]
        inputs = [allocator.zeros(high - low, "u1")[-low:] for low, high in self._extents(bound)]
        changed = [buffer for buffer in self.changed if buffer.kind == "outside"]  # the others are arguments
        copies = [buffer.array.copy("K") for buffer in changed]
        gradients = [allocator.empty(ref.shape, ref.dtype) for ref in self.grad_refs]
        buffers = [*bound, *changed]
        buffers += [ref.buffer for ref in self.grad_refs]
        results = self.results.bound(exe)
        for buffer, array in zip(buffers, (*inputs, *copies, *gradients)):
            exe.bind(buffer, address(array))
        exe.bind_own(self.arena.at_least(exe.size))
        times = exe.times(rounds)
        del results
        return times

    def _extents(self, buffers: list[Buffer]) -> list[tuple[int, int]]:
        """The bytes of each buffer that the steps reach, (first, end), counted from where it is bound."""
        extents = {buffer: (0, buffer.nbytes + 1) for buffer in buffers}
        for ref in chain.from_iterable((*step.ins, *step.outs) for step in self.exe.steps):
            if ref.buffer in extents and 0 not in ref.shape:
                reach = [stride * (n - 1) for n, stride in zip(ref.shape, ref.strides)]
                low, high = extents[ref.buffer]
                first = ref.offset + sum(r for r in reach if r < 0)
                end = ref.offset + sum(r for r in reach if r > 0) + ref.dtype.itemsize
                extents[ref.buffer] = min(low, first), max(high, end)
        return [extents[buffer] for buffer in buffers]

    def _new_grads(self, which) -> None:
        """Allocate new arrays for these gradients."""
        for i in which:
            ref = self.grad_refs[i]
            array = allocator.empty(ref.shape, ref.dtype)
            self.grads[i], self.grad_arrays[i] = from_raw(array, self.backend), array
            self.exe.bind(ref.buffer, address(array))
        self.grad_objects[:] = [*self.grads, *self.grad_arrays]  # programs of other sizes share the list

    def _grads_are_free(self) -> bool:
        """Whether the leaves alone hold the gradient arrays, which can then be overwritten; those that are referenced
        elsewhere are replaced by new arrays."""
        if not self.argument_leaves and all(map(is_, map(_GRAD_OF, self.leaves), self.grads)):
            if list(map(sys.getrefcount, self.grad_objects)) == self.expected_refcounts:
                return True
            attached = [True] * len(self.grads)
        else:
            attached = [not self.argument_leaves and leaf.grad is g for leaf, g in zip(self.leaves, self.grads)]
        counts = list(map(sys.getrefcount, self.grad_objects))
        n = len(attached)
        free = [
            c == _REFS_LISTED + 1 + a and d == _REFS_SHARED + 1 for c, d, a in zip(counts[:n], counts[n:], attached)
        ]
        self._new_grads([i for i in range(n) if not free[i]])
        return False


class Results:
    """Allocates the results of a program anew for each run; results in one buffer share memory."""

    def __init__(self, refs: list[Ref]):
        groups: dict[Buffer, list[Ref]] = {}
        for ref in dict.fromkeys(refs):
            groups.setdefault(ref.buffer, []).append(ref)
        self.memory = [_Memory(buffer, members) for buffer, members in groups.items()]
        numbers = {buffer: i for i, buffer in enumerate(groups)}
        #: For each result: the number of its memory, and its place there, or None where it fills it.
        self.views = [
            (i, None if self.memory[i].plain else ref) for i, ref in ((numbers[ref.buffer], ref) for ref in refs)
        ]
        #: Whether each result is an array of its own.
        self.separate = self.views == [(i, None) for i in range(len(self.memory))]

    def bound(self, exe) -> list:
        """New arrays for the results of a program's next run."""
        arrays = []
        for memory in self.memory:
            array = memory.empty(memory.shape, memory.dtype)
            exe.bind(memory.buffer, address(array))
            arrays.append(array)
        if self.separate:
            return arrays
        return [
            arrays[i] if ref is None else type(arrays[i])(ref.shape, ref.dtype, arrays[i].data, ref.offset, ref.strides)
            for i, ref in self.views
        ]


class _Memory:
    """How the results in one buffer are allocated."""

    def __init__(self, buffer: Buffer, refs: list[Ref]):
        self.buffer = buffer
        #: Whether it is one contiguous array.
        self.plain = len(refs) == 1 and refs[0].whole
        self.shape: Any = refs[0].shape if self.plain else buffer.nbytes
        self.dtype: Any = refs[0].dtype if self.plain else "u1"
        self.empty: Callable = allocator.small if buffer.nbytes < 1 << 20 else allocator.empty


def run_all(exe) -> int:
    """Run a program whose memory is bound; 0, or the status of the check that stopped it."""
    try:
        status = exe.run()
    except OtherShape:
        return -1
    if not status:
        function, words, part = exe.last()
        status = function(words, part)
    return status


def _of(leaf: Tensor) -> str:
    return f"the gradient of a tensor of shape {leaf.shape}"


def _refcounts() -> tuple[int, int]:
    """`sys.getrefcount`, mapped over a list, of an object in that list alone, and of one with another reference."""
    other = [object()]
    objects = [other[0]]
    (shared,) = map(sys.getrefcount, objects)
    other.clear()
    (listed,) = map(sys.getrefcount, objects)
    return listed, shared


_REFS_LISTED, _REFS_SHARED = _refcounts()


def _is_plain(array) -> bool:
    flags = array.flags
    return flags.carray if hasattr(flags, "carray") else flags.c_contiguous  # CuPy's are aligned and writeable


def differing(xp, pairs: list[tuple]) -> str | None:
    """The first of (name, program's array, function's array) whose bits differ, as a reason, or None."""
    name = next((name for name, array, expected in pairs if not same_bits(xp, array, expected)), None)
    return None if name is None else f"the program computed {name} otherwise than the function did"


def same_bits(xp, a, b) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = (xp.ascontiguousarray(x).reshape(-1) for x in (a, b))
    if a.dtype.kind == "c":
        a, b = (x.view(f"f{x.dtype.itemsize // 2}") for x in (a, b))
    bits = f"u{a.dtype.itemsize}"
    return bool(((a.view(bits) == b.view(bits)) | ((a != a) & (b != b))).all())  # IEEE leaves a NaN's sign open
