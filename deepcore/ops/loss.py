"""The terms of losses, each one op forward and one backward, and the cross-entropy; `nn.functional` reduces them."""

from __future__ import annotations

import functools

from deepcore.autograd import apply, mode
from deepcore.backend import dtypes as dt
from deepcore.errors import ArgumentError, IndexRangeError
from deepcore.ops.activation import logsigmoid, sigmoid, softplus
from deepcore.ops.arithmetic import abs as abs_
from deepcore.ops.arithmetic import neg, sign, weigh
from deepcore.ops.batching import spread
from deepcore.ops.comparison import clamp, where
from deepcore.ops.exponential import log, log1p
from deepcore.ops.registry import Tensor, fused, gradient, primitive, promote, saved_array
from deepcore.ops.shape import unsqueeze
from deepcore.ops.softmax import softmax

_LEAST_LOG = -100.0


_LEAST_VARIANCE = 1e-12  # of x(1 - x) below a slope, as in PyTorch


def term(op, rule: str, *operands, **params) -> Tensor:
    """Apply the elementwise `op` to operands promoted to one dtype by `rule`."""
    dtypes = [t._data.dtype if isinstance(t, Tensor) else None for t in operands]
    same = dtypes[0] is not None and all(d is dtypes[0] for d in dtypes)
    if not same or (rule == "float" and not dt.is_floating(dtypes[0])):
        operands = promote(op.name, rule, *operands)
    return apply(op, operands, params)


def _in_float32(forward):
    """Decorator: a forward of (input, target) computes 16-bit floats in float32 and rounds once."""

    @functools.wraps(forward)
    def wide(xp, input, target, **params):
        if input.dtype.itemsize > 2 or not dt.is_floating(input.dtype):
            return forward(xp, input, target, **params)
        return forward(xp, input.astype(dt.float32), target.astype(dt.float32), **params).astype(input.dtype)

    return wide


def _sign(d):
    """The sign of a difference; NaN, as for equal infinities, stays NaN."""
    return where(d == d, sign(d), d)


@primitive(
    vjp=(lambda g, input, target: mse_grad(g, input, target), lambda g, input, target: neg(mse_grad(g, input, target))),
    batch="elementwise",
)
@_in_float32
def mse(xp, input, target):
    """(input - target)²"""
    d = xp.subtract(input, target)
    return d * d


@fused
def mse_grad(g, input, target):
    return g * ((input - target) * 2.0)


@primitive(
    vjp=(lambda g, input, target: l1_grad(g, input, target), lambda g, input, target: neg(l1_grad(g, input, target))),
    batch="elementwise",
)
@_in_float32
def l1(xp, input, target):
    """|input - target|"""
    return xp.absolute(xp.subtract(input, target))


@fused
def l1_grad(g, input, target):
    return g * _sign(input - target)


@primitive(
    vjp=(
        lambda g, input, target, beta: smooth_l1_grad(g, input, target, beta=beta),
        lambda g, input, target, beta: neg(smooth_l1_grad(g, input, target, beta=beta)),
    ),
    batch="elementwise",
)
@_in_float32
def smooth_l1(xp, input, target, *, beta):
    """½d²/beta where |d| < beta, |d| - ½beta elsewhere"""
    d = xp.absolute(xp.subtract(input, target))
    return xp.where(d < beta, d * d * (0.5 / beta), d - 0.5 * beta)


@fused
def smooth_l1_grad(g, input, target, *, beta):
    d = input - target
    return g * where(abs_(d) < beta, d * (1.0 / beta), _sign(d))


@primitive(
    vjp=(
        lambda g, input, target, delta: huber_grad(g, input, target, delta=delta),
        lambda g, input, target, delta: neg(huber_grad(g, input, target, delta=delta)),
    ),
    batch="elementwise",
)
@_in_float32
def huber(xp, input, target, *, delta):
    """½d² where |d| ≤ delta, delta · (|d| - ½delta) elsewhere"""
    d = xp.absolute(xp.subtract(input, target))
    return xp.where(d <= delta, d * d * 0.5, (d - 0.5 * delta) * delta)


