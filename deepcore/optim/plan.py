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
from deepcore.tensor import Tensor

if TYPE_CHECKING:
    from deepcore.optim.optimizer import Optimizer

_STEP, _VERSION, _LATER = repeat("step"), repeat("version"), [2]
_DATA = attrgetter("_data")
_OWN = f"{__name__.partition('.')[0]}.optim"


class Plan:
    """What a step updates, for as long as nothing but values changes.

    Parameters that kernels can update are in `program`, in batches of one formula and dtype; the others are updated one
    by one by `Optimizer.apply`, with copies to go back to.
    """

    def __init__(self, optimizer: Optimizer, live: list[Tensor], counts: list[int], kernels: bool):
        self.live, self.counts, self.every_group = live, counts, list(optimizer.param_groups)
        #: Which compiled step's look at the groups' settings the scalars were made after; None: nobody's.
        self.settled: object | None = None
        #: Whether what formulas are chosen by is in the groups alone, as for our own.
        self.own = type(optimizer).__module__.startswith(_OWN)
        self.weights = [p._data for p in live]
        self.groups = [g for g, count in zip(optimizer.param_groups, counts) for _ in range(count)]
        #: What the step adds, besides new values: (dict, key, value).
        self.added: list[tuple[dict, Any, Any]] = []
        self.states = [self._state(optimizer, p) for p in live]
        #: The entries, by batch, and those of them whose state is made by this step.
        self.members: list[list[int]] = []
        self.first: set[int] = set()
        self.program: Program | None = None
        #: Whether `Optimizer.apply` is all there is to an update.
        self.formulas = kernels
        #: What a backend that updates many at once keeps from one step to the next.
        self.kept: dict = {}
        self.updates: list = []
        if kernels and settings.kernels:
            self.updates = [optimizer.update(group) for group in optimizer.param_groups]
            self._make_program(optimizer)
        inside = [i for members in self.members for i in members]
        self.others = sorted(set(range(len(live))) - set(inside))
        self.inside = [self.states[i] for i in inside]
        self.counted = bool(self.inside) and "step" in self.inside[0]
        self.whole = self.members == [list(range(len(live)))]
        #: Whether its norm is that of the same parameters by themselves: one table for each dtype.
        self.whole_norm = self.program is not None and not self.others and self.program.has_table_per_dtype

    def _state(self, optimizer: Optimizer, p: Tensor) -> dict[str, Any]:
        state = optimizer.state.get(p)
        if state is None:
            state = optimizer.init(p)
            self.added.append((optimizer.state, p, state))
        return state

    def _make_program(self, optimizer: Optimizer) -> None:
        chosen: dict[tuple, list[int]] = {}
        for i, (w, group) in enumerate(zip(self.weights, self.groups)):
            update, state = optimizer.update(group), self.states[i]
            arrays = [state[name] for name in update.states if state.get(name) is not None]
            if supports(w, *arrays) and ready(update, w.dtype):
                chosen.setdefault((w.dtype.itemsize, update), []).append(i)
        batches: list[Batch] = []
        added: list[tuple[dict, Any, Any]] = []
        self.spans: list[list[tuple[int, int, dict]]] = []
        for (_, update), members in sorted(chosen.items(), key=lambda item: item[0][0]):
            arrays = [self._arrays(i, update, added) for i in members]
            batches.append(Batch(update, [self.weights[i] for i in members], arrays))
            groups = [self.groups[i] for i in members]
            starts = [i for i, group in enumerate(groups) if not i or group is not groups[i - 1]]
            self.spans.append([(a, b, groups[a]) for a, b in zip(starts, [*starts[1:], len(groups)])])
            self.members.append(members)
        self.program = Program.of(batches) if batches else None
        if self.program is None:
            self.members = []
        else:
            self.added += added

    def _arrays(self, i: int, update, added: list) -> tuple:
        """The state arrays of an entry, those made that are not there yet."""
        state, found = self.states[i], []
        for name in update.states:
            array = state.get(name)
            if array is None:
                self.first.add(i)
                array = self.live[i].backend.zeros_like(self.weights[i])
                added.append((state, name, array))
            found.append(array)
        return tuple(found)

    def rouse(self) -> None:
        """Wake the threads while the step is being prepared."""
        if self.program is not None:
            self.program.rouse()

    def fits(self, optimizer: Optimizer, live: list[Tensor], counts: list[int]) -> bool:
        """Whether this is what a step would plan now; the program itself looks at sizes and dtypes."""
        by_formula = self.program is not None or (self.updates and any(self.kept.values()))
        if not by_formula or not settings.kernels or counts != self.counts:
            return False
        return all(map(is_, live, self.live)) and self._same_memory(optimizer)

    def _same_memory(self, optimizer: Optimizer) -> bool:
        """Whether groups, formulas, parameters' arrays and states are the same objects as when this was made."""
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
        for batch in () if self.program is None else self.program.batches:
            states = self.inside[at : at + len(batch.weights)]
            at += len(states)
            for name, arrays in zip(batch.update.states, batch.states):
                if not all(map(is_, map(dict.get, states, repeat(name)), arrays)):
                    return False
        return True

    def run(self, optimizer: Optimizer, gradients: list, clip: Clip | None = None, before: list | None = None) -> int:
        """All of the step, or nothing: 0, or why the program stopped. `clip` only where there are no `others`.

        `before` is a way back from what was done for this step already; it is emptied when there is none.
        """
        programs, counts = [], []
        if self.program is not None:
            if self.counted:
                counts = [state["step"] + 1 for state in self.inside]
            self.settled = None
            self._set_scalars(optimizer, counts)
            whole, members = self.whole, self.members
            program = self.program.prepared(
                [gradients] if whole else [[gradients[i] for i in part] for part in members], clip
            )
            if program is None:
                return MISFIT
            programs.append(program)
        log: list[tuple] = []
        undo = starmap(call, log)  # it reads the list when it runs
        try:
            last: Iterable[Callable] = ()
            if self.others:
                last = mode.context.copy().run(self._run_others, optimizer, gradients, log)
            storages = [p._storage or p.storage() for p in self.live]
            if clip is not None and clip.keep:
                storages += [p.grad.storage() for p in self.live]  # type: ignore[union-attr]
            versions = [storage.version + 1 for storage in storages]
            # One call into C, which ends where the program stops: no signal's handler gets a turn in between.
            stopped = any(
                chain(
                    *(map(function, (words,), (part,)) for function, words, part in programs),
                    map(call, last),
                    map(setitem, *zip(*self.added)) if self.added else (),
                    map(setitem, self.inside, _STEP, counts),
                    map(setattr, storages, _VERSION, versions),
                    map(setattr, (optimizer,), ("_stepped",), (True,)),
                    map(list.clear, (log,) if before is None else (log, before)),
                )
            )
            if stopped:
                deque(undo, 0)
        except BaseException:
            # The first call in here, and into C: a handler of a second signal gets its turn after it.
            deque(undo, 0)
            raise
        if stopped:
            return int(self.program.slots[STOPPED])  # type: ignore[union-attr]
        self.added, self.first = [], set()
        return 0

    # -- in a compiled step -----------------------------------------------------------------------------------
    def is_current(self, optimizer: Optimizer) -> bool:
        """Whether a compiled step that updates by this plan, of the same parameters in the same memory, does what `step()`
        would."""
        if not settings.kernels or not self._same_memory(optimizer):
            return False
        self.settled = None
        return True

    def places(self, optimizer: Optimizer) -> tuple[list[tuple], list] | None:
        """(dict or list, key) of all that `is_current` has seen, and what has a size; None: it has to be asked again."""
        if not self.own or not all(
            _is_fixed(value) for group in self.every_group for name, value in group.items() if name not in _LISTS
        ):
            return None
        groups = optimizer.param_groups
        found: list[tuple] = [(optimizer.__dict__, "param_groups"), (optimizer.__dict__, "state")]
        found += [(groups, i) for i in range(len(groups))]
        found += [(group, name) for group in groups for name in group]
        found += [(optimizer.state, p) for p in self.live]
        at = 0
        for batch in self.program.batches:  # type: ignore[union-attr]
            states = self.inside[at : at + len(batch.weights)]
            at += len(states)
            found += [(state, name) for name in batch.update.states for state in states]
        return found, [groups, *groups]

    def after(self, optimizer: Optimizer, token: object) -> list[Iterable]:
        """Sets this step's scalars; what is to be gone through once the program has run. `token`: the program's own, as
        several may share this plan and have seen other settings."""
        counts: list[int] = []
        if self.counted:
            counts = [state["step"] + 1 for state in self.inside]
            self._set_scalars(optimizer, counts)
        elif self.settled is not token:
            self.settled = None
            self._set_scalars(optimizer, counts)
            self.settled = token if self.own else None
        after: list[Iterable] = [map(setitem, self.inside, _STEP, counts)] if counts else []
        if not optimizer._stepped:
            after.append(map(setattr, (optimizer,), ("_stepped",), (True,)))
        return after

    def norm(self):
        """The norm of the gradients that the last program found, as a raw 0-d array."""
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
                known: dict[int, list[float]] = {}
                part = steps[start:stop]
                if part.count(part[0]) == stop - start:
                    table[start:stop] = values(optimizer.scalars(group, part[0]))
                    continue
                for i, step in enumerate(part, start):
                    if step not in known:
                        known[step] = values(optimizer.scalars(group, step))
                    table[i] = known[step]

    def _run_others(self, optimizer: Optimizer, gradients: list, log: list[tuple]) -> list[Callable[[], None]]:
        """Update them, with the way back in `log`; returns what is left to call, from which there is none."""
        last, left = self._together(optimizer, gradients) if self.formulas and settings.kernels else ([], self.others)
        for i in left:
            p, state = self.live[i], self.states[i]
            arrays = [self.weights[i], *(v for v in state.values() if isinstance(v, p.backend.array_type))]
            log[:0] = [*way_back(arrays), (dict.clear, state), (dict.update, state, dict(state))]
            optimizer.apply(p, gradients[i], state, self.groups[i])
        return last

    def _together(self, optimizer: Optimizer, gradients: list) -> tuple[list, list[int]]:
        """(calls that update those whose backend does many at once, and their states; the entries that are left)."""
        chosen: dict[tuple, list[int]] = {}
        for i in self.others:
            backend = self.live[i].backend
            if backend.array_type is not type(self.weights[i]) or not backend.kernel_kind:
                continue
            chosen.setdefault((backend, optimizer.update(self.groups[i]), self.weights[i].dtype), []).append(i)
        calls, done = [], set()
        for (backend, update, dtype), members in chosen.items():
            entries, states = [], []
            known: dict[tuple, list[float]] = {}
            for i in members:
                state, group = dict(self.states[i]), self.groups[i]
                key = id(group), optimizer.advance(self.live[i], state, update)
                values = known.get(key)
                if values is None:
                    values = known[key] = update.values(optimizer.scalars(group, key[1]))
                entries.append((self.weights[i], gradients[i], [state[name] for name in update.states], values))
                states.append(partial(self.states[i].update, state))
            launch = updates_together(backend, update, entries, self.kept.setdefault((backend, update, dtype), {}))
            if launch is not None:
                calls += [launch, *states]
                done.update(members)
        return calls, [i for i in self.others if i not in done]


_LISTS = {"params", "param_names"}


def _is_fixed(setting) -> bool:
    """Whether it says the same for as long as it is the same object."""
    if isinstance(setting, tuple):
        return all(map(_is_fixed, setting))
    return isinstance(setting, (int, float, str, type(None)))


def way_back(arrays: list) -> list[tuple]:
    """What to call to have the arrays as they are now."""
    return [(setitem, array, ..., array.copy()) for array in arrays if getattr(array.flags, "writeable", True)]
