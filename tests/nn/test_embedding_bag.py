"""EmbeddingBag: offsets, empty bags, both backends, errors, and training as one program."""

from __future__ import annotations

import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding_idx", [None, 1])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_torchs(mode, padding_idx, last, backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    indices, offsets = rng.integers(0, 4, 9), [0, 3, 3, 4] + [9] * last
    options = {"mode": mode, "padding_idx": padding_idx, "include_last_offset": last}
    theirs = torch.nn.EmbeddingBag(4, 3, **options).double()
    ours = nn.EmbeddingBag(4, 3, **options, backend=backend, dtype=dc.float64)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    factors = rng.standard_normal(9) if mode == "sum" else None
    a = None if factors is None else dc.tensor(factors, backend=backend, requires_grad=True)
    b = None if factors is None else torch.tensor(factors, requires_grad=True)
    got = ours(dc.tensor(indices, backend=backend), dc.tensor(offsets, backend=backend), a)
    expected = theirs(torch.tensor(indices), torch.tensor(offsets), b)
    np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), 1e-7, 1e-12)
    (got**2).sum().backward()
    (expected**2).sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), 1e-7, 1e-12)
    if factors is not None:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), 1e-7, 1e-12)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda w: F.embedding_bag(dc.tensor([0]), w), ShapeError, r"offsets \(B,\)"),
        (lambda w: F.embedding_bag(dc.tensor([0]), w, dc.tensor([1])), IndexRangeError, "begin at 0"),
        (lambda w: F.embedding_bag(dc.tensor([4]), w, dc.tensor([0])), IndexRangeError, "4"),
        (lambda w: F.embedding_bag(dc.tensor([[0.5]]), w), DTypeError, "integer"),
        (lambda w: F.embedding_bag(dc.tensor([[0]]), w, mode="min"), ArgumentError, "'min'"),
        (lambda w: F.embedding_bag(dc.tensor([[0]]), w, per_sample_weights=dc.ones(1, 1)), ArgumentError, "sum"),
        (lambda w: F.embedding_bag(dc.tensor([[0]]), w, max_norm=1.0), ArgumentError, "max_norm"),
        (lambda w: nn.EmbeddingBag(4, 2, padding_idx=4), IndexRangeError, "EmbeddingBag's padding_idx"),
    ],
)
def test_bags_refuse(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call(dc.ones(4, 2))


def test_empty_inputs(backend):
    weight = dc.ones(4, 2, backend=backend)
    for mode in ("sum", "mean", "max"):
        out = F.embedding_bag(dc.zeros(3, 0, dtype=dc.int64, backend=backend), weight, mode=mode)
        assert out.tolist() == [[0, 0]] * 3


@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_compiled(mode):
    layer = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0)

    def step(indices, offsets):
        layer.zero_grad()
        loss = (layer(indices, offsets) ** 2).sum()
        loss.backward()
        return loss.detach()

    compiled = dc.compile(step)
    for seed in range(4):
        indices = dc.tensor(np.random.default_rng(seed).integers(0, 6, 8))
        offsets = dc.tensor([0, seed, 5])
        expected, gradient = step(indices, offsets).item(), layer.weight.grad.tolist()
        assert compiled(indices, offsets).item() == expected and layer.weight.grad.tolist() == gradient
        assert math.isfinite(expected)
    assert sum(map(len, compiled._cache.values())) == 1 and not compiled.faults


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_embeddings_with_a_largest_norm_are_torchs(norm_type, backend):
    """Rows that are looked up are shortened in place, others kept; on the CPU also by a program."""
    torch = pytest.importorskip("torch")
    theirs = torch.nn.Embedding(6, 3, max_norm=0.8, norm_type=norm_type).double()
    ours = nn.Embedding(6, 3, max_norm=0.8, norm_type=norm_type, backend=backend, dtype=dc.float64)
    ours.load_state_dict({name: t.detach().numpy() for name, t in theirs.state_dict().items()})
    forward = ours
    if backend == "cpu" and threadpool.can_prepare():  # on CUDA the check of the indices cannot be captured
        forward = dc.compile(lambda x: ours(x).detach())
    for i, run in enumerate((ours, forward, forward, forward)):
        indices = [i, 2, i + 1]
        got, expected = run(dc.tensor(indices, backend=backend)), theirs(torch.tensor(indices))
        np.testing.assert_allclose(got.detach().numpy(), expected.detach().numpy(), 1e-12)
        np.testing.assert_allclose(ours.weight.detach().numpy(), theirs.weight.detach().numpy(), 1e-12)
