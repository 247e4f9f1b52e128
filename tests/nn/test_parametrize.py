"""Parameters that are computed from others: `nn.utils.parametrize`, weight and spectral norm, against PyTorch's."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
from backends import has_run

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError
from deepcore.nn.utils import parametrizations, parametrize

RTOL, ATOL = 1e-9, 1e-12

LAYERS = {
    "Linear": ({"in_features": 3, "out_features": 4}, (5, 3)),
    "Conv2d": ({"in_channels": 2, "out_channels": 3, "kernel_size": 2}, (2, 2, 4, 3)),
    "ConvTranspose1d": ({"in_channels": 3, "out_channels": 2, "kernel_size": 2}, (2, 3, 4)),
    "Embedding": ({"num_embeddings": 6, "embedding_dim": 3}, None),
}
#: function, arguments, whether it is one of `parametrizations`.
NORMS = {
    "weight_norm": ("weight_norm", {}, True),
    "weight_norm of columns": ("weight_norm", {"dim": 1}, True),
    "weight_norm of all": ("weight_norm", {"dim": None}, True),
    "spectral_norm": ("spectral_norm", {}, True),
    "spectral_norm in three steps": ("spectral_norm", {"n_power_iterations": 3, "dim": 1, "eps": 1e-3}, True),
    "old weight_norm": ("weight_norm", {"dim": 1}, False),
    "old spectral_norm": ("spectral_norm", {"n_power_iterations": 2}, False),
}


def apply(package, module, which, name="weight"):
    function, arguments, new = NORMS[which]
    owner = package.utils.parametrizations if new else package.utils
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the old ones deprecated
        return getattr(owner, function)(module, name, **arguments)


def pair(torch, layer, which, backend):
    """The same layer here and in PyTorch, with the same state, and an input for both."""
    arguments, shape = LAYERS[layer]
    torch.manual_seed(0)
    theirs = apply(torch.nn, getattr(torch.nn, layer)(**arguments).double(), which)
    ours = apply(nn, getattr(nn, layer)(**arguments, backend=backend).double(), which)
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    return ours, theirs, torch.arange(4) if shape is None else torch.randn(shape, dtype=torch.float64)


def equal(ours, theirs, names):
    for name in names:
        np.testing.assert_allclose(ours[name].detach().numpy(), theirs[name].detach().numpy(), RTOL, ATOL, err_msg=name)


@pytest.mark.parametrize("which", NORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_norms_are_pytorchs(layer, which, backend):
    torch = pytest.importorskip("torch")
    ours, theirs, x = pair(torch, layer, which, backend)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert repr(ours) == repr(theirs)
    for training in (True, True, False):
        ours.train(training), theirs.train(training)
        ours.zero_grad(), theirs.zero_grad()
        got, expected = ours(dc.tensor(x.numpy(), backend=backend)), theirs(x)
        np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), RTOL, ATOL)
        (got * got).sum().backward(), (expected * expected).sum().backward()
        grads = {n: p.grad for n, p in theirs.named_parameters()}
        np.testing.assert_equal([p.grad is None for p in ours.parameters()], [g is None for g in grads.values()])
        equal({n: p.grad for n, p in ours.named_parameters()}, grads, [n for n, g in grads.items() if g is not None])
        equal(ours.state_dict(), theirs.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("which", NORMS)
def test_initial_values(which, backend):
    """Weight norm leaves the weight as it is; the largest singular value of a spectral norm's becomes 1."""
    layer = nn.Linear(3, 4, backend=backend)
    before = layer.weight.detach().numpy()
    apply(nn, layer, which)
    weight = layer.eval().weight.detach().numpy()
    if "weight" in which:
        np.testing.assert_allclose(weight, before, 1e-6)
    elif "old" not in which:
        assert np.linalg.svd(weight)[1][0] == pytest.approx(1, rel=1e-2)
    assert layer.weight.backend == backend


@pytest.mark.parametrize("which", NORMS)
def test_copies_and_moves(which):
    layer = apply(nn, nn.Linear(3, 4), which).eval()
    x, state = dc.randn(2, 3), layer.state_dict()
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer) and isinstance(twin, nn.Linear) and repr(twin) == repr(layer)
        np.testing.assert_array_equal(twin(x).detach().numpy(), layer(x).detach().numpy())
        twin.apply(lambda m: [p.data.mul_(2) for p in m.parameters(recurse=False)])
        assert all((a == b).all() for a, b in zip(layer.state_dict().values(), state.values()))
        twin.load_state_dict(state)
        np.testing.assert_array_equal(twin(x).detach().numpy(), layer(x).detach().numpy())
    assert layer.double().weight.dtype == dc.float64 and layer(x.double()).dtype == dc.float64


