"""Layers and losses against PyTorch's, with the same state, in float64: every registered one on its own examples, and
on PyTorch's own module inputs."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from nn_examples import cases, flat, make_input

import deepcore as dc
from deepcore.nn.registry import LAYERS, LOSSES

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")

RTOL, ATOL = 1e-7, 1e-12

# PyTorch arguments that deepcore does not take: samples that use them are left out, and nothing else may be.
NOT_TAKEN = {"size_average", "reduce", "scale_grad_by_freq", "sparse", "device"}


def arguments(values):
    """Constructor arguments for PyTorch: a tuple of floats is a tensor of weights."""
    return {
        name: torch.tensor(value) if isinstance(value, tuple) and isinstance(value[0], float) else value
        for name, value in values.items()
    }


#: Transformers have hundreds of samples, of which these many of each mode run.
MOST_SAMPLES = 6

pytestmark = [
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning"),
]


def to_dc(value):
    if isinstance(value, tuple):
        return tuple(map(to_dc, value))
    if isinstance(value, torch.Tensor):
        out = dc.tensor(value.detach().numpy())
        return out.requires_grad_() if value.requires_grad else out
    return value


def argument(value):
    """A constructor's argument, which may be a layer or a function, as deepcore's."""
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        attention = value.self_attn
        return dc.nn.TransformerEncoderLayer(
            attention.embed_dim, attention.num_heads, value.linear1.out_features, value.dropout.p,
            value.activation.__name__, value.norm1.eps, attention.batch_first, value.norm_first,
            value.linear1.bias is not None,
        )  # fmt: skip
    if callable(value) and hasattr(dc.nn.functional, getattr(value, "__name__", "")):
        return getattr(dc.nn.functional, value.__name__)
    return to_dc(value)


def fresh(value):
    """Leaves with the values of the tensors of an argument."""
    if isinstance(value, tuple):
        return tuple(map(fresh, value))
    return value.detach().clone().requires_grad_(value.requires_grad) if hasattr(value, "detach") else value


def compare(ours, theirs, inputs, rng, kwargs=None):
    """Same outputs, same gradients of inputs and parameters; `inputs` are torch tensors."""
    kwargs = kwargs or {}
    own_inputs = [to_dc(x) for x in inputs]
    expected = theirs(*inputs, **kwargs)
    got = ours(*own_inputs, **{k: to_dc(v) for k, v in kwargs.items()})
    pairs = list(zip(flat(got), flat(expected), strict=True))
    for mine, other in pairs:
        assert mine.shape == tuple(other.shape)
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), RTOL, ATOL)
    pairs = [(mine, other) for mine, other in pairs if other.requires_grad]
    if not pairs:
        return
    cotangents = [rng.standard_normal(other.shape) for _, other in pairs]
    torch.autograd.backward([other for _, other in pairs], [torch.tensor(c) for c in cotangents])
    sum((mine * dc.tensor(c)).sum() for (mine, _), c in zip(pairs, cotangents)).backward()
    for mine, other in zip(flat(tuple(own_inputs)), flat(tuple(inputs))):
        if isinstance(other, torch.Tensor) and other.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), RTOL, ATOL)
    for name, parameter in theirs.named_parameters():
        own = ours.get_parameter(name)
        assert (own.grad is None) == (parameter.grad is None), name
        if own.grad is not None:
            np.testing.assert_allclose(own.grad.numpy(), parameter.grad.numpy(), RTOL, ATOL, err_msg=name)
    for name, buffer in theirs.named_buffers():
        np.testing.assert_allclose(ours.get_buffer(name).numpy(), buffer.numpy(), RTOL, ATOL, err_msg=name)


def without_bias(module):
    # PyTorch before 2.13 does not show it for norms.
    text = repr(module).replace("NonDynamicallyQuantizableLinear", "Linear")
    return re.sub(r"(, )?bias=\w+", "", text) if "Norm" in text else text


def copy_state(theirs, ours):
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})


def oracle(cls):
    """PyTorch's class of this name."""
    return getattr(torch.nn, cls.__name__, None) or pytest.skip(f"PyTorch has no {cls.__name__}")


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("cls, example", cases(LAYERS))
def test_layer(cls, example, training):
    rng = np.random.default_rng(0)
    theirs = oracle(cls)(**example.arguments).double().train(training)
    ours = cls(**example.arguments).double().train(training)
    assert without_bias(ours) == without_bias(theirs)
    for parameter in theirs.parameters():  # away from ones and zeros
        parameter.data += torch.tensor(rng.standard_normal(parameter.shape))
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer += torch.tensor(rng.random(buffer.shape))
    copy_state(theirs, ours)
    if training and (
        cls.__name__ == "RReLU" or ("Dropout" in cls.__name__ and 0 < example.arguments.get("p", 0.5) < 1)
    ):
        return  # the draws differ; tests/nn/test_nn.py looks at them
    for _ in range(2):  # a second batch meets running statistics that have moved
        inputs = [torch.tensor(make_input(kind, rng)) for kind in example.inputs]
        for x in inputs:
            x.requires_grad_(x.is_floating_point())
        for parameter in theirs.parameters():
            parameter.grad = None
        ours.zero_grad()
        compare(ours, theirs, inputs, rng)


