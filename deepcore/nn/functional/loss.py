"""Losses: the terms of `ops.loss`, masked, weighted and reduced."""

from __future__ import annotations

from deepcore.autograd import apply, mixed_backends, mode
from deepcore.autograd.levels import all_values
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.nn.notify import warn_user
from deepcore.ops import loss as terms
from deepcore.ops.activation import sigmoid
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import neg, weigh
from deepcore.ops.arithmetic import pow as pow_
from deepcore.ops.comparison import where
from deepcore.ops.index import gather_p, within
from deepcore.ops.loss import bad_class, cross_entropy_p, probabilities
from deepcore.ops.reduction import mean
from deepcore.ops.reduction import sum as sum_
from deepcore.ops.registry import cast, functional, is_recorded, takes_arrays
from deepcore.ops.shape import squeeze, unsqueeze
from deepcore.ops.softmax import log_softmax
from deepcore.tensor import Tensor


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """The mean or sum of `loss`, or itself."""
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum_(loss)
    check_reduction(reduction)
    return loss


def check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ArgumentError("unknown reduction", expected='"mean", "sum" or "none"', received=repr(reduction))


def same_shape(name: str, input: Tensor, target: Tensor, role: str = "target") -> None:
    """Raise where `target`, the argument `role`, has another shape than the input."""
    if input.shape != target.shape:
        raise ShapeError(
            f"{name}: input and {role} have different shapes, and a loss does not broadcast",
            expected=f"{role} of shape {input.shape}",
            received=f"shape {target.shape}",
            fix=_shape_fix(input.shape, target.shape),
        )


def _shape_fix(shape: tuple[int, ...], target: tuple[int, ...]) -> str:
    for longer, shorter in ((shape, target), (target, shape)):
        if len(longer) == len(shorter) + 1:
            for dim in reversed(range(len(longer))):
                if longer[dim] == 1 and longer[:dim] + longer[dim + 1 :] == shorter:
                    # Works for tensors and for arrays, which have no unsqueeze.
                    return f"target[{':, ' * dim}None]" if longer is shape else f"target.squeeze({dim})"
    if _size(shape) == _size(target):
        return f"target.reshape({', '.join(map(str, shape))})"
    if len(target) == len(shape) - 1 and target == shape[:1] + shape[2:]:
        return "class indices go to a cross_entropy loss, or one_hot(target) makes the shapes equal"
    return "give the target the input's shape"


