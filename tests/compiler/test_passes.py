"""The passes of `dc.compile`, one by one: what each does to a program, and that no bit changes."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.compiler import build
from deepcore.compiler.passes import algebra, chains, cse, dead, epilogue, fold, fuse, masks, reuse
from deepcore.config import settings
from deepcore.kernels.math import formulas
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F

pytest.importorskip("numba")
pytestmark = pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need the pool in compiled code")


@pytest.fixture(autouse=True)
def small_arrays_are_fused_and_programs_run_unchecked(monkeypatch):
    monkeypatch.setattr(chains, "WORTH", 0)
    monkeypatch.setattr(settings, "compile_check", 0)


def same(a, b) -> bool:
    a, b = a.numpy(), b.numpy()
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def values(*shapes, dtype="float32"):
    rng = np.random.default_rng(sum(map(len, shapes)))
    return [dc.from_numpy(rng.standard_normal(shape).astype(dtype)) for shape in shapes]


def compiled_with(monkeypatch, passes, function, *arguments):
    """The names of the steps of the function's program after these passes; its results are checked, on two values."""
    monkeypatch.setattr(build, "PASSES", passes)
    compiled = dc.compile(function)
    for factor in (1.0, -0.5, 3.0):
        given = [a * factor if a.dtype.kind == "f" else a for a in arguments]
        wanted, found = function(*given), compiled(*given)
        for one, other in zip(
            wanted if isinstance(wanted, tuple) else (wanted,), found if isinstance(found, tuple) else (found,)
        ):
            assert same(one, other)
    assert compiled.runs == 2, compiled.faults
    (entry,) = compiled._cache.values()
    return [step.name for step in entry[0][0].exe.steps], entry[0][0]


def test_dead_code_goes(monkeypatch):
    def function(x):
        dc.exp(x)  # nobody asks for it
        return x * 2.0

    (x,) = values((5, 7))
    before, _ = compiled_with(monkeypatch, (), function, x)
    after, _ = compiled_with(monkeypatch, (dead.run,), function, x)
    assert before == ["exp", "mul"] and after == ["mul"]


def test_common_subexpressions_are_computed_once(monkeypatch):
    def function(x, y):
        return dc.tanh(x * y).sum() + dc.tanh(x * y).amax()

    x, y = values((6, 3), (6, 3))
    before, _ = compiled_with(monkeypatch, (), function, x, y)
    after, _ = compiled_with(monkeypatch, (cse.run, dead.run), function, x, y)
    assert before.count("tanh") == 2 and after.count("tanh") == after.count("mul") == 1


def test_constants_are_folded(monkeypatch):
    function = dc.grad(lambda x: dc.exp(x).mean())  # of the gradient 1, divided by the number of elements
    (x,) = values((4, 4))
    before, _ = compiled_with(monkeypatch, (dead.run,), function, x)
    after, _ = compiled_with(monkeypatch, (dead.run, fold.run), function, x)
    assert before.count("true_divide") == 1 and "true_divide" not in after


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x: dc.exp(x) * 1.0, ["exp", "sum"]),
        (lambda x: 1.0 * dc.exp(x), ["exp", "sum"]),
        (lambda x: dc.exp(x) / 1.0, ["exp", "sum"]),
        (lambda x: dc.exp(x) - 0.0, ["exp", "sum"]),
        (lambda x: dc.exp(x) + -0.0, ["exp", "sum"]),
        (lambda x: dc.neg(dc.neg(dc.exp(x))), ["exp", "neg", "sum"]),
        # These are not the same: 0 - 0 and 0 + 0 lose the sign of -0, 1/x is no name for x.
        (lambda x: dc.exp(x) + 0.0, ["exp", "add", "sum"]),
        (lambda x: 1.0 / dc.exp(x), ["exp", "true_divide", "sum"]),
        (lambda x: 0.0 - dc.exp(x), ["exp", "sub", "sum"]),
        (lambda x: dc.exp(x) * 2.0, ["exp", "mul", "sum"]),
    ],
)
def test_algebra_that_changes_no_bit(monkeypatch, function, wanted):
    (x,) = values((9, 5))
    names, _ = compiled_with(monkeypatch, (algebra.run,), lambda x: function(x).sum(), x)
    assert names == wanted


