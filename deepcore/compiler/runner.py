"""A program with all it needs to run: guards, addresses, and what Python keeps beside the arrays."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from itertools import chain, repeat
from operator import attrgetter, call, is_, is_not
from typing import Any

from deepcore.compiler.build import Built
from deepcore.compiler.guards import Guards
from deepcore.compiler.same import Same
from deepcore.compiler.trace import Trace
from deepcore.kernels.codegen.jit import address, signed_words
from deepcore.kernels.runtime import allocator
from deepcore.random import give_back
from deepcore.tensor import Tensor, from_raw

_GRAD = repeat("grad")
_DATA, _GRAD_OF = attrgetter("_data"), attrgetter("grad")


class Arena:
    """Memory that the programs of one function take turns in."""

    def __init__(self):
        self.array: Any = None
        self.base = 0
        self.nbytes = 0

    def at_least(self, nbytes: int) -> int:
        if nbytes > self.nbytes:
            self.array = None
            self.array = allocator.empty(nbytes + 64, "u1")
            self.base = address(self.array) + 63 & -64
            self.nbytes = nbytes
        return self.base


class Stopped(Exception):
    """The program found something wrong before it changed anything: the function itself says what."""


class Runner:
    """Runs a program in the stead of the function it was made from."""

    def __init__(
        self, trace: Trace, built: Built, leaves: list[Tensor], given: list[Tensor], guards: Guards, arena: Arena
    ):
        self.arena, self.exe = arena, built.executable
        empty = trace.backend.array_module.empty
        self.outputs = [
            (ref.buffer, ref.shape, ref.dtype, empty if ref.nbytes < 1 << 20 else allocator.empty)
            for ref in built.outputs
        ]
        self.keep(trace, built.grads, leaves, given, guards)
        self._new_grads(range(len(leaves)))

    def keep(self, trace: Trace, grads: list, leaves: list[Tensor], given: list[Tensor], guards: Guards) -> None:
        """What Python keeps beside the arrays, whatever the program runs on."""
        self.backend, self.guards = trace.backend, guards
        #: What was found to be as it has to be, and the lists and dicts it was found in.
        self.same: Same | None = None
        self.roots: list = []
        #: Tells its look at settings from other programs'.
        self.token = object()
        #: Whether it has not run yet.
        self.fresh = True
        self.arguments = [buffer for buffer, _ in trace.given]
        #: The arrays that the arguments are bound to, which are not held; none: they have to be.
        self.bound: list | None = None
        watched = trace.watched()
        self.tensors, self.arrays = list(watched), list(watched.values())
        self.static, self.changed = trace._static, list(trace.before)
        self.updates = trace.updates
        known = set(self.tensors)
        for update in self.updates:
            more = [(t, a) for t, a in zip(update.plan.live, update.plan.weights) if t not in known]
            self.tensors += [t for t, _ in more]
            self.arrays += [a for _, a in more]
        #: Generators, the words that kernels read of them, and the blocks that a run draws.
        self.generators = [
            (g, state, (trace.ends[g] - first) % (1 << 64)) for g, ((_, _, first), state) in trace.generators.items()
        ]
        #: Tensors whose memory is written, and what counts that, as of the last look.
        self.written = list(dict.fromkeys([*trace.written, *(p for u in self.updates for p in u.plan.live)]))
        self.storages: list = []
        # Gradients: what they must be like before, and what they are afterwards.
        #: Arguments that are leaves: where among those that get a gradient, or lose theirs, and which argument.
        places = {id(t): i for i, t in enumerate(given)}
        self.given = [(i, places[id(t)]) for i, t in enumerate(leaves) if id(t) in places]
        self.leaves: list[Any] = [None if id(t) in places else t for t in leaves]
        self.none = [leaf for leaf, kind in trace.entry.items() if kind == "none" and id(leaf) not in places]
        #: Lists of an optimizer's parameters, and what is in them; those that no update took have no gradient.
        self.parameters = [
            (group["params"], list(group["params"])) for u in self.updates for group in u.optimizer.param_groups
        ]
        busy = {*trace.entry, *(p for u in self.updates for p in u.plan.live)}
        idle = dict.fromkeys(p for _, known in self.parameters for p in known if p not in busy and p.grad is None)
        self.none += idle
        #: Tensors that must have a gradient.
        self.some: list[Tensor] = []
        self.accumulated = list(trace.accumulated.items())
        self.grad_refs = grads
        self.held: list[Any] = []
        #: References to what is in `held` when a leaf has the gradient, and nobody else.
        self.expected = [_ONCE + 2] * len(leaves) + [_TWICE + 1] * len(leaves)
        self.grads: list[Any] = [None] * len(leaves)
        self.grad_arrays: list[Any] = [None] * len(leaves)
        self.cleared = [leaf for leaf in trace.entry if leaf.grad is None]

    # -- guards -------------------------------------------------------------------------------------------
    def misfit(self) -> str | None:
        """Why the program cannot stand for the function now, or None."""
        if self.same is not None and self.same.holds():
            return None
        misfit = self._misfit()
        if misfit is None:
            summed = [leaf.grad for leaf, _ in self.accumulated]
            self.storages = list(dict.fromkeys(t.storage() for t in chain(self.written, summed)))
            if not all(map(is_, self._roots(), self.roots)) or (self.same is not None and not self.same.renew()):
                self.expect()
                if self.same is not None:
                    self.same.renew()
        return misfit

    def _misfit(self) -> str | None:
        if self.moved():
            return "a tensor has other memory than before"
        if any(map(is_not, map(_GRAD_OF, self.none), repeat(None))):
            return "a gradient is there already"
        if any(map(is_, map(_GRAD_OF, self.some), repeat(None))):
            return "a gradient is gone"
        places = set()
        for leaf, _ in self.accumulated:
            grad = leaf.grad
            if grad is None:
                return "a gradient is gone"
            raw = grad._data
            if raw.shape != leaf._data.shape or raw.dtype != leaf._data.dtype or not _is_plain(raw):
                return "a gradient is of another kind"
            places.add(address(raw))
        if len(places) < len(self.accumulated):
            return "two parameters have one gradient"
        for update in self.updates:
            plan, optimizer = update.plan, update.optimizer
            if not plan.is_current(optimizer):
                return f"{type(optimizer).__name__} has other groups, states or settings"
        for now, known in self.parameters:
            if len(now) != len(known) or not all(map(is_, now, known)):
                return "an optimizer has other parameters"
        return self.guards.changed()

    def moved(self) -> bool:
        """Whether tensors have other memory than the program's."""
        return not all(map(is_, map(_DATA, self.tensors), self.arrays))

    def watch_gradients(self, tensors: Iterable[Tensor]) -> None:
        """Whether these have gradients, which the program does not touch, and Python may look at."""
        for t in tensors:
            (self.none if t.grad is None else self.some).append(t)

    def expect(self) -> None:
        """Make what is looked at before each run, but for what is there."""
        self.same, self.roots = None, self._roots()
        if self.accumulated:  # gradients that are anew in each run
            return
        places = self.guards.places()
        if places is None:
            return
        for update in self.updates:
            found = update.plan.places(update.optimizer)
            if found is None:
                return
            places.entries.extend(found[0])
            places.sized.extend(found[1])
        for now, known in self.parameters:
            places.sized.append(now)
            places.entries.extend((now, i) for i in range(len(known)))
        self.same = Same(places, self.tensors, self.none, self.some)

    def _roots(self) -> list:
        return [root for update in self.updates for root in (update.optimizer.param_groups, update.optimizer.state)]

    def check(self, trace: Trace, arrays: list, leaves: list) -> str | None:
        """Run once on copies of what was there before the function ran; what differs from what it left, or None."""
        exe, xp = self.exe, self.backend
        copies = trace.before
        for buffer, copy in copies.items():
            exe.bind(buffer, address(copy))
        for buffer, array in trace.given:
            exe.bind(buffer, address(copies.get(buffer, array)))
        results = [allocator.empty(shape, dtype) for _, shape, dtype, _ in self.outputs]
        for (buffer, *_), array in zip(self.outputs, results):
            exe.bind(buffer, address(array))
        exe.bind_own(self.arena.at_least(exe.size))
        status = exe.run()  # generators' words still are those that the trace started with
        if not status:
            function, words, part = exe.last()
            status = function(words, part)
        try:
            if status:
                return f"nothing (status {status})"
            pairs = [(f"result {i}", a, b) for i, (a, b) in enumerate(zip(results, arrays))]
            pairs += [
                (f"the gradient of a tensor of shape {leaf.shape}", t._data, leaf.grad._data)
                for leaf, t in zip(leaves, self.grads)
            ]
            for buffer, copy in copies.items():
                pairs.append((f"memory of shape {buffer.array.shape}", copy, buffer.array))
            for name, mine, theirs in pairs:
                if not _same_bits(xp, mine, theirs):
                    return name
            return None
        finally:
            for buffer in copies:
                if buffer.kind == "outside":
                    exe.bind(buffer, address(buffer.array))

    # -- running ------------------------------------------------------------------------------------------
    def __call__(self, arrays: list, tensors: list[Tensor]) -> list:
        """The returned tensors' arrays. Raises `Stopped`, with everything as it was, where a check failed."""
        exe = self.exe
        bind = exe.bind
        if self.bound is None or not all(map(is_, map(call, self.bound), arrays)):
            for buffer, array in zip(self.arguments, arrays):
                bind(buffer, address(array))
            self.bound = list(map(weakref.ref, arrays))
        for leaf, buffer in self.accumulated:
            bind(buffer, address(leaf.grad._data))  # type: ignore[union-attr]
        results = []
        for buffer, shape, dtype, empty in self.outputs:
            array = empty(shape, dtype)
            results.append(array)
            bind(buffer, address(array))
        attached = not self.grads or self._grads_are_free()
        exe.bind_own(self.arena.at_least(exe.size))
        claims: list = []
        try:
            for generator, state, blocks in self.generators:
                state[:] = signed_words(*generator.claim(blocks, claims))
            parts = exe.prepare()
            if len(parts) > 1 and exe.run():
                raise Stopped
            function, words, part = parts[-1]
            after = self.after(tensors, attached)
            if claims:
                after.append(map(call, (claims.clear,)))  # from here on the numbers count as drawn
            self.count_writes(1)
            # One call into C, which ends where the program stops: no signal's handler gets a turn in between.
            if any(chain(map(function, (words,), (part,)), *after)) if after else function(words, part):
                self.count_writes(-1)
                raise Stopped
        finally:
            if claims:
                give_back(claims)
        return results

    def count_writes(self, by: int) -> None:
        """Graphs that saved what is written must notice; where an exception comes first, they notice for nothing."""
        for storage in self.storages:
            storage.version += by

    def after(self, tensors: list[Tensor], attached: bool) -> list[Iterable]:
        """What Python keeps anew once the program has run, to be gone through; sets the scalars of this step.

        `attached`: the leaves have their gradients already.
        """
        after: list[Iterable] = []
        for update in self.updates:
            after += update.plan.after(update.optimizer, self.token)
        if not attached:
            leaves = self.leaves
            if self.given:
                leaves = list(leaves)
                for i, place in self.given:
                    leaves[i] = tensors[place]
            after.append(map(setattr, leaves, _GRAD, self.grads))
        if self.cleared:
            after.append(map(setattr, self.cleared, _GRAD, repeat(None)))
        return after

    def times(self, rounds: int = 5) -> list[float]:
        """Seconds of each step of the program, which runs on copies of what it changes."""
        exe, self.bound = self.exe, None
        held = [exe.array(ref) for ref in self.grad_refs]
        given = [
            allocator.empty(buffer.nbytes, "u1") for buffer in (*self.arguments, *(b for _, b in self.accumulated))
        ]
        for array in given:
            array[...] = 0
        results = [allocator.empty(shape, dtype) for _, shape, dtype, _ in self.outputs]
        copies = [buffer.array.copy() for buffer in self.changed]
        gradients = [allocator.empty(ref.shape, ref.dtype) for ref in self.grad_refs]
        buffers = [*self.arguments, *(b for _, b in self.accumulated), *(b for b, *_ in self.outputs), *self.changed]
        buffers += [ref.buffer for ref in self.grad_refs]
        try:
            for buffer, array in zip(buffers, (*given, *results, *copies, *gradients)):
                exe.bind(buffer, address(array))
            exe.bind_own(self.arena.at_least(exe.size))
            return exe.times(rounds)
        finally:
            for buffer in self.changed:
                if buffer.kind == "outside":
                    exe.bind(buffer, address(buffer.array))
            for ref, array in zip(self.grad_refs, held):
                exe.bind(ref.buffer, address(array))

    def _new_grads(self, which) -> None:
        """Other memory for these gradients."""
        for i in which:
            ref = self.grad_refs[i]
            array = allocator.empty(ref.shape, ref.dtype)
            self.grads[i], self.grad_arrays[i] = from_raw(array, self.backend), array
            self.exe.bind(ref.buffer, address(array))
        self.held = [*self.grads, *self.grad_arrays]

    def _grads_are_free(self) -> bool:
        """Whether the leaves have the gradients to be written, and nobody else has. Those that someone else holds are
        left alone: theirs gets other memory."""
        if not self.given and all(map(is_, map(_GRAD_OF, self.leaves), self.grads)):
            if list(map(sys.getrefcount, self.held)) == self.expected:
                return True
            attached = [True] * len(self.grads)
        else:
            attached = [not self.given and leaf.grad is g for leaf, g in zip(self.leaves, self.grads)]
        counts = list(map(sys.getrefcount, self.held))
        n = len(attached)
        free = [c == _ONCE + 1 + a and d == _TWICE + 1 for c, d, a in zip(counts[:n], counts[n:], attached)]
        self._new_grads([i for i in range(n) if not free[i]])
        return False


def _counted() -> tuple[int, int]:
    """What `sys.getrefcount`, mapped over a list, says of what is in that list alone, and of what is held once more."""
    one = [object()]
    held = [one[0]]
    (twice,) = map(sys.getrefcount, held)
    one.clear()
    (once,) = map(sys.getrefcount, held)
    return once, twice


_ONCE, _TWICE = _counted()


def _is_plain(array) -> bool:
    flags = array.flags
    return flags.carray if hasattr(flags, "carray") else flags.c_contiguous  # CuPy's are aligned and writeable


def _same_bits(xp, a, b) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    whole = f"u{a.dtype.itemsize}"
    a, b = (xp.ascontiguousarray(x).reshape(-1) for x in (a, b))
    return bool(((a.view(whole) == b.view(whole)) | ((a != a) & (b != b))).all())  # IEEE leaves a NaN's sign open
