"""Models in functional form."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DataError, ShapeError
from deepcore.nn import functional as F
from deepcore.nn.model import Symbol


def bits(t):
    return t.numpy(force=True).tobytes()


def test_a_chain_equals_sequential(backend):
    dc.manual_seed(0)
    with dc.use_backend(backend):
        inputs = dc.Input((4,))
        x = nn.LazyLinear(8)(inputs, name="hidden")
        x = nn.Dropout(0.5)(F.relu(x))
        model = dc.Model(inputs, nn.LazyLinear(3)(x))
        dc.manual_seed(0)
        same = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    assert list(model.state_dict()) == ["hidden.weight", "hidden.bias", "linear.weight", "linear.bias"]
    batch = dc.randn(5, 4, device=backend)
    for mode in (True, False):
        model.train(mode)
        same.train(mode)
        dc.manual_seed(1)
        first = model(batch)
        dc.manual_seed(1)
        assert bits(first) == bits(same(batch))
    first.sum().backward()
    same(batch).sum().backward()
    for p, q in zip(model.parameters(), same.parameters()):
        assert bits(p.grad) == bits(q.grad)
    compiled = dc.compile(lambda x: model(x))
    assert [bits(compiled(batch)) for _ in range(3)] == [bits(first)] * 3


def branched():
    title, tags = dc.Input((None,), dtype="int64", name="title"), dc.Input((12,), name="tags")
    states, (last, _) = nn.LSTM(8, 16, batch_first=True)(nn.Embedding(100, 8)(title))
    joined = dc.cat([last[-1], tags], dim=1)
    priority = nn.LazyLinear(1)(joined, name="priority")
    department = nn.LazyLinear(4)(joined + 1 - joined.mean(), name="department")
    return dc.Model([title, tags], [priority, department]), states


def test_several_inputs_and_outputs():
    model, states = branched()
    assert states.shape == (None, None, 16) and model.input_names == ["title", "tags"]
    assert model.output_names == ["priority", "department"]
    title, tags = dc.randint(0, 100, (3, 7)), dc.randn(3, 12)
    outputs = model(title, tags)
    embedded = model.get_layer("embedding")(title)
    joined = dc.cat([model.get_layer("lstm")(embedded)[1][0][-1], tags], 1)
    expected = [model.priority(joined), model.department(joined + 1 - joined.mean())]
    for form in (outputs, model([title, tags]), model({"tags": tags, "title": title})):
        assert [bits(t) for t in form] == [bits(t) for t in expected]
    with pytest.raises(DataError, match="no input 'tags'"):
        model({"title": title})
    with pytest.raises(DataError, match=r"takes 2 input\(s\)"):
        model(title)
    a, b = dc.Input((4,), name="a"), dc.Input((3,), name="b")
    model = dc.Model([a, b], nn.Linear(7, 1)(dc.cat([a, b], 1)))
    with pytest.raises(ShapeError, match=r"(?s)'a' has another shape.*\(\*, 4\)"):
        model(dc.ones(2, 3), dc.ones(2, 4))  # of which the concatenation has the same length
    with pytest.raises(ShapeError, match=r"x\[:, None\]"):
        dc.Model(x := dc.Input((1,)), x * 2)(dc.ones(5))
    assert dc.vmap(dc.Model(a, a * 2))(dc.ones(5, 4)).shape == (5, 4)


def test_named_outputs_and_structures():
    x = dc.Input((4,))
    model = dc.Model({"x": x}, {"double": x * 2, "pair": (x + 1, -x)})
    out = model(dc.ones(2, 4))
    assert out["double"].tolist()[0] == [2.0] * 4 and out["pair"][1].tolist()[0] == [-1.0] * 4
    assert model.output_names == ["double", "pair"]


def test_parts_of_a_model_share_its_layers():
    model, _ = branched()
    part = dc.Model(model.inputs, model.get_layer("lstm").output[0])
    title, tags = dc.randint(0, 100, (3, 7)), dc.randn(3, 12)
    before = bits(part(title, tags))
    assert part.get_layer("lstm") is model.get_layer("lstm")
    with dc.no_grad():
        model.embedding.weight.mul_(2.0)
    assert bits(part(title, tags)) != before
    middle = dc.Model(model.get_layer("priority").input, model.get_layer("priority").output)
    assert middle(dc.ones(2, 28)).shape == (2, 1)
    nested_input = dc.Input((28,))
    nested = dc.Model(nested_input, middle(nested_input).sigmoid())
    assert [name for name, _ in nested.named_parameters()] == ["model.priority.weight", "model.priority.bias"]


def test_shared_layers_are_one():
    a, b, shared = dc.Input((4,)), dc.Input((4,)), nn.Linear(4, 4)
    model = dc.Model([a, b], shared(a) - shared(b))
    assert len(list(model.parameters())) == 2 and model.layers == [shared]
    assert model(dc.ones(1, 4), dc.ones(1, 4)).tolist() == [[0.0] * 4]


def test_copies_have_layers_of_their_own():
    model, _ = branched()
    twin = copy.deepcopy(model)
    assert twin.get_layer("lstm") is not model.get_layer("lstm")
    part = dc.Model(twin.inputs, twin.get_layer("priority").output)
    assert part.get_layer("lstm") is twin.get_layer("lstm")
    title, tags = dc.randint(0, 100, (3, 7)), dc.randn(3, 12)
    assert bits(twin(title, tags)[0]) == bits(model(title, tags)[0])
    layer = copy.deepcopy(model.get_layer("priority"))
    assert not hasattr(layer, "output"), "a copied layer is in no model"
    again = pickle.loads(pickle.dumps(model.get_layer("priority")))
    assert bits(again.weight) == bits(model.priority.weight)


def test_state_dicts_and_files(tmp_path):
    model, other = branched()[0], branched()[0]
    other.load_state_dict(model.state_dict())
    model.save(tmp_path / "m.safetensors")
    assert all(bits(p) == bits(q) for p, q in zip(model.parameters(), other.parameters()))
    third = branched()[0].load(tmp_path / "m.safetensors")
    assert all(bits(p) == bits(q) for p, q in zip(model.parameters(), third.parameters()))


def test_names():
    x = dc.Input((4,))
    y = nn.ReLU()(nn.Linear(4, 4)(nn.Linear(4, 4)(x)))
    y = nn.Linear(4, 4)(y, name="output")  # also the name of a property
    model = dc.Model(x, y, name="net")
    assert list(model._modules) == ["linear", "linear_1", "re_lu", "output"]
    assert model.get_layer("output").name == "output" and model.get_layer(index=0) is model.linear
    assert model.output is y and model.input is x and isinstance(y, Symbol)
    with pytest.raises(ArgumentError, match="did you mean 'linear'"):
        model.get_layer("linea")
    table = str(model.summary())
    assert "net, input (None, 4)" in table and "(None, 4)" in table and "60 parameters" in table


def test_evaluation_mode_and_statistics_are_as_before():
    x, norm = dc.Input((4,)), nn.BatchNorm1d(4)
    state = dc.get_rng_state()
    nn.Dropout(0.5)(norm(x))
    assert norm.training and norm.num_batches_tracked.item() == 0 and dc.get_rng_state() == state


#: Functions of one symbolic tensor, by each way that deepcore declares functions.
CALLS = {
    "unary": lambda x: dc.exp(x),
    "binary": lambda x: dc.add(x, 1.5),
    "two": lambda x: dc.maximum(x, x * 2),
    "constant": lambda x: dc.ones(3, 4, 4)[0] + x,
    "reflected": lambda x: 2.0 - x,
    "composite": lambda x: dc.flatten(x, 1),
    "reduction": lambda x: dc.sum(x, dim=1),
    "axis": lambda x: dc.mean(x, axis=1),
    "cat": lambda x: dc.cat([x, x], dim=1),
    "stack": lambda x: dc.stack([x, x], dim=1),
    "functional": lambda x: F.softmax(x, dim=1),
    "gelu": lambda x: F.gelu(x),
    "matmul": lambda x: x @ x.transpose(1, 2),
    "index": lambda x: x[:, 0],
    "method": lambda x: x.permute(0, 2, 1),
    "property": lambda x: x.mT,
    "normalize": lambda x: F.normalize(x, dim=1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "pad": lambda x: F.pad(x, (1, 1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_of_symbols(name):
    call = CALLS[name]
    x = dc.Input((4, 4))
    model = dc.Model(x, call(x))
    batch = dc.randn(3, 4, 4)
    assert bits(model(batch)) == bits(call(batch))
    assert model.output.shape[1:] == call(batch).shape[1:] and model.output.shape[0] is None


@pytest.mark.parametrize(
    "act, words",
    [
        (lambda x: dc.Model(x, x + dc.Input((4,), name="other")), "input 'other' that is not among"),
        (lambda x: dc.Model(x, dc.ones(2)), "outputs of a Model are symbolic"),
        (lambda x: dc.Model(x, None), "outputs of a Model are symbolic"),
        (lambda x: bool(x > 0), "no values"),
        (lambda x: x.sum().item(), "no values"),
        (lambda x: list(x), "no values"),
        (lambda x: nn.Linear(5, 2)(x), "Linear expects 5 features"),
        (lambda x: dc.Input((4, -1)), "lengths of a sample"),
        (lambda x: dc.where(x > 0, x, 0.0), "a Module that calls where in its forward"),
        (lambda x: nn.ReLU()(x, name="a.b"), "without a dot"),
    ],
)
def test_errors(act, words):
    with pytest.raises((ValueError, TypeError), match=words):
        act(dc.Input((4,)))


def test_subclasses_define_forward():
    class Net(dc.Model):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x)

    class Called(dc.Model):
        def call(self, x):
            return x

    assert Net()(dc.ones(1, 4)).shape == (1, 2)
    t = dc.Trainer(Net(), "adam", "cross_entropy")
    assert len(t.fit(np.ones((4, 4), np.float32), np.zeros(4, int), verbose=0)) == 1
    with pytest.raises(ArgumentError, match=r"call\(\) is named forward\(\)"):
        Called()(1)
