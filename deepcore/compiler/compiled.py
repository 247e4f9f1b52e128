"""`dc.compile`: a function that runs as one program where it can, and eagerly where it cannot."""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from operator import is_not
from typing import Any

from deepcore import config, locks
from deepcore.autograd import autocasting
from deepcore.autograd.graph import specify
from deepcore.autograd.trees import tree_map
from deepcore.backend import backend_of, get_backend
from deepcore.backend import dtypes as dt
from deepcore.compiler.build import build
from deepcore.compiler.dynamic import Dimensions, Family, Variant, sampled
from deepcore.compiler.guards import PLAIN, Guards, is_scalar, same
from deepcore.compiler.record import Fault, Recorder
from deepcore.compiler.runner import Arena, Overlap, Runner, Stopped, same_bits
from deepcore.compiler.sizes import Recording
from deepcore.compiler.split import Backwards, FreedNode, ProgramNode, Split, attach, is_differentiable
from deepcore.compiler.symbolic import Conditions, Size, following, plain
from deepcore.compiler.timing import program, watch_of
from deepcore.config import settings
from deepcore.effects import effect, mode
from deepcore.errors import ArgumentError, DeepcoreWarning
from deepcore.kernels.runtime import allocator, threadpool
from deepcore.kernels.runtime.executable import Ref, root
from deepcore.tensor import Tensor, as_tensor, from_raw

log = logging.getLogger("deepcore.compile")

#: Default number of programs that a compiled function caches.
PROGRAMS = 16
#: Runs per recording below which compiling does not pay, as a recording costs some ten calls; the second is for
#: functions that the user passed to `dc.compile`.
_MIN_RUNS_AUTOMATIC, _MIN_RUNS_EXPLICIT = 16, 0.5
#: Cached programs per key whose tensors have other memory now: weights may be swapped back and forth.
_KEPT_AFTER_REBIND = 1
#: Calls of a program that are checked: primes, as even numbers miss what changes with an even period.
_CHECKED_CALLS = (2, 3, 5, 11, 23, 47, 97, 199, 397, 797)
_CHECK_PERIOD = 997
#: Consecutive equal checks after a difference until the program is checked at the usual calls only.
_CLEAN_CHECKS = 4


class _Leaf:
    """Stands for output tensor `i` in a tree."""

    __slots__ = ("i", "node")

    def __init__(self, i: int, node: FreedNode | None = None):
        self.i = i
        #: The node of a result whose graph the function has already freed.
        self.node = node


class _Argument(_Leaf):
    """Stands for argument `i` in a tree of results."""

    __slots__ = ()


