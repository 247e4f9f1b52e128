"""Attention and transformers: PyTorch's numbers and errors, both backends, and training as one program."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore import nn
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.kernels.runtime import threadpool
from deepcore.nn import functional as F

RTOL, ATOL = 1e-7, 1e-12


def leaves(*arrays, backend="cpu"):
    return [dc.tensor(a, backend=backend, requires_grad=True) for a in arrays]


def close(ours, theirs, rtol=RTOL, atol=ATOL):
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol, atol)


def masked(rng, *shape):
    """A bool mask with a row that is all False."""
    mask = rng.random(shape) < 0.6
    mask[..., 0, :] = False
    return mask


CASES = {
    "plain": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), None, {}),
    "matrices": ((4, 5), (6, 5), (6, 7), None, {}),
    "3-d": ((2, 4, 5), (2, 6, 5), (2, 6, 7), None, {"scale": 0.7}),
    "5-d": ((2, 1, 2, 4, 5), (2, 3, 2, 6, 5), (1, 3, 2, 6, 7), None, {}),
    "causal, more keys": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), None, {"is_causal": True}),
    "causal, fewer keys": ((2, 3, 6, 5), (2, 3, 4, 5), (2, 3, 4, 7), None, {"is_causal": True}),
    "bool": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), (bool, 4, 6), {}),
    "bool of keys": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), (bool, 2, 1, 1, 6), {}),
    "bool of heads": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), (bool, 2, 3, 4, 6), {}),
    "added": ((2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 7), (float, 3, 4, 6), {}),
    "grouped": ((2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 7), None, {"enable_gqa": True, "is_causal": True}),
    "grouped and masked": ((2, 4, 3, 5), (2, 2, 6, 5), (2, 2, 6, 7), (bool, 2, 4, 3, 6), {"enable_gqa": True}),
    "one query": ((2, 3, 1, 5), (2, 3, 6, 5), (2, 3, 6, 7), None, {}),
    "no query": ((2, 3, 0, 5), (2, 3, 6, 5), (2, 3, 6, 7), None, {}),
    "no key": ((2, 3, 4, 5), (2, 3, 0, 5), (2, 3, 0, 7), None, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_is_torchs(case, backend):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    *shapes, kind, kwargs = CASES[case]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    mask = None
    if kind is not None:
        mask = masked(rng, *kind[1:])
        mask = mask if kind[0] is bool else np.where(mask, rng.standard_normal(mask.shape), -math.inf)
    ours, theirs = leaves(*arrays, backend=backend), [torch.tensor(a, requires_grad=True) for a in arrays]
    masks = [None, None]
    if mask is not None:
        masks = [dc.tensor(mask, backend=backend), torch.tensor(mask)]
        if mask.dtype != bool:
            ours.append(masks[0].requires_grad_())
            theirs.append(masks[1].requires_grad_())
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = torch.nn.functional.scaled_dot_product_attention(*theirs[:3], masks[1], **kwargs)
    got = F.scaled_dot_product_attention(*ours[:3], masks[0], **kwargs)
    assert got.shape == tuple(expected.shape)
    close(got, expected)
    cotangent = rng.standard_normal(got.shape)
    got.backward(dc.tensor(cotangent, backend=backend))
    expected.backward(torch.tensor(cotangent))
    for a, b in zip(ours, theirs):
        close(a.grad, b.grad)


def test_a_query_that_attends_to_nothing_gives_zero_and_nan_stays_nan(backend):
    q, k, v = leaves(np.ones((1, 2, 3)), np.ones((1, 4, 3)), np.ones((1, 4, 3)), backend=backend)
    mask = dc.tensor([[False] * 4, [True] * 4], backend=backend)
    out = F.scaled_dot_product_attention(q, k, v, mask)
    out.sum().backward()
    assert out.tolist() == [[[0] * 3, [1] * 3]] and np.isfinite(q.grad.numpy()).all()
    bad = dc.tensor([[[1.0] * 3, [math.nan] * 3]], backend=backend)
    for kwargs in ({}, {"attn_mask": mask}, {"is_causal": True}):
        assert np.isnan(
            F.scaled_dot_product_attention(bad, bad, bad, **{**kwargs, **_short(kwargs)}).numpy()[0, 1]
        ).all()


def _short(kwargs):
    return {"attn_mask": kwargs["attn_mask"][:, :2]} if "attn_mask" in kwargs else {}


@pytest.mark.parametrize("dtype, rtol", [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_16_bits_are_computed_in_float32(dtype, rtol, backend):
    rng = np.random.default_rng(0)
    wide = [dc.tensor(rng.standard_normal((2, 8, 16)), dtype=dtype, backend=backend) for _ in range(3)]
    got = F.scaled_dot_product_attention(*wide, is_causal=True)
    assert got.dtype == wide[0].dtype
    exact = F.scaled_dot_product_attention(*(t.double() for t in wide), is_causal=True)
    np.testing.assert_allclose(got.double().numpy(), exact.numpy(), rtol, rtol)


def test_dropout_of_weights(backend):
    """Its mean is the result without, and what is dropped follows the seed."""
    q, k = dc.zeros(1, 200, 2, backend=backend), dc.zeros(1, 50, 2, backend=backend)
    v = dc.ones(1, 50, 1, backend=backend, requires_grad=True)
    dc.manual_seed(1)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
    dc.manual_seed(1)
    assert F.scaled_dot_product_attention(q, k, v, dropout_p=0.25).tolist() == out.tolist()
    assert abs(out.detach().numpy().mean() - 1) < 0.02 and out.detach().numpy().std() > 0.02
    out.sum().backward()
    assert abs(v.grad.numpy().mean() - 4) < 0.2
    assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).detach().numpy().any()


ONE = (2, 3, 4)


@pytest.mark.parametrize(
    "shapes, kwargs, error, message",
    [
        ([(4,), ONE, ONE], {}, ShapeError, r"vectors in rows.*\(4,\)"),
        ([ONE, (2, 3, 5), ONE], {}, ShapeError, r"different lengths.*key \(2, 3, 5\)"),
        ([ONE, ONE, (2, 5, 4)], {}, ShapeError, "one value"),
        ([ONE] * 3, {"attn_mask": dc.ones(3, 4)}, ShapeError, r"attn_mask does not broadcast.*\(3, 4\)"),
        ([ONE] * 3, {"attn_mask": dc.ones(3, 3, dtype=dc.int64)}, DTypeError, r"bool or float32.*int64.*\.bool\(\)"),
        ([ONE] * 3, {"attn_mask": dc.ones(3, 3), "is_causal": True}, ArgumentError, "not both"),
        ([ONE] * 3, {"dropout_p": 2.0}, ArgumentError, "probability"),
        ([ONE, (1, 3, 4), ONE], {"enable_gqa": True}, ShapeError, "do not divide"),
        ([(4, 3, 2), (3, 3, 2), (3, 3, 2)], {"enable_gqa": True}, ShapeError, "a divisor of 4"),
    ],
)
def test_attention_refuses(shapes, kwargs, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        F.scaled_dot_product_attention(*(dc.ones(*s) for s in shapes), **kwargs)


def test_attention_refuses_dtypes():
    x = dc.ones(2, 3)
    with pytest.raises(DTypeError, match=r"(?s)one floating dtype.*float64"):
        F.scaled_dot_product_attention(x, x.double(), x)
    with pytest.raises(DTypeError, match="int64"):
        F.scaled_dot_product_attention(x.long(), x.long(), x.long())
    with pytest.raises(DTypeError, match="takes tensors"):
        F.scaled_dot_product_attention([1.0], x, x)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.MultiheadAttention(4, 3), ArgumentError, "embed_dim=4, num_heads=3"),
        (lambda: nn.MultiheadAttention(4, 0), ArgumentError, "num_heads=0"),
        (lambda: nn.MultiheadAttention(4, 2, dropout=2), ArgumentError, "dropout=2"),
        (lambda: attend(attn_mask=dc.ones(3, 2)), ShapeError, r"attn_mask.*\(3, 3\) or \(4, 3, 3\)"),
        (lambda: attend(key_padding_mask=dc.ones(3, 2)), ShapeError, r"key_padding_mask.*\(2, 3\)"),
        (lambda: attend(attn_mask=dc.ones(3, 3).long()), DTypeError, r"attn_mask is bool.*int64"),
        (lambda: attend(is_causal=True), ArgumentError, "generate_square_subsequent_mask"),
        (lambda: attend(dc.ones(3, 2, 5)), ShapeError, r"MultiheadAttention.*\(\*, 4\).*where"),
        (lambda: attend(dc.ones(1, 3, 2, 4)), ShapeError, r"\(L, N, E\)"),
        (lambda: attend(dc.ones(3, 1, 4)), ShapeError, "batches of different sizes"),
        (lambda: nn.TransformerEncoderLayer(4, 2, activation="tanh"), ArgumentError, "one of: gelu, relu"),
        (lambda: nn.TransformerEncoder(3, 2), ArgumentError, "copies of a layer"),
        (lambda: nn.Transformer(4, 2, num_encoder_layers=10**9), ArgumentError, "at most"),
        (
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)(dc.ones(3, 5)),
            ShapeError,
            r"TransformerEncoder.layers.0.self_attn \(MultiheadAttention\)",
        ),
    ],
)
def test_layers_refuse(make, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        make()


def attend(query=None, **kwargs):
    x = dc.ones(3, 2, 4)
    return nn.MultiheadAttention(4, 2)(x if query is None else query, x, x, **kwargs)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 3, "vdim": 5}], ids=str)
def test_multihead_attention_is_torchs(batch_first, average, extra):
    """With both masks, per head, with weights and without."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    theirs = torch.nn.MultiheadAttention(4, 2, batch_first=batch_first, **extra).double()
    ours = nn.MultiheadAttention(4, 2, batch_first=batch_first, dtype=dc.float64, **extra)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    shapes = [(3, 2, 4), (5, 2, extra.get("kdim", 4)), (5, 2, extra.get("vdim", 4))]
    arrays = [rng.standard_normal((s[1], s[0], s[2]) if batch_first else s) for s in shapes]
    keys = np.array([[False] * 5, [False, True, False, True, False]])
    pairs = np.where(rng.random((4, 3, 5)) < 0.7, rng.standard_normal((4, 3, 5)), -math.inf)
    pairs[..., 0] = 0.0
    for need_weights in (True, False):
        a, b = leaves(*arrays), [torch.tensor(x, requires_grad=True) for x in arrays]
        options = {"need_weights": need_weights, "average_attn_weights": average}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # masks of two dtypes
            expected = theirs(*b, key_padding_mask=torch.tensor(keys), attn_mask=torch.tensor(pairs), **options)
        got = ours(*a, key_padding_mask=dc.tensor(keys), attn_mask=dc.tensor(pairs), **options)
        close(got[0], expected[0])
        assert (got[1] is None) == (not need_weights)
        if need_weights:
            close(got[1], expected[1])
        ours.zero_grad(), theirs.zero_grad()
        (got[0] ** 2).sum().backward()
        (expected[0] ** 2).sum().backward()
        for x, y in zip(a, b):
            close(x.grad, y.grad)
        for name, parameter in theirs.named_parameters():
            close(ours.get_parameter(name).grad, parameter.grad)


