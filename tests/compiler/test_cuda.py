"""`dc.compile` on CUDA: one graph, with the bits of the function on the same backend, and nothing that waits.

The stand-in records and replays, and overwrites memory as soon as it is free: a graph that used another's would show it.
"""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import pytest
import standin
from backends import BACKENDS

import deepcore as dc
from deepcore.backend import get_backend, use_backend
from deepcore.compiler import build, cpu, cuda, graphs
from deepcore.compiler.graphs import Graph
from deepcore.compiler.passes import chains
from deepcore.compiler.record import Recorder
from deepcore.config import settings
from deepcore.errors import DeepcoreWarning, IndexRangeError
from deepcore.kernels.cpu import elementwise
from deepcore.kernels.cuda import fused as cuda_fused
from deepcore.kernels.math.formulas import Line

pytest.importorskip("numba", reason="programs on a GPU are of kernels")

F = dc.nn.functional


@pytest.fixture(params=[b for b in BACKENDS if b != "cpu"])
def xp(request, monkeypatch):
    """A backend that captures, as the default one: the stand-in, or a GPU."""
    monkeypatch.setattr(standin, "kernels", True)
    monkeypatch.setattr(settings, "compile_check", 0)
    with use_backend(request.param):
        yield get_backend(request.param)


def same(a, b) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def host(*tensors):
    return [t.detach().numpy() for t in tensors]


def compare(make, calls):
    """What `make()`, (step, tensors that last), gives over `calls`, as it is and compiled, to the bit; the compiled step."""
    found = []
    for compiled in (False, True):
        dc.manual_seed(3)
        step, lasting = make()
        run = dc.compile(step) if compiled else step
        results = []
        for given in calls():
            out = run(*given)
            results += [] if out is None else host(*(out if isinstance(out, tuple) else (out,)))
        lasting = lasting()
        found.append([*results, *host(*lasting), *host(*(t.grad for t in lasting if t.grad is not None))])
        found[-1].append(np.array(list(dc.get_rng_state().values()), np.uint64))
    assert len(found[0]) == len(found[1])
    assert [same(*pair) for pair in zip(*found)] == [True] * len(found[0])
    assert not run.faults, run.faults
    return run


def batches(sizes, seed=0):
    rng = np.random.default_rng(seed)
    for n in sizes:
        yield dc.tensor(rng.standard_normal((n, 6)).astype("f")), dc.tensor(rng.integers(0, 3, n))


def network():
    nn = dc.nn
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)
    )