def _size(shape: tuple[int, ...]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


@functional
@takes_arrays
def mse_loss(input, target, reduction: str = "mean") -> Tensor:
    """(input - target)², averaged, summed or as it is. Shapes must be equal."""
    same_shape("mse_loss", input, target)
    return reduced(terms.term(terms.mse, "numeric", input, target), reduction)


@functional
@takes_arrays
def l1_loss(input, target, reduction: str = "mean") -> Tensor:
    """|input - target|, averaged, summed or as it is. Shapes must be equal."""
    same_shape("l1_loss", input, target)
    if input.is_complex() or target.is_complex():
        return reduced(abs_(input - target), reduction)
    return reduced(terms.term(terms.l1, "numeric", input, target), reduction)


@functional
@takes_arrays
def smooth_l1_loss(input, target, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = input - target. (Girshick, 2015)"""
    same_shape("smooth_l1_loss", input, target)
    if beta < 0:
        raise ArgumentError("smooth_l1_loss: beta cannot be negative", received=f"beta={beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return reduced(terms.term(terms.smooth_l1, "float", input, target, beta=beta), reduction)


@functional
@takes_arrays
def huber_loss(input, target, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere; d = input - target. (Huber, 1964)"""
    same_shape("huber_loss", input, target)
    if delta <= 0:
        raise ArgumentError("huber_loss: delta is positive", received=f"delta={delta}")
    return reduced(terms.term(terms.huber, "float", input, target, delta=delta), reduction)


@functional
@takes_arrays
def binary_cross_entropy(input, target, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """-[y·log x + (1 - y)·log(1 - x)] on probabilities x in [0, 1]; the logarithms are held at -100 or above.

    From a sigmoid, `binary_cross_entropy_with_logits` on its input is faster and more exact.
    """
    same_shape("binary_cross_entropy", input, target)
    probabilities(input.detach())
    loss = terms.term(terms.bce, "float", input, target)
    return reduced(loss if weight is None else weigh(weight, loss), reduction)


@functional
@takes_arrays
def binary_cross_entropy_with_logits(
    input, target, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None
) -> Tensor:
    """-[p·y·log σ(x) + (1 - y)·log(1 - σ(x))] on logits x, without ever forming σ(x).

    `pos_weight` p weighs the positive class, `weight` each element; both broadcast.
    """
    same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = terms.term(terms.bce_with_logits, "float", input, target)
    else:
        loss = terms.term(terms.bce_with_logits_weighted, "float", input, target, pos_weight)
    return reduced(loss if weight is None else weigh(weight, loss), reduction)


@functional
@takes_arrays
def sigmoid_focal_loss(input, target, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none") -> Tensor:
    """-a·(1 - p)^gamma · log p on logits x, where p = σ(x), a = alpha for the class 1, and 1 - σ(x), 1 - alpha for 0.

    Easy elements, whose p is near 1, count little. `target` has the input's shape, with values from 0 to 1; an `alpha` below 0
    weighs both classes alike. The defaults are torchvision's. (Lin et al., 2017)
    """
    same_shape("sigmoid_focal_loss", input, target)
    loss = binary_cross_entropy_with_logits(input, target, reduction="none")
    p = sigmoid(input)
    missed = p * (1 - target) + (1 - p) * target
    loss = loss * pow_(missed, gamma)
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return reduced(loss, reduction)


@functional
@takes_arrays
def dice_loss(input, target, smooth: float = 1.0, reduction: str = "mean") -> Tensor:
    """1 - (2·Σ p·y + smooth) / (Σ p + Σ y + smooth) of each sample, on logits x, p = σ(x): 1 less the overlap of two regions.

    input and target (N, *), y from 0 to 1; `smooth` keeps the loss of empty regions finite. (Milletari, Navab and Ahmadi, 2016)
    """
    same_shape("dice_loss", input, target)
    if not input.shape:
        raise ShapeError("dice_loss takes a batch", expected="shape (N, *)", received="shape ()")
    rows = (input.shape[0], -1) if input.numel() else (input.shape[0], 0)
    p, y = sigmoid(input).reshape(rows), target.reshape(rows)
    overlap = (2 * sum_(p * y, 1) + smooth) / (sum_(p, 1) + sum_(y, 1) + smooth)
    return reduced(1 - overlap, reduction)


@functional
@takes_arrays
def nll_loss(input, target, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-weight[y] · input[y] on log-probabilities, averaged (by the sum of weights), summed or as it is.

    `input` (C,), (N, C) or (N, C, d₁, …), `target` the class numbers, without the class dimension; positions with
    `ignore_index` count nothing.
    """
    check_reduction(reduction)
    dim = class_dim("nll_loss", input, target)
    valid, weights = class_weights("nll_loss", input, target, weight, ignore_index, dim)
    return _nll(input, target, valid, weights, dim, reduction)


def _class_fix(name: str, input: Tensor, target: Tensor) -> str:
    """How to make class numbers of `target`, which is no integers."""
    if not dt.is_floating(input.dtype) and dt.is_floating(target.dtype):
        return f"give the scores first: {name}(scores, classes)"
    if dt.is_floating(target.dtype) and not bool(target.backend.isfinite(target._data).all()):
        return "some are NaN or infinite: leave samples without a label out, then target.to(dc.int64)"
    return "target.to(dc.int64)"


def class_dim(name: str, input: Tensor, target: Tensor) -> int:
    """The class dimension; raises where class numbers do not fit the input."""
    if not input.shape:
        raise ShapeError(f"{name} takes one score per class", expected="shape (N, C)", received="shape ()")
    if not dt.is_integer(target.dtype):
        raise DTypeError(
            f"{name}: class numbers are integers",
            received=f"target of dtype {dt.name_of(target.dtype)}",
            fix=_class_fix(name, input, target),
        )
    dim = 1 if len(input.shape) > 1 else 0
    expected = input.shape[:dim] + input.shape[dim + 1 :]
    if target.shape != expected:
        if target.shape == input.shape:
            fix = f"target.argmax({dim}) for one-hot rows, or target.float() for class probabilities"
        else:
            fix = _shape_fix(expected, target.shape)
        raise ShapeError(
            f"{name}: class numbers have the input's shape without its class dimension",
            expected=f"target of shape {expected} for input {input.shape}",
            received=f"shape {target.shape}",
            fix=fix,
        )
    if target.backend is not input.backend:
        raise mixed_backends(name, (input, target))
    return dim


def class_weights(name, input, target, weight, ignore_index, dim):
    """(mask of targets that are not ignored, or None for all; weight per target, or None for 1)."""
    xp, classes = input.backend, input.shape[dim]
    valid = None
    if target.numel() and (0 <= ignore_index < classes or not within(target, 0, classes)):
        valid = target != ignore_index
        if not within(where(valid, target, 0), 0, classes):
            target = all_values(target)
            raw, counts = target._data, all_values(valid)._data
            raise bad_class(name, input, target, xp.logical_and(counts, xp.logical_or(raw < 0, raw >= classes)))
    if weight is None:
        return valid, None
    if weight.shape != (classes,):
        raise _bad_weight(name, weight, classes)
    weight = weight.detach()
    if valid is None:
        return None, weight[target]
    return valid, where(valid, weight[where(valid, target, 0)], 0.0)


def _bad_weight(name: str, weight: Tensor, classes: int) -> ShapeError:
    return ShapeError(
        f"{name}: weight has one entry per class", expected=f"shape ({classes},)", received=f"shape {weight.shape}"
    )


def _nll(log_probs, target, valid, weights, dim, reduction) -> Tensor:
    index = target.detach()
    if valid is not None:
        index = where(valid, index, 0)
    if index.dtype != dt.int64:
        index = index.to(dt.int64)
    loss = neg(squeeze(gather_p(log_probs, unsqueeze(index, dim), dim=dim), dim))
    return _weighted(loss, valid, weights, reduction)


def _weighted(loss, valid, weights, reduction) -> Tensor:
    """Apply mask and weights, then reduce; the mean divides by the sum of the weights."""
    dtype = loss.dtype
    if dtype.itemsize == 2:  # a count or a long sum may overflow 16 bits
        loss = loss.to(dt.float32)
    if weights is not None:
        weights = weights.to(loss.dtype)
        loss = weigh(weights, loss)
    if valid is not None:
        loss = where(valid, loss, 0.0)
    if reduction != "mean" or (valid is None and weights is None):
        loss = reduced(loss, reduction)
    else:
        total = valid.sum() if weights is None else weights.sum()
        loss = sum_(loss) / total.to(loss.dtype)
    return loss if loss.dtype == dtype else loss.to(dtype)


class ProbabilityCheck:
    """Checks the first inputs of a cross-entropy, and warns once if they are probabilities."""

    def __init__(self, calls: int = 3):
        self.calls_left = calls

    def check(self, input: Tensor, dim: int) -> None:
        self.calls_left -= 1
        raw = input._data  # untraced: the values decide about a warning only
        if not raw.size or raw.shape[dim] < 2 or not dt.is_floating(raw.dtype):
            return
        if raw.min().item() >= 0 and abs(raw.sum(axis=dim) - 1).max().item() < 1e-3:
            self.calls_left = 0
            warn_user(
                "cross_entropy takes logits, and was given probabilities (no entry is negative, and every row sums "
                "to 1): the softmax inside is then applied a second time, and training is slow or stalls. Remove the "
                "Softmax before the loss, or use NLLLoss on log-probabilities."
            )


first_calls = ProbabilityCheck()


@functional
@takes_arrays
def cross_entropy(
    input,
    target,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    _check: ProbabilityCheck = first_calls,
) -> Tensor:
    """-weight[y] · log softmax(x)[y]: `log_softmax` and `nll_loss` in one, on logits x.

    `input` (C,), (N, C) or (N, C, d₁, …). `target`: class numbers without the class dimension, or class probabilities
    of the input's shape. `label_smoothing` ε mixes the target with the uniform one, (1 - ε)·y + ε/C. The mean is over
    the sum of weights of the positions that are not `ignore_index`; with probabilities, over all positions.
    """
    check_reduction(reduction)
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError("label_smoothing is between 0 and 1", received=f"{label_smoothing!r}")
    probabilities = target.shape == input.shape and dt.is_floating(target.dtype)
    if probabilities:
        if ignore_index >= 0:
            raise ArgumentError(
                "cross_entropy: ignore_index is a class number, and the target holds class probabilities",
                received=f"ignore_index={ignore_index}",
                fix="leave it out, or make a position count nothing with a row of zeros",
            )
        dim = 1 if len(input.shape) > 1 else 0
    else:
        dim = class_dim("cross_entropy", input, target)
    if _check.calls_left > 0 and mode.level is None:
        _check.check(input, dim)
    classes = input.shape[dim]
    along = (-1,) + (1,) * (len(input.shape) - 1 - dim)
    if probabilities:
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        if weight is not None:
            target = target * weight.reshape(along)
        return reduced(neg(sum_(weigh(target, log_softmax(input, dim)), dim)), reduction)
    if weight is not None and weight.shape != (classes,):
        raise _bad_weight("cross_entropy", weight, classes)
    if not dt.is_floating(input.dtype):
        input = cast(input, dt.default_float)
    half = input.dtype if input.dtype.itemsize == 2 else None
    if half is not None:
        input = input.to(dt.float32)
    recorded = is_recorded(input)
    if target.dtype != dt.int64:
        target = target.to(dt.int64)
    inputs = (input, target) if weight is None else (input, target, weight.detach().to(input.dtype))
    params = {"dim": dim, "ignore_index": ignore_index, "smoothing": float(label_smoothing), "reduction": reduction}
    out = apply(cross_entropy_p, inputs, {**params, "recorded": recorded})
    return out if half is None else out.to(half)