def test_layers_start_as_in_torch():
    layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
    bound = math.sqrt(6 / (64 + 192))
    values = layer.in_proj_weight.detach().numpy()
    assert 0.98 * bound < np.abs(values).max() <= bound and not layer.in_proj_bias.detach().numpy().any()
    assert not layer.out_proj.bias.detach().numpy().any() and layer.bias_k.detach().numpy().any()
    assert np.abs(layer.out_proj.weight.detach().numpy()).max() <= 1 / 8
    model = nn.Transformer(16, 2, 2, 2, 8)
    layers = model.encoder.layers
    assert layers[0].linear1.bias.tolist() == layers[1].linear1.bias.tolist()  # copies
    assert layers[0].linear1.weight.tolist() != layers[1].linear1.weight.tolist()
    assert np.abs(layers[0].linear1.weight.detach().numpy()).max() > 1 / 4  # Xavier, not Linear's own


def test_the_causal_mask(backend):
    mask = nn.Transformer.generate_square_subsequent_mask(3, backend=backend)
    assert mask.tolist() == [[0, -math.inf, -math.inf], [0, 0, -math.inf], [0, 0, 0]]
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, backend=backend)
    x = dc.randn(3, 2, 4, backend=backend)
    np.testing.assert_allclose(
        layer(x, mask, is_causal=True).detach().numpy(), layer(x, mask).detach().numpy(), 1e-5, 1e-6
    )


