"""`nn.functional`: layers and losses as functions. Activations and the like are the ops themselves."""

from __future__ import annotations

from deepcore import random
from deepcore.autograd import mixed_backends, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.nn.notify import warn_user
from deepcore.ops.elementwise import abs as abs_
from deepcore.ops.elementwise import (
    clamp,
    elu,
    gelu,
    leaky_relu,
    log,
    log1p,
    logsigmoid,
    neg,
    relu,
    rsqrt,
    sigmoid,
    silu,
    softplus,
    square,
    tanh,
    where,
)
from deepcore.ops.elementwise import pow as pow_
from deepcore.ops.index import _gather, embedding, one_hot
from deepcore.ops.linalg import linear
from deepcore.ops.reduce import amax, log_softmax, logsumexp, mean, softmax
from deepcore.ops.reduce import sum as sum_
from deepcore.ops.shape import flatten, pad, squeeze, unflatten, unsqueeze
from deepcore.tensor import Tensor, from_raw

__all__ = [
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "elu",
    "embedding", "flatten", "gelu", "huber_loss", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "logsumexp", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "relu", "sigmoid", "silu",
    "smooth_l1_loss", "softmax", "softplus", "tanh", "unflatten",
]  # fmt: skip


# -- layers -------------------------------------------------------------------------------------------


