"""Module, containers, hooks, state dicts, moving, layers' own rules, initialisation, clipping, summary, files."""

from __future__ import annotations

import contextlib
import copy
import gc
import inspect
import json
import math
import pickle
import time
import weakref

import numpy as np
import pytest
from nn_examples import cases, flat, make_input

import deepcore as dc
from deepcore import nn
from deepcore.config import settings
from deepcore.errors import (
    ArgumentError,
    BackendError,
    ConfigError,
    DeepcoreError,
    DTypeError,
    FileFormatError,
    GradientError,
    IndexRangeError,
    NonFiniteError,
    ShapeError,
    StateDictError,
)
from deepcore.io import safetensors
from deepcore.nn import functional as F
from deepcore.nn import init
from deepcore.nn.files import build, describe
from deepcore.nn.registry import LAYERS, LOSSES, Registry
from deepcore.ops import linalg


class Net(nn.Module):
    def __init__(self, backend=None):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4, backend=backend), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(4, 2, backend=backend)
        self.scale = nn.Parameter(dc.ones(2, backend=backend))
        self.register_buffer("seen", dc.zeros((), dtype=dc.int64, backend=backend))
        self.register_buffer("cache", dc.zeros(2, backend=backend), persistent=False)

    def forward(self, x):
        return self.head(self.body(x)) * self.scale


def names(pairs):
    return [name for name, _ in pairs]


# -- registration -----------------------------------------------------------------------------------------


def test_registration_and_walking():
    net = Net()
    expected = ["scale", "body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    assert names(net.named_parameters()) == expected
    assert [p.shape for p in net.parameters()] == [(2,), (4, 3), (4,), (2, 4), (2,)]
    assert names(net.named_buffers()) == ["seen", "cache"]
    assert names(net.named_modules()) == ["", "body", "body.0", "body.1", "body.2", "head"]
    assert names(net.named_children()) == ["body", "head"]
    assert names(net.named_parameters(recurse=False)) == ["scale"]
    assert names(net.named_parameters(prefix="m"))[0] == "m.scale"
    assert net.get_submodule("body.0") is net.body[0] and net.get_submodule("") is net
    assert net.get_parameter("head.bias") is net.head.bias and net.get_buffer("seen") is net.seen
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in net.parameters())


def test_tied_parameters_are_listed_once():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    model = nn.Sequential(a, b, a)
    assert names(model.named_parameters()) == ["0.weight", "0.bias", "1.bias"]
    assert len(list(model.modules())) == 3
    assert "2.weight" in names(model.named_parameters(remove_duplicate=False))
    assert sorted(model.state_dict()) == sorted(f"{i}.{n}" for i in range(3) for n in ("weight", "bias"))


def test_assigning_replaces_and_deletes():
    net = Net()
    net.head = nn.Linear(4, 5)
    assert net.head.weight.shape == (5, 4) and len(list(net.parameters())) == 5
    net.scale = None
    assert net.scale is None and "scale" not in dict(net.named_parameters())
    net.seen = dc.ones((), dtype=dc.int64)
    assert net.get_buffer("seen").item() == 1
    net.thing = 3  # a plain attribute becomes a parameter, and is gone when deleted
    net.thing = nn.Parameter(dc.ones(1))
    assert net.get_parameter("thing") is net.thing
    del net.thing
    assert not hasattr(net, "thing") and "thing" not in dict(net.named_parameters())
    del net.head
    assert names(net.named_children()) == ["body"]


def test_what_cannot_be_assigned():
    net = Net()
    with pytest.raises(ArgumentError, match=r"(?s)scale is a parameter.*nn.Parameter"):
        net.scale = dc.ones(2)
    with pytest.raises(ArgumentError, match="head is a submodule"):
        net.head = 3
    with pytest.raises(ArgumentError, match="seen is a buffer"):
        net.seen = 3
    with pytest.raises(ArgumentError, match="without a dot"):
        net.add_module("a.b", nn.Identity())
    with pytest.raises(ArgumentError, match="already has an attribute"):
        net.register_parameter("forward", nn.Parameter(dc.ones(1)))
    with pytest.raises(ArgumentError, match=r"(?s)the class ReLU.*ReLU\(…\)"):
        nn.Sequential(nn.ReLU)
    with pytest.raises(GradientError, match="leaf"):
        nn.Parameter(net.scale * 2)
    with pytest.raises(ArgumentError, match=r"expected: +a Parameter"):
        net.register_parameter("extra", dc.ones(1))


class Forgetful(nn.Module):
    def __init__(self, what):
        self.what = what


@pytest.mark.parametrize("make", [lambda: nn.Parameter(dc.ones(1)), nn.ReLU])
def test_assigning_before_super_init(make):
    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
        Forgetful(make())
    for use in (lambda m: m.register_buffer("b", dc.ones(1)), lambda m: m(1), lambda m: list(m.parameters())):
        with pytest.raises(AttributeError, match=r"super\(\).__init__\(\)"):
            use(Forgetful(1))


def test_typos_are_attribute_errors_that_offer_the_nearest_name():
    net = Net()
    with pytest.raises(AttributeError, match=r"(?s)Net has no attribute 'haed'.*did you mean 'head'\?"):
        _ = net.haed
    assert not hasattr(net, "haed") and getattr(net, "haed", 5) == 5
    with pytest.raises(AttributeError, match=r"(?s)no submodule 'body.7'"):
        net.get_submodule("body.7")
    with pytest.raises(AttributeError, match=r"(?s)did you mean 'weight'\?"):
        net.get_parameter("head.wieght")


def test_a_failing_property_reports_its_own_error():
    class Wrong(nn.Module):
        @property
        def size(self):
            return self.missing_thing

    with pytest.raises(AttributeError, match="missing_thing"):
        _ = Wrong().size


def test_a_module_without_forward_says_so():
    with pytest.raises(DeepcoreError, match=r"Module has no forward\(\)"):
        nn.Module()(1)


def test_errors_name_the_path_of_the_layer(backend):
    net = Net(backend)
    with pytest.raises(ShapeError, match=r"Net\.body\.0 \(Linear\)"):
        net(dc.ones(5, 4, backend=backend))


def test_modules_go_back_without_the_garbage_collector():
    gc.disable()
    try:
        net = Net()
        net(dc.ones(2, 3)).sum().backward()
        ref, weight = weakref.ref(net), weakref.ref(net.head.weight)
        del net
        assert ref() is None and weight() is None
    finally:
        gc.enable()


# -- modes, moving, copying -----------------------------------------------------------------------------------


def test_train_eval_apply_and_requires_grad():
    net = Net()
    assert net.training and net.eval() is net
    assert not any(m.training for m in net.modules())
    net.body.train()
    assert net.body[2].training and not net.head.training
    order = []
    net.apply(lambda m: order.append(type(m).__name__))
    assert order == ["Linear", "Tanh", "Dropout", "Sequential", "Linear", "Net"]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert not net(dc.ones(1, 3)).requires_grad


def test_zero_grad(backend):
    layer = nn.Linear(2, 2, backend=backend)
    layer(dc.ones(1, 2, backend=backend)).sum().backward()
    held = layer.weight.grad
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad is not None and held.tolist() == [[0, 0], [0, 0]]
    layer.zero_grad()
    assert layer.weight.grad is None and layer.bias.grad is None


def test_to_dtype_keeps_identity_ties_and_gradients():
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.weight = a.weight
    model = nn.Sequential(a, nn.BatchNorm1d(3), b)
    model(dc.rand(4, 3)).sum().backward()
    weight = a.weight
    assert model.double() is model
    assert a.weight is weight is b.weight and weight.dtype == weight.grad.dtype == dc.float64
    assert model[1].running_mean.dtype == dc.float64 and model[1].num_batches_tracked.dtype == dc.int64
    assert weight.requires_grad and model(dc.rand(4, 3, dtype=dc.float64)).dtype == dc.float64
    assert model.to("float16").get_parameter("0.bias").dtype == dc.float16
    assert model.to(dc.zeros(1)).get_parameter("0.bias").dtype == dc.float32
    with pytest.raises(DTypeError, match="floating"):
        model.to(dc.int64)


