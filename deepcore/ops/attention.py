"""Scaled dot-product attention."""

from __future__ import annotations

import math

from deepcore import random
from deepcore.autograd import apply, constant, mixed_backends
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops.comparison import ne, where
from deepcore.ops.dropout import dropout_p as random_mask
from deepcore.ops.linalg import matmul
from deepcore.ops.reduction import any as any_
from deepcore.ops.registry import (
    Tensor,
    cast,
    composed_gradients,
    composite,
    functional,
    gradient,
    is_half,
    is_recorded,
    primitive,
    sample,
)
from deepcore.ops.shape import broadcast_shape, broadcast_to_p, permute_p, reshape_p, triu, unsqueeze
from deepcore.ops.softmax import softmax
from deepcore.tensor import from_raw, full

_NAME = "scaled_dot_product_attention"


def _samples(make):
    q, k, v = make(2, 2, 3), make(2, 3, 3), make(2, 3, 1)
    return [
        sample(q, k, v),
        sample(q, k, v, is_causal=True),
        sample(q, k, v, make.bool(2, 3), scale=0.3),
        sample(q, k, v, make(2, 1, 3)),
        sample(make(2, 3), make(4, 3), make(4, 2)),
        sample(make(2, 2), make(2, 1, 3, 2), make(2, 2, 3, 1), make.bool(2, 1, 1, 3)),
        sample(make(1, 4, 2, 2), make(1, 2, 3, 2), make(1, 2, 3, 1), make(4, 2, 3), enable_gqa=True),
    ]