@fused
def huber_grad(g, input, target, *, delta):
    d = input - target
    return g * where(abs_(d) < delta, d, _sign(d) * delta)


@primitive(
    vjp=(lambda g, input, target: bce_grad(g, input, target), lambda g, input: g * _bce_slope(input)),
    batch="elementwise",
)
@_in_float32
def bce(xp, input, target):
    """-[y·log x + (1 - y)·log(1 - x)], the logarithms clamped at -100"""
    rising = xp.maximum(xp.log(input), _LEAST_LOG)
    falling = xp.maximum(xp.log1p(xp.negative(input)), _LEAST_LOG)
    return xp.negative(target * rising + (1 - target) * falling)


@fused
def bce_grad(g, input, target):
    return g * ((input - target) / clamp(input * (1.0 - input), min=_LEAST_VARIANCE))


def _bce_slope(input):
    """The derivative of bce with respect to its target."""
    # The infinite slope of log at 0 would turn a zero gradient into NaN, so 0 is masked out first.
    positive, below = input > 0, input < 1
    rising = clamp(where(positive, log(where(positive, input, 1.0)), _LEAST_LOG), min=_LEAST_LOG)
    falling = clamp(where(below, log1p(neg(where(below, input, 0.0))), _LEAST_LOG), min=_LEAST_LOG)
    return falling - rising


@primitive(
    vjp=(
        lambda g, input, target: bce_with_logits_grad(g, input, target),
        lambda g, input: neg(weigh(g, input)),
    ),
    batch="elementwise",
)
@_in_float32
def bce_with_logits(xp, input, target):
    """-[y·log σ(x) + (1 - y)·log(1 - σ(x))]"""
    return _hinge(xp, input, 1 - target, target) + xp.log1p(xp.exp(xp.negative(xp.absolute(input))))


def _hinge(xp, x, above, below):
    """above·x where x > 0, -below·x elsewhere; 0 where the factor is 0, even for an infinite x."""
    factor = xp.where(x > 0, above, xp.negative(below))
    return xp.where(factor == 0, xp.zeros((), dtype=x.dtype), factor * x)


@fused
def bce_with_logits_grad(g, input, target):
    return g * (sigmoid(input) - target)


def _weighted_target_grad(g, input, positive):
    log_term = softplus(neg(abs_(input)))
    return weigh(g, (positive - 1.0) * log_term - weigh(where(input > 0, 1.0, positive), input))


@primitive(
    vjp=(
        lambda g, input, target, positive: bce_with_logits_weighted_grad(g, input, target, positive),
        lambda g, input, positive: _weighted_target_grad(g, input, positive),
        lambda g, input, target: neg(weigh(g, weigh(target, logsigmoid(input)))),
    ),
    batch="elementwise",
)
def bce_with_logits_weighted(xp, input, target, positive):
    """-[p·y·log σ(x) + (1 - y)·log(1 - σ(x))]"""
    dtype = input.dtype
    if dtype.itemsize == 2:
        input, target, positive = (x.astype(dt.float32) for x in (input, target, positive))
    negative, share = 1 - target, positive * target
    curve = xp.log1p(xp.exp(xp.negative(xp.absolute(input))))
    return (_hinge(xp, input, negative, share) + (negative + share) * curve).astype(dtype, copy=False)


@fused
def bce_with_logits_weighted_grad(g, input, target, positive):
    share = positive * target
    return g * ((1.0 - target + share) * sigmoid(input) - share)


@primitive(batch="trailing")
def probabilities(xp, input):
    """input, checked to be probabilities."""
    if input.size and not bool(xp.logical_and(input >= 0, input <= 1).all()):
        raise ArgumentError(
            "binary_cross_entropy takes probabilities",
            expected="0 ≤ input ≤ 1",
            received=f"values from {input.min().item():.4g} to {input.max().item():.4g}",
            fix="for logits use binary_cross_entropy_with_logits (BCEWithLogitsLoss)",
        )
    return input


