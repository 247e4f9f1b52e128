"""Plans: one for each set of specs, entered by a builtin or by ctypes, with the same bits."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.errors import DeepcoreError

pytest.importorskip("numba")

from deepcore.kernels import plan
from deepcore.kernels.cpu import reductions
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F
from deepcore.ops.registry import PRIMITIVES


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
}


@pytest.mark.parametrize("shape", [(7, 9), (300, 301)], ids=["small", "large"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_builtin_and_ctypes_give_the_same_bits(call, shape, monkeypatch):
    x = dc.from_numpy(draw(*shape))
    results = [call(x), call(x)]
    for lowering in {id(op.lowering): op.lowering for op in PRIMITIVES.values() if op.lowering}.values():
        lowering.plans.clear()
    monkeypatch.setattr(plan, "_can_enter", lambda: False)
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
    t.data = np.ones((2, 4), np.float32)
    assert t.exp().shape == (2, 4)
    array = np.zeros(6, np.float32)
    shared = dc.from_numpy(array)
    assert shared.exp().sum().item() == 6
    array.shape = 2, 3  # the user's own header
    shared.numpy().shape = 3, 2
    assert shared.shape == shared.exp().shape == (6,)


def test_a_kernel_that_stops_is_an_error(monkeypatch):
    x = dc.tensor([1.0, 2.0])
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
