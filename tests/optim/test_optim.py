"""Optimizers and schedules: rules of the base class, state dicts, and parity with PyTorch's over many steps."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import warnings

import numpy as np
import pytest
from optimizer_cases import WALKED, optimizer_cases

import deepcore as dc
from deepcore import nn, optim
from deepcore.errors import (
    ArgumentError,
    BackendError,
    ConfigError,
    DeepcoreWarning,
    DTypeError,
    GradientError,
    ShapeError,
    StateDictError,
)
from deepcore.optim import OPTIMIZERS, SCHEDULERS, lr_scheduler


def oracle(name):
    """PyTorch's optimizer of this name."""
    torch = pytest.importorskip("torch")
    return getattr(torch.optim, name, None) or pytest.skip(f"PyTorch has no {name}")


@pytest.fixture
def wide_numbers():
    """PyTorch keeps the numbers of a state in its default dtype, deepcore in float64."""
    torch = pytest.importorskip("torch")
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def taken(cls, **settings):
    """Those of the settings that an optimizer has."""
    return {key: value for key, value in settings.items() if key in inspect.signature(cls).parameters}


def ones(n, **kwargs):
    return nn.Parameter(dc.ones(n, **kwargs))


# -- against PyTorch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, settings", list(optimizer_cases()))
@pytest.mark.usefixtures("wide_numbers")
def test_parity_with_torch(name, settings, backend):
    torch = pytest.importorskip("torch")
    for dtype, steps, rtol, atol in (("float64", 60, 1e-7, 1e-12), ("float32", 10, 1e-5, 1e-6)):
        rng = np.random.default_rng(0)
        starts = [rng.standard_normal(shape).astype(dtype) for shape in ((3, 4), (5,), ())]
        ours = [nn.Parameter(dc.tensor(a, backend=backend)) for a in starts]
        theirs = [torch.nn.Parameter(torch.tensor(a)) for a in starts]
        mine = OPTIMIZERS[name](ours, **settings)
        other = oracle(name)(theirs, **settings)
        for step in range(steps):
            for i, (a, b) in enumerate(zip(ours, theirs)):
                gradient = rng.standard_normal(b.shape).astype(dtype)
                skipped = i == 1 and step % 3 == 1  # a parameter without a gradient is left alone
                a.grad = None if skipped else dc.tensor(gradient, backend=backend)
                b.grad = None if skipped else torch.tensor(gradient)
            mine.step()
            other.step()
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol, atol)
            assert a.dtype == dtype
        compare_state(mine, other, rtol, atol)


def compare_state(mine, other, rtol, atol):
    own, theirs = mine.state_dict(), other.state_dict()
    assert own["state"].keys() == theirs["state"].keys()
    for key, entry in theirs["state"].items():
        assert own["state"][key].keys() == {name for name, value in entry.items() if value is not None}
        for name, value in own["state"][key].items():
            got = value if isinstance(value, (int, float)) else value.numpy()
            np.testing.assert_allclose(got, entry[name].numpy(), rtol, atol)
    for group, group_ in zip(own["param_groups"], theirs["param_groups"]):
        assert group.items() <= group_.items()


@pytest.mark.parametrize("arrays", [True, False], ids=["arrays", "tensors"])
@pytest.mark.parametrize("name", WALKED)
@pytest.mark.usefixtures("wide_numbers")
def test_a_torch_state_dict_is_taken_over(name, arrays):
    torch = pytest.importorskip("torch")
    settings = taken(OPTIMIZERS[name], lr=0.1, momentum=0.9, amsgrad=True)
    theirs = [
        torch.nn.Parameter(torch.ones(3, dtype=torch.float64)),
        torch.nn.Parameter(torch.ones((), dtype=torch.float64)),
    ]
    other = oracle(name)(theirs, **settings)

    def their_step():
        for b in theirs:
            b.grad = torch.linspace(1, 2, b.numel(), dtype=torch.float64).reshape(b.shape) * b.detach()
        other.step()

    for _ in range(4):
        their_step()
    ours = [nn.Parameter(dc.tensor(b.detach().numpy())) for b in theirs]
    mine = OPTIMIZERS[name](ours)

    def converted(value):
        if isinstance(value, torch.Tensor):
            return value.numpy().copy() if arrays else value.clone()
        if isinstance(value, dict):
            return {k: converted(v) for k, v in value.items()}
        return [converted(v) for v in value] if isinstance(value, list) else value

    mine.load_state_dict(converted(other.state_dict()))
    assert mine.param_groups[0]["lr"] == 0.1 and "foreach" not in mine.param_groups[0]
    for _ in range(4):
        their_step()
        for a in ours:
            a.grad = dc.linspace(1, 2, a.numel(), dtype=dc.float64).reshape(a.shape) * a.detach()
        mine.step()
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-12)


def test_defaults_are_torchs():
    torch = pytest.importorskip("torch")
    for registry, module in ((OPTIMIZERS, torch.optim), (SCHEDULERS, torch.optim.lr_scheduler)):
        for name, cls in registry.items():
            if not hasattr(module, name):
                continue
            theirs = inspect.signature(getattr(module, name)).parameters
            for key, parameter in inspect.signature(cls).parameters.items():
                assert parameter.default == theirs[key].default and parameter.kind == theirs[key].kind, f"{name}({key})"


def optim_infos():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_optimizers import optim_db
    except ImportError as error:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"PyTorch's optimizer inputs: {error}"))]
    return [pytest.param(info, id=info.name) for info in optim_db if info.name in WALKED]


