"""Plans: one for each set of specs, entered by a builtin or by ctypes, with the same bits."""

from __future__ import annotations

import sys
import threading

import numpy as np
import op_samples
import pytest

import deepcore as dc
from deepcore.autograd import apply
from deepcore.backend import dtypes
from deepcore.config import settings
from deepcore.errors import DeepcoreError, IndexRangeError

pytest.importorskip("numba")

from deepcore.kernels import plan
from deepcore.kernels.cpu import dropout, elementwise, gemm, reductions
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F
from deepcore.ops.registry import FUNCTIONS, FUSED, PRIMITIVES


@pytest.fixture(autouse=True)
def kernels_on(monkeypatch):
    monkeypatch.setattr(settings, "kernels", True)


def draw(*shape, dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


CALLS = {
    "map": lambda x: x.exp(),
    "map of two": lambda x: x * x.exp(),
    "map with a number": lambda x: F.leaky_relu(x, 0.3),
    "rows": lambda x: F.softmax(x, -1),
    "columns": lambda x: F.softmax(x, 0),
    "sum": lambda x: x.sum(),
    "sum of rows": lambda x: x.sum(1, keepdim=True),
    "largest": lambda x: x.amax(0),
    "place": lambda x: x.argmax(1),
    "product": lambda x: x @ x.t(),
    "linear": lambda x: F.linear(x, x[:5], x[:5, 0].contiguous()),
    "linear, relu": lambda x: F.relu(F.linear(x, x)),
    "linear and its activation": lambda x: F.linear(x, x[:1], activation="gelu"),
    "product of halves": lambda x: x.to(dc.bfloat16) @ x.to(dc.bfloat16).t(),
    "norm": lambda x: dc.grad(lambda x, w: F.layer_norm(x, x.shape[1:], w, w).square().sum(), argnums=1)(
        x, x[0].clone()
    ),
    "batch norm": lambda x: dc.grad(lambda x: F.batch_norm(x, None, None, x[0], x[1], training=True).square().sum())(x),
    "cross-entropy": lambda x: dc.grad(
        lambda x: F.cross_entropy(x, dc.arange(len(x)) % x.shape[1], label_smoothing=0.1)
    )(x),
    "embedding": lambda x: F.embedding(dc.arange(7), x),
    "dropout": lambda x: (dc.manual_seed(1), F.dropout(x, 0.5))[1],
    "k largest": lambda x: dc.topk(x, 3).indices,
}


@pytest.mark.parametrize("shape", [(7, 9), (300, 301)], ids=["small", "large"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_builtin_and_ctypes_give_the_same_bits(call, shape, monkeypatch):
    x = dc.from_numpy(draw(*shape))
    results = [call(x), call(x)]
    for lowering in {id(op.lowering): op.lowering for op in PRIMITIVES.values() if op.lowering}.values():
        lowering.plans.clear()
    monkeypatch.setattr(plan, "_can_make_builtins", lambda: False)
    results.append(call(x))
    for lowering in {id(op.lowering): op.lowering for op in PRIMITIVES.values() if op.lowering}.values():
        lowering.plans.clear()
    monkeypatch.setattr(settings, "threads", 1)
    results.append(call(x))
    assert len({r.numpy().tobytes() for r in results}) == 1


def test_a_plan_serves_all_operands_of_a_spec():
    lowering = PRIMITIVES["exp"].lowering or (dc.ones(2).exp(), PRIMITIVES["exp"].lowering)[1]
    lowering.plans.clear()
    for _ in range(3):
        dc.from_numpy(draw(3, 5)).exp()
    assert len(lowering.plans) == 1
    dc.from_numpy(draw(5, 3)).t().exp()  # the same shape in another layout
    assert len(lowering.plans) == 3  # and what it was copied or transposed to


def test_numbers_are_operands_and_no_keys():
    lowering = PRIMITIVES["leaky_relu"].lowering or (F.leaky_relu(dc.ones(2)), PRIMITIVES["leaky_relu"].lowering)[1]
    x = dc.tensor([-1.0, 2.0])
    F.leaky_relu(x, 0.5)
    count = len(lowering.plans)
    assert [F.leaky_relu(x, slope)[0].item() for slope in (0.25, 0.5, 2, -0.0)] == [-0.25, -0.5, -2, 0]
    assert np.signbit(F.leaky_relu(x, 0.0).numpy()[0]) and not np.signbit(F.leaky_relu(x, -0.0).numpy()[0])
    assert len(lowering.plans) == count


def test_other_memory_has_another_spec():
    t = dc.tensor([1.0, 2.0, 3.0])
    assert t.exp().shape == (3,)
    t.data = dc.as_tensor(np.ones((2, 4), np.float32))
    assert t.exp().shape == (2, 4)
    array = np.zeros(6, np.float32)
    shared = dc.from_numpy(array)
    assert shared.exp().sum().item() == 6
    array.shape = 2, 3  # the user's own header
    shared.numpy().shape = 3, 2
    assert shared.shape == shared.exp().shape == (6,)


def test_a_kernel_that_stops_is_an_error(monkeypatch):
    x = dc.tensor([1.0, 2.0])
    for _ in range(2):  # the first call may bind the op
        x.exp()
    made = PRIMITIVES["exp"].lowering.plans[x._spec]
    stopped = plan.Plan.__new__(plan.Plan)
    for name in plan.Plan.__slots__:
        setattr(stopped, name, getattr(made, name))
    stopped.call = lambda *operands: 3
    monkeypatch.setitem(PRIMITIVES["exp"].lowering.plans, x._spec, stopped)
    with pytest.raises(DeepcoreError, match="exp_float32 stopped with status 3"):
        x.exp()


def test_calls_leave_reference_counts_alone():
    x = dc.from_numpy(draw(4, 4))
    x.exp()
    before = sys.getrefcount(x._data), sys.getrefcount(None)
    for _ in range(2000):
        x.exp()
    after = sys.getrefcount(x._data), sys.getrefcount(None)
    assert after[0] == before[0] and abs(after[1] - before[1]) < 100


def test_threads_share_plans():
    x = dc.from_numpy(draw(200, 300))
    wanted = x.exp().sum(1).numpy().tobytes()
    faults = []

    def work():
        for _ in range(30):
            if x.exp().sum(1).numpy().tobytes() != wanted:
                faults.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


def test_temporaries_hold_the_parts_of_long_sums():
    x = draw(3, 300_000)
    made = reductions.REDUCTIONS["sum"]
    spec = plan.spec_of(x, dc.get_backend("cpu"))
    lowered = made.lower([spec], {"dims": (1,), "keepdim": False})
    assert len(lowered.launches) == 2 and lowered.temporaries
    total = dc.from_numpy(x).sum(1).numpy()
    np.testing.assert_allclose(total, x.sum(1, dtype=np.float64), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("count", [1, 2])
def test_the_number_of_threads_may_change(count, monkeypatch):
    x = dc.from_numpy(draw(300, 400))
    wanted = x.exp().numpy()
    monkeypatch.setattr(settings, "threads", count)
    np.testing.assert_array_equal(x.exp().numpy(), wanted)
    assert threadpool.current().limit == count


def test_parameters_that_are_no_keys_take_the_long_way():
    x = dc.from_numpy(draw(4, 5))
    op = PRIMITIVES["sum"]
    np.testing.assert_array_equal(op(x, dims=(0,), keepdim=False).numpy(), op(x, keepdim=False, dims=(0,)).numpy())
    with pytest.raises(DeepcoreError):
        op(x, dims=[[0]], keepdim=False)


# -- every op with a kernel ---------------------------------------------------------------------------------------------

CPU = dc.get_backend("cpu")
FLOATS = [dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16]


def lowerings() -> dict:
    dc.kernels.registry.discover()
    return {
        name: each.run
        for (name, kind), found in dc.kernels.registry._KERNELS.items()
        if kind == "cpu" and (name in PRIMITIVES or name in FUSED)
        for each in found
    }


def test_every_op_with_a_kernel_has_a_lowering():
    assert len(lowerings()) > 80
    assert [name for name, kernel in lowerings().items() if not isinstance(kernel, plan.Lowering)] == []


def bits(result) -> list:
    results = result if isinstance(result, tuple) else (result,)
    return [(r.dtype, r.shape, np.ascontiguousarray(r).tobytes()) for r in results]


def lowered(lowering, arrays, params):
    """The plan's results for arrays, copied first where the lowering says so; None where it has no plan."""
    for _ in range(2):
        specs = [plan.spec_of(a, CPU) for a in arrays]
        made = lowering.lower(specs, params)
        if made is not True:
            break
        copies = lowering.copies(specs, params)
        if copies is None:
            return None
        arrays = [np.ascontiguousarray(a) if copy else a for a, copy in zip(arrays, copies)]
    assert made is None or isinstance(made, plan.Plan)
    if made is None:
        return None
    assert lowering.cost(specs, params) >= 0
    outputs = [np.full(s.shape, 7, s.dtype) for s in made.results]
    result = made.run(arrays, lowering.slots(params), *outputs)
    assert all(np.shares_memory(a, b) or not a.size for a, b in zip(outputs, [result] * (len(outputs) == 1) or result))
    return (result,) if lowering.many and not isinstance(result, tuple) else result


class Watch:
    """Runs each op that has a lowering three ways: by its plan, as `apply` does, and by its kernel for arrays."""

    def __init__(self):
        self.seen: set[str] = set()

    def __call__(self, proceed, op, inputs, params):
        result = proceed(op, inputs, params)
        lowering = lowerings_of.get(op.name)
        if lowering is not None and all(t.backend is CPU for t in inputs):
            arrays = [t._data for t in inputs]
            ours = lowered(lowering, arrays, params)
            if ours is not None:
                self.seen.add(op.name)
                run = CPU.impls.get(op) or CPU.bind(op)
                with np.errstate(all="ignore"):
                    wanted = bits(run(CPU, *arrays, **params))
                assert bits(ours) == wanted, (op, params)
                with dc.no_grad():
                    eager = apply(op, inputs, params)
                eager = tuple(t.numpy() for t in eager) if isinstance(eager, tuple) else eager.numpy()
                assert bits(eager) == wanted[: len(eager) if isinstance(eager, tuple) else 1], (op, params)
        return result


lowerings_of = lowerings()


def sampled(dtype, watch: Watch) -> None:
    for name, entry in FUNCTIONS.items():
        for sample in op_samples.samples(name, "cpu"):
            given = op_samples.tensors_in([*sample.args, *sample.kwargs.values()])
            for layout in (lambda t: t, op_samples.strided):
                mapping = {}
                for t in given:
                    new = layout(t.detach().to(dtype) if t.requires_grad and not t.is_complex() else t.detach())
                    mapping[id(t)] = new.requires_grad_() if t.requires_grad else new
                args = [op_samples.replace(a, mapping) for a in sample.args]
                kwargs = {k: op_samples.replace(v, mapping) for k, v in sample.kwargs.items()}
                with dc.autograd.intercept(watch):
                    try:
                        outs = op_samples.outputs_of(entry.function(*args, **kwargs))
                    except DeepcoreError:  # not for this dtype
                        continue
                    for out in outs:
                        if out.requires_grad:
                            (out.abs() if out.is_complex() else out).sum().backward(
                                retain_graph=True
                            )  # results may share their graph


@pytest.mark.parametrize(
    "dtype", [pytest.param(d, marks=pytest.mark.slow if d.itemsize == 2 else ()) for d in FLOATS], ids=lambda d: d.name
)
def test_plans_have_the_bits_of_eager_calls(dtype):
    """Over the samples of all ops, contiguous and strided, forward and backward."""
    watch = Watch()
    sampled(dtype, watch)
    assert len(watch.seen) > (20 if dtype.itemsize > 2 else 1)
    assert dtype.itemsize == 2 or {"softmax", "sum", "matmul", "linear", "rows", "argmax", "topk"} <= watch.seen


def leaf(*shape, dtype=np.float32, layout=0, seed=0):
    x = np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)
    if layout == 1:
        x = np.ascontiguousarray(x.T).T
    elif layout == 2:
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    return dc.from_numpy(x).requires_grad_()


def rows_of(x):
    n = x.shape[-1]
    return leaf(n, dtype=x.dtype, seed=1), leaf(n, dtype=x.dtype, seed=2)


def classes(x, count):
    shape = (x.shape[0], *x.shape[2:])
    return dc.from_numpy(np.random.default_rng(5).integers(0, count, shape))


def dropped(x):
    dc.manual_seed(3)
    return F.dropout(F.dropout(x, 0.4), 0.1)


RICH = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], *rows_of(x)),
    "layer_norm without": lambda x: F.layer_norm(x, x.shape[1:]),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:], rows_of(x)[0]),
    "batch_norm": lambda x: F.batch_norm(
        x,
        dc.zeros(x.shape[1]).to(x.dtype),
        dc.ones(x.shape[1]).to(x.dtype),
        *rows_of(x.transpose(1, -1)),
        training=True,
    ),
    "batch_norm without": lambda x: F.batch_norm(x, None, None, training=True),
    "batch_norm weight": lambda x: F.batch_norm(x, None, None, rows_of(x.transpose(1, -1))[0], training=True),
    "batch_norm fixed": lambda x: F.batch_norm(
        x, dc.zeros(x.shape[1]).to(x.dtype), dc.ones(x.shape[1]).to(x.dtype), *rows_of(x.transpose(1, -1))
    ),
    "cross_entropy": lambda x: F.cross_entropy(x, classes(x, x.shape[1])),
    "cross_entropy smoothed": lambda x: F.cross_entropy(
        x, classes(x, x.shape[1]), label_smoothing=0.1, reduction="sum"
    ),
    "cross_entropy weighted": lambda x: F.cross_entropy(
        x, classes(x, x.shape[1]), rows_of(x.transpose(1, -1))[0].abs(), label_smoothing=0.1, reduction="none"
    ),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "dropout": dropped,
    "topk": lambda x: dc.topk(x, 2).values,
    "logsumexp": lambda x: x * dc.logsumexp(x.detach(), -1, keepdim=True),
    "rows": lambda x: F.embedding(dc.from_numpy(np.arange(6) % 2), x.reshape(x.shape[0], -1), 1),
    "linear": lambda x: F.linear(x, leaf(5, x.shape[-1], dtype=x.dtype), leaf(5, dtype=x.dtype), activation="gelu"),
    "linear relu": lambda x: F.linear(
        x, leaf(1, x.shape[-1], dtype=x.dtype), leaf(1, dtype=x.dtype), activation="relu"
    ),
}
SHAPES = [(40, 7), (100, 33), (3, 70, 5), (2, 3, 700)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", RICH)
def test_plans_of_several_launches_have_the_bits_of_eager_calls(name, dtype):
    watch = Watch()
    for shape in SHAPES:
        for layout in (0, 1, 2):
            x = leaf(*shape, dtype=dtype, layout=layout)
            with dc.autograd.intercept(watch):
                out = RICH[name](x)
                (out * leaf(*out.shape, dtype=dtype, seed=9).detach()).sum().backward()
    assert any(word in seen for word in name.split() for seen in watch.seen)


PRODUCTS = [(1, 300, 256), (3, 700, 100), (64, 1, 100), (400, 5, 40), (130, 400, 70), (7, 9, 11), (33, 17, 1)]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
@pytest.mark.parametrize("size", PRODUCTS, ids=str)
def test_every_product_is_a_plan(size, dtype):
    """Few rows, one column, few columns, halves: with bias, activation and what that is applied to."""
    m, n, k = size
    x, weight, bias = (dc.from_numpy(draw(*s)).to(dtype) for s in ((m, k), (n, k), (n,)))
    found = lowerings()
    arrays = [t.numpy() for t in (x, weight, bias)]
    plain = lowered(found["linear"], arrays[:2], {})
    np.testing.assert_array_equal(plain, lowered(found["matmul"], [arrays[0], arrays[1].T], {}))
    for activation in ("relu", "gelu"):
        out, before = lowered(found["linear_activation_kept"], arrays, {"activation": activation})
        np.testing.assert_array_equal(out, lowered(found["linear_activation"], arrays, {"activation": activation}))
        np.testing.assert_array_equal(before, lowered(found["linear"], arrays, {}))
        if dtype.itemsize > 2:
            np.testing.assert_array_equal(before, plain + arrays[2])
            np.testing.assert_array_equal(out, PRIMITIVES[activation](dc.from_numpy(before)).numpy())


@pytest.mark.parametrize("size", [(40, 30, 20), (130, 400, 300), (400, 5, 40)], ids=str)
def test_an_epilogue_joins_a_product(size):
    m, n, k = size
    a, b = draw(m, k), draw(k, n)
    made = lowerings()["matmul"].lower([plan.spec_of(x, CPU) for x in (a, b)], {})
    product, other = made.run([a, b], []), draw(m, n)
    maps = elementwise.MAPS
    for name, kinds, others in (("gelu", "v", []), ("relu_grad", "vv", [other]), ("mul", "vv", [other])):
        kernel = maps[name].kernel(dtypes.float32, kinds)
        assert kernel.ready()
        wanted = maps[name](CPU, product, *others)
        joined = gemm.with_epilogue(made, kernel, others=len(others))
        np.testing.assert_array_equal(joined.run([a, b, *others], []), wanted)
        out, kept = gemm.with_epilogue(made, kernel, others=len(others), keep=True).run([a, b, *others], [])
        np.testing.assert_array_equal(out, wanted)
        np.testing.assert_array_equal(kept, product)
        assert gemm.with_epilogue(joined, kernel, others=len(others)) is None
    x, y = draw(1, 256), draw(256, 300)
    few = lowerings()["matmul"].lower([plan.spec_of(z, CPU) for z in (x, y)], {})
    assert gemm.with_epilogue(few, maps["gelu"].kernel(dtypes.float32, "v")) is None


@pytest.mark.parametrize(
    "shape, dims", [((70_000,), (0,)), ((40, 500), (1,)), ((3, 200_000), (1,)), ((6, 7), (0, 1))], ids=str
)
def test_the_sum_of_a_chain_is_a_plan(shape, dims):
    x, y = draw(*shape), draw(*shape) + 1
    line = elementwise.Line
    lines = (line("mul", (0, 1)), line("leaky_relu", (2,), (0,)))
    spec = plan.spec_of(x, CPU)
    made = reductions.summed(lines, "float32", "vv", [spec, spec], dims, False)
    wanted = elementwise.MAPS["leaky_relu"](CPU, x * y, slope=0.3)
    wanted = reductions.REDUCTIONS["sum"](CPU, wanted, dims=dims, keepdim=False)
    np.testing.assert_array_equal(made.run([x, y], [0.3]), wanted)
    assert reductions.summed(lines, "float32", "vv", [plan.spec_of(draw(5, 6), CPU)], (0,), False) is None


@pytest.mark.parametrize("p", [0.3, 0.9999])
@pytest.mark.parametrize("n", [5, 70_001])
def test_dropout_keeps_its_mask(n, p):
    x, g = draw(n), draw(n) + 2
    params = {"seed": 2**64 - 5, "stream": 7, "position": 2**64 - 2, "p": p}
    state = plan.draw_state(params)
    spec = plan.spec_of(x, CPU)
    out, mask = dropout.plan_with_mask([spec], params).run([x, state], [])
    np.testing.assert_array_equal(out, dropout.dropout(CPU, x, **params))
    again = dropout.plan_from_mask([spec, plan.spec_of(mask, CPU)], params).run([g, mask], [])
    np.testing.assert_array_equal(again, dropout.dropout(CPU, g, **params))
    assert dropout.plan_with_mask([spec], {**params, "p": 1.0}) is None


def test_positions_of_random_numbers_are_operands_and_no_keys():
    lowering = lowerings()["dropout"]
    x = dc.from_numpy(draw(50))
    F.dropout(x, 0.5)
    count = len(lowering.plans)
    drawn = {F.dropout(x, p).numpy().tobytes() for p in (0.5, 0.5, 0.25)}
    assert len(drawn) == 3 and len(lowering.plans) == count


def test_smoothing_is_an_operand_and_no_key():
    lowering = lowerings()["cross_entropy"]
    x, target = dc.from_numpy(draw(5, 6)), dc.arange(5)
    F.cross_entropy(x, target, label_smoothing=0.5)
    count = len(lowering.plans)
    losses = [F.cross_entropy(x, target, label_smoothing=e).item() for e in (0.25, 0.75, 0.0, -0.0)]
    assert losses[2] == losses[3] == F.cross_entropy(x, target).item()
    assert len(lowering.plans) == count + 1  # none at all is another algorithm


def test_a_kernel_that_stops_has_the_error_of_the_reference(monkeypatch):
    x, target = dc.from_numpy(draw(5, 6)), dc.arange(5) + 2
    found = []
    for kernels in (True, False):
        monkeypatch.setattr(settings, "kernels", kernels)
        for call in (lambda: F.cross_entropy(x, target), lambda: F.embedding(target, x)):
            with pytest.raises(IndexRangeError) as error:
                call()
            found.append(str(error.value))
    assert found[:2] == found[2:]


def test_temporaries_share_a_block_and_start_on_cache_lines(monkeypatch):
    x, w = leaf(100, 33), leaf(33)
    g, rows = draw(100, 33), lowerings()["layer_norm_grad"]
    _, statistics = lowerings()["layer_norm"](CPU, x._data, w._data, rank=1, eps=1e-5)
    arrays = [g, x._data, statistics, w._data]
    made = rows.lower([plan.spec_of(a, CPU) for a in arrays], {"rank": 1, "affine": 2})
    assert len(made.temporaries) > 1 and len(made.results) == 3
    wanted = bits(made.run(arrays, []))
    blocks = []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *args: blocks.append(empty(*args)) or blocks[-1])
    again = rows.lower([plan.spec_of(a, CPU) for a in arrays], {"rank": 1, "affine": 2})
    assert bits(again.run(arrays, [])) == wanted
    assert len([b for b in blocks if b.dtype == np.uint8]) == 1