def test_to_backend():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    x = dc.rand(4, 2)
    expected = model.eval()(x)
    weight = model[0].weight
    weight.grad = dc.ones(3, 2)
    model.to("standin", dc.float64)
    assert model[0].weight is weight and weight.backend == weight.grad.backend == "standin:0"
    assert all(b.backend == "standin:0" for b in model.buffers())
    got = model(x.to("standin").double())
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), 1e-5)
    with pytest.raises(BackendError, match="two backends"):
        model(x.double())
    assert model.cpu()[0].weight.backend == "cpu"


def test_deepcopy_and_pickle_are_independent():
    net = Net()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(twin) == repr(net) and names(twin.named_parameters()) == names(net.named_parameters())
        assert all(a is not b and a.tolist() == b.tolist() for a, b in zip(twin.parameters(), net.parameters()))
        twin.head.weight.array[...] = 7
        assert 7 not in net.head.weight
        assert twin.head.weight is dict(twin.named_parameters())["head.weight"]


# -- hooks --------------------------------------------------------------------------------------------------------


def test_forward_hooks():
    layer, seen = nn.Identity(), []
    first = layer.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    second = layer.register_forward_hook(lambda m, args, out: seen.append((args[0].item(), out.item())))
    with layer.register_forward_hook(lambda m, args, out: out * 10):
        assert layer(dc.tensor(1.0)).item() == 20 and seen == [(2.0, 2.0)]
    first.remove()
    assert layer(dc.tensor(1.0)).item() == 1 and seen[-1] == (1.0, 1.0)
    second.remove()
    second.remove()
    assert layer._hooks == {}


def test_forward_hooks_with_kwargs_and_order():
    class Add(nn.Module):
        def forward(self, x, *, by=0):
            return x + by

    layer, order = Add(), []
    layer.register_forward_pre_hook(lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True)
    layer.register_forward_pre_hook(lambda m, args: order.append("first"), prepend=True)
    layer.register_forward_hook(lambda m, args, kwargs, out: order.append(kwargs["by"]), with_kwargs=True)
    assert layer(dc.tensor(1.0), by=1).item() == 3 and order == ["first", 2]


def test_full_backward_hook(backend):
    layer, seen = nn.Linear(2, 3, backend=backend), []

    def hook(module, grad_input, grad_output):
        seen.append((module, grad_input[0].shape, grad_output[0].tolist()))
        return (grad_input[0] * 2,)

    x = dc.ones(1, 2, backend=backend, requires_grad=True)
    layer(x).sum().backward()
    plain, weight = x.grad.tolist(), layer.weight.grad.tolist()
    x.grad = None
    layer.zero_grad()
    handle = layer.register_full_backward_hook(hook)
    layer(x).sum().backward()
    assert seen == [(layer, (1, 2), [[1, 1, 1]])]
    assert x.grad.tolist() == (np.array(plain) * 2).tolist() and layer.weight.grad.tolist() == weight
    handle.remove()
    with layer.register_full_backward_pre_hook(lambda m, g: (g[0] * 0,)):
        x.grad = None
        layer(x).sum().backward()
    assert x.grad.tolist() == [[0, 0]]


def test_full_backward_hook_with_several_inputs_and_none_that_needs_a_gradient():
    class Mix(nn.Module):
        def forward(self, a, b, text):
            return a * 2, b * 3

    layer, seen = Mix(), []
    layer.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    a, b = dc.ones(1, requires_grad=True), dc.ones(1)
    out = layer(a, b, "t")
    out[0].sum().backward()
    ((grad_input, grad_output),) = seen
    assert grad_input[0].item() == 2 and grad_input[1:] == (None, None)
    assert grad_output[0].item() == 1 and grad_output[1] is None
    linear, seen = nn.Linear(1, 1), []
    linear.register_full_backward_hook(lambda m, gi, go: seen.append(gi))
    linear(b).sum().backward()
    assert seen == [(None,)]


# -- state dicts ----------------------------------------------------------------------------------------------------


def test_state_dict_shares_memory_and_leaves_out_what_is_not_persistent():
    net = Net()
    state = net.state_dict()
    assert list(state) == ["scale", "seen", "body.0.weight", "body.0.bias", "head.weight", "head.bias"]
    state["scale"].data[0] = 9
    assert net.scale[0].item() == 9 and not state["scale"].requires_grad
    assert next(iter(net.state_dict(prefix="m."))) == "m.scale"
    assert net.state_dict(keep_vars=True)["scale"] is net.scale


def test_load_state_dict_round_trip(backend):
    source, target = Net(), Net(backend)
    weight = target.head.weight
    assert target.load_state_dict(source.state_dict()) == ([], [])
    assert target.head.weight is weight and weight.backend == backend
    for a, b in zip(source.state_dict().values(), target.state_dict().values()):
        assert a.tolist() == b.tolist()
    target.load_state_dict({k: v.numpy().astype("float64") for k, v in source.state_dict().items()})
    assert weight.dtype == dc.float32


def test_load_state_dict_lists_everything_that_does_not_fit_and_changes_nothing():
    net = Net()
    before = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    state = {k: v.clone() + 1 for k, v in net.state_dict().items()}
    state["haed.weight"] = state.pop("head.weight")
    state["scale"] = dc.ones(3)
    state["head.bias"] = "text"
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert "missing:    head.weight (2, 4)" in text
    assert "unexpected: haed.weight (did you mean 'head.weight'?)" in text
    assert "scale has shape (3,), and the module's is (2,)" in text and "head.bias is str" in text
    with pytest.raises(StateDictError, match="scale"):
        net.load_state_dict(state, strict=False)
    assert all((net.state_dict()[k].numpy() == v).all() for k, v in before.items())
    state["scale"], state["head.bias"] = dc.ones(2) * 3, dc.zeros(2)
    found = net.load_state_dict(state, strict=False)
    assert found.missing_keys == ["head.weight"] and found.unexpected_keys == ["haed.weight"]
    assert repr(found) == "_IncompatibleKeys(missing_keys=['head.weight'], unexpected_keys=['haed.weight'])"
    assert net.scale.tolist() == [3, 3]