class _Alias:
    """Stands for a new tensor that aliases memory from outside the function."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor

    def create(self) -> Tensor:
        new = from_raw(self.tensor._data, self.tensor.backend)
        new._storage, new._base = self.tensor.storage(), self.tensor._base
        return new


class _Gradient:
    """Stands for the `.grad` of a tensor."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class Compiled:
    """What `dc.compile` returns: called like the function, with the same results to the bit.

    The first call with arguments of a kind runs the function, records it and builds a program; later calls of the kind
    run the program. `peak_memory` is the memory that the programs need.

    `automatic`: compiled without the user asking, so that failing to compile gives no warning, and the function is not
    recorded anew where that does not pay, as for batches of ever new sizes. `prepare()` is called before the function
    itself runs, and not before its programs: those change nothing where they stop.
    """

    def __init__(
        self,
        function: Callable,
        programs: int = PROGRAMS,
        automatic: bool = False,
        prepare: Callable[[], None] | None = None,
        side_effects: str = "always",
        dynamic=None,
    ):
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.programs = programs
        self.automatic = automatic
        self.prepare = prepare
        self.side_effects = side_effects
        self.dynamic = dynamic
        self._dimensions = Dimensions(function, dynamic) if dynamic else None
        #: Programs with the trees of their results, and for one of several sizes its variant.
        self._cache: OrderedDict[tuple, list[tuple[Runner, Any, Variant | None]]] = OrderedDict()
        #: By the part of the key that does not depend on sizes that vary.
        self._families: OrderedDict[tuple, Family] = OrderedDict()
        self._faults: dict[tuple, Fault] = {}
        #: Keys with which the function has changed Python state once, or a program has differed from it once.
        self._mutating: set[tuple] = set()
        self._mismatched: set[tuple] = set()
        self._arena = Arena()
        self._latest: tuple | None = None
        self._lock = locks.rlock()
        locks.call_after_fork(self)
        self._busy = self._warned = self._warned_retraces = False
        #: Numbers of recordings and of program runs.
        self.traces = self.runs = 0

    def __call__(self, *args, **kwargs):
        inspector = watch = None
        if mode.tracer is not None or mode.hook is not None or mode.transforms:
            inspector, watch = getattr(mode.hook, "inspector", None), watch_of(mode.hook)
            if (inspector is None and watch is None) or mode.tracer is not None or mode.transforms:
                return self._run_eagerly(*_with_tensors(args, kwargs))  # part of a larger program, or hooked op by op
        arrays: list[Any] = []
        tensors: list[Tensor] = []
        try:
            key = self._key(args, kwargs, arrays, tensors, inspector)
        except _RawArray:
            args, kwargs = _with_tensors(args, kwargs)
            arrays, tensors = [], []
            key = self._key(args, kwargs, arrays, tensors, inspector)
        with self._lock:
            if self._busy:  # a reentrant call: a signal handler, or recursion
                return self._run_eagerly(args, kwargs)
            try:
                self._busy = True
                reason = "these arguments are new"
                latest = self._latest is not None and key == self._latest[0]
                if not latest and self._dimensions is not None and inspector is None:
                    self._resize(key, args, kwargs, arrays, tensors)
                for runner, tree, variant in self._latest[1] if latest else self._cache.get(key, ()):  # type: ignore[index]
                    failed = runner.failed_guard()
                    if failed is not None:
                        reason = failed
                        continue
                    if runner.neighbours and not runner.related(arrays):
                        reason = "arguments share memory otherwise than before"
                        continue
                    if not latest:
                        self._cache.move_to_end(key)
                        self._latest = key, self._cache[key]
                    if variant is not runner.variant:
                        runner.select(variant)
                    runner.calls += 1
                    due = runner.calls >= runner.next_check and _is_due(runner)
                    if due or (variant is not None and not variant.checked):
                        with program(watch, f"check of {self._name}", "check"):
                            return self._checked(key, runner, tree, args, kwargs, arrays, tensors)
                    try:
                        if watch is None:
                            results = runner(arrays, tensors)
                        else:
                            results = runner.timed(watch, self._name, arrays, tensors)
                    except (Stopped, Overlap):
                        break
                    self.runs += 1
                    if runner.backwards is not None:
                        return self._differentiable(runner, tree, results, arrays, tensors)
                    if runner.fresh:  # the gradients of the recorded run are freed now
                        runner.fresh = False
                        allocator.release()
                    return _unflatten(tree, results, tensors, runner.backend)
                else:
                    if key not in self._faults:
                        traces = self.traces
                        with program(watch, f"compile {self._name}", "compile"):
                            result = self._record(key, args, kwargs, tensors, arrays, reason, inspector)
                        if self.traces != traces:  # recording allocated memory that the program does not use
                            allocator.release()
                        return result
                return self._run_eagerly(args, kwargs)
            finally:
                self._busy = False

    def _key(self, args, kwargs, arrays: list, tensors: list, inspector) -> tuple:
        """The cache key of a call; appends the tensors among the arguments, and their arrays, to the lists."""
        key: tuple = (
            mode.grad, mode.autocast, settings.kernels, settings.backend, config.conv_algorithm, dt.default_float.num,
            _structure(args, arrays, tensors), _structure(kwargs, arrays, tensors) if kwargs else None,
        )  # fmt: skip
        n = len(arrays)
        if n > 1 and (n > 2 or arrays[0] is arrays[1]) and len(set(map(id, arrays))) < n:
            key = (
                *key,
                *(tuple([next(j for j, b in enumerate(xs) if b is a) for a in xs]) for xs in (arrays, tensors)),
            )
        return key if inspector is None else (*key, "inspected")

    def _run_eagerly(self, args, kwargs):
        if self.prepare is not None:
            self.prepare()
        return self.function(*args, **kwargs)

    def after_fork(self) -> None:
        """Drop the call of another thread, which a forked child does not have."""
        self._busy = False

    # -- checking -----------------------------------------------------------------------------------------
    def _checked(self, key, runner: Runner, tree, args, kwargs, arrays: list, tensors: list[Tensor]):
        """Run the program on copies, then the function, and return the function's result; the two must be bit-equal."""
        if runner.arguments_overlap(arrays):
            return self._run_eagerly(args, kwargs)
        result, results, wrong = runner.compare(arrays, tensors, lambda: self._run_eagerly(args, kwargs))
        if results is None:
            return result
        if wrong is None:
            wrong = _difference(tree, result, results, tensors, runner.backend)
        self.runs += 1
        if runner.variant is not None and (wrong is not None or not runner.variant.checked):
            self._checked_sizes(key, runner, wrong)
            return result
        if runner.differences or wrong is not None:  # consecutive checks find intermittent differences
            runner.next_check = runner.calls + 1
        if wrong is None:
            runner.clean += 1
            if runner.clean >= _CLEAN_CHECKS:
                runner.differences = 0
            return result
        runner.differences, runner.clean = runner.differences + 1, 0
        log.info("%s: call %d of its program differs in %s", self._name, runner.calls, wrong)
        if runner.differences == 1:
            return result
        self._drop(key, runner)
        if key in self._mismatched:
            self._fall_back(
                key, Fault(f"it computes {wrong} otherwise than its program, again", "a check of its results")
            )
            return result
        self._mismatched.add(key)
        if not self.automatic:
            warnings.warn(
                f"{self._name} no longer computes what it did when it was compiled ({wrong}), so it is compiled again: what "
                "changes from call to call must be a tensor or an array among its arguments",
                DeepcoreWarning,
                stacklevel=3,
            )
        return result

    def _differentiable(self, runner: Runner, tree, results: list, arrays: list, tensors: list[Tensor]):
        """The results, with a node that runs the backward program."""
        saved = results[runner.count :]
        node = ProgramNode(runner.backwards, saved, arrays, tensors, runner.draw_words())
        owners = set(map(_memory, saved))
        outputs = [from_raw(array, runner.backend) for array in results[: runner.count]]
        _share_storage(outputs)
        attach(outputs, runner.places, node, lambda t: _memory(t._data) in owners)
        return _fill_leaves(tree, outputs, tensors)

    def _checked_sizes(self, key, runner: Runner, wrong: str | None) -> None:
        """Keep the program for sizes at which it has been checked, or leave those to programs of their own."""
        program, variant = runner.sized, runner.variant
        if wrong is None:
            program.passed(variant)
            return
        log.info("%s: the program for several sizes differs at %s in %s", self._name, variant.symbols, wrong)
        if program.failed(variant):
            self._drop(key, runner)
            return
        for family in self._families.values():
            family.programs = [other for other in family.programs if other is not program]
        for other in list(self._cache):
            self._drop(other, runner)

    def _resize(self, key, args, kwargs, arrays: list, tensors: list[Tensor]) -> None:
        """Add the program for several sizes that serves this call to its key, where no other does."""
        if any(runner.failed_guard() is None for runner, *_ in self._cache.get(key, ())):
            return
        family_key, sizes = _family(key, args, kwargs, self._dimensions)
        family = self._families.get(family_key)
        for member in family.programs if family is not None else ():
            if member.runner.failed_guard() is not None:
                continue
            variant = member.variant(sizes, arrays)
            if variant is not None:
                self._latest = None
                tree = member.tree if not variant.numbers else _with_numbers(member.tree, variant.numbers)
                self._cache.setdefault(key, []).append((member.runner, tree, variant))
                self._forget_variants(member)
                return

    def _forget_variants(self, program) -> None:
        """Drop the entries of variants that their program has dropped."""
        kept = set(map(id, program.variants.values()))
        for key, entries in list(self._cache.items()):
            if any(r is program.runner and id(v) not in kept for r, _, v in entries):
                self._drop(key, program.runner)

    def _drop(self, key, runner: Runner) -> None:
        self._latest = None
        self._cache[key] = [entry for entry in self._cache.get(key, ()) if entry[0] is not runner]
        if not self._cache[key]:
            del self._cache[key]

    # -- recording ----------------------------------------------------------------------------------------
    def _record(self, key, args, kwargs, tensors: list, arrays: list, reason: str, inspector: Callable | None):
        backend = _backend(tensors, arrays)
        if inspector is not None and backend is not None and backend.name != "cpu":
            backend = None
        if backend is None or not _compiles(backend):
            return self._run_eagerly(args, kwargs)
        most, ratio = (
            (self.programs, _MIN_RUNS_AUTOMATIC) if self.automatic else (2 * self.programs, _MIN_RUNS_EXPLICIT)
        )
        if self.traces >= most and self.runs < self.traces * ratio:
            if not self.automatic and not self._warned_retraces:
                self._warned_retraces = True
                log.warning("%s often runs eagerly: to record it each time does not pay (%s)", self._name, reason)
            return self._run_eagerly(args, kwargs)
        if self.traces:
            log.info("%s is recorded again: %s", self._name, reason)
        self.traces += 1
        guards = Guards(self.function, _static_args((args, kwargs)))
        recorder = _recorder(backend, inspector)
        recorder.had_grad = {
            leaf for runner, *_ in self._cache.get(key, ()) for leaf in runner.without_grad if leaf.grad is not None
        }
        items_before = [*_flat(args), *_flat(kwargs)]
        if self.prepare is not None:
            self.prepare()
        modes = mode.grad, mode.autocast
        if self._dimensions is not None and inspector is None:
            recorder.conditions = Conditions(tensors, self._dimensions.of(args, kwargs))
        with autocasting.separate_casts(), following(recorder.conditions), recorder.recording():
            for tensor in tensors:
                recorder.argument(tensor)
            result = self.function(*args, **kwargs)
            split = None
            if recorder.fault is None and mode.grad:
                differentiable = list({id(t): t for t in _leaves(result) if is_differentiable(t)}.values())
                split = Split(recorder, differentiable) if differentiable else None
            if recorder.conditions is not None and any(type(leaf) is Size for leaf in _flat(result)):
                result = _tree_map(plain, result)
        if (mode.grad, mode.autocast) != modes:
            recorder.note("leaving another mode of gradients or autocasting than there was")
        touched = {*recorder.entry, *(p for update in recorder.updates for p in update.plan.live)}
        if any(t.grad is not grad and t not in touched for t, grad in guards.tensors.items()):
            recorder.note("assigning a gradient")
        if guards.drawn():
            recorder.note("the function draws random numbers that are not deepcore's")
        items_after = [*_flat(args), *_flat(kwargs)]
        if len(items_after) != len(items_before) or any(map(is_not, items_after, items_before)):
            recorder.note("the function changes a list or dict among its arguments")
        if recorder.exceptional and recorder.fault is None:  # record in the next call
            return result
        changed = guards.overwritten(recorder.settings) or guards.changed()
        if changed and recorder.fault is None:
            if self.side_effects == "once":
                guards.ignore_changed()
            elif key not in self._mutating:  # it may be lazy initialisation, which happens once
                if len(self._mutating) > 256:
                    self._mutating.clear()
                self._mutating.add(key)
                return result
            else:
                recorder.note(f'the function changes Python state ({changed}; side_effects="once" accepts that)')
        outputs: list = []
        tree = _output_tree(result, recorder, outputs, tensors)
        if recorder.fault is None:
            family = None
            if recorder.conditions is not None:
                family = _family(key, args, kwargs, self._dimensions)
            self._build(key, recorder, guards, tree, outputs, tensors, split, family)
        if recorder.fault is not None:
            self._fall_back(key, recorder.fault)
        return result

    def _build(
        self, key, recorder: Recorder, guards: Guards, tree, outputs, tensors, split: Split | None, family: tuple | None
    ) -> None:
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
        sample = None
        if family is not None:
            facts = _facts(recorder, tree, leaves, tensors, split)
            places_of_grads = [recorder.grads[leaf] for leaf in leaves] if recorder.backend.name != "cpu" else grads
            recording = _recording(recorder, refs, places_of_grads, split, len(outputs))
            recording.numbers = _numbers(tree)
            assert recorder.conditions is not None
            sample = sampled(family[1], recording, facts, recorder.conditions)
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
        recorder.release()
        guards.watch(runner.tensors)
        if guards.reads_gradients:
            runner.watch_gradients(t for t in guards.tensors if t not in recorder.entry and t not in recorder.arguments)
        if split is not None:
            split.release()
        runner.next_check = _next_check(1)
        self._latest = None
        entries = self._cache.setdefault(key, [])
        for old in [r for r, *_ in entries if r.moved()][:-_KEPT_AFTER_REBIND]:
            entries[:] = [entry for entry in entries if entry[0] is not old]
        entries.append((runner, tree, None))
        self._cache.move_to_end(key)
        if sample is not None:
            assert family is not None
            self._add_sample(key, family[0], sample, runner, tree)
        self._evict()

    def _add_sample(self, key, family_key: tuple, sample, runner: Runner, tree) -> None:
        """Add a recording to its family; a program for several sizes replaces those of the sizes it was made from."""
        family = self._families.setdefault(family_key, Family())
        self._families.move_to_end(family_key)
        while len(self._families) > self.programs:
            self._families.popitem(last=False)
        sample.key = key
        found = family.add(sample, runner, tree)
        if found is None:
            return
        program, samples = found
        for other in samples:
            self._cache.pop(other.key, None)
        self._cache[key] = [(runner, tree, runner.variant)]
        log.info("%s: one program serves %s", self._name, program)

    def _evict(self) -> None:
        """Drop the programs that were used least recently."""
        recent: dict[int, Runner] = {}
        for entries in reversed(self._cache.values()):
            recent.update((id(runner), runner) for runner, *_ in reversed(entries) if id(runner) not in recent)
        for runner in list(recent.values())[self.programs :]:
            for key in [key for key, entries in self._cache.items() if any(r is runner for r, *_ in entries)]:
                self._drop(key, runner)
            for family in self._families.values():
                family.programs = [program for program in family.programs if program.runner is not runner]

    def _fall_back(self, key, fault: Fault) -> None:
        if len(self._faults) > 256:
            self._faults.clear()
        self._faults[key] = fault
        log.info("%s runs eagerly: %s, at %s", self._name, *fault)
        if not self.automatic and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name} cannot be compiled and runs eagerly: {fault.reason}, at {fault.place}",
                DeepcoreWarning,
                stacklevel=4,
            )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `dc.compile`."""
        return {"programs": self.programs, "side_effects": self.side_effects, "dynamic": self.dynamic}

    @property
    def _name(self) -> str:
        return getattr(self.function, "__qualname__", type(self.function).__name__)

    # -- inspecting ---------------------------------------------------------------------------------------
    @property
    def peak_memory(self) -> int:
        """Bytes of the arena that the programs share, as planned."""
        return max((r.exe.size for r in self._runners()), default=0)

    def _runners(self) -> list[Runner]:
        """The programs, each once, though it may serve several sizes."""
        return list({id(r): r for entries in self._cache.values() for r, *_ in entries}.values())

    def explain(self, file=None) -> None:
        """Print each program: its steps with their kernels, arithmetic, bytes and share of the time.

        The programs run a few times for that, on copies of what they change and on zeros for arguments. `file`: where
        to print (default: standard output). The Python source of generated kernels is next to the compiled ones, in the
        folder that `deepcore cache` names.
        """
        from deepcore.compiler import explain

        with self._lock:
            runners = self._runners()
            print(f"{self._name}: {len(runners)} programs, peak memory {self.peak_memory:,} bytes", file=file)
            for number, runner in enumerate(runners, 1):
                first, *lines = explain.table(runner)
                print(f"program {number}: {first}", *lines, sep="\n", file=file)
                if runner.sized is not None:
                    print(f"  serves {runner.sized}", file=file)
            for fault in self.faults:
                print(f"runs eagerly: {fault.reason}, at {fault.place}", file=file)

    @property
    def faults(self) -> list[Fault]:
        """Why calls run eagerly."""
        return list(self._faults.values())

    def __reduce__(self):  # a copy makes programs of its own
        return Compiled, (self.function, self.programs, self.automatic, self.prepare, self.side_effects, self.dynamic)

    def __repr__(self) -> str:
        return f"<compiled {self._name}: {len(self._runners())} programs>"

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        return functools.partial(self, instance)


def _next_check(calls: int) -> float:
    """The first call after number `calls` that is checked."""
    period = settings.compile_check
    if period is not None:
        return calls + 1 if period == 1 else -(-(calls + 1) // period) * period if period else math.inf
    return next((n for n in _CHECKED_CALLS if n > calls), (calls // _CHECK_PERIOD + 1) * _CHECK_PERIOD)


def _is_due(runner: Runner) -> bool:
    """Whether this call is checked: it is skipped where memory for the copies is short."""
    runner.next_check = _next_check(runner.calls)
    return runner.room_for_copies()


def compile(
    function: Callable | None = None,
    *,
    fullgraph: bool = False,
    dynamic=None,
    backend: str = "",
    mode: str | None = None,
    options: dict | None = None,
    disable: bool = False,
    programs: int = PROGRAMS,
    side_effects: str = "always",
):
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

    A Python loop is recorded step by step, with the number of steps that it had; `dc.scan` and `dc.fori_loop` are recorded
    once, `dc.while_loop` and `dc.cond` decide in each run.

    A function runs eagerly, with one warning that names the line, where no program can do what it does: it reads a
    tensor's value in Python, draws from another generator, makes a tensor outside of ops, or changes Python state.
    `side_effects="once"` accepts the last: such changes then happen only when the function itself runs, in the first call
    and in those that are checked. Calls 2, 3, 5, 11, 23, … 797 and every 997th run the program on copies and then the
    function itself, whose results count. After a difference each call is checked until four agree; a second one before
    that is a warning and a new program, and where that differs twice, too, the function runs eagerly.
    `DEEPCORE_COMPILE_CHECK` sets the period instead (0: never, 1: always). `programs`: how many are cached, the least
    recently used go first.

    Every new shape of an argument is a new program, unless `dynamic` names the dimensions whose lengths vary, by argument:
    `{"x": 1, "mask": (0, 1)}`, by position, `{0: 1}`, or, in containers, by path, `{"batch.x": 1}`, or as a structure like
    the argument; a dimension of a container is that of each tensor in it. `True`: any dimension that changes. Such a
    function is recorded at a few lengths. Once the earlier recordings predict the next one, a single program serves all
    lengths, without running the function: each whole number in the recordings, as in shapes, must be a polynomial of the
    lengths, each other number c·m, c/m, c·√m, c/√m or c·m/(m - 1) of a whole one. Lengths that Python compares or divides
    split the range: a branch or a remainder has a program of its own. Lengths 0 and 1, and those at which something else
    depends on the length, such as the number of steps of a Python loop, get one program each, as without `dynamic`. The
    first new lengths, and those far from the ones before, are checked as above, besides the usual calls.

    Of PyTorch's other arguments `disable=True` returns the function as it is; `fullgraph`, `backend`, `mode` and `options` are
    accepted and change nothing.

    Raises:
        ArgumentError: `dynamic` names an argument that the function does not have, no dimension, or, in a call, a
            dimension that a tensor does not have or an argument that is no tensor.
    """
    if side_effects not in ("always", "once"):
        raise ArgumentError('side_effects is "always" or "once"', received=repr(side_effects))
    if function is None:
        return functools.partial(
            compile, dynamic=dynamic, disable=disable, programs=programs, side_effects=side_effects
        )
    if not callable(function):
        raise ArgumentError("dc.compile takes a function or a module", received=type(function).__name__)
    if disable:
        return function
    if isinstance(function, Compiled) or hasattr(type(function), "_compiled"):
        return function
    if dynamic is not None and not isinstance(dynamic, (bool, dict)):
        raise ArgumentError(
            "dynamic= names the dimensions that vary",
            expected='a dict such as {"x": 1, "mask": (0, 1)}, True or False',
            received=repr(dynamic),
        )
    compiled = Compiled(function, programs, side_effects=side_effects, dynamic=dynamic or None)
    as_module = getattr(function, "_compiled_as", None)
    return compiled if as_module is None else as_module(compiled)