@primitive(raises=True, batch="trailing")
def variances(xp, input):
    """input, checked to be variances."""
    if input.size and bool((input < 0).any()):
        raise ArgumentError(
            "gaussian_nll_loss: var is a variance",
            expected="var ≥ 0",
            received=f"{input.min().item():.4g}",
            fix="F.softplus(var), or exp of a network's output",
        )
    return input


def _cross_entropy_vjp(g, input, target, weight, aux, dim, ignore_index, smoothing, reduction):
    """The gradient saved by the forward, times g; for higher derivatives (softmax · k - constants) · g in ops."""
    xp = g.backend
    if reduction == "none":
        g = unsqueeze(g, dim)
    if not mode.grad:
        return saved_array(aux[0], xp) * g
    params = {"classes": input.shape[dim], "dim": dim, "rank": input.ndim, "ignore_index": ignore_index,
              "smoothing": smoothing, "mean": reduction == "mean", "dtype": input.dtype}  # fmt: skip
    k, constants = apply(class_terms, (target,) if weight is None else (target, weight), params)
    return (weigh(k, softmax(input, dim)) - constants) * g


@gradient
def class_terms(xp, target, weight=None, *, classes, dim, rank, ignore_index, smoothing, mean, dtype):
    """The first two results of `_class_terms`."""
    return _class_terms(xp, target, weight, classes, dim, rank, ignore_index, smoothing, mean, dtype)[:2]


def _class_terms(xp, target, weight, classes, dim, rank, ignore_index, smoothing, mean, dtype):
    """(k, constants, Σ weight): the losses are -Σ constants · log softmax, their gradients k · softmax - constants.

    With `mean` both are divided by the sum of the weights of targets that are not ignored.
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


def _cross_entropy_batch(op, inputs, mapped, params, size):
    """One call for the samples of all examples; sums and means are of each example."""
    if any(mapped[2:]) or not size:
        return NotImplemented
    (input, target), weight = spread(inputs[:2], mapped[:2], size), inputs[2:]
    has_batch, reduction = params["dim"] == 1, params["reduction"]
    fold = lambda t: t.reshape(t.shape[0] * t.shape[1], *t.shape[2:]) if has_batch else t
    result = apply(op, (fold(input), fold(target), *weight), {**params, "dim": 1, "reduction": "none"})
    loss, *grads = result if isinstance(result, tuple) else (result,)
    loss, grads = loss.reshape(target.shape), [t.reshape(input.shape) for t in grads]
    if reduction != "none":
        over = tuple(range(1, loss.ndim))
        loss = loss.sum(over) if over else loss
        if reduction == "mean":
            valid = target != params["ignore_index"]
            counts = (
                valid.to(loss.dtype) if not weight else where(valid, weight[0].detach()[where(valid, target, 0)], 0.0)
            )
            total = (counts.sum(over) if over else counts).to(loss.dtype)
            loss = loss / total
            each = where(total == 0, 1.0, total).reshape(size, *(1,) * (input.ndim - 1))
            grads = [t / each for t in grads]
    return (loss, *grads) if isinstance(result, tuple) else loss


@primitive(vjp=(_cross_entropy_vjp, None, None), raises=True, batch=_cross_entropy_batch)
def cross_entropy_p(xp, input, target, weight=None, *, dim, ignore_index, smoothing, reduction, recorded):
    """The loss, and with `recorded` the gradient of its sum or mean: softmax minus the target distribution."""
    _check_classes(xp, input, target, dim, ignore_index)
    shifted = input - xp.amax(input, axis=dim, keepdims=True)
    powers = xp.exp(shifted)
    sums = xp.sum(powers, (dim,), True)
    k, constants, total = _class_terms(
        xp, target, weight, input.shape[dim], dim, input.ndim, ignore_index, smoothing, False, input.dtype
    )
    # A zero weight must give a zero term even where the logarithm is infinite.
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
        raise bad_class("cross_entropy", Tensor(input, xp), Tensor(target, xp), bad)


def bad_class(name, input, target, bad) -> IndexRangeError:
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