def test_load_state_dict_shows_some_of_many_misfits():
    state = {f"layer.{i}": dc.ones(1) for i in range(2000)}
    with pytest.raises(StateDictError, match=r"unexpected: layer\.19.*\n  … and 1980 more") as caught:
        Net().load_state_dict(state)
    assert len(caught.value.unexpected_keys) == 2000


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
def test_one_name_of_a_tied_parameter_is_enough(kept, assign, tmp_path, backend):
    def model():
        tied = nn.Sequential({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
        tied.head.weight = tied.embed.weight
        return tied.to(backend)

    source, target = model(), model()
    state = source.state_dict()
    whole = {name: state[name] for name in (kept, "head.bias")}
    assert target.load_state_dict(whole, assign=assign) == ([], [])
    assert target.head.weight is target.embed.weight and target.embed.weight.tolist() == state[kept].tolist()
    dc.save(whole, tmp_path / "f")
    assert model().load(tmp_path / "f").head.weight.tolist() == state[kept].tolist()
    untied = nn.Sequential({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    with pytest.raises(StateDictError, match=r"missing:    (embed|head)\.weight"):
        untied.load_state_dict(whole)
    del whole[kept]
    assert target.load_state_dict(whole, strict=False).missing_keys == ["embed.weight", "head.weight"]


def test_one_name_of_a_shared_layer_is_enough():
    shared = nn.Linear(2, 2)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    state = {name: t for name, t in model.state_dict().items() if name.startswith("0")}
    assert model.load_state_dict(state) == ([], [])


def test_load_state_dict_recognises_a_prefix():
    net = Net()
    with pytest.raises(StateDictError, match=r"begins with 'module\.'.*k\[7:\]"):
        net.load_state_dict({f"module.{k}": v for k, v in net.state_dict().items()})
    with pytest.raises(ArgumentError, match="dict"):
        net.load_state_dict([1])


def test_load_state_dict_assign_and_stale_graphs():
    net = nn.Linear(2, 2)
    out = net(dc.ones(1, 2, requires_grad=True))
    net.load_state_dict(nn.Linear(2, 2).state_dict())
    with pytest.raises(GradientError, match="overwritten"):
        out.sum().backward()
    value = np.ones((2, 2))
    net.load_state_dict({"weight": value, "bias": np.zeros(2)}, assign=True)
    assert np.shares_memory(net.weight.array, value) and net.weight.requires_grad


# -- containers -----------------------------------------------------------------------------------------------------


def test_sequential():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert model(dc.ones(5, 2)).shape == (5, 1)
    assert len(model) == 3 and model[-1] is model[2] and isinstance(model[:2], nn.Sequential)
    assert model[1:][0] is model[1] and names(model[1:].named_children()) == ["1", "2"]
    model[1] = nn.Tanh()
    assert isinstance(model[1], nn.Tanh)
    model.append(nn.Sigmoid()).insert(0, nn.Identity())
    assert [type(m).__name__ for m in model] == ["Identity", "Linear", "Tanh", "Linear", "Sigmoid"]
    del model[0]
    assert isinstance(model.pop(), nn.Sigmoid) and next(iter(model.state_dict())) == "0.weight"
    named = nn.Sequential({"body": nn.Linear(2, 3), "head": nn.ReLU()})
    assert names(named.named_children()) == ["body", "head"] and named.head is named[1]
    del named[0]
    assert names(named.named_children()) == ["head"]
    with pytest.raises(IndexRangeError, match="3 is out of range"):
        model[3]
    with pytest.raises(ArgumentError, match=r"Sequential\(\*modules\)"):
        nn.Sequential([nn.ReLU()])


def test_module_list_and_dict():
    blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    blocks += [nn.ReLU()]
    assert len(blocks) == 4 and len(list(blocks.parameters())) == 6 and isinstance(blocks + blocks, nn.ModuleList)
    assert repr(blocks[2:]) == (
        "ModuleList(\n  (0): Linear(in_features=2, out_features=2, bias=True)\n  (1): ReLU()\n)"
    )
    assert "(0-2): 3 x Linear(" in repr(blocks)
    heads = nn.ModuleDict({"a": nn.Linear(2, 2)})
    heads["b"] = nn.ReLU()
    assert list(heads) == ["a", "b"] and "b" in heads and len(heads) == 2 and isinstance(heads.pop("b"), nn.ReLU)
    assert list(heads.keys()) == ["a"] and dict(heads.items())["a"] is heads["a"] and next(iter(heads.values()))
    with pytest.raises(KeyError, match=r"(?s)no 'aa'.*did you mean 'a'|one of: a"):
        heads["aa"]
    heads.clear()
    assert len(heads) == 0


def test_repr():
    assert repr(nn.Sequential()) == "Sequential()"
    assert repr(Net()) == (
        "Net(\n"
        "  (body): Sequential(\n"
        "    (0): Linear(in_features=3, out_features=4, bias=True)\n"
        "    (1): Tanh()\n"
        "    (2): Dropout(p=0.5, inplace=False)\n"
        "  )\n"
        "  (head): Linear(in_features=4, out_features=2, bias=True)\n"
        ")"
    )
    assert repr(nn.Parameter(dc.ones(2))) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"


# -- layers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls, example", cases(LAYERS))
def test_every_layer_is_the_same_on_every_backend(cls, example, backend):
    rng = np.random.default_rng(0)
    arrays = [make_input(kind, rng) for kind in example.inputs]
    results = []
    for place in ("cpu", backend):
        dc.manual_seed(3)
        with dc.use_backend("cpu"):  # what float32 numbers a layer starts from may differ in the last bit
            layer = cls(**example.arguments).double().to(place)
        with dc.use_backend(place):
            inputs = [dc.tensor(a) for a in arrays]
            for x in inputs:
                x.requires_grad_(x.is_floating_point())
            outputs = flat(layer(*inputs))
            assert all(out.backend == place for out in outputs)
            if outputs[0].requires_grad:
                sum((out * out).sum() for out in outputs).backward()
        tensors = [*(out.detach() for out in outputs), *layer.state_dict().values()]
        tensors += [t.grad for t in (*inputs, *layer.parameters()) if t.grad is not None]
        results.append([t.numpy() for t in tensors])
    for mine, reference in zip(*reversed(results)):
        np.testing.assert_allclose(mine, reference, 1e-9, 1e-12)


@pytest.mark.parametrize("cls, example", cases(LAYERS))
def test_every_layer_keeps_what_rebuilds_it(cls, example):
    layer = cls(**example.arguments)
    twin = build(json.loads(json.dumps(describe(layer))))
    assert repr(twin) == repr(layer)
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in layer.state_dict().items()}
    assert twin.constructor_arguments() == layer.constructor_arguments()


@pytest.mark.parametrize("registry", [LAYERS, LOSSES])
def test_every_registered_class_is_public_documented_and_has_examples(registry):
    for name, cls in registry.items():
        assert getattr(nn, name) is cls
        assert cls.__doc__ and cls.__doc__ != nn.Module.__doc__
        exempt = any(getattr(cls, kind, False) for kind in ("structural", "lazy", "composed"))
        assert cls.examples or exempt, name


@pytest.mark.parametrize("registry", [LAYERS, LOSSES])
def test_wrong_arguments_are_named_with_the_class(registry):
    for name, cls in registry.items():
        owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
        assert not owner.__name__.startswith("_") and owner.__init__.__qualname__ == f"{owner.__name__}.__init__", name
    with pytest.raises(TypeError, match=r"^Conv2d\.__init__\(\) missing 1 required positional argument: 'kernel_size'"):
        nn.Conv2d(3, 4)
    with pytest.raises(TypeError, match=r"^MaxPool1d\.__init__\(\) got an unexpected keyword argument 'size'"):
        nn.MaxPool1d(2, size=3)
    assert inspect.signature(nn.Conv2d) == inspect.signature(nn.Conv1d) and nn.Conv2d(1, 1, 1, device="cpu").bias.is_cpu


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpooling_without_indices_says_where_they_come_from(rank, backend):
    pool, unpool = getattr(nn, f"MaxPool{rank}d"), getattr(nn, f"MaxUnpool{rank}d")(2)
    x = dc.randn(1, 2, *(4,) * rank, backend=backend)
    with pytest.raises(ArgumentError, match=rf"nn\.MaxPool{rank}d\(.*return_indices=True\)"):
        unpool(pool(2)(x))
    assert unpool(*pool(2, return_indices=True)(x)).shape == x.shape


def test_backend_and_dtype_of_new_layers(backend):
    layer = nn.Linear(2, 3, backend=backend, dtype=dc.float64)
    assert layer.weight.backend == backend and layer.bias.dtype == dc.float64
    with dc.use_backend(backend):
        assert nn.BatchNorm1d(3).running_mean.backend == backend


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Linear(0, 3), ArgumentError, "in_features=0"),
        (lambda: nn.Linear(2, 3.5), ArgumentError, "out_features=3.5"),
        (lambda: nn.Dropout(1.5), ArgumentError, "p=1.5"),
        (lambda: nn.Embedding(4, 2, padding_idx=4), IndexRangeError, "padding_idx=4"),
        (lambda: nn.GELU("tan"), ArgumentError, "'tan'"),
        (lambda: nn.Softmax(), ArgumentError, r"nn.Softmax\(dim=-1\)"),
        (lambda: nn.LayerNorm((3, 0)), ArgumentError, "normalized_shape=0"),
        (lambda: nn.Linear(64, 3)(dc.ones(2, 8, 8)), ShapeError, r"nn.Flatten\(\)"),
        (lambda: nn.Linear(64, 3)(dc.ones(2, 32)), ShapeError, r"nn.Linear\(32, …\)"),
        (lambda: nn.BatchNorm1d(3)(dc.ones(2, 4)), ShapeError, r"\(N, 3\) or \(N, 3, L\)"),
        (lambda: nn.BatchNorm1d(3)(dc.ones(3)), ShapeError, r"\(N, 3\)"),
        (lambda: nn.BatchNorm1d(3)(dc.ones(1, 3)), ShapeError, "more than one value per channel"),
        (
            lambda: nn.BatchNorm1d(3, track_running_stats=False).eval()(dc.ones(1, 3)),
            ShapeError,
            "value per channel.*drop",
        ),
        (lambda: nn.BatchNorm1d(3, dtype="float16")(dc.ones(1, 3, 1).half()), ShapeError, "value per channel"),
        (lambda: nn.Dropout()(dc.tensor([1, 2])), DTypeError, r"int64.*x\.float\(\)"),
        (lambda: F.dropout(dc.tensor([True])), DTypeError, "bool"),
        (lambda: nn.Parameter(2, 3), ArgumentError, r"dc\.empty\(2, 3\)"),
        (lambda: nn.LayerNorm(4)(dc.ones(2, 3)), ShapeError, r"nn.LayerNorm\(3\)"),
        (lambda: nn.Unflatten(1, (3, 4))(dc.ones(2, 11)), ShapeError, "length 11"),
        (lambda: nn.Embedding(4, 2)(dc.tensor([0, 4])), IndexRangeError, "4"),
        (lambda: nn.Embedding(4, 2)(dc.tensor([0.0])), DTypeError, "integer"),
    ],
)
def test_layers_refuse(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


@pytest.mark.parametrize("cls, example", cases(LAYERS))
def test_layers_take_tensors_and_arrays_and_name_what_is_neither(cls, example, backend):
    layer = cls(**example.arguments, **({"backend": backend} if "backend" in inspect.signature(cls).parameters else {}))
    rng = np.random.default_rng(0)
    inputs = [make_input(kind, rng) for kind in example.inputs]
    inputs = [dc.tensor(x if x.dtype.kind == "i" else x.astype("f"), backend=backend) for x in inputs]
    dc.manual_seed(0)
    expected = flat(layer.train()(*inputs))
    dc.manual_seed(0)
    if cls is not nn.Identity:
        for mine, other in zip(flat(layer(*(t._data for t in inputs))), expected):
            assert mine.backend == backend
            np.testing.assert_array_equal(mine.detach().numpy(), other.detach().numpy())
        for wrong in ([[1.0, 2.0]], None, "text"):
            with pytest.raises(DTypeError, match=r"(?s)takes tensors.*dc\.tensor\(…\)"):
                layer(wrong, *inputs[1:])


LOSS_CALLS = [
    (F.cross_entropy, [[1.0, 2.0]], [0]), (F.nll_loss, [[1.0, 2.0]], [0]), (F.mse_loss, [1.0], [2.0]), (F.l1_loss, [1.0], [2.0]),
    (F.smooth_l1_loss, [1.0], [2.0]), (F.huber_loss, [1.0], [2.0]), (F.binary_cross_entropy, [0.5], [1.0]),
    (F.binary_cross_entropy_with_logits, [0.5], [1.0]),
]  # fmt: skip


@pytest.mark.parametrize("loss, input, target", LOSS_CALLS)
def test_losses_take_tensors_and_arrays_and_name_what_is_neither(loss, input, target, backend):
    x, y = dc.tensor(input, backend=backend), dc.tensor(target, backend=backend)
    expected = loss(x, y).item()
    for a, b in ((x._data, y), (x, y._data), (x._data, y._data)):
        assert loss(a, b).item() == expected
    for a, b in ((input, y), (x, target), (x, None)):
        with pytest.raises(DTypeError, match=f"(?s){loss.__name__} takes tensors.*dc.tensor"):
            loss(a, b)


def test_the_forward_of_a_user_s_module_keeps_its_own_errors():
    class Net(nn.Module):
        def forward(self, x):
            return x.values

    with pytest.raises(AttributeError, match="'list' object has no attribute 'values'"):
        Net()([1.0])


def test_an_array_of_another_backend_is_not_moved(backend):
    layer = nn.Linear(2, 2, backend=backend)
    if backend == "cpu":
        pytest.skip("the CPU's arrays are NumPy's")
    with pytest.raises(BackendError, match="two backends"):
        layer(np.ones((1, 2), "f"))
    with pytest.raises(BackendError, match="two backends"):
        dc.where(layer.bias > 0, np.ones(2), np.zeros(2))


def test_layers_in_a_plain_list_are_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Module()
            self.body.blocks = {"a": nn.Linear(2, 2)}

    for parameters in (Net().parameters(), Net().named_parameters()):
        with pytest.raises(
            ArgumentError, match=r"(?s)no parameters.*not registered: self\.body\.blocks = nn\.ModuleList"
        ):
            dc.optim.SGD(parameters, lr=1.0)
    used = nn.Linear(1, 1).parameters()
    list(used)
    with pytest.raises(ArgumentError, match="used up"):
        dc.optim.SGD(used, lr=1.0)
    with pytest.raises(ArgumentError, match=r"nn\.ModuleList"):
        dc.optim.SGD([], lr=1.0)


def test_a_refused_batch_is_not_counted(backend):
    for momentum in (0.1, None):
        layer = nn.BatchNorm1d(2, momentum=momentum, backend=backend)
        with pytest.raises(ShapeError):
            layer(dc.ones(1, 2, backend=backend))
        assert layer.num_batches_tracked.item() == 0 and layer.running_mean.tolist() == [0, 0]
        layer(dc.ones(3, 2, backend=backend))
        assert layer.num_batches_tracked.item() == 1


def test_batch_norm_of_one_value_per_channel_in_evaluation():
    layer = nn.BatchNorm1d(2).eval()
    assert layer(dc.ones(1, 2)).shape == (1, 2)
    assert layer.num_batches_tracked.item() == 0


def test_dropout(backend):
    x = dc.ones(200, 50, backend=backend)
    layer = nn.Dropout(0.3)
    dc.manual_seed(1)
    first, second = layer(x), layer(x)
    dc.manual_seed(1)
    assert (layer(x) == first).all() and not (first == second).all()
    dc.manual_seed(1)
    assert first.numpy().tolist() == layer(dc.ones(200, 50)).numpy().tolist()  # the CPU's mask
    values = first.numpy()
    assert set(np.unique(values)) == {0, np.float32(1 / 0.7)}
    assert abs((values == 0).mean() - 0.3) < 0.02 and values.dtype == np.float32
    y = dc.ones(4, backend=backend, requires_grad=True)
    out = layer(y)
    out.sum().backward()
    assert y.grad.tolist() == out.tolist()
    assert layer.eval()(x) is x and nn.Dropout(0.0)(x) is x
    with pytest.raises(ArgumentError, match="p=2"):
        F.dropout(x, 2)


def test_default_initialisation_is_torchs():
    layer = nn.Linear(400, 300)
    for values in (layer.weight.detach().numpy(), layer.bias.detach().numpy()):
        bound = 1 / math.sqrt(400)
        assert np.abs(values).max() <= bound and np.abs(values).max() > 0.98 * bound
        assert abs(values.std() - bound / math.sqrt(3)) < 0.05 * bound
    table = nn.Embedding(300, 40, padding_idx=2).weight.detach().numpy()
    assert abs(table.std() - 1) < 0.02 and (table[2] == 0).all()
    dc.manual_seed(5)
    first = nn.Linear(3, 2).weight.tolist()
    dc.manual_seed(5)
    assert nn.Linear(3, 2).weight.tolist() == first


def test_embedding_from_pretrained():
    table = dc.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer = nn.Embedding.from_pretrained(table)
    assert layer(dc.tensor([1])).tolist() == [[3, 4]] and not layer.weight.requires_grad
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad and repr(layer) == "Embedding(2, 2)"
    assert nn.Embedding.from_pretrained(table, padding_idx=-1).padding_idx == 1
    with pytest.raises(IndexRangeError, match="one of its rows"):
        nn.Embedding.from_pretrained(table, padding_idx=2)
    bag = nn.EmbeddingBag.from_pretrained(table, mode="sum", padding_idx=-1)
    assert (bag.mode, bag.padding_idx, bag.weight.requires_grad, bag.num_embeddings) == ("sum", 1, False, 2)
    for kind in (nn.Embedding, nn.EmbeddingBag):
        assert kind(3, 2, scale_grad_by_freq=False, sparse=False).sparse is False
        with pytest.raises(ArgumentError, match="sparse is not there yet"):
            kind(3, 2, sparse=True)


@pytest.mark.parametrize("p", [1, 2, 3, float("inf")])
def test_normalize(p, backend):
    rng = np.random.default_rng(0)
    array = rng.standard_normal((3, 4))
    array[1] = 0
    x = dc.tensor(array, backend=backend, requires_grad=True)
    out = F.normalize(x, p=p)
    norm = np.linalg.norm(array, ord=p, axis=1, keepdims=True)
    np.testing.assert_allclose(out.detach().numpy(), array / np.maximum(norm, 1e-12), 1e-12)
    out[0].sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, float("inf")])