@pytest.mark.parametrize("info", optim_infos())
@pytest.mark.usefixtures("wide_numbers")
def test_optim_info(info):
    """PyTorch's own settings; a learning rate that is a tensor, and switches of its implementation, are left out."""
    import torch

    cls, ran = OPTIMIZERS[info.name], 0
    for sample in info.optim_inputs_func(device="cpu"):
        settings = dict(sample.kwargs)
        if any(isinstance(v, torch.Tensor) for v in settings.values()):
            continue
        if any(isinstance(v, torch.Tensor) for v in settings.get("betas", ())):
            continue
        known = {k: v for k, v in settings.items() if k not in ("foreach", "fused", "capturable", "differentiable")}
        ran += 1
        rng = np.random.default_rng(ran)
        start = rng.standard_normal((4, 3))
        ours, theirs = nn.Parameter(dc.tensor(start)), torch.nn.Parameter(torch.tensor(start))
        mine, other = cls([ours], **known), info.optim_cls([theirs], **known)
        for _ in range(12):
            gradient = rng.standard_normal((4, 3))
            ours.grad, theirs.grad = dc.tensor(gradient), torch.tensor(gradient)
            mine.step()
            other.step()
        np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), 1e-8, err_msg=sample.desc)
    assert ran >= 4


@pytest.mark.parametrize("value, says", [(math.nan, "is NaN"), (math.inf, "is infinite"), ("x", "is not a number")])
@pytest.mark.parametrize(
    "name, setting", [("SGD", "lr"), ("SGD", "dampening"), ("Adam", "lr"), ("AdamW", "weight_decay")]
)
def test_settings_are_finite_numbers(name, setting, value, says):
    with pytest.raises(ArgumentError, match=f"{setting} {says}"):
        OPTIMIZERS[name]([ones(1)], **{setting: value})


@pytest.mark.parametrize("gamma", [math.nan, math.inf])
def test_a_schedule_that_gives_no_number(gamma):
    optimizer = optim.SGD([ones(1)], lr=0.1)
    schedule = optim.lr_scheduler.StepLR(optimizer, 1, gamma)
    optimizer.step()
    for _ in range(2):
        with pytest.raises(ArgumentError, match="StepLR gives no learning rate for epoch 1"):
            schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 and schedule.last_epoch == 0


BAD = {
    "SGD": [{"momentum": -1}, {"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}],
}


@pytest.mark.parametrize("name", WALKED)
def test_errors_where_torch_has_them(name):
    torch = pytest.importorskip("torch")
    bad = [{"lr": -1}, {"lr": float("nan")}, {"weight_decay": -1}, {"eps": -1} if name != "Adafactor" else {"eps": (None, -1)}, {"betas": (1.0, 0.9)},
           {"betas": (0.9, -0.1)}, {"rho": 1.1}, {"momentum_decay": -1}, {"lr_decay": -1}, {"alpha": -1},
           {"initial_accumulator_value": -1}, {"d": 0.5}, {"beta2_decay": 1}, {"etas": (1.2, 0.5)}, *BAD.get(name, ())]  # fmt: skip
    bad = [settings for settings in bad if taken(OPTIMIZERS[name], **settings) == settings]
    if name == "ASGD":
        bad.remove({"alpha": -1})
    for settings in bad:
        with pytest.raises(ArgumentError):
            OPTIMIZERS[name]([ones(1)], **settings)
        with pytest.raises(ArgumentError):
            OPTIMIZERS[name]([{"params": [ones(1)], **settings}])
        if settings.get("lr") == settings.get("lr"):
            with pytest.raises(ValueError):
                oracle(name)([torch.nn.Parameter(torch.ones(1))], **settings)


# -- textbook values --------------------------------------------------------------------------------------------------


def test_one_weight_by_hand(backend):
    w = nn.Parameter(dc.tensor(5.0, dtype=dc.float64, backend=backend))
    optimizer = optim.SGD([w], lr=0.1)
    losses = []
    for n in range(30):
        assert w.item() == pytest.approx(3 + 2 * 0.6**n, rel=1e-12)
        optimizer.zero_grad()
        loss = 0.5 * (w * 2 - 6) ** 2
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert losses[:2] == pytest.approx([8, 2.88])


# -- groups --------------------------------------------------------------------------------------------------------------


def test_groups_have_their_own_settings():
    a, b, c = ones(1), ones(1), ones(1)
    optimizer = optim.SGD([{"params": [a], "name": "body"}, {"params": b, "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": iter([c]), "lr": 0.0, "momentum": 0.5})
    for p in (a, b, c):
        p.grad = dc.ones(1)
    optimizer.step()
    assert [p.item() for p in (a, b, c)] == pytest.approx([0.9, 0, 1])
    assert optimizer.param_groups[0]["name"] == "body" and optimizer.param_groups[2]["momentum"] == 0.5
    optimizer.param_groups[0]["lr"] = 0.2
    optimizer.step()
    assert a.item() == pytest.approx(0.7)
    assert "name: body" in repr(optimizer) and "Parameter Group 2" in repr(optimizer)


def test_named_parameters_are_kept():
    model = nn.Linear(2, 1)
    optimizer = optim.Adam(model.named_parameters())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    assert optimizer.param_groups[0]["params"][0] is model.weight


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: optim.SGD([]), r"no parameters.*nn\.ModuleList"),
        (lambda p: optim.SGD(iter(())), "no parameters"),
        (lambda p: optim.SGD(p), "not one tensor"),
        (lambda p: optim.SGD({p}), "order"),
        (lambda p: optim.SGD(nn.Linear(1, 1)), r"model\.parameters\(\)"),
        (lambda p: optim.SGD([p, p]), "already in the optimizer"),
        (lambda p: optim.SGD([{"params": p}, {"params": [p]}]), "already in the optimizer"),
        (lambda p: optim.SGD([3]), "parameter 0 of the group is not a tensor"),
        (lambda p: optim.SGD([p * 2]), "was computed"),
        (lambda p: optim.SGD([{"lr": 1}]), "'params'"),
        (lambda p: optim.SGD([{"params": p, "weight_deacy": 1}]), "did you mean 'weight_decay'"),
        (lambda p: optim.SGD([p], lr=dc.ones(1)), "lr is a number"),
        (lambda p: optim.Adam([p], betas=(0.9,)), "two decay rates"),
        (lambda p: lr_scheduler.StepLR(p, 3), "takes the optimizer"),
        (lambda p: lr_scheduler.StepLR(optim.SGD([p]), 0), "step_size=0"),
        (lambda p: lr_scheduler.StepLR(optim.SGD([p]), 1, last_epoch=3), "initial_lr"),
        (lambda p: lr_scheduler.CosineAnnealingLR(optim.SGD([p]), 1.5), "T_max=1.5"),
        (lambda p: lr_scheduler.LambdaLR(optim.SGD([p]), [abs, abs]), "1 groups, not 2"),
    ],
)
def test_optimizers_refuse(make, message):
    with pytest.raises(ArgumentError, match=f"(?s){message}"):
        make(ones(1))


