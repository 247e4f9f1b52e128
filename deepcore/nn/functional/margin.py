"""Losses with a margin: hinges of scores, of distances and of similarities."""

from __future__ import annotations

from collections.abc import Callable

from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.nn.functional.distance import pairwise_distance
from deepcore.nn.functional.loss import check_reduction, class_dim, class_weights, reduced, same_shape
from deepcore.ops import loss as terms
from deepcore.ops.activation import logsigmoid, relu
from deepcore.ops.arithmetic import neg, sqrt, weigh
from deepcore.ops.comparison import clamp, minimum, where
from deepcore.ops.index import gather, within
from deepcore.ops.reduction import any as any_
from deepcore.ops.reduction import mean
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import cast, functional, takes_arrays
from deepcore.ops.scan import cumsum
from deepcore.ops.shape import unsqueeze
from deepcore.tensor import Tensor, arange


@functional
@takes_arrays
def soft_margin_loss(input, target, reduction: str = "mean") -> Tensor:
    """log(1 + e^(-y·x)), y = ±1."""
    same_shape("soft_margin_loss", input, target)
    return reduced(neg(logsigmoid(target * input)), reduction)


@functional
@takes_arrays
def hinge_embedding_loss(input, target, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """x where y = 1, max(0, margin - x) where y = -1, on distances x."""
    same_shape("hinge_embedding_loss", input, target)
    apart = where(target == 1, 0.0, clamp(margin - input, 0.0))
    return reduced(where(target == -1, 0.0, input) + apart, reduction)


@functional
@takes_arrays
def margin_ranking_loss(input1, input2, target, margin: float = 0, reduction: str = "mean") -> Tensor:
    """max(0, -y·(x1 - x2) + margin), y = 1 where x1 is to rank above x2, and -1 where below. Shapes must be equal."""
    same_shape("margin_ranking_loss", input1, input2, "input2")
    same_shape("margin_ranking_loss", input1, target)
    return reduced(clamp(neg(target) * (input1 - input2) + margin, 0.0), reduction)


#: Added to squared norms, as in PyTorch.
_LEAST_SQUARE = 1e-12


@functional
@takes_arrays
def cosine_embedding_loss(input1, input2, target, margin: float = 0, reduction: str = "mean") -> Tensor:
    """1 - cos(x1, x2) where y = 1, max(0, cos(x1, x2) - margin) where y = -1.

    Inputs (N, D) with target (N,), or (D,) with ().
    """
    same_shape("cosine_embedding_loss", input1, input2, "input2")
    if input1.ndim not in (1, 2) or target.shape != input1.shape[:-1]:
        raise ShapeError(
            "cosine_embedding_loss: a target for each pair of vectors",
            expected="inputs (N, D) with target (N,), or (D,) with ()",
            received=f"inputs {input1.shape} with target {target.shape}",
        )
    if not dt.is_floating(input1.dtype):
        input1, input2 = cast(input1, dt.default_float), cast(input2, dt.default_float)
    squares = (sum_(input1 * input1, -1) + _LEAST_SQUARE) * (sum_(input2 * input2, -1) + _LEAST_SQUARE)
    cosine = sum_(input1 * input2, -1) / sqrt(squares)
    apart = where(target == -1, clamp(cosine - margin, 0.0), 0.0)
    return reduced(where(target == 1, 1.0 - cosine, 0.0) + apart, reduction)


@functional
@takes_arrays
def triplet_margin_loss(
    anchor, positive, negative, margin: float = 1.0, p: float = 2, eps: float = 1e-6, swap: bool = False,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """max(0, d(a, p) - d(a, n) + margin), d the `pairwise_distance` of vectors (N, D) or (D,).

    `swap`: d(p, n) in place of d(a, n) where it is smaller. (Balntas et al., 2016)
    """

    def distance(a, b):
        return pairwise_distance(a, b, p, eps)

    return _triplets("triplet_margin_loss", anchor, positive, negative, distance, margin, swap, reduction)


@functional
@takes_arrays
def triplet_margin_with_distance_loss(
    anchor, positive, negative, *, distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0, swap: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """`triplet_margin_loss` with a distance of the caller's: a function of two tensors."""
    distance = pairwise_distance if distance_function is None else distance_function
    name = "triplet_margin_with_distance_loss"
    return _triplets(name, anchor, positive, negative, distance, margin, swap, reduction)


def _triplets(name, anchor, positive, negative, distance, margin, swap, reduction) -> Tensor:
    check_reduction(reduction)
    if not margin > 0:
        raise ArgumentError(f"{name}: margin is positive", received=f"margin={margin!r}")
    same_shape(name, anchor, positive, "positive")
    same_shape(name, anchor, negative, "negative")
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(clamp(near - far + margin, 0.0), reduction)


@functional
@takes_arrays
def multi_margin_loss(
    input, target, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """Σᵢ weight[y] · max(0, margin - x[y] + x[i])ᵖ / C over the classes i ≠ y.

    Scores (N, C) or (C,), target the class numbers (N,) or (); `p` is 1 or 2, `weight` has one number per class.
    """
    check_reduction(reduction)
    if p not in (1, 2):
        raise ArgumentError("multi_margin_loss: p is 1 or 2", received=f"p={p!r}")
    if input.ndim > 2 or (input.ndim == 2 and not input.shape[1]):
        raise ShapeError("multi_margin_loss takes scores", expected="(N, C) or (C,)", received=f"{input.shape}")
    if not input.ndim:
        input = input.reshape(1)
    if input.ndim == 1 and target.shape == (1,):  # as PyTorch takes it
        return multi_margin_loss(input.reshape(1, -1), target, p, margin, weight, reduction)
    dim = class_dim("multi_margin_loss", input, target)
    _, weights = class_weights("multi_margin_loss", input, target, weight, -1, dim)
    index = unsqueeze(target.to(dt.int64), dim)
    hinge = relu(margin - gather(input, dim, index) + input)
    others = index != arange(input.shape[dim], backend=input.backend)
    hinge = where(others, hinge * hinge if p == 2 else hinge, 0.0)
    loss = mean(hinge if weights is None else weigh(unsqueeze(weights.to(input.dtype), dim), hinge), dim)
    return reduced(loss, reduction)


@functional
@takes_arrays
def multilabel_margin_loss(input, target, reduction: str = "mean") -> Tensor:
    """Σⱼᵢ max(0, 1 - x[y[j]] + x[i]) / C over a sample's classes y[j] and the classes i that are not among them.

    Scores and target are (N, C) or (C,): a row of the target lists class numbers, up to the first -1.
    """
    check_reduction(reduction)
    if input.ndim > 2 or target.shape != input.shape:
        raise ShapeError(
            "multilabel_margin_loss: scores and class numbers have one shape",
            expected="(N, C) or (C,) for both",
            received=f"{input.shape} and {target.shape}",
        )
    if not dt.is_integer(target.dtype):
        raise DTypeError(
            "multilabel_margin_loss: class numbers are integers",
            received=f"target of dtype {dt.name_of(target.dtype)}",
            fix="target.to(dc.int64)",
        )
    if not input.ndim:
        return multilabel_margin_loss(input.reshape(1), target.reshape(1), reduction)
    classes = input.shape[-1]
    if target.numel() and not within(target, -1, classes):
        raise IndexRangeError(
            "multilabel_margin_loss: a class is out of range",
            expected=f"0 … {classes - 1}, and -1 after the last",
            received=f"from {target.min().item()} to {target.max().item()}",
        )
    listed = cumsum((target < 0).to(dt.int64), -1) == 0
    index = where(listed, target, 0).to(dt.int64)
    numbers = arange(classes, backend=input.backend)
    own = any_((unsqueeze(index, -1) == numbers) & unsqueeze(listed, -1), -2)
    hinge = relu(1.0 - unsqueeze(gather(input, -1, index), -1) + unsqueeze(input, -2))
    counted = unsqueeze(listed, -1) & ~unsqueeze(own, -2)
    return reduced(sum_(where(counted, hinge, 0.0), (-2, -1)) / classes, reduction)


@functional
@takes_arrays
def multilabel_soft_margin_loss(input, target, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Mean over the classes of -weight · [y·log σ(x) + (1 - y)·log(1 - σ(x))]: (N, C) to (N,), then reduced."""
    same_shape("multilabel_soft_margin_loss", input, target)
    if not input.ndim:
        raise ShapeError("multilabel_soft_margin_loss takes one score per class", expected="(*, C)", received="()")
    loss = terms.term(terms.bce_with_logits, "float", input, target)
    return reduced(mean(loss if weight is None else weigh(weight, loss), -1), reduction)