def test_normalize_along_one_element_gives_signs(p, backend):
    x = dc.tensor([[[0.3, -7.0], [1e-3, -1e5]]], backend=backend, requires_grad=True)
    out = F.normalize(x, p=p, dim=0)
    assert out.tolist() == [[[1.0, -1.0], [1.0, -1.0]]]
    out.sum().backward()
    assert np.abs(x.grad.numpy()).max() <= 1e-3  # where 1/|x| is 1e3


# -- nn.init ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fill, mean, std, bound",
    [
        (lambda t: init.uniform_(t, -1, 3), 1, 4 / math.sqrt(12), 3),
        (lambda t: init.normal_(t, 2, 0.5), 2, 0.5, None),
        (lambda t: init.trunc_normal_(t), 0, 0.8796, 2),
        (lambda t: init.trunc_normal_(t, 1.0, 0.02, -2, 2), 1, 0.02, None),
        (lambda t: init.trunc_normal_(t, 0.0, 1.0, 3, 4), 3.2604, 0.2220, 4),
        (lambda t: init.xavier_uniform_(t, 2.0), 0, 2 * math.sqrt(2 / 500), 2 * math.sqrt(6 / 500)),
        (lambda t: init.xavier_normal_(t), 0, math.sqrt(2 / 500), None),
        (lambda t: init.kaiming_uniform_(t, nonlinearity="relu"), 0, math.sqrt(2 / 200), math.sqrt(6 / 200)),
        (lambda t: init.kaiming_normal_(t, a=0.5, mode="fan_out"), 0, math.sqrt(2 / 1.25 / 300), None),
    ],
)
def test_random_init(fill, mean, std, bound, backend):
    t = dc.empty(300, 200, backend=backend)
    assert fill(t) is t
    values = t.numpy()
    assert abs(values.mean() - mean) < 0.02 * std and abs(values.std() - std) < 0.02 * std
    assert bound is None or 0.98 * bound < np.abs(values).max() <= bound * (1 + 1e-6)


