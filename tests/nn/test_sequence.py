"""PaddedSequential and SequencePool: a padded batch gives what each sequence gives alone."""

from __future__ import annotations

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

LENGTHS = (5, 1, 3, 7)
TOKENS = np.array([[1 + (3 * n + t) % 8 if t < length else 0 for t in range(7)] for n, length in enumerate(LENGTHS)])


def same(a, b) -> bool:
    return np.array_equal(a.detach().numpy(), b.detach().numpy())


def recurrent(kind: str, **more):
    return lambda: getattr(nn, kind)(4, 6, batch_first=True, **more)


LAYERS = {
    "rnn": recurrent("RNN", bidirectional=True),
    "lstm": recurrent("LSTM"),
    "lstm both ways": recurrent("LSTM", num_layers=2, bidirectional=True),
    "lstm projected": recurrent("LSTM", proj_size=3, bidirectional=True),
    "gru": recurrent("GRU", num_layers=2, bidirectional=True, bias=False),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True),
    "transformer, norm first": lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True),
}


@pytest.mark.parametrize("mode", ["mean", "max", "last"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_padding_changes_nothing(make, mode, backend):
    with dc.use_backend(backend):
        dc.manual_seed(0)
        net = nn.PaddedSequential(nn.Embedding(9, 4, padding_idx=0), make(), nn.SequencePool(mode))
        out = net(dc.tensor(TOKENS))
        alone = [net(dc.tensor(row[None, :length])) for row, length in zip(TOKENS, LENGTHS)]
        for row, expected in zip(out, alone):
            np.testing.assert_allclose(row.detach().numpy(), expected[0].detach().numpy(), 1e-5, 1e-6)
        weights = dc.tensor(np.random.default_rng(1).standard_normal(out.shape).astype(np.float32))
        (out * weights).sum().backward()
        gradients = [p.grad.numpy() for p in net.parameters()]
        net.zero_grad()
        sum((a * w).sum() for a, w in zip(alone, weights)).backward()
        for gradient, parameter in zip(gradients, net.parameters()):
            np.testing.assert_allclose(gradient, parameter.grad.numpy(), 1e-4, 1e-5)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_both_directions_are_those_of_a_packed_sequence(kind, backend):
    with dc.use_backend(backend):
        layer = getattr(nn, kind)(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        net = nn.PaddedSequential(nn.Embedding(9, 4, padding_idx=0), layer)
        x = dc.tensor(TOKENS)
        packed = pack_padded_sequence(net[0](x), LENGTHS, batch_first=True, enforce_sorted=False)
        expected, _ = pad_packed_sequence(layer(packed)[0], batch_first=True)
        counts = (TOKENS != 0)[:, :, None]
        np.testing.assert_allclose(
            net(x).detach().numpy() * counts, expected.detach().numpy() * counts, rtol=1e-5, atol=1e-6
        )


def test_dropout_between_layers_acts_in_training_alone():
    layer = nn.GRU(4, 6, num_layers=2, dropout=0.5, bidirectional=True, batch_first=True)
    net = nn.PaddedSequential(nn.Embedding(9, 4, padding_idx=0), layer)
    x = dc.tensor(TOKENS)
    assert not same(net(x), net(x))
    net.eval()
    assert same(net(x), net(x))


@pytest.mark.parametrize("mode", ["mean", "max", "last"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_steps_are_programs(make, mode):
    """No length is read by Python, so a step compiles, without a warning and to the same bits."""
    nets = []
    for _ in range(2):
        dc.manual_seed(0)
        nets.append(nn.PaddedSequential(nn.Embedding(9, 4, padding_idx=0), make(), nn.SequencePool(mode)))

    def step_of(net):
        optimizer = dc.optim.SGD(net.parameters(), lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = (net(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        return step

    program, step = dc.compile(step_of(nets[0])), step_of(nets[1])
    for shift in range(4):
        x = dc.tensor(np.roll(TOKENS, shift, 0))
        assert program(x).item() == step(x).item()
    assert all(same(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters()))


def test_floats_have_no_padding(backend):
    with dc.use_backend(backend):
        net = nn.PaddedSequential(nn.LSTM(2, 3, batch_first=True), nn.SequencePool("last"), nn.Linear(3, 1))
        x = dc.zeros(2, 5, 2)
        output, _ = net[0](x)
        assert same(net(x), net[2](output[:, -1]))


def test_pools(backend):
    x = np.random.default_rng(0).standard_normal((4, 7, 3)).astype(np.float32)
    data, padding = dc.tensor(x, backend=backend), dc.tensor(TOKENS == 0, backend=backend)
    for mode, pool in (("mean", np.mean), ("max", np.max), ("last", lambda a, axis: a[-1])):
        layer = nn.SequencePool(mode)
        expected = [pool(row[:length], axis=0) for row, length in zip(x, LENGTHS)]
        np.testing.assert_allclose(layer(data, padding).numpy(), expected, 1e-5, 1e-7)
        np.testing.assert_allclose(layer(data).numpy(), [pool(row, axis=0) for row in x], 1e-5, 1e-7)
        nothing = layer(data, dc.ones(4, 7, dtype=dc.bool, backend=backend)).numpy()
        assert (nothing == (-np.inf if mode == "max" else 0)).all()


def test_saved_and_loaded(tmp_path):
    layers = (
        nn.Embedding(9, 4, padding_idx=0),
        nn.LSTM(4, 3, bidirectional=True, batch_first=True),
        nn.SequencePool("max"),
    )
    net = nn.PaddedSequential(*layers, nn.Linear(6, 2))
    net.save(tmp_path / "net.safetensors")
    again = nn.Sequential.load(tmp_path / "net.safetensors")
    assert type(again) is nn.PaddedSequential and again[2].mode == "max"
    assert same(again(dc.tensor(TOKENS)), net(dc.tensor(TOKENS)))
    assert "(2, 7, 6)" in str(net.summary((7,), dtype=dc.int64, batch_size=2))


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nn.SequencePool("mena"), ArgumentError, "did you mean 'mean'"),
        (lambda: nn.SequencePool()(dc.zeros(2, 3)), ShapeError, r"\(N, L, d\)"),
        (lambda: nn.SequencePool()(dc.zeros(2, 0, 3)), ShapeError, r"\(N, L, d\)"),
        (lambda: nn.SequencePool()(dc.zeros(2, 3, 4), dc.zeros(2, 4, dtype=dc.bool)), ShapeError, r"\(2, 3\) of bool"),
        (lambda: nn.SequencePool()(dc.zeros(2, 3, 4), dc.zeros(2, 3)), ShapeError, "float32"),
        (lambda: nn.PaddedSequential(nn.LSTM(4, 3))(dc.zeros(2, 3, 4)), ArgumentError, r"LSTM\(…, batch_first=True\)"),
        (
            lambda: nn.PaddedSequential(nn.TransformerEncoderLayer(4, 2))(dc.zeros(2, 3, 4)),
            ArgumentError,
            "TransformerEncoderLayer is not batch_first",
        ),
        (lambda: nn.PaddedSequential(nn.Embedding(3, 2, padding_idx=0))(dc.zeros(2, 3)), DTypeError, "float32"),
        (
            lambda: nn.PaddedSequential(
                nn.Embedding(3, 2, padding_idx=0), nn.LSTM(3, 3, batch_first=True, bidirectional=True)
            )(dc.zeros(2, 3, dtype=dc.int64)),
            ShapeError,
            "3 features",
        ),
    ],
)  # fmt: skip
def test_errors(call, error, says):
    with pytest.raises(error, match=says):
        call()
