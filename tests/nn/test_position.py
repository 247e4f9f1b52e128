"""Positional encodings: their formulas, offsets, precision, and training as one program."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.kernels.runtime import threadpool


def angles(length, width, base, offset=0):
    return (offset + np.arange(length))[:, None] * base ** (-2 * np.arange(width // 2) / width)


@pytest.mark.parametrize("offset", [0, 7])
def test_sinusoidal(offset, backend):
    layer = nn.SinusoidalPositionalEncoding(6, base=50.0)
    out = layer(dc.zeros(2, 4, 6, dtype=dc.float64, backend=backend), offset).numpy()
    theta = angles(4, 6, 50.0, offset)
    np.testing.assert_allclose(out[1, :, ::2], np.sin(theta), 1e-12, 1e-12)
    np.testing.assert_allclose(out[0, :, 1::2], np.cos(theta), 1e-12, 1e-12)


def test_learned(backend):
    layer = nn.LearnedPositionalEncoding(8, 3, backend=backend)
    x = dc.ones(2, 4, 3, backend=backend)
    out = layer(x, offset=2)
    np.testing.assert_allclose(out.detach().numpy()[1], 1 + layer.weight.detach().numpy()[2:6])
    out.sum().backward()
    assert layer.weight.grad.sum(1).tolist() == [0, 0, 6, 6, 6, 6, 0, 0]
    assert abs(nn.LearnedPositionalEncoding(100, 100).weight.detach().numpy().std() - 0.02) < 0.001


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary(interleaved, backend):
    """Complex multiplication by e^iθ; products depend on distances alone; gradients rotate back."""
    rng = np.random.default_rng(0)
    layer = nn.RotaryEmbedding(8, base=100.0, interleaved=interleaved)
    values = rng.standard_normal((2, 5, 8))
    x = dc.tensor(values, backend=backend, requires_grad=True)
    out = layer(x, offset=3)
    parts = (slice(None, None, 2), slice(1, None, 2)) if interleaved else (slice(4), slice(4, None))
    turned = (values[..., parts[0]] + 1j * values[..., parts[1]]) * np.exp(1j * angles(5, 8, 100.0, 3))
    np.testing.assert_allclose(out.detach().numpy()[..., parts[0]], turned.real, 1e-12, 1e-12)
    np.testing.assert_allclose(out.detach().numpy()[..., parts[1]], turned.imag, 1e-12, 1e-12)
    (out * out).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * values, 1e-12, 1e-12)
    near, far = ((layer(x, n) @ layer(x, n).transpose(-1, -2)).detach().numpy() for n in (0, 100))
    np.testing.assert_allclose(near, far, 1e-9, 1e-9)


def test_far_positions_are_exact_in_float32():
    out = nn.RotaryEmbedding(4)(dc.ones(1, 4), offset=1_000_003).numpy()[0]
    theta = angles(1, 4, 10000.0, 1_000_003)[0]
    np.testing.assert_allclose(out[:2], np.cos(theta) - np.sin(theta), 1e-6, 1e-6)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.RotaryEmbedding(5), ArgumentError, "dim=5"),
        (lambda: nn.SinusoidalPositionalEncoding(3), ArgumentError, "d_model=3"),
        (lambda: nn.RotaryEmbedding(4, base=0), ArgumentError, "base > 0"),
        (lambda: nn.RotaryEmbedding(4)(dc.ones(3, 6)), ShapeError, r"\(\*, L, 4\)"),
        (lambda: nn.RotaryEmbedding(4)(dc.ones(3, 4).long()), DTypeError, "int64"),
        (lambda: nn.LearnedPositionalEncoding(4, 2)(dc.ones(5, 2)), ShapeError, "max_len=5"),
    ],
)
def test_positions_refuse(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
@pytest.mark.parametrize(
    "layer",
    [nn.SinusoidalPositionalEncoding(4), nn.LearnedPositionalEncoding(9, 4), nn.RotaryEmbedding(4)],
    ids=lambda layer: type(layer).__name__,
)
def test_compiled(layer):
    def forward(x):
        return (layer(x) * x).sum().detach()

    compiled = dc.compile(forward)
    for _ in range(4):
        x = dc.randn(2, 5, 4)
        assert compiled(x).item() == forward(x).item()
    assert sum(map(len, compiled._cache.values())) == 1 and not compiled.faults