def test_registries_offer_the_nearest_name():
    assert set(OPTIMIZERS) >= {"SGD", "Adam", "AdamW"}
    with pytest.raises(ConfigError, match=r"(?s)no optimizer named 'Addam'.*'Adam'"):
        OPTIMIZERS["Addam"]
    with pytest.raises(ConfigError, match=r"(?s)SGD has no argument 'momentun'.*'momentum'"):
        OPTIMIZERS.build("SGD", [ones(1)], momentun=0.9)
    assert isinstance(OPTIMIZERS.build("SGD", [ones(1)], momentum=0.9), optim.SGD)


# -- the step ---------------------------------------------------------------------------------------------------------


def test_closure_zero_grad_and_frozen_parameters(backend):
    w, frozen = ones(2, backend=backend), nn.Parameter(dc.ones(2, backend=backend), requires_grad=False)
    optimizer = optim.SGD([w, frozen], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = (w * frozen).sum()
        loss.backward()
        return loss

    with dc.no_grad():
        assert optimizer.step(closure).item() == 2
    assert w.tolist() == [0.5, 0.5] and frozen.tolist() == [1, 1] and frozen not in optimizer.state
    optimizer.zero_grad(set_to_none=False)
    assert w.grad.tolist() == [0, 0] and frozen.grad is None
    optimizer.zero_grad()
    assert w.grad is None


def test_a_step_invalidates_graphs_that_need_the_old_values(backend):
    w = ones(2, backend=backend)
    out = (w * w).sum()
    w.grad = dc.ones(2, backend=backend)
    optim.SGD([w], lr=0.1).step()
    with pytest.raises(GradientError, match="overwritten"):
        out.backward()


@pytest.mark.parametrize("name", WALKED)
def test_gradients_are_not_changed_and_memory_is_the_parameters_own(name, backend):
    settings = taken(OPTIMIZERS[name], lr=0.1, weight_decay=0.1, maximize=True, momentum=0.9)
    big, small = ones((4, 5), backend=backend), ones(3, backend=backend)
    optimizer = OPTIMIZERS[name]([small, big], **settings)
    raw = big.array
    big.grad, small.grad = dc.ones(4, 5, backend=backend), dc.ones(3, backend=backend)
    for _ in range(3):
        optimizer.step()
    assert big.array is raw and (big.grad == 1).all() and (small.grad == 1).all()
    assert float(big[0, 0]) == pytest.approx(float(small[0]), rel=1e-6)


def test_overflow_does_not_warn(backend):
    w = nn.Parameter(dc.full((2,), 3e38, backend=backend))
    w.grad = dc.full((2,), 3e38, backend=backend)
    optim.SGD([w], lr=10.0, weight_decay=10.0, maximize=True).step()
    assert not np.isfinite(w.detach().numpy()).any()


def test_a_gradient_on_another_backend_is_refused():
    w = ones(2)
    w.grad = dc.ones(2, backend="standin")
    with pytest.raises(BackendError, match="two backends"):
        optim.SGD([w]).step()


def test_an_optimizer_is_two_methods():
    class Sign(optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

        def init(self, parameter):
            return {"count": 0}

        def apply(self, parameter, gradient, state, group):
            state["count"] += 1
            parameter._data -= group["lr"] * parameter.backend.sign(gradient)

    w = ones(2)
    optimizer = Sign([w])
    w.grad = dc.tensor([3.0, -2.0])
    optimizer.step()
    assert w.tolist() == pytest.approx([0.9, 1.1]) and optimizer.state[w] == {"count": 1}
    twin = Sign([ones(2)])
    twin.load_state_dict(optimizer.state_dict())
    assert next(iter(twin.state.values())) == {"count": 1}


# -- state dicts --------------------------------------------------------------------------------------------------------


def trained(name, backend="cpu", steps=3, **settings):
    model = nn.Sequential(nn.Linear(2, 3, backend=backend), nn.Linear(3, 1, backend=backend))
    optimizer = OPTIMIZERS[name](model.parameters(), lr=0.1, **settings)
    for _ in range(steps):
        advance(model, optimizer)
    return model, optimizer


def advance(model, optimizer):
    optimizer.zero_grad()
    x = dc.linspace(0, 1, 8, backend=model[0].weight.backend).reshape(4, 2)
    (model(x) ** 2).mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name, settings", [("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("AdamW", {})])
