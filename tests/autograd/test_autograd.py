"""The graph and backward over it: order, memory, in-place writes, views, custom functions, transforms, hooks."""

from __future__ import annotations

import collections
import gc
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import deepcore as dc
from deepcore import errors
from deepcore.autograd import engine
from deepcore.config import settings
from deepcore.ops import registry
from deepcore.tensor import from_raw


def leaf(values, backend="cpu", dtype="float64"):
    return dc.tensor(values, dtype=dtype, backend=backend, requires_grad=True)


def close(t, expected, **kw):
    np.testing.assert_allclose(t.detach().numpy(), expected, **{"rtol": 1e-12, **kw})


# -- backward ---------------------------------------------------------------------------------------------------


def test_gradients_add_up_over_uses_and_calls(backend):
    x = leaf([1.0, 2.0], backend)
    (x * x + x).sum().backward()
    close(x.grad, [3.0, 5.0])
    (x * 2).sum().backward()
    close(x.grad, [5.0, 7.0])


def test_a_chain_of_100_000_ops_neither_overflows_nor_leaks():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    close(x.grad, 1.0)
    z = x
    for _ in range(100_000):
        z = z * 1.0
    gc.disable()
    try:
        node = weakref.ref(z._node)
        del z  # dropped without backward
        assert node() is None
    finally:
        gc.enable()


def test_graph_memory_goes_back_without_the_garbage_collector(backend):
    gc.disable()
    try:
        x = leaf(np.ones((4, 4)), backend)
        y = dc.exp(x @ x)
        z = (y * y).softmax(1).sum()
        watched = [weakref.ref(y), weakref.ref(y._node), weakref.ref(z._node)]
        z.backward()
        del y, z
        assert [w() for w in watched] == [None, None, None]
        head = x[0] * 2  # views link base and view, without a cycle
        view = head[:2]
        watched = [weakref.ref(head), weakref.ref(view)]
        view.mul_(3.0)
        del head, view
        assert [w() for w in watched] == [None, None]
    finally:
        gc.enable()


def test_backward_frees_what_it_passed(backend):
    x = leaf([1.0, 2.0], backend)
    y = dc.exp(x)
    loss = y.sum()
    loss.backward()
    with pytest.raises(errors.GradientError, match="retain_graph"):
        loss.backward()
    x.grad = None
    loss = dc.exp(x).sum()
    loss.backward(retain_graph=True)
    loss.backward()
    close(x.grad, 2 * np.exp([1.0, 2.0]))


def test_only_saved_arrays_are_kept_alive():
    x = leaf(np.ones(3))
    a = x * 1.0
    b = a + 1.0  # the gradient of a sum reads neither operand
    data = weakref.ref(a)
    del a
    assert data() is None
    b.sum().backward()
    close(x.grad, [1.0, 1.0, 1.0])


def test_first_gradients_do_not_share_memory():
    a, b = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    start = dc.ones(2, dtype="float64")
    (a + b).backward(start)
    a.grad.zero_()
    close(b.grad, [1.0, 1.0])
    close(start, [1.0, 1.0])
    c = leaf([1.0, 2.0])
    y = c + 0.0
    y.retain_grad()
    y.sum().backward()
    c.grad.zero_()
    close(y.grad, [1.0, 1.0])


class Dot(dc.autograd.Function):
    """A backward that hands out its saved input itself."""

    @staticmethod
    def forward(ctx, w, x):
        ctx.save_for_backward(x)
        return (w * x).sum()

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors[0], None


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_first_gradient_that_someone_else_holds_is_copied(create_graph):
    w, x = leaf([1.0, 2.0]), dc.tensor([3.0, 4.0], dtype="float64")
    for _ in range(2):
        Dot.apply(w, x).backward(create_graph=create_graph)
    w.grad.detach().zero_()
    close(x, [3.0, 4.0])
    v, seen = leaf([1.0, 2.0]), []
    y = v + 0.0
    y.register_hook(lambda g: seen.append(g))
    (y * 1.0).sum().backward()
    (v + 0.0).sum().backward()
    close(v.grad, [2.0, 2.0])
    close(seen[0], [1.0, 1.0])


