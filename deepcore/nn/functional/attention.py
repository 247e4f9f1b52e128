"""Multi-head attention."""

from __future__ import annotations

import math

from deepcore.autograd import constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.attention import as_bias, drop, scaled_dot_product_attention
from deepcore.ops.linalg import linear, matmul
from deepcore.ops.reduction import mean
from deepcore.ops.registry import cast, functional
from deepcore.ops.shape import broadcast_to, cat, pad, permute_p, reshape_p, squeeze, unsqueeze
from deepcore.ops.softmax import softmax
from deepcore.tensor import Tensor, zeros

_NAME = "multi_head_attention_forward"


@functional
def multi_head_attention_forward(
    query,
    key,
    value,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """(concat(head₁ … headₕ) Wᴼᵀ + bᴼ, weights), headᵢ = softmax(qᵢ kᵢᵀ / √d + mask) vᵢ, and qᵢ, kᵢ, vᵢ the i-th part of the
    projections of query, key and value.

    query (L, N, E), key (S, N, kdim), value (S, N, vdim), or all without N; result (L, N, E); weights (N, L, S), the mean over
    the heads, or (N, heads, L, S) without `average_attn_weights`; None without `need_weights`. `in_proj_weight` (3E, E) is
    that of queries, keys and values, unless `use_separate_proj_weight`. `attn_mask` (L, S) or (N · heads, L, S) and
    `key_padding_mask` (N, S): of bool, True where a key is *left out*, or floats that are added. `is_causal` says that
    `attn_mask` is the causal mask. `static_k`, `static_v` (N · heads, S, E / heads) replace the projections.
    (Vaswani et al., 2017)
    """
    weights = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else (in_proj_weight,)
    return attention(
        query, key, value, embed_dim_to_check, num_heads, weights, in_proj_bias, bias_k, bias_v, add_zero_attn,
        dropout_p if training else 0.0, out_proj_weight, out_proj_bias, key_padding_mask, need_weights, attn_mask,
        average_attn_weights, is_causal, static_k=static_k, static_v=static_v,
    )  # fmt: skip


def attention(
    query,
    key,
    value,
    width: int,
    heads: int,
    weights: tuple,
    bias,
    bias_k,
    bias_v,
    add_zero_attn: bool,
    p: float,
    out_weight,
    out_bias,
    key_padding_mask=None,
    need_weights: bool = True,
    attn_mask=None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
    batch_first: bool = False,
    static_k=None,
    static_v=None,
    cache=None,
    position=None,
    name: str = _NAME,
) -> tuple[Tensor, Tensor | None]:
    """`multi_head_attention_forward` with either order of dimensions; `weights`: one for all projections, or three.

    With a `cache` (`nn.KVCache`), keys and values are all of it, after those of this call are written at `position`.
    """
    same = key is query, value is key
    query = constant(name, query)
    key = query if same[0] else constant(name, key)
    value = key if same[1] else constant(name, value)
    _check(name, query, key, value, width, heads, batch_first)
    batched = query.ndim == 3
    if not batched:
        query, key, value = _batches(query, key, value, 0 if batch_first else 1)
        if key_padding_mask is not None:
            key_padding_mask = unsqueeze(constant(name, key_padding_mask), 0)
    steps = 1 if batch_first else 0
    batch, length, size = query.shape[1 - steps], query.shape[steps], width // heads
    if is_causal and attn_mask is None:
        raise ArgumentError(
            f"{name}: is_causal says that attn_mask is the causal mask",
            expected="the mask, too",
            fix="attn_mask=nn.Transformer.generate_square_subsequent_mask(length)",
        )
    if cache is not None:
        others = attn_mask, key_padding_mask, bias_k, static_k, static_v
        if position is None or add_zero_attn or any(t is not None for t in others):
            raise ArgumentError(
                f"{name}: a cache goes with a position, and its mask is the causal one",
                expected="cache=…, position=…, and no mask or further keys",
            )
    keys = key.shape[steps] if static_k is None else static_k.shape[1]
    bias_of_scores = _mask_of_pairs(name, attn_mask, query.dtype, batch, heads, length, keys)
    padding = _mask_of_keys(name, key_padding_mask, query.dtype, batch, keys)
    is_causal = is_causal and padding is None and not need_weights
    if is_causal:
        bias_of_scores = None

    q, k, v = _projections(query, key, value, weights, bias, width)
    if bias_k is not None and bias_v is not None:
        row = (batch, 1, width) if batch_first else (1, batch, width)
        k, v = (cat([t, broadcast_to(b, row)], steps) for t, b in ((k, bias_k), (v, bias_v)))
    q, k, v = (_heads(t, heads, batch_first) for t in (q, k, v))
    k, v = (
        t if s is None else reshape_p(constant(name, s), shape=(batch, heads, s.shape[1], size))
        for t, s in ((k, static_k), (v, static_v))
    )
    if add_zero_attn:
        nothing = zeros((batch, heads, 1, size), dtype=q.dtype, backend=q.backend)
        k, v = cat([k, nothing], 2), cat([v, nothing], 2)
    extra = (bias_k is not None) + bool(add_zero_attn)
    mask = None
    for part in (bias_of_scores, padding):
        if part is not None:
            part = pad(part, (0, extra)) if extra else part
            part = part if part.dtype == q.dtype else cast(part, q.dtype)  # under autocast
            mask = part if mask is None else mask + part

    if cache is not None:
        k, v, attends = cache.update(position, k, v)
        mask = as_bias(attends, q.dtype) if need_weights else attends

    attn_weights = None
    if need_weights:
        scores = matmul(q * (1 / math.sqrt(size)), permute_p(k, order=(0, 1, 3, 2)))
        attn_weights = drop(softmax(scores if mask is None else scores + mask, -1), p)
        out = matmul(attn_weights, v)
    else:
        out = scaled_dot_product_attention(q, k, v, mask, p, is_causal)
    out = permute_p(out, order=(0, 2, 1, 3) if batch_first else (2, 0, 1, 3))
    out = linear(reshape_p(out, shape=(*out.shape[:2], width)), out_weight, out_bias)
    if attn_weights is not None and average_attn_weights:
        attn_weights = mean(attn_weights, 1)
    if batched:
        return out, attn_weights
    return squeeze(out, 1 - steps), None if attn_weights is None else squeeze(attn_weights, 0)


def _batches(query, key, value, dim: int) -> tuple:
    """The operands with a batch of one; equal ones stay equal."""
    q = unsqueeze(query, dim)
    k = q if key is query else unsqueeze(key, dim)
    return q, k, k if value is key else unsqueeze(value, dim)


def _heads(t: Tensor, heads: int, batch_first: bool) -> Tensor:
    """(N, L, E) or (L, N, E) as (N, heads, L, E / heads)."""
    parts = reshape_p(t, shape=(*t.shape[:2], heads, t.shape[2] // heads))
    return permute_p(parts, order=(0, 2, 1, 3) if batch_first else (1, 2, 0, 3))


def _projections(query, key, value, weights: tuple, bias, width: int):
    biases = (None,) * 3 if bias is None else tuple(bias[i * width : (i + 1) * width] for i in range(3))
    if len(weights) == 1:
        (weight,) = weights
        if key is query and value is key:
            joint = linear(query, weight, bias)
            return tuple(joint[..., i * width : (i + 1) * width] for i in range(3))
        weights = tuple(weight[i * width : (i + 1) * width] for i in range(3))
    return tuple(linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases))


def _mask_of_pairs(name: str, mask, dtype, batch: int, heads: int, length: int, keys: int) -> Tensor | None:
    """`attn_mask` as what is added to the scores (N, heads, L, S)."""
    if mask is None:
        return None
    bias = _additive(name, "attn_mask", mask, dtype)
    if bias.shape == (length, keys):
        return reshape_p(bias, shape=(1, 1, length, keys))
    if bias.shape == (batch * heads, length, keys):
        return reshape_p(bias, shape=(batch, heads, length, keys))
    raise ShapeError(
        f"{name}: attn_mask is of another number of queries or keys",
        expected=f"({length}, {keys}) or ({batch * heads}, {length}, {keys})",
        received=f"shape {bias.shape}",
    )


def _mask_of_keys(name: str, mask, dtype, batch: int, keys: int) -> Tensor | None:
    """`key_padding_mask` as what is added to the scores (N, heads, L, S)."""
    if mask is None:
        return None
    bias = _additive(name, "key_padding_mask", mask, dtype)
    if bias.shape != (batch, keys):
        raise ShapeError(
            f"{name}: key_padding_mask is of another number of keys",
            expected=f"({batch}, {keys})",
            received=f"shape {bias.shape}",
        )
    return reshape_p(bias, shape=(batch, 1, 1, keys))


def _additive(name: str, which: str, mask, dtype) -> Tensor:
    mask = constant(name, mask)
    if mask.dtype == dt.bool_:
        return as_bias(~mask, dtype)
    if dt.is_floating(mask.dtype):
        return cast(mask, dtype)
    raise DTypeError(
        f"{name}: {which} is bool, True where a key is left out, or numbers to add",
        received=dt.name_of(mask.dtype),
        fix=f"{which}.bool()",
    )


def _check(name: str, query, key, value, width: int, heads: int, batch_first: bool) -> None:
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        order = "(N, L, E), (N, S, E), (N, S, E)" if batch_first else "(L, N, E), (S, N, E), (S, N, E)"
        raise ShapeError(f"{name} takes sequences of vectors", expected=f"{order}, or all without N", received=shapes)
    if query.shape[-1] != width:
        raise ShapeError(
            f"{name}: the queries are vectors of another length", expected=f"(*, {width})", received=shapes
        )
    if width % heads:
        raise ShapeError(f"{name}: {heads} heads do not divide embed_dim={width}", received=shapes)
    if key.shape[:-1] != value.shape[:-1]:
        raise ShapeError(f"{name}: every key has one value", received=shapes)
    dim = 0 if batch_first else 1
    if query.ndim == 3 and query.shape[dim] != key.shape[dim]:
        raise ShapeError(
            f"{name}: queries and keys are of batches of different sizes",
            received=shapes,
            fix="batch_first=True, if the batch comes first" if not batch_first else None,
        )
