"""Reduced embeddings."""

from __future__ import annotations

from deepcore.autograd import apply, constant
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.ops.bag import bag_argmax, bag_of_row, bag_sums
from deepcore.ops.comparison import clamp, ne, where
from deepcore.ops.index import embedding, gather, within
from deepcore.ops.registry import cast, functional
from deepcore.ops.shape import normalize_dim, reshape_p, unsqueeze
from deepcore.tensor import Tensor, arange, zeros

_MODES = ("sum", "mean", "max")


@functional
def embedding_bag(
    input,
    weight,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Σ, the mean or the maximum of weight[i] over the indices i of each bag; 0 for an empty one.

    input (B, n), a bag in each row, or (N,) with `offsets` (B,), where each begins, the first at 0 (`include_last_offset`:
    and where the last one ends); weight (rows, D); result (B, D). `per_sample_weights`, of the input's shape, are factors of a
    sum. Indices equal to `padding_idx` count nothing.
    """
    input, weight = constant("embedding_bag", input), constant("embedding_bag", weight)
    _check(input, weight, offsets, mode, per_sample_weights)
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise ArgumentError(
            "embedding_bag has no max_norm, scale_grad_by_freq or sparse gradients",
            received=f"{max_norm=}, {scale_grad_by_freq=}, {sparse=}",
        )
    padding = None if padding_idx is None else normalize_dim(padding_idx, weight.shape[0], "padding_idx")
    count = input.numel()
    if input.ndim == 2:
        bags = input.shape[0]
        starts = arange(bags, dtype=dt.int64, backend=input.backend) * input.shape[1]
        input = reshape_p(input, shape=(count,))
        if per_sample_weights is not None:
            per_sample_weights = reshape_p(per_sample_weights, shape=(count,))
    else:
        starts = cast(constant("embedding_bag", offsets), dt.int64)
        bags = starts.shape[0] - bool(include_last_offset)
        starts = starts[:bags] if include_last_offset else starts
        if not within(starts, 0, count + 1) or (bags and not within(starts[:1], 0, 1)):
            raise IndexRangeError(
                "embedding_bag: offsets begin at 0 and stay within the input", expected=f"0, … ≤ {count}"
            )
    rows = embedding(input, weight, padding)
    width = weight.shape[1]
    keep = ne(input, -1 if padding is None else padding)
    if mode == "max":
        index = bag_argmax(rows.detach(), starts, keep)
        if not count:
            return zeros((bags, width), dtype=weight.dtype, backend=weight.backend)
        filled = index >= 0
        return where(filled, gather(rows, 0, where(filled, index, 0)), 0.0)
    bag = apply(bag_of_row, (starts,), {"rows": count})
    factors = cast(keep, rows.dtype)
    if per_sample_weights is not None:
        factors = factors * per_sample_weights
    if padding is not None or per_sample_weights is not None:
        rows = rows * unsqueeze(factors, 1)
    out = bag_sums(rows, bag, bags)
    if mode == "sum":
        return out
    return out / clamp(bag_sums(unsqueeze(factors, 1), bag, bags), 1.0)


def _check(input, weight, offsets, mode: str, per_sample_weights) -> None:
    if mode not in _MODES:
        raise ArgumentError("embedding_bag: unknown mode", expected='"sum", "mean" or "max"', received=repr(mode))
    if weight.ndim != 2:
        raise ShapeError("embedding_bag needs a 2-d weight", received=f"shape {weight.shape}")
    if input.ndim not in (1, 2) or (input.ndim == 1) != (offsets is not None):
        raise ShapeError(
            "embedding_bag takes a bag in each row, or all in one vector with the offsets of the bags",
            expected="input (B, n), or input (N,) and offsets (B,)",
            received=f"input {input.shape}, offsets {None if offsets is None else offsets.shape}",
        )
    if offsets is not None and (len(offsets.shape) != 1 or constant("embedding_bag", offsets).dtype.kind not in "iu"):
        raise ShapeError("embedding_bag: offsets are a vector of integers", received=f"shape {offsets.shape}")
    if input.dtype.kind not in "iu":
        raise DTypeError("embedding_bag needs integer indices", received=dt.name_of(input.dtype), fix="index.long()")
    if per_sample_weights is None:
        return
    if mode != "sum":
        raise ArgumentError("embedding_bag: per_sample_weights go with a sum", expected='mode="sum"', received=mode)
    if per_sample_weights.shape != input.shape or per_sample_weights.dtype != weight.dtype:
        raise ShapeError(
            "embedding_bag: per_sample_weights have the input's shape and the weight's dtype",
            expected=f"{input.shape}, {dt.name_of(weight.dtype)}",
            received=f"{per_sample_weights.shape}, {dt.name_of(per_sample_weights.dtype)}",
        )