class NotFinite(Exception):
    """Raised by `finite`."""

    def __init__(self, value: float):
        super().__init__(value)
        self.value = value


def finite(t: Tensor):
    """The value of a tensor of one element, or the tensor while recording; raises `NotFinite` for a NaN or infinity.

    A program stops at such a value before it changes anything, and the function runs instead and raises.
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
    """An argument is a raw array and must be wrapped as a tensor."""


def _structure(tree, arrays: list, tensors: list):
    """The part of the key for a tree of arguments; appends its arrays and tensors to the lists."""
    if isinstance(tree, Tensor):
        raw = tree._data
        arrays.append(raw)
        tensors.append(tree)
        if tree.__class__ is Tensor and not tree._requires_grad:
            # Arrays of other devices than the CPU share a spec.
            is_cpu = tree.backend.name == "cpu"
            return (tree._spec or specify(tree)) if is_cpu else (raw.shape, raw.strides, raw.dtype, tree.backend)
        if tree._requires_grad:
            return (
                raw.shape,
                raw.strides,
                raw.dtype,
                tree.backend,
                tree._node is not None,
                tree.grad is None,
                _python_state(tree),
            )
        return raw.shape, raw.strides, raw.dtype, tree.backend, _python_state(tree)
    kind = tree.__class__
    if isinstance(tree, (list, tuple)):  # the containers of `tree_map`
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


def _family(key: tuple, args, kwargs, dimensions) -> tuple[tuple, tuple[int, ...]]:
    """A call's key without the sizes that vary, and those sizes."""
    marks, sizes = iter(dimensions.of(args, kwargs)), []

    def part(tree):
        if isinstance(tree, Tensor):
            raw, dims = tree._data, next(marks) or ()
            sizes.extend(raw.shape[d] for d in dims)
            shape = tuple([-1 if d in dims else n for d, n in enumerate(raw.shape)])
            state = (tree._requires_grad, tree._node is not None, tree.grad is None, _python_state(tree))
            return shape, None if raw.flags.c_contiguous else raw.strides, raw.dtype, tree.backend, state
        if isinstance(tree, (list, tuple)):
            return (tree.__class__, *map(part, tree))
        if isinstance(tree, dict):
            return (tree.__class__, *[(k, part(v)) for k, v in tree.items()])
        return _structure(tree, [], [])

    return (*key[:_SIZELESS], part(args), part(kwargs), *key[_SIZELESS + 2 :]), tuple(sizes)


