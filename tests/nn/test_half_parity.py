"""Layers and losses in float16 and bfloat16 against PyTorch's in the same dtype, and against float32.

Every registered layer on its own examples, converted, and under autocast. What is summed may be as far from the result in float32 as PyTorch's is, twice;
layers without parameters differ from PyTorch's by two units in the last place.
"""

from __future__ import annotations

import numpy as np
import pytest
from nn_examples import cases, flat, make_input

import deepcore as dc
from deepcore.nn.registry import LAYERS, LOSSES

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning"),
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning"),
    pytest.mark.filterwarnings("ignore:dropout option adds dropout:UserWarning"),
]
HALVES = ("float16", "bfloat16")


def arguments(values):
    return {n: torch.tensor(v) if isinstance(v, tuple) and isinstance(v[0], float) else v for n, v in values.items()}


def random(cls, arguments, training) -> bool:
    """Whether it draws random numbers."""
    dropout = "Dropout" in cls.__name__ and 0 < arguments.get("p", 0.5) < 1
    return training and (cls.__name__ == "RReLU" or dropout or arguments.get("dropout", 0) > 0)


def run(lib, module, arrays, dtype, cotangents):
    """Outputs, and gradients of inputs and parameters, in float32."""
    inputs = []
    for array in arrays:
        x = lib.tensor(array.astype(np.float32) if array.dtype.kind == "f" else array)
        inputs.append(x.to(getattr(lib, dtype)).detach().requires_grad_() if array.dtype.kind == "f" else x)
    outputs = flat(module(*inputs))
    live = [t for t in outputs if t.requires_grad]
    if live:
        total = sum((t.float() * lib.tensor(c)).sum() for t, c in zip(live, cotangents(live)))
        total.backward()
    leaves = [*(x for x in inputs if x.requires_grad), *module.parameters()]
    gradients = [t.grad for t in leaves]
    results = [t for t in outputs if str(t.dtype).rpartition(".")[2].startswith(("float", "bfloat"))]
    return results, gradients


def distance(a, b) -> float:
    """The largest difference, beside the largest element."""
    if a is None or b is None or not b.numel():
        return 0.0
    a, b = (t.detach().float().numpy().astype(np.float64) for t in (a, b))
    assert a.shape == b.shape and np.array_equal(np.isnan(a), np.isnan(b))
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | np.isnan(a), 0, np.abs(a - b))
    return float(difference.max() / max(np.nanmax(np.abs(b)), 1e-3))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("cls, example", cases({**LAYERS, **LOSSES}))
def test_in_16_bits(cls, example, training, dtype):
    oracle = getattr(torch.nn, cls.__name__, None) or pytest.skip(f"PyTorch has no {cls.__name__}")
    if random(cls, example.arguments, training):
        pytest.skip("the draws differ")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    own = cls(**example.arguments)
    theirs, exact = (oracle(**arguments(example.arguments)) for _ in range(2))
    state = {
        name: t.to(getattr(torch, dtype)).float() for name, t in theirs.state_dict().items() if t.is_floating_point()
    }
    state = theirs.state_dict() | state
    own.load_state_dict({name: t.numpy() for name, t in state.items()})
    for module in (theirs, exact):
        module.load_state_dict(state)
    own.train(training).to(getattr(dc, dtype))
    theirs.train(training).to(getattr(torch, dtype))
    exact.train(training)
    arrays = [make_input(kind, rng) for kind in example.inputs]
    rounded = [torch.tensor(a).to(getattr(torch, dtype)).float().numpy() if a.dtype.kind == "f" else a for a in arrays]

    def cotangents(outputs):
        draws = np.random.default_rng(1)
        return [draws.standard_normal(tuple(t.shape)).astype("f") for t in outputs]

    outputs, gradients = run(dc, own, arrays, dtype, cotangents)
    kept = "Loss" in cls.__name__ or all(t.dtype == getattr(dc, dtype) for t in outputs)
    assert kept, [t.dtype for t in outputs]
    try:
        want, want_gradients = run(torch, exact, rounded, "float32", cotangents)
    except RuntimeError:
        pytest.skip("PyTorch has no gradient")
    try:
        half, half_gradients = run(torch, theirs, arrays, dtype, cotangents)
        assert [str(t.dtype).removeprefix("torch.") for t in half] == [
            dc.backend.dtypes.name_of(t.dtype) for t in outputs
        ]
    except (RuntimeError, NotImplementedError):  # PyTorch has no kernel for it
        half, half_gradients = [None] * len(want), [None] * len(want_gradients)
    eps = dc.finfo(getattr(dc, dtype)).eps
    for mine, other, truth in zip(
        [*outputs, *gradients], [*half, *half_gradients], [*want, *want_gradients], strict=True
    ):
        if truth is None:
            continue
        least = 8 * eps if len(list(theirs.parameters())) > 4 else 3 * eps
        assert distance(mine, truth) <= max(least, 2 * distance(other, truth))
    if not list(theirs.parameters()) and cls.__name__ in LAYERS and "Norm" not in cls.__name__:
        for mine, other in zip(outputs, half):
            if other is not None:
                close = other.detach().float().numpy()
                atol = eps / 16 * np.nanmax(np.abs(close), initial=0)  # of sums that cancel
                np.testing.assert_allclose(mine.detach().float().numpy(), close, 2 * eps, atol)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("cls, example", cases({**LAYERS, **LOSSES}))
def test_under_autocast(cls, example, training):
    """The dtypes of PyTorch's results, and nearly its numbers; parameters have float32 gradients."""
    oracle = getattr(torch.nn, cls.__name__, None) or pytest.skip(f"PyTorch has no {cls.__name__}")
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    own = cls(**example.arguments).train(training)
    theirs = oracle(**arguments(example.arguments)).train(training)
    own.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    arrays = [make_input(kind, rng) for kind in example.inputs]
    arrays = [a.astype("f") if a.dtype.kind == "f" else a for a in arrays]
    with torch.autocast("cpu", torch.bfloat16):
        want = flat(theirs(*map(torch.tensor, arrays)))
    with dc.autocast("cpu", dc.bfloat16):
        found = flat(own(*map(dc.tensor, arrays)))
    for i, (mine, other) in enumerate(zip(found, want, strict=True)):
        cells = cls.__name__ == "LSTM" and i == 2  # float32 where PyTorch has no fused kernel, as with projections
        assert cells or dc.backend.dtypes.name_of(mine.dtype) == str(other.dtype).removeprefix("torch.")
        if not random(cls, example.arguments, training):
            assert distance(mine, other) <= 0.03
    live = [t for t in found if t.requires_grad]
    if live:
        sum(t.float().sum() for t in live).backward()
        assert {p.grad.dtype for p in own.parameters() if p.grad is not None} <= {dc.float32}
