"""`dc.compile` on everyday code: each scenario, compiled, has the bits, effects and warnings of eager execution."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import sys
import types
import warnings
import zlib
from collections import deque
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import standin

import deepcore as dc
from deepcore.autograd.trees import tree_map
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning
from deepcore.kernels.runtime import threadpool
from deepcore.optim.lr_scheduler import LRScheduler

sys.path.append(str(Path(__file__).parent))
import scenarios
from scenarios import CHECKED, EAGER, EQUAL, EQUAL_OR_EAGER, Lag, Scenario

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")

SCENARIOS = scenarios.load()
#: Gradients that sort indices, which a GPU captures, and the stand-in does not.
SORTING = {"layers.embedding_of_tokens", "control.scan_with_trees_and_whole_numbers"}
#: A compiled function is checked never, as scheduled, in each call.
NEVER, SCHEDULED, ALWAYS = 0, None, 1


class Snapshot:
    """A value as nested tuples that compare by bits, identity, and shared memory.

    `lags`: the values that `Lag` marks, apart. `classes`: of the arrays of tensors.
    """

    def __init__(self, value, aliases: bool = True):
        self.lags: list = []
        self._seen: dict[int, tuple[int, object]] = {}  # the objects stay alive, so their numbers stay theirs
        self._arrays: list[np.ndarray] = []
        self.classes: set[str] = set()
        self.value = self._of(value)
        self.shared = self._shared() if aliases else []
        del self._seen, self._arrays

    def __eq__(self, other):
        return self.value == other.value and self.shared == other.shared

    def _of(self, value):
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum | np.dtype | type):
            return repr(value)
        if id(value) in self._seen:
            return "same as", self._seen[id(value)][0]
        self._seen[id(value)] = len(self._seen), value
        return type(value).__name__, self._content(value)

    def _content(self, value):
        if isinstance(value, Lag):
            return self.lags.append(self._of(value.value))
        if isinstance(value, dc.Tensor):
            return self._tensor(value)
        if isinstance(value, np.ndarray | np.generic):
            return str(value.dtype), value.shape, value.tobytes()
        if isinstance(value, dc.nn.Module):
            modes = [(name, type(m).__name__, m.training) for name, m in value.named_modules()]
            tensors = (dict(value.named_parameters()), dict(value.named_buffers()))
            return modes, [(name, self._of(t)) for table in tensors for name, t in table.items()]
        if isinstance(value, dc.optim.Optimizer):
            return self._of(value.state_dict()), [self._of(g["params"]) for g in value.param_groups]
        if isinstance(value, LRScheduler):
            return self._of({k: v for k, v in value.state_dict().items() if not callable(v)})
        if isinstance(value, dc.Generator):
            return self._of(value.get_state())
        if isinstance(value, Mapping):
            return [(self._of(k), self._of(v)) for k, v in value.items()]
        if isinstance(value, set | frozenset):
            return sorted(map(repr, value))
        if isinstance(value, list | tuple | deque):
            return [self._of(v) for v in value]
        if dataclasses.is_dataclass(value):
            return [self._of(getattr(value, field.name)) for field in dataclasses.fields(value)]
        if isinstance(value, types.SimpleNamespace):
            return self._of(vars(value))
        if isinstance(value, BaseException):
            return str(value).partition("\n")[0]
        raise TypeError(f"a scenario yields {type(value).__name__}, which has no snapshot")

    def _tensor(self, t):
        raw = t.detach().numpy()
        if str(t.backend) == "cpu":
            self.classes.add(type(raw).__qualname__)
            self._arrays.append(raw)
        return (
            str(t.dtype), t.shape, raw.tobytes(), str(t.backend), t.requires_grad, t.is_leaf,
            None if t.grad is None else self._of(t.grad),
        )  # fmt: skip

    def _shared(self) -> list[tuple[int, int]]:
        a = self._arrays
        return [(i, j) for i in range(len(a)) for j in range(i) if np.may_share_memory(a[i], a[j])
                and np.shares_memory(a[i], a[j])]  # fmt: skip


def difference(a, b, path="") -> str:
    """Where two snapshots differ first."""
    if type(a) is not type(b) or not isinstance(a, tuple | list) or len(a) != len(b):
        return f"at {path or 'top'}: {a!r:.150} eager, {b!r:.150} compiled"
    return next(difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b)) if x != y)


@dataclasses.dataclass
class Record:
    """What one run of a scenario showed: after each call, and of all that it yielded once more in the end."""

    calls: list[Snapshot]
    end: Snapshot
    warnings: list[str]


#: Whether there is a setting for checks.
CAN_CHECK = hasattr(settings, "compile_check")


@contextlib.contextmanager
def compile_check(value: int | None):
    """Set how often compiled functions are checked."""
    before = settings.compile_check
    settings.compile_check = value
    try:
        yield
    finally:
        settings.compile_check = before


def eagerly(arrays: bool):
    """`dc.compile` that compiles nothing."""

    def compile(function=None, **options):
        if function is None:
            return functools.partial(compile, **options)
        if not arrays:
            return function

        @functools.wraps(function)
        def as_tensors(*args, **kwargs):
            args, kwargs = tree_map(lambda a: dc.as_tensor(a) if isinstance(a, np.ndarray) else a, (args, kwargs))
            return function(*args, **kwargs)

        return as_tensors

    return compile


def record(scenario: Scenario, backend: str, compile) -> Record:
    dc.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    calls, yielded = [], []
    with warnings.catch_warnings(record=True) as caught, dc.use_backend(backend), dc.enable_grad():
        warnings.simplefilter("always")
        for value in scenario.run(compile):
            calls.append(Snapshot((value, dc.get_rng_state(), dc.is_grad_enabled())))
            yielded.append(value)
        end = Snapshot(yielded, aliases=False)
    return Record(calls, end, [f"{w.category.__name__}: {w.message}" for w in caught])


def compare(scenario: Scenario, eager: Record, compiled: Record, check: int | None) -> str:
    """What the contract does not allow, or ""."""
    if eager.warnings:
        return f"eager execution warns: {eager.warnings}"
    if len(eager.calls) != len(compiled.calls):
        return f"{len(eager.calls)} calls eager, {len(compiled.calls)} compiled"
    unequal = [i for i, (a, b) in enumerate(zip(eager.calls, compiled.calls), 1) if a != b]
    if scenario.allows == CHECKED and check is not ALWAYS:
        if unequal and unequal[-1] == len(eager.calls) and not compiled.warnings:
            return f"differs silently in calls {unequal}: {detail(eager, compiled, unequal[-1])}"
        return ""
    if unequal:
        return f"differs in calls {unequal}: {detail(eager, compiled, unequal[0])}; warnings: {compiled.warnings}"
    if eager.end != compiled.end:
        return f"what was yielded changed later: {difference(eager.end.value, compiled.end.value)}"
    if check is ALWAYS and [call.lags for call in eager.calls] != [call.lags for call in compiled.calls]:
        return "Python state lags though the function itself runs in each call"
    if strange := [text for text in compiled.warnings if not text.startswith(DeepcoreWarning.__name__)]:
        return f"warns: {strange}"
    count = len(compiled.warnings)
    if scenario.allows == EQUAL and count:
        return f"is not compiled: {compiled.warnings}"
    if scenario.allows == EAGER:
        if count != scenario.functions:
            return f"{scenario.functions} warnings expected: {compiled.warnings}"
        if nameless := [text for text in compiled.warnings if f"{scenario.file}:" not in text]:
            return f"no line in {nameless}"
    if count > scenario.functions and check is not ALWAYS:
        return f"{count} warnings: {compiled.warnings}"
    if classes := set().union(*(call.classes for call in compiled.calls)) - {"ndarray"}:
        return f"tensors over internal arrays: {classes}"
    return ""


def detail(eager: Record, compiled: Record, call: int) -> str:
    a, b = eager.calls[call - 1], compiled.calls[call - 1]
    if a.value == b.value:
        return f"other tensors share memory: {a.shared} eager, {b.shared} compiled"
    return difference(a.value, b.value)


def faults(scenario: Scenario, backend: str, strict: bool = True) -> list[str]:
    """What the contract does not allow. Without `strict`, functions that should compile may run eagerly."""
    if not strict and scenario.allows == EQUAL:
        scenario = scenario._replace(allows=EQUAL_OR_EAGER)
    eager = record(scenario, backend, eagerly(scenario.arrays))
    assert eager.calls, "no calls"
    checks = [NEVER, SCHEDULED] if strict and scenario.allows != CHECKED else [SCHEDULED]
    if scenario.allows == CHECKED or any(call.lags for call in eager.calls):
        checks.append(ALWAYS)
    found = []
    for check in checks if CAN_CHECK else [SCHEDULED]:
        with compile_check(check) if CAN_CHECK else contextlib.nullcontext():
            fault = compare(scenario, eager, record(scenario, backend, dc.compile), check)
        if fault:
            found.append(f"check {check}: {fault}")
    return found


@pytest.mark.parametrize("name", sorted(name for name, one in SCENARIOS.items() if not one.everywhere))
def test_scenario(name):
    assert not (found := faults(SCENARIOS[name], "cpu")), "\n".join(found)


@pytest.mark.parametrize("name", sorted(name for name, one in SCENARIOS.items() if one.everywhere))
def test_scenario_on_each_backend(name, backend):
    if backend == "standin" and standin.kernels and zlib.crc32(name.encode()) % 12:
        pytest.skip("on the PTX machine, one scenario in twelve is what time allows; all run without kernels")
    # Without kernels, CUDA programs have no updates.
    strict = backend != "standin" or (standin.kernels and name not in SORTING)
    assert not (found := faults(SCENARIOS[name], backend, strict)), "\n".join(found)


def test_there_are_enough():
    assert len(SCENARIOS) >= 320