#: Entries of a key before those of the arguments.
_SIZELESS = 6


def _recording(recorder: Recorder, refs: list[Ref], grads: list[Ref], split: Split | None, count: int) -> Recording:
    recording = Recording(recorder, refs[:count], grads, list(recorder.snapshots), list(recorder.accumulated.values()))
    recording.blocks = recorder.blocks
    if split is not None:
        recording.passes, recording.seeds = split.passes, split.seeds
        recording.saved = [ref.buffer for ref in refs[count:]]
        recording.like = [(t.shape, t.dtype) for t in split.outputs]
    return recording


def _facts(recorder: Recorder, tree, leaves: list[Tensor], tensors: list[Tensor], split: Split | None) -> tuple:
    """What two recordings must have in common besides their records, for one runner to serve both."""
    places = {id(t): i for i, t in enumerate(tensors)}

    def named(found: Iterable) -> tuple:
        return tuple([places.get(id(t), ("o", id(t))) for t in found])

    results: list = []

    def note(leaf):
        if leaf.__class__ in (_Leaf, _Argument):
            results.append((leaf.__class__, leaf.i, leaf.node is None))
        elif isinstance(leaf, (_Gradient, _Alias)):
            results.append((leaf.__class__, *named([leaf.tensor])))
        else:
            results.append(type(leaf) if type(leaf) is int else _plain(leaf))
        return leaf

    _tree_map(note, tree)
    written = [t._base[0] if t._base else t for t in recorder.written]
    return (
        tuple(results), named(leaves), named(recorder.entry), tuple(recorder.entry.values()), named(recorder.accumulated),
        named(written), tuple(map(id, recorder.generators)), tuple([leaf.grad is None for leaf in recorder.entry]),
        () if split is None else named(split.leaves),
    )  # fmt: skip