def test_threads_add_to_the_gradient_of_one_leaf_in_turn(monkeypatch):
    inside, together = [], []
    accumulate = engine.accumulate

    def slow(*args):
        inside.append(0)
        time.sleep(0.001)
        together.append(len(inside))
        accumulate(*args)
        inside.pop()

    monkeypatch.setattr(engine, "accumulate", slow)
    w = leaf([1.0, 2.0])
    threads = [threading.Thread(target=lambda: [(w * 1.0).sum().backward() for _ in range(5)]) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    close(w.grad, [20.0, 20.0])
    assert max(together) == 1


@pytest.mark.parametrize(
    "start, error",
    [
        (lambda: dc.ones(3).backward(), errors.GradientError),
        (lambda: (leaf([1.0, 2.0]) * 2).backward(), errors.GradientError),
        (lambda: (leaf([1.0, 2.0]) * 2).backward(dc.ones(3)), errors.ShapeError),
        (lambda: dc.tensor([1, 2], requires_grad=True), errors.DTypeError),
        (lambda: dc.autograd.grad((leaf(1.0) * 2), leaf(1.0)), errors.GradientError),
        (lambda: leaf([1.0]).numpy(), errors.GradientError),
        (lambda: (leaf([1.0]) * 2).requires_grad_(False), errors.GradientError),
    ],
)
def test_what_cannot_be_differentiated_says_so(start, error):
    with pytest.raises(error) as caught:
        start()
    assert "fix:" in str(caught.value) or "expected:" in str(caught.value)


def test_gradient_of_a_dtype_conversion_comes_back_in_the_old_dtype(backend):
    x = leaf([1.0, 2.0], backend)
    (x.float() * 3).sum().backward()
    assert x.grad.dtype == dc.float64
    close(x.grad, [3.0, 3.0])


def test_an_interrupted_backward_leaves_gradients_alone():
    class Fails(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            raise KeyboardInterrupt

    x, w = leaf([1.0]), leaf([2.0])
    with pytest.raises(KeyboardInterrupt):
        (Fails.apply(x) + w * w).sum().backward()
    assert x.grad is None and w.grad is None
    assert dc.is_grad_enabled()


# -- autograd.grad and higher orders ------------------------------------------------------------------------------


def test_grad_of_grad(backend):
    x = leaf([0.3, 0.7], backend)
    (g,) = dc.autograd.grad((x**3).sum(), x, create_graph=True)
    close(g, 3 * np.array([0.3, 0.7]) ** 2)
    (gg,) = dc.autograd.grad(g.sum(), x, create_graph=True)
    close(gg, 6 * np.array([0.3, 0.7]))
    (ggg,) = dc.autograd.grad(gg.sum(), x)
    close(ggg, [6.0, 6.0])
    assert x.grad is None


def test_grad_visits_only_what_leads_to_the_inputs():
    x, w = leaf([2.0]), leaf([3.0])
    reached = []
    y = w * 5
    y.register_hook(reached.append)
    (g,) = dc.autograd.grad((x * x + y).sum(), x)
    close(g, [4.0])
    assert not reached and w.grad is None


def test_grad_with_respect_to_an_intermediate():
    x = leaf([2.0])
    y = x * x
    (g,) = dc.autograd.grad((y * 3).sum(), y)
    close(g, [3.0])
    unused = leaf([1.0])
    assert dc.autograd.grad(y.sum(), [x, unused], allow_unused=True, retain_graph=True)[1] is None


def test_what_grad_and_backward_take_of_pytorch(backend):
    """Unused inputs as zeros, several outputs at once, and gradients for some leaves or intermediates alone."""
    x, w, unused = leaf([2.0, 3.0], backend), leaf([5.0, 7.0], backend), leaf([1.0], backend)
    y = x * w
    gx, gu = dc.autograd.grad(y.sum(), (x, unused), only_inputs=True, retain_graph=True, materialize_grads=True)
    close(gx, [5.0, 7.0])
    close(gu, [0.0])
    dc.autograd.backward([y, y.sum()], [dc.ones_like(y), None], retain_graph=True, inputs=[x])
    close(x.grad, [10.0, 14.0])
    assert w.grad is None and y.grad is None
    y.sum().backward(inputs=(y, w))
    close(y.grad, [1.0, 1.0])
    close(w.grad, [2.0, 3.0])
    close(x.grad, [10.0, 14.0])
    for call in (
        lambda: dc.autograd.grad(y.sum(), x, only_inputs=False),
        lambda: dc.autograd.grad(y.sum(), x, allow_unused=False, materialize_grads=True),
        lambda: dc.autograd.backward([x.sum()], [dc.ones_like(y), None]),
        lambda: y.sum().backward(inputs=[]),
    ):
        with pytest.raises(errors.ArgumentError):
            call()


def test_hessian_vector_product_of_a_network():
    w = leaf(np.linspace(-1, 1, 6).reshape(2, 3))
    x = dc.tensor([[0.5, -0.2], [0.1, 0.9]], dtype="float64")
    dc.autograd.gradgradcheck(lambda w: ((x @ w).tanh() ** 2).sum(), w)


# -- in place and views --------------------------------------------------------------------------------------------


def test_slice_assignment_sends_the_gradient_to_both_sides(backend):
    x, v = leaf([1.0, 2.0, 3.0], backend), leaf([5.0], backend)
    y = x * 2
    y[1:2] = v * 3
    (y * y).sum().backward()
    close(x.grad, [2 * 2 * 2.0, 0, 2 * 6 * 2.0])
    close(v.grad, [2 * 15 * 3.0])


def test_writing_through_a_view_reaches_base_and_siblings(backend):
    x = leaf(np.arange(6.0).reshape(2, 3), backend)
    y = x * 1.0
    row, column, flat = y[0], y[:, 1], y.reshape(6)
    row.mul_(10.0)
    close(column, [10.0, 4.0])
    (column.sum() + flat[0] * 0).backward()
    close(x.grad, [[0, 10.0, 0], [0, 1.0, 0]])


def test_writing_a_graph_into_a_plain_tensor(backend):
    x = leaf([1.0, 2.0], backend)
    table = dc.zeros(2, 2, dtype="float64", backend=backend)
    early = table[1]
    table[0] = x * 3
    table[1] += x
    assert table.requires_grad and early.requires_grad
    (early * early).sum().backward()
    close(x.grad, [2.0, 4.0])


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.add_(1.0),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x[0].mul_(2.0),
        lambda x: x.reshape(-1).zero_(),
        lambda x: x.T.copy_(dc.ones(2, 2)),
    ],
)
def test_a_leaf_that_requires_grad_is_not_written(write):
    x = leaf(np.ones((2, 2)))
    with pytest.raises(errors.GradientError, match="leaf"):
        write(x)
    close(x, np.ones((2, 2)))
    with dc.no_grad():
        write(x)