@functional
@composite(examples=_samples, method=False)
def scaled_dot_product_attention(
    query,
    key,
    value,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
):
    """softmax(scale · query keyᵀ + mask) value, the softmax over the keys.

    query (…, L, E), key (…, S, E), value (…, S, V); result (…, L, V); leading dimensions broadcast. scale is 1/√E unless given.
    `attn_mask` broadcasts to (…, L, S): of bool, True where a query attends to a key, or floats that are added. A query that
    attends to no key gives 0. `is_causal`: query i attends to the keys 0 … i. `dropout_p` drops weights, always (there is no
    training mode). `enable_gqa`: each of the key's and value's heads (dimension -3) serves as many consecutive ones of
    the query. 16-bit floats are computed in float32. (Vaswani et al., 2017; Ainslie et al., 2023)
    """
    query, key, value = (constant(_NAME, t) for t in (query, key, value))
    if attn_mask is not None:
        attn_mask = constant(_NAME, attn_mask)
    _check(query, key, value, attn_mask, dropout_p, is_causal)
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale
    if is_half(query):
        wide = [t if t is None or not is_half(t) else cast(t, dt.float32) for t in (query, key, value, attn_mask)]
        return cast(
            scaled_dot_product_attention(*wide, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa), query.dtype
        )
    if not enable_gqa:
        return _attend(query, key, value, attn_mask, dropout_p, is_causal, scale)
    groups = _groups(query, key, value)
    query, key, value = _split_heads(query, groups), unsqueeze(key, -3), unsqueeze(value, -3)
    if attn_mask is not None and attn_mask.ndim > 2:
        attn_mask = unsqueeze(attn_mask, -3) if attn_mask.shape[-3] == 1 else _split_heads(attn_mask, groups)
    out = _attend(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return reshape_p(out, shape=(*out.shape[:-4], out.shape[-4] * groups, *out.shape[-2:]))


def _attend(query, key, value, mask, p: float, is_causal: bool, scale: float) -> Tensor:
    """Attention of operands of one dtype whose leading dimensions broadcast."""
    if p or 0 in (*query.shape, *key.shape, *value.shape):
        return _composed(query, key, value, mask, p, is_causal, scale)
    if mask is not None and mask.dtype not in (dt.bool_, query.dtype):
        mask = cast(mask, query.dtype)
    operands = [query, key, value] if mask is None else [query, key, value, mask]
    lead = broadcast_shape(_NAME, *(t.shape[:-2] for t in operands))
    sizes = [t.shape[-2:] for t in (query, key, value)] + [(query.shape[-2], key.shape[-2])]
    operands = [t if t.shape == (*lead, *n) else broadcast_to_p(t, shape=(*lead, *n)) for t, n in zip(operands, sizes)]
    return apply(attention, tuple(operands), {"scale": float(scale), "causal": bool(is_causal)})


def _composed(query, key, value, mask, p: float, is_causal: bool, scale: float) -> Tensor:
    """The same, of ops that keep all weights: with dropout, for the gradient of a mask and for second derivatives."""
    scores = matmul(query * scale, _transposed(key))
    attends = None
    if is_causal:
        scores = scores + _causal_bias(scores)
    elif mask is not None:
        bias, attends = additive_mask(mask, query.dtype)
        scores = scores + bias
    out = matmul(drop(softmax(scores, -1), p), value)
    return out if attends is None else where(attends, out, 0.0)


# -- one op whose memory is linear in the lengths -----------------------------------------------------------------------


def _weights(xp, query, key, mask, scale, causal):
    """(weights, of each query its greatest score and 1 / Σ exp of the scores less that); 0 for a query without keys."""
    scores = xp.matmul(query, xp.swapaxes(key, -1, -2))
    scores *= xp.asarray(scale, scores.dtype)
    if mask is not None and mask.dtype == dt.bool_:
        scores = xp.where(mask, scores, xp.asarray(-math.inf, scores.dtype))
    elif mask is not None:
        scores += mask
    if causal:
        after = xp.arange(scores.shape[-1]) > xp.arange(scores.shape[-2])[:, None]
        scores = xp.where(after, xp.asarray(-math.inf, scores.dtype), scores)
    best, last = xp.max(scores, axis=-1, keepdims=True), (scores.ndim - 1,)
    best = xp.where(best == -math.inf, xp.asarray(0, best.dtype), best)
    scores -= best
    weights = xp.exp(scores, out=scores)
    total = xp.sum(weights, last, keepdims=True)
    none = total == 0
    inverse = xp.where(none, total, 1 / xp.where(none, xp.asarray(1, total.dtype), total))
    weights *= inverse
    return weights, xp.concatenate([best, inverse], last[0])


@gradient
def attention_grad(xp, g, query, key, value, out, sums, mask=None, *, scale, causal):
    """Of query, key and value. With weights P: dV = Pᵀ g, dS = P ∘ (g Vᵀ - Σ g · out) · scale, dQ = dS K, dK = dSᵀ Q."""
    weights, _ = _weights(xp, query, key, mask, scale, causal)
    scores = xp.matmul(g, xp.swapaxes(value, -1, -2))
    scores -= xp.sum(g * out, (g.ndim - 1,), keepdims=True)
    scores *= weights
    scores *= xp.asarray(scale, scores.dtype)
    across = xp.swapaxes(scores, -1, -2)
    return xp.matmul(scores, key), xp.matmul(across, query), xp.matmul(xp.swapaxes(weights, -1, -2), g)


def _attention_joint(g, query, key, value, mask, out, aux, scale, causal, needs):
    operands = query, key, value, mask
    again = is_recorded(g, *operands)
    if not again and not any(needs[3:]):
        params, masks = {"scale": scale, "causal": causal}, () if mask is None else (mask,)
        return *apply(attention_grad, (g, query, key, value, out, from_raw(aux[0], g.backend), *masks), params), None
    compose = lambda query, key, value, mask=None: _composed(query, key, value, mask, 0.0, causal, scale)
    return composed_gradients(compose, g, operands, needs, create_graph=again)


@primitive(joint=_attention_joint)
def attention(xp, query, key, value, mask=None, *, scale, causal):
    """softmax(scale · query keyᵀ + mask) value, of operands with the same leading dimensions."""
    weights, sums = _weights(xp, query, key, mask, scale, causal)
    return xp.matmul(weights, value), sums


def _transposed(t: Tensor) -> Tensor:
    return permute_p(t, order=(*range(t.ndim - 2), t.ndim - 1, t.ndim - 2))


def _causal_bias(scores: Tensor) -> Tensor:
    """-∞ where the key comes after the query, 0 elsewhere: (L, S)."""
    return triu(full(scores.shape[-2:], -math.inf, dtype=scores.dtype, backend=scores.backend), 1)


def additive_mask(mask: Tensor, dtype) -> tuple[Tensor, Tensor]:
    """(what is added to the scores, which queries attend to any key); the row of a query that does not is all 0."""
    if mask.dtype == dt.bool_:
        attends = any_(mask, -1, keepdim=True)
        return as_bias(mask | ~attends, dtype), attends
    attends = any_(ne(mask, -math.inf), -1, keepdim=True)
    return where(attends, mask if mask.dtype == dtype else cast(mask, dtype), 0.0), attends


def as_bias(mask: Tensor, dtype) -> Tensor:
    """0 where a bool mask is True, -∞ elsewhere."""
    xp = mask.backend
    return where(mask, Tensor(xp.constant(0.0, dtype), xp), -math.inf)


def drop(weights: Tensor, p: float) -> Tensor:
    """Dropout of attention weights."""
    if not p:
        return weights
    seed, stream, position = random.default_generator.advance(-(-weights._data.size // 4))
    return random_mask(weights, seed=seed, stream=stream, position=position, p=float(p))


# -- arguments -------------------------------------------------------------------------------------------------------------


def _check(query, key, value, mask, p: float, is_causal: bool) -> None:
    operands = query, key, value
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    for t in operands if mask is None else (*operands, mask):
        if t.backend is not query.backend:
            raise mixed_backends(_NAME, operands)
    if not dt.is_floating(query.dtype) or query.dtype != key.dtype or query.dtype != value.dtype:
        raise DTypeError(
            f"{_NAME} takes query, key and value of one floating dtype",
            received=", ".join(dt.name_of(t.dtype) for t in operands),
            fix="t.to(query.dtype)",
        )
    if min(t.ndim for t in operands) < 2:
        raise ShapeError(
            f"{_NAME} takes vectors in rows", expected="(…, L, E), (…, S, E) and (…, S, V)", received=shapes
        )
    if query.shape[-1] != key.shape[-1]:
        raise ShapeError(f"{_NAME}: query and key have vectors of different lengths", received=shapes)
    if key.shape[-2] != value.shape[-2]:
        raise ShapeError(f"{_NAME}: every key has one value", expected=f"{key.shape[-2]} values", received=shapes)
    if isinstance(p, bool) or not 0 <= p <= 1:
        raise ArgumentError(f"{_NAME}: dropout_p is a probability", expected="0 ≤ dropout_p ≤ 1", received=f"{p!r}")
    if mask is None:
        return
    if is_causal:
        raise ArgumentError(
            f"{_NAME} takes attn_mask or is_causal, not both", fix="attn_mask & dc.ones(L, S, dtype=bool).tril()"
        )
    if mask.dtype not in (dt.bool_, dt.float32, query.dtype):
        raise DTypeError(
            f"{_NAME}: attn_mask is bool, or numbers to add",
            expected=f"bool or {dt.name_of(query.dtype)}",
            received=dt.name_of(mask.dtype),
            fix="attn_mask.bool()",
        )
    sizes = query.shape[-2], key.shape[-2]
    if any(n not in (1, m) for n, m in zip(mask.shape[::-1], sizes[::-1])):
        raise ShapeError(
            f"{_NAME}: attn_mask does not broadcast to {sizes[0]} queries × {sizes[1]} keys",
            expected=f"shape (…, {sizes[0]}, {sizes[1]})",
            received=f"attn_mask {mask.shape}, {shapes}",
        )


def _groups(query, key, value) -> int:
    """The number of the query's heads for each of the key's."""
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(t.ndim for t in (query, key, value)) < 3:
        raise ShapeError(f"{_NAME}: grouped heads are dimension -3", received=shapes)
    heads, others = query.shape[-3], key.shape[-3]
    if others != value.shape[-3] or not others or heads % others:
        raise ShapeError(
            f"{_NAME}: the heads of key and value do not divide the query's",
            expected=f"one number of heads of key and value, a divisor of {heads}",
            received=shapes,
        )
    return heads // others


def _split_heads(t: Tensor, groups: int) -> Tensor:
    """(…, H, ·, ·) as (…, H / groups, groups, ·, ·)."""
    return reshape_p(t, shape=(*t.shape[:-3], t.shape[-3] // groups, groups, *t.shape[-2:]))