def dropout(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """x · m / (1 - p), m being 0 with probability p and 1 otherwise; x itself when not `training`.

    The mask comes from `dc.manual_seed`'s stream. `inplace` is accepted and changes nothing. (Srivastava et al., 2014)
    """
    if not 0 <= p <= 1:
        raise ArgumentError("dropout's p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
    if not training or p == 0:
        return input
    xp = input.backend
    mask = random.raw_bernoulli(xp, None, input.shape, 1 - p).astype(input.dtype)
    if p < 1:
        mask *= 1 / (1 - p)
    return input * from_raw(mask, xp)


def batch_norm(
    input,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """(x - E[x]) / √(Var[x] + eps) · weight + bias per channel (dimension 1).

    `training`: E and Var are the batch's, and the running ones, if given, move towards them in place,
    running = (1 - momentum) · running + momentum · batch, with the unbiased variance. Otherwise E and Var are the
    running ones. (Ioffe and Szegedy, 2015)
    """
    shape = input.shape
    if len(shape) < 2:
        raise ShapeError("batch_norm needs a batch and a channel dimension", received=f"shape {shape}")
    axes = (0, *range(2, len(shape)))
    along = (1, -1) + (1,) * (len(shape) - 2)
    if training and not input.numel():
        centred, variance = input, input.new_ones(())  # no statistics, and the running ones stay as they are
    elif training:
        count = shape[0] * _size(shape[2:])
        if count == 1:
            raise ShapeError(
                "batch norm in training needs more than one value per channel",
                received=f"shape {shape}",
                fix="a larger batch (drop_last=True in the DataLoader), or model.eval()",
            )
        average = mean(input, axes, keepdim=True)
        centred = input - average
        variance = mean(square(centred), axes, keepdim=True)
        if running_mean is not None and running_var is not None:
            mode.enter(_move_towards, running_mean, average, momentum)
            mode.enter(_move_towards, running_var, variance, momentum, count / (count - 1))
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm outside training needs running_mean and running_var")
        centred = input - running_mean.reshape(along)
        variance = running_var.reshape(along)
    scale = rsqrt(variance + eps)
    if weight is not None:
        scale = scale * weight.reshape(along)
    out = centred * scale
    return out if bias is None else out + bias.reshape(along)


def _move_towards(running: Tensor, batch: Tensor, momentum: float, factor: float = 1.0) -> None:
    """running ← (1 - momentum) · running + momentum · factor · batch."""
    raw = running._data
    raw *= 1 - momentum
    raw += batch._data.reshape(raw.shape) * (momentum * factor)
    running.bump_version()


def layer_norm(input, normalized_shape, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5):
    """(x - E[x]) / √(Var[x] + eps) · weight + bias over the trailing dimensions `normalized_shape`.

    (Ba, Kiros and Hinton, 2016)
    """
    sizes = (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(
            f"layer_norm normalises trailing dimensions {sizes}",
            expected="shape (*, " + ", ".join(map(str, sizes)) + ")",
            received=f"shape {input.shape}",
            fix=f"nn.LayerNorm({input.shape[-1]}) takes this input" if input.shape else None,
        )
    axes = tuple(range(-len(sizes), 0))
    centred = input - mean(input, axes, keepdim=True)
    out = centred * rsqrt(mean(square(centred), axes, keepdim=True) + eps)
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias


def normalize(input, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖ₚ, eps) along `dim`."""
    if p == float("inf"):
        norm = amax(abs_(input), dim, keepdim=True)
    elif p == 0:
        norm = sum_((input != 0).to(input.dtype), dim, keepdim=True)
    else:
        total = sum_(square(input) if p == 2 else pow_(abs_(input), p), dim, keepdim=True)
        nonzero = total > 0  # the root's slope at 0 is infinite
        norm = where(nonzero, pow_(where(nonzero, total, 1.0), 1.0 / p), 0.0)
    return input / clamp(norm, min=eps)


# -- losses -------------------------------------------------------------------------------------------


def _reduced(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum_(loss)
    _check_reduction(reduction)
    return loss


def _check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ArgumentError("unknown reduction", expected='"mean", "sum" or "none"', received=repr(reduction))


def _same_shape(name: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ShapeError(
            f"{name}: input and target have different shapes, and a loss does not broadcast",
            expected=f"target of shape {input.shape}",
            received=f"shape {target.shape}",
            fix=_shape_fix(input.shape, target.shape),
        )


def _shape_fix(shape: tuple[int, ...], target: tuple[int, ...]) -> str:
    for longer, name in ((shape, "target.unsqueeze({})"), (target, "target.squeeze({})")):
        shorter = target if longer is shape else shape
        if len(longer) == len(shorter) + 1:
            for dim in reversed(range(len(longer))):
                if longer[dim] == 1 and longer[:dim] + longer[dim + 1 :] == shorter:
                    return name.format(dim)
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


def mse_loss(input, target, reduction: str = "mean") -> Tensor:
    """(input - target)², averaged, summed or as it is. Shapes must be equal."""
    _same_shape("mse_loss", input, target)
    return _reduced(square(input - target), reduction)


def l1_loss(input, target, reduction: str = "mean") -> Tensor:
    """|input - target|, averaged, summed or as it is. Shapes must be equal."""
    _same_shape("l1_loss", input, target)
    return _reduced(abs_(input - target), reduction)


def smooth_l1_loss(input, target, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = input - target. (Girshick, 2015)"""
    _same_shape("smooth_l1_loss", input, target)
    if beta < 0:
        raise ArgumentError("smooth_l1_loss: beta cannot be negative", received=f"beta={beta}")
    size = abs_(input - target)
    if beta == 0:
        return _reduced(size, reduction)
    return _reduced(where(size < beta, square(size) * (0.5 / beta), size - 0.5 * beta), reduction)


def huber_loss(input, target, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere; d = input - target. (Huber, 1964)"""
    _same_shape("huber_loss", input, target)
    if delta <= 0:
        raise ArgumentError("huber_loss: delta is positive", received=f"delta={delta}")
    size = abs_(input - target)
    return _reduced(where(size <= delta, square(size) * 0.5, (size - 0.5 * delta) * delta), reduction)


def binary_cross_entropy(input, target, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """-[y·log x + (1 - y)·log(1 - x)] on probabilities x in [0, 1]; the logarithms are held at -100 or above.

    From a sigmoid, `binary_cross_entropy_with_logits` on its input is faster and more exact.
    """
    _same_shape("binary_cross_entropy", input, target)
    raw, xp = input._data, input.backend
    if raw.size and not bool(xp.logical_and(raw >= 0, raw <= 1).all()):
        raise ArgumentError(
            "binary_cross_entropy takes probabilities",
            expected="0 ≤ input ≤ 1",
            received=f"values from {raw.min().item():.4g} to {raw.max().item():.4g}",
            fix="for logits use binary_cross_entropy_with_logits (BCEWithLogitsLoss)",
        )
    loss = neg(target * _bounded_log(input) + (1 - target) * _bounded_log1m(input))
    return _reduced(loss if weight is None else loss * weight, reduction)


def _bounded_log(x: Tensor) -> Tensor:
    # log's slope at 0 would turn a zero gradient into NaN, so 0 is taken out first.
    positive = x > 0
    return clamp(where(positive, log(where(positive, x, 1.0)), -100.0), min=-100.0)


def _bounded_log1m(x: Tensor) -> Tensor:
    below = x < 1
    return clamp(where(below, log1p(neg(where(below, x, 0.0))), -100.0), min=-100.0)


def binary_cross_entropy_with_logits(
    input, target, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None
) -> Tensor:
    """-[p·y·log σ(x) + (1 - y)·log(1 - σ(x))] on logits x, without ever forming σ(x).

    `pos_weight` p weighs the positive class, `weight` each element; both broadcast.
    """
    _same_shape("binary_cross_entropy_with_logits", input, target)
    log_sigmoid = logsigmoid(input)
    if pos_weight is not None:
        log_sigmoid = log_sigmoid * ((pos_weight - 1) * target + 1)
    loss = (1 - target) * input - log_sigmoid
    return _reduced(loss if weight is None else loss * weight, reduction)


def nll_loss(input, target, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-weight[y] · input[y] on log-probabilities, averaged (by the sum of weights), summed or as it is.

    `input` (C,), (N, C) or (N, C, d₁, …), `target` the class numbers, without the class dimension; positions with
    `ignore_index` count nothing.
    """
    _check_reduction(reduction)
    dim = _class_dim("nll_loss", input, target)
    valid, weights = _class_weights("nll_loss", input, target, weight, ignore_index, dim)
    return _nll(input, target, valid, weights, dim, reduction)


def _class_dim(name: str, input: Tensor, target: Tensor) -> int:
    """The class dimension, once input and class numbers are known to fit."""
    if not input.shape:
        raise ShapeError(f"{name} takes one score per class", expected="shape (N, C)", received="shape ()")
    if not dt.is_integer(target.dtype):
        raise DTypeError(
            f"{name}: class numbers are integers",
            received=f"target of dtype {dt.name_of(target.dtype)}",
            fix="target.to(dc.int64)",
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


def _class_weights(name, input, target, weight, ignore_index, dim):
    """(raw mask of what counts, or None for all; raw weight per target, or None for 1)."""
    xp, raw, classes = input.backend, target._data, input.shape[dim]
    valid = None
    if raw.size:
        low, high = raw.min().item(), raw.max().item()
        if low < 0 or high >= classes or low <= ignore_index <= high:
            valid = raw != ignore_index
            bad = xp.logical_and(valid, xp.logical_or(raw < 0, raw >= classes))
            if bool(bad.any()):
                raise _bad_class(name, input, target, bad)
    if weight is None:
        return valid, None
    if weight.shape != (classes,):
        raise ShapeError(
            f"{name}: weight has one entry per class", expected=f"shape ({classes},)", received=f"shape {weight.shape}"
        )
    picked = weight._data[raw if valid is None else xp.where(valid, raw, 0)]
    return valid, picked if valid is None else xp.where(valid, picked, xp.zeros((), dtype=weight.dtype))


def _bad_class(name, input, target, bad) -> IndexRangeError:
    flat = int(target.backend.argmax(bad.reshape(-1)).item())
    value = target._data.reshape(-1)[flat].item()
    position = []
    for n in reversed(target.shape):
        flat, at = divmod(flat, n)
        position.append(at)
    classes = input.shape[1 if len(input.shape) > 1 else 0]
    where_ = f"target[{', '.join(map(str, reversed(position)))}]" if position else "target"
    fix = f"the model's last layer needs at least {value + 1} outputs" if value >= classes else "labels start at 0"
    if value == classes:
        fix += ", or the labels start at 1: target - 1"
    return IndexRangeError(
        f"{name}: class {value} at {where_} is out of range",
        expected=f"0 … {classes - 1}, for {classes} classes",
        received=str(value),
        fix=fix,
    )


def _nll(log_probs, target, valid, weights, dim, reduction) -> Tensor:
    xp = log_probs.backend
    index = target.detach()
    if valid is not None:
        index = from_raw(xp.where(valid, target._data, 0), xp)
    if index.dtype != dt.int64:
        index = index.to(dt.int64)
    loss = neg(squeeze(_gather(log_probs, unsqueeze(index, dim), dim=dim), dim))
    return _weighted(loss, valid, weights, reduction)


def _weighted(loss, valid, weights, reduction) -> Tensor:
    """Apply mask and weights, then reduce; the mean divides by the sum of the weights."""
    xp = loss.backend
    if weights is not None:
        loss = loss * from_raw(weights.astype(loss.dtype), xp)
    if valid is not None:
        loss = where(from_raw(valid, xp), loss, 0.0)
    if reduction != "mean" or (valid is None and weights is None):
        return _reduced(loss, reduction)
    total = weights.sum() if weights is not None else valid.sum()
    return sum_(loss) / from_raw(xp.asarray(total).astype(loss.dtype), xp)


class ProbabilityCheck:
    """Looks at the first few inputs of a cross-entropy, and warns once if they are probabilities."""

    def __init__(self, calls: int = 3):
        self.calls_left = calls

    def look(self, input: Tensor, dim: int) -> None:
        self.calls_left -= 1
        raw = input._data
        if not raw.size or raw.shape[dim] < 2 or not dt.is_floating(raw.dtype):
            return
        if raw.min().item() >= 0 and abs(raw.sum(axis=dim) - 1).max().item() < 1e-3:
            self.calls_left = 0
            warn_user(
                "cross_entropy takes logits, and was given probabilities (no entry is negative, and every row sums "
                "to 1): the softmax inside is then applied a second time, and training is slow or stalls. Remove the "
                "Softmax before the loss, or use NLLLoss on log-probabilities."
            )


_first_calls = ProbabilityCheck()


def cross_entropy(
    input,
    target,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    _check: ProbabilityCheck = _first_calls,
) -> Tensor:
    """-weight[y] · log softmax(x)[y]: `log_softmax` and `nll_loss` in one, on logits x.

    `input` (C,), (N, C) or (N, C, d₁, …). `target`: class numbers without the class dimension, or class probabilities
    of the input's shape. `label_smoothing` ε mixes the target with the uniform one, (1 - ε)·y + ε/C. The mean is over
    the sum of weights of the positions that are not `ignore_index`; with probabilities, over all positions.
    """
    _check_reduction(reduction)
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
        dim = _class_dim("cross_entropy", input, target)
    if _check.calls_left > 0:
        _check.look(input, dim)
    classes = input.shape[dim]
    along = (-1,) + (1,) * (len(input.shape) - 1 - dim)
    if probabilities:
        if label_smoothing:
            target = target * (1 - label_smoothing) + label_smoothing / classes
        log_probs = log_softmax(input, dim)
        if weight is not None:
            log_probs = log_probs * weight.reshape(along)
        return _reduced(neg(sum_(log_probs * target, dim)), reduction)
    valid, weights = _class_weights("cross_entropy", input, target, weight, ignore_index, dim)
    log_probs = log_softmax(input, dim)
    loss = _nll(log_probs, target, valid, weights, dim, reduction)
    if not label_smoothing:
        return loss
    spread = log_probs if weight is None else log_probs * weight.reshape(along)
    smooth = neg(sum_(spread, dim))
    if valid is not None:
        smooth = where(from_raw(valid, input.backend), smooth, 0.0)
    if reduction == "mean" and (weights is not None or valid is not None):
        total = weights.sum() if weights is not None else valid.sum()
        smooth = sum_(smooth) / from_raw(input.backend.asarray(total).astype(input.dtype), input.backend)
    else:
        smooth = _reduced(smooth, reduction)
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / classes)