def test_a_restored_optimizer_goes_on_with_the_same_bits(name, settings, backend):
    model, optimizer = trained(name, **settings)
    twin = nn.Sequential(nn.Linear(2, 3, backend=backend), nn.Linear(3, 1, backend=backend))
    other = OPTIMIZERS[name](twin.parameters())
    state = optimizer.state_dict()
    state["state"] = {str(key): entry for key, entry in state["state"].items()}  # as JSON would bring it back
    other.load_state_dict(state)
    twin.load_state_dict(model.state_dict())
    assert other.param_groups[0]["lr"] == 0.1 and other.param_groups[0]["params"][0] is twin[0].weight
    before = {k: v.tolist() for k, v in twin.state_dict().items()}
    advance(model, optimizer)
    assert before == {k: v.tolist() for k, v in twin.state_dict().items()}  # nothing is shared
    advance(twin, other)
    for a, b in zip(model.parameters(), twin.parameters()):
        if backend == "cpu":
            assert a.tolist() == b.tolist()
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), 1e-5)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_model_with_its_optimizer(copier):
    model, optimizer = trained("Adam")
    twin, other = copier((model, optimizer))
    assert other.param_groups[0]["params"][0] is twin[0].weight
    advance(twin, other)
    advance(model, optimizer)
    assert twin[0].weight.tolist() == model[0].weight.tolist()


def test_state_dicts_that_do_not_fit_change_nothing():
    optimizer = trained("Adam")[1]
    good = optimizer.state_dict()

    def refuse(state, message):
        target = optim.Adam(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).parameters(), lr=0.7)
        with pytest.raises(StateDictError, match=f"(?s){message}"):
            target.load_state_dict(state)
        assert not target.state and target.param_groups[0]["lr"] == 0.7

    for broken in ({}, None, {**good, "state": 1}, {**good, "state": {0: 5}}, {**good, "param_groups": [1]}):
        refuse(broken, "not a state dict of an optimizer")
    refuse({**good, "param_groups": [{"params": 3}]}, "not a state dict of an optimizer")
    refuse({**good, "param_groups": good["param_groups"] * 2}, r"groups of \[4\] parameters.*\[4, 4\]")
    refuse({**good, "state": {**good["state"], 9: {}}}, "parameter 9")
    refuse({**good, "state": {0: {**good["state"][0], "exp_avg": dc.ones(2)}}}, r"'exp_avg' has shape \(2,\)")
    refuse({**good, "state": {0: {"step": 3}}}, "'exp_avg' is missing")
    refuse({**good, "state": {0: {**good["state"][0], "exp_avg": None}}}, "'exp_avg' is missing")
    refuse({**good, "state": {0: {**good["state"][0], "exp_avg": 1.0}}}, "'exp_avg' is a tensor, not 1.0")
    for step in (math.inf, -1, 0.5, "x", [1], 10**400):
        refuse({**good, "state": {0: {**good["state"][0], "step": step}}}, "'step' is a whole number")
    for setting in ({"lr": "x"}, {"betas": 0.9}, {"betas": [0.9, "x"]}, {"eps": 10**400}, {"amsgrad": 2.0}):
        refuse(
            {**good, "param_groups": [{**good["param_groups"][0], **setting}]},
            f"setting '{next(iter(setting))}' cannot",
        )
    refuse({**good, "param_groups": [{**good["param_groups"][0], "lr": -1}]}, "lr is negative")
    refuse({**good, "param_groups": [{**good["param_groups"][0], "weight_decai": 0}]}, "did you mean 'weight_decay'")
    for name in ("lr", "betas", "weight_decay"):
        less = {k: v for k, v in good["param_groups"][0].items() if k != name}
        refuse({**good, "param_groups": [less]}, f"setting '{name}' is missing")
    refuse(trained("SGD", momentum=0.9)[1].state_dict(), "'momentum_buffer' is not state of Adam")


def test_a_switch_that_a_state_dict_does_not_have_is_off():
    """As in files from before the switch came, which PyTorch reads so."""
    state = trained("Adam")[1].state_dict()
    less = {k: v for k, v in state["param_groups"][0].items() if k not in ("amsgrad", "maximize")}
    target = optim.Adam(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).parameters(), maximize=True)
    target.load_state_dict({**state, "param_groups": [{**less, "max_lr": 1.0}]})
    group = target.param_groups[0]
    assert (group["amsgrad"], group["maximize"], group["max_lr"]) == (False, False, 1.0)


def test_the_settings_of_a_group_become_those_of_the_state_dict():
    """All of them, as in PyTorch: what came in between is gone, so that a state can be put back."""
    weight = ones(2)
    optimizer = optim.SGD([{"params": [weight], "name": "body"}], lr=0.1)
    before = optimizer.state_dict()
    lr_scheduler.StepLR(optimizer, 2)
    assert "initial_lr" in optimizer.param_groups[0]
    optimizer.load_state_dict(before)
    assert optimizer.state_dict() == before and optimizer.param_groups[0]["name"] == "body"


NAMES = [("a", "b", "c"), ("c", "a", "b"), None]


@pytest.mark.parametrize("saved", NAMES)
@pytest.mark.parametrize("own", NAMES)
def test_state_recorded_under_names_is_matched_by_name(saved, own):
    def build(names):
        parameters = {n: ones(2) for n in names or "abc"}
        return parameters, optim.SGD(list(parameters.items() if names else parameters.values()), lr=0.1, momentum=0.9)

    first, optimizer = build(saved)
    for i, p in enumerate(first.values()):
        p.grad = dc.tensor([float(i), 1.0])
    optimizer.step()
    second, other = build(own)
    other.load_state_dict(optimizer.state_dict())
    pairs = ((first[n], second[n]) for n in "abc") if saved and own else zip(first.values(), second.values())
    for p, q in pairs:
        assert optimizer.state[p]["momentum_buffer"].tolist() == other.state[q]["momentum_buffer"].tolist()
    assert other.param_groups[0].get("param_names") == (list(own) if own else None)
    again = optim.SGD(list(second.items()) if own else second.values(), lr=0.1, momentum=0.9)
    again.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    "names, message",
    [
        (["a", "c"], "group 0 has parameters b where the state dict has c"),
        (["a"], "'param_names' are not the names of 2 parameters"),
        ("ab", "'param_names' are not"),
        ([0, 1], "'param_names' are not"),
    ],
)
def test_names_that_do_not_fit(names, message):
    a, b = ones(2), ones(2)
    optimizer = optim.SGD([("a", a), ("b", b)], lr=0.1)
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = names
    with pytest.raises(StateDictError, match=message):
        optimizer.load_state_dict(state)


