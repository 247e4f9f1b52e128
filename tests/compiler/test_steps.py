"""`dc.compile` over many steps: the bits of eager training, memory that stays, and steps that happen as a whole."""

from __future__ import annotations

import gc
import itertools
import math
import os
import queue
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning, IndexRangeError, NonFiniteError
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import workloads  # noqa: E402
from workloads import WORKLOADS, deep, dense, labelled, reconstructed  # noqa: E402

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")

#: The same layers, narrower.
SMALL = {
    "xor": {},
    "mlp_s": {"model": dense(20, 16, 10), "batch": labelled(8, 20)},
    "mlp_l": {"model": dense(20, 24, 24, 10), "batch": labelled(16, 20)},
    "deep": {"model": partial(deep, width=8), "batch": labelled(16, 8)},
    "autoencoder": {"model": dense(20, 12, 4, 12, 20, last="Sigmoid"), "batch": reconstructed(16, 20)},
    "softmax": {"model": dense(20, 10), "batch": labelled(64, 20)},
}


class Training:
    """A workload's model, optimizer and step."""

    def __init__(self, workload, compiled: bool):
        dc.manual_seed(0)
        self.model = workload.model(workloads.Library(dc))
        kind, settings = workload.optimizer
        self.optimizer = getattr(dc.optim, kind)(self.model.parameters(), **settings)
        self.loss = getattr(nn.functional, workload.loss)
        self.run = dc.compile(self.step) if compiled else self.step

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = self.loss(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state(self) -> dict:
        """The bytes of all that a step changes, but for gradients."""
        found = {name: t.detach().numpy().tobytes() for name, t in self.model.state_dict().items()}
        for i, p in enumerate(self.model.parameters()):
            for name, value in self.optimizer.state.get(p, {}).items():
                found[f"{name} of {i}"] = np.asarray(value.numpy() if isinstance(value, dc.Tensor) else value).tobytes()
        return found | {"stepped": self.optimizer._stepped, "random state": str(dc.get_rng_state())}

    def gradients(self) -> list:
        return [None if p.grad is None else p.grad.numpy().tobytes() for p in self.model.parameters()]


def batches(workload, count: int):
    """Batches that differ in the order of their numbers."""
    rng = np.random.default_rng(5)
    x, y = workload.batch()
    for _ in range(count):
        order = rng.permutation(len(x))
        shuffled = rng.permuted(x, axis=-1)[order]
        yield dc.tensor(shuffled), dc.tensor(shuffled if y is x else y[order])


@pytest.mark.parametrize("size", ["small", pytest.param("true", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", sorted(SMALL))
def test_training_has_the_bits_of_eager_training(name, size):
    workload = WORKLOADS[name]._replace(**SMALL[name] if size == "small" else {})
    count, found = 200, []
    for compiled in (False, True):
        training = Training(workload, compiled)
        losses = [training.run(x, y).numpy().tobytes() for x, y in batches(workload, count)]
        found.append((losses, training.state(), training.gradients()))
        if compiled:
            assert training.run.runs >= count - 2 and not training.run.faults, training.run.faults
    eager, program = found
    assert program[0] == eager[0], next(i for i in range(count) if program[0][i] != eager[0][i])
    assert [k for k in eager[1] if program[1].get(k) != eager[1][k]] == [] and program[1].keys() == eager[1].keys()
    assert program[2] == eager[2]


# -- memory -------------------------------------------------------------------------------------------------------


def measured(call) -> tuple[int, int, int]:
    """By how much objects, bytes that Python and NumPy hold, and the process's largest memory (KiB) grow in a second call."""

    def now():
        gc.collect()
        return (
            len(gc.get_objects()),
            tracemalloc.get_traced_memory()[0],
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )

    tracemalloc.start(1)
    try:
        call()
        before = now()
        call()
        after = now()
    finally:
        tracemalloc.stop()
    return tuple(b - a for a, b in zip(before, after))


def test_ten_thousand_steps_take_no_more_memory():
    workload = WORKLOADS["xor"]
    training = Training(workload, compiled=True)
    x, y = next(batches(workload, 1))

    def steps():
        for _ in range(5000):
            training.run(x, y)

    objects, held, largest = measured(steps)
    assert training.run.runs >= 9_998 and not training.run.faults
    assert objects < 100 and held < 50_000 and largest < 4096


def test_fifty_batch_sizes_keep_as_many_programs_as_there_is_room_for():
    workload = WORKLOADS["mlp_s"]._replace(model=dense(8, 16, 10))
    training = Training(workload, compiled=True)
    rng = np.random.default_rng(0)

    def sizes():
        for n in rng.permutation(50) + 1:
            for _ in range(2):
                training.run(dc.tensor(rng.standard_normal((n, 8)).astype("f")), dc.tensor(rng.integers(0, 10, n)))

    sizes()
    arena = training.run._arena.nbytes
    objects, held, largest = measured(sizes)
    programs = sum(map(len, training.run._cache.values()))
    assert programs == training.run.programs == 16 and not training.run.faults
    assert training.run._arena.nbytes == arena and arena < 1 << 20
    assert objects < 2000 and held < 1 << 18 and largest < 8192


# -- as a whole or not at all -------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
@pytest.mark.parametrize("name", ["mlp_l", "deep"])
def test_ctrl_c_leaves_all_old_or_all_new(name, monkeypatch):
    """At random moments, many times: what there is then is what eager training has after that number of steps."""
    monkeypatch.setattr(settings, "compile_check", 0)  # a checked call leaves what eager execution leaves
    workload, interrupts = WORKLOADS[name]._replace(**SMALL[name]), 200
    x, y = next(batches(workload, 1))
    training = Training(workload, compiled=True)
    rng, seen = random.Random(0), []

    def stop(number, frame):
        raise KeyboardInterrupt

    took = math.inf
    for _ in range(8):
        start = time.perf_counter()
        training.run(x, y)
        took = min(took, time.perf_counter() - start)
    runs = training.run.runs
    before = signal.signal(signal.SIGALRM, stop)
    try:
        while len(seen) < interrupts:
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + rng.uniform(0, 4 * took))
                while True:
                    training.run(x, y)
            except KeyboardInterrupt:
                seen.append(training.state())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert training.run.runs > runs and not training.run.faults
    eager = Training(workload, compiled=False)
    state, steps = eager.state(), 0
    for number, found in enumerate(seen):
        while state != found:
            assert steps <= training.run.runs + interrupts, (
                f"no number of steps leads to what interruption {number} left"
            )
            eager.run(x, y)
            state, steps = eager.state(), steps + 1
    assert steps > 100


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_a_signals_handler_may_call_what_it_interrupts():
    w = dc.ones(3)
    total = dc.compile(lambda x: (x * w).sum())
    inside, within = [], False

    def handle(number, frame):
        nonlocal within
        if not within:
            within = True
            inside.append(total(five).item())
            within = False

    one, five = dc.ones(3), dc.full((3,), 5.0)
    total(one)
    before = signal.signal(signal.SIGALRM, handle)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2e-4, 2e-4)
        outside = set()
        while len(inside) < 500:
            outside.add(total(one).item())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert outside == {3} and set(inside) == {15} and total.runs > 500


def test_an_exception_in_a_program_leaves_what_it_leaves_in_the_function():
    workload = WORKLOADS["deep"]._replace(model=partial(deep, width=8, layers=2), batch=labelled(16, 8))
    found = []
    for compiled in (False, True):
        training = Training(workload, compiled)
        for i, (x, y) in enumerate(batches(workload, 6)):
            if i == 3:
                y[5] = 77
                with pytest.raises(IndexRangeError, match="class 77"):
                    training.run(x, y)
            else:
                training.run(x, y)
            found.append((training.state(), training.gradients()))
        if compiled:
            assert training.run.runs == 4 and not training.run.faults
    assert found[:6] == found[6:]


# -- what a program does not repeat -------------------------------------------------------------------------------


def test_prints_happen_when_the_function_itself_runs(capsys):
    @dc.compile
    def double(x):
        print("followed")
        return x * 2

    for i in range(6):
        assert double(dc.full((2,), i)).tolist() == [2 * i] * 2
    assert capsys.readouterr().out == "followed\n" * 4 and double.runs == 5  # recorded, and checked in calls 2, 3 and 5


def test_calls_of_what_is_unknown_happen_when_the_function_itself_runs():
    calls = queue.SimpleQueue()

    @dc.compile
    def double(x):
        calls.put(1)
        return x * 2

    for i in range(6):
        assert double(dc.full((2,), i)).tolist() == [2 * i] * 2
    assert calls.qsize() == 4 and double.runs == 5


@pytest.mark.parametrize(
    "numbers", [itertools.count, lambda: (i for i in range(9)), lambda: iter([3, 4, 5, 6, 7, 8, 9])]
)
def test_what_gives_something_else_each_time_is_found(numbers):
    """Checks differ twice, it is compiled again, they differ again: each result is the function's."""
    mine, wanted = numbers(), numbers()
    compiled = dc.compile(lambda x: x * next(mine))
    with pytest.warns(DeepcoreWarning) as warned:
        for _ in range(7):
            assert compiled(dc.ones(1)).item() == next(wanted)
    again, eagerly = [str(each.message) for each in warned]
    assert "compiled again" in again and "runs eagerly" in eagerly and len(compiled.faults) == 1


CALLS = []


def listing(x):
    CALLS.append(1)
    return x * 2


def counting():
    count = 0

    def double(x):
        nonlocal count
        count += 1
        return x * 2

    return double


class Log:
    __slots__ = ("count",)


LOG, QUEUE = Log(), deque(maxlen=3)
LOG.count = 0


def slot(x):
    LOG.count += 1
    return x * 2


def queued(x):
    QUEUE.append(1)
    return x * 2


@pytest.mark.parametrize(
    "function", [listing, counting(), slot, queued], ids=["a list", "a variable", "a slot", "a queue"]
)
def test_a_function_that_changes_what_it_reads_runs_as_it_is(function):
    compiled = dc.compile(function)
    compiled(dc.ones(2))
    with pytest.warns(DeepcoreWarning, match="changes Python state"):
        compiled(dc.ones(2))
    assert compiled(dc.full((2,), 3)).tolist() == [6, 6] and not compiled.runs


def test_what_a_function_makes_once_is_kept():
    class Attention(nn.Module):
        mask = None

        def forward(self, x):
            if self.mask is None:
                self.mask = dc.tril(dc.ones(3, 3))
            return x * self.mask

    model = Attention()
    compiled = dc.compile(model)
    for i in range(5):
        assert compiled(dc.full((3, 3), i)).sum().item() == 6 * i
    assert compiled.runs == 3 and not compiled.faults


@pytest.mark.parametrize(
    "draw", [random.random, np.random.rand, np.random.default_rng(0).random, random.Random(0).random]
)
def test_a_function_that_draws_from_other_generators_runs_as_it_is(draw):
    compiled = dc.compile(lambda x: x * draw())
    with pytest.warns(DeepcoreWarning, match="random numbers that are not deepcore's"):
        first = compiled(dc.ones(1)).item()
    assert compiled(dc.ones(1)).item() != first and not compiled.runs


_PROCESS = """
import sys
import deepcore as dc
dc.manual_seed(0)
model = dc.nn.Linear(6, 3)
optimizer = dc.optim.SGD(model.parameters(), lr=0.1)

@dc.compile
def step(x, y):
    optimizer.zero_grad()
    loss = dc.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()

for _ in range(3):
    loss = step(dc.randn(5, 6), dc.tensor([0, 1, 2, 0, 1]))
print(loss.item().hex(), step.runs, "numba" in sys.modules)
"""


@pytest.mark.slow
def test_a_second_process_compiles_without_numba(tmp_path):
    environment = {**os.environ, "DEEPCORE_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    said = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", _PROCESS],
            env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240,
        ).stdout.split()
        for _ in range(2)
    ]  # fmt: skip
    assert said == [[said[0][0], "2", "True"], [said[0][0], "2", "False"]]


