"""One step of an optimizer: everything is checked and allocated first, then all parameters and states change at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, repeat, starmap
from operator import attrgetter, call, is_, setitem
from typing import TYPE_CHECKING, Any

from deepcore.autograd import mode
from deepcore.config import settings
from deepcore.kernels.cpu.clip import Clip
from deepcore.kernels.cpu.optimizer import Batch, Program, ready, supports
from deepcore.kernels.cpu.parameter_table import MISFIT, STOPPED
from deepcore.kernels.update import updates_together
from deepcore.ops.parts import real_array
from deepcore.tensor import Tensor

if TYPE_CHECKING:
    from deepcore.optim.optimizer import Optimizer

_STEP, _VERSION, _LATER = repeat("step"), repeat("version"), [2]
_DATA = attrgetter("_data")
_OWN = f"{__name__.partition('.')[0]}.optim"


class Plan:
    """The updates of a step, valid until parameters, states, groups or formulas are replaced.

    `program` updates the parameters that kernels support, in batches of one formula and dtype; `Optimizer.apply` updates
    the others one by one, after copies for undo.
    """

    def __init__(self, optimizer: Optimizer, live: list[Tensor], counts: list[int], kernels: bool):
        self.live, self.counts, self.every_group = live, counts, list(optimizer.param_groups)
        #: The token of the compiled step that last set the scalars from the groups' settings; None: no such step.
        self.settled: object | None = None
        #: Whether the optimizer is deepcore's own, whose formulas depend on the groups alone.
        self.is_builtin = type(optimizer).__module__.startswith(_OWN)
        self.weights = [p._data for p in live]
        self.is_complex = any(w.dtype.kind == "c" for w in self.weights)
        #: The state arrays of each batch of the program, a list per name.
        self.columns: list[list[list]] = []
        self.groups = [g for g, count in zip(optimizer.param_groups, counts) for _ in range(count)]
        #: Entries that the step adds to dicts: (dict, key, value).
        self.added: list[tuple[dict, Any, Any]] = []
        self.states = [self._state(optimizer, p) for p in live]
        #: The entries of each batch, and the entries whose state this step creates.
        self.members: list[list[int]] = []
        self.first: set[int] = set()
        self.program: Program | None = None
        #: Whether updates are given by formulas rather than an overridden `Optimizer.apply`.
        self.by_formula = kernels
        #: Data that a backend with batched updates caches across steps.
        self.backend_cache: dict = {}
        self.updates: list = []
        if kernels and settings.kernels:
            self.updates = [optimizer.update(group) for group in optimizer.param_groups]
            self._make_program(optimizer)
        inside = [i for members in self.members for i in members]
        self.others = sorted(set(range(len(live))) - set(inside))
        self.inside = [self.states[i] for i in inside]
        self.counted = bool(self.inside) and "step" in self.inside[0]
        self.whole = self.members == [list(range(len(live)))]
        #: Whether the program's norm equals `clip_grad_norm_`'s: all parameters, one table for each dtype.
        self.has_total_norm = self.program is not None and not self.others and self.program.has_table_per_dtype

    def _state(self, optimizer: Optimizer, p: Tensor) -> dict[str, Any]:
        state = optimizer.state.get(p)
        if state is None:
            state = optimizer.start(p)
            self.added.append((optimizer.state, p, state))
        return state

    def _make_program(self, optimizer: Optimizer) -> None:
        grouped: dict[tuple, list[int]] = {}
        for i, (p, w, group) in enumerate(zip(self.live, self.weights, self.groups)):
            update, state = optimizer.update(group), self.states[i]
            arrays = [state[name] for name in update.states if state.get(name) is not None]
            w, *arrays = (real_array(p.backend, array) for array in (w, *arrays))
            if supports(w, *arrays) and ready(update, w.dtype):
                grouped.setdefault((w.dtype.itemsize, update), []).append(i)
        batches: list[Batch] = []
        added: list[tuple[dict, Any, Any]] = []
        self.spans: list[list[tuple[int, int, dict]]] = []
        for (_, update), members in sorted(grouped.items(), key=lambda item: item[0][0]):
            arrays = [self._arrays(i, update, added) for i in members]
            weights = [self._real(i, self.weights[i]) for i in members]
            batches.append(Batch(update, weights, [self._real_arrays(i, row) for i, row in zip(members, arrays)]))
            self.columns.append([list(column) for column in zip(*arrays)] if update.states else [])
            groups = [self.groups[i] for i in members]
            starts = [i for i, group in enumerate(groups) if not i or group is not groups[i - 1]]
            self.spans.append([(a, b, groups[a]) for a, b in zip(starts, [*starts[1:], len(groups)])])
            self.members.append(members)
        self.program = Program.of(batches) if batches else None
        if self.program is None:
            self.members = []
        else:
            self.added += added

    def _real(self, i: int, array):
        """An array of an entry as the program reads it: a complex one as its real and imaginary parts."""
        return real_array(self.live[i].backend, array) if self.is_complex else array

    def _real_arrays(self, i: int, arrays: tuple) -> tuple:
        return tuple(self._real(i, array) for array in arrays) if self.is_complex else arrays

    def _arrays(self, i: int, update, added: list) -> tuple:
        """The state arrays of an entry; missing ones are created and added to `added`."""
        state, arrays = self.states[i], []
        for name in update.states:
            array = state.get(name)
            if array is None:
                self.first.add(i)
                array = self.live[i].backend.zeros_like(self.weights[i])
                added.append((state, name, array))
            arrays.append(array)
        return tuple(arrays)

    def rouse(self) -> None:
        """Wake the threads while the step is being prepared."""
        if self.program is not None:
            self.program.rouse()

    def fits(self, optimizer: Optimizer, live: list[Tensor], counts: list[int]) -> bool:
        """Whether this plan is valid for the step; the program itself checks sizes and dtypes."""
        by_formula = self.program is not None or (self.updates and any(self.backend_cache.values()))
        if not by_formula or not settings.kernels or counts != self.counts:
            return False
        return all(map(is_, live, self.live)) and self._same_memory(optimizer)

    def _same_memory(self, optimizer: Optimizer) -> bool:
        """Whether groups, formulas, parameters' arrays and states are the same objects as when the plan was built."""
        groups = optimizer.param_groups
        return (
            len(groups) == len(self.every_group)
            and all(map(is_, groups, self.every_group))
            and all(map(is_, map(optimizer.update, groups), self.updates))
            and all(map(is_, map(_DATA, self.live), self.weights))
            and self._same_states(optimizer)
        )

    def _same_states(self, optimizer: Optimizer) -> bool:
        if not all(map(is_, map(optimizer.state.get, self.live), self.states)):
            return False
        at = 0
        for batch, columns in zip(() if self.program is None else self.program.batches, self.columns):
            states = self.inside[at : at + len(batch.weights)]
            at += len(states)
            for name, arrays in zip(batch.update.states, columns):
                if not all(map(is_, map(dict.get, states, repeat(name)), arrays)):
                    return False
        return True

    def run(self, optimizer: Optimizer, gradients: list, clip: Clip | None = None, undo_log: list | None = None) -> int:
        """Run the whole step, or change nothing: returns 0, or why the program stopped. `clip` needs a plan without `others`.

        `undo_log` reverts changes already made for this step; it is cleared once the step cannot be undone.
        """
        programs, counts = [], []
        if self.program is not None:
            if self.counted:
                counts = [state["step"] + 1 for state in self.inside]
            self.settled = None
            self._set_scalars(optimizer, counts)
            whole, members = self.whole, self.members
            if self.is_complex:
                gradients = [self._real(i, g) for i, g in enumerate(gradients)]
            program = self.program.prepared(
                [gradients] if whole else [[gradients[i] for i in part] for part in members], clip
            )
            if program is None:
                return MISFIT
            programs.append(program)
        log: list[tuple] = []
        undo = starmap(call, log)  # lazy: reads the list when it runs
        try:
            last: Iterable[Callable] = ()
            if self.others:
                last = mode.context.copy().run(self._apply_others, optimizer, gradients, log)
            storages = [p._storage or p.storage() for p in self.live]
            if clip is not None and clip.keep:
                storages += [p.grad.storage() for p in self.live]  # type: ignore[union-attr]
            versions = [storage.version + 1 for storage in storages]
            # One call into C, which ends where the program stops: no signal handler runs in between.
            stopped = any(
                chain(
                    *(map(function, (words,), (part,)) for function, words, part in programs),
                    map(call, last),
                    map(setitem, *zip(*self.added)) if self.added else (),
                    map(setitem, self.inside, _STEP, counts),
                    map(setattr, storages, _VERSION, versions),
                    map(setattr, (optimizer,), ("_stepped",), (True,)),
                    map(list.clear, (log,) if undo_log is None else (log, undo_log)),
                )
            )
            if stopped:
                deque(undo, 0)
        except BaseException:
            # The first call here enters C, so the handler of a second signal runs after it.
            deque(undo, 0)
            raise
        if stopped:
            return int(self.program.slots[STOPPED])  # type: ignore[union-attr]
        self.added, self.first = [], set()
        return 0

    # -- in a compiled step -----------------------------------------------------------------------------------
    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether a compiled step that runs this plan still equals `step()`: same parameters, memory and kernels."""
        if not settings.kernels or not self._same_memory(optimizer):
            return False
        self.settled = None
        return True

    def guarded(self, optimizer: Optimizer) -> tuple[list[tuple], list] | None:
        """((dict or list, key) of all objects that `is_current` checks, containers whose length counts), for a faster check
        by identity; None: `is_current` must run each time."""
        if not self.is_builtin or not all(
            _is_fixed(value) for group in self.every_group for name, value in group.items() if name not in _LISTS
        ):
            return None
        groups = optimizer.param_groups
        entries: list[tuple] = [(optimizer.__dict__, "param_groups"), (optimizer.__dict__, "state")]
        entries += [(groups, i) for i in range(len(groups))]
        entries += [(group, name) for group in groups for name in group]
        entries += [(optimizer.state, p) for p in self.live]
        at = 0
        for batch in self.program.batches:  # type: ignore[union-attr]
            states = self.inside[at : at + len(batch.weights)]
            at += len(states)
            entries += [(state, name) for name in batch.update.states for state in states]
        return entries, [groups, *groups]

    def after(self, optimizer: Optimizer, token: object) -> list[Iterable]:
        """Set this step's scalars; returns iterators to exhaust after the program has run. `token` identifies the program:
        several may share this plan, with other settings."""
        counts: list[int] = []
        if self.counted:
            counts = [state["step"] + 1 for state in self.inside]
            self._set_scalars(optimizer, counts)
        elif self.settled is not token:
            self.settled = None
            self._set_scalars(optimizer, counts)
            self.settled = token if self.is_builtin else None
        after: list[Iterable] = [map(setitem, self.inside, _STEP, counts)] if counts else []
        if not optimizer._stepped:
            after.append(map(setattr, (optimizer,), ("_stepped",), (True,)))
        return after

    def norm(self):
        """The norm of the gradients that the last program computed, as a raw 0-d array."""
        return self.program.norm()  # type: ignore[union-attr]

    def _set_scalars(self, optimizer: Optimizer, counts: list[int]) -> None:
        at = 0
        for batch, members, spans in zip(self.program.batches, self.members, self.spans):  # type: ignore[union-attr]
            values, table = batch.update.values, batch.scalars
            if self.counted:
                steps = counts[at : at + len(members)]
                at += len(members)
            else:
                steps = [1 if i in self.first else 2 for i in members] if self.first else _LATER * len(members)
            for start, stop, group in spans:
                values_by_step: dict[int, list[float]] = {}
                part = steps[start:stop]
                if part.count(part[0]) == stop - start:
                    table[start:stop] = values(optimizer.scalars(group, part[0]))
                    continue
                for i, step in enumerate(part, start):
                    if step not in values_by_step:
                        values_by_step[step] = values(optimizer.scalars(group, step))
                    table[i] = values_by_step[step]

    def _apply_others(self, optimizer: Optimizer, gradients: list, log: list[tuple]) -> list[Callable[[], None]]:
        """Update `others`, with undo calls in `log`; returns the final calls, which cannot be undone."""
        last, remaining = (
            self._batch_others(optimizer, gradients) if self.by_formula and settings.kernels else ([], self.others)
        )
        for i in remaining:
            p, state = self.live[i], self.states[i]
            arrays = [self.weights[i], *(v for v in state.values() if isinstance(v, p.backend.array_type))]
            log[:0] = [*restore_calls(arrays), (dict.clear, state), (dict.update, state, dict(state))]
            optimizer.apply(p, gradients[i], state, self.groups[i])
        return last

    def _batch_others(self, optimizer: Optimizer, gradients: list) -> tuple[list, list[int]]:
        """(calls that update entries and states on backends with batched updates; the remaining entries)."""
        grouped: dict[tuple, list[int]] = {}
        for i in self.others:
            backend = self.live[i].backend
            if backend.array_type is not type(self.weights[i]) or not backend.kernel_kind:
                continue
            grouped.setdefault((backend, optimizer.update(self.groups[i]), self.weights[i].dtype), []).append(i)
        calls, done = [], set()
        for (backend, update, dtype), members in grouped.items():
            entries, states = [], []
            values_by_key: dict[tuple, list[float]] = {}
            for i in members:
                state, group = dict(self.states[i]), self.groups[i]
                key = id(group), optimizer.advance(self.live[i], state, update)
                values = values_by_key.get(key)
                if values is None:
                    values = values_by_key[key] = update.values(optimizer.scalars(group, key[1]))
                entries.append((self.weights[i], gradients[i], [state[name] for name in update.states], values))
                states.append(partial(self.states[i].update, state))
            launch = updates_together(
                backend, update, entries, self.backend_cache.setdefault((backend, update, dtype), {})
            )
            if launch is not None:
                calls += [launch, *states]
                done.update(members)
        return calls, [i for i in self.others if i not in done]


_LISTS = {"params", "param_names"}


def _is_fixed(setting) -> bool:
    """Whether the setting is immutable."""
    if isinstance(setting, tuple):
        return all(map(_is_fixed, setting))
    return isinstance(setting, (int, float, str, type(None)))


def restore_calls(arrays: list) -> list[tuple]:
    """Calls that restore the current contents of the arrays."""
    return [(setitem, array, ..., array.copy()) for array in arrays if getattr(array.flags, "writeable", True)]