# -- schedules ------------------------------------------------------------------------------------------------------------

SCHEDULES = {
    "StepLR": [{"step_size": 3}, {"step_size": 2, "gamma": 0.5}],
    "MultiStepLR": [{"milestones": [2, 5, 5]}, {"milestones": [4, 1], "gamma": 0.3}],
    "ExponentialLR": [{"gamma": 0.9}],
    "ConstantLR": [{}, {"factor": 0.2, "total_iters": 3}],
    "LinearLR": [{}, {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 7}],
    "PolynomialLR": [{}, {"total_iters": 9, "power": 2.0}],
    "CosineAnnealingLR": [{"T_max": 5}, {"T_max": 4, "eta_min": 0.01}, {"T_max": 1}],
    "CosineAnnealingWarmRestarts": [{"T_0": 4}, {"T_0": 2, "T_mult": 3, "eta_min": 0.01}],
    "LambdaLR": [{"lr_lambda": lambda e: 0.9**e}, {"lr_lambda": [lambda e: 1 / (e + 1), lambda e: e]}],
    "MultiplicativeLR": [{"lr_lambda": lambda e: 0.9}, {"lr_lambda": [lambda e: 1 / e, lambda e: 1.0]}],
    "CyclicLR": [
        {"base_lr": 0.1, "max_lr": [0.5, 0.3], "step_size_up": 4},
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "step_size_down": 5, "mode": "triangular2"},
        {"base_lr": [0.1, 0.2], "max_lr": 0.5, "step_size_up": 3, "mode": "exp_range", "gamma": 0.9,
         "base_momentum": 0.3, "max_momentum": 0.7},
        {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "scale_fn": lambda x: 1 / x, "cycle_momentum": False},
    ],
    "OneCycleLR": [
        {"max_lr": 0.5, "total_steps": 100},
        {"max_lr": [0.5, 0.2], "epochs": 10, "steps_per_epoch": 11, "three_phase": True, "anneal_strategy": "linear"},
        {"max_lr": 0.5, "total_steps": 101, "pct_start": 0.1, "div_factor": 3.0, "final_div_factor": 7.0,
         "base_momentum": 0.2, "max_momentum": [0.6, 0.9]},
    ],
}  # fmt: skip
#: Schedules that are built otherwise.
OTHER_SCHEDULES = {"ReduceLROnPlateau", "ChainedScheduler", "SequentialLR"}


def schedule_cases():
    for name in [name for name in SCHEDULERS if name not in OTHER_SCHEDULES]:
        for i, settings in enumerate(SCHEDULES.get(name, [{}])):
            yield pytest.param(name, settings, id=f"{name}-{i}")


def two_groups(**settings):
    return optim.SGD([{"params": ones(1), "lr": 0.5}, {"params": ones(1)}], lr=0.1, momentum=0.9, **settings)


@pytest.mark.parametrize("name, settings", list(schedule_cases()))
def test_schedules_match_torch(name, settings):
    torch = pytest.importorskip("torch")
    mine = two_groups()
    p, q = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    other = torch.optim.SGD([{"params": p, "lr": 0.5}, {"params": q}], lr=0.1, momentum=0.9)
    ours = SCHEDULERS[name](mine, **settings)
    theirs = getattr(torch.optim.lr_scheduler, name)(other, **settings)
    for _ in range(100):
        assert ours.get_last_lr() == theirs.get_last_lr()
        assert [g["momentum"] for g in mine.param_groups] == [g["momentum"] for g in other.param_groups]
        mine._stepped = True
        other.step()
        ours.step()
        theirs.step()
    assert [g["lr"] for g in mine.param_groups] == ours.get_last_lr()
    fresh = SCHEDULERS[name](two_groups(), **settings)
    fresh.load_state_dict(theirs.state_dict())
    assert fresh.last_epoch == 100 and fresh.base_lrs == theirs.base_lrs


@pytest.mark.parametrize("name, settings", list(schedule_cases()))
def test_a_restored_schedule_goes_on(name, settings):
    optimizer = two_groups()
    schedule = SCHEDULERS[name](optimizer, **settings)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    restored = two_groups()
    twin = SCHEDULERS[name](restored, **settings)
    restored.load_state_dict(optimizer.state_dict())
    twin.load_state_dict(schedule.state_dict())
    for _ in range(6):
        schedule.step()
        twin.step()  # no warning: the optimizer's steps lie before the restore
        assert twin.get_last_lr() == schedule.get_last_lr() and twin.last_epoch == schedule.last_epoch