def test_constant_init_and_fans(backend):
    t = nn.Parameter(dc.empty(2, 3, backend=backend))
    assert init.constant_(t, 0.5).tolist() == [[0.5] * 3] * 2 and t.requires_grad
    assert init.zeros_(t).tolist() == [[0] * 3] * 2 and init.ones_(t).tolist() == [[1] * 3] * 2
    assert init.eye_(t).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert init.fan_in_and_fan_out(dc.empty(8, 4, 3, 3)) == (36, 72)
    for shape in ((5, 3), (3, 5), (4, 2, 2)):
        q = init.orthogonal_(dc.empty(shape, dtype=dc.float64, backend=backend), gain=2).numpy().reshape(shape[0], -1)
        small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-6)


def test_gains():
    assert init.calculate_gain("relu") == math.sqrt(2) and init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("leaky_relu", 0.5) == math.sqrt(1.6) and init.calculate_gain("conv_transpose2d") == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda t: init.kaiming_uniform_(t, mode="fan"),
        lambda t: init.kaiming_uniform_(t, nonlinearity="rleu"),
        lambda t: init.normal_(t, std=-1),
        lambda t: init.uniform_(t, 1, 0),
        lambda t: init.trunc_normal_(t, a=1, b=0),
        lambda t: init.xavier_normal_(dc.empty(3)),
        lambda t: init.eye_(dc.empty(3)),
    ],
)
def test_init_refuses(call):
    with pytest.raises((ArgumentError, ShapeError)):
        call(dc.empty(2, 2))


# -- nn.utils ----------------------------------------------------------------------------------------------------------------


def with_gradients(backend, *values):
    parameters = [nn.Parameter(dc.zeros(len(v), dtype=dc.float64, backend=backend)) for v in values]
    for p, v in zip(parameters, values):
        p.grad = dc.tensor(v, dtype=dc.float64, backend=backend)
    return parameters


@pytest.mark.parametrize("norm_type, total", [(2, 13.0), (1, 19.0), (float("inf"), 12.0)])
def test_clip_grad_norm(norm_type, total, backend):
    parameters = [*with_gradients(backend, [3.0, 4.0], [12.0]), nn.Parameter(dc.ones(1, backend=backend))]
    assert nn.utils.clip_grad_norm_(parameters, 2 * total, norm_type).item() == pytest.approx(total)
    assert parameters[0].grad.tolist() == [3, 4]
    assert nn.utils.clip_grad_norm_(iter(parameters), 1.0, norm_type).item() == pytest.approx(total)
    assert parameters[1].grad.tolist() == pytest.approx([12 / (total + 1e-6)])
    assert nn.utils.get_total_norm([p.grad for p in parameters[:2]], norm_type).item() == pytest.approx(1, 1e-6)
    assert nn.utils.clip_grad_norm_([parameters[2]], 1.0).item() == 0


def test_clipping_names_the_parameter_that_is_not_finite(backend):
    model = nn.Sequential(nn.Linear(1, 1, backend=backend), nn.Linear(1, 1, backend=backend))
    for p in model.parameters():
        p.grad = dc.ones(p.shape, backend=backend)
    model[1].bias.grad.array[...] = float("nan")
    with pytest.raises(NonFiniteError, match=r"gradient of 1\.bias"):
        nn.utils.clip_grad_norm_(model, 0.1, error_if_nonfinite=True)
    with pytest.raises(NonFiniteError, match=r"number 3 \(shape \(1,\)\)"):
        nn.utils.clip_grad_norm_(model.parameters(), 0.1, error_if_nonfinite=True)
    assert model[0].weight.grad.item() == 1
    assert math.isnan(nn.utils.clip_grad_norm_(model.parameters(), 0.1).item())


def test_clip_grad_value(backend):
    (p,) = with_gradients(backend, [-3.0, 0.5, 4.0])
    nn.utils.clip_grad_value_([p], 1.0)
    assert p.grad.tolist() == [-1, 0.5, 1]


LIMITS = {
    "clip_grad_norm_": lambda p, v: nn.utils.clip_grad_norm_([p], v),
    "clip_grad_value_": lambda p, v: nn.utils.clip_grad_value_([p], v),
    "clipped_step": lambda p, v: dc.optim.SGD([p]).clipped_step(v),
    "clipped_step by value": lambda p, v: dc.optim.SGD([p]).clipped_step(clip_value=v),
    "norm_type": lambda p, v: nn.utils.clip_grad_norm_([p], 1.0, v),
    "norm_type of the total": lambda p, v: nn.utils.get_total_norm([p.grad], v),
    "norm_type of no tensors": lambda p, v: nn.utils.get_total_norm([], v),
}


@pytest.mark.parametrize(
    "value, says", [(-1.0, "negative"), (math.nan, "NaN"), ("one", "not a number"), (True, "number")]
)
@pytest.mark.parametrize("name", LIMITS)
def test_limits_of_clipping(name, value, says, backend):
    (p,) = with_gradients(backend, [3.0, 4.0])
    before = p.tolist()
    with pytest.raises(ArgumentError, match=says):
        LIMITS[name](p, value)
    assert p.grad.tolist() == [3, 4] and p.tolist() == before


def test_limits_of_clipping_at_the_edges(backend):
    (p,) = with_gradients(backend, [3.0, 4.0])
    assert nn.utils.clip_grad_norm_([p], math.inf).item() == 5 and p.grad.tolist() == [3, 4]
    assert nn.utils.get_total_norm([p.grad], "inf").item() == 4
    with pytest.raises(ArgumentError, match="norm_type is 0"):
        nn.utils.clip_grad_norm_([p], 1.0, 0)
    nn.utils.clip_grad_norm_([p], 0.0)  # as in PyTorch
    assert p.grad.tolist() == [0, 0]


# -- summary ---------------------------------------------------------------------------------------------------------------------


def test_summary_of_textbook_networks():
    for hidden, count in ((64, 50_890), (128, 101_770)):
        model = nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, 10))
        summary = model.summary((784,))
        assert summary.parameters == summary.trainable == count and summary.bytes == 4 * count
        assert f"{count:,} parameters" in str(summary)


