"""The kernels of recurrent layers: what the reference computes, on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore.config import settings
from deepcore.nn.utils import rnn

#: Sequences, their greatest length, features and units: one of each, panels with a rest, several blocks of rows.
SHAPES = [(1, 3, 2, 1), (5, 4, 3, 33), (50, 3, 1, 70), (100, 2, 4, 160)]
LAYERS = {
    "rnn": lambda *sizes, **kw: dc.nn.RNN(*sizes, **kw),
    "relu": lambda *sizes, **kw: dc.nn.RNN(*sizes, nonlinearity="relu", **kw),
    "lstm": lambda *sizes, **kw: dc.nn.LSTM(*sizes, **kw),
    "gru": lambda *sizes, **kw: dc.nn.GRU(*sizes, **kw),
    "gru without bias": lambda *sizes, **kw: dc.nn.GRU(*sizes, bias=False, **kw),
}


def results(layer, x, lengths, pulls) -> list[np.ndarray]:
    """Outputs, final states and all gradients."""
    x = dc.tensor(x, requires_grad=True)
    layer.zero_grad()
    given = x if lengths is None else rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    out, state = layer(given)
    out = out if lengths is None else rnn.pad_packed_sequence(out)[0]
    found = [out, *(state if isinstance(state, tuple) else (state,))]
    sum(
        [(t * dc.tensor(pulls.standard_normal(t.shape), dtype=t.dtype)).sum() for t in found], start=dc.tensor(0.0)
    ).backward()
    return [t.detach().numpy() for t in (*found, x.grad, *(p.grad for p in layer.parameters()))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_kernels_give_what_the_reference_gives_on_any_number_of_threads(name, shape, packed, dtype, monkeypatch):
    batch, time, features, width = shape
    rng = np.random.default_rng(batch)
    dc.manual_seed(0)
    layer = LAYERS[name](features, width, bidirectional=True, dtype=dtype)
    x = rng.standard_normal((time, batch, features)).astype(dtype)
    lengths = rng.integers(1, time + 1, batch) if packed else None

    def run(threads: int, kernels: bool):
        monkeypatch.setattr(settings, "threads", threads)
        monkeypatch.setattr(settings, "kernels", kernels)
        return results(layer, x, lengths, np.random.default_rng(1))

    two, one, reference = run(2, True), run(1, True), run(1, False)
    assert [a.tobytes() for a in one] == [a.tobytes() for a in two]
    tolerance = 3e-5 if dtype == "float32" else 1e-12
    for a, b in zip(two, reference):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