@pytest.mark.parametrize("name, settings", list(schedule_cases()))
def test_torch_takes_the_state_of_a_schedule(name, settings):
    torch = pytest.importorskip("torch")
    optimizer = two_groups()
    schedule = SCHEDULERS[name](optimizer, **settings)
    groups = [{"params": [torch.ones(2, requires_grad=True)], "lr": lr} for lr in (0.5, 0.1)]
    theirs = torch.optim.SGD(groups, momentum=0.9)
    twin = getattr(torch.optim.lr_scheduler, name)(theirs, **settings)
    for _ in range(3):
        optimizer.step()
        schedule.step()
    twin.load_state_dict(schedule.state_dict())
    assert twin.get_last_lr() == schedule.get_last_lr() and twin.last_epoch == 3
    for group, own in zip(theirs.param_groups, optimizer.param_groups):
        group["lr"] = own["lr"]
    theirs.step()
    for _ in range(3):
        twin.step()
        schedule.step()
        assert twin.get_last_lr() == pytest.approx(schedule.get_last_lr(), rel=1e-12)


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR"])
def test_a_group_may_come_after_the_schedule(name):
    optimizer = two_groups()
    schedule = SCHEDULERS[name](optimizer, 1)
    optimizer.add_param_group({"params": [ones(2)], "lr": 0.3})
    for _ in range(3):
        optimizer.step()
        schedule.step()
    assert len(schedule.get_last_lr()) == 3


def test_schedules_act_together():
    optimizer = two_groups()
    a, b = lr_scheduler.StepLR(optimizer, 1, 0.5), lr_scheduler.CosineAnnealingLR(optimizer, 10)
    optimizer.step()
    a.step()
    b.step()
    factor = 0.5 * (1 + math.cos(math.pi / 10)) / 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * factor)


def test_a_schedule_resumes_at_last_epoch():
    optimizer = two_groups()
    lr_scheduler.StepLR(optimizer, 2)
    assert lr_scheduler.StepLR(optimizer, 2, last_epoch=3).last_epoch == 4
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1]


def test_stepping_the_schedule_first_warns():
    schedule = lr_scheduler.StepLR(two_groups(), 2)
    with pytest.warns(DeepcoreWarning, match=r"Call optimizer\.step\(\) first") as caught:
        schedule.step()
    assert caught[0].filename == __file__
    schedule.step()


def test_schedule_state_dicts_that_do_not_fit():
    schedule = lr_scheduler.StepLR(two_groups(), 2)
    state = schedule.state_dict()
    with pytest.raises(
        StateDictError, match=r"(?s)'gamma' is missing.*'gama' is unexpected \(did you mean 'gamma'\?\)"
    ):
        schedule.load_state_dict({("gama" if k == "gamma" else k): v for k, v in state.items()})
    with pytest.raises(StateDictError, match="1 parameter groups, not 2"):
        schedule.load_state_dict({**state, "base_lrs": [0.1]})
    for broken in ({"step_size": 0}, {"step_size": 2.0}, {"gamma": "x"}, {"base_lrs": 1}, {"_last_lr": [None, 1]},
                   {"last_epoch": 10**400}):  # fmt: skip
        with pytest.raises(StateDictError, match=f"'{next(iter(broken))}' cannot be"):
            schedule.load_state_dict({**state, **broken})
    with pytest.raises(StateDictError, match="is a dict"):
        schedule.load_state_dict(None)
    assert schedule.state_dict() == state


# -- PyTorch's switches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WALKED)
def test_switches_of_an_implementation_change_nothing(name):
    optimizer = OPTIMIZERS[name]([ones((2, 2))], foreach=True, fused=False, capturable=True, differentiable=False)
    assert optimizer.param_groups[0].keys() == OPTIMIZERS[name]([ones((2, 2))]).param_groups[0].keys()
    with pytest.raises(ArgumentError, match="a step is not differentiable"):
        OPTIMIZERS[name]([ones((2, 2))], differentiable=True)


@pytest.mark.parametrize("name", WALKED)
def test_states_of_16_bit_parameters(name):
    """They are computed in float32, and the result is that of float32, rounded once."""
    starts = np.random.default_rng(0).standard_normal((2, 3)).astype("float16")
    half, full = nn.Parameter(dc.tensor(starts)), nn.Parameter(dc.tensor(starts.astype("float32")))
    for p in (half, full):
        p.grad = (p.detach() * 0.5).to(p.dtype)
        OPTIMIZERS[name]([p], lr=0.1).step()
    assert half.dtype == dc.float16
    np.testing.assert_allclose(half.detach().numpy(), full.detach().numpy(), rtol=2e-3, atol=1e-3)


# -- schedules of schedules, and of a metric --------------------------------------------------------------------------

METRICS = [1.0, 0.8, 0.81, 0.7999, 0.82, 0.9, math.nan, 0.5, 0.6, 0.6, 0.6, 0.6, 0.55, 0.5, 0.5, 0.5, 0.5, 0.1]


def both(build):
    """(ours, theirs): an optimizer with what `build(lr_scheduler, optimizer)` makes, from deepcore and PyTorch."""
    torch = pytest.importorskip("torch")
    p, q = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    other = torch.optim.SGD([{"params": p, "lr": 0.5}, {"params": q}], lr=0.1, momentum=0.9)
    mine = two_groups()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        pairs = (mine, build(lr_scheduler, mine)), (other, build(torch.optim.lr_scheduler, other))
    mine._stepped = True
    other.step()
    return pairs