def _numbers(tree) -> list[int]:
    """The whole numbers in a tree of results."""
    numbers: list[int] = []

    def collect(leaf):
        if type(leaf) is int:
            numbers.append(leaf)
        return leaf

    _tree_map(collect, tree)
    return numbers


def _with_numbers(tree, numbers: list[int]):
    following = iter(numbers)
    return _tree_map(lambda leaf: next(following) if type(leaf) is int else leaf, tree)


def _python_state(t: Tensor):
    """Further state of a tensor that Python code may branch on: its class, hooks and attributes."""
    own = getattr(t, "__dict__", None)
    hooks = getattr(t, "_hooks", None)
    return (t.__class__, id(hooks) if hooks else None, tuple([(n, _plain(v)) for n, v in own.items()]) if own else None)


def _plain(value):
    return (type(value), repr(value)) if isinstance(value, PLAIN) else id(value)


def _is_numeric(array) -> bool:
    return backend_of(array) is not None and getattr(array.dtype, "kind", "O") in "biufV"


def _with_tensors(args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """The arguments, with arrays wrapped as tensors over the same memory."""

    def wrap(leaf):
        if isinstance(leaf, Tensor) or not (hasattr(leaf, "dtype") and hasattr(leaf, "strides")) or is_scalar(leaf):
            return leaf
        return as_tensor(leaf) if _is_numeric(leaf) else leaf

    return tree_map(wrap, args), tree_map(wrap, kwargs)


def _static_args(tree) -> list:
    """The leaves that are neither tensors nor arrays."""
    objects: list = []
    tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) or hasattr(leaf, "dtype") else objects.append(leaf), tree)
    return objects