OPTIMIZERS = {
    "SGD": lambda p: dc.optim.SGD(p, lr=0.05),
    "momentum": lambda p: dc.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "Adam": lambda p: dc.optim.Adam(p, lr=0.05),
    "groups": lambda p: dc.optim.AdamW([{"params": [q], "lr": 0.01 * (i + 1)} for i, q in enumerate(p)], lr=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_has_the_bits_of_the_function(xp, optimizer):
    """Weights, statistics, gradients, losses and the random stream, over an odd last batch and a change of the rate."""

    def make():
        model = network()
        chosen = OPTIMIZERS[optimizer](model.parameters())

        def step(x, y):
            chosen.zero_grad()
            loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
            loss.backward()
            chosen.step()
            return loss

        def calls():
            for i, given in enumerate(batches((7, 7, 7, 4, 7, 7, 4))):
                chosen.param_groups[0]["lr"] = 0.05 if i < 5 else 0.01
                yield given

        made.append(calls)
        return step, lambda: list(model.state_dict(keep_vars=True).values())

    made: list = []
    run = compare(make, lambda: made[-1]())
    assert (run.traces, run.runs) == (2, 5)


def test_a_replayed_step_sends_words_and_waits_for_nothing(xp):
    model = network()
    optimizer = dc.optim.Adam(model.parameters())

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    given = list(batches((5,) * 4))
    step(*given[0])
    for _ in range(2):
        with standin.transfers() as crossed:
            loss = step(*given[1])
        assert (crossed.uploads, crossed.downloads, crossed.syncs) == (int(xp.name.startswith("standin")), 0, 0)
        loss.item()
    assert step.runs == 2 and step.peak_memory > 0
    before = host(*model.parameters())
    told = io.StringIO()
    step.explain(told)
    assert "Adam" in told.getvalue() and all(map(same, before, host(*model.parameters())))
    step(*given[2])
    assert step.runs == 3 and not any(map(same, before, host(*model.parameters())))


@pytest.mark.parametrize(
    "clip", [{"max_norm": 0.1}, {"clip_value": 0.01}, {"max_norm": 0.1, "clip_value": 0.02}], ids=str
)
def test_clipping_has_the_bits_of_the_function(xp, clip):
    def make():
        model = network()
        optimizer = dc.optim.Adam(model.parameters(), lr=0.1)

        def step(x, y):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            return optimizer.clipped_step(**clip)

        return step, lambda: list(model.parameters())

    assert compare(make, lambda: batches((5,) * 4)).runs == 3


def test_gradients_add_up_over_steps(xp):
    def make():
        w = dc.nn.Parameter(dc.ones(6))
        optimizer = dc.optim.SGD([w], lr=0.1)

        def step(x, last):
            (w * x).square().sum().backward()
            if last:
                optimizer.step()
                optimizer.zero_grad()

        return step, lambda: [w]

    def calls():
        for i, (x, _) in enumerate(batches((3,) * 9)):
            yield x, i % 3 == 2

    run = compare(make, calls)
    assert (run.traces, run.runs) == (3, 6)


@pytest.mark.parametrize("raw", [False, True])
def test_gradients_that_someone_holds_are_left_alone(xp, raw):
    w = dc.nn.Parameter(dc.ones(2))
    optimizer = dc.optim.SGD([w], lr=0.0)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()

    held = []
    for i in range(5):
        step(dc.tensor([1.0, float(i)]))
        held.append(w.grad._data if raw else w.grad)
    assert [xp.to_host(g if raw else g._data).tolist() for g in held] == [[1, i] for i in range(5)]
    assert step.runs == 4


FUNCTIONS = {
    "inference": lambda x: F.softmax(x @ x.T, -1),
    "several results": lambda x: (x.exp(), x[:, 1:].sum(0), x.mean()),
    "views": lambda x: (x.T.reshape(-1)[2:], x.flip(0) + 1),
    "in place": lambda x: x.clone().add_(1).mul_(x),
    "constants": lambda x: x * 2 + 0.5,
    "random": lambda x: x * dc.rand(*x.shape) + dc.randn(*x.shape) + F.dropout(x, 0.5),
    "products": lambda x: (
        dc.einsum("ij,kj->ik", x, x) @ x + (x[None].expand(3, *x.shape) @ x.T.contiguous()).sum(0) @ x
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_same_bits(xp, name):
    def make():
        return FUNCTIONS[name], list

    with dc.no_grad():
        assert compare(make, lambda: ((x,) for x, _ in batches((4,) * 4))).runs == 3


def test_value_and_grad(xp):
    def make():
        w = dc.tensor(np.linspace(-1, 1, 12, dtype="f").reshape(6, 2))
        return dc.value_and_grad(lambda x: (x @ w).tanh().square().sum()), list

    assert compare(make, lambda: ((x,) for x, _ in batches((4,) * 4))).runs == 3


def test_a_graph_uses_no_memory_but_its_own(xp):
    """What is allocated and freed between the runs is not the program's, and stays as it is."""

    def make():
        return (lambda x: (x @ x.T).tanh() @ x + x.softmax(0)), list

    def calls():
        others = []
        for i, (x, _) in enumerate(batches((4,) * 5)):
            others += [dc.full((4, n), float(i)) for n in (1, 4, 6)]
            yield (x,)
            del others[:-2]
        assert others[-1].tolist() == [[4.0] * 6] * 4

    with dc.no_grad():
        assert compare(make, calls).runs == 4


def test_a_class_out_of_range_is_told_one_call_later(xp):
    @dc.compile
    def loss(x, y):
        return F.cross_entropy(x, y)

    x, y = dc.ones(2, 3), dc.tensor([0, 2])
    with dc.no_grad():
        for _ in range(2):
            loss(x, y)
        loss(x, dc.tensor([0, 7]))
        xp.synchronize()
        with pytest.raises(IndexRangeError, match="earlier call"):
            loss(x, y)
        assert loss(x, y).item() == pytest.approx(np.log(3)) and loss.runs == 3


def test_an_index_out_of_range_is_told_one_call_later(xp):
    compiled = dc.compile(dc.no_grad()(lambda x, i: dc.gather(x, 1, i)))
    x, fine, wrong = dc.tensor([[1.0, 2.0, 3.0]]), dc.tensor([[2, 0]]), dc.tensor([[1, 3]])
    for _ in range(3):
        assert compiled(x, fine).tolist() == [[3.0, 1.0]]
    compiled(x, wrong)
    xp.synchronize()
    with pytest.raises(IndexRangeError, match="earlier call"):
        compiled(x, fine)
    assert compiled(x, fine).tolist() == [[3.0, 1.0]] and compiled.runs == 4


@pytest.mark.parametrize("bad", [1, 2, 3])
def test_checked_calls_tell_of_indices_out_of_range(xp, monkeypatch, bad):
    """A wrong call that is checked raises at once; one that is not, at the next call, checked or not."""
    monkeypatch.setattr(settings, "compile_check", 3)  # calls 3, 6, …
    compiled = dc.compile(dc.no_grad()(lambda x, i: dc.gather(x, 1, i)))
    x, fine, wrong = dc.tensor([[1.0, 2.0, 3.0]]), dc.tensor([[2, 0]]), dc.tensor([[1, 3]])
    raised = []
    for call in range(8):
        try:
            found = compiled(x, wrong if call == bad else fine)
            assert call == bad or found.tolist() == [[3.0, 1.0]]
        except IndexRangeError as error:
            raised.append((call, "earlier call" in str(error)))
    assert raised == [(2, False) if bad == 2 else (bad + 1, True)]
    assert not compiled.faults


@pytest.mark.parametrize("raw", [False, True])
def test_checks_leave_alone_what_someone_holds(xp, monkeypatch, raw):
    """Gradients of earlier calls are in the graph's memory."""
    monkeypatch.setattr(settings, "compile_check", 2)
    w = dc.nn.Parameter(dc.ones(2))

    @dc.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()
        return (w * x).detach()

    held = []
    for i in range(8):
        result = step(dc.full((2,), float(i)))
        held.append((result.detach(), w.grad._data if raw else w.grad))
    assert [r.tolist() for r, _ in held] == [[1.0 * i] * 2 for i in range(8)]
    assert [xp.to_host(g if raw else g._data).tolist() for _, g in held] == [[1.0 * i] * 2 for i in range(8)]
    assert (step.traces, step.runs) == (2, 6) and not step.faults


UNCAPTURED = {
    "reads a value": lambda x: x * x.sum().item(),
    "decides": lambda x: x if x.sum() > 0 else -x,
    "sorts": lambda x: x.sort(0).values,
    "masks": lambda x: x[x > 0],
}


@pytest.mark.parametrize("name", UNCAPTURED)
def test_what_cannot_be_captured_runs_as_it_is(xp, name):
    function = UNCAPTURED[name]
    compiled = dc.compile(function)
    captured = name == "sorts" and not xp.name.startswith("standin")  # CuPy's sort waits for nothing on a GPU
    warned = pytest.warns(DeepcoreWarning, match=r"cannot be compiled.*test_cuda\.py")
    with dc.no_grad():
        with contextlib.nullcontext() if captured else warned:
            first = compiled(dc.tensor([[1.0, -2.0, 4.0]]))
        second = compiled(dc.tensor([[-1.0, 5.0, 2.0]]))
        assert same(*host(first, function(dc.tensor([[1.0, -2.0, 4.0]]))))
        assert same(*host(second, function(dc.tensor([[-1.0, 5.0, 2.0]]))))
    assert captured or (compiled.faults and not compiled.runs)


def test_arrays_that_nobody_can_follow_are_not_taken_for_constants(xp):
    compiled = dc.compile(lambda x: dc.as_tensor(x._data * 2) + x)  # past every op
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeepcoreWarning)
        for i in range(3):
            assert compiled(dc.full((2,), float(i))).tolist() == [3.0 * i] * 2
    assert compiled.faults and not compiled.runs


def test_arrays_among_the_arguments_arrive_as_tensors(xp):
    compiled = dc.compile(lambda a, t: (a * 2 + t, a.shape))
    for i in range(3):
        found, shape = compiled(xp.full(2, float(i), dtype=np.float32), dc.ones(2))
        assert found.tolist() == [2.0 * i + 1] * 2 and shape == (2,)
    assert compiled.runs == 2 and not compiled.faults


def test_an_argument_given_twice_is_one_input(xp):
    compiled = dc.compile(lambda x, y, z: x - 2 * y + 5 * z)
    for i in range(4):
        a, b = dc.full((3,), float(i)), dc.full((3,), float(10 + i))
        assert compiled(a, a, b).tolist() == (5 * b - a).tolist()
        assert compiled(b, a, a).tolist() == (b + 3 * a).tolist()
    assert (compiled.traces, compiled.runs) == (2, 6)


def test_an_argument_over_memory_that_is_written_runs_the_function(xp):
    state = dc.zeros(4)

    @dc.compile
    def add(x):
        state.add_(1)
        return x + state[:2]

    with dc.no_grad():
        for i in range(4):
            before = float(i)
            assert add(dc.ones(2)).tolist() == [before + 2] * 2
        assert add.runs == 3
        assert add(state[:2]).tolist() == [10.0] * 2 and add.runs == 3
        assert add(dc.ones(2)).tolist() == [7.0] * 2 and add.runs == 4


STRIDED = {
    "slice": lambda x: x[:, :3],
    "step": lambda x: x[:, ::2],
    "transposed": lambda x: x.t(),
    "expanded": lambda x: x[:, :1].expand(4, 6),
    "part of three": lambda x: x.reshape(2, 2, 6).transpose(0, 2)[1:],
}


@pytest.mark.parametrize("view", STRIDED.values(), ids=STRIDED)
def test_arguments_with_strides_are_read_where_they_are(xp, view):
    w = dc.nn.Parameter(dc.full((1,), 0.3))
    function = lambda x: (x * 2 + 1, x.transpose(0, 1).sum(0), x.mT @ x, (x * w).exp().sum())
    compiled = dc.compile(function)
    for i in range(3):
        x = view(dc.tensor(np.random.default_rng(i).standard_normal((4, 6)).astype("f")))
        found, wanted = compiled(x), function(x)
        assert [same(*pair) for pair in zip(host(*found), host(*wanted))] == [True] * 4
        assert [t.array.strides for t in found] == [t.array.strides for t in wanted]
        grads = [dc.autograd.grad(loss, w)[0] for loss in (found[3], wanted[3])]
        assert same(*host(*grads))
    assert compiled.runs == 2 and not compiled.faults


def shared(x):
    y = x.exp()
    return y, y[1:], y.t(), y.sum(0)


def test_results_that_share_memory_do_so(xp):
    compiled = dc.compile(dc.no_grad()(shared))
    for i in range(3):
        y, part, turned, apart = compiled(dc.full((3, 2), float(i)))
        wanted = shared(dc.full((3, 2), float(i)))
        assert [same(*pair) for pair in zip(host(y, part, turned, apart), host(*wanted))] == [True] * 4
        y.mul_(2.0)
        assert (part == y[1:]).all() and (turned == y.t()).all() and same(*host(apart, wanted[3]))
        assert part.storage() is turned.storage() is y.storage() and apart.storage() is not y.storage()
    assert compiled.runs == 2 and not compiled.faults


def test_gradients_are_captured_once(xp, monkeypatch):
    captures = []
    capture = Graph.capture
    monkeypatch.setattr(Graph, "capture", lambda self, *again: captures.append(self) or capture(self, *again))
    w = dc.nn.Parameter(dc.ones(3))
    optimizer = dc.optim.SGD([w], lr=0.0)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        (w * x).sum().backward()
        return w.grad * 2, w.grad

    for i in range(5):
        twice, grad = step(dc.full((3,), float(i)))
        assert grad is w.grad
        assert (twice.tolist(), grad.tolist()) == ([2.0 * i] * 3, [1.0 * i] * 3)
        del grad
    assert (step.traces, step.runs, len(captures)) == (1, 4, 1)


@pytest.mark.filterwarnings("ignore:.*shares the memory of a gradient:deepcore.errors.DeepcoreWarning")
def test_a_view_of_a_gradient_stays_one(xp):
    w = dc.nn.Parameter(dc.ones(3))

    @dc.compile
    def step(x):
        w.grad = None
        (w * x).sum().backward()
        return w.grad.detach()

    for _ in range(3):
        step(dc.ones(3)).mul_(7.0)
        assert w.grad.tolist() == [7.0] * 3


DIFFERENTIATED = {
    "module": lambda model, x, y: F.cross_entropy(model(x), y),
    "two results": lambda model, x, y: (F.cross_entropy(out := model(x), y), out.square().mean()),
    "shared": lambda model, x, y: ((out := model(x))[0], out),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_results_are_differentiated_outside(xp, name):
    """Gradients of parameters and arguments, for each set of results, with masks of dropout and statistics of norms."""
    nn = dc.nn
    found = []
    for compiled in (False, True):
        dc.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 3))
        function = lambda x, y, model=model: DIFFERENTIATED[name](model, x, y)
        run = dc.compile(function) if compiled else function
        values = []
        for i, (x, y) in enumerate(batches((5,) * 5)):
            x.requires_grad_()
            results = run(x, y)
            results = results if isinstance(results, tuple) else (results,)
            chosen = results[i % len(results) :] if i % 3 else results
            sum((r * r).sum() for r in chosen).backward()
            values += host(*results, x.grad, *(p.grad for p in model.parameters()), *model.buffers())
        found.append(values)
        if compiled:
            assert not run.faults and (run.traces, run.runs) == (1, 4)
    assert [same(*pair) for pair in zip(*found)] == [True] * len(found[0])


def test_a_backward_graph_has_values_of_its_own_call(xp):
    """Saved values belong to the results: three forward passes, and then their backward passes in another order."""
    w = dc.nn.Parameter(dc.full((3,), 0.7))
    function = lambda x: (w * w * x).exp().sum()
    compiled = dc.compile(function)
    compiled(dc.zeros(3)).backward()
    x = [dc.full((3,), float(i)) for i in range(3)]
    losses = [compiled(each) for each in x]
    for i in (1, 2, 0):
        w.grad = None
        losses[i].backward()
        assert same(*host(w.grad, dc.autograd.grad(function(x[i]), w)[0]))
    with pytest.raises(dc.errors.GradientError):
        losses[0].backward()
    late = compiled(x[1])
    with dc.no_grad():
        w.add_(1)
    with pytest.raises(dc.errors.GradientError, match="function read"):
        late.backward()
    assert compiled.runs == 4 and not compiled.faults


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_products_are_what_numpy_computes(xp, dtype):
    rng = np.random.default_rng(0)
    dtype = np.dtype(getattr(dc, dtype))
    tolerance = {8: 1e-13, 4: 1e-5, 2: 0.02 if dtype.kind == "V" else 3e-3}[dtype.itemsize]

    def operand(*shape):
        return rng.standard_normal(shape)

    pairs = [
        (operand(3, 4), operand(4, 5)), (operand(4, 3).T, operand(5, 4).T), (operand(1, 4), operand(4, 1)),
        (operand(6, 8)[::2, 1:5], operand(4, 9)[:, ::3]), (operand(2, 3, 4), operand(4, 5)),
        (operand(2, 3, 4), operand(2, 5, 4).swapaxes(1, 2)), (operand(3, 4), operand(2, 4, 5)),
        (operand(2, 1, 3, 4), operand(5, 4, 2)), (operand(3, 0), operand(0, 2)), (operand(0, 3), operand(3, 2)),
    ]  # fmt: skip
    for x, y in pairs:
        a, b = (xp.from_host(v.astype(dtype)) if v.flags.c_contiguous else _laid_out(xp, v, dtype) for v in (x, y))
        found = xp.blas.product(a, b)
        exact = xp.to_host(a).astype(float) @ xp.to_host(b).astype(float)
        assert found.dtype == dtype and found.shape == exact.shape
        assert np.abs(xp.to_host(found).astype(float) - exact).max(initial=0) <= tolerance * (
            1 + np.abs(exact).max(initial=0)
        )


def _laid_out(xp, v, dtype):
    """The same view on the device."""
    root = v.base if v.base is not None else v
    offset = (v.ctypes.data - root.ctypes.data) // root.itemsize
    flat = xp.from_host(root.astype(dtype))
    strides = tuple(s // root.itemsize * dtype.itemsize for s in v.strides)
    return xp.ndarray(v.shape, dtype, memptr=flat.data + offset * dtype.itemsize, strides=strides)


def chained(x, w, b):
    y = (x * w + b).tanh()
    z = F.gelu(y * 2.0 - x) / (x.square() + 1.0)
    return z, y.sum(0), F.leaky_relu(z * w[:1], 0.1) + x[:, :1].contiguous()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elementwise_chains_become_kernels_of_the_same_bits(xp, monkeypatch, dtype):
    monkeypatch.setattr(chains, "WORTH", 0)
    launched: list[str] = []
    launch = type(xp).launch

    def noted(self, kernel, blocks, /, **arguments):
        launched.append(kernel.name)
        launch(self, kernel, blocks, **arguments)

    monkeypatch.setattr(type(xp), "launch", noted)

    def calls():
        rng = np.random.default_rng(0)
        for _ in range(3):
            yield tuple(
                dc.tensor(rng.standard_normal(shape), dtype=getattr(dc, dtype)) for shape in ((5, 7), (7,), (7,))
            )

    with dc.no_grad():
        run = compare(lambda: (chained, list), calls)
    assert run.runs == 2
    assert sum(name.startswith("fused") for name in launched) >= 2 * 2, launched  # as they are, and captured


@pytest.mark.parametrize("arity", [1, 2, 3])
def test_formulas_in_one_kernel_have_the_bits_of_each(xp, arity):
    """All formulas of so many operands over the same elements, a result each."""
    maps = {n: m for n, m in elementwise.MAPS.items() if m.arity == arity and not m.booleans}
    parameters = {"slope": 0.1, "alpha": 0.5, "beta": 0.7, "threshold": 20.0, "delta": 0.8, "keep": 0.9, "take": 0.1,
                      "low": -0.5, "high": 0.5, "lambd": 0.4, "value": -2.0, "scale": 1.3, "rate": 0.9}  # fmt: skip
    names = list(parameters)
    lines = tuple(Line(m.formula, tuple(range(arity)), tuple(map(names.index, m.parameters))) for m in maps.values())
    used = max((p + 1 for line in lines for p in line.parameters), default=0)
    x = [np.random.default_rng(i).uniform(0.05, 0.95, 1300).astype("f") for i in range(arity)]
    kernel = cuda_fused.kernel(lines, "float32", "v" * arity, tuple(range(arity, arity + len(lines))))
    assert xp.ready(kernel)
    values = list(parameters.values())[:used]
    found = cuda_fused.run(
        xp, kernel, [xp.from_host(a) for a in x], [(1300,)] * len(lines), np.dtype("f"), 1300, 0, values
    )
    for (name, one), out in zip(maps.items(), found):
        expected = one(get_backend("cpu"), *x, **{p: parameters[p] for p in one.parameters})
        assert same(xp.to_host(out), expected), name


class PlainTarget(cpu.Target):
    """The CPU without what a GPU leaves apart: sums of chains, epilogues of products, masks, maxima as formulas."""

    chain_of = staticmethod(lambda record: chains.chain_of(record, cuda._DIFFERING, booleans=False))
    fused_sum = with_epilogue = mask_plan = lambda self, *args, **kwargs: None


def repeated(x, w):
    return (x * w).tanh() + (x * w).tanh(), ((x * w).tanh() * 1.0).sum(0)


def folded(x, w):
    return x * (dc.ones(7) * 3.0 + 1.0), dc.neg(-w) - 0.0, dc.maximum(x, w) * 2.0


def differentiated(x, w):
    return dc.grad(lambda w: (F.gelu(x * w) * F.dropout(x @ x.t(), 0.5).mean()).sum())(w)


@pytest.mark.parametrize("function", [repeated, folded, differentiated, lambda x, w: chained(x, w, w)])
def test_passes_leave_the_records_that_they_leave_on_the_cpu(xp, monkeypatch, function):
    monkeypatch.setattr(chains, "WORTH", 0)
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(shape).astype("f") for shape in ((5, 7), (7,))]

    def records(recorder, target, passes):
        dc.manual_seed(0)
        given = [dc.from_numpy(v).to(recorder.backend) for v in values]
        with use_backend(recorder.backend), recorder.recording():
            for t in given:
                recorder.argument(t)
            results = function(*given)
            results = results if isinstance(results, tuple) else (results,)
            ends = [recorder.ref(t._data, t) for t in results]
        assert recorder.fault is None
        program = build.optimized(recorder, ends, target(len(recorder.rows)), passes)
        of = lambda refs: [(ref.shape, ref.dtype) for ref in refs]
        return [(r.name, of(r.ins), of(r.outs)) for r in program.records]

    host, words = get_backend("cpu"), graphs.Words(xp)
    passes = cuda.passes_of(True)
    for some in (passes, passes[:1]):
        device = records(cuda.DeviceRecorder(xp), lambda draws: cuda.Target(xp, words, draws), some)
        assert device == records(Recorder(host), lambda draws: PlainTarget(host, draws), some)
    assert passes is not cuda.passes_of(False) and len(
        records(Recorder(host), lambda n: PlainTarget(host, n), passes)
    ) < len(device)


def test_a_chain_of_other_bits_is_left_as_it_is(xp, monkeypatch):
    monkeypatch.setattr(chains, "WORTH", 0)

    def wrong(xp, kernel, *rest):
        return tuple(out + 1 for out in run(xp, kernel, *rest))

    run = cuda_fused.run
    monkeypatch.setattr(cuda_fused, "run", wrong)
    with dc.no_grad():
        assert compare(lambda: (chained, list), lambda: [(dc.ones(2, 3), dc.ones(3), dc.ones(3))] * 2).runs == 1


@pytest.mark.filterwarnings("ignore:.*shares the memory of an argument:deepcore.errors.DeepcoreWarning")
@pytest.mark.parametrize("view", [lambda x: x[1:], lambda x: x.t(), lambda x: x.chunk(2)[0], lambda x: x.reshape(-1)])
def test_a_view_of_an_argument_stays_one(xp, view):
    compiled = dc.compile(view)
    for _ in range(4):
        x = dc.ones(4, 4)
        result = compiled(x)
        x.mul_(3)
        assert (result == 3).all()


@pytest.mark.parametrize(
    "function, records",
    [
        (lambda x, w, b, y: F.relu(F.conv2d(x, w, b, padding=1)), ["conv·relu"]),
        (lambda x, w, b, y: F.relu(y + F.conv2d(x, w, b, padding=1)), ["conv·add·relu"]),
        (lambda x, w, b, y: y + F.conv2d(x, w, padding=1), ["conv·add"]),
        (lambda x, w, b, y: (lambda z: (F.silu(z), z))(F.conv2d(x, w, padding=1)), ["conv·silu"]),
        (lambda x, w, b, y: y * F.conv2d(x, w, padding=1), ["conv", "mul"]),
        (lambda x, w, b, y: (lambda z: (z, F.relu(y + z)))(F.conv2d(x, w, padding=1)), ["conv", "add·relu"]),
    ],
)
def test_what_follows_a_convolution_joins_it(xp, monkeypatch, function, records):
    names, lower = [], cuda.Target.lower
    monkeypatch.setattr(cuda.Target, "lower", lambda self, record: names.append(record.name) or lower(self, record))
    draw = np.random.default_rng(0)
    given = [
        dc.tensor(draw.standard_normal(s).astype("f")) for s in ((2, 8, 16, 16), (16, 8, 3, 3), (16,), (2, 16, 16, 16))
    ]
    compare(lambda: (function, list), lambda: [given] * 3)
    assert names == records