@pytest.mark.parametrize("op", ["exp", "sigmoid", "tanh", "sqrt"])
def test_an_overwritten_output_is_refused(op, backend):
    x = leaf([1.0, 2.0], backend)
    y = getattr(x, op)()
    loss = y.sum()
    y += 1
    with pytest.raises(errors.GradientError, match="overwritten"):
        loss.backward()


def test_an_overwritten_input_is_refused_also_through_a_view(backend):
    x, w = leaf([1.0, 2.0], backend), dc.ones(2, dtype="float64", backend=backend)
    loss = (x * w).sum()
    w[0:1].fill_(7.0)
    with pytest.raises(errors.GradientError, match="overwritten"):
        loss.backward()
    loss = (x * w).sum()
    w.data = w.data * 2  # a rebound array is noticed too
    with pytest.raises(errors.GradientError, match="overwritten"):
        loss.backward()


def test_expanded_memory_is_not_written():
    with pytest.raises(errors.GradientError, match="expanded"):
        dc.zeros(3, 1).expand(3, 4).add_(1.0)


def test_read_only_memory_is_not_written():
    array = np.arange(3.0)
    array.flags.writeable = False
    with pytest.raises(errors.GradientError, match="read-only"):
        dc.from_numpy(array)[0] = 1.0


def test_a_view_is_not_detached_in_place():
    y = leaf([1.0, 2.0]) * 1
    with pytest.raises(errors.GradientError, match="view"):
        y[:1].detach_()
    assert not y.detach_().requires_grad