@pytest.mark.parametrize("cls, example", cases(LOSSES))
def test_loss(cls, example):
    rng = np.random.default_rng(0)
    theirs = oracle(cls)(**arguments(example.arguments)).double()
    ours = cls(**example.arguments).double()
    inputs = [torch.tensor(make_input(kind, rng)) for kind in example.inputs]
    inputs[0].requires_grad_()
    compare(ours, theirs, inputs, rng)
    half = [x.detach().float() if x.is_floating_point() else x for x in inputs]
    out = ours.float()(*map(to_dc, half))
    assert out.dtype == dc.float32
    np.testing.assert_allclose(out.detach().numpy(), theirs.float()(*half).detach().numpy(), 1e-5, 1e-6)


def test_constructor_defaults_are_torchs():
    import inspect

    for registry in (LAYERS, LOSSES):
        for name, cls in registry.items():
            theirs = inspect.signature(getattr(torch.nn, name)).parameters if hasattr(torch.nn, name) else {}
            for key, parameter in inspect.signature(cls).parameters.items():
                if key in theirs and parameter.kind is parameter.POSITIONAL_OR_KEYWORD and key != "modules":
                    default = theirs[key].default
                    default = "relu" if default is torch.nn.functional.relu else default
                    assert parameter.default == default, f"{name}({key})"


def module_infos():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch.testing._internal.common_modules import module_db
    except ImportError as error:  # expecttest is not installed
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"PyTorch's module inputs: {error}"))]
    known = {**LAYERS, **LOSSES}
    return [pytest.param(info, id=info.name) for info in module_db if info.name.removeprefix("nn.") in known]


@pytest.mark.parametrize("info", module_infos())
def test_module_info(info):
    rng = np.random.default_rng(0)
    name = info.name.removeprefix("nn.")
    cls = {**LAYERS, **LOSSES}[name]
    ran = left_out = 0
    for training in (True, False):
        torch.manual_seed(0)
        samples = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
        )
        step = -(-len(samples) // MOST_SAMPLES) | 1  # odd: the samples are products of pairs of choices
        for sample in samples[::step]:
            constructor, forward = sample.constructor_input, sample.forward_input
            if forward is None or set(constructor.kwargs) & NOT_TAKEN:
                left_out += 1
                continue
            theirs = info.module_cls(*constructor.args, **constructor.kwargs).double().train(training)
            ours = cls(*map(argument, constructor.args), **{k: argument(v) for k, v in constructor.kwargs.items()})
            ours.double().train(training)
            if getattr(cls, "lazy", False):  # the first call creates the parameters
                theirs(*forward.args), ours(*map(to_dc, forward.args))
            copy_state(theirs, ours)
            ran += 1
            inputs = [fresh(x) for x in forward.args]
            compare(ours, theirs, inputs, rng, forward.kwargs)
    assert ran >= 4 and not left_out, f"{ran} samples ran, {left_out} were left out"