def test_algebra_keeps_negative_zero(monkeypatch):
    x = dc.from_numpy(np.array([-0.0, 0.0, -1.0, math.inf, -math.inf, math.nan], "float32"))
    compiled_with(monkeypatch, build.PASSES, lambda x: (dc.abs(-x) * 1.0 + -0.0, -x - 0.0, x + 0.0), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shapes", "function", "wanted"),
    [
        (((8, 30), (8, 30)), lambda x, y: dc.tanh(x * y) + x, ["mul·tanh·add"]),
        (((8, 30), (30,)), lambda x, y: dc.exp(x + y) * y, ["add·exp·mul"]),
        (((8, 30), (8, 1)), lambda x, y: dc.exp(x + y) * y, ["add·exp·mul"]),
        (((8, 30), (1,)), lambda x, y: dc.exp(x + y) * y, ["add·exp·mul"]),
        (((8, 30), (1,)), lambda x, y: x * dc.exp(y), ["exp·mul"]),  # one number, computed with the many
        (((8, 30), (8, 1)), lambda x, y: x * dc.exp(y), ["exp", "mul"]),  # it would be computed once an element
        (((8, 30), (30,)), lambda x, y: (x + y).reshape(30, 8) * 2.0, ["add·mul"]),  # a view is the same memory
        (((8, 30), (8, 30)), lambda x, y: (x * y, dc.exp(x * y)), ["mul·mul·exp"]),
        (((300, 300), (300, 300)), lambda x, y: ((x - y) * (x - y)).sum(), ["sub·mul·sum"]),
        (((50, 70), (50, 70)), lambda x, y: F.relu(x * y).sum(-1), ["mul·relu·sum"]),
        (((50, 70), (50, 70)), lambda x, y: (x * 3.0 + y).sum((0, 1)), ["mul·add·sum"]),
        (((50, 70), (50, 70)), lambda x, y: dc.exp(x * y).sum(0), ["mul·exp", "sum"]),
    ],
)
def test_elementwise_steps_are_fused(monkeypatch, shapes, function, wanted, dtype):
    names, _ = compiled_with(
        monkeypatch, (dead.run, algebra.run, cse.run, fuse.run), function, *values(*shapes, dtype=dtype)
    )
    assert names == wanted or sorted(names) == sorted(w.replace("mul·mul·exp", "mul·exp") for w in wanted)


def test_a_value_needed_besides_is_stored_by_the_fused_kernel(monkeypatch):
    def function(x, y):
        product = x * y
        return dc.exp(product), product

    names, runner = compiled_with(monkeypatch, (fuse.run,), function, *values((40, 9), (40, 9)))
    assert names == ["mul·exp"] and len(runner.exe.steps[0].outs) == 2


def test_expanded_operands_need_no_copy(monkeypatch):
    monkeypatch.setattr(chains, "WORTH", 1 << 13)
    names, runner = compiled_with(
        monkeypatch,
        build.PASSES,
        lambda x, row, column, one: dc.tanh(x * row.expand(8, 30) + column.expand(8, 30) * one.expand(8, 30)),
        *values((8, 30), (30,), (8, 1), (1,)),
    )
    assert "copy" not in names and all(step.launches for step in runner.exe.steps), names


def test_few_numbers_are_not_worth_a_kernel(monkeypatch):
    monkeypatch.setattr(chains, "WORTH", 1 << 13)
    names, _ = compiled_with(monkeypatch, build.PASSES, lambda x, y: dc.exp(x * y).sum(), *values((8, 8), (8, 8)))
    assert names == ["mul", "exp", "sum"]


def test_a_chain_has_an_end(monkeypatch):
    def function(x, *others):
        for y in others:
            x = dc.tanh(x + y) * y
        return x

    names, runner = compiled_with(monkeypatch, (fuse.run,), function, *values(*[(6, 6)] * 20))
    assert len(names) > 2 and all(len(s.launches[0].places) <= 12 for s in runner.exe.steps)