# -- clipping, indices, NaN checks ------------------------------------------------------------------------------------


def classifier():
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4))


def both():
    """Once for eager training and once for compiled: whether it is to be compiled, the same model, its optimizer."""
    for compiled in (False, True):
        dc.manual_seed(0)
        model = classifier()
        yield compiled, model, optim.Adam(model.parameters())


@pytest.mark.parametrize("how, expected", [("norm", [0.06, 0.08]), ("value", [3.0, 3.5]), ("total", [3.0, 4.0])])
def test_a_parameter_that_is_listed_twice(how, expected):
    """It counts twice in the norm and is scaled twice, as in PyTorch, foreach or not."""
    p = dc.zeros(2, requires_grad=True)

    def step(x):
        p.grad = None
        (p * x).sum().backward()
        if how == "norm":
            return nn.utils.clip_grad_norm_([p, p], 1.0)
        if how == "value":
            return nn.utils.clip_grad_value_([p, p], 3.5)
        return nn.utils.get_total_norm([p.grad, p.grad])

    compiled = dc.compile(step)
    for run in (step, *[compiled] * 4):
        norm = run(dc.tensor([3.0, 4.0]))
        assert p.grad.tolist() == pytest.approx(expected)
        assert how == "value" or norm.item() == pytest.approx(50**0.5)
    assert compiled.runs == 2, compiled.faults


