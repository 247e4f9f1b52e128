"""`nn.functional`: layers and losses as functions. Activations and the like are the ops themselves."""

from __future__ import annotations

import math

from deepcore import random
from deepcore.autograd import apply, constant, mixed_backends, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, DTypeError, IndexRangeError, ShapeError
from deepcore.kernels import watch
from deepcore.nn.notify import warn_user
from deepcore.ops import losses
from deepcore.ops.elementwise import (
    _weigh,
    clamp,
    elu,
    gelu,
    leaky_relu,
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
from deepcore.ops.elementwise import abs as abs_
from deepcore.ops.elementwise import pow as pow_
from deepcore.ops.index import _gather, embedding, one_hot, within, write
from deepcore.ops.linalg import linear
from deepcore.ops.reduce import amax, log_softmax, logsumexp, mean, softmax
from deepcore.ops.reduce import sum as sum_
from deepcore.ops.registry import fused, primitive, takes_arrays
from deepcore.ops.shape import flatten, pad, squeeze, stack, unflatten, unsqueeze
from deepcore.tensor import Tensor, from_raw

__all__ = [
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "dropout", "elu",
    "embedding", "flatten", "gelu", "huber_loss", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "logsumexp", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "relu", "rms_norm", "sigmoid", "silu",
    "smooth_l1_loss", "softmax", "softplus", "tanh", "unflatten",
]  # fmt: skip


# -- primitives ---------------------------------------------------------------------------------------


def _dropout_again(g, seed, stream, position, p):
    return _dropout(g, seed=seed, stream=stream, position=position, p=p)


@primitive(vjp=_dropout_again)
def _dropout(xp, input, *, seed, stream, position, p):
    """input · m / (1 - p), where m is drawn anew, forward and backward, from the generator's numbers at `position`."""
    threshold = round((1 - p) * 2**32)
    bits = random.bits_at(xp, seed, stream, position, input.size).reshape(input.shape)
    mask = xp.asarray(bits < threshold if threshold < 1 << 32 else bits == bits).astype(input.dtype)
    if p < 1:
        mask *= 1 / (1 - p)
    return input * mask


def _dims_behind(t: Tensor, rank: int) -> tuple[int, ...]:
    return tuple(range(t.ndim - rank, t.ndim))


def _centred(input: Tensor, dims) -> tuple[Tensor, Tensor]:
    """(x - E[x], its mean square) over `dims`."""
    centred = input - mean(input, dims, keepdim=True)
    return centred, mean(square(centred), dims, keepdim=True)


def _norm_grads(g, centred, rstd, weight, dims, over, affine: int, has_mean: bool = True):
    """Gradients of (x - mean)·rstd·weight + bias, statistics included: of x, of weight, of bias.

    The statistics run over `dims`, the gradients of weight and bias over `over`, dropping those dimensions.
    """
    xhat = centred * rstd
    scaled = g if weight is None else g * weight
    inner = scaled - xhat * mean(scaled * xhat, dims, keepdim=True)
    if has_mean:
        inner = inner - mean(scaled, dims, keepdim=True)
    affine_grads = (g * xhat, g)[:affine]
    return inner * rstd, *(sum_(each, over) if over else each for each in affine_grads)  # sum over () is over all


@primitive()
def _probabilities(xp, input):
    """input, once it is known to be probabilities."""
    if input.size and not bool(xp.logical_and(input >= 0, input <= 1).all()):
        raise ArgumentError(
            "binary_cross_entropy takes probabilities",
            expected="0 ≤ input ≤ 1",
            received=f"values from {input.min().item():.4g} to {input.max().item():.4g}",
            fix="for logits use binary_cross_entropy_with_logits (BCEWithLogitsLoss)",
        )
    return input


@fused
def layer_norm_grad(g, input, statistics, weight=None, *, rank, eps, affine):
    """The gradients of input, and as far as `affine` counts, of weight and bias. `statistics`: rstd and mean of the rows."""
    dims = _dims_behind(input, rank)
    centred, variance = _centred(input, dims)
    return _norm_grads(g, centred, rsqrt(variance + eps), weight, dims, tuple(range(input.ndim - rank)), affine)


@fused
def rms_norm_grad(g, input, statistics, weight=None, *, rank, eps, affine):
    """The same of an RMS norm."""
    dims = _dims_behind(input, rank)
    rstd = rsqrt(mean(square(input), dims, keepdim=True) + eps)
    return _norm_grads(g, input, rstd, weight, dims, tuple(range(input.ndim - rank)), affine, has_mean=False)


def _layer_norm_joint(g, input, weight, bias, aux, rank, eps, needs):
    statistics = from_raw(aux[0], g.backend)
    grads = layer_norm_grad(g, input, statistics, weight, rank=rank, eps=eps, affine=len(needs) - 1)
    return (*grads, None, None)


@primitive(joint=_layer_norm_joint)
def _layer_norm(xp, input, weight=None, bias=None, *, rank, eps):
    dims = tuple(range(input.ndim - rank, input.ndim))
    count = math.prod(input.shape[-rank:])
    average = xp.sum(input, dims, True) / count
    centred = input - average
    rstd = 1 / xp.sqrt(xp.sum(centred * centred, dims, True) / count + eps)
    out = centred * rstd
    if weight is not None:
        out = out * weight
    return out if bias is None else out + bias, xp.stack([rstd.reshape(-1), average.reshape(-1)])


def _rms_norm_joint(g, input, weight, aux, rank, eps, needs):
    statistics = from_raw(aux[0], g.backend)
    grads = rms_norm_grad(g, input, statistics, weight, rank=rank, eps=eps, affine=len(needs) - 1)
    return (*grads, None)


@primitive(joint=_rms_norm_joint)
def _rms_norm(xp, input, weight=None, *, rank, eps):
    dims = tuple(range(input.ndim - rank, input.ndim))
    rstd = 1 / xp.sqrt(xp.sum(input * input, dims, True) / math.prod(input.shape[-rank:]) + eps)
    out = input * rstd
    return out if weight is None else out * weight, rstd.reshape(1, -1)


def _channels(t: Tensor, row: Tensor) -> Tensor:
    """A number per channel as it broadcasts along dimension 1 of t."""
    return row.reshape((-1,) + (1,) * (t.ndim - 2))


def _dims_but_channels(t) -> tuple[int, ...]:
    return (0, *range(2, t.ndim))


@fused
def batch_statistics(input, *, eps):
    """Of every channel, three rows: mean, variance (divisor n) and 1/√(variance + eps)."""
    dims = _dims_but_channels(input)
    average = mean(input, dims, keepdim=True)
    variance = mean(square(input - average), dims)
    return stack([average.reshape(-1), variance, rsqrt(variance + eps)])


@fused
def batch_norm_grad(g, input, statistics, weight=None, *, batch, affine, eps):
    """The gradients of input, and as far as `affine` counts, of weight and bias; `batch`: the statistics are input's own."""
    dims = _dims_but_channels(input)
    if weight is not None:
        weight = _channels(input, weight)
    if batch:
        centred, variance = _centred(input, dims)
        return _norm_grads(g, centred, rsqrt(variance + eps), weight, dims, dims, affine)
    rstd = _channels(input, statistics[2])
    xhat = (input - _channels(input, statistics[0])) * rstd
    scaled = g if weight is None else g * weight
    return scaled * rstd, *((sum_(g * xhat, dims), sum_(g, dims))[:affine])


def _batch_norm_joint(g, input, statistics, weight, bias, batch, eps, needs):
    grads = batch_norm_grad(g, input, statistics, weight, batch=batch, affine=len(needs) - 2, eps=eps)
    return grads[0], None, *grads[1:]


@primitive(joint=_batch_norm_joint)
def _batch_norm(xp, input, statistics, weight=None, bias=None, *, batch, eps):
    along = (-1,) + (1,) * (input.ndim - 2)
    scale = statistics[2] if weight is None else statistics[2] * weight
    out = (input - statistics[0].reshape(along)) * scale.reshape(along)
    return out if bias is None else out + bias.reshape(along)


def _cross_entropy_vjp(g, input, target, weight, aux, dim, ignore_index, smoothing, reduction):
    """The gradient that the forward has ready, times g; or, to be differentiated again, softmax · k - constants."""
    xp = g.backend
    if reduction == "none":
        g = unsqueeze(g, dim)
    if not mode.grad:
        return Tensor(aux[0], xp) * g
    raw, classes = target._data, input.shape[dim]
    k, constants, _ = _class_terms(
        xp, raw, None if weight is None else weight._data, classes, dim, input.ndim, ignore_index, smoothing,
        reduction == "mean", input.dtype,
    )  # fmt: skip
    return (_weigh(from_raw(k, xp), softmax(input, dim)) - from_raw(constants, xp)) * g


def _class_terms(xp, target, weight, classes, dim, rank, ignore_index, smoothing, mean, dtype):
    """(k, constants, Σ weight): the losses are -Σ constants · log softmax, their gradients k · softmax - constants.

    With `mean` both are divided by the sum of the weights that count.
    """
    valid = xp.expand_dims(target != ignore_index, dim)
    numbers = xp.arange(classes).reshape((-1,) + (1,) * (rank - 1 - dim))
    chosen = (numbers == xp.expand_dims(target, dim)).astype(dtype)
    weights = xp.ones((classes,), dtype=dtype) if weight is None else weight.astype(dtype)
    weights = weights.reshape(numbers.shape)
    constants = (chosen * (1 - smoothing) + smoothing / classes) * weights
    constants = xp.where(valid, constants, xp.zeros((), dtype=dtype))
    total = xp.sum(xp.where(valid, chosen * weights, xp.zeros((), dtype=dtype)))
    if mean:
        constants = constants / xp.where(total == 0, xp.ones_like(total), total)
    return xp.sum(constants, (dim,), True), constants, total


@primitive(vjp=(_cross_entropy_vjp, None, None))
def _cross_entropy(xp, input, target, weight=None, *, dim, ignore_index, smoothing, reduction, recorded):
    """The loss, and where it is recorded the gradient of the rows' sum or mean: softmax less what it should be."""
    _check_classes(xp, input, target, dim, ignore_index)
    shifted = input - xp.amax(input, axis=dim, keepdims=True)
    powers = xp.exp(shifted)
    sums = xp.sum(powers, (dim,), True)
    k, constants, total = _class_terms(
        xp, target, weight, input.shape[dim], dim, input.ndim, ignore_index, smoothing, False, input.dtype
    )
    # Where nothing counts, an infinite logarithm must not either.
    terms = xp.where(constants == 0, xp.zeros((), dtype=input.dtype), constants * (xp.log(sums) - shifted))
    loss = xp.sum(terms, (dim,) if reduction == "none" else None)
    if reduction == "mean":
        loss = loss / total
    if not recorded:
        return loss
    grads = xp.where(k == 0, xp.zeros((), dtype=input.dtype), powers / sums * k) - constants
    if reduction == "mean":
        grads = grads / xp.where(total == 0, xp.ones_like(total), total)
    return loss, grads


def _check_classes(xp, input, target, dim: int, ignore_index: int) -> None:
    classes = input.shape[dim]
    bad = xp.logical_and(target != ignore_index, xp.logical_or(target < 0, target >= classes))
    if bool(bad.any()):
        raise _bad_class("cross_entropy", Tensor(input, xp), Tensor(target, xp), bad)


# -- layers -------------------------------------------------------------------------------------------


@takes_arrays
def dropout(input, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """x · m / (1 - p), m being 0 with probability p and 1 otherwise; x itself when not `training`.

    The mask comes from `dc.manual_seed`'s stream. `inplace` is accepted and changes nothing. (Srivastava et al., 2014)
    """
    if not 0 <= p <= 1:
        raise ArgumentError("dropout's p is a probability", expected="0 ≤ p ≤ 1", received=f"p={p!r}")
    if not training or p == 0:
        return constant("dropout", input)
    if not dt.is_floating(input.dtype):
        raise DTypeError(
            "dropout scales what it keeps by 1 / (1 - p), which integers cannot hold",
            expected="a floating tensor",
            received=dt.name_of(input.dtype),
            fix="drop after the embedding or the first layer, or convert: x.float()",
        )
    seed, stream, position = random.default_generator.advance(-(-input.numel() // 4))
    return _dropout(input, seed=seed, stream=stream, position=position, p=p)


@takes_arrays
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
    if _narrow("batch_norm", input):
        weight, bias = _widened(weight), _widened(bias)
        out = batch_norm(_widened(input), running_mean, running_var, weight, bias, training, momentum, eps)
        return out.to(input.dtype)
    size = input.numel()
    if training and size:
        count = size // shape[1]
        if count == 1:
            raise ShapeError(
                "batch norm by the batch's own statistics needs more than one value per channel",
                received=f"shape {shape}",
                fix="a larger batch (drop_last=True in the DataLoader)"
                + ("" if running_mean is None else ", or model.eval(), which uses the running statistics"),
            )
        statistics = batch_statistics(input.detach(), eps=eps)
        if running_mean is not None and running_var is not None:
            keep = 1 - momentum
            for running, row, take in ((running_mean, 0, momentum), (running_var, 1, momentum * count / (count - 1))):
                batch = from_raw(statistics._data[row], input.backend)
                write(running, apply(_moved, (running, batch), {"keep": keep, "take": take}))
    elif training:  # no statistics, and the running ones stay as they are
        statistics = from_raw(input.backend.ones((3, shape[1]), dtype=input.dtype), input.backend)
    else:
        if running_mean is None or running_var is None:
            raise ArgumentError("batch_norm outside training needs running_mean and running_var")
        known = running_mean.detach(), running_var.detach()
        statistics = apply(_running_statistics, known, {"dtype": input.dtype, "eps": eps})
    return _with_parameters(_batch_norm, (input, statistics), weight, bias, (shape[1],), 1, batch=training, eps=eps)


@primitive(vjp=(None, None))
def _moved(xp, running, batch, *, keep, take):
    """keep · running + take · batch"""
    return running * keep + (batch * take).astype(running.dtype, copy=False)


@primitive(vjp=(None, None))
def _running_statistics(xp, mean, variance, *, dtype, eps):
    """Mean, variance and 1/√(variance + eps) as three rows."""
    return xp.stack([mean, variance, 1 / xp.sqrt(variance + eps)]).astype(dtype, copy=False)


# What each dtype's 1 and the next number differ by.
_EPS = {dt.float16: 2.0**-10, dt.bfloat16: 2.0**-7, dt.float32: 2.0**-23, dt.float64: 2.0**-52}


def _narrow(name: str, input: Tensor) -> bool:
    """Whether the input is float16 or bfloat16, whose norms are computed in float32 and rounded once."""
    dtype = input.dtype
    if dtype == dt.float32 or dtype == dt.float64:
        return False
    if not dt.is_floating(dtype):
        raise DTypeError(f"{name} needs a floating tensor", received=dt.name_of(dtype), fix="input.float()")
    return dtype.itemsize == 2


def _widened(t):
    return t if t is None or t.dtype.itemsize > 2 else t.to(dt.float32)


def _like(t: Tensor, input: Tensor, shape: tuple) -> bool:
    raw = t._data
    return raw.shape == shape and raw.dtype == input._data.dtype


def _with_parameters(op, inputs: tuple, weight: Tensor | None, bias: Tensor | None, shape: tuple, dim: int, **params):
    """op(*inputs, weight, bias) where those are of its kind; else they follow as ops of their own."""
    first = inputs[0]
    if weight is not None and _like(weight, first, shape) and (bias is None or _like(bias, first, shape)):
        return apply(op, (*inputs, weight) if bias is None else (*inputs, weight, bias), params)
    out = apply(op, inputs, params)
    if weight is None and bias is None:
        return out
    along = (*shape, *(1,) * (first.ndim - dim - len(shape)))
    if weight is not None:
        out = out * weight.reshape(along)
    return out if bias is None else out + bias.reshape(along)


def as_sizes(normalized_shape) -> tuple:
    """One size, or several, as a tuple."""
    return (normalized_shape,) if hasattr(normalized_shape, "__index__") else tuple(normalized_shape)


def _trailing(name: str, input: Tensor, normalized_shape) -> tuple[int, ...]:
    """`normalized_shape` as a tuple, once it is known to fit."""
    sizes = as_sizes(normalized_shape)
    if not sizes or input.shape[-len(sizes) :] != sizes:
        raise ShapeError(
            f"{name} normalises trailing dimensions {sizes}",
            expected="shape (*, " + ", ".join(map(str, sizes)) + ")",
            received=f"shape {input.shape}",
            fix=f"nn.{'LayerNorm' if name == 'layer_norm' else 'RMSNorm'}({input.shape[-1]}) takes this input"
            if input.shape
            else None,
        )
    return sizes


@takes_arrays
def layer_norm(input, normalized_shape, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5):
    """(x - E[x]) / √(Var[x] + eps) · weight + bias over the trailing dimensions `normalized_shape`.

    (Ba, Kiros and Hinton, 2016)
    """
    sizes = _trailing("layer_norm", input, normalized_shape)
    if _narrow("layer_norm", input):
        return layer_norm(_widened(input), sizes, _widened(weight), _widened(bias), eps).to(input.dtype)
    return _with_parameters(
        _layer_norm, (input,), weight, bias, sizes, input.ndim - len(sizes), rank=len(sizes), eps=eps
    )


@takes_arrays
def rms_norm(input, normalized_shape, weight: Tensor | None = None, eps: float | None = None):
    """x / √(E[x²] + eps) · weight over the trailing dimensions `normalized_shape`.

    eps is the dtype's own (2⁻²³ for float32) unless given. (Zhang and Sennrich, 2019)
    """
    sizes = _trailing("rms_norm", input, normalized_shape)
    if eps is None:
        eps = _EPS.get(input.dtype, 0.0)
    if _narrow("rms_norm", input):
        return rms_norm(_widened(input), sizes, _widened(weight), eps).to(input.dtype)
    return _with_parameters(_rms_norm, (input,), weight, None, sizes, input.ndim - len(sizes), rank=len(sizes), eps=eps)


@takes_arrays
def normalize(input, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖ₚ, eps) along `dim`."""
    if p == float("inf"):
        norm = amax(abs_(input), dim, keepdim=True)
    elif p == 0:
        norm = sum_((input != 0).to(input.dtype), dim, keepdim=True)
    elif input.ndim and input.shape[dim] == 1:
        norm = abs_(input)  # without the rounding of powers
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
    for longer, shorter in ((shape, target), (target, shape)):
        if len(longer) == len(shorter) + 1:
            for dim in reversed(range(len(longer))):
                if longer[dim] == 1 and longer[:dim] + longer[dim + 1 :] == shorter:
                    # Of tensors and of arrays, which have no unsqueeze.
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


@takes_arrays
def mse_loss(input, target, reduction: str = "mean") -> Tensor:
    """(input - target)², averaged, summed or as it is. Shapes must be equal."""
    _same_shape("mse_loss", input, target)
    return _reduced(losses.term(losses.mse, "numeric", input, target), reduction)


@takes_arrays
def l1_loss(input, target, reduction: str = "mean") -> Tensor:
    """|input - target|, averaged, summed or as it is. Shapes must be equal."""
    _same_shape("l1_loss", input, target)
    return _reduced(losses.term(losses.l1, "numeric", input, target), reduction)


@takes_arrays
def smooth_l1_loss(input, target, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere; d = input - target. (Girshick, 2015)"""
    _same_shape("smooth_l1_loss", input, target)
    if beta < 0:
        raise ArgumentError("smooth_l1_loss: beta cannot be negative", received=f"beta={beta}")
    if beta == 0:
        return l1_loss(input, target, reduction)
    return _reduced(losses.term(losses.smooth_l1, "float", input, target, beta=beta), reduction)


@takes_arrays
def huber_loss(input, target, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere; d = input - target. (Huber, 1964)"""
    _same_shape("huber_loss", input, target)
    if delta <= 0:
        raise ArgumentError("huber_loss: delta is positive", received=f"delta={delta}")
    return _reduced(losses.term(losses.huber, "float", input, target, delta=delta), reduction)


@takes_arrays
def binary_cross_entropy(input, target, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """-[y·log x + (1 - y)·log(1 - x)] on probabilities x in [0, 1]; the logarithms are held at -100 or above.

    From a sigmoid, `binary_cross_entropy_with_logits` on its input is faster and more exact.
    """
    _same_shape("binary_cross_entropy", input, target)
    _probabilities(input.detach())
    loss = losses.term(losses.bce, "float", input, target)
    return _reduced(loss if weight is None else _weigh(weight, loss), reduction)


@takes_arrays
def binary_cross_entropy_with_logits(
    input, target, weight: Tensor | None = None, reduction: str = "mean", pos_weight: Tensor | None = None
) -> Tensor:
    """-[p·y·log σ(x) + (1 - y)·log(1 - σ(x))] on logits x, without ever forming σ(x).

    `pos_weight` p weighs the positive class, `weight` each element; both broadcast.
    """
    _same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = losses.term(losses.bce_with_logits, "float", input, target)
    else:
        loss = losses.term(losses.bce_with_logits_weighted, "float", input, target, pos_weight)
    return _reduced(loss if weight is None else _weigh(weight, loss), reduction)


@takes_arrays
def nll_loss(input, target, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """-weight[y] · input[y] on log-probabilities, averaged (by the sum of weights), summed or as it is.

    `input` (C,), (N, C) or (N, C, d₁, …), `target` the class numbers, without the class dimension; positions with
    `ignore_index` count nothing.
    """
    _check_reduction(reduction)
    dim = _class_dim("nll_loss", input, target)
    valid, weights = _class_weights("nll_loss", input, target, weight, ignore_index, dim)
    return _nll(input, target, valid, weights, dim, reduction)


def _class_fix(name: str, input: Tensor, target: Tensor) -> str:
    """How to make class numbers of `target`, which is no integers."""
    if not dt.is_floating(input.dtype) and dt.is_floating(target.dtype):
        return f"give the scores first: {name}(scores, classes)"
    if dt.is_floating(target.dtype) and not bool(target.backend.isfinite(target._data).all()):
        return "some are NaN or infinite: leave samples without a label out, then target.to(dc.int64)"
    return "target.to(dc.int64)"


def _class_dim(name: str, input: Tensor, target: Tensor) -> int:
    """The class dimension, once input and class numbers are known to fit."""
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


def _class_weights(name, input, target, weight, ignore_index, dim):
    """(raw mask of what counts, or None for all; raw weight per target, or None for 1)."""
    xp, raw, classes = input.backend, target._data, input.shape[dim]
    valid = None
    if raw.size and (0 <= ignore_index < classes or not within(target, 0, classes)):
        valid = raw != ignore_index
        bad = xp.logical_and(valid, xp.logical_or(raw < 0, raw >= classes))
        if bool(bad.any()):
            raise _bad_class(name, input, target, bad)
    if weight is None:
        return valid, None
    if weight.shape != (classes,):
        raise _bad_weight(name, weight, classes)
    picked = xp.asarray(weight._data[raw if valid is None else xp.where(valid, raw, 0)])  # of one target: a number
    return valid, picked if valid is None else xp.where(valid, picked, xp.zeros((), dtype=weight.dtype))


def _bad_weight(name: str, weight: Tensor, classes: int) -> ShapeError:
    return ShapeError(
        f"{name}: weight has one entry per class", expected=f"shape ({classes},)", received=f"shape {weight.shape}"
    )


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
    xp, dtype = loss.backend, loss.dtype
    if dtype.itemsize == 2:  # a count or a sum of many may not fit
        loss = loss.to(dt.float32)
    if weights is not None:
        loss = _weigh(from_raw(weights.astype(loss.dtype), xp), loss)
    if valid is not None:
        loss = where(from_raw(valid, xp), loss, 0.0)
    if reduction != "mean" or (valid is None and weights is None):
        loss = _reduced(loss, reduction)
    else:
        total = valid.sum() if weights is None else xp.sum(weights.astype(loss.dtype))
        loss = sum_(loss) / from_raw(xp.asarray(total).astype(loss.dtype), xp)
    return loss if loss.dtype == dtype else loss.to(dtype)


class ProbabilityCheck:
    """Looks at the first few inputs of a cross-entropy, and warns once if they are probabilities."""

    def __init__(self, calls: int = 3):
        self.calls_left = calls

    def look(self, input: Tensor, dim: int) -> None:
        self.calls_left -= 1
        raw = watch.plain(input._data)  # it decides about a warning only
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


@takes_arrays
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
        if weight is not None:
            target = target * weight.reshape(along)
        return _reduced(neg(sum_(_weigh(target, log_softmax(input, dim)), dim)), reduction)
    if weight is not None and weight.shape != (classes,):
        raise _bad_weight("cross_entropy", weight, classes)
    if not dt.is_floating(input.dtype):
        input = input.to(dt.default_float)
    half = input.dtype if input.dtype.itemsize == 2 else None
    if half is not None:
        input = input.to(dt.float32)
    recorded = mode.grad and input.requires_grad
    inputs = (input, target) if weight is None else (input, target, weight.detach())
    params = {"dim": dim, "ignore_index": ignore_index, "smoothing": float(label_smoothing), "reduction": reduction}
    out = apply(_cross_entropy, inputs, {**params, "recorded": recorded})
    return out if half is None else out.to(half)