def _compiles(backend) -> bool:
    return threadpool.can_prepare() if backend.name == "cpu" else backend.kernel_kind == "cuda"


def _recorder(backend, inspector: Callable | None) -> Recorder:
    if backend.name == "cpu":
        return Recorder(backend, inspector)
    from deepcore.compiler.cuda import DeviceRecorder

    return DeviceRecorder(backend, inspector)


def _backend(tensors: list[Tensor], arrays: list):
    """The backend that all of them share, or None."""
    backends: list = [t.backend for t in tensors] or [backend_of(array) for array in arrays[:1]] or [get_backend()]
    return backends[0] if all(b is backends[0] for b in backends) else None


def _flat(tree) -> list:
    """Containers, their keys and leaves as one list."""
    if isinstance(tree, dict):
        return [tree, *(part for k, v in tree.items() for part in (k, *_flat(v)))]
    if isinstance(tree, (list, tuple)):
        return [tree, *(part for v in tree for part in _flat(v))]
    return [tree]


def _output_tree(tree, recorder: Recorder, outputs: list, arguments: list[Tensor]):
    """The tree with a `_Leaf` for each computed tensor; appends (place, array, tensor) of those to `outputs`."""
    places = {id(t): i for i, t in enumerate(arguments)}
    leaves: dict[int, _Leaf] = {}
    params = [p for p in (*recorder.grads, *recorder.accumulated) if p.grad is not None and p not in recorder.arguments]
    gradients = {id(p.grad): _Gradient(p) for p in params}
    grad_buffers = {ref.buffer for p, ref in recorder.grads.items() if p.grad is not None}

    def flatten(leaf):
        if not isinstance(leaf, Tensor):
            if isinstance(leaf, recorder.backend.array_type):
                recorder.note("an array that is returned")
            elif not _is_fixed(leaf):
                recorder.note(f"a result of type {type(leaf).__name__}, which may hold tensors")
            return leaf
        if id(leaf) in places:
            return _Argument(places[id(leaf)])
        if id(leaf) in leaves:
            return leaves[id(leaf)]
        if id(leaf) in gradients:
            return gradients[id(leaf)]
        if leaf.backend is not recorder.backend:
            recorder.note("a result on another backend")
            return leaf
        if recorder.is_written(leaf):
            return leaf
        ref = recorder.norms.get(leaf) or recorder.ref(leaf._data, leaf)
        place = recorder.find(leaf._data)
        if place is not None and place[0].kind == "bound":
            recorder.note(f"a result that shares the memory of {'an argument' if place[0].name else 'a gradient'}")
        elif ref.buffer in grad_buffers:
            recorder.note("a result that shares the memory of a gradient")
        if ref.buffer.kind == "outside" and leaf._data.size:
            if id(leaf) in recorder.new_tensors:
                if leaf._requires_grad:
                    recorder.note("a differentiable view of memory that was there before")
                return _Alias(leaf)
            return leaf
        if leaf._node is None and leaf._requires_grad:
            recorder.note("a leaf that the function makes")
        freed = leaf._node if leaf._node is not None and not is_differentiable(leaf) else None
        outputs.append((ref, leaf._data, leaf))
        leaves[id(leaf)] = _Leaf(len(outputs) - 1, None if freed is None else FreedNode(freed))
        return leaves[id(leaf)]

    return _tree_map(flatten, tree)


