"""Lazy layers: they take a size from their first input, or from a state dict, and are ordinary ones from then on."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from backends import has_run

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, ConfigError, DTypeError, ShapeError, StateDictError, UninitializedError
from deepcore.nn.files import build
from deepcore.nn.registry import LAYERS

#: Arguments of the lazy layer, those of the ordinary one before them, and an input.
CASES = {
    "LazyLinear": ({"out_features": 3}, (5,), (2, 4, 5)),
    "LazyConv1d": ({"out_channels": 4, "kernel_size": 2, "groups": 2}, (6,), (2, 6, 5)),
    "LazyConv2d": ({"out_channels": 3, "kernel_size": 2, "padding": 1, "padding_mode": "reflect"}, (2,), (2, 4, 5)),
    "LazyConv3d": ({"out_channels": 2, "kernel_size": (1, 2, 2), "bias": False}, (3,), (1, 3, 2, 3, 3)),
    "LazyConvTranspose1d": ({"out_channels": 4, "kernel_size": 3, "groups": 2, "stride": 2}, (4,), (2, 4, 3)),
    "LazyConvTranspose2d": ({"out_channels": 2, "kernel_size": 2, "dilation": 2}, (3,), (1, 3, 2, 3)),
    "LazyConvTranspose3d": ({"out_channels": 2, "kernel_size": 1}, (3,), (3, 2, 2, 2)),
    "LazyBatchNorm1d": ({"eps": 1e-3}, (4,), (5, 4)),
    "LazyBatchNorm2d": ({"momentum": None, "affine": False}, (3,), (2, 3, 2, 2)),
    "LazyBatchNorm3d": ({"track_running_stats": False, "bias": False}, (2,), (2, 2, 2, 1, 2)),
    "LazyInstanceNorm1d": ({}, (3,), (3, 4)),
    "LazyInstanceNorm2d": ({}, (3,), (2, 3, 2, 2)),
    "LazyInstanceNorm3d": ({"momentum": 0.3}, (2,), (1, 2, 2, 2, 2)),
}


def test_every_lazy_layer_has_a_case():
    assert set(CASES) == {name for name, cls in LAYERS.items() if getattr(cls, "lazy", False)}


def ordinary(name, backend=None):
    """The layer that the lazy one of this name becomes."""
    arguments, size, _ = CASES[name]
    if "Instance" in name:
        arguments = {"affine": True, "track_running_stats": True, **arguments}
    return getattr(nn, name.removeprefix("Lazy"))(*size, **arguments, backend=backend)


@pytest.mark.parametrize("name", CASES)
def test_the_first_call_makes_the_ordinary_layer(name, backend):
    arguments, _, shape = CASES[name]
    x = dc.randn(*shape, backend=backend)
    lazy = getattr(nn, name)(**arguments, backend=backend)
    parameters, names = list(lazy.parameters()), list(lazy.state_dict())
    assert lazy.has_uninitialized_params() and all(p.requires_grad and p.is_leaf for p in parameters)
    dc.manual_seed(7)
    out = lazy(x)
    dc.manual_seed(7)
    twin = ordinary(name, backend)
    assert type(lazy) is type(twin) and repr(lazy) == repr(twin) and list(twin.state_dict()) == names
    assert all(a is b for a, b in zip(lazy.parameters(), parameters))
    assert all(type(p) is nn.Parameter and p.requires_grad for p in parameters)
    assert all(type(b) is dc.Tensor and b.backend == backend for b in lazy.buffers())
    np.testing.assert_array_equal(out.detach().numpy(), twin(x).detach().numpy())
    for key, value in twin.state_dict().items():
        np.testing.assert_array_equal(lazy.state_dict()[key].numpy(), value.numpy())
    assert lazy.constructor_arguments() == twin.constructor_arguments()


@pytest.mark.parametrize("name", CASES)
def test_lazy_layers_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    arguments, _, shape = CASES[name]
    ours, theirs = getattr(nn, name)(**arguments), getattr(torch.nn, name)(**arguments)
    assert repr(ours) == repr(theirs) and list(ours.state_dict()) == list(theirs.state_dict())
    assert [repr(p) for p in ours.parameters()] == [repr(p) for p in theirs.parameters()]
    x = torch.randn(shape if "Instance" not in name else (1, *shape)[-len(shape) - (len(shape) == 2) :])
    theirs(x)
    ours(dc.tensor(x.numpy()))
    assert repr(ours) == repr(theirs) and {k: v.shape for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_before_the_first_call(name, backend):
    arguments, _, shape = CASES[name]
    twin, x = ordinary(name, backend), dc.randn(*shape, backend=backend)
    lazy = getattr(nn, name)(**arguments, backend=backend)
    parameters = list(lazy.parameters())
    dc.manual_seed(5)
    assert lazy.load_state_dict(twin.state_dict()) == ([], [])
    assert type(lazy) is type(twin) and repr(lazy) == repr(twin)
    position = dc.rand(1).item()
    dc.manual_seed(5)
    assert dc.rand(1).item() == position  # nothing was drawn
    assert all(a is b for a, b in zip(lazy.parameters(), parameters))
    np.testing.assert_array_equal(lazy.eval()(x).detach().numpy(), twin.eval()(x).detach().numpy())


def test_a_lazy_layer_is_described_by_its_arguments():
    for name, (arguments, _, _) in CASES.items():
        layer = build({"layer": name, "arguments": json.loads(json.dumps(arguments))})
        assert repr(layer) == repr(getattr(nn, name)(**arguments))
    with pytest.raises(ConfigError, match="out_features"):
        build({"layer": "LazyLinear", "arguments": {"out_features": -1}})


def network(backend=None):
    return nn.Sequential(
        nn.LazyConv2d(4, 3, backend=backend), nn.LazyBatchNorm2d(backend=backend), nn.Flatten(), nn.LazyLinear(5, backend=backend)
    )  # fmt: skip


def test_copies_and_moves_before_the_first_call():
    model, x = network(), dc.randn(2, 1, 5, 4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), network()):
        assert all(m.has_uninitialized_params() for m in (twin[0], twin[1], twin[3]))
        assert twin[0].weight is not model[0].weight and twin.train().apply(lambda m: None) is twin
        twin[3].weight.requires_grad_(False)
        twin.zero_grad()
        assert twin.double()[0].weight.dtype == dc.float64 == twin[1].running_mean.dtype
        assert twin(x.double()).dtype == dc.float64 and not twin[3].weight.requires_grad and twin[3].bias.requires_grad
        assert twin[1].num_batches_tracked.item() == 1
    assert repr(model[0].weight) == "<UninitializedParameter>" and repr(model[1].running_var) == "<UninitializedBuffer>"
    model.load_state_dict(model.state_dict())  # nothing in it, and nothing happens
    assert model[0].has_uninitialized_params()
    half = network().to(dtype=dc.float16).to_empty(backend="cpu")
    assert half(x.half())[0].dtype == dc.float16


def test_moves_to_another_backend(backend):
    model = network("cpu").to(backend)
    assert model[0].weight.backend == backend
    assert model(dc.randn(2, 1, 5, 4, backend=backend)).backend == backend
    assert all(t.backend == backend for t in model.state_dict().values())
    for name, (arguments, _, _) in CASES.items():
        layer = getattr(nn, name)(**arguments, device=dc.device(backend))
        assert all(t.backend == backend for t in (*layer.parameters(), *layer.buffers()))


READS = {
    "shape": lambda p: p.shape,
    "an op": lambda p: p * 2,
    "init": lambda p: nn.init.xavier_uniform_(p),
    "numel": lambda p: p.numel(),
    "tolist": lambda p: p.tolist(),
    "array": lambda p: p.array,
    "len": lambda p: len(p),
    "copy_": lambda p: p.copy_(dc.ones(2)),
    "data": lambda p: p.data.fill_(0),
    "norm": lambda p: nn.utils.parametrizations.weight_norm(nn.LazyLinear(2)),
    "save": lambda p: nn.LazyLinear(2).save("never-written"),
}


@pytest.mark.parametrize("read", READS)
def test_what_reads_uninitialised_values_says_what_to_do(read, backend):
    with pytest.raises(UninitializedError, match="call the model once on a batch") as raised:
        READS[read](nn.LazyLinear(2, backend=backend).weight)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("make", [lambda p: dc.optim.SGD(p, lr=0.1), lambda p: dc.optim.Adam([{"params": p}])])
def test_optimizers_refuse_what_has_no_shape(make):
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(UninitializedError, match=r"parameter 2 of the group(.|\n)*before the optimizer is made"):
        make(model.parameters())
    model(dc.ones(2))
    make(model.parameters()).step()


REFUSED = {
    "no channels": (nn.LazyConv2d(2, 1), lambda: dc.ones(3), ShapeError, r"\(N, C, H, W\) or \(C, H, W\)"),
    "no batch": (nn.LazyBatchNorm1d(), lambda: dc.ones(3), ShapeError, r"\(N, C\) or \(N, C, L\)"),
    "0-d": (nn.LazyLinear(2), lambda: dc.ones(()), ShapeError, "features"),
    "of length 0": (nn.LazyLinear(2), lambda: dc.ones(3, 0), ShapeError, "is empty"),
    "groups": (nn.LazyConv1d(4, 1, groups=2), lambda: dc.ones(3, 5), ArgumentError, "groups divides"),
    "no tensor": (nn.LazyLinear(2), lambda: [1.0], DTypeError, "list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_input_changes_nothing(case):
    layer, make, error, message = REFUSED[case]
    before = repr(layer)
    with pytest.raises(error, match=message):
        layer(make())
    assert repr(layer) == before and layer.has_uninitialized_params()


def test_a_state_dict_that_does_not_fit_changes_nothing():
    model = network()
    full = network()
    full(dc.ones(2, 1, 5, 4))
    state = full.state_dict()
    for name, value, message in (
        ("0.weight", dc.ones(4, 1, 2, 3), r"the module's is \(4, 1, 3, 3\)"),
        ("3.weight", dc.ones(6, 2), r"the module's is \(5, 2\)"),
        ("3.weight", dc.ones(6), "do not follow from the state dict"),
        ("1.bias", dc.ones(5), r"the module's is \(4,\)"),
    ):
        with pytest.raises(StateDictError, match=message):
            model.load_state_dict({**state, name: value})
    with pytest.raises(StateDictError, match=r"missing:    0\.weight uninitialised"):
        model.load_state_dict({})
    with pytest.raises(StateDictError, match="is not initialised"):
        full.load_state_dict(model.state_dict())
    assert repr(model) == repr(network()) and all(m.has_uninitialized_params() for m in (model[0], model[1], model[3]))
    missing, _ = model.load_state_dict({k: v for k, v in state.items() if k != "3.bias"}, strict=False)
    assert missing == ["3.bias"] and type(model[3]) is nn.Linear and model[3].bias.abs().max().item() <= 24**-0.5


def test_loading_with_assign_and_from_files(tmp_path):
    full, model, other = network().double(), network(), network()
    x = dc.randn(2, 1, 5, 4, dtype=dc.float64)
    full(x)
    model.load_state_dict(full.state_dict(), assign=True)
    assert model[0].weight.dtype == dc.float64
    full.save(tmp_path / "f")
    assert type(other.load(tmp_path / "f")[0]) is nn.Conv2d and other[0].weight.dtype == dc.float32
    np.testing.assert_array_equal(model.eval()(x).detach().numpy(), full.eval()(x).detach().numpy())


def test_a_shared_lazy_layer():
    def model(layer):
        return nn.Sequential(layer, nn.ReLU(), layer)

    full, lazy = model(nn.Linear(3, 3)), model(nn.LazyLinear(3))
    lazy.load_state_dict(full.state_dict())
    assert lazy[0] is lazy[2] and type(lazy[0]) is nn.Linear
    np.testing.assert_array_equal(lazy(dc.ones(3)).detach().numpy(), full(dc.ones(3)).detach().numpy())
    other = model(nn.LazyLinear(3))
    other(dc.ones(2, 3))
    assert type(other[2]) is nn.Linear and len(list(other.parameters())) == 2


def test_summary_tells_it_and_initialises_nothing(backend):
    model = network(backend)
    dc.manual_seed(3)
    summary = model.summary((1, 5, 4))
    assert summary.lazy == ["0", "1", "3"] and summary.parameters == 40 + 8 + 125
    assert summary.rows[0].type == "LazyConv2d" and summary.rows[0].output_shape == (1, 4, 3, 2)
    assert "not initialised yet, and counted as for this input: 0, 1, 3" in str(summary)
    assert model[0].has_uninitialized_params() and model.training
    after = dc.rand(1).item()
    dc.manual_seed(3)
    assert dc.rand(1).item() == after  # no number was drawn
    model(dc.ones(2, 1, 5, 4, backend=backend))
    summary = model.summary((1, 5, 4))
    assert not summary.lazy and "not initialised" not in str(summary)


def test_hooks_and_compiled_calls():
    calls = []
    layer = nn.LazyLinear(2)
    layer.register_forward_hook(lambda m, args, out: calls.append((type(m), out.shape)))
    layer(dc.ones(3)), layer(dc.ones(3))
    assert calls == [(nn.Linear, (2,))] * 2
    model = network()
    compiled = dc.compile(model)
    x = dc.randn(2, 1, 5, 4)
    for _ in range(4):
        out = compiled(x)
        out.sum().backward()
    np.testing.assert_array_equal(compiled.eval()(x).detach().numpy(), model(x).detach().numpy())
    assert type(model[0]) is nn.Conv2d and has_run(compiled)


def test_materialize():
    p = nn.UninitializedParameter(dtype=dc.float64)
    p.materialize((2, 3))
    assert type(p) is nn.Parameter and p.shape == (2, 3) and p.dtype == dc.float64 and p.requires_grad
    b = nn.UninitializedBuffer()
    b.materialize((2,), dtype=dc.float16)
    assert type(b) is dc.Tensor and b.shape == (2,) and b.dtype == dc.float16 and not b.requires_grad
