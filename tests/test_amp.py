"""`GradScaler`, step by step against PyTorch's."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn, optim
from deepcore.backend import get_backend, use_backend
from deepcore.errors import ArgumentError, DeepcoreWarning, GradientError, StateDictError


@pytest.fixture
def kind(backend):
    with use_backend(backend):
        yield get_backend(backend).kernel_kind or "cpu"


def parameter(*values):
    return nn.Parameter(dc.tensor(values))


def step(scaler, w, optimizer, factor=1.0):
    optimizer.zero_grad()
    scaler.scale((w * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


def test_the_name_is_pytorchs():
    assert dc.GradScaler is dc.amp.GradScaler


def test_scale_grows_and_backs_off(kind):
    w = parameter(1.0, 2.0)
    optimizer = optim.SGD([w], lr=0.5)
    scaler = dc.amp.GradScaler(kind, 4.0, growth_factor=2.0, backoff_factor=0.25, growth_interval=2)
    scales = []
    for factor in (1.0, 1.0, math.inf, 1.0, 1.0, 1.0, math.nan, 1.0):
        before = w.detach().numpy().copy()
        step(scaler, w, optimizer, factor)
        moved = w.detach().numpy() - before
        assert np.array_equal(moved, [-0.5 * factor] * 2 if math.isfinite(factor) else [0, 0])
        scales.append(scaler.get_scale())
    assert scales == [4, 8, 2, 2, 4, 4, 1, 1]


@pytest.mark.parametrize("clip", [False, True])
def test_a_run_against_pytorchs(clip):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((3, 4)).astype("f")
    own, theirs = nn.Parameter(dc.tensor(weights)), torch.nn.Parameter(torch.tensor(weights))
    optimizers = optim.Adam([own], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    settings = {"init_scale": 2.0**126, "growth_interval": 4}
    scalers = dc.amp.GradScaler("cpu", **settings), torch.amp.GradScaler("cpu", **settings)
    for i in range(40):
        x = rng.standard_normal((3, 4)).astype("f") * (10.0 ** (i % 7))
        for lib, w, optimizer, scaler in zip((dc, torch), (own, theirs), optimizers, scalers):
            optimizer.zero_grad()
            scaler.scale((w * lib.tensor(x)).sum()).backward()
            if clip:
                scaler.unscale_(optimizer)
                lib.nn.utils.clip_grad_norm_([w], 0.5)
            scaler.step(optimizer)
            scaler.update()
        assert scalers[0].state_dict() == scalers[1].state_dict()
        if math.isfinite(float(theirs.grad.abs().max())):
            np.testing.assert_allclose(own.grad.numpy(), theirs.grad.numpy(), 1e-6)
        np.testing.assert_allclose(own.detach().numpy(), theirs.detach().numpy(), 1e-5, 1e-6)


def test_small_gradients_survive_float16(kind):
    """A gradient of 2e-8 is 0 in float16; scaled, it is not."""
    for enabled, expected in ((False, 0.0), (True, 2e-8)):
        w = parameter(1.0)
        optimizer = optim.SGD([w], lr=1.0)
        scaler = dc.amp.GradScaler(kind, 2.0**12, enabled=enabled)
        with dc.autocast(kind, dc.float16):
            loss = (w.half() * 2e-8).sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        np.testing.assert_allclose(w.grad.numpy(), expected, 0.05)


def test_the_scale_grows_to_no_infinity(kind):
    w = parameter(1e-30)
    scaler = dc.amp.GradScaler(kind, 2.0**127, growth_interval=1)
    step(scaler, w, optim.SGD([w], lr=0.0), 1e-30)
    assert scaler.get_scale() == 2.0**127 and scaler.state_dict()["_growth_tracker"] == 0


def test_two_optimizers_share_a_scale(kind):
    a, b = parameter(1.0), parameter(1.0)
    first, second = optim.SGD([a], lr=1.0), optim.SGD([b], lr=1.0)
    scaler = dc.amp.GradScaler(kind, 8.0)
    losses = scaler.scale([a.sum() * math.inf, (b.sum(),)])
    losses[0].backward()
    losses[1][0].backward()
    scaler.step(first)
    scaler.step(second)
    scaler.update()
    assert a.item() == 1 and b.item() == 0 and scaler.get_scale() == 4
    assert [t.item() for t in scaler.scale(t for t in (a, b))] == [4, 0]


def test_bfloat16_gradients_are_rounded_once(kind):
    w = nn.Parameter(dc.ones(3, dtype=dc.bfloat16))
    scaler = dc.amp.GradScaler(kind, 3.0)
    scaler.scale((w * 5.0).sum()).backward()
    scaler.unscale_(optim.SGD([w], lr=1.0))
    assert w.grad.dtype == dc.bfloat16 and (w.grad.float().numpy() == 5).all()


def test_misuse_is_an_error():
    w = parameter(1.0)
    optimizer = optim.SGD([w], lr=0.1)
    scaler = dc.amp.GradScaler("cpu")
    with pytest.raises(GradientError, match=r"update\(\) without"):
        scaler.update()
    with pytest.raises(GradientError, match="no parameter"):
        scaler.step(optimizer)
    scaler.scale(w.sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(GradientError, match=r"after unscale_\(\)"):
        scaler.unscale_(optimizer)
    with pytest.raises(GradientError, match="between iterations"):
        copy.copy(scaler)
    scaler.step(optimizer)
    with pytest.raises(GradientError, match="twice"):
        scaler.step(optimizer)
    with pytest.raises(GradientError, match=r"after step\(\)"):
        scaler.unscale_(optimizer)
    scaler.update()
    for call in (lambda: scaler.step(optimizer, closure=lambda: 1), lambda: scaler.step(optimizer, lambda: 1)):
        with pytest.raises(GradientError, match="closure"):
            call()
    with pytest.raises(ArgumentError, match="iterable"):
        scaler.scale(3)
    half = nn.Parameter(dc.ones(2, dtype=dc.float16))
    half.sum().backward()
    with pytest.raises(ArgumentError, match="float16 would underflow"):
        scaler.unscale_(optim.SGD([half], lr=0.1))
    with pytest.raises(ArgumentError, match="growth_factor"):
        dc.amp.GradScaler("cpu", growth_factor=1.0)
    with pytest.raises(ArgumentError, match="backoff_factor"):
        dc.amp.GradScaler("cpu", backoff_factor=1.0)


def test_a_skipped_step_returns_none():
    class Counting(optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            return "done"

    w = parameter(1.0)
    optimizer, scaler = Counting([w], lr=0.1), dc.amp.GradScaler("cpu")
    scaler.scale(w.sum()).backward()
    assert scaler.step(optimizer) == "done"
    scaler.update()
    w.grad.fill_(math.inf)
    assert scaler.step(optimizer) is None


def test_new_scale():
    scaler = dc.amp.GradScaler("cpu", 4.0)
    scaler.update(16.0)
    assert scaler.get_scale() == 16
    scaler.update(dc.tensor([2.0]))
    assert scaler.get_scale() == 2
    with pytest.raises(ArgumentError, match="one element"):
        scaler.update(dc.ones(2))


def test_state_is_saved_and_copied(kind):
    w = parameter(1.0)
    optimizer = optim.SGD([w], lr=0.0)
    scaler = dc.amp.GradScaler(kind, 8.0, growth_interval=3)
    step(scaler, w, optimizer)
    state = scaler.state_dict()
    assert state == {
        "scale": 8.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3, "_growth_tracker": 1
    }  # fmt: skip
    other = dc.amp.GradScaler(kind)
    other.load_state_dict(state)
    for again in (other, copy.deepcopy(scaler)):
        assert again.state_dict() == state
        step(again, w, optimizer)
        step(again, w, optimizer)
        assert again.get_scale() == 16
    assert scaler.state_dict() == state
    if kind == "cpu":
        assert pickle.loads(pickle.dumps(scaler)).state_dict() == state
    with pytest.raises(StateDictError, match="disabled"):
        scaler.load_state_dict({})


def test_disabled():
    w = parameter(1.0)
    optimizer = optim.SGD([w], lr=1.0)
    scaler = dc.amp.GradScaler("cpu", enabled=False)
    loss = w.sum()
    assert scaler.scale(loss) is loss and not scaler.is_enabled() and scaler.get_scale() == 1.0
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert w.item() == 0 and scaler.state_dict() == {}
    scaler.load_state_dict({})
    if not dc.cuda.is_available():
        with pytest.warns(DeepcoreWarning, match="no such device"):
            assert not dc.amp.GradScaler().is_enabled()