def _leaves(tree) -> list:
    """The tensors in a result."""
    tensors: list = []

    def collect(leaf):
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        return leaf

    _tree_map(collect, tree)
    return tensors


def _is_fixed(value) -> bool:
    """Whether a value is immutable and holds no tensors: a number, also NumPy's, a name, a dtype."""
    return isinstance(value, (*PLAIN, type, enum.Enum, range)) or is_scalar(value)


def _tree_map(f: Callable, tree):
    """`tree_map` that also maps the fields of dataclasses."""

    def map_leaf(leaf):
        if not dataclasses.is_dataclass(leaf) or isinstance(leaf, type):
            return f(leaf)
        copy = object.__new__(type(leaf))
        if hasattr(leaf, "__dict__"):
            copy.__dict__.update(leaf.__dict__)
        for name in (field.name for field in dataclasses.fields(leaf) if hasattr(leaf, field.name)):
            object.__setattr__(copy, name, _tree_map(f, getattr(leaf, name)))
        return copy

    return tree_map(map_leaf, tree)


def _unflatten(tree, results: list, arguments: list[Tensor], backend):
    """The tree with the results in place of its leaves."""
    if tree.__class__ is _Leaf:  # the common case: one tensor
        result = from_raw(results[tree.i], backend)
        if tree.node is not None:
            result._node, result._requires_grad = tree.node, True
        return result
    tensors = [from_raw(array, backend) for array in results]
    _share_storage(tensors)
    return _fill_leaves(tree, tensors, arguments)