@pytest.mark.parametrize("wrong", [np.ones(2), 1.0, dc.ones(3, dtype="float64")])
def test_what_is_set_as_grad_is_checked(wrong):
    w = leaf([1.0, 2.0])
    w.grad = wrong
    with pytest.raises(errors.GradientError, match="grad holds"):
        (w * 1).sum().backward()
    w.grad = dc.ones(1, dtype="float64").expand(2)
    (w * 1).sum().backward()
    close(w.grad, [2.0, 2.0])


def test_detach_shares_memory_and_versions():
    x = leaf([1.0, 2.0])
    y = x * 2
    loss = (y * y).sum()
    y.detach().zero_()
    close(y, [0.0, 0.0])
    with pytest.raises(errors.GradientError, match="overwritten"):
        loss.backward()


@pytest.mark.parametrize("method, fix", [("add_", "makes a new tensor"), ("pow_", "makes a new tensor")])
def test_in_place_results_must_fit(method, fix):
    with pytest.raises(errors.ShapeError, match=fix):
        getattr(dc.ones(3), method)(dc.ones(2, 3))
    with pytest.raises(errors.DTypeError):
        dc.ones(3, dtype="int64").add_(0.5)


# -- modes, hooks, threads -------------------------------------------------------------------------------------------


def test_no_grad_and_enable_grad_nest_and_decorate():
    x = leaf([1.0])

    @dc.no_grad()
    def quiet():
        assert not dc.is_grad_enabled()
        with dc.enable_grad():
            assert (x * 2).requires_grad
        return x * 2

    assert not quiet().requires_grad
    with pytest.raises(ZeroDivisionError), dc.no_grad():
        raise ZeroDivisionError
    assert dc.is_grad_enabled()
    with dc.set_grad_enabled(False):
        assert not (x * 2).requires_grad
    assert dc.is_grad_enabled()


def test_grad_modes_decorate_without_parentheses_and_generators():
    @dc.no_grad
    def bare():
        """kept"""
        return dc.is_grad_enabled()

    assert bare() is False and bare.__doc__ == "kept"

    @dc.no_grad()
    def steps(n):
        try:
            for _ in range(n):
                assert (yield dc.is_grad_enabled()) in (None, "sent")
        except KeyError:
            yield "caught", dc.is_grad_enabled()
        return "end"

    generator = steps(3)
    assert next(generator) is False and dc.is_grad_enabled()
    assert generator.send("sent") is False
    assert generator.throw(KeyError()) == ("caught", False) and dc.is_grad_enabled()
    with pytest.raises(StopIteration, match="end"):
        next(generator)
    unfinished = steps(2)
    next(unfinished)
    unfinished.close()
    assert dc.is_grad_enabled()


def test_set_grad_enabled_as_a_decorator_and_reused():
    @dc.set_grad_enabled(False)
    def quiet():
        return dc.is_grad_enabled()

    assert dc.is_grad_enabled() and not quiet() and dc.is_grad_enabled()
    off = dc.set_grad_enabled(False)
    for _ in range(2):
        with off:
            assert not dc.is_grad_enabled()
        assert dc.is_grad_enabled()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs an interval timer")
def test_a_signal_handler_may_compute_while_an_op_runs():
    sums = []
    before = signal.signal(signal.SIGALRM, lambda *_: sums.append((leaf([1.0, 2.0]) * 2).sum().item()))
    x = dc.ones(20_000, dtype="int64")
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(20_000):
            x**3  # its forward is Python, so the handler runs in the middle of it
            if len(sums) > 20:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(sums) > 20 and set(sums) == {6.0}


