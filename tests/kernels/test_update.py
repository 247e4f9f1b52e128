"""Updates: kernels against plain array code, bits at any number of threads, all or nothing, and clipping on the way."""

from __future__ import annotations

import copy
import functools
import itertools
import signal
import sys
import threading

import numpy as np
import pytest
from optimizer_cases import SETTINGS, WALKED, optimizer_cases

import deepcore as dc
from deepcore import nn, optim
from deepcore.config import settings
from deepcore.errors import BackendError, NonFiniteError, ShapeError
from deepcore.kernels.cpu import optimizer as updates
from deepcore.kernels.update import Update, maximum, sqrt
from deepcore.optim import OPTIMIZERS

SHAPES = [(0,), (), (1,), (63,), (3, 5), (65,), (2, 0), (130, 7), (64,)]
LARGE = [(70_000,), (3,), (129, 300), ()]


def parameters(shapes, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    return [nn.Parameter(dc.tensor(rng.standard_normal(shape).astype(dtype))) for shape in shapes]


def give_gradients(params, step, skip=True, scale=1.0):
    rng = np.random.default_rng(100 + step)
    for i, p in enumerate(params):
        g = (scale * rng.standard_normal(p.shape)).astype(p.dtype)
        p.grad = None if skip and (i + step) % 5 == 1 else dc.tensor(g)


def bits(params, optimizer, gradients=False):
    """Everything a step may change, as bytes."""
    arrays = [p._data for p in params] + ([p.grad._data for p in params] if gradients else [])
    entries = [sorted(optimizer.state.get(p, {}).items()) for p in params]
    arrays += [value for entry in entries for _, value in entry if not isinstance(value, (int, float))]
    counts = [(name, value if isinstance(value, (int, float)) else None) for entry in entries for name, value in entry]
    return [a.tobytes() for a in arrays], counts


def uses_kernels(optimizer):
    return optimizer._plan is not None and optimizer._plan.program is not None and not optimizer._plan.others


needs_kernels = pytest.mark.skipif(not (settings.kernels and updates._GATHER.ready()), reason="no kernels here")


# -- kernels and reference ------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("name, options", [case for case in optimizer_cases() if case.values[0] != "Adafactor"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_kernels_have_the_bits_of_plain_array_code(name, options, dtype, monkeypatch):
    runs = {}
    for kernels in (True, False):
        monkeypatch.setattr(settings, "kernels", kernels)
        params = parameters(SHAPES, dtype)
        groups = [{"params": params[:4]}, {"params": params[4:], "lr": 0.07}]
        optimizer = OPTIMIZERS[name](groups, **{"lr": 0.02, **options})
        for step in range(6):
            give_gradients(params, step)
            optimizer.step()
            assert uses_kernels(optimizer) == (kernels and optimizer.by_formula)
            optimizer.param_groups[0]["lr"] *= 0.9
        runs[kernels] = bits(params, optimizer)
    assert runs[True] == runs[False]


@needs_kernels
@pytest.mark.parametrize("name", WALKED)
def test_bits_do_not_depend_on_the_threads(name):
    runs = []
    for threads in (1, 2, 3):
        dc.set_num_threads(threads)
        try:
            params = parameters(LARGE)
            optimizer = OPTIMIZERS[name](params, **SETTINGS.get(name, [{}])[-1])
            norms = []
            for step in range(3):
                give_gradients(params, step)
                optimizer.step()
                give_gradients(params, step, skip=False)
                norms.append(optimizer.clipped_step(0.5).item())
            runs.append((bits(params, optimizer, gradients=True), norms))
        finally:
            dc.set_num_threads(2)
    assert runs[0] == runs[1] == runs[2]


def half(w, g, a, b, rate, floor):
    a = maximum(a, g * g)
    step = rate * (g / (sqrt(a) + floor))
    return w - step, a, b + step


class Half(optim.Optimizer):
    """An optimizer with a formula of its own."""

    state_names = ("a", "b")
    rule = Update(half, "a", "b")

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    def update(self, group):
        return self.rule

    def scalars(self, group, step):
        return {"floor": 1e-3 * step, "rate": group["lr"]}


@needs_kernels
def test_a_formula_is_written_once(monkeypatch):
    runs = []
    for kernels in (True, False):
        monkeypatch.setattr(settings, "kernels", kernels)
        params = parameters(SHAPES)
        optimizer = Half(params)
        for step in range(3):
            give_gradients(params, step)
            optimizer.step()
        assert uses_kernels(optimizer) == kernels
        runs.append(bits(params, optimizer))
    assert runs[0] == runs[1] and any(any(b) for b in runs[0][0])
    first, g = parameters([(4,)])[0], np.array([1.0, np.nan, -2.0, 0.5], "f")
    start, twin = first._data.copy(), Half([first])
    first.grad = dc.tensor(g)
    twin.step()
    want = start - np.float32(0.1) * (g / (np.sqrt(g * g) + np.float32(1e-3)))
    np.testing.assert_array_equal(first._data, want)


@needs_kernels
def test_whatever_changes_between_steps_is_noticed(monkeypatch):
    def rebind(params, o):
        params[3].data = params[3].data.clone() + 1

    def moved(params, o):
        o.state[params[2]]["exp_avg"] = o.state[params[2]]["exp_avg"] * 2

    def dropped(params, o):
        del o.state[params[4]]

    def loaded(params, o):
        o.load_state_dict(copy.deepcopy(o.state_dict()))

    def grown(params, o):
        o.add_param_group({"params": parameters([(5,)], seed=9), "lr": 0.5})

    def regrouped(params, o):
        o.param_groups[-1]["params"].append(o.param_groups[0]["params"].pop())

    def replaced(params, o):
        o.param_groups[0] = {**o.param_groups[0], "lr": 0.3}

    def switched(params, o):
        o.param_groups[0].update(amsgrad=True, maximize=True)

    def turned(params, o):
        params[7].data = dc.as_tensor(np.asfortranarray(params[7].array))

    changes = [rebind, moved, dropped, loaded, grown, regrouped, replaced, switched, turned]
    runs = []
    for kernels in (True, False):
        monkeypatch.setattr(settings, "kernels", kernels)
        params = parameters(SHAPES)
        optimizer = optim.Adam(params, lr=0.01)
        for step, change in enumerate([lambda *_: None, *changes, lambda *_: None]):
            change(params, optimizer)
            everything = [p for group in optimizer.param_groups for p in group["params"]]
            everything.sort(key=lambda p: p.numel())
            give_gradients(everything, step)
            optimizer.step()
        runs.append(bits(everything, optimizer))
    assert runs[0] == runs[1]


@needs_kernels
def test_gradients_that_kernels_cannot_read(monkeypatch):
    """Transposed, of another dtype, strided, or the parameter's own memory; then parameters that lie in each other's."""
    runs = []
    for kernels in (True, False):
        monkeypatch.setattr(settings, "kernels", kernels)
        a, b, c, d = params = parameters([(40, 30), (17,), (9,), (8,)])
        rng = np.random.default_rng(3)
        optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
        for _ in range(3):
            a.grad = dc.tensor(rng.standard_normal((30, 40)).astype("f")).T
            b.grad = dc.tensor(rng.standard_normal(17))
            c.grad = dc.tensor(rng.standard_normal(18).astype("f"))[::2]
            d.grad = d.detach()
            optimizer.step()
        assert d.grad._data is d._data
        shared = np.arange(12, dtype="f")
        tied = [nn.Parameter(dc.from_numpy(shared)), nn.Parameter(dc.from_numpy(shared[4:]))]
        other = optim.Adam(tied, lr=0.1)
        for p in tied:
            p.grad = dc.ones_like(p.detach())
        other.step()
        runs.append((bits(params, optimizer), shared.tobytes(), bits(tied, other)))
    assert runs[0] == runs[1]


def test_16_bit_parameters_are_computed_in_float32():
    for dtype in (dc.float16, dc.bfloat16):
        w = nn.Parameter(dc.tensor([1.0, -3.0], dtype=dtype))
        v = nn.Parameter(dc.tensor([1.0, -3.0]))
        both = optim.Adam([w, v], lr=0.1)
        for step in range(4):
            for p in (w, v):
                p.grad = dc.tensor([0.5 + step, 2.0], dtype=p.dtype)
            both.step()
        assert w.dtype == dtype and both.state[w]["exp_avg"].dtype == dtype
        np.testing.assert_allclose(w.detach().float().numpy(), v.detach().numpy(), rtol=2e-2)


# -- all or nothing ---------------------------------------------------------------------------------------------------


def wrong_shape(p):
    p.grad = dc.ones(*p.shape, 2)


def wrong_backend(p):
    p.grad = dc.ones(*p.shape, backend="standin")


@pytest.mark.parametrize("spoil, error", [(wrong_shape, ShapeError), (wrong_backend, BackendError)])
@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", WALKED)
def test_a_gradient_that_does_not_fit_changes_nothing(name, kernels, spoil, error, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels)
    params = parameters([(3, 4), (5,), (6,)])
    optimizer = OPTIMIZERS[name](params)
    for step in range(2):
        before, versions = bits(params, optimizer), [p.version for p in params]
        give_gradients(params, step, skip=False)
        good = params[1].grad
        spoil(params[1])
        with pytest.raises(error):
            optimizer.step()
        assert bits(params, optimizer) == before and [p.version for p in params] == versions
        params[1].grad = good
        optimizer.step()
        assert bits(params, optimizer) != before and [p.version for p in params] == [v + 1 for v in versions]


@pytest.mark.parametrize("kernels", [True, False])
def test_memory_that_cannot_be_had_changes_nothing(kernels, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels)
    params = parameters([(3,), (4,), (5,)])
    optimizer = optim.Adam(params, amsgrad=True)
    give_gradients(params, 0, skip=False)
    before, real, made = bits(params, optimizer), np.zeros_like, itertools.count()

    def full(x):
        if next(made) == 7:
            raise MemoryError
        return real(x)

    monkeypatch.setitem(params[0].backend.__dict__, "zeros_like", full)
    with pytest.raises(MemoryError):
        optimizer.step()
    assert bits(params, optimizer) == before and not optimizer.state
    monkeypatch.undo()
    optimizer.step()
    assert len(optimizer.state) == 3


def test_a_read_only_parameter_changes_nothing():
    params = parameters([(3,), (4,)])
    optimizer = optim.SGD(params, lr=0.1, momentum=0.9)
    for _ in range(2):
        give_gradients(params, 0, skip=False)
        params[1]._data.flags.writeable = False
        before = bits(params, optimizer)
        with pytest.raises(ValueError, match="read-only"):
            optimizer.step()
        assert bits(params, optimizer) == before
        params[1]._data.flags.writeable = True
        optimizer.step()


class Stop(BaseException):
    pass


TOOL = 3  # of `sys.monitoring`, one of those that are nobody's

OWN = (
    "optim/plan.py",
    "optim/optimizer.py",
    "optim/adam.py",
    "kernels/cpu/optimizer.py",
    "kernels/runtime/threadpool.py",
    "nn/utils/clip_grad.py",
)
WRITING = ("run", "clipped_step", "_update", "_apply_others", "apply", "forward")


@functools.cache
def places(code):
    """Where `Stop` is raised in code of the files above: each line's first instruction; all of them in what writes."""
    if not code.co_filename.endswith(OWN):
        return ()
    every = 2 if code.co_name in WRITING else len(code.co_code)
    return {offset for start, stop, line in code.co_lines() if line for offset in range(start, stop, every)}


def interrupted(call, at):
    """Run `call` with `Stop` raised before instruction number `at` of `places`; whether it came to that."""
    seen = 0

    def instruction(code, offset):
        nonlocal seen
        if offset in places(code):
            seen += 1
            if seen == at:
                raise Stop

    def trace(frame, event, argument):
        frame.f_trace_opcodes, frame.f_trace_lines = bool(places(frame.f_code)), False
        if event == "opcode":
            instruction(frame.f_code, frame.f_lasti)
        return trace

    # What `settrace` raises at a jump back passes the handlers by (python/cpython#152375), so not where there is better.
    watch = getattr(sys, "monitoring", None)
    if watch is None:
        sys.settrace(trace)
    else:
        watch.use_tool_id(TOOL, "interrupted")
        watch.register_callback(TOOL, watch.events.INSTRUCTION, instruction)
        watch.set_events(TOOL, watch.events.INSTRUCTION)
    try:
        call()
    except Stop:
        return True
    finally:
        if watch is None:
            sys.settrace(None)
        else:
            watch.set_events(TOOL, 0)
            watch.free_tool_id(TOOL)
    return False


def template(case, steps):
    """An optimizer after some steps, with gradients for the next one."""
    params = parameters([(3, 2), (70,), ()])
    if case == "mixed":
        params.append(nn.Parameter(dc.tensor(np.asfortranarray(np.ones((2, 3), "f")))))
        params[-1].data = dc.as_tensor(np.asfortranarray(params[-1].array))
    optimizer = optim.Adam(params, lr=0.1, amsgrad=True)
    for step in range(steps):
        give_gradients(params, step, skip=False)
        optimizer.step()
    give_gradients(params, steps, skip=False, scale=5.0)
    return params, optimizer


@pytest.mark.parametrize(
    "case", ["kernels", "reference", "mixed", pytest.param("clipped", marks=needs_kernels), "clipped apart"]
)
@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("stride", [pytest.param(3, marks=pytest.mark.slow), 7])
@pytest.mark.skipif(sys.gettrace() is not None, reason="something else is tracing")
def test_an_exception_anywhere_leaves_all_old_or_all_new(case, steps, stride, monkeypatch):
    """As a signal's handler may raise one between any two instructions."""
    monkeypatch.setattr(settings, "kernels", case not in ("reference", "clipped apart"))

    def advance(o):
        return o.clipped_step(0.5, 3.0, keep=case != "clipped") if "clipped" in case else o.step()

    params, optimizer = template(case, steps)
    old = bits(params, optimizer, gradients=True)
    advance(optimizer)
    new = bits(params, optimizer, gradients=True)
    assert old != new
    ends = set()
    for at in itertools.count(1, stride):
        params, optimizer = template(case, steps)
        reached = interrupted(lambda o=optimizer: advance(o), at)
        found = bits(params, optimizer, gradients=True)
        assert found in (old, new), f"half a step after event {at}"
        ends.add(found == new)
        assert optimizer._stepped == bool(steps + (found == new))
        assert found == old or all(p.version for p in params)
        if not reached:
            break
        if found == old:  # it goes on
            advance(optimizer)
            assert bits(params, optimizer, gradients=True) == new
    assert at > 50 and ends == {False, True}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals are the main thread's")
def test_signals_leave_all_old_or_all_new():
    params = parameters([(40_000,), (30,), (50, 60)])
    optimizer = optim.Adam(params, lr=0.1)
    for p in params:
        p.grad = dc.ones_like(p.detach())

    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    stopped = 0
    try:
        for trial in range(120):
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-5 + 3e-6 * trial)
                while True:
                    optimizer.step()
            except Stop:
                stopped += 1
            steps = {entry["step"] for entry in optimizer.state.values()} or {0}
            assert len(steps) == 1 and len(optimizer.state) in (0, 3)
            (step,) = steps
            assert optimizer._stepped == (step > 0) and {p.version for p in params} == {step}
            # The mean of gradients of 1 tells how often it was updated.
            for entry in optimizer.state.values():
                mean = entry["exp_avg"].reshape(-1)
                assert mean[0] == mean[-1] and mean[0] == pytest.approx(1 - 0.9**step, rel=1e-5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert stopped == 120


class Custom(optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    def init(self, parameter):
        return {"step": 0, "sum": parameter.backend.zeros_like(parameter._data)}

    def apply(self, parameter, gradient, state, group):
        state["step"] += 1
        state["sum"] += gradient
        parameter._data -= state["sum"]
        if gradient.size == 5 and state["step"] == 2:
            raise KeyboardInterrupt


def test_an_apply_that_fails_is_undone(backend):
    params = [nn.Parameter(dc.ones(n, backend=backend)) for n in (3, 4, 5)]
    optimizer = Custom(params)

    def now():
        return [p.tolist() for p in params], [
            {k: v if isinstance(v, int) else v.tolist() for k, v in optimizer.state[p].items()} for p in params
        ]

    for p in params:
        p.grad = dc.ones_like(p.detach())
    optimizer.step()
    before = now()
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert now() == before and [s["step"] for s in before[1]] == [1, 1, 1]


# -- clipping -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kernels", [True, False])
def test_clip_grad_norm_against_float64_and_torch(dtype, kernels, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(settings, "kernels", kernels)
    rtol = 3e-7 if dtype == "float32" else 1e-14
    for shapes, limit in ((SHAPES, 0.5), (LARGE, 3.0), (LARGE, 1e9), ([(0,)], 1.0)):
        params = parameters(shapes, dtype)
        give_gradients(params, 0, skip=False)
        theirs = [torch.nn.Parameter(torch.zeros(p.shape, dtype=getattr(torch, dtype))) for p in params]
        for p, q in zip(params, theirs):
            q.grad = torch.tensor(p.grad.numpy())
        exact = np.sqrt(sum(float((p.grad.numpy().astype("d") ** 2).sum()) for p in params))
        got = nn.utils.clip_grad_norm_(params, limit)
        assert got.dtype == dtype and got.shape == () and got.item() == pytest.approx(exact, rel=rtol)
        torch.nn.utils.clip_grad_norm_(theirs, limit)
        for p, q in zip(params, theirs):
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=10 * rtol)


@needs_kernels
def test_norms_that_float32_cannot_sum():
    params = parameters([(3,), (2,)])
    for value in (3e30, 2e-30):
        for p in params:
            p.grad = dc.full(p.shape, value)
        assert nn.utils.get_total_norm([p.grad for p in params]).item() == pytest.approx(value * 5**0.5, rel=1e-6)


@pytest.mark.parametrize("kernels", [pytest.param(True, marks=needs_kernels), False])
@pytest.mark.parametrize("limits", [{"max_norm": 0.7}, {"max_norm": 1e6}, {"clip_value": 0.6},
                                    {"max_norm": 2.0, "clip_value": 0.9}])  # fmt: skip
@pytest.mark.parametrize("shapes", [SHAPES, LARGE])
def test_clipping_on_the_way_has_the_bits_of_clipping_first(limits, shapes, kernels, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels)
    runs = []
    for way in ("separate", "at once", "not kept"):
        params = parameters(shapes)
        params.append(nn.Parameter(dc.tensor([1.5, 2.5], dtype=dc.float64)))
        optimizer = optim.AdamW(params, weight_decay=0.1, lr=0.1)
        norms = []
        for step in range(3):
            give_gradients(params, step, skip=False)
            gradients = [p.grad.clone() for p in params]
            if way == "separate":
                if "clip_value" in limits:
                    nn.utils.clip_grad_value_(params, limits["clip_value"])
                norms.append(nn.utils.clip_grad_norm_(params, limits["max_norm"]) if "max_norm" in limits else None)
                optimizer.step()
            else:
                norms.append(optimizer.clipped_step(**limits, keep=way == "at once"))
                assert uses_kernels(optimizer) == kernels
        if way == "not kept" and kernels:
            assert all((p.grad._data == g._data).all() for p, g in zip(params, gradients))
            give_back = runs[0][0][0][len(params) : 2 * len(params)]
            found = bits(params, optimizer, gradients=True)
            found[0][len(params) : 2 * len(params)] = give_back
        else:
            found = bits(params, optimizer, gradients=True)
        runs.append((found, [n if n is None else (n.dtype, n.item()) for n in norms]))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("kernels", [True, False])
def test_a_norm_that_is_not_finite(kernels, monkeypatch):
    monkeypatch.setattr(settings, "kernels", kernels)
    params = parameters([(3,), (4,)])
    optimizer = optim.Adam(params, lr=0.1)
    give_gradients(params, 0, skip=False)
    params[1].grad._data[2] = np.nan
    gradients = [p.grad.tolist() for p in params]
    before = bits(params, optimizer)
    with pytest.raises(NonFiniteError, match="tail"):
        optimizer.clipped_step(1.0, error_if_nonfinite=True, named=[("head", params[0]), ("tail", params[1])])
    with pytest.raises(NonFiniteError, match=r"number 1 \(shape \(4,\)\)"):
        optimizer.clipped_step(1.0, error_if_nonfinite=True)
    assert bits(params, optimizer) == before and repr([p.grad.tolist() for p in params]) == repr(gradients)
    assert np.isnan(optimizer.clipped_step(1.0).item())  # PyTorch's way
    assert all(np.isnan(p.numpy()).all() for p in (q.detach() for q in params))


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("dtype, wrong", [("float32", np.inf), ("float64", np.nan), ("float16", -np.inf)])
@pytest.mark.parametrize("shapes, at", [([(3,), (4,)], 2), ([(70_000,), (0,), (129, 300)], 38_699), ([(65,), ()], 0)])
def test_a_step_that_checks_gradients(shapes, at, dtype, wrong, kernels, monkeypatch):
    """Without a limit every number is looked at; large ones are fine though their norm overflows."""
    monkeypatch.setattr(settings, "kernels", kernels)
    params = parameters(shapes, dtype)
    optimizer = optim.SGD(params, lr=1e-4, momentum=0.9)
    give_gradients(params, 0, skip=False)
    params[0].grad._data[0] = np.finfo(dtype).max
    assert optimizer.clipped_step(error_if_nonfinite=True) is None
    give_gradients(params, 1, skip=False)
    params[-1].grad._data.reshape(-1)[at] = wrong
    before = bits(params, optimizer, gradients=True)
    with pytest.raises(NonFiniteError, match=rf"gradient of number {len(shapes) - 1} \(shape"):
        optimizer.clipped_step(error_if_nonfinite=True)
    with pytest.raises(NonFiniteError, match="gradient of tail"):
        optimizer.clipped_step(clip_value=1.0, error_if_nonfinite=True, named=[("tail", params[-1])])
    assert bits(params, optimizer, gradients=True) == before
    with pytest.raises(NonFiniteError, match="gradient of tail"):
        nn.utils.check_gradients([("head", params[0]), ("tail", params[-1])])
    optimizer.clipped_step()  # nobody asked
    assert not np.isfinite(params[-1]._data).all()


def test_clipping_without_gradients_and_with_gradients_that_are_one_tensor():
    params = parameters([(3,), (3,)])
    optimizer = optim.SGD(params, lr=1.0)
    assert optimizer.clipped_step(1.0).item() == 0 and optimizer._stepped
    assert optimizer.clipped_step(clip_value=1.0) is None
    start = [p.detach().clone() for p in params]
    params[0].grad = params[1].grad = dc.full((3,), 4.0)
    optimizer.clipped_step(clip_value=1.0)  # clipped twice, which by value is once
    assert all((p.detach() == s - 1).all() for p, s in zip(params, start))


def test_an_optimizer_with_a_step_of_its_own_is_asked_for_it():
    class Counting(optim.SGD):
        calls = 0

        def step(self, closure=None):
            self.calls += 1
            return super().step(closure)

    (p,) = parameters([(3,)])
    optimizer = Counting([p], lr=1.0)
    start = p.detach().clone()
    p.grad = dc.full((3,), 10.0)
    optimizer.clipped_step(1.0)
    assert optimizer.calls == 1 and float(((p.detach() - start) ** 2).sum() ** 0.5) == pytest.approx(1.0, rel=1e-5)