@pytest.mark.parametrize("which", NORMS)
def test_removing_gives_the_layer_back(which):
    layer = apply(nn, nn.Linear(3, 4), which)
    with dc.no_grad():
        for p in layer.parameters():
            p.mul_(1.5)
    weight = layer.eval().weight.detach().numpy()
    function, _, new = NORMS[which]
    if new:
        kept = layer.parametrizations.weight.original if function == "spectral_norm" else None
        parametrize.remove_parametrizations(layer, "weight")
        assert kept is None or layer.weight is kept
    else:
        getattr(nn.utils, f"remove_{function}")(layer)
    assert type(layer) is nn.Linear and list(layer.state_dict()) == ["bias", "weight"] and not layer._modules
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight)
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.requires_grad and layer.weight.is_leaf
    assert "_computed" not in vars(layer)


@pytest.mark.parametrize("which", NORMS)
def test_a_compiled_step_equals_eager(which):
    def training():
        dc.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        apply(nn, model[0], which), apply(nn, model[2], which)
        optimizer = dc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(x):
            optimizer.zero_grad()
            loss = (model(x) ** 2).mean()
            loss.backward()
            optimizer.step()
            return loss

        return model, step

    (eager, step), (model, other) = training(), training()
    compiled = dc.compile(other)
    for i in range(5):
        x = dc.randn(5, 4)
        assert step(x).item() == compiled(x).item(), i
        for name, t in eager.state_dict().items():
            np.testing.assert_array_equal(t.numpy(), model.state_dict()[name].numpy(), err_msg=name)
    assert has_run(compiled, 2)


def test_a_norm_added_or_removed_later_is_compiled_anew():
    model = nn.Linear(3, 2)
    run = dc.compile(lambda x: model(x).detach())
    x = dc.randn(4, 3)
    for change in (
        lambda: parametrizations.weight_norm(model),
        lambda: model.parametrizations.weight.original0.data.mul_(2),
        lambda: parametrize.remove_parametrizations(model, "weight"),
    ):
        run(x), run(x), change()
        for _ in range(2):
            np.testing.assert_array_equal(run(x).numpy(), model(x).detach().numpy())


# -- register_parametrization -------------------------------------------------------------------------------------------


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T

    def right_inverse(self, x):
        return x.triu()


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


class Wrong(nn.Module):
    def __init__(self, result=None, inverse=None):
        super().__init__()
        self.result = result
        if inverse is not None:
            self.right_inverse = inverse

    def forward(self, *x):
        return x[0] if self.result is None else self.result(x[0])


def test_parametrizations_are_applied_in_turn(backend):
    layer = nn.Linear(3, 3, backend=backend)
    weight, start = layer.weight, layer.weight.detach().numpy()
    assert not parametrize.is_parametrized(layer)
    assert parametrize.register_parametrization(layer, "weight", Symmetric()) is layer
    assert parametrize.is_parametrized(layer) and parametrize.is_parametrized(layer, "weight")
    assert (
        not parametrize.is_parametrized(layer, "bias") and parametrize.type_before_parametrizations(layer) is nn.Linear
    )
    assert layer.parametrizations.weight.original is weight and type(layer).__name__ == "ParametrizedLinear"
    symmetric = np.triu(start) + np.triu(start, 1).T
    np.testing.assert_array_equal(layer.weight.detach().numpy(), symmetric)
    parametrize.register_parametrization(layer, "weight", Double())
    np.testing.assert_array_equal(layer.weight.detach().numpy(), 2 * symmetric)
    layer.weight.sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy(), 4 * np.triu(np.ones((3, 3))) - 2 * np.eye(3))
    with pytest.raises(ArgumentError, match="Double has no right_inverse"):
        layer.weight = dc.ones(3, 3, backend=backend)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    assert type(layer) is nn.Linear and layer.weight is weight
    np.testing.assert_array_equal(weight.detach().numpy(), np.triu(start))


def test_assigning_goes_through_the_inverse(backend):
    layer = parametrizations.weight_norm(nn.Linear(3, 2, backend=backend))
    g, v = layer.parametrizations.weight.originals()
    layer.weight = dc.tensor([[3.0, 0, 4], [0, 0, 2]], backend=backend)
    assert g.tolist() == [[5], [2]] and v.tolist() == [[3, 0, 4], [0, 0, 2]]
    assert layer.parametrizations.weight.original0 is g and g.requires_grad
    with pytest.raises(ArgumentError, match="is assigned a tensor"):
        layer.weight = 3


def test_buffers_and_several_names():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    layer.register_buffer("scale", dc.ones(2))
    parametrize.register_parametrization(layer, "scale", Double())
    parametrizations.spectral_norm(layer, "bias")
    assert layer.scale.tolist() == [2, 2] and (layer.bias**2).sum().item() == pytest.approx(1)
    assert list(layer.state_dict()) == [
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
        "parametrizations.scale.original",
        "parametrizations.bias.original",
    ]
    for name in ("scale", "weight", "bias"):
        parametrize.remove_parametrizations(layer, name)
    assert type(layer) is nn.Linear and list(layer.state_dict()) == ["weight", "bias", "scale"]