@pytest.mark.parametrize("shape", [(33, 70, 50), (5, 700, 19), (128, 300, 64), (1, 30, 20), (200, 1100, 90)])
@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda x, w, h: dc.tanh(x @ w), "matmul·tanh"),
        (lambda x, w, h: F.gelu(x @ w) * 1.5, "matmul·gelu·mul"),
        (lambda x, w, h: (x @ w) * h, "matmul·mul"),
        (lambda x, w, h: h - x @ w, "matmul·sub"),
    ],
)
def test_products_take_in_what_follows(monkeypatch, shape, function, wanted):
    m, k, n = shape
    arguments = values((m, k), (k, n), (m, n))
    names, _ = compiled_with(monkeypatch, (fuse.run, epilogue.run), function, *arguments)
    assert names in ([wanted], wanted.split("·"), [wanted.split("·")[0], wanted.partition("·")[2]])
    if m > 4:
        assert names == [wanted] or "1.5" in wanted or names[0] == "matmul"


def test_a_product_that_is_needed_itself_is_kept(monkeypatch):
    def function(x, w):
        product = x @ w
        return dc.sigmoid(product), product

    names, runner = compiled_with(monkeypatch, (epilogue.run,), function, *values((64, 32), (32, 48)))
    assert names == ["matmul·sigmoid"] and len(runner.exe.steps[0].outs) == 2


def test_gradients_of_activations_join_the_product_before(monkeypatch):
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 48), nn.Tanh(), nn.Linear(48, 8))
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    (x,) = values((32, 20))
    step(x), step(x)
    names = [s.name for s in next(iter(step._cache.values()))[0][0].exe.steps]
    assert "matmul·relu_grad" in names and "matmul·tanh_grad" in names


def test_results_are_written_over_what_is_read_last(monkeypatch):
    def function(x, y):
        a = dc.exp(x)
        return a.amax() + dc.tanh(a * y).sum(0).sum()

    arguments = values((64, 64), (64, 64))
    _, apart = compiled_with(monkeypatch, (), function, *arguments)
    _, over = compiled_with(monkeypatch, (reuse.run,), function, *arguments)
    assert over.exe.size < apart.exe.size - 10_000


@pytest.mark.parametrize("size", [(3, 5), (300, 257)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_mask_is_drawn_once(monkeypatch, size, dtype):
    """Two dropouts, each with its gradient: the gradients read the masks that the forwards kept."""

    def function(x):
        return dc.grad(lambda x: (F.dropout(dc.tanh(F.dropout(x, 0.3)), 0.6) * x).sum())(x)

    for passes, kept in (((dead.run,), 0), ((dead.run, masks.run), 2), (build.PASSES, 2)):
        monkeypatch.setattr(build, "PASSES", passes)
        compiled = dc.compile(function)
        for seed in range(4):
            (x,) = values(size, dtype=dtype)
            dc.manual_seed(seed)
            wanted, position = function(x), dc.get_rng_state()
            dc.manual_seed(seed)
            assert same(wanted, compiled(x)) and dc.get_rng_state() == position
        assert compiled.runs == 3, compiled.faults
        ((runner, *_),) = next(iter(compiled._cache.values()))
        names = [launch.kernel.name for step in runner.exe.steps for launch in step.launches]
        found = [sum(name.startswith(f"dropout_{what}") for name in names) for what in ("kept", "again", dtype)]
        assert found == [kept, kept, 4 - 2 * kept]


def test_small_copies_are_one_launch_and_keep_their_order():
    states = [dc.full((n,), float(n)) for n in range(1, 6)]
    large = dc.zeros(100, 100)

    @dc.compile
    def rotate(x):
        first = states[0].sum() + x
        for state, after in zip(states, [*states[1:], states[0]]):
            state.copy_(state * 0 + after.sum())
        large.add_(first)
        return first

    twins = [t.clone() for t in states]
    for i in range(4):
        total = twins[0].sum() + i
        for t, after in zip(twins, [*twins[1:], twins[0]]):
            t.copy_(t * 0 + after.sum())
        assert same(rotate(dc.tensor(float(i))), total)
        assert all(map(same, states, twins))
    assert rotate.runs == 3, rotate.faults
    ((runner, *_),) = next(iter(rotate._cache.values()))
    copies = [step for step in runner.exe.steps if step.name == "copy"]
    assert [len(step.outs) for step in copies].count(1) <= 1 < len(states) - 1 <= max(len(s.outs) for s in copies)


@pytest.mark.parametrize("order", [1, -1])
def test_explain_of_arguments_that_are_written_or_strided(order):
    @dc.compile
    def step(cache, place, x, y):
        cache[:, place] = 3.0
        return cache.sum() + (x * y).sum()

    memory = dc.zeros(4000, 600)  # far more than the arguments' own bytes
    cache = dc.ones(40, 100)
    for _ in range(3):
        step(cache, dc.tensor([3]), *(memory[:-1, ::200], memory[1:, ::200])[::order])
    text = io.StringIO()
    step.explain(text)
    assert "assign" in text.getvalue() and cache.sum().item() == 40 * 102


def test_explain_tells_of_each_step_and_changes_nothing():
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, 3))
    optimizer = optim.Adam(model.parameters())

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    (x,) = values((16, 6))
    y = dc.from_numpy(np.arange(16) % 3)
    for _ in range(3):
        step(x, y)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    moments = [v.copy() for s in optimizer.state.values() for v in s.values() if isinstance(v, np.ndarray)]
    stream, grads = dc.get_rng_state(), [p.grad.numpy().copy() for p in model.parameters()]
    text = io.StringIO()
    step.explain(text)
    for name, value in model.state_dict().items():
        assert np.array_equal(before[name], value.numpy())
    assert dc.get_rng_state() == stream
    assert all(np.array_equal(a, p.grad.numpy()) for a, p in zip(grads, model.parameters()))
    now = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, np.ndarray)]
    assert all(map(np.array_equal, moments, now))
    lines = text.getvalue().splitlines()
    assert "1 programs, peak memory" in lines[0] and str(step.peak_memory) in lines[0].replace(",", "")
    assert any("gemm_float32" in line for line in lines) and any(line.strip().startswith("Adam") for line in lines)
    shares = [float(line.split()[-1].rstrip("%")) for line in lines[3:]]
    assert len(shares) == len(next(iter(step._cache.values()))[0][0].exe.steps) and abs(sum(shares) - 100) < 2