@pytest.mark.parametrize("limit", [1e-3, 0.5, 1e9])
@pytest.mark.parametrize("how", ["norm", "value"])
@pytest.mark.parametrize("adds_up", [False, True])
def test_clipping_between_backward_and_step(how, limit, adds_up):
    """Gradients are below the limit when the step is followed and above it later: what is clipped is not decided then."""
    found = []
    for compiled, model, optimizer in both():

        def step(x, y, model=model, optimizer=optimizer):
            if not adds_up:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if how == "norm":
                norm = nn.utils.clip_grad_norm_(model.parameters(), limit)
                optimizer.step()
                return loss, norm
            nn.utils.clip_grad_value_(model.parameters(), limit)
            optimizer.step()
            return (loss,)

        run, seen = dc.compile(step) if compiled else step, []
        for i in range(6):
            results = run(dc.randn(8, 20) * 10.0 ** (i - 3), dc.tensor(np.arange(8) % 4))
            seen += [t.detach().numpy().tobytes() for t in (*results, *(p.grad for p in model.parameters()))]
        found.append(seen + [p.detach().numpy().tobytes() for p in model.parameters()])
    assert found[0] == found[1]
    assert run.runs >= 4, run.faults


def test_the_norm_of_gradients_is_computed_in_each_run():
    w = dc.ones(3, requires_grad=True)

    def norm(x, which):
        w.grad = None
        (w * x).sum().backward()
        return nn.utils.get_total_norm([w.grad] if which else []) * 2

    compiled = dc.compile(norm)
    for value in (1.0, 2.0, 3.0, 4.0):
        assert compiled(dc.full((3,), value), True).item() == norm(dc.full((3,), value), True).item()
        assert compiled(dc.full((3,), value), False).item() == 0
    assert compiled.runs == 4 and not compiled.faults  # each kind is followed without a gradient, and with one


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_gradients_that_a_function_takes_away_itself(when):
    """`p.grad = None` is no call that could tell of itself."""
    found = []
    for compiled, model, optimizer in both():

        def forget(model=model):
            for p in model.parameters():
                p.grad = None

        def step(x, y, model=model, optimizer=optimizer, forget=forget):
            if when != "after":
                forget()
            F.cross_entropy(model(x), y).backward()
            if when == "between":
                forget()
                F.cross_entropy(model(2 * x), y).backward()
            optimizer.step()
            if when == "after":
                forget()

        run, seen = dc.compile(step) if compiled else step, []
        for _ in range(8):
            run(dc.randn(8, 20), dc.tensor(np.arange(8) % 4))
            seen += [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
        found.append(seen + [p.detach().numpy().tobytes() for p in model.parameters()])
    assert found[0] == found[1]
    assert run.runs >= 6 and not run.faults, (run.runs, run.traces, run.faults)


def test_a_gradient_that_is_added_to_and_taken_away_runs_as_it_is():
    """Its sum and the next gradient would share memory."""
    found = []
    for compiled, model, optimizer in both():

        def step(x, y, model=model, optimizer=optimizer):
            F.cross_entropy(model(x), y).backward()
            for p in model.parameters():
                p.grad = None
            F.cross_entropy(model(2 * x), y).backward()
            optimizer.step()

        run = dc.compile(step) if compiled else step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)
            for _ in range(6):
                run(dc.randn(8, 20), dc.tensor(np.arange(8) % 4))
                found += [t.numpy().tobytes() for p in model.parameters() for t in (p.detach(), p.grad)]
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert [fault.reason for fault in run.faults] == ["a gradient that is taken away once something was added to it"]