def restored(build, schedule, optimizer):
    """Another schedule in the state of `schedule`, with its optimizer."""
    twin = two_groups()
    other = build(lr_scheduler, twin)
    twin.load_state_dict(optimizer.state_dict())
    other.load_state_dict(schedule.state_dict())
    return twin, other


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1},
        {"patience": 0, "factor": 0.5, "threshold": 0.1, "cooldown": 2},
        {"mode": "max", "patience": 2, "threshold_mode": "abs", "threshold": 0.05, "min_lr": [0.01, 0.06]},
        {"patience": 0, "factor": 0.9, "eps": 0.02},
    ],
)
def test_a_plateau_matches_torch(settings):
    build = lambda module, optimizer: module.ReduceLROnPlateau(optimizer, **settings)
    (mine, ours), (_, theirs) = both(build)
    for i, value in enumerate(METRICS * 3):
        ours.step(dc.tensor(value) if i % 2 else value)
        theirs.step(np.float32(value) if i % 2 else value)
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12), i
        assert (ours.num_bad_epochs, ours.cooldown_counter) == (theirs.num_bad_epochs, theirs.cooldown_counter)
        if i == 7:
            mine, ours = restored(build, ours, mine)
            ours.load_state_dict(theirs.state_dict())
    assert mine.param_groups[0]["lr"] == ours.get_last_lr()[0] < 0.5
    with pytest.raises(DTypeError, match="takes the metric"):
        ours.step(None)


COMPOSED = {
    "sequential": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, total_iters=5), m.ExponentialLR(o, 0.9), m.CosineAnnealingLR(o, 20)], [5, 30]
    ),
    "sequence of steps": lambda m, o: m.SequentialLR(
        o, [m.ConstantLR(o), m.StepLR(o, 4), m.MultiStepLR(o, [2, 3]), m.PolynomialLR(o, 9)], [7, 20, 31]
    ),
    "restarts": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o), m.CosineAnnealingWarmRestarts(o, 4, 2), m.LambdaLR(o, lambda e: 0.9**e)], [4, 50]
    ),
    "chained": lambda m, o: m.ChainedScheduler(
        [m.ConstantLR(o, 0.1, 4), m.ExponentialLR(o, 0.9), m.LambdaLR(o, lambda e: 0.95**e), m.MultiplicativeLR(o, lambda e: 1.01)]
    ),
    "of a chain": lambda m, o: m.ChainedScheduler([m.ExponentialLR(o, 0.99), m.StepLR(o, 10)], o),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_schedules_of_schedules_match_torch(name):
    (mine, ours), (other, theirs) = both(COMPOSED[name])
    for epoch in range(100):
        assert [g["lr"] for g in mine.param_groups] == pytest.approx([g["lr"] for g in other.param_groups], rel=1e-12)
        assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12), epoch
        ours.step()
        theirs.step()
        if epoch in (3, 24):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mine, ours = restored(COMPOSED[name], ours, mine)
            mine._stepped = True


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.StepLR(o, 1)], [2]), "0 milestones"),
        (lambda o: lr_scheduler.ChainedScheduler([]), "at least one schedule"),
        (lambda o: lr_scheduler.ChainedScheduler([o]), "number 0 is no schedule"),
        (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(o, 1)], two_groups()), "of another optimizer"),
        (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ReduceLROnPlateau(o)]), "steps with a metric"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), "factor is below 1"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, min_lr=[0.1]), "2 groups, not 1"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), "needs total_steps"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 10, pct_start=2.0), "a fraction"),
        (lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.2, mode="square"), "'square'"),
        (lambda o: lr_scheduler.CyclicLR(optim.Adagrad([ones(1)]), 0.1, 0.2), r"(?s)no momentum.*cycle_momentum=False"),
        (lambda o: lr_scheduler.ConstantLR(o, 2.0), "factor is above 0"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), "start_factor is above 0"),
    ],
)
def test_schedules_refuse(make, message):
    with pytest.raises(ArgumentError, match=message):
        make(two_groups())


def test_one_cycle_ends_after_its_steps():
    optimizer = two_groups()
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.5, 3)
    optimizer._stepped = True
    for _ in range(3):
        schedule.step()
    with pytest.raises(ArgumentError, match=r"(?s)run to its end.*at most 3 steps"):
        schedule.step()
    assert schedule.last_epoch == 3


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_cycles_of_momentum(name):
    optimizer = OPTIMIZERS[name]([ones(1)], lr=0.1, **taken(OPTIMIZERS[name], momentum=0.9))
    schedule = lr_scheduler.OneCycleLR(optimizer, 0.5, 20)
    optimizer._stepped = True
    momenta = []
    for _ in range(19):
        group = optimizer.param_groups[0]
        momenta.append(group["betas"][0] if name == "Adam" else group["momentum"])
        schedule.step()
    assert momenta[0] == 0.95 and min(momenta) == pytest.approx(0.85) and momenta[-1] > 0.94


