"""Hooks of state dicts, modules' own state, and hooks of optimizers, beside PyTorch where it is installed."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DeepcoreWarning, StateDictError


def inner(lib):
    """A layer with an inner one, and the order in which its hooks run."""
    model, calls = lib.nn.Sequential(lib.nn.Linear(2, 3), lib.nn.Sequential(lib.nn.Linear(3, 1))), []
    for name, module in model.named_modules():
        note = lambda kind, name=name: calls.append((kind, name))
        module.register_state_dict_pre_hook(lambda m, prefix, keep, note=note: note(("pre", prefix, keep)))
        module.register_state_dict_post_hook(
            lambda m, state, prefix, meta, note=note: note(("post", prefix, len(state)))
        )
        module.register_load_state_dict_post_hook(lambda m, keys, note=note: note(("loaded", len(keys.missing_keys))))
    return model, calls


def test_the_order_is_pytorchs():
    torch = pytest.importorskip("torch")
    runs = []
    for lib in (torch, dc):
        model, calls = inner(lib)
        model.load_state_dict(model.state_dict())
        runs.append(calls)
    assert runs[0] == runs[1]


def test_a_hook_renames_old_entries():
    model = nn.Sequential(nn.Linear(2, 3))
    old = {name.replace("0.", "old."): t for name, t in model.state_dict().items()}

    def rename(module, state, prefix, metadata, strict, missing, unexpected, errors):
        for name in [n for n in state if n.startswith("old.")]:
            state["0." + name[4:]] = state.pop(name)

    handle = model.register_load_state_dict_pre_hook(rename)
    kept = dict(old)
    assert model.load_state_dict(old) == ([], []) and old == kept  # the caller's dict is as it was
    handle.remove()
    with pytest.raises(StateDictError, match=r"missing:.*0\.weight"):
        model.load_state_dict(old)
    model.register_load_state_dict_pre_hook(lambda *arguments: arguments[-1].append("of another age"))
    with pytest.raises(StateDictError, match="of another age"):
        model.load_state_dict(model.state_dict())


def test_post_hooks_change_the_dict():
    model = nn.Linear(2, 2)
    model.register_state_dict_post_hook(lambda module, state, prefix, metadata: state.__delitem__(prefix + "bias"))
    assert list(model.state_dict()) == ["weight"]
    assert list(model.load_state_dict(model.state_dict(), strict=False).missing_keys) == ["bias"]


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(2, 2), 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x)

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


def test_a_modules_own_state():
    model = nn.Sequential(Counter(), nn.Linear(2, 1))
    model(dc.ones(1, 2)), model(dc.ones(1, 2))
    state = model.state_dict()
    assert state["0._extra_state"] == {"calls": 2}
    other = nn.Sequential(Counter(), nn.Linear(2, 1))
    other.load_state_dict(state)
    assert other[0].calls == 2
    del state["0._extra_state"]
    with pytest.raises(StateDictError, match=r"missing: *0\._extra_state"):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False).missing_keys == ["0._extra_state"]
    with pytest.raises(ArgumentError, match="has no get_extra_state"):
        nn.Linear(1, 1).get_extra_state()


def test_set_submodule():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.ReLU())
    model.set_submodule("0.0", nn.Linear(2, 5))
    assert model(dc.ones(1, 2)).shape == (1, 5)
    model.set_submodule("0.more", nn.Identity())
    assert isinstance(model.get_submodule("0.more"), nn.Identity)
    for target, strict in (("0.nothing", True), ("no.such", False)):
        with pytest.raises((AttributeError, ArgumentError)):
            model.set_submodule(target, nn.Identity(), strict=strict)
    with pytest.raises(ArgumentError, match="takes a module"):
        model.set_submodule("0.0", 3)


def test_copies_keep_the_hooks_of_state_dicts():
    model = nn.Linear(1, 1)
    model.register_state_dict_post_hook(rename_bias)
    assert "b" in copy.deepcopy(model).state_dict()


def rename_bias(module, state, prefix, metadata):
    state["b"] = state.pop("bias")


# -- optimizers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SGD", "Adam", "LBFGS"])
def test_hooks_of_steps(name):
    model = nn.Linear(2, 1)
    optimizer = getattr(dc.optim, name)(model.parameters(), lr=0.1)
    calls = []
    first = optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("pre", len(args), sorted(kwargs))))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("post", o is optimizer)))

    def closure():
        optimizer.zero_grad()
        loss = model(dc.ones(1, 2)).sum()
        loss.backward()
        return loss

    before = model.weight.detach().numpy().copy()
    assert optimizer.step(closure).shape == ()
    assert calls == [("pre", 1, []), ("post", True)]
    assert not np.array_equal(before, model.weight.detach().numpy())
    first.remove()
    optimizer.step(closure=closure)
    assert calls[2:] == [("post", True)]


def test_a_hook_replaces_the_arguments_of_a_step():
    w = nn.Parameter(dc.ones(1))
    optimizer = dc.optim.SGD([w], lr=1.0)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: ((lambda: (w * 3.0).sum().backward(),), {}))
    optimizer.step(lambda: None)
    assert w.tolist() == [-2.0]


def test_a_subclass_that_calls_the_step_above_runs_hooks_once():
    class Mine(dc.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    w = nn.Parameter(dc.ones(1))
    optimizer, calls = Mine([w], lr=1.0), []
    optimizer.register_step_post_hook(lambda *arguments: calls.append(1))
    w.grad = dc.ones(1)
    optimizer.step()
    assert calls == [1] and w.tolist() == [0.0]


def test_a_compiled_step_with_hooks_runs_them():
    pytest.importorskip("numba")
    w = nn.Parameter(dc.ones(2))
    optimizer, calls = dc.optim.SGD([w], lr=0.5), []
    optimizer.register_step_post_hook(lambda *arguments: calls.append(1))

    @dc.compile
    def step(x):
        optimizer.zero_grad()
        loss = (w * x).sum()
        loss.backward()
        optimizer.step()
        return loss

    with pytest.warns(DeepcoreWarning, match="hooks"):
        for _ in range(4):
            step(dc.ones(2))
    assert len(calls) == 4 and w.tolist() == [-1.0, -1.0]