def test_arithmetic_of_products_and_formulas_is_exact():
    step = dc.compile(lambda x, w, y: ((x @ w).sum(0), x * y + y))
    x, w, y = values((10, 20), (20, 30), (10, 20))
    step(x, w, y)
    runner = next(iter(step._cache.values()))[0][0]
    counts = {s.name: s.arithmetic for s in runner.exe.steps}
    assert counts["matmul"] == 2 * 10 * 20 * 30 and counts["mul·add"] == 2 * 10 * 20
    assert formulas.operations("square") == 1 and formulas.operations("gelu") > 20


def test_what_products_sums_and_updates_take_in_counts():
    w, v = dc.ones(20, 30, requires_grad=True), dc.ones(30, 64)
    optimizer = optim.SGD([w], lr=0.1)

    @dc.compile
    def step(x, y):
        optimizer.zero_grad()
        (x @ w).sum().backward()
        optimizer.step()
        return (y * y).sum(-1), dc.tanh(y @ v)

    step(*values((10, 20), (40, 30)))
    counts = {s.name: s.arithmetic for s in next(iter(step._cache.values()))[0][0].exe.steps}
    assert counts["mul·sum"] == 2 * 40 * 30 and counts["SGD"] >= 2 * 20 * 30
    assert counts["matmul·tanh"] == 40 * 64 * (2 * 30 + formulas.operations("tanh"))


def test_generated_code_is_kept_to_be_read():
    from deepcore.kernels.codegen import cache
    from deepcore.kernels.cpu import elementwise
    from deepcore.kernels.math.formulas import Line

    lines = (Line("tanh", (0,)), Line("mul", (2, 1)), Line("neg", (3,)))
    kernel = elementwise.fused(lines, "float32", "vr", (4,))
    assert kernel.ready()
    if cache.problem():
        pytest.skip(cache.problem())
    for source in cache.folder().glob(f"{kernel.name}*.py"):
        assert source.read_text() == kernel.source
    assert "x2 = tanh(take(a0, i))" in kernel.source and compile(source.read_text(), str(source), "exec")


def test_the_first_step_of_a_process_has_kernels_only():
    """The threads are started while the function is followed, which is nothing the function did."""
    code = """
import deepcore as dc
from deepcore import nn
model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
step = dc.compile(lambda x: model(x).sum())
with dc.no_grad():
    x = dc.randn(64, 784)
    step(x), step(x)
((runner, *_),) = next(iter(step._cache.values()))
assert step.runs == 1 and all(s.call is None for s in runner.exe.steps), [s.name for s in runner.exe.steps if s.call]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