def test_cached():
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    assert layer.weight is not layer.weight
    with parametrize.cached():
        weight = layer.weight
        with parametrize.cached():
            assert layer.weight is weight
        assert layer.weight is weight
        (layer(dc.ones(3)) + layer(dc.ones(3))).sum().backward()
    assert layer.weight is not weight

    @dc.compile
    def inside(x):
        with parametrize.cached():
            return (layer(x) * layer(x)).detach()

    outside = dc.compile(lambda x: layer(x).detach())
    x = dc.randn(4, 3)
    for _ in range(3):
        expected = layer(x).detach()
        np.testing.assert_array_equal(inside(x).numpy(), (expected * expected).numpy())
        with parametrize.cached(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer(x)
            np.testing.assert_array_equal(outside(x).numpy(), expected.numpy())
        layer.parametrizations.weight.original0.data.mul_(2)
    assert has_run(inside)


REFUSED = {
    "another shape": (
        lambda m: parametrize.register_parametrization(m, "weight", Wrong(lambda w: w[:1])),
        "another shape",
    ),
    "another dtype": (
        lambda m: parametrize.register_parametrization(m, "weight", Wrong(lambda w: w.double())),
        "another dtype",
    ),
    "no tensor": (lambda m: parametrize.register_parametrization(m, "weight", Wrong(lambda w: 3)), "returns a tensor"),
    "an inverse of no tensor": (
        lambda m: parametrize.register_parametrization(m, "weight", Wrong(None, lambda w: 3)),
        "right_inverse returns a tensor",
    ),
    "a class": (lambda m: parametrize.register_parametrization(m, "weight", Double), "is a module"),
    "no such name": (lambda m: parametrize.register_parametrization(m, "weights", Double()), "one of weight, bias"),
    "no module": (lambda m: parametrizations.weight_norm([m]), "takes a module"),
    "a container": (lambda m: parametrizations.weight_norm(nn.Sequential(m)), "such as model"),
    "a compiled one": (lambda m: parametrizations.weight_norm(dc.compile(m)), "module.function"),
    "a dimension": (lambda m: parametrizations.weight_norm(m, dim=2), "dim 2 is out of range"),
    "a spectral dimension": (lambda m: parametrizations.spectral_norm(m, dim=2), "dim 2 is out of range"),
    "no iterations": (lambda m: parametrizations.spectral_norm(m, n_power_iterations=0), "at least 1"),
    "nothing to remove": (lambda m: parametrize.remove_parametrizations(m, "weight"), "no parametrized tensor"),
    "no norm to remove": (lambda m: nn.utils.remove_weight_norm(m), "no weight_norm of 'weight'"),
    "one twice": (lambda m: nn.utils.weight_norm(nn.utils.weight_norm(m)), "is computed already"),
    "assigning": (lambda m: setattr(nn.utils.weight_norm(m), "weight", dc.ones(3, 3)), "set weight_g and weight_v"),
    "several originals": (
        lambda m: parametrize.remove_parametrizations(parametrizations.weight_norm(m), "weight", False),
        "computed from 2 tensors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_changes_nothing(case):
    call, message = REFUSED[case]
    layer = nn.Linear(3, 3)
    with pytest.raises(ArgumentError, match=message):
        call(layer)
    layer(dc.ones(3))
    if case not in ("one twice", "assigning", "several originals"):
        assert type(layer) is nn.Linear and list(layer.state_dict()) == ["weight", "bias"]


def test_unsafe_changes_the_shape():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", Wrong(lambda w: w[:1]), unsafe=True)
    assert layer.weight.shape == (1, 3)
    with pytest.raises(ArgumentError, match="another shape"):
        parametrize.register_parametrization(layer, "weight", Wrong(lambda w: w[:, :1]))


@pytest.mark.parametrize("depth", [0, 1])
def test_a_state_dict_of_the_older_weight_norm(depth):
    wrap = (lambda layer: layer) if depth == 0 else (lambda layer: nn.Sequential({"body": layer}))
    old, new = wrap(nn.utils.weight_norm(nn.Linear(3, 2))), wrap(parametrizations.weight_norm(nn.Linear(3, 2)))
    before = new.state_dict()
    assert new.load_state_dict(old.state_dict()) == ([], []) and list(new.state_dict()) == list(before)
    x = dc.randn(4, 3)
    np.testing.assert_array_equal(new(x).detach().numpy(), old(x).detach().numpy())
    new.load_state_dict(new.state_dict())


def test_names_of_pytorch_that_are_absent_say_so():
    with pytest.raises(AttributeError, match=r"deepcore has no `dc.nn.utils.parametrizations.orthogonal` yet"):
        parametrizations.orthogonal(nn.Linear(2, 2))