def test_summary_leaves_the_model_as_it_was(backend):
    net = Net(backend)
    net.head.eval()
    net.body[0].bias.requires_grad_(False)
    before = {k: v.tolist() for k, v in net.state_dict().items()}
    summary = net.summary(3, batch_size=5)
    rows = {row.path: row for row in summary.rows}
    assert rows["body.0"].output_shape == (5, 4) and rows["body.0"].parameters == 16 and rows["body.0"].trainable == 12
    assert rows["body"].parameters == 0 and summary.parameters == 28 and summary.trainable == 24
    assert net.training and not net.head.training and net.body[2].training
    assert all(not m._hooks for m in net.modules())
    assert before == {k: v.tolist() for k, v in net.state_dict().items()}
    assert "24 trainable, 4 frozen" in str(summary)


def test_summary_of_other_inputs():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
    assert model.summary((3,), dtype=dc.int64).rows[1].output_shape == (1, 12)
    with pytest.raises(ShapeError, match=r"Sequential\.2 \(Linear\)"):
        model.summary((4,), dtype=dc.int64)
    assert all(not m._hooks for m in model.modules()) and model.training

    class Two(nn.Module):
        def forward(self, a, b):
            return a, b

    assert Two().summary([(2,), (3, 4)]).rows[0].output_shape == [(1, 2), (1, 3, 4)]
    with pytest.raises(ArgumentError, match="without the batch dimension"):
        Two().summary("x")


@pytest.mark.parametrize("first", [nn.Conv2d(3, 4, 3), nn.LazyConv2d(4, 3)])
def test_summary_of_a_shape_with_the_batch_dimension_says_what_to_give(first):
    model = nn.Sequential(first, nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ArgumentError, match=r"summary\(\(3, 7, 5\), batch_size=2\)"):
        model.summary((2, 3, 7, 5))
    with pytest.raises(ShapeError, match=r"Sequential\.0"):  # neither way
        model.summary((2, 3, 3, 7, 5))
    assert model.training and all(not m._hooks for m in model.modules())
    assert model.summary((3, 7, 5), batch_size=2).rows[1].output_shape == (2, 60)

    class Two(nn.Module):
        def forward(self, a, b):
            return F.linear(a, dc.ones(1, 3)) + F.conv1d(b, dc.ones(1, 1, 2)).sum()

    with pytest.raises(ArgumentError, match=r"summary\(\[\(3,\), \(1, 5\)\], batch_size=2\)"):
        Two().summary([(2, 3), (2, 1, 5)])


# -- files -------------------------------------------------------------------------------------------------------------------------


def rich_model():
    shared = nn.Linear(4, 4)
    return nn.Sequential(
        {
            "embed": nn.Embedding(7, 4, padding_idx=1),
            "blocks": nn.Sequential(shared, nn.GELU("tanh"), shared, nn.LayerNorm(4, bias=False), nn.Dropout(0.2)),
            "flat": nn.Flatten(),
            "norm": nn.BatchNorm1d(8, momentum=None),
            "head": nn.Linear(8, 2, bias=False),
        }
    )


def test_save_and_load_builds_the_model_again(tmp_path, backend):
    path = tmp_path / "model.safetensors"
    model = rich_model()
    model(dc.randint(0, 7, (5, 2)))
    model.save(path)
    dc.manual_seed(9)
    with dc.use_backend(backend):
        loaded = nn.Sequential.load(path)
    drawn = dc.rand(1).item()
    dc.manual_seed(9)
    assert dc.rand(1).item() == drawn  # loading drew nothing
    assert repr(loaded) == repr(model) and loaded.blocks[0] is loaded.blocks[2]
    assert all(t.backend == backend for t in (*loaded.parameters(), *loaded.buffers()))
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].tolist() == value.tolist()
    x = dc.randint(0, 7, (5, 2))
    got = loaded.eval()(x.to(backend))
    np.testing.assert_allclose(got.detach().numpy(), model.eval()(x).detach().numpy(), 1e-5, 1e-6)
    assert nn.Module.load(path).head.weight.requires_grad


def test_load_keeps_ties_and_dtypes(tmp_path):
    path = tmp_path / "model.safetensors"
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)).double()
    model[1].weight = model[0].weight
    model.save(path)
    loaded = nn.Module.load(path)
    assert loaded[1].weight is loaded[0].weight and loaded[0].weight.dtype == dc.float64
    into = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    assert into.load(path) is into and into[0].weight.tolist() == model[0].weight.float().tolist()
    with pytest.raises(StateDictError, match="misshapen"):
        nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)).load(path)
    with pytest.raises(StateDictError, match=r"holds a Sequential, not a Linear"):
        nn.Linear.load(path)


def test_a_model_of_unregistered_classes_is_loaded_into(tmp_path):
    path = tmp_path / "net.safetensors"
    net = Net()
    net.save(path)
    with pytest.raises(
        StateDictError, match=r"(?s)Net is not a registered layer.*model = Net\(…\); model.load\(path\)"
    ):
        Net.load(path)
    twin = Net().load(path)
    assert twin.head.weight.tolist() == net.head.weight.tolist()
    dc.save({"a": {"b": dc.ones(2)}}, path)
    with pytest.raises(FileFormatError, match="nested state"):
        twin.load(path)


@pytest.mark.parametrize(
    "description, message",
    [
        ({"layer": "Linaer", "arguments": {}}, "did you mean 'Linear'"),
        ({"layer": "os.system"}, "no layer named 'os.system'"),
        ({"layer": "Linear", "arguments": {"in_feature": 2, "out_features": 1}}, "did you mean 'in_features'"),
        ({"layer": "Linear", "arguments": {"in_features": 2}}, "cannot be built"),
        ({"layer": "Linear", "arguments": {"in_features": -2, "out_features": 1}}, "at least 1"),
        ({"layer": "Sequential", "modules": [1]}, "table"),
        ({"layer": "Sequential", "modules": {"0": 3}}, "table"),
        ({"same_as": "x"}, "before it"),
        ({"same_as": ["x"]}, "before it"),
        ([], "table"),
        ({"layer": "Linear", "arguments": {"in_features": 10**30, "out_features": 1}}, "cannot be built"),
        ({"layer": "Linear", "arguments": {"in_features": 1, "out_features": 1, "dtype": [[1]]}}, "arguments"),
    ],
)
def test_a_description_names_registered_things_only(description, message):
    with pytest.raises(ConfigError, match=message):
        build(description)


def nested(depth, inner=None):
    for _ in range(depth):
        inner = {"layer": "Sequential", "modules": {"0": inner or {"layer": "ReLU"}}}
    return inner


def doubled(depth, path=""):
    """A module of 2**depth paths."""
    if not depth:
        return {"layer": "ReLU"}
    child = f"{path}.0" if path else "0"
    return {"layer": "Sequential", "modules": {"0": doubled(depth - 1, child), "1": {"same_as": child}}}


def one(layer, **arguments):
    return {"layer": "Sequential", "modules": {"first": {"layer": layer, "arguments": arguments}}}


def kept(**modules):
    return {"layer": "Sequential", "modules": modules}