def test_a_schedule_moves_to_any_epoch():
    for epochs in ([0.25, 3.5, 7.75, 1.0, 20], [5, 2, 0, 11]):
        build = lambda m, o: m.CosineAnnealingWarmRestarts(o, 3, 2, 0.01)
        (_, ours), (_, theirs) = both(build)
        for epoch in epochs:
            ours.step(epoch)
            theirs.step(epoch)
            assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12)
            assert (ours.T_cur, ours.T_i, ours.last_epoch) == (theirs.T_cur, theirs.T_i, theirs.last_epoch)
    for name, settings in ((c.values[0], c.values[1]) for c in schedule_cases()):
        if name in ("CosineAnnealingWarmRestarts", "MultiplicativeLR"):
            continue
        (_, ours), (_, theirs) = both(lambda m, o, name=name, settings=settings: getattr(m, name)(o, **settings))
        for epoch in (7, 3, 0, 12):
            ours.step(epoch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs.step(epoch)
            assert ours.get_last_lr() == pytest.approx(theirs.get_last_lr(), rel=1e-12), name


# -- optimizers of matrices, and with a closure -----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {}, {"lr": 0.1, "weight_decay": 0.5}, {"momentum": 0.5, "nesterov": False}, {"ns_steps": 3, "eps": 0.1},
    {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": (3.0, -3.2, 1.2)},
])  # fmt: skip
@pytest.mark.parametrize("shape", [(4, 6), (9, 3), (5, 5)])
def test_muon_matches_torch(shape, settings, backend):
    """Within what bfloat16 leaves open: both round every product to it, and add up in another order."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = rng.standard_normal(shape).astype("float32")
    ours, theirs = nn.Parameter(dc.tensor(start, backend=backend)), torch.nn.Parameter(torch.tensor(start))
    mine, other = optim.Muon([ours], **settings), oracle("Muon")([theirs], **settings)
    for _ in range(10):
        g = rng.standard_normal(shape).astype("float32")
        ours.grad, theirs.grad = dc.tensor(g, backend=backend), torch.tensor(g)
        mine.step()
        other.step()
    moved = np.abs(theirs.detach().numpy() - start).max()
    assert np.abs(ours.detach().numpy() - theirs.detach().numpy()).max() < 0.01 * moved
    compare_state(mine, other, 1e-5, 1e-6)
    twin = optim.Muon([nn.Parameter(dc.ones(shape))], **settings)
    twin.load_state_dict(other.state_dict())


def test_muon_takes_matrices():
    with pytest.raises(ShapeError, match=r"(?s)parameter 0 of the group is none.*AdamW"):
        optim.Muon([ones(3)])
    for wrong in ({"ns_steps": 0}, {"adjust_lr_fn": "other"}, {"momentum": -1}):
        with pytest.raises(ArgumentError):
            optim.Muon([ones((2, 2))], **wrong)


LBFGS = [
    {}, {"lr": 0.1}, {"max_iter": 5, "history_size": 2}, {"tolerance_grad": 1e-3}, {"max_eval": 7},
    {"line_search_fn": "strong_wolfe"}, {"line_search_fn": "strong_wolfe", "max_iter": 4, "history_size": 3},
    {"line_search_fn": "strong_wolfe", "lr": 30.0}, {"line_search_fn": "strong_wolfe", "lr": 1e-3, "max_iter": 3},
]  # fmt: skip


@pytest.mark.parametrize("settings", LBFGS)
@pytest.mark.parametrize("problem", ["quadratic", "rosenbrock", "network"])
def test_lbfgs_matches_torch(problem, settings, backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    starts = {"quadratic": [(3, 4), (5,)], "rosenbrock": [(6,)], "network": [(4, 3), (4,), (4,)]}[problem]
    starts = [0.5 * rng.standard_normal(shape) for shape in starts]
    x, y, scales = rng.standard_normal((8, 3)), rng.standard_normal(8), np.linspace(0.5, 3, 12)

    def loss(lib, data, w):
        if problem == "quadratic":
            return ((w[0] - 1).reshape(-1) ** 2 * data(scales)).sum() + (w[1] ** 2).sum()
        if problem == "rosenbrock":
            (w,) = w
            return (0.5 * (w[1:] - w[:-1] ** 2) ** 2 + 0.1 * (1 - w[:-1]) ** 2).sum()
        hidden = lib.tanh(data(x) @ w[0].t() + w[1])
        return ((hidden @ w[2] - data(y)) ** 2).mean()

    def run(lib, optimizer_class, parameters, data):
        optimizer, losses = optimizer_class(parameters, **settings), []

        def closure():
            optimizer.zero_grad()
            value = loss(lib, data, parameters)
            value.backward()
            return value

        for _ in range(10 if backend == "cpu" else 2):
            losses.append(optimizer.step(closure).item())
        return optimizer, losses

    ours = [nn.Parameter(dc.tensor(a, backend=backend)) for a in starts]
    theirs = [torch.nn.Parameter(torch.tensor(a)) for a in starts]
    mine, own_losses = run(dc, optim.LBFGS, ours, lambda a: dc.tensor(a, backend=backend))
    other, losses = run(torch, oracle("LBFGS"), theirs, torch.tensor)
    np.testing.assert_allclose(own_losses, losses, rtol=1e-6, atol=1e-12)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)
    counts = [
        (s["func_evals"], s["n_iter"]) for s in (next(iter(mine.state.values())), next(iter(other.state.values())))
    ]
    assert counts[0] == counts[1]


def test_lbfgs_goes_on_from_a_state_dict(tmp_path):
    def build():
        w = ones((3,), dtype=dc.float64)
        return w, optim.LBFGS([w], max_iter=3, line_search_fn="strong_wolfe")

    def advance(w, optimizer):
        def closure():
            optimizer.zero_grad()
            loss = ((w - dc.tensor([2.0, -1.0, 0.5], dtype=dc.float64)) ** 4).sum()
            loss.backward()
            return loss

        return optimizer.step(closure).item()

    w, optimizer = build()
    for _ in range(3):
        advance(w, optimizer)
    dc.save(optimizer.state_dict(), tmp_path / "state.safetensors")
    twin, other = build()
    twin.data = w.detach().clone()
    other.load_state_dict(dc.load(tmp_path / "state.safetensors"))
    assert [advance(w, optimizer) for _ in range(3)] == [advance(twin, other) for _ in range(3)]
    assert w.tolist() == twin.tolist() and w.tolist() == pytest.approx([2, -1, 0.5], abs=0.1)
    bad = optimizer.state_dict()
    bad["state"][0]["d"] = dc.ones(2)
    with pytest.raises(StateDictError, match="no vector of the 3 elements"):
        other.load_state_dict(bad)


def test_lbfgs_refuses():
    with pytest.raises(ArgumentError, match="needs a closure"):
        optim.LBFGS([ones(1)]).step()
    with pytest.raises(ArgumentError, match="one parameter group"):
        optim.LBFGS([{"params": ones(1)}, {"params": ones(1)}])
    with pytest.raises(ArgumentError, match="'armijo'"):
        optim.LBFGS([ones(1)], line_search_fn="armijo")