def by_hand(weight, bias, x):
    h = x @ weight.detach().T
    weight.grad, bias.grad = h.T @ x, h.sum(0)


#: What a function may do with gradients after the backward: (weight, bias, input) -> None.
GRADIENT_CHANGES = {
    "scaled": lambda w, b, x: setattr(w, "grad", w.grad * 0.5),
    "scaled in place": lambda w, b, x: w.grad.mul_(0.5),
    "an element": lambda w, b, x: w.grad.__setitem__(0, 0.0),
    "decay": lambda w, b, x: w.grad.add_(w.detach() * 0.1),
    "zeros": lambda w, b, x: setattr(w, "grad", dc.zeros_like(w.detach())),
    "one less": lambda w, b, x: setattr(b, "grad", None),
    "another tensor": lambda w, b, x: setattr(w, "grad", w.grad.detach()),
    "a copy": lambda w, b, x: setattr(b, "grad", b.grad.clone()),
    "a view": lambda w, b, x: setattr(b, "grad", (b.grad.reshape(2, 2) * 2).reshape(4)),
    "shared": lambda w, b, x: setattr(b, "grad", w.grad[:, 0]),
    "by hand": by_hand,
}


@pytest.mark.parametrize("cleared", [True, False])
@pytest.mark.parametrize("when", ["before the update", "after it"])
@pytest.mark.parametrize("change", GRADIENT_CHANGES)
def test_gradients_that_a_function_changes_itself(change, when, cleared):
    found = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model = nn.Linear(6, 4)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def changed(x, model=model):
            with dc.no_grad():
                GRADIENT_CHANGES[change](model.weight, model.bias, x)

        def step(x, y, model=model, optimizer=optimizer, changed=changed):
            if cleared:
                optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if when == "before the update":
                changed(x)
            optimizer.step()
            if when == "after it":
                changed(x)

        run = dc.compile(step) if compiled else step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeepcoreWarning)  # not all of them compile
            for _ in range(6):
                run(dc.randn(8, 6), dc.tensor(np.arange(8) % 4))
                for p in model.parameters():
                    found.append(p.detach().numpy().tobytes())
                    found.append(p.grad if p.grad is None else p.grad.numpy().tobytes())
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    if cleared and when == "before the update" and change != "shared":
        assert run.runs >= 4, run.faults


