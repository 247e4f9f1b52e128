"""Programs of loops: one body however many steps, its memory, and the stand-in's graphs."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import standin
from backends import BACKENDS

import deepcore as dc
from deepcore import errors
from deepcore.backend import get_backend, use_backend
from deepcore.config import settings
from deepcore.kernels.runtime import threadpool

pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")

F = dc.nn.functional


@pytest.fixture(params=BACKENDS)
def xp(request, monkeypatch):
    """Each backend, as the default one, with kernels and without checks in later calls."""
    if request.param != "cpu":
        pytest.importorskip("numba", reason="programs on a GPU are of kernels")
    monkeypatch.setattr(standin, "kernels", True)
    monkeypatch.setattr(settings, "compile_check", 0)
    with use_backend(request.param):
        yield get_backend(request.param)


def weighted(weight, hidden=None):
    """A training step of a scan; `hidden`: elements of an intermediate value beside the carry."""

    def step(init, xs):
        def f(h, x):
            h = F.dropout((h * weight + x).tanh(), 0.25)
            return h, (h if hidden is None else h.repeat(hidden).exp().sum())

        weight.grad = None
        carry, ys = dc.scan(f, init, xs)
        (carry.sum() + ys.sum()).backward()
        return carry.detach(), ys.detach()

    return step


def program(compiled):
    (((runner, *_),),) = [entries[-1:] for entries in compiled._cache.values()]
    return runner


def random_step(seed):
    """A training step of a random nest of loops and branches over vectors, and its parameters."""
    choose = random.Random(seed)
    parameters = [dc.randn(3, requires_grad=True) for _ in range(3)]

    def written(h, x, p):
        h = h.clone()
        h += p
        return h

    def nest(depth):
        inner = nest(depth - 1) if depth > 1 else lambda h, xs: h
        formulas = [
            lambda h, x, p: (h * p + x).tanh(),
            lambda h, x, p: F.dropout(h + x, 0.3),
            written,
            lambda h, x, p: dc.stack([h, x * p]).max(0)[0],
            lambda h, x, p: h.flip(0) - h.mean(),
            lambda h, x, p: dc.where(h > 0, h, x * p),
            lambda h, x, p: dc.cond(h.sum() > 0, lambda h: h * p, lambda h: (h + p).sin(), h),
            lambda h, x, p: inner(h, dc.stack([h, x])),
        ]
        body = [(choose.choice(formulas), choose.choice(parameters)) for _ in range(choose.randrange(1, 5))]
        count, reverse = choose.randrange(3), choose.random() < 0.5

        def step(h, x):
            for formula, p in body:
                h = formula(h, x, p)
            return h, [h * 2, x][:count]

        def run(h, xs):
            h, ys = dc.scan(step, h, xs, reverse=reverse)
            return h * 0.5 + sum((y.sum() for y in ys), 0.0)

        return run

    run = nest(choose.choice([1, 1, 2, 2, 3]))

    def train(init, xs):
        for p in parameters:
            p.grad = None
        loss = (run(init, xs) ** 2).sum()
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    return train, parameters


def test_a_carry_that_starts_as_a_number(xp):
    compiled = dc.compile(lambda xs: dc.scan(lambda c, x: ((c[0] + x, c[1] + 1), c[1]), (0.0, dc.tensor(0)), xs))
    for xs in (dc.tensor([1.0, 2.0, 3.0]), dc.tensor([2.0, 2.0, 2.0])):
        (total, count), numbers = compiled(xs)
        assert (total.item(), count.item(), numbers.tolist()) == (6.0, 3, [0, 1, 2])
    assert compiled.runs and not compiled.faults


@pytest.mark.parametrize("seed", range(30))
def test_random_nests_have_the_bits_of_the_function(seed, monkeypatch):
    monkeypatch.setattr(settings, "compile_check", 0)
    found = []
    for compile in (lambda f: f, dc.compile):
        dc.manual_seed(seed)
        train, parameters = random_step(seed)
        run, bits = compile(train), []
        for _ in range(3):
            tensors = [run(dc.randn(3), dc.randn(1 + seed % 4, 3)), *(p.grad for p in parameters)]
            bits += [None if t is None else t.numpy().tobytes() for t in tensors]
        found.append(bits)
    assert found[0] == found[1]
    assert run.runs and not run.faults


@pytest.mark.parametrize("length", [1, 2, 3])
def test_programs_have_the_bits_of_the_function(length, xp):
    weight = dc.randn(4, requires_grad=True)
    step = weighted(weight)
    compiled = dc.compile(step)
    states = []
    for run in (step, compiled):
        dc.manual_seed(1)
        found = []
        for _ in range(4):
            init, xs = dc.randn(4), dc.randn(length, 4)
            found += [t.numpy().tobytes() for t in (*run(init, xs), weight.grad, dc.rand(1))]
        states.append(found)
    assert states[0] == states[1]
    assert not compiled.faults and compiled.runs == 2


def test_a_body_is_recorded_once():
    weight, sizes = dc.randn(64, requires_grad=True), {}
    for length in (2, 200):
        compiled = dc.compile(weighted(weight, hidden=1000))
        for _ in range(2):
            compiled(dc.zeros(64), dc.zeros(length, 64))
        runner = program(compiled)
        bodies = [s.call for s in runner.exe.steps if s.by_address]
        saved = sum(ref.nbytes for s in runner.exe.steps if s.by_address for ref in s.outs)
        sizes[length] = [len(runner.exe.steps), *(len(b.program.exe.steps) for b in bodies)], runner.exe.size - saved
    assert sizes[2] == sizes[200] or sizes[200][1] <= sizes[2][1] + 4096, "temporaries are those of one step"
    assert sizes[2][0] == sizes[200][0] and len(sizes[2][0]) == 3


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    weight, results = dc.randn(5000, requires_grad=True), []
    init, xs = dc.randn(5000), dc.randn(3, 5000)
    for threads in (1, 2):
        monkeypatch.setattr(settings, "threads", threads)
        compiled = dc.compile(weighted(weight))
        for _ in range(3):
            dc.manual_seed(1)
            found = compiled(init, xs)
        results.append([t.numpy().tobytes() for t in (*found, weight.grad)])
    assert results[0] == results[1]


def test_a_loop_in_the_table_of_steps(capsys):
    compiled = dc.compile(lambda xs: dc.scan(lambda h, x: (h + x, None), dc.zeros(3), xs)[0])
    for _ in range(2):
        compiled(dc.ones(4, 3))
    compiled.explain()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("scan"))
    assert "add" in line, "with the kernels of its body"


def test_results_of_a_loop_are_new_in_each_call():
    compiled = dc.compile(lambda xs: dc.scan(lambda h, x: (h + x, h), dc.zeros(3), xs))
    first = [compiled(dc.ones(4, 3)) for _ in range(3)][-1]
    values = [t.tolist() for t in first]
    compiled(dc.zeros(4, 3))
    assert [t.tolist() for t in first] == values
    assert not np.shares_memory(first[0].numpy(), first[1].numpy())


@pytest.mark.parametrize(
    "other, error, text",
    [
        (lambda x: (x, x), errors.ArgumentError, "different structures"),
        (lambda x: x[:1], errors.ShapeError, "different shapes"),
        (lambda x: x.double(), errors.DTypeError, "different dtypes"),
    ],
)
def test_branches_with_different_results(other, error, text):
    x = dc.ones(3)
    choose = lambda pred, x: dc.cond(pred, lambda x: x * 2, other, x)
    assert choose(dc.tensor(True), x).tolist() == [2, 2, 2]
    with pytest.raises(error, match=text):
        dc.compile(choose)(dc.tensor(True), x)


@pytest.mark.parametrize("loop", ["cond", "while_loop"])
@pytest.mark.parametrize("xp", [b for b in BACKENDS if b != "cpu"], indirect=True)
def test_a_gpu_cannot_wait_for_a_value(loop, xp):
    x = dc.ones(3)
    run = {
        "cond": lambda x: dc.cond(x.sum() > 0, lambda x: x * 2, lambda x: x, x),
        "while_loop": lambda x: dc.while_loop(lambda v: v.sum() < 5, lambda v: v * 2, x),
    }[loop]
    compiled = dc.compile(run)
    with pytest.warns(errors.DeepcoreWarning, match=f"a {loop} on a GPU"):
        assert compiled(x).tolist() == [2, 2, 2]
    assert compiled(x).tolist() == [2, 2, 2] and not compiled.runs


def test_the_branch_that_is_not_selected_leaves_no_trace():
    """Recording runs it for its ops alone: random numbers, memory and gradients are as without it."""
    seen, weight = dc.zeros(3), dc.ones(3, requires_grad=True)

    def other(x):
        seen.add_(dc.rand(3))
        with dc.enable_grad():
            (weight * 2).sum().backward()
        return x

    run = dc.compile(lambda x: dc.cond(x.sum() > 0, lambda x: x * 2, other, x))
    dc.manual_seed(1)
    state = dc.get_rng_state()
    with pytest.warns(errors.DeepcoreWarning, match="runs eagerly"):
        run(dc.ones(3))
    assert dc.get_rng_state() == state and seen.tolist() == [0, 0, 0] and weight.grad is None


@pytest.mark.parametrize("outside", [False, True])
def test_recording_keeps_nothing_alive(outside):
    weight, kept = dc.ones(3, requires_grad=True), []

    def step(xs):
        def f(h, x):
            h = (h * weight + x).exp()
            kept.append(weakref.ref(h))
            kept.append(weakref.ref(h._data))
            return h, None

        loss = dc.scan(f, dc.zeros(3), xs)[0].sum()
        loss = dc.cond(loss > 0, lambda x: x * weight, lambda x: x - weight, loss).sum()
        if not outside:
            weight.grad = None
            loss.backward()
            loss = loss.detach()
        return loss

    compiled = dc.compile(step, side_effects="once")
    for _ in range(3):
        loss = compiled(dc.zeros(4, 3))
    assert compiled.runs and kept
    if outside:
        loss.backward()
    del loss
    gc.collect()
    assert not [ref for ref in kept if ref() is not None]