def test_modes_belong_to_their_thread():
    seen = []
    with dc.no_grad():
        thread = threading.Thread(target=lambda: seen.append(dc.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_threads_build_and_walk_graphs_at_once():
    w = leaf(np.ones((8, 8)))
    wrong = []

    def work(k):
        for _ in range(50):
            (g,) = dc.autograd.grad(((w * k) @ w).sum(), w)
            if not np.allclose(g.numpy(), 16.0 * k):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong


def test_tensor_hooks_see_and_replace_gradients():
    x = leaf([1.0, 2.0])
    y = x * 2
    seen = []
    handle = y.register_hook(lambda g: seen.append(g) or g * 10)
    x.register_hook(lambda g: g + 1)
    y.sum().backward()
    close(x.grad, [21.0, 21.0])
    close(seen[0], [1.0, 1.0])
    handle.remove()
    x.grad = None
    (x * 2).sum().backward()
    close(x.grad, [3.0, 3.0])


def test_each_registration_of_a_hook_is_removed_alone():
    x, seen = leaf([1.0]), []
    hook = seen.append
    first = x.register_hook(hook)
    x.register_hook(hook)
    first.remove()
    (x * 2).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("wrong, error", [(3.0, errors.ArgumentError), (dc.ones(3), errors.ShapeError)])
def test_what_a_hook_returns_is_checked(wrong, error):
    x = leaf([1.0, 2.0])
    x.register_hook(lambda g: wrong)
    with pytest.raises(error, match="hook"):
        (x * 2).sum().backward()
    assert x.grad is None


def test_a_watcher_may_use_ops_itself():
    totals = []

    def watch(proceed, op, inputs, params):
        out = proceed(op, inputs, params)
        totals.append((op.name, out.sum().item()))
        return out

    with dc.autograd.profile() as p, dc.autograd.intercept(watch):
        dc.ones(2) + 1
    assert totals == [("add", 4.0)]
    assert {name for name, _, _ in p.rows} == {"add", "sum"}  # the outer one sees what the inner one does


def test_every_op_passes_the_choke_point(backend):
    names = []

    def watch(proceed, op, inputs, params):
        names.append(op.name)
        return proceed(op, inputs, params)

    x = leaf([1.0, 2.0], backend)
    with dc.autograd.intercept(watch):
        (x * 2).exp().sum().backward()
    assert names[:3] == ["mul", "exp", "sum"] and len(names) > 4  # the backward pass too
    count = len(names)
    _ = x + 1
    assert len(names) == count


def test_profile_counts_ops():
    x = leaf([1.0, 2.0])
    with dc.autograd.profile() as p:
        for _ in range(3):
            x.exp().sum().backward()
    rows = {name: calls for name, calls, _ in p.rows}
    assert rows["exp"] == 3 and rows["mul (backward)"] == 3
    assert "calls" in str(p)
    q = dc.autograd.profile()

    @q
    def twice(n):
        x.exp()
        return n and twice(n - 1)

    twice(1)
    assert [(name, calls) for name, calls, _ in q.rows] == [("exp", 2)]
    x.exp()
    assert q.rows[0][1] == 2


def test_anomaly_detection_as_a_switch():
    def broken():
        x = dc.zeros(1, requires_grad=True)
        (x.sqrt() * 0).backward()

    try:
        dc.autograd.set_detect_anomaly(True)
        assert dc.autograd.is_anomaly_enabled()
        dc.log(dc.zeros(1))  # an infinity in a forward pass is none
        with pytest.raises(errors.NonFiniteError, match="backward"):
            broken()
        with dc.autograd.set_detect_anomaly(False):
            broken()
        assert dc.autograd.is_anomaly_enabled()
    finally:
        dc.autograd.set_detect_anomaly(False)
    broken()
    with dc.autograd.set_detect_anomaly(True), pytest.raises(errors.NonFiniteError):
        broken()
    assert not dc.autograd.is_anomaly_enabled()


def test_detect_anomaly_names_the_op():
    x = leaf([-1.0])
    with pytest.raises(errors.NonFiniteError, match="log"), dc.autograd.detect_anomaly():
        dc.log(x) + 1
    zero = leaf([0.0])
    with pytest.raises(errors.NonFiniteError, match="backward"), dc.autograd.detect_anomaly():
        dc.sqrt(zero).sum().backward()


# -- Function ----------------------------------------------------------------------------------------------------------


class Cube(dc.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * x * x * scale

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x * x * ctx.scale, None


class ExpAndSquare(dc.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        e, s = dc.exp(x), y * y
        ctx.save_for_backward(e, y)
        return e, s

    @staticmethod
    def backward(ctx, ge, gs):
        e, y = ctx.saved_tensors
        return ge * e, gs * 2 * y


def test_custom_function(backend):
    x = leaf([1.0, -2.0], backend)
    assert dc.autograd.gradcheck(lambda t: Cube.apply(t, 2.0), x)
    assert dc.autograd.gradgradcheck(lambda t: Cube.apply(t, 2.0), x)


def test_custom_function_with_two_outputs(backend):
    x, y = leaf([0.3, 0.5], backend), leaf([1.0, 2.0], backend)
    assert dc.autograd.gradcheck(ExpAndSquare.apply, (x, y))
    assert dc.autograd.gradgradcheck(ExpAndSquare.apply, (x, y))
    e, _ = ExpAndSquare.apply(x, y)
    e.sum().backward()
    close(x.grad, np.exp([0.3, 0.5]))
    close(y.grad, [0.0, 0.0])


def test_custom_function_reports_wrong_gradients():
    class Wrong(Cube):
        @staticmethod
        def backward(ctx, g):
            return g.sum(), None

    with pytest.raises(errors.ShapeError, match="Wrong"):
        Wrong.apply(leaf([1.0, 2.0])).sum().backward()
    with pytest.raises(errors.GradientError, match="is wrong"):
        dc.autograd.gradcheck(lambda t: Cube.apply(t) + t.detach() * t, leaf([1.0, 2.0]))


@pytest.mark.parametrize(
    "returns, expected",
    [
        (lambda g: g.float(), [1.0, 1.0]),  # converted to the argument's dtype
        (lambda g: dc.ones(3, 2, dtype="float64"), [3.0, 3.0]),  # summed to the argument's shape
        (lambda g: np.ones(2), errors.GradientError),
        (lambda g: 1.0, errors.GradientError),
        (lambda g: dc.ones(3, dtype="float64"), errors.ShapeError),
        (lambda g: (g, g), errors.GradientError),
    ],
)
def test_what_a_custom_backward_returns_is_fitted_or_refused(returns, expected):
    class Double(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return returns(g)

    x = leaf([1.0, 2.0])
    if isinstance(expected, list):
        Double.apply(x).sum().backward()
        close(x.grad, expected)
        assert x.grad.dtype == dc.float64
    else:
        with pytest.raises(expected, match=r"Double\.backward"):
            Double.apply(x).sum().backward()


def test_a_custom_forward_is_checked():
    class Any(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x, act, *, scale=None):
            return act(ctx, x)

    x = leaf([1.0])
    with pytest.raises(errors.ArgumentError, match=r"Any\.forward returns"):
        Any.apply(x, lambda ctx, x: None)
    with pytest.raises(errors.ArgumentError, match="save_for_backward"):
        Any.apply(x, lambda ctx, x: ctx.save_for_backward(x, 2.0) or x)
    with pytest.raises(errors.GradientError, match="scale"):
        Any.apply(x, lambda ctx, x: x, scale=leaf(2.0))


def test_gradcheck_refuses_a_gradient_that_is_cut_off():
    with pytest.raises(errors.GradientError, match="is wrong"):
        dc.autograd.gradcheck(lambda t: t.detach() * 2, leaf([1.0, 2.0]))
    assert dc.autograd.gradcheck(lambda t: t.detach() * 0, leaf([1.0, 2.0]))  # no gradient, and none is due
    with pytest.raises(errors.GradientError, match="no output"):
        dc.autograd.gradgradcheck(lambda t: t.detach() * 2, leaf([1.0, 2.0]))
    with pytest.raises(errors.ArgumentError, match="returns tensors"):
        dc.autograd.gradcheck(lambda t: 2.0, leaf([1.0]))


def test_gradcheck_leaves_its_inputs_as_they_were():
    x = leaf([1.0, 2.0, 3.0])
    loss = (x * x).sum()
    view = x[1:]
    assert dc.autograd.gradcheck(lambda t: t * t, view)
    calls = []

    def fails(t):
        calls.append(t)
        if len(calls) > 4:
            raise ZeroDivisionError
        return t * t

    with pytest.raises(ZeroDivisionError):
        dc.autograd.gradcheck(fails, x)
    assert x.tolist() == [1.0, 2.0, 3.0] and view._base[0] is x
    loss.backward()
    close(x.grad, [2.0, 4.0, 6.0])


@pytest.mark.parametrize("output", [lambda x: x, lambda x: x[:1], lambda x: x.reshape(2, 1)])
def test_writing_an_output_that_is_an_argument_leaves_the_argument_alone(output, backend):
    class Same(dc.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return output(x)

        @staticmethod
        def backward(ctx, g):
            return dc.ones(2, dtype=g.dtype, backend=g.backend) * g.sum()

    x = leaf([1.0, 2.0], backend) * 1.0
    y = Same.apply(x)
    y.mul_(10.0)
    close(x, [1.0, 2.0])
    assert y.grad_fn is not None


# -- transforms ------------------------------------------------------------------------------------------------------------


def test_grad_and_value_and_grad(backend):
    x = dc.tensor([1.0, 2.0], backend=backend)
    value, gradient = dc.value_and_grad(lambda t: (t * t).sum())(x)
    assert value.item() == 5.0 and not value.requires_grad
    close(gradient, [2.0, 4.0])
    assert x.grad is None and not x.requires_grad
    close(dc.grad(dc.grad(dc.grad(lambda t: t**4)))(dc.tensor(2.0, backend=backend)), 48.0)


def test_the_gradient_is_recorded_where_the_function_reads_other_leaves():
    w, x = leaf([2.0, 3.0]), dc.tensor([1.0, 2.0], dtype="float64")
    value, slope = dc.value_and_grad(lambda t: (w * t * t).sum())(x)
    (slope * slope).sum().backward()  # Σ(2wx)²: a gradient penalty
    close(w.grad, 8 * w.detach().numpy() * x.numpy() ** 2)
    assert value.requires_grad
    with dc.no_grad():
        assert not dc.grad(lambda t: (w * t * t).sum())(x).requires_grad


def test_aux_comes_back_without_its_graph():
    x = dc.tensor([2.0])
    g, aux = dc.grad(lambda t: ((t * t).sum(), {"twice": t * 2, "input": t, "n": 3, "none": None}), has_aux=True)(x)
    assert not any(aux[k].requires_grad for k in ("twice", "input")) and aux["n"] == 3 and aux["none"] is None
    close(g, [4.0])
    with pytest.raises(errors.ArgumentError, match="pair"):
        dc.grad(lambda t: (t * t).sum(), has_aux=True)(x)


def test_grad_keeps_the_structure_of_its_argument():
    tree = collections.defaultdict(list, w=dc.tensor([2.0]), b=None)
    g = dc.grad(lambda p: (p["w"] ** 2).sum())(tree)
    assert type(g) is collections.defaultdict and list(g) == ["w", "b"] and g["b"] is None
    close(g["w"], [4.0])
    for wrong in ("x", (0, 0), (0, -2), 2):
        with pytest.raises(errors.ArgumentError, match="argnums"):
            dc.grad(lambda a, b: (a * b).sum(), argnums=wrong)(dc.ones(2), dc.ones(2))


def test_grad_over_structures_and_several_arguments():
    params = {"w": dc.tensor([2.0]), "b": [dc.tensor([1.0])]}
    g = dc.grad(lambda p, x: (p["w"] * x + p["b"][0]).sum())(params, dc.tensor([3.0]))
    close(g["w"], [3.0])
    close(g["b"][0], [1.0])
    ga, gb = dc.grad(lambda a, b: (a * b).sum(), argnums=(0, 1))(dc.tensor([2.0]), dc.tensor([5.0]))
    close(ga, [5.0])
    close(gb, [2.0])
    gradient, aux = dc.grad(lambda a: (a.sum(), {"n": 3}), has_aux=True)(dc.tensor([2.0]))
    assert aux == {"n": 3} and gradient.item() == 1.0


def test_grad_of_a_function_written_with_numpy(backend):
    xp = dc.get_backend(backend)

    def f(x):
        return np.sum(np.sin(x) ** 2 + np.where(x > 0, x, 0.0))

    x = xp.from_host(np.array([0.5, -1.0]))
    g = dc.grad(f)(x)
    assert type(g) is xp.array_type
    np.testing.assert_allclose(xp.to_host(g), np.sin([1.0, -2.0]) + np.array([1.0, 0.0]), rtol=1e-12)


def test_inner_grad_is_differentiated_by_the_outer_one():
    w = leaf([0.5])
    penalty = (dc.grad(lambda x: (w * x * x).sum())(leaf([2.0])) ** 2).sum()
    penalty.backward()
    close(w.grad, [2 * (0.5 * 4) * 4])


@pytest.mark.parametrize("bad", [lambda t: t * 2, lambda t: 3.0])
def test_grad_wants_a_scalar(bad):
    with pytest.raises(errors.GradientError, match="one number"):
        dc.grad(bad)(dc.tensor([1.0, 2.0]))


# -- ops that do several things at once --------------------------------------------------------------------------


def _scaled_square(seen):
    """w·x² (w may be left out) with both gradients from one function, and x·w kept for it."""

    def grads(g, input, weight, aux, needs):
        seen.append(needs)
        kept = _product(input, weight) if dc.is_grad_enabled() else from_raw(aux[0], g.backend)
        two_w_x = g * kept
        return two_w_x * 2.0, None if weight is None else g * input * input

    def _product(input, weight):
        return input if weight is None else input * weight

    def scaled_square(xp, input, weight=None):
        kept = input if weight is None else input * weight
        return input * kept, kept

    return registry.Op(scaled_square, (grads,), joint=True)


@pytest.mark.parametrize("count", [1, 2])
def test_an_op_may_keep_arrays_for_its_gradient_and_compute_all_gradients_at_once(backend, count):
    seen: list = []
    op = _scaled_square(seen)
    x = dc.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=dc.float64, backend=backend, requires_grad=True)
    w = dc.tensor([2.0, -1.0], dtype=dc.float64, backend=backend, requires_grad=True)
    op(*(x, w)[:count]).sum().backward()
    weight = w.detach() if count == 2 else dc.ones(2, dtype=dc.float64, backend=backend)
    assert np.allclose(x.grad.numpy(), (2 * weight * x.detach()).numpy())
    if count == 2:
        assert np.allclose(w.grad.numpy(), (x * x).detach().sum(0).numpy())
    assert seen == [(True,) * count]
    inputs = (x.detach(), w.detach())[:count]
    for t in inputs:
        t.requires_grad = True
    assert dc.autograd.gradcheck(op, inputs)
    assert dc.autograd.gradgradcheck(op, inputs)


def test_a_fused_function_is_one_op_unless_it_is_recorded(monkeypatch):
    ran = []

    @registry.fused
    def sum_and_product_for_test(a, b):
        ran.append("formula")
        return a + b, a * b

    def kernel(xp, a, b):
        ran.append("kernel")
        return a + b, a * b

    try:
        op = registry.FUSED["sum_and_product_for_test"]
        cpu = dc.get_backend("cpu")
        a, b = dc.tensor([1.0, 2.0]), dc.tensor([3.0, 4.0], requires_grad=True)
        plain = sum_and_product_for_test(a, b.detach())
        monkeypatch.setitem(cpu.impls, op, kernel)
        fused = sum_and_product_for_test(a, b.detach())
        recorded = sum_and_product_for_test(a, b)
        with dc.no_grad():
            sum_and_product_for_test(a, b)
        monkeypatch.setattr(settings, "kernels", False)
        sum_and_product_for_test(a, a)
    finally:
        del registry.FUSED["sum_and_product_for_test"]
    assert ran == ["formula", "kernel", "formula", "kernel", "formula"]
    for one, other, third in zip(plain, fused, recorded):
        assert one.tolist() == other.tolist() == third.tolist()
    assert recorded[1].requires_grad and not fused[1].requires_grad