@pytest.mark.parametrize("limits", [{"max_norm": 0.5}, {"max_norm": 1e9, "clip_value": 0.01}])
def test_the_norm_of_a_clipped_step_is_a_result(limits):
    found = []
    for compiled, model, optimizer in both():

        def step(x, y, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            norm = optimizer.clipped_step(**limits)
            return {"loss": loss, "norm": norm, "again": [norm]}

        run, seen = dc.compile(step) if compiled else step, []
        kept = []
        for i in range(6):
            kept.append(run(dc.randn(8, 20) * 10.0 ** (i - 3), dc.tensor(np.arange(8) % 4)))
            assert kept[-1]["again"][0] is kept[-1]["norm"]
        seen = [results[name].detach().numpy().tobytes() for results in kept for name in ("loss", "norm")]
        found.append(seen + [p.detach().numpy().tobytes() for p in model.parameters()])
    assert found[0] == found[1] and len(set(found[0][1:12:2])) == 6
    assert run.runs == 5, run.faults


def test_the_norm_of_a_clipped_step_is_no_operand():
    w = dc.ones(3, requires_grad=True)
    optimizer = optim.SGD([w], lr=0.1)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        return optimizer.clipped_step(1.0) * 2

    with pytest.warns(DeepcoreWarning, match="what the optimizer's step has changed or made"):
        assert step(dc.ones(3)).item() == pytest.approx(2 * 3**0.5)
    assert step(dc.full((3,), 2.0)).item() == pytest.approx(2 * 12**0.5) and not step.runs


def test_indices_are_looked_at_in_each_run():
    model = classifier()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.nll_loss(F.log_softmax(model(x), 1), y) + dc.gather(x, 1, y[:, None]).sum()
        loss.backward()
        optimizer.step()
        return loss

    x, y = dc.randn(8, 20), dc.tensor(np.arange(8) % 4)
    for _ in range(3):
        step(x, y)
    assert step.runs == 2, step.faults
    before = [p.detach().numpy().copy() for p in model.parameters()]
    for wrong in (4, -1, 1 << 40):
        y[3] = wrong
        with pytest.raises(IndexRangeError, match=rf"nll_loss: class {wrong} at target\[3\]"):
            step(x, y)
    assert all((a == p.detach().numpy()).all() for a, p in zip(before, model.parameters()))
    y[3] = 0
    step(x, y)
    assert step.runs == 3


def test_targets_that_are_ignored_in_a_later_batch():
    model = classifier()
    loss = dc.compile(dc.no_grad()(lambda x, y: F.nll_loss(F.log_softmax(model(x), 1), y)))
    x, y = dc.randn(8, 20), dc.tensor(np.arange(8) % 4)
    loss(x, y), loss(x, y)
    y[2:5] = -100
    assert loss(x, y).item() == pytest.approx(F.nll_loss(F.log_softmax(model(x), 1), y).item(), rel=1e-6)


class Shaky(nn.Module):
    """Finite in the forward; the gradient of a root at zero is not."""

    def forward(self, x):
        return dc.sqrt(F.relu(x))


def test_anomalies_are_found_compiled_with_layer_op_and_direction():
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(Shaky(), nn.Linear(8, 3)))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    def state():
        arrays = [p.detach().numpy() for p in model.parameters()]
        arrays += [v for p in model.parameters() for v in optimizer.state[p].values() if hasattr(v, "dtype")]
        return [a.tobytes() for a in arrays]

    dc.manual_seed(0)
    with dc.no_grad():
        model[0].bias[...] = 20.0  # far from the root's kink
    x, y = dc.randn(5, 6), dc.tensor([0, 1, 2, 0, 1])
    losses = []
    with dc.autograd.detect_anomaly():
        for _ in range(4):
            losses.append(step(x, y).item())
    assert (step.traces, step.runs) == (1, 3), step.faults
    before, bad = state(), x * float("nan")
    with (
        pytest.raises(NonFiniteError, match=r"linear passed on(.|\n)*Sequential.0 \(Linear\)"),
        dc.autograd.detect_anomaly(),
    ):
        step(bad, y)
    assert state() == before
    with dc.no_grad():
        model[0].weight[...], model[0].bias[...] = 0.0, 0.0
    before = state()
    with (
        pytest.raises(NonFiniteError, match=r"in the backward pass produced a NaN(.|\n)*Sequential.1.0 \(Shaky\)"),
        dc.autograd.detect_anomaly(),
    ):
        step(x, y)
    assert state() == before
    assert step.runs == 3 and step.traces == 1
    step(x, y)  # outside, nothing is looked at: the ReLU's gradient hides what the root's has