def _fill_leaves(tree, tensors: list[Tensor], arguments: list[Tensor]):
    def fill(leaf):
        if leaf.__class__ is _Leaf:
            if leaf.node is not None:
                tensors[leaf.i]._node, tensors[leaf.i]._requires_grad = leaf.node, True
            return tensors[leaf.i]
        if leaf.__class__ is _Gradient:
            return leaf.tensor.grad
        if leaf.__class__ is _Alias:
            return leaf.create()
        return arguments[leaf.i] if leaf.__class__ is _Argument else leaf

    return _tree_map(fill, tree)


def _share_storage(tensors: list[Tensor]) -> None:
    """Give results that alias one memory one storage, so that they share its version."""
    owners: dict[int, Tensor] = {}
    for t in tensors:
        first = owners.setdefault(_memory(t._data), t)
        if first is not t:
            t._storage = first.storage()


def _memory(array) -> int:
    """Identifies the memory of an array; CuPy's arrays may have no base though another array owns their memory."""
    owner = root(array)
    memory = None if hasattr(owner, "ctypes") else owner.data.mem  # NumPy's arrays, and CuPy's
    return id(owner) if memory is None else memory.ptr


def _difference(tree, result, results: list, arguments: list[Tensor], backend) -> str | None:
    """The first part of a function's result that differs from the program's, or None."""
    number = 0
    differences: list[str] = []

    def compare(leaf, actual) -> None:
        nonlocal number
        number += 1
        if leaf.__class__ is _Leaf and isinstance(actual, float):  # `finite` returns a number when run eagerly
            equal = results[leaf.i].size == 1 and repr(results[leaf.i].item()) == repr(actual)
        elif leaf.__class__ is _Leaf:
            equal = isinstance(actual, Tensor) and same_bits(backend, results[leaf.i], actual._data)
        elif leaf.__class__ is _Gradient:
            equal = actual is leaf.tensor.grad
        elif leaf.__class__ is _Argument:
            equal = actual is arguments[leaf.i]
        elif isinstance(leaf, (Tensor, _Alias)):
            leaf = leaf if isinstance(leaf, Tensor) else leaf.tensor
            equal = isinstance(actual, Tensor) and same_bits(backend, leaf._data, actual._data)
        else:
            equal = same(actual, leaf) or actual == leaf
        if not equal:
            differences.append(f"result {number - 1}")

    def walk(expected, actual) -> None:
        if expected.__class__ in (_Leaf, _Argument, _Gradient, _Alias):
            compare(expected, actual)
        elif type(expected) is not type(actual):
            differences.append("the type of a result")
        elif isinstance(expected, dict):
            if list(expected) != list(actual):
                differences.append("the keys of a result")
            else:
                for name in expected:
                    walk(expected[name], actual[name])
        elif isinstance(expected, (list, tuple)):
            if len(expected) != len(actual):
                differences.append("the number of results")
            else:
                for a, b in zip(expected, actual):
                    walk(a, b)
        elif dataclasses.is_dataclass(expected) and not isinstance(expected, type):
            for field in dataclasses.fields(expected):
                if hasattr(expected, field.name):
                    walk(getattr(expected, field.name), getattr(actual, field.name, None))
        else:
            compare(expected, actual)

    walk(tree, result)
    return differences[0] if differences else None