HOSTILE_MODELS = {
    "a module in itself": (kept(a={"same_as": ""}), "'a' is to be the same as one that does not come before"),
    "a module in its child": (kept(a=kept(b={"same_as": "a"})), r"'a\.b' is to be the same"),
    "450 levels": (nested(450), "nested deeper than 64"),
    "2 ** 40 modules": (doubled(40), "more than 100,000 modules"),
    "a name of an attribute": (kept(forward={"layer": "ReLU"}), "already has an attribute 'forward'"),
    "a name with a dot": (kept(**{"a.b": {"layer": "ReLU"}}), "text without a dot"),
    "no name": (kept(**{"": {"layer": "ReLU"}}), "text without a dot"),
    "a layer of no name": ({"layer": ["ReLU"]}, "described by its name"),
    "a layer of a long name": ({"layer": "x" * 10_000}, "described by its name"),
    "escapes": (kept(**{"\x1b[2J": {"layer": "Linaer"}}), "did you mean 'Linear'"),
    "slope of text": (one("LeakyReLU", negative_slope="x"), "(?s)negative_slope has the wrong type.*a number.*'first'"),
    "slope of a list": (one("LeakyReLU", negative_slope=[1.0]), "a number"),
    "slope of digits": (one("LeakyReLU", negative_slope=10**400), "a number"),
    "inplace of text": (one("ReLU", inplace="yes"), "true or false"),
    "features of a number": (one("Linear", in_features=2.0, out_features=1), "a whole number"),
    "sizes of text": (one("Unflatten", dim=1, unflattened_size="xy"), "a list, each a whole number"),
    "sizes of lists": (one("LayerNorm", normalized_shape=[[1]]), "a whole number or a list"),
    "p of 2": (one("Dropout", p=2), "p is a probability"),
    "tensors of another model": (one("Linear", in_features=2, out_features=1), "missing:    first.weight"),
    "a list": ([], "described by a table"),
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_hostile_descriptions(name, tmp_path):
    description, message = HOSTILE_MODELS[name]
    path = tmp_path / "f"
    safetensors.save_file({}, path, {"deepcore.model": json.dumps({"model": description})})
    begun = time.perf_counter()
    with pytest.raises(FileFormatError, match=message) as caught:
        nn.Module.load(path)
    assert time.perf_counter() - begun < 5
    assert "\x1b" not in str(caught.value) and "fix:" in str(caught.value)


@pytest.mark.parametrize(
    "note, message",
    [
        ("[" * 100_000, "too large"),
        ('{"model":' + "[" * 9000 + "]" * 9000 + "}", "cannot be read"),
        ("[]", "not a table"),
        ('{"model":' + "9" * 5000 + "}", "cannot be read"),
        (json.dumps({"model": one("Linear", in_features=1, out_features=1), "tied": 3}), "lists of names"),
        (json.dumps({"model": one("Linear", in_features=1, out_features=1), "tied": [["x", "y"]]}), "does not have"),
        (
            json.dumps(
                {"model": one("Linear", in_features=2, out_features=1), "tied": [["first.bias", "first.weight"]]}
            ),
            "different shapes",
        ),
    ],
)
def test_hostile_notes(note, message, tmp_path):
    safetensors.save_file({}, tmp_path / "f", {"deepcore.model": note})
    with pytest.raises(FileFormatError, match=message):
        nn.Module.load(tmp_path / "f")


WRONG = [
    "x",
    "",
    None,
    True,
    -1,
    0,
    7,
    2**70,
    -(10**400),
    0.5,
    -1e308,
    float("inf"),
    float("nan"),
    [],
    [1, 2],
    [[1]],
    {},
]


@pytest.mark.parametrize("cls, example", cases(LAYERS))
def test_any_value_of_any_argument_is_built_or_refused(cls, example, monkeypatch):
    monkeypatch.setattr(settings, "kernels", False)  # there would be many to compile
    arguments = {key: list(v) if isinstance(v, tuple) else v for key, v in example.arguments.items()}
    build({"layer": cls.__name__, "arguments": arguments})
    inputs = [dc.as_tensor(make_input(kind, np.random.default_rng(0))) for kind in example.inputs]
    keys = [key for key, p in inspect.signature(cls).parameters.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    for key in set(keys) - {"backend", "dtype"}:
        for value in WRONG:
            changed = {**arguments, key: value}
            try:
                build({"layer": cls.__name__, "arguments": changed})
            except ConfigError:
                continue
            if type(value) is int and value > 7:
                continue  # a size, of which nothing was allocated
            with contextlib.suppress(DeepcoreError):
                cls(**changed)(*inputs)


def test_what_constructors_take_can_be_built_again(tmp_path):
    for layer in (nn.ReLU(inplace=1), nn.Softplus(threshold=float("inf")), nn.Dropout(1), nn.Unflatten(1, (2, -1))):
        layer.save(tmp_path / "f")
        assert repr(nn.Module.load(tmp_path / "f")) == repr(layer)


def test_a_model_too_deep_to_describe_is_saved_without(tmp_path):
    model = nn.ReLU()
    for _ in range(70):
        model = nn.Sequential(model)
    model.save(tmp_path / "f")
    with pytest.raises(StateDictError, match="nested too deeply"):
        nn.Module.load(tmp_path / "f")


def test_control_characters_of_names_are_shown_as_escapes():
    model = nn.Sequential({"\x1b[31mred\u202e": nn.Linear(2, 2)})
    for text in (repr(model), str(model.summary(2)), str(StateDictError("\x1b[2J", where="\x9b", fix="\r"))):
        assert not set(text) & set("\x1b\x9b\r\u202e") and "\\x" in text
    with pytest.raises(StateDictError) as caught:
        model.load_state_dict({})
    assert "\\x1b[31mred\\u202e.weight" in str(caught.value)


def test_a_huge_description_allocates_nothing(tmp_path):
    layer = build({"layer": "Linear", "arguments": {"in_features": 10**7, "out_features": 10**7}})
    assert layer.weight.shape == (10**7, 10**7)
    with pytest.raises(StateDictError, match="misshapen"):
        layer.load_state_dict(nn.Linear(1, 1).state_dict(), assign=True)


def test_weights_of_whole_numbers_are_not_taken_over(tmp_path):
    layer = nn.Linear(2, 1)
    whole = {name: dc.ones(*t.shape, dtype=dc.int64) for name, t in layer.state_dict().items()}
    with pytest.raises(StateDictError, match=r"(?s)weight has dtype int64, and the module's is float32"):
        layer.load_state_dict(whole, assign=True)
    layer.load_state_dict(whole)
    assert layer.weight.dtype == dc.float32 and layer.weight.tolist() == [[1, 1]]


def test_registering_a_layer_of_ones_own(tmp_path):
    registry = Registry("thing")

    @registry.register
    class Mine:
        def __init__(self, size=1):
            self.size = size

    assert registry["Mine"] is Mine and registry.build("Mine", size=2).size == 2
    with pytest.raises(ConfigError, match=r"(?s)no thing named 'Mien'.*did you mean 'Mine'"):
        registry["Mien"]
    with pytest.raises(ArgumentError, match="already registered"):
        registry.register(type("Mine", (), {}))

    class Bare(nn.Module):
        def __init__(self, size):
            super().__init__()

    with pytest.raises(ArgumentError, match=r"self.size"):
        Bare(2).constructor_arguments()


# -- a layer and its activation in one op ------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4, 5, 3), (64, 200, 300), (1, 512, 512), (8, 300, 900), (300, 64, 17)])
@pytest.mark.parametrize("name", sorted(linalg.EPILOGUES))
def test_a_sequential_joins_a_layer_and_its_activation(backend, name, sizes):
    """Same bits as one after the other, forward and backward; a hook, a subclass or a replaced forward is heeded."""
    rows, width, out_width = sizes
    layer = nn.Linear(width, out_width, backend=backend)
    classes = [cls for cls in LAYERS.values() if hasattr(cls, "epilogue")]
    activations = [cls(**example.arguments) for cls in classes for example in cls.examples]
    activation = next(a for a in activations if a.epilogue == name)
    x = dc.randn(rows, width, backend=backend)
    results, ops = [], []
    for joined in (True, False):
        model = nn.Sequential(layer, activation)
        if not joined:
            activation.register_forward_hook(lambda *a: None)
        t = x.clone()
        t.requires_grad = True
        model.zero_grad()
        out = model(t)
        ops.append(out.grad_fn.name)
        (out * out).sum().backward()
        results.append([v.numpy() for v in (out.detach(), t.grad, layer.weight.grad, layer.bias.grad)])
    for one, other in zip(*results):
        assert one.tobytes() == other.tobytes()
    assert ops[0].startswith("LinearActivation") and not ops[1].startswith("Linear")


def test_what_may_compute_something_else_is_not_joined():
    class Doubled(nn.Linear):
        def forward(self, input):
            return super().forward(input) * 2

    class Shifted(nn.ReLU):
        def forward(self, input):
            return super().forward(input - 1)

    x = dc.randn(4, 3)
    for first, second in ((Doubled(3, 3), nn.ReLU()), (nn.Linear(3, 3), Shifted())):
        assert nn.Sequential(first, second)(x).tolist() == second(first(x)).tolist()
    layer, relu = nn.Linear(3, 3), nn.ReLU()
    relu.forward = lambda input: input + 1
    assert nn.Sequential(layer, relu)(x).tolist() == (layer(x) + 1).tolist()


@pytest.mark.parametrize("norm", [F.layer_norm, F.rms_norm])
def test_a_norm_over_every_dimension(backend, norm):
    x = dc.randn(2, 3, dtype=dc.float64, backend=backend, requires_grad=True)
    w = dc.randn(2, 3, dtype=dc.float64, backend=backend, requires_grad=True)
    assert dc.autograd.gradcheck(lambda x, w: norm(x, (2, 3), w), (x, w))
    assert dc.autograd.gradgradcheck(lambda x, w: norm(x, (2, 3), w), (x, w))


# -- activations that draw ------------------------------------------------------------------------------------------


def test_slopes_of_rrelu(backend):
    dc.manual_seed(0)
    x = dc.full((4000,), -1.0, backend=backend, requires_grad=True)
    layer = nn.RReLU(0.1, 0.3)
    out = layer(x)
    out.sum().backward()
    slopes = x.grad.numpy()
    assert 0.1 <= slopes.min() < 0.101 and 0.299 < slopes.max() <= 0.3
    assert slopes.mean() == pytest.approx(0.2, abs=0.005)
    np.testing.assert_array_equal(out.detach().numpy(), -slopes)
    assert layer(dc.ones(3, backend=backend)).tolist() == [1, 1, 1]
    assert layer.eval()(x)[0].item() == pytest.approx(-0.2)
    with pytest.raises(ArgumentError, match="lower is above upper"):
        F.rrelu(x, 0.5, 0.1)


@pytest.mark.parametrize("dim", [0, -1])
def test_gumbel_softmax_draws_classes_by_their_probabilities(dim, backend):
    dc.manual_seed(0)
    p = dc.tensor([0.1, 0.2, 0.7], backend=backend)
    logits = p.log().expand(3000, 3)
    logits = (logits if dim else logits.t()).clone().requires_grad_()
    soft = F.gumbel_softmax(logits, tau=0.5, dim=dim)
    np.testing.assert_allclose(soft.sum(dim).detach().numpy(), 1, rtol=1e-5)
    hard = F.gumbel_softmax(logits, hard=True, dim=dim)
    assert set(np.unique(hard.detach().numpy().round(6))) == {0, 1} and (hard.sum(dim) - 1).abs().max().item() < 1e-6
    shares = hard.detach().mean(0 if dim else 1)
    np.testing.assert_allclose(shares.numpy(), [0.1, 0.2, 0.7], atol=0.03)
    (hard * dc.rand_like(hard)).sum().backward()
    assert logits.grad.abs().max().item() > 0
    with pytest.raises(ArgumentError, match="tau is positive"):
        F.gumbel_softmax(logits, tau=0)


@pytest.mark.parametrize("name", ["relu", "elu", "leaky_relu", "silu", "celu", "selu", "mish", "relu6", "hardtanh",
                                  "hardsigmoid", "hardswish"])  # fmt: skip
def test_inplace_changes_nothing(name):
    x = dc.tensor([-4.0, -0.5, 2.0])
    assert getattr(F, name)(x, inplace=True).tolist() == getattr(F, name)(x).tolist()
    assert x.tolist() == [-4.0, -0.5, 2.0]


# -- containers of parameters -----------------------------------------------------------------------------------------


def test_a_list_of_parameters():
    values = nn.ParameterList([nn.Parameter(dc.ones(2, 3)), dc.zeros(2), 7])
    assert names(values.named_parameters()) == ["0", "1"] and isinstance(values[1], nn.Parameter)
    assert repr(values).splitlines()[1:] == [
        "  (0): Parameter containing: [float32 of size 2x3]",
        "  (1): Parameter containing: [float32 of size 2]",
        "  (2): Object of type: int",
        ")",
    ]
    values += [dc.ones(1)]
    values[-1] = nn.Parameter(dc.full((4,), 2.0))
    assert len(values) == 4 and [v.shape for v in values[:2]] == [(2, 3), (2,)] and values[3].shape == (4,)
    assert [type(v).__name__ for v in values] == ["Parameter", "Parameter", "int", "Parameter"]
    model = nn.Sequential()
    model.weights = values
    assert list(model.state_dict()) == ["weights.0", "weights.1", "weights.3"]
    twin = copy.deepcopy(values)
    assert len(twin) == 4 and twin[0] is not values[0] and values.double()[0].dtype == dc.float64
    with pytest.raises(IndexRangeError, match="index 4 is out of range: the ParameterList has 4"):
        _ = values[4]
    with pytest.raises(ArgumentError, match="takes several parameters"):
        nn.ParameterList(dc.ones(2))


def test_a_dict_of_parameters():
    values = nn.ParameterDict({"b": dc.ones(2), "a": nn.Parameter(dc.ones(3))})
    values["c"] = dc.zeros(1)
    values["a"] = dc.zeros(5)
    assert list(values) == ["b", "a", "c"] and [v.shape for v in values.values()] == [(2,), (5,), (1,)]
    assert names(values.named_parameters()) == ["b", "a", "c"]
    assert (values | {"d": dc.ones(4)}).keys() == {"b", "a", "c", "d"} and "d" not in values
    assert values.pop("b").shape == (2,) and values.popitem()[0] == "c" and len(values) == 1
    assert values.get("x") is None and values.setdefault("x", dc.ones(1)).shape == (1,)
    assert list(values.copy()) == ["a", "x"] and list(values.fromkeys("pq")) == ["p", "q"]
    values.clear()
    assert not len(values) and repr(values) == "ParameterDict()"
    with pytest.raises(KeyError, match="no 'y'"):
        values["y"]
    with pytest.raises(ArgumentError, match="already has an attribute 'keys'"):
        values["keys"] = dc.ones(1)
    with pytest.raises(ArgumentError, match="is text"):
        values[3] = dc.ones(1)


def test_parameters_as_a_vector(backend):
    model = nn.Sequential(nn.Linear(2, 3, backend=backend), nn.Linear(3, 1, backend=backend))
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (13,) and vector[:6].tolist() == model[0].weight.reshape(-1).tolist()
    weight = model[0].weight
    nn.utils.vector_to_parameters(vector.detach() * 2, model.parameters())
    assert model[0].weight is weight and (nn.utils.parameters_to_vector(model.parameters()) == vector * 2).all()
    vector.sum().backward()
    assert weight.grad.tolist() == [[1, 1]] * 3
    with pytest.raises(ShapeError, match=r"shape \(13,\)"):
        nn.utils.vector_to_parameters(dc.ones(12, backend=backend), model.parameters())
    with pytest.raises(ArgumentError, match="no parameters"):
        nn.utils.parameters_to_vector([])


def test_a_module_without_initial_values():
    before = dc.get_rng_state()
    layer = nn.utils.skip_init(nn.Linear, 3, 4, bias=False)
    assert layer.weight.shape == (4, 3) and layer.bias is None and dc.get_rng_state() == before
    init.constant_(layer.weight, 2.0)
    assert layer(dc.ones(1, 3)).tolist() == [[6.0] * 4]
    with pytest.raises(ArgumentError, match="takes a Module class"):
        nn.utils.skip_init(nn.Linear(1, 1))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 1.0])
def test_sparse_columns(sparsity, backend):
    w = init.sparse_(dc.empty(10, 7, backend=backend), sparsity, std=2.0)
    assert (w == 0).sum(0).tolist() == [round(10 * sparsity)] * 7
    places = {tuple((w[:, j] == 0).tolist()) for j in range(7)}
    assert len(places) > 1 or sparsity in (0, 1)
    with pytest.raises(ShapeError, match="fills a matrix"):
        init.sparse_(dc.empty(3), 0.1)


@pytest.mark.parametrize("shape, groups", [((6, 3, 3, 3), 2), ((4, 4, 3), 1), ((2, 5, 1, 3, 3), 1), ((6, 2, 4), 3)])
def test_dirac_is_pytorchs(shape, groups, backend):
    torch = pytest.importorskip("torch")
    expected = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    np.testing.assert_array_equal(init.dirac_(dc.empty(shape, backend=backend), groups).numpy(), expected)
    with pytest.raises(ArgumentError, match="groups divides"):
        init.dirac_(dc.empty(shape, backend=backend), 5)