def test_activations_by_name_and_function():
    x = dc.randn(3, 4)
    results = []
    for activation in ("gelu", F.gelu, lambda t: F.gelu(t), nn.GELU()):
        dc.manual_seed(0)
        layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=activation)
        results.append(layer(x).detach().numpy())
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], 1e-5, 1e-6)


def test_a_transformer_is_saved_and_built_again(tmp_path):
    model = nn.Transformer(4, 2, 1, 1, 8, activation="gelu", norm_first=True).eval()
    model.save(tmp_path / "f")
    src, tgt = dc.randn(3, 2, 4), dc.randn(2, 2, 4)
    assert nn.Module.load(tmp_path / "f").eval()(src, tgt).tolist() == model(src, tgt).tolist()


class Decoder(nn.Module):
    """Tokens to logits of the next ones."""

    def __init__(self, p):
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=p, activation="gelu", batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, dropout=p, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, tokens):
        x = self.embedding(tokens)
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        x = self.layer(x, src_mask=mask, is_causal=True, src_key_padding_mask=tokens == 6)
        x = x + self.attention(x, x, x)[0]
        q = x.unflatten(-1, (2, 4)).transpose(1, 2)
        x = x + F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).flatten(-2)
        return self.head(x).flatten(0, 1)


@pytest.mark.skipif(not threadpool.can_prepare(), reason="programs need compiled kernels")
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_a_compiled_step_has_the_bits_of_an_eager_one(p):
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 6, (2, 6)) for _ in range(6)]
    results = []
    for compiled in (False, True):
        dc.manual_seed(0)
        model = Decoder(p)
        optimizer = dc.optim.AdamW(model.parameters(), lr=0.01)

        def step(x, model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[:, :-1]), x[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            return loss.detach()

        run = dc.compile(step) if compiled else step
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            losses = [run(dc.tensor(x)).item() for x in tokens]
        results.append((losses, {k: v.detach().numpy().tobytes() for k, v in model.state_dict().items()}))
        if compiled:
            assert sum(map(len, run._cache.values())) == 1 and not run.faults
    assert results[0] == results[1]
