"""The cache of keys and values: generation with it equals generation without, as one program."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, GradientError, IndexRangeError, ShapeError
from deepcore.kernels.runtime import threadpool

BATCH, LENGTH, WIDTH, HEADS, TOKENS = 2, 7, 8, 2, 11


class Decoder(nn.Module):
    """Tokens to scores of the next ones."""

    def __init__(self, backend="cpu", **options):
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH, backend=backend)
        self.places = nn.Embedding(LENGTH, WIDTH, backend=backend)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, backend=backend, **options) for _ in range(2)
        )
        self.head = nn.Linear(WIDTH, TOKENS, backend=backend)
        self.eval()

    def forward(self, tokens, caches=None, position=0):
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.places(position + dc.arange(length, backend=tokens.backend))
        mask = nn.Transformer.generate_square_subsequent_mask(length, backend=tokens.backend)
        for i, block in enumerate(self.blocks):
            x = block(x, mask, is_causal=True) if caches is None else block(x, cache=caches[i], position=position)
        return self.head(x)

    def caches(self, **options):
        options = {"backend": self.head.weight.backend.name, **options}
        return [nn.KVCache(BATCH, HEADS, LENGTH, WIDTH // HEADS, **options) for _ in self.blocks]


def tokens_on(backend):
    return dc.tensor(np.random.default_rng(0).integers(0, TOKENS, (BATCH, LENGTH)), backend=backend)


@pytest.mark.parametrize("options", [{"norm_first": True, "activation": "gelu"}, {"bias": False}])
@pytest.mark.parametrize("sizes", [(1,) * LENGTH, (3, 1, 1, 2), (LENGTH,)])
def test_scores_are_those_without_a_cache(sizes, options, backend):
    model, tokens = Decoder(backend, **options), tokens_on(backend)
    with dc.no_grad():
        expected, caches, position, parts = model(tokens).numpy(), model.caches(), 0, []
        for size in sizes:
            parts.append(model(tokens[:, position : position + size], caches, position).numpy())
            position += size
    np.testing.assert_allclose(np.concatenate(parts, 1), expected, 1e-5, 1e-6)


@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
def test_one_program_serves_all_steps():
    model, tokens = Decoder(), tokens_on("cpu")
    caches = model.caches()
    step = dc.compile(lambda token, position: model(token, caches, position))
    with dc.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = model(tokens).numpy()
        for _ in range(2):  # the second sequence starts where the first one's keys still are
            eager = model.caches()
            for t in range(LENGTH):
                scores = step(tokens[:, t : t + 1], dc.tensor(t)).numpy()
                np.testing.assert_allclose(scores[:, 0], expected[:, t], 1e-5, 1e-6)
                assert scores.tobytes() == model(tokens[:, t : t + 1], eager, dc.tensor(t)).numpy().tobytes()
                assert (step.traces, sum(map(len, step._cache.values()))) == (1, 1)
        before = [b.numpy().copy() for cache in caches for b in cache.buffers()]
        with pytest.raises(IndexRangeError):
            step(tokens[:, :1], dc.tensor(LENGTH))
    assert not step.faults
    assert all((a == b.numpy()).all() for a, b in zip(before, (b for cache in caches for b in cache.buffers())))


def test_a_sequence_may_go_back(backend):
    model, tokens = Decoder(backend), tokens_on(backend)
    other, caches = tokens.clone(), model.caches()
    other[:, 3:] = (other[:, 3:] + 1) % TOKENS
    with dc.no_grad():
        model(tokens, caches, 0)
        again = model(other[:, 3:5], caches, 3)
        np.testing.assert_allclose(again.numpy(), model(other[:, :5])[:, 3:].numpy(), 1e-5, 1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
def test_weights_and_a_stack_with_memory(batch_first):
    rng = np.random.default_rng(0)
    shape = (BATCH, 4, WIDTH) if batch_first else (4, BATCH, WIDTH)
    x, memory = (dc.tensor(rng.standard_normal(shape)) for _ in range(2))
    layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, batch_first=batch_first, dtype="float64").eval()
    decoder, attention = nn.TransformerDecoder(layer, 2), layer.self_attn
    *caches, cache = (nn.KVCache(BATCH, HEADS, 6, WIDTH // HEADS, dtype="float64") for _ in range(3))
    mask = nn.Transformer.generate_square_subsequent_mask(4, dtype="float64")
    with dc.no_grad():
        expected, (_, weights) = decoder(x, memory, mask, tgt_is_causal=True), attention(x, x, x, attn_mask=mask)
        for t in range(4):
            now = (slice(None), slice(t, t + 1)) if batch_first else slice(t, t + 1)
            out = decoder(x[now], memory, caches=caches, position=t)
            np.testing.assert_allclose(out.numpy(), expected[now].numpy(), 1e-9)
            _, row = attention(x[now], x[now], x[now], cache=cache, position=t)
            np.testing.assert_allclose(row[:, 0, :4].numpy(), weights[:, t].numpy(), 1e-9)
            assert not row[:, 0, t + 1 :].numpy().any()


def test_an_encoder_has_a_cache_for_each_layer(backend):
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, backend=backend)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH, backend=backend)).eval()
    x = dc.tensor(np.random.default_rng(0).standard_normal((BATCH, 3, WIDTH), dtype=np.float32), backend=backend)
    caches = [nn.KVCache(BATCH, HEADS, 3, WIDTH // HEADS, backend=backend) for _ in range(2)]
    mask = nn.Transformer.generate_square_subsequent_mask(3, backend=backend)
    with dc.no_grad():
        parts = [encoder(x[:, t : t + 1], caches=caches, position=t).numpy() for t in range(3)]
        np.testing.assert_allclose(np.concatenate(parts, 1), encoder(x, mask, is_causal=True).numpy(), 1e-5, 1e-6)
        with pytest.raises(ArgumentError, match=r"(?s)a cache for each layer.*2.*1"):
            encoder(x, caches=caches[:1], position=0)


def test_the_cache_is_no_part_of_a_state_dict_and_moves_with_its_owner(backend):
    owner = nn.Sequential(nn.Linear(2, 2))
    owner.cache = nn.KVCache(1, 2, 3, 4)
    assert list(owner.state_dict()) == ["0.weight", "0.bias"]
    owner.to(backend).double()
    assert owner.cache.keys.backend is dc.get_backend(backend) and owner.cache.values.dtype == dc.float64
    assert repr(owner.cache) == "KVCache(1, 2, 3, 4)"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((2, (1, 2, 2, 4), (1, 2, 2, 4)), IndexRangeError, r"(?s)has 3 positions.*2 … 3.*length=4"),
        ((-1, (1, 2, 1, 4), (1, 2, 1, 4)), IndexRangeError, "has 3 positions"),
        ((dc.tensor(3), (1, 2, 1, 4), (1, 2, 1, 4)), IndexRangeError, "index 3"),
        ((dc.tensor(-1), (1, 2, 1, 4), (1, 2, 1, 4)), IndexRangeError, "index -1"),
        ((dc.tensor([0, 1]), (1, 2, 1, 4), (1, 2, 1, 4)), ShapeError, "at one position"),
        ((0, (1, 2, 4, 4), (1, 2, 4, 4)), ShapeError, r"(?s)other keys.*L ≤ 3"),
        ((0, (1, 2, 1, 4), (1, 1, 1, 4)), ShapeError, "other values"),
        ((0, (1, 2, 2, 4), (1, 2, 1, 4)), ShapeError, "every key has one value"),
    ],
)
def test_refused(arguments, error, message):
    position, *shapes = arguments
    with pytest.raises(error, match=message):
        nn.KVCache(1, 2, 3, 4).update(position, *(dc.ones(shape) for shape in shapes))


def test_recorded_keys_and_other_dtypes_are_refused():
    cache, k = nn.KVCache(1, 2, 3, 4), dc.ones(1, 2, 1, 4)
    with pytest.raises(GradientError, match=r"no_grad\(\)"):
        cache.update(0, k.clone().requires_grad_(), k)
    with pytest.raises(DTypeError, match=r"dtype=dc\.float64"):
        cache.update(0, k.double(), k.double())
    with pytest.raises(ArgumentError, match="heads"):
        nn.KVCache(1, 0, 3, 4)


@pytest.mark.parametrize("kwargs", [{}, {"position": 0, "key_padding_mask": dc.zeros(2, 1).bool()}])
def test_layers_refuse_a_cache_with_other_masks(kwargs):
    layer, x = nn.MultiheadAttention(4, 2), dc.ones(1, 2, 4)
    with pytest.raises(ArgumentError, match="a cache goes with a position"):
        layer(x, x, x, cache=nn.KVCache(2, 2, 3, 2), **kwargs)