@pytest.mark.parametrize("size", [(3, 5), (300, 301)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_number_is_looked_at(size, dtype):
    compiled = dc.compile(lambda x: dc.clamp(x * 2, -1.0, 1.0).isnan())
    x = dc.ones(*size).to(dtype)
    with dc.autograd.detect_anomaly():
        compiled(x), compiled(x)
        assert compiled.runs == 1, compiled.faults
        for place in ((0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, 1)):
            for wrong in (math.inf, -math.inf, math.nan):
                x[place] = wrong
                with pytest.raises(NonFiniteError, match="mul passed on"):
                    compiled(x)
                x[place] = 1.0
        compiled(x)
    assert compiled.runs == 2


def test_a_step_compiles_with_a_state_from_a_file(tmp_path):
    """Arrays out of a file have other dtype objects, of which kernels once made no update."""
    x, y = dc.randn(8, 6), dc.randint(0, 3, (8,))

    def made():
        dc.manual_seed(0)
        model = nn.Linear(6, 3)
        return model, optim.AdamW(model.parameters(), lr=0.1)

    def step_of(model, optimizer):
        def step(x, y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return step

    model, optimizer = made()
    eager = step_of(model, optimizer)
    eager(x, y)
    dc.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.safetensors")
    other, second = made()
    saved = dc.load(tmp_path / "c.safetensors")
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    compiled = dc.compile(step_of(other, second))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeepcoreWarning)  # "cannot be compiled and runs as it is"
        for _ in range(3):
            assert eager(x, y).item() == compiled(x, y).item()
